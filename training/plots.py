"""The pictures of a backtest and of a model: what the same calls would have caught, whether probabilities come true,
how that went from origin to origin, and what the log-odds are made up of."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, PercentFormatter

from features.errors import UsageError
from features.history import Floats
from features.times import isoformat
from training.backtest import Backtest
from training.contributions import Contributions, in_words
from training.metrics import MEASURES, caught_at

_INK, _GREY, _GRID = "#1f2933", "#9aa5b1", "#e4e7eb"
_COLOURS = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c")
_RULES = "#868e96"
_BINS = 10
_BARS = 15
_SORTS = (
    ("touches", _COLOURS[0], "touches"), ("attribute", _COLOURS[1], "attributes"), ("age", _COLOURS[2], "age"),
)  # fmt: skip


class Picture(Figure):
    """A figure that a notebook shows without pyplot's help."""

    def _repr_png_(self) -> bytes:
        with BytesIO() as png:
            self.savefig(png, format="png", dpi=110)
            return png.getvalue()


def gains(result: Backtest, models: list[str] | None = None) -> Figure:
    """Purchases caught by the share of open leads that is called, each model against the rules and against chance."""
    figure, axes = _figure(
        "Purchases caught by the leads called",
        _judged(result),
    )
    shares = np.concatenate([np.linspace(0, 0.1, 21), np.linspace(0.12, 1, 45)])
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (2, 2)), label="by lot")
    for name, colour in _named(models or _drawn(result)):
        axes.plot(shares, _caught_by(result, name, shares), color=colour, linewidth=2.2, label=_plain(name))
    capacity = result.experiment.capacity
    axes.axvline(capacity, color=_INK, linewidth=0.8)
    best = result.best(list(result.probability))
    says = [f"capacity {capacity:.0%}", f"{_plain(best)} {_caught(result, best):.0%}"]
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


def lift(result: Backtest, models: list[str] | None = None) -> Figure:
    """Buyers among the leads called over those among as many drawn by lot, by the share of open leads called."""
    figure, axes = _figure("How many times as many buyers as by lot", _judged(result))
    shares = np.geomspace(0.01, 1, 60)
    axes.axhline(1, color=_GREY, linewidth=1, linestyle=(0, (2, 2)), label="by lot")
    for name, colour in _named(models or _drawn(result)):
        axes.plot(shares, _caught_by(result, name, shares) / shares, color=colour, linewidth=2.2, label=_plain(name))
    axes.axvline(result.experiment.capacity, color=_INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.01, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of open leads called, best first")
    axes.set_ylabel("buyers reached over those reached by lot")
    axes.xaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, loc="upper right")
    return figure


def by_origin(result: Backtest, measure: str = "log_loss", models: list[str] | None = None) -> Figure:
    """A measure of each model from origin to origin. Raises UsageError for a list without times, which has none."""
    if result.folds:
        raise UsageError("a list without times has no origins. Look at gains, lift and calibration.")
    title = {m.name: m.title for m in MEASURES}
    if measure not in title:
        raise UsageError(f"there is no measure {measure!r}. Use one of {', '.join(title)}.")
    rising = next(m for m in MEASURES if m.name == measure).higher_is_better
    best = "1 is true" if measure == "ratio" else f"{'higher' if rising else 'lower'} is better"
    figure, axes = _figure(
        f"{title[measure][0].upper()}{title[measure][1:]} from origin to origin",
        f"{best}; below each origin, the purchases that came",
    )
    if measure == "ratio":
        axes.axhline(1, color=_GREY, linewidth=1, linestyle=(0, (2, 2)))
    found = [result.at(origin) for origin in result.origins]
    places = np.arange(len(found))
    for name, colour in _named(models or _drawn(result)):
        figures = [at[name][measure] for at in found]
        axes.plot(places, figures, color=colour, marker="o", markersize=5, linewidth=1.6, label=_plain(name))
    bought = [int(result.bought[result.origin == origin].sum()) for origin in result.origins]
    step = -(-len(places) // 8)
    labels = [f"{isoformat(o)[:10]}\n{count:,}" for o, count in zip(result.origins, bought, strict=True)]
    axes.set_xticks(places[::step], labels[::step])
    axes.set_xmargin(0.08)
    axes.set_ylabel(title[measure])
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def contributions(found: Contributions) -> Figure:
    """Mean absolute contribution to the log-odds of what columns tell of, the largest fifteen."""
    curve = ", before the calibration curve" if found.before_curve else ""
    figure, axes = _figure(
        "What the scores are made up of",
        f"mean absolute contribution to the log-odds of {len(found.values):,} leads{curve}",
    )
    sizes = dict(zip(found.groups, found.size.tolist(), strict=True))
    shown = found.order[:_BARS][::-1]
    for sort, colour, label in _SORTS:
        places = [place for place, group in enumerate(shown) if group.sort == sort]
        if places:
            axes.barh(places, [sizes[shown[place]] for place in places], color=colour, height=0.7, label=label)
    axes.set_yticks(range(len(shown)), [in_words(group) for group in shown])
    axes.grid(visible=False, axis="y")
    if len(found.groups) > _BARS:
        rest = sum(sizes[group] for group in found.order[_BARS:])
        axes.set_xlabel(f"log-odds; {len(found.groups) - _BARS} more make {rest:.2f} together")
    else:
        axes.set_xlabel("log-odds")
    axes.legend(frameon=False, loc="lower right")
    return figure


def pictures(result: Backtest, found: Contributions | None = None) -> dict[str, Figure]:
    """Every picture there is of a backtest and of a model, by name."""
    made = {}
    if result.judged:
        made = {"gains": gains(result), "lift": lift(result), "calibration": calibration(result)}
    if result.judged and not result.folds:
        made["by_origin"] = by_origin(result)
    if found is not None:
        made["contributions"] = contributions(found)
    return made


def calibration(result: Backtest, models: list[str] | None = None) -> Figure:
    """Share that bought by predicted probability, in groups of equal expected purchases; 95 % intervals by lead."""
    figure, axes = _figure(
        "Do the probabilities come true?",
        "each point holds a tenth of the purchases expected; on the line, predicted is what happened",
    )
    largest, smallest = 0.0, 1.0
    for name, colour in _named(models or _drawn(result)):
        predicted, observed, low, high = calibration_points(result, name)
        shown = observed > 0
        axes.errorbar(
            predicted[shown], observed[shown],
            yerr=np.maximum([observed[shown] - low[shown], high[shown] - observed[shown]], 0),
            color=colour, marker="o", markersize=5, linewidth=1.6, elinewidth=1, capsize=2,
            label=_plain(name),
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


def _caught_by(result: Backtest, name: str, shares: Floats) -> Floats:
    """(shares,) the share of purchases caught by calling each share of open leads."""
    p, y, weight = result.probability[name], result.bought.astype(np.float64), np.ones(len(result.bought))
    order = np.lexsort((-p, result.origin))
    caught = [caught_at(y, p, weight, order, result.origin, share)[0] / y.sum() for share in shares]
    return np.array(caught, np.float64)


def _judged(result: Backtest) -> str:
    leads, purchases = f"{len(result.lead):,} leads scored", f"{int(result.bought.sum()):,} purchases"
    if result.folds:
        return f"{result.folds} parts, {leads}, {purchases}"
    return f"{len(result.origins)} origins, {leads}, {purchases} within {result.experiment.horizon_days:g} days"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _drawn(result: Backtest) -> list[str]:
    """The models of a backtest but the base rate, which is what calling by lot finds.

    Raises UsageError where no origin could be judged.
    """
    if not result.judged:
        raise UsageError("no origin could be judged, so there is nothing to draw yet. Train again with more data.")
    return [name for name in result.probability if name != "base_rate"]


def _named(models: list[str]) -> list[tuple[str, str]]:
    """Models with their colours: the rules grey, whoever else competes."""
    colours = iter(_COLOURS * 4)
    return [(name, _RULES if name == "rules" else next(colours)) for name in models]


def _figure(title: str, subtitle: str) -> tuple[Figure, Axes]:
    figure = Picture(figsize=(7.2, 5.4), layout="constrained")
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
