"""Gradient-boosted trees: fitted by LightGBM, served without it (`models.booster`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

from features.errors import ModelError
from features.history import Floats, Matrix
from models.booster import Booster
from models.settings import DEFAULT, ModelSettings

PARAMETERS: dict[str, Any] = {
    "objective": "cross_entropy",
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
"""Those that are no settings.

The objective takes labels from 0 to 1; on labels that are 0 or 1 it gives the trees of the binary one.

The trees are the same for any number of threads. One, for more wait for each other by spinning: beside other work on
two cores they took six times the processor time.
"""


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
    def fit(cls, matrix: Matrix, label: Floats, settings: ModelSettings = DEFAULT) -> Self:
        """Fits on (n, F) rows and (n,) labels from 0 to 1."""
        import lightgbm

        chosen = parameters(settings, len(matrix))
        rounds = chosen.pop("num_iterations")
        data = lightgbm.Dataset(matrix, label.astype("float32"), feature_name=columns(matrix.shape[1]))
        trained = lightgbm.train(chosen, data, rounds)
        return cls(Booster.from_text(trained.model_to_string()))

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        return self.booster.predict(matrix)

    def to_files(self) -> dict[str, str]:
        """LightGBM's own text."""
        return {"model.txt": self.booster.text}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads LightGBM's text."""
        if "model.txt" not in files:
            raise ModelError("model.txt is missing.")
        return cls(Booster.from_text(files["model.txt"]))


Grow: TypeAlias = Callable[[Matrix, Floats, ModelSettings], LightGBM]
"""What makes trees of (n, F) rows and (n,) labels, as `LightGBM.fit` does."""


def parameters(settings: ModelSettings, rows: int) -> dict[str, Any]:
    """What LightGBM is told, by its own names, for so many rows."""
    least = min(settings.min_data_in_leaf, max(1, rows // 20))
    return {**PARAMETERS, **settings.trees, "min_data_in_leaf": least}


def columns(count: int) -> list[str]:
    """The names of so many columns."""
    return [f"f{i}" for i in range(count)]
