"""What was seen of a lead at an instant, and its digest: the same digest, model and as_of make the same answer."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from itertools import compress
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from features.records import AttributeFact, LeadRecord, Touchpoint
from features.times import NEVER, datetime_us, to_datetime
from serving.store import StoredLead

_Row = TypeVar("_Row", Touchpoint, AttributeFact)

_encode = msgspec.msgpack.Encoder().encode


def see(lead: StoredLead, as_of: int, before: int = NEVER) -> StoredLead:
    """What counts of a lead as of an instant: what happened and was known before it, and no more.

    `before` leaves out what became known at that instant or later, as if it had not come in yet. What links passed on
    is as if it had always been the lead's own: only then is the record by itself what scores.

    >>> from features.records import Touchpoint
    >>> touches = tuple(Touchpoint(to_datetime(at), "web") for at in (5, 9))
    >>> len(see(StoredLead(LeadRecord(lead_id="a", touchpoints=touches)), as_of=9).record.touchpoints)
    1
    """
    at = to_datetime(as_of)
    known = at if before >= as_of else to_datetime(before)
    record, told = lead.record, lead.recorded
    touches = _seen(record.touchpoints, told and told.touchpoints, at, known)
    facts = _seen(record.attribute_facts, told and told.attribute_facts, at, known)
    if told or len(touches) < len(record.touchpoints) or len(facts) < len(record.attribute_facts):
        # A lead that begins with its first touch does so though that one became known later, as in tables.
        record = replace(record, created_at=_begun(record), touchpoints=touches, attribute_facts=facts)
    limit = min(as_of, before)
    merged = lead.merged_at < limit
    if record is lead.record and (merged or lead.same_as is None) and not lead.outcomes:
        return lead
    outcomes = tuple(outcome for outcome in lead.outcomes if outcome.known < limit)
    return StoredLead(record, outcomes, *((lead.same_as, lead.merged_at) if merged else (None, NEVER)))


def _seen(rows: tuple[_Row, ...], told: tuple[int, ...] | None, at: datetime, known: datetime) -> tuple[_Row, ...]:
    """Those of some touches or facts that occurred before `at` and were known before `known`, as they were recorded."""
    seen = [row.occurred_at < at and (row.recorded_at or row.occurred_at) < known for row in rows]
    if told is not None:
        rows = tuple([_recorded(row, us) for row, us in zip(rows, told, strict=True)])
    return tuple(compress(rows, seen))


def _recorded(row: _Row, us: int) -> _Row:
    at = to_datetime(us)
    return replace(row, recorded_at=None if at <= row.occurred_at else at)


def digest(lead: StoredLead) -> str:
    """A hash of all that a lead holds, in whatever order it was read."""
    record = lead.record
    base = record.lead_id, _begun(record), sorted(record.attributes.items()), lead.same_as, lead.outcomes
    parts = [_encode(base), *sorted(map(_encode, record.attribute_facts)), *sorted(map(_encode, record.touchpoints))]
    return f"blake2b:{blake2b(b''.join(parts), digest_size=16).hexdigest()}"


def known_lately(lead: StoredLead, since: int, as_of: int) -> list[int]:
    """The instants in [since, as_of) at which something of a lead became known, the latest first."""
    touches, facts = lead.record.touchpoints, lead.record.attribute_facts
    told = [datetime_us(touch.recorded_at or touch.occurred_at) for touch in touches]
    told += [datetime_us(fact.recorded_at or fact.occurred_at) for fact in facts]
    told += [lead.merged_at, *(outcome.known for outcome in lead.outcomes)]
    return sorted({at for at in told if since <= at < as_of}, reverse=True)


def _begun(record: LeadRecord) -> datetime | None:
    return record.created_at or min((touch.occurred_at for touch in record.touchpoints), default=None)
