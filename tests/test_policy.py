"""What a tenant decides: tiers and routes of its scores, worth, events, agreement; by HTTP and by the command line."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import scorer
from test_ingest import Caller, track
from test_leads import said, write
from test_serving import check_problem, lead

import touchstone
from features.errors import UsageError
from models.tiers import Tiers
from serving import Settings, create_app
from serving.access import Open
from serving.keys import create_key
from serving.policy import (
    Agreement,
    Cuts,
    InForce,
    Policy,
    Routes,
    Worth,
    parse_policy,
    policy_of,
    read_policy,
    set_policy,
)
from serving.security import Keys
from serving.service import Service
from serving.store import Entry, Lead, Setting, SqlStore, open_store
from serving.sweep import sweep_tenant

POLICY = {
    "tiers": {"warm": 0.0, "hot": 1.0},
    "routes": {"cold": "marketing", "warm": "marketing", "hot": "sales"},
    "worth": {"amount": "deal_size", "average_deal": 4000.0},
    "events": {"Demo Requested": {"channel": "demo", "action": "request"}},
    "sla": {"hot_leads_a_week": 20, "first_touch_hours": 24.0},
}


def answer(call: Caller) -> tuple[str, str, str]:
    """The tier, route and version of every kind of score; they have to agree."""
    body = lead(3)
    one = call("POST", "/v1/score", body).json()
    (many,) = call("POST", "/v1/score/bulk", {"leads": [body]}).json()["scores"]
    line = call("POST", "/v1/score/bulk", json.dumps(body).encode(), content_type="application/x-ndjson").json()
    # Only an answer about one lead has a digest of what was seen.
    assert {**one, "digest": None} == many == line
    return one["tier"], one["route"], one["tiers"]


def test_scores_go_by_the_policy_and_by_the_models_own_tiers_without_one(lead_store: SqlStore, tenant: str) -> None:
    call = Caller(lead_store, tenant=tenant)
    own = scorer("logistic").tiers
    assert answer(call)[2] == own.version
    before = call("GET", "/v1/policy").json()
    assert (before["policy"], before["version"], before["tiers"]["hot"]) == ({}, None, own.hot)

    done = call("PUT", "/v1/policy", POLICY)
    assert done.status_code == 200 and done.json()["policy"] == POLICY
    version = done.json()["version"]
    assert done.json()["tiers"] == {
        "version": version, "warm": 0, "hot": 1, "exit": own.exit,
        "routes": {"cold": "marketing", "warm": "marketing", "hot": "sales"},
    }  # fmt: skip
    # This worker goes by it at once; every lead is warm.
    assert answer(call) == ("warm", "marketing", version)
    assert call("GET", "/v1/policy").json() == done.json()
    assert call("GET", "/v1/model").json()["tiers"] == done.json()["tiers"]
    write(lead_store, tenant)
    stored = call("GET", "/v1/leads/L-09/score").json()
    assert (stored["tier"], stored["route"], stored["tiers"]) == ("warm", "marketing", version)

    # What is no part of tiers and routes changes no version; what is does.
    call("PUT", "/v1/policy", {"tiers": POLICY["tiers"], "routes": POLICY["routes"]})
    assert answer(call)[2] == version
    routes = call("PUT", "/v1/policy", {"routes": {"cold": "nurture"}}).json()
    assert routes["version"] != version
    assert answer(call)[2] == f"{own.version}+{routes['version']}"
    assert routes["tiers"]["routes"] == {"cold": "nurture", "warm": "nurture", "hot": "sales"}
    call("PUT", "/v1/policy", {})
    assert answer(call)[2] == own.version

    entries = [entry for entry in lead_store.find(Entry, tenant) if entry.action == "policy set"]
    assert len(entries) == 4 and entries[0].detail == POLICY
    assert {entry.actor for entry in entries} == {"http"}


def test_another_worker_follows_within_five_seconds(lead_store: SqlStore, tenant: str) -> None:
    first, second = Caller(lead_store, tenant=tenant), Caller(lead_store, tenant=tenant)
    assert answer(second)[2] == scorer("logistic").tiers.version
    version = first("PUT", "/v1/policy", POLICY).json()["version"]
    end = time.monotonic() + 5
    while answer(second)[2] != version:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_policy_is_of_one_tenant(lead_store: SqlStore, tenant: str) -> None:
    """One process serves both, asked in turn."""
    call = Caller(lead_store)
    call.app = create_app(scorer("logistic"), lead_store, None, Keys(lead_store))
    names, own = (tenant, f"{tenant}-other"), scorer("logistic").tiers.version
    for name in names:
        lead_store.write(name, said(Lead("L-1", 0, {"deal_size": 7.0}))).result()
    scopes = ["admin", "score", "ingest", "read"]
    keys = {name: f"Bearer {create_key(lead_store, name, 'crm', scopes, 'cli:me')[1]}" for name in names}

    def ask(name: str, method: str, path: str, body: Any = None) -> Any:
        return call(method, path, body, authorization=keys[name]).json()

    version = ask(tenant, "PUT", "/v1/policy", POLICY)["version"]
    for _ in range(2):
        for name, expected in zip(names, (version, own), strict=True):
            assert ask(name, "POST", "/v1/score", lead(3))["tiers"] == expected
            assert ask(name, "GET", "/v1/leads/L-1/score")["tiers"] == expected
            assert ask(name, "GET", "/v1/model")["tiers"]["version"] == expected
            assert ask(name, "GET", "/v1/policy")["policy"] == (POLICY if name == tenant else {})
    assert ask(tenant, "GET", "/v1/sla")["agreement"] == POLICY["sla"]
    assert ask(names[1], "GET", "/v1/sla")["agreement"] is None
    for name in names:
        assert ask(name, "POST", "/v1/track", track("Demo Requested"))["accepted"] == 1
    found = [lead_store.read(name, "L-1") for name in names]
    assert [each.record.touchpoints[0].action for each in found if each] == ["request", "demo_requested"]
    entries = [entry for entry in lead_store.find(Entry, tenant) if entry.action == "policy set"]
    assert [entry.actor for entry in entries] == [f"key:{keys[tenant][10:].partition('_')[0]}"]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"tiers": {"warm": 0.5, "hot": 0.2}}, "tiers.warm", "got 0.5, which is above hot, 0.2"),
        ({"tiers": {"warm": 0.5}}, "tiers.hot", "required"),
        ({"tiers": {"warm": 0.5, "hot": 1.5}}, "tiers.hot", "<= 1.*got 1.5"),
        ({"tiers": {"warm": -1, "hot": 1}}, "tiers.warm", ">= 0"),
        ({"tiers": {"warm": 0, "hot": 1, "exit": 2}}, "tiers.exit", "no such field"),
        ({"routes": {"warm": "somebody"}}, "routes.warm", "Send marketing or nurture or sales"),
        ({"route": {}}, "route", "Did you mean routes"),
        ({"worth": {"average_deal": 0}}, "worth.average_deal", "> 0"),
        ({"worth": {"amount": ""}}, "worth.amount", "at least 1 character"),
        ({"events": {"hover": {"chanel": "web"}}}, "events.hover.chanel", "Did you mean channel"),
        ({"events": {"hover": {"channel": "web", "ignore": True}}}, "events", 'events."hover".*Keep one'),
        ({"events": {"A b": {}, "a-b": {}}}, "events", "twice"),
        ({"sla": {"hot_leads_a_week": 1.5, "first_touch_hours": 1}}, "sla.hot_leads_a_week", "whole number"),
        ({"sla": {"hot_leads_a_week": 1, "first_touch_hours": 0}}, "sla.first_touch_hours", "> 0"),
        ([], None, "an object"),
    ],
)
def test_a_wrong_policy_is_refused_and_the_one_before_stays(
    tmp_path: Path, body: Any, field: str | None, says: str
) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/t.db")) as store:
        set_policy(store, "acme", Policy(worth=Worth(average_deal=5)), "cli:me")
        check_problem(Caller(store)("PUT", "/v1/policy", body), 422, field, says)
        assert policy_of(store, "acme").policy == Policy(worth=Worth(average_deal=5))


def test_a_stored_policy_that_is_none_says_so_and_costs_nothing_of_others(lead_store: SqlStore, tenant: str) -> None:
    lead_store.put(tenant, [Setting(name="policy", body={"policy": {"tiers": {"warm": 2}}})]).result()
    answered = Caller(lead_store, tenant=tenant)("POST", "/v1/score", lead(3))
    check_problem(answered, 503, None, "cannot be used.*Set it anew")
    assert answered.headers["retry-after"] == "60"
    assert Caller(lead_store, tenant=f"{tenant}-other")("POST", "/v1/score", lead(3)).status_code == 200


def test_where_the_store_is_gone_the_last_policy_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.policy._FRESH", 0.0)
    store = open_store(f"sqlite:///{tmp_path}/t.db")
    call = Caller(store)
    version = call("PUT", "/v1/policy", POLICY).json()["version"]
    assert answer(call)[2] == version
    (tmp_path / "t.db").rename(tmp_path / "gone.db")
    store._engine.dispose()
    (tmp_path / "t.db").mkdir()
    assert answer(call)[2] == version


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["marketing", "nurture", "sales"]),
    st.none() | st.floats(1e-9, 1e9),
)
def test_any_policy_is_read_as_it_was_written(one: float, other: float, warm: Any, deal: float | None) -> None:
    policy = Policy(
        tiers=Cuts(warm=min(one, other), hot=max(one, other)),
        routes=Routes(warm=warm),
        worth=None if deal is None else Worth(average_deal=deal),
        sla=Agreement(hot_leads_a_week=3, first_touch_hours=0.5),
    )
    assert parse_policy(msgspec.json.encode(policy)) == policy
    tiers = InForce(policy, "v").tiers(Tiers(version="own", warm=0.5, hot=0.6, exit=1.5))
    assert (tiers.warm, tiers.hot, tiers.exit, tiers.version) == (min(one, other), max(one, other), 1.5, "v")
    assert tiers.routes == {"cold": "marketing", "warm": warm, "hot": "sales"}


def test_the_scorer_of_a_policy_is_made_once_for_a_model() -> None:
    force = InForce(Policy(tiers=Cuts(warm=0.1, hot=0.2)), "v")
    model, other = scorer("logistic"), scorer("lightgbm")
    assert force.scorer(model) is force.scorer(model) is not model
    assert force.scorer(model).tiers.hot == 0.2 and force.scorer(model).model is model.model
    assert force.scorer(other).model is other.model
    assert InForce().scorer(model) is model


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["touchstone", "policy", *arguments, "--database", url])
        capsys.readouterr()
        try:
            touchstone.main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    url = f"sqlite:///{tmp_path}/t.db"
    toml, again = tmp_path / "policy.toml", tmp_path / "policy.json"
    page = (Path(__file__).parents[1] / "docs" / "routing.md").read_text(encoding="utf-8")
    toml.write_text(page.split("```toml\n")[1].split("```")[0])
    code, out, _ = run("set", str(toml), "--tenant", "acme", "--json")
    done = json.loads(out)
    assert code == 0 and done["policy"]["tiers"] == {"warm": 0.05, "hot": 0.2}
    code, out, _ = run("show", "--tenant", "acme")
    assert code == 0 and json.loads(out) == done["policy"]
    again.write_text(out)
    assert run("set", str(again), "--tenant", "acme")[1] == (
        f"the policy of acme is in force: tiers and routes of {done['version']}\n"
    )
    assert json.loads(run("show", "--tenant", "acme", "--json")[1]) == done
    assert json.loads(run("show")[1]) == {}
    assert run("set", str(tmp_path / "none.toml"))[0::2] == (
        2, f"error: {tmp_path}/none.toml cannot be read: No such file or directory. Name a policy file.\n"
    )  # fmt: skip
    toml.write_text("[tiers]\nwarm = 0.5\nhot = 0.2\n")
    assert run("set", str(toml))[0] == 2
    assert "tiers.warm: got 0.5, which is above hot" in run("set", str(toml))[2]
    toml.write_text("[tiers")
    with pytest.raises(UsageError, match="is not TOML"):
        read_policy(toml)


def test_the_ranking_goes_by_the_policy(lead_store: SqlStore, tenant: str) -> None:
    call = Caller(lead_store, tenant=tenant)
    write(lead_store, tenant)
    call("PUT", "/v1/policy", {**POLICY, "worth": {"average_deal": 9.0, "amount": "size"}})
    service = Service(scorer("logistic"), lead_store, Open(tenant), Settings())
    sweep_tenant(service, tenant, Event())
    rows = call("GET", "/v1/leads?limit=1000").json()["leads"]
    assert {(row["tier"], row["route"]) for row in rows} == {("warm", "marketing")}
    for row in rows:
        size = int(row["lead_id"][2:]) // 3 / 10
        assert row["amount"] == (size or None)
        assert row["expected_value"] == row["probability"] * (size or 9.0)
