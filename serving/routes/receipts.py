"""Answers that were given, given again."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterator

import msgspec
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from features.errors import ModelError
from features.times import to_datetime
from models.scorer import Scorer
from serving.archive import with_tiers
from serving.body import Reader
from serving.errors import NotFound, problem_of
from serving.operation import Operation, json_response
from serving.routes.leads import stored_answer
from serving.routes.scores import body_answer
from serving.schemas import Replay, ReplayProblem, ScoreRequest
from serving.seen import digest, known_lately, see
from serving.service import Service, tenant_of
from serving.store import Receipt, StoredLead
from serving.together import score_records

_WRITTEN = 1_000_000
"""Microseconds in which another worker has written a receipt."""
_COMING = 5_000_000
"""Microseconds before an answer in which a write that it has not seen may have come in, on its way to disk."""
_LATE = 50
"""The most of such writes."""


class _Replayed(msgspec.Struct, frozen=True):
    """A `Replay` whose answer is written already."""

    receipt: str
    scored_at: object
    replayed: bool
    bundle: str
    answer: msgspec.Raw


def operations(service: Service) -> list[Operation]:
    """The operation on receipts."""
    read = Reader(ScoreRequest).read

    async def replay(request: Request) -> Response:
        tenant, name = tenant_of(request), request.path_params["receipt_id"]
        receipt = await _find(service, tenant, name)
        if receipt is None:
            raise NotFound(
                f"receipt {name[:80]!r} is not known: it is older than {service.settings.receipt_days} days, its lead "
                "was deleted, or it never was. Check it, or ask for the score anew."
            )
        return await run_sync(answer, tenant, receipt)

    def answer(tenant: str, receipt: Receipt) -> Response:
        given = receipt.answer.encode()
        lead = (
            StoredLead(read(zlib.decompress(receipt.body)))
            if receipt.body
            else service.store.read(tenant, receipt.lead_id)
        )
        if lead is None:
            raise NotFound(f"the lead of receipt {receipt.id!r} was deleted.")
        seen = next((one for one in _as_seen(receipt, lead) if digest(one) == receipt.digest), None)
        if seen is None:
            return _differs(given, "What was known of the lead then has been written anew since: the past was loaded.")
        try:
            scorer = service.archive.scorer(receipt.bundle)
        except ModelError as problem:
            return _differs(given, f"The model of then does not run here: {problem}")
        if scorer is None:
            return _differs(given, "The model of then is not kept any more.")
        if not _same(given, _again(receipt, seen, with_tiers(scorer, receipt.tiers))):
            return _differs(given, "It comes out otherwise here: this version, or this machine, computes otherwise.")
        return json_response(
            _Replayed(receipt.id, to_datetime(receipt.scored_at), True, receipt.bundle, msgspec.Raw(given))
        )

    return [
        Operation(
            "GET", "/v1/receipts/{receipt_id}", "replayReceipt",
            "Give an answer again, from what was seen and by the model of then.", replay, Replay,
            problems={
                404: "There is no such receipt, or its lead was deleted.",
                409: "It cannot be computed again, for what was seen has changed since; `detail` says how, and "
                "`answer` is what was answered.",
            },
            scope="score",
        ),
    ]  # fmt: skip


async def _find(service: Service, tenant: str, name: str) -> Receipt | None:
    """A receipt, though another worker may be writing it this moment."""
    if not (name.isascii() and name.isalnum()):
        return None
    while True:
        if waiting := service.receipts.find_waiting(tenant, name):
            return waiting
        if found := await run_sync(lambda: service.store.find(Receipt, tenant, {"id": name}, limit=1)):
            return found[0]
        if not 0 <= time.time_ns() // 1_000 - _given_at(name) < _WRITTEN:
            return None
        await asyncio.sleep(0.05)


def _given_at(name: str) -> int:
    """When a receipt of a name was given, as the name says; 0 if it does not."""
    try:
        return int(name[:14], 16)
    except ValueError:
        return 0


def _as_seen(receipt: Receipt, lead: StoredLead) -> Iterator[StoredLead]:
    """What may have been seen: all that was known, or all but the latest, which was on its way to disk just then."""
    yield see(lead, receipt.as_of)
    if receipt.body is None:
        for late in known_lately(lead, receipt.scored_at - _COMING, receipt.as_of)[:_LATE]:
            yield see(lead, receipt.as_of, late)


def _again(receipt: Receipt, seen: StoredLead, scorer: Scorer) -> bytes:
    at = to_datetime(receipt.as_of)
    (score,) = score_records(scorer, [seen.record], [at], receipt.reasons)
    answer = stored_answer(score, seen, at) if receipt.body is None else body_answer(score, seen)
    return msgspec.json.encode(msgspec.structs.replace(answer, receipt=receipt.id))


def _same(given: bytes, again: bytes) -> bool:
    """Whether all that was given comes again; a later version may have more to say."""
    then, now = msgspec.json.decode(given), msgspec.json.decode(again)
    return given == again or then == {name: now.get(name) for name in then}


def _differs(given: bytes, why: str) -> Response:
    """What is answered where the answer cannot be computed again: as it was given, and why."""
    problem = problem_of(409, f"The answer cannot be computed again; `answer` is what was given. {why}")
    told = ReplayProblem(problem.title, problem.status, problem.detail, answer=msgspec.Raw(given))
    return Response(msgspec.json.encode(told), 409, media_type="application/problem+json")
