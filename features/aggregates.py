"""The kinds of features: each a declaration, the operation it compiles to, and the loop that carries it out.

A loop sees one row: a lead's touches lo..hi, all with at < as_of, in order of time. A touch recorded at or after
as_of is passed over. Windows are half-open, [as_of - window, as_of). Sums are kept in float64; the matrix is float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit

from features.feature import OTHER, By, Feature, Op, Vocabulary
from features.history import Codes, Floats, Ints, Matrix
from features.times import US_PER_DAY

Days = tuple[float | None, ...]
"""Windows in days; None is all time."""

_COUNT, _SUM, _DECAYED, _DAYS_SINCE, _FIRST, _LAST, _AGE, _NUMBER, _CATEGORY = range(9)
_BY_CODE, _BY_NUMBER = 1, 2


def _groups(vocabulary: Vocabulary, by: By) -> tuple[str, ...]:
    return (*vocabulary.groups[by], OTHER) if by else ("touch",)


def _windows(days: Days) -> tuple[tuple[str, float], ...]:
    """The name's ending and the length in microseconds of each window."""
    return tuple(("", math.inf) if d is None else (f"_{d:g}d", d * US_PER_DAY) for d in days)


@dataclass(frozen=True)
class Count(Feature):
    """Counts touches in trailing windows, e.g. `email_click_count_30d`."""

    by: By = ()
    days: Days = (None,)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        windows = _windows(self.days)
        names = (f"{group}_count{ending}" for group in _groups(vocabulary, self.by) for ending, _ in windows)
        yield Op(_COUNT, tuple(names), self.by, tuple(us for _, us in windows))


@dataclass(frozen=True)
class Sum(Feature):
    """Adds up the values of touches in trailing windows, e.g. `lesson_sum_30d`; a touch without a value adds none."""

    by: By = ()
    days: Days = (None,)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        windows = _windows(self.days)
        names = (f"{group}_sum{ending}" for group in _groups(vocabulary, self.by) for ending, _ in windows)
        yield Op(_SUM, tuple(names), self.by, tuple(us for _, us in windows))


@dataclass(frozen=True)
class Decayed(Feature):
    """Counts touches, each worth half as much after every half-life, e.g. `email_click_decayed_7d`."""

    by: By = ()
    half_life_days: tuple[float, ...] = (7,)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = (f"{group}_decayed_{d:g}d" for group in _groups(vocabulary, self.by) for d in self.half_life_days)
        yield Op(_DECAYED, tuple(names), self.by, tuple(math.log(2) / (d * US_PER_DAY) for d in self.half_life_days))


@dataclass(frozen=True)
class DaysSince(Feature):
    """Days since the last touch, e.g. `days_since_demo`; missing where there was none."""

    by: By = ()

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = tuple(f"days_since_{group}" for group in _groups(vocabulary, self.by))
        yield Op(_DAYS_SINCE, names, self.by, start=math.nan)


@dataclass(frozen=True)
class First(Feature):
    """Which kind of touch came first: one column a kind, e.g. `first_channel_is_email`."""

    by: By = ("channel",)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = tuple(f"first_{'_'.join(self.by)}_is_{group}" for group in _groups(vocabulary, self.by))
        yield Op(_FIRST, names, self.by)


@dataclass(frozen=True)
class Last(Feature):
    """Which kind of touch came last: one column a kind, e.g. `last_channel_is_email`."""

    by: By = ("channel",)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = tuple(f"last_{'_'.join(self.by)}_is_{group}" for group in _groups(vocabulary, self.by))
        yield Op(_LAST, names, self.by)


@dataclass(frozen=True)
class Age(Feature):
    """Days since the lead was created: `age_days`."""

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        yield Op(_AGE, ("age_days",))


@dataclass(frozen=True)
class Attributes(Feature):
    """Every attribute known in training: a number as it is, a category as one column a word, "other" and "missing".

    The value is the last one known at as_of. Names: `lead_employees`, `lead_industry_is_cleaning`.
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        for name, words in vocabulary.attributes.items():
            if words is None:
                yield Op(_NUMBER, (f"lead_{name}",), attribute=name, start=math.nan)
            else:
                names = tuple(f"lead_{name}_is_{word}" for word in (*words, OTHER, "missing"))
                yield Op(_CATEGORY, names, attribute=name, words=words)


FEATURES: dict[str, type[Feature]] = {
    cls.__name__: cls for cls in (Count, Sum, Decayed, DaysSince, First, Last, Age, Attributes)
}
"""Every kind of feature by name, as JSON names them."""


@njit(cache=True)
def _count(
    row: Floats, base: int, groups: Codes, windows: Floats, lo: int, hi: int, as_of: int, at: Ints, known: Ints,
    kind: Codes,
) -> None:  # fmt: skip
    for i in range(lo, hi):
        if known[i] >= as_of:
            continue
        age = as_of - at[i]
        first = base + groups[kind[i]] * len(windows)
        for w in range(len(windows)):
            if age <= windows[w]:
                row[first + w] += 1.0


@njit(cache=True)
def _sum(
    row: Floats, base: int, groups: Codes, windows: Floats, lo: int, hi: int, as_of: int, at: Ints, known: Ints,
    kind: Codes, value: Floats,
) -> None:  # fmt: skip
    for i in range(lo, hi):
        if known[i] >= as_of or np.isnan(value[i]):
            continue
        age = as_of - at[i]
        first = base + groups[kind[i]] * len(windows)
        for w in range(len(windows)):
            if age <= windows[w]:
                row[first + w] += value[i]


@njit(cache=True)
def _decayed(
    row: Floats, base: int, groups: Codes, rates: Floats, lo: int, hi: int, as_of: int, at: Ints, known: Ints,
    kind: Codes,
) -> None:  # fmt: skip
    for i in range(lo, hi):
        if known[i] >= as_of:
            continue
        age = as_of - at[i]
        first = base + groups[kind[i]] * len(rates)
        for r in range(len(rates)):
            row[first + r] += math.exp(-rates[r] * age)


@njit(cache=True)
def _days_since(
    row: Floats, base: int, groups: Codes, lo: int, hi: int, as_of: int, at: Ints, known: Ints, kind: Codes
) -> None:
    for i in range(lo, hi):
        if known[i] < as_of:
            row[base + groups[kind[i]]] = (as_of - at[i]) / US_PER_DAY


@njit(cache=True)
def _first(row: Floats, base: int, groups: Codes, lo: int, hi: int, as_of: int, known: Ints, kind: Codes) -> None:
    for i in range(lo, hi):
        if known[i] < as_of:
            row[base + groups[kind[i]]] = 1.0
            return


@njit(cache=True)
def _last(row: Floats, base: int, groups: Codes, lo: int, hi: int, as_of: int, known: Ints, kind: Codes) -> None:
    for i in range(hi - 1, lo - 1, -1):
        if known[i] < as_of:
            row[base + groups[kind[i]]] = 1.0
            return


@njit(cache=True)
def _read(cell: float, how: Ints, tables: Floats) -> float:
    """What the model reads in an attribute's cell: a number, or the place of a word in its vocabulary."""
    mode, begin, end = how[1], how[2], how[3]
    if np.isnan(cell):
        return cell
    if mode == _BY_CODE:
        return float(tables[begin + int(cell)])
    if mode == _BY_NUMBER:
        for k in range(begin, end):
            if tables[k] == cell:
                return float(k - begin)
        return float(end - begin)
    return cell


@njit(cache=True, nogil=True)
def run(
    ops: Ints, parameters: Floats, start_row: Floats, slots: Codes, how: Ints, tables: Floats,
    start: Ints, stop: Ints, lead: Ints, as_of: Ints, created_at: Ints,
    at: Ints, known: Ints, kind: Codes, value: Floats,
    cells: Floats, fact_offsets: Ints, fact_at: Ints, fact_known: Ints, fact_column: Codes, fact_value: Floats,
    out: Matrix,
) -> None:  # fmt: skip
    """Carries out a program for every row of a cohort; the one implementation of every feature."""
    row = np.empty(out.shape[1], np.float64)
    mine = np.empty(cells.shape[1], np.float64)
    for r in range(len(lead)):
        row[:] = start_row
        lo, hi, now, who = start[r], stop[r], as_of[r], lead[r]
        if cells.shape[1]:
            if created_at[who] < now:
                mine[:] = cells[who]
            else:
                mine[:] = np.nan
            for f in range(fact_offsets[who], fact_offsets[who + 1]):
                if fact_at[f] < now and fact_known[f] < now:
                    mine[fact_column[f]] = fact_value[f]
        for o in range(len(ops)):
            code, base, width, source = ops[o, 0], ops[o, 1], ops[o, 2], ops[o, 3]
            if code == _AGE:
                row[base] = (now - created_at[who]) / US_PER_DAY
            elif code in (_NUMBER, _CATEGORY):
                cell = np.nan if how[source, 0] < 0 else _read(mine[how[source, 0]], how[source], tables)
                if code == _NUMBER:
                    row[base] = cell
                elif np.isnan(cell):
                    row[base + width - 1] = 1.0
                else:
                    row[base + int(cell)] = 1.0
            else:
                groups = slots[source]
                given = parameters[ops[o, 4] : ops[o, 5]]
                if code == _COUNT:
                    _count(row, base, groups, given, lo, hi, now, at, known, kind)
                elif code == _SUM:
                    _sum(row, base, groups, given, lo, hi, now, at, known, kind, value)
                elif code == _DECAYED:
                    _decayed(row, base, groups, given, lo, hi, now, at, known, kind)
                elif code == _DAYS_SINCE:
                    _days_since(row, base, groups, lo, hi, now, at, known, kind)
                elif code == _FIRST:
                    _first(row, base, groups, lo, hi, now, known, kind)
                else:
                    _last(row, base, groups, lo, hi, now, known, kind)
        out[r, :] = row
