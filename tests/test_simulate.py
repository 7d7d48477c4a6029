"""The simulator's oracle is checked against enumeration of every hidden path, and against what then happened."""

import math
from dataclasses import replace
from datetime import date
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from training.simulate import DAY, HOUR, INDUSTRIES, KINDS, NEVER, Simulation, Truth, World, simulate

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Large = tuple[Simulation, Truth, Bools]
Written = tuple[Simulation, dict[str, pd.DataFrame]]
HORIZON = 90

BUSY = World(
    kinds=tuple(replace(kind, rates=(8 * a, 8 * b, 8 * c)) for kind in KINDS for a, b, c in [kind.rates]),
    researching=0.4,
    buy=(0.01, 0.05, 0.2),
    lose=(0.05, 0.03, 0.01),
    rise=(0.1, 0.2, 0.0),
)


# Enumeration: slow, plain and written from the description of the process alone.


def _poisson(count: int, rate: float) -> float:
    return math.exp(-rate) * rate**count / math.factorial(count)


def _moves(world: World, z: int, s: int, quiet: float) -> tuple[float, float, float]:
    """Chances of the next intent, given that today's touches all stay without effect with chance `quiet`."""
    up = 0.0 if s == 2 else 1 - (1 - world.rise[s] * math.exp(world.rise_by_fit * (z - 2))) * quiet
    down = (1 - up) * world.fall[s]
    to = [0.0, 0.0, 0.0]
    to[s] += 1 - up - down
    if s < 2:
        to[s + 1] += up
    if s > 0:
        to[s - 1] += down
    return to[0], to[1], to[2]


def _buy(world: World, z: int, s: int, day: int) -> float:
    hazard = world.buy[s] * (world.drift if day >= world.drift_day else 1.0)
    return 1 - math.exp(-hazard * math.exp(world.buy_by_fit * (z - 2)))


def _stay(world: World, z: int, s: int, day: int) -> float:
    return (1 - _buy(world, z, s, day)) * math.exp(-world.lose[s])


@cache
def _future(world: World, z: int, s: int, day: int, horizon: int) -> float:
    """Sums every path of intents to a purchase within the horizon, over every count of touches not seen yet."""
    total = 0.0
    for ahead in range(horizon):
        for path in product(range(3), repeat=ahead):
            states = (s, *path)
            chance = _buy(world, z, states[-1], day + ahead)
            for step, (now, then) in enumerate(pairwise(states)):
                quiet = math.prod(
                    sum(_poisson(n, kind.rates[now]) * (1 - kind.lift) ** n for n in range(60)) for kind in world.kinds
                )
                chance *= _stay(world, z, now, day + step) * _moves(world, z, now, quiet)[then]
            total += chance
    return total


def _enumerated(run: Simulation, lead: int, as_of: int, horizon: int) -> float:
    world = run.world
    created = int((run.created_at[lead] - run.start) // DAY)
    mine = run.touch_lead == lead
    kinds, days = run.touch_kind[mine], (run.touch_at[mine] - run.start) // DAY
    counts = [[int(np.sum((days == day) & (kinds == c))) for c in range(len(KINDS))] for day in range(created, as_of)]
    seen = bought = 0.0
    for z in range(5):
        fit = world.prior[z] * world.industry[z][run.industry[lead]]
        fit *= math.exp(-((run.size[lead] - world.size_step * (z - 2)) ** 2) / 2)
        for states in product(range(3), repeat=len(counts) + 1):
            chance = fit * (1 - world.researching, world.researching, 0.0)[states[0]]
            for step, touched in enumerate(counts):
                now, then = states[step], states[step + 1]
                chance *= math.prod(_poisson(n, k.rates[now]) for n, k in zip(touched, world.kinds, strict=True))
                quiet = math.prod((1 - k.lift) ** n for n, k in zip(touched, world.kinds, strict=True))
                chance *= _stay(world, z, now, created + step) * _moves(world, z, now, quiet)[then]
            seen += chance
            bought += chance * _future(world, z, states[-1], as_of, horizon) if chance else 0.0
    return bought / seen


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("world", [BUSY, replace(BUSY, drift=3.0, drift_day=2)], ids=["steady", "drift"])
def test_oracle_equals_enumeration_of_all_paths(world: World, horizon: int) -> None:
    run = simulate(leads=7, days=4, seed=3, world=world)
    truth = run.truth(range(5), horizon)
    assert len(truth.lead) >= 12
    assert np.bincount(run.touch_lead).max() >= 5
    expected = [_enumerated(run, lead, day, horizon) for lead, day in zip(truth.lead, truth.day, strict=True)]
    np.testing.assert_allclose(truth.probability, expected, rtol=0, atol=1e-12)


# Calibration: what the oracle says against what then happened.


@pytest.fixture(scope="module")
def large() -> Large:
    run = simulate(leads=50_000, days=540, seed=11)
    truth = run.truth(range(540, 0, -28), HORIZON)
    return run, truth, run.bought(truth, HORIZON)


def _slope(truth: Truth, bought: Bools) -> tuple[float, float]:
    """Logistic regression of the outcome on logit p*: the slope and its standard error with whole leads as clusters."""
    x = np.stack([np.ones_like(truth.probability), np.log(truth.probability / (1 - truth.probability))], axis=1)
    beta = np.zeros(2)
    for _ in range(25):
        fitted = 1 / (1 + np.exp(-x @ beta))
        bread = np.linalg.inv((x * (fitted * (1 - fitted))[:, None]).T @ x)
        beta += bread @ x.T @ (bought - fitted)
    residual = x * (bought - 1 / (1 + np.exp(-x @ beta)))[:, None]
    by_lead = np.stack([np.bincount(truth.lead, weights=column) for column in residual.T], axis=1)
    return float(beta[1]), float(np.sqrt((bread @ by_lead.T @ by_lead @ bread)[1, 1]))


def test_oracle_is_calibrated(large: Large) -> None:
    _, truth, bought = large
    slope, error = _slope(truth, bought)
    assert error < 0.02
    assert 0.95 < slope < 1.05
    assert truth.probability.mean() == pytest.approx(bought.mean(), rel=0.04)


def test_oracle_auc(large: Large) -> None:
    _, truth, bought = large
    assert 0.74 < roc_auc_score(bought, truth.probability) < 0.80


def test_oracle_stays_calibrated_under_drift() -> None:
    run = simulate(leads=20_000, days=400, seed=12, world=World(drift=0.4, drift_day=330))
    for day in (300, 400):
        truth = run.truth(day, HORIZON)
        bought = run.bought(truth, HORIZON)
        excess = (bought - truth.probability).sum() / np.sqrt((truth.probability * (1 - truth.probability)).sum())
        assert abs(excess) < 3


def _noise(run: Simulation, name: str, until: int) -> Floats:
    signal = np.zeros(len(run.created_at))
    if name == "newsletter":
        known = run.newsletter_at < until
        np.add.at(signal, run.newsletter_lead[known], 2.0 * run.newsletter_on[known] - 1)
    elif name == "alias":
        signal[run.alias_lead[run.alias_at < until]] = 1
    else:
        known = (run.touch_at < until) & ~np.isnan(run.touch_value)
        mean = np.array([kind.minutes or math.nan for kind in KINDS])[run.touch_kind]
        np.add.at(signal, run.touch_lead[known], (run.touch_value / mean - 1)[known])
    return signal


@pytest.mark.parametrize("name", ["newsletter", "alias", "minutes"])
def test_noise_adds_nothing_to_the_oracle(large: Large, name: str) -> None:
    run, truth, bought = large
    surprise = np.zeros(len(run.created_at))
    for day in np.unique(truth.day):
        now = truth.day == day
        lead = truth.lead[now]
        surprise[lead] += _noise(run, name, run.start + day * DAY)[lead] * (bought - truth.probability)[now]
    assert np.count_nonzero(surprise) > 500
    assert abs(surprise.sum()) < 3 * np.sqrt(surprise @ surprise)


def test_bought_counts_the_purchases_of_the_horizon_to_the_day(large: Large) -> None:
    run, truth, bought = large
    ahead = (run.closed_at[truth.lead] - run.start) // DAY - truth.day
    assert {0, HORIZON - 1, HORIZON} <= set(ahead[run.won[truth.lead]])
    np.testing.assert_array_equal(bought, run.won[truth.lead] & (ahead >= 0) & (ahead < HORIZON))


def test_attributes_follow_the_fit(large: Large) -> None:
    run, _, _ = large
    leads = np.bincount(run.fit)
    assert leads / leads.sum() == pytest.approx(run.world.prior, abs=0.01)
    for z, row in enumerate(run.world.industry):
        assert np.bincount(run.industry[run.fit == z]) / leads[z] == pytest.approx(row, abs=0.03)
        size = run.size[run.fit == z]
        assert (size.mean(), size.std()) == pytest.approx((0.6 * (z - 2), 1), abs=0.05)


def test_touches_follow_their_rates() -> None:
    dormant = World(researching=0.0, rise=(0.0, 0.0, 0.0), lose=(0.0, 0.0, 0.0), buy=(0.0, 0.0, 0.0))
    still = replace(dormant, kinds=tuple(replace(kind, lift=0.0) for kind in KINDS))
    run = simulate(leads=2_000, days=200, seed=5, world=still)
    lived = (run.days - (run.created_at - run.start) // DAY).sum()
    expected = lived * np.array([kind.rates[0] for kind in KINDS])
    assert np.all(np.abs(np.bincount(run.touch_kind) - expected) < 4 * np.sqrt(expected))
    per_day = np.bincount(run.touch_lead * run.days + (run.touch_at - run.start) // DAY)
    total = sum(kind.rates[0] for kind in KINDS)
    assert (per_day == 2).sum() == pytest.approx(lived * _poisson(2, total), rel=0.1)


def test_purchases_are_reported_a_week_later_on_average(
    large: Large,
) -> None:
    run, _, _ = large
    delay = (run.recorded_at - run.closed_at)[run.won] / DAY
    assert delay.min() == 1
    assert delay.mean() == pytest.approx(7, abs=4 * delay.std() / np.sqrt(len(delay)))
    assert np.all(run.recorded_at[~run.won] == run.closed_at[~run.won])


# The same arguments give the same journeys.


def _columns(run: Simulation) -> dict[str, npt.NDArray[np.generic]]:
    return {name: value for name, value in vars(run).items() if isinstance(value, np.ndarray)}


def test_seed_decides_everything(tmp_path: Path) -> None:
    first, again, other = (simulate(leads=300, days=60, seed=seed) for seed in (1, 1, 2))
    for name, column in _columns(first).items():
        np.testing.assert_array_equal(column, _columns(again)[name])
        assert not np.array_equal(column, _columns(other)[name])
    first.write(tmp_path / "first")
    again.write(tmp_path / "again")
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["aliases.csv", "attributes.csv", "leads.csv", "outcomes.csv", "touchpoints.csv", "truth.parquet"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_follow_up_changes_nothing_within_the_window() -> None:
    short, long = (simulate(leads=300, days=60, seed=1, follow_up_days=days) for days in (0, 90))
    assert (long.closed_at < NEVER).sum() > (short.closed_at < NEVER).sum()
    inside = long.closed_at < long.end
    np.testing.assert_array_equal(inside, short.closed_at < NEVER)
    np.testing.assert_array_equal(long.recorded_at[inside], short.recorded_at[inside])
    for name in set(_columns(short)) - {"closed_at", "won", "recorded_at"}:
        np.testing.assert_array_equal(_columns(short)[name], _columns(long)[name])


# The tables.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("simulated")
    run = simulate(leads=3_000, days=200, seed=4, start=date(2024, 2, 1))
    run.write(folder, horizon_days=60)
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    for table in tables.values():
        for column in table.columns[table.columns.str.endswith("_at")]:
            assert table[column].str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z").all()
            table[column] = pd.to_datetime(table[column])
    return run, tables | {"truth": pd.read_parquet(folder / "truth.parquet")}


def test_tables_have_the_public_columns_in_time_order(written: Written) -> None:
    _, tables = written
    assert {name: list(table.columns) for name, table in tables.items()} == {
        "touchpoints": ["lead_id", "occurred_at", "channel", "action", "value", "recorded_at", "message_id"],
        "leads": ["lead_id", "created_at", "industry", "size"],
        "outcomes": ["lead_id", "occurred_at", "outcome", "amount", "recorded_at"],
        "attributes": ["lead_id", "occurred_at", "name", "value", "recorded_at"],
        "aliases": ["lead_id", "same_as", "occurred_at"],
        "truth": ["lead_id", "as_of", "horizon_days", "probability"],
    }
    for name in ("touchpoints", "outcomes", "attributes", "aliases"):
        assert len(tables[name]) > 20
        assert tables[name].occurred_at.is_monotonic_increasing
    assert tables["leads"].created_at.is_monotonic_increasing
    assert (tables["leads"]["size"] == tables["leads"]["size"].round(4)).all()
    assert tables["truth"].as_of.is_monotonic_increasing


def test_ids_are_unique_and_known(written: Written) -> None:
    _, tables = written
    leads, aliases = set(tables["leads"].lead_id), set(tables["aliases"].lead_id)
    assert len(leads) == len(tables["leads"])
    assert len(aliases) == len(tables["aliases"]) == tables["aliases"].same_as.nunique()
    assert tables["touchpoints"].message_id.is_unique
    assert tables["outcomes"].lead_id.is_unique
    assert not leads & aliases
    assert set(tables["touchpoints"].lead_id) <= leads | aliases
    assert aliases <= set(tables["touchpoints"].lead_id)
    for name in ("outcomes", "attributes", "truth"):
        assert set(tables[name].lead_id) <= leads
    assert set(tables["aliases"].same_as) <= leads


def test_nothing_is_written_that_happened_or_was_recorded_after_the_end(written: Written) -> None:
    run, tables = written
    end = pd.Timestamp("2024-02-01", tz="UTC") + pd.Timedelta(days=200)
    assert end == pd.Timestamp(run.end, unit="us", tz="UTC")
    for table in tables.values():
        for column in table.columns[table.columns.str.endswith("_at")]:
            assert table[column].max() < end
    late = run.won & (run.closed_at < run.end) & (run.recorded_at >= run.end)
    assert late.any()
    assert len(tables["outcomes"]) == ((run.closed_at < run.end) & ~late).sum()


def test_recorded_at_follows_the_rule(written: Written) -> None:
    _, tables = written
    for name in ("touchpoints", "attributes"):
        assert (tables[name].recorded_at == tables[name].occurred_at).all()
    won, lost = (tables["outcomes"][tables["outcomes"].outcome == outcome] for outcome in ("won", "lost"))
    assert len(won) + len(lost) == len(tables["outcomes"])
    delay = (won.recorded_at - won.occurred_at).dt.total_seconds() / 86_400
    assert (delay >= 1).all()
    assert (delay == delay.round()).all()
    assert (lost.recorded_at == lost.occurred_at).all()
    assert won.amount.gt(0).all()
    assert lost.amount.isna().all()


def test_times_of_day_keep_the_order_of_the_day(written: Written) -> None:
    _, tables = written
    assert set(tables["leads"].created_at.dt.hour) == {0}
    assert set(tables["touchpoints"].occurred_at.dt.hour) == set(range(1, 22))
    assert set(tables["outcomes"].occurred_at.dt.hour) == {22, 23}


def test_no_touch_outside_a_leads_life(written: Written) -> None:
    run, tables = written
    named = tables["aliases"].set_index("lead_id").same_as
    created = tables["leads"].set_index("lead_id").created_at
    closed = pd.Series(run.closed_at, index=tables["leads"].lead_id)
    for name in ("touchpoints", "attributes"):
        lead = tables[name].lead_id.map(named).fillna(tables[name].lead_id)
        at = tables[name].occurred_at
        assert (at.to_numpy() >= lead.map(created).to_numpy()).all()
        assert (at.to_numpy("M8[us]").astype(np.int64) < lead.map(closed).to_numpy()).all()


def test_anonymous_ids_are_linked_after_their_touches_and_before_midnight(written: Written) -> None:
    run, tables = written
    touches = tables["touchpoints"]
    hidden = touches.merge(tables["aliases"], on="lead_id", suffixes=("", "_link"))
    assert (hidden.occurred_at < hidden.occurred_at_link).all()
    assert (hidden.occurred_at.dt.normalize() == hidden.occurred_at_link.dt.normalize()).all()
    assert set(hidden.channel) == {"website"}
    assert len(tables["aliases"]) / len(tables["leads"]) == pytest.approx(0.03, abs=0.015)
    # Nothing of the website was seen under the lead's own name by then: the first such day is the hidden one.
    own = touches[touches.channel == "website"].merge(tables["aliases"], left_on="lead_id", right_on="same_as")
    assert (own.occurred_at_x > own.occurred_at_y).all()
    assert (run.alias_at % DAY == 22 * HOUR).all()


def test_tables_alone_give_the_truth(written: Written) -> None:
    """Whoever reads the files and merges what was linked by midnight knows all that the oracle knows."""
    run, tables = written
    names = pd.Index(tables["leads"].lead_id)
    for as_of in sorted(tables["truth"].as_of.unique())[-3:]:
        linked = tables["aliases"][tables["aliases"].occurred_at < as_of].set_index("lead_id").same_as
        touches = tables["touchpoints"][tables["touchpoints"].recorded_at < as_of]
        kind = [(k.channel, k.action) for k in KINDS]
        read = pd.DataFrame(
            {
                "lead": names.get_indexer(touches.lead_id.map(linked).fillna(touches.lead_id)),
                "at": touches.occurred_at.to_numpy("M8[us]").astype(np.int64),
                "kind": [kind.index(pair) for pair in zip(touches.channel, touches.action, strict=True)],
            }
        ).sort_values(["lead", "at"])
        assert (read["lead"] >= 0).all()
        known = replace(
            run,
            created_at=tables["leads"].created_at.to_numpy("M8[us]").astype(np.int64),
            size=tables["leads"]["size"].to_numpy(),
            industry=np.array([INDUSTRIES.index(name) for name in tables["leads"].industry]),
            touch_lead=read["lead"].to_numpy(),
            touch_at=read["at"].to_numpy(),
            touch_kind=read["kind"].to_numpy(),
        ).truth((as_of - pd.Timestamp(run.start, unit="us", tz="UTC")).days, 60)
        truth = tables["truth"][tables["truth"].as_of == as_of]
        assert list(names[known.lead]) == list(truth.lead_id)
        np.testing.assert_allclose(known.probability, truth.probability, rtol=1e-12)


def test_truth_is_written_back_from_the_end_for_open_leads_only(written: Written) -> None:
    run, tables = written
    truth = tables["truth"]
    assert str(truth.as_of.dtype) == "datetime64[us, UTC]"
    days_before_end = (pd.Timestamp(run.end, unit="us", tz="UTC") - truth.as_of).dt.days
    assert list(days_before_end.unique()) == list(range(196, -1, -28))
    assert (truth.horizon_days == 60).all()
    at = truth.as_of.to_numpy("M8[us]").astype(np.int64)
    expected = sum(((run.created_at < t) & (run.closed_at >= t)).sum() for t in np.unique(at))
    assert len(truth) == expected


# Errors.


def test_errors_say_what_to_do() -> None:
    run = simulate(leads=50, days=20, seed=1, follow_up_days=10)
    with pytest.raises(ValueError, match=r"as_of 21\.\.21 leaves the window: give days from 0 to 20"):
        run.truth(21)
    with pytest.raises(ValueError, match=r"simulate with a longer follow_up_days"):
        run.bought(run.truth(20), horizon_days=11)
    with pytest.raises(ValueError, match=r"Cannot simulate 0 leads over 20 days: give at least one of each"):
        simulate(leads=0, days=20)
    with pytest.raises(ValueError, match=r"prior adds up to 1\.2: give chances that add up to 1"):
        World(prior=(0.5, 0.25, 0.2, 0.15, 0.1))
    with pytest.raises(ValueError, match=r"industry needs one row of 6 chances for each of 2 fits"):
        World(prior=(0.5, 0.5))
