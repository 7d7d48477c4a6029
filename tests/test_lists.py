"""Lists without times: attributes alone, and how each lead ended."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from typer.testing import CliRunner

from features import Dataset, TouchstoneError
from models import candidates, load_bundle
from models.model import sigmoid
from training import Experiment, backtest, train

EXPERIMENT = Experiment(bootstrap=50)
# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:sqlalchemy.exc.SADeprecationWarning")


def tables(leads=1_500, seed=0, open_share=0.0):
    """A bare list whose leads buy the likelier the larger they are, in two trades of four; and their probabilities."""
    rng = np.random.default_rng(seed)
    size, trade = rng.normal(size=leads), rng.choice(["paper", "steel", "bread", "glass"], size=leads)
    truth = sigmoid(-1.5 + 1.2 * size + 1.0 * np.isin(trade, ["steel", "glass"]))
    ids = [f"L-{rng.integers(10**12):012}" for _ in range(leads)]
    listed = pd.DataFrame({"lead_id": ids, "created_at": "2026-01-01", "size": size, "trade": trade})
    ended = pd.DataFrame({
        "lead_id": ids, "occurred_at": "2026-01-02", "outcome": np.where(rng.random(leads) < truth, "won", "lost"),
    })  # fmt: skip
    return listed, ended[rng.random(leads) >= open_share], truth


@pytest.fixture(scope="module")
def listed():
    leads, outcomes, truth = tables()
    return Dataset.from_frames(leads=leads, outcomes=outcomes), truth


def test_a_list_without_times_is_cross_validated_by_lead(listed):
    dataset, truth = listed
    result = backtest(dataset, EXPERIMENT, candidates())
    assert result.folds == 5
    assert sorted(result.lead.tolist()) == list(range(len(dataset)))
    assert (result.bought == dataset.closed[1][result.lead]).all()
    found = result.evaluation
    assert found.difference("rules", "blend", "log_loss").low > 0
    assert 0.95 < found.estimate("blend", "auc").value / roc_auc_score(dataset.closed[1], truth) < 1.01
    ratio = found.estimate("blend", "ratio")
    assert ratio.low < 1 < ratio.high


def test_no_lead_teaches_what_is_said_of_itself():
    """Two leads of one part, of which one buys, trade fates: what is said of their part stays, to the bit.

    They stand one below the other, or the others would be parted anew.
    """
    leads, outcomes, _ = tables(leads=300)
    won = (outcomes.outcome == "won").to_numpy()
    (_, part), *_ = StratifiedKFold(5, shuffle=True, random_state=EXPERIMENT.seed).split(won, won)
    k = next(k for k in part[1:] if k + 1 in part and won[k] != won[k + 1])
    turned = outcomes.copy()
    turned.iloc[[k, k + 1], turned.columns.get_loc("outcome")] = outcomes.outcome.iloc[[k + 1, k]].to_numpy()
    before, after = (
        backtest(Dataset.from_frames(leads=leads, outcomes=ended), EXPERIMENT, candidates())
        for ended in (outcomes, turned)
    )
    mine = np.isin(before.lead, part)
    assert (after.lead == before.lead).all() and (after.bought != before.bought).sum() == 2
    for name, p in before.probability.items():
        np.testing.assert_array_equal(after.probability[name][mine], p[mine])
        # Points and recency are those of touches, and there are none.
        assert name in ("rules", "base_rate", "recency") or (after.probability[name][~mine] != p[~mine]).any()


def test_leads_that_did_not_end_are_no_rows_where_losses_are_told():
    leads, outcomes, _ = tables(open_share=0.2)
    result = backtest(Dataset.from_frames(leads=leads, outcomes=outcomes), EXPERIMENT, candidates()[:1])
    assert len(result.lead) == len(outcomes) < len(leads)


def test_where_only_purchases_are_told_all_others_did_not_buy():
    leads, outcomes, _ = tables()
    won = outcomes[outcomes.outcome == "won"]
    result = backtest(Dataset.from_frames(leads=leads, outcomes=won), EXPERIMENT, candidates()[:1])
    assert len(result.lead) == len(leads) and result.bought.sum() == len(won)


def test_a_list_of_one_fate_cannot_be_learned_from():
    leads, outcomes, _ = tables(leads=50)
    with pytest.raises(TouchstoneError, match="no origin can be judged"):
        backtest(Dataset.from_frames(leads=leads, outcomes=outcomes.assign(outcome="lost")), EXPERIMENT, candidates())


def test_a_model_of_a_list_scores_another_list(store, tmp_path, monkeypatch):
    """By the commands, as a person does; what is said of new leads comes true."""
    from touchstone import app

    monkeypatch.chdir(tmp_path)
    for name, seed, share in (("past", 0, 0.1), ("new", 1, 1.0)):
        leads, outcomes, truth = tables(seed=seed, open_share=share)
        folder = tmp_path / name
        folder.mkdir()
        leads.to_csv(folder / "leads.csv", index=False)
        if len(outcomes):
            outcomes.to_csv(folder / "outcomes.csv", index=False)
    run = CliRunner()
    trained = run.invoke(app, ["train", "past"])
    assert trained.exit_code == 0, trained.output
    assert "Cross-validation of a list without times in 5 parts" in trained.output
    scored = run.invoke(app, ["score", "new", "--output", "scored.csv"])
    assert scored.exit_code == 0, scored.output
    found = pd.read_csv("scored.csv").set_index("lead_id").loc[leads.lead_id]
    assert abs(found.probability.mean() / truth.mean() - 1) < 0.15
    assert np.corrcoef(found.probability, truth)[0, 1] > 0.9
    assert ((found.lower <= truth) & (truth <= found.upper)).mean() > 0.5
    assert 0.05 < (found.tier == "hot").mean() < 0.15
    assert load_bundle("models/trained/champion").card.model in ("blend", "logistic", "lightgbm")


def test_trained_on_a_list_the_model_says_what_it_said_out_of_its_parts(listed, store, tmp_path):
    dataset, _ = listed
    trained = train(dataset, EXPERIMENT, folder=tmp_path / "models")
    p = trained.backtest.probability[trained.scorer.card.model]
    assert trained.scorer.tiers.hot == pytest.approx(np.quantile(p, 0.9), abs=0.02)
    assert trained.scorer.card.spread
