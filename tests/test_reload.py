"""Models that take each other's place while requests run, in one worker and in several, and one that scores along."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from test_leads import until
from test_serving import check_problem, lead
from trained import Trained, serving

from models import load_bundle, save_bundle
from serving.routes.scores import answer
from serving.schemas import ScoreRequest

LINES = {"content-type": "application/x-ndjson"}


@dataclass
class Versions:
    """A folder with versions of a model, and the link to the one that is to serve."""

    folder: Path

    @property
    def champion(self) -> Path:
        return self.folder / "champion"

    def promote(self, version: str) -> None:
        """Moves the link as `touchstone promote` and `rollback` do."""
        link = self.folder / ".link"
        link.symlink_to(version)
        link.replace(self.champion)


@pytest.fixture
def versions(trained: Trained, tmp_path: Path) -> Versions:
    """Versions 1 to 3, each another kind of model; 1 is the champion."""
    made = Versions(tmp_path / "models")
    for version, kind in (("1", "lightgbm"), ("2", "logistic"), ("3", "naive_bayes")):
        scorer = load_bundle(trained.bundles / kind)
        card = msgspec.structs.replace(scorer.card, version=version)
        save_bundle(replace(scorer, card=card), made.folder / version)
    made.promote("1")
    return made


@pytest.fixture
def expected(versions: Versions) -> dict[str, float]:
    """The probability of one lead by version."""
    one = msgspec.convert(lead(12), ScoreRequest)
    found = {v: answer(load_bundle(versions.folder / v), [one])[0].probability for v in ("1", "2", "3")}
    assert len({*found.values()}) == 3
    return found


def version_of(client: httpx.Client) -> str:
    return str(client.get("/v1/model").json()["version"])


def reload(client: httpx.Client, version: str | None = None) -> httpx.Response:
    return client.post("/v1/model/reload", json={} if version is None else {"version": version})


@contextmanager
def halted(process: subprocess.Popen[str], database: str) -> Iterator[None]:
    """Halts a process; over SQLite between two writes, as in the midst of one it would hold up everybody."""
    path = database.removeprefix("sqlite:///")

    def halt() -> bool:
        process.send_signal(signal.SIGSTOP)
        if path == database:
            return True
        with closing(sqlite3.connect(path, timeout=0)) as other, suppress(sqlite3.OperationalError):
            other.execute("BEGIN IMMEDIATE")
            return True
        process.send_signal(signal.SIGCONT)
        return False

    try:
        until(halt)
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_reload(versions: Versions, expected: dict[str, float]) -> None:
    with serving(versions.champion) as (_, address), httpx.Client(base_url=address, timeout=300) as client:

        def check(version: str, previous: str | None) -> None:
            told = client.get("/v1/model").json()
            assert (told["version"], told["previous"], told["problem"]) == (version, previous, None)
            score = client.post("/v1/score", json=lead(12)).json()
            assert (score["model"]["version"], score["probability"]) == (version, expected[version])

        check("1", None)
        assert reload(client, "2").json() == {"version": "2", "previous": "1", "workers": 1}
        check("2", "1")
        # What a reload asked for stays, though the watched folder holds another version.
        time.sleep(1)
        check("2", "1")
        assert reload(client, "1").json()["version"] == "1"
        assert reload(client, "3").json()["version"] == "3"
        assert client.post("/v1/model/reload").json() == {"version": "1", "previous": "3", "workers": 1}
        check("1", "3")
        for wrong in ("9", "..", "../1", "a/b", "", ".link"):
            check_problem(reload(client, wrong), 422, "version", "")
        check_problem(reload(client, "9"), 422, "version", "there is no model in '9' beside .*champion")
        check_problem(client.post("/v1/model/reload", content=b"{"), 400, None, "JSON")
        check("1", "3")


def test_a_bad_bundle_is_refused_and_the_old_one_stays(versions: Versions, expected: dict[str, float]) -> None:
    with serving(versions.champion) as (_, address), httpx.Client(base_url=address, timeout=300) as client:
        damaged = versions.folder / "4"
        shutil.copytree(versions.folder / "2", damaged)
        (damaged / "golden.json").write_bytes((damaged / "golden.json").read_bytes() + b" ")
        check_problem(reload(client, "4"), 409, None, r"golden.json is not as it was saved .*Version 1 serves on\.$")
        # The champion itself, whose checksums are those of the model that serves.
        held = (versions.folder / "1" / "features.json").read_bytes()
        (versions.folder / "1" / "features.json").write_bytes(held[:-1])
        check_problem(reload(client), 409, None, "features.json is not as it was saved")
        (versions.folder / "1" / "features.json").write_bytes(held)
        assert reload(client).status_code == 200

        # The watched link: the reason is told, and what is mended is taken at once.
        versions.promote("4")
        until(lambda: "golden.json is not as" in str(client.get("/v1/model").json()["problem"]))
        assert client.post("/v1/score", json=lead(12)).json()["probability"] == expected["1"]
        shutil.copy(versions.folder / "2" / "golden.json", damaged)
        until(lambda: version_of(client) == "2")
        assert client.get("/v1/model").json()["problem"] is None
        versions.champion.unlink()
        until(lambda: "no model is here" in str(client.get("/v1/model").json()["problem"]))
        assert client.post("/v1/score", json=lead(12)).json()["probability"] == expected["2"]


def test_the_watched_link_is_followed_and_rolled_back_in_under_a_second(versions: Versions) -> None:
    with serving(versions.champion) as (_, address), httpx.Client(base_url=address, timeout=300) as client:
        taken: dict[str, list[float]] = {"1": [], "2": []}
        for version in "212121":
            begin = time.monotonic()
            versions.promote(version)
            until(lambda version=version: version_of(client) == version)  # type: ignore[misc]
            taken[version].append(time.monotonic() - begin)
        # The quickest of three: a busy machine may hold one up.
        assert min(taken["1"]) < 1
        # A moved link makes what a reload asked for void.
        assert reload(client, "1").status_code == 200
        versions.promote("2")
        until(lambda: version_of(client) == "2")


def test_new_tiers_beside_the_model_are_taken(versions: Versions) -> None:
    from models.bundle import replace_tiers
    from models.tiers import Tiers

    with serving(versions.champion) as (_, address), httpx.Client(base_url=address, timeout=300) as client:
        assert client.post("/v1/score", json=lead(12)).json()["tiers"] != "mine"
        replace_tiers(versions.champion, Tiers(version="mine", warm=0.0, hot=0.0))
        until(lambda: client.post("/v1/score", json=lead(12)).json()["tiers"] == "mine")
        assert client.post("/v1/score", json=lead(12)).json()["tier"] == "hot"


def test_no_request_fails_and_no_answer_is_mixed_while_models_change(
    versions: Versions, expected: dict[str, float]
) -> None:
    """200 reloads, from memory and from disk, while callers ask in every way."""
    line = msgspec.json.encode(lead(12)) + b"\n"
    wrong: list[Any] = []
    counts = dict.fromkeys(expected, 0)

    async def main(address: str) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
            done = asyncio.Event()

            async def call(ask: Callable[[], Any]) -> None:
                while not done.is_set():
                    response = await ask()
                    if response.status_code != 200:
                        wrong.append(response.text)
                        continue
                    document = response.content
                    answers = (
                        [msgspec.json.decode(one) for one in document.splitlines()]
                        if response.headers["content-type"] == LINES["content-type"]
                        else msgspec.json.decode(document).get("scores") or [msgspec.json.decode(document)]
                    )
                    served = {answer["model"]["version"] for answer in answers}
                    if len(served) > 1:
                        wrong.append(served)
                    for answer in answers:
                        counts[answer["model"]["version"]] += 1
                        if answer["probability"] != expected[answer["model"]["version"]]:
                            wrong.append(answer)

            one = lambda: client.post("/v1/score", json=lead(12))  # noqa: E731
            many = lambda: client.post("/v1/score/bulk", json={"leads": [lead(12)] * 50})  # noqa: E731
            lines = lambda: client.post("/v1/score/bulk", content=line * 50, headers=LINES)  # noqa: E731
            callers = [asyncio.create_task(call(ask)) for ask in (one, one, one, many, lines)]
            for turn in range(200):
                version = "123"[turn % 3] if turn % 4 else None
                response = await client.post("/v1/model/reload", json={"version": version} if version else {})
                assert response.status_code == 200, response.text
                assert response.json()["version"] == (version or "1")
            done.set()
            await asyncio.gather(*callers)

    with serving(versions.champion) as (_, address):
        asyncio.run(main(address))
    assert not wrong, wrong[:3]
    assert all(counts.values()), counts


def test_all_workers_follow(versions: Versions, expected: dict[str, float], database: str) -> None:
    """Two processes over one database, of which each is asked."""
    with ExitStack() as stack:
        clients: list[httpx.Client] = []
        for _ in range(2):
            _, address = stack.enter_context(serving(versions.champion, "--database", database))
            clients.append(stack.enter_context(httpx.Client(base_url=address, timeout=300)))
        one, two = clients
        until(lambda: reload(one).json().get("workers") == 2)
        for turn in range(12):
            version = "123"[turn % 3]
            got = reload((one, two)[turn % 2], version).json()
            assert (got["version"], got["workers"]) == (version, 2)
            # Whoever is asked after the answer serves it already.
            for client in (one, two):
                score = client.post("/v1/score", json=lead(12)).json()
                assert (score["model"]["version"], score["probability"]) == (version, expected[version])
        # One that comes later follows as well.
        assert reload(one, "2").status_code == 200
        _, address = stack.enter_context(serving(versions.champion, "--database", database))
        third = stack.enter_context(httpx.Client(base_url=address, timeout=300))
        until(lambda: version_of(third) == "2")
        assert reload(third, "3").json()["workers"] == 3
        # The link that moves is for all.
        versions.promote("2")
        for client in (one, two, third):
            until(lambda client=client: version_of(client) == "2")  # type: ignore[misc]


def test_a_worker_that_does_not_follow_is_named(
    versions: Versions, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_RELOAD_SECONDS", "2")
    with ExitStack() as stack:
        _, address = stack.enter_context(serving(versions.champion, "--database", database))
        process, second = stack.enter_context(serving(versions.champion, "--database", database))
        client = stack.enter_context(httpx.Client(base_url=address, timeout=300))
        until(lambda: reload(client).json().get("workers") == 2)
        with halted(process, database):
            response = reload(client, "2")
        check_problem(response, 503, None, rf"1 of 2 workers do not serve it: \S+:{process.pid}:\w+ \(serves 1\)")
        assert response.headers["retry-after"] == "5"
        until(lambda: httpx.get(f"{second}/v1/model", timeout=300).json()["version"] == "2")
        process.terminate()
        process.wait(120)
        assert reload(client).json()["workers"] == 1


def test_a_shadow_scores_along(versions: Versions, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_SHADOW", str(versions.folder / "2"))
    with serving(versions.champion) as (_, address), httpx.Client(base_url=address, timeout=300) as client:
        shadow = until(lambda: (s := client.get("/v1/model").json()["shadow"])["version"] and s)
        assert (shadow["version"], shadow["model"], shadow["scores"]) == ("2", "logistic", 0)
        for _ in range(4):
            assert client.post("/v1/score", json=lead(12)).json()["model"]["version"] == "1"
        client.post("/v1/score/bulk", json={"leads": [lead(12)] * 6})

        def compared() -> Any:
            return client.get("/v1/model").json()["shadow"]

        until(lambda: compared()["scores"] == 10)
        found = compared()
        assert found["mean_probability"] == pytest.approx(expected["2"])
        assert found["mean_probability_serving"] == pytest.approx(expected["1"])
        assert found["mean_difference"] == pytest.approx(expected["2"] - expected["1"])
        assert found["mean_absolute_difference"] == pytest.approx(abs(expected["2"] - expected["1"]))
        assert found["tier_changes"] in (0, 1)
        # More than it can take at once is left out, and counted.
        client.post("/v1/score/bulk", json={"leads": [lead(12)] * 1_000})
        until(lambda: compared()["scores"] + compared()["skipped"] == 1_010)
        assert compared()["skipped"] > 0
        # Beside another model it begins anew, and a bad one is told.
        assert reload(client, "3").status_code == 200
        assert compared()["scores"] == 0
        (versions.folder / "2" / "SHA256SUMS").write_text("bad\n")
        until(lambda: "is damaged" in str(compared()["problem"]))
