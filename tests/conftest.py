"""Makes ``support`` importable from every test (pytest puts this folder on the path) and shares its fixtures."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from support import bigquery as projects
from support import firestore
from support import postgres as servers
from support.bench import Bench
from support.incident_system import IncidentProject
from support.processes import Processes, Zygote


@pytest.fixture
def bench(tmp_path):
    """A configured folder with the incident's table, a DuckDB file, a SQLite lock file and Parquet staging."""
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def postgres():
    """The PostgreSQL server that the tests of this process share."""
    return servers.databases()


@pytest.fixture(scope="session")
def own_postgres():
    """A PostgreSQL server that a test may stop, restart and kill; it leaves it running."""
    return servers.own_server()


@pytest.fixture
def database(postgres):
    """The URL of an empty PostgreSQL database."""
    with postgres.fresh() as name:
        yield postgres.url(name)


@pytest.fixture
def own_database(own_postgres):
    """The name of an empty database on ``own_postgres``."""
    with own_postgres.fresh() as name:
        yield name


@pytest.fixture
def bigquery_url(monkeypatch):
    """The URL of an empty dataset in a project of its own, always the emulator's, with locks that stand in a file."""
    monkeypatch.setenv(projects.EMULATOR, projects.emulator())
    monkeypatch.setenv("ONEROW_LOCKS", "sqlite:///bigquery.locks.sqlite")
    name = f"onerow-{uuid.uuid4().hex[:16]}"
    client = projects.connect(name)
    client.create_dataset("nba")
    yield f"bigquery://{name}/nba"
    for item in client.list_datasets():
        client.delete_dataset(item.reference, delete_contents=True)
    client.close()


@pytest.fixture
def moving(monkeypatch):
    """A project that has the incident's system: a dataset of BigQuery, lock documents of Firestore."""
    project = IncidentProject(monkeypatch)
    yield project
    project.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Have the emulator of BigQuery installed while other tests run, where it is not there yet."""
    needing = [item for item in items if "bigquery" in item.nodeid or "cloud]" in item.nodeid]
    if needing and not os.environ.get(projects.EMULATOR) and not os.environ.get(projects.REAL):
        threading.Thread(target=projects.environment, daemon=True).start()
        items[:] = [item for item in items if item not in needing] + needing


def pytest_unconfigure():
    """Stop the servers of this process."""
    servers.close_all()
    firestore.close_all()
    projects.close_all()


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
        if not name.startswith("ONEROW_TEST_"):
            monkeypatch.delenv(name)
