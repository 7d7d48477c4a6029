"""The command line. Each command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from socket import socket

    from features import Dataset
    from models import PointsTable
    from serving import Settings
    from serving.store import Key, SqlStore
    from training import Experiment, Trained

app = typer.Typer(
    help="Qualifies leads: a calibrated probability of purchase from touchpoints, proved against the point rules.",
    epilog="Example: touchstone demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

database = typer.Typer(
    help="Look after the database of the service.",
    epilog="Example: touchstone db upgrade",
    no_args_is_help=True,
)
keys = typer.Typer(
    help="Look after the API keys of the service.",
    epilog="Example: touchstone keys create crm --scope score",
    no_args_is_help=True,
)
policies = typer.Typer(
    help="Look after a tenant's policy: tiers, routes, worth, events and the agreement of marketing and sales.",
    epilog="Example: touchstone policy show",
    no_args_is_help=True,
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
AsOf = Annotated[
    str | None,
    typer.Option(help="An instant, e.g. 2026-11-01 or 2026-11-01T14:00:00Z; without an offset it is one of --zone."),
]
Horizon = Annotated[str | None, typer.Option(help="The time in which a purchase counts, e.g. 90d or 12w.")]
ExperimentFile = Annotated[Path | None, typer.Option("--experiment", help="A TOML file; see experiments/.")]
RulesFile = Annotated[
    Path | None,
    typer.Option("--rules", help="Your points table in TOML; else one is derived from the kinds of touches."),
]
Database = Annotated[
    str | None, typer.Option("--database", help="Its URL. [default: TOUCHSTONE_DATABASE, else sqlite:///touchstone.db]")
]
ModelFolder = Annotated[Path, typer.Option("--model", help="The folder of a model.")]
app.add_typer(database, name="db")
app.add_typer(keys, name="keys")
app.add_typer(policies, name="policy")
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
    from features.inputs import TRUTH, holds_tables
    from features.times import days as span
    from training.simulate import simulate as run

    if holds_tables(folder) and not (folder / TRUTH).exists():
        raise UsageError(f"{folder} holds tables that were not simulated, which would be lost. Name another folder.")
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
    """Find leaks and other faults of a dataset, and say what to do; exits with 1 if one is certain."""
    from features.words import so_many
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
            f"certain leaks and faults: {counts['certain']}, likely ones: {counts['likely']}, notes: {counts['note']} "
            f"({so_many(leads, 'lead')}, {so_many(purchases, 'purchase')}{few})"
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
    dask: Annotated[
        str | None,
        typer.Option(help="A Dask scheduler whose workers grow the trees, e.g. tcp://10.0.0.5:8786, or local."),
    ] = None,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Audit a dataset, learn from it, compare with the rules on its own past, and register the best model."""
    # What is wrong with the question is said before the tables are read, here as in the other commands.
    asked, points, until = _experiment(experiment, horizon), _rules(rules), _instant(as_of, zone, data)
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    trained = _train(dataset, asked, points, until, as_json, allow_leaks=allow_leaks, dask=dask)
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
    from models import candidates
    from training import backtest as run
    from training import report

    settings, points, until = _experiment(experiment, horizon), _rules(rules), _instant(as_of, zone, data)
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    with _progress(as_json) as progress:
        result = run(
            dataset, settings, candidates(points, settings=settings.model), until=until, progress=progress,
        )  # fmt: skip
    if plots is not None:
        _save_plots(result, plots)
    if as_json:
        _json(report.to_dict(result))
    else:
        _print(report.terminal_table(result, _width()), *report.gains_in_words(result))


@app.command(epilog="Example: touchstone search build/leads --trials 50 --output found.toml")
def search(
    data: Data,
    trials: Annotated[int, typer.Option(min=1, help="How many, those of an earlier run included.")] = 50,
    output: Annotated[
        Path | None, typer.Option(help="The experiment with better settings, if any are found, for --experiment.")
    ] = None,
    horizon: Horizon = None,
    experiment: ExperimentFile = None,
    as_of: AsOf = None,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Look for better settings of the model, and judge them on later origins that the search has not seen."""
    from msgspec.structs import asdict, replace

    from training import search as run

    asked, until = _experiment(experiment, horizon), _instant(as_of, zone, data)
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    with _progress(as_json) as progress:
        found = run(dataset, asked, trials=trials, until=until, progress=progress)
    written = output if found.better else None
    if written is not None:
        written.write_text(replace(asked, model=found.found).to_toml(), encoding="utf-8")
    lines = [f"on the origins it searched: log loss {found.searched[1]:.5f}, the default's {found.searched[0]:.5f}"]
    lines += [found.says, ", ".join(f"{name} {value:.4g}" for name, value in asdict(found.found).items())]
    if output is not None:
        lines.append(f"written to {written}" if written else f"{output} is not written: keep the default")
    _say(as_json, {
        "study": found.study, "trials": found.trials, "better": found.better, "gain": found.gain._asdict(),
        "searched": {"default": found.searched[0], "found": found.searched[1]},
        "default": asdict(found.default), "found": asdict(found.found),
        "output": str(written) if written else None,
    }, *lines)  # fmt: skip


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


@app.command(epilog="Example: touchstone monitor build/leads --weeks 12")
def monitor(
    data: Data,
    model: ModelFolder = CHAMPION,
    as_of: AsOf = None,
    since: Annotated[str | None, typer.Option(help="Judge no prediction from before this instant.")] = None,
    weeks: Annotated[int | None, typer.Option(min=1, help="Judge the last so many weekly instants alone.")] = None,
    experiment: ExperimentFile = None,
    output: Annotated[Path | None, typer.Option(help="A file for the same as Markdown.")] = None,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Hold what a model predicted to what came true, and the leads of now to those it learned from."""
    from models import load_bundle
    from training import monitor as run
    from training import report

    scorer = load_bundle(model)
    until, first = _instant(as_of, zone, data), _instant(since, zone, data)
    settings = _experiment(experiment, None)
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    with _progress(as_json) as progress:
        found = run(scorer, dataset, settings, until=until, since=first, weeks=weeks, progress=progress)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(report.monitoring_markdown(found), encoding="utf-8")
    if as_json:
        _json(_plain(found))
    else:
        _print(*report.monitoring_in_words(found))
        _print(*(report.plain_table(*table) for table in report.monitoring_tables(found)))


@app.command(epilog="Example: touchstone score build/leads --output scored.csv --as-of 2026-06-25")
def score(
    data: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A folder of tables, a dataset.toml, CSV or Parquet files (also patterns), s3://..., a database URL.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="The scored list, .csv or .parquet.", show_default=False)],
    as_of: AsOf = None,
    model: ModelFolder = CHAMPION,
    reasons: Annotated[int, typer.Option(min=0, max=3, help="How many reasons to give for each score.")] = 3,
    query: Annotated[
        list[str] | None,
        typer.Option(help="A table and what fills it from the database, e.g. 'leads=SELECT * FROM crm'. Repeatable."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose leads, where the database is the service's own.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a list that was interrupted.")] = False,
    dask: Annotated[
        str | None, typer.Option(help="A Dask scheduler whose workers score, e.g. tcp://10.0.0.5:8786, or local.")
    ] = None,
    mapping: Map = None,
    zone: Zone = None,
    date_format: DateFormat = None,
    on_error: OnErrorOption = "stop",
    as_json: Json = False,
) -> None:
    """Score every open lead of a list of any size."""
    from features.times import US_PER_DAY, isoformat
    from models import load_bundle
    from serving.batch import check_ending, score_input

    check_ending(output)
    scorer = load_bundle(model)
    started = time.time_ns() // 1_000
    with _progress(as_json) as progress:
        summary = score_input(
            scorer, data, output, as_of=_instant(as_of, zone, data), reasons=reasons,
            columns=_columns(mapping), zone=zone, date_format=date_format, on_error=on_error,
            queries=_pairs("--query", query, "our table, an equals sign and the query, e.g. 'leads=SELECT * FROM crm'"),
            tenant=tenant, resume=resume, dask=dask, progress=progress,
        )  # fmt: skip
    report = summary.report
    if not as_json and report is not None:
        _print(*(f"  {line}" for line in report.lines()))
    if as_of is None and started - summary.last > 30 * US_PER_DAY:
        _warn(
            f"the last touchpoint is of {isoformat(summary.last)[:10]}, and leads are scored as of now. Pass --as-of "
            "for then."
        )
    tiers = ", ".join(f"{count:,} {tier}" for tier, count in summary.tiers.items())
    _say(
        as_json,
        {"scored": summary.scored, "tiers": dict(summary.tiers), "closed": summary.closed, "later": summary.later,
         "as_of": summary.as_of, "output": summary.output, "rows": dict(report.rows) if report else {},
         "quarantined": dict(report.quarantined) if report else {}},
        f"{summary.scored:,} open leads as of {summary.as_of} in {output}: {tiers}",
        f"not scored: {summary.closed:,} closed before, {summary.later:,} created later",
    )  # fmt: skip


@app.command(
    epilog="Example: touchstone push build/scored.csv --to salesforce --output build/push --id-field Lead_Key__c"
)
def push(
    source: Annotated[
        str,
        typer.Argument(
            help="A scored list, .csv or .parquet, or the URL of the service's database.", show_default=False
        ),
    ],
    to: Annotated[
        Literal["salesforce", "hubspot", "dynamics", "odoo"], typer.Option(help="Whose shape.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="Where the files go: a new or empty folder.", show_default=False)],
    id_field: Annotated[
        str | None, typer.Option(help="The CRM's field that holds our ids. [default: the CRM's own id]")
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(help="Write this alone, and there, e.g. score=Rating__c. Repeatable. [default: see docs/crm]"),
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose leads, where a database is named.")] = "default",
    as_json: Json = False,
) -> None:
    """Write scores as files that a CRM's own tool loads; nothing is sent."""
    from serving.push import push as run

    fields = _pairs("--field", field, "ours, an equals sign and the CRM's, e.g. score=Rating__c")
    done = run(source, to, output, id_field=id_field, fields=fields, tenant=tenant)
    if done.left_out and not as_json:
        _warn(
            f"{done.left_out:,} leads are left out, for {to} would not find them by their ids: "
            f"{', '.join(map(repr, done.named))}"
        )
    _say(
        as_json,
        {"leads": done.leads, "left_out": done.left_out, "output": str(output), "files": [*done.files]},
        f"{done.leads:,} leads for {to} in {output}: {len(done.files):,} files",
    )


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
    from features.inputs import find_input
    from features.times import days as span
    from features.times import isoformat
    from serving.batch import check_apart, check_ending, write_features

    check_ending(output)
    check_apart(output, find_input(data, _columns(mapping)).paths())
    dataset = _read(data, mapping, zone, date_format, on_error, as_json)
    instant = _instant(as_of, zone, data)
    until = dataset.recorded_until if instant is None else instant
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
    url: Database = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that serve, one for each core to use.")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody in without an API key; on a loopback address alone.")
    ] = False,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="A TOML file that says what events of Segment's clients mean.")
    ] = None,
) -> None:
    """Serve scores over HTTP; settings come from TOUCHSTONE_* variables too (docs/settings.md)."""
    from features.errors import UsageError
    from models import load_bundle
    from serving.keys import has_keys
    from serving.server import run
    from serving.store import open_store

    settings = _settings(model=model, host=host, port=port, database=url, workers=workers, mapping=mapping)
    if no_auth and not _is_loopback(settings.host):
        raise UsageError(
            f"--no-auth: {settings.host} can be reached from elsewhere. Serve on 127.0.0.1, or leave --no-auth out "
            "and make API keys: touchstone keys create."
        )
    with _listen(settings.host, settings.port) as listener:
        scorer, store = load_bundle(settings.model), open_store(settings.database)
        card = scorer.card
        host, port = listener.getsockname()[:2]
        _warn(
            f"serving {card.name} {card.version} ({card.model}, {card.horizon_days:g} days) from {settings.model} at "
            f"http://{f'[{host}]' if ':' in host else host}:{port}", "",
        )  # fmt: skip
        if not no_auth and not has_keys(store):
            _warn("there is no API key yet. Make one: touchstone keys create NAME --scope score")
        run(settings, listener, scorer, store, no_auth=no_auth)


@keys.command(epilog="Example: touchstone keys create crm --scope score --scope ingest")
def create(
    name: Annotated[str, typer.Argument(help="Who is to use it.", show_default=False)],
    scope: Annotated[list[str], typer.Option(help="What it is for: ingest, score, read, admin or import. Repeatable.")],
    tenant: Annotated[str, typer.Option(help="Whose leads.")] = "default",
    url: Database = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown this once; only a hash of it is kept."""
    from serving.keys import create_key

    with _store(url) as store:
        key, token = create_key(store, tenant, name, scope, _actor())
    _say(as_json, {**_shown(tenant, key), "key": token}, f"{token}", f"for {name}: {', '.join(key.scopes)}. Keep it.")


@keys.command("list", epilog="Example: touchstone keys list --json")
def list_them(
    tenant: Annotated[str | None, typer.Option(help="Whose keys. [default: all]")] = None,
    url: Database = None,
    as_json: Json = False,
) -> None:
    """List the API keys."""
    from serving.keys import list_keys

    with _store(url) as store:
        shown = [_shown(tenant, key) for tenant, key in list_keys(store, tenant)]
    lines = [
        f"{each['id']}  {each['tenant']}  {each['name']}  {','.join(each['scopes'])}  {each['state']}" for each in shown
    ]
    _say(as_json, {"keys": shown}, *(lines or ["there is no API key yet. Make one: touchstone keys create"]))


@keys.command(epilog="Example: touchstone keys revoke mrswmylvnr2a-5f0c1a2b")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.", show_default=False)],
    url: Database = None,
    as_json: Json = False,
) -> None:
    """Make an API key worth nothing, within 5 seconds."""
    from serving.keys import revoke_key, tenant_of_key

    with _store(url) as store:
        key = revoke_key(store, key_id, _actor())
    _say(as_json, _shown(str(tenant_of_key(key.id)), key), f"{key.id} ({key.name}) is revoked")


@keys.command(epilog="Example: touchstone keys rotate mrswmylvnr2a-5f0c1a2b --grace 1d")
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.", show_default=False)],
    grace: Annotated[str, typer.Option(help="How much longer the old key holds, e.g. 1d or 2h.")] = "0",
    url: Database = None,
    as_json: Json = False,
) -> None:
    """Make a new API key in the place of one, which ends after the grace period."""
    from features.times import days
    from serving.keys import rotate_key, tenant_of_key

    seconds = 0.0 if grace == "0" else days(grace) * 86_400
    with _store(url) as store:
        key, token = rotate_key(store, key_id, seconds, _actor())
    shown = {**_shown(str(tenant_of_key(key.id)), key), "key": token, "replaces": key_id}
    _say(as_json, shown, token, f"in place of {key_id}, which holds for {grace} more. Keep it.")


@policies.command(epilog="Example: touchstone policy show --tenant default")
def show(
    tenant: Annotated[str, typer.Option(help="Whose policy.")] = "default",
    url: Database = None,
    as_json: Json = False,
) -> None:
    """Write a policy as JSON, as `policy set` reads it; with --json its version too."""
    from serving.policy import policy_of

    with _store(url) as store:
        found = policy_of(store, tenant)
    policy = _plain(found.policy)
    _json({"tenant": tenant, "version": found.version, "policy": policy} if as_json else policy)


@policies.command("set", epilog="Example: touchstone policy set policy.toml --tenant default")
def set_it(
    file: Annotated[Path, typer.Argument(help="A policy in TOML or JSON; see docs/routing.md.", show_default=False)],
    tenant: Annotated[str, typer.Option(help="Whose policy.")] = "default",
    url: Database = None,
    as_json: Json = False,
) -> None:
    """Put a policy in force, in the place of the one before; the service follows within 5 seconds."""
    from serving.policy import read_policy, set_policy

    policy = read_policy(file)
    with _store(url) as store:
        done = set_policy(store, tenant, policy, _actor())
    said = f"tiers and routes of {done.version}" if done.version else "tiers and routes of the model"
    _say(as_json, {"tenant": tenant, "version": done.version, "policy": _plain(policy)},
         f"the policy of {tenant} is in force: {said}")  # fmt: skip


@database.command(epilog="Example: touchstone db upgrade --database postgresql://touchstone@db.example/touchstone")
def upgrade(url: Database = None, as_json: Json = False) -> None:
    """Bring a database to what this version needs; one that is there already stays as it is."""
    from serving.store import upgrade_database

    url = url or _settings().database
    before, after = upgrade_database(url)
    done = "is" if before == after else f"went from {before or 'nothing'} to"
    _say(as_json, {"before": before, "after": after}, f"the database {done} revision {after}")


@app.command(epilog="Example: touchstone export sqlite:///touchstone.db build/export --tenant default")
def export(
    url: Annotated[
        str, typer.Argument(metavar="DATABASE_URL", help="The database of the service.", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(help="Where the tables go: a new or empty folder.", show_default=False)],
    tenant: Annotated[str, typer.Option(help="Whose leads.")] = "default",
    as_json: Json = False,
) -> None:
    """Write what the service knows as tables, to train on or to take along."""
    from contextlib import closing

    from features.errors import UsageError
    from serving.store import open_store

    with closing(open_store(url, create=False)) as store:
        if tenant not in (known := store.tenants()):
            names = ", ".join(known[:10]) or "nobody"
            raise UsageError(f"--tenant {tenant}: nothing is stored for it, but for {names}.")
        counts = store.export(tenant, folder)
    rows = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    _say(as_json, {"folder": str(folder), "tenant": tenant, "rows": counts}, f"{rows} in {folder}")


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
    trained = _train(dataset, _experiment(None, "90d"), None, None, False)
    _tell_trained(trained, False)
    _save_plots(trained.backtest, Path("plots"), trained.contributed)
    _print("\n3. Score the list", style="bold")
    score("leads", Path("scored.csv"), as_of=isoformat(dataset.recorded_until), model=trained.folder)
    _best_leads(Path("scored.csv"))
    _print(
        f"\nDone in {time.perf_counter() - begun:.0f} s. In {folder}: scored.csv and the pictures plots/*.png.",
        f"Serve the model: touchstone serve --model {folder}/models/trained/champion",
    )


@app.command(epilog="Example: touchstone doctor --database sqlite:///touchstone.db")
def doctor(
    model: Annotated[
        Path | None, typer.Option("--model", help="The folder of a model. [default: the champion]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="The port to listen on.")] = None,
    url: Database = None,
    as_json: Json = False,
) -> None:
    """Check what this machine or deployment may lack, and say how to mend it; exits with 1 if something failed."""
    import msgspec

    from features.health import machine
    from models.health import models
    from serving.health import file_of, service
    from training.health import records

    settings = _settings(model=model, host=host, port=port, database=url)
    file = file_of(settings.database)
    found = []
    for check in chain(
        machine(Path() if file is None else file.parent), models(settings.model), service(settings), records()
    ):
        found.append(check)
        if not as_json:
            _print(check.line)
    failed = sum(check.state == "fail" for check in found)
    if as_json:
        _json({"ok": not failed, "checks": msgspec.to_builtins(found)})
    sys.exit(1 if failed else 0)


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


def _settings(**given: Any) -> Settings:
    """The settings of the service: what is given here goes before the environment."""
    from pydantic import ValidationError

    from features.errors import UsageError
    from serving import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as problem:
        wrong = problem.errors()[0]
        raise UsageError(
            f"TOUCHSTONE_{'_'.join(str(part) for part in wrong['loc']).upper()}={wrong['input']!r}: {wrong['msg']}."
        ) from None


@contextmanager
def _store(url: str | None) -> Iterator[SqlStore]:
    """The store of the service, made if it is a file that is not there."""
    from contextlib import closing

    from serving.store import open_store

    with closing(open_store(url or _settings().database)) as store:
        yield store


def _actor() -> str:
    """Who is at the command line, for the audit log."""
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _shown(tenant: str, key: Key) -> dict[str, Any]:
    """What may be seen of an API key."""
    from features.times import isoformat
    from serving.keys import is_valid

    ends = None if key.revoked_at is None else isoformat(key.revoked_at)
    state = "valid" if ends is None else "revoked" if not is_valid(key, time.time_ns() // 1_000) else f"until {ends}"
    return {
        "id": key.id, "tenant": tenant, "name": key.name, "scopes": [*key.scopes], "state": state,
        "created_at": isoformat(key.created_at), "revoked_at": ends,
    }  # fmt: skip


def _is_loopback(host: str) -> bool:
    """Whether an address is this machine's alone."""
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


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
    from features import Dataset

    dataset = Dataset.read(data, columns=_columns(mapping), zone=zone, date_format=date_format, on_error=on_error)
    if not quiet and dataset.report is not None:
        _print(*(f"  {line}" for line in dataset.report.lines()))
    return dataset


def _instant(text: str | None, zone: str | None, data: str | Path) -> int | None:
    """An instant in microseconds; without an offset it is one of --zone, or of the zone that a dataset.toml names."""
    from features.inputs import zone_of
    from features.times import to_us

    return None if text is None else to_us(text, zone or zone_of(data))


def _columns(mapping: list[str] | None) -> dict[str, str]:
    return _pairs("--map", mapping, "our column, an equals sign and the heading, e.g. lead_id='Contact ID'")


def _pairs(option: str, entries: list[str] | None, form: str) -> dict[str, str]:
    """What stands left and right of the equals signs."""
    from features.errors import UsageError

    pairs = {}
    for entry in entries or ():
        name, equals, value = entry.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"{option} {entry!r}: write {form}.")
        pairs[name.strip()] = value.strip()
    return pairs


def _train(
    dataset: Dataset,
    experiment: Experiment,
    rules: PointsTable | None,
    until: int | None,
    quiet: bool,
    *,
    allow_leaks: bool = False,
    dask: str | None = None,
) -> Trained:
    import logging

    from training import train as run

    # MLflow tells of every migration of a fresh store.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with _progress(quiet) as progress:
        return run(
            dataset, experiment, rules=rules, until=until, allow_leaks=allow_leaks, dask=dask, progress=progress,
        )  # fmt: skip


def _experiment(path: Path | None, horizon: str | None) -> Experiment:
    from msgspec.structs import replace

    from features.times import days
    from training import Experiment

    experiment = Experiment() if path is None else Experiment.read(path)
    return experiment if horizon is None else replace(experiment, horizon_days=days(horizon))


def _rules(path: Path | None) -> PointsTable | None:
    from models import PointsTable

    return None if path is None else PointsTable.read(path)


def _tell_trained(trained: Trained, as_json: bool) -> None:
    from features.words import so_many
    from training import report

    card = trained.scorer.card
    rows, purchases = trained.learned_from
    if as_json:
        _json({
            "version": card.version, "model": card.model, "folder": str(trained.folder), "champion": trained.champion,
            "known_until": card.known_until, "learned_from": rows, "purchases_learned_from": purchases,
            "notes": list(trained.notes), "audit": [finding.to_dict() for finding in trained.findings],
            "verdict": _plain(trained.verdict),
            "backtest": report.to_dict(trained.backtest), "outlook": _plain(trained.outlook),
        })  # fmt: skip
        return
    if trained.backtest.judged:
        _print(report.terminal_table(trained.backtest, _width()), *report.gains_in_words(trained.backtest))
    _print(*trained.notes)
    if trained.outlook is not None:
        _print(*report.outlook_in_words(trained.outlook))
    _print(*report.findings_in_words(trained.findings))
    role = "champion" if trained.champion else "challenger"
    _print(
        f"{card.model}, fitted on {so_many(rows, 'row')} with {so_many(purchases, 'purchase')}, is version "
        f"{card.version} ({role}) in {trained.folder}"
    )
    if trained.verdict is not None:
        better = trained.verdict.promote and not trained.champion
        mend = ["Make it the champion: touchstone promote"] if better else []
        _print(*trained.verdict.lines(), *mend)


def _save_plots(result: Any, folder: Path, contributed: Any = None) -> None:
    from training import plots

    for name, figure in plots.pictures(result, contributed).items():
        plots.save(figure, folder / f"{name}.png")


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
    import msgspec

    # JSON has no NaN, which is what a figure is that cannot be told: msgspec writes null.
    finite = msgspec.json.decode(msgspec.json.encode(document))
    sys.stdout.write(json.dumps(finite, indent=1) + "\n")


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
