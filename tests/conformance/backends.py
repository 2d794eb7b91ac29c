"""The backends that the conformance suites run over. A new adapter is added here, and nowhere else.

``GAPS`` names the checks that a backend cannot pass, with the reason: a strict expected failure, so that the
entry has to go when the gap is closed.
"""

from __future__ import annotations

import atexit
import datetime as dt
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from conformance.bigquery import BigQueryHarness, BigQueryPartsHarness
from conformance.postgresql import PostgresHarness, PostgresPartsHarness, UnenforcedPostgresHarness
from onerow.adapters.clock import SystemClock, SystemIds
from onerow.adapters.locks.firestore import FirestoreLocks
from onerow.adapters.locks.postgresql import PostgresLocks
from onerow.adapters.locks.sqlite import SqliteLocks
from onerow.adapters.staging.files import FileParts
from onerow.adapters.warehouse.duckdb.merge import Transaction as DuckDBTransaction
from onerow.adapters.warehouse.duckdb.warehouse import DuckDBWarehouse
from onerow.adapters.warehouse.ducklake.lake import Lake, catalog_of
from onerow.adapters.warehouse.ducklake.warehouse import STAGING_SUFFIX, DuckLakeWarehouse, staging_folder
from onerow.core.rows import arrow_schema
from onerow.core.views import CURRENT, DUPLICATES, monitor_columns
from onerow.testing.conformance.harness import LOCKS, SPEC, PartStoreHarness, WarehouseHarness
from onerow.testing.conformance.lockstore import LockStoreHarness
from onerow.testing.memory_locks import MemoryLocks
from onerow.testing.memory_parts import MemoryParts
from onerow.testing.memory_tables import MemoryDatabase, Transaction, comparable
from onerow.testing.memory_warehouse import MemoryWarehouse
from support import firestore
from support import postgres as servers

if TYPE_CHECKING:
    from onerow.core.spec import TableSpec

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
        self._databases = servers.databases()
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


class FirestoreLocksHarness(LockStoreHarness):
    def __init__(self, folder: Path) -> None:
        self._scratch = firestore.Scratch()
        self._opened = []

    def store(self):
        self._opened.append(self.opener()())
        return self._opened[-1]

    def opener(self):
        return partial(FirestoreLocks, self._scratch.place, collection=self._scratch.collection)

    def close(self):
        for store in self._opened:
            store.close()
        self._scratch.clear()


LOCK_STORES = {
    "memory": MemoryLocksHarness,
    "sqlite": SqliteLocksHarness,
    "postgresql": PostgresLocksHarness,
    "firestore": FirestoreLocksHarness,
}


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


PART_STORES = {
    "memory": MemoryPartsHarness,
    "files": FilePartsHarness,
    "postgresql": PostgresPartsHarness,
    "bigquery": BigQueryPartsHarness,
}


# --- warehouses ----------------------------------------------------------------------------


class MemoryWarehouseHarness(WarehouseHarness):
    domain = "table"
    has_own_clock = True

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
        return [dict(zip(stored_names(spec), row, strict=True)) for row in rows]

    def related_rows(self, spec, suffix):
        if suffix != "_removed_duplicates":
            return {DUPLICATES: duplicates_view, CURRENT: current_view}[suffix](spec, self.table_rows(spec))
        return [
            {
                **dict(zip(stored_names(spec), one.row, strict=True)),
                "__onerow_run": one.run,
                "__onerow_removed_at": one.removed_at,
                "__onerow_reason": one.reason,
                "__onerow_batch": one.batch,
            }
            for one in self._database.tables[spec.name].removed
        ]

    def snapshot(self):
        return dict(self._database.tables)

    def go_back(self, moment):
        self._database.tables = dict(moment)

    def foreign_insert(self, spec, rows):
        self.warehouse().insert_foreign(spec, [tuple(row[name] for name in stored_names(spec)) for row in rows])

    def forget_ledger(self, spec):
        tables = self._database.tables
        tables[spec.name] = replace(tables[spec.name], ledger=())

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


def stored_names(spec):
    return [column.name for column in spec.stored_columns]


def grouped(rows, names):
    """Return the rows by the values of some columns."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def duplicates_view(spec, rows):
    """Return what the view ``<target>_duplicates`` shows: where there is no engine, there is no view of its own."""
    order, names = spec.order_by[0], (*spec.row_identity, *monitor_columns(spec))
    return [
        dict(
            zip(
                names,
                (
                    *key,
                    len(found),
                    spec.id_column and ", ".join(sorted(row[spec.id_column] for row in found if row[spec.id_column])),
                    max((row[order] for row in found if row[order] is not None), default=None),
                ),
                strict=True,
            )
        )
        for key, found in grouped(rows, spec.row_identity).items()
        if len(found) > 1
    ]


def current_view(spec, rows):
    """Return what the view ``<target>_current`` shows."""
    return [
        max(found, key=lambda row: [comparable(row[name]) for name in spec.comparison])
        for found in grouped(rows, spec.identity).values()
    ]


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
            columns = ", ".join(quoted(name) for name in stored_names(spec))
            table = connection.sql(f"select {columns} from {_target(spec)}").to_arrow_table()
        return table.cast(arrow_schema(spec.stored_columns)).to_pylist()

    def related_rows(self, spec, suffix):
        with self._connection() as connection:
            target = (*spec.target[:-1], spec.target[-1] + suffix)
            table = connection.sql(f"select * from {'.'.join(quoted(name) for name in target)}").to_arrow_table()
        return [{name: utc(value) for name, value in row.items()} for row in table.to_pylist()]

    def foreign_insert(self, spec, rows):
        table = pa.Table.from_pylist(list(rows), schema=arrow_schema(spec.stored_columns))
        columns = ", ".join(quoted(name) for name in stored_names(spec))
        with self._connection() as connection:
            connection.register("foreign_rows", table)
            connection.execute(f"insert into {_target(spec)} ({columns}) select {columns} from foreign_rows")

    def forget_ledger(self, spec):
        with self._connection() as connection:
            connection.execute("delete from onerow.ledger where table_name = ?", [spec.name])

    def foreign_delete_all(self, spec):
        with self._connection() as connection:
            connection.execute(f"delete from {_target(spec)}")

    def snapshot(self):
        return self.path.read_bytes()

    def go_back(self, moment):
        self.path.write_bytes(moment)

    def lose_data(self, part):
        self._parts.data_path(part).unlink()

    def damage_data(self, part):
        flip_a_byte(self._parts.data_path(part))


class DuckLakeHarness(WarehouseHarness):
    """What is the same with every catalog. Checks begin with a copy of a lake that install has made once."""

    transaction = DuckDBTransaction
    rounds = 3  # a transaction writes a dozen files
    prepared: ClassVar[dict[tuple[TableSpec, ...], tuple[Path, Path | str]]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_path = str(folder / "lake")
        self.catalog = self.new_catalog(folder)
        self._parts = FileParts(
            staging_folder(self.data_path), clock=SystemClock(), ids=SystemIds(), suffix=STAGING_SUFFIX
        )
        self._opened, self._calls = [], 0
        self._bystander = None

    def new_catalog(self, folder):
        """Return where the catalog of a lake in ``folder`` will be; there is none yet."""
        raise NotImplementedError

    def copy_catalog(self, source):
        """Make this harness's catalog a copy of the one at ``source``, with another data path."""
        raise NotImplementedError

    def exists(self):
        return Path(self.data_path).exists()

    @property
    def parts(self):
        return self._parts

    def warehouse(self):
        """Take turns, as with a file."""
        self._calls += 1
        if len(self._opened) < OBJECTS:
            self._opened.append(self.another_warehouse(self.catalog))
        return self._opened[self._calls % len(self._opened)]

    @contextmanager
    def another(self):
        """Give one more warehouse object, and close it."""
        with closing(self.another_warehouse(self.catalog)) as warehouse:
            yield warehouse

    def another_warehouse(self, catalog):
        return DuckLakeWarehouse(
            catalog=catalog,
            data_path=self.data_path,
            locate=self.locate,
            busy_timeout_s=30.0,
            transaction=self.transaction,
            threads=1,
        )

    def installed(self, spec=None, **changes):
        """Begin with a copy of a lake that has the usual table, or at least the control tables."""
        if not self.exists():
            usual = () if spec is not None or changes else (SPEC,)
            if usual not in self.prepared:
                self.prepared[usual] = self.prepare(usual)
            folder, catalog = self.prepared[usual]
            shutil.copytree(folder / "lake", self.data_path)
            self.copy_catalog(catalog)
            if usual:
                self.spec = SPEC
                return SPEC
        return super().installed(spec, **changes)

    def prepare(self, specs):
        """Make a lake that lives as long as the process."""
        folder = Path(tempfile.mkdtemp(prefix="onerow-lake-"))
        atexit.register(shutil.rmtree, folder)
        catalog = self.new_catalog(folder)
        warehouse = DuckLakeWarehouse(catalog=catalog, data_path=str(folder / "lake"), locate=str, threads=1)
        with closing(warehouse):
            warehouse.install(specs, lock_store=LOCKS, adopt_locks=False)
        return folder, catalog

    def locate(self, part):
        return str(self._parts.verify(part))

    def let_go(self):
        """Close every connection to the lake; the next use makes new ones."""
        for warehouse in self._opened:
            warehouse.close()
        self._opened.clear()
        if self._bystander is not None:
            self._bystander.close()
            self._bystander = None

    def close(self):
        self.let_go()

    @contextmanager
    def connection(self):
        """Attach the lake as somebody does who does not use onerow."""
        if self._bystander is None:
            self._bystander = Lake(
                catalog_of(self.catalog, busy_timeout_s=30.0), self.data_path, busy_timeout_s=30.0, threads=1
            )
        with self._bystander.open() as connection:
            yield connection

    def forget_ledger(self, spec):
        with self.connection() as connection:
            connection.execute("delete from onerow_db.onerow.ledger where table_name = ?", [spec.name])

    def foreign_fence(self, spec, partition, token):
        with self.connection() as connection:
            connection.execute(
                f"insert into onerow_db.onerow.{quoted(f'fences_{spec.name}')} values (?, ?, ?)",
                [spec.name, partition or "", token],
            )

    def table_rows(self, spec):
        with self.connection() as connection:
            columns = ", ".join(quoted(name) for name in stored_names(spec))
            table = connection.sql(f"select {columns} from {_in_lake(spec)}").to_arrow_table()
        return table.cast(arrow_schema(spec.stored_columns)).to_pylist()

    def related_rows(self, spec, suffix):
        with self.connection() as connection:
            table = connection.sql(f"select * from {_in_lake(spec, suffix)}").to_arrow_table()
        return [{name: utc(value) for name, value in row.items()} for row in table.to_pylist()]

    def foreign_insert(self, spec, rows):
        table = pa.Table.from_pylist(list(rows), schema=arrow_schema(spec.stored_columns))
        columns = ", ".join(quoted(name) for name in stored_names(spec))
        with self.connection() as connection:
            connection.register("foreign_rows", table)
            connection.execute(f"insert into {_in_lake(spec)} ({columns}) select {columns} from foreign_rows")
            connection.unregister("foreign_rows")

    def foreign_delete_all(self, spec):
        with self.connection() as connection:
            connection.execute(f"delete from {_in_lake(spec)}")

    def lose_data(self, part):
        self._parts.data_path(part).unlink()

    def damage_data(self, part):
        flip_a_byte(self._parts.data_path(part))


MOVE_LAKE = "update ducklake_metadata set value = {} where key = 'data_path'"


class DuckLakeSqliteHarness(DuckLakeHarness):
    prepared: ClassVar = {}

    def new_catalog(self, folder):
        return folder / "catalog.sqlite"

    def copy_catalog(self, source):
        shutil.copyfile(source, self.catalog)
        with closing(sqlite3.connect(self.catalog)) as connection, connection:
            connection.execute(MOVE_LAKE.format("?"), [f"{self.data_path}/"])

    def snapshot(self):
        """Copy the catalog alone: the files of a lake never change."""
        self.let_go()
        return self.catalog.read_bytes()

    def go_back(self, moment):
        self.let_go()
        self.catalog.write_bytes(moment)


class DuckLakePostgresHarness(DuckLakeHarness):
    prepared: ClassVar = {}

    def new_catalog(self, folder):
        return servers.databases().url(servers.databases().create())

    def copy_catalog(self, source, *, model=None, to=None):
        model, to = model or name_of(source), to or name_of(self.catalog)
        with servers.databases().connect() as connection:
            connection.execute(f"drop database {to}")
            connection.execute(f"create database {to} template {model} strategy file_copy")
        with servers.databases().connect(to) as connection:
            connection.execute(MOVE_LAKE.format("%s"), [f"{self.data_path}/"])

    def close(self):
        super().close()
        servers.databases().drop(name_of(self.catalog))

    def snapshot(self):
        """Copy the catalog alone: the files of a lake never change."""
        self.let_go()
        moment = servers.databases().create()
        self.copy_catalog(None, model=name_of(self.catalog), to=moment)
        return moment

    def go_back(self, moment):
        self.let_go()
        self.copy_catalog(servers.databases().url(moment))
        servers.databases().drop(moment)


def name_of(url):
    return urlsplit(url).path.lstrip("/")


def _in_lake(spec, suffix=""):
    names = ("onerow_db", *(("main",) if len(spec.target) == 1 else ()), *spec.target[:-1], spec.target[-1] + suffix)
    return ".".join(quoted(name) for name in names)


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
    "ducklake-sqlite": DuckLakeSqliteHarness,
    "ducklake-postgresql": DuckLakePostgresHarness,
    "postgresql": PostgresHarness,
    "postgresql-unenforced": UnenforcedPostgresHarness,
    "bigquery": BigQueryHarness,
}


# With either catalog a lake runs the same statements on the same files, so what they do is looked at with a SQLite
# catalog. Who wins and what is known of an end is the catalog's: these run with a PostgreSQL catalog too.
OF_THE_CATALOG = {
    "warehouse_protocol": None,
    "warehouse_outcomes": None,
    "warehouse_guarded": {
        "a_block_commits_what_it_does",
        "a_consolidation_beside_a_block_waits_or_wins",
        "two_blocks_at_once_leave_one_row",
        "the_end_of_a_block_can_be_asked_for",
    },
    "warehouse_looking": {"install_is_idempotent", "install_adds_columns", "install_refuses_another_lock_store"},
    "warehouse_merging": {"every_count_at_once"},
    "warehouse_partitions": {"partitions_of_every_type", "several_partitions_in_one_plan"},
    "warehouse_repair": {
        "the_newest_row_stays",
        "two_repairs_at_once_remove_once",
        "a_consolidation_beside_a_repair_waits_or_wins",
    },
    "warehouse_repair_ends": {"the_end_of_a_repair_can_be_asked_for", "a_warehouse_restored_to_an_earlier_moment_heals"},
    "warehouse_versions": {"versions_are_numbered_in_order_of_arrival", "two_at_once_number_apart"},
    "warehouse_views": {"the_monitor_view_shows_duplicates"},
}


def runs(backend, check):
    """Say whether a check of the warehouse's port runs over a backend: all do, but for the above."""
    if backend != "ducklake-postgresql":
        return True
    names = OF_THE_CATALOG.get(check.__module__.rpartition(".")[2], frozenset())
    return names is None or check.__name__ in names
