"""The MLflow face of a bundle: a model from code, so that nothing is pickled.

MLflow runs this file to load the model; the bundle is its one artifact. A row is a lead: lead_id, as_of, and
optionally created_at, attributes (a dict), attribute_facts and touchpoints (lists of dicts), as `POST /v1/score` takes
them. The answer is a scored list.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from features.errors import UsageError
from features.history import Cohort
from features.records import LeadRecord, dataset_of
from features.times import to_us
from models.bundle import load_bundle
from models.scorer import Scorer, scored_list


class TouchstoneModel(PythonModel):
    """Scores data frames of leads."""

    _scorer: Scorer

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the bundle."""
        self._scorer = load_bundle(context.artifacts["bundle"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Returns the scored list of the leads, in their order."""
        rows = model_input.to_dict(orient="records")
        as_of = np.array([_as_of(row, number) for number, row in enumerate(rows)], np.int64)
        dataset = dataset_of([_record(row, number) for number, row in enumerate(rows)])
        cohort = Cohort.at(np.arange(len(rows)), as_of)
        return pd.DataFrame(scored_list(self._scorer, dataset, cohort, self._scorer.score(dataset, cohort)))


def _as_of(row: dict[Any, Any], number: int) -> int:
    as_of = _plain(row.get("as_of"))
    if as_of is None:
        raise UsageError(f"row {number}: as_of is missing. Say as of when each lead is to be scored.")
    try:
        return to_us(as_of)
    except (UsageError, TypeError) as problem:
        raise UsageError(f"row {number}: as_of: {problem}") from None


def _record(row: dict[Any, Any], number: int) -> LeadRecord:
    given = {name: _plain(value) for name, value in row.items() if name != "as_of"}
    try:
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, LeadRecord)
    except msgspec.ValidationError as problem:
        raise UsageError(f"row {number}: {problem}") from None


def _plain(value: Any) -> Any:
    """Data frames hold arrays, numpy scalars and NaN where JSON has lists, numbers and null."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return None
    return value.to_pydatetime(warn=False) if isinstance(value, pd.Timestamp) else value


set_model(TouchstoneModel())
