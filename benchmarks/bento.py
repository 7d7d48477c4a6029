"""The same model behind BentoML, as its documentation has one write a service."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import msgspec

from models import load_bundle
from serving.routes.scores import answer
from serving.schemas import ScoreRequest


@bentoml.service(workers=1)
class Touchstone:
    """Scores a lead that comes with the request."""

    def __init__(self) -> None:
        self._scorer = load_bundle(os.environ["TOUCHSTONE_MODEL"])

    @bentoml.api
    async def score(self, lead: dict[str, Any]) -> dict[str, Any]:
        """Returns what `POST /v1/score` does."""
        (found,) = answer(self._scorer, [msgspec.convert(lead, ScoreRequest)])
        built: dict[str, Any] = msgspec.to_builtins(found)
        return built
