"""Scores of leads that come with the request."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.history import Cohort
from features.records import dataset_of
from features.times import datetime_us, to_datetime
from models.scorer import Scorer
from models.tiers import TIERS
from serving.errors import FieldError, refusal
from serving.operation import Operation, json_response, read_body
from serving.schemas import BulkRequest, BulkResponse, ModelReference, ScoreRequest, ScoreResponse
from serving.settings import Settings

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
_PROBLEMS = {
    400: "The body is not JSON.",
    413: "The body is too large.",
    415: "The body is said not to be JSON.",
    422: "A field is wrong; `field` says which.",
}


def operations(scorer: Scorer, settings: Settings) -> list[Operation]:
    """The operations on a scorer."""
    one = msgspec.json.Decoder(ScoreRequest)
    many = msgspec.json.Decoder(BulkRequest)

    async def score(request: Request) -> Response:
        body = await read_body(request, settings.max_body)
        try:
            lead = one.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            return refusal(error, body)
        return json_response(answer(scorer, [lead], _instants([lead], None, ""))[0])

    async def bulk(request: Request) -> Response:
        body = await read_body(request, settings.max_bulk_body)
        try:
            asked = many.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            return refusal(error, body)
        if len(asked.leads) > settings.max_bulk_leads:
            raise FieldError("leads", f"{len(asked.leads):,} leads at once; send at most {settings.max_bulk_leads:,}.")
        common = None if asked.as_of is None else datetime_us(asked.as_of)
        as_of = _instants(asked.leads, common, "leads[{}].")
        return json_response(BulkResponse(await run_sync(answer, scorer, asked.leads, as_of)))

    return [
        Operation(
            "POST", "/v1/score", "scoreLead", "Score one lead from its touchpoints and attributes.",
            score, ScoreResponse, ScoreRequest, _EXAMPLE, _PROBLEMS,
        ),
        Operation(
            "POST", "/v1/score/bulk", "scoreLeads", "Score up to 1,000 leads; answers come in their order.",
            bulk, BulkResponse, BulkRequest, {"leads": [_EXAMPLE]}, _PROBLEMS,
        ),
    ]  # fmt: skip


def answer(scorer: Scorer, leads: Sequence[ScoreRequest], as_of: Sequence[int]) -> list[ScoreResponse]:
    """Scores leads, each as of its own instant in microseconds."""
    dataset = dataset_of(leads)
    scores = scorer.score(dataset, Cohort(np.arange(len(leads)), np.array(as_of, np.int64)))
    card, tiers = scorer.card, scorer.tiers
    model = ModelReference(card.name, card.version, card.features)
    out = []
    rows = zip(leads, as_of, scores.probability.tolist(), scores.score.tolist(), scores.tier.tolist(), strict=True)
    for lead, instant, probability, score, code in rows:
        tier = TIERS[code]
        out.append(
            ScoreResponse(
                lead.lead_id, to_datetime(instant), probability, None, score, card.horizon_days,
                tier, tiers.routes[tier], tiers.version, None, model,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return out


def _instants(leads: Sequence[ScoreRequest], common: int | None, where: str) -> list[int]:
    """As of when each lead is asked about: its own instant, else the common one, else now."""
    now = time.time_ns() // 1_000
    instants = []
    for number, lead in enumerate(leads):
        prefix = where.format(number)
        instant = common if lead.as_of is None else datetime_us(lead.as_of)
        if lead.created_at is None and not lead.touchpoints:
            raise FieldError(
                f"{prefix}created_at",
                f"lead {lead.lead_id!r} has neither created_at nor touchpoints. Give when it was created.",
            )
        if instant is not None and lead.created_at is not None and datetime_us(lead.created_at) > instant:
            raise FieldError(
                f"{prefix}as_of", f"as_of is before created_at {lead.created_at.isoformat()}: there was no lead yet."
            )
        instants.append(now if instant is None else instant)
    return instants
