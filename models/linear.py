"""Logistic regression on squeezed, standardised features, and the curve that turns any score into a probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numba import njit

from features.errors import ModelError
from features.history import Bools, Codes, Floats, Ints, Matrix
from models.model import Parts, check_width, sigmoid, to_json
from models.settings import DEFAULT, ModelSettings

_LIMIT = 5.0
"""Standard deviations beyond which a value counts as that far: a linear model must not run away on an outlier."""
_LARGEST = float(np.finfo(np.float32).max)
"""What infinity counts as: a value that float32 could not hold must not make every prediction NaN."""
_PRIOR = 5.0
"""Of half the squared slope of a curve: it counts as much as some five purchases, and nothing beside hundreds."""
_CHUNK = 4_096
"""Rows whose products stay in the processor's cache."""
_NEVER = 4.0
"""How many times a lead's age counts as the days since a touch that never came: what came on the first day is another
thing than what never came."""
_STEPS = 100
_PRECISE = 1e-6
"""How much less the log loss of all rows together may become by one more step for the fit to be done."""


@dataclass(frozen=True)
class Logistic:
    """Penalised logistic regression on sign(x) log(1 + |x|), standardised; a missing value has a weight of its own.

    Where another column stands in for it, four times that one counts instead: days since a touch that never came tell
    of a young lead otherwise than of an old one. A label between 0 and 1 counts as that share of a purchase.

    >>> rows = np.array([[0], [1], [5], [9]], np.float32)
    >>> model = Logistic.fit(rows, np.array([0.0, 0.0, 1.0, 1.0]))
    >>> model.predict(rows).argsort().tolist()
    [0, 1, 2, 3]
    """

    name: ClassVar[str] = "logistic"

    mean: Floats
    """(F,) of the squeezed values that are there."""
    scale: Floats
    """(F,) their standard deviation; 0 for a column that is constant, which is passed over."""
    weight: Floats
    """(F,)"""
    missing: Floats
    """(F,) what a missing value adds to the logit."""
    intercept: float
    stand_in: Codes
    """(F,) the column that stands in for a missing value; -1 for none."""

    @classmethod
    def fit(
        cls, matrix: Matrix, label: Floats, settings: ModelSettings = DEFAULT, stand_in: Codes | None = None
    ) -> Self:
        """Fits on (n, F) rows and (n,) labels from 0 to 1, neither all 0 nor all 1.

        `stand_in` (F,) names the column that stands in for a missing value, -1 for none; of a column without any value
        there is nothing to learn.
        """
        if stand_in is None:
            stand_in = np.full(matrix.shape[1], -1, np.int32)
        stand_in = np.where(_empty(matrix), np.int32(-1), stand_in)
        squeezed = _squeeze(_filled(matrix, stand_in))
        mean, scale, gap = _spread(squeezed)
        used, gaps = np.flatnonzero(scale > 0), np.flatnonzero(gap)
        *weights, intercept = _fit(_design(squeezed, mean, scale, used, gaps), label, settings.penalty).tolist()
        weight, missing = np.zeros(len(mean)), np.zeros(len(mean))
        weight[used], missing[gaps] = weights[: len(used)], weights[len(used) :]
        return cls(mean, scale, weight, missing, intercept, stand_in)

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        return sigmoid(self.logits(matrix))

    def logits(self, matrix: Matrix) -> Floats:
        """Returns (n,) log-odds."""
        check_width(matrix, len(self.weight))
        return _logits(matrix, self.mean, self.scale, self.weight, self.missing, self.intercept, self.stand_in)

    def terms(self, matrix: Matrix) -> Floats:
        """Returns (n, F) what each column adds to the log-odds; with the intercept they add up to them."""
        check_width(matrix, len(self.weight))
        return _terms(matrix, self.mean, self.scale, self.weight, self.missing, self.stand_in)

    def to_files(self) -> dict[str, str]:
        """Writes the coefficients as JSON."""
        return {"model.json": to_json(**vars(self))}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote."""
        parts = Parts(files)
        mean, scale, weight, missing = (parts.array(name) for name in ("mean", "scale", "weight", "missing"))
        # Models that were saved before any column could have none.
        stand_in = parts.array("stand_in") if "stand_in" in parts else np.full(len(mean), -1.0)
        if not len(mean) == len(scale) == len(weight) == len(missing) == len(stand_in):
            raise ModelError("model.json: mean, scale, weight, missing and stand_in differ in length.")
        columns = stand_in.astype(np.int32)
        if not ((columns == stand_in) & (columns >= -1) & (columns < len(mean))).all():
            raise ModelError(f"model.json: stand_in names columns, of which there are {len(mean)}, or -1.")
        return cls(mean, scale, weight, missing, parts.number("intercept"), columns)


def fit_curve(score: Floats, label: Floats) -> tuple[float, float]:
    """Fits intercept and slope of a logistic curve from a score to a probability, as Platt does.

    While purchases are few the slope is drawn towards 0, and every probability towards the base rate.
    """
    spread = float(score.std()) or 1.0
    design = np.column_stack([score / spread, np.ones(len(score))]).astype(np.float32)
    slope, intercept = _fit(design, label, _PRIOR).tolist()
    return intercept, slope / spread


def _fit(design: Matrix, label: Floats, penalty: float) -> Floats:
    """Returns the weight of each column that minimises log loss + penalty / 2 * squared weights, by Newton's method.

    The last column, of ones, is not penalised. Labels may be any number from 0 to 1.
    """
    from threadpoolctl import threadpool_limits

    # Products this small gain nothing from several threads, which on a busy machine wait for each other many times as
    # long; and one gives the same bits on every number of cores.
    with threadpool_limits(1, "blas"):
        return _newton(design, label, penalty)


def _newton(design: Matrix, label: Floats, penalty: float) -> Floats:
    ridge = np.full(design.shape[1], penalty, np.float64)
    ridge[-1] = 0.0
    weight = np.zeros(design.shape[1])
    mean = label.mean()
    weight[-1] = math.log(mean / (1 - mean))
    loss, gradient, curvature = _log_loss(design, label, weight, ridge)
    for _ in range(_STEPS):
        step = np.linalg.solve(curvature, gradient)
        promised = float(gradient @ step)
        while True:
            new = _log_loss(design, label, weight - step, ridge)
            if new[0] <= loss or promised < _PRECISE:
                break
            step /= 2
            promised /= 2
        weight -= step
        loss, gradient, curvature = new
        if promised < _PRECISE:
            break
    return weight


def _log_loss(design: Matrix, label: Floats, weight: Floats, ridge: Floats) -> tuple[float, Floats, Floats]:
    """Returns the penalised log loss at some weights, with its first and second derivatives."""
    loss, gradient, curvature = float(ridge @ weight**2) / 2, ridge * weight, np.diag(ridge)
    for begin in range(0, len(design), _CHUNK):
        rows = design[begin : begin + _CHUNK].astype(np.float64)
        y = label[begin : begin + _CHUNK]
        logit = rows @ weight
        p = sigmoid(logit)
        loss += float(np.sum(np.maximum(logit, 0) - y * logit + np.log1p(np.exp(-np.abs(logit)))))
        gradient += (p - y) @ rows
        rows *= np.sqrt(p * (1 - p))[:, None]
        curvature += rows.T @ rows
    return loss, gradient, curvature


@njit(cache=True, nogil=True)
def _empty(matrix: Matrix) -> Bools:
    """Returns (F,) whether a column holds no value."""
    out = np.ones(matrix.shape[1], np.bool_)
    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            if matrix[row, column] == matrix[row, column]:
                out[column] = False
    return out


@njit(cache=True, nogil=True)
def _filled(matrix: Matrix, stand_in: Codes) -> Matrix:
    """Returns every number, or what stands in for it."""
    out = np.empty_like(matrix)
    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            out[row, column] = _value(matrix, row, column, stand_in[column])
    return out


@njit(cache=True, nogil=True)
def _value(matrix: Matrix, row: int, column: int, stand_in: int) -> Any:
    """A number, or what stands in for it, in 32 bits."""
    x = matrix[row, column]
    return np.float32(_NEVER) * matrix[row, stand_in] if x != x and stand_in >= 0 else x


@njit(cache=True, nogil=True)
def _squeeze(matrix: Matrix) -> Matrix:
    """Returns sign(x) log(1 + |x|) of every number."""
    out = np.empty_like(matrix)
    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            x = matrix[row, column]
            out[row, column] = math.copysign(math.log1p(min(abs(x), _LARGEST)), x) if x == x else x
    return out


@njit(cache=True, nogil=True)
def _spread(squeezed: Matrix) -> tuple[Floats, Floats, Bools]:
    """Returns each column's mean, its standard deviation (0: constant), and whether values are there and missing."""
    count, mean, square = np.zeros((3, squeezed.shape[1]))
    for row in squeezed:
        for column, x in enumerate(row):
            if x == x:
                count[column] += 1
                mean[column] += x
    mean /= np.maximum(count, 1)
    for row in squeezed:
        for column, x in enumerate(row):
            if x == x:
                square[column] += (x - mean[column]) ** 2
    scale = np.sqrt(square / np.maximum(count, 1))
    return mean, np.where(scale < 1e-6, 0.0, scale), (count > 0) & (count < len(squeezed))


@njit(cache=True, nogil=True)
def _design(squeezed: Matrix, mean: Floats, scale: Floats, used: Ints, gaps: Ints) -> Matrix:
    """Returns the used columns standardised, 1 where a value is missing for those with gaps, and a column of ones."""
    out = np.empty((len(squeezed), len(used) + len(gaps) + 1), np.float32)
    for row in range(len(squeezed)):
        for place, column in enumerate(used):
            x = (squeezed[row, column] - mean[column]) / scale[column]
            out[row, place] = min(max(x, -_LIMIT), _LIMIT) if x == x else 0.0
        for place, column in enumerate(gaps):
            out[row, len(used) + place] = np.isnan(squeezed[row, column])
        out[row, -1] = 1.0
    return out


@njit(cache=True, nogil=True)
def _logits(
    matrix: Matrix, mean: Floats, scale: Floats, weight: Floats, missing: Floats, intercept: float, stand_in: Codes
) -> Floats:
    """Adds up each row in the order of its columns, so that a row alone gives the same bits as in a batch."""
    out = np.empty(len(matrix))
    for row in range(len(matrix)):
        logit = intercept
        for column in range(len(mean)):
            x = _value(matrix, row, column, stand_in[column])
            logit += _term(x, mean[column], scale[column], weight[column], missing[column])
        out[row] = logit
    return out


@njit(cache=True, nogil=True)
def _terms(matrix: Matrix, mean: Floats, scale: Floats, weight: Floats, missing: Floats, stand_in: Codes) -> Floats:
    """What `_logits` adds up."""
    out = np.empty(matrix.shape)
    for row in range(len(matrix)):
        for column in range(len(mean)):
            x = _value(matrix, row, column, stand_in[column])
            out[row, column] = _term(x, mean[column], scale[column], weight[column], missing[column])
    return out


@njit(cache=True, nogil=True)
def _term(x: float, mean: float, scale: float, weight: float, missing: float) -> float:
    if math.isnan(x):
        return missing
    if scale > 0:
        squeezed = math.copysign(math.log1p(abs(x)), x)
        return weight * min(max((squeezed - mean) / scale, -_LIMIT), _LIMIT)
    return 0.0
