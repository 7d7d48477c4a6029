"""How the blend and its halves are fitted, for those who want it otherwise."""

from __future__ import annotations

from typing import Annotated, get_type_hints

import msgspec

from features.errors import UsageError
from models.model import Evidence

_FEW = 250
"""Buyers below which a simulated market is known better by trees of 4 leaves and twice the L2 (decision 0007)."""
_Whole = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be chosen of the trees, by LightGBM's own names, and of the logistic regression.

    A lead that is a row of many instants tells little more than one of a single instant, so what holds the trees back
    is said for each lead, and counts as often as a lead has rows. Where fewer than 250 leads have bought the trees are
    held back twice as hard and have at most 4 leaves. `touchstone search` says whether other settings than the defaults
    are better for a log.

    >>> ModelSettings(num_leaves=15).trees["num_leaves"], ModelSettings().penalty
    (15, 100.0)
    """

    num_leaves: Annotated[int, msgspec.Meta(ge=2, le=1_000)] = 7
    num_iterations: _Whole = 200
    """How many trees."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.04
    min_data_in_leaf: _Whole = 20
    """For each row of a lead; at most a twentieth of the rows."""
    lambda_l2: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 4.0
    """For each row of a lead."""
    penalty: _Positive = 100.0
    """Of half the squared weights of the logistic regression (scikit-learn's C = 0.01): strong, for the columns are
    many and say much the same."""

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            try:
                msgspec.convert(getattr(self, name), kind)
            except msgspec.ValidationError as problem:
                raise UsageError(f"{name}={getattr(self, name)!r}: {problem}.") from None

    def fitting(self, evidence: Evidence) -> ModelSettings:
        """Returns what is to be set for rows that so much stands behind."""
        few = evidence.buyers < _FEW
        return msgspec.structs.replace(
            self,
            num_leaves=min(self.num_leaves, 4) if few else self.num_leaves,
            min_data_in_leaf=min(10_000, round(self.min_data_in_leaf * evidence.rows_a_lead)),
            lambda_l2=self.lambda_l2 * evidence.rows_a_lead * (2 if few else 1),
        )

    @property
    def trees(self) -> dict[str, int | float]:
        """Those of LightGBM."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if name != "penalty"}


_KINDS = get_type_hints(ModelSettings, include_extras=True)
DEFAULT = ModelSettings()
