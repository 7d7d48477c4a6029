"""The figures equal scikit-learn's or a count by hand, and the intervals mean what they say: whole leads are drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from features import ModelError
from training.metrics import MEASURES, caught_at, evaluate, information_captured, rank_measures

PLACE = {measure.name: k for k, measure in enumerate(MEASURES)}


def measured(bought, probability, lead=None, origin=None, *, capacity=0.1, bootstrap=10, seed=7):
    bought = np.asarray(bought, np.bool_)
    rows = np.arange(len(bought))
    if not isinstance(probability, dict):
        probability = {"model": probability}
    return evaluate(
        bought,
        {name: np.asarray(p, np.float64) for name, p in probability.items()},
        rows if lead is None else np.asarray(lead),
        np.zeros(len(bought), np.int64) if origin is None else np.asarray(origin),
        capacity=capacity,
        bootstrap=bootstrap,
        seed=seed,
    )


@st.composite
def judged_rows(draw):
    """Labels of both kinds, probabilities with many ties, and whole weights, some of them zero."""
    n = draw(st.integers(2, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    y = rng.random(n) < rng.uniform(0.05, 0.95)
    y[:2] = True, False
    p = np.round(rng.random(n), draw(st.integers(1, 17))).clip(0.001, 0.999)
    weight = rng.integers(0, 4, n)
    weight[:2] = 1
    order = rng.permutation(n)
    return y[order], p[order], weight[order]


@given(judged_rows())
def test_figures_equal_scikit_learn_s(rows):
    """A row of weight 3 is three rows."""
    y, p, weight = rows
    value = measured(np.repeat(y, weight), np.repeat(p, weight)).values["model"]
    expected = {
        "log_loss": log_loss(y, p, sample_weight=weight),
        "brier": brier_score_loss(y, p, sample_weight=weight),
        "auc": roc_auc_score(y, p, sample_weight=weight),
        "pr_auc": average_precision_score(y, p, sample_weight=weight),
        "ratio": (weight @ p) / (weight @ y),
    }
    for name, figure in expected.items():
        assert value[PLACE[name]] == pytest.approx(figure, abs=1e-12), name


@given(judged_rows())
def test_weighted_ranks_equal_scikit_learn_s(rows):
    y, p, weight = rows
    found = rank_measures(y.astype(float), p, weight.astype(float), np.argsort(-p, kind="stable"))
    assert found[0] == pytest.approx(roc_auc_score(y, p, sample_weight=weight), abs=1e-12)
    assert found[1] == pytest.approx(average_precision_score(y, p, sample_weight=weight), abs=1e-12)


def test_ranks_of_one_class_are_unknown():
    for y in (np.zeros(3), np.ones(3)):
        assert np.isnan(rank_measures(y, np.array([0.1, 0.2, 0.3]), np.ones(3), np.array([2, 1, 0]))).all()


def test_what_cannot_be_told_is_said_to_be_unknown_without_a_warning():
    """Warnings are errors here; whole origins where everybody buys are met in real logs."""
    found = measured([True, True, True], [0.9, 0.8, 0.7])
    assert np.isnan(found.estimate("model", "auc")).all()
    assert np.isnan(found.difference("model", "model", "auc")).all()
    assert found.estimate("model", "ratio").value == pytest.approx(0.8)


def test_a_certainty_that_was_wrong_costs_much_and_not_everything():
    assert measured([True, False], [0.0, 1.0]).values["model"][PLACE["log_loss"]] == pytest.approx(-np.log(1e-12))


def test_a_model_that_gives_no_probability_is_named():
    """A NaN equals nothing, not even itself: ranks would look for its ties for ever."""
    with pytest.raises(ModelError, match="broken gives 1 of 2 leads no probability"):
        measured([True, False], {"sound": [0.5, 0.5], "broken": [0.5, np.nan]})


# Purchases caught by a capacity.


def caught(y, p, capacity, origin=None, weight=None):
    y, p = np.array(y, float), np.array(p, float)
    origin = np.zeros(len(y), np.int64) if origin is None else np.array(origin)
    weight = np.ones(len(y)) if weight is None else np.array(weight, float)
    return caught_at(y, p, weight, np.lexsort((-p, origin)), origin, capacity)


@pytest.mark.parametrize(
    ("y", "p", "capacity", "expected"),
    [
        # Ten leads, the best one or two of which bought.
        pytest.param([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], range(10, 0, -1), 0.1, 1, id="room for one"),
        pytest.param([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], range(10, 0, -1), 0.2, 2, id="room for two"),
        pytest.param([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], range(10, 0, -1), 0.15, 1.5, id="room for one and a half"),
        pytest.param([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], range(10, 0, -1), 0.5, 0, id="the worst first"),
        pytest.param([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], [5] * 10, 0.5, 1, id="all alike: half of both"),
        pytest.param([1, 0, 0, 1], [9, 5, 5, 5], 0.5, 1 + 1 / 3, id="one for sure, one of three by lot"),
        pytest.param([0, 1, 1, 0, 0], [9, 5, 5, 5, 1], 0.6, 2 * 2 / 3, id="two of three by lot"),
    ],
)  # fmt: skip
def test_caught_by_hand(y, p, capacity, expected):
    assert caught(y, p, capacity) == pytest.approx((expected, capacity * len(y)), abs=1e-12)


def test_each_origin_has_a_capacity_of_its_own():
    """Two of four are worked at each origin, though all of the first rank above all of the second."""
    y, p, origin = [1, 0, 1, 0, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1], [1] * 4 + [2] * 4
    assert caught(y, p, 0.5, origin) == (2.0, 4.0)
    assert caught(y, p, 0.5) == (2.0, 4.0)
    assert caught(y, p, 0.25, origin) == (1.0, 2.0)
    swapped = [0.4, 0.3, 0.2, 0.1, 0.9, 0.8, 0.7, 0.6]
    assert caught(y, swapped, 0.5, origin) == (2.0, 4.0)
    assert caught(y, swapped, 0.5) == (1.0, 4.0)


def test_rows_may_come_in_any_order():
    rng = np.random.default_rng(3)
    y, p, origin = rng.random(50) < 0.3, np.round(rng.random(50), 1), rng.integers(0, 3, 50)
    order = rng.permutation(50)
    assert caught(y[order], p[order], 0.3, origin[order]) == pytest.approx(caught(y, p, 0.3, origin), abs=1e-12)


def test_weight_is_repetition():
    rng = np.random.default_rng(4)
    y, p = rng.random(40) < 0.3, np.round(rng.random(40), 1)
    origin, weight = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    repeated = caught(np.repeat(y, weight), np.repeat(p, weight), 0.2, np.repeat(origin, weight))
    assert caught(y, p, 0.2, origin, weight) == pytest.approx(repeated, abs=1e-12)


def test_lift_is_what_is_caught_over_what_the_lot_would_catch():
    found = measured([1, 1, 0, 0, 0, 0, 0, 0, 0, 1], np.arange(10, 0, -1) / 11, capacity=0.2)
    assert found.estimate("model", "caught").value == pytest.approx(2 / 3)
    assert found.estimate("model", "lift").value == pytest.approx(2 / 3 / 0.2)


def test_lift_of_one_probability_for_all_is_one():
    assert measured([True, *[False] * 9], [0.1] * 10).estimate("model", "lift").value == pytest.approx(1)


# What a model knows of the truth.


def test_the_truth_captures_all_information_and_the_base_rate_none():
    truth = np.array([0.01, 0.05, 0.2, 0.6])
    assert information_captured(truth, truth) == 1
    assert information_captured(truth, np.full(4, truth.mean())) == 0
    assert information_captured(truth, truth[::-1]) < 0
    halfway = 0.5 * truth + 0.5 * truth.mean()
    assert 0 < information_captured(truth, halfway) < 1


def test_information_captured_by_hand():
    def distance(q):
        return 0.5 * np.log(0.5 / q) + 0.5 * np.log(0.5 / (1 - q))

    # One lead of 1/2, one of 1/4; a model that is right of the second and says 0.4 of the first.
    base = 0.5 * np.log(0.5 / 0.375) + 0.5 * np.log(0.5 / 0.625)
    base += 0.25 * np.log(0.25 / 0.375) + 0.75 * np.log(0.75 / 0.625)
    found = information_captured(np.array([0.5, 0.25]), np.array([0.4, 0.25]))
    assert found == pytest.approx(1 - distance(0.4) / base, abs=1e-12)


# Intervals.


def clustered(rng, leads, rows=3):
    """Leads of a few rows each, all with the same outcome; the probabilities are true."""
    p = np.repeat(rng.choice([0.05, 0.1, 0.2, 0.4], leads), rows)
    bought = np.repeat(rng.random(leads) < p[::rows], rows)
    return bought, p, np.repeat(np.arange(leads), rows)


def width(estimate):
    return estimate.high - estimate.low


@pytest.mark.parametrize("measure", ["log_loss", "brier", "auc", "pr_auc", "lift", "caught", "ratio"])
def test_repeating_the_rows_of_a_lead_tells_nothing_new(measure):
    bought, p, lead = clustered(np.random.default_rng(5), 300, rows=1)
    once = measured(bought, p, lead, bootstrap=200).estimate("model", measure)
    often = measured(np.tile(bought, 9), np.tile(p, 9), np.tile(lead, 9), bootstrap=200).estimate("model", measure)
    assert often == pytest.approx(once, abs=1e-9)
    mistaken = measured(np.tile(bought, 9), np.tile(p, 9), bootstrap=200).estimate("model", measure)
    assert width(mistaken) < 0.5 * width(once)


def test_models_are_compared_on_the_same_leads():
    bought, p, lead = clustered(np.random.default_rng(6), 200)
    found = measured(bought, {"one": p, "same": p.copy(), "other": p**1.3}, lead, bootstrap=100)
    for measure in MEASURES:
        assert found.difference("one", "same", measure.name) == (0, 0, 0)
        there, back = found.difference("one", "other", measure.name), found.difference("other", "one", measure.name)
        assert back == pytest.approx((-there.value, -there.high, -there.low), abs=1e-12)
    unpaired = width(found.estimate("one", "log_loss"))
    assert width(found.difference("one", "other", "log_loss")) < 0.5 * unpaired


def test_the_seed_decides_the_draws():
    bought, p, lead = clustered(np.random.default_rng(7), 100)
    first, again, other = (measured(bought, p, lead, seed=seed).draws["model"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_intervals_cover_the_truth_as_often_as_they_say():
    """200 data sets whose true log loss is known; rows taken for independent would cover it far too rarely."""
    rng = np.random.default_rng(8)
    p = np.array([0.05, 0.1, 0.2, 0.4])
    truth = float(np.mean(-p * np.log(p) - (1 - p) * np.log1p(-p)))
    by_lead, by_row = 0, 0
    for _ in range(200):
        bought, probability, lead = clustered(rng, 150, rows=4)
        for name, rows in (("lead", lead), ("row", None)):
            found = measured(bought, probability, rows, bootstrap=200).estimate("model", "log_loss")
            hit = found.low <= truth <= found.high
            by_lead, by_row = by_lead + (hit and name == "lead"), by_row + (hit and name == "row")
    assert 0.90 <= by_lead / 200 <= 0.99
    assert by_row / 200 < 0.80


def test_all_figures_are_written_by_model_and_measure():
    found = measured([True, False, False], {"a": [0.5, 0.2, 0.1], "b": [0.1, 0.2, 0.3]}).to_dict()
    assert list(found) == ["a", "b"]
    assert list(found["a"]) == [measure.name for measure in MEASURES]
    assert list(found["a"]["auc"]) == ["value", "low", "high"]
    assert (found["a"]["auc"]["value"], found["b"]["auc"]["value"]) == (1, 0)
