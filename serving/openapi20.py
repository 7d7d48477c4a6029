"""A Swagger 2.0 document of the few operations that a flow of Power Platform needs: its connectors read nothing newer.

What it asks of one: https://learn.microsoft.com/connectors/custom-connectors/openapi-extensions.
"""

from __future__ import annotations

from typing import Any

from serving.openapi30 import used

OPERATIONS = (
    "scoreLead",
    "scoreStoredLead",
    "listLeads",
    "getLeadChanges",
    "replayReceipt",
    "putLead",
    "addTouchpoints",
    "addOutcomes",
)
_KEY = {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key: ts_<id>_<secret>."}
_OLD, _NEW = "#/components/schemas/", "#/definitions/"


def to_20(document: dict[str, Any], scheme: str, host: str) -> dict[str, Any]:
    """Converts the operations of a 3.0 document (of `to_30`) that a connector is made of, for a service at a host."""
    paths: dict[str, dict[str, Any]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["operationId"] in OPERATIONS:
                paths.setdefault(path, {})[method] = operation
    schemas = used(paths, document["components"]["schemas"])
    return {
        "swagger": "2.0",
        "info": document["info"],
        "host": host,
        "basePath": "/",
        "schemes": [scheme],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": {
            path: {method: _operation(operation) for method, operation in methods.items()}
            for path, methods in paths.items()
        },
        "definitions": {name: _schema(schema) for name, schema in schemas.items()},
        "securityDefinitions": {"key": _KEY},
        "security": [{"key": []}],
    }


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    """Converts an operation; its body becomes a parameter."""
    parameters = [_parameter(one) for one in operation.get("parameters", ())]
    if "requestBody" in operation:
        body = operation["requestBody"]
        schema = _schema(body["content"]["application/json"]["schema"])
        parameters.append({"name": "body", "in": "body", "required": body["required"], "schema": schema})
    responses = {}
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json")
        responses[status] = {"description": response["description"]}
        if content is not None:
            responses[status]["schema"] = _schema(content["schema"])
    return {
        "operationId": operation["operationId"],
        "summary": operation["summary"],
        "description": operation["summary"],
        "parameters": parameters,
        "responses": responses,
    }


def _parameter(one: dict[str, Any]) -> dict[str, Any]:
    """Converts a parameter, which is its own schema."""
    said = {"description": one["description"]} if "description" in one else {}
    own = {name: one[name] for name in ("name", "in", "required")}
    return {**_schema(one["schema"]), **own, **_named(one["name"]), **said}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Converts a schema and those in it: what may be null is said by an extension that Power Platform reads."""
    out: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "$ref":
            out[name] = value.replace(_OLD, _NEW)
        elif name == "nullable":
            out["x-nullable"] = value
        elif name == "properties":
            out[name] = {key: _labelled(key, _schema(each)) for key, each in value.items()}
        elif name == "allOf":
            out[name] = [_schema(each) for each in value]
        elif name in ("items", "additionalProperties") and isinstance(value, dict):
            out[name] = _schema(value)
        elif not (name == "default" and value is None):
            out[name] = value
    return out


def _labelled(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A property with what a form calls it; nothing may stand beside a reference."""
    return schema if "$ref" in schema else {**schema, **_named(name)}


def _named(name: str) -> dict[str, str]:
    """What a form calls it.

    >>> _named("lead_id")
    {'x-ms-summary': 'Lead id'}
    """
    words = name.replace("_", " ").replace("-", " ")
    return {"x-ms-summary": words[0].upper() + words[1:]}
