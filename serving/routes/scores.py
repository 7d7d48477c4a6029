"""Scores of leads that come with the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.history import Cohort
from features.records import dataset_of
from features.times import datetime_us
from models.scorer import Scorer
from models.tiers import TIERS
from serving.body import Reader, read_body
from serving.errors import FieldError
from serving.operation import Operation, json_response
from serving.schemas import BulkRequest, BulkResponse, ModelReference, Reason, ScoreRequest, ScoreResponse
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
_MOST = 5
_COUNTS = tuple(str(count) for count in range(_MOST + 1))
_PARAMETERS = {
    "reasons": {
        "type": "integer", "minimum": 0, "maximum": _MOST, "default": 0,
        "description": "How many reasons to give for a score: what it would be without one kind of touch or attribute.",
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


def operations(scorer: Scorer, settings: Settings) -> list[Operation]:
    """The operations on a scorer."""
    one, many = Reader(ScoreRequest), Reader(BulkRequest)

    def score_one(body: bytes, reasons: int) -> Response:
        return json_response(answer(scorer, [one.read(body)], reasons)[0])

    def score_many(body: bytes, reasons: int) -> Response:
        asked = many.read(body)
        if len(asked.leads) > settings.max_bulk_leads:
            raise FieldError(
                "leads", f"got {len(asked.leads):,} leads. Send at most {settings.max_bulk_leads:,} at once."
            )
        return json_response(BulkResponse(answer(scorer, asked.leads, reasons, asked.as_of, "leads[{}].")))

    async def score(request: Request) -> Response:
        reasons = _reasons(request)
        return await _work(score_one, await read_body(request, settings.max_body), reasons)

    async def bulk(request: Request) -> Response:
        reasons = _reasons(request)
        return await _work(score_many, await read_body(request, settings.max_bulk_body), reasons)

    return [
        Operation(
            "POST", "/v1/score", "scoreLead", "Score one lead from its touchpoints and attributes.",
            score, ScoreResponse, ScoreRequest, _EXAMPLE, _PROBLEMS, _PARAMETERS,
        ),
        Operation(
            "POST", "/v1/score/bulk", "scoreLeads", "Score up to 1,000 leads; answers come in their order.",
            bulk, BulkResponse, BulkRequest, {"leads": [_EXAMPLE]}, _PROBLEMS, _PARAMETERS,
        ),
    ]  # fmt: skip


def _reasons(request: Request) -> int:
    """How many reasons are asked for."""
    given = request.query_params.get("reasons", "0")
    if given not in _COUNTS:
        raise FieldError("reasons", f"got {given[:80]!r}. Ask for 0 to {_MOST} reasons.")
    return int(given)


async def _work(answer: Callable[[bytes, int], Response], body: bytes, reasons: int) -> Response:
    """Answers a small body at once, which is faster than handing it over, and a large one without holding up others."""
    return answer(body, reasons) if len(body) <= _SMALL else await run_sync(answer, body, reasons)


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
    now = datetime.now(UTC)
    instants = []
    for number, lead in enumerate(leads):
        if lead.created_at is None and not lead.touchpoints:
            raise FieldError(
                f"{where.format(number)}created_at",
                f"lead {lead.lead_id!r} has neither created_at nor touchpoints. Give when it was created.",
            )
        try:
            instants.append((lead.as_of or common or now).astimezone(UTC))
        except OverflowError:
            raise FieldError(
                f"{where.format(number)}as_of" if lead.as_of else "as_of",
                f"{(lead.as_of or common or now).isoformat()} is beyond the years 1 to 9999 in UTC. Send one of them.",
            ) from None
    dataset = dataset_of(leads)
    cohort = Cohort(np.arange(len(leads)), np.array([datetime_us(at) for at in instants], np.int64))
    for number in np.flatnonzero(dataset.created_at >= cohort.as_of).tolist():
        raise _too_early(leads[number], common, now, where.format(number))
    scores = scorer.score(dataset, cohort, reasons)
    card, tiers = scorer.card, scorer.tiers
    model = ModelReference(card.name, card.version, card.features)
    out = []
    why = [None] * len(leads) if scores.reasons is None else [[Reason(*one) for one in mine] for mine in scores.reasons]
    ends = (
        [None] * len(leads) if scores.interval is None else [*zip(*(e.tolist() for e in scores.interval), strict=True)]
    )
    rows = zip(
        leads,
        instants,
        scores.probability.tolist(),
        ends,
        scores.score.tolist(),
        scores.tier.tolist(),
        why,
        strict=True,
    )
    for lead, instant, probability, interval, score, code, mine in rows:
        tier = TIERS[code]
        out.append(
            ScoreResponse(
                lead.lead_id, instant, probability, interval, score, card.horizon_days,
                tier, tiers.routes[tier], tiers.version, mine, model,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return out


def _too_early(lead: ScoreRequest, common: datetime | None, now: datetime, where: str) -> FieldError:
    """What to say of a lead that is asked about as of its creation or before."""
    born = lead.created_at or min(touch.occurred_at for touch in lead.touchpoints)
    asked = lead.as_of or common
    if asked is not None:
        return FieldError(
            f"{where}as_of" if lead.as_of else "as_of",
            f"{asked.isoformat()} is not after {born.isoformat()}, when the lead was created: there was no lead yet. "
            "Ask about a later time.",
        )
    return FieldError(
        f"{where}created_at" if lead.created_at else f"{where}touchpoints[0].occurred_at",
        f"{born.isoformat()} is not before now, {now.isoformat()} by the server's clock. Correct it, or give as_of.",
    )
