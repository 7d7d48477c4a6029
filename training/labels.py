"""What happened to whom: outcomes within the horizon, and which of them can be known yet.

A lead that was asked about less than a horizon ago is no "did not buy": it is immature, and counting it as a no would
bias every score downwards. A row is used when its window [as_of, as_of + horizon) is over and has been reported.
"""

from __future__ import annotations

import numpy as np

from features.history import Bools, Cohort, Dataset
from features.times import US_PER_DAY
from training.experiment import Experiment

_REPORTED = 0.95
"""The share of purchases that must have been reported for a window to count as reported."""


def bought_within(dataset: Dataset, cohort: Cohort, horizon: int) -> Bools:
    """Whether each row's lead bought in [as_of, as_of + horizon); the horizon in microseconds."""
    closed_at, won = dataset.closed
    at = closed_at[cohort.lead]
    return won[cohort.lead] & (at >= cohort.as_of) & (at - cohort.as_of < horizon)


def still_open(dataset: Dataset, cohort: Cohort) -> Bools:
    """Whether each row's lead was truly open at as_of, as is known by now.

    A lead that had bought, but whose purchase was recorded only later, was listed as open then: it is no row to learn
    from or be judged by, for it could no longer buy.
    """
    return dataset.closed[0][cohort.lead] >= cohort.as_of


def reporting_delay(known: Dataset) -> int:
    """Microseconds after which 95 % of the purchases known so far had been recorded."""
    delay = (known.outcomes.known - known.outcomes.at)[known.outcomes.won]
    return int(np.quantile(delay, _REPORTED, method="higher")) if len(delay) else 0


def buffer(known: Dataset, experiment: Experiment) -> int:
    """Microseconds after the end of a window from which on it counts as reported."""
    delay = experiment.reporting_delay_days
    return reporting_delay(known) if delay is None else round(delay * US_PER_DAY)


def snapshots(known: Dataset, until: int, experiment: Experiment) -> tuple[Cohort, Bools]:
    """The rows to learn from: every lead open at past instants whose window is over and reported by `until`.

    Returns them with whether each bought. The rows of one instant are exactly those that would have been scored then,
    so neither age nor fate decides who is in.
    """
    last = until - experiment.horizon - buffer(known, experiment)
    start = int(known.created_at.min(initial=last)) + 1
    cohort = Cohort.grid(known, every=experiment.snapshot_days, start=start, stop=last)
    cohort = cohort[still_open(known, cohort)]
    # Trees draw rows by their place: the order of the leads table must not change the model.
    cohort = cohort[np.lexsort((known.rank[cohort.lead], cohort.as_of))]
    return cohort, bought_within(known, cohort, experiment.horizon)


def purchases(cohort: Cohort, bought: Bools) -> int:
    """How many leads bought; one lead that buys is a row of several instants."""
    return len(np.unique(cohort.lead[bought]))
