"""Who is told of what: subscriptions, and events on their way to them, signed and kept until they are delivered."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec
import numpy as np

from features.history import Cohort
from features.times import isoformat
from models.scorer import Scorer
from models.tiers import TIERS
from serving.schemas import TIER_CHANGED, ModelReference, TierChangedEvent
from serving.store import (
    Delivery,
    Entry,
    ListedScore,
    Record,
    Store,
    StoredLead,
    TierChange,
    Webhook,
    dataset_of_stored,
)

COLD = TIERS[0]
"""What a lead is before it is ranked."""
SIGNATURE = "Touchstone-Signature"
_REASONS = 3
_DAY = 86_400_000_000
_KEPT = {"delivered": 7 * _DAY, "dead": 90 * _DAY, "waiting": 90 * _DAY}
"""Those that wait so long are of a webhook that was deleted while they were written."""


def told_of(
    store: Store,
    tenant: str,
    scorer: Scorer,
    leads: Sequence[StoredLead],
    ranked: Sequence[ListedScore],
    before: Mapping[str, ListedScore],
) -> list[Record]:
    """The changes of tier of leads that are ranked anew, for the log, and an event for each webhook."""
    was = [before[row.lead_id].tier if row.lead_id in before else COLD for row in ranked]
    changed = [k for k, row in enumerate(ranked) if row.tier != was[k]]
    if not changed:
        return []
    log: list[Record] = [
        TierChange(
            lead_id=ranked[k].lead_id, at=ranked[k].as_of, before=was[k], tier=ranked[k].tier,
            probability=ranked[k].probability,
        )
        for k in changed
    ]  # fmt: skip
    webhooks = [hook for hook in store.find(Webhook, tenant, {"active": True}) if TIER_CHANGED in hook.events]
    if webhooks:
        dataset = dataset_of_stored([leads[k] for k in changed])
        cohort = Cohort.at(np.arange(len(changed)), ranked[changed[0]].as_of)
        probability = np.array([ranked[k].probability for k in changed])
        # What a lead is may be personal; that its industry counts is not.
        reasons = scorer.reasons(dataset, cohort, probability, _REASONS, values=False)
        for k, why in zip(changed, reasons, strict=True):
            texts = [reason.text for reason in why]
            log += [_delivery(hook, scorer, ranked[k], was[k], texts) for hook in webhooks]
    return log


def _delivery(hook: Webhook, scorer: Scorer, row: ListedScore, was: str, reasons: list[str]) -> Delivery:
    card, tiers = scorer.card, scorer.tiers
    # A lead is ranked as of ever later times, so its events stand in the order of their ids.
    name = f"evt_{row.as_of:016x}{secrets.token_hex(8)}"
    event = TierChangedEvent(
        id=name, event=TIER_CHANGED, lead_id=row.lead_id, before=was, after=row.tier,  # type: ignore[arg-type]
        route=tiers.routes[row.tier], probability=row.probability, score=row.score, reasons=reasons,
        as_of=isoformat(row.as_of), tiers=tiers.version, model=ModelReference(card.name, card.version, card.features),
    )  # fmt: skip
    return Delivery(
        id=name, webhook_id=hook.id, lead_id=row.lead_id, event=TIER_CHANGED,
        body=msgspec.json.encode(event).decode(), created_at=row.as_of, due_at=row.as_of,
    )  # fmt: skip


def signature(secret: str, at: int, body: bytes) -> str:
    """The header by which a receiver knows who sent a body, and when, in seconds since 1970."""
    signed = hmac.new(secret.encode(), b"%d." % at + body, sha256).hexdigest()
    return f"t={at},v1={signed}"


def subscribe(store: Store, tenant: str, url: str, events: Sequence[str], actor: str) -> Webhook:
    """Has events sent to a URL from now on."""
    now = _now()
    hook = Webhook(
        id=f"wh_{secrets.token_hex(8)}", url=url, secret=f"whsec_{secrets.token_hex(32)}", events=tuple(events),
        created_at=now,
    )  # fmt: skip
    store.put(tenant, [hook, _entry(now, actor, "webhook created", hook.id, url=url)]).result()
    return hook


def unsubscribe(store: Store, tenant: str, webhook_id: str, actor: str) -> bool:
    """Ends a subscription, and forgets what was still to be sent; returns whether there was one."""
    if not store.remove(Webhook, tenant, {"id": webhook_id}).result():
        return False
    store.remove(Delivery, tenant, {"webhook_id": webhook_id}).result()
    store.put(tenant, [_entry(_now(), actor, "webhook deleted", webhook_id)]).result()
    return True


def retry(store: Store, tenant: str, delivery_id: str) -> Delivery | None:
    """Has a dead letter sent as if it had never been tried; None if there is no such one."""
    found = store.find(Delivery, tenant, {"id": delivery_id, "state": "dead"})
    if not found:
        return None
    again = msgspec.structs.replace(found[0], state="waiting", attempts=0, due_at=_now())
    return again if store.swap(tenant, Delivery, {delivery_id: found[0]}, [again]).result() else None


def forget_old(store: Store) -> None:
    """Removes what was delivered a week ago, and what is of three months ago."""
    for tenant in store.tenants():
        for state, span in _KEPT.items():
            store.remove(Delivery, tenant, {"state": state}, before={"created_at": _now() - span}).result()


def _entry(at: int, actor: str, action: str, subject: str, **detail: object) -> Entry:
    return Entry(at=at, id=secrets.token_hex(8), actor=actor, action=action, subject=subject, detail=detail)


def _now() -> int:
    return time.time_ns() // 1_000
