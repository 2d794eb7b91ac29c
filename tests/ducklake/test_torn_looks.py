"""With a SQLite catalog one look may see rows that were replaced before; what is really wrong is seen at every look."""

from __future__ import annotations

from contextlib import closing

import pytest

from conformance.backends import DuckLakeSqliteHarness
from onerow.adapters.warehouse.duckdb.merge import Transaction
from onerow.adapters.warehouse.ducklake.warehouse import LOOKS
from onerow.core.plans import Committed
from onerow.errors import DuplicatesError
from onerow.ports.warehouse import InspectRequest
from onerow.testing.conformance.harness import SPEC, a_row, assert_table, at, counted, refused


class Torn(Transaction):
    """Sees, so many times, what a torn look sees: a replaced row beside its successor."""

    times = 0
    looks = 0

    def verify(self, counts):
        type(self).looks += 1
        if type(self).looks <= self.times:
            self.connection.execute("insert into onerow_db.main.props select * from onerow_db.main.props")
        super().verify(counts)


@pytest.fixture
def harness(tmp_path):
    with closing(DuckLakeSqliteHarness(tmp_path)) as harness:
        harness.installed()
        harness.stage("b1", "w1", [a_row()])
        harness.stage("b2", "w1", [a_row(id="newer", created_at=at(1)), a_row(player="lebron")])
        assert isinstance(harness.merge("b1"), Committed)
        yield harness


def test_a_torn_look_fails_no_consolidation(harness):
    harness.transaction = type("TornOnce", (Torn,), {"times": 1, "looks": 0})
    with closing(harness.another_warehouse(harness.catalog)) as warehouse:
        assert counted(harness.apply(harness.plan("b2", token=2), on=warehouse)) == (2, 1, 1, 0, 0)
    assert harness.transaction.looks == 2
    assert_table(harness, [a_row(id="newer", created_at=at(1)), a_row(player="lebron")])


def test_what_is_wrong_at_every_look_is_refused(harness):
    harness.transaction = type("TornAlways", (Torn,), {"times": 99, "looks": 0})
    with closing(harness.another_warehouse(harness.catalog)) as warehouse:
        outcome = harness.apply(harness.plan("b2", token=2), on=warehouse)
    assert isinstance(refused(outcome, "failed").error, DuplicatesError)
    assert harness.transaction.looks == LOOKS
    assert_table(harness, [a_row()])


def test_duplicates_that_are_there_are_found(harness):
    harness.foreign_insert(SPEC, [a_row(id="twin")])
    found = harness.warehouse().inspect(InspectRequest(SPEC))
    assert found.duplicate_keys == 1
