"""The OpenAPI document as 3.0, for tools that read no newer one: Salesforce External Services above all.

That one makes an Apex class of each schema and a method of each operation. It takes no choice between schemas, and of
media types JSON and text alone:
https://help.salesforce.com/s/articleView?id=platform.external_services_intro_openapi_2_3_support.htm
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_MEDIA = ("application/json", "text/plain")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_REFERENCE = "#/components/schemas/"


def to_30(document: dict[str, Any]) -> dict[str, Any]:
    """Converts a 3.1 document, and leaves out what has no place in Apex.

    Of bodies that may be one thing or many it tells of the one; where a value may be text or a number it says no type.
    Problems are told of in words, for their media type is none of those.

    >>> to_30({"openapi": "3.1.0", "components": {"schemas": {"A": {"anyOf": [{"type": "null"}, {"type": "string"}]}}}})
    {'openapi': '3.0.3', 'components': {'schemas': {'A': {'type': 'string', 'nullable': True}}}}
    """
    converted: dict[str, Any] = {**_any(document), "openapi": "3.0.3"}
    if "paths" in converted:
        converted["components"]["schemas"] = used(converted["paths"], converted["components"]["schemas"])
    return converted


def used(paths: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas that paths refer to, by themselves or through others, in the order in which they were."""
    found: set[str] = set()
    waiting: list[Any] = [paths]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            name = str(value.get("$ref", "")).removeprefix(_REFERENCE)
            if name in schemas and name not in found:
                found.add(name)
                waiting.append(schemas[name])
    return {name: schema for name, schema in schemas.items() if name in found}


def _any(value: Any) -> Any:
    """Converts what stands around schemas, and the schemas in it."""
    if isinstance(value, list):
        return [_any(each) for each in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for name, each in value.items():
        if name == "schema":
            out[name] = _schema(each)
        elif name == "schemas":
            out[name] = {key: _schema(entry) for key, entry in each.items()}
        elif name == "content":
            if content := {media: _any(entry) for media, entry in each.items() if media in _MEDIA}:
                out[name] = content
        else:
            # An example shows data, which means itself.
            out[name] = each if name == "example" else _any(each)
    return out


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Converts a schema and those in it; a branch for null becomes nullable."""
    out: dict[str, Any] = {}
    nullable = False
    for name, value in schema.items():
        if name in ("anyOf", "oneOf"):
            branches = [_schema(each) for each in value if each != {"type": "null"}]
            nullable = nullable or len(branches) < len(value)
            out |= _one_of(branches)
        elif name == "type" and isinstance(value, list):
            nullable = nullable or "null" in value
            out |= _one_of([{"type": kind} for kind in value if kind != "null"])
        elif name in ("const", "enum"):
            values = [value] if name == "const" else value
            nullable = nullable or None in values
            kinds = {_TYPES[type(each)] for each in values if each is not None}
            out |= {"type": kinds.pop(), "enum": values} if len(kinds) == 1 else {"enum": values}
        elif name in _BOUNDS:
            out |= {_BOUNDS[name]: value, name: True}
        elif name == "examples":
            out["example"] = value[0]
        elif name == "prefixItems":
            items = [_schema(each) for each in value]
            out["items"] = _one_of([each for number, each in enumerate(items) if each not in items[:number]])
        elif name in ("properties", "patternProperties"):
            out[name] = {key: _schema(each) for key, each in value.items()}
        elif name in ("items", "additionalProperties"):
            # Where prefixItems say all, items is false.
            if isinstance(value, dict):
                out[name] = _schema(value)
            elif name != "items":
                out[name] = value
        elif name == "propertyNames" or (name == "required" and not value):
            continue
        else:
            out[name] = [_schema(each) for each in value] if name == "allOf" else value
    if "$ref" in out and (nullable or len(out) > 1):
        # Nothing may stand beside a reference.
        out = {"allOf": [{"$ref": out.pop("$ref")}], **out}
    # It is read beside a type alone; what has none may be null already.
    return {**out, "nullable": True} if nullable and ("type" in out or "allOf" in out) else out


def _one_of(branches: list[dict[str, Any]]) -> dict[str, Any]:
    """The one schema there is; the first of several objects; and of values of several types what says no type."""
    return branches[0] if len(branches) == 1 or all("$ref" in each for each in branches) else {}
