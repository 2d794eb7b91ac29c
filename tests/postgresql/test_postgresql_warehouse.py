"""PostgreSQL as warehouse and staging where only PostgreSQL can be asked: faults of the server, sessions, types."""

from __future__ import annotations

import datetime as dt
import math
import multiprocessing
import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from conformance.postgresql import PostgresHarness, open_parts
from onerow.adapters.postgresql.connection import Server
from onerow.adapters.warehouse.postgresql import merge, spool
from onerow.adapters.warehouse.postgresql.merge import Transaction
from onerow.adapters.warehouse.postgresql.warehouse import PostgresWarehouse
from onerow.core.plans import Committed, Refused, Unknown
from onerow.core.rows import arrow_schema
from onerow.core.spec import Column
from onerow.core.types import ColumnType, parse_type
from onerow.errors import ConfigurationError, DuplicatesError, RowRefusedError, VerificationError, WarehouseBusyError
from onerow.testing.conformance.asking import Beside, eventually, raises, together
from onerow.testing.conformance.harness import (
    DAY,
    LOCKS,
    NEXT_DAY,
    SPEC,
    Watch,
    a_row,
    assert_table,
    at,
    counted,
    refused,
)
from onerow.testing.proxy import Proxy
from support import postgres as servers

COMMIT = b"Q\x00\x00\x00\x0bcommit\x00"
STEPS = ("guard", "token", "todo", "merge", "verify", "record")


@pytest.fixture
def harness(database):
    with closing(PostgresHarness(None, database)) as opened:
        opened.installed()
        yield opened


def terminated(harness):
    with psycopg.connect(harness.url, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and state = 'idle in transaction'"
        )


# --- few round trips ----------------------------------------------------------------------------


def test_a_small_merge_is_nineteen_round_trips(harness):
    """Guards, begin, target (2), staged rows (2); guard (3), token (3), todo, merge, verify (2), record (2), commit."""
    for number in range(3):
        harness.stage("b1", f"w{number}", [a_row(player=f"player {number}")])
    with Proxy(servers.address(harness.url)) as proxy:
        warehouse = PostgresWarehouse(servers.through(harness.url, proxy.port))
        warehouse.merged("props", "b1")  # it is connected now
        asked = []
        proxy.cut_when(lambda asks: bool(asked.append(asks)), when="before")
        outcome = harness.apply(harness.plan("b1"), on=warehouse)
        warehouse.close()
    assert counted(outcome) == (3, 3, 0, 0, 0)
    # Each is what was asked since the server's last answer: one that begins like the one before goes on with it.
    trips = sum(not asks.startswith(before) for before, asks in pairwise([b"none", *asked]))
    with harness.server.connection() as connection:
        tells = connection.info.server_version >= merge.TELLS_MERGED
    assert trips == (19 if tells else 20)


@pytest.mark.parametrize("tells", [True, False])
def test_both_ways_to_merge_count_the_same(harness, monkeypatch, tells):
    """A server before version 17 does not tell what became of the rows: they are counted before."""
    if not tells:
        monkeypatch.setattr(merge, "TELLS_MERGED", 10**9)
    names = ("stays", "is newer", "is older")
    harness.stage("b1", "w1", [a_row(player=name, created_at=at(5)) for name in names])
    assert counted(harness.merge("b1")) == (3, 3, 0, 0, 0)
    later = {"stays": 5, "is newer": 6, "is older": 4, "is new": 0}
    rows = [a_row(player=name, created_at=at(seconds)) for name, seconds in later.items()]
    again = [a_row(player="is newer", created_at=at(6)), a_row(player="is new", created_at=at(-1))]
    harness.stage("b2", "w1", rows)
    harness.stage("b2", "w2", again)
    assert counted(harness.merge("b2")) == (6, 1, 1, 2, 2)
    assert_table(
        harness,
        [a_row(player=name, created_at=at(seconds)) for name, seconds in {**later, "is older": 5}.items()],
    )


@pytest.mark.parametrize("tells", [True, False])
def test_a_trigger_that_turns_a_row_away_is_noticed(harness, monkeypatch, tells):
    if not tells:
        monkeypatch.setattr(merge, "TELLS_MERGED", 10**9)
    with harness.server.connection() as connection:
        connection.execute("create function away() returns trigger language plpgsql as 'begin return null; end'")
        connection.execute(
            "create trigger away before insert on props for each row when (new.player = 'unwanted') "
            "execute function away()"
        )
    harness.stage("b1", "w1", [a_row(), a_row(player="unwanted")])
    assert isinstance(refused(harness.merge("b1"), "failed").error, VerificationError)
    assert_table(harness, [])


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_backend_that_is_terminated_is_a_conflict(harness, step):
    class Fatal(Transaction):
        pass

    def fail(self, *arguments):
        terminated(harness)
        return getattr(Transaction, step)(self, *arguments)

    setattr(Fatal, step, fail)
    harness.stage("b1", "w1", [a_row()])
    harness.transaction = Fatal
    refused(harness.merge("b1"), "conflict")
    assert_table(harness, [])
    harness.transaction = Transaction
    assert counted(harness.merge("b1", attempt=2)) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_reply_is_lost_is_unknown_and_resolved(harness, when):
    harness.stage("b1", "w1", [a_row()])
    with Proxy(servers.address(harness.url)) as proxy:
        warehouse = PostgresWarehouse(servers.through(harness.url, proxy.port))
        cut = proxy.cut_when(lambda asked: COMMIT in asked, when=when)
        plan = harness.plan("b1")
        outcome = harness.apply(plan, on=warehouse)
        assert cut.is_set()
        assert isinstance(outcome, Unknown)
        found = warehouse.resolve(plan)
        if when == "after":
            assert isinstance(found, Committed)
            assert found.read_back
            assert_table(harness, [a_row()])
        else:
            refused(found, "conflict")
            assert_table(harness, [])
            assert isinstance(harness.apply(replace(plan, attempt=2), on=warehouse), Committed)
        warehouse.close()


@pytest.mark.parametrize("how", ["immediate", "kill"])
def test_a_server_that_restarts_in_the_middle_is_met_again(own_postgres, own_database, how):
    with closing(PostgresHarness(None, own_postgres.url(own_database))) as harness:
        harness.installed()
        harness.stage("b1", "w1", [a_row()])
        warehouse = harness.warehouse()

        def restart():
            if how == "kill":
                own_postgres.kill()
                own_postgres.start()
            else:
                own_postgres.restart(immediate=True)

        plan = harness.plan("b1")
        outcome = harness.apply(plan, before_commit=restart, on=warehouse)
        assert isinstance(outcome, Unknown), "the COMMIT was on its way when the connection was found dead"
        refused(warehouse.resolve(plan), "conflict")
        assert_table(harness, [])
        assert isinstance(harness.apply(replace(plan, attempt=2), on=warehouse), Committed)
        harness.stage("b2", "w1", [a_row(created_at=at(1))])
        assert counted(harness.merge("b2", run="run2")) == (1, 0, 1, 0, 0)


def freeze(url, plan):
    """Stop this process inside its transaction, with everything done but the commit."""
    with closing(PostgresHarness(None, url)) as harness:
        harness.lease_s = 1.0
        harness.apply(plan, before_commit=lambda: os.kill(os.getpid(), signal.SIGSTOP))


def test_a_frozen_holder_is_out_after_its_lease(harness):
    harness.lease_s = 1.0
    harness.stage("b1", "w1", [a_row()])
    plan = harness.plan("b1", token=1)
    child = multiprocessing.get_context("spawn").Process(target=freeze, args=(harness.url, plan))
    child.start()
    try:
        with psycopg.connect(harness.url, autocommit=True) as other:
            holds = "select count(*) from pg_locks where relation = 'onerow.ledger'::regclass"
            eventually(lambda: other.execute(holds).fetchone()[0] > 0, "the child is in its transaction")
        began_s = time.monotonic()
        outcome = harness.apply(replace(plan, attempt=2))
        assert isinstance(outcome, Committed)
        assert time.monotonic() - began_s < 3.0
    finally:
        os.kill(child.pid, signal.SIGCONT)
        child.join(20)
    assert_table(harness, [a_row()])
    assert [entry.attempt for entry in harness.warehouse().history(table="props", batch="b1", limit=9)] == [2]


def test_a_wait_that_takes_too_long_names_who_is_in_the_way(harness):
    harness.busy_timeout_s = 3.0  # time for several looks at who is in the way, on a slow machine too
    harness.stage("b1", "w1", [a_row()])
    plan = harness.plan("b1")
    with psycopg.connect(harness.url, application_name="somebody else") as other:
        with harness.warehouse().prepare(plan):
            """The guard row is there now."""
        other.execute("select * from onerow.guards for update")
        refusal = refused(harness.apply(plan), "conflict")
        assert isinstance(refusal.error, WarehouseBusyError)
        assert f"process {other.info.backend_pid} of user postgres (somebody else" in refusal.error.message
        found = harness.warehouse().resolve(plan)
        assert isinstance(found, Unknown)
        assert isinstance(found.error, WarehouseBusyError)
    assert isinstance(harness.apply(plan), Committed)


def test_partitions_of_one_table_do_not_wait_for_each_other(harness):
    harness.busy_timeout_s = 1.0
    harness.stage("b1", "w1", [a_row()])
    harness.stage("b2", "w1", [a_row(game_date=NEXT_DAY)])
    second = []
    first = harness.apply(
        harness.plan("b1"), before_commit=lambda: second.append(Beside(lambda: harness.merge("b2", run="r2")).result())
    )
    assert isinstance(first, Committed)
    assert isinstance(second[0], Committed)
    with harness.server.connection() as connection:
        guards = connection.execute("select partition, attempt from onerow.guards order by 1").fetchall()
        fences = connection.execute("select partition, token from onerow.fences order by 1").fetchall()
    assert guards == [(DAY.isoformat(), 1), (NEXT_DAY.isoformat(), 1)]
    assert fences == [(DAY.isoformat(), 1), (NEXT_DAY.isoformat(), 1)]


def test_nothing_of_a_session_outlives_a_transaction(harness):
    """So that a pooler, which gives every transaction another session, may sit between."""
    warehouse = harness.warehouse()
    harness.stage("b1", "w1", [a_row(), a_row(created_at=at(1))])
    assert isinstance(harness.apply(harness.plan("b1"), on=warehouse), Committed)
    with harness.server.connection() as connection:
        left = connection.execute(
            "select (select count(*) from pg_class where relnamespace = pg_my_temp_schema()), "
            "(select count(*) from pg_prepared_statements), (select count(*) from pg_locks where locktype = 'advisory'), "
            "(select count(*) from pg_settings where source = 'session' and name <> 'client_encoding')"
        ).fetchone()
    assert left == (0, 0, 0, 0)


# --- installing --------------------------------------------------------------------------------


def test_several_inits_at_once(database):
    def install():
        warehouse = PostgresWarehouse(database)
        try:
            return list(warehouse.install([SPEC], lock_store=LOCKS, adopt_locks=False))
        finally:
            warehouse.close()

    made = together([install] * 4)
    assert sorted(bool(lines) for lines in made) == [False, False, False, True]


def adopt(harness, definition, **changes):
    spec = replace(SPEC, name="adopted", target=("adopted",), **changes)
    with harness.server.connection() as connection:
        connection.execute(f"create table adopted ({definition})")
    harness.warehouse().install([spec], lock_store=LOCKS, adopt_locks=False)
    harness.spec = spec
    return spec


ADOPTED = (
    'id varchar(40), game_date date, player varchar(20) collate "POSIX", line numeric, '
    "created_at timestamp, points double precision, seen integer"
)


def test_an_existing_table_with_harmless_types_is_adopted(harness):
    adopt(harness, ADOPTED)
    rows = [a_row(player=text, line=line) for text in ("Z", "a", "é", None) for line in (None, Decimal("24.50"))]
    harness.stage("b1", "w1", rows)
    assert counted(harness.merge("b1")) == (8, 8, 0, 0, 0)
    newer = [{**row, "created_at": at(0.000001), "id": "newer"} for row in rows[:3]]
    harness.stage("b2", "w1", [*rows, *newer])
    assert counted(harness.merge("b2", run="r2")) == (11, 0, 3, 5, 3)
    assert_table(harness, [*newer, *rows[3:]])


def test_a_value_that_an_adopted_column_cannot_hold_is_refused_whole(harness):
    adopt(harness, ADOPTED)
    for number, row in enumerate((a_row(player="x" * 21), a_row(seen=2**40))):
        harness.stage(f"b{number}", "w1", [a_row(player="good"), row])
        assert isinstance(refused(harness.merge(f"b{number}", run=f"r{number}"), "failed").error, RowRefusedError)
    assert_table(harness, [])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("line numeric", "line double precision", "A binary float is no key"),
        ("line numeric", "line numeric(6,1)", "declared as decimal(6,2)"),
        ("line numeric", "line numeric(5,2)", "declared as decimal(6,2)"),
        ("created_at timestamp", "created_at timestamp(3)", "declared as timestamp"),
        ("id varchar(40)", "id char(40)", "pads with blanks"),
        ("points double precision", "points real", "declared as float64"),
        ("seen integer", "seen bigint generated always as identity", "generated by the table itself"),
    ],
)
def test_a_column_that_cannot_hold_what_is_declared_is_refused(harness, old, new, said):
    with raises(ConfigurationError) as raised:
        adopt(harness, ADOPTED.replace(old, new))
    assert said in str(raised.error)


def test_an_adopted_table_is_enforced_only_if_declared_and_possible(harness):
    spec = adopt(harness, ADOPTED)
    harness.foreign_insert(spec, [a_row(), a_row(id="id-2")])
    with raises(DuplicatesError) as raised:
        harness.warehouse().install([replace(spec, enforce=True)], lock_store=LOCKS, adopt_locks=False)
    assert "player=jokic" in raised.error.keys[0]
    harness.foreign_delete_all(spec)
    made = harness.warehouse().install([replace(spec, enforce=True)], lock_store=LOCKS, adopt_locks=False)
    assert list(made) == ["unique index adopted_onerow_key"]
    with pytest.raises(psycopg.errors.UniqueViolation):
        harness.foreign_insert(spec, [a_row(), a_row(id="id-2")])


def test_a_unique_constraint_of_the_tables_own_is_named(harness):
    with harness.server.connection() as connection:
        connection.execute("create unique index one_id on props (id)")
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    error = refused(harness.merge("b1"), "failed").error
    assert isinstance(error, DuplicatesError)
    assert "one_id" in error.message
    assert "(id)=(id-1)" in error.keys[0]


# --- types -------------------------------------------------------------------------------------

EVERY = tuple(
    Column(name, parse_type(kind))
    for name, kind in {
        "day": "date", "k": "string", "n": "int64", "d": "decimal(38,10)", "f": "float64", "b": "bool",
        "t": "timestamp", "j": "json",
    }.items()
)  # fmt: skip
EVERY_SPEC = replace(
    SPEC, name="every", target=("every",), key=("k", "d"), partition="day", order_by=("t", "n"), columns=EVERY, id_column=None
)


def every_row(number, **values):
    return {
        "day": DAY, "k": f"k{number}", "n": number, "d": Decimal("0.0000000001"), "f": 0.1, "b": True,
        "t": dt.datetime(1, 1, 2, tzinfo=dt.UTC), "j": '{"b": 1,  "a": [1.0, 1e2]}', **values,
    }  # fmt: skip


EDGES = [
    every_row(0),
    every_row(1, d=Decimal("9999999999999999999999999999.9999999999"), t=dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC)),
    every_row(2, n=-(2**63), f=-math.inf, b=False, j="null"),
    every_row(3, n=2**63 - 1, f=5e-324, b=None, j=None),
    every_row(4, k="\\N", f=None, j='"\\u00e9\\n"'),
    every_row(5, k=None, d=None, n=None),
    every_row(6, k=""),
    every_row(7, k="é😀\n\t\"'\\", j='{"a":1,"a":2}'),
]


@pytest.mark.parametrize("small_rows", [0, 10_000])
def test_every_type_comes_back_as_it_was_staged(database, small_rows, monkeypatch):
    """Over both ways into staging, and through the temporary file as well."""
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1)
    with closing(PostgresHarness(None, database)) as harness:
        harness._parts = open_parts(url=database, server=Server(database), small_rows=small_rows)
        harness.installed(EVERY_SPEC)
        harness.stage("b1", "w1", EDGES, spec=EVERY_SPEC)
        assert counted(harness.merge("b1")) == (8, 8, 0, 0, 0)
        with harness.server.connection() as connection:
            texts = dict(connection.execute('select n, "j"::text from every where n is not null').fetchall())
        assert texts[0] == '{"b": 1,  "a": [1.0, 1e2]}', "JSON is kept as the text that it came as"
        found = sorted(harness.table_rows(EVERY_SPEC), key=lambda row: EDGES.index(next(
            edge for edge in EDGES if (edge["k"], edge["n"]) == (row["k"], row["n"]))))
        assert [{**row, "j": None} for row in found] == [{**row, "j": None} for row in EDGES]
        harness.stage("b2", "w1", EDGES, spec=EVERY_SPEC)
        assert counted(harness.merge("b2", run="r2")) == (8, 0, 0, 8, 0)


def test_both_ways_into_staging_make_the_same_part(database):
    with closing(PostgresHarness(None, database)) as harness:
        harness.installed(EVERY_SPEC)
        told = []
        for small_rows in (0, 10_000):
            parts = open_parts(url=database, server=Server(database), small_rows=small_rows)
            writer = parts.writer(EVERY_SPEC, batch="b1", worker="w1", columns=EVERY_SPEC.column_names)
            writer.write(pa.RecordBatch.from_pylist(EDGES, schema=arrow_schema(EVERY)))
            told.append(writer.publish())
            parts.close()
        assert [part.status for part in told] == ["staged", "already_staged"]
        assert told[0].part_id == told[1].part_id


def test_text_is_ordered_by_its_bytes_whatever_the_database_says(harness):
    with harness.server.connection() as connection:
        (natural,) = connection.execute("select 'a' < 'Z'").fetchone()
    harness.installed(replace(SPEC, name="texts", target=("texts",), order_by=("id",)))
    harness.stage("b1", "w1", [a_row(id="a"), a_row(id="Z"), a_row(id="\U0001f600"), a_row(id="\uffee")])
    assert counted(harness.merge("b1")) == (4, 1, 0, 0, 3)
    assert_table(harness, [a_row(id="\U0001f600")])
    harness.stage("b2", "w1", [a_row(id="a", player="p")])
    harness.merge("b2", run="r2")
    harness.stage("b3", "w1", [a_row(id="Z", player="p")])
    assert counted(harness.merge("b3", run="r3")) == (1, 0, 0, 0, 1), f"the database says 'a' < 'Z' is {natural}"


def test_names_may_be_anything(database):
    names = {"game_date": 'day "%s" {0}', "player": "select", "line": "$1", "created_at": "é;--", "id": "Id%"}
    columns = tuple(replace(column, name=names.get(column.name, column.name)) for column in SPEC.columns)
    spec = replace(
        SPEC, name="a%b'{x}", target=("My Schema", 'T "x"'), columns=columns, key=(names["player"], names["line"]),
        partition=names["game_date"], order_by=(names["created_at"],), id_column=names["id"],
    )  # fmt: skip
    with closing(PostgresHarness(None, database)) as harness:
        harness.installed(spec)
        rows = [{names.get(name, name): value for name, value in a_row(player=player).items()} for player in ("a", None)]
        harness.stage("b%s{1}", "w'", [*rows, rows[0]], spec=spec)
        assert counted(harness.merge("b%s{1}")) == (3, 2, 0, 1, 0)
        assert_table(harness, rows)
        assert len(harness.related_rows(spec, "_duplicates")) == 0


# --- restored ----------------------------------------------------------------------------------


def test_a_database_restored_to_an_earlier_moment_heals(postgres, harness):
    """Parts and ledger go back together: what was merged since then waits again."""
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    harness.server.close()
    harness._parts.server.close()
    name = f"{harness.url.rpartition('/')[2].partition('?')[0]}_copy"
    original = harness.url.rpartition("/")[2].partition("?")[0]
    with postgres.connect() as admin:
        admin.execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(original)))
    try:
        assert isinstance(harness.merge("b1", token=5), Committed)
        with closing(PostgresHarness(None, postgres.url(name))) as copy:
            copy.spec = harness.spec
            assert counted(copy.merge("b1", token=6)) == (2, 2, 0, 0, 0)
            assert_table(copy, harness.table_rows(harness.spec))
    finally:
        with postgres.connect() as admin:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


# --- being told to stop ------------------------------------------------------------------------


def test_a_statement_that_runs_is_interrupted(harness):
    """The lease is lost while the merge waits for a lock: the interrupt reaches the server at once."""
    harness.stage("b1", "w1", [a_row()])
    plan = harness.plan("b1")
    lost = threading.Event()

    class Losing(Watch):
        def raise_if_cancelled(self):
            if lost.is_set():
                from onerow.testing.conformance.harness import lose_lease

                lose_lease()

    watch = Losing()
    with harness.warehouse().prepare(plan):
        """The guard row is there now."""
    with psycopg.connect(harness.url) as other:
        other.execute("select * from onerow.guards for update")
        beside = Beside(lambda: harness.apply(plan, cancellation=watch))
        with psycopg.connect(harness.url, autocommit=True) as looking:
            waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            eventually(lambda: looking.execute(waits).fetchone()[0] > 0, "the merge waits for the guard")
        lost.set()
        watch.interrupts[0]()
        outcome = beside.result()
    assert isinstance(outcome, Refused)
    assert outcome.reason == "cancelled"
    assert isinstance(harness.apply(replace(plan, attempt=2)), Committed)


def test_the_declared_type_of_a_staged_column_may_change_when_nothing_waits(harness):
    columns = tuple(
        replace(column, type=ColumnType("string")) if column.name == "seen" else column for column in SPEC.columns
    )
    changed = replace(SPEC, columns=columns)
    harness.stage("b1", "w1", [a_row()])
    with harness.server.connection() as connection:
        connection.execute("alter table props alter column seen type text using seen::text")
    with raises(ConfigurationError) as raised:
        harness.warehouse().install([changed], lock_store=LOCKS, adopt_locks=False)
    assert "'seen'" in str(raised.error)
    harness.parts.discard(harness.parts.parts("props", "b1"), reason="retyped", by="me")
    assert list(harness.warehouse().install([changed], lock_store=LOCKS, adopt_locks=False))
    harness.stage("b2", "w1", [a_row(seen="one")], spec=changed)
    harness.spec = changed
    assert counted(harness.merge("b2", run="r2")) == (1, 1, 0, 0, 0)
