"""Declared features, the vocabulary they learn in training, and the matrix they give.

A `Feature` is a frozen declaration. A `FeatureSet` is a tuple of them with a fitted vocabulary: which kinds of touch
and which words of an attribute get a column of their own. It is compiled into a small program of operations that one
numba kernel (`features.aggregates.run`) carries out for any rows of (lead, as_of): training, lists and the endpoint
differ in their rows only.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

import numpy as np

from features.errors import ModelError, UsageError
from features.history import Attributes, Codes, Cohort, Dataset, Floats, History, Ints, Kind, Matrix, are_below
from features.touchpoints import touchpoint_of
from features.words import word_date, word_number

By: TypeAlias = tuple[str, ...]
"""What touches are told apart by: nothing, channel, action, both, side or direction."""

Reading: TypeAlias = "Literal['number', 'flag', 'date'] | tuple[str, ...]"
"""How an attribute is read: as a number, as true or false, as a date, or as one of these words."""

OTHER = "other"
_MANY = 1 << 17
"""Rows that a thread computes at a time."""
_AS_IS, _BY_CODE, _BY_NUMBER, _NEVER = 0, 1, 2, 3


class Grouping(NamedTuple):
    """How touches fall into groups: by what they are, or the kinds that alone are looked at, in order."""

    by: By = ()
    of: tuple[str, ...] = ()


_ALL = Grouping()


class About(NamedTuple):
    """What a column tells of: a group of touches (all of them where it has no name), an attribute, or the age."""

    sort: Literal["touches", "attribute", "age"]
    name: str = ""


def group_name(kind: Kind, by: By) -> str:
    """Names the group a kind falls into; a touch without an action goes by its channel.

    >>> group_name(Kind("email", "click"), ("action",)), group_name(Kind("email", "click"), ("side",))
    ('click', 'marketing')
    """
    if by == ("channel",):
        return kind.channel
    if by == ("action",):
        return kind.action or kind.channel
    if by in (("side",), ("direction",)):
        touchpoint = touchpoint_of(*kind)
        return OTHER if touchpoint is None else touchpoint.side if by == ("side",) else touchpoint.direction
    return kind.name if by else "touch"


EVERY = -2
"""In `Without`: all touches, or all attributes."""


class Without(NamedTuple):
    """What each row of a cohort is to be seen without."""

    kind: Codes
    """(n,) a kind of touch by its place in the history's `kinds`; -1 for none, `EVERY` for all touches."""
    attribute: Codes
    """(n,) an attribute by its place in the dataset's `attributes.names`; -1 for none, `EVERY` for all."""


_NOTHING = Without(np.empty(0, np.int32), np.empty(0, np.int32))


@dataclass(frozen=True)
class Vocabulary:
    """What was learned from training data: the groups of touches, and how attributes are read.

    >>> from features import Attributes, Count
    >>> from features.example import example
    >>> FeatureSet.fit((Count(by="side"), Attributes()), example()).vocabulary
    Vocabulary(groups={('side',): ('marketing', 'sales')}, attributes={'industry': ('retail',), 'size': 'number'})
    """

    groups: Mapping[By, tuple[str, ...]]
    """The groups that have a column of their own, in order of name; "other" comes behind them."""
    attributes: Mapping[str, Reading]
    """By name, in order."""


@dataclass(frozen=True)
class Op:
    """One operation of the kernel: what to compute, from which groups, with which parameters, into which columns."""

    code: int
    names: tuple[str, ...]
    grouping: Grouping = _ALL
    parameters: tuple[float, ...] = ()
    attribute: str = ""
    reading: Reading = "number"
    start: float = 0.0
    """The value of its columns for a lead without a touch."""
    of_touches: bool = True
    """Whether it looks at touches, if at no attribute."""
    apart: bool = True
    """Whether its columns stand group by group; else each is about all its groups."""
    since: bool = False
    """Whether its columns are days since a touch, missing where that never came."""

    def about(self, vocabulary: Vocabulary) -> tuple[About, ...]:
        """What each of its columns is about."""
        by, of = self.grouping
        if self.attribute or not self.of_touches:
            return (About("attribute", self.attribute) if self.attribute else About("age"),) * len(self.names)
        if not self.apart:
            return (About("touches", " and ".join(of)),) * len(self.names)
        groups = (*vocabulary.groups[by], OTHER) if by else of or ("",)
        return tuple(About("touches", group) for group in groups for _ in range(len(self.names) // len(groups)))


class Feature(ABC):
    """A declaration of one or more columns. Subclasses are frozen dataclasses; their meaning never changes.

    >>> from features import Count
    >>> Count(by="channel", days=(7, 30)).to_dict()
    {'feature': 'Count', 'by': ('channel',), 'of': '', 'where': None, 'days': (7, 30)}
    """

    @abstractmethod
    def ops(self, vocabulary: Vocabulary) -> Iterable[Op]:
        """Returns the operations that compute it."""

    @property
    def grouping(self) -> Grouping:
        """The groups of touches whose vocabulary it needs."""
        return _ALL

    def to_dict(self) -> dict[str, Any]:
        """Returns the declaration as JSON values."""
        return {"feature": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}  # type: ignore[arg-type]


@dataclass(frozen=True)
class FeatureSet:
    """Declarations with a fitted vocabulary; computes their matrix.

    >>> import pandas as pd
    >>> from features import Age, Cohort, Count, Dataset
    >>> touches = pd.DataFrame({"lead_id": ["a"], "occurred_at": ["2026-01-01T00:00:00Z"], "channel": ["web"]})
    >>> dataset = Dataset.from_frames(touchpoints=touches)
    >>> features = FeatureSet.fit((Age(), Count(days=(7, 30))), dataset)
    >>> features.names
    ('age_days', 'touch_count_7d', 'touch_count_30d')
    >>> features.compute(dataset, Cohort.at([0], "2026-01-11")).tolist()
    [[10.0, 0.0, 1.0]]
    """

    features: tuple[Feature, ...]
    vocabulary: Vocabulary

    kinds_limit: ClassVar[int] = 32
    words_limit: ClassVar[int] = 16

    @classmethod
    def fit(cls, features: Sequence[Feature], dataset: Dataset) -> Self:
        """Learns the vocabulary from all touches and attributes of a dataset, which should be a `known_at`.

        The most frequent kinds (32) and words (16) get columns; the others, and those never seen here, share one
        named "other". An attribute of which no value is known gets none.
        """
        wanted = {f.grouping.by for f in features if f.grouping.by}
        counts = np.bincount(dataset.history.kind, minlength=len(dataset.history.kinds))
        groups = {by: _frequent(dataset.history.kinds, counts, by, cls.kinds_limit) for by in sorted(wanted)}
        attributes = {
            name: _reading(dataset.attributes, column, cls.words_limit)
            for column, name in sorted(enumerate(dataset.attributes.names), key=lambda pair: pair[1])
            if _is_known(dataset.attributes, column)
        }
        return cls(tuple(features), Vocabulary(groups, attributes))

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """The program, with column names made unique."""
        taken: dict[str, tuple[int, Grouping, str]] = {}
        ops = []
        for feature in self.features:
            for op in feature.ops(self.vocabulary):
                names = []
                for name in op.names:
                    meaning = op.code, op.grouping, op.attribute
                    # A word may be called "other" or "missing", as the columns behind the words are.
                    if taken.get(name) == meaning and not (op.attribute and name in names):
                        raise UsageError(f"{name!r} is declared twice, the second time in {feature}. Remove one.")
                    if name in taken:
                        name = f"{name}_by_{'_'.join(op.grouping.by) or type(feature).__name__.lower()}"
                    if name in taken:
                        raise UsageError(f"two columns are named {name!r}. Rename the channel, action or attribute.")
                    taken[name] = meaning
                    names.append(name)
                ops.append(replace(op, names=tuple(names)))
        return tuple(ops)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(name for op in self.ops for name in op.names)

    @cached_property
    def about(self) -> tuple[About, ...]:
        """What each column is about, in their order."""
        return tuple(about for op in self.ops for about in op.about(self.vocabulary))

    @cached_property
    def stand_in(self) -> Codes:
        """(F,) the column of the lead's age for days since a touch that may never have come; -1 for all others."""
        age = next((column for column, about in enumerate(self.about) if about.sort == "age"), -1)
        return np.array([age if op.since else -1 for op in self.ops for _ in op.names], np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of what is computed: equal fingerprints mean equal columns."""
        return "sha256:" + hashlib.sha256(self.to_json().encode()).hexdigest()

    def compute(
        self, dataset: Dataset, cohort: Cohort, out: Matrix | None = None, without: Without | None = None
    ) -> Matrix:
        """Returns the (n, F) float32 matrix of a cohort's features; nothing at or after as_of is seen.

        `without` leaves touches or attributes out of what each row sees; `out` takes the result instead of
        fresh memory. Raises UsageError if it does not fit, or if the cohort asks about a lead that the dataset does
        not have.
        """
        from features.aggregates import run

        shape = (len(cohort), len(self.names))
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.carray:
            raise UsageError(
                f"out must be a writable C-contiguous float32 array of shape {shape}; got {out.dtype} {out.shape}."
            )
        # Another layout of the arrays would make numba compile the kernel anew, for seconds.
        cohort = Cohort(_laid_out(cohort.lead), _laid_out(cohort.as_of))
        # The kernel does not check its indices.
        if not are_below(cohort.lead, len(dataset)):
            raise UsageError(
                f"the cohort asks about leads {cohort.lead.min()} to {cohort.lead.max()}, but the dataset has "
                f"{len(dataset)}. Use a cohort of this dataset: known_at numbers its leads anew."
            )
        program = self._program
        history, attributes = dataset.history, dataset.attributes
        slots, columns = self._slots(history), self._columns(attributes)

        def work(cohort: Cohort, without: Without, out: Matrix) -> None:
            start, stop = history.slices(cohort)
            run(
                program.ops, program.parameters, program.start, program.room, slots, *columns,
                start, stop, cohort.lead, cohort.as_of, without.kind, without.attribute, dataset.created_at,
                history.at, history.known, history.hidden, history.kind, history.value,
                attributes.cells, attributes.offsets, attributes.at, attributes.known, attributes.column,
                attributes.value, out,
            )  # fmt: skip

        without = without or _NOTHING
        if len(cohort) < _MANY:
            work(cohort, without, out)
            return out

        def part(begin: int) -> None:
            rows = slice(begin, begin + _MANY)
            work(cohort[rows], Without(without.kind[rows], without.attribute[rows]), out[rows])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(part, range(0, len(cohort), _MANY)))
        return out

    def to_json(self) -> str:
        """Writes declarations and vocabulary as JSON; `from_json` reads it."""
        document = {
            "features": [feature.to_dict() for feature in self.features],
            "groups": {"+".join(by): list(names) for by, names in self.vocabulary.groups.items()},
            "attributes": [
                {"name": name, "reading": list(reading) if isinstance(reading, tuple) else reading}
                for name, reading in self.vocabulary.attributes.items()
            ],
            "names": list(self.names),
        }
        return json.dumps(document, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote and checks that the columns still have the same names."""
        from features.aggregates import FEATURES

        try:
            document = json.loads(text)
            features = []
            for entry in document["features"]:
                entry = {key: _tuples(value) for key, value in entry.items()}
                kind = entry.pop("feature")
                if kind not in FEATURES:
                    raise ModelError(
                        f"the kind of feature {kind!r} is not known. Use the version that wrote the model."
                    )
                features.append(FEATURES[kind](**entry))
            groups = {tuple(by.split("+")): tuple(names) for by, names in document["groups"].items()}
            attributes = {entry["name"]: _as_reading(entry["reading"]) for entry in document["attributes"]}
            self = cls(tuple(features), Vocabulary(groups, attributes))
            written, names = tuple(document["names"]), self.names
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, UsageError) as problem:
            raise ModelError(f"not a feature set: {problem!r}. It was written by another version or changed.") from None
        if names != written:
            first = next((f"{b!r}, now {a!r}" for a, b in zip(names, written, strict=False) if a != b), "their number")
            raise ModelError(f"the features differ from those the model was trained on, first at {first}.")
        return self

    @cached_property
    def _program(self) -> _Program:
        return _Program.compile(self.ops, self.vocabulary)

    def _slots(self, history: History) -> Codes:
        """Returns (groupings, kinds): the group of each kind the history knows, for each grouping of the program.

        Where only some kinds are looked at, it is the sum of 1, 2, 4, ... for each of them that it is, less 1.
        """

        def find() -> Codes:
            found = np.zeros((len(self._program.groupings), len(history.kinds)), np.int32)
            for row, (by, of) in enumerate(self._program.groupings):
                if by:
                    names = self.vocabulary.groups[by]
                    place = {name: i for i, name in enumerate(names)}
                    found[row] = [place.get(group_name(kind, by), len(names)) for kind in history.kinds]
                elif of:
                    named = [(kind.name, kind.action, kind.channel) for kind in history.kinds]
                    found[row] = [sum(1 << i for i, name in enumerate(of) if name in mine) - 1 for mine in named]
            return found

        slots: Codes = self._remembered((history.kinds,), len(history.kinds), find)
        return slots

    def _columns(self, attributes: Attributes) -> tuple[Ints, Floats]:
        """Returns, for each attribute the program reads, (attributes, 4) how to read it, and the tables to read by.

        How: its column (-1: absent), `_AS_IS`, `_BY_CODE`, `_BY_NUMBER` or `_NEVER`, and where its table begins and
        ends. By code, a cell is a place in the table; by number, the cell's place among the table's entries is meant.
        """

        def find() -> tuple[Ints, Floats]:
            how, tables, size = [], [np.empty(0)], 0
            for name, reading in self._program.attributes:
                column = attributes.names.index(name) if name in attributes.names else -1
                mode, table = _AS_IS, np.empty(0)
                if column >= 0:
                    mode, table = _translation(attributes.words[column], reading)
                if mode == _NEVER:
                    column = -1
                how.append((column, mode, size, size + len(table)))
                tables.append(table)
                size += len(table)
            return np.array(how, np.int64).reshape(-1, 4), np.concatenate(tables)

        distinct = sum(len(words) for words in attributes.words if words is not None)
        columns: tuple[Ints, Floats] = self._remembered((attributes.names, attributes.words), distinct, find)
        return columns

    @cached_property
    def _cache(self) -> dict[Any, Any]:
        return {}

    def _remembered(self, key: tuple[Any, ...], size: int, find: Callable[[], Any]) -> Any:
        """Keeps what was found for a key: small keys by value, as requests bring them; a large one while it stays."""
        if size <= 64:
            found = self._cache.get(key)
            if found is None:
                if len(self._cache) >= 1024:
                    self._cache.clear()
                found = self._cache[key] = find()
            return found
        held = self._cache.get(len(key))
        if held is None or any(mine is not its for mine, its in zip(key, held[0], strict=True)):
            held = self._cache[len(key)] = (key, find())
        return held[1]


@dataclass(frozen=True)
class _Program:
    """Operations as the arrays the kernel reads."""

    ops: Ints
    """(ops, 6): code, first column, number of groups, row of `slots` or of `attributes`, parameters from, to."""
    parameters: Floats
    start: Floats
    """(F,) the row of a lead without a touch."""
    room: int
    """Numbers an operation may need to work with."""
    groupings: tuple[Grouping, ...]
    attributes: tuple[tuple[str, Reading], ...]

    @classmethod
    def compile(cls, ops: Sequence[Op], vocabulary: Vocabulary) -> Self:
        groupings = tuple(dict.fromkeys(op.grouping for op in ops if not op.attribute))
        attributes = tuple((op.attribute, op.reading) for op in ops if op.attribute)
        widths = [len(vocabulary.groups[by]) + 1 if by else max(1, len(of)) for by, of in groupings]
        rows: list[tuple[int, ...]] = []
        parameters: list[float] = []
        start: list[float] = []
        seen = 0
        for op in ops:
            source = seen if op.attribute else groupings.index(op.grouping)
            width = len(op.names) if op.attribute else widths[source]
            seen += bool(op.attribute)
            rows.append((op.code, len(start), width, source, len(parameters), len(parameters) + len(op.parameters)))
            parameters.extend(op.parameters)
            start.extend([op.start] * len(op.names))
        return cls(
            np.array(rows, np.int64).reshape(-1, 6),
            np.array(parameters, np.float64),
            np.array(start, np.float64),
            max((width * max(3, stop - begin) for _, _, width, _, begin, stop in rows), default=0),
            groupings,
            attributes,
        )


def _laid_out(column: Ints) -> Ints:
    """A column as the kernel takes it."""
    if column.dtype == np.int64 and column.flags.carray:
        return column
    return np.require(column, np.int64, ("C", "W"))


def _frequent(kinds: Sequence[Kind], counts: Ints, by: By, limit: int) -> tuple[str, ...]:
    totals: dict[str, int] = {}
    for kind, count in zip(kinds, counts.tolist(), strict=True):
        if count:
            name = group_name(kind, by)
            totals[name] = totals.get(name, 0) + count
    ranked = sorted((name for name in totals if name != OTHER), key=lambda name: (-totals[name], name))
    return tuple(sorted(ranked[:limit]))


def _is_known(attributes: Attributes, column: int) -> bool:
    facts = attributes.value[attributes.column == column]
    return not (np.isnan(attributes.cells[:, column]).all() and np.isnan(facts).all())


def _reading(attributes: Attributes, column: int, limit: int) -> Reading:
    """How an attribute is to be read, after all its values in training."""
    words = attributes.words[column]
    if words is None:
        return "number"
    codes = np.concatenate([attributes.cells[:, column], attributes.value[attributes.column == column]])
    counts = np.bincount(codes[~np.isnan(codes)].astype(np.int64), minlength=len(words)).tolist()
    total = {word: count for word, count in zip(words, counts, strict=True) if count}
    for reading, reads in _READS.items():
        if not any(np.isnan(reads(word)) for word in total):
            return reading
    ranked = sorted(total, key=lambda word: (-total[word], word))
    return tuple(sorted(ranked[:limit]))


def _as_reading(value: Any) -> Reading:
    """A reading as JSON holds it."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    if isinstance(value, str) and value in _READS:
        return value
    raise ValueError(f"no attribute is read as {value!r}")


def _flag(word: str) -> float:
    # A number is what it is whatever else its column holds, so 1 and 0 are flags among words too.
    return {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}.get(word, np.nan)


_READS: dict[Literal["number", "flag", "date"], Callable[[str], float]] = {
    "number": word_number,
    "flag": _flag,
    "date": word_date,
}


def _translation(source: tuple[str, ...] | None, reading: Reading) -> tuple[int, Floats]:
    """How a column's cells (codes of `source` words, or numbers) become what the model reads."""
    if isinstance(reading, tuple):
        if source is None:
            return _BY_NUMBER, np.array([word_number(word) for word in reading], np.float64)
        place = {word: float(i) for i, word in enumerate(reading)}
        return _BY_CODE, np.array([place.get(word, float(len(reading))) for word in source], np.float64)
    if source is None:
        return (_NEVER, np.empty(0)) if reading == "date" else (_AS_IS, np.empty(0))
    return _BY_CODE, np.array([_READS[reading](word) for word in source], np.float64)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
