"""What a model's log-odds are made up of, for reports and notebooks; the reasons beside a score are `models.reasons`.

Those say what a score would be without something, which a rep can check; these add up, which a data scientist wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from features.errors import ModelError
from features.feature import OTHER, About
from features.history import Cohort, Dataset, Floats, Matrix
from models import Model, Scorer
from models.blend import Blend
from models.calibration import Calibrated
from models.linear import Logistic
from models.trees import LightGBM

if TYPE_CHECKING:
    from pandas import DataFrame

_KINDS = (Blend, LightGBM, Logistic)


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each group of columns adds to the log-odds of each row, SHAP values summed by group.

    >>> found = Contributions((About("age"), About("attribute", "size")), np.array([[0.5, -1.5], [-0.5, 1.0]]), -3.0)
    >>> found.log_odds.tolist(), [about.name for about in found.order]
    ([-4.0, -2.5], ['size', ''])
    """

    groups: tuple[About, ...]
    values: Floats
    """(n, groups)"""
    base: float
    """The log-odds from which the contributions count."""
    before_curve: bool = False
    """Whether a calibration curve comes after these log-odds."""

    @property
    def log_odds(self) -> Floats:
        """(n,) log-odds of the model."""
        total: Floats = self.base + self.values.sum(axis=1)
        return total

    @property
    def size(self) -> Floats:
        """(groups,) mean absolute contribution."""
        mean: Floats = np.abs(self.values).mean(axis=0)
        return mean

    @property
    def order(self) -> list[About]:
        """The groups, the largest mean absolute contribution first."""
        return [self.groups[place] for place in np.argsort(-self.size, kind="stable")]

    def table(self) -> DataFrame:
        """The groups with their mean absolute, least and greatest contribution to the log-odds, the largest first."""
        from pandas import DataFrame

        columns = {
            "about": [in_words(group) for group in self.groups],
            "sort": [group.sort for group in self.groups],
            "mean_absolute": self.size,
            "least": self.values.min(axis=0),
            "greatest": self.values.max(axis=0),
        }
        return DataFrame(columns).set_index("about").sort_values("mean_absolute", ascending=False, kind="stable")

    def _repr_html_(self) -> str:
        html: str = self.table().round(3).to_html()
        return html


def has_contributions(model: Model) -> bool:
    """Whether a model's log-odds are a sum over its columns or trees of them."""
    return isinstance(_before_curve(model), _KINDS)


def contributions(scorer: Scorer, dataset: Dataset, cohort: Cohort) -> Contributions:
    """Returns what each group of columns adds to the log-odds of a cohort's rows.

    Of trees these are TreeSHAP's values (Lundberg and others, 2020), which count from the mean of the rows they were
    fitted on; of a logistic regression each term less its mean over the cohort; of a blend the mean of both. Under a
    calibration curve they are of the log-odds before it. Raises ModelError for other models and an empty cohort.
    """
    if not has_contributions(scorer.model):
        raise ModelError(
            f"{scorer.card.model} is no sum of its columns. Contributions are of blend, lightgbm and logistic."
        )
    if not len(cohort):
        raise ModelError("there is no row to look at. Give a cohort of at least one.")
    model = _before_curve(scorer.model)
    values, base = _by_column(model, scorer.features.compute(dataset, cohort))
    groups = tuple(dict.fromkeys(scorer.features.about))
    place = {group: k for k, group in enumerate(groups)}
    summed = np.zeros((len(cohort), len(groups)))
    for column, about in enumerate(scorer.features.about):
        summed[:, place[about]] += values[:, column]
    return Contributions(groups, summed, base, model is not scorer.model)


def in_words(about: About) -> str:
    """What a group of columns tells of.

    >>> in_words(About("touches", "email_click")), in_words(About("touches")), in_words(About("attribute", "size"))
    ('email click', 'all touches', 'size')
    """
    if about.sort == "touches":
        return {"": "all touches", OTHER: "other touches"}.get(about.name, about.name.replace("_", " "))
    return about.name or "age"


def _before_curve(model: Model) -> Model:
    return model.model if isinstance(model, Calibrated) else model


def _by_column(model: Model, matrix: Matrix) -> tuple[Floats, float]:
    """Returns (n, F) contributions and their base."""
    if isinstance(model, Blend):
        (linear, one), (trees, other) = _by_column(model.logistic, matrix), _by_column(model.trees, matrix)
        return (linear + trees) / 2, (one + other) / 2
    if isinstance(model, Logistic):
        terms = model.terms(matrix)
        mean = terms.mean(axis=0)
        return terms - mean, model.intercept + float(mean.sum())
    assert isinstance(model, LightGBM)
    import lightgbm

    booster = lightgbm.Booster(model_str=model.booster.text)
    # The library keeps one number of threads for the whole process, and calls that disagree about it crash.
    found = np.asarray(booster.predict(matrix, pred_contrib=True, num_threads=1))
    return found[:, :-1], float(found[0, -1])
