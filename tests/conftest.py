"""What every test may lean on: how hard hypothesis tries, and what is outside the repository.

Some tests need something that a clone does not hold. Each such need has a name. Where it is missing its tests are
skipped with the reason; where TOUCHSTONE_REQUIRE lists its name (comma-separated, as in CI) they fail instead.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Two workers on two cores: threads of theirs would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NEEDS = ("java", "node", "postgres", "shared-data")

pytest_plugins = ("pytester", "stores", "trained", "tracked")

# The same examples on every machine, so that what passes here passes in CI; `make test-long` looks for new ones.
settings.register_profile("default", deadline=None, max_examples=200, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile(os.environ.get("TOUCHSTONE_HYPOTHESIS", "default"))


def _required() -> set[str]:
    return {name.strip() for name in os.environ.get("TOUCHSTONE_REQUIRE", "").split(",")} - {""}


def pytest_configure() -> None:
    if unknown := _required() - set(NEEDS):
        raise pytest.UsageError(f"TOUCHSTONE_REQUIRE names {sorted(unknown)}. Known: {', '.join(NEEDS)}.")


@pytest.fixture(scope="session")
def missing() -> Callable[[str, str], None]:
    """Ends the test that needs `name`: fails it where the need is required, else skips it."""

    def end(name: str, reason: str) -> None:
        assert name in NEEDS
        if name in _required():
            pytest.fail(f"{name} is required, but {reason}", pytrace=False)
        pytest.skip(f"needs {name}: {reason}")

    return end


@pytest.fixture(scope="session")
def shared_data(missing: Callable[[str, str], None]) -> Path:
    """The folder of real public data sets, one folder each."""
    folder = os.environ.get("TOUCHSTONE_SHARED_DATA")
    if not folder:
        missing("shared-data", "TOUCHSTONE_SHARED_DATA is not set")
    elif not Path(folder).is_dir():
        missing("shared-data", f"TOUCHSTONE_SHARED_DATA='{folder}' is not a folder")
    return Path(str(folder))
