"""Whether a model still holds: what it predicted against what came, and the leads of now against those of training.

What a model says of instants before `known_until` is no evidence, for it has learned from them. Of those after it only
the ones count whose horizon, and the reporting of purchases, is over.
"""

from __future__ import annotations

import msgspec
import numpy as np

from features.errors import TouchstoneError, UsageError
from features.history import Bools, Cohort, Dataset, Floats
from features.times import US_PER_DAY, isoformat, to_us
from models import TIERS, Scorer
from models.scorer import percentiles
from training.backtest import Progress
from training.drift import Comparison, compare
from training.experiment import Experiment
from training.labels import bought_within, buffer, still_open
from training.metrics import Estimate, bought_rate, calibration_slope, evaluate

WEEK = 7 * US_PER_DAY
"""How often the past is looked at: lists are worked by the week."""
_FEW = 10
"""Buyers under whom a mean that fits is no proof."""
_SOME = 20
"""Buyers from whom on the slope counts."""


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """What was predicted of some leads, and what came."""

    rows: int
    predicted: float
    """The mean probability."""
    came: Estimate
    """The share that bought within the horizon."""

    @property
    def ratio(self) -> Estimate | None:
        """Predicted over observed; None if none came."""
        if not self.came.value:
            return None
        return Estimate(*(self.predicted / share for share in (self.came.value, self.came.high, self.came.low)))


class Matured(msgspec.Struct, frozen=True, kw_only=True):
    """The predictions whose horizon is over, against what came; intervals are 95 % and take whole leads."""

    first: str
    last: str
    instants: int
    purchases: int
    """Of rows; a lead that is open at several instants before it buys counts at each."""
    buyers: int
    """Of leads."""
    all: Rate
    tiers: dict[str, Rate]
    """The best first; only those that some lead was in."""
    figures: dict[str, Estimate]
    """Predicted over observed (`ratio`), the calibration's `slope`, `log_loss`, `base_log_loss` (of the share that
    bought, said of everybody), `gain` (of the one on the other), `auc` and `caught`; not what too little came to tell.
    """
    capacity: float


class Monitoring(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be thought of a model by now.

    >>> found = Monitoring(version="3", known_until="2026-01-20T00:00:00Z", until="2026-02-05T00:00:00Z",
    ...                    horizon_days=60, holds=None, says="nothing has matured yet: from 2026-04-04 on",
    ...                    matured=None, drift=None)
    >>> f"Version {found.version}: {found.says}."
    'Version 3: nothing has matured yet: from 2026-04-04 on.'
    """

    version: str
    known_until: str
    until: str
    horizon_days: float
    holds: bool | None
    """Whether its predictions come true; None if that cannot be told."""
    says: str
    matured: Matured | None
    drift: Comparison | None
    """None if no leads can be compared."""
    notes: tuple[str, ...] = ()


def monitor(
    scorer: Scorer,
    dataset: Dataset,
    experiment: Experiment | None = None,
    *,
    until: int | None = None,
    since: int | None = None,
    weeks: int | None = None,
    progress: Progress | None = None,
) -> Monitoring:
    """Looks at a model as things are known at `until` (microseconds; the end of the data if left out).

    `since` and `weeks` narrow down the weekly instants that are judged: to those not before an instant, to the last
    few. Of the experiment, capacity, reporting delay, bootstrap and seed are used; the horizon is the model's own.
    Raises UsageError if `until` lies before what the model has learned from, TouchstoneError if the data have no times.
    """
    card = scorer.card
    experiment = msgspec.structs.replace(experiment or Experiment(), horizon_days=card.horizon_days)
    learned = to_us(card.known_until)
    until = max(learned, dataset.recorded_until) if until is None else until
    if until < learned:
        raise UsageError(
            f"on {isoformat(until)[:10]} there was no such model: it has learned from all until "
            f"{card.known_until[:10]}. Give a later instant."
        )
    known = dataset.known_at(until)
    if known.timeless:
        raise TouchstoneError(
            "a list without times does not say what came after a prediction. Give created_at of the leads, and "
            "occurred_at of outcomes and touchpoints."
        )
    over = experiment.horizon + buffer(known, experiment)
    first = max(learned, since or learned)
    instants = list(range(first, until - over + 1, WEEK))
    matured = _judge(scorer, known, experiment, instants[-weeks:] if weeks else instants, progress)
    if progress:
        progress("comparing the leads of then and now", 0.9)
    drift = compare(scorer, known, learned, until, experiment.seed) if until > learned else None
    holds, says = _verdict(matured, isoformat(first + over)[:10])
    return Monitoring(
        version=card.version, known_until=card.known_until, until=isoformat(until), horizon_days=card.horizon_days,
        holds=holds, says=says, matured=matured, drift=drift, notes=tuple(_doubts(scorer, known, learned, since)),
    )  # fmt: skip


def _judge(
    scorer: Scorer, known: Dataset, experiment: Experiment, instants: list[int], progress: Progress | None
) -> Matured | None:
    """Replays the model's predictions at some instants; None if no lead was open at any."""
    parts: list[tuple[Cohort, Floats]] = []
    for k, instant in enumerate(instants):
        if progress:
            progress(isoformat(instant)[:10], 0.9 * k / len(instants))
        then = known.known_at(instant)
        asked = then.open_at(instant)
        scored = Cohort(np.flatnonzero(known.created_at < instant)[asked.lead], asked.as_of)
        judged = still_open(known, scored)
        parts.append((scored[judged], scorer.predict(then, asked)[judged]))
    rows = Cohort.concat(cohort for cohort, _ in parts)
    if not len(rows):
        return None
    p, bought = np.concatenate([p for _, p in parts]), bought_within(known, rows, experiment.horizon)
    tier, everybody = scorer.tiers.of(p), _rate(rows, p, bought)
    figures = {"ratio": everybody.ratio, "slope": calibration_slope(bought, p, rows.lead)}
    if 0 < bought.sum() < len(bought):
        found = evaluate(
            bought, {"model": p, "base": np.full(len(p), bought.mean())}, rows.lead, rows.as_of,
            capacity=experiment.capacity, bootstrap=experiment.bootstrap, seed=experiment.seed,
        )  # fmt: skip
        figures |= {
            "log_loss": found.estimate("model", "log_loss"), "base_log_loss": found.estimate("base", "log_loss"),
            "gain": found.difference("base", "model", "log_loss"), "auc": found.estimate("model", "auc"),
            "caught": found.estimate("model", "caught"),
        }  # fmt: skip
    return Matured(
        first=isoformat(instants[0]), last=isoformat(instants[-1]), instants=len(instants),
        purchases=int(bought.sum()), buyers=len(np.unique(rows.lead[bought])), all=everybody,
        tiers={
            name: _rate(rows[tier == k], p[tier == k], bought[tier == k])
            for k, name in reversed([*enumerate(TIERS)]) if (tier == k).any()
        },
        figures={name: figure for name, figure in figures.items() if figure is not None},
        capacity=experiment.capacity,
    )  # fmt: skip


def _rate(rows: Cohort, p: Floats, bought: Bools) -> Rate:
    return Rate(rows=len(rows), predicted=float(p.mean()), came=bought_rate(bought, rows.lead))


def _verdict(matured: Matured | None, from_day: str) -> tuple[bool | None, str]:
    if matured is None:
        return None, f"nothing has matured yet: from {from_day} on"
    mean, ratio, slope = matured.all, matured.figures.get("ratio"), matured.figures.get("slope")
    again = "train again and promote"
    if ratio is None:
        told = f"predicts that {mean.predicted:.2%} buy, and none of {mean.rows:,} did [0 %, {mean.came.high:.2%}]"
        return (False, f"{told}: {again}") if mean.predicted > mean.came.high else (None, f"too little to tell: {told}")
    told = f"predicts {ratio.value:.2f} times as many purchases as come [{ratio.low:.2f}, {ratio.high:.2f}]"
    if not ratio.low <= 1 <= ratio.high:
        return False, f"{told}: {again}"
    if matured.buyers < _FEW:
        return (
            None,
            f"too little to tell, for {matured.buyers} {'has' if matured.buyers == 1 else 'have'} bought: {told}",
        )
    if slope is not None and matured.buyers >= _SOME and not slope.low <= 1 <= slope.high:
        how = "exaggerates" if slope.value < 1 else "understates"
        return False, (
            f"{how} what sets leads apart, by a slope of {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}], though "
            f"it {told}: {again}"
        )
    return True, f"comes true: {told}"


def _doubts(scorer: Scorer, known: Dataset, learned: int, since: int | None) -> list[str]:
    """What limits what can be said."""
    day, notes = isoformat(learned)[:10], []
    if since is not None and since < learned:
        notes.append(f"instants before {day} are no evidence, for the model has learned from them: left out")
    then = known.known_at(learned)
    asked = then.open_at(learned)
    if not len(asked):
        return [*notes, f"the data hold no lead that was open on {day}: they no longer reach back, nothing to compare"]
    kept, rebuilt = scorer.card.percentiles, percentiles(scorer.predict(then, asked))
    if np.isclose(kept, rebuilt, rtol=0.05, atol=0).mean() < 0.9:
        notes.append(
            f"the leads open on {day}, as rebuilt from the data, do not score as they did: rows have been added late, "
            "changed or dropped since, and what has drifted may be no more than that"
        )
    return notes
