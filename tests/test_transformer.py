"""The scikit-learn face: its own checks, and in pipelines, in cross-validation, cloned, pickled, and in data frames."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from features import Age, Cohort, Count, Dataset, DaysSince, FeatureSet, UsageError
from features.transformer import LeadFeatures, rows

DECLARED = (Age(), Count(by=("channel",), days=(7, None)), DaysSince())


def some_leads(start, step):
    """A hundred leads created at `start`, with 400 touches within 2,160 steps from then on."""
    rng = np.random.default_rng(0)
    n = 400
    touches = pd.DataFrame({
        "lead_id": [f"L{i}" for i in rng.integers(100, size=n)],
        "occurred_at": pd.Timestamp(start) + rng.integers(2160, size=n) * pd.Timedelta(step),
        "channel": rng.choice(["web", "call", "mail"], size=n),
    })  # fmt: skip
    leads = pd.DataFrame({"lead_id": [f"L{i}" for i in range(100)], "created_at": start})
    return Dataset.from_frames(touchpoints=touches, leads=leads)


@pytest.fixture(scope="module")
def dataset():
    return some_leads("2026-01-01T00:00:00Z", "1h")


@pytest.fixture(scope="module")
def X(dataset):
    return rows(Cohort.grid(dataset, every=10, start="2026-01-11", stop="2026-03-31"))


# What scikit-learn asks of any transformer.


CHECKED = LeadFeatures(some_leads("1969-12-31T23:59:59.999Z", "1us"), DECLARED)
CHECKS = [
    *(check for _, check in estimator_checks.estimator_checks_generator(CHECKED)),
    *(
        partial(check, "LeadFeatures")
        for check in (
            estimator_checks.check_dataframe_column_names_consistency,
            estimator_checks.check_get_feature_names_out_error,
            estimator_checks.check_global_output_transform_pandas,
            estimator_checks.check_global_set_output_transform_polars,
            estimator_checks.check_inplace_ensure_writeable,
            estimator_checks.check_set_output_transform,
            estimator_checks.check_set_output_transform_pandas,
            estimator_checks.check_set_output_transform_polars,
            estimator_checks.check_transformer_get_feature_names_out,
            estimator_checks.check_transformer_get_feature_names_out_pandas,
        )
    ),
]
"""Those for all estimators, and those for transformers that scikit-learn keeps for its own."""
NOT_APPLICABLE = {
    "check_dataframe_column_names_consistency": "leaves out the columns after the third; a row of ours has two",
}


def checks():
    named = [(getattr(check.func, "func", check.func).__name__, check) for check in CHECKS]
    assert {name for name, _ in named} >= set(NOT_APPLICABLE)
    return [
        pytest.param(check, id=name, marks=[pytest.mark.xfail(reason=reason, strict=True)] if reason else [])
        for name, check in named
        for reason in [NOT_APPLICABLE.get(name)]
    ]


def leads_and_instants(estimator, X, X_test=None, kernel=None):
    """Makes whole numbers of a check's: in the first column a lead, in the second microseconds around 1970."""

    def asked(X):
        whole = np.round(100 * X[:, :2])
        whole[:, 0] = np.abs(whole[:, 0]) % 100
        return whole.astype(np.int64) if X.dtype == np.float64 else whole

    return asked(X) if X_test is None else (asked(X), asked(X_test))


@pytest.mark.parametrize("check", checks())
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
def test_a_check_of_scikit_learn_passes(check, monkeypatch):
    """The checks make up any numbers. Where they fit them to what an estimator takes, they become rows of ours."""
    monkeypatch.setattr(estimator_checks, "_enforce_estimator_tags_X", leads_and_instants)
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    check(CHECKED)


def test_the_rows_of_the_checks_see_different_pasts():
    X = leads_and_instants(CHECKED, np.random.default_rng(0).normal(size=(50, 3)))
    assert len(np.unique(CHECKED.fit(X).transform(X), axis=0)) > 40


# In use.


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


@pytest.mark.parametrize("form", [pd.DataFrame, np.ndarray.tolist, np.asfortranarray, np.float64, np.uint64, "O"])
def test_rows_may_come_in_any_form(dataset, X, form):
    mine = LeadFeatures(dataset, DECLARED).fit(X)
    given = X.astype(form) if isinstance(form, str) else form(X)
    assert mine.transform(given).tobytes() == mine.transform(X).tobytes()


def test_the_columns_of_a_data_frame_keep_their_names_and_order(dataset, X):
    frame = pd.DataFrame(X, columns=["lead", "as_of"])
    mine = LeadFeatures(dataset, DECLARED).fit(frame)
    assert mine.feature_names_in_.tolist() == ["lead", "as_of"]
    assert mine.transform(frame).tobytes() == mine.fit(X).transform(X).tobytes()
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        mine.fit(frame).transform(frame[["as_of", "lead"]])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((3, 3), np.int64), "int64 (3, 3)"),
        (np.full((3, 2), 0.5), "float64 (3, 2)"),
        (np.full((3, 2), 2.0**54), "float64 (3, 2)"),
        (np.full((3, 2), 1.7e15, np.float32), "float32 (3, 2)"),
        (np.full((3, 2), 2**63, np.uint64), "uint64 (3, 2)"),
        (np.zeros((3, 2), np.bool_), "bool (3, 2)"),
    ],
)
def test_rows_that_are_none_are_refused(dataset, wrong, said):
    mine = LeadFeatures(dataset)
    with pytest.raises(UsageError) as caught:
        mine.fit(wrong)
    assert str(caught.value) == (
        "X must hold two columns of whole numbers that their type holds exactly, lead and as_of; "
        f"got {said}. Write a cohort with rows(cohort)."
    )
    with pytest.raises(NotFittedError):
        mine.transform(wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros(3, np.int64), "Expected 2D array, got 1D array"),
        (np.empty((0, 2), np.int64), "0 sample"),
        (np.full((3, 2), np.nan), "contains NaN"),
        (pd.DataFrame({"lead": [0], "as_of": ["2026-01-01"]}), "could not convert string to float"),
    ],
)
def test_what_is_no_matrix_is_refused_as_scikit_learn_does(dataset, wrong, says):
    with pytest.raises(ValueError, match=says):
        LeadFeatures(dataset).fit(wrong)


def test_a_lead_that_the_dataset_does_not_have_is_an_error(dataset):
    with pytest.raises(UsageError, match="the cohort asks about leads 100 to 100, but the dataset has 100"):
        LeadFeatures(dataset).fit_transform(np.array([[100, 1_800_000_000_000_000]]))
