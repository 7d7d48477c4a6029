"""A curve over a model's probabilities, for when they were seen not to come true."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numba import njit

from features.errors import ModelError
from features.history import Bools, Floats, Matrix
from models.model import Model, Parts, sigmoid, to_json

FILE = "calibration.json"
_PRIOR = 5.0
"""How strongly a curve is drawn to leaving things as they are: it counts as much as some five purchases."""


class Curve(NamedTuple):
    """Beta calibration (Kull, Silva Filho and Flach, 2017): log-odds = rise ln p - fall ln(1 - p) + shift.

    Platt's line over log-odds is the curve whose rise and fall are one number. Neither is negative, so that the order
    of the leads stays.

    >>> Curve(rise=1.0, fall=1.0, shift=0.0).apply(np.array([0.2, 0.7])).round(6).tolist()
    [0.2, 0.7]
    """

    rise: float
    fall: float
    shift: float

    def apply(self, probability: Floats) -> Floats:
        """Returns (n,) probabilities for (n,) probabilities."""
        return _bent(probability, self.rise, self.fall, self.shift)

    @classmethod
    def fit(cls, probability: Floats, bought: Bools, *, line: bool) -> Curve:
        """Fits the curve of the least log loss; with `line` its rise and fall are one number."""
        from scipy.optimize import minimize

        up, down = _logs(probability)
        columns = np.column_stack([up - down] if line else [up, -down])
        design = np.column_stack([columns, np.ones(len(columns))])
        start = np.append(np.ones(columns.shape[1]), 0.0)
        y = bought.astype(np.float64)

        def loss(weight: Floats) -> tuple[float, Floats]:
            logit = design @ weight
            away = weight - start
            value = float(np.sum(np.logaddexp(0, logit) - y * logit)) + _PRIOR / 2 * float(away @ away)
            return value, (sigmoid(logit) - y) @ design + _PRIOR * away

        bounds = [(0, None)] * columns.shape[1] + [(None, None)]
        *slopes, shift = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x.tolist()
        return cls(slopes[0], slopes[-1], shift)


@dataclass(frozen=True)
class Calibrated:
    """A model with a curve over what it predicts."""

    model: Model
    curve: Curve

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities of (n, F) rows."""
        return self.curve.apply(self.model.predict(matrix))

    def to_files(self) -> dict[str, str]:
        """The files of the model, and the curve."""
        return {**self.model.to_files(), FILE: to_json(**self.curve._asdict())}


def calibrated(model: Model, curve: Curve | None) -> Model:
    """Puts a curve, if there is one, over a model."""
    return model if curve is None else cast(Model, Calibrated(model, curve))


def curve_from_files(files: Mapping[str, str]) -> Curve | None:
    """Reads the curve among the files of a model; None if there is none."""
    if FILE not in files:
        return None
    parts = Parts(files, FILE)
    curve = Curve(*(parts.number(name) for name in Curve._fields))
    if curve.rise < 0 or curve.fall < 0:
        raise ModelError(f"{FILE}: rise and fall are not negative; got {curve.rise} and {curve.fall}.")
    return curve


def _logs(probability: Floats) -> tuple[Floats, Floats]:
    sure = np.clip(probability, 1e-12, 1 - 1e-12)
    return np.log(sure), np.log1p(-sure)


@njit(cache=True, nogil=True)
def _bent(probability: Floats, rise: float, fall: float, shift: float) -> Floats:
    logits = np.empty(len(probability))
    for row in range(len(probability)):
        sure = min(max(probability[row], 1e-12), 1 - 1e-12)
        logits[row] = rise * math.log(sure) - fall * math.log1p(-sure) + shift
    return sigmoid(logits)
