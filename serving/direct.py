"""The short way to an operation: found in a table, past the layers of FastAPI that cost more than a score does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from serving.operation import Operation, route

Handler: TypeAlias = Callable[[Request, Any], Coroutine[Any, Any, Response]]
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Seen: TypeAlias = Callable[[Scope, int, float], None]
"""Takes note of a request: its scope, the status of the answer, and how many seconds that took."""


class Direct(FastAPI):
    """FastAPI, whose operations are answered without it, but for those that are addressed; it knows all of them, and
    answers everything else.

    >>> app = Direct([], seen=lambda scope, status, seconds: None, handlers={})
    >>> app.openapi_url
    '/openapi.json'
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[Operation, Endpoint]],
        *,
        seen: Seen,
        handlers: Mapping[Any, Handler],
        **options: Any,
    ) -> None:
        """Takes operations with what answers them; `handlers` answer what they and FastAPI raise.

        `seen` is told of every request.
        """
        routes = [route(operation, endpoint) for operation, endpoint in endpoints]
        super().__init__(routes=[*routes], exception_handlers={**handlers}, **options)
        short = [
            (each, endpoint)
            for each, (operation, endpoint) in zip(routes, endpoints, strict=True)
            if not operation.addressed
        ]
        self._fixed = {
            (method, each.path): endpoint
            for each, endpoint in short
            for method in each.methods or ()
            if "{" not in each.path
        }
        self._others = [(each, endpoint) for each, endpoint in short if "{" in each.path]
        self._handlers = {kind: handler for kind, handler in handlers.items() if kind is not Exception}
        self._handled = tuple(self._handlers)
        self._on_crash: Handler | None = handlers.get(Exception)
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""
        scope["app"] = self
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        began, status = perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            endpoint = self._endpoint(scope)
            if endpoint is None:
                await super().__call__(scope, receive, watched)
                return
            request = Request(scope, receive, send)
            try:
                response = await endpoint(request)
            except self._handled as error:
                kind = next(kind for kind in type(error).__mro__ if kind in self._handlers)
                response = await self._handlers[kind](request, error)
            except Exception as error:
                if self._on_crash is not None:
                    await (await self._on_crash(request, error))(scope, receive, send)
                # The server is to know of it, too.
                raise
            status = response.status_code
            await response(scope, receive, send)
        finally:
            self._seen(scope, status, perf_counter() - began)

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        found = self._fixed.get((scope["method"], scope["path"]))
        if found is not None:
            return found
        for each, endpoint in self._others:
            match, inner = each.matches(scope)
            if match is Match.FULL:
                scope.update(inner)
                return endpoint
        return None
