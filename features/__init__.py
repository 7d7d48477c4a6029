"""From touchpoints to a matrix: tables in, point-in-time features out."""

import features.compiled  # noqa: F401 - before numba is given the first function
from features.aggregates import (
    FEATURES,
    ActiveDays,
    Age,
    Attributes,
    Count,
    DaysSince,
    DaysSinceFirst,
    Decayed,
    Distinct,
    First,
    Gap,
    Last,
    Max,
    Mean,
    Sequence,
    Share,
    Streak,
    Sum,
    TimeOfWeek,
    Trend,
)
from features.definitions import LEAD_FEATURES
from features.errors import ModelError, TableError, TouchstoneError, UsageError
from features.feature import Feature, FeatureSet
from features.history import Cohort, Dataset, History, Kind
from features.touchpoints import TOUCHPOINTS, touchpoint_of

__all__ = [
    "FEATURES",
    "LEAD_FEATURES",
    "TOUCHPOINTS",
    "ActiveDays",
    "Age",
    "Attributes",
    "Cohort",
    "Count",
    "Dataset",
    "DaysSince",
    "DaysSinceFirst",
    "Decayed",
    "Distinct",
    "Feature",
    "FeatureSet",
    "First",
    "Gap",
    "History",
    "Kind",
    "Last",
    "Max",
    "Mean",
    "ModelError",
    "Sequence",
    "Share",
    "Streak",
    "Sum",
    "TableError",
    "TimeOfWeek",
    "TouchstoneError",
    "Trend",
    "UsageError",
    "touchpoint_of",
]
