"""The checks of a warehouse: rows that a repair has removed come back."""

from __future__ import annotations

from onerow.errors import DuplicatesError, StaleLeaseError, UsageError
from onerow.testing.conformance.asking import Checks, raises
from onerow.testing.conformance.harness import NEXT_DAY, WarehouseHarness, a_row, assert_table, at
from onerow.testing.conformance.warehouse_repair import (
    JOKIC,
    NEW,
    OLD,
    PARTITION,
    REMOVED,
    intervention,
    is_clean,
    plant,
    removed_rows,
    repair,
    restore,
)

CHECKS: Checks[WarehouseHarness] = Checks()


@CHECKS.add
def a_removed_row_can_be_restored_and_back(harness: WarehouseHarness) -> None:
    """It changes places with the row that is there, under a run of its own, by which that one comes back."""
    harness.installed()
    plant(harness, [OLD, NEW])
    repair(harness, intervention(harness, "dedupe", run="run-1"))
    look = harness.warehouse().plan_restore(harness.spec, PARTITION, run="run-1", key=JOKIC)
    assert (look.table, look.partition, look.run, look.back, look.current) == (
        "props", PARTITION, "run-1", "old", ("new",),
    )  # fmt: skip
    assert dict(look.key) == {"game_date": PARTITION, **JOKIC}
    assert (look.reason, look.removed_at.tzinfo is None) == ("foreign: ticket 7", False)
    assert_table(harness, [NEW])
    done = restore(harness, intervention(harness, "restore", run="run-2", reason="it was right"), "run-1", JOKIC)
    assert (done.partition, done.keys, done.rows_removed, done.rows_restored) == (PARTITION, 1, 1, 1)
    assert_table(harness, [OLD])
    assert removed_rows(harness) == [NEW]
    (row,) = harness.related_rows(harness.spec, REMOVED)
    assert (row["__onerow_run"], row["__onerow_reason"]) == ("run-2", "it was right")
    restore(harness, intervention(harness, "restore", run="run-3"), "run-2", {"game_date": PARTITION, **JOKIC})
    assert_table(harness, [NEW])
    assert removed_rows(harness) == [OLD]
    entries = harness.warehouse().history(table="props", batch=None, limit=9)
    assert sorted((entry.action, entry.rows_superseded, entry.rows_inserted) for entry in entries) == [
        ("dedupe", 1, 0),
        ("restore", 1, 0),
        ("restore", 1, 0),
    ]


@CHECKS.add
def the_newest_of_several_removed_rows_comes_back(harness: WarehouseHarness) -> None:
    """A run that removed several rows of a key gives the newest of them back first."""
    harness.installed()
    middle = a_row(id="middle", created_at=at(30))
    plant(harness, [OLD, middle, NEW])
    repair(harness, intervention(harness, "dedupe", run="run-1"))
    restore(harness, intervention(harness, "restore", run="run-2"), "run-1", JOKIC)
    assert_table(harness, [middle])
    restore(harness, intervention(harness, "restore", run="run-3"), "run-1", JOKIC)
    assert_table(harness, [OLD])


@CHECKS.add
def a_row_of_a_key_that_is_gone_comes_back(harness: WarehouseHarness) -> None:
    """If the table has no row of the key any more, one comes back and none goes; NULL is a value of a key."""
    harness.installed()
    rows = [a_row(player=None, id="old"), a_row(player=None, created_at=at(1))]
    plant(harness, rows)
    repair(harness, intervention(harness, "dedupe", run="run-1"))
    harness.foreign_delete_all(harness.spec)
    key = {"player": None, "line": "24.5"}
    done = restore(harness, intervention(harness, "restore", run="run-2"), "run-1", key)
    assert (done.rows_removed, done.rows_restored) == (0, 1)
    assert_table(harness, [rows[0]])
    assert is_clean(harness)


@CHECKS.add
def only_what_was_removed_can_be_restored(harness: WarehouseHarness) -> None:
    """Another run, another key, another partition, a text that is none: refused, and nothing is changed."""
    harness.installed()
    plant(harness, [OLD, NEW])
    repair(harness, intervention(harness, "dedupe", run="run-1"))
    other = NEXT_DAY.isoformat()
    refusals: list[tuple[str, str, dict[str, str | None]]] = [
        (PARTITION, "run-9", {**JOKIC}),
        (PARTITION, "run-1", {"player": "lebron", "line": "24.50"}),
        (PARTITION, "run-1", {"player": None, "line": "24.50"}),
        (PARTITION, "run-1", {"player": "jokic"}),
        (PARTITION, "run-1", {**JOKIC, "points": "20.5"}),
        (PARTITION, "run-1", {"player": "jokic", "line": "24.505"}),
        (other, "run-1", {**JOKIC}),
        (other, "run-1", {**JOKIC, "game_date": PARTITION}),
    ]
    for partition, run, key in refusals:
        with raises(UsageError):
            restore(harness, intervention(harness, "restore", run="run-2", partition=partition), run, key)
        with raises(UsageError):
            harness.warehouse().plan_restore(harness.spec, partition, run=run, key=key)
    with raises(StaleLeaseError):
        restore(harness, intervention(harness, "restore", run="run-2", token=1), "run-1", JOKIC)
    assert_table(harness, [NEW])
    assert removed_rows(harness) == [OLD]
    plant(harness, [NEW])
    with raises(DuplicatesError):
        restore(harness, intervention(harness, "restore", run="run-2"), "run-1", JOKIC)
