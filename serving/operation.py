"""An endpoint as data: what it takes, what it gives, and who answers; the OpenAPI document is written from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from serving.schemas import Problem


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
    request: type | None = None
    example: Any = None
    """A request body that works."""
    problems: Mapping[int, str] | None = None
    parameters: Mapping[str, dict[str, Any]] | None = None
    """The schemas of its query parameters."""


def json_response(value: msgspec.Struct) -> Response:
    """Answers with JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def openapi(operations: Sequence[Operation], *, title: str, version: str, description: str) -> dict[str, Any]:
    """Writes the OpenAPI 3.1 document of some operations from their types."""
    types = [t for operation in operations for t in (operation.request, operation.response) if t is not None]
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
                    "description": operation.response.__doc__ or "",
                    "content": {"application/json": {"schema": schema_of[operation.response]}},
                }
            },
        }
        if operation.parameters:
            entry["parameters"] = [
                {"name": name, "in": "query", "required": False, "schema": schema}
                for name, schema in operation.parameters.items()
            ]
        if operation.request is not None:
            content: dict[str, Any] = {"schema": schema_of[operation.request]}
            if operation.example is not None:
                content["example"] = operation.example
            entry["requestBody"] = {"required": True, "content": {"application/json": content}}
        for status, says in (operation.problems or {}).items():
            entry["responses"][str(status)] = {
                "description": says,
                "content": {"application/problem+json": {"schema": schema_of[Problem]}},
            }
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": components},
    }
