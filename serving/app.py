"""The service: an application from a scorer and settings, nothing global."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from features.errors import TouchstoneError
from models.scorer import Scorer
from serving import errors
from serving.operation import openapi
from serving.routes import model, operations, scores
from serving.settings import Settings

DESCRIPTION = "Turns the touchpoints of a lead into a calibrated probability of purchase."


def create_app(scorer: Scorer, settings: Settings | None = None) -> FastAPI:
    """Builds the application that serves a model.

    Its routes take the raw body into msgspec types: FastAPI's own validation costs more than the whole score.
    """
    settings = settings or Settings()
    all_operations = [*scores.operations(scorer, settings), *model.operations(scorer), *operations.operations()]
    app = FastAPI(
        title="Touchstone",
        version="1",
        description=DESCRIPTION,
        redirect_slashes=False,
        routes=[Route(each.path, each.answer, methods=[each.method], name=each.name) for each in all_operations],
        exception_handlers={
            TouchstoneError: errors.on_domain_error,
            HTTPException: errors.on_http_error,
            ClientDisconnect: errors.on_disconnect,
            Exception: errors.on_crash,
        },
    )
    document = openapi(all_operations, title=app.title, version=app.version, description=DESCRIPTION)

    def describe() -> dict[str, Any]:
        return document

    app.openapi = describe  # type: ignore[method-assign]
    return app
