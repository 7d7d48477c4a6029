"""The features: against the oracle, at their boundaries, and as the data that a model keeps of them."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DAY, MICROSECOND
from worlds import (
    DELAYS,
    INSTANTS,
    LATE_CELLS,
    LATE_KINDS,
    dataset_of,
    facts,
    instants,
    leads,
    outcomes,
    table,
    tables_of,
    touches,
    worlds,
)

from features import (
    FEATURES,
    LEAD_FEATURES,
    ActiveDays,
    Age,
    Attributes,
    Cohort,
    Count,
    Dataset,
    DaysSince,
    DaysSinceFirst,
    Decayed,
    Distinct,
    Feature,
    FeatureSet,
    First,
    Gap,
    History,
    Kind,
    Last,
    Max,
    Mean,
    ModelError,
    Sequence,
    Share,
    Streak,
    Sum,
    TimeOfWeek,
    Trend,
    UsageError,
)
from features.aggregates import run
from features.example import example
from features.history import Attributes as AttributeColumns
from features.history import Outcomes, _slices
from features.times import NEVER, isoformat

GOLDEN = Path(__file__).parent / "golden" / "lead_features.json"
WINDOWS = (0.5, 1, 7, 30, 1 / 3)
BYS = [(), ("channel",), ("action",), ("channel", "action"), ("side",), ("direction",)]
WHERES = [(">", 1), (">=", 1.0), ("<", 2.5), ("<=", -3.25)]
SOME = (
    *({"by": by} for by in BYS),
    {"of": "email"},
    {"of": "click"},
    {"of": "a_b"},
    *({"where": where} for where in WHERES),
    {"by": "channel", "where": (">=", 0)},
    {"of": "email", "where": ("<", 1e9)},
)
"""What features of touches may look at."""
APART = (*({"by": by} for by in BYS[1:]), {"by": "channel", "where": (">", 0)})
"""What those that tell touches apart may."""
EVERY = (
    Age(),
    *(Count(days=(*WINDOWS, None), **look) for look in SOME),
    *(kind(days=(1 / 3, 7, None), **look) for kind in (Sum, Mean, Max, ActiveDays) for look in SOME),
    *(kind(days=(1 / 3, 7, None), **look) for kind in (Share, Distinct) for look in APART),
    *(Decayed(half_life_days=(1, 7, 0.25), **look) for look in SOME),
    *(kind(**look) for kind in (DaysSince, DaysSinceFirst, Gap) for look in SOME),
    *(Streak(period_days=days, **look) for look in SOME for days in (7, 1 / 3)),
    *(First(**look) for look in APART),
    *(Last(place=place, **look) for look in APART for place in (1, 3)),
    *(Trend(recent_days=recent, past_days=past, **look) for look in SOME for recent, past in ((7, 30), (1 / 3, 1))),
    *(Sequence(first=one, then=other) for one, other in itertools.permutations(("email", "click", "a_b", "web"), 2)),
    Sequence(first="email", then="email_click"),
    *(TimeOfWeek(days=(7, None), zone=zone, **look)
      for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York")
      for look in (SOME if zone == "UTC" else SOME[:2])),
    Attributes(),
)  # fmt: skip
SPANS = st.sampled_from((1, 7, 30, 0.5, 1 / 3, 1.1)) | st.integers(1, 80) | st.floats(1 / DAY, 3_652_425)
"""Days: some that touches lie apart, and any that a window may be long."""
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Casablanca", "Australia/Lord_Howe", "UTC")


def several(spans):
    """Up to three spans; those that read the same are one."""
    return st.lists(spans, min_size=1, max_size=3, unique_by=lambda days: days and f"{days:g}").map(tuple)


PARAMETERS = {
    "where": st.none() | st.tuples(
        st.sampled_from((">", ">=", "<", "<=")),
        st.sampled_from((0, 1, 2.5, -3.25, 0.1, 1e9)) | st.floats(allow_nan=False, allow_infinity=False),
    ),
    "days": several(SPANS | st.none()),
    "half_life_days": several(SPANS),
    "period_days": SPANS,
    "place": st.integers(1, 5),
    "zone": st.sampled_from(ZONES),
}  # fmt: skip
KINDS_NAMED = ("email", "click", "email_click", "a_b", "b", "web", "proposal", "never")


@st.composite
def declarations(draw):
    """Any feature with any parameters that it may have."""
    kind = draw(st.sampled_from(list(FEATURES.values())))
    given = {field.name: draw(PARAMETERS[field.name]) for field in fields(kind) if field.name in PARAMETERS}
    left = {field.name for field in fields(kind)} - set(given)
    if "by" in left:
        look = st.sampled_from(BYS[1:] if kind.by else BYS).map(lambda by: {"by": by})
        given |= draw(look if kind.by else look | st.sampled_from(KINDS_NAMED).map(lambda of: {"of": of}))
    if "first" in left:
        given["first"], given["then"] = draw(st.permutations(KINDS_NAMED))[:2]
    if "past_days" in left:
        given["recent_days"], given["past_days"] = sorted(draw(st.lists(SPANS, min_size=2, max_size=2, unique=True)))
    assert left <= {*given, "by", "of"}, f"{kind.__name__} has parameters that are not drawn"
    return kind(**given)


def equal_bits(a, b):
    """Whether two matrices are the same to the bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def differing(names, got, expected):
    """The columns in which two rows differ, for people to read."""
    return {
        name: (float(a), float(b))
        for name, a, b in zip(names, got, expected, strict=True)
        if not (a == b or a != a != b)
    }


def as_ofs_of(world):
    """Instants that matter in a world, and those just after them."""
    times = {lead["created"] for lead in world}
    for lead in world:
        times |= {row[key] for rows in ("touches", "facts") for row in lead[rows] for key in ("at", "known")}
    return sorted({t + step for t in times for step in (0, 1, 7 * DAY)})


def check_against_the_oracle(world, as_ofs, declared=EVERY, fitted=None):
    """Asks about each lead as of each instant; returns the features and their matrix."""
    fitted = world if fitted is None else fitted
    features, vocabulary = FeatureSet.fit(declared, dataset_of(fitted)), oracle.fit(declared, fitted)
    rows = [(i, as_of) for i in range(len(world)) for as_of in as_ofs]
    matrix = features.compute(dataset_of(world), Cohort.at([i for i, _ in rows], np.array([t for _, t in rows])))
    for (i, as_of), got in zip(rows, matrix, strict=True):
        said = oracle.row(declared, vocabulary, world[i], as_of)
        expected = np.array([value for _, value in said], np.float64).astype(np.float32)
        assert np.array_equal(got, expected, equal_nan=True), differing(features.names, got, expected)
        # A name that was taken is told apart by how the touches are.
        assert all(a == b or a.startswith(f"{b}_by_") for a, (b, _) in zip(features.names, said, strict=True))
    return features, matrix


# Against the oracle.


def test_age_stands_in_for_days_since_what_never_came() -> None:
    dataset = example()
    features = FeatureSet.fit((DaysSince(by="channel"), Age(), DaysSinceFirst(), Count(), Attributes()), dataset)
    age = features.names.index("age_days")
    expected = [age if name.startswith("days_since") else -1 for name in features.names]
    assert features.stand_in.tolist() == expected and age in expected
    assert set(FeatureSet.fit((DaysSince(), Count()), dataset).stand_in.tolist()) == {-1}


def test_every_kind_of_feature_has_an_oracle_and_is_tested():
    assert set(oracle.ORACLE) == set(FEATURES) == {type(feature).__name__ for feature in EVERY}


@given(world=worlds, others=worlds, data=st.data())
def test_the_kernel_equals_the_oracle(world, others, data):
    """Fitted on other leads and some of these: kinds, words and attributes that were never seen come up."""
    as_ofs = data.draw(st.lists(st.sampled_from(as_ofs_of(world)) | instants, min_size=1, max_size=4))
    check_against_the_oracle(world, as_ofs, fitted=[*others, *world[1:]])


@given(declared=declarations(), world=worlds, others=worlds, data=st.data())
def test_the_kernel_equals_the_oracle_whatever_is_declared(declared, world, others, data):
    as_ofs = data.draw(st.lists(st.sampled_from(as_ofs_of(world)) | instants, min_size=1, max_size=4))
    check_against_the_oracle(world, as_ofs, (declared,), fitted=[*others, *world[1:]])


@given(world=worlds)
def test_the_vocabulary_equals_the_oracle(world):
    vocabulary = FeatureSet.fit(EVERY, dataset_of(world)).vocabulary
    expected = oracle.fit(EVERY, world)
    learned = {by: [*names, "other"] for by, names in vocabulary.groups.items()} | {(): ["touch"]}
    assert learned == expected["groups"]
    assert list(vocabulary.attributes) == list(expected["readings"])
    readings = {name: list(r) if isinstance(r, tuple) else r for name, r in vocabulary.attributes.items()}
    assert readings == expected["readings"]


# The door: nothing at or after as_of matters.


def futures(as_of):
    """A lead's entries that occurred or were recorded at or after as_of."""
    times = [*INSTANTS, *(as_of + delay for delay in DELAYS)]
    return st.fixed_dictionaries({
        "touches": st.lists(touches(LATE_KINDS, times, since=as_of), max_size=3),
        "facts": st.lists(facts(LATE_CELLS, times, since=as_of), max_size=2),
        "outcomes": st.lists(outcomes(times, since=as_of), max_size=1),
    })  # fmt: skip


def known_before(lead, as_of):
    rows = {key: [r for r in lead[key] if r["known"] < as_of] for key in ("touches", "facts", "outcomes")}
    return dict(lead, **rows)


@st.composite
def two_futures(draw):
    """Two worlds that are the same before as_of, and that instant."""
    world = draw(worlds)
    as_of = draw(st.sampled_from(as_ofs_of(world)) | instants)
    later = leads(LATE_KINDS, LATE_CELLS, [as_of + delay for delay in DELAYS], size=2)
    other = []
    for lead in world:
        if lead["created"] >= as_of:
            lead = dict(lead, attributes=draw(later)["attributes"])
        past, future = known_before(lead, as_of), draw(futures(as_of))
        other.append(dict(past, **{key: [*future[key], *past[key]] for key in future}))
    newcomers = draw(st.lists(later, max_size=1))
    return world, [*other, *newcomers], as_of


def check_the_door(one, other, as_of):
    features = FeatureSet.fit(EVERY, one.known_at(as_of))
    assert features == FeatureSet.fit(EVERY, other.known_at(as_of))
    mine, its = (features.compute(dataset, Cohort.at(dataset.find(one.ids), as_of)) for dataset in (one, other))
    assert equal_bits(mine, its)
    assert one.ids[one.open_at(as_of).lead].tolist() == other.ids[other.open_at(as_of).lead].tolist()


@given(case=two_futures())
def test_nothing_at_or_after_as_of_matters(case):
    world, other, as_of = case
    check_the_door(dataset_of(world), dataset_of(other), as_of)


@given(case=two_futures(), data=st.data())
def test_nothing_at_or_after_as_of_matters_in_tables(case, data):
    """Nor does a link of two ids."""
    world, other, as_of = case
    names = [f"lead {i}" for i in range(len(other))]
    linked = data.draw(st.permutations(names))[:2]
    at = isoformat(as_of + data.draw(st.sampled_from(DELAYS)))
    links = pd.DataFrame({"lead_id": linked[:1], "same_as": linked[-1:], "occurred_at": [at]})
    one = Dataset.from_frames(**tables_of(world))
    two = Dataset.from_frames(**tables_of(other), aliases=links if len(linked) == 2 else None)
    check_the_door(one, two, as_of)


@given(world=worlds, data=st.data())
def test_a_dataset_known_at_as_of_gives_what_the_whole_dataset_gives(world, data):
    dataset, features = dataset_of(world), FeatureSet.fit(EVERY, dataset_of(world))
    as_of = data.draw(st.sampled_from(as_ofs_of(world)) | instants)
    later = as_of + data.draw(st.sampled_from(DELAYS))
    there = np.flatnonzero(dataset.created_at < as_of)
    expected = features.compute(dataset, Cohort.at(there, as_of))
    for known in (dataset.known_at(as_of), dataset.known_at(later), dataset.known_at(later).known_at(as_of)):
        mine = known.find(dataset.ids[there])
        assert equal_bits(features.compute(known, Cohort.at(mine, as_of)), expected)


# The same however it is asked.


@given(world=worlds, as_of=instants, data=st.data())
def test_neither_the_order_of_the_input_nor_duplicates_matter(world, as_of, data):
    """Duplicates are exact copies of touches, unless these say only the day, and of facts."""
    mixed = []
    for lead in world:
        copies = [t for t in lead["touches"] if t["message"] or not t["dated"]]
        twice = data.draw(st.lists(st.sampled_from(copies), max_size=2)) if copies else []
        again = data.draw(st.lists(st.sampled_from(lead["facts"]), max_size=1)) if lead["facts"] else []
        mixed.append(dict(
            lead,
            touches=data.draw(st.permutations([*lead["touches"], *twice])),
            facts=data.draw(st.permutations([*lead["facts"], *again])),
        ))  # fmt: skip
    one, other = dataset_of(world), dataset_of(mixed)
    features = FeatureSet.fit(EVERY, one)
    assert features == FeatureSet.fit(EVERY, other)
    cohort = Cohort.at(np.arange(len(world)), as_of)
    assert equal_bits(features.compute(one, cohort), features.compute(other, cohort))


@given(world=worlds, as_of=instants, seed=st.integers(0, 2**32 - 1), twice=st.sets(st.integers(0, 20)))
def test_neither_the_order_of_rows_in_tables_nor_duplicates_matter(world, as_of, seed, twice):
    tables = tables_of(world)
    mixed = {}
    for name, frame in tables.items():
        again = frame[[name != "leads" and k in twice for k in range(len(frame))]]
        if name == "touchpoints":
            again = again[(again["occurred_at"].str.len() > len("2026-01-01")) | again["message_id"].notna()]
        mixed[name] = pd.concat([frame, again]).sample(frac=1, random_state=seed, ignore_index=True)
    one, other = Dataset.from_frames(**tables), Dataset.from_frames(**mixed)
    features = FeatureSet.fit(EVERY, one)
    assert features == FeatureSet.fit(EVERY, other)
    mine, its = (features.compute(dataset, Cohort.at(dataset.find(one.ids), as_of)) for dataset in (one, other))
    assert equal_bits(mine, its)
    assert sorted(one.ids[one.open_at(as_of).lead]) == sorted(other.ids[other.open_at(as_of).lead])


@given(world=worlds, as_of=instants)
def test_a_row_alone_equals_the_row_in_a_batch(world, as_of):
    """Alone in the cohort, and alone in a dataset and in tables of its own."""
    dataset, features = dataset_of(world), FeatureSet.fit(EVERY, dataset_of(world))
    batch = features.compute(dataset, Cohort.at(np.arange(len(world)), as_of))
    for i, lead in enumerate(world):
        expected = batch[i : i + 1]
        assert equal_bits(features.compute(dataset, Cohort.at([i], as_of)), expected)
        assert equal_bits(features.compute(dataset_of([lead]), Cohort.at([0], as_of)), expected)


@given(world=worlds, as_of=instants)
def test_a_lead_in_tables_of_its_own_equals_the_lead_among_others(world, as_of):
    features = FeatureSet.fit(EVERY, dataset_of(world))
    batch = features.compute(dataset_of(world), Cohort.at(np.arange(len(world)), as_of))
    together = Dataset.from_frames(**tables_of(world))
    assert equal_bits(features.compute(together, Cohort.at(np.arange(len(world)), as_of)), batch)
    for i, lead in enumerate(world):
        alone = Dataset.from_frames(**tables_of([lead]))
        assert equal_bits(features.compute(alone, Cohort.at([0], as_of)), batch[i : i + 1])


@given(world=worlds, as_of=instants)
def test_out_is_reused(world, as_of):
    dataset = dataset_of(world)
    features, cohort = FeatureSet.fit(EVERY, dataset), Cohort.at(np.arange(len(world)), as_of)
    out = np.full((len(world), len(features.names)), 7, np.float32)
    assert features.compute(dataset, cohort, out=out) is out
    assert equal_bits(out, features.compute(dataset, cohort))


# One feature a table: what happened, and what each feature says of it.


TOUCHPOINTS = table("""
    lead_id  occurred_at           channel  action  value  recorded_at
    a        2026-01-01T00:00:00Z  email    send    -      -
    a        2026-01-03T12:00:00Z  email    click   2.5    -
    a        2026-01-03T12:00:00Z  web      -       1      -
    a        2026-01-11T00:00:00Z  email    click   4      -
    a        2026-01-11T00:00:00Z  call     demo    -      2026-01-12T00:00:00Z
    b        2026-01-05            fair     -       7      -
""")
LEADS = table("""
    lead_id  created_at            industry  employees
    a        2025-12-31T00:00:00Z  cleaning  40
    b        2026-01-05T00:00:00Z  painting  -
    c        2026-01-10T06:00:00Z  -         8
""")
FACTS = table("""
    lead_id  occurred_at           name       value     recorded_at
    a        2026-01-06T00:00:00Z  industry   painting  -
    a        2026-01-08T00:00:00Z  industry   cleaning  2026-01-10T00:00:00Z
    a        2026-01-09T00:00:00Z  employees  -         -
    b        2026-01-06T00:00:00Z  employees  12        -
""")


@pytest.fixture(scope="module")
def small():
    return Dataset.from_frames(touchpoints=TOUCHPOINTS, leads=LEADS, attributes=FACTS)


def column(dataset, feature, name, lead, as_of):
    features = FeatureSet.fit((feature,), dataset)
    matrix = features.compute(dataset, Cohort.at(dataset.find([lead]), as_of))
    return float(matrix[0, features.names.index(name)])


# fmt: off
SAID = [
    #                                                           as of 4 January, 11 January, and a second later
    (Count(), "touch_count", "a",                               [3, 3, 4]),
    (Count(days=(7,)), "touch_count_7d", "a",                   [3, 0, 1]),
    (Count(days=(10,)), "touch_count_10d", "a",                 [3, 3, 3]),
    (Count(by=("channel",)), "email_count", "a",                [2, 2, 3]),
    (Count(by=("action",)), "click_count", "a",                 [1, 1, 2]),
    (Count(by=("action",)), "web_count", "a",                   [1, 1, 1]),
    (Count(by=("channel", "action")), "email_send_count", "a",  [1, 1, 1]),
    (Count(by=("channel", "action")), "call_demo_count", "a",   [0, 0, 0]),
    (Count(), "touch_count", "b",                               [0, 1, 1]),
    (Sum(), "touch_sum", "a",                                   [3.5, 3.5, 7.5]),
    (Sum(by=("channel",), days=(1,)), "email_sum_1d", "a",      [2.5, 0, 4]),
    (Decayed(), "touch_decayed_7d", "c",                        [0, 0, 0]),
    (DaysSince(), "days_since_touch", "a",                      [0.5, 7.5, 1 / 86_400]),
    (DaysSince(by=("action",)), "days_since_send", "a",         [3, 10, 10 + 1 / 86_400]),
    (DaysSince(by=("action",)), "days_since_demo", "a",         [None, None, None]),
    (First(), "first_channel_is_email", "a",                    [1, 1, 1]),
    (First(), "first_channel_is_web", "a",                      [0, 0, 0]),
    (First(), "first_channel_is_fair", "b",                     [0, 1, 1]),
    (Last(), "last_channel_is_web", "a",                        [1, 1, 0]),
    (Last(), "last_channel_is_email", "a",                      [0, 0, 1]),
    (Count(by="direction"), "inbound_count", "a",               [2, 2, 3]),
    (Count(by="side"), "marketing_count", "a",                  [3, 3, 4]),
    (Count(of="email"), "email_count", "a",                     [2, 2, 3]),
    (Count(of="E-mail, Click"), "e_mail_click_count", "a",      [0, 0, 0]),
    (Count(of="click", days=(7,)), "click_count_7d", "a",       [1, 0, 1]),
    (Count(where=(">", 1)), "touch_count_over_1", "a",          [1, 1, 2]),
    (Count(where=(">=", 1)), "touch_count_from_1", "a",         [2, 2, 3]),
    (Sum(where=("<", 2.5), days=(30,)), "touch_sum_30d_under_2_5", "a", [1, 1, 1]),
    (Mean(), "touch_mean", "a",                                 [1.75, 1.75, 2.5]),
    (Mean(by="channel", days=(1,)), "email_mean_1d", "a",       [2.5, None, 4]),
    (Max(by="channel"), "email_max", "a",                       [2.5, 2.5, 4]),
    (Max(by="channel"), "call_max", "a",                        [None, None, None]),
    (DaysSinceFirst(), "days_since_first_touch", "a",           [3, 10, 10 + 1 / 86_400]),
    (DaysSinceFirst(of="click"), "days_since_first_click", "a", [0.5, 7.5, 7.5 + 1 / 86_400]),
    (Distinct(), "distinct_channel", "a",                       [2, 2, 2]),
    (Distinct(days=(7,)), "distinct_channel_7d", "a",           [2, 0, 1]),
    (ActiveDays(), "touch_active_days", "a",                    [2, 2, 3]),
    (Gap(), "touch_gap_mean", "a",                              [1.25, 1.25, 10 / 3]),
    (Gap(), "touch_gap_max", "a",                               [2.5, 2.5, 7.5]),
    (Gap(), "touch_gap_last", "a",                              [0, 0, 7.5]),
    (Gap(), "touch_silence", "a",                               [0.4, 6, 3 / 864_000]),
    (Gap(), "touch_gap_mean", "b",                              [None, None, None]),
    (Streak(period_days=2), "touch_streak_2d", "a",             [2, 0, 1]),
    (Streak(period_days=10), "touch_streak_10d", "a",           [1, 1, 2]),
    (Last(place=2), "last_2_channel_is_email", "a",             [1, 1, 0]),
    (Last(place=2), "last_2_channel_is_web", "a",               [0, 0, 1]),
    (Trend(recent_days=1, past_days=4), "touch_trend_1d_4d", "a", [8 / 3, 0, 4]),
    (Share(), "email_share", "a",                               [2 / 3, 2 / 3, 3 / 4]),
    (Share(days=(7,)), "web_share_7d", "a",                     [1 / 3, 0, 0]),
    (Sequence(first="send", then="web"), "send_before_web", "a", [1, 1, 1]),
    (Sequence(first="web", then="email"), "web_before_email", "a", [0, 0, 1]),
    (TimeOfWeek(), "touch_business_hours", "a",                 [0, 0, 0]),
    (TimeOfWeek(zone="Pacific/Auckland"), "touch_business_hours_pacific_auckland", "a", [1 / 3, 1 / 3, 1 / 4]),
    (Age(), "age_days", "a",                                    [4, 11, 11 + 1 / 86_400]),
    (Attributes(), "lead_industry_is_cleaning", "a",            [1, 1, 1]),
    (Attributes(), "lead_industry_is_painting", "a",            [0, 0, 0]),
    (Attributes(), "lead_employees", "a",                       [40, None, None]),
    (Attributes(), "lead_employees", "b",                       [None, 12, 12]),
    (Attributes(), "lead_industry_is_missing", "b",             [1, 0, 0]),
    (Attributes(), "lead_industry_is_missing", "c",             [1, 1, 1]),
    (Attributes(), "lead_employees", "c",                       [None, 8, 8]),
]
# fmt: on


@pytest.mark.parametrize(("feature", "name", "lead", "values"), SAID)
def test_what_a_feature_says(small, feature, name, lead, values):
    as_ofs = ("2026-01-04", "2026-01-11", "2026-01-11T00:00:01Z")
    got = [column(small, feature, name, lead, as_of) for as_of in as_ofs]
    assert got == pytest.approx([np.nan if v is None else v for v in values], nan_ok=True, rel=1e-6)


@pytest.mark.parametrize(
    ("days", "worth"),
    [(0, 1), (7, 0.5), (14, 0.25), (21, 0.125)],
)
def test_a_touch_is_worth_half_as_much_after_every_half_life(small, days, worth):
    # Of the two touches of 3 January, only one is by email and a click.
    as_of = pd.Timestamp("2026-01-03T12:00:00Z") + pd.Timedelta(days=days)
    dataset = small.known_at("2026-01-04")
    feature = Decayed(by=("action",), half_life_days=(7,))
    got = column(dataset, feature, "click_decayed_7d", "a", as_of + pd.Timedelta(microseconds=1))
    assert got == pytest.approx(worth, rel=1e-6)


@pytest.mark.parametrize(
    ("as_of", "industry"),
    [
        ("2025-12-31T00:00:00Z", "missing"),
        ("2025-12-31T00:00:00.000001Z", "cleaning"),
        ("2026-01-06T00:00:00Z", "cleaning"),
        ("2026-01-06T00:00:00.000001Z", "painting"),
        ("2026-01-10T00:00:00Z", "painting"),  # the change of the 8th was recorded on the 10th
        ("2026-01-10T00:00:00.000001Z", "cleaning"),
    ],
)
def test_an_attribute_is_what_was_known_last(small, as_of, industry):
    said = {
        word: column(small, Attributes(), f"lead_industry_is_{word}", "a", as_of)
        for word in ("cleaning", "painting", "other", "missing")
    }
    assert said == {word: float(word == industry) for word in said}


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (("9", "10"), "10"),
        (("10", "9"), "10"),
        (("10", "A7"), "A7"),
        (("-", "10"), "missing"),
        (("B", "A7"), "B"),
    ],
)
@pytest.mark.parametrize("elsewhere", ["8", "word"])
def test_of_two_facts_of_one_instant_the_greater_counts(values, kept, elsewhere):
    """Numbers, then words, then what is missing, whatever other leads have."""
    facts = "\n".join(f"a 2026-01-01T00:00:00Z code {value}" for value in values)
    dataset = Dataset.from_frames(
        leads=table("lead_id created_at\na 2025-01-01T00:00:00Z\nb 2025-01-01T00:00:00Z"),
        attributes=table(f"lead_id occurred_at name value\n{facts}\nb 2026-01-01T00:00:00Z code {elsewhere}"),
    )
    model = Dataset.from_frames(
        leads=table("lead_id created_at code\na 2025-01-01 10\nb 2025-01-01 9\nc 2025-01-01 A7\nd 2025-01-01 B")
    )
    features = FeatureSet.fit((Attributes(),), model)
    row = features.compute(dataset, Cohort.at([0], "2026-02-01"))[0]
    assert [name for name, value in zip(features.names, row, strict=True) if value] == [f"lead_code_is_{kept}"]


@pytest.mark.parametrize(
    ("learned", "given", "says"),
    [
        (["9", "A7"], ["9", "A7", "10"], ["9", "A7", "other"]),
        (["9", "A7"], [9, 9.0, 10], ["9", "9", "other"]),
        (["9", "A7"], ["9", "9.0", "07"], ["9", "9", "other"]),
        ([9.0, "A7", "x"], ["9", "9.0", "B"], ["9", "9", "other"]),
        (["true", "A7"], ["true", None, "false"], ["true", "missing", "other"]),
        ([9, 10], [9, "10", "A7"], [9, 10, None]),
        (["9", "10"], [9, "1e1", "A7"], [9, 10, None]),
        ([9, None], ["nan", "inf", None], [None, None, None]),
    ],
)
def test_an_attribute_may_be_given_as_text_or_as_numbers(learned, given, says):
    """What is learned as a category is read as one, what is learned as a number as that."""

    def dataset(values):
        none = {"touches": [], "facts": [], "outcomes": []}
        return dataset_of([{"created": 0, "attributes": {"x": value}, **none} for value in values])

    features = FeatureSet.fit((Attributes(),), dataset(learned))
    for batch, expected in [(given, says), *(([one], [other]) for one, other in zip(given, says, strict=True))]:
        matrix = features.compute(dataset(batch), Cohort.at(np.arange(len(batch)), 1))
        if features.names == ("lead_x",):
            assert [None if np.isnan(v) else v for v in matrix[:, 0]] == expected
        else:
            assert [features.names[k].removeprefix("lead_x_is_") for k in matrix.argmax(axis=1)] == expected
            assert (matrix.sum(axis=1) == 1).all()


# The boundaries, to the microsecond.


@pytest.mark.parametrize(
    ("steps", "seen"),
    [(-1, 0), (0, 0), (1, 1)],
    ids=["a microsecond before the touch", "at the touch", "a microsecond after it"],
)
@pytest.mark.parametrize("feature", [Count(), Sum(), Decayed(), First(by=("action",)), Last(by=("action",))], ids=repr)
def test_a_touch_is_seen_from_a_microsecond_after_it_on(feature, steps, seen):
    world = [{"created": 0, "attributes": {}, "touches": [_touch(5 * DAY)], "facts": [], "outcomes": []}]
    features = FeatureSet.fit((feature,), dataset_of(world))
    assert features.compute(dataset_of(world), Cohort.at([0], 5 * DAY + steps))[0, 0] == pytest.approx(seen)


@pytest.mark.parametrize(("steps", "seen"), [(-1, 1), (0, 1), (1, 0)], ids=["younger", "as old", "older"])
@pytest.mark.parametrize("feature", [Count(days=(7,)), Sum(days=(7,))], ids=repr)
def test_a_touch_as_old_as_the_window_is_in_it(feature, steps, seen):
    world = [{"created": 0, "attributes": {}, "touches": [_touch(5 * DAY)], "facts": [], "outcomes": []}]
    features = FeatureSet.fit((feature,), dataset_of(world))
    assert features.compute(dataset_of(world), Cohort.at([0], 12 * DAY + steps)).tolist() == [[seen]]


def test_a_touch_recorded_late_is_seen_only_then():
    world = [{"created": 0, "attributes": {}, "touches": [_touch(5 * DAY, 9 * DAY)], "facts": [], "outcomes": []}]
    features = FeatureSet.fit((Count(), DaysSince()), dataset_of(world))
    cohort = Cohort.at([0, 0], np.array([9 * DAY, 9 * DAY + 1]))
    matrix = features.compute(dataset_of(world), cohort)
    assert np.array_equal(matrix, np.array([[0, np.nan], [1, 4]], np.float32), equal_nan=True)


def _touch(at, known=None):
    return {
        "at": at, "known": known or at, "channel": "email", "action": "click", "value": 1.0, "message": None,
        "dated": False,
    }  # fmt: skip


# The vocabulary.


def test_the_32_most_frequent_kinds_get_a_column_and_the_rest_share_other():
    # k00 comes 40 times, k01 39 times, ... k39 once.
    names = [f"k{i:02}" for i in range(40) for _ in range(40 - i)]
    frame = pd.DataFrame({"lead_id": "a", "channel": names})
    frame["occurred_at"] = [isoformat(k * DAY + 1) for k in range(len(names))]
    dataset = Dataset.from_frames(touchpoints=frame)
    features = FeatureSet.fit((Count(by=("channel",)),), dataset)
    assert features.names == (*(f"k{i:02}_count" for i in range(32)), "other_count")
    row = features.compute(dataset, Cohort.at([0], 10_000 * DAY))[0].tolist()
    assert row == [*(40 - i for i in range(32)), 8 + 7 + 6 + 5 + 4 + 3 + 2 + 1]


def test_the_16_most_frequent_words_get_a_column_and_the_rest_share_other():
    words = [f"w{i:02}" for i in range(20) for _ in range(20 - i)]
    frame = pd.DataFrame({"lead_id": [f"L{k}" for k in range(len(words))], "created_at": "2026-01-01", "w": words})
    dataset = Dataset.from_frames(leads=frame)
    features = FeatureSet.fit((Attributes(),), dataset)
    assert features.names == (*(f"lead_w_is_w{i:02}" for i in range(16)), "lead_w_is_other", "lead_w_is_missing")
    matrix = features.compute(dataset, Cohort.at(np.arange(len(words)), "2026-02-01"))
    assert matrix.sum(axis=0).tolist() == [*(20 - i for i in range(16)), 4 + 3 + 2 + 1, 0]


def test_of_equally_frequent_kinds_and_words_the_first_by_name_get_a_column():
    # The actions run against the channels they come through.
    kinds = [(f"c{i:02}", f"k{39 - i:02}") for i in range(40)]
    frame = pd.DataFrame(kinds, columns=["channel", "action"])
    frame = frame.assign(lead_id=frame["channel"], occurred_at="2026-01-02T00:00:00Z")
    people = pd.DataFrame({"lead_id": frame["channel"], "created_at": "2026-01-01", "w": frame["action"]})
    dataset = Dataset.from_frames(touchpoints=frame, leads=people)
    vocabulary = FeatureSet.fit((Count(by=("action",)), Attributes()), dataset).vocabulary
    assert vocabulary.groups == {("action",): tuple(f"k{i:02}" for i in range(32))}
    assert vocabulary.attributes == {"w": tuple(f"k{i:02}" for i in range(16))}


def test_kinds_and_attributes_of_the_future_get_no_column(small):
    past = small.known_at("2026-01-03T12:00:00Z")
    features = FeatureSet.fit((Count(by=("channel",)), Attributes()), past)
    assert features.names == (
        "email_count", "other_count", "lead_employees", "lead_industry_is_cleaning", "lead_industry_is_other",
        "lead_industry_is_missing",
    )  # fmt: skip


def test_a_model_without_leads_still_has_columns():
    features = FeatureSet.fit(LEAD_FEATURES, dataset_of([]))
    assert features.compute(dataset_of([]), Cohort.concat([])).shape == (0, len(features.names))


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ((Count(days=(7, 0.5, None)),), ["touch_count_7d", "touch_count_0.5d", "touch_count"]),
        ((Count(by=("channel",)), Count(by=("action",))),
         ["click_count", "other_count", "click_count_by_action", "other_count_by_action"]),
        ((Count(by=("channel", "action")),), ["click_count", "click_click_count", "other_count"]),
    ],
)  # fmt: skip
def test_names_follow_from_parameters(declared, names):
    frame = table("""
        lead_id  occurred_at           channel  action
        a        2026-01-01T00:00:00Z  click    -
        a        2026-01-02T00:00:00Z  click    click
    """)
    assert set(FeatureSet.fit(declared, Dataset.from_frames(touchpoints=frame)).names) == set(names)


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ((Age(), Age()), "age_days"),
        ((Attributes(), Attributes()), "lead_employees"),
        ((Count(days=(7, 7)),), "touch_count_7d"),
        ((Count(days=(7,)), Count(days=(30, 7))), "touch_count_7d"),
        ((Count(of="demo"), Count(of="Demo")), "demo_count"),
        ((Sum(where=(">", 1)), Sum(where=(">", 1.0))), "touch_sum_over_1"),
        ((DaysSince(by=("channel",)), DaysSince(by=("channel",))), "days_since_call"),
    ],
)
def test_a_feature_declared_twice_is_an_error(small, declared, name):
    with pytest.raises(UsageError) as error:
        _ = FeatureSet.fit(declared, small).names
    assert str(error.value) == f"{name!r} is declared twice, the second time in {declared[-1]}. Remove one."


# What a cohort and a buffer may be.


@pytest.mark.parametrize(
    ("out", "got"),
    [
        (np.empty((3, 2), np.float64), "float64 (3, 2)"),
        (np.empty((2, 2), np.float32), "float32 (2, 2)"),
        (np.empty((2, 3), np.float32).T, "float32 (3, 2)"),
        (np.frombuffer(bytes(24), np.float32).reshape(3, 2), "float32 (3, 2)"),
    ],
    ids=["double", "too short", "transposed", "read-only"],
)
def test_a_buffer_that_does_not_fit_is_an_error(small, out, got):
    features = FeatureSet.fit((Age(), Count()), small)
    with pytest.raises(UsageError) as error:
        features.compute(small, Cohort.at([0, 1, 2], "2026-01-04"), out=out)
    assert str(error.value) == f"out must be a writable C-contiguous float32 array of shape (3, 2); got {got}."


@pytest.mark.parametrize("lead", [-1, 3])
def test_a_lead_that_the_dataset_does_not_have_is_an_error(small, lead):
    features = FeatureSet.fit((Age(),), small)
    with pytest.raises(UsageError, match=f"the cohort asks about leads {lead} to {lead}, but the dataset has 3. Use a"):
        features.compute(small, Cohort.at([lead], "2026-01-04"))


def test_no_layout_of_a_cohort_makes_the_kernel_compile_anew(small):
    features = FeatureSet.fit((Age(),), small)
    cohort = Cohort.at(np.array([0, 1, 2]), "2026-01-04")
    expected = features.compute(small, cohort)
    compiled = len(run.signatures), len(_slices.signatures)
    fixed = cohort.lead.copy()
    fixed.setflags(write=False)
    assert equal_bits(features.compute(small, Cohort(fixed, cohort.as_of)), expected)
    assert equal_bits(features.compute(small, cohort[::2]), expected[::2])
    assert (len(run.signatures), len(_slices.signatures)) == compiled


# What parameters may be.


# fmt: off
WRONG = [
    (lambda: Count(by="weekday"),           "by='weekday' tells no touches apart. Use one of (), ('channel',), ("),
    (lambda: Count(by=("side", "channel")), "by=('side', 'channel') tells no touches apart."),
    (lambda: Count(by=["channel"]),         "by=['channel'] tells no touches apart."),
    (lambda: Count(by=None),                "by=None tells no touches apart."),
    (lambda: Count(by="side", of="email"),  "by='side' and of='email' exclude each other. Use one of them."),
    (lambda: Share(by=()),                  "Share needs touches told apart. Give by, e.g. by='channel', and no of."),
    (lambda: First(of="email"),             "First needs touches told apart. Give by, e.g. by='channel', and no of."),
    (lambda: Distinct(by="", of="email"),   "Distinct needs touches told apart."),
    (lambda: Gap(of="--"),                  "of='--' names no kind of touch. Use a channel, an action or both: 'emai"),
    (lambda: Gap(of=" "),                   "of=' ' names no kind of touch."),
    (lambda: Gap(of=None),                  "of=None names no kind of touch."),
    (lambda: Gap(of=("email",)),            "of=('email',) names no kind of touch."),
    (lambda: Sum(where=("=", 3)),           "where=('=', 3) is no condition on values. Write e.g. where=('>', 10), w"),
    (lambda: Sum(where=(">", "3")),         "where=('>', '3') is no condition on values."),
    (lambda: Sum(where=(">", True)),        "where=('>', True) is no condition on values."),
    (lambda: Sum(where=(">", np.nan)),      "where=('>', nan) is no condition on values."),
    (lambda: Sum(where=(">", 10**400)),     "is no condition on values."),
    (lambda: Sum(where=(">",)),             "where=('>',) is no condition on values."),
    (lambda: Sum(where=[">", 3]),           "where=['>', 3] is no condition on values."),
    (lambda: Sum(where=3),                  "where=3 is no condition on values."),
    (lambda: Count(days=()),                "days=() is no tuple of spans in days. Write e.g. days=(7, 30)."),
    (lambda: Count(days=7),                 "days=7 is no tuple of spans in days."),
    (lambda: Count(days=[7]),               "days=[7] is no tuple of spans in days."),
    (lambda: Count(days=None),              "days=None is no tuple of spans in days."),
    (lambda: Count(days=(7, 0)),            "days=(7, 0): 0 is no span in days. Use a number above 0, at most 3,652"),
    (lambda: Count(days=(None, -1)),        "days=(None, -1): -1 is no span in days."),
    (lambda: Count(days=("7",)),            "days=('7',): '7' is no span in days."),
    (lambda: Count(days=(np.nan,)),         "days=(nan,): nan is no span in days."),
    (lambda: Count(days=(np.inf,)),         "days=(inf,): inf is no span in days."),
    (lambda: Count(days=(1e-12,)),          "days=(1e-12,): 1e-12 is no span in days."),
    (lambda: Count(days=(True,)),           "days=(True,): True is no span in days."),
    (lambda: Decayed(half_life_days=(0,)),  "half_life_days=(0,): 0 is no span in days."),
    (lambda: Decayed(half_life_days=(None,)), "half_life_days=(None,): None is no span in days."),
    (lambda: Decayed(half_life_days=7),     "half_life_days=7 is no tuple of spans in days."),
    (lambda: Streak(period_days=0),         "period_days=0: 0 is no span in days."),
    (lambda: Streak(period_days=1e-12),     "period_days=1e-12: 1e-12 is no span in days."),
    (lambda: Streak(period_days=(7,)),      "period_days=(7,): (7,) is no span in days."),
    (lambda: Trend(recent_days=0),          "recent_days=0: 0 is no span in days."),
    (lambda: Trend(past_days=None),         "past_days=None: None is no span in days."),
    (lambda: Trend(recent_days=30),         "recent_days=30 must be less than past_days=30. Shorten one."),
    (lambda: Last(place=0),                 "place=0 is no place. The last touch is place 1, the one before it 2, at"),
    (lambda: Last(place=1.0),               "place=1.0 is no place."),
    (lambda: Last(place=True),              "place=True is no place."),
    (lambda: Sequence(first="a", then="A "), "first='a' and then='A ' are one kind. Give two."),
    (lambda: Sequence(first="", then="a"),  "first='' names no kind of touch."),
    (lambda: Sequence(first="a", then=3),   "then=3 names no kind of touch."),
    (lambda: TimeOfWeek(zone="Mars"),       "the zone 'Mars' is not known. Use an IANA name, e.g. Europe/Amsterdam o"),
    (lambda: TimeOfWeek(zone=""),           "the zone '' is not known."),
    (lambda: TimeOfWeek(zone=3),            "the zone 3 is not known."),
    (lambda: TimeOfWeek(days=(0,)),         "days=(0,): 0 is no span in days."),
]
# fmt: on


@pytest.mark.parametrize(("declare", "says"), WRONG, ids=[says for _, says in WRONG])
def test_a_wrong_parameter_is_an_error_at_once(declare, says):
    with pytest.raises(UsageError) as error:
        declare()
    assert says in str(error.value)


@pytest.mark.parametrize("kind", FEATURES.values(), ids=FEATURES.keys())
def test_parameters_are_named_where_they_are_given(kind):
    with pytest.raises(TypeError):
        kind("channel")


def test_one_word_tells_touches_apart_as_a_tuple_does():
    assert Count(by="channel") == Count(by=("channel",))
    assert Count(by="") == Count()


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ((">", 10), "touch_count_over_10"),
        ((">=", -0.5), "touch_count_from_minus_0_5"),
        (("<", 1_234_567), "touch_count_under_1234567"),
        (("<=", 0), "touch_count_to_0"),
    ],
)
def test_a_condition_ends_the_name(small, where, name):
    assert FeatureSet.fit((Count(where=where),), small).names == (name,)


# Rare pasts.


def world_of(touches, attributes=None, facts=()):
    """One lead, created in 1970."""
    return [{"created": 0, "attributes": attributes or {}, "touches": touches, "facts": list(facts), "outcomes": []}]


def test_a_lead_without_a_touch_has_zeros_and_missing_values():
    learned = world_of([_touch(5 * DAY), _touch(6 * DAY)])
    features, matrix = check_against_the_oracle(world_of([]), [DAY, 10 * DAY], fitted=learned)
    assert not [name for name, value in zip(features.names, matrix[1], strict=True) if value > 0 and name != "age_days"]


def test_attributes_of_which_no_value_is_known_get_no_column():
    world = world_of([], {"industry": None, "trial": None}, [dict(at=0, known=0, name="founded", value=None)])
    features, matrix = check_against_the_oracle(world, [1, DAY], (Attributes(),))
    assert features.names == ()
    assert matrix.shape == (2, 0)


def test_values_that_are_all_missing_have_no_mean():
    touches = [dict(_touch(day * DAY), value=None) for day in range(5)]
    features, matrix = check_against_the_oracle(world_of(touches), [10 * DAY])
    said = dict(zip(features.names, matrix[0].tolist(), strict=True))
    assert said["touch_sum"] == 0
    assert np.isnan(said["touch_mean"])
    assert np.isnan(said["touch_max"])
    assert said["touch_count_over_1"] == 0


def test_zeros_are_not_told_apart_by_their_sign():
    """Of 0.0 and -0.0 at one instant one is left, whichever came first."""
    matrices = []
    for values in ((0.0, -0.0), (-0.0, 0.0)):
        dataset = dataset_of(world_of([dict(_touch(DAY), value=value) for value in values]))
        features = FeatureSet.fit((Sum(), Mean(), Max(), Count(where=(">=", 0))), dataset)
        matrices.append(features.compute(dataset, Cohort.at([0], 2 * DAY)))
    assert equal_bits(*matrices)


@pytest.mark.parametrize("limit", [1.0, 0.1, -3.25, 0.0, 1e9, 5e-324, 2**53])
def test_a_value_at_the_limit_meets_the_conditions_that_include_it(limit):
    values = [np.nextafter(limit, -np.inf), float(limit), np.nextafter(limit, np.inf)]
    world = world_of([dict(_touch(k * DAY), value=float(value)) for k, value in enumerate(values, 1)])
    declared = tuple(Count(where=(sign, limit)) for sign in (">", ">=", "<", "<="))
    _, matrix = check_against_the_oracle(world, [9 * DAY], declared)
    assert matrix.tolist() == [[1, 2, 1, 2]]


@pytest.mark.parametrize("year", [1, 1583, 1850, 1900, 1969, 1970, 2024, 2262, 9998])
def test_any_year_will_do(year):
    start = (datetime(year, 2, 27, 8, 59, 59, 999_999, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
    steps = [0, 0, 1, DAY // 3, DAY // 3 + 1, DAY, 2 * DAY, 2 * DAY, 5 * DAY + 7, 40 * DAY]
    channels = ("email", "web", "email", "fair")
    touches = [
        dict(_touch(start + step), channel=channels[k % 4], action="", value=k / 8) for k, step in enumerate(steps)
    ]
    check_against_the_oracle(world_of(touches), [start + step + late for step in steps for late in (0, 1, 3 * DAY)])


def test_touches_of_one_instant_come_neither_before_nor_after_each_other():
    touches = [dict(_touch(DAY), channel=name, action="") for name in ("email", "web", "call")]
    declared = (Gap(), Sequence(first="email", then="web"), Sequence(first="web", then="email"), ActiveDays())
    _, matrix = check_against_the_oracle(world_of(touches), [2 * DAY], declared)
    assert np.array_equal(matrix, np.array([[0, 0, 0, np.nan, 0, 0, 1]], np.float32), equal_nan=True)
    later = [*touches, dict(_touch(DAY + 1), channel="email", action="")]
    _, matrix = check_against_the_oracle(world_of(later), [2 * DAY], declared[1:3])
    assert matrix.tolist() == [[0, 1]]


def test_a_touch_may_be_of_both_kinds_of_a_sequence():
    """A click by e-mail is an e-mail and a click: one alone is no sequence, two are."""
    declared = (Sequence(first="email", then="click"), Sequence(first="click", then="email"))
    _, matrix = check_against_the_oracle(world_of([_touch(DAY), _touch(2 * DAY)]), [2 * DAY, 2 * DAY + 1], declared)
    assert matrix.tolist() == [[0, 0], [1, 1]]


LONG_AGO, FAR_AHEAD = (
    (datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(hours=1) for year in (1880, 2120)
)


@pytest.mark.parametrize("zone", ZONES)
@given(hours=st.lists(st.integers(LONG_AGO, FAR_AHEAD), min_size=1, max_size=20), late=st.sampled_from([-1, 0, 1]))
def test_clocks_go_forward_and_back_as_the_zone_says(zone, hours, late):
    world = world_of([dict(_touch(hour * DAY // 24 + late), channel=f"k{k}") for k, hour in enumerate(hours)])
    check_against_the_oracle(world, [FAR_AHEAD * DAY], (TimeOfWeek(by="channel", zone=zone),))


@pytest.mark.parametrize(
    ("at", "busy"),
    [
        ("2026-03-27T08:00:00Z", 1),  # Friday, 9:00 in winter
        ("2026-03-27T07:59:59.999999Z", 0),
        ("2026-03-30T07:00:00Z", 1),  # Monday, 9:00 in summer
        ("2026-03-30T06:59:59.999999Z", 0),
        ("2026-03-30T15:00:00Z", 0),  # 17:00
        ("2026-10-23T14:59:59.999999Z", 1),  # Friday, before 17:00 in summer
        ("2026-10-26T15:59:59.999999Z", 1),  # Monday, before 17:00 in winter
        ("2026-10-26T16:00:00Z", 0),
        ("2026-03-29T10:00:00Z", 0),  # Sunday
    ],
)
def test_business_hours_are_those_of_the_clock_on_the_wall(at, busy):
    frame = pd.DataFrame({"lead_id": ["a"], "occurred_at": [at], "channel": ["call"]})
    dataset = Dataset.from_frames(touchpoints=frame)
    assert (
        column(dataset, TimeOfWeek(zone="Europe/Berlin"), "touch_business_hours_europe_berlin", "a", "2027-01-01")
        == busy
    )


def test_a_date_is_its_days_before_as_of():
    days = {"1850-06-01": 43_678, "1970-01-01": 0, "1970-01-11": -10, "1970-01-01T12:00:00+12:00": 0, None: None}
    learned = [world_of([], {"founded": day})[0] for day in days]
    features = FeatureSet.fit((Attributes(),), dataset_of(learned))
    assert features.names == ("lead_founded_age_days",)
    matrix = features.compute(dataset_of(learned), Cohort.at(np.arange(len(days)), 1))
    assert matrix[:, 0] == pytest.approx([np.nan if d is None else d for d in days.values()], nan_ok=True, abs=1e-6)
    strange = [world_of([], {"founded": value})[0] for value in ("soon", 1970.0, "1970-02-30", "70-01-01")]
    for batch in (strange, *([one] for one in strange), strange[1:2]):
        assert np.isnan(features.compute(dataset_of(batch), Cohort.at(np.arange(len(batch)), 1))).all()


def test_a_flag_is_1_or_0():
    learned = [world_of([], {"trial": value})[0] for value in ("true", "false")]
    features = FeatureSet.fit((Attributes(),), dataset_of(learned))
    assert features.names == ("lead_trial_is_true",)
    said = {"true": 1, "false": 0, 1.0: 1, "0": 0, 7.0: None, "maybe": None, None: None}
    given = [world_of([], {"trial": value})[0] for value in said]
    expected = [np.nan if value is None else value for value in said.values()]
    together = features.compute(dataset_of(given), Cohort.at(np.arange(len(given)), 1))[:, 0]
    alone = [float(features.compute(dataset_of([one]), Cohort.at([0], 1))[0, 0]) for one in given]
    assert np.array_equal(together, expected, equal_nan=True)
    assert np.array_equal(alone, expected, equal_nan=True)


def test_ten_thousand_kinds_of_touches():
    names = [f"k{i:05}" for i in range(10_000)]
    frame = pd.DataFrame({"lead_id": "a", "channel": names, "occurred_at": "2026-01-02T00:00:00Z"})
    dataset = Dataset.from_frames(touchpoints=frame)
    features = FeatureSet.fit(EVERY, dataset)
    said = dict(zip(features.names, features.compute(dataset, Cohort.at([0], "2026-01-03"))[0].tolist(), strict=True))
    assert said["touch_count"] == 10_000
    assert said["other_count"] == 10_000 - 32
    assert said["distinct_channel"] == 33


def test_time_grows_with_touches_and_not_with_their_square():
    """A hundred times as many touches take less than a thousand times as long."""
    spent = []
    for count in (1_000, 100_000):
        lead = np.zeros(count, np.int64)
        at = np.arange(count, dtype=np.int64) * 1_000_003
        kinds = [Kind("email", "click"), Kind("web"), Kind("call")]
        none = AttributeColumns.none(1)
        history = History.build(
            1, lead, at, at, (at % 3).astype(np.int32), (at % 7).astype(np.float64), kinds, lead - 1, lead > 0
        )
        dataset = Dataset(np.array(["a"], object), lead[:1], lead[:1] + NEVER, history, none, Outcomes.none())
        features = FeatureSet.fit(EVERY, dataset)
        cohort = Cohort.at([0], int(at[-1]) + 1)
        features.compute(dataset, cohort)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            features.compute(dataset, cohort)
            times.append(time.perf_counter() - start)
        spent.append(min(times))
    assert spent[1] < 1_000 * spent[0]


# Features as data.


@pytest.mark.parametrize("declared", [EVERY, LEAD_FEATURES], ids=["every", "lead"])
def test_json_brings_the_same_features_back(small, declared):
    features = FeatureSet.fit(declared, small)
    again = FeatureSet.from_json(features.to_json())
    assert again == features
    assert again.names == features.names
    assert again.fingerprint == features.fingerprint
    cohort = Cohort.at([0, 1, 2], "2026-01-12T00:00:01Z")
    assert equal_bits(again.compute(small, cohort), features.compute(small, cohort))


@pytest.mark.parametrize(
    "declared",
    [(Age(),), (Count(days=(7,)),), (Count(days=(8,)),), (Count(by=("channel",), days=(7,)),), (Sum(days=(7,)),)],
)
def test_fingerprints_tell_features_apart(small, declared):
    one = FeatureSet.fit((Count(days=(30,)),), small)
    assert FeatureSet.fit(declared, small).fingerprint != one.fingerprint
    assert one.fingerprint.startswith("sha256:")
    assert len(one.fingerprint) == len("sha256:") + 64


def _changed(change):
    """A function that changes the document of a feature set."""

    def text(features):
        document = json.loads(features.to_json())
        change(document)
        return json.dumps(document)

    return text


def _first(**values):
    return _changed(lambda document: document["features"][0].update(values))


def _second(**values):
    return _changed(lambda document: document["features"][1].update(values))


def _added(**values):
    return _changed(lambda document: document["features"].append(values))


# fmt: off
TAMPERED = [
    (lambda features: "",                    "not a feature set: JSONDecodeError"),
    (lambda features: "[]",                  "not a feature set: TypeError"),
    (lambda features: "{}",                  "not a feature set: KeyError('features')"),
    (lambda features: features.to_json()[:-20], "not a feature set: JSONDecodeError"),
    (_first(feature="Median"),               "the kind of feature 'Median' is not known. Use the version that wrote"),
    (_second(weeks=[1]),                     "not a feature set: TypeError"),
    (_second(by=["weekday"]),                "not a feature set: UsageError(\"by=('weekday',) tells no touches"),
    (_second(days=["x"]),                    "not a feature set: UsageError(\"days=('x',): 'x' is no span"),
    (_second(where=["=", 3]),                "not a feature set: UsageError(\"where=('=', 3) is no condition"),
    (_added(feature="Age"),                  "'age_days' is declared twice"),
    (_added(feature="Decayed", half_life_days=[0]), "not a feature set: UsageError('half_life_days=(0,): 0"),
    (_changed(lambda d: d.pop("names")),     "not a feature set: KeyError('names')"),
    (_changed(lambda d: d["names"].pop()),   "first at their number"),
    (_second(days=[8]),                      "first at 'touch_count_7d', now 'touch_count_8d'"),
    (_changed(lambda d: d["groups"]["channel"].remove("web")), "first at 'web_count', now 'other_count'"),
    (_changed(lambda d: d["attributes"][1].pop("reading")), "not a feature set: KeyError('reading')"),
    (_changed(lambda d: d["attributes"][1].update(reading="text")),
     "not a feature set: ValueError(\"no attribute is read as 'text'\")"),
    (_changed(lambda d: d["attributes"][1].update(reading="number")),
     "first at 'lead_industry_is_cleaning', now 'lead_industry'"),
]
# fmt: on


@pytest.mark.parametrize(("tamper", "says"), TAMPERED, ids=[says for _, says in TAMPERED])
def test_a_changed_document_is_an_error(small, tamper, says):
    features = FeatureSet.fit((Age(), Count(days=(7,)), Count(by=("channel",)), Attributes()), small)
    with pytest.raises(ModelError) as error:
        FeatureSet.from_json(tamper(features))
    assert says in str(error.value)


def test_a_changed_meaning_is_an_error(small, monkeypatch):
    """A later version that names a class's columns otherwise does not load the model of this one."""
    text = FeatureSet.fit((Age(),), small).to_json()
    monkeypatch.setitem(FEATURES, "Age", Weeks)
    with pytest.raises(ModelError) as error:
        FeatureSet.from_json(text)
    assert str(error.value) == (
        "the features differ from those the model was trained on, first at 'age_days', now 'days_since_touch'."
    )


class Weeks(DaysSince):
    """Stands for a class whose meaning was changed."""


def test_the_vocabulary_of_many_kinds_and_words_is_remembered_while_it_stays():
    """More kinds and words than are remembered by value: two datasets in turn give what each gives first."""
    frames = []
    for shift in (0, 50):
        names = [f"k{i + shift:03}" for i in range(100)]
        frames.append((
            pd.DataFrame({"lead_id": names, "occurred_at": "2026-01-02T00:00:00Z", "channel": names}),
            pd.DataFrame({"lead_id": names, "created_at": "2026-01-01", "word": names}),
        ))  # fmt: skip
    one, other = (Dataset.from_frames(touchpoints=t, leads=leads) for t, leads in frames)
    declared = (Count(by=("channel",)), Attributes())
    cohort = Cohort.at(np.arange(100), "2026-02-01")
    features = FeatureSet.fit(declared, one)
    expected = [FeatureSet.fit(declared, one).compute(dataset, cohort) for dataset in (one, other)]
    for _ in range(2):
        for dataset, matrix in zip((one, other), expected, strict=True):
            assert equal_bits(features.compute(dataset, cohort), matrix)
    assert not equal_bits(*expected)


def test_lead_features_are_what_they_were(small):
    """Names and values stay as they are in the golden file, or models in use would change their meaning.

    After a change that is meant (a line more in `features/definitions.py`), write it anew and read the difference:

        .venv/bin/python tests/test_features.py
    """
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == golden(small)


def golden(dataset):
    features = FeatureSet.fit(LEAD_FEATURES, dataset)
    as_ofs = ("2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z", "2026-01-12T00:00:01Z")
    rows = [(name, as_of) for as_of in as_ofs for name in dataset.ids]
    cohort = Cohort.concat(Cohort.at(dataset.find([name]), as_of) for name, as_of in rows)
    matrix = features.compute(dataset, cohort)
    return {
        "fingerprint": features.fingerprint,
        "rows": [f"{name} as of {as_of}" for name, as_of in rows],
        "columns": {
            name: [None if np.isnan(v) else v for v in values]
            for name, values in zip(features.names, matrix.T.tolist(), strict=True)
        },
    }


def test_declarations_are_frozen_and_compare_by_value():
    assert Count(days=(7,)) == Count(days=(7,)) != Count(days=(8,))
    assert len({Count(), Count(), Sum()}) == 2
    assert all(isinstance(feature, Feature) for feature in LEAD_FEATURES)
    with pytest.raises(AttributeError):
        Count().days = (7,)


def test_importing_features_imports_nothing_heavy():
    heavy = ["pandas", "pyarrow", "sklearn", "lightgbm", "mlflow", "matplotlib"]
    code = f"import sys, features; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    tiny = Dataset.from_frames(touchpoints=TOUCHPOINTS, leads=LEADS, attributes=FACTS)
    text = json.dumps(golden(tiny), indent=1, ensure_ascii=False)
    # One line a column, so that a difference reads well.
    lines = text.replace("[\n   ", "[").replace(",\n   ", ", ").replace("\n  ]", "]")
    GOLDEN.write_text(lines + "\n", encoding="utf-8")
