"""How marketing and sales keep what they agreed on, against an example worked out by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_ingest import Caller
from test_leads import said
from test_serving import check_problem

from features.times import datetime_us, to_us
from serving.policy import Agreement, Policy, set_policy
from serving.schemas import SlaWeek
from serving.sla import HandOver, by_week, first_week, hand_overs
from serving.store import Alias, Lead, SqlStore, TierChange, Touch

HOUR = 3_600_000_000
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""A Friday, in week 47 of 2026; the week began on Monday, 16 November."""
AGREED = Agreement(hot_leads_a_week=3, first_touch_hours=24)
BORN = to_us("2026-10-01T00:00:00Z")

HANDED = {
    # Week 46, 9 to 15 November: three became hot, one of them in its last microsecond.
    "a": ("2026-11-09T00:00:00Z", [("call", 5)]),
    "b": ("2026-11-10T10:00:00Z", [("webinar", 1), ("email", 2), ("proposal", 30)]),
    "c": ("2026-11-15T23:59:59.999999Z", [("meeting", -1), ("sales_email", 24)]),
    # Week 47: one touched at once, one whose hours are over, one whose hours are not.
    "d": ("2026-11-16T00:00:00Z", [("chat", 0)]),
    "e": ("2026-11-17T00:00:00Z", [("newsletter", 1), ("unheard_of", 2)]),
    "f": ("2026-11-20T09:00:00Z", []),
    # Week 44, before a week without any.
    "g": ("2026-10-28T08:00:00Z", [("call", 2), ("call", 1)]),
}
"""When each lead became hot, and its touches: their channel, and hours from then on."""
EXPECTED = [
    # hot leads, kept by marketing, due, in time, share, median hours
    ("2026-W44", True, 1, False, 1, 1, 1.0, 1.0),
    ("2026-W45", True, 0, False, 0, 0, None, None),
    ("2026-W46", True, 3, True, 3, 2, 2 / 3, 24.0),
    ("2026-W47", False, 3, True, 2, 1, 0.5, None),
]


def write(store: SqlStore, tenant: str) -> None:
    for name, (at, touches) in HANDED.items():
        became = to_us(at)
        rows = [Touch(name, became + hours * HOUR, channel) for channel, hours in touches]
        store.write(tenant, said(Lead(name, BORN), *rows, recorded=BORN)).result()
        change = TierChange(lead_id=name, at=became, before="warm", tier="hot", probability=0.5)
        back = TierChange(lead_id=name, at=became + 40 * HOUR, before="hot", tier="warm", probability=0.1)
        store.put(tenant, [change, back]).result()


def told(weeks: list[SlaWeek]) -> list[tuple[object, ...]]:
    return [
        (each.week, each.complete, each.hot_leads, each.marketing_kept, each.due, each.in_time, each.share_in_time,
         each.median_hours) for each in weeks
    ]  # fmt: skip


def test_the_example(lead_store: SqlStore, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(lead_store, tenant)
    write(lead_store, f"{tenant}-other")
    now = datetime_us(NOW)
    since = datetime_us(first_week(NOW, 4))
    assert first_week(NOW, 4) == datetime(2026, 10, 26, tzinfo=UTC)
    found = hand_overs(lead_store, tenant, since, now)
    assert told(by_week(found, NOW, 4, AGREED)) == EXPECTED
    # In pages and chunks it is the same.
    monkeypatch.setattr("serving.sla._CHUNK", 2)
    assert sorted(hand_overs(lead_store, tenant, since, now), key=str) == sorted(found, key=str)
    # Without an agreement there is nothing to keep, but the same to see.
    alone = told(by_week(found, NOW, 4, None))
    assert alone == [(w, c, hot, None, 0, 0, None, hours) for w, c, hot, _, _, _, _, hours in EXPECTED]
    # A promise that is not kept yet may be still.
    (week,) = by_week(found, NOW, 1, Agreement(hot_leads_a_week=4, first_touch_hours=24))
    assert (week.hot_leads, week.marketing_kept) == (3, None)


def test_a_lead_that_came_to_mean_another_is_touched_under_its_name(lead_store: SqlStore, tenant: str) -> None:
    at = to_us("2026-11-17T00:00:00Z")
    rows = [Lead("old", BORN), Lead("new", BORN), Touch("new", at + 3 * HOUR, "call"), Alias("old", "new", at + HOUR)]
    lead_store.write(tenant, said(*rows, recorded=BORN)).result()
    lead_store.put(tenant, [TierChange(lead_id="old", at=at, before="cold", tier="hot", probability=0.5)]).result()
    (one,) = hand_overs(lead_store, tenant, at, at + 9 * HOUR)
    assert one.hours == 3
    assert hand_overs(lead_store, tenant, at + 1, at + 9 * HOUR) == hand_overs(lead_store, tenant, at - 9, at) == []


def test_over_http(lead_store: SqlStore, tenant: str) -> None:
    call = Caller(lead_store, tenant=tenant)
    empty = call("GET", "/v1/sla").json()
    assert empty["agreement"] is None and len(empty["weeks"]) == 8
    now = datetime.now(UTC)
    became = now - timedelta(hours=2)
    lead_store.write(
        tenant, said(Lead("L-1", BORN), Touch("L-1", datetime_us(now - timedelta(hours=1)), "call"))
    ).result()
    change = TierChange(lead_id="L-1", at=datetime_us(became), before="cold", tier="hot", probability=0.5)
    lead_store.put(tenant, [change]).result()
    set_policy(lead_store, tenant, Policy(sla=Agreement(hot_leads_a_week=1, first_touch_hours=1.5)), "test")
    found = Caller(lead_store, tenant=tenant)("GET", "/v1/sla?weeks=2").json()
    assert found["agreement"] == {"hot_leads_a_week": 1, "first_touch_hours": 1.5}
    (week,) = [each for each in found["weeks"] if each["hot_leads"]]
    year, number, _ = became.isocalendar()
    assert week["week"] == f"{year}-W{number:02d}"
    assert (week["marketing_kept"], week["due"], week["in_time"], week["share_in_time"]) == (True, 1, 1, 1.0)
    assert week["median_hours"] == pytest.approx(1.0)
    for wrong in ("0", "54", "many", "-1", "9" * 99, "\u0665"):
        check_problem(call("GET", f"/v1/sla?weeks={wrong}"), 422, "weeks", "Ask for 1 to 53")


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),
    st.lists(st.tuples(st.floats(0, 2_000), st.none() | st.floats(0, 500)), max_size=30),
)
def test_each_hand_over_counts_in_one_week(at: datetime, ages: list[tuple[float, float | None]]) -> None:
    now = at.replace(tzinfo=UTC)
    us = datetime_us(now)
    handed = []
    for age, wait in ages:
        hot = us - round(age * HOUR) - 1
        handed.append(HandOver(hot, None if wait is None or hot + wait * HOUR >= us else hot + round(wait * HOUR)))
    weeks = by_week(handed, now, 13, AGREED)
    assert sum(week.hot_leads for week in weeks) == len(handed)
    # All that is due is in time, or was touched too late, or was not touched in its time.
    late = sum(24 < one.hours < math.inf for one in handed)
    missed = sum(one.touched is None and us - one.at > 24 * HOUR for one in handed)
    assert sum(week.due - week.in_time for week in weeks) == late + missed
    assert sum(week.in_time for week in weeks) == sum(one.hours <= 24 for one in handed)
    names = [f"{d.isocalendar().year}-W{d.isocalendar().week:02d}" for d in (w.begins for w in weeks)]
    assert [week.week for week in weeks] == names and len({*names}) == 13
    assert [week.complete for week in weeks] == [True] * 12 + [False]
