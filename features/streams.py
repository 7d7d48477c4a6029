"""Files as batches of raw columns, for those that do not fit into memory.

What a file means is settled in `features.sources`, and small text files are read by it; here only the bytes come piece
by piece. Text that is packed, or in another encoding than UTF-8, is written out as plain UTF-8 first.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from features.errors import TableError
from features.sources import (
    BLOCK,
    PARQUET_ENDINGS,
    UNNAMED,
    Layout,
    Ragged,
    Source,
    refuse_other_files,
    refuse_repeated,
)

ROWS = 1 << 18
"""Rows at a time."""
WHOLE_BELOW = 32 << 20
"""Bytes of a text file up to which it is read at once (packed: a tenth)."""
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, eq=False)
class Stream:
    """One file whose rows come in batches, in their order."""

    name: str
    path: Path
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False)
    rows: int | None = None
    """How many there are, where the file says so."""
    layout: Layout | None = None
    header_line: int | None = None
    notes: tuple[str, ...] = ()
    found: list[Ragged] = field(default_factory=list)
    """Ragged rows, once all batches have come; those of a text that is not in memory are only counted."""
    plain: Path | None = None
    """The text as UTF-8."""

    @classmethod
    def open(cls, path: Path, scratch: Path) -> Stream:
        """Looks at a CSV or Parquet file; `scratch` is a folder for text that has to be written out."""
        if not path.is_file():
            raise TableError(f"{path}: no such file.")
        if path.name.lower().endswith(PARQUET_ENDINGS):
            return _parquet(path)
        with path.open("rb") as handle:
            packed = handle.read(2) == _GZIP
        if path.stat().st_size < WHOLE_BELOW / (10 if packed else 1):
            return _in_memory(path)
        return _text(path, scratch)

    @property
    def empty(self) -> Source:
        """The file without its rows."""
        return Source(self.name, self.schema.empty_table(), self.path, self.layout, self.header_line, self.notes)

    def ragged(self) -> tuple[Ragged, ...]:
        """The rows with too few or too many fields."""
        if not self.found or self.plain is None:
            return tuple(self.found)
        assert self.layout is not None
        with text_lines(self.path, self.plain) as handle:
            rows = self.layout.read(handle)
            _, header = next(rows)
            odd = ((line, fields) for line, fields in rows if len(fields) != len(header))
            return tuple(Ragged(line, len(fields), len(header), self.layout.join(fields)) for line, fields in odd)


def text_lines(path: Path, plain: Path | None) -> TextIO:
    """Opens a text file for reading line by line; `plain` is its text as UTF-8, if there is one."""
    return io.StringIO(Source.text(path), newline="") if plain is None else plain.open(encoding="utf-8-sig", newline="")


def headings_of(path: Path) -> pa.Table:
    """A table without rows that has the headings of a file."""
    if path.name.lower().endswith(PARQUET_ENDINGS):
        return _parquet(path).schema.empty_table()
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as handle:
            first = handle.read(1 << 20)
    except (EOFError, OSError, zlib.error):
        return _in_memory(path).schema.empty_table()
    encoding = "utf-16" if first[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    data = first.decode(encoding, errors="ignore").encode()
    _, header, _ = Layout.find(data).header(data)
    return pa.table(
        {heading.strip() or f"{UNNAMED}{k}": pa.array([], pa.large_string()) for k, heading in enumerate(header)}
    )


def _parquet(path: Path) -> Stream:
    try:
        file = pa.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as problem:
        raise _unreadable(path, problem) from None
    refuse_repeated(path.name, file.schema_arrow.names)

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            with pa.parquet.ParquetFile(path) as opened:
                yield from opened.iter_batches(ROWS)
        except (pa.ArrowException, OSError) as problem:
            raise _unreadable(path, problem) from None

    with file:
        return Stream(path.name, path, file.schema_arrow.remove_metadata(), batches, file.metadata.num_rows)


def _unreadable(path: Path, problem: Exception) -> TableError:
    reason = str(problem).splitlines()[0].rstrip(".")
    return TableError(f"{path.name}: not a readable Parquet file ({reason}). Write it again.")


def _in_memory(path: Path) -> Stream:
    source = Source.read(path)
    table = source.table
    return Stream(
        source.name, path, table.schema, lambda: iter(table.combine_chunks().to_batches(ROWS)), table.num_rows,
        source.layout, source.header_line, source.notes, [*source.ragged],
    )  # fmt: skip


def _text(path: Path, scratch: Path) -> Stream:
    plain, quotes, notes = _plain(path, scratch)
    with plain.open("rb") as handle:
        first = handle.read(BLOCK).removeprefix(codecs.BOM_UTF8)
    layout = Layout.find(first)
    line, header, end = layout.header(first)
    header = [heading.strip() or f"{UNNAMED}{k}" for k, heading in enumerate(header)]
    refuse_repeated(f"{path.name} line {line}", header)
    if quotes % 2:
        mark = "\x01"
        with plain.open(encoding="utf-8", newline="") as text:
            ((at, fields),) = deque(layout.read(chain(text, [f"\n{mark}"])), maxlen=1)
        if fields != [mark]:
            raise TableError(f"{path.name} line {at}: a quote is opened here and never closed. Close it, or double it.")
    if unnamed := sum(heading.startswith(UNNAMED) for heading in header):
        notes = (*notes, f"{path.name}: {unnamed} columns without a heading are left out")
    schema = pa.schema([(heading, pa.large_string()) for heading in header])
    ragged: list[Ragged] = []

    def skip(row: Any) -> str:
        ragged.append(Ragged(-1, row.actual_columns, row.expected_columns, ""))
        return "skip"

    def batches() -> Iterator[pa.RecordBatch]:
        ragged.clear()
        try:
            with plain.open("rb") as opened:
                opened.seek(end)
                if not opened.read(1 << 16).strip():
                    return
                opened.seek(end)
                yield from pa.csv.open_csv(
                    pa.PythonFile(opened),
                    read_options=pa.csv.ReadOptions(column_names=header, block_size=BLOCK),
                    parse_options=pa.csv.ParseOptions(
                        delimiter=layout.delimiter, newlines_in_values=quotes > 0, invalid_row_handler=skip
                    ),
                    convert_options=pa.csv.ConvertOptions(
                        column_types=dict(zip(header, schema.types, strict=True)),
                        strings_can_be_null=False,
                        check_utf8=False,
                    ),
                )
        except pa.ArrowInvalid as problem:
            raise TableError(f"{path.name}: cannot be read as CSV ({str(problem).rstrip('.')}).") from None

    return Stream(path.name, path, schema, batches, None, layout, line, notes, ragged, plain)


def _plain(path: Path, scratch: Path) -> tuple[Path, int, tuple[str, ...]]:
    """The text as plain UTF-8, which may be the file itself; how many quotes are in it; and what is to be said."""
    first = next(_blocks(path), b"")
    refuse_other_files(path.name, first)
    if not any(block.removeprefix(codecs.BOM_UTF8).strip() for block in _blocks(path)):
        raise TableError(f"{path.name}: the file is empty. It needs a line of column names at least.")
    encoding = "utf-16" if first[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    told = first.startswith(codecs.BOM_UTF8)
    quotes = done = lines = 0
    letters = 0
    strict = codecs.getincrementaldecoder(encoding)()
    try:
        for block in chain(_blocks(path), [b""]):
            zero = block.find(0) if encoding == "utf-8" else -1
            if zero >= 0:
                raise TableError(
                    f"{path.name}: this is a binary file (a zero byte at {done + zero}), not CSV or Parquet."
                )
            strict.decode(block, final=not block)
            quotes, done, lines = quotes + block.count(b'"'), done + len(block), lines + block.count(b"\n")
            letters += not block.isascii()
    except UnicodeDecodeError as problem:
        if encoding == "utf-16":
            raise TableError(
                f"{path.name}: the UTF-16 text is damaged. Export it again, or save it as UTF-8."
            ) from None
        wrong = problem.object[problem.start]
        lines += problem.object[: problem.start].count(b"\n")
        lenient = codecs.getincrementaldecoder("utf-8")("ignore")
        if all(lenient.decode(block).isascii() for block in _blocks(path)):
            encoding, told = "cp1252", False
        else:
            raise TableError(_neither(path.name, lines + 1, wrong)) from None
    if encoding == "utf-8" and not told and path.suffix.lower() != ".gz":
        with path.open("rb") as handle:
            if handle.read(2) != _GZIP:
                return path, quotes, ()
    target = scratch / f"{path.name}.{abs(hash(str(path)))}.txt"
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    quotes = 0
    try:
        with target.open("wb") as out:
            for block in chain(_blocks(path), [b""]):
                text = decoder.decode(block, final=not block).encode()
                quotes += text.count(b'"')
                out.write(text)
    except UnicodeDecodeError:
        raise TableError(_neither(path.name, lines + 1, wrong)) from None
    note = f"{path.name}: read as Windows-1252, for it is not UTF-8"
    return target, quotes, (note,) if encoding == "cp1252" else ()


def _neither(name: str, line: int, byte: int) -> str:
    return f"{name} line {line}: neither UTF-8 nor Windows-1252 text (byte 0x{byte:02x}). Save it as UTF-8."


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as handle:
            while block := handle.read(BLOCK):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        reason = str(problem).rstrip(".")
        raise TableError(f"{path.name}: the gzip file is damaged ({reason}). Copy or compress it again.") from None
    except OSError as problem:
        raise TableError(f"{path}: cannot be read ({problem.strerror}).") from None
