"""The checks of a warehouse: repairs as part of a consolidation, how a repair ends, and backups."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from onerow.core.plans import Committed
from onerow.errors import (
    ConflictError,
    OnerowError,
)
from onerow.testing.conformance.asking import OVERLAP_S, Beside, Checks
from onerow.testing.conformance.harness import (
    DAY,
    NEXT_DAY,
    WarehouseHarness,
    a_row,
    assert_table,
    at,
    counted,
    lose_lease,
    refused,
    sorted_rows,
)
from onerow.testing.conformance.warehouse_repair import (
    NEW,
    OLD,
    PARTITION,
    REMOVED,
    intervention,
    is_clean,
    plant,
    removed_rows,
    repair,
)

CHECKS: Checks[WarehouseHarness] = Checks()


# --- within a consolidation ------------------------------------------------------------------


@CHECKS.add
def a_consolidation_repairs_if_the_table_says_so(harness: WarehouseHarness) -> None:
    """The counts are those of a merge into the repaired table; what was moved aside is told, and recorded beside."""
    harness.installed(on_existing_duplicates="repair")
    bystander = [a_row(player="lebron"), a_row(player="lebron", id="id-2", created_at=at(0.5))]
    plant(harness, [OLD, NEW, *bystander, a_row(player="curry")])
    newest = a_row(id="newest", created_at=at(90))
    rows = [newest, a_row(player="curry"), a_row(player="fresh"), a_row(player="lebron", created_at=at(-9))]
    harness.stage("b1", "w1", rows)
    plan = harness.plan("b1", run="c-1", token=7)
    outcome = harness.apply(plan)
    assert counted(outcome) == (4, 1, 1, 1, 1)
    assert isinstance(outcome, Committed)
    assert dict(outcome.duplicates_removed) == {PARTITION: 2}
    assert_table(harness, [newest, bystander[1], a_row(player="curry"), a_row(player="fresh")])
    assert sorted_rows(removed_rows(harness)) == sorted_rows([OLD, bystander[0]])
    found = harness.related_rows(harness.spec, REMOVED)
    assert {row["__onerow_run"] for row in found} == {"c-1"}
    words = "repaired while consolidating batch b1"
    assert {row["__onerow_reason"] for row in found} == {f"race: {words}", f"foreign: {words}"}
    entries = {entry.action: entry for entry in harness.warehouse().history(table="props", batch="b1", limit=9)}
    assert set(entries) == {"consolidate", "dedupe"}
    assert (entries["dedupe"].rows_superseded, entries["dedupe"].reason) == (2, words)
    assert (entries["dedupe"].consolidation, entries["dedupe"].attempt, entries["dedupe"].token) == ("c-1", 1, 7)
    assert entries["consolidate"].rows_superseded == 1
    back = harness.warehouse().resolve(plan)
    assert isinstance(back, Committed)
    assert (dict(back.counts), dict(back.duplicates_removed)) == (dict(outcome.counts), {PARTITION: 2})


@CHECKS.add
def a_consolidation_repairs_only_its_partitions(harness: WarehouseHarness) -> None:
    """Of a plan with several partitions those with duplicates are repaired; others of the table are not."""
    harness.installed(on_existing_duplicates="repair")
    if harness.warehouse().capabilities.max_partitions < 2:
        return
    third = DAY + dt.timedelta(days=7)
    untouched = [a_row(game_date=third), a_row(game_date=third)]
    plant(harness, [a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY, id="id-2"), *untouched])
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY, player="lebron")])
    outcome = harness.merge("b1")
    assert isinstance(outcome, Committed)
    assert dict(outcome.duplicates_removed) == {NEXT_DAY.isoformat(): 1}
    assert counted(outcome) == counted(outcome, NEXT_DAY.isoformat()) == (1, 1, 0, 0, 0)
    assert len(harness.table_rows(harness.spec)) == 5


@CHECKS.add
def a_refused_consolidation_repairs_nothing(harness: WarehouseHarness) -> None:
    """A repair stands and falls with the transaction that it is part of."""
    harness.installed(on_existing_duplicates="repair")
    plant(harness, [OLD, NEW])
    harness.stage("b1", "w1", [a_row(player="lebron")])
    refused(harness.apply(harness.plan("b1"), before_commit=lose_lease), "cancelled")
    assert_table(harness, [OLD, NEW])
    assert removed_rows(harness) == []
    outcome = harness.merge("b1", run="again")
    assert isinstance(outcome, Committed)
    assert dict(outcome.duplicates_removed) == {PARTITION: 1}
    harness.stage("b2", "w1", [a_row(player="curry")])
    outcome = harness.merge("b2", run="c-2", token=2)
    assert isinstance(outcome, Committed)
    assert dict(outcome.duplicates_removed) == {}


# --- how it ends -----------------------------------------------------------------------------


@CHECKS.add
def the_end_of_a_repair_can_be_asked_for(harness: WarehouseHarness) -> None:
    """By run, attempt, action and partition; asking never lets it commit later."""
    harness.installed()
    plant(harness, [OLD, NEW])
    asked = intervention(harness, "dedupe")
    assert not harness.warehouse().settled(asked)
    work = replace(asked, attempt=2)
    repair(harness, work)
    assert harness.warehouse().settled(work)
    for other in (
        asked,
        replace(work, attempt=3),
        replace(work, run="run-2"),
        replace(work, action="guarded"),
        replace(work, partition=NEXT_DAY.isoformat()),
    ):
        assert not harness.warehouse().settled(other), other


@CHECKS.add
def a_repair_that_was_asked_for_does_not_contradict_the_answer(harness: WarehouseHarness) -> None:
    """Asked while it is right before its commit: if the answer is no, it does not commit."""
    harness.installed()
    plant(harness, [OLD, NEW])
    work = intervention(harness, "dedupe", token=None)
    answers: list[bool | OnerowError] = []

    def ask() -> None:
        try:
            answers.append(harness.warehouse().settled(work))
        except OnerowError as error:
            answers.append(error)

    def ask_beside() -> None:
        beside.append(Beside(ask))
        beside[0].join(OVERLAP_S)

    committed = True
    beside: list[Beside[None]] = []
    try:
        repair(harness, work, before_commit=ask_beside)
    except ConflictError:
        committed = False
    beside[0].result()
    assert answers != [not committed], (answers, committed)
    assert_table(harness, [NEW] if committed else [OLD, NEW])


@CHECKS.add
def a_warehouse_restored_to_an_earlier_moment_heals(harness: WarehouseHarness) -> None:
    """Parts that were merged and retired since are merged again, and the table is the same as before."""
    harness.installed()
    harness.stage("b1", "w1", [OLD, a_row(player="lebron")])
    harness.merge("b1")
    moment = harness.snapshot()
    parts = [harness.stage("b2", worker, [a_row(player=worker), NEW]) for worker in ("w1", "w2")]
    outcome = harness.merge("b2", run="c-2", token=5)
    harness.parts.retire(parts)
    before = harness.table_rows(harness.spec)
    harness.go_back(moment)
    assert_table(harness, [OLD, a_row(player="lebron")])
    assert harness.warehouse().merged("props", "b2") == frozenset()
    again = harness.merge("b2", run="c-3", token=6, ask_ledger=True)
    assert counted(again) == counted(outcome)
    assert_table(harness, before)
    assert is_clean(harness)
