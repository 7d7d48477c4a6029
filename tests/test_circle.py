"""The circle closes: clients stream what happens, a model learns from what the service knows, and is served."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import segment.analytics.client
from running import running
from small import scorer
from trained import ROOT, serving

from features import LEAD_FEATURES, Cohort, Dataset, FeatureSet
from features.times import isoformat
from models import candidates, save_bundle
from serving import Settings
from serving.access import Open
from serving.store import open_store
from training import Experiment, backtest
from training.simulate import simulate
from training.train import fit

MAPPING = """
[events."Content Download"]
channel = "content"
action = "download"
[events."Email Click"]
channel = "email"
action = "click"
[events."Email Send"]
channel = "email"
action = "send"
[events."Webinar Attend"]
channel = "webinar"
action = "attend"
[events."Call Talk"]
channel = "call"
action = "talk"
value = "properties.minutes"
[events."Deal Lost"]
outcome = "lost"
"""


def world(folder: Path, leads: int, days: int, horizon_days: int) -> Path:
    """Writes a simulated world, with times as the client sends them: in milliseconds."""
    simulate(leads, days, seed=5).write(folder, horizon_days=horizon_days)
    for path in folder.glob("*.csv"):
        path.write_text(re.sub(r"(\.\d{3})\d+Z", r"\1Z", path.read_text()))
    return folder


def _table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open() as file:
        return [*csv.DictReader(file)]


def _calls(folder: Path) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """What a website and a CRM would tell of a simulated world: the time, the method of the client, what it takes."""
    for row in _table(folder, "leads"):
        traits = {"createdAt": row["created_at"], "industry": row["industry"], "size": float(row["size"])}
        yield row["created_at"], "identify", {"user_id": row["lead_id"], "traits": traits}
    for row in _table(folder, "attributes"):
        yield row["occurred_at"], "identify", {"user_id": row["lead_id"], "traits": {row["name"]: row["value"]}}
    for row in _table(folder, "touchpoints"):
        value = {"minutes" if row["channel"] == "call" else "value": row["value"]} if row["value"] else {}
        who = {"anonymous_id" if row["lead_id"].startswith("anon-") else "user_id": row["lead_id"]}
        if row["channel"] == "website":
            yield row["occurred_at"], "page", {**who, "category": row["action"], "properties": value}
        else:
            event = f"{row['channel']} {row['action']}".title()
            yield row["occurred_at"], "track", {**who, "event": event, "properties": value}
    for row in _table(folder, "aliases"):
        yield row["occurred_at"], "alias", {"previous_id": row["lead_id"], "user_id": row["same_as"]}
    for row in _table(folder, "outcomes"):
        event = {"won": "Order Completed", "lost": "Deal Lost"}[row["outcome"]]
        properties = {"revenue": row["amount"]} if row["amount"] else {}
        yield row["occurred_at"], "track", {"user_id": row["lead_id"], "event": event, "properties": properties}


def stream(folder: Path, database: str) -> int:
    """Streams a simulated world into a service whose key loads the past, with Segment's own client; how many calls."""
    (folder / "events.toml").write_text(MAPPING)
    calls = sorted(_calls(folder), key=lambda call: call[0])
    failures: list[Any] = []
    store = open_store(database)
    with running(
        scorer("logistic"), store, Open(imports=True), Settings(mapping=folder / "events.toml")
    ) as host:  # fmt: skip
        client = segment.analytics.client.Client(
            "key", host=host, max_queue_size=len(calls), on_error=lambda *told: failures.append(told), timeout=300
        )
        for at, method, given in calls:
            assert getattr(client, method)(**given, timestamp=datetime.fromisoformat(at))[0]
        client.flush()
        client.join()
        assert httpx.get(f"{host}/v1/quarantine", timeout=300).json()["messages"] == []
    store.close()
    assert not failures
    return len(calls)


def touchstone(*arguments: object, cwd: Path) -> Any:
    command = [sys.executable, "-m", "touchstone", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def scores(host: str, dataset: Dataset, as_of: int, leads: Iterable[int]) -> list[float]:
    """The probabilities that a service gives to what it knows of some leads."""
    with httpx.Client(base_url=host, timeout=120) as http:
        found = []
        for lead in leads:
            known = http.get(f"/v1/leads/{dataset.ids[lead]}").json()
            for name in ("outcomes", "same_as", "same_as_since"):
                del known[name]
            response = http.post("/v1/score", json={**known, "as_of": isoformat(as_of)})
            assert response.status_code == 200, response.text
            found.append(response.json()["probability"])
    return found


def test_what_is_streamed_is_learned_from_and_served(tmp_path: Path) -> None:
    folder = world(tmp_path / "world", 400, 120, 30)
    database = f"sqlite:///{tmp_path / 'touchstone.db'}"
    stream(folder, database)
    touchstone("export", database, tmp_path / "export", cwd=tmp_path)

    # What comes back is what happened, to the bit. Purchases are known when they are told of, not later.
    happened, known = Dataset.read(folder), Dataset.read(tmp_path / "export")
    features = FeatureSet.fit(LEAD_FEATURES, happened)
    names = sorted(happened.ids)
    matrices = []
    for dataset in (happened, known):
        place = {name: lead for lead, name in enumerate(dataset.ids)}
        cohort = Cohort.at(np.array([place[name] for name in names]), happened.recorded_until)
        matrices.append(features.compute(dataset, cohort).tobytes())
    assert matrices[0] == matrices[1]
    assert names == sorted(name for name in known.ids if not name.startswith("anon-"))

    until = known.last_known + 1
    experiment = Experiment(horizon_days=30, origins=1, snapshot_every_days=30, bootstrap=10)
    candidate = next(each for each in candidates() if each.name == "logistic")
    make, _ = fit(known, candidate, experiment, until, backtest(known, experiment, [candidate], until=until))
    learned = make("7")
    save_bundle(learned, tmp_path / "bundle")
    cohort = known.open_at(until)
    expected = learned.score(known, cohort).probability
    with serving(tmp_path / "bundle", "--database", database) as (_, host):
        assert httpx.get(f"{host}/v1/model").json()["version"] == "7"
        assert scores(host, known, until, cohort.lead[:20]) == expected[:20].tolist()
    assert len(set(expected.tolist())) > 20


@pytest.mark.long
def test_the_circle_closes_over_a_month_and_the_next(tmp_path: Path) -> None:
    """A service learns from a year that was streamed in, is told of another month, learns again and serves that."""
    folder = world(tmp_path / "world", 1_500, 240, 30)
    database = f"sqlite:///{tmp_path / 'touchstone.db'}"
    stream(folder, database)
    touchstone("export", database, "export", cwd=tmp_path)
    first = touchstone("train", "export", "--horizon", "30d", "--as-of", "2025-07-20", cwd=tmp_path)
    second = touchstone("train", "export", "--horizon", "30d", cwd=tmp_path)
    assert first["champion"] and not second["champion"]
    promoted = touchstone("promote", second["version"], "--force", cwd=tmp_path)
    known = Dataset.read(tmp_path / "export")
    until = known.last_known + 1
    leads = known.open_at(until).lead[:50]
    answers = []
    for folder in (tmp_path / first["folder"], tmp_path / "models" / "trained" / "champion"):
        with serving(folder, "--database", database) as (_, host):
            answers.append((httpx.get(f"{host}/v1/model").json()["version"], scores(host, known, until, leads)))
    assert [version for version, _ in answers] == [first["version"], second["version"]], promoted
    assert answers[0][1] != answers[1][1]
