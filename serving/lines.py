"""Lines of JSON in, lines of JSON out: any number of them, in constant memory."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import BinaryIO, TypeAlias

from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.operation import NDJSON

Work: TypeAlias = Callable[[int, Sequence[bytes]], bytes]
"""Answers lines, of which the first has a number, with lines."""
_NAMES = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")
_LINES, _BYTES = 1_000, 4_000_000
"""How many lines, and how many bytes of them, are worked on at once."""
_PIECE = 65_536


def is_lines(request: Request) -> bool:
    """Whether a body is said to be lines of JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() in _NAMES


class LinesResponse(Response):
    """Answers lines while they still come in.

    Many clients read nothing until they have sent everything. What they do not take yet goes to a file on disk, since
    the connection would stand still if the service waited for them.
    """

    media_type = NDJSON

    def __init__(self, request: Request, work: Work, longest: int) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._request, self._work, self._longest = request, work, longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads, works and sends until the last line is answered."""
        with tempfile.TemporaryFile() as file:
            spool = _Spool(file)
            begin = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            sending = asyncio.create_task(_send(spool, begin, send))
            try:
                number = 1
                async for lines in _chunks(self._request, self._longest):
                    await spool.put(await run_sync(self._work, number, lines))
                    number += len(lines)
                    if sending.done():
                        break
                await spool.put(b"")
                await sending
            except ClientDisconnect:
                # Nobody reads the rest.
                return
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await sending


class _Spool:
    """A queue of bytes in a file; nothing at all ends it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = self._read = 0
        self._ended = False
        self._more = asyncio.Event()
        self._lock = Lock()

    async def put(self, data: bytes) -> None:
        """Appends; once all was taken it begins anew, so that the file stays as small as what waits."""
        if self._read == self._written:
            self._read = self._written = 0
        await run_sync(self._write, data)
        self._written += len(data)
        self._ended |= not data
        self._more.set()

    async def get(self) -> bytes:
        """The next bytes; none at the end."""
        while self._read == self._written and not self._ended:
            self._more.clear()
            await self._more.wait()
        data = await run_sync(self._take)
        self._read += len(data)
        return data

    def _write(self, data: bytes) -> None:
        with self._lock:
            self._file.seek(self._written)
            self._file.truncate()
            self._file.write(data)

    def _take(self) -> bytes:
        with self._lock:
            self._file.seek(self._read)
            return self._file.read(min(_PIECE, self._written - self._read))


async def _send(spool: _Spool, begin: dict[str, object], send: Send) -> None:
    data = await spool.get()
    await send(begin)
    while data:
        await send({"type": "http.response.body", "body": data, "more_body": True})
        data = await spool.get()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _chunks(request: Request, longest: int) -> AsyncIterator[list[bytes]]:
    """Puts a body together as lists of lines; of a line that is too long a part is kept, to be refused."""
    lines: list[bytes] = []
    size, rest = 0, bytearray()
    async for piece in request.stream():
        *whole, last = piece.split(b"\n")
        for part in whole:
            rest += part[: longest + 1 - len(rest)]
            lines.append(bytes(rest))
            size += len(rest)
            rest.clear()
            if len(lines) >= _LINES or size >= _BYTES:
                yield lines
                lines, size = [], 0
        rest += last[: longest + 1 - len(rest)]
    if rest:
        lines.append(bytes(rest))
    if lines:
        yield lines
