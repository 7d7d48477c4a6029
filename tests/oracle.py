"""What every feature means, written down a second time: slowly, in plain Python, for one lead at one instant.

A lead is a dict with `created` (microseconds), `attributes` (name to value, from creation on), `touches` and `facts`.
A touch has `at`, `known`, `channel`, `action` ("" if none), `value` and `message` (None if none), and `dated` (it
carries only a date); a fact has `at`, `known`, `name` and `value`. Nothing here is shared with `features`, but for the
names of the classes and their parameters.
"""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

DAY = 86_400_000_000
OTHER = "other"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FIGURES = {">": "over", ">=": "from", "<": "under", "<=": "to"}
SIDES = {
    ("email", ""): ("marketing", "outbound"),
    ("email", "click"): ("marketing", "inbound"),
    ("web", ""): ("marketing", "inbound"),
    ("web", "click"): ("marketing", "inbound"),
    ("call", "demo"): ("sales", "inbound"),
    ("proposal", "sent"): ("sales", "outbound"),
    ("fair", ""): ("marketing", "inbound"),
    ("fair", "talk"): ("marketing", "inbound"),
}
"""Whose the known kinds are, and which way they go."""
DELIVERED, ENGAGED = {("email", "")}, {("email", "click")}
SECOND = 1_000_000

# The past of one lead.


def seen(lead, as_of):
    """The lead's distinct touches that had occurred and were known before as_of, in order."""
    known = [t for t in lead["touches"] if t["at"] < as_of and t["known"] < as_of]
    kept = []
    for touch in sorted(known, key=lambda t: (t["known"], order(t))):
        if not any(same(touch, other) for other in kept):
            kept.append(touch)
    return sorted((t for t in kept if not is_automated(t, kept)), key=order)


def is_automated(touch, touches):
    """Whether a mail was opened or clicked so soon after a delivery known by then that a machine did it."""
    if (touch["channel"], touch["action"]) not in ENGAGED or touch["dated"]:
        return False
    return any(
        (sent["channel"], sent["action"]) in DELIVERED
        and not sent["dated"]
        and sent["known"] <= touch["known"]
        and 0 <= touch["at"] - sent["at"] <= 2 * SECOND
        and not (sent["at"] == touch["at"] and touch["at"] % (60 * SECOND) == 0)
        for sent in touches
    )


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


def flag(value):
    """True or false as 1 or 0, None if it is neither."""
    return {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}.get(text(value))


def date(value):
    """A date or a time, in UTC unless it says otherwise, as microseconds; None if it is none."""
    if not isinstance(value, str) or len(value) < 10 or value[4] != "-" or value[7] != "-":
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


# The vocabulary.


def group(touch, by):
    """The name of the group a touch falls into."""
    if by == ():
        return "touch"
    if by == ("channel",):
        return touch["channel"]
    if by == ("action",):
        return touch["action"] or touch["channel"]
    if by in (("side",), ("direction",)):
        return SIDES.get((touch["channel"], touch["action"]), (OTHER, OTHER))[by == ("direction",)]
    return whole(touch)


def whole(touch):
    """Channel and action in one."""
    return f"{touch['channel']}_{touch['action']}" if touch["action"] else touch["channel"]


def is_of(touch, kind):
    """Whether a touch is of a kind that is named by its channel, its action or both."""
    return kind in (touch["channel"], touch["action"], whole(touch))


def groups(leads, by, limit=32):
    """The most frequent groups among all touches of all leads, in order of name, and "other"."""
    if by == ():
        return ["touch"]
    found = [group(touch, by) for lead in leads for touch in seen(lead, math.inf)]
    return [*most_frequent([name for name in found if name != OTHER], limit), OTHER]


def readings(leads, limit=16):
    """For each attribute in order of name: how it is read, or its most frequent words."""
    values = {}
    for lead in leads:
        for name, value in [*lead["attributes"].items(), *((f["name"], f["value"]) for f in lead["facts"])]:
            if value is not None:
                values.setdefault(name, []).append(read(value))
    return {name: reading(mine, limit) for name, mine in sorted(values.items())}


def reading(values, limit):
    if not any(isinstance(value, str) for value in values):
        return "number"
    if all(flag(value) is not None for value in values):
        return "flag"
    if all(date(value) is not None for value in values):
        return "date"
    return most_frequent([text(value) for value in values], limit)


def most_frequent(names, limit):
    return sorted(sorted(set(names), key=lambda name: (-names.count(name), name))[:limit])


# The features: each gives (name, value) for its columns, in order. A past is what is known of one lead as of one
# instant: `as_of`, `created`, `touches` and `attributes`.


def in_windows(figure, name):
    """A figure of the touches in each window."""

    def columns(feature, vocabulary, past):
        for group_name, touches in by_group(feature, vocabulary, past):
            for days in feature.days:
                yield f"{group_name}_{name}{window(days)}", figure(within(touches, days, past), feature)

    return columns


def total(touches, _=None):
    added = 0.0
    for value in values_of(touches):
        added += value
    return added


def mean(touches, _):
    return total(touches) / len(values_of(touches)) if values_of(touches) else math.nan


def greatest(touches, _):
    return max(values_of(touches), default=math.nan)


def active_days(touches, _):
    return len({(EPOCH + t["at"] * MICROSECOND).date() for t in touches})


def share(feature, vocabulary, past):
    for name, touches in by_group(feature, vocabulary, past):
        for days in feature.days:
            every = within(matching(past["touches"], feature), days, past)
            yield f"{name}_share{window(days)}", len(within(touches, days, past)) / len(every) if every else 0.0


def distinct(feature, vocabulary, past):
    for days in feature.days:
        found = [bool(within(touches, days, past)) for _, touches in by_group(feature, vocabulary, past)]
        yield f"distinct_{'_'.join(feature.by)}{window(days)}", sum(found)


def decayed(feature, vocabulary, past):
    for name, touches in by_group(feature, vocabulary, past):
        for days in feature.half_life_days:
            worth = 0.0
            for touch in touches:
                # Not 0.5 ** (age / half-life): the last bit of a sum may then fall on the other side of a float32.
                worth += math.exp(-(math.log(2) / (days * DAY)) * (past["as_of"] - touch["at"]))
            yield f"{name}_decayed{window(days)}", worth


def days_since(feature, vocabulary, past):
    for name, touches in by_group(feature, vocabulary, past):
        yield f"days_since_{name}", (past["as_of"] - touches[-1]["at"]) / DAY if touches else math.nan


def days_since_first(feature, vocabulary, past):
    for name, touches in by_group(feature, vocabulary, past):
        yield f"days_since_first_{name}", (past["as_of"] - touches[0]["at"]) / DAY if touches else math.nan


def gap(feature, vocabulary, past):
    for name, touches in by_group(feature, vocabulary, past):
        gaps = [(b["at"] - a["at"]) / DAY for a, b in pairwise(touches)]
        average = (touches[-1]["at"] - touches[0]["at"]) / DAY / len(gaps) if gaps else math.nan
        yield f"{name}_gap_mean", average
        yield f"{name}_gap_max", max(gaps, default=math.nan)
        yield f"{name}_gap_last", gaps[-1] if gaps else math.nan
        yield f"{name}_silence", (past["as_of"] - touches[-1]["at"]) / DAY / average if average > 0 else math.nan


def streak(feature, vocabulary, past):
    period = int(feature.period_days * DAY)
    for name, touches in by_group(feature, vocabulary, past):
        ages = [past["as_of"] - touch["at"] for touch in touches]
        periods = 0
        while any(periods * period < age <= (periods + 1) * period for age in ages):
            periods += 1
        yield f"{name}_streak{window(feature.period_days)}", periods


def first(feature, vocabulary, past):
    yield from one_hot("first", feature, vocabulary, matching(past["touches"], feature)[:1])


def last(feature, vocabulary, past):
    touches = matching(past["touches"], feature)
    which = "last" if feature.place == 1 else f"last_{feature.place}"
    yield from one_hot(which, feature, vocabulary, touches[::-1][feature.place - 1 : feature.place])


def trend(feature, vocabulary, past):
    for name, touches in by_group(feature, vocabulary, past):
        recent, longer = (len(within(touches, days, past)) for days in (feature.recent_days, feature.past_days))
        rate = recent / longer * (feature.past_days * DAY / (feature.recent_days * DAY)) if longer else 0.0
        yield f"{name}_trend{window(feature.recent_days)}{window(feature.past_days)}", rate


def sequence(feature, vocabulary, past):
    befores, afters = ([t for t in past["touches"] if is_of(t, kind)] for kind in (feature.first, feature.then))
    found = any(before["at"] < after["at"] for before in befores for after in afters)
    yield f"{feature.first}_before_{feature.then}", float(found)


def business_hours(touches, feature):
    busy = [t for t in touches if is_business_hour(t["at"], feature.zone)]
    return len(busy) / len(touches) if touches else 0.0


def is_business_hour(at, zone):
    """Monday to Friday from 9 to 17 o'clock; before 1900 and after 2100 clocks are as they were and will be then."""
    when = EPOCH + at * MICROSECOND
    held = min(max(when, datetime(1900, 1, 1, tzinfo=UTC)), datetime(2100, 1, 1, tzinfo=UTC))
    local = when.replace(tzinfo=None) + held.astimezone(ZoneInfo(zone)).utcoffset()
    return local.weekday() < 5 and 9 <= local.hour < 17


def time_of_week(feature, vocabulary, past):
    place = "" if feature.zone == "UTC" else "_" + feature.zone.lower().replace("/", "_")
    yield from in_windows(business_hours, f"business_hours{place}")(feature, vocabulary, past)


def age(feature, vocabulary, past):
    yield "age_days", (past["as_of"] - past["created"]) / DAY


def attribute_columns(feature, vocabulary, past):
    for name, how in vocabulary["readings"].items():
        value = past["attributes"].get(name)
        if how == "number":
            yield f"lead_{name}", math.nan if value is None or isinstance(value, str) else value
        elif how == "flag":
            said = None if value is None else flag(value)
            yield f"lead_{name}_is_true", math.nan if said is None else said
        elif how == "date":
            at = date(value)
            yield f"lead_{name}_age_days", math.nan if at is None else (past["as_of"] - float(at)) / DAY
        else:
            for word in how:
                yield f"lead_{name}_is_{word}", float(value is not None and text(value) == word)
            yield f"lead_{name}_is_other", float(value is not None and text(value) not in how)
            yield f"lead_{name}_is_missing", float(value is None)


ORACLE = {
    "Count": in_windows(lambda touches, _: len(touches), "count"),
    "Sum": in_windows(total, "sum"),
    "Mean": in_windows(mean, "mean"),
    "Max": in_windows(greatest, "max"),
    "Decayed": decayed,
    "DaysSince": days_since,
    "DaysSinceFirst": days_since_first,
    "Distinct": distinct,
    "ActiveDays": in_windows(active_days, "active_days"),
    "Gap": gap,
    "Streak": streak,
    "First": first,
    "Last": last,
    "Trend": trend,
    "Share": share,
    "Sequence": sequence,
    "TimeOfWeek": time_of_week,
    "Age": age,
    "Attributes": attribute_columns,
}


def fit(features, leads):
    """What a feature set learns from leads."""
    return {
        "groups": {by: groups(leads, by) for by in {f.by for f in features if hasattr(f, "by")}},
        "readings": readings(leads),
    }


def row(features, vocabulary, lead, as_of):
    """The (name, value) of every column for one lead as of one instant."""
    past = {
        "as_of": as_of,
        "created": lead["created"],
        "touches": seen(lead, as_of),
        "attributes": attributes(lead, as_of),
    }
    return [
        (name + condition(f), value) for f in features for name, value in ORACLE[type(f).__name__](f, vocabulary, past)
    ]


def condition(feature):
    """What a condition on values adds to a name."""
    if getattr(feature, "where", None) is None:
        return ""
    sign, number = feature.where
    return f"_{FIGURES[sign]}_{'minus_' if number < 0 else ''}{text(abs(number)).replace('.', '_')}"


def matching(touches, feature):
    """The touches of the kind that the feature looks at alone, and with such values."""
    mine = [t for t in touches if not feature.of or is_of(t, feature.of)]
    if feature.where is None:
        return mine
    sign, limit = feature.where
    meets = {
        ">": lambda value: value > limit,
        ">=": lambda value: value >= limit,
        "<": lambda value: value < limit,
        "<=": lambda value: value <= limit,
    }[sign]
    return [t for t in mine if t["value"] is not None and meets(t["value"])]


def by_group(feature, vocabulary, past):
    """Each group's name with the lead's touches in it; a group without a column of its own is "other"."""
    touches, names = matching(past["touches"], feature), vocabulary["groups"][feature.by]
    if feature.by == ():
        yield feature.of or "touch", touches
        return
    found = {name: [] for name in names}
    for touch in touches:
        name = group(touch, feature.by)
        found[name if name in found else OTHER].append(touch)
    yield from found.items()


def one_hot(which, feature, vocabulary, touches):
    names = vocabulary["groups"][feature.by]
    for name in names:
        mine = any(group(t, feature.by) == name or (name == OTHER and group(t, feature.by) not in names)
                   for t in touches)  # fmt: skip
        yield f"{which}_{'_'.join(feature.by)}_is_{name}", float(mine)


def within(touches, days, past):
    """The touches in [as_of - days, as_of)."""
    return touches if days is None else [t for t in touches if past["as_of"] - t["at"] <= days * DAY]


def values_of(touches):
    return [touch["value"] for touch in touches if touch["value"] is not None]


def window(days):
    return "" if days is None else f"_{days:g}d"
