"""Scores of leads that come with the request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.times import datetime_us
from models.scorer import Scorer
from serving.body import Reader, encoding_of, read_body
from serving.errors import FieldError, RequestError, TooLarge, WrongMedia, problem_of
from serving.lines import LinesResponse, is_lines
from serving.operation import Operation, json_response
from serving.policy import InForce
from serving.schemas import (
    BulkRequest,
    BulkResponse,
    LineProblem,
    ScoreRequest,
    ScoreResponse,
)
from serving.seen import digest, see
from serving.service import Service, lead_name, policy_for, tenant_of
from serving.store import StoredLead
from serving.together import score_records

_EXAMPLE = {
    "lead_id": "L-42",
    "as_of": "2026-11-01T00:00:00Z",
    "created_at": "2026-10-01T09:00:00Z",
    "attributes": {"industry": "cleaning", "employees": 40},
    "touchpoints": [
        {"occurred_at": "2026-10-12T14:00:00Z", "channel": "webinar", "action": "attend", "value": 45},
        {"occurred_at": "2026-10-30T10:00:00Z", "channel": "email", "action": "click", "value": None},
    ],
}
_MOST = 5
_COUNTS = tuple(str(count) for count in range(_MOST + 1))
PARAMETERS: dict[str, dict[str, Any]] = {
    "reasons": {
        "type": "integer", "minimum": 0, "maximum": _MOST, "default": 0,
        "description": "How many reasons to give for a score: what it would be without one kind of touch or attribute.",
    }
}  # fmt: skip
_RECEIPT: dict[str, dict[str, Any]] = {
    "receipt": {
        "type": "boolean", "default": False,
        "description": "Whether to keep what is sent, so that the answer can be given again by its receipt.",
    }
}  # fmt: skip
_SMALL = 65_536
"""Bytes of a body up to which scoring takes but a moment."""
_PROBLEMS = {
    400: "The body is not JSON.",
    413: "The body is too large.",
    415: "The body is said not to be JSON.",
    422: "A field is wrong; `field` says which.",
}


def operations(service: Service) -> list[Operation]:
    """The operations on leads that come with the request."""
    settings, together = service.settings, service.together
    one, many = Reader(ScoreRequest), Reader(BulkRequest)

    def read(body: bytes) -> tuple[StoredLead, datetime]:
        lead = one.read(body)
        at = asked_at(lead, None, datetime.now(UTC))
        return see(StoredLead(lead), datetime_us(at)), at

    def score_many(body: bytes, policy: InForce, reasons: int) -> Response:
        asked = many.read(body)
        if len(asked.leads) > settings.max_bulk_leads:
            raise FieldError(
                "leads", f"got {len(asked.leads):,} leads. Send at most {settings.max_bulk_leads:,} at once."
            )
        records, instants = asked.leads, instants_of(asked.leads, asked.as_of, "leads[{}].")
        scorer = policy.scorer(service.scorer)
        return json_response(BulkResponse(together.score_now(scorer, policy, records, instants, reasons)))

    def score_lines(number: int, lines: Sequence[bytes], policy: InForce, reasons: int) -> bytes:
        """Scores the lines from a number on; those that are wrong are answered with what is."""
        now, out = datetime.now(UTC), dict[int, ScoreResponse | LineProblem]()
        asked: dict[int, tuple[ScoreRequest, datetime]] = {}
        for place, line in enumerate(lines, number):
            try:
                if len(line) > settings.max_body:
                    raise TooLarge(f"the line is larger than {settings.max_body:,} bytes. Send fewer touchpoints.")
                if line.strip():
                    lead = one.read(line)
                    asked[place] = lead, asked_at(lead, None, now)
            except RequestError as error:
                out[place] = LineProblem(place, problem_of(error.status, str(error), error.field))
        leads, instants = [lead for lead, _ in asked.values()], [at for _, at in asked.values()]
        if leads:
            scorer = policy.scorer(service.scorer)
            out |= zip(asked, together.score_now(scorer, policy, leads, instants, reasons), strict=True)
        return msgspec.json.Encoder().encode_lines([out[place] for place in sorted(out)])

    async def score(request: Request) -> Response:
        reasons = reasons_asked(request)
        tenant, receipt = tenant_of(request), _receipt_asked(request)
        body = await read_body(request, settings.max_body)
        policy = await policy_for(service, request)
        scorer = policy.scorer(service.scorer)

        def told(score: ScoreResponse, seen: StoredLead) -> Response:
            answer = body_answer(score, seen)
            if not receipt:
                return json_response(answer)
            given = service.receipts.give(tenant, scorer, answer, reasons, lead_name(seen.record.lead_id), body)
            return Response(given, media_type="application/json")

        def work() -> Response:
            seen, at = read(body)
            (score,) = together.score_now(scorer, policy, [seen.record], [at], reasons)
            return told(score, seen)

        if len(body) > _SMALL:
            return await run_sync(work)
        seen, at = read(body)
        return told(await together.score(scorer, policy, seen.record, at, reasons), seen)

    async def bulk(request: Request) -> Response:
        reasons = reasons_asked(request)
        if is_lines(request):
            if encoding_of(request) not in ("identity", ""):
                raise WrongMedia("lines are read as they come. Send them without content-encoding.")
            lines = partial(score_lines, policy=await policy_for(service, request), reasons=reasons)
            return LinesResponse(request, lines, longest=settings.max_body)
        body = await read_body(request, settings.max_bulk_body)
        policy = await policy_for(service, request)
        # A large body is worked on without holding up others.
        return (
            score_many(body, policy, reasons)
            if len(body) <= _SMALL
            else await run_sync(score_many, body, policy, reasons)
        )

    return [
        Operation(
            "POST", "/v1/score", "scoreLead", "Score one lead from its touchpoints and attributes.",
            score, ScoreResponse, ScoreRequest, _EXAMPLE, _PROBLEMS, {**PARAMETERS, **_RECEIPT}, scope="score",
        ),
        Operation(
            "POST", "/v1/score/bulk", "scoreLeads",
            "Score up to 1,000 leads, or any number as lines of JSON; answers come in their order.",
            bulk, BulkResponse, BulkRequest, {"leads": [_EXAMPLE]}, _PROBLEMS, PARAMETERS, scope="score",
            lines=(ScoreRequest, ScoreResponse, LineProblem),
        ),
    ]  # fmt: skip


def reasons_asked(request: Request) -> int:
    """How many reasons are asked for."""
    if not request.scope["query_string"]:
        return 0
    given = request.query_params.get("reasons", "0")
    if given not in _COUNTS:
        raise FieldError("reasons", f"got {given[:80]!r}. Ask for 0 to {_MOST} reasons.")
    return int(given)


def _receipt_asked(request: Request) -> bool:
    if not request.scope["query_string"]:
        return False
    given = request.query_params.get("receipt", "false")
    if given not in ("true", "false"):
        raise FieldError("receipt", f"got {given[:80]!r}. Ask for true or false.")
    return given == "true"


def answer(
    scorer: Scorer,
    leads: Sequence[ScoreRequest],
    reasons: int = 0,
    common: datetime | None = None,
    where: str = "",
) -> list[ScoreResponse]:
    """Scores leads, each as of its own instant, else the common one, else now.

    A lead must have been created before that instant, as in a list, where one created later is not scored. Raises
    FieldError with the path of the field; `where` is the path of a lead by its number.
    """
    return score_records(scorer, leads, instants_of(leads, common, where), reasons)


def instants_of(leads: Sequence[ScoreRequest], common: datetime | None = None, where: str = "") -> list[datetime]:
    """The instants in UTC that leads are asked about; what is raised is as in `answer`."""
    now = datetime.now(UTC)
    return [asked_at(lead, common, now, where.format(number)) for number, lead in enumerate(leads)]


def body_answer(score: ScoreResponse, seen: StoredLead) -> ScoreResponse:
    """The answer about a lead that came with the request, of which just that is seen."""
    return msgspec.structs.replace(score, digest=digest(seen))


def asked_at(lead: ScoreRequest, common: datetime | None, now: datetime, where: str = "") -> datetime:
    """The instant in UTC that a lead is asked about. Raises FieldError unless the lead was created before."""
    born = lead.created_at or min((touch.occurred_at for touch in lead.touchpoints), default=None)
    if born is None:
        raise FieldError(
            f"{where}created_at",
            f"lead {lead.lead_id!r} has neither created_at nor touchpoints. Give when it was created.",
        )
    asked = lead.as_of or common
    field = f"{where}as_of" if lead.as_of else "as_of"
    if asked is None:
        if born < now:
            return now
        raise FieldError(
            f"{where}created_at" if lead.created_at else f"{where}touchpoints[0].occurred_at",
            f"{born.isoformat()} is not before now, {now.isoformat()} by the server's clock. Correct it, or give "
            "as_of.",
        )
    try:
        at = asked.astimezone(UTC)
    except OverflowError:
        raise FieldError(
            field, f"{asked.isoformat()} is beyond the years 1 to 9999 in UTC. Send one of them."
        ) from None
    if born < at:
        return at
    raise too_early(field, asked, born)


def too_early(field: str, asked: datetime, born: datetime) -> FieldError:
    """What to say where a lead is asked about as of its creation or before."""
    return FieldError(
        field,
        f"{asked.isoformat()} is not after {born.isoformat()}, when the lead was created: there was no lead yet. "
        "Ask about a later time.",
    )
