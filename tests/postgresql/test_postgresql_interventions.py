"""Repairs and people's own statements where only PostgreSQL can be asked: statements, sessions, faults, odd tables."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from conformance.postgresql import PostgresHarness, UnenforcedPostgresHarness
from onerow.adapters.warehouse.postgresql.guarded import check_statement
from onerow.adapters.warehouse.postgresql.warehouse import PostgresWarehouse
from onerow.errors import (
    ConfigurationError,
    ConflictError,
    OutcomeUnknownError,
    RowRefusedError,
    UsageError,
    VerificationError,
    WarehouseError,
)
from onerow.ports.warehouse import RepairRequest
from onerow.testing.conformance.asking import raises
from onerow.testing.conformance.harness import SPEC, Watch, a_row, assert_table, at
from onerow.testing.conformance.warehouse_guarded import insert, run_block
from onerow.testing.conformance.warehouse_repair import (
    JOKIC,
    NEW,
    OLD,
    PARTITION,
    intervention,
    planned,
    plant,
    removed_rows,
    repair,
    restore,
)
from onerow.testing.proxy import Proxy
from support import postgres as servers

COMMIT = b"Q\x00\x00\x00\x0bcommit\x00"


@pytest.fixture
def harness(database):
    with closing(UnenforcedPostgresHarness(None, database)) as opened:
        opened.installed()
        yield opened


def owner(harness, statement):
    with psycopg.connect(harness.url, autocommit=True) as other:
        other.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "start transaction", "END", "abort", "savepoint a", "release a", "prepare transaction 'x'", "commit prepared 'x'",
        "set role postgres", "set local lock_timeout = 0", "reset all", "discard all", "listen a", "notify a",
        "copy props from stdin", "copy props to program 'true'", "call nothing()", "do $$ begin commit; end $$",
        "prepare a as select 1", "execute a", "vacuum", "load 'x'", "checkpoint",
        "select 'an end; that is none", "/* a remark", ";", "select $a$;$a$; commit", r"select '\'; commit; --'",
        "select E'\\''; commit",
    ],
)  # fmt: skip
def test_a_statement_that_is_not_offered_is_refused(statement):
    with pytest.raises(UsageError):
        check_statement(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "select ';'", "select $$;commit;$$;", "(select 1) union (select 2)", "with a as (select 1) select * from a",
        "/* commit; /* nested */ */ select 1", "values (1)", "merge into a using b on true when matched then delete",
        "create temporary table a (b int) on commit drop", "lock table a", "truncate a", "explain analyze select 1",
        r"select E'\'; commit; --'",
    ],
)  # fmt: skip
def test_a_statement_that_is_offered_is_not_taken_for_another(statement):
    check_statement(statement)


def test_a_text_that_the_check_takes_for_one_statement_is_sent_as_one(harness, monkeypatch):
    """The server is the second judge: were the check deceived, several statements would still not run."""
    monkeypatch.setattr("onerow.adapters.warehouse.postgresql.guarded.check_statement", lambda _: None)

    def block(tx):
        insert(tx, a_row())
        tx.execute("select 1; commit")

    with raises(Exception) as caught:
        run_block(harness, intervention(harness, "guarded"), block)
    assert "multiple commands" in str(caught.error)
    assert_table(harness, [])


def test_a_block_that_ends_its_transaction_all_the_same_is_told(harness, monkeypatch):
    """The third: the transaction that is committed is the one that has taken the guard."""
    monkeypatch.setattr("onerow.adapters.warehouse.postgresql.guarded.check_statement", lambda _: None)

    def block(tx):
        tx.execute("commit")
        tx.execute("begin")
        insert(tx, a_row())

    with raises(VerificationError) as caught:
        run_block(harness, intervention(harness, "guarded"), block)
    assert "ended the transaction" in caught.error.message
    assert_table(harness, [])
    assert list(harness.warehouse().history(table="props", batch=None, limit=9)) == []


def test_names_are_found_where_the_target_stands_and_nothing_outlasts_the_block(harness):
    owner(harness, "create schema nba; create table nba.odds (line numeric); insert into nba.odds values (1)")
    spec = replace(SPEC, name="predictions", target=("nba", "predictions"))
    harness.installed(spec)
    seen = []

    def block(tx):
        seen.extend(tx.execute("select line from odds"))
        tx.execute("create temporary table mine (n int)")
        tx.execute("select set_config('application_name', 'somebody', false)")
        tx.execute("insert into predictions (game_date, player, line) values ('2026-01-17', %(who)s, 1)", {"who": "x"})

    warehouse = harness.warehouse()
    with warehouse.guarded(intervention(harness, "guarded"), Watch()) as tx:
        assert tx.target == '"nba"."predictions"'
        block(tx)
    assert seen == [(1,)]
    with harness.server.connection() as connection:
        (name, temporary) = connection.execute(
            "select current_setting('application_name'), to_regclass('pg_temp.mine')"
        ).fetchone()
    assert (name, temporary) == ("onerow", None)


def test_a_deferred_constraint_that_fails_at_the_commit_keeps_nothing(harness):
    owner(harness, "create table public.people (name text primary key)")
    owner(
        harness,
        "create table public.bets (name text references people deferrable initially deferred)",
    )

    def block(tx):
        insert(tx, a_row())
        tx.execute("insert into bets values ('nobody')")

    work = intervention(harness, "guarded")
    with raises(RowRefusedError):
        run_block(harness, work, block)
    assert_table(harness, [])
    assert not harness.warehouse().settled(work)


def test_a_session_that_is_ended_before_the_commit_keeps_nothing(harness):
    def block(tx):
        insert(tx, a_row())
        ((pid,),) = tx.execute("select pg_backend_pid()")
        owner(harness, f"select pg_terminate_backend({pid})")
        tx.execute("select 1")

    with raises(ConflictError):
        run_block(harness, intervention(harness, "guarded"), block)
    assert_table(harness, [])


def test_a_block_that_is_silent_for_a_lease_is_thrown_out(harness):
    """A frozen process must not keep the guard; what it wakes up to is a lost transaction."""
    harness.lease_s = 0.2

    def block(tx):
        insert(tx, a_row())
        time.sleep(0.6)
        tx.execute("select 1")

    with raises(ConflictError) as caught:
        run_block(harness, intervention(harness, "guarded"), block)
    assert "nothing was committed" in caught.error.hint.lower()
    assert_table(harness, [])


def test_a_statement_that_somebody_cancels_is_no_lost_lease(harness):
    def block(tx):
        insert(tx, a_row())
        tx.execute("select pg_cancel_backend(pg_backend_pid()), pg_sleep(5)")

    with raises(WarehouseError) as caught:
        run_block(harness, intervention(harness, "guarded"), block)
    assert "57014" in caught.error.message
    assert_table(harness, [])


def test_a_block_that_waits_too_long_for_a_lock_is_told_who_has_it(harness):
    harness.busy_timeout_s = 3.0  # time for several looks at who is in the way, on a slow machine too
    with psycopg.connect(harness.url, application_name="in the way") as other:
        other.execute("lock table props in access exclusive mode")
        with raises(ConflictError) as caught:
            run_block(harness, intervention(harness, "guarded"), lambda tx: insert(tx, a_row()))
    assert "in the way" in caught.error.message


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_reply_is_lost_is_unknown_and_can_be_asked_for(harness, when):
    """Nobody knows until the guard is had: then the history tells."""
    work = intervention(harness, "guarded")
    with (
        Proxy(servers.address(harness.url)) as proxy,
        closing(PostgresWarehouse(servers.through(harness.url, proxy.port))) as warehouse,
    ):
        cut = proxy.cut_when(lambda asked: COMMIT in asked, when=when)
        with raises(OutcomeUnknownError), warehouse.guarded(work, Watch()) as tx:
            insert(tx, a_row())
        assert cut.is_set()
    assert harness.warehouse().settled(work) is (when == "after")
    assert_table(harness, [a_row()] if when == "after" else [])


def test_a_partitioned_table_of_other_types_is_repaired_and_restored(harness):
    """Rows are told apart by partition and place; what is kept aside is of the target's own types."""
    owner(harness, "drop view if exists props_duplicates; drop table props, props_removed_duplicates")
    owner(
        harness,
        "create table props (id varchar(20), game_date date, player varchar, line numeric, created_at timestamp, "
        "points float8, seen int4) partition by range (game_date)",
    )
    owner(harness, "create table props_1 partition of props for values from ('2026-01-01') to ('2026-01-18')")
    owner(harness, "create table props_2 partition of props default")
    harness.installed()
    copies = "insert into props select 'a', d::date, 'jokic', l::numeric, '2026-01-17 12:00', 1, 1 from "
    owner(harness, copies + "(values ('2026-01-17', '24.5'), ('2026-01-17', '24.50'), ('2026-01-18', '1')) v (d, l)")
    assert [(one.keys, one.extra_rows) for one in planned(harness).partitions] == [(1, 1)]
    repair(harness, intervention(harness, "dedupe"))
    assert len(harness.table_rows(harness.spec)) == 2
    before = harness.table_rows(harness.spec)
    restore(harness, intervention(harness, "restore", run="run-2"), "run-1", JOKIC)
    after = harness.table_rows(harness.spec)
    assert sorted(map(repr, before)) != sorted(map(repr, after)), "24.5 and 24.50 have changed places"


def test_a_table_of_removed_rows_that_cannot_keep_them_as_they_are_is_refused(harness):
    plant(harness, [OLD, NEW])
    owner(harness, "alter table props_removed_duplicates alter column line type numeric(8, 1)")
    with raises(ConfigurationError) as caught:
        repair(harness, intervention(harness, "dedupe"))
    assert "numeric(8,1)" in caught.error.message
    assert_table(harness, [OLD, NEW])
    harness.installed()  # it is empty, so its column can be made anew
    repair(harness, intervention(harness, "dedupe"))
    assert removed_rows(harness) == [OLD]
    owner(harness, "alter table props_removed_duplicates alter column line type numeric(8, 1)")
    with raises(ConfigurationError):
        harness.installed()


def test_doctor_tells_that_the_table_of_removed_rows_is_missing(harness):
    def told():
        return [said for subject, well, said in harness.warehouse().probe([harness.spec]) if not well]

    assert told() == []
    owner(harness, "alter table props_removed_duplicates drop column points")
    assert "lacks points" in told()[0]
    owner(harness, "drop table props_removed_duplicates")
    assert "props_removed_duplicates is missing" in told()[0]


def test_a_long_name_has_a_table_of_removed_rows_too(harness):
    spec = replace(SPEC, name="long", target=("t" * 63,), enforce=False)
    harness.installed(spec)
    plant(harness, [OLD, NEW])
    repair(harness, intervention(harness, "dedupe"))
    assert removed_rows(harness) == [OLD]
    assert list(harness.warehouse().install([harness.spec], lock_store="locks-under-test", adopt_locks=False)) == []


def test_a_row_that_somebody_changes_meanwhile_is_not_removed(harness):
    """What was copied aside must be what is deleted."""
    plant(harness, [OLD, NEW])
    (one,) = planned(harness).partitions
    owner(
        harness,
        "create function public.meddle() returns trigger language plpgsql as $$ begin "
        "update props set seen = 9 where id = 'old'; return new; end $$; "
        "create trigger meddle after insert on props_removed_duplicates for each row execute function meddle()",
    )
    with raises(VerificationError):
        harness.warehouse().repair(intervention(harness, "dedupe"), one, Watch())
    assert_table(harness, [OLD, NEW])
    assert removed_rows(harness) == []


def test_an_index_that_holds_the_key_needs_no_repair(database):
    with closing(PostgresHarness(None, database)) as harness:
        harness.installed()
        harness.foreign_insert(harness.spec, [a_row(), a_row(player="lebron", created_at=at(1))])
        request = RepairRequest(harness.spec, partition=PARTITION)
        assert harness.warehouse().plan_repair(request).partitions == ()
