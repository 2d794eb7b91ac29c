"""The checks of a warehouse: the views beside a target, which any SQL client can read."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from onerow.core.spec import Column
from onerow.core.types import ColumnType
from onerow.testing.conformance.asking import Checks
from onerow.testing.conformance.harness import (
    COLUMNS,
    DAY,
    LOCKS,
    NEXT_DAY,
    SPEC,
    VERSIONS,
    Row,
    WarehouseHarness,
    a_row,
    at,
    sorted_rows,
)

CHECKS: Checks[WarehouseHarness] = Checks()

NAMES = ("game_date", "player", "line", "row_count", "ids", "newest")


def duplicates(harness: WarehouseHarness) -> list[Row]:
    """Return what the monitor view shows, the ids as a sorted list whether the engine joins them or not."""
    rows = harness.related_rows(harness.spec, "_duplicates")
    for row in rows:
        if row["ids"] is not None:
            row["ids"] = sorted(row["ids"].split(", ") if isinstance(row["ids"], str) else row["ids"])
    return sorted_rows(rows)


def current(harness: WarehouseHarness) -> list[Row]:
    """Return what the view of the newest versions shows."""
    return sorted_rows(harness.related_rows(harness.spec, "_current"))


# --- <target>_duplicates ---------------------------------------------------------------------


@CHECKS.add
def the_monitor_view_shows_duplicates(harness: WarehouseHarness) -> None:
    """Keys with several rows, how many, which ids and how new; nothing where every key has one row."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron"), a_row(game_date=NEXT_DAY)])
    harness.merge("b1")
    assert duplicates(harness) == []
    rows = [a_row(id="id-2", created_at=at(5)), a_row(id=None, created_at=at(-5))]
    rows += [a_row(player=None, line=None, id=name) for name in ("b", "a")]
    if not harness.plant_duplicates(rows):
        return
    doubled = [(DAY, "jokic", Decimal("24.50"), 3, ["id-1", "id-2"], at(5)), (DAY, None, None, 2, ["a", "b"], at(0))]
    assert duplicates(harness) == sorted_rows([dict(zip(NAMES, row, strict=True)) for row in doubled])


@CHECKS.add
def the_monitor_view_needs_no_id_and_no_partition(harness: WarehouseHarness) -> None:
    """Without an id column there are no ids; without a partition the key alone tells."""
    harness.installed(replace(SPEC, partition=None, id_column=None, key=("player",), order_by=("seen", "created_at")))
    rows = [a_row(seen=None), a_row(game_date=NEXT_DAY, seen=3), a_row(player="lebron")]
    if not harness.plant_duplicates(rows):
        return
    assert duplicates(harness) == [{"player": "jokic", "row_count": 2, "ids": None, "newest": 3}]


@CHECKS.add
def the_monitor_view_takes_versions_for_rows(harness: WarehouseHarness) -> None:
    """In versions mode a key may have many rows; the same number twice is a duplicate."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(created_at=at(1)), a_row(created_at=at(2))])
    harness.merge("b1")
    assert duplicates(harness) == []
    if not harness.plant_duplicates([{**a_row(id="foreign", created_at=at(9)), "version": 2}]):
        return
    row = (DAY, "jokic", Decimal("24.50"), 2, ["foreign", "id-1"], at(9))
    assert duplicates(harness) == [{**dict(zip(NAMES, row, strict=True)), "version": 2}]


@CHECKS.add
def a_key_may_be_called_like_a_column_of_the_view(harness: WarehouseHarness) -> None:
    """The key keeps its name; the view's own column gives way."""
    columns = tuple(replace(column, name="ids") if column.name == "player" else column for column in COLUMNS)
    harness.installed(replace(SPEC, key=("ids",), columns=columns))
    row = {("ids" if name == "player" else name): value for name, value in a_row().items()}
    if not harness.plant_duplicates([row, {**row, "id": "id-2"}]):
        return
    (found,) = harness.related_rows(harness.spec, "_duplicates")
    assert (found["ids"], found["row_count"]) == ("jokic", 2)
    assert set(found["onerow_ids"].split(", ") if isinstance(found["onerow_ids"], str) else found["onerow_ids"]) == {
        "id-1",
        "id-2",
    }


# --- <target>_current ------------------------------------------------------------------------


@CHECKS.add
def the_current_view_shows_the_newest_version(harness: WarehouseHarness) -> None:
    """One row for each key and partition, whole and with its version; a late older row does not move it."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(created_at=at(5), points=None), a_row(player=None, line=None)])
    harness.merge("b1")
    newest = [{**a_row(created_at=at(5), points=None), "version": 2}, {**a_row(player=None, line=None), "version": 1}]
    assert current(harness) == sorted_rows(newest)
    harness.stage("b2", "w1", [a_row(created_at=at(3)), a_row(game_date=NEXT_DAY)])
    harness.merge("b2", run="run2")
    newest.append({**a_row(game_date=NEXT_DAY), "version": 1})
    assert current(harness) == sorted_rows(newest)
    harness.stage("b3", "w1", [a_row(created_at=at(6))])
    harness.merge("b3", run="run3")
    newest[0] = {**a_row(created_at=at(6)), "version": 4}
    assert current(harness) == sorted_rows(newest)


@CHECKS.add
def the_current_view_breaks_ties(harness: WarehouseHarness) -> None:
    """NULL is oldest, texts compare bytewise, and where the order columns tie the others decide."""
    harness.installed(replace(VERSIONS, order_by=("seen",)))
    rows = {
        "null": [a_row(seen=-1), a_row(seen=None, created_at=at(9))],
        "text": [a_row(id="a"), a_row(id="Z"), a_row(id=None)],
        "number": [a_row(points=-1.0), a_row(points=None)],
        "wide": [a_row(id="😀"), a_row(id="\uffee")],
    }
    staged = [{**row, "player": player} for player, found in rows.items() for row in found]
    harness.stage("b1", "w1", staged)
    harness.merge("b1")
    found = {row["player"]: row for row in current(harness)}
    for player, wanted in rows.items():
        assert {name: found[player][name] for name in a_row()} == {**wanted[0], "player": player}


@CHECKS.add
def a_column_that_comes_later_is_in_the_view(harness: WarehouseHarness) -> None:
    """Install adds a column to the table and to the view, which says so; a second install does nothing."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1")
    wider = replace(VERSIONS, columns=(*COLUMNS, Column("note", ColumnType("string"))))
    made = list(harness.warehouse().install([wider], lock_store=LOCKS, adopt_locks=False))
    assert any("note" in line for line in made)
    assert list(harness.warehouse().install([wider], lock_store=LOCKS, adopt_locks=False)) == []
    assert all(well for _, well, _ in harness.warehouse().probe([wider]))
    harness.spec = wider
    assert current(harness) == [{**a_row(), "note": None, "version": 1}]
    harness.stage("b2", "w1", [{**a_row(created_at=at(1)), "note": "new"}, {**a_row(), "note": None}])
    harness.merge("b2", run="run2")
    assert current(harness) == [{**a_row(created_at=at(1)), "note": "new", "version": 2}]
    assert len(harness.table_rows(wider)) == 2
