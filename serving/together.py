"""Scores of leads as answers; what is asked for at the same time is computed at once.

Most of what it takes to score one lead is the same for sixteen: so requests that wait together share it. None waits for
another by the clock: those that come while the event loop turns once are taken along, as long as each turn brings more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from features.history import Cohort
from features.records import LeadRecord, dataset_of
from features.times import datetimes_us
from models.scorer import Scorer
from models.tiers import TIERS
from serving.metrics import Metrics
from serving.policy import InForce
from serving.schemas import ModelReference, Reason, ScoreResponse
from serving.shadow import Shadow

_MOST = 16
"""Leads of one computation, in which nobody else is answered."""


class _Way(NamedTuple):
    """How a lead is to be scored."""

    scorer: Scorer
    policy: InForce
    reasons: int


class _Asked(NamedTuple):
    record: LeadRecord
    at: datetime
    answer: asyncio.Future[ScoreResponse]


class Together:
    """Scores leads for those who wait; for the event loop's own thread.

    >>> Together(Metrics(), Shadow()).waiting
    []
    """

    def __init__(self, metrics: Metrics, shadow: Shadow) -> None:
        self.waiting: list[tuple[_Way, _Asked]] = []
        self._before = 0
        """How many waited when the loop began its turn."""
        self._metrics = metrics
        self._shadow = shadow

    async def score(
        self, scorer: Scorer, policy: InForce, record: LeadRecord, at: datetime, reasons: int
    ) -> ScoreResponse:
        """Scores a lead that was created before an instant in UTC, by a scorer that a policy is in already."""
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self._answer)
        asked = _Asked(record, at, loop.create_future())
        self.waiting.append((_Way(scorer, policy, reasons), asked))
        return await asked.answer

    def score_now(
        self, scorer: Scorer, policy: InForce, records: Sequence[LeadRecord], at: Sequence[datetime], reasons: int
    ) -> list[ScoreResponse]:
        """Scores leads as `score` does, in any thread."""
        answers = score_records(scorer, records, at, reasons)
        self._metrics.scored(answers)
        self._shadow.offer(records, answers, policy)
        return answers

    def _answer(self) -> None:
        if self._before < len(self.waiting) < _MOST:
            # As long as each turn of the loop brings more, they are taken along.
            self._before = len(self.waiting)
            asyncio.get_running_loop().call_soon(self._answer)
            return
        self._before = 0
        waiting, self.waiting = self.waiting[:_MOST], self.waiting[_MOST:]
        if self.waiting:
            asyncio.get_running_loop().call_soon(self._answer)
        ways: dict[_Way, list[_Asked]] = {}
        for way, asked in waiting:
            # Who has gone away needs no answer.
            if not asked.answer.done():
                ways.setdefault(way, []).append(asked)
        for way, mine in ways.items():
            self._go(way, mine)

    def _go(self, way: _Way, asked: Sequence[_Asked]) -> None:
        records, instants, futures = zip(*asked, strict=True)
        try:
            answers = self.score_now(way.scorer, way.policy, records, instants, way.reasons)
        except Exception as problem:
            if len(asked) == 1:
                asked[0].answer.set_exception(problem)
                return
            # The fault may be one lead's; the others are answered.
            for one in asked:
                self._go(way, [one])
            return
        for future, answer in zip(futures, answers, strict=True):
            future.set_result(answer)


def score_records(
    scorer: Scorer, records: Sequence[LeadRecord], instants: Sequence[datetime], reasons: int = 0
) -> list[ScoreResponse]:
    """Scores leads that were created before the instants, in UTC, that they are asked about."""
    cohort = Cohort(np.arange(len(records)), np.array(datetimes_us(instants), np.int64))
    scores = scorer.score(dataset_of(records), cohort, reasons, sides=True)
    assert scores.sides is not None
    card, tiers = scorer.card, scorer.tiers
    model = ModelReference(card.name, card.version, card.features)
    out = []
    count = len(records)
    why = [None] * count if scores.reasons is None else [[Reason(*one) for one in mine] for mine in scores.reasons]
    ends = [None] * count if scores.interval is None else [*zip(*(e.tolist() for e in scores.interval), strict=True)]
    rows = zip(
        records,
        instants,
        scores.probability.tolist(),
        ends,
        scores.score.tolist(),
        scores.tier.tolist(),
        why,
        scores.sides.fit.tolist(),
        scores.sides.engagement.tolist(),
        strict=True,
    )
    for lead, instant, probability, interval, score, code, mine, fit, engagement in rows:
        tier = TIERS[code]
        out.append(
            ScoreResponse(
                lead.lead_id, instant, probability, interval, score, card.horizon_days,
                tier, tiers.routes[tier], tiers.version, mine, fit, engagement, model,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return out
