"""The backends that the conformance suites run over. A new adapter is added here, and nowhere else.

``GAPS`` names the checks that a backend cannot pass, with the reason: a strict expected failure, so that the
entry has to go when the gap is closed.
"""

from __future__ import annotations

import datetime as dt
import os
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from onerow.adapters.clock import SystemClock, SystemIds
from onerow.adapters.locks.postgresql import PostgresLocks
from onerow.adapters.locks.sqlite import SqliteLocks
from onerow.adapters.staging.files import FileParts
from onerow.adapters.warehouse.duckdb.merge import Transaction as DuckDBTransaction
from onerow.adapters.warehouse.duckdb.warehouse import DuckDBWarehouse
from onerow.core.rows import arrow_schema
from onerow.testing.conformance.harness import SPEC, PartStoreHarness, WarehouseHarness
from onerow.testing.conformance.lockstore import LockStoreHarness
from onerow.testing.memory_locks import MemoryLocks
from onerow.testing.memory_parts import MemoryParts
from onerow.testing.memory_tables import MemoryDatabase, Transaction
from onerow.testing.memory_warehouse import MemoryWarehouse
from support.postgres import databases

if TYPE_CHECKING:
    from pathlib import Path

ONE_PROCESS = "lives in the memory of one process; the crash tests meet real stores"
GAPS: dict[tuple[str, str], str] = {
    ("memory", "no_update_is_lost_between_processes"): ONE_PROCESS,
    ("memory", "a_waiter_whose_process_was_killed_blocks_nobody"): ONE_PROCESS,
    ("memory", "a_damaged_manifest_is_an_error"): "has no manifest outside the process that somebody could damage",
    ("memory", "a_damaged_entry_is_an_error"): "has no entry outside the process that somebody could damage",
}


# --- lock stores ---------------------------------------------------------------------------


class MemoryLocksHarness(LockStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._store = MemoryLocks()

    def store(self):
        return self._store

    def opener(self):
        return None

    def close(self):
        """Nothing is open."""


class SqliteLocksHarness(LockStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "locks" / "locks.sqlite"
        self._opened = []

    def store(self):
        self._opened.append(SqliteLocks(self._path))
        return self._opened[-1]

    def opener(self):
        return partial(SqliteLocks, self._path)

    def close(self):
        for store in self._opened:
            store.close()


class PostgresLocksHarness(LockStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._databases = databases()
        self._name = self._databases.create()
        self._url = self._databases.url(self._name)
        self._opened = []

    def store(self):
        self._opened.append(PostgresLocks(self._url))
        return self._opened[-1]

    def opener(self):
        return partial(PostgresLocks, self._url)

    def close(self):
        for store in self._opened:
            store.close()
        self._databases.drop(self._name)


LOCK_STORES = {"memory": MemoryLocksHarness, "sqlite": SqliteLocksHarness, "postgresql": PostgresLocksHarness}


# --- part stores ---------------------------------------------------------------------------


class MemoryPartsHarness(PartStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._now_s = 0.0
        self._parts = MemoryParts(monotonic_s=lambda: self._now_s)

    def store(self, is_merged=None):
        if is_merged is not None:
            self._parts.is_merged = is_merged
        return self._parts

    def rows(self, part):
        names = [name for name, _ in part.columns]
        return [dict(zip(names, row, strict=True)) for row in self._parts.rows(part)]

    def lose_data(self, part):
        self._parts.lose_data(part.part_id)

    def damage_data(self, part):
        self._parts.damage_data(part.part_id)

    def damage_manifest(self, part):
        """There is none."""

    def damage_quarantine(self, table, quarantine_id):
        """There is nothing outside the process."""

    def age(self, parts, seconds):
        self._now_s += seconds

    def close(self):
        """Nothing is open."""


class FilePartsHarness(PartStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "staging"

    def store(self, is_merged=None):
        return FileParts(self._folder, clock=SystemClock(), ids=SystemIds(), is_merged=is_merged)

    def rows(self, part):
        return pq.ParquetFile(self.store().verify(part)).read().to_pylist()

    def lose_data(self, part):
        self.store().data_path(part).unlink()

    def damage_data(self, part):
        flip_a_byte(self.store().data_path(part))

    def damage_manifest(self, part):
        flip_a_byte(self.store().data_path(part).parent / f"{part.part_id}.json", at=0)

    def damage_quarantine(self, table, quarantine_id):
        (rows,) = (self.store().table_folder(table) / "quarantine").glob(f"{quarantine_id}.*.ndjson")
        flip_a_byte(rows)

    def age(self, parts, seconds):
        paths = [self.store().data_path(part).with_suffix(".retired") for part in parts]
        for path in [*paths, *(self._folder / ".tmp").glob("*")]:
            old_s = path.stat().st_mtime - seconds
            os.utime(path, (old_s, old_s))

    def close(self):
        """Nothing is open."""


def flip_a_byte(path, *, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0xFF
    path.write_bytes(bytes(data))


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

    def related_rows(self, spec, suffix):
        raise NotImplementedError(suffix)

    def foreign_insert(self, spec, rows):
        self.warehouse().insert_foreign(spec, [tuple(row[name] for name in spec.column_names) for row in rows])

    def foreign_delete_all(self, spec):
        state = self._database.tables[spec.name]
        self._database.commit(Transaction(state, "foreign", deleted=set(state.rows)))

    def foreign_fence(self, spec, partition, token):
        transaction = self._database.begin(spec.name, "foreign")
        transaction.fences.append((partition, token))
        self._database.commit(transaction)

    def lose_data(self, part):
        self._parts.lose_data(part.part_id)

    def damage_data(self, part):
        self._parts.damage_data(part.part_id)

    def close(self):
        """Nothing is open."""


class MemoryRowWarehouseHarness(MemoryWarehouseHarness):
    domain = "row"


OBJECTS = 2
_installed: list[bytes] = []


class DuckDBHarness(WarehouseHarness):
    transaction = DuckDBTransaction

    def __init__(self, folder: Path) -> None:
        self.path = folder / "warehouse.duckdb"
        self._parts = FileParts(folder / "staging", clock=SystemClock(), ids=SystemIds())
        self._opened, self._calls = [], 0

    @property
    def parts(self):
        return self._parts

    def warehouse(self):
        """Take turns: an object costs an instance of the engine; consecutive calls give different ones."""
        self._calls += 1
        if len(self._opened) < OBJECTS:
            self._opened.append(
                DuckDBWarehouse(self.path, locate=self.locate, busy_timeout_s=30.0, transaction=self.transaction)
            )
        return self._opened[self._calls % len(self._opened)]

    def installed(self, spec=None, **changes):
        """Begin with a copy of a database that holds the usual table, as install has made it once."""
        if spec is not None or changes or self.path.exists():
            return super().installed(spec, **changes)
        if _installed:
            self.path.write_bytes(_installed[0])
            self.spec = SPEC
        else:
            super().installed()
            _installed.append(self.path.read_bytes())
        return SPEC

    def locate(self, part):
        return str(self._parts.verify(part))

    def close(self):
        for warehouse in self._opened:
            warehouse.close()

    def foreign_fence(self, spec, partition, token):
        with self._connection() as connection:
            connection.execute("insert into onerow.fences values (?, ?, ?)", [spec.name, partition or "", token])

    def _connection(self):
        connection = duckdb.connect(self.path)
        connection.execute("set timezone = 'UTC'")
        return closing(connection)

    def table_rows(self, spec):
        with self._connection() as connection:
            columns = ", ".join(f'"{name}"' for name in spec.column_names)
            table = connection.sql(f"select {columns} from {_target(spec)}").to_arrow_table()
        return table.cast(arrow_schema(spec.columns)).to_pylist()

    def related_rows(self, spec, suffix):
        with self._connection() as connection:
            target = (*spec.target[:-1], spec.target[-1] + suffix)
            table = connection.sql(f"select * from {'.'.join(quoted(name) for name in target)}").to_arrow_table()
        return [{name: utc(value) for name, value in row.items()} for row in table.to_pylist()]

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
        flip_a_byte(self._parts.data_path(part))


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def utc(value):
    """Return a timestamp of an engine without zones as what it means."""
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo is None else value


def _target(spec):
    return ".".join(quoted(name) for name in spec.target)


WAREHOUSES = {
    "memory": MemoryWarehouseHarness,
    "memory-row": MemoryRowWarehouseHarness,
    "duckdb": DuckDBHarness,
}
