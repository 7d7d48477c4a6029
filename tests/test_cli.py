"""The command line: exit codes, messages, JSON, and the files it writes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pytest
from msgspec.structs import asdict, replace
from trained import ROOT, Trained, serving

import touchstone
from features import LEAD_FEATURES, Dataset, FeatureSet
from features.errors import UsageError
from features.times import isoformat
from training import Backtest, Experiment, report

COMMANDS = (
    "simulate", "audit", "train", "backtest", "search", "promote", "rollback", "monitor", "score", "push",
    "features", "serve", "export", "demo", "doctor", "db", "keys", "policy",
)  # fmt: skip
SCORED = [
    "lead_id", "as_of", "horizon_days", "probability", "lower", "upper", "score", "tier", "route",
    "reason_1", "reason_2", "reason_3", "model_version",
]  # fmt: skip


class Run(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


Runner = Callable[..., Run]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Runs a command as the shell would, but in this process."""

    def call(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["touchstone", *map(str, arguments)])
        capsys.readouterr()
        try:
            touchstone.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        return Run(code, *capsys.readouterr())

    return call


def shell(*arguments: object, **environment: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "touchstone", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A dataset of six leads, some with ids that a spreadsheet would run."""
    folder = tmp_path / "world"
    folder.mkdir()
    ids = ["=1+1", "+31 6", "-5", "@SUM(A1)", "L-1", "a=b"]
    created = "2026-01-01T00:00:00Z"
    pd.DataFrame({"lead_id": ids, "created_at": created}).to_csv(folder / "leads.csv", index=False)
    touches = pd.DataFrame({"lead_id": ids, "occurred_at": "2026-01-05T00:00:00Z", "channel": "web"})
    touches.to_csv(folder / "touchpoints.csv", index=False)
    return folder


# --- help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example_that_could_be_run(run: Runner, command: str) -> None:
    told = run(*command.split(), "--help")
    assert told.code == 0
    example = re.search(r"Example: (touchstone.*)", told.out)
    assert example
    words = example[1].split()
    assert words[1] == (command or "demo")
    for option in re.findall(r"--[a-z-]+", example[1]):
        assert option in told.out


def test_every_command_is_listed(run: Runner) -> None:
    told = run("--help").out
    assert re.findall(r"^│ ([a-z]+) ", told, re.MULTILINE) == list(COMMANDS)


def test_help_answers_at_once() -> None:
    heavy = ("numpy", "numba", "pandas", "pyarrow", "lightgbm", "mlflow", "fastapi", "features", "models", "serving")
    for arguments in (["--help"], ["score", "--help"]):
        script = (
            f"import sys, touchstone; sys.argv[1:] = {arguments}\n"
            "try: touchstone.main()\nexcept SystemExit: pass\n"
            f"sys.stderr.write(' '.join(set({heavy}) & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
        assert "Example:" in done.stdout
        assert done.stderr == ""


# --- times


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("train", "training.train"), ("backtest", "training.backtest"), ("search", "training.search"),
        ("monitor", "training.monitor"), ("score", "serving.batch.score_input"),
        ("features", "serving.batch.write_features"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("as_of", "zone", "told", "instant"),
    [
        ("2026-02-01", "Europe/Amsterdam", "--zone", "2026-01-31T23:00:00Z"),
        ("2026-02-01T10:00", "Europe/Amsterdam", "--zone", "2026-02-01T09:00:00Z"),
        ("2026-02-01T10:00Z", "Europe/Amsterdam", "--zone", "2026-02-01T10:00:00Z"),
        ("2026-02-01", "Europe/Amsterdam", "dataset.toml", "2026-01-31T23:00:00Z"),
        ("2026-02-01", None, "", "2026-02-01T00:00:00Z"),
    ],
)
def test_an_instant_without_an_offset_is_one_of_the_zone(
    run: Runner, trained: Trained, world: Path, monkeypatch: pytest.MonkeyPatch, command: str, work: str, as_of: str,
    zone: str | None, told: str, instant: str,
) -> None:  # fmt: skip
    def stop(*arguments: Any, **options: Any) -> None:
        found = options.get("until", options.get("as_of", arguments[1] if command == "features" else None))
        raise UsageError(f"asked for {isoformat(found)}")

    monkeypatch.setattr(work, stop)
    options = {"score": ["--output", world / "a.csv", "--model", trained.bundle],
               "features": ["--output", world / "a.csv"], "monitor": ["--model", trained.bundle]}  # fmt: skip
    if told == "dataset.toml":
        (world / "dataset.toml").write_text(f'zone = "{zone}"\n')
    zoned = ["--zone", zone] if told == "--zone" else []
    assert run(command, world, "--as-of", as_of, *zoned, *options.get(command, [])).err.startswith(
        f"error: asked for {instant}"
    )


# --- exit codes and messages


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["simulate", "TMP/x", "--horizon", "3 moons"], 2, "'3 moons' is not a span of time. Use days"),
        (["simulate", "TMP/x", "--horizon", "36h"], 2, "--horizon 36h: .*whole ones, e.g. 90d"),
        (["simulate", "TMP/x", "--leads", "0"], 2, "--leads"),
        (["simulate", "TMP/x", "--colour", "red"], 2, "--colour"),
        (["simulate", "TMP/world/leads.csv", "--leads", "5", "--days", "5"], 1, "leads.csv: File exists"),
        (["simulate"], 2, "folder"),
        (["paint"], 2, "paint"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--as-of", "soon"], 2, "'soon' is not a time. Use ISO"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--as-of", "2026-02-01T10:00"], 2, "no zone. Write an offset"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--as-of", "0001-01-01T00:00+14:00"], 2, "beyond the years"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--map", "lead_id"], 2, "--map 'lead_id': write our column"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--map", "leadid=id"], 2, "'leadid' is no column. Use one"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--map", "lead_id=Nr"], 2, "no column 'Nr' in .*found"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--zone", "Mars"], 2, "zone 'Mars' is not known. Use an IANA"),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--on-error", "cry"], 2, "--on-error"),
        (["score", "TMP/world", "--output", "TMP/a.xlsx"], 2, r"written as .csv or .parquet; got '.xlsx'"),
        (["score", "TMP/world", "--output", "TMP/a"], 2, "written as .csv or .parquet; got 'no ending'"),
        (["score", "TMP/world", "--output", "s3://crm/a.csv"], 2, "s3:/crm/a.csv: a list is written to a file of this"),
        (["score", "TMP/world"], 2, "--output"),
        (["score", "TMP/nothing", "--output", "TMP/a.csv"], 1, "nothing: no such folder or dataset.toml"),
        (
            ["score", "TMP/world", "--output", "TMP/world/leads.csv/a.csv"],
            1,
            "a.csv cannot be written: File exists. Choose",
        ),
        (["score", "TMP/world", "--output", "TMP/a.csv", "--model", "TMP/nothing"], 1, "no model is here.*Train one"),
        (["serve", "--port", "70000"], 2, "--port"),
        (["backtest", "TMP/world", "--horizon", "0d"], 2, "'0d' is not a span of time"),
        (["backtest", "TMP/world", "--experiment", "TMP/world/leads.csv"], 2, "leads.csv: not an experiment"),
        (["backtest", "TMP/world", "--rules", "TMP/nothing.toml"], "[12]", "nothing.toml"),
        (["backtest", "TMP/world"], 1, "no origin can be judged.*Take a shorter --horizon, or more data"),
        (
            ["demo", "TMP/world"],
            2,
            "world holds something else than a demonstration, which would be lost. Name another",
        ),
    ],
)
def test_exit_codes_and_messages(
    run: Runner, trained: Trained, world: Path, arguments: list[str], code: int | str, says: str
) -> None:
    arguments = [word.replace("TMP", str(world.parent)) for word in arguments]
    if arguments[0] == "score" and "--model" not in arguments:
        arguments += ["--model", str(trained.bundle)]
    before = sorted(world.parent.rglob("*"))
    told = run(*arguments)
    assert re.fullmatch(str(code), str(told.code)), told
    assert re.search(says, " ".join(told.err.replace("│", " ").split())), told.err
    assert "Traceback" not in told.err
    assert sorted(world.parent.rglob("*")) == before


def test_the_exit_codes_reach_the_shell(tmp_path: Path) -> None:
    told = shell("simulate", tmp_path, "--horizon", "soon")
    assert (told.code, told.out) == (2, "")
    assert told.err == "error: 'soon' is not a span of time. Use days, weeks or hours, e.g. 90d, 12w or 36h.\n"
    assert shell("simulate", tmp_path / "x", "--leads", "3", "--days", "3").code == 0


@pytest.mark.parametrize("file", ["model.txt", "card.json", "SHA256SUMS", "features.json"])
def test_a_damaged_model_is_refused(run: Runner, trained: Trained, world: Path, file: str) -> None:
    model = world.parent / "model"
    model.mkdir()
    for part in trained.bundle.iterdir():
        raw = bytearray(part.read_bytes())
        if part.name == file:
            raw[10] ^= 1
        (model / part.name).write_bytes(raw)
    told = run("score", world, "--output", world.parent / "a.csv", "--model", model)
    assert told.code == 1
    assert re.search(r"error: .*(not as it was saved|damaged|missing|does not name|cannot be read)", told.err), told.err
    assert not (world.parent / "a.csv").exists()


@pytest.mark.parametrize(
    ("commands", "option", "says"),
    [
        ("train search backtest", "--horizon=soon", "'soon' is not a span of time"),
        ("train search backtest monitor", "--as-of=soon", "'soon' is not a time"),
        ("train search backtest monitor", "--experiment=none.toml", "none.toml: not an experiment"),
        ("train backtest", "--rules=none.toml", "none.toml: not a points table"),
    ],
)
def test_the_question_is_checked_before_the_tables_are_read(
    run: Runner, trained: Trained, tmp_path: Path, commands: str, option: str, says: str
) -> None:
    for command in commands.split():
        model = ["--model", trained.bundle] if command == "monitor" else []
        told = run(command, tmp_path / "nothing", option, *model)
        assert (told.code, told.err[:7]) == (2, "error: "), told
        assert says in told.err


# --- simulate


def test_one_seed_gives_equal_files(run: Runner, tmp_path: Path) -> None:
    options = ("--leads", 200, "--days", 60, "--seed")
    told = run("simulate", tmp_path / "a", *options, 5, "--json").json
    assert {"folder": str(tmp_path / "a"), "leads": 200, "days": 60}.items() <= told.items()
    assert told["seconds"] > 0
    assert "200 leads over 60 days" in run("simulate", tmp_path / "b", *options, 5).out
    run("simulate", tmp_path / "c", *options, 6)
    files = {path.name for path in (tmp_path / "a").iterdir()}
    tables = {"leads.csv", "touchpoints.csv", "outcomes.csv", "attributes.csv", "aliases.csv"}
    assert files == {*tables, "truth.parquet"}
    for name in files:
        same = (tmp_path / "a" / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == same, name
        assert (tmp_path / "c" / name).read_bytes() != same, name


# --- score


def test_score_writes_the_list_and_tells_of_it(run: Runner, trained: Trained, tmp_path: Path) -> None:
    base = ("score", trained.leads, "--model", trained.bundle, "--as-of", "2026-01-15")
    told = run(*base, "--output", tmp_path / "new" / "a.csv", "--json")
    assert told.err == ""
    summary = told.json
    rows = pd.read_csv(tmp_path / "new" / "a.csv")
    assert list(rows.columns) == SCORED
    assert summary["scored"] == len(rows) > 500
    assert summary["tiers"] == {tier: int((rows["tier"] == tier).sum()) for tier in ("hot", "warm", "cold")}
    assert summary["scored"] + summary["closed"] + summary["later"] == 3_000
    assert summary["as_of"] == "2026-01-15T00:00:00Z" == rows["as_of"].unique().item()
    assert summary["output"] == str(tmp_path / "new" / "a.csv")
    assert summary["rows"]["leads"] == 3_000
    assert summary["quarantined"] == {}
    assert rows["lead_id"].is_unique
    assert rows["probability"].between(0, 1).all()
    assert rows["score"].between(0, 100).all()
    assert set(rows["model_version"]) == {3}
    words = run(*base, "--output", tmp_path / "b.csv").out
    assert f"{len(rows):,} open leads as of 2026-01-15T00:00:00Z in {tmp_path / 'b.csv'}: " in words
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "new" / "a.csv").read_bytes()


def test_score_warns_of_an_old_list_when_as_of_is_left_out(run: Runner, trained: Trained, world: Path) -> None:
    touches = pd.read_csv(world / "touchpoints.csv")
    base = ("score", world, "--output", world.parent / "a.csv", "--model", trained.bundle)

    def told(days_ago: float, *options: str) -> str:
        nonlocal at
        at = pd.Timestamp.now("UTC") - pd.Timedelta(days=days_ago)
        touches.assign(occurred_at=at.isoformat()).to_csv(world / "touchpoints.csv", index=False)
        done = run(*base, *options)
        assert done.code == 0
        return done.err

    at = pd.Timestamp(0)
    warning = "warning: the last touchpoint is of {}, and leads are scored as of now. Pass --as-of for then.\n"
    assert told(31) == warning.format(at.date())
    assert told(29) == ""
    assert told(31, "--as-of", "2026-01-03") == ""


def test_ids_that_a_spreadsheet_would_run_are_neutralised_in_csv_alone(
    run: Runner, trained: Trained, world: Path
) -> None:
    base = ("score", world, "--model", trained.bundle, "--as-of", "2026-02-01", "--output")
    given = sorted(pd.read_csv(world / "leads.csv", dtype=str)["lead_id"])
    assert run(*base, world.parent / "a.csv").code == 0
    assert run(*base, world.parent / "a.parquet").code == 0
    got = pd.read_csv(world.parent / "a.csv", dtype=str)["lead_id"].to_list()
    assert got == ["'+31 6", "'-5", "'=1+1", "'@SUM(A1)", "L-1", "a=b"]
    assert pd.read_parquet(world.parent / "a.parquet")["lead_id"].to_list() == given
    kinds = pd.read_parquet(world.parent / "a.parquet").dtypes
    assert kinds["probability"] == np.float64
    assert str(kinds["as_of"]) == "datetime64[us, UTC]"


def test_bad_rows_stop_or_are_set_aside(run: Runner, trained: Trained, world: Path) -> None:
    with (world / "touchpoints.csv").open("a") as handle:
        handle.write("L-1,31/02/2026,web\n")
    base = ("score", world, "--output", world.parent / "a.csv", "--model", trained.bundle, "--as-of", "2026-02-01")
    told = run(*base)
    assert told.code == 1
    assert re.search(r"touchpoints.csv line 8: occurred_at '31/02/2026' is not", told.err)
    assert not (world.parent / "a.csv").exists()
    summary = run(*base, "--on-error", "quarantine", "--json").json
    aside = world / "touchpoints.csv.quarantine.csv"
    assert summary["quarantined"] == {str(aside): 1}
    assert "31/02/2026" in aside.read_text()
    assert summary["scored"] == 6
    assert run(*base, "--date-format", "%d/%m/%Y").code == 1


def test_map_names_the_column_to_take(run: Runner, trained: Trained, world: Path) -> None:
    for name in ("leads", "touchpoints"):
        table = pd.read_csv(world / f"{name}.csv", dtype=str).rename(columns={"lead_id": "Onze [klant]"})
        table.to_csv(world / f"{name}.csv", index=False)
    base = ("score", world, "--output", world.parent / "a.csv", "--model", trained.bundle, "--as-of", "2026-02-01")
    assert run(*base).code == 1
    assert run(*base, "--map", "lead_id=Onze [klant]").code == 0
    assert len(pd.read_csv(world.parent / "a.csv")) == 6


def test_names_of_others_are_printed_as_they_are(run: Runner, trained: Trained, world: Path) -> None:
    (world.parent / "a [b][").mkdir()
    odd = world.rename(world.parent / "a [b][" / ("c] :smile: " + "x" * 150))
    told = run("score", odd, "--output", odd / "a.csv", "--model", trained.bundle, "--as-of", "2026-02-01")
    assert told.code == 0
    assert f"in {odd / 'a.csv'}: " in told.out


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_list_that_cannot_be_written_leaves_the_old_one(
    run: Runner, trained: Trained, world: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    output = world.parent / "a.csv"
    output.write_text("the old list")

    def fail(tables: object, path: Path) -> None:
        path.write_text("half a li")
        raise failure

    monkeypatch.setattr("serving.parts.write_rows", fail)
    before = sorted(world.parent.iterdir())
    told = run("score", world, "--output", output, "--model", trained.bundle, "--as-of", "2026-02-01")
    assert output.read_text() == "the old list"
    assert sorted(world.parent.iterdir()) == before
    if isinstance(failure, OSError):
        assert told.code == 1
        assert f"{output} cannot be written: No space left on device." in told.err
    else:
        assert told.code == 130


# --- audit


def planted(trained: Trained, folder: Path) -> Path:
    """The simulated leads with an order logged at each purchase."""
    folder.mkdir()
    for path in trained.leads.glob("*.csv"):
        (folder / path.name).write_bytes(path.read_bytes())
    won = pd.read_csv(folder / "outcomes.csv", dtype=str).query("outcome == 'won'")
    with (folder / "touchpoints.csv").open("a") as handle:
        header = pd.read_csv(folder / "touchpoints.csv", nrows=0).columns
        orders = won[["lead_id", "occurred_at"]].assign(channel="order", action="placed").reindex(columns=header)
        orders.to_csv(handle, header=False, index=False)
    return folder


def test_audit_finds_nothing_certain_in_clean_data_and_exits_with_0(run: Runner, trained: Trained) -> None:
    # The leads of the tests are sent twice in part, with new message ids, which is a note.
    told = run("audit", trained.leads)
    assert told.code == 0
    assert re.search(r"^note: .* equal another one in lead, time, kind and value", told.out, re.MULTILINE)
    assert re.search(r"certain leaks and faults: 0, likely ones: 0, notes: 1 \(3,000 leads, \d+ purchases\)", told.out)
    assert "dataset.toml this leaves out" not in told.out


def test_audit_names_a_certain_leak_and_exits_with_1(run: Runner, trained: Trained, tmp_path: Path) -> None:
    leaky = planted(trained, tmp_path / "leaky")
    told = run("audit", leaky)
    assert (told.code, told.err) == (1, "")
    assert "certain: touchpoints: " in told.out
    assert "of order_placed, which" in told.out
    assert 'drop = ["order_placed"] under [kinds] in dataset.toml' in told.out
    assert '[kinds]\ndrop = ["order_placed"]' in told.out
    machine = run("audit", leaky, "--json")
    document = machine.json
    assert machine.code == 1
    assert document["counts"] == {"certain": 1, "likely": 0, "note": 1}
    assert document["mend"] == '[kinds]\ndrop = ["order_placed"]'
    (finding,) = (finding for finding in document["findings"] if finding["severity"] == "certain")
    assert {"check": "late_kind", "table": "touchpoints", "name": "order_placed"}.items() <= finding.items()
    assert finding["evidence"]["touches"] == finding["evidence"]["after"] > 100
    (leaky / "dataset.toml").write_text(document["mend"])
    assert run("audit", leaky).code == 0


def test_train_refuses_a_certain_leak(run: Runner, trained: Trained, tmp_path: Path) -> None:
    told = run("train", planted(trained, tmp_path / "leaky"), "--horizon", "60d")
    assert told.code == 1
    assert "error: a model would learn what comes after the fact, or what is not so:\ntouchpoints: " in told.err
    assert "of order_placed" in told.err
    assert told.err.endswith("train all the same with --allow-leaks (allow_leaks=True).\n")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "leaky"]


# --- monitor


def test_monitor_tells_people_machines_and_a_file(run: Runner, trained: Trained, tmp_path: Path) -> None:
    # The bundle has learned from all there is, so at first nothing has matured.
    base = ("monitor", trained.leads, "--model", trained.bundle)
    told = run(*base)
    assert (told.code, told.err) == (0, "")
    assert re.search(r"version 3, 60 days ahead: nothing has matured yet: from 2026-0\d-\d\d on", told.out)

    young = younger(trained.bundle, tmp_path / "young", "2025-08-01T00:00:00Z")
    document = run("monitor", trained.leads, "--model", young, "--json", "--output", tmp_path / "new" / "a.md").json
    assert document["known_until"] == "2025-08-01T00:00:00Z"
    assert document["holds"] in (True, False)
    matured = document["matured"]
    assert (matured["first"], matured["capacity"]) == ("2025-08-01T00:00:00Z", 0.1)
    assert set(matured["figures"]) == {"ratio", "slope", "log_loss", "base_log_loss", "gain", "auc", "caught"}
    assert sum(rate["rows"] for rate in matured["tiers"].values()) == matured["all"]["rows"]
    assert document["drift"]["now"] > 100
    page = (tmp_path / "new" / "a.md").read_text()
    assert document["says"] in page and "| hot |" in page

    (tmp_path / "e.toml").write_text("capacity = 0.2\nbootstrap = 10\n")
    options = ("--since", "2025-09-01", "--weeks", 2, "--as-of", "2025-12-20", "--experiment", tmp_path / "e.toml")
    fewer = run("monitor", trained.leads, "--model", young, "--json", *options).json["matured"]
    assert (fewer["instants"], fewer["capacity"]) == (2, 0.2)
    assert fewer["first"] > "2025-09-01"
    assert run(*base, "--as-of", "2025-01-20").code == 2
    assert run(*base, "--weeks", 0).code == 2
    assert run(*base, "--since", "soon").code == 2


def younger(bundle: Path, folder: Path, known_until: str) -> Path:
    """The same model with another instant that it has learned until."""
    from msgspec.structs import replace

    from models import Scorer, load_bundle, save_bundle

    made = load_bundle(bundle)
    card = replace(made.card, known_until=known_until)
    return save_bundle(Scorer(made.features, made.model, card, made.tiers), folder)


# --- backtest, train, demo


def test_backtest_tells_machines_and_draws(run: Runner, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text("origins = 1\nbootstrap = 10\nsnapshot_every_days = 60\n")
    told = run(
        "backtest", trained.leads, "--experiment", tmp_path / "e.toml", "--horizon", "8w", "--as-of", "2025-11-01",
        "--plots", tmp_path / "plots", "--json",
    )  # fmt: skip
    assert told.err == ""
    document = told.json
    assert document["horizon_days"] == 56
    assert len(document["origins"]) == 1
    assert document["origins"][0]["origin"] < "2025-09-07"
    assert set(document["models"]) == {"rules", "base_rate", "recency", "naive_bayes", "logistic", "lightgbm", "blend"}
    assert set(document["against_rules"]) == set(document["models"]) - {"rules"}
    for name in ("gains.png", "lift.png", "calibration.png", "by_origin.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_figures_that_cannot_be_told_are_null_for_machines_and_a_dash_for_people(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = np.arange(4)
    result = Backtest(
        Experiment(bootstrap=10), lead=rows, origin=0 * rows, bought=rows >= 0, learned_from={0: (900, 40)},
        probability={"rules": np.full(4, 0.9)},
    )  # fmt: skip
    touchstone._json(report.to_dict(result))
    told = Run(0, *capsys.readouterr()).json
    assert told["models"]["rules"]["auc"] == {"value": None, "low": None, "high": None}
    assert told["models"]["rules"]["ratio"]["value"] == pytest.approx(0.9)
    assert "nan" not in report.markdown(result)


# MLflow uses what SQLAlchemy is about to drop.
@pytest.mark.filterwarnings("ignore:.*noload:sqlalchemy.exc.SADeprecationWarning")
def test_a_company_that_begins_goes_the_whole_way(
    run: Runner, world: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A week of leads and no purchase: train, go back, score, monitor and serve."""
    monkeypatch.chdir(store)
    told = run("train", world, "--as-of", "2026-01-08")
    assert told.code == 0, told.err
    assert "too little evidence: no window of 90 days is over yet, and no origin can be judged." in told.out
    assert "rules, fitted on 0 rows with 0 purchases, is version 1 (champion) in models/trained/1" in told.out
    document = run("train", world, "--as-of", "2026-01-08", "--json").json
    assert (document["model"], document["champion"], document["outlook"]["past"]) == ("rules", True, None)
    assert (document["backtest"]["rows"], document["backtest"]["models"]) == (0, {})
    assert document["verdict"]["says"] == "nothing proves version 1; it gives way"
    assert run("rollback", "--json").json == {"was": "2", "champion": "1"}

    assert run("score", world, "--output", "scored.csv", "--as-of", "2026-01-08").code == 0
    first = pd.read_csv("scored.csv").iloc[0]
    assert first["lower"] < first["probability"] / 20
    assert "nothing has matured yet" in run("monitor", world).out
    assert run("backtest", world).code == 1

    with serving(store / "models" / "trained" / "champion") as (_, address):
        assert httpx.get(f"{address}/v1/model").json()["backtest"] == {}
        lead = {"lead_id": "a", "as_of": "2026-01-08T00:00:00Z", "created_at": "2026-01-01T00:00:00Z"}
        answer = httpx.post(f"{address}/v1/score", json=lead, timeout=300).json()
    assert answer["model"]["version"] == "1"
    assert answer["interval"][1] > 10 * answer["probability"]


# MLflow uses what SQLAlchemy is about to drop.
@pytest.mark.filterwarnings("ignore:.*noload:sqlalchemy.exc.SADeprecationWarning")
def test_a_search_writes_an_experiment_only_if_it_found_something(
    run: Runner, trained: Trained, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = {"num_iterations": 1, "penalty": 1e6}
    (store / "poor.toml").write_text(
        "horizon_days = 30\norigins = 2\nbootstrap = 20\nsnapshot_every_days = 60\n[model]\n"
        + "".join(f"{name} = {value}\n" for name, value in poor.items())
    )
    common = "search", trained.leads, "--experiment", store / "poor.toml", "--output", store / "found.toml"
    told = run(*common, "--trials", 1)
    assert told.code == 0, told.err
    assert "1 trials found nothing better than the default beyond the interval" in told.out
    assert f"{store / 'found.toml'} is not written: keep the default" in told.out
    assert not (store / "found.toml").exists()

    told = run(*common, "--trials", 4, "--json")
    assert told.json["trials"] == 4 and told.json["better"] and told.json["gain"]["low"] > 0
    found = Experiment.read(store / "found.toml")
    assert asdict(found.model) == told.json["found"] != told.json["default"]
    assert replace(found, model=Experiment.read(store / "poor.toml").model) == Experiment.read(store / "poor.toml")

    # Both commands that learn take the settings.
    asked = []
    for module in ("training.train", "models"):
        # The function train hides its module from a dotted path.
        monkeypatch.setattr(
            sys.modules[module], "candidates", lambda _, settings: asked.append(settings) or sys.exit(0)
        )
    for command in ("train", "backtest"):
        assert run(command, trained.leads, "--experiment", store / "found.toml").code == 0
    assert asked == [found.model] * 2


def test_features_are_those_of_the_feature_set(run: Runner, trained: Trained, tmp_path: Path) -> None:
    dataset = Dataset.read(trained.leads)
    known = dataset.known_at("2025-10-01")
    expected = FeatureSet.fit(LEAD_FEATURES, known)
    done = run("features", trained.leads, "--output", tmp_path / "x.parquet", "--as-of", "2025-10-01", "--json")
    frame = pd.read_parquet(tmp_path / "x.parquet")
    cohort = known.open_at("2025-10-01")
    assert done.code == 0
    assert done.json["rows"] == len(frame) == len(cohort) > 100
    assert frame["lead_id"].tolist() == known.ids[cohort.lead].tolist()
    assert frame[list(expected.names)].to_numpy().tobytes() == expected.compute(known, cohort).tobytes()
    assert (
        run("features", trained.leads, "--output", tmp_path / "y.csv", "--as-of", "2025-10-01", "--every", "30d").code
        == 0
    )
    assert pd.read_csv(tmp_path / "y.csv")["as_of"].nunique() == 10


def test_simulated_leads_do_not_take_the_place_of_others(run: Runner, tmp_path: Path) -> None:
    mine = tmp_path / "leads.csv"
    mine.write_text("lead_id,created_at\n")
    done = run("simulate", tmp_path, "--leads", 5, "--days", 5)
    assert done.code == 2 and "holds tables that were not simulated, which would be lost" in done.err
    assert mine.read_text() == "lead_id,created_at\n" and [*tmp_path.iterdir()] == [mine]
    for seed in (1, 2):
        assert run("simulate", tmp_path / "new", "--leads", 5, "--days", 5, "--seed", seed).code == 0


@pytest.mark.parametrize("command", ["score", "features"])
def test_no_list_takes_the_place_of_what_it_is_made_of(
    run: Runner, trained: Trained, tmp_path: Path, command: str
) -> None:
    leads, kept = tmp_path / "leads.csv", (trained.leads / "leads.csv").read_bytes()
    leads.write_bytes(kept)
    model = ["--model", trained.bundle] if command == "score" else []
    for data in (tmp_path, leads):
        done = run(command, data, "--output", leads, "--as-of", "2025-10-01", *model)
        assert done.code == 2 and "leads.csv: the list is made of this file, which would be lost" in done.err
    assert leads.read_bytes() == kept and [*tmp_path.iterdir()] == [leads]


@pytest.mark.parametrize("command", ["score", "features"])
def test_no_list_takes_the_place_of_a_folder(
    run: Runner, trained: Trained, world: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Which is said before anything is read."""
    output = world.parent / "scored.csv"
    output.mkdir()
    monkeypatch.setattr("serving.batch.find_input", lambda *_: pytest.fail("the input was looked at"))
    monkeypatch.setattr("features.inputs.find_input", lambda *_: pytest.fail("the input was looked at"))
    model = ["--model", trained.bundle] if command == "score" else []
    done = run(command, world, "--output", output, "--as-of", "2026-02-01", *model)
    assert done.code == 2 and "scored.csv is a folder. Name a file for the list, e.g. " in done.err
    assert sorted(world.parent.iterdir()) == [output, world] and [*output.iterdir()] == []


def test_the_whole_way(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    # Threads that wait for a busy processor take far longer than the work.
    told = shell("demo", folder, "--leads", 1_500, OMP_NUM_THREADS="1")
    assert told.code == 0, told.err
    for name in ("plots/gains.png", "plots/lift.png", "plots/calibration.png", "plots/contributions.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    assert list(pd.read_csv(folder / "scored.csv").columns) == SCORED
    assert "against the rules" in told.out or "No model beats the rules" in told.out
    assert "The five best leads" in told.out
    assert f"touchstone serve --model {folder}/models/trained/champion" in told.out
    assert {path.name for path in tmp_path.iterdir()} == {"demo"}
    champion = (folder / "models" / "trained" / "champion").resolve()
    assert champion.name == "1"

    # A second model of the same project is a challenger, and the champion stays the default.
    (folder / "e.toml").write_text("origins = 1\nbootstrap = 10\n")
    script = "import os, sys, touchstone; os.chdir(sys.argv.pop(1)); touchstone.main()"
    arguments = ["train", "leads", "--experiment", "e.toml", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = Run(0, done.stdout, done.stderr).json
    assert (document["version"], document["champion"]) == ("2", False)
    assert document["folder"].endswith("models/trained/2")
    assert document["learned_from"] > document["purchases_learned_from"] > 0
    assert set(document["backtest"]["models"]) >= {"rules", document["model"]}
    assert document["outlook"]["past"]["purchases"] == document["backtest"]["purchases"]
    assert "Hot now: " in told.out
    assert (folder / "models" / "trained" / "champion").resolve() == champion


def test_demo_replaces_nothing_but_a_demonstration(run: Runner, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    import training.simulate

    monkeypatch.setattr(training.simulate, "simulate", stop)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(world.parent)
    assert run("demo", "world").code == 2
    assert (world / "leads.csv").exists()
    for folder in ("new", "new"):
        assert run("demo", world.parent / folder).code == 130
        assert [path.name for path in (world.parent / folder).iterdir()] == [".touchstone-demo"]
        (world.parent / folder / "scored.csv").touch()


# --- the database of the service


def test_a_database_is_upgraded_and_exported(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.store import Message, Touch, open_store

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOUCHSTONE_DATABASE", raising=False)
    assert run("db", "upgrade").out == "the database went from nothing to revision 0003\n"
    assert (tmp_path / "touchstone.db").is_file()
    url = f"sqlite:///{tmp_path / 'other.db'}"
    monkeypatch.setenv("TOUCHSTONE_DATABASE", url)
    assert run("db", "upgrade", "--json").json == {"before": None, "after": "0003"}
    assert run("db", "upgrade", "--database", url).out == "the database is revision 0003\n"
    store = open_store(url)
    store.write("acme", [Message(rows=(Touch("L-1", 0, "email", "click"),))]).result()
    store.close()
    told = run("export", url, "out", "--tenant", "acme")
    counts = {"leads": 1, "touchpoints": 1, "outcomes": 0, "attributes": 0, "aliases": 0}
    assert told.out == f"{', '.join(f'{n} {name}' for name, n in counts.items())} in out\n"
    assert run("export", url, "again", "--tenant", "acme", "--json").json["rows"] == counts
    assert Dataset.read("out").ids.tolist() == ["L-1"]
    told = run("export", url, "out", "--tenant", "acme")
    assert (told.code, told.err) == (2, "error: out holds something already. Name another folder.\n")
    told = run("export", url, "more")
    assert (told.code, told.err) == (2, "error: --tenant default: nothing is stored for it, but for acme.\n")
    told = run("export", "sqlite:///none.db", "more")
    assert (told.code, told.err) == (
        1, "error: none.db: there is no such database. Name the one that the service uses.\n"
    )  # fmt: skip
    assert not (tmp_path / "none.db").exists() and not (tmp_path / "more").exists()
