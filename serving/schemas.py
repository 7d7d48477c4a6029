"""What the service's JSON looks like: requests and answers, and the OpenAPI document is written from these types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from features.records import AttributeFact, Instant, LeadRecord, Touchpoint

__all__ = [
    "AttributeFact",
    "BulkRequest",
    "BulkResponse",
    "LeadRecord",
    "ModelReference",
    "ModelResponse",
    "Problem",
    "Reason",
    "ScoreRequest",
    "ScoreResponse",
    "Status",
    "TierPolicy",
    "Touchpoint",
]

Tier = Literal["cold", "warm", "hot"]


class ScoreRequest(LeadRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A lead to score, with all that is known of it."""

    as_of: Annotated[
        Instant | None,
        msgspec.Meta(
            description="As of when: only what was known before counts, and the lead must have been created before. "
            "Left out: the server's clock, and the answer says what that was."
        ),
    ] = None


class BulkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Leads to score together."""

    leads: tuple[ScoreRequest, ...]
    as_of: Annotated[Instant | None, msgspec.Meta(description="For the leads that give none of their own.")] = None


class Reason(msgspec.Struct, frozen=True):
    """What one kind of touch, or one attribute, does to a score."""

    text: Annotated[
        str, msgspec.Meta(description="In words, e.g. 2 demos in the last 30 days: 31 % with, 13 % without.")
    ]
    effect: Annotated[float, msgspec.Meta(description="The probability less what it would be without.")]
    without: Annotated[float, msgspec.Meta(description="What the probability would be without.")]


class ModelReference(msgspec.Struct, frozen=True):
    """Which model answered."""

    name: str
    version: str
    features: str


class ScoreResponse(msgspec.Struct, frozen=True):
    """A lead's score."""

    lead_id: str
    as_of: datetime
    probability: Annotated[float, msgspec.Meta(ge=0, le=1, description="Of a purchase within the horizon.")]
    interval: tuple[float, float] | None
    score: Annotated[int, msgspec.Meta(ge=0, le=100, description="Percentile of the probability at training time.")]
    horizon_days: float
    tier: Tier
    route: str
    tiers: Annotated[str, msgspec.Meta(description="The version of the tier policy.")]
    reasons: Annotated[list[Reason] | None, msgspec.Meta(description="As many as were asked for; strongest first.")]
    model: ModelReference


class BulkResponse(msgspec.Struct, frozen=True):
    """The scores of many leads, in their order."""

    scores: list[ScoreResponse]


class TierPolicy(msgspec.Struct, frozen=True):
    """From which probability on a lead is warm or hot."""

    version: str
    warm: float
    hot: float
    exit: Annotated[float, msgspec.Meta(description="A tier is left below its entry divided by this.")]
    routes: dict[str, str]


class ModelResponse(msgspec.Struct, frozen=True):
    """The model that serves, and the evidence for it."""

    name: str
    version: str
    model: str
    horizon_days: float
    features: str
    feature_count: int
    known_until: str
    dataset: str
    backtest: dict[str, Any]
    tiers: TierPolicy


class Status(msgspec.Struct, frozen=True):
    """Whether the service is well."""

    status: Literal["ok"] = "ok"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    title: str
    status: int
    detail: str
    field: str | None = None
    """The path of the JSON field that is wrong, e.g. `touchpoints[0].occurred_at`."""
    type: str = "about:blank"
