"""Receipts over SQLite and PostgreSQL: what was answered is answered again to the byte, or it is told why not."""

from __future__ import annotations

import asyncio
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partialmethod
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import scorer
from test_leads import until
from test_records import record_of
from test_serving import check_problem
from worlds import worlds

from features.errors import ModelError
from features.history import Cohort
from features.records import AttributeFact, LeadRecord, Touchpoint, dataset_of
from features.times import datetime_us, isoformat, to_datetime, to_us
from models import Tiers, load_bundle, save_bundle
from models.bundle import pack_bundle, replace_tiers, unpack_bundle
from serving import Settings, create_app
from serving.access import Open
from serving.archive import Archive
from serving.background import SYSTEM
from serving.metrics import Metrics
from serving.receipts import Receipts, forget_old
from serving.routes.leads import stored_answer
from serving.seen import digest, see
from serving.service import Service
from serving.store import (
    Alias,
    Bundle,
    Fact,
    Lead,
    Message,
    Outcome,
    Receipt,
    Served,
    StoredLead,
    StoreError,
    Touch,
    open_store,
)
from serving.store.rows import ReadOutcome
from serving.together import score_records

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serving.store import Row, SqlStore

DAY = 86_400_000_000
BORN = to_us("2026-01-01T00:00:00Z")
KINDS = (("email", "click"), ("email", "open"), ("website", "visit"), ("call", None), ("demo", "attend"))
BODY = {
    "lead_id": " L-42 ", "created_at": "2026-10-01T09:00:00Z", "attributes": {"industry": "cleaning", "employees": 40},
    "touchpoints": [{"occurred_at": "2026-10-12T14:00:00+02:00", "channel": "Demo", "action": "attend"}],
}  # fmt: skip


def now() -> int:
    return time.time_ns() // 1_000


def said(*rows: Row, recorded: int | None = None) -> list[Message]:
    return [Message(rows=(row,), recorded_at=recorded) for row in rows]


def touches(lead: str, count: int, since: int, seed: int = 0) -> list[Row]:
    """Touches of every kind in the 30 days from an instant on."""
    rng = np.random.default_rng(seed)
    days, kinds = rng.random(count) * 30, rng.integers(len(KINDS), size=count)
    return [Touch(lead, since + int(d * DAY), *KINDS[k]) for d, k in zip(days, kinds, strict=True)]


def fill(store: SqlStore, tenant: str, touched: int = 40) -> None:
    """A lead with all that one can have, its other id, and one that was lost."""
    rows = [Lead("a", BORN, {"industry": "software", "employees": 40.0}), *touches("a", touched, BORN)]
    rows += [Fact("a", BORN + 3 * DAY, "employees", 90.0), Touch("anon", BORN + DAY, "website", "visit")]
    rows += [Alias("anon", "a", BORN + 2 * DAY), Lead("lost", BORN), Outcome("lost", BORN + 9 * DAY, False)]
    store.write(tenant, said(*rows, recorded=BORN + 35 * DAY)).result()


class Answered(msgspec.Struct):
    """What a replay says."""

    receipt: str
    scored_at: datetime
    replayed: bool
    bundle: str
    answer: msgspec.Raw


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 3, each another kind of model."""
    folder = tmp_path_factory.mktemp("bundles")
    for version, kind in (("1", "lightgbm"), ("2", "logistic"), ("3", "naive_bayes")):
        one = scorer(kind)
        save_bundle(replace(one, card=msgspec.structs.replace(one.card, version=version)), folder / version)
    return folder


@pytest.fixture
def models(bundles: Path, tmp_path: Path) -> Path:
    """A folder of one's own with these versions, and the link to the one that serves."""
    shutil.copytree(bundles, tmp_path / "models")
    (tmp_path / "models" / "champion").symlink_to("1")
    return tmp_path / "models"


class Client:
    """Calls a service that runs in this process, with its work in the background."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(self._ask(method, path, **more), self._loop).result(60)

    get = partialmethod(ask, "GET")
    post = partialmethod(ask, "POST")
    delete = partialmethod(ask, "DELETE")

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **more)

    async def _serve(self, begun: Event, done: asyncio.Event) -> None:
        async with self._app.router.lifespan_context(self._app):
            begun.set()
            await done.wait()

    @contextmanager
    def open(self) -> Iterator[Client]:
        begun, done = Event(), asyncio.Event()
        with closing(self._loop), ThreadPoolExecutor(1) as thread:
            served = thread.submit(self._loop.run_until_complete, self._serve(begun, done))
            assert begun.wait(120)
            try:
                yield self
            finally:
                self._loop.call_soon_threadsafe(done.set)
                served.result(30)


@contextmanager
def running(database: str, tenant: str, models: Path) -> Iterator[Client]:
    options = Settings(model=models / "champion", sweep_seconds=86_400)
    app = create_app(load_bundle(options.model), open_store(database), options, Open(tenant))
    with Client(app).open() as client:
        yield client


def replayed(client: Client, given: httpx.Response) -> None:
    """Checks that an answer comes again, to the byte."""
    assert given.status_code == 200, given.text
    again = client.get(f"/v1/receipts/{given.json()['receipt']}")
    assert again.status_code == 200, again.text
    told = msgspec.json.decode(again.content, type=Answered)
    assert told.replayed and told.receipt == given.json()["receipt"]
    assert bytes(told.answer) == given.content


def differs(client: Client, given: httpx.Response, says: str) -> None:
    """Checks that an answer is told as it was given, and why it does not come again."""
    again = client.get(f"/v1/receipts/{given.json()['receipt']}")
    assert again.status_code == 409 and again.headers["content-type"] == "application/problem+json"
    assert says in again.json()["detail"]
    assert bytes(msgspec.json.decode(again.content, type=dict[str, msgspec.Raw])["answer"]) == given.content


# --- what replays


def test_answers_replay_to_the_byte_whatever_came_since(database: str, tenant: str, models: Path) -> None:
    with closing(open_store(database)) as store:
        fill(store, tenant)
    with running(database, tenant, models) as client, closing(open_store(database)) as store:
        ask = [("a", {}), ("a", {"reasons": 3}), ("a", {"reasons": 5, "as_of": isoformat(BORN + 12 * DAY)})]
        ask += [("lost", {"reasons": 1}), ("anon", {})]
        answers = [client.get(f"/v1/leads/{lead}/score", params=query) for lead, query in ask]
        answers += [client.post(f"/v1/score?receipt=true&reasons={count}", json=BODY) for count in (0, 3)]
        for given in answers:
            # At once, when they may not have been written.
            replayed(client, given)
        assert [one.json()["model"]["version"] for one in answers] == ["1"] * 7
        assert len({one.json()["receipt"] for one in answers}) == 7
        assert len(answers[1].json()["reasons"]) == 3
        # 10,000 further touches, some of which tell of the past.
        for lead, seed in (("a", 1), ("other", 2)):
            store.write(tenant, said(*touches(lead, 5_000, BORN, seed))).result()
        store.write(tenant, said(Outcome("a", BORN + DAY, True), Fact("a", BORN + DAY, "industry", "retail"))).result()
        assert client.get("/v1/leads/a/score").json()["digest"] != answers[0].json()["digest"]
        # Three other models, the last with other tiers, and one that is no more in its folder.
        for version in ("2", "3", "2"):
            assert client.post("/v1/model/reload", json={"version": version}).status_code == 200
            answers += [client.get("/v1/leads/a/score", params={"reasons": 2})]
            for given in answers:
                replayed(client, given)
        assert [one.json()["model"]["version"] for one in answers[7:]] == ["2", "3", "2"]
    shutil.rmtree(models / "1")
    (models / "champion").unlink()
    (models / "champion").symlink_to("3")
    replace_tiers(models / "3", Tiers(version="mine", warm=0.0, hot=0.0))
    with running(database, tenant, models) as client:
        answers += [client.get("/v1/leads/a/score")]
        assert (answers[-1].json()["tiers"], answers[-1].json()["tier"]) == ("mine", "hot")
        for given in answers:
            replayed(client, given)


def test_changes_tell_what_another_model_did(tmp_path: Path, tenant: str, models: Path) -> None:
    # Of its own, for which model served when is the same for all tenants.
    database = f"sqlite:///{tmp_path / 't.db'}"
    with closing(open_store(database)) as store:
        fill(store, tenant)
    with running(database, tenant, models) as client, closing(open_store(database)) as store:
        # That a model serves is noted a moment after the start.
        until(lambda: [one.version for one in store.find(Served, SYSTEM, order="-at", limit=1)] == ["1"])
        before = client.get("/v1/leads/a/score").json()
        assert client.post("/v1/model/reload", json={"version": "2"}).status_code == 200
        found = client.get("/v1/leads/a/changes", params={"since": before["as_of"]}).json()
        after = client.get("/v1/leads/a/score", params={"as_of": found["as_of"]}).json()
    assert (found["model_before"], found["model"]) == (before["model"], after["model"])
    assert (found["before"]["probability"], found["after"]["probability"]) == (
        before["probability"],
        after["probability"],
    )
    assert [part["cause"] for part in found["parts"]] == ["cooling", "model"]
    assert found["parts"][1]["effect"] == pytest.approx(after["probability"] - before["probability"], abs=1e-3)
    assert sum(part["effect"] for part in found["parts"]) == pytest.approx(found["change"], abs=1e-9)


def test_a_worker_replays_what_another_one_answered_just_now(database: str, tenant: str, models: Path) -> None:
    with running(database, tenant, models) as one, running(database, tenant, models) as two:
        with closing(open_store(database)) as store:
            fill(store, tenant)
        for _ in range(5):
            replayed(two, one.get("/v1/leads/a/score"))


def test_a_write_that_was_on_its_way_was_not_seen(database: str, tenant: str, models: Path) -> None:
    """It is stamped before it is on disk, so an answer in between has not seen what it would now count."""
    with running(database, tenant, models) as client, closing(open_store(database)) as store:
        fill(store, tenant)
        given = client.get("/v1/leads/a/score")
        at = to_us(given.json()["as_of"])
        for late in (2_000, 1_000):
            store.write(tenant, said(Touch("a", at - 2_000, "demo", str(late)), recorded=at - late)).result()
        replayed(client, given)
        # What came in long before it was there to be seen.
        store.write(tenant, said(Touch("a", at - 60_000_000, "demo", "early"), recorded=at - 60_000_000)).result()
        differs(client, given, "the past was loaded")


@pytest.mark.parametrize(
    "row",
    [
        Touch("a", BORN + DAY, "demo", "attend"),
        Fact("a", BORN + DAY, "industry", "retail"),
        Outcome("a", BORN + DAY, True),
        Alias("newer", "a", BORN + DAY),
    ],
    ids=lambda row: type(row).__name__,
)  # fmt: skip
def test_a_past_that_was_loaded_since_is_told(row: Row, database: str, tenant: str, models: Path) -> None:
    with running(database, tenant, models) as client, closing(open_store(database)) as store:
        fill(store, tenant)
        store.write(tenant, said(Touch("newer", BORN + DAY, "call"), recorded=BORN + DAY)).result()
        given = client.get("/v1/leads/a/score", params={"reasons": 2})
        replayed(client, given)
        store.write(tenant, said(row, recorded=BORN + DAY)).result()
        differs(client, given, "the past was loaded")


def test_an_answer_that_comes_out_otherwise_is_told(database: str, tenant: str, models: Path) -> None:
    """As on a machine that computes otherwise: here the answer that was given is another one."""
    with running(database, tenant, models) as client, closing(open_store(database)) as store:
        fill(store, tenant)
        given = client.get("/v1/leads/a/score")
        (kept,) = until(lambda: store.find(Receipt, tenant))
        # One of an older version, which had less to say.
        less = msgspec.json.encode({name: value for name, value in given.json().items() if name != "interval"}).decode()
        store.put(tenant, [msgspec.structs.replace(kept, answer=less)]).result()
        replayed(client, httpx.Response(200, text=less))
        other = given.text.replace('"score":', '"score":1')
        assert other != given.text
        store.put(tenant, [msgspec.structs.replace(kept, answer=other)]).result()
        differs(client, httpx.Response(200, text=other), "It comes out otherwise here")


def test_a_model_that_is_not_kept_is_told(database: str, tenant: str, models: Path) -> None:
    with closing(open_store(database)) as store:
        fill(store, tenant)
    with running(database, tenant, models) as client:
        given = client.get("/v1/leads/a/score")
        replayed(client, given)
    (models / "champion").unlink()
    (models / "champion").symlink_to("2")
    with running(database, tenant, models) as client, closing(open_store(database)) as store:
        (kept,) = store.find(Bundle, SYSTEM, {"digest": load_bundle(models / "1").digest})
        store.remove(Bundle, SYSTEM, {"digest": kept.digest}).result()
        differs(client, given, "not kept any more")
        store.put(SYSTEM, [msgspec.structs.replace(kept, packed=pack_bundle(models / "2"))]).result()
        differs(client, given, "is another one")
        store.put(SYSTEM, [kept]).result()
        replayed(client, given)


# --- answers from a body


def test_an_answer_from_a_body_has_a_receipt_if_asked(tmp_path: Path, tenant: str, models: Path) -> None:
    with running(f"sqlite:///{tmp_path / 'x.db'}", tenant, models) as client:
        plain = client.post("/v1/score", json=BODY | {"as_of": "2026-11-01T00:00:00Z"}).json()
        asked = client.post("/v1/score?receipt=true", json=BODY | {"as_of": "2026-11-01T01:00:00+01:00"})
        assert plain["receipt"] is None and asked.json() == plain | {"receipt": asked.json()["receipt"]}
        replayed(client, asked)
        # What is not seen is not in the digest; what is, is.
        later = BODY["touchpoints"] + [{"occurred_at": "2026-11-01T00:00:00Z", "channel": "call"}]  # type: ignore[operator]
        for as_of, same in (("2026-11-01T00:00:00Z", True), ("2026-11-01T00:00:01Z", False)):
            other = client.post("/v1/score", json=BODY | {"as_of": as_of, "touchpoints": later}).json()
            assert (other["digest"] == plain["digest"]) is same
        check_problem(client.post("/v1/score?receipt=maybe", json=BODY), 422, "receipt", "got 'maybe'. Ask for true")
        check_problem(client.post("/v1/score?receipt=true", json=BODY | {"lead_id": " "}), 422, "lead_id", "Give 1 to")
        many = client.post("/v1/score/bulk", json={"leads": [BODY]}).json()["scores"][0]
        assert (many["digest"], many["receipt"]) == (None, None)


# --- whose they are, and how they go


def test_a_receipt_of_another_tenant_is_not_known(database: str, tenant: str, models: Path) -> None:
    with closing(open_store(database)) as store:
        fill(store, tenant)
        fill(store, "other-" + tenant)
    with running(database, tenant, models) as one, running(database, "other-" + tenant, models) as two:
        given = one.get("/v1/leads/a/score")
        name = given.json()["receipt"]
        old = f"{now() - 3_600_000_000:014x}{name[14:]}"
        for client, wrong in ((one, old), (one, "%00"), (one, "a b"), (one, "zz"), (one, "é")):
            check_problem(client.get(f"/v1/receipts/{wrong}"), 404, None, "is not known: it is older than 400 days")
        check_problem(two.get(f"/v1/receipts/{name}"), 404, None, "is not known")
        replayed(one, given)


def test_the_receipts_of_a_deleted_person_go(database: str, tenant: str, models: Path) -> None:
    with closing(open_store(database)) as store:
        fill(store, tenant)
        store.write(tenant, said(Lead("L-42", BORN))).result()
    with running(database, tenant, models) as client, closing(open_store(database)) as store:
        stay = client.get("/v1/leads/lost/score")
        gone = [client.get(f"/v1/leads/{lead}/score") for lead in ("a", "anon", "L-42")]
        gone += [client.post("/v1/score?receipt=true", json=BODY)]
        for lead in ("anon", "L-42"):
            assert client.delete(f"/v1/leads/{lead}").status_code == 200
        for given in gone:
            check_problem(client.get(f"/v1/receipts/{given.json()['receipt']}"), 404, None, "not known|was deleted")
        assert [one.lead_id for one in store.find(Receipt, tenant)] == ["lost"]
        replayed(client, stay)


def test_a_receipt_that_comes_after_its_person_went_is_not_kept(lead_store: SqlStore, tenant: str) -> None:
    """As another worker may delete the lead while this one's receipts wait."""
    fill(lead_store, tenant)
    receipts = Receipts(lead_store, Metrics())
    names = give(receipts, lead_store, tenant, ("a", "lost", "a"))
    lead_store.delete(tenant, "a").result()
    assert [receipts.find_waiting(tenant, name) is not None for name in names] == [True] * 3
    asyncio.run(receipts.flush())
    assert [receipts.find_waiting(tenant, name) for name in names] == [None] * 3
    assert [one.id for one in lead_store.find(Receipt, tenant)] == [names[1]]


def test_what_is_being_written_is_not_written_again_after_a_deletion(
    lead_store: SqlStore, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion writes what waits first; were a write of the same under way, it could come after the deletion."""
    fill(lead_store, tenant)
    receipts, puts = Receipts(lead_store, Metrics()), list[Future[None]]()
    give(receipts, lead_store, tenant, ("a", "lost"))

    def slow(*_: object) -> Future[None]:
        puts.append(Future())
        return puts[-1]

    monkeypatch.setattr(lead_store, "put", slow)

    async def both() -> None:
        first = asyncio.create_task(receipts.flush())
        second = asyncio.create_task(receipts.flush())
        await asyncio.sleep(0.05)
        assert len(puts) == 1 and not first.done() and not second.done()
        puts[0].set_result(None)
        await asyncio.gather(first, second)

    asyncio.run(both())
    assert len(puts) == 1


def give(receipts: Receipts, store: SqlStore, tenant: str, leads: Sequence[str]) -> list[str]:
    """Answers about leads; returns the ids of the receipts."""
    model = replace(scorer("logistic"), digest="of-a-bundle")
    names = []
    for name in leads:
        lead = store.read(tenant, name)
        assert lead is not None
        now = datetime.now(UTC)
        (score,) = score_records(model, [lead.record], [now])
        answer = stored_answer(score, lead, now)
        names.append(msgspec.json.decode(receipts.give(tenant, model, answer, 0, name))["receipt"])
    return names


def test_receipts_wait_for_a_store_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    fill(store, "t")
    metrics = Metrics()
    receipts = Receipts(store, metrics)
    names = give(receipts, store, "t", ("a", "lost"))
    monkeypatch.setattr("serving.receipts._MOST", 2)
    assert give(receipts, store, "t", ("a",)) == [None]
    store.close()
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(receipts.flush())
    assert all(receipts.find_waiting("t", name) for name in names)
    figures = metrics.text(None).decode()
    assert "touchstone_receipts_lost_total 1.0" in figures and "touchstone_store_errors_total 1.0" in figures
    with closing(open_store(f"sqlite:///{tmp_path / 'x.db'}")) as again:
        receipts._store = again
        asyncio.run(receipts.flush())
        assert [one.id for one in again.find(Receipt, "t")] == names


def test_a_stop_writes_what_waits(tmp_path: Path, tenant: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.app._SOON", 3_600)
    database = f"sqlite:///{tmp_path / 'x.db'}"
    with closing(open_store(database)) as store:
        fill(store, tenant)
        with running(database, tenant, models) as client:
            given = [client.get("/v1/leads/a/score") for _ in range(20)]
            assert not store.find(Receipt, tenant)
        assert [one.id for one in store.find(Receipt, tenant)] == [one.json()["receipt"] for one in given]


def test_old_receipts_go_and_then_the_models_that_nothing_names(database: str, tenant: str, models: Path) -> None:
    options = Settings(model=models / "champion", receipt_days=10)
    with closing(open_store(database)) as store:
        fill(store, tenant)
        store.remove(Served, SYSTEM).result()
        for other in store.tenants():
            store.remove(Receipt, other).result()
        service = Service(load_bundle(models / "1"), store, Open(tenant), options)
        digests = [load_bundle(models / version).digest for version in ("1", "2", "3")]
        for version in ("1", "2", "3"):
            service.archive.keep(models / version, load_bundle(models / version))
        service.scorer = load_bundle(models / "3")
        (end,) = [row.at for row in store.find(Served, SYSTEM) if row.bundle == digests[2]]
        first = Receipt(
            id="1", lead_id="a", stored="a", scored_at=end - 1, as_of=BORN, bundle=digests[0], tiers="{}", reasons=0,
            digest="", answer="{}",
        )  # fmt: skip
        store.put(tenant, [first, msgspec.structs.replace(first, id="2", scored_at=end + DAY)]).result()

        def left(after: int) -> tuple[int, list[str], list[bool]]:
            """What is there when 10 days and so long have passed since the last model took over."""
            gone = forget_old(service, Event(), end + 10 * DAY + after)
            kept = {one.digest for one in store.find(Bundle, SYSTEM)}
            return gone, [one.id for one in store.find(Receipt, tenant)], [one in kept for one in digests]

        assert left(-10 * DAY) == (0, ["1", "2"], [True, True, True])
        # The second served until the third did; the first is named by a receipt.
        assert left(0) == (1, ["2"], [True, True, True])
        assert left(1) == (0, ["2"], [True, False, True])
        assert left(2 * DAY) == (1, [], [False, False, True])
        assert left(900 * DAY) == (0, [], [False, False, True])


# --- the archive


def test_the_model_of_any_time_is_known(database: str, models: Path) -> None:
    with closing(open_store(database)) as store:
        store.remove(Served, SYSTEM).result()
        archive, times = Archive(store), [now()]
        for version in ("1", "2", "3", "1"):
            if version == "3":
                replace_tiers(models / "3", Tiers(version="mine", warm=0.1, hot=0.2))
            for _ in range(2):
                archive.keep(models / version, load_bundle(models / version))
            times.append(now())
        assert len(store.find(Served, SYSTEM)) == 4
        for one in (archive, Archive(store)):
            found = [one.scorer_at(at) for at in times]
            assert found[0] is None
            assert [each.card.version for each in found[1:] if each] == ["1", "2", "3", "1"]
            assert found[3] and found[3].tiers == Tiers(version="mine", warm=0.1, hot=0.2)
        # Another worker that begins with the same says nothing new.
        Archive(store).keep(models / "1", load_bundle(models / "1"))
        assert len(store.find(Served, SYSTEM)) == 4
        assert archive.scorer("nothing") is None


def test_a_model_without_a_bundle_gives_no_receipts(tmp_path: Path, tenant: str) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    fill(store, tenant)
    app = create_app(scorer("logistic"), store, Settings(model=tmp_path / "none"), Open(tenant))
    with Client(app).open() as client:
        assert client.get("/v1/leads/a/score").json()["receipt"] is None
        assert client.get("/v1/model").json()["problem"] is None
        assert not store.find(Bundle, SYSTEM)


def test_a_packed_bundle_is_the_same_bundle(bundles: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    unpack_bundle(pack_bundle(bundles / "1"), one)
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {
        p.name: p.read_bytes() for p in (bundles / "1").iterdir()
    }
    assert load_bundle(one).digest == load_bundle(bundles / "1").digest != load_bundle(bundles / "2").digest
    replace_tiers(one, Tiers(version="mine", warm=0.1, hot=0.2))
    assert load_bundle(one).digest == load_bundle(bundles / "1").digest
    for wrong in (b"", b"x" * 100, pack_bundle(one)[:-9], zlib.compress(b'{"../x": ""}')):
        with pytest.raises(ModelError, match="no bundle"):
            unpack_bundle(wrong, two)
    assert not [*two.iterdir()]


# --- what was seen


def test_a_digest_stays_what_it_is() -> None:
    """Another one for the same lead would make receipts that were given say that the past was written anew."""
    record = LeadRecord(
        lead_id="L-42", created_at=to_datetime(BORN), attributes={"size": 1.5, "industry": "retail"},
        attribute_facts=(AttributeFact(to_datetime(BORN + DAY), "size", 2.0),),
        touchpoints=(Touchpoint(to_datetime(BORN + 1), "email", "click", None, to_datetime(BORN + 2), "api:m"),),
    )  # fmt: skip
    lead = StoredLead(record, (ReadOutcome(BORN + 3, BORN + 4, True, 9.5),), "L-1", BORN + 5)
    assert digest(lead) == "blake2b:332b8602cf2ef94bb177a9789c9e9161"
    assert digest(
        StoredLead(msgspec.structs.replace(record, attributes=dict(reversed(record.attributes.items()))))
    ) == (digest(StoredLead(record)))


@given(world=worlds, day=st.floats(0, 200), data=st.data())
def test_a_score_follows_from_what_was_seen(world: Any, day: float, data: st.DataObject) -> None:
    """Whatever else is known, and in whatever order it was read."""
    record = record_of("a", world[0])
    assert record.created_at is not None
    as_of = datetime_us(record.created_at) + 1 + int(day * DAY)
    lead = StoredLead(record)
    seen = see(lead, as_of)
    model, cohort = scorer("lightgbm"), Cohort.at([0], as_of)
    scores = [model.score(dataset_of([one.record]), cohort, reasons=3) for one in (lead, seen)]
    assert scores[0].probability.tolist() == scores[1].probability.tolist()
    assert scores[0].reasons == scores[1].reasons
    assert see(seen, as_of) is seen
    shuffled = msgspec.structs.replace(
        record,
        touchpoints=tuple(data.draw(st.permutations(record.touchpoints))),
        attribute_facts=tuple(data.draw(st.permutations(record.attribute_facts))),
        attributes=dict(reversed(record.attributes.items())),
    )
    assert digest(see(StoredLead(shuffled), as_of)) == digest(seen)
    for k in range(len(seen.record.touchpoints)):
        fewer = seen.record.touchpoints[:k] + seen.record.touchpoints[k + 1 :]
        assert digest(StoredLead(msgspec.structs.replace(seen.record, touchpoints=fewer))) != digest(seen)
