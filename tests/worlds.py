"""Generated leads for property tests, and the two ways from them to a `Dataset`: through arrays and through tables.

A world is a list of leads as `oracle` describes them. Times lie on a coarse grid, so that ties, windows that end on a
touch, and an as_of that is one are common; half of them lie before 1970.
"""

import math

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from oracle import DAY

from features import Dataset, History, Kind
from features.history import Attributes, Outcomes
from features.times import NEVER, isoformat

KINDS = [("email", "click"), ("email", ""), ("web", ""), ("web", "click"), ("call", "demo"), ("other", ""), ("a_b", ""),
         ("a", "b"), ("proposal", "sent")]  # fmt: skip
LATE_KINDS = [*KINDS, ("fair", ""), ("fair", "talk"), ("a", "new")]
CELLS = [
    *(("industry", word) for word in (None, "cleaning", "painting", "other", "missing")),
    *(("size", number) for number in (None, 10.0, 9.0, 2.5, -0.0, "10", "9", "40.0", "1e3")),
    *(("code", either) for either in (None, "9", "10", "A7", 7.0, "07")),
    *(("trial", either) for either in (None, *3 * ("true", "false"), 1.0, "0", 7.0, "maybe")),
    *(("founded", day) for day in (None, "1970-01-05", "1969-12-31T23:00:00Z", "1850-06-01", "2200-02-28T01:02")),
    *(("founded", day) for day in ("1970-01-05T10:00:00.000001+02:00", "0001-01-01T00:00:00+14:00", "1900-02-28")),
    *(("founded", other) for other in ("soon", "1970-02-30", 1970.0, "19700105")),
]
NAMES = ("industry", "size", "code", "trial", "founded")
LATE_CELLS = [*CELLS, *((name, word) for name in NAMES for word in ("new", "Zürich", 11.0))]
OFFSETS = [0, 0, 1, -1, 2_000_000, 2_000_001, DAY // 2, 1_234_567_890]
INSTANTS = [day * DAY + offset for day in sorted(range(-40, 41), key=abs) for offset in OFFSETS]
DELAYS = [0, 0, 0, 1, DAY // 2, DAY, 5 * DAY, 30 * DAY]
VALUES = [None, None, 0.0, 1.0, 2.5, -3.25, 0.1, 1e9]
MESSAGES = [None, None, None, "m1", "m2"]
DATED = [False, False, False, True]

instants = st.sampled_from(INSTANTS)


def rows(**columns):
    """Dicts that hold one of each column's choices, drawn as one number: far cheaper than a draw for each."""

    def row(number):
        picked = {}
        for name, choices in columns.items():
            number, place = divmod(number, len(choices))
            picked[name] = choices[place]
        return picked

    return st.integers(0, math.prod(map(len, columns.values())) - 1).map(row)


def touches(kinds=KINDS, times=INSTANTS, since=None, delays=DELAYS, messages=MESSAGES, dated=DATED):
    """Touches that become known at or after `since`."""

    def touch(kind, at, delay, value, message, dated, wait):
        at = (at // DAY + 1) * DAY - 1 if dated else at
        known = at + delay if since is None else max(at + delay, since + wait)
        channel, action = kind
        return dict(at=at, known=known, channel=channel, action=action, value=value, message=message, dated=dated)

    columns = rows(kind=kinds, at=times, delay=delays, value=VALUES, message=messages, dated=dated, wait=DELAYS)
    return columns.map(lambda row: touch(**row))


def facts(cells=CELLS, times=INSTANTS, since=None):
    """Attribute facts that become known at or after `since`."""

    def fact(cell, at, delay, wait):
        known = at + delay if since is None else max(at + delay, since + wait)
        return dict(at=at, known=known, name=cell[0], value=cell[1])

    return rows(cell=cells, at=times, delay=DELAYS, wait=DELAYS).map(lambda row: fact(**row))


def outcomes(times=INSTANTS, since=None):
    """Outcomes that become known at or after `since`."""

    def outcome(at, delay, wait, won):
        known = at + delay if since is None else max(at + delay, since + wait)
        return dict(at=at, known=known, won=won)

    return rows(at=times, delay=DELAYS, wait=DELAYS, won=[True, False]).map(lambda row: outcome(**row))


def leads(kinds=KINDS, cells=CELLS, times=INSTANTS, size=6, least=0, **of_touches):
    """Leads; now and then a touch is there a second time, recorded earlier or later."""

    def lead(created, industry, size, trial, founded, mine, again, wait, facts, outcomes):
        twice = (
            [dict(mine[again], known=max(mine[again]["at"], mine[again]["known"] + wait))] if again < len(mine) else []
        )
        return {
            "created": created,
            "attributes": {"industry": industry[1], "size": size[1], "trial": trial[1], "founded": founded[1]},
            "touches": [*mine, *twice],
            "facts": facts,
            "outcomes": outcomes,
        }

    columns = rows(
        created=times,
        **{name: [cell for cell in cells if cell[0] == name] for name in ("industry", "size", "trial", "founded")},
        again=[9, 0, 1, 2],
        wait=[delay - DAY for delay in DELAYS],
    )
    return st.builds(
        lambda row, mine, facts, outcomes: lead(mine=mine, facts=facts, outcomes=outcomes, **row),
        columns,
        st.lists(touches(kinds, times, **of_touches), min_size=least, max_size=size),
        st.lists(facts(cells, times), max_size=3),
        st.lists(outcomes(times), max_size=1),
    )


worlds = st.lists(leads(), min_size=1, max_size=4)
mailed = leads(
    [("email", ""), ("email", "click"), ("email", "click")],
    times=[DAY + 700_000 * i for i in range(6)],
    least=5,
    size=8,
    delays=[0, 0, 0, 1, DAY, 30 * DAY],
    messages=[None, None, None, None, None, "m1"],
    dated=[False],
)
"""Leads that get mails and click on most at once."""


LINK = 10 * DAY + 5


@st.composite
def split_leads(draw):
    """A lead, ids that it is shared out over, its own first, and the links that make one of them: (id, other, at).

    Among its touches are copies of one message that differ.
    """
    lead = draw(st.one_of(leads(size=8), mailed, mailed))
    lead["touches"] = [dict(t, known=max(t["known"], t["at"])) for t in lead["touches"]]
    names = ["lead", "old", "older", "oldest"][: draw(st.integers(2, 4))]
    links = [
        (name, names[draw(st.integers(0, i))], draw(st.sampled_from([LINK, LINK, DAY, LINK + 2 * DAY])))
        for i, name in enumerate(names[1:])
    ]
    split = {
        name: dict(lead, attributes=lead["attributes"] if name == "lead" else dict.fromkeys(lead["attributes"]))
        for name in names
    }
    for key in ("touches", "facts", "outcomes"):
        # Draws are often alike, and should not mean that all is of one id.
        turns = draw(st.lists(st.integers(0, len(names) - 1), min_size=len(lead[key]), max_size=len(lead[key])))
        whose = [names[(place + turn) % len(names)] for place, turn in enumerate(turns)]
        for name in names:
            split[name][key] = [row for row, owner in zip(lead[key], whose, strict=True) if owner == name]
    return split, links


def linked_of(split, links):
    """The dataset of what `split_leads` draws."""
    aliases = pd.DataFrame(links, columns=["lead_id", "same_as", "occurred_at"])
    aliases["occurred_at"] = [isoformat(at) for _, _, at in links]
    return Dataset.from_frames(**tables_of([*split.values()], [*split]), aliases=aliases)


def dataset_of(world):
    """Builds the dataset from arrays, as cheaply as it can be."""
    touch = [(i, t) for i, lead in enumerate(world) for t in lead["touches"]]
    kinds = list(dict.fromkeys(Kind(t["channel"], t["action"]) for _, t in touch))
    messages = {m: k for k, m in enumerate(dict.fromkeys(t["message"] for _, t in touch if t["message"]))}
    history = History.build(
        len(world),
        _ints(i for i, _ in touch).astype(np.int32),
        _ints(t["at"] for _, t in touch),
        _ints(t["known"] for _, t in touch),
        np.array([kinds.index(Kind(t["channel"], t["action"])) for _, t in touch], np.int32),
        np.array([np.nan if t["value"] is None else t["value"] for _, t in touch], np.float64),
        kinds,
        _ints(messages.get(t["message"], -1) for _, t in touch).astype(np.int32),
        np.array([t["dated"] for _, t in touch], np.bool_),
    )
    fact = [(i, f) for i, lead in enumerate(world) for f in lead["facts"]]
    attributes = Attributes.build(
        len(world),
        {name: [lead["attributes"][name] for lead in world] for name in (world[0]["attributes"] if world else ())},
        _ints(i for i, _ in fact),
        _ints(f["at"] for _, f in fact),
        _ints(f["known"] for _, f in fact),
        [f["name"] for _, f in fact],
        [f["value"] for _, f in fact],
    )
    ended = sorted((i, o["at"], o["known"], o["won"]) for i, lead in enumerate(world) for o in lead["outcomes"])
    lead, at, known, won = zip(*ended, strict=True) if ended else ((), (), (), ())
    return Dataset(
        np.array([f"lead {i}" for i in range(len(world))], object),
        _ints(lead["created"] for lead in world),
        np.full(len(world), NEVER, np.int64),
        history,
        attributes,
        Outcomes(_ints(lead), _ints(at), _ints(known), np.array(won, np.bool_), np.full(len(won), np.nan)),
    )


def tables_of(world, ids=None):
    """Writes the world as the five tables, with all values as text."""
    ids = ids or [f"lead {i}" for i in range(len(world))]
    tables = {"touchpoints": [], "leads": [], "outcomes": [], "attributes": []}
    for name, lead in zip(ids, world, strict=True):
        tables["leads"].append({"lead_id": name, "created_at": isoformat(lead["created"]), **{
            column: _text(value) for column, value in lead["attributes"].items()
        }})  # fmt: skip
        for t in lead["touches"]:
            # A bare date is written as one; it is known at the end of its day unless recorded later.
            tables["touchpoints"].append({
                "lead_id": name,
                "occurred_at": isoformat(t["at"])[:10] if t["dated"] else isoformat(t["at"]),
                "channel": t["channel"], "action": t["action"], "value": _text(t["value"]),
                "recorded_at": isoformat(t["known"]) if t["known"] != t["at"] else "", "message_id": t["message"],
            })  # fmt: skip
        for f in lead["facts"]:
            tables["attributes"].append({
                "lead_id": name, "occurred_at": isoformat(f["at"]), "name": f["name"], "value": _text(f["value"]),
                "recorded_at": isoformat(f["known"]),
            })  # fmt: skip
        for o in lead["outcomes"]:
            tables["outcomes"].append({
                "lead_id": name, "occurred_at": isoformat(o["at"]), "outcome": "won" if o["won"] else "lost",
                "recorded_at": isoformat(o["known"]),
            })  # fmt: skip
    return {table: pd.DataFrame(mine, dtype="str") for table, mine in tables.items() if mine}


def table(text):
    """Reads a table written in columns; "-" is an empty cell.

    A value with blanks in it is written with "_" for them.
    """
    heading, *lines = [line.split() for line in text.strip().splitlines()]
    rows = [[None if cell == "-" else cell.replace("_", " ") for cell in line] for line in lines]
    return pd.DataFrame(rows, columns=heading, dtype="str")


def _text(value):
    return None if value is None else value if isinstance(value, str) else repr(value)


def _ints(numbers):
    return np.array(list(numbers), np.int64)
