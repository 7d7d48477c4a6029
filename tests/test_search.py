"""A search is judged where it has not looked, goes on where it stopped, and says so when it found nothing."""

import json
import re
from dataclasses import replace

import mlflow
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as with_
from small import PLENTY

from features import Dataset, TouchstoneError, UsageError
from models import ModelSettings, Team, candidates
from training import Backtest, Experiment, Search, search
from training.search import _of_list, _of_log
from training.simulate import simulate

# MLflow uses what SQLAlchemy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:sqlalchemy.exc.SADeprecationWarning")

POOR = ModelSettings(num_iterations=1, penalty=1e6)
"""A model that says the base rate and little else."""
SMALL = Experiment(horizon_days=30, origins=2, snapshot_every_days=30, bootstrap=50, model=POOR)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    simulate(2_000, 400, seed=3).write(folder)
    return Dataset.read(folder)


def runs():
    found = mlflow.MlflowClient().search_runs(["1"], order_by=["attributes.start_time"])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in found if "mlflow.parentRunId" in run.data.tags]


def test_a_search_from_poor_settings_finds_better_ones_and_goes_on(dataset, store):
    found = search(dataset, SMALL, trials=2)
    assert found.trials == 2 and found.default == POOR
    assert found.searched[1] <= found.searched[0]
    parents, below = runs()
    assert [run.info.run_name for run in below] == ["trial 0", "trial 1", "judged"]
    assert below[0].data.params["model.penalty"] == "1000000.0", "the default comes first"
    again = search(dataset, SMALL, trials=3)
    assert again.study == found.study and again.trials == 3
    assert again.searched[0] == found.searched[0] and again.searched[1] <= found.searched[1]
    parents, below = runs()
    assert len(parents) == 1 and {run.data.tags["mlflow.parentRunId"] for run in below} == {parents[0].info.run_id}
    trials = [run for run in below if run.info.run_name.startswith("trial")]
    assert len({run.data.params["model.penalty"] for run in trials}) == 3, "no trial is drawn twice"
    assert min(run.data.metrics["log_loss"] for run in trials) == again.searched[1]
    assert again.better and again.settings == again.found != POOR
    assert "3 trials found better than the default: on 1 later origins" in again.says
    assert (store / "optuna.db").exists()


def test_what_was_found_is_judged_on_later_origins_by_what_was_known_at_them(dataset):
    until = dataset.recorded_until
    early, late = _of_log(dataset, with_(SMALL, origins=5, origin_every_days=20), until)
    searched, judged = early.run({"one": POOR}), late.run({"default": POOR, "found": POOR})
    first = min(judged.origins)
    assert len(judged.origins) == 3 and len(searched.origins) == 5
    # No window that was searched reaches into one that is judged.
    assert max(searched.origins) + SMALL.horizon <= first == early.until
    assert early.dataset.history.known.max() < first and early.dataset.outcomes.known.max() < first
    assert (judged.probability["default"] == judged.probability["found"]).all()


def test_of_a_list_without_times_half_of_the_leads_is_held_out(dataset):
    early, late = _of_list(dataset, SMALL, dataset.recorded_until)
    assert not set(early.dataset.ids) & set(late.dataset.ids)
    assert sorted([*early.dataset.ids, *late.dataset.ids]) == sorted(dataset.ids)


def test_luck_is_not_called_better():
    rows = np.arange(400)
    even = {"default": np.full(400, 0.25), "found": np.where(rows % 8 == 0, 0.26, 0.25)}
    judged = Backtest(Experiment(), rows, 0 * rows, rows % 4 == 0, even, {0: (900, 40)})
    found = Search("a1", 9, (0.5, 0.4), ModelSettings(), ModelSettings(num_leaves=15), judged)
    assert found.gain.value > 0
    worse = replace(found, judged=replace(judged, probability={"default": even["found"], "found": even["default"]}))
    assert not worse.better and worse.settings == ModelSettings()
    assert "9 trials found nothing better than the default beyond the interval" in worse.says


def test_where_nothing_can_be_searched_the_error_stands_alone(dataset, store, caplog):
    """What was known at the held-out origin holds no purchase yet."""
    outcomes, until = dataset.outcomes, dataset.recorded_until
    rows = ~outcomes.won | (outcomes.at > until - SMALL.horizon)
    late = replace(dataset, outcomes=type(outcomes)(*(column[rows] for column in vars(outcomes).values())))
    optuna.logging.enable_propagation()
    try:
        with pytest.raises(TouchstoneError, match="no origin can be judged"):
            search(late, SMALL, trials=1)
    finally:
        optuna.logging.disable_propagation()
    assert not [record for record in caplog.records if record.name.startswith("optuna")]


def test_no_origin_and_no_trial_are_refused(dataset):
    with pytest.raises(UsageError, match="no origin is left to hold out"):
        search(dataset, with_(SMALL, horizon_days=3_000))
    with pytest.raises(UsageError, match="trials=0: a search takes at least one"):
        search(dataset, SMALL, trials=0)


# Settings.

SETTINGS = st.builds(
    ModelSettings,
    num_leaves=st.integers(2, 1_000),
    num_iterations=st.integers(1, 10_000),
    learning_rate=st.floats(1e-9, 1),
    min_data_in_leaf=st.integers(1, 10_000),
    lambda_l2=st.floats(0, 1e6),
    penalty=st.floats(1e-9, 1e6),
)


@given(
    settings=SETTINGS,
    name=st.text(st.characters(exclude_categories=["Cs"])),
    team=st.none() | st.builds(Team, reps=st.integers(1, 99), calls_a_week=st.floats(0.1, 1e5), quota=st.just(1e6)),
)
def test_an_experiment_is_read_as_it_was_written(settings, name, team, tmp_path_factory):
    experiment = Experiment(name=name, model=settings, team=team, first_origin="2026-01-01")
    path = tmp_path_factory.getbasetemp() / "experiment.toml"
    path.write_text(experiment.to_toml(), encoding="utf-8", newline="")
    assert Experiment.read(path) == experiment


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_leaves": 1}, "num_leaves=1: Expected `int` >= 2."),
        ({"penalty": 0.0}, "penalty=0.0: Expected `float` > 0.0."),
        ({"learning_rate": float("nan")}, "learning_rate=nan: Expected `float`"),
        ({"lambda_l2": "much"}, "lambda_l2='much': Expected `float`, got `str`."),
    ],
)
def test_settings_out_of_range_are_refused(given, says, tmp_path):
    with pytest.raises(UsageError) as refusal:
        ModelSettings(**given)
    assert says in str(refusal.value)


def test_a_file_names_the_setting_that_is_wrong(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text("[model]\nnum_leaves = 1\n")
    with pytest.raises(UsageError, match=r"Expected `int` >= 2 - at `\$\.model\.num_leaves`"):
        Experiment.read(path)
    path.write_text("[model]\nleaves = 9\n")
    with pytest.raises(UsageError, match="leaves"):
        Experiment.read(path)


def test_models_are_fitted_by_their_settings(dataset):
    settings = ModelSettings(num_leaves=3, num_iterations=5, learning_rate=0.2, penalty=1e6)
    rng = np.random.default_rng(0)
    for candidate in candidates(settings=settings):
        if candidate.name in ("logistic", "lightgbm", "blend"):
            recipe = candidate.prepare(dataset)
            matrix = rng.normal(size=(3_000, len(recipe.features.names))).astype(np.float32)
            files = recipe.fit(matrix, (matrix[:, 0] > 1).astype(np.float64), PLENTY).to_files()
            if "model.txt" in files:
                leaves = re.findall(r"^num_leaves=(\d+)$", files["model.txt"], re.MULTILINE)
                assert len(leaves) == 5 and max(leaves) == "3"
            if "model.json" in files:
                assert np.abs(json.loads(files["model.json"])["weight"]).max() < 0.05
