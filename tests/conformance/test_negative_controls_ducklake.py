"""Each protection of a lake switched off: what it protects breaks, and only then. As for the DuckDB file.

The guard is tried on a PostgreSQL catalog: with a SQLite catalog the catalog itself lets no two writing
transactions commit that were open at once, which is shown too.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest

from conformance.backends import DuckLakePostgresHarness, DuckLakeSqliteHarness
from conformance.test_negative_controls_duckdb import GuardOff, TodoOff, TokenOff, VerifyOff
from onerow.adapters.warehouse.duckdb.merge import Transaction
from onerow.core.plans import AlreadyMerged, Committed
from onerow.errors import DuplicatesError
from onerow.testing.conformance.harness import DAY, NEXT_DAY, SPEC, a_row, assert_table, at, counted, refused


@pytest.fixture
def opened(tmp_path):
    """Opens a harness whose transactions have a step switched off."""
    with ExitStack() as stack:

        def open_harness(kind, transaction):
            harness = stack.enter_context(closing(kind(tmp_path)))
            harness.installed()
            harness.transaction = transaction
            return harness

        yield open_harness


def both_at_once(harness, days):
    """Apply two plans of new rows, one while the other is about to commit; return how they ended."""
    plans = []
    for number, day in enumerate(days):
        harness.stage(f"b{number}", "w1", [a_row(id=f"id-{number}", game_date=day, created_at=at(number))])
        plans.append(harness.plan(f"b{number}", token=None))
    inner = []
    with (
        closing(harness.another_warehouse(harness.catalog)) as one,
        closing(harness.another_warehouse(harness.catalog)) as other,
    ):
        outer = harness.apply(plans[0], on=one, before_commit=lambda: inner.append(harness.apply(plans[1], on=other)))
    return outer, inner[0]


@pytest.mark.parametrize("days", [(DAY, DAY), (DAY, NEXT_DAY)], ids=["one partition", "two partitions"])
@pytest.mark.parametrize("steps", [Transaction, GuardOff])
def test_without_the_guard_two_transactions_insert_one_key_twice(opened, steps, days):
    """I1: DuckLake writes the loser's snapshot again by itself, unless the guard makes it a real conflict."""
    harness = opened(DuckLakePostgresHarness, steps)
    outer, inner = both_at_once(harness, days)
    assert isinstance(inner, Committed)
    if steps is GuardOff:
        assert isinstance(outer, Committed), "the control must commit"
        assert len(harness.table_rows(SPEC)) == 2
        assert len(harness.keys_with_several_rows()) == (1 if days == (DAY, DAY) else 0)
    else:
        refused(outer, "conflict")
        assert isinstance(harness.merge("b0", run="again", token=None), Committed)
        assert harness.keys_with_several_rows() == []
        assert len(harness.table_rows(SPEC)) == len(set(days))


def test_a_sqlite_catalog_serialises_by_itself(opened):
    harness = opened(DuckLakeSqliteHarness, GuardOff)
    outer, inner = both_at_once(harness, (DAY, DAY))
    assert isinstance(inner, Committed)
    refused(outer, "conflict")
    assert harness.keys_with_several_rows() == []


@pytest.mark.parametrize("steps", [Transaction, VerifyOff])
def test_without_verification_a_foreign_writers_duplicate_passes(opened, steps):
    """I5: only the check inside the transaction meets duplicates of a key that the batch does not touch."""
    harness = opened(DuckLakeSqliteHarness, steps)
    harness.foreign_insert(SPEC, [a_row(player="doubled", id="id-1"), a_row(player="doubled", id="id-2")])
    harness.stage("b1", "w1", [a_row(player="lebron")])
    outcome = harness.merge("b1")
    if steps is VerifyOff:
        assert isinstance(outcome, Committed), "the control must pass what the check refuses"
        assert len(harness.table_rows(SPEC)) == 3
    else:
        assert isinstance(refused(outcome, "failed").error, DuplicatesError)
        assert len(harness.table_rows(SPEC)) == 2


@pytest.mark.parametrize("steps", [Transaction, TokenOff])
def test_without_the_token_a_stale_holder_commits(opened, steps):
    """I4: the higher token has committed; the paused holder wakes up and must not."""
    harness = opened(DuckLakeSqliteHarness, steps)
    harness.stage("b1", "w1", [a_row()])
    assert isinstance(harness.merge("b1", token=10), Committed)
    harness.stage("b2", "w1", [a_row(player="of the paused")])
    outcome = harness.merge("b2", token=9)
    if steps is TokenOff:
        assert isinstance(outcome, Committed), "the control must commit"
    else:
        assert refused(outcome, "stale").fence == 10


@pytest.mark.parametrize("steps", [Transaction, TodoOff])
def test_without_the_ledger_a_part_is_counted_twice(opened, steps):
    """I6: a replay of a plan whose parts are merged already."""
    harness = opened(DuckLakeSqliteHarness, steps)
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    assert counted(harness.merge("b1")) == (2, 2, 0, 0, 0)
    replay = harness.merge("b1", run="replay")
    staged = [entry.rows_staged for entry in harness.warehouse().history(table="props", batch="b1", limit=9)]
    if steps is TodoOff:
        assert isinstance(replay, Committed), "the control must merge it again"
        assert staged == [2, 2]
    else:
        assert isinstance(replay, AlreadyMerged)
        assert staged == [2]
    assert_table(harness, [a_row(), a_row(player="lebron")])
