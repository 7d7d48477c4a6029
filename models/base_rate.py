"""What is said of every lead where nothing tells leads apart: the peer that shows whether there is a signal at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from features.history import Floats, Matrix
from models.model import Parts, to_json


@dataclass(frozen=True)
class BaseRate:
    """One probability for all: the share that bought so far.

    >>> model = BaseRate.fit(np.empty((4, 0), np.float32), np.array([0.0, 0.0, 1.0, 0.0]))
    >>> model.predict(np.empty((2, 0), np.float32))
    array([0.25, 0.25])
    """

    name: ClassVar[str] = "base_rate"

    rate: float

    @classmethod
    def fit(cls, matrix: Matrix, label: Floats) -> Self:
        """Takes the mean of (n,) labels; the columns do not matter."""
        return cls(float(label.mean()))

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) times the rate."""
        return np.full(len(matrix), self.rate)

    def to_files(self) -> dict[str, str]:
        """The rate as JSON."""
        return {"model.json": to_json(**vars(self))}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote."""
        return cls(Parts(files).number("rate"))
