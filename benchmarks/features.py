"""What a matrix of 100 features costs beside polars, duckdb and pandas, which must find the same in the same run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import peers
from benchmarks.measure import circumstances, command, resident, take_turns
from benchmarks.peers import CHANNELS, DAYS, HALF_LIVES, OWN, PEERS, SUM_DAYS, Columns
from features import ActiveDays, Age, Cohort, Count, Dataset, DaysSince, DaysSinceFirst, Decayed, FeatureSet, Sum
from features.feature import Vocabulary
from features.history import Matrix
from features.times import US_PER_DAY, to_us

LEADS, TOUCHES_EACH = 1_000_000, 10
FEATURES = FeatureSet(
    (
        Count(by="channel", days=DAYS), Decayed(by="channel", half_life_days=HALF_LIVES), DaysSince(by="channel"),
        DaysSinceFirst(by="channel"), Sum(by="channel", days=SUM_DAYS), Count(days=DAYS), DaysSince(), Age(),
        ActiveDays(days=DAYS),
    ),
    Vocabulary({("channel",): OWN}, {}),
)  # fmt: skip
_CUTOFFS = [to_us(f"{year}-{month:02}-01") for year, month in [(2025, 12), *((2026, month) for month in range(1, 12))]]
NOW = _CUTOFFS[-1]
_CHUNK = 16_384
ROUNDS = 3


def lines(leads: int = LEADS, parts: Sequence[str] = ()) -> Iterator[str]:
    """Measures some parts, or all, and gives the lines of the table in Markdown as they come."""
    yield f"### Features: {len(FEATURES.names)} columns, {leads:,} leads, {TOUCHES_EACH * leads:,} touches"
    yield ""
    yield (
        f"{circumstances('numpy', 'numba', 'polars', 'duckdb', 'pandas')}; "
        f"polars and duckdb on {pl.thread_pool_size()} threads, pandas on one"
    )
    yield ""
    yield "| what | Touchstone | beside it | reached |"
    yield "|---|---:|---:|---:|"
    for name in parts or PARTS:
        yield from PARTS[name](leads)


def touchpoints(leads: int, touches: int, text: bool = False) -> pa.Table:
    """Draws a table of touches in order of time: every lead has one at least, some have many."""
    rng = np.random.default_rng(0)
    weight = np.cumsum(rng.gamma(1.5, size=leads))
    others = np.searchsorted(weight, rng.random(touches - leads) * weight[-1])
    lead = np.concatenate([np.arange(leads), others])
    days = rng.uniform(120, 730, size=leads)[lead] * rng.random(touches)
    at = NOW - 1 - (days * US_PER_DAY).astype(np.int64)
    order = np.argsort(at)
    share = 1 / np.arange(2, len(CHANNELS) + 2)
    kind = rng.choice(len(CHANNELS), size=touches, p=share / share.sum()).astype(np.int32)
    # Of one length each, so that as text ids sort as numbers do.
    ids = pa.array([f"L-{i:07}" for i in range(leads)] if text else np.arange(10_000_000, 10_000_000 + leads))
    return pa.table({
        "lead_id": ids.take(pa.array(lead[order])),
        "occurred_at": pa.array(at[order], pa.timestamp("us", "UTC")),
        "channel": pa.DictionaryArray.from_arrays(pa.array(kind), list(CHANNELS)),
        "value": pa.array(rng.random(touches) * 100, mask=rng.random(touches) < 0.3),
    })  # fmt: skip


def check_equal(who: str, dataset: Dataset, cohort: Cohort, columns: Columns) -> None:
    """Raises AssertionError unless a peer found the same: counts exactly, the rest to a millionth.

    The cohort asks about each lead once; the peer's rows are in the order of ids.
    """
    matrix = FEATURES.compute(dataset, cohort[np.argsort(dataset.rank[cohort.lead])])
    for name, mine, theirs in zip(FEATURES.names, matrix.T, columns, strict=True):
        tolerance = 0 if "_count" in name or "_active_days" in name else 1e-6
        equal = np.isclose(theirs, mine, rtol=tolerance, atol=0, equal_nan=True)
        if not equal.all():
            row = int(np.argmin(equal))
            raise AssertionError(f"{who}: {name} of lead {row} is {theirs[row]!r}, ours is {mine[row]!r}.")


def _dataset(touches: Any) -> Dataset:
    """The one place that says in which form we take the table."""
    return Dataset.from_frames(touchpoints=touches)


def _whole(dataset: Dataset) -> Matrix:
    return FEATURES.compute(dataset, dataset.open_at(NOW))


def _streamed(dataset: Dataset, cohort: Cohort) -> list[int]:
    """Computes chunk after chunk, each thread into one buffer, and returns what is left of them: their checksums."""
    begins, threads = range(0, len(cohort), _CHUNK), os.cpu_count() or 1

    def work(mine: Sequence[int]) -> list[int]:
        buffer, sums = np.empty((_CHUNK, len(FEATURES.names)), np.float32), []
        for begin in mine:
            rows = cohort[begin : begin + _CHUNK]
            sums.append(_checksum(FEATURES.compute(dataset, rows, out=buffer[: len(rows)])))
        return sums

    share = -(-len(begins) // threads)
    with ThreadPoolExecutor(threads) as pool:
        return [*chain(*pool.map(work, (begins[k * share : (k + 1) * share] for k in range(threads))))]


def _all_streamed(touches: pa.Table) -> list[int]:
    """All of it, from the table on: ids, sort and features of every lead as of now."""
    dataset = _dataset(touches)
    return _streamed(dataset, dataset.open_at(NOW))


def _checksum(chunk: Matrix) -> int:
    return int(np.bitwise_xor.reduce(chunk.view(np.uint64), axis=None))


def _check_streamed(matrix: Matrix, sums: Sequence[int]) -> None:
    """Raises AssertionError unless the chunks were those of a whole matrix."""
    expected = [_checksum(matrix[begin : begin + _CHUNK]) for begin in range(0, len(matrix), _CHUNK)]
    if sums != expected:
        raise AssertionError("the matrix computed in chunks differs from the whole one.")


def _lists(leads: int) -> list[str]:
    goals = {"streamed": {"polars, one group_by": 6, "pandas": 10}, "whole": {"polars, one group_by": 4}}
    return _list(touchpoints(leads, TOUCHES_EACH * leads), "", goals, tuple(PEERS))


def _strings(leads: int) -> list[str]:
    goals = {"streamed": {"polars, one group_by": 3}, "whole": {"polars, one group_by": 3}}
    against = ("polars, one group_by", "polars")
    return _list(touchpoints(leads, TOUCHES_EACH * leads, text=True), "string ids, ", goals, against)


def _list(touches: pa.Table, which: str, goals: dict[str, dict[str, int]], against: Sequence[str]) -> list[str]:
    """The rows for all leads as of one instant: ids, sort and features."""
    forms = {name: PEERS[name].form(touches) for name in against}
    ready = _dataset(touches)

    def check(side: str, found: Any) -> None:
        if side in PEERS:
            check_equal(side, ready, ready.open_at(NOW), found)
        elif side == "streamed":
            _check_streamed(_whole(ready), found)

    sides: dict[str, Callable[[], object]] = {
        "whole": lambda: _whole(_dataset(touches)),
        "streamed": lambda: _all_streamed(touches),
    }
    sides |= {name: partial(PEERS[name].columns, forms[name], NOW) for name in against}
    seconds = take_turns(sides, ROUNDS, check)
    names = {"streamed": f"streamed in chunks of {_CHUNK:,} leads", "whole": "whole matrix kept"}
    taken = {name: seconds[name] for name in against}
    return [
        _beside(which + names[side], {side: seconds[side], **taken}, side, goals[side])
        for side in ("streamed", "whole")
    ]


def _snapshots(leads: int) -> list[str]:
    """All leads created before each of 12 cutoffs: ids, sort, rows and features."""
    touches = touchpoints(leads, TOUCHES_EACH * leads)
    frame, ready = peers.polars_frame(touches), _dataset(touches)
    rows = sum(len(ready.open_at(cutoff)) for cutoff in _CUTOFFS)

    def ours() -> list[int]:
        dataset = _dataset(touches)
        return _streamed(dataset, Cohort.concat(dataset.open_at(cutoff) for cutoff in _CUTOFFS))

    def polars(ordered: pl.DataFrame, columns: Callable[[pl.DataFrame, int], Columns]) -> Columns:
        """Returns the columns of the first cutoff; to keep all of them would take gigabytes."""
        for cutoff in reversed(_CUTOFFS):
            found = columns(ordered.filter(pl.col("occurred_at").to_physical() < cutoff), cutoff)
        return found

    def check(side: str, found: Any) -> None:
        first = ready.open_at(_CUTOFFS[0])
        if side != "ours":
            check_equal(side, ready, first, found)
        else:
            full = len(first) // _CHUNK
            _check_streamed(FEATURES.compute(ready, first[: full * _CHUNK]), found[:full])

    sides = {
        "ours": ours,
        "polars, one group_by": lambda: polars(frame, peers.polars_plain),
        "polars": lambda: polars(peers.polars_by_lead(frame), peers.polars_sorted),
    }
    seconds = take_turns(sides, ROUNDS, check)
    what = f"snapshots at {len(_CUTOFFS)} cutoffs, {rows:,} rows, streamed"
    return [_beside(what, seconds, "ours", {"polars, one group_by": 20})]


def _alone(leads: int) -> list[str]:
    return [_one(10, 30), _one(200, 45)]


def _one(touches: int, goal: int, calls: int = 200) -> str:
    """The row for one lead whose dataset, or frame, is ready."""
    record = touchpoints(1, touches)
    dataset, frame = _dataset(record), peers.polars_frame(record)
    cohort = dataset.open_at(NOW)
    ways = {"polars, one group_by": peers.polars_plain, "polars": peers.polars_alone}
    for name, way in ways.items():
        check_equal(name, dataset, cohort, way(frame, NOW))
    sides: dict[str, Callable[[], object]] = {"ours": lambda: [FEATURES.compute(dataset, cohort) for _ in range(calls)]}
    sides |= {name: lambda way=way: [way(frame, NOW) for _ in range(calls)] for name, way in ways.items()}
    us = {side: 1e6 * taken / calls for side, taken in take_turns(sides, ROUNDS).items()}
    ratios = (_ratio(name, us[name] / us["ours"], 50) for name in ways)
    return _row(
        f"one lead, {touches} touches",
        f"{us['ours']:.0f} us",
        ", ".join(f"{name} {us[name]:.0f} us" for name in ways),
        ", ".join([f"{us['ours']:.0f} us {_met(f'{goal} us', us['ours'] <= goal)}", *ratios]),
    )


def _memory(leads: int) -> list[str]:
    """Peak memory of reading the table from a Parquet file and computing, each in a process of its own."""
    touches = touchpoints(leads, TOUCHES_EACH * leads)
    held, matrix = touches.nbytes / 1e6, 4 * leads * len(FEATURES.names) / 1e6
    with TemporaryDirectory() as folder:
        pq.write_table(touches, Path(folder) / "touchpoints.parquet")
        del touches
        command = [sys.executable, "-m", "benchmarks.features", "--peak"]
        whole, streamed = (
            int(subprocess.check_output([*command, how, folder], cwd=Path(__file__).parents[1])) / 1e6
            for how in ("whole", "streamed")
        )
    share, above = whole / (held + matrix), streamed - held
    return [
        _row(
            "peak memory, whole matrix kept",
            f"{whole:.0f} MB",
            f"table {held:.0f} MB, matrix {matrix:.0f} MB",
            f"{share:.2f}x of both {_met('1.2x', share <= 1.2)}",
        ),
        _row(
            "peak memory, streamed",
            f"{streamed:.0f} MB",
            f"table {held:.0f} MB",
            f"table {above:+.0f} MB {_met('+200 MB', above <= 200)}",
        ),
    ]


def _peak(how: str, folder: str) -> int:
    """Returns the bytes that reading a folder and computing took at their peak, above a process that is warm."""

    def run(folder: str) -> None:
        dataset = Dataset.read(folder)
        if how == "whole":
            _whole(dataset)
        else:
            _streamed(dataset, dataset.open_at(NOW))

    with TemporaryDirectory() as small:
        pq.write_table(touchpoints(100, 1000), Path(small) / "touchpoints.parquet")
        run(small)
    before = resident()
    run(folder)
    return resident("VmHWM") - before


def _growth(leads: int) -> list[str]:
    """What a lead costs among more of them."""
    sizes = [leads // 10, leads, 4 * leads]
    seconds = take_turns(
        {str(size): partial(_all_streamed, touchpoints(size, TOUCHES_EACH * size)) for size in sizes}, ROUNDS
    )
    us = [1e6 * seconds[str(size)] / size for size in sizes]
    return [
        _row(
            f"streamed, {size:,} leads",
            f"{mine:.2f} us a lead",
            "",
            ""
            if k == 0
            else f"{mine / us[k - 1]:.2f}x a lead of {sizes[k - 1]:,} {_met('1.3x', mine <= 1.3 * us[k - 1])}",
        )
        for k, (size, mine) in enumerate(zip(sizes, us, strict=True))
    ]


def _beside(what: str, seconds: dict[str, float], ours: str, goals: dict[str, int]) -> str:
    """The row of one side beside all the others."""
    others = {name: taken for name, taken in seconds.items() if name != ours}
    return _row(
        what,
        f"{seconds[ours]:.2f} s",
        ", ".join(f"{name} {taken:.2f} s" for name, taken in others.items()),
        ", ".join(_ratio(name, taken / seconds[ours], goals.get(name)) for name, taken in others.items()),
    )


def _row(what: str, ours: str, beside: str, reached: str) -> str:
    return f"| {what} | {ours} | {beside} | {reached} |"


def _ratio(name: str, ratio: float, goal: int | None) -> str:
    return f"{name} {ratio:.1f}x" + ("" if goal is None else f" {_met(f'{goal}x', ratio >= goal)}")


def _met(goal: str, met: bool) -> str:
    return f"(goal {goal})" if met else f"(goal {goal}: missed)"


PARTS: dict[str, Callable[[int], list[str]]] = {
    "lists": _lists,
    "strings": _strings,
    "snapshots": _snapshots,
    "alone": _alone,
    "memory": _memory,
    "growth": _growth,
}


def main() -> None:
    """Runs the benchmark: `make bench-features`."""
    command("features", __doc__, PARTS, LEADS, lines, _peak)


if __name__ == "__main__":
    main()
