"""Leads as documents: one lead with its touchpoints and attributes, as JSON and data frames of lists hold it.

The endpoint and the MLflow model receive leads this way. They become the same `Dataset` as tables do, so the same
kernel sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from features.errors import TableError
from features.history import Attributes, Dataset, History, Ints, Kind, Outcomes
from features.linked import linked_history
from features.times import NEVER, datetime_us, datetimes_us
from features.words import attribute_word, kind_word

Instant = Annotated[datetime, msgspec.Meta(tz=True, description="ISO 8601 with an offset.")]
LONGEST = 200
"""Characters of a channel, an action, an attribute's name or an id: each new one is remembered."""
Text = Annotated[str, msgspec.Meta(max_length=LONGEST)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)]
Value = str | float | bool | None
_FEW = 64
"""Kinds of touches of one request up to which it is remembered what they mean."""


class Touchpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One contact between a lead and the company."""

    occurred_at: Instant
    channel: Word
    action: Text | None = None
    value: float | None = None
    recorded_at: Instant | None = None
    """When it became known, if later than it occurred."""
    message_id: Text | None = None
    """The same id twice counts once."""


class AttributeFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of an attribute after the lead was created."""

    occurred_at: Instant
    name: Word
    value: Value
    recorded_at: Instant | None = None


class LeadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A lead and all that is known of it."""

    lead_id: Id
    created_at: Instant | None = None
    """Left out: the time of its first touchpoint."""
    attributes: dict[Text, Value] = {}
    """What was known at creation."""
    attribute_facts: tuple[AttributeFact, ...] = ()
    touchpoints: tuple[Touchpoint, ...] = ()


class Recorded(NamedTuple):
    """When each touchpoint and each fact of a record became known under the id to which it happened.

    In the record `recorded_at` says when it became known of the lead, which is later where a link passed it on.
    """

    touchpoints: tuple[int, ...]
    attribute_facts: tuple[int, ...]


def dataset_of(records: Sequence[LeadRecord], recorded: Sequence[Recorded | None] = ()) -> Dataset:
    """Builds the dataset of some leads, in their order; each record is a lead of its own.

    `recorded` is told of records of which something was passed on by a link.
    """
    count = len(records)
    touches = [touch for record in records for touch in record.touchpoints]
    ends = [0, *accumulate(len(record.touchpoints) for record in records)]
    times = datetimes_us([touch.occurred_at for touch in touches])
    at = known = np.array(times, np.int64)
    if late := [i for i, touch in enumerate(touches) if touch.recorded_at is not None]:
        later = [datetime_us(touches[i].recorded_at or touches[i].occurred_at) for i in late]
        known = at.copy()
        known[late] = np.maximum(at[late], later)
    pairs = [(touch.channel, touch.action) for touch in touches]
    distinct = frozenset(pairs)
    kinds, place = _named(distinct) if len(distinct) <= _FEW else _name(distinct)
    message = None
    if any([touch.message_id for touch in touches]):
        messages: dict[str, int] = {}
        coded = [messages.setdefault(t.message_id, len(messages)) if t.message_id else -1 for t in touches]
        message = np.array(coded, np.int32)
    created = [_created(record, times[begin:end]) for record, begin, end in zip(records, ends, ends[1:], strict=False)]
    kind = np.array([place[pair] for pair in pairs], np.int32)
    # Those without a value become NaN.
    value = np.array([touch.value for touch in touches], np.float64)
    if any(recorded):
        lead = np.repeat(np.arange(count, dtype=np.int32), np.diff(ends))
        told = _told([one and one.touchpoints for one in recorded], known, ends)
        since = np.where(told < known, known, -NEVER)
        history = linked_history(count, lead, at, told, kind, value, kinds, message, None, since)
    else:
        history = History.in_order(np.array(ends, np.int64), at, known, kind, value, kinds, message)
    ids = np.empty(count, object)
    ids[:] = [record.lead_id for record in records]
    never = np.full(count, NEVER, np.int64)
    return Dataset(ids, np.array(created, np.int64), never, history, _attributes(records, recorded), Outcomes.none())


def _told(recorded: Sequence[tuple[int, ...] | None], known: Ints, ends: Sequence[int]) -> Ints:
    """Returns (n,) when each became known first: as `known` says where nothing is told of the record."""
    told = known.copy()
    for mine, begin, end in zip(recorded, ends, ends[1:], strict=False):
        if mine is not None:
            told[begin:end] = mine
    return told


def _name(pairs: frozenset[tuple[str, str | None]]) -> tuple[tuple[Kind, ...], dict[tuple[str, str | None], int]]:
    """The kinds that channels and actions mean, sorted, and which of them each pair is."""
    named = {
        (channel, action): Kind(kind_word(channel), kind_word(action) if action and not action.isspace() else "")
        for channel, action in pairs
    }
    kinds = tuple(sorted(set(named.values())))
    code = {kind: i for i, kind in enumerate(kinds)}
    return kinds, {pair: code[kind] for pair, kind in named.items()}


_named = lru_cache(maxsize=1_024)(_name)
"""Leads are touched in much the same ways, so what their touches mean is remembered."""


def _created(record: LeadRecord, at: Sequence[int]) -> int:
    if record.created_at is not None:
        return datetime_us(record.created_at)
    if at:
        return min(at)
    raise TableError(f"lead {record.lead_id!r} has neither created_at nor touchpoints. Give when it was created.")


def _attributes(records: Sequence[LeadRecord], recorded: Sequence[Recorded | None]) -> Attributes:
    base: dict[str, list[float | str | None]] = {}
    for i, record in enumerate(records):
        for name, entry in record.attributes.items():
            base.setdefault(kind_word(name), [None] * len(records))[i] = _cell(entry)
    facts = [(i, fact) for i, record in enumerate(records) for fact in record.attribute_facts]
    if not base and not facts:
        return Attributes.none(len(records))
    if not facts:
        return Attributes.of_creation(len(records), base)
    at = np.array([datetime_us(fact.occurred_at) for _, fact in facts], np.int64)
    known = np.array([datetime_us(fact.recorded_at or fact.occurred_at) for _, fact in facts], np.int64)
    known = np.maximum(at, known)
    told = known
    if any(recorded):
        ends = [0, *accumulate(len(record.attribute_facts) for record in records)]
        told = _told([one and one.attribute_facts for one in recorded], known, ends)
    return Attributes.build(
        len(records),
        base,
        np.array([i for i, _ in facts], np.int64),
        at,
        told,
        [kind_word(fact.name) for _, fact in facts],
        [_cell(fact.value) for _, fact in facts],
        known,
    )


def _cell(entry: Value) -> float | str | None:
    if isinstance(entry, bool):
        return "true" if entry else "false"
    if isinstance(entry, str):
        return attribute_word(entry) or None
    return entry
