"""A configured folder and services over it: in this process, with tokens for each role."""

from __future__ import annotations

from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from onerow.bootstrap import open_store
from onerow.config import load_settings
from onerow.faces.http.app import create_coordinator, create_worker
from onerow.faces.http.security import Access
from support.bench import PREDICTIONS
from support.services import BASE, environment


@pytest.fixture
def settings(tmp_path):
    """Settings over an empty folder, with what the warehouse needs created."""
    path = tmp_path / "onerow.toml"
    path.write_text(f'warehouse = "duckdb:///w.duckdb"\n[serve]\nspool = "{tmp_path}/spool"\n{PREDICTIONS}', encoding="utf-8")
    found = load_settings(path, {})
    found = replace(found, serve=found.serve.model_copy(update={"requests_per_second": 10_000.0}))
    with open_store(found) as store:
        store.init()
    return found


@pytest.fixture
def access():
    """What the environment with a token for each role means."""
    return Access.from_environment(environment(), host="127.0.0.1")


@pytest.fixture
def serving():
    """Make clients of services that end with the test."""
    clients = []

    def serve(app, **more):
        client = TestClient(app, base_url=BASE, **more)
        client.__enter__()
        clients.append(client)
        return client

    yield serve
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def worker(settings, access, serving):
    """A client of a worker that asks for tokens; it sends none by itself."""
    return serving(create_worker(settings, access=access))


@pytest.fixture
def coordinator(settings, access, serving):
    """A client of a coordinator that asks for tokens; it sends none by itself."""
    return serving(create_coordinator(settings, access=access))
