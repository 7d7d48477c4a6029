"""Production replayed: at each past origin, learn from what was known then, score every open lead, see what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.errors import TouchstoneError
from features.history import Bools, Cohort, Dataset, Floats, Ints, Matrix
from features.times import US_PER_DAY, isoformat, to_us
from models import Candidate, Model, Recipe
from training.experiment import Experiment
from training.labels import Listings, bought_within, buffer, completed, listings, still_open
from training.metrics import Evaluation, evaluate

Progress = Callable[[str, float], None]
"""Told what is being done and how much of the whole is behind, 0 to 1."""


@dataclass(frozen=True, eq=False)
class Backtest:
    """Every open lead of every origin, what each model said of it then, and what came.

    >>> result = Backtest(
    ...     Experiment(), lead=np.arange(4), origin=np.zeros(4, np.int64), learned_from={0: (900, 40)},
    ...     bought=np.array([True, False, False, True]),
    ...     probability={"sharp": np.array([0.9, 0.1, 0.2, 0.8]), "blunt": np.full(4, 0.5)},
    ... )
    >>> result.best(["blunt", "sharp"])
    'sharp'
    """

    experiment: Experiment
    lead: Ints
    """(n,) index of the lead in the dataset."""
    origin: Ints
    """(n,) microseconds."""
    bought: Bools
    """(n,) whether it bought in [origin, origin + horizon)."""
    probability: dict[str, Floats]
    """(n,) for each model."""
    learned_from: dict[int, tuple[int, int]]
    """For each origin, the training rows whose window was over, and the leads among them that bought."""

    @property
    def origins(self) -> list[int]:
        """The origins in order."""
        return sorted(self.learned_from)

    @cached_property
    def evaluation(self) -> Evaluation:
        """The models side by side over all origins."""
        return self._evaluate(np.ones(len(self.lead), np.bool_))

    def at(self, origin: int) -> Evaluation:
        """The models side by side at one origin."""
        return self._evaluate(self.origin == origin)

    def best(self, among: Sequence[str]) -> str:
        """The model with the least log loss."""
        return min(among, key=lambda name: self.evaluation.estimate(name, "log_loss").value)

    def _evaluate(self, rows: Bools) -> Evaluation:
        return evaluate(
            self.bought[rows],
            {name: p[rows] for name, p in self.probability.items()},
            self.lead[rows],
            self.origin[rows],
            capacity=self.experiment.capacity,
            bootstrap=self.experiment.bootstrap,
            seed=self.experiment.seed,
        )


def backtest(
    dataset: Dataset,
    experiment: Experiment,
    candidates: Sequence[Candidate],
    *,
    until: int | None = None,
    progress: Progress | None = None,
) -> Backtest:
    """Runs candidates through the past of a dataset.

    An origin is used if its horizon, and the reporting of purchases, is over by `until` (the last that is known, if
    left out), and if both purchases and other leads could be learned from then. Raises TouchstoneError if none is.
    """
    tell = progress or _silent
    until = dataset.recorded_until if until is None else until
    past = dataset if dataset.last_known < until else dataset.known_at(until)
    origins = choose_origins(past, experiment, until)
    parts: list[tuple[Cohort, Bools, dict[str, Floats]]] = []
    learned: dict[int, tuple[int, int]] = {}
    for number, origin in enumerate(origins):
        known = past.known_at(origin)
        rows = listings(known, origin, experiment)
        if not 0 < rows.bought.sum() < rows.finished:
            continue
        asked = known.open_at(origin)
        probability: dict[str, Floats] = {}
        matrices: dict[str, tuple[Matrix, Matrix]] = {}
        for k, candidate in enumerate(candidates):
            tell(f"{isoformat(origin)[:10]} {candidate.name}", (number + k / len(candidates)) / len(origins))
            recipe = candidate.prepare(known)
            key = recipe.features.fingerprint
            if key not in matrices:
                matrices[key] = recipe.features.compute(known, rows.cohort), recipe.features.compute(known, asked)
            past_matrix, matrix = matrices[key]
            probability[candidate.name] = learn(recipe, known, rows, past_matrix).predict(matrix)
        scored = Cohort(np.flatnonzero(past.created_at < origin)[asked.lead], asked.as_of)
        judged = still_open(past, scored)
        parts.append((
            scored[judged], bought_within(past, scored[judged], experiment.horizon),
            {name: p[judged] for name, p in probability.items()},
        ))  # fmt: skip
        learned[origin] = rows.finished, rows.buyers
    tell("measuring", 1.0)
    if not parts or not any(bought.any() for _, bought, _ in parts):
        raise TouchstoneError(
            f"no origin can be judged: a purchase must lie within {experiment.horizon_days:g} days after an origin, "
            f"and another one in a window that was over before it. The data reach from "
            f"{isoformat(int(past.created_at.min(initial=until)))[:10]} to {isoformat(until)[:10]} and hold "
            f"{int(past.closed[1].sum()):,} purchases. Take a shorter --horizon, or more data."
        )
    names = [candidate.name for candidate in candidates]
    cohort = Cohort.concat(scored for scored, _, _ in parts)
    return Backtest(
        experiment,
        np.flatnonzero(dataset.created_at < until)[cohort.lead],
        cohort.as_of,
        np.concatenate([bought for _, bought, _ in parts]),
        {name: np.concatenate([p[name] for _, _, p in parts]) for name in names},
        learned,
    )


def learn(recipe: Recipe, known: Dataset, rows: Listings, matrix: Matrix) -> Model:
    """Fits a recipe on past listings; `matrix` holds its features of all of them, also of those not over yet."""
    if not recipe.completes:
        return recipe.fit(matrix[: rows.finished], rows.bought.astype(np.float64))
    return recipe.fit(matrix, completed(rows, matrix, recipe.features.compute(known, rows.latest)))


def choose_origins(known: Dataset, experiment: Experiment, until: int) -> list[int]:
    """The origins of an experiment, in order, that lie within what is known and are over and reported by `until`."""
    step = round(experiment.origin_days * US_PER_DAY)
    last = until - experiment.horizon - buffer(known, experiment)
    if experiment.first_origin is None:
        origins = [last - k * step for k in reversed(range(experiment.origins))]
    else:
        first = to_us(experiment.first_origin)
        origins = [first + k * step for k in range(experiment.origins)]
    start = int(known.created_at.min(initial=until))
    return [origin for origin in origins if start < origin <= last]


def _silent(what: str, share: float) -> None:
    pass
