"""Datasets of any size as partitions that hold whole leads: all rows of theirs, and of the ids linked with them.

Every file is read once, and its rows are put down by the hash of their lead's id, in their order. A partition is then
read by the same code as a whole dataset, so a lead in it is the same lead, and no two partitions know one lead.
"""

from __future__ import annotations

import base64
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from features.columns import Reading, find_headings
from features.config import TABLES, Kinds, TableFile
from features.history import Codes, Ints, read_only
from features.inputs import Input
from features.parsing import TEXT, Form, coded, plain, text, whole
from features.rejects import OnError, Rejects
from features.sources import Layout, Ragged, Source
from features.streams import Stream, text_lines
from features.tables import Share, read_share, reading_of

_NUMBER = "\0row"
"""The column that holds each row's number in its file; a heading that is none."""
_PLACE = re.compile("\0([0-9]+):([0-9]+)\0")
"""A row of a file, whose line is not known yet."""
_FEW = 1_000
"""Words of a category up to which every piece may carry them all."""
_TIMES = ("occurred_at", "created_at", "recorded_at")
Hashes = npt.NDArray[np.uint64]
Progress = Callable[[str, float], None]


class Rejected(NamedTuple):
    """A row that cannot be taken."""

    file: int
    row: int
    """Its number in the file; -1 - k is the k-th ragged one."""
    place: str
    column: str
    problem: str
    record: str


class _File(msgspec.Struct, frozen=True):
    """What is known of one file besides its rows."""

    path: str
    schema: str
    delimiter: str | None
    told: bool
    header_line: int | None
    notes: tuple[str, ...]
    ragged: tuple[tuple[int, int, int, str], ...]
    forms: dict[str, tuple[bool, bool]]
    plain: str | None
    serves: tuple[tuple[str, int], ...]
    """The tables it is read for, each with the place of what is to be made of it there."""


class _Index(msgspec.Struct, frozen=True):
    files: tuple[_File, ...]
    count: int
    rows: int


@dataclass(frozen=True, eq=False)
class _Rows(Source):
    """The rows of one file that are in one partition."""

    numbers: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    file: int = 0
    lines: Callable[[], Ints] | None = None

    def place(self, row: int) -> str:
        """Says where a row stands in the whole file."""
        if row < 0 or self.layout is None:
            return super().place(row) if row < 0 else f"{self.name} row {self.numbers[row] + 1:,}"
        if self.lines is None:
            return f"\0{self.file}:{self.numbers[row]}\0"
        return f"{self.name} line {self.lines()[self.numbers[row]]}"

    def record(self, row: int) -> str:
        """The row as text."""
        if row < 0 or self.layout is None:
            return super().record(row)
        return self.layout.join([column[row].as_py() for column in self.table.columns])


@dataclass(frozen=True, eq=False)
class Partitions:
    """The rows of a dataset put down by lead, in a folder that other processes may read too."""

    folder: Path
    found: Input
    columns: Mapping[str, str]
    zone: str | None
    date_format: str | None
    index: _Index
    pieces: Ints
    """(n, 5) by partition: partition, file, batch, offset, length."""
    apart: bool = False
    """Whether this process has the rows without the files: then a place in a text file is left for `placed`."""

    @classmethod
    def open(
        cls, folder: Path, found: Input, columns: Mapping[str, str], zone: str | None, date_format: str | None
    ) -> Self:
        """Opens what `scatter` made of the same input. Raises FileNotFoundError if it did not come to its end."""
        index = msgspec.json.decode((folder / "index.json").read_bytes(), type=_Index)
        return cls(folder, found, columns, zone, date_format, index, np.load(folder / "pieces.npy"))

    def __len__(self) -> int:
        return self.index.count

    @property
    def kinds(self) -> Kinds:
        """What is to be made of kinds of touches."""
        return self.found.config.kinds

    @property
    def files(self) -> list[Path]:
        """The files, as `Rejected.file` counts them."""
        return [Path(file.path) for file in self.index.files]

    def tables(self, partition: int) -> list[pa.Table]:
        """The rows of each file that are in a partition, with their numbers."""
        low, high = np.searchsorted(self.pieces[:, 0], [partition, partition + 1])
        read: list[list[pa.Table]] = [[] for _ in self.index.files]
        with (self.folder / "rows").open("rb") as handle:
            for _, file, _, offset, length in self.pieces[low:high].tolist():
                piece = os.pread(handle.fileno(), length, offset)
                read[file].append(pa.ipc.open_stream(pa.py_buffer(piece)).read_all())
        return [
            pa.concat_tables(mine, promote_options="permissive") if mine else self._schema(file).empty_table()
            for file, mine in zip(self.index.files, read, strict=True)
        ]

    def read(self, partition: int, on_error: OnError) -> tuple[Share, list[Rejected]]:
        """Builds the dataset of a partition. Raises TableError if a row cannot be taken, unless that sets it aside."""
        return self.build(self.tables(partition), partition == 0, on_error)

    def build(self, tables: Sequence[pa.Table], first: bool, on_error: OnError) -> tuple[Share, list[Rejected]]:
        """Builds the dataset of the rows of each file; of one partition, the first, the ragged ones are told too."""
        sources = [
            self._source(number, file, table, first)
            for number, (file, table) in enumerate(zip(self.index.files, tables, strict=True))
        ]
        given: dict[str, list[tuple[TableFile, Source]]] = {table: [] for table in TABLES}
        for table, specs in self.found.files.items():
            for place, spec in enumerate(specs):
                given[table] += [
                    (spec, source)
                    for file, source in zip(self.index.files, sources, strict=True)
                    if (table, place) in file.serves
                ]
        rejected: list[Rejected] = []

        def settle(rejects: Rejects) -> dict[str, int]:
            if on_error != "quarantine":
                return rejects.settle(on_error)
            for source, mine in rejects.found.items():
                number = sources.index(source)  # type: ignore[arg-type]
                rejected.extend(
                    Rejected(
                        number, row if row < 0 else int(sources[number].numbers[row]), source.place(row), *says,
                        source.record(row),
                    )
                    for row, says in mine.items()
                )  # fmt: skip
            return {}

        reading = reading_of(self.found, self.columns, self.zone, self.date_format)
        return read_share(reading, given, self.kinds, settle), rejected

    def placed(self, rejected: Iterable[Rejected]) -> list[Rejected]:
        """The same rows, with the lines that a process without the files could not tell."""

        def line(found: re.Match[str]) -> str:
            number, row = int(found[1]), int(found[2])
            return f"{self.files[number].name} line {self._lines[number][row]}"

        return [
            one._replace(place=_PLACE.sub(line, one.place), problem=_PLACE.sub(line, one.problem)) for one in rejected
        ]

    def _source(self, number: int, file: _File, table: pa.Table, first: bool) -> _Rows:
        path = Path(file.path)
        layout = None if file.delimiter is None else Layout(file.delimiter, file.told)
        return _Rows(
            path.name, table.drop_columns([_NUMBER]), path, layout, file.header_line, file.notes,
            tuple(Ragged(*entry) for entry in file.ragged) if first else (),
            {heading: Form(*form) for heading, form in file.forms.items()},
            np.asarray(table[_NUMBER]), number, None if self.apart else lambda: self._lines[number],
        )  # fmt: skip

    @cached_property
    def _lines(self) -> _Lines:
        return _Lines(self.index.files)

    def _schema(self, file: _File) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(file.schema)))


class _Lines(dict[int, Ints]):
    """The line of each row of a file, found out when the first is asked for."""

    def __init__(self, files: Sequence[_File]) -> None:
        super().__init__()
        self.files = files

    def __missing__(self, number: int) -> Ints:
        file = self.files[number]
        assert file.delimiter is not None
        layout = Layout(file.delimiter, file.told)
        with text_lines(Path(file.path), None if file.plain is None else Path(file.plain)) as handle:
            rows = layout.read(handle)
            _, header = next(rows)
            self[number] = np.array([line for line, fields in rows if len(fields) == len(header)], np.int64)
        return self[number]


class _Job(NamedTuple):
    """One file, by the ids of one of its columns."""

    stream: Stream
    key: str | None
    missing: tuple[str, ...]
    serves: list[tuple[str, int]]
    times: dict[str, tuple[str, ...]]
    """Headings of times whose whole column matters, with the words for missing."""
    constant: str = ""
    same_as: str | None = None


def scatter(
    found: Input,
    folder: Path,
    *,
    columns: Mapping[str, str] | None = None,
    zone: str | None = None,
    date_format: str | None = None,
    rows: int = 250_000,
    progress: Progress | None = None,
) -> Partitions:
    """Puts the rows of a dataset down in a folder, in partitions of about so many `rows`.

    Raises TableError where a whole dataset would refuse a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mapping, zone, date_format = columns or {}, zone or found.config.zone, date_format or found.config.date_format
    streams = {path: Stream.open(path, folder) for path in found.paths()}
    reading = Reading(zone, date_format, mapping)
    reading.check_mapping(
        {table: [streams[found.folder / spec.file].empty for spec in found.files[table]] for table in TABLES}
    )
    jobs = _jobs(found, streams, reading)
    linked = _links(job for job in jobs if any(table == "aliases" for table, _ in job.serves))
    expected = sum(_expected(stream) for stream in streams.values())
    count = max(1, min(512, round(expected / rows)))
    files, pieces, total = [], [], 0
    with (folder / "rows").open("wb") as out, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        end = 0
        for number, job in enumerate(jobs):
            forms: dict[str, Form] = {}
            schema, read = None, 0
            for batch, cut in enumerate(_cut(job, count, linked, pool)):
                for heading, missing in job.times.items():
                    forms[heading] = _looked(forms.get(heading), cut.batch, heading, date_format, missing)
                for partition, data in cut.pieces:
                    pieces.append((partition, number, batch, end, data.size))
                    out.write(data)
                    end += data.size
                schema, read = cut.schema, read + cut.batch.num_rows
                if progress is not None:
                    progress(f"reading {job.stream.name}", 0.1 * min(1.0, (total + read) / max(1, expected)))
            total += read
            files.append(_described(job, schema, forms))
        out.flush()
        os.fsync(out.fileno())
    table = np.array(sorted(pieces), np.int64).reshape(-1, 5)
    np.save(folder / "pieces.npy", table)
    index = _Index(tuple(files), count, total)
    scratch = folder / "index.unfinished"
    scratch.write_bytes(msgspec.json.encode(index))
    scratch.replace(folder / "index.json")
    return Partitions(folder, found, mapping, zone, date_format, index, table)


def _expected(stream: Stream) -> int:
    if stream.rows is not None:
        return stream.rows
    return stream.path.stat().st_size // (4 if stream.path.suffix == ".gz" else 40)


def _jobs(found: Input, streams: Mapping[Path, Stream], reading: Reading) -> list[_Job]:
    """Every file once for each of its columns that holds ids of leads; leads and aliases first."""
    jobs: dict[tuple[Path, str | None, tuple[str, ...], str], _Job] = {}
    for table in TABLES:
        for place, spec in enumerate(found.files[table]):
            path = found.folder / spec.file
            stream = streams[path]
            headings = find_headings(
                table, spec, stream.empty, Reading(reading.zone, reading.date_format, reading.mapping)
            )
            key, constant = headings.get("lead_id"), spec.values.get("lead_id", "")
            job = jobs.setdefault(
                (path, key, spec.missing, constant),
                _Job(stream, key, spec.missing, [], {}, constant, headings.get("same_as")),
            )
            job.serves.append((table, place))
            for name in _TIMES:
                if name in headings and _hangs_together(stream.schema.field(headings[name]).type, reading.date_format):
                    job.times[headings[name]] = spec.missing
    return list(jobs.values())


def _hangs_together(kind: pa.DataType, date_format: str | None) -> bool:
    """Whether what a time means hangs on its whole column."""
    if pa.types.is_timestamp(kind):
        return kind.tz is None
    return date_format is not None and not pa.types.is_date(kind)


def _looked(
    form: Form | None, batch: pa.RecordBatch, heading: str, date_format: str | None, missing: tuple[str, ...]
) -> Form:
    column = whole(pa.chunked_array([batch.column(heading)]))
    if form is not None and (form.formatted or (pa.types.is_timestamp(column.type) and not form.dates)):
        return form
    seen = Form.of(column, date_format, missing)
    return seen if form is None else form.and_then(seen)


class _Cut(NamedTuple):
    batch: pa.RecordBatch
    schema: pa.Schema
    pieces: list[tuple[int, pa.Buffer]]


def _cut(job: _Job, count: int, linked: _Linked | None, pool: ThreadPoolExecutor) -> Iterator[_Cut]:
    """Cuts the batches of a file into partitions, some at a time."""
    waiting: deque[Future[_Cut]] = deque()
    begin = 0
    for batch in job.stream.batches():
        waiting.append(pool.submit(_cut_batch, batch, begin, job, count, linked))
        begin += batch.num_rows
        if len(waiting) > (os.cpu_count() or 1):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _cut_batch(batch: pa.RecordBatch, begin: int, job: _Job, count: int, linked: _Linked | None) -> _Cut:
    columns = [_plain_if_many(column) for column in batch.columns]
    columns.append(pa.array(np.arange(begin, begin + batch.num_rows)))
    numbered = pa.RecordBatch.from_arrays(columns, [*batch.schema.names, _NUMBER])
    if count == 1:
        order, ends = None, np.array([0, batch.num_rows])
    else:
        found = _hashes(job, batch, linked)
        order, ends = _group(read_only(found), count)
        numbered = numbered.take(pa.array(order))
    pieces = []
    for partition in np.flatnonzero(np.diff(ends)).tolist():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, numbered.schema) as writer:
            writer.write_batch(numbered.slice(ends[partition], ends[partition + 1] - ends[partition]))
        pieces.append((partition, sink.getvalue()))
    return _Cut(batch, numbered.schema, pieces)


def _plain_if_many(column: pa.Array) -> pa.Array:
    many = pa.types.is_dictionary(column.type) and len(column.dictionary) > _FEW
    return plain(column) if many else column


def _hashes(job: _Job, batch: pa.RecordBatch, linked: _Linked | None) -> Hashes:
    column = (
        pa.array(np.full(batch.num_rows, job.constant, object), TEXT)
        if job.key is None
        else whole(pa.chunked_array([batch.column(job.key)]))
    )
    return lead_hashes(column, job.missing) if linked is None else linked.hashes(column, job.missing)


def lead_hashes(column: pa.Array, missing: Sequence[str] = ()) -> Hashes:
    """The (n,) 64-bit hash of each id, however it is written: the number 42 and the text 42 have the same.

    >>> a, b = lead_hashes(pa.array([42, 7])), lead_hashes(pa.array([" 42", "8"]))
    >>> bool(a[0] == b[0]), bool(a[1] == b[1])
    (True, False)
    """
    if pa.types.is_dictionary(column.type):
        words = lead_hashes(column.dictionary, missing)
        return _looked_up(words, column.indices)
    if pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type) and not missing:
        return _hash_integers(read_only(np.asarray(column.cast(pa.int64()).fill_null(0))))
    if missing or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = text(column, missing)
    column = column.cast(TEXT)
    found, odd = _hash_column(column)
    if odd:
        # Blanks around an id are none of it.
        found, _ = _hash_column(text(column))
    return found


def _looked_up(hashes: Hashes, places: pa.Array) -> Hashes:
    found: Hashes = np.append(hashes, np.uint64(0))[np.asarray(places.cast(pa.int64()).fill_null(len(hashes)))]
    return found


def _hash_column(column: pa.Array) -> tuple[Hashes, bool]:
    if not len(column):
        return np.empty(0, np.uint64), False
    _, places, data = column.buffers()
    ends = np.frombuffer(places, np.int64)[column.offset : column.offset + len(column) + 1]
    letters = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    found, odd = _hash_text(read_only(ends), read_only(letters))
    return found, bool(odd)


@dataclass(frozen=True, eq=False)
class _Linked:
    """The ids that are linked, and the hash of the first of each group."""

    names: pa.Array
    first: Hashes

    def hashes(self, column: pa.Array, missing: Sequence[str]) -> Hashes:
        """Like `lead_hashes`, but one for all the ids of a group."""
        words = coded(column, missing)
        own = lead_hashes(words.dictionary)
        place = np.asarray(pc.index_in(words.dictionary, value_set=self.names).fill_null(-1))
        own = np.where(place >= 0, np.append(self.first, np.uint64(0))[place], own)
        return _looked_up(own, words.indices)


def _links(jobs: Iterable[_Job]) -> _Linked | None:
    """Groups the ids that aliases link, whether the links hold or not."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (up := parent.setdefault(name, name)) != name:
            parent[name] = name = parent.setdefault(up, up)
        return name

    for job in jobs:
        for batch in job.stream.batches():
            words = [
                coded(whole(pa.chunked_array([batch.column(name)])), job.missing).to_pylist()
                for name in (job.key, job.same_as)
                if name is not None
            ]
            for one, other in zip(*words, strict=True) if len(words) == 2 else ():
                if one is not None and other is not None:
                    parent[root(one)] = root(other)
    if not parent:
        return None
    names = pa.array([*parent], TEXT)
    groups: dict[str, str] = {}
    for name in parent:
        groups[root(name)] = min(groups.get(root(name), name), name)
    return _Linked(names, lead_hashes(pa.array([groups[root(name)] for name in parent], TEXT)))


def _described(job: _Job, schema: pa.Schema | None, forms: Mapping[str, Form]) -> _File:
    stream = job.stream
    if schema is None:
        schema = stream.schema.append(pa.field(_NUMBER, pa.int64()))
    return _File(
        path=str(stream.path),
        schema=base64.b64encode(schema.serialize()).decode(),
        delimiter=None if stream.layout is None else stream.layout.delimiter,
        told=stream.layout is not None and stream.layout.told,
        header_line=stream.header_line,
        notes=stream.notes,
        ragged=tuple((one.line, one.fields, one.expected, one.record) for one in stream.ragged()),
        forms={heading: (form.dates, form.formatted) for heading, form in forms.items()},
        plain=None if stream.plain is None else str(stream.plain),
        serves=tuple(job.serves),
    )


@njit(cache=True, nogil=True)
def _hash_text(ends: Ints, letters: npt.NDArray[np.uint8]) -> tuple[Hashes, bool]:
    """FNV-1a of each word, stirred; and whether some may have blanks around them."""
    n = len(ends) - 1
    out, odd = np.empty(n, np.uint64), False
    for i in range(n):
        found = np.uint64(0xCBF29CE484222325)
        low, high = ends[i], ends[i + 1]
        if low < high:
            odd |= letters[low] <= 32 or letters[low] >= 127 or letters[high - 1] <= 32 or letters[high - 1] >= 127
        for k in range(low, high):
            found = (found ^ np.uint64(letters[k])) * np.uint64(0x100000001B3)
        out[i] = _stirred(found)
    return out, odd


@njit(cache=True, nogil=True)
def _hash_integers(column: Ints) -> Hashes:
    """The same hash of numbers as they are written."""
    out, digits = np.empty(len(column), np.uint64), np.empty(20, np.uint64)
    for i in range(len(column)):
        found, number = np.uint64(0xCBF29CE484222325), column[i]
        rest = np.uint64(number)
        if number < 0:
            found = (found ^ np.uint64(45)) * np.uint64(0x100000001B3)
            rest = np.uint64(0) - rest
        count = 0
        while True:
            digits[count] = rest % np.uint64(10)
            rest = rest // np.uint64(10)
            count += 1
            if rest == np.uint64(0):
                break
        for k in range(count - 1, -1, -1):
            found = (found ^ (np.uint64(48) + digits[k])) * np.uint64(0x100000001B3)
        out[i] = _stirred(found)
    return out


@njit(cache=True, nogil=True)
def _stirred(found: np.uint64) -> np.uint64:
    """Brings what the last letters changed into the high bits, which settle the partition."""
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))


@njit(cache=True, nogil=True)
def _group(found: Hashes, count: int) -> tuple[Codes, Ints]:
    """The rows partition by partition, each in their order, and (count + 1,) where each begins."""
    n, many = len(found), np.uint64(count)
    part, ends = np.empty(n, np.int32), np.zeros(count + 1, np.int64)
    for i in range(n):
        part[i] = np.int32(((found[i] >> np.uint64(32)) * many) >> np.uint64(32))
        ends[part[i] + 1] += 1
    for k in range(count):
        ends[k + 1] += ends[k]
    fill, order = ends[:-1].copy(), np.empty(n, np.int32)
    for i in range(n):
        order[fill[part[i]]] = i
        fill[part[i]] += 1
    return order, ends
