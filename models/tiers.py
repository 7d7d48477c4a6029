"""Cold, warm and hot: a policy beside the model, with a version of its own, that says who is to act on a score.

The cut-offs follow from what a sales team can work, not from a feeling about numbers.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple, Self

import msgspec
import numpy as np

from features.errors import ModelError
from features.history import Floats, Ints
from models.model import logit, sigmoid

TIERS = ("cold", "warm", "hot")
"""From the least to the most probable, by code."""
ROUTES = {"cold": "marketing", "warm": "nurture", "hot": "sales"}
"""Whose turn it is."""
EXIT = 1.25
"""By what factor a probability has to be below a tier's entry for a lead to leave it."""
_BY_CHANCE = 12
"""Weeks of pure chance that are counted with those seen: how much a dozen differ is mostly chance itself."""
_Z90 = 1.6448536269514722
"""A normal variable lies within so many standard deviations of its mean nine times out of ten."""

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Team(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a sales team can work, what its work costs, and what a sale brings.

    >>> team = Team(reps=7, calls_a_week=40, call_cost=30, average_deal=2_000, margin=0.3)
    >>> team.calls, team.break_even
    (280, 0.05)
    """

    reps: Annotated[int, msgspec.Meta(ge=1)]
    calls_a_week: Positive
    """Of one rep."""
    calls_a_lead: Positive = 1.0
    """That a hot lead takes until it is settled."""
    call_cost: Annotated[float, msgspec.Meta(ge=0)] | None = None
    average_deal: Positive | None = None
    margin: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """The share of a deal that is left when it is delivered."""
    quota: Positive | None = None
    """The income that is expected of the team within a horizon."""

    @property
    def calls(self) -> float:
        """What the team can do in a week."""
        return self.reps * self.calls_a_week

    @property
    def room(self) -> float:
        """How many hot leads it can settle in a week."""
        return self.calls / self.calls_a_lead

    @property
    def break_even(self) -> float | None:
        """The probability from which on working a lead brings more than it costs; None if either is not known."""
        if self.call_cost is None or self.average_deal is None:
            return None
        return min(1.0, self.calls_a_lead * self.call_cost / (self.margin * self.average_deal))


class Outlook(NamedTuple):
    """What is to be expected of the leads that are hot now, within the horizon.

    >>> tiers = Tiers(version="2026-10-01", warm=0.1, hot=0.3)
    >>> found = tiers.outlook(np.array([0.5, 0.4, 0.2]), Team(reps=1, calls_a_week=40, average_deal=2_000))
    >>> found.leads, found.buyers, found.income
    (2, 0.9, 1800.0)
    """

    leads: int
    buyers: float
    interval: tuple[float, float]
    """Of the buyers, 90 %."""
    income: float | None
    """Buyers times the average deal; None if that is not known."""
    reaches_quota: float | None
    """The probability that the income reaches the quota."""


class Tiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From which probability on a lead is warm or hot, and whose turn it is then.

    >>> tiers = Tiers(version="2026-10-01", warm=0.1, hot=0.3)
    >>> [TIERS[code] for code in tiers.of(np.array([0.05, 0.28, 0.3]))]
    ['cold', 'warm', 'hot']
    >>> [TIERS[code] for code in tiers.of(np.array([0.05, 0.28, 0.3]), previous=np.array([2, 2, 2]))]
    ['cold', 'hot', 'hot']
    """

    version: str
    """The date the policy is from, e.g. "2026-10-01"."""
    warm: float
    hot: float
    exit: float = EXIT
    """A lead leaves its tier where its probability is below the entry by this factor, so that few go back and forth."""
    routes: dict[str, str] = msgspec.field(default_factory=lambda: dict(ROUTES))

    def __post_init__(self) -> None:
        if not (0 <= self.warm <= self.hot <= 1 and 1 <= self.exit < np.inf) or set(self.routes) != set(TIERS):
            raise ValueError(
                f"tiers need 0 <= warm <= hot <= 1, exit of 1 or more, and a route for cold, warm and hot; "
                f"got warm {self.warm}, hot {self.hot}, exit {self.exit}, routes {sorted(self.routes)}"
            )

    @classmethod
    def for_shares(
        cls, probability: Floats, *, version: str, hot: float = 0.10, warm: float = 0.30, exit: float = EXIT
    ) -> Self:
        """The cut-offs that make the top share of some leads hot and those down to the next share warm."""
        weight = np.ones(len(probability))
        first = _cut(probability, weight, hot * len(probability))
        second = min(first, _cut(probability, weight, warm * len(probability)))
        return cls(version=version, warm=second, hot=first, exit=exit)

    @classmethod
    def for_capacity(cls, looks: Floats, *, team: Team, version: str, exit: float = EXIT) -> Self:
        """The cut-offs with which, in 19 weeks out of 20, no more leads get hot than a team can work in one.

        `looks` (looks, leads) holds the probability of every lead at two or more looks, a week apart and the last one
        now; NaN while it is not open. The leads that were hot at the first look are a stock, as those that are hot now
        will be: neither counts. A lead is warm from the team's break-even on or, if that is not known, from where three
        times as many get warm as can be worked.
        """
        distinct = np.unique(looks[~np.isnan(looks)])
        if not len(distinct):
            return cls(version=version, warm=1.0, hot=1.0, exit=exit)
        is_open = np.count_nonzero(~np.isnan(looks), axis=1)
        expected, spread = _in_a_week(entries(looks, distinct, exit), is_open)
        beyond = min(1.0, np.nextafter(distinct[-1], 2))

        def cut(room: float) -> float:
            # Leads are whole: half of one is the usual correction for that.
            too_many = np.flatnonzero(expected + _Z90 * spread > np.floor(room) + 0.5)
            return float(np.append(distinct, beyond)[too_many.max(initial=-1) + 1])

        return cls._of_team(cut(team.room), cut(3 * team.room), team=team, version=version, exit=exit)

    @classmethod
    def for_stock(cls, probability: Floats, *, room: float, team: Team, version: str, exit: float = EXIT) -> Self:
        """The cut-offs for leads of which no past is known: as many are hot as there is `room` for, of these alone.

        A lead is warm from the team's break-even on or, if that is not known, down to three times as many.
        """
        weight = np.ones(len(probability))
        hot, warm = (_cut(probability, weight, rooms * room) for rooms in (1, 3))
        return cls._of_team(hot, warm, team=team, version=version, exit=exit)

    @classmethod
    def _of_team(cls, hot: float, warm: float, *, team: Team, version: str, exit: float) -> Self:
        """A lead whose call does not pay is not hot; where that is known all others are warm at least."""
        least = team.break_even
        hot = max(hot, least or 0.0)
        return cls(version=version, warm=min(hot, warm) if least is None else least, hot=hot, exit=exit)

    def of(self, probability: Floats, previous: Ints | None = None) -> Ints:
        """Returns the (n,) codes into `TIERS`; a cut-off belongs to the tier above it.

        `previous` are the codes of the tiers that the leads are in: one is left only below its exit.
        """
        entered: Ints = np.array((self.warm, self.hot)).searchsorted(probability, side="right")
        if previous is None:
            return entered
        stayed = np.searchsorted([self.warm / self.exit, self.hot / self.exit], probability, side="right")
        return np.maximum(entered, np.minimum(previous, stayed))

    def outlook(self, probability: Floats, team: Team | None = None, shift: float = 0.0) -> Outlook:
        """What the hot ones of some leads will bring.

        Given their probabilities, purchases are taken to be independent; `shift` is the standard deviation of an error
        that moves the log-odds of all leads alike.
        """
        p = probability[self.of(probability) == TIERS.index("hot")]
        chance = float((p * (1 - p)).sum())
        buyers, spread = float(p.sum()), float(np.sqrt(chance + (shift * chance) ** 2))
        # An error of all log-odds alike may be far larger than that of a sum is: its ends are found by moving them.
        down, up = (float(sigmoid(logit(p) + side * _Z90 * shift).sum()) - buyers for side in (-1, 1))
        alone = _Z90 * float(np.sqrt(chance))
        interval = max(0.0, buyers - math.hypot(alone, down)), min(float(len(p)), buyers + math.hypot(alone, up))
        deal, quota = (team.average_deal, team.quota) if team else (None, None)
        reaches = None
        if deal and quota:
            from scipy.stats import norm

            # A whole number of sales has to be made; half of one is the usual correction for that.
            needed = np.ceil(quota / deal) - 0.5
            reaches = float(norm.sf(needed, buyers, spread)) if spread else float(buyers >= needed)
        return Outlook(len(p), buyers, interval, buyers * deal if deal else None, reaches)

    def to_json(self) -> str:
        """Writes the policy; `from_json` reads it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a policy; raises ModelError for anything else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as problem:
            raise ModelError(f"tiers.json is not a tier policy: {problem}.") from None


def entries(looks: Floats, hot: Floats, exit: float = EXIT) -> Ints:
    """Returns (looks - 1, cut-offs) how many leads get hot at each look but the first, by each of some cut-offs.

    `looks` (looks, leads) are probabilities, NaN while a lead is not open; `hot` (cut-offs,) are given in order. A lead
    that is hot leaves below its exit, and may get hot again.
    """
    # A lead is hot by all cut-offs up to its level, and gets hot by those that the level passes on its way up.
    level, found = np.full(looks.shape[1], -1.0), []
    for probability in looks:
        before, level = level, np.fmax(probability, np.fmin(level, exit * probability))
        up = level > before
        below, above = (np.searchsorted(np.sort(ends[up]), hot) for ends in (before, level))
        found.append(below - above)
    return np.array(found[1:], np.int64).reshape(-1, len(hot))


def _in_a_week(entered: Ints, is_open: Ints) -> tuple[Floats, Floats]:
    """Returns (cut-offs,) how many leads are expected to get hot in a week to come, and the standard deviation of that.

    `entered` (weeks, cut-offs) is what past weeks saw, `is_open` (weeks + 1,) how many leads were open at their looks.
    As many of the open ones get hot as did then. The numbers spread about that as those of chance events do (Poisson)
    or, where past weeks differed by more, so much more; and as the share is known from so many weeks alone.
    """
    before, weeks, mean = is_open[:-1].astype(np.float64), len(entered), np.maximum(entered.mean(axis=0), 1e-9)
    share = entered.sum(axis=0) / max(1.0, before.sum())
    away = ((entered - np.outer(before, share)) ** 2).sum(axis=0) / mean
    dispersion = np.maximum(1.0, (away + _BY_CHANCE) / (weeks - 1 + _BY_CHANCE))
    expected = share * is_open[-1]
    return expected, np.sqrt(dispersion * expected * (1 + is_open[-1] / max(1.0, before.sum())))


def _cut(probability: Floats, weight: Floats, room: float) -> float:
    """The cut-off from which on the weights add up to `room` as nearly as can be; equal ones stay together."""
    if not len(probability):
        return 1.0
    distinct, place = np.unique(-probability, return_inverse=True)
    filled = np.concatenate([[0.0], np.cumsum(np.bincount(place, weight))])
    best = int(np.argmin(np.abs(filled - room)))
    return float(min(1.0, -distinct[best - 1] if best else np.nextafter(-distinct[0], 2)))
