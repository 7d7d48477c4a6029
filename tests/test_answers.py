"""Changes, forecast and timeline of stored leads over HTTP: true to what the score of each instant is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from running import running
from small import scorer
from stores import fill
from test_serving import check_problem
from trained import Trained

from features import Dataset
from features.times import isoformat, to_us
from models import load_bundle
from serving.access import Open
from serving.store import Alias, Fact, Lead, Message, Touch, open_store

if TYPE_CHECKING:
    from serving.store import Row, SqlStore

DAY = 86_400_000_000
BORN = to_us("2026-01-01T00:00:00Z")


@pytest.fixture
def client(trained: Trained, lead_store: SqlStore, tenant: str) -> Iterator[httpx.Client]:
    served = load_bundle(trained.bundle)
    with running(served, lead_store, Open(tenant)) as address, httpx.Client(base_url=address, timeout=300) as opened:
        yield opened


def day(number: float) -> str:
    return isoformat(BORN + round(number * DAY))


def write(store: SqlStore, tenant: str, *rows: tuple[float, Row]) -> None:
    """Writes rows, each with the day on which it became known."""
    for known, row in rows:
        store.write(tenant, [Message(rows=(row,), recorded_at=BORN + round(known * DAY))]).result()


def touch(name: str, number: float, channel: str, action: str | None = None) -> tuple[float, Row]:
    return number, Touch(name, BORN + round(number * DAY), channel, action)


def write_lead(store: SqlStore, tenant: str) -> None:
    """A lead with touches, a fact, a touch recorded late, a visitor who turned out to be it, and a booked demo."""
    write(
        store, tenant, (0, Lead("L", BORN, {"industry": "software", "size": 0.3})),
        *(touch("L", k, "website", "pricing") for k in (2, 4, 12)), touch("L", 13, "email", "click"),
        (15, Touch("L", BORN + 5 * DAY, "call", "talk")), (14, Fact("L", BORN + 14 * DAY, "size", 0.9)),
        touch("visitor", 3, "webinar", "attend"), (16, Alias("visitor", "L", BORN + 16 * DAY)),
        (6, Touch("L", BORN + 25 * DAY, "demo", "attend")),
    )  # fmt: skip


def ask(client: httpx.Client, what: str, **parameters: Any) -> Any:
    answer = client.get(f"/v1/leads/L/{what}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def short(score: dict[str, Any]) -> dict[str, Any]:
    return {name: score[name] for name in ("as_of", "probability", "score", "tier")}


def test_the_change_of_a_stored_lead(client: httpx.Client, lead_store: SqlStore, tenant: str) -> None:
    write_lead(lead_store, tenant)
    found = ask(client, "changes", since=day(10), as_of=day(20))
    before, after = (ask(client, "score", as_of=day(number)) for number in (10, 20))
    assert (found["before"], found["after"]) == (short(before), short(after))
    assert found["change"] == after["probability"] - before["probability"] != 0
    assert abs(sum(part["effect"] for part in found["parts"]) - found["change"]) < 1e-9
    assert [(part["cause"], part["name"], part["count"]) for part in found["parts"]] == [
        ("cooling", None, 0), ("attribute", "size", 1), ("touches", "website_pricing", 1),
        ("touches", "email_click", 1), ("touches", "call_talk", 1), ("touches", "webinar_attend", 1),
    ]  # fmt: skip
    assert [part["text"].partition(":")[0] for part in found["parts"]] == [
        "10 days without anything new", "size 0.9 instead of 0.3", "1 website pricing came in", "1 email click came in",
        "1 call talk came in, from earlier", "1 webinar attend came in, from earlier",
    ]  # fmt: skip
    # What passed is what the forecast of that day said.
    ahead = ask(client, "forecast", as_of=day(10), days=10)["days"][9]
    assert found["parts"][0]["effect"] == ahead["probability"] - before["probability"]
    assert found["model_before"] == found["model"] == after["model"]
    assert (found["lead_id"], found["since"], found["as_of"]) == ("L", day(10), day(20))
    # Left out, it is now.
    assert ask(client, "changes", since=day(10))["as_of"] > "2026-02"


def test_a_forecast_of_a_stored_lead_is_its_score_when_the_day_comes(
    client: httpx.Client, lead_store: SqlStore, tenant: str
) -> None:
    write_lead(lead_store, tenant)
    for begin in (2.5, 16.5):
        found = ask(client, "forecast", as_of=day(begin), days=8)
        assert found["now"] == short(ask(client, "score", as_of=day(begin)))
        scores = [ask(client, "score", as_of=day(begin + k)) for k in range(1, 9)]
        assert len(found["days"]) == 8
        # Until the next thing becomes known: a touch on day 4, the booked demo on day 25.
        until = 1 if begin == 2.5 else 8
        assert found["days"][:until] == [short(score) for score in scores[:until]]
        assert begin == 16.5 or found["days"][1] != short(scores[1])
    # The demo is in the store, and yet to come.
    found = ask(client, "forecast", as_of=day(20), days=10)
    scores = [short(ask(client, "score", as_of=day(20 + k))) for k in range(1, 11)]
    assert found["days"][:5] == scores[:5]
    assert all(a["probability"] != b["probability"] for a, b in zip(found["days"][5:], scores[5:], strict=True))
    assert len(ask(client, "forecast")["days"]) == 30


def test_every_forecast_over_the_store_is_the_later_rescore(
    trained: Trained, client: httpx.Client, lead_store: SqlStore, tenant: str
) -> None:
    """Simulated leads with facts, links and late touches, on the days after all of it is known."""
    dataset = Dataset.read(trained.leads)
    asked = dataset.open_at(dataset.recorded_until).lead[::60][:12]
    fill(lead_store, tenant, trained.leads, [dataset.ids[lead] for lead in asked])
    begin = max(dataset.recorded_until, dataset.last_known) + 1
    leaving = 0
    for name in dataset.ids[asked]:
        found = client.get(f"/v1/leads/{name}/forecast", params={"as_of": isoformat(begin), "days": 40}).json()
        for place in (0, 1, 6, 19, 39):
            then = isoformat(begin + (place + 1) * DAY)
            assert found["days"][place] == short(client.get(f"/v1/leads/{name}/score", params={"as_of": then}).json())
        left = next((one for one in found["days"] if one["tier"] != found["now"]["tier"]), None)
        assert (found["leaves_tier_at"], found["next_tier"]) == (
            (left["as_of"], left["tier"]) if left else (None, None)
        )
        leaving += left is not None
    assert leaving > 0


def test_the_timeline_in_pages(client: httpx.Client, lead_store: SqlStore, tenant: str) -> None:
    write_lead(lead_store, tenant)
    whole = ask(client, "timeline", as_of=day(20))
    assert [(event["text"], event["known_at"], event["occurred_at"]) for event in whole["events"]] == [
        ("webinar attend", day(16), day(3)), ("call talk", day(15), day(5)), ("size 0.9", day(14), day(14)),
        ("email click", day(13), day(13)), ("website pricing", day(12), day(12)), ("website pricing", day(4), day(4)),
        ("website pricing", day(2), day(2)),
    ]  # fmt: skip
    for event in whole["events"]:
        right_after = isoformat(to_us(event["known_at"]) + 1)
        assert event["after"] == short(ask(client, "score", as_of=right_after))
    kinds = [(event["channel"], event["action"], event["attribute"], event["says"]) for event in whole["events"]]
    assert kinds[1:3] == [("call", "talk", None, None), (None, None, "size", "0.9")]
    assert (whole["total"], whole["cursor"], whole["next"]) == (7, None, None)
    seen, page = [], ask(client, "timeline", as_of=day(20), limit=3)
    while page["next"]:
        seen += page["events"]
        by_cursor = ask(client, "timeline", limit=3, cursor=page["cursor"])
        page = client.get(page["next"]).json()
        assert by_cursor["events"] == page["events"] and page["as_of"] == by_cursor["as_of"] == day(20)
    assert seen + page["events"] == whole["events"]
    # Without an as_of it is now, and stays so from page to page, though more becomes known.
    first = ask(client, "timeline", limit=2)
    assert first["events"][0]["text"] == "demo attend" and first["total"] == 8
    lead_store.write(tenant, [Message(rows=(Touch("L", BORN + 30 * DAY, "fair"),))]).result()
    second = client.get(first["next"]).json()
    assert [event["text"] for event in second["events"]] == ["call talk", "size 0.9"] and second["total"] == 8


@pytest.mark.parametrize("name", ["L", "a/b", "a%2Fb", "ü b", "a?b#c"])
def test_the_next_page_has_the_address_that_was_asked(
    client: httpx.Client, lead_store: SqlStore, tenant: str, name: str
) -> None:
    write(lead_store, tenant, touch(name, 1, "email"), touch(name, 2, "fair"))
    path = f"/v1/leads/{quote(name, safe='')}/timeline"
    asked = client.get(path, params={"limit": 1})
    assert client.get(asked.json()["next"]).json()["events"][0]["text"] == "email"
    by_proxy = client.get(path, params={"limit": 1}, headers={"x-forwarded-proto": "https", "host": "crm.example"})
    assert by_proxy.json()["next"].startswith(f"https://crm.example{path}?limit=1&cursor=")


def test_what_is_asked_wrongly(client: httpx.Client, lead_store: SqlStore, tenant: str) -> None:
    write_lead(lead_store, tenant)
    write(lead_store, tenant, (0, Lead("M", BORN)))

    def refused(path: str, field: str | None, says: str, status: int = 422) -> None:
        check_problem(client.get(f"/v1/leads/{path}"), status, field, says)

    for what in (f"changes?since={day(1)}", "forecast", "timeline"):
        refused(f"nobody/{what}", None, "Lead 'nobody' is not known. Send its touchpoints first", 404)
        refused(f"%00/{what}", "lead_id", "holds NUL")
        refused(f"L/{what}{'&' if '?' in what else '?'}as_of=soon", "as_of", "Write ISO 8601")
    refused("L/changes", "since", "it is missing. Say since when")
    refused("L/changes?since=yesterday", "since", "Write ISO 8601")
    refused(f"L/changes?since={day(5)}&as_of={day(5)}", "since", "is not before .*Ask since an earlier time")
    refused(f"L/changes?since={day(0)}&as_of={day(5)}", "since", "there was no lead yet. Ask about a later time")
    refused(f"L/forecast?as_of={day(0)}", "as_of", "there was no lead yet")
    refused(f"L/timeline?as_of={day(0)}", "as_of", "there was no lead yet")
    for days in ("0", "366", "-1", "ten", "1.5", "", "٣", "9" * 5_000):
        check_problem(client.get("/v1/leads/L/forecast", params={"days": days}), 422, "days", "Ask for 1 to 365 days")
    refused("L/forecast?as_of=9999-12-20T00:00:00Z", "days", "30 days after .* is beyond the year 9999. Ask for fewer")
    assert client.get("/v1/leads/L/forecast?as_of=9999-12-20T00:00:00Z&days=11").status_code == 200
    refused("L/timeline?limit=0", "limit", "Ask for 1 to 1,000")
    refused("L/timeline?cursor=x", "cursor", "no cursor")
    cursor = ask(client, "timeline", as_of=day(20), limit=1)["cursor"]
    refused(f"M/timeline?cursor={cursor}", "cursor", "of another timeline")
    refused(f"L/timeline?cursor={cursor}&as_of={day(19)}", "cursor", "of another timeline")
    assert client.get(f"/v1/leads/L/timeline?cursor={cursor}&as_of={day(20)}").status_code == 200


PAGE = (Path(__file__).parents[1] / "docs" / "answers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```http\n(\w+) (\S+)\n(.*?)```(?:\n+```json\n(.*?)```)?", PAGE, re.DOTALL)


def test_the_examples_of_the_page(tmp_path: Path) -> None:
    assert [(method, bool(shown)) for method, _, _, shown in BLOCKS] == [
        ("PUT", False), ("POST", False), *4 * [("GET", True)]
    ]  # fmt: skip
    url = f"sqlite:///{tmp_path / 'touchstone.db'}"
    with (
        closing(open_store(url)) as store,
        running(scorer("logistic"), store, Open(imports=True)) as address,
        httpx.Client(base_url=address, timeout=300) as client,
    ):
        for method, path, body, shown in BLOCKS:
            answer = client.request(method, path, json=json.loads(body) if body else None)
            assert answer.status_code == 200, answer.text
            if shown:
                check_shown(json.loads(shown), answer.json())
            else:
                assert answer.json()["quarantined"] == 0


def check_shown(shown: Any, answer: Any) -> None:
    """What a page shows of an answer is in it: some fields, the first entries of a list, numbers to three digits."""
    if isinstance(shown, dict):
        for name in shown:
            check_shown(shown[name], answer[name])
    elif isinstance(shown, list):
        for one, other in zip(shown, answer, strict=False):
            check_shown(one, other)
        assert len(shown) <= len(answer)
    else:
        assert shown == (pytest.approx(answer, abs=6e-4) if isinstance(shown, float) else answer)
