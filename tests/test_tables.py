"""Bad and odd tables: each gives its clear error, or the result that docs/dataset.md promises."""

import gzip
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import table

from features import Dataset, TableError, TouchstoneError, UsageError
from features.columns import COLUMNS, SYNONYMS
from features.config import DatasetConfig, Kinds, TableFile, read_config
from features.times import US_PER_DAY, isoformat, to_us

ROOT = Path(__file__).parents[1]

LEADS = "lead_id,created_at\na,2026-01-01T00:00:00Z\nb,2026-01-02T00:00:00Z\n"
TOUCHES = "lead_id,occurred_at,channel\na,2026-01-03T10:00:00Z,email\nb,2026-01-04T10:00:00Z,web\n"
NOTHING_READ = "\nNothing was read. Mend the rows, or set them aside with --on-error quarantine."

Files = Mapping[str, str | bytes]


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(folder: Path, files: Files, **options: Any) -> Dataset:
    return Dataset.read(write(folder, files), **options)


def touches(dataset: Dataset) -> list[tuple[str, str, str]]:
    """(lead, time, kind) of every touch."""
    history = dataset.history
    rows = zip(history.lead, history.at, history.kind, strict=True)
    return [(dataset.ids[lead], isoformat(at), history.kinds[kind].name) for lead, at, kind in rows]


def attributes(dataset: Dataset) -> dict[str, list[Any]]:
    """Each attribute's values from creation on."""
    told: dict[str, list[Any]] = {}
    for k, name in enumerate(dataset.attributes.names):
        words, column = dataset.attributes.words[k], dataset.attributes.cells[:, k]
        told[name] = [None if c != c else c if words is None else words[int(c)] for c in column.tolist()]
    return told


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return out.getvalue()


def touched(*rows: str, header: str = "lead_id,occurred_at,channel") -> str:
    return "\n".join((header, *rows)) + "\n"


def only(told: str) -> str:
    return told + NOTHING_READ


# What cannot be taken, and the whole of what is said about it; FOLDER stands for the folder's path.

ERRORS: dict[str, tuple[Files, dict[str, Any], str]] = {
    "a missing column": (
        {"touchpoints.csv": "lead_id,when,channel\na,2026-01-01,web\n"},
        {},
        "touchpoints.csv line 1: no column for occurred_at; found lead_id, when, channel. "
        "Rename one, or pass --map occurred_at=COLUMN.",
    ),
    "a missing column below blank lines": (
        {"touchpoints.csv": "\n\nlead_id,channel\na,web\n"},
        {},
        "touchpoints.csv line 3: no column for occurred_at; found lead_id, channel. "
        "Rename one, or pass --map occurred_at=COLUMN.",
    ),
    "a missing column in Parquet": (
        {"touchpoints.parquet": parquet(lead_id=["a"], channel=["web"])},
        {},
        "touchpoints.parquet: no column for occurred_at; found lead_id, channel. "
        "Rename one, or pass --map occurred_at=COLUMN.",
    ),
    "a list without times": (
        {"leads.csv": "lead_id,industry\na,software\n"},
        {},
        "leads.csv line 1: no column for created_at; found lead_id, industry. "
        "Rename one, or pass --map created_at=COLUMN. For a list without any times give all rows one, e.g. "
        'values = { created_at = "2020-01-01" } under [leads] in dataset.toml.',
    ),
    "a bad date": (
        {"touchpoints.csv": touched("a,2026-01-01,web", "a,31/02/2026,web")},
        {},
        only(
            "touchpoints.csv line 3: occurred_at '31/02/2026' is not a date. "
            "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format."
        ),
    ),
    "a day that does not exist": (
        {"touchpoints.csv": touched("a,2026-02-30,web")},
        {},
        only(
            "touchpoints.csv line 2: occurred_at '2026-02-30' is not a date. "
            "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format."
        ),
    ),
    "a year alone": (
        {"touchpoints.csv": touched("a,2026,web")},
        {},
        only(
            "touchpoints.csv line 2: occurred_at '2026' is not a date. "
            "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format."
        ),
    ),
    "a date unlike --date-format": (
        {"touchpoints.csv": touched("a,28/02/2026,web", "a,02/28/2026,web")},
        {"date_format": "%d/%m/%Y"},
        only("touchpoints.csv line 3: occurred_at '02/28/2026' is not a date. It should look like %d/%m/%Y."),
    ),
    "a --date-format that is none": (
        {"touchpoints.csv": touched("a,28/02/2026,web")},
        {"date_format": "%Q"},
        "the date format '%Q' cannot be used: 'Q' is a bad directive in format '%Q'.",
    ),
    "a time without a zone": (
        {"touchpoints.csv": touched("a,2026-01-03 10:00:00,web")},
        {},
        only(
            "touchpoints.csv line 2: occurred_at '2026-01-03 10:00:00' carries no zone. "
            "Write an offset (2026-02-28T14:00:00+01:00), or pass --zone."
        ),
    ),
    "a time without a zone in Parquet": (
        {
            "touchpoints.parquet": parquet(
                lead_id=["a", "a"],
                occurred_at=pa.array([0, 3_600_000_001], pa.timestamp("us")),
                channel=["web", "web"],
            )
        },
        {},
        only(
            "touchpoints.parquet row 1: occurred_at '1970-01-01 00:00:00' carries no zone. "
            "Write an offset (2026-02-28T14:00:00+01:00), or pass --zone.\n"
            "touchpoints.parquet row 2: occurred_at '1970-01-01 01:00:00.000001' carries no zone. "
            "Write an offset (2026-02-28T14:00:00+01:00), or pass --zone."
        ),
    ),
    "a zone that is none": (
        {"touchpoints.csv": TOUCHES},
        {"zone": "Europe/Atlantis"},
        "the zone 'Europe/Atlantis' is not known. Use an IANA name, e.g. Europe/Amsterdam or UTC.",
    ),
    "a heading that is there twice": (
        {"touchpoints.csv": touched("a,2026-01-03,web,x", header="lead_id,occurred_at,channel, channel")},
        {},
        "touchpoints.csv line 1: the column 'channel' is there twice. Rename one of them.",
    ),
    "headings that are the same but for signs": (
        {"touchpoints.csv": touched("a,2026-01-03,web,b", header="Lead ID,occurred_at,channel,LeadId")},
        {},
        "touchpoints.csv: 'Lead ID' and 'LeadId' could both be lead_id. Pass --map lead_id=COLUMN.",
    ),
    "a row too short": (
        {"touchpoints.csv": touched("a,2026-01-03,web", "b,2026-01-03")},
        {},
        only("touchpoints.csv line 3: 2 fields where the header has 3. Add the rest."),
    ),
    "a row too long": (
        {"touchpoints.csv": touched("a,2026-01-03,web,1", "b,2026-01-03,web")},
        {},
        only(
            "touchpoints.csv line 2: 4 fields where the header has 3. Quote the fields that contain the delimiter."
        ),
    ),
    "a bad line behind a ragged one": (
        {"touchpoints.csv": touched("a,2026-01-03", "a,soon,web")},
        {},
        only(
            "touchpoints.csv line 3: occurred_at 'soon' is not a date. "
            "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format.\n"
            "touchpoints.csv line 2: 2 fields where the header has 3. Add the rest."
        ),
    ),
    "a quote that is never closed": (
        {"touchpoints.csv": touched("a,2026-01-03,web", 'b,2026-01-03,"web', "b,2026-01-04,web")},
        {},
        "touchpoints.csv line 3: a quote is opened here and never closed. Close it, or double it.",
    ),
    "an empty file": (
        {"touchpoints.csv": ""},
        {},
        "touchpoints.csv: the file is empty. It needs a line of column names at least.",
    ),
    "a file of nothing but a byte order mark": (
        {"touchpoints.csv": b"\xef\xbb\xbf\r\n"},
        {},
        "touchpoints.csv: the file is empty. It needs a line of column names at least.",
    ),
    "a binary file": (
        {"touchpoints.csv": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"},
        {},
        "touchpoints.csv: this is a binary file (a zero byte at 8), not CSV or Parquet.",
    ),
    "a workbook": (
        {"touchpoints.csv": zipped()},
        {},
        "touchpoints.csv: this is an Excel workbook or a zip file. Save the sheet as CSV (UTF-8).",
    ),
    "Parquet by the name of CSV": (
        {"touchpoints.csv": parquet(lead_id=["a"])},
        {},
        "touchpoints.csv: this is a Parquet file. Name it .parquet.",
    ),
    "gzip cut short": (
        {"touchpoints.csv.gz": gzip.compress(TOUCHES.encode())[:-12]},
        {},
        "touchpoints.csv.gz: the gzip file is damaged (Compressed file ended before the end-of-stream marker was "
        "reached). Copy or compress it again.",
    ),
    "Parquet cut short": (
        {"touchpoints.parquet": parquet(lead_id=["a"])[:-9]},
        {},
        "touchpoints.parquet: not a readable Parquet file (Parquet magic bytes not found in footer. Either the file "
        "is corrupted or this is not a parquet file). Write it again.",
    ),
    "UTF-16 cut short": (
        {"touchpoints.csv": TOUCHES.encode("utf-16")[:-1]},
        {},
        "touchpoints.csv: the UTF-16 text is damaged. Export it again, or save it as UTF-8.",
    ),
    "UTF-8 with a letter damaged": (
        {"touchpoints.csv": touched("a,2026-01-03,café", "b,2026-01-03,caf").encode()[:-1] + b"\xc3\n"},
        {},
        "touchpoints.csv line 3: neither UTF-8 nor Windows-1252 text (byte 0xc3). Save it as UTF-8.",
    ),
    "lists in a column": (
        {"touchpoints.parquet": parquet(lead_id=["a"], occurred_at=["2026-01-03"], channel=[["web"]])},
        {},
        "touchpoints.parquet: the column 'channel' holds values of type list<element: string>. Write it as text.",
    ),
    "bytes that are no text": (
        {"leads.parquet": parquet(lead_id=["a"], created_at=["2026-01-03"], photo=[b"\xff"])},
        {},
        "leads.parquet: the column 'photo' cannot be read (Invalid UTF8 payload). Write it as text.",
    ),
    "a touch without its lead": (
        {"leads.csv": LEADS, "touchpoints.csv": TOUCHES + "c,2026-01-05,web\n"},
        {},
        only(
            "touchpoints.csv line 4: lead_id 'c' is not in the leads table. Add the lead, or remove the row."
        ),
    ),
    "an outcome without its lead": (
        {"leads.csv": LEADS, "outcomes.csv": "lead_id,occurred_at,outcome\nc,2026-01-05,won\n"},
        {},
        only("outcomes.csv line 2: lead_id 'c' is not in the leads table. Add the lead, or remove the row."),
    ),
    "an attribute without its lead": (
        {"leads.csv": LEADS, "attributes.csv": "lead_id,occurred_at,name,value\nc,2026-01-05,size,3\n"},
        {},
        only("attributes.csv line 2: lead_id 'c' is not in the leads table. Add the lead, or remove the row."),
    ),
    "a lead twice": (
        {"leads.csv": LEADS + "a,2026-01-09T00:00:00Z\n"},
        {},
        only(
            "leads.csv line 4: lead_id 'a' is there already (leads.csv line 2) with other values. Keep one row a lead."
        ),
    ),
    "a lead twice with another attribute": (
        {"leads.csv": "lead_id,created_at,size\na,2026-01-01,3\nb,2026-01-01,4\na,2026-01-01,5\n"},
        {},
        only(
            "leads.csv line 4: lead_id 'a' is there already (leads.csv line 2) with other values. Keep one row a lead."
        ),
    ),
    "an unknown outcome": (
        {"leads.csv": LEADS, "outcomes.csv": "lead_id,occurred_at,outcome\na,2026-01-05,Prospecting\n"},
        {},
        only(
            "outcomes.csv line 2: outcome 'Prospecting' is neither won nor lost. "
            "Write won or lost; a deal that is still open has no row."
        ),
    ),
    "a bad number": (
        {"touchpoints.csv": touched("a,2026-01-03,web,4", "a,2026-01-03,web,NA",
                                    header="lead_id,occurred_at,channel,value")},
        {},
        only(
            "touchpoints.csv line 3: value 'NA' is not a number. Write it like 1234.5, or leave it empty."
        ),
    ),
    "a number without end": (
        {"touchpoints.parquet": parquet(lead_id=["a"], occurred_at=["2026-01-03"], channel=["web"], value=[np.inf])},
        {},
        only("touchpoints.parquet row 1: value 'inf' is not a number. Write it like 1234.5, or leave it empty."),
    ),
    "an empty lead_id": (
        {"touchpoints.csv": touched(" ,2026-01-03,web")},
        {},
        only("touchpoints.csv line 2: lead_id is empty. Fill it in, or remove the row."),
    ),
    "an empty time": (
        {"leads.csv": "lead_id,created_at\na,\n"},
        {},
        only("leads.csv line 2: created_at is empty. Fill it in, or remove the row."),
    ),
    "a bad line behind quoted line ends": (
        {"touchpoints.csv": touched('a,2026-01-03,"two\nlines"', 'a,2026-01-03,"three\r\nmore\nlines"', "a,soon,web")},
        {},
        only(
            "touchpoints.csv line 7: occurred_at 'soon' is not a date. "
            "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format."
        ),
    ),
    "more than five bad rows": (
        {"touchpoints.csv": touched(*[f",2026-01-0{k},web" for k in range(1, 8)])},
        {},
        only(
            "\n".join(
                f"touchpoints.csv line {k}: lead_id is empty. Fill it in, or remove the row." for k in range(2, 7)
            )
            + "\n... and 2 more."
        ),
    ),
    "bad leads, which come before the touches they spoil": (
        {"leads.csv": "lead_id,created_at\na,soon\n", "touchpoints.csv": touched("a,2026-01-03,web")},
        {},
        only(
            "leads.csv line 2: created_at 'soon' is not a date. "
            "Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format.\n"
            "touchpoints.csv line 2: lead_id 'a' is not in the leads table. Add the lead, or remove the row."
        ),
    ),
    "two files for one table": (
        {"leads.csv": LEADS, "leads.csv.gz": gzip.compress(LEADS.encode())},
        {},
        "FOLDER: leads.csv and leads.csv.gz are both there. Keep one, or name it in dataset.toml.",
    ),
    "no table": (
        {"notes.txt": "hello", "outcomes.csv": "lead_id,occurred_at,outcome\n"},
        {},
        "FOLDER: neither a touchpoints nor a leads table (.csv, .csv.gz or .parquet) is there; found notes.txt, "
        "outcomes.csv. Rename the files, or name them in a dataset.toml.",
    ),
    "an alias of itself": (
        {"leads.csv": LEADS, "aliases.csv": "lead_id,same_as,occurred_at\na,a,2026-01-05\n"},
        {},
        only("aliases.csv line 2: same_as 'a' would make 'a' the same as itself. Remove the row."),
    ),
    "aliases in a circle": (
        {
            "leads.csv": LEADS + "c,2026-01-01\n",
            "aliases.csv": "lead_id,same_as,occurred_at\nc,a,2026-01-07\na,b,2026-01-05\nb,c,2026-01-06\n",
        },
        {},
        only("aliases.csv line 2: same_as 'a' would make 'c' the same as itself. Remove the row."),
    ),
    "an alias of two": (
        {
            "leads.csv": LEADS,
            "aliases.csv": "lead_id,same_as,occurred_at\nx,a,2026-01-05\nx,b,2026-01-06\n",
        },
        {},
        only("aliases.csv line 3: same_as 'b' cannot be, for 'x' is the same as 'a' already. Keep one."),
    ),
    "an alias of nobody": (
        {"leads.csv": LEADS, "aliases.csv": "lead_id,same_as,occurred_at\na,z,2026-01-05\n"},
        {},
        only("aliases.csv line 2: same_as 'z' is not in the leads table. Add the lead, or remove the row."),
    ),
    "two attributes of one name": (
        {"leads.csv": "lead_id,created_at,Company Size,company-size\na,2026-01-01,3,4\n"},
        {},
        "leads.csv: 'Company Size' and 'company-size' are both the attribute company_size. Rename one.",
    ),
    "a mapped column that is missing": (
        {"touchpoints.csv": TOUCHES},
        {"columns": {"value": "Minutes"}},
        "--map value=Minutes: there is no column 'Minutes' in touchpoints or attributes; found lead_id, occurred_at, "
        "channel.",
    ),
    "a mapped column that is no column": (
        {"touchpoints.csv": TOUCHES},
        {"columns": {"leads.channel": "channel"}},
        "--map leads.channel=channel: 'leads.channel' is no column. Use one of action, amount, channel, created_at, "
        "lead_id, message_id, name, occurred_at, outcome, recorded_at, same_as, value.",
    ),
    "a mapped heading is not another column too": (
        {"touchpoints.csv": touched("a,2026-01-03,web", header="lead_id,occurred_at,type")},
        {"columns": {"action": "type"}},
        "touchpoints.csv line 1: no column for channel; found lead_id, occurred_at, type. "
        "Rename one, or pass --map channel=COLUMN.",
    ),
    "a heading mapped to two columns": (
        {"touchpoints.csv": touched("a,2026-01-03,web", header="lead_id,occurred_at,Kind")},
        {"columns": {"channel": "Kind", "touchpoints.action": "Kind"}},
        "touchpoints.csv: channel and action are both mapped to 'Kind'. Map one.",
    ),
    "an unknown way with errors": (
        {"touchpoints.csv": TOUCHES},
        {"on_error": "ignore"},
        "--on-error 'ignore' is not known. Use stop or quarantine.",
    ),
    "dataset.toml: an undefined variable": (
        {"dataset.toml": 'folder = "${TOUCHSTONE_NOWHERE}/x"\n'},
        {},
        "FOLDER/dataset.toml: folder = '${TOUCHSTONE_NOWHERE}/x', but TOUCHSTONE_NOWHERE is not set in the "
        "environment. Set it, or write the folder itself.",
    ),
    "dataset.toml: no such folder": (
        {"dataset.toml": 'folder = "data"\n'},
        {},
        "FOLDER/dataset.toml: folder = 'data', but FOLDER/data is no folder.",
    ),
    "dataset.toml: no such file": (
        {"dataset.toml": 'leads = { file = "people.csv" }\n'},
        {},
        "FOLDER/people.csv: no such file.",
    ),
    "dataset.toml: an unknown key": (
        {"dataset.toml": 'zon = "UTC"\n'},
        {},
        "FOLDER/dataset.toml: unknown key 'zon'. See docs/dataset.md for what it may hold.",
    ),
    "dataset.toml: an unknown key of a table": (
        {"dataset.toml": '[leads]\nfile = "leads.csv"\ncolums = {}\n'},
        {},
        "FOLDER/dataset.toml: leads: unknown key 'colums'. See docs/dataset.md for what it may hold.",
    ),
    "dataset.toml: a table without its file": (
        {"dataset.toml": '[leads]\n[touchpoints]\nfile = "log.csv"\n'},
        {},
        "FOLDER/dataset.toml: leads: the key 'file' is missing. See docs/dataset.md for what it may hold.",
    ),
    "dataset.toml: a table that no file is named like": (
        {"dataset.toml": "[outcomes]\n", "leads.csv": LEADS},
        {},
        "FOLDER/dataset.toml: outcomes: no file is named like it. Name one with the key 'file'.",
    ),
    "dataset.toml: a value of the wrong type": (
        {"dataset.toml": "zone = 1\n"},
        {},
        "FOLDER/dataset.toml: zone: Expected `str | null`, got `int`. See docs/dataset.md for what it may hold.",
    ),
    "dataset.toml: not TOML": (
        {"dataset.toml": "zone = UTC\n"},
        {},
        "FOLDER/dataset.toml: not valid TOML: Invalid value (at line 1, column 8).",
    ),
    "dataset.toml: a zone that is none": (
        {"dataset.toml": 'zone = "CET+1"\n'},
        {},
        "FOLDER/dataset.toml: the zone 'CET+1' is not known. Use an IANA name, e.g. Europe/Amsterdam or UTC.",
    ),
    "dataset.toml: a column of another table": (
        {"dataset.toml": 'leads = { file = "leads.csv", columns = { channel = "x" } }\n', "leads.csv": LEADS},
        {},
        "leads.csv: 'channel' is no column of leads. It has lead_id, created_at.",
    ),
    "dataset.toml: a mapped column that is missing": (
        {"dataset.toml": 'leads = { file = "leads.csv", columns = { lead_id = "key" } }\n', "leads.csv": LEADS},
        {},
        "leads.csv: lead_id is mapped to 'key', but there is no such column; found lead_id, created_at.",
    ),
    "dataset.toml: an excluded column that is missing": (
        {"dataset.toml": 'leads = { file = "leads.csv", exclude = ["Tags"] }\n', "leads.csv": LEADS},
        {},
        "leads.csv: there is no column 'Tags'; found lead_id, created_at.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "options", "message"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_read_is_named_with_its_mend(
    files: Files, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TouchstoneError) as caught:
        read(tmp_path, files, **options)
    assert str(caught.value).replace(str(tmp_path), "FOLDER") == message
    asked_wrongly = message.startswith(("--map", "--on-error", "the zone", "the date format"))
    assert isinstance(caught.value, UsageError if asked_wrongly else TableError)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "FOLDER/nowhere: no such folder or dataset.toml."),
        (
            "notes.md",
            "FOLDER/notes.md: a dataset is a folder of tables (touchpoints, leads, outcomes, attributes, aliases), a "
            "dataset.toml, or CSV and Parquet files.",
        ),
    ],
)
def test_what_is_no_dataset_is_named(path: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, {"notes.md": LEADS})
    with pytest.raises(TableError) as caught:
        Dataset.read(tmp_path / path)
    assert str(caught.value).replace(str(tmp_path), "FOLDER") == message


# Odd files that are read like the plain one.

ODD: dict[str, tuple[str, bytes]] = {
    "plain": ("touchpoints.csv", TOUCHES.encode()),
    "byte order mark": ("touchpoints.csv", TOUCHES.encode("utf-8-sig")),
    "UTF-16": ("touchpoints.csv", TOUCHES.encode("utf-16")),
    "UTF-16, big end first": ("touchpoints.csv", b"\xfe\xff" + TOUCHES.encode("utf-16-be")),
    "semicolons": ("touchpoints.csv", TOUCHES.replace(",", ";").encode()),
    "tabs": ("touchpoints.tsv", TOUCHES.replace(",", "\t").encode()),
    "bars": ("touchpoints.txt", TOUCHES.replace(",", "|").encode()),
    "Excel's sep=;": ("touchpoints.csv", b"sep=;\r\n" + TOUCHES.replace(",", ";").encode()),
    "gzip": ("touchpoints.csv.gz", gzip.compress(TOUCHES.encode())),
    "gzip by the name of CSV": ("touchpoints.csv", gzip.compress(TOUCHES.encode())),
    "capital letters in the name": ("Touchpoints.CSV", TOUCHES.encode()),
    "line ends of Windows": ("touchpoints.csv", TOUCHES.replace("\n", "\r\n").encode()),
    "line ends of the first Macs": ("touchpoints.csv", TOUCHES.replace("\n", "\r").encode()),
    "no last line end": ("touchpoints.csv", TOUCHES.rstrip().encode()),
    "blank lines": ("touchpoints.csv", b"\n" + TOUCHES.replace("\n", "\n\n").encode()),
    "blanks around": ("touchpoints.csv", TOUCHES.replace(",", " , ").encode()),
    "everything quoted": ("touchpoints.csv", re.sub(r"[^,\n]+", r'"\g<0>"', TOUCHES).encode()),
    "a delimiter at the end of each line": ("touchpoints.csv", TOUCHES.replace("\n", ",\n").encode()),
    "other offsets": ("touchpoints.csv", TOUCHES.replace("10:00:00Z", "09:00:00.000-0100").encode()),
    "offsets of several kinds": ("touchpoints.csv", TOUCHES.replace("10:00:00Z,e", "11:00:00+01:00,e").encode()),
    "the short form of ISO 8601": ("touchpoints.csv", re.sub("(?<=[0-9])[-:](?=[0-9])", "", TOUCHES).encode()),
    "UTC written out": ("touchpoints.csv", TOUCHES.replace("T10:00:00Z", " 10:00:00 UTC").encode()),
    "Parquet of text": (
        "touchpoints.parquet",
        parquet(
            lead_id=["a", "b"], occurred_at=["2026-01-03T10:00:00Z", "2026-01-04T10:00:00Z"], channel=["email", "web"]
        ),
    ),
    "Parquet of types": (
        "touchpoints.pq",
        parquet(
            lead_id=pa.array(["a", "b"]).dictionary_encode(),
            occurred_at=pa.array(
                [to_us("2026-01-03T10:00:00Z") * 1000, to_us("2026-01-04T10:00:00Z") * 1000],
                pa.timestamp("ns", "Asia/Tokyo"),
            ),
            channel=pa.array(["email", "web"], pa.large_string()),
        ),
    ),
}


@pytest.mark.parametrize(("name", "content"), ODD.values(), ids=ODD)
def test_an_odd_file_reads_like_the_plain_one(name: str, content: bytes, tmp_path: Path) -> None:
    dataset = read(tmp_path, {"leads.csv": LEADS, name: content})
    assert touches(dataset) == [("a", "2026-01-03T10:00:00Z", "email"), ("b", "2026-01-04T10:00:00Z", "web")]
    assert dataset.report is not None
    assert dataset.report.rows == {"touchpoints": 2, "leads": 2}


def test_a_kind_that_no_touch_has_is_noted(tmp_path: Path) -> None:
    config = '[touchpoints]\nfile = "touchpoints.csv"\n[kinds]\ndrop = ["fax"]\n'
    report = read(tmp_path, {"dataset.toml": config, "touchpoints.csv": TOUCHES}).report
    assert report is not None
    assert "dataset.toml names the kind 'fax', which no touch has; found email, web" in report.notes


def test_windows_1252_is_read_and_noted(tmp_path: Path) -> None:
    dataset = read(tmp_path, {"leads.csv": "lead_id,created_at,city\nzoë,2026-01-01,Köln €\n".encode("cp1252")})
    assert list(dataset.ids) == ["zoë"]
    assert attributes(dataset) == {"city": ["Köln €"]}
    assert dataset.report is not None
    assert dataset.report.notes == ("leads.csv: read as Windows-1252, for it is not UTF-8",)


def test_quotes_keep_delimiters_and_line_ends(tmp_path: Path) -> None:
    rows = 'lead_id,created_at,note\n"a,1",2026-01-01,"says ""hi"", and\nleaves"\nb,2026-01-01,5" pipe\n'
    dataset = read(tmp_path, {"leads.csv": rows})
    assert list(dataset.ids) == ["a,1", "b"]
    assert attributes(dataset) == {"note": ['says "hi", and\nleaves', '5" pipe']}


def test_line_ends_within_quotes_may_stand_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.sources.BLOCK", 64)
    rows = [f'l{k},2026-01-01,"{k}\n{k}"' for k in range(100)]
    dataset = read(tmp_path, {"leads.csv": touched(*rows, header="lead_id,created_at,note")})
    assert attributes(dataset) == {"note": [f"{k}\n{k}" for k in range(100)]}


@pytest.mark.parametrize("end", ["", "\n", "\n\n  \n"])
def test_a_table_may_have_no_rows(end: str, tmp_path: Path) -> None:
    dataset = read(tmp_path, {"touchpoints.csv": "lead_id,occurred_at,channel" + end, "leads.csv": LEADS})
    assert len(dataset) == 2 and len(dataset.history) == 0
    alone = read(tmp_path / "alone", {"touchpoints.csv": "lead_id,occurred_at,channel" + end})
    assert len(alone) == 0 and alone.last_known == 0


def test_a_lead_without_touches_is_a_lead(tmp_path: Path) -> None:
    dataset = read(tmp_path, {"leads.csv": LEADS, "touchpoints.csv": touched("b,2026-01-03,web")})
    assert list(dataset.ids) == ["a", "b"]
    assert np.diff(dataset.history.offsets).tolist() == [0, 1]


def test_without_a_leads_table_leads_come_from_touches(tmp_path: Path) -> None:
    outcomes = "lead_id,occurred_at,outcome\na,2026-02-01,won\nz,2026-02-01,won\n"
    dataset = read(
        tmp_path, {"touchpoints.csv": touched("b,2026-01-05,web", "a,2026-01-04,web", "b,2026-01-03,web"),
                   "outcomes.csv": outcomes}
    )  # fmt: skip
    assert list(dataset.ids) == ["b", "a"]  # as they first appear
    assert [isoformat(t)[:10] for t in dataset.created_at] == ["2026-01-03", "2026-01-04"]
    assert dataset.closed[1].tolist() == [False, True]
    assert dataset.report is not None
    assert dataset.report.left_out == {"outcomes.csv: left out, of leads without a touch": 1}


# Time.

TIMES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a bare date is known at its end": ("2026-01-03", {}, "2026-01-03T23:59:59.999999Z"),
    "a bare date in short form": ("20260103", {}, "2026-01-03T23:59:59.999999Z"),
    "a bare date ends in its zone": ("2026-01-03", {"zone": "America/New_York"}, "2026-01-04T04:59:59.999999Z"),
    "a day of 23 hours": ("2026-03-29", {"zone": "Europe/Amsterdam"}, "2026-03-29T21:59:59.999999Z"),
    "a day whose midnight is skipped": ("2018-11-03", {"zone": "America/Sao_Paulo"}, "2018-11-04T02:59:59.999999Z"),
    "a time in winter": ("2026-01-03 10:00", {"zone": "Europe/Amsterdam"}, "2026-01-03T09:00:00Z"),
    "a time in summer": ("2026-07-03 10:00", {"zone": "Europe/Amsterdam"}, "2026-07-03T08:00:00Z"),
    "an hour that is skipped is its end": (
        "2026-03-29T02:30:00", {"zone": "Europe/Amsterdam"}, "2026-03-29T01:00:00Z",
    ),
    "an hour that comes twice is the first": (
        "2026-10-25T02:30:00", {"zone": "Europe/Amsterdam"}, "2026-10-25T00:30:00Z",
    ),
    "an offset goes before the zone": (
        "2026-10-25T02:30:00+01:00", {"zone": "America/New_York"}, "2026-10-25T01:30:00Z",
    ),
    "a leap second is the end of its minute": ("2016-12-31T23:59:60Z", {}, "2016-12-31T23:59:59.999999Z"),
    "a leap second with a fraction": ("2016-12-31T23:59:60.5Z", {}, "2016-12-31T23:59:59.999999Z"),
    "nanoseconds are cut off": ("2026-01-03T10:00:00.123456789Z", {}, "2026-01-03T10:00:00.123456Z"),
    "a comma before the fraction": ("2026-01-03T10:00:00,5Z", {}, "2026-01-03T10:00:00.500000Z"),
    "hours alone": ("2026-01-03T10Z", {}, "2026-01-03T10:00:00Z"),
    "the last of all dates": ("9998-12-31", {"zone": "Europe/Amsterdam"}, "9998-12-31T22:59:59.999999Z"),
    "before 1970": ("1901-01-03T10:00:00Z", {}, "1901-01-03T10:00:00Z"),
    "a format of dates": ("28.02.2026", {"date_format": "%d.%m.%Y"}, "2026-02-28T23:59:59.999999Z"),
    "a format of times": (
        "02/28/2026 2:30 PM", {"date_format": "%m/%d/%Y %I:%M %p", "zone": "UTC"}, "2026-02-28T14:30:00Z",
    ),
    "a format with an offset": (
        "28/02/2026 14:30 +0100", {"date_format": "%d/%m/%Y %H:%M %z"}, "2026-02-28T13:30:00Z",
    ),
    "ISO 8601 throughout whatever the format": (
        "2026-02-28T14:30:00Z", {"date_format": "%d/%m/%Y"}, "2026-02-28T14:30:00Z",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("word", "options", "instant"), TIMES.values(), ids=TIMES)
def test_a_time_is_read_as_documented(word: str, options: dict[str, Any], instant: str, tmp_path: Path) -> None:
    dataset = read(tmp_path, {"touchpoints.csv": touched(f'a,"{word}",web')}, **options)
    assert isoformat(dataset.history.at[0]) == instant
    assert dataset.history.known[0] == dataset.history.at[0]


def test_zones_and_dates_may_be_mixed_in_a_column(tmp_path: Path) -> None:
    rows = touched("a,2026-01-03T10:00:00Z,web", "a,2026-01-03T10:00:00+05:30,web", "a,2026-01-03,web",
                   "a,2026-01-03 10:00:00,web")  # fmt: skip
    dataset = read(tmp_path, {"touchpoints.csv": rows}, zone="America/New_York")
    assert [at for _, at, _ in touches(dataset)] == [
        "2026-01-03T04:30:00Z",
        "2026-01-03T10:00:00Z",
        "2026-01-03T15:00:00Z",
        "2026-01-04T04:59:59.999999Z",
    ]


def test_a_touch_is_known_from_when_it_was_recorded(tmp_path: Path) -> None:
    rows = touched(
        "a,1960-01-03T10:00:00Z,web,", "a,2026-01-03T10:00:00Z,web,2026-01-09", "a,2026-01-04T10:00:00Z,web,2026-01-01",
        header="lead_id,occurred_at,channel,recorded_at",
    )  # fmt: skip
    known = read(tmp_path, {"touchpoints.csv": rows}).history.known
    assert [isoformat(t) for t in known] == [
        "1960-01-03T10:00:00Z",
        "2026-01-09T23:59:59.999999Z",
        "2026-01-04T10:00:00Z",
    ]


# Duplicates.


@pytest.mark.parametrize(
    ("header", "rows", "kept"),
    [
        ("lead_id,occurred_at,channel", ["a,2026-01-03T10:00:00Z,web"] * 3, 1),
        ("lead_id,occurred_at,channel", ["a,2026-01-03T10:00:00Z,web", "b,2026-01-03T10:00:00Z,web"], 2),
        ("lead_id,occurred_at,channel", ["a,2026-01-03,web"] * 3, 3),
        ("lead_id,occurred_at,channel,value", ["a,2026-01-03T10:00:00Z,web,1", "a,2026-01-03T10:00:00Z,web,2"], 2),
        ("lead_id,occurred_at,channel,message_id", ["a,2026-01-03,web,m", "a,2026-01-04,call,m", "b,2026-01-03,web,m"],
         2),
        ("lead_id,occurred_at,channel,message_id", ["a,2026-01-03T10:00:00Z,web,m", "a,2026-01-03T10:00:00Z,web,n"], 2),
    ],
)  # fmt: skip
def test_duplicates_count_once_and_are_counted(header: str, rows: list[str], kept: int, tmp_path: Path) -> None:
    dataset = read(tmp_path, {"touchpoints.csv": touched(*rows, header=header)})
    assert dataset.report is not None
    assert (len(dataset.history), dataset.report.duplicates) == (kept, len(rows) - kept)


def test_a_repeated_lead_counts_once_and_is_counted(tmp_path: Path) -> None:
    rows = "lead_id,created_at,size\na,2026-01-01,3\nb,2026-01-01,\na,2026-01-01T23:59:59.999999Z,3.0\nb,2026-01-01,\n"
    dataset = read(tmp_path, {"leads.csv": rows})
    assert list(dataset.ids) == ["a", "b"]
    assert attributes(dataset) == {"size": [3.0, None]}
    assert dataset.report is not None
    assert dataset.report.left_out == {"leads.csv: repeated and the same, count once": 2}
    assert "leads.csv: repeated and the same, count once: 2 rows" in dataset.report.lines()


# Words.


def test_na_stays_a_word_unless_it_is_said_to_be_missing(tmp_path: Path) -> None:
    leads = "lead_id,created_at,country,size\na,2026-01-01,NA,3\nb,2026-01-01,,4\nc,2026-01-01,None,NA\n"
    assert attributes(read(tmp_path, {"leads.csv": leads})) == {
        "country": ["NA", None, "None"],
        "size": ["3", "4", "NA"],
    }
    config = '[leads]\nfile = "leads.csv"\nmissing = ["NA"]\n'
    assert attributes(read(tmp_path, {"leads.csv": leads, "dataset.toml": config})) == {
        "country": [None, None, "None"],
        "size": [3.0, 4.0, None],
    }


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7, 71234567890], pa.int64()),
        pa.array([7.0, 71234567890.0], pa.float64()),
        pa.array(["7", "71234567890"], pa.string_view()),
        pa.array([7, 71234567890], pa.decimal128(14, 2)),
        pa.array(["7", "71234567890"]).dictionary_encode(),
    ],
    ids=lambda ids: str(ids.type)[:10],
)
def test_an_id_is_the_same_lead_whatever_its_type(ids: pa.Array, tmp_path: Path) -> None:
    leads = io.BytesIO()
    pq.write_table(pa.table({"lead_id": ids, "created_at": ["2026-01-01", "2026-01-01"]}), leads)
    files = {"leads.parquet": leads.getvalue(), "touchpoints.csv": touched("71234567890,2026-01-03,web")}
    assert touches(read(tmp_path, files)) == [("71234567890", "2026-01-03T23:59:59.999999Z", "web")]


@pytest.mark.parametrize("word", ["won", "Closed Won", "closedwon", "TRUE", "1", "Purchased"])
def test_won_is_won_in_many_words(word: str, tmp_path: Path) -> None:
    outcomes = f"lead_id,occurred_at,outcome,amount\na,2026-01-05,{word},9.5\nb,2026-01-05,closed-lost,\n"
    dataset = read(tmp_path, {"leads.csv": LEADS, "outcomes.csv": outcomes})
    assert dataset.outcomes.won.tolist() == [True, False]
    assert dataset.outcomes.amount.tolist()[0] == 9.5


def test_the_headings_of_salesforce_are_known(tmp_path: Path) -> None:
    files = {
        "leads.csv": "Id,CreatedDate,LeadSource,NumberOfEmployees\n00Q1,2026-01-02T09:00:00.000+0000,Web,40\n",
        "touchpoints.csv": "Id,WhoId,ActivityDate,TaskSubtype,Subject\n00T1,00Q1,2026-01-03,Email,Hello\n",
        "outcomes.csv": "ContactId,CloseDate,StageName,Amount\n00Q1,2026-02-01,Closed Won,900\n",
    }
    dataset = read(tmp_path, files)
    assert touches(dataset) == [("00Q1", "2026-01-03T23:59:59.999999Z", "email")]
    assert attributes(dataset) == {"leadsource": ["Web"], "numberofemployees": [40.0]}
    assert (dataset.outcomes.won.tolist(), dataset.outcomes.amount.tolist()) == ([True], [900.0])
    assert dataset.report is not None
    assert "touchpoints.csv: lead_id read from column 'WhoId'" in dataset.report.notes


def test_the_headings_of_hubspot_are_known(tmp_path: Path) -> None:
    files = {
        "leads.csv": "Record ID,Create Date,Industry\n501,2026-01-02 09:00,Cleaning\n",
        "touchpoints.csv": "Contact ID,Activity date,Activity type\n501,2026-01-03 10:00,Marketing Email\n",
        "outcomes.csv": "Contact ID,Close Date,Deal Stage,Deal Amount\n501,2026-02-01 12:00,closedlost,\n",
    }
    dataset = read(tmp_path, files, zone="Europe/Berlin")
    assert touches(dataset) == [("501", "2026-01-03T09:00:00Z", "marketing_email")]
    assert attributes(dataset) == {"industry": ["Cleaning"]}
    assert dataset.outcomes.won.tolist() == [False]


def test_the_headings_of_segment_are_known(tmp_path: Path) -> None:
    row = "u1,track,Form Submitted,2026-01-03T10:00:00.000Z,2026-01-03T10:00:02.000Z,m1"
    header = "userId,type,event,timestamp,receivedAt,messageId"
    dataset = read(tmp_path, {"touchpoints.csv": touched(row, row, header=header)})
    assert touches(dataset) == [("u1", "2026-01-03T10:00:00Z", "track_form_submitted")]
    assert isoformat(dataset.history.known[0]) == "2026-01-03T10:00:02Z"


def test_a_map_goes_before_names_and_synonyms(tmp_path: Path) -> None:
    row = "a,2026-01-03,2026-01-04,web,7"
    files = {"touchpoints.csv": touched(row, header="lead_id,occurred_at,Seen,type,Weight"), "leads.csv": LEADS}
    columns = {"touchpoints.occurred_at": "Seen", "action": "type", "channel": "lead_id", "lead_id": "lead_id"}
    with pytest.raises(TableError, match="lead_id and channel are both mapped to 'lead_id'"):
        read(tmp_path, files, columns=columns)
    columns = {"touchpoints.occurred_at": "Seen", "value": "Weight"}
    dataset = read(tmp_path, files, columns=columns)
    assert touches(dataset) == [("a", "2026-01-04T23:59:59.999999Z", "web")]
    assert dataset.history.value.tolist() == [7.0]


def test_every_synonym_is_of_a_column_and_plain() -> None:
    names = {name for required, optional in COLUMNS.values() for name in required + optional}
    assert set(SYNONYMS) == names
    assert not [word for words in SYNONYMS.values() for word in words if re.search(r"[^a-z0-9]", word)]


# Aliases.


def test_touches_of_a_linked_id_count_for_the_lead_from_the_link_on(tmp_path: Path) -> None:
    files = {
        "leads.csv": LEADS,
        "touchpoints.csv": touched("anon,2026-01-03T10:00:00Z,web", "anon,2026-01-20T10:00:00Z,call",
                                   "mid,2026-01-04T10:00:00Z,fax"),
        "aliases.csv": "lead_id,same_as,occurred_at\nmid,a,2026-01-15T00:00:00Z\nanon,mid,2026-01-10T00:00:00Z\n",
    }  # fmt: skip
    dataset = read(tmp_path, files)
    assert [(who, kind) for who, _, kind in touches(dataset)] == [("a", "web"), ("a", "fax"), ("a", "call")]
    assert [isoformat(t) for t in dataset.history.known] == [
        "2026-01-15T00:00:00Z",
        "2026-01-15T00:00:00Z",
        "2026-01-20T10:00:00Z",
    ]


def test_a_link_that_is_there_again_counts_from_the_first_on_and_is_told(tmp_path: Path) -> None:
    links = "lead_id,same_as,occurred_at\nb,a,2026-02-09\nb,a,2026-02-02\n"
    dataset = read(tmp_path, {"leads.csv": LEADS, "aliases.csv": links})
    assert dataset.report is not None
    assert dataset.report.left_out == {"aliases.csv: repeated, the first link counts": 1}
    assert isoformat(dataset.merged_at[1]) == "2026-02-02T23:59:59.999999Z"


def test_a_linked_lead_is_no_longer_open_and_the_other_is(tmp_path: Path) -> None:
    files = {
        "touchpoints.csv": touched(*["a,2026-01-03T10:00:00Z,web"] * 2),
        "aliases.csv": "lead_id,same_as,occurred_at\nb,c,2026-01-05T00:00:00Z\na,b,2026-01-10T00:00:00Z\n",
    }
    dataset = read(tmp_path, files)
    assert list(dataset.ids) == ["a", "b", "c"]
    assert [isoformat(t)[:10] for t in dataset.created_at] == ["2026-01-03", "2026-01-10", "2026-01-10"]
    assert [isoformat(t)[:10] for t in dataset.history.known] == ["2026-01-03", "2026-01-10", "2026-01-10"]
    for day, open_ids in (("2026-01-09", ["a"]), ("2026-01-11", ["c"])):
        then = dataset.known_at(day)
        assert list(then.ids[then.open_at(day).lead]) == open_ids
    assert dataset.report is not None
    assert dataset.report.duplicates == 1, "a row, however many leads it counts for"


def test_duplicates_of_linked_ids_are_counted_by_row(tmp_path: Path) -> None:
    files = {
        "leads.csv": LEADS,
        "touchpoints.csv": touched(*["a,2026-01-03T10:00:00Z,web"] * 2, *["x,2026-01-03T10:00:00Z,web"] * 3),
        "aliases.csv": "lead_id,same_as,occurred_at\na,b,2026-01-05T00:00:00Z\n",
    }
    dataset = read(tmp_path, files, on_error="quarantine")
    assert [who for who, _, _ in touches(dataset)] == ["a", "b"]
    assert dataset.report is not None
    assert dataset.report.duplicates == 1
    assert sum(dataset.report.quarantined.values()) == 3


# Nothing vanishes.


def test_quarantine_loses_nothing(tmp_path: Path) -> None:
    files = {
        "leads.csv": LEADS + "c,soon\nb,2026-01-02T00:00:00Z\na,2026-01-09\n",
        "touchpoints.csv": touched(
            "a,2026-01-03T10:00:00Z,web,1",
            "a,2026-01-03T10:00:00Z,web,1",
            ",2026-01-03,web,1",
            "b,2026-13-03,web,1",
            "b,2026-01-04,,1",
            'b,2026-01-04,"mail,\nletter",much',
            "c,2026-01-04,web,1",
            "b,2026-01-04,web",
            "b,2026-01-04,web,1,2",
            "b,2026-01-05,web,",
            header="lead_id,occurred_at,channel,value",
        ),
    }
    dataset = read(tmp_path, files, on_error="quarantine")
    report = dataset.report
    assert report is not None
    assert list(dataset.ids) == ["a", "b"]
    assert [who for who, _, _ in touches(dataset)] == ["a", "b"]
    assert report.rows == {"touchpoints": 10, "leads": 5}
    paths = {name: str(tmp_path / f"{name}.quarantine.csv") for name in files}
    assert report.quarantined == {paths["leads.csv"]: 2, paths["touchpoints.csv"]: 7}
    assert len(dataset.history) + report.duplicates + report.quarantined[paths["touchpoints.csv"]] == 10
    assert len(dataset) + sum(report.left_out.values()) + report.quarantined[paths["leads.csv"]] == 5

    aside = pd.read_csv(paths["touchpoints.csv"], keep_default_na=False)
    assert aside.values.tolist() == [
        ["touchpoints.csv line 4", "lead_id", "lead_id is empty. Fill it in, or remove the row.", ",2026-01-03,web,1"],
        [
            "touchpoints.csv line 5",
            "occurred_at",
            "occurred_at '2026-13-03' is not a date. Use ISO 8601, e.g. 2026-02-28T14:00:00Z, or pass --date-format.",
            "b,2026-13-03,web,1",
        ],
        ["touchpoints.csv line 6", "channel", "channel is empty. Fill it in, or remove the row.", "b,2026-01-04,,1"],
        [
            "touchpoints.csv line 7",
            "value",
            "value 'much' is not a number. Write it like 1234.5, or leave it empty.",
            'b,2026-01-04,"mail,\nletter",much',
        ],
        [
            "touchpoints.csv line 9",
            "lead_id",
            "lead_id 'c' is not in the leads table. Add the lead, or remove the row.",
            "c,2026-01-04,web,1",
        ],
        ["touchpoints.csv line 10", "", "3 fields where the header has 4. Add the rest.", "b,2026-01-04,web"],
        [
            "touchpoints.csv line 11",
            "",
            "5 fields where the header has 4. Quote the fields that contain the delimiter.",
            "b,2026-01-04,web,1,2",
        ],
    ]


def test_a_file_of_two_tables_is_set_aside_once(tmp_path: Path) -> None:
    config = '[leads]\nfile = "crm.csv"\nexclude = ["outcome", "closed"]\n[outcomes]\nfile = "crm.csv"\n' \
        'columns = { occurred_at = "closed" }\nwhere = { outcome = "won" }\n'  # fmt: skip
    rows = "lead_id;created_at;closed;outcome\na;2026-01-01;2026-02-01;won\nb;soon;;\nc;2026-01-01;late;won\n"
    rows += "d;2026-01-01;never;\ne;soon;late;won\n"
    dataset = read(tmp_path, {"dataset.toml": config, "crm.csv": rows}, on_error="quarantine")
    assert list(dataset.ids) == ["a", "c", "d"]
    assert dataset.closed[1].tolist() == [True, False, False]
    aside = pd.read_csv(tmp_path / "crm.csv.quarantine.csv")
    assert aside["record"].tolist() == ["b;soon;;", "c;2026-01-01;late;won", "e;soon;late;won"]
    assert aside["column"].tolist() == ["created_at", "occurred_at", "created_at"]


def test_rows_of_frames_are_set_aside_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"lead_id": ["a", None], "occurred_at": ["2026-01-03", "2026-01-04"], "channel": "web"})
    dataset = Dataset.from_frames(touchpoints=frame, on_error="quarantine")
    assert dataset.report is not None
    assert dataset.report.quarantined == {"touchpoints.quarantine.csv": 1}
    aside = pd.read_csv("touchpoints.quarantine.csv")
    assert aside["place"].tolist() == ["touchpoints row 2"]
    assert msgspec.json.decode(aside["record"][0]) == {
        "lead_id": None, "occurred_at": "2026-01-04", "channel": "web",
    }  # fmt: skip


def test_tables_that_are_not_read_are_named(tmp_path: Path) -> None:
    files = {"leads.csv": LEADS, "outcome.csv": "x\n", "leads.csv.quarantine.csv": "place\n", "readme.md": ""}
    dataset = read(tmp_path, files)
    assert dataset.report is not None
    assert dataset.report.notes == (f"{tmp_path}: not read, for no table is named so: outcome.csv",)


# Frames.


def test_frames_are_read_like_files(tmp_path: Path) -> None:
    leads, told = pd.read_csv(io.StringIO(LEADS)), pd.read_csv(io.StringIO(TOUCHES))
    dataset = read(tmp_path, {"leads.csv": LEADS, "touchpoints.csv": TOUCHES})
    typed = told.assign(
        occurred_at=pd.to_datetime(told["occurred_at"]).dt.tz_convert("Asia/Tokyo"),
        channel=told["channel"].astype("category"),
    )
    mixed = told.assign(occurred_at=pd.Series([t.to_pydatetime() for t in typed["occurred_at"]], dtype=object))
    for frame in (told, typed, mixed, pa.Table.from_pandas(told)):
        assert touches(Dataset.from_frames(leads=leads, touchpoints=frame)) == touches(dataset)


def test_midnights_of_a_frame_are_dates() -> None:
    frame = pd.DataFrame({"lead_id": [1], "occurred_at": pd.to_datetime(["2026-01-03"]), "channel": ["web"]})
    assert touches(Dataset.from_frames(touchpoints=frame)) == [("1", "2026-01-03T23:59:59.999999Z", "web")]


def test_dates_and_times_as_objects_keep_their_meaning() -> None:
    at = [pd.Timestamp("2026-01-03").date(), pd.Timestamp("2026-01-03T10:00", tz="Asia/Tokyo").to_pydatetime(), None]
    frame = pd.DataFrame({"lead_id": ["a", "a", "a"], "occurred_at": pd.Series(at, dtype=object), "channel": "web"})
    with pytest.raises(TableError, match="touchpoints row 3: occurred_at is empty"):
        Dataset.from_frames(touchpoints=frame)
    assert [at for _, at, _ in touches(Dataset.from_frames(touchpoints=frame[:2]))] == [
        "2026-01-03T01:00:00Z",
        "2026-01-03T23:59:59.999999Z",
    ]


def test_a_frame_with_a_heading_twice_is_refused() -> None:
    frame = pd.DataFrame([["a", "b"]], columns=["lead_id", "lead_id"])
    with pytest.raises(TableError, match=r"^touchpoints: the column 'lead_id' is there twice\. Rename one of them\.$"):
        Dataset.from_frames(touchpoints=frame)


def test_an_attribute_may_have_any_name() -> None:
    frame = pd.DataFrame({"Lead": ["x", "y"], "At": [1, np.inf], "Known": [True, None], "lead_id": ["a", "b"]})
    dataset = Dataset.from_frames(leads=frame.assign(created_at="2026-01-03"))
    assert attributes(dataset) == {"lead": ["x", "y"], "at": [1.0, None], "known": ["true", None]}


def test_outcomes_may_be_booleans() -> None:
    frame = pd.DataFrame({"lead_id": ["a", "b"], "created_at": "2026-01-03"})
    won = pd.DataFrame({"lead_id": ["a", "b"], "occurred_at": "2026-01-04", "IsWon": [True, False]})
    assert Dataset.from_frames(leads=frame, outcomes=won).outcomes.won.tolist() == [True, False]


def test_lists_among_the_attributes_are_left_out_and_noted() -> None:
    frame = pd.DataFrame({"lead_id": ["a"], "created_at": ["2026-01-03"], "tags": [["x", "y"]], "size": [3]})
    dataset = Dataset.from_frames(leads=frame)
    assert attributes(dataset) == {"size": [3.0]}
    assert dataset.report is not None
    assert dataset.report.notes == ("leads: left out, for they hold lists, records or bytes: tags",)


def test_ids_may_be_uuids(tmp_path: Path) -> None:
    ids = [UUID(int=7), UUID(int=2**127), UUID(int=7)]
    raw = pa.array([one.bytes for one in ids], pa.binary(16))
    touched = parquet(
        lead_id=pa.ExtensionArray.from_storage(pa.uuid(), raw), occurred_at=["2026-01-03"] * 3, channel=["web"] * 3
    )
    rows = "".join(f"{one},2026-01-01,3\n" for one in sorted(set(ids), key=str))
    dataset = read(tmp_path, {"leads.csv": "lead_id,created_at,size\n" + rows, "touchpoints.parquet": touched})
    assert dataset.ids.tolist() == [str(ids[0]), str(ids[1])]
    assert dataset.history.lead.tolist() == [0, 0, 1]


def test_columns_of_types_of_their_own_are_read_as_they_are_stored(tmp_path: Path) -> None:
    notes = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["3", None]))
    bytes_ = [b"\xff", b"\xfe"]
    leads = parquet(
        lead_id=["a", "b"], created_at=["2026-01-03"] * 2, size=notes, key=pa.array(bytes_, pa.binary(1)),
        kind=pa.array(bytes_).dictionary_encode(),
    )  # fmt: skip
    dataset = read(tmp_path, {"leads.parquet": leads})
    assert attributes(dataset) == {"size": [3.0, None]}
    assert dataset.report is not None
    assert dataset.report.notes == ("leads.parquet: left out, for they hold lists, records or bytes: key, kind",)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_bytes_that_are_no_text_may_be_left_out(kind: pa.DataType, tmp_path: Path) -> None:
    leads = parquet(lead_id=["a"], created_at=["2026-01-03"], photo=pa.array([b"\xff"], kind), size=[3])
    with pytest.raises(TableError, match=r"the column 'photo' cannot be read \(Invalid UTF8 payload\)"):
        read(tmp_path, {"leads.parquet": leads})
    dataset = read(tmp_path, {"leads.parquet": leads, "dataset.toml": '[leads]\nexclude = ["photo"]\n'})
    assert attributes(dataset) == {"size": [3.0]}


@pytest.mark.parametrize("word", ["9999-12-31", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z"])
def test_a_time_that_stands_for_none_is_named(word: str, tmp_path: Path) -> None:
    says = f"touchpoints.csv line 3: occurred_at {word!r} is beyond the years 2 to 9998, as what stands for no time"
    with pytest.raises(TableError, match=f"^{re.escape(says)}"):
        read(tmp_path, {"touchpoints.csv": touched("a,2026-01-03,web", f"a,{word},web")})


def test_a_time_that_stands_for_none_can_be_missing(tmp_path: Path) -> None:
    rows = "lead_id,occurred_at,channel,recorded_at\na,2026-01-03,web,9999-12-31\n"
    how = '[touchpoints]\nmissing = ["9999-12-31"]\n'
    dataset = read(tmp_path, {"touchpoints.csv": rows, "dataset.toml": how})
    assert dataset.history.known.tolist() == dataset.history.at.tolist()


# dataset.toml.


def test_dataset_toml_can_name_shape_and_leave_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TEST_DATA", str(tmp_path / "data"))
    write(
        tmp_path / "data",
        {
            "people.csv": "key;since;tags;size\na;01.01.2026;x;-\nb;02.01.2026;y;4\n",
            "log.csv": "key;day;what\na;03.01.2026;Mail Open\na;04.01.2026;SOLD\n"
            "b;05.01.2026;ping\nb;05.01.2026;mail\n",
            "days.csv": "key;day;on\na;03.01.2026;1\nb;06.01.2026;1\nb;07.01.2026;0\n",
        },
    )
    config = """
        folder = "${TOUCHSTONE_TEST_DATA}"
        zone = "America/New_York"
        date_format = "%d.%m.%Y"
        [leads]
        file = "people.csv"
        columns = { lead_id = "key", created_at = "since" }
        exclude = ["tags"]
        missing = ["-"]
        [[touchpoints]]
        file = "log.csv"
        columns = { lead_id = "key", occurred_at = "day", channel = "what" }
        [[touchpoints]]
        file = "days.csv"
        columns = { lead_id = "key", occurred_at = "day" }
        values = { channel = "active" }
        where = { on = "1" }
        unless_same_day = ["letter"]
        [kinds]
        drop = ["ping"]
        rename = { mail_open = "letter/open", mail = "letter" }
        outcomes = { sold = "won" }
    """
    dataset = read(tmp_path / "config", {"dataset.toml": config})
    assert touches(dataset) == [
        ("a", "2026-01-04T04:59:59.999999Z", "letter_open"),
        ("b", "2026-01-06T04:59:59.999999Z", "letter"),
        ("b", "2026-01-07T04:59:59.999999Z", "active"),
    ]
    assert attributes(dataset) == {"size": [None, 4.0]}
    assert dataset.closed[1].tolist() == [True, False]
    report = dataset.report
    assert report is not None
    assert report.left_out == {
        "days.csv: left out by `where`": 1,
        "log.csv: left out, of dropped kinds": 1,
        "days.csv: left out, their day is in letter": 1,
    }
    assert report.rows["touchpoints"] == len(dataset.history) + len(dataset.outcomes.at) + sum(report.left_out.values())


def test_a_map_goes_before_dataset_toml(tmp_path: Path) -> None:
    config = '[leads]\nfile = "leads.csv"\ncolumns = { created_at = "one" }\n'
    files = {"dataset.toml": config, "leads.csv": "lead_id,one,two\na,2026-01-01,2026-01-02\n"}
    assert isoformat(read(tmp_path, files).created_at[0])[:10] == "2026-01-01"
    assert isoformat(read(tmp_path, files, columns={"created_at": "two"}).created_at[0])[:10] == "2026-01-02"


def test_the_same_day_is_that_of_the_zone(tmp_path: Path) -> None:
    config = """
        zone = "America/New_York"
        [[touchpoints]]
        file = "mail.csv"
        [[touchpoints]]
        file = "days.csv"
        unless_same_day = ["mail", "seen"]
    """
    files = {
        "dataset.toml": config,
        "mail.csv": touched("a,2026-01-03T10:00:00Z,mail", "a,2026-01-06T02:00:00Z,mail"),
        "days.csv": touched("a,2026-01-03,seen", "a,2026-01-05,seen", "a,2026-01-06,seen"),
    }
    assert [at[:10] for _, at, kind in touches(read(tmp_path, files)) if kind == "seen"] == ["2026-01-07"]


def test_a_dataset_toml_that_names_no_table_goes_with_the_names_in_its_folder(tmp_path: Path) -> None:
    files = {"dataset.toml": '\ufeffzone = "Asia/Tokyo"\n', "touchpoints.csv": touched("a,2026-01-03 10:00,web")}
    assert touches(read(tmp_path, files)) == [("a", "2026-01-03T01:00:00Z", "web")]
    assert touches(Dataset.read(tmp_path, zone="UTC")) == [("a", "2026-01-03T10:00:00Z", "web")]


def test_a_dataset_toml_may_shape_a_table_whose_file_is_found_by_its_name(tmp_path: Path) -> None:
    files = {
        "dataset.toml": '[leads]\nexclude = ["Tags"]\n[kinds]\ndrop = ["call"]\n',
        "leads.csv": "lead_id,created_at,Tags,size\na,2026-01-01,x,3\n",
        "touchpoints.csv": touched("a,2026-01-03T10:00:00Z,web", "a,2026-01-03T11:00:00Z,call"),
    }
    dataset = read(tmp_path, files)
    assert attributes(dataset) == {"size": [3.0]}
    assert touches(dataset) == [("a", "2026-01-03T10:00:00Z", "web")]


def test_the_report_says_what_the_audit_asks_for() -> None:
    """The headings of attributes, and the rows recorded before they occurred; a bare date lasts its whole day."""
    leads = pd.DataFrame({"lead_id": ["a"], "created_at": ["2026-01-01"], "Lead Quality": ["x"]})
    touchpoints = table("""
        lead_id  occurred_at           recorded_at           channel
        a        2026-01-03T10:00:00Z  2026-01-03T09:59:59Z  web
        a        2026-01-03T10:00:00Z  2026-01-03T10:00:00Z  call
        a        2026-01-03T10:00:00Z  -                     fair
        a        2026-01-03            2026-01-03T00:00:00Z  mail
        a        2026-01-03            2026-01-02T23:59:00Z  demo
    """)
    report = Dataset.from_frames(leads=leads, touchpoints=touchpoints).report
    assert report is not None
    assert report.headings == {"lead_quality": "Lead Quality"}
    assert report.early == {"touchpoints": 2}


def test_the_page_names_every_key_table_and_column() -> None:
    page = (ROOT / "docs" / "dataset.md").read_text()
    keys = [key for struct in (DatasetConfig, TableFile, Kinds) for key in struct.__struct_fields__]
    columns = [name for required, optional in COLUMNS.values() for name in required + optional]
    options = ["--map", "--zone", "--date-format", "--on-error"]
    assert [word for word in (*keys, *COLUMNS, *columns) if f"`{word}`" not in page] == []
    assert [option for option in options if f"`{option}" not in page] == []


def test_the_example_on_the_page_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_EXPORT", str(tmp_path))
    (tmp_path / "2026").mkdir()
    page = (ROOT / "docs" / "dataset.md").read_text()
    example = "folder" + page.partition("```toml\nfolder")[2].partition("```")[0]
    config, folder = read_config(write(tmp_path, {"dataset.toml": example}) / "dataset.toml")
    assert folder == tmp_path / "2026"
    assert len(config.touchpoints) == 2 and config.kinds.drop == ("web_ping",)


# Real data.


@pytest.mark.parametrize(
    ("name", "first", "origins", "step", "horizon", "rows", "positives"),
    [("ds365", "2022-06-14", 8, 14, 30, 184_814, 408), ("bpi2012", "2012-01-02", 9, 7, 14, 7_637, 1_730)],
)
def test_real_logs_give_the_rows_and_purchases_they_should(
    name: str,
    first: str,
    origins: int,
    step: int,
    horizon: int,
    rows: int,
    positives: int,
    shared_data: Path,
) -> None:
    dataset = Dataset.read(ROOT / "examples" / name)
    at, won = dataset.closed
    found = bought = 0
    for k in range(origins):
        then = to_us(first) + k * step * US_PER_DAY
        known = dataset.known_at(then)
        cohort = known.open_at(then)
        lead = dataset.find(known.ids[cohort.lead])
        found += len(cohort)
        bought += int((won[lead] & (at[lead] >= then) & (at[lead] < then + horizon * US_PER_DAY)).sum())
    assert (found, bought) == (rows, positives)


def test_files_deeper_in_a_tables_folder_are_not_passed_over(tmp_path: Path) -> None:
    """Spark writes a folder for each value of a column; without its touches every lead looked cold."""
    (tmp_path / "leads.csv").write_text(LEADS)
    deep, hidden = tmp_path / "touchpoints" / "year=2026" / "0.csv", tmp_path / "touchpoints" / "_temporary" / "0.csv"
    for path in (deep, hidden):
        path.parent.mkdir(parents=True)
        path.write_text(TOUCHES)
    with pytest.raises(TableError, match=r"year=2026.0\.csv: files of a table lie in its folder itself\. .* a pattern"):
        Dataset.read(tmp_path)
    deep.rename(tmp_path / "touchpoints" / "0.csv")
    assert len(Dataset.read(tmp_path).history.at) == 2
