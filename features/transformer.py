"""The scikit-learn face of the features: a transformer from rows of (lead, as_of) to columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from features.definitions import LEAD_FEATURES
from features.errors import UsageError
from features.feature import Feature, FeatureSet
from features.history import Cohort, Dataset, Ints, Matrix


class LeadFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Computes features of leads in a Pipeline and in cross-validation.

    `X` is (n, 2): the lead's index in `dataset` and as_of in microseconds, as `rows(cohort)` writes a cohort. Fitting
    learns the vocabulary from what was known at the latest as_of of the rows it is given.

    scikit-learn's checks of estimators make up numbers of any kind; with such rows in their place it passes them all
    but the one that leaves out columns after the third (`tests/test_transformer.py`).

    >>> import pandas as pd
    >>> touches = pd.DataFrame({"lead_id": ["a"], "occurred_at": ["2026-01-01T00:00:00Z"], "channel": ["web"]})
    >>> dataset = Dataset.from_frames(touchpoints=touches)
    >>> X = rows(Cohort.at([0], "2026-01-03"))
    >>> LeadFeatures(dataset).fit(X).transform(X).shape[0]
    1

    Parameters
    ----------
    dataset : Dataset
        What is known of the leads. It is frozen, and shared by clones instead of copied.
    features : tuple of Feature
        The declarations.
    """

    def __init__(self, dataset: Dataset, features: Sequence[Feature] = LEAD_FEATURES) -> None:
        self.dataset = dataset
        self.features = features

    def fit(self, X: npt.ArrayLike, y: Any = None) -> Self:
        """Learns the vocabulary."""
        cohort = _cohort(validate_data(self, X, ensure_min_features=2))
        self.feature_set_ = FeatureSet.fit(tuple(self.features), self.dataset.known_at(int(cohort.as_of.max())))
        return self

    def transform(self, X: npt.ArrayLike) -> Matrix:
        """Returns the (n, F) float32 matrix."""
        check_is_fitted(self)
        return self.feature_set_.compute(self.dataset, _cohort(validate_data(self, X, reset=False)))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """The names of the columns."""
        check_is_fitted(self)
        _check_feature_names_in(self, input_features)
        return np.array(self.feature_set_.names, object)

    def to_json(self) -> str:
        """The fitted feature set; `FeatureSet.from_json` reads it."""
        check_is_fitted(self)
        return self.feature_set_.to_json()

    def __sklearn_is_fitted__(self) -> bool:
        # A fit that failed may have counted the columns.
        return hasattr(self, "feature_set_")

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def rows(cohort: Cohort) -> Ints:
    """Writes a cohort as the (n, 2) array that estimators split and pass on."""
    return np.column_stack([cohort.lead, cohort.as_of])


def _cohort(X: npt.NDArray[Any]) -> Cohort:
    # Beyond, floats would move an instant unnoticed.
    exact = 2.0 ** (np.finfo(X.dtype).nmant + 1) if X.dtype.kind == "f" else np.iinfo(np.int64).max
    if X.shape[1] != 2 or X.dtype.kind not in "iuf" or (np.abs(X) > exact).any() or (X % 1).any():
        raise UsageError(
            "X must hold two columns of whole numbers that their type holds exactly, lead and as_of; "
            f"got {X.dtype} {X.shape}. Write a cohort with rows(cohort)."
        )
    return Cohort(np.ascontiguousarray(X[:, 0], np.int64), np.ascontiguousarray(X[:, 1], np.int64))
