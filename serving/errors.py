"""The one place that knows how errors become HTTP: problem+json after RFC 9457."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from features.errors import TouchstoneError, UsageError
from serving.schemas import Problem

_PATH = re.compile(r"^(.*?)(?: - at `(?:key in )?\$(.*?)`)?$", re.DOTALL)
_NAMED = re.compile(r"(?:required|unknown) field `([^`]*)`")


class FieldError(UsageError):
    """A field of a request that cannot be, though it is well formed."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class TooLarge(TouchstoneError):
    """A body beyond what is taken."""


class WrongMedia(TouchstoneError):
    """A body that is not JSON by its own account."""


def problem_response(status: int, detail: str, field: str | None = None, headers: Any = None) -> Response:
    """Builds the answer to a request that failed."""
    problem = Problem(HTTPStatus(status).phrase, status, detail, field)
    return Response(
        msgspec.json.encode(problem), status_code=status, headers=headers, media_type="application/problem+json"
    )


async def on_domain_error(request: Request, error: Exception) -> Response:
    """Answers what the domain refused."""
    status = 413 if isinstance(error, TooLarge) else 415 if isinstance(error, WrongMedia) else 422
    return problem_response(status, str(error), getattr(error, "field", None))


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answers a wrong path or method."""
    assert isinstance(error, HTTPException)
    return problem_response(
        error.status_code, f"{request.method} {request.url.path}: {error.detail}.", None, error.headers
    )


async def on_crash(request: Request, error: Exception) -> Response:
    """Answers what nobody foresaw, without telling what is inside."""
    return problem_response(500, "The service failed on this request. Its log says why.")


def refusal(error: Exception, body: bytes) -> Response:
    """Answers a body that msgspec did not take, naming the field, what was received and what is expected."""
    if isinstance(error, RecursionError):
        return problem_response(400, "The body is not JSON that can be read: it is nested too deeply.")
    if not isinstance(error, msgspec.ValidationError):
        return problem_response(400, f"The body is not valid JSON: {error}.")
    match = _PATH.match(str(error))
    assert match is not None
    says, path = match[1], match[2] or ""
    field = path.removeprefix(".")
    named = _NAMED.search(says)
    if named:
        return problem_response(422, f"{says}.", f"{field}.{named[1]}".removeprefix("."))
    return problem_response(422, f"{field or 'the body'}: {says}; got {_received(body, path)}.", field or None)


def _received(body: bytes, path: str) -> str:
    """The value at a path of the body, shortened."""
    value = msgspec.json.decode(body)
    for step in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", path):
        try:
            value = value[int(step[1])] if step[1] else value[step[0]]
        except (KeyError, IndexError, TypeError, ValueError):
            break
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:80]}..."
