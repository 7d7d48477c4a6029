"""Why a score is what it is: what it would be without one kind of touch, or without one attribute.

A score is a function of the history, so "without the webinar it would be 13 %" is that function called once more. What
is said of a lead is thereby true of the model, and on the ground of histories as they occur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit

from features.feature import FeatureSet, Without
from features.history import Codes, Cohort, Dataset, Floats, Ints
from features.times import US_PER_DAY
from models.model import logit
from models.words import cell_word, counted, percents, plain

_RECENT = 30 * US_PER_DAY


class Reason(NamedTuple):
    """What one kind of touch, or one attribute, does to a lead's score."""

    text: str
    effect: float
    """The probability less what it would be without."""
    without: float
    """What the probability would be without."""


class _Parts(NamedTuple):
    """What the scores of a cohort rest on, one entry for each row's kinds of touches and attributes."""

    row: Ints
    kind: Codes
    """-1 where it is an attribute."""
    attribute: Codes
    touches: Ints
    """Touches of the kind."""
    recent: Ints
    """Those of the last 30 days."""
    last: Ints
    """Microseconds from the last of them to as_of."""
    value: Floats
    """The attribute's cell."""


def find_reasons(
    features: FeatureSet,
    predict: Callable[[Cohort, Without], Floats],
    dataset: Dataset,
    cohort: Cohort,
    probability: Floats,
    count: int,
    values: bool = True,
) -> list[tuple[Reason, ...]]:
    """Returns, for each row of a cohort, up to `count` reasons, the one that moves the log-odds most first.

    `probability` (n,) is what is to be explained, and `predict` gives it for other rows of the dataset, less what each
    is without. What changes nothing is no reason. Without `values` an attribute is named, and what it is of the lead is
    not told.
    """
    parts = _parts(features, dataset, cohort)
    without = predict(cohort[parts.row], Without(parts.kind, parts.attribute))
    moved = np.abs(logit(probability[parts.row]) - logit(without))
    order = np.lexsort((np.arange(len(moved)), -moved, parts.row))
    place = np.arange(len(order)) - np.searchsorted(parts.row[order], parts.row[order])
    told = order[(place < count) & (moved[order] > 0)]
    chosen = _Parts._make(column[told] for column in parts)
    now, then = probability[chosen.row], without[told]
    columns = (_texts(dataset, chosen, values), percents(now, then), (now - then).tolist(), then.tolist())
    reasons = [
        Reason(f"{what}: {with_it} with, {without_it} without", effect, then)
        for what, (with_it, without_it), effect, then in zip(*columns, strict=True)
    ]
    ends = np.searchsorted(chosen.row, np.arange(len(cohort) + 1)).tolist()
    return [tuple(reasons[start:stop]) for start, stop in pairwise(ends)]


def _parts(features: FeatureSet, dataset: Dataset, cohort: Cohort) -> _Parts:
    history, attributes = dataset.history, dataset.attributes
    start, stop = history.slices(cohort)
    row, kind, count, recent, last = _touched(
        start, stop, cohort.as_of, history.at, history.known, history.hidden, history.kind, len(history.kinds)
    )
    used = [column for column, name in enumerate(attributes.names) if any(op.attribute == name for op in features.ops)]
    stated, column, value = _stated(
        np.array(used, np.int64), cohort.lead, cohort.as_of, dataset.created_at, attributes.cells, attributes.offsets,
        attributes.at, attributes.known, attributes.column, attributes.value,
    )  # fmt: skip
    none, no_touch = np.full(len(stated), -1, np.int32), np.zeros(len(stated), np.int64)
    return _Parts(
        np.concatenate([row, stated]),
        np.concatenate([kind, none]),
        np.concatenate([np.full(len(row), -1, np.int32), column]),
        np.concatenate([count, no_touch]),
        np.concatenate([recent, no_touch]),
        np.concatenate([last, no_touch]),
        np.concatenate([np.full(len(row), np.nan), value]),
    )


def _texts(dataset: Dataset, parts: _Parts, values: bool) -> Iterator[str]:
    """What each part is, in words."""
    attributes, kinds = dataset.attributes, dataset.history.kinds
    # What the words do not tell is the same for all, so that the same words are put together once.
    days = np.where(parts.recent > 0, 0, parts.last // US_PER_DAY)
    columns = (parts.kind, parts.attribute, parts.touches, parts.recent, days)
    touched: dict[tuple[int, int, int, int], str] = {}
    for kind, column, count, recent, ago, cell in zip(
        *(e.tolist() for e in columns), parts.value.tolist(), strict=True
    ):
        if kind < 0:
            name = plain(attributes.names[column])
            yield f"{name} {cell_word(attributes, column, cell)}" if values else name
            continue
        key = kind, count, recent, ago
        if key not in touched:
            touched[key] = _touches(counted(count, kinds[kind]), count, recent, ago)
        yield touched[key]


def _touches(what: str, count: int, recent: int, ago: int) -> str:
    if recent == count:
        return f"{what} in the last 30 days"
    if recent:
        return f"{what}, {recent:,} of them in the last 30 days"
    return f"{what}, {'the last ' if count > 1 else ''}{ago:,} days ago"


@njit(cache=True, nogil=True)
def _touched(
    start: Ints, stop: Ints, as_of: Ints, at: Ints, known: Ints, hidden: Ints, kind: Codes, kinds: int
) -> tuple[Ints, Codes, Ints, Ints, Ints]:
    """Returns, for each row and each kind it sees a touch of, (row, kind, touches, recent ones, age of the last)."""
    counts, recent, last = np.zeros(kinds, np.int64), np.zeros(kinds, np.int64), np.zeros(kinds, np.int64)
    total = 0
    for r in range(len(start)):
        total += min(stop[r] - start[r], kinds)
    rows, what = np.empty(total, np.int64), np.empty(total, np.int32)
    many, lately, ages = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int64)
    n = 0
    for r in range(len(start)):
        for i in range(start[r], stop[r]):
            if known[i] < as_of[r] and not (len(hidden) and hidden[i] < as_of[r]):
                counts[kind[i]] += 1
                last[kind[i]] = as_of[r] - at[i]
                recent[kind[i]] += last[kind[i]] <= _RECENT
        # Latest kinds first, each once.
        for i in range(stop[r] - 1, start[r] - 1, -1):
            k = kind[i]
            if counts[k] > 0:
                rows[n], what[n], many[n], lately[n], ages[n] = r, k, counts[k], recent[k], last[k]
                n += 1
                counts[k], recent[k] = 0, 0
    return rows[:n], what[:n], many[:n], lately[:n], ages[:n]


@njit(cache=True, nogil=True)
def _stated(
    used: Ints, lead: Ints, as_of: Ints, created_at: Ints, cells: Floats, offsets: Ints, at: Ints, known: Ints,
    column: Codes, value: Floats,
) -> tuple[Ints, Codes, Floats]:  # fmt: skip
    """Returns, for each row and each attribute in use whose value is known, (row, attribute, cell)."""
    rows, which = np.empty(len(lead) * len(used), np.int64), np.empty(len(lead) * len(used), np.int32)
    found = np.empty(len(lead) * len(used))
    mine = np.empty(cells.shape[1])
    n = 0
    for r in range(len(lead)):
        who = lead[r]
        if created_at[who] < as_of[r]:
            mine[:] = cells[who]
        else:
            mine[:] = np.nan
        for f in range(offsets[who], offsets[who + 1]):
            if at[f] < as_of[r] and known[f] < as_of[r]:
                mine[column[f]] = value[f]
        for c in used:
            if not np.isnan(mine[c]):
                rows[n], which[n], found[n] = r, c, mine[c]
                n += 1
    return rows[:n], which[:n], found[:n]
