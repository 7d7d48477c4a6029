"""Lines of JSON in and out: any number, in order, in constant memory, with the bad ones named."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from test_serving import alone, check_problem, lead
from trained import Trained, serving

LINES = {"content-type": "application/x-ndjson"}


def ask(server: httpx.Client, *lines: Any, **options: Any) -> list[Any]:
    body = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    response = server.post("/v1/score/bulk", content=body, headers=LINES, **options)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.content.splitlines()]


def test_lines_are_answered_in_order_as_alone(server: httpx.Client) -> None:
    leads = [lead(number) for number in range(2_345)]
    got = ask(server, *leads)
    assert [one["lead_id"] for one in got] == [one["lead_id"] for one in leads]
    for number in (0, 999, 1_000, 2_344):
        assert got[number] == alone(server, leads[number])


def test_reasons_come_with_lines_too(server: httpx.Client) -> None:
    (got,) = ask(server, lead(12), params={"reasons": 2})
    assert got == alone(server, lead(12), reasons=2)
    assert len(got["reasons"]) == 2


@pytest.mark.parametrize("name", ["application/ndjson", "application/jsonl", "APPLICATION/X-NDJSON; charset=utf-8"])
def test_lines_go_by_several_names(server: httpx.Client, name: str) -> None:
    response = server.post("/v1/score/bulk", content=json.dumps(lead(3)), headers={"content-type": name})
    assert response.json() == alone(server, lead(3))


def test_a_bad_line_is_named_and_the_others_are_scored(server: httpx.Client) -> None:
    late = lead(2, as_of="2020-01-01T00:00:00Z")
    bad = [b'{"lead_id": "x"', {"lead_id": "y"}, late, lead(3, color=1), b"\xff", b'{"lead_id": "' + b"x" * 2_000_000]
    got = ask(server, lead(0), *bad[:2], b"", b"  ", *bad[2:], lead(1))
    assert [one.get("line") for one in got] == [None, 2, 3, 6, 7, 8, 9, None]
    assert [one.get("lead_id") for one in (got[0], got[-1])] == ["L-0", "L-1"]
    problems = [one["problem"] for one in got[1:-1]]
    assert [one["status"] for one in problems] == [400, 422, 422, 422, 400, 413]
    assert [one.get("field") for one in problems] == [None, "created_at", "as_of", "color", None, None]
    assert "larger than 1,000,000 bytes" in problems[-1]["detail"]
    assert got[3]["problem"]["detail"].startswith("as_of: 2020-01-01T00:00:00+00:00 is not after")


def test_no_lines_are_no_answers(server: httpx.Client) -> None:
    assert ask(server, b"") == ask(server, b"\n\n \n") == []


def test_wrong_reasons_are_refused_before_anything_is_read(server: httpx.Client) -> None:
    response = server.post("/v1/score/bulk?reasons=9", content=b"{}", headers=LINES)
    check_problem(response, 422, "reasons", "Ask for 0 to 5")


def test_packed_lines_are_refused(server: httpx.Client) -> None:
    response = server.post("/v1/score/bulk", content=b"{}", headers={**LINES, "content-encoding": "gzip"})
    check_problem(response, 415, None, "Send them without content-encoding")


def test_answers_come_while_lines_still_go(trained: Trained) -> None:
    """Over one connection: more is sent only when what was sent before is answered."""
    body = b"".join(json.dumps(lead(k)).encode() + b"\n" for k in range(1_000))
    with serving(trained.bundle) as (_, address):
        place = urlsplit(address)
        with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=300) as connection:
            connection.sendall(
                b"POST /v1/score/bulk HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
                b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            )
            seen = b""
            for turn in range(1, 4):
                connection.sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n")
                while seen.count(b'"lead_id"') < 1_000 * turn:
                    part = connection.recv(65_536)
                    assert part, seen[-300:]
                    seen += part
            connection.sendall(b"0\r\n\r\n")
            while part := connection.recv(65_536):
                seen += part
        assert seen.endswith(b"0\r\n\r\n")


def resident(process: int) -> float:
    """Megabytes that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_client_that_reads_last_is_answered_in_constant_memory(trained: Trained) -> None:
    """Most clients read nothing until all is sent; what they do not take yet must not fill the memory."""
    chunk = b"".join(json.dumps(lead(k % 3)).encode() + b"\n" for k in range(5_000))
    count = 30

    def body() -> Iterator[bytes]:
        for number in range(count):
            if number == 5:
                held.append(resident(process.pid))
            yield chunk

    held: list[float] = []
    with serving(trained.bundle) as (process, address), httpx.Client(base_url=address, timeout=300) as client:
        with client.stream("POST", "/v1/score/bulk", content=body(), headers=LINES) as response:
            lines = sum(part.count(b"\n") for part in response.iter_raw())
        held.append(resident(process.pid))
    assert lines == 5_000 * count
    # The answers alone are more than 40 MB.
    assert held[1] - held[0] < 20, held


def test_a_caller_who_goes_away_in_between_does_no_harm(trained: Trained) -> None:
    with serving(trained.bundle) as (_, address):
        place = urlsplit(address)
        for _ in range(5):
            with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=300) as connection:
                connection.sendall(
                    b"POST /v1/score/bulk HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
                    b"content-length: 100000000\r\n\r\n" + (json.dumps(lead(5)).encode() + b"\n") * 1_500
                )
                time.sleep(0.1)
        assert httpx.post(f"{address}/v1/score", json=lead(1), timeout=300).status_code == 200
