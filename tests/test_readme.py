"""The README: every command in it works as written."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    " ".join(shlex.split(line.split("    #")[0], comments=False))
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("make", "touchstone"))
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CURLS = [block for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if block.startswith("curl")]
BIN = Path(sys.executable).parent


def test_the_readme_names_commands_of_every_sort():
    first = [command.split()[:2] for command in COMMANDS]
    assert [words[1] for words in first] == [
        "demo", "test", "simulate", "audit", "train", "backtest", "train", "promote", "monitor", "score", "push",
        "serve", "keys",
    ]  # fmt: skip


def test_make_targets_of_the_readme_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in COMMANDS:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


def test_commands_run_in_the_order_of_the_readme(tmp_path):
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    for folder in ("examples", "experiments"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for command in COMMANDS:
        if not command.startswith("touchstone") or " serve" in command:
            continue
        done = subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "build" / "scored.csv").is_file()
    assert (tmp_path / "build" / "plots" / "gains.png").is_file()
    _serve(tmp_path, environment)
    for code in PYTHON:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def _post(url, curl):
    """Sends what a command of the README sends, to a service elsewhere."""
    path, body = re.search(r":8000(\S+) .*--data '(.*)'", curl, re.DOTALL).groups()
    return httpx.post(f"{url}{path}", json=json.loads(body), timeout=300).json()


def _serve(folder, environment):
    """Serves on a free port instead of the README's, and asks what the README asks."""
    command = next(command for command in COMMANDS if " serve" in command)
    assert "--port 8000" in command
    log = folder / "serve.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            shlex.split(command.replace("8000", "0")), cwd=folder, env=environment, stdout=out, stderr=out
        )
    try:
        url = _address(log)
        answer, told = (_post(url, curl) for curl in CURLS)
        assert told == {"accepted": 1, "duplicates": 0, "quarantined": 0}
        assert answer["lead_id"] == "L-42"
        assert 0 < answer["probability"] < 1
        assert httpx.get(f"{url}/v1/model").json()["version"] == "1"
        for path in re.findall(r"`(/[a-z.]+)`", README):
            assert httpx.get(f"{url}{path}").status_code == 200
    finally:
        server.terminate()
        server.wait(120)


def _address(log):
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.1)
    return pytest.fail(f"the server did not start:\n{log.read_text()}")


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_links_of_the_readme_lead_somewhere(link):
    assert (ROOT / link).exists()
