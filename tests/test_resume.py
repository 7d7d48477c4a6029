"""A list that is killed and gone on with is the list that was never interrupted; a full disk spoils nothing."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from trained import ROOT, Trained, simulate_leads

from features import TouchstoneError, UsageError
from features.times import to_us
from models import load_bundle
from serving.batch import score_input
from serving.parts import Unwritten

AS_OF = to_us("2026-01-15")
_RUN = """
import sys
from pathlib import Path
from models import load_bundle
from serving.batch import score_input
model, source, output, as_of, resume = sys.argv[1:]
said = score_input(load_bundle(model), source, Path(output), as_of=int(as_of), reasons=1, rows=400, resume=bool(resume))
print(said.scored, flush=True)
"""


def start(trained: Trained, output: Path, *, resume: bool) -> subprocess.Popen[str]:
    """Makes a list of many parts in a process of its own."""
    command = [sys.executable, "-c", _RUN, str(trained.bundle), str(trained.leads), str(output), str(AS_OF)]
    return subprocess.Popen(
        [*command, "yes" if resume else ""], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def check_kills(trained: Trained, folder: Path, kills: int, ending: str) -> None:
    """Kills lists at random points from their first file on, one after the other, and goes on with each."""
    whole = folder / f"whole{ending}"
    begun = time.monotonic()
    process = start(trained, whole, resume=False)
    while not (folder / f"{whole.name}.parts").exists():
        time.sleep(0.002)
    first = time.monotonic() - begun
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    spent = time.monotonic() - begun - first
    rng, killed = np.random.default_rng(0), 0
    output = folder / f"killed{ending}"
    parts = folder / f"{output.name}.parts"
    for number in range(kills):
        output.write_text("the old list")
        process = start(trained, output, resume=False)
        while not parts.exists():
            time.sleep(0.002)
        time.sleep(spent * (number + rng.random()) / kills)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if parts.exists():
            # The old list is there, or the new one whole: then the end came while the parts were removed.
            finished = output.read_bytes() == whole.read_bytes()
            assert finished or output.read_text() == "the old list"
            done = _parts(parts)
            again = start(trained, output, resume=True)
            # What was done is not done again.
            seen: dict[str, int] = {}
            while again.poll() is None:
                seen |= _parts(parts)
                time.sleep(0.01)
            said = again.communicate()[1]
            assert again.returncode == 0, said
            assert finished or all(seen[name] == at for name, at in done.items() if name in seen)
        assert output.read_bytes() == whole.read_bytes()
        assert not parts.exists()
    assert killed > kills / 2
    rows = pq.read_table(whole).to_pandas() if ending == ".parquet" else pd.read_csv(whole)
    assert rows["lead_id"].is_unique and rows["lead_id"].is_monotonic_increasing and len(rows) > 500


def _parts(folder: Path) -> dict[str, int]:
    """When each part was written, of those that are there and stay while they are looked at."""
    found = {}
    with suppress(FileNotFoundError):
        for path in folder.glob("part-*.arrow"):
            found[path.name] = path.stat().st_mtime_ns
    return found


def test_killed_and_resumed_a_list_is_what_it_would_have_been(trained: Trained, tmp_path: Path) -> None:
    check_kills(trained, tmp_path, 3, ".csv")


@pytest.mark.long
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_killed_at_twenty_points(trained: Trained, tmp_path: Path, ending: str) -> None:
    check_kills(trained, tmp_path, 20, ending)


@pytest.fixture
def interrupted(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a list of which some parts are done."""
    leads = tmp_path / "leads"
    simulate_leads(leads, leads=300)
    output = tmp_path / "scored.csv"
    with monkeypatch.context() as patch:
        patch.setattr("serving.parts.os.fsync", _after(20))
        with pytest.raises(Unwritten):
            score_input(load_bundle(trained.bundle), str(leads), output, as_of=AS_OF, rows=300)
    assert 1 < len([*(tmp_path / "scored.csv.parts").glob("part-*")]) < 20
    return output


def _after(count: int):
    """What waits for the disk, and finds it full at last."""
    real, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    return fsync


def test_nothing_but_the_same_list_is_gone_on_with(trained: Trained, interrupted: Path) -> None:
    scorer, leads = load_bundle(trained.bundle), interrupted.parent / "leads"
    base = {"as_of": AS_OF, "rows": 300, "resume": True}
    for differs, model, changed in (
        ("as_of", trained.bundle, {"as_of": AS_OF + 1}),
        ("options", trained.bundle, {"reasons": 1}),
        ("options", trained.bundle, {"rows": 200}),
        ("model", trained.bundles / "logistic", {}),
    ):
        with pytest.raises(UsageError, match=f"is of another list: .*{differs}.* differ. Give the same as then"):
            score_input(load_bundle(model), str(leads), interrupted, **(base | changed))
    touches = leads / "touchpoints.csv"
    was = touches.stat()
    with touches.open("a") as handle:
        handle.write("\n")
    with pytest.raises(UsageError, match="is of another list: input differ"):
        score_input(scorer, str(leads), interrupted, **base)
    os.truncate(touches, was.st_size)
    os.utime(touches, ns=(was.st_atime_ns, was.st_mtime_ns))
    # Left out, the clock is that of then.
    resumed = score_input(scorer, str(leads), interrupted, **(base | {"as_of": None}))
    assert resumed.as_of == "2026-01-15T00:00:00Z"
    score_input(scorer, str(leads), interrupted.with_name("whole.csv"), as_of=AS_OF, rows=300)
    assert interrupted.read_bytes() == interrupted.with_name("whole.csv").read_bytes()
    assert not interrupted.with_name("scored.csv.parts").exists()


def test_without_resume_a_list_begins_anew(trained: Trained, interrupted: Path) -> None:
    scorer, leads = load_bundle(trained.bundle), str(interrupted.parent / "leads")
    score_input(scorer, leads, interrupted, as_of=AS_OF + 1, rows=300)
    score_input(scorer, leads, interrupted.with_name("whole.csv"), as_of=AS_OF + 1)
    assert interrupted.read_bytes() == interrupted.with_name("whole.csv").read_bytes()


def test_two_do_not_make_one_list(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "a.csv"
    process = start(trained, output, resume=False)
    while not (tmp_path / "a.csv.parts" / "manifest.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UsageError, match="is being made by another process"):
            score_input(load_bundle(trained.bundle), str(trained.leads), output, as_of=AS_OF)
    finally:
        process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said


def test_a_folder_of_others_is_left_alone(trained: Trained, tmp_path: Path) -> None:
    mine = tmp_path / "a.csv.parts" / "wedding.jpg"
    mine.parent.mkdir()
    mine.write_text("a picture")
    with pytest.raises(UsageError, match="holds something else than an unfinished list"):
        score_input(load_bundle(trained.bundle), str(trained.leads), tmp_path / "a.csv", as_of=AS_OF)
    assert mine.read_text() == "a picture"


@contextmanager
def files_of(limit: int) -> Iterator[None]:
    """No file may have more bytes: that of rows by lead is first to meet it, the finished list last."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [2_000, 100_000])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_where_the_disk_is_full_the_old_list_stays(trained: Trained, tmp_path: Path, limit: int, ending: str) -> None:
    scorer, output = load_bundle(trained.bundle), tmp_path / f"a{ending}"
    output.write_text("the old list")
    with files_of(limit), pytest.raises(Unwritten, match="cannot be written: File too large"):
        score_input(scorer, str(trained.leads), output, as_of=AS_OF, rows=4_000)
    assert output.read_text() == "the old list"
    said = score_input(scorer, str(trained.leads), output, as_of=AS_OF, rows=4_000, resume=True)
    rows = pd.read_csv(output) if ending == ".csv" else pd.read_parquet(output)
    assert len(rows) == said.scored > 500


def test_where_the_finished_list_alone_finds_no_room_its_parts_are_kept(trained: Trained, interrupted: Path) -> None:
    scorer, leads = load_bundle(trained.bundle), str(interrupted.parent / "leads")
    interrupted.write_text("the old list")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.parts.write_rows", _full)
        with pytest.raises(Unwritten, match="What is done is kept: make room, and go on with --resume"):
            score_input(scorer, leads, interrupted, as_of=AS_OF, rows=300, resume=True)
    assert interrupted.read_text() == "the old list"
    score_input(scorer, leads, interrupted, as_of=AS_OF, rows=300, resume=True)
    assert interrupted.read_text() != "the old list"


def _full(tables: object, path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_bad_rows_leave_nothing_to_go_on_with(trained: Trained, tmp_path: Path) -> None:
    leads = tmp_path / "leads"
    simulate_leads(leads, leads=300)
    with (leads / "touchpoints.csv").open("a") as handle:
        handle.write(handle.name)
    with pytest.raises(TouchstoneError, match=r"touchpoints.csv line \d+: "):
        score_input(load_bundle(trained.bundle), str(leads), tmp_path / "a.csv", as_of=AS_OF, rows=300)
    assert not (tmp_path / "a.csv.parts").exists() and not (tmp_path / "a.csv").exists()
