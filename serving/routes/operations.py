"""What those who run the service ask it."""

from __future__ import annotations

from anyio import CapacityLimiter, move_on_after
from anyio.to_thread import run_sync
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from serving.background import SYSTEM
from serving.errors import Busy
from serving.operation import Operation, json_response
from serving.schemas import Status
from serving.service import Service
from serving.store import Key

_PATIENCE = 2.0
"""Seconds in which the store has to answer."""


def operations(service: Service) -> list[Operation]:
    """Health, readiness and metrics; an application only exists with a model that passed its checks."""
    # One thread at most waits for a store that does not answer.
    alone = CapacityLimiter(1)

    def answers() -> None:
        service.store.find(Key, SYSTEM, limit=1)

    async def well(request: Request) -> Response:
        return json_response(Status())

    async def ready(request: Request) -> Response:
        with move_on_after(_PATIENCE):
            await run_sync(answers, abandon_on_cancel=True, limiter=alone)
            return json_response(Status())
        raise Busy(f"the store does not answer within {_PATIENCE:g} s.", 5)

    async def metrics(request: Request) -> Response:
        text = await run_sync(service.metrics.text, service.scorer.card)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return [
        Operation("GET", "/healthz", "getHealth", "Whether the process lives.", well, Status),
        Operation(
            "GET", "/readyz", "getReadiness", "Whether it can score, and its store answers.", ready, Status,
            problems={503: "It cannot now; `detail` says why."},
        ),
        Operation(
            "GET", "/metrics", "getMetrics", "Figures for Prometheus.", metrics, str, scope="read",
            media="text/plain",
        ),
    ]  # fmt: skip
