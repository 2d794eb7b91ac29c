"""Lakes for the tests of this folder: the harnesses of the conformance suite."""

from __future__ import annotations

from contextlib import closing

import pytest

from conformance.backends import DuckLakePostgresHarness, DuckLakeSqliteHarness


@pytest.fixture
def on_postgres(tmp_path):
    """A lake with the usual table, with a PostgreSQL catalog."""
    with closing(DuckLakePostgresHarness(tmp_path)) as harness:
        harness.installed()
        yield harness


@pytest.fixture
def on_sqlite(tmp_path):
    """A lake with the usual table, with a SQLite catalog."""
    with closing(DuckLakeSqliteHarness(tmp_path)) as harness:
        harness.installed()
        yield harness


@pytest.fixture(params=[DuckLakeSqliteHarness, DuckLakePostgresHarness], ids=["sqlite", "postgresql"])
def lake(request, tmp_path):
    """A lake with the usual table, with each catalog."""
    with closing(request.param(tmp_path)) as harness:
        harness.installed()
        yield harness
