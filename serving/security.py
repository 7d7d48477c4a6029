"""Lets in who holds a key, as often as the limits allow."""

from __future__ import annotations

import asyncio
import binascii
import math
import time
from base64 import b64decode
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.requests import Request

from serving.access import Scope
from serving.errors import Forbidden, TooMany, Unauthorized
from serving.keys import is_valid, matches, parse
from serving.store import Key, Store

T = TypeVar("T")
_FRESH = 4.0
"""Seconds for which what the store said of a key is believed; with the time to read it less than 5."""
_MOST = 1_024
"""Ids of keys that are remembered, and as many of none."""
_READERS = 4
"""Threads that may look keys up, so that a flood of unknown ones leaves the others to the rest."""
_HOW = "Send it as `Authorization: Bearer ts_...`, as the user of Basic, or in X-API-Key."


class Keys:
    """Lets in who sends a key with the scope that is asked for; it names the tenant.

    Every process has limits of its own: `rate` requests a second for each key (0 for no limit), `burst` at once.

    >>> Keys(store=..., rate=100.0, burst=200).rate
    100.0
    """

    def __init__(self, store: Store, rate: float = 0.0, burst: int = 1) -> None:
        self.rate = rate
        self._store = store
        self._burst = burst
        self._keys: dict[str, tuple[Key, float]] = {}
        self._unknown: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[Key | None]] = {}
        self._buckets: dict[str, Bucket] = {}
        self._readers = CapacityLimiter(_READERS)

    async def admit(self, request: Request, scope: Scope) -> None:
        """Admits a request or raises Unauthorized, Forbidden or TooMany.

        Writes `tenant`, `key` (its id) and `imports` (whether it loads the past) to the request's scope.
        """
        token = _sent(request)
        if token is None:
            raise Unauthorized(f"this needs an API key. {_HOW}")
        parts = parse(token)
        if parts is None:
            raise Unauthorized("this is no API key: one reads ts_<id>_<secret>. Send it whole, as it was shown.")
        tenant, key_id, secret = parts
        key = await self._find(tenant, key_id)
        if key is None or not matches(key, secret) or not is_valid(key, time.time_ns() // 1_000):
            raise Unauthorized("this API key is not valid, or not any more. Ask for another.")
        imports = "import" in key.scopes
        if scope not in key.scopes and not (scope == "ingest" and imports):
            raise Forbidden(f"this API key has not the scope {scope!r}, but {', '.join(key.scopes)}. Use one that has.")
        request.scope.update(tenant=tenant, key=key_id, imports=imports)
        if self.rate:
            self._limit(key_id)

    def _limit(self, key_id: str) -> None:
        bucket = self._buckets.get(key_id)
        if bucket is None:
            bucket = Bucket(self.rate, self._burst)
            _remember(self._buckets, key_id, bucket)
        if wait := bucket.take(time.monotonic()):
            raise TooMany(f"more than {self.rate:g} requests a second came with this API key.", math.ceil(wait))

    async def _find(self, tenant: str, key_id: str) -> Key | None:
        now = time.monotonic()
        known = self._keys.get(key_id)
        if known is not None and now < known[1]:
            return known[0]
        if now < self._unknown.get(key_id, 0.0):
            return None
        lookup = self._lookups.get(key_id)
        if lookup is None:
            lookup = self._lookups[key_id] = asyncio.create_task(self._look_up(tenant, key_id))
            lookup.add_done_callback(lambda _: self._lookups.pop(key_id, None))
        # A caller who goes away ends nobody else's wait.
        return await asyncio.shield(lookup)

    async def _look_up(self, tenant: str, key_id: str) -> Key | None:
        until = time.monotonic() + _FRESH
        found = await run_sync(self._store.find, Key, tenant, {"id": key_id}, limiter=self._readers)
        if not found:
            self._keys.pop(key_id, None)
            _remember(self._unknown, key_id, until)
            return None
        _remember(self._keys, key_id, (found[0], until))
        return found[0]


class Bucket:
    """Lets through `burst` requests at once, and `rate` a second on the whole.

    >>> bucket = Bucket(rate=2.0, burst=1)
    >>> bucket.take(now=10.0), bucket.take(now=10.0), bucket.take(now=10.5)
    (0.0, 0.5, 0.0)
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = self._burst
        self._at = 0.0

    def take(self, now: float) -> float:
        """Takes one request out; returns the seconds to wait if there is none."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._rate
        self._left -= 1.0
        return 0.0


def _remember(what: dict[str, T], key_id: str, value: T) -> None:
    """Forgets the oldest where there is no room, so that strangers cannot fill the memory."""
    what.pop(key_id, None)
    if len(what) >= _MOST:
        del what[next(iter(what))]
    what[key_id] = value


def _sent(request: Request) -> str | None:
    """The key that a request carries, if any."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return b64decode(value.strip(), validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return request.headers.get("x-api-key")
