"""The checks of a warehouse: how a transaction ends, alone and beside others, and what the engine declares."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from onerow.core.plans import AlreadyMerged, Committed, Refused
from onerow.errors import (
    LeaseLostError,
)
from onerow.testing.conformance.asking import LONG_S, OVERLAP_S, Beside, Checks, eventually, meanwhile, together
from onerow.testing.conformance.harness import (
    DAY,
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
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow.core.plans import MergePlan, Outcome

CHECKS: Checks[WarehouseHarness] = Checks()

PARTITION = DAY.isoformat()


# --- outcomes --------------------------------------------------------------------------------


@CHECKS.add
def a_cancelled_transaction_keeps_nothing(harness: WarehouseHarness) -> None:
    """Who is told right before the commit that the lease is lost does not commit."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    refusal = refused(harness.apply(harness.plan("b1"), before_commit=lose_lease), "cancelled")
    assert isinstance(refusal.error, LeaseLostError)
    assert_table(harness, [])
    assert harness.warehouse().merged("props", "b1") == frozenset()
    assert list(harness.warehouse().history(table="props", batch=None, limit=10)) == []
    assert isinstance(harness.merge("b1", run="run2"), Committed)


@CHECKS.add
def a_commit_can_be_read_back(harness: WarehouseHarness) -> None:
    """The counts of a commit whose reply was lost are found in the ledger."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(created_at=at(1)), a_row(player="lebron")])
    plan = harness.plan("b1")
    committed = harness.apply(plan)
    assert isinstance(committed, Committed)
    assert not committed.read_back
    found = harness.warehouse().resolve(plan)
    assert isinstance(found, Committed)
    assert found.read_back
    assert dict(found.counts) == dict(committed.counts)


@CHECKS.add
def a_rollback_can_be_read_back(harness: WarehouseHarness) -> None:
    """A transaction that left nothing is known to have left nothing; so is one of somebody else."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    plan = harness.plan("b1")
    assert isinstance(harness.warehouse().resolve(plan), Refused)
    harness.merge("b1", run="other", token=2)
    assert isinstance(harness.warehouse().resolve(plan), Refused)


@CHECKS.add
def who_is_resolved_does_not_commit_later(harness: WarehouseHarness) -> None:
    """A transaction that was still open when its end was asked for must not contradict the answer."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    plan = harness.plan("b1")
    answers: list[object] = []
    outcome = harness.apply(
        plan, before_commit=lambda: meanwhile(lambda: answers.append(harness.warehouse().resolve(plan)))
    )
    eventually(lambda: bool(answers), "the answer")
    if isinstance(answers[0], Refused):
        assert isinstance(outcome, Refused), "it was said to have been rolled back, and committed"
        assert_table(harness, [])
    elif isinstance(answers[0], Committed):
        assert isinstance(outcome, Committed)
        assert_table(harness, [a_row()])


@CHECKS.add
def two_at_once_leave_one_row(harness: WarehouseHarness) -> None:
    """Two transactions with the same new key, both open at once: serialised or refused, never two rows."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.stage("b2", "w1", [a_row(created_at=at(1))])
    _overlap(harness, harness.plan("b1"), harness.plan("b2", run="run2", token=2))
    assert_table(harness, [a_row(created_at=at(1))])


@CHECKS.add
def two_at_once_record_once(harness: WarehouseHarness) -> None:
    """Two transactions with the same parts, both open at once: each part is recorded once."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    _overlap(harness, harness.plan("b1", token=None), harness.plan("b1", run="run2", token=None))
    assert_table(harness, [a_row()])
    entries = harness.warehouse().history(table="props", batch="b1", limit=10)
    assert sum(entry.parts for entry in entries) == 1


def _overlap(harness: WarehouseHarness, first: MergePlan, second: MergePlan) -> None:
    """Apply the second plan while the first is right before its commit; repeat what was refused."""
    beside: list[Beside[Outcome]] = []

    def begin_second() -> None:
        beside.append(Beside(lambda: harness.apply(second)))
        beside[0].join(OVERLAP_S)

    outcome = harness.apply(first, before_commit=begin_second)
    both = (outcome, beside[0].result())
    assert any(isinstance(end, Committed) for end in both), both
    tokens = [task.token for plan in (first, second) for task in plan.tasks if task.token is not None]
    for plan, end in zip((first, second), both, strict=True):
        if isinstance(end, Committed | AlreadyMerged):
            continue
        tasks = tuple(replace(task, token=max(tokens) if tokens else None) for task in plan.tasks)
        again = harness.apply(replace(plan, attempt=plan.attempt + 1, tasks=tasks))
        assert isinstance(again, Committed | AlreadyMerged), (end, again)


@CHECKS.add
def many_at_once_leave_one_row(harness: WarehouseHarness) -> None:
    """Two warehouses in two threads, several rounds: serialised or refused and repeated, never two rows of a key."""
    harness.installed()

    def consolidate(batch: str) -> Committed:
        warehouse = harness.warehouse()
        for attempt in range(1, 50):
            outcome = harness.apply(harness.plan(batch, token=None, attempt=attempt), on=warehouse)
            if isinstance(outcome, Committed):
                return outcome
            assert isinstance(outcome, Refused), outcome
            assert outcome.reason == "conflict", outcome
        raise AssertionError(f"{batch} lost 50 times")

    rounds, staged, inserted = harness.rounds, 0, 0
    for number in range(rounds):
        batches = [f"b{number}.{side}" for side in (1, 2)]
        for side, batch in enumerate(batches):
            harness.stage(batch, "w1", [a_row(player=f"p{number}", created_at=at(side)), a_row(created_at=at(number))])
        for committed in together([partial(consolidate, batch) for batch in batches]):
            staged += counted(committed)[0]
            inserted += counted(committed)[1]
    assert harness.keys_with_several_rows() == []
    assert (staged, inserted) == (4 * rounds, rounds + 1)
    newest = [a_row(player=f"p{number}", created_at=at(1)) for number in range(rounds)]
    assert_table(harness, [a_row(created_at=at(rounds - 1)), *newest])
    entries = harness.warehouse().history(table="props", batch=None, limit=100)
    assert (len(entries), sum(entry.rows_inserted for entry in entries)) == (2 * rounds, rounds + 1)


@CHECKS.add
def one_batch_from_two_sides_is_merged_once(harness: WarehouseHarness) -> None:
    """Two threads with plans for the same parts: one commits, for the other everything is merged already."""
    harness.installed()

    def consolidate(batch: str, side: int) -> Outcome:
        outcome: Outcome | None = None
        for attempt in range(1, 50):
            plan = harness.plan(batch, token=None, run=f"{batch}.{side}", attempt=attempt)
            outcome = harness.apply(plan)
            if not isinstance(outcome, Refused) or outcome.reason != "conflict":
                return outcome
        raise AssertionError(f"lost 50 times: {outcome}")

    for number in range(min(harness.rounds, 4)):
        batch = f"b{number}"
        harness.stage(batch, "w1", [a_row(player=f"p{number}")])
        ends = together([partial(consolidate, batch, side) for side in (1, 2)])
        assert sorted(type(end).__name__ for end in ends) == ["AlreadyMerged", "Committed"], ends
        assert sum(entry.parts for entry in harness.warehouse().history(table="props", batch=batch, limit=9)) == 1


# --- being told to stop ----------------------------------------------------------------------


@CHECKS.add
def the_interrupt_is_given_and_withdrawn(harness: WarehouseHarness) -> None:
    """However the transaction ends, nobody can interrupt what comes after it."""
    harness.installed()
    planted = harness.plant_duplicates([a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY)])
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY)])
    day, next_day = DAY.isoformat(), NEXT_DAY.isoformat()
    ends = ((day, True, "cancelled"), (day, False, ""), (next_day, False, "failed" if planted else ""))
    warehouse = harness.warehouse()
    for attempt, (partition, lost, end) in enumerate(ends):
        watch = Watch(lose_lease if lost else None)
        plan = harness.plan("b1", partitions=[partition], attempt=attempt)
        outcome = harness.apply(plan, cancellation=watch)
        assert (outcome.reason if isinstance(outcome, Refused) else "") == end, outcome
        assert callable(watch.interrupts[0])
        assert watch.interrupts[-1] is None
        if warehouse.capabilities.interactive:
            assert watch.asked == (end != "failed"), "it is asked right before the commit"
        else:
            assert watch.asked >= 1, "it is asked before the whole is sent"


@CHECKS.add
def an_interrupted_transaction_keeps_nothing(harness: WarehouseHarness) -> None:
    """Interrupted from another thread, at whatever moment; the warehouse works on afterwards."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(player=f"p{number}") for number in range(300)])
    warehouse = harness.warehouse()
    for attempt, moment_s in enumerate((0.0, 0.002, 0.01)):
        plan = harness.plan("b1", attempt=attempt)
        outcome = harness.apply(plan, cancellation=_Interrupting(moment_s), on=warehouse)
        assert isinstance(refused(outcome, "cancelled").error, LeaseLostError)
        assert_table(harness, [])
    assert counted(harness.apply(harness.plan("b1", attempt=3), on=warehouse))[1] == 300


class _Interrupting:
    """A cancellation that interrupts so many seconds after it may, and lets nothing commit after that."""

    def __init__(self, moment_s: float) -> None:
        self._moment_s = moment_s
        self._begun = False
        self._interrupt: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def raise_if_cancelled(self) -> None:
        lose_lease()

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        with self._lock:
            self._interrupt = interrupt
        if interrupt is not None and not self._begun:
            self._begun = True
            Beside(self._fire).join(0.0 if self._moment_s else 5.0)

    def _fire(self) -> None:
        time.sleep(self._moment_s)
        with self._lock:
            if self._interrupt is not None:
                self._interrupt()


@CHECKS.add
def another_attempt_is_another_transaction(harness: WarehouseHarness) -> None:
    """The end of one attempt is not told as the end of another one of the same run."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    first, second = harness.plan("b1"), harness.plan("b1", attempt=2)
    refused(harness.apply(first, before_commit=lose_lease), "cancelled")
    assert isinstance(harness.apply(second), Committed)
    refused(harness.warehouse().resolve(first), "conflict")
    found = harness.warehouse().resolve(second)
    assert isinstance(found, Committed)
    assert counted(found) == (1, 1, 0, 0, 0)


@CHECKS.add
def groups_of_one_run_are_told_apart(harness: WarehouseHarness) -> None:
    """Even if two groups of a run numbered their transactions alike, each is told by its own partitions."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY, player="lebron")])
    third = NEXT_DAY + timedelta(days=1)
    harness.stage("b1", "w2", [a_row(game_date=third)])
    plans = [harness.plan("b1", partitions=[day.isoformat()]) for day in (DAY, NEXT_DAY, third)]
    assert counted(harness.apply(plans[0])) == (1, 1, 0, 0, 0)
    refused(harness.warehouse().resolve(plans[2]), "conflict")
    assert counted(harness.apply(plans[1]), NEXT_DAY.isoformat()) == (2, 2, 0, 0, 0)
    assert counted(harness.warehouse().resolve(plans[0])) == (1, 1, 0, 0, 0)
    assert counted(harness.warehouse().resolve(plans[1]), NEXT_DAY.isoformat()) == (2, 2, 0, 0, 0)


# --- what the engine declares ----------------------------------------------------------------


@CHECKS.add
def as_many_partitions_as_declared(harness: WarehouseHarness) -> None:
    """One transaction takes ``max_partitions``, each with counts, a fence and a ledger entry of its own."""
    harness.installed()
    count = harness.warehouse().capabilities.max_partitions
    assert count >= 1
    days = [DAY + timedelta(days=number) for number in range(count)]
    harness.stage("b1", "w1", [a_row(game_date=day, player=player) for day in days for player in ("jokic", None)])
    harness.stage("b1", "w2", [a_row(game_date=day) for day in days])
    tokens = {day.isoformat(): 100 + number for number, day in enumerate(days)}
    outcome = harness.merge("b1", token=tokens)
    assert {counted(outcome, day.isoformat()) for day in days} == {(3, 2, 0, 1, 0)}
    assert len(harness.warehouse().merged("props", "b1")) == 2 * count
    assert len(harness.table_rows(harness.spec)) == 2 * count
    harness.stage("b2", "w1", [a_row(game_date=days[-1])])
    assert refused(harness.merge("b2", token=99 + count - 1), "stale").fence == 100 + count - 1
    harness.stage("b3", "w1", [a_row(game_date=day, created_at=at(1)) for day in days])
    outcome = harness.merge("b3", token=1_000)
    assert {counted(outcome, day.isoformat()) for day in days} == {(1, 0, 1, 0, 0)}


@CHECKS.add
def commits_collide_over_what_is_declared(harness: WarehouseHarness) -> None:
    """Two transactions beside each other, of one scope, of one table, of two: who is independent and who is not."""
    domain = harness.warehouse().capabilities.commit_domain
    tables = [harness.installed(replace(SPEC, name=name, target=(name,))) for name in ("one", "two")]
    harness.stage("b0", "w1", [a_row()], spec=tables[0])
    harness.stage("b1", "w1", [a_row(game_date=NEXT_DAY)], spec=tables[0])

    def independent(first: tuple[int, str], second: tuple[int, str], *, hoped: bool) -> bool:
        """Say whether the second commits while the first is right before its commit, and both stay."""
        plans = [
            harness.plan(batch, spec=tables[place], token=None, run=f"{first}{second}{side}")
            for side, (place, batch) in enumerate((first, second))
        ]
        beside: list[Beside[Outcome]] = []
        in_time = []

        def begin_second() -> None:
            beside.append(Beside(lambda: harness.apply(plans[1])))
            beside[0].join(LONG_S if hoped else OVERLAP_S)
            in_time.append(not beside[0].is_alive())

        ends = [harness.apply(plans[0], before_commit=begin_second), beside[0].result()]
        assert any(isinstance(end, Committed) for end in ends), ends
        for plan, end in zip(plans, ends, strict=True):
            if isinstance(end, Refused):
                assert end.reason == "conflict", end
                assert isinstance(harness.apply(replace(plan, attempt=2)), Committed)
        return in_time == [True] and all(isinstance(end, Committed) for end in ends)

    if not harness.warehouse().capabilities.interactive:  # nothing can be held open: whether they collide shows nowhere
        for place, batch in ((0, "b0"), (0, "b1")):
            assert isinstance(harness.apply(harness.plan(batch, spec=tables[place], token=None)), Committed)
        return
    assert independent((0, "b0"), (0, "b1"), hoped=domain == "row") == (domain == "row"), "partitions of one table"
    harness.stage("b2", "w1", [a_row(created_at=at(2))], spec=tables[0])
    harness.stage("b3", "w1", [a_row(created_at=at(3))], spec=tables[0])
    harness.stage("b2", "w1", [a_row(created_at=at(2))], spec=tables[1])
    assert not independent((0, "b2"), (0, "b3"), hoped=False), "one scope"
    harness.stage("b4", "w1", [a_row(created_at=at(4))], spec=tables[0])
    assert independent((0, "b4"), (1, "b2"), hoped=domain != "file") == (domain != "file"), "two tables"


@CHECKS.add
def the_modes_are_named(harness: WarehouseHarness) -> None:
    """Upsert is offered by every engine; bounds are such that something can be done."""
    capabilities = harness.warehouse().capabilities
    assert {"upsert"} <= capabilities.modes <= {"upsert", "versions"}
    assert capabilities.max_rows >= 1
