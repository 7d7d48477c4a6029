"""Segment's protocol over HTTP, for the clients that speak it already."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from serving.body import read_unpacked
from serving.mapping import Mapping
from serving.operation import Operation, json_response
from serving.routes.ingest import ingested, written
from serving.schemas import SegmentResponse
from serving.segment import (
    LARGEST_BATCH,
    MEANINGS,
    Arrival,
    SegmentBatch,
    SegmentMessage,
    Taken,
    take_batch,
    take_one,
)
from serving.service import Service, imports, policy_for

_SMALL = 16_384
"""Bytes of a body up to which reading it takes but a moment."""
_PROBLEMS = {
    400: "The body is no JSON, or gzip that ends too early.",
    413: "The body is too large.",
    503: "The database cannot do it now. Send it again.",
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "track": {"event": "Webinar Attended", "properties": {"value": 45}},
    "page": {"category": "pricing"},
    "screen": {"category": "pricing"},
    "identify": {"traits": {"industry": "cleaning", "employees": 40}},
    "group": {"groupId": "G-7", "traits": {"industry": "cleaning"}},
    "alias": {"previousId": "anonymous-7"},
}


def operations(service: Service) -> list[Operation]:
    """The operations that Segment's clients call."""
    path = service.settings.mapping
    common = Mapping() if path is None else Mapping.read(path)

    async def take(request: Request, read: Callable[[bytes, Arrival], Taken]) -> Response:
        at = time.time_ns() // 1_000
        body = await read_unpacked(request, LARGEST_BATCH)
        own = (await policy_for(service, request)).mapping
        arrival = Arrival(at, imports(request), common if own is None else own)
        taken = read(body, arrival) if len(body) <= _SMALL else await run_sync(read, body, arrival)
        done = ingested(await written(service, request, taken.messages))
        return json_response(
            SegmentResponse(
                done.accepted, done.duplicates, done.quarantined, ignored=taken.ignored, left_out=taken.left_out
            )
        )

    async def batch(request: Request) -> Response:
        return await take(request, take_batch)

    async def one(request: Request, kind: str) -> Response:
        return await take(request, lambda body, arrival: take_one(body, kind, arrival))

    example = {"batch": [{"type": kind, "userId": "L-42", **fields} for kind, fields in _EXAMPLES.items()]}
    return [
        *(
            Operation(
                "POST", f"/v1/{name}", f"segment{name.title()}", "Tell of many things, as Segment's clients do.", batch,
                SegmentResponse, SegmentBatch, example, _PROBLEMS, scope="ingest",
            )
            for name in ("batch", "import")
        ),
        *(
            Operation(
                "POST", f"/v1/{kind}", f"segment{kind.title()}", f"Tell of one thing, as Segment's `{kind}` does.",
                partial(one, kind=kind), SegmentResponse, SegmentMessage, {"userId": "L-42", **_EXAMPLES[kind]},
                _PROBLEMS, scope="ingest",
            )
            for kind in MEANINGS
        ),
    ]  # fmt: skip
