"""The checks of a warehouse: duplicates are found, moved aside and brought back."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from onerow.core.plans import Committed, Refused
from onerow.core.repairs import Intervention
from onerow.core.spec import Column
from onerow.core.types import ColumnType
from onerow.errors import (
    ConflictError,
    LeaseLostError,
    LockStoreMismatchError,
    PlanOutdatedError,
    StaleLeaseError,
)
from onerow.ports.warehouse import InspectRequest, RepairRequest
from onerow.testing.conformance.asking import OVERLAP_S, Beside, Checks, raises, together
from onerow.testing.conformance.harness import (
    COLUMNS,
    DAY,
    LOCKS,
    NEXT_DAY,
    SPEC,
    WarehouseHarness,
    Watch,
    a_row,
    assert_table,
    at,
    counted,
    lose_lease,
    refused,
    sorted_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onerow.core.plans import Outcome
    from onerow.core.repairs import Action, Repaired, RepairPlan
    from onerow.testing.conformance.harness import Row

CHECKS: Checks[WarehouseHarness] = Checks()

PARTITION = DAY.isoformat()
REMOVED = "_removed_duplicates"
JOKIC = {"player": "jokic", "line": "24.50"}

OLD, NEW = a_row(id="old"), a_row(id="new", created_at=at(60))


def plant(harness: WarehouseHarness, rows: Sequence[Row]) -> None:
    """Put rows into the table that break the rule, as somebody does who does not use onerow.

    Where the engine holds the key and refuses them, its index was dropped before.
    """
    if harness.second_row_raises is None:
        harness.foreign_insert(harness.spec, rows)
        return
    try:
        harness.foreign_insert(harness.spec, rows)
    except harness.second_row_raises:
        harness.let_go_of_key(harness.spec)
        harness.foreign_insert(harness.spec, rows)


def intervention(
    harness: WarehouseHarness,
    action: Action,
    *,
    partition: str | None = PARTITION,
    run: str = "run-1",
    attempt: int = 1,
    token: int | None = 50,
    reason: str = "ticket 7",
    lock_store: str = LOCKS,
) -> Intervention:
    """Return work in one partition; ``token`` None is work without a lock."""
    return Intervention(
        spec=harness.spec,
        partition=partition,
        run=run,
        attempt=attempt,
        holder="checker",
        action=action,
        reason=reason,
        token=token,
        lock_store=None if token is None else lock_store,
    )


def planned(harness: WarehouseHarness, partition: str | None = None, limit: int = 20) -> RepairPlan:
    """Look for duplicates."""
    return harness.warehouse().plan_repair(RepairRequest(harness.spec, partition=partition, limit=limit))


def repair(
    harness: WarehouseHarness, work: Intervention, *, before_commit: Callable[[], None] | None = None
) -> Repaired:
    """Plan and repair the partition that ``work`` names."""
    (one,) = [one for one in planned(harness).partitions if one.partition == work.partition]
    return harness.warehouse().repair(work, one, Watch(before_commit))


def restore(
    harness: WarehouseHarness, work: Intervention, run: str, key: dict[str, str | None] | dict[str, str]
) -> Repaired:
    """Bring a row back."""
    return harness.warehouse().restore(work, run=run, key=dict(key), cancellation=Watch())


def removed_rows(harness: WarehouseHarness) -> list[Row]:
    """Return the declared columns of the rows that were moved aside."""
    found = harness.related_rows(harness.spec, REMOVED)
    return [{name: row[name] for name in harness.spec.column_names} for row in found]


def is_clean(harness: WarehouseHarness) -> bool:
    """Say whether a check finds neither duplicates nor rows that the ledger does not explain."""
    found = harness.warehouse().inspect(InspectRequest(harness.spec))
    return not (found.findings or found.duplicate_keys)


# --- the plan --------------------------------------------------------------------------------


@CHECKS.add
def a_clean_table_needs_no_repair(harness: WarehouseHarness) -> None:
    """Nothing is planned for an empty table, nor for one with one row a key."""
    harness.installed()
    assert planned(harness).partitions == ()
    plant(harness, [NEW, a_row(player="lebron"), a_row(game_date=NEXT_DAY)])
    plan = planned(harness)
    assert (plan.keys, plan.extra_rows, plan.groups, plan.rounding) == (0, 0, (), 0)


@CHECKS.add
def the_plan_names_keys_and_rows(harness: WarehouseHarness) -> None:
    """By partition, sorted: keys and extra rows; of the first keys what stays and what goes, newest first."""
    harness.installed()
    middle = a_row(id="middle", created_at=at(30))
    plant(harness, [OLD, NEW, middle, a_row(game_date=NEXT_DAY, player=None), a_row(player="lebron")])
    plant(harness, [a_row(game_date=NEXT_DAY, player=None, id="id-2", created_at=at(5))])
    plan = planned(harness)
    assert plan.table == "props"
    assert [(one.partition, one.keys, one.extra_rows) for one in plan.partitions] == [
        (PARTITION, 1, 2),
        (NEXT_DAY.isoformat(), 1, 1),
    ]
    first, second = plan.groups
    assert (first.partition, first.rows, first.kept, first.removed) == (PARTITION, 3, "new", ("middle", "old"))
    assert dict(first.key) == {"game_date": PARTITION, "player": "jokic", "line": "24.50"}
    assert (second.key["player"], second.kept, second.removed) == (None, "id-2", ("id-1",))
    assert [group.kept for group in planned(harness, limit=1).groups] == ["new"]
    only = planned(harness, NEXT_DAY.isoformat())
    assert [one.partition for one in only.partitions] == [NEXT_DAY.isoformat()]
    assert only.partitions[0] == plan.partitions[1]


@CHECKS.add
def the_plan_tells_likely_causes(harness: WarehouseHarness) -> None:
    """Rows within a second: a race; rows that the ledger does not explain: a foreign writer."""
    harness.installed()
    plant(harness, [a_row(), a_row(id="id-2", created_at=at(0.4))])
    plant(harness, [a_row(player="far"), a_row(player="far", created_at=at(3_600))])
    plant(harness, [a_row(player="edge"), a_row(player="edge", id="id-2", created_at=at(1))])
    plant(harness, [a_row(player="copied"), a_row(player="copied")])
    plan = planned(harness)
    assert {group.key["player"]: group.cause for group in plan.groups} == {
        "jokic": "race",
        "far": "foreign",
        "edge": "race",
        "copied": "foreign",
    }
    assert dict(plan.partitions[0].causes) == {"race": 2, "foreign": 2}


@CHECKS.add
def looking_changes_nothing_and_finds_the_same(harness: WarehouseHarness) -> None:
    """Two looks at the same rows give the same plan; another row of a key, another plan."""
    harness.installed()
    plant(harness, [OLD, NEW])
    plan = planned(harness)
    assert planned(harness) == plan
    assert planned(harness).identity == plan.identity
    assert_table(harness, [OLD, NEW])
    assert list(harness.warehouse().history(table="props", batch=None, limit=9)) == []
    plant(harness, [a_row(player="lebron")])
    assert planned(harness) == plan, "a row of another key is none of its business"
    plant(harness, [OLD])
    assert planned(harness).identity != plan.identity
    assert planned(harness).partitions[0].fingerprint != plan.partitions[0].fingerprint


@CHECKS.add
def keys_that_a_cast_would_have_folded_are_told(harness: WarehouseHarness) -> None:
    """24.50 and 25.00 round to one integer: they are two keys, told and left alone."""
    harness.installed()
    lines = ["24.50", "25.00", "25.49", "25.50", "-0.40", "0.40"]
    rows = [a_row(line=Decimal(line)) for line in lines]
    plant(harness, [*rows, a_row(line=None), a_row(player="lebron"), a_row(game_date=NEXT_DAY, line=Decimal(25))])
    plan = planned(harness)
    assert (plan.keys, plan.rounding) == (0, 2)


# --- repair ----------------------------------------------------------------------------------


@CHECKS.add
def the_newest_row_stays(harness: WarehouseHarness) -> None:
    """Whatever order the rows were written in, the newest by the order columns stays."""
    harness.installed()
    middle, other = a_row(id="middle", created_at=at(30)), a_row(player="lebron")
    plant(harness, [middle, NEW, OLD, other])
    done = repair(harness, intervention(harness, "dedupe"))
    assert (done.partition, done.keys, done.rows_removed, done.rows_restored) == (PARTITION, 1, 2, 0)
    assert_table(harness, [NEW, other])
    assert sorted_rows(removed_rows(harness)) == sorted_rows([OLD, middle])
    assert planned(harness).partitions == ()


@CHECKS.add
def ties_are_broken_as_in_a_merge(harness: WarehouseHarness) -> None:
    """Rows that tie on the order columns: the remaining columns decide, NULL lowest."""
    harness.installed()
    greater, lower = a_row(id="id-2", points=None), a_row(id="id-1", points=99.0)
    most = a_row(player="lebron", points=1.0)
    plant(harness, [greater, lower, a_row(player="lebron", points=None), most])
    repair(harness, intervention(harness, "dedupe"))
    assert_table(harness, [greater, most])


@CHECKS.add
def one_of_identical_copies_stays(harness: WarehouseHarness) -> None:
    """Rows that agree in every column, too, leave exactly one."""
    harness.installed()
    plant(harness, [NEW, NEW, NEW])
    assert repair(harness, intervention(harness, "dedupe")).rows_removed == 2
    assert_table(harness, [NEW])
    assert removed_rows(harness) == [NEW, NEW]


@CHECKS.add
def null_is_a_key_like_any_other(harness: WarehouseHarness) -> None:
    """Rows whose key is NULL are duplicates of each other, and of no other row."""
    harness.installed()
    kept = [a_row(player=None, created_at=at(5)), a_row(player=None, line=None), a_row(line=None, created_at=at(7))]
    plant(harness, [*kept, a_row(player=None), a_row(line=None)])
    assert repair(harness, intervention(harness, "dedupe")).keys == 2
    assert_table(harness, kept)


@CHECKS.add
def other_partitions_are_left_alone(harness: WarehouseHarness) -> None:
    """The same key in another partition is another row, and duplicates there wait for their own repair."""
    harness.installed()
    elsewhere = [a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY)]
    plant(harness, [OLD, NEW, *elsewhere])
    repair(harness, intervention(harness, "dedupe"))
    assert_table(harness, [NEW, *elsewhere])
    repair(harness, intervention(harness, "dedupe", partition=NEXT_DAY.isoformat(), run="run-2"))
    assert_table(harness, [NEW, elsewhere[0]])


@CHECKS.add
def a_table_without_partitions_is_repaired(harness: WarehouseHarness) -> None:
    """It is one partition."""
    harness.installed(partition=None)
    plant(harness, [OLD, NEW, a_row(player="lebron")])
    (one,) = planned(harness).partitions
    assert (one.partition, one.keys) == (None, 1)
    assert repair(harness, intervention(harness, "dedupe", partition=None)).partition is None
    assert_table(harness, [NEW, a_row(player="lebron")])
    restore(harness, intervention(harness, "restore", partition=None, run="run-2"), "run-1", JOKIC)
    assert_table(harness, [OLD, a_row(player="lebron")])


@CHECKS.add
def removed_rows_are_kept_whole(harness: WarehouseHarness) -> None:
    """With every declared column, the run, the cause with the person's words, the engine's time and the batch."""
    harness.installed()
    harness.stage("b1", "w1", [NEW])
    harness.merge("b1")
    plant(harness, [{**OLD, "points": None}])
    began = dt.datetime.now(dt.UTC)
    repair(harness, intervention(harness, "dedupe", run="run-7", reason="retry of Sunday"))
    (row,) = harness.related_rows(harness.spec, REMOVED)
    assert {name: row[name] for name in harness.spec.column_names} == {**OLD, "points": None}
    assert (row["__onerow_run"], row["__onerow_batch"]) == ("run-7", "b1")
    assert row["__onerow_reason"] == "foreign: retry of Sunday"
    assert row["__onerow_removed_at"].tzinfo is not None
    if not harness.has_own_clock:
        assert abs(row["__onerow_removed_at"] - began) < dt.timedelta(minutes=10)
    assert set(row) == {
        *harness.spec.column_names, "__onerow_run", "__onerow_removed_at", "__onerow_reason", "__onerow_batch",
    }  # fmt: skip


@CHECKS.add
def a_batch_is_named_only_if_it_is_the_only_one(harness: WarehouseHarness) -> None:
    """After two batches, nobody can tell which of them a row came from."""
    harness.installed()
    for number, row in enumerate((OLD, a_row(player="lebron"))):
        harness.stage(f"b{number}", "w1", [row])
        assert isinstance(harness.merge(f"b{number}"), Committed)
    plant(harness, [NEW])
    repair(harness, intervention(harness, "dedupe"))
    assert [row["__onerow_batch"] for row in harness.related_rows(harness.spec, REMOVED)] == [None]


@CHECKS.add
def columns_declared_later_are_kept_too(harness: WarehouseHarness) -> None:
    """What is added to the target is added to the table of removed rows; older removed rows have NULL there."""
    harness.installed()
    plant(harness, [OLD, NEW])
    repair(harness, intervention(harness, "dedupe"))
    added = Column("note", ColumnType("string"))
    harness.installed(replace(SPEC, columns=(*COLUMNS, added)))
    plant(harness, [{**a_row(player="lebron", created_at=at(n)), "note": f"n{n}"} for n in range(2)])
    repair(harness, intervention(harness, "dedupe", run="run-2"))
    assert sorted(str(row["note"]) for row in removed_rows(harness)) == ["None", "n0"]
    restore(harness, intervention(harness, "restore", run="run-3"), "run-1", JOKIC)
    assert sorted_rows(harness.table_rows(harness.spec)) == sorted_rows(
        [{**OLD, "note": None}, {**a_row(player="lebron", created_at=at(1)), "note": "n1"}]
    )


@CHECKS.add
def an_outdated_plan_is_refused(harness: WarehouseHarness) -> None:
    """A plan is for the rows that were seen: one more, one less or another one, and nothing is changed."""
    harness.installed()
    plant(harness, [OLD, NEW])
    (one,) = planned(harness).partitions
    plant(harness, [a_row(id="newest", created_at=at(90))])
    with raises(PlanOutdatedError):
        harness.warehouse().repair(intervention(harness, "dedupe"), one, Watch())
    assert len(harness.table_rows(harness.spec)) == 3
    assert removed_rows(harness) == []
    repair(harness, intervention(harness, "dedupe", run="run-2"))
    with raises(PlanOutdatedError):
        harness.warehouse().repair(intervention(harness, "dedupe", run="run-3"), one, Watch())
    plant(harness, [a_row(id="another", created_at=at(1))])
    with raises(PlanOutdatedError):
        harness.warehouse().repair(intervention(harness, "dedupe", run="run-4"), one, Watch())
    entries = harness.warehouse().history(table="props", batch=None, limit=9)
    assert [entry.consolidation for entry in entries] == ["run-2"]


@CHECKS.add
def a_repair_is_fenced(harness: WarehouseHarness) -> None:
    """A stale token or another lock store is refused; a repair that has committed raises the fence."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(player="lebron")])
    harness.merge("b1", token=49)
    plant(harness, [OLD, NEW])
    with raises(StaleLeaseError) as raised:
        repair(harness, intervention(harness, "dedupe", token=48))
    assert raised.error.fence == 49
    with raises(LockStoreMismatchError):
        repair(harness, intervention(harness, "dedupe", attempt=2, lock_store="other"))
    assert len(harness.table_rows(harness.spec)) == 3
    repair(harness, intervention(harness, "dedupe", attempt=3, token=50))
    harness.stage("b2", "w1", [a_row(player="curry")])
    assert refused(harness.merge("b2", run="run2", token=49), "stale").fence == 50
    assert isinstance(harness.merge("b2", run="run2", attempt=2, token=50), Committed)


@CHECKS.add
def a_repair_whose_lease_is_lost_keeps_nothing(harness: WarehouseHarness) -> None:
    """It is asked right before the commit, and nothing is moved."""
    harness.installed()
    plant(harness, [OLD, NEW])
    work = intervention(harness, "dedupe")
    with raises(LeaseLostError):
        repair(harness, work, before_commit=lose_lease)
    assert_table(harness, [OLD, NEW])
    assert removed_rows(harness) == []
    assert not harness.warehouse().settled(work)
    repair(harness, replace(work, attempt=2, token=1))  # the token was rolled back with the rest


@CHECKS.add
def the_history_names_the_repair(harness: WarehouseHarness) -> None:
    """Who, why, with which token, and how many rows were moved aside."""
    harness.installed()
    plant(harness, [OLD, NEW, NEW])
    repair(harness, intervention(harness, "dedupe", run="run-7", token=51, reason="retry of Sunday"))
    (entry,) = harness.warehouse().history(table="props", batch=None, limit=9)
    assert (entry.action, entry.partition, entry.consolidation, entry.attempt) == ("dedupe", PARTITION, "run-7", 1)
    assert (entry.token, entry.unlocked, entry.holder, entry.reason) == (51, False, "checker", "retry of Sunday")
    assert (entry.rows_superseded, entry.rows_inserted, entry.rows_staged, entry.parts) == (2, 0, 0, 0)


@CHECKS.add
def the_ledger_explains_the_table_after_a_repair(harness: WarehouseHarness) -> None:
    """Rows that nobody could explain are gone; the rest is explained as before, and merges go on."""
    harness.installed()
    harness.stage("b1", "w1", [OLD, a_row(player="lebron")])
    harness.merge("b1")
    plant(harness, [NEW, OLD])
    assert not is_clean(harness)
    repair(harness, intervention(harness, "dedupe"))
    assert is_clean(harness)
    harness.stage("b2", "w1", [a_row(created_at=at(90)), a_row(player="curry")])
    assert counted(harness.merge("b2", token=60)) == (2, 1, 1, 0, 0)
    assert is_clean(harness)


@CHECKS.add
def two_repairs_at_once_remove_once(harness: WarehouseHarness) -> None:
    """One of them commits; for the other the plan is outdated, or it lost."""
    harness.installed()
    plant(harness, [OLD, NEW])
    (one,) = planned(harness).partitions

    def repair_beside(side: int) -> str:
        try:
            work = intervention(harness, "dedupe", run=f"run-{side}", token=None)
            return str(harness.warehouse().repair(work, one, Watch()).rows_removed)
        except (PlanOutdatedError, ConflictError) as error:
            return error.kind

    ends = together([lambda: repair_beside(1), lambda: repair_beside(2)])
    assert ends.count("1") == 1, ends
    assert_table(harness, [NEW])
    assert removed_rows(harness) == [OLD]


@CHECKS.add
def a_consolidation_beside_a_repair_waits_or_wins(harness: WarehouseHarness) -> None:
    """A merge while a repair is right before its commit: serialised, or one of them is refused; never both unseen."""
    harness.installed()
    plant(harness, [OLD, NEW])
    newest = a_row(id="newest", created_at=at(90))
    harness.stage("b1", "w1", [newest])
    beside: list[Beside[Outcome]] = []

    def begin_merge() -> None:
        beside.append(Beside(lambda: harness.merge("b1", token=None)))
        beside[0].join(OVERLAP_S)

    lost = False
    try:
        repair(harness, intervention(harness, "dedupe", token=None), before_commit=begin_merge)
    except ConflictError:
        lost = True
    outcome = beside[0].result()
    if lost:
        assert isinstance(outcome, Refused | Committed)
        repair(harness, intervention(harness, "dedupe", token=None, attempt=2))
    if not isinstance(outcome, Committed):
        assert isinstance(harness.merge("b1", token=None, attempt=2), Committed)
    assert_table(harness, [newest])
