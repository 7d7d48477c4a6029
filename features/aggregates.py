"""The kinds of features: each a declaration, the operation it compiles to, and the loop that carries it out.

A loop sees one row: a lead's touches lo..hi, all with at < as_of, in order of time. A touch recorded at or after
as_of is passed over. Windows are half-open, [as_of - window, as_of). Sums are kept in float64; the matrix is float32.

Features of touches share three parameters: `by` tells touches apart ("channel", "action", ("channel", "action"),
"side" or "direction"; all together if left out), `of` looks at the touches of one kind alone, and `where` at those
whose value meets a condition, e.g. where=(">", 10).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numba import njit

from features.errors import UsageError
from features.feature import EVERY, OTHER, By, Feature, Grouping, Op, Vocabulary
from features.history import Codes, Floats, Ints, Matrix
from features.times import US_PER_DAY, find_zone
from features.words import kind_word, number_word

Days: TypeAlias = tuple[float | None, ...]
"""Windows in days; None is all time."""
Where: TypeAlias = tuple[Literal[">", ">=", "<", "<="], float]
"""A condition on the value of a touch; a touch without a value never meets one."""

(
    _COUNT, _SUM, _MEAN, _MAX, _DECAYED, _DAYS_SINCE, _DAYS_SINCE_FIRST, _DISTINCT, _ACTIVE_DAYS, _GAP, _STREAK, _FIRST,
    _LAST, _TREND, _SHARE, _SEQUENCE, _BUSINESS_HOURS, _AGE, _NUMBER, _FLAG, _CATEGORY, _DATE,
) = range(22)  # fmt: skip
_BY_CODE, _BY_NUMBER = 1, 2
_HOUR = US_PER_DAY // 24
_WEEK = 7 * US_PER_DAY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


GROUPINGS: tuple[By, ...] = ((), ("channel",), ("action",), ("channel", "action"), ("side",), ("direction",))
"""How touches can be told apart."""
_CONDITIONS = {">": "over", ">=": "from", "<": "under", "<=": "to"}
_LONGEST = 3_652_425
"""Days in ten thousand years."""


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= sys.float_info.max


def _check_spans(name: str, given: object, spans: object) -> None:
    """Raises UsageError unless each span is a number of days that can be counted back."""
    if not isinstance(spans, tuple) or not spans:
        raise UsageError(f"{name}={given!r} is no tuple of spans in days. Write e.g. {name}=(7, 30).")
    for span in spans:
        # Not a whole microsecond is no span.
        if not _is_number(span) or not 1 / US_PER_DAY <= span <= _LONGEST:
            raise UsageError(
                f"{name}={given!r}: {span!r} is no span in days. Use a number above 0, at most {_LONGEST:,}."
            )


def _check_kind(name: str, given: object) -> None:
    if not isinstance(given, str) or not re.search(r"[^\W_]", given):
        raise UsageError(f"{name}={given!r} names no kind of touch. Use a channel, an action or both: 'email_click'.")


@dataclass(frozen=True, kw_only=True)
class _OfTouches(Feature):
    """What features of touches share."""

    by: By | str = ()
    of: str = ""
    where: Where | None = None

    def __post_init__(self) -> None:
        by = self.by
        if isinstance(by, str):
            by = (by,) if by else ()
        if by not in GROUPINGS:
            raise UsageError(f"by={self.by!r} tells no touches apart. Use one of {', '.join(map(repr, GROUPINGS))}.")
        # Those that tell touches apart by default say nothing about a single group.
        if type(self).by and (not by or self.of):
            raise UsageError(f"{type(self).__name__} needs touches told apart. Give by, e.g. by='channel', and no of.")
        if by and self.of:
            raise UsageError(f"by={self.by!r} and of={self.of!r} exclude each other. Use one of them.")
        if self.of != "":
            _check_kind("of", self.of)
        if self.where is not None:
            match self.where:
                case (str(sign), number) if isinstance(self.where, tuple) and sign in _CONDITIONS:
                    is_condition = _is_number(number)
                case _:
                    is_condition = False
            if not is_condition:
                raise UsageError(
                    f"where={self.where!r} is no condition on values. Write e.g. where=('>', 10), with one of "
                    f"{', '.join(_CONDITIONS)}."
                )
        object.__setattr__(self, "by", by)

    @property
    def grouping(self) -> Grouping:
        """How touches fall into groups."""
        return Grouping(tuple(self.by), (kind_word(self.of),) if self.of else ())

    def _groups(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        grouping = self.grouping
        return (*vocabulary.groups[grouping.by], OTHER) if grouping.by else grouping.of or ("touch",)

    def _op(
        self,
        code: int,
        names: Iterable[str],
        parameters: Iterable[float] = (),
        start: float = 0.0,
        since: bool = False,
    ) -> Op:
        """The operation, its parameters behind the limits of the values it looks at."""
        ending, low, high = _limits(self.where)
        named = tuple(f"{name}{ending}" for name in names)
        return Op(code, named, self.grouping, (low, high, *parameters), start=start, since=since)


def _limits(where: Where | None) -> tuple[str, float, float]:
    """What a condition adds to names, and the least and greatest value that meets it; NaN without one."""
    if where is None:
        return "", math.nan, math.nan
    sign, number = where[0], float(where[1])
    low = {">": math.nextafter(number, math.inf), ">=": number}.get(sign, -math.inf)
    high = {"<": math.nextafter(number, -math.inf), "<=": number}.get(sign, math.inf)
    written = number_word(abs(number)).replace(".", "_")
    return f"_{_CONDITIONS[sign]}_{'minus_' if number < 0 else ''}{written}", low, high


def _windows(days: Days) -> tuple[tuple[str, float], ...]:
    """The name's ending and the length in microseconds of each window."""
    return tuple(("", math.inf) if d is None else (f"_{d:g}d", d * US_PER_DAY) for d in days)


@dataclass(frozen=True, kw_only=True)
class _InWindows(_OfTouches):
    """A figure of the touches in each trailing window."""

    days: Days = (None,)

    def __post_init__(self) -> None:
        super().__post_init__()
        spans = self.days
        if isinstance(spans, tuple) and None in spans:
            spans = tuple(d for d in spans if d is not None) or (1,)
        _check_spans("days", self.days, spans)

    def _in_windows(self, code: int, figure: str, vocabulary: Vocabulary, start: float = 0.0) -> Iterable[Op]:
        windows = _windows(self.days)
        names = (f"{group}_{figure}{ending}" for group in self._groups(vocabulary) for ending, _ in windows)
        yield self._op(code, names, [us for _, us in windows], start)


@dataclass(frozen=True, kw_only=True)
class Count(_InWindows):
    """Counts touches in trailing windows: `email_click_count_30d`.

    >>> from features.example import said
    >>> said(Count(of="email", days=(7, 30)))
    {'email_count_7d': 0.0, 'email_count_30d': 2.0}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        return self._in_windows(_COUNT, "count", vocabulary)


@dataclass(frozen=True, kw_only=True)
class Sum(_InWindows):
    """Adds up the values of touches in trailing windows: `lesson_sum_30d`; a touch without a value adds none.

    >>> from features.example import said
    >>> said(Sum(days=(3, 7)))
    {'touch_sum_3d': 30.0, 'touch_sum_7d': 75.0}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        return self._in_windows(_SUM, "sum", vocabulary)


@dataclass(frozen=True, kw_only=True)
class Mean(_InWindows):
    """The mean value of touches in trailing windows: `exam_mean_30d`; missing where no touch has a value.

    >>> from features.example import said
    >>> said(Mean(days=(7,)))
    {'touch_mean_7d': 37.5}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        return self._in_windows(_MEAN, "mean", vocabulary, math.nan)


@dataclass(frozen=True, kw_only=True)
class Max(_InWindows):
    """The greatest value of touches in trailing windows: `exam_max_30d`; missing where no touch has a value.

    >>> from features.example import said
    >>> said(Max(days=(7,)))
    {'touch_max_7d': 45.0}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        return self._in_windows(_MAX, "max", vocabulary, math.nan)


@dataclass(frozen=True, kw_only=True)
class ActiveDays(_InWindows):
    """Counts the days (UTC) with a touch in trailing windows: `touch_active_days_30d`.

    >>> from features.example import said
    >>> said(ActiveDays(days=(7, 30)))
    {'touch_active_days_7d': 2.0, 'touch_active_days_30d': 4.0}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        return self._in_windows(_ACTIVE_DAYS, "active_days", vocabulary)


@dataclass(frozen=True, kw_only=True)
class Share(_InWindows):
    """The share of each group among all touches in trailing windows: `email_share_30d`; 0 where there are none.

    >>> from features.example import said
    >>> said(Share(by="side"))
    {'marketing_share': 0.8, 'sales_share': 0.2, 'other_share': 0.0}
    """

    by: By | str = ("channel",)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        return self._in_windows(_SHARE, "share", vocabulary)


@dataclass(frozen=True, kw_only=True)
class Distinct(_InWindows):
    """Counts the different groups touched in trailing windows: `distinct_channel_30d`; all others are one.

    >>> from features.example import said
    >>> said(Distinct(by="channel", days=(7, 30)))
    {'distinct_channel_7d': 2.0, 'distinct_channel_30d': 4.0}
    """

    by: By | str = ("channel",)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        windows = _windows(self.days)
        names = (f"distinct_{'_'.join(self.by)}{ending}" for ending, _ in windows)
        groups = float(len(self._groups(vocabulary)))
        yield replace(self._op(_DISTINCT, names, [groups, *(us for _, us in windows)]), apart=False)


@dataclass(frozen=True, kw_only=True)
class Decayed(_OfTouches):
    """Counts touches, each worth half as much after every half-life: `email_click_decayed_7d`.

    >>> from features.example import said
    >>> said(Decayed(of="email", half_life_days=(7, 30)))
    {'email_decayed_7d': 0.22, 'email_decayed_30d': 1.18}
    """

    half_life_days: tuple[float, ...] = (7,)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_spans("half_life_days", self.half_life_days, self.half_life_days)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = (f"{group}_decayed_{d:g}d" for group in self._groups(vocabulary) for d in self.half_life_days)
        yield self._op(_DECAYED, names, [math.log(2) / (d * US_PER_DAY) for d in self.half_life_days])


@dataclass(frozen=True, kw_only=True)
class DaysSince(_OfTouches):
    """Days since the last touch: `days_since_demo`; missing where there was none.

    >>> from features.example import said
    >>> said(DaysSince(of="email"))
    {'days_since_email': 19.17}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = (f"days_since_{group}" for group in self._groups(vocabulary))
        yield self._op(_DAYS_SINCE, names, start=math.nan, since=True)


@dataclass(frozen=True, kw_only=True)
class DaysSinceFirst(_OfTouches):
    """Days since the first touch: `days_since_first_demo`; missing where there was none.

    >>> from features.example import said
    >>> said(DaysSinceFirst(of="email"))
    {'days_since_first_email': 26.58}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = (f"days_since_first_{group}" for group in self._groups(vocabulary))
        yield self._op(_DAYS_SINCE_FIRST, names, start=math.nan, since=True)


@dataclass(frozen=True, kw_only=True)
class Gap(_OfTouches):
    """Days between touches: mean, longest and last gap, and the present silence over the mean gap.

    `touch_gap_mean`, `touch_gap_max`, `touch_gap_last`, `touch_silence`; missing with fewer than two touches, the
    silence also where all touches came at once.

    >>> from features.example import said
    >>> said(Gap())
    {'touch_gap_mean': 6.31, 'touch_gap_max': 15.54, 'touch_gap_last': 2.29, 'touch_silence': 0.21}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        figures = ("gap_mean", "gap_max", "gap_last", "silence")
        yield self._op(
            _GAP, (f"{group}_{figure}" for group in self._groups(vocabulary) for figure in figures), start=math.nan
        )


@dataclass(frozen=True, kw_only=True)
class Streak(_OfTouches):
    """Counts the periods with a touch in an unbroken row, back from as_of: `touch_streak_7d`.

    >>> from features.example import said
    >>> said(Streak(period_days=14))
    {'touch_streak_14d': 2.0}
    """

    period_days: float = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_spans("period_days", self.period_days, (self.period_days,))

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = (f"{group}_streak_{self.period_days:g}d" for group in self._groups(vocabulary))
        yield self._op(_STREAK, names, [self.period_days * US_PER_DAY])


@dataclass(frozen=True, kw_only=True)
class First(_OfTouches):
    """Which kind of touch came first: one column a kind, `first_channel_is_email`.

    >>> from features.example import said
    >>> said(First(by="side"))
    {'first_side_is_marketing': 1.0, 'first_side_is_sales': 0.0, 'first_side_is_other': 0.0}
    """

    by: By | str = ("channel",)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        names = (f"first_{'_'.join(self.by)}_is_{group}" for group in self._groups(vocabulary))
        yield self._op(_FIRST, names)


@dataclass(frozen=True, kw_only=True)
class Last(_OfTouches):
    """Which kind of touch came last: one column a kind, `last_channel_is_email`; `place=2` is the last but one.

    >>> from features.example import said
    >>> said(Last(by="side"))
    {'last_side_is_marketing': 0.0, 'last_side_is_sales': 1.0, 'last_side_is_other': 0.0}
    """

    by: By | str = ("channel",)
    place: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.place, int) or isinstance(self.place, bool) or not 1 <= self.place <= 1000:
            raise UsageError(
                f"place={self.place!r} is no place. The last touch is place 1, the one before it 2, at most 1,000."
            )

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        which = "last" if self.place == 1 else f"last_{self.place}"
        names = (f"{which}_{'_'.join(self.by)}_is_{group}" for group in self._groups(vocabulary))
        yield self._op(_LAST, names, [self.place])


@dataclass(frozen=True, kw_only=True)
class Trend(_OfTouches):
    """The rate of touches in a recent window over that in a longer one, 0 where that is empty: `touch_trend_7d_30d`.

    >>> from features.example import said
    >>> said(Trend(recent_days=7, past_days=30))
    {'touch_trend_7d_30d': 1.71}
    """

    recent_days: float = 7
    past_days: float = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_spans("recent_days", self.recent_days, (self.recent_days,))
        _check_spans("past_days", self.past_days, (self.past_days,))
        if self.recent_days >= self.past_days:
            raise UsageError(
                f"recent_days={self.recent_days!r} must be less than past_days={self.past_days!r}. Shorten one."
            )

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        (_, recent), (_, past) = _windows((self.recent_days, self.past_days))
        ending = f"trend_{self.recent_days:g}d_{self.past_days:g}d"
        yield self._op(_TREND, (f"{group}_{ending}" for group in self._groups(vocabulary)), [recent, past])


@dataclass(frozen=True, kw_only=True)
class Sequence(Feature):
    """Whether a touch of one kind came before one of another: `webinar_before_demo`; not if both came at once.

    >>> from features.example import said
    >>> said(Sequence(first="webinar", then="call"))
    {'webinar_before_call': 1.0}
    """

    first: str
    then: str

    def __post_init__(self) -> None:
        _check_kind("first", self.first)
        _check_kind("then", self.then)
        if kind_word(self.first) == kind_word(self.then):
            raise UsageError(f"first={self.first!r} and then={self.then!r} are one kind. Give two.")

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        first, then = kind_word(self.first), kind_word(self.then)
        yield Op(_SEQUENCE, (f"{first}_before_{then}",), Grouping((), (first, then)), _limits(None)[1:], apart=False)


@dataclass(frozen=True, kw_only=True)
class TimeOfWeek(_InWindows):
    """The share of touches on Monday to Friday from 9 to 17 o'clock: `touch_business_hours_30d`; 0 where none.

    >>> from features.example import said
    >>> said(TimeOfWeek(zone="America/New_York"))
    {'touch_business_hours_america_new_york': 0.6}
    """

    zone: str = "UTC"

    def __post_init__(self) -> None:
        super().__post_init__()
        find_zone(self.zone)

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        windows = _windows(self.days)
        place = "" if self.zone == "UTC" else f"_{kind_word(self.zone)}"
        names = (
            f"{group}_business_hours{place}{ending}" for group in self._groups(vocabulary) for ending, _ in windows
        )
        changes = _offsets(self.zone)
        yield self._op(
            _BUSINESS_HOURS, names,
            [float(len(windows)), *(us for _, us in windows), *(at for at, _ in changes), *(us for _, us in changes)],
        )  # fmt: skip


@dataclass(frozen=True)
class Age(Feature):
    """Days since the lead was created: `age_days`.

    >>> from features.example import said
    >>> said(Age())
    {'age_days': 31.0}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        yield Op(_AGE, ("age_days",), of_touches=False)


@dataclass(frozen=True)
class Attributes(Feature):
    """Every attribute known in training, as it stood last at as_of.

    A number as it is (`lead_employees`), true or false as 1 or 0 (`lead_newsletter_is_true`), a date as days before
    as_of (`lead_founded_age_days`), a category as one column a word, "other" and "missing"
    (`lead_industry_is_cleaning`).

    >>> from features.example import said
    >>> said(Attributes())
    {'lead_industry_is_retail': 1.0, 'lead_industry_is_other': 0.0, 'lead_industry_is_missing': 0.0, 'lead_size': 40.0}
    """

    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        for name, reading in vocabulary.attributes.items():
            if reading == "number":
                yield Op(_NUMBER, (f"lead_{name}",), attribute=name, reading=reading, start=math.nan)
            elif reading == "flag":
                yield Op(_FLAG, (f"lead_{name}_is_true",), attribute=name, reading=reading, start=math.nan)
            elif reading == "date":
                yield Op(_DATE, (f"lead_{name}_age_days",), attribute=name, reading=reading, start=math.nan)
            else:
                names = tuple(f"lead_{name}_is_{word}" for word in (*reading, OTHER, "missing"))
                yield Op(_CATEGORY, names, attribute=name, reading=reading)


FEATURES: dict[str, type[Feature]] = {
    cls.__name__: cls
    for cls in (
        Count, Sum, Mean, Max, Decayed, DaysSince, DaysSinceFirst, Distinct, ActiveDays, Gap, Streak, First, Last,
        Trend, Share, Sequence, TimeOfWeek, Age, Attributes,
    )
}  # fmt: skip
"""Every kind of feature by name, as JSON names them."""


@lru_cache(maxsize=64)
def _offsets(zone: str) -> tuple[tuple[float, float], ...]:
    """From when on a zone is how far ahead of UTC, both in microseconds.

    What holds at the beginning of 1900 and of 2100 holds before and after them.
    """
    here = find_zone(zone)

    def ahead(second: int) -> float:
        offset = (_EPOCH + timedelta(seconds=second)).astimezone(here).utcoffset()
        return 0.0 if offset is None else offset / timedelta(microseconds=1)

    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1900, 2100))
    changes = [(-math.inf, ahead(first))]
    # No zone changes twice within a day.
    for second in range(first, last, 86_400):
        if ahead(second + 86_400) == changes[-1][1]:
            continue
        low, high = second, second + 86_400
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if ahead(middle) == changes[-1][1] else (low, middle)
        changes.append((high * 1e6, ahead(high)))
    return tuple(changes)


# The loops. Their arguments: `row` takes the columns from `base` on; `groups` is the group of each kind, -1 for none;
# `given` are the operation's parameters; `spare` is room to work in; `n` touches are looked at.
_Touches: TypeAlias = tuple[Floats, Ints, Codes, Floats]
"""Age at as_of, at, kind and value of the touches a row sees: a plain tuple, for numba's cache breaks on renamed
classes."""


@njit(cache=True)
def _see(
    seen: _Touches, lo: int, hi: int, as_of: int, without: int, at: Ints, known: Ints, hidden: Ints, kind: Codes,
    value: Floats,
) -> int:  # fmt: skip
    """Gathers the touches that were known before as_of, but for those of one kind, or of every; returns how many."""
    age, when, what, worth = seen
    n = 0
    if without == EVERY:
        return n
    for i in range(lo, hi):
        if known[i] < as_of and kind[i] != without and not (len(hidden) and hidden[i] < as_of):
            age[n], when[n], what[n], worth[n] = as_of - at[i], at[i], kind[i], value[i]
            n += 1
    return n


@njit(cache=True)
def _meet(met: _Touches, seen: _Touches, n: int, low: float, high: float) -> int:
    """Gathers the touches whose value meets a condition; a missing value meets none."""
    age, when, what, worth = seen
    met_age, met_when, met_what, met_worth = met
    m = 0
    for i in range(n):
        if low <= worth[i] <= high:
            met_age[m], met_when[m], met_what[m], met_worth[m] = age[i], when[i], what[i], worth[i]
            m += 1
    return m


@njit(cache=True)
def _count(row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches) -> None:
    age, _, kind, _ = touches
    windows = len(given)
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0:
            cell = base + group * windows
            for w in range(windows):
                row[cell + w] += age[i] <= given[w]


@njit(cache=True)
def _sum(row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches) -> None:
    age, _, kind, value = touches
    windows = len(given)
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0 and not np.isnan(value[i]):
            cell = base + group * windows
            for w in range(windows):
                if age[i] <= given[w]:
                    row[cell + w] += value[i]


@njit(cache=True)
def _mean(
    row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches, spare: Floats, width: int
) -> None:
    age, _, kind, value = touches
    windows = len(given)
    spare[: width * windows] = 0.0
    for i in range(n):
        group = groups[kind[i]]
        if group < 0 or np.isnan(value[i]):
            continue
        for w in range(windows):
            if age[i] <= given[w]:
                cell = group * windows + w
                row[base + cell] = value[i] + (row[base + cell] if spare[cell] > 0 else 0.0)
                spare[cell] += 1.0
    for cell in range(width * windows):
        if spare[cell] > 0:
            row[base + cell] /= spare[cell]


@njit(cache=True)
def _max(row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches) -> None:
    age, _, kind, value = touches
    windows = len(given)
    for i in range(n):
        group = groups[kind[i]]
        if group < 0 or np.isnan(value[i]):
            continue
        # Adding nothing makes -0.0 into 0.0, of which either may come first.
        mine = value[i] + 0.0
        for w in range(windows):
            cell = base + group * windows + w
            if age[i] <= given[w] and not row[cell] >= mine:
                row[cell] = mine


@njit(cache=True)
def _decayed(row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches) -> None:
    age, _, kind, _ = touches
    rates = len(given)
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0:
            for r in range(rates):
                row[base + group * rates + r] += math.exp(-given[r] * age[i])


@njit(cache=True)
def _days_since(row: Floats, base: int, groups: Codes, n: int, touches: _Touches, width: int) -> None:
    age, _, kind, _ = touches
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0:
            row[base + group] = age[i]
    for cell in range(base, base + width):
        row[cell] /= US_PER_DAY


@njit(cache=True)
def _days_since_first(row: Floats, base: int, groups: Codes, n: int, touches: _Touches, width: int) -> None:
    age, _, kind, _ = touches
    for i in range(n - 1, -1, -1):
        group = groups[kind[i]]
        if group >= 0:
            row[base + group] = age[i]
    for cell in range(base, base + width):
        row[cell] /= US_PER_DAY


@njit(cache=True)
def _distinct(row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches, spare: Floats) -> None:
    age, _, kind, _ = touches
    width, windows = int(given[0]), given[1:]
    spare[: width * len(windows)] = 0.0
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0:
            for w in range(len(windows)):
                cell = w * width + group
                if age[i] <= windows[w] and spare[cell] == 0.0:
                    spare[cell] = 1.0
                    row[base + w] += 1.0


@njit(cache=True)
def _active_days(
    row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches, spare: Floats, width: int
) -> None:
    age, at, kind, _ = touches
    windows = len(given)
    spare[: width * windows] = np.nan
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0:
            day = float(at[i] // US_PER_DAY)
            for w in range(windows):
                cell = group * windows + w
                if age[i] <= given[w] and spare[cell] != day:
                    spare[cell] = day
                    row[base + cell] += 1.0


@njit(cache=True)
def _gap(
    row: Floats, base: int, groups: Codes, as_of: int, n: int, touches: _Touches, spare: Floats, width: int
) -> None:
    _, at, kind, _ = touches
    # For each group: the places of its first and last touch, and how many.
    spare[: 3 * width] = 0.0
    for i in range(n):
        group = groups[kind[i]]
        if group < 0:
            continue
        mine = 3 * group
        if spare[mine + 2] == 0.0:
            spare[mine] = i
        else:
            gap = (at[i] - at[int(spare[mine + 1])]) / US_PER_DAY
            cell = base + 4 * group
            row[cell + 1] = gap if np.isnan(row[cell + 1]) else max(row[cell + 1], gap)
            row[cell + 2] = gap
        spare[mine + 1] = i
        spare[mine + 2] += 1.0
    for group in range(width):
        touched = spare[3 * group + 2]
        if touched < 2:
            continue
        first, last = at[int(spare[3 * group])], at[int(spare[3 * group + 1])]
        mean = (last - first) / US_PER_DAY / (touched - 1)
        row[base + 4 * group] = mean
        if mean > 0:
            row[base + 4 * group + 3] = (as_of - last) / US_PER_DAY / mean


@njit(cache=True)
def _streak(row: Floats, base: int, groups: Codes, given: Floats, as_of: int, n: int, touches: _Touches) -> None:
    _, at, kind, _ = touches
    period = int(given[0])
    for i in range(n - 1, -1, -1):
        group = groups[kind[i]]
        # Period k back from as_of holds the ages in (k, k + 1] periods; ages only grow, so a gap ends the row.
        if group >= 0 and (as_of - at[i] - 1) // period == row[base + group]:
            row[base + group] += 1.0


@njit(cache=True)
def _first(row: Floats, base: int, groups: Codes, n: int, touches: _Touches) -> None:
    _, _, kind, _ = touches
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0:
            row[base + group] = 1.0
            return


@njit(cache=True)
def _last(row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches) -> None:
    _, _, kind, _ = touches
    place = int(given[0])
    for i in range(n - 1, -1, -1):
        group = groups[kind[i]]
        if group >= 0:
            place -= 1
            if place == 0:
                row[base + group] = 1.0
                return


@njit(cache=True)
def _trend(
    row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches, spare: Floats, width: int
) -> None:
    age, _, kind, _ = touches
    recent, past = given[0], given[1]
    spare[: 2 * width] = 0.0
    for i in range(n):
        group = groups[kind[i]]
        if group >= 0:
            spare[2 * group] += age[i] <= past
            spare[2 * group + 1] += age[i] <= recent
    for group in range(width):
        if spare[2 * group] > 0:
            row[base + group] = spare[2 * group + 1] / spare[2 * group] * (past / recent)


@njit(cache=True)
def _share(row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches, width: int) -> None:
    _count(row, base, groups, given, n, touches)
    windows = len(given)
    for w in range(windows):
        total = 0.0
        for group in range(width):
            total += row[base + group * windows + w]
        if total > 0:
            for group in range(width):
                row[base + group * windows + w] /= total


@njit(cache=True)
def _sequence(row: Floats, base: int, groups: Codes, n: int, touches: _Touches) -> None:
    _, at, kind, _ = touches
    # The group tells, bit by bit, which of the two kinds a touch is, less 1: email_click is email and email_click.
    first = -1
    for i in range(n):
        kinds = groups[kind[i]] + 1
        if kinds & 2 and first >= 0 and at[first] < at[i]:
            row[base] = 1.0
            return
        if kinds & 1 and first < 0:
            first = i


@njit(cache=True)
def _business_hours(
    row: Floats, base: int, groups: Codes, given: Floats, n: int, touches: _Touches, spare: Floats, width: int
) -> None:
    age, at, kind, _ = touches
    count = int(given[0])
    windows, changes = given[1 : 1 + count], given[1 + count :]
    half = len(changes) // 2
    place = np.searchsorted(changes[:half], float(at[0]), side="right") - 1
    spare[: width * count] = 0.0
    for i in range(n):
        group = groups[kind[i]]
        if group < 0:
            continue
        when = at[i]
        while place + 1 < half and changes[place + 1] <= when:
            place += 1
        # 1970 began on a Thursday; counted from Monday.
        local = (when + int(changes[half + place]) + 3 * US_PER_DAY) % _WEEK
        hour = local % US_PER_DAY / _HOUR
        working = local < 5 * US_PER_DAY and 9 <= hour < 17
        for w in range(count):
            if age[i] <= windows[w]:
                spare[group * count + w] += 1.0
                row[base + group * count + w] += working
    for cell in range(width * count):
        if spare[cell] > 0:
            row[base + cell] /= spare[cell]


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
    ops: Ints, parameters: Floats, start_row: Floats, room: int, slots: Codes, how: Ints, tables: Floats,
    start: Ints, stop: Ints, lead: Ints, as_of: Ints, no_kind: Codes, no_column: Codes, created_at: Ints,
    at: Ints, known: Ints, hidden: Ints, kind: Codes, value: Floats,
    cells: Floats, fact_offsets: Ints, fact_at: Ints, fact_known: Ints, fact_column: Codes, fact_value: Floats,
    out: Matrix,
) -> None:  # fmt: skip
    """Carries out a program for every row of a cohort; the one implementation of every feature."""
    row, spare = np.empty(out.shape[1], np.float64), np.empty(room, np.float64)
    mine = np.empty(cells.shape[1], np.float64)
    most = 0
    for r in range(len(lead)):
        most = max(most, stop[r] - start[r])
    seen = (np.empty(most), np.empty(most, np.int64), np.empty(most, np.int32), np.empty(most))
    met = (np.empty(most), np.empty(most, np.int64), np.empty(most, np.int32), np.empty(most))
    for r in range(len(lead)):
        row[:] = start_row
        now, who = as_of[r], lead[r]
        if cells.shape[1]:
            if created_at[who] < now:
                mine[:] = cells[who]
            else:
                mine[:] = np.nan
            for f in range(fact_offsets[who], fact_offsets[who + 1]):
                if fact_at[f] < now and fact_known[f] < now:
                    mine[fact_column[f]] = fact_value[f]
            if len(no_column) and no_column[r] == EVERY:
                mine[:] = np.nan
            elif len(no_column) and no_column[r] >= 0:
                mine[no_column[r]] = np.nan
        spared = no_kind[r] if len(no_kind) else -1
        known_by_now = _see(seen, start[r], stop[r], now, spared, at, known, hidden, kind, value)
        for o in range(len(ops)):
            code, base, width, source = ops[o, 0], ops[o, 1], ops[o, 2], ops[o, 3]
            if code == _AGE:
                row[base] = (now - created_at[who]) / US_PER_DAY
                continue
            if code in (_NUMBER, _FLAG, _CATEGORY, _DATE):
                cell = np.nan if how[source, 0] < 0 else _read(mine[how[source, 0]], how[source], tables)
                if code == _NUMBER:
                    row[base] = cell
                elif code == _FLAG:
                    row[base] = cell if cell in (0.0, 1.0) else np.nan
                elif code == _DATE:
                    row[base] = (now - cell) / US_PER_DAY
                elif np.isnan(cell):
                    row[base + width - 1] = 1.0
                else:
                    row[base + int(cell)] = 1.0
                continue
            low, high = parameters[ops[o, 4]], parameters[ops[o, 4] + 1]
            n, touches = known_by_now, seen
            if not np.isnan(low):
                n, touches = _meet(met, seen, known_by_now, low, high), met
            if n == 0:
                continue
            groups, given = slots[source], parameters[ops[o, 4] + 2 : ops[o, 5]]
            if code == _COUNT:
                _count(row, base, groups, given, n, touches)
            elif code == _SUM:
                _sum(row, base, groups, given, n, touches)
            elif code == _MEAN:
                _mean(row, base, groups, given, n, touches, spare, width)
            elif code == _MAX:
                _max(row, base, groups, given, n, touches)
            elif code == _DECAYED:
                _decayed(row, base, groups, given, n, touches)
            elif code == _DAYS_SINCE:
                _days_since(row, base, groups, n, touches, width)
            elif code == _DAYS_SINCE_FIRST:
                _days_since_first(row, base, groups, n, touches, width)
            elif code == _DISTINCT:
                _distinct(row, base, groups, given, n, touches, spare)
            elif code == _ACTIVE_DAYS:
                _active_days(row, base, groups, given, n, touches, spare, width)
            elif code == _GAP:
                _gap(row, base, groups, now, n, touches, spare, width)
            elif code == _STREAK:
                _streak(row, base, groups, given, now, n, touches)
            elif code == _FIRST:
                _first(row, base, groups, n, touches)
            elif code == _LAST:
                _last(row, base, groups, given, n, touches)
            elif code == _TREND:
                _trend(row, base, groups, given, n, touches, spare, width)
            elif code == _SHARE:
                _share(row, base, groups, given, n, touches, width)
            elif code == _SEQUENCE:
                _sequence(row, base, groups, n, touches)
            else:
                _business_hours(row, base, groups, given, n, touches, spare, width)
        out[r, :] = row
