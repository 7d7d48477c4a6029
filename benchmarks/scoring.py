"""What a score costs beside the prediction of a ready matrix alone, for a list and for one lead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import lightgbm
import numpy as np

from benchmarks.measure import circumstances, take_turns
from features import LEAD_FEATURES, Cohort, Dataset, FeatureSet, History, Kind
from features.history import Attributes, Outcomes
from features.records import LeadRecord, Touchpoint, dataset_of
from features.times import NEVER, US_PER_DAY, isoformat
from models.scorer import Card, Scorer
from models.tiers import Tiers
from models.trees import LightGBM

LEADS, TOUCHES = 100_000, 1_000_000
NOW = 700 * US_PER_DAY
_KINDS = tuple(Kind(channel) for channel in ("call", "content", "demo", "email", "fair", "mail", "visit", "webinar"))


def table() -> str:
    """Measures and returns the table as Markdown."""
    dataset = many_leads()
    cohort = Cohort.at(np.arange(LEADS), NOW)
    scorer = fitted_on(dataset, cohort)
    matrix = scorer.features.compute(dataset, cohort)
    model = scorer.model
    assert isinstance(model, LightGBM)
    alone = lightgbm.Booster(model_str=model.booster.text)
    bulk = take_turns({
        "LightGBM": lambda: alone.predict(matrix, num_threads=1),
        "features": lambda: scorer.features.compute(dataset, cohort, out=matrix),
        "score": lambda: scorer.score(dataset, cohort),
    })  # fmt: skip
    rows = [
        f"| list of {LEADS:,} leads, {TOUCHES:,} touches, one core | "
        f"{bulk['score']:.2f} s | LightGBM on the ready matrix {bulk['LightGBM']:.2f} s | "
        f"{bulk['score'] / bulk['LightGBM']:.2f}x |"
    ]
    rows += [_alone(scorer, touches) for touches in (10, 200)]
    size = f"{len(scorer.features.names)} features, LightGBM of 200 trees x 7 leaves"
    lines = [
        f"### Scoring: {size}",
        "",
        circumstances("numpy", "numba", "lightgbm"),
        "",
        "| what | whole score | beside it | ratio |",
        "|---|---:|---:|---:|",
        *rows,
    ]
    return "\n".join(lines)


def _alone(scorer: Scorer, touches: int, calls: int = 500) -> str:
    """The table's row for one lead that comes as a record."""
    record, one = one_lead(touches), Cohort.at([0], NOW)
    dataset = dataset_of([record])
    row = scorer.features.compute(dataset, one)
    seconds = take_turns({
        "bare": lambda: [scorer.model.predict(row) for _ in range(calls)],
        "features": lambda: [scorer.features.compute(dataset, one) for _ in range(calls)],
        "score": lambda: [scorer.score(dataset_of([record]), one) for _ in range(calls)],
    })  # fmt: skip
    us = {name: 1e6 * taken / calls for name, taken in seconds.items()}
    return (
        f"| one lead from its record, {touches} touches (features alone {us['features']:.0f} us) | "
        f"{us['score']:.0f} us | the ready row alone {us['bare']:.0f} us | {us['score'] / us['bare']:.1f}x |"
    )


def many_leads() -> Dataset:
    """Leads with touches of eight kinds in the year before NOW."""
    rng = np.random.default_rng(0)
    lead = rng.integers(LEADS, size=TOUCHES)
    at = rng.integers(NOW - 365 * US_PER_DAY, NOW, size=TOUCHES)
    kind = rng.integers(len(_KINDS), size=TOUCHES).astype(np.int32)
    history = History.build(
        LEADS, lead, at, at, kind, rng.random(TOUCHES), _KINDS, np.full(TOUCHES, -1), np.zeros(TOUCHES, np.bool_)
    )
    ids = np.array([f"L-{i}" for i in range(LEADS)], object)
    created = np.full(LEADS, NOW - 366 * US_PER_DAY)
    return Dataset(ids, created, np.full(LEADS, NEVER), history, Attributes.none(LEADS), Outcomes.none())


def fitted_on(dataset: Dataset, cohort: Cohort) -> Scorer:
    """A scorer that learned on some of the rows."""
    features = FeatureSet.fit(LEAD_FEATURES, dataset)
    rows = cohort[slice(0, 20_000)]
    matrix = features.compute(dataset, rows)
    signal = np.nan_to_num(matrix[:, features.names.index("demo_decayed_30d")])
    bought = np.random.default_rng(1).random(len(rows)) < 0.05 + 0.2 * np.minimum(signal, 1)
    card = Card(
        version="0", model="lightgbm", horizon_days=90, features=features.fingerprint, known_until=isoformat(NOW),
        dataset="", percentiles=tuple(k / 100 for k in range(1, 101)),
    )  # fmt: skip
    return Scorer(features, LightGBM.fit(matrix, bought), card, Tiers(version="0", warm=0.1, hot=0.2))


def one_lead(touches: int) -> LeadRecord:
    """A lead with a touch on each of the days before NOW."""
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=700)
    return LeadRecord(
        lead_id="one",
        created_at=now - timedelta(days=300),
        attributes={"industry": "cleaning", "size": 4.0},
        touchpoints=tuple(
            Touchpoint(now - timedelta(days=1 + k), _KINDS[k % len(_KINDS)].channel, value=1.0) for k in range(touches)
        ),
    )
