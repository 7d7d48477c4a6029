"""What learning must hold, measured where the truth is known: simulated markets, means over fixed seeds.

Each trial's result is kept in `benchmarks/measured/` and not computed again, unless the source of what is measured or
the trial's settings have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from benchmarks.measure import circumstances
from benchmarks.trials import HORIZON, PLANTS, TRIALS, Found

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "measured"
SEEDS = (1, 2, 3, 4, 5)


class Trial(NamedTuple):
    """A function of `TRIALS` and its settings."""

    name: str
    settings: Mapping[str, int]

    @property
    def path(self) -> Path:
        """Where its result is kept, by all that it hangs on."""
        key = json.dumps([_source(), self.name, sorted(self.settings.items())])
        return KEPT / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"


class Part(NamedTuple):
    """Some rows of the table: the trials they need at a share of the full size, and what they make of the results."""

    trials: Callable[[float], list[Trial]]
    rows: Callable[[list[Trial], list[Found]], Iterator[str]]


def lines(parts: Sequence[str] = (), share: float = 1.0, workers: int = 1) -> Iterator[str]:
    """Measures some parts, or all, and gives the lines of the table in Markdown as they come."""
    yield f"### Learning: simulated markets, horizon {HORIZON} days, {len(SEEDS)} seeds"
    yield ""
    yield circumstances("numpy", "lightgbm")
    yield ""
    yield "| what | where | mean of the seeds | lowest to highest | on leads it has not seen |"
    yield "|---|---|---:|---:|---:|"
    asked = {name: PARTS[name].trials(share) for name in parts or PARTS}
    with _pool(workers) as pool:
        results = {name: _start(trials, pool) for name, trials in asked.items()}
        for name, trials in asked.items():
            yield from PARTS[name].rows(trials, [result() for result in results[name]])


def _pool(workers: int) -> Any:
    """Processes of one thread each; None for this process alone."""
    if workers == 1:
        return nullcontext()
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _start(trials: Iterable[Trial], pool: Executor | None) -> list[Callable[[], Found]]:
    """What gives each trial's result, once it is there."""

    def start(trial: Trial) -> Callable[[], Found]:
        if pool is None:
            return lambda: measure(trial)
        future: Future[Found] = pool.submit(measure, trial)
        return future.result

    return [start(trial) for trial in trials]


def measure(trial: Trial) -> Found:
    """Returns the result of a trial, which is kept for the next time."""
    path = trial.path
    if path.exists():
        kept: Found = json.loads(path.read_text())
        return kept
    begun = time.perf_counter()
    found = TRIALS[trial.name](**trial.settings)
    path.parent.mkdir(exist_ok=True)
    # Renamed when it is whole: a run that is stopped leaves no half of a result.
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(found))
    unfinished.replace(path)
    told = ", ".join(f"{name} {value}" for name, value in trial.settings.items())
    print(f"{trial.name}: {told}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return found


@cache
def _source() -> str:
    """The digest of the code that the results hang on."""
    files = [path for folder in ("features", "models", "training") for path in (ROOT / folder).glob("**/*.py")]
    digest = hashlib.sha256(" ".join(version(name) for name in ("numpy", "lightgbm")).encode())
    for path in sorted([*files, ROOT / "benchmarks" / "trials.py"]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


# What the served model knows, by the number of buyers.


class Regime(NamedTuple):
    """A size of market, and what must be held there."""

    buyers: str
    leads: int
    days: int
    information: float
    efficiency: float | None = None
    bias: float | None = None


REGIMES = (
    Regime("60", 670, 540, 0.74, 0.90),
    Regime("180", 2_000, 540, 0.89, 0.96),
    Regime("290", 7_950, 185, 0.90, bias=0.03),
    Regime("650", 7_300, 540, 0.945, 0.98),
    Regime("1,000", 17_400, 285, 0.95, 0.98, bias=0.02),
    Regime("5,000", 56_000, 540, 0.965, 0.985),
)


def _captured(share: float) -> list[Trial]:
    return [
        Trial(
            "captured",
            {
                "leads": _some(regime.leads, share, 800),
                "days": regime.days,
                "fresh": _some(20_000, share, 800),
                "seed": seed,
            },
        )
        for regime in reversed(REGIMES)
        for seed in SEEDS
    ]


def _captured_rows(trials: list[Trial], results: list[Found]) -> Iterator[str]:
    sizes = zip(reversed(REGIMES), *_by_size(trials, results), strict=True)
    for regime, trial, mine in reversed(list(sizes)):

        def of(name: str, mine: list[Found] = mine) -> list[float]:
            return [found[name] for found in mine]

        where = (
            f"{mean(of('buyers')):,.0f} mature buyers: {trial.settings['leads']:,} leads in {regime.days} days, "
            f"{mean(of('immature')):.0%} of the rows immature"
        )
        information, efficiency, slope = (of(f"fresh {name}") for name in ("information", "efficiency", "slope"))
        yield _row("information captured", where, of("information"), regime.information, fresh=information)
        what = "true buyers in the top tenth over the oracle's"
        yield _row(what, where, of("efficiency"), regime.efficiency, fresh=efficiency)
        if regime.bias is not None:
            pairs = zip(of("ratio"), of("uncensored ratio"), strict=True)
            paired = [ratio / uncensored for ratio, uncensored in pairs]
            low, high = 1 - regime.bias, 1 + regime.bias
            yield _row("mean score over that of uncensored labels", where, paired, low, high)
            yield _row("mean score over truth", where, of("ratio"))
        if regime.buyers == "650":
            yield _row("calibration slope", where, of("slope"), 0.93, 1.07, fresh=slope)
        yield _row("90 % intervals that hold the true probability", where, of("coverage"), 0.87, 0.95)


# Against the rules.

FEW = (0, 5, 10, 20, 40, 80, 160)


def _few(share: float) -> list[Trial]:
    return [
        Trial(
            "few",
            {
                "leads": 500 + 20 * buyers,
                "days": 540,
                "buyers": buyers,
                "fresh": _some(20_000, share, 800),
                "seed": seed,
            },
        )
        for buyers in FEW
        for seed in SEEDS
    ]


def _few_rows(trials: list[Trial], results: list[Found]) -> Iterator[str]:
    for trial, mine in zip(*_by_size(trials, results), strict=True):
        chosen = Counter(found["chosen"] for found in mine)
        told = ", ".join(f"{name} {count}x" for name, count in chosen.most_common())
        gains = [found["efficiency"] - found["rules"] for found in mine]
        where = f"{trial.settings['buyers']} buyers to learn from: {told}"
        what = "efficiency of what `train` chooses less that of the rules"
        yield _row(what, where, gains, 0, every=True)


# Who replaces whom.


def _equals(share: float) -> list[Trial]:
    return [Trial("equals", {"leads": 2_000, "days": 400, "seed": seed}) for seed in range(1, 1 + _some(200, share, 2))]


def _equals_rows(trials: list[Trial], results: list[Found]) -> Iterator[str]:
    where = f"{len(trials)} markets of 2,000 leads, each model of half of them"
    yield _share("an equal model promoted", where, [found["promoted"] for found in results], most=0.08)
    yield _share("of these, as proved better", where, [found["proved"] for found in results])


def _shuffled(share: float) -> list[Trial]:
    return [
        Trial("shuffled", {"leads": 2_000, "days": 400, "seed": seed}) for seed in range(1, 1 + _some(100, share, 2))
    ]


def _shuffled_rows(trials: list[Trial], results: list[Found]) -> Iterator[str]:
    what = "champion replaced by a model of shuffled labels"
    for how, judged in (("by true", "true outcomes"), ("by shuffled", "shuffled outcomes")):
        where = f"{len(trials)} markets of 2,000 leads, judged by {judged}"
        yield _share(what, where, [found[how] for found in results], most=0.05)


# Leaks.


def _leaks(share: float) -> list[Trial]:
    return [Trial("leaks", {"leads": 3_000, "days": 400, "columns": 100, "seed": seed}) for seed in SEEDS]


def _leaks_rows(trials: list[Trial], results: list[Found]) -> Iterator[str]:
    where = "3,000 leads in 400 days"
    for kind in PLANTS:
        yield _share(f"found by the audit: {kind}", where, [found["found"][kind] for found in results], least=1.0)
    yield _row("false alarms among 100 clean columns", where, [found["false"] for found in results], high=1, digits=1)


# Weeks.


def _weeks(share: float) -> list[Trial]:
    return [
        Trial("weeks", {"leads": _some(28_000, share, 800), "days": 285, "weeks": 12, "seed": seed}) for seed in SEEDS
    ]


def _weeks_rows(trials: list[Trial], results: list[Found]) -> Iterator[str]:
    room = results[0]["room"]
    where = (
        f"{trials[0].settings['leads']:,} leads, {12 * len(trials)} weeks of a team that can work {room:.0f} in each"
    )
    entered = [number for found in results for number in found["entered"]]
    what = "weeks in which no more leads get hot than can be worked"
    yield _share(what, where, [number <= room for number in entered], least=0.95)
    told = [sum(min(number, room) for number in found["entered"]) / sum(found["entered"]) for found in results]
    yield _row("leads that get hot within what can be worked", where, told)
    used = [mean(min(number, room) for number in found["entered"]) / room for found in results]
    yield _row("share of the capacity used", where, used, 0.85)


PARTS: dict[str, Part] = {
    "captured": Part(_captured, _captured_rows),
    "few": Part(_few, _few_rows),
    "equals": Part(_equals, _equals_rows),
    "shuffled": Part(_shuffled, _shuffled_rows),
    "leaks": Part(_leaks, _leaks_rows),
    "weeks": Part(_weeks, _weeks_rows),
}


def _by_size(trials: list[Trial], results: list[Found]) -> tuple[list[Trial], list[list[Found]]]:
    """The first trial of each size, and the results of its seeds."""
    step = len(SEEDS)
    return trials[::step], [results[k : k + step] for k in range(0, len(results), step)]


def _some(full: int, share: float, least: int) -> int:
    return max(min(full, least), round(share * full))


def _row(
    what: str,
    where: str,
    values: Sequence[float],
    low: float | None = None,
    high: float | None = None,
    *,
    digits: int = 3,
    every: bool = False,
    fresh: Sequence[float] = (),
) -> str:
    """The mean of some values beside its goal; with `every` no single one may miss it."""
    judged = [min(values), max(values)] if every else [mean(values)]
    met = all((low is None or value >= low) and (high is None or value <= high) for value in judged)
    cells = (
        f"{mean(values):.{digits}f}{_met(_goal(low, high), met)}",
        f"{min(values):.{digits}f} to {max(values):.{digits}f}",
        f"{mean(fresh):.{digits}f}" if fresh else "",
    )
    return f"| {what} | {where} | {' | '.join(cells)} |"


def _share(
    what: str, where: str, hits: Sequence[bool], *, least: float | None = None, most: float | None = None
) -> str:
    share = mean(hits)
    met = (least is None or share >= least) and (most is None or share <= most)
    goal = f"at least {least:.0%}" if least is not None else f"at most {most:.0%}" if most is not None else ""
    return f"| {what} | {where} | {sum(hits)} of {len(hits)}, {share:.1%}{_met(goal, met)} | | |"


def _met(goal: str, met: bool) -> str:
    return f" (goal {goal}{'' if met else ': missed'})" if goal else ""


def _goal(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def main() -> None:
    """Runs the benchmark: `make bench-learning`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", default=[], help="a part to run; may be repeated")
    parser.add_argument("--share", type=float, default=1.0, help="of the leads and trials (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    asked = parser.parse_args()
    for line in lines(asked.only, asked.share, asked.workers):
        print(line, flush=True)


if __name__ == "__main__":
    main()
