"""A few hundred made-up leads and a scorer of each kind fitted on them, small enough for every test to use."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np

from features import Cohort
from features.records import AttributeFact, LeadRecord, Touchpoint, dataset_of
from models import Card, Scorer, Tiers, candidates
from models.model import Evidence
from models.scorer import percentiles

PLENTY = Evidence(rows_a_lead=1.0, buyers=1_000)
"""Rows that are leads, enough of which bought for the settings to be those that are set."""
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
KINDS = (("email", "click"), ("email", "open"), ("website", "visit"), ("call", None), ("demo", "attend"))


@cache
def records(count: int = 300) -> tuple[LeadRecord, ...]:
    """Leads with touches of five kinds, two attributes that some lack, and changes of them."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        created = AS_OF - timedelta(seconds=int(rng.integers(86_400, 120 * 86_400)))
        span = (AS_OF - created).total_seconds()
        touches = tuple(
            Touchpoint(
                occurred_at=created + timedelta(seconds=float(rng.random() * span)),
                channel=KINDS[kind][0],
                action=KINDS[kind][1],
                value=round(float(rng.normal()), 3) if rng.random() < 0.3 else None,
            )
            for kind in rng.integers(len(KINDS), size=rng.poisson(4))
        )
        attributes: dict[str, str | float | bool | None] = {}
        if rng.random() < 0.8:
            attributes["industry"] = ("cleaning", "software", "retail")[int(rng.integers(3))]
        if rng.random() < 0.8:
            attributes["employees"] = float(rng.integers(1, 500))
        facts = (AttributeFact(created + timedelta(hours=1), "industry", "software"),) if i % 10 == 0 else ()
        found.append(
            LeadRecord(
                lead_id=f"real-lead-{i}",
                created_at=created,
                attributes=attributes,
                attribute_facts=facts,
                touchpoints=touches,
            )
        )
    return tuple(found)


@cache
def scorer(kind: str) -> Scorer:
    """A scorer of one kind of model: leads who saw demos and clicked tend to have bought."""
    mine = records()
    dataset = dataset_of(mine)
    demos = np.array([sum(t.channel == "demo" or t.action == "click" for t in lead.touchpoints) for lead in mine])
    bought = demos + np.random.default_rng(1).normal(size=len(mine)) > 2
    recipe = next(one for one in candidates() if one.name == kind).prepare(dataset)
    cohort = Cohort.at(np.arange(len(dataset)), AS_OF)
    matrix = recipe.features.compute(dataset, cohort)
    model = recipe.fit(matrix, bought, PLENTY)
    probability = model.predict(matrix)
    card = Card(
        version="1",
        model=kind,
        horizon_days=90,
        features=recipe.features.fingerprint,
        known_until="2026-03-01T00:00:00Z",
        dataset=dataset.digest,
        percentiles=percentiles(probability),
    )
    return Scorer(recipe.features, model, card, Tiers.for_shares(probability, version="2026-03-01"))


@dataclass(frozen=True)
class Bent:
    """A model whose log-odds are scaled and shifted."""

    model: object
    scale: float = 1.0
    shift: float = 0.0

    def predict(self, matrix):
        p = self.model.predict(matrix)
        return 1 / (1 + np.exp(-(self.scale * np.log(p / (1 - p)) + self.shift)))
