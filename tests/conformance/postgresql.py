"""PostgreSQL under the conformance suites: one database a process, emptied between checks."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import cache

from psycopg import errors, sql

from onerow.adapters.clock import SystemClock, SystemIds
from onerow.adapters.postgresql.connection import Server
from onerow.adapters.warehouse.postgresql.guarded import Interventions
from onerow.adapters.warehouse.postgresql.install import index_name
from onerow.adapters.warehouse.postgresql.layout import check_rows, data_number, staging_table
from onerow.adapters.warehouse.postgresql.merge import Transaction
from onerow.adapters.warehouse.postgresql.parts import PostgresParts
from onerow.adapters.warehouse.postgresql.sql import PART
from onerow.adapters.warehouse.postgresql.target import related_table, schema_of, target_table
from onerow.adapters.warehouse.postgresql.warehouse import PostgresWarehouse
from onerow.core.spec import TableSpec
from onerow.testing.conformance.harness import LOCKS, SPEC, PartStoreHarness, WarehouseHarness
from onerow.testing.conformance.rows import SPEC as PART_SPEC
from support import postgres as servers


@cache
def shared_url():
    """The database of this process; connections to it are kept for all checks."""
    server = servers.databases()
    return server.url(server.create())


@cache
def shared_server():
    return Server(shared_url())


@cache
def shared_staging():
    return Server(shared_url())


_usual: list[object] = []
"""What the database has when it holds the usual table and nothing else."""


def relations(connection):
    return connection.execute(
        "select relname, oid, relnatts from pg_class "
        "where relnamespace in (select oid from pg_namespace where nspname in ('onerow', 'public', 'nba')) order by oid"
    ).fetchall()


def tables(connection):
    return connection.execute(
        "select c.oid::regclass::text from pg_class as c where relkind = 'r' "
        "and relnamespace in (select oid from pg_namespace where nspname in ('onerow', 'public'))"
    ).fetchall()


def restored():
    """Empty the tables of the usual install, if the database has them and nothing else; tell whether it has."""
    with shared_server().connection() as connection:
        found = bool(_usual) and relations(connection) == _usual[0]
        if found:
            connection.execute(_usual[1])
    return found


def emptied():
    """Empty the database."""
    _usual.clear()
    with shared_server().connection() as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute(
            "drop schema if exists onerow cascade; drop schema if exists nba cascade; "
            "drop schema public cascade; create schema public"
        )


def open_parts(is_merged=None, url=None, server=None, **options):
    return PostgresParts(
        url or shared_url(),
        control_schema="onerow",
        clock=SystemClock(),
        ids=SystemIds(),
        is_merged=is_merged or (lambda *_: False),
        server=server or shared_staging(),
        **options,
    )


class PostgresPartsHarness(PartStoreHarness):
    """Its tables are those that the suite stages for."""

    NAMES = ("predictions", "other", "flat", "t", "T", "t_x", "t-x", "t.x", "é", "e\u0301")

    def __init__(self, folder):
        emptied()
        specs = [
            TableSpec(
                name=name,
                target=(name,),
                key=PART_SPEC.key,
                order_by=PART_SPEC.order_by,
                columns=PART_SPEC.columns,
                partition=None if name == "flat" else PART_SPEC.partition,
            )
            for name in self.NAMES
        ]
        PostgresWarehouse(shared_url(), server=shared_server()).install(specs, lock_store="locks", adopt_locks=False)

    def store(self, is_merged=None):
        return open_parts(is_merged)

    def rows(self, part):
        with shared_server().connection() as connection:
            check_rows(connection, "onerow", [part])
        columns = [name for name, _ in part.columns]
        return read(shared_server(), staging_table("onerow", part.table), columns, "where {} = {}", PART, data_number(part))

    def lose_data(self, part):
        change(shared_server(), "delete from {} where {} = {}", staging_table("onerow", part.table), PART, data_number(part))

    def damage_data(self, part):
        lose_a_row(shared_server(), part)

    def damage_manifest(self, part):
        change(shared_server(), "update {} set manifest = '{{}}' where part_id = {}", sql.Identifier("onerow", "parts"), sql.Literal(part.part_id))

    def damage_quarantine(self, table, quarantine_id):
        change(
            shared_server(), "delete from {} where quarantine_id = {} and position = 2",
            sql.Identifier("onerow", "quarantine_rows"), sql.Literal(quarantine_id),
        )  # fmt: skip

    def age(self, parts, seconds):
        change(
            shared_server(), "update {} set changed_at = changed_at - make_interval(secs => {}) where number = any ({})",
            sql.Identifier("onerow", "parts"), seconds, [data_number(part) for part in parts],
        )  # fmt: skip

    def close(self):
        """Connections are shared."""


class PostgresHarness(WarehouseHarness):
    transaction = Transaction
    interventions = Interventions
    parameter = "%s"
    second_row_raises = errors.UniqueViolation
    lease_s = 30.0
    busy_timeout_s = 30.0

    def __init__(self, folder, url=None):
        """Stand on the database of this process, or on the empty one at ``url``."""
        self.url = url or shared_url()
        self.server = Server(url) if url else shared_server()
        self._begun = url is not None
        self._parts = open_parts() if url is None else open_parts(url=url, server=Server(url))

    def begin(self):
        """Empty the database, once, before anything else is done."""
        if not self._begun:
            self._begun = True
            emptied()

    def installed(self, spec=None, **changes):
        """Begin with the usual table as install has made it before, if it is there; else install it."""
        if self._begun or spec is not None or changes:
            return super().installed(spec, **changes)
        self._begun = True
        if not restored():
            emptied()
        with self.server.connection() as connection:
            if not _usual:
                super().installed()
                _usual[:] = [relations(connection)]
                names = [name for name, *_ in tables(connection)]
                again = [f"delete from {name}" for name in names if not name.endswith(".tables")]
                _usual.append("; ".join([*again, f"update onerow.tables set lock_store = '{LOCKS}'"]))
        self.spec = SPEC
        return SPEC

    @property
    def parts(self):
        self.begin()
        return self._parts

    def warehouse(self):
        self.begin()
        return PostgresWarehouse(
            self.url,
            server=self.server,
            transaction=self.transaction,
            interventions=self.interventions,
            lease_s=self.lease_s,
            busy_timeout_s=self.busy_timeout_s,
        )

    def table_rows(self, spec):
        return read(self.server, target_table(spec), [column.name for column in spec.stored_columns])

    def related_rows(self, spec, suffix):
        with self.server.connection() as connection:
            cursor = connection.execute(sql.SQL("select * from {}").format(related_table(spec, suffix)), binary=True)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, map(utc, found), strict=True)) for found in cursor]

    def foreign_insert(self, spec, rows):
        names = [column.name for column in spec.stored_columns]
        statement = sql.SQL("insert into {} ({}) values ({})").format(
            target_table(spec),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.Placeholder() * len(names)),
        )
        with self.server.connection() as connection, connection.transaction():
            for row in rows:
                connection.execute(statement, [row[name] for name in names])

    def let_go_of_key(self, spec):
        change(self.server, "drop index if exists {}", sql.Identifier(schema_of(spec), index_name(spec)))

    def forget_ledger(self, spec):
        change(self.server, "delete from {} where table_name = {}", sql.Identifier("onerow", "ledger"), sql.Literal(spec.name))

    def foreign_delete_all(self, spec):
        change(self.server, "delete from {}", target_table(spec))

    def foreign_fence(self, spec, partition, token):
        change(
            self.server, "insert into {} values ({}, {}, {})", sql.Identifier("onerow", "fences"),
            sql.Literal(spec.name), sql.Literal(partition or ""), token,
        )  # fmt: skip

    def snapshot(self):
        """Copy every table but those of the part store, all at one moment."""
        with self.server.connection() as connection, connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            names = [name for (name,) in tables(connection) if not of_parts(name)]
            return {name: copied(connection, name) for name in names}

    def go_back(self, moment):
        with self.server.connection() as connection, connection.transaction():
            for name, content in moment.items():
                connection.execute(f"delete from {name}")
                with connection.cursor().copy(f"copy {name} from stdin") as copy:
                    copy.write(content)

    def lose_data(self, part):
        change(self.server, "delete from {} where {} = {}", staging_table("onerow", part.table), PART, data_number(part))

    def damage_data(self, part):
        lose_a_row(self.server, part)

    def close(self):
        """Close connections of one's own; those of this process's database are shared."""
        if self.server is not shared_server():
            self.server.close()
            self._parts.close()


class UnenforcedPostgresHarness(PostgresHarness):
    """The engine does not hold the key: onerow alone does."""

    second_row_raises = None

    def installed(self, spec=None, **changes):
        self.begin()
        return super().installed(replace(spec or replace(SPEC, **changes), enforce=False))


def composed(text, *pieces):
    found = [piece if isinstance(piece, sql.Composable) else sql.Identifier(piece) if isinstance(piece, str) else sql.Literal(piece) for piece in pieces]
    return sql.SQL(text).format(*found)


def change(server, text, *pieces):
    with server.connection() as connection:
        connection.execute(composed(text, *pieces))


def of_parts(name):
    """Say whether a table is one of the part store's."""
    return name.startswith(("onerow.parts", "onerow.staged_", "onerow.quarantine"))


def copied(connection, name):
    with connection.cursor().copy(f"copy {name} to stdout") as copy:
        return b"".join(copy)


def lose_a_row(server, part):
    table = staging_table("onerow", part.table)
    change(server, "delete from {0} where ctid = (select min(ctid) from {0} where {1} = {2})", table, PART, data_number(part))


def read(server, table, columns, text="", *pieces):
    names = list(columns)
    statement = sql.SQL("select {} from {} ").format(sql.SQL(", ").join(map(sql.Identifier, names)), table)
    with server.connection() as connection, connection.transaction():
        connection.execute("set local timezone = 'UTC'")  # the ends of time do not fit into other zones
        found = connection.execute(statement + composed(text, *pieces), binary=True).fetchall()
    return [dict(zip(names, map(utc, values), strict=True)) for values in found]


def utc(value):
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    return value

