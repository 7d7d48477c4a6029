"""What all requests share: one object that a running service is made of; nothing else is global."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from features.errors import UsageError
from models.scorer import Scorer
from serving.access import Access
from serving.archive import Archive
from serving.background import Background
from serving.errors import FieldError
from serving.log import Log
from serving.metrics import Metrics
from serving.policy import InForce, Policies
from serving.receipts import Receipts
from serving.settings import Settings
from serving.shadow import Shadow
from serving.store import Store
from serving.store.writing import word
from serving.together import Together
from serving.touched import Touched


@dataclass
class Service:
    """A running service.

    >>> Service(scorer=..., store=..., access=..., settings=Settings(port=9000)).settings.port
    9000
    """

    scorer: Scorer
    """The model that serves; another one takes its place by one assignment, so a request reads it once."""
    store: Store
    access: Access
    settings: Settings
    background: Background = field(default_factory=Background)
    metrics: Metrics = field(default_factory=Metrics)
    log: Log = field(default_factory=Log)
    shadow: Shadow = field(default_factory=Shadow)
    touched: Touched = field(default_factory=Touched)
    policies: Policies = field(init=False)
    archive: Archive = field(init=False)
    receipts: Receipts = field(init=False)
    together: Together = field(init=False)

    def __post_init__(self) -> None:
        self.policies = Policies(self.store)
        self.archive = Archive(self.store)
        self.receipts = Receipts(self.store, self.metrics)
        self.together = Together(self.metrics, self.shadow)


def tenant_of(request: Request) -> str:
    """Whose leads a request is about, as its key says."""
    tenant: Any = request.scope["tenant"]
    return str(tenant)


def scorer_at(service: Service, instant: int) -> Scorer:
    """The model that served at an instant, in microseconds; the one that serves now where none is known to.

    A model that serves no more is restored first, which takes about a second.
    """
    return service.archive.scorer_at(instant) or service.scorer


async def policy_for(service: Service, request: Request) -> InForce:
    """The policy by which a request is answered."""
    return await service.policies.of(tenant_of(request))


def actor_of(request: Request) -> str:
    """Who asks, for the audit log."""
    return f"key:{request.scope['key']}" if request.scope.get("key") else "http"


def imports(request: Request) -> bool:
    """Whether a request loads the past: then what it sends counts as known from when it occurred, else from now on."""
    return bool(request.scope.get("imports", False))


def lead_of(request: Request) -> str:
    """Which lead a path is about. Raises FieldError if it can be none."""
    return lead_name(request.path_params["lead_id"])


def lead_name(given: str) -> str:
    """A lead's id as it is stored. Raises FieldError if it cannot be."""
    try:
        return word(given, "lead_id")
    except UsageError as problem:
        raise FieldError("lead_id", str(problem)) from None
