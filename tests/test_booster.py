"""The booster gives LightGBM's numbers to the bit, and refuses every text that does not hold together."""

import copy
import pickle
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from features import ModelError
from models import booster
from models.booster import Booster

FEATURES = 12
MODELS: dict[str, dict[str, Any]] = {
    "as trained": {"num_leaves": 7},
    "two leaves": {"num_leaves": 2},
    "31 leaves": {"num_leaves": 31, "objective": "cross_entropy"},
    "as many leaves as a mask has bits": {"num_leaves": 64, "min_data_in_leaf": 1},
    "more leaves than that": {"num_leaves": 200, "min_data_in_leaf": 1},
    "missing values as zero": {"use_missing": False},
    "stumps": {"min_data_in_leaf": 10_000},
}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "categories": ({"categories": [0], "min_data_per_group": 5}, "it tells categories apart"),
    "linear": ({"linear_tree": True}, "its leaves hold linear models"),
    "forest": ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, "its objective is 'binary sigmoid:1'"),
    "zero as missing": ({"zero_as_missing": True}, "it decides by"),
    "another objective": ({"objective": "regression"}, "its objective is 'regression'"),
    "a steeper curve": ({"sigmoid": 2.0}, "its objective is 'binary sigmoid:2'"),
}


def some_rows(rows: int, seed: int = 0) -> np.ndarray:
    """Small and huge numbers, zeros, infinities and missing values; the first column holds small integers."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(scale=2.0, size=(rows, FEATURES)) * 10.0 ** rng.integers(-3, 4, size=(rows, FEATURES))
    matrix[:, 0] = rng.integers(0, 8, size=rows)
    odd = rng.random(matrix.shape)
    for share, value in ((0.2, np.nan), (0.02, 0.0), (0.01, np.inf), (0.005, -np.inf)):
        matrix[odd < share] = value
    return matrix.astype(np.float32)


def trained(*, categories: Any = (), **parameters: Any) -> lightgbm.Booster:
    rows = some_rows(3_000)
    rows[~np.isfinite(rows) & ~np.isnan(rows)] = 0.0
    signs = np.sign(np.nan_to_num(rows[:, 1:]))
    noise = np.random.default_rng(3).normal(size=len(rows))
    labels = signs[:, 0] * signs[:, 1] + signs[:, 2:6].sum(axis=1) + noise > (rows[:, 0] > 3)
    names = [f"feature_{number}" for number in range(FEATURES)]
    data = lightgbm.Dataset(rows, labels, feature_name=names, categorical_feature=list(categories))
    defaults = {"objective": "binary", "num_leaves": 15, "num_threads": 1, "verbosity": -1}
    return lightgbm.train({**defaults, **parameters}, data, num_boost_round=20)


@pytest.fixture(scope="module")
def original() -> lightgbm.Booster:
    return trained()


@pytest.fixture(scope="module")
def text(original: lightgbm.Booster) -> str:
    return original.model_to_string()


@pytest.mark.parametrize("kind", MODELS)
def test_equals_lightgbm_to_the_bit(kind: str) -> None:
    model = trained(**MODELS[kind])
    ours, rows = Booster.from_text(model.model_to_string()), some_rows(2_001, seed=1)
    expected = model.predict(rows, num_threads=1)
    assert len(np.unique(expected)) > {"stumps": 0, "two leaves": 50, "as trained": 300}.get(kind, 500)
    assert ours.feature_names == tuple(model.feature_name())
    np.testing.assert_array_equal(ours.predict(rows), expected)
    single = [ours.predict(rows[row : row + 1]) for row in range(500)]
    assert {result.shape for result in single} == {(1,)} and {result.dtype for result in single} == {np.dtype(float)}
    np.testing.assert_array_equal(np.concatenate(single), expected[:500])
    for few in (*range(2, 9), 63, 64, 65):
        together = [ours.predict(rows[begin : begin + few]) for begin in range(0, 500, few)]
        np.testing.assert_array_equal(np.concatenate(together)[:500], expected[:500])


@pytest.mark.parametrize("kind", OTHERS)
def test_refuses_what_it_would_predict_otherwise(kind: str) -> None:
    parameters, message = OTHERS[kind]
    with pytest.raises(ModelError, match=re.escape(message)):
        Booster.from_text(trained(**parameters).model_to_string())


def test_a_value_on_a_threshold_goes_left_as_in_lightgbm(original: lightgbm.Booster, text: str) -> None:
    """Thresholds have 64 bits, rows 32: the nearest below, at and above each of them."""
    thresholds = [float(word) for line in re.findall("\nthreshold=(.*)", text) for word in line.split()]
    at = np.array(thresholds, np.float64).astype(np.float32)
    around = np.concatenate([at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))])
    assert (np.abs(at) < 2e-35).any()
    tiny = np.float32([1e-35, 9e-36, 1.1e-35, 1e-45, 0.0])
    around = np.concatenate([around, tiny, -tiny])
    rows = np.repeat(around[:, None], FEATURES, axis=1)
    np.testing.assert_array_equal(Booster.from_text(text).predict(rows), original.predict(rows, num_threads=1))


def test_no_rows_give_no_predictions(text: str) -> None:
    result = Booster.from_text(text).predict(np.empty((0, FEATURES), np.float32))
    assert result.shape == (0,) and result.dtype == np.float64


def test_a_result_stays_as_it_was(text: str) -> None:
    ours, rows = Booster.from_text(text), some_rows(50)
    results = [ours.predict(rows[row : row + 1]) for row in range(50)]
    assert len({result.item() for result in results}) > 40
    assert all(result.flags.writeable and result.flags.owndata for result in results)


def test_threads_share_a_booster(original: lightgbm.Booster, text: str) -> None:
    ours, rows = Booster.from_text(text), some_rows(1_000, seed=2)
    expected = original.predict(rows, num_threads=1)

    def work(seed: int) -> bool:
        chosen = random.Random(seed)
        for _ in range(200):
            start = chosen.randrange(len(rows))
            stop = chosen.choice([start + 1, start + 1, start + 70])
            result = ours.predict(rows[start:stop])
            if not np.array_equal(result, expected[start:stop]):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_one_row_keeps_the_gil(text: str) -> None:
    """Whoever gives it up waits for it until a busy thread is asked to, 5 ms as Python comes and here without end."""
    ours, row, others = Booster.from_text(text), some_rows(1), []

    def wait_for_the_gil() -> None:
        time.sleep(0.01)
        others.append("ran")

    before = sys.getswitchinterval()
    thread = threading.Thread(target=wait_for_the_gil)
    try:
        sys.setswitchinterval(100)
        thread.start()
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            ours.predict(row)
        assert not others
    finally:
        sys.setswitchinterval(before)
        thread.join()


@pytest.mark.parametrize(
    ("matrix", "received"),
    [
        (np.zeros((3, FEATURES)), "float64 of shape (3, 12)"),
        (np.zeros((1, FEATURES), ">f4"), ">f4 of shape (1, 12)"),
        (np.zeros((3, FEATURES + 1), np.float32), "float32 of shape (3, 13)"),
        (np.zeros((1, FEATURES - 1), np.float32), "float32 of shape (1, 11)"),
        (np.zeros(FEATURES, np.float32), "float32 of shape (12,)"),
        (np.zeros((FEATURES, 3), np.float32).T, "float32 of shape (3, 12), not C-contiguous"),
        (np.zeros((3, 2 * FEATURES), np.float32)[:, ::2], "float32 of shape (3, 12), not C-contiguous"),
        ([[0.0] * FEATURES], "list"),
    ],
)
def test_refuses_a_matrix_it_would_misread(text: str, matrix: Any, received: str) -> None:
    expected = f"A booster predicts a C-contiguous float32 matrix of shape (n, 12); got {received}."
    with pytest.raises(ModelError, match=f"^{re.escape(expected)}$"):
        Booster.from_text(text).predict(matrix)


def test_refuses_every_truncation(text: str) -> None:
    end = text.index("end of trees")
    for cut in [*range(0, end, 97), end, end + 5]:
        with pytest.raises(ModelError, match="This model text is damaged or not one of ours: "):
            Booster.from_text(text[:cut])


def test_survives_every_flipped_bit(text: str) -> None:
    chosen, refused, rows = random.Random(7), 0, some_rows(50)
    for _ in range(400):
        flipped = bytearray(text.encode())
        flipped[chosen.randrange(text.index("end of trees"))] ^= 1 << chosen.randrange(8)
        candidate = flipped.decode("latin-1")
        try:
            predicted = Booster.from_text(candidate).predict(rows)
        except ModelError:
            refused += 1
        else:
            assert ((predicted >= 0) & (predicted <= 1)).all()
    assert 50 < refused < 350


def edited(text: str, name: str, change: Any, tree: int = 3) -> str:
    """The text with one field of one tree changed, and its size put right."""
    start = text.index(f"Tree={tree}\n")
    line = text.index(f"\n{name}=", start) + 1
    end = text.index("\n", line)
    key, _, value = text[line:end].partition("=")
    new = f"{key}={change(value)}"
    header = re.search(r"\ntree_sizes=(.*)", text)
    assert header is not None
    sizes = header[1].split()
    sizes[tree] = str(int(sizes[tree]) + len(new) - (end - line))
    return (text[:line] + new + text[end:]).replace(header[0], "\ntree_sizes=" + " ".join(sizes), 1)


def first_number(new: str) -> Any:
    return lambda value: " ".join([new, *value.split()[1:]])


DAMAGED = {
    "a node is its own child": ("left_child", first_number("0")),
    "a leaf that is not there": ("right_child", first_number("-99")),
    "a node that is not there": ("left_child", first_number("99")),
    "a feature that is not there": ("split_feature", first_number(str(FEATURES))),
    "a feature below the first": ("split_feature", first_number("-1")),
    "a category without categories": ("decision_type", first_number("3")),
    "a way to decide that is not known": ("decision_type", first_number("64")),
    "a child of two nodes": ("left_child", lambda value: " ".join([value.split()[1], *value.split()[1:]])),
    "a threshold that is no number": ("threshold", first_number("nan")),
    "a value that is no number": ("leaf_value", first_number("x")),
    "a value that is not finite": ("leaf_value", first_number("inf")),
    "a threshold too few": ("threshold", lambda value: value.rpartition(" ")[0]),
    "a value too few": ("leaf_value", lambda value: value.rpartition(" ")[0]),
    "a leaf too many": ("num_leaves", lambda value: str(int(value) + 1)),
    "no number": ("left_child", first_number("one")),
}


def test_editing_itself_does_no_harm(text: str) -> None:
    assert edited(text, "left_child", str) == text
    Booster.from_text(edited(text, "leaf_value", first_number("0.25")))


@pytest.mark.parametrize("damage", DAMAGED)
def test_refuses_a_tree_that_would_crash_or_never_end(text: str, damage: str) -> None:
    name, change = DAMAGED[damage]
    with pytest.raises(ModelError, match=r"tree 3 of 20 does not hold together \(.+\)"):
        Booster.from_text(edited(text, name, change))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_class=1", "num_class=3", "does not say num_class=1"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=0", "num_tree_per_iteration=1"),
        ("feature_names=", "feature_name=", "its header is not LightGBM's"),
        ("tree_sizes=", "tree_sizes=x", "its header is not LightGBM's"),
        ("feature_infos=", "feature_infos=none ", "12 feature_names, but not as many feature_infos"),
        ("\n", "\r\n", "damaged or not one of ours"),
        ("leaf_value=", "leaf_value=\0", "tree 0 of 20 does not hold together"),
    ],
)
def test_says_what_is_damaged(text: str, old: str, new: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Booster.from_text(text.replace(old, new))


def test_pickles_and_copies_through_the_text(text: str) -> None:
    ours, rows = Booster.from_text(text), some_rows(20)
    for again in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert again.feature_names == ours.feature_names
        np.testing.assert_array_equal(again.predict(rows), ours.predict(rows))


def test_starts_lean(text: str) -> None:
    script = """
import sys
import numpy as np
from models.booster import Booster
Booster.from_text(sys.stdin.read()).predict(np.zeros((10, 12), np.float32))
print(sorted({"lightgbm", "sklearn", "pandas"} & set(sys.modules)))
"""
    root = Path(booster.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
