"""Who may call: each request is admitted, for one tenant, before it is answered."""

from __future__ import annotations

from typing import Literal, Protocol

from starlette.requests import Request

Scope = Literal["", "ingest", "score", "read", "admin"]
"""What a key may be used for; the empty one needs no key."""


class Access(Protocol):
    """Lets requests in or raises a RequestError."""

    async def admit(self, request: Request, scope: Scope) -> None:
        """Writes to `request.scope` whose leads the request is about (`tenant`), who asks (`key`), and whether
        touches that come with it count as known when they occurred (`imports`)."""
        ...


class Open:
    """Lets everybody in, as one tenant: for a service that only its own machine can reach.

    >>> Open("acme").tenant
    'acme'
    """

    def __init__(self, tenant: str = "default", *, imports: bool = False) -> None:
        self.tenant = tenant
        self.imports = imports

    async def admit(self, request: Request, scope: Scope) -> None:
        """Admits it."""
        request.scope.update(tenant=self.tenant, key="", imports=self.imports)
