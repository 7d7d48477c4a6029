"""An unfinished list beside its output: parts that are done stay done, and the output changes in one step."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from features.errors import TouchstoneError, UsageError
from features.times import isoformat
from serving.scoring import PART, Found

_ROWS = 131_072
"""Rows of a row group of the output, whatever the parts are."""
_FOUND = b"found"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a list is made of; to go on with one, all of it has to be the same.

    >>> mine = Manifest(input="a", model="m", tiers="t", as_of=0, options="{}")
    >>> mine.differs(Manifest(input="b", model="m", tiers="t", as_of=0, options="{}"))
    ['input']
    """

    input: str
    """The digest of the files' names, sizes and times, or of the query."""
    model: str
    tiers: str
    as_of: int
    options: str

    def differs(self, other: Manifest) -> list[str]:
        """The names of what is not the same."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)]


class Parts:
    """The folder `OUTPUT.parts` of a list that is being made."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.parts")
        self._lock: IO[str] | None = None

    @contextmanager
    def making(self, manifest: Callable[[Manifest | None], Manifest], resume: bool) -> Iterator[Manifest]:
        """Holds the folder while a list is made.

        `manifest` is told of the one that is there, if there is to go on. What is left is for --resume, unless the
        error says that going on would fail again. Raises UsageError if what is there is of another list.
        """
        begun = False
        try:
            with self.problems():
                self.output.parent.mkdir(parents=True, exist_ok=True)
                if not resume:
                    self._take_over()
                self.folder.mkdir(exist_ok=True)
                self._hold()
                before = self._manifest() if resume else None
            mine = manifest(before)
            if before is not None and (odd := before.differs(mine)):
                raise UsageError(
                    f"{self.folder} is of another list: {', '.join(odd)} differ. Give the same as then, or leave "
                    "--resume out to begin anew."
                )
            begun = True
            if before is None:
                with self.problems():
                    self._clear()
                    _write(self.folder / "manifest.json", lambda path: path.write_bytes(msgspec.json.encode(mine)))
            yield mine
        except (Unfinished, KeyboardInterrupt):
            if self._lock is not None and not self._worth_keeping():
                self.remove()
            raise
        except TouchstoneError:
            if self._lock is not None and (begun or not (self.folder / "manifest.json").exists()):
                self.remove()
            raise
        finally:
            if self._lock is not None:
                self._lock.close()

    @contextmanager
    def problems(self) -> Iterator[None]:
        """Raises Unwritten for what the system refuses to write."""
        try:
            yield
        except OSError as problem:
            reason = os.strerror(problem.errno) if problem.errno else str(problem)
            kept = self._worth_keeping()
            mend = (
                "What is done is kept: make room, and go on with --resume." if kept else "Choose another place for it."
            )
            raise Unwritten(f"{self.output} cannot be written: {reason}. {mend}") from None

    def part(self, number: int) -> Path:
        """Where a part is, once it is done."""
        return self.folder / f"part-{number:05}.arrow"

    def put(self, number: int, table: pa.Table, found: Found) -> None:
        """Keeps a part for good."""
        table = table.combine_chunks().replace_schema_metadata({_FOUND: msgspec.json.encode(found)})

        def write(path: Path) -> None:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=max(1, len(table)))

        with self.problems():
            _write(self.part(number), write)

    def found(self, number: int) -> Found:
        """What was found in a part besides its scores."""
        with pa.OSFile(str(self.part(number))) as source:
            metadata = pa.ipc.open_file(source).schema.metadata
        return msgspec.json.decode(metadata[_FOUND], type=Found)

    def finish(self, count: int, whole: Callable[[pa.Table], pa.Table]) -> None:
        """Puts the parts together in the order of ids, and what that gives in the place of the output.

        `whole` makes the list's rows of a part's.
        """
        scratch = self.folder / f"finished{self.output.suffix}"
        with self.problems():
            rows = _in_row_groups(merged([self.part(number) for number in range(count)]))
            write_rows(_ahead(whole(table) for table in rows), scratch)
            sync(scratch)
            scratch.replace(self.output)
            sync(self.output.parent)
        self.remove()

    def remove(self) -> None:
        """Leaves nothing of what is unfinished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _manifest(self) -> Manifest | None:
        try:
            return msgspec.json.decode((self.folder / "manifest.json").read_bytes(), type=Manifest)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _take_over(self) -> None:
        if self.folder.exists() and not (self.folder / "lock").exists() and any(self.folder.iterdir()):
            raise UsageError(f"{self.folder} holds something else than an unfinished list. Name another --output.")

    def _hold(self) -> None:
        lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = lock
        except BlockingIOError:
            lock.close()
            raise UsageError(f"{self.output} is being made by another process. Wait for it, or stop it.") from None

    def _clear(self) -> None:
        for entry in self.folder.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _worth_keeping(self) -> bool:
        """Whether so much is done that to go on takes less than to begin anew."""
        return len([*self.folder.glob("part-*.arrow")]) > 1


class Unfinished(TouchstoneError):
    """A list that cannot be gone on with now; what is done is kept for --resume.

    >>> raise Unfinished("a.csv: no worker is left.")
    Traceback (most recent call last):
    serving.parts.Unfinished: a.csv: no worker is left.
    """


class Unwritten(Unfinished):
    """What was to be written cannot be; what is done is kept.

    >>> raise Unwritten("a.csv cannot be written: No space left on device.")
    Traceback (most recent call last):
    serving.parts.Unwritten: a.csv cannot be written: No space left on device.
    """


def write_rows(rows: Iterator[pa.Table], path: Path) -> None:
    """Writes tables below each other as CSV or Parquet; there is one at least."""
    first = next(rows)
    if path.suffix == ".parquet":
        # To look for repeated numbers among probabilities costs more than to write them.
        repeated = [f.name for f in first.schema if not pa.types.is_floating(f.type) and f.name != "lead_id"]
        with pa.parquet.ParquetWriter(path, first.schema, use_dictionary=repeated) as parquet:
            parquet.write_table(first)
            for table in rows:
                parquet.write_table(table)
    else:
        ready = for_csv(first)
        with pa.OSFile(str(path), "wb") as sink, pa.csv.CSVWriter(sink, ready.schema) as text:
            text.write_table(ready)
            for table in rows:
                text.write_table(for_csv(table))


def for_csv(table: pa.Table) -> pa.Table:
    """Times in ISO 8601, and no cell that a spreadsheet would run as a formula: a quote goes before it."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            distinct = pc.unique(column)
            texts = pa.array([isoformat(us) for us in distinct.cast(pa.int64()).to_pylist()], pa.string())
            column = texts.take(pc.index_in(column, value_set=distinct))
        elif pa.types.is_string(column.type):
            column = pc.replace_substring_regex(column, r"^([=+\-@\t\r\n])", r"'\1")
        columns[name] = column
    return pa.table(columns)


def merged(parts: list[Path]) -> Iterator[pa.Table]:
    """The rows of parts, each in the order of ids, in that order together; some ids at a time.

    Ids that cut every part into equal shares cut them all together into shares that are nearly so.
    """
    ids = [_ids(part) for part in parts]
    total = sum(len(mine) for mine in ids)
    shares = max(1, total // _ROWS)
    step = max(1, total // (shares * 64))
    drawn = sorted(mine[k].as_py() for mine in ids for k in range(step // 2, len(mine), step))
    bounds = [drawn[len(drawn) * k // shares] for k in range(1, shares)] if drawn else []
    cuts = [[0, *(_before(mine, bound) for bound in bounds), len(mine)] for mine in ids]
    del ids
    for k in range(len(bounds) + 1):
        pieces = []
        for part, cut in zip(parts, cuts, strict=True):
            if cut[k] < cut[k + 1]:
                with pa.memory_map(str(part)) as source:
                    pieces.append(pa.ipc.open_file(source).read_all().slice(cut[k], cut[k + 1] - cut[k]))
        if pieces:
            together = pa.concat_tables([piece.replace_schema_metadata() for piece in pieces]).combine_chunks()
            yield together.take(pc.sort_indices(together["lead_id"]))


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, the next one made while this one is written."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, tables, None)
        while (table := following.result()) is not None:
            following = pool.submit(next, tables, None)
            yield table


def _ids(part: Path) -> pa.Array:
    with pa.memory_map(str(part)) as source:
        column = pa.ipc.open_file(source).read_all()["lead_id"]
    return column.chunk(0) if column.num_chunks else pa.array([], pa.string())


def _before(ids: pa.Array, bound: str) -> int:
    """How many of some sorted ids come before one."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if ids[middle].as_py() < bound:
            low = middle + 1
        else:
            high = middle
    return low


def _in_row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of one size, however they came; one without rows if there are none."""
    waiting, some = PART.empty_table(), False
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= _ROWS:
            yield waiting.slice(0, _ROWS).combine_chunks()
            waiting, some = waiting.slice(_ROWS), True
    if len(waiting) or not some:
        yield waiting.combine_chunks()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """A file that is there whole or not at all, also after a power cut."""
    scratch = path.with_name(f".{path.name}.unfinished")
    try:
        write(scratch)
        sync(scratch)
        scratch.replace(path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise


def sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
