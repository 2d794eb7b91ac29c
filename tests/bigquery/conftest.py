"""BigQuery for one test: two empty datasets, and a line to the service that can be cut."""

from __future__ import annotations

import os
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from onerow.adapters.bigquery.address import EMULATOR
from onerow.adapters.bigquery.client import BigQuery
from onerow.adapters.clock import SystemClock
from onerow.adapters.warehouse.bigquery.install import install
from onerow.adapters.warehouse.bigquery.parts import BigQueryParts
from onerow.testing.conformance.harness import SPEC
from onerow.testing.proxy import Proxy
from support import bigquery as projects


class Bench:
    """Two datasets of a project: one for targets and one for control tables, which is there but empty."""

    def __init__(self):
        self.project = projects.project()
        self.dataset = self.project.create()
        self.control = self.project.create()
        self._opened = []
        self.client = self.open()
        self.api = self.project.client

    def open(self, **options):
        """Return another client, as another process would have it."""
        self._opened.append(BigQuery(self.project.url(self.dataset), control=self.control, **options))
        return self._opened[-1]

    def parts(self, client=None, is_merged=None):
        """Return a part store."""
        return BigQueryParts(client or self.client, clock=SystemClock(), is_merged=is_merged or (lambda *_: False))

    def install(self, spec=SPEC, **changes):
        """Install a table; return its spec and what was made."""
        spec = replace(spec, **changes) if changes else spec
        return spec, install(self.client, [spec], lock_store="locks", adopt_locks=False)

    def change(self, table, fields, **values):
        """Change properties of a table, as a person does in the console."""
        found = self.api.get_table(table.reference)
        for name, value in values.items():
            setattr(found, name, value)
        self.api.update_table(found, fields)

    def close(self):
        for client in self._opened:
            client.close()
        for dataset in (self.dataset, self.control):
            self.project.drop(dataset)


@pytest.fixture
def bq():
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def line(bq, monkeypatch):
    """A line to the emulator that can be cut; ``bq.open`` goes over it from now on."""
    place = urlsplit(os.environ[EMULATOR])
    with Proxy((place.hostname, place.port)) as proxy:
        monkeypatch.setenv(EMULATOR, f"http://127.0.0.1:{proxy.port}")
        yield proxy
