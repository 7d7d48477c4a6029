"""Compiles what models predict with into numba's cache, so that the first score need not wait: `python -m models`."""

from __future__ import annotations

import numpy as np

from models.linear import Logistic
from models.naive_bayes import NaiveBayes


def main() -> None:
    """Predicts a row with each model that numba compiles; the features have `python -m features`."""
    row, one = np.ones((1, 1), np.float32), np.ones(1)
    Logistic(one, one, one, one, 0.0).predict(row)
    NaiveBayes.fit(row, one).predict(row)


if __name__ == "__main__":
    main()
