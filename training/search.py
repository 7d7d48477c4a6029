"""Looks for settings of the blend that are better for a log than the experiment's own, and says whether it found any.

Trials see only what was known at the first of the held-out origins; on those, which no trial has seen, the best of
them is held to the experiment's settings. A search picks the luckiest of many, so its own figures prove nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from features.errors import UsageError
from features.history import Dataset
from features.times import isoformat
from models import ModelSettings, candidates
from training import tracking
from training.backtest import Backtest, Progress, backtest, choose_origins
from training.experiment import Experiment
from training.metrics import Estimate

if TYPE_CHECKING:
    from optuna import Study, Trial

_MODEL = "blend"
_RANGES: dict[str, tuple[float, float]] = {
    "num_leaves": (3, 63),
    "num_iterations": (50, 800),
    "learning_rate": (0.01, 0.2),
    "min_data_in_leaf": (10, 500),
    "lambda_l2": (0.1, 200.0),
    "penalty": (1.0, 3_000.0),
}
"""What is tried, evenly in the logarithm."""


@dataclass(frozen=True, eq=False)
class Search:
    """The best settings of a search, and what they are worth on origins it has not seen.

    >>> rows = np.arange(400)
    >>> judged = Backtest(
    ...     Experiment(), lead=rows, origin=0 * rows, bought=rows % 4 == 0, learned_from={0: (900, 40)},
    ...     probability={"default": np.full(400, 0.25), "found": np.where(rows % 4 == 0, 0.9, 0.1)},
    ... )
    >>> found = Search("a1b2", 40, (0.12, 0.11), ModelSettings(), ModelSettings(num_leaves=15), judged)
    >>> found.better, found.settings.num_leaves
    (True, 15)
    """

    study: str
    trials: int
    """Completed ones, those of earlier runs included."""
    searched: tuple[float, float]
    """Log loss of the default and of what was found, on the origins that were searched: the second flatters."""
    default: ModelSettings
    """The experiment's own."""
    found: ModelSettings
    """Those of the least log loss on the origins that were searched."""
    judged: Backtest
    """Both on the held-out origins, by the names "default" and "found"."""

    @property
    def gain(self) -> Estimate:
        """The default's log loss less that of what was found, on the held-out origins, paired by lead."""
        return self.judged.evaluation.difference("default", "found", "log_loss")

    @property
    def better(self) -> bool:
        """Whether what was found is better beyond the interval."""
        return self.gain.low > 0

    @property
    def settings(self) -> ModelSettings:
        """Those to use: what was found if it is better beyond the interval, else the default."""
        return self.found if self.better else self.default

    @property
    def says(self) -> str:
        """What was found, in words."""
        gain = self.gain
        verdict = "better than the default" if self.better else "nothing better than the default beyond the interval"
        where = f"{self.judged.folds} parts" if self.judged.folds else f"{len(self.judged.origins)} later origins"
        return (
            f"{self.trials} trials found {verdict}: on {where} that no trial has seen the log loss is "
            f"{gain.value:.5f} lower ({gain.low:.5f} to {gain.high:.5f})"
        )


def search(
    dataset: Dataset,
    experiment: Experiment | None = None,
    *,
    trials: int = 50,
    until: int | None = None,
    progress: Progress | None = None,
) -> Search:
    """Tries settings until there are so many completed trials, those of earlier runs of the same search included.

    The later half of the experiment's origins is held out; the trials are backtests of what was known at the first of
    them. Of a list without times half of the leads is held out, by lot. Raises UsageError where no origin is left.
    """
    if trials < 1:
        raise UsageError(f"trials={trials}: a search takes at least one.")
    experiment = experiment or Experiment()
    until = dataset.recorded_until if until is None else until
    known = dataset.known_at(until)
    early, late = _of_list(known, experiment, until) if known.timeless else _of_log(known, experiment, until)
    name = _name(known, experiment, until)
    with tracking.search_run(experiment.name, name) as log:
        study, own = _study(name, experiment), asdict(experiment.model)
        if not study.trials:
            study.enqueue_trial(own)

        def objective(trial: Trial) -> float:
            settings = _suggest(trial, own)
            if progress:
                progress(f"trial {trial.number + 1}", _completed(study) / trials)
            loss = early.run({_MODEL: settings}).evaluation.estimate(_MODEL, "log_loss").value
            log(f"trial {trial.number}", asdict(settings), {"log_loss": loss})
            return loss

        if (left := trials - _completed(study)) > 0:
            study.optimize(objective, left)
        if progress:
            progress("judging", 1.0)
        best = ModelSettings(**study.best_params)
        searched = _loss_of(study, own, early), study.best_value
        judged = late.run({"default": experiment.model, "found": best})
        found = Search(name, _completed(study), searched, experiment.model, best, judged)
        low, high = found.gain.low, found.gain.high
        log("judged", asdict(best), {"gain": found.gain.value, "gain.low": low, "gain.high": high})
    return found


class _World(NamedTuple):
    """What a backtest is run on."""

    dataset: Dataset
    experiment: Experiment
    until: int

    def run(self, settings: Mapping[str, ModelSettings]) -> Backtest:
        """Backtests the blend by each of some settings."""
        competing = [
            dataclasses.replace(candidate, name=name)
            for name, mine in settings.items()
            for candidate in candidates(settings=mine)
            if candidate.name == _MODEL
        ]
        return backtest(self.dataset, self.experiment, competing, until=self.until)


def _of_log(known: Dataset, experiment: Experiment, until: int) -> tuple[_World, _World]:
    """What was known at the first held-out origin, and what is known by now, with the held-out origins alone."""
    held = choose_origins(known, experiment, until)
    held = held[len(held) // 2 :]
    if not held:
        raise UsageError(
            f"no origin is left to hold out: none whose {experiment.horizon_days:g} days are over lies within the "
            "data. Take a shorter --horizon, or more data."
        )
    later = replace(experiment, origins=len(held), first_origin=isoformat(held[0]))
    return _World(known.known_at(held[0]), _roughly(experiment), held[0]), _World(known, later, until)


def _of_list(known: Dataset, experiment: Experiment, until: int) -> tuple[_World, _World]:
    """Two halves of the leads, by lot."""
    mixed = np.random.default_rng(experiment.seed).permutation(len(known))
    half = len(known) // 2
    early, late = (known.take(np.sort(leads)) for leads in (mixed[:half], mixed[half:]))
    return _World(early, _roughly(experiment), until), _World(late, experiment, until)


def _roughly(experiment: Experiment) -> Experiment:
    """Trials need no intervals."""
    return replace(experiment, bootstrap=10)


def _name(known: Dataset, experiment: Experiment, until: int) -> str:
    """The same for the same data and experiment, so that a search goes on where it stopped."""
    asked = f"{known.digest} {until} ".encode() + msgspec.json.encode(experiment)
    return hashlib.sha256(asked).hexdigest()[:16]


def _study(name: str, experiment: Experiment) -> Study:
    import optuna

    # As a warning it would print the traceback of an error that is told anyhow.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = f"sqlite:///{tracking.beside_store('optuna.db')}"
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="minimize")
    # What is taken up again must not draw what it drew before.
    study.sampler = optuna.samplers.TPESampler(seed=experiment.seed + len(study.trials), constant_liar=False)
    return study


def _suggest(trial: Trial, own: Mapping[str, float]) -> ModelSettings:
    """Draws settings from the ranges, widened so that the experiment's own lie within them."""
    drawn: dict[str, int | float] = {}
    for name, (low, high) in _RANGES.items():
        low, high = min(low, own[name]), max(high, own[name])
        if isinstance(own[name], int):
            drawn[name] = trial.suggest_int(name, int(low), int(high), log=True)
        else:
            drawn[name] = trial.suggest_float(name, low, high, log=low > 0)
    return ModelSettings(**drawn)  # type: ignore[arg-type]


def _completed(study: Study) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))


def _loss_of(study: Study, own: Mapping[str, float], early: _World) -> float:
    """The log loss of the experiment's own settings; a search that was stopped in its first trial lacks it."""
    for trial in study.get_trials(deepcopy=False):
        if trial.value is not None and trial.params == own:
            return trial.value
    return early.run({_MODEL: early.experiment.model}).evaluation.estimate(_MODEL, "log_loss").value
