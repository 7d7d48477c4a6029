"""One lead at one instant after another: what was known of it, and its score then."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.errors import UsageError
from features.history import Cohort, Dataset
from features.times import isoformat
from models.scorer import Scorer
from models.tiers import TIERS


class Point(NamedTuple):
    """A lead's score as of an instant.

    >>> Point(as_of=0, probability=0.31, score=87, tier="hot").tier
    'hot'
    """

    as_of: int
    """Microseconds."""
    probability: float
    score: int
    tier: str


def points(scorer: Scorer, dataset: Dataset, cohort: Cohort) -> list[Point]:
    """Scores a cohort, row by row."""
    scores = scorer.score(dataset, cohort)
    columns = (cohort.as_of, scores.probability, scores.score, scores.tier)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Point(at, probability, score, TIERS[code]) for at, probability, score, code in rows]


def check_created(dataset: Dataset, lead: int, as_of: int) -> None:
    """Raises UsageError unless there is such a lead, and it was created before an instant."""
    if not 0 <= lead < len(dataset):
        raise UsageError(f"there is no lead {lead} among {len(dataset):,}. Use `dataset.find` to number ids.")
    if dataset.created_at[lead] >= as_of:
        raise UsageError(
            f"lead {dataset.ids[lead]!r} was created at {isoformat(dataset.created_at[lead])}, not before "
            f"{isoformat(as_of)}: there was no lead yet. Ask about a later time."
        )


def known_of(dataset: Dataset, lead: int, as_of: int) -> Dataset:
    """The dataset of one lead, with what was known of it before an instant. Raises UsageError if there was no lead."""
    check_created(dataset, lead, as_of)
    return dataset.take(np.array([lead], np.int64), as_of)
