"""Compaction, and what other people's clean-up leaves alone."""

from __future__ import annotations

import pytest

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.adapters.warehouse.ducklake import upkeep
from onerow.core.plans import Committed
from onerow.errors import LockAcquisitionError
from onerow.services.leases import Leases, LeaseSettings
from onerow.services.retention import Retention
from onerow.testing.conformance.harness import SPEC, a_row, assert_table, at, counted, refused
from onerow.testing.memory_locks import MemoryLocks


def merge_some(harness, count):
    for number in range(count):
        harness.stage(f"b{number}", "w1", [a_row(created_at=at(number)), a_row(player=f"p{number}")])
        assert isinstance(harness.merge(f"b{number}"), Committed)
    return [a_row(created_at=at(count - 1)), *(a_row(player=f"p{number}") for number in range(count))]


def test_small_files_are_merged_and_rows_stay(lake):
    expected = merge_some(lake, 4)
    warehouse = lake.warehouse()
    planned = warehouse.upkeep([SPEC], apply=False)
    assert any(line.startswith("main.props:") for line in planned)
    assert any(line.startswith("onerow.ledger:") for line in planned)
    assert warehouse.upkeep([SPEC], apply=False) == planned, "a plan changes nothing"
    assert warehouse.upkeep([SPEC], apply=True) == planned
    assert warehouse.upkeep([SPEC], apply=False) == []
    assert_table(lake, expected)
    lake.stage("later", "w1", [a_row(created_at=at(9))])
    assert counted(lake.merge("later")) == (1, 0, 1, 0, 0)
    assert len(warehouse.history(table="props", batch=None, limit=99)) == 5


def test_gc_compacts_at_the_tables_turn(on_sqlite):
    expected = merge_some(on_sqlite, 3)
    warehouse = on_sqlite.warehouse()
    settings = LeaseSettings(max_wait_s=0.05)
    leases = Leases(
        store=MemoryLocks(), clock=SystemClock(), background=Threads(), ids=SystemIds(), settings=settings
    )
    retention = Retention(warehouse=warehouse, parts=on_sqlite.parts)
    planned = warehouse.upkeep([SPEC], apply=False)
    domain = warehouse.capabilities.commit_domain
    with leases.commit_turn(domain, SPEC.name, holder="a consolidation", batch="b"):  # noqa: SIM117 -- what is held
        with pytest.raises(LockAcquisitionError):
            retention.keep_up([SPEC], leases=leases, holder="gc")
    assert warehouse.upkeep([SPEC], apply=False) == planned, "nothing was done"
    assert retention.keep_up([SPEC], leases=leases, holder="gc") == planned
    assert_table(on_sqlite, expected)


def test_old_snapshots_go_and_the_files_that_only_they_name(lake, monkeypatch):
    expected = merge_some(lake, 3)
    warehouse = lake.warehouse()
    assert not any("snapshots" in line for line in warehouse.upkeep([SPEC], apply=True)), "they are young"
    monkeypatch.setattr(upkeep, "_RETENTION", "now() + interval 1 day")
    lines = warehouse.upkeep([SPEC], apply=True)
    assert any("snapshots" in line for line in lines)
    assert any("files that no snapshot" in line for line in lines)
    assert_table(lake, expected)
    lake.stage("later", "w1", [a_row(created_at=at(9))])
    assert counted(lake.merge("later")) == (1, 0, 1, 0, 0)


@pytest.mark.parametrize("first", ["upkeep", "merge"])
def test_compaction_beside_a_consolidation_loses_nothing(on_postgres, first):
    """Whoever comes second loses at the commit and runs again."""
    harness = on_postgres
    expected = merge_some(harness, 3)
    harness.stage("beside", "w1", [a_row(created_at=at(50))])  # replaces a row of the files concerned
    plan = harness.plan("beside")
    one = harness.warehouse()
    with harness.another() as other:
        if first == "upkeep":
            outcome = harness.apply(plan, on=one, before_commit=lambda: other.upkeep([SPEC], apply=True))
            refused(outcome, "conflict")
            outcome = harness.merge("beside", run="again")
        else:
            outcome = harness.apply(plan, on=one)
            other.upkeep([SPEC], apply=True)
    assert isinstance(outcome, Committed)
    assert_table(harness, [a_row(created_at=at(50)), *expected[1:]])


def test_a_clean_up_of_orphans_leaves_staged_parts_alone(lake):
    """DuckLake removes every .parquet file that it does not know; staged parts lie below the same folder."""
    part = lake.stage("b1", "w1", [a_row()])
    place = lake.parts.data_path(part)
    assert place.is_relative_to(lake.data_path)
    control = place.with_name("orphan.parquet")
    control.write_bytes(place.read_bytes())
    with lake.connection() as connection:
        connection.execute("call ducklake_delete_orphaned_files('onerow_db', cleanup_all => true)")
    assert not control.exists(), "the control must be removed, or nothing was cleaned up"
    assert place.exists()
    assert counted(lake.merge("b1")) == (1, 1, 0, 0, 0)
