"""Cut-offs for the team that has to work the leads, and what it can expect of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from features.history import Cohort, Dataset, Floats
from features.times import US_PER_DAY, isoformat
from models.tiers import Tiers
from training.experiment import Experiment

_LOOK = 7 * US_PER_DAY
"""How often the past arrivals are looked at: leads are called by the week."""


def choose_tiers(
    known: Dataset, predict: Callable[[Cohort], Floats], probability: Floats, experiment: Experiment, until: int
) -> Tiers:
    """Returns the cut-offs for the leads that are open at `until`, whose probabilities are given.

    With a team they follow from what it can work within a horizon, of the leads that are open and of as many new ones
    as arrived within the last horizon; without one a tenth is hot, and two more are warm.
    """
    version = isoformat(until)[:10]
    if experiment.team is None:
        return Tiers.for_shares(probability, version=version)
    peaks = arrivals_peaks(known, predict, until - experiment.horizon, until)
    return Tiers.for_capacity(
        probability,
        peaks,
        arrivals=len(peaks),
        weeks=experiment.horizon_days / 7,
        team=experiment.team,
        version=version,
    )


def arrivals_peaks(known: Dataset, predict: Callable[[Cohort], Floats], begin: int, end: int) -> Floats:
    """Returns the highest probability of each lead that arrived in [begin, end), as a look every week found it.

    A lead that was never open at a look, because it came and went in between, was never to be called.
    """
    looks = Cohort.concat(known.open_at(t) for t in range(end, begin, -_LOOK))
    looks = looks[known.created_at[looks.lead] >= begin]
    highest = np.full(len(known), -1.0)
    np.maximum.at(highest, looks.lead, predict(looks))
    return highest[highest >= 0]
