"""What comes before an operation answers: may its caller ask, is there room, and was it done already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from serving.errors import Busy
from serving.idempotency import once
from serving.operation import Operation
from serving.service import Service


class Gate:
    """Lets so many requests at once be worked on.

    >>> gate = Gate(most=1)
    >>> gate.enter(), gate.inside
    (None, 1)
    >>> gate.enter()
    Traceback (most recent call last):
    serving.errors.Busy: as many requests as can be answered at once are being answered. Send it again in 1 s.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0

    def enter(self) -> None:
        """Raises Busy if there is no room."""
        if self.inside >= self.most:
            raise Busy("as many requests as can be answered at once are being answered.")
        self.inside += 1


def endpoint(operation: Operation, service: Service, gate: Gate) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of an operation: who may not call it gets no further."""
    access, answer = service.access, operation.answer
    if operation.idempotent:
        answer = once(answer, service.store, service.settings.max_bulk_body)
    if not operation.scope:

        async def open_to_all(request: Request) -> Response:
            request.scope["operation"] = operation
            return await answer(request)

        return open_to_all

    async def admitted(request: Request) -> Response:
        request.scope["operation"] = operation
        await access.admit(request, operation.scope)
        turn = _Turn(gate, request.receive)
        if not operation.request:
            turn.begin()
        try:
            return await answer(Request(request.scope, turn.receive))
        finally:
            turn.end()

    return admitted


class _Turn:
    """One request's way through the gate. It begins when the body is here, so that half-sent ones take no room.

    An answer that streams reads its body after its turn is over: it works on a little at a time.
    """

    def __init__(self, gate: Gate, receive: Receive) -> None:
        self._gate = gate
        self._receive = receive
        self._begun = False
        self._over = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self.begin()
        return message

    def begin(self) -> None:
        if not (self._begun or self._over):
            self._gate.enter()
            self._begun = True

    def end(self) -> None:
        self._over = True
        if self._begun:
            self._gate.inside -= 1
