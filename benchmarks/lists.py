"""What a list of leads costs, from Parquet to Parquet, beside LightGBM's bare prediction of the ready matrix."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import lightgbm
import numpy as np
import pyarrow.parquet as pq

from benchmarks.features import FEATURES, LEADS, NOW, ROUNDS, TOUCHES_EACH, touchpoints
from benchmarks.measure import circumstances, command, resident, take_turns
from features import Dataset
from features.history import Floats, Matrix
from models import Card, Scorer, Tiers, load_bundle, save_bundle
from models.booster import Booster
from models.scorer import percentiles
from models.trees import LightGBM
from serving.batch import score_input

TREES, LEAVES = 300, 31
_LEARNED = 50_000


def lines(leads: int = LEADS, parts: Sequence[str] = ()) -> Iterator[str]:
    """Measures some parts, or all, and gives the lines of the table in Markdown as they come."""
    yield (
        f"### Lists: {leads:,} leads, {TOUCHES_EACH * leads:,} touches, {TREES} trees of {LEAVES} leaves on "
        f"{len(FEATURES.names)} features"
    )
    yield ""
    yield circumstances("numpy", "numba", "lightgbm", "pyarrow")
    yield ""
    yield "| what | Touchstone | beside it | reached |"
    yield "|---|---:|---:|---:|"
    for name in parts or PARTS:
        yield from PARTS[name](leads)


@cache
def scorer() -> Scorer:
    """A model of full size, learned from made-up labels."""
    dataset = Dataset.from_frames(touchpoints=touchpoints(_LEARNED, TOUCHES_EACH * _LEARNED))
    matrix = FEATURES.compute(dataset, dataset.open_at(NOW))
    rng = np.random.default_rng(0)
    label = np.nan_to_num(matrix[:, :20]).sum(axis=1) * rng.gamma(2.0, size=len(matrix))
    data = lightgbm.Dataset(matrix, label > np.quantile(label, 0.9), free_raw_data=False)
    settings = {"objective": "binary", "num_leaves": LEAVES, "learning_rate": 0.05, "seed": 7, "verbosity": -1}
    model = LightGBM(Booster.from_text(lightgbm.train(settings, data, TREES).model_to_string()))
    p = model.predict(matrix)
    card = Card(
        version="1", model="lightgbm", horizon_days=90, known_until="2026-11-01T00:00:00Z",
        features=FEATURES.fingerprint, dataset=dataset.digest, percentiles=percentiles(p),
        spread=((-4.0, 0.3), (0.0, 0.2)),
    )  # fmt: skip
    return Scorer(FEATURES, model, card, Tiers.for_shares(p, version="2026-11-01"))


@cache
def alone() -> lightgbm.Booster:
    """The same model, in LightGBM."""
    return lightgbm.Booster(model_str=scorer().model.booster.text)


def bare(matrix: Matrix) -> Floats:
    """What LightGBM itself says of a ready matrix, on all cores."""
    return np.asarray(alone().predict(matrix))


def _table(leads: int, folder: Path, text: bool = False) -> str:
    folder.mkdir()
    pq.write_table(touchpoints(leads, TOUCHES_EACH * leads, text=text), folder / "touchpoints.parquet")
    return str(folder)


def _speed(leads: int, text: bool = False, goal: float = 1.5) -> list[str]:
    with TemporaryDirectory() as scratch:
        source, out = _table(leads, Path(scratch) / "leads", text), Path(scratch) / "scored.parquet"
        dataset = Dataset.read(source)
        cohort = dataset.open_at(NOW)
        matrix = FEATURES.compute(dataset, cohort[np.argsort(dataset.rank[cohort.lead])])
        del dataset, cohort

        def list_it() -> None:
            score_input(scorer(), source, out, as_of=NOW)

        def check(side: str, found: object) -> None:
            if side == "list" and not np.array_equal(pq.read_table(out)["probability"].to_numpy(), bare(matrix)):
                raise AssertionError("the list's probabilities are not those of the ready matrix.")

        seconds = take_turns({"bare": lambda: bare(matrix), "list": list_it}, ROUNDS, check)
    ratio = seconds["list"] / seconds["bare"]
    ids = "string" if text else "integer"
    return [_row(f"list, {ids} ids", seconds["list"], f"LightGBM alone {seconds['bare']:.2f} s", ratio, goal)]


def _reasons(leads: int) -> list[str]:
    """What reasons for every lead cost; of a tenth of the leads, for a lead costs the same among more of them."""
    leads = max(1, leads // 10)
    with TemporaryDirectory() as scratch:
        source, out = _table(leads, Path(scratch) / "leads"), Path(scratch) / "scored.parquet"
        sides: dict[str, Callable[[], object]] = {
            str(count): lambda count=count: score_input(scorer(), source, out, as_of=NOW, reasons=count)  # type: ignore[misc]
            for count in (0, 3)
        }
        seconds = take_turns(sides, 1)
    beside = f"without reasons {seconds['0']:.2f} s"
    return [_row(f"three reasons each, {leads:,} leads", seconds["3"], beside, seconds["3"] / seconds["0"], 8)]


def _memory(leads: int) -> list[str]:
    """Peak memory of processes that make the list, and one of four times the leads."""
    found = []
    with TemporaryDirectory() as scratch:
        bundle = save_bundle(scorer(), Path(scratch) / "model")
        for size in (leads, 4 * leads):
            source = _table(size, Path(scratch) / f"{size}")
            command = [sys.executable, "-m", "benchmarks.lists", "--peak", str(bundle), source]
            peak = int(subprocess.check_output(command, cwd=Path(__file__).parents[1])) / 1e9
            met = f"(goal 1.5 GB{'' if peak <= 1.5 else ': missed'})"
            found.append(f"| peak memory, {size:,} leads | {peak:.2f} GB |  | {peak:.2f} GB {met} |")
    return found


def _peak(bundle: str, source: str) -> int:
    """Returns the bytes that this process held at most while it made a list."""
    score_input(load_bundle(bundle), source, Path(source).with_suffix(".scored.parquet"), as_of=NOW)
    return resident("VmHWM")


def _on_clusters(leads: int) -> list[str]:
    """The same list by Dask clusters of one to four processes here, beside this process; and what its stages took."""
    found = []
    with TemporaryDirectory() as scratch:
        source, here, there = _table(leads, Path(scratch) / "leads"), Path(scratch) / "here", Path(scratch) / "there"
        ends: dict[str, tuple[float, ...]] = {}

        def make(side: str, output: Path, address: str | None = None) -> None:
            begun, stages = time.perf_counter(), dict[str, float]()

            def note(what: str, share: float) -> None:
                stages["scored" if "leads/s" in what else "read"] = time.perf_counter() - begun

            output = output.with_suffix(".parquet")
            # About 40 partitions, as a list of a million leads with ten million touches has.
            score_input(scorer(), source, output, as_of=NOW, dask=address, progress=note, rows=leads // 4)
            ends[side] = 0.0, stages["read"], stages["scored"], time.perf_counter() - begun

        def check(side: str, _: object) -> None:
            if (
                side == "there"
                and there.with_suffix(".parquet").read_bytes() != here.with_suffix(".parquet").read_bytes()
            ):
                raise AssertionError("the cluster's list is another.")

        for count in (1, 2, 4):
            with _cluster(count) as address:
                sides: dict[str, Callable[[], object]] = {
                    "here": lambda: make("here", here),
                    "there": lambda address=address: make("there", there, address),  # type: ignore[misc]
                }
                seconds = take_turns(sides, 1, check)
            read, scored, joined = np.diff(ends["there"])
            took = f"reading {read:.1f}, scoring {scored:.1f}, joining {joined:.1f}"
            beside = f"this process {seconds['here']:.2f} s ({', '.join(f'{s:.1f}' for s in np.diff(ends['here']))})"
            ratio = seconds["there"] / seconds["here"]
            what = f"list, {leads:,} leads, a Dask cluster of {count} ({took})"
            found.append(_row(what, seconds["there"], beside, ratio, 1.8 if count == os.cpu_count() else None))
    return found


@contextmanager
def _cluster(count: int) -> Iterator[str]:
    """The address of a scheduler with so many workers, each a process of one thread."""
    from distributed import Client

    with TemporaryDirectory() as folder:
        file, running = f"{folder}/scheduler.json", []
        try:
            for kind, more in (
                ("scheduler", ["--port", "0"]),
                *[("worker", ["--nthreads", "1", "--local-directory", folder])] * count,
            ):
                command = [sys.executable, "-m", "dask", kind, "--host", "127.0.0.1", "--no-dashboard", *more]
                running.append(subprocess.Popen([*command, "--scheduler-file", file], stderr=subprocess.DEVNULL))
            with Client(scheduler_file=file, set_as_default=False) as client:
                client.wait_for_workers(count, timeout=60)
                yield str(client.scheduler.address)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()


def _row(what: str, seconds: float, beside: str, ratio: float, goal: float | None) -> str:
    met = "" if goal is None else f" (goal {goal:g}x{'' if ratio <= goal else ': missed'})"
    return f"| {what} | {seconds:.2f} s | {beside} | {ratio:.2f}x{met} |"


PARTS: dict[str, Callable[[int], list[str]]] = {
    "integers": _speed,
    "strings": lambda leads: _speed(leads, text=True, goal=1.8),
    "reasons": _reasons,
    "memory": _memory,
    "cluster": _on_clusters,
}


def main() -> None:
    """Runs the benchmark: `make bench-lists`."""
    command("lists", __doc__, PARTS, LEADS, lines, _peak)


if __name__ == "__main__":
    main()
