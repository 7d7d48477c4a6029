"""Whether runs and models can be recorded here, as `touchstone doctor` tells it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from features.health import Check, attempt
from training.tracking import answers

_DEFAULT = "sqlite:///mlflow.db"


def records() -> Iterator[Check]:
    """Checks MLflow's store."""
    yield attempt("mlflow", _mlflow)


def _mlflow() -> Check:
    where = os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT
    path = where.removeprefix("sqlite:///")
    if path != where and not Path(path).exists():
        return Check("mlflow", "ok", f"there is no {path} yet. `touchstone train` makes it.")
    problem = answers()
    if problem is None:
        return Check("mlflow", "ok", f"its store {where} answers")
    return Check(
        "mlflow", "fail",
        f"its store {where} does not answer: {problem}. Check MLFLOW_TRACKING_URI and that the store runs; serving "
        "does without.",
    )  # fmt: skip
