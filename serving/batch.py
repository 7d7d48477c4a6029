"""Lists of every open lead of a dataset, with their scores or their features, written as CSV or Parquet."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from features.definitions import LEAD_FEATURES
from features.errors import TouchstoneError, UsageError
from features.feature import FeatureSet
from features.history import Cohort, Dataset
from features.inputs import find_input
from features.partitions import Partitions, Progress, Rejected, scatter
from features.rejects import OnError, write_rejected
from features.tables import ReadReport, merge_reports
from features.times import isoformat
from models.cluster import needing_dask
from models.scorer import Scorer
from serving.fetching import Fetched
from serving.parts import Manifest, Parts, write_rows
from serving.scoring import Found, score_dataset, score_share, whole_rows

if TYPE_CHECKING:
    from serving.cluster import Cluster

_ADDRESS = re.compile(r"[A-Za-z][\w.+-]+:/")
"""How the address of a store begins, of whose slashes `Path` leaves one."""


@dataclass(frozen=True)
class ListSummary:
    """What was scored.

    >>> ListSummary(scored=3, tiers={"hot": 1, "warm": 0, "cold": 2}, closed=1, later=0, as_of="2026-02-01T00:00:00Z",
    ...             output="scored.csv").tiers["hot"]
    1
    """

    scored: int
    tiers: Mapping[str, int]
    closed: int
    """Leads that had an outcome, or were merged into another, before as_of; they are not scored."""
    later: int
    """Leads created at as_of or later; they are not scored."""
    as_of: str
    output: str
    last: int = 0
    """When the last touch occurred, or, where there is none, the last lead was created (microseconds)."""
    report: ReadReport | None = None


def score_list(scorer: Scorer, dataset: Dataset, as_of: int, output: Path, reasons: int = 0) -> ListSummary:
    """Scores the leads that are open at `as_of` (microseconds) and writes them in the order of their ids.

    Up to 3 reasons are given for each score. The file appears whole or not at all.
    """
    check_ending(output)
    part, found = score_dataset(scorer, dataset, as_of, reasons, threads=os.cpu_count() or 1)
    _write(whole_rows(part, scorer.card, scorer.tiers, as_of), output)
    return _summary([found], as_of, output, dataset.report)


def score_input(
    scorer: Scorer,
    path: str,
    output: Path,
    *,
    as_of: int | None = None,
    reasons: int = 0,
    columns: Mapping[str, str] | None = None,
    zone: str | None = None,
    date_format: str | None = None,
    on_error: OnError = "stop",
    queries: Mapping[str, str] | None = None,
    tenant: str | None = None,
    resume: bool = False,
    dask: str | None = None,
    progress: Progress | None = None,
    rows: int = 250_000,
) -> ListSummary:
    """Scores the open leads of an input of any size, and writes them in the order of their ids.

    `path` is what `Dataset.read` takes, or the address of files elsewhere or of a database (see `serving.fetching`).
    About so many `rows` are in memory at a time for each processor. What is done stays in `OUTPUT.parts` until all is,
    and `resume` goes on there, with the same `as_of`, which is the clock where it is left out. Raises UsageError if
    anything else is asked for than then. `dask` is the address of a scheduler whose workers score the partitions, or
    `local` for processes here.
    """
    check_ending(output)
    parts = Parts(output)
    asked = {
        "reasons": reasons, "columns": dict(sorted((columns or {}).items())), "zone": zone, "date_format": date_format,
        "on_error": on_error, "rows": rows,
    }  # fmt: skip
    options = msgspec.json.encode(asked).decode()
    fetched = Fetched.of(path, queries or {}, tenant)
    here = None if fetched is not None else find_input(path, columns)
    check_apart(output, fetched.here() if fetched is not None else here.paths() if here else [])
    if fetched is not None:
        scorer = fetched.scorer(scorer)

    def manifest(before: Manifest | None) -> Manifest:
        now = time.time_ns() // 1_000 if before is None else before.as_of
        of = fetched.digest() if fetched is not None else _digest(here.paths() if here else [])
        model = hashlib.sha256(msgspec.json.encode(scorer.card) + "".join(scorer.model.to_files().values()).encode())
        return Manifest(
            input=of, model=model.hexdigest(), tiers=scorer.tiers.to_json(), as_of=now if as_of is None else as_of,
            options=options,
        )  # fmt: skip

    with _cluster(dask, scorer) as cluster, parts.making(manifest, resume) as making:
        if fetched is not None:
            here = find_input(fetched.into(parts.folder / "input"), columns)
        assert here is not None
        spill = parts.folder / "rows"
        try:
            partitions = Partitions.open(spill, here, columns or {}, zone, date_format)
        except FileNotFoundError:
            with parts.problems():
                partitions = scatter(
                    here, spill, columns=columns, zone=zone, date_format=date_format, rows=rows, progress=progress
                )
        todo = [number for number in range(len(partitions)) if not parts.part(number).exists()]
        if cluster is None:
            results = _score_here(scorer, partitions, todo, parts, making.as_of, reasons, on_error)
        else:
            results = cluster.score(partitions, todo, parts, making.as_of, reasons, on_error)
        _follow(results, len(partitions), len(todo), progress)
        found = [parts.found(number) for number in range(len(partitions))]
        report = _report(partitions, found, output.parent if fetched is not None else None)
        parts.finish(len(partitions), lambda part: whole_rows(part, scorer.card, scorer.tiers, making.as_of))
    return _summary(found, making.as_of, output, report)


def _cluster(address: str | None, scorer: Scorer) -> AbstractContextManager[Cluster | None]:
    if address is None:
        return nullcontext()
    with needing_dask():
        from serving.cluster import Cluster
    return Cluster.connected(address, scorer)


def _score_here(
    scorer: Scorer,
    partitions: Partitions,
    todo: Sequence[int],
    parts: Parts,
    as_of: int,
    reasons: int,
    on_error: OnError,
) -> Generator[int, None, None]:
    """Scores and keeps partitions, several at once, each on one thread; gives the number of leads of each."""
    threads, stopping = os.cpu_count() or 1, Event()

    def work(number: int) -> int:
        if stopping.is_set():
            return 0
        share, rejected = partitions.read(number, on_error)
        part, found = score_share(scorer, share, rejected, as_of, reasons, threads if len(partitions) == 1 else 1)
        parts.put(number, part, found)
        return found.scored

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, number) for number in todo]
        try:
            for future in futures:
                yield future.result()
        finally:
            stopping.set()


def _follow(results: Generator[int, None, None], count: int, todo: int, progress: Progress | None) -> None:
    """Waits for the partitions that are not done, and tells how it goes."""
    begun, scored = time.monotonic(), 0
    with closing(results):
        for done, mine in enumerate(results, 1):
            scored += mine
            if progress is not None:
                spent = time.monotonic() - begun
                left = timedelta(seconds=round(spent / done * (todo - done)))
                progress(f"{scored / spent:,.0f} leads/s, {left} left", 0.1 + 0.9 * (count - todo + done) / count)


def _report(partitions: Partitions, found: Sequence[Found], aside: Path | None) -> ReadReport:
    """What reading all partitions found; the rows to set aside are written beside their files, or in a folder."""
    kinds = {name for mine in found for name in mine.kinds}
    report = merge_reports([mine.report for mine in found if mine.report is not None], kinds, partitions.kinds)
    mine: dict[int, dict[int, Rejected]] = {}
    for one in (one for entry in found for one in entry.rejected):
        mine.setdefault(one.file, {}).setdefault(one.row, one)
    by_path: dict[Path, dict[int, Rejected]] = {}
    for number, rows in mine.items():
        by_path.setdefault(partitions.files[number], {}).update(rows)
    quarantined = {}
    for path, rows in by_path.items():
        target = (path if aside is None else aside / path.name).with_name(f"{path.name}.quarantine.csv")
        told = [rows[row] for row in sorted(rows, key=lambda row: (row < 0, abs(row)))]
        write_rejected(target, ((one.place, one.column, one.problem, one.record) for one in told))
        quarantined[str(target)] = len(told)
    return replace(report, quarantined=quarantined)


def _digest(paths: Sequence[Path]) -> str:
    """Of the files' names, sizes and times: to read them all would take as long as to score them."""
    seen = [(str(path.absolute()), (at := path.stat()).st_size, at.st_mtime_ns) for path in paths if path.is_file()]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _summary(found: Sequence[Found], as_of: int, output: Path, report: ReadReport | None) -> ListSummary:
    return ListSummary(
        scored=sum(mine.scored for mine in found),
        tiers={tier: sum(mine.tiers[tier] for mine in found) for tier in ("hot", "warm", "cold")},
        closed=sum(mine.closed for mine in found),
        later=sum(mine.later for mine in found),
        as_of=isoformat(as_of),
        output=str(output),
        last=max(mine.last for mine in found),
        report=report,
    )


def write_features(dataset: Dataset, until: int, every: float | None, output: Path) -> tuple[int, int]:
    """Writes lead_id, as_of and the features of every lead open at `until`, and each `every` days before it.

    The vocabulary is learned from what was known at `until` (microseconds). Returns how many rows and features.
    """
    known = dataset.known_at(until)
    start = until if every is None else int(known.created_at.min(initial=until)) + 1
    cohort = Cohort.grid(known, every=every or 1, start=start, stop=until)
    feature_set = FeatureSet.fit(LEAD_FEATURES, known)
    matrix = feature_set.compute(known, cohort)
    columns = {
        "lead_id": pa.array(known.ids, pa.string()).take(pa.array(cohort.lead)),
        "as_of": pa.array(cohort.as_of, pa.timestamp("us", "UTC")),
        **{name: matrix[:, k] for k, name in enumerate(feature_set.names)},
    }
    _write(pa.table(columns), output)
    return len(cohort), len(feature_set.names)


def check_ending(output: Path) -> None:
    """Raises UsageError if a list cannot be written under such a name."""
    if output.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{output}: a list is written as .csv or .parquet; got {output.suffix or 'no ending'!r}.")
    if _ADDRESS.match(str(output)):
        raise UsageError(f"{output}: a list is written to a file of this machine. Name one, and copy it from there.")
    if output.is_dir():
        raise UsageError(f"{output} is a folder. Name a file for the list, e.g. {output / f'scored{output.suffix}'}.")


def check_apart(output: Path, tables: Iterable[Path]) -> None:
    """Raises UsageError if a list would take the place of a table that it is made of."""
    if output.exists() and any(path.exists() and output.samefile(path) for path in tables):
        raise UsageError(f"{output}: the list is made of this file, which would be lost. Name another --output.")


def _write(table: pa.Table, output: Path) -> None:
    scratch = output.with_name(f".{output.name}.{os.getpid()}{output.suffix}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_rows(iter([table]), scratch)
        scratch.replace(output)
    except OSError as problem:
        raise TouchstoneError(
            f"{output} cannot be written: {problem.strerror or problem}. Choose another place for it."
        ) from None
    finally:
        with suppress(OSError):
            scratch.unlink()
