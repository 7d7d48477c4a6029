"""The pictures show what the figures say."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from features import UsageError
from training import Backtest, Experiment
from training.metrics import MEASURES
from training.plots import by_origin, calibration, calibration_points, gains, lift, pictures, save

DAY = 86_400_000_000
MODELS = ("rules", "naive_bayes", "logistic", "lightgbm")


def judged(bought, probability, lead=None, **experiment):
    """A backtest of one origin with these rows."""
    bought = np.array(bought, np.bool_)
    lead = np.arange(len(bought)) if lead is None else np.array(lead)
    probability = {name: np.array(p, np.float64) for name, p in probability.items()}
    origin = np.zeros(len(bought), np.int64)
    return Backtest(Experiment(bootstrap=10, **experiment), lead, origin, bought, probability, {0: (100, 10)})


@pytest.fixture(scope="module")
def result():
    """2,000 leads of known probability; the models add noise to it, the rules most."""
    rng = np.random.default_rng(2)
    truth = rng.beta(1, 9, 2_000)
    noisy = {
        name: (truth * np.exp(rng.normal(0, spread, 2_000))).clip(1e-4, 0.99)
        for name, spread in zip(MODELS, (1.5, 1.0, 0.3, 0.0), strict=True)
    }
    return judged(rng.random(2_000) < truth, noisy, capacity=0.2)


def line_of(figure, label):
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == label]
    return line


def legend_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


# Gains.


def test_gains_draw_every_model_and_chance(result):
    figure = gains(result)
    axes = figure.axes[0]
    assert legend_of(figure) == ["by lot", "rules", "naive bayes", "logistic", "lightgbm"]
    assert axes.get_xlabel() == "share of open leads called, best first"
    assert axes.get_ylabel() == "share of purchases caught"
    assert axes.get_title(loc="left").strip() == "Purchases caught by the leads called"
    said = " ".join(text.get_text() for text in axes.texts)
    assert f"1 origins, 2,000 leads scored, {result.bought.sum():,} purchases within 90 days" in said
    assert "capacity 20%" in said


def test_gains_pass_through_the_figures_of_the_table(result):
    figure = gains(result)
    for name in MODELS:
        shares, caught = line_of(figure, name.replace("_", " ")).get_data()
        assert (caught[0], caught[-1]) == (0, pytest.approx(1))
        assert (np.diff(caught) >= 0).all()
        table = result.evaluation.estimate(name, "caught").value
        assert np.interp(0.2, shares, caught) == pytest.approx(table, abs=1e-12)
    shares, lot = line_of(figure, "by lot").get_data()
    assert list(shares) == list(lot) == [0, 1]


def test_gains_by_hand():
    """Two purchases among ten leads, ranked first and third."""
    result = judged([1, 0, 1, 0, 0, 0, 0, 0, 0, 0], {"model": np.arange(10, 0, -1) / 20})
    shares, caught = line_of(gains(result), "model").get_data()
    assert [np.interp(share, shares, caught) for share in (0, 0.1, 0.2, 0.3, 1)] == pytest.approx([0, 0.5, 0.5, 1, 1])


def test_some_models_can_be_left_out(result):
    assert legend_of(gains(result, ["rules", "lightgbm"])) == ["by lot", "rules", "lightgbm"]
    assert legend_of(calibration(result, ["lightgbm"])) == ["lightgbm"]


def test_the_rules_are_grey_and_the_others_each_of_another_colour(result):
    figure = gains(result)
    colours = [line_of(figure, name.replace("_", " ")).get_color() for name in MODELS]
    assert colours[0] == "#868e96"
    assert len(set(colours)) == 4


# Lift.


def test_lift_passes_through_the_figures_of_the_table_and_ends_at_one(result):
    figure = lift(result)
    assert legend_of(figure) == ["by lot", "rules", "naive bayes", "logistic", "lightgbm"]
    for name in MODELS:
        shares, times = line_of(figure, name.replace("_", " ")).get_data()
        assert times[-1] == pytest.approx(1)
        table = result.evaluation.estimate(name, "lift").value
        assert np.interp(0.2, shares, times) == pytest.approx(table, rel=0.03)
    assert line_of(figure, "by lot").get_ydata() == [1, 1]


# From origin to origin.


@pytest.fixture(scope="module")
def replays(result):
    """The same leads at three origins, at the last of them with the rules' probabilities for all models."""
    n = len(result.lead)
    probability = {name: np.tile(p, 3) for name, p in result.probability.items()}
    for p in probability.values():
        p[2 * n :] = result.probability["rules"]
    origin = np.repeat(np.arange(3) * 30 * DAY, n)
    learned = {k * 30 * DAY: (100, 10) for k in range(3)}
    return Backtest(result.experiment, np.tile(result.lead, 3), origin, np.tile(result.bought, 3), probability, learned)


@pytest.mark.parametrize("measure", [measure.name for measure in MEASURES])
def test_each_origin_is_drawn_with_the_figures_of_its_table(replays, measure):
    figure = by_origin(replays, measure)
    table = replays.table_by_origin()
    for name in MODELS:
        drawn = line_of(figure, name.replace("_", " ")).get_ydata()
        assert list(drawn) == table.xs(name, level="model")[measure].tolist()
        assert drawn[0] == drawn[1] and (drawn[2] != drawn[1]) == (name != "rules")
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    bought = replays.bought[replays.origin == 0].sum()
    assert labels == [f"1970-{day}\n{bought}" for day in ("01-01", "01-31", "03-02")]


def test_an_unknown_measure_and_a_list_without_origins_are_refused(replays):
    with pytest.raises(UsageError, match=r"there is no measure 'f1'\. Use one of log_loss, brier, auc"):
        by_origin(replays, "f1")
    with pytest.raises(UsageError, match="a list without times has no origins"):
        by_origin(replace(replays, folds=5))


def test_there_is_every_picture_that_can_be(replays):
    assert list(pictures(replays)) == ["gains", "lift", "calibration", "by_origin"]
    assert list(pictures(replace(replays, folds=5))) == ["gains", "lift", "calibration"]
    assert all(figure._repr_png_().startswith(b"\x89PNG") for figure in pictures(replays).values())


# Tables in a notebook.


def test_a_backtest_is_a_table_and_shows_itself(result):
    table = result.table()
    assert table.index[-1] == result.best(MODELS) and set(table.index) == set(MODELS)
    for measure in MEASURES:
        estimate = result.evaluation.estimate("rules", measure.name)
        assert table.loc["rules", measure.name].to_dict() == estimate._asdict()
    html = result._repr_html_()
    assert html.count("<tr>") == 1 + len(MODELS) and "against the rules: log loss" in html


def test_what_is_shown_cannot_break_out_of_the_page():
    result = judged([1, 0], {"<script>": [0.6, 0.4]})
    assert "<script>" not in result._repr_html_() and "&lt;script&gt;" in result._repr_html_()


# Calibration.


def test_calibration_draws_every_model_with_intervals_and_the_line_of_truth(result):
    figure = calibration(result)
    axes = figure.axes[0]
    assert legend_of(figure) == ["rules", "naive bayes", "logistic", "lightgbm"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim() == axes.get_ylim()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted probability", "share that bought")
    assert len(axes.containers) == 4
    diagonal = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [list(line.get_xdata()) == list(line.get_ydata()) for line in diagonal] == [True]


def test_calibration_shows_its_points(result):
    figure = calibration(result, ["lightgbm"])
    predicted, observed, low, high = calibration_points(result, "lightgbm")
    ((line, _, (bars,)),) = figure.axes[0].containers
    np.testing.assert_allclose(line.get_xydata(), np.column_stack([predicted, observed]))
    ends = np.array(bars.get_segments())
    np.testing.assert_allclose(ends[:, 0, 1], np.minimum(low, observed))
    np.testing.assert_allclose(ends[:, 1, 1], np.maximum(high, observed))


def test_calibration_points_by_hand():
    """Of one purchase expected a group holds a tenth: ten leads of 1 %, one of 10 %; the other eight are empty."""
    p = [0.01] * 10 + [0.1] * 8 + [0.05] * 2
    bought = [True, False] * 10
    predicted, observed, low, high = calibration_points(judged(bought, {"model": p}), "model")
    # The expectations 0.1, 0.1 and 0.8 have their middles at 0.05, 0.15 and 0.6.
    np.testing.assert_allclose(predicted, [0.01, 0.05, 0, 0, 0, 0, 0.1, 0, 0, 0])
    np.testing.assert_allclose(observed, [0.5, 0.5, 0, 0, 0, 0, 0.5, 0, 0, 0])
    assert (low <= observed).all() and (observed <= high).all() and high[0] - low[0] > 0.3


def test_groups_do_not_hang_on_the_order_of_rows_nor_on_what_came(result):
    order = np.random.default_rng(1).permutation(len(result.lead))
    p = np.round(result.probability["lightgbm"], 2)
    one = judged(result.bought, {"model": p}, result.lead)
    other = judged(result.bought[order], {"model": p[order]}, result.lead[order])
    for mine, its in zip(calibration_points(one, "model"), calibration_points(other, "model"), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-12)
    nothing = judged(np.zeros(len(p)), {"model": p}, result.lead)
    np.testing.assert_array_equal(calibration_points(nothing, "model")[0], calibration_points(one, "model")[0])


def test_true_probabilities_lie_on_the_line_even_with_few_purchases():
    """A hundred backtests of some twenty purchases each: on average what was predicted is what happened."""
    rng = np.random.default_rng(3)
    ratio = []
    for _ in range(100):
        truth = rng.beta(1, 9, 200)
        predicted, observed, _, _ = calibration_points(judged(rng.random(200) < truth, {"model": truth}), "model")
        ratio.append(observed[predicted > 0] / predicted[predicted > 0])
    assert np.concatenate(ratio).mean() == pytest.approx(1, abs=0.06)


def test_false_probabilities_do_not_lie_on_the_line(result):
    within = {}
    for name in ("rules", "lightgbm"):
        predicted, _, low, high = calibration_points(result, name)
        within[name] = ((low <= predicted) & (predicted <= high)).sum()
    assert within["rules"] < 6 < within["lightgbm"]


def test_intervals_of_points_draw_leads_and_not_rows(result):
    repeated = judged(
        np.tile(result.bought, 5), {"model": np.tile(result.probability["lightgbm"], 5)}, np.tile(result.lead, 5)
    )
    _, _, low, high = calibration_points(result, "lightgbm")
    _, _, again_low, again_high = calibration_points(repeated, "model")
    np.testing.assert_allclose(again_high - again_low, high - low, rtol=0.5)


@pytest.mark.parametrize("buyers", [1, 3, 12])
def test_few_purchases_can_be_drawn(buyers, tmp_path):
    bought = np.arange(50) < buyers
    result = judged(bought, {"rules": np.linspace(0.5, 0.1, 50), "model": np.full(50, 0.2)})
    for name, figure in (("gains", gains(result)), ("calibration", calibration(result))):
        assert save(figure, tmp_path / f"{name}.png").stat().st_size > 10_000


def test_pictures_are_written_as_png(result, tmp_path):
    path = save(gains(result), tmp_path / "new" / "gains.png")
    height, width, channels = imread(path).shape
    assert (width, height, channels) == (1080, 810, 4)
