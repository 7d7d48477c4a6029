"""A scorer for any dataset, with made-up weights: what holds of it hangs on no training."""

import numpy as np

from features import LEAD_FEATURES, Dataset, FeatureSet
from models import Card, Scorer, Tiers
from models.linear import Logistic


def weighted(dataset: Dataset, seed: int = 0, version: str = "1") -> Scorer:
    """Weighs all that is computed of a dataset, missing values too."""
    features = FeatureSet.fit(LEAD_FEATURES, dataset)
    rng, count = np.random.default_rng(seed), len(features.names)
    weights = rng.normal(size=count), rng.normal(size=count)
    model = Logistic(np.zeros(count), np.full(count, 3.0), *weights, -0.5, features.stand_in)
    card = Card(
        version=version, model="logistic", horizon_days=90, features=features.fingerprint, dataset="",
        known_until="2026-01-01T00:00:00Z", percentiles=tuple(k / 100 for k in range(1, 101)),
    )  # fmt: skip
    return Scorer(features, model, card, Tiers(version="1", warm=0.2, hot=0.6))
