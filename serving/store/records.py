"""The service's own records, each a row of one table: what the fields are called there and here is the same."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import msgspec
from sqlalchemy import Table

from serving.store import tables


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call; the secret itself is not kept. Revoked keys stay, so that the audit log can be read."""

    table: ClassVar[Table] = tables.keys
    id: str
    name: str
    hash: str
    scopes: tuple[str, ...]
    created_at: int
    rotated_at: int | None = None
    revoked_at: int | None = None


class Idempotent(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was sent under an Idempotency-Key, and what it was answered once it was."""

    table: ClassVar[Table] = tables.idempotency
    key: str
    request: str
    """A hash of the request: another one under the same key is refused."""
    created_at: int
    status: int | None = None
    body: str | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Where to tell of events."""

    table: ClassVar[Table] = tables.webhooks
    id: str
    url: str
    secret: str
    events: tuple[str, ...]
    created_at: int
    active: bool = True


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way to a webhook: `state` is waiting, delivered or dead."""

    table: ClassVar[Table] = tables.deliveries
    id: str
    webhook_id: str
    lead_id: str | None = None
    event: str
    body: str
    created_at: int
    due_at: int
    attempts: int = 0
    state: str = "waiting"
    problem: str | None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was given, and all that it takes to give it again."""

    table: ClassVar[Table] = tables.receipts
    id: str
    lead_id: str
    stored: str | None = None
    """The lead once more if it was one in the store: then the receipt goes with it."""
    scored_at: int
    as_of: int
    bundle: str
    """The digest of the model's bundle."""
    tiers: str
    """The tier policy, as JSON."""
    reasons: int
    digest: str
    """Of what was seen."""
    answer: str
    """As it was given, to the byte."""
    body: bytes | None = None
    """What was asked if that came with the request, compressed."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A model that has served, packed whole."""

    table: ClassVar[Table] = tables.bundles
    digest: str
    version: str
    packed: bytes
    kept_at: int


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """From when on a model served, with which tiers."""

    table: ClassVar[Table] = tables.served
    at: int
    bundle: str
    version: str
    tiers: str
    """The tier policy, as JSON."""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A message that could not be taken, as it came, and why."""

    table: ClassVar[Table] = tables.quarantine
    reason: str
    body: str
    source: str = "api"
    lead_id: str | None = None
    received_at: int = 0
    """Set by `write`."""
    id: str = ""
    """Set by `write`: the same message with the same fault is there once."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log: who did what to what."""

    table: ClassVar[Table] = tables.audit_log
    at: int
    id: str
    actor: str
    action: str
    subject: str
    detail: dict[str, Any] = {}


class ListedScore(msgspec.Struct, frozen=True, kw_only=True):
    """A lead's place in the ranking, as the last sweep wrote it."""

    table: ClassVar[Table] = tables.listed_scores
    lead_id: str
    probability: float
    score: int
    tier: str
    amount: float | None = None
    expected_value: float
    as_of: int
    model_version: str


class TierChange(msgspec.Struct, frozen=True, kw_only=True):
    """A lead that went from one tier of the ranking to another; one that was not ranked before was cold."""

    table: ClassVar[Table] = tables.tier_changes
    lead_id: str
    at: int
    before: str
    tier: str
    probability: float


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is decided or known once: a tenant's policy, when it was swept last."""

    table: ClassVar[Table] = tables.settings
    name: str
    body: dict[str, Any]


Record: TypeAlias = (
    Key
    | Idempotent
    | Webhook
    | Delivery
    | Receipt
    | Bundle
    | Served
    | Quarantined
    | Entry
    | ListedScore
    | TierChange
    | Setting
)
