"""What we compute of a lead, one line each."""

from __future__ import annotations

from features.aggregates import Age, Attributes, Count, DaysSince, Decayed, First, Last, Sum
from features.feature import Feature

KIND = ("channel", "action")

LEAD_FEATURES: tuple[Feature, ...] = (
    Age(),
    Count(days=(7, 30, 90, None)),
    Count(by=KIND, days=(7, 30, 90, None)),
    Decayed(by=KIND, half_life_days=(7, 30)),
    DaysSince(),
    DaysSince(by=KIND),
    Sum(by=("channel",), days=(30, None)),
    First(by=("channel",)),
    Last(by=("channel",)),
    Attributes(),
)
