"""Reads and checks the tables a dataset is made of, and builds the `Dataset`.

Every value that cannot be taken is named with its file, line and column, and either stops the reading or, with
`on_error="quarantine"`, is set aside in a file with its whole row. Nothing vanishes without being counted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.config import TABLES, DatasetConfig, Kinds, TableFile, read_config
from features.errors import TableError, UsageError
from features.history import Attributes, Bools, Codes, Dataset, Floats, History, Ids, Ints, Kind, Outcomes
from features.sources import CSV_ENDINGS, PARQUET_ENDINGS, Source
from features.times import NEVER, US_PER_DAY, find_zone
from features.words import attribute_word, kind_word, number_word, word_number

OnError = Literal["stop", "quarantine"]

COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "touchpoints": (("lead_id", "occurred_at", "channel"), ("action", "value", "recorded_at", "message_id")),
    "leads": (("lead_id", "created_at"), ()),
    "outcomes": (("lead_id", "occurred_at", "outcome"), ("amount", "recorded_at")),
    "attributes": (("lead_id", "occurred_at", "name", "value"), ("recorded_at",)),
    "aliases": (("lead_id", "same_as", "occurred_at"), ()),
}
"""The required and the optional columns of each table; further columns of `leads` are attributes."""

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

WON = frozenset({"won", "closedwon", "win", "converted", "purchased", "purchase", "sold", "true", "yes", "1"})
LOST = frozenset({"lost", "closedlost", "loss", "disqualified", "unqualified", "declined", "false", "no", "0"})


@dataclass(frozen=True)
class ReadReport:
    """What reading a dataset found: nothing that was left out is missing here."""

    rows: Mapping[str, int]
    """Rows read from each table."""
    duplicates: int
    """Touches that were there twice and count once."""
    quarantined: Mapping[str, int]
    """Rows set aside, by the file they were written to."""
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report in lines of text."""
        told = [f"{count:,} rows of {name}" for name, count in self.rows.items()]
        told += [f"{self.duplicates:,} duplicate touches count once"] if self.duplicates else []
        told += [f"{count:,} rows set aside in {path}" for path, count in self.quarantined.items()]
        return [*told, *self.notes]


def read_dataset(
    path: str | PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    zone: str | None = None,
    date_format: str | None = None,
    on_error: OnError = "stop",
) -> Dataset:
    """Reads a folder of tables, or a `dataset.toml` that says where they are.

    `columns` maps Touchstone's names (`lead_id`, or `outcomes.occurred_at` for one table) to headings; `zone` is that
    of times that carry none. Raises TableError naming file, line, column and mend.
    """
    root = Path(path)
    if root.is_dir() and (root / "dataset.toml").is_file():
        root = root / "dataset.toml"
    if root.suffix == ".toml":
        config, folder = read_config(root)
    elif root.is_dir():
        config, folder = _folder_config(root), root
    elif root.exists():
        raise TableError(f"{root}: a dataset is a folder of tables ({', '.join(TABLES)}) or a dataset.toml.")
    else:
        raise TableError(f"{root}: no such folder or dataset.toml.")
    parts: dict[str, list[tuple[TableFile, Source]]] = {}
    for table in TABLES:
        files: tuple[TableFile, ...] = getattr(config, table)
        parts[table] = [(spec, Source.read(folder / spec.file)) for spec in files]
    reader = _Reader(zone or config.zone, date_format or config.date_format, dict(columns or {}), on_error)
    return reader.dataset(parts, config.kinds)


def dataset_from_frames(
    frames: Mapping[str, pd.DataFrame],
    *,
    columns: Mapping[str, str] | None = None,
    zone: str | None = None,
    date_format: str | None = None,
    on_error: OnError = "stop",
) -> Dataset:
    """Takes data frames by the names of the tables; otherwise like `read_dataset`.

    Quarantined rows are written to the current folder.
    """
    parts = {
        table: [(TableFile(table), Source.from_frame(table, frames[table]))] if table in frames else []
        for table in TABLES
    }
    return _Reader(zone, date_format, dict(columns or {}), on_error).dataset(parts, Kinds())


def _folder_config(folder: Path) -> DatasetConfig:
    found: dict[str, tuple[TableFile, ...]] = {}
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for table in TABLES:
        mine = [name for name in names if name.lower() in {table + end for end in CSV_ENDINGS + PARQUET_ENDINGS}]
        if len(mine) > 1:
            raise TableError(f"{folder}: {mine[0]} and {mine[1]} are both there. Keep one, or name it in dataset.toml.")
        found[table] = tuple(TableFile(name) for name in mine)
    if not found["touchpoints"] and not found["leads"]:
        raise TableError(
            f"{folder}: neither a touchpoints nor a leads table (.csv, .csv.gz or .parquet) is there; found "
            f"{', '.join(names[:8]) or 'nothing'}. Rename the files, or name them in a dataset.toml."
        )
    return DatasetConfig(**found)


@dataclass
class _Part:
    """The rows of one source that are being taken."""

    source: Source
    columns: dict[str, pa.Array]
    extra: dict[str, pa.Array]
    good: Bools
    spec: TableFile

    @property
    def rows(self) -> Ints:
        return np.flatnonzero(self.good)


@dataclass
class _Touches:
    """Touch rows of all sources below each other."""

    lead: pa.Array
    at: Ints
    known: Ints
    dated: Bools
    kind: Codes
    value: Floats
    message: Ints
    part: Codes
    row: Ints

    def __getitem__(self, rows: Any) -> _Touches:
        return _Touches(*(
            column.take(pa.array(np.arange(len(column))[rows])) if isinstance(column, pa.Array) else column[rows]
            for column in vars(self).values()
        ))  # fmt: skip


@dataclass
class _Reader:
    zone: str | None
    date_format: str | None
    mapping: dict[str, str]
    on_error: OnError
    problems: dict[int, tuple[Source, dict[int, tuple[str, str]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def dataset(self, given: Mapping[str, Sequence[tuple[TableFile, Source]]], kinds: Kinds) -> Dataset:
        """Checks the tables against each other and builds the dataset."""
        if self.zone is not None:
            find_zone(self.zone)
        parts = {table: [self._part(table, spec, source) for spec, source in given[table]] for table in TABLES}
        self._check_mapping(parts)
        rows = {table: sum(part.source.table.num_rows for part in mine) for table, mine in parts.items() if mine}

        links = self._links(parts["aliases"])
        touches, kind_list = self._touches(parts["touchpoints"])
        touches, kind_list, ended = self._apply_kinds(touches, kind_list, kinds)
        touches = self._unless_same_day(touches, kind_list, parts["touchpoints"])
        has_leads = bool(parts["leads"])
        if has_leads:
            ids, created = self._leads(parts["leads"])
        else:
            ids, created = _leads_of(touches, links)
        index = _Index(ids, links)

        lead, rows_of, since = index.copies(touches.lead)
        self._orphans(index, touches.lead, touches.part, touches.row, parts["touchpoints"], has_leads)
        history = History.build(
            len(ids), lead, touches.at[rows_of], np.maximum(touches.known[rows_of], since), touches.kind[rows_of],
            touches.value[rows_of], kind_list, touches.message[rows_of], touches.dated[rows_of],
        )  # fmt: skip
        outcomes = self._outcomes(parts["outcomes"], ended, index, has_leads, parts["touchpoints"])
        attributes = self._attributes(parts["leads"], parts["attributes"], index, has_leads)
        quarantined = self._finish()
        merged_at = np.full(len(ids), NEVER, np.int64)
        for name, (_, at) in links.items():
            own = index.own(name)
            if own >= 0:
                merged_at[own] = at
        report = ReadReport(rows, len(lead) - len(history), quarantined, tuple(dict.fromkeys(self.notes)))
        return Dataset(ids, created, merged_at, history, attributes, outcomes, report)

    # One table's columns.

    def _part(self, table: str, spec: TableFile, source: Source) -> _Part:
        """Finds the columns of one source and takes what can be taken as text."""
        self.notes.extend(source.notes)
        required, optional = COLUMNS[table]
        headings = [h for h in source.headings if h not in spec.exclude]
        unknown = [h for h in spec.exclude if h not in source.headings]
        unknown += [h for h in spec.where if h not in source.headings]
        if unknown:
            raise TableError(f"{source.name}: there is no column {unknown[0]!r}; found {_list(source.headings)}.")
        free = list(headings)
        columns: dict[str, pa.Array] = {}
        count = source.table.num_rows
        for name in (*spec.columns, *spec.values):
            if name not in required + optional:
                raise TableError(
                    f"{source.name}: {name!r} is no column of {table}. It has {_list(required + optional)}."
                )
        for name in (*required, *optional):
            heading = self._heading(table, name, spec, source, free)
            if name in spec.values:
                columns[name] = pa.array(np.full(count, spec.values[name], object), pa.string())
            elif heading is not None:
                free.remove(heading)
                columns[name] = _whole(source.table.column(heading))
            elif name in required:
                place = f"{source.name} line 1" if source.dialect else source.name
                raise TableError(
                    f"{place}: no column for {name}; found {_list(source.headings)}. "
                    f"Rename one, or pass --map {name}=COLUMN."
                )
        extra = {heading: _whole(source.table.column(heading)) for heading in free}
        part = _Part(source, columns, extra, np.ones(count, np.bool_), spec)
        for k, ragged in enumerate(source.ragged):
            says = (
                f"{source.name} line {ragged.line}: {ragged.fields} fields where the header has {ragged.expected}. "
                + (
                    "Quote the fields that contain the delimiter."
                    if ragged.fields > ragged.expected
                    else "Add the rest."
                )
            )
            self._mine(source)[-1 - k] = ("", says)
        if spec.where:
            keep = np.ones(count, np.bool_)
            for heading, wanted in spec.where.items():
                equal = pc.equal(_text(_whole(source.table.column(heading))), wanted)
                keep &= np.asarray(equal.fill_null(False))
            part.good &= keep
            self.notes.append(f"{source.name}: {int((~keep).sum()):,} rows left out by `where`")
        return part

    def _heading(self, table: str, name: str, spec: TableFile, source: Source, free: list[str]) -> str | None:
        """The heading that holds a column: mapped, of that name, or a known synonym."""
        key = f"{table}.{name}" if f"{table}.{name}" in self.mapping else name
        wanted = spec.columns.get(name)
        if key in self.mapping and (self.mapping[key] in source.headings or key != name):
            wanted = self.mapping[key]
            self.used.add(key)
        if wanted is not None:
            if wanted not in source.headings:
                raise TableError(
                    f"{source.name}: {name} is mapped to {wanted!r}, but there is no such column; found "
                    f"{_list(source.headings)}."
                )
            return wanted
        plain: dict[str, str] = {}
        for heading in free:
            plain.setdefault(re.sub(r"[^a-z0-9]", "", heading.lower()), heading)
        taken = set(spec.columns.values())
        for word in (name.replace("_", ""), *SYNONYMS.get(name, ())):
            if word in plain and plain[word] not in taken:
                if plain[word] != name:
                    self.notes.append(f"{source.name}: {name} read from column {plain[word]!r}")
                return plain[word]
        return None

    def _check_mapping(self, parts: Mapping[str, Sequence[_Part]]) -> None:
        known = {name for required, optional in COLUMNS.values() for name in required + optional}
        for key, heading in self.mapping.items():
            if key.rpartition(".")[2] not in known:
                raise UsageError(f"--map {key}={heading}: {key!r} is no column. Use one of {_list(sorted(known))}.")
            if key not in self.used:
                raise UsageError(f"--map {key}={heading}: no table that needs it has a column {heading!r}.")

    # Values.

    def _mine(self, source: Source) -> dict[int, tuple[str, str]]:
        return self.problems.setdefault(id(source), (source, {}))[1]

    def _reject(self, part: _Part, rows: Iterable[int], column: str, says: Callable[[int], str]) -> None:
        mine = self._mine(part.source)
        for row in rows:
            part.good[row] = False
            mine.setdefault(int(row), (column, says(int(row))))

    def _words(self, part: _Part, name: str, *, required: bool = False) -> pa.Array:
        """A column as text without surrounding blanks; null where empty."""
        if name not in part.columns:
            return pa.nulls(len(part.good), pa.string())
        words = _text(part.columns[name], part.spec.missing)
        if required:
            empty = np.flatnonzero(part.good & np.asarray(words.is_null()))
            self._reject(part, empty, name, lambda row: f"{name} is empty. Fill it in or remove the row.")
        return words

    def _numbers(self, part: _Part, name: str) -> Floats:
        """A column as numbers; NaN where empty."""
        if name not in part.columns:
            return np.full(len(part.good), np.nan)
        column = part.columns[name]
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
            return np.array(column.cast(pa.float64(), safe=False).fill_null(np.nan), np.float64)
        words = self._words(part, name)
        try:
            numbers = np.array(words.cast(pa.float64()).fill_null(np.nan), np.float64)
        except pa.ArrowInvalid:
            numbers = np.array([np.nan if w is None else word_number(w) for w in words.to_pylist()], np.float64)
        bad = np.flatnonzero(part.good & np.asarray(words.is_valid()) & ~np.isfinite(numbers))
        self._reject(
            part, bad, name, lambda row: f"{name} {words[row].as_py()!r} is not a number. Write it like 1234.5."
        )
        return numbers

    def _times(self, part: _Part, name: str, *, required: bool) -> tuple[Ints, Bools]:
        """A column as microseconds (-1 where empty), and which of them are bare dates, known at the end of the day."""
        count = len(part.good)
        if name not in part.columns:
            return np.full(count, -1, np.int64), np.zeros(count, np.bool_)
        column = part.columns[name]
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            times = _typed_times(column, self.zone)
            if times is None:
                raise TableError(
                    f"{part.source.name}: the times in {name} carry no zone. Pass --zone, e.g. --zone Europe/Amsterdam, "
                    "or write them with an offset."
                )
            at, dated, empty = times
            says: dict[int, str] = {}
        else:
            words = self._words(part, name)
            at, dated, says = _parse_times(words, name, self.zone, self.date_format)
            empty = np.asarray(words.is_null())
        if required:
            self._reject(
                part, np.flatnonzero(part.good & empty), name, lambda row: f"{name} is empty. Fill in when it was."
            )
        self._reject(part, [row for row in says if part.good[row]], name, says.__getitem__)
        return np.where(empty, -1, at), dated

    def _known(self, part: _Part, at: Ints) -> Ints:
        recorded, _ = self._times(part, "recorded_at", required=False)
        return np.maximum(at, recorded)

    # Tables.

    def _links(self, parts: Sequence[_Part]) -> dict[str, tuple[str, int]]:
        """For each id that came to mean another lead: which one, and from when on."""
        links: dict[str, tuple[str, int]] = {}
        for part in parts:
            ids, same = self._words(part, "lead_id", required=True), self._words(part, "same_as", required=True)
            at, _ = self._times(part, "occurred_at", required=True)
            for row in part.rows[np.argsort(at[part.rows], kind="stable")]:
                one, other = ids[row].as_py(), same[row].as_py()
                target, steps = other, 0
                while target in links and steps <= len(links):
                    target, steps = links[target][0], steps + 1
                if one in (target, other):
                    self._reject(part, [row], "same_as", lambda r: f"{one!r} would be the same as itself. Remove it.")
                elif one in links and links[one][0] != other:
                    first = links[one][0]
                    self._reject(
                        part, [row], "same_as",
                        lambda r: f"{one!r} is the same as {first!r} already and cannot be {other!r} too. Keep one.",
                    )  # fmt: skip
                elif one not in links:
                    links[one] = (other, int(at[row]))
        return links

    def _touches(self, parts: Sequence[_Part]) -> tuple[_Touches, list[Kind]]:
        kinds: dict[Kind, int] = {}
        columns: list[tuple[Any, ...]] = []
        messages = []
        for number, part in enumerate(parts):
            lead = self._words(part, "lead_id", required=True)
            at, dated = self._times(part, "occurred_at", required=True)
            known = self._known(part, at)
            value = self._numbers(part, "value")
            kind = _kinds(self._words(part, "channel", required=True), self._words(part, "action"), kinds)
            rows = part.rows
            take = pa.array(rows)
            messages.append(self._words(part, "message_id").take(take))
            columns.append((
                lead.take(take), at[rows], known[rows], dated[rows], kind[rows], value[rows],
                np.full(len(rows), number, np.int32), rows,
            ))  # fmt: skip
        if not columns:
            none = np.empty(0, np.int64)
            codes = none.astype(np.int32)
            flags = none.astype(np.bool_)
            return _Touches(pa.array([], pa.string()), none, none, flags, codes, np.empty(0), none, codes, none), []
        lead, at, known, dated, kind, value, number_, row = (
            pa.concat_arrays(column) if isinstance(column[0], pa.Array) else np.concatenate(column)
            for column in zip(*columns, strict=True)
        )
        coded = pa.concat_arrays(messages).dictionary_encode().indices
        message = np.asarray(coded.cast(pa.int64()).fill_null(-1))
        return _Touches(lead, at, known, dated, kind, value, message, number_, row), list(kinds)

    def _apply_kinds(
        self, touches: _Touches, kinds: list[Kind], rules: Kinds
    ) -> tuple[_Touches, list[Kind], list[tuple[_Touches, Bools]]]:
        """Renames, leaves out, and takes outcomes out of the touches."""
        if not (rules.rename or rules.outcomes or rules.drop):
            return touches, kinds, []
        names = {name for kind in kinds for name in (kind.name, kind.channel)}
        unknown = [name for name in (*rules.rename, *rules.outcomes, *rules.drop) if name not in names]
        if unknown:
            raise TableError(
                f"dataset.toml names the kind {unknown[0]!r}, which no touch has; found {_list(sorted(names))}."
            )

        def rule(kind: Kind, table: Mapping[str, str]) -> str | None:
            return table.get(kind.name, table.get(kind.channel))

        drop = dict.fromkeys(rules.drop, "drop")
        fate = np.array(
            [2 if rule(k, drop) else {"won": 1, "lost": 0}.get(rule(k, rules.outcomes) or "", -1) for k in kinds]
        )
        fates = fate[touches.kind] if len(kinds) else np.empty(0, np.int64)
        if rules.drop:
            self.notes.append(f"{int((fates == 2).sum()):,} touches of dropped kinds left out")
        ends = touches[(fates == 0) | (fates == 1)]
        won = fates[(fates == 0) | (fates == 1)] == 1
        renamed: dict[Kind, int] = {}
        code = np.zeros(len(kinds), np.int32)
        for k, kind in enumerate(kinds):
            if fate[k] >= 0:
                continue
            channel, _, action = (rule(kind, rules.rename) or "").partition("/")
            if channel:
                kind = Kind(kind_word(channel), kind_word(action) if action else "")
            code[k] = renamed.setdefault(kind, len(renamed))
        rest = touches[fates < 0]
        rest.kind = code[rest.kind]
        return rest, list(renamed), [(ends, won)]

    def _unless_same_day(self, touches: _Touches, kinds: Sequence[Kind], parts: Sequence[_Part]) -> _Touches:
        """Leaves out rows of files that repeat what other channels have on the same day."""
        if not any(part.spec.unless_same_day for part in parts):
            return touches
        lead = np.asarray(touches.lead.dictionary_encode().indices).astype(np.int64)
        day = touches.at // US_PER_DAY
        keys = pd.MultiIndex.from_arrays([lead, day])
        keep = np.ones(len(lead), np.bool_)
        for number, part in enumerate(parts):
            channels = {kind_word(channel) for channel in part.spec.unless_same_day}
            if not channels:
                continue
            said = np.array([kind.channel in channels for kind in kinds])[touches.kind]
            mine = touches.part == number
            repeated = mine & keys.isin(keys[said & ~mine])
            keep &= ~repeated
            self.notes.append(
                f"{part.source.name}: {int(repeated.sum()):,} rows left out, their day is in {', '.join(sorted(channels))}"
            )
        return touches[keep]

    def _leads(self, parts: Sequence[_Part]) -> tuple[Ids, Ints]:
        ids, created = [], []
        first: dict[str, tuple[_Part, int]] = {}
        for part in parts:
            words = self._words(part, "lead_id", required=True)
            at, _ = self._times(part, "created_at", required=True)
            array = np.array(words.to_pylist(), object)
            again = pd.Series(array).duplicated().to_numpy() | np.array([w in first for w in array], np.bool_)
            places = {w: k for k, w in reversed(list(enumerate(array)))} if again.any() else {}
            for row in np.flatnonzero(again & part.good):
                other, k = first.get(array[row], (part, places.get(array[row], 0)))
                self._reject(
                    part, [row], "lead_id",
                    lambda r, other=other, k=k, array=array: (  # type: ignore[misc]
                        f"lead_id {array[r]!r} is there already ({other.source.place(k)}). Keep one row a lead."
                    ),
                )  # fmt: skip
            if len(parts) > 1:
                first.update((w, (part, k)) for k, w in enumerate(array) if part.good[k])
            ids.append(array[part.good])
            created.append(at[part.good])
        return np.concatenate(ids), np.concatenate(created)

    def _orphans(
        self, index: _Index, lead: pa.Array, part: Codes, row: Ints, parts: Sequence[_Part], has_leads: bool
    ) -> None:
        """Rejects rows of leads that the leads table does not have."""
        if not has_leads:
            return
        lost = np.flatnonzero(~index.knows(lead))
        for k in lost:
            name = lead[int(k)].as_py()
            self._reject(
                parts[part[k]], [int(row[k])], "lead_id",
                lambda r, name=name: f"lead_id {name!r} is not in the leads table. Add the lead or remove the row.",
            )  # fmt: skip

    def _outcomes(
        self,
        parts: Sequence[_Part],
        ended: Sequence[tuple[_Touches, Bools]],
        index: _Index,
        has_leads: bool,
        touch_parts: Sequence[_Part],
    ) -> Outcomes:
        columns: list[tuple[Any, ...]] = []
        for part in parts:
            lead = self._words(part, "lead_id", required=True)
            at, _ = self._times(part, "occurred_at", required=True)
            known = self._known(part, at)
            words = self._words(part, "outcome", required=True)
            plain = {w: re.sub(r"[^a-z0-9]", "", w.lower()) for w in pc.unique(words).to_pylist() if w is not None}
            texts = words.to_pylist()
            won = np.array([plain.get(w) in WON for w in texts], np.bool_)
            bad = np.array([w is not None and plain[w] not in WON | LOST for w in texts], np.bool_)
            self._reject(
                part, np.flatnonzero(bad & part.good), "outcome",
                lambda row, texts=texts: f"outcome {texts[row]!r} is neither won nor lost. Write won or lost.",  # type: ignore[misc]
            )  # fmt: skip
            amount = self._numbers(part, "amount")
            rows = part.rows
            taken = lead.take(pa.array(rows))
            self._orphans(index, taken, np.zeros(len(rows), np.int32), rows, [part], has_leads)
            columns.append((taken, at[rows], known[rows], won[rows], amount[rows]))
        for touches, won in ended:
            self._orphans(index, touches.lead, touches.part, touches.row, touch_parts, has_leads)
            columns.append((touches.lead, touches.at, touches.known, won, np.full(len(won), np.nan)))
        if not columns:
            return Outcomes.none()
        leads = pa.concat_arrays([column[0] for column in columns])
        at, known, won, amount = (np.concatenate([column[k] for column in columns]) for k in (1, 2, 3, 4))
        lead, rows, since = index.copies(leads)
        known = np.maximum(known[rows], since)
        order = np.lexsort((~won[rows], known, at[rows], lead))
        return Outcomes(lead[order], at[rows][order], known[order], won[rows][order], amount[rows][order])

    def _attributes(
        self, lead_parts: Sequence[_Part], parts: Sequence[_Part], index: _Index, has_leads: bool
    ) -> Attributes:
        """Columns of the leads table, and the facts that changed them later."""
        base: dict[str, list[Any]] = {}
        filled = 0
        for part in lead_parts:
            size = int(part.good.sum())
            for heading, column in part.extra.items():
                name = kind_word(heading)
                values = base.setdefault(name, [np.full(filled, None, object)])
                if sum(len(v) for v in values) > filled:
                    raise TableError(f"{part.source.name}: two columns are named {name!r}. Rename one of them.")
                values.append(_cells(column, part.spec.missing)[part.good])
            filled += size
            for values in base.values():
                if sum(len(v) for v in values) < filled:
                    values.append(np.full(size, None, object))
        changes: list[tuple[Any, ...]] = []
        for part in parts:
            lead = self._words(part, "lead_id", required=True)
            at, _ = self._times(part, "occurred_at", required=True)
            known = self._known(part, at)
            names = self._words(part, "name", required=True)
            values = _cells(part.columns["value"], part.spec.missing)
            rows = part.rows
            taken = lead.take(pa.array(rows))
            self._orphans(index, taken, np.zeros(len(rows), np.int32), rows, [part], has_leads)
            labels = np.array([kind_word(n) for n in names.take(pa.array(rows)).to_pylist()], object)
            changes.append((taken, at[rows], known[rows], labels, values[rows]))
        if changes:
            leads = pa.concat_arrays([change[0] for change in changes])
            at, known, labels, values = (np.concatenate([change[k] for change in changes]) for k in (1, 2, 3, 4))
            lead, rows, since = index.copies(leads)
            at, known, labels, values = at[rows], np.maximum(known[rows], since), labels[rows], values[rows]
        else:
            lead, at, known = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
            labels, values = np.empty(0, object), np.empty(0, object)
        columns = {name: np.concatenate(stored) for name, stored in base.items()}
        return Attributes.build(len(index.ids), columns, lead, at, known, labels, values)

    # The end.

    def _finish(self) -> dict[str, int]:
        """Stops for what could not be taken, or writes it to files and returns how many rows went to each."""
        found = [(source, mine) for source, mine in self.problems.values() if mine]
        if not found:
            return {}
        if self.on_error == "stop":
            told, total = [], sum(len(mine) for _, mine in found)
            for source, mine in found:
                for row in sorted(mine, key=lambda r: (r < 0, r))[: 5 - len(told)]:
                    told.append(_say(source, row, mine[row][1]))
            more = f"\n... and {total - len(told):,} more" if total > len(told) else ""
            raise TableError(
                "\n".join(told)
                + more
                + "\nNothing was read. Mend the rows, or set them aside with --on-error quarantine."
            )
        written: dict[str, int] = {}
        for source, mine in found:
            path = (
                source.path.with_name(source.path.name + ".quarantine.csv")
                if source.path
                else Path(f"{source.name}.quarantine.csv")
            )
            try:
                with path.open("w", encoding="utf-8", newline="") as handle:
                    out = csv.writer(handle)
                    out.writerow(("place", "column", "problem", "record"))
                    for row in sorted(mine):
                        column, says = mine[row]
                        record = source.record(row) if row >= 0 else source.ragged[-1 - row].record
                        place, _, problem = _say(source, row, says).partition(": ")
                        out.writerow((place, column, problem, record))
            except OSError as problem:
                raise TableError(f"{path}: the rows to set aside cannot be written ({problem.strerror}).") from None
            written[str(path)] = len(mine)
        return written


class _Index:
    """Finds the leads an id stands for: itself, and those it came to mean."""

    def __init__(self, ids: Ids, links: Mapping[str, tuple[str, int]]) -> None:
        self.ids = ids
        self.links = links
        self._values = pa.array(ids, pa.string())
        self._links = pd.DataFrame(
            {"to": [to for to, _ in links.values()], "at": [at for _, at in links.values()]},
            index=pd.Index(list(links), dtype=object),
        )

    def _find(self, names: pa.Array) -> Ints:
        return np.asarray(pc.index_in(names, value_set=self._values).fill_null(-1)).astype(np.int64)

    def own(self, name: str) -> int:
        """The index of the lead of exactly this id, or -1."""
        return int(self._find(pa.array([name], pa.string()))[0])

    def copies(self, names: pa.Array) -> tuple[Ints, Ints, Ints]:
        """Returns (lead, row, since) of every lead that each row counts for, and from when on it is known to."""
        lead = self._find(names)
        rows = np.arange(len(names))
        since = np.zeros(len(names), np.int64)
        found = [(lead, rows, since)]
        if self.links:
            here = np.flatnonzero(np.asarray(pc.is_in(names, value_set=pa.array(list(self.links), pa.string()))))
            current = np.array(names.take(pa.array(here)).to_pylist(), object)
            since = np.zeros(len(here), np.int64)
            while len(here):
                linked = self._links.loc[current]
                since = np.maximum(since, linked["at"].to_numpy(np.int64))
                current = linked["to"].to_numpy(object)
                found.append((self._find(pa.array(current, pa.string())), here, since))
                more = np.array([name in self.links for name in current], np.bool_)
                here, current, since = here[more], current[more], since[more]
        lead, rows, since = (np.concatenate(column) for column in zip(*found, strict=True))
        known = lead >= 0
        return lead[known], rows[known], since[known]

    def knows(self, names: pa.Array) -> Bools:
        """Whether each row counts for any lead."""
        known = np.zeros(len(names), np.bool_)
        known[self.copies(names)[1]] = True
        return known


def _cells(column: pa.Array, missing: Sequence[str]) -> Ids:
    """A column of attribute values as Python numbers, words or None.

    Text that reads as numbers throughout is numbers.
    """
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
        numbers = np.array(column.cast(pa.float64(), safe=False).fill_null(np.nan), np.float64)
        return np.where(np.isfinite(numbers), numbers.astype(object), None)
    coded = _text(column, missing).dictionary_encode()
    words = [attribute_word(word) for word in coded.dictionary.to_pylist()]
    table: list[Any] = [word_number(word) for word in words]
    if any(number != number for number in table):
        table = list(words)
    codes = np.asarray(coded.indices.fill_null(len(table))).astype(np.int64)
    lookup = np.empty(len(table) + 1, object)
    lookup[:-1] = table
    return np.asarray(lookup[codes], object)


def _leads_of(touches: _Touches, links: Mapping[str, tuple[str, int]]) -> tuple[Ids, Ints]:
    """The leads of a touchpoints table that comes without a leads table; each is created by its first touch."""
    names = np.array(touches.lead.to_pylist(), object)
    mine = pd.Series(touches.at, index=names, dtype="int64").groupby(level=0).min()
    for one, (other, _) in links.items():
        if one in mine.index and other not in mine.index:
            mine.loc[other] = mine.loc[one]
    mine = mine.sort_index()
    return mine.index.to_numpy(object), mine.to_numpy(np.int64)


def _kinds(channel: pa.Array, action: pa.Array, kinds: dict[Kind, int]) -> Codes:
    """Codes the pairs of channel and action, adding new ones to `kinds`."""
    channels, actions = channel.dictionary_encode(), action.dictionary_encode()
    channel_words = [kind_word(w) for w in channels.dictionary.to_pylist()] + [""]
    action_words = [kind_word(w) for w in actions.dictionary.to_pylist()] + [""]
    width = len(action_words)
    pair = np.asarray(channels.indices.fill_null(len(channel_words) - 1)).astype(np.int64) * width
    pair += np.asarray(actions.indices.fill_null(width - 1)).astype(np.int64)
    distinct, codes = np.unique(pair, return_inverse=True)
    mine = [
        kinds.setdefault(Kind(channel_words[p // width], action_words[p % width]), len(kinds))
        for p in distinct.tolist()
    ]
    return np.array(mine, np.int32)[codes]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def _text(column: pa.Array, missing: Sequence[str] = ()) -> pa.Array:
    """A column as text without surrounding blanks; null where empty or a word for missing."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return pc.if_else(column, "true", "false")
    if pa.types.is_floating(kind):
        values = column.to_pylist()
        return pa.array([None if v is None or v != v else number_word(v) for v in values], pa.string())
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    for word in ("", *missing):
        text = pc.if_else(pc.equal(text, word), pa.scalar(None, pa.string()), text)
    return text


def _typed_times(column: pa.Array, zone: str | None) -> tuple[Ints, Bools, Bools] | None:
    """Times of a typed column; None if they carry no zone and none is given.

    A column without a zone in which every time is a midnight is a column of dates, as data frames read them.
    """
    empty = np.asarray(column.is_null())
    us = np.asarray(
        column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64()).fill_null(0)
    )
    if getattr(column.type, "tz", None):
        return us, np.zeros(len(us), np.bool_), empty
    if pa.types.is_date(column.type) or (len(us) and bool((us % US_PER_DAY == 0).all())):
        return _localize(us + US_PER_DAY, zone or "UTC") - 1, np.ones(len(us), np.bool_), empty
    return None if zone is None else (_localize(us, zone), np.zeros(len(us), np.bool_), empty)


def _localize(wall: Ints, zone: str) -> Ints:
    """Wall-clock microseconds in a zone as UTC; an hour that comes twice means the first, one that is skipped its end."""
    if zone == "UTC":
        return wall
    index = pd.DatetimeIndex(wall.astype("datetime64[us]"))
    first = np.ones(len(wall), np.bool_)
    local = index.tz_localize(find_zone(zone), ambiguous=first, nonexistent="shift_forward")
    return np.asarray(local.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64))


def _parse_times(
    words: pa.Array, name: str, zone: str | None, date_format: str | None
) -> tuple[Ints, Bools, dict[int, str]]:
    """Text as (microseconds, bare dates, what is wrong by row)."""
    dated = np.zeros(len(words), np.bool_)
    if date_format is None:
        try:
            whole = words.cast(pa.timestamp("us", "UTC"))
            return np.asarray(whole.cast(pa.int64()).fill_null(0)), dated, {}
        except pa.ArrowInvalid:
            pass
        try:
            naive = words.cast(pa.timestamp("us"))
            us = np.asarray(naive.cast(pa.int64()).fill_null(0))
            dated = np.asarray(pc.less_equal(pc.utf8_length(words), 10).fill_null(False))
            if zone is not None or dated.all() or not len(us):
                at = us.copy()
                at[dated] = _localize(us[dated] + US_PER_DAY, zone or "UTC") - 1
                if zone is not None:
                    at[~dated] = _localize(us[~dated], zone)
                elif (~dated & np.asarray(words.is_valid())).any():
                    raise pa.ArrowInvalid("times without a zone")
                return at, dated, {}
        except pa.ArrowInvalid:
            pass
    return _parse_slowly(words, name, zone, date_format)


_BARE_DATE = re.compile(r"\d{4}-?\d{2}-?\d{2}$")
_ZONED = re.compile(r"\d[T ]?\d{2}(:?\d{2}){1,2}([.,]\d+)?\s*(Z|z|UTC|[+-]\d{2}(:?\d{2})?)$")


def _parse_slowly(
    words: pa.Array, name: str, zone: str | None, date_format: str | None
) -> tuple[Ints, Bools, dict[int, str]]:
    """Like `_parse_times`, for columns in which forms are mixed or something is wrong."""
    texts = pd.Series(words.to_pylist(), dtype=object)
    valid = texts.notna().to_numpy()
    if date_format is None:
        dated = np.array([bool(w and _BARE_DATE.match(w)) for w in texts], np.bool_)
        zoned = np.array([bool(w and _ZONED.search(w)) for w in texts], np.bool_)
        parsed = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
        hint = "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format."
    else:
        has_time = any(code in date_format for code in ("%H", "%I", "%T", "%X", "%c", "%s"))
        zoned = np.full(len(texts), "%z" in date_format or "%Z" in date_format) & valid
        dated = np.full(len(texts), not has_time) & valid
        try:
            parsed = pd.to_datetime(texts, format=date_format, utc=True, errors="coerce")
        except ValueError as problem:
            raise UsageError(f"--date-format {date_format!r} cannot be used: {problem}.") from None
        hint = f"It should look like {date_format}."
    bad = valid & parsed.isna().to_numpy()
    says = {int(row): f"{name} {texts[row]!r} is not a date. {hint}" for row in np.flatnonzero(bad)}
    naive = valid & ~bad & ~dated & ~zoned
    if zone is None:
        says |= {
            int(
                row
            ): f"{name} {texts[row]!r} carries no zone. Write an offset (2026-02-28T14:00:00+01:00), or pass --zone."
            for row in np.flatnonzero(naive)
        }
    filled = parsed.dt.tz_localize(None).fillna(pd.Timestamp(0))
    us = filled.to_numpy().astype("datetime64[us]").astype(np.int64)
    at = us.copy()
    at[dated] = _localize(us[dated] + US_PER_DAY, zone or "UTC") - 1
    if zone is not None:
        at[naive] = _localize(us[naive], zone)
    return at, dated, says


def _say(source: Source, row: int, says: str) -> str:
    return f"{source.place(row)}: {says}" if row >= 0 else says


def _list(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "") or "none"
