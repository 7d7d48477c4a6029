"""The scikit-learn face: in pipelines, in cross-validation, cloned, pickled, and in data frames."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from features import Age, Cohort, Count, Dataset, DaysSince, FeatureSet, UsageError
from features.transformer import LeadFeatures, rows

DECLARED = (Age(), Count(by=("channel",), days=(7, None)), DaysSince())


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    n = 400
    touches = pd.DataFrame({
        "lead_id": [f"L{i}" for i in rng.integers(100, size=n)],
        "occurred_at": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(rng.integers(2160, size=n), unit="h"),
        "channel": rng.choice(["web", "call", "mail"], size=n),
    })  # fmt: skip
    leads = pd.DataFrame({"lead_id": [f"L{i}" for i in range(100)], "created_at": "2026-01-01T00:00:00Z"})
    return Dataset.from_frames(touchpoints=touches, leads=leads)


@pytest.fixture(scope="module")
def X(dataset):
    return rows(Cohort.grid(dataset, every=10, start="2026-01-11", stop="2026-03-31"))


def test_it_gives_what_the_feature_set_gives(dataset, X):
    mine = LeadFeatures(dataset, DECLARED).fit(X)
    cohort = Cohort(X[:, 0].copy(), X[:, 1].copy())
    known = dataset.known_at(int(X[:, 1].max()))
    expected = FeatureSet.fit(DECLARED, known)
    assert mine.feature_set_ == expected
    assert mine.transform(X).tobytes() == expected.compute(dataset, cohort).tobytes()
    assert mine.get_feature_names_out().tolist() == list(expected.names)
    assert FeatureSet.from_json(mine.to_json()) == expected


def test_the_vocabulary_is_learned_from_the_rows_of_fit_alone(dataset):
    first = dataset.history.at.min() + 1
    early = LeadFeatures(dataset, DECLARED).fit(np.array([[0, first]]))
    assert sum(name.endswith("_count") for name in early.get_feature_names_out()) == 2  # one channel, and "other"


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_it_fills_data_frames(dataset, X, kind):
    frame = LeadFeatures(dataset, DECLARED).set_output(transform=kind).fit_transform(X)
    assert list(frame.columns)[:2] == ["age_days", "call_count_7d"]
    assert frame.shape == (len(X), 10)


def test_clones_share_the_dataset_and_pickles_hold_it(dataset, X):
    mine = LeadFeatures(dataset, DECLARED).fit(X)
    copied = clone(mine)
    assert copied.dataset is dataset
    assert copied.features == DECLARED
    with pytest.raises(NotFittedError):
        copied.transform(X)
    again = pickle.loads(pickle.dumps(mine))
    assert again.transform(X).tobytes() == mine.transform(X).tobytes()


def test_a_pipeline_is_cross_validated_by_lead(dataset, X):
    y = np.random.default_rng(1).random(len(X)) < 0.3
    model = make_pipeline(LeadFeatures(dataset, DECLARED), HistGradientBoostingClassifier(max_iter=5))
    scores = cross_val_score(model, X, y, groups=X[:, 0], cv=GroupKFold(3), scoring="neg_log_loss")
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((3, 3), np.int64), "got int64 (3, 3)"),
        (np.zeros((3, 2)), "got float64 (3, 2)"),
        (np.zeros(3, np.int64), "got int64 (3,)"),
    ],
)
def test_rows_that_are_none_are_refused(dataset, wrong, said):
    with pytest.raises(UsageError, match="shape") as caught:
        LeadFeatures(dataset).fit(wrong)
    assert said in str(caught.value)


def test_no_rows_teach_nothing(dataset):
    with pytest.raises(UsageError, match="no rows"):
        LeadFeatures(dataset).fit(np.empty((0, 2), np.int64))
