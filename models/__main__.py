"""Compiles what models predict with into numba's cache, so that the first score need not wait: `python -m models`."""

from __future__ import annotations

import numpy as np

from models.blend import Blend
from models.calibration import Calibrated, Curve
from models.linear import Logistic
from models.naive_bayes import NaiveBayes
from models.scorer import ends
from models.trees import LightGBM


def main() -> None:
    """Predicts a row with each model that numba compiles; the features have `python -m features`."""
    row, one = np.ones((1, 1), np.float32), np.ones(1)
    logistic = Logistic(one, one, one, one, 0.0, np.array([-1], np.int32))
    NaiveBayes.fit(row, one).predict(row)
    rows, label = np.arange(4, dtype=np.float32)[:, None], np.array([0.0, 0.0, 1.0, 1.0])
    trees = LightGBM.fit(rows, label)
    probability = Calibrated(Blend(logistic, trees), Curve(1.0, 1.0, 0.0)).predict(row)
    trees.predict(np.ones((100, 1), np.float32))
    ends(probability, one, one)


if __name__ == "__main__":
    main()
