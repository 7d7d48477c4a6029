"""What a tenant decides: its tiers and routes, what a purchase brings, what events mean, and what was agreed on."""

from __future__ import annotations

import asyncio
import secrets
import time
import tomllib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from anyio.to_thread import run_sync

from features.errors import TouchstoneError, UsageError
from features.records import LONGEST
from features.times import isoformat
from models.scorer import Scorer
from models.tiers import Tiers
from serving.body import Reader
from serving.errors import Busy, FieldError
from serving.mapping import EventRule, Mapping
from serving.schemas import TierPolicy
from serving.store import Entry, Setting, Store, StoreError

Route = Literal["marketing", "nurture", "sales"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_NAME = "policy"
_FRESH = 4.0
"""Seconds for which what the store said of a policy is believed; with the time to read it less than 5."""


class Cuts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which probability on a lead is warm or hot.

    >>> Cuts(warm=0.1, hot=0.3).hot
    0.3
    """

    warm: Share
    hot: Share


class Routes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose turn it is.

    >>> Routes(warm="marketing").hot
    'sales'
    """

    cold: Route = "marketing"
    warm: Route = "nurture"
    hot: Route = "sales"


class Worth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a purchase brings; what is left out is as the service's settings say.

    >>> Worth(average_deal=4_000.0).amount is None
    True
    """

    amount: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)] | None,
        msgspec.Meta(description="The attribute that holds what a lead would bring."),
    ] = None
    average_deal: Annotated[
        Annotated[float, msgspec.Meta(gt=0)] | None,
        msgspec.Meta(description="What a lead without an amount of its own brings."),
    ] = None


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What marketing and sales promise each other.

    >>> Agreement(hot_leads_a_week=20, first_touch_hours=24).first_touch_hours
    24
    """

    hot_leads_a_week: Annotated[
        int, msgspec.Meta(ge=0, description="Leads that marketing makes hot in a week, at least.")
    ]
    first_touch_hours: Annotated[
        float, msgspec.Meta(gt=0, description="Hours from a lead becoming hot in which sales has touched it.")
    ]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a tenant decides; what is left out is as the model and the service's settings say.

    >>> Policy(routes=Routes(warm="marketing")).tiers is None
    True
    """

    tiers: Annotated[Cuts | None, msgspec.Meta(description="Left out: the model's own.")] = None
    routes: Routes | None = None
    worth: Worth | None = None
    events: Annotated[
        dict[str, EventRule] | None,
        msgspec.Meta(description="What events of Segment's protocol mean, in the place of what holds for all."),
    ] = None
    sla: Agreement | None = None


class PolicyResponse(msgspec.Struct, frozen=True):
    """A tenant's policy, and the tiers that follow from it."""

    policy: Policy
    version: Annotated[
        str | None, msgspec.Meta(description="When its tiers and routes were last set; null: it has neither.")
    ]
    tiers: Annotated[TierPolicy, msgspec.Meta(description="What the tenant's scores go by now.")]


_READER = Reader(Policy)


class _Stored(msgspec.Struct, frozen=True):
    policy: Policy
    version: str | None = None


@dataclass(frozen=True, eq=False)
class InForce:
    """A tenant's policy as the service goes by it.

    >>> own = Tiers(version="2026-10-01", warm=0.1, hot=0.3)
    >>> InForce(Policy(tiers=Cuts(warm=0.2, hot=0.4)), "2026-11-02T09:00:00Z").tiers(own).hot
    0.4
    >>> InForce().tiers(own) is own
    True
    """

    policy: Policy = field(default_factory=Policy)
    version: str | None = None
    """What answers call its tiers and routes: when they were last set; None where it has neither."""
    _last: dict[str, tuple[Scorer, Scorer]] = field(default_factory=dict, repr=False)

    def tiers(self, own: Tiers) -> Tiers:
        """The tiers to go by, in the place of a model's own."""
        cuts, routes = self.policy.tiers, self.policy.routes
        if cuts is None and routes is None:
            return own
        return Tiers(
            # Cut-offs that are the model's change with it.
            version=str(self.version) if cuts else f"{own.version}+{self.version}",
            warm=cuts.warm if cuts else own.warm,
            hot=cuts.hot if cuts else own.hot,
            exit=own.exit,
            routes=msgspec.to_builtins(routes) if routes else own.routes,
        )

    def scorer(self, own: Scorer) -> Scorer:
        """The scorer to score with, in the place of one with its model's own tiers."""
        known = self._last.get("scorer")
        if known is None or known[0] is not own:
            tiers = self.tiers(own.tiers)
            known = own, own if tiers is own.tiers else replace(own, tiers=tiers)
            self._last["scorer"] = known
        return known[1]

    @cached_property
    def mapping(self) -> Mapping | None:
        """What events mean; None where the policy does not say."""
        events = self.policy.events
        return None if events is None else Mapping.of({"events": msgspec.to_builtins(events)})


def parse_policy(body: bytes) -> Policy:
    """Reads a policy in JSON. Raises FieldError with the path of what is wrong."""
    policy = _READER.read(body)
    cuts = policy.tiers
    if cuts is not None and cuts.warm > cuts.hot:
        raise FieldError("tiers.warm", f"got {cuts.warm:g}, which is above hot, {cuts.hot:g}. Send at most that.")
    try:
        InForce(policy).mapping  # noqa: B018
    except UsageError as problem:
        raise FieldError("events", str(problem)) from None
    return policy


def read_policy(path: Path) -> Policy:
    """Reads a policy from a file in TOML or JSON. Raises UsageError if it is wrong."""
    try:
        body = path.read_bytes()
        if path.suffix.lower() == ".toml":
            body = msgspec.json.encode(tomllib.loads(body.decode("utf-8-sig")))
        return parse_policy(body)
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}. Name a policy file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UsageError(f"{path} is not TOML: {problem}. docs/routing.md shows a policy.") from None
    except TouchstoneError as problem:
        raise UsageError(f"{path}: {problem}") from None


def policy_of(store: Store, tenant: str) -> InForce:
    """The policy of a tenant; one that decides nothing if it has none. Raises Busy if what is stored is none."""
    found = store.find(Setting, tenant, {"name": _NAME}, limit=1)
    return _in_force(tenant, found[0].body) if found else InForce()


def set_policy(store: Store, tenant: str, policy: Policy, actor: str) -> InForce:
    """Puts a policy in force, in the place of the one before, and says so in the audit log."""
    now = time.time_ns() // 1_000
    before = policy_of(store, tenant)
    same = (policy.tiers, policy.routes) == (before.policy.tiers, before.policy.routes)
    named = policy.tiers is not None or policy.routes is not None
    stored = _Stored(policy, (before.version if same else isoformat(now)) if named else None)
    said: dict[str, Any] = msgspec.to_builtins(policy)
    entry = Entry(at=now, id=secrets.token_hex(8), actor=actor, action="policy set", subject=tenant, detail=said)
    store.put(tenant, [Setting(name=_NAME, body=msgspec.to_builtins(stored)), entry]).result()
    return InForce(stored.policy, stored.version)


class Policies:
    """The policies of all tenants, at most a few seconds old; to be used in one event loop.

    >>> Policies(store=...).known
    {}
    """

    def __init__(self, store: Store) -> None:
        self.known: dict[str, InForce] = {}
        self._store = store
        self._bodies: dict[str, dict[str, Any] | None] = {}
        self._until: dict[str, float] = {}
        self._readings: dict[str, asyncio.Task[InForce]] = {}

    async def of(self, tenant: str) -> InForce:
        """The policy of a tenant; where the store cannot be read, the last that was known.

        Raises Busy if what is stored is none.
        """
        if time.monotonic() < self._until.get(tenant, 0.0):
            return self.known[tenant]
        reading = self._readings.get(tenant)
        if reading is None:
            reading = self._readings[tenant] = asyncio.create_task(self._read(tenant))
            reading.add_done_callback(lambda _: self._readings.pop(tenant, None))
        # A caller who goes away ends nobody else's wait.
        return await asyncio.shield(reading)

    def forget(self, tenant: str) -> None:
        """Has the policy of a tenant read anew, for it was set."""
        self._until.pop(tenant, None)

    async def _read(self, tenant: str) -> InForce:
        until = time.monotonic() + _FRESH
        try:
            found = await run_sync(lambda: self._store.find(Setting, tenant, {"name": _NAME}, limit=1))
        except StoreError:
            if tenant not in self.known:
                raise
        else:
            body = found[0].body if found else None
            # The same one stays, for a scorer was made for it.
            if tenant not in self.known or body != self._bodies[tenant]:
                self.known[tenant] = InForce() if body is None else _in_force(tenant, body)
                self._bodies[tenant] = body
        self._until[tenant] = until
        return self.known[tenant]


def _in_force(tenant: str, body: dict[str, Any]) -> InForce:
    try:
        stored = msgspec.convert(body, _Stored)
        return InForce(parse_policy(msgspec.json.encode(stored.policy)), stored.version)
    except (msgspec.ValidationError, FieldError) as problem:
        # Whoever asks or sends events can do nothing about it.
        raise Busy(f"the policy of {tenant!r} cannot be used: {problem} Set it anew.", 60) from None
