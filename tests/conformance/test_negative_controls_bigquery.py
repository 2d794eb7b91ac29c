"""Each protection of BigQuery's script that the emulator can show, switched off: what it protects breaks, only then.

The emulator runs statements one after another: a guard that is not changed breaks nothing there. That it is needed,
and the claim before it, is shown by the simulation (``tests/simulation/test_bigquery_rules.py``).
"""

from __future__ import annotations

from contextlib import closing

import pytest

from conformance.bigquery import BigQueryHarness
from onerow.adapters.warehouse.bigquery.script import MergeSteps, Step
from onerow.core.partitions import Scope
from onerow.core.plans import AlreadyMerged, Committed
from onerow.errors import DuplicatesError
from onerow.testing.conformance.harness import DAY, a_row, assert_table, at, refused


class TokenOff(MergeSteps):
    def token(self):
        """Compare nothing, raise nothing."""
        return Step()


class TodoOff(MergeSteps):
    def todo(self):
        """Ask no ledger."""
        return Step()


class VerifyOff(MergeSteps):
    def verify(self):
        """Look at nothing."""
        return []


@pytest.fixture
def opened(request, tmp_path):
    steps = request.getfixturevalue("steps")
    BigQueryWithSteps = type("BigQueryWithSteps", (BigQueryHarness,), {"options": {"merging": steps}})
    with closing(BigQueryWithSteps(tmp_path)) as harness:
        harness.installed()
        yield harness


@pytest.mark.parametrize("steps", [MergeSteps, VerifyOff])
def test_without_verification_a_foreign_writers_duplicate_passes(opened, steps):
    """I5: only the check inside the transaction meets duplicates of a key that the batch does not touch."""
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


@pytest.mark.parametrize("steps", [MergeSteps, TokenOff])
def test_without_the_token_a_stale_holder_commits(opened, steps):
    """I4: the higher token has committed; the paused holder wakes up and must not."""
    opened.warehouse().raise_fence(opened.spec, Scope("props", DAY.isoformat()), token=10, by="me", reason="paused")
    opened.stage("b2", "w1", [a_row(player="of the paused")])
    outcome = opened.merge("b2", token=9)
    if steps is TokenOff:
        assert isinstance(outcome, Committed), "the control must commit"
    else:
        assert refused(outcome, "stale").fence == 10
        assert_table(opened, [])


@pytest.mark.parametrize("steps", [MergeSteps, TodoOff])
def test_without_the_ledger_a_part_is_merged_twice(opened, steps):
    """I6: a replay of a plan whose parts are merged already."""
    opened.stage("b1", "w1", [a_row(created_at=at(1))])
    assert isinstance(opened.merge("b1", token=None), Committed)
    outcome = opened.merge("b1", token=None, run="run2")
    entries = opened.warehouse().history(table="props", batch="b1", limit=9)
    if steps is TodoOff:
        assert isinstance(outcome, Committed), "the control must merge again"
        assert sum(entry.parts for entry in entries) == 2
    else:
        assert isinstance(outcome, AlreadyMerged)
        assert sum(entry.parts for entry in entries) == 1
