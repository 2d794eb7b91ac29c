"""The checks of a warehouse: repair of tables in versions mode, where copies go and clashing numbers are given anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onerow.core.plans import Committed
from onerow.errors import UsageError
from onerow.testing.conformance.asking import Checks, raises
from onerow.testing.conformance.harness import NEXT_DAY, VERSIONS, WarehouseHarness, a_row, assert_table, at, counted
from onerow.testing.conformance.warehouse_repair import (
    JOKIC,
    PARTITION,
    REMOVED,
    intervention,
    planned,
    plant,
    repair,
    restore,
)

if TYPE_CHECKING:
    from onerow.core.spec import ExistingDuplicatesPolicy
    from onerow.testing.conformance.harness import Row

CHECKS: Checks[WarehouseHarness] = Checks()


def has_versions(harness: WarehouseHarness, *, policy: ExistingDuplicatesPolicy = "fail") -> bool:
    """Install a table in versions mode, if the engine offers it."""
    if "versions" not in harness.warehouse().capabilities.modes:
        return False
    harness.installed(replace(VERSIONS, on_existing_duplicates=policy))
    return True


def version(number: int, **values: object) -> Row:
    """Return a row with a version."""
    return {**a_row(**values), "version": number}


@CHECKS.add
def copies_of_a_version_are_removed(harness: WarehouseHarness) -> None:
    """Of rows with one content the lowest version stays; other contents of the key keep their numbers."""
    if not has_versions(harness):
        return
    other = version(2, id="other", created_at=at(5))
    elsewhere = version(1, game_date=NEXT_DAY)
    plant(harness, [version(3), version(1), other, elsewhere, version(1, player="lebron")])
    (one,) = planned(harness).partitions
    assert (one.partition, one.keys, one.extra_rows, one.renumbered) == (PARTITION, 1, 1, 0)
    (group,) = planned(harness).groups
    assert (group.kept, group.removed, group.rows) == ("id-1", ("id-1",), 3)
    done = repair(harness, intervention(harness, "dedupe"))
    assert (done.keys, done.rows_removed, done.renumbered) == (1, 1, 0)
    assert_table(harness, [version(1), other, elsewhere, version(1, player="lebron")])
    (row,) = harness.related_rows(harness.spec, REMOVED)
    assert (row["version"], row["id"]) == (3, "id-1")
    assert planned(harness).partitions == ()


@CHECKS.add
def a_clashing_version_gets_a_new_number(harness: WarehouseHarness) -> None:
    """Different contents under one number: the oldest keeps it, the others come above the key's highest."""
    if not has_versions(harness):
        return
    rows = [version(1, id=f"n{number}", created_at=at(number)) for number in range(3)]
    last = version(4, id="last", created_at=at(-3))
    plant(harness, [rows[2], rows[0], last, rows[1], rows[0]])
    (one,) = planned(harness).partitions
    assert (one.keys, one.extra_rows, one.renumbered) == (1, 1, 2)
    done = repair(harness, intervention(harness, "dedupe"))
    assert (done.rows_removed, done.renumbered) == (1, 2)
    assert_table(harness, [rows[0], last, {**rows[1], "version": 5}, {**rows[2], "version": 6}])
    assert planned(harness).partitions == ()


@CHECKS.add
def versions_are_repaired_while_consolidating(harness: WarehouseHarness) -> None:
    """The merge goes on after the highest number, and its counts are those of the repaired table."""
    if not has_versions(harness, policy="repair"):
        return
    plant(harness, [version(1), version(2), version(1, player="lebron"), version(1, player="lebron", id="id-2")])
    harness.stage("b1", "w1", [a_row(), a_row(created_at=at(9)), a_row(player="lebron", id="id-3", created_at=at(9))])
    outcome = harness.merge("b1")
    assert counted(outcome) == (3, 2, 0, 1, 0)
    assert isinstance(outcome, Committed)
    assert dict(outcome.duplicates_removed) == {PARTITION: 1}
    found = sorted((row["player"], row["id"], row["version"]) for row in harness.table_rows(harness.spec))
    assert found == [
        ("jokic", "id-1", 1), ("jokic", "id-1", 2),
        ("lebron", "id-1", 1), ("lebron", "id-2", 2), ("lebron", "id-3", 3),
    ]  # fmt: skip
    assert planned(harness).partitions == ()


@CHECKS.add
def nothing_is_restored_into_versions(harness: WarehouseHarness) -> None:
    """Only copies were removed, and one of each is there."""
    if not has_versions(harness):
        return
    plant(harness, [version(1), version(2)])
    repair(harness, intervention(harness, "dedupe", run="run-1"))
    with raises(UsageError):
        restore(harness, intervention(harness, "restore", run="run-2"), "run-1", JOKIC)
    with raises(UsageError):
        harness.warehouse().plan_restore(harness.spec, PARTITION, run="run-1", key=JOKIC)
    assert_table(harness, [version(1)])
