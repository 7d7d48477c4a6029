"""The service's log: JSON lines on standard error that name no lead, no body and no query."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import Any

import msgspec

from serving.store import StoreError

_MOST = 10_000
"""Lines kept for a reader that is slow; then the oldest are lost, and counted."""
_EVERY = 0.1
_WHOLE = 4_096
"""Bytes that a pipe takes at once, so that the lines of several workers do not mix."""
_encode = msgspec.json.Encoder().encode


class Log:
    """Writes lines from a thread of its own, so that a reader that hangs holds up no request.

    >>> log = Log()
    >>> log.line("info", "request", status=200)
    >>> len(log.waiting)
    1
    """

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque(maxlen=_MOST)
        self._added = 0
        self._written = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def line(self, level: str, event: str, **fields: Any) -> None:
        """Adds a line: an instant, `level`, `event` and the fields."""
        self._added += 1
        # At once: a line takes less memory than what is to be said in it, and requests wait for memory.
        self.waiting.append(_encode({"at": datetime.now(UTC), "level": level, "event": event, **fields}))

    def start(self) -> None:
        """Begins to write, also what libraries warn of."""
        handler = _Library(self)
        logging.getLogger().addHandler(handler)
        self._thread = threading.Thread(target=self._run, name="touchstone-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes what waits, unless nobody reads it for a second."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join(1.0)
        root = logging.getLogger()
        for handler in [each for each in root.handlers if isinstance(each, _Library) and each.log is self]:
            root.removeHandler(handler)

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = []
        while self.waiting:
            lines.append(self.waiting.popleft())
        lost = self._added - self._written - len(lines) - len(self.waiting)
        self._written += len(lines)
        if lost > 0:
            self._written += lost
            lines.append(_encode({"level": "warning", "event": "lines lost", "count": lost}))
        part = b""
        for line in lines:
            if len(part) + len(line) >= _WHOLE:
                _put(part)
                part = b""
            part += line + b"\n"
        _put(part)


def _put(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stderr.fileno(), data) :]


class _Library(logging.Handler):
    """Takes what libraries warn of, without the texts of exceptions, which may hold anything."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {}
        if record.exc_info and record.exc_info[1] is not None:
            fields = fault(record.exc_info[1])
        message = record.getMessage().strip().partition("\n")[0]
        self.log.line(record.levelname.lower(), "library", logger=record.name, message=message, **fields)


def fault(error: BaseException) -> dict[str, Any]:
    """What may be told of an exception: its type and where it was raised, and of a database that it cannot be had."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    told: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, StoreError):
        cause = getattr(error.__cause__, "orig", None) or error.__cause__
        # What other errors of a database say may quote what was to be stored.
        if cause is None or type(cause).__name__ == "OperationalError":
            told["message"] = str(error)
        return told
    return {**told, "frames": [f"{os.path.basename(each.filename)}:{each.lineno} {each.name}" for each in frames]}
