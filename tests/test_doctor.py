"""The doctor finds each thing that can be broken, and says how to mend it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from test_compiled import RESTRICTED
from trained import ROOT, Trained, serving

from features import health
from features.health import machine
from models.health import models
from serving import Settings
from serving.health import service
from serving.keys import create_key
from serving.store import open_store, upgrade_database


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database with an API key."""
    url = f"sqlite:///{tmp_path}/touchstone.db"
    with closing(open_store(url)) as store:
        create_key(store, "acme", "crm", ["score"], "test")
    return url


@pytest.fixture
def port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        number = listener.getsockname()[1]
    yield number


def found(checks: object) -> dict[str, tuple[str, str]]:
    return {check.name: (check.state, check.says) for check in checks}


def of_service(database: str, port: int = 0) -> dict[str, tuple[str, str]]:
    return found(service(Settings(database=database, port=port)))


def doctor(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "touchstone", "doctor", "--json", *map(str, arguments)], cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, check=False,
    )  # fmt: skip


def test_all_is_well_where_nothing_is_wrong(trained: Trained, database: str, port: int, tmp_path: Path) -> None:
    told = doctor("--model", trained.bundle, "--database", database, "--port", port, folder=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    document = json.loads(told.stdout)
    assert document["ok"] is True
    assert [(check["name"], check["state"]) for check in document["checks"]] == [
        (name, "ok")
        for name in ("python", "features", "disk", "memory", "lightgbm", "model", "database", "keys", "clock", "port",
                     "mlflow")
    ]  # fmt: skip
    assert not (tmp_path / "mlflow.db").exists()


def test_what_failed_makes_the_exit_code_and_the_rest_is_checked_still(tmp_path: Path, port: int) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database " * 1_000)
    told = doctor(
        "--database", f"sqlite:///{tmp_path}/broken.db", "--port", port, "--model", tmp_path / "none",
        folder=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9/",
    )  # fmt: skip
    assert told.returncode == 1
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert {name for name, check in checks.items() if check["state"] == "fail"} == {"model", "database", "mlflow"}
    assert "Train one with `touchstone train`" in checks["model"]["says"]
    assert "file is not a database" in checks["database"]["says"]
    assert "MLFLOW_TRACKING_URI" in checks["mlflow"]["says"]


def test_features_that_cannot_be_kept_are_a_warning(tmp_path: Path) -> None:
    """Where nothing is compiled and nothing can be written, for root neither."""
    shutil.copytree(ROOT / "features", tmp_path / "features", ignore=shutil.ignore_patterns("__pycache__"))
    for path, _, _ in os.walk(tmp_path):
        os.chmod(path, 0o555)
    script = "from features.health import _features; print(_features().line)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    told = subprocess.run(
        [*RESTRICTED, "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True,
        env={**environment, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "HOME": os.devnull},
    ).stdout  # fmt: skip
    os.chmod(tmp_path, 0o755)
    assert told.startswith("warn  features: they are compiled anew at each start")
    assert "NUMBA_CACHE_DIR" in told


def test_a_python_that_is_too_old_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OLDEST", (99, 1))
    state, says = found(machine(tmp_path))["python"]
    assert (state, "Install Python 99.1 or newer" in says) == ("fail", True)


def test_a_full_disk_and_a_full_memory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISK", "MEMORY"):
        monkeypatch.setattr(health, f"LITTLE_{name}", 10**18)
    told = found(machine(tmp_path / "not" / "yet" / "there"))
    assert [told[name][0] for name in ("disk", "memory")] == ["warn", "warn"]
    assert str(tmp_path) in told["disk"][1]
    for name in ("DISK", "MEMORY"):
        monkeypatch.setattr(health, f"LEAST_{name}", 10**18)
    told = found(machine(tmp_path))
    assert [told[name][0] for name in ("disk", "memory")] == ["fail", "fail"]
    assert "Make room there" in told["disk"][1]


def test_memory_is_what_a_container_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("250000000\n")
    monkeypatch.setattr(health, "_CGROUP", tmp_path)
    assert found(machine(tmp_path))["memory"] == (
        "fail", "0.1 GB are free for this process; 0.5 GB should be. End other programs, or allow this one more.",
    )  # fmt: skip
    (tmp_path / "memory.max").write_text("max\n")
    assert found(machine(tmp_path))["memory"][0] == "ok"


def test_a_library_that_does_not_load_is_found(tmp_path: Path) -> None:
    (tmp_path / "lightgbm").mkdir()
    (tmp_path / "lightgbm" / "library.so").write_bytes(b"\x7fELF, or nearly")
    load = "from ctypes import CDLL\nfrom pathlib import Path\nCDLL(str(Path(__file__).with_name('library.so')))\n"
    (tmp_path / "lightgbm" / "__init__.py").write_text(load)
    script = "import sys; from models.health import models; print(next(models(sys.argv[1])).line)"
    told = subprocess.run(
        [sys.executable, "-c", script, "none"], text=True, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    ).stdout  # fmt: skip
    assert told.startswith("fail  lightgbm: LightGBM does not load. Install it again. Reason: ")


def test_a_damaged_model_is_found(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained.bundle, folder)
    text = (folder / "model.txt").read_text()
    (folder / "model.txt").write_text(text[:-100])
    state, says = found(models(folder))["model"]
    assert state == "fail"
    assert "model.txt is not as it was saved" in says


def test_a_database_that_is_not_there_yet_is_made_by_nobody_else(tmp_path: Path) -> None:
    told = of_service(f"sqlite:///{tmp_path}/new.db")
    assert told["database"][0] == "warn"
    assert "`touchstone serve` makes it" in told["database"][1]
    assert {*told} == {"database", "port"}
    assert not (tmp_path / "new.db").exists()
    assert of_service(f"sqlite:///{tmp_path}/none/new.db")["database"][0] == "fail"


def test_an_older_database_is_told_of_and_left_as_it_is(database: str) -> None:
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '0000'"))
    state, says = of_service(database)["database"]
    assert (state, "touchstone db upgrade" in says) == ("warn", True)
    with engine.begin() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT version_num FROM alembic_version")) == "0000"
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    state, says = of_service(database)["database"]
    assert (state, "Install the version that upgraded it" in says) == ("fail", True)


def test_that_nobody_has_a_key_is_told(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/touchstone.db").close()
    state, says = of_service(f"sqlite:///{tmp_path}/touchstone.db")["keys"]
    assert (state, "touchstone keys create" in says) == ("warn", True)


def test_a_clock_that_is_behind_is_found(database: str) -> None:
    later = time.time() + 3_600
    os.utime(database.removeprefix("sqlite:///"), (later, later))
    state, says = of_service(database)["clock"]
    assert state == "fail"
    assert "3,600 s later. Set it by NTP" in says or "3,599 s later. Set it by NTP" in says


def test_a_port_that_is_taken_is_found(database: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        state, says = of_service(database, listener.getsockname()[1])["port"]
    assert (state, "Address already in use" in says) == ("fail", True)


def test_a_port_on_which_touchstone_answers_is_well(trained: Trained, database: str) -> None:
    with serving(trained.bundle) as (_, address):
        state, says = of_service(database, int(address.rpartition(":")[2]))["port"]
    assert (state, says.startswith("Touchstone answers")) == ("ok", True)


def test_postgresql_is_asked_for_its_revision_and_its_time(postgres: str) -> None:
    server = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    name = f"doctor_{uuid.uuid4().hex[:12]}"
    url = server.url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    try:
        state, says = of_service(url)["database"]
        assert (state, "Run: touchstone db upgrade" in says) == ("fail", True)
        upgrade_database(url)
        told = of_service(url)
        assert [told[name][0] for name in ("database", "keys", "clock")] == ["ok", "warn", "ok"]
        with closing(open_store(url)) as store:
            create_key(store, "acme", "crm", ["score"], "test")
        set_clock_forward(url, name)
        told = of_service(url)
        assert [told[name][0] for name in ("database", "keys", "clock")] == ["ok", "ok", "fail"]
        assert "the clock of the database stands 7,200 s later" in told["clock"][1]
    finally:
        with server.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()
    state, says = of_service(url)["database"]
    assert (state, "could not do it" in says) == ("fail", True)


def set_clock_forward(url: str, name: str) -> None:
    """Has a database of PostgreSQL tell another time, for it finds this function before its own."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "$$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$",
            f"ALTER DATABASE {name} SET search_path = public, pg_catalog",
        ):
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()
