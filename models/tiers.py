"""Cold, warm and hot: a policy beside the model, with a version of its own, that says who is to act on a score."""

from __future__ import annotations

from typing import Self

import msgspec
import numpy as np

from features.errors import ModelError
from features.history import Floats, Ints

TIERS = ("cold", "warm", "hot")
"""From the least to the most probable, by code."""
ROUTES = {"cold": "marketing", "warm": "nurture", "hot": "sales"}
"""Whose turn it is."""


class Tiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From which probability on a lead is warm or hot, and whose turn it is then."""

    version: str
    """The date the policy is from, e.g. "2026-10-01"."""
    warm: float
    hot: float
    routes: dict[str, str] = msgspec.field(default_factory=lambda: dict(ROUTES))

    def __post_init__(self) -> None:
        if not 0 <= self.warm <= self.hot <= 1 or set(self.routes) != set(TIERS):
            raise ValueError(
                f"tiers need 0 <= warm <= hot <= 1 and a route for cold, warm and hot; "
                f"got warm {self.warm}, hot {self.hot}, routes {sorted(self.routes)}"
            )

    @classmethod
    def for_shares(cls, probability: Floats, *, version: str, hot: float = 0.10, warm: float = 0.30) -> Self:
        """The cut-offs that make the top share of some leads hot and those down to the next share warm."""
        if not len(probability):
            return cls(version=version, warm=1.0, hot=1.0)
        at = np.quantile(probability, [1 - warm, 1 - hot], method="higher")
        return cls(version=version, warm=float(at[0]), hot=float(at[1]))

    def of(self, probability: Floats) -> Ints:
        """Returns the (n,) codes into `TIERS`; a cut-off belongs to the tier above it."""
        return np.searchsorted([self.warm, self.hot], probability, side="right")

    def to_json(self) -> str:
        """Writes the policy; `from_json` reads it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a policy; raises ModelError for anything else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as problem:
            raise ModelError(f"tiers.json is not a tier policy: {problem}.") from None
