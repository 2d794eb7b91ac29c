"""Repairs and guarded blocks as a service: conflicts, fences, unknown ends, and partitions that fail alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.errors import (
    ConflictError,
    LockAcquisitionError,
    OutcomeUnknownError,
    PlanOutdatedError,
    RetriesExhaustedError,
    UsageError,
)
from onerow.ports.warehouse import RepairRequest
from onerow.services.budget import Budget
from onerow.services.interventions import Interventions, Wanted
from onerow.services.leases import Leases, LeaseSettings
from onerow.services.repairs import Repairer
from onerow.services.store import Ports, Store
from onerow.testing.conformance.harness import DAY, NEXT_DAY, SPEC, a_row, at
from onerow.testing.conformance.warehouse_guarded import count, insert
from onerow.testing.memory_locks import MemoryLocks
from onerow.testing.memory_parts import MemoryParts
from onerow.testing.memory_tables import ConflictError as LostError
from onerow.testing.memory_tables import LinkLostError
from onerow.testing.memory_warehouse import MemoryWarehouse

PARTITION = DAY.isoformat()


class Line:
    """Brings commits to the database as it is told: one word for each, then plainly."""

    def __init__(self) -> None:
        self.fates: list[str] = []

    def __call__(self, commit):
        match self.fates.pop(0) if self.fates else "plain":
            case "conflict":
                raise LostError("told so")
            case "lost reply":
                commit()
                raise LinkLostError("after the commit")
            case "lost":
                raise LinkLostError("before the commit")
            case _:
                commit()


class Bench:
    def __init__(self):
        self.line = Line()
        self.warehouse = MemoryWarehouse(parts=MemoryParts(), deliver=self.line, commit_domain="table")
        self.locks, self.clock, self.ids = MemoryLocks(), SystemClock(), SystemIds()
        self.warehouse.install([SPEC], lock_store=self.locks.identity(), adopt_locks=False)
        self.leases = Leases(
            store=self.locks, clock=self.clock, background=Threads(), ids=self.ids, settings=LeaseSettings(max_wait_s=0.2)
        )
        self.budget = Budget(max_attempts=3, max_resolve_attempts=2, backoff_s=0.001)
        self.interventions = Interventions(
            warehouse=self.warehouse, leases=self.leases, clock=self.clock, ids=self.ids, budget=self.budget
        )
        self.repairer = Repairer(
            warehouse=self.warehouse, interventions=self.interventions, ids=self.ids, holder="tester"
        )

    def wanted(self, **changes):
        return replace(Wanted(SPEC, PARTITION, "guarded", self.ids.new_id("g"), "tester"), **changes)

    def rows(self):
        return len(self.warehouse.rows(SPEC))

    def plant(self, *rows):
        self.warehouse.insert_foreign(SPEC, [tuple(row[name] for name in SPEC.column_names) for row in rows])

    def actions(self):
        found = self.warehouse.history(table="props", batch=None, limit=99)
        return [(entry.action, entry.attempt) for entry in found]


@pytest.fixture
def bench():
    return Bench()


def test_work_that_lost_runs_again_from_the_top(bench):
    seen = []

    def work(tx):
        seen.append(count(tx))
        insert(tx, a_row(player=f"p{len(seen)}"))
        return len(seen)

    bench.line.fates = ["conflict", "conflict"]
    assert bench.interventions.run_guarded(bench.wanted(), work) == 3
    assert seen == [0, 0, 0]
    assert bench.rows() == 1
    assert bench.actions() == [("guarded", 3)]


def test_the_budget_bounds_the_attempts(bench, caplog):
    bench.line.fates = ["conflict"] * 9
    with pytest.raises(RetriesExhaustedError, match="3 attempts"):
        bench.interventions.run_guarded(bench.wanted(), lambda tx: insert(tx, a_row()))
    assert bench.rows() == 0
    assert [record.message for record in caplog.records].count("onerow.intervention_retried") == 2


def test_a_commit_whose_reply_was_lost_is_found_and_not_repeated(bench):
    calls = []
    bench.line.fates = ["lost reply"]
    assert bench.interventions.run_guarded(bench.wanted(), lambda tx: (calls.append(1), insert(tx, a_row()), 7)[2]) == 7
    assert len(calls) == 1
    assert bench.rows() == 1
    bench.plant(a_row(id="old", created_at=at(-1)))
    bench.line.fates = ["lost reply"]
    result = bench.repairer.apply(SPEC, bench.repairer.plan(SPEC))
    assert (result.success, result.rows_removed) == (True, 1)
    bench.line.fates = ["lost reply"]
    _, done = bench.repairer.restore(SPEC, result.run, {"player": "jokic", "line": "24.5"}, PARTITION)
    assert (done.rows_removed, done.rows_restored) == (1, 1)
    assert bench.rows() == 1
    assert sorted(bench.actions()) == [("dedupe", 1), ("guarded", 1), ("restore", 1)]


def test_a_commit_that_was_lost_runs_again(bench):
    bench.line.fates = ["lost"]
    bench.interventions.run_guarded(bench.wanted(), lambda tx: insert(tx, a_row()))
    assert bench.actions() == [("guarded", 2)]


def test_an_end_that_nobody_can_tell_is_said_to_be_unknown(bench):
    bench.line.fates = ["lost", "lost", "lost"]
    with pytest.raises(OutcomeUnknownError, match="It is unknown whether guarded"):
        bench.interventions.run_guarded(bench.wanted(), lambda tx: insert(tx, a_row()))
    bench.plant(a_row(id="a"), a_row(id="b"))
    bench.line.fates = ["lost", "lost", "lost"]
    result = bench.repairer.apply(SPEC, bench.repairer.plan(SPEC))
    assert [(one.status, one.exit_code) for one in result.partitions] == [("unknown", 7)]
    assert bench.rows() == 2


def test_a_live_holder_behind_the_fence_is_granted_a_higher_token(bench):
    bench.warehouse.raise_fence(SPEC, bench.wanted().scope, token=2**62, by="somebody", reason="a clock ahead")
    bench.interventions.run_guarded(bench.wanted(), lambda tx: insert(tx, a_row()))
    with bench.interventions.block(bench.wanted()) as tx:
        insert(tx, a_row(player="lebron"))
    assert bench.rows() == 2
    newest = bench.warehouse.history(table="props", batch=None, limit=1)[0]
    assert newest.token > 2**62


def test_a_block_that_lost_is_told_so_and_nothing_is_kept(bench):
    bench.line.fates = ["conflict"]
    with pytest.raises(ConflictError), bench.interventions.block(bench.wanted()) as tx:
        insert(tx, a_row())
    bench.line.fates = ["lost"]
    with pytest.raises(ConflictError, match="never will"), bench.interventions.block(bench.wanted()) as tx:
        insert(tx, a_row())
    assert bench.rows() == 0
    bench.line.fates = ["lost reply"]
    with bench.interventions.block(bench.wanted()) as tx:
        insert(tx, a_row())
    assert bench.rows() == 1


def test_one_failed_partition_does_not_stop_the_others(bench, caplog):
    for day in (DAY, NEXT_DAY):
        bench.plant(a_row(game_date=day), a_row(game_date=day, id="id-2", created_at=at(9)))
    plan = bench.repairer.plan(SPEC)
    with bench.leases.hold([bench.wanted().scope], holder="somebody", batch="b"):
        result = bench.repairer.apply(SPEC, plan, reason="ticket")
    assert [(one.partition, one.status, one.rows_removed) for one in result.partitions] == [
        (PARTITION, "lock_timeout", 0),
        (NEXT_DAY.isoformat(), "repaired", 1),
    ]
    assert (result.success, result.exit_code, result.rows_removed) == (False, LockAcquisitionError.exit_code, 1)
    messages = [record.message for record in caplog.records]
    assert "onerow.repair_failed" in messages
    assert "onerow.duplicates_repaired" in messages
    again = bench.repairer.apply(SPEC, plan)
    assert [(one.status, one.error_kind) for one in again.partitions] == [
        ("repaired", None),
        ("failed", PlanOutdatedError.kind),
    ]


def test_the_store_asks_for_a_partition_where_there_are_some(bench):
    ports = Ports(
        bench.warehouse, MemoryParts(), bench.locks, bench.leases, bench.clock, bench.ids, None, None  # no staging here
    )  # fmt: skip
    store = Store(ports=ports, tables={"props": SPEC}, holder="tester")
    with pytest.raises(UsageError, match="name a partition"), store.guarded("props"):
        pytest.fail("the block must not begin")
    with pytest.raises(UsageError, match="name a partition"):
        store.restore("props", "r", {"player": "jokic", "line": "24.5"})
    with store.guarded("props", PARTITION, reason="by hand") as tx:
        insert(tx, a_row(game_date=DAY))
        insert(tx, a_row(player="lebron"))
    bench.plant(a_row(id="old", created_at=at(-5)), a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY))
    plan = store.plan_repair("props", PARTITION)
    assert (plan.keys, [one.partition for one in plan.partitions]) == (1, [PARTITION])
    with pytest.raises(PlanOutdatedError):
        store.repair("props", plan=plan.identity)  # of one partition, not of all
    result = store.repair("props", PARTITION, plan=plan.identity, reason="ticket")
    assert result.to_json()["rows_removed"] == 1
    restored = store.restore("props", result.run, {"game_date": PARTITION, "player": "jokic", "line": "24.5"})
    assert restored in {entry.consolidation for entry in store.history("props")}
    assert store.repair("props").rows_removed == 1
    found = bench.warehouse.plan_repair(RepairRequest(SPEC))
    assert found.partitions == ()
