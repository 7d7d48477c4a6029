"""From a dataset to a model that is proved on the past, registered, and exported as a bundle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec.structs import replace

from features.errors import TouchstoneError
from features.history import Cohort, Dataset, Floats
from features.times import US_PER_DAY, isoformat
from features.words import so_many
from models import Candidate, Card, PointsTable, Scorer, candidates
from models.base_rate import BaseRate
from models.blend import Blend
from models.calibration import Curve, calibrated
from models.cluster import needing_dask
from models.scorer import Spread, percentiles
from training import tracking
from training.audit import Finding, audit
from training.backtest import Backtest, Progress, learn, replay
from training.beginning import rate_so_far, spread_of_rate
from training.calibrate import Calibration, find_curve
from training.capacity import choose_tiers
from training.contributions import Contributions, contributions, has_contributions
from training.experiment import Experiment
from training.intervals import find_spread
from training.labels import MOST_ROWS, Listings, buffer, listed_every, listings
from training.metrics import MEASURES, Estimate
from training.outlook import Prospect, foresee
from training.promote import Verdict, compare
from training.tracking import TRAINED

if TYPE_CHECKING:
    from training.cluster import Cluster

_SHOWN = 2_000
"""Leads whose contributions are drawn: more would not move their means."""
_FEW = 20
"""Purchases to learn from below which no model is trusted over the rules."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and the evidence for it.

    >>> trained = Trained(scorer=..., backtest=..., folder=TRAINED / "3", champion=True, learned_from=(5_000, 310))
    >>> f"{trained.folder} has learned from {trained.learned_from[1]} buyers."
    'models/trained/3 has learned from 310 buyers.'
    """

    scorer: Scorer
    backtest: Backtest
    """Not `judged` where there is too little yet."""
    folder: Path
    """The exported bundle."""
    champion: bool
    """Whether it serves by default from now on: the first model of a project does."""
    learned_from: tuple[int, int]
    """Rows of the final fit whose window was over, and the leads among them that bought."""
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    """How it compares with the champion; None if it is the first."""
    calibration: Calibration | None = None
    """Whether a curve was put over the probabilities, and the evidence for it."""
    findings: tuple[Finding, ...] = ()
    """What the audit found in what was learned from."""
    contributed: Contributions | None = None
    """What the log-odds of open leads are made up of; None for rules, and where no lead is open."""
    outlook: Prospect | None = None
    """What the leads that are hot now will bring, and what the hot leads of the past brought."""

    def _repr_html_(self) -> str:
        card, (rows, buyers) = self.scorer.card, self.learned_from
        told = (
            f"{card.model}, fitted on {so_many(rows, 'row')} with {so_many(buyers, 'buyer')}, is version "
            f"{card.version} ({'champion' if self.champion else 'challenger'}) in {self.folder}",
            *self.notes,
            *(f"{finding.severity}: {finding.what} {finding.do}" for finding in self.findings),
        )
        return "\n".join([*(f"<p>{escape(line)}</p>" for line in told), self.backtest._repr_html_()])


def train(
    dataset: Dataset,
    experiment: Experiment | None = None,
    *,
    rules: PointsTable | None = None,
    until: int | None = None,
    allow_leaks: bool = False,
    folder: Path = TRAINED,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Audits the data, backtests the candidates, fits the best on all that is known before `until`, and registers it.

    Where nothing can be judged yet, the rules are registered, and it is said that nothing proves them. `until` in
    microseconds; the end of the data if left out. `dask` is the address of a scheduler whose workers compute the
    features that are learned from and grow the trees, or `local` for processes here. Raises TouchstoneError if the
    audit finds a certain leak, unless `allow_leaks`, and UsageError if no scheduler answers.
    """
    with _cluster(dask, progress) as cluster:
        return _train(
            dataset, experiment or Experiment(), rules, until, allow_leaks, folder, cluster, progress,
        )  # fmt: skip


def _cluster(address: str | None, progress: Progress | None) -> AbstractContextManager[Cluster | None]:
    if address is None:
        return nullcontext()
    with needing_dask():
        from training.cluster import Cluster
    return Cluster.connected(address, progress)


def _train(
    dataset: Dataset,
    experiment: Experiment,
    rules: PointsTable | None,
    until: int | None,
    allow_leaks: bool,
    folder: Path,
    cluster: Cluster | None,
    progress: Progress | None,
) -> Trained:
    until = dataset.recorded_until if until is None else until
    findings = audit(dataset, until)
    if not allow_leaks:
        _refuse_leaks(findings)
    known = dataset.known_at(until)
    competing = candidates(rules, settings=experiment.model)
    result = replay(known, experiment, competing, until, progress)
    chosen, notes = _choose(result, competing)
    rows = listings(known, until, experiment)
    if not result.judged:
        notes.append(_nothing_judged(rows, experiment))
    notes += [*_widened(known, experiment, until), *_never_listed(known, rows, experiment, until)]
    if rules is not None and (strangers := rules.strangers(known.history.kinds)):
        notes.append(f"no touch is of a kind that the rules name: {', '.join(strangers)}. Are they misspelt?")
    no_signal = _no_signal(result, chosen)
    if no_signal:
        notes.append(f"{no_signal}. It is not promoted; touchstone promote --force serves it all the same.")
    calibration = find_curve(result, chosen.name) if result.judged else None
    curve = calibration.curve if calibration else None
    if calibration and curve:
        notes.append(calibration.says)
    make, learned_from = fit(known, chosen, experiment, until, result, curve, cluster)
    if cluster is not None:
        notes += cluster.notes
    if progress:
        progress("registering", 1.0)
    verdicts: list[Verdict] = []

    def judge(champion: Scorer, challenger: Scorer) -> str:
        verdict = compare(champion, challenger, chosen.name, result, known, until)
        if no_signal:
            verdict = replace(verdict, promote=False, says=no_signal)
        elif not champion.card.backtest:
            verdict = replace(
                verdict, promote=True, says=f"nothing proves version {champion.card.version}; it gives way"
            )
        verdicts.append(verdict)
        return msgspec.json.encode(verdicts[-1]).decode()

    contributed = _contributed(make("0"), known, experiment, until)
    outlook = foresee(make("0"), result, known, until, curve)
    version, exported = tracking.register(
        make,
        result,
        folder,
        findings,
        judge,
        contributed=contributed,
        outlook=outlook,
        cluster="; ".join(cluster.notes) if cluster is not None else None,
    )
    champion = tracking.crown(version, exported, worthy=not no_signal)
    verdict = verdicts[0] if verdicts else None
    return Trained(
        make(version),
        result,
        exported,
        champion,
        learned_from,
        tuple(notes),
        verdict,
        calibration,
        findings,
        contributed,
        outlook,
    )


def fit(
    known: Dataset,
    candidate: Candidate,
    experiment: Experiment,
    until: int,
    result: Backtest,
    curve: Curve | None = None,
    cluster: Cluster | None = None,
) -> tuple[Callable[[str], Scorer], tuple[int, int]]:
    """Fits a candidate on everything known; returns what makes its scorer for a version, and what it learned from.

    Over its probabilities comes the curve, if there is one. Where no model can be learned, the candidate says a rate of
    all leads; raises TouchstoneError if it cannot. On a cluster the features of the rows are computed and the trees
    grown; what is cheap, and the fits that intervals follow from, stay here.
    """
    rows = listings(known, until, experiment)
    recipe = candidate.prepare(known)
    asked = rows.cohort if known.timeless else known.open_at(until)
    rate = rate_so_far(rows)
    spread: Spread = ()
    learned = bool(0 < rows.bought.sum() < rows.finished)
    if learned:
        if cluster is None:
            matrix = recipe.features.compute(known, rows.cohort)
            model = learn(recipe, known, rows, matrix)
        else:
            matrix, model = cluster.learn(recipe, known, rows)
        model = calibrated(model, curve)
        spread, shift = find_spread(recipe, model, curve, known, rows, matrix, asked, experiment.seed)
    elif recipe.unlearned is not None:
        model = recipe.unlearned(rate)
    else:
        raise TouchstoneError(
            f"{int(rows.bought.sum()):,} of {rows.finished:,} finished windows hold a purchase; {candidate.name} needs "
            "both kinds. Take a shorter --horizon, or more data."
        )
    if not spread:
        spread, shift = spread_of_rate(rate, rows.buyers)

    def predict(cohort: Cohort) -> Floats:
        return model.predict(recipe.features.compute(known, cohort))

    # How the leads of a list ended is known to the model, so what it says of them is not what it will say of others.
    probability = result.probability[candidate.name] if known.timeless and result.judged else predict(asked)
    tiers = choose_tiers(known, predict, probability, experiment, until, learned=learned)
    ranks = percentiles(probability)
    figures = {}
    if result.judged:
        figures = {measure.name: list(result.evaluation.estimate(candidate.name, measure.name)) for measure in MEASURES}

    def make(version: str) -> Scorer:
        card = Card(
            version=version,
            model=candidate.name,
            horizon_days=experiment.horizon_days,
            features=recipe.features.fingerprint,
            known_until=isoformat(until),
            dataset=known.digest,
            percentiles=ranks,
            spread=spread,
            shift=shift,
            backtest=figures,
        )
        return Scorer(recipe.features, model, card, tiers)

    return make, (rows.finished, rows.buyers)


def _contributed(scorer: Scorer, known: Dataset, experiment: Experiment, until: int) -> Contributions | None:
    """What the log-odds of the open leads, or of a list's, are made up of; by lot, if they are many."""
    asked = listings(known, until, experiment).cohort if known.timeless else known.open_at(until)
    if not len(asked) or not has_contributions(scorer.model):
        return None
    rows = np.random.default_rng(experiment.seed).permutation(len(asked))[:_SHOWN]
    return contributions(scorer, known, asked[np.sort(rows)])


def _refuse_leaks(findings: tuple[Finding, ...]) -> None:
    certain = [finding for finding in findings if finding.severity == "certain"]
    if certain:
        told = "\n".join(f"{finding.what} {finding.do}" for finding in certain)
        raise TouchstoneError(
            f"a model would learn what comes after the fact, or what is not so:\n{told}\n"
            "Mend it, or train all the same with --allow-leaks (allow_leaks=True)."
        )


def _no_signal(result: Backtest, chosen: Candidate) -> str:
    """What is to be said of a model that is not proved to know more than the base rate; nothing of one that is.

    While purchases are few it is known to be too little evidence, and the rules are kept.
    """
    if _purchases(result) < _FEW:
        return ""
    gain = _signal(result, chosen.name)
    if gain.low > 0:
        return ""
    return (
        f"no signal: {chosen.name} is no better than the base rate (its log loss is {gain.value:.4f} lower "
        f"[{gain.low:.4f}, {gain.high:.4f}])"
    )


def _signal(result: Backtest, name: str) -> Estimate:
    """The base rate's log loss less that of a model."""
    return result.evaluation.difference(BaseRate.name, name, "log_loss")


def _purchases(result: Backtest) -> int:
    """The most purchases that a model of the backtest learned from."""
    return max((bought for _, bought in result.learned_from.values()), default=0)


def _nothing_judged(rows: Listings, experiment: Experiment) -> str:
    """What is to be said where no origin can be judged."""
    if not rows.finished:
        known = f"no window of {so_many(experiment.horizon_days, 'day')} is over yet"
    else:
        known = f"{so_many(rows.buyers, 'lead')} bought in the {rows.finished:,} windows that are over"
    given = "their points are turned into probabilities"
    if not 0 < rows.bought.sum() < rows.finished:
        given = (
            f"every lead is given the rate of what is known so far and half a purchase in 25 leads, "
            f"{rate_so_far(rows):.2%}, in the order of the points"
        )
    return (
        f"too little evidence: {known}, and no origin can be judged. The rules are kept, unproved; {given}. "
        "Train again with more data, or with a shorter --horizon; the next model takes their place."
    )


def _widened(known: Dataset, experiment: Experiment, until: int) -> list[str]:
    """What is to be said where open leads become rows at fewer instants than usual."""
    days = listed_every(known, until, experiment) / US_PER_DAY
    if known.timeless or days <= experiment.snapshot_days:
        return []
    return [
        f"open leads become rows every {days:.2g} days: every {experiment.snapshot_days:g}, a quarter of the horizon, "
        f"would make more than {MOST_ROWS:,} rows. snapshot_every_days in the experiment sets another step."
    ]


def _never_listed(known: Dataset, rows: Listings, experiment: Experiment, until: int) -> list[str]:
    """What is to be said where most buyers are in no row, for they bought between two of its instants."""
    closed_at, won = known.closed
    bought = np.flatnonzero(won & (closed_at < until - buffer(known, experiment)))
    missed = len(np.setdiff1d(bought, rows.cohort.lead))
    if known.timeless or not rows.finished or missed < _FEW or 2 * missed <= len(bought):
        return []
    return [
        f"{missed:,} of {len(bought):,} purchases are not learned from: those leads had bought before any of the "
        f"instants, {listed_every(known, until, experiment) / US_PER_DAY:.3g} days apart, at which open leads become "
        "rows. A smaller snapshot_every_days in the experiment takes in more."
    ]


def _choose(result: Backtest, competing: list[Candidate]) -> tuple[Candidate, list[str]]:
    """The blend unless another candidate that is not a mere peer is proved better; the rules while purchases are few.

    Which of several models that are as good has the least log loss is chance, and the blend is the steadiest. The rules
    are chosen too where they are proved to know more than the base rate, and what would be chosen is not.
    """
    notes: list[str] = []
    among = [candidate for candidate in competing if not candidate.peer]
    buyers = _purchases(result)
    if buyers < _FEW:
        among = [candidate for candidate in among if candidate.name == "rules"]
    if not result.judged:
        return among[0], notes
    if buyers < _FEW:
        notes.append(
            f"too little evidence: {so_many(buyers, 'purchase')} to learn from (under {_FEW}). The rules are kept; "
            "their points are turned into probabilities."
        )
    names = [candidate.name for candidate in among]
    if Blend.name in names:
        differs = result.evaluation.difference
        names = [name for name in names if name == Blend.name or differs(name, Blend.name, "log_loss").high < 0]
    best = result.best(names)
    if buyers >= _FEW and _signal(result, best).low <= 0 < _signal(result, "rules").low:
        notes.append(f"{best} is not proved better than the base rate, and the rules are: they are kept.")
        best = "rules"
    elif best == Blend.name and result.best(list(result.probability)) == "rules" and _signal(result, best).low > 0:
        notes.append(
            f"{best} is taken all the same: it is not proved worse than the rules, and learns more as buyers come."
        )
    return next(candidate for candidate in among if candidate.name == best), notes
