"""How often the buyers that came lie in the interval of the outlook, over small simulated worlds.

python -m benchmarks.outlook --worlds 48 --leads 3000
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from features import Dataset
from models import TIERS, candidates
from training import Backtest, Experiment
from training.simulate import simulate
from training.train import fit

HORIZON = 60


class Found(NamedTuple):
    """One world: what was expected of the leads that are hot at its end, and what came."""

    learned: int
    """Buyers learned from."""
    hot: int
    expected: float
    alone: tuple[float, float]
    """The interval if the probabilities were exact."""
    interval: tuple[float, float]
    truth: float
    """The sum of the true probabilities of the hot leads."""
    came: int


def world(leads: int, days: int, seed: int, name: str = "logistic") -> Found:
    """Simulates, learns, looks ahead, and lets the horizon pass."""
    run = simulate(leads, days, seed, follow_up_days=HORIZON)
    with TemporaryDirectory() as folder:
        run.write(folder, horizon_days=HORIZON)
        dataset = Dataset.read(folder)
    until = run.end
    known = dataset.known_at(until)
    candidate = next(one for one in candidates() if one.name == name)
    experiment = Experiment(horizon_days=HORIZON, bootstrap=10)
    make, (_, buyers) = fit(known, candidate, experiment, until, _nothing(experiment, name))
    scorer, asked = make("1"), known.open_at(until)
    p = scorer.predict(known, asked)
    alone, found = scorer.tiers.outlook(p), scorer.tiers.outlook(p, shift=scorer.card.shift)
    hot = asked.lead[scorer.tiers.of(p) == TIERS.index("hot")]
    # A lead of the simulation is L- and its number; those under another name are not its own yet.
    numbers = np.array([int(i[2:]) if i.startswith("L-") else -1 for i in known.ids[hot]], np.int64)
    mine = numbers[numbers >= 0]
    truth = run.truth(days, HORIZON)
    oracle = np.zeros(len(run.created_at))
    oracle[truth.lead] = truth.probability
    came = run.won[mine] & (run.closed_at[mine] >= until) & (run.closed_at[mine] < until + HORIZON * 86_400_000_000)
    return Found(
        buyers, found.leads, found.buyers, alone.interval, found.interval, float(oracle[mine].sum()), int(came.sum())
    )


def _nothing(experiment: Experiment, name: str) -> Backtest:
    """A backtest that says nothing: what is fitted does not hang on it."""
    rows = np.arange(4)
    return Backtest(experiment, rows, 0 * rows, rows % 2 == 0, {name: np.full(4, 0.5)}, {0: (4, 2)})


def table(worlds: int, sizes: list[int], days: int, name: str) -> str:
    """Measures and returns the table as Markdown."""
    rows = [
        "| leads | buyers learned from | hot | expected | came | in the interval of chance alone | in the interval |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for leads in sizes:
        all_of = [world(leads, days, seed, name) for seed in range(1, worlds + 1)]
        came = np.array([one.came for one in all_of])
        inside = [
            np.mean([low <= one.came <= high for one, (low, high) in zip(all_of, ends, strict=True)])
            for ends in ([one.alone for one in all_of], [one.interval for one in all_of])
        ]
        mean = [np.mean([getattr(one, what) for one in all_of]) for what in ("learned", "hot", "expected")]
        rows.append(
            f"| {leads:,} | {mean[0]:.0f} | {mean[1]:.0f} | {mean[2]:.1f} | {came.mean():.1f} | {inside[0]:.0%} "
            f"| {inside[1]:.0%} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--worlds", type=int, default=48)
    asked.add_argument("--leads", type=int, nargs="+", default=[1_500, 3_000])
    asked.add_argument("--days", type=int, default=360)
    asked.add_argument("--model", default="logistic")
    given = asked.parse_args()
    print(table(given.worlds, given.leads, given.days, given.model))
