"""A list made partition by partition is the list made of the whole, to the bit, whatever the files are like."""

import gzip
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DAY
from small import scorer
from test_tables import ERRORS, write
from worlds import leads, tables_of

from features import Dataset, TouchstoneError
from features.inputs import find_input
from features.partitions import lead_hashes, scatter
from features.times import to_us
from serving.batch import score_input, score_list

IDS = ["L-1", "42", "-7", "0042", "Zürich", "=1+1", "a b", "x" * 60, "007", "L-2"]
BAD = [
    ("touchpoints", "occurred_at", "soon"),
    ("touchpoints", "lead_id", "nobody"),
    ("touchpoints", "value", "many"),
    ("leads", "created_at", "31/02/2026"),
    ("outcomes", "outcome", "perhaps"),
    ("attributes", "lead_id", ""),
]
NOW = 20_600 * DAY
links = st.lists(st.tuples(st.sampled_from([*IDS[:6], "cookie"]), st.sampled_from(IDS[:6])), max_size=4)


@given(
    world=st.lists(leads(), min_size=1, max_size=8),
    linked=links,
    bad=st.lists(st.tuples(st.sampled_from(BAD), st.integers(0, 99)), max_size=3),
    again=st.lists(st.integers(0, 99), max_size=3),
    bare=st.booleans(),
    parquet=st.booleans(),
    rows=st.sampled_from([3, 20, 1000]),
    day=st.integers(-20, 45),
)
def test_parts_are_the_whole(world, linked, bad, again, bare, parquet, rows, day):
    tables = tables_of(world, IDS[: len(world)])
    if bare and "touchpoints" in tables:
        del tables["leads"]
    if linked:
        at = [f"2026-0{1 + k % 9}-01T00:00:00Z" if k % 2 else "1969-12-25T00:00:00Z" for k in range(len(linked))]
        tables["aliases"] = pd.DataFrame(linked, columns=["lead_id", "same_as"], dtype="str").assign(occurred_at=at)
    for k in again:
        for name in ("leads", "touchpoints"):
            if name in tables:
                mine = tables[name]
                tables[name] = pd.concat([mine, mine.iloc[[k % len(mine)]]], ignore_index=True)
    for (name, column, value), k in bad:
        if name in tables:
            tables[name].loc[k % len(tables[name]), column] = value
    as_of = day * DAY
    with TemporaryDirectory() as place:
        folder = Path(place) / "leads"
        folder.mkdir()
        for name, table in tables.items():
            if parquet:
                table.to_parquet(folder / f"{name}.parquet")
            else:
                table.to_csv(folder / f"{name}.csv", index=False)
        whole = Dataset.read(folder, on_error="quarantine")
        expected = score_list(scorer("logistic"), whole, as_of, Path(place) / "whole.csv", reasons=3)
        aside = {path.name: path.read_bytes() for path in folder.glob("*.quarantine.csv")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("features.streams.ROWS", 16)
            # That the disk keeps it is none of this.
            patch.setattr("os.fsync", lambda handle: None)
            got = score_input(
                scorer("logistic"), str(folder), Path(place) / "parts.csv", as_of=as_of, reasons=3, rows=rows,
                on_error="quarantine",
            )  # fmt: skip
        assert (Path(place) / "parts.csv").read_bytes() == (Path(place) / "whole.csv").read_bytes()
        assert {path.name: path.read_bytes() for path in folder.glob("*.quarantine.csv")} == aside
    assert (got.scored, got.tiers, got.closed, got.later) == (
        expected.scored, expected.tiers, expected.closed, expected.later
    )  # fmt: skip
    assert got.report.rows == whole.report.rows
    assert (got.report.duplicates, got.report.automated) == (whole.report.duplicates, whole.report.automated)
    assert got.report.left_out == whole.report.left_out and got.report.early == whole.report.early
    assert sorted(got.report.notes) == sorted(whole.report.notes)
    assert got.report.written == whole.report.written
    assert sorted(got.report.quarantined.values()) == sorted(whole.report.quarantined.values())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("files", "options", "message"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_read_is_named_as_in_a_whole(files, options, message, streamed, tmp_path, monkeypatch):
    if streamed:
        monkeypatch.setattr("features.streams.WHOLE_BELOW", 0)
    (tmp_path / "leads").mkdir()
    write(tmp_path / "leads", files)
    on_error = options.get("on_error", "stop")
    options = {name: value for name, value in options.items() if name != "on_error"}
    with pytest.raises(TouchstoneError) as whole:
        Dataset.read(tmp_path / "leads", on_error=on_error, **options)
    with pytest.raises(TouchstoneError) as caught:
        scatter(find_input(tmp_path / "leads"), tmp_path / "rows", **options).read(0, on_error)
    assert str(caught.value) == str(whole.value)


def test_uuids_are_told_apart_as_in_a_whole(tmp_path):
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes([k] * 16) for k in range(40)], pa.binary(16)))
    notes = pa.ExtensionArray.from_storage(pa.json_(), pa.array([str(k) for k in range(40)]))
    frames = {
        "leads": {"lead_id": ids, "created_at": ["2026-01-01"] * 40, "size": notes},
        "touchpoints": {"lead_id": ids, "occurred_at": ["2026-01-02T10:00:00Z"] * 40, "channel": ["web"] * 40},
    }
    (tmp_path / "leads").mkdir()
    for name, columns in frames.items():
        pq.write_table(pa.table(columns), tmp_path / "leads" / f"{name}.parquet")
    whole = Dataset.read(tmp_path / "leads")
    score_list(scorer("logistic"), whole, NOW, tmp_path / "whole.csv")
    score_input(scorer("logistic"), str(tmp_path / "leads"), tmp_path / "parts.csv", as_of=NOW, rows=20)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


DIALECTS = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "windows": lambda text: text.encode("cp1252"),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "told": lambda text: b"sep=;\r\n" + text.replace(",", ";").replace("\n", "\r\n").encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip utf-16": lambda text: gzip.compress(text.encode("utf-16")),
    "ragged": lambda text: (text + "z,2026-01-04\n,,,,\nq,2026-01-04,b,1\n").encode(),
}


@pytest.mark.parametrize("written", DIALECTS.values(), ids=DIALECTS)
def test_a_text_that_comes_piece_by_piece_is_the_text(written, tmp_path, monkeypatch):
    """Whatever its dialect, with quotes, line ends and accents within cells."""
    rows = "".join(f'L-{k},2026-01-{1 + k % 28:02},"Käse{k % 3}, ""fein""\nund gut",{k}\n' for k in range(200))
    (tmp_path / "leads").mkdir()
    (tmp_path / "leads" / "leads.csv").write_bytes(written("id,created_at,trade,size\n" + rows))
    whole = Dataset.read(tmp_path / "leads", on_error="quarantine")
    aside = tmp_path / "leads" / "leads.csv.quarantine.csv"
    rejected = aside.read_text() if aside.exists() else None
    aside.unlink(missing_ok=True)
    monkeypatch.setattr("features.streams.WHOLE_BELOW", 0)
    monkeypatch.setattr("features.streams.BLOCK", 1_000)
    score_list(scorer("logistic"), whole, NOW, tmp_path / "whole.csv")
    got = score_input(
        scorer("logistic"), str(tmp_path / "leads"), tmp_path / "parts.csv", as_of=NOW, rows=20, on_error="quarantine"
    )
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert got.scored == len(whole) >= 200
    assert (aside.read_text() if aside.exists() else None) == rejected
    assert got.report == whole.report


@pytest.mark.parametrize("kind", ["csv", "streamed", "parquet"])
def test_empty_rows_are_passed_over_and_counted(kind, tmp_path, monkeypatch):
    """As Excel writes them below a table, one of them with a cell too many; a cell that is filled makes a bad row."""
    if kind == "streamed":
        monkeypatch.setattr("features.streams.WHOLE_BELOW", 0)
    day = "1970-01-02T10:00:00Z"
    rows = {
        "touchpoints": [("lead_id", "occurred_at", "channel", "value"), *((k, day, "web", k) for k in range(9))],
        "leads": [("lead_id", "created_at", "size", "note"), *((k, day, k, "") for k in range(9))],
        "outcomes": [("lead_id", "occurred_at", "outcome", "note"), (1, day, "won", "")],
        "attributes": [("lead_id", "occurred_at", "name", "value"), (2, day, "size", 7)],
        "aliases": [("lead_id", "same_as", "occurred_at", "note"), ("cookie", 3, day, "")],
    }
    folder = tmp_path / "tables"
    folder.mkdir()

    def put(name, table):
        text = "".join(";".join(map(str, row)) + "\n" for row in table)
        (folder / f"{name}.csv").write_text(text + ";;;\n;; ;\n" + (";" * 4 + "\n" if kind != "parquet" else ""))
        if kind == "parquet":
            typed = pd.read_csv(
                folder / f"{name}.csv", sep=";", dtype={"lead_id": "Int64" if name != "aliases" else str}
            )
            typed.drop(columns="note", errors="ignore").to_parquet(folder / f"{name}.parquet")
            (folder / f"{name}.csv").unlink()

    for name, table in rows.items():
        put(name, table)
    ending = "parquet" if kind == "parquet" else "csv"
    whole = Dataset.read(folder)
    assert whole.report.left_out == {
        f"{name}.{ending}: left out of {name}, for every cell is empty": 2 + (kind != "parquet") for name in rows
    }
    assert (len(whole), len(whole.history), len(whole.outcomes.at)) == (9, 9, 1)
    got = score_input(scorer("logistic"), str(folder), tmp_path / "parts.csv", as_of=20 * DAY, rows=5)
    score_list(scorer("logistic"), whole, 20 * DAY, tmp_path / "whole.csv")
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert got.report.left_out == whole.report.left_out and got.report.rows == whole.report.rows
    put("touchpoints", [*rows["touchpoints"], ("", "", "", 3)])
    for read in (Dataset.read, lambda at: scatter(find_input(at), tmp_path / "rows").read(0, "stop")):
        with pytest.raises(TouchstoneError, match=r"occurred_at is empty\. Fill it in") as caught:
            read(folder)
        assert "... and" not in str(caught.value) and str(caught.value).count("is empty") == 1


@pytest.mark.parametrize(
    ("cells", "noted"),
    [
        (["0,5"] + [str(k) for k in range(17)] + ["none", ""], True),
        (["0,5"] + [str(k) for k in range(16)] + ["none", "none", ""], False),
        (["-1.234,5", "+,5", *["", "1.5"] * 9], True),
        ([str(k) for k in range(20)], False),
        (["0,5 m", "1,2,3", *[" 3 "] * 18], False),
        (["1,000,000", "0,5", *["1,5 "] * 18], True),
    ],
)
@pytest.mark.parametrize("table", ["leads", "attributes"])
def test_a_decimal_comma_is_noted(cells, noted, table, tmp_path):
    """In a column as a whole, not in that of a partition; what is read stays what it was."""
    folder = tmp_path / "tables"
    folder.mkdir()
    day = "1970-01-02T10:00:00Z"
    leads = pd.DataFrame({"lead_id": range(20), "created_at": day, "Size": cells, "note": "a, b"})
    facts = pd.DataFrame({"lead_id": [*range(20)] * 2, "occurred_at": day, "name": ["Size"] * 20 + ["note"] * 20,
                          "value": cells + ["a, b"] * 20})  # fmt: skip
    leads[["lead_id", "created_at"] if table == "attributes" else [*leads]].to_csv(folder / "leads.csv", index=False)
    if table == "attributes":
        facts.to_csv(folder / "attributes.csv", index=False)
    whole = Dataset.read(folder)
    said = f"{table}.csv: Size is taken as words, for its numbers have a decimal comma. Write them like 1234.5"
    assert whole.report.notes == ((said,) if noted else ())
    got = score_input(scorer("lightgbm"), str(folder), tmp_path / "parts.csv", as_of=20 * DAY, rows=2)
    assert got.report.notes == whole.report.notes and got.report.written == whole.report.written


def test_midnights_are_dates_only_where_all_are(tmp_path):
    """In one file all times without a zone are midnights, in the other one is not: a part cannot know by itself."""
    days = pd.to_datetime([f"2026-01-{1 + k % 20:02}" for k in range(60)])
    for name, last in (("dates", days[-1]), ("times", pd.Timestamp("2026-01-20T00:00:01"))):
        folder = tmp_path / name
        folder.mkdir()
        at = [*days[:-1], last]
        pd.DataFrame({"lead_id": np.arange(60) // 2, "occurred_at": at, "channel": "call"}).to_parquet(
            folder / "touchpoints.parquet"
        )
        whole = Dataset.read(folder, zone="Europe/Amsterdam")
        parts = scatter(find_input(folder), tmp_path / f"{name} rows", zone="Europe/Amsterdam", rows=3)
        assert len(parts) == 20
        found = {}
        for k in range(len(parts)):
            share, _ = parts.read(k, "stop")
            for lead, at in zip(share.dataset.history.lead, share.dataset.history.at, strict=True):
                found.setdefault(share.dataset.ids[lead], []).append(at)
        lead = whole.ids[whole.history.lead]
        assert found == {name: whole.history.at[lead == name].tolist() for name in whole.ids}


def test_a_date_format_that_fits_nothing_but_another_part_is_the_files(tmp_path):
    rows = [("a", "03/04/2026", "x")] + [(f"b{k}", "2026-04-03", "x") for k in range(40)]
    pd.DataFrame(rows, columns=["lead_id", "created_at", "size"]).to_csv(tmp_path / "leads.csv", index=False)
    options = {"date_format": "%d/%m/%Y"}
    parts = scatter(find_input(tmp_path), tmp_path / "rows", rows=3, **options)
    found = [parts.read(k, "quarantine") for k in range(len(parts))]
    assert len(parts) > 10
    assert sum(len(share.dataset) for share, _ in found) == 1
    assert sum(len(rejected) for _, rejected in found) == 40


def test_ids_are_the_same_however_they_are_written():
    texts = ["42", "-7", "0", "123456789012345678", "-9223372036854775808"]
    expected = lead_hashes(pa.array(texts, pa.large_string()))
    assert len(set(expected.tolist())) == len(texts)
    for column in (
        pa.array([*map(int, texts)]), pa.array(texts), pa.array([f" {text}\t" for text in texts]),
        pa.array(texts).dictionary_encode(),
    ):  # fmt: skip
        assert (lead_hashes(column) == expected).all()
    assert (lead_hashes(pa.array([42.0, -7.0, 0.0])) == expected[:3]).all()
    # FNV-1a of "a" by its definition, and splitmix64's last steps.
    mask, found = 2**64 - 1, ((0xCBF29CE484222325 ^ 97) * 0x100000001B3) % 2**64
    found = ((found ^ found >> 30) * 0xBF58476D1CE4E5B9) & mask
    found = ((found ^ found >> 27) * 0x94D049BB133111EB) & mask
    assert lead_hashes(pa.array(["a"])).tolist() == [found ^ found >> 31]


def test_files_folders_and_patterns(tmp_path):
    """Touches in many files of a folder, by a pattern, in folders named like tables; a file alone by its columns."""
    tables = tables_of(
        [{"created": k * DAY, "attributes": {}, "touches": [], "facts": [], "outcomes": []} for k in range(9)]
    )
    touches = pd.DataFrame({
        "lead_id": [f"lead {k % 9}" for k in range(40)], "occurred_at": "1970-01-12T10:00:00Z", "channel": "web",
        "value": range(40),
    })  # fmt: skip
    (tmp_path / "tables" / "touchpoints").mkdir(parents=True)
    (tmp_path / "loose").mkdir()
    tables["leads"].to_csv(tmp_path / "tables" / "leads.csv", index=False)
    tables["leads"].to_csv(tmp_path / "loose" / "crm.csv", index=False)
    for k in range(4):
        touches[k::4].to_parquet(tmp_path / "tables" / "touchpoints" / f"part-{k}.parquet")
        touches[k::4].to_parquet(tmp_path / "loose" / f"export-{k}.parquet")
    seen = set()
    for k, path in enumerate(("tables", "loose/*", "loose/export-?.parquet")):
        whole = Dataset.read(tmp_path / path)
        assert len(whole) == 9 and len(whole.history) == 40
        got = score_input(scorer("lightgbm"), str(tmp_path / path), tmp_path / f"{k}.csv", as_of=20 * DAY, rows=5)
        score_list(scorer("lightgbm"), whole, 20 * DAY, tmp_path / "whole.csv")
        assert (tmp_path / f"{k}.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        seen.add(got.scored)
    assert seen == {9}
    with pytest.raises(TouchstoneError, match="matches no touchpoints and no leads"):
        Dataset.read(tmp_path / "loose" / "nothing*")
    pd.DataFrame({"x": [1]}).to_csv(tmp_path / "odd.csv")
    with pytest.raises(TouchstoneError, match=r"odd\.csv: found .*, which are the columns of no table"):
        Dataset.read(tmp_path / "odd.csv")


def test_a_folder_that_a_pattern_matches_is_not_passed_over_in_silence(tmp_path):
    folder = tmp_path / "export"
    for name in ("touchpoints", "notes"):
        (folder / name).mkdir(parents=True)
    write(folder, {"leads.csv": "lead_id,created_at\na,1970-01-02\n", "notes/readme.md": "", "touchpoints/a.csv": (
        "lead_id,occurred_at,channel\na,1970-01-03,web\n")})  # fmt: skip
    said = f"{folder}/*: not read, for the pattern matches the folder and no file in it: {folder}/touchpoints"
    assert Dataset.read(folder / "*").report.notes == (said,)
    got = score_input(scorer("lightgbm"), f"{folder}/*", tmp_path / "parts.csv", as_of=20 * DAY)
    assert got.report.notes == (said,) and got.report.rows == {"leads": 1}
    for pattern in (f"{folder}/**/*", f"{folder}/**/*.csv"):
        whole = Dataset.read(pattern)
        assert whole.report.notes == () and len(whole.history) == 1


def test_a_list_without_histories_is_streamed_too(shared_data, tmp_path, monkeypatch):
    """Attributes alone; one file makes two tables, and is packed and read piece by piece."""
    monkeypatch.setattr("features.streams.WHOLE_BELOW", 0)
    monkeypatch.setenv("TOUCHSTONE_SHARED_DATA", str(shared_data))
    source = Path(__file__).parents[1] / "examples" / "xeducation" / "dataset.toml"
    whole, as_of = Dataset.read(source), to_us("2020-01-02")
    told = []
    got = score_input(
        scorer("blend"), str(source), tmp_path / "parts.csv", as_of=as_of, reasons=3, rows=1_000,
        progress=lambda says, share: told.append((says, share)),
    )  # fmt: skip
    score_list(scorer("blend"), whole, as_of, tmp_path / "whole.csv", reasons=3)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert got.report == whole.report
    assert got.scored == got.report.rows["leads"] == 9_240
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1
    assert re.fullmatch(r"[\d,]+ leads/s, 0:00:00 left", told[-1][0])
