"""Leads as documents: one lead with its touchpoints and attributes, as JSON and data frames of lists hold it.

The endpoint and the MLflow model receive leads this way. They become the same `Dataset` as tables do, so the same
kernel sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
import numpy as np

from features.errors import TableError
from features.history import Attributes, Dataset, History, Kind, Outcomes
from features.times import NEVER, datetime_us
from features.words import attribute_word, kind_word

Instant = Annotated[datetime, msgspec.Meta(tz=True, description="ISO 8601 with an offset.")]
LONGEST = 200
"""Characters of a channel, an action, an attribute's name or an id: each new one is remembered."""
Text = Annotated[str, msgspec.Meta(max_length=LONGEST)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)]
Value = str | float | bool | None


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


def dataset_of(records: Sequence[LeadRecord]) -> Dataset:
    """Builds the dataset of some leads, in their order; each record is a lead of its own."""
    created: list[int] = []
    lead: list[int] = []
    at: list[int] = []
    known: list[int] = []
    kind: list[int] = []
    value: list[float] = []
    message: list[int] = []
    kinds: dict[tuple[str, str | None], int] = {}
    messages: dict[str, int] = {}
    for i, record in enumerate(records):
        begin = len(at)
        for touch in record.touchpoints:
            occurred = datetime_us(touch.occurred_at)
            lead.append(i)
            at.append(occurred)
            known.append(occurred if touch.recorded_at is None else max(occurred, datetime_us(touch.recorded_at)))
            kind.append(kinds.setdefault((touch.channel, touch.action), len(kinds)))
            value.append(float("nan") if touch.value is None else touch.value)
            message.append(messages.setdefault(touch.message_id, len(messages)) if touch.message_id else -1)
        if record.created_at is not None:
            created.append(datetime_us(record.created_at))
        elif len(at) > begin:
            created.append(min(at[begin:]))
        else:
            raise TableError(
                f"lead {record.lead_id!r} has neither created_at nor touchpoints. Give when it was created."
            )
    named = [
        Kind(kind_word(channel), kind_word(action) if action and not action.isspace() else "")
        for channel, action in kinds
    ]
    distinct = sorted(set(named))
    place = {name: code for code, name in enumerate(distinct)}
    code = np.array([place[name] for name in named], np.int32)
    count = len(records)
    history = History.build(
        count,
        np.array(lead, np.int32),
        np.array(at, np.int64),
        np.array(known, np.int64),
        code[np.array(kind, np.int64)] if kind else np.empty(0, np.int32),
        np.array(value, np.float64),
        distinct,
        np.array(message, np.int32) if messages else None,
    )
    ids = np.empty(count, object)
    ids[:] = [record.lead_id for record in records]
    never = np.full(count, NEVER, np.int64)
    return Dataset(ids, np.array(created, np.int64), never, history, _attributes(records), Outcomes.none())


def _attributes(records: Sequence[LeadRecord]) -> Attributes:
    base: dict[str, list[float | str | None]] = {}
    for i, record in enumerate(records):
        for name, entry in record.attributes.items():
            base.setdefault(kind_word(name), [None] * len(records))[i] = _cell(entry)
    facts = [(i, fact) for i, record in enumerate(records) for fact in record.attribute_facts]
    if not base and not facts:
        return Attributes.none(len(records))
    at = np.array([datetime_us(fact.occurred_at) for _, fact in facts], np.int64)
    known = np.array([datetime_us(fact.recorded_at or fact.occurred_at) for _, fact in facts], np.int64)
    return Attributes.build(
        len(records),
        base,
        np.array([i for i, _ in facts], np.int64),
        at,
        np.maximum(at, known),
        [kind_word(fact.name) for _, fact in facts],
        [_cell(fact.value) for _, fact in facts],
    )


def _cell(entry: Value) -> float | str | None:
    if isinstance(entry, bool):
        return "true" if entry else "false"
    if isinstance(entry, str):
        return attribute_word(entry) or None
    return entry
