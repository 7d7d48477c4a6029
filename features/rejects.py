"""The rows that cannot be taken: collected with their reasons, then either the end of the reading or set aside."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from features.errors import TableError, UsageError
from features.sources import Source

OnError = Literal["stop", "quarantine"]

_SHOWN = 5


@dataclass
class Rejects:
    """What is wrong, by source and row; of a row's problems the first counts."""

    found: dict[Source, dict[int, tuple[str, str]]] = field(default_factory=dict)
    """For each row its column and what is wrong with it."""

    def add(self, source: Source, column: str, says: Mapping[int, str]) -> None:
        """Adds what is wrong in a column by row; no column is the whole row."""
        mine = self.found.setdefault(source, {})
        for row, text in says.items():
            mine.setdefault(row, (column, f"{column} {text}" if column else text))

    def settle(self, on_error: OnError) -> dict[str, int]:
        """Stops if anything was rejected, or writes it beside its files; returns the rows set aside by file."""
        if on_error not in get_args(OnError):
            raise UsageError(f"--on-error {on_error!r} is not known. Use {' or '.join(get_args(OnError))}.")
        sources = {source: mine for source, mine in self.found.items() if mine}
        if sources and on_error == "stop":
            total = sum(len(mine) for mine in sources.values())
            told = "\n".join(islice(self._lines(), _SHOWN))
            more = f"\n... and {total - _SHOWN:,} more." if total > _SHOWN else ""
            raise TableError(
                f"{told}{more}\nNothing was read. Mend the rows, or set them aside with --on-error quarantine."
            )
        return {str(_set_aside(source, mine)): len(mine) for source, mine in sources.items()}

    def _lines(self) -> Iterator[str]:
        for source, mine in self.found.items():
            for row in sorted(mine, key=lambda row: (row < 0, abs(row))):
                yield f"{source.place(row)}: {mine[row][1]}"


def _set_aside(source: Source, mine: Mapping[int, tuple[str, str]]) -> Path:
    """Writes a source's rejected rows to a file of their own, whole and with the reason."""
    name = f"{source.name}.quarantine.csv"
    path = source.path.with_name(name) if source.path else Path(name)
    rows = sorted(mine, key=lambda row: (row < 0, abs(row)))
    write_rejected(path, ((source.place(row), *mine[row], source.record(row)) for row in rows))
    return path


def write_rejected(path: Path, rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Writes rows as (place, column, problem, record). Raises TableError if they cannot be."""
    try:
        with path.open("w", encoding="utf-8", newline="") as handle:
            out = csv.writer(handle)
            out.writerow(("place", "column", "problem", "record"))
            out.writerows(rows)
    except OSError as problem:
        raise TableError(f"{path}: the rows to set aside cannot be written ({problem.strerror}).") from None
