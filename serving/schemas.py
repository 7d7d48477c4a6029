"""What the service's JSON looks like: requests and answers, and the OpenAPI document is written from these types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from features.records import AttributeFact, Id, Instant, LeadRecord, Text, Touchpoint, Value

__all__ = [
    "AttributeFact",
    "BulkRequest",
    "BulkResponse",
    "ChangesResponse",
    "ForecastResponse",
    "LeadRecord",
    "LineProblem",
    "ListedLead",
    "ModelReference",
    "ModelResponse",
    "Problem",
    "Ranking",
    "Reason",
    "ReloadRequest",
    "ReloadResponse",
    "Replay",
    "ReplayProblem",
    "ReplayedScore",
    "ScoreRequest",
    "ScoreResponse",
    "ShadowResponse",
    "Status",
    "StoredScore",
    "TierPolicy",
    "TimelineResponse",
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
    fit: Annotated[float, msgspec.Meta(description="Who it is: what the probability would be without its touchpoints.")]
    engagement: Annotated[
        float, msgspec.Meta(description="What it did: what the probability would be without its attributes.")
    ]
    model: ModelReference
    digest: Annotated[
        str | None,
        msgspec.Meta(description="A hash of what was seen: equal ones were scored alike. Null for leads in bulk."),
    ] = None
    receipt: Annotated[
        str | None, msgspec.Meta(description="With which GET /v1/receipts/{id} gives this answer again.")
    ] = None


class StoredScore(ScoreResponse, frozen=True, kw_only=True):
    """The score of a stored lead, open or not."""

    open: Annotated[
        bool,
        msgspec.Meta(
            description="Whether it was neither closed nor merged into another lead as of then. A closed lead "
            "has a score like any other, for what it is worth: the purchase it is of has come, or will not."
        ),
    ]
    outcome: Annotated[
        Literal["won", "lost"] | None, msgspec.Meta(description="How it ended, as far as was known then.")
    ]
    same_as: Annotated[
        str | None, msgspec.Meta(description="The lead it came to mean, if it did by then: that one is to be asked.")
    ]


class ReplayedScore(ScoreResponse, frozen=True, kw_only=True):
    """An answer as it was given; the last three fields are there where it was of a stored lead."""

    open: bool = True
    outcome: Literal["won", "lost"] | None = None
    same_as: str | None = None


class Replay(msgspec.Struct, frozen=True):
    """An answer that was given, computed once more."""

    receipt: str
    scored_at: Annotated[datetime, msgspec.Meta(description="When the answer was given.")]
    replayed: Annotated[
        bool, msgspec.Meta(description="True: computed anew, from what was seen and by the same model, to the byte.")
    ]
    bundle: Annotated[str, msgspec.Meta(description="The SHA-256 of the model: all of its bundle but the tiers.")]
    answer: ReplayedScore


class ScoreAt(msgspec.Struct, frozen=True):
    """A lead's score as of an instant."""

    as_of: datetime
    probability: float
    score: int
    tier: Annotated[Tier, msgspec.Meta(description="By the entry cut-offs alone.")]


class ChangePart(msgspec.Struct, frozen=True):
    """What one thing did to a score."""

    cause: Annotated[
        Literal["cooling", "attribute", "touches", "model"],
        msgspec.Meta(description="Time that passed, what became known, or another model; they come in this order."),
    ]
    name: Annotated[str | None, msgspec.Meta(description="Of the attribute, or of the kind of touchpoint.")]
    count: Annotated[int, msgspec.Meta(description="How many became known, or no longer count.")]
    text: Annotated[str, msgspec.Meta(description="In words, e.g. 2 demos came in: 13 % before, 31 % after.")]
    effect: Annotated[float, msgspec.Meta(description="The probability after it less that before it.")]


class ChangesResponse(msgspec.Struct, frozen=True):
    """Why a lead's score moved."""

    lead_id: str
    since: datetime
    as_of: datetime
    change: Annotated[float, msgspec.Meta(description="Of the probability; the effects of the parts add up to it.")]
    before: ScoreAt
    after: ScoreAt
    parts: list[ChangePart]
    model_before: Annotated[ModelReference, msgspec.Meta(description="The one that served at `since`.")]
    model: ModelReference


class ForecastResponse(msgspec.Struct, frozen=True):
    """A lead's score on each day ahead if nothing more becomes known of it."""

    lead_id: str
    as_of: datetime
    now: ScoreAt
    days: Annotated[list[ScoreAt], msgspec.Meta(description="As of one day later, two, ...")]
    leaves_tier_at: Annotated[
        datetime | None, msgspec.Meta(description="The first of these days on which it is in another tier than now.")
    ]
    next_tier: Annotated[Tier | None, msgspec.Meta(description="Which tier that is.")]
    model: ModelReference


class TimelineEvent(msgspec.Struct, frozen=True):
    """A touchpoint, or a fact of an attribute."""

    text: str
    occurred_at: datetime
    known_at: Annotated[
        datetime, msgspec.Meta(description="The latest of when it occurred, was recorded, and was linked to the lead.")
    ]
    channel: Annotated[str | None, msgspec.Meta(description="Of a touchpoint.")]
    action: str | None
    value: float | None
    attribute: Annotated[str | None, msgspec.Meta(description="Which attribute the fact is of.")]
    says: Annotated[str | None, msgspec.Meta(description="What the attribute is then; null: not known any more.")]
    after: Annotated[
        ScoreAt | None, msgspec.Meta(description="The score right after it; null: the lead was created later.")
    ]


class TimelineResponse(msgspec.Struct, frozen=True):
    """What became known of a lead, the last first."""

    lead_id: str
    as_of: datetime
    events: list[TimelineEvent]
    total: Annotated[int, msgspec.Meta(description="How many there are on all pages.")]
    cursor: Annotated[str | None, msgspec.Meta(description="To ask for the next page with; null: this is the last.")]
    next: Annotated[str | None, msgspec.Meta(description="The address of the next page.")]
    model: ModelReference


class ListedLead(msgspec.Struct, frozen=True):
    """A lead's place in the ranking."""

    lead_id: str
    probability: float
    score: int
    tier: Annotated[Tier, msgspec.Meta(description="It is left only below its exit, so that few go back and forth.")]
    route: str
    amount: Annotated[float | None, msgspec.Meta(description="The lead's own; null: the average deal counts.")]
    expected_value: Annotated[float, msgspec.Meta(description="The probability times the amount.")]
    as_of: datetime
    model_version: str


class Ranking(msgspec.Struct, frozen=True):
    """Open leads in order, as the last sweep scored them."""

    leads: list[ListedLead]
    as_of: Annotated[datetime | None, msgspec.Meta(description="When the last whole sweep began; null: none yet.")]
    age_seconds: Annotated[float | None, msgspec.Meta(description="How long ago that was.")]
    cursor: Annotated[str | None, msgspec.Meta(description="To ask for the next page with; null: this is the last.")]
    next: Annotated[str | None, msgspec.Meta(description="The address of the next page.")]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    title: str
    status: int
    detail: str
    field: str | None = None
    """The path of the JSON field that is wrong, e.g. `touchpoints[0].occurred_at`."""
    type: str = "about:blank"


class ReplayProblem(Problem, frozen=True, omit_defaults=True, kw_only=True):
    """Why an answer cannot be computed again, and the answer as it was given."""

    answer: msgspec.Raw


class LineProblem(msgspec.Struct, frozen=True):
    """A line that could not be scored."""

    line: Annotated[int, msgspec.Meta(description="Its number, from 1.")]
    problem: Problem


class BulkResponse(msgspec.Struct, frozen=True):
    """The scores of many leads, in their order."""

    scores: list[ScoreResponse]


class LeadTouchpoint(Touchpoint, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A touchpoint, and whose it is; without a message_id it counts once if nothing tells it from another."""

    lead_id: Id


class Touchpoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Touchpoints that are stored together: all of them or, if one is wrong, none."""

    touchpoints: tuple[LeadTouchpoint, ...]


class LeadDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a source knows of a lead."""

    created_at: Annotated[
        Instant | None, msgspec.Meta(description="When the lead was created; the first to say so is right.")
    ] = None
    attributes: Annotated[
        dict[Text, Value],
        msgspec.Meta(
            description="With the first created_at: what was known at creation. Else: what is known from now on."
        ),
    ] = {}
    attribute_facts: tuple[AttributeFact, ...] = ()
    same_as: Annotated[Id | None, msgspec.Meta(description="The lead that this one means too, from now on.")] = None


class OutcomeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it ended with a lead: the first outcome closes it."""

    lead_id: Id
    occurred_at: Instant
    outcome: Literal["won", "lost"]
    amount: float | None = None
    recorded_at: Instant | None = None
    message_id: Text | None = None


class Outcomes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outcomes that are stored together: all of them or, if one is wrong, none."""

    outcomes: tuple[OutcomeRecord, ...]


class IngestResponse(msgspec.Struct, frozen=True):
    """What became of what was sent; it is on disk."""

    accepted: int
    duplicates: Annotated[int, msgspec.Meta(description="Known already; they count once for ever.")]
    quarantined: Annotated[int, msgspec.Meta(description="Set aside; GET /v1/quarantine says why.")]


class SegmentResponse(IngestResponse, frozen=True, kw_only=True):
    """What became of the messages; it is on disk."""

    ignored: Annotated[int, msgspec.Meta(description="Messages that the mapping of events leaves out.")]
    left_out: Annotated[int, msgspec.Meta(description="Traits that are no attribute: lists, and what is too large.")]
    success: bool = True


class KnownOutcome(msgspec.Struct, frozen=True):
    """How it ended, and since when that is known."""

    occurred_at: datetime
    recorded_at: datetime
    outcome: Literal["won", "lost"]
    amount: float | None


class LeadResponse(LeadRecord, frozen=True, kw_only=True):
    """All that is known of a lead."""

    outcomes: tuple[KnownOutcome, ...]
    same_as: Annotated[str | None, msgspec.Meta(description="The lead that this one came to mean.")]
    same_as_since: datetime | None


class Deleted(msgspec.Struct, frozen=True):
    """What was deleted."""

    deleted: Annotated[int, msgspec.Meta(description="The ids of this person that there were.")]


class QuarantinedMessage(msgspec.Struct, frozen=True):
    """A message that could not be taken."""

    id: str
    received_at: datetime
    source: str
    lead_id: str | None
    reason: str
    body: Annotated[str, msgspec.Meta(description="As it came, up to 32 KB.")]


class QuarantineResponse(msgspec.Struct, frozen=True):
    """A page of the quarantine, the newest first."""

    messages: list[QuarantinedMessage]
    next: Annotated[str | None, msgspec.Meta(description="The cursor of the next page; null after the last.")]


class TierPolicy(msgspec.Struct, frozen=True):
    """From which probability on a lead is warm or hot."""

    version: str
    warm: float
    hot: float
    exit: Annotated[float, msgspec.Meta(description="A tier is left below its entry divided by this.")]
    routes: dict[str, str]


TIER_CHANGED = "lead.tier_changed"


class TierChangedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What a webhook is sent when a lead's tier in the ranking changes; it holds no attribute of the lead."""

    id: Annotated[str, msgspec.Meta(description="The same each time that it is sent.")]
    event: Literal["lead.tier_changed"]
    lead_id: str
    before: Tier = msgspec.field(name="from")
    after: Tier = msgspec.field(name="to")
    route: str
    probability: float
    score: int
    reasons: Annotated[list[str], msgspec.Meta(description="Up to 3, in words; strongest first.")]
    as_of: str
    tiers: str
    model: ModelReference


class WebhookRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to send events."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000, description="A public address, by https.")]
    events: Annotated[tuple[Literal["lead.tier_changed"], ...], msgspec.Meta(min_length=1)] = ("lead.tier_changed",)


class WebhookResponse(msgspec.Struct, frozen=True):
    """Where events are sent."""

    id: str
    url: str
    events: tuple[str, ...]
    created_at: datetime


class NewWebhook(WebhookResponse, frozen=True, kw_only=True):
    """Where events are sent from now on."""

    secret: Annotated[str, msgspec.Meta(description="What deliveries are signed with; it is shown this once.")]


class Webhooks(msgspec.Struct, frozen=True):
    """Where events are sent."""

    webhooks: list[WebhookResponse]


class DeliveryResponse(msgspec.Struct, frozen=True):
    """An event on its way to a webhook."""

    id: Annotated[str, msgspec.Meta(description="The id of the event.")]
    webhook_id: str
    event: str
    lead_id: str | None
    state: Literal["waiting", "delivered", "dead"]
    attempts: int
    created_at: datetime
    due_at: Annotated[datetime, msgspec.Meta(description="When it is tried next, if it waits.")]
    problem: Annotated[str | None, msgspec.Meta(description="Why it was not taken the last time.")]


class Deliveries(msgspec.Struct, frozen=True):
    """A page of deliveries, the newest first."""

    deliveries: list[DeliveryResponse]
    next: Annotated[str | None, msgspec.Meta(description="The cursor of the next page; null after the last.")]


class SlaWeek(msgspec.Struct, frozen=True):
    """How both sides kept what was agreed on in one week."""

    week: Annotated[str, msgspec.Meta(description="ISO week in UTC, e.g. 2026-W47.")]
    begins: datetime
    complete: Annotated[bool, msgspec.Meta(description="Whether the week is over.")]
    hot_leads: Annotated[int, msgspec.Meta(description="Leads that became hot: handed over to sales.")]
    marketing_kept: Annotated[bool | None, msgspec.Meta(description="Whether they are as many as promised.")]
    due: Annotated[int, msgspec.Meta(description="Those that sales touched, or whose time to be touched is over.")]
    in_time: Annotated[int, msgspec.Meta(description="Those that sales touched in time.")]
    share_in_time: Annotated[float | None, msgspec.Meta(description="Of those due.")]
    median_hours: Annotated[
        float | None,
        msgspec.Meta(description="From hot to the first sales touch; null unless more than half have had one."),
    ]


class SlaAgreement(msgspec.Struct, frozen=True):
    """What marketing and sales promised each other."""

    hot_leads_a_week: int
    first_touch_hours: float


class SlaResponse(msgspec.Struct, frozen=True):
    """How marketing and sales keep what they agreed on, from the touches themselves."""

    agreement: Annotated[SlaAgreement | None, msgspec.Meta(description="Of the policy; null: nothing is agreed on.")]
    weeks: Annotated[list[SlaWeek], msgspec.Meta(description="The oldest first; the last one is this week.")]


class ShadowResponse(msgspec.Struct, frozen=True):
    """A model that scores along without answering, beside the one that answers."""

    version: str | None
    model: str | None
    problem: Annotated[str | None, msgspec.Meta(description="Why it does not score along, if it does not.")]
    scores: Annotated[int, msgspec.Meta(description="How many leads both have scored, by all workers.")]
    skipped: Annotated[int, msgspec.Meta(description="How many it left out, for there was too much to do.")]
    mean_probability: float | None
    mean_probability_serving: float | None
    mean_difference: Annotated[float | None, msgspec.Meta(description="Of the probabilities: the shadow's less.")]
    mean_absolute_difference: float | None
    tier_changes: Annotated[float | None, msgspec.Meta(description="The share of leads that would change tier.")]


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
    previous: Annotated[
        str | None, msgspec.Meta(description="The version that served before; a reload to it takes no loading.")
    ] = None
    problem: Annotated[
        str | None, msgspec.Meta(description="Why what is in the watched folder does not serve, if it does not.")
    ] = None
    shadow: ShadowResponse | None = None


class ReloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model is to serve."""

    version: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^\w[\w.-]*$")] | None,
        msgspec.Meta(description="The name of a folder beside the served one; left out: the served folder anew."),
    ] = None


class ReloadResponse(msgspec.Struct, frozen=True):
    """What serves now, in every worker."""

    version: str
    previous: str
    workers: int


class Status(msgspec.Struct, frozen=True):
    """Whether the service is well."""

    status: Literal["ok"] = "ok"
