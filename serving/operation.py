"""An endpoint as data: what it takes, what it gives, and who answers; the OpenAPI document is written from it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope as Asgi

from features.records import LONGEST
from serving.access import Scope
from serving.schemas import Problem

NDJSON = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode
_PLACE = re.compile(r"\{(\w+)\}")
"""A part of a path that the caller fills in."""
_ID = {"type": "string", "minLength": 1, "maxLength": LONGEST}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: ts_<id>_<secret>."},
    "basic": {"type": "http", "scheme": "basic", "description": "The API key as the user, and no password."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The API key."},
}
"""The ways to send a key; not asked for where the service runs with --no-auth."""
_ADMISSION = {
    401: "There is no API key, or it is not valid.",
    403: "The API key has not the scope.",
    429: "Too many requests under this API key; Retry-After says when to send it again.",
    503: "Too many requests at once, or the store cannot be reached; Retry-After says when to send it again.",
}
_IDEMPOTENCY = {409: "A request under the same Idempotency-Key is being answered."}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A request sent again under the same key within 24 hours is answered as before, and not done again.",
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    name: str
    """The operationId."""
    summary: str
    answer: Callable[[Request], Awaitable[Response]]
    response: type
    request: type | tuple[type, ...] = ()
    """The type of its body, or those that it may be of."""
    request_required: bool = field(default=True, kw_only=True)
    example: Any = None
    """A request body that works."""
    problems: Mapping[int, str] | None = None
    parameters: Mapping[str, dict[str, Any]] | None = None
    """The schemas of its query parameters."""
    required: tuple[str, ...] = ()
    """Those that have to be given."""
    scope: Scope = ""
    """What a key has to be for; the empty one needs none."""
    idempotent: bool = False
    """Whether it writes, so that it takes an Idempotency-Key."""
    addressed: bool = False
    """Whether it answers with an address, which hangs on what proxies say that was asked."""
    media: str = "application/json"
    """What it answers with; a `response` that is text has no type of its own in the document."""
    lines: tuple[type, ...] = ()
    """What a line of application/x-ndjson may be: one in the request, then those in the answer."""


class IdRoute(Route):
    """A route whose path holds an id: it goes by the path as it was sent, in which an id may have an encoded slash."""

    def matches(self, scope: Asgi) -> tuple[Match, Asgi]:
        sent = scope.get("raw_path")
        if sent is None:
            return super().matches(scope)
        match, child = super().matches({**scope, "path": sent.decode("utf-8", "surrogateescape")})
        if "path_params" in child:
            # Half characters are left for whoever reads the id to refuse.
            given = child["path_params"].items()
            child["path_params"] = {name: unquote(word, errors="surrogateescape") for name, word in given}
        return match, child


def route(operation: Operation, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    """The route of an operation."""
    kind = IdRoute if "{" in operation.path else Route
    return kind(operation.path, endpoint, methods=[operation.method], name=operation.name)


class _Json(Response):
    """JSON that is encoded already; its headers are the two that all such answers have."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]


def json_response(value: msgspec.Struct) -> Response:
    """Answers with JSON."""
    return _Json(_encode(value))


def openapi(operations: Sequence[Operation], *, title: str, version: str, description: str) -> dict[str, Any]:
    """Writes the OpenAPI 3.1 document of some operations from their types."""
    types = [t for each in operations for t in (*_bodies(each), each.response, *each.lines)]
    distinct = list(dict.fromkeys([*types, Problem]))
    schemas, components = msgspec.json.schema_components(distinct, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(distinct, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        entry: dict[str, Any] = {
            "operationId": operation.name,
            "summary": operation.summary,
            "responses": {
                "200": {
                    "description": (operation.response.__doc__ or "")
                    if operation.response is not str
                    else operation.summary,
                    "content": {operation.media: {"schema": schema_of[operation.response]}},
                }
            },
        }
        if parameters := [
            *({"name": name, "in": "path", "required": True, "schema": _ID} for name in _PLACE.findall(operation.path)),
            *(
                {"name": name, "in": "query", "required": name in operation.required, "schema": schema}
                for name, schema in (operation.parameters or {}).items()
            ),
            *([_IDEMPOTENCY_KEY] if operation.idempotent else []),
        ]:
            entry["parameters"] = parameters
        if operation.scope:
            entry["security"] = [{name: []} for name in _SECURITY]
        if bodies := [schema_of[kind] for kind in _bodies(operation)]:
            content: dict[str, Any] = {"schema": bodies[0] if len(bodies) == 1 else {"anyOf": bodies}}
            if operation.example is not None:
                content["example"] = operation.example
            entry["requestBody"] = {"required": operation.request_required, "content": {"application/json": content}}
        if operation.lines:
            line, *lines = (schema_of[kind] for kind in operation.lines)
            entry["requestBody"]["content"][NDJSON] = {"schema": line}
            entry["responses"]["200"]["content"][NDJSON] = {"schema": {"anyOf": lines}}
        problems = {**(operation.problems or {}), **(_ADMISSION if operation.scope else {})}
        if operation.idempotent:
            problems |= _IDEMPOTENCY
        for status, says in sorted(problems.items()):
            entry["responses"][str(status)] = {
                "description": says,
                "content": {"application/problem+json": {"schema": schema_of[Problem]}},
            }
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }


def _bodies(operation: Operation) -> tuple[type, ...]:
    return operation.request if isinstance(operation.request, tuple) else (operation.request,)
