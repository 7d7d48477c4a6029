"""A write under an Idempotency-Key is done once, and work beside the requests in one worker."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from features.errors import TouchstoneError
from serving import errors
from serving.access import Open
from serving.background import Background, in_thread
from serving.body import read_body
from serving.endpoint import Gate, endpoint
from serving.errors import FieldError
from serving.idempotency import forget_old
from serving.log import Log
from serving.operation import Operation, json_response
from serving.schemas import Status
from serving.service import Service
from serving.settings import Settings
from serving.store import Idempotent, SqlStore

Handler = Callable[[bytes], Awaitable[Response]]
HOUR = 3_600_000_000


def client_of(store: SqlStore, tenant: str, handler: Handler) -> httpx.AsyncClient:
    """A client of a service whose one operation, a write, hands the body on."""

    async def write(request: Request) -> Response:
        return await handler(await read_body(request, 1_000))

    service = Service(scorer=None, store=store, access=Open(tenant), settings=Settings())
    operation = Operation("POST", "/write", "write", "Write.", write, Status, Status, scope="ingest", idempotent=True)
    route = Route("/write", endpoint(operation, service, Gate(100)), methods=["POST"])
    app = Starlette(routes=[route], exception_handlers={TouchstoneError: errors.on_domain_error})
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://x")


def send(store: SqlStore, tenant: str, handler: Handler, *requests: tuple[str | None, str]) -> list[httpx.Response]:
    """The answers to requests (key, body), one after the other."""

    async def run() -> list[httpx.Response]:
        async with client_of(store, tenant, handler) as client:
            return [
                await client.post("/write", content=body, headers={} if key is None else {"idempotency-key": key})
                for key, body in requests
            ]

    return asyncio.run(run())


class Counter:
    """Answers with how often it did."""

    def __init__(self) -> None:
        self.done: list[bytes] = []

    async def __call__(self, body: bytes) -> Response:
        self.done.append(body)
        return Response(f'{{"count": {len(self.done)}}}', 201, media_type="application/json")


def test_the_same_request_is_done_once_and_answered_alike(lead_store: SqlStore, tenant: str) -> None:
    handler = Counter()
    got = send(lead_store, tenant, handler, ("k", "{}"), ("k", "{}"), (None, "{}"), ("other", "{}"), ("k", "{}"))
    assert [(each.status_code, each.json()["count"]) for each in got] == [(201, n) for n in (1, 1, 2, 3, 1)]
    assert [each.headers.get("idempotency-replayed") for each in got] == [None, "true", None, None, "true"]
    assert {each.headers["content-type"] for each in got} == {"application/json"}
    # Another tenant's key is another key.
    assert send(lead_store, f"{tenant}-b", handler, ("k", "{}"))[0].json() == {"count": 4}


def test_another_request_under_the_same_key_is_refused(lead_store: SqlStore, tenant: str) -> None:
    handler = Counter()
    first, second = send(lead_store, tenant, handler, ("k", "{}"), ("k", '{"a": 1}'))
    assert (first.status_code, second.status_code) == (201, 422)
    assert second.json()["field"] == "Idempotency-Key"
    assert "'k' was used for another request. Send each under a key of its own" in second.json()["detail"]
    for key in ("", "x" * 256):
        [got] = send(lead_store, tenant, handler, (key, "{}"))
        assert (got.status_code, got.json()["field"]) == (422, "Idempotency-Key")
    assert handler.done == [b"{}"]


@pytest.mark.parametrize("fault", ["refused", "crash", "status"])
def test_what_failed_may_be_sent_again_at_once(
    lead_store: SqlStore, tenant: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, slow, done = lead_store.remove, ThreadPoolExecutor(1), 0

    def late(*arguments: Any) -> Future[int]:
        return slow.submit(lambda: (time.sleep(0.2), remove(*arguments).result())[1])

    monkeypatch.setattr(lead_store, "remove", late)

    async def handler(body: bytes) -> Response:
        nonlocal done
        done += 1
        if done == 1 and fault == "refused":
            raise FieldError("a", "it is wrong.")
        if done == 1 and fault == "crash":
            raise KeyError
        return json_response(Status()) if done > 1 else Response(status_code=503)

    async def run() -> list[int]:
        statuses = []
        async with client_of(lead_store, tenant, handler) as client:
            for _ in range(3):
                got = await client.post("/write", content="{}", headers={"idempotency-key": "k"})
                statuses.append(got.status_code)
        return statuses

    assert asyncio.run(run()) == [{"refused": 422, "crash": 500, "status": 503}[fault], 200, 200]
    assert done == 2


def test_while_the_first_is_answered_the_second_is_told(lead_store: SqlStore, tenant: str) -> None:
    async def run() -> tuple[list[int], int]:
        begun, go, done = asyncio.Event(), asyncio.Event(), 0

        async def handler(body: bytes) -> Response:
            nonlocal done
            done += 1
            begun.set()
            await go.wait()
            return json_response(Status())

        async with client_of(lead_store, tenant, handler) as client:

            async def ask() -> int:
                return (await client.post("/write", content="{}", headers={"idempotency-key": "k"})).status_code

            first = asyncio.create_task(ask())
            await begun.wait()
            meanwhile = [await ask(), await ask()]
            go.set()
            return [*meanwhile, await first, await ask()], done

    assert asyncio.run(run()) == ([409, 409, 200, 200], 1)


def test_many_at_once_are_done_once(lead_store: SqlStore, tenant: str) -> None:
    handler = Counter()

    async def run() -> list[int]:
        async with client_of(lead_store, tenant, handler) as client:
            sent = (client.post("/write", content="{}", headers={"idempotency-key": "k"}) for _ in range(30))
            return [got.status_code for got in await asyncio.gather(*sent)]

    statuses = asyncio.run(run())
    assert set(statuses) <= {201, 409} and 201 in statuses
    assert len(handler.done) == 1


@pytest.mark.parametrize(
    ("age", "status", "expected"), [(23, 201, 418), (25, 201, 201), (0.01, None, 409), (0.1, None, 201)]
)
def test_an_answer_is_kept_for_a_day_and_a_dead_request_for_a_minute(
    lead_store: SqlStore, tenant: str, age: float, status: int | None, expected: int
) -> None:
    handler = Counter()
    send(lead_store, tenant, handler, ("k", "{}"))
    [kept] = lead_store.find(Idempotent, tenant)
    old = time.time_ns() // 1_000 - round(age * HOUR)
    aged = Idempotent(key="k", request=kept.request, created_at=old, status=status and 418, body='"first"')
    lead_store.put(tenant, [aged]).result()
    [got] = send(lead_store, tenant, handler, ("k", "{}"))
    assert got.status_code == expected
    asyncio.run(forget_old(lead_store))
    assert len(lead_store.find(Idempotent, tenant)) == 1
    lead_store.put(tenant, [Idempotent(key="old", request="", created_at=old - 2 * HOUR)]).result()
    asyncio.run(forget_old(lead_store))
    assert {each.key for each in lead_store.find(Idempotent, tenant)} == ({"k"} if age >= 23 else {"k", "old"})


def test_a_body_too_large_claims_nothing(lead_store: SqlStore, tenant: str) -> None:
    [got] = send(lead_store, tenant, Counter(), ("k", " " * 2_000))
    assert got.status_code == 413
    time.sleep(0.2)
    assert lead_store.find(Idempotent, tenant) == []


# --- work beside the requests


async def _beat_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.background._BEAT", 0.1)
    monkeypatch.setattr("serving.background._TERM", 0.6)


def test_a_job_runs_in_one_worker_at_its_times_and_moves_on(
    lead_store: SqlStore, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await _beat_fast(monkeypatch)
        # On a machine that is busy it must not end by itself.
        monkeypatch.setattr("serving.background._TERM", 60.0)
        ran: list[tuple[str, float]] = []

        def worker(name: str) -> Background:
            background = Background()

            async def work() -> None:
                ran.append((name, time.monotonic()))

            background.every(2.0, f"job of {tenant}", work)
            return background

        log = Log()
        async with worker("b").running(lead_store, log) as _, asyncio.timeout(30):
            while not ran:
                await asyncio.sleep(0.02)
            async with worker("a").running(lead_store, log):
                while len(ran) < 4:
                    await asyncio.sleep(0.02)
            assert {name for name, _ in ran} == {"b"}
            gaps = [after - before for (_, before), (_, after) in itertools.pairwise(ran)]
            assert min(gaps) > 1.6
        async with worker("a").running(lead_store, log), asyncio.timeout(30):
            # The lease was given back: the next does not wait for its end.
            while ran[-1][0] != "a":
                await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_job_that_fails_is_told_of_and_tried_again(
    lead_store: SqlStore, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> list[dict[str, Any]]:
        await _beat_fast(monkeypatch)
        tries, log, background = 0, Log(), Background()

        async def work() -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise KeyError("L-42")

        background.every(0.2, f"job of {tenant}", work)
        async with background.running(lead_store, log), asyncio.timeout(30):
            while len(log.waiting) < 2:
                await asyncio.sleep(0.02)
        return [json.loads(line) for line in log.waiting]

    failed, well, *_ = asyncio.run(run())
    assert (failed["level"], failed["error"], well["level"], well["event"]) == ("error", "KeyError", "info", "job")
    assert "L-42" not in repr(failed)


def test_long_work_keeps_its_lease_and_ends_with_the_service(
    lead_store: SqlStore, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await _beat_fast(monkeypatch)
        state, log = [], Log()

        async def long() -> None:
            state.append("begun")
            try:
                await asyncio.sleep(60)
            finally:
                state.append("ended")

        async def other() -> None:
            state.append("other")

        first, second = Background(), Background()
        first.every(0.2, f"job of {tenant}", long)
        second.every(0.2, f"job of {tenant}", other)
        async with first.running(lead_store, log):
            while not state:
                await asyncio.sleep(0.02)
            async with second.running(lead_store, log):
                await asyncio.sleep(1.5)
            assert state == ["begun"]
        assert state == ["begun", "ended"]

    asyncio.run(run())


@pytest.mark.parametrize("alone", [True, False])
def test_a_stop_waits_for_work_in_a_thread(lead_store: SqlStore, tenant: str, alone: bool) -> None:
    """What comes next closes the store."""
    state = []

    def work() -> None:
        state.append("begun")
        time.sleep(0.3)
        state.append("ended")
        raise KeyError("which nobody waits for any more")

    async def run() -> None:
        background = Background()
        (background.every if alone else background.each)(60, f"job of {tenant}", in_thread(work))
        async with background.running(lead_store, Log()), asyncio.timeout(30):
            while not state:
                await asyncio.sleep(0.02)
        assert state == ["begun", "ended"]

    asyncio.run(run())
