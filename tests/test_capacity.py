"""The team's capacity makes the cut-offs: no more leads get hot in a week than can be worked."""

import numpy as np
import pandas as pd
import pytest
from worlds import table

from features import Dataset, UsageError
from features.times import US_PER_DAY, to_us
from models import Team
from training import Experiment
from training.capacity import choose_tiers, weekly_looks

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
    return 0.9 - (cohort.as_of - DATASET.created_at[cohort.lead]) / US_PER_DAY / 100


def test_each_week_is_looked_at_as_it_was_known_then():
    """Looks on 8, 15 and 22 February and on 1 March: brief had come and gone, won was open for two of them."""
    nan = np.nan
    expected = [
        [0.52, 0.45, 0.38, 0.31],
        [0.85, 0.78, 0.71, 0.64],
        [nan, nan, nan, nan],
        [nan, 0.85, nan, nan],
        [nan, nan, nan, 0.88],
    ]
    assert weekly_looks(DATASET, days_old, UNTIL, 3).transpose() == pytest.approx(np.array(expected), nan_ok=True)


def test_what_was_recorded_later_was_not_known_at_a_look():
    late = Dataset.from_frames(
        leads=table("lead_id created_at\na 2026-02-01T00:00:00Z"),
        outcomes=table("lead_id occurred_at outcome recorded_at\na 2026-02-10T00:00:00Z lost 2026-02-20T00:00:00Z"),
    )
    looks = weekly_looks(late, lambda cohort: np.full(len(cohort), 0.1), UNTIL, 3)
    assert looks[:, 0].tolist() == pytest.approx([0.1, 0.1, np.nan, np.nan], nan_ok=True)


def test_without_a_team_a_tenth_is_hot():
    probability = np.arange(100) / 100
    tiers = choose_tiers(DATASET, days_old, probability, Experiment(horizon_days=28), UNTIL)
    assert (tiers.of(probability) == 2).sum() == 10
    assert tiers.version == "2026-03-01"


def test_a_team_gets_as_many_a_week_as_it_can_work():
    """In the eight weeks of the data new and won got as hot as .85, and last .88; old was at .87 when they began.

    That is three where 12 leads were open at the starts of the weeks, so .75 of the three of now, and by chance up to
    .75 + 1.645 sqrt(.75 (1 + 3/12)) = 2.3; of .86 and more one, and up to 1.2.
    """
    one, two = (choose_tiers(DATASET, days_old, np.ones(3), _experiment(room), UNTIL) for room in (1, 2))
    assert one.hot == pytest.approx(0.87)
    # Lower cut-offs make the stock larger, but nobody more gets hot.
    assert two.hot == pytest.approx(0.31)
    assert one.version == "2026-03-01"


def test_where_no_week_is_known_as_many_are_hot_as_can_be_worked_within_a_horizon():
    """A list without times, and leads of which the first came yesterday."""
    probability = np.arange(100) / 200
    young = Dataset.from_frames(leads=table("lead_id created_at\na 2026-02-28T00:00:00Z"))
    for dataset in (listed(), young):
        tiers = choose_tiers(dataset, days_old, probability, _experiment(2.25), UNTIL)
        assert tiers.hot == pytest.approx(91 / 200)


def listed():
    """A list without times."""
    ids = [f"L{number}" for number in range(30)]
    return Dataset.from_frames(
        leads=pd.DataFrame({"lead_id": ids, "created_at": "2026-01-01T00:00:00Z"}),
        outcomes=pd.DataFrame({
            "lead_id": ids, "occurred_at": "2026-02-01T00:00:00Z", "outcome": ["won"] * 10 + ["lost"] * 20,
        }),
    )  # fmt: skip


def _experiment(room):
    return Experiment(horizon_days=28, team=Team(reps=1, calls_a_week=room))


def test_an_experiment_names_its_team(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text("horizon_days = 28\n[team]\nreps = 7\ncalls_a_week = 40\naverage_deal = 9000\n")
    assert Experiment.read(path).team == Team(reps=7, calls_a_week=40, average_deal=9000)
    path.write_text("[team]\nreps = 0\ncalls_a_week = 40\n")
    with pytest.raises(UsageError, match=r"Expected `int` >= 1 - at `\$.team.reps`"):
        Experiment.read(path)
