"""The store, over SQLite and PostgreSQL alike: what is acknowledged is there, counts once, and scores as tables do."""

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from worlds import mailed, worlds

from features import LEAD_FEATURES, Cohort, Dataset, FeatureSet, TouchstoneError, UsageError
from features.records import dataset_of
from features.times import NEVER, datetime_us, isoformat
from features.words import kind_word
from serving.seen import see
from serving.store import (
    Alias,
    Bundle,
    Entry,
    Fact,
    Idempotent,
    Key,
    Lead,
    ListedScore,
    Message,
    Outcome,
    Quarantined,
    Setting,
    SqlStore,
    StoreError,
    Touch,
    Written,
    dataset_of_stored,
    open_store,
    reading,
    tables,
    upgrade_database,
)
from serving.store.sql import engine_of
from serving.store.upgrade import _FOLDER

ROOT = Path(__file__).parents[1]
DAY = 86_400_000_000
T = 1_790_000_000_000_000
"""An instant of September 2026; what is recorded then is in the past."""


def touch(lead="a", at=T, message=None, *, recorded=T, source="api", **more):
    """A message that is a touch."""
    more = {"channel": "email", "action": "click"} | more
    return Message(rows=(Touch(lead, at, **more),), message_id=message, recorded_at=recorded, source=source)


def said(row, recorded=T):
    return Message(rows=(row,), recorded_at=recorded)


def touches_of(store, tenant, lead="a"):
    return store.read(tenant, lead).record.touchpoints


@pytest.fixture
def store(lead_store: SqlStore) -> SqlStore:
    return lead_store


# What counts


def test_a_lead_is_read_as_it_was_written(store: SqlStore, tenant: str) -> None:
    rows = (
        Lead("a", T - DAY, {"Industry": "cleaning", "size": 40, "trial": True, "x": None}),
        Touch("a", T, "E-Mail", "Click", 2.5),
        Fact("a", T + 1, "Size", 50.5),
        Outcome("a", T + 2, True, 99.5),
    )
    assert store.write(tenant, [said(row) for row in rows]).result() == Written(4, 0, 0)
    lead = store.read(tenant, "a")
    assert lead.record.lead_id == "a" and datetime_us(lead.record.created_at) == T - DAY
    assert lead.record.attributes == {"industry": "cleaning", "size": 40, "trial": True, "x": None}
    (one,) = lead.record.touchpoints
    assert (datetime_us(one.occurred_at), one.channel, one.action, one.value, one.recorded_at, one.message_id) == (
        T, "e_mail", "click", 2.5, None, None
    )  # fmt: skip
    (fact,) = lead.record.attribute_facts
    assert (fact.name, fact.value, datetime_us(fact.occurred_at)) == ("size", 50.5, T + 1)
    assert [(o.occurred_at, o.known, o.won, o.amount) for o in lead.outcomes] == [(T + 2, T + 2, True, 99.5)]
    assert (lead.same_as, lead.merged_at) == (None, NEVER)
    assert lead.open_at(T + 2) and not lead.open_at(T + 3)
    assert store.read(tenant, "b") is None and store.read("other", "a") is None
    assert store.read(tenant, " a ") == lead


def test_a_message_counts_once_for_ever(store: SqlStore, tenant: str) -> None:
    assert store.write(tenant, [touch(message="m"), touch(message="m", at=T + 1)]).result() == Written(1, 1)
    assert store.write(tenant, [touch("b", message="m")]).result() == Written(0, 1)
    assert store.write(tenant, [touch(message="m", source="segment")]).result() == Written(1, 0)
    assert store.write("other-" + tenant, [touch(message="m")]).result() == Written(1, 0)
    assert [datetime_us(t.occurred_at) for t in touches_of(store, tenant)] == [T, T]
    assert store.read(tenant, "b") is None
    # The same moment under two messages is two touches, and stays two where duplicates are sought again.
    assert len(dataset_of([store.read(tenant, "a").record]).history) == 2


def test_without_a_message_the_same_row_counts_once(store: SqlStore, tenant: str) -> None:
    again = [touch(), touch(channel="Email"), touch(value=1.0), touch(action=None), touch(at=T + 1), touch("b")]
    assert store.write(tenant, again).result() == Written(5, 1)
    assert store.write(tenant, again).result() == Written(0, 6)
    assert store.write(tenant, [touch(recorded=T + 9)]).result() == Written(0, 1)
    history = dataset_of([store.read(tenant, "a").record]).history
    assert len(touches_of(store, tenant)) == 4 == len(history) + history.automated
    assert store.write(tenant, [touch(value=0.0), touch(value=-0.0), touch(value=float("nan"))]).result() == Written(
        1, 2
    )


def test_a_message_of_several_rows_counts_as_one(store: SqlStore, tenant: str) -> None:
    rows = (Fact("a", T, "size", 1), Fact("a", T, "industry", "x"), Outcome("a", T, False))
    sent = [Message(rows=rows, message_id="m", recorded_at=T)]
    assert [store.write(tenant, sent).result() for _ in range(2)] == [Written(1, 0), Written(0, 1)]
    assert len(store.read(tenant, "a").record.attribute_facts) == 2
    twice = Message(rows=(Touch("a", T, "web"), Touch("a", T + 1, "web")), message_id="n")
    with pytest.raises(UsageError, match=r"'n' holds several touches.*Give each"):
        store.write(tenant, [twice]).result()


def test_what_is_recorded_is_never_later_than_now(store: SqlStore, tenant: str) -> None:
    before = time.time_ns() // 1000
    store.write(tenant, [touch(recorded=None), touch("b", recorded=before + DAY), touch("c", recorded=T + 5)]).result()
    after = time.time_ns() // 1000
    for lead in "ab":
        assert before <= datetime_us(touches_of(store, tenant, lead)[0].recorded_at) <= after
    assert datetime_us(touches_of(store, tenant, "c")[0].recorded_at) == T + 5


def test_later_descriptions_of_a_lead_are_facts(store: SqlStore, tenant: str) -> None:
    store.write(tenant, [touch(at=T - 5)]).result()
    assert datetime_us(store.read(tenant, "a").record.created_at) == T - 5
    assert store.write(tenant, [said(Lead("a", T - 9, {"size": 1, "b": "x"}))]).result() == Written(1, 0)
    assert store.write(tenant, [said(Lead("a", T - 9, {"size": 1}), T + 1)]).result() == Written(0, 1)
    assert store.write(tenant, [said(Lead("a", None, {"size": 2}), T + 2)]).result() == Written(1, 0)
    assert store.write(tenant, [said(Lead("a", T, {"size": 2}), T + 3)]).result() == Written(0, 1)
    assert store.write(
        tenant, [said(Lead("a", T, {"size": 1}), T + 4), said(Lead("a", T, {"size": 1}), T + 5)]
    ).result() == Written(1, 1)
    record = store.read(tenant, "a").record
    assert (datetime_us(record.created_at), record.attributes) == (T - 9, {"size": 1, "b": "x"})
    facts = sorted((datetime_us(f.occurred_at), f.name, f.value) for f in record.attribute_facts)
    assert facts == [(T + 2, "size", 2), (T + 4, "size", 1)]


def test_a_lead_without_touches_begins_when_it_was_first_heard_of(store: SqlStore, tenant: str) -> None:
    store.write(tenant, [said(Lead("a", None, {"size": 1}), T + 7)]).result()
    assert datetime_us(store.read(tenant, "a").record.created_at) == T + 7
    store.write(tenant, [touch(at=T + 9)]).result()
    assert datetime_us(store.read(tenant, "a").record.created_at) == T + 9


# Ids that mean the same


def test_a_link_counts_from_its_time_on(store: SqlStore, tenant: str) -> None:
    store.write(
        tenant,
        [touch("anon", T), touch("a", T + 1), said(Alias("anon", "a", T + 10)), said(Alias("a", "b", T + 5)),
         touch("anon", T + 20, recorded=T + 30), said(Outcome("anon", T + 3, True))],
    ).result()  # fmt: skip
    got = {lead: store.read(tenant, lead) for lead in ("anon", "a", "b")}
    known = {
        lead: sorted(
            (datetime_us(t.occurred_at), datetime_us(t.recorded_at or t.occurred_at)) for t in one.record.touchpoints
        )
        for lead, one in got.items()
    }
    assert known["anon"] == [(T, T), (T + 20, T + 30)]
    assert known["a"] == [(T, T + 10), (T + 1, T + 1), (T + 20, T + 30)]
    assert known["b"] == [(T, T + 10), (T + 1, T + 5), (T + 20, T + 30)]
    assert [(one.same_as, one.merged_at) for one in got.values()] == [("a", T + 10), ("b", T + 5), (None, NEVER)]
    assert [one.outcomes[0].known for one in got.values()] == [T + 3, T + 10, T + 10]
    assert datetime_us(got["b"].record.created_at) == T + 5
    assert list(store.read_many(tenant, ["b", "zz", "anon"]).items()) == [("anon", got["anon"]), ("b", got["b"])]
    assert [*store.stream(tenant, 2)] == [[got["a"], got["anon"]], [got["b"]]]


def test_links_that_contradict_are_set_aside(store: SqlStore, tenant: str) -> None:
    links = [
        Alias("a", "b", T),
        Alias("b", "c", T),
        Alias("a", "b", T + 1),
        Alias("a", "c", T),
        Alias("c", "a", T),
        Alias("d", "d", T),
    ]
    assert store.write(tenant, [said(link) for link in links]).result() == Written(2, 1, 3)
    reasons = {entry.lead_id: entry.reason for entry in store.find(Quarantined, tenant)}
    assert reasons == {
        "a": "same_as: 'c' cannot be, for 'a' is the same as 'b' already.",
        "c": "same_as: 'a' would make 'c' the same as itself.",
        "d": "same_as: 'd' would make 'd' the same as itself.",
    }


# Transactions


def test_a_bad_batch_does_not_spoil_its_neighbours(store: SqlStore, tenant: str) -> None:
    bad = [[touch("bad", message="lost"), each] for each in (
        touch("x" * 201), touch("nul\0"), touch("half\ud800"), touch(" "), touch(value=float("inf")), touch(at=2**60),
        touch(message="m" * 201), touch(message="m", source="a:b"), said(Lead("a", T, {"k": "\0"})),
        said(Lead("a", T, {"k": 10**400})),
    )]  # fmt: skip
    futures = [store.write(tenant, batch) for k, one in enumerate(bad) for batch in ([touch(f"good {k}")], one)]
    wait(futures)
    assert [future.exception() is None for future in futures] == [True, False] * len(bad)
    assert {type(future.exception()) for future in futures[1::2]} == {UsageError}
    assert [lead.record.lead_id for page in store.stream(tenant) for lead in page] == [
        f"good {k}" for k in range(len(bad))
    ]
    # Nothing of it happened, so its messages may still come.
    assert store.write(tenant, [touch(message="lost")]).result() == Written(1, 0)


def test_concurrent_writers_count_each_message_once(store: SqlStore, tenant: str) -> None:
    """Each message comes from three callers, in batches of different order, beside rows that have no message."""
    names = [f"m{k}" for k in range(300)]
    rng = np.random.default_rng(0)

    def send(_: int) -> Written:
        order = rng.permutation(len(names))
        total = np.zeros(2, int)
        for part in np.array_split(order, 10):
            sent = [touch(f"lead {k % 7}", T + k, names[k]) for k in part] + [touch("plain", T + k) for k in part]
            written = store.write(tenant, sent).result()
            total += written.new, written.duplicates
        return Written(*total.tolist())

    with ThreadPoolExecutor(6) as pool:
        written = [*pool.map(send, range(6))]
    assert sum(one.new for one in written) == 600 and sum(one.duplicates for one in written) == 5 * 600
    leads = store.read_many(tenant, [*(f"lead {k}" for k in range(7)), "plain"])
    assert sum(len(one.record.touchpoints) for one in leads.values()) == 600


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """kill -9 in the middle of writes, three times over: everything acknowledged is there, and no half batch."""
    url = f"sqlite:///{tmp_path / 'touchstone.db'}"
    script = """
import sys, threading
from serving.store import Message, Touch, open_store
store, lock = open_store(sys.argv[1]), threading.Lock()
def run(name):
    for k in range(1_000_000):
        batch = [Message(rows=(Touch(f"{name}-{k}", i, "web"),), message_id=f"{name}-{k}-{i}") for i in range(5)]
        store.write("t", batch).result()
        with lock:
            print(f"{name}-{k}", flush=True)
for n in range(4):
    threading.Thread(target=run, args=(f"{sys.argv[2]}{n}",)).start()
"""
    acknowledged: list[str] = []
    for turn in "xyz":
        child = subprocess.Popen(
            [sys.executable, "-c", script, url, turn], stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert child.stdout is not None
        mine = [child.stdout.readline().strip() for _ in range(40)]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split("\n")
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        # The last line may have been cut off.
        acknowledged += mine + [line for line in rest[:-1] if line]
        store = open_store(url)
        counts = {lead.record.lead_id: len(lead.record.touchpoints) for page in store.stream("t") for lead in page}
        assert set(acknowledged) <= set(counts) and set(counts.values()) == {5}
        # What was sent but not acknowledged is sent again, and counts once.
        again = [touch(name, i, f"{name}-{i}") for name in mine for i in range(5)]
        assert store.write("t", again).result() == Written(0, len(again))
        store.close()


def test_a_closed_store_says_so(store: SqlStore, tenant: str) -> None:
    written = store.write(tenant, [touch()])
    store.close()
    assert written.result() == Written(1, 0)
    with pytest.raises(StoreError, match="closed"):
        store.write(tenant, [touch()])


# To equal scores


def messages_of(world):
    """A generated world as messages in the order in which they became known, as they would come in.

    Of what became known at once under one message id, the touch that tables put first comes first.
    """
    rows = []
    for i, lead in enumerate(world):
        name = f"lead {i}"
        rows.append(
            (-NEVER, (), Message(rows=(Lead(name, lead["created"], lead["attributes"]),), recorded_at=lead["created"]))
        )
        for t in lead["touches"]:
            one = Touch(name, t["at"], t["channel"], t["action"] or None, t["value"])
            message = None if t["message"] is None else f"{i} {t['message']}"
            value = -math.inf if t["value"] is None or math.isnan(t["value"]) else t["value"]
            place = t["at"], kind_word(t["channel"]), kind_word(t["action"]) if t["action"] else "", value
            rows.append((t["known"], place, Message(rows=(one,), message_id=message, recorded_at=t["known"])))
        for f in lead["facts"]:
            rows.append(
                (f["known"], (), Message(rows=(Fact(name, f["at"], f["name"], f["value"]),), recorded_at=f["known"]))
            )
        for o in lead["outcomes"]:
            rows.append((o["known"], (), Message(rows=(Outcome(name, o["at"], o["won"]),), recorded_at=o["known"])))
    return [message for *_, message in sorted(rows, key=lambda row: row[:2])]


def tables_of(messages, links=()):
    """The same messages as the tables they would be exported as, written down independently of the store."""
    found = {name: [] for name in ("leads", "touchpoints", "attributes", "outcomes")}
    for message in messages:
        (row,) = message.rows
        match row:
            case Lead():
                found["leads"].append(
                    {"lead_id": row.lead_id, "created_at": isoformat(row.created_at), **row.attributes}
                )
                continue
            case Touch():
                more = {
                    "channel": row.channel,
                    "action": row.action,
                    "value": row.value,
                    "message_id": message.message_id,
                }
                name = "touchpoints"
            case Fact():
                more, name = {"name": row.name, "value": row.value}, "attributes"
            case Outcome():
                more, name = {"outcome": "won" if row.won else "lost", "amount": row.amount}, "outcomes"
        at = {"occurred_at": isoformat(row.occurred_at), "recorded_at": isoformat(message.recorded_at)}
        found[name].append({"lead_id": row.lead_id, **at, **more})
    frames = {name: pd.DataFrame(rows).astype(object) for name, rows in found.items() if rows}
    if links:
        rows = [(link.lead_id, link.same_as, isoformat(link.occurred_at)) for link in links]
        frames["aliases"] = pd.DataFrame(rows, columns=["lead_id", "same_as", "occurred_at"])
    return Dataset.from_frames(**frames)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlStore]:
    """A store for all examples of a property, each a tenant of its own."""
    folder = tmp_path_factory.mktemp("lasting")
    embedded = request.param == "sqlite"
    opened = open_store(f"sqlite:///{folder / 'x.db'}" if embedded else request.getfixturevalue("postgres_ready"))
    yield opened
    opened.close()


@given(world=st.one_of(worlds, st.lists(mailed, min_size=2, max_size=3)), data=st.data())
def test_a_stored_lead_scores_as_tables_do(
    lasting: SqlStore, tmp_path_factory: pytest.TempPathFactory, world: Any, data: Any
) -> None:
    """To the bit, as of any time: read one by one, in pages, as seen then and exported, with late records and links."""
    for one in world:
        # A request has no bare dates, and the same fact again is known since the first time.
        one["touches"] = [{**t, "dated": False} for t in one["touches"]]
        facts = sorted(one["facts"], key=lambda fact: -fact["known"])
        one["facts"] = [*{(f["at"], f["name"], f["value"]): f for f in facts}.values()]
    messages = messages_of(world)
    ids = [f"lead {i}" for i in range(len(world))]
    instants = sorted({one["created"] for one in world} | {m.recorded_at for m in messages})
    links = [
        Alias(one, other, data.draw(st.sampled_from(instants)))
        for one, other in pairwise(ids)
        if data.draw(st.booleans())
    ]
    size = data.draw(st.integers(1, len(messages)))
    expected = tables_of(messages, links)
    features = FeatureSet.fit(LEAD_FEATURES, expected)
    tenant, store = f"t{time.time_ns()}", lasting
    for begin in range(0, len(messages), size):
        store.write(tenant, messages[begin : begin + size]).result()
    store.write(tenant, [said(link) for link in links]).result()
    folder = tmp_path_factory.getbasetemp() / tenant
    store.export(tenant, folder)
    exported = Dataset.read(folder)
    shutil.rmtree(folder)
    stored = store.read_many(tenant, ids)
    assert stored == {name: store.read(tenant, name) for name in ids}
    assert [*stored.values()] == [lead for page in store.stream(tenant, 2) for lead in page]
    read = dataset_of_stored([stored[name] for name in ids])
    places = [[*dataset.ids].index(name) for dataset in (expected, exported, read) for name in ids]
    cohorts = np.array(places).reshape(3, -1)
    for as_of in [*instants[:: max(1, len(instants) // 2)], instants[-1] + 1]:
        matrices = [
            features.compute(dataset, Cohort.at(cohort, int(as_of))).tobytes()
            for dataset, cohort in zip((expected, exported, read), cohorts, strict=True)
        ]
        then = dataset_of([see(stored[name], int(as_of)).record for name in ids])
        matrices.append(features.compute(then, Cohort.at(np.arange(len(ids)), int(as_of))).tobytes())
        assert matrices[0] == matrices[1] == matrices[2] == matrices[3]
        for dataset in (expected, exported):
            is_open = set(dataset.ids[dataset.open_at(int(as_of)).lead])
            created = {name: datetime_us(stored[name].record.created_at) for name in ids}
            assert is_open == {name for name in ids if created[name] < as_of and stored[name].open_at(as_of)}


def test_export_of_leads_nobody_described(store: SqlStore, tenant: str, tmp_path: Path) -> None:
    """Without a leads table too: leads begin with a touch or a link, as in tables that come without one."""
    sent = [touch("anon", T, "1"), touch("b", T + 5, "2"), touch("c", T + 9, "3")]
    links = [Alias("anon", "b", T + 2), Alias("b", "d", T + 7)]
    store.write(tenant, [*sent, *(said(link) for link in links)]).result()
    counts = store.export(tenant, tmp_path / "out")
    assert counts == {"leads": 4, "touchpoints": 3, "outcomes": 0, "attributes": 0, "aliases": 2}
    exported, expected = Dataset.read(tmp_path / "out"), tables_of(sent, links)
    for name in ("anon", "b", "c", "d"):
        (i,), (j,) = exported.find([name]), expected.find([name])
        assert (
            exported.created_at[i] == expected.created_at[j] == datetime_us(store.read(tenant, name).record.created_at)
        )
        assert exported.merged_at[i] == expected.merged_at[j]


def test_export_is_whole_or_not_there(store: SqlStore, tenant: str, tmp_path: Path, monkeypatch) -> None:
    store.write(
        tenant, [touch(), said(Lead("a", T, {"lead_id": "crm", "created_at": "x", "id": "7", "n": 1.5}))]
    ).result()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="holds something already"):
        store.export(tenant, tmp_path / "full")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(TouchstoneError, match="No space left"):
            store.export(tenant, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if "touchstone.db" not in path.name] == ["full"]
    (tmp_path / "out").mkdir()
    store.export(tenant, tmp_path / "out")
    assert sorted(Dataset.read(tmp_path / "out").attributes.names) == ["created_at", "id", "lead_id", "n"]


# Forgetting


def test_a_deleted_lead_is_gone_and_its_messages_stay_counted(
    store: SqlStore, tenant: str, database: str, tmp_path: Path
) -> None:
    who = "mrs-secret-person"
    store.write(tenant, [touch(who, message="m"), touch("anon-secret-person", message="n"), touch("b")]).result()
    store.write(
        tenant, [said(Alias("anon-secret-person", who, T)), said(Fact(who, T, "name", "secret-person"))]
    ).result()
    store.write(tenant, [said(Quarantined(reason="no", body="secret-person", lead_id=who))]).result()
    listed = ListedScore(
        lead_id=who, probability=0.1, score=5, tier="hot", expected_value=1.0, as_of=T, model_version="1"
    )
    store.put(tenant, [listed]).result()
    other = store.read(tenant, "b")
    assert store.delete("other-" + tenant, who).result() == 0
    assert store.delete(tenant, "anon-secret-person").result() == 2
    assert store.delete(tenant, who).result() == 0
    assert store.read(tenant, who) is None and store.read(tenant, "b") == other
    assert not store.find(ListedScore, tenant) and not store.find(Quarantined, tenant)
    assert store.write(tenant, [touch(who, message="m"), touch(message="n")]).result() == Written(0, 2)
    if database.startswith("sqlite"):
        for path in tmp_path.glob("touchstone.db*"):
            assert b"secret-person" not in path.read_bytes(), path


# Records


def test_records_are_put_found_and_removed(store: SqlStore, tenant: str) -> None:
    keys = [Key(id=f"k{i}", name="n", hash=f"h{i}", scopes=("read", "ingest"), created_at=T + i) for i in range(5)]
    store.put(tenant, keys).result()
    assert store.find(Key, tenant) == keys
    assert store.find(Key, tenant, {"hash": "h3"}) == [keys[3]]
    assert store.find(Key, "other-" + tenant, {"hash": "h3"}) == []
    assert store.find(Key, tenant, {"revoked_at": None}, before={"created_at": T + 2}) == keys[:2]
    revoked = msgspec.structs.replace(keys[3], revoked_at=T + 9)
    store.put(tenant, [revoked, revoked]).result()
    assert store.find(Key, tenant, {"revoked_at": T + 9}) == [revoked]
    assert store.remove(Key, tenant, before={"created_at": T + 2}).result() == 2
    assert store.find(Key, tenant) == [keys[2], revoked, keys[4]]
    assert tenant in store.tenants() and "other-" + tenant not in store.tenants()
    mixed = [Setting(name="tiers", body={"hot": 0.5}), Entry(at=T, id="1", actor="k2", action="delete", subject="x")]
    store.put(tenant, mixed).result()
    assert store.find(Setting, tenant) == mixed[:1] and store.find(Entry, tenant) == mixed[1:]


def test_pages_show_everything_once(store: SqlStore, tenant: str) -> None:
    rng = np.random.default_rng(1)
    scores = [
        ListedScore(
            lead_id=f"L{i}", probability=float(p), score=int(100 * p), tier="hot" if p > 0.5 else "cold",
            expected_value=float(np.round(p, 1)), as_of=T, model_version="1",
        )
        for i, p in enumerate(rng.random(57))
    ]  # fmt: skip
    store.put(tenant, scores).result()
    for order, where in (("-expected_value", {}), ("probability", {"tier": "hot"}), ("", {}), ("-lead_id", {})):
        found: list[ListedScore] = []
        while page := store.find(ListedScore, tenant, where, order=order, after=found[-1] if found else None, limit=10):
            assert len(page) <= 10
            found += page
        name = order.removeprefix("-") or "lead_id"
        mine = [one for one in scores if all(getattr(one, k) == v for k, v in where.items())]
        assert found == sorted(mine, key=lambda one: (getattr(one, name), one.lead_id), reverse=order.startswith("-"))
    with pytest.raises(UsageError, match=r"no 'size'\. It has tenant, lead_id"):
        store.find(ListedScore, tenant, {"size": 1})
    with pytest.raises(UsageError, match="cannot be ordered by 'amount'"):
        store.find(ListedScore, tenant, order="amount")


def test_a_record_is_claimed_once(store: SqlStore, tenant: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [Idempotent(key="k", request=f"r{i}", created_at=T) for i in range(20)]
        got = [*pool.map(lambda one: store.claim(tenant, one).result(), asked)]
    (first,) = [one for one, there in zip(asked, got, strict=True) if there is None]
    assert [there for there in got if there is not None] == [first] * 19


def test_a_lease_has_one_holder(store: SqlStore, tenant: str) -> None:
    def take(holder: str, seconds: float = 60.0) -> bool:
        return store.lease(tenant, "sweep", holder, seconds).result()

    with ThreadPoolExecutor(8) as pool:
        held = [*pool.map(take, map(str, range(16)))]
    assert sum(held) == 1
    holder = str(held.index(True))
    assert take(holder) and not take("another")
    assert not take("another", 0) and not take("another")
    assert not take(holder, 0) and take("another", 0.05) and not take(holder)
    time.sleep(0.06)
    assert take(holder)


@pytest.mark.parametrize("wrong", ["", "  ", "x" * 201, "a\0b"])
def test_a_tenant_has_a_name(store: SqlStore, wrong: str) -> None:
    with pytest.raises(UsageError):
        store.write(wrong, [touch()])


# The database itself


def test_migrations_make_the_tables_that_are_declared(database: str) -> None:
    open_store(database).close()
    engine = engine_of(database)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()
    assert ScriptDirectory(str(_FOLDER)).get_heads() == [tables.REVISION]
    assert all(next(iter(table.primary_key.columns)).name == "tenant" for table in tables.metadata.sorted_tables)


def test_an_upgrade_does_nothing_the_second_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    assert [upgrade_database(url) for _ in range(2)] == [(None, tables.REVISION), (tables.REVISION, tables.REVISION)]


def test_a_database_of_an_older_revision_keeps_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with monkeypatch.context() as older:
        older.setattr("serving.store.upgrade.REVISION", "0001")
        assert upgrade_database(url) == (None, "0001")
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("INSERT INTO leads VALUES ('t', 'a', NULL, 5, '{}')")
    connection.commit()
    connection.close()
    store = open_store(url)
    assert datetime_us(store.read("t", "a").record.created_at) == 5
    store.put("t", [Bundle(digest="d", version="1", packed=b"\0\1", kept_at=T)]).result()
    assert store.find(Bundle, "t")[0].packed == b"\0\1"
    store.close()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with ThreadPoolExecutor(6) as pool:
        stores = [*pool.map(lambda _: open_store(url), range(6))]
    for k, store in enumerate(stores):
        assert store.write("t", [touch(message=str(k)), touch(message="same")]).result().new >= 1
    assert len(touches_of(stores[0], "t")) == 7
    for store in stores:
        store.close()


def test_a_newer_database_is_refused(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    open_store(database).close()
    engine = engine_of(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        for attempt in (lambda: open_store(database), lambda: upgrade_database(database)):
            with pytest.raises(
                StoreError, match=rf"is of revision 9999.*knows up to {tables.REVISION}\. Install the version"
            ):
                attempt()
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{tables.REVISION}'"))
        engine.dispose()


def test_sqlite_is_durable(tmp_path: Path) -> None:
    engine = engine_of(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        }
    engine.dispose()
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "busy_timeout": 30_000,
    }


@pytest.mark.parametrize("query", [reading.ONE, reading.PAGE, reading.some("sqlite")])
def test_a_lead_is_read_without_looking_at_others(tmp_path: Path, query: str) -> None:
    """Whatever SQLite guesses of the sizes of tables: each is searched by more than its tenant."""
    store = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    named = {"tenant": "t", "lead_id": "a", "after": "", "size": 9, "ids": "[]"}
    plan = [row[3] for row in store._reader().execute(f"EXPLAIN QUERY PLAN {query}", named)]
    store.close()
    assert sum("USING" in step for step in plan) == 7
    assert not [step for step in plan if "(tenant=?)" in step]
    assert {step for step in plan if step.startswith("SCAN")} <= {
        "SCAN i",
        "SCAN wanted",
        "SCAN json_each VIRTUAL TABLE INDEX 1:",
    }


def test_a_locked_or_lost_database_is_an_error_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = open_store(f"sqlite:///{path}")
    store.write("t", [touch()]).result()
    with store._engine.connect() as connection:
        connection.exec_driver_sql("DROP TABLE touchpoints")
        connection.commit()
    with pytest.raises(StoreError, match="no such table"):
        store.write("t", [touch(at=T + 1)]).result()
    with pytest.raises(StoreError, match="no such table"):
        store.read("t", "a")
    store.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "a store is a file"),
        ("sqlite:///:memory:", "a store is a file"),
        ("mysql://localhost/x", "'mysql' is not supported"),
        ("nonsense", "is no URL of a database"),
    ],
)
def test_a_database_that_cannot_be(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_store(url)


def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(StoreError, match=r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x could not do it: connection"):
        open_store("postgresql://me:secret@127.0.0.1:1/x")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        open_store(f"sqlite:///{tmp_path}/none/x.db")


def test_postgresql_has_to_be_upgraded(postgres: str, request: pytest.FixtureRequest) -> None:
    server = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE empty_one"))
    url = postgres.rsplit("/", 1)[0] + "/empty_one"
    try:
        with pytest.raises(
            StoreError, match=r"holds no tables of Touchstone. Run: touchstone db upgrade --database post"
        ):
            open_store(url)
        with ThreadPoolExecutor(3) as pool:
            befores = [before for before, _ in pool.map(lambda _: upgrade_database(url), range(3))]
        assert sorted(befores, key=str) == [tables.REVISION, tables.REVISION, None]
        open_store(url).close()
    finally:
        with server.connect() as connection:
            connection.execute(text("DROP DATABASE empty_one WITH (FORCE)"))
        server.dispose()


def test_postgresql_shows_a_tenant_its_own_rows_alone(postgres_ready: str) -> None:
    """Whatever the statement says: as a plain role, and as the owner of the tables if that is no superuser."""
    server = create_engine(postgres_ready, isolation_level="AUTOCOMMIT")
    role = f"plain_{time.time_ns()}"
    store = open_store(postgres_ready)
    for tenant in ("one", "two"):
        rows = Fact("a", T, "x", 1), Outcome("a", T, True), Alias("b", "a", T), Quarantined(reason="r", body="b")
        store.write(tenant, [touch(message="m"), *map(said, rows)]).result()
        store.put(
            tenant, [Key(id="k", name="n", hash="h", scopes=(), created_at=T), Setting(name="s", body={})]
        ).result()
    store.close()
    with server.connect() as connection:
        guarded = set(
            connection.scalars(text("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"))
        )
        assert guarded == set(tables.GUARDED) == {t.name for t in tables.metadata.sorted_tables} - {"tenants"}
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"))
    plain = create_engine(create_engine(postgres_ready).url.set(username=role))
    try:
        for tenant, seen in (("one", {"one"}), ("nobody", set()), (None, set())):
            for table in tables.GUARDED:
                with plain.begin() as connection:
                    if tenant is not None:
                        connection.execute(text("SELECT set_config('touchstone.tenant', :t, true)"), {"t": tenant})
                    assert set(connection.scalars(text(f"SELECT tenant FROM {table}"))) <= seen, table
                    changed = connection.execute(text(f"DELETE FROM {table} WHERE tenant = 'two'"))
                    assert changed.rowcount == 0, table
        for table in ("leads", "keys", "settings", "messages"):
            with plain.begin() as connection:
                connection.execute(text("SELECT set_config('touchstone.tenant', 'one', true)"))
                assert connection.scalar(text(f"SELECT count(*) FROM {table}")) > 0, table
        with plain.connect() as connection, pytest.raises(Exception, match="row-level security"):
            connection.execute(text("SELECT set_config('touchstone.tenant', 'one', true)"))
            connection.execute(text("INSERT INTO settings VALUES ('two', 'x', '{}')"))
        # The service itself works as that role.
        limited = open_store(plain.url.render_as_string(hide_password=False))
        assert limited.write("one", [touch(message="m"), touch(message="n")]).result() == Written(1, 1)
        assert len(touches_of(limited, "one")) == 2 and limited.find(Key, "two")[0].id == "k"
        with limited._engine.connect() as connection:
            # A connection goes back to the pool without a tenant.
            assert not connection.scalar(text("SELECT current_setting('touchstone.tenant', true)"))
        limited.close()
    finally:
        plain.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
        server.dispose()
