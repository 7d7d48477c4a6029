"""Cut-offs for the team that has to work the leads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from features.history import Cohort, Dataset, Floats
from features.times import US_PER_DAY, isoformat
from models.tiers import EXIT, Tiers
from training.experiment import Experiment

_WEEK = 7 * US_PER_DAY
_WEEKS = 12
"""How far the past is replayed: long enough to count, short enough to be like what comes."""


def choose_tiers(
    known: Dataset,
    predict: Callable[[Cohort], Floats],
    probability: Floats,
    experiment: Experiment,
    until: int,
    *,
    learned: bool = True,
) -> Tiers:
    """Returns the cut-offs for the leads that are open at `until`, whose probabilities are given.

    With a team they follow from how many leads got hot in each of the last weeks; where no week is known, from how many
    of these leads it can work within a horizon. Without one a tenth is hot, and two more are warm. Where nothing was
    `learned` no call is known not to pay.
    """
    version, team = isoformat(until)[:10], experiment.team
    # Probabilities that all are as good as one tell an order, but none would ever fall below an exit.
    exit = EXIT if learned else 1.0
    if team is None:
        return Tiers.for_shares(probability, version=version, exit=exit)
    if not learned:
        team = replace(team, call_cost=None)
    weeks = 0 if known.timeless else min(_WEEKS, (until - int(known.created_at.min(initial=until))) // _WEEK)
    if not weeks:
        room = team.room * experiment.horizon_days / 7
        return Tiers.for_stock(probability, room=room, team=team, version=version, exit=exit)
    return Tiers.for_capacity(weekly_looks(known, predict, until, weeks), team=team, version=version, exit=exit)


def weekly_looks(known: Dataset, predict: Callable[[Cohort], Floats], until: int, weeks: int) -> Floats:
    """Returns (weeks + 1, leads) the probability of every lead as a look each week found it, the last one at `until`.

    NaN while a lead was not known to be open.
    """
    looks = np.full((weeks + 1, len(known)), np.nan)
    for week in range(weeks + 1):
        cohort = known.open_at(until - (weeks - week) * _WEEK)
        looks[week, cohort.lead] = predict(cohort)
    return looks
