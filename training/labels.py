"""What happened to whom: outcomes within the horizon, and which of them can be known yet.

A lead that was asked about less than a horizon ago is no "did not buy": it is immature, and counting it as a no would
bias every score downwards. A row is used when its window [as_of, as_of + horizon) is over and has been reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from features.history import Bools, Codes, Cohort, Dataset, Floats, Ints, Matrix
from features.times import NEVER, US_PER_DAY
from models.linear import Logistic
from models.model import Evidence
from training.experiment import Experiment

_REPORTED = 0.95
"""The share of purchases that must have been reported for a window to count as reported."""
_QUARTERS = 4
"""A window that is not over is a row if at least one of so many parts of it is."""

MOST_ROWS = 500_000
"""Where the step is ours to choose, it is widened until there are about as many rows at most."""
_WIDEST = 7 * US_PER_DAY
"""How far the step is widened for that."""


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


def listed_every(known: Dataset, until: int, experiment: Experiment) -> int:
    """Microseconds between the instants at which open leads become rows, as known at `until`.

    The experiment's; if left out a quarter of the horizon, or up to a week where that would make more than `MOST_ROWS`
    rows: of a lead that is listed every few hours for months, nearly all rows tell the same.
    """
    every = round(experiment.snapshot_days * US_PER_DAY)
    if experiment.snapshot_every_days is not None or every >= _WIDEST:
        return every
    open_for = np.minimum(np.minimum(known.closed[0], known.merged_at), until) - known.created_at
    # Divided before it is summed up: the spans of a million leads would overflow, and floats hang on their order.
    return min(max(every, int((np.maximum(open_for, 0) // MOST_ROWS).sum())), _WIDEST)


@dataclass(frozen=True, eq=False)
class Listings:
    """The leads that were open at past instants, in the order of time, and what is known since of each."""

    cohort: Cohort
    horizon: int
    """Microseconds."""
    followed: Ints
    """(n,) microseconds after as_of that are over and reported, at most the horizon; none is followed longer later."""
    ended: Ints
    """(n,) microseconds from as_of to the purchase or loss that is known; NEVER where none is."""
    won: Bools
    """(n,) whether that was a purchase."""
    latest: Cohort
    """The leads still open when the last reported instant was over."""

    @property
    def finished(self) -> int:
        """How many rows' windows [as_of, as_of + horizon) are over and reported; they come first."""
        return int((self.followed >= self.horizon).sum())

    @property
    def bought(self) -> Bools:
        """(finished,) whether each of those bought."""
        return self.within(self.horizon)[: self.finished] > 0

    @property
    def buyers(self) -> int:
        """How many leads those are; one lead that buys is a row of several instants."""
        return len(np.unique(self.cohort.lead[: self.finished][self.bought]))

    @property
    def evidence(self) -> Evidence:
        """What stands behind the rows."""
        return Evidence(len(self.cohort) / max(1, len(np.unique(self.cohort.lead))), self.buyers)

    def of(self, leads: Bools) -> tuple[Listings, Bools]:
        """Returns the listings of some leads, and which of the rows those are."""
        mine = leads[self.cohort.lead]
        part = replace(
            self,
            cohort=self.cohort[mine],
            followed=self.followed[mine],
            ended=self.ended[mine],
            won=self.won[mine],
            latest=self.latest[leads[self.latest.lead]],
        )
        return part, mine

    def within(self, span: int) -> Floats:
        """Returns (n,) 1 for a purchase in [as_of, as_of + span), 0 for none, NaN where that is not known yet."""
        # What became known before its time is passed over: purchases would come early, and all else late.
        early = self.ended < np.minimum(self.followed, span)
        return np.where(early, self.won, np.where(self.followed >= span, 0.0, np.nan))


def listings(known: Dataset, until: int, experiment: Experiment) -> Listings:
    """The rows to learn from, as known at `until`: every lead open at past instants.

    The rows of one instant are exactly those that would have been scored then, so neither age nor fate decides who is
    in. The last instants are those whose window is not over, but at least a quarter of it. Of a list without times all
    that is known is how its leads ended.
    """
    if known.timeless:
        return _of_list(known, experiment.horizon)
    horizon, over = experiment.horizon, until - buffer(known, experiment)
    start = int(known.created_at.min(initial=over - horizon)) + 1
    every = listed_every(known, until, experiment)
    finished = Cohort.grid(known, every=every / US_PER_DAY, start=start, stop=over - horizon)
    step = max(every, horizon // _QUARTERS)
    instants = range(over - horizon + step, over - horizon // _QUARTERS + 1, step)
    cohort = Cohort.concat([finished, *(known.open_at(t) for t in instants if t >= start)])
    cohort = cohort[still_open(known, cohort)]
    # Trees draw rows by their place: the order of the leads table must not change the model.
    cohort = cohort[np.lexsort((known.rank[cohort.lead], cohort.as_of))]
    closed_at, won = known.closed
    ended = np.where(closed_at[cohort.lead] == NEVER, NEVER, closed_at[cohort.lead] - cohort.as_of)
    latest = known.open_at(over)
    return Listings(
        cohort,
        horizon,
        np.minimum(over - cohort.as_of, horizon),
        ended,
        won[cohort.lead],
        latest[still_open(known, latest)],
    )


def _of_list(known: Dataset, horizon: int) -> Listings:
    """A row for each lead of a list without times, just after it was created; all windows are over.

    A lead that was neither won nor lost is a no if the list names none that was lost, else it is not known yet.
    """
    closed_at, won = known.closed
    ended = closed_at < NEVER
    leads = np.flatnonzero(ended) if (ended & ~won).any() else np.arange(len(known))
    leads = leads[np.argsort(known.rank[leads])]
    return Listings(
        Cohort.at(leads, known.created_at[leads] + 1),
        horizon,
        np.full(len(leads), horizon),
        np.where(ended[leads], 0, NEVER),
        won[leads],
        Cohort.concat([]),
    )


def snapshots(known: Dataset, until: int, experiment: Experiment) -> tuple[Cohort, Bools]:
    """The rows whose window is over and reported by `until`, with whether each bought."""
    rows = listings(known, until, experiment)
    return rows.cohort[: rows.finished], rows.bought


def completed(rows: Listings, matrix: Matrix, latest: Matrix, stand_in: Codes | None = None) -> Floats:
    """Returns (n,) labels for all rows: 1 or 0 where that is known, else the probability of a purchase in what is left.

    `matrix` holds the features of the rows, `latest` those of `rows.latest`; `stand_in` is as for `Logistic.fit`. A
    window that was followed for so long is completed by a model of the shorter horizon that is left, which looks at the
    lead as it was when following ended: what it did since the row's as_of tells of the rest, and that it did not buy so
    far is in it. A lead that is not open any more will not buy. The shorter horizons need no completion: their rows are
    those that were followed for so long. Short-term proxies that stand in for a long-term outcome are a surrogate index
    (Athey, Chetty, Imbens and Kang, 2019).
    """
    label = rows.within(rows.horizon)
    unknown = np.isnan(label)
    for followed in np.unique(rows.followed[unknown]).tolist():
        span = rows.horizon - followed
        learn = int((rows.followed >= span).sum())
        short = rows.within(span)[:learn]
        ahead = np.zeros(1 + max(rows.cohort.lead.max(), rows.latest.lead.max(initial=0)))
        if short.any():
            ahead[rows.latest.lead] = Logistic.fit(matrix[:learn], short, stand_in=stand_in).predict(latest)
        mine = unknown & (rows.followed == followed)
        label[mine] = ahead[rows.cohort.lead[mine]]
    return label
