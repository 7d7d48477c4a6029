"""Pages of a list: the place where the next one begins, as text that the caller gives back."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request

from serving.errors import FieldError
from serving.store.rows import FIRST, LAST

LONGEST_PAGE = 1_000
PAGE_PARAMETERS: dict[str, dict[str, Any]] = {
    "limit": {
        "type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": 100, "description": "How many at most.",
    },
    "cursor": {
        "type": "string", "description": "What the page before gave to go on with; left out: from the beginning.",
    },
}  # fmt: skip


def limit_of(request: Request) -> int:
    """How many are asked for."""
    given = request.query_params.get("limit", "100")
    if not (given.isascii() and given.isdecimal() and len(given) <= 4 and 1 <= int(given) <= LONGEST_PAGE):
        raise FieldError("limit", f"got {given[:80]!r}. Ask for 1 to {LONGEST_PAGE:,}.")
    return int(given)


def cursor_of(place: Any) -> str:
    """Writes the place after which the next page begins.

    >>> read_cursor(cursor_of((5, "a")), tuple[int, str])
    (5, 'a')
    """
    return urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def address_of(request: Request, cursor: str) -> str:
    """The address of the page that a cursor leads to: that of a request, whose operation is `addressed`.

    An id in the path stays as it was sent, since an encoded slash in it is none of the path's.
    """
    sent: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    path = quote(sent, safe="%/:@!$&'()*+,;=~")
    return str(request.url.replace(path=path).include_query_params(cursor=cursor))


def read_cursor(cursor: str, kind: Any) -> Any:
    """Reads what `cursor_of` wrote. Raises FieldError if it is none, or no database could be asked for it."""
    try:
        place = msgspec.json.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=kind)
        for part in msgspec.to_builtins(place):
            if (isinstance(part, str) and "\0" in part) or (isinstance(part, int) and not FIRST <= part <= LAST):
                raise ValueError
        return place
    except ValueError:
        raise FieldError("cursor", f"{cursor[:80]!r} is no cursor. Send what the page before gave.") from None
