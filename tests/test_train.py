"""From tables to a registered model: as good as the truth allows, honest where evidence is thin, kept in MLflow."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import mlflow
import msgspec
import numpy as np
import pandas as pd
import pytest
from oracle import DAY
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GroupKFold
from small import PLENTY
from worlds import table

from features import Cohort, Dataset, TouchstoneError, UsageError
from features.history import Attributes
from features.records import LeadRecord, Touchpoint, dataset_of
from features.times import NEVER, isoformat, to_us
from models import PointsTable, Team, candidates, load_bundle
from models.rules import Rules
from training import Backtest, Experiment, backtest, train
from training.beginning import rate_so_far, spread_of_rate
from training.labels import Listings, listings, snapshots
from training.metrics import MEASURES, information_captured
from training.plots import gains
from training.promote import rollback
from training.report import outlook_in_words, terminal_table, to_dict
from training.simulate import simulate
from training.train import _choose, _never_listed, _no_signal, _widened, fit

# MLflow uses what SQLAlchemy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:sqlalchemy.exc.SADeprecationWarning")

ROOT = Path(__file__).parents[1]
HORIZON = 90
EXPERIMENTS = sorted([*ROOT.glob("experiments/*.toml"), *ROOT.glob("examples/*/experiment.toml")])


# Twenty thousand leads whose true probability is known.

LARGE = Experiment(origins=1, snapshot_every_days=28, bootstrap=10)


@pytest.fixture(scope="module")
def run():
    return simulate(20_000, 540, seed=7)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    run.write(folder, horizon_days=HORIZON)
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return Dataset.read(folder)


@pytest.fixture(scope="module")
def served(dataset, run):
    """What `train` would register, without registering it."""
    known = dataset.known_at(run.end)
    competing = candidates()
    result = backtest(known, LARGE, competing, until=run.end)
    chosen, notes = _choose(result, competing)
    assert notes == []
    make, _ = fit(known, chosen, LARGE, run.end, result)
    return chosen, make("1")


def truth_of(folder, run, dataset):
    """The oracle's rows as of the end of the data: lead and true probability."""
    truth = pd.read_parquet(folder / "truth.parquet")
    truth = truth[truth["as_of"] == pd.Timestamp(run.end, unit="us", tz="UTC")]
    return dataset.find(truth["lead_id"]), truth["probability"].to_numpy()


def test_nine_in_ten_true_probabilities_lie_in_their_interval(served, folder, run, dataset):
    _, scorer = served
    lead, truth = truth_of(folder, run, dataset)
    scores = scorer.score(dataset, Cohort.at(lead, run.end))
    lower, upper = scores.interval
    assert (lower < scores.probability).all() and (scores.probability < upper).all()
    held = (lower <= truth) & (truth <= upper)
    assert 0.85 < held.mean() < 0.97
    best = np.argsort(-scores.probability)[: len(truth) // 10]
    assert 0.8 < held[best].mean() < 0.98


def test_the_served_model_knows_most_of_what_can_be_known(served, folder, run, dataset):
    chosen, scorer = served
    lead, truth = truth_of(folder, run, dataset)
    assert len(lead) > 5_000
    probability = scorer.predict(dataset, Cohort.at(lead, run.end))
    captured = information_captured(truth, probability)
    ratio = probability.mean() / truth.mean()
    assert captured >= 0.85, f"{chosen.name} captures {captured:.3f}"
    assert 0.95 <= ratio <= 1.05, f"{chosen.name} predicts {ratio:.3f} of what is true"


def test_the_rules_know_far_less(served, folder, run, dataset):
    """Else the figures above would say little of the model."""
    known = dataset.known_at(run.end)
    lead, truth = truth_of(folder, run, dataset)
    cohort, bought = snapshots(known, run.end, LARGE)
    recipe = candidates()[0].prepare(known)
    rules = recipe.fit(recipe.features.compute(known, cohort), bought, PLENTY)
    assert information_captured(truth, rules.predict(recipe.features.compute(dataset, Cohort.at(lead, run.end)))) < 0.6


def out_of_fold(candidate, known, cohort, bought):
    """Probabilities of rows whose lead the model has not seen."""
    recipe = candidate.prepare(known)
    matrix = recipe.features.compute(known, cohort)
    probability = np.empty(len(bought))
    for rest, fold in GroupKFold(5).split(matrix, groups=cohort.lead):
        probability[fold] = recipe.fit(matrix[rest], bought[rest], PLENTY).predict(matrix[fold])
    return probability


def oracle_of(run, dataset, cohort):
    """The true probability of each row, all of them as of midnights."""
    days = (cohort.as_of - run.start) // DAY
    assert (run.start + days * DAY == cohort.as_of).all()
    truth = run.truth(days, HORIZON)
    table = np.full((run.days + 1, len(run.created_at)), np.nan)
    table[truth.day, truth.lead] = truth.probability
    found = table[days, [int(lead.removeprefix("L-")) for lead in dataset.ids[cohort.lead]]]
    assert not np.isnan(found).any()
    return found


def test_no_model_ranks_leads_it_has_not_seen_better_than_the_oracle(served, run, dataset):
    """A cross-validated AUC above that of the truth itself can only be a leak."""
    known = dataset.known_at(run.end)
    cohort, bought = snapshots(known, run.end, LARGE)
    oracle = roc_auc_score(bought, oracle_of(run, known, cohort))
    auc = roc_auc_score(bought, out_of_fold(served[0], known, cohort, bought))
    assert oracle - 0.05 < auc <= oracle, f"{served[0].name} {auc:.4f}, oracle {oracle:.4f}"


def test_the_alarm_goes_off_at_a_leak(run, folder):
    """An invoice sent a month before a purchase is one: nothing that a lead does tells so much."""
    tables = {
        name: pd.read_csv(folder / f"{name}.csv", dtype="str", keep_default_na=False)
        for name in ("leads", "touchpoints", "outcomes")
    }
    won = tables["outcomes"][tables["outcomes"]["outcome"] == "won"]
    at = pd.to_datetime(won["occurred_at"]) - pd.Timedelta(days=30)
    invoices = pd.DataFrame({"lead_id": won["lead_id"], "occurred_at": at.map(pd.Timestamp.isoformat),
                             "channel": "invoice", "action": "viewed"})  # fmt: skip
    # Fewer leads will do: the leak shouts.
    few = {name: frame[frame["lead_id"].isin(tables["leads"]["lead_id"][::4])] for name, frame in tables.items()}
    few["touchpoints"] = pd.concat([few["touchpoints"], invoices[invoices["lead_id"].isin(few["leads"]["lead_id"])]])
    known = Dataset.from_frames(**{name: frame.fillna("") for name, frame in few.items()}).known_at(run.end)
    cohort, bought = snapshots(known, run.end, LARGE)
    oracle = roc_auc_score(bought, oracle_of(run, known, cohort))
    auc = roc_auc_score(bought, out_of_fold(candidates()[5], known, cohort, bought))
    assert auc > oracle + 0.02, f"{auc:.4f}, oracle {oracle:.4f}"


# A model in MLflow.

SMALL = Experiment(name="small", horizon_days=60, origins=2, origin_every_days=30, snapshot_every_days=30, bootstrap=20)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    simulate(3_000, 400, seed=3).write(folder, horizon_days=60)
    return Dataset.read(folder)


def test_a_run_holds_the_evidence_and_the_registry_the_model(store, small):
    told = []
    trained = train(small, SMALL, folder=store / "trained", progress=lambda what, share: told.append(what))
    client = mlflow.MlflowClient()
    until = isoformat(small.last_known + 1)

    # The run.
    (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert run.info.status == "FINISHED"
    digest = small.known_at(until).digest
    assert run.data.tags["dataset.digest"] == digest
    assert run.data.tags["features"] == trained.scorer.features.fingerprint
    assert run.inputs.dataset_inputs[0].dataset.digest == digest[:32]
    assert run.data.params == {
        **{name: str(value) for name, value in msgspec.structs.asdict(SMALL).items()},
        **{f"model.{name}": str(value) for name, value in msgspec.structs.asdict(SMALL.model).items()},
        "model": trained.scorer.card.model, "known_until": until,
    }  # fmt: skip
    for model in [candidate.name for candidate in candidates()]:
        for measure in MEASURES:
            estimate = trained.backtest.evaluation.estimate(model, measure.name)
            name = f"{model}.{measure.name}"
            assert [run.data.metrics[name + end] for end in ("", ".low", ".high")] == list(estimate)
    pictures = {f"{name}.png" for name in ("gains", "lift", "calibration", "by_origin")}
    assert (trained.contributed is None) == (trained.scorer.card.model == "rules")
    if trained.contributed is not None:
        pictures.add("contributions.png")
        assert 0 < len(trained.contributed.values) <= 2_000
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {*pictures, "backtest.json", "backtest.md", "features.json"} <= artifacts
    shown = trained._repr_html_()
    assert f"is version 1 (champion) in {store}" in shown and "against the rules" in shown
    fetched = Path(client.download_artifacts(run.info.run_id, "backtest.json"))
    assert json.loads(fetched.read_text())["rows"] == len(trained.backtest.lead)
    assert "| rules |" in Path(client.download_artifacts(run.info.run_id, "backtest.md")).read_text()
    assert told[-1] == "registering"
    outlook = json.loads(Path(client.download_artifacts(run.info.run_id, "outlook.json")).read_text())
    assert outlook == json.loads(msgspec.json.encode(trained.outlook))
    assert outlook["hot"] > 0 and outlook["past"]["purchases"] == trained.backtest.bought.sum()
    page = Path(client.download_artifacts(run.info.run_id, "backtest.md")).read_text()
    assert all(line in page for line in outlook_in_words(trained.outlook))
    assert 0 < trained.scorer.card.shift < 1
    cohort, bought = snapshots(small, to_us(until), SMALL)
    assert trained.learned_from == (len(bought), len(set(cohort.lead[bought].tolist())))

    # The registry, the export, and that they are the same model.
    assert aliases() == {"champion": "1", "challenger": "1"}
    assert trained.champion
    assert trained.folder == store / "trained" / "1"
    assert [(store / "trained" / link).resolve() for link in ("champion", "challenger")] == [trained.folder] * 2
    exported = load_bundle(store / "trained" / "champion")
    assert exported.card.version == trained.scorer.card.version == "1"
    assert exported.card.dataset == digest
    assert exported.card.backtest["log_loss"] == list(
        trained.backtest.evaluation.estimate(exported.card.model, "log_loss")
    )
    cohort = small.open_at(until)
    assert (exported.predict(small, cohort) == trained.scorer.predict(small, cohort)).all()
    registered = mlflow.pyfunc.load_model("models:/touchstone@champion")
    listed = registered.predict(frame_of(small, cohort[:40], until))
    assert listed["probability"].tolist() == exported.predict(small, cohort[:40]).tolist()
    assert set(listed["model_version"]) == {"1"}

    # A second model challenges the first.
    again = train(small, SMALL, folder=store / "trained")
    assert not again.champion
    assert again.scorer.card.version == load_bundle(store / "trained" / "challenger").card.version == "2"
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert (store / "trained" / "champion").resolve().name == "1"
    assert (store / "trained" / "challenger").resolve().name == "2"
    assert (load_bundle(again.folder).predict(small, cohort) == exported.predict(small, cohort)).all()

    # The newest version is deleted. MLflow does not give its number again.
    client.delete_registered_model_alias("touchstone", "challenger")
    client.delete_model_version("touchstone", "2")
    third = train(small, SMALL, folder=store / "trained")
    assert third.scorer.card.version == load_bundle(third.folder).card.version
    assert aliases() == {"champion": "1", "challenger": third.scorer.card.version}
    versions = {str(version.version) for version in client.search_model_versions("name='touchstone'")}
    assert versions == {"1", third.scorer.card.version}


def aliases():
    return {alias: str(v) for alias, v in mlflow.MlflowClient().get_registered_model("touchstone").aliases.items()}


def frame_of(dataset, cohort, until):
    """Leads as a data frame of dicts, as the registered model takes them."""
    history, attributes = dataset.history, dataset.attributes
    rows = []
    for lead in cohort.lead:
        touches = [
            {
                "occurred_at": isoformat(history.at[i]), "recorded_at": isoformat(history.known[i]),
                "channel": history.kinds[history.kind[i]].channel, "action": history.kinds[history.kind[i]].action,
                "value": None if math.isnan(history.value[i]) else float(history.value[i]),
            }
            for i in range(history.offsets[lead], history.offsets[lead + 1])
        ]  # fmt: skip

        def plain(column, value):
            words = attributes.words[column]
            return None if math.isnan(value) else float(value) if words is None else words[int(value)]

        facts = [
            {
                "occurred_at": isoformat(attributes.at[i]), "name": attributes.names[attributes.column[i]],
                "value": plain(attributes.column[i], attributes.value[i]),
            }
            for i in range(attributes.offsets[lead], attributes.offsets[lead + 1])
        ]  # fmt: skip
        rows.append({
            "lead_id": dataset.ids[lead], "as_of": until, "created_at": isoformat(dataset.created_at[lead]),
            "attributes": {
                name: plain(column, attributes.cells[lead, column]) for column, name in enumerate(attributes.names)
            },
            "attribute_facts": facts, "touchpoints": touches,
        })  # fmt: skip
    return pd.DataFrame(rows)


QUICK = msgspec.structs.replace(SMALL, origins=1, snapshot_every_days=60, bootstrap=10)


def test_exports_of_a_store_that_is_gone_make_room(store, small):
    """The numbers begin anew, and so do the champion's."""
    for version in ("1", "2"):
        (store / "trained" / version).mkdir(parents=True)
        (store / "trained" / version / "card.json").write_text("{}")
    (store / "trained" / "champion").symlink_to("2")
    trained = train(small, QUICK, folder=store / "trained")
    assert trained.champion
    assert (store / "trained" / "champion").resolve() == trained.folder.resolve()
    assert load_bundle(store / "trained" / "champion").card.version == "1"


def test_a_champion_that_was_registered_elsewhere_stays_champion(store, small):
    first = train(small, QUICK, folder=store / "trained")
    second = train(small, QUICK, folder=store / "other machine")
    assert not second.champion
    assert aliases() == {"champion": "1", "challenger": "2"}
    fetched = load_bundle(store / "other machine" / "champion")
    assert fetched.card == first.scorer.card
    cohort = small.open_at(small.recorded_until)
    assert (fetched.predict(small, cohort) == first.scorer.predict(small, cohort)).all()


def test_kinds_that_the_rules_name_and_nobody_knows_are_told(store, small):
    rules = PointsTable(points={"email_click": 5.0, "emial_open": 3.0})
    told = train(small, QUICK, rules=rules, folder=store / "trained").notes
    assert any("emial_open" in note and "email_click" not in note for note in told)


def test_a_certain_leak_is_refused_unless_it_is_allowed_and_told(store, small):
    state = np.where(small.closed[1], "won", "open").tolist()
    leaky = replace(small, attributes=Attributes.build(
        len(small), {"state": state}, *(np.empty(0, np.int64) for _ in range(3)), [], []
    ))  # fmt: skip
    with pytest.raises(TouchstoneError, match=r"'state' says won of .*exclude = \[\"state\"\].*\n.*allow_leaks=True"):
        train(leaky, QUICK, folder=store / "trained")
    assert not (store / "trained").exists()
    trained = train(leaky, QUICK, allow_leaks=True, folder=store / "trained")
    assert [(finding.severity, finding.name) for finding in trained.findings] == [("certain", "state")]
    (run,) = mlflow.search_runs(experiment_names=["small"], output_format="list")
    told = json.loads(Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, "audit.json")).read_text())
    assert [finding["name"] for finding in told["findings"]] == ["state"]


def with_purchases(dataset, count):
    """Keeps some purchases of a dataset, spread over time, and all that was lost."""
    outcomes = dataset.outcomes
    won = np.flatnonzero(outcomes.won)
    won = won[np.argsort(outcomes.at[won], kind="stable")]
    kept = np.setdiff1d(won, won[np.linspace(0, len(won) - 1, count).astype(int)] if count else [])
    rows = np.setdiff1d(np.arange(len(outcomes.lead)), kept)
    columns = {name: getattr(outcomes, name)[rows] for name in ("lead", "at", "known", "won", "amount")}
    return Dataset(
        dataset.ids, dataset.created_at, dataset.merged_at, dataset.history, dataset.attributes,
        type(outcomes)(**columns),
    )  # fmt: skip


def test_few_purchases_leave_the_rules_in_charge(store, small):
    """Twenty-eight leads bought, fewer than twenty of them soon enough to learn from at the origin: leads, not rows."""
    experiment = msgspec.structs.replace(QUICK, snapshot_every_days=15)
    few = with_purchases(small, 28)
    trained = train(few, experiment, folder=store / "trained")
    ((origin, (rows, buyers)),) = trained.backtest.learned_from.items()
    _, bought = snapshots(few.known_at(origin), origin, experiment)
    assert 0 < buyers < 20 < bought.sum() < rows == len(bought)
    assert trained.scorer.card.model == "rules"
    (note,) = trained.notes
    assert note.startswith(f"too little evidence: {buyers} purchases to learn from (under 20). The rules are kept")
    assert 0 < load_bundle(trained.folder).predict(few, few.open_at(few.last_known)).mean() < 0.05


def test_rules_that_know_more_than_the_base_rate_are_not_called_no_signal():
    """The blend is as good as they are within chance, and alone does not prove that there is a signal."""
    rng, rows = np.random.default_rng(7), np.arange(3_000)
    truth = np.where(rows % 2, 0.06, 0.10)
    bought = rng.random(3_000) < truth
    noisy = truth * np.exp(0.3 * rng.standard_normal(3_000))
    said = {"rules": truth, "base_rate": np.full(3_000, bought.mean())}
    competing = candidates()
    result = Backtest(
        Experiment(), rows, 0 * rows, bought, {c.name: said.get(c.name, noisy) for c in competing}, {0: (5_000, 400)}
    )
    assert result.evaluation.difference("rules", "blend", "log_loss").high > 0
    assert _no_signal(result, next(c for c in competing if c.name == "blend"))
    chosen, notes = _choose(result, competing)
    assert (chosen.name, _no_signal(result, chosen)) == ("rules", "")
    assert notes == ["blend is not proved better than the base rate, and the rules are: they are kept."]


def test_it_is_said_why_the_blend_is_taken_where_the_rules_did_better():
    rng, rows = np.random.default_rng(3), np.arange(20_000)
    truth = np.where(rows % 2, 0.02, 0.20)
    bought = rng.random(20_000) < truth
    noisy = sorted(
        (truth * np.exp(0.1 * rng.standard_normal(20_000)) for _ in range(2)), key=lambda p: log_loss(bought, p)
    )
    competing = candidates()

    def told(**said):
        said |= {"base_rate": np.full(20_000, bought.mean())}
        probability = {c.name: said.get(c.name, noisy[1]) for c in competing}
        result = Backtest(Experiment(), rows, 0 * rows, bought, probability, {0: (5_000, 400)})
        return _choose(result, competing)

    chosen, notes = told(rules=noisy[0])
    assert chosen.name == "blend"
    assert notes == [
        "blend is taken all the same: it is not proved worse than the rules, and learns more as buyers come."
    ]
    assert told(rules=np.full(20_000, 0.11))[1] == []
    assert told(rules=truth, blend=truth[::-1])[0].name == "rules"


def test_without_purchases_the_rules_serve_and_nothing_is_said_to_be_proved(store, small):
    none = with_purchases(small, 0)
    trained = train(none, QUICK, folder=store / "trained")
    rows = listings(none, none.recorded_until, QUICK)
    (note,) = trained.notes
    assert note.startswith(
        f"too little evidence: 0 leads bought in the {rows.finished:,} windows that are over, and no origin can be "
        "judged. The rules are kept, unproved; every lead is given the rate"
    )
    assert not trained.backtest.judged and trained.calibration is trained.verdict is None
    assert trained.learned_from == (rows.finished, 0)
    assert aliases() == {"champion": "1", "challenger": "1"} and trained.champion

    # The order is that of the points, to the last lead, and all probabilities are that of half a purchase.
    served, cohort = load_bundle(store / "trained" / "champion"), none.open_at(none.recorded_until)
    assert served.card.model == "rules" and served.card.backtest == {}
    scores = served.score(none, cohort, reasons=1)
    assert isinstance(served.model, Rules)
    points = served.model.points(served.features.compute(none, cohort))
    assert len(set(points.tolist())) > 20
    assert (np.argsort(scores.probability, kind="stable") == np.argsort(points, kind="stable")).all()
    seen = len(set(rows.cohort.lead.tolist()))
    assert 0.5 / (seen + 25) < 1.001 * scores.probability.min() < 0.5 / (0.5 * seen + 25)
    assert np.ptp(scores.probability) < 1e-3 * scores.probability.mean()
    lower, upper = scores.interval
    assert (lower < scores.probability / 20).all() and (upper > 20 * scores.probability).all()
    assert 0.05 < (scores.tier == 2).mean() < 0.15
    assert set(served.tiers.of(scores.probability, previous=np.full(len(scores), 2))) == {0, 1, 2}

    # What is kept and shown of it says the same.
    (run,) = mlflow.search_runs(experiment_names=["small"], output_format="list")
    assert run.data.tags["judged"] == "False" and run.data.metrics == {}
    page = Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, "backtest.md")).read_text()
    assert page.startswith("No origin can be judged yet, so nothing is proved.") and "Hot now: " in page
    told = json.loads(Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, "backtest.json")).read_text())
    assert told == to_dict(trained.backtest) and (told["rows"], told["models"]) == (0, {})
    assert note.split(",")[0] in trained._repr_html_() and "No origin can be judged yet" in trained._repr_html_()
    assert trained.outlook.past is None and len(outlook_in_words(trained.outlook)) == 2
    assert 0 < 20 * trained.outlook.buyers < trained.outlook.buyers_interval[1]
    said = r"no origin could be judged, so .* yet\. Train again with more data\."
    for shows in (lambda: trained.backtest.table(), lambda: gains(trained.backtest)):
        with pytest.raises(TouchstoneError, match=said):
            shows()


def test_rules_that_nothing_proves_give_way_to_the_next_model(store, small):
    """At once, for no evidence is lost with them; and one command goes back."""
    first = train(with_purchases(small, 0), QUICK, folder=store / "trained")
    second = train(small, QUICK, folder=store / "trained")
    assert (first.champion, second.champion) == (True, True)
    assert second.backtest.judged and second.verdict.promote
    assert second.verdict.says == "nothing proves version 1; it gives way"
    assert second.verdict.moves
    assert aliases() == {"champion": "2", "challenger": "2"}
    assert (store / "trained" / "champion").resolve().name == "2"
    # What has been proved does not give way to what is not.
    third = train(with_purchases(small, 0), QUICK, folder=store / "trained")
    assert not third.champion and not third.verdict.promote
    assert third.verdict.says.startswith("no evidence yet: no purchase is known")
    assert rollback(folder=store / "trained") == ("2", "1")


def test_buyers_that_no_listing_saw_are_said(small):
    """All bought within a day of their creation: instants a week apart see few of them, and none of most."""
    outcomes, until = small.outcomes, small.recorded_until
    at = np.where(outcomes.won, small.created_at[outcomes.lead] + DAY, outcomes.at)
    hasty = replace(small, outcomes=replace(outcomes, at=at, known=at))
    experiment = msgspec.structs.replace(QUICK, snapshot_every_days=7)
    rows = listings(hasty, until, experiment)
    (note,) = _never_listed(hasty, rows, experiment, until)
    bought = int(hasty.closed[1].sum())
    assert re.match(rf"[\d,]+ of {bought:,} purchases are not learned from: .* instants, 7 days apart", note), note
    assert _never_listed(small, listings(small, until, experiment), experiment, until) == []


def test_it_is_said_where_leads_become_rows_at_fewer_instants(small):
    until = small.recorded_until
    assert _widened(small, Experiment(horizon_days=4), until) == []
    (note,) = _widened(small, Experiment(horizon_days=1), until)
    assert re.match(r"open leads become rows every [\d.]+ days: every 0.25, a quarter of the horizon, would make", note)
    assert _widened(small, Experiment(horizon_days=1, snapshot_every_days=0.25), until) == []
    assert _widened(small, Experiment(horizon_days=60), until) == []


def test_a_horizon_longer_than_the_data_is_said(store, small):
    trained = train(small, msgspec.structs.replace(QUICK, horizon_days=800), folder=store / "trained")
    (note,) = trained.notes
    assert note.startswith("too little evidence: no window of 800 days is over yet, and no origin can be judged.")
    assert "or with a shorter --horizon" in note
    assert trained.scorer.card.model == "rules" and trained.learned_from == (0, 0)


def test_a_company_that_begins_has_its_points_table_served(store):
    """Its own rules, two leads of yesterday and one team: some are hot, though a call may not pay at 2 %."""
    young = Dataset.from_frames(
        leads=table("""
            lead_id  created_at
            a        2026-02-27T00:00:00Z
            b        2026-02-27T00:00:00Z
        """),
        touchpoints=table("""
            lead_id  occurred_at           channel  action
            a        2026-02-27T10:00:00Z  email    click
            b        2026-02-27T11:00:00Z  demo     -
        """),
    )
    team = Team(reps=1, calls_a_week=0.1, call_cost=100, average_deal=1_000)
    rules = PointsTable(points={"demo": 30.0, "email_click": 5.0, "call": 50.0})
    asked = msgspec.structs.replace(QUICK, team=team)
    trained = train(young, asked, rules=rules, until=to_us("2026-02-28"), folder=store / "trained")
    scores = trained.scorer.score(young, Cohort.at([0, 1], "2026-02-28"))
    assert scores.tiers == ["warm", "hot"]
    assert scores.probability == pytest.approx([0.02, 0.02], rel=1e-4)
    assert "every lead is given the rate of what is known so far and half a purchase in 25 leads, 2.00%" in "".join(
        trained.notes
    )
    # A call counts as soon as one comes.
    later = dataset_of([LeadRecord(
        lead_id="c", created_at=datetime(2026, 2, 28, tzinfo=UTC),
        touchpoints=(Touchpoint(occurred_at=datetime(2026, 2, 28, 1, tzinfo=UTC), channel="call"),),
    )])  # fmt: skip
    assert load_bundle(trained.folder).predict(later, Cohort.at([0], "2026-03-01"))[0] > scores.probability.max()


def test_without_any_lead_the_rules_serve_those_to_come(store):
    empty = Dataset.from_frames(leads=table("lead_id created_at\na 2026-02-27T00:00:00Z")).known_at(0)
    trained = train(empty, QUICK, rules=PointsTable(points={"demo": 30.0}), until=DAY, folder=store / "trained")
    assert load_bundle(trained.folder).tiers.hot == 1.0


def followed(bought, share):
    """Windows of one lead each, followed for a share of the horizon, some with a purchase at the half of that."""
    count, horizon = len(bought), 84 * DAY
    ended = np.where(bought, round(share * horizon) // 2, NEVER)
    cohort = Cohort.at(np.arange(count), 0)
    return Listings(cohort, horizon, np.full(count, round(share * horizon)), ended, np.array(bought), cohort[:0])


def test_the_rate_so_far_counts_what_is_known():
    nobody = np.zeros(40, np.bool_)
    four = np.arange(40) < 4
    assert rate_so_far(followed(nobody[:0], 1)) == 0.5 / 25 == 0.02
    assert rate_so_far(followed(nobody, 1)) == 0.5 / 65
    assert rate_so_far(followed(nobody, 0.25)) == 0.5 / 35
    assert rate_so_far(followed(four, 1)) == 4.5 / 65
    # Of windows that are not over what came of the buyers is known, and of the others as much as was followed.
    assert rate_so_far(followed(four, 0.5)) == 4.5 / (4 + 36 / 2 + 25)
    whole = followed(four, 1)
    lead = np.repeat(np.arange(40), 3)
    thrice = replace(
        whole, cohort=Cohort.at(lead, 0), **{name: getattr(whole, name)[lead] for name in ("followed", "ended", "won")}
    )
    assert rate_so_far(thrice) == rate_so_far(whole)


@pytest.mark.parametrize("buyers", [0, 3, 30])
def test_the_rate_of_few_buyers_lies_in_its_interval(buyers):
    """Draws of the gamma distribution that Jeffreys' prior makes of so many buyers."""
    ((middle, deviation),), shift = spread_of_rate(0.01, buyers)
    assert middle == pytest.approx(math.log(0.01 / 0.99)) and shift == deviation
    drawn = np.log(np.random.default_rng(0).gamma(buyers + 0.5, size=200_000))
    assert deviation == pytest.approx(drawn.std(), rel=0.01)


# Real journeys.


@pytest.mark.parametrize("name", ["ds365", "bpi2012"])
def test_on_real_journeys_the_trees_beat_rules_and_naive_bayes(name, shared_data, monkeypatch):
    """All origins of the example: with fewer, the purchases of ds365 do not suffice to tell."""
    monkeypatch.setenv("TOUCHSTONE_SHARED_DATA", str(shared_data))
    dataset = Dataset.read(ROOT / "examples" / name / "dataset.toml")
    experiment = Experiment.read(ROOT / "examples" / name / "experiment.toml")
    # Half as many instants to learn from say nearly as much in half the time.
    experiment = msgspec.structs.replace(experiment, snapshot_every_days=experiment.horizon_days / 2)
    competing = [candidate for candidate in candidates() if candidate.name != "logistic"]
    result = backtest(dataset, experiment, competing)
    assert len(result.origins) == experiment.origins
    for peer in ("rules", "naive_bayes"):
        loss = result.evaluation.difference("lightgbm", peer, "log_loss")
        caught = result.evaluation.difference("lightgbm", peer, "caught")
        assert loss.high < 0, f"against {peer}: log loss {loss}"
        assert caught.low > 0, f"against {peer}: caught {caught}"


# Experiments.


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_experiment_in_the_repository_reads(path):
    assert len(EXPERIMENTS) >= 3
    assert Experiment.read(path).horizon > 0


def test_steps_follow_from_the_horizon_unless_they_are_given():
    assert (Experiment(horizon_days=60).origin_days, Experiment(horizon_days=60).snapshot_days) == (20, 15)
    given = Experiment(horizon_days=60, origin_every_days=7, snapshot_every_days=3)
    assert (given.origin_days, given.snapshot_days, given.horizon) == (7, 3, 60 * DAY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("horizon = 90", "unknown field `horizon`"),
        ('horizon_days = "90"', "`$.horizon_days`"),
        ("horizon_days = -1", "`$.horizon_days`"),
        ("horizon_days = nan", "`$.horizon_days`"),
        ("origins = 2.5", "`$.origins`"),
        ("capacity = 1.0", "`$.capacity`"),
        ("bootstrap = 0", "`$.bootstrap`"),
        ("reporting_delay_days = -1", "`$.reporting_delay_days`"),
        ("seed = -1", "`$.seed`"),
        ('first_origin = "14/06/2022"', "first_origin: '14/06/2022' is not a time"),
        ("first_origin = 2022-06-14", "`$.first_origin`"),
        ("origins = ", "Invalid value"),
    ],
)
def test_what_is_wrong_with_an_experiment_is_named(text, said, tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        Experiment.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_an_experiment_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.toml: not an experiment: .*No such file"):
        Experiment.read(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_is_whole_on_a_terminal_of_any_width(small, width):
    result = backtest(small, QUICK, candidates())
    console = Console(width=width, file=StringIO(), markup=False)
    console.print(terminal_table(result, width))
    shown = console.file.getvalue()
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    for name in result.probability:
        caught = result.evaluation.estimate(name, "caught")
        assert f"{caught.value:.1%}" in shown
        assert f"{caught.low:.1%}-{caught.high:.1%}" in shown
    assert ("PR-AUC" in shown) == (width >= 100)
