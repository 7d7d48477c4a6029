"""Cold, warm and hot: a policy beside the model, with a version of its own, that says who is to act on a score.

The cut-offs follow from what a sales team can work, not from a feeling about numbers.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

import msgspec
import numpy as np

from features.errors import ModelError
from features.history import Floats, Ints

TIERS = ("cold", "warm", "hot")
"""From the least to the most probable, by code."""
ROUTES = {"cold": "marketing", "warm": "nurture", "hot": "sales"}
"""Whose turn it is."""
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
    exit: float = 1.25
    """A lead leaves its tier where its probability is below the entry by this factor, so that few go back and forth."""
    routes: dict[str, str] = msgspec.field(default_factory=lambda: dict(ROUTES))

    def __post_init__(self) -> None:
        if not (0 <= self.warm <= self.hot <= 1 and 1 <= self.exit < np.inf) or set(self.routes) != set(TIERS):
            raise ValueError(
                f"tiers need 0 <= warm <= hot <= 1, exit of 1 or more, and a route for cold, warm and hot; "
                f"got warm {self.warm}, hot {self.hot}, exit {self.exit}, routes {sorted(self.routes)}"
            )

    @classmethod
    def for_shares(cls, probability: Floats, *, version: str, hot: float = 0.10, warm: float = 0.30) -> Self:
        """The cut-offs that make the top share of some leads hot and those down to the next share warm."""
        weight = np.ones(len(probability))
        first = _cut(probability, weight, hot * len(probability))
        return cls(version=version, warm=min(first, _cut(probability, weight, warm * len(probability))), hot=first)

    @classmethod
    def for_capacity(
        cls, now: Floats, peaks: Floats, *, arrivals: float, weeks: float, team: Team, version: str
    ) -> Self:
        """The cut-offs with which a team can work every lead that gets hot, and with which warm leads are worth a call.

        `now` (n,) are the probabilities of the leads that are open; `peaks` (m,) the highest that each lead had which
        arrived in a past span of `weeks`, while it was open in there; `arrivals` leads are to come in the next `weeks`.
        A lead is warm from the team's break-even on or, if that is not known, down to three times as many as are hot.
        """
        probability = np.concatenate([now, peaks])
        weight = np.concatenate([np.ones(len(now)), np.full(len(peaks), arrivals / max(1, len(peaks)))])
        room = team.calls * weeks / team.calls_a_lead
        least = team.break_even
        hot = max(_cut(probability, weight, room), least or 0.0)
        return cls(
            version=version, warm=min(hot, _cut(probability, weight, 3 * room) if least is None else least), hot=hot
        )

    def of(self, probability: Floats, previous: Ints | None = None) -> Ints:
        """Returns the (n,) codes into `TIERS`; a cut-off belongs to the tier above it.

        `previous` are the codes of the tiers that the leads are in: one is left only below its exit.
        """
        entered = np.searchsorted([self.warm, self.hot], probability, side="right")
        if previous is None:
            return entered
        stayed = np.searchsorted([self.warm / self.exit, self.hot / self.exit], probability, side="right")
        return np.maximum(entered, np.minimum(previous, stayed))

    def outlook(self, probability: Floats, team: Team | None = None) -> Outlook:
        """What the hot ones of some leads will bring; their purchases are taken to be independent."""
        p = probability[self.of(probability) == TIERS.index("hot")]
        buyers, spread = float(p.sum()), float(np.sqrt((p * (1 - p)).sum()))
        interval = max(0.0, buyers - _Z90 * spread), min(float(len(p)), buyers + _Z90 * spread)
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


def _cut(probability: Floats, weight: Floats, room: float) -> float:
    """The cut-off from which on the weights add up to `room` as nearly as can be; equal ones stay together."""
    if not len(probability):
        return 1.0
    distinct, place = np.unique(-probability, return_inverse=True)
    filled = np.concatenate([[0.0], np.cumsum(np.bincount(place, weight))])
    best = int(np.argmin(np.abs(filled - room)))
    return float(min(1.0, -distinct[best - 1] if best else np.nextafter(-distinct[0], 2)))
