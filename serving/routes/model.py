"""The model that serves."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from models.scorer import Scorer
from serving.operation import Operation, json_response
from serving.schemas import ModelResponse, TierPolicy


def operations(scorer: Scorer) -> list[Operation]:
    """The operations on a model."""
    card, tiers = scorer.card, scorer.tiers
    described = json_response(
        ModelResponse(
            card.name, card.version, card.model, card.horizon_days, card.features, len(scorer.features.names),
            card.known_until, card.dataset, card.backtest,
            TierPolicy(tiers.version, tiers.warm, tiers.hot, tiers.exit, tiers.routes),
        )
    )  # fmt: skip

    async def describe(request: Request) -> Response:
        return described

    return [
        Operation(
            "GET", "/v1/model", "getModel", "The model that serves, and the evidence for it.", describe, ModelResponse
        )
    ]
