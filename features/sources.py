"""Files and frames as raw columns, with the way back from a row to its place in the file.

People's CSV files come with byte order marks, semicolons, Windows-1252 and gzip. The dialect is found here, the rows
are parsed by pyarrow; only when something is wrong is the file walked again to name the line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from features.errors import TableError

if TYPE_CHECKING:
    import pandas as pd

CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
PARQUET_ENDINGS = (".parquet", ".pq")


@dataclass(frozen=True, eq=False)
class Source:
    """One table as it was given: raw columns under their own headings."""

    name: str
    table: pa.Table
    path: Path | None = None
    dialect: Dialect | None = None
    notes: tuple[str, ...] = ()
    ragged: tuple[Ragged, ...] = ()
    """Rows with too few or too many fields, which are not in `table`."""

    @classmethod
    def read(cls, path: Path) -> Source:
        """Reads a CSV or Parquet file."""
        if not path.is_file():
            raise TableError(f"{path}: no such file.")
        if path.name.lower().endswith(PARQUET_ENDINGS):
            return cls._read_parquet(path)
        return cls._read_csv(path)

    @classmethod
    def from_frame(cls, name: str, frame: pd.DataFrame) -> Source:
        """Takes a data frame; a column of mixed objects is taken as text."""
        repeated = frame.columns[frame.columns.duplicated()]
        if len(repeated):
            raise TableError(f"{name}: the column {str(repeated[0])!r} is there twice. Rename or drop one.")
        columns: dict[str, Any] = {}
        for heading in frame.columns:
            try:
                columns[str(heading)] = pa.Array.from_pandas(frame[heading])
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                texts = [None if _is_missing(value) else str(value) for value in frame[heading]]
                columns[str(heading)] = pa.array(texts, pa.string())
        return cls(name, pa.table(columns))

    def place(self, row: int) -> str:
        """Says where a row of the table stands."""
        if self.dialect is None:
            return f"{self.name} row {row + 1:,}"
        return f"{self.name} line {self._walked[row][0]}"

    def record(self, row: int) -> str:
        """The row as text, nothing lost: CSV in the file's own delimiter, JSON otherwise."""
        if self.dialect is None:
            return json.dumps(self.table.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)
        return self.dialect.join(self._walked[row][1])

    @cached_property
    def _walked(self) -> list[tuple[int, list[str]]]:
        """The line and fields of every row of `table`."""
        assert self.path is not None and self.dialect is not None
        rows = self.dialect.rows(self.dialect.decode(_bytes(self.path)))
        next(rows)
        return [(line, fields) for line, fields in rows if len(fields) == self.table.num_columns]

    @classmethod
    def _read_parquet(cls, path: Path) -> Source:
        try:
            table = pa.parquet.read_table(path)
        except (pa.ArrowInvalid, OSError) as problem:
            reason = str(problem).splitlines()[0]
            raise TableError(f"{path.name}: not a readable Parquet file ({reason}). Write it again.") from None
        return cls(path.name, table, path)

    @classmethod
    def _read_csv(cls, path: Path) -> Source:
        raw = _bytes(path)
        dialect = Dialect.find(raw, path.name)
        text = dialect.decode(raw)
        del raw
        line, header = next(dialect.rows(text), (1, []))
        header = [heading.strip() for heading in header]
        for k, heading in enumerate(header):
            if heading and heading in header[:k]:
                raise TableError(f"{path.name} line {line}: the column {heading!r} is there twice. Rename one of them.")
        named = [heading or f"\0{k}" for k, heading in enumerate(header)]
        skipped: list[pa.csv.InvalidRow] = []

        def skip(row: pa.csv.InvalidRow) -> str:
            skipped.append(row)
            return "skip"

        data = text.encode()
        first = _end_of_header(text, dialect)
        del text
        try:
            table = (
                pa.csv.read_csv(
                    pa.BufferReader(memoryview(data)[first:]),
                    read_options=pa.csv.ReadOptions(column_names=named),
                    parse_options=pa.csv.ParseOptions(
                        delimiter=dialect.delimiter,
                        newlines_in_values=b'"' in data,
                        invalid_row_handler=skip,
                        ignore_empty_lines=True,
                    ),
                    convert_options=pa.csv.ConvertOptions(
                        column_types=dict.fromkeys(named, pa.string()), strings_can_be_null=False
                    ),
                )
                if first < len(data)
                else pa.table({heading: pa.array([], pa.string()) for heading in named})
            )
        except pa.ArrowInvalid as problem:
            raise TableError(f"{path.name}: cannot be read as CSV ({problem}). Check its quotes.") from None
        notes = list(dialect.notes)
        unnamed = [heading for heading in named if heading.startswith("\0")]
        ragged: tuple[Ragged, ...] = ()
        if skipped:
            rows = dialect.rows(data.decode())
            next(rows)
            ragged = tuple(
                Ragged(at, len(fields), len(header), dialect.join(fields))
                for at, fields in rows
                if len(fields) != len(header)
            )
        if unnamed:
            notes.append(f"{path.name}: {len(unnamed)} columns without a heading are left out")
        source = cls(path.name, table, path, dialect, tuple(notes), ragged)
        return source

    @property
    def headings(self) -> list[str]:
        """The columns that have a name."""
        return [heading for heading in self.table.column_names if not heading.startswith("\0")]


@dataclass(frozen=True)
class Ragged:
    """A row whose number of fields is not the header's."""

    line: int
    fields: int
    expected: int
    record: str


@dataclass(frozen=True)
class Dialect:
    """How a text file is encoded and delimited."""

    encoding: str
    delimiter: str
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def find(cls, raw: bytes, name: str) -> Dialect:
        """Finds out; raises TableError for what is not a text table."""
        if not raw.strip():
            raise TableError(f"{name}: the file is empty. It needs a line of column names at least.")
        if raw[:4] == b"PK\x03\x04":
            raise TableError(f"{name}: this is an Excel workbook or a zip file. Save the sheet as CSV (UTF-8).")
        notes = []
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            encoding = "utf-16"
        elif b"\0" in raw[:65_536]:
            raise TableError(f"{name}: this is a binary file (a zero byte at {raw.index(0)}), not CSV or Parquet.")
        else:
            encoding = "utf-8-sig"
        try:
            head = raw.decode(encoding)
        except UnicodeDecodeError as problem:
            encoding = "cp1252"
            try:
                head = raw.decode(encoding)
            except UnicodeDecodeError:
                at = raw[: problem.start].count(b"\n") + 1
                raise TableError(
                    f"{name} line {at}: neither UTF-8 nor Windows-1252 text (byte 0x{raw[problem.start]:02x}). "
                    "Save it as UTF-8."
                ) from None
            notes.append(f"{name}: read as Windows-1252, for it is not UTF-8")
        first = next((line for line in head[:1_000_000].splitlines() if line.strip()), "")
        bare = "".join(first.split('"')[::2])
        delimiter = max(",;\t|", key=bare.count)
        return cls(encoding, delimiter if bare.count(delimiter) else ",", tuple(notes))

    def decode(self, raw: bytes) -> str:
        """The text of the file, without a byte order mark."""
        text = raw.decode(self.encoding)
        return text.removeprefix("\ufeff")

    def rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Yields (line, fields) of every row that is not blank, the header first."""
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter)
        line = 1
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1

    def join(self, fields: Sequence[str]) -> str:
        """Writes a row as it would stand in the file."""
        out = io.StringIO()
        csv.writer(out, delimiter=self.delimiter, lineterminator="").writerow(fields)
        return out.getvalue()


def _bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as problem:
        raise TableError(f"{path.name}: the gzip file is damaged ({problem}). Copy or compress it again.") from None


def _end_of_header(text: str, dialect: Dialect) -> int:
    """The byte at which the rows begin, behind the first row that is not blank."""
    handle = io.StringIO(text, newline="")
    for fields in csv.reader(iter(handle.readline, ""), delimiter=dialect.delimiter):
        if fields:
            break
    return len(text[: handle.tell()].encode())


def _is_missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType")
