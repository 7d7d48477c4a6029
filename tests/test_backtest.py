"""Production replayed: nothing of what came later changes a probability, and everyone who was open is judged once."""

from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest
from oracle import DAY
from sklearn.metrics import roc_auc_score
from worlds import dataset_of

from features import Dataset, TouchstoneError
from features.times import isoformat, to_us
from models import candidates
from training import Experiment, backtest
from training.backtest import choose_origins
from training.metrics import information_captured
from training.simulate import simulate

HORIZON = 56
EXPERIMENT = Experiment(
    horizon_days=HORIZON, origins=2, origin_every_days=28, snapshot_every_days=28, capacity=0.1, bootstrap=10
)
LAST = "9999"
TABLES = ("leads", "touchpoints", "outcomes", "attributes", "aliases")


def experiment_with(**changes):
    return msgspec.structs.replace(EXPERIMENT, **changes)


@pytest.fixture(scope="module")
def run():
    return simulate(6_000, 400, seed=5)


@pytest.fixture(scope="module")
def tables(run, tmp_path_factory):
    """The tables as text, as they are on disk."""
    folder = tmp_path_factory.mktemp("simulated")
    run.write(folder, horizon_days=HORIZON)
    return {name: pd.read_csv(folder / f"{name}.csv", dtype="str", keep_default_na=False) for name in TABLES}


@pytest.fixture(scope="module")
def dataset(tables):
    return Dataset.from_frames(**tables)


@pytest.fixture(scope="module")
def replayed(dataset, run):
    return backtest(dataset, EXPERIMENT, candidates(), until=run.end)


def rows_of(result, dataset):
    """The rows by lead id and origin: the label, and the probability each model gave."""
    ids = dataset.ids[result.lead]
    columns = zip(result.bought, *result.probability.values(), strict=True)
    rows = dict(zip(zip(ids, result.origin.tolist(), strict=True), columns, strict=True))
    assert len(rows) == len(result.lead), "a lead was scored twice at one origin"
    return rows


# Who is judged, and by what.


def test_every_lead_that_was_open_is_judged_once_by_its_window(replayed, dataset, tables):
    """Counted from the tables alone, with their texts compared as texts."""
    first = {}
    for lead, occurred, outcome in tables["outcomes"][["lead_id", "occurred_at", "outcome"]].itertuples(index=False):
        first[lead] = min(first.get(lead, (LAST, "")), (occurred, outcome))
    expected = {}
    for origin in replayed.origins:
        begin, end = isoformat(origin), isoformat(origin + HORIZON * DAY)
        for lead, created in tables["leads"][["lead_id", "created_at"]].itertuples(index=False):
            occurred, outcome = first.get(lead, (LAST, ""))
            if created < begin <= occurred:
                expected[lead, origin] = outcome == "won" and occurred < end
    judged = {row: cells[0] for row, cells in rows_of(replayed, dataset).items()}
    assert judged == expected
    assert len(judged) > 3_000
    assert sum(judged.values()) > 100


def test_every_model_gives_a_probability_to_every_row(replayed):
    assert list(replayed.probability) == [candidate.name for candidate in candidates()]
    for p in replayed.probability.values():
        assert p.shape == replayed.lead.shape
        assert ((p > 0) & (p < 1)).all()


def test_purchases_learned_from_are_leads_and_not_rows(replayed, dataset):
    """A lead that buys is a row of up to two instants here, as a horizon holds two steps."""
    for origin, (rows, buyers) in replayed.learned_from.items():
        known = dataset.known_at(origin)
        assert 0 < buyers <= known.closed[1].sum()
        assert rows > buyers


def test_order_of_the_input_does_not_change_who_is_judged(replayed, dataset, tables, run):
    """Nor what the rules say, but for the last bits of their curve; trees draw rows by place."""
    shuffled = Dataset.from_frames(**{name: frame.sample(frac=1, random_state=1) for name, frame in tables.items()})
    assert (shuffled.ids != dataset.ids).any()
    again = rows_of(backtest(shuffled, EXPERIMENT, candidates()[:1], until=run.end), shuffled)
    before = rows_of(replayed, dataset)
    assert {row: cells[0] for row, cells in again.items()} == {row: cells[0] for row, cells in before.items()}
    np.testing.assert_allclose([again[row][1] for row in before], [cells[1] for cells in before.values()], rtol=1e-9)


def test_progress_is_told_and_only_grows(dataset, run):
    told = []
    backtest(
        dataset, experiment_with(origins=2), candidates()[:3], until=run.end,
        progress=lambda what, share: told.append((what, share)),
    )  # fmt: skip
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert any("recency" in what for what, _ in told)


# No future.


def poisoned(tables, origin):
    """The tables with all that became known at or after an instant deleted, changed or added to.

    What was created or became known before it stays. Of the outcomes, purchases of leads open then come and go.
    """
    rng = np.random.default_rng(1)
    instant = isoformat(origin)
    later = [isoformat(origin + int(wait)) for wait in rng.integers(0, 50 * DAY, 4_000)]
    past = {
        "leads": tables["leads"]["created_at"] < instant,
        "touchpoints": tables["touchpoints"]["recorded_at"] < instant,
        "outcomes": tables["outcomes"]["recorded_at"] < instant,
        "attributes": tables["attributes"]["recorded_at"] < instant,
        "aliases": tables["aliases"]["occurred_at"] < instant,
    }
    kept = {name: tables[name][rows] for name, rows in past.items()}
    old = kept["leads"]["lead_id"].to_numpy()
    # New leads bring a word where there were numbers, one that sorts first, and a column nobody had.
    new = pd.DataFrame({"lead_id": [f"A-{i}" for i in range(300)], "created_at": later[:300], "industry": "aaa",
                        "size": "huge"})  # fmt: skip
    who = rng.choice(np.concatenate([old, new["lead_id"]]), 4_000)
    before = [isoformat(origin - int(wait)) for wait in rng.integers(1, 90 * DAY, 4_000)]
    # They occurred before the origin and were recorded after it, or did both after it; of old and of new kinds.
    touches = pd.DataFrame({
        "lead_id": who, "occurred_at": before[:2_000] + later[2_000:], "channel": rng.choice(["email", "aaa"], 4_000),
        "action": rng.choice(["click", "aaa"], 4_000), "value": "1e6", "recorded_at": later,
        "message_id": [f"new-{i}" for i in range(4_000)],
    })  # fmt: skip
    # The same messages come in again, later and different.
    again = kept["touchpoints"].iloc[:500].assign(channel="aaa", value="7", recorded_at=later[:500])
    facts = pd.DataFrame({
        "lead_id": who, "occurred_at": before[:2_000] + later[2_000:],
        "name": rng.choice(["industry", "size", "newsletter", "aaa"], 4_000), "value": "aaa", "recorded_at": later,
    })  # fmt: skip
    # Of the leads some bought before the origin, which becomes known after it; some after; all others are lost.
    ended = rng.permutation(old)
    early = [isoformat(origin - 1_000_000)] * 100
    outcomes = pd.DataFrame({
        "lead_id": ended, "occurred_at": early + [isoformat(origin + DAY)] * (len(ended) - 100),
        "outcome": np.where(np.arange(len(ended)) % 3 == 0, "won", "lost"), "amount": "",
        "recorded_at": isoformat(origin + 2 * DAY),
    })  # fmt: skip
    outcomes = outcomes[~outcomes["lead_id"].isin(kept["outcomes"]["lead_id"])]
    links = pd.DataFrame({"lead_id": old[:50], "same_as": old[50:100], "occurred_at": later[:50]})
    added = {
        "leads": [new], "touchpoints": [touches, again], "outcomes": [outcomes], "attributes": [facts],
        "aliases": [links],
    }  # fmt: skip
    return {name: pd.concat([kept[name], *more]).fillna("") for name, more in added.items()}


def test_the_future_changes_no_bit_of_any_probability(replayed, dataset, tables, run):
    """All that became known at or after an origin is deleted, changed, added to: no model says anything else."""
    origin = replayed.origins[-1]
    changed = poisoned(tables, origin)
    other = Dataset.from_frames(**changed)
    experiment = experiment_with(origins=1, first_origin=isoformat(origin), reporting_delay_days=14)
    here, there = (rows_of(backtest(data, experiment, candidates(), until=run.end), data) for data in (dataset, other))
    common = [row for row in here if row in there]
    assert len(common) > 0.6 * len(here)
    assert sum(here[row][0] != there[row][0] for row in common) > 100, "the poison did not reach the labels"
    assert [here[row][1:] for row in common] == [there[row][1:] for row in common]


def test_the_poison_is_poison(dataset, tables, replayed, run):
    """A day later the same changes are the past, and every model that learns of leads says something else."""
    origin = replayed.origins[-1]
    other = Dataset.from_frames(**poisoned(tables, origin))
    experiment = experiment_with(origins=1, first_origin=isoformat(origin + DAY), reporting_delay_days=14)
    here, there = (rows_of(backtest(data, experiment, candidates(), until=run.end), data) for data in (dataset, other))
    common = [row for row in here if row in there]
    for place, name in enumerate(replayed.probability, start=1):
        # Whether the share that bought is another is chance.
        assert name == "base_rate" or any(here[row][place] != there[row][place] for row in common)


def test_what_is_known_only_after_until_does_not_judge_either(dataset, tables, run):
    """A backtest as of last month is the one that would have been made last month."""
    until = run.end - 30 * DAY
    instant = isoformat(until)
    cut = {
        "leads": tables["leads"]["created_at"] < instant,
        "touchpoints": tables["touchpoints"]["recorded_at"] < instant,
        "outcomes": tables["outcomes"]["recorded_at"] < instant,
        "attributes": tables["attributes"]["recorded_at"] < instant,
        "aliases": tables["aliases"]["occurred_at"] < instant,
    }
    then = Dataset.from_frames(**{name: tables[name][rows] for name, rows in cut.items()})
    now, past = (backtest(data, EXPERIMENT, candidates()[:2], until=until) for data in (dataset, then))
    assert rows_of(now, dataset) == rows_of(past, then)


# Leaks.


def with_invoices(tables, days):
    """Adds a touch "invoice viewed" to each purchase, some days after it (before it, if negative)."""
    won = tables["outcomes"][tables["outcomes"]["outcome"] == "won"]
    occurred = [isoformat(to_us(at) + days * DAY) for at in won["occurred_at"]]
    invoices = pd.DataFrame({
        "lead_id": won["lead_id"], "occurred_at": occurred, "channel": "invoice", "action": "viewed", "value": "",
        "recorded_at": occurred, "message_id": [f"invoice-{i}" for i in range(len(won))],
    })  # fmt: skip
    return {**tables, "touchpoints": pd.concat([tables["touchpoints"], invoices])}


def truth_of(run, result, dataset):
    """The true probability of every row that was judged."""
    days = (np.array(result.origins) - run.start) // DAY
    truth = run.truth(days, HORIZON)
    probability = {
        (f"L-{lead:06d}", run.start + day * DAY): p
        for lead, day, p in zip(truth.lead.tolist(), truth.day.tolist(), truth.probability, strict=True)
    }
    return np.array([probability[row] for row in zip(dataset.ids[result.lead], result.origin.tolist(), strict=True)])


def against_the_oracle(run, result, dataset):
    """The AUC of each model and of the oracle on the same rows and labels."""
    oracle = truth_of(run, result, dataset)
    auc = {name: roc_auc_score(result.bought, p) for name, p in result.probability.items()}
    return roc_auc_score(result.bought, oracle), auc


@pytest.fixture(scope="module")
def invoiced(tables, run):
    dataset = Dataset.from_frames(**with_invoices(tables, 0.1))
    return dataset, backtest(dataset, EXPERIMENT, candidates(), until=run.end)


def test_a_touch_that_comes_with_the_purchase_makes_no_model_better_than_the_oracle(invoiced, run):
    """The purchase is recorded a week after the invoice was seen: the lead is still listed, but can buy no more."""
    dataset, result = invoiced
    seen = [kind.name for kind in dataset.history.kinds]
    assert "invoice_viewed" in seen
    oracle, auc = against_the_oracle(run, result, dataset)
    assert max(auc.values()) < oracle


def test_leads_that_had_bought_without_its_being_known_are_not_judged(invoiced, replayed):
    """The invoice marks exactly them, so a model may say of them what it likes."""
    dataset, result = invoiced
    closed_at, _ = dataset.closed
    for origin in result.origins:
        listed = len(dataset.known_at(origin).open_at(origin))
        unreported = (closed_at < origin).sum() - (dataset.outcomes.known < origin).sum()
        assert unreported > 5
        assert (result.origin == origin).sum() == listed - unreported
    assert result.lead.tolist() == replayed.lead.tolist()


def test_a_touch_that_foretells_the_purchase_sets_off_the_alarm(tables, run):
    """The same invoice dated thirty days before the purchase is a leak, and lifts the models above the oracle."""
    dataset = Dataset.from_frames(**with_invoices(tables, -30))
    result = backtest(dataset, EXPERIMENT, candidates()[4:], until=run.end)
    oracle, auc = against_the_oracle(run, result, dataset)
    assert min(auc.values()) > oracle


# Origins.


@pytest.mark.parametrize("delay", [None, 0.0, 21.0])
@pytest.mark.parametrize("first", [None, "2025-01-01", "2025-04-15", "2027-01-01"])
@pytest.mark.parametrize("days_back", [0, 45])
def test_origins_lie_within_the_data_and_their_windows_are_over_and_reported(dataset, run, delay, first, days_back):
    until = run.end - days_back * DAY
    known = dataset.known_at(until)
    experiment = experiment_with(origins=12, first_origin=first, reporting_delay_days=delay)
    origins = choose_origins(known, experiment, until)
    if delay is None:
        waits = np.sort((known.outcomes.known - known.outcomes.at)[known.outcomes.won])
        wait = waits[int(np.ceil(0.95 * (len(waits) - 1)))]
    else:
        wait = round(delay * DAY)
    last = until - HORIZON * DAY - wait
    assert all(known.created_at.min() < origin <= last for origin in origins)
    assert set(np.diff(origins)) <= {28 * DAY}
    if first is None:
        assert origins[-1] == last
    elif origins:
        assert (origins[0] - to_us(first)) % (28 * DAY) == 0
        assert origins[-1] + 28 * DAY > last or origins[-1] == to_us(first) + 11 * 28 * DAY
    assert bool(origins) == (first != "2027-01-01")


def test_as_many_origins_as_are_asked_for_and_no_more(dataset, run):
    assert len(choose_origins(dataset, experiment_with(origins=3), run.end)) == 3
    assert len(choose_origins(dataset, experiment_with(origins=3, first_origin="2025-03-01"), run.end)) == 3


# Errors.


def one_lead(*outcomes):
    return dataset_of([{"created": 0, "attributes": {}, "touches": [], "facts": [], "outcomes": list(outcomes)}])


@pytest.mark.parametrize(
    ("cut", "changes"),
    [
        (lambda tables: {**tables, "outcomes": tables["outcomes"][tables["outcomes"]["outcome"] == "lost"]}, {}),
        (lambda tables: tables, {"first_origin": "2031-01-01"}),
        (lambda tables: tables, {"horizon_days": 400}),
        (lambda tables: tables, {"reporting_delay_days": 400}),
    ],
    ids=["no purchases", "origins after the data", "a horizon too long", "a delay too long"],
)
def test_what_cannot_be_judged_is_said(tables, run, cut, changes):
    dataset = Dataset.from_frames(**cut(tables))
    purchases = int(dataset.closed[1].sum())
    with pytest.raises(TouchstoneError) as error:
        backtest(dataset, experiment_with(**changes), candidates()[:1], until=run.end)
    text = str(error.value)
    assert text.startswith("no origin can be judged: a purchase must lie within ")
    assert f"from 2025-01-01 to {isoformat(run.end)[:10]} and hold {purchases:,} purchases" in text
    assert text.endswith("Take a shorter --horizon, or more data.")


def test_a_dataset_without_leads_is_said_to_be_too_small():
    empty = one_lead().known_at(-1)
    with pytest.raises(TouchstoneError, match=r"no origin can be judged.* hold 0 purchases"):
        backtest(empty, EXPERIMENT, candidates()[:1])


# Side by side.


def test_the_blend_knows_more_than_any_other_model(replayed, run, dataset):
    """Against the truth, which is free of the noise of what happened; and by what happened, beyond its noise."""
    truth = truth_of(run, replayed, dataset)
    captured = {name: information_captured(truth, p) for name, p in replayed.probability.items()}
    blend = captured.pop("blend")
    assert blend > max(captured.values()) + 0.005, (blend, captured)
    for part in ("logistic", "lightgbm"):
        assert replayed.evaluation.difference("blend", part, "log_loss").value < 0
    for peer in ("rules", "base_rate", "recency", "naive_bayes"):
        assert replayed.evaluation.difference("blend", peer, "log_loss").high < 0


def test_the_best_model_has_the_least_log_loss(replayed):
    losses = {name: replayed.evaluation.estimate(name, "log_loss").value for name in replayed.probability}
    assert replayed.best(list(losses)) == min(losses, key=losses.__getitem__)
    assert replayed.best(["rules", "naive_bayes"]) == min(["rules", "naive_bayes"], key=losses.__getitem__)


def test_origins_can_be_looked_at_one_by_one(replayed):
    rows = [replayed.origin == origin for origin in replayed.origins]
    one_by_one = [replayed.at(origin)["rules"]["brier"] for origin in replayed.origins]
    whole = replayed.evaluation.estimate("rules", "brier").value
    assert np.average(one_by_one, weights=[mine.sum() for mine in rows]) == pytest.approx(whole)


def test_a_model_that_gives_no_probability_is_an_error(replayed):
    broken = {"rules": np.full(len(replayed.lead), np.nan)}
    with pytest.raises(TouchstoneError, match="rules gives"):
        _ = replace(replayed, probability=broken).evaluation
