"""One lead for the examples of the documentation, and what any feature says of it."""

from __future__ import annotations

from datetime import UTC, datetime

from features.feature import Feature, FeatureSet
from features.history import Cohort, Dataset
from features.records import LeadRecord, Touchpoint, dataset_of


def example() -> Dataset:
    """A lead of January 2026: it clicks, visits, clicks, attends a webinar for 45 minutes, and is called for 30.

    >>> [kind.name for kind in example().history.kinds]
    ['call_talk', 'email_click', 'webinar_attend', 'website_visit']
    """
    touches = (
        Touchpoint(datetime(2026, 1, 5, 10, tzinfo=UTC), "email", "click"),
        Touchpoint(datetime(2026, 1, 12, 15, tzinfo=UTC), "website", "visit"),
        Touchpoint(datetime(2026, 1, 12, 20, tzinfo=UTC), "email", "click"),
        Touchpoint(datetime(2026, 1, 28, 9, tzinfo=UTC), "webinar", "attend", value=45),
        Touchpoint(datetime(2026, 1, 30, 16, tzinfo=UTC), "call", "talk", value=30),
    )
    lead = LeadRecord(
        lead_id="example",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        attributes={"size": 40.0, "industry": "retail"},
        touchpoints=touches,
    )
    return dataset_of([lead])


def said(feature: Feature) -> dict[str, float]:
    """What a feature says of the example as of 1 February 2026, in hundredths, by column.

    >>> from features import Count
    >>> said(Count(by="side", days=(30,)))
    {'marketing_count_30d': 4.0, 'sales_count_30d': 1.0, 'other_count_30d': 0.0}
    """
    dataset = example()
    features = FeatureSet.fit((feature,), dataset)
    row = features.compute(dataset, Cohort.at([0], "2026-02-01"))[0]
    return {name: round(value, 2) for name, value in zip(features.names, row.tolist(), strict=True)}
