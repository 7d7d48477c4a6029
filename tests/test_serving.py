"""The service over HTTP, against a real server: every operation, every refusal, and many callers at once."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pandas as pd
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from trained import ROOT, Trained, serving

from features import Dataset
from features.times import datetime_us, to_us
from models import load_bundle
from serving.body import Reader, read_time
from serving.routes.scores import answer
from serving.schemas import ScoreRequest
from serving.settings import Settings

JSON = {"content-type": "application/json"}
CREATED = "2025-10-01T09:00:00Z"
AS_OF = "2026-02-01T00:00:00Z"
KINDS = [("email", "click"), ("website", "visit"), ("website", "pricing"), ("webinar", "attend"), ("call", "talk")]


def lead(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A lead as a client sends it, another one for every number."""
    touchpoints = [
        {
            "occurred_at": f"2026-01-{1 + (7 * k + number) % 28:02d}T10:00:00Z",
            "channel": KINDS[(k + number) % 5][0],
            "action": KINDS[(k + number) % 5][1],
            "value": float(k) if k % 2 else None,
        }
        for k in range(number % 40)
    ]
    return {
        "lead_id": f"L-{number}",
        "created_at": CREATED,
        "as_of": AS_OF,
        "attributes": {"industry": ["cleaning", "software", "never seen"][number % 3], "size": number / 10},
        "touchpoints": touchpoints,
        **fields,
    }


def touch(**fields: Any) -> dict[str, Any]:
    """A lead with one touchpoint."""
    return lead(touchpoints=[{"occurred_at": "2026-01-01T00:00:00Z", "channel": "email", **fields}])


def bulk(**fields: Any) -> dict[str, Any]:
    """Five leads of which the one in place 3 is another."""
    leads = [lead(k) for k in range(5)]
    leads[3] |= fields
    return {"leads": leads}


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


def alone(server: httpx.Client, document: dict[str, Any], reasons: int = 0) -> Any:
    """What a lead is answered by itself, but for the digest, which those in bulk have not."""
    got = server.post(f"/v1/score?reasons={reasons}", json=document).json()
    assert got["digest"].startswith("blake2b:")
    return {**got, "digest": None}


def check_problem(response: httpx.Response, status: int, field: str | None, says: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem.get("field") == field, problem
    assert re.search(says, problem["detail"]), problem["detail"]
    assert len(response.content) < 2_000


# --- what it answers


def test_health_and_readiness(server: httpx.Client) -> None:
    for path in ("/healthz", "/readyz"):
        response = server.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_model(server: httpx.Client, trained: Trained) -> None:
    scorer = load_bundle(trained.bundle)
    document = server.get("/v1/model").json()
    assert document["model"] == "lightgbm"
    assert document["version"] == "3"
    assert document["horizon_days"] == 60
    assert document["features"] == scorer.features.fingerprint
    assert document["feature_count"] == len(scorer.features.names)
    assert document["tiers"]["hot"] == scorer.tiers.hot
    assert set(document["tiers"]["routes"]) == {"cold", "warm", "hot"}
    assert "log_loss" in document["backtest"]


def test_score(server: httpx.Client, trained: Trained) -> None:
    scorer = load_bundle(trained.bundle)
    tiers = scorer.tiers
    response = server.post("/v1/score", json=lead(12))
    assert response.status_code == 200, response.text
    got = response.json()
    assert got["lead_id"] == "L-12"
    assert got["as_of"] == AS_OF
    assert 0 < got["probability"] < 1
    assert 0 <= got["score"] <= 100
    assert (
        got["tier"] == ["cold", "warm", "hot"][(got["probability"] >= tiers.warm) + (got["probability"] >= tiers.hot)]
    )
    assert got["route"] == tiers.routes[got["tier"]]
    assert got["tiers"] == tiers.version
    assert got["horizon_days"] == 60
    assert got["model"] == {"name": "touchstone", "version": "3", "features": scorer.card.features}
    assert set(got) >= {"interval", "reasons"}


def test_what_is_later_than_as_of_is_not_seen(server: httpx.Client) -> None:
    begin = server.post("/v1/score", json=lead(12)).json()
    later = lead(12)
    later["touchpoints"] = [
        *later["touchpoints"],
        {"occurred_at": AS_OF, "channel": "webinar", "action": "attend"},
        {"occurred_at": "2026-01-31T00:00:00Z", "channel": "call", "action": "talk", "recorded_at": AS_OF},
    ]
    later["attribute_facts"] = [{"occurred_at": AS_OF, "name": "newsletter", "value": "subscribed"}]
    assert server.post("/v1/score", json=later).json() == begin
    earlier = {**later, "as_of": "2026-02-01T00:00:00.000001Z"}
    assert server.post("/v1/score", json=earlier).json()["probability"] != begin["probability"]


def test_times_of_any_offset_are_answered_in_utc(server: httpx.Client) -> None:
    plain = server.post("/v1/score", json=lead(5)).json()
    assert server.post("/v1/score", json=lead(5, as_of="2026-02-01T05:30:00+05:30")).json() == plain


def test_without_as_of_the_clock_is_used_and_told(server: httpx.Client) -> None:
    before = datetime.now(UTC)
    for body in (without(lead(3), "as_of"), lead(3, as_of=None)):
        got = server.post("/v1/score", json=body).json()
        assert before <= datetime.fromisoformat(got["as_of"]) <= datetime.now(UTC)
        assert server.post("/v1/score", json=lead(3, as_of=got["as_of"])).json() == got


def test_created_at_left_out_is_the_first_touch(server: httpx.Client) -> None:
    first = min(t["occurred_at"] for t in lead(9)["touchpoints"])
    got = server.post("/v1/score", json=without(lead(9), "created_at"))
    assert got.status_code == 200
    assert got.json() == server.post("/v1/score", json=lead(9, created_at=first)).json()


def test_bulk_answers_in_order_each_as_alone(server: httpx.Client) -> None:
    leads = [lead(k) for k in range(40)]
    scores = server.post("/v1/score/bulk", json={"leads": leads}).json()["scores"]
    assert scores == [alone(server, one) for one in leads]
    assert len({got["probability"] for got in scores}) > 20
    assert server.post("/v1/score/bulk", json={"leads": []}).json() == {"scores": []}


def test_bulk_as_of_is_for_the_leads_that_give_none(server: httpx.Client) -> None:
    leads = [without(lead(6), "as_of"), lead(6, as_of="2026-01-20T00:00:00Z")]
    got = server.post("/v1/score/bulk", json={"leads": leads, "as_of": AS_OF}).json()["scores"]
    assert [one["as_of"] for one in got] == [AS_OF, "2026-01-20T00:00:00Z"]
    assert got[0] == alone(server, lead(6))


def test_a_thousand_leads_at_once(server: httpx.Client) -> None:
    got = server.post("/v1/score/bulk", json={"leads": [lead(k) for k in range(1_000)]})
    assert [one["lead_id"] for one in got.json()["scores"]] == [f"L-{k}" for k in range(1_000)]


def test_numbers_at_the_edge_are_scored(server: httpx.Client) -> None:
    for number in (0, -0.0, 1e308, -1e308, 5e-324, 2**53 + 1, 2**70):
        body = lead(attributes={"size": number, "new": number}, touchpoints=touch(value=number)["touchpoints"] * 3)
        got = server.post("/v1/score", json=body)
        assert got.status_code == 200, got.text
        assert 0 <= got.json()["probability"] <= 1


# --- what it refuses

NAIVE = r'"2026-02-28T14:00:00" has no offset.*Write ISO 8601 with seconds and an offset, e\.g\. 2026-02-28T14:00:00Z'
BAD_FIELDS = {
    "missing field": ("", without(lead(), "lead_id"), "lead_id", "is required.*Add it"),
    "wrong type": ("", lead(lead_id=5), "lead_id", "got 5. Send text"),
    "empty id": ("", lead(lead_id=""), "lead_id", '"" is too short. Send at least 1'),
    "long id": ("", lead(lead_id="x" * 201), "lead_id", r'"x+\.\.\. is too long. Send at most 200'),
    "null list": ("", lead(touchpoints=None), "touchpoints", "got null. Send a list"),
    "naive time": ("", lead(created_at="2026-02-28T14:00:00"), "created_at", NAIVE),
    "no such day": ("", lead(created_at="2026-02-30T14:00:00Z"), "created_at", "2026-02-30.*no such day.*ISO 8601"),
    "a bare date": ("", lead(created_at="2026-02-28"), "created_at", "2026-02-28.*ISO 8601"),
    "not a time": ("", lead(as_of="yesterday"), "as_of", "yesterday.*ISO 8601"),
    "a time in numbers": ("", lead(as_of=1767225600), "as_of", "got 1767225600. Send a time in ISO 8601.*or null"),
    "no time in UTC": ("", lead(as_of="9999-12-31T23:00:00-14:00"), "as_of", "beyond the years 1 to 9999"),
    "missing in a touch": ("", lead(touchpoints=[{"channel": "a"}]), "touchpoints[0].occurred_at", "is required"),
    "text for a number": ("", touch(value="5"), "touchpoints[0].value", 'got "5". Send a number or null'),
    "true for a number": ("", touch(value=True), "touchpoints[0].value", "got true. Send a number or null"),
    "not an object": ("", lead(touchpoints=[1]), "touchpoints[0]", "got 1. Send an object"),
    "unknown field": ("", lead(colour="red"), "colour", "no such field. Leave it out; the fields are lead_id"),
    "misspelt field": ("", lead(leadid="a"), "leadid", "Did you mean lead_id?"),
    "unknown in a touch": ("", touch(chanel="a"), "touchpoints[0].chanel", "Did you mean channel?"),
    "a field named at length": ("", {"y" * 100_000: 1}, '["' + "y" * 79 + "...]", "no such field"),
    "list for an attribute": ("", lead(attributes={"a": 1, "b": [1]}), "attributes.b", r"got \[1\]. Send text, a"),
    "a long action": ("", touch(action="x" * 201), "touchpoints[0].action", "is too long. Send at most 200"),
    "a long name": ("", lead(attributes={"a": 1, "b" * 201: 1}), f'attributes["{"b" * 79}...]', '"b+... is too long'),
    "a long name of many": ("/bulk", bulk(attributes={"b" * 201: 1}), f'leads[3].attributes["{"b" * 79}...]', "long"),
    "an odd name": ("", lead(attributes={"a b": {}}), 'attributes["a b"]', "got {}. Send text"),
    "half a character": ("", lead(attributes={"a": ["\ud800"]}), "attributes.a", r'got \["\\ud800"\]'),
    "as_of before": ("", lead(as_of="2025-10-01T08:59:59Z"), "as_of", "not after 2025-10-01T09:00:00.*no lead yet"),
    "as_of at creation": ("", lead(as_of=CREATED), "as_of", "no lead yet. Ask about a later time"),
    "as_of at the first touch": (
        "", without(touch(), "created_at") | {"as_of": "2026-01-01T00:00:00Z"}, "as_of", "not after 2026-01-01"
    ),
    "created in the future": (
        "", {"lead_id": "a", "created_at": "2999-01-01T00:00:00Z"}, "created_at", "server's clock. Correct it, or give"
    ),
    "touched first in the future": (
        "", {"lead_id": "a", "touchpoints": [{"occurred_at": "2999-01-01T00:00:00Z", "channel": "a"}]},
        "touchpoints[0].occurred_at", "server's clock",
    ),
    "nothing known": ("", {"lead_id": "a"}, "created_at", "'a' has neither created_at nor touchpoints. Give when"),
    "NUL": ("", lead(lead_id="a\0b"), "lead_id", "NUL"),
    "NUL in a word": ("", touch(channel="a\0b"), "touchpoints[0].channel", "NUL"),
    "NUL in a name": ("", lead(attributes={"a\0": 1}), 'attributes["a\\u0000"]', "NUL"),
    "too many": ("/bulk", {"leads": [lead()] * 1_001}, "leads", "got 1,001 leads. Send at most 1,000"),
    "no leads": ("/bulk", {}, "leads", "is required"),
    "one of many": ("/bulk", bulk(lead_id=5), "leads[3].lead_id", "got 5. Send text"),
    "an attribute of many": ("/bulk", bulk(attributes={"a": {}}), "leads[3].attributes.a", "got {}"),
    "one too early": ("/bulk", bulk(as_of=CREATED), "leads[3].as_of", "no lead yet"),
    "all too early": ("/bulk", bulk(as_of=None) | {"as_of": CREATED}, "as_of", "no lead yet"),
    "one in the future": ("/bulk", bulk(as_of=None, created_at="2999-01-01T00:00:00Z"), "leads[3].created_at", "clock"),
    "one unknown": ("/bulk", bulk(created_at=None, touchpoints=[]), "leads[3].created_at", "'L-3' has neither"),
    "one with NUL": ("/bulk", bulk(lead_id="\0"), "leads[3].lead_id", "NUL"),
    "one beyond UTC": ("/bulk", bulk(as_of="0001-01-01T00:00:00+14:00"), "leads[3].as_of", "beyond the years"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_a_wrong_field_is_named_with_its_mend(server: httpx.Client, name: str) -> None:
    path, document, field, says = BAD_FIELDS[name]
    body = json.dumps(document).encode()
    check_problem(server.post(f"/v1/score{path}", content=body, headers=JSON), 422, field, says)


DEEP = b"[" * 100_000
TOUCH = b'{"lead_id": "a", "created_at": "2025-01-01T00:00:00Z", "touchpoints": [{"value": %s}]}'
SIZE = b'{"lead_id": "a", "created_at": "2025-01-01T00:00:00Z", "attributes": {"n": 1, "size": %s}}'
BAD_BODIES = {
    "empty": (b"", 400, None, "empty. Send a JSON object"),
    "blank": (b"  \n", 400, None, "empty"),
    "cut off": (b'{"lead_id": "a"', 400, None, "not valid JSON: it ends"),
    "two": (b'{"lead_id": "a"} {}', 400, None, "not valid JSON at byte 18"),
    "array": (b"[]", 422, None, r"got \[\]. Send an object"),
    "text": (b'"a"', 422, None, 'got "a". Send an object'),
    "NaN": (SIZE % b"NaN", 400, None, "not valid JSON at byte 86, near .*no NaN"),
    "Infinity": (SIZE % b"Infinity", 400, None, "JSON knows no NaN or Infinity; send null"),
    "-Infinity": (SIZE % b"-Infinity", 400, None, "JSON knows no NaN or Infinity; send null"),
    "more at the end": (b'{"lead_id": "a"}x', 400, None, r"at byte 17, near .*}x'\. Mend it\."),
    "NaN after an error": (b'{"lead_id": 5, "created_at": NaN}', 422, "lead_id", "got 5. Send text"),
    "not JSON after an error": (b'{"lead_id": 5, oh', 422, "lead_id", "got a whole number. Send text"),
    "1e999": (SIZE % b"1e999", 422, "attributes.size", "too large"),
    "1e999 in a touch": (TOUCH % b"1e999", 422, "touchpoints[0].value", "too large"),
    "400 digits": (SIZE % (b"9" * 400), 422, "attributes.size", "9{80}.*too large"),
    "5,000 digits": (SIZE % (b"9" * 5_000), 422, "attributes", "too large"),
    "half a surrogate pair": (b'{"lead_id": "\\ud800"}', 400, None, "half a character"),
    "a surrogate in UTF-8": (b'{"lead_id": "\xed\xa0\x80"}', 400, None, "not UTF-8. Encode it"),
    "Latin-1": ('{"lead_id": "Zürich"}'.encode("latin-1"), 400, None, "not UTF-8"),
    "a byte order mark": (b'\xef\xbb\xbf{"lead_id": "a"}', 400, None, "not valid JSON at byte 0"),
    "deep": (DEEP, 422, None, "got a list. Send an object"),
    "deep attribute": (SIZE % DEEP, 422, "attributes", "got a list. Send text"),
    "deep and whole": (SIZE % (DEEP + b"]" * 100_000), 422, "attributes", "got a list"),
    "deep objects": (b'{"a": ' * 100_000, 422, "a", "no such field"),
    "too large": (b" " * 1_000_001, 413, None, "larger than 1,000,000 bytes. Send fewer"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_no_json_is_refused(server: httpx.Client, name: str) -> None:
    body, status, field, says = BAD_BODIES[name]
    check_problem(server.post("/v1/score", content=body, headers=JSON), status, field, says)


def test_a_body_that_grows_too_large_in_chunks_is_refused(server: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 60_000

    check_problem(server.post("/v1/score", content=chunks(), headers=JSON), 413, None, "larger than 1,000,000")
    assert server.post("/v1/score/bulk", content=chunks(), headers=JSON).status_code == 400
    assert server.get("/healthz").status_code == 200


def test_a_chunked_body_is_read(server: httpx.Client) -> None:
    body = json.dumps(lead(7)).encode()
    got = server.post("/v1/score", content=iter([body[:9], body[9:200], body[200:]]), headers=JSON)
    assert got.json() == server.post("/v1/score", json=lead(7)).json()


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("application/x-www-form-urlencoded", 415),
        ("text/plain", 415),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
    ],
)
def test_only_json_is_taken(server: httpx.Client, media: str, status: int) -> None:
    got = server.post("/v1/score", content=json.dumps(lead()).encode(), headers={"content-type": media})
    if status == 200:
        assert got.status_code == 200
    else:
        check_problem(got, 415, None, f"{media}' is not JSON. Send application/json")


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/v1/score", 405, "GET /v1/score: Method Not Allowed. Use POST"),
        ("DELETE", "/v1/model", 405, r"Not Allowed. Use GET or HEAD\."),
        ("PATCH", "/v1/leads/a%2Fb", 405, r"Not Allowed. Use DELETE or GET or HEAD or PUT\."),
        ("DELETE", "/v1/webhooks", 405, r"Not Allowed. Use GET or HEAD or POST\."),
        ("GET", "/nowhere", 404, "GET /nowhere: Not Found. /docs lists"),
        ("POST", "/v1/score/", 404, "Not Found"),
        ("GET", "/%00%ff%ed%a0%80", 404, "Not Found"),
    ],
)
def test_wrong_paths_and_methods(server: httpx.Client, method: str, path: str, status: int, says: str) -> None:
    got = server.request(method, path)
    check_problem(got, status, None, says)
    if status == 405:
        assert got.headers["allow"].replace(", ", " or ") in got.json()["detail"]


# --- the document


def schema_name(schema: dict[str, Any]) -> str:
    """What a schema refers to, or its type."""
    choices = schema.get("anyOf", [schema])
    return " | ".join(one.get("$ref", one.get("type")).rpartition("/")[2] for one in choices)


def test_openapi_is_valid_and_names_the_types(server: httpx.Client) -> None:
    document = server.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    named = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = [operation.get("requestBody"), operation["responses"]["200"]]
            schemas = [body and next(iter(body["content"].values()))["schema"] for body in bodies]
            named[f"{method.upper()} {path}"] = [schema and schema_name(schema) for schema in schemas]
            for status, response in operation["responses"].items():
                if status != "200":
                    assert set(response["content"]) == {"application/problem+json"}
    assert named == {
        "POST /v1/score": ["ScoreRequest", "ScoreResponse"],
        "POST /v1/score/bulk": ["BulkRequest", "BulkResponse"],
        "POST /v1/touchpoints": ["LeadTouchpoint | Touchpoints", "IngestResponse"],
        "POST /v1/outcomes": ["OutcomeRecord | Outcomes", "IngestResponse"],
        "PUT /v1/leads/{lead_id}": ["LeadDescription", "IngestResponse"],
        "GET /v1/leads/{lead_id}": [None, "LeadResponse"],
        "DELETE /v1/leads/{lead_id}": [None, "Deleted"],
        "GET /v1/quarantine": [None, "QuarantineResponse"],
        "GET /v1/policy": [None, "PolicyResponse"],
        "PUT /v1/policy": ["Policy", "PolicyResponse"],
        "GET /v1/webhooks": [None, "Webhooks"],
        "POST /v1/webhooks": ["WebhookRequest", "NewWebhook"],
        "DELETE /v1/webhooks/{webhook_id}": [None, "Deleted"],
        "GET /v1/webhooks/deliveries": [None, "Deliveries"],
        "POST /v1/webhooks/deliveries/{delivery_id}/retry": [None, "DeliveryResponse"],
        "GET /v1/sla": [None, "SlaResponse"],
        "POST /v1/batch": ["SegmentBatch", "SegmentResponse"],
        "POST /v1/import": ["SegmentBatch", "SegmentResponse"],
        "POST /v1/track": ["SegmentMessage", "SegmentResponse"],
        "POST /v1/page": ["SegmentMessage", "SegmentResponse"],
        "POST /v1/screen": ["SegmentMessage", "SegmentResponse"],
        "POST /v1/identify": ["SegmentMessage", "SegmentResponse"],
        "POST /v1/group": ["SegmentMessage", "SegmentResponse"],
        "POST /v1/alias": ["SegmentMessage", "SegmentResponse"],
        "GET /v1/leads": [None, "Ranking"],
        "GET /v1/leads/{lead_id}/score": [None, "StoredScore"],
        "GET /v1/receipts/{receipt_id}": [None, "Replay"],
        "GET /v1/leads/{lead_id}/changes": [None, "ChangesResponse"],
        "GET /v1/leads/{lead_id}/forecast": [None, "ForecastResponse"],
        "GET /v1/leads/{lead_id}/timeline": [None, "TimelineResponse"],
        "GET /v1/model": [None, "ModelResponse"],
        "POST /v1/model/reload": ["ReloadRequest", "ReloadResponse"],
        "GET /healthz": [None, "Status"],
        "GET /readyz": [None, "Status"],
        "GET /metrics": [None, "string"],
    }
    asked = {
        one["name"]: one["required"] for one in document["paths"]["/v1/leads/{lead_id}/changes"]["get"]["parameters"]
    }
    assert asked == {"lead_id": True, "since": True, "as_of": False}
    request = document["components"]["schemas"]["ScoreRequest"]
    assert request["required"] == ["lead_id"]
    assert request["additionalProperties"] is False


def test_the_examples_of_openapi_work(server: httpx.Client) -> None:
    tried = 0
    for path, methods in server.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            assert ("example" in content) == ("requestBody" in operation)
            if content:
                got = server.request(method, path.format(lead_id="L-42"), json=content["example"])
                assert got.status_code == 200, got.text
                assert got.json().get("quarantined", 0) == 0
                tried += 1
    assert tried == 16
    # The other tests ask the same server.
    assert server.put("/v1/policy", json={}).json()["version"] is None
    for hook in server.get("/v1/webhooks").json()["webhooks"]:
        assert server.delete(f"/v1/webhooks/{hook['id']}").json() == {"deleted": 1}


def test_docs_show_the_document(server: httpx.Client) -> None:
    page = server.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


# --- many at once, and the end


def test_each_of_many_callers_gets_their_own_answer(server: httpx.Client, trained: Trained) -> None:
    scorer = load_bundle(trained.bundle)
    requests = [msgspec.convert(lead(k), ScoreRequest) for k in range(200)]
    expected = json.loads(msgspec.json.encode(answer(scorer, requests)))

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=300, limits=limits) as client:
            singles = [client.post("/v1/score", json=lead(k)) for k in range(200)]
            # Large enough to be scored in another thread meanwhile.
            bulks = [client.post("/v1/score/bulk", json={"leads": [lead(k) for k in range(200)]}) for _ in range(4)]
            return await asyncio.gather(*singles, *bulks)

    *singles, b1, b2, b3, b4 = asyncio.run(ask())
    assert [{**got.json(), "digest": None} for got in singles] == expected
    assert [b.json()["scores"] for b in (b1, b2, b3, b4)] == [expected] * 4


def test_a_caller_who_goes_away_does_no_harm(trained: Trained) -> None:
    with serving(trained.bundle) as (process, address):
        host, port = address.removeprefix("http://").split(":")
        for sent in (b"", b"POST", b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{"):
            with socket.create_connection((host, int(port))) as caller:
                caller.sendall(sent)
        assert httpx.post(f"{address}/v1/score", json=lead(3)).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.communicate(timeout=120)[1]


def test_sigterm_lets_requests_finish(trained: Trained) -> None:
    body = json.dumps({"leads": [lead(k) for k in range(1_000)]}).encode()
    head = f"POST /v1/score/bulk HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with serving(trained.bundle) as (process, address):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as caller:
            caller.sendall(head.encode() + body[:-10])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            caller.sendall(body[-10:])
            got = b"".join(iter(lambda: caller.recv(65_536), b""))
        assert got.startswith(b"HTTP/1.1 200 OK")
        assert len(json.loads(got.partition(b"\r\n\r\n")[2])["scores"]) == 1_000
        said = process.communicate(timeout=120)[1]
        assert process.returncode == -signal.SIGTERM
        assert "Traceback" not in said


@pytest.mark.parametrize("broken", ["missing", "damaged", "busy", "setting", "host"])
def test_serve_says_why_it_cannot(trained: Trained, tmp_path: Path, broken: str) -> None:
    options, environment, code = ["--model", str(trained.bundle), "--port", "0"], {}, 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if broken == "missing":
            options[1] = str(tmp_path / "nothing")
            says = "nothing: no model is here.*Train one with `touchstone train`"
        elif broken == "damaged":
            options[1] = str(tmp_path)
            for file in trained.bundle.iterdir():
                (tmp_path / file.name).write_bytes(file.read_bytes().replace(b"tree", b"Tree", 1))
            says = "is not as it was saved.*Copy the folder again"
        elif broken == "busy":
            options[3] = str(taken.getsockname()[1])
            says = f"cannot listen on 127.0.0.1, port {options[3]}: .*in use.*choose another --port"
        elif broken == "host":
            options += ["--host", "no.such.host.invalid"]
            says = "cannot listen on no.such.host.invalid"
        else:
            environment, code = {"TOUCHSTONE_MAX_BODY": "many"}, 2
            says = "TOUCHSTONE_MAX_BODY='many': "
        command = [sys.executable, "-m", "touchstone", "serve", *options]
        run = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
        )
    assert run.returncode == code, run.stderr
    assert re.search(f"error: .*{says}", run.stderr), run.stderr
    assert "Traceback" not in run.stderr


# --- settings


def test_settings_are_documented() -> None:
    from serving.settings import markdown

    path = ROOT / "docs" / "settings.md"
    mend = "python -c 'from serving.settings import markdown; print(markdown(), end=\"\")' > docs/settings.md"
    assert path.read_text() == markdown(), f"Run: {mend}"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: "True" if field.annotation is bool else "4321" for name, field in Settings.model_fields.items()}
    for name, value in given.items():
        monkeypatch.setenv(f"TOUCHSTONE_{name.upper()}", value)
    settings = Settings()
    assert {name: str(getattr(settings, name)).removesuffix(".0") for name in given} == given
    assert Settings(port=1).port == 1


def test_a_limit_of_the_settings_holds(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_MAX_BULK_LEADS", "2")
    monkeypatch.setenv("TOUCHSTONE_MAX_BODY", "1000")
    with serving(trained.bundle) as (_, address):
        got = httpx.post(f"{address}/v1/score/bulk", json={"leads": [lead(k) for k in range(3)]})
        check_problem(got, 422, "leads", "got 3 leads. Send at most 2")
        check_problem(httpx.post(f"{address}/v1/score", json=lead(39)), 413, None, "larger than 1,000 bytes")


def test_a_lead_is_scored_from_the_instant_after_its_creation_on(server: httpx.Client) -> None:
    created = datetime.fromisoformat(CREATED)
    at = (created + timedelta(microseconds=1)).isoformat()
    known = server.post("/v1/score", json=lead(as_of=at)).json()
    unknown = server.post("/v1/score", json=lead(as_of=at, attributes={})).json()
    assert known["probability"] != unknown["probability"]


@pytest.mark.parametrize("end", [".1234567Z", ".999999999+02:00", ".12345650Z", ".123456Z"])
def test_times_are_cut_to_microseconds_as_in_tables(end: str) -> None:
    text = f"2026-01-01T00:00:00{end}"
    touch = {"occurred_at": text, "recorded_at": text, "channel": "web"}
    body = {"lead_id": "a", "as_of": text, "created_at": text, "attributes": {"note": text}, "touchpoints": [touch]}
    frame = pd.DataFrame([{"lead_id": "a", **touch}])
    expected = Dataset.from_frames(touchpoints=frame).history.at[0]
    read = Reader(ScoreRequest).read(json.dumps(body).encode())
    (mine,) = read.touchpoints
    for at in (read.as_of, read.created_at, mine.occurred_at, mine.recorded_at, read_time("as_of", text)):
        assert at is not None and datetime_us(at) == expected == to_us(text)
    assert read.attributes["note"] == text
