"""Answers go out as few pieces, whole and in order."""

import asyncio
from typing import Any

from serving.connection import Joined


class Sent:
    """A transport that keeps what it was given."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.pieces.append(b"(closed)")
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def sent(*steps: Any) -> Sent:
    """What goes out by steps in one turn of the loop: bytes to write, None for a turn of its own, or a method."""
    transport = Sent()

    async def run() -> None:
        joined = Joined(transport, asyncio.get_running_loop())  # type: ignore[arg-type]
        for step in steps:
            if isinstance(step, bytes):
                joined.write(step)
            elif step is None:
                await asyncio.sleep(0)
            else:
                step(joined)
        await asyncio.sleep(0)

    asyncio.run(run())
    return transport


def test_headers_and_body_go_out_together() -> None:
    assert sent(b"headers ", b"body").pieces == [b"headers body"]


def test_what_comes_later_does_not_hold_up_what_is_here() -> None:
    assert sent(b"headers", None, b"first ", b"line", None, b"last").pieces == [b"headers", b"first line", b"last"]


def test_much_is_sent_at_once_and_in_order() -> None:
    much = b"x" * 65_536
    assert sent(b"headers", much, b"more", b"end").pieces == [b"headers" + much, b"moreend"]


def test_nothing_is_lost_where_the_connection_is_closed() -> None:
    assert sent(b"headers ", b"body", lambda joined: joined.close()).pieces == [b"headers body", b"(closed)"]


def test_nothing_is_written_to_a_connection_that_the_caller_closed() -> None:
    transport = sent(b"headers", lambda joined: setattr(joined._transport, "closed", True))
    assert transport.pieces == []


def test_the_rest_of_a_transport_is_as_it_was() -> None:
    found: list[bool] = []
    sent(lambda joined: found.append(joined.is_closing()))
    assert found == [False]
