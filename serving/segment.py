"""What the messages of Segment's protocol mean: touches, attributes, outcomes, and who is who.

A message that cannot be taken becomes a quarantined one, with the reason: a refusal would make clients drop the whole
batch. docs/segment.md says the same to those who send them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from features.errors import TouchstoneError
from features.records import LONGEST, Value
from features.times import EARLIEST, TOO_LATE, datetime_us
from features.touchpoints import touchpoint_of
from features.words import kind_word, word_number
from serving.body import Reader
from serving.errors import FieldError, Malformed, RequestError, TooLarge
from serving.mapping import Mapping
from serving.store import Alias, Lead, Message, Outcome, Quarantined, Row, Touch
from serving.store.writing import storable, word

LARGEST_MESSAGE, LARGEST_BATCH = 32 << 10, 500 << 10
"""Bytes."""
MOST = 5_000
"""Messages in a batch: far more than clients send."""
LONGEST_VALUE = 1_000
"""Characters of a trait."""
_DEEPEST = 16
_REVENUE = ("revenue", "total", "value")
_WON = kind_word("Order Completed")
_SOURCE = "segment"


class SegmentContext(msgspec.Struct, frozen=True):
    campaign: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None


class SegmentMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A message, as far as it means something here; whatever else it holds is left alone."""

    type: str | None = None
    user_id: str | int | None = None
    anonymous_id: str | int | None = None
    previous_id: str | int | None = None
    group_id: str | int | None = None
    event: str | None = None
    category: str | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: SegmentContext | None = None
    timestamp: str | None = None
    original_timestamp: str | None = None
    sent_at: str | None = None
    message_id: str | None = None


class SegmentBatch(msgspec.Struct, frozen=True, rename="camel"):
    """Messages that are sent together."""

    batch: list[SegmentMessage]
    sent_at: str | None = None


class _Raw(msgspec.Struct, rename="camel"):
    batch: list[msgspec.Raw]
    sent_at: msgspec.Raw = msgspec.Raw(b"null")


class _Who(msgspec.Struct, rename="camel"):
    user_id: Any = None
    anonymous_id: Any = None


_RAW, _WHO = msgspec.json.Decoder(_Raw), msgspec.json.Decoder(_Who)
_MESSAGE = Reader(SegmentMessage)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


@dataclass(frozen=True)
class Arrival:
    """When messages came, and how to take them."""

    at: int
    imports: bool = False
    """Whether they tell of the past: then what they say is known from when it happened, else from now on."""
    mapping: Mapping = field(default_factory=Mapping)
    sent_at: str | None = None
    """When the client says that it sent them, by its own clock."""


@dataclass
class Taken:
    """What messages came to."""

    messages: list[Message] = field(default_factory=list)
    ignored: int = 0
    left_out: int = 0


def take_batch(body: bytes, arrival: Arrival) -> Taken:
    """Makes messages of a batch, each alone. Raises Malformed if the body is no batch, TooLarge if it is long."""
    raws, sent_at = _split(body)
    if len(raws) > MOST:
        raise TooLarge(f"the batch holds {len(raws):,} messages. Send at most {MOST:,} at once.")
    arrival = Arrival(arrival.at, arrival.imports, arrival.mapping, sent_at)
    taken = Taken()
    for raw in raws:
        _take(raw, arrival, taken)
    return taken


def take_one(body: bytes, kind: str, arrival: Arrival) -> Taken:
    """Makes a message of a body that is one, of a kind."""
    taken = Taken()
    _take(body, arrival, taken, kind)
    return taken


def _take(raw: bytes, arrival: Arrival, taken: Taken, kind: str | None = None) -> None:
    lead = None
    try:
        if len(raw) > LARGEST_MESSAGE:
            raise TouchstoneError(f"it has {len(raw):,} bytes. Send at most {LARGEST_MESSAGE:,} a message.")
        message = _read(raw)
        lead = _id(message.user_id) or _id(message.anonymous_id)
        made = _made(message, kind or message.type, lead, arrival, taken)
    except TouchstoneError as refusal:
        body, lead = raw[:LARGEST_MESSAGE].decode("utf-8", "replace"), lead or _whose(raw)
        row = Quarantined(reason=str(refusal), body=body, source=_SOURCE, lead_id=lead and lead[:LONGEST])
        made = Message(rows=(row,), source=_SOURCE)
    if made is None:
        taken.ignored += 1
    else:
        taken.messages.append(made)


def _split(body: bytes) -> tuple[list[bytes], str | None]:
    """The messages of a batch as they were written, and when it was sent."""
    try:
        found = _RAW.decode(body)
        raws, sent_at = [bytes(raw) for raw in found.batch], bytes(found.sent_at)
    except (ValueError, RecursionError):
        # One message that is no JSON, with a NaN of Python's in it, say, must not cost the others.
        fields = dict(part.lstrip().partition(b":")[::2] for part in _parts(body))
        named = {name.strip(): value for name, value in fields.items()}
        if not named.get(b'"batch"', b"").lstrip().startswith(b"["):
            raise Malformed('the body is no batch. Send {"batch": [...]}, whole and as JSON.') from None
        raws, sent_at = _parts(named[b'"batch"']), named.get(b'"sentAt"', b"null")
    try:
        return raws, msgspec.json.decode(sent_at, type=str)
    except (ValueError, RecursionError):
        return raws, None


def _parts(text: bytes) -> list[bytes]:
    """The parts of a list or an object between its commas, however deep they are; none if it does not end."""
    depth, begin, parts = 0, 0, []
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in b"[{":
            depth += 1
            begin = token.end() if depth == 1 else begin
        elif mark in b"]}":
            depth -= 1
        if (depth == 1 and mark == b",") or (depth == 0 and mark in b"]}"):
            parts.append(text[begin : token.start()])
            begin = token.end()
        if depth == 0 and mark in b"]}":
            return [part for part in parts if part.strip()]
    return []


def _read(raw: bytes) -> SegmentMessage:
    try:
        return _MESSAGE.read(raw)
    except RequestError:
        mended = _finite(raw)
        if mended is None:
            raise
        return _MESSAGE.read(mended)


def _whose(raw: bytes) -> str | None:
    """Whose a message is that cannot be read as a whole, if that much can: it is deleted with the person."""
    for text in (raw, _finite(raw) or b""):
        try:
            who = _WHO.decode(text)
            for given in (who.user_id, who.anonymous_id):
                if type(given) in (str, int) and (name := _id(given)):
                    return storable(name)
        except (ValueError, RecursionError, TouchstoneError):
            continue
    return None


def _finite(raw: bytes) -> bytes | None:
    """A message with null for what is no number to JSON; None if it cannot be read so either."""
    try:
        # The standard library reads NaN, and msgspec writes it as null.
        return msgspec.json.encode(json.loads(raw))
    except (ValueError, RecursionError):
        return None


def _made(
    message: SegmentMessage, kind: str | None, lead: str | None, arrival: Arrival, taken: Taken
) -> Message | None:
    """The message with its rows; None if it is to be ignored."""
    if kind not in MEANINGS:
        raise FieldError("type", f"got {str(kind)[:80]!r}. Send {', '.join(MEANINGS)}.")
    if lead is None:
        raise FieldError("userId", "it is missing, and anonymousId too. Send one of them.")
    word(lead, "userId" if _id(message.user_id) else "anonymousId")
    at = _occurred(message, arrival)
    rows = [*_ROWS[kind](message, lead, at, arrival, taken)]
    if not rows:
        return None
    since = at if arrival.imports else arrival.at
    anonymous = _id(message.anonymous_id)
    if anonymous and anonymous != lead:
        rows.append(Alias(word(anonymous, "anonymousId"), lead, since, firm=False))
    name = message.message_id
    if name and not name.isspace():
        word(name, "messageId")
    return Message(
        rows=tuple(rows), source=_SOURCE, message_id=name, recorded_at=at if arrival.imports else None
    )  # fmt: skip


def _track(m: SegmentMessage, lead: str, at: int, arrival: Arrival, taken: Taken) -> Iterator[Row]:
    if not m.event or m.event.isspace():
        raise FieldError("event", "it is missing. Send the name of what happened.")
    rule, properties = arrival.mapping.rule(m.event), m.properties or {}
    if rule.ignore:
        return
    outcome = rule.outcome or ("won" if kind_word(m.event) == _WON and not (rule.channel or rule.action) else None)
    if outcome:
        given = (_at(properties, rule.value), *(number_of(properties.get(name)) for name in _REVENUE))
        amount = next((number for number in given if number is not None), None)
        yield Outcome(lead, at, outcome == "won", amount if outcome == "won" else None)
        return
    known = touchpoint_of(m.event)
    channel = rule.channel or (known.name if known else word(m.event, "event"))
    action = rule.action or (m.event if known and not rule.channel and kind_word(m.event) != known.name else None)
    yield Touch(lead, at, channel, action and word(action, "event"), _at(properties, rule.value))


def _visit(m: SegmentMessage, lead: str, at: int, arrival: Arrival, taken: Taken) -> Iterator[Row]:
    properties = m.properties or {}
    category = m.category or properties.get("category")
    action = word(category, "category") if isinstance(category, str) and category.strip() else "visit"
    yield Touch(lead, at, _campaign(m) or "website", action, _at(properties, "properties.value"))


def _campaign(m: SegmentMessage) -> str | None:
    """Through which channel a visit came, if a campaign brought it: by its medium, else its source."""
    campaign = (m.context.campaign if m.context else None) or {}
    named = [campaign.get(part) for part in ("medium", "source")]
    words = [word(name, "context.campaign") for name in named if isinstance(name, str) and name.strip()]
    for name in words:
        # A click on it: mail as a medium is one that was clicked, not one that was sent.
        found = touchpoint_of(name) and touchpoint_of(name, "click")
        if found:
            return found.name
    return words[0] if words else None


def _identify(m: SegmentMessage, lead: str, at: int, arrival: Arrival, taken: Taken) -> Iterator[Row]:
    traits = dict((m.context.traits if m.context else None) or {}) | (m.traits or {})
    for name in ("createdAt", "created_at"):
        created = _time(traits[name]) if isinstance(traits.get(name), str) else None
        if created is not None:
            del traits[name]
            yield Lead(lead, created)
            break
    yield Lead(lead, None, _flat(traits, "", taken))


def _group(m: SegmentMessage, lead: str, at: int, arrival: Arrival, taken: Taken) -> Iterator[Row]:
    group = _id(m.group_id)
    if group is None:
        raise FieldError("groupId", "it is missing. Send the id of the group.")
    yield Lead(lead, None, {"group.id": storable(group)[:LONGEST_VALUE]} | _flat(m.traits or {}, "group.", taken))


def _alias(m: SegmentMessage, lead: str, at: int, arrival: Arrival, taken: Taken) -> Iterator[Row]:
    previous = _id(m.previous_id)
    if previous is None:
        raise FieldError("previousId", "it is missing. Send the id that means userId from now on.")
    if _id(m.user_id) is None:
        raise FieldError("userId", "it is missing. Send the id that previousId means from now on.")
    if previous == lead:
        raise FieldError("previousId", f"{previous[:LONGEST]!r} is userId itself. Send another id.")
    yield Alias(word(previous, "previousId"), lead, at if arrival.imports else arrival.at)


_ROWS = {
    "track": _track, "page": _visit, "screen": _visit, "identify": _identify, "group": _group, "alias": _alias,
}  # fmt: skip
MEANINGS = {
    "track": "a touch: its channel and action by the mapping, else by [the words that logs use](touchpoints.md) "
    "(`Webinar Attended` is channel `webinar`, action `webinar_attended`), else the event is the channel; or an "
    "outcome",
    "page": "a touch: channel `website`, or that of the campaign that brought the visit; action the category of the "
    "page, else `visit`",
    "screen": "the same",
    "identify": "attributes, known from then on; `address.city` is what `city` in `address` says; the trait "
    "`createdAt` is when the lead was created",
    "group": "attributes that begin with `group.`",
    "alias": "`previousId` means `userId` too, from then on",
}
"""What each type of message becomes."""


def _id(given: str | int | None) -> str | None:
    try:
        return None if given is None else str(given).strip() or None
    except ValueError:
        # Python writes no number of more than 4,300 digits.
        raise TouchstoneError("an id is a number of thousands of digits. Send a shorter one.") from None


def _occurred(m: SegmentMessage, arrival: Arrival) -> int:
    """When it happened: by the server's clock, as the client's may be wrong, unless it tells of the past."""
    given = m.timestamp or m.original_timestamp
    if not given:
        return arrival.at
    at = _time(given)
    if at is None:
        raise FieldError("timestamp", f"{given[:80]!r} is no time. Send ISO 8601, e.g. 2026-02-28T14:00:00Z.")
    if arrival.imports:
        return at
    sent = _time(m.sent_at or arrival.sent_at or "")
    at = min(at if sent is None else arrival.at - (sent - at), arrival.at)
    if at < EARLIEST:
        raise FieldError("timestamp", f"{given[:80]!r} is too long before it was sent. Correct it, or sentAt.")
    return at


def _time(text: str) -> int | None:
    """Reads ISO 8601, in UTC where it carries no zone; None if it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    us = datetime_us(at if at.tzinfo else at.replace(tzinfo=UTC))
    return us if EARLIEST <= us < TOO_LATE else None


def _at(properties: dict[str, Any], path: str) -> float | None:
    """The number at a path such as properties.minutes; None if there is none."""
    found: Any = properties
    for step in path.split(".")[1:]:
        found = found.get(step) if isinstance(found, dict) else None
    return number_of(found)


def number_of(given: Any) -> float | None:
    """A number, also one that is written as text; None if it is none that can be stored.

    >>> number_of("99.90"), number_of(True), number_of(10**400)
    (99.9, None, None)
    """
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return None
    try:
        number = word_number(given) if isinstance(given, str) else float(given)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _flat(traits: dict[str, Any], prefix: str, taken: Taken, depth: int = 1) -> dict[str, Value]:
    """Traits as attributes, nested ones under their path; what can be none is counted."""
    flat: dict[str, Value] = {}
    for name, value in traits.items():
        label = f"{prefix}{name}"
        if isinstance(value, dict) and depth < _DEEPEST:
            flat |= _flat(value, f"{label}.", taken, depth + 1)
        elif not name.strip() or len(label.strip()) > LONGEST or not _is_attribute(value):
            taken.left_out += 1
        else:
            flat[label] = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return flat


def _is_attribute(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_VALUE
    return value is None or isinstance(value, bool) or number_of(value) is not None
