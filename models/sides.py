"""Who a lead is beside what it did: the score with its attributes alone, and with its touches alone.

Both are the same function called once more, as for reasons. The age of the lead is neither, and counts in both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.feature import EVERY, Without
from features.history import Cohort, Floats

_LESS = np.array([[-1, EVERY, -1], [-1, -1, EVERY]], np.int32)
"""The touches, and the attributes, that each of three rows is without."""


class Sides(NamedTuple):
    """What scores would be with one side of what is known alone."""

    fit: Floats
    """(n,) who the lead is: the probability without its touches."""
    engagement: Floats
    """(n,) what it did: the probability without its attributes."""


def with_each_side(cohort: Cohort) -> tuple[Cohort, Without]:
    """Returns (3n,) rows: those of a cohort as they are, then without any touch, then without any attribute."""
    rows = Cohort(np.concatenate((cohort.lead,) * 3), np.concatenate((cohort.as_of,) * 3))
    return rows, Without(_LESS[0].repeat(len(cohort)), _LESS[1].repeat(len(cohort)))
