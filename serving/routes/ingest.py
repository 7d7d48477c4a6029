"""What CRMs tell of leads: touchpoints, attributes, outcomes, and who is who; and what was set aside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.records import AttributeFact
from features.times import EARLIEST, NEVER, TOO_LATE, datetime_us, to_datetime
from serving.body import Reader, read_body
from serving.errors import FieldError, NotFound
from serving.operation import Operation, json_response
from serving.pages import PAGE_PARAMETERS, cursor_of, limit_of, read_cursor
from serving.schemas import (
    Deleted,
    IngestResponse,
    KnownOutcome,
    LeadDescription,
    LeadResponse,
    LeadTouchpoint,
    OutcomeRecord,
    Outcomes,
    QuarantinedMessage,
    QuarantineResponse,
    Touchpoints,
)
from serving.service import Service, imports, lead_of, tenant_of
from serving.store import Alias, Fact, Lead, Message, Outcome, Quarantined, StoredLead, Touch, Written
from serving.touched import leads_of

One = TypeVar("One", bound=msgspec.Struct)

MOST = 500
"""Touchpoints or outcomes in one request."""
_TOUCH = {
    "lead_id": "L-42", "occurred_at": "2026-10-30T10:00:00Z", "channel": "email", "action": "click",
    "message_id": "7f3a",
}  # fmt: skip
_OUTCOME = {"lead_id": "L-42", "occurred_at": "2026-11-20T16:00:00Z", "outcome": "won", "amount": 4200}
_LEAD = {"created_at": "2026-10-01T09:00:00Z", "attributes": {"industry": "cleaning", "employees": 40}}
_PROBLEMS = {
    400: "The body is not JSON.",
    413: "The body is too large.",
    415: "The body is said not to be JSON.",
    422: "A field is wrong; `field` says which. Nothing of the request is stored.",
    503: "The database cannot do it now. Send it again.",
}


def operations(service: Service) -> list[Operation]:
    """The operations that tell the service of leads."""
    settings = service.settings
    touchpoints, outcomes = _OneOrMany(LeadTouchpoint, Touchpoints), _OneOrMany(OutcomeRecord, Outcomes)
    description = Reader(LeadDescription)

    async def write(request: Request, messages: Sequence[Message]) -> Response:
        return json_response(ingested(await written(service, request, messages)))

    async def add_touchpoints(request: Request) -> Response:
        given = touchpoints.read(await read_body(request, settings.max_body))
        return await write(request, [_touch(one, where, imports(request)) for one, where in given])

    async def add_outcomes(request: Request) -> Response:
        given = outcomes.read(await read_body(request, settings.max_body))
        return await write(request, [_outcome(one, where, imports(request)) for one, where in given])

    async def describe(request: Request) -> Response:
        name, given = lead_of(request), description.read(await read_body(request, settings.max_body))
        return await write(request, [*_description(name, given, imports(request))])

    async def known(request: Request) -> Response:
        name = lead_of(request)
        found = await run_sync(service.store.read, tenant_of(request), name)
        if found is None:
            raise NotFound(f"lead {name!r} was never heard of. Check its id, or send its touchpoints first.")
        return json_response(_known(found))

    async def delete(request: Request) -> Response:
        name = lead_of(request)
        # One that waits would be written after the person has gone.
        await service.receipts.flush()
        return json_response(Deleted(await asyncio.wrap_future(service.store.delete(tenant_of(request), name))))

    async def quarantine(request: Request) -> Response:
        return json_response(await run_sync(_quarantine, service, tenant_of(request), limit_of(request),
                                            request.query_params.get("cursor")))  # fmt: skip

    return [
        Operation(
            "POST", "/v1/touchpoints", "addTouchpoints", f"Tell of one touchpoint, or of up to {MOST}.",
            add_touchpoints, IngestResponse, (LeadTouchpoint, Touchpoints), _TOUCH, _PROBLEMS, scope="ingest",
            idempotent=True,
        ),
        Operation(
            "POST", "/v1/outcomes", "addOutcomes", f"Tell how it ended with one lead, or with up to {MOST}.",
            add_outcomes, IngestResponse, (OutcomeRecord, Outcomes), _OUTCOME, _PROBLEMS, scope="ingest",
            idempotent=True,
        ),
        Operation(
            "PUT", "/v1/leads/{lead_id}", "putLead", "Tell what is known of a lead, and which other lead it means.",
            describe, IngestResponse, LeadDescription, _LEAD, _PROBLEMS, scope="ingest", idempotent=True,
        ),
        Operation(
            "GET", "/v1/leads/{lead_id}", "getLead", "All that is known of a lead.", known, LeadResponse,
            problems={404: "The lead was never heard of."}, scope="read",
        ),
        Operation(
            "DELETE", "/v1/leads/{lead_id}", "deleteLead",
            "Delete a person: the lead, every id linked with it, and the records of it.", delete, Deleted,
            scope="admin", idempotent=True,
        ),
        Operation(
            "GET", "/v1/quarantine", "listQuarantine", "Messages that could not be taken, and why; the newest first.",
            quarantine, QuarantineResponse, problems={422: "The limit or the cursor is wrong."},
            parameters=PAGE_PARAMETERS, scope="read",
        ),
    ]  # fmt: skip


async def written(service: Service, request: Request, messages: Sequence[Message]) -> Written:
    """Writes messages, waits until they are on disk, and counts those that were set aside."""
    done = await asyncio.wrap_future(service.store.write(tenant_of(request), messages))
    service.metrics.quarantined(done.quarantined)
    # Loading the past is no news of anybody.
    if done.new and not imports(request):
        service.touched.add(tenant_of(request), leads_of(messages))
    return done


def ingested(done: Written) -> IngestResponse:
    """What to answer."""
    return IngestResponse(done.new, done.duplicates, done.quarantined)


class _OneOrMany(Generic[One]):
    """Reads one thing, or a list of them under its name."""

    def __init__(self, one: type[One], many: type[msgspec.Struct]) -> None:
        self._one, self._many = Reader(one), Reader(many)
        (field,) = msgspec.structs.fields(many)
        self._name = field.encode_name
        self._has: Callable[[bytes], Any] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def read(self, body: bytes) -> list[tuple[One, str]]:
        """Returns the things, each with its path as a prefix of the paths of its fields."""
        try:
            single = self._name not in self._has(body)
        except (ValueError, RecursionError):
            single = True
        if single:
            return [(self._one.read(body), "")]
        given: Sequence[One] = getattr(self._many.read(body), self._name)
        if not 0 < len(given) <= MOST:
            raise FieldError(self._name, f"got {len(given):,}. Send 1 to {MOST} at once.")
        return [(one, f"{self._name}[{number}].") for number, one in enumerate(given)]


def _touch(one: LeadTouchpoint, where: str, past: bool) -> Message:
    at = _us(one.occurred_at, f"{where}occurred_at")
    row = Touch(_word(one.lead_id, f"{where}lead_id"), at, _word(one.channel, f"{where}channel"), one.action, one.value)
    return _message(row, one.message_id, at, one.recorded_at, where, past)


def _outcome(one: OutcomeRecord, where: str, past: bool) -> Message:
    at = _us(one.occurred_at, f"{where}occurred_at")
    row = Outcome(_word(one.lead_id, f"{where}lead_id"), at, one.outcome == "won", one.amount)
    return _message(row, one.message_id, at, one.recorded_at, where, past)


def _message(
    row: Touch | Outcome | Fact, name: str | None, at: int, recorded: datetime | None, where: str, past: bool
) -> Message:
    if recorded is not None and not past:
        raise FieldError(
            f"{where}recorded_at", "only a key that loads the past may say it. Leave it out: it is known from now on."
        )
    known = at if recorded is None else max(at, _us(recorded, f"{where}recorded_at"))
    return Message(rows=(row,), message_id=name, recorded_at=known if past else None)


def _description(name: str, given: LeadDescription, past: bool) -> Iterable[Message]:
    created = None if given.created_at is None else _us(given.created_at, "created_at")
    for label in given.attributes:
        _word(label, "attributes")
    yield Message(rows=(Lead(name, created, given.attributes),), recorded_at=created if past else None)
    for number, fact in enumerate(given.attribute_facts):
        yield _fact(name, fact, f"attribute_facts[{number}].", past)
    if given.same_as is not None:
        other = _word(given.same_as, "same_as").strip()
        if other == name:
            raise FieldError("same_as", f"{other!r} is this lead itself. Name another one, or leave it out.")
        yield Message(rows=(Alias(name, other, time.time_ns() // 1_000),))


def _fact(name: str, fact: AttributeFact, where: str, past: bool) -> Message:
    at = _us(fact.occurred_at, f"{where}occurred_at")
    row = Fact(name, at, _word(fact.name, f"{where}name"), fact.value)
    return _message(row, None, at, fact.recorded_at, where, past)


def _us(at: datetime, field: str) -> int:
    us = datetime_us(at)
    if not EARLIEST <= us < TOO_LATE:
        raise FieldError(
            field, f"{at.isoformat()} is beyond the years 2 to 9998, as what stands for no time is. Send when it was."
        )
    return us


def _word(text: str, field: str) -> str:
    if not text.strip():
        raise FieldError(field, f"{text!r} is blank. Send at least 1 character.")
    return text


def _known(lead: StoredLead) -> LeadResponse:
    record = lead.record
    return LeadResponse(
        lead_id=record.lead_id, created_at=record.created_at, attributes=record.attributes,
        attribute_facts=record.attribute_facts, touchpoints=record.touchpoints,
        outcomes=tuple(
            KnownOutcome(
                to_datetime(one.occurred_at), to_datetime(one.known), "won" if one.won else "lost", one.amount
            )
            for one in lead.outcomes
        ),
        same_as=lead.same_as, same_as_since=None if lead.merged_at == NEVER else to_datetime(lead.merged_at),
    )  # fmt: skip


def _quarantine(service: Service, tenant: str, limit: int, cursor: str | None) -> QuarantineResponse:
    after = None
    if cursor is not None:
        at, name = read_cursor(cursor, tuple[int, str])
        after = Quarantined(reason="", body="", received_at=at, id=name)
    found = service.store.find(Quarantined, tenant, order="-received_at", after=after, limit=limit + 1)
    page = found[:limit]
    return QuarantineResponse(
        [
            QuarantinedMessage(
                each.id, to_datetime(each.received_at), each.source, each.lead_id, each.reason, each.body
            )
            for each in page
        ],
        cursor_of((page[-1].received_at, page[-1].id)) if len(found) > limit else None,
    )
