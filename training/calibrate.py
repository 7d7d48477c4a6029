"""Whether a curve over a model's probabilities makes them truer, as far as the past can tell.

The curve that is judged is fitted as it would be in production: on predictions that were out of time themselves, of
origins whose windows were over by the origin it is used at. A purchase in such a window that was reported only after it
counts as known: few are, and the curve has two or three numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.history import Bools
from models.calibration import Curve
from training.backtest import Backtest
from training.metrics import Estimate, evaluate

_FEW, _MANY = 20, 200
"""Purchases to fit a line on, and to fit a curve of two slopes on."""


class Calibration(NamedTuple):
    """A curve and the evidence for it."""

    curve: Curve | None
    """None where leaving the probabilities as they are was not proved worse."""
    gain: Estimate | None
    """In log loss on rows later than those the curve was fitted on; None if there were too few."""

    @property
    def says(self) -> str:
        """What was found, in words."""
        if self.gain is None:
            return "not calibrated anew: too few purchases in windows that were over before a later origin"
        found = f"log loss {self.gain.value:.5f} lower [{self.gain.low:.5f}, {self.gain.high:.5f}] on later rows"
        return f"calibrated anew: {found}" if self.curve else f"not calibrated anew: {found}, which is no proof"


def find_curve(result: Backtest, name: str) -> Calibration:
    """Returns the curve for one model of a backtest, if the log loss of later rows is lower with it beyond doubt.

    Isotonic regression is not among the curves: beside these it lost at every number of purchases measured.
    """
    found = [_judge(result, name, line=True), _judge(result, name, line=False)]
    judged = [(gain, line) for gain, line in zip(found, (True, False), strict=True) if gain is not None]
    if not judged:
        return Calibration(None, None)
    gain, line = max(judged)
    if gain.low <= 0:
        return Calibration(None, gain)
    return Calibration(Curve.fit(result.probability[name], result.bought, line=line), gain)


def _judge(result: Backtest, name: str, *, line: bool) -> Estimate | None:
    """What a kind of curve gains in log loss, each row under a curve that has not seen it; None if none could be."""
    before = result.probability[name]
    after = np.full(len(before), np.nan)
    for learn, apply in _splits(result):
        if result.bought[learn].sum() >= (_FEW if line else _MANY):
            after[apply] = Curve.fit(before[learn], result.bought[learn], line=line).apply(before[apply])
    rows = np.isfinite(after)
    if not 0 < result.bought[rows].sum() < rows.sum():
        return None
    found = evaluate(
        result.bought[rows], {"before": before[rows], "after": after[rows]}, result.lead[rows], result.origin[rows],
        capacity=result.experiment.capacity, bootstrap=result.experiment.bootstrap, seed=result.experiment.seed,
    )  # fmt: skip
    return found.difference("before", "after", "log_loss")


def _splits(result: Backtest) -> list[tuple[Bools, Bools]]:
    """Rows to fit on and rows to judge by: of other leads, and of origins that were over by then."""
    leads = np.unique(result.lead)
    half = np.zeros(int(leads.max(initial=0)) + 1, np.bool_)
    half[np.random.default_rng(result.experiment.seed).permutation(leads)[: len(leads) // 2]] = True
    mine = half[result.lead]
    if result.folds:
        return [(mine, ~mine), (~mine, mine)]
    splits = []
    for origin in result.origins:
        over = result.origin + result.experiment.horizon <= origin
        now = result.origin == origin
        splits += [(over & mine, now & ~mine), (over & ~mine, now & mine)]
    return splits
