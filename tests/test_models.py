"""Models, tiers and the scorer: one suite over every model, and each by hand where its arithmetic is plain."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import small
from sklearn.linear_model import LogisticRegression
from worlds import table

from features import Cohort, Dataset, Kind, ModelError, UsageError
from features.records import dataset_of
from models import MODELS, Card, PointsTable, Scorer, candidates
from models.base_rate import BaseRate
from models.blend import Blend
from models.linear import Logistic, fit_curve
from models.model import Evidence
from models.naive_bayes import NaiveBayes
from models.recency import Recency
from models.rules import AttributeRule, Rules
from models.scorer import percentiles, scored_list
from models.settings import DEFAULT
from models.trees import PARAMETERS, LightGBM

ROOT = Path(__file__).parents[1]
RULES = Rules(np.array([2, 3, 2]), np.array([3.0, -1.0, 10.0]), np.array([np.nan, np.nan, 4.0]), 0.1, 0.0, 1.0)
FITS = {
    "rules": RULES.fit,
    "base_rate": BaseRate.fit,
    "recency": Recency.fit,
    "naive_bayes": NaiveBayes.fit,
    "logistic": Logistic.fit,
    "lightgbm": LightGBM.fit,
    "blend": Blend.fit,
}
JSON = sorted(set(MODELS) - {"lightgbm", "blend", "base_rate"})
SOFT = ["logistic", "lightgbm", "blend"]
every_model = pytest.mark.parametrize("name", MODELS)
every_learner = pytest.mark.parametrize("name", sorted(set(MODELS) - {"base_rate"}))
"""Those that tell leads apart."""


def some_rows(name, count=400, seed=0):
    """Days since, age, counts, a number with gaps, an empty column and a constant one; the first two for recency."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(0, 300, count)
    since = np.where(rng.random(count) < 0.3, np.nan, age * rng.random(count))
    number = np.where(rng.random(count) < 0.2, np.nan, rng.normal(size=count) * 50)
    columns = [since, age, rng.poisson(2, count), rng.poisson(0.3, count), number, [np.nan] * count, [7] * count]
    return np.column_stack(columns[:2] if name == "recency" else columns).astype(np.float32)


def some_labels(rows, seed=0):
    lively = rows[:, 2] if rows.shape[1] > 2 else 4 - 0.02 * np.where(np.isnan(rows[:, 0]), rows[:, 1], rows[:, 0])
    return lively + np.random.default_rng(seed).normal(size=len(rows)) > 3


@cache
def fitted(name):
    rows = some_rows(name)
    return FITS[name](rows, some_labels(rows))


def bits(numbers):
    assert numbers.dtype == np.float64 and numbers.ndim == 1
    return numbers.tobytes()


# Every model.


def test_every_model_is_in_the_suite_and_competes():
    assert set(FITS) == set(MODELS) == {candidate.name for candidate in candidates()}
    assert all(type(fitted(name)).name == name for name in MODELS)


@every_model
def test_a_model_read_from_its_files_predicts_the_same_bits(name):
    model, rows = fitted(name), some_rows(name, seed=1)
    again = MODELS[name].from_files(model.to_files())
    assert bits(again.predict(rows)) == bits(model.predict(rows))
    assert again.to_files() == model.to_files()


@every_learner
def test_a_row_alone_predicts_the_bits_it_has_in_a_batch(name):
    model, rows = fitted(name), some_rows(name, seed=1)
    batch = model.predict(rows)
    assert len(np.unique(batch)) > 10
    for size in (1, 3):
        parts = [model.predict(rows[row : row + size]) for row in range(0, len(rows), size)]
        assert bits(np.concatenate(parts)) == bits(batch)


@every_learner
def test_a_model_learns(name):
    rows = some_rows(name, seed=1)
    bought, probability = some_labels(rows, seed=1), fitted(name).predict(rows)
    assert probability[bought].mean() > 1.5 * probability[~bought].mean()


@every_model
def test_odd_rows_have_a_probability(name):
    odd = some_rows(name, count=1)[[0] * 6]
    odd[:5] = np.array([0, np.nan, np.inf, -np.inf, 3e38], np.float32)[:, None]
    odd[:2, 1] = 0
    probability = fitted(name).predict(odd)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert fitted(name).predict(odd[:0]).shape == (0,)


@every_model
def test_columns_that_tell_nothing_give_the_base_rate(name):
    rows = np.ones_like(some_rows(name))
    rows[:, 5:6] = np.nan
    bought = np.arange(400) < 100
    np.testing.assert_allclose(FITS[name](rows, bought).predict(rows), 0.25, atol=0.01)


@every_model
def test_an_infinite_value_in_training_does_no_harm(name):
    rows = some_rows(name)
    rows[:3, -3 if rows.shape[1] > 2 else 0] = np.inf, np.inf, -np.inf
    model = FITS[name](rows, some_labels(rows))
    probability = MODELS[name].from_files(model.to_files()).predict(rows)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert np.abs(probability - fitted(name).predict(rows)).mean() < 0.02


@every_learner
def test_a_model_refuses_rows_it_would_misread(name):
    for columns in (0, 1, 3, *(() if name == "rules" else (6, 8))):
        with pytest.raises(ModelError, match=r"column|matrix"):
            fitted(name).predict(np.zeros((2, columns), np.float32))


def refused(name, file, text, says):
    with pytest.raises(ModelError, match=says):
        MODELS[name].from_files({**fitted(name).to_files(), file: text})


@every_model
def test_a_model_without_one_of_its_files_is_refused(name):
    files = fitted(name).to_files()
    for missing in files:
        with pytest.raises(ModelError, match=f"^{re.escape(missing)} is missing"):
            MODELS[name].from_files({file: text for file, text in files.items() if file != missing})


@every_model
def test_a_truncated_model_is_refused(name):
    for file, text in fitted(name).to_files().items():
        whole = text.partition("end of trees")[0]
        for cut in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 2):
            refused(name, file, whole[:cut], r"^model\.json cannot be read|^This model text is damaged")


@pytest.mark.parametrize("text", ["nonsense", "[]", "null", "7", '"x"', "[" * 100_000])
@pytest.mark.parametrize("name", JSON)
def test_what_is_no_json_object_is_refused(name, text):
    refused(name, "model.json", text, r"^model\.json cannot be read")


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"lightgbm", "base_rate"}))
def test_a_part_that_is_missing_or_of_another_type_is_refused(name):
    parts = json.loads(fitted(name).to_files()["model.json"])
    assert len(parts) >= 2
    for part, value in parts.items():
        rest = {p: v for p, v in parts.items() if p != part}
        if part != "stand_in":
            refused(name, "model.json", json.dumps(rest), f"^model.json: '{part}' is missing")
        bad = [None, "12", True, {}, ["1"], [[[]]], [[True]], [1e999], [10**400], 10**400, [["a"]]]
        for wrong in [*bad, [1.0] if isinstance(value, float) else 1.0]:
            changed = json.dumps({**parts, part: wrong})
            refused(name, "model.json", changed, f"^model.json: '{part}' is not a (list|number)")
        if isinstance(value, list):
            changed = json.dumps({**parts, part: value[1:]})
            refused(name, "model.json", changed, r"^model\.json: .* (fit|differ)")


@pytest.mark.parametrize("column", [[-1, 3, 2], [2.5, 3, 2], [None, 3, 2]])
def test_rules_that_look_at_no_column_are_refused(column):
    parts = json.loads(RULES.to_files()["model.json"])
    refused("rules", "model.json", json.dumps({**parts, "column": column}), "do not fit each other")


# Naive Bayes.


def frequency_tables(*fields, won=2.1, lost=3.1):
    """A model whose field i has the bins missing, zero or less, more; fields are (edges, won counts, lost counts)."""
    edges, won_counts, lost_counts = ([np.array(part, float) for part in parts] for parts in zip(*fields, strict=True))
    return NaiveBayes(tuple(edges), tuple(won_counts), tuple(lost_counts), won, lost)


def test_naive_bayes_gives_the_published_example():
    # won(v) / T_w and lost(v) / T_l of the six fields; the rest of each field's sum stands in another bin.
    factors = [(2.1, 2.1, 1.1, 3.1), (1.1, 2.2, 1.1, 1.2), (2.1, 2.2, 0.1, 1.2), (2.1, 2.1, 3.1, 3.1),
               (2.1, 2.2, 1.1, 3.2), (0.1, 1.2, 2.1, 2.2)]  # fmt: skip
    fields = [([], [won, all_won - won], [lost, all_lost - lost]) for won, all_won, lost, all_lost in factors]
    row = np.full((1, 6), np.nan, np.float32)
    assert round(float(frequency_tables(*fields).predict(row)[0]), 4) == 0.7430


def test_naive_bayes_counts_by_hand():
    column = np.array([[np.nan], [np.nan], [0], [2], [2]], np.float32)
    model = NaiveBayes.fit(column, np.array([True, False, True, True, False]))
    # Missing, zero or less, below 2 (never seen), 2 and more.
    np.testing.assert_allclose(model.won[0], [1.1, 1.1, 0, 1.1])
    np.testing.assert_allclose(model.lost[0], [1.1, 0.1, 0, 1.1])
    assert (model.total_won, model.total_lost) == (3.1, 2.1)
    won, lost = 3.1 / 5.2 * 1.1 / 3.3, 2.1 / 5.2 * 1.1 / 2.3
    zero = 3.1 / 5.2 * 1.1 / 3.3, 2.1 / 5.2 * 0.1 / 2.3
    np.testing.assert_allclose(
        model.predict(np.array([[np.nan], [-3], [2], [9], [1]], np.float32)),
        [won / (won + lost), zero[0] / sum(zero), won / (won + lost), won / (won + lost), 3.1 / 5.2],
    )


def test_naive_bayes_passes_over_a_value_never_seen():
    seen, unseen = ([0.5], [0, 1.1, 1.1], [0, 0.1, 2.1]), ([0.5], [0, 2.1, 0.1], [0, 3.1, 0.1])
    both, one = frequency_tables(seen, unseen), frequency_tables(seen)
    assert both.predict(np.array([[1, np.nan]], np.float32)) == one.predict(np.array([[1]], np.float32))
    assert both.predict(np.array([[1, 1]], np.float32)) != one.predict(np.array([[1]], np.float32))


def test_naive_bayes_puts_infinity_into_the_last_bin():
    column = np.array([[1], [2], [3], [np.inf], [np.inf], [np.inf], [np.inf]], np.float32)
    model = NaiveBayes.fit(column, np.arange(7) > 3)
    assert model.edges[0][1:].tolist() == [1.5, 2, 2.5] and model.won[0][-1] == 3.1


def test_naive_bayes_is_never_sure():
    sure = [([0.5], [0, 0.1, 9e5], [0, 9e5, 0.1])] * 300
    rows = np.array([[0] * 300, [1] * 300], np.float32)
    assert frequency_tables(*sure).predict(rows).tolist() == [0.0001, 0.9999]


# Rules.

TOUCHES = """
    lead_id  occurred_at           channel  action
    a        2026-02-26T00:00:00Z  email    click
    a        2026-02-27T00:00:00Z  email    click
    b        2026-02-26T00:00:00Z  web      click
    c        2026-02-26T00:00:00Z  email    open
    d        2026-02-10T00:00:00Z  fair     -
    f        2026-02-22T00:00:00Z  E-Mail   Click
    g        2026-02-21T23:59:59Z  email    click
"""
LEADS = """
    lead_id  created_at            industry  size
    a        2026-01-01T00:00:00Z  -         -
    b        2026-01-01T00:00:00Z  software  -
    c        2026-01-01T00:00:00Z  retail    50
    d        2026-01-01T00:00:00Z  -         49.5
    e        2026-02-01T00:00:00Z  -         100
    f        2026-01-01T00:00:00Z  -         -
    g        2026-01-01T00:00:00Z  -         -
"""


def points_of(points_table):
    """The points of the leads above on 2026-03-01, by lead."""
    dataset = Dataset.from_frames(touchpoints=table(TOUCHES), leads=table(LEADS))
    recipe = Rules.prepare(points_table, dataset)
    matrix = recipe.features.compute(dataset, Cohort.at(np.arange(len(dataset)), "2026-03-01"))
    rules = recipe.fit(matrix, np.arange(len(dataset)) % 2 == 0, small.PLENTY)
    return dict(zip(dataset.ids.tolist(), rules.points(matrix).tolist(), strict=True))


@pytest.mark.parametrize(
    ("points_table", "expected"),
    [
        # The kind, else its action, else its channel; names as people write them.
        (
            PointsTable({"Email Click": 5, "click": 7, "email": 2}, silence_per_week=0),
            dict(a=10, b=7, c=2, d=0, e=0, f=7, g=5),
        ),
        # Whole weeks since the last touch, or since creation.
        (PointsTable({"nothing": 1}), dict(a=0, b=0, c=0, d=-10, e=-20, f=-5, g=-5)),
        (PointsTable({"email": 1}, silence_per_week=0.5), dict(a=2, b=0, c=1, d=-1, e=-2, f=-0.5, g=0.5)),
        # A touch gives no points after so many days.
        (PointsTable({"click": 5}, silence_per_week=0, expire_days=7), dict(a=10, b=5, c=0, d=0, e=0, f=5, g=0)),
        (
            PointsTable(attributes=(AttributeRule("Industry", 10, equals=" software "),), silence_per_week=0),
            dict(a=0, b=10, c=0, d=0, e=0, f=0, g=0),
        ),
        # Two rules for one attribute add up.
        (
            PointsTable(
                attributes=(AttributeRule("size", 4, at_least=50), AttributeRule("size", 6, at_least=100)),
                silence_per_week=0,
            ),
            dict(a=0, b=0, c=4, d=0, e=10, f=0, g=0),
        ),
        (
            PointsTable(
                attributes=(AttributeRule("industry", 4, equals="retail"),) * 2,
                silence_per_week=0,
            ),
            dict(a=0, b=0, c=8, d=0, e=0, f=0, g=0),
        ),
        # Attributes that nobody has, and their words.
        (
            PointsTable(attributes=(AttributeRule("age", 4, at_least=0), AttributeRule("land", 4, equals="x"))),
            dict(a=0, b=0, c=0, d=-10, e=-20, f=-5, g=-5),
        ),
    ],
)  # fmt: skip
def test_points_by_hand(points_table, expected):
    assert points_of(points_table) == expected


def test_the_curve_follows_the_points():
    rows = some_rows("rules")
    model = RULES.fit(rows, some_labels(rows))
    points = model.points(rows)
    order = np.argsort(points)
    assert model.slope > 0 and (np.diff(model.predict(rows)[order]) >= 0).all()
    np.testing.assert_allclose(model.predict(rows), 1 / (1 + np.exp(-model.intercept - model.slope * points)))
    assert abs(model.predict(rows).mean() - some_labels(rows).mean()) < 1e-3


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        (Kind("email", "unsubscribe"), -25),
        (Kind("email", "click"), 5),
        (Kind("demo"), 30),
        (Kind("website", "pricing"), 15),
        (Kind("website", "visit"), 3),
        (Kind("email", "sent"), 0),
        (Kind("web", "forms"), 20),
        (Kind("calls"), 10),
        (Kind("fax"), 5),
        (Kind("formula", "one"), 5),
    ],
)
def test_default_points_come_from_the_words_of_a_kind(kind, points):
    assert PointsTable.default([kind]).points == {kind.name: points}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("points = [", r"not a points table: .*\(at end of document\)\. See examples/rules\.toml"),
        ("[points]\ndemo = 'many'", r"Expected `float`, got `str` - at `\$\.points"),
        ("[points]\ndemo = inf", "inf and nan are no points"),
        ("[points]\ndemo = 1\n[[attributes]]\nname = 'a'\npoints = 1\nat_least = nan", "inf and nan are no points"),
        ("silence = 5", "unknown field `silence`"),
        ("silence_per_week = 5", r"no points are given\. Add a \[points\] table"),
        ("", "no points are given"),
        ("expire_days = 0\n[points]\ndemo = 1", "expire_days is 0; it must be more than 0"),
        ("[[attributes]]\nname = 'size'\npoints = 5", "the rule for 'size' needs either `equals` or `at_least`"),
        ("[[attributes]]\nname = 'a'\npoints = 5\nequals = 'x'\nat_least = 1", "needs either `equals` or `at_least`"),
        ("[[attributes]]\nname = 'a'\nequals = 'x'", "missing required field `points`"),
        (
            "attributes = [{name = 'a', points = 1, equals = 'x'}, {name = 'A', points = 1, at_least = 1}]",
            "'a' cannot be both a word",
        ),
    ],
)
def test_a_bad_points_table_says_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: .*{says}"):
        PointsTable.read(path)


@pytest.mark.parametrize("raw", [None, b"\xff\xfe"])
def test_a_points_table_that_cannot_be_read_says_so(tmp_path, raw):
    path = tmp_path / "rules.toml"
    if raw:
        path.write_bytes(raw)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: not a points table: "):
        PointsTable.read(path)


def test_the_example_of_a_points_table_can_be_read():
    example = PointsTable.read(ROOT / "examples" / "rules.toml")
    assert example.of(Kind("email", "click")) == 5 and example.silence_per_week == 5
    assert {rule.name for rule in example.attributes} == {"industry", "size"}


# Logistic regression.


def test_logistic_equals_scikit_learn_on_the_same_design():
    rows = some_rows("logistic", seed=3).astype(np.float64)
    rows[0, 2] = 1e9
    bought = some_labels(rows)
    design = []
    for column in rows.T:
        gap = np.isnan(column)
        if gap.all() or len(set(column)) == 1:
            continue
        squeezed = np.sign(column) * np.log(1 + np.abs(column))
        scaled = (squeezed - squeezed[~gap].mean()) / squeezed[~gap].std()
        design.append(np.where(gap, 0, np.clip(scaled, -5, 5)))
        if gap.any():
            design.append(gap)
    design = np.column_stack(design)
    assert design.shape == (400, 7) and design.max() == 5
    reference = LogisticRegression(C=0.01, solver="newton-cholesky", tol=1e-10)
    expected = reference.fit(design, bought).predict_proba(design)[:, 1]
    rows = rows.astype(np.float32)
    np.testing.assert_allclose(Logistic.fit(rows, bought).predict(rows), expected, atol=1e-6, rtol=0)


def test_what_stands_in_for_a_missing_value_counts_four_times():
    rows, label = some_rows("logistic", seed=3), some_labels(some_rows("logistic", seed=3))
    whole = int(np.flatnonzero(~np.isnan(rows).any(axis=0) & (rows.std(axis=0) > 0))[0])
    gaps = np.flatnonzero(np.isnan(rows).any(axis=0) & ~np.isnan(rows).all(axis=0))
    empty = np.flatnonzero(np.isnan(rows).all(axis=0))
    assert len(gaps) and len(empty)
    stand_in = np.full(rows.shape[1], -1, np.int32)
    stand_in[[*gaps, *empty]] = whole
    filled = rows.copy()
    for column in gaps:
        missing = np.isnan(rows[:, column])
        filled[missing, column] = 4 * rows[missing, whole]
    model, plain = Logistic.fit(rows, label, stand_in=stand_in), Logistic.fit(filled, label)
    np.testing.assert_array_equal(model.weight, plain.weight)
    np.testing.assert_array_equal(model.predict(rows), plain.predict(filled))
    assert not model.missing[gaps].any() and (model.stand_in[empty] == -1).all()
    assert not np.array_equal(model.predict(rows), Logistic.fit(rows, label).predict(rows))
    total = model.terms(rows).sum(axis=1) + model.intercept
    np.testing.assert_allclose(total, model.logits(rows), rtol=1e-12)
    again = Logistic.from_files(model.to_files())
    np.testing.assert_array_equal(again.predict(rows), model.predict(rows))


def test_a_model_saved_before_anything_could_stand_in_is_read_as_it_was():
    parts = json.loads(fitted("logistic").to_files()["model.json"])
    assert set(parts.pop("stand_in")) == {-1}
    rows = some_rows("logistic")
    again = Logistic.from_files({"model.json": json.dumps(parts)})
    np.testing.assert_array_equal(again.predict(rows), fitted("logistic").predict(rows))


@pytest.mark.parametrize("wrong", [-2, 99, 0.5])
def test_what_stands_in_has_to_be_a_column(wrong):
    parts = json.loads(fitted("logistic").to_files()["model.json"])
    parts["stand_in"][0] = wrong
    refused("logistic", "model.json", json.dumps(parts), r"^model\.json: stand_in names columns, of which there are")


@pytest.mark.parametrize(("count", "least", "most"), [(20, 0.2, 0.8), (500, 0.9, 0.99), (50_000, 0.999, 1)])
def test_a_curve_is_scikit_learn_s_and_flatter_while_purchases_are_few(count, least, most):
    score = np.random.default_rng(0).normal(size=count) * 40 + 7
    bought = score + np.random.default_rng(1).normal(size=count) * 60 > 50
    scaled = (score / score.std())[:, None]
    plain, reference = (LogisticRegression(C=c, tol=1e-10).fit(scaled, bought) for c in (1e9, 1 / 5))
    intercept, slope = fit_curve(score, bought)
    np.testing.assert_allclose(intercept, reference.intercept_[0], rtol=1e-4)
    np.testing.assert_allclose(slope * score.std(), reference.coef_[0][0], rtol=1e-4)
    assert least < slope * score.std() / plain.coef_[0][0] < most


def test_a_curve_through_a_score_that_tells_all_is_finite():
    intercept, slope = fit_curve(np.arange(100.0), np.arange(100) >= 50)
    assert np.isfinite([intercept, slope]).all() and -intercept / slope == pytest.approx(49.5, abs=0.1)


def test_rules_keep_the_order_of_their_points_against_a_few_purchases():
    rows = some_rows("rules")
    points = RULES.points(rows)
    label = np.zeros(len(rows))
    label[np.argsort(points)[:4]] = 1
    probability = RULES.fit(rows, label).predict(rows)
    np.testing.assert_allclose(probability, 0.01, rtol=0.01)
    assert (np.diff(probability[np.argsort(points, kind="stable")]) >= 0).all() and len(set(probability)) > 10


def test_an_outlier_counts_as_five_deviations():
    model = fitted("logistic")
    rows = some_rows("logistic", count=1)[[0] * 4]
    at_limit = np.expm1(model.mean[2] + 5 * model.scale[2])
    rows[:, 2] = 1, at_limit * 1.001, 1e9, np.inf
    inside, *beyond = model.predict(rows).tolist()
    assert beyond[0] == beyond[1] == beyond[2] > inside


# Labels between 0 and 1, and the blend.


def soft_labels(rows, seed=0):
    """The chance that a row's label is 1."""
    return 1 / (1 + np.exp(3 - rows[:, 2] - np.random.default_rng(seed).normal(size=len(rows))))


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_label_counts_as_that_share_of_a_purchase(name):
    """Five rows that are alike, two of which bought, teach what five rows do that bought by two fifths each."""
    rows = np.repeat(some_rows(name, count=200), 5, axis=0)
    shares = np.random.default_rng(2).integers(0, 6, 200)
    hard = (np.arange(5) < shares[:, None]).ravel()
    soft = np.repeat(shares / 5, 5)
    assert (hard.reshape(200, 5).mean(axis=1) == shares / 5).all()
    model, other = (FITS[name](rows, label, DEFAULT.fitting(Evidence(5, 1_000))) for label in (soft, hard))
    difference = model.predict(rows) - other.predict(rows)
    # Trees draw rows by place, and rows that are alike differ in their hard labels.
    assert np.abs(difference).max() < (1e-6 if name == "logistic" else 0.08)
    assert model.predict(rows).mean() == pytest.approx(soft.mean(), abs=0.01)


def test_trees_of_labels_that_are_0_or_1_are_those_of_the_binary_objective(monkeypatch):
    rows = some_rows("lightgbm")
    monkeypatch.setitem(PARAMETERS, "objective", "binary")
    binary = LightGBM.fit(rows, some_labels(rows)).predict(rows)
    np.testing.assert_allclose(fitted("lightgbm").predict(rows), binary, rtol=1e-5)


def test_the_blend_is_the_mean_of_two_log_odds_and_its_mean_that_of_the_labels():
    rows = some_rows("blend")
    label = soft_labels(rows)
    blend, logistic, trees = (FITS[name](rows, label).predict(rows) for name in ("blend", "logistic", "lightgbm"))
    odds = np.log(blend / (1 - blend))
    mean = (np.log(logistic / (1 - logistic)) + np.log(trees / (1 - trees))) / 2
    shift = odds - mean
    np.testing.assert_allclose(shift, shift[0], atol=1e-9)
    assert abs(shift[0]) > 1e-4
    assert blend.mean() == pytest.approx(label.mean(), abs=1e-12)


def test_halves_that_do_not_fit_are_no_blend():
    narrow = Logistic.fit(some_rows("logistic")[:, :5], some_labels(some_rows("logistic")))
    refused("blend", "model.json", narrow.to_files()["model.json"], "looks at 5 columns, model.txt at 7; they do not")


# Recency.


def test_the_most_recently_active_come_first_and_creation_counts_as_activity():
    since = np.array([0, 1, 30, np.nan, 3_000, np.nan, np.inf], np.float32)
    age = np.array([9, 1, 90, 40, 3_000, 4_000, np.inf], np.float32)
    model = fitted("recency")
    probability = model.predict(np.column_stack([since, age]))
    assert model.slope < 0 and (np.diff(probability)[:-1] < 0).all() and probability[-1] == probability[-2]


# Percentiles.


def test_percentiles_are_those_that_a_share_does_not_exceed():
    hundred = np.arange(100, 0, -1) / 1_000
    found = percentiles(hundred)
    assert len(found) == 100 and found[-1] == 0.1
    assert found == tuple(hundred[::-1].tolist())
    for some in (np.arange(250), np.arange(37), np.repeat([0.1, 0.2], 50)):
        for k, at in enumerate(percentiles(some)):
            assert 100 * (some <= at).sum() >= (k + 1) * len(some) > 100 * (some < at).sum()
    assert percentiles([0.5]) == (0.5,) * 100
    assert percentiles([]) == (1.0,) * 100


# The scorer.


class Same:
    """A model that predicts the first column."""

    name = "same"

    def predict(self, matrix):
        return matrix[:, 0].astype(np.float64)


def scorer_of(given):
    """A scorer whose probabilities are the ages of leads in days, with the percentiles of some."""
    whole = small.scorer("logistic")
    card = Card(**{name: getattr(whole.card, name) for name in whole.card.__struct_fields__} | {"percentiles": given})
    return Scorer(whole.features, Same(), card, whole.tiers)


def test_scores_run_from_0_to_100():
    scorer = scorer_of(tuple(float(age) for age in range(1, 101)))
    dataset = dataset_of(small.records()[:1])
    days = [0, 0.5, 1, 1.5, 50, 99.5, 100, 1_000]
    as_of = dataset.created_at[0] + (np.array(days) * 86_400e6).astype(np.int64)
    scores = scorer.score(dataset, Cohort.at(np.zeros(len(days), int), as_of))
    assert scores.probability.tolist() == days
    assert scores.score.tolist() == [0, 0, 1, 1, 50, 99, 100, 100]


def test_a_scorer_refuses_another_feature_set():
    logistic, bayes = small.scorer("logistic"), small.scorer("naive_bayes")
    with pytest.raises(ModelError, match="not the one the model was trained on: their fingerprints differ"):
        Scorer(bayes.features, logistic.model, logistic.card, logistic.tiers)


def test_a_scorer_needs_100_percentiles():
    with pytest.raises(ModelError, match="needs 100 percentiles; this one has 3"):
        scorer_of((0.1, 0.2, 0.3))


@every_learner
def test_threads_and_chunks_do_not_change_a_bit(name):
    scorer, dataset = small.scorer(name), dataset_of(small.records())
    rng = np.random.default_rng(0)
    rows = 2 * 16_384 + 123
    cohort = Cohort.at(
        rng.integers(len(dataset), size=rows), dataset.last_known - rng.integers(0, 30 * 86_400_000_000, rows)
    )
    once = scorer.predict(dataset, cohort)
    assert len(np.unique(once)) > 100 and (once > 0).all() and (once < 1).all()
    whole = scorer.model.predict(scorer.features.compute(dataset, cohort))
    assert bits(once) == bits(whole)
    for threads in (2, 3):
        assert bits(scorer.predict(dataset, cohort, threads)) == bits(once)
    for part in (slice(0, 1), slice(16_383, 16_386), slice(rows - 1, rows), slice(0, 0)):
        assert bits(scorer.predict(dataset, cohort[part])) == bits(once[part])


def test_the_scored_list_says_it_all():
    scorer, dataset = small.scorer("logistic"), dataset_of(small.records()[:20])
    cohort = Cohort.at(np.arange(20)[::-1], small.AS_OF)
    scores = scorer.score(dataset, cohort)
    told = scored_list(scorer, dataset, cohort, scores)
    assert list(told) == [
        "lead_id", "as_of", "horizon_days", "probability", "lower", "upper", "score", "tier", "route", "reason_1",
        "reason_2", "reason_3", "model_version",
    ]  # fmt: skip
    assert {len(column) for column in told.values()} == {20}
    assert told["lead_id"] == [f"real-lead-{i}" for i in range(20)][::-1]
    assert str(told["as_of"][0]) == "2026-03-01T00:00:00.000000"
    routes = {"cold": "marketing", "warm": "nurture", "hot": "sales"}
    assert len(set(told["tier"])) > 1 and [routes[tier] for tier in told["tier"]] == told["route"]
    assert told["tier"] == scores.tiers


def test_a_user_s_own_table_competes():
    names = [one.name for one in candidates(PointsTable({"demo": 1})) if not one.peer]
    assert names == ["rules", "logistic", "lightgbm", "blend"]
    mine = next(one for one in candidates(PointsTable({"click": 1})) if one.name == "rules")
    dataset = dataset_of(small.records())
    assert mine.prepare(dataset).features.names == (
        "days_since_touch", "age_days", "email_click_count", "other_count",
    )  # fmt: skip
    coming = next(one for one in candidates(PointsTable({"click": 1, "Fair": 30})) if one.name == "rules")
    assert "fair_count" in coming.prepare(dataset).features.names
