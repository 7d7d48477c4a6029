"""Which leads become rows to learn from, and what counts as a purchase: tables of cases, then a naive oracle."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DAY
from worlds import dataset_of, instants, table, worlds

from features import Cohort, Dataset
from features.history import Outcomes
from features.times import NEVER, isoformat, to_us
from training import Experiment
from training.labels import bought_within, buffer, reporting_delay, snapshots, still_open

AS_OF = to_us("2026-01-11")
HORIZON = 10 * DAY
UNTIL = to_us("2026-03-02")
ONE_INSTANT = Experiment(horizon_days=10, snapshot_every_days=3650, reporting_delay_days=40)
"""Known until 2026-03-02 its windows must be over on 2026-01-21: the only instant to learn from is AS_OF."""


def lead(created, *outcomes):
    """A dataset of one lead; an outcome is (occurred, won or lost, recorded)."""
    return Dataset.from_frames(
        leads=pd.DataFrame({"lead_id": ["a"], "created_at": [created]}),
        outcomes=pd.DataFrame(
            [("a", occurred, outcome, recorded) for occurred, outcome, recorded in outcomes],
            columns=["lead_id", "occurred_at", "outcome", "recorded_at"],
            dtype="str",
        ),
    )


# as_of is 2026-01-11, the window [2026-01-11, 2026-01-21), everything is known until 2026-03-02.
CASES = """
created               occurred              outcome recorded              row  bought
2026-01-01T00:00:00Z  -                     -       -                     yes  no
2026-01-10T23:59:59Z  -                     -       -                     yes  no
2026-01-11T00:00:00Z  -                     -       -                     no   -
2026-01-15T00:00:00Z  2026-01-16T00:00:00Z  won     2026-01-16T00:00:00Z  no   -
2026-01-01T00:00:00Z  2026-01-10T23:59:59Z  won     2026-01-10T23:59:59Z  no   -
2026-01-01T00:00:00Z  2026-01-11T00:00:00Z  won     2026-01-11T00:00:00Z  yes  yes
2026-01-01T00:00:00Z  2026-01-15T00:00:00Z  won     2026-01-15T00:00:00Z  yes  yes
2026-01-01T00:00:00Z  2026-01-20T23:59:59Z  won     2026-01-20T23:59:59Z  yes  yes
2026-01-01T00:00:00Z  2026-01-21T00:00:00Z  won     2026-01-21T00:00:00Z  yes  no
2026-01-01T00:00:00Z  2026-01-15T00:00:00Z  won     2026-03-01T23:59:59Z  yes  yes
2026-01-01T00:00:00Z  2026-01-15T00:00:00Z  won     2026-03-02T00:00:00Z  yes  no
2026-01-01T00:00:00Z  2026-01-10T00:00:00Z  won     2026-01-12T00:00:00Z  no   -
2026-01-01T00:00:00Z  2026-01-10T00:00:00Z  won     2026-03-01T00:00:00Z  no   -
2026-01-01T00:00:00Z  2026-01-10T00:00:00Z  won     2026-03-02T00:00:00Z  yes  no
2026-01-01T00:00:00Z  2026-01-05T00:00:00Z  lost    2026-01-05T00:00:00Z  no   -
2026-01-01T00:00:00Z  2026-01-05T00:00:00Z  lost    2026-01-15T00:00:00Z  no   -
2026-01-01T00:00:00Z  2026-01-15T00:00:00Z  lost    2026-01-15T00:00:00Z  yes  no
2026-01-01T00:00:00Z  2026-01-30T00:00:00Z  lost    2026-01-30T00:00:00Z  yes  no
"""


@pytest.mark.parametrize("case", list(table(CASES).itertuples(index=False)))
def test_who_is_a_row_and_who_bought(case):
    outcomes = [] if pd.isna(case.outcome) else [(case.occurred, case.outcome, case.recorded)]
    cohort, bought = snapshots(lead(case.created, *outcomes).known_at(UNTIL), UNTIL, ONE_INSTANT)
    assert cohort.as_of.tolist() == [AS_OF] * (case.row == "yes")
    assert bought.tolist() == [case.bought == "yes"] * (case.row == "yes")


@pytest.mark.parametrize(
    ("first", "second", "bought"), [("won", "lost", [True]), ("lost", "won", [False]), ("won", "won", [True])]
)
def test_the_first_outcome_closes_a_lead(first, second, bought):
    known = lead(
        "2026-01-01T00:00:00Z",
        ("2026-01-12T00:00:00Z", first, "2026-01-12T00:00:00Z"),
        ("2026-01-15T00:00:00Z", second, "2026-01-15T00:00:00Z"),
    )
    assert snapshots(known, UNTIL, ONE_INSTANT)[1].tolist() == bought


@pytest.mark.parametrize("delay", [0, 21])
@pytest.mark.parametrize("early", [0, 1])
def test_a_window_is_a_row_once_horizon_and_reporting_are_over_and_never_before(delay, early):
    """The lead is one microsecond old at as_of, so any earlier instant would not have it."""
    known = lead(isoformat(AS_OF - 1))
    experiment = Experiment(horizon_days=10, reporting_delay_days=delay, snapshot_every_days=1 / 24)
    cohort, bought = snapshots(known, AS_OF + HORIZON + delay * DAY - early, experiment)
    assert cohort.as_of.tolist() == [AS_OF] * (1 - early)
    assert not bought.any()


def test_a_lead_that_bought_is_no_row_either_while_its_window_is_not_over():
    """Taking buyers early and others late would be worse than waiting for both."""
    known = lead("2026-01-10T00:00:00Z", ("2026-01-12T00:00:00Z", "won", "2026-01-12T00:00:00Z"))
    cohort, _ = snapshots(known, to_us("2026-01-19"), Experiment(horizon_days=10, snapshot_every_days=0.25))
    assert len(cohort) == 0


# When a purchase is known.


def reported_after(delays, won=None):
    n = len(delays)
    known = dataset_of([
        {"created": 0, "attributes": {}, "touches": [], "facts": [], "outcomes": [
            {"at": DAY, "known": DAY + delay, "won": won is None or won[i]}
        ]} for i, delay in enumerate(delays)
    ])  # fmt: skip
    assert len(known) == n
    return known


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        ([], 0),
        ([5], 5),
        (range(20), 19),
        (range(21), 19),
        ([0] * 95 + [30] * 5, 30),
        ([0] * 96 + [30] * 4, 0),
        ([0] * 100, 0),
    ],
)
def test_reporting_delay_is_the_95th_percentile_and_never_between_two_delays(delays, expected):
    assert reporting_delay(reported_after([days * DAY for days in delays])) == expected * DAY


def test_only_purchases_that_are_known_tell_of_the_delay():
    late = reported_after([DAY, 2 * DAY, 90 * DAY, 400 * DAY], won=[True, True, False, True])
    assert reporting_delay(late) == 400 * DAY
    assert reporting_delay(late.known_at(300 * DAY)) == 2 * DAY


def test_a_stated_delay_is_used_instead_of_the_estimate():
    known = reported_after([7 * DAY])
    assert buffer(known, Experiment()) == 7 * DAY
    assert buffer(known, Experiment(reporting_delay_days=21)) == 21 * DAY
    assert buffer(known, Experiment(reporting_delay_days=0)) == 0


# Against an oracle that goes through all leads and instants one by one.


def expected_rows(world, until, experiment):
    """Plain Python: for each instant and lead, was it open as far as was known, and truly; did it buy?"""
    rows = {}
    ended = []
    for lead in world:
        known = sorted((o["at"], not o["won"]) for o in lead["outcomes"] if o["known"] < until)
        ended.append(known[0] if known else (NEVER, True))
    created = [lead["created"] for lead in world if lead["created"] < until]
    index = {i: k for k, i in enumerate(i for i, lead in enumerate(world) if lead["created"] < until)}
    as_of = until - experiment.horizon - round(experiment.reporting_delay_days * DAY)
    while created and as_of > min(created):
        for i, lead in enumerate(world):
            listed = lead["created"] < as_of and not any(o["known"] < as_of for o in lead["outcomes"])
            if listed and ended[i][0] >= as_of:
                rows[index[i], as_of] = not ended[i][1] and ended[i][0] < as_of + experiment.horizon
        as_of -= round(experiment.snapshot_days * DAY)
    return rows


EXPERIMENTS = st.builds(
    lambda horizon, delay, every: Experiment(
        horizon_days=horizon, reporting_delay_days=delay, snapshot_every_days=every
    ),
    st.sampled_from([0.5, 7, 30]),
    st.sampled_from([0, 0.5, 5]),
    st.sampled_from([1, 7.25, 30]),
)


@given(world=worlds, until=instants, experiment=EXPERIMENTS)
def test_rows_and_labels_are_the_oracle_s(world, until, experiment):
    cohort, bought = snapshots(dataset_of(world).known_at(until), until, experiment)
    rows = dict(zip(zip(cohort.lead.tolist(), cohort.as_of.tolist(), strict=True), bought.tolist(), strict=True))
    assert len(rows) == len(cohort), "a lead was asked about twice as of one instant"
    assert rows == expected_rows(world, until, experiment)


@given(world=worlds, until=instants, late=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=4))
def test_what_happens_later_decides_labels_and_never_who_is_a_row(world, until, late):
    """Other outcomes at or after an instant leave its rows as they are."""
    dataset = dataset_of(world)
    as_of = until - 10 * DAY
    experiment = Experiment(horizon_days=10, reporting_delay_days=0, snapshot_every_days=3650)
    before = dataset.outcomes.at < as_of
    kept = Outcomes(*(getattr(dataset.outcomes, name)[before] for name in ("lead", "at", "known", "won", "amount")))
    who = np.array(sorted({i % len(world) for i, _ in late}), np.int64)
    at = np.full(len(who), as_of, np.int64)
    lead = np.concatenate([kept.lead, who])
    order = np.argsort(lead, kind="stable")
    changed = Outcomes(
        lead[order],
        np.concatenate([kept.at, at])[order],
        np.concatenate([kept.known, at])[order],
        np.concatenate([kept.won, np.ones(len(who), np.bool_)])[order],
        np.concatenate([kept.amount, np.full(len(who), np.nan)])[order],
    )
    there, _ = snapshots(dataset.known_at(until), until, experiment)
    here, _ = snapshots(replace(dataset, outcomes=changed).known_at(until), until, experiment)
    assert there.lead.tolist() == here.lead.tolist()


def test_labels_do_not_overflow_for_leads_that_never_close():
    open_for_ever = lead("1960-01-01T00:00:00Z")
    cohort = Cohort.at([0], "1960-06-01")
    assert bought_within(open_for_ever, cohort, HORIZON).tolist() == [False]
    assert still_open(open_for_ever, cohort).tolist() == [True]


def test_the_order_of_the_leads_table_does_not_order_the_rows():
    leads = pd.DataFrame({"lead_id": list("bca"), "created_at": "2026-01-01T00:00:00Z"})
    experiment = Experiment(horizon_days=10, snapshot_every_days=5)
    until = to_us("2026-02-01")

    def rows(frame):
        known = Dataset.from_frames(leads=frame)
        cohort, _ = snapshots(known, until, experiment)
        return list(zip(known.ids[cohort.lead], cohort.as_of.tolist(), strict=True))

    assert rows(leads) == rows(leads[::-1].reset_index(drop=True))
    assert [name for name, _ in rows(leads)[:3]] == ["a", "b", "c"]


def test_a_planned_appointment_does_not_end_the_record():
    leads = pd.DataFrame({"lead_id": ["a", "b"], "created_at": ["2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"]})
    planned = pd.DataFrame({"lead_id": ["a"], "occurred_at": ["2026-09-01T00:00:00Z"], "channel": ["meeting"]})
    won = pd.DataFrame({"lead_id": ["a"], "occurred_at": ["2026-03-02T00:00:00Z"], "outcome": ["won"]})
    assert Dataset.from_frames(leads=leads, touchpoints=planned).recorded_until == to_us("2026-03-01") + 1
    assert Dataset.from_frames(leads=leads, outcomes=won).recorded_until == to_us("2026-03-02") + 1
