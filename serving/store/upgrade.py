"""Brings a database to the revision that this version of the service needs, or says what to do."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from serving.store.protocol import StoreError
from serving.store.tables import REVISION

_FOLDER = Path(__file__).parent / "migrations"


def revision_of(connection: Connection) -> str | None:
    """The revision of a database; None if it holds nothing of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Runs the migrations that are missing, all or none; returns the revision before and after.

    Raises StoreError if the database is of a newer revision.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Several processes may start at once.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('touchstone upgrade'))"))
        before = revision_of(connection)
        if before != REVISION:
            refuse_newer(before, engine)
            _migrate(connection)
    return before, REVISION


def check(engine: Engine) -> None:
    """Raises StoreError, with the command that helps, unless a database is of the revision that is needed."""
    with engine.connect() as connection:
        found = revision_of(connection)
    refuse_newer(found, engine)
    if found != REVISION:
        url = _shown(engine)
        state = "holds no tables of Touchstone" if found is None else f"is of revision {found}, not {REVISION}"
        raise StoreError(f"the database {url} {state}. Run: touchstone db upgrade --database {url}")


def refuse_newer(found: str | None, engine: Engine) -> None:
    """Raises StoreError if a revision is not known to this version."""
    if found is not None and found > REVISION:
        raise StoreError(
            f"the database {_shown(engine)} is of revision {found}, and this version of Touchstone knows up to "
            f"{REVISION}. Install the version that upgraded it, or a newer one."
        )


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _migrate(connection: Connection) -> None:
    # Alembic takes longer to import than the rest of a start, and is seldom needed.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, REVISION)
