"""Whether a challenger is to replace the champion: where the past proves it better, or the champion is true no more.

The champion is judged as it is, on origins after the last instant it has learned from; the challenger as it would have
been at each of them. Rows of one lead are not independent, so intervals resample whole leads.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np

from features.errors import TouchstoneError
from features.history import Bools, Cohort, Dataset, Floats
from features.times import to_us
from features.words import so_many
from models import TIERS, Scorer
from training import tracking
from training.backtest import Backtest
from training.metrics import Estimate, evaluate
from training.tracking import TRAINED

_DRIFTED = 1.25
"""By what factor a champion has to predict too much or too little, beyond doubt: by less it may be off by chance."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks for a challenger, and whose tier would change."""

    champion: str | None
    """The version that serves; None if none does yet."""
    challenger: str
    promote: bool
    says: str
    rows: int = 0
    """Open leads of origins that the champion had not learned from."""
    purchases: int = 0
    gain: Estimate | None = None
    """The champion's log loss less the challenger's."""
    drift: Estimate | None = None
    """The champion's mean probability over the rate of purchases."""
    moves: tuple[tuple[str, str, str], ...] = ()
    """The open leads whose tier would change: id, tier now, tier then."""

    def lines(self, shown: int = 10) -> list[str]:
        """The verdict in lines of text."""
        against = "" if self.champion is None else f" against the champion, version {self.champion}"
        told = [f"version {self.challenger}{against}: {self.says}"]
        counts = Counter((now, then) for _, now, then in self.moves)
        for (now, then), count in sorted(counts.items()):
            mine = [lead for lead, *move in self.moves if move == [now, then]]
            more = f" and {count - shown:,} more" if count > shown else ""
            told.append(f"  {now} -> {then}: {so_many(count, 'lead')}: {', '.join(mine[:shown])}{more}")
        return told


def compare(champion: Scorer, challenger: Scorer, name: str, result: Backtest, known: Dataset, until: int) -> Verdict:
    """Judges a challenger, which competed in a backtest under a name, against the champion, as known at `until`."""
    asked = known.open_at(until)
    ids = known.ids[asked.lead]
    now, then = champion.score(known, asked).tier, challenger.score(known, asked).tier
    moves = [(str(ids[k]), TIERS[now[k]], TIERS[then[k]]) for k in np.flatnonzero(now != then).tolist()]
    rows = _unseen(champion, result)
    about = dict(champion=champion.card.version, challenger=challenger.card.version, moves=tuple(moves))
    if champion.card.horizon_days != result.experiment.horizon_days:
        says = (
            f"it answers another question, {so_many(result.experiment.horizon_days, 'day')} ahead instead of "
            f"{champion.card.horizon_days:g}; nothing can be compared"
        )
        return Verdict(promote=False, says=says, **about)  # type: ignore[arg-type]
    if not 0 < result.bought[rows].sum() < rows.sum():
        says = (
            f"no evidence yet: no purchase is known within {so_many(champion.card.horizon_days, 'day')} after an "
            f"origin that the champion, which knows all until {champion.card.known_until[:10]}, has not learned from"
        )
        return Verdict(promote=False, says=says, **about)  # type: ignore[arg-type]
    found = evaluate(
        result.bought[rows],
        {"champion": _predict(champion, result, rows, known), "challenger": result.probability[name][rows]},
        result.lead[rows], result.origin[rows], capacity=result.experiment.capacity,
        bootstrap=result.experiment.bootstrap, seed=result.experiment.seed,
    )  # fmt: skip
    gain, drift = found.difference("champion", "challenger", "log_loss"), found.estimate("champion", "ratio")
    promote, says = _decide(gain, drift)
    evidence = dict(rows=int(rows.sum()), purchases=int(result.bought[rows].sum()), gain=gain, drift=drift)
    return Verdict(promote=promote, says=says, **about, **evidence)  # type: ignore[arg-type]


def promote(version: str | None = None, *, folder: Path = TRAINED, force: bool = False) -> Verdict:
    """Makes a version (the challenger, if left out) the champion; MLflow's alias and the exported bundle move together.

    Raises TouchstoneError, and changes nothing, unless the verdict of its training is in its favour, or with `force`.
    """
    verdict = judge(version)
    if not verdict.promote and not force:
        raise TouchstoneError(
            f"version {verdict.challenger} stays challenger: {verdict.says}. Train again when more is known, or pass "
            "--force."
        )
    tracking.move_champion(verdict.challenger, folder)
    return verdict


def judge(version: str | None = None) -> Verdict:
    """Returns the verdict that training gave a version (the challenger, if left out) beside the present champion."""
    champion, challenger = tracking.alias("champion"), version or tracking.alias("challenger")
    if challenger is None:
        raise TouchstoneError("no model has been trained here. Run touchstone train.")
    if champion is None:
        says = "training found it no better than the base rate"
        return Verdict(champion=None, challenger=challenger, promote=False, says=says)
    if challenger == champion:
        raise TouchstoneError(f"version {challenger} is the champion already.")
    text = tracking.read_artifact(challenger, "verdict.json")
    verdict = None if text is None else msgspec.json.decode(text, type=Verdict)
    if verdict is not None and verdict.champion == champion:
        return verdict
    told = "nothing" if verdict is None else f"version {verdict.champion}"
    return Verdict(
        champion=champion,
        challenger=challenger,
        promote=False,
        says=f"it was compared with {told}, and the champion is version {champion} now",
    )


def rollback(*, folder: Path = TRAINED) -> tuple[str, str]:
    """Makes the version that the champion replaced champion again; returns both, the one that leaves first."""
    champion = tracking.alias("champion")
    before = None if champion is None else tracking.replaced_by(champion)
    if champion is None or before is None:
        raise TouchstoneError("no champion has been replaced, so there is none to go back to.")
    tracking.move_champion(before, folder, back=True)
    return champion, before


def _unseen(champion: Scorer, result: Backtest) -> Bools:
    """Which rows of a backtest are of origins that a model has not learned from."""
    return np.asarray(result.origin >= to_us(champion.card.known_until))


def _predict(scorer: Scorer, result: Backtest, rows: Bools, known: Dataset) -> Floats:
    """A model's probabilities of rows of a backtest, each of what was known at its origin."""
    out = np.empty(int(rows.sum()))
    leads, origins = result.lead[rows], result.origin[rows]
    for origin in np.unique(origins).tolist():
        mine = origins == origin
        place = np.cumsum(known.created_at < origin) - 1
        out[mine] = scorer.predict(known.known_at(origin), Cohort.at(place[leads[mine]], origin))
    return out


def _decide(gain: Estimate, drift: Estimate) -> tuple[bool, str]:
    told = f"its log loss is {gain.value:.4f} lower [{gain.low:.4f}, {gain.high:.4f}]"
    if gain.low > 0:
        return True, told
    if gain.value > 0 and (drift.low > _DRIFTED or drift.high < 1 / _DRIFTED):
        return True, (
            f"the champion predicts {drift.value:.2f} times as many purchases as come [{drift.low:.2f}, "
            f"{drift.high:.2f}]; {told}"
        )
    return False, f"not proved better: {told}, an interval that {'contains' if gain.high >= 0 else 'lies below'} 0"
