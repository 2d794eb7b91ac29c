"""One DuckDB file for many examples of a property: emptied between them, which is quicker than a new one."""

from __future__ import annotations

import os
import shutil

import duckdb
from hypothesis import HealthCheck, settings

from support.bench import Bench

QUICK = settings(
    deadline=None,
    database=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
"""Of every property here: no deadline, nothing kept on disk, the same examples each time in CI."""

CONTROL = ("fences", "ledger", "history")


class Arena(Bench):
    """A bench with one open store."""

    def __init__(self, folder, *, tables, table):
        super().__init__(folder, tables=tables, table=table)
        self.store = self.open()

    def close(self):
        """Close the store."""
        self.store.close()

    def use(self, table):
        """Forget everything that was staged and merged, and work on ``table``."""
        self.table, self.spec = table, self.store.tables[table]
        self.rows, self.parts = [], {}
        with duckdb.connect(str(self.database)) as connection:
            for name in CONTROL:
                connection.execute(f"delete from onerow.{name}")
            connection.execute(f'delete from "{self.spec.target[-1]}"')
        shutil.rmtree(self.folder / "staging", ignore_errors=True)
        return self
