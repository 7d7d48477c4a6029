"""The tables of the store. The tenant goes first in every primary key; instants are whole microseconds in UTC.

A change here goes with a migration beside it; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

REVISION = "0003"
"""The newest migration; they are numbered in order."""

metadata = MetaData()
_WORD = Text().with_variant(Text(collation="C"), "postgresql")
"""Text in the order of its characters, which is the same in both databases and in Python."""


def _table(name: str, keys: dict[str, Any], columns: dict[str, Any], *extra: Any) -> Table:
    """A table whose primary key is the tenant and `keys`; a column is NOT NULL unless its type is in a list."""
    return Table(
        name,
        metadata,
        Column("tenant", _WORD, primary_key=True),
        *(Column(key, _WORD if kind is Text else kind, primary_key=True) for key, kind in keys.items()),
        *(_column(name, kind) for name, kind in columns.items()),
        *extra,
        # Rows lie in the order of the key, so that one lead's are read from one place.
        sqlite_with_rowid=False,
    )


def _column(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind[0], nullable=True) if isinstance(kind, list) else Column(name, kind, nullable=False)


def _of_lead(name: str) -> ForeignKeyConstraint:
    """A row of a lead goes when the lead does."""
    return ForeignKeyConstraint(
        ["tenant", "lead_id"], ["leads.tenant", "leads.lead_id"], name=f"{name}_of_lead", ondelete="CASCADE"
    )


tenants = _table("tenants", {}, {})
"""All there are: the only table that a tenant does not have to itself."""

leads = _table("leads", {"lead_id": Text}, {"created_at": [BigInteger], "seen_at": BigInteger, "attributes": Text})
"""`created_at` is missing where nobody said it; `seen_at` is when the store first heard of the lead."""

messages = _table("messages", {"digest": LargeBinary}, {})
"""The hash of (source, message_id) of all that ever came in: it stays when its lead goes, so that none counts again."""

touchpoints = _table(
    "touchpoints",
    {"lead_id": Text, "digest": LargeBinary},
    {
        "occurred_at": BigInteger, "recorded_at": BigInteger, "channel": Text, "action": Text, "value": [Float(53)],
        "message_id": [Text],
    },
    _of_lead("touchpoints"),
)  # fmt: skip
"""`digest` is that of the message, or of what makes a touch the same where it came without one."""

facts = _table(
    "facts",
    {"lead_id": Text, "digest": LargeBinary},
    {"occurred_at": BigInteger, "recorded_at": BigInteger, "name": Text, "value": Text},
    _of_lead("facts"),
)
outcomes = _table(
    "outcomes",
    {"lead_id": Text, "digest": LargeBinary},
    {"occurred_at": BigInteger, "recorded_at": BigInteger, "won": Boolean, "amount": [Float(53)]},
    _of_lead("outcomes"),
)
aliases = _table(
    "aliases",
    {"lead_id": Text},
    {"same_as": _WORD, "occurred_at": BigInteger},
    ForeignKeyConstraint(["tenant", "same_as"], ["leads.tenant", "leads.lead_id"], name="aliases_of_lead"),
    Index("aliases_by_target", "tenant", "same_as", "occurred_at"),
)

keys = _table(
    "keys",
    {"id": Text},
    {
        "name": Text, "hash": Text, "scopes": JSON, "created_at": BigInteger, "rotated_at": [BigInteger],
        "revoked_at": [BigInteger],
    },
)  # fmt: skip
idempotency = _table(
    "idempotency",
    {"key": Text},
    {"request": Text, "created_at": BigInteger, "status": [Integer], "body": [Text]},
)
webhooks = _table(
    "webhooks",
    {"id": Text},
    {"url": Text, "secret": Text, "events": JSON, "created_at": BigInteger, "active": Boolean},
)
deliveries = _table(
    "deliveries",
    {"id": Text},
    {
        "webhook_id": Text, "lead_id": [Text], "event": Text, "body": Text, "created_at": BigInteger,
        "due_at": BigInteger, "attempts": Integer, "state": Text, "problem": [Text],
    },
    Index("deliveries_due", "tenant", "state", "due_at"),
    Index("deliveries_of_lead", "tenant", "lead_id"),
)  # fmt: skip
receipts = _table(
    "receipts",
    {"id": Text},
    {
        "lead_id": Text, "stored": [_WORD], "scored_at": BigInteger, "as_of": BigInteger, "bundle": Text, "tiers": Text,
        "reasons": Integer, "digest": Text, "answer": Text, "body": [LargeBinary],
    },
    ForeignKeyConstraint(
        ["tenant", "stored"], ["leads.tenant", "leads.lead_id"], name="receipts_of_stored", ondelete="CASCADE"
    ),
    Index("receipts_of_lead", "tenant", "lead_id"),
    Index("receipts_by_stored", "tenant", "stored"),
    Index("receipts_by_time", "tenant", "scored_at"),
)  # fmt: skip
"""`stored` is the lead again where it is in the store: a receipt that is written after the lead has gone is refused."""

bundles = _table("bundles", {"digest": Text}, {"version": Text, "packed": LargeBinary, "kept_at": BigInteger})
served = _table("served", {"at": BigInteger, "bundle": Text}, {"version": Text, "tiers": Text})
quarantine = _table(
    "quarantine",
    {"id": Text},
    {"source": Text, "lead_id": [Text], "reason": Text, "body": Text, "received_at": BigInteger},
    Index("quarantine_by_time", "tenant", "received_at"),
    Index("quarantine_of_lead", "tenant", "lead_id"),
)
audit_log = _table(
    "audit_log",
    {"at": BigInteger, "id": Text},
    {"actor": Text, "action": Text, "subject": Text, "detail": JSON},
)
listed_scores = _table(
    "listed_scores",
    {"lead_id": Text},
    {
        "probability": Float(53), "score": Integer, "tier": Text, "amount": [Float(53)], "expected_value": Float(53),
        "as_of": BigInteger, "model_version": Text,
    },
    Index("listed_by_value", "tenant", "expected_value", "lead_id"),
    Index("listed_by_tier_and_value", "tenant", "tier", "expected_value", "lead_id"),
    Index("listed_by_probability", "tenant", "probability", "lead_id"),
    Index("listed_by_tier_and_probability", "tenant", "tier", "probability", "lead_id"),
)  # fmt: skip
tier_changes = _table(
    "tier_changes",
    {"lead_id": Text, "at": BigInteger},
    {"before": Text, "tier": Text, "probability": Float(53)},
    _of_lead("tier_changes"),
    Index("tier_changes_by_tier", "tenant", "tier", "at", "lead_id"),
)
leases = _table("leases", {"name": Text}, {"holder": Text, "until": BigInteger})
settings = _table("settings", {"name": Text}, {"body": JSON})

GUARDED = tuple(table.name for table in metadata.sorted_tables if table is not tenants)
"""The tables of whose rows PostgreSQL shows each tenant its own."""
