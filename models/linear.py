"""Logistic regression on squeezed, standardised features, and the curve that turns any score into a probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numba import njit

from features.errors import ModelError
from features.history import Bools, Floats, Matrix
from models.model import Parts, check_width, sigmoid, to_json

_LIMIT = 5.0
"""Standard deviations beyond which a value counts as that far: a linear model must not run away on an outlier."""
_LARGEST = float(np.finfo(np.float32).max)
"""What infinity counts as: a value that float32 could not hold must not make every prediction NaN."""


@dataclass(frozen=True)
class Logistic:
    """Penalised logistic regression on sign(x) log(1 + |x|), standardised; a missing value has a weight of its own.

    The penalty (C = 0.01) is strong, for the columns are many and say much the same.

    >>> rows = np.array([[0], [1], [5], [9]], np.float32)
    >>> model = Logistic.fit(rows, np.array([False, False, True, True]))
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

    @classmethod
    def fit(cls, matrix: Matrix, bought: Bools) -> Self:
        """Fits on (n, F) rows and (n,) labels."""
        from sklearn.linear_model import LogisticRegression

        squeezed = np.minimum(np.abs(matrix), np.float32(_LARGEST))
        np.copysign(np.log1p(squeezed, out=squeezed), matrix, out=squeezed)
        there = ~np.isnan(squeezed)
        count = np.maximum(there.sum(axis=0), 1)
        mean = np.nansum(squeezed, axis=0, dtype=np.float64) / count
        squeezed -= mean.astype(np.float32)
        scale = np.sqrt(np.nansum(squeezed**2, axis=0, dtype=np.float64) / count)
        scale[scale < 1e-6] = 0.0
        used, gaps = np.flatnonzero(scale > 0), np.flatnonzero(~there.all(axis=0) & there.any(axis=0))
        columns = np.nan_to_num(np.clip(squeezed[:, used] / scale[used].astype(np.float32), -_LIMIT, _LIMIT))
        design = np.hstack([columns, (~there[:, gaps]).astype(np.float32)]).astype(np.float64)
        weight, missing = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1])
        if not design.shape[1]:
            return cls(mean, scale, weight, missing, math.log(bought.sum() / (~bought).sum()))
        model = LogisticRegression(C=0.01, solver="newton-cholesky").fit(design, bought)
        weight[used], missing[gaps] = model.coef_[0][: len(used)], model.coef_[0][len(used) :]
        return cls(mean, scale, weight, missing, float(model.intercept_[0]))

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        check_width(matrix, len(self.weight))
        return sigmoid(_logits(matrix, self.mean, self.scale, self.weight, self.missing, self.intercept))

    def to_files(self) -> dict[str, str]:
        """Writes the coefficients as JSON."""
        return {"model.json": to_json(**vars(self))}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote."""
        parts = Parts(files)
        mean, scale, weight, missing = (parts.array(name) for name in ("mean", "scale", "weight", "missing"))
        if not len(mean) == len(scale) == len(weight) == len(missing):
            raise ModelError("model.json: mean, scale, weight and missing differ in length.")
        return cls(mean, scale, weight, missing, parts.number("intercept"))


def fit_curve(score: Floats, bought: Bools) -> tuple[float, float]:
    """Fits intercept and slope of a logistic curve from a score to a probability (Platt, without his smoothing)."""
    from sklearn.linear_model import LogisticRegression

    spread = float(score.std()) or 1.0
    model = LogisticRegression(C=1e6, solver="newton-cholesky").fit((score / spread).reshape(-1, 1), bought)
    return float(model.intercept_[0]), float(model.coef_[0][0]) / spread


@njit(cache=True, nogil=True)
def _logits(matrix: Matrix, mean: Floats, scale: Floats, weight: Floats, missing: Floats, intercept: float) -> Floats:
    """Adds up each row in the order of its columns, so that a row alone gives the same bits as in a batch."""
    out = np.empty(len(matrix))
    for row in range(len(matrix)):
        logit = intercept
        for column in range(len(mean)):
            x = float(matrix[row, column])
            if math.isnan(x):
                logit += missing[column]
            elif scale[column] > 0:
                squeezed = math.copysign(math.log1p(abs(x)), x)
                logit += weight[column] * min(max((squeezed - mean[column]) / scale[column], -_LIMIT), _LIMIT)
        out[row] = logit
    return out
