"""Histories, cohorts and datasets: what is kept, in which order, and what was known when."""

import random

import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DAY
from worlds import DELAYS, INSTANTS, LINK, dataset_of, instants, linked_of, split_leads, table, tables_of, worlds

from features import LEAD_FEATURES, Cohort, Dataset, FeatureSet, History, Kind, TableError, UsageError
from features.history import Attributes
from features.times import NEVER, isoformat, to_us


def listed(history, lead=0):
    """A lead's touches as (day, kind, value), in order."""
    rows = range(history.offsets[lead], history.offsets[lead + 1])
    return [
        (
            isoformat(history.at[i])[:10],
            history.kinds[history.kind[i]].name,
            None if np.isnan(history.value[i]) else float(history.value[i]),
        )
        for i in rows
    ]


# Order and duplicates.


def test_touches_are_in_order_of_time_then_kind_then_value():
    history = History.from_frame(table("""
        lead_id  occurred_at           channel  action  value
        a        2026-01-03T00:00:00Z  web      -       -
        a        2026-01-01T00:00:00Z  web      visit   2
        a        2026-01-01T00:00:00Z  web      visit   -
        a        2026-01-01T00:00:00Z  web      visit   -1
        a        2026-01-01T00:00:00Z  web      -       9
        a        2026-01-01T00:00:00Z  call     -       -
    """))  # fmt: skip
    assert listed(history) == [
        ("2026-01-01", "call", None),
        ("2026-01-01", "web", 9),
        ("2026-01-01", "web_visit", None),
        ("2026-01-01", "web_visit", -1),
        ("2026-01-01", "web_visit", 2),
        ("2026-01-03", "web", None),
    ]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        # occurred_at          channel value recorded_at           message_id
        pytest.param(
            ["2026-01-01T00:00:00Z web 1 - -", "2026-01-01T00:00:00Z web 1 - -"],
            ["2026-01-01T00:00:00Z"],
            id="the same row counts once",
        ),
        pytest.param(
            ["2026-01-01T00:00:00Z web - 2026-02-01T00:00:00Z -", "2026-01-01T00:00:00Z web - 2026-01-09T00:00:00Z -"],
            ["2026-01-09T00:00:00Z"],
            id="of the same row the one recorded first stays",
        ),
        pytest.param(
            ["2026-01-01T00:00:00Z web 1 - -", "2026-01-01T00:00:00Z web 2 - -", "2026-01-01T00:00:00Z web - - -"],
            ["2026-01-01T00:00:00Z"] * 3,
            id="another value is another touch",
        ),
        pytest.param(
            ["2026-01-01 web 1 - -", "2026-01-01 web 1 - -"],
            ["2026-01-01T23:59:59.999999Z"] * 2,
            id="two touches of one day may be two",
        ),
        pytest.param(
            ["2026-01-01 web 1 - m1", "2026-01-01 web 1 - m1"],
            ["2026-01-01T23:59:59.999999Z"],
            id="unless they are the same message",
        ),
        pytest.param(
            ["2026-01-02T00:00:00Z web 1 - m1", "2026-01-03T00:00:00Z call - - m1"],
            ["2026-01-02T00:00:00Z"],
            id="a message counts once, as it was known first",
        ),
        pytest.param(
            ["2026-01-02T00:00:00Z web 1 2026-01-09T00:00:00Z m1", "2026-01-03T00:00:00Z call - - m1"],
            ["2026-01-03T00:00:00Z"],
            id="even if it says that it occurred later",
        ),
        pytest.param(
            ["2026-01-01T00:00:00Z web 1 - m1", "2026-01-01T00:00:00Z web 1 - m2"],
            ["2026-01-01T00:00:00Z"] * 2,
            id="two messages may say the same",
        ),
        pytest.param(
            ["2026-01-01T00:00:00Z web 1 - m1", "2026-01-01T00:00:00Z web 1 - -", "2026-01-01T00:00:00Z web 1 - -"],
            ["2026-01-01T00:00:00Z"] * 2,
            id="a row without a message is not the message",
        ),
    ],
)
def test_what_counts_once(rows, kept):
    lines = "\n".join(f"a {row}" for row in rows)
    dataset = Dataset.from_frames(
        touchpoints=table(f"lead_id occurred_at channel value recorded_at message_id\n{lines}")
    )
    assert [isoformat(known) for known in dataset.history.known] == kept
    assert dataset.report.duplicates == len(rows) - len(kept)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        # occurred_at       channel action    recorded_at
        pytest.param(
            ["10:00:07 email delivered -", "10:00:07 email open -", "10:00:08 email click -", "10:00:09 mail click -"],
            ["delivered"],
            id="a machine opens a mail and follows all its links at once",
        ),
        pytest.param(
            ["10:00:07 email sent -", "10:00:09 email open -", "10:00:09.000001 email click -"],
            ["sent", "click"],
            id="2 seconds are within, more are not",
        ),
        pytest.param(
            ["10:00:00 email sent -", "10:00:00 email click -", "10:00:01 email click -"],
            ["click", "sent"],
            id="a clock that only tells minutes tells nothing",
        ),
        pytest.param(
            ["10:00:07 email sent 11:00:00", "10:00:08 email click -", "10:00:08 email open 11:00:00"],
            ["sent", "click"],
            id="what was known first is not made different by what was recorded later",
        ),
        pytest.param(
            ["10:00:07 email sent -", "10:00:08 display_ad click -", "10:00:08 email reply -", "10:00:08 website - -"],
            ["sent", "click", "reply", ""],
            id="other clicks and answers are people's",
        ),
        pytest.param(
            ["10:00:07 sales_email - -", "10:00:08 email open -"], [""], id="a personal mail is checked as well"
        ),
    ],
)  # fmt: skip
def test_machines_do_not_count(rows, kept):
    lines = []
    for row in rows:
        time, channel, action, recorded = row.split()
        recorded = recorded if recorded == "-" else f"2026-01-01T{recorded}Z"
        lines.append(f"a 2026-01-01T{time}Z {channel} {action} {recorded}")
    dataset = Dataset.from_frames(
        touchpoints=table("lead_id occurred_at channel action recorded_at\n" + "\n".join(lines))
    )
    history = dataset.history
    assert [history.kinds[k].action for k in history.kind] == kept
    assert (dataset.report.automated, dataset.report.duplicates) == (len(rows) - len(kept), 0)


def test_dates_do_not_tell_machines():
    dataset = Dataset.from_frames(touchpoints=table("""
        lead_id  occurred_at  channel  action
        a        2026-01-01   email    sent
        a        2026-01-01   email    click
    """))  # fmt: skip
    assert len(dataset.history) == 2


@given(seed=st.integers(0, 2**32), size=st.integers(0, 300))
def test_long_histories_are_kept_as_the_oracle_keeps_them(seed, size):
    """Longer than the runs that the sort merges; few times and kinds, so that most touches tie."""
    dice = random.Random(seed)
    lead = {"created": 0, "attributes": {}, "facts": [], "outcomes": []}
    lead["touches"] = [
        {
            "at": dice.randrange(12), "known": dice.randrange(12, 16), "channel": dice.choice("ab"),
            "action": dice.choice(("", "x")), "value": dice.choice((None, 1.0, -2.0)),
            "message": dice.choice((None, None, "m1", "m2", "m3")), "dated": dice.random() < 0.2,
        }
        for _ in range(size)
    ]  # fmt: skip
    history = dataset_of([lead]).history
    got = [
        (at, known, history.kinds[kind], None if np.isnan(value) else value)
        for at, known, kind, value in zip(
            history.at.tolist(), history.known.tolist(), history.kind.tolist(), history.value.tolist(), strict=True
        )
    ]
    expected = [(t["at"], t["known"], (t["channel"], t["action"]), t["value"]) for t in oracle.seen(lead, NEVER)]
    assert got == expected


@given(world=worlds, as_ofs=st.lists(instants, min_size=1, max_size=3))
def test_slices_hold_what_had_occurred(world, as_ofs):
    history = dataset_of(world).history
    cohort = Cohort.concat(Cohort.at(np.arange(len(world)), as_of) for as_of in as_ofs)
    starts, stops = history.slices(cohort)
    for lead, as_of, start, stop in zip(cohort.lead, cohort.as_of, starts, stops, strict=True):
        mine = np.flatnonzero((history.lead == lead) & (history.at < as_of))
        assert list(range(start, stop)) == mine.tolist()


def test_kinds_are_sorted_however_they_are_given():
    none = np.zeros(2, np.int64)
    kind = np.array([0, 1], np.int32)
    kinds = [Kind("web"), Kind("call")]
    history = History.build(1, none.astype(np.int32), none, none, kind, np.array([np.nan, np.nan]), kinds)
    assert history.kinds == (Kind("call"), Kind("web"))
    assert [history.kinds[k].name for k in history.kind] == ["call", "web"]


# The door.


SMALL = {
    "touchpoints": table("""
        lead_id  occurred_at           channel  recorded_at
        a        2026-01-02T00:00:00Z  web      -
        a        2026-01-03T00:00:00Z  call     2026-01-08T00:00:00Z
        b        2026-01-05T00:00:00Z  web      -
    """),
    "leads": table("""
        lead_id  created_at
        a        2026-01-01T00:00:00Z
        b        2026-01-04T00:00:00Z
        c        2026-01-06T00:00:00Z
    """),
    "outcomes": table("""
        lead_id  occurred_at           outcome  recorded_at
        a        2026-01-07T00:00:00Z  lost     2026-01-09T00:00:00Z
        a        2026-01-08T00:00:00Z  won      -
        b        2026-01-10T00:00:00Z  won      -
    """),
    "attributes": table("""
        lead_id  occurred_at           name  value  recorded_at
        a        2026-01-02T00:00:00Z  size  1      -
        b        2026-01-05T00:00:00Z  size  2      2026-01-07T00:00:00Z
    """),
}


@pytest.fixture(scope="module")
def small():
    return Dataset.from_frames(**SMALL)


@pytest.mark.parametrize(
    ("before", "ids", "touches", "facts", "outcomes"),
    [
        ("2026-01-01T00:00:00Z", "", 0, 0, 0),
        ("2026-01-01T00:00:00.000001Z", "a", 0, 0, 0),
        ("2026-01-02T00:00:00Z", "a", 0, 0, 0),
        ("2026-01-02T00:00:00.000001Z", "a", 1, 1, 0),
        ("2026-01-06T00:00:00Z", "ab", 2, 1, 0),
        ("2026-01-08T00:00:00Z", "abc", 2, 2, 0),
        ("2026-01-08T00:00:00.000001Z", "abc", 3, 2, 1),
        ("2026-01-10T00:00:00Z", "abc", 3, 2, 2),
        ("2026-01-10T00:00:00.000001Z", "abc", 3, 2, 3),
    ],
)
def test_what_was_known_when(small, before, ids, touches, facts, outcomes):
    past = small.known_at(before)
    assert "".join(past.ids) == ids
    assert (len(past.history), len(past.attributes.at), len(past.outcomes.at)) == (touches, facts, outcomes)
    assert len(past.history.offsets) == len(past.attributes.offsets) == len(past) + 1


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [
        ("2026-01-01T00:00:00Z", ""),
        ("2026-01-01T00:00:00.000001Z", "a"),
        ("2026-01-05T00:00:00Z", "ab"),
        ("2026-01-08T00:00:00Z", "abc"),
        ("2026-01-08T00:00:00.000001Z", "bc"),  # won on the 8th; that it was lost on the 7th came to light on the 9th
        ("2026-01-10T00:00:00Z", "bc"),
        ("2026-01-10T00:00:00.000001Z", "c"),
    ],
)
def test_who_is_open(small, as_of, expected):
    cohort = small.open_at(as_of)
    assert "".join(small.ids[cohort.lead]) == expected
    assert set(cohort.as_of.tolist()) <= {to_us(as_of)}
    past = small.known_at(as_of)
    assert "".join(past.ids[past.open_at(as_of).lead]) == expected


@pytest.mark.parametrize(
    ("max_age", "expected"),
    [(None, "abc"), (6, "abc"), (6 - 1e-11, "bc"), (3, "bc"), (2, "c"), (1, "c"), (0.5, "")],
)
def test_who_is_open_and_young(small, max_age, expected):
    cohort = small.open_at("2026-01-07T00:00:00Z", max_age=max_age)
    assert "".join(small.ids[cohort.lead]) == expected


@pytest.mark.parametrize(
    ("before", "closed"),
    [
        ("2026-01-08T00:00:00Z", {}),
        ("2026-01-09T00:00:00Z", {"a": ("2026-01-08T00:00:00Z", True)}),
        ("2026-01-09T00:00:01Z", {"a": ("2026-01-07T00:00:00Z", False)}),
        ("2026-01-11T00:00:00Z", {"a": ("2026-01-07T00:00:00Z", False), "b": ("2026-01-10T00:00:00Z", True)}),
    ],
)
def test_the_first_outcome_known_closes_a_lead(small, before, closed):
    past = small.known_at(before)
    at, won = past.closed
    there = np.flatnonzero(at < NEVER)
    assert {past.ids[i]: (isoformat(at[i]), bool(won[i])) for i in there} == closed


@given(world=worlds, t=st.sampled_from(INSTANTS), wait=st.sampled_from(DELAYS))
def test_the_past_is_a_dataset_of_what_was_known(world, t, wait):
    """Column by column; and the past of the past is the past."""
    whole = dataset_of(world)
    expected = dataset_of([
        dict(lead, **{key: [r for r in lead[key] if r["known"] < t] for key in ("touches", "facts", "outcomes")})
        for lead in world
        if lead["created"] < t
    ])  # fmt: skip
    for past in (whole.known_at(t), whole.known_at(t + wait).known_at(t), whole.known_at(t).known_at(t + wait)):
        assert past.ids.tolist() == [f"lead {i}" for i, lead in enumerate(world) if lead["created"] < t]
        assert told(past) == told(expected)


def told(dataset):
    """All that a dataset holds, without codes."""
    history, attributes, outcomes = dataset.history, dataset.attributes, dataset.outcomes

    def meant(column, cell):
        words = attributes.words[column]
        return None if np.isnan(cell) else cell if words is None else oracle.read(words[int(cell)])

    lead = np.repeat(np.arange(len(dataset)), np.diff(attributes.offsets))
    return {
        "created": dataset.created_at.tolist(),
        "touches": [
            (*row, history.kinds[k], None if np.isnan(v) else v)
            for *row, k, v in zip(history.lead, history.at, history.known, history.kind, history.value, strict=True)
        ],
        "cells": [
            {name: meant(k, row[k]) for k, name in enumerate(attributes.names) if not np.isnan(row[k])}
            for row in attributes.cells
        ],
        "facts": sorted(
            (who, at, known, attributes.names[column], str(meant(column, value)))
            for who, at, known, column, value in zip(
                lead, attributes.at, attributes.known, attributes.column, attributes.value, strict=True
            )
        ),
        "outcomes": list(zip(outcomes.lead, outcomes.at, outcomes.known, outcomes.won, strict=True)),
    }


@given(world=worlds)
def test_a_microsecond_after_the_last_thing_known_all_is_known(world):
    dataset = dataset_of(world)
    assert told(dataset.known_at(dataset.last_known + 1)) == told(dataset)
    assert told(dataset.known_at(dataset.last_known)) != told(dataset)


# Cohorts.


def test_a_cohort_is_asked_as_of_one_instant_or_each_as_of_its_own():
    one = Cohort.at([2, 0], "1970-01-02")
    own = Cohort.at(np.array([2, 0]), np.array([DAY, 5]))
    dated = Cohort.at([2, 0], np.array(["1970-01-02T00:00:00", "1970-01-01T00:00:00.000005"], "datetime64[ns]"))
    assert one.lead.tolist() == own.lead.tolist() == dated.lead.tolist() == [2, 0]
    assert one.as_of.tolist() == [DAY, DAY]
    assert own.as_of.tolist() == dated.as_of.tolist() == [DAY, 5]
    assert len(Cohort.at(7, 0)) == 1
    assert one[np.array([1])].lead.tolist() == one[1:].lead.tolist() == [0]


def test_a_cohort_needs_one_as_of_a_lead():
    with pytest.raises(UsageError, match=r"^a cohort needs one as_of a lead; got shapes \(2,\) and \(3,\)\.$"):
        Cohort.at([0, 1], np.array([1, 2, 3]))


def test_cohorts_are_put_below_each_other():
    both = Cohort.concat([Cohort.at([0, 1], 5), Cohort.at([1], 7)])
    assert (both.lead.tolist(), both.as_of.tolist()) == ([0, 1, 1], [5, 5, 7])
    assert len(Cohort.concat([])) == 0


@pytest.mark.parametrize(
    ("every", "start", "stop", "rows"),
    [
        (2, "2026-01-05", "2026-01-09", "9:bc 7:abc 5:ab"),
        (2, "2026-01-06", "2026-01-09", "9:bc 7:abc"),
        (7, "2026-01-02", "2026-01-09", "9:bc 2:a"),
        (1, "2026-01-01", "2026-01-01", ""),
        (1, "2026-01-09", "2026-01-08", ""),
    ],
)
def test_a_grid_asks_about_who_was_open_from_stop_back_to_start(small, every, start, stop, rows):
    cohort = Cohort.grid(small, every=every, start=start, stop=stop)
    days = dict.fromkeys(isoformat(at)[8:10].lstrip("0") for at in cohort.as_of)
    asked = [isoformat(at)[8:10].lstrip("0") for at in cohort.as_of]
    got = [
        f"{day}:{''.join(small.ids[i] for i, d in zip(cohort.lead, asked, strict=True) if d == day)}" for day in days
    ]
    assert " ".join(got) == rows


@pytest.mark.parametrize("every", [0, -1, 1e-12])
def test_a_grid_needs_a_positive_step(small, every):
    with pytest.raises(UsageError, match=f"^a grid needs a positive step in days; got {every}.$"):
        Cohort.grid(small, every=every, start="2026-01-01", stop="2026-01-02")


def test_leads_are_found_by_id(small):
    assert small.find(["c", "a", "c"]).tolist() == [2, 0, 2]
    assert small.find([]).tolist() == []
    with pytest.raises(TableError, match=r"^lead_id 'x' is not among the 3 leads\.$"):
        small.find(["a", "x"])


# Attributes as they are built.


@pytest.mark.parametrize(
    ("given", "cells", "words"),
    [
        ([1, 2.5, None], [1, 2.5, None], None),
        (["10", "9", None], [10, 9, None], None),
        (["1e3", "40.0", "007"], [1000, 40, 7], None),
        ([-0.0, 0.0, "-0"], [0, 0, 0], None),
        (["b", "a", None], [1, 0, None], ("a", "b")),
        (["10", 9, "a"], [1, 0, 2], ("9", "10", "a")),
        (["40.0", 40, "a"], [0, 0, 1], ("40", "a")),
        ([0.5, "x", float("nan")], [0, 1, None], ("0.5", "x")),
        (["nan", "inf", 1], [2, 1, 0], ("1", "inf", "nan")),
        ([None, None, None], [None] * 3, None),
    ],
)
def test_what_an_attribute_holds(given, cells, words):
    none = np.empty(0, np.int64)
    attributes = Attributes.build(3, {"x": given}, none, none, none, [], [])
    assert attributes.words == (words,)
    assert [None if np.isnan(v) else v for v in attributes.cells[:, 0]] == cells
    assert not np.signbit(attributes.cells[~np.isnan(attributes.cells)]).any()


# Two ids that became one.


def linked_by(names, links, name, as_of):
    """The ids that mean a lead as of an instant, as far as is known by then."""
    known = {one: other for one, other, at in links if at < as_of}

    def means(one):
        while one in known and one != name:
            one = known[one]
        return one == name

    return [one for one in names if means(one)]


def test_a_link_does_not_change_which_copy_of_a_message_came_first():
    def copy(at, known, value):
        return dict(at=at, known=known, channel="web", action="", value=value, message="m", dated=False)

    nothing = dict(created=0, attributes={}, touches=[], facts=[], outcomes=[])
    lead = dict(nothing, touches=[copy(5 * DAY, 6 * DAY, 2.0), copy(3 * DAY, LINK, 7.0)])
    links = pd.DataFrame({"lead_id": ["old"], "same_as": ["lead"], "occurred_at": [isoformat(LINK)]})
    linked = Dataset.from_frames(**tables_of([nothing, lead], ["lead", "old"]), aliases=links)
    history = linked.history
    assert history.lead.tolist() == [0, 1] and history.value.tolist() == [2.0, 2.0]
    assert history.at.tolist() == [5 * DAY] * 2 and history.known.tolist() == [LINK, 6 * DAY]
    assert linked.report.duplicates == 1


@given(case=split_leads(), waits=st.lists(st.sampled_from([*DELAYS, -1, -DAY]), min_size=1, max_size=3))
def test_a_lead_under_several_ids_is_one_lead_from_their_links_on(case, waits):
    """Bit by bit what one id would be to which everything happened that was linked by then, and no longer open."""
    split, links = case
    linked = linked_of(*case)
    features = FeatureSet.fit(LEAD_FEATURES, linked)
    for as_of in {at + wait for _, _, at in links for wait in (1, *waits)}:
        for name in split:
            mine = linked_by(split, links, name, as_of)
            whole = dict(split[name])
            for key in ("touches", "facts", "outcomes"):
                whole[key] = [row for one in mine for row in split[one][key]]
            one = Dataset.from_frames(**tables_of([whole], [name]))
            past = linked.known_at(as_of + 1)
            for dataset in (linked, past) if name in past.ids else (linked,):
                assert row_of(features, dataset, name, as_of) == row_of(features, one, name, as_of)
                assert seen_of(dataset, name, as_of) == seen_of(one, name, as_of)
            open_now = name in linked.ids[linked.open_at(as_of).lead]
            merged = any(other == name and at < as_of for other, _, at in links)
            assert open_now == (not merged and name in one.ids[one.open_at(as_of).lead])


def row_of(features, dataset, name, as_of):
    """A lead's features, bit by bit."""
    return features.compute(dataset, Cohort.at(dataset.find([name]), as_of)).tobytes()


def seen_of(dataset, name, as_of):
    """The touches that a lead is seen with as of an instant."""
    history, (lead,) = dataset.history, dataset.find([name])
    seen = (history.lead == lead) & (history.known < as_of)
    seen &= (history.hidden >= as_of) if len(history.hidden) else True
    columns = history.at[seen], history.kind[seen], np.nan_to_num(history.value[seen], nan=-1e300)
    return [(at, history.kinds[kind], value) for at, kind, value in zip(*(c.tolist() for c in columns), strict=True)]


@pytest.mark.parametrize("message", [None, "m"])
def test_a_touch_that_thousands_of_ids_have_counts_once(message):
    """Though the copies of a message differ; looked at all together they would be a group of 200 million."""
    count, day = 20_000, 1_767_225_601_000_000
    ids, dice = [f"old {i}" for i in range(count)], np.random.default_rng(0)
    linked = day + DAY + dice.permutation(count)
    at = day + (dice.permutation(count) if message else np.zeros(count, np.int64))
    dataset = Dataset.from_frames(
        touchpoints=pd.DataFrame(
            {"lead_id": ids, "occurred_at": [*map(isoformat, at)], "channel": "web", "message_id": message}
        ),
        aliases=pd.DataFrame({"lead_id": ids, "same_as": "lead", "occurred_at": [*map(isoformat, linked)]}),
    )
    lead = dataset.find(["lead"])[0]
    for place in (0, 1, 100, count - 1):
        as_of = day + DAY + place + 1
        assert seen_of(dataset, "lead", as_of) == [(at[linked < as_of].min(), Kind("web"), -1e300)]
    expected = len(set(np.minimum.accumulate(at[np.argsort(linked)]).tolist()))
    assert (dataset.history.lead == lead).sum() == expected


def test_a_chain_of_links_is_known_when_its_last_link_is():
    dataset = Dataset.from_frames(
        touchpoints=table("""
            lead_id  occurred_at           channel
            a        1965-01-01T00:00:00Z  web
            b        1965-01-02T00:00:00Z  call
        """),
        leads=table("""
            lead_id  created_at
            a        1965-01-01T00:00:00Z
            b        1965-01-01T00:00:00Z
            c        1965-01-01T00:00:00Z
        """),
        aliases=table("""
            lead_id  same_as  occurred_at
            a        b        1965-03-01T00:00:00Z
            b        c        1965-02-01T00:00:00Z
        """),
    )
    seen = {
        as_of: "".join(
            f"{name}{(history.known < to_us(as_of))[history.lead == i].sum()}" for i, name in enumerate(dataset.ids)
        )
        for history in [dataset.history]
        for as_of in ("1965-01-03", "1965-02-01T00:00:00.000001Z", "1965-03-01", "1965-03-01T00:00:00.000001Z")
    }
    assert list(seen.values()) == ["a1b1c0", "a1b1c1", "a1b1c1", "a1b2c2"]
    assert ["".join(dataset.ids[dataset.open_at(as_of).lead]) for as_of in seen] == ["abc", "ac", "ac", "c"]
    assert dataset.last_known == to_us("1965-03-01")
    assert (dataset.known_at("1965-03-01").merged_at < NEVER).tolist() == [False, True, False]


def test_a_link_is_the_last_thing_known():
    dataset = Dataset.from_frames(
        leads=table("lead_id created_at\na 2026-01-01T00:00:00Z\nb 2026-01-01T00:00:00Z"),
        aliases=table("lead_id same_as occurred_at\na b 2026-02-01T00:00:00Z"),
    )
    assert dataset.last_known == to_us("2026-02-01")
    assert dataset.known_at(dataset.last_known + 1).merged_at.tolist() == dataset.merged_at.tolist()
