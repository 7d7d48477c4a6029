"""Webhooks: where events may go, how they are signed, and that each arrives, in order, whatever breaks meanwhile."""

from __future__ import annotations

import hmac
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import msgspec
import pytest
from receiver import Receiver, receiving
from small import scorer
from test_ingest import Caller
from test_leads import BORN, said, until
from test_serving import check_problem, lead
from trained import Trained, serving

from models import load_bundle
from serving.access import Open
from serving.deliver import Sender
from serving.keys import create_key
from serving.outbound import OutboundError, Target, is_public, post
from serving.pages import cursor_of
from serving.policy import Cuts, Policy, set_policy
from serving.routes.scores import answer
from serving.schemas import ScoreRequest
from serving.service import Service
from serving.settings import Settings
from serving.store import Delivery, Entry, Lead, SqlStore, Webhook, open_store
from serving.sweep import sweep_tenant
from serving.webhooks import retry, signature, subscribe

DOCS = Path(__file__).parents[1] / "docs" / "routing.md"
EVENTS = ["lead.tier_changed"]


def is_genuine() -> Callable[..., bool]:
    """The check that docs/routing.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: Callable[..., bool] = names["is_genuine"]
    return found


def test_the_documented_check_tells_ours_from_others() -> None:
    check, now, body = is_genuine(), int(time.time()), b'{"id": "evt_1"}'
    header = signature("whsec_1", now, body)
    # By the words of the documentation, with a tool of its own.
    by_hand = hmac.new(b"whsec_1", str(now).encode() + b"." + body, sha256).hexdigest()
    assert header == f"t={now},v1={by_hand}"
    assert check("whsec_1", header, body)
    assert not check("whsec_2", header, body)
    assert not check("whsec_1", header, body + b" ")
    assert not check("whsec_1", signature("whsec_1", now - 301, body), body)
    assert not check("whsec_1", header.replace(f"t={now}", f"t={now - 1}"), body)
    for wrong in ("", "t=", "v1=abc", "t=x,v1=y", f"t={now}"):
        assert not check("whsec_1", wrong, body)


# --- where events may go

PRIVATE = (
    "127.0.0.1", "127.9.9.9", "[::1]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "[::]",
    "100.64.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]",
    "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255", "[ff02::1]",
    "192.0.2.1", "[2001:db8::1]",
)  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_no_private_address_is_taken_unless_it_is_allowed(tmp_path: Path, host: str) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/t.db")) as store:
        url = f"https://{host}/hooks"
        refused = Caller(store)("POST", "/v1/webhooks", {"url": url})
        check_problem(refused, 422, "url", "is not a public address.*TOUCHSTONE_WEBHOOK_PRIVATE")
        assert store.find(Webhook, "acme") == []
        with pytest.raises(OutboundError, match="not a public address"):
            post(url, b"{}", {}, private=False, seconds=1)
        allowed = Caller(store, Settings(webhook_private=True))
        assert allowed("POST", "/v1/webhooks", {"url": url}).status_code == 200
        assert allowed("POST", "/v1/webhooks", {"url": f"http://{host}/"}).status_code == 200


@pytest.mark.parametrize(
    "url",
    ["ftp://crm.example/", "https://", "https:///x", "crm.example", "https://user@crm.example/", "https://crm.example:x/",
     "https://crm.example:99999/", "https://crm.example/\r\nx: y", "https://crm.example/ x", "https://[::1/",
     "https://crm\u00fc.example/", "file:///etc/passwd", "http://93.184.215.14/", "\x00"],
)  # fmt: skip
def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/t.db")) as store:
        check_problem(Caller(store)("POST", "/v1/webhooks", {"url": url}), 422, "url", "Send|leave that out")


def test_public_addresses_are_public() -> None:
    for public in ("93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"):
        assert is_public(public)
    assert Target.of("https://crm.example:8443?a=b", private=False) == (
        True, "crm.example", 8443, "crm.example:8443", "/?a=b",
    )  # fmt: skip


def test_a_name_with_a_private_address_among_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, port: int, **_: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in ("93.184.215.14", "10.0.0.7")]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with pytest.raises(OutboundError, match="not a public address"):
        post("https://crm.example/", b"{}", {}, private=False, seconds=1)


def test_the_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another address the second time gains nothing: there is no second time."""
    asked = []

    def found(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        assert len(asked) == 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with receiving(Receiver()) as receiver:
        monkeypatch.setattr(socket, "getaddrinfo", found)
        url = f"http://crm.example:{receiver.port}/a?b=c"
        assert post(url, b"{}", {"X": "y"}, private=True, seconds=5) == 200
    ((headers, body, _),) = receiver.got
    assert (headers["host"], headers["x"], body) == (f"crm.example:{receiver.port}", "y", b"{}")
    assert headers["content-type"] == "application/json" and asked == ["crm.example"]


def test_no_redirect_is_followed() -> None:
    with receiving(Receiver()) as inside, receiving(Receiver(lambda event: 302, location=inside.url)) as receiver:
        assert post(receiver.url, b"{}", {}, private=True, seconds=5) == 302
    assert len(receiver.got) == 1 and inside.got == []


def test_a_receiver_that_answers_a_byte_at_a_time_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ending = Event()

        def drip() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                while not ending.wait(0.1):
                    try:
                        caller.sendall(b"y")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(OutboundError, match=r"did not answer within 0\.5 s"):
            post(f"http://127.0.0.1:{listener.getsockname()[1]}/", b"{}", {}, private=True, seconds=0.5)
        assert time.monotonic() - begun < 5
        ending.set()
        thread.join()
    with pytest.raises(OutboundError, match="did not answer: ConnectionRefusedError"):
        post(f"http://127.0.0.1:{_free_port()}/", b"{}", {}, private=True, seconds=1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_the_receiver_has_to_prove_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with receiving(Receiver(), context) as receiver:
        named, numbered = (f"https://{host}:{receiver.port}/" for host in ("localhost", "127.0.0.1"))
        with pytest.raises(OutboundError, match="SSLCertVerificationError"):
            post(named, b"{}", {}, private=True, seconds=5)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert post(named, b"{}", {}, private=True, seconds=5) == 200
        with pytest.raises(OutboundError, match="SSLCertVerificationError"):
            post(numbered, b"{}", {}, private=True, seconds=5)
    assert len(receiver.got) == 1


# --- over HTTP


def test_webhooks_are_made_listed_and_ended(lead_store: SqlStore, tenant: str) -> None:
    call = Caller(lead_store, tenant=tenant)
    made = call("POST", "/v1/webhooks", {"url": "https://93.184.215.14/hooks"}).json()
    assert re.fullmatch(r"whsec_[0-9a-f]{64}", made["secret"]) and made["events"] == EVENTS
    other = call("POST", "/v1/webhooks", {"url": "https://93.184.215.14/hooks", "events": EVENTS}).json()
    assert made["secret"] != other["secret"]
    listed = call("GET", "/v1/webhooks")
    assert "whsec" not in listed.text
    shown = [{name: each[name] for name in each if name != "secret"} for each in (made, other)]
    assert sorted(listed.json()["webhooks"], key=str) == sorted(shown, key=str)
    assert Caller(lead_store, tenant=f"{tenant}-other")("GET", "/v1/webhooks").json() == {"webhooks": []}
    stranger = Caller(lead_store, tenant=f"{tenant}-other")("DELETE", f"/v1/webhooks/{made['id']}")
    check_problem(stranger, 404, None, "There is no webhook")
    assert call("DELETE", f"/v1/webhooks/{made['id']}").json() == {"deleted": 1}
    check_problem(call("DELETE", f"/v1/webhooks/{made['id']}"), 404, None, "There is no webhook")
    check_problem(call("DELETE", "/v1/webhooks/%00%ff"), 404, None, "There is no webhook")
    check_problem(call("POST", "/v1/webhooks", {"url": "https://93.184.215.14/", "events": []}), 422, "events", "short")
    check_problem(
        call("POST", "/v1/webhooks", {"url": "https://93.184.215.14/", "events": ["x"]}), 422, "events[0]", "Send lead"
    )
    said = [(entry.action, entry.subject) for entry in lead_store.find(Entry, tenant)]
    expected = [("webhook created", made["id"]), ("webhook created", other["id"]), ("webhook deleted", made["id"])]
    assert said == expected


def dead(store: SqlStore, tenant: str, count: int) -> list[Delivery]:
    letters = [
        Delivery(
            id=f"evt_{k}", webhook_id="wh", lead_id="L", event=EVENTS[0], body="{}", created_at=k // 2, due_at=0,
            attempts=20, state="dead", problem="it answered 500",
        )
        for k in range(count)
    ]  # fmt: skip
    store.put(tenant, letters).result()
    return letters


def test_dead_letters_are_listed_in_pages_and_sent_again(lead_store: SqlStore, tenant: str) -> None:
    dead(lead_store, tenant, 5)
    call = Caller(lead_store, tenant=tenant)
    whole = call("GET", "/v1/webhooks/deliveries?state=dead").json()
    assert [each["id"] for each in whole["deliveries"]] == [f"evt_{k}" for k in (4, 3, 2, 1, 0)]
    assert whole["next"] is None and whole["deliveries"][0]["problem"] == "it answered 500"
    seen, cursor = [], ""
    while cursor is not None:
        page = call("GET", f"/v1/webhooks/deliveries?limit=2{f'&cursor={cursor}' if cursor else ''}").json()
        seen += page["deliveries"]
        cursor = page["next"]
    assert seen == whole["deliveries"]
    stranger = Caller(lead_store, tenant=f"{tenant}-other")("POST", "/v1/webhooks/deliveries/evt_3/retry")
    check_problem(stranger, 404, None, "There is no dead letter")
    again = call("POST", "/v1/webhooks/deliveries/evt_3/retry").json()
    assert (again["state"], again["attempts"]) == ("waiting", 0)
    check_problem(call("POST", "/v1/webhooks/deliveries/evt_3/retry"), 404, None, "There is no dead letter")
    assert [each["id"] for each in call("GET", "/v1/webhooks/deliveries?state=waiting").json()["deliveries"]] == [
        "evt_3"
    ]
    assert len(call("GET", "/v1/webhooks/deliveries").json()["deliveries"]) == 4
    check_problem(call("GET", "/v1/webhooks/deliveries?state=lost"), 422, "state", "waiting, delivered, dead")
    for cursor in ("x", cursor_of((2**63, "a")), cursor_of((-(2**70), "a")), cursor_of((5, "a\0"))):
        check_problem(call("GET", f"/v1/webhooks/deliveries?cursor={cursor}"), 422, "cursor", "no cursor")


# --- deliveries


@pytest.fixture
def service(lead_store: SqlStore, tenant: str) -> Service:
    options = Settings(webhook_private=True, webhook_attempts=3, webhook_retry_seconds=0.2)
    return Service(scorer("logistic"), lead_store, Open(tenant), options)


class Mine(Sender):
    """A sender of one tenant: databases of PostgreSQL are shared."""

    def __init__(self, service: Service, tenant: str) -> None:
        super().__init__(service, Event())
        self.tenant = tenant

    def _look(self) -> None:
        super()._look()
        self.webhooks = [each for each in self.webhooks if each[0] == self.tenant]


def cut(service: Service, tenant: str, hot: float) -> None:
    """Has every lead change its tier."""
    set_policy(service.store, tenant, Policy(tiers=Cuts(warm=0.0, hot=hot)), "test")
    sweep_tenant(service, tenant, Event())


def states(service: Service, tenant: str) -> list[str]:
    return [each.state for each in service.store.find(Delivery, tenant)]


def test_what_is_not_taken_is_sent_again_and_given_up_in_the_end(
    service: Service, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, store = Mine(service, tenant), service.store
    store.write(tenant, said(Lead("L-1", BORN))).result()
    with receiving(Receiver(lambda event: 404)) as receiver:
        subscribe(store, tenant, receiver.url, EVENTS, "test")
        cut(service, tenant, 1.0)
        now = time.time_ns() // 1_000
        monkeypatch.setattr("serving.deliver._now", lambda: now)
        for attempt, longest in ((1, 0.25e6), (2, 0.5e6)):
            sender.send_due()
            (one,) = store.find(Delivery, tenant)
            assert (one.state, one.attempts, one.problem) == ("waiting", attempt, "it answered 404")
            assert 0.6 * longest <= one.due_at - now <= longest
            now = one.due_at - 1
            sender.send_due()
            assert len(receiver.got) == attempt  # not before it is due
            now = one.due_at
        sender.send_due()
        (one,) = store.find(Delivery, tenant)
        assert (one.state, one.attempts) == ("dead", 3)
        sender.send_due()
        assert len(receiver.got) == 3
        assert len({body for _, body, _ in receiver.got}) == 1
        receiver.answer = lambda event: 204
        assert retry(store, tenant, one.id)
        now = time.time_ns() // 1_000
        sender.send_due()
        (one,) = store.find(Delivery, tenant)
        assert (one.state, one.attempts, one.problem) == ("delivered", 1, None)


def test_a_later_event_of_a_lead_waits_for_the_earlier_one_and_holds_up_no_other(service: Service, tenant: str) -> None:
    sender, store = Mine(service, tenant), service.store
    store.write(tenant, said(Lead("L-1", BORN), Lead("L-2", BORN))).result()
    refused = 2

    def answer(event: Any) -> int:
        nonlocal refused
        if (event["lead_id"], event["to"]) == ("L-1", "warm") and refused:
            refused -= 1
            return 400
        return 200

    with receiving(Receiver(answer)) as receiver:
        subscribe(store, tenant, receiver.url, EVENTS, "test")
        cut(service, tenant, 1.0)
        sender.send_due()
        cut(service, tenant, 0.0)
        sender.send_due()
        assert [(each["lead_id"], each["to"]) for each in receiver.events()] == [("L-2", "warm"), ("L-2", "hot")]
        until(lambda: sender.send_due() or states(service, tenant) == ["delivered"] * 4)
    assert [each["to"] for each in receiver.events() if each["lead_id"] == "L-1"] == ["warm", "hot"]
    assert len(receiver.got) == 6


def test_a_receiver_in_trouble_is_tried_one_at_a_time(service: Service, tenant: str) -> None:
    sender, store = Mine(service, tenant), service.store
    store.write(tenant, said(*(Lead(f"L-{k}", BORN) for k in range(5)))).result()
    with receiving(Receiver(lambda event: 503)) as receiver, receiving(Receiver()) as well:
        subscribe(store, tenant, receiver.url, EVENTS, "test")
        subscribe(store, tenant, well.url, EVENTS, "test")
        cut(service, tenant, 1.0)
        sender.send_due()
        assert len(receiver.got) == 1 and len(well.got) == 5


def test_what_may_not_be_sent_there_any_more_is_not(service: Service, tenant: str) -> None:
    """The name of a webhook may come to mean a private address after it was made."""
    store = service.store
    store.write(tenant, said(Lead("L-1", BORN))).result()
    strict = Service(service.scorer, store, Open(tenant), Settings())
    with receiving(Receiver()) as receiver:
        for scheme in ("http", "https"):
            subscribe(store, tenant, receiver.url.replace("http", scheme), EVENTS, "test")
        cut(service, tenant, 1.0)
        Mine(strict, tenant).send_due()
    assert receiver.got == []
    problems = sorted(str(each.problem) for each in store.find(Delivery, tenant))
    assert "is not a public address" in problems[0] and "would be sent in the open" in problems[1]


def test_who_is_deleted_while_something_is_sent_does_not_come_back(service: Service, tenant: str) -> None:
    store = service.store
    store.write(tenant, said(Lead("L-1", BORN))).result()

    def answer(event: Any) -> int:
        store.delete(tenant, "L-1").result()
        return 500

    with receiving(Receiver(answer)) as receiver:
        subscribe(store, tenant, receiver.url, EVENTS, "test")
        cut(service, tenant, 1.0)
        Mine(service, tenant).send_due()
    assert len(receiver.got) == 1 and store.find(Delivery, tenant) == []


def test_events_arrive_though_the_receiver_and_the_service_break(
    trained: Trained, database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service as it runs: a touch comes in, and sales is told within seconds; then both are killed."""
    monkeypatch.setenv("TOUCHSTONE_WEBHOOK_PRIVATE", "true")
    monkeypatch.setenv("TOUCHSTONE_WEBHOOK_RETRY_SECONDS", "0.2")
    with closing(open_store(database)) as store:
        _, token = create_key(store, tenant, "crm", ["ingest", "read", "admin", "score"], "test")
        _, past = create_key(store, tenant, "past", ["import"], "test")
    auth = {"Authorization": f"Bearer {token}"}
    names = [f"L-{k}" for k in range(5)]
    # A sweep that began late may tell of the lead that was loaded too.
    receiver = Receiver(lambda event: 200 if event["lead_id"] == "loaded" else (0, 500, 200)[min(2, len(mine()))])

    def mine() -> list[tuple[bytes, int]]:
        return [(body, status) for _, body, status in list(receiver.got) if b'"loaded"' not in body]

    def touch(client: httpx.Client, *leads: str, **headers: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sent = [{"lead_id": name, "occurred_at": now, "channel": "website", "action": "pricing"} for name in leads]
        assert client.post("/v1/touchpoints", json={"touchpoints": sent}, headers=headers).status_code == 200

    with receiving(receiver), serving(trained.bundle, "--database", database, no_auth=False) as (process, address):
        client = httpx.Client(base_url=address, headers=auth, timeout=300)
        with client:
            secret = client.post("/v1/webhooks", json={"url": receiver.url}).json()["secret"]
            client.put("/v1/policy", json={"tiers": {"warm": 0.0, "hot": 1.0}})
            touch(client, "loaded", Authorization=f"Bearer {past}")
            touch(client, "L-0")
            until(lambda: len(mine()) == 3)
            assert [status for _, status in mine()] == [0, 500, 200]
            assert len({body for body, _ in mine()}) == 1
            first = json.loads(mine()[0][0])
            assert (first["lead_id"], first["from"], first["to"]) == ("L-0", "cold", "warm")
            receiver.answer = lambda event: 503
            touch(client, *names[1:])
            until(lambda: len(mine()) > 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
    # While nobody listens the leads change again.
    with (
        serving(trained.bundle, "--database", database, no_auth=False) as (_, address),
        httpx.Client(base_url=address, headers=auth, timeout=300) as client,
    ):
        client.put("/v1/policy", json={"tiers": {"warm": 0.0, "hot": 0.0}})
        touch(client, *names)
        until(lambda: len(client.get("/v1/webhooks/deliveries?state=waiting").json()["deliveries"]) >= 9)
        receiver.answer = lambda event: 200
        with receiving(receiver):
            until(lambda: not client.get("/v1/webhooks/deliveries?state=waiting").json()["deliveries"], 60)
        listed = client.get("/v1/leads").json()["leads"]
    # Each once or more, in order.
    taken = receiver.events()
    for name in names:
        told = list(dict.fromkeys(each["id"] for each in taken if each["lead_id"] == name))
        assert [next(e["to"] for e in taken if e["id"] == one) for one in told] == ["warm", "hot"]
    assert {row["tier"] for row in listed if row["lead_id"] in names} == {"hot"}
    check = is_genuine()
    for headers, body, _ in receiver.got:
        assert check(secret, headers["touchstone-signature"], body)


def test_the_reasons_of_an_event_are_those_of_the_score(service: Service, tenant: str, trained: Trained) -> None:
    """But for what an attribute is."""
    store, model = service.store, load_bundle(trained.bundle)
    service.scorer = model
    body = lead(3)
    message = {name: body[name] for name in ("created_at", "attributes")}
    call = Caller(store, tenant=tenant)
    assert call("PUT", "/v1/leads/L-3", message).status_code == 200
    subscribe(store, tenant, "https://a.example/", EVENTS, "test")
    cut(service, tenant, 1.0)
    (one,) = store.find(Delivery, tenant)
    event = json.loads(one.body)
    asked = msgspec.convert(
        {"lead_id": "L-3", "created_at": body["created_at"], "attributes": body["attributes"], "as_of": event["as_of"]},
        ScoreRequest,
    )
    (score,) = answer(model, [asked], 3)
    assert score.reasons and score.probability == event["probability"]
    assert [text.partition(":")[2] for text in event["reasons"]] == [
        reason.text.partition(":")[2] for reason in score.reasons
    ]
    for text, reason in zip(event["reasons"], score.reasons, strict=True):
        name = text.partition(":")[0]
        assert reason.text.startswith(f"{name} ") and name in ("industry", "size")
