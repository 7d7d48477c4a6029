"""Stored leads over HTTP: their scores at any time, and the ranking that a sweep keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from test_serving import check_problem
from trained import Trained, serving

from features.times import isoformat, to_us
from models import TIERS, load_bundle
from models.tiers import Tiers
from serving.access import Open
from serving.pages import cursor_of
from serving.policy import Cuts, Policy, Worth, set_policy
from serving.service import Service
from serving.settings import Settings
from serving.store import Alias, Fact, Lead, ListedScore, Message, Outcome, Setting, Touch, open_store
from serving.sweep import last_sweep, sweep_tenant

if TYPE_CHECKING:
    from serving.store import Row, SqlStore

DAY = 86_400_000_000
BORN = to_us("2026-01-01T00:00:00Z")
LEADS = 40


def said(*rows: Row, recorded: int | None = None) -> list[Message]:
    return [Message(rows=(row,), recorded_at=BORN if recorded is None else recorded) for row in rows]


def write(store: SqlStore, tenant: str) -> None:
    """Open leads, three of which share whatever is listed of them; one that is lost, one won and one merged."""
    for k in range(LEADS):
        name = f"L-{k:02d}"
        more = {"amount": 100.0 * (k % 7)} if k % 3 == 0 else {}
        rows = [Lead(name, BORN, {"industry": "software", "size": k // 3 / 10, **more})]
        rows += [Touch(name, BORN + (j + 1) * DAY, "website", "pricing", None) for j in range(k // 3)]
        store.write(tenant, said(*rows)).result()
    store.write(tenant, said(*(Lead(name, BORN) for name in ("lost", "won", "merged")))).result()
    store.write(tenant, said(Outcome("lost", BORN + 3 * DAY, False), recorded=BORN + 5 * DAY)).result()
    store.write(tenant, said(Outcome("won", BORN + 3 * DAY, True, 9.0), Outcome("won", BORN + 9 * DAY, False))).result()
    store.write(tenant, said(Alias("merged", "L-00", BORN + 4 * DAY))).result()


@pytest.fixture
def service(trained: Trained, lead_store: SqlStore) -> Service:
    return Service(load_bundle(trained.bundle), lead_store, Open(), Settings(average_deal=50))


@contextmanager
def running(trained: Trained, database: str, monkeypatch: pytest.MonkeyPatch, seconds: str = "1") -> Iterator[Any]:
    monkeypatch.setenv("TOUCHSTONE_SWEEP_SECONDS", seconds)
    monkeypatch.setenv("TOUCHSTONE_AVERAGE_DEAL", "50")
    with (
        serving(trained.bundle, "--database", database) as (_, address),
        httpx.Client(base_url=address, timeout=300) as client,
    ):
        yield client


def until(what: Callable[[], Any], seconds: float = 120) -> Any:
    """Waits for something that happens in the background."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.05)
    return found


def clear(database: str) -> None:
    """The server of these tests is of one tenant, and databases of PostgreSQL are shared."""
    with closing(open_store(database)) as store:
        for name in [lead.record.lead_id for page in store.stream("default") for lead in page]:
            store.delete("default", name).result()
        store.remove(Setting, "default").result()


def test_a_stored_lead_is_scored_as_of_any_time(
    trained: Trained, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear(database)
    with closing(open_store(database)) as store:
        write(store, "default")
        store.write("default", said(Lead("a/b ü", BORN))).result()
        store.write("default", said(Fact("L-09", BORN + 20 * DAY, "size", 4.0), recorded=BORN + 20 * DAY)).result()
    with running(trained, database, monkeypatch) as client:

        def score(name: str, day: float | None = None, **more: Any) -> Any:
            asked = {} if day is None else {"as_of": isoformat(BORN + round(day * DAY))}
            return client.get(f"/v1/leads/{name}/score", params={**asked, **more})

        body = {
            "lead_id": "L-09", "created_at": isoformat(BORN), "as_of": isoformat(BORN + 3 * DAY),
            "attributes": {"industry": "software", "size": 0.3, "amount": 200},
            "touchpoints": [
                {"occurred_at": isoformat(BORN + (j + 1) * DAY), "channel": "website", "action": "pricing"}
                for j in range(3)
            ],
        }  # fmt: skip
        for reasons in (0, 3):
            alone = client.post(f"/v1/score?reasons={reasons}", json=body).json()
            stored = score("L-09", 3, reasons=reasons).json()
            # A digest is of the documents, and one says a touch's times and words as they came.
            own = {"open": True, "outcome": None, "same_as": None}
            assert stored == {**alone, **own, "digest": stored["digest"], "receipt": stored["receipt"]}
        # The past stays what it was; what became known since then counts from then on.
        days = [score("L-09", day).json()["probability"] for day in (3, 4, 20, 20.00001)]
        assert len({*days}) == 4
        before = time.time()
        now = score("L-09").json()
        assert before - 1 < to_us(now["as_of"]) / 1e6 < time.time() + 1

        # Closed and merged leads are scored, and say so, from when it was known.
        state = {
            (name, day): tuple(score(name, day).json()[field] for field in ("open", "outcome", "same_as"))
            for name in ("lost", "won", "merged")
            for day in (1, 4, 4.00001, 5.00001, 10)
        }
        assert {day: state["lost", day] for day in (1, 4.00001, 5.00001)} == {
            1: (True, None, None), 4.00001: (True, None, None), 5.00001: (False, "lost", None)
        }  # fmt: skip
        assert (state["won", 1], state["won", 4], state["won", 10]) == (
            (True, None, None), (False, "won", None), (False, "won", None)
        )  # fmt: skip
        assert (state["merged", 4], state["merged", 4.00001]) == ((True, None, None), (False, None, "L-00"))

        assert score("a%2Fb%20%C3%BC").json()["lead_id"] == "a/b ü"
        assert client.get("/v1/leads/L-09/score?as_of=2026-01-04T01:00:00+01:00").json()["probability"] == days[0]
        check_problem(score("nobody"), 404, None, "Lead 'nobody' is not known. Send its touchpoints first")
        check_problem(score("%00"), 422, "lead_id", "holds NUL")
        check_problem(score("L-09", 0), 422, "as_of", "is not after 2026-01-01.*no lead yet. Ask about a later time")
        check_problem(score("L-09", 3, reasons=6), 422, "reasons", "Ask for 0 to 5")
        for wrong in ("", "soon", "2026-01-04", "2026-01-04T00:00:00", "0001-01-01T00:00:00+23:00"):
            problem = client.get("/v1/leads/L-09/score", params={"as_of": wrong})
            check_problem(problem, 422, "as_of", "Write ISO 8601|Send one of them")


def test_the_ranking_in_pages(trained: Trained, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clear(database)
    with closing(open_store(database)) as store:
        write(store, "default")
        store.write("other", said(Lead("stranger", BORN))).result()
    with running(trained, database, monkeypatch, seconds="300") as client:
        until(lambda: client.get("/v1/leads").json()["as_of"])
        for sort in ("", "-expected_value", "expected_value", "-probability", "probability"):
            check_pages(client, sort)


def check_pages(client: httpx.Client, sort: str) -> None:
    query = {"sort": sort} if sort else {}
    whole = client.get("/v1/leads", params={**query, "limit": 1_000}).json()
    rows = whole["leads"]
    assert {row["lead_id"] for row in rows} == {f"L-{k:02d}" for k in range(LEADS)}
    assert whole["cursor"] is whole["next"] is None
    assert 0 <= whole["age_seconds"] < 60
    key, sign = sort.removeprefix("-") or "expected_value", 1 if sort in ("expected_value", "probability") else -1
    values = [sign * row[key] for row in rows]
    assert values == sorted(values)
    assert len({*values}) < len(values)  # ties
    for row in rows:
        score = client.get(f"/v1/leads/{row['lead_id']}/score", params={"as_of": row["as_of"]}).json()
        same = ("lead_id", "probability", "score", "tier", "route", "as_of")
        assert {name: row[name] for name in same} == {name: score[name] for name in same}
        k = int(row["lead_id"][2:])
        own = 100.0 * (k % 7) if k % 3 == 0 and k % 7 else None
        assert row["amount"] == own
        assert row["expected_value"] == row["probability"] * (own or 50)
        assert row["as_of"] == whole["as_of"]

    # Pages of any size show each lead once, in the same order; the address of the next one leads on.
    seen, page = [], client.get("/v1/leads", params={**query, "limit": 7}).json()
    while True:
        seen += page["leads"]
        if not page["next"]:
            break
        by_cursor = client.get("/v1/leads", params={**query, "limit": 7, "cursor": page["cursor"]}).json()
        page = client.get(page["next"]).json()
        assert page["leads"] == by_cursor["leads"]
    assert seen == rows
    for tier in TIERS:
        found = client.get("/v1/leads", params={**query, "tier": tier}).json()["leads"]
        assert found == [row for row in rows if row["tier"] == tier]


def test_a_listing_that_cannot_be(server: httpx.Client, service: Service, tenant: str) -> None:
    for name, value, says in (
        ("tier", "tepid", "Ask for cold, warm, hot"), ("sort", "name", "Ask for one of -expected_value"),
        ("limit", "0", "Ask for 1 to 1,000"), ("limit", "1001", "Ask for 1 to 1,000"), ("limit", "many", "Ask for 1"),
        ("limit", "9" * 5_000, "Ask for 1"), ("cursor", "", "no cursor"), ("cursor", "?", "no cursor"),
        ("cursor", "WzFd", "no cursor"), ("cursor", "ü" * 300, "no cursor"),
        ("cursor", cursor_of((tenant, "", "-expected_value", 0.5, "L\0")), "no cursor"),
    ):  # fmt: skip
        check_problem(server.get("/v1/leads", params={name: value}), 422, name, says)
    empty = server.get("/v1/leads").json()
    assert (empty["leads"], empty["cursor"]) == ([], None)


def test_a_cursor_of_another_listing_is_refused(
    trained: Trained, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear(database)
    with closing(open_store(database)) as store:
        write(store, "default")
    with running(trained, database, monkeypatch) as client:
        until(lambda: client.get("/v1/leads").json()["as_of"])
        cursor = client.get("/v1/leads", params={"limit": 1}).json()["cursor"]
        for other in ({"sort": "probability"}, {"tier": "cold"}):
            answer = client.get("/v1/leads", params={"cursor": cursor, **other})
            check_problem(answer, 422, "cursor", "of another listing")
        assert client.get("/v1/leads", params={"cursor": cursor, "sort": "-expected_value"}).status_code == 200


def test_the_ranking_follows_what_happens(trained: Trained, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clear(database)
    with closing(open_store(database)) as store, running(trained, database, monkeypatch) as client:

        def listed() -> set[str]:
            return {row["lead_id"] for row in client.get("/v1/leads").json()["leads"]}

        assert listed() == set()
        write(store, "default")
        everybody = {f"L-{k:02d}" for k in range(LEADS)}
        until(lambda: listed() == everybody)
        store.write("default", said(Outcome("L-01", BORN + DAY, True), Alias("L-02", "L-03", BORN + DAY))).result()
        store.delete("default", "L-04").result()
        until(lambda: listed() == everybody - {"L-01", "L-02", "L-04"})


def test_a_listed_tier_is_left_below_its_exit_only(service: Service, tenant: str) -> None:
    store, scorer = service.store, service.scorer
    write(store, tenant)  # type: ignore[arg-type]
    sweep_tenant(service, tenant, Event())
    first = {row.lead_id: row for row in store.find(ListedScore, tenant)}
    chances = np.array(sorted(row.probability for row in first.values()))
    # Cut-offs just above some leads: those that were hot stay so, those that were not do not become so.
    cut = float(chances[len(chances) // 2])
    policy = Tiers(version="x", warm=cut / 1.3, hot=cut / 1.2, exit=1.25)
    object.__setattr__(scorer, "tiers", policy)
    sweep_tenant(service, tenant, Event())
    second = {row.lead_id: row.tier for row in store.find(ListedScore, tenant)}
    tighter = Tiers(version="y", warm=cut * 1.001 / 1.3, hot=cut * 1.001, exit=1.25)
    object.__setattr__(scorer, "tiers", tighter)
    sweep_tenant(service, tenant, Event())
    third = {row.lead_id: row.tier for row in store.find(ListedScore, tenant)}
    stayed = [name for name, row in first.items() if cut * 1.001 / 1.25 <= row.probability < cut * 1.001]
    assert stayed and {third[name] for name in stayed if second[name] == "hot"} == {"hot"}
    assert any(second[name] == "hot" for name in stayed)
    # Without a tier before, the same probability is not hot.
    store.remove(ListedScore, tenant).result()
    sweep_tenant(service, tenant, Event())
    anew = {row.lead_id: row.tier for row in store.find(ListedScore, tenant)}
    assert {anew[name] for name in stayed} == {"warm"}


def test_amounts_are_the_last_known_and_the_tenant_may_say_what_a_deal_brings(service: Service, tenant: str) -> None:
    store = service.store
    ago = time.time_ns() // 1_000 - DAY
    amounts: dict[str, Any] = {
        "number": 300.0, "text": "4e2", "word": "much", "zero": 0.0, "below": -5.0, "flag": True, "none": None
    }  # fmt: skip
    for name, amount in amounts.items():
        store.write(tenant, said(Lead(name, BORN, {"Amount": amount} if amount is not None else {}))).result()
    store.write(tenant, said(Lead("later", BORN, {"amount": 1.0}), Fact("later", ago, "AMOUNT", 70.0))).result()
    store.write(tenant, said(Lead("gone", BORN, {"amount": 1.0}), Fact("gone", ago, "amount", None))).result()
    store.write(
        tenant, said(Lead("future", BORN, {"amount": 6.0}), Fact("future", ago + 9 * DAY, "amount", 7.0))
    ).result()

    def listed() -> dict[str, tuple[float | None, float]]:
        sweep_tenant(service, tenant, Event())
        rows = store.find(ListedScore, tenant)
        return {row.lead_id: (row.amount, row.expected_value / row.probability) for row in rows}

    found = listed()
    own = {name: amount for name, (amount, _) in found.items() if amount is not None}
    assert own == {"number": 300, "text": 400, "later": 70, "future": 6}
    assert {name: value for name, (_, value) in found.items()} == pytest.approx({**dict.fromkeys(found, 50), **own})
    set_policy(store, tenant, Policy(worth=Worth(amount="size", average_deal=7)), "cli:me")
    assert [value for _, value in listed().values()] == pytest.approx([7] * len(found))


def test_a_sweep_that_is_stopped_leaves_what_was(service: Service, tenant: str) -> None:
    store, stopping = service.store, Event()
    write(store, tenant)  # type: ignore[arg-type]
    (done,) = sweep_tenant(service, tenant, stopping)
    assert done.leads == LEADS and last_sweep(store, tenant) == done
    stopping.set()
    assert sweep_tenant(service, tenant, stopping) == []
    assert len(store.find(ListedScore, tenant)) == LEADS and last_sweep(store, tenant) == done


def test_leads_of_many_pages_are_swept(service: Service, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.sweep._CHUNK", 7)
    write(service.store, tenant)  # type: ignore[arg-type]
    for _ in range(2):
        (done,) = sweep_tenant(service, tenant, Event())
        assert done.leads == LEADS
        assert {row.as_of for row in service.store.find(ListedScore, tenant)} == {done.as_of}


@pytest.mark.parametrize("cut", [0.0, 1.0], ids=["every tier changes", "none does"])
def test_a_lead_that_is_deleted_while_it_is_ranked_is_not_listed_and_costs_no_other(
    service: Service, tenant: str, monkeypatch: pytest.MonkeyPatch, cut: float
) -> None:
    store = service.store
    write(store, tenant)  # type: ignore[arg-type]
    set_policy(store, tenant, Policy(tiers=Cuts(warm=cut, hot=cut)), "cli:me")
    swap, gone = store.swap, ["L-03", "L-07"]

    def late(*arguments: Any) -> Any:
        if gone:
            store.delete(tenant, gone.pop()).result()
        return swap(*arguments)

    monkeypatch.setattr(store, "swap", late)
    (done,) = sweep_tenant(service, tenant, Event())
    listed = {row.lead_id for row in store.find(ListedScore, tenant)}
    assert done.leads == len(listed) == LEADS - 2 and not listed & {"L-03", "L-07"}
