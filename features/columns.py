"""The tables' columns: how they are called, under which headings they are found, and one source's share of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import parsing
from features.config import TABLES, TableFile
from features.errors import TableError, UsageError
from features.history import Bools, Floats, Ids, Ints
from features.rejects import Rejects
from features.sources import Source
from features.times import EARLIEST, TOO_LATE, US_PER_DAY

COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "touchpoints": (("lead_id", "occurred_at", "channel"), ("action", "value", "recorded_at", "message_id")),
    "leads": (("lead_id", "created_at"), ()),
    "outcomes": (("lead_id", "occurred_at", "outcome"), ("amount", "recorded_at")),
    "attributes": (("lead_id", "occurred_at", "name", "value"), ("recorded_at",)),
    "aliases": (("lead_id", "same_as", "occurred_at"), ()),
}
"""The required and the optional columns of each table; further columns of `leads` are attributes."""

_TIMES_OF_LISTS = {("leads", "created_at"), ("outcomes", "occurred_at")}
"""What a bare list of leads, with how each ended, does not have."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "lead_id": (
        "leadid", "whoid", "contactid", "prospectid", "recordid", "hsobjectid", "personid", "customerid", "userid",
        "accountid", "leadnumber", "id",
    ),
    "created_at": (
        "createddate", "createdate", "datecreated", "createdon", "created", "createdtime", "creationdate",
        "registeredat", "dateregistered", "signupdate", "signedupat",
    ),
    "occurred_at": (
        "timestamp", "eventtime", "eventtimestamp", "eventdate", "activitydate", "hstimestamp", "datetime", "time",
        "date", "happenedat", "closedate", "closedat", "createddate", "createdate",
    ),
    "channel": ("source", "medium", "activitytype", "engagementtype", "hsactivitytype", "tasksubtype", "eventtype",
                "type"),
    "action": ("event", "eventname", "activity", "activityname", "subtype"),
    "value": ("amountvalue", "metric", "score", "duration", "minutes"),
    "recorded_at": ("receivedat", "loadedat", "ingestedat", "insertedat", "syncedat"),
    "message_id": ("messageid", "eventid", "eventuuid", "uuid"),
    "outcome": ("stage", "stagename", "dealstage", "status", "result", "iswon", "won", "converted"),
    "amount": ("dealamount", "value", "revenue", "opportunityamount"),
    "name": ("attribute", "property", "field", "fieldname"),
    "same_as": ("sameas", "mergedinto", "masterrecordid", "newid", "canonicalid"),
}  # fmt: skip
"""Headings that common systems (Salesforce, HubSpot, Segment) use, in lower case without signs, best first."""


class Cells(NamedTuple):
    """How many cells of an attribute that is text hold anything, a number, and one with a decimal comma."""

    filled: int
    numbers: int
    commas: int


@dataclass
class Reading:
    """How tables are to be read, and what is found on the way."""

    zone: str | None = None
    date_format: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Touchstone's names, or `table.name`, with the heading to take."""
    rejects: Rejects = field(default_factory=Rejects)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    early: Counter[str] = field(default_factory=Counter)
    """Rows recorded before they occurred, by table."""
    written: list[tuple[str, Cells]] = field(default_factory=list)
    """How attributes are written, by file and heading."""

    def check_mapping(self, given: Mapping[str, Sequence[Source]]) -> None:
        """Refuses a mapping that fits no table."""
        known = sorted({name for table in TABLES for name in _names(table)})
        for key, heading in self.mapping.items():
            table, _, name = key.rpartition(".")
            if name not in (_names(table) if table in COLUMNS else known) or table not in ("", *TABLES):
                raise UsageError(f"--map {key}={heading}: {key!r} is no column. Use one of {listed(known)}.")
            tables = [table] if table else [t for t in TABLES if name in _names(t)]
            if not any(heading in source.headings for t in tables for source in given[t]):
                found = dict.fromkeys(h for t in tables for source in given[t] for h in source.headings)
                raise UsageError(
                    f"--map {key}={heading}: there is no column {heading!r} in {' or '.join(tables)}; "
                    f"found {listed(found)}."
                )


@dataclass(eq=False)
class Part:
    """One source's share of a table: its columns, and which of its rows are good so far."""

    table: str
    source: Source
    spec: TableFile
    reading: Reading
    columns: dict[str, pa.Array]
    extra: dict[str, pa.Array]
    """The columns under headings that mean none of the table's."""
    good: Bools
    forms: Mapping[str, parsing.Form] = field(default_factory=dict)
    """How columns of times are written, where only some of the source's rows are at hand."""

    @classmethod
    def of(cls, table: str, spec: TableFile, source: Source, reading: Reading) -> Self:
        """Finds a table's columns in a source."""
        headings = find_headings(table, spec, source, reading)
        columns = {name: _column(source, heading) for name, heading in headings.items()}
        count = source.table.num_rows
        for name, word in spec.values.items():
            if name not in columns:
                columns[name] = pa.array(np.full(count, word, object), parsing.TEXT)
        free = [h for h in source.headings if h not in headings.values() and h not in spec.exclude]
        flat = [h for h in free if _is_flat(source.table.column(h).type)]
        if nested := [h for h in free if h not in flat]:
            reading.notes.append(
                f"{source.name}: left out, for they hold lists, records, bytes or intervals: {listed(nested)}"
            )
        extra = {heading: _column(source, heading) for heading in flat}
        forms = {name: source.forms[heading] for name, heading in headings.items() if heading in source.forms}
        part = cls(table, source, spec, reading, columns, extra, np.ones(count, np.bool_), forms)
        mark = "," if source.layout is None else source.layout.delimiter
        ragged = {
            -1 - k: odd.problem for k, odd in enumerate(source.ragged) if odd.record.replace(mark, "").strip()
        }  # fmt: skip
        reading.rejects.add(source, "", ragged)
        part.leave_out_empty(len(source.ragged) - len(ragged))
        for heading, wanted in spec.where.items():
            equal = pc.equal(parsing.text(_column(source, heading)), wanted)
            part.good &= np.asarray(equal.fill_null(False))
        if left := int((~part.good).sum()):
            reading.left_out[f"{source.name}: left out by `where`"] += left
        return part

    def forget(self) -> None:
        """Lets go of the columns as they were given, once everything has been made of them."""
        self.columns.clear()
        self.extra.clear()
        self.source.forget()

    def reject(self, column: str, says: Mapping[int, str]) -> None:
        """Takes rows out of the good ones, saying by row what is wrong in a column."""
        rows = np.fromiter(says, np.int64, len(says))
        self.reading.rejects.add(self.source, column, {row: says[row] for row in rows[self.good[rows]].tolist()})
        self.good[rows] = False

    def leave_out_empty(self, count: int) -> None:
        """Counts rows in which every cell is empty, as spreadsheets write them below a table."""
        if count:
            self.reading.left_out[f"{self.source.name}: left out of {self.table}, for every cell is empty"] += count

    def words(self, name: str, *, required: bool = False) -> pa.DictionaryArray:
        """A column as codes into its distinct words, without surrounding blanks; null where empty."""
        if name not in self.columns:
            return pa.DictionaryArray.from_arrays(pa.nulls(len(self.good), pa.int8()), pa.array([], parsing.TEXT))
        words = parsing.coded(self.columns[name], self.spec.missing)
        if required and words.indices.null_count:
            self._require(name, np.asarray(words.is_null()))
        return words

    def numbers(self, name: str) -> Floats:
        """A column as numbers; NaN where empty."""
        if name not in self.columns:
            return np.full(len(self.good), np.nan)
        values, wrong = parsing.numbers(self.columns[name], self.spec.missing)
        self.reject(name, wrong)
        return values

    def times(self, name: str) -> tuple[Ints, Bools]:
        """A required column as microseconds, and which of them are bare dates, known at the end of the day."""
        found = self._times(name)
        self._require(name, found.empty)
        return found.at, found.dated

    def known(self, at: Ints, dated: Bools) -> Ints:
        """From when on each row could be known: when it was recorded, but not before it occurred."""
        if "recorded_at" not in self.columns:
            return at
        recorded = self._times("recorded_at")
        # What is only dated may have occurred at any time of its day.
        early = self.good & ~recorded.empty & (recorded.at < np.where(dated, at - US_PER_DAY, at))
        self.reading.early[self.table] += int(early.sum())
        return np.where(recorded.empty, at, np.maximum(at, recorded.at))

    def attribute(self, heading: str) -> Ids:
        """A column of an attribute as Python numbers, words or None."""
        values, written = parsing.cells(self.extra[heading], self.spec.missing)
        if len(written):
            self._count(heading, np.bincount(written[self.good], minlength=len(parsing.Written)))
        return values

    def facts(self, names: pa.DictionaryArray) -> Ids:
        """The column `value` of facts with these `names`, likewise."""
        values, written = parsing.cells(self.columns["value"], self.spec.missing)
        if len(written):
            kinds = len(parsing.Written)
            pairs = parsing.codes(names)[self.good].astype(np.int64) * kinds + written[self.good]
            counts = np.bincount(pairs, minlength=len(names.dictionary) * kinds).reshape(-1, kinds)
            for name, mine in zip(names.dictionary.to_pylist(), counts, strict=True):
                self._count(name, mine)
        return values

    def _count(self, attribute: str, counts: Ints) -> None:
        words, plain, commas = counts[: parsing.Written.NOTHING].tolist()
        cells = Cells(words + plain + commas, plain + commas, commas)
        self.reading.written.append((f"{self.source.name}: {attribute}", cells))

    def _times(self, name: str) -> parsing.Times:
        reading = self.reading
        found = parsing.times(
            self.columns[name],
            zone=reading.zone,
            date_format=reading.date_format,
            missing=self.spec.missing,
            form=self.forms.get(name),
        )
        self.reject(name, found.wrong)
        beyond = ~found.empty & ((found.at < EARLIEST) | (found.at >= TOO_LATE))
        hint = "is beyond the years 2 to 9998, as what stands for no time is. Write when it was."
        self.reject(name, {row: f"{str(self.columns[name][row])!r} {hint}" for row in np.flatnonzero(beyond).tolist()})
        return found

    def _require(self, name: str, empty: npt.NDArray[Any]) -> None:
        if not empty.any():
            return
        rows = np.flatnonzero(empty & self.good)
        bare = np.ones(len(rows), np.bool_)
        for column in self.source.table.columns:
            # Columns beside the required ones are looked at in these rows alone.
            bare[bare] = _is_empty(column.take(pa.array(rows[bare])))
        self.good[rows[bare]] = False
        self.leave_out_empty(int(bare.sum()))
        self.reject(name, dict.fromkeys(rows[~bare].tolist(), "is empty. Fill it in, or remove the row."))


def find_headings(table: str, spec: TableFile, source: Source, reading: Reading) -> dict[str, str]:
    """The heading that holds each column: mapped, of its name, or a known synonym."""
    names = _names(table)
    for name in (*spec.columns, *spec.values):
        if name not in names:
            raise TableError(f"{source.name}: {name!r} is no column of {table}. It has {listed(names)}.")
    for heading in (*spec.exclude, *spec.where):
        if heading not in source.headings:
            raise TableError(f"{source.name}: there is no column {heading!r}; found {listed(source.headings)}.")
    found = dict(spec.columns)
    for name in names:
        told = reading.mapping.get(f"{table}.{name}")
        loose = reading.mapping.get(name)
        if told is not None or loose in source.headings:
            found[name] = str(told or loose)
    owner: dict[str, str] = {}
    for name, heading in found.items():
        if heading not in source.headings:
            raise TableError(
                f"{source.name}: {name} is mapped to {heading!r}, but there is no such column; found "
                f"{listed(source.headings)}."
            )
        if owner.setdefault(heading, name) != name:
            raise TableError(f"{source.name}: {owner[heading]} and {name} are both mapped to {heading!r}. Map one.")
    _guess(table, spec, source, reading, found)
    for name in COLUMNS[table][0]:
        if name not in found and name not in spec.values:
            place = source.name if source.header_line is None else f"{source.name} line {source.header_line}"
            timeless = ""
            if (table, name) in _TIMES_OF_LISTS:
                timeless = (
                    f' For a list without any times give all rows one, e.g. values = {{ {name} = "2020-01-01" }} under '
                    f"[{table}] in dataset.toml."
                )
            raise TableError(
                f"{place}: no column for {name}; found {listed(source.headings)}. "
                f"Rename one, or pass --map {name}=COLUMN.{timeless}"
            )
    return found


def _guess(table: str, spec: TableFile, source: Source, reading: Reading, found: dict[str, str]) -> None:
    """Adds to the headings that were told those that can be known by their words; own names go before synonyms."""
    free: dict[str, list[str]] = {}
    for heading in source.headings:
        if heading not in spec.exclude and heading not in found.values():
            free.setdefault(_plain(heading), []).append(heading)
    wanted = [name for name in _names(table) if name not in found and name not in spec.values]
    guesses = [(name, _plain(name)) for name in wanted]
    guesses += [(name, word) for name in wanted for word in SYNONYMS.get(name, ())]
    for name, word in guesses:
        if name in found or word not in free:
            continue
        mine = free.pop(word)
        heading = name if name in mine else mine[0]
        if len(mine) > 1 and heading != name:
            raise TableError(
                f"{source.name}: {mine[0]!r} and {mine[1]!r} could both be {name}. Pass --map {name}=COLUMN."
            )
        found[name] = heading
        if heading != name:
            reading.notes.append(f"{source.name}: {name} read from column {heading!r}")


def listed(names: Any) -> str:
    """Names in a row, for people; the thirteenth and later ones are only counted."""
    shown = [name if isinstance(name, str) else str(name) for name in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "") or "none"


def _names(table: str) -> tuple[str, ...]:
    required, optional = COLUMNS[table]
    return required + optional


def _plain(heading: str) -> str:
    return re.sub(r"[\W_]", "", heading.lower())


def _is_flat(kind: pa.DataType) -> bool:
    """Whether a column of a type holds numbers, times or words."""
    if isinstance(kind, pa.BaseExtensionType):
        return isinstance(kind, pa.UuidType) or _is_flat(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return not parsing.is_bytes(kind.value_type) and _is_flat(kind.value_type)
    # A calendar's interval has no length and no text.
    return not (pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_interval(kind))


def _is_empty(column: pa.ChunkedArray) -> Bools:
    try:
        return np.asarray(parsing.text(parsing.whole(column)).is_null())
    except pa.ArrowException:
        # What has no text, such as a list.
        return np.asarray(column.is_null())


def _column(source: Source, heading: str) -> pa.Array:
    column = source.table.column(heading)
    try:
        if _is_flat(column.type):
            return parsing.whole(column)
        reason = f"holds values of type {column.type}"
    except pa.ArrowException as problem:
        reason = f"cannot be read ({problem})"
    raise TableError(f"{source.name}: the column {heading!r} {reason}. Write it as text.")
