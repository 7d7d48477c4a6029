"""The clients of Segment and RudderStack stream to a real server, with nothing but the host changed."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import rudderstack.analytics.client
import segment.analytics.client
from running import running
from small import scorer

from serving.access import Open
from serving.store import SqlStore, open_store

NODE_CLIENT = "@segment/analytics-node@3.1.0"
START = datetime(2026, 1, 1, tzinfo=UTC)
AS_OF = "2026-03-01T00:00:00Z"


def at(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z")


CONTEXT = {"campaign": {"source": "newsletter", "medium": "email", "name": "spring"}}
MESSAGES = [
    {"type": "page", "anonymousId": "anon-1", "category": "pricing", "name": "Prices", "context": CONTEXT},
    {
        "type": "identify",
        "userId": "lead-1",
        "traits": {"createdAt": at(0), "industry": "software", "size": {"employees": 40}, "tags": ["x"]},
    },
    {"type": "track", "userId": "lead-1", "event": "Webinar Attended", "properties": {"value": 45.5}},
    {"type": "track", "userId": "lead-1", "event": "Demo Requested"},
    {"type": "page", "userId": "lead-1", "name": "Home"},
    {"type": "alias", "userId": "lead-1", "previousId": "anon-1"},
    {"type": "track", "userId": "lead-2", "anonymousId": "anon-2", "event": "Email Opened"},
    {"type": "track", "userId": "lead-2", "event": "Order Completed", "properties": {"revenue": "99.90"}},
]
MESSAGES = [{**message, "timestamp": at(5 * hour + 1)} for hour, message in enumerate(MESSAGES)]
LEAD = {
    "lead_id": "lead-1",
    "created_at": at(0),
    "as_of": AS_OF,
    "attribute_facts": [
        {"occurred_at": at(6), "name": "industry", "value": "software"},
        {"occurred_at": at(6), "name": "size.employees", "value": 40},
    ],
    "touchpoints": [
        {"occurred_at": at(1), "recorded_at": at(26), "channel": "email_click", "action": "pricing"},
        {"occurred_at": at(11), "channel": "webinar", "action": "webinar_attended", "value": 45.5},
        {"occurred_at": at(16), "channel": "demo", "action": "demo_requested"},
        {"occurred_at": at(21), "channel": "website", "action": "visit"},
    ],
}


@pytest.fixture
def leads(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_store(f"sqlite:///{tmp_path / 'touchstone.db'}")
    yield store
    store.close()


def python_calls(client: Any, messages: list[dict[str, Any]]) -> None:
    """Calls a client in Python as its users do."""
    names = {"userId": "user_id", "anonymousId": "anonymous_id", "previousId": "previous_id"}
    for message in messages:
        given = {names.get(name, name): value for name, value in message.items() if name != "type"}
        given["timestamp"] = datetime.fromisoformat(message["timestamp"])
        getattr(client, message["type"])(**given)
    client.flush()
    client.join()


def with_segment(host: str, messages: list[dict[str, Any]], **options: Any) -> None:
    failures: list[Any] = []
    client = segment.analytics.client.Client("key", host=host, on_error=lambda *told: failures.append(told), **options)
    python_calls(client, messages)
    assert not failures


def with_rudder(host: str, messages: list[dict[str, Any]]) -> None:
    failures: list[Any] = []
    client = rudderstack.analytics.client.Client("key", host=host, on_error=lambda *told: failures.append(told))
    python_calls(client, messages)
    assert client.gzip and not failures


@pytest.fixture(scope="session")
def node(missing: Callable[[str, str], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Segment's client for Node is installed."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            missing("node", f"there is no {program}")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", NODE_CLIENT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        missing("node", f"npm install {NODE_CLIENT} failed: {done.stderr[-300:]}")
    return folder


def with_node(host: str, messages: list[dict[str, Any]], folder: Path) -> None:
    command = ["node", str(Path(__file__).with_name("clients.mjs")), host]
    subprocess.run(
        command, cwd=folder, input=json.dumps(messages), text=True, check=True, timeout=300, env={**os.environ}
    )


@pytest.mark.parametrize("client", ["segment", "segment-gzip", "rudder", "node"])
def test_a_client_streams_leads_in(client: str, leads: SqlStore, request: pytest.FixtureRequest) -> None:
    def stream(host: str) -> None:
        if client == "node":
            with_node(host, MESSAGES, request.getfixturevalue("node"))
        elif client == "rudder":
            with_rudder(host, MESSAGES)
        else:
            with_segment(host, MESSAGES, gzip=client == "segment-gzip")

    with (
        running(scorer("lightgbm"), leads, Open("acme", imports=True)) as host,
        httpx.Client(base_url=host, timeout=300) as http,
    ):
        stream(host)
        assert leads.tenants() == ["acme"]
        assert http.get("/v1/quarantine").json() == {"messages": [], "next": None}
        stored = http.get("/v1/leads/lead-1").json()
        assert (stored.pop("outcomes"), stored.pop("same_as"), stored.pop("same_as_since")) == ([], None, None)
        assert len(stored["touchpoints"]) == 4 and all(
            touch["message_id"].startswith("segment:") for touch in stored["touchpoints"]
        )
        expected = http.post("/v1/score?reasons=3", json=LEAD)
        assert expected.status_code == 200, expected.text
        again = http.post("/v1/score?reasons=3", json={**stored, "as_of": AS_OF}).json()
        # The digest is of the document, in which the store names each message.
        assert again == {**expected.json(), "digest": again["digest"]}
        bare = {**LEAD, "touchpoints": [], "attribute_facts": []}
        assert http.post("/v1/score", json=bare).json()["probability"] != expected.json()["probability"]
        (outcome,) = http.get("/v1/leads/lead-2").json()["outcomes"]
        assert outcome == {"occurred_at": at(36), "recorded_at": at(36), "outcome": "won", "amount": 99.9}
        anonymous = http.get("/v1/leads/anon-1").json()
        assert (anonymous["same_as"], anonymous["same_as_since"]) == ("lead-1", at(26))


def test_what_is_sent_again_counts_once(leads: SqlStore) -> None:
    """Clients send a batch again when its answer was lost."""
    body = {
        "batch": [{**message, "messageId": f"m-{number}"} for number, message in enumerate(MESSAGES)],
        "sentAt": at(100),
    }
    with running(scorer("logistic"), leads) as host, httpx.Client(base_url=host, auth=("key", ""), timeout=300) as http:
        counts = [http.post("/v1/batch", json=body).json() for _ in range(2)]
    assert [(c["accepted"], c["duplicates"], c["quarantined"]) for c in counts] == [(8, 0, 0), (0, 8, 0)]
    assert [c["left_out"] for c in counts] == [1, 1]


def test_without_the_past_all_is_known_from_now_on(leads: SqlStore) -> None:
    before = datetime.now(UTC)
    slow = {
        "type": "track",
        "userId": "lead-1",
        "event": "Demo Requested",
        "timestamp": "2001-01-01T00:00:00Z",
        "messageId": "m",
    }
    with running(scorer("logistic"), leads) as host, httpx.Client(base_url=host, timeout=300) as http:
        # This client's clock stands 25 years back; it sent the message ten minutes after it happened.
        http.post("/v1/batch", json={"batch": [slow], "sentAt": "2001-01-01T00:10:00Z"}).raise_for_status()
        (touch,) = http.get("/v1/leads/lead-1").json()["touchpoints"]
    assert before <= datetime.fromisoformat(touch["recorded_at"]) <= datetime.now(UTC)
    happened = datetime.fromisoformat(touch["occurred_at"])
    assert before <= happened + timedelta(minutes=10) <= datetime.now(UTC)
