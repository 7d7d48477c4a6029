"""Promotion: a challenger has to be proved better, alias and bundle move together, and one command goes back."""

from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
from small import Bent

from features import Dataset, TouchstoneError
from features.times import US_PER_DAY, isoformat
from models import Card, candidates, load_bundle
from training import Experiment, backtest, tracking, train
from training.metrics import Estimate
from training.promote import Verdict, _decide, compare, judge, promote, rollback
from training.simulate import simulate
from training.train import fit

# MLflow uses what SQLAlchemy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:sqlalchemy.exc.SADeprecationWarning")

MONTH = Experiment(name="month", horizon_days=28, origins=4, origin_every_days=28, snapshot_every_days=28, bootstrap=40)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leads")
    simulate(3_000, 400, seed=5).write(folder, horizon_days=28)
    return Dataset.read(folder)


@pytest.fixture(scope="module")
def judged(dataset):
    """The backtest, a champion that learned before all of its origins, and a challenger that learned from all."""
    until = dataset.recorded_until
    logistic = [candidate for candidate in candidates() if candidate.name == "logistic"]
    result = backtest(dataset, MONTH, logistic, until=until)
    early = min(result.origins)
    champion = fit(dataset.known_at(early), logistic[0], MONTH, early, result)[0]("1")
    challenger = fit(dataset, logistic[0], MONTH, until, result)[0]("2")
    return champion, challenger, result, until


def verdict_on(judged, dataset, model=lambda model: model, **card):
    champion, challenger, result, until = judged
    other = replace(champion, model=model(champion.model), card=Card(**{**as_dict(champion.card), **card}))
    return compare(other, challenger, "logistic", result, dataset, until)


def as_dict(card):
    return {name: getattr(card, name) for name in card.__struct_fields__}


def test_a_champion_that_is_as_good_stays(judged, dataset):
    """At the instant it learned last, a challenger of the same recipe would have been the champion itself."""
    _, challenger, result, until = judged
    last = max(result.origins)
    logistic = next(candidate for candidate in candidates() if candidate.name == "logistic")
    champion = fit(dataset.known_at(last), logistic, MONTH, last, result)[0]("1")
    verdict = compare(champion, challenger, "logistic", result, dataset, until)
    mine = result.origin == last
    assert not verdict.promote
    assert verdict.gain == (0, 0, 0)
    assert verdict.says == (
        "not proved better: its log loss is 0.0000 lower [0.0000, 0.0000], an interval that contains 0"
    )
    assert (verdict.rows, verdict.purchases) == (mine.sum(), result.bought[mine].sum())


def test_a_champion_that_knows_nothing_goes(judged, dataset):
    verdict = verdict_on(judged, dataset, lambda model: Bent(model, scale=0.0, shift=-3.0))
    assert verdict.promote
    assert verdict.gain.low > 0
    assert (
        verdict.says
        == f"its log loss is {verdict.gain.value:.4f} lower [{verdict.gain.low:.4f}, {verdict.gain.high:.4f}]"
    )


def test_a_champion_that_predicts_three_times_too_much_goes(judged, dataset):
    assert verdict_on(judged, dataset, lambda model: Bent(model, shift=1.3)).promote


def test_the_champion_is_judged_where_it_has_not_learned(judged, dataset):
    _, _, result, _ = judged
    third = sorted(result.origins)[2]
    verdict = verdict_on(judged, dataset, known_until=isoformat(third))
    assert verdict.rows == (result.origin >= third).sum()
    nothing = verdict_on(judged, dataset, known_until=isoformat(max(result.origins) + 1))
    assert not nothing.promote and nothing.gain is None
    assert nothing.says.startswith(
        "no evidence yet: no purchase is known within 28 days after an origin that the champion"
    )


def test_another_question_cannot_be_compared(judged, dataset):
    verdict = verdict_on(judged, dataset, horizon_days=90)
    assert not verdict.promote
    assert verdict.says == "it answers another question, 28 days ahead instead of 90; nothing can be compared"


def test_it_says_whose_tier_changes(judged, dataset):
    champion, challenger, _, until = judged
    verdict = verdict_on(judged, dataset)
    asked = dataset.open_at(until)
    now, then = champion.score(dataset, asked).tiers, challenger.score(dataset, asked).tiers
    changed = [(str(i), a, b) for i, a, b in zip(dataset.ids[asked.lead], now, then, strict=True) if a != b]
    assert list(verdict.moves) == changed
    assert changed
    told = "\n".join(verdict.lines(shown=2))
    assert told.startswith(f"version 2 against the champion, version 1: {verdict.says}\n")
    for a, b in {(a, b) for _, a, b in changed}:
        ids = [i for i, *move in changed if move == [a, b]]
        more = f" and {len(ids) - 2} more" if len(ids) > 2 else ""
        assert f"  {a} -> {b}: {len(ids)} leads: {', '.join(ids[:2])}{more}" in told


@pytest.mark.parametrize(
    ("gain", "drift", "promoted"),
    [
        ((0.01, 0.001, 0.02), (1.0, 0.9, 1.1), True),
        ((0.01, -0.001, 0.02), (1.0, 0.9, 1.1), False),
        ((0.01, -0.001, 0.02), (1.3, 1.1, 1.5), False),
        ((0.01, -0.001, 0.02), (1.6, 1.3, 1.9), True),
        ((0.01, -0.001, 0.02), (0.6, 0.5, 0.75), True),
        ((-0.01, -0.02, 0.001), (0.6, 0.5, 0.75), False),
        ((-0.01, -0.02, -0.001), (0.7, 0.5, 0.9), False),
        ((-0.01, -0.02, -0.001), (1.0, 0.9, 1.1), False),
    ],
)
def test_a_gain_or_a_drift_decides(gain, drift, promoted):
    assert _decide(Estimate(*gain), Estimate(*drift))[0] is promoted


# In MLflow.


@pytest.fixture
def two(store, dataset):
    """A champion, and a challenger that learned a month later."""
    folder = store / "trained"
    quick = replace_origins(MONTH)
    last = dataset.recorded_until
    first = train(dataset, quick, until=last - 100 * US_PER_DAY, folder=folder)
    second = train(dataset, quick, until=last, folder=folder)
    return folder, first, second


def replace_origins(experiment):
    import msgspec

    return msgspec.structs.replace(experiment, origins=2, bootstrap=20)


def roles(folder):
    aliases = mlflow.MlflowClient().get_registered_model("touchstone").aliases
    link = (folder / "champion").resolve().name
    assert str(aliases["champion"]) == link == load_bundle(folder / "champion").card.version
    return link


def test_promoting_and_going_back(two, monkeypatch):
    folder, first, second = two
    assert first.verdict is None
    assert second.verdict is not None and second.verdict.rows > 0
    assert judge() == judge("2") == second.verdict
    assert roles(folder) == "1"
    with pytest.raises(TouchstoneError, match="no champion has been replaced"):
        rollback(folder=folder)
    if not second.verdict.promote:
        with pytest.raises(TouchstoneError, match="version 2 stays challenger: not proved better") as refused:
            promote(folder=folder)
        assert str(refused.value).endswith("Train again when more is known, or pass --force.")
        assert roles(folder) == "1"

    # Where the bundle cannot move, the alias does not either.
    link = tracking._link
    monkeypatch.setattr(tracking, "_link", lambda where, to: link(where, to) if to == "1" else fail())
    with pytest.raises(OSError, match="full"):
        promote(folder=folder, force=True)
    assert roles(folder) == "1"
    monkeypatch.undo()

    promote(folder=folder, force=True)
    assert roles(folder) == "2"
    with pytest.raises(TouchstoneError, match="version 2 is the champion already"):
        promote(folder=folder)
    assert judge("1").says == "it was compared with nothing, and the champion is version 2 now"
    assert rollback(folder=folder) == ("2", "1")
    assert roles(folder) == "1"
    with pytest.raises(TouchstoneError, match="no champion has been replaced"):
        rollback(folder=folder)
    promote("2", folder=folder, force=True)
    assert roles(folder) == "2"


def fail():
    raise OSError("the disk is full")


def test_without_a_model_there_is_nothing_to_promote(store):
    for command in (promote, rollback):
        with pytest.raises(TouchstoneError, match=r"no model has been trained here|no champion has been replaced"):
            command(folder=store / "trained")


def test_a_version_that_is_not_there(two):
    with pytest.raises(TouchstoneError, match="there is no version 7"):
        promote("7", folder=two[0])


def test_one_lead_is_singular():
    verdict = Verdict(
        champion="1", challenger="2", promote=True, says="it is better",
        moves=(("a", "cold", "warm"), ("b", "cold", "hot"), ("c", "cold", "hot")),
    )  # fmt: skip
    assert verdict.lines()[1:] == ["  cold -> hot: 2 leads: b, c", "  cold -> warm: 1 lead: a"]


def test_a_log_without_signal_is_called_so_and_not_promoted(store):
    """Outcomes dealt out by lot: no model knows more than the base rate, and nobody is to serve one that does not."""
    rng = np.random.default_rng(0)
    ids = [f"L-{k}" for k in range(600)]
    dataset = Dataset.from_frames(
        leads=pd.DataFrame({"lead_id": ids, "created_at": "2026-01-01", "size": rng.normal(size=600)}),
        outcomes=pd.DataFrame({
            "lead_id": ids, "occurred_at": "2026-01-02", "outcome": rng.choice(["won", "lost"], 600, p=[0.2, 0.8]),
        }),
    )  # fmt: skip
    trained = train(dataset, MONTH, folder=store / "models")
    assert not trained.champion and not (store / "models" / "champion").exists()
    assert any(note.startswith("no signal: ") for note in trained.notes), trained.notes
    with pytest.raises(TouchstoneError, match=r"no better than the base rate.*--force"):
        promote(folder=store / "models")
    assert promote(folder=store / "models", force=True).challenger == "1"
    assert load_bundle(store / "models" / "champion").card.version == "1"
    # Beside a champion it stays one too.
    again = train(dataset, MONTH, folder=store / "models")
    assert not again.verdict.promote and again.verdict.says.startswith("no signal: ")
