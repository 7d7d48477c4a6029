"""What a model predicted against what came, and the leads of now against those of training."""

import re
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from small import PLENTY, Bent
from worlds import table

from features import Age, Cohort, Dataset, FeatureSet, TouchstoneError, UsageError
from features.times import US_PER_DAY, isoformat, to_us
from models import Card, Scorer, Tiers, candidates
from models.scorer import percentiles
from training import Experiment, drift, monitor, report
from training.labels import bought_within, snapshots, still_open
from training.metrics import bought_rate, calibration_slope
from training.simulate import DAY, World, simulate

MONTH = Experiment(horizon_days=28, bootstrap=40)


def learn(dataset, until, name="logistic", experiment=MONTH):
    """A scorer fitted on all that is known until then."""
    known = dataset.known_at(until)
    recipe = next(one for one in candidates() if one.name == name).prepare(known)
    cohort, bought = snapshots(known, until, experiment)
    model = recipe.fit(recipe.features.compute(known, cohort), bought.astype(np.float64), PLENTY)
    p = model.predict(recipe.features.compute(known, known.open_at(until)))
    card = Card(
        version="1", model=name, horizon_days=experiment.horizon_days, features=recipe.features.fingerprint,
        known_until=isoformat(until), dataset=known.digest, percentiles=percentiles(p),
    )  # fmt: skip
    return Scorer(recipe.features, model, card, Tiers.for_shares(p, version="1"))


def simulated(folder, leads, days, seed, change=None, **options):
    run = simulate(leads, days, seed, **options)
    (run if change is None else change(run)).write(folder, horizon_days=28)
    return Dataset.read(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("leads"), 4_000, 500, 5)


@pytest.fixture(scope="module")
def scorer(dataset):
    return learn(dataset, to_us("2025-10-01"))


# What matured.

FEW = Dataset.from_frames(
    leads=table("""
        lead_id  created_at
        old      2026-01-01T00:00:00Z
        gone     2026-01-02T00:00:00Z
        slow     2026-01-20T00:00:00Z
        new      2026-02-05T12:00:00Z
        late     2026-02-20T00:00:00Z
    """),
    outcomes=table("""
        lead_id  occurred_at           outcome  recorded_at
        gone     2026-02-03T00:00:00Z  lost     2026-02-03T00:00:00Z
        slow     2026-02-07T00:00:00Z  won      2026-02-09T00:00:00Z
        old      2026-02-26T00:00:00Z  won      2026-02-26T00:00:00Z
    """),
)


@dataclass(frozen=True)
class ByAge:
    """.5 less a hundredth for each day of age."""

    def predict(self, matrix):
        return 0.5 - matrix[:, 0].astype(np.float64) / 100


def by_age(known_until="2026-02-01", horizon_days=14):
    features = FeatureSet.fit((Age(),), FEW)
    card = Card(
        version="1", model="rules", horizon_days=horizon_days, features=features.fingerprint,
        known_until=isoformat(to_us(known_until)), dataset="", percentiles=(0.5,) * 100,
    )  # fmt: skip
    return Scorer(features, ByAge(), card, Tiers(version="1", warm=0.2, hot=0.4))


def test_predictions_count_from_training_on_once_their_horizon_and_the_reporting_are_over():
    """By hand: the delay is two days, so of the weekly instants those of 1, 8 February have matured by 26 February."""
    matured = monitor(by_age(), FEW, MONTH, until=to_us("2026-02-26T00:00:01Z")).matured
    assert (matured.first[:10], matured.last[:10], matured.instants) == ("2026-02-01", "2026-02-08", 2)
    # On the 1st old, gone and slow; on the 8th old and new, for slow had bought, though nobody knew.
    assert (matured.all.rows, matured.purchases, matured.buyers) == (5, 1, 1)
    ages = [31, 30, 12, 38, 2.5]
    assert matured.all.predicted == pytest.approx(np.mean([0.5 - age / 100 for age in ages]))
    assert matured.all.came.value == 0.2
    assert {name: rate.rows for name, rate in matured.tiers.items()} == {"hot": 1, "warm": 2, "cold": 2}
    assert list(matured.tiers) == ["hot", "warm", "cold"]
    assert (matured.tiers["warm"].came.value, matured.tiers["cold"].came.value) == (0.5, 0)


def test_only_instants_after_training_are_evidence_however_far_back_is_asked_for():
    until = to_us("2026-02-26T00:00:01Z")
    asked = monitor(by_age(), FEW, MONTH, until=until, since=to_us("2026-01-01"))
    assert asked.matured == monitor(by_age(), FEW, MONTH, until=until).matured
    assert any("before 2026-02-01 are no evidence" in note for note in asked.notes)
    last = monitor(by_age(), FEW, MONTH, until=until, weeks=1).matured
    assert (last.first, last.instants) == ("2026-02-08T00:00:00Z", 1)
    assert monitor(by_age(), FEW, MONTH, until=until, since=to_us("2026-02-08")).matured == last


def test_what_has_not_matured_says_from_when_on_it_has():
    found = monitor(by_age(), FEW, MONTH, until=to_us("2026-02-16T23:00:00Z"))
    assert found.matured is None and found.holds is None
    assert found.says == "nothing has matured yet: from 2026-02-17 on"
    assert monitor(by_age(), FEW, MONTH, until=to_us("2026-02-17")).matured.instants == 1


def test_an_instant_before_training_is_refused_and_data_that_end_before_it_have_not_matured():
    with pytest.raises(UsageError, match=r"on 2026-01-15 there was no such model: .* until 2026-02-01\. Give a later"):
        monitor(by_age(), FEW, until=to_us("2026-01-15"))
    found = monitor(by_age("2026-06-01"), FEW)
    assert (found.until, found.matured, found.drift) == ("2026-06-01T00:00:00Z", None, None)
    assert found.says == "nothing has matured yet: from 2026-06-17 on"


def test_a_list_without_times_is_refused():
    leads = pd.DataFrame({"lead_id": [f"L-{k}" for k in range(30)], "created_at": "2026-03-01T00:00:00Z"})
    ended = leads[["lead_id"]].assign(occurred_at="2026-03-02T00:00:00Z", outcome="lost")
    bare = Dataset.from_frames(leads=leads, outcomes=ended)
    with pytest.raises(TouchstoneError, match="a list without times does not say what came after"):
        monitor(by_age(), bare, until=to_us("2026-04-01"))


def test_what_is_predicted_is_what_was_known(dataset, scorer):
    """Against one instant after the other, each with a dataset of its own."""
    matured = monitor(scorer, dataset, MONTH).matured
    predicted, came = [], []
    for instant in range(to_us(matured.first), to_us(matured.last) + 1, 7 * DAY):
        known = dataset.known_at(instant)
        asked = known.open_at(instant)
        p, ids = scorer.predict(known, asked), known.ids[asked.lead]
        rows = Cohort.at(dataset.find(ids), instant)
        predicted += p[still_open(dataset, rows)].tolist()
        came += bought_within(dataset, rows, 28 * DAY)[still_open(dataset, rows)].tolist()
    assert matured.all.rows == len(predicted)
    assert matured.all.predicted == pytest.approx(np.mean(predicted))
    assert matured.purchases == sum(came)
    assert matured.figures["ratio"].value == pytest.approx(sum(predicted) / sum(came))
    assert sum(rate.rows for rate in matured.tiers.values()) == len(predicted)
    assert matured.figures["auc"].low > 0.6
    gain = matured.figures["base_log_loss"].value - matured.figures["log_loss"].value
    assert matured.figures["gain"].value == pytest.approx(gain)
    assert matured.figures["gain"].low > 0


# The verdict.


@dataclass(frozen=True, eq=False)
class Oracle(Scorer):
    """Says the true probability of simulated leads, bent by a scale of the log-odds or by a factor of the mean."""

    run: object = None
    scale: float = 1.0
    factor: float = 1.0

    @cached_property
    def truth(self):
        return self.run.truth(range(150, self.run.days + 1), 28)

    def predict(self, dataset, cohort, threads=1):
        mine = self.truth.day == int(cohort.as_of[0] - self.run.start) // DAY
        p = np.full(len(self.run.created_at), np.nan)
        p[self.truth.lead[mine]] = self.truth.probability[mine]
        p = p[[int(i[2:]) for i in dataset.ids[cohort.lead]]]
        # Whoever has bought, though nobody knows, is left out by the judge.
        p = np.where(np.isnan(p), 0.5, p)
        logits = self.scale * np.log(p / (1 - p))
        shift = brentq(lambda shift: expit(logits + shift).mean() - self.factor * p.mean(), -20, 20)
        return expit(logits + shift)


def oracle(folder, leads, days, seed, **bent):
    run = simulate(leads, days, seed, world=World(anonymous_share=0))
    run.write(folder, horizon_days=28)
    dataset = Dataset.read(folder)
    until = run.start + 150 * DAY
    found = learn(dataset.known_at(until), until, "recency")
    return dataset, Oracle(found.features, found.model, found.card, found.tiers, run=run, **bent)


def test_the_truth_comes_true(tmp_path):
    """Told otherwise in five of a hundred by the mean and in five by the slope, at most: here in 12 small worlds."""
    found = [monitor(scorer, dataset, MONTH) for dataset, scorer in (
        oracle(tmp_path / str(seed), 1_000, 300, seed) for seed in range(12)
    )]  # fmt: skip
    assert sum(one.holds is False for one in found) <= 3
    assert sum(one.holds is True for one in found) >= 9
    true = next(one for one in found if one.holds)
    ratio = true.matured.figures["ratio"]
    assert true.says == (
        f"comes true: predicts {ratio.value:.2f} times as many purchases as come [{ratio.low:.2f}, {ratio.high:.2f}]"
    )


@pytest.mark.parametrize(
    ("bent", "says"),
    [
        (dict(factor=1.7), r"predicts 1\.[5-9]\d times as many .*\]: train again and promote"),
        (dict(factor=0.6), r"predicts 0\.[5-7]\d times as many .*\]: train again and promote"),
        (dict(scale=2.5), r"exaggerates what sets leads apart, by a slope of 0\.[34]\d .*: train again and promote"),
        (dict(scale=0.4, factor=0.9), r"understates what sets leads apart, by a slope of 2\.\d\d .*: train again"),
    ],
)
def test_a_model_that_is_wrong_is_told(tmp_path, bent, says):
    dataset, scorer = oracle(tmp_path, 4_000, 400, 5, **bent)
    found = monitor(scorer, dataset, MONTH)
    assert found.holds is False
    assert re.match(says, found.says), found.says


def test_few_purchases_prove_nothing_and_many_that_do_not_come_do(dataset, scorer):
    late = replace(
        scorer, card=msgspec.structs.replace(scorer.card, known_until=isoformat(dataset.recorded_until - 120 * DAY))
    )
    few = monitor(late, some(dataset, 20), MONTH)
    assert few.holds is None and 0 < few.matured.buyers < 10
    assert few.says.startswith(f"too little to tell, for {few.matured.buyers} have bought: predicts"), few.says
    none = monitor(scorer, without_purchases(dataset, to_us("2025-10-01")), MONTH)
    assert none.holds is False
    assert re.match(r"predicts that [\d.]+% buy, and none of [\d,]+ did \[0 %, 0\.\d\d%\]: train again", none.says)
    assert {"ratio", "slope", "auc"}.isdisjoint(none.matured.figures)
    assert all(rows for _, rows in report.monitoring_tables(none))


def some(dataset, every):
    """One lead of so many, and what is known of it."""
    keep = np.arange(0, len(dataset), every)
    return Dataset(
        dataset.ids[keep], dataset.created_at[keep], dataset.merged_at[keep],
        dataset.history.take(keep, dataset.last_known + 1), dataset.attributes.take(keep, dataset.last_known + 1),
        dataset.outcomes.take(keep, dataset.last_known + 1, len(dataset)),
    )  # fmt: skip


def without_purchases(dataset, since):
    outcomes = dataset.outcomes
    rows = ~outcomes.won | (outcomes.at < since)
    return replace(dataset, outcomes=type(outcomes)(*(column[rows] for column in vars(outcomes).values())))


# Figures by whole leads.


def test_the_rate_of_purchases_has_an_interval_that_holds_by_lead():
    """Leads of six rows that buy in all or none of them: 95 % of intervals hold the truth, with few purchases too."""
    rng = np.random.default_rng(0)
    for truth in (0.02, 0.2):
        inside = []
        for _ in range(400):
            bought = np.repeat(rng.random(300) < truth, 6)
            found = bought_rate(bought, np.repeat(np.arange(300), 6))
            inside.append(found.low <= truth <= found.high)
        assert 0.92 <= np.mean(inside) <= 0.985
    alone = bought_rate(np.arange(100) < 10, np.arange(100))
    assert alone == pytest.approx((0.1, 0.0552, 0.1744), abs=1e-4)  # Wilson's for 10 of 100
    none = bought_rate(np.zeros(600, np.bool_), np.repeat(np.arange(100), 6))
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(0.037, abs=1e-3)


def test_the_slope_is_that_of_the_truth_and_its_interval_holds_by_lead():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(200):
        logits = np.repeat(rng.normal(-2, 1, 400), 5)
        bought = np.repeat(rng.random(400) < 1 / (1 + np.exp(-logits[::5])), 5)
        found = calibration_slope(bought, 1 / (1 + np.exp(-2 * logits)), np.repeat(np.arange(400), 5))
        inside.append(found.low <= 0.5 <= found.high)
    assert found.value == pytest.approx(0.5, abs=0.2)
    assert 0.9 <= np.mean(inside) <= 0.99
    assert calibration_slope(np.array([True, False]), np.array([0.5, 0.5]), np.arange(2)) is None
    assert calibration_slope(np.array([True, True]), np.array([0.5, 0.6]), np.arange(2)) is None


# Drift.


def drifts(dataset, learned, seed=7):
    return drift.compare(learn(dataset, learned, "recency"), dataset, learned, dataset.recorded_until, seed)


def names(found):
    return [one.name for one in (found.probability, *found.inputs) if one.drifted]


def test_where_nothing_changes_there_is_no_drift_though_the_data_are_young(tmp_path):
    """Data that begin with no lead at all grow old: 30 worlds, half a year to learn from and as much again."""
    alarms, naive = 0, 0
    for seed in range(30):
        dataset = simulated(tmp_path / str(seed), 400 + 20 * seed, 260, seed)
        learned = int(dataset.created_at.min()) + 150 * US_PER_DAY
        alarms += bool(names(drifts(dataset, learned, seed)))
        if seed < 5:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(drift, "_OLDEST", 1.0)
                patch.setattr(
                    Dataset, "open_at", lambda self, t, oldest=None, open_at=Dataset.open_at: open_at(self, t)
                )
                naive += bool(names(drifts(dataset, learned, seed)))
    assert alarms <= 4
    assert naive == 5  # were all ages compared, every world would seem to drift


def test_whole_leads_change_places():
    then, now = np.array([1, 2, 3, 5, 8]), np.array([2, 8, 9, 10])
    deals = [*drift._deals(then, now, np.random.default_rng(0))]
    assert deals[0].tolist() == [1] * 5 + [0] * 4
    assert len({tuple(deal) for deal in deals}) > 20
    for deal in deals:
        assert deal.sum() == 5
        assert deal[1] + deal[5] == deal[4] + deal[6] == 1


def test_more_calls_are_drift_and_are_named(tmp_path):
    changed = simulated(tmp_path / "a", 1_500, 360, 1, lambda run: fewer_calls_before(run, 250))
    found = drifts(changed, changed.created_at.min() + 240 * US_PER_DAY)
    assert found.inputs[0].name == "call talk in the last 30 days"
    before, now = map(float, re.search(r"days: mean ([\d.]+) then, ([\d.]+) now", found.inputs[0].says).groups())
    assert now > 2.5 * before
    assert names(found)[0] == "call talk in the last 30 days" and len(names(found)) <= 2


def fewer_calls_before(run, day):
    """Three of four calls before a day are taken out."""
    calls = run.touch_kind == len(run.world.kinds) - 1
    keep = ~(calls & (run.touch_at < run.start + day * DAY) & (np.arange(len(calls)) % 4 > 0))
    touches = {name: getattr(run, name)[keep] for name in vars(run) if name.startswith("touch_")}
    return replace(run, **touches)


def test_another_crowd_is_drift_and_its_words_are_told(tmp_path):
    """Leads of the last months come from one industry for the most part, and nobody fills in their size any more."""
    changed = simulated(tmp_path / "a", 1_500, 360, 2)
    late = changed.created_at > changed.created_at.min() + 250 * US_PER_DAY
    attributes = changed.attributes
    industry, size = attributes.names.index("industry"), attributes.names.index("size")
    cells = attributes.cells.copy()
    cells[late, industry] = attributes.words[industry].index("retail")
    cells[late, size] = np.nan
    changed = replace(changed, attributes=replace(attributes, cells=cells))
    found = {one.name: one for one in drifts(changed, changed.created_at.min() + 240 * US_PER_DAY).inputs}
    assert found["industry"].drifted and re.match(
        r"industry: retail for \d+\.\d% then, [4-9]\d", found["industry"].says
    )
    assert found["size"].drifted and re.match(r"size: known for 100\.0% then, [2-6]\d", found["size"].says)


def test_a_change_that_leaves_the_mean_alone_is_told_by_where_it_is():
    rng = np.random.default_rng(0)
    value = np.concatenate([rng.normal(10, 1, 500), rng.normal(10, 4, 500)])
    (found,) = drift._judge([drift._numbers("size", value)], np.arange(500), np.arange(500, 1_000), rng)
    told = re.fullmatch(
        r"size: mean \S+ then, \S+ now, but (\S+) to (\S+) for ([\d.]+)% then, ([\d.]+)% now", found.says
    )
    low, high, before, after = map(float, told.groups())
    shares = [100 * np.mean((part >= low - 0.5) & (part <= high + 0.5)) for part in (value[:500], value[500:])]
    assert found.drifted and abs(before - after) > 10
    assert shares == pytest.approx([before, after], abs=5)


def test_a_kind_that_is_new_is_drift(tmp_path):
    dataset = simulated(tmp_path / "a", 1_500, 360, 3)
    history = dataset.history
    calls = history.kind == [kind.name for kind in history.kinds].index("call_talk")
    moved = calls & (history.at > dataset.created_at.min() + 245 * US_PER_DAY)
    kinds = (*history.kinds, type(history.kinds[0])("whatsapp"))
    changed = replace(
        dataset, history=replace(history, kinds=kinds, kind=np.where(moved, len(kinds) - 1, history.kind))
    )
    found = drifts(changed, changed.created_at.min() + 240 * US_PER_DAY)
    assert {"kinds not seen in training in the last 30 days", "call talk in the last 30 days"} <= set(names(found))


def test_data_that_do_not_reach_back_are_told(dataset, scorer):
    keep = np.flatnonzero(dataset.created_at >= to_us("2025-11-01"))
    end = dataset.last_known + 1
    short = Dataset(
        dataset.ids[keep], dataset.created_at[keep], dataset.merged_at[keep], dataset.history.take(keep, end),
        dataset.attributes.take(keep, end), dataset.outcomes.take(keep, end, len(dataset)),
    )  # fmt: skip
    found = monitor(scorer, short, MONTH)
    assert found.drift is None
    assert any("no lead that was open on 2025-10-01: they no longer reach back" in note for note in found.notes)
    assert found.matured is not None
    half = some(dataset, 2)
    assert not any("do not score as they did" in note for note in monitor(scorer, dataset, MONTH).notes)
    bent = replace(scorer, model=Bent(scorer.model, shift=0.3))
    assert any("do not score as they did" in note for note in monitor(bent, half, MONTH).notes)


def test_the_laws_that_change_are_seen_by_the_predictions_and_not_by_the_inputs(tmp_path):
    """From a day on leads buy three times as often: no input says so, the matured predictions do."""
    changed = simulated(tmp_path / "a", 3_000, 420, 4, world=World(drift=3.0, drift_day=280))
    found = monitor(learn(changed, to_us("2025-10-01")), changed, MONTH)
    assert found.holds is False
    assert found.matured.figures["ratio"].high < 0.7


# In words.


def test_the_report_says_all_in_words_tables_and_markdown(dataset, scorer):
    found = monitor(scorer, dataset, MONTH)
    words = report.monitoring_in_words(found)
    assert words[0] == f"version 1, 28 days ahead: {found.says}"
    assert f"{found.matured.all.rows:,} predictions of {found.matured.instants} weekly instants" in words[1]
    page = report.monitoring_markdown(found)
    for text in (
        *words,
        "| hot |",
        "| predicted / bought |",
        "| caught at 10% |",
        *(d.says for d in found.drift.inputs),
    ):
        assert text in page
    for one in (found.drift.probability, *found.drift.inputs):
        assert one.drifted == (one.psi > one.limit)
