"""The checks of a warehouse: installing, the ledger and the history, looking for what is wrong."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from onerow.core.plans import AlreadyMerged, Committed
from onerow.core.spec import Column
from onerow.core.types import ColumnType
from onerow.errors import (
    ConfigurationError,
    LockStoreMismatchError,
    NotInstalledError,
)
from onerow.ports.warehouse import InspectRequest
from onerow.testing.conformance.asking import Checks, raises
from onerow.testing.conformance.harness import (
    COLUMNS,
    DAY,
    LOCKS,
    NEXT_DAY,
    SPEC,
    WarehouseHarness,
    a_row,
    assert_table,
    at,
    counted,
    refused,
)
from onerow.testing.memory_looks import audit

CHECKS: Checks[WarehouseHarness] = Checks()

PARTITION = DAY.isoformat()


# --- install ---------------------------------------------------------------------------------


@CHECKS.add
def install_is_idempotent(harness: WarehouseHarness) -> None:
    """The first install says what it made, the second one makes nothing."""
    assert list(harness.warehouse().install([SPEC], lock_store=LOCKS, adopt_locks=False))
    assert list(harness.warehouse().install([SPEC], lock_store=LOCKS, adopt_locks=False)) == []
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1")
    assert list(harness.warehouse().install([SPEC], lock_store=LOCKS, adopt_locks=False)) == []
    assert_table(harness, [a_row()])
    assert all(well for _, well, _ in harness.warehouse().probe([SPEC]))


@CHECKS.add
def install_refuses_what_does_not_fit(harness: WarehouseHarness) -> None:
    """A table whose column has another type is refused, and nothing else is created either."""
    harness.installed()
    columns = tuple(Column("seen", ColumnType("string")) if column.name == "seen" else column for column in COLUMNS)
    other = replace(SPEC, name="other", target=("other",))
    with raises(ConfigurationError) as raised:
        harness.warehouse().install([other, replace(SPEC, columns=columns)], lock_store=LOCKS, adopt_locks=False)
    assert "seen" in str(raised.error)
    assert list(harness.warehouse().install([other], lock_store=LOCKS, adopt_locks=False))


@CHECKS.add
def install_refuses_a_column_that_is_not_declared(harness: WarehouseHarness) -> None:
    """A row is replaced whole, so the values of such a column would be lost."""
    harness.installed()
    narrow = replace(SPEC, columns=tuple(column for column in COLUMNS if column.name != "points"))
    with raises(ConfigurationError) as raised:
        harness.warehouse().install([narrow], lock_store=LOCKS, adopt_locks=False)
    assert "points" in str(raised.error)


@CHECKS.add
def install_refuses_a_key_that_the_table_lacks(harness: WarehouseHarness) -> None:
    """A column can be added, a key, partition or order column cannot: the rows that are there have none."""
    harness.installed()
    wide = replace(SPEC, columns=(*COLUMNS, Column("extra", ColumnType("string"))))
    for wider in (replace(wide, key=(*SPEC.key, "extra")), replace(wide, order_by=("extra",))):
        with raises(ConfigurationError):
            harness.warehouse().install([wider], lock_store=LOCKS, adopt_locks=False)
    assert list(harness.warehouse().install([SPEC], lock_store=LOCKS, adopt_locks=False)) == []


@CHECKS.add
def install_adds_columns(harness: WarehouseHarness) -> None:
    """A column that was declared later is added; it is NULL in the rows that are there."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1")
    wider = replace(SPEC, columns=(*COLUMNS, Column("note", ColumnType("string"))))
    assert list(harness.warehouse().install([wider], lock_store=LOCKS, adopt_locks=False))
    harness.spec = wider
    harness.stage("b2", "w1", [{**a_row(player="lebron"), "note": "new"}])
    assert counted(harness.merge("b2", run="run2")) == (1, 1, 0, 0, 0)
    assert_table(harness, [{**a_row(), "note": None}, {**a_row(player="lebron"), "note": "new"}])


@CHECKS.add
def install_refuses_another_lock_store(harness: WarehouseHarness) -> None:
    """Two lock stores would be two locks; another one is taken only on purpose."""
    harness.installed()
    more = replace(SPEC, name="more", target=("more",))
    with raises(LockStoreMismatchError):
        harness.warehouse().install([more, SPEC], lock_store="other", adopt_locks=False)
    assert list(harness.warehouse().install([SPEC], lock_store="other", adopt_locks=True))
    assert list(harness.warehouse().install([SPEC], lock_store="other", adopt_locks=True)) == []
    harness.stage("b1", "w1", [a_row()])
    assert isinstance(refused(harness.merge("b1"), "failed").error, LockStoreMismatchError)
    assert isinstance(harness.merge("b1", lock_store="other", attempt=2), Committed)
    assert list(harness.warehouse().install([more], lock_store=LOCKS, adopt_locks=False)), "it was not created"


@CHECKS.add
def a_merge_needs_an_install(harness: WarehouseHarness) -> None:
    """A table that was never installed is named as such, with whatever step finds it out."""
    harness.installed(replace(SPEC, name="other", target=("other",)))
    harness.spec = SPEC
    try:
        harness.stage("b1", "w1", [a_row()])
        outcome = harness.merge("b1")
    except NotInstalledError:
        return
    assert isinstance(refused(outcome, "failed").error, NotInstalledError)


# --- the ledger ------------------------------------------------------------------------------


@CHECKS.add
def a_merge_is_recorded(harness: WarehouseHarness) -> None:
    """Ledger and history name what was merged, by whom, with which counts."""
    harness.installed()
    part = harness.stage("b1", "w1", [a_row(), a_row(created_at=at(1))])
    assert harness.warehouse().merged("props", "b1") == frozenset()
    assert dict(harness.warehouse().batches("props")) == {}
    harness.merge("b1", token=7, run="run-x", attempt=3)
    warehouse = harness.warehouse()
    assert warehouse.merged("props", "b1") == {(part.part_id, PARTITION)}
    assert dict(warehouse.batches("props")) == {"b1": 1}
    (entry,) = warehouse.history(table="props", batch="b1", limit=10)
    assert (entry.action, entry.table, entry.partition, entry.batch) == ("consolidate", "props", PARTITION, "b1")
    assert (entry.consolidation, entry.attempt, entry.token, entry.unlocked) == ("run-x", 3, 7, False)
    assert (entry.holder, entry.parts) == ("checker", 1)
    counts = (entry.rows_staged, entry.rows_inserted, entry.rows_updated, entry.rows_unchanged)
    assert (*counts, entry.rows_superseded) == (2, 1, 0, 0, 1)
    assert entry.committed_at.tzinfo is not None


@CHECKS.add
def names_in_the_ledger_are_exact(harness: WarehouseHarness) -> None:
    """Batches that look alike are not each other's."""
    harness.installed()
    parts = {}
    for number, name in enumerate(("b1", "b1_x", "b1%", "B1")):
        parts[name] = harness.stage(name, "w1", [a_row(player=name)]).part_id
        harness.merge(name, run=f"run{number}", token=number + 1)
    for name, part_id in parts.items():
        assert harness.warehouse().merged("props", name) == {(part_id, PARTITION)}
        assert len(harness.warehouse().history(table="props", batch=name, limit=10)) == 1
    assert dict(harness.warehouse().batches("props")) == dict.fromkeys(parts, 1)
    assert harness.warehouse().merged("other", "b1") == frozenset()


@CHECKS.add
def the_history_is_newest_first(harness: WarehouseHarness) -> None:
    """The history is limited from the newest on, over all tables if none is named."""
    harness.installed()
    for number in range(3):
        harness.stage(f"b{number}", "w1", [a_row(player=f"p{number}")])
        harness.merge(f"b{number}", run=f"run{number}", token=number + 1)
    warehouse = harness.warehouse()
    runs = [entry.consolidation for entry in warehouse.history(table="props", batch=None, limit=2)]
    assert runs == ["run2", "run1"]
    assert len(warehouse.history(table=None, batch=None, limit=10)) == 3
    assert list(warehouse.history(table="other", batch=None, limit=10)) == []


@CHECKS.add
def what_is_merged_is_not_merged_again(harness: WarehouseHarness) -> None:
    """A plan of which the ledger names every part changes nothing."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1")
    harness.foreign_delete_all(harness.spec)
    assert isinstance(harness.merge("b1", run="run2", token=2), AlreadyMerged)
    assert_table(harness, [])
    assert len(harness.warehouse().history(table="props", batch=None, limit=10)) == 1
    harness.stage("b2", "w1", [a_row()])
    assert isinstance(harness.merge("b2", run="run3", token=1), Committed), "it has raised the fence"


@CHECKS.add
def a_plan_may_be_outdated(harness: WarehouseHarness) -> None:
    """A plan of which the ledger names some parts is refused as outdated, and nothing of it is kept."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1")
    harness.stage("b1", "w2", [a_row(player="lebron")])
    refused(harness.merge("b1", run="run2", token=2), "outdated")
    assert_table(harness, [a_row()])
    assert counted(harness.merge("b1", run="run3", token=2, ask_ledger=True)) == (1, 1, 0, 0, 0)


# --- looks -----------------------------------------------------------------------------------


@CHECKS.add
def a_clean_table_is_clean(harness: WarehouseHarness) -> None:
    """A table that was only merged into has no duplicates and no findings."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY, player="lebron"), a_row(player=None)])
    for partition in (PARTITION, NEXT_DAY.isoformat()):
        harness.merge("b1", run=f"run-{partition}", partitions=[partition])
    check = harness.warehouse().inspect(InspectRequest(harness.spec))
    assert (check.rows, check.partitions, check.duplicate_keys, check.extra_rows) == (3, 2, 0, 0)
    assert (check.duplicates, check.findings) == ((), ())


@CHECKS.add
def duplicates_are_found(harness: WarehouseHarness) -> None:
    """Duplicates are counted and shown with their keys and ids, in the partitions that were asked for."""
    harness.installed()
    rows = [
        *(a_row(player=None, id=f"id-{number}") for number in range(3)),
        *(a_row(game_date=NEXT_DAY, id=f"id-{number}") for number in range(2)),
        a_row(),
    ]
    if not harness.plant_duplicates(rows):
        return

    def look(**request: Any) -> tuple[int, int, int]:
        check = harness.warehouse().inspect(InspectRequest(harness.spec, against_ledger=False, **request))
        return (check.rows, check.duplicate_keys, check.extra_rows)

    assert look() == (6, 2, 3)
    assert look(partition=PARTITION) == (4, 1, 2)
    assert look(since=NEXT_DAY.isoformat()) == (2, 1, 1)
    check = harness.warehouse().inspect(InspectRequest(harness.spec, partition=PARTITION, against_ledger=False))
    (found,) = check.duplicates
    assert (found.partition, found.rows) == (PARTITION, 3)
    assert dict(found.key) == {"game_date": PARTITION, "player": None, "line": "24.50"}
    assert sorted(found.ids) == ["id-0", "id-1", "id-2"]


@CHECKS.add
def an_intervention_is_recorded(harness: WarehouseHarness) -> None:
    """An audit entry comes back, with the warehouse's own time."""
    harness.installed()
    entry = audit("discard", "props", None, by="me", reason="wrong season", at=at(0))
    harness.warehouse().record(replace(entry, batch="b1"))
    (found,) = harness.warehouse().history(table="props", batch="b1", limit=10)
    assert (found.action, found.holder, found.reason, found.partition) == ("discard", "me", "wrong season", None)


@CHECKS.add
def as_many_duplicates_are_shown_as_asked_for(harness: WarehouseHarness) -> None:
    """All are counted."""
    harness.installed()
    if not harness.plant_duplicates([a_row(player=f"p{number // 2}") for number in range(12)]):
        return
    check = harness.warehouse().inspect(InspectRequest(harness.spec, limit=4))
    assert (check.duplicate_keys, check.extra_rows, len(check.duplicates)) == (6, 6, 4)
    assert len({found.key["player"] for found in check.duplicates}) == 4


@CHECKS.add
def partitions_are_looked_at_by_value(harness: WarehouseHarness) -> None:
    """``since`` compares values, not their text; partitions are told as they are told everywhere."""
    cases: list[tuple[ColumnType, list[object], list[str]]] = [
        (ColumnType("int64"), [-5, 9, 10, 100], ["-5", "9", "10", "100"]),
        (ColumnType("bool"), [False, True], ["false", "true"]),
        (ColumnType("decimal", 12, 9), [Decimal("1E-9"), Decimal("2.500000000")], ["0.000000001", "2.500000000"]),
    ]
    for kind, values, names in cases:
        columns = tuple(replace(column, type=kind) if column.name == "game_date" else column for column in COLUMNS)
        spec = harness.installed(replace(SPEC, name=f"by_{kind.kind}", target=(f"by_{kind.kind}",), columns=columns))
        rows = [a_row(game_date=value, id=text) for value in values for text in ("a", "b")]
        if not harness.plant_duplicates(rows, spec=spec):
            continue
        for place, name in enumerate(names):
            request = InspectRequest(spec, since=name, against_ledger=False)
            found = [key.partition for key in harness.warehouse().inspect(request).duplicates]
            assert found == names[place:], kind
        one = harness.warehouse().inspect(InspectRequest(spec, partition=names[0], against_ledger=False))
        assert [(key.partition, key.rows) for key in one.duplicates] == [(names[0], 2)]
        assert (one.partitions, one.rows) == (1, 2)


@CHECKS.add
def rows_that_break_a_check_are_found(harness: WarehouseHarness) -> None:
    """A declared check is a finding with its name; NULL breaks none."""
    checks = (("seen_is_positive", "seen > 0"), ("points_are_few", "points < 100 or player = 'chamberlain'"))
    harness.installed(replace(SPEC, checks=checks))
    rows = [a_row(seen=-1, player="a"), a_row(seen=None, player="b"), a_row(seen=0, player="c", game_date=NEXT_DAY)]
    harness.foreign_insert(harness.spec, rows)

    def look(**request: Any) -> list[tuple[str, int]]:
        check = harness.warehouse().inspect(InspectRequest(harness.spec, against_ledger=False, **request))
        return [(finding.check, finding.rows) for finding in check.findings]

    assert look() == [("check:seen_is_positive", 2)]
    assert look(partition=PARTITION) == [("check:seen_is_positive", 1)]
    assert look(since=NEXT_DAY.isoformat()) == [("check:seen_is_positive", 1)]


@CHECKS.add
def rows_that_the_ledger_does_not_explain_are_found(harness: WarehouseHarness) -> None:
    """Somebody wrote or removed rows: a finding of the partition, unless nobody asked for it."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    harness.merge("b1")

    def look(**request: Any) -> list[tuple[str, str | None, int]]:
        check = harness.warehouse().inspect(InspectRequest(harness.spec, **request))
        return [(finding.check, finding.partition, finding.rows) for finding in check.findings]

    assert look() == []
    harness.foreign_insert(harness.spec, [a_row(player="foreign"), a_row(game_date=NEXT_DAY, player="other")])
    both = [("ledger", PARTITION, 1), ("ledger", NEXT_DAY.isoformat(), 1)]
    assert look() == both
    assert look(partition=PARTITION) == both[:1]
    assert look(since=NEXT_DAY.isoformat()) == both[1:]
    assert look(against_ledger=False) == []
    harness.foreign_delete_all(harness.spec)
    gone = [("ledger", PARTITION, 2)]
    assert look() == gone
    assert look(since=PARTITION) == gone, "a partition that has lost all its rows is not left out"
    assert look(since=NEXT_DAY.isoformat()) == []


@CHECKS.add
def keys_in_several_partitions_are_found(harness: WarehouseHarness) -> None:
    """They break no rule, but somebody may not have meant them; a key that is the partition has none."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY), a_row(player=None), a_row(player="lebron")])
    harness.merge("b1")
    check = harness.warehouse().inspect(InspectRequest(harness.spec))
    assert [(finding.check, finding.rows) for finding in check.findings] == [("key_in_several_partitions", 1)]
    assert check.duplicate_keys == 0
    assert harness.warehouse().inspect(InspectRequest(harness.spec, partition=PARTITION)).findings == ()
    for key in (("game_date",), ("player", "game_date")):
        spec = harness.installed(replace(SPEC, name=f"daily{len(key)}", target=(f"daily{len(key)}",), key=key))
        harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY), a_row(created_at=at(1))])
        outcome = harness.merge("b1")
        assert counted(outcome) == (2, 1, 0, 0, 1)
        check = harness.warehouse().inspect(InspectRequest(spec))
        assert (check.rows, check.duplicate_keys) == (2, 0)
        assert len(check.findings) == len(key) - 1


@CHECKS.add
def looking_leaves_nothing_behind(harness: WarehouseHarness) -> None:
    """A look between two merges of one object disturbs neither, and a table without partitions can be looked at."""
    warehouse = harness.warehouse()
    spec = harness.installed(replace(SPEC, partition=None))
    for number in range(2):
        harness.stage(f"b{number}", "w1", [a_row(player=f"p{number}")])
        assert isinstance(harness.apply(harness.plan(f"b{number}"), on=warehouse), Committed)
        check = warehouse.inspect(InspectRequest(spec))
        assert (check.rows, check.partitions, check.findings) == (number + 1, 1, ())
    if not harness.plant_duplicates([a_row(player="p1", id="id-2")], spec=spec):
        return
    (found,) = warehouse.inspect(InspectRequest(spec, against_ledger=False)).duplicates
    assert (found.partition, found.rows, found.key["player"]) == (None, 2, "p1")
