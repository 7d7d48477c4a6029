"""A curve over probabilities is kept only where later rows prove it, and survives the bundle."""

from dataclasses import replace

import numpy as np
import pytest

from features import Cohort, ModelError
from features.times import US_PER_DAY
from models import load_bundle, save_bundle
from models.calibration import FILE, Curve, calibrated, curve_from_files
from models.model import logit, sigmoid
from training import Backtest, Experiment
from training.calibrate import find_curve

EXPERIMENT = Experiment(horizon_days=10, bootstrap=200)


def backtest_of(change, *, leads=4_000, origins=6, every=10, folds=0, seed=0):
    """A backtest whose one model says `change` of the true probability."""
    rng = np.random.default_rng(seed)
    lead = np.tile(np.arange(leads), origins)
    origin = np.repeat(np.arange(origins) * every * US_PER_DAY, leads)
    truth = sigmoid(rng.normal(-2.5, 1.2, size=leads * origins))
    bought = rng.random(len(truth)) < truth
    learned = {int(at): (100, 10) for at in np.unique(origin)}
    return truth, Backtest(EXPERIMENT, lead, origin, bought, {"model": change(truth)}, learned, folds)


def overconfident(truth):
    return sigmoid(1.6 * logit(truth) + 0.9)


@pytest.mark.parametrize("folds", [0, 5])
def test_probabilities_that_do_not_come_true_get_a_curve_that_makes_them(folds):
    truth, result = backtest_of(overconfident, folds=folds)
    found = find_curve(result, "model")
    assert found.gain.low > 0
    mended = found.curve.apply(result.probability["model"])
    assert np.abs(logit(mended) - logit(truth)).mean() < 0.1 < np.abs(logit(overconfident(truth)) - logit(truth)).mean()


def test_true_probabilities_are_left_as_they_are():
    """Of 20 such backtests one may be unlucky: its interval has 95 %, and the better one of two curves is judged."""
    kept = [find_curve(backtest_of(lambda truth: truth, leads=500, seed=seed)[1], "model").curve for seed in range(20)]
    assert sum(curve is not None for curve in kept) <= 1


def test_a_few_purchases_prove_nothing():
    _, result = backtest_of(overconfident, leads=20)
    assert find_curve(result, "model").curve is None


def test_without_a_window_that_is_over_before_a_later_origin_nothing_can_be_judged():
    _, result = backtest_of(overconfident, every=1)
    found = find_curve(result, "model")
    assert found.gain is None and "too few purchases" in found.says


def test_the_future_is_not_asked(monkeypatch):
    """Rows are fitted on only if their window was over by the origin they are used at, and their lead is another."""
    _, result = backtest_of(overconfident, leads=500)
    seen = []
    fit = Curve.fit.__func__

    def spy(cls, probability, bought, *, line):
        seen.append(probability)
        return fit(cls, probability, bought, line=line)

    monkeypatch.setattr(Curve, "fit", classmethod(spy))
    find_curve(result, "model")
    last = result.probability["model"][result.origin == max(result.origins)]
    *judged, final = seen
    assert np.isin(last, final).all()
    assert len(judged) > 5 and not any(np.isin(last, probability).any() for probability in judged)


def test_the_order_of_leads_stays():
    curve = Curve.fit(np.linspace(0.01, 0.99, 200), np.arange(200) < 100, line=False)
    assert (np.diff(curve.apply(np.linspace(0.001, 0.999, 500))) >= 0).all()


def test_a_bundle_holds_the_curve_to_the_bit(trained, tmp_path):
    from features import Dataset

    plain, dataset = load_bundle(trained.bundles / "blend"), Dataset.read(trained.leads)
    curve = Curve(1.3, 0.9, -0.2)
    mended = replace(plain, model=calibrated(plain.model, curve))
    again = load_bundle(save_bundle(mended, tmp_path / "bundle"))
    assert (tmp_path / "bundle" / FILE).exists() and again.card.model == "blend"
    cohort = Cohort.at(np.arange(200), dataset.recorded_until)
    np.testing.assert_array_equal(again.predict(dataset, cohort), curve.apply(plain.predict(dataset, cohort)))
    assert (again.predict(dataset, cohort) != plain.predict(dataset, cohort)).all()


@pytest.mark.parametrize("text", ["{}", "[1]", '{"rise": 1, "fall": -1, "shift": 0}', '{"rise": "x"}'])
def test_a_damaged_curve_is_refused(text):
    with pytest.raises(ModelError, match=FILE):
        curve_from_files({FILE: text})
