"""The timeline: what became known of a lead, and the score right after each."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pruned import facts_of, pruned, span_of, touches_of
from weighted import weighted
from worlds import DELAYS, LINK, instants, linked_of, split_leads, table, worlds
from worlds import dataset_of as world_of

from features import Cohort, Dataset, UsageError
from features.times import isoformat
from models import Event, timeline
from models.points import Point

WORLD = Dataset.from_frames(
    touchpoints=table("""
        lead_id  occurred_at           recorded_at           channel  action  value
        a        2026-01-05T00:00:00Z  -                     email    click   -
        a        2026-01-06T00:00:00Z  2026-01-09T00:00:00Z  call     -       12.5
        a        2026-01-08T00:00:00Z  -                     web      -       -
        a        2025-12-30T00:00:00Z  -                     web      -       -
        b        2026-01-03T00:00:00Z  -                     fair     -       -
    """),
    leads=table("""
        lead_id  created_at            industry  size
        a        2026-01-01T00:00:00Z  retail    4
    """),
    attributes=table("""
        lead_id  occurred_at           name      value
        a        2026-01-07T00:00:00Z  industry  software
        a        2026-01-08T00:00:00Z  size      12.5
        a        2026-01-11T00:00:00Z  size      -
    """),
    aliases=table("""
        lead_id  same_as  occurred_at
        b        a        2026-01-10T00:00:00Z
    """),
)
SCORER = weighted(WORLD)


def test_what_became_known_the_last_first() -> None:
    events, total = timeline(SCORER, WORLD, 0, "2026-01-12")
    assert [(event.text, isoformat(event.known_at)[5:10], isoformat(event.occurred_at)[5:10]) for event in events] == [
        ("size not known", "01-11", "01-11"),
        ("fair", "01-10", "01-03"),
        ("call", "01-09", "01-06"),
        ("size 12.5", "01-08", "01-08"),
        ("web", "01-08", "01-08"),
        ("industry software", "01-07", "01-07"),
        ("email click", "01-05", "01-05"),
        ("web", "12-30", "12-30"),
    ]
    assert total == 8
    assert [event.kind and event.kind.name for event in events] == [
        None, "fair", "call", None, "web", None, "email_click", "web"
    ]  # fmt: skip
    assert [(event.attribute, event.cell) for event in events if event.kind is None] == [
        ("size", None), ("size", "12.5"), ("industry", "software")
    ]  # fmt: skip
    assert [event.value for event in events] == [None, None, 12.5, *5 * [None]]
    # Of the visit before it was created there is no score.
    assert [event.after is None for event in events] == [*7 * [False], True]


def test_only_what_was_known_then_and_page_by_page() -> None:
    whole, _ = timeline(SCORER, WORLD, 0, "2026-01-12")
    assert timeline(SCORER, WORLD, 0, "2026-01-09") == (whole[3:], 5)
    assert timeline(SCORER, WORLD, 0, "2026-01-09T00:00:00.000001Z") == (whole[2:], 6)
    pages = [timeline(SCORER, WORLD, 0, "2026-01-12", 3, skip) for skip in (0, 3, 6, 9)]
    assert [event for page, _ in pages for event in page] == whole
    assert {total for _, total in pages} == {8} and pages[-1][0] == []
    with pytest.raises(UsageError, match="there was no lead yet"):
        timeline(SCORER, WORLD, 0, "2026-01-01")


@given(worlds, instants)
def test_the_score_after_each_is_that_of_a_lead_of_which_no_more_is_known(
    world: list[dict[str, Any]], as_of: int
) -> None:
    check_all(world_of(world), as_of)


@given(split_leads(), st.sampled_from([*DELAYS, -1]))
def test_so_it_is_of_leads_of_several_ids(case: Any, wait: int) -> None:
    """What counts as of the instant is listed, and scored as it counted then."""
    check_all(linked_of(*case), LINK + 1 + wait)


def check_all(dataset: Dataset, as_of: int) -> None:
    scorer, history, attributes = weighted(dataset), dataset.history, dataset.attributes
    for lead in np.flatnonzero(dataset.created_at < as_of).tolist():
        events, total = timeline(scorer, dataset, lead, as_of, 1_000)
        spans = {row: span_of(history, row) for row in touches_of(dataset, lead)}
        seen = [known for known, hidden in spans.values() if hidden >= as_of]
        seen += [attributes.known[row] for row in facts_of(dataset, lead)]
        assert [event.known_at for event in events] == sorted((k for k in seen if k < as_of), reverse=True)
        assert total == len(events)
        for event in events:
            if event.known_at < dataset.created_at[lead]:
                assert event.after is None
            else:
                check(event, pruned(
                    dataset, lead,
                    lambda row, event=event, spans=spans: spans[row][0] <= event.known_at < spans[row][1],
                    lambda row, event=event: attributes.known[row] <= event.known_at,
                ), scorer)  # fmt: skip


def check(event: Event, alone: Dataset, scorer: Any) -> None:
    scores = scorer.score(alone, Cohort.at([0], event.known_at + 1))
    assert event.after == Point(
        event.known_at + 1, float(scores.probability[0]), int(scores.score[0]), scores.tiers[0]
    )  # fmt: skip
