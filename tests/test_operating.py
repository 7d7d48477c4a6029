"""Running the service: metrics, logs, limits, deadlines, several workers and the end, against real servers."""

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from test_security import bearer, keys_command
from test_serving import check_problem, lead
from trained import Trained, serving


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=120)


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric over the series that have some labels."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for given, value in found if all(each in given.split(",") for each in wanted))


def body_of(number: int) -> bytes:
    return json.dumps({"leads": [lead(k) for k in range(number)]}).encode()


# --- metrics and logs


def test_metrics_count_what_was_done(trained: Trained) -> None:
    with serving(trained.bundle) as (_, address), httpx.Client(base_url=address) as client:
        scores = [client.post("/v1/score", json=lead(k)).json() for k in range(8)]
        scores += client.post("/v1/score/bulk", content=body_of(20)).json()["scores"]
        client.post("/v1/score", json={})
        client.get("/nowhere/L-42")
        client.post("/v1/batch", json={"batch": [{"type": "unheard of"}, {"type": "track"}]})
        text = client.get("/metrics").text
    assert metric(text, "touchstone_requests_total", operation="scoreLead", status="200") == 8
    assert metric(text, "touchstone_requests_total", operation="scoreLead", status="422") == 1
    assert metric(text, "touchstone_requests_total", operation="", status="404") == 1
    assert metric(text, "touchstone_request_seconds_count", operation="scoreLead") == 9
    assert metric(text, "touchstone_request_seconds_bucket", operation="scoreLead", le="+Inf") == 9
    tiers = Counter(score["tier"] for score in scores)
    assert {tier: metric(text, "touchstone_scores_total", tier=tier) for tier in tiers} == tiers
    assert metric(text, "touchstone_probabilities_total") == pytest.approx(sum(s["probability"] for s in scores))
    assert metric(text, "touchstone_model", version="3", model="lightgbm") == 1
    assert metric(text, "touchstone_quarantined_total") == 2
    assert metric(text, "touchstone_store_errors_total") == 0
    assert "L-42" not in text


def test_the_log_is_json_and_names_nobody(trained: Trained, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 't.db'}"
    with serving(trained.bundle, "--database", database, no_auth=False) as (process, address):
        key = keys_command(database, "create", "crm", "--scope", "score", "--tenant", "acme")
        url = f"{address}/v1/score?reasons=1"
        httpx.post(url, json=lead(lead_id="person@example.com"), headers=bearer(key["key"]))
        httpx.post(url, json=lead(lead_id=5, created_at="person@example.com"), headers=bearer(key["key"]))
        httpx.get(f"{address}/v1/leads/person@example.com?email=person@example.com")
        httpx.get(f"{address}/v1/people/person@example.com")
        with connect(address) as caller:
            caller.sendall(b"person@example.com\r\n\r\n")
            caller.recv(1_000)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["event"] == "request" and line["route"] != "/readyz"]
    assert [(line["method"], line["route"], line["status"], line["tenant"], line["key"]) for line in asked] == [
        ("POST", "/v1/score", 200, "acme", key["id"]),
        ("POST", "/v1/score", 422, "acme", key["id"]),
        ("GET", "/v1/leads/{lead_id}", 401, "", ""),
        ("GET", "", 404, "", ""),
    ]
    assert all(line["ms"] > 0 and line["at"].endswith("Z") for line in asked)
    assert asked[1]["error"] == "FieldError"
    assert any("Invalid HTTP" in line.get("message", "") for line in lines)
    assert "example.com" not in said and "reasons" not in said and key["key"] not in said


def test_a_log_that_nobody_reads_holds_up_nobody(trained: Trained) -> None:
    with serving(trained.bundle) as (_, address), httpx.Client(base_url=address) as client:
        # Far more than a pipe holds.
        assert {client.get("/healthz").status_code for _ in range(1_500)} == {200}


# --- what is too much


def test_a_key_that_asks_too_often_is_told_when_to_come_again(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_KEY_RATE", "1")
    monkeypatch.setenv("TOUCHSTONE_KEY_BURST", "5")
    database = f"sqlite:///{tmp_path / 't.db'}"
    with serving(trained.bundle, "--database", database, no_auth=False) as (_, address):
        auth = bearer(keys_command(database, "create", "crm", "--scope", "read")["key"])

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=address, timeout=300, headers=auth) as client:
                return await asyncio.gather(*(client.get("/v1/model") for _ in range(40)))

        got = sorted(asyncio.run(ask()), key=lambda each: each.status_code)
        assert [each.status_code for each in got[:5]] == [200] * 5
        check_problem(got[-1], 429, None, "More than 1 requests a second")
        assert got[-1].headers["retry-after"] == "1"
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_beyond_what_can_be_worked_on_callers_are_told_to_come_again(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_MAX_IN_WORK", "1")
    with serving(trained.bundle) as (_, address):

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=address, timeout=300) as client:
                return await asyncio.gather(*(client.post("/v1/score/bulk", content=body_of(900)) for _ in range(4)))

        got = asyncio.run(ask())
        busy = [each for each in got if each.status_code != 200]
        assert 0 < len(busy) < 4
        check_problem(busy[0], 503, None, "As many requests as can be answered at once")
        assert busy[0].headers["retry-after"] == "1"
        # There is room again.
        assert httpx.post(f"{address}/v1/score/bulk", content=body_of(900), timeout=300).status_code == 200


def test_half_sent_requests_lock_nobody_out_and_are_let_go(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_MAX_IN_WORK", "4")
    monkeypatch.setenv("TOUCHSTONE_HEADER_SECONDS", "2")
    monkeypatch.setenv("TOUCHSTONE_BODY_SECONDS", "2")
    halves = [b"", b"POST /v1/score HT", b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{"]
    with serving(trained.bundle) as (_, address), ExitStack() as opened:
        callers = [opened.enter_context(connect(address)) for _ in range(150)]
        for number, caller in enumerate(callers):
            caller.sendall(halves[number % 3])
        assert httpx.post(f"{address}/v1/score", json=lead(3), timeout=300).status_code == 200
        begun = time.monotonic()
        said = Counter(caller.recv(1_000)[:12] for caller in callers)
        assert said == {b"": 50, b"HTTP/1.1 408": 100}
        assert time.monotonic() - begun < 15
        assert httpx.post(f"{address}/v1/score", json=lead(3), timeout=300).status_code == 200


def test_a_slow_body_that_moves_on_is_waited_for(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_BODY_SECONDS", "1")
    body = json.dumps(lead(3)).encode() + b" " * 30_000
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with serving(trained.bundle) as (_, address), connect(address) as caller:
        caller.sendall(head.encode())
        for begin in range(0, len(body), 3_000):
            caller.sendall(body[begin : begin + 3_000])
            time.sleep(0.4)
        assert b"".join(iter(lambda: caller.recv(65_536), b"")).startswith(b"HTTP/1.1 200")


# --- readiness and the store


def test_a_store_that_fails_is_told_of(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with serving(trained.bundle, "--database", f"sqlite:///{path}") as (process, address):
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE keys")
        got = httpx.get(f"{address}/readyz")
        check_problem(got, 503, None, "The store cannot be reached")
        assert got.headers["retry-after"]
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert httpx.post(f"{address}/v1/score", json=lead(3)).status_code == 200
        assert metric(httpx.get(f"{address}/metrics").text, "touchstone_store_errors_total") == 1
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert any(json.loads(line).get("message") for line in said.splitlines() if '"StoreError"' in line)


# --- several workers, and the end


def test_workers_share_the_socket_the_metrics_and_the_keys(trained: Trained, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 't.db'}"
    options = ("--database", database, "--workers", "2")
    with serving(trained.bundle, *options, no_auth=False) as (process, address):
        key = keys_command(database, "create", "crm", "--scope", "score", "--scope", "read")
        auth = bearer(key["key"])
        assert len(_children(process.pid)) == 2
        answered = [httpx.post(f"{address}/v1/score", json=lead(3), headers=auth, timeout=300) for _ in range(60)]
        assert {each.status_code for each in answered} == {200}
        # Whichever worker is asked tells of all.
        for _ in range(10):
            text = httpx.get(f"{address}/metrics", headers=auth).text
            assert metric(text, "touchstone_requests_total", operation="scoreLead", status="200") == 60
            assert metric(text, "touchstone_model") == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert not _children(process.pid)


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_in_the_middle_of_requests_loses_none(trained: Trained, workers: int) -> None:
    """Callers over open connections and new ones: each request that was sent is answered, until none is taken.

    A connection that only the kernel has taken when the last listener closes is reset: no worker knows of it.
    """
    answered, wrong = [], []
    stopping = threading.Event()
    body = json.dumps(lead(9)).encode()

    def call(address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        while True:
            # It closes itself where the answer says so.
            caller = HTTPConnection(host, int(port), timeout=120)
            with closing(caller):
                try:
                    caller.connect()
                except OSError:
                    return
                first = True
                while caller.sock is not None:
                    try:
                        caller.request("POST", "/v1/score", body)
                        got = caller.getresponse()
                        assert got.status == 200 and json.loads(got.read())["lead_id"] == "L-9"
                    except Exception as problem:
                        if not (first and stopping.is_set() and isinstance(problem, ConnectionResetError)):
                            wrong.append(repr(problem))
                        return
                    first = False
                    answered.append(time.monotonic())

    with serving(trained.bundle, "--workers", str(workers)) as (process, address):
        callers = [threading.Thread(target=call, args=(address,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        time.sleep(1.5)
        stopping.set()
        process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(60)
        process.wait(120)
        assert process.returncode == (0 if workers > 1 else -signal.SIGTERM)
    assert not wrong
    assert len(answered) > 50


def test_workers_that_cannot_start_end_the_service(trained: Trained, tmp_path: Path) -> None:
    """What was well when the service began and is not when a worker does."""
    database = tmp_path / "t.db"
    with serving(trained.bundle, "--database", f"sqlite:///{database}", "--workers", "2") as (process, _):
        children = _children(process.pid)
        assert len(children) == 2
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        os.kill(children[0], signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 1
        assert "is of revision 9999" in said and "a worker could not start" in said
