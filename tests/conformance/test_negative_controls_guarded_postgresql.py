"""Each protection of people's own statements on PostgreSQL switched off: what it protects breaks, and only then.

The table's key is held by nobody but onerow; with the engine's index two rows of a key were impossible anyway.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest

from conformance.postgresql import UnenforcedPostgresHarness
from onerow.adapters.warehouse.postgresql.guarded import Interventions
from onerow.errors import DuplicatesError, StaleLeaseError
from onerow.testing.conformance.asking import OVERLAP_S, Beside
from onerow.testing.conformance.harness import a_row, at
from onerow.testing.conformance.warehouse_guarded import count, insert, run_block
from onerow.testing.conformance.warehouse_repair import intervention


class GuardOff(Interventions):
    def guard(self, connection, work):
        """Change no guard row."""


class TokenOff(Interventions):
    def token(self, connection, work):
        """Compare nothing, raise nothing."""


class VerifyOff(Interventions):
    def verify(self, opened):
        """Look at nothing."""
        return opened.rows_before


@pytest.fixture
def opened(tmp_path):
    """Opens a harness whose interventions have a step switched off."""
    with ExitStack() as stack:

        def open_harness(kind):
            harness = stack.enter_context(closing(UnenforcedPostgresHarness(tmp_path)))
            harness.interventions = kind
            harness.installed()
            return harness

        yield open_harness


@pytest.mark.parametrize("kind", [Interventions, GuardOff])
def test_without_the_guard_two_blocks_insert_one_key_twice(opened, kind):
    """I1: the incident with hand-written statements. Both look, find nothing, and insert."""
    harness = opened(kind)
    beside = []

    def insert_if_missing(tx, **values):
        if count(tx) == 0:
            insert(tx, a_row(**values))

    def second():
        work = intervention(harness, "guarded", run="other", token=None)
        run_block(harness, work, lambda tx: insert_if_missing(tx, id="other", created_at=at(1)))

    def begin_second():
        beside.append(Beside(second))
        beside[0].join(OVERLAP_S)

    first = intervention(harness, "guarded", token=None)
    run_block(harness, first, insert_if_missing, before_commit=begin_second)
    beside[0].result()
    assert len(harness.warehouse().history(table="props", batch=None, limit=9)) == 2, "both blocks commit"
    if kind is GuardOff:
        assert len(harness.keys_with_several_rows()) == 1, "the control must break I1"
    else:
        assert [row["id"] for row in harness.table_rows(harness.spec)] == ["id-1"], "the second waited, then saw it"


@pytest.mark.parametrize("kind", [Interventions, TokenOff])
def test_without_the_token_a_stale_block_commits(opened, kind):
    """I4: the higher token has committed; the paused holder wakes up and must not."""
    harness = opened(kind)
    run_block(harness, intervention(harness, "guarded", run="new", token=10), lambda tx: insert(tx, a_row()))
    if kind is TokenOff:
        harness.foreign_fence(harness.spec, "2026-01-17", 10)
    stale, refused = intervention(harness, "guarded", run="stale", token=9), False
    try:
        run_block(harness, stale, lambda tx: insert(tx, a_row(player="of the paused")))
    except StaleLeaseError:
        refused = True
    assert refused is (kind is Interventions)
    assert harness.warehouse().settled(stale) is not refused
    assert len(harness.table_rows(harness.spec)) == (1 if refused else 2)


@pytest.mark.parametrize("kind", [Interventions, VerifyOff])
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
    assert refused is (kind is Interventions)
    assert len(harness.keys_with_several_rows()) == (0 if refused else 1)
