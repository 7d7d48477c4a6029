"""How good probabilities are, with intervals that resample whole leads.

Rows of one lead at several origins are not independent: treating them so calls equal models different 61 % of the
time at a nominal 5 %. Every interval here draws leads, not rows, and every comparison is paired on the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from features.errors import ModelError
from features.history import Bools, Floats, Ints

_SMALLEST = 1e-12
_Z95 = 1.959963984540054
"""A normal variable lies within so many standard deviations of its mean nineteen times out of twenty."""


class Measure(NamedTuple):
    """One column of a comparison."""

    name: str
    title: str
    higher_is_better: bool
    help: str


MEASURES: tuple[Measure, ...] = (
    Measure("log_loss", "log loss", False, "mean of -log of the probability given to what happened"),
    Measure("brier", "Brier", False, "mean squared distance between probability and what happened"),
    Measure("auc", "AUC", True, "chance that a buyer is ranked above a lead that does not buy"),
    Measure("pr_auc", "PR-AUC", True, "mean precision over the buyers, best ranked first"),
    Measure("lift", "lift", True, "buyers in the top share by capacity over those in as many leads drawn by lot"),
    Measure("caught", "caught", True, "share of all purchases in the top share by capacity of each origin"),
    Measure("ratio", "predicted / bought", True, "mean probability over the rate of purchases; 1 is true"),
)


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Models side by side on the same rows.

    >>> rows = np.arange(4)
    >>> probability = {"sharp": np.array([0.9, 0.1, 0.2, 0.8]), "blunt": np.full(4, 0.5)}
    >>> found = evaluate(rows % 3 == 0, probability, rows, 0 * rows, capacity=0.5, bootstrap=10, seed=7)
    >>> round(found.estimate("sharp", "brier").value, 3), found.estimate("blunt", "brier").value
    (0.025, 0.25)
    """

    values: Mapping[str, Floats]
    """For each model, (measures,) on all rows."""
    draws: Mapping[str, Floats]
    """For each model, (bootstrap, measures) on resampled leads, the same leads for every model."""

    def estimate(self, model: str, measure: str) -> Estimate:
        """A figure of one model."""
        k = _PLACE[measure]
        return _estimate(self.values[model][k], self.draws[model][:, k])

    def difference(self, model: str, other: str, measure: str) -> Estimate:
        """A figure of one model minus that of another, paired lead by lead."""
        k = _PLACE[measure]
        draws = self.draws[model][:, k] - self.draws[other][:, k]
        return _estimate(self.values[model][k] - self.values[other][k], draws)

    def to_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """All figures by model and measure."""
        return {model: {m.name: self.estimate(model, m.name)._asdict() for m in MEASURES} for model in self.values}


_PLACE = {measure.name: k for k, measure in enumerate(MEASURES)}


def _estimate(value: float, draws: Floats) -> Estimate:
    """A figure with the interval of its draws; NaN where no draw has one, as the AUC where everybody bought."""
    if np.isnan(draws).all():
        return Estimate(float(value), np.nan, np.nan)
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


def evaluate(
    bought: Bools,
    probability: Mapping[str, Floats],
    lead: Ints,
    origin: Ints,
    *,
    capacity: float,
    bootstrap: int,
    seed: int,
) -> Evaluation:
    """Measures models on (n,) rows; `lead` and `origin` say whose row it is and as of when."""
    _, cluster = np.unique(lead, return_inverse=True)
    clusters = int(cluster.max(initial=-1)) + 1
    y = bought.astype(np.float64)
    for name, p in probability.items():
        if not np.isfinite(p).all():
            raise ModelError(f"{name} gives {(~np.isfinite(p)).sum():,} of {len(p):,} leads no probability.")
    rows = {name: _Ranked.of(y, p, origin, capacity) for name, p in probability.items()}
    values = {name: mine.measure(np.ones(len(y))) for name, mine in rows.items()}
    draws = {name: np.empty((bootstrap, len(MEASURES))) for name in rows}
    rng = np.random.default_rng(seed)
    for k in range(bootstrap):
        weight = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)[cluster].astype(np.float64)
        for name, mine in rows.items():
            draws[name][k] = mine.measure(weight)
    return Evaluation(values, draws)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """One model's rows, sorted once for all draws."""

    y: Floats
    p: Floats
    loss: Floats
    error: Floats
    order: Ints
    by_origin: Ints
    origin: Ints
    capacity: float

    @classmethod
    def of(cls, y: Floats, p: Floats, origin: Ints, capacity: float) -> _Ranked:
        sure = np.clip(p, _SMALLEST, 1 - _SMALLEST)
        loss = -(y * np.log(sure) + (1 - y) * np.log1p(-sure))
        return cls(y, p, loss, (p - y) ** 2, np.argsort(-p, kind="stable"), np.lexsort((-p, origin)), origin, capacity)

    def measure(self, weight: Floats) -> Floats:
        total, bought, predicted, loss, error = weighted_sums(weight, self.y, self.p, self.loss, self.error)
        auc, precision = rank_measures(self.y, self.p, weight, self.order)
        caught, worked = caught_at(self.y, self.p, weight, self.by_origin, self.origin, self.capacity)
        share = caught / bought if bought else np.nan
        return np.array([
            loss / total, error / total, auc, precision,
            share / (worked / total) if worked else np.nan, share, predicted / bought if bought else np.nan,
        ])  # fmt: skip


@njit(cache=True)
def weighted_sums(
    weight: Floats, y: Floats, p: Floats, loss: Floats, error: Floats
) -> tuple[float, float, float, float, float]:
    """Returns the sums of the weights and of each weighted column.

    In one pass and one order: BLAS shares dot products out among threads, which costs more than it gains, and adds
    them up in an order that hangs on their number.
    """
    total, bought, predicted, lost, erred = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(y)):
        total += weight[i]
        bought += weight[i] * y[i]
        predicted += weight[i] * p[i]
        lost += weight[i] * loss[i]
        erred += weight[i] * error[i]
    return total, bought, predicted, lost, erred


@njit(cache=True)
def rank_measures(y: Floats, p: Floats, weight: Floats, order: Ints) -> tuple[float, float]:
    """Returns the AUC and the mean precision of weighted rows, given in falling order of p; ties share their places."""
    total, positive = 0.0, 0.0
    for i in range(len(y)):
        total += weight[i]
        positive += weight[i] * y[i]
    negative = total - positive
    if positive <= 0 or negative <= 0:
        return np.nan, np.nan
    area, precision = 0.0, 0.0
    above_positive, above = 0.0, 0.0
    i = 0
    while i < len(order):
        j, tied_positive, tied = i, 0.0, 0.0
        while j < len(order) and p[order[j]] == p[order[i]]:
            tied += weight[order[j]]
            tied_positive += weight[order[j]] * y[order[j]]
            j += 1
        tied_negative = tied - tied_positive
        area += tied_negative * (above_positive + 0.5 * tied_positive)
        above += tied
        above_positive += tied_positive
        if tied > 0:
            precision += tied_positive * above_positive / above
        i = j
    return area / (positive * negative), precision / positive


@njit(cache=True)
def caught_at(y: Floats, p: Floats, weight: Floats, order: Ints, origin: Ints, capacity: float) -> tuple[float, float]:
    """Returns the purchases among the top share of each origin, and the rows worked; ties are worked by lot.

    `order` goes by origin, then by falling p.
    """
    caught, worked = 0.0, 0.0
    i = 0
    while i < len(order):
        end, total = i, 0.0
        while end < len(order) and origin[order[end]] == origin[order[i]]:
            total += weight[order[end]]
            end += 1
        room = capacity * total
        worked += room
        while i < end and room > 0:
            j, tied, tied_bought = i, 0.0, 0.0
            while j < end and p[order[j]] == p[order[i]]:
                tied += weight[order[j]]
                tied_bought += weight[order[j]] * y[order[j]]
                j += 1
            if tied > 0:
                share = min(1.0, room / tied)
                caught += share * tied_bought
                room -= share * tied
            i = j
        i = end
    return caught, worked


def bought_rate(bought: Bools, lead: Ints) -> Estimate:
    """The share of (n,) rows, at least one, that bought.

    The interval is Wilson's, for as many independent rows as the rows of whole leads amount to (Dean and Pagano, 2015):
    it holds for few purchases, and for none.
    """
    rate, n = float(bought.mean()), len(bought)
    _, cluster = np.unique(lead, return_inverse=True)
    alone = float(cluster.max()) + 1
    if 0 < rate < 1:
        pulls = np.bincount(cluster, bought - rate)
        alone = min(n, n**2 * rate * (1 - rate) / float(pulls @ pulls))
    middle = (rate + _Z95**2 / (2 * alone)) / (1 + _Z95**2 / alone)
    reach = _Z95 * np.sqrt(rate * (1 - rate) / alone + (_Z95 / (2 * alone)) ** 2) / (1 + _Z95**2 / alone)
    return Estimate(rate, min(rate, max(0.0, float(middle - reach))), max(rate, min(1.0, float(middle + reach))))


def calibration_slope(bought: Bools, probability: Floats, lead: Ints) -> Estimate | None:
    """The slope of a logistic regression of what came on the (n,) log-odds given; None if it cannot be told.

    1 is true; below it the differences between leads are exaggerated. The interval is that of the sandwich estimator
    with whole leads as clusters (Liang and Zeger, 1986).
    """
    from sklearn.linear_model import LogisticRegression

    sure = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    x, y = np.log(sure) - np.log1p(-sure), bought.astype(np.float64)
    if not 0 < y.sum() < len(y) or np.ptp(x) < 1e-9:
        return None
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(x[:, None], y)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    design = np.column_stack([x, np.ones(len(x))])
    q = 1 / (1 + np.exp(-np.clip(intercept + slope * x, -500, 500)))
    bread = np.linalg.pinv(design.T @ (design * (q * (1 - q))[:, None]))
    _, cluster = np.unique(lead, return_inverse=True)
    pulls = np.column_stack([np.bincount(cluster, column * (y - q)) for column in design.T])
    reach = _Z95 * float(np.sqrt((bread @ (pulls.T @ pulls) @ bread)[0, 0]))
    return Estimate(slope, slope - reach, slope + reach)


def information_captured(truth: Floats, probability: Floats) -> float:
    """The share of what can be known that a model knows: 1 - KL(truth, model) / KL(truth, base rate).

    `truth` holds the true probabilities, which only simulated leads have.
    """

    def distance(q: Floats) -> float:
        q = np.clip(q, _SMALLEST, 1 - _SMALLEST)
        p = np.clip(truth, _SMALLEST, 1 - _SMALLEST)
        return float(np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))

    return 1 - distance(probability) / distance(np.full(len(truth), truth.mean()))
