"""One lead, one probability: the same leads through Python, lists, HTTP and the store, equal to the last bit."""

import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from stores import fill
from trained import ROOT, Trained, serving, simulate_leads

from features import Cohort, Dataset
from features.records import LeadRecord, dataset_of
from features.times import NEVER, isoformat
from models import MODELS, Scorer, load_bundle
from serving.batch import score_list
from serving.store import open_store

ASKED = 500
DAY = 86_400_000_000


def record(dataset: Dataset, lead: int) -> dict[str, Any]:
    """Writes what a dataset knows of a lead as a client of the service would."""
    history, attributes = dataset.history, dataset.attributes
    touches = range(history.offsets[lead], history.offsets[lead + 1])
    facts = range(attributes.offsets[lead], attributes.offsets[lead + 1])

    def cell(column: int, value: float) -> float | str | None:
        words = attributes.words[column]
        return None if np.isnan(value) else float(value) if words is None else words[int(value)]

    def times(at: int, known: int) -> dict[str, str]:
        return {"occurred_at": isoformat(at)} | ({"recorded_at": isoformat(known)} if known > at else {})

    return {
        "lead_id": dataset.ids[lead],
        "created_at": isoformat(dataset.created_at[lead]),
        "attributes": {
            name: value
            for column, name in enumerate(attributes.names)
            if (value := cell(column, attributes.cells[lead, column])) is not None
        },
        "attribute_facts": [
            times(attributes.at[row], attributes.known[row])
            | {"name": attributes.names[column], "value": cell(column, attributes.value[row])}
            for row in facts
            for column in [attributes.column[row]]
        ],
        "touchpoints": [
            times(history.at[row], history.known[row])
            | {
                "channel": history.kinds[history.kind[row]].channel,
                "action": history.kinds[history.kind[row]].action or None,
                "value": None if np.isnan(history.value[row]) else float(history.value[row]),
                # Two touches that are equal in everything else are two, for the log gave each a message of its own.
                "message_id": f"m{row}",
            }
            for row in touches
        ],
    }


@pytest.fixture(scope="module")
def dataset(trained: Trained) -> Dataset:
    return Dataset.read(trained.leads)


@pytest.fixture(scope="module")
def as_of(dataset: Dataset) -> int:
    """An instant in the middle of things: touches, facts, links and outcomes lie on both sides of it."""
    return int(np.quantile(dataset.history.known, 0.7))


@pytest.fixture(scope="module")
def asked(dataset: Dataset, as_of: int) -> Cohort:
    """Open leads, those with the most to get wrong among them first."""
    cohort = dataset.open_at(as_of)
    history = dataset.history
    late = np.bincount(history.lead, history.known > history.at, len(dataset))[cohort.lead] > 0
    facts = np.diff(dataset.attributes.offsets)[cohort.lead] > 0
    hardest = np.argsort(-(late.astype(int) + facts), kind="stable")[: ASKED // 2]
    others = np.setdiff1d(np.arange(len(cohort)), hardest)[:: max(1, (len(cohort) - ASKED // 2) // (ASKED // 2))]
    return cohort[np.sort(np.concatenate([hardest, others[: ASKED - len(hardest)]]))]


@pytest.fixture(scope="module")
def expected(trained: Trained, dataset: Dataset, asked: Cohort) -> dict[str, tuple[bytes, int, str, str]]:
    scorer = load_bundle(trained.bundle)
    scores = scorer.score(dataset, asked)
    rows = zip(dataset.ids[asked.lead], scores.probability, scores.score, scores.tiers, strict=True)
    return {name: (bits(p), int(score), tier, scorer.tiers.routes[tier]) for name, p, score, tier in rows}


def bits(probability: float) -> bytes:
    return np.float64(probability).tobytes()


def test_the_leads_have_all_that_can_go_wrong(
    dataset: Dataset, asked: Cohort, as_of: int, expected: dict[str, tuple[bytes, int, str, str]]
) -> None:
    history, attributes = dataset.history, dataset.attributes
    mine = np.isin(history.lead, asked.lead)
    assert len(asked) == ASKED
    assert (mine & (history.at < as_of) & (history.known >= as_of)).any()  # known too late
    assert (mine & (history.known > history.at) & (history.known < as_of)).any()  # late, but in time
    assert (mine & ((history.known - history.at) % DAY != 0)).any()  # logged under an alias, linked that evening
    assert (mine & (history.at >= as_of)).any()  # after the question
    late = (dataset.outcomes.at < as_of) & (dataset.outcomes.known >= as_of)
    assert np.isin(dataset.outcomes.lead[late], dataset.open_at(as_of).lead).any()  # an outcome nobody knew of yet
    facts = np.isin(np.repeat(np.arange(len(dataset)), np.diff(attributes.offsets)), asked.lead)
    assert (facts & (attributes.at < as_of)).any() and (facts & (attributes.at >= as_of)).any()
    assert (facts & (attributes.at < as_of) & (attributes.known >= as_of)).any()  # a fact known too late
    equal = (np.diff(history.at) == 0) & (np.diff(history.kind) == 0) & (np.diff(history.lead) == 0)
    assert (equal & mine[1:]).any()  # two messages of one thing
    assert np.isnan(history.value[mine]).any() and not np.isnan(history.value[mine]).all()
    assert len({p for p, *_ in expected.values()}) > ASKED / 2
    assert {tier for _, _, tier, _ in expected.values()} == {"cold", "warm", "hot"}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_list(
    trained: Trained, as_of: int, expected: dict[str, tuple[bytes, int, str, str]], tmp_path: Path, ending: str
) -> None:
    output = tmp_path / f"scored.{ending}"
    command = [sys.executable, "-m", "touchstone", "score", str(trained.leads), "--model", str(trained.bundle)]
    subprocess.run([*command, "--output", str(output), "--as-of", isoformat(as_of)], cwd=ROOT, check=True)
    # As text: Python reads a number to the bit, pandas by itself does not.
    rows = pd.read_parquet(output) if ending == "parquet" else pd.read_csv(output, dtype={"probability": str})
    rows = rows.astype({"probability": float}).set_index("lead_id")
    assert set(rows["as_of"].astype(str)) <= {isoformat(as_of), str(pd.Timestamp(as_of, unit="us", tz="UTC"))}
    got = rows.loc[list(expected), ["probability", "score", "tier", "route"]].itertuples(name=None)
    assert {name: (bits(p), score, tier, route) for name, p, score, tier, route in got} == expected


def _from_json(document: dict[str, Any]) -> tuple[bytes, int, str, str]:
    return bits(document["probability"]), document["score"], document["tier"], document["route"]


def test_http_one_by_one(
    server: httpx.Client, dataset: Dataset, asked: Cohort, as_of: int, expected: dict[str, tuple[bytes, int, str, str]]
) -> None:
    for lead in asked.lead.tolist():
        body = record(dataset, lead) | {"as_of": isoformat(as_of)}
        response = server.post("/v1/score", json=body)
        assert response.status_code == 200, response.text
        assert _from_json(response.json()) == expected[dataset.ids[lead]], body


def test_http_in_bulk(
    server: httpx.Client, dataset: Dataset, asked: Cohort, as_of: int, expected: dict[str, tuple[bytes, int, str, str]]
) -> None:
    # In another order, and what a log gives in no order at all.
    rng = np.random.default_rng(0)
    leads = [record(dataset, lead) for lead in rng.permutation(asked.lead).tolist()]
    for one in leads:
        rng.shuffle(one["touchpoints"])
    response = server.post("/v1/score/bulk", json={"leads": leads, "as_of": isoformat(as_of)})
    assert response.status_code == 200, response.text
    assert {one["lead_id"]: _from_json(one) for one in response.json()["scores"]} == expected
    assert [one["lead_id"] for one in response.json()["scores"]] == [one["lead_id"] for one in leads]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_stored_leads(
    trained: Trained,
    dataset: Dataset,
    asked: Cohort,
    as_of: int,
    expected: dict[str, tuple[bytes, int, str, str]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    database: str,
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if database == "sqlite" else request.getfixturevalue("postgres_ready")
    with closing(open_store(url)) as store:
        fill(store, "default", trained.leads, dataset.ids[asked.lead])
    with serving(trained.bundle, "--database", url) as (_, address):
        answers = _stored(address, dataset.ids[asked.lead], [isoformat(as_of)] * len(asked))
    assert {name: _from_json(answer) for name, answer in answers.items()} == expected
    assert all(answer["open"] and answer["as_of"] == isoformat(as_of) for answer in answers.values())


@pytest.mark.long
def test_ten_thousand_leads(trained: Trained, tmp_path: Path) -> None:
    """Each as of its own instant, before or after it closed; and those that are open at one instant in a list too."""
    simulate_leads(tmp_path / "leads", leads=10_000, seed=11)
    dataset, scorer = Dataset.read(tmp_path / "leads"), load_bundle(trained.bundle)
    rng = np.random.default_rng(0)
    places = np.flatnonzero(dataset.merged_at == NEVER)
    asked = Cohort.at(places, dataset.created_at[places] + rng.integers(1, 200 * DAY, len(places)))
    assert len(asked) >= 10_000
    names, instants = dataset.ids[asked.lead].tolist(), [isoformat(at) for at in asked.as_of]
    expected = dict(zip(names, map(bits, scorer.score(dataset, asked).probability), strict=True))
    common = int(np.quantile(dataset.history.known, 0.7))
    score_list(scorer, dataset, common, tmp_path / "scored.parquet")
    listed = pd.read_parquet(tmp_path / "scored.parquet").set_index("lead_id")["probability"].map(bits).to_dict()
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with closing(open_store(url)) as store:
        fill(store, "default", tmp_path / "leads")
    with serving(trained.bundle, "--database", url) as (_, address):
        body = b"\n".join(
            json.dumps(record(dataset, lead) | {"as_of": at}).encode()
            for lead, at in zip(asked.lead.tolist(), instants, strict=True)
        )
        lines = httpx.post(
            f"{address}/v1/score/bulk", content=body, headers={"content-type": "application/x-ndjson"}, timeout=300
        )
        assert [(one["lead_id"], bits(one["probability"])) for one in map(json.loads, lines.text.splitlines())] == [
            *expected.items()
        ]
        stored = _stored(address, names, instants)
        assert {name: bits(answer["probability"]) for name, answer in stored.items()} == expected
        stored = _stored(address, [*listed], [isoformat(common)] * len(listed))
        assert {name: bits(answer["probability"]) for name, answer in stored.items()} == listed
    assert len(listed) > 2_000


def _stored(address: str, names: Iterable[str], instants: Iterable[str]) -> dict[str, Any]:
    """Asks for the scores of stored leads, some at a time."""
    with httpx.Client(base_url=address, timeout=300) as client, ThreadPoolExecutor(4) as pool:

        def ask(name: str, as_of: str) -> Any:
            response = client.get(f"/v1/leads/{name}/score", params={"as_of": as_of})
            assert response.status_code == 200, response.text
            return response.json()

        return {answer["lead_id"]: answer for answer in pool.map(ask, names, instants)}


@pytest.mark.parametrize("model", MODELS)
def test_every_model_alone_and_together(trained: Trained, dataset: Dataset, asked: Cohort, model: str) -> None:
    scorer: Scorer = load_bundle(trained.bundles / model)
    together = scorer.predict(dataset, asked)
    for row in range(0, len(asked), 5):
        lead, at = int(asked.lead[row]), asked.as_of[row : row + 1]
        assert bits(scorer.predict(dataset, Cohort.at([lead], at))[0]) == bits(together[row])
        alone = dataset_of([_lead_record(record(dataset, lead))])
        assert bits(scorer.predict(alone, Cohort.at([0], at))[0]) == bits(together[row])


def test_every_model_through_the_world_as_it_was_known_then(
    trained: Trained, dataset: Dataset, asked: Cohort, as_of: int
) -> None:
    known = dataset.known_at(as_of)
    cohort = Cohort.at(known.find(dataset.ids[asked.lead]), as_of)
    for model in MODELS:
        scorer = load_bundle(trained.bundles / model)
        assert scorer.predict(known, cohort).tobytes() == scorer.predict(dataset, asked).tobytes()


def _lead_record(document: dict[str, Any]) -> LeadRecord:
    import msgspec

    return msgspec.json.decode(json.dumps(document), type=LeadRecord)
