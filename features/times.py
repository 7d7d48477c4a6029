"""Instants as whole microseconds since 1970 in UTC, the only form of time below the edges."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from features.errors import UsageError

US_PER_DAY = 86_400_000_000
NEVER = np.iinfo(np.int64).max
"""The time of what has not happened."""
EARLIEST, TOO_LATE = -62_104_060_800_000_000, 253_370_764_800_000_000
"""The beginnings of the years 2 and 9999: systems write the first and last date there are where they know none."""

Time: TypeAlias = "int | str | date | np.datetime64"
"""An instant at the edge: microseconds, ISO 8601 text, a datetime with a zone, or a bare date."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(at: Time, zone: str | None = None) -> int:
    """Returns an instant in microseconds; a bare date is the midnight that begins it in `zone`, or else in UTC.

    A time without an offset is one of `zone`, and wrong if none is given; an hour that comes twice means the first.

    >>> to_us("2026-01-01T01:00:00+01:00") == to_us("2026-01-01")
    True
    >>> isoformat(to_us("2026-01-01T10:00", "Europe/Amsterdam"))
    '2026-01-01T09:00:00Z'
    """
    if isinstance(at, (int, np.integer)):
        return int(at)
    if isinstance(at, np.datetime64):
        return int(at.astype("datetime64[us]").astype(np.int64))
    if isinstance(at, str):
        at = _parse(at)
    if not isinstance(at, datetime):
        at = datetime.combine(at, time(), tzinfo=find_zone(zone or "UTC"))
    elif at.tzinfo is None and zone is not None:
        at = at.replace(tzinfo=find_zone(zone))
    if at.tzinfo is None:
        raise UsageError(f"the time {at.isoformat()} carries no zone. Write an offset, e.g. {at.isoformat()}Z.")
    try:
        return datetime_us(at.astimezone(UTC))
    except OverflowError:
        raise UsageError(f"{at.isoformat()} is beyond the years 1 to 9999 in UTC. Give one of them.") from None


def datetime_us(at: datetime) -> int:
    """Returns a datetime that carries a zone as microseconds."""
    return (at - _EPOCH) // _MICROSECOND


def datetimes_us(instants: Iterable[datetime]) -> list[int]:
    """Returns datetimes that carry a zone as microseconds."""
    return [(at - _EPOCH) // _MICROSECOND for at in instants]


def to_datetime(us: int) -> datetime:
    """Returns microseconds as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=int(us))


def isoformat(us: int) -> str:
    """Writes an instant as ISO 8601 in UTC.

    >>> isoformat(0)
    '1970-01-01T00:00:00Z'
    """
    return to_datetime(us).isoformat().replace("+00:00", "Z")


def find_zone(name: str) -> ZoneInfo:
    """Returns a time zone by its IANA name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise UsageError(f"the zone {name!r} is not known. Use an IANA name, e.g. Europe/Amsterdam or UTC.") from None


def days(text: str) -> float:
    """Reads a span such as `90d`, `12w`, `36h` or `90` (days) and returns it in days.

    >>> days("2w")
    14.0
    """
    unit = {"d": 1.0, "w": 7.0, "h": 1 / 24}.get(text[-1:], 0.0)
    try:
        span = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        span = 0.0
    if not 0 < span < 36_525:
        raise UsageError(f"{text!r} is not a span of time. Use days, weeks or hours, e.g. 90d, 12w or 36h.")
    return span


def _parse(text: str) -> date:
    try:
        return date.fromisoformat(text) if len(text) <= 10 else datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time. Use ISO 8601, e.g. 2026-11-01 or 2026-11-01T14:00:00Z.") from None
