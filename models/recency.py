"""Most recently active first: the order in which a list is worked where nothing is known, and a peer to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from features.history import Floats, Matrix
from models.linear import fit_curve
from models.model import Parts, check_width, sigmoid, to_json

_LONGEST = 3650.0
"""Days after which no more silence counts."""


@dataclass(frozen=True)
class Recency:
    """A curve over the logarithm of the days since the last touch (column 0), or without one since creation (1)."""

    name: ClassVar[str] = "recency"

    intercept: float
    slope: float

    @classmethod
    def fit(cls, matrix: Matrix, label: Floats) -> Self:
        """Finds the curve from (n, 2) rows and (n,) labels."""
        return cls(*fit_curve(_silence(matrix), label))

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        return sigmoid(self.intercept + self.slope * _silence(matrix))

    def to_files(self) -> dict[str, str]:
        """The curve as JSON."""
        return {"model.json": to_json(**vars(self))}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote."""
        parts = Parts(files)
        return cls(parts.number("intercept"), parts.number("slope"))


def _silence(matrix: Matrix) -> Floats:
    check_width(matrix, 2)
    days = np.where(np.isnan(matrix[:, 0]), matrix[:, 1], matrix[:, 0]).astype(np.float64)
    return np.log1p(np.clip(days, 0, _LONGEST))
