"""Runs, models and their aliases in MLflow: the only module that knows it.

Without MLFLOW_TRACKING_URI the store is the file mlflow.db in the current folder. The service never talks to MLflow:
every registered version is exported as a bundle too, and the links `champion` and `challenger` beside the exports
follow the aliases.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from models import Scorer, save_bundle
from training import plots, report
from training.backtest import Backtest
from training.metrics import MEASURES

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "touchstone"
"""The registered model."""
_PYFUNC = Path(__file__).parents[1] / "models" / "pyfunc.py"


def register(make: Callable[[str], Scorer], result: Backtest, folder: Path) -> tuple[str, Path]:
    """Records a run with everything that proves the model, registers it, and exports its bundle.

    `make` builds the scorer for a version. Returns the version and the exported bundle; the alias `challenger` is its.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    client = mlflow.MlflowClient()
    _create(client)
    mlflow.set_experiment(result.experiment.name)
    with TemporaryDirectory() as scratch, mlflow.start_run():
        _log(result, make("0"))
        while True:
            expected = str(1 + max((int(v.version) for v in client.search_model_versions(f"name='{NAME}'")), default=0))
            bundle = save_bundle(make(expected), Path(scratch) / expected)
            info = mlflow.pyfunc.log_model(
                name=NAME,
                python_model=str(_PYFUNC),
                artifacts={"bundle": str(bundle)},
                pip_requirements=[f"{name}=={installed(name)}" for name in ("lightgbm", "mlflow", "numba", "numpy")],
            )
            version = str(mlflow.register_model(info.model_uri, NAME).version)
            if version == expected:
                break
            # Someone else registered a version in between; a bundle that names another version would mislead.
            client.delete_model_version(NAME, version)
        exported = folder / version
        if exported.exists():
            # Left by a store that is gone: the version numbers began anew.
            shutil.rmtree(exported)
        exported.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(bundle, exported)
    client.set_registered_model_alias(NAME, "challenger", version)
    _link(folder / "challenger", version)
    return version, exported


def crown(version: str, exported: Path) -> bool:
    """Makes a version the champion if there is none yet; says whether it did."""
    from mlflow import MlflowClient

    client = MlflowClient()
    link = exported.parent / "champion"
    if "champion" in client.get_registered_model(NAME).aliases and link.exists():
        return False
    client.set_registered_model_alias(NAME, "champion", version)
    _link(link, version)
    return True


def _log(result: Backtest, scorer: Scorer) -> None:
    """Logs parameters, the dataset's digest, the figures of all models, the tables and the pictures to the run."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    data = MetaDataset(CodeDatasetSource({}), name="leads", digest=scorer.card.dataset[:32])  # type: ignore[abstract]
    mlflow.log_input(data, context="training")
    experiment = msgspec.structs.asdict(result.experiment)
    mlflow.log_params({**experiment, "model": scorer.card.model, "known_until": scorer.card.known_until})
    mlflow.set_tags({"features": scorer.card.features, "dataset.digest": scorer.card.dataset})
    for model in result.probability:
        for measure in MEASURES:
            estimate = result.evaluation.estimate(model, measure.name)
            mlflow.log_metrics({
                f"{model}.{measure.name}": estimate.value,
                f"{model}.{measure.name}.low": estimate.low,
                f"{model}.{measure.name}.high": estimate.high,
            })  # fmt: skip
    mlflow.log_dict(report.to_dict(result), "backtest.json")
    mlflow.log_text(report.markdown(result), "backtest.md")
    mlflow.log_text(scorer.features.to_json(), "features.json")
    for name, figure in (("gains", plots.gains(result)), ("calibration", plots.calibration(result))):
        mlflow.log_figure(figure, f"{name}.png")


def _create(client: MlflowClient) -> None:
    if not client.search_registered_models(f"name='{NAME}'"):
        client.create_registered_model(NAME, description="Probability that a lead buys within the horizon.")


def _link(link: Path, target: str) -> None:
    """Points a link at a version beside it, in one step."""
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
