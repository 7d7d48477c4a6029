"""Receipts: each answer about a stored lead leaves what it takes to give it again.

They are written behind the answer: a caller waits for no disk. What waits is found here and, once it is written, in the
store; a stop writes it, a crash loses the last moment's.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import zlib
from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING

import msgspec

from features.times import datetime_us
from models.scorer import Scorer
from serving.archive import tiers_json
from serving.background import SYSTEM
from serving.metrics import Metrics
from serving.schemas import ScoreResponse
from serving.store import Receipt, Store, StoreError

if TYPE_CHECKING:
    from serving.service import Service

_MOST = 20_000
"""Receipts that may wait for the store: beyond them answers have none."""
_AT_ONCE = 500
_DAY = 86_400_000_000
_encode = msgspec.json.Encoder().encode


class Receipts:
    """The receipts of one worker; safe to use from many threads.

    >>> Receipts(store=..., metrics=Metrics()).find_waiting("acme", "0006a3f0") is None
    True
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._waiting: dict[tuple[str, str], Receipt] = {}
        self._one_at_a_time = asyncio.Lock()

    def give(
        self, tenant: str, scorer: Scorer, answer: ScoreResponse, reasons: int, lead_id: str, body: bytes | None = None
    ) -> bytes:
        """Writes an answer as JSON, with a receipt if one can be kept of it.

        `lead_id` is that of the store; with a `body` the lead came with the request.
        """
        if not scorer.digest:
            # Nothing could restore a model that was made in memory.
            return _encode(answer)
        if len(self._waiting) >= _MOST:
            self._metrics.receipt_lost()
            return _encode(answer)
        now = time.time_ns() // 1_000
        name = f"{now:014x}{secrets.token_hex(8)}"
        given = _encode(msgspec.structs.replace(answer, receipt=name))
        self._waiting[tenant, name] = Receipt(
            id=name, lead_id=lead_id, stored=lead_id if body is None else None, scored_at=now,
            as_of=datetime_us(answer.as_of), bundle=scorer.digest, tiers=tiers_json(scorer), reasons=reasons,
            digest=answer.digest or "", answer=given.decode(), body=None if body is None else zlib.compress(body),
        )  # fmt: skip
        return given

    def find_waiting(self, tenant: str, name: str) -> Receipt | None:
        """A receipt that this worker has not written yet."""
        return self._waiting.get((tenant, name))

    async def flush(self) -> None:
        """Writes what waits. Raises StoreError if the store cannot now; then it waits on.

        What is being written already is written before it returns, so that no receipt comes after a deletion.
        """
        async with self._one_at_a_time:
            await self._write_all()

    async def _write_all(self) -> None:
        waiting = list(self._waiting.items())
        try:
            for begin in range(0, len(waiting), _AT_ONCE):
                mine: dict[str, list[Receipt]] = {}
                for (tenant, _), receipt in waiting[begin : begin + _AT_ONCE]:
                    mine.setdefault(tenant, []).append(receipt)
                for tenant, receipts in mine.items():
                    await self._write(tenant, receipts)
        except StoreError:
            self._metrics.store_failed()
            raise

    async def _write(self, tenant: str, receipts: Sequence[Receipt]) -> None:
        try:
            await asyncio.wrap_future(self._store.put(tenant, receipts))
        except StoreError:
            if len(receipts) > 1:
                # A lead may have been deleted since: then the store takes none of them together.
                for receipt in receipts:
                    await self._write(tenant, [receipt])
                return
            if not await self._gone(tenant, receipts[0]):
                raise
        for receipt in receipts:
            self._waiting.pop((tenant, receipt.id), None)

    async def _gone(self, tenant: str, receipt: Receipt) -> bool:
        """Whether the lead of a receipt is not in the store any more."""
        if receipt.stored is None:
            return False
        return await asyncio.to_thread(self._store.read, tenant, receipt.stored) is None


def forget_old(service: Service, stopping: Event, now: int | None = None) -> int:
    """Removes the receipts that are too old by now, then the models that nothing names; returns how many receipts."""
    store, count = service.store, 0
    before = (time.time_ns() // 1_000 if now is None else now) - service.settings.receipt_days * _DAY
    for tenant in store.tenants():
        if stopping.is_set():
            return count
        if tenant != SYSTEM:
            count += store.remove(Receipt, tenant, before={"scored_at": before}).result()
    service.archive.forget(before, service.scorer.digest)
    return count
