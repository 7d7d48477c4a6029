"""Compiles the feature kernels into numba's cache, so that the first score need not wait: `python -m features`."""

from __future__ import annotations

from datetime import UTC, datetime

from features import LEAD_FEATURES, FeatureSet
from features.records import AttributeFact, LeadRecord, Touchpoint, dataset_of


def main() -> None:
    """Computes the features of one lead, as of now and as of an earlier time."""
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


if __name__ == "__main__":
    main()
