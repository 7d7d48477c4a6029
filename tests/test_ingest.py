"""What is told of leads over HTTP: our own JSON, and whatever may stand in a message of Segment's protocol."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import scorer

from features.errors import UsageError
from models import save_bundle
from serving import Settings, create_app
from serving.access import Open
from serving.mapping import EventRule, Mapping
from serving.segment import LARGEST_BATCH, LARGEST_MESSAGE, MEANINGS, Arrival, take_batch
from serving.store import Alias, Fact, Lead, Outcome, Quarantined, Setting, SqlStore, Touch, open_store

DOCS = Path(__file__).parents[1] / "docs" / "segment.md"
JSON = {"content-type": "application/json"}
T = "2026-10-30T10:00:00Z"
US = 1_793_354_400_000_000
TOUCH = {"lead_id": "L-1", "occurred_at": T, "channel": "email", "action": "click"}
OUTCOME = {"lead_id": "L-1", "occurred_at": T, "outcome": "won", "amount": 12.5}


class Caller:
    """Calls the service in this process; what nobody foresaw is answered with 500, as by a server."""

    def __init__(
        self, store: SqlStore, options: Settings | None = None, imports: bool = False, tenant: str = "acme"
    ) -> None:
        self.store, self.tenant = store, tenant
        self.app = create_app(scorer("logistic"), store, options, Open(tenant, imports=imports))

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, content=content, headers=JSON | named)

        return asyncio.run(call())


@pytest.fixture
def leads(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_store(f"sqlite:///{tmp_path / 'touchstone.db'}")
    yield store
    store.close()


@pytest.fixture
def call(leads: SqlStore) -> Caller:
    return Caller(leads)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """For properties: one database for all examples."""
    if request.param == "sqlite":
        store = open_store(f"sqlite:///{tmp_path_factory.mktemp('ingest') / 'touchstone.db'}")
    else:
        store = open_store(request.getfixturevalue("postgres_ready"))
    yield Caller(store, tenant="ingest")
    store.close()


def counts(response: httpx.Response) -> tuple[int, int, int]:
    assert response.status_code == 200, response.text
    said = response.json()
    return said["accepted"], said["duplicates"], said["quarantined"]


def segment(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"batch": list(messages), **fields}


def track(event: str = "Webinar Attended", **fields: Any) -> dict[str, Any]:
    return {"type": "track", "userId": "L-1", "event": event, **fields}


# Our own JSON


def test_touchpoints_count_once(call: Caller) -> None:
    assert counts(call("POST", "/v1/touchpoints", TOUCH)) == (1, 0, 0)
    many = [TOUCH, {**TOUCH, "message_id": "m"}, {**TOUCH, "message_id": "m"}, {**TOUCH, "value": 3}]
    assert counts(call("POST", "/v1/touchpoints", {"touchpoints": many})) == (2, 2, 0)
    assert counts(call("POST", "/v1/touchpoints", {"touchpoints": many})) == (0, 4, 0)
    known = call("GET", "/v1/leads/L-1").json()
    assert sorted(str(touch["value"]) for touch in known["touchpoints"]) == ["3.0", "None", "None"]


@pytest.mark.parametrize(
    "path, body, field, says",
    [
        ("touchpoints", {"touchpoints": [TOUCH, {**TOUCH, "channel": 5}]}, "touchpoints[1].channel", "got 5. Send"),
        ("touchpoints", {**TOUCH, "channel": "  "}, "channel", "is blank. Send"),
        ("touchpoints", {**TOUCH, "lead_id": ""}, "lead_id", "too short"),
        ("touchpoints", {**TOUCH, "chanel": "x"}, "chanel", "Did you mean channel"),
        ("touchpoints", {**TOUCH, "occurred_at": "0001-01-01T00:00:00+05:00"}, "occurred_at", "beyond the years"),
        ("outcomes", {**OUTCOME, "occurred_at": "9999-12-31T00:00:00Z"}, "occurred_at", "stands for no time"),
        ("touchpoints", {"touchpoints": []}, "touchpoints", "got 0. Send 1 to 500"),
        ("touchpoints", {"touchpoints": [TOUCH] * 501}, "touchpoints", "got 501. Send 1 to 500"),
        ("touchpoints", {**TOUCH, "recorded_at": T}, "recorded_at", "only a key that loads the past"),
        ("touchpoints", {**TOUCH, "channel": "a\0b"}, "channel", "NUL"),
        ("outcomes", {"outcomes": [OUTCOME, {**OUTCOME, "outcome": "maybe"}]}, "outcomes[1].outcome", "won or lost"),
        ("outcomes", {**OUTCOME, "amount": "12"}, "amount", "Send a number or null"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_and_nothing_stored(call: Caller, path: str, body: Any, field: str, says: str) -> None:
    response = call("POST", f"/v1/{path}", body)
    assert (response.status_code, response.json()["field"]) == (422, field), response.text
    assert says in response.json()["detail"]
    assert call.store.tenants() == [] and call.store.read("acme", "L-1") is None


def test_bodies_that_are_none(call: Caller) -> None:
    for body, status in ((b"", 400), (b"[", 422), (b"[1]", 422), (b"5", 422)):
        assert call("POST", "/v1/touchpoints", body).status_code == status, body[:9]
    assert call("POST", "/v1/touchpoints", TOUCH, content_type="text/plain").status_code == 415
    assert call("POST", "/v1/touchpoints", gzip.compress(json.dumps(TOUCH).encode()), content_encoding="gzip")
    assert call("POST", "/v1/touchpoints", b"x", content_encoding="br").status_code == 415


IDS = ("a/b", "a/b/score", "Ä é", "a%2Fb", "100% sure?", "a b", "..", "a;b#c&d", "\U0001f600", "x" * 200)


@pytest.mark.parametrize("name", IDS)
def test_an_id_may_hold_anything(call: Caller, name: str) -> None:
    path = f"/v1/leads/{quote(name, safe='')}" if name != ".." else "/v1/leads/%2E%2E"
    body = {"created_at": T, "attributes": {"industry": "x"}, "attribute_facts": [
        {"occurred_at": T, "name": "size", "value": 3}]}  # fmt: skip
    assert counts(call("PUT", path, body)) == (2, 0, 0)
    known = call("GET", path).json()
    assert (known["lead_id"], known["created_at"], known["attributes"]) == (name, T, {"industry": "x"})
    assert [(fact["name"], fact["value"]) for fact in known["attribute_facts"]] == [("size", 3.0)]
    assert call("DELETE", path).json() == {"deleted": 1}
    assert call("GET", path).status_code == 404
    assert call("DELETE", path).json() == {"deleted": 0}


@pytest.mark.parametrize("path", ["%FF", "%00", "%20", "y" * 201])
def test_ids_that_no_lead_has(call: Caller, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        response = call(method, f"/v1/leads/{path}", {} if method == "PUT" else None)
        assert (response.status_code, response.json()["field"]) == (422, "lead_id")


def test_links_and_what_contradicts_them(call: Caller) -> None:
    call("POST", "/v1/touchpoints", {**TOUCH, "lead_id": "anon"})
    ring = [("anon", "L-1"), ("L-1", "L-2"), ("L-2", "anon")]
    assert [counts(call("PUT", f"/v1/leads/{one}", {"same_as": other}))[2] for one, other in ring] == [0, 0, 1]
    assert len(call("GET", "/v1/leads/L-2").json()["touchpoints"]) == 1
    assert call("GET", "/v1/leads/anon").json()["same_as"] == "L-1"
    (set_aside,) = call("GET", "/v1/quarantine").json()["messages"]
    assert "'anon' would make 'L-2' the same as itself" in set_aside["reason"]
    response = call("PUT", "/v1/leads/a", {"same_as": " a "})
    assert (response.status_code, response.json()["field"]) == (422, "same_as")


def test_a_key_that_loads_the_past(leads: SqlStore) -> None:
    call = Caller(leads, imports=True)
    later = "2026-11-01T00:00:00Z"
    call("POST", "/v1/touchpoints", {"touchpoints": [TOUCH, {**TOUCH, "value": 1, "recorded_at": later}]})
    call("POST", "/v1/outcomes", {**OUTCOME, "recorded_at": later})
    call("PUT", "/v1/leads/L-1", {"created_at": "2026-10-01T00:00:00Z", "attributes": {"size": 3}})
    known = call("GET", "/v1/leads/L-1").json()
    assert sorted(str(touch["recorded_at"]) for touch in known["touchpoints"]) == [later, "None"]
    assert known["outcomes"] == [{"occurred_at": T, "recorded_at": later, "outcome": "won", "amount": 12.5}]
    assert (known["created_at"], known["attributes"]) == ("2026-10-01T00:00:00Z", {"size": 3.0})


def test_what_is_told_of_a_lead_later_was_not_known_before(leads: SqlStore) -> None:
    """Attributes are those of creation only where the same request says when that was."""
    call = Caller(leads)
    call("POST", "/v1/touchpoints", TOUCH)
    before = datetime.now(UTC).isoformat()
    call("PUT", "/v1/leads/L-1", {"attributes": {"plan": "gold"}})
    known = call("GET", "/v1/leads/L-1").json()
    assert known["attributes"] == {}
    (fact,) = known["attribute_facts"]
    assert (fact["name"], fact["value"]) == ("plan", "gold") and fact["occurred_at"] >= before[:19]


def test_the_quarantine_comes_in_pages(call: Caller) -> None:
    for number in range(7):
        assert counts(call("POST", "/v1/batch", segment({"type": f"t{number}"}, track()))) == (1, 0, 1)
    # The same once more is there once.
    assert counts(call("POST", "/v1/batch", segment({"type": "t3"}))) == (0, 0, 1)
    found, cursor = [], ""
    while cursor is not None:
        page = call("GET", f"/v1/quarantine?limit=3{cursor and '&cursor=' + cursor}").json()
        found += page["messages"]
        cursor = page["next"]
    assert len(found) == 7 == len({message["id"] for message in found})
    assert [message["received_at"] for message in found] == sorted((m["received_at"] for m in found), reverse=True)
    assert json.loads(found[-1]["body"]) == {"type": "t0"} and found[-1]["source"] == "segment"
    for query in ("limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=WzEsMl0", "cursor=%FF"):
        assert call("GET", f"/v1/quarantine?{query}").status_code == 422, query


# Segment's protocol


def rows(*messages: Any, mapping: Mapping | None = None, imports: bool = True) -> list[Any]:
    body = json.dumps(segment(*messages)).encode()
    taken = take_batch(body, Arrival(US + 5, imports, mapping or Mapping()))
    return [row for message in taken.messages for row in message.rows]


CAMPAIGN = {"campaign": {"medium": "cpc", "source": "google"}}


@pytest.mark.parametrize(
    "message, expected",
    [
        (track(), Touch("L-1", US, "webinar", "Webinar Attended")),
        (track("Webinar"), Touch("L-1", US, "webinar")),
        (track("Button Pressed", properties={"value": "3.5"}), Touch("L-1", US, "Button Pressed", None, 3.5)),
        (track("email_opened", properties={"value": True}), Touch("L-1", US, "email_open", "email_opened")),
        (track("Order Completed", properties={"total": 5, "value": 9}), Outcome("L-1", US, True, 9.0)),
        (track("order_completed", properties={"revenue": "7"}), Outcome("L-1", US, True, 7.0)),
        ({"type": "page", "anonymousId": 7}, Touch("7", US, "website", "visit")),
        ({"type": "page", "userId": "L-1", "category": "pricing"}, Touch("L-1", US, "website", "pricing")),
        ({"type": "screen", "userId": "L-1", "properties": {"category": "docs", "value": 4}},
         Touch("L-1", US, "website", "docs", 4.0)),
        ({"type": "page", "userId": "L-1", "context": CAMPAIGN}, Touch("L-1", US, "search_ad", "visit")),
        ({"type": "page", "userId": "L-1", "context": {"campaign": {"medium": "?!", "source": "newsletter"}}},
         Touch("L-1", US, "email_click", "visit")),
        ({"type": "page", "userId": "L-1", "context": {"campaign": {"medium": "kiosk"}}},
         Touch("L-1", US, "kiosk", "visit")),
        (track("Form Submitted", context=CAMPAIGN), Touch("L-1", US, "form", "Form Submitted")),
        ({"type": "identify", "userId": "L-1", "context": {"traits": {"a": 1}}, "traits": {"b": {"c": True}, "d": [1]}},
         Lead("L-1", None, {"a": 1.0, "b.c": True})),
        ({"type": "group", "userId": "L-1", "groupId": 9, "traits": {"x": "y"}},
         Lead("L-1", None, {"group.id": "9", "group.x": "y"})),
        ({"type": "alias", "userId": "L-1", "previousId": "p"}, Alias("p", "L-1", US)),
    ],
)  # fmt: skip
def test_what_a_message_becomes(message: dict[str, Any], expected: Any) -> None:
    assert rows({**message, "timestamp": T}) == [expected]


def test_the_trait_created_at_says_when_the_lead_was_created() -> None:
    message = {"type": "identify", "userId": "L-1", "timestamp": T, "traits": {"createdAt": T, "size": 3}}
    assert rows(message) == [Lead("L-1", US), Lead("L-1", None, {"size": 3.0})]
    message["traits"]["createdAt"] = "soon"
    assert rows(message) == [Lead("L-1", None, {"createdAt": "soon", "size": 3.0})]


def test_an_anonymous_id_belongs_to_whom_it_came_with_first(call: Caller) -> None:
    sent = [{"type": "page", "anonymousId": "browser", "messageId": "1"},
            track(anonymousId="browser", messageId="2"), track(anonymousId="browser", messageId="3"),
            {**track(anonymousId="browser", messageId="4"), "userId": "L-2"},
            {**track(anonymousId="L-1", messageId="5"), "userId": "browser"}]  # fmt: skip
    assert counts(call("POST", "/v1/batch", segment(*sent))) == (5, 0, 0)
    assert call("GET", "/v1/leads/browser").json()["same_as"] == "L-1"
    found = {name: len(call("GET", f"/v1/leads/{name}").json()["touchpoints"]) for name in ("L-1", "L-2")}
    assert found == {"L-1": 4, "L-2": 1}
    assert call("GET", "/v1/quarantine").json()["messages"] == []


MAPPING = """
[events."Demo Requested"]
channel = "demo"
action = "request"
[events."Call Finished"]
value = "properties.call.minutes"
[events."Deal Lost"]
outcome = "lost"
[events."Contract Signed"]
outcome = "won"
value = "properties.sum"
[events.hover]
ignore = true
"""


def test_a_mapping_says_what_events_mean(leads: SqlStore, tmp_path: Path) -> None:
    path = tmp_path / "events.toml"
    path.write_text("\ufeff" + MAPPING, encoding="utf-8")
    mapping = Mapping.read(path)
    sent = [track("demo_requested"), track("Call Finished", properties={"call": {"minutes": 7}}), track("Deal Lost"),
            track("Contract Signed", properties={"sum": 8, "revenue": 9}), track("Hover")]  # fmt: skip
    expected = [Touch("L-1", US, "demo", "request"), Touch("L-1", US, "Call Finished", None, 7.0),
                Outcome("L-1", US, False), Outcome("L-1", US, True, 8.0)]  # fmt: skip
    assert rows(*({**each, "timestamp": T} for each in sent), mapping=mapping) == expected
    call = Caller(leads, Settings(mapping=path))
    response = call("POST", "/v1/batch", segment(*sent))
    assert counts(response) == (4, 0, 0) and response.json()["ignored"] == 1
    # A tenant's own goes before it.
    leads.put("acme", [Setting(name="policy", body={"policy": {"events": {"hover": {"channel": "website"}}}})]).result()
    call = Caller(leads, Settings(mapping=path))
    assert call("POST", "/v1/track", track("Hover")).json()["ignored"] == 0
    leads.put(
        "acme", [Setting(name="policy", body={"policy": {"events": {"hover": {"outcome": "won", "ignore": True}}}})]
    ).result()
    response = Caller(leads, Settings(mapping=path))("POST", "/v1/track", track("Hover"))
    assert response.status_code == 503 and "outcome and ignore" in response.json()["detail"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("[events.x]\nchanel = 'a'", 'events."x".chanel: there is no such field. Did you mean channel?'),
        ("[events.x]\noutcome = 'maybe'", 'events."x".outcome: got "maybe". Send won or lost.'),
        ("[events.x]\nchannel = ' '", "events.\"x\": channel ' ' has 0 characters"),
        ("[events.x]\nvalue = 'minutes'", "Write e.g. properties.minutes"),
        ("[events.x]\nignore = true\naction = 'a'", "channel or action and ignore"),
        ("[events.x]\n[events.X]", "twice"),
        ("[events.x", "is not TOML"),
        ("events = 5", "events: got 5. Send an object."),
        ("[events]\nx = 5", 'events."x": the body: got 5. Send an object.'),
    ],
)
def test_a_wrong_mapping_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "events.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as refusal:
        Mapping.read(path)
    assert says in str(refusal.value) and str(path) in str(refusal.value)


def test_a_mapping_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read.*Name a mapping file"):
        Mapping.read(tmp_path / "none.toml")


def test_serve_refuses_a_wrong_mapping(tmp_path: Path) -> None:
    save_bundle(scorer("logistic"), tmp_path / "bundle")
    (tmp_path / "events.toml").write_text("[events.x]\nchanel = 'a'")
    options = ["--model", "bundle", "--port", "0", "--mapping", "events.toml"]
    command = [sys.executable, "-m", "touchstone", "serve", *options]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert 'error: events.toml: events."x".chanel: there is no such field. Did you mean channel?' in done.stderr


def test_the_page_says_what_the_code_says() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for kind, says in MEANINGS.items():
        assert f"| `{kind}` | {says} |" in page
    for name, schema in msgspec.json.schema(EventRule)["$defs"]["EventRule"]["properties"].items():
        assert f"| `{name}` | `{json.dumps(schema['default'])}` | {schema['description']} |" in page
    example = page.split("```toml\n")[1].split("```")[0]
    assert Mapping.of(tomllib.loads(example)).rule("Demo Requested").action == "request"


GOOD = {"type": "track", "userId": "good", "event": "Demo Requested"}
BAD = [
    b'{"type":"track","userId":"x","event":"a","properties":{"b":"\\ud800"}}',
    b'{"type":"track","userId":"x\\u0000","event":"a"}',
    b'{"type":"track","userId":"x","event":' + b"[" * 9000 + b"]" * 9000 + b"}",
    b'{"type":"track","userId":"x","event":"a","context":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    b'{"type":"track","userId":"\xff","event":"a"}',
    b'{"type":"track","userId":"x","event":"' + b"a" * LARGEST_MESSAGE + b'"}',
    b'{"type":"track","userId":"x","event":"a","timestamp":"31/02/2026"}',
    b'{"type":"track","userId":"x","event":"a","timestamp":5}',
    b'{"type":"track","userId":"x","event":" "}',
    b'{"type":"track","event":"a"}',
    b'{"type":"track","userId":"' + b"x" * 201 + b'","event":"a"}',
    b'{"type":"track","userId":' + b"7" * 5000 + b',"event":"a"}',
    b'{"type":"track","userId":"x","event":"a","messageId":"' + b"m" * 201 + b'"}',
    b'{"type":"alias","userId":"x"}',
    b'{"type":"alias","userId":"x","previousId":"x"}',
    b'{"type":"group","userId":"x"}',
    b'{"type":"delete","userId":"x"}',
    b'{"userId":"x"}',
    b"5",
    b"null",
    b'"\\u0000"',
    b"[]",
    b"tru",
    b'{"a" 5}',
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_message_costs_no_neighbour(call: Caller, bad: bytes) -> None:
    good = json.dumps(GOOD).encode()
    body = (
        b'{"sentAt":"x","batch":[' + good + b"," + bad + b"," + json.dumps({**GOOD, "event": "b,]}"}).encode() + b"]}"
    )
    assert counts(call("POST", "/v1/batch", body)) == (2, 0, 1)
    assert len(call("GET", "/v1/leads/good").json()["touchpoints"]) == 2
    (set_aside,) = call("GET", "/v1/quarantine").json()["messages"]
    assert set_aside["reason"] and set_aside["body"]
    assert counts(call("POST", "/v1/track", bad)) in ((0, 0, 1), (1, 0, 0))


@pytest.mark.parametrize(
    "bad",
    [
        b'{"type":"page","userId":"eve","context":{"campaign":"x"}}',
        b'{"type":"page","anonymousId":"eve","userId":null,"context":5}',
        b'{"type":"track","userId":"eve","event":"a\\u0000"}',
        b'{"type":"track","userId":"eve","event":"\xff"}',
        b'{"type":"track","userId":"eve","event":5,"properties":{"a":NaN}}',
        b'{"type":"track","userId":"eve","event":"' + b"a" * LARGEST_MESSAGE + b'"}',
    ],
    ids=range(6),
)
def test_what_was_set_aside_of_a_person_goes_with_them(call: Caller, bad: bytes) -> None:
    assert counts(call("POST", "/v1/batch", b'{"batch":[' + bad + b"]}")) == (0, 0, 1)
    (set_aside,) = call("GET", "/v1/quarantine").json()["messages"]
    assert set_aside["lead_id"] == "eve"
    assert call("DELETE", "/v1/leads/eve").status_code == 200
    assert call("GET", "/v1/quarantine").json()["messages"] == []


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"1" * 40, b"9" * 400])
def test_numbers_that_are_none_count_as_missing(call: Caller, number: bytes) -> None:
    body = b'{"batch":[{"type":"track","userId":"L-1","event":"a","properties":{"value":' + number + b"}}]}"
    assert counts(call("POST", "/v1/batch", body)) == (1, 0, 0)
    (touch,) = call("GET", "/v1/leads/L-1").json()["touchpoints"]
    assert touch["value"] == (float(number) if number == b"1" * 40 else None)


def test_gzip_bodies(call: Caller) -> None:
    body = json.dumps(segment(GOOD)).encode()
    packed = call("POST", "/v1/batch", gzip.compress(body), content_encoding="GZIP", content_type="text/plain")
    assert counts(packed) == (1, 0, 0)
    for more in (gzip.compress(body), b"{"):
        assert call("POST", "/v1/batch", gzip.compress(body) + more, content_encoding="gzip").status_code == 400
    bomb = gzip.compress(b'{"batch":[' + b" " * 200_000_000 + b"]}")
    assert len(bomb) < LARGEST_BATCH
    assert call("POST", "/v1/batch", bomb, content_encoding="gzip").status_code == 413
    assert call("POST", "/v1/batch", gzip.compress(body)[:-9], content_encoding="gzip").status_code == 400
    assert call("POST", "/v1/batch", body, content_encoding="gzip").status_code == 400
    assert call("POST", "/v1/batch", b" " * (LARGEST_BATCH + 1)).status_code == 413
    assert counts(call("POST", "/v1/batch", segment(*[GOOD] * 5_000))) == (1, 4_999, 0)
    assert call("POST", "/v1/batch", segment(*[GOOD] * 5_001)).status_code == 413
    for junk in (b"", b"5", b"[", b'{"batch":', b'{"batch":{}}', b'{"batch":[{}]', b'{"a":"batch"}', b"\xff"):
        assert call("POST", "/v1/batch", junk).status_code == 400, junk


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats()
    | st.text(st.characters(codec=None), max_size=9)
    | st.sampled_from(["", " ", "x" * 201, "\0", "\ud800", T, "L-1", "createdAt", "track", "alias"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS = ("type", "userId", "anonymousId", "previousId", "groupId", "event", "category", "properties", "traits",
          "context", "timestamp", "originalTimestamp", "sentAt", "messageId")  # fmt: skip
PLAIN = {
    "type": st.sampled_from([*MEANINGS]), "userId": st.sampled_from(["a", "b", "c"]),
    "anonymousId": st.sampled_from(["a", "b", "d"]), "previousId": st.sampled_from(["a", "b", "c", "d"]),
    "event": st.sampled_from(["Demo Requested", "Order Completed"]), "timestamp": st.datetimes().map(str),
    "properties": st.fixed_dictionaries({}, optional={"value": ANY, "revenue": ANY, "category": ANY}),
    "traits": st.dictionaries(st.sampled_from(["createdAt", "a", "a.b", "b"]), ANY, max_size=3),
    "context": st.fixed_dictionaries({}, optional={
        "campaign": st.dictionaries(st.sampled_from(["medium", "source"]), ANY) | ANY, "traits": ANY}),
}  # fmt: skip
MESSAGE = st.fixed_dictionaries({}, optional={name: PLAIN.get(name, ANY) | ANY for name in FIELDS}) | ANY


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(messages=st.lists(MESSAGE, max_size=4), sent_at=ANY, kind=st.sampled_from([*MEANINGS]))
def test_whatever_a_message_holds_its_neighbours_count(
    lasting: Caller, messages: list[Any], sent_at: Any, kind: str
) -> None:
    marks = [{**GOOD, "userId": "neighbour", "messageId": datetime.now(UTC).isoformat() + place} for place in "ab"]
    response = lasting("POST", "/v1/batch", segment(marks[0], *messages, marks[1], sentAt=sent_at))
    assert response.status_code == 200, response.text
    said = response.json()
    assert said["accepted"] + said["duplicates"] + said["quarantined"] + said["ignored"] == len(messages) + 2
    known = lasting.store.read(lasting.tenant, "neighbour").record
    assert {f"segment:{mark['messageId']}" for mark in marks} <= {touch.message_id for touch in known.touchpoints}
    for message in messages[:1]:
        assert lasting("POST", f"/v1/{kind}", message).status_code == 200
    for name in "abcd":
        assert lasting("GET", f"/v1/leads/{name}").status_code in (200, 404)


def test_rows_that_messages_are_made_of() -> None:
    """A message whose row is refused by the store would take the others along."""
    assert {type(row) for row in rows(track(), {"type": "x"})} == {Touch, Quarantined}
    assert Fact not in {type(row) for row in rows({"type": "identify", "userId": "x", "traits": {"a": 1}})}
