"""Whether the leads that are open now are like those a model learned from, beyond what chance does.

The population stability index (PSI, the symmetric Kullback-Leibler divergence of two histograms) passes its customary
limits by chance where leads are few, so the limit has to come from the data. Many leads are open at both instants:
whole leads change places. Those open at both swap their two rows, the others are dealt out anew. One limit for all
columns, on the scale of what chance does to each, keeps the probability of any false alarm at 5 % (Westfall and
Young, 1993).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from features.aggregates import Age, Attributes, Count
from features.definitions import KIND
from features.feature import Feature, FeatureSet
from features.history import Dataset, Floats, Ints, Matrix
from features.times import US_PER_DAY
from models import Scorer

_WINDOW = 30
WATCHED: tuple[Feature, ...] = (Age(), Count(days=(_WINDOW,)), Count(by=KIND, days=(_WINDOW,)), Attributes())
"""What leads are compared by: what is known of them, in terms that can be told."""
_OLDEST = 0.99
"""The share of the leads open at training time that are no older than the oldest ones compared."""
_DRAWS = 499
_ALARM = 0.05


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How one input, or the probability, has changed."""

    name: str
    psi: float
    limit: float
    """The PSI that chance seldom passes."""
    drifted: bool
    says: str
    """The change in words."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The open leads of now beside those of training time."""

    then: int
    now: int
    max_age_days: float
    """Older leads are left out of both."""
    probability: Drift
    inputs: tuple[Drift, ...]
    """The most drifted first."""


class _Column(NamedTuple):
    """One thing that leads are compared by; the leads of now stand behind those of then."""

    name: str
    value: Floats
    """(n,) numbers, or places among the words."""
    words: tuple[str, ...]
    bin: Ints
    """(n,) of numbers the tenth of all they lie in, with one more bin for what is missing."""


def compare(scorer: Scorer, dataset: Dataset, learned: int, until: int, seed: int) -> Comparison | None:
    """Compares the leads open at `until` with those open at `learned`, each as known then; None if there are none.

    A dataset that begins some day holds no old leads at first, and ever older ones later, though nothing has changed:
    only ages that training knew are compared.
    """
    then, now = dataset.known_at(learned), dataset.known_at(until)
    asked = then.open_at(learned)
    if not len(asked):
        return None
    oldest = float(np.quantile(learned - then.created_at[asked.lead], _OLDEST)) / US_PER_DAY
    looks = FeatureSet.fit(WATCHED, then)
    parts = [(then, then.open_at(learned, oldest)), (now, now.open_at(until, oldest))]
    if not all(len(cohort) for _, cohort in parts):
        return None
    matrix = np.concatenate([looks.compute(known, cohort) for known, cohort in parts])
    probability = np.concatenate([scorer.predict(known, cohort) for known, cohort in parts])
    columns = [_numbers("probability", probability), *_columns(looks, matrix)]
    before, after = (np.flatnonzero(dataset.created_at < cohort.as_of[0])[cohort.lead] for _, cohort in parts)
    first, *others = _judge(columns, before, after, np.random.default_rng(seed))
    return Comparison(
        then=len(before),
        now=len(after),
        max_age_days=oldest,
        probability=first,
        inputs=tuple(sorted(others, key=lambda drift: (-drift.drifted, -drift.psi))),
    )


def _columns(looks: FeatureSet, matrix: Matrix) -> Iterator[_Column]:
    begin = 0
    for op in looks.ops:
        part = matrix[:, begin : begin + len(op.names)].astype(np.float64)
        begin += len(op.names)
        name = op.attribute.replace("_", " ")
        if isinstance(op.reading, tuple):
            yield _words(name, part.argmax(axis=1), (*op.reading, "another", "missing"))
        elif op.reading == "flag":
            yield _words(name, np.nan_to_num(part[:, 0], nan=2), ("false", "true", "missing"))
        elif op.attribute:
            yield _numbers(f"days since {name}" if op.reading == "date" else name, part[:, 0])
        else:
            yield from (_numbers(_said(column), part[:, k]) for k, column in enumerate(op.names))


def _said(column: str) -> str:
    """A column of touches in words."""
    what = column.removesuffix(f"_count_{_WINDOW}d").replace("_", " ")
    told = {"age days": "age in days", "touch": "touches", "other": "kinds not seen in training"}.get(what, what)
    return told if what == "age days" else f"{told} in the last {_WINDOW} days"


def _words(name: str, place: Floats | Ints, words: tuple[str, ...]) -> _Column:
    return _Column(name, place.astype(np.float64), words, place.astype(np.int64))


def _numbers(name: str, value: Floats) -> _Column:
    there = value[~np.isnan(value)]
    edges = np.unique(np.quantile(there, np.arange(1, 10) / 10)) if len(there) else there
    found = np.searchsorted(edges, value, side="left")
    return _Column(name, value, (), np.where(np.isnan(value), len(edges) + 1, found))


def _judge(columns: list[_Column], then: Ints, now: Ints, rng: np.random.Generator) -> list[Drift]:
    """Holds the PSI of each column to what it is when whole leads change places."""
    widths = [int(column.bin.max()) + 1 for column in columns]
    starts = np.cumsum([0, *widths[:-1]])
    bins = np.zeros((len(then) + len(now), sum(widths)), np.float32)
    for start, column in zip(starts, columns, strict=True):
        bins[np.arange(len(bins)), start + column.bin] = 1
    count = np.array([first @ bins for first in _deals(then, now, rng)], np.float64)
    # Half a lead in each bin keeps an empty one finite.
    room = np.repeat(widths, widths) / 2
    before, after = (count + 0.5) / (len(then) + room), (bins.sum(axis=0) - count + 0.5) / (len(now) + room)
    terms = (after - before) * np.log(after / before)
    found = np.add.reduceat(terms, starts, axis=1)
    mean, deviation = found[1:].mean(axis=0), np.maximum(found[1:].std(axis=0), 1e-12)
    # A column of one bin never changes.
    highest = ((found[1:] - mean) / deviation).max(axis=1)
    limit = mean + np.quantile(highest, 1 - _ALARM, method="higher") * deviation
    worst = [int(terms[0, start : start + width].argmax()) for start, width in zip(starts, widths, strict=True)]
    return [
        Drift(
            name=column.name, psi=float(found[0, k]), limit=float(limit[k]), drifted=bool(found[0, k] > limit[k]),
            says=_says(column, len(then), worst[k]),
        )
        for k, column in enumerate(columns)
    ]  # fmt: skip


def _deals(then: Ints, now: Ints, rng: np.random.Generator) -> Iterator[Matrix]:
    """Yields (n,) which rows are of then: first as they are, and then as chance deals them out."""
    first = np.repeat([1.0, 0.0], [len(then), len(now)]).astype(np.float32)
    yield first
    _, early, late = np.intersect1d(then, now, assume_unique=True, return_indices=True)
    late += len(then)
    alone = np.setdiff1d(np.arange(len(first)), np.concatenate([early, late]))
    for _ in range(_DRAWS):
        dealt = first.copy()
        dealt[alone] = rng.permutation(first[alone])
        dealt[early] = rng.integers(2, size=len(early))
        dealt[late] = 1 - dealt[early]
        yield dealt


def _says(column: _Column, then: int, worst: int) -> str:
    """The change in words; `worst` is the bin that has changed most."""
    parts = column.value[:then], column.value[then:]
    if column.words:
        before, after = (f"{np.mean(part == worst):.1%}" for part in parts)
        return f"{column.name}: {column.words[worst]} for {before} then, {after} now"
    there = [part[~np.isnan(part)] for part in parts]
    missing = np.isnan(column.value[column.bin == worst]).any()
    if missing or not all(len(part) for part in there):
        before, after = (f"{len(mine) / len(part):.1%}" for mine, part in zip(there, parts, strict=True))
        return f"{column.name}: known for {before} then, {after} now"
    means = [float(part.mean()) for part in there]
    told = f"{column.name}: mean {_number(means[0])} then, {_number(means[1])} now"
    if abs(means[0] - means[1]) > 0.1 * max(map(abs, means)):
        return told
    among = column.value[column.bin == worst]
    before, after = (f"{np.mean(part == worst):.1%}" for part in (column.bin[:then], column.bin[then:]))
    return f"{told}, but {_number(among.min())} to {_number(among.max())} for {before} then, {after} now"


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2g}"
