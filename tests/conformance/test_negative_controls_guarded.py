"""Each protection of people's own statements switched off: what it protects breaks, and only then.

In memory two blocks are really open at once; on a DuckDB file the second would wait for the first.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest

from conformance.backends import DuckDBHarness, MemoryWarehouseHarness
from onerow.adapters.warehouse.duckdb.guarded import Interventions
from onerow.adapters.warehouse.duckdb.warehouse import DuckDBWarehouse
from onerow.errors import ConflictError, DuplicatesError, StaleLeaseError
from onerow.testing.conformance.harness import a_row, at
from onerow.testing.conformance.warehouse_guarded import insert, run_block
from onerow.testing.conformance.warehouse_repair import intervention
from onerow.testing.memory_warehouse import MemoryWarehouse


class MemoryGuardOff(MemoryWarehouse):
    def _take_guards(self, transaction, partitions, lock_store):
        """Change no guard row."""


class MemoryTokenOff(MemoryWarehouse):
    def _raise_fences(self, transaction, tokens):
        """Compare nothing, raise nothing."""


class MemoryVerifyOff(MemoryWarehouse):
    def _verify_intervention(self, transaction, work):
        """Look at nothing."""


class DuckDBTokenOff(Interventions):
    def token(self, connection, work):
        """Compare nothing, raise nothing."""


class DuckDBVerifyOff(Interventions):
    def verify(self, opened):
        """Look at nothing."""
        return opened.rows_before


@pytest.fixture
def opened(tmp_path):
    """Opens a harness, of memory or DuckDB, whose interventions have a step switched off."""
    with ExitStack() as stack:

        def open_harness(kind):
            in_memory = issubclass(kind, MemoryWarehouse)
            harness = stack.enter_context(closing((MemoryWarehouseHarness if in_memory else DuckDBHarness)(tmp_path)))
            if in_memory:
                harness.warehouse = lambda: kind(parts=harness.parts, database=harness._database)
            else:
                warehouse = DuckDBWarehouse(harness.path, locate=harness.locate, interventions=kind)
                stack.callback(warehouse.close)
                harness.warehouse = lambda: warehouse
            harness.installed()
            return harness

        yield open_harness


@pytest.mark.parametrize("kind", [MemoryWarehouse, MemoryGuardOff])
def test_without_the_guard_two_blocks_insert_one_key_twice(opened, kind):
    """I1: the incident with hand-written statements. The second commits while the first is open."""
    harness = opened(kind)
    other = intervention(harness, "guarded", run="other", token=None)

    def overtake():
        run_block(harness, other, lambda tx: insert(tx, a_row(id="other", created_at=at(1))))

    work, lost = intervention(harness, "guarded", token=None), False
    try:
        run_block(harness, work, lambda tx: insert(tx, a_row()), before_commit=overtake)
    except ConflictError:
        lost = True
    if kind is MemoryGuardOff:
        assert not lost
        assert len(harness.table_rows(harness.spec)) == 2, "the control must break I1"
        assert len(harness.keys_with_several_rows()) == 1
    else:
        assert lost
        assert [row["id"] for row in harness.table_rows(harness.spec)] == ["other"]


@pytest.mark.parametrize("kind", [MemoryWarehouse, MemoryTokenOff, Interventions, DuckDBTokenOff])
def test_without_the_token_a_stale_block_commits(opened, kind):
    """I4: the higher token has committed; the paused holder wakes up and must not."""
    harness = opened(kind)
    run_block(harness, intervention(harness, "guarded", run="new", token=10), lambda tx: insert(tx, a_row()))
    if kind in {MemoryTokenOff, DuckDBTokenOff}:
        harness.foreign_fence(harness.spec, "2026-01-17", 10)
    stale, refused = intervention(harness, "guarded", run="stale", token=9), False
    try:
        run_block(harness, stale, lambda tx: insert(tx, a_row(player="of the paused")))
    except StaleLeaseError:
        refused = True
    assert refused is (kind in {MemoryWarehouse, Interventions})
    assert harness.warehouse().settled(stale) is not refused
    assert len(harness.table_rows(harness.spec)) == (1 if refused else 2)


@pytest.mark.parametrize("kind", [MemoryWarehouse, MemoryVerifyOff, Interventions, DuckDBVerifyOff])
def test_without_verification_a_block_leaves_a_key_twice(opened, kind):
    """I5: only the check inside the transaction meets what the statements have done."""
    harness = opened(kind)
    refused = False

    def insert_twice(tx):
        insert(tx, a_row())
        insert(tx, a_row(id="again"))

    try:
        run_block(harness, intervention(harness, "guarded"), insert_twice)
    except DuplicatesError:
        refused = True
    assert refused is (kind in {MemoryWarehouse, Interventions})
    assert len(harness.keys_with_several_rows()) == (0 if refused else 1)
