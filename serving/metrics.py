"""Figures for Prometheus, of this process or, where there are several workers, of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from models.scorer import Card

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that makes workers share their figures through a folder; it has to be set before this is imported."""
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Scored(Protocol):
    """A score that was given."""

    @property
    def tier(self) -> str:
        """Cold, warm or hot."""
        ...

    @property
    def probability(self) -> float:
        """Of a purchase."""
        ...


class Metrics:
    """What is counted. The mean probability and the shares of the tiers tell of drift without storing a lead.

    >>> metrics = Metrics()
    >>> metrics.request("scoreLead", 200, seconds=0.002)
    >>> b'touchstone_requests_total{operation="scoreLead",status="200"} 1.0' in metrics.text(None)
    True
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "touchstone_requests", "Requests answered.", ["operation", "status"], registry=registry
        )
        self._seconds = Histogram(
            "touchstone_request_seconds", "How long they took.", ["operation"], buckets=_SECONDS, registry=registry
        )
        self._scores = Counter("touchstone_scores", "Scores given.", ["tier"], registry=registry)
        self._probabilities = Counter(
            "touchstone_probabilities", "Sum of the probabilities given; by touchstone_scores_total their mean.",
            registry=registry,
        )  # fmt: skip
        self._store_errors = Counter("touchstone_store_errors", "Requests that the store failed.", registry=registry)
        self._quarantined = Counter("touchstone_quarantined", "Messages set aside.", registry=registry)
        self._receipts_lost = Counter(
            "touchstone_receipts_lost", "Answers given without a receipt, for too many waited to be written.",
            registry=registry,
        )  # fmt: skip
        self._by_tier: dict[str, Counter] = {}
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def request(self, operation: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        known = self._known.get((operation, status))
        if known is None:
            known = self._requests.labels(operation, str(status)), self._seconds.labels(operation)
            self._known[operation, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def scored(self, scores: Sequence[Scored]) -> None:
        """Counts scores that were given."""
        tiers: dict[str, int] = {}
        total = 0.0
        for score in scores:
            tiers[score.tier] = tiers.get(score.tier, 0) + 1
            total += score.probability
        for tier, count in tiers.items():
            if tier not in self._by_tier:
                self._by_tier[tier] = self._scores.labels(tier)
            self._by_tier[tier].inc(count)
        self._probabilities.inc(total)

    def store_failed(self) -> None:
        """Counts a request or a job that the store failed."""
        self._store_errors.inc()

    def quarantined(self, count: int) -> None:
        """Counts messages that were set aside."""
        self._quarantined.inc(count)

    def receipt_lost(self) -> None:
        """Counts an answer that no receipt can be kept of."""
        self._receipts_lost.inc()

    def text(self, card: Card | None) -> bytes:
        """Writes the figures of all workers, with the model that serves, as Prometheus reads them."""
        registry = self._registry
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        text: bytes = generate_latest(registry)
        return text if card is None else text + generate_latest(_Model(card))


class _Model(Collector):
    def __init__(self, card: Card) -> None:
        self._card = card

    def collect(self) -> Iterator[GaugeMetricFamily]:
        card = self._card
        family = GaugeMetricFamily(
            "touchstone_model", "The model that serves.", labels=["name", "version", "model", "features"]
        )
        family.add_metric([card.name, card.version, card.model, card.features], 1.0)
        yield family
