"""The command line. Each command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from socket import socket

    from features import Dataset
    from training import Trained

app = typer.Typer(
    help="Qualifies leads: a calibrated probability of purchase from touchpoints, proved against the point rules.",
    epilog="Example: touchstone demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

OnError = Literal["stop", "quarantine"]
Data = Annotated[Path, typer.Argument(help="A folder of tables, or a dataset.toml.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output.")]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", help="A column of ours and the heading it has, e.g. lead_id='Contact ID'. Repeatable."),
]
Zone = Annotated[str | None, typer.Option(help="The zone of times that carry none, e.g. Europe/Amsterdam.")]
DateFormat = Annotated[str | None, typer.Option(help="How times are written if not in ISO 8601, e.g. '%d/%m/%Y'.")]
OnErrorOption = Annotated[OnError, typer.Option(help="Stop at rows that cannot be read, or set them aside in a file.")]
AsOf = Annotated[str | None, typer.Option(help="An instant, e.g. 2026-11-01 or 2026-11-01T14:00:00Z.")]
Horizon = Annotated[str | None, typer.Option(help="The time in which a purchase counts, e.g. 90d or 12w.")]
ExperimentFile = Annotated[Path | None, typer.Option("--experiment", help="A TOML file; see experiments/.")]
RulesFile = Annotated[
    Path | None,
    typer.Option("--rules", help="Your points table in TOML; else one is derived from the kinds of touches."),
]
ModelFolder = Annotated[Path, typer.Option("--model", help="The folder of a model.")]
CHAMPION = Path("models/trained/champion")


@app.command(epilog="Example: touchstone simulate build/leads --leads 20000 --days 540 --seed 7")
def simulate(
    folder: Annotated[Path, typer.Argument(help="Where the tables go.", show_default=False)],
    leads: Annotated[int, typer.Option(min=1, help="How many leads arrive.")] = 20_000,
    days: Annotated[int, typer.Option(min=2, help="Over how many days.")] = 540,
    seed: Annotated[int, typer.Option(help="The same seed gives the same leads.")] = 7,
    horizon: Annotated[str, typer.Option(help="The horizon of the true probabilities.")] = "90d",
    as_json: Json = False,
) -> None:
    """Write simulated journeys as tables, with the true probability of each lead beside them."""
    from features.errors import UsageError
    from features.times import days as span
    from training.simulate import simulate as run

    if not (horizon_days := span(horizon)).is_integer():
        raise UsageError(f"--horizon {horizon}: the simulation counts in days. Give whole ones, e.g. 90d.")
    begun = time.perf_counter()
    simulation = run(leads, days, seed=seed)
    simulation.write(folder, horizon_days=int(horizon_days))
    _say(as_json, {"folder": str(folder), "leads": leads, "days": days, "seconds": time.perf_counter() - begun},
         f"{leads:,} leads over {days} days in {folder} ({time.perf_counter() - begun:.1f} s)")  # fmt: skip


@app.command(epilog="Example: touchstone audit build/leads --json")
def audit(
    data: Data,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Find leaks and other faults of a dataset, and say what to do; exits with 1 if a leak is certain."""
    from training import audit as run
    from training import report
    from training.audit import mend

    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    findings = run(dataset)
    counts = {severity: sum(f.severity == severity for f in findings) for severity in ("certain", "likely", "note")}
    leads, purchases = len(dataset), int(dataset.closed[1].sum())
    if as_json:
        _json({
            "leads": leads, "purchases": purchases, "counts": counts, "mend": mend(findings),
            "findings": [finding.to_dict() for finding in findings],
        })  # fmt: skip
    else:
        _print(*report.findings_in_words(findings))
        if lines := mend(findings):
            _print("", "In dataset.toml this leaves out all that leaks or looks like it:", lines, "")
        few = ", too few to tell by" if purchases < 20 else ""
        _print(
            f"certain leaks: {counts['certain']}, likely ones: {counts['likely']}, notes: {counts['note']} "
            f"({leads:,} leads, {purchases:,} purchases{few})"
        )
    if counts["certain"]:
        raise typer.Exit(1)


@app.command(epilog="Example: touchstone train build/leads --horizon 90d --rules examples/rules.toml")
def train(
    data: Data,
    horizon: Horizon = None,
    experiment: ExperimentFile = None,
    rules: RulesFile = None,
    as_of: AsOf = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train although the audit finds a certain leak.")
    ] = False,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Audit a dataset, learn from it, compare with the rules on its own past, and register the best model."""
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    trained = _train(dataset, horizon, experiment, rules, as_of, as_json, allow_leaks=allow_leaks)
    _tell_trained(trained, as_json)


@app.command(epilog="Example: touchstone backtest build/leads --horizon 90d --json")
def backtest(
    data: Data,
    horizon: Horizon = None,
    experiment: ExperimentFile = None,
    rules: RulesFile = None,
    as_of: AsOf = None,
    plots: Annotated[Path | None, typer.Option(help="A folder for the pictures.")] = None,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Replay the past: at each origin learn, score every open lead, and compare with what then happened."""
    from features.times import to_us
    from models import candidates
    from training import backtest as run
    from training import report

    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    with _progress(as_json) as progress:
        result = run(
            dataset, _experiment(experiment, horizon), candidates(_rules(rules)),
            until=None if as_of is None else to_us(as_of), progress=progress,
        )  # fmt: skip
    if plots is not None:
        _save_plots(result, plots)
    if as_json:
        _json(report.to_dict(result))
    else:
        _print(report.terminal_table(result, _width()), *report.gains_in_words(result))


@app.command(epilog="Example: touchstone promote")
def promote(
    version: Annotated[str | None, typer.Argument(help="A registered version; the challenger if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also where nothing proves it better.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")] = False,
    as_json: Json = False,
) -> None:
    """Make a challenger the champion, if the past proves it better; says first whose tier changes."""
    from training.promote import judge
    from training.promote import promote as run

    verdict = judge(version)
    if not as_json:
        _print(*verdict.lines())
    if not dry_run:
        run(version, force=force)
    told = [] if dry_run else [f"version {verdict.challenger} is the champion"]
    _say(as_json, {**_plain(verdict), "champion": verdict.champion if dry_run else verdict.challenger}, *told)


@app.command(epilog="Example: touchstone rollback")
def rollback(as_json: Json = False) -> None:
    """Make the champion before this one champion again."""
    from training.promote import rollback as run

    was, now = run()
    _say(as_json, {"was": was, "champion": now}, f"version {now} is the champion again, in place of {was}")


@app.command(epilog="Example: touchstone score build/leads --output scored.csv --as-of 2026-06-25")
def score(
    data: Data,
    output: Annotated[Path, typer.Option(help="The scored list, .csv or .parquet.", show_default=False)],
    as_of: AsOf = None,
    model: ModelFolder = CHAMPION,
    reasons: Annotated[int, typer.Option(min=0, max=3, help="How many reasons to give for each score.")] = 3,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Score every open lead of a list."""
    from features.times import US_PER_DAY, isoformat, to_us
    from models import load_bundle
    from serving.batch import check_ending, score_list

    check_ending(output)
    scorer = load_bundle(model)
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    instant = time.time_ns() // 1_000 if as_of is None else to_us(as_of)
    last = int(dataset.history.at.max(initial=dataset.created_at.max(initial=0)))
    if as_of is None and instant - last > 30 * US_PER_DAY:
        _warn(
            f"the last touchpoint is of {isoformat(last)[:10]}, and leads are scored as of now. Pass --as-of for then."
        )
    summary = score_list(scorer, dataset, instant, output, reasons)
    tiers = ", ".join(f"{count:,} {tier}" for tier, count in summary.tiers.items())
    _say(
        as_json,
        {**vars(summary), "rows": dict(dataset.report.rows) if dataset.report else {},
         "quarantined": dict(dataset.report.quarantined) if dataset.report else {}},
        f"{summary.scored:,} open leads as of {summary.as_of} in {output}: {tiers}",
        f"not scored: {summary.closed:,} closed before, {summary.later:,} created later",
    )  # fmt: skip


@app.command(epilog="Example: touchstone features build/leads --output build/features.parquet --every 7d")
def features(
    data: Data,
    output: Annotated[Path, typer.Option(help="The matrix, .csv or .parquet.", show_default=False)],
    as_of: AsOf = None,
    every: Annotated[
        str | None, typer.Option(help="Go back from --as-of in steps such as 7d; one row for each lead open then.")
    ] = None,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Write the features of open leads, as of one instant (the end of the record) or of many, for data scientists."""
    from features.times import days as span
    from features.times import isoformat, to_us
    from serving.batch import check_ending, write_features

    check_ending(output)
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    until = dataset.recorded_until if as_of is None else to_us(as_of)
    rows, columns = write_features(dataset, until, None if every is None else span(every), output)
    _say(
        as_json,
        {"rows": rows, "columns": columns, "as_of": isoformat(until), "output": str(output)},
        f"{rows:,} rows of {columns} features in {output}",
    )


@app.command(epilog="Example: touchstone serve --model models/trained/champion --port 8000")
def serve(
    model: Annotated[
        Path | None, typer.Option("--model", help="The folder of a model. [default: the champion]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="The port to listen on.")] = None,
) -> None:
    """Serve scores over HTTP; settings come from TOUCHSTONE_* variables too (docs/settings.md)."""
    import uvicorn
    from pydantic import ValidationError

    from features.errors import UsageError
    from models import load_bundle
    from serving import Settings, create_app

    given = {name: value for name, value in (("model", model), ("host", host), ("port", port)) if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as problem:
        wrong = problem.errors()[0]
        raise UsageError(
            f"TOUCHSTONE_{'_'.join(str(part) for part in wrong['loc']).upper()}={wrong['input']!r}: {wrong['msg']}."
        ) from None
    scorer = load_bundle(settings.model)
    card = scorer.card
    config = uvicorn.Config(
        create_app(scorer, settings), access_log=False, log_level="warning", server_header=False,
        timeout_graceful_shutdown=10,
    )  # fmt: skip
    with _listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        _warn(
            f"serving {card.name} {card.version} ({card.model}, {card.horizon_days:g} days) from {settings.model} at "
            f"http://{f'[{host}]' if ':' in host else host}:{port}", "",
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])


@app.command(epilog="Example: touchstone demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything of the demonstration goes.")] = Path("build/demo"),
    leads: Annotated[int, typer.Option(min=500, help="How many leads arrive.")] = 10_000,
) -> None:
    """Show the whole way: simulate, train, compare with the rules, score a list, draw the pictures."""
    import shutil

    from features.errors import UsageError
    from features.times import isoformat
    from training.simulate import simulate as run

    begun = time.perf_counter()
    mark = folder / ".touchstone-demo"
    if folder.exists():
        if any(folder.iterdir()) and not mark.exists():
            raise UsageError(f"{folder} holds something else than a demonstration, which would be lost. Name another.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    mark.touch()
    # Runs, models and pictures all stay in the folder of the demonstration.
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    _print(f"1. {leads:,} simulated leads over 540 days", style="bold")
    run(leads, 540, seed=7).write("leads")
    dataset = _read(Path("leads"), None, None, None, "stop", False)
    _print("\n2. Learn from them, and compare with the point rules on their own past", style="bold")
    trained = _train(dataset, "90d", None, None, None, False)
    _tell_trained(trained, False)
    _save_plots(trained.backtest, Path("plots"))
    _print("\n3. Score the list", style="bold")
    score(Path("leads"), Path("scored.csv"), as_of=isoformat(dataset.recorded_until), model=trained.folder)
    _best_leads(Path("scored.csv"))
    _print(
        f"\nDone in {time.perf_counter() - begun:.0f} s. In {folder}: scored.csv, plots/gains.png, "
        "plots/calibration.png.",
        f"Serve the model: touchstone serve --model {folder}/models/trained/champion",
    )


def main() -> None:
    """Runs the command line; errors that are meant for the user become one message and an exit code."""
    try:
        app(prog_name="touchstone")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        _warn(f"{error.filename}: {error.strerror}.", "error: ")
        sys.exit(1)
    except Exception as error:
        from features.errors import TouchstoneError

        if not isinstance(error, TouchstoneError):
            raise
        _warn(str(error), "error: ")
        sys.exit(error.exit_code)


def _listen(host: str, port: int) -> socket:
    """Takes the port before anything is told of it, so that 0 becomes a number."""
    from socket import AF_INET, AF_INET6, create_server

    from features.errors import TouchstoneError

    try:
        return create_server((host, port), family=AF_INET6 if ":" in host else AF_INET)
    except OSError as problem:
        raise TouchstoneError(
            f"cannot listen on {host}, port {port}: {problem.strerror or problem}. "
            "Stop what listens there, or choose another --port or --host."
        ) from None


def _read(
    data: Path, mapping: list[str] | None, zone: str | None, date_format: str | None, on_error: OnError, quiet: bool
) -> Dataset:
    from features import Dataset, UsageError

    columns = {}
    for entry in mapping or ():
        name, equals, heading = entry.partition("=")
        if not equals or not name.strip() or not heading.strip():
            raise UsageError(
                f"--map {entry!r}: write our column, an equals sign and the heading, e.g. lead_id='Contact ID'."
            )
        columns[name.strip()] = heading.strip()
    dataset = Dataset.read(data, columns=columns, zone=zone, date_format=date_format, on_error=on_error)
    if not quiet and dataset.report is not None:
        _print(*(f"  {line}" for line in dataset.report.lines()))
    return dataset


def _train(
    dataset: Dataset,
    horizon: str | None,
    experiment: Path | None,
    rules: Path | None,
    as_of: str | None,
    quiet: bool,
    *,
    allow_leaks: bool = False,
) -> Trained:
    import logging

    from features.times import to_us
    from training import train as run

    # MLflow tells of every migration of a fresh store.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with _progress(quiet) as progress:
        return run(
            dataset, _experiment(experiment, horizon), rules=_rules(rules),
            until=None if as_of is None else to_us(as_of), allow_leaks=allow_leaks, progress=progress,
        )  # fmt: skip


def _experiment(path: Path | None, horizon: str | None) -> Any:
    from msgspec.structs import replace

    from features.times import days
    from training import Experiment

    experiment = Experiment() if path is None else Experiment.read(path)
    return experiment if horizon is None else replace(experiment, horizon_days=days(horizon))


def _rules(path: Path | None) -> Any:
    from models import PointsTable

    return None if path is None else PointsTable.read(path)


def _tell_trained(trained: Trained, as_json: bool) -> None:
    from training import report

    card = trained.scorer.card
    rows, purchases = trained.learned_from
    if as_json:
        _json({
            "version": card.version, "model": card.model, "folder": str(trained.folder), "champion": trained.champion,
            "known_until": card.known_until, "learned_from": rows, "purchases_learned_from": purchases,
            "notes": list(trained.notes), "audit": [finding.to_dict() for finding in trained.findings],
            "verdict": _plain(trained.verdict),
            "backtest": report.to_dict(trained.backtest),
        })  # fmt: skip
        return
    _print(report.terminal_table(trained.backtest, _width()), *report.gains_in_words(trained.backtest), *trained.notes)
    _print(*report.findings_in_words(trained.findings))
    role = "champion" if trained.champion else "challenger"
    _print(
        f"{card.model}, fitted on {rows:,} rows with {purchases:,} purchases, is version {card.version} ({role}) in "
        f"{trained.folder}"
    )
    if trained.verdict is not None:
        mend = ["Make it the champion: touchstone promote"] if trained.verdict.promote else []
        _print(*trained.verdict.lines(), *mend)


def _save_plots(result: Any, folder: Path) -> None:
    from training import plots

    plots.save(plots.gains(result), folder / "gains.png")
    plots.save(plots.calibration(result), folder / "calibration.png")


def _best_leads(path: Path) -> None:
    import pyarrow.csv
    from rich.table import Table

    rows = pyarrow.csv.read_csv(path).sort_by([("probability", "descending")]).slice(0, 5).to_pylist()
    table = Table(title="The five best leads", title_justify="left")
    for name in ("lead_id", "probability", "score", "tier", "route", "reason_1"):
        table.add_column(name)
    for row in rows:
        shown = f"{row['probability']:.1%}", str(row["score"]), row["tier"], row["route"], row["reason_1"]
        table.add_row(row["lead_id"], *shown)
    _print(table)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, float], None] | None]:
    """A bar on standard error while long work runs at a terminal; nothing otherwise."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, completed=share, description=what)


def _say(as_json: bool, document: Any, *lines: str) -> None:
    if as_json:
        _json(document)
    else:
        _print(*lines)


def _plain(value: Any) -> Any:
    """A struct as JSON values."""
    import msgspec

    return msgspec.to_builtins(value)


def _json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _print(*parts: Any, style: str | None = None) -> None:
    from rich.console import Console

    # Headings and paths of others go through here: brackets and colons in them mean themselves.
    console = Console(width=_width(), highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part, style=style, soft_wrap=isinstance(part, str))


def _width() -> int:
    """Characters of a line: the terminal's, or enough for anything where there is none."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 160


def _warn(text: str, kind: str = "warning: ") -> None:
    sys.stderr.write(f"{kind}{text}\n")


if __name__ == "__main__":
    main()
