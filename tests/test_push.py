"""Scores in the shapes of CRMs, each held to what the CRM's own documentation says of it."""

import csv
import io
import json
import re
import threading
import xmlrpc.client
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import httpx
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import Run, Runner, run  # noqa: F401
from trained import Trained

from features import TouchstoneError
from serving.crms import CRMS, Scored
from serving.parts import write_rows
from serving.push import push
from serving.scoring import SCHEMA
from serving.store import ListedScore, open_store

AT = datetime(2026, 11, 1, 9, 30, 0, 123456, UTC)
IDS = {
    "salesforce": ["00Q5g00000AbCdE", "00Q5g00000AbCdFGHI"],
    "hubspot": ["101", "102"],
    "dynamics": ["0F1E2D3C-0000-4000-8000-00000000000a", "0f1e2d3c-0000-4000-8000-00000000000b"],
    "odoo": ["41", "42"],
}


def listed(path: Path, ids: list[str], reasons: tuple[str | None, ...] = (None, None, None)) -> Path:
    """A scored list, of leads that are hot, cold, hot, ..."""
    rows = [
        {
            "lead_id": name, "as_of": AT, "horizon_days": 90.0, "probability": 0.3125 if k % 2 == 0 else 1e-7,
            "lower": 0.2, "upper": 0.4, "score": 97 if k % 2 == 0 else 0, "tier": "hot" if k % 2 == 0 else "cold",
            "route": "sales" if k % 2 == 0 else "marketing", "model_version": "3",
            **{f"reason_{n}": text for n, text in enumerate(reasons, 1)},
        }
        for k, name in enumerate(ids)
    ]  # fmt: skip
    write_rows(iter([pa.Table.from_pylist(rows, SCHEMA)]), path)
    return path


def only(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


# --- CSV: Salesforce and HubSpot


def test_salesforce_takes_the_file(tmp_path: Path) -> None:
    """Bulk API 2.0, "Prepare CSV files": UTF-8, a row of API names, one line ending, times as ISO 8601 in UTC."""
    done = push(str(listed(tmp_path / "a.csv", IDS["salesforce"], ("Ü, 2 demos", 'a "b"', None))), "salesforce",
                tmp_path / "out")  # fmt: skip
    assert (done.leads, done.files, done.left_out) == (2, ("scores-00001.csv",), 0)
    raw = only(tmp_path / "out").read_bytes()
    assert b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf") and raw.endswith(b"\n")
    header, *rows = csv.reader(raw.decode().splitlines())
    assert header[0] == "Id"
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,38}[A-Za-z0-9]__c", name) for name in header[1:])
    assert [dict(zip(header, row, strict=True)) for row in rows] == [
        {
            "Id": "00Q5g00000AbCdE", "Touchstone_Probability__c": "0.312500", "Touchstone_Score__c": "97",
            "Touchstone_Tier__c": "hot", "Touchstone_Route__c": "sales",
            "Touchstone_Reasons__c": 'Ü, 2 demos; a "b"', "Touchstone_Scored_At__c": "2026-11-01T09:30:00Z",
            "Touchstone_Model__c": "3",
        },
        {
            "Id": "00Q5g00000AbCdFGHI", "Touchstone_Probability__c": "0.000000", "Touchstone_Score__c": "0",
            "Touchstone_Tier__c": "cold", "Touchstone_Route__c": "marketing",
            "Touchstone_Reasons__c": 'Ü, 2 demos; a "b"', "Touchstone_Scored_At__c": "2026-11-01T09:30:00Z",
            "Touchstone_Model__c": "3",
        },
    ]  # fmt: skip


def test_hubspot_takes_the_file(tmp_path: Path) -> None:
    """Imports API: a heading for each property in lower case, a Record ID or an Email, dates as YEAR_MONTH_DAY."""
    push(str(listed(tmp_path / "a.parquet", IDS["hubspot"])), "hubspot", tmp_path / "ids")
    header, first, _ = csv.reader(only(tmp_path / "ids").read_text().splitlines())
    assert header[0] == "Record ID" and first[0] == "101"
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name) for name in header[1:])
    assert first[header.index("touchstone_scored_on")] == "2026-11-01"
    assert first[header.index("touchstone_score")] == "97"
    mails = listed(tmp_path / "b.parquet", ["ann@example.com", "no address"])
    done = push(str(mails), "hubspot", tmp_path / "mails", id_field="Email")
    assert (done.leads, done.left_out, done.named) == (1, 1, ("no address",))
    assert [row[0] for row in csv.reader(only(tmp_path / "mails").read_text().splitlines())] == [
        "Email", "ann@example.com"
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_no_cell_is_a_formula_and_no_id_is_changed(tmp_path: Path, ending: str) -> None:
    """An id with a quote before it would find nobody, or make somebody new."""
    ids = ["L-1", "=1+1", "+31 6", "-5", "@SUM(A1)", "a=b"]
    source = listed(tmp_path / f"a{ending}", ids, ("=cmd()", None, None))
    done = push(str(source), "salesforce", tmp_path / "out", id_field="Key__c")
    assert (done.leads, done.left_out, done.named) == (2, 4, ("=1+1", "+31 6", "-5", "@SUM(A1)"))
    rows = [*csv.DictReader(only(tmp_path / "out").read_text().splitlines())]
    assert [row["Key__c"] for row in rows] == ["L-1", "a=b"]
    assert {row["Touchstone_Reasons__c"] for row in rows} == {"'=cmd()"}


TEXTS = st.text(max_size=30)


def in_words(text: str) -> str:
    """Without what no CRM takes: one space where there was any of it."""
    bad = [ord(char) < 32 or ord(char) in (127, 0xFFFE, 0xFFFF) for char in text]
    return "".join(" " if bad[k] else char for k, char in enumerate(text) if not (bad[k] and k and bad[k - 1]))


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), st.sampled_from(["salesforce", "hubspot"]))
def test_a_csv_says_what_it_was_given(leads: list[tuple[str, str]], to: str) -> None:
    crm = CRMS[to]
    scored = [
        Scored(
            lead_id=f"L{name}", probability=0.5, score=5, tier="hot", route="sales", reasons=(why,), as_of=AT,
            model_version="1",
        )
        for name, why in leads
    ]  # fmt: skip
    taken = [one for one in scored if crm.accepts(one.lead_id, "Key")]
    assert [one.lead_id for one in taken] == [one.lead_id for one in scored if in_words(one.lead_id) == one.lead_id]
    text = crm.write(taken, "Key", {"reasons": "Why", "score": "S"})
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == ["Key", "Why", "S"]
    for one, (key, words, score) in zip(taken, rows, strict=True):
        assert (key, score) == (one.lead_id, "5")
        said = in_words(one.reasons[0])
        assert words == (f"'{said}" if said[:1] in {"=", "+", "-", "@"} else said)


def test_only_what_is_asked_for_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    source = str(listed(tmp_path / "a.csv", IDS["salesforce"]))
    push(source, "salesforce", tmp_path / "out", fields={"score": "Rating__c", "tier": "Grade__c"})
    assert only(tmp_path / "out").read_text().splitlines()[0] == "Id,Rating__c,Grade__c"


# --- Dynamics: a batch of the Dataverse Web API

PREDICTIVE_SCORE = {
    "msdyn_score": int, "msdyn_grade": int, "msdyn_scorereasons": str, "msdyn_scoredon": str,
}  # fmt: skip
"""Writable columns of msdyn_predictivescore, by "msdyn_predictivescore table/entity reference"; the alternate key is of
msdyn_entityid and msdyn_entitytype, the grades are 0 to 3 for A to D, reasons are up to 10,000 characters."""


def test_dynamics_takes_the_batch(tmp_path: Path) -> None:
    """ "Execute batch operations using the Web API": parts of application/http, CRLF, at most 1,000 requests."""
    push(str(listed(tmp_path / "a.csv", IDS["dynamics"], ("2 demos: 31 %", "€", None))), "dynamics", tmp_path / "out")
    raw = only(tmp_path / "out").read_bytes()
    assert re.search(rb"(?<!\r)\n", raw) is None
    message = message_from_bytes(b"Content-Type: multipart/mixed; boundary=touchstone\r\n\r\n" + raw)
    parts: list[Any] = message.get_payload()
    assert message.is_multipart() and not message.defects and len(parts) == 4
    told = []
    for part in parts:
        assert part.get_content_type() == "application/http"
        assert part["Content-Transfer-Encoding"] == "binary"
        head, body = part.get_payload(decode=True).split(b"\r\n\r\n", 1)
        request, *headers = head.decode().split("\r\n")
        method, path, version = request.split(" ")
        assert (method, version) == ("PATCH", "HTTP/1.1")
        assert "Content-Type: application/json" in headers
        told.append((path, headers, json.loads(body)))
    for lead_id, (score, bound) in zip(IDS["dynamics"], (told[:2], told[2:]), strict=True):
        key = f"/msdyn_predictivescores(msdyn_entityid='{lead_id.lower()}',msdyn_entitytype='lead')"
        assert score[0] == f"/api/data/v9.2{key}"
        assert {name: type(value) for name, value in score[2].items()} == PREDICTIVE_SCORE
        assert bound[0] == f"/api/data/v9.2/leads({lead_id.lower()})"
        # Without it a lead that is not there would be made.
        assert "If-Match: *" in bound[1]
        assert bound[2] == {"msdyn_PredictiveScoreId@odata.bind": key}
    assert told[0][2] == {
        "msdyn_score": 97, "msdyn_grade": 0, "msdyn_scorereasons": "2 demos: 31 %; €",
        "msdyn_scoredon": "2026-11-01T09:30:00Z",
    }  # fmt: skip
    assert told[2][2]["msdyn_grade"] == 2


# --- Odoo: calls of XML-RPC


class Odoo:
    """What Odoo's external API does with a write: refuse a stranger, change what is there."""

    def __init__(self) -> None:
        self.leads: dict[int, dict[str, Any]] = {41: {}, 42: {}}

    def execute_kw(
        self, database: str, uid: int, key: str, model: str, method: str, arguments: list[Any], options: Any = None
    ) -> bool:
        assert (database, uid, key, model, method) == ("sales & co", 7, "s3cr$t", "crm.lead", "write")
        ids, values = arguments
        for one in ids:
            self.leads[one].update(values)
        return True


def test_odoo_takes_the_calls(tmp_path: Path) -> None:
    """ "External API": execute_kw(database, uid, key, model, "write", [[id], values]) at /xmlrpc/2/object."""
    odoo = Odoo()

    class Handler(SimpleXMLRPCRequestHandler):
        rpc_paths = ("/xmlrpc/2/object",)

    words = "<2 demos> & ${ODOO_API_KEY}\x01: 31 % \ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    source = listed(tmp_path / "a.parquet", IDS["odoo"], (words, None, None))
    push(str(source), "odoo", tmp_path / "out")
    lines = only(tmp_path / "out").read_text().splitlines()
    assert len(lines) == 2
    with SimpleXMLRPCServer(("127.0.0.1", 0), Handler, logRequests=False) as server:
        server.register_instance(odoo)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            for line in lines:
                # As envsubst does it; the words of a reason stay words.
                for name, value in (("DATABASE", "sales &amp; co"), ("UID", "7"), ("API_KEY", "s3cr$t")):
                    assert line.count(f"${{ODOO_{name}}}") == 1
                    line = line.replace(f"${{ODOO_{name}}}", value)
                got = httpx.post(f"http://127.0.0.1:{server.server_address[1]}/xmlrpc/2/object", content=line,
                                 headers={"content-type": "text/xml"})  # fmt: skip
                assert xmlrpc.client.loads(got.text) == ((True,), None)
        finally:
            server.shutdown()
            thread.join()
    assert odoo.leads[41] == {
        "probability": 31.25, "x_touchstone_score": 97, "x_touchstone_tier": "hot", "x_touchstone_route": "sales",
        "x_touchstone_reasons": "<2 demos> & ${ODOO_API_KEY} : 31 % �", "x_touchstone_scored_at": "2026-11-01 09:30:00",
        "x_touchstone_model": "3",
    }  # fmt: skip
    # Neither lost nor won.
    assert odoo.leads[42]["probability"] == 0.01


# --- lists and the service's ranking


def test_what_touchstone_scored_is_pushed(run: Runner, trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    scored = [tmp_path / "scored.csv", tmp_path / "scored.parquet"]
    texts = []
    for path in scored:
        run("score", trained.leads, "--model", trained.bundle, "--as-of", "2026-01-15", "--output", path)
        out = tmp_path / path.suffix
        told = run("push", path, "--to", "salesforce", "--output", out, "--id-field", "Key__c", "--json").json
        assert told == {
            "leads": len(pd.read_csv(scored[0])), "left_out": 0, "output": str(out), "files": ["scores-00001.csv"]
        }  # fmt: skip
        texts.append((out / "scores-00001.csv").read_bytes())
    assert texts[0] == texts[1]
    rows, given_rows = pd.read_csv(tmp_path / ".csv" / "scores-00001.csv"), pd.read_csv(scored[0])
    assert rows["Key__c"].tolist() == given_rows["lead_id"].tolist()
    assert rows["Touchstone_Score__c"].tolist() == given_rows["score"].tolist()
    assert (rows["Touchstone_Probability__c"] - given_rows["probability"]).abs().max() <= 5.1e-7
    assert rows["Touchstone_Reasons__c"][0].split("; ")[0] == given_rows["reason_1"][0]


def test_the_ranking_is_pushed_a_tenant_at_a_time(run: Runner, tmp_path: Path) -> None:  # noqa: F811
    url = f"sqlite:///{tmp_path / 't.db'}"
    store = open_store(url)
    for tenant, leads in (("acme", 2_500), ("other", 1)):
        store.put(
            tenant,
            [
                ListedScore(
                    lead_id=str(10_000 + k), probability=0.25, score=50, tier="warm", expected_value=1.0,
                    as_of=round(AT.timestamp() * 1e6), model_version="3",
                )
                for k in range(leads)
            ],
        ).result()  # fmt: skip
    store.close()
    (tmp_path / "p.toml").write_text('[routes]\nwarm = "marketing"\n')
    assert run("policy", "set", tmp_path / "p.toml", "--tenant", "acme", "--database", url).code == 0
    told = run("push", url, "--to", "odoo", "--output", tmp_path / "out", "--tenant", "acme")
    assert told.out == f"2,500 leads for odoo in {tmp_path / 'out'}: 3 files\n"
    files = sorted((tmp_path / "out").iterdir())
    assert [len(file.read_text().splitlines()) for file in files] == [1_000, 1_000, 500]
    line = files[2].read_text().splitlines()[-1].replace("${ODOO_UID}", "1")
    (*_, (ids, values)), _ = xmlrpc.client.loads(line)
    assert ids == [12_499]
    assert (values["x_touchstone_route"], values["x_touchstone_reasons"]) == ("marketing", "")
    told = run("push", url, "--to", "odoo", "--output", tmp_path / "none")
    assert (told.code, told.err) == (
        2, "error: --tenant default: nothing is stored for it, but for acme, other.\n"
    )  # fmt: skip


def test_files_are_no_larger_than_the_crm_takes(tmp_path: Path) -> None:
    ids = [f"0f1e2d3c-0000-4000-8000-{k:012}" for k in range(501)]
    done = push(str(listed(tmp_path / "a.parquet", ids)), "dynamics", tmp_path / "out")
    assert done.files == ("scores-00001.batch", "scores-00002.batch")
    counts = [(tmp_path / "out" / name).read_text().count("PATCH ") for name in done.files]
    assert counts == [1_000, 2]


def test_who_is_left_out_is_told(run: Runner, tmp_path: Path) -> None:  # noqa: F811
    source = listed(tmp_path / "a.csv", ["7", *(f"L-{k}" for k in range(1_200))])
    told: Run = run("push", source, "--to", "odoo", "--output", tmp_path / "out")
    assert told.code == 0
    assert told.err == (
        "warning: 1,200 leads are left out, for odoo would not find them by their ids: "
        "'L-0', 'L-1', 'L-2', 'L-3', 'L-4'\n"
    )


@pytest.mark.parametrize(
    ("ids", "options", "says"),
    [
        (["L-1"], {"to": "salesforce"}, "none of 1 leads has an id that salesforce knows as Id: 'L-1'. Name the field"),
        (["L-1"], {"to": "hubspot"}, r"knows as Record ID: 'L-1'. Name .* with --id-field \(Email, or one of your own"),
        (["L-1"], {"to": "odoo"}, "knows as id: 'L-1'. Score leads under the CRM's own ids"),
        (["0"], {"to": "odoo"}, "none of 1 leads"),
        (["1"], {"to": "odoo", "id_field": "x_key"}, "--id-field x_key: odoo finds a lead by its id alone. Leave it"),
        (["1"], {"to": "hubspot", "id_field": "a,b"}, "--id-field 'a,b' is no name of a field"),
        (["1"], {"to": "hubspot", "fields": {"mood": "m"}}, "a score has no 'mood'. Use one of probability, score"),
        (["1"], {"to": "hubspot", "fields": {"score": "a\nb"}}, "is no name of a field"),
        (["1"], {"to": "hubspot", "fields": {"score": "m", "tier": "m"}}, "--field ...=m: two values would go there"),
        (["1"], {"to": "hubspot", "fields": {"score": "Record ID"}}, "two values would go there"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path: Path, ids: list[str], options: Any, says: str) -> None:
    source = listed(tmp_path / "a.csv", ids)
    with pytest.raises(TouchstoneError, match=says) as error:
        push(str(source), output=tmp_path / "out", **options)
    assert error.value.exit_code == 2
    assert [*tmp_path.iterdir()] == [source]


def test_a_folder_that_holds_something_stays(tmp_path: Path) -> None:
    source = listed(tmp_path / "a.csv", ["1"])
    with pytest.raises(TouchstoneError, match=r"holds something already\. Name another folder"):
        push(str(source), "odoo", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(TouchstoneError, match="holds something already"):
        push(str(source), "odoo", tmp_path / "file")
    with pytest.raises(TouchstoneError, match=r"file/out cannot be written: .*Choose another place"):
        push(str(source), "odoo", tmp_path / "file" / "out")
    (tmp_path / "empty").mkdir()
    assert push(str(source), "odoo", tmp_path / "empty").leads == 1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "a.csv",
            "lead_id,score\n1,2\n",
            "a.csv: no column as_of, probability, tier, route, model_version. Give a list",
        ),
        ("a.csv", "lead_id,score\n1,many\n", "a.csv is no scored list: .*many"),
        ("a.parquet", "PAR", "a.parquet is no scored list"),
        ("a.xlsx", "", "a.xlsx: scores come from a list, .csv or .parquet, or from a database"),
        ("b.csv", None, "b.csv: no such list. Make one: touchstone score INPUT --output"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    before = [*tmp_path.iterdir()]
    with pytest.raises(TouchstoneError, match=says):
        push(str(tmp_path / name), "odoo", tmp_path / "out")
    assert [*tmp_path.iterdir()] == before


@pytest.mark.parametrize(
    ("wrong", "right", "says"),
    [
        (",hot,", ",boiling,", "a.csv line 2: tier 'boiling' is not one of cold, warm, hot"),
        (",0.3125,", ",31.25,", "a.csv line 2: probability 31.25 is not one of 0 to 1"),
        (",0.3125,", ",,", "a.csv line 2: probability is empty"),
        ("2026-11-01T09:30:00.123456Z", "soon", "'soon' is not a time"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, wrong: str, right: str, says: str) -> None:
    source = listed(tmp_path / "a.csv", ["1"])
    text = source.read_text().replace('"', "")
    assert wrong in text
    source.write_text(text.replace(wrong, right))
    with pytest.raises(TouchstoneError, match=says):
        push(str(source), "odoo", tmp_path / "out")
    assert not (tmp_path / "out").exists()
