"""The body of a request: read up to a limit, and made into one of our types or refused field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, get_args

import msgspec
from starlette.requests import Request

from serving.errors import FieldError, Malformed, TooLarge, WrongMedia

T = TypeVar("T", bound=msgspec.Struct)
Step = str | int

_TIME = "ISO 8601 with seconds and an offset, e.g. 2026-02-28T14:00:00Z"
_SAID = re.compile(r"^(.*?)(?: - at (`key` in )?`\$(.*?)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_NAMES = {
    "object": "an object",
    "array": "a list",
    "datetime": f"a time in {_TIME}",
    "str": "text",
    "float": "a number",
    "int": "a whole number",
    "bool": "true, false",
    "null": "null",
}
"""What msgspec calls things and we do, in the order to name them."""
_UNKNOWN = object()


async def read_body(request: Request, limit: int) -> bytes:
    """Reads a JSON body of at most `limit` bytes."""
    media = request.headers.get("content-type", "application/json")
    if "json" not in media.lower():
        raise WrongMedia(f"content-type {media!r} is not JSON. Send application/json.")
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    body = bytearray()
    if size <= limit:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
    if max(size, len(body)) > limit:
        raise TooLarge(f"the body is larger than {limit:,} bytes. Send fewer leads or touchpoints at a time.")
    return bytes(body)


class Reader(Generic[T]):
    """Makes bodies into a type; raises FieldError or Malformed with what is wrong, what was received and the mend."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode

    def read(self, body: bytes) -> T:
        """Decodes and checks a body."""
        try:
            value = self._decode(body)
        except msgspec.ValidationError as error:
            raise self._refusal(str(error), body) from None
        except RecursionError:
            raise Malformed("the body is nested too deeply. Send the fields that /docs shows.") from None
        except UnicodeDecodeError:
            raise Malformed("the body is not UTF-8. Encode it as UTF-8.") from None
        except msgspec.DecodeError as error:
            raise Malformed(_not_json(str(error), body)) from None
        # PostgreSQL cannot store it, and no name has it.
        if b"\\u0000" in body:
            for path in _with_nul(_plain(body)):
                raise FieldError(path, "it holds the character NUL (\\u0000); leave that out.")
        return value

    def _refusal(self, message: str, body: bytes) -> FieldError:
        match = _SAID.match(message)
        says, key, path = match.groups() if match else (message, None, None)
        steps = _steps(path or "")
        try:
            document = _plain(body)
        except (ValueError, RecursionError):
            # What is beyond the error may be no JSON at all; then the error is all there is to tell.
            document = _UNKNOWN
        if "..." in steps or key:
            steps = _find_entry(self._kind, [step for step in steps if step != "..."], document)
        value = steps[-1] if key else _at(document, steps)
        got = "the value" if value is _UNKNOWN else _shortened(value)
        named = re.search(r"(required|unknown) field `(.*)`", says)
        if not named:
            return FieldError(_path(steps), _mend(says, got))
        names = [field.encode_name for field in msgspec.structs.fields(_type_at(self._kind, steps))]
        if named[1] == "required":
            return FieldError(_path([*steps, named[2]]), f"it is required, but missing from {got}. Add it.")
        close = get_close_matches(named[2], names, 1)
        mend = f"Did you mean {close[0]}?" if close else f"Leave it out; the fields are {', '.join(names)}."
        return FieldError(_path([*steps, named[2]]), f"there is no such field. {mend}")


def _mend(says: str, got: str) -> str:
    """Says what msgspec says in words for those who send JSON."""
    if "timezone" in says:
        return f"{got} has no offset from UTC. Write {_TIME}."
    if "RFC3339" in says:
        return f"{got} is not a time, or there is no such day. Write {_TIME}."
    if "out of range" in says:
        return f"{got} is too large for a number. Send one below 1e308."
    if length := re.search(r"length (>=|<=) (\d+)", says):
        if length[1] == ">=":
            return f"{got} is too short. Send at least {length[2]} character."
        return f"{got} is too long. Send at most {length[2]} characters."
    if expected := re.match(r"Expected `(.*?)`, got `(.*?)`", says):
        *names, last = [words for name, words in _NAMES.items() if name in expected[1].split(" | ")]
        received = _NAMES.get(expected[2], expected[2]) if got == "the value" else got
        return f"got {received}. Send {', '.join(names) + ' or ' if names else ''}{last}."
    return f"{says}; got {got}."


def _not_json(says: str, body: bytes) -> str:
    if not body.strip():
        return "the body is empty. Send a JSON object; /docs shows one."
    place = re.search(r"\(byte (\d+)\)", says)
    if place is None:
        return "the body is not valid JSON: it ends in the middle of a value or holds half a character. Send it whole."
    begin = int(place[1])
    seen = body[max(0, begin - 20) : begin + 20].decode("utf-8", "replace")
    mend = (
        "JSON knows no NaN or Infinity; send null." if body[begin : begin + 2].strip(b"-")[:1] in b"NI" else "Mend it."
    )
    return f"the body is not valid JSON at byte {begin}, near {seen!r}. {mend}"


def _plain(body: bytes) -> Any:
    # The standard library reads what msgspec refuses, numbers that are too large above all.
    return json.loads(body)


def _steps(path: str) -> list[Step]:
    return [int(place) if place.isdecimal() else name or place for name, place in _STEP.findall(path)]


def _path(steps: list[Step]) -> str:
    """Writes a path, e.g. `leads[3].attributes.industry`."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier() and len(step) <= 80:
            text += f".{step}"
        else:
            text += f"[{_shortened(step)}]"
    return text.removeprefix(".")


def _at(value: Any, steps: list[Step]) -> Any:
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return _UNKNOWN
    return value


def _type_at(kind: Any, steps: list[Step]) -> Any:
    for step in steps:
        if isinstance(step, int):
            kind = get_args(kind)[0]
        else:
            kind = next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == step)
    return kind


def _find_entry(kind: Any, steps: list[Step], document: Any) -> list[Step]:
    """The path of the entry of a mapping that msgspec refused: it says which mapping, not which entry."""
    mapping, wanted = _at(document, steps), _type_at(kind, steps)
    for key, entry in mapping.items() if isinstance(mapping, dict) else ():
        try:
            msgspec.json.decode(json.dumps({key: entry}), type=wanted)
        except (ValueError, RecursionError):
            return [*steps, key]
    return steps


def _with_nul(value: Any, steps: tuple[Step, ...] = ()) -> Iterator[str]:
    """The paths of the texts that hold NUL."""
    if isinstance(value, str) and "\0" in value:
        yield _path(list(steps))
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _with_nul(entry, (*steps, place))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _with_nul(key, (*steps, key))
            yield from _with_nul(entry, (*steps, key))


def _shortened(value: Any) -> str:
    # Half a surrogate pair can be read, but not written.
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:80]}..."
