"""Simulates leads whose true probability of purchase is known exactly.

Real logs tell what happened, never how likely it was. Here every journey is a hidden Markov chain with absorbing ends
(bought, lost), so Bayes' rule gives the score that nothing can beat, without Monte Carlo: the ceiling for every model.

A day runs: touches, given the intent; purchase; loss; move of the intent. Times are int64 microseconds since 1970 UTC,
days count from the start of the window, and day d as an `as_of` is the midnight at which day d starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numba import njit

__all__ = ["INDUSTRIES", "KINDS", "NEVER", "Kind", "Simulation", "Truth", "World", "simulate"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

HOUR = 3_600_000_000
DAY = 24 * HOUR
FIRST_TOUCH, LAST_TOUCH = 1 * HOUR, 22 * HOUR  # created before, closed and linked to another name after
NEVER = np.iinfo(np.int64).max
INTENTS = ("dormant", "researching", "evaluating")
INDUSTRIES = ("cleaning", "retail", "construction", "hospitality", "healthcare", "software")


@dataclass(frozen=True)
class Kind:
    """A kind of touch: Poisson rates a day for the three intents, and the chance that one touch raises the intent.

    `minutes` is the mean of an exponential value that tells nothing; None leaves the value empty.

    >>> Kind("demo", "attend", (0.0, 0.01, 0.02), lift=0.3).minutes is None
    True
    """

    channel: str
    action: str
    rates: tuple[float, float, float]
    lift: float
    minutes: float | None = None


KINDS = (
    Kind("website", "visit", (0.03, 0.25, 0.45), 0.01, minutes=4.0),
    Kind("content", "download", (0.005, 0.05, 0.06), 0.05),
    Kind("website", "pricing", (0.0015, 0.025, 0.15), 0.05),
    Kind("email", "click", (0.01, 0.05, 0.08), 0.03),
    Kind("webinar", "attend", (0.001, 0.01, 0.015), 0.20, minutes=40.0),
    Kind("email", "send", (0.06, 0.06, 0.06), 0.01),
    Kind("call", "talk", (0.01, 0.01, 0.01), 0.15, minutes=12.0),
)


# A plain tuple: Numba's cache unpickles the classes of its arguments and breaks when one was renamed.
_Laws: TypeAlias = tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats, Floats]


@dataclass(frozen=True)
class World:
    """The laws of the simulated market; every chance is a day's.

    A lead has a hidden fit (one of `len(prior)` levels, the middle one neutral) that never changes and a hidden intent
    (dormant, researching, evaluating) that moves by one step a day at most. Seen are its size, a normal with unit
    variance around `size_step` x fit, its industry, drawn from the row of its fit, and its touches.
    From `drift_day` on, the hazard of purchase is multiplied by `drift`; the oracle knows it, also ahead of time.

    >>> World(drift=0.5, drift_day=300).buy
    (2e-05, 0.0006, 0.012)
    """

    prior: tuple[float, ...] = (0.30, 0.25, 0.20, 0.15, 0.10)
    # Ours, chosen so that the industry helps without deciding: at most a factor of five between the best and worst fit.
    industry: tuple[tuple[float, ...], ...] = (
        (0.30, 0.25, 0.18, 0.12, 0.09, 0.06),
        (0.25, 0.22, 0.18, 0.15, 0.11, 0.09),
        (0.18, 0.18, 0.17, 0.17, 0.15, 0.15),
        (0.11, 0.14, 0.16, 0.19, 0.20, 0.20),
        (0.06, 0.10, 0.14, 0.18, 0.24, 0.28),
    )
    size_step: float = 0.6
    researching: float = 0.25
    kinds: tuple[Kind, ...] = KINDS
    buy: tuple[float, float, float] = (2e-5, 6e-4, 0.012)
    buy_by_fit: float = 0.55
    lose: tuple[float, float, float] = (0.006, 0.002, 0.001)
    rise: tuple[float, float, float] = (0.004, 0.02, 0.0)
    rise_by_fit: float = 0.35
    fall: tuple[float, float, float] = (0.0, 0.05, 0.04)
    reporting_days: float = 7.0
    drift: float = 1.0
    drift_day: int = 0
    newsletter_share: float = 0.4
    anonymous_share: float = 0.03

    def __post_init__(self) -> None:
        if any(len(row) != len(INDUSTRIES) for row in self.industry) or len(self.industry) != len(self.prior):
            raise ValueError(f"industry needs one row of {len(INDUSTRIES)} chances for each of {len(self.prior)} fits.")
        for name, row in (("prior", self.prior), *((f"industry[{z}]", row) for z, row in enumerate(self.industry))):
            if min(row) < 0 or not math.isclose(sum(row), 1):
                raise ValueError(f"{name} adds up to {sum(row):g}: give chances that add up to 1.")

    @property
    def levels(self) -> Floats:
        """The fits counted from the neutral one, (fits,): -2 .. 2 by default."""
        best = (len(self.prior) - 1) / 2
        return np.linspace(-best, best, len(self.prior))

    @property
    def first_intent(self) -> Floats:
        """The chances of each intent at creation, (intents,)."""
        return np.array([1 - self.researching, self.researching, 0.0])

    def weigh(self, size: Floats, industry: Ints) -> Floats:
        """Weighs each lead's fits by what is seen at creation, (leads, fits), up to a factor a lead."""
        likelihood = np.exp(-0.5 * (size[:, None] - self.size_step * self.levels) ** 2)
        weights: Floats = likelihood * np.array(self.prior) * np.array(self.industry).T[industry]
        return weights

    def laws(self, days: int) -> _Laws:
        """Lays the laws out for the compiled loops.

        rates (intents, kinds) and total (intents,) of touches a day; the chances idle (kinds,) that a touch does not
        raise the intent, unmoved (intents,) that no touch of a day to come does, averaged over their Poisson counts,
        calm (fits, intents) of no rise without touches, fall (intents,) if there is no rise, buy (days, fits, intents)
        and lose (intents,).
        """
        rates = np.array([kind.rates for kind in self.kinds]).T.copy()
        lift = np.array([kind.lift for kind in self.kinds])
        hazard = np.array(self.buy) * np.exp(self.buy_by_fit * self.levels)[:, None]
        drift = np.where(np.arange(days) < self.drift_day, 1.0, self.drift)
        return (
            rates,
            rates.sum(axis=1),
            1 - lift,
            np.exp(-rates @ lift),
            1 - np.array(self.rise) * np.exp(self.rise_by_fit * self.levels)[:, None],
            np.array(self.fall),
            -np.expm1(-drift[:, None, None] * hazard),
            -np.expm1(-np.array(self.lose)),
        )


WORLD = World()
START = date(2025, 1, 1)


class Truth(NamedTuple):
    """The oracle's rows, by day and then lead: leads created before the day and neither bought nor lost by then."""

    lead: Ints
    day: Ints
    probability: Floats


@dataclass(frozen=True, eq=False)
class Simulation:
    """What happened, hidden and seen, in flat columns; leads in order of creation, touches by lead and time.

    `closed_at` is the true end, also beyond the window as far as the follow-up went (`NEVER` if still open);
    `recorded_at` is when it became known. Touches and all that is written stop at the window's end. `touch_alias` is
    the row of the alias a touch was logged under, -1 for the lead's own name.

    >>> run = simulate(leads=1_000, days=200, seed=1)
    >>> truth = run.truth(200, horizon_days=90)
    >>> bought = run.bought(truth, horizon_days=90)
    >>> f"{len(truth.lead)} open leads: {truth.probability.sum():.1f} purchases expected, {bought.sum()} made"
    '577 open leads: 37.1 purchases expected, 40 made'
    """

    world: World
    start: int
    days: int
    followed_days: int
    created_at: Ints
    size: Floats
    industry: Ints
    fit: Ints
    closed_at: Ints
    won: Bools
    amount: Floats
    recorded_at: Ints
    touch_lead: Ints
    touch_at: Ints
    touch_kind: Ints
    touch_value: Floats
    touch_alias: Ints
    alias_lead: Ints
    alias_at: Ints
    newsletter_lead: Ints
    newsletter_at: Ints
    newsletter_on: Bools

    @property
    def end(self) -> int:
        """The midnight after the last day of the window."""
        return self.start + self.days * DAY

    def truth(self, as_of: int | Sequence[int] | Ints, horizon_days: int = 90) -> Truth:
        """Computes the Bayes probability of a purchase in [as_of, as_of + horizon) from all that is seen before as_of.

        That a lead is truly open is given: a purchase that is merely unreported has no row.
        """
        days = np.unique(np.asarray(as_of, np.int64))
        if days[0] < 0 or days[-1] > self.days:
            raise ValueError(f"as_of {days[0]}..{days[-1]} leaves the window: give days from 0 to {self.days}.")
        laws = self.world.laws(int(days[-1]) + horizon_days)
        created, closed = (self.created_at - self.start) // DAY, (self.closed_at - self.start) // DAY
        belief = self.world.weigh(self.size, self.industry)[:, :, None] * self.world.first_intent
        ahead = np.stack([_look_ahead(laws, int(day), horizon_days) for day in days])
        bounds = np.searchsorted(self.touch_lead, np.arange(len(created) + 1))
        touch_day = (self.touch_at - self.start) // DAY
        table = _filter(laws, belief, created, closed, bounds, touch_day, self.touch_kind, days, ahead)
        row, lead = np.nonzero(~np.isnan(table))
        return Truth(lead, days[row], table[row, lead])

    def bought(self, truth: Truth, horizon_days: int = 90) -> Bools:
        """Tells for each row whether the lead did buy in [day, day + horizon), reported or not."""
        if truth.day.max(initial=0) + horizon_days > self.followed_days:
            raise ValueError(
                f"Day {truth.day.max()} and a horizon of {horizon_days} days end after the {self.followed_days} days "
                "that were simulated: simulate with a longer follow_up_days."
            )
        until = self.start + (truth.day + horizon_days) * DAY
        return self.won[truth.lead] & (self.closed_at[truth.lead] < until)

    def write(self, folder: Path | str, *, horizon_days: int = 90, every_days: int = 28) -> None:
        """Writes the tables as CSV in time order, and `truth.parquet` every so many days back from the window's end."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = _label("L-", np.arange(len(self.created_at)))
        tables = {
            "leads": self._leads(names),
            "touchpoints": self._touchpoints(names),
            "outcomes": self._outcomes(names),
            "attributes": self._attributes(names),
            "aliases": pa.table(
                {
                    "lead_id": _label("anon-", np.arange(len(self.alias_lead))),
                    "same_as": names.take(pa.array(self.alias_lead)),
                    "occurred_at": _iso(self.alias_at),
                }
            ),
        }
        plain = pyarrow.csv.WriteOptions(quoting_style="none", quoting_header="none")
        for name, table in tables.items():
            pyarrow.csv.write_csv(table, folder / f"{name}.csv", plain)
        truth = self.truth(range(self.days, 0, -every_days), horizon_days)
        columns = {
            "lead_id": names.take(pa.array(truth.lead)),
            "as_of": _instants(self.start + truth.day * DAY),
            "horizon_days": pa.array(np.full(len(truth.day), horizon_days)),
            "probability": pa.array(truth.probability),
        }
        pyarrow.parquet.write_table(pa.table(columns), folder / "truth.parquet")

    def _leads(self, names: pa.Array) -> pa.Table:
        return pa.table(
            {
                "lead_id": names,
                "created_at": _iso(self.created_at),
                "industry": pa.array(INDUSTRIES).take(pa.array(self.industry)),
                "size": pa.array(self.size),
            }
        )

    def _touchpoints(self, names: pa.Array) -> pa.Table:
        order = np.argsort(self.touch_at, kind="stable")
        at, kind, value = _iso(self.touch_at[order]), pa.array(self.touch_kind[order]), self.touch_value[order]
        alias = self.touch_alias[order]
        named, unnamed = names.take(pa.array(self.touch_lead[order])), _label("anon-", np.maximum(alias, 0))
        return pa.table(
            {
                "lead_id": pc.if_else(pa.array(alias >= 0), unnamed, named),
                "occurred_at": at,
                "channel": pa.array([kind.channel for kind in self.world.kinds]).take(kind),
                "action": pa.array([kind.action for kind in self.world.kinds]).take(kind),
                "value": pa.array(value, mask=np.isnan(value)),
                "recorded_at": at,
                "message_id": _label("m-", np.arange(len(order)), digits=8),
            }
        )

    def _outcomes(self, names: pa.Array) -> pa.Table:
        known = np.flatnonzero((self.closed_at < self.end) & (self.recorded_at < self.end))
        known = known[np.argsort(self.closed_at[known], kind="stable")]
        won = self.won[known]
        return pa.table(
            {
                "lead_id": names.take(pa.array(known)),
                "occurred_at": _iso(self.closed_at[known]),
                "outcome": pa.array(np.where(won, "won", "lost")),
                "amount": pa.array(self.amount[known], mask=~won),
                "recorded_at": _iso(self.recorded_at[known]),
            }
        )

    def _attributes(self, names: pa.Array) -> pa.Table:
        order = np.argsort(self.newsletter_at, kind="stable")
        at = _iso(self.newsletter_at[order])
        return pa.table(
            {
                "lead_id": names.take(pa.array(self.newsletter_lead[order])),
                "occurred_at": at,
                "name": pa.array(np.full(len(order), "newsletter")),
                "value": pa.array(np.where(self.newsletter_on[order], "subscribed", "unsubscribed")),
                "recorded_at": at,
            }
        )


def simulate(
    leads: int = 20_000,
    days: int = 540,
    seed: int = 7,
    *,
    world: World = WORLD,
    start: date = START,
    follow_up_days: int = 90,
) -> Simulation:
    """Simulates leads that arrive uniformly over a window of `days`, and their true ends up to `follow_up_days` later.

    The same arguments give the same simulation; a longer follow-up changes nothing within the window.
    """
    if leads < 1 or days < 1:
        raise ValueError(f"Cannot simulate {leads} leads over {days} days: give at least one of each.")
    lead_rng, journey_rng, clock_rng, noise_rng = np.random.default_rng(seed).spawn(4)
    first = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 1_000_000

    created_at = first + np.sort(lead_rng.integers(0, days, leads) * DAY + lead_rng.integers(0, HOUR, leads))
    fit = lead_rng.choice(len(world.prior), leads, p=world.prior)
    # Rounded here and not on writing: the oracle must see what the table says.
    size = np.round(lead_rng.normal(world.size_step * world.levels[fit]), 4)
    steps = np.cumsum(world.industry, axis=1)[fit, :-1]
    industry = (lead_rng.random(leads)[:, None] > steps).sum(axis=1)
    intent = lead_rng.choice(len(INTENTS), leads, p=world.first_intent)

    closed, won, touch_lead, touch_day, touch_kind = _live(
        journey_rng, world.laws(days + follow_up_days), (created_at - first) // DAY, fit, intent, days
    )
    closing = clock_rng.integers(LAST_TOUCH, DAY, leads)
    closed_at = np.where(closed == NEVER, NEVER, first + np.where(closed == NEVER, 0, closed) * DAY + closing)
    delay = np.where(won, clock_rng.geometric(1 / world.reporting_days, leads) * DAY, 0)
    touch_at = first + touch_day * DAY + clock_rng.integers(FIRST_TOUCH, LAST_TOUCH, len(touch_day))
    order = np.lexsort((touch_at, touch_lead))
    touch_lead, touch_day, touch_at, touch_kind = (x[order] for x in (touch_lead, touch_day, touch_at, touch_kind))

    online = np.array([kind.channel == "website" for kind in world.kinds])[touch_kind]
    anonymous = (noise_rng.random(leads) < world.anonymous_share)[touch_lead]
    alias_lead, alias_day, touch_alias = _aliases(touch_lead, touch_day, online & anonymous)
    minutes = np.array([math.nan if kind.minutes is None else kind.minutes for kind in world.kinds])[touch_kind]

    subscriber = np.flatnonzero(noise_rng.random(leads) < world.newsletter_share)
    gaps = np.cumsum(noise_rng.exponential([[30 * DAY], [120 * DAY]], (2, len(subscriber))), axis=0).astype(np.int64)
    changed_at = created_at[subscriber] + gaps
    change, who = np.nonzero(changed_at < np.minimum(closed_at[subscriber], first + days * DAY))

    return Simulation(
        world=world,
        start=first,
        days=days,
        followed_days=days + follow_up_days,
        created_at=created_at,
        size=size,
        industry=industry,
        fit=fit,
        closed_at=closed_at,
        won=won,
        amount=np.round(noise_rng.lognormal(7.0, 0.8, leads), 2),
        recorded_at=np.where(closed == NEVER, NEVER, closed_at + delay),
        touch_lead=touch_lead,
        touch_at=touch_at,
        touch_kind=touch_kind,
        touch_value=np.round(noise_rng.exponential(minutes), 1),
        touch_alias=touch_alias,
        alias_lead=alias_lead,
        alias_at=first + alias_day * DAY + LAST_TOUCH,
        newsletter_lead=subscriber[who],
        newsletter_at=changed_at[change, who],
        newsletter_on=change == 0,
    )


def _aliases(lead: Ints, day: Ints, hideable: Bools) -> tuple[Ints, Ints, Ints]:
    """Hides each lead's first day of hideable touches: the aliases' leads and days by time, and the touches' alias."""
    # The first day and not any: a day chosen among later ones as well would tell that there are later ones.
    touch = np.flatnonzero(hideable)
    who, start = np.unique(lead[touch], return_index=True)
    order = np.argsort(day[touch][start], kind="stable")
    alias_lead, alias_day = who[order], day[touch][start][order]
    alias_of = np.full(lead.max(initial=-1) + 1, -1)
    alias_of[alias_lead] = np.arange(len(alias_lead))
    hidden = touch[day[touch] == alias_day[alias_of[lead[touch]]]]
    touch_alias = np.full(len(lead), -1)
    touch_alias[hidden] = alias_of[lead[hidden]]
    return alias_lead, alias_day, touch_alias


@njit(cache=True)
def _rise(calm: Floats, fit: int, intent: int, quiet: float) -> float:
    """The chance that the intent rises after a day whose touches all stayed without effect with chance `quiet`."""
    return 0.0 if intent == 2 else 1 - calm[fit, intent] * quiet


@njit(cache=True)
def _live(
    rng: np.random.Generator, laws: _Laws, created: Ints, fit: Ints, intent: Ints, days: int
) -> tuple[Ints, Bools, Ints, Ints, Ints]:
    """Lives all leads day by day: the day each closes or NEVER, whether it bought; lead, day and kind of the touches.

    Leads come by day of creation; touches are kept for the first `days` only. `intent` is spent.
    """
    rates, total, idle, _, calm, fall, buy, lose = laws
    leads = len(created)
    closed, won = np.full(leads, NEVER), np.zeros(leads, np.bool_)
    touches, size = np.empty((3, 1024), np.int64), 0
    for day in range(len(buy)):
        for lead in range(leads):
            if created[lead] > day:
                break
            if closed[lead] != NEVER:
                continue
            z, s = fit[lead], intent[lead]
            quiet = 1.0
            # The kinds' Poisson counts at once: their sum is Poisson, and each touch draws its kind.
            for _ in range(rng.poisson(total[s])):
                kind, left = 0, rng.random() * total[s] - rates[s, 0]
                while left >= 0 and kind < len(idle) - 1:
                    kind += 1
                    left -= rates[s, kind]
                quiet *= idle[kind]
                if day < days:
                    if size == touches.shape[1]:
                        touches = np.concatenate((touches, np.empty_like(touches)), axis=1)
                    touches[0, size], touches[1, size], touches[2, size] = lead, day, kind
                    size += 1
            if rng.random() < buy[day, z, s]:
                closed[lead], won[lead] = day, True
            elif rng.random() < lose[s]:
                closed[lead] = day
            elif rng.random() < _rise(calm, z, s, quiet):
                intent[lead] = s + 1
            elif rng.random() < fall[s]:
                intent[lead] = s - 1
    return closed, won, touches[0, :size], touches[1, :size], touches[2, :size]


@njit(cache=True)
def _look_ahead(laws: _Laws, as_of: int, horizon_days: int) -> Floats:
    """The chance of a purchase in [as_of, as_of + horizon) from each state, (fits, intents), by backward recursion."""
    _, _, _, unmoved, calm, fall, buy, lose = laws
    ahead = np.zeros_like(calm)
    for day in range(as_of + horizon_days - 1, as_of - 1, -1):
        later = ahead.copy()
        for z in range(ahead.shape[0]):
            for s in range(3):
                up = _rise(calm, z, s, unmoved[s])
                down = (1 - up) * fall[s]
                then = up * later[z, min(s + 1, 2)] + down * later[z, max(s - 1, 0)] + (1 - up - down) * later[z, s]
                ahead[z, s] = buy[day, z, s] + (1 - buy[day, z, s]) * (1 - lose[s]) * then
    return ahead


@njit(cache=True)
def _filter(
    laws: _Laws,
    belief: Floats,
    created: Ints,
    closed: Ints,
    bounds: Ints,
    touch_day: Ints,
    touch_kind: Ints,
    days: Ints,
    ahead: Floats,
) -> Floats:
    """Follows each lead's belief over the hidden states, forward: its probabilities, (days, leads), NaN if not open.

    `belief`, (leads, fits, intents), is the one at creation; `bounds`, (leads + 1,), are those of each lead's touches;
    `ahead`, (days, fits, intents), is what each state promises at each of the ascending `days`.
    """
    rates, total, idle, _, calm, fall, buy, lose = laws
    table = np.full((len(days), len(created)), np.nan)
    silence = np.exp(-total)
    for lead in range(len(created)):
        now, touch, row = belief[lead], bounds[lead], np.searchsorted(days, created[lead] + 1)
        for day in range(created[lead], min(closed[lead], days[-1])):
            seen, quiet = silence.copy(), 1.0
            while touch < bounds[lead + 1] and touch_day[touch] == day:
                seen *= rates[:, touch_kind[touch]]
                quiet *= idle[touch_kind[touch]]
                touch += 1
            after = np.zeros_like(now)
            for z in range(now.shape[0]):
                for s in range(3):
                    mass = now[z, s] * seen[s] * (1 - buy[day, z, s]) * (1 - lose[s])
                    up = _rise(calm, z, s, quiet)
                    down = (1 - up) * fall[s]
                    after[z, min(s + 1, 2)] += mass * up
                    after[z, max(s - 1, 0)] += mass * down
                    after[z, s] += mass * (1 - up - down)
            now = after / after.sum()
            if row < len(days) and days[row] == day + 1:
                table[row, lead] = (now * ahead[row]).sum()
                row += 1
    return table


def _label(prefix: str, numbers: Ints, digits: int = 6) -> pa.Array:
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, padded, "")


def _instants(at: Ints) -> pa.Array:
    return pa.array(at).cast(pa.timestamp("us", "UTC"))


def _iso(at: Ints) -> pa.Array:
    return pc.strftime(_instants(at), format="%Y-%m-%dT%H:%M:%SZ")
