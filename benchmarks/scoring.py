"""What a score costs beyond the bare prediction of a ready matrix, for a list and for one lead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
_NOW = 700 * US_PER_DAY
_KINDS = tuple(Kind(channel) for channel in ("call", "content", "demo", "email", "fair", "mail", "visit", "webinar"))


def table() -> str:
    """Measures and returns the table as Markdown."""
    dataset = _leads()
    cohort = Cohort.at(np.arange(LEADS), _NOW)
    scorer = _scorer(dataset, cohort)
    matrix = scorer.features.compute(dataset, cohort)
    bulk = take_turns({
        "bare": lambda: scorer.model.predict(matrix),
        "features": lambda: scorer.features.compute(dataset, cohort, out=matrix),
        "score": lambda: scorer.score(dataset, cohort),
    })  # fmt: skip
    rows = [
        f"| list of {LEADS:,} leads, {TOUCHES:,} touches, one core | "
        f"{bulk['score']:.2f} s | {bulk['bare']:.2f} s | {bulk['score'] / bulk['bare']:.2f}x |"
    ]
    rows += [_alone(scorer, touches) for touches in (10, 200)]
    size = f"{len(scorer.features.names)} features, LightGBM of 200 trees x 7 leaves"
    lines = [
        f"### Scoring: {size}",
        "",
        circumstances("numpy", "numba", "lightgbm"),
        "",
        "| what | whole score | bare prediction of the ready row(s) | ratio |",
        "|---|---:|---:|---:|",
        *rows,
    ]
    return "\n".join(lines)


def _alone(scorer: Scorer, touches: int, calls: int = 500) -> str:
    """The table's row for one lead that comes as a record."""
    record, one = _record(touches), Cohort.at([0], _NOW)
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
        f"{us['score']:.0f} us | {us['bare']:.0f} us | {us['score'] / us['bare']:.1f}x |"
    )


def _leads() -> Dataset:
    rng = np.random.default_rng(0)
    lead = rng.integers(LEADS, size=TOUCHES)
    at = rng.integers(_NOW - 365 * US_PER_DAY, _NOW, size=TOUCHES)
    kind = rng.integers(len(_KINDS), size=TOUCHES).astype(np.int32)
    history = History.build(
        LEADS, lead, at, at, kind, rng.random(TOUCHES), _KINDS, np.full(TOUCHES, -1), np.zeros(TOUCHES, np.bool_)
    )
    ids = np.array([f"L-{i}" for i in range(LEADS)], object)
    created = np.full(LEADS, _NOW - 366 * US_PER_DAY)
    return Dataset(ids, created, np.full(LEADS, NEVER), history, Attributes.none(LEADS), Outcomes.none())


def _scorer(dataset: Dataset, cohort: Cohort) -> Scorer:
    features = FeatureSet.fit(LEAD_FEATURES, dataset)
    rows = cohort[slice(0, 20_000)]
    matrix = features.compute(dataset, rows)
    signal = np.nan_to_num(matrix[:, features.names.index("demo_decayed_30d")])
    bought = np.random.default_rng(1).random(len(rows)) < 0.05 + 0.2 * np.minimum(signal, 1)
    card = Card(
        version="0", model="lightgbm", horizon_days=90, features=features.fingerprint, known_until=isoformat(_NOW),
        dataset="", percentiles=tuple(k / 100 for k in range(1, 101)),
    )  # fmt: skip
    return Scorer(features, LightGBM.fit(matrix, bought), card, Tiers(version="0", warm=0.1, hot=0.2))


def _record(touches: int) -> LeadRecord:
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=700)
    return LeadRecord(
        lead_id="one",
        created_at=now - timedelta(days=300),
        attributes={"industry": "cleaning", "size": 4.0},
        touchpoints=tuple(
            Touchpoint(now - timedelta(days=1 + k), _KINDS[k % len(_KINDS)].channel, value=1.0) for k in range(touches)
        ),
    )
