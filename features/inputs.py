"""Which files make which table: a folder, a `dataset.toml`, single files, or all that a pattern matches."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from os import PathLike, fspath
from pathlib import Path

from msgspec.structs import replace

from features.columns import COLUMNS, Reading, find_headings, listed
from features.config import TABLES, DatasetConfig, TableFile, read_config
from features.errors import TableError
from features.sources import CSV_ENDINGS, PARQUET_ENDINGS, Source
from features.streams import headings_of

TRUTH = "truth.parquet"
"""What the simulator writes beside its tables; no table, and no surprise."""
ENDINGS = CSV_ENDINGS + PARQUET_ENDINGS


@dataclass(frozen=True)
class Input:
    """The files of each table, and what a `dataset.toml` says of them.

    >>> Input(Path("leads"), DatasetConfig(), {"leads": (TableFile("leads.csv"),)}).paths()
    [PosixPath('leads/leads.csv')]
    """

    folder: Path
    """Where the files are that are named without one."""
    config: DatasetConfig
    files: Mapping[str, tuple[TableFile, ...]]
    notes: list[str] = field(default_factory=list)

    def paths(self) -> list[Path]:
        """Every file once, in the order of tables."""
        return [self.folder / name for name in dict.fromkeys(spec.file for spec in chain(*self.files.values()))]


def find_input(path: str | PathLike[str], columns: Mapping[str, str] | None = None) -> Input:
    """Finds the files of a dataset. Raises TableError if none is there.

    A file alone, or the files that a pattern such as `exports/*.parquet` matches, belong to the table whose name
    theirs begins with, or else to the first one whose columns they have; `columns` maps headings as in `read_dataset`.
    """
    root = Path(path)
    if re.search(r"[*?\[]", fspath(path)) and not root.exists():
        return _of_files(sorted(Path(found) for found in glob.glob(fspath(path), recursive=True)), root, columns or {})
    if root.is_file() and root.name.lower().endswith(ENDINGS):
        return _of_files([root], root, columns or {})
    if root.is_dir() and (root / "dataset.toml").is_file():
        root = root / "dataset.toml"
    config, folder, notes = DatasetConfig(), root, list[str]()
    if root.suffix == ".toml":
        config, folder = read_config(root)
    elif not root.exists():
        raise TableError(f"{root}: no such folder or dataset.toml.")
    elif not root.is_dir():
        raise TableError(
            f"{root}: a dataset is a folder of tables ({', '.join(TABLES)}), a dataset.toml, or CSV and Parquet files."
        )
    files = {table: config.files(table) for table in TABLES}
    if not any(spec.file for spec in chain(*files.values())):
        found, notes = _in_folder(folder)
        files = {table: _named(table, files[table], found[table], root) for table in TABLES}
    return Input(folder, config, files, notes)


def zone_of(path: str | PathLike[str]) -> str | None:
    """The zone that the `dataset.toml` of an input here names; None where there is none."""
    root = Path(path)
    root = root / "dataset.toml" if root.is_dir() else root
    return read_config(root)[0].zone if root.suffix == ".toml" and root.is_file() else None


def _of_files(paths: list[Path], asked: Path, columns: Mapping[str, str]) -> Input:
    files: dict[str, list[TableFile]] = {table: [] for table in TABLES}
    for path in paths:
        if path.is_file() and path.name.lower().endswith(ENDINGS) and ".quarantine." not in path.name:
            files[_table_of(path, columns)].append(TableFile(str(path.absolute())))
    if not files["touchpoints"] and not files["leads"]:
        raise TableError(f"{asked}: matches no touchpoints and no leads (.csv, .csv.gz or .parquet). Name others.")
    inside = {str(path): _data_in(path) for path in paths if path.is_dir()}
    matched = {*paths}
    unread = [name for name, data in inside.items() if data and matched.isdisjoint(data)]
    notes = [f"{asked}: not read, for the pattern matches the folder and no file in it: {listed(unread)}"]
    tables = {table: tuple(mine) for table, mine in files.items()}
    return Input(asked.parent, DatasetConfig(), tables, notes if unread else [])


def _table_of(path: Path, columns: Mapping[str, str]) -> str:
    named = next((table for table in TABLES if path.name.lower().startswith(table)), None)
    if named is not None:
        return named
    headings = headings_of(path)
    for table in ("touchpoints", "outcomes", "attributes", "aliases", "leads"):
        try:
            find_headings(table, TableFile(path.name), Source(path.name, headings), Reading(mapping=columns))
        except TableError:
            continue
        return table
    needs = "; ".join(f"{table}: {', '.join(COLUMNS[table][0])}" for table in ("touchpoints", "leads"))
    raise TableError(
        f"{path.name}: found {listed(headings.column_names)}, which are the columns of no table ({needs}). Rename "
        "some, pass --map, or name the file in a dataset.toml."
    )


def _in_folder(folder: Path) -> tuple[dict[str, tuple[TableFile, ...]], list[str]]:
    """The files that are named like tables, or lie in a folder that is, and a note on others that might be some."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    folders = {entry.name.lower(): entry for entry in folder.iterdir() if entry.is_dir()}
    found: dict[str, tuple[TableFile, ...]] = {}
    for table in TABLES:
        mine = [name for name in names if name.lower() in {table + ending for ending in ENDINGS}]
        for name in (table, *(table + ending for ending in PARQUET_ENDINGS)):
            inside = _data_in(folders[name]) if name in folders else []
            if deeper := next((part for part in inside if part.parent != folders[name]), None):
                raise TableError(
                    f"{deeper}: files of a table lie in its folder itself. Put them there, or give a pattern that "
                    f"matches the files of all tables, e.g. '{folder}/**/*.parquet'."
                )
            parts = tuple(TableFile(str(part.relative_to(folder))) for part in inside)
            if parts:
                mine.append(folders[name].name)
                found[table] = parts
        if len(mine) > 1:
            raise TableError(f"{folder}: {mine[0]} and {mine[1]} are both there. Keep one, or name it in dataset.toml.")
        found.setdefault(table, tuple(TableFile(name) for name in mine))
    if not found["touchpoints"] and not found["leads"]:
        raise TableError(
            f"{folder}: neither a touchpoints nor a leads table (.csv, .csv.gz or .parquet) is there; found "
            f"{listed(names)}. Rename the files, or name them in a dataset.toml."
        )
    read = {spec.file for spec in chain(*found.values())}
    other = [
        n for n in names if n not in read and n.lower().endswith(ENDINGS) and ".quarantine." not in n and n != TRUTH
    ]
    return found, [f"{folder}: not read, for no table is named so: {listed(other)}"] if other else []


def holds_tables(folder: Path) -> bool:
    """Whether files or folders named like tables are in a folder."""
    named = {name for table in TABLES for name in (table, *(table + ending for ending in ENDINGS))}
    return folder.is_dir() and any(entry.name.lower() in named for entry in folder.iterdir())


def _data_in(folder: Path) -> list[Path]:
    """The data files in a folder and in folders of it, but for what other programs hide there."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.lower().endswith(ENDINGS)
        and path.is_file()
        and ".quarantine." not in path.name
        and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    ]


def _named(
    table: str, specs: tuple[TableFile, ...], found: tuple[TableFile, ...], config: Path
) -> tuple[TableFile, ...]:
    """A table's files that are found by their names, with what a `dataset.toml` says of the table."""
    if not specs:
        return found
    if not found:
        raise TableError(f"{config}: {table}: no file is named like it. Name one with the key 'file'.")
    return tuple(replace(spec, file=one.file) for spec in specs for one in found)
