"""What the tiers that were just chosen promise, and what as many calls by the rules would have reached before."""

from __future__ import annotations

import msgspec
import numpy as np

from features.history import Dataset, Floats
from models import TIERS, Scorer
from models.calibration import Curve
from training.backtest import Backtest
from training.metrics import Estimate

_Z95 = 1.959963984540054
"""A normal variable lies within so many standard deviations of its mean nineteen times out of twenty."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Who would have been called at the origins of a backtest, and which purchases that would have reached.

    A lead that is open at several origins counts at each of them.
    """

    calls: int
    """Leads that would have been hot."""
    purchases: int
    """Of all leads that were open, within the horizon."""
    reached: int
    """Those of the leads called."""
    by_rules: float | None
    """Those that as many calls at each origin would have reached by the rules, ties by lot; None without rules."""
    gain: Estimate | None
    """What the model reaches more; the interval takes whole leads."""


class Prospect(msgspec.Struct, frozen=True, kw_only=True):
    """What the hot leads of now will bring within the horizon, beside what the hot leads of the past brought."""

    horizon_days: float
    open: int
    """Leads that are open now."""
    hot: int
    room: float | None
    """Leads that the team can work within the horizon, those to come among them; None without a team."""
    backlog_weeks: float | None
    """For how many weeks those that are hot now are all that the team can work; None without a team."""
    buyers: float
    buyers_interval: tuple[float, float]
    """90 %: by chance, and by what the model may be off."""
    income: float | None
    """Of those buyers, each with an average deal; None where that is not known."""
    income_interval: tuple[float, float] | None
    quota: float | None
    reaches_quota: float | None
    """The probability that the income reaches the quota."""
    past: Replay | None
    """None where no origin could be judged."""


def foresee(scorer: Scorer, result: Backtest, known: Dataset, until: int, curve: Curve | None = None) -> Prospect:
    """Looks ahead from `until` with a model, its tiers and the experiment's team, and back at its own backtest.

    `curve` is what stands over the model's probabilities, and did not yet in the backtest.
    """
    team = result.experiment.team
    probability = scorer.predict(known, known.open_at(until))
    hot = scorer.tiers.outlook(probability, team, scorer.card.shift)
    deal = team.average_deal if team else None
    return Prospect(
        horizon_days=result.experiment.horizon_days,
        open=len(probability),
        hot=hot.leads,
        room=team.room * result.experiment.horizon_days / 7 if team else None,
        backlog_weeks=hot.leads / team.room if team else None,
        buyers=hot.buyers,
        buyers_interval=hot.interval,
        income=hot.income,
        income_interval=(hot.interval[0] * deal, hot.interval[1] * deal) if deal else None,
        quota=team.quota if team else None,
        reaches_quota=hot.reaches_quota,
        past=_replay(scorer, result, curve) if result.judged else None,
    )


def _replay(scorer: Scorer, result: Backtest, curve: Curve | None) -> Replay:
    probability = result.probability[scorer.card.model]
    tier = scorer.tiers.of(probability if curve is None else curve.apply(probability))
    called = (tier == TIERS.index("hot")).astype(np.float64)
    past = dict(calls=int(called.sum()), purchases=int(result.bought.sum()), reached=int(called[result.bought].sum()))
    if scorer.card.model == "rules" or "rules" not in result.probability:
        return Replay(**past, by_rules=None, gain=None)
    by_rules = np.empty(len(called))
    for origin in np.unique(result.origin).tolist():
        mine = result.origin == origin
        by_rules[mine] = _among_best(result.probability["rules"][mine], float(called[mine].sum()))
    more = np.bincount(result.lead, result.bought * (called - by_rules))
    gain, reach = float(more.sum()), _Z95 * float(np.sqrt((more**2).sum()))
    return Replay(
        **past, by_rules=float(by_rules[result.bought].sum()), gain=Estimate(gain, gain - reach, gain + reach)
    )


def _among_best(score: Floats, room: float) -> Floats:
    """Returns the (n,) chances to be among the `room` best, where lots are drawn among equals."""
    _, place, equals = np.unique(-score, return_inverse=True, return_counts=True)
    before = np.cumsum(equals) - equals
    return np.asarray(np.clip((room - before) / equals, 0, 1)[place], np.float64)
