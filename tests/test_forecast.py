"""Forecasts: the score on each day ahead without a touch, and the day on which a lead leaves its tier."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pruned import pruned
from trained import Trained
from weighted import weighted
from worlds import dataset_of as world_of
from worlds import instants, table, worlds

from features import Cohort, Dataset, UsageError
from features.times import isoformat
from models import Scorer, Tiers, forecast, load_bundle

DAY = 86_400_000_000


def rescored(scorer: Scorer, dataset: Dataset, lead: int, as_of: int, day: int) -> tuple[int, float, int, str]:
    """The score of a lead that is written with what is known of it as of now, when a day has come."""
    history, attributes = dataset.history, dataset.attributes
    alone = pruned(dataset, lead, lambda row: history.known[row] < as_of, lambda row: attributes.known[row] < as_of)
    scores = scorer.score(alone, Cohort.at([0], as_of + day * DAY))
    return as_of + day * DAY, float(scores.probability[0]), int(scores.score[0]), scores.tiers[0]


@pytest.mark.parametrize("model", ["lightgbm", "logistic", "rules", "blend"])
def test_a_forecast_is_the_rescore_when_that_day_comes(trained: Trained, model: str) -> None:
    scorer, dataset = load_bundle(trained.bundles / model), Dataset.read(trained.leads)
    as_of = dataset.recorded_until - 30 * DAY
    cohort = dataset.open_at(as_of)
    moved = left = 0
    for lead in cohort.lead[np.linspace(0, len(cohort) - 1, 40).astype(np.int64)].tolist():
        found = forecast(scorer, dataset, lead, as_of)
        assert len(found.days) == 30
        expected = [rescored(scorer, dataset, lead, as_of, day) for day in range(31)]
        assert [tuple(point) for point in (found.now, *found.days)] == expected
        assert found.leaves == next((point for point in found.days if point.tier != found.now.tier), None)
        moved += found.days[-1].probability != found.now.probability
        left += found.leaves is not None
    assert moved > 20 and left > 0


@given(worlds, instants, st.integers(1, 90), st.integers(0, 5))
def test_so_it_is_of_any_lead(world: list[dict[str, Any]], as_of: int, days: int, seed: int) -> None:
    """Facts and touches that become known later, though they occurred before, are not seen on any day."""
    dataset = world_of(world)
    scorer = weighted(dataset, seed)
    for lead in np.flatnonzero(dataset.created_at < as_of).tolist():
        found = forecast(scorer, dataset, lead, as_of, days)
        assert len(found.days) == days
        for day in (1, days):
            assert tuple(found.days[day - 1]) == rescored(scorer, dataset, lead, as_of, day)


TOUCHES = table("""
    lead_id  occurred_at           channel
    a        2026-01-05T00:00:00Z  email
    a        2026-01-20T00:00:00Z  demo
""")
LEADS = table("""
    lead_id  created_at
    a        2026-01-01T00:00:00Z
""")
BOOKED = Dataset.from_frames(touchpoints=TOUCHES, leads=LEADS)
SCORER = weighted(BOOKED)


def test_what_is_booked_for_later_is_not_seen() -> None:
    alone = Dataset.from_frames(touchpoints=TOUCHES[:1], leads=LEADS)
    found = forecast(SCORER, BOOKED, 0, "2026-01-10", 30)
    assert found == forecast(SCORER, alone, 0, "2026-01-10", 30)
    then = SCORER.predict(BOOKED, Cohort.at([0], "2026-01-25"))[0]
    assert found.days[14].as_of == Cohort.at([0], "2026-01-25").as_of[0]
    assert found.days[14].probability != then
    # A touch as of now is of the first day ahead at the earliest.
    assert forecast(SCORER, BOOKED, 0, "2026-01-20", 1) == forecast(SCORER, alone, 0, "2026-01-20", 1)


def test_the_day_on_which_it_leaves_its_tier() -> None:
    chances = [day.probability for day in forecast(SCORER, BOOKED, 0, "2026-01-10", 10).days]
    assert all(p > q for p, q in pairwise(chances))
    # A cut-off belongs to the tier above it, and the exit plays no part.
    scorer = replace(SCORER, tiers=Tiers(version="x", warm=chances[6], hot=1.0, exit=1_000))
    found = forecast(scorer, BOOKED, 0, "2026-01-10", 10)
    assert [day.tier for day in (found.now, *found.days)] == 8 * ["warm"] + 3 * ["cold"]
    assert found.leaves == found.days[7]
    assert isoformat(found.days[7].as_of) == "2026-01-18T00:00:00Z"
    assert forecast(scorer, BOOKED, 0, "2026-01-10", 7).leaves is None
    # It is left upwards too.
    up = replace(SCORER.model, weight=-SCORER.model.weight, missing=-SCORER.model.missing)
    rising = forecast(replace(scorer, model=up), BOOKED, 0, "2026-01-10", 10)
    cut = replace(scorer, model=up, tiers=Tiers(version="x", warm=0, hot=rising.days[6].probability))
    found = forecast(cut, BOOKED, 0, "2026-01-10", 10)
    assert found.now.tier == "warm" and found.leaves == found.days[6] and found.leaves.tier == "hot"


def test_what_is_asked_wrongly() -> None:
    for days in (0, -1, 366):
        with pytest.raises(UsageError, match=f"days={days} cannot be looked ahead. Ask for 1 to 365 days."):
            forecast(SCORER, BOOKED, 0, "2026-01-10", days)
    with pytest.raises(UsageError, match="there was no lead yet"):
        forecast(SCORER, BOOKED, 0, "2026-01-01")
    assert len(forecast(SCORER, BOOKED, 0, "2026-01-10", 365).days) == 365
