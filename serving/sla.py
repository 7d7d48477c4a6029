"""How marketing and sales keep what they agreed on: who became hot, and how soon sales touched them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import NamedTuple

from features.times import datetime_us, to_datetime
from features.touchpoints import touchpoint_of
from models.tiers import TIERS
from serving.policy import Agreement
from serving.schemas import SlaWeek
from serving.store import Store, StoredLead, TierChange

_HOUR = 3_600_000_000
_CHUNK = 250
_MOST_LINKS = 20
"""Leads that one came to mean, one after another, that are followed."""


class HandOver(NamedTuple):
    """A lead that became hot, and when sales first touched it from then on.

    >>> HandOver(at=0, touched=5 * 3_600_000_000).hours
    5.0
    """

    at: int
    touched: int | None

    @property
    def hours(self) -> float:
        """Until the touch; without end where there was none."""
        return math.inf if self.touched is None else (self.touched - self.at) / _HOUR


def hand_overs(store: Store, tenant: str, since: int, now: int) -> list[HandOver]:
    """The leads that became hot in [since, now), each time that they did, and what sales did by now."""
    changes: list[TierChange] = []
    last: TierChange | None = None
    while page := store.find(TierChange, tenant, {"tier": TIERS[-1]}, before={"at": now}, order="-at", after=last):
        changes += [change for change in page if change.at >= since]
        last = page[-1]
        if last.at < since:
            break
    found = []
    for begin in range(0, len(changes), _CHUNK):
        part = changes[begin : begin + _CHUNK]
        leads = _leads(store, tenant, [change.lead_id for change in part])
        for change in part:
            touches = _sales_touches(leads[change.lead_id]) if change.lead_id in leads else []
            found.append(HandOver(change.at, min((at for at in touches if change.at <= at < now), default=None)))
    return found


def by_week(handed: Sequence[HandOver], now: datetime, weeks: int, agreement: Agreement | None) -> list[SlaWeek]:
    """How the agreement was kept in each of the last ISO weeks in UTC, of which the last is not over."""
    first = first_week(now, weeks)
    return [_week(handed, first + timedelta(weeks=k), now, agreement) for k in range(weeks)]


def first_week(now: datetime, weeks: int) -> datetime:
    """When the first of the last weeks begins, of which the last one holds `now`."""
    monday = (now - timedelta(days=now.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    return monday - timedelta(weeks=weeks - 1)


def _week(handed: Sequence[HandOver], begins: datetime, now: datetime, agreement: Agreement | None) -> SlaWeek:
    ends = begins + timedelta(weeks=1)
    mine = [one for one in handed if datetime_us(begins) <= one.at < datetime_us(ends)]
    complete = ends <= now
    kept: bool | None = None
    due = in_time = 0
    if agreement is not None:
        enough = len(mine) >= agreement.hot_leads_a_week
        kept = enough if complete or enough else None
        hours = agreement.first_touch_hours
        passed = datetime_us(now) - hours * _HOUR
        in_time = sum(one.hours <= hours for one in mine)
        due = sum(one.touched is not None or one.at < passed for one in mine)
    middle = median([one.hours for one in mine]) if mine else math.inf
    year, week, _ = begins.isocalendar()
    return SlaWeek(
        f"{year}-W{week:02d}", begins, complete, len(mine), kept, due, in_time, in_time / due if due else None,
        middle if math.isfinite(middle) else None,
    )  # fmt: skip


def _leads(store: Store, tenant: str, names: Sequence[str]) -> dict[str, StoredLead]:
    """Leads by id; one that came to mean another is that one, which has its touches too."""
    found = store.read_many(tenant, names)
    for _ in range(_MOST_LINKS):
        linked = {name: lead.same_as for name, lead in found.items() if lead.same_as is not None}
        if not linked:
            break
        others = store.read_many(tenant, sorted(set(linked.values())))
        found |= {name: others[other] for name, other in linked.items() if other in others}
    return found


def _sales_touches(lead: StoredLead) -> list[int]:
    kinds = ((touch, touchpoint_of(touch.channel, touch.action or "")) for touch in lead.record.touchpoints)
    return [datetime_us(touch.occurred_at) for touch, kind in kinds if kind is not None and kind.side == "sales"]


def read_sla(store: Store, tenant: str, weeks: int, agreement: Agreement | None) -> list[SlaWeek]:
    """How a tenant's agreement was kept in each of the last weeks."""
    now = datetime.now(UTC)
    handed = hand_overs(store, tenant, datetime_us(first_week(now, weeks)), datetime_us(now))
    return by_week(handed, to_datetime(datetime_us(now)), weeks, agreement)
