"""A linear model and trees as one: which of the two is better changes from log to log, their mean is near the best.

The blend is served as it is. Distilling it into a single set of trees, so that one model is served, gained nothing
that could be measured, and costs more time at every score than the linear half does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numba import njit

from features.errors import ModelError
from features.history import Codes, Floats, Matrix
from models.linear import Logistic
from models.model import sigmoid
from models.settings import DEFAULT, ModelSettings
from models.trees import Grow, LightGBM

_STEPS = 50


@dataclass(frozen=True)
class Blend:
    """The mean of the log-odds of a logistic regression and LightGBM.

    That mean is shifted so that the mean probability of the rows it was fitted on is that of their labels; the shift
    stands in the intercept of the logistic regression.
    """

    name: ClassVar[str] = "blend"

    logistic: Logistic
    trees: LightGBM

    @classmethod
    def fit(
        cls,
        matrix: Matrix,
        label: Floats,
        settings: ModelSettings = DEFAULT,
        grow: Grow = LightGBM.fit,
        stand_in: Codes | None = None,
    ) -> Self:
        """Fits on (n, F) rows and (n,) labels from 0 to 1, neither all 0 nor all 1.

        `grow` makes the trees; `stand_in` is as for `Logistic.fit`.
        """
        blend = cls(Logistic.fit(matrix, label, settings, stand_in), grow(matrix, label, settings))
        shift = _shift(blend._logits(matrix), float(label.mean()))
        return replace(blend, logistic=replace(blend.logistic, intercept=blend.logistic.intercept + 2 * shift))

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        return sigmoid(self._logits(matrix))

    def to_files(self) -> dict[str, str]:
        """The files of both."""
        return {**self.logistic.to_files(), **self.trees.to_files()}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote."""
        logistic, trees = Logistic.from_files(files), LightGBM.from_files(files)
        columns = len(logistic.weight), len(trees.booster.feature_names)
        if columns[0] != columns[1]:
            raise ModelError(f"model.json looks at {columns[0]} columns, model.txt at {columns[1]}; they do not fit.")
        return cls(logistic, trees)

    def _logits(self, matrix: Matrix) -> Floats:
        return _middle(self.logistic.logits(matrix), self.trees.predict(matrix))


def _shift(logits: Floats, mean: float) -> float:
    """What to add to log-odds for their mean probability to be `mean`, by Newton's method."""
    shift = 0.0
    for _ in range(_STEPS):
        p = sigmoid(logits + shift)
        step = float((mean - p.mean()) / np.mean(p * (1 - p)))
        shift += step
        if abs(step) < 1e-12:
            break
    return shift


@njit(cache=True, nogil=True)
def _middle(logits: Floats, probability: Floats) -> Floats:
    """The mean of (n,) log-odds and those of (n,) probabilities."""
    out = np.empty(len(logits))
    for row in range(len(logits)):
        out[row] = (logits[row] + math.log(probability[row] / (1 - probability[row]))) / 2
    return out
