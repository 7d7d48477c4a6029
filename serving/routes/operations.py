"""What those who run the service ask it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from serving.operation import Operation, json_response
from serving.schemas import Status


def operations() -> list[Operation]:
    """Health and readiness; an application only exists with a model that passed its checks, so both are one answer."""

    async def well(request: Request) -> Response:
        return json_response(Status())

    return [
        Operation("GET", "/healthz", "getHealth", "Whether the process lives.", well, Status),
        Operation("GET", "/readyz", "getReadiness", "Whether it can score.", well, Status),
    ]
