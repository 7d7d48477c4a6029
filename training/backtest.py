"""Production replayed: at each past origin, learn from what was known then, score every open lead, see what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from joblib import Parallel, delayed

import models
from features.errors import TouchstoneError
from features.history import Bools, Cohort, Dataset, Floats, Ints, Matrix
from features.times import US_PER_DAY, isoformat, to_us
from models import Candidate, Model, Recipe
from training.experiment import Experiment
from training.labels import Listings, bought_within, buffer, completed, listings, still_open
from training.metrics import MEASURES, Evaluation, evaluate

if TYPE_CHECKING:
    from pandas import DataFrame

_FOLDS = 5
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
    folds: int = 0
    """How many parts of a list without times took turns at being scored by a model of the others; 0: it has times."""

    @classmethod
    def nothing(cls, experiment: Experiment) -> Self:
        """What there is where no origin can be judged."""
        none = np.empty(0, np.int64)
        return cls(experiment, none, none, none > 0, {}, {})

    @property
    def judged(self) -> bool:
        """Whether there is anything to judge models by."""
        return len(self.lead) > 0

    @property
    def origins(self) -> list[int]:
        """The origins in order."""
        return sorted(self.learned_from)

    @cached_property
    def evaluation(self) -> Evaluation:
        """The models side by side over all origins; raises TouchstoneError where none could be judged."""
        if not self.judged:
            raise TouchstoneError("no origin could be judged, so there are no figures yet. Train again with more data.")
        return self._evaluate(np.ones(len(self.lead), np.bool_), self.experiment.bootstrap)

    def at(self, origin: int) -> dict[str, dict[str, float]]:
        """The figures of the models at one origin, without intervals: by model, then by measure."""
        found = self._evaluate(self.origin == origin, bootstrap=0)
        names = [measure.name for measure in MEASURES]
        return {model: dict(zip(names, values.tolist(), strict=True)) for model, values in found.values.items()}

    def table(self) -> DataFrame:
        """The figures of the models with their 95 % intervals: a row a model, columns (measure, value | low | high)."""
        from pandas import DataFrame

        found = self.evaluation.to_dict()
        rows = {
            model: {(m, end): x for m, estimate in mine.items() for end, x in estimate.items()}
            for model, mine in found.items()
        }
        return DataFrame.from_dict(rows, orient="index").sort_values(("log_loss", "value"), ascending=False)

    def table_by_origin(self) -> DataFrame:
        """The figures of the models at each origin: rows (origin, model), columns measures."""
        from pandas import DataFrame, to_datetime

        rows = {
            (to_datetime(origin, unit="us", utc=True), model): figures
            for origin in self.origins
            for model, figures in self.at(origin).items()
        }
        return DataFrame.from_dict(rows, orient="index").rename_axis(["origin", "model"])

    def _repr_html_(self) -> str:
        from training.report import html

        return html(self)

    def best(self, among: Sequence[str]) -> str:
        """The model with the least log loss."""
        return min(among, key=lambda name: self.evaluation.estimate(name, "log_loss").value)

    def _evaluate(self, rows: Bools, bootstrap: int) -> Evaluation:
        return evaluate(
            self.bought[rows],
            {name: p[rows] for name, p in self.probability.items()},
            self.lead[rows],
            self.origin[rows],
            capacity=self.experiment.capacity,
            bootstrap=bootstrap,
            seed=self.experiment.seed,
        )


def backtest(
    dataset: Dataset,
    experiment: Experiment,
    candidates: Sequence[Candidate] | None = None,
    *,
    until: int | None = None,
    progress: Progress | None = None,
) -> Backtest:
    """Runs candidates through the past of a dataset; all that there are, by the experiment's settings, if left out.

    An origin is used if its horizon, and the reporting of purchases, is over by `until` (the last that is known, if
    left out), and if both purchases and other leads could be learned from then. A list without times has no past: its
    leads are parted into folds instead, and each fold is scored by what was learned from the others. Raises
    TouchstoneError if nothing can be judged.
    """
    candidates = models.candidates(settings=experiment.model) if candidates is None else candidates
    until = dataset.recorded_until if until is None else until
    result = replay(dataset, experiment, candidates, until, progress)
    if not result.judged:
        past = dataset.known_at(until)
        raise TouchstoneError(
            f"no origin can be judged: a purchase must lie within {experiment.horizon_days:g} days after an origin, "
            f"and another one in a window that was over before it. The data reach from "
            f"{isoformat(int(past.created_at.min(initial=until)))[:10]} to {isoformat(until)[:10]} and hold "
            f"{int(past.closed[1].sum()):,} purchases. Take a shorter --horizon, or more data."
        )
    return result


def replay(
    dataset: Dataset,
    experiment: Experiment,
    candidates: Sequence[Candidate],
    until: int,
    progress: Progress | None = None,
) -> Backtest:
    """The backtest of some candidates, `Backtest.nothing` where nothing can be judged."""
    tell = progress or _silent
    past = dataset if dataset.last_known < until else dataset.known_at(until)
    trials = _folds(past, experiment) if past.timeless else _replays(past, experiment, until)
    total, behind, turn = len(trials) * len(candidates), count(), Lock()

    def said(what: str) -> None:
        with turn:
            tell(what, next(behind) / total)

    # Threads share the data, and numba, numpy and LightGBM do not hold each other up.
    run = Parallel(n_jobs=-1, prefer="threads")
    found = run(delayed(_run)(trial, past, experiment, candidates, said) for trial in trials)
    parts: list[_Part] = [part for part in found if part is not None]
    tell("measuring", 1.0)
    if not any(part.bought.any() for part in parts):
        return Backtest.nothing(experiment)
    cohort = Cohort.concat(part.scored for part in parts)
    learned: dict[int, tuple[int, int]] = {}
    for part in parts:
        learned[part.origin] = min(part.learned_from, learned.get(part.origin, part.learned_from))
    return Backtest(
        experiment,
        np.flatnonzero(dataset.created_at < until)[cohort.lead],
        cohort.as_of,
        np.concatenate([part.bought for part in parts]),
        {c.name: np.concatenate([part.probability[c.name] for part in parts]) for c in candidates},
        learned,
        len(parts) if past.timeless else 0,
    )


def learn(recipe: Recipe, known: Dataset, rows: Listings, matrix: Matrix) -> Model:
    """Fits a recipe on past listings; `matrix` holds its features of all of them, also of those not over yet."""
    if not recipe.completes:
        return recipe.fit(matrix[: rows.finished], rows.bought.astype(np.float64), rows.evidence)
    latest = recipe.features.compute(known, rows.latest)
    return recipe.fit(matrix, completed(rows, matrix, latest, recipe.features.stand_in), rows.evidence)


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


class _Trial(NamedTuple):
    """A world to learn from, and the leads to score by it."""

    name: str
    origin: int
    """As of when it scores."""
    known: Dataset
    seen: Dataset
    """Where those to score are looked up: in what was known or, in a list without times, in all of it."""
    asked: Cohort
    leads: Ints
    """(seen leads,) their index in the past."""


class _Part(NamedTuple):
    """What came of a trial."""

    origin: int
    scored: Cohort
    bought: Bools
    probability: dict[str, Floats]
    learned_from: tuple[int, int]


def _replays(past: Dataset, experiment: Experiment, until: int) -> list[Callable[[], _Trial]]:
    def at(origin: int) -> _Trial:
        known, leads = past.known_at(origin), np.flatnonzero(past.created_at < origin)
        return _Trial(isoformat(origin)[:10], origin, known, known, known.open_at(origin), leads)

    return [partial(at, origin) for origin in choose_origins(past, experiment, until)]


def _folds(past: Dataset, experiment: Experiment) -> list[Callable[[], _Trial]]:
    from sklearn.model_selection import StratifiedKFold

    leads = np.sort(listings(past, past.recorded_until, experiment).cohort.lead)
    bought = past.closed[1][leads]
    parts = min(_FOLDS, int(bought.sum()), int((~bought).sum()))
    if parts < 2:
        return []

    def fold(number: int, others: Ints, mine: Ints) -> _Trial:
        asked = Cohort.at(leads[mine], past.created_at[leads[mine]] + 1)
        known, origin = past.take(leads[others]), int(asked.as_of[0])
        return _Trial(f"part {number + 1} of {parts}", origin, known, past, asked, np.arange(len(past)))

    split = StratifiedKFold(parts, shuffle=True, random_state=experiment.seed).split(leads, bought)
    return [partial(fold, number, others, mine) for number, (others, mine) in enumerate(split)]


def _run(
    trial: Callable[[], _Trial],
    past: Dataset,
    experiment: Experiment,
    candidates: Sequence[Candidate],
    said: Callable[[str], None],
) -> _Part | None:
    """Learns from what was known and scores; None if purchases and other leads could not both be learned from."""
    name, origin, known, seen, asked, leads = trial()
    rows = listings(known, origin, experiment)
    if not len(asked) or not 0 < rows.bought.sum() < rows.finished:
        return None
    probability: dict[str, Floats] = {}
    matrices: dict[str, tuple[Matrix, Matrix]] = {}
    for candidate in candidates:
        said(f"{name} {candidate.name}")
        recipe = candidate.prepare(known)
        key = recipe.features.fingerprint
        if key not in matrices:
            matrices[key] = recipe.features.compute(known, rows.cohort), recipe.features.compute(seen, asked)
        past_matrix, matrix = matrices[key]
        probability[candidate.name] = learn(recipe, known, rows, past_matrix).predict(matrix)
    scored = Cohort(leads[asked.lead], asked.as_of)
    bought, judged = past.closed[1][scored.lead], np.ones(len(scored), np.bool_)
    if not past.timeless:
        bought, judged = bought_within(past, scored, experiment.horizon), still_open(past, scored)
    return _Part(
        origin,
        scored[judged],
        bought[judged],
        {name: p[judged] for name, p in probability.items()},
        (rows.finished, rows.buyers),
    )


def _silent(what: str, share: float) -> None:
    pass
