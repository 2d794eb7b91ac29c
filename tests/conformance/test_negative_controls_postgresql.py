"""Each protection of the PostgreSQL warehouse switched off: what it protects breaks, and only then.

A step is switched off by a subclass of ``Transaction`` that is handed to the warehouse; product code has no such
switch. Every test runs the same story with the step on and off, so that a story that breaks nothing is found out.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest

from conformance.postgresql import PostgresHarness, UnenforcedPostgresHarness
from onerow.adapters.warehouse.postgresql.merge import Transaction
from onerow.core.plans import AlreadyMerged, Committed
from onerow.errors import DuplicatesError
from onerow.testing.conformance.asking import OVERLAP_S, Beside
from onerow.testing.conformance.harness import a_row, assert_table, at, counted, refused


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


@pytest.fixture
def opened(tmp_path):
    """Opens a harness on a table whose key nobody but onerow holds."""
    with ExitStack() as stack:
        harness = stack.enter_context(closing(UnenforcedPostgresHarness(tmp_path)))
        harness.installed()
        yield harness


@pytest.mark.parametrize("steps", [Transaction, VerifyOff])
def test_without_verification_a_foreign_writers_duplicate_passes(opened, steps):
    """I5: only the check inside the transaction meets duplicates of a key that the batch does not touch."""
    opened.transaction = steps
    opened.foreign_insert(opened.spec, [a_row(player="doubled", id="id-1"), a_row(player="doubled", id="id-2")])
    opened.stage("b1", "w1", [a_row(player="lebron")])
    outcome = opened.merge("b1")
    assert len(opened.keys_with_several_rows()) == 1
    if steps is VerifyOff:
        assert isinstance(outcome, Committed), "the control must pass what the check refuses"
        assert len(opened.table_rows(opened.spec)) == 3
    else:
        assert isinstance(refused(outcome, "failed").error, DuplicatesError)
        assert len(opened.table_rows(opened.spec)) == 2


@pytest.mark.parametrize("steps", [Transaction, TokenOff])
def test_without_the_token_a_stale_holder_commits(opened, steps):
    """I4: the higher token has committed; the paused holder wakes up and must not."""
    opened.stage("b1", "w1", [a_row()])
    assert isinstance(opened.merge("b1", token=10), Committed)
    opened.transaction = steps
    opened.stage("b2", "w1", [a_row(player="of the paused")])
    outcome = opened.merge("b2", token=9)
    tokens = [entry.token for entry in opened.warehouse().history(table="props", batch=None, limit=9)][::-1]
    if steps is TokenOff:
        assert isinstance(outcome, Committed), "the control must commit"
        assert tokens == [10, 9]
    else:
        assert refused(outcome, "stale").fence == 10
        assert tokens == [10]


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("steps", [Transaction, TodoOff])
def test_without_the_ledger_a_part_is_counted_twice(opened, steps, index):
    """I6: a replay of a plan whose parts are merged already. The ledger's unique index is a second protection."""
    if not index:
        with opened.server.connection() as connection:
            connection.execute("alter table onerow.ledger drop constraint ledger_names_a_part_once")
    opened.transaction = steps
    opened.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    assert counted(opened.merge("b1")) == (2, 2, 0, 0, 0)
    replay = opened.merge("b1", run="replay")
    entries = opened.warehouse().history(table="props", batch="b1", limit=9)
    with opened.server.connection() as connection:
        (named,) = connection.execute("select count(*) from onerow.ledger").fetchone()
    if steps is TodoOff and not index:
        assert isinstance(replay, Committed), "the control must merge it again"
        assert (named, sum(entry.rows_staged for entry in entries)) == (2, 4)
    else:
        assert isinstance(replay, AlreadyMerged) if steps is Transaction else refused(replay, "failed")
        assert (named, sum(entry.rows_staged for entry in entries)) == (1, 2)
    assert_table(opened, [a_row(), a_row(player="lebron")])


@pytest.mark.parametrize("enforced", [False, True])
@pytest.mark.parametrize("steps", [Transaction, GuardOff])
def test_without_the_guard_two_transactions_insert_one_key_twice(tmp_path, steps, enforced):
    """I1: the incident itself. Both transactions have read the table before either has committed."""
    kind = PostgresHarness if enforced else UnenforcedPostgresHarness
    with closing(kind(tmp_path)) as harness:
        harness.installed()
        harness.transaction = steps
        for number in range(2):
            harness.stage(f"b{number}", "w1", [a_row(id=f"id-{number}", created_at=at(number))])
        plans = [harness.plan(f"b{number}", token=None, run=f"run{number}") for number in range(2)]
        beside = []

        def begin_second():
            beside.append(Beside(lambda: harness.apply(plans[1])))
            beside[0].join(OVERLAP_S)

        ends = [harness.apply(plans[0], before_commit=begin_second), beside[0].result()]
        if steps is GuardOff and not enforced:
            assert all(isinstance(end, Committed) for end in ends)
            assert len(harness.keys_with_several_rows()) == 1, "the control must break I1"
        elif steps is GuardOff:
            assert isinstance(ends[0], Committed)
            assert isinstance(refused(ends[1], "conflict").error, DuplicatesError), "the engine's index is what is left"
            assert_table(harness, [a_row(id="id-0")])
        else:
            assert counted(ends[0]) == (1, 1, 0, 0, 0)
            assert counted(ends[1]) == (1, 0, 1, 0, 0), "it waited, then worked on a fresh snapshot"
            assert_table(harness, [a_row(id="id-1", created_at=at(1))])
