"""What is decided before training: one frozen object, read from TOML and checked whole."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from features.errors import UsageError
from features.times import US_PER_DAY, to_us
from models.settings import ModelSettings
from models.tiers import Team

Days = Annotated[float, msgspec.Meta(gt=0, le=3650)]


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The question a model answers and how it is put to the test.

    >>> Experiment(horizon_days=28).snapshot_days
    7.0
    """

    name: str = "touchstone"
    """The MLflow experiment its runs are kept under."""
    horizon_days: Days = 90.0
    """A purchase counts if it comes in [as_of, as_of + horizon)."""
    origins: Annotated[int, msgspec.Meta(ge=1, le=200)] = 5
    """How many past instants the backtest goes back to."""
    origin_every_days: Days | None = None
    """The step between origins; a third of the horizon if left out."""
    first_origin: str | None = None
    """The earliest origin; if left out, the last origin is the latest one whose horizon is over."""
    snapshot_every_days: Days | None = None
    """The step between the instants at which open leads become training rows; if left out a quarter of the horizon,
    or up to a week where that would make more than half a million rows."""
    reporting_delay_days: Annotated[float, msgspec.Meta(ge=0, le=3650)] | None = None
    """How long after a purchase it is known; estimated from `recorded_at` if left out."""
    capacity: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.10
    """The share of open leads that sales can work, for the backtest."""
    team: Team | None = None
    """The sales team, from which the cut-offs of the tiers follow; without it the top tenth is hot."""
    bootstrap: Annotated[int, msgspec.Meta(ge=10, le=100_000)] = 300
    """Draws of leads for the intervals."""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 7
    model: ModelSettings = ModelSettings()
    """How the logistic regression, LightGBM and their blend are fitted; `touchstone search` writes them."""

    def __post_init__(self) -> None:
        spans = (self.horizon_days, self.origin_every_days, self.snapshot_every_days)
        for wrong, says in (
            (any(d is not None and not 0 < d <= 3650 for d in spans), "spans are more than 0 and up to 3650 days"),
            (not 0 < self.capacity < 1, "capacity is a share between 0 and 1"),
            (self.origins < 1 or self.bootstrap < 10, "origins are at least 1, bootstrap draws at least 10"),
            (not 0 <= self.seed < 2**31, "a seed is a whole number from 0 to 2147483647"),
            ((self.reporting_delay_days or 0) < 0, "reporting_delay_days is not negative"),
        ):
            if wrong:
                raise UsageError(f"{says}; got {self}.")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads TOML; raises UsageError naming the field that is wrong."""
        try:
            experiment = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as problem:
            known = ", ".join(cls.__struct_fields__)
            raise UsageError(f"{path}: not an experiment: {problem}. It may hold {known}.") from None
        if experiment.first_origin is not None:
            try:
                to_us(experiment.first_origin)
            except UsageError as problem:
                raise UsageError(f"{path}: first_origin: {problem}") from None
        return experiment

    def to_toml(self) -> str:
        """Writes what `read` reads, without what is left out."""
        given = {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}
        tables = {name: given.pop(name) for name in ("team", "model") if name in given}
        parts = [_lines(given), *(f"\n[{name}]\n{_lines(table)}" for name, table in tables.items())]
        return "".join(parts)

    @property
    def horizon(self) -> int:
        """The horizon in microseconds."""
        return round(self.horizon_days * US_PER_DAY)

    @property
    def origin_days(self) -> float:
        """The step between origins in days."""
        return self.origin_every_days or self.horizon_days / 3

    @property
    def snapshot_days(self) -> float:
        """The step between training snapshots in days, before it is widened for data of very many rows."""
        return self.snapshot_every_days or self.horizon_days / 4


def _lines(table: dict[str, Any]) -> str:
    told = ((name, json.dumps(value, ensure_ascii=False)) for name, value in table.items() if value is not None)
    # Numbers and strings are written in TOML as in JSON, but for the delete character.
    return "".join(f"{name} = {value}\n".replace("\x7f", "\\u007f") for name, value in told)
