"""Reads and checks the tables a dataset is made of, and builds the `Dataset`.

Every value that cannot be taken is named with its file, line and column, and either stops the reading or, with
`on_error="quarantine"`, is set aside in a file with its whole row. Nothing vanishes without being counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features.aliases import LeadIndex, Links, chain_of
from features.columns import COLUMNS, Cells, Part, Reading, listed
from features.config import TABLES, Kinds, TableFile
from features.errors import TableError
from features.history import Attributes, Bools, Codes, Dataset, History, Ints, Kind, Outcomes
from features.inputs import Input, find_input
from features.linked import linked_history
from features.parsing import TEXT, codes, distinct_integers, local_days, whole
from features.rejects import OnError, Rejects
from features.sources import Source
from features.times import NEVER, find_zone
from features.words import kind_word, so_many

WON = frozenset({"won", "closedwon", "win", "converted", "purchased", "purchase", "sold", "true", "yes", "1"})
LOST = frozenset({"lost", "closedlost", "loss", "disqualified", "unqualified", "declined", "false", "no", "0"})
"""What `outcome` may say, in lower case without signs."""

_FREE = " "
"""Begins the names of attributes among the columns of leads, as no name of ours does."""

Given = Mapping[str, Sequence[tuple[TableFile, Source]]]
"""The sources of each table, with what is to be made of them."""


@dataclass(frozen=True)
class ReadReport:
    """What reading a dataset found: nothing that was left out is missing here.

    >>> import pandas as pd
    >>> leads = pd.DataFrame({"lead_id": ["a", "b"], "created_at": "2026-01-01"})
    >>> Dataset.from_frames(leads=leads).report.lines()
    ['2 rows of leads']
    """

    rows: Mapping[str, int]
    """Rows read from each table."""
    duplicates: int
    """Touches that were there twice and count once."""
    automated: int
    """Mails opened or clicked by machines, which do not count."""
    quarantined: Mapping[str, int]
    """Rows set aside, by the file they were written to."""
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that were to be left out, or that repeat another, by file and reason."""
    early: Mapping[str, int] = field(default_factory=dict)
    """Rows recorded before they occurred, by table."""
    headings: Mapping[str, str] = field(default_factory=dict)
    """The heading in the leads table that each attribute was read from."""
    written: Mapping[str, Cells] = field(default_factory=dict)
    """How attributes that are text are written, by file and heading."""

    def lines(self) -> list[str]:
        """The report in lines of text."""
        told = [f"{so_many(count, 'row')} of {name}" for name, count in self.rows.items()]
        told += [f"{self.duplicates:,} duplicate touches count once"] if self.duplicates else []
        told += [f"{self.automated:,} automated opens and clicks do not count"] if self.automated else []
        told += [f"{reason}: {so_many(count, 'row')}" for reason, count in self.left_out.items()]
        told += [f"{so_many(count, 'row')} set aside in {path}" for path, count in self.quarantined.items()]
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
    found = find_input(path, columns)
    sources = {at: Source.read(at) for at in found.paths()}
    given = {table: [(spec, sources[found.folder / spec.file]) for spec in found.files[table]] for table in TABLES}
    return _dataset(reading_of(found, columns, zone, date_format), given, found.config.kinds, on_error)


def reading_of(found: Input, columns: Mapping[str, str] | None, zone: str | None, date_format: str | None) -> Reading:
    """How the tables of an input are to be read: what is said here goes before what its `dataset.toml` says."""
    config = found.config
    return Reading(zone or config.zone, date_format or config.date_format, columns or {}, notes=[*found.notes])


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
    given = {
        table: [(TableFile(table), Source.from_frame(table, frames[table]))] if table in frames else []
        for table in TABLES
    }
    return _dataset(Reading(zone, date_format, columns or {}), given, Kinds(), on_error)


def _dataset(reading: Reading, given: Given, rules: Kinds, on_error: OnError) -> Dataset:
    share = read_share(reading, given, rules, lambda rejects: rejects.settle(on_error))
    pa.default_memory_pool().release_unused()
    found = (*unknown_kinds(rules, share.kinds), *_decimal_commas(share.report.written))
    notes = tuple(dict.fromkeys((*share.report.notes, *found)))
    return replace(share.dataset, report=replace(share.report, notes=notes))


@dataclass(frozen=True)
class Share:
    """Some leads of a dataset with all that is known of them, as `read_share` reads them."""

    dataset: Dataset
    report: ReadReport
    kinds: frozenset[str]
    """The kinds of touches that were there, and their channels."""


def read_share(reading: Reading, given: Given, rules: Kinds, settle: Callable[[Rejects], dict[str, int]]) -> Share:
    """Builds the dataset of whole leads: all rows of theirs, and of the ids linked with them, have to be given.

    `settle` is told of the rows that cannot be taken. A lead is the same as in the dataset of all of them.
    """
    tables = _Tables(reading, given, rules)
    dataset = tables.dataset(settle)
    assert dataset.report is not None
    return Share(dataset, dataset.report, frozenset(tables.kind_names))


def merge_reports(reports: Sequence[ReadReport], kinds: Iterable[str], rules: Kinds) -> ReadReport:
    """What the shares of a dataset are together; rows set aside are not counted here."""
    written = _added(pair for report in reports for pair in report.written.items())
    notes = chain(*(report.notes for report in reports), unknown_kinds(rules, kinds), _decimal_commas(written))
    return ReadReport(
        rows=_total(report.rows for report in reports),
        duplicates=sum(report.duplicates for report in reports),
        automated=sum(report.automated for report in reports),
        quarantined={},
        notes=tuple(dict.fromkeys(notes)),
        left_out=_total(report.left_out for report in reports),
        early=_total(report.early for report in reports),
        headings={name: heading for report in reports for name, heading in report.headings.items()},
        written=written,
    )


def unknown_kinds(rules: Kinds, names: Iterable[str]) -> list[str]:
    """Notes on the kinds that a `dataset.toml` names and no touch has.

    No error: the list to score today need not hold every kind that the past has.
    """
    found = frozenset(names)
    return [
        f"dataset.toml names the kind {name!r}, which no touch has; found {listed(sorted(found))}"
        for name in (*rules.rename, *rules.outcomes, *rules.drop)
        if name not in found
    ]


def _decimal_commas(written: Mapping[str, Cells]) -> list[str]:
    """Notes on attributes whose numbers have a decimal comma, which makes words of them."""
    return [
        f"{of} is taken as words, for its numbers have a decimal comma. Write them like 1234.5"
        for of, cells in written.items()
        if cells.commas and cells.numbers >= 0.9 * cells.filled
    ]


def _added(written: Iterable[tuple[str, Cells]]) -> dict[str, Cells]:
    total: dict[str, Cells] = {}
    for of, cells in written:
        total[of] = Cells(*map(sum, zip(total.get(of, (0, 0, 0)), cells, strict=True)))
    return total


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for mine in counts:
        for name, count in mine.items():
            total[name] = total.get(name, 0) + count
    return total


@dataclass(frozen=True)
class _Rows:
    """The good rows of a table's parts below each other."""

    parts: Sequence[Part]
    part: Codes
    """Which part each row is of."""
    row: Codes
    """Its row in there."""
    columns: dict[str, Any]

    @classmethod
    def of(cls, parts: Sequence[Part], read: Callable[[Part], dict[str, Any]]) -> Self:
        """Gathers what `read` makes of each part, and takes the rows that are good after that."""
        columns = [read(part) for part in parts]
        rows = [_good_rows(part) for part in parts]
        kept = [
            column if part.good.all() else {name: _take(entry, mine) for name, entry in column.items()}
            for part, column, mine in zip(parts, columns, rows, strict=True)
        ]
        return cls(
            parts,
            _concat([_all_of(number, len(mine)) for number, mine in enumerate(rows)]),
            _concat(rows),
            {name: _concat([column[name] for column in kept]) for name in columns[0]},
        )

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def take(self, which: Ints | Bools, **changed: Any) -> _Rows:
        """Some of the rows, with some columns put in the place of theirs."""
        if which.dtype == np.bool_ and which.all():
            return _Rows(self.parts, self.part, self.row, self.columns | changed)
        rows = np.flatnonzero(which) if which.dtype == np.bool_ else which
        columns = {name: _take(column, rows) for name, column in self.columns.items() if name not in changed}
        return _Rows(self.parts, self.part[rows], self.row[rows], columns | changed)

    def once(self) -> _Rows:
        """Each row once, however many leads it counts for."""
        _, first = np.unique(
            self.part * (int(self.row.max(initial=0)) + 1) + self.row.astype(np.int64), return_index=True
        )
        return self.take(first)

    def reject(self, which: Ints, column: str, says: Sequence[str]) -> None:
        """Says of some rows what is wrong in a column; they still have to be left out."""
        for number, part in enumerate(self.parts):
            mine = np.flatnonzero(self.part[which] == number).tolist()
            part.reject(column, {int(self.row[which[k]]): says[k] for k in mine})

    def place(self, k: int) -> str:
        """Says where a row stands in its file."""
        source: Source = self.parts[self.part[k]].source
        return source.place(int(self.row[k]))


class _Tables:
    """All tables of a dataset, to be checked against each other."""

    def __init__(self, reading: Reading, given: Given, rules: Kinds) -> None:
        if reading.zone is not None:
            find_zone(reading.zone)
        reading.check_mapping({table: [source for _, source in given[table]] for table in TABLES})
        for source in dict.fromkeys(source for table in TABLES for _, source in given[table]):
            reading.notes.extend(source.notes)
        self.reading = reading
        self.rules = rules
        self.kind_names: set[str] = set()
        self.counts = {table: sum(source.rows for _, source in given[table]) for table in TABLES if given[table]}
        # Leads go first, and so does what is wrong with them: without its lead a row of another table is lost too.
        order = sorted(TABLES, key=lambda table: table != "leads")
        self.parts = {table: _parts(table, given[table], reading) for table in order}

    def dataset(self, settle: Callable[[Rejects], dict[str, int]]) -> Dataset:
        """Checks everything, then settles what cannot be taken and builds the dataset."""
        leads, aliases = self._leads(), self._aliases()
        touches, kinds = self._touches()
        touches, kinds, ended = self._apply_kinds(touches, kinds)
        touches = self._unless_same_day(touches, kinds)
        if self.has_leads:
            words, created = leads["lead"].dictionary_decode(), leads["at"]
            links = self._links(aliases, words)
        else:
            links = self._links(aliases, None)
            words, created = _leads_of(touches, links)
        index = LeadIndex(words, links)
        touch_lead, seen, since = self._resolve(index, touches)
        outcomes = self._outcomes(index, ended)
        attributes = self._attributes(index, leads)
        quarantined = settle(self.reading.rejects)
        headings = {name: heading for part in self.parts["leads"] for name, heading in _attribute_names(part).items()}
        for part in chain(*self.parts.values()):
            part.forget()
        # What Arrow would keep for tables to come is as large as the dataset.
        pa.default_memory_pool().release_unused()

        history = _history(len(index), touch_lead, seen, kinds, since)
        read, once = seen, history
        if links and (len(history) < len(seen) or len(history.hidden)):
            read = seen.once()
            once = _history(len(read["lead"].dictionary), codes(read["lead"]), read, kinds)
        duplicates = len(read) - len(once) - once.automated
        notes = tuple(dict.fromkeys(self.reading.notes))
        left_out, early = dict(self.reading.left_out), dict(+self.reading.early)
        written = _added(self.reading.written)
        report = ReadReport(
            self.counts, duplicates, once.automated, quarantined, notes, left_out, early, headings, written
        )  # fmt: skip
        ids = np.asarray(words.to_numpy(zero_copy_only=False), object)
        # Arrow's own memory cannot be written, and compiled code is compiled anew for what cannot.
        created = np.require(created, requirements="W")
        return Dataset(ids, created, index.merged_at(), history, attributes, outcomes, report)

    @property
    def has_leads(self) -> bool:
        """Whether there is a leads table; without one, leads come from touches."""
        return "leads" in self.counts

    def _leads(self) -> _Rows:
        """One row a lead, with its attributes as columns; a row that is there twice counts once."""
        parts = self.parts["leads"]
        names = dict.fromkeys(name for part in parts for name in _attribute_names(part))

        def read(part: Part) -> dict[str, Any]:
            headings = _attribute_names(part)
            none = np.full(len(part.good), None, object)
            own = {_FREE + n: part.attribute(headings[n]) if n in headings else none for n in names}
            return {"lead": part.words("lead_id", required=True), "at": part.times("created_at")[0], **own}

        rows = _Rows.of(parts, read)
        first = _first_of_same(rows["lead"])
        again = np.flatnonzero(first != np.arange(len(rows)))
        if not len(again):
            return rows
        same = np.ones(len(again), np.bool_)
        for name in rows.columns.keys() - {"lead"}:
            same &= rows[name][again] == rows[name][first[again]]
        hint = "with other values. Keep one row a lead."
        lead, differs = rows["lead"], again[~same]
        rows.reject(
            differs,
            "lead_id",
            [f"{lead[k].as_py()!r} is there already ({rows.place(first[k])}) {hint}" for k in differs.tolist()],
        )
        self._leave_out(rows, again[same], "repeated and the same, count once")
        return rows.take(first == np.arange(len(rows)))

    def _aliases(self) -> _Rows:
        """Which id came to mean which other, in order of time."""
        rows = _Rows.of(
            self.parts["aliases"],
            lambda part: {
                "lead": part.words("lead_id", required=True),
                "same_as": part.words("same_as", required=True),
                "at": part.times("occurred_at")[0],
            },
        )
        return rows.take(np.argsort(rows["at"], kind="stable"))

    def _links(self, aliases: _Rows, ids: pa.Array | None) -> dict[str, tuple[str, int]]:
        """The aliases that hold together; each has to lead to a known lead where leads are given."""
        links: dict[str, tuple[str, int]] = {}
        row_of: dict[str, int] = {}
        again: list[int] = []
        wrong: dict[int, str] = {}
        pairs = zip(aliases["lead"].to_pylist(), aliases["same_as"].to_pylist(), aliases["at"].tolist(), strict=True)
        for k, (one, other, at) in enumerate(pairs):
            if one == other or any(name == one for name, _ in chain_of(other, links)):
                wrong[k] = f"{other!r} would make {one!r} the same as itself. Remove the row."
            elif one not in links:
                links[one], row_of[one] = (other, at), k
            elif links[one][0] != other:
                wrong[k] = f"{other!r} cannot be, for {one!r} is the same as {links[one][0]!r} already. Keep one."
            else:
                again.append(k)
        if links and ids is not None:
            known = set(ids.to_pylist())
            lost = {one for one in links if not any(name in known for name, _ in chain_of(one, links))}
            hint = "is not in the leads table. Add the lead, or remove the row."
            wrong |= {row_of[one]: f"{links[one][0]!r} {hint}" for one in lost}
            links = {one: link for one, link in links.items() if one not in lost}
        aliases.reject(np.array(list(wrong), np.int64), "same_as", list(wrong.values()))
        self._leave_out(aliases, np.array(again, np.int64), "repeated, the first link counts")
        return links

    def _touches(self) -> tuple[_Rows, list[Kind]]:
        def read(part: Part) -> dict[str, Any]:
            at, dated = part.times("occurred_at")
            return {
                "lead": part.words("lead_id", required=True),
                "at": at,
                "known": part.known(at, dated),
                "dated": dated,
                "channel": part.words("channel", required=True),
                "action": part.words("action"),
                "value": part.numbers("value"),
                "message": part.words("message_id"),
            }

        rows = _Rows.of(self.parts["touchpoints"], read)
        kind, kinds = _kinds(rows.columns.pop("channel"), rows.columns.pop("action"))
        rows.columns["kind"] = kind
        return rows, kinds

    def _apply_kinds(self, touches: _Rows, kinds: list[Kind]) -> tuple[_Rows, list[Kind], _Rows]:
        """Renames and leaves out kinds; returns the touches, their kinds, and those that are outcomes."""
        rules = self.rules
        self.kind_names = {name for kind in kinds for name in (kind.name, kind.channel)}
        dropped = np.array([_rule(kind, dict.fromkeys(rules.drop, "drop")) is not None for kind in kinds], np.bool_)
        ending = np.array([_rule(kind, rules.outcomes) or "" for kind in kinds], object)
        if not dropped.any() and not ending.any() and not rules.rename:
            return touches, kinds, touches.take(np.empty(0, np.int64), won=np.empty(0, np.bool_), amount=np.empty(0))
        renamed: dict[Kind, int] = {}
        code = np.zeros(len(kinds), np.int32)
        for k, kind in enumerate(kinds):
            if not dropped[k] and not ending[k]:
                code[k] = renamed.setdefault(_renamed(kind, rules.rename), len(renamed))

        kind = touches["kind"]
        is_dropped = dropped[kind]
        is_end = (ending != "")[kind] & ~is_dropped
        self._leave_out(touches, is_dropped, "left out, of dropped kinds")
        ended = touches.take(is_end, won=(ending == "won")[kind[is_end]], amount=np.full(int(is_end.sum()), np.nan))
        stay = ~is_dropped & ~is_end
        return touches.take(stay, kind=code[kind[stay]]), list(renamed), ended

    def _unless_same_day(self, touches: _Rows, kinds: Sequence[Kind]) -> _Rows:
        """Leaves out rows of files that repeat what other channels have on the same day."""
        if not any(part.spec.unless_same_day for part in touches.parts):
            return touches
        days = pd.MultiIndex.from_arrays([codes(touches["lead"]), local_days(touches["at"], self.reading.zone)])
        repeated = np.zeros(len(touches), np.bool_)
        for number, part in enumerate(touches.parts):
            channels = {kind_word(channel) for channel in part.spec.unless_same_day}
            said = np.array([kind.channel in channels for kind in kinds], np.bool_)[touches["kind"]]
            mine = touches.part == number
            repeats = mine & days.isin(days[said & ~mine])
            self._leave_out(touches, repeats, f"left out, their day is in {', '.join(sorted(channels))}")
            repeated |= repeats
        return touches.take(~repeated)

    def _outcomes(self, index: LeadIndex, ended: _Rows) -> Outcomes:
        def read(part: Part) -> dict[str, Any]:
            at, dated = part.times("occurred_at")
            lead, known = part.words("lead_id", required=True), part.known(at, dated)
            return {"lead": lead, "at": at, "known": known, "won": _won(part), "amount": part.numbers("amount")}

        found = [self._resolve(index, rows) for rows in (_Rows.of(self.parts["outcomes"], read), ended)]
        lead = np.concatenate([lead for lead, _, _ in found]).astype(np.int64)
        at, known, won, amount = (
            np.concatenate([rows[name] for _, rows, _ in found]) for name in ("at", "known", "won", "amount")
        )
        order = np.lexsort((~won, known, at, lead))
        if index.links:
            known = np.maximum(known, np.concatenate([since for _, _, since in found]))
        return Outcomes(lead[order], at[order], known[order], won[order], amount[order])

    def _attributes(self, index: LeadIndex, leads: _Rows) -> Attributes:
        """Columns of the leads table, and the facts that changed them later."""

        def read(part: Part) -> dict[str, Any]:
            at, dated = part.times("occurred_at")
            lead, known = part.words("lead_id", required=True), part.known(at, dated)
            name = part.words("name", required=True)
            return {"lead": lead, "at": at, "known": known, "name": name, "cell": part.facts(name)}

        lead, facts, since = self._resolve(index, _Rows.of(self.parts["attributes"], read))
        words = facts["name"].dictionary.to_pylist()
        names = np.array([*map(kind_word, words), ""], object)[codes(facts["name"])]
        base = {name[len(_FREE) :]: column for name, column in leads.columns.items() if name.startswith(_FREE)}
        return Attributes.build(
            len(index), base, lead.astype(np.int64), facts["at"], facts["known"], names, facts["cell"], since
        )

    def _resolve(self, index: LeadIndex, rows: _Rows) -> tuple[Codes, _Rows, Ints | None]:
        """Returns the lead of every row that counts for one, a row that counts for several repeated, and these rows.

        Where ids are linked, also from when on each counts for its lead, -NEVER: always.
        """
        if not index.links and (lead := index.find(rows["lead"])).min(initial=0) >= 0:
            return lead, rows, None
        lead, which, since = index.copies(rows["lead"])
        lost = np.ones(len(rows), np.bool_)
        lost[which] = False
        if self.has_leads:
            where = np.flatnonzero(lost)
            names = rows["lead"].take(pa.array(where)).to_pylist()
            says = [f"{name!r} is not in the leads table. Add the lead, or remove the row." for name in names]
            rows.reject(where, "lead_id", says)
        else:
            self._leave_out(rows, lost, "left out, of leads without a touch")
        return lead, rows.take(which), since if index.links else None

    def _leave_out(self, rows: _Rows, which: Ints | Bools, reason: str) -> None:
        counts = np.bincount(rows.part[which], minlength=len(rows.parts)).tolist()
        for part, count in zip(rows.parts, counts, strict=True):
            if count:
                self.reading.left_out[f"{part.source.name}: {reason}"] += count


def _parts(table: str, given: Sequence[tuple[TableFile, Source]], reading: Reading) -> list[Part]:
    """A table's parts; a table that is not there has one without rows."""
    if not given:
        nothing = pa.table({name: pa.array([], TEXT) for name in COLUMNS[table][0]})
        return [Part.of(table, TableFile(table), Source(table, nothing), Reading())]
    return [Part.of(table, spec, source, reading) for spec, source in given]


def _attribute_names(part: Part) -> dict[str, str]:
    """The attributes a leads file holds, with their headings."""
    names: dict[str, str] = {}
    for heading in part.extra:
        name = kind_word(heading)
        if name in names:
            raise TableError(
                f"{part.source.name}: {names[name]!r} and {heading!r} are both the attribute {name}. Rename one."
            )
        names[name] = heading
    return names


def _won(part: Part) -> Bools:
    """Whether each row says won; rejects those that say neither that nor lost."""
    outcome = part.words("outcome", required=True)
    words = outcome.dictionary.to_pylist()
    plain = [re.sub(r"[\W_]", "", word.lower()) for word in words]
    unknown = np.array([word not in WON | LOST for word in plain] + [False], np.bool_)
    mine = codes(outcome)
    bad = np.flatnonzero(unknown[mine]).tolist()
    hint = "is neither won nor lost. Write won or lost; a deal that is still open has no row."
    part.reject("outcome", {row: f"{words[mine[row]]!r} {hint}" for row in bad})
    return np.array([word in WON for word in plain] + [False], np.bool_)[mine]


def _leads_of(touches: _Rows, links: Links) -> tuple[pa.Array, Ints]:
    """The leads of touches that come without a leads table: created by the first touch, or by the first link to it."""
    words = touches["lead"]
    first = np.full(len(words.dictionary), NEVER, np.int64)
    np.minimum.at(first, codes(words), touches["at"])
    if not links:
        touched = first < NEVER
        return (words.dictionary if touched.all() else words.dictionary.filter(pa.array(touched))), first[touched]
    names = words.dictionary.to_pylist()
    created = {name: at for name, at in zip(names, first.tolist(), strict=True) if at < NEVER}
    for name in list(created):
        for other, since in chain_of(name, links):
            created[other] = min(created.get(other, NEVER), max(since, created[name]))
    return pa.array(list(created), TEXT), np.array(list(created.values()), np.int64)


def _history(leads: int, lead: Codes, rows: _Rows, kinds: Sequence[Kind], since: Ints | None = None) -> History:
    at, known, kind, value = rows["at"], rows["known"], rows["kind"], rows["value"]
    message = np.asarray(rows["message"].indices.fill_null(-1)) if len(rows["message"].dictionary) else None
    dated = rows["dated"] if rows["dated"].any() else None
    if since is None:
        return History.build(leads, lead, at, known, kind, value, kinds, message, dated)
    return linked_history(leads, lead, at, known, kind, value, kinds, message, dated, since)


def _kinds(channel: pa.DictionaryArray, action: pa.DictionaryArray) -> tuple[Codes, list[Kind]]:
    """Codes of the pairs of channel and action, and the pairs."""
    channels = [kind_word(word) for word in channel.dictionary.to_pylist()]
    actions = [*map(kind_word, action.dictionary.to_pylist()), ""]
    pair: npt.NDArray[Any] = codes(channel)
    if len(actions) > 1:
        pair = pair.astype(np.int64) * len(actions) + codes(action)
    place, pairs = distinct_integers(pair)
    named = [Kind(channels[pair // len(actions)], actions[pair % len(actions)]) for pair in pairs.tolist()]
    kinds = sorted(set(named))
    code = {kind: k for k, kind in enumerate(kinds)}
    return np.array([code[kind] for kind in named], np.int32)[place], kinds


def _rule(kind: Kind, rules: Mapping[str, str]) -> str | None:
    """What a table of rules says of a kind: of itself, or of its whole channel."""
    return rules.get(kind.name, rules.get(kind.channel))


def _renamed(kind: Kind, rules: Mapping[str, str]) -> Kind:
    channel, _, action = (_rule(kind, rules) or "").partition("/")
    return Kind(kind_word(channel), kind_word(action) if action else "") if channel else kind


def _first_of_same(words: pa.DictionaryArray) -> Ints:
    """For each row the first one that holds the same word."""
    place = codes(words)
    first = np.full(len(words.dictionary), len(place), np.int64)
    np.minimum.at(first, place, np.arange(len(place)))
    return first[place]


def _good_rows(part: Part) -> Codes:
    if part.good.all():
        return np.arange(len(part.good), dtype=np.int32)
    return np.flatnonzero(part.good).astype(np.int32)


def _all_of(number: int, rows: int) -> Codes:
    # Zeros take no memory until they are written.
    return np.full(rows, number, np.int32) if number else np.zeros(rows, np.int32)


def _take(column: Any, rows: npt.NDArray[Any]) -> Any:
    return column.take(pa.array(rows)) if isinstance(column, pa.Array) else column[rows]


def _concat(columns: Sequence[Any]) -> Any:
    if len(columns) == 1:
        return columns[0]
    if isinstance(columns[0], pa.Array):
        return whole(pa.chunked_array(columns))
    return np.concatenate(columns)
