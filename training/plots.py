"""The pictures of a backtest: what the same calls would have caught, and whether probabilities come true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from training.backtest import Backtest
from training.metrics import caught_at

_INK, _GREY, _GRID = "#1f2933", "#9aa5b1", "#e4e7eb"
_COLOURS = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c")
_RULES = "#868e96"
_BINS = 10


def gains(result: Backtest, models: list[str] | None = None) -> Figure:
    """Purchases caught by the share of open leads that is called, each model against the rules and against chance."""
    figure, axes = _figure(
        "Purchases caught by the leads called",
        f"{len(result.origins)} origins, {len(result.lead):,} leads scored, {int(result.bought.sum()):,} purchases "
        f"within {result.experiment.horizon_days:g} days",
    )
    shares = np.concatenate([np.linspace(0, 0.1, 21), np.linspace(0.12, 1, 45)])
    y, weight = result.bought.astype(np.float64), np.ones(len(result.bought))
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (2, 2)), label="by lot")
    for name, colour in _named(models or list(result.probability)):
        p = result.probability[name]
        order = np.lexsort((-p, result.origin))
        caught = [caught_at(y, p, weight, order, result.origin, share)[0] / y.sum() for share in shares]
        axes.plot(shares, caught, color=colour, linewidth=2.2, label=name.replace("_", " "))
    capacity = result.experiment.capacity
    axes.axvline(capacity, color=_INK, linewidth=0.8)
    best = result.best(list(result.probability))
    says = [f"capacity {capacity:.0%}", f"{best.replace('_', ' ')} {_caught(result, best):.0%}"]
    if best != "rules" and "rules" in result.probability:
        says.append(f"rules {_caught(result, 'rules'):.0%}")
    axes.text(capacity + 0.01, 0.02, "\n".join(says), color=_INK, fontsize=9, linespacing=1.4)
    axes.set_xlabel("share of open leads called, best first")
    axes.set_ylabel("share of purchases caught")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, loc="lower right")
    return figure


def calibration(result: Backtest, models: list[str] | None = None) -> Figure:
    """Share that bought by predicted probability, in groups of equal expected purchases; 95 % intervals by lead."""
    figure, axes = _figure(
        "Do the probabilities come true?",
        "each point holds a tenth of the purchases expected; on the line, predicted is what happened",
    )
    largest, smallest = 0.0, 1.0
    for name, colour in _named(models or list(result.probability)):
        predicted, observed, low, high = calibration_points(result, name)
        shown = observed > 0
        axes.errorbar(
            predicted[shown], observed[shown],
            yerr=np.maximum([observed[shown] - low[shown], high[shown] - observed[shown]], 0),
            color=colour, marker="o", markersize=5, linewidth=1.6, elinewidth=1, capsize=2,
            label=name.replace("_", " "),
        )  # fmt: skip
        largest = max(largest, float(predicted.max()), float(high.max()))
        smallest = min(smallest, float(predicted[shown].min(initial=1.0)), float(low[shown & (low > 0)].min(initial=1)))
    limits = smallest / 1.3, min(1.0, largest * 1.3)
    axes.plot(limits, limits, color=_GREY, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share that bought")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:.3g}" if value < 0.001 else f"{100 * value:.3g} %")
    axes.legend(frameon=False, loc="upper left")
    return figure


def calibration_points(result: Backtest, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (groups,) mean prediction, observed rate and its 95 % interval by lead.

    Each group is expected to hold as many purchases as the next, by what the model says and never by what came: groups
    that end with a purchase would show more purchases than there are, twice as many where each holds two. Rows of
    equal probability stay together.
    """
    p, y = result.probability[name], result.bought.astype(np.float64)
    values, place, rows_of = np.unique(p, return_inverse=True, return_counts=True)
    expected = values * rows_of
    middle = (np.cumsum(expected) - expected / 2) / max(expected.sum(), 1e-300)
    group = np.minimum(middle * _BINS, _BINS - 1).astype(np.int64)[place]
    _, cluster = np.unique(result.lead, return_inverse=True)
    rng = np.random.default_rng(result.experiment.seed)
    draws = []
    for _ in range(100):
        weight = np.bincount(rng.integers(cluster.max() + 1, size=cluster.max() + 1), minlength=cluster.max() + 1)
        rows = weight[cluster].astype(np.float64)
        draws.append(np.bincount(group, rows * y, _BINS) / np.maximum(np.bincount(group, rows, _BINS), 1e-9))
    size = np.maximum(np.bincount(group, minlength=_BINS), 1)
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return np.bincount(group, p, _BINS) / size, np.bincount(group, y, _BINS) / size, low, high


def _caught(result: Backtest, name: str) -> float:
    return result.evaluation.estimate(name, "caught").value


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _named(models: list[str]) -> list[tuple[str, str]]:
    """Models with their colours: the rules grey, whoever else competes."""
    colours = iter(_COLOURS * 4)
    return [(name, _RULES if name == "rules" else next(colours)) for name in models]


def _figure(title: str, subtitle: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(f"{title}\n", loc="left", fontsize=13, fontweight="bold", color=_INK)
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9, color="#52606d")
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    axes.tick_params(colors="#52606d")
    return figure, axes
