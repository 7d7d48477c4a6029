"""Changes: why a score moved, in parts that add up to the whole."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pruned import facts_of, pruned, span_of, touches_of
from trained import Trained
from weighted import weighted
from worlds import DELAYS, INSTANTS, LINK, instants, linked_of, split_leads, table, worlds
from worlds import dataset_of as world_of

from features import Cohort, Dataset, UsageError
from features.times import to_us
from models import Scorer, changes, load_bundle
from models.changes import Changes, Part

DAY = 86_400_000_000


def path(dataset: Dataset, lead: int, since: int, as_of: int, then: Scorer, now: Scorer) -> list[tuple[str, float]]:
    """What is passed on the way, and the score then: each time the lead is written anew, with what counts so far."""
    history, attributes = dataset.history, dataset.attributes
    spans = {row: span_of(history, row) for row in touches_of(dataset, lead)}
    seen_touches = {row for row, (known, hidden) in spans.items() if known < since <= hidden}
    seen_facts = {row for row in facts_of(dataset, lead) if attributes.known[row] < since}
    # What comes and goes between the two instants is no news.
    touches = {
        row: (hidden if row in seen_touches else known, history.kind[row])
        for row, (known, hidden) in spans.items()
        if (row in seen_touches) != (known < as_of <= hidden)
    }
    facts = {row: (attributes.known[row], attributes.column[row]) for row in facts_of(dataset, lead)}

    def score(scorer: Scorer, at: int) -> float:
        alone = pruned(dataset, lead, seen_touches.__contains__, seen_facts.__contains__)
        return float(scorer.predict(alone, Cohort.at([0], at))[0])

    found = [("", score(then, since)), ("cooling", score(then, as_of))]
    for rows, seen, names in (
        (facts, seen_facts, attributes.names),
        (touches, seen_touches, [kind.name for kind in history.kinds]),
    ):
        new = {row: mine for row, mine in rows.items() if since <= mine[0] < as_of}
        for _, code in sorted({(min(k for k, c in new.values() if c == code), code) for _, code in new.values()}):
            seen ^= {row for row, mine in new.items() if mine[1] == code}
            found.append((names[code], score(then, as_of)))
    if then is not now:
        found.append(("model", score(now, as_of)))
    return found


def check(found: Changes, expected: Sequence[tuple[str, float]]) -> None:
    assert [part.name or part.cause for part in found.parts] == [name for name, _ in expected[1:]]
    assert [part.effect for part in found.parts] == [q - p for (_, p), (_, q) in pairwise(expected)]
    assert (found.before.probability, found.after.probability) == (expected[0][1], expected[-1][1])
    whole = found.after.probability - found.before.probability
    assert abs(sum(part.effect for part in found.parts) - whole) < 1e-9


def test_the_parts_of_a_thousand_leads_add_up(trained: Trained) -> None:
    """Simulated leads with late touches, facts and links; half of them were scored by another model before."""
    dataset = Dataset.read(trained.leads)
    now, before = load_bundle(trained.bundle), load_bundle(trained.bundles / "logistic")
    rng = np.random.default_rng(0)
    as_of = dataset.recorded_until
    asked = dataset.open_at(as_of - 2 * DAY).lead
    asked = rng.permutation(np.concatenate([asked, rng.permutation(len(dataset))]))
    seen, causes, linked = 0, dict[str, int](), 0
    for lead in asked.tolist():
        end = as_of if rng.random() < 0.5 else int(rng.integers(dataset.created_at[lead] + 2, as_of))
        since = int(rng.integers(dataset.created_at[lead] + 1, end))
        then = before if rng.random() < 0.5 else now
        found = changes(now, dataset, lead, since, end, then)
        check(found, path(dataset, lead, since, end, then, now))
        for part in found.parts:
            causes[part.cause] = causes.get(part.cause, 0) + 1
            linked += part.cause == "touches" and "from earlier" in part.text
        seen += 1
        if seen == 1_000:
            break
    assert seen == 1_000 and causes["cooling"] == 1_000
    assert min(causes["attribute"], causes["touches"], causes["model"]) > 50 and linked > 10


@given(worlds, st.sampled_from(INSTANTS), instants, st.integers(0, 9))
def test_so_do_those_of_any_lead(world: list[dict[str, Any]], since: int, as_of: int, seed: int) -> None:
    dataset = world_of(world)
    now, then = weighted(dataset, seed), weighted(dataset, seed + 1, version="0")
    begin, end = min(since, as_of), max(since, as_of)
    mine = [lead for lead in range(len(dataset)) if dataset.created_at[lead] < begin < end]
    assume(mine)
    for lead in mine:
        for first in (now, then):
            found = changes(now, dataset, lead, begin, end, first)
            check(found, path(dataset, lead, begin, end, first, now))


@given(split_leads(), st.sampled_from(INSTANTS), st.sampled_from([*DELAYS, LINK]), st.integers(0, 9))
def test_so_do_those_of_leads_of_several_ids(case: Any, before: int, wait: int, seed: int) -> None:
    """Also where a link shows that a machine made a click, or brings the copy of a touch that counts instead."""
    dataset = linked_of(*case)
    scorer, end = weighted(dataset, seed), LINK + 1 + wait
    for lead in np.flatnonzero(dataset.created_at < min(before, end)).tolist():
        if before < end:
            found = changes(scorer, dataset, lead, before, end)
            check(found, path(dataset, lead, before, end, scorer, scorer))


def test_what_no_longer_counts_in_words() -> None:
    world = Dataset.from_frames(
        touchpoints=table("""
            lead_id  occurred_at           channel  action
            a        2026-01-05T00:00:08Z  email    click
            a        2026-01-06T00:00:08Z  email    click
            a        2026-01-07T00:00:08Z  email    click
            b        2026-01-05T00:00:07Z  email    sent
            b        2026-01-06T00:00:07Z  email    sent
            b        2026-01-03T00:00:00Z  email    click
        """),
        aliases=table("lead_id same_as occurred_at\nb a 2026-01-16T00:00:00Z"),
    )
    parts = changes(weighted(world), world, int(world.find(["a"])[0]), "2026-01-08", "2026-01-18").parts
    assert told(list(parts)) == [
        "10 days without anything new",
        "1 email click came in, from earlier; 2 email clicks no longer count",
        "2 x email sent came in, from earlier",
    ]
    assert [part.number for part in parts] == [0, 3, 2]


def test_many_new_kinds_are_split_a_few_at_a_time(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, dataset = load_bundle(trained.bundle), Dataset.read(trained.leads)
    lead = int(np.argmax(np.diff(dataset.history.offsets)))
    asked = (scorer, dataset, lead, int(dataset.created_at[lead]) + 1, dataset.recorded_until)
    whole = changes(*asked)
    assert len(whole.parts) > 4
    for room in (0, 100, 250):
        monkeypatch.setattr(sys.modules["models.changes"], "_ROOM", room)
        assert changes(*asked) == whole


WORLD = Dataset.from_frames(
    touchpoints=table("""
        lead_id  occurred_at           recorded_at           channel  action
        a        2026-01-05T00:00:00Z  -                     email    click
        a        2026-01-12T00:00:00Z  -                     demo     -
        a        2026-01-13T00:00:00Z  -                     email    click
        a        2026-01-14T00:00:00Z  -                     email    click
        a        2026-01-06T00:00:00Z  2026-01-11T00:00:00Z  call     -
        a        2026-01-20T00:00:00Z  -                     web      -
        b        2026-01-03T00:00:00Z  -                     web      -
        b        2026-01-04T00:00:00Z  -                     fair     -
        b        2026-01-15T00:00:00Z  -                     fair     -
        c        2026-01-02T00:00:00Z  -                     demo     -
    """),
    leads=table("""
        lead_id  created_at            industry  size  city
        a        2026-01-01T00:00:00Z  retail    4     -
        c        2026-01-01T00:00:00Z  -         -     Bonn
    """),
    attributes=table("""
        lead_id  occurred_at           name      value
        a        2026-01-11T00:00:00Z  industry  software
        a        2026-01-12T00:00:00Z  industry  cleaning
        a        2026-01-10T00:00:00Z  size      5
        a        2026-01-15T00:00:00Z  size      4
        a        2026-01-13T00:00:00Z  city      Bonn
        c        2026-01-12T00:00:00Z  city      -
    """),
    aliases=table("""
        lead_id  same_as  occurred_at
        b        a        2026-01-16T00:00:00Z
    """),
)


def parts_of(lead: str, since: str, as_of: str, then: Scorer | None = None) -> list[Part]:
    (number,) = WORLD.find([lead])
    return list(changes(weighted(WORLD, version="2"), WORLD, int(number), since, as_of, then).parts)


def told(parts: list[Part]) -> list[str]:
    return [part.text.partition(":")[0] for part in parts]


def test_what_became_known_in_words_and_in_order() -> None:
    parts = parts_of("a", "2026-01-08", "2026-01-18")
    assert told(parts) == [
        "10 days without anything new",
        "size 4 as before", "industry cleaning instead of retail", "city Bonn became known",
        "1 call came in, from earlier", "1 demo came in", "2 email clicks came in",
        "2 fairs came in, 1 of them from earlier", "1 web came in, from earlier",
    ]  # fmt: skip
    assert [part.number for part in parts] == [0, 2, 2, 1, 1, 1, 2, 2, 1]
    assert [part.cause for part in parts] == ["cooling", *3 * ["attribute"], *5 * ["touches"]]
    assert parts[1].effect == 0 and parts[1].text.endswith("% before and after")
    assert told(parts_of("c", "2026-01-08", "2026-01-18")) == ["10 days without anything new", "city no longer known"]


def test_the_edges_of_the_span() -> None:
    """What is known before the first instant is not new; what is known at the second is not known yet."""
    size = "size 5 instead of 4"
    assert size in told(parts_of("a", "2026-01-10T00:00:00Z", "2026-01-10T00:00:00.000001Z"))
    assert told(parts_of("a", "2026-01-09T23:59:59.999999Z", "2026-01-10T00:00:00Z")) == [
        "less than an hour without anything new"
    ]
    assert told(parts_of("a", "2026-01-10T00:00:00.000001Z", "2026-01-10T23:00:00Z")) == [
        "22 hours without anything new"
    ]
    assert told(parts_of("a", "2026-01-06T12:00:00Z", "2026-01-07T12:00:00Z")) == ["1 day without anything new"]


def test_another_model_is_the_last_part() -> None:
    then = weighted(WORLD, seed=1, version="1")
    parts = parts_of("a", "2026-01-08", "2026-01-18", then)
    assert parts[-1].cause == "model" and parts[-1].effect != 0
    assert parts[-1].text.startswith("model 2 instead of 1: ")
    # The same one in another object is no change.
    assert parts_of("a", "2026-01-08", "2026-01-18", weighted(WORLD, version="2")) == parts_of(
        "a", "2026-01-08", "2026-01-18"
    )


def test_what_is_asked_wrongly() -> None:
    for since, as_of, says in (
        ("2026-01-18", "2026-01-18", "since=2026-01-18T00:00:00Z is not before as_of=2026-01-18T00:00:00Z"),
        ("2026-01-01", "2026-01-18", "lead 'a' was created at 2026-01-01T00:00:00Z, not before 2026-01-01T00:00:00Z"),
    ):
        with pytest.raises(UsageError, match=says):
            parts_of("a", since, as_of)
    with pytest.raises(UsageError, match="there is no lead 9 among 2"):
        changes(weighted(WORLD), WORLD, 9, to_us("2026-01-08"), to_us("2026-01-18"))
