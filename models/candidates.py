"""The models that compete, one line each; the backtest chooses among those that are not peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from features.aggregates import Age, Attributes, Count, DaysSince
from features.definitions import KIND, LEAD_FEATURES
from features.feature import Feature, FeatureSet
from features.history import Dataset, Floats, Matrix
from models.blend import Blend
from models.linear import Logistic
from models.model import Candidate, Model, Recipe
from models.naive_bayes import NaiveBayes
from models.recency import Recency
from models.rules import PointsTable, Rules
from models.trees import LightGBM

FIELDS: tuple[Feature, ...] = (Age(), Count(by=KIND), DaysSince(), Attributes())
"""What the frequency tables of CRMs look at."""
SILENCE: tuple[Feature, ...] = (DaysSince(), Age())
"""What the most recently active leads are known by."""

MODELS: dict[str, type[Model]] = {
    model.name: model for model in (Rules, Recency, NaiveBayes, Logistic, LightGBM, Blend)
}
"""Every model by the name it has in a bundle."""


def candidates(rules: PointsTable | None = None, features: tuple[Feature, ...] = LEAD_FEATURES) -> list[Candidate]:
    """Returns all that compete; `rules` is the user's own points table, without it one is derived from the data."""
    return [
        Candidate("rules", partial(Rules.prepare, rules)),
        Candidate("recency", _on(SILENCE, Recency.fit), peer=True),
        Candidate("naive_bayes", _on(FIELDS, NaiveBayes.fit), peer=True),
        Candidate("logistic", _on(features, Logistic.fit)),
        Candidate("lightgbm", _on(features, LightGBM.fit)),
        Candidate("blend", _on(features, Blend.fit, completes=True)),
    ]


def _on(
    features: tuple[Feature, ...], fit: Callable[[Matrix, Floats], Model], *, completes: bool = False
) -> Callable[[Dataset], Recipe]:
    def prepare(known: Dataset) -> Recipe:
        return Recipe(FeatureSet.fit(features, known), fit, completes)

    return prepare
