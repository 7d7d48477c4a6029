"""The models that compete, one line each; the backtest chooses among those that are not peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from features.aggregates import Age, Attributes, Count, DaysSince
from features.definitions import KIND, LEAD_FEATURES
from features.feature import Feature, FeatureSet
from features.history import Dataset, Floats, Matrix
from models.base_rate import BaseRate
from models.blend import Blend
from models.linear import Logistic
from models.model import Candidate, Evidence, Fit, Model, Recipe, plainly
from models.naive_bayes import NaiveBayes
from models.recency import Recency
from models.rules import PointsTable, Rules
from models.settings import DEFAULT, ModelSettings
from models.trees import Grow, LightGBM

FIELDS: tuple[Feature, ...] = (Age(), Count(by=KIND), DaysSince(), Attributes())
"""What the frequency tables of CRMs look at."""
SILENCE: tuple[Feature, ...] = (DaysSince(), Age())
"""What the most recently active leads are known by."""

MODELS: dict[str, type[Model]] = {
    model.name: model for model in (BaseRate, Rules, Recency, NaiveBayes, Logistic, LightGBM, Blend)
}
"""Every model by the name it has in a bundle."""


def candidates(
    rules: PointsTable | None = None,
    features: tuple[Feature, ...] = LEAD_FEATURES,
    settings: ModelSettings = DEFAULT,
) -> list[Candidate]:
    """Returns all that compete; `rules` is the user's own points table, without it one is derived from the data."""

    def trees(found: FeatureSet, grow: Grow) -> Fit:
        return _by(settings, grow)

    def blended(found: FeatureSet, grow: Grow) -> Fit:
        return _by(settings, partial(Blend.fit, grow=grow, stand_in=found.stand_in))

    def linear(known: Dataset) -> Recipe:
        found = FeatureSet.fit(features, known)
        return Recipe(found, _by(settings, partial(Logistic.fit, stand_in=found.stand_in)))

    return [
        Candidate("rules", partial(Rules.prepare, rules)),
        Candidate(BaseRate.name, _on(SILENCE, plainly(BaseRate.fit)), peer=True),
        Candidate("recency", _on(SILENCE, plainly(Recency.fit)), peer=True),
        Candidate("naive_bayes", _on(FIELDS, plainly(NaiveBayes.fit)), peer=True),
        Candidate("logistic", linear),
        Candidate("lightgbm", _with_trees(features, trees)),
        Candidate("blend", _with_trees(features, blended, completes=True)),
    ]


def _by(settings: ModelSettings, fit: Callable[[Matrix, Floats, ModelSettings], Model]) -> Fit:
    def fitted(matrix: Matrix, label: Floats, evidence: Evidence) -> Model:
        return fit(matrix, label, settings.fitting(evidence))

    return fitted


def _on(features: tuple[Feature, ...], fit: Fit) -> Callable[[Dataset], Recipe]:
    def prepare(known: Dataset) -> Recipe:
        return Recipe(FeatureSet.fit(features, known), fit)

    return prepare


def _with_trees(
    features: tuple[Feature, ...], growing: Callable[[FeatureSet, Grow], Fit], *, completes: bool = False
) -> Callable[[Dataset], Recipe]:
    def prepare(known: Dataset) -> Recipe:
        found = FeatureSet.fit(features, known)
        mine = partial(growing, found)
        return Recipe(found, mine(LightGBM.fit), completes, growing=mine)

    return prepare
