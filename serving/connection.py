"""One caller's connection: what is read from it, how long it is waited for, and how answers go out."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_SLOWEST = 1_000
"""Bytes a second below which a body is taken to stand still."""
_LAST_MOMENT = 0.5
"""Seconds in which a request may still come over a connection that is about to be closed."""
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LARGE = 65_536
"""Bytes that are sent at once: to join more costs more than it spares."""


class Patient(HttpToolsProtocol):
    """uvicorn's protocol with deadlines: callers who send half a request and stop are let go.

    At a stop, a request that is on its way over an open connection is answered still.
    """

    def __init__(self, *arguments: Any, header_seconds: float, body_seconds: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._header_seconds = header_seconds
        self._body_seconds = body_seconds
        self._deadline: float | None = None
        self._begun = False
        self._leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
        self._deadline = self.loop.time() + self._header_seconds
        self._look_again()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        self._deadline = self.loop.time() + self._header_seconds

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._deadline = self.loop.time() + self._body_seconds
        if self._leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self._deadline is not None:
            # Each byte gives a millisecond, and no store of them is laid up.
            latest = self.loop.time() + self._body_seconds
            self._deadline = min(self._deadline + len(body) / _SLOWEST, latest)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._begun = False
        self._deadline = None

    def shutdown(self) -> None:
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_MOMENT, self._leave)
        else:
            super().shutdown()

    def _leave(self) -> None:
        if not self._begun:
            super().shutdown()

    def _look_again(self) -> None:
        self.loop.call_later(1.0, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        now = self.loop.time()
        if self._deadline is not None and self.flow.read_paused:
            # It is we who do not read.
            self._deadline = max(self._deadline, now + self._body_seconds)
        if self._deadline is None or now < self._deadline:
            self._look_again()
            return
        if self._begun and (self.cycle is None or not self.cycle.response_started or self.cycle.response_complete):
            self.transport.write(_LATE)
        self.transport.close()


class Joined:
    """A transport that sends at once what is written to it while the event loop turns once.

    uvicorn writes an answer's headers and its body apart: two calls of the kernel for one answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Sends it when the loop has turned, or now if it is large."""
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)
        if len(data) >= _LARGE:
            self._send()

    def close(self) -> None:
        """Sends what was written, and closes."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._written and not self._transport.is_closing():
            self._transport.write(b"".join(self._written))
        self._written.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
