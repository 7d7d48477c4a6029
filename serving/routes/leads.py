"""Stored leads: their scores, as of now or any past time, and their ranking."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.times import datetime_us, to_datetime
from models.tiers import TIERS
from serving.body import read_time
from serving.errors import FieldError, NotFound
from serving.operation import Operation, json_response
from serving.pages import PAGE_PARAMETERS, address_of, cursor_of, limit_of, read_cursor
from serving.policy import InForce
from serving.routes.scores import PARAMETERS, reasons_asked, too_early
from serving.schemas import ListedLead, Ranking, ScoreResponse, StoredScore
from serving.seen import digest, see
from serving.service import Service, lead_of, policy_for, tenant_of
from serving.store import ListedScore, StoredLead
from serving.sweep import last_sweep

AS_OF: dict[str, Any] = {
    "type": "string", "format": "date-time",
    "description": "As of when: only what was known before counts. Left out: the server's clock.",
}  # fmt: skip
_SORTS = ("-expected_value", "expected_value", "-probability", "probability")
_LISTING: dict[str, dict[str, Any]] = {
    "tier": {"type": "string", "enum": list(TIERS), "description": "Only the leads of this tier."},
    "sort": {
        "type": "string", "enum": list(_SORTS), "default": _SORTS[0],
        "description": "By what; with a minus the largest come first.",
    },
    **PAGE_PARAMETERS,
}  # fmt: skip


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The last lead of a page, and of what listing."""

    tenant: str
    tier: str
    sort: str
    value: float
    lead_id: str


_FEW = 500
"""Touches of a lead up to which scoring takes but a moment."""


def operations(service: Service) -> list[Operation]:
    """The operations on stored leads."""
    store, together = service.store, service.together

    async def score(request: Request) -> Response:
        reasons, text = reasons_asked(request), request.query_params.get("as_of")
        as_of = read_time("as_of", text) if text is not None else None
        tenant, lead_id = tenant_of(request), lead_of(request)
        if store.embedded:
            found = store.read(tenant, lead_id)
        else:
            found = await run_sync(store.read, tenant, lead_id)
        if found is None:
            raise unknown(lead_id)
        policy = await policy_for(service, request)
        scorer, at = policy.scorer(service.scorer), as_of or datetime.now(UTC)
        seen = _seen(found, at)
        if len(found.record.touchpoints) > _FEW:
            (given,) = await run_sync(together.score_now, scorer, policy, [seen.record], [at], reasons)
        else:
            given = await together.score(scorer, policy, seen.record, at, reasons)
        answer = service.receipts.give(tenant, scorer, stored_answer(given, seen, at), reasons, found.record.lead_id)
        return Response(answer, media_type="application/json")

    async def ranking(request: Request) -> Response:
        given = dict(request.query_params)
        tier, sort = given.get("tier", ""), given.get("sort", _SORTS[0])
        if tier and tier not in TIERS:
            raise FieldError("tier", f"got {tier[:80]!r}. Ask for {', '.join(TIERS)}.")
        if sort not in _SORTS:
            raise FieldError("sort", f"got {sort[:80]!r}. Ask for one of {', '.join(_SORTS)}.")
        limit = limit_of(request)
        query = tenant_of(request), tier, sort
        after = _after(given["cursor"], query) if "cursor" in given else None
        policy = await policy_for(service, request)

        def read() -> Ranking:
            # One more than asked for tells whether there is a next page.
            rows = store.find(
                ListedScore, query[0], {"tier": tier} if tier else None, order=sort, after=after, limit=limit + 1
            )
            return _page(service, policy, request, rows, limit, query)

        return json_response(await run_sync(read))

    return [
        Operation(
            "GET", "/v1/leads", "listLeads", "The open leads in order, as the last sweep scored them.",
            ranking, Ranking, problems={422: "A parameter is wrong; `field` says which."}, parameters=_LISTING,
            scope="read", addressed=True,
        ),
        Operation(
            "GET", "/v1/leads/{lead_id}/score", "scoreStoredLead",
            "Score a stored lead from all that was known of it, now or at any past time.", score, StoredScore,
            problems={
                404: "The lead is not known.",
                422: "A parameter is wrong, or the lead was created later; `field` says which.",
            },
            parameters={"as_of": AS_OF, **PARAMETERS}, scope="score",
        ),
    ]  # fmt: skip


def unknown(lead_id: str) -> NotFound:
    """What to say where nothing was ever heard of a lead."""
    return NotFound(f"lead {lead_id[:200]!r} is not known. Send its touchpoints first.")


def stored_answer(score: ScoreResponse, seen: StoredLead, at: datetime) -> StoredScore:
    """The answer about a stored lead of which just that is seen, as of an instant in UTC."""
    fields = {name: getattr(score, name) for name in score.__struct_fields__} | {"digest": digest(seen)}
    return StoredScore(
        **fields,
        open=seen.open_at(datetime_us(at)),
        outcome=None if not seen.outcomes else "won" if seen.outcomes[0].won else "lost",
        same_as=seen.same_as,
    )


def _seen(lead: StoredLead, at: datetime) -> StoredLead:
    """What is seen of a lead as of an instant in UTC. Raises FieldError if it was created later."""
    born = lead.record.created_at
    assert born is not None
    if born >= at:
        raise too_early("as_of", at, born)
    return see(lead, datetime_us(at))


def _after(cursor: str, query: tuple[str, str, str]) -> ListedScore:
    """The lead that a cursor stands for."""
    last = read_cursor(cursor, _Cursor)
    if (last.tenant, last.tier, last.sort) != query:
        raise FieldError("cursor", "it is of another listing. Ask for the same tier and sort as for the page before.")
    return ListedScore(
        lead_id=last.lead_id, probability=last.value, expected_value=last.value, score=0, tier="", as_of=0,
        model_version="",
    )  # fmt: skip


def _page(
    service: Service,
    policy: InForce,
    request: Request,
    rows: list[ListedScore],
    limit: int,
    query: tuple[str, str, str],
) -> Ranking:
    routes = policy.tiers(service.scorer.tiers).routes
    leads = [
        ListedLead(
            row.lead_id, row.probability, row.score, row.tier, routes[row.tier], row.amount,  # type: ignore[arg-type]
            row.expected_value, to_datetime(row.as_of), row.model_version,
        )
        for row in rows[:limit]
    ]  # fmt: skip
    cursor = address = None
    if len(rows) > limit:
        last = rows[limit - 1]
        here = _Cursor(*query, getattr(last, query[2].removeprefix("-")), last.lead_id)
        cursor = cursor_of(here)
        address = address_of(request, cursor)
    swept = last_sweep(service.store, query[0])
    as_of = None if swept is None else to_datetime(swept.as_of)
    age = None if as_of is None else (datetime.now(UTC) - as_of).total_seconds()
    return Ranking(leads, as_of, age, cursor, address)
