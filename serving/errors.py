"""The one place that knows how errors become HTTP: problem+json after RFC 9457."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from features.errors import TouchstoneError
from serving.schemas import Problem
from serving.store.protocol import StoreError


class RequestError(TouchstoneError):
    """A request that cannot be answered."""

    status: ClassVar[int] = 422
    field: str | None = None
    headers: Mapping[str, str] | None = None


class FieldError(RequestError):
    """A field that cannot be, though the body is JSON."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field or 'the body'}: {detail}")
        self.field = field or None


class Malformed(RequestError):
    """A body that is not JSON."""

    status = 400


class NotFound(RequestError):
    """Something that is not there."""

    status = 404


class TooLarge(RequestError):
    """A body beyond what is taken."""

    status = 413


class WrongMedia(RequestError):
    """A body that is not JSON by its own account."""

    status = 415


class Unauthorized(RequestError):
    """A request without a key that is valid."""

    status = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="touchstone", Basic realm="touchstone"'}


class Forbidden(RequestError):
    """A request with a key that is for something else."""

    status = 403


class Conflict(RequestError):
    """A request that is being answered already."""

    status = 409


class _Later(RequestError):
    """A request that may be sent again after some seconds."""

    def __init__(self, detail: str, seconds: int = 1) -> None:
        super().__init__(f"{detail} Send it again in {seconds} s.")
        self.headers = {"Retry-After": str(seconds)}


class TooMany(_Later):
    """More requests than one may send."""

    status = 429


class Busy(_Later):
    """More requests than can be answered at once, or a store that cannot be reached."""

    status = 503


def problem_response(status: int, detail: str, field: str | None = None, headers: Any = None) -> Response:
    """Builds the answer to a request that failed."""
    return Response(
        msgspec.json.encode(problem_of(status, detail, field)),
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def problem_of(status: int, detail: str, field: str | None = None) -> Problem:
    """What went wrong, in the words of RFC 9457."""
    return Problem(HTTPStatus(status).phrase, status, detail[:1].upper() + detail[1:] if not field else detail, field)


async def on_domain_error(request: Request, error: Exception) -> Response:
    """Answers what was refused."""
    request.scope["problem"] = error
    if isinstance(error, StoreError):
        # The text names the database, which is nothing to a caller; it is in the log.
        error = Busy("the store cannot be reached now, or is full.", 5)
    if isinstance(error, RequestError):
        return problem_response(error.status, str(error), error.field, error.headers)
    return problem_response(422, str(error))


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answers a wrong path or method."""
    assert isinstance(error, HTTPException)
    headers, mend = error.headers, "/docs lists what there is."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _methods(request)
        headers, mend = {"Allow": ", ".join(allowed)}, f"Use {' or '.join(allowed)}."
    return problem_response(
        error.status_code, f"{request.method} {request.url.path}: {error.detail}. {mend}", None, headers
    )


def _methods(request: Request) -> list[str]:
    """What may be asked at a path: each method has a route of its own, and Starlette tells of the first alone."""
    matched = [each for each in request.app.routes if each.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for each in matched for method in each.methods or ()})


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Ends a request whose caller went away; nobody reads this."""
    return problem_response(400, "the body ended before it was whole.")


async def on_crash(request: Request, error: Exception) -> Response:
    """Answers what nobody foresaw, without telling what is inside."""
    return problem_response(500, "the service failed on this request. Its log says why.")
