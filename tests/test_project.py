"""The set-up of the project itself: commands, dependencies and the lock say the same everywhere."""

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import settings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE))

REQUIREMENTS = [
    Requirement(text)
    for texts in (
        PYPROJECT["build-system"]["requires"],
        PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"].values(),
    )
    for text in texts
]


def make(*arguments: str) -> list[str]:
    # The make that runs these tests must not pass its own flags on.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.check_output(command, cwd=ROOT, env=environment, text=True).splitlines()


def test_make_help_lists_every_target() -> None:
    declared = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = [line.split()[1] for line in make("help")]
    assert listed == declared
    assert re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE) == [" ".join(declared)]


def test_make_alone_prints_help() -> None:
    assert make() == make("help")


def test_make_check_and_pre_commit_run_the_same_commands() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == make("--dry-run", "--assume-old=.venv/.ready", "check")
    assert not any(hook["pass_filenames"] for hook in hooks)


def test_continuous_integration_runs_make_check_and_make_test() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make check" in script
    assert "make test" in script


def test_make_test_long_gives_every_property_ten_thousand_examples() -> None:
    """Hypothesis marks what is a property; a property with a number of its own would not follow the profile."""
    (command,) = make("--dry-run", "--assume-old=.venv/.ready", "test-long")
    assert command.startswith("TOUCHSTONE_HYPOTHESIS=long ") and '-m "hypothesis or long"' in command
    assert settings.get_profile("long").max_examples == 10_000
    assert settings.get_profile("default").max_examples == 200
    own = re.compile(r"^@settings\(.*max_examples", re.MULTILINE)
    assert not [path.name for path in (ROOT / "tests").glob("*.py") if own.search(path.read_text())]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_a_lower_bound_that_the_lock_keeps(requirement: Requirement) -> None:
    assert ">=" in {specifier.operator for specifier in requirement.specifier}
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, "not in requirements.lock: run make lock"
    assert requirement.specifier.contains(pin), f"requirements.lock has {pin}: run make lock"


def test_the_lock_names_no_address_and_no_index() -> None:
    assert not re.findall(r".*(?:https?:|file:|--(?:extra-)?index-url|--find-links).*", LOCK)


def test_every_locked_package_has_a_hash() -> None:
    packages = re.split(r"^(?=[^\s#])", LOCK, flags=re.MULTILINE)[1:]
    assert len(packages) == len(re.findall(r"^[^\s#]", LOCK, re.MULTILINE)) > 100
    assert not [package.splitlines()[0] for package in packages if "--hash=sha256:" not in package]


def test_the_command_line_does_not_import_mlflow() -> None:
    # import-linter sees packages only, and touchstone.py is a module.
    tree = ast.parse((ROOT / "touchstone.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [ast.unparse(node) for node in imports if "mlflow" in ast.unparse(node)]


@pytest.mark.parametrize(
    ("folder", "required", "outcome", "reason"),
    [
        (None, "", "skipped", "needs shared-data: TOUCHSTONE_SHARED_DATA is not set"),
        (None, "shared-data", "errors", "shared-data is required, but TOUCHSTONE_SHARED_DATA is not set"),
        ("nowhere", "", "skipped", "needs shared-data: TOUCHSTONE_SHARED_DATA='nowhere' is not a folder"),
        ("nowhere", "shared-data", "errors", "required, but TOUCHSTONE_SHARED_DATA='nowhere' is not a folder"),
        (".", "shared-data", "passed", ""),
    ],
)
def test_what_is_outside_the_repository_is_skipped_or_required(
    folder: str | None,
    required: str,
    outcome: str,
    reason: str,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile("def test_data(shared_data): assert shared_data.is_dir()")
    monkeypatch.setenv("TOUCHSTONE_REQUIRE", required)
    if folder is None:
        monkeypatch.delenv("TOUCHSTONE_SHARED_DATA", raising=False)
    else:
        monkeypatch.setenv("TOUCHSTONE_SHARED_DATA", folder)
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(**{outcome: 1})
    assert reason in result.stdout.str()


def test_an_unknown_need_is_refused(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    monkeypatch.setenv("TOUCHSTONE_REQUIRE", "shared-dta")
    complaint = pytester.runpytest_subprocess().stderr.str()
    assert "TOUCHSTONE_REQUIRE names ['shared-dta']. Known: java, node, postgres, shared-data." in complaint
