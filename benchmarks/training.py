"""How long a backtest and training take, beside the model fits that they contain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.measure import circumstances, take_turns
from features.tables import read_dataset
from training import Experiment, backtest, train
from training.backtest import learn
from training.labels import completed
from training.simulate import simulate

LEADS = 20_000
EXPERIMENT = Experiment(horizon_days=84.0)
ROUNDS = 3
_GOALS = {"read, backtest of 5 origins": 240.0, "read, audit, backtest, fit with intervals, register": 60.0}
_SHARE = 1.5
_BACKTEST, _INTERVALS, _TRAIN = (sys.modules[f"training.{name}"] for name in ("backtest", "intervals", "train"))
Spans = list[tuple[float, float]]


def table() -> str:
    """Measures and returns the table as Markdown."""
    # MLflow writes to where it is.
    with TemporaryDirectory() as scratch, chdir(scratch):
        leads = Path("leads")
        simulate(LEADS, 540, seed=7).write(leads)
        touches = len(read_dataset(leads).history)
        ways: list[Callable[[], Any]] = [
            lambda: backtest(read_dataset(leads), EXPERIMENT),
            lambda: train(read_dataset(leads), EXPERIMENT, folder=Path("trained")),
        ]
        fits: dict[str, list[float]] = {name: [] for name in _GOALS}
        sides = {name: _watched(way, fits[name]) for name, way in zip(_GOALS, ways, strict=True)}
        seconds = take_turns(sides, ROUNDS)
    # The first round does not count.
    rows = [_row(name, seconds[name], median(fits[name][1:])) for name in _GOALS]
    lines = [
        f"### Training: {LEADS:,} leads, {touches:,} touches",
        "",
        circumstances("numpy", "numba", "lightgbm", "mlflow"),
        "",
        "| what | time | of which models are fitted | ratio |",
        "|---|---:|---:|---:|",
        *rows,
    ]
    return "\n".join(lines)


def _row(name: str, taken: float, fitted: float) -> str:
    goal, ratio = _GOALS[name], taken / fitted
    return (
        f"| {name} | {taken:.1f} s (goal {goal:.0f} s{_missed(taken > goal)}) | {fitted:.1f} s | "
        f"{ratio:.2f}x (goal {_SHARE}x{_missed(ratio > _SHARE)}) |"
    )


def _missed(missed: bool) -> str:
    return ": missed" if missed else ""


def _watched(way: Callable[[], Any], fits: list[float]) -> Callable[[], Any]:
    """Runs a way, and adds for how many seconds at least one thread fitted a model or completed labels with one."""

    def run() -> Any:
        spans: Spans = []

        def learned(recipe: Any, *rest: Any) -> Any:
            return learn(replace(recipe, fit=_timed(recipe.fit, spans)), *rest)

        with (
            patch.object(_BACKTEST, "completed", _timed(completed, spans)),
            patch.object(_BACKTEST, "learn", learned),
            patch.object(_INTERVALS, "learn", learned),
            patch.object(_TRAIN, "learn", learned),
        ):
            found = way()
        fits.append(_covered(spans))
        return found

    return run


def _timed(work: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            spans.append((begun, time.perf_counter()))

    return timed


def _covered(spans: Spans) -> float:
    total, end = 0.0, 0.0
    for begin, stop in sorted(spans):
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total


if __name__ == "__main__":
    print(table())
