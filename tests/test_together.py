"""Leads that are asked about at once are answered as each would be alone, to the bit, whoever else is asked about."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from small import records, scorer
from test_serving import lead
from trained import Trained, serving

from features.errors import TableError
from features.records import LeadRecord
from models.scorer import Scorer
from models.tiers import Tiers
from serving.metrics import Metrics
from serving.policy import InForce
from serving.schemas import ScoreResponse
from serving.shadow import Shadow
from serving.together import Together, score_records

AT = datetime(2026, 6, 1, tzinfo=UTC)
PLAIN = InForce()


def ask(
    together: Together, asked: list[tuple[Scorer, LeadRecord, int]], policy: InForce = PLAIN
) -> list[ScoreResponse | BaseException]:
    async def gather() -> list[ScoreResponse | BaseException]:
        each = (together.score(model, policy, record, AT, reasons) for model, record, reasons in asked)
        return await asyncio.gather(*each, return_exceptions=True)

    return asyncio.run(gather())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many leads each computation was of."""
    found: list[int] = []

    def counted(model: Scorer, mine: list[LeadRecord], at: list[datetime], reasons: int = 0) -> list[ScoreResponse]:
        found.append(len(mine))
        return score_records(model, mine, at, reasons)

    monkeypatch.setattr("serving.together.score_records", counted)
    return found


@pytest.mark.parametrize("kind", ["blend", "logistic", "rules"])
def test_many_at_once_are_answered_as_each_alone(kind: str, calls: list[int]) -> None:
    first = scorer(kind)
    second = replace(first, tiers=Tiers(version="other", warm=0.0, hot=0.0))
    models = [first, second]
    asked = [(models[i % 2], record, (0, 0, 3)[i % 3]) for i, record in enumerate(records(50))]
    got = ask(Together(Metrics(), Shadow()), asked)
    assert got == [score_records(model, [record], [AT], reasons)[0] for model, record, reasons in asked]
    # 16, 16, 16 and 2 leads, each in up to four ways.
    assert len(calls) == 4 * 3 + 2 and max(calls) > 4


def test_one_lead_waits_for_no_other(calls: list[int]) -> None:
    model, record = scorer("rules"), records(1)[0]
    assert ask(Together(Metrics(), Shadow()), [(model, record, 0)]) == score_records(model, [record], [AT])
    assert calls == [1]


def test_leads_that_come_turn_by_turn_are_scored_at_once(calls: list[int]) -> None:
    model, some = scorer("rules"), records(4)
    together = Together(Metrics(), Shadow())

    async def go() -> list[ScoreResponse]:
        tasks = []
        for record in some:
            tasks.append(asyncio.create_task(together.score(model, PLAIN, record, AT, 0)))
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks)

    assert asyncio.run(go()) == score_records(model, some, [AT] * 4)
    assert calls == [4]


def test_a_lead_that_fails_spoils_no_others_answer(calls: list[int]) -> None:
    model, some = scorer("logistic"), records(5)
    bad = LeadRecord(lead_id="without a beginning")
    *good, problem = ask(Together(Metrics(), Shadow()), [(model, record, 0) for record in (*some, bad)])
    assert good == score_records(model, some, [AT] * len(some))
    assert isinstance(problem, TableError) and "'without a beginning'" in str(problem)


def test_who_has_gone_away_is_not_scored(calls: list[int]) -> None:
    model, (first, second) = scorer("rules"), records(2)
    together = Together(Metrics(), Shadow())

    async def go() -> ScoreResponse:
        gone = asyncio.create_task(together.score(model, PLAIN, first, AT, 0))
        stays = asyncio.create_task(together.score(model, PLAIN, second, AT, 0))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(go()) == score_records(model, [second], [AT])[0]
    assert calls == [1] and together.waiting == []


def test_each_answer_is_counted_once() -> None:
    metrics = Metrics()
    ask(Together(metrics, Shadow()), [(scorer("rules"), record, 0) for record in records(20)])
    lines = metrics.text(None).decode().splitlines()
    assert sum(float(line.split()[1]) for line in lines if line.startswith("touchstone_scores_total{")) == 20


def test_callers_who_come_together_get_what_each_would_alone(trained: Trained) -> None:
    documents = [(lead(number), number % 4) for number in range(300)]
    with serving(trained.bundle) as (_, address):

        async def crowd() -> list[bytes]:
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
                got = await asyncio.gather(
                    *(client.post(f"/v1/score?reasons={reasons}", json=document) for document, reasons in documents)
                )
                return [each.raise_for_status().content for each in got]

        together = asyncio.run(crowd())
        with httpx.Client(base_url=address, timeout=300) as client:
            alone = [client.post(f"/v1/score?reasons={reasons}", json=document) for document, reasons in documents]
    assert together == [each.content for each in alone]
