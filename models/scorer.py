"""Features, model and tiers as one function: from what is known of leads to their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numba import njit

from features.errors import ModelError
from features.feature import FeatureSet, Without
from features.history import Cohort, Dataset, Floats, Ints
from models.model import Model, logit, sigmoid
from models.reasons import Reason, find_reasons
from models.sides import Sides, with_each_side
from models.tiers import TIERS, Tiers

Spread: TypeAlias = tuple[tuple[float, float], ...]
"""By rising log-odds of the probability, the standard deviation of their error."""
_Z90 = 1.6448536269514722
"""A normal variable lies within so many standard deviations of its mean nine times out of ten."""
_CHUNK = 16_384
"""Rows computed into one reused buffer: fresh memory costs more than the arithmetic."""


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model says of itself.

    >>> card = Card(version="1", model="rules", horizon_days=90, known_until="2026-02-01T00:00:00Z",
    ...             features="sha256:...", dataset="...", percentiles=(0.02,) * 90 + (0.4,) * 10)
    >>> card.name, card.version, max(card.percentiles)
    ('touchstone', '1', 0.4)
    """

    name: str = "touchstone"
    version: str
    model: str
    """The kind of model, a name of `models.candidates.MODELS`."""
    horizon_days: float
    features: str
    """The fingerprint of the feature set."""
    known_until: str
    """The model has seen nothing that became known at or after this instant."""
    dataset: str
    """The digest of the dataset it was trained on."""
    percentiles: tuple[float, ...]
    """The probabilities that 1 %, 2 %, ... 100 % of the leads open at training time do not exceed."""
    spread: Spread = ()
    """What 90 % intervals follow from; without it there are none."""
    shift: float = 0.0
    """The standard deviation of the part of that error that moves all log-odds alike."""
    backtest: dict[str, Any] = {}
    """What the backtest found, by measure."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a cohort, row by row.

    >>> Scores(probability=np.array([0.02, 0.41]), score=np.array([40, 97]), tier=np.array([0, 2])).tiers
    ['cold', 'hot']
    """

    probability: Floats
    """(n,) of a purchase within the horizon."""
    score: Ints
    """(n,) 0 to 100: the percentile of the probability among leads at training time."""
    tier: Ints
    """(n,) codes into `models.tiers.TIERS`."""
    interval: tuple[Floats, Floats] | None = None
    """(n,) lower and (n,) upper end of what the true probability lies in nine times out of ten; None if not known."""
    reasons: Sequence[tuple[Reason, ...]] | None = None
    """(n,) what moves each score most; None if not asked for."""
    sides: Sides | None = None
    """What each score would be with its attributes, or its touches, alone; None if not asked for."""

    def __len__(self) -> int:
        return len(self.probability)

    @property
    def tiers(self) -> list[str]:
        """The tier of each row in words."""
        return [TIERS[code] for code in self.tier]


@dataclass(frozen=True, eq=False)
class Scorer:
    """A model ready to score. A score is a function of (history, as_of, model) and of nothing else.

    >>> from features import Age
    >>> from features.example import example
    >>> from models.linear import Logistic
    >>> features = FeatureSet.fit((Age(),), example())
    >>> none = np.zeros(1)
    >>> stand_in = np.array([-1], np.int32)
    >>> even = Logistic(mean=none, scale=none, weight=none, missing=none, intercept=0.0, stand_in=stand_in)
    >>> card = Card(version="1", model="logistic", horizon_days=90, known_until="2026-02-01T00:00:00Z",
    ...             features=features.fingerprint, dataset=example().digest, percentiles=(0.5,) * 100)
    >>> scorer = Scorer(features, even, card, Tiers(version="2026-02-01", warm=0.1, hot=0.3))
    >>> scorer.score(example(), Cohort.at([0], "2026-02-01"))
    Scores(probability=array([0.5]), score=array([100]), tier=array([2]), interval=None, reasons=None, sides=None)
    """

    features: FeatureSet
    model: Model
    card: Card
    tiers: Tiers
    digest: str = ""
    """That of the bundle it was loaded from, whatever the tiers beside it; empty if it was loaded from none."""

    def __post_init__(self) -> None:
        if self.features.fingerprint != self.card.features:
            raise ModelError("the feature set is not the one the model was trained on: their fingerprints differ.")
        if len(self.card.percentiles) != 100:
            raise ModelError(f"a model needs 100 percentiles; this one has {len(self.card.percentiles)}.")

    @cached_property
    def _percentiles(self) -> Floats:
        return np.array(self.card.percentiles)

    def predict(self, dataset: Dataset, cohort: Cohort, threads: int = 1, without: Without | None = None) -> Floats:
        """Returns the (n,) probabilities of a purchase in [as_of, as_of + horizon); less what `without` says."""
        if len(cohort) <= _CHUNK:
            return self.model.predict(self.features.compute(dataset, cohort, without=without))
        out = np.empty(len(cohort))
        parts = np.array_split(np.arange(len(cohort)), max(1, threads))

        def work(rows: Ints) -> None:
            buffer = np.empty((_CHUNK, len(self.features.names)), np.float32)
            for begin in range(int(rows[0]), int(rows[-1]) + 1, _CHUNK):
                part = slice(begin, min(begin + _CHUNK, int(rows[-1]) + 1))
                less = None if without is None else Without(without.kind[part], without.attribute[part])
                matrix = self.features.compute(dataset, cohort[part], buffer[: part.stop - part.start], less)
                out[part] = self.model.predict(matrix)

        with ThreadPoolExecutor(max(1, threads)) as pool:
            list(pool.map(work, parts))
        return out

    def score(
        self, dataset: Dataset, cohort: Cohort, reasons: int = 0, threads: int = 1, *, sides: bool = False
    ) -> Scores:
        """Scores a cohort, with up to so many reasons a lead; nothing known at or after its as_of is seen.

        `sides` tells too what each score would be with the lead's attributes, or its touches, alone.
        """
        apart = None
        if sides:
            rows, without = with_each_side(cohort)
            probability, *alone = self.predict(dataset, rows, threads, without).reshape(3, -1)
            apart = Sides(*alone)
        else:
            probability = self.predict(dataset, cohort, threads)
        score = self._percentiles.searchsorted(probability, side="right")
        why = None
        if reasons:
            why = self.reasons(dataset, cohort, probability, reasons, threads)
        return Scores(probability, score, self.tiers.of(probability), self.interval(probability), why, apart)

    def reasons(
        self,
        dataset: Dataset,
        cohort: Cohort,
        probability: Floats,
        count: int,
        threads: int = 1,
        *,
        values: bool = True,
    ) -> list[tuple[Reason, ...]]:
        """Returns up to `count` reasons for each of the (n,) probabilities of a cohort, the strongest first.

        Without `values` an attribute is named, and what it is of the lead is not told.
        """

        def predict(rows: Cohort, without: Without) -> Floats:
            return self.predict(dataset, rows, threads, without)

        return find_reasons(self.features, predict, dataset, cohort, probability, count, values)

    def interval(self, probability: Floats) -> tuple[Floats, Floats] | None:
        """Returns the (n,) lower and upper ends of 90 % intervals; None if the model does not know them."""
        if not self.card.spread:
            return None
        return ends(probability, *self._spread)

    @cached_property
    def _spread(self) -> tuple[Floats, Floats]:
        level, deviation = np.ascontiguousarray(np.array(self.card.spread).T)
        return level, deviation


@njit(cache=True, nogil=True)
def ends(probability: Floats, level: Floats, deviation: Floats) -> tuple[Floats, Floats]:
    """The ends of the intervals around (n,) probabilities, whose log-odds are off by so much at some levels."""
    middle = logit(probability)
    reach = _Z90 * np.interp(middle, level, deviation)
    return np.minimum(sigmoid(middle - reach), probability), np.maximum(sigmoid(middle + reach), probability)


def scored_list(scorer: Scorer, dataset: Dataset, cohort: Cohort, scores: Scores) -> dict[str, Sequence[Any]]:
    """Returns the columns of a scored list, in the order of the public face."""
    lower, upper = ([None] * len(cohort),) * 2 if scores.interval is None else scores.interval
    texts = [[reason.text for reason in mine] for mine in scores.reasons or [()] * len(cohort)]
    return {
        "lead_id": dataset.ids[cohort.lead].tolist(),
        "as_of": cohort.as_of.astype("datetime64[us]"),
        "horizon_days": np.full(len(cohort), scorer.card.horizon_days),
        "probability": scores.probability,
        "lower": lower,
        "upper": upper,
        "score": scores.score,
        "tier": scores.tiers,
        "route": [scorer.tiers.routes[tier] for tier in scores.tiers],
        "reason_1": [mine[0] if len(mine) >= 1 else None for mine in texts],
        "reason_2": [mine[1] if len(mine) >= 2 else None for mine in texts],
        "reason_3": [mine[2] if len(mine) >= 3 else None for mine in texts],
        "model_version": [scorer.card.version] * len(cohort),
    }  # fmt: skip


def percentiles(probability: Iterable[float]) -> tuple[float, ...]:
    """Returns the probabilities that 1 %, 2 %, ... 100 % of some leads do not exceed."""
    ordered = np.sort(np.fromiter(probability, np.float64))
    if not len(ordered):
        return (1.0,) * 100
    # The smallest that so many do not exceed; in whole numbers, for 0.07 x 100 is more than 7.
    return tuple(ordered[-(-np.arange(1, 101) * len(ordered) // 100) - 1].tolist())
