"""The hand-made point rules most companies decide by today: a peer to beat, and the answer while data are scarce.

A points table gives each touch its points, adds some for what the lead is, and takes some away for every week of
silence. To compare it with models fairly its raw points are used, not three levels, and turned into a probability by
a logistic curve fitted on the same training rows that the models see.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import msgspec
import numpy as np

from features.aggregates import Age, Attributes, Count, DaysSince
from features.definitions import KIND
from features.errors import ModelError, UsageError
from features.feature import FeatureSet, Reading, Vocabulary
from features.history import Dataset, Floats, Ints, Kind, Matrix
from features.words import attribute_word, kind_word
from models.linear import fit_curve
from models.model import Parts, Recipe, plainly, sigmoid, to_json

DEFAULT_POINTS: tuple[tuple[str, float], ...] = (
    ("unsubscribe|complaint|spam", -25),
    ("bounce", -10),
    ("demo|trial|proposal|offer|quote|order|cart|checkout", 30),
    ("meeting|appointment|store", 25),
    ("form|request|register|signup|apply|application|reply|referral", 20),
    ("pricing|price|webinar|training|event|fair|exam|course", 15),
    ("call|phone|download|content|whitepaper|ebook|brochure|question|chat|lesson", 10),
    ("click", 5),
    ("open|visit|view|page|web|website|search|social|activity|quiz", 3),
    ("sent|send|delivered|impression|ad|print|tv|radio|letter", 0),
)
"""Points by the first of these words that stands in a kind's name, in the manner of marketing tools' templates."""
_UNKNOWN_POINTS = 5.0
_FLAT = 1e-6


class AttributeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Points for what a lead is: a word that an attribute equals, or a number that it reaches.

    >>> AttributeRule("Industry", 10.0, equals="cleaning").column
    'lead_industry_is_cleaning'
    """

    name: str
    points: float
    equals: str | None = None
    at_least: float | None = None

    @property
    def column(self) -> str:
        """The feature that tells."""
        name = f"lead_{kind_word(self.name)}"
        return name if self.equals is None else f"{name}_is_{attribute_word(self.equals)}"


class PointsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A points table, as its TOML file holds it.

    >>> table = PointsTable(points={"demo": 30.0, "email_click": 5.0})
    >>> table.of(Kind("call", "demo")), table.of(Kind("email", "click")), table.of(Kind("email", "open"))
    (30.0, 5.0, 0.0)
    """

    points: dict[str, float] = {}
    """Points of a touch by its kind: `channel_action`, else `action`, else `channel`."""
    attributes: tuple[AttributeRule, ...] = ()
    silence_per_week: float = 5.0
    """Points taken away for each whole week since the last touch, or since creation where there was none."""
    expire_days: float | None = None
    """Days after which a touch gives no points any more; never, if left out."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a points table; raises UsageError naming what is wrong."""
        try:
            table = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as problem:
            raise UsageError(f"{path}: not a points table: {problem}. See examples/rules.toml.") from None
        if not table.points and not table.attributes:
            raise UsageError(f"{path}: no points are given. Add a [points] table, e.g. demo = 30.")
        rules = [number for rule in table.attributes for number in (rule.points, rule.at_least or 0.0)]
        if not all(map(math.isfinite, (*table.points.values(), *rules, table.silence_per_week))):
            raise UsageError(f"{path}: inf and nan are no points. Write a number.")
        if table.expire_days is not None and not 0 < table.expire_days < math.inf:
            raise UsageError(f"{path}: expire_days is {table.expire_days:g}; it must be more than 0, or left out.")
        for rule in table.attributes:
            if (rule.equals is None) == (rule.at_least is None):
                raise UsageError(f"{path}: the rule for {rule.name!r} needs either `equals` or `at_least`.")
        numbers = {kind_word(rule.name) for rule in table.attributes if rule.at_least is not None}
        for rule in table.attributes:
            if rule.equals is not None and kind_word(rule.name) in numbers:
                raise UsageError(f"{path}: {rule.name!r} cannot be both a word (`equals`) and a number (`at_least`).")
        return table

    @classmethod
    def default(cls, kinds: Sequence[Kind]) -> Self:
        """A sensible table for the kinds of touches that are there, derived from their words.

        Its points expire after 30 days: of the usual variants (never, 30 or 90 days, with and without silence) the
        strongest on simulated and real journeys, for a peer should be beaten at its best.
        """
        return cls(points={kind.name: _default_points(kind.name) for kind in kinds}, expire_days=30)

    def strangers(self, kinds: Sequence[Kind]) -> list[str]:
        """The names in the table that no kind goes by, perhaps misspelt."""
        known = {name for kind in kinds for name in (kind.name, kind.action, kind.channel)}
        return [name for name in self.points if kind_word(name) not in known]

    def of(self, kind: Kind) -> float:
        """The points of a touch of a kind."""
        points = {kind_word(name): value for name, value in self.points.items()}
        return next((points[name] for name in (kind.name, kind.action, kind.channel) if name in points), 0.0)


@dataclass(frozen=True)
class Rules:
    """A points table resolved to columns, and the curve that turns points into a probability.

    >>> from features.example import example
    >>> Rules.prepare(PointsTable(points={"call": 10.0}), example()).features.names[:4]
    ('days_since_touch', 'age_days', 'call_talk_count', 'other_count')
    """

    name: ClassVar[str] = "rules"

    column: Ints
    """(R,) the column that each rule looks at; several may look at the same."""
    weight: Floats
    """(R,) the points of each rule."""
    at_least: Floats
    """(R,) the number from which on a column gives its points once; NaN: they are multiplied by its value."""
    silence_per_week: float
    """Points taken away for each whole week since the last touch (column 0), or since creation (column 1)."""
    intercept: float
    slope: float

    @classmethod
    def prepare(cls, table: PointsTable | None, known: Dataset) -> Recipe:
        """Declares the columns a table needs, the default's without one; fitting finds the curve alone."""
        seen = [known.history.kinds[code] for code in np.unique(known.history.kind)]
        table = table or PointsTable.default(seen)
        points = {kind.name: table.of(kind) for kind in seen}
        # A kind that no touch has yet counts when one comes.
        points |= {kind_word(name): table.points[name] for name in table.strangers(seen)}
        kinds = tuple(sorted(name for name, value in points.items() if value))
        words: dict[str, dict[str, None]] = {}
        for rule in table.attributes:
            name = kind_word(rule.name)
            words.setdefault(name, {}).update({} if rule.equals is None else {attribute_word(rule.equals): None})
        attributes: dict[str, Reading] = {name: tuple(mine) or "number" for name, mine in words.items()}
        count = Count(by=KIND, days=(table.expire_days,))
        features = FeatureSet((DaysSince(), Age(), count, Attributes()), Vocabulary({KIND: kinds}, attributes))
        place = {name: i for i, name in enumerate(features.names)}
        ending = "" if table.expire_days is None else f"_{table.expire_days:g}d"
        column = [place[f"{name}_count{ending}"] for name in kinds] + [place[rule.column] for rule in table.attributes]
        weight = [points[name] for name in kinds] + [rule.points for rule in table.attributes]
        at_least = [np.nan] * len(kinds) + [np.nan if r.at_least is None else r.at_least for r in table.attributes]
        rules = cls(np.array(column, np.int64), np.array(weight), np.array(at_least), table.silence_per_week, 0.0, 1.0)
        return Recipe(features, plainly(rules.fit), unlearned=rules.unlearned)

    def fit(self, matrix: Matrix, label: Floats) -> Rules:
        """Finds the curve from (n, F) rows and (n,) labels."""
        intercept, slope = fit_curve(self.points(matrix), label)
        if slope <= 0:
            # So few purchases that by chance they speak against the points.
            return self.unlearned(float(label.mean()))
        return replace(self, intercept=intercept, slope=slope)

    def unlearned(self, rate: float) -> Rules:
        """The curve where nothing tells what points are worth: a rate for all, in the order of the points."""
        return replace(self, intercept=math.log(rate / (1 - rate)), slope=_FLAT)

    def points(self, matrix: Matrix) -> Floats:
        """Returns the (n,) points of (n, F) rows."""
        if max(1, self.column.max(initial=0)) >= matrix.shape[1]:
            raise ModelError(f"the rules look at column {self.column.max(initial=1)} of a matrix of {matrix.shape}.")
        since = np.where(np.isnan(matrix[:, 0]), matrix[:, 1], matrix[:, 0]).astype(np.float64)
        points = -self.silence_per_week * np.floor(since / 7)
        for column, weight, at_least in zip(self.column, self.weight, self.at_least, strict=True):
            values = matrix[:, column]
            units = np.nan_to_num(values) if np.isnan(at_least) else values >= at_least
            points += weight * units.astype(np.float64)
        return points

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities."""
        return sigmoid(self.intercept + self.slope * self.points(matrix))

    def to_files(self) -> dict[str, str]:
        """The table's rules by column, and its curve, as JSON."""
        return {"model.json": to_json(**vars(self))}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote."""
        parts = Parts(files)
        silence, intercept, slope = (parts.number(name) for name in ("silence_per_week", "intercept", "slope"))
        column, weight, at_least = (parts.array(name) for name in ("column", "weight", "at_least"))
        if not len(column) == len(weight) == len(at_least) or not (column >= 0).all() or (column % 1).any():
            raise ModelError("model.json: column, weight and at_least do not fit each other.")
        return cls(column.astype(np.int64), weight, at_least, silence, intercept, slope)


def _default_points(name: str) -> float:
    for words, points in DEFAULT_POINTS:
        if re.search(rf"(^|_)({words})(s|ed|(?<=e)d)?(_|$)", name):
            return points
    return _UNKNOWN_POINTS
