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
    max_body: int = Field(default=1_000_000, ge=1_000, description="The largest body of one lead, in bytes.")
    max_bulk_body: int = Field(default=32_000_000, ge=1_000, description="The largest body of many leads, in bytes.")
    max_bulk_leads: int = Field(default=1_000, ge=1, description="The most leads in one bulk request.")


def markdown() -> str:
    """Writes docs/settings.md."""
    rows = [
        f"| `TOUCHSTONE_{name.upper()}` | `{field.default}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join([
        "# Settings of the service",
        "",
        "`touchstone serve` reads these environment variables. Its options `--model`, `--host` and `--port` go before",
        "them. This page is written by `serving.settings.markdown()`.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip
