"""Sends events to webhooks: each until it is taken, those of one lead in their order, and gives up in the end."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from anyio.to_thread import run_sync
from msgspec.structs import replace

from serving.background import SYSTEM
from serving.outbound import OutboundError, post
from serving.service import Service
from serving.store import Delivery, Webhook
from serving.webhooks import SIGNATURE, signature

_LOOKS = 1.0
"""Seconds between two looks at what is due."""
_FRESH = 5.0
"""Seconds for which the webhooks that there are are believed to be all."""
_AT_ONCE = 8
"""Webhooks that are sent to at once."""
_PAGE = 50
_ROUND = 5.0
"""Seconds after which a webhook with much to take lets others have their turn."""
_PATIENCE = 10.0
"""Seconds in which a receiver has to answer."""
_LONGEST = 6 * 3_600.0
"""Seconds between two tries, at most."""
_US = 1_000_000


async def deliver(service: Service) -> None:
    """Sends what is due for ever; to be done by one worker of all."""
    sender = Sender(service, service.background.stopping)
    while True:
        await run_sync(sender.send_due)
        await asyncio.sleep(_LOOKS)


class Sender:
    """Sends what is due; when that is stands in the store, so that a restart changes nothing.

    >>> Sender(service=..., stopping=Event()).webhooks
    []
    """

    def __init__(self, service: Service, stopping: Event) -> None:
        self.webhooks: list[tuple[str, Webhook]] = []
        self._service = service
        self._stopping = stopping
        self._until = 0.0

    def send_due(self) -> None:
        """Sends to every webhook what is due now."""
        self._look()
        due = [(tenant, hook) for tenant, hook in self.webhooks if self._due(tenant, hook, limit=1)]
        if due:
            with ThreadPoolExecutor(_AT_ONCE, "touchstone-webhook") as pool:
                list(pool.map(lambda each: self._send_to(*each), due))

    def _look(self) -> None:
        if time.monotonic() >= self._until:
            store = self._service.store
            tenants = [tenant for tenant in store.tenants() if tenant != SYSTEM]
            self.webhooks = [(each, hook) for each in tenants for hook in store.find(Webhook, each, {"active": True})]
            self._until = time.monotonic() + _FRESH

    def _due(self, tenant: str, hook: Webhook, limit: int) -> list[Delivery]:
        waiting = {"webhook_id": hook.id, "state": "waiting"}
        before = {"due_at": _now() + 1}
        return self._service.store.find(Delivery, tenant, waiting, before=before, order="due_at", limit=limit)

    def _send_to(self, tenant: str, hook: Webhook) -> None:
        """Sends to one webhook, one after another, until it has trouble."""
        store, until = self._service.store, time.monotonic() + _ROUND
        for one in self._due(tenant, hook, _PAGE):
            if self._stopping.is_set() or time.monotonic() > until:
                return
            same = {"webhook_id": hook.id, "lead_id": one.lead_id, "state": "waiting"}
            first = store.find(Delivery, tenant, same, limit=1)
            if first and first[0].id < one.id:
                # The one before it was not taken yet, so both wait.
                later = replace(one, due_at=max(one.due_at, first[0].due_at))
                store.swap(tenant, Delivery, {one.id: one}, [later]).result()
                continue
            tried, well = self._tried(one, hook)
            # A lead or a webhook that was deleted meanwhile takes its deliveries along.
            store.swap(tenant, Delivery, {one.id: one}, [tried]).result()
            if not well:
                return

    def _tried(self, one: Delivery, hook: Webhook) -> tuple[Delivery, bool]:
        """Sends an event; returns what became of it, and whether the receiver is well."""
        settings, body, at = self._service.settings, one.body.encode(), int(time.time())
        headers = {SIGNATURE: signature(hook.secret, at, body)}
        try:
            status = post(hook.url, body, headers, private=settings.webhook_private, seconds=_PATIENCE)
            problem = None if 200 <= status < 300 else f"it answered {status}"
            well = status < 500 and status not in (408, 429)
        except OutboundError as error:
            problem, well = str(error), False
        tries = one.attempts + 1
        if problem is None:
            return replace(one, attempts=tries, state="delivered", problem=None), True
        if tries >= settings.webhook_attempts:
            self._service.log.line("warning", "delivery dead", webhook=hook.id, attempts=tries)
            return replace(one, attempts=tries, state="dead", problem=problem), well
        # Not all at the same time, which would be the next trouble.
        wait = min(_LONGEST, settings.webhook_retry_seconds * 2**one.attempts) * random.uniform(0.75, 1.25)
        return replace(one, attempts=tries, due_at=_now() + round(wait * _US), problem=problem), well


def _now() -> int:
    return time.time_ns() // 1_000
