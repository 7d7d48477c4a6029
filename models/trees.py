"""Gradient-boosted trees: fitted by LightGBM, served through its C library alone (`models.booster`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from features.errors import ModelError
from features.history import Floats, Matrix
from models.booster import Booster, check_in_child

PARAMETERS: dict[str, Any] = {
    "objective": "cross_entropy",
    "num_leaves": 7,
    "learning_rate": 0.04,
    "min_data_in_leaf": 100,
    "lambda_l2": 20.0,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
"""Few leaves and slow steps: on simulated journeys they won at every size measured, from 61 to 1,052 buyers.

The objective takes labels from 0 to 1; on labels that are 0 or 1 it gives the trees of the binary one.

The trees are the same for any number of threads. One, for more wait for each other by spinning: beside other work on
two cores they took six times the processor time.
"""
ROUNDS = 200


@dataclass(frozen=True)
class LightGBM:
    """LightGBM with few leaves; columns go by place, and the bundle's feature set says what stands where.

    >>> import numpy as np
    >>> rows = np.arange(400, dtype=np.float32).reshape(-1, 1)
    >>> LightGBM.fit(rows, rows[:, 0] >= 200).predict(rows[[0, 399]]).round(1)
    array([0., 1.])
    """

    name: ClassVar[str] = "lightgbm"

    booster: Booster

    @classmethod
    def fit(cls, matrix: Matrix, label: Floats) -> Self:
        """Fits on (n, F) rows and (n,) labels from 0 to 1."""
        import lightgbm

        rows = min(PARAMETERS["min_data_in_leaf"], max(1, len(matrix) // 20))
        trained = lightgbm.train(
            {**PARAMETERS, "min_data_in_leaf": rows},
            lightgbm.Dataset(matrix, label.astype("float32"), feature_name=_columns(matrix.shape[1])),
            ROUNDS,
        )
        return cls(Booster.from_text(trained.model_to_string()))

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        return self.booster.predict(matrix)

    def to_files(self) -> dict[str, str]:
        """LightGBM's own text."""
        return {"model.txt": self.booster.text}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads LightGBM's text, in a child process first: a damaged one kills the process that parses it."""
        if "model.txt" not in files:
            raise ModelError("model.txt is missing.")
        check_in_child(files["model.txt"])
        return cls(Booster.from_text(files["model.txt"]))


def _columns(count: int) -> list[str]:
    return [f"f{i}" for i in range(count)]
