"""A model that scores along without answering, so that it is known what it would change before it serves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from threading import Lock

import msgspec
import numpy as np

from features.history import Cohort
from features.records import LeadRecord, dataset_of
from features.times import datetime_us
from models.scorer import Scorer
from models.tiers import TIERS
from serving.policy import InForce
from serving.schemas import ScoreResponse

_WAITING = 500
"""Leads that may wait; what comes beyond is left out, so that a busy service stays as fast as without."""


class Comparison(msgspec.Struct, frozen=True):
    """Sums over the leads that two models have scored.

    >>> Comparison("1", "2", scores=1, changes=1).plus(Comparison("1", "2", scores=2)).scores
    3
    """

    serving: str
    version: str
    scores: int = 0
    skipped: int = 0
    probability_serving: float = 0.0
    probability: float = 0.0
    difference: float = 0.0
    absolute: float = 0.0
    changes: int = 0

    def plus(self, other: Comparison) -> Comparison:
        """Adds what another one counted; of other models it counts nothing."""
        if (other.serving, other.version) != (self.serving, self.version):
            return self
        mine, its = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Comparison(*mine[:2], *(a + b for a, b in zip(mine[2:], its[2:], strict=True)))


class Shadow:
    """Takes what was answered, and scores it later; safe to use from many threads.

    >>> Shadow().scorer is None
    True
    """

    def __init__(self) -> None:
        self.scorer: Scorer | None = None
        self.problem: str | None = None
        self._waiting: deque[tuple[LeadRecord, ScoreResponse, InForce]] = deque()
        self._skipped = 0
        self._found: Comparison | None = None
        self._working = Lock()

    def offer(self, leads: Sequence[LeadRecord], answers: Sequence[ScoreResponse], policy: InForce) -> None:
        """Takes leads and what was answered by a tenant's policy, if there is a shadow and room."""
        if self.scorer is None:
            return
        room = max(0, _WAITING - len(self._waiting))
        self._waiting.extend(islice(((*pair, policy) for pair in zip(leads, answers, strict=True)), room))
        self._skipped += max(0, len(leads) - room)

    def work(self) -> None:
        """Scores what waits."""
        with self._working:
            scorer = self.scorer
            if scorer is None:
                self._waiting.clear()
                return
            skipped, self._skipped = self._skipped, 0
            waited = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for serving in dict.fromkeys(answer.model.version for _, answer, _ in waited):
                mine = [each for each in waited if each[1].model.version == serving]
                self._count(scorer, serving, mine, skipped)
                skipped = 0

    def comparison(self, serving: str) -> Comparison | None:
        """What was found beside the version that serves; None without a shadow."""
        found, scorer = self._found, self.scorer
        if scorer is None:
            return None
        empty = Comparison(serving, scorer.card.version)
        return empty.plus(found) if found else empty

    def _count(
        self,
        scorer: Scorer,
        serving: str,
        waited: Sequence[tuple[LeadRecord, ScoreResponse, InForce]],
        skipped: int,
    ) -> None:
        answers = [answer for _, answer, _ in waited]
        dataset = dataset_of([lead for lead, _, _ in waited])
        as_of = np.array([datetime_us(answer.as_of) for answer in answers], np.int64)
        probability = scorer.predict(dataset, Cohort(np.arange(len(waited)), as_of))
        given = np.array([answer.probability for answer in answers])
        apart = probability - given
        changes = 0
        for policy in dict.fromkeys(policy for _, _, policy in waited):
            mine = np.array([each is policy for _, _, each in waited])
            tier = policy.tiers(scorer.tiers).of(probability[mine])
            told = [answer.tier for answer, its in zip(answers, mine, strict=True) if its]
            changes += sum(TIERS[code] != word for code, word in zip(tier.tolist(), told, strict=True))
        new = Comparison(
            serving, scorer.card.version, len(waited), skipped, float(given.sum()), float(probability.sum()),
            float(apart.sum()), float(np.abs(apart).sum()), changes,
        )  # fmt: skip
        found = self._found
        same = found is not None and (found.serving, found.version) == (new.serving, new.version)
        self._found = found.plus(new) if found is not None and same else new
