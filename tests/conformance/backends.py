"""The backends that the conformance suites run over. A new adapter is added here, and nowhere else.

``GAPS`` names the checks that a backend cannot pass, with the reason: a strict expected failure, so that the
entry has to go when the gap is closed.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
from onerow.adapters.clock import SystemClock, SystemIds
from onerow.adapters.locks.sqlite import SqliteLocks
from onerow.adapters.staging.files import FileParts
from onerow.adapters.warehouse.duckdb.warehouse import DuckDBWarehouse
from onerow.core.rows import arrow_schema
from onerow.testing.conformance.harness import PartStoreHarness, WarehouseHarness
from onerow.testing.memory_locks import MemoryLocks
from onerow.testing.memory_parts import MemoryParts
from onerow.testing.memory_tables import MemoryDatabase, Transaction
from onerow.testing.memory_warehouse import MemoryWarehouse

GAPS: dict[tuple[str, str], str] = {}


# --- lock stores ---------------------------------------------------------------------------


class MemoryLocksHarness:
    def __init__(self, folder: Path) -> None:
        self._store = MemoryLocks()

    def open(self):
        return self._store

    def close(self):
        """Nothing is open."""


class SqliteLocksHarness:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "locks.sqlite"
        self._opened = []

    def open(self):
        self._opened.append(SqliteLocks(self._path))
        return self._opened[-1]

    def close(self):
        for store in self._opened:
            store.close()


LOCK_STORES = {"memory": MemoryLocksHarness, "sqlite": SqliteLocksHarness}


# --- part stores ---------------------------------------------------------------------------


class MemoryPartsHarness(PartStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._parts = MemoryParts()

    @property
    def parts(self):
        return self._parts


class FilePartsHarness(PartStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "staging"
        self._parts = self.reopened()

    @property
    def parts(self):
        return self._parts

    def reopened(self):
        return FileParts(self._folder, clock=SystemClock(), ids=SystemIds())


PART_STORES = {"memory": MemoryPartsHarness, "files": FilePartsHarness}


# --- warehouses ----------------------------------------------------------------------------


class MemoryWarehouseHarness(WarehouseHarness):
    domain = "table"

    def __init__(self, folder: Path) -> None:
        self._parts = MemoryParts()
        self._database = MemoryDatabase()

    @property
    def parts(self):
        return self._parts

    def warehouse(self):
        return MemoryWarehouse(parts=self._parts, database=self._database, commit_domain=self.domain)

    def table_rows(self, spec):
        rows = self._database.tables[spec.name].rows.values()
        return [dict(zip(spec.column_names, row, strict=True)) for row in rows]

    def foreign_insert(self, spec, rows):
        self.warehouse().insert_foreign(spec, [tuple(row[name] for name in spec.column_names) for row in rows])

    def foreign_delete_all(self, spec):
        state = self._database.tables[spec.name]
        self._database.commit(Transaction(state, "foreign", deleted=set(state.rows)))

    def lose_data(self, part):
        self._parts.lose_data(part.part_id)

    def damage_data(self, part):
        self._parts.damage_data(part.part_id)


class MemoryRowWarehouseHarness(MemoryWarehouseHarness):
    domain = "row"


class DuckDBHarness(WarehouseHarness):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "warehouse.duckdb"
        self._parts = FileParts(folder / "staging", clock=SystemClock(), ids=SystemIds())
        self._opened = []

    @property
    def parts(self):
        return self._parts

    def warehouse(self):
        self._opened.append(
            DuckDBWarehouse(self._path, locate=lambda part: str(self._parts.verify(part)), busy_timeout_s=30.0)
        )
        return self._opened[-1]

    def close(self):
        for warehouse in self._opened:
            warehouse.close()

    def _connection(self):
        for warehouse in self._opened:  # DuckDB lets one configuration at a time have a file
            warehouse.close()
        connection = duckdb.connect(self._path)
        connection.execute("set timezone = 'UTC'")
        return closing(connection)

    def table_rows(self, spec):
        with self._connection() as connection:
            columns = ", ".join(f'"{name}"' for name in spec.column_names)
            table = connection.execute(f"select {columns} from {_target(spec)}").to_arrow_table()
        return table.cast(arrow_schema(spec.columns)).to_pylist()

    def foreign_insert(self, spec, rows):
        table = pa.Table.from_pylist(list(rows), schema=arrow_schema(spec.columns))
        columns = ", ".join(f'"{name}"' for name in spec.column_names)
        with self._connection() as connection:
            connection.register("foreign_rows", table)
            connection.execute(f"insert into {_target(spec)} ({columns}) select {columns} from foreign_rows")

    def foreign_delete_all(self, spec):
        with self._connection() as connection:
            connection.execute(f"delete from {_target(spec)}")

    def lose_data(self, part):
        self._parts.data_path(part).unlink()

    def damage_data(self, part):
        path = self._parts.data_path(part)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))


def _target(spec):
    return ".".join(f'"{name}"' for name in spec.target)


WAREHOUSES = {
    "memory": MemoryWarehouseHarness,
    "memory-row": MemoryRowWarehouseHarness,
    "duckdb": DuckDBHarness,
}
