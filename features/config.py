"""`dataset.toml`: which files make the tables, under which names, and what to leave out."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from features.errors import TableError, UsageError
from features.times import find_zone


class TableFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a table."""

    file: str = ""
    """Its name in the dataset's folder; left out of every table, files are found by their names."""
    columns: dict[str, str] = {}
    """Touchstone's column names, each with the heading it has in the file."""
    values: dict[str, str] = {}
    """Columns that are the same for every row, e.g. channel = "webinar" (a file becomes a channel)."""
    exclude: tuple[str, ...] = ()
    """Headings to leave out; in `leads`, a column that was not known at creation."""
    missing: tuple[str, ...] = ()
    """Words that mean that a value is missing, besides the empty cell."""
    where: dict[str, str] = {}
    """Only rows whose column equals the value."""
    unless_same_day: tuple[str, ...] = ()
    """Channels: a row is left out if its lead has a touch of one of them on the same day."""


class Kinds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to make of kinds of touches, named `channel`, or `channel_action`, as they are after normalising."""

    rename: dict[str, str] = {}
    """New names, as "channel" or "channel/action"."""
    outcomes: dict[str, Literal["won", "lost"]] = {}
    """Kinds that are no touches but say how it ended."""
    drop: tuple[str, ...] = ()
    """Kinds to leave out."""


class DatasetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of a `dataset.toml`.

    >>> config = msgspec.convert({"zone": "Europe/Berlin", "leads": [{"file": "contacts.csv"}]}, DatasetConfig)
    >>> [part.file for part in config.files("leads")]
    ['contacts.csv']
    """

    folder: str = "."
    """Where the files are, from the place of the `dataset.toml`; ${NAME} is taken from the environment."""
    zone: str | None = None
    """The zone of times and dates that carry none, e.g. "Europe/Amsterdam"."""
    date_format: str | None = None
    """How times are written if not in ISO 8601, e.g. "%d/%m/%Y %H:%M"."""
    touchpoints: tuple[TableFile, ...] = ()
    leads: tuple[TableFile, ...] = ()
    outcomes: tuple[TableFile, ...] = ()
    attributes: tuple[TableFile, ...] = ()
    aliases: tuple[TableFile, ...] = ()
    kinds: Kinds = Kinds()

    def files(self, table: str) -> tuple[TableFile, ...]:
        """The files of a table."""
        found: tuple[TableFile, ...] = getattr(self, table)
        return found

    def nameless(self) -> str:
        """A table that names no file although another one does; "" if there is none."""
        unnamed = [table for table in TABLES for spec in self.files(table) if not spec.file]
        named = any(spec.file for table in TABLES for spec in self.files(table))
        return unnamed[0] if unnamed and named else ""


TABLES = ("touchpoints", "leads", "outcomes", "attributes", "aliases")


def read_config(path: Path) -> tuple[DatasetConfig, Path]:
    """Reads a `dataset.toml` and returns it with the folder its files are in."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise TableError(f"{path}: cannot be read ({problem.strerror}).") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise TableError(f"{path}: not valid TOML: {problem}.") from None
    for table in TABLES:
        if isinstance(document.get(table), dict):
            document[table] = [document[table]]
    try:
        config = msgspec.convert(document, DatasetConfig)
        if nameless := config.nameless():
            raise msgspec.ValidationError(f"Object missing required field `file` - at `$.{nameless}`")
        if config.zone is not None:
            find_zone(config.zone)
    except msgspec.ValidationError as problem:
        raise TableError(f"{path}: {_readable(str(problem))}. See docs/dataset.md for what it may hold.") from None
    except UsageError as problem:
        raise TableError(f"{path}: {problem}") from None

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise TableError(
                f"{path}: folder = {config.folder!r}, but {match[1]} is not set in the environment. Set it, or write "
                "the folder itself."
            )
        return os.environ[match[1]]

    folder = path.parent / re.sub(r"\$\{(\w+)\}", value, config.folder)
    if not folder.is_dir():
        raise TableError(f"{path}: folder = {config.folder!r}, but {folder} is no folder.")
    return config, folder


def _readable(problem: str) -> str:
    """msgspec's words in ours: `leads: unknown key 'colums'`."""
    text, _, place = problem.partition(" - at ")
    text = re.sub(r"Object contains unknown field `(.*)`", r"unknown key '\1'", text)
    text = re.sub(r"Object missing required field `(.*)`", r"the key '\1' is missing", text)
    where = place.strip("`").removeprefix("$").removeprefix(".").replace("[0]", "").replace("[...]", "")
    return f"{where}: {text}" if where else text
