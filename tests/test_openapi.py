"""The documents that other tools read: valid, and within what Salesforce and Power Platform take."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV2SpecValidator, OpenAPIV30SpecValidator, OpenAPIV31SpecValidator
from test_serving import lead

from serving.openapi20 import OPERATIONS, to_20
from serving.openapi30 import to_30, used


@pytest.fixture(scope="module")
def new(server: httpx.Client) -> Any:
    return server.get("/openapi.json").json()


@pytest.fixture(scope="module")
def old(server: httpx.Client) -> Any:
    return server.get("/openapi-3.0.json").json()


@pytest.fixture(scope="module")
def oldest(server: httpx.Client) -> Any:
    return server.get("/swagger-2.0.json").json()


def test_the_oldest_document_tells_the_address_that_a_proxy_was_asked_at(server: httpx.Client) -> None:
    asked = {"x-forwarded-proto": "https", "host": "touchstone.example"}
    told = server.get("/swagger-2.0.json", headers=asked).json()
    assert (told["schemes"], told["host"]) == (["https"], "touchstone.example")


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations by their ids; none has the id of another."""
    all_of_them = [operation for path in document["paths"].values() for operation in path.values()]
    named = {operation["operationId"]: operation for operation in all_of_them}
    assert len(named) == len(all_of_them)
    return named


def keys_of(value: Any) -> Iterator[str]:
    """Every key of every object that is no example and names no property."""
    if isinstance(value, list):
        for each in value:
            yield from keys_of(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            if name in ("properties", "schemas", "definitions"):
                yield from keys_of([*each.values()])
            elif name != "example":
                yield from keys_of(each)


def schemas_of(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema of a document, those within others too."""
    waiting = [*document.get("components", {}).get("schemas", {}).values(), *document.get("definitions", {}).values()]
    for operation in operations(document).values():
        for each in (
            *operation.get("parameters", ()),
            operation.get("requestBody", {}),
            *operation["responses"].values(),
        ):
            waiting += [one["schema"] for one in (each, *each.get("content", {}).values()) if "schema" in one]
    while waiting:
        schema = waiting.pop()
        yield schema
        waiting += [*schema.get("properties", {}).values(), *schema.get("allOf", ())]
        waiting += [schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)]


# --- valid, over the whole service


def test_the_three_documents_are_valid(new: Any, old: Any, oldest: Any) -> None:
    OpenAPIV31SpecValidator(new).validate()
    OpenAPIV30SpecValidator(old).validate()
    OpenAPIV2SpecValidator(oldest).validate()
    assert (new["openapi"], old["openapi"], oldest["swagger"]) == ("3.1.0", "3.0.3", "2.0")


def test_they_tell_of_the_same_operations(new: Any, old: Any, oldest: Any) -> None:
    assert operations(new).keys() == operations(old).keys()
    assert operations(oldest).keys() == set(OPERATIONS)
    for name, operation in operations(new).items():
        asked = [(one["name"], one["in"], one["required"]) for one in operation.get("parameters", ())]
        for document in (old, oldest):
            if found := operations(document).get(name):
                assert found["summary"] == operation["summary"]
                assert found["responses"].keys() == operation["responses"].keys()
                given = [(one["name"], one["in"], one["required"]) for one in found.get("parameters", ())]
                assert [one for one in given if one[1] != "body"] == asked
                assert ("requestBody" in operation) == ("requestBody" in found or ("body", "body", True) in given)


# --- what Salesforce takes: each operation becomes a method, each schema a class


def test_operation_ids_are_apex_identifiers(old: Any) -> None:
    names = [*operations(old)]
    for name in names:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,79}", name)
        assert "__" not in name and not name.endswith("_")
    # Apex tells no capitals from others.
    assert len({name.lower() for name in names}) == len(names)


def test_names_of_schemas_are_apex_identifiers(old: Any) -> None:
    names = [*old["components"]["schemas"]]
    for name in names:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,79}", name)
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize(
    "word", ["anyOf", "oneOf", "not", "const", "prefixItems", "examples", "propertyNames", "$defs"]
)
def test_no_schema_uses_what_is_not_taken(old: Any, word: str) -> None:
    assert word not in set(keys_of(old["paths"])) | set(keys_of(old["components"]))


def test_no_type_is_a_list_or_null(old: Any) -> None:
    for schema in schemas_of(old):
        assert schema.get("type", "object") in ("string", "number", "integer", "boolean", "array", "object")
        # A choice of words or numbers without a type becomes an Object.
        assert "enum" not in schema or "type" in schema
        assert "nullable" not in schema or "type" in schema or "allOf" in schema


def test_nothing_stands_beside_a_reference(old: Any, oldest: Any) -> None:
    for schema in (*schemas_of(old), *schemas_of(oldest)):
        assert "$ref" not in schema or len(schema) == 1


def test_media_types_are_those_of_salesforce(old: Any) -> None:
    for operation in operations(old).values():
        for each in (operation.get("requestBody", {}), *operation["responses"].values()):
            assert each.get("content", {}).keys() <= {"application/json", "text/plain"}
        assert "content" in operation["responses"]["200"]


def test_what_is_read_without_a_body_has_none(old: Any) -> None:
    for path in old["paths"].values():
        for method in path.keys() & {"get", "delete"}:
            assert "requestBody" not in path[method]


def test_descriptions_are_kept_whole(old: Any) -> None:
    """Salesforce cuts them after 1,333 characters."""
    for operation in operations(old).values():
        for one in (operation, *operation.get("parameters", ())):
            assert all(len(one.get(name, "")) <= 1_333 for name in ("summary", "description"))


def test_no_answer_lies_in_a_header(old: Any) -> None:
    for operation in operations(old).values():
        assert not any("headers" in response for response in operation["responses"].values())


def test_every_schema_is_used(old: Any, oldest: Any) -> None:
    text = json.dumps([old, oldest])
    for name in old["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text
    for name in oldest["definitions"]:
        assert f'"#/definitions/{name}"' in text


def test_of_one_or_many_the_one_is_told_of_and_taken(server: httpx.Client, old: Any) -> None:
    for path, kind in (("/v1/touchpoints", "LeadTouchpoint"), ("/v1/outcomes", "OutcomeRecord")):
        content = old["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{kind}"}
        assert server.post(path, json=content["example"]).status_code == 200
    schemas = old["components"]["schemas"]
    assert schemas["ScoreRequest"]["properties"]["attributes"]["additionalProperties"] == {}
    assert schemas["ScoreRequest"]["properties"]["as_of"]["nullable"] is True
    assert schemas["ScoreResponse"]["properties"]["interval"]["items"] == {"type": "number"}
    assert schemas["ScoreResponse"]["properties"]["tier"] == {"type": "string", "enum": ["cold", "hot", "warm"]}


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["string", "number"]}, {}),
        ({"const": 5}, {"type": "integer", "enum": [5]}),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a", None], "nullable": True}),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "minimum": 0, "exclusiveMinimum": True}),
        ({"type": "string", "examples": ["a", "b"]}, {"type": "string", "example": "a"}),
        ({"anyOf": [{"$ref": "#/x"}, {"type": "null"}]}, {"allOf": [{"$ref": "#/x"}], "nullable": True}),
        ({"anyOf": [{"$ref": "#/x"}, {"$ref": "#/y"}]}, {"$ref": "#/x"}),
        ({"$ref": "#/x", "description": "d"}, {"allOf": [{"$ref": "#/x"}], "description": "d"}),
        ({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}], "title": "t"}, {"title": "t"}),
        (
            {"type": "array", "prefixItems": [{"type": "number"}] * 2, "items": False, "minItems": 2},
            {"type": "array", "items": {"type": "number"}, "minItems": 2},
        ),
        ({"properties": {"const": {"const": 1}}}, {"properties": {"const": {"type": "integer", "enum": [1]}}}),
    ],
)
def test_schemas_are_converted(newer: dict[str, Any], older: dict[str, Any]) -> None:
    assert to_30({"components": {"schemas": {"A": newer}}})["components"]["schemas"]["A"] == older


def test_only_what_is_used_stays() -> None:
    refer = {"$ref": "#/components/schemas/A"}
    schemas = {"C": {}, "B": {"items": refer}, "A": {"items": {"$ref": "#/components/schemas/B"}}}
    assert [*used({"/": [{"schema": refer}]}, schemas)] == ["B", "A"]
    assert used({}, schemas) == {}


# --- what Power Platform takes


def test_the_oldest_document_says_where_the_service_is(server: httpx.Client, oldest: Any) -> None:
    assert f"{oldest['schemes'][0]}://{oldest['host']}{oldest['basePath']}" == f"{str(server.base_url).rstrip('/')}/"
    assert oldest["consumes"] == oldest["produces"] == ["application/json"]
    assert len(json.dumps(oldest)) < 1_000_000


def test_one_key_in_a_header_lets_a_connector_in(oldest: Any) -> None:
    (scheme,) = oldest["securityDefinitions"].values()
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "X-API-Key")
    assert oldest["security"] == [{"key": []}]


def test_what_is_filled_in_has_a_label(oldest: Any) -> None:
    for operation in operations(oldest).values():
        for one in operation["parameters"]:
            assert one["in"] == "body" or re.fullmatch(r"[A-Z][a-zA-Z ]*", one["x-ms-summary"])
    properties = oldest["definitions"]["ScoreRequest"]["properties"]
    assert properties["lead_id"]["x-ms-summary"] == "Lead id"
    assert properties["touchpoints"]["x-ms-summary"] == "Touchpoints"


@pytest.mark.parametrize("word", ["nullable", "anyOf", "oneOf", "not", "content", "requestBody", "components"])
def test_the_oldest_document_holds_nothing_newer(oldest: Any, word: str) -> None:
    assert word not in set(keys_of(oldest))


def test_what_may_be_null_is_said(server: httpx.Client, oldest: Any) -> None:
    """A flow stops at a null that it was not told of."""
    answer = server.post("/v1/score", json=lead(1)).json()
    properties = oldest["definitions"]["ScoreResponse"]["properties"]
    assert answer.keys() == properties.keys()
    for name, value in answer.items():
        assert value is not None or properties[name]["x-nullable"] is True


def test_a_reference_and_a_body_are_converted() -> None:
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}, "required": True}
    schema = {"type": "object", "properties": {"b_c": {"type": "string", "nullable": True, "default": None}}}
    answers = {"200": {"description": "Done."}}
    post = {"operationId": "addOutcomes", "summary": "s", "requestBody": body, "responses": answers}
    paths = {"/": {"post": post, "get": {**post, "operationId": "another"}}}
    found = to_20({"info": {}, "paths": paths, "components": {"schemas": {"A": schema, "B": {}}}}, "https", "a.example")
    assert found["definitions"] == {
        "A": {"type": "object", "properties": {"b_c": {"type": "string", "x-nullable": True, "x-ms-summary": "B c"}}}
    }
    assert found["paths"]["/"].keys() == {"post"}
    assert found["paths"]["/"]["post"]["parameters"] == [
        {"name": "body", "in": "body", "required": True, "schema": {"$ref": "#/definitions/A"}}
    ]
