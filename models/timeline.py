"""What became known of a lead, one thing after another, with the score right after each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.history import Cohort, Dataset, Kind
from features.times import NEVER, Time, to_us
from models.points import Point, known_of, points
from models.scorer import Scorer
from models.words import cell_word, plain


class Event(NamedTuple):
    """A touch, or a fact of an attribute.

    >>> Event("web", 0, known_at=5, kind=Kind("web"), value=None, attribute=None, cell=None, after=None).known_at
    5
    """

    text: str
    occurred_at: int
    """Microseconds, as all its times."""
    known_at: int
    """From when on it could be known: the later of occurred, recorded, and linked to the lead."""
    kind: Kind | None
    """What touch it was; None for a fact."""
    value: float | None
    """Of the touch."""
    attribute: str | None
    """Which attribute it is of; None for a touch."""
    cell: str | None
    """What the attribute is from then on; None if that is not known."""
    after: Point | None
    """The score a microsecond after it became known; None where the lead was created later."""


def timeline(
    scorer: Scorer, dataset: Dataset, lead: int, as_of: Time, limit: int = 100, skip: int = 0
) -> tuple[list[Event], int]:
    """Returns a page of the events that were known at `as_of`, the last known first, and how many there are in all.

    Of touches that are one, or that a machine made, those are listed that count at `as_of`. Raises UsageError unless
    the lead was created before `as_of`.
    """
    known = known_of(dataset, lead, to_us(as_of))
    history, attributes = known.history, known.attributes
    touches, facts = len(history), len(attributes.at)
    at, since = np.concatenate([history.at, attributes.at]), np.concatenate([history.known, attributes.known])
    order = np.lexsort((np.arange(touches + facts), at, since))[::-1]
    if len(history.hidden):
        order = order[np.append(history.hidden == NEVER, np.ones(facts, np.bool_))[order]]
    page = order[skip : skip + limit]
    born = known.created_at[0] <= since[page]
    after = iter(points(scorer, known, Cohort.at(np.zeros(int(born.sum())), since[page[born]] + 1)))
    events = []
    for row, scored in zip(page.tolist(), born.tolist(), strict=True):
        point = next(after) if scored else None
        when = int(at[row]), int(since[row])
        if row < touches:
            kind, value = history.kinds[history.kind[row]], float(history.value[row])
            worth = None if np.isnan(value) else value
            events.append(Event(plain(kind.name), *when, kind, worth, None, None, point))
        else:
            column, number = int(attributes.column[row - touches]), float(attributes.value[row - touches])
            name = attributes.names[column]
            cell = None if np.isnan(number) else cell_word(attributes, column, number)
            says = f"{plain(name)} {'not known' if cell is None else cell}"
            events.append(Event(says, *when, None, None, name, cell, point))
    return events, len(order)
