"""Each protection of the DuckDB warehouse switched off: what it protects breaks, and only then.

A step is switched off by a subclass of ``Transaction`` that is handed to the warehouse; product code has no such
switch. Every test runs the same story with the step on and off, so that a story that breaks nothing is found out.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

import duckdb
import pytest

from conformance.backends import DuckDBHarness
from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.install import control_statements, target_types
from onerow.adapters.warehouse.duckdb.merge import Transaction, prepare
from onerow.adapters.warehouse.duckdb.versions import VersionsTransaction
from onerow.adapters.warehouse.duckdb.warehouse import DuckDBWarehouse
from onerow.core.plans import AlreadyMerged, Committed
from onerow.errors import DuplicatesError
from onerow.testing.conformance.harness import SPEC, VERSIONS, a_row, assert_table, at, counted, refused


class GuardOff(Transaction):
    def guard(self):
        """Change no guard row."""


class TokenOff(Transaction):
    def token(self):
        """Compare nothing, raise nothing."""


class TodoOff(Transaction):
    def todo(self):
        """Ask no ledger."""


class VerifyOff(Transaction):
    def verify(self, counts):
        """Look at nothing."""


class VersionsVerifyOff(VersionsTransaction):
    def verify(self, counts):
        """Look at nothing."""


@pytest.fixture
def opened(tmp_path):
    """Opens a harness whose transactions have a step switched off."""
    with ExitStack() as stack:

        def open_harness(transaction=Transaction):
            harness = stack.enter_context(closing(DuckDBHarness(tmp_path)))
            harness.transaction = transaction
            harness.installed()
            return harness

        yield open_harness


@pytest.mark.parametrize("steps", [Transaction, VerifyOff])
def test_without_verification_a_foreign_writers_duplicate_passes(opened, steps):
    """I5: only the check inside the transaction meets duplicates of a key that the batch does not touch."""
    harness = opened(steps)
    harness.foreign_insert(SPEC, [a_row(player="doubled", id="id-1"), a_row(player="doubled", id="id-2")])
    harness.stage("b1", "w1", [a_row(player="lebron")])
    outcome = harness.merge("b1")
    assert len(harness.keys_with_several_rows()) == 1
    if steps is VerifyOff:
        assert isinstance(outcome, Committed), "the control must pass what the check refuses"
        assert len(harness.table_rows(SPEC)) == 3
    else:
        assert isinstance(refused(outcome, "failed").error, DuplicatesError)
        assert len(harness.table_rows(SPEC)) == 2


@pytest.mark.parametrize("steps", [VersionsTransaction, VersionsVerifyOff])
def test_without_verification_a_foreign_version_passes(tmp_path, steps):
    """I5, versions mode: a number that another key of the partition has twice."""
    with closing(DuckDBHarness(tmp_path)) as harness:
        harness.installed(VERSIONS)
        harness.foreign_insert(VERSIONS, [{**a_row(player="doubled", seen=seen), "version": 1} for seen in (1, 2)])
        harness.stage("b1", "w1", [a_row(player="lebron")])
        with closing(DuckDBWarehouse(harness.path, locate=harness.locate, versions=steps)) as warehouse:
            outcome = harness.apply(harness.plan("b1"), on=warehouse)
        if steps is VersionsVerifyOff:
            assert isinstance(outcome, Committed), "the control must pass what the check refuses"
            assert len(harness.table_rows(VERSIONS)) == 3
        else:
            assert isinstance(refused(outcome, "failed").error, DuplicatesError)
            assert len(harness.table_rows(VERSIONS)) == 2


@pytest.mark.parametrize("steps", [Transaction, TokenOff])
def test_without_the_token_a_stale_holder_commits(opened, steps):
    """I4: the higher token has committed; the paused holder wakes up and must not."""
    healthy = opened()
    healthy.stage("b1", "w1", [a_row()])
    assert isinstance(healthy.merge("b1", token=10), Committed)
    stale = opened(steps)
    stale.stage("b2", "w1", [a_row(player="of the paused")])
    outcome = stale.merge("b2", token=9)
    tokens = [entry.token for entry in healthy.warehouse().history(table="props", batch=None, limit=9)][::-1]
    if steps is TokenOff:
        assert isinstance(outcome, Committed), "the control must commit"
        assert tokens == [10, 9]
    else:
        assert refused(outcome, "stale").fence == 10
        assert tokens == [10]


@pytest.mark.parametrize("steps", [Transaction, TodoOff])
def test_without_the_ledger_a_part_is_counted_twice(opened, steps):
    """I6: a replay of a plan whose parts are merged already."""
    harness = opened(steps)
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    assert counted(harness.merge("b1")) == (2, 2, 0, 0, 0)
    replay = harness.merge("b1", run="replay")
    entries = harness.warehouse().history(table="props", batch="b1", limit=9)
    with duckdb.connect(harness.path) as connection:
        (named,) = connection.execute("select count(*) from onerow.ledger").fetchone()
    if steps is TodoOff:
        assert isinstance(replay, Committed), "the control must merge it again"
        assert (named, sum(entry.rows_staged for entry in entries)) == (2, 4)
    else:
        assert isinstance(replay, AlreadyMerged)
        assert (named, sum(entry.rows_staged for entry in entries)) == (1, 2)
    assert_table(harness, [a_row(), a_row(player="lebron")])


@pytest.mark.parametrize("steps", [Transaction, GuardOff])
def test_without_the_guard_two_transactions_insert_one_key_twice(opened, steps):
    """I1: the incident itself. Both transactions read the table before either has committed.

    The file lock lets one process in at a time, so both run in one process, on two connections of one instance.
    """
    harness = opened()
    plans = []
    for number in range(2):
        harness.stage(f"b{number}", "w1", [a_row(id=f"id-{number}", created_at=at(number))])
        plans.append(harness.plan(f"b{number}", token=None))
    ends = []
    with closing(duckdb.connect()) as instance, ExitStack() as stack:
        path = sql.exp.Literal.string(str(harness.path)).sql(sql.DIALECT)
        instance.execute(f"attach {path} as {sql.DATABASE}")
        cursors = [stack.enter_context(closing(instance.cursor())) for _ in plans]
        transactions = []
        for cursor, plan in zip(cursors, plans, strict=True):
            cursor.execute("set TimeZone = 'UTC'")
            prepared = prepare(cursor, plan, harness.locate)
            types = target_types(cursor, plan.spec)
            transactions.append(steps(cursor, prepared, target_types=types, control=control_statements("onerow")))
        for cursor in cursors:
            cursor.execute("begin")
            cursor.execute(f"select count(*) from {sql.DATABASE}.onerow.guards")  # a snapshot is taken by reading
        for transaction in transactions:
            try:
                transaction.run()
            except duckdb.TransactionException as error:
                ends.append(str(error))
        for cursor in cursors[: len(plans) - len(ends)]:
            cursor.execute("commit")
        for cursor in cursors[len(plans) - len(ends) :]:
            cursor.execute("rollback")
    rows = harness.table_rows(SPEC)
    if steps is GuardOff:
        assert ends == []
        assert len(rows) == 2, "the control must break I1"
        assert len(harness.keys_with_several_rows()) == 1
    else:
        assert len(ends) == 1
        assert "conflict" in ends[0].lower()
        assert_table(harness, [a_row(id="id-0")])
        assert counted(harness.merge("b1", run="again", token=None)) == (1, 0, 1, 0, 0)
        assert harness.keys_with_several_rows() == []
