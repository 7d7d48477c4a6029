"""Columns as files hold them turned into words, numbers and instants, each with what is wrong in it by row.

Everything here is done for a whole column at once; only the distinct words that need it are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from features.errors import UsageError
from features.history import Bools, Codes, Floats, Ids, Ints, read_only
from features.times import US_PER_DAY, find_zone
from features.words import attribute_word, number_word, word_number

TEXT = pa.large_string()
"""The type of text: the plain one ends at 2 GB a column."""

_DATE = r"\d{4}-\d{2}-\d{2}|\d{8}"
_TIME = r"[T ]\d{2}(?::\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?|\d{2}(?:\d{2}(?:[.,]\d{1,9})?)?)?"
_ZONE = r" ?(?:Z|z|UTC|[+-]\d{2}(?::?\d{2})?)"
_DECIMAL_COMMA = r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)?,\d+"
_LEAP_SECOND = r"^(.{8,10}[T ]\d{2}:?\d{2}:?)60(?:[.,]\d+)?"
_FIRST_WALL, _LAST_WALL = -62_135_510_400_000_000, 253_402_214_400_000_000
"""0001-01-02 and 9999-12-31: what Python can tell the offset of in any zone."""


@dataclass(frozen=True)
class Times:
    """A column of instants."""

    at: Ints
    """Microseconds; without meaning where `empty` or `wrong`."""
    dated: Bools
    """Bare dates, known at the end of their day."""
    empty: Bools
    wrong: Mapping[int, str]


@dataclass(frozen=True)
class Form:
    """How a whole column of times is written, for the time when only some of its rows are at hand.

    >>> Form.of(pa.array(["03/01/2026", "soon"]), "%d/%m/%Y")
    Form(dates=False, formatted=True)
    """

    dates: bool
    """Without a zone, and every time a midnight: a column of dates."""
    formatted: bool
    """Some of it looks like the date format."""

    @classmethod
    def of(cls, column: pa.Array, date_format: str | None, missing: Sequence[str] = ()) -> Self:
        """Looks at a column; dates are counted as such only where their type leaves it open."""
        column = plain(column)
        if pa.types.is_timestamp(column.type):
            return cls(column.type.tz is None and not (_wall(column) % US_PER_DAY).any(), False)
        if pa.types.is_date(column.type) or date_format is None:
            return cls(False, False)
        words = pc.unique(text(column, missing)).drop_null()
        return cls(False, bool(_times_like(date_format, words)[1].any()))

    def and_then(self, other: Form) -> Form:
        """What two parts of a column are together."""
        return Form(self.dates and other.dates, self.formatted or other.formatted)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """One array of a column's chunks; text is `TEXT`, and categories stay codes into what they stand for.

    A type of its own, such as JSON's, is what it is stored as; UUIDs are the text that people write.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        stored = whole(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
        return _uuid_words(stored) if isinstance(kind, pa.UuidType) else stored
    if pa.types.is_string(kind) or pa.types.is_string_view(kind) or is_bytes(kind):
        column = column.cast(TEXT)
    if pa.types.is_dictionary(kind):
        column = column.unify_dictionaries()
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)


def plain(column: pa.Array) -> pa.Array:
    """Categories as what they stand for."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def text(column: pa.Array, missing: Sequence[str] = ()) -> pa.Array:
    """A column as text without surrounding blanks; null where empty or a word for missing."""
    column = plain(column)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_floating(column.type):
        column = _float_words(column)
    if pa.types.is_integer(column.type) and not missing:
        return column.cast(TEXT)
    words = pc.utf8_trim_whitespace(column.cast(TEXT))
    for word in ("", *missing):
        blank = pc.equal(words, word)
        if pc.any(blank).as_py():
            words = pc.if_else(blank, pa.scalar(None, TEXT), words)
    return words


def coded(column: pa.Array, missing: Sequence[str] = ()) -> pa.DictionaryArray:
    """A column as codes into its distinct words as `text` makes them; null where that is.

    Only the distinct words are looked at, which are few beside the rows.
    """
    if pa.types.is_integer(column.type) and not column.null_count and not missing:
        places, distinct = distinct_integers(np.asarray(column))
        return pa.DictionaryArray.from_arrays(places, pa.array(distinct).cast(TEXT))
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    words = text(column.dictionary, missing)
    again = words.dictionary_encode()
    places = column.indices.cast(pa.int32())
    if len(again.dictionary) == len(words):
        return pa.DictionaryArray.from_arrays(places, words)
    return pa.DictionaryArray.from_arrays(again.indices.take(places), again.dictionary)


def distinct_integers(column: npt.NDArray[Any]) -> tuple[Codes, npt.NDArray[Any]]:
    """Codes into the distinct integers, which stand in the order in which they first appear."""
    low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
    if high - low < 4 * len(column):
        # A table of the whole range needs no hashing.
        return _by_range(read_only(column), low, high - low + 1)
    places, distinct = pd.factorize(column)
    return places.astype(np.int32), distinct


@njit(cache=True, nogil=True)
def _by_range(column: npt.NDArray[Any], low: int, span: int) -> tuple[Codes, npt.NDArray[Any]]:
    place, distinct = np.full(span, -1, np.int32), np.empty(min(span, len(column)), column.dtype)
    codes, count = np.empty(len(column), np.int32), 0
    for i in range(len(column)):
        at = column[i] - low
        if place[at] < 0:
            place[at] = count
            distinct[count] = column[i]
            count += 1
        codes[i] = place[at]
    return codes, distinct[:count].copy()


def numbers(column: pa.Array, missing: Sequence[str] = ()) -> tuple[Floats, dict[int, str]]:
    """A column as numbers, NaN where empty; and what is wrong."""
    column = plain(column)
    if is_number(column.type):
        values = _floats(column)
        given = ~np.isnan(values)
        words = column
    else:
        words = text(column, missing)
        given = np.asarray(words.is_valid())
        try:
            values = _floats(words)
        except pa.ArrowInvalid:
            values = np.array([np.nan if word is None else word_number(word) for word in words.to_pylist()])
    bad = np.flatnonzero(given & ~np.isfinite(values))
    hint = "is not a number. Write it like 1234.5, or leave it empty."
    return values, {int(row): f"{str(words[int(row)])!r} {hint}" for row in bad}


class Written(IntEnum):
    """What a cell of text holds."""

    WORD = 0
    NUMBER = 1
    DECIMAL_COMMA = 2
    """A number with a decimal comma, which is taken as a word."""
    NOTHING = 3


def cells(column: pa.Array, missing: Sequence[str] = ()) -> tuple[Ids, npt.NDArray[np.int8]]:
    """A column of attribute values as Python numbers, words or None; text that reads as a number is one.

    Returns with them how each is written; nothing of a column that holds no text.
    """
    if is_number(plain(column).type):
        values = _floats(plain(column))
        found = values.astype(object)
        found[~np.isfinite(values)] = None
        return found, np.empty(0, np.int8)
    found = coded(column, missing)
    words = [attribute_word(word) for word in found.dictionary.to_pylist()]
    numbers = [*map(word_number, words)]
    read = zip(words, numbers, strict=True)
    lookup = np.array([*(word if number != number else number for word, number in read), None], object)
    written = np.where(np.isnan(numbers), Written.WORD, Written.NUMBER).astype(np.int8)
    written[_matches(found.dictionary, _DECIMAL_COMMA)] = Written.DECIMAL_COMMA
    places = codes(found)
    return np.asarray(lookup[places], object), np.append(written, np.int8(Written.NOTHING))[places]


def times(
    column: pa.Array,
    *,
    zone: str | None = None,
    date_format: str | None = None,
    missing: Sequence[str] = (),
    form: Form | None = None,
) -> Times:
    """A column as instants; `form` is that of the whole column where this is a part of it.

    A time without an offset is one of `zone`, and wrong if none is given. A bare date is the end of that day in
    `zone` or UTC. A leap second is the last microsecond of its minute. Where clocks go back, the hour that comes twice
    means the first; where they go forward, a time in the hour that is left out means its end.
    """
    column = plain(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _typed_times(column, zone, form)
    words = text(column, missing)
    empty = np.asarray(words.is_null())
    if date_format is None:
        instants = _cast_times(words, "UTC")
        if instants is not None:
            return Times(instants, np.zeros(len(words), np.bool_), empty, {})
    distinct = words.dictionary_encode()
    at, dated, wrong = _distinct_times(distinct.dictionary, zone, date_format, form)
    mine = codes(distinct)
    bad = np.flatnonzero(np.isin(mine, list(wrong))) if wrong else ()
    return Times(np.append(at, 0)[mine], np.append(dated, False)[mine], empty, {int(k): wrong[mine[k]] for k in bad})


def local_days(at: Ints, zone: str | None) -> Ints:
    """The day each instant falls on in a zone, as days since 1970."""
    if zone in (None, "UTC"):
        return at // US_PER_DAY
    local = pd.DatetimeIndex(at.astype("datetime64[us]"), tz="UTC").tz_convert(find_zone(str(zone)))
    return _microseconds(local.tz_localize(None)) // US_PER_DAY


def codes(words: pa.DictionaryArray) -> Codes:
    """The place in the dictionary of each value, and the place behind it for those that are missing."""
    if not len(words.dictionary):
        return np.broadcast_to(np.int32(0), len(words))
    places = words.indices
    return np.asarray(places.fill_null(len(words.dictionary)) if places.null_count else places, np.int32)


def is_number(kind: pa.DataType) -> bool:
    """Whether a type holds numbers."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type holds bytes, which may be text."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _uuid_words(column: pa.Array) -> pa.DictionaryArray:
    found = column.dictionary_encode()
    words = [str(UUID(bytes=raw)) for raw in found.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(found.indices, pa.array(words, TEXT))


def _floats(column: pa.Array) -> Floats:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _float_words(column: pa.Array) -> pa.Array:
    """Floats as the words a CSV file would hold: a column of ids that became floats is ids again."""
    values = _floats(column)
    given = ~np.isnan(values)
    if (np.abs(values[given]) < 2**53).all() and (values[given] % 1 == 0).all():
        return pa.array(np.where(given, values, 0).astype(np.int64), mask=~given)
    return pa.array([number_word(value) if there else None for value, there in zip(values, given, strict=True)], TEXT)


def _wall(column: pa.Array) -> Ints:
    """The microseconds that a column of timestamps or dates shows; 0 where empty."""
    kind = pa.timestamp("us", getattr(column.type, "tz", None))
    return np.asarray(column.cast(kind, safe=False).cast(pa.int64()).fill_null(0))


def _typed_times(column: pa.Array, zone: str | None, form: Form | None) -> Times:
    """A column without a zone in which every time is a midnight is a column of dates, as data frames read them."""
    own_zone = getattr(column.type, "tz", None)
    empty = np.asarray(column.is_null())
    wall = _wall(column)
    none = np.zeros(len(wall), np.bool_)
    if own_zone:
        return Times(wall, none, empty, {})
    dates = not (wall % US_PER_DAY).any() if form is None else form.dates
    if pa.types.is_date(column.type) or dates:
        return Times(_end_of_day(wall, zone), ~none, empty, {})
    if zone is None:
        return Times(wall, none, empty, {int(k): _no_zone(str(column[int(k)])) for k in np.flatnonzero(~empty)})
    return Times(_localize(wall, zone), none, empty, {})


def _distinct_times(
    words: pa.Array, zone: str | None, date_format: str | None, form: Form | None
) -> tuple[Ints, Bools, dict[int, str]]:
    """Returns, for words that are all different, the instants, which are bare dates, and what is wrong."""
    wall, good, dated, zoned = _iso_times(words) if date_format is None else _times_like(date_format, words)
    hint = "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format."
    formatted = bool(good.any()) if form is None else form.formatted
    if date_format is not None and not formatted:
        wall, good, dated, zoned = _iso_times(words)
        hint = f"It should look like {date_format}, or be ISO 8601 throughout."
    elif date_format is not None:
        hint = f"It should look like {date_format}."
    wrong = {int(k): f"{words[int(k)].as_py()!r} is not a date. {hint}" for k in np.flatnonzero(~good)}
    naive = good & ~dated & ~zoned
    if zone is None:
        wrong |= {int(k): _no_zone(words[int(k)].as_py()) for k in np.flatnonzero(naive)}
    else:
        wall[naive] = _localize(wall[naive], zone)
    wall[dated] = _end_of_day(wall[dated], zone)
    return wall, dated, wrong


def _iso_times(words: pa.Array) -> tuple[Ints, Bools, Bools, Bools]:
    """Returns (microseconds, is a time, is a bare date, carries an offset) of ISO 8601 text."""
    dated = _matches(words, _DATE)
    zoned = _matches(words, f"(?:{_DATE}){_TIME}{_ZONE}")
    good = dated | zoned | _matches(words, f"(?:{_DATE}){_TIME}")
    wall = np.zeros(len(words), np.int64)
    for rows, zone in ((zoned, "UTC"), (good & ~zoned, None)):
        mine = words.filter(pa.array(rows))
        found = _cast_times(mine, zone)
        if found is None:
            plain = pc.replace_substring_regex(mine, _LEAP_SECOND, r"\1" + "59.999999")
            plain = pc.replace_substring(pc.replace_substring_regex(plain, " ?UTC$", "Z"), ",", ".")
            parsed = pd.to_datetime(_series(plain), format="ISO8601", utc=True, errors="coerce")
            good[rows] = parsed.notna()
            found = _microseconds(parsed)
        wall[rows] = found
    return wall, good, dated & good, zoned & good


def _times_like(date_format: str, words: pa.Array) -> tuple[Ints, Bools, Bools, Bools]:
    """Like `_iso_times`, of text in a format of its own."""
    try:
        parsed = pd.to_datetime(_series(words), format=date_format, utc=True, errors="coerce")
    except ValueError as problem:
        raise UsageError(f"the date format {date_format!r} cannot be used: {problem}.") from None
    good = parsed.notna().to_numpy()
    has_time = any(code in date_format for code in ("%H", "%I", "%T", "%X", "%c", "%s"))
    has_zone = "%z" in date_format or "%Z" in date_format
    return _microseconds(parsed), good, good & (not has_time), good & has_zone


def _cast_times(words: pa.Array, zone: str | None) -> Ints | None:
    """Words that all are ISO 8601 and all carry an offset (zone UTC) or all do not (None) as microseconds."""
    try:
        return np.array(words.cast(pa.timestamp("us", zone)).cast(pa.int64()).fill_null(0))
    except pa.ArrowInvalid:
        return None


def _matches(words: pa.Array, pattern: str) -> Bools:
    return np.array(pc.match_substring_regex(words, f"^(?:{pattern})$").fill_null(False), np.bool_)


def _series(words: pa.Array) -> pd.Series[Any]:
    return pd.Series(words.to_pylist(), dtype=object)


def _microseconds(times: pd.Series[Any] | pd.DatetimeIndex) -> Ints:
    """Times as whole microseconds; any number where there is none."""
    return np.asarray(times.to_numpy("datetime64[us]").astype(np.int64))


def _end_of_day(midnight: Ints, zone: str | None) -> Ints:
    return _localize(midnight + US_PER_DAY, zone or "UTC") - 1


def _localize(wall: Ints, zone: str) -> Ints:
    """Wall-clock microseconds in a zone as UTC."""
    if zone == "UTC":
        return wall
    index = pd.DatetimeIndex(np.clip(wall, _FIRST_WALL, _LAST_WALL).astype("datetime64[us]"))
    first = np.ones(len(wall), np.bool_)
    local = index.tz_localize(find_zone(zone), ambiguous=first, nonexistent="shift_forward")
    return _microseconds(local.tz_convert("UTC").tz_localize(None))


def _no_zone(word: str) -> str:
    return f"{word!r} carries no zone. Write an offset (2026-02-28T14:00:00+01:00), or pass --zone."
