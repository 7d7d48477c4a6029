"""What comes in about leads, and a lead as it is read back. Instants are microseconds in UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from features.history import Dataset
from features.records import LeadRecord, Recorded, Value, dataset_of
from features.times import NEVER
from serving.store.records import Quarantined

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999."""


class Lead(msgspec.Struct, frozen=True):
    """A lead as its source describes it.

    The first one with `created_at` says what was known of the lead then. What another one says otherwise is a fact from
    the time it is recorded on.
    """

    lead_id: str
    created_at: int | None = None
    """Left out: the time of its first touchpoint."""
    attributes: Mapping[str, Value] = {}


class Touch(msgspec.Struct, frozen=True):
    """One contact between a lead and the company."""

    lead_id: str
    occurred_at: int
    channel: str
    action: str | None = None
    value: float | None = None


class Fact(msgspec.Struct, frozen=True):
    """An attribute that has a value from an instant on."""

    lead_id: str
    occurred_at: int
    name: str
    value: Value


class Outcome(msgspec.Struct, frozen=True):
    """How it ended: the first one closes the lead."""

    lead_id: str
    occurred_at: int
    won: bool
    amount: float | None = None


class Alias(msgspec.Struct, frozen=True):
    """From an instant on, `lead_id` means the lead `same_as` too."""

    lead_id: str
    same_as: str
    occurred_at: int
    firm: bool = True
    """Otherwise it is left out quietly where it contradicts what is known: somebody else used the same browser."""


Row: TypeAlias = Lead | Touch | Fact | Outcome | Alias | Quarantined


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Something that came in, and the rows that were made of it; it counts once for ever.

    It is the same message if (source, message_id) are, even when its lead has been deleted since. Without a message_id
    each of its rows counts unless the same one is there already.

    >>> Message(rows=(Touch("L-42", 0, "email", "click"),), source="segment", message_id="7f3a").rows[0].channel
    'email'
    """

    rows: tuple[Row, ...]
    source: str = "api"
    message_id: str | None = None
    recorded_at: int | None = None
    """When it became known; left out, or later than now: now."""


class ReadOutcome(msgspec.Struct, frozen=True):
    """An outcome of a lead, and from when on it was known to be one of this lead."""

    occurred_at: int
    known: int
    won: bool
    amount: float | None


class StoredLead(msgspec.Struct, frozen=True):
    """Everything known of one lead.

    The record holds what happened under every id that was linked to the lead, known from the link on, and always says
    when the lead was created.
    """

    record: LeadRecord
    outcomes: tuple[ReadOutcome, ...] = ()
    """In order of time."""
    same_as: str | None = None
    """The lead that this one came to mean."""
    merged_at: int = NEVER
    """From when on it does."""
    recorded: Recorded | None = None
    """Where a link passed something on: when everything became known under the id to which it happened."""

    def open_at(self, as_of: int) -> bool:
        """Whether it was neither closed nor merged into another as far as was known at an instant.

        >>> lead = StoredLead(LeadRecord(lead_id="a"), (ReadOutcome(5, 7, True, None),))
        >>> lead.open_at(7), lead.open_at(8)
        (True, False)
        """
        return self.merged_at >= as_of and not any(outcome.known < as_of for outcome in self.outcomes)


def dataset_of_stored(leads: Sequence[StoredLead]) -> Dataset:
    """Builds the dataset of some leads, in their order."""
    return dataset_of([lead.record for lead in leads], [lead.recorded for lead in leads])
