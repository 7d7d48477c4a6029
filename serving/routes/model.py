"""The model that serves, and how another one takes its place."""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from models.scorer import Scorer
from serving.body import Reader, read_body
from serving.models import Models
from serving.operation import Operation, json_response
from serving.schemas import ModelResponse, ReloadRequest, ReloadResponse, ShadowResponse, TierPolicy
from serving.service import Service, policy_for
from serving.shadow import Comparison


def operations(service: Service, models: Models) -> list[Operation]:
    """The operations on a model."""
    read = Reader(ReloadRequest).read

    async def describe(request: Request) -> Response:
        found = await run_sync(models.comparison) if service.settings.shadow else None
        scorer, previous = service.scorer, models.previous
        card, tiers = scorer.card, (await policy_for(service, request)).tiers(scorer.tiers)
        return json_response(
            ModelResponse(
                card.name, card.version, card.model, card.horizon_days, card.features, len(scorer.features.names),
                card.known_until, card.dataset, card.backtest,
                TierPolicy(tiers.version, tiers.warm, tiers.hot, tiers.exit, tiers.routes),
                previous.card.version if previous else None, models.problem,
                _shadow(service.shadow.scorer, service.shadow.problem, found) if service.settings.shadow else None,
            )
        )  # fmt: skip

    async def reload(request: Request) -> Response:
        body = await read_body(request, 10_000)
        return json_response(await run_sync(models.reload, read(body or b"{}").version))

    return [
        Operation(
            "GET", "/v1/model", "getModel", "The model that serves, and the evidence for it.", describe, ModelResponse,
            scope="read",
        ),
        Operation(
            "POST", "/v1/model/reload", "reloadModel",
            "Have all workers serve the watched folder, read anew, or another version; answered once all do.",
            reload, ReloadResponse, ReloadRequest, {}, scope="admin", request_required=False,
            problems={
                400: "The body is not JSON.",
                409: "The bundle is bad, and the model before it serves on; or another reload is under way.",
                422: "There is no such version.",
                503: "Some workers did not follow in time; `detail` names them.",
            },
        ),
    ]  # fmt: skip


def _shadow(scorer: Scorer | None, problem: str | None, found: Comparison | None) -> ShadowResponse:
    if scorer is None or found is None:
        return ShadowResponse(None, None, problem, 0, 0, *[None] * 5)
    if not found.scores:
        return ShadowResponse(scorer.card.version, scorer.card.model, problem, 0, found.skipped, *[None] * 5)
    count = found.scores
    return ShadowResponse(
        scorer.card.version, scorer.card.model, problem, count, found.skipped, found.probability / count,
        found.probability_serving / count, found.difference / count, found.absolute / count, found.changes / count,
    )  # fmt: skip
