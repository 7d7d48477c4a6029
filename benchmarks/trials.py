"""One trial of the benchmark of learning at a time: a simulated market, what is served there, and the truth beside it.

Each trial is a function of its settings alone and returns plain numbers, so that it can run in a process of its own
and its result can be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd
from scipy.optimize import minimize

from features import Cohort, Dataset
from features.history import Floats
from features.times import NEVER, US_PER_DAY, isoformat
from models import TIERS, Candidate, Card, Model, Recipe, Scorer, Team, Tiers, candidates
from models.base_rate import BaseRate
from models.model import Evidence, logit
from models.scorer import percentiles
from training import Experiment, backtest
from training.audit import audit
from training.backtest import Backtest, choose_origins, learn, replay
from training.labels import Listings, listings
from training.metrics import caught_at, information_captured
from training.promote import compare
from training.simulate import Simulation, simulate
from training.train import _choose, _no_signal, fit

Found = dict[str, Any]

SERVED = "blend"
TRIED = "challenger"
HORIZON = 84
EXPERIMENT = Experiment(horizon_days=HORIZON)
MONTH = Experiment(horizon_days=28, origins=4, origin_every_days=28, snapshot_every_days=14)
"""A shorter question: many small worlds can be asked it."""
TEAM = Team(reps=7, calls_a_week=40, calls_a_lead=2)
_FRESH = 1_000_000
"""What is added to a seed for leads that no model has learned from."""
_LEAST = 50


@dataclass(frozen=True, eq=False)
class Market:
    """A simulated market, and what was known of it at the end of its window."""

    run: Simulation
    known: Dataset

    @classmethod
    def of(cls, leads: int, days: int, seed: int) -> Self:
        """Simulates, writes the tables, and reads them as any others."""
        run = simulate(leads, days, seed)
        with TemporaryDirectory() as folder:
            run.write(folder, horizon_days=1, every_days=days)
            return cls(run, Dataset.read(folder).known_at(run.end))

    def asked(self) -> tuple[Cohort, Floats]:
        """The leads that are truly open at the end, and their true probabilities."""
        truth = self.run.truth(self.run.days, HORIZON)
        leads = self.known.find(f"L-{lead:06}" for lead in truth.lead.tolist())
        return Cohort.at(leads, self.run.end), truth.probability

    def uncensored(self, rows: Listings) -> tuple[Listings, Floats]:
        """The same rows with what came of them, also after the end and unreported; and which of the rows those are.

        A lead that had bought already is no row then.
        """
        names = self.known.ids[rows.cohort.lead]
        who = np.array([int(name[2:]) if name.startswith("L-") else -1 for name in names])
        closed_at = np.where(who < 0, NEVER, self.run.closed_at[who])
        mine = (who >= 0) & (closed_at >= rows.cohort.as_of)
        ended = np.where(closed_at == NEVER, NEVER, closed_at - rows.cohort.as_of)[mine]
        whole = replace(
            rows,
            cohort=rows.cohort[mine],
            followed=np.full(mine.sum(), rows.horizon),
            ended=ended,
            won=self.run.won[who][mine],
        )
        return whole, mine


def captured(leads: int, days: int, fresh: int, seed: int) -> Found:
    """What the served model knows of the leads open at the end, and the same model with all windows over."""
    market = Market.of(leads, days, seed)
    known, end = market.known, market.run.end
    rows = listings(known, end, EXPERIMENT)
    scorer = fitted(known, SERVED, EXPERIMENT, end)
    cohort, truth = market.asked()
    probability = scorer.predict(known, cohort)
    lower, upper = scorer.interval(probability) or (probability, probability)

    recipe = _candidate(SERVED).prepare(known)
    whole, mine = market.uncensored(rows)
    matrix = recipe.features.compute(known, rows.cohort)[mine]
    ideal = learn(recipe, known, whole, matrix).predict(recipe.features.compute(known, cohort))

    other = Market.of(fresh, days, seed + _FRESH)
    others, their_truth = other.asked()
    theirs = scorer.predict(other.known, others)
    return {
        "buyers": rows.buyers,
        "immature": 1 - rows.finished / len(rows.cohort),
        "asked": len(cohort),
        "information": information_captured(truth, probability),
        "efficiency": efficiency(truth, probability),
        "slope": slope(truth, probability),
        "coverage": float(((lower <= truth) & (truth <= upper)).mean()),
        "ratio": float(probability.mean() / truth.mean()),
        "uncensored information": information_captured(truth, ideal),
        "uncensored ratio": float(ideal.mean() / truth.mean()),
        "fresh information": information_captured(their_truth, theirs),
        "fresh efficiency": efficiency(their_truth, theirs),
        "fresh slope": slope(their_truth, theirs),
    }


def few(leads: int, days: int, buyers: int, fresh: int, seed: int) -> Found:
    """What `train` chooses where so many have bought soon enough to be learned from, and the rules, on fresh leads."""
    market = Market.of(leads, days, seed)
    end = market.run.end
    rows = listings(market.known, end, EXPERIMENT)
    bought = np.zeros(len(market.known), np.bool_)
    bought[rows.cohort.lead[: rows.finished][rows.bought]] = True
    order = np.random.default_rng(seed).permutation(len(bought))
    before = np.cumsum(bought[order])
    if before[-1] <= buyers:
        raise ValueError(f"{leads} leads in {days} days hold {before[-1]} buyers, not more than {buyers}.")
    # At least some leads, so that where nobody has bought somebody is there who did not.
    least = max(_LEAST, int((before <= buyers).sum()))
    known = market.known.take(np.sort(order[~bought[order] | (before <= buyers)][:least]))
    other = Market.of(fresh, days, seed + _FRESH)
    cohort, truth = other.asked()

    def reached(scorer: Scorer) -> float:
        return efficiency(truth, scorer.predict(other.known, cohort))

    # Of the peers just the one that signal is told by.
    competing = [candidate for candidate in candidates() if not candidate.peer or candidate.name == BaseRate.name]
    chosen, _ = _choose(replay(known, EXPERIMENT, competing, end), competing)
    scorers = {name: fitted(known, name, EXPERIMENT, end) for name in {"rules", chosen.name}}
    return {
        "leads": len(known),
        "chosen": chosen.name,
        "efficiency": reached(scorers[chosen.name]),
        "rules": reached(scorers["rules"]),
    }


def equals(leads: int, days: int, seed: int) -> Found:
    """Whether a model replaces one of the same recipe that learned from the other half of the leads."""
    market = Market.of(leads, days, seed)
    known, end = market.known, market.run.end
    first = choose_origins(known, MONTH, end)[0]
    then = known.known_at(first)
    order = np.random.default_rng(seed).permutation(len(then))
    champion, challenger = (
        _learned(then.take(np.sort(half)), first, lambda label: label) for half in np.array_split(order, 2)
    )
    verdict = compare(champion, challenger, TRIED, _tried(challenger, known, end), known, end)
    return {"promoted": verdict.promote, "proved": verdict.gain is not None and verdict.gain.low > 0}


def shuffled(leads: int, days: int, seed: int) -> Found:
    """Whether a model of shuffled labels replaces a true one, judged by true and by shuffled outcomes.

    Where outcomes are dealt out by lot a model that knows nothing is truly better than one that thinks it does; `train`
    does not promote it all the same, for it is no better than the base rate.
    """
    market = Market.of(leads, days, seed)
    known, end = market.known, market.run.end
    first = choose_origins(known, MONTH, end)[0]
    then = known.known_at(first)
    rng = np.random.default_rng(seed)
    champion, challenger = _learned(then, first, lambda label: label), _learned(then, first, rng.permutation)
    result = _tried(challenger, known, end)
    bought = result.bought.copy()
    for origin in result.origins:
        mine = result.origin == origin
        bought[mine] = rng.permutation(bought[mine])
    by_true, by_shuffled = (
        compare(champion, challenger, TRIED, each, known, end).promote
        and not _no_signal(each, Candidate(TRIED, _candidate(SERVED).prepare))
        for each in (result, replace(result, bought=bought))
    )
    return {"by true": by_true, "by shuffled": by_shuffled}


def leaks(leads: int, days: int, columns: int, seed: int) -> Found:
    """Which kinds of planted leaks the audit finds, and how many of some columns of chance it names."""
    run = simulate(leads, days, seed)
    with TemporaryDirectory() as folder:
        run.write(folder, horizon_days=1, every_days=days)
        tables = {
            name: pd.read_csv(f"{folder}/{name}.csv", dtype="str", keep_default_na=False)
            for name in ("leads", "touchpoints", "outcomes", "attributes", "aliases")
        }
    rng = np.random.default_rng(seed)
    told = {kind: _tells(plant(tables, rng), check, name) for kind, (check, name, plant) in PLANTS.items()}
    return {"found": told, "false": len(audit(Dataset.from_frames(**_with_chance(tables, columns, rng))))}


def weeks(leads: int, days: int, weeks: int, seed: int) -> Found:
    """How many leads get hot in each week after a team's cut-offs were chosen, and what the team can work in one."""
    market = Market.of(leads, days + 7 * weeks, seed)
    begin = market.run.start + days * US_PER_DAY
    experiment = msgspec.structs.replace(EXPERIMENT, team=TEAM)
    scorer = fitted(market.known.known_at(begin), SERVED, experiment, begin)
    hot, tier, entered = TIERS.index("hot"), np.zeros(len(market.known), np.int64), []
    for week in range(weeks + 1):
        cohort = market.known.open_at(begin + 7 * week * US_PER_DAY)
        before = tier[cohort.lead]
        tier[cohort.lead] = scorer.tiers.of(scorer.predict(market.known, cohort), before)
        entered.append(int(((tier[cohort.lead] == hot) & (before != hot)).sum()))
    return {"room": TEAM.room, "at first": entered[0], "entered": entered[1:]}


TRIALS: dict[str, Callable[..., Found]] = {
    trial.__name__: trial for trial in (captured, few, equals, shuffled, leaks, weeks)
}


# What is served.


def fitted(known: Dataset, name: str, experiment: Experiment, until: int) -> Scorer:
    """The scorer that `train` would register if a candidate were chosen; only its card knows no backtest."""
    rows = np.arange(2)
    untried = Backtest(experiment, rows, 0 * rows, rows == 0, {name: np.full(2, 0.5)}, {0: (2, 1)})
    return fit(known, _candidate(name), experiment, until, untried)[0]("0")


def _learned(known: Dataset, until: int, label: Callable[[Floats], Floats]) -> Scorer:
    """A model on a month's question, without intervals; `label` may change the labels that it learns from."""
    recipe = _candidate(SERVED).prepare(known)
    rows = listings(known, until, MONTH)
    fit = recipe.fit
    model = learn(
        replace(recipe, fit=lambda matrix, labels, evidence: fit(matrix, label(labels), evidence)),
        known, rows, recipe.features.compute(known, rows.cohort),
    )  # fmt: skip
    probability = model.predict(recipe.features.compute(known, known.open_at(until)))
    card = Card(
        version="0", model=SERVED, horizon_days=MONTH.horizon_days, features=recipe.features.fingerprint,
        known_until=isoformat(until), dataset="", percentiles=percentiles(probability),
    )  # fmt: skip
    return Scorer(recipe.features, model, card, Tiers.for_shares(probability, version="0"))


def _tried(scorer: Scorer, known: Dataset, until: int) -> Backtest:
    """A backtest of a model as it is, which is not fitted again at each origin, beside the base rate."""

    def unchanged(matrix: Any, label: Any, evidence: Evidence) -> Model:
        return scorer.model

    candidate = Candidate(TRIED, lambda _: Recipe(scorer.features, unchanged))
    return backtest(known, MONTH, [candidate, _candidate(BaseRate.name)], until=until)


def _candidate(name: str) -> Candidate:
    return next(candidate for candidate in candidates() if candidate.name == name)


def efficiency(truth: Floats, probability: Floats, share: float = 0.10) -> float:
    """True purchases among the best tenth by a model over those among the best tenth by the truth; ties by lot."""
    ones, origin = np.ones(len(truth)), np.zeros(len(truth), np.int64)
    mine, best = (
        caught_at(truth, p, ones, np.argsort(-p, kind="stable"), origin, share)[0] for p in (probability, truth)
    )
    return float(mine / best)


def slope(truth: Floats, probability: Floats) -> float:
    """The slope of the logistic regression of what is true on the log-odds that a model gives."""
    x = logit(probability)

    def loss(weight: Floats) -> float:
        z = weight[0] + weight[1] * x
        return float(np.mean(np.logaddexp(0, z) - truth * z))

    return float(minimize(loss, [0.0, 1.0]).x[1])


# What is planted.


Tables = dict[str, pd.DataFrame]


def _tells(tables: Tables, check: str, name: str) -> bool:
    found = audit(Dataset.from_frames(**tables))
    return any((each.check, each.name) == (check, name) and each.severity != "note" for each in found)


def _won(tables: Tables) -> pd.DataFrame:
    outcomes = tables["outcomes"]
    return outcomes[outcomes["outcome"] == "won"]


def _times(column: pd.Series) -> pd.Series:
    return pd.to_datetime(column, format="ISO8601")


def _text(at: pd.Series) -> pd.Series:
    return at.dt.strftime("%Y-%m-%dT%H:%M:%SZ")


def _with_touches(tables: Tables, lead: pd.Series, at: pd.Series | str, channel: str, action: str) -> Tables:
    touches = pd.DataFrame({"lead_id": lead, "occurred_at": at, "channel": channel, "action": action})
    both = pd.concat([tables["touchpoints"], touches.assign(recorded_at=touches["occurred_at"])], ignore_index=True)
    return tables | {"touchpoints": both.fillna("")}


def _with_column(tables: Tables, name: str, values: Any) -> Tables:
    return tables | {"leads": tables["leads"].assign(**{name: values})}


def _after_the_outcome(tables: Tables, rng: np.random.Generator) -> Tables:
    won = _won(tables)
    delay = pd.to_timedelta(np.round(1 + 20 * rng.random(len(won))), unit="h")
    return _with_touches(tables, won["lead_id"], _text(_times(won["occurred_at"]) + delay), "invoice", "viewed")


def _naming_kind(tables: Tables, rng: np.random.Generator) -> Tables:
    won = _won(tables)
    created = _times(won["lead_id"].map(tables["leads"].set_index("lead_id")["created_at"]))
    at = _times(won["occurred_at"]) - pd.Timedelta("30D")
    old = at > created
    return _with_touches(tables, won["lead_id"][old], _text(at[old]), "contract", "sent")


def _naming_column(tables: Tables, rng: np.random.Generator) -> Tables:
    outcome = tables["outcomes"].set_index("lead_id")["outcome"]
    return _with_column(tables, "State", tables["leads"]["lead_id"].map(outcome).fillna("open"))


def _filled_for_winners(tables: Tables, rng: np.random.Generator) -> Tables:
    won = tables["leads"]["lead_id"].isin(_won(tables)["lead_id"])
    numbers = [f"C{number}" for number in rng.integers(70, size=len(won))]
    return _with_column(tables, "Customer no.", np.where(won & (rng.random(len(won)) < 0.8), numbers, ""))


def _ahead_of_creation(tables: Tables, rng: np.random.Generator) -> Tables:
    """Leads that are said to be created when they are converted, two days into their history."""
    created = _times(tables["leads"]["created_at"])
    late = rng.random(len(created)) < 0.3
    return _with_column(tables, "created_at", _text(created.where(~late, created + pd.Timedelta("2D"))))


def _undated(tables: Tables, rng: np.random.Generator) -> Tables:
    some = tables["leads"]["lead_id"][rng.random(len(tables["leads"])) < 0.25]
    day = tables["leads"]["created_at"].sort_values().iloc[-1][:10]
    return _with_touches(tables, some, day, "quiz", "")


PLANTS: dict[str, tuple[str, str, Callable[[Tables, np.random.Generator], Tables]]] = {
    "a touch after the outcome": ("late_kind", "invoice_viewed", _after_the_outcome),
    "a kind of touch that names the outcome": ("naming_kind", "contract_sent", _naming_kind),
    "a column that names the outcome": ("naming_column", "State", _naming_column),
    "a column filled only for winners": ("filled_column", "Customer no.", _filled_for_winners),
    "times that run ahead of creation": ("touches_before_creation", "occurred_at", _ahead_of_creation),
    "a file without dates": ("undated", "quiz", _undated),
}
"""For each kind of leak the check that has to tell of it, what it has to name, and how it is planted."""


def _with_chance(tables: Tables, columns: int, rng: np.random.Generator) -> Tables:
    """Adds columns that say nothing: few and many words, numbers, full and sparse."""
    leads = len(tables["leads"])
    drawn: dict[str, Any] = {}
    for k in range(columns):
        words = rng.integers(0, (2, 5, 50, 500)[k % 4], leads).astype(str)
        numbers = np.round(rng.normal(size=leads), 1).astype(str)
        there = rng.random(leads) < (0.02, 0.5, 1.0)[k % 3]
        drawn[f"Column {k}"] = np.where(there, numbers if k % 5 == 0 else words, "")
    return tables | {"leads": tables["leads"].assign(**drawn)}
