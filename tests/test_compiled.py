"""What numba compiles is compiled at set-up, once, and the service also starts where nothing can be kept."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow.csv
import pyarrow.parquet
import pytest
from trained import ROOT, Trained, serving

RESTRICTED = (
    sys.executable,
    "-c",
    # Root writes to read-only folders too, unless it gives up CAP_DAC_OVERRIDE (1) by PR_CAPBSET_DROP (24).
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
)
"""A Python that cannot write where permissions forbid it."""
LEAD = {
    "lead_id": "L-1",
    "as_of": "2026-02-01T00:00:00Z",
    "created_at": "2026-01-01T00:00:00Z",
    "attributes": {"industry": "cleaning", "employees": 40},
    "touchpoints": [
        {"occurred_at": "2026-01-02T00:00:00Z", "channel": "email", "action": "click"},
        {"occurred_at": "2026-01-03T00:00:00Z", "channel": "call", "value": 3, "message_id": "m"},
    ],
}
FIRST_SCORES = """
import sys
from pathlib import Path
import msgspec
from numba.core.dispatcher import Dispatcher
from numba.core.event import install_recorder

def overloads():
    mine = [module for name, module in list(sys.modules.items()) if name.startswith(("features", "models"))]
    functions = [entry for module in mine for entry in vars(module).values() if isinstance(entry, Dispatcher)]
    return {f"{function.__name__}{types}" for function in functions for types in function.signatures}

with install_recorder("numba:compile") as recorder:
    import features.__main__, models.__main__
    from features import Cohort, Dataset
    from features.records import dataset_of
    from models import load_bundle
    from serving.schemas import ScoreRequest

    features.__main__.main()
    models.__main__.main()
    at_set_up = overloads()
    lead = dataset_of([msgspec.json.decode(sys.argv[1], type=ScoreRequest)])
    tables = Dataset.read(sys.argv[2])
    past = tables.known_at(tables.last_known // 2)
    grid = Cohort.grid(tables, every=90, start=tables.recorded_until // 2, stop=tables.recorded_until)
    for bundle in Path(sys.argv[3]).iterdir():
        scorer = load_bundle(bundle)
        scorer.score(lead, Cohort.at([0], "2026-02-01"))
        scorer.score(tables, grid, threads=2)
        scorer.score(past, past.open_at(past.recorded_until))
print("compiled:", [event.data["dispatcher"].__name__ for _, event in recorder.buffer if event.is_start])
print("needed beyond set-up:", sorted(overloads() - at_set_up))
"""


def program(folder: Path, *, compiled: bool) -> tuple[Path, dict[str, str]]:
    """Copies the program to read-only folders; returns where it is and an environment that offers no others."""
    for name in ("features", "models", "training", "serving"):
        ignored = shutil.ignore_patterns("trained", "*.pyc" if compiled else "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "touchstone.py", folder)
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    environment = {**usual, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "HOME": os.devnull}
    for package in ("features", "models") if compiled else ():
        subprocess.run([sys.executable, "-m", package], cwd=folder, env=environment, check=True)
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o555)
    probe = f"import os; raise SystemExit(os.access({str(folder / 'features')!r}, os.W_OK))"
    assert subprocess.run([*RESTRICTED, "-c", probe], check=False).returncode == 0
    return folder, environment


@pytest.fixture(scope="module")
def set_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The program as set-up leaves it, where nothing can be written."""
    return program(tmp_path_factory.mktemp("read-only") / "program", compiled=True)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_after_set_up_a_first_score_compiles_nothing(
    set_up: tuple[Path, dict[str, str]], trained: Trained, tmp_path: Path, kind: str
) -> None:
    """Of a lead sent alone, of tables and of the past, by each model; also for who has a home of his own."""
    folder, environment = set_up
    home, leads = tmp_path / "home", trained.leads
    home.mkdir()
    if kind == "parquet":
        leads = tmp_path / "leads"
        leads.mkdir()
        for path in trained.leads.glob("*.csv"):
            rows = pyarrow.csv.read_csv(path)
            # Without a message, and with all times typed: what Arrow reads then is not copied.
            rows = rows.select([name for name in rows.column_names if name != "message_id"])
            pyarrow.parquet.write_table(rows, leads / f"{path.stem}.parquet")
    command = [*RESTRICTED, "-c", FIRST_SCORES, json.dumps(LEAD), str(leads), str(trained.bundles)]
    said = subprocess.run(
        command, cwd=folder, env={**environment, "HOME": str(home)}, text=True, capture_output=True, check=False
    )
    assert (said.stdout, said.stderr) == ("compiled: []\nneeded beyond set-up: []\n", "")


def test_the_service_starts_where_nothing_can_be_written(
    set_up: tuple[Path, dict[str, str]], trained: Trained, server: httpx.Client
) -> None:
    check_service(*set_up, trained, server)


@pytest.mark.long
def test_the_service_starts_where_nothing_is_compiled_nor_can_be_written(
    tmp_path: Path, trained: Trained, server: httpx.Client
) -> None:
    check_service(*program(tmp_path / "program", compiled=False), trained, server)


@pytest.mark.parametrize(
    ("before", "after"),
    [("return 2 * number", "return 3 * number"), ("HIGH = 10", "HIGH = 1_000")],
    ids=["a function", "a constant"],
)
def test_what_was_compiled_goes_with_what_was_compiled_into_it(tmp_path: Path, before: str, after: str) -> None:
    lower = "from numba import njit\n\nHIGH = 10\n\n\n@njit(cache=True)\ndef lower(number):\n    return 2 * number\n"
    (tmp_path / "lower.py").write_text(lower)
    (tmp_path / "upper.py").write_text(
        "import features.compiled\nfrom lower import HIGH, lower\nfrom numba import njit\n\n\n"
        "@njit(cache=True)\ndef upper(number):\n    return lower(number) + HIGH\n"
    )

    def found() -> tuple[str, str]:
        program = "from upper import upper; print(upper(1), sum(upper.stats.cache_hits.values()))"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
        said = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
        value, hits = said.split()
        return value, hits

    first = found()[0]
    assert found() == (first, "1")
    (tmp_path / "lower.py").write_text(lower.replace(before, after))
    changed, hits = found()
    assert (changed != first, hits) == (True, "0")


def check_service(folder: Path, environment: dict[str, str], trained: Trained, server: httpx.Client) -> None:
    with serving(trained.bundle, python=RESTRICTED, root=folder, env=environment) as (_, address):
        got = httpx.post(f"{address}/v1/score", json=LEAD, timeout=300)
    assert got.status_code == 200, got.text
    assert got.json() == server.post("/v1/score", json=LEAD).json()
