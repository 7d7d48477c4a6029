"""The booster gives LightGBM's numbers to the bit, and no model text can take the process down."""

import copy
import gc
import pickle
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from features import ModelError
from models import booster
from models.booster import Booster, check_in_child

FEATURES = 12
MODELS: dict[str, dict[str, Any]] = {
    "numbers": {},
    "categories": {"categories": [0], "min_data_per_group": 5},
    "linear": {"linear_tree": True},
    "forest": {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6},
    "stumps": {"min_data_in_leaf": 10_000},
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
    text = model.model_to_string()
    check_in_child(text)
    ours, rows = Booster.from_text(text), some_rows(2_001, seed=1)
    expected = model.predict(rows, num_threads=1)
    assert len(np.unique(expected)) > 500 or kind == "stumps"
    assert ours.feature_names == tuple(model.feature_name())
    np.testing.assert_array_equal(ours.predict(rows), expected)
    single = [ours.predict(rows[row : row + 1]) for row in range(500)]
    assert {result.shape for result in single} == {(1,)} and {result.dtype for result in single} == {np.dtype(float)}
    np.testing.assert_array_equal(np.concatenate(single), expected[:500])


def test_a_long_matrix_is_predicted_in_blocks(
    original: lightgbm.Booster, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []
    fill = Booster._fill

    def recorded(self: Booster, matrix: np.ndarray, out: np.ndarray) -> None:
        blocks.append(len(matrix))
        fill(self, matrix, out)

    monkeypatch.setattr(booster, "_BLOCK", 100)
    monkeypatch.setattr(Booster, "_fill", recorded)
    rows = some_rows(1_001)
    np.testing.assert_array_equal(Booster.from_text(text).predict(rows), original.predict(rows))
    assert blocks == [100] * 10 + [1]


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
    for cut in [0, 1, *(end * part // 18 for part in range(1, 18)), end + 5]:
        for use in (check_in_child, Booster.from_text):
            with pytest.raises(ModelError, match="This model text is damaged or not one of ours: "):
                use(text[:cut])


def test_survives_every_flipped_bit(text: str) -> None:
    chosen, refused, rows = random.Random(7), 0, some_rows(50)
    for _ in range(40):
        flipped = bytearray(text.encode())
        flipped[chosen.randrange(text.index("end of trees"))] ^= 1 << chosen.randrange(8)
        candidate = flipped.decode("latin-1")
        try:
            check_in_child(candidate)
        except ModelError:
            refused += 1
        else:
            Booster.from_text(candidate).predict(rows)
    assert 5 < refused < 35


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
    "a threshold too few": ("threshold", lambda value: value.rpartition(" ")[0]),
    "a value too few": ("leaf_value", lambda value: value.rpartition(" ")[0]),
    "a leaf too many": ("num_leaves", lambda value: str(int(value) + 1)),
    "no number": ("left_child", first_number("one")),
}


def test_editing_itself_does_no_harm(text: str) -> None:
    assert edited(text, "left_child", str) == text
    check_in_child(edited(text, "leaf_value", first_number("0.25")))


@pytest.mark.parametrize("damage", DAMAGED)
def test_refuses_a_tree_that_would_crash_or_never_end(text: str, damage: str) -> None:
    name, change = DAMAGED[damage]
    for use in (check_in_child, Booster.from_text):
        with pytest.raises(ModelError, match="tree 3 of 20 does not hold together"):
            use(edited(text, name, change))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_class=1", "num_class=3", "does not say num_class=1"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=0", "num_tree_per_iteration=1"),
        ("feature_names=", "feature_name=", "its header is not LightGBM's"),
        ("tree_sizes=", "tree_sizes=x", "its header is not LightGBM's"),
        ("feature_infos=", "feature_infos=none ", "damaged or not one of ours: Wrong size of feature_infos"),
        ("\n", "\r\n", "damaged or not one of ours"),
        ("leaf_value=", "leaf_value=\0", "characters that LightGBM does not write"),
    ],
)
def test_says_what_is_damaged(text: str, old: str, new: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Booster.from_text(text.replace(old, new))


def unchecked(monkeypatch: pytest.MonkeyPatch, trees: int, loadable: str) -> None:
    """Lets a text past the checks, as one that they do not know how to refuse would be."""
    names = tuple(f"feature_{number}" for number in range(FEATURES))
    monkeypatch.setattr(booster, "_checked", lambda text: booster._Model(names, trees, loadable.encode()))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no signals")
def test_a_text_that_kills_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked(monkeypatch, 20, text[: len(text) // 3])
    with pytest.raises(ModelError, match=r"a process that tried it died of SIG(ABRT|SEGV)"):
        check_in_child(text)


def test_a_text_that_never_ends_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = edited(edited(text, "left_child", first_number("0")), "right_child", first_number("0"))
    unchecked(monkeypatch, 20, endless)
    with pytest.raises(ModelError, match="had not finished after 1 s"):
        check_in_child(text, timeout=1)


def test_a_text_that_lightgbm_reads_in_part_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked(monkeypatch, 21, text)
    for use in (check_in_child, Booster.from_text):
        with pytest.raises(ModelError, match="LightGBM reads 20 of its 21 trees"):
            use(text)


def test_what_lightgbm_says_is_passed_on(text: str) -> None:
    for use in (check_in_child, Booster.from_text):
        with pytest.raises(ModelError, match="damaged or not one of ours: no conversion to double for: x"):
            use(edited(text, "leaf_value", first_number("x")))


def test_a_model_that_predicts_no_number_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"it predicts \[nan"):
        check_in_child(edited(text, "leaf_value", lambda value: " ".join("nan" for _ in value.split())))


def test_pickles_and_copies_through_the_text(text: str) -> None:
    ours, rows = Booster.from_text(text), some_rows(20)
    for again in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert again.feature_names == ours.feature_names
        np.testing.assert_array_equal(again.predict(rows), ours.predict(rows))


def test_frees_its_memory(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[tuple[object, ...]] = []
    free = booster._free

    def recorded(*handles: Any) -> None:
        freed.append(tuple(handle.value for handle in handles[1:]))
        free(*handles)

    monkeypatch.setattr(booster, "_free", recorded)
    ours = Booster.from_text(text)
    ours.predict(some_rows(1))
    handles = (ours._handle.value, ours._fast.value)
    assert all(handles) and not freed
    del ours
    gc.collect()
    assert freed == [handles]


def test_starts_lean_and_survives_a_fork(text: str) -> None:
    script = """
import os, signal, sys
import numpy as np
from models.booster import Booster, check_in_child
text = sys.stdin.read()
check_in_child(text)
rows = np.zeros((10, 12), np.float32)
Booster.from_text(text).predict(rows)
print(sorted({"lightgbm", "sklearn", "pandas"} & set(sys.modules)))
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        Booster.from_text(text).predict(rows)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child of a fork hangs"
"""
    root = Path(booster.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.fixture
def library_not_loaded() -> Any:
    booster._library.cache_clear()
    yield
    booster._library.cache_clear()


@pytest.mark.usefixtures("library_not_loaded")
@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("libgomp.so.1: cannot open shared object file: No such file or directory", r"Install libgomp1 \(Debian"),
        ("Library not loaded: @rpath/libomp.dylib", r"libomp \(Homebrew\)"),
        ("file too short", "Install lightgbm again. Reason: file too short"),
    ],
)
def test_says_which_library_is_missing(text: str, monkeypatch: pytest.MonkeyPatch, reason: str, message: str) -> None:
    def fail(path: str) -> None:
        raise OSError(reason)

    monkeypatch.setattr("ctypes.CDLL", fail)
    with pytest.raises(ModelError, match=message):
        Booster.from_text(text)


@pytest.mark.usefixtures("library_not_loaded")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "LightGBM is not installed here"),
        (ModuleSpec("lightgbm", None, origin="/nowhere/lightgbm/__init__.py"), "is not in /nowhere/lightgbm/lib"),
    ],
)
def test_says_that_lightgbm_is_missing(
    text: str, monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None, message: str
) -> None:
    monkeypatch.setattr(booster, "find_spec", lambda name: spec)
    with pytest.raises(ModelError, match=message):
        Booster.from_text(text)
