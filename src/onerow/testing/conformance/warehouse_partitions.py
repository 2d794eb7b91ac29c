"""The checks of a warehouse: partitions of every type, several of them in one plan, and a table without."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from onerow.core.partitions import INT64_MAX
from onerow.core.plans import Committed
from onerow.core.spec import Column
from onerow.core.types import ColumnType
from onerow.testing.conformance.asking import Checks
from onerow.testing.conformance.harness import (
    COLUMNS,
    DAY,
    NEXT_DAY,
    SPEC,
    Row,
    WarehouseHarness,
    a_row,
    assert_table,
    at,
    counted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.spec import TableSpec

CHECKS: Checks[WarehouseHarness] = Checks()


@CHECKS.add
def partitions_are_separate(harness: WarehouseHarness) -> None:
    """The same key in two partitions is two rows; a plan touches only its own partitions."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY)])
    outcome = harness.merge("b1", partitions=[DAY.isoformat()])
    assert counted(outcome) == (1, 1, 0, 0, 0)
    assert_table(harness, [a_row()])
    outcome = harness.merge("b1", run="run2", partitions=[NEXT_DAY.isoformat()])
    assert counted(outcome, NEXT_DAY.isoformat()) == (1, 1, 0, 0, 0)
    assert_table(harness, [a_row(), a_row(game_date=NEXT_DAY)])


@CHECKS.add
def several_partitions_in_one_plan(harness: WarehouseHarness) -> None:
    """Where a transaction takes several partitions, each has its own counts."""
    harness.installed()
    if harness.warehouse().capabilities.max_partitions < 2:
        return
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron"), a_row(game_date=NEXT_DAY)])
    harness.stage("b1", "w2", [a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY, created_at=at(1))])
    outcome = harness.merge("b1")
    assert counted(outcome) == (2, 2, 0, 0, 0)
    assert counted(outcome, NEXT_DAY.isoformat()) == (3, 1, 0, 0, 2)


def _of_kind(kind: ColumnType, values: Sequence[Any]) -> tuple[TableSpec, list[Row]]:
    columns = (*COLUMNS[:1], Column("part", kind), *COLUMNS[2:])
    spec = replace(SPEC, columns=columns, partition="part")
    rows = [
        {**{name: value for name, value in a_row().items() if name != "game_date"}, "part": value} for value in values
    ]
    return spec, rows


def _groups(harness: WarehouseHarness, names: Sequence[str]) -> list[Sequence[str]]:
    """Return the names in groups that one transaction may take."""
    size = harness.warehouse().capabilities.max_partitions
    return [names[start : start + size] for start in range(0, len(names), size)]


@CHECKS.add
def partitions_of_every_type(harness: WarehouseHarness) -> None:
    """Partitions may be text, integers, decimals, booleans or dates, odd ones too."""
    kinds: Sequence[tuple[ColumnType, Sequence[Any], Sequence[str]]] = (
        (ColumnType("string"), (" ", "a/b", "O'Hara", "é😀"), (" ", "a/b", "O'Hara", "é😀")),
        (ColumnType("int64"), (-7, 0, INT64_MAX), ("-7", "0", str(INT64_MAX))),
        (ColumnType("decimal", 6, 2), (Decimal("24.50"), Decimal("-1.00")), ("24.50", "-1.00")),
        (ColumnType("bool"), (True, False), ("true", "false")),
        (ColumnType("date"), (dt.date(1, 1, 1), dt.date(9999, 12, 31)), ("0001-01-01", "9999-12-31")),
    )
    for kind, values, names in kinds:
        spec, rows = _of_kind(kind, values)
        harness.installed(replace(spec, name=f"by_{kind.kind}", target=(f"by_{kind.kind}",)))
        harness.stage("b1", "w1", rows)
        outcomes = [harness.merge("b1", run=f"run-{name}", partitions=[name]) for name in names[:1]]
        outcomes += [harness.merge("b1", partitions=group) for group in _groups(harness, names[1:])]
        assert sum(len(outcome.counts) for outcome in outcomes if isinstance(outcome, Committed)) == len(names)
        assert_table(harness, rows)
        assert {name for _, name in harness.warehouse().merged(harness.spec.name, "b1")} == set(names)


@CHECKS.add
def an_empty_text_is_a_partition(harness: WarehouseHarness) -> None:
    """It is another one than that of a table without partitions, in every answer."""
    spec, rows = _of_kind(ColumnType("string"), ["", "x"])
    harness.installed(spec)
    part = harness.stage("b1", "w1", rows)
    assert counted(harness.merge("b1"), "") == (1, 1, 0, 0, 0)
    assert harness.warehouse().merged("props", "b1") == {(part.part_id, ""), (part.part_id, "x")}
    entries = harness.warehouse().history(table="props", batch="b1", limit=9)
    assert {entry.partition for entry in entries} == {"", "x"}


@CHECKS.add
def a_table_may_have_no_partitions(harness: WarehouseHarness) -> None:
    """Such a table is one scope, itself."""
    harness.installed(replace(SPEC, partition=None))
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY, created_at=at(1))])
    assert counted(harness.merge("b1"), None) == (2, 1, 0, 0, 1)
    assert_table(harness, [a_row(game_date=NEXT_DAY, created_at=at(1))])
    assert {name for _, name in harness.warehouse().merged("props", "b1")} == {None}
