"""The frequency-table naive Bayes that CRMs ship as "predictive lead scoring": a peer to beat.

Every field value keeps how many won and lost leads had it, each count started at 0.1. With W and L the won and lost
leads, S_won = W / (W + L) * product of won(value) / total of the field's own won counts, S_lost likewise, and the
probability is S_won / (S_won + S_lost), kept within [0.0001, 0.9999]. A value never seen is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numba import njit

from features.errors import ModelError
from features.history import Floats, Ints, Matrix
from models.model import Parts, check_width, to_json

_BEGIN = 0.1
_LOWEST, _HIGHEST = 0.0001, 0.9999
_BINS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class NaiveBayes:
    """Frequency tables over binned fields: missing, zero or less, and the quarters of the positive values.

    >>> rows = np.array([[0], [0], [7]], np.float32)
    >>> NaiveBayes.fit(rows, np.array([False, True, True])).predict(rows).round(2)
    array([0.51, 0.51, 0.92])
    """

    name: ClassVar[str] = "naive_bayes"

    edges: tuple[Floats, ...]
    """For each of F fields, the values from which its bins begin."""
    won: tuple[Floats, ...]
    """For each field, the won leads by bin, missing first, each count begun at 0.1; 0 for a bin never seen."""
    lost: tuple[Floats, ...]
    total_won: float
    total_lost: float

    @classmethod
    def fit(cls, matrix: Matrix, label: Floats) -> Self:
        """Counts (n, F) rows by (n,) labels, 0 or 1."""
        bought = label > 0
        edges, won, lost = [], [], []
        for column in matrix.T:
            positive = column[(column > 0) & (column < np.inf)]
            cuts = np.unique(np.quantile(positive, _BINS)) if len(positive) else np.empty(0)
            cuts = np.unique(np.concatenate([[np.nextafter(0.0, 1.0)], cuts.astype(np.float64)]))
            bins = np.where(np.isnan(column), 0, 1 + np.searchsorted(cuts, column, side="right"))
            counts = [np.bincount(bins[rows], minlength=len(cuts) + 2) for rows in (bought, ~bought)]
            seen = counts[0] + counts[1] > 0
            edges.append(cuts)
            won.append(np.where(seen, counts[0] + _BEGIN, 0.0))
            lost.append(np.where(seen, counts[1] + _BEGIN, 0.0))
        return cls(tuple(edges), tuple(won), tuple(lost), float(bought.sum()) + _BEGIN, float((~bought).sum()) + _BEGIN)

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        check_width(matrix, len(self.edges))
        offsets = np.cumsum([0, *(len(w) for w in self.won)])
        factors = [
            np.log(np.where(w > 0, w, 1) / w.sum()) - np.log(np.where(w > 0, x, 1) / x.sum())
            for w, x in zip(self.won, self.lost, strict=True)
        ]
        for factor, w in zip(factors, self.won, strict=True):
            factor[w == 0] = 0.0
        flat = np.concatenate([*factors, np.empty(0)])
        starts = np.cumsum([0, *(len(e) for e in self.edges)])
        prior = np.log(self.total_won / self.total_lost)
        logit = _add_up(matrix, np.concatenate([*self.edges, np.empty(0)]), starts, flat, offsets, prior)
        return np.clip(1.0 / (1.0 + np.exp(-np.clip(logit, -500, 500))), _LOWEST, _HIGHEST)

    def to_files(self) -> dict[str, str]:
        """The tables as JSON."""
        return {"model.json": to_json(**vars(self))}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote."""
        parts = Parts(files)
        edges, won, lost = parts.arrays("edges"), parts.arrays("won"), parts.arrays("lost")
        if not len(edges) == len(won) == len(lost) or any(
            not len(w) == len(x) == len(e) + 2 for e, w, x in zip(edges, won, lost, strict=True)
        ):
            raise ModelError("model.json: the tables of won and lost do not fit the bins.")
        return cls(edges, won, lost, parts.number("total_won"), parts.number("total_lost"))


@njit(cache=True, nogil=True)
def _add_up(matrix: Matrix, edges: Floats, starts: Ints, factors: Floats, offsets: Ints, prior: float) -> Floats:
    """Adds up each row in the order of its fields, so that a row alone gives the same bits as in a batch."""
    out = np.empty(len(matrix))
    for row in range(len(matrix)):
        logit = prior
        for field in range(len(offsets) - 1):
            x = matrix[row, field]
            place = offsets[field]
            if not np.isnan(x):
                place += 1 + np.searchsorted(edges[starts[field] : starts[field + 1]], float(x), side="right")
            logit += factors[place]
        out[row] = logit
    return out
