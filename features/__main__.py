"""Compiles the feature kernels into numba's cache, so that the first score need not wait: `python -m features`."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from features import LEAD_FEATURES, Dataset, FeatureSet
from features.records import AttributeFact, LeadRecord, Touchpoint, dataset_of


def main() -> None:
    """Computes the features of one lead as a request brings it, and reads one as tables hold it."""
    day = datetime(2026, 1, 1, tzinfo=UTC)
    lead = LeadRecord(
        lead_id="first",
        created_at=day,
        attributes={"size": 1.0, "industry": "cleaning"},
        attribute_facts=(AttributeFact(day, "size", 2.0),),
        touchpoints=(Touchpoint(day, "web", value=1.0), Touchpoint(day, "email", "click")),
    )
    dataset = dataset_of([lead]).known_at("2026-02-01")
    FeatureSet.fit(LEAD_FEATURES, dataset).compute(dataset, dataset.open_at("2026-02-01"))
    # Out of order, as logs of many leads are: rows that lie together already are left where they are.
    at = ["2026-01-01", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]
    touches = {
        "lead_id": pa.array([1, 2, 1]),
        "occurred_at": pa.array(at),
        "channel": pa.array(["web", "email", "web"]),
    }
    more = {"action": pa.array(["visit", "click", "visit"]), "message_id": pa.array(["a", "b", "c"])}
    for columns in (touches, touches | more):
        Dataset.from_frames(touchpoints=pa.table(columns))


if __name__ == "__main__":
    main()
