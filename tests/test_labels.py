"""Which leads become rows to learn from, and what counts as a purchase: tables of cases, then a naive oracle."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DAY
from worlds import dataset_of, instants, table, worlds

from features import LEAD_FEATURES, Cohort, Dataset
from features.feature import FeatureSet
from features.history import Outcomes
from features.times import NEVER, isoformat, to_us
from training import Experiment
from training.labels import (
    bought_within,
    buffer,
    completed,
    listed_every,
    listings,
    reporting_delay,
    snapshots,
    still_open,
)
from training.simulate import simulate

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


# Windows that are not over.

# as_of is 2026-01-11, the window [2026-01-11, 2026-01-19). Everything is known until 2026-01-17, and what happened
# before 2026-01-15 is reported: four days of eight.
HALF = Experiment(horizon_days=8, reporting_delay_days=2)
UNFINISHED = """
occurred              outcome recorded              row  label
-                     -       -                     yes  unknown
2026-01-10T23:59:59Z  won     2026-01-12T00:00:00Z  no   -
2026-01-11T00:00:00Z  won     2026-01-11T00:00:00Z  yes  1
2026-01-14T23:59:59Z  won     2026-01-16T23:59:59Z  yes  1
2026-01-14T23:59:59Z  won     2026-01-17T00:00:00Z  yes  unknown
2026-01-15T00:00:00Z  won     2026-01-15T00:00:00Z  yes  unknown
2026-01-16T00:00:00Z  won     2026-01-16T00:00:00Z  yes  unknown
2026-01-14T23:59:59Z  lost    2026-01-14T23:59:59Z  yes  0
2026-01-15T00:00:00Z  lost    2026-01-15T00:00:00Z  yes  unknown
2026-01-10T23:59:59Z  lost    2026-01-12T00:00:00Z  no   -
"""
OF_HALF = to_us("2026-01-17")


def words_of(label):
    return ["unknown" if np.isnan(value) else str(int(value)) for value in label.tolist()]


@pytest.mark.parametrize("case", list(table(UNFINISHED).itertuples(index=False)))
def test_what_is_known_of_a_window_that_is_not_over(case):
    outcomes = [] if pd.isna(case.outcome) else [(case.occurred, case.outcome, case.recorded)]
    rows = listings(lead("2026-01-01T00:00:00Z", *outcomes).known_at(OF_HALF), OF_HALF, HALF)
    here = rows.cohort.as_of == AS_OF
    assert words_of(rows.within(8 * DAY)[here]) == [case.label] * (case.row == "yes")
    assert rows.followed[here].tolist() == [4 * DAY] * (case.row == "yes")


def test_instants_go_on_until_a_quarter_of_the_window_is_over():
    known = lead("2026-01-01T00:00:00Z")

    def instants_of(**changes):
        rows = listings(known, OF_HALF, Experiment(horizon_days=8, reporting_delay_days=2, **changes))
        days = [isoformat(at)[8:10] for at in rows.cohort.as_of.tolist()]
        assert rows.latest.as_of.tolist() == [to_us("2026-01-15")]
        assert (np.diff(rows.followed) <= 0).all()
        return days[: rows.finished], days[rows.finished :]

    assert instants_of() == (["03", "05", "07"], ["09", "11", "13"])
    # Instants are never closer than a quarter, however many there are before.
    assert instants_of(snapshot_every_days=1) == (["02", "03", "04", "05", "06", "07"], ["09", "11", "13"])
    assert instants_of(snapshot_every_days=3) == (["04", "07"], ["10", "13"])
    assert instants_of(snapshot_every_days=7) == (["07"], [])


def test_a_shorter_horizon_is_known_sooner():
    """A purchase on the sixth day, of a window that is over: not within five days, but within seven."""
    rows = listings(
        lead("2026-01-01T00:00:00Z", ("2026-01-12T12:00:00Z", "won", "2026-01-12T12:00:00Z")), OF_HALF, HALF
    )
    assert isoformat(int(rows.cohort.as_of[rows.finished - 1]))[:10] == "2026-01-07"
    last = rows.finished - 1
    assert [words_of(rows.within(days * DAY))[last] for days in (1, 5, 6, 7, 8)] == ["0", "0", "1", "1", "1"]


def ending_in_january(*days):
    """Leads created on the first, each with the day it bought on, minus the day it was lost on, or None."""
    return dataset_of([
        {"created": to_us("2026-01-01"), "attributes": {}, "touches": [], "facts": [], "outcomes": [
            {"at": to_us(f"2026-01-{abs(day):02}"), "known": to_us(f"2026-01-{abs(day):02}"), "won": day > 0}
        ] if day else []} for day in days
    ])  # fmt: skip


def completed_alike(rows):
    """The completed labels where no column tells anything, by day and lead."""
    ones = np.ones((len(rows.cohort), 1), np.float32)
    label = completed(rows, ones, ones[: len(rows.latest)])
    days = [int(isoformat(at)[8:10]) for at in rows.cohort.as_of.tolist()]
    return dict(zip(zip(days, rows.cohort.lead.tolist(), strict=True), label.tolist(), strict=True))


def test_labels_are_completed_by_the_rate_of_the_days_that_are_left():
    """Counted by hand from the days: every lead open at an instant, then what came of it."""
    ended = [5, 8, 10, 12, 14, -12, None, None, None, None]
    over, horizon = 15, 8
    at = {day: [i for i, end in enumerate(ended) if end is None or abs(end) >= day] for day in (3, 5, 7, 9, 11, 13)}

    def rate(span):
        bought = [ended[i] in range(day, day + span) for day in at if day + span <= over for i in at[day]]
        return sum(bought) / len(bought)

    assert (rate(2), rate(4), rate(6)) == (5 / 49, 9 / 44, 11 / 37)
    expected = {}
    for day, leads in at.items():
        for i in leads:
            known = day + horizon <= over or abs(ended[i] or over) < over
            expected[day, i] = float(ended[i] in range(day, day + horizon)) if known else rate(day + horizon - over)
    rows = listings(ending_in_january(*ended).known_at(OF_HALF), OF_HALF, HALF)
    assert completed_alike(rows) == pytest.approx(expected, abs=1e-6)
    assert [expected[13, i] for i in (4, 6)] == [1, 11 / 37]


def test_who_is_not_open_any_more_will_not_buy():
    """The last lead came to mean another on the 14th."""
    known = ending_in_january(4, 6, 12, None, None).known_at(OF_HALF)
    merged = replace(known, merged_at=np.array([NEVER] * 4 + [to_us("2026-01-14")]))
    label = completed_alike(listings(merged, OF_HALF, HALF))
    assert 0 < label[11, 3] < 1 and label[11, 4] == 0


def test_where_nobody_bought_so_soon_nobody_will():
    label = completed_alike(listings(ending_in_january(9, None).known_at(OF_HALF), OF_HALF, HALF))
    assert label[3, 0] == label[5, 0] == label[9, 0] == 1
    assert label[13, 1] > label[11, 1] > label[9, 1] > 0
    label = completed_alike(listings(ending_in_january(-9, None).known_at(OF_HALF), OF_HALF, HALF))
    assert set(label.values()) == {0}


@pytest.mark.parametrize(("days", "share"), [(302, 0.37), (200, 0.60)])
def test_completed_labels_are_true_on_average(days, share, tmp_path):
    """Against what the same leads did after the data end; counting windows that are not over as no is far from it."""
    ratios = []
    for seed in (1, 2, 3):
        run = simulate(6_000, days, seed=seed)
        run.write(tmp_path / str(seed))
        known = Dataset.read(tmp_path / str(seed)).known_at(run.end)
        rows = listings(known, run.end, Experiment())
        features = FeatureSet.fit(LEAD_FEATURES, known)
        label = completed(rows, features.compute(known, rows.cohort), features.compute(known, rows.latest))
        told = rows.within(rows.horizon)
        there = ~np.isnan(told)
        assert (label[there] == told[there]).all() and ((label[~there] > 0) & (label[~there] < 1)).all()
        assert 1 - rows.finished / len(label) == pytest.approx(share, abs=0.02)

        who = np.array([int(name[2:]) if name.startswith("L-") else -1 for name in known.ids])[rows.cohort.lead]
        # A lead that had bought, but was not known to have, is not asked about.
        asked = (who >= 0) & (run.closed_at[who] >= rows.cohort.as_of)
        truth = (run.won[who] & (run.closed_at[who] - rows.cohort.as_of < rows.horizon))[asked].mean()
        ratios.append([label[asked].mean() / truth, np.nan_to_num(told)[asked].mean() / truth])
    completed_ratio, as_no = np.mean(ratios, axis=0)
    assert completed_ratio == pytest.approx(1, abs=0.03)
    assert as_no < 1 - share / 3


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


def test_of_very_many_rows_fewer_are_made(monkeypatch):
    """Twenty leads that are open for a hundred days, listed every six hours by a horizon of one day."""
    ids = [f"L{k}" for k in range(20)]
    leads = pd.DataFrame({"lead_id": ids, "created_at": "2026-01-01T00:00:00Z"})
    known, until = Dataset.from_frames(leads=leads), to_us("2026-04-11")

    def rows(horizon=1.0, **changes):
        experiment = Experiment(horizon_days=horizon, reporting_delay_days=0, **changes)
        found, every = listings(known, until, experiment), listed_every(known, until, experiment) / DAY
        instants = np.unique(found.cohort.as_of[: found.finished])
        assert (np.diff(instants) == every * DAY).all()
        return every, len(found.cohort) // 20

    assert rows() == (0.25, 399)
    monkeypatch.setattr("training.labels.MOST_ROWS", 2_000)
    every, instants = rows()
    assert every == 1.0 and 98 <= instants <= 100
    assert rows(snapshot_every_days=0.25) == (0.25, 399)
    monkeypatch.setattr("training.labels.MOST_ROWS", 10)
    assert rows()[0] == 7.0
    assert rows(horizon=28.0)[0] == 7.0
    assert rows(horizon=40.0)[0] == 10.0


def test_a_planned_appointment_does_not_end_the_record():
    leads = pd.DataFrame({"lead_id": ["a", "b"], "created_at": ["2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"]})
    planned = pd.DataFrame({"lead_id": ["a"], "occurred_at": ["2026-09-01T00:00:00Z"], "channel": ["meeting"]})
    won = pd.DataFrame({"lead_id": ["a"], "occurred_at": ["2026-03-02T00:00:00Z"], "outcome": ["won"]})
    assert Dataset.from_frames(leads=leads, touchpoints=planned).recorded_until == to_us("2026-03-01") + 1
    assert Dataset.from_frames(leads=leads, outcomes=won).recorded_until == to_us("2026-03-02") + 1
