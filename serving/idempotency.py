"""A write that is sent again under the same Idempotency-Key is answered as it was, and not done again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from typing import TypeAlias

from anyio.to_thread import run_sync
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from serving.body import read_raw
from serving.errors import Conflict, FieldError
from serving.store import Idempotent, Store, StoreError

Answer: TypeAlias = Callable[[Request], Awaitable[Response]]
KEPT = 24 * 3_600_000_000
"""Microseconds for which an answer is kept."""
_GIVEN_UP = 60_000_000
"""Microseconds after which a request without an answer is taken to have died with its process."""
_LONGEST = 255


def once(answer: Answer, store: Store, limit: int) -> Answer:
    """Wraps an endpoint that writes; `limit` is the largest body it takes, in bytes.

    Answers other than 2xx are not kept: such a request may be sent again as if it had never come. Raises FieldError
    if the key was used for another request, and Conflict while the first one is being answered.
    """

    async def idempotent(request: Request) -> Response:
        key = request.headers.get("idempotency-key")
        if key is None:
            return await answer(request)
        if not 0 < len(key) <= _LONGEST:
            raise FieldError("Idempotency-Key", f"it has {len(key):,} characters. Send 1 to {_LONGEST}.")
        body = await read_raw(request, limit)
        tenant = request.scope["tenant"]
        mine = Idempotent(key=key, request=_digest(request, body), created_at=_now())
        found = await _claim(store, tenant, mine)
        if found is not None:
            return _again(found, mine)
        try:
            response = await answer(Request(request.scope, _replayed(body)))
        except BaseException as problem:
            removed = store.remove(Idempotent, tenant, _named(mine))
            if isinstance(problem, Exception):
                # It is told of only then, for who hears of it may send again at once.
                with suppress(StoreError):
                    await asyncio.wrap_future(removed)
            raise
        if 200 <= response.status_code < 300:
            kept = replace(mine, status=response.status_code, body=bytes(response.body).decode())
            # It was done, which is what is asked; a repetition within the minute would hear that it is being done.
            with suppress(StoreError):
                await asyncio.wrap_future(store.put(tenant, [kept]))
        else:
            await asyncio.wrap_future(store.remove(Idempotent, tenant, _named(mine)))
        return response

    return idempotent


async def forget_old(store: Store) -> None:
    """Removes the answers that need not be kept any more."""
    for tenant in await run_sync(store.tenants):
        await asyncio.wrap_future(store.remove(Idempotent, tenant, before={"created_at": _now() - KEPT}))


async def _claim(store: Store, tenant: str, mine: Idempotent) -> Idempotent | None:
    """Returns what is known of the key's first request; None if this is it."""
    found = await asyncio.wrap_future(store.claim(tenant, mine))
    if found is not None and mine.created_at - found.created_at > (_GIVEN_UP if found.status is None else KEPT):
        await asyncio.wrap_future(store.remove(Idempotent, tenant, _named(found)))
        found = await asyncio.wrap_future(store.claim(tenant, mine))
    return found


def _again(found: Idempotent, mine: Idempotent) -> Response:
    if found.request != mine.request:
        raise FieldError(
            "Idempotency-Key", f"{mine.key!r} was used for another request. Send each under a key of its own."
        )
    if found.status is None:
        raise Conflict(f"the first request under Idempotency-Key {mine.key!r} is being answered. Send it again later.")
    return Response(found.body, found.status, {"Idempotency-Replayed": "true"}, media_type="application/json")


def _digest(request: Request, body: bytes) -> str:
    told = f"{request.method} {request.url.path}?{request.url.query}\0{request.headers.get('content-encoding', '')}\0"
    return sha256(told.encode() + body).hexdigest()


def _named(record: Idempotent) -> dict[str, str | int]:
    return {"key": record.key, "created_at": record.created_at}


def _replayed(body: bytes) -> Callable[[], Awaitable[Message]]:
    """A body that was read, to be read again."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _now() -> int:
    return time.time_ns() // 1_000
