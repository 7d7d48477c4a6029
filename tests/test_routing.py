"""Changes of tier: told once, at the moment they come, and of nobody who is gone."""

from __future__ import annotations

import json
import threading
import time
from threading import Event
from typing import Any

import pytest
from small import scorer
from test_ingest import Caller
from test_leads import BORN, DAY, said

from serving.access import Open
from serving.background import Background
from serving.log import Log
from serving.policy import Cuts, Policy, set_policy
from serving.service import Service
from serving.settings import Settings
from serving.store import (
    Alias,
    Delivery,
    Lead,
    ListedScore,
    Message,
    Outcome,
    Quarantined,
    SqlStore,
    TierChange,
    Touch,
    Webhook,
)
from serving.sweep import rank_touched, sweep_tenant
from serving.touched import Touched, leads_of
from serving.webhooks import forget_old, subscribe, unsubscribe

EVENTS = ["lead.tier_changed"]


@pytest.fixture
def service(lead_store: SqlStore, tenant: str) -> Service:
    return Service(scorer("logistic"), lead_store, Open(tenant), Settings(webhook_private=True))


def cut(service: Service, tenant: str, warm: float, hot: float) -> None:
    set_policy(service.store, tenant, Policy(tiers=Cuts(warm=warm, hot=hot)), "test")


def changes(service: Service, tenant: str) -> list[tuple[str, str, str]]:
    """Of what lead, from what tier to what, in order of time."""
    return [(each.lead_id, each.before, each.tier) for each in service.store.find(TierChange, tenant, order="at")]


def probability(service: Service, tenant: str, lead_id: str) -> float:
    (row,) = service.store.find(ListedScore, tenant, {"lead_id": lead_id})
    return row.probability


def test_nobody_flickers(service: Service, tenant: str) -> None:
    """The probability of a lead against its cut-off goes back and forth between entry and exit: one change."""
    service.store.write(tenant, said(Lead("L-1", BORN), Touch("L-1", BORN + DAY, "demo", "attend"))).result()
    cut(service, tenant, 0.0, 1.0)
    sweep_tenant(service, tenant, Event())
    p = probability(service, tenant, "L-1")
    assert 0 < p < 0.7
    for ratio in (1.05, 0.99, 1.1, 1.2, 1.01, 1.24, 0.98, 1.15):
        cut(service, tenant, 0.0, min(1.0, p * ratio))
        sweep_tenant(service, tenant, Event())
    assert changes(service, tenant) == [("L-1", "cold", "warm"), ("L-1", "warm", "hot")]
    cut(service, tenant, 0.0, p * 1.3)
    sweep_tenant(service, tenant, Event())
    sweep_tenant(service, tenant, Event())
    assert changes(service, tenant)[2:] == [("L-1", "hot", "warm")]
    # The score itself has no memory.
    assert Caller(service.store, tenant=tenant)("GET", "/v1/leads/L-1/score").json()["tier"] == "warm"


def test_a_change_is_told_to_each_webhook_without_attributes(service: Service, tenant: str) -> None:
    store = service.store
    lead = Lead("L-1", BORN, {"industry": "Secret Industry", "employees": 77.0})
    store.write(tenant, said(lead, Touch("L-1", BORN + DAY, "demo", "attend"), Lead("L-2", BORN))).result()
    hooks = [subscribe(store, tenant, f"https://{name}.example/", EVENTS, "test") for name in "ab"]
    subscribe(store, f"{tenant}-other", "https://c.example/", EVENTS, "test")
    cut(service, tenant, 0.0, 0.0)
    sweep_tenant(service, tenant, Event())
    found = store.find(Delivery, tenant)
    assert {(each.webhook_id, each.lead_id) for each in found} == {(h.id, f"L-{k}") for h in hooks for k in (1, 2)}
    assert len({each.id for each in found}) == 4 and not store.find(Delivery, f"{tenant}-other")
    listed = {row.lead_id: row for row in store.find(ListedScore, tenant)}
    call = Caller(store, tenant=tenant)
    for each in found:
        event, row = json.loads(each.body), listed[str(each.lead_id)]
        score = call("GET", f"/v1/leads/{each.lead_id}/score?as_of={event['as_of']}").json()
        assert (event["from"], event["to"], event["route"]) == ("cold", "hot", "sales")
        assert (event["id"], event["event"], event["probability"]) == (each.id, EVENTS[0], row.probability)
        same = ("lead_id", "probability", "score", "as_of", "tiers", "model", "route")
        assert {name: event[name] for name in same} == {name: score[name] for name in same}
        assert len(event["reasons"]) <= 3
        assert "ecret" not in each.body and "77" not in " ".join(event["reasons"])
    (texts,) = {tuple(json.loads(each.body)["reasons"]) for each in found if each.lead_id == "L-1"}
    assert any(text.startswith("1 demo attend") for text in texts)
    # No change, nothing to tell.
    sweep_tenant(service, tenant, Event())
    assert len(store.find(Delivery, tenant)) == 4


def test_touched_leads_are_those_that_messages_are_about() -> None:
    rows = (
        Touch(" a ", 0, "email"), Lead("b"), Outcome("c", 0, True), Alias("d", "e", 0), Quarantined(reason="", body="")
    )  # fmt: skip
    assert [*leads_of([Message(rows=(row,)) for row in rows])] == ["a", "b", "c", "e"]
    touched = Touched()
    touched.add("t", map(str, range(2_000)))
    assert sum(len(each) for each in iter(lambda: touched.take(300).get("t", []), [])) == 1_000


def test_what_is_touched_under_another_name_ranks_the_lead_that_is_meant(service: Service, tenant: str) -> None:
    store = service.store
    cut(service, tenant, 0.0, 1.0)
    store.write(tenant, said(Lead("user", BORN), Touch("anon", BORN + DAY, "demo", "attend"))).result()
    store.write(tenant, said(Alias("anon", "user", BORN + DAY))).result()
    service.touched.add(tenant, ["anon", "nobody"])
    rank_touched(service)
    rank_touched(service)
    assert changes(service, tenant) == [("user", "cold", "warm")]


def test_a_sweep_that_began_before_a_lead_was_ranked_leaves_it(
    service: Service, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take back what came in meanwhile, and tell of it."""
    store = service.store
    cut(service, tenant, 0.0, 1.0)
    store.write(tenant, said(Lead("L-1", BORN), Lead("L-2", BORN))).result()
    stream, seen = store.stream, []

    def meanwhile(*arguments: Any) -> Any:
        for page in stream(*arguments):
            service.touched.add(tenant, ["L-2"])
            rank_touched(service)
            seen.extend(store.find(ListedScore, tenant))
            yield page

    monkeypatch.setattr(store, "stream", meanwhile)
    (done,) = sweep_tenant(service, tenant, Event())
    as_of = {row.lead_id: row.as_of for row in store.find(ListedScore, tenant)}
    assert done.leads == 2 and as_of["L-1"] == done.as_of < as_of["L-2"] == seen[0].as_of
    assert sorted(changes(service, tenant)) == [("L-1", "cold", "warm"), ("L-2", "cold", "warm")]


def test_two_who_rank_at_once_tell_once(service: Service, tenant: str) -> None:
    store, names = service.store, [f"L-{k}" for k in range(20)]
    subscribe(store, tenant, "https://a.example/", EVENTS, "test")
    cut(service, tenant, 0.0, 1.0)
    store.write(tenant, said(*(Lead(name, BORN) for name in names))).result()
    others = [Service(service.scorer, store, Open(tenant), service.settings) for _ in range(4)]
    barrier = threading.Barrier(len(others))

    def work(one: Service) -> None:
        barrier.wait()
        for _ in range(3):
            one.touched.add(tenant, names)
            rank_touched(one)

    threads = [threading.Thread(target=work, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(changes(service, tenant)) == sorted((name, "cold", "warm") for name in names)
    assert len(store.find(Delivery, tenant)) == len(names)


def test_records_are_swapped_only_as_they_were_seen(service: Service, tenant: str) -> None:
    store = service.store
    one = Webhook(id="1", url="u", secret="s", events=("e",), created_at=5)
    other = Webhook(id="2", url="v", secret="s", events=(), created_at=6)
    assert store.swap(tenant, Webhook, {"1": None}, [one]).result()
    assert not store.swap(tenant, Webhook, {"1": None}, [other]).result()
    assert not store.swap(tenant, Webhook, {"1": other}, [other]).result()
    assert store.find(Webhook, tenant) == [one]
    assert store.swap(tenant, Webhook, {"1": one, "2": None}, [other]).result()
    assert store.find(Webhook, tenant, {"id": ["1", "2", "3"]}) == [one, other]
    assert store.find(Webhook, tenant, {"id": []}) == []
    assert not store.swap(f"{tenant}-other", Webhook, {"1": one}, [one]).result()


def test_who_is_deleted_leaves_nothing(service: Service, tenant: str) -> None:
    store = service.store
    subscribe(store, tenant, "https://a.example/", EVENTS, "test")
    cut(service, tenant, 0.0, 1.0)
    store.write(tenant, said(Lead("L-1", BORN), Lead("L-2", BORN))).result()
    sweep_tenant(service, tenant, Event())
    store.delete(tenant, "L-1").result()
    assert {each.lead_id for each in store.find(Delivery, tenant)} == {"L-2"}
    assert changes(service, tenant) == [("L-2", "cold", "warm")]


def test_a_webhook_that_ends_takes_what_waits_along(service: Service, tenant: str) -> None:
    store = service.store
    one, other = (subscribe(store, tenant, f"https://{name}.example/", EVENTS, "test") for name in "ab")
    cut(service, tenant, 0.0, 1.0)
    store.write(tenant, said(Lead("L-1", BORN))).result()
    sweep_tenant(service, tenant, Event())
    assert unsubscribe(store, tenant, one.id, "test") and not unsubscribe(store, tenant, one.id, "test")
    (left,) = store.find(Delivery, tenant)
    assert left.webhook_id == other.id
    forget_old(store)
    assert store.find(Delivery, tenant) == [left]
    old = [
        Delivery(id=state, webhook_id="x", event="e", body="", created_at=0, due_at=0, state=state)
        for state in ("dead", "delivered", "waiting")
    ]
    store.put(tenant, old).result()
    forget_old(store)
    assert store.find(Delivery, tenant) == [left]


def test_work_without_end_keeps_its_lease_and_asks_for_it_seldom(lead_store: SqlStore) -> None:
    import asyncio

    asked = []

    class Watched:
        def lease(self, *arguments: Any) -> Any:
            asked.append(arguments)
            return lead_store.lease(*arguments)

    async def endless() -> None:
        await asyncio.sleep(60)

    async def run() -> None:
        background = Background()
        background.every(0.01, f"endless {time.time_ns()}", endless)
        async with background.running(Watched(), Log()):  # type: ignore[arg-type]
            await asyncio.sleep(1)

    asyncio.run(run())
    assert len(asked) == 2 and asked[0][3] > 0 and asked[1][3] == 0
