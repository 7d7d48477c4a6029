"""The service: an application from a scorer and settings, nothing global."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from features.errors import TouchstoneError
from models.scorer import Scorer
from serving import errors, idempotency, webhooks
from serving.access import Access, Open
from serving.background import in_thread
from serving.deliver import deliver
from serving.direct import Direct
from serving.endpoint import Gate, endpoint
from serving.models import Models
from serving.observe import note
from serving.openapi20 import to_20
from serving.openapi30 import to_30
from serving.operation import Operation, openapi
from serving.receipts import forget_old
from serving.routes import answers, ingest, leads, model, operations, policy, receipts, scores, segment, sla
from serving.routes import webhooks as webhook_routes
from serving.service import Service
from serving.settings import Settings
from serving.store import Store
from serving.sweep import rank_touched, sweep

DESCRIPTION = "Turns the touchpoints of a lead into a calibrated probability of purchase."
_SOON = 0.05
"""Seconds after which receipts are written, many at once."""


def create_app(scorer: Scorer, store: Store, settings: Settings | None = None, access: Access | None = None) -> FastAPI:
    """Builds the application that serves a model, and what a store knows; without `access` everybody is let in.

    The application closes the store when it stops. Its routes take the raw body into msgspec types: FastAPI's own
    validation costs more than the whole score.
    """
    service = Service(scorer, store, access or Open(), settings or Settings())
    background = service.background
    models = Models(service, background.worker)
    background.each(service.settings.watch_seconds, "watch", in_thread(models.follow))
    background.every(service.settings.sweep_seconds, "sweep", in_thread(partial(sweep, service, background.stopping)))
    background.each(1, "touched", in_thread(partial(rank_touched, service)))
    background.every(5, "deliver", partial(deliver, service))
    background.every(3_600, "deliveries", in_thread(partial(webhooks.forget_old, store)))
    background.every(3_600, "idempotency", lambda: idempotency.forget_old(store))
    background.each(_SOON, "receipts", service.receipts.flush)
    background.every(86_400, "old receipts", in_thread(partial(forget_old, service, background.stopping)))
    background.at_end("receipts", service.receipts.flush)
    background.at_end("leave", in_thread(models.leave))
    all_operations = [
        *scores.operations(service),
        *ingest.operations(service),
        *segment.operations(service),
        *leads.operations(service),
        *receipts.operations(service),
        *answers.operations(service),
        *model.operations(service, models),
        *policy.operations(service),
        *webhook_routes.operations(service),
        *sla.operations(service),
        *operations.operations(service),
    ]
    gate = Gate(service.settings.max_in_work)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.log.start()
        async with background.running(store, service.log):
            yield
        await run_sync(store.close)
        service.log.stop()

    app = Direct(
        [(each, endpoint(each, service, gate)) for each in all_operations],
        seen=partial(note, service.metrics, service.log),
        handlers={
            TouchstoneError: errors.on_domain_error,
            HTTPException: errors.on_http_error,
            ClientDisconnect: errors.on_disconnect,
            Exception: errors.on_crash,
        },
        title="Touchstone",
        version="1",
        description=DESCRIPTION,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    # For what answers with an address: the documents, and operations that are `addressed`.
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1"))
    _describe(app, all_operations)
    return app


def _describe(app: FastAPI, all_operations: Sequence[Operation]) -> None:
    """Serves the OpenAPI document at /openapi.json, and for older tools at /openapi-3.0.json and /swagger-2.0.json."""
    document = openapi(all_operations, title=app.title, version=app.version, description=app.description)

    def describe() -> dict[str, Any]:
        return document

    async def older(request: Request) -> Response:
        return Response(msgspec.json.encode(to_30(document)), media_type="application/json")

    async def oldest(request: Request) -> Response:
        converted = to_20(to_30(document), request.url.scheme, request.url.netloc)
        return Response(msgspec.json.encode(converted), media_type="application/json")

    app.openapi = describe  # type: ignore[method-assign]
    app.router.routes.append(Route("/openapi-3.0.json", older, include_in_schema=False))
    app.router.routes.append(Route("/swagger-2.0.json", oldest, include_in_schema=False))
