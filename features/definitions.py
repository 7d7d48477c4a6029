"""What we compute of a lead, one line each."""

from __future__ import annotations

from features.aggregates import Age, Attributes, DaysSince, Decayed
from features.feature import Feature

KIND = ("channel", "action")

LEAD_FEATURES: tuple[Feature, ...] = (
    Age(),
    Decayed(half_life_days=(3, 7, 14, 30)),
    Decayed(by=KIND, half_life_days=(7, 30)),
    DaysSince(),
    DaysSince(by=KIND),
    Attributes(),
)
"""As few as the backtests support: docs/decisions/0006-feature-families.md."""
