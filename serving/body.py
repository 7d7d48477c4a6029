"""The body of a request: read up to a limit, and made into one of our types or refused field by field."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from features.records import Instant
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
    media = _header(request, b"content-type", "application/json")
    if "json" not in media.lower():
        raise WrongMedia(f"content-type {media!r} is not JSON. Send application/json.")
    return await read_unpacked(request, limit)


async def read_unpacked(request: Request, limit: int) -> bytes:
    """Reads a body of at most `limit` bytes, whatever it says that it is; a gzip one is unpacked up to the limit."""
    encoding = encoding_of(request)
    if encoding not in ("identity", "gzip", ""):
        raise WrongMedia(f"content-encoding {encoding!r} is not known. Send gzip, or leave it out.")
    body = await read_raw(request, limit)
    return _unpacked(body, limit) if encoding == "gzip" else body


def encoding_of(request: Request) -> str:
    """How a body is packed, by its own account."""
    return _header(request, b"content-encoding", "identity").strip().lower()


async def read_raw(request: Request, limit: int) -> bytes:
    """Reads a body of at most `limit` bytes as it was sent."""
    declared = _header(request, b"content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    body = b""
    if size <= limit:
        message = await _received(request)
        body = message.get("body", b"")
        if message.get("more_body", False):
            parts = bytearray(body)
            while message.get("more_body", False) and len(parts) <= limit:
                message = await _received(request)
                parts += message.get("body", b"")
            body = bytes(parts)
    if max(size, len(body)) > limit:
        raise _too_large(limit)
    return body


async def _received(request: Request) -> Message:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


def _header(request: Request, name: bytes, default: str) -> str:
    """A header, without the mapping of all that Starlette makes first."""
    for key, value in request.scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return default


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit:,} bytes. Send fewer leads or touchpoints at a time.")


def _unpacked(body: bytes, limit: int) -> bytes:
    """Unpacks gzip, however much it claims to hold."""
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacking.decompress(body, limit + 1)
    except zlib.error:
        raise Malformed("the body is not gzip, though content-encoding says so. Pack it, or leave that out.") from None
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not unpacking.eof:
        raise Malformed("the gzip body ends too early. Send it whole.")
    if unpacking.unused_data:
        # What is not read must not be acknowledged.
        raise Malformed("the gzip body goes on after its end. Pack it as one member.")
    return unpacked


def read_time(name: str, text: str) -> datetime:
    """Reads an instant of the query string, in UTC."""
    # A plus sign stands for a blank there, and is rarely written as it should be.
    text = re.sub(r"(\.\d{6})\d+", r"\1", re.sub(r"(T\S*) (\d\d:\d\d)$", r"\1+\2", text))
    try:
        return msgspec.convert(text, Instant).astimezone(UTC)
    except msgspec.ValidationError as error:
        raise FieldError(name, _mend(str(error), _shortened(text))) from None
    except OverflowError:
        raise FieldError(name, f"{text} is beyond the years 1 to 9999 in UTC. Send one of them.") from None


# msgspec would round them, so that a touch could happen after what an instant in a table is cut to.
_FINER = re.compile(rb"\.\d{7}")
_FINE_TIME = re.compile(rb'("(?:occurred_at|recorded_at|created_at|as_of)"\s*:\s*"[^"\\]*\.\d{6})\d+')


class Reader(Generic[T]):
    """Makes bodies into a type; raises FieldError or Malformed with what is wrong, what was received and the mend."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode

    def read(self, body: bytes) -> T:
        """Decodes and checks a body; of times, digits beyond the microsecond are cut off, as in tables."""
        if _FINER.search(body):
            body = _FINE_TIME.sub(rb"\1", body)
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
            try:
                path = next(_with_nul(_plain(body)), None)
            except (ValueError, RecursionError):
                raise Malformed("the body holds the character NUL (\\u0000). Leave that out.") from None
            if path is not None:
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
        if says.startswith("Invalid enum value"):
            choices = " or ".join(_choices(_type_at(self._kind, steps)))
            return FieldError(_path(steps), f"got {got}. Send {choices}.")
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
    there = body[begin : begin + 2].removeprefix(b"-")
    mend = "JSON knows no NaN or Infinity; send null." if there.startswith((b"N", b"I")) else "Mend it."
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
    """The type of what is at a path, that of a struct where it may be one; Any where everything may be."""
    for step in steps:
        held = [get_args(one) for one in _kinds(kind)]
        if isinstance(step, int):
            kind = next((types[0] for types in held if types), Any)
        elif structs := _structs(kind):
            kind = next((field.type for field in msgspec.structs.fields(structs[0]) if field.encode_name == step), Any)
        else:
            kind = next((types[1] for types in held if len(types) == 2), Any)
    return (*_structs(kind), kind)[0]


def _kinds(kind: Any) -> Iterator[Any]:
    """The types that something may be of."""
    if get_origin(kind) is Annotated:
        yield from _kinds(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from _kinds(one)
    else:
        yield kind


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    return [one for one in _kinds(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]


def _choices(kind: Any) -> Iterator[str]:
    """The words that a type takes."""
    for one in get_args(kind):
        if isinstance(one, str):
            yield one
        yield from _choices(one)


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
