"""Lists whose leads are elsewhere equal those of the same leads here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import create_engine, text
from stores import fill
from trained import Trained, simulate_leads
from typer.testing import CliRunner

from features import Dataset, TableError, UsageError
from features.times import to_us
from models import load_bundle
from serving.batch import score_input, score_list
from serving.fetching import _save
from serving.policy import Cuts, Policy, Routes, set_policy
from serving.store import open_store

AS_OF = to_us("2026-01-15")
TABLES = ("leads", "touchpoints", "outcomes", "attributes", "aliases")
Score = Callable[..., bytes]


@pytest.fixture(scope="module")
def leads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "leads"
    simulate_leads(folder, leads=200)
    return folder


@pytest.fixture
def score(trained: Trained, tmp_path: Path) -> Score:
    """Makes a list in many parts and returns what is in it."""

    def make(path: object, rows: int = 300, **options: object) -> bytes:
        output = tmp_path / "scored.csv"
        score_input(load_bundle(trained.bundle), str(path), output, as_of=AS_OF, rows=rows, **options)  # type: ignore[arg-type]
        assert not output.with_name("scored.csv.parts").exists()
        return output.read_bytes()

    return make


@pytest.fixture
def expected(trained: Trained, leads: Path, tmp_path: Path) -> bytes:
    score_list(load_bundle(trained.bundle), Dataset.read(leads), AS_OF, tmp_path / "whole.csv")
    return (tmp_path / "whole.csv").read_bytes()


@pytest.fixture
def filled(database: str, leads: Path) -> Iterator[str]:
    """A database in which a CRM keeps the tables under names of its own."""
    engine = create_engine(database)
    for name in TABLES:
        table = pd.read_csv(leads / f"{name}.csv", dtype=str)
        if "value" in table and name == "touchpoints":
            table["value"] = table["value"].astype(float)
        table.to_sql(f"crm_{name}", engine, index=False)
    yield database
    with engine.begin() as connection:
        for name in TABLES:
            connection.execute(text(f"DROP TABLE crm_{name}"))
    engine.dispose()


def test_queries_of_a_database(filled: str, score: Score, expected: bytes) -> None:
    queries = {name: f"SELECT * FROM crm_{name} -- '='" for name in TABLES}
    assert score(filled, queries=queries) == expected
    with pytest.raises(TableError, match="crm_nothing"):
        score(filled, queries={"leads": "SELECT * FROM crm_nothing"})
    bad = queries | {"leads": "SELECT lead_id, 'soon' AS created_at FROM crm_leads"}
    with pytest.raises(TableError, match=r"leads\.parquet row [0-9]+: created_at 'soon' is not a date"):
        score(filled, queries=bad)
    with pytest.raises(TableError, match="a column holds values of several types"):
        score("sqlite://", queries={"leads": "SELECT 'a' AS lead_id UNION ALL SELECT 1"})
    with pytest.raises(TableError, match=r"--query leads=\.\.\.: the column 'size' is there twice\. Name one"):
        score("sqlite://", queries={"leads": "SELECT 'a' AS lead_id, '2026-01-01' AS created_at, 1 AS size, 2 AS size"})


def test_a_query_only_reads(filled: str, score: Score, expected: bytes) -> None:
    """On SQLite a table would be gone at once, and on PostgreSQL a sequence move on whatever is rolled back."""
    engine = create_engine(filled)
    postgres = engine.dialect.name == "postgresql"
    if postgres:
        with engine.begin() as connection:
            connection.execute(text("CREATE SEQUENCE crm_next"))
    query = "SELECT nextval('crm_next') AS lead_id" if postgres else "DROP TABLE crm_leads"
    with pytest.raises(TableError, match=r"read-?only.*\. A query may only read\.$"):
        score(filled, queries={"leads": query})
    if postgres:
        with engine.begin() as connection:
            assert connection.execute(text("SELECT nextval('crm_next')")).scalar() == 1
            connection.execute(text("DROP SEQUENCE crm_next"))
    engine.dispose()
    assert score(filled, queries={name: f"SELECT * FROM crm_{name}" for name in TABLES}) == expected


def test_a_database_that_is_not_there_is_not_made(score: Score, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"crm\.db: there is no such database"):
        score(f"sqlite:///{tmp_path}/crm.db", queries={"leads": "SELECT 1"})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "batches",
    [[[("a",), (1,)]], [[(1,), ("a",)]], [[(1,)], [("a",)]], [[(1.5,)], [(date(2026, 1, 1),)]]],
    ids=["words, then a number", "a number, then words", "in the next rows", "a date in the next rows"],
)
def test_a_column_of_several_types_is_refused(batches: list[list[tuple[object]]], tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"--query leads=\.\.\.: a column holds values of several types .* Cast it"):
        _save("leads", ["x"], iter(batches), tmp_path / "x.parquet")


def test_the_services_own_store(
    database: str, tenant: str, leads: Path, score: Score, trained: Trained, tmp_path: Path
) -> None:
    with_store = open_store(database)
    fill(with_store, tenant, leads)
    with_store.export(tenant, tmp_path / "export")
    with_store.close()
    score_list(load_bundle(trained.bundle), Dataset.read(tmp_path / "export"), AS_OF, tmp_path / "whole.csv")
    assert score(database, tenant=tenant) == (tmp_path / "whole.csv").read_bytes()
    with pytest.raises(UsageError, match="--tenant nobody: nothing is stored for it"):
        score(database, tenant="nobody")


def test_the_services_own_store_goes_by_the_policy_of_the_tenant(
    database: str, tenant: str, leads: Path, score: Score
) -> None:
    with closing(open_store(database)) as store:
        fill(store, tenant, leads)
        set_policy(store, tenant, Policy(tiers=Cuts(warm=0.0, hot=1.0), routes=Routes(warm="marketing")), "cli:me")
    found = pd.read_csv(BytesIO(score(database, tenant=tenant)))
    assert set(zip(found["tier"], found["route"], strict=True)) == {("warm", "marketing")}


def test_files_by_their_address_are_not_written_over(
    leads: Path, score: Score, tmp_path: Path, expected: bytes
) -> None:
    kept = (leads / "leads.csv").read_bytes()
    (tmp_path / "scored.csv").write_bytes(kept)
    for address in (f"file://{tmp_path}/scored.csv", f"file://{tmp_path}/s*.csv", f"local://{tmp_path}"):
        with pytest.raises(UsageError, match=r"scored\.csv: the list is made of this file, which would be lost"):
            score(address)
    assert (tmp_path / "scored.csv").read_bytes() == kept
    assert score(f"file://{leads}") == expected


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real server that speaks S3's protocol."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        import s3fs

        s3fs.S3FileSystem().mkdir("crm")
        yield "s3://crm"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_an_object_store(bucket: str, leads: Path, score: Score, expected: bytes) -> None:
    """A folder, and files of a folder by a pattern, as CSV and Parquet."""
    import s3fs

    store = s3fs.S3FileSystem()
    touches = pd.read_csv(leads / "touchpoints.csv", dtype=str)
    for name in TABLES:
        store.put_file(str(leads / f"{name}.csv"), f"crm/whole/{name}.csv")
        if name != "touchpoints":
            store.put_file(str(leads / f"{name}.csv"), f"crm/parts/2026/{name}-1.csv")
    for k in range(3):
        with store.open(f"crm/parts/2026/export/touchpoints-{k}.parquet", "wb") as handle:
            touches[k::3].to_parquet(handle)
    store.invalidate_cache()
    assert score(f"{bucket}/whole") == expected
    assert score(f"{bucket}/parts/**") == expected
    assert score(f"{bucket}/parts/2026") == expected
    with pytest.raises(TableError, match="no CSV or Parquet file is there"):
        score(f"{bucket}/nothing")


def test_rows_set_aside_stay_when_the_copy_goes(bucket: str, leads: Path, score: Score, tmp_path: Path) -> None:
    import s3fs

    store = s3fs.S3FileSystem()
    with store.open("crm/odd/touchpoints.csv", "w") as handle:
        handle.write("lead_id,occurred_at,channel\na,2026-01-01T00:00:00Z,web\na,soon,web\n")
    store.invalidate_cache()
    score(f"{bucket}/odd", on_error="quarantine")
    assert "touchpoints.csv line 3" in (tmp_path / "touchpoints.csv.quarantine.csv").read_text()


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        ("leads", ["--tenant", "default"], "leads: --query and --tenant go with the URL of a database"),
        ("sqlite:///x.db", [], "sqlite:///x.db: a database needs either --tenant"),
        ("sqlite:///x.db", ["--tenant", "a", "--query", "leads=SELECT 1"], "a database needs either --tenant"),
        ("postgresql://me:secret@host/x", [], r"postgresql://me:\*\*\*@host/x: a database needs"),
        ("sqlite:///x.db", ["--query", "people=SELECT 1"], "--query people=...: no such table. Use one of touchpoints"),
        ("sqlite:///x.db", ["--query", "SELECT"], "--query 'SELECT': write our table, an equals sign and the query"),
        ("postgresql://me:sec@ret@host/x", [], r"postgresql://me:\*\*\*@host/x: a database needs"),
        ("odd://x", [], "odd://x: Protocol not known: odd"),
        ("ftp://me:secret@127.0.0.1:9/x", [], r"ftp://me:\*\*\*@127.0.0.1:9/x: .*refused"),
        ("ftp://me:secret@host/x", ["--tenant", "a"], r"ftp://me:\*\*\*@host/x: --query and --tenant go with"),
    ],
)
def test_what_does_not_fit_together(
    path: str, options: list[str], says: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from touchstone import app

    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["score", path, "--output", "a.csv", "--model", str(trained.bundle), *options])
    assert isinstance(said.exception, UsageError | TableError)
    with pytest.raises(type(said.exception), match=says):
        raise said.exception
    assert [*tmp_path.iterdir()] == []


def test_a_store_without_credentials_is_told_in_one_line(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(TableError, match="s3://crm/x: Unable to locate credentials"):
        score("s3://crm/x")
    s3fs.S3FileSystem.clear_instance_cache()
    assert [*tmp_path.iterdir()] == []
