"""Why a score moved: its change between two instants, split into what passed, what became known, and another model.

The score is computed again and again on the way from the first instant to the second, one thing after another:

1. *cooling*: nothing new, only later. It is what a forecast at the first instant said of the second;
2. *attributes*, each of which facts became known, in the order in which they did;
3. *touches*, kind by kind, in the order in which the first of each became known. What occurred before the first instant
   but was recorded, or linked to the lead, after it is new too, and so is that a touch no longer counts;
4. the *model*: what the one that serves at the second instant says of the same knowledge.

Each part is the difference of two probabilities that follow each other, so that they add up to the whole exactly. As
in every such split a part depends on what went before it; the order never changes, so that two splits can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from features.errors import UsageError
from features.history import Bools, Codes, Cohort, Dataset, Floats, Ints, Kind
from features.times import NEVER, US_PER_DAY, Time, isoformat, to_us
from models.points import Point, check_created, known_of, points
from models.scorer import Scorer
from models.words import cell_word, counted, percents, plain

Cause: TypeAlias = Literal["cooling", "attribute", "touches", "model"]

_ROOM = 1 << 20
"""Touches that are held at once: the history is there once for each thing that is new."""
_HOUR = US_PER_DAY // 24


class Part(NamedTuple):
    """What one thing did to a score."""

    cause: Cause
    name: str
    """Of the attribute, or the kind of touch; else empty."""
    number: int
    """How many touches, or facts of the attribute, became known or no longer count; else 0."""
    text: str
    effect: float
    """The probability after it less that before it."""


@dataclass(frozen=True)
class Changes:
    """A score at two instants, and the parts its change is made of, in the order of the split.

    >>> cooled = Part("cooling", "", 0, "7 days without anything new: 31 % before, 28 % after", -0.03)
    >>> Changes(Point(0, 0.31, 87, "hot"), Point(604_800_000_000, 0.28, 85, "warm"), (cooled,)).parts[0].effect
    -0.03
    """

    before: Point
    after: Point
    parts: tuple[Part, ...]


class _New(NamedTuple):
    """Something that became known, with how many rows of the history or of the attributes."""

    cause: Cause
    name: str
    number: int
    says: str


def changes(
    scorer: Scorer, dataset: Dataset, lead: int, since: Time, as_of: Time, then: Scorer | None = None
) -> Changes:
    """Splits the change of a lead's score between two instants; `then` is the model at `since`, if it was another.

    Raises UsageError unless the lead was created before `since`, and `since` is before `as_of`.
    """
    begin, end = to_us(since), to_us(as_of)
    if begin >= end:
        raise UsageError(
            f"since={isoformat(begin)} is not before as_of={isoformat(end)}. Ask about a change since an earlier time."
        )
    check_created(dataset, lead, begin)
    known = known_of(dataset, lead, end)
    first = then or scorer
    new, step = _news(known, begin)
    path = _path(first, known, step, len(new), begin, end).tolist()
    news = [_New("cooling", "", 0, f"{_span(end - begin)} without anything new"), *new]
    before, after = points(first, known, Cohort.at([0], begin))[0], points(scorer, known, Cohort.at([0], end))[0]
    if first.card.version != scorer.card.version or path[-1] != after.probability:
        news.append(_New("model", "", 0, f"model {scorer.card.version} instead of {first.card.version}"))
        path.append(after.probability)
    return Changes(
        before,
        after,
        tuple(
            Part(one.cause, one.name, one.number, f"{one.says}: {_moved(p, q)}", q - p)
            for one, (p, q) in zip(news, pairwise(path), strict=True)
        ),
    )


class _Steps(NamedTuple):
    """The number of the thing that each touch and each fact belongs to, from 1; 0 for what is not new."""

    touch: Ints
    fact: Ints
    gone: Bools
    """Whether what is new of a touch is that it no longer counts."""


def _news(known: Dataset, since: int) -> tuple[list[_New], _Steps]:
    """What became known from `since` on, in the order of the split."""
    history, attributes = known.history, known.attributes
    when, gone = history.known, np.zeros(len(history), np.bool_)
    if len(history.hidden):
        gone = (when < since) & (history.hidden >= since) & (history.hidden < NEVER)
        # What came and no longer counts, all since, is no news.
        when = np.where(history.hidden == NEVER, when, np.where(gone, history.hidden, -NEVER))
    kinds, touch_step = _steps(history.kind, when, since)
    columns, fact_step = _steps(attributes.column, attributes.known, since)
    touch_step[touch_step > 0] += len(columns)
    new = []
    for column in columns:
        facts = int((fact_step[attributes.column == column] > 0).sum())
        new.append(_New("attribute", attributes.names[column], facts, _restated(known, column, fact_step)))
    for step, kind in enumerate(kinds, 1 + len(columns)):
        mine = touch_step == step
        came, left = history.at[mine & ~gone], int((mine & gone).sum())
        says = _came_and_left(history.kinds[kind], len(came), int((came < since).sum()), left)
        new.append(_New("touches", history.kinds[kind].name, len(came) + left, says))
    return new, _Steps(touch_step, fact_step, gone)


def _came_and_left(kind: Kind, came: int, older: int, left: int) -> str:
    """What happened to the touches of a kind, in words."""
    says = f"{counted(came, kind)} came in" if came else ""
    if older:
        says += f", {f'{older:,} of them ' if older < came else ''}from earlier"
    if left:
        says += f"{'; ' if came else ''}{counted(left, kind)} no longer count{'s' if left == 1 else ''}"
    return says


def _steps(code: Codes, known: Ints, since: int) -> tuple[list[int], Ints]:
    """The codes of which rows are new, the first known first, and (n,) the place of each new row's code from 1."""
    new = np.flatnonzero(known >= since)
    order = list(dict.fromkeys(code[new[np.lexsort((code[new], known[new]))]].tolist()))
    step = np.zeros(len(code), np.int64)
    for place, one in enumerate(order, 1):
        step[new[code[new] == one]] = place
    return order, step


def _path(scorer: Scorer, known: Dataset, new: _Steps, steps: int, since: int, as_of: int) -> Floats:
    """Returns (steps + 2,) probabilities: as of `since`, and as of `as_of` with nothing new, the first new thing, ...

    In each row the history is there once more, and what does not count yet is never known in it.
    """
    step = np.append(0, np.arange(steps + 1))
    instant = np.full(steps + 2, as_of)
    instant[0] = since
    room, out = max(1, _ROOM // (len(known.history) + 1)), np.empty(steps + 2)
    for begin in range(0, steps + 2, room):
        here = step[begin : begin + room, None]
        copies = known.take(np.zeros(len(here), np.int64))
        history, attributes = copies.history, copies.attributes
        touches_wait, facts_wait = new.touch > here, new.fact > here
        history = replace(history, known=_never(touches_wait & ~new.gone, known.history.known))
        if len(history.hidden):
            history = replace(history, hidden=_never(touches_wait & new.gone, known.history.hidden))
        attributes = replace(attributes, known=_never(facts_wait, known.attributes.known))
        cohort = Cohort.at(np.arange(len(here)), instant[begin : begin + room])
        out[begin : begin + room] = scorer.predict(replace(copies, history=history, attributes=attributes), cohort)
    return out


def _never(waits: Bools, times: Ints) -> Ints:
    """The times of all rows below each other, NEVER where they still wait."""
    return np.where(waits, NEVER, times).ravel()


def _restated(known: Dataset, column: int, fact_step: Ints) -> str:
    """What became of an attribute, in words."""
    attributes = known.attributes
    cells, mine = attributes.cells[0, column], attributes.column == column
    # Facts stand in order of time, so the last one counts.
    was = np.append(cells, attributes.value[mine & (fact_step == 0)])[-1]
    now = np.append(cells, attributes.value[mine])[-1]
    name = plain(attributes.names[column])
    if np.isnan(now):
        return f"{name} not known" if np.isnan(was) else f"{name} no longer known"
    word = cell_word(attributes, column, now)
    if np.isnan(was):
        return f"{name} {word} became known"
    return (
        f"{name} {word} as before" if was == now else f"{name} {word} instead of {cell_word(attributes, column, was)}"
    )


def _moved(before: float, after: float) -> str:
    ((was, now),) = percents(np.array([before]), np.array([after]))
    return f"{was} before and after" if before == after else f"{was} before, {now} after"


def _span(us: int) -> str:
    """A span of time in whole days or hours.

    >>> _span(12 * US_PER_DAY), _span(US_PER_DAY), _span(5 * _HOUR), _span(1)
    ('12 days', '1 day', '5 hours', 'less than an hour')
    """
    for unit, name in ((US_PER_DAY, "day"), (_HOUR, "hour")):
        if us >= unit:
            return f"{us // unit:,} {name}{'s' if us >= 2 * unit else ''}"
    return "less than an hour"
