"""Who may call the service, and how often: keys over both databases, and against a real server."""

import asyncio
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from test_serving import check_problem, lead
from trained import ROOT, Trained, serving

from features.errors import TouchstoneError, UsageError
from serving.background import SYSTEM
from serving.errors import Forbidden, TooMany, Unauthorized
from serving.keys import SCOPES, create_key, list_keys, parse, revoke_key, rotate_key
from serving.security import Bucket, Keys
from serving.store import Entry, Key, SqlStore, StoreError


def request(token: str | None, **headers: str) -> Request:
    given = {**headers} if token is None else {"authorization": f"Bearer {token}", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
    return Request({"type": "http", "headers": raw})


def admit(keys: Keys, token: str | None, scope: Any = "score", **headers: str) -> dict[str, Any]:
    """What is written of a request that is let in."""
    asked = request(token, **headers)
    asyncio.run(keys.admit(asked, scope))
    return {name: asked.scope[name] for name in ("tenant", "key", "imports")}


class Counting:
    """A store that counts how often it is asked."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.asked = 0

    def find(self, *arguments: Any, **named: Any) -> Any:
        self.asked += 1
        return self.store.find(*arguments, **named)


# --- keys in a store


def test_a_key_is_kept_as_a_hash_and_lets_its_tenant_in(lead_store: SqlStore, tenant: str) -> None:
    key, token = create_key(lead_store, tenant, "crm", ["score", "read", "score"], "cli:me")
    assert re.fullmatch(r"ts_[a-z2-7]+-[0-9a-f]{8}_[0-9a-f]{64}", token)
    assert parse(token) == (tenant, key.id, token.rpartition("_")[2])
    assert key.scopes == ("score", "read")
    secret = token.rpartition("_")[2]
    assert secret not in repr(lead_store.find(Key, tenant)) + repr(lead_store.find(Entry, tenant))
    assert admit(Keys(lead_store), token) == {"tenant": tenant, "key": key.id, "imports": False}
    [entry] = lead_store.find(Entry, tenant)
    assert (entry.actor, entry.action, entry.subject) == ("cli:me", "key created", key.id)
    assert entry.detail == {"name": "crm", "scopes": ["score", "read"]}


@pytest.mark.parametrize("name", ["default", "Zürich & Söhne", "a_b-c", "x" * 200])
def test_any_tenant_is_found_by_its_key(lead_store: SqlStore, tenant: str, name: str) -> None:
    name = f"{tenant[-6:]}{name}"[:200]
    _, token = create_key(lead_store, name, "crm", ["score"], "me")
    assert admit(Keys(lead_store), token)["tenant"] == name


def test_scopes_hold(lead_store: SqlStore, tenant: str) -> None:
    keys = Keys(lead_store)
    for mine in SCOPES:
        _, token = create_key(lead_store, tenant, mine, [mine], "me")
        for asked in ("ingest", "score", "read", "admin"):
            if asked == mine or (mine, asked) == ("import", "ingest"):
                assert admit(keys, token, asked)["imports"] == (mine == "import")
            else:
                with pytest.raises(Forbidden, match=f"not the scope '{asked}', but {mine}. Use one that has"):
                    admit(keys, token, asked)


def test_scopes_that_are_none_are_refused(lead_store: SqlStore, tenant: str) -> None:
    with pytest.raises(UsageError, match=r"--scope write: there is no such scope\. Use ingest, score"):
        create_key(lead_store, tenant, "crm", ["score", "write"], "me")
    with pytest.raises(UsageError, match="a key needs --scope"):
        create_key(lead_store, tenant, "crm", [], "me")
    with pytest.raises(UsageError, match="--tenant _touchstone: that name is the service's own"):
        create_key(lead_store, SYSTEM, "crm", ["score"], "me")
    assert lead_store.find(Key, tenant) == []


def test_a_key_is_sent_in_any_of_three_ways(lead_store: SqlStore, tenant: str) -> None:
    _, token = create_key(lead_store, tenant, "crm", ["score"], "me")
    keys = Keys(lead_store)
    for password in ("", "anything"):
        basic = base64.b64encode(f"{token}:{password}".encode()).decode()
        assert admit(keys, None, authorization=f"Basic {basic}")["tenant"] == tenant
    assert admit(keys, None, authorization=f"bearer  {token} ")["tenant"] == tenant
    assert admit(keys, None, x_api_key=token)["tenant"] == tenant


def test_what_is_no_key_is_refused(lead_store: SqlStore, tenant: str) -> None:
    key, token = create_key(lead_store, tenant, "crm", ["score"], "me")
    other, _ = create_key(lead_store, tenant, "other", ["score"], "me")
    secret = token.rpartition("_")[2]
    wrong = [
        "", "x", "ts__", f"ts_{key.id}", f"ts_{key.id}_", f"ts_{key.id}_{secret[:-1]}", f"ts_{key.id}_{secret}0",
        f"ts_{key.id}_{'0' * 64}", f"ts_{other.id}_{secret}", f"ts_{key.id}0_{secret}", f"ts_?-1_{secret}",
        f"TS_{key.id}_{secret}", f"ts_-1_{secret}", f"ts_{key.id}_{key.hash}", "ts_aa-1_é", "é",
    ]  # fmt: skip
    keys = Keys(lead_store)
    for sent in wrong:
        with pytest.raises(Unauthorized, match="API key"):
            admit(keys, None, x_api_key=sent)
    for header in ("Basic !", "Basic", "Basic /w==", "Digest x", ""):
        with pytest.raises(Unauthorized):
            admit(keys, None, authorization=header)
    assert admit(keys, token)


def test_a_rotated_key_holds_for_the_grace_period(lead_store: SqlStore, tenant: str) -> None:
    old, token = create_key(lead_store, tenant, "crm", ["score", "import"], "me")
    new, newer = rotate_key(lead_store, old.id, 0.4, "me")
    assert (new.name, new.scopes) == (old.name, old.scopes)
    keys = Keys(lead_store)
    assert admit(keys, token)["key"] == old.id
    assert admit(keys, newer)["key"] == new.id
    time.sleep(0.5)
    # Also where it is remembered.
    with pytest.raises(Unauthorized):
        admit(keys, token)
    assert admit(keys, newer)
    with pytest.raises(TouchstoneError, match="is revoked or rotated already"):
        rotate_key(lead_store, old.id, 0.0, "me")
    newest, _ = rotate_key(lead_store, new.id, 0.0, "me")
    with pytest.raises(Unauthorized):
        admit(Keys(lead_store), newer)
    assert [key.id for _, key in list_keys(lead_store, tenant) if key.revoked_at is None] == [newest.id]
    rotated = [entry for entry in lead_store.find(Entry, tenant) if entry.action == "key rotated"]
    assert [entry.detail["to"] for entry in rotated] == [new.id, newest.id]


def test_a_revoked_key_ends_within_five_seconds(lead_store: SqlStore, tenant: str) -> None:
    key, token = create_key(lead_store, tenant, "crm", ["score"], "me")
    keys = Keys(lead_store)
    admit(keys, token)
    revoke_key(lead_store, key.id, "me")
    revoked, held = time.monotonic(), 0.0
    while held < 6.0:
        try:
            admit(keys, token)
        except Unauthorized:
            break
        held = time.monotonic() - revoked
        time.sleep(0.05)
    assert held < 5.0
    for again in (key.id, "nothing", "mrswmylvnr2a-00000000"):
        with pytest.raises(TouchstoneError, match=r"revoked|there is no key"):
            revoke_key(lead_store, again, "me")


def test_the_store_is_asked_seldom_even_for_unknown_keys(lead_store: SqlStore, tenant: str) -> None:
    _, token = create_key(lead_store, tenant, "crm", ["score"], "me")
    counting = Counting(lead_store)
    keys = Keys(counting)

    async def many(sent: str) -> int:
        tries = (keys.admit(request(sent), "score") for _ in range(100))
        return sum(got is None for got in await asyncio.gather(*tries, return_exceptions=True))

    assert [asyncio.run(many(token)), counting.asked] == [100, 1]
    unknown = token.replace("-", "-0", 1)
    assert [asyncio.run(many(unknown)), counting.asked] == [0, 2]
    assert [asyncio.run(many(unknown)), asyncio.run(many(token)), counting.asked] == [0, 100, 2]

    async def strangers() -> None:
        for number in range(1_100):
            with pytest.raises(Unauthorized):
                await keys.admit(request(token.replace("-", f"-{number}x", 1)), "score")

    asyncio.run(strangers())
    before = counting.asked
    assert asyncio.run(many(token)) == 100
    assert counting.asked - before <= 1


def test_where_the_store_fails_nobody_is_let_in(lead_store: SqlStore, tenant: str) -> None:
    _, token = create_key(lead_store, tenant, "crm", ["score"], "me")

    class Broken:
        def find(self, *_: Any) -> Any:
            raise StoreError("it is away.")

    with pytest.raises(StoreError):
        admit(Keys(Broken()), token)


def test_a_key_may_send_so_many(lead_store: SqlStore, tenant: str) -> None:
    _, token = create_key(lead_store, tenant, "crm", ["score"], "me")
    _, other = create_key(lead_store, tenant, "crm", ["score"], "me")
    keys = Keys(lead_store, rate=0.5, burst=3)
    for _ in range(3):
        admit(keys, token)
    with pytest.raises(TooMany, match=r"more than 0.5 requests a second.*Send it again in 2 s") as problem:
        admit(keys, token)
    assert problem.value.headers == {"Retry-After": "2"}
    assert admit(keys, other)


def test_a_bucket_fills_up_again() -> None:
    bucket = Bucket(rate=10.0, burst=5)
    taken = [bucket.take(now=100.0 + 0.01 * step) == 0.0 for step in range(1_000)]
    assert taken[:5] == [True] * 5
    assert abs(sum(taken) - 5 - 100) <= 1
    assert [bucket.take(now=1e6) for _ in range(5)] == [0.0] * 5
    assert bucket.take(now=1e6) > 0


# --- a real server


@pytest.fixture(scope="module")
def guarded(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, str]]:
    """A server that asks for keys, and the URL of its database."""
    database = f"sqlite:///{tmp_path_factory.mktemp('guarded') / 'touchstone.db'}"
    with (
        serving(trained.bundle, "--database", database, no_auth=False) as (_, address),
        httpx.Client(base_url=address, timeout=300) as client,
    ):
        yield client, database


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "touchstone", *arguments], cwd=ROOT, capture_output=True, text=True)


def keys_command(database: str, *arguments: str) -> Any:
    done = command("keys", *arguments, "--database", database, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_server_lets_keys_in_from_their_making_to_their_end(guarded: tuple[httpx.Client, str]) -> None:
    client, database = guarded
    refused = client.post("/v1/score", json=lead())
    check_problem(refused, 401, None, "needs an API key. Send it as `Authorization: Bearer")
    assert re.match("Bearer .*, Basic ", refused.headers["www-authenticate"])
    assert client.get("/healthz").status_code == client.get("/openapi.json").status_code == 200
    made = keys_command(database, "create", "crm", "--scope", "score")
    auth = bearer(made["key"])
    assert client.post("/v1/score", json=lead(), headers=auth).status_code == 200
    assert client.post("/v1/score", json=lead(), auth=(made["key"], "")).status_code == 200
    for path in ("/v1/model", "/metrics"):
        check_problem(client.get(path, headers=auth), 403, None, "has not the scope 'read', but score")
    check_problem(client.post("/v1/score/bulk", json={"leads": []}), 401, None, "API key")
    shown = keys_command(database, "list")["keys"]
    assert [(each["id"], each["state"], each["scopes"]) for each in shown] == [(made["id"], "valid", ["score"])]
    assert made["key"].rpartition("_")[2] not in json.dumps(shown)
    rotated = keys_command(database, "rotate", made["id"], "--grace", "1h")
    assert rotated["replaces"] == made["id"]
    for token in (made["key"], rotated["key"]):
        assert client.post("/v1/score", json=lead(), headers=bearer(token)).status_code == 200
    keys_command(database, "revoke", rotated["id"])
    time.sleep(5)
    assert client.post("/v1/score", json=lead(), headers=bearer(rotated["key"])).status_code == 401
    states = {each["id"]: each["state"].split()[0] for each in keys_command(database, "list")["keys"]}
    assert states == {made["id"]: "until", rotated["id"]: "revoked"}


def test_keys_say_what_is_wrong(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 't.db'}"
    for arguments, code, says in [
        (("revoke", "nothing"), 1, "there is no key 'nothing'. `touchstone keys list` shows them"),
        (("create", "crm", "--scope", "write"), 2, "--scope write: there is no such scope"),
        (("create", "crm"), 2, "--scope"),
        (("rotate", "x", "--grace", "soon"), 2, "'soon' is not a span of time"),
    ]:
        done = command("keys", *arguments, "--database", database)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert says in " ".join(done.stderr.replace("│", " ").split()), done.stderr
    assert "no API key yet" in command("keys", "list", "--database", database).stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_without_keys_the_service_is_for_this_machine_alone(trained: Trained, host: str) -> None:
    done = command("serve", "--no-auth", "--model", str(trained.bundle), "--host", host, "--port", "0")
    assert done.returncode == 2
    assert "can be reached from elsewhere. Serve on 127.0.0.1, or leave --no-auth out" in done.stderr


def test_a_read_only_folder_is_named_with_its_mend(trained: Trained, tmp_path: Path) -> None:
    from test_compiled import RESTRICTED

    folder = tmp_path / "container"
    folder.mkdir()
    folder.chmod(0o555)
    done = subprocess.run(
        [*RESTRICTED, "-m", "touchstone", "serve", "--model", str(trained.bundle), "--port", "0"],
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(
        "touchstone.db cannot be written, for .*container is read-only. Name a database in", done.stderr
    ), done.stderr
