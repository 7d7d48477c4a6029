"""What is known of leads: touchpoints, attribute facts and outcomes as flat columns, and the cohorts asked about.

The columns are numpy arrays grouped by lead, so that a numba loop walks one lead's past without touching another's.
Every instant is microseconds since 1970 in UTC (see `features.times`).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from features.errors import TableError, UsageError
from features.times import NEVER, US_PER_DAY, Time, to_us
from features.touchpoints import DELIVERED, ENGAGED, mail_steps
from features.words import number_word, word_number

if TYPE_CHECKING:
    import pandas as pd

    from features.tables import ReadReport

Ints: TypeAlias = npt.NDArray[np.int64]
Codes: TypeAlias = npt.NDArray[np.int32]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Matrix: TypeAlias = npt.NDArray[np.float32]
Ids: TypeAlias = npt.NDArray[np.object_]
Cell: TypeAlias = float | str | None
"""An attribute's value: a number, a word, or missing."""


class Kind(NamedTuple):
    """What a touchpoint was: a channel and, where the log says it, an action ("" where it does not).

    >>> Kind("email", "click").name, Kind("fair").name
    ('email_click', 'fair')
    """

    channel: str
    action: str = ""

    @property
    def name(self) -> str:
        """The kind in one word, e.g. `email_click`."""
        return f"{self.channel}_{self.action}" if self.action else self.channel


AUTOMATED = 2_000_000
"""How soon after its delivery a mail is opened by a machine, in microseconds."""
_MINUTE = 60_000_000
_LIST = 20
"""Outcomes of one instant that are no chance."""
_MANY = 1 << 20
"""Touches from which on columns are moved by several threads."""
_FEW = 64
_NO_INTS, _NO_CODES = np.empty(0, np.int64), np.empty(0, np.int32)
_NO_BOOLS, _NO_FLOATS = np.empty(0, np.bool_), np.empty(0)


@dataclass(frozen=True, eq=False)
class Cohort:
    """Rows of (lead, as_of): who is asked about, and as of when.

    >>> Cohort.at([3, 5], "2026-11-01T00:00:00Z").lead
    array([3, 5])
    """

    lead: Ints
    """(n,) index of the lead in its dataset."""
    as_of: Ints
    """(n,) microseconds; only what was known strictly before it is seen."""

    @classmethod
    def at(cls, leads: npt.ArrayLike, as_of: Time | Ints) -> Self:
        """Asks about leads as of one instant, or about each as of its own."""
        lead = np.atleast_1d(np.asarray(leads, dtype=np.int64))
        if isinstance(as_of, np.ndarray):
            if as_of.dtype.kind == "M":
                as_of = as_of.astype("datetime64[us]")
            at = np.ascontiguousarray(as_of, dtype=np.int64)
        else:
            at = np.full(len(lead), to_us(as_of), dtype=np.int64)
        if lead.shape != at.shape or lead.ndim != 1:
            raise UsageError(f"a cohort needs one as_of a lead; got shapes {lead.shape} and {at.shape}.")
        return cls(lead, at)

    @classmethod
    def grid(cls, dataset: Dataset, *, every: float, start: Time, stop: Time) -> Self:
        """Asks about every lead open at `stop`, `stop` - `every` days, ... down to `start`, both included.

        The rows of one instant are those that would have been scored then, so no age is over-weighted.
        """
        first, last, step = to_us(start), to_us(stop), round(every * US_PER_DAY)
        if step <= 0:
            raise UsageError(f"a grid needs a positive step in days; got {every}.")
        return cls.concat(dataset.open_at(t) for t in range(last, first - 1, -step))

    @classmethod
    def concat(cls, cohorts: Iterable[Cohort]) -> Self:
        """Puts cohorts of one dataset below each other."""
        parts = list(cohorts)
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        return cls(np.concatenate([p.lead for p in parts]), np.concatenate([p.as_of for p in parts]))

    def __len__(self) -> int:
        return len(self.lead)

    def __getitem__(self, rows: npt.NDArray[Any] | slice) -> Cohort:
        return Cohort(self.lead[rows], self.as_of[rows])


@dataclass(frozen=True, eq=False)
class History:
    """Every lead's touchpoints: flat columns grouped by lead, each group in order of time.

    The order within a lead is total (time, kind, value), so it does not depend on the order of the input.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"lead_id": ["a", "a"], "channel": ["web", "call"],
    ...                       "occurred_at": ["2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"]})
    >>> history = History.from_frame(frame)
    >>> [history.kinds[code].name for code in history.kind]
    ['call', 'web']
    """

    offsets: Ints
    """(leads + 1,): the touches of lead i are rows offsets[i] to offsets[i + 1]."""
    at: Ints
    """(n,) when it occurred."""
    known: Ints
    """(n,) from when on it could be known: the latest of occurred, recorded and linked to the lead."""
    kind: Codes
    """(n,) index into `kinds`."""
    value: Floats
    """(n,) NaN where the touch has none."""
    kinds: tuple[Kind, ...]
    """The distinct kinds, sorted."""
    automated: int = 0
    """How many opens and clicks were left out when it was built, for machines made them."""
    hidden: Ints = field(default_factory=lambda: _NO_INTS)
    """(n,) the last as_of that sees it, NEVER for most; (0,) where all stay. See `features.linked`."""

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Reads a touchpoints table; leads stand in the order in which they first appear."""
        history = Dataset.from_frames(touchpoints=frame).history
        return cls(*(getattr(history, entry.name) for entry in fields(cls)))

    @classmethod
    def build(
        cls,
        leads: int,
        lead: Codes,
        at: Ints,
        known: Ints,
        kind: Codes,
        value: Floats,
        kinds: Sequence[Kind],
        message: Codes | None = None,
        dated: Bools | None = None,
        hidden: Ints | None = None,
    ) -> Self:
        """Sorts touches, and leaves out duplicates and what machines opened and clicked.

        `message` codes the message ids (-1: none) and `dated` marks touches that carry only a date. Duplicates are
        the same message of one lead, or without a message the same row unless it is only dated; the one that was
        known first stays. A mail opened or clicked within 2 seconds of its delivery was so by a machine: programs that
        check mail follow all its links at once.
        """
        if any(kinds[i] >= kinds[i + 1] for i in range(len(kinds) - 1)):
            order = sorted(range(len(kinds)), key=kinds.__getitem__)
            rank = np.empty(len(kinds), np.int32)
            rank[order] = np.arange(len(kinds), dtype=np.int32)
            kind, kinds = rank[kind], [kinds[i] for i in order]
        columns: dict[str, npt.NDArray[Any]] = {"at": at, "kind": kind, "value": value}
        columns |= {} if known is at else {"known": known}
        columns |= {} if message is None else {"message": message}
        columns |= {} if dated is None else {"dated": dated}
        columns |= {} if hidden is None else {"hidden": hidden}
        if (lead[1:] >= lead[:-1]).all():
            # As records come; what follows works in place.
            offsets, columns = np.searchsorted(lead, np.arange(leads + 1)), {k: c.copy() for k, c in columns.items()}
        else:
            offsets, place = _group(leads, read_only(lead))
            columns = dict(zip(columns, _scatter_all(place, [*map(read_only, columns.values())]), strict=True))
        at = columns["at"]
        return cls.in_order(
            offsets, at, columns.get("known", at), columns["kind"], columns["value"], tuple(kinds),
            columns.get("message"), columns.get("dated"), columns.get("hidden"),
        )  # fmt: skip

    @classmethod
    def in_order(
        cls,
        offsets: Ints,
        at: Ints,
        known: Ints,
        kind: Codes,
        value: Floats,
        kinds: tuple[Kind, ...],
        message: Codes | None = None,
        dated: Bools | None = None,
        hidden: Ints | None = None,
    ) -> Self:
        """Does what `build` does for touches grouped by lead and kinds that are sorted; works in place."""
        apart = known is not at
        hidden = _NO_INTS if hidden is None else hidden
        kept, automated = _put_in_order(
            offsets, at, known, kind, value, _NO_CODES if message is None else message,
            _NO_BOOLS if dated is None else dated, _steps(kinds), apart, hidden,
        )  # fmt: skip
        if kept < len(at):
            at, kind, value = at[:kept].copy(), kind[:kept].copy(), value[:kept].copy()
            known = known[:kept].copy() if apart else at
            hidden = hidden[:kept].copy()
        return cls(offsets, at, known, kind, value, kinds, automated, hidden)

    def __len__(self) -> int:
        return len(self.at)

    @property
    def lead(self) -> Ints:
        """(n,) the lead of each touch."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def slices(self, cohort: Cohort) -> tuple[Ints, Ints]:
        """Returns (n,) start and stop of each row's touches with at < as_of.

        A touch in there that was recorded late (`known` >= as_of), or is hidden by then, is still to be passed over.
        """
        return _slices(self.offsets, self.at, cohort.lead, cohort.as_of)

    def take(self, leads: Ints, before: int) -> History:
        """Keeps some leads, in that order, and what was known of them before an instant."""
        offsets, rows = _take(self.offsets, self.known, leads, before)
        hidden = self.hidden
        if len(hidden):
            # What is hidden from then on or later is not yet.
            hidden = np.where(hidden[rows] < before, hidden[rows], NEVER)
            hidden = hidden if (hidden < NEVER).any() else _NO_INTS
        return replace(
            self,
            offsets=offsets,
            at=self.at[rows],
            known=self.known[rows],
            kind=self.kind[rows],
            value=self.value[rows],
            hidden=hidden,
        )


@dataclass(frozen=True, eq=False)
class Attributes:
    """What is known of leads besides touchpoints: values from creation on, and facts that changed them later.

    A column holds numbers, or codes into its own words where `words` names them; NaN is missing.
    """

    names: tuple[str, ...]
    words: tuple[tuple[str, ...] | None, ...]
    """A column's words, None for a column of numbers."""
    cells: Floats
    """(leads, columns) from creation on."""
    offsets: Ints
    """(leads + 1,) the changes of lead i are rows offsets[i] to offsets[i + 1] of the columns below, by time."""
    at: Ints
    known: Ints
    column: Codes
    value: Floats

    @classmethod
    def none(cls, leads: int) -> Self:
        """No attributes at all."""
        return cls.of_creation(leads, {})

    @classmethod
    def of_creation(cls, leads: int, base: Mapping[str, Sequence[Cell] | Ids]) -> Self:
        """What was known of (leads,) when they were created, by name, and never changed."""
        cells, words = np.empty((leads, len(base))), []
        for i, values in enumerate(base.values()):
            cells[:, i], mine = _encode_one(values[0]) if leads == 1 else _encode(values)
            words.append(mine)
        unchanged = np.zeros(leads + 1, np.int64), _NO_INTS, _NO_INTS, _NO_CODES, _NO_FLOATS
        return cls(tuple(base), tuple(words), cells, *unchanged)

    @classmethod
    def build(
        cls,
        leads: int,
        base: Mapping[str, Sequence[Cell] | Ids],
        lead: Ints,
        at: Ints,
        known: Ints,
        labels: Sequence[str] | Ids,
        values: Sequence[Cell] | Ids,
        since: Ints | None = None,
    ) -> Self:
        """Builds the columns from Python values: numbers, words or None.

        `base` holds the (leads,) values from creation on by name; the facts that changed them are flat columns. `since`
        says from when on each counts for its lead, where a link of two ids passed it on.
        """
        if not len(lead):
            return cls.of_creation(leads, base)
        # Sorted, as the order of rows must not settle which of two equal reasons goes first.
        names = tuple(dict.fromkeys((*base, *sorted(set(labels)))))
        place = {name: i for i, name in enumerate(names)}
        column = np.array([place[label] for label in labels], np.int32)
        cells, value = np.empty((leads, len(names))), np.empty(len(lead))
        words: list[tuple[str, ...] | None] = []
        for i, name in enumerate(names):
            mine = np.flatnonzero(column == i)
            both = [*(base[name] if name in base else [None] * leads), *(values[row] for row in mine.tolist())]
            coded, mine_words = _encode(both)
            cells[:, i], value[mine] = coded[:leads], coded[leads:]
            words.append(mine_words)
        order = np.lexsort((value, column, known, at, lead))
        offsets = np.searchsorted(lead[order], np.arange(leads + 1))
        # Which of two facts of one instant counts, a link does not change: they are in order before it is looked at.
        known = known if since is None else np.maximum(known, since)
        return cls(names, tuple(words), cells, offsets, at[order], known[order], column[order], value[order])

    def take(self, leads: Ints, before: int) -> Attributes:
        """Keeps some leads, in that order, and what was known of them before an instant."""
        offsets, rows = _take(self.offsets, self.known, leads, before)
        return replace(
            self,
            cells=self.cells[leads],
            offsets=offsets,
            at=self.at[rows],
            known=self.known[rows],
            column=self.column[rows],
            value=self.value[rows],
        )


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Won and lost, sorted by (lead, time)."""

    lead: Ints
    at: Ints
    known: Ints
    won: Bools
    amount: Floats

    @classmethod
    def none(cls) -> Self:
        """Nothing won or lost yet."""
        return cls(_NO_INTS, _NO_INTS, _NO_INTS, _NO_BOOLS, _NO_FLOATS)

    def first(self, leads: int) -> tuple[Ints, Bools]:
        """Returns (leads,) when the first outcome closed each lead (NEVER: open) and whether it was a purchase."""
        at, won = np.full(leads, NEVER, np.int64), np.zeros(leads, np.bool_)
        at[self.lead[::-1]] = self.at[::-1]
        won[self.lead[::-1]] = self.won[::-1]
        return at, won

    def take(self, leads: Ints, before: int, total: int) -> Outcomes:
        """Keeps some of `total` leads, in that order, and the outcomes known before an instant."""
        place = np.full(total, -1, np.int64)
        place[leads] = np.arange(len(leads))
        lead = place[self.lead]
        rows = np.flatnonzero((lead >= 0) & (self.known < before))
        rows = rows[np.lexsort((self.at[rows], lead[rows]))]
        return Outcomes(lead[rows], self.at[rows], self.known[rows], self.won[rows], self.amount[rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Leads with their history, attributes and outcomes; the past is reached through `known_at` alone.

    Lead i is ids[i]. A lead whose id was linked to another (`merged_at`) is no longer a lead of its own from then on.

    >>> import pandas as pd
    >>> touches = pd.DataFrame({"lead_id": ["a", "a"], "channel": ["web", "call"],
    ...                         "occurred_at": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]})
    >>> dataset = Dataset.from_frames(touchpoints=touches)
    >>> len(dataset.history), len(dataset.known_at("2026-01-02").history)
    (2, 1)
    """

    ids: Ids
    """(leads,) as text."""
    created_at: Ints
    """(leads,)"""
    merged_at: Ints
    """(leads,) from when on the id was known to mean another lead; NEVER for most."""
    history: History
    attributes: Attributes
    outcomes: Outcomes
    report: ReadReport | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: str | PathLike[str], **options: Any) -> Dataset:
        """Reads a folder of tables or a `dataset.toml`; the options are those of `features.tables.read_dataset`."""
        from features.tables import read_dataset

        return read_dataset(path, **options)

    @classmethod
    def from_frames(
        cls,
        *,
        touchpoints: pd.DataFrame | None = None,
        leads: pd.DataFrame | None = None,
        outcomes: pd.DataFrame | None = None,
        attributes: pd.DataFrame | None = None,
        aliases: pd.DataFrame | None = None,
        **options: Any,
    ) -> Dataset:
        """Takes the tables as data frames; the options are those of `features.tables.read_dataset`."""
        from features.tables import dataset_from_frames

        frames = {
            "touchpoints": touchpoints,
            "leads": leads,
            "outcomes": outcomes,
            "attributes": attributes,
            "aliases": aliases,
        }
        return dataset_from_frames({name: frame for name, frame in frames.items() if frame is not None}, **options)

    def __len__(self) -> int:
        return len(self.ids)

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        """Nothing in it changes, so it is shared: scikit-learn copies the parameters of what it clones."""
        return self

    @cached_property
    def closed(self) -> tuple[Ints, Bools]:
        """(leads,) when the first outcome closed each lead (NEVER: open), and whether it was a purchase."""
        return self.outcomes.first(len(self))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all that is in it: equal digests mean equal data."""
        found = hashlib.sha256()
        for part in (self, self.history, self.attributes, self.outcomes):
            for name in (entry.name for entry in fields(part)):
                value = getattr(part, name)
                if isinstance(value, np.ndarray):
                    raw = "\0".join(value).encode() if value.dtype == object else value.tobytes()
                elif isinstance(value, tuple):
                    raw = repr(value).encode()
                else:
                    continue
                found.update(f"{name} {len(raw)} ".encode() + raw)
        return found.hexdigest()

    @property
    def last_known(self) -> int:
        """The last instant at which anything became known; `known_at` one microsecond later sees all."""
        merged_at = self.merged_at[self.merged_at < NEVER]
        hidden = self.history.hidden[self.history.hidden < NEVER]
        times = (self.created_at, merged_at, self.history.known, hidden, self.attributes.known, self.outcomes.known)
        return max((int(t.max()) for t in times if len(t)), default=0)

    @property
    def recorded_until(self) -> int:
        """The end of the record: just after the last lead was created or outcome became known.

        Touchpoints may be dated later (an appointment next month), but they do not make what happens until then known.
        """
        times = (self.created_at, self.outcomes.known)
        return max((int(t.max()) + 1 for t in times if len(t)), default=0)

    @property
    def timeless(self) -> bool:
        """Whether it is a list without times: many leads that all came at one instant and ended at one instant."""
        told = len(self.outcomes.at) >= _LIST and not len(self.history) and not len(self.attributes.at)
        return told and all(bool((times == times[0]).all()) for times in (self.created_at, self.outcomes.at))

    @cached_property
    def rank(self) -> Ints:
        """(leads,) the place of each lead in the order of ids, which does not depend on the order of the table."""
        rank = np.empty(len(self), np.int64)
        rank[np.argsort(self.ids, kind="stable")] = np.arange(len(self))
        return rank

    def find(self, ids: Iterable[str]) -> Ints:
        """Returns the index of each lead id."""
        import pandas as pd

        wanted = pd.Index(list(ids), dtype=object)
        found = pd.Index(self.ids, dtype=object).get_indexer(wanted)
        if (found < 0).any():
            raise TableError(f"lead_id {wanted[found < 0][0]!r} is not among the {len(self):,} leads.")
        return found.astype(np.int64)

    def known_at(self, t: Time) -> Dataset:
        """The world as it was known just before an instant: leads, touches, facts and outcomes, nothing later.

        Leads keep their order but not their index: those created later are gone.
        """
        before = to_us(t)
        return self.take(np.flatnonzero(self.created_at < before), before)

    def take(self, leads: Ints, before: int = NEVER) -> Dataset:
        """Keeps some leads, in that order, and what was known of them before an instant."""
        merged_at = self.merged_at[leads]
        return Dataset(
            ids=self.ids[leads],
            created_at=self.created_at[leads],
            merged_at=np.where(merged_at < before, merged_at, NEVER),
            history=self.history.take(leads, before),
            attributes=self.attributes.take(leads, before),
            outcomes=self.outcomes.take(leads, before, len(self)),
        )

    def open_at(self, t: Time, max_age: float | None = None) -> Cohort:
        """Asks about every lead that was created before an instant and not known to be closed then.

        `max_age` in days leaves out leads created earlier than that.
        """
        before = to_us(t)
        is_open = (self.created_at < before) & (self.merged_at >= before)
        if max_age is not None:
            is_open &= self.created_at >= before - round(max_age * US_PER_DAY)
        is_open[self.outcomes.lead[self.outcomes.known < before]] = False
        return Cohort.at(np.flatnonzero(is_open), before)


def _encode(values: Sequence[Cell] | Ids) -> tuple[Floats, tuple[str, ...] | None]:
    """Numbers as they are; if any is a word, codes into the words: numbers first in their order, then the others.

    Neither what a text means nor the order of the codes, which settles a tie, may hang on the column's other values:
    a text that reads as a number is that number always.
    """
    numbers = {text: word_number(text) for text in {value for value in values if isinstance(value, str)}}
    if not any(math.isnan(number) for number in numbers.values()):
        plain = [np.nan if value is None else numbers[value] if isinstance(value, str) else value for value in values]
        return np.array(plain, np.float64) + 0.0, None
    meant = {text: text if math.isnan(number) else number_word(number) for text, number in numbers.items()}
    texts = [
        meant[value] if isinstance(value, str) else None if value is None or value != value else number_word(value)
        for value in values
    ]
    words = tuple(sorted({text for text in texts if text is not None}, key=_word_order))
    place = {word: float(i) for i, word in enumerate(words)}
    return np.array([np.nan if text is None else place[text] for text in texts], np.float64), words


def _encode_one(value: Cell) -> tuple[float, tuple[str, ...] | None]:
    """What `_encode` makes of one value."""
    if not isinstance(value, str):
        return math.nan if value is None else value + 0.0, None
    number = word_number(value)
    return (0.0, (value,)) if math.isnan(number) else (number + 0.0, None)


def _word_order(word: str) -> tuple[bool, float, str]:
    number = word_number(word)
    return (True, 0.0, word) if math.isnan(number) else (False, number, word)


@lru_cache(maxsize=1_024)
def _steps_of_few(kinds: tuple[Kind, ...]) -> Codes:
    return mail_steps(kinds)


def _steps(kinds: tuple[Kind, ...]) -> Codes:
    """`mail_steps`, remembered where there are few kinds, as requests have."""
    return _steps_of_few(kinds) if len(kinds) <= _FEW else mail_steps(kinds)


def read_only(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same numbers, not to be written: numba compiles anew for arrays that can be, and Arrow's cannot."""
    view = column.view()
    view.flags.writeable = False
    return view


def _scatter_all(place: Codes, columns: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    if len(place) < _MANY:
        return [_scatter(place, column) for column in columns]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(partial(_scatter, place), columns))


@njit(cache=True, nogil=True)
def _group(leads: int, lead: Codes) -> tuple[Ints, Codes]:
    """Returns (leads + 1,) offsets of each lead's rows, and (n,) the place of each row among rows grouped by lead."""
    n = len(lead)
    offsets = np.zeros(leads + 1, np.int64)
    for i in range(n):
        offsets[lead[i] + 1] += 1
    for k in range(leads):
        offsets[k + 1] += offsets[k]
    fill, place = offsets[:-1].astype(np.int32), np.empty(n, np.int32)
    for i in range(n):
        place[i] = fill[lead[i]]
        fill[lead[i]] += 1
    return offsets, place


@njit(cache=True, nogil=True)
def _scatter(place: Codes, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    out = np.empty_like(column)
    for i in range(len(column)):
        out[place[i]] = column[i]
    return out


@njit(cache=True)
def _before(i: int, j: int, at: Ints, kind: Codes, value: Floats, known: Ints) -> bool:
    """Whether touch i comes before touch j in the order within a lead."""
    if at[i] != at[j]:
        return bool(at[i] < at[j])
    if kind[i] != kind[j]:
        return bool(kind[i] < kind[j])
    a = -np.inf if np.isnan(value[i]) else value[i]
    b = -np.inf if np.isnan(value[j]) else value[j]
    if a != b:
        return bool(a < b)
    return bool(known[i] < known[j])


@njit(cache=True)
def _sort_lead(rows: Ints, spare: Ints, at: Ints, kind: Codes, value: Floats, known: Ints) -> None:
    """Sorts the row numbers of one lead's touches: insertion sort in short runs, then merges from the bottom up."""
    n, run = len(rows), 24
    for lo in range(0, n, run):
        for k in range(lo + 1, min(lo + run, n)):
            row, j = rows[k], k
            while j > lo and _before(row, rows[j - 1], at, kind, value, known):
                rows[j] = rows[j - 1]
                j -= 1
            rows[j] = row
    while run < n:
        for lo in range(0, n, 2 * run):
            mid, hi = min(lo + run, n), min(lo + 2 * run, n)
            a, b = lo, mid
            for k in range(lo, hi):
                if a < mid and (b >= hi or not _before(rows[b], rows[a], at, kind, value, known)):
                    spare[k] = rows[a]
                    a += 1
                else:
                    spare[k] = rows[b]
                    b += 1
        rows[:] = spare[:n]
        run *= 2


@njit(cache=True)
def _permute(column: npt.NDArray[Any], lo: int, rows: Ints) -> None:
    column[lo : lo + len(rows)] = column[rows]


@njit(cache=True)
def _mark_duplicates(
    drop: Bools, lo: int, at: Ints, known: Ints, kind: Codes, value: Floats, message: Codes, dated: Bools
) -> None:
    """Marks, among one lead's sorted touches, those that are there twice, but for the one that was known first."""
    n = len(drop)
    if len(message):
        # Of a message the one that came in first stays; of those that came in at once, the one sorted first.
        best = -1
        for k in np.argsort(message[lo : lo + n], kind="mergesort"):
            if message[lo + k] < 0:
                continue
            if best >= 0 and message[lo + best] == message[lo + k]:
                if known[lo + k] < known[lo + best]:
                    drop[best] = True
                    best = k
                else:
                    drop[k] = True
            else:
                best = k
    plain = -1
    for k in range(lo, lo + n):
        if (len(message) and message[k] >= 0) or (len(dated) and dated[k]):
            continue
        if (
            plain >= 0
            and at[plain] == at[k]
            and kind[plain] == kind[k]
            and (value[plain] == value[k] or (np.isnan(value[plain]) and np.isnan(value[k])))
        ):
            drop[k - lo] = True
        else:
            plain = k


@njit(cache=True)
def _mark_automated(
    drop: Bools, lo: int, at: Ints, known: Ints, kind: Codes, dated: Bools, step: Codes, queue: Ints
) -> int:
    """Marks one lead's opens and clicks within `AUTOMATED` of a delivery that was known by then; returns how many.

    Of one whole minute a clock may say no more, so what it gives the same one is left alone.
    """
    n, marked, begin = len(drop), 0, 0
    # The deliveries of the last 2 seconds; of two the later one only if the earlier one was not known sooner.
    head, tail = 0, 0
    while begin < n:
        now, end = at[lo + begin], begin
        while end < n and at[lo + end] == now:
            end += 1
        while head < tail and at[queue[head]] < now - AUTOMATED:
            head += 1
        coarse = now % _MINUTE == 0
        for turn in range(2):
            for k in range(lo + begin, lo + end):
                if drop[k - lo] or (len(dated) and dated[k]):
                    continue
                if coarse == (turn == 1) and step[kind[k]] == DELIVERED:
                    while head < tail and known[queue[tail - 1]] >= known[k]:
                        tail -= 1
                    queue[tail] = k
                    tail += 1
                if (
                    coarse == (turn == 0)
                    and step[kind[k]] == ENGAGED
                    and head < tail
                    and known[queue[head]] <= known[k]
                ):
                    drop[k - lo] = True
                    marked += 1
        begin = end
    return marked


@njit(cache=True, nogil=True)
def _put_in_order(
    offsets: Ints, at: Ints, known: Ints, kind: Codes, value: Floats, message: Codes, dated: Bools, step: Codes,
    apart: bool, hidden: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Sorts the touches of each lead in place and closes the gaps of those that do not stay.

    Returns how many stay, and how many of the others machines made. Unless `apart`, `known` is the same array as `at`.
    """
    leads, longest = len(offsets) - 1, 0
    for k in range(leads):
        longest = max(longest, offsets[k + 1] - offsets[k])
    rows, spare, drops = np.empty(longest, np.int64), np.empty(longest, np.int64), np.zeros(longest, np.bool_)
    mails = (step == ENGAGED).any() and (step == DELIVERED).any()
    kept, automated, lo = 0, 0, 0
    for k in range(leads):
        hi = offsets[k + 1]
        n = hi - lo
        ordered = True
        for i in range(lo + 1, hi):
            if at[i - 1] >= at[i] and _before(i, i - 1, at, kind, value, known):
                ordered = False
                break
        if not ordered:
            mine = rows[:n]
            for i in range(n):
                mine[i] = lo + i
            _sort_lead(mine, spare, at, kind, value, known)
            if apart:
                _permute(known, lo, mine)
            _permute(at, lo, mine)
            _permute(kind, lo, mine)
            _permute(value, lo, mine)
            if len(message):
                _permute(message, lo, mine)
            if len(dated):
                _permute(dated, lo, mine)
            if len(hidden):
                _permute(hidden, lo, mine)
        drop = drops[:n]
        drop[:] = False
        _mark_duplicates(drop, lo, at, known, kind, value, message, dated)
        if mails:
            automated += _mark_automated(drop, lo, at, known, kind, dated, step, spare)
        for i in range(n):
            if not drop[i]:
                if kept < lo + i:
                    at[kept], kind[kept], value[kept] = at[lo + i], kind[lo + i], value[lo + i]
                    if apart:
                        known[kept] = known[lo + i]
                    if len(hidden):
                        hidden[kept] = hidden[lo + i]
                kept += 1
        offsets[k + 1] = kept
        lo = hi
    return kept, automated


@njit(cache=True)
def are_below(numbers: Ints, limit: int) -> bool:
    """Whether all of (n,) numbers are from 0 to below a limit."""
    inside = True
    for number in numbers:
        inside &= 0 <= number < limit
    return inside


@njit(cache=True, nogil=True)
def _slices(offsets: Ints, at: Ints, lead: Ints, as_of: Ints) -> tuple[Ints, Ints]:
    n = len(lead)
    start, stop = np.empty(n, np.int64), np.empty(n, np.int64)
    for row in range(n):
        lo, hi = offsets[lead[row]], offsets[lead[row] + 1]
        start[row] = lo
        while lo < hi:
            mid = (lo + hi) // 2
            if at[mid] < as_of[row]:
                lo = mid + 1
            else:
                hi = mid
        stop[row] = lo
    return start, stop


@njit(cache=True, nogil=True)
def _take(offsets: Ints, known: Ints, leads: Ints, before: int) -> tuple[Ints, Ints]:
    """Returns the offsets and rows of some leads' entries that were known before an instant."""
    total = 0
    for lead in leads:
        total += offsets[lead + 1] - offsets[lead]
    new, rows, n = np.zeros(len(leads) + 1, np.int64), np.empty(total, np.int64), 0
    for k in range(len(leads)):
        for row in range(offsets[leads[k]], offsets[leads[k] + 1]):
            if known[row] < before:
                rows[n] = row
                n += 1
        new[k + 1] = n
    return new, rows[:n]
