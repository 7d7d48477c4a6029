"""The MLflow model gives the probabilities of the bundle in it, whatever kind of data frame asks."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small
from trained import ROOT

from features import Cohort, UsageError
from features.records import dataset_of
from models import save_bundle
from training.tracking import _PYFUNC

# Importing MLflow's database store: its own mapping uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

KIND = "logistic"
COUNT = 40


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The model, logged to a store of its own and loaded from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        folder = tmp_path_factory.mktemp("mlflow")
        patch.chdir(folder)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        try:
            with mlflow.start_run():
                info = mlflow.pyfunc.log_model(
                    name="touchstone",
                    python_model=str(_PYFUNC),
                    artifacts={"bundle": str(save_bundle(small.scorer(KIND), folder / "bundle"))},
                    pip_requirements=["numpy"],
                )
            yield mlflow.pyfunc.load_model(info.model_uri)
        finally:
            mlflow.set_tracking_uri(before)


def records():
    return small.records()[:COUNT]


def expected():
    """The scores of the bundle itself."""
    dataset = dataset_of(records())
    return small.scorer(KIND).score(dataset, Cohort.at(np.arange(COUNT), small.AS_OF))


def rows():
    """The leads as Python values, all parts there."""
    return [
        {
            "lead_id": lead.lead_id,
            "as_of": small.AS_OF,
            "created_at": lead.created_at,
            "attributes": {name: lead.attributes.get(name) for name in ("industry", "employees")},
            "attribute_facts": [
                {"occurred_at": fact.occurred_at, "name": fact.name, "value": fact.value}
                for fact in lead.attribute_facts
            ],
            "touchpoints": [
                {"occurred_at": t.occurred_at, "channel": t.channel, "action": t.action, "value": t.value}
                for t in lead.touchpoints
            ],
        }
        for lead in records()
    ]


def as_text(value):
    """Instants as ISO 8601, as JSON has them."""
    if isinstance(value, list):
        return [as_text(entry) for entry in value]
    if isinstance(value, dict):
        return {key: as_text(entry) for key, entry in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else value


def as_numpy(value):
    """Lists as arrays of objects, numbers and instants as numpy and pandas have them, NaN for what is missing."""
    if isinstance(value, list):
        return np.array([as_numpy(entry) for entry in value] + [None], object)[:-1]
    if isinstance(value, dict):
        return {key: as_numpy(entry) for key, entry in value.items()}
    if isinstance(value, float):
        return np.float64(value)
    return pd.Timestamp(value) if hasattr(value, "isoformat") else np.nan if value is None else value


def through_parquet(path):
    pq.write_table(pa.Table.from_pylist(rows()), path)
    return pd.read_parquet(path)


@pytest.mark.parametrize("form", ["text", "python", "numpy", "parquet"])
def test_the_mlflow_model_gives_the_bits_of_the_bundle(logged, tmp_path, form):
    frame = {
        "text": lambda: pd.DataFrame([as_text(row) for row in rows()]),
        "python": lambda: pd.DataFrame(rows()),
        "numpy": lambda: pd.DataFrame([as_numpy(row) for row in rows()]),
        "parquet": lambda: through_parquet(tmp_path / "leads.parquet"),
    }[form]()
    if form in ("numpy", "parquet"):
        assert isinstance(frame["touchpoints"][0], np.ndarray) and isinstance(frame["as_of"][0], pd.Timestamp)
    scores, told = expected(), logged.predict(frame)
    assert len(set(scores.probability)) > 20
    assert told["probability"].to_numpy().tobytes() == scores.probability.tobytes()
    assert told["lead_id"].tolist() == [lead.lead_id for lead in records()]
    assert told["tier"].tolist() == scores.tiers and told["score"].tolist() == scores.score.tolist()
    assert set(told["as_of"]) == {pd.Timestamp("2026-03-01")} and set(told["horizon_days"]) == {90.0}


@pytest.mark.parametrize("missing", [None, np.nan, pd.NaT, pd.NA])
def test_what_is_missing_may_be_missing_in_any_way(logged, missing):
    whole = {"lead_id": "a", "as_of": "2026-03-01T00:00:00Z",
             "touchpoints": [{"occurred_at": "2026-02-01T00:00:00Z", "channel": "web"}]}  # fmt: skip
    spare = {
        **whole,
        "created_at": missing,
        "attributes": missing,
        "attribute_facts": missing,
        "touchpoints": [{**whole["touchpoints"][0], "action": missing, "value": missing, "message_id": missing}],
    }
    told = logged.predict(pd.DataFrame([spare]).astype({"created_at": object}))
    assert told["probability"].tolist() == logged.predict(pd.DataFrame([whole]))["probability"].tolist()


def test_each_row_has_its_own_as_of(logged):
    days = ["2026-02-01T00:00:00Z", "2026-03-01T01:00:00+01:00"]
    one = next(row for row in rows() if len(row["touchpoints"]) > 3 and str(row["created_at"]) < "2026-01")
    told = logged.predict(pd.DataFrame([{**one, "as_of": day} for day in days]))["probability"]
    alone = [logged.predict(pd.DataFrame([{**one, "as_of": day}]))["probability"][0] for day in days]
    assert told.tolist() == alone and told[0] != told[1]


def test_no_leads_give_an_empty_list(logged):
    assert len(logged.predict(pd.DataFrame({"lead_id": [], "as_of": []}))) == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (dict(as_of=None), "row 1: as_of is missing. Say as of when"),
        (dict(as_of=pd.NaT), "row 1: as_of is missing"),
        (dict(as_of="yesterday"), "row 1: as_of: 'yesterday' is not a time. Use ISO 8601"),
        (dict(as_of=pd.Timestamp("2026-01-01")), "row 1: as_of: the time 2026-01-01T00:00:00 carries no zone"),
        (dict(as_of=1.5), "row 1: as_of: "),
        (dict(lead_id=None), "row 1: Object missing required field `lead_id`"),
        (dict(lead_id=7), "row 1: Expected `str`, got `int` - at `$.lead_id`"),
        (dict(colour="red"), "row 1: Object contains unknown field `colour`"),
        (dict(touchpoints=[{"channel": "web"}]), "`occurred_at` - at `$.touchpoints[0]`"),
        (dict(created_at=pd.Timestamp("2026-01-01")), "timezone component - at `$.created_at`"),
    ],
)
def test_a_bad_row_is_named(logged, changed, says):
    frame = pd.DataFrame([rows()[0], {**rows()[0], **changed}], dtype=object)
    with pytest.raises(UsageError) as problem:
        logged.predict(frame)
    assert says in str(problem.value)


def test_as_of_must_be_a_column(logged):
    with pytest.raises(UsageError, match=r"row 0: as_of is missing"):
        logged.predict(pd.DataFrame({"lead_id": ["a"]}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The model as MLflow lays it down, for other processes."""
    import mlflow

    folder = tmp_path_factory.mktemp("saved")
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=str(_PYFUNC),
        artifacts={"bundle": str(save_bundle(small.scorer(KIND), folder / "bundle"))},
        pip_requirements=["numpy"],
    )
    return folder / "model"


@pytest.fixture
def elsewhere():
    """What other processes find in their environment."""

    def before(path, name):
        return os.pathsep.join([str(path), *filter(None, [os.environ.get(name)])])

    return os.environ | {
        "PYTHONPATH": before(ROOT, "PYTHONPATH"),
        # MLflow starts its server by the name of the program.
        "PATH": before(Path(sys.executable).parent, "PATH"),
        "PYSPARK_PYTHON": sys.executable,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def test_mlflow_models_serve_gives_the_bits_of_the_bundle(saved, elsewhere, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(saved), "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command, env=elsewhere, cwd=tmp_path, stdout=said, stderr=said, start_new_session=True
        )
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "said").read_text()
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200:
                    break
            time.sleep(0.1)
        asked = {"dataframe_records": as_text([row | {"as_of": small.AS_OF} for row in rows()])}
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", json=asked, timeout=300)
        assert answer.status_code == 200, answer.text
    finally:
        # The command starts servers of its own.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    scores, told = expected(), pd.DataFrame(answer.json()["predictions"])
    assert told["probability"].to_numpy().tobytes() == scores.probability.tobytes()
    assert told["lead_id"].tolist() == [lead.lead_id for lead in records()]
    assert told["tier"].tolist() == scores.tiers


SPARK = """
import json, sys, warnings
# PySpark warns of pandas 3, which MLflow and Touchstone do with.
warnings.simplefilter("ignore")
import mlflow
from pyspark.sql import SparkSession
from pyspark.sql.functions import struct

model, leads, output = sys.argv[1:]
own = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
spark = SparkSession.builder.master("local[2]").config(map=own).getOrCreate()
touch = "array<struct<occurred_at: string, channel: string, action: string, value: double>>"
fact = "array<struct<occurred_at: string, name: string, value: string>>"
frame = spark.read.schema(
    "lead_id string, as_of string, created_at string, attributes struct<industry: string, employees: double>, "
    f"attribute_facts {fact}, touchpoints {touch}"
).json(leads).repartition(3)
scored = mlflow.pyfunc.spark_udf(
    spark, model, result_type="lead_id string, probability double, tier string, score long", env_manager="local"
)
found = frame.select(scored(struct(*frame.columns)).alias("scored")).select("scored.*").collect()
with open(output, "w") as handle:
    json.dump([row.asDict() for row in found], handle)
spark.stop()
"""


@pytest.fixture
def java(missing):
    """Java 17 or newer, and PySpark."""
    if shutil.which("java") is None:
        missing("java", "java is not on the PATH")
    said = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    major = re.search(r'version "([0-9]+)', said)
    if major is None or int(major[1]) < 17:
        missing("java", f"java is older than 17: {said.splitlines()[0]}")
    if find_spec("pyspark") is None:
        missing("java", "PySpark is not installed: pip install 'touchstone[spark]'")


def test_spark_gives_the_bits_of_the_bundle(java, saved, elsewhere, tmp_path):
    asked = [as_text(row | {"as_of": small.AS_OF}) for row in rows()]
    (tmp_path / "leads.json").write_text("\n".join(map(json.dumps, asked)))
    done = subprocess.run(
        [sys.executable, "-c", SPARK, str(saved), str(tmp_path / "leads.json"), str(tmp_path / "scored.json")],
        env=elsewhere, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = pd.DataFrame(json.loads((tmp_path / "scored.json").read_text())).set_index("lead_id")
    told = told.loc[[lead.lead_id for lead in records()]]
    scores = expected()
    assert told["probability"].to_numpy().tobytes() == scores.probability.tobytes()
    assert told["tier"].tolist() == scores.tiers and told["score"].tolist() == scores.score.tolist()
