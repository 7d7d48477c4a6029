"""From a dataset to a model that is proved on the past, registered, and exported as a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from features.errors import TouchstoneError
from features.history import Dataset
from features.times import isoformat
from models import Candidate, Card, PointsTable, Scorer, candidates
from models.scorer import percentiles
from training import tracking
from training.audit import Finding, audit
from training.backtest import Backtest, Progress, backtest, learn
from training.capacity import choose_tiers
from training.experiment import Experiment
from training.intervals import find_spread
from training.labels import listings
from training.metrics import MEASURES
from training.promote import Verdict, compare
from training.tracking import TRAINED

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
    folder: Path
    """The exported bundle."""
    champion: bool
    """Whether it serves by default from now on: the first model of a project does."""
    learned_from: tuple[int, int]
    """Rows of the final fit whose window was over, and the leads among them that bought."""
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    """How it compares with the champion; None if it is the first."""
    findings: tuple[Finding, ...] = ()
    """What the audit found in what was learned from."""


def train(
    dataset: Dataset,
    experiment: Experiment | None = None,
    *,
    rules: PointsTable | None = None,
    until: int | None = None,
    allow_leaks: bool = False,
    folder: Path = TRAINED,
    progress: Progress | None = None,
) -> Trained:
    """Audits the data, backtests the candidates, fits the best on all that is known before `until`, and registers it.

    `until` in microseconds; the end of the data if left out. Raises TouchstoneError if nothing can be learned, or if
    the audit finds a certain leak, unless `allow_leaks`.
    """
    experiment = experiment or Experiment()
    until = dataset.recorded_until if until is None else until
    findings = audit(dataset, until)
    if not allow_leaks:
        _refuse_leaks(findings)
    known = dataset.known_at(until)
    competing = candidates(rules)
    result = backtest(known, experiment, competing, until=until, progress=progress)
    chosen, notes = _choose(result, competing)
    if rules is not None and (strangers := rules.strangers(known.history.kinds)):
        notes.append(f"no touch is of a kind that the rules name: {', '.join(strangers)}. Are they misspelt?")
    make, learned_from = fit(known, chosen, experiment, until, result)
    if progress:
        progress("registering", 1.0)
    verdicts: list[Verdict] = []

    def judge(champion: Scorer, challenger: Scorer) -> str:
        verdicts.append(compare(champion, challenger, chosen.name, result, known, until))
        return msgspec.json.encode(verdicts[-1]).decode()

    version, exported = tracking.register(make, result, folder, findings, judge)
    champion = tracking.crown(version, exported)
    verdict = verdicts[0] if verdicts else None
    return Trained(make(version), result, exported, champion, learned_from, tuple(notes), verdict, findings)


def fit(
    known: Dataset, candidate: Candidate, experiment: Experiment, until: int, result: Backtest
) -> tuple[Callable[[str], Scorer], tuple[int, int]]:
    """Fits a candidate on everything known; returns what makes its scorer for a version, and what it learned from."""
    rows = listings(known, until, experiment)
    if not 0 < rows.bought.sum() < rows.finished:
        raise TouchstoneError(
            f"{int(rows.bought.sum()):,} of {rows.finished:,} finished windows hold a purchase; a model needs both "
            "kinds. Take a shorter --horizon, or more data."
        )
    recipe = candidate.prepare(known)
    matrix = recipe.features.compute(known, rows.cohort)
    model = learn(recipe, known, rows, matrix)
    asked = known.open_at(until)
    spread = find_spread(recipe, model, known, rows, matrix, asked, experiment.seed)
    probability = model.predict(recipe.features.compute(known, asked))
    tiers = choose_tiers(
        known, lambda looks: model.predict(recipe.features.compute(known, looks)), probability, experiment, until
    )
    ranks, evaluation = percentiles(probability), result.evaluation

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
            backtest={measure.name: list(evaluation.estimate(candidate.name, measure.name)) for measure in MEASURES},
        )
        return Scorer(recipe.features, model, card, tiers)

    return make, (rows.finished, rows.buyers)


def _refuse_leaks(findings: tuple[Finding, ...]) -> None:
    certain = [finding for finding in findings if finding.severity == "certain"]
    if certain:
        told = "\n".join(f"{finding.what} {finding.do}" for finding in certain)
        raise TouchstoneError(
            f"a model would learn what comes after the fact:\n{told}\n"
            "Leave it out, or train all the same with --allow-leaks (allow_leaks=True)."
        )


def _choose(result: Backtest, competing: list[Candidate]) -> tuple[Candidate, list[str]]:
    """The candidate with the least log loss that is not a mere peer; the rules while purchases are few."""
    notes = []
    among = [candidate for candidate in competing if not candidate.peer]
    buyers = max(bought for _, bought in result.learned_from.values())
    if buyers < _FEW:
        among = [candidate for candidate in among if candidate.name == "rules"]
        notes.append(
            f"too little evidence: {buyers} purchases to learn from (under {_FEW}). The rules are kept; "
            "their points are turned into probabilities."
        )
    best = result.best([candidate.name for candidate in among])
    return next(candidate for candidate in among if candidate.name == best), notes
