"""Makes ``support`` importable from every test (pytest puts this folder on the path) and shares its fixtures."""

from __future__ import annotations

import os

import pytest

from support.bench import Bench
from support.processes import Processes, Zygote


@pytest.fixture
def bench(tmp_path):
    """A configured folder with the incident's table, a DuckDB file, a SQLite lock file and Parquet staging."""
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def _zygote():
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def processes(_zygote, tmp_path):
    """Real processes; whatever of them is left at the end of the test is killed."""
    processes = Processes(_zygote, tmp_path)
    yield processes
    processes.close()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """The developer's own settings must not reach the tests."""
    for name in [name for name in os.environ if name.startswith("ONEROW_")]:
        if name != "ONEROW_TEST_SLOW":
            monkeypatch.delenv(name)
