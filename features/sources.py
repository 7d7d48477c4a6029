"""Files and frames as raw columns, with the way back from a row to its place in the file.

People's CSV files come with byte order marks, semicolons, Windows-1252 and gzip. What a file is made of is found
here, the rows are parsed by pyarrow; only when something is wrong is the file walked again to name the line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from features.errors import TableError
from features.parsing import TEXT, Form, whole

CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
PARQUET_ENDINGS = (".parquet", ".pq")

UNNAMED = "\0"
BLOCK = 16 << 20
"""Bytes parsed at a time: the longest row there can be."""


@dataclass(frozen=True)
class Ragged:
    """A row whose number of fields is not the header's."""

    line: int
    fields: int
    expected: int
    record: str

    @property
    def problem(self) -> str:
        """What is wrong, and how to mend it."""
        mend = "Quote the fields that contain the delimiter." if self.fields > self.expected else "Add the rest."
        return f"{self.fields} fields where the header has {self.expected}. {mend}"


@dataclass(frozen=True, eq=False)
class Source:
    """One table as it was given: raw columns under their own headings."""

    name: str
    table: pa.Table
    path: Path | None = None
    layout: Layout | None = None
    header_line: int | None = None
    notes: tuple[str, ...] = ()
    ragged: tuple[Ragged, ...] = ()
    """Rows with too few or too many fields, which are not in `table`."""
    forms: Mapping[str, Form] = field(default_factory=dict)
    """By heading, how columns of times are written, where the table holds but some of the rows."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a CSV or Parquet file."""
        if not path.is_file():
            raise TableError(f"{path}: no such file.")
        if path.name.lower().endswith(PARQUET_ENDINGS):
            return cls._read_parquet(path)
        return cls._read_csv(path)

    @classmethod
    def from_frame(cls, name: str, frame: Any) -> Self:
        """Takes a pandas data frame, or any table that speaks Arrow (pyarrow, polars, DuckDB)."""
        if not isinstance(frame, pd.DataFrame):
            table = pa.table(frame)
            refuse_repeated(name, table.column_names)
            return cls(name, table)
        headings = [str(heading) for heading in frame.columns]
        refuse_repeated(name, headings)
        return cls(name, pa.table({h: _from_series(frame.iloc[:, k]) for k, h in enumerate(headings)}))

    @property
    def headings(self) -> list[str]:
        """The columns that have a name."""
        return [heading for heading in self.table.column_names if not heading.startswith(UNNAMED)]

    @property
    def rows(self) -> int:
        """How many rows there are, the ragged ones among them."""
        return int(self.table.num_rows) + len(self.ragged)

    @staticmethod
    def text(path: Path) -> str:
        """The whole of a text file, unpacked and decoded."""
        return _read_text(path)[0].decode()

    def forget(self) -> None:
        """Lets go of the rows, which fill as much memory as what is made of them."""
        object.__setattr__(self, "table", self.table.schema.empty_table())

    def place(self, row: int) -> str:
        """Says where a row of the table stands; row -1 - k is the k-th ragged one."""
        if self.layout is None:
            return f"{self.name} row {row + 1:,}"
        return f"{self.name} line {self._walk_to(row)[0] if row >= 0 else self.ragged[-1 - row].line}"

    def record(self, row: int) -> str:
        """The row as text, nothing lost: CSV in the file's own delimiter, JSON otherwise."""
        if row < 0:
            return self.ragged[-1 - row].record
        if self.layout is None:
            return json.dumps(self.table.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)
        return self.layout.join(self._walk_to(row)[1])

    def _walk_to(self, row: int) -> tuple[int, list[str]]:
        """The line and fields of a row of `table`."""
        walked, ahead = self._walk
        walked.extend(islice(ahead, max(0, row + 1 - len(walked))))
        return walked[row]

    @cached_property
    def _walk(self) -> tuple[list[tuple[int, list[str]]], Iterator[tuple[int, list[str]]]]:
        """The rows walked so far, and those ahead."""
        assert self.path is not None and self.layout is not None
        rows = islice(self.layout.rows(_read_text(self.path)[0]), 1, None)
        return [], ((line, fields) for line, fields in rows if len(fields) == self.table.num_columns)

    @classmethod
    def _read_parquet(cls, path: Path) -> Self:
        try:
            file = pa.parquet.ParquetFile(path)
            names = file.schema_arrow.names
            refuse_repeated(path.name, names)
            # One column after the other: read at once they fill twice the memory.
            table = pa.table({name: _one_chunk(file.read(columns=[name]).column(name)) for name in names})
        except (pa.ArrowException, OSError) as problem:
            reason = str(problem).splitlines()[0].rstrip(".")
            raise TableError(f"{path.name}: not a readable Parquet file ({reason}). Write it again.") from None
        return cls(path.name, table, path)

    @classmethod
    def _read_csv(cls, path: Path) -> Self:
        data, notes = _read_text(path)
        layout = Layout.find(data)
        line, header, end = layout.header(data)
        header = [heading.strip() or f"{UNNAMED}{k}" for k, heading in enumerate(header)]
        refuse_repeated(f"{path.name} line {line}", header)
        table, skipped = _parse(path.name, data, end, header, layout)
        ragged: tuple[Ragged, ...] = ()
        if skipped:
            rows = islice(layout.rows(data), 1, None)
            odd = ((at, fields) for at, fields in rows if len(fields) != len(header))
            ragged = tuple(Ragged(at, len(fields), len(header), layout.join(fields)) for at, fields in odd)
        if unnamed := sum(heading.startswith(UNNAMED) for heading in header):
            notes = (*notes, f"{path.name}: {unnamed} columns without a heading are left out")
        return cls(path.name, table, path, layout, line, notes, ragged)


@dataclass(frozen=True)
class Layout:
    """How the rows stand in a text file."""

    delimiter: str
    told: bool = False
    """Whether the first row is not the header but Excel's `sep=;`."""

    @classmethod
    def find(cls, data: bytes) -> Self:
        """Finds out from the first line."""
        first = next((line for line in _lines(data) if line.strip()), "")
        if told := re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"), re.IGNORECASE):
            return cls(told[1], told=True)
        bare = "".join(first.split('"')[::2])
        return cls(max(",;\t|", key=bare.count))

    def rows(self, data: bytes) -> Iterator[tuple[int, list[str]]]:
        """Yields (line, fields) of every row that is not blank, the header first."""
        yield from self.read(_lines(data))

    def header(self, data: bytes) -> tuple[int, list[str], int]:
        """Returns the header's line and fields, and the byte at which the rows begin."""
        end = 0

        def counted() -> Iterator[str]:
            nonlocal end
            for line in _lines(data):
                end += len(line.encode())
                yield line

        line, fields = next(self.read(counted()), (1, []))
        return line, fields, end

    def join(self, fields: Sequence[str]) -> str:
        """Writes a row as it would stand in the file."""
        out = io.StringIO()
        csv.writer(out, delimiter=self.delimiter, lineterminator="").writerow(fields)
        return out.getvalue()

    def read(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """Like `rows`, of the lines of a text with their ends."""
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(lines, delimiter=self.delimiter)
        line, told = 1, self.told
        for fields in reader:
            if fields and told:
                told = False
            elif fields:
                yield line, fields
            line = reader.line_num + 1


def _parse(
    name: str, data: bytes, start: int, header: Sequence[str], layout: Layout
) -> tuple[pa.Table, list[pa.csv.InvalidRow]]:
    """The rows behind the header as text columns, and those whose number of fields is another."""
    skipped: list[pa.csv.InvalidRow] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        skipped.append(row)
        return "skip"

    _refuse_open_quote(name, data, layout)
    rows = memoryview(data)[start:]
    if not bytes(rows[:4096]).strip() and not bytes(rows).strip():
        return pa.table({heading: pa.array([], TEXT) for heading in header}), []
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(rows),
            read_options=pa.csv.ReadOptions(column_names=list(header), block_size=BLOCK),
            parse_options=pa.csv.ParseOptions(
                delimiter=layout.delimiter, newlines_in_values=b'"' in data, invalid_row_handler=skip
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(header, TEXT), strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid as problem:
        raise TableError(f"{name}: cannot be read as CSV ({str(problem).rstrip('.')}).") from None
    return table, skipped


def _refuse_open_quote(name: str, data: bytes, layout: Layout) -> None:
    """A quote that is never closed would swallow the rest of the file into one cell."""
    if data.count(b'"') % 2:
        mark = "\x01"
        ((line, fields),) = deque(layout.rows(data + f"\n{mark}".encode()), maxlen=1)
        if fields != [mark]:
            raise TableError(f"{name} line {line}: a quote is opened here and never closed. Close it, or double it.")


def _read_text(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """A text file as UTF-8 without a byte order mark, unpacked, and what is to be said of it."""
    raw = _unpack(path)
    name = path.name
    refuse_other_files(name, raw)
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            raw = raw.decode("utf-16").encode()
        except UnicodeError:
            raise TableError(f"{name}: the UTF-16 text is damaged. Export it again, or save it as UTF-8.") from None
    zero = raw.find(0)
    if zero >= 0:
        raise TableError(f"{name}: this is a binary file (a zero byte at {zero}), not CSV or Parquet.")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if not raw or raw.isspace():
        raise TableError(f"{name}: the file is empty. It needs a line of column names at least.")
    try:
        return raw if raw.isascii() else raw.decode().encode(), ()
    except UnicodeDecodeError as problem:
        line, byte = raw[: problem.start].count(b"\n") + 1, raw[problem.start]
    try:
        # Where other letters are valid UTF-8, one that is not is damage: another encoding would spoil the others.
        if not raw.decode(errors="ignore").isascii():
            raise UnicodeError
        note = f"{name}: read as Windows-1252, for it is not UTF-8"
        return raw.decode("cp1252").encode(), (note,)
    except UnicodeError:
        raise TableError(
            f"{name} line {line}: neither UTF-8 nor Windows-1252 text (byte 0x{byte:02x}). Save it as UTF-8."
        ) from None


def refuse_other_files(name: str, raw: bytes) -> None:
    """Says of files that are no text, by how they begin, what they are."""
    if raw[:4] == b"PK\x03\x04":
        raise TableError(f"{name}: this is an Excel workbook or a zip file. Save the sheet as CSV (UTF-8).")
    if raw[:4] == b"PAR1":
        raise TableError(f"{name}: this is a Parquet file. Name it .parquet.")


def _unpack(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise TableError(f"{path}: cannot be read ({problem.strerror}).") from None
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as problem:
        reason = str(problem).rstrip(".")
        raise TableError(f"{path.name}: the gzip file is damaged ({reason}). Copy or compress it again.") from None


def _lines(data: bytes) -> Iterator[str]:
    return iter(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""))


def refuse_repeated(place: str, headings: Sequence[str]) -> None:
    repeated = next((heading for k, heading in enumerate(headings) if heading in headings[:k]), None)
    if repeated is not None:
        raise TableError(f"{place}: the column {repeated!r} is there twice. Rename one of them.")


def _one_chunk(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    try:
        return whole(column)
    except pa.ArrowInvalid:
        # Bytes that are no text: an error only if the column is asked for, which then says its name.
        return column


def _from_series(series: pd.Series[Any]) -> pa.Array | pa.ChunkedArray:
    """A column of mixed objects, or of dates and times as objects, is taken as text."""
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        return pa.array(series.dt.tz_convert(None).to_numpy("datetime64[us]"), pa.timestamp("us", "UTC"))
    try:
        array = pa.Array.from_pandas(series)
        if series.dtype != object or not pa.types.is_temporal(array.type):
            return array
    except (pa.ArrowException, OverflowError):
        pass
    return pa.array([None if _is_missing(value) else str(value) for value in series], TEXT)


def _is_missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType")
