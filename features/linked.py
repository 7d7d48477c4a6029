"""Histories of leads that came to be known under several ids.

A link passes the touches of one id on to another lead. From then on the lead has what one id would have had to which
all of it happened; until then it has what it had. Mostly a link only adds. But which of two copies counts, and which
click a machine made, hangs on what else there is: a link may bring the copy that was known earlier, or the delivery
that a click followed at once. What it takes away is hidden from then on, and no earlier score changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.history import AUTOMATED, Bools, Codes, Floats, History, Ints, Kind
from features.times import NEVER
from features.touchpoints import mail_steps


def linked_history(
    leads: int,
    lead: Codes,
    at: Ints,
    known: Ints,
    kind: Codes,
    value: Floats,
    kinds: Sequence[Kind],
    message: Codes | None,
    dated: Bools | None,
    since: Ints,
) -> History:
    """Does what `History.build` does, for touches that count for their lead only `since` an instant; -NEVER: always.

    As of any instant a lead has what `build` would make of the touches that count for it by then.
    """
    message = np.full(len(lead), -1, np.int32) if message is None else message
    dated = np.zeros(len(lead), np.bool_) if dated is None else dated
    linked = np.zeros(leads, np.bool_)
    linked[lead[since > -NEVER]] = True
    whole, rows = np.flatnonzero(~linked[lead]), np.flatnonzero(linked[lead])
    steps = mail_steps(kinds)[kind[rows]]
    group = _groups(lead[rows], at[rows], kind[rows], value[rows], message[rows], dated[rows], steps)
    several = np.bincount(group)[group] > 1
    alone, rows, group = rows[~several], rows[several], group[several]
    outdone = _outdone(
        lead[rows], at[rows], kind[rows], value[rows], message[rows], dated[rows], known[rows], since[rows]
    )
    rows, group = rows[~outdone], group[~outdone]
    # A stage of a group is all of it that counts by then, and is built like a lead of its own.
    stage, place, opens, closes = _stages(group, since[rows])
    rows = rows[place]
    kept = History.build(
        len(opens), stage, at[rows], known[rows], kind[rows], value[rows], kinds, message[rows], dated[rows], rows
    )
    rows, begin, end = kept.hidden, np.maximum(known[kept.hidden], opens[kept.lead]), closes[kept.lead]
    rows, begin, end = (column[begin < end] for column in (rows, begin, end))
    settled, begin, end = _joined(rows, begin, end, lead[rows], at[rows], kind[rows], value[rows])

    rows = np.concatenate([whole, alone, settled])
    is_whole = np.arange(len(rows)) < len(whole)
    hidden = np.concatenate([np.full(len(whole) + len(alone), NEVER), end])
    return History.build(
        leads, lead[rows], at[rows], np.concatenate([known[whole], np.maximum(known[alone], since[alone]), begin]),
        kind[rows], value[rows], kinds,
        # What is settled stays as it is, as what carries a date and no message does.
        np.where(is_whole, message[rows], np.int32(-1)), dated[rows] | ~is_whole,
        hidden if (end < NEVER).any() else None,
    )  # fmt: skip


def _groups(lead: Codes, at: Ints, kind: Codes, value: Floats, message: Codes, dated: Bools, steps: Codes) -> Ints:
    """Returns (n,) numbers of groups: whether a touch counts hangs on those of its group alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    sent, plain, mail = message >= 0, (message < 0) & ~dated, (steps > 0) & ~dated
    pairs = [
        _neighbours(sent, lead, message),
        _neighbours(plain, lead, at, kind, value),
        # Those between two touches within 2 seconds of each other are so too.
        _neighbours(mail, lead, at, within=AUTOMATED),
    ]
    one, other = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    shape = len(lead), len(lead)
    _, group = connected_components(coo_array((np.ones(len(one), np.bool_), (one, other)), shape), directed=False)
    return np.asarray(group, np.int64)


def _neighbours(which: Bools, *columns: npt.NDArray[Any], within: int = 0) -> tuple[Ints, Ints]:
    """Returns rows that follow each other in the order of some columns, equal but for `within` in the last one."""
    rows = np.flatnonzero(which)
    rows = rows[np.lexsort([column[rows] for column in reversed(columns)])]
    one, other = rows[:-1], rows[1:]
    *equal, last = columns
    same = _equal(last[one], last[other]) | (last[other] - last[one] <= within)
    for column in equal:
        same &= column[one] == column[other]
    return one[same], other[same]


def _outdone(
    lead: Codes, at: Ints, kind: Codes, value: Floats, message: Codes, dated: Bools, known: Ints, since: Ints
) -> Bools:
    """Whether there is a copy of each touch that counts no later and goes before it wherever both count.

    Thousands of ids may have the same touch, and all be linked to one lead: few copies are left to look at then.
    """
    import pandas as pd

    sent = message >= 0
    same = (lead, message, np.where(sent, 0, at), np.where(sent, 0, kind), np.where(sent, 0.0, value))
    rows = np.flatnonzero(sent | ~dated)
    rows = rows[np.lexsort([column[rows] for column in (known, since, *reversed(same))])]
    fresh = np.logical_or.reduce([_fresh(column[rows]) for column in same])
    best = pd.Series(known[rows]).groupby(np.cumsum(fresh)).cummin().to_numpy()[:-1]
    rows, fresh = rows[1:], fresh[1:]
    outdone = np.zeros(len(lead), np.bool_)
    # Of copies of a message that were known at once, the order of what they say decides.
    outdone[rows] = ~fresh & ((best < known[rows]) | ((best == known[rows]) & ~sent[rows]))
    return outdone


def _stages(group: Ints, since: Ints) -> tuple[Codes, Ints, Ints, Ints]:
    """Each group as it is from each instant on from which more of it counts.

    Returns the stage and the row of every touch in every stage, and when each stage begins and when it ends.
    """
    order = np.lexsort((since, group))
    group, since = group[order], since[order]
    fresh = _fresh(group) | _fresh(since)
    stage, of, opens = np.cumsum(fresh) - 1, group[fresh], since[fresh]
    closes = np.append(opens[1:], NEVER)[: len(opens)]
    closes[np.flatnonzero(of[1:] != of[:-1])] = NEVER
    # A touch is in its first stage, and in all later ones of its group.
    copies = np.searchsorted(of, group, side="right") - stage
    before = np.cumsum(copies) - copies
    later = np.arange(copies.sum()) - np.repeat(before, copies)
    return (np.repeat(stage, copies) + later).astype(np.int32), np.repeat(order, copies), opens, closes


def _joined(
    rows: Ints, begin: Ints, end: Ints, lead: Codes, at: Ints, kind: Codes, value: Floats
) -> tuple[Ints, Ints, Ints]:
    """Joins the spans in which equal touches count where one begins as another ends; returns rows, begins and ends."""
    order = np.lexsort((value, kind, at, lead))
    fresh = np.logical_or.reduce([_fresh(column[order]) for column in (lead, at, kind, value)])
    first, touch = rows[order][fresh], np.empty(len(rows), np.int64)
    touch[order] = np.cumsum(fresh) - 1
    both, time = np.concatenate([touch, touch]), np.concatenate([begin, end])
    step = np.repeat([1, -1], len(rows))
    order = np.lexsort((time, both))
    both, time, step = both[order], time[order], step[order]
    moment = np.flatnonzero(_fresh(both) | _fresh(time))
    more = np.add.reduceat(step, moment) if len(moment) else step
    # Of equal touches it does not matter which span ends when, so that the first to begin is the first to end.
    begins, ends = np.repeat(moment, np.maximum(more, 0)), np.repeat(moment, np.maximum(-more, 0))
    return first[both[begins]], time[begins], time[ends]


def _fresh(column: npt.NDArray[Any]) -> Bools:
    """Whether each of (n,) entries differs from the one before it, as the first does."""
    fresh = np.ones(len(column), np.bool_)
    fresh[1:] = ~_equal(column[1:], column[:-1])
    return fresh


def _equal(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> Bools:
    """Whether entries are the same, as two missing ones are."""
    return np.asarray((one == other) | ((one != one) & (other != other)), np.bool_)
