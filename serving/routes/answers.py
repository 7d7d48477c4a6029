"""What is asked about the score of a stored lead: why it moved, what happens if nobody acts, and how it came to be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import msgspec
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.history import Dataset
from features.times import US_PER_DAY, datetime_us, to_datetime
from models.changes import changes
from models.forecast import LONGEST, forecast
from models.points import Point
from models.scorer import Scorer
from models.timeline import Event, timeline
from serving.body import read_time
from serving.errors import FieldError
from serving.operation import Operation, json_response
from serving.pages import PAGE_PARAMETERS, address_of, cursor_of, limit_of, read_cursor
from serving.policy import InForce
from serving.routes.leads import AS_OF, unknown
from serving.routes.scores import too_early
from serving.schemas import (
    ChangePart,
    ChangesResponse,
    ForecastResponse,
    ModelReference,
    ScoreAt,
    TimelineEvent,
    TimelineResponse,
)
from serving.service import Service, lead_of, policy_for, scorer_at, tenant_of
from serving.store.rows import LAST, dataset_of_stored

_DAYS = tuple(str(days) for days in range(1, LONGEST + 1))
_PROBLEMS = {
    404: "The lead is not known.",
    422: "A parameter is wrong, or the lead was created later; `field` says which.",
}


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How much of a timeline was given, and of which."""

    tenant: str
    lead_id: str
    as_of: int
    given: int


def operations(service: Service) -> list[Operation]:
    """The operations that explain a stored lead's score."""

    async def why(request: Request) -> Response:
        since, at = _time(request, "since"), _time(request, "as_of") or datetime.now(UTC)
        if since is None:
            raise FieldError("since", "it is missing. Say since when, e.g. since=2026-10-25T00:00:00Z.")
        if since >= at:
            raise FieldError("since", f"{since.isoformat()} is not before {at.isoformat()}. Ask since an earlier time.")
        policy = await policy_for(service, request)
        return await _about(service, request, "since", since, partial(_changes, service, policy, since, at))

    async def ahead(request: Request) -> Response:
        days, at = request.query_params.get("days", "30"), _time(request, "as_of") or datetime.now(UTC)
        if days not in _DAYS:
            raise FieldError("days", f"got {days[:80]!r}. Ask for 1 to {LONGEST} days.")
        if datetime_us(at) + int(days) * US_PER_DAY > LAST:
            raise FieldError("days", f"{days} days after {at.isoformat()} is beyond the year 9999. Ask for fewer.")
        scorer = (await policy_for(service, request)).scorer(service.scorer)
        return await _about(service, request, "as_of", at, partial(_forecast, scorer, at, int(days)))

    async def events(request: Request) -> Response:
        limit, asked = limit_of(request), _time(request, "as_of")
        place = _Cursor(tenant_of(request), lead_of(request), datetime_us(asked or datetime.now(UTC)), 0)
        if "cursor" in request.query_params:
            place = _place(request.query_params["cursor"], place, asked)
        at, scorer = to_datetime(place.as_of), (await policy_for(service, request)).scorer(service.scorer)
        return await _about(service, request, "as_of", at, partial(_timeline, scorer, request, place, limit))

    return [
        Operation(
            "GET", "/v1/leads/{lead_id}/changes", "getLeadChanges",
            "Why a lead's score moved: its change split into time that passed, what became known, and another model.",
            why, ChangesResponse, problems=_PROBLEMS, scope="score",
            parameters={
                "since": {"type": "string", "format": "date-time", "description": "The change since when."},
                "as_of": AS_OF,
            },
            required=("since",),
        ),
        Operation(
            "GET", "/v1/leads/{lead_id}/forecast", "getLeadForecast",
            "What happens if nobody acts: the score on each day ahead, and the day on which the lead leaves its tier.",
            ahead, ForecastResponse, problems=_PROBLEMS, scope="score",
            parameters={
                "days": {
                    "type": "integer", "minimum": 1, "maximum": LONGEST, "default": 30,
                    "description": "How many days to look ahead.",
                },
                "as_of": AS_OF,
            },
        ),
        Operation(
            "GET", "/v1/leads/{lead_id}/timeline", "getLeadTimeline",
            "What became known of a lead, the last first, with the score right after each.",
            events, TimelineResponse, problems=_PROBLEMS, scope="score",
            parameters={"as_of": AS_OF, **PAGE_PARAMETERS}, addressed=True,
        ),
    ]  # fmt: skip


def _time(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name)
    return None if text is None else read_time(name, text)


def _place(cursor: str, begin: _Cursor, asked: datetime | None) -> _Cursor:
    """Where a page begins. Raises FieldError for a cursor of another timeline."""
    place: _Cursor = read_cursor(cursor, _Cursor)
    same = (place.tenant, place.lead_id) == (begin.tenant, begin.lead_id)
    if not same or place.given < 0 or (asked is not None and place.as_of != begin.as_of):
        raise FieldError("cursor", "it is of another timeline. Ask for the same lead and as_of as for the page before.")
    return place


async def _about(
    service: Service, request: Request, field: str, first: datetime, answer: Callable[[Dataset], msgspec.Struct]
) -> Response:
    """Answers about a stored lead. Raises FieldError unless it was created before the first instant asked about."""
    tenant, lead_id = tenant_of(request), lead_of(request)

    def work() -> Response:
        found = service.store.read(tenant, lead_id)
        if found is None:
            raise unknown(lead_id)
        born = found.record.created_at
        assert born is not None
        if born >= first:
            raise too_early(field, first, born)
        return json_response(answer(dataset_of_stored([found])))

    return await run_sync(work)


def _changes(service: Service, policy: InForce, since: datetime, at: datetime, lead: Dataset) -> ChangesResponse:
    then, now = (policy.scorer(scorer_at(service, datetime_us(instant))) for instant in (since, at))
    found = changes(now, lead, 0, since, at, then)
    parts = [ChangePart(part.cause, part.name or None, part.number, part.text, part.effect) for part in found.parts]
    before, after = found.before, found.after
    return ChangesResponse(
        lead.ids[0], since, at, after.probability - before.probability, _at(before), _at(after), parts, _model(then),
        _model(now),
    )  # fmt: skip


def _forecast(scorer: Scorer, at: datetime, days: int, lead: Dataset) -> ForecastResponse:
    found = forecast(scorer, lead, 0, at, days)
    leaves = found.leaves and _at(found.leaves)
    return ForecastResponse(
        lead.ids[0], at, _at(found.now), [_at(day) for day in found.days], leaves.as_of if leaves else None,
        leaves.tier if leaves else None, _model(scorer),
    )  # fmt: skip


def _timeline(scorer: Scorer, request: Request, place: _Cursor, limit: int, lead: Dataset) -> TimelineResponse:
    page, total = timeline(scorer, lead, 0, place.as_of, limit, place.given)
    given, cursor, address = place.given + len(page), None, None
    if given < total:
        cursor = cursor_of(msgspec.structs.replace(place, given=given))
        address = address_of(request, cursor)
    return TimelineResponse(
        lead.ids[0], to_datetime(place.as_of), [_event(event) for event in page], total, cursor, address, _model(scorer)
    )


def _event(event: Event) -> TimelineEvent:
    kind = event.kind
    return TimelineEvent(
        event.text, to_datetime(event.occurred_at), to_datetime(event.known_at), kind and kind.channel,
        (kind and kind.action) or None, event.value, event.attribute, event.cell, event.after and _at(event.after),
    )  # fmt: skip


def _at(point: Point) -> ScoreAt:
    return ScoreAt(to_datetime(point.as_of), point.probability, point.score, point.tier)  # type: ignore[arg-type]


def _model(scorer: Scorer) -> ModelReference:
    return ModelReference(scorer.card.name, scorer.card.version, scorer.card.features)
