"""The team's capacity makes the cut-offs: as many leads get hot as can be worked."""

import numpy as np
import pytest
from worlds import table

from features import Dataset, UsageError
from features.times import US_PER_DAY, to_us
from models import Team
from training import Experiment
from training.capacity import arrivals_peaks, choose_tiers

DATASET = Dataset.from_frames(
    leads=table("""
        lead_id  created_at
        old      2026-01-01T00:00:00Z
        new      2026-02-03T00:00:00Z
        brief    2026-02-05T00:00:00Z
        won      2026-02-10T00:00:00Z
        last     2026-02-27T00:00:00Z
    """),
    outcomes=table("""
        lead_id  occurred_at           outcome
        brief    2026-02-07T12:00:00Z  lost
        won      2026-02-20T00:00:00Z  won
    """),
)
UNTIL = to_us("2026-03-01")


def days_old(cohort):
    """A probability that falls by a hundredth a day."""
    return 0.5 - (cohort.as_of - DATASET.created_at[cohort.lead]) / US_PER_DAY / 100


def test_the_peak_of_an_arrival_is_the_highest_that_a_weekly_look_found():
    # Looks on 1 March, 22, 15 and 8 February: new is 5 days old at the first of them, won 5; brief was gone by then.
    peaks = arrivals_peaks(DATASET, days_old, to_us("2026-02-01"), UNTIL)
    assert peaks.tolist() == pytest.approx([0.45, 0.45, 0.48])


def test_without_a_team_a_tenth_is_hot():
    probability = np.arange(100) / 100
    tiers = choose_tiers(DATASET, days_old, probability, Experiment(horizon_days=28), UNTIL)
    assert (tiers.of(probability) == 2).sum() == 10
    assert tiers.version == "2026-03-01"


def test_a_team_works_those_that_are_open_and_those_to_come():
    probability = np.arange(100) / 200
    team = Team(reps=1, calls_a_week=2.25)
    tiers = choose_tiers(DATASET, days_old, probability, Experiment(horizon_days=28, team=team), UNTIL)
    # 9 calls in four weeks: of those open 8 have .46 or more, and one of the last month's arrivals had.
    assert tiers.hot == pytest.approx(0.46)


def test_an_experiment_names_its_team(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text("horizon_days = 28\n[team]\nreps = 7\ncalls_a_week = 40\naverage_deal = 9000\n")
    assert Experiment.read(path).team == Team(reps=7, calls_a_week=40, average_deal=9000)
    path.write_text("[team]\nreps = 0\ncalls_a_week = 40\n")
    with pytest.raises(UsageError, match=r"Expected `int` >= 1 - at `\$.team.reps`"):
        Experiment.read(path)
