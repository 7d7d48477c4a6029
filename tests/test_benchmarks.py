"""The peers of the benchmark find what we find, and one that did not would be caught."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks import features
from benchmarks.features import FEATURES, check_equal, touchpoints
from benchmarks.measure import take_turns
from benchmarks.peers import PEERS, Columns, Peer
from features import Cohort, Dataset, FeatureSet
from features.history import Matrix

LEADS = 2_000
Break = Callable[[Columns], None]


def add_one(name: str) -> Break:
    """Breaks a column in its last lead."""

    def spoil(columns: Columns) -> None:
        columns[FEATURES.names.index(name)][-1] += 1

    return spoil


def add_a_little(columns: Columns) -> None:
    columns[FEATURES.names.index("age_days")][7] *= 1.00001


def find_missing(columns: Columns) -> None:
    column = columns[FEATURES.names.index("days_since_demo")]
    column[np.flatnonzero(np.isnan(column))[0]] = 0


def swap(columns: Columns) -> None:
    columns[0], columns[1] = columns[1], columns[0]


def broken(name: str, spoil: Break) -> Peer:
    peer = PEERS[name]

    def columns(form: Any, as_of: int) -> Columns:
        found = peer.columns(form, as_of)
        spoil(found)
        return found

    return Peer(peer.form, columns)


def test_every_column_says_something() -> None:
    dataset = Dataset.from_frames(touchpoints=touchpoints(LEADS, 10 * LEADS).to_pandas())
    matrix = FEATURES.compute(dataset, dataset.open_at(features.NOW))
    assert matrix.shape == (LEADS, 100)
    assert not (matrix == matrix[0]).all(axis=0).any()


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_finds_the_same(peer: str, text: bool) -> None:
    table = touchpoints(LEADS, 10 * LEADS, text=text)
    dataset = Dataset.from_frames(touchpoints=table.to_pandas())
    cohort = dataset.open_at(features.NOW)
    check_equal(peer, dataset, cohort, PEERS[peer].columns(PEERS[peer].form(table), features.NOW))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (add_one("email_count_30d"), "email_count_30d of lead 1999"),
        (add_one("other_sum"), "other_sum of lead 1999"),
        (add_one("touch_active_days"), "touch_active_days of lead 1999"),
        (add_a_little, "age_days of lead 7"),
        (find_missing, r"days_since_demo of lead \d+ is .*0.0.*, ours is .*nan"),
        (swap, "call_count_7d"),
    ],
)
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_that_finds_something_else_stops_the_benchmark(
    peer: str, spoil: Break, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, peer, broken(peer, spoil))
    with pytest.raises(AssertionError, match=f"^{peer}: {says}"):
        list(features.lines(LEADS, ["lists"]))


def test_chunks_that_differ_from_the_whole_stop_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = FeatureSet.compute

    def wrong(self: FeatureSet, dataset: Dataset, cohort: Cohort, out: Matrix | None = None) -> Matrix:
        matrix = compute(self, dataset, cohort, out=out)
        if out is not None:
            matrix[-1, 5] += 1
        return matrix

    monkeypatch.setattr(FeatureSet, "compute", wrong)
    with pytest.raises(AssertionError, match="in chunks"):
        list(features.lines(LEADS, ["lists"]))


@pytest.mark.parametrize(
    ("part", "rows", "goals"),
    [
        ("lists", 2, ["6x", "10x", "4x"]),
        ("strings", 2, ["3x", "3x"]),
        ("snapshots", 1, ["20x"]),
        ("alone", 2, ["30 us", "50x", "50x", "45 us", "50x", "50x"]),
        ("memory", 2, ["1.2x", "+200 MB"]),
        ("growth", 3, ["1.3x", "1.3x"]),
    ],
)
def test_every_part_has_rows_with_its_goals(
    part: str, rows: int, goals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "ROUNDS", 1)
    lines = [line for line in features.lines(LEADS, [part]) if line.startswith("| ")]
    assert [line.count(" | ") for line in lines] == [3] * (rows + 1)
    assert re.findall(r"\(goal ([^:)]+)", "".join(lines)) == goals


def test_each_side_takes_its_turn_and_the_first_round_is_checked() -> None:
    turns: list[str] = []

    def turn(name: str) -> str:
        turns.append(name)
        return name

    checked: list[tuple[str, str]] = []
    sides = {name: partial(turn, name) for name in "ab"}
    assert set(take_turns(sides, 2, lambda *found: checked.append(found))) == {"a", "b"}
    assert "".join(turns) == "ababab"
    assert checked == [("a", "a"), ("b", "b")]
