"""From touchpoints to a matrix: tables in, point-in-time features out."""

from features.aggregates import FEATURES, Age, Attributes, Count, DaysSince, Decayed, First, Last, Sum
from features.definitions import LEAD_FEATURES
from features.errors import ModelError, TableError, TouchstoneError, UsageError
from features.feature import Feature, FeatureSet
from features.history import Cohort, Dataset, History, Kind

__all__ = [
    "FEATURES",
    "LEAD_FEATURES",
    "Age",
    "Attributes",
    "Cohort",
    "Count",
    "Dataset",
    "DaysSince",
    "Decayed",
    "Feature",
    "FeatureSet",
    "First",
    "History",
    "Kind",
    "Last",
    "ModelError",
    "Sum",
    "TableError",
    "TouchstoneError",
    "UsageError",
]
