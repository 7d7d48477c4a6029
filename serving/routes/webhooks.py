"""Webhooks over HTTP: where events are sent, and what became of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.times import to_datetime
from serving.body import Reader, read_body
from serving.errors import FieldError, NotFound
from serving.operation import Operation, json_response
from serving.outbound import NoAddressError, OutboundError, Target
from serving.pages import PAGE_PARAMETERS, cursor_of, limit_of, read_cursor
from serving.schemas import (
    Deleted,
    Deliveries,
    DeliveryResponse,
    NewWebhook,
    WebhookRequest,
    WebhookResponse,
    Webhooks,
)
from serving.service import Service, actor_of, tenant_of
from serving.store import Delivery, Webhook
from serving.webhooks import retry, subscribe, unsubscribe

_STATES = ("waiting", "delivered", "dead")
_LISTING: dict[str, dict[str, Any]] = {
    "state": {"type": "string", "enum": list(_STATES), "default": "dead", "description": "Only those of this state."},
    **PAGE_PARAMETERS,
}


def operations(service: Service) -> list[Operation]:
    """The operations on webhooks."""
    store, private = service.store, service.settings.webhook_private
    read = Reader(WebhookRequest).read

    def checked(url: str) -> None:
        try:
            # A name that leads nowhere yet is looked up again each time that something is sent.
            with suppress(NoAddressError):
                Target.of(url, private=private).addresses(private=private)
        except OutboundError as problem:
            raise FieldError("url", str(problem)) from None

    async def create(request: Request) -> Response:
        asked = read(await read_body(request, 10_000))
        await run_sync(checked, asked.url)
        hook = await run_sync(subscribe, store, tenant_of(request), asked.url, asked.events, actor_of(request))
        return json_response(
            NewWebhook(hook.id, hook.url, hook.events, to_datetime(hook.created_at), secret=hook.secret)
        )

    async def listed(request: Request) -> Response:
        found = await run_sync(store.find, Webhook, tenant_of(request))
        return json_response(
            Webhooks([WebhookResponse(each.id, each.url, each.events, to_datetime(each.created_at)) for each in found])
        )

    async def delete(request: Request) -> Response:
        name = request.path_params["webhook_id"]
        if not await run_sync(unsubscribe, store, tenant_of(request), _word(name), actor_of(request)):
            raise NotFound(f"there is no webhook {name[:200]!a}. GET /v1/webhooks lists them.")
        return json_response(Deleted(1))

    async def deliveries(request: Request) -> Response:
        state, limit = request.query_params.get("state", "dead"), limit_of(request)
        if state not in _STATES:
            raise FieldError("state", f"got {state[:80]!r}. Ask for {', '.join(_STATES)}.")
        cursor = request.query_params.get("cursor")
        after = None
        if cursor is not None:
            at, name = read_cursor(cursor, tuple[int, str])
            after = Delivery(id=name, webhook_id="", event="", body="", created_at=at, due_at=0)

        def find() -> list[Delivery]:
            return store.find(
                Delivery, tenant_of(request), {"state": state}, order="-created_at", after=after, limit=limit + 1
            )

        found = await run_sync(find)
        page = found[:limit]
        following = cursor_of((page[-1].created_at, page[-1].id)) if len(found) > limit else None
        return json_response(Deliveries([_shown(each) for each in page], following))

    async def again(request: Request) -> Response:
        name = request.path_params["delivery_id"]
        found = await run_sync(retry, store, tenant_of(request), _word(name))
        if found is None:
            raise NotFound(
                f"there is no dead letter {name[:200]!a}. GET /v1/webhooks/deliveries?state=dead lists them."
            )
        return json_response(_shown(found))

    return [
        Operation(
            "POST", "/v1/webhooks", "createWebhook", "Have events sent to a URL; answers with the secret, this once.",
            create, NewWebhook, WebhookRequest, {"url": "https://crm.example/hooks"},
            {
                400: "The body is not JSON.", 413: "The body is too large.", 415: "The body is said not to be JSON.",
                422: "A field is wrong, or the address is not public; `field` says which.",
            },
            scope="admin", idempotent=True,
        ),
        Operation("GET", "/v1/webhooks", "listWebhooks", "Where events are sent.", listed, Webhooks, scope="admin"),
        Operation(
            "DELETE", "/v1/webhooks/{webhook_id}", "deleteWebhook",
            "Send nothing more there, and forget what was to be sent.", delete, Deleted,
            problems={404: "There is no such webhook."}, scope="admin", idempotent=True,
        ),
        Operation(
            "GET", "/v1/webhooks/deliveries", "listDeliveries",
            "Events on their way, delivered in the last week, or given up; the newest first.", deliveries, Deliveries,
            problems={422: "A parameter is wrong; `field` says which."}, parameters=_LISTING, scope="admin",
        ),
        Operation(
            "POST", "/v1/webhooks/deliveries/{delivery_id}/retry", "retryDelivery",
            "Have a dead letter sent as if it had never been tried.", again, DeliveryResponse,
            problems={404: "There is no such dead letter."}, scope="admin", idempotent=True,
        ),
    ]  # fmt: skip


def _word(name: str) -> str:
    """An id as the store may be asked for it; it holds what no id of ours does where it could not."""
    return name if name.isascii() and name.isprintable() else ""


def _shown(one: Delivery) -> DeliveryResponse:
    return DeliveryResponse(
        one.id, one.webhook_id, one.event, one.lead_id, one.state,  # type: ignore[arg-type]
        one.attempts, to_datetime(one.created_at), to_datetime(one.due_at), one.problem,
    )  # fmt: skip
