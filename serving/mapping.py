"""What events mean that no list of words knows: a TOML file, or a tenant's setting."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping as Named
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from features.errors import TouchstoneError, UsageError
from features.records import LONGEST
from features.words import kind_word
from serving.body import Reader
from serving.errors import FieldError


class EventRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an event means.

    >>> EventRule(channel="demo", action="request").value
    'properties.value'
    """

    channel: Annotated[str | None, msgspec.Meta(description="The channel of its touch.")] = None
    action: Annotated[str | None, msgspec.Meta(description="The action of its touch.")] = None
    value: Annotated[
        str, msgspec.Meta(description="Where its number is: minutes of a visit, say, or the amount of an outcome.")
    ] = "properties.value"
    outcome: Annotated[
        Literal["won", "lost"] | None, msgspec.Meta(description="How it ended: then it is no touch.")
    ] = None
    ignore: Annotated[bool, msgspec.Meta(description="Leave it out.")] = False


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    events: dict[str, Any] = {}


_DOCUMENT, _RULE = Reader(_Document), Reader(EventRule)


@dataclass(frozen=True)
class Mapping:
    """What events mean where their names do not say it; names differ as channels do: by letters and digits alone.

    >>> Mapping.of({"events": {"Demo Requested": {"channel": "demo"}}}).rule("demo_requested").channel
    'demo'
    """

    events: Named[str, EventRule] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Mapping:
        """Reads a TOML file. Raises UsageError if it is wrong."""
        try:
            return cls.of(tomllib.loads(path.read_text(encoding="utf-8-sig")), f"{path}: ")
        except OSError as problem:
            raise UsageError(f"{path} cannot be read: {problem.strerror}. Name a mapping file.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise UsageError(f"{path} is not TOML: {problem}. docs/segment.md shows a mapping file.") from None

    @classmethod
    def of(cls, document: Any, where: str = "") -> Mapping:
        """Makes a mapping of a document. Raises UsageError if it is wrong; `where` begins the message."""
        events: dict[str, EventRule] = {}
        try:
            for name, given in _DOCUMENT.read(msgspec.json.encode(document)).events.items():
                rule = _rule(name, given)
                if kind_word(name) in events:
                    raise UsageError(f'events."{name}": it is there twice, in another spelling. Keep one of them.')
                events[kind_word(name)] = rule
        except TouchstoneError as problem:
            raise UsageError(f"{where}{problem}") from None
        return cls(events)

    def rule(self, event: str) -> EventRule:
        """The rule of an event; one that says nothing if there is none."""
        return self.events.get(kind_word(event), _PLAIN)


_PLAIN = EventRule()


def _rule(name: str, given: Any) -> EventRule:
    try:
        rule = _RULE.read(msgspec.json.encode(given))
    except FieldError as problem:
        raise UsageError(f'events."{name}"{"." if problem.field else ": "}{problem}') from None
    if wrong := _problem(rule):
        raise UsageError(f'events."{name}": {wrong}')
    return rule


def _problem(rule: EventRule) -> str | None:
    says = [what for what, given in (("channel or action", rule.channel or rule.action), ("outcome", rule.outcome),
                                     ("ignore", rule.ignore)) if given]  # fmt: skip
    if len(says) > 1:
        return f"it is {' and '.join(says)}. Keep one of them: a touch, an outcome or nothing."
    for what in ("channel", "action"):
        text = getattr(rule, what)
        if text is not None and not 0 < len(text.strip()) <= LONGEST:
            return f"{what} {text[:LONGEST]!r} has {len(text.strip()):,} characters. Give 1 to {LONGEST}."
    if not re.fullmatch(r"properties(\.[^.]+)+", rule.value):
        return f"value {rule.value!r} is no place of a number. Write e.g. properties.minutes."
    return None
