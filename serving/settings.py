"""What the service can be told, each with its default and what it means."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from TOUCHSTONE_* environment variables; the command line goes before them.

    >>> Settings(port=9000).port
    9000
    """

    model_config = SettingsConfigDict(env_prefix="TOUCHSTONE_", extra="forbid", frozen=True)

    model: Path = Field(default=Path("models/trained/champion"), description="The folder of the model to serve.")
    host: str = Field(default="127.0.0.1", description="The address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8000, ge=0, le=65_535, description="The port to listen on; 0 for any that is free.")
    database: str = Field(
        default="sqlite:///touchstone.db",
        description="The URL of the database; postgresql://user:password@host/name in production.",
    )
    mapping: Path | None = Field(
        default=None, description="A TOML file that says what events mean (docs/segment.md), for tenants without one."
    )
    max_body: int = Field(default=1_000_000, ge=1_000, description="The largest body of one lead, in bytes.")
    max_bulk_body: int = Field(default=32_000_000, ge=1_000, description="The largest body of many leads, in bytes.")
    amount: str = Field(default="amount", description="The attribute that holds what a lead would bring.")
    average_deal: float = Field(
        default=1.0, gt=0, description="What a lead without an amount of its own brings; 1: purchases are counted."
    )
    sweep_seconds: float = Field(default=300, ge=1, description="Seconds between two sweeps, which make the ranking.")
    watch_seconds: float = Field(
        default=0.25, ge=0.05, description="Seconds between two looks at whether another model is to serve."
    )
    reload_seconds: float = Field(default=30, ge=1, description="Seconds that a reload waits for the other workers.")
    receipt_days: int = Field(default=400, ge=1, description="Days for which an answer can be replayed by its receipt.")
    shadow: Path | None = Field(default=None, description="The folder of a model that scores along, to be compared.")
    webhook_private: bool = Field(
        default=False, description="Whether webhooks may go to private addresses too, and over http."
    )
    webhook_attempts: int = Field(
        default=20, ge=1, description="How often a delivery to a webhook is tried before it is a dead letter."
    )
    webhook_retry_seconds: float = Field(
        default=5,
        gt=0,
        description="Seconds from the first try to the second; each further wait is twice as long, up to 6 h.",
    )
    max_bulk_leads: int = Field(default=1_000, ge=1, description="The most leads in one bulk request.")
    workers: int = Field(default=1, ge=1, description="Processes that serve, one for each core to use.")
    key_rate: int = Field(
        default=1_000, ge=0, description="Requests a second that one API key may send to one worker; 0 for no limit."
    )
    key_burst: int = Field(default=2_000, ge=1, description="Requests that one API key may send to it at once.")
    max_in_work: int = Field(
        default=512, ge=1, description="Requests that a worker answers at once; those beyond are told to come again."
    )
    header_seconds: int = Field(default=10, ge=1, description="The longest that the headers of a request may take.")
    body_seconds: int = Field(
        default=20, ge=1, description="The longest that a body may stand still; it may take longer at 1 kB/s or more."
    )
    stop_seconds: int = Field(default=10, ge=1, description="The longest that requests may take to end at a stop.")


def markdown() -> str:
    """Writes docs/settings.md."""
    rows = [
        f"| `TOUCHSTONE_{name.upper()}` | `{field.default}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join([
        "# Settings of the service",
        "",
        "`touchstone serve` reads these environment variables. Its options of the same names go before",
        "them. This page is written by `serving.settings.markdown()`.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip
