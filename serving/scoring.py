"""The scores of some leads as a small table: what one partition of a list gives, wherever it is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.history import Dataset
from features.partitions import Rejected
from features.tables import ReadReport, Share
from models.scorer import Card, Scorer
from models.tiers import TIERS, Tiers

REASONS = ("reason_1", "reason_2", "reason_3")
SCHEMA = pa.schema([
    ("lead_id", pa.string()),
    ("as_of", pa.timestamp("us", "UTC")),
    ("horizon_days", pa.float64()),
    ("probability", pa.float64()),
    ("lower", pa.float64()),
    ("upper", pa.float64()),
    ("score", pa.int64()),
    ("tier", pa.string()),
    ("route", pa.string()),
    *((name, pa.string()) for name in REASONS),
    ("model_version", pa.string()),
])  # fmt: skip
"""The scored list."""
PART = pa.schema([
    ("lead_id", pa.string()),
    ("probability", pa.float64()),
    ("lower", pa.float64()),
    ("upper", pa.float64()),
    ("score", pa.int8()),
    ("tier", pa.int8()),
    *((name, pa.string()) for name in REASONS),
])  # fmt: skip
"""What differs from lead to lead; the tier is its code."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in some leads besides their scores.

    >>> Found(scored=2, tiers={"hot": 2}, closed=1, later=0, last=0).scored
    2
    """

    scored: int
    tiers: dict[str, int]
    closed: int
    """Leads that had an outcome, or were merged into another, before as_of; they are not scored."""
    later: int
    """Leads created at as_of or later; they are not scored."""
    last: int
    """When the last touch occurred, or, where there is none, the last lead was created."""
    report: ReadReport | None = None
    kinds: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()


def score_dataset(
    scorer: Scorer, dataset: Dataset, as_of: int, reasons: int = 0, threads: int = 1
) -> tuple[pa.Table, Found]:
    """Scores the leads that are open at `as_of` (microseconds): a table as `PART` in the order of their ids."""
    cohort = dataset.open_at(as_of)
    scores = scorer.score(dataset, cohort, reasons, threads)
    ids = pa.array(dataset.ids[cohort.lead], pa.string())
    texts = [[reason.text for reason in mine] for mine in scores.reasons or ()]
    none = pa.nulls(len(cohort), pa.string())
    columns = {
        "lead_id": ids,
        "probability": scores.probability,
        **dict(zip(("lower", "upper"), scores.interval or _unknown(len(cohort)), strict=True)),
        "score": scores.score.astype(np.int8),
        "tier": scores.tier.astype(np.int8),
        **{
            name: pa.array([mine[k] if len(mine) > k else None for mine in texts], pa.string()) if k < reasons else none
            for k, name in enumerate(REASONS)
        },
    }
    table = pa.table(columns, PART).take(pc.array_sort_indices(ids))
    later = int((dataset.created_at >= as_of).sum())
    last = int(dataset.history.at.max(initial=dataset.created_at.max(initial=0)))
    counts = Counter(scores.tier.tolist())
    found = Found(
        scored=len(cohort),
        tiers={TIERS[code]: counts[code] for code in (2, 1, 0)},
        closed=len(dataset) - later - len(cohort),
        later=later,
        last=last,
    )
    return table, found


def score_share(
    scorer: Scorer, share: Share, rejected: list[Rejected], as_of: int, reasons: int = 0, threads: int = 1
) -> tuple[pa.Table, Found]:
    """Scores a partition as it was read (`Partitions.read`), and keeps what reading it found."""
    table, found = score_dataset(scorer, share.dataset, as_of, reasons, threads)
    kinds = tuple(sorted(share.kinds))
    return table, msgspec.structs.replace(found, report=share.report, kinds=kinds, rejected=tuple(rejected))


def whole_rows(part: pa.Table, card: Card, tiers: Tiers, as_of: int) -> pa.Table:
    """The rows of a part as the scored list has them."""
    count = part.num_rows
    tier = part["tier"].cast(pa.int32())
    constant: Mapping[str, pa.Scalar] = {
        "as_of": pa.scalar(as_of, SCHEMA.field("as_of").type),
        "horizon_days": pa.scalar(card.horizon_days, pa.float64()),
        "model_version": pa.scalar(card.version, pa.string()),
    }
    columns = {name: pa.repeat(value, count) for name, value in constant.items()}
    columns["score"] = part["score"].cast(pa.int64())
    columns["tier"] = pa.array(TIERS, pa.string()).take(tier)
    columns["route"] = pa.array([tiers.routes[name] for name in TIERS], pa.string()).take(tier)
    return pa.table({name: columns[name] if name in columns else part[name] for name in SCHEMA.names}, SCHEMA)


def _unknown(count: int) -> tuple[pa.Array, pa.Array]:
    return pa.nulls(count, pa.float64()), pa.nulls(count, pa.float64())
