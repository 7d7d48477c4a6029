"""Fit beside engagement: a score with the lead's attributes alone, and with its touches alone."""

from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pruned import pruned
from trained import Trained
from weighted import weighted
from worlds import dataset_of as world_of
from worlds import instants, worlds

from features import Cohort, Dataset
from features.records import LeadRecord, dataset_of
from models import Scorer, load_bundle


def alone(scorer: Scorer, dataset: Dataset, lead: int, as_of: int) -> tuple[float, float]:
    """The scores of a lead written without its touches, and without its attributes."""

    def nothing(row: int) -> bool:
        return False

    without = pruned(dataset, lead, touch=nothing), pruned(dataset, lead, fact=nothing, cell=nothing)
    fit, engagement = (float(scorer.predict(one, Cohort.at([0], as_of))[0]) for one in without)
    return fit, engagement


@pytest.mark.parametrize("model", ["lightgbm", "logistic", "rules", "blend"])
def test_each_side_is_the_score_of_the_lead_written_without_the_other(trained: Trained, model: str) -> None:
    scorer, dataset = load_bundle(trained.bundles / model), Dataset.read(trained.leads)
    as_of = dataset.recorded_until
    cohort = dataset.open_at(as_of)
    cohort = cohort[np.linspace(0, len(cohort) - 1, 200).astype(np.int64)]
    scores = scorer.score(dataset, cohort, sides=True)
    assert (scores.probability == scorer.predict(dataset, cohort)).all()
    assert scores.sides is not None
    found = list(zip(scores.sides.fit.tolist(), scores.sides.engagement.tolist(), strict=True))
    assert found == [alone(scorer, dataset, lead, as_of) for lead in cohort.lead.tolist()]
    assert len({fit for fit, _ in found}) > 10 or model == "rules"
    assert len({engagement for _, engagement in found}) > 10


@given(worlds, instants, st.integers(0, 5))
def test_so_it_is_of_any_lead(world: list[dict[str, Any]], as_of: int, seed: int) -> None:
    dataset = world_of(world)
    scorer = weighted(dataset, seed)
    cohort = Cohort.at(np.arange(len(dataset)), as_of)
    sides = scorer.score(dataset, cohort, sides=True).sides
    assert sides is not None
    expected = [alone(scorer, dataset, lead, as_of) for lead in range(len(dataset))]
    assert list(zip(sides.fit.tolist(), sides.engagement.tolist(), strict=True)) == expected


def test_many_rows_on_two_threads_are_as_one_by_one(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.scorer._CHUNK", 64)
    scorer, dataset = load_bundle(trained.bundle), Dataset.read(trained.leads)
    cohort = dataset.open_at(dataset.recorded_until)
    sides = scorer.score(dataset, cohort, sides=True, threads=2).sides
    assert sides is not None
    for row in (0, 1, len(cohort) // 2, len(cohort) - 1):
        mine = scorer.score(dataset, cohort[row : row + 1], sides=True).sides
        assert mine is not None
        assert (mine.fit[0], mine.engagement[0]) == (sides.fit[row], sides.engagement[row])


def test_of_a_lead_of_which_one_side_is_known_that_side_is_the_score(trained: Trained) -> None:
    scorer = load_bundle(trained.bundle)
    born = datetime(2026, 1, 1, tzinfo=UTC)
    who = LeadRecord(lead_id="x", created_at=born, attributes={"industry": "software", "size": 0.4})
    scores = scorer.score(dataset_of([who]), Cohort.at([0], "2026-02-01"), sides=True)
    assert scores.sides is not None
    assert scores.sides.fit[0] == scores.probability[0] != scores.sides.engagement[0]


def test_answers_give_both(server: httpx.Client) -> None:
    lead: dict[str, Any] = {
        "lead_id": "L", "as_of": "2026-02-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z",
        "attributes": {"industry": "software", "size": 0.4},
        "touchpoints": [{"occurred_at": "2026-01-20T00:00:00Z", "channel": "pricing"}],
    }  # fmt: skip

    def probability(**less: Any) -> float:
        return float(server.post("/v1/score", json={**lead, **less}).json()["probability"])

    answer = server.post("/v1/score", json=lead).json()
    assert answer["fit"] == probability(touchpoints=[]) != answer["probability"]
    assert answer["engagement"] == probability(attributes={}) != answer["probability"]
    (many,) = server.post("/v1/score/bulk", json={"leads": [lead]}).json()["scores"]
    assert {**many, "digest": answer["digest"]} == answer
