"""Runs, models and their aliases in MLflow: the only module that knows it.

Without MLFLOW_TRACKING_URI the store is the file mlflow.db in the current folder. The service never talks to MLflow:
every registered version is exported as a bundle too, and the links `champion` and `challenger` beside the exports
follow the aliases.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version as installed
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from features.errors import TouchstoneError
from models import Scorer, load_bundle, save_bundle
from models.bundle import SUMS
from training import plots, report
from training.audit import Finding
from training.backtest import Backtest
from training.contributions import Contributions
from training.metrics import MEASURES
from training.outlook import Prospect

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "touchstone"
"""The registered model."""
TRAINED = Path("models/trained")
"""Where bundles are exported to: a folder a version, and links named champion and challenger."""
_REPLACED = "replaced"
"""The tag of a version that names the champion before it."""
Log = Callable[[str, Mapping[str, float], Mapping[str, float]], None]
"""Takes the name of a run, settings and figures."""
_PYFUNC = Path(__file__).parents[1] / "models" / "pyfunc.py"


def register(
    make: Callable[[str], Scorer],
    result: Backtest,
    folder: Path,
    findings: Sequence[Finding] = (),
    judge: Callable[[Scorer, Scorer], str] | None = None,
    contributed: Contributions | None = None,
    outlook: Prospect | None = None,
    cluster: str | None = None,
) -> tuple[str, Path]:
    """Records a run with everything that proves the model, registers it, and exports its bundle.

    `make` builds the scorer for a version; `findings` are what the audit found; `judge` compares the model with the
    champion, and what it says is kept with the run; `contributed` is drawn beside the backtest, and what is to be
    expected is kept as `outlook`; `cluster` says what of the model a cluster made. Returns the version and the exported
    bundle; the alias `challenger` is its.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    with _quietly():
        client = mlflow.MlflowClient()
        if not client.search_registered_models(f"name='{NAME}'"):
            client.create_registered_model(NAME, description="Probability that a lead buys within the horizon.")
        mlflow.set_experiment(result.experiment.name)
        with mlflow.start_run(), TemporaryDirectory() as scratch:
            _log(result, make("0"), findings, contributed, outlook)
            if cluster is not None:
                mlflow.set_tag("cluster", cluster)
            version, bundle = _upload(client, make, Path(scratch))
            exported = _export(bundle, folder, version)
            if judge is not None and (champion := _champion(folder)) is not None:
                mlflow.log_text(judge(champion, make(version)), "verdict.json")
        client.set_registered_model_alias(NAME, "challenger", version)
    _link(folder / "challenger", version)
    return version, exported


def crown(version: str, exported: Path, *, worthy: bool = True) -> bool:
    """Makes a version that is worthy of it the champion if there is none yet, or one that nothing proves.

    Says whether it did. The rules that a company begins with are such a champion: no evidence is lost with them.
    Where the champion was registered from elsewhere, its bundle is fetched.
    """
    from mlflow import MlflowClient

    folder = exported.parent
    client = MlflowClient()
    champion = _champion(folder)
    if champion is None:
        if worthy:
            client.set_registered_model_alias(NAME, "champion", version)
            _link(folder / "champion", version)
        return worthy
    if not (folder / "champion").exists():
        _link(folder / "champion", champion.card.version)
    if champion.card.backtest or not worthy:
        return False
    move_champion(version, folder)
    return True


def alias(name: str) -> str | None:
    """The version that an alias means; None if there is none."""
    from mlflow import MlflowClient

    with _quietly():
        client = MlflowClient()
        if not client.search_registered_models(f"name='{NAME}'"):
            return None
        found = client.get_registered_model(NAME).aliases.get(name)
    return None if found is None else str(found)


def replaced_by(version: str) -> str | None:
    """The version that was champion before this one; None for the first."""
    from mlflow import MlflowClient

    found = MlflowClient().get_model_version(NAME, version).tags.get(_REPLACED)
    return None if found is None else str(found)


def read_artifact(version: str, name: str) -> str | None:
    """A text that was logged to the run of a version; None if there is none."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with _quietly(), TemporaryDirectory() as scratch:
        client = MlflowClient()
        try:
            run = client.get_model_version(NAME, version).run_id
        except MlflowException:
            raise TouchstoneError(f"there is no version {version}. Look at the versions with mlflow ui.") from None
        if name not in {file.path for file in client.list_artifacts(str(run))}:
            return None
        found = download_artifacts(run_id=str(run), artifact_path=name, dst_path=scratch)
        return Path(found).read_text(encoding="utf-8")


def move_champion(version: str, folder: Path, *, back: bool = False) -> None:
    """Makes a version the champion, by the alias and by the link beside the exports; both move or neither does.

    The version remembers which one it replaced, unless the move is `back`.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    before = alias("champion")
    if not (folder / version).exists():
        _fetch(version, folder)
    load_bundle(folder / version)
    client.set_registered_model_alias(NAME, "champion", version)
    try:
        _link(folder / "champion", version)
        if not back and before is not None:
            client.set_model_version_tag(NAME, version, _REPLACED, before)
    except BaseException:
        if before is not None:
            client.set_registered_model_alias(NAME, "champion", before)
            _link(folder / "champion", before)
        raise


@contextmanager
def search_run(experiment: str, study: str) -> Iterator[Log]:
    """The run of a search, taken up again if it is there; gives what logs settings and figures as a run below it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    def log(name: str, settings: Mapping[str, float], figures: Mapping[str, float]) -> None:
        with mlflow.start_run(run_name=name, nested=True):
            mlflow.log_params({f"model.{setting}": value for setting, value in settings.items()})
            mlflow.log_metrics(dict(figures))

    with _quietly():
        place = mlflow.set_experiment(experiment).experiment_id
        found = mlflow.MlflowClient().search_runs([place], f"tags.study = '{study}'", max_results=1)
    with mlflow.start_run(found[0].info.run_id if found else None, run_name=None if found else f"search {study}"):
        mlflow.set_tag("study", study)
        yield log


def answers() -> str | None:
    """Asks the store whether it knows our model; returns what is wrong if it does not answer."""
    # A server that is not there is not to be asked for minutes.
    for name, value in (("MAX_RETRIES", "1"), ("TIMEOUT", "5")):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    try:
        with _quietly():
            MlflowClient().search_registered_models(f"name = '{NAME}'", max_results=1)
    except Exception as problem:
        # MLflow lets through what its databases and HTTP raise.
        return str(problem).strip().partition("\n")[0] or type(problem).__name__
    return None


def beside_store(name: str) -> Path:
    """Where a file beside the database of MLflow lies; in the current folder if that is none of SQLite."""
    import mlflow

    scheme, _, path = str(mlflow.get_tracking_uri()).partition("sqlite:///")
    return Path(path).with_name(name) if path and not scheme else Path(name)


def _upload(client: MlflowClient, make: Callable[[str], Scorer], scratch: Path) -> tuple[str, Path]:
    """Uploads the bundle of the next version and registers it; returns the version and the bundle."""
    import mlflow

    expected = str(1 + max((int(v.version) for v in client.search_model_versions(f"name='{NAME}'")), default=0))
    while True:
        bundle = save_bundle(make(expected), scratch / expected)
        info = mlflow.pyfunc.log_model(
            name=NAME,
            python_model=str(_PYFUNC),
            artifacts={"bundle": str(bundle)},
            pip_requirements=[f"{name}=={installed(name)}" for name in ("lightgbm", "mlflow", "numba", "numpy")],
        )
        version = str(mlflow.register_model(info.model_uri, NAME).version)
        if version == expected:
            return version, bundle
        # Someone registered a version in between, or the newest was deleted, whose number MLflow gives to none
        # again. A bundle that names another version would mislead.
        client.delete_model_version(NAME, version)
        expected = str(int(version) + 1)


def _champion(folder: Path) -> Scorer | None:
    """The champion, fetched if it was registered from elsewhere; None if there is none yet."""
    version = alias("champion")
    if version is None:
        return None
    if not (folder / version).exists():
        _fetch(version, folder)
    return load_bundle(folder / version)


def _export(bundle: Path, folder: Path, version: str) -> Path:
    """Copies a bundle to the folder of models; what a store that is gone left under this number makes room."""
    exported = folder / version
    if exported.exists():
        shutil.rmtree(exported)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(bundle, exported)
    return exported


def _fetch(version: str, folder: Path) -> None:
    """Exports a registered version that is not here."""
    from mlflow.artifacts import download_artifacts

    with TemporaryDirectory() as scratch:
        found = Path(download_artifacts(artifact_uri=f"models:/{NAME}/{version}", dst_path=scratch))
        bundle = next(path.parent for path in found.rglob(SUMS))
        load_bundle(bundle)
        _export(bundle, folder, version)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps MLflow from telling of every table it makes; errors are told."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # The registry prints to standard error whatever the level.
        with redirect_stderr(StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _log(
    result: Backtest,
    scorer: Scorer,
    findings: Sequence[Finding],
    contributed: Contributions | None,
    outlook: Prospect | None,
) -> None:
    """Logs parameters, the dataset's digest, the figures of all models, the tables and the pictures to the run."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    data = MetaDataset(CodeDatasetSource({}), name="leads", digest=scorer.card.dataset[:32])  # type: ignore[abstract]
    mlflow.log_input(data, context="training")
    experiment = msgspec.structs.asdict(result.experiment)
    settings = {f"model.{name}": value for name, value in msgspec.structs.asdict(result.experiment.model).items()}
    known_until = scorer.card.known_until
    mlflow.log_params({**experiment, **settings, "model": scorer.card.model, "known_until": known_until})
    mlflow.set_tags({"features": scorer.card.features, "dataset.digest": scorer.card.dataset})
    for model in result.probability:
        for measure in MEASURES:
            estimate = result.evaluation.estimate(model, measure.name)
            mlflow.log_metrics({
                f"{model}.{measure.name}": estimate.value,
                f"{model}.{measure.name}.low": estimate.low,
                f"{model}.{measure.name}.high": estimate.high,
            })  # fmt: skip
    mlflow.set_tag("judged", result.judged)
    # JSON has no NaN, which is what a figure is that cannot be told: msgspec writes null.
    mlflow.log_text(msgspec.json.format(msgspec.json.encode(report.to_dict(result))).decode(), "backtest.json")
    mlflow.log_dict({"findings": [finding.to_dict() for finding in findings]}, "audit.json")
    mlflow.log_text(report.markdown(result, outlook), "backtest.md")
    if outlook is not None:
        mlflow.log_dict(msgspec.to_builtins(outlook), "outlook.json")
    mlflow.log_text(scorer.features.to_json(), "features.json")
    for name, figure in plots.pictures(result, contributed).items():
        mlflow.log_figure(figure, f"{name}.png")


def _link(link: Path, target: str) -> None:
    """Points a link at a version beside it, in one step."""
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
