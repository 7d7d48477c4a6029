"""The agreement between marketing and sales over HTTP."""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import FieldError
from serving.operation import Operation, json_response
from serving.schemas import SlaAgreement, SlaResponse
from serving.service import Service, policy_for, tenant_of
from serving.sla import read_sla

_MOST = 53
_WEEKS = {
    "weeks": {
        "type": "integer", "minimum": 1, "maximum": _MOST, "default": 8,
        "description": "How many weeks, of which the last is this one.",
    }
}  # fmt: skip


def operations(service: Service) -> list[Operation]:
    """The one operation on it."""

    async def sla(request: Request) -> Response:
        given = request.query_params.get("weeks", "8")
        if not (given.isascii() and given.isdecimal() and len(given) <= 2 and 1 <= int(given) <= _MOST):
            raise FieldError("weeks", f"got {given[:80]!r}. Ask for 1 to {_MOST}.")
        agreed = (await policy_for(service, request)).policy.sla
        weeks = await run_sync(read_sla, service.store, tenant_of(request), int(given), agreed)
        return json_response(
            SlaResponse(SlaAgreement(agreed.hot_leads_a_week, agreed.first_touch_hours) if agreed else None, weeks)
        )

    return [
        Operation(
            "GET",
            "/v1/sla",
            "getSla",
            "How marketing and sales keep what they agreed on, week by week.",
            sla,
            SlaResponse,
            problems={422: "The number of weeks is wrong."},
            parameters=_WEEKS,
            scope="read",
        ),
    ]
