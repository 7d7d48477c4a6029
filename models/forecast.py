"""What happens if nobody acts: a lead's score on each day ahead without a touch, and when it leaves its tier.

It is the score itself, asked as of later instants, so it equals the score of that day if nothing becomes known until
then. Nothing that is not known yet is seen: a meeting that is in the calendar for next week is a touch of next week.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.errors import UsageError
from features.history import Cohort, Dataset
from features.times import US_PER_DAY, Time, to_us
from models.points import Point, known_of, points
from models.scorer import Scorer

LONGEST = 365
"""Days."""


@dataclass(frozen=True)
class Forecast:
    """A lead's score as of an instant and of each day after it.

    >>> Forecast(Point(0, 0.31, 87, "hot"), (Point(86_400_000_000, 0.28, 85, "hot"),), leaves=None).days[0].probability
    0.28
    """

    now: Point
    days: tuple[Point, ...]
    """One day ahead, two, ..."""
    leaves: Point | None
    """The first day on which it is in another tier than now, by the entry cut-offs; None if it stays."""


def forecast(scorer: Scorer, dataset: Dataset, lead: int, as_of: Time, days: int = 30) -> Forecast:
    """Scores a lead as of each day ahead, as if nothing more became known of it.

    Raises UsageError unless the lead was created before `as_of`, and `days` is from 1 to 365.
    """
    if not 1 <= days <= LONGEST:
        raise UsageError(f"days={days!r} cannot be looked ahead. Ask for 1 to {LONGEST} days.")
    begin = to_us(as_of)
    instants = begin + US_PER_DAY * np.arange(days + 1)
    now, *ahead = points(scorer, known_of(dataset, lead, begin), Cohort.at(np.zeros(days + 1), instants))
    leaves = next((point for point in ahead if point.tier != now.tier), None)
    return Forecast(now, tuple(ahead), leaves)
