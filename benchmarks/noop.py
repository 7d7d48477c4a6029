"""What FastAPI with pydantic costs alone: a route that checks the body of `POST /v1/score` and does nothing with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=200)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Value = str | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Touchpoint(_Strict):
    """As `features.records.Touchpoint`."""

    occurred_at: AwareDatetime
    channel: Word
    action: Text | None = None
    value: float | None = None
    recorded_at: AwareDatetime | None = None
    message_id: Text | None = None


class AttributeFact(_Strict):
    """As `features.records.AttributeFact`."""

    occurred_at: AwareDatetime
    name: Word
    value: Value
    recorded_at: AwareDatetime | None = None


class Lead(_Strict):
    """As `serving.schemas.ScoreRequest`."""

    lead_id: Word
    as_of: AwareDatetime | None = None
    created_at: AwareDatetime | None = None
    attributes: dict[Text, Value] = {}
    attribute_facts: tuple[AttributeFact, ...] = ()
    touchpoints: tuple[Touchpoint, ...] = ()


app = FastAPI()


@app.post("/v1/score")
async def score(lead: Lead) -> None:
    """Does nothing."""
