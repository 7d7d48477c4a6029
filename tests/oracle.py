"""What every feature means, written down a second time: slowly, in plain Python, for one lead at one instant.

A lead is a dict with `created` (microseconds), `attributes` (name to value, from creation on), `touches` and `facts`.
A touch has `at`, `known`, `channel`, `action` ("" if none), `value` and `message` (None if none), and `dated` (it
carries only a date); a fact has `at`, `known`, `name` and `value`. Nothing here is shared with `features`, but for the
names of the classes and their parameters.
"""

import math

DAY = 86_400_000_000
OTHER = "other"

# The past of one lead.


def seen(lead, as_of):
    """The lead's distinct touches that had occurred and were known before as_of, in order."""
    known = [t for t in lead["touches"] if t["at"] < as_of and t["known"] < as_of]
    kept = []
    for touch in sorted(known, key=lambda t: (t["known"], order(t))):
        if not any(same(touch, other) for other in kept):
            kept.append(touch)
    return sorted(kept, key=order)


def order(touch):
    """Time, then kind, then value, a missing one first."""
    value = -math.inf if touch["value"] is None else touch["value"]
    return touch["at"], (touch["channel"], touch["action"]), value, touch["known"]


def same(a, b):
    """Whether two touches are one: the same message or, without one, the same row unless it only says the day."""
    if a["message"] is not None or b["message"] is not None:
        return a["message"] == b["message"]
    if a["dated"] or b["dated"]:
        return False
    return all(a[key] == b[key] for key in ("at", "channel", "action", "value"))


def attributes(lead, as_of):
    """The value of each attribute as of as_of; among facts of one instant the one known last, then the greatest."""
    values = {name: read(value) for name, value in lead["attributes"].items()} if lead["created"] < as_of else {}
    known = [f for f in lead["facts"] if f["at"] < as_of and f["known"] < as_of]
    for fact in sorted(known, key=lambda f: (f["at"], f["known"], rank(read(f["value"])))):
        values[fact["name"]] = read(fact["value"])
    return values


def read(value):
    """A text that reads as a number is that number."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def rank(value):
    """Numbers, then words, then what is missing."""
    if value is None:
        return 2, 0, ""
    return (1, 0, value) if isinstance(value, str) else (0, value, "")


def text(value):
    """A number as the word that a file would hold."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(float(value))


# The vocabulary.


def group(touch, by):
    """The name of the group a touch falls into."""
    if by == ():
        return "touch"
    if by == ("channel",):
        return touch["channel"]
    if by == ("action",):
        return touch["action"] or touch["channel"]
    return f"{touch['channel']}_{touch['action']}" if touch["action"] else touch["channel"]


def groups(leads, by, limit=32):
    """The most frequent groups among all touches of all leads, in order of name, and "other"."""
    if by == ():
        return ["touch"]
    found = [group(touch, by) for lead in leads for touch in seen(lead, math.inf)]
    return [*most_frequent([name for name in found if name != OTHER], limit), OTHER]


def words(leads, limit=16):
    """For each attribute in order of name: its most frequent words, or None if it is a number."""
    values = {}
    for lead in leads:
        for name, value in [*lead["attributes"].items(), *((f["name"], f["value"]) for f in lead["facts"])]:
            if value is not None:
                values.setdefault(name, []).append(read(value))
    return {
        name: most_frequent([text(v) for v in mine], limit) if any(isinstance(v, str) for v in mine) else None
        for name, mine in sorted(values.items())
    }


def most_frequent(names, limit):
    return sorted(sorted(set(names), key=lambda name: (-names.count(name), name))[:limit])


# The features: each gives (name, value) for its columns, in order.


def count(feature, vocabulary, lead, as_of):
    for name, touches in _by_group(feature.by, vocabulary, lead, as_of):
        for days in feature.days:
            yield f"{name}_count{_ending(days)}", len(_within(touches, days, as_of))


def sum_(feature, vocabulary, lead, as_of):
    for name, touches in _by_group(feature.by, vocabulary, lead, as_of):
        for days in feature.days:
            total = 0.0
            for touch in _within(touches, days, as_of):
                total += touch["value"] or 0.0
            yield f"{name}_sum{_ending(days)}", total


def decayed(feature, vocabulary, lead, as_of):
    for name, touches in _by_group(feature.by, vocabulary, lead, as_of):
        for days in feature.half_life_days:
            total = 0.0
            for touch in touches:
                # Not 0.5 ** (age / half-life): the last bit of a sum may then fall on the other side of a float32.
                total += math.exp(-(math.log(2) / (days * DAY)) * (as_of - touch["at"]))
            yield f"{name}_decayed{_ending(days)}", total


def days_since(feature, vocabulary, lead, as_of):
    for name, touches in _by_group(feature.by, vocabulary, lead, as_of):
        yield f"days_since_{name}", (as_of - touches[-1]["at"]) / DAY if touches else math.nan


def first(feature, vocabulary, lead, as_of):
    yield from _one_hot("first", feature.by, vocabulary, seen(lead, as_of)[:1])


def last(feature, vocabulary, lead, as_of):
    yield from _one_hot("last", feature.by, vocabulary, seen(lead, as_of)[-1:])


def age(feature, vocabulary, lead, as_of):
    yield "age_days", (as_of - lead["created"]) / DAY


def attribute_columns(feature, vocabulary, lead, as_of):
    now = attributes(lead, as_of)
    for name, mine in vocabulary["words"].items():
        value = now.get(name)
        if mine is None:
            yield f"lead_{name}", math.nan if value is None or isinstance(value, str) else value
            continue
        for word in mine:
            yield f"lead_{name}_is_{word}", float(value is not None and text(value) == word)
        yield f"lead_{name}_is_other", float(value is not None and text(value) not in mine)
        yield f"lead_{name}_is_missing", float(value is None)


ORACLE = {
    "Count": count,
    "Sum": sum_,
    "Decayed": decayed,
    "DaysSince": days_since,
    "First": first,
    "Last": last,
    "Age": age,
    "Attributes": attribute_columns,
}


def fit(features, leads):
    """What a feature set learns from leads."""
    return {
        "groups": {f.by: groups(leads, f.by) for f in features if hasattr(f, "by")},
        "words": words(leads),
    }


def row(features, vocabulary, lead, as_of):
    """The (name, value) of every column for one lead as of one instant."""
    return [cell for f in features for cell in ORACLE[type(f).__name__](f, vocabulary, lead, as_of)]


def _by_group(by, vocabulary, lead, as_of):
    """Each group's name with the lead's touches in it; a group without a column of its own is "other"."""
    names = vocabulary["groups"][by]
    for name in names:
        yield (
            name,
            [
                touch
                for touch in seen(lead, as_of)
                if group(touch, by) == name or (name == OTHER and group(touch, by) not in names)
            ],
        )


def _one_hot(which, by, vocabulary, touches):
    names = vocabulary["groups"][by]
    for name in names:
        mine = any(group(t, by) == name or (name == OTHER and group(t, by) not in names) for t in touches)
        yield f"{which}_{'_'.join(by)}_is_{name}", float(mine)


def _within(touches, days, as_of):
    """The touches in [as_of - days, as_of)."""
    return touches if days is None else [t for t in touches if as_of - days * DAY <= t["at"]]


def _ending(days):
    return "" if days is None else f"_{days:g}d"
