"""How long a backtest and training take, beside the model fits that they contain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, chdir
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.measure import circumstances
from features.tables import read_dataset
from training import Experiment, backtest, train
from training.backtest import learn
from training.simulate import simulate

LEADS = 20_000
EXPERIMENT = Experiment(horizon_days=84.0)
ROUNDS = 3
_GOALS = {"read, backtest of 5 origins": 240.0, "read, audit, backtest, fit with intervals, register": 60.0}
_SHARE = 1.5


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
        rows = [_row(name, goal, way) for (name, goal), way in zip(_GOALS.items(), ways, strict=True)]
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


def _row(name: str, goal: float, way: Callable[[], Any]) -> str:
    """One way's row: medians of some rounds, after one that does not count."""
    whole, fits = [], []
    for _ in range(ROUNDS + 1):
        with _Fits() as during:
            begun = time.perf_counter()
            way()
            whole.append(time.perf_counter() - begun)
        fits.append(during.seconds)
    taken, fitted = median(whole[1:]), median(fits[1:])
    ratio = median(w / f for w, f in zip(whole[1:], fits[1:], strict=True))
    return (
        f"| {name} | {taken:.1f} s (goal {goal:.0f} s{_missed(taken > goal)}) | {fitted:.1f} s | "
        f"{ratio:.2f}x (goal {_SHARE}x{_missed(ratio > _SHARE)}) |"
    )


def _missed(missed: bool) -> str:
    return ": missed" if missed else ""


class _Fits:
    """Measures for how long at least one thread fits a model."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._patched = ExitStack()

    @property
    def seconds(self) -> float:
        total, end = 0.0, 0.0
        for begin, stop in sorted(self._spans):
            total += max(0.0, stop - max(begin, end))
            end = max(end, stop)
        return total

    def __enter__(self) -> _Fits:
        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return learn(*arguments)
            finally:
                self._spans.append((begun, time.perf_counter()))

        for module in ("backtest", "intervals", "train"):
            self._patched.enter_context(patch.object(sys.modules[f"training.{module}"], "learn", timed))
        return self

    def __exit__(self, *_: object) -> None:
        self._patched.close()


if __name__ == "__main__":
    print(table())
