"""The ports as a simulated process sees them: each call is a switch point, and may go wrong."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from onerow.core.plans import Refused, Unknown
from onerow.errors import LockStoreError, StagingError, WarehouseError
from onerow.services.leases import Unlocked
from onerow.testing.faults import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.core.partitions import Scope
    from onerow.core.parts import BadRow, PartManifest, Quarantined
    from onerow.core.plans import Committed, Merged, MergePlan, Outcome
    from onerow.core.repairs import Intervention, PartitionRepair, Repaired, RepairPlan, RestorePlan
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.lockstore import Entry
    from onerow.ports.partstore import PartWriter
    from onerow.ports.warehouse import (
        Capabilities,
        Estimate,
        GuardedTransaction,
        HistoryEntry,
        InspectRequest,
        Prepared,
        RepairRequest,
        TableCheck,
    )
    from onerow.testing.scheduler import Process
    from onerow.testing.world import World

Answer = TypeVar("Answer")


@dataclass(slots=True)
class SimulatedLocks:
    """The lock store at the end of a line that fails."""

    world: World
    process: Process

    def identity(self) -> str:
        """Return the store's identity."""
        return self.world.locks.identity()

    def read(self, key: str) -> Entry:
        """Read, or fail."""
        return self._ask(f"read {key}", lambda: self.world.locks.read(key))

    def entries(self, prefix: str) -> Sequence[Entry]:
        """List, or fail."""
        return self._ask(f"entries {prefix}", lambda: self.world.locks.entries(prefix))

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Swap; or fail before it, after it, twice, or too late."""
        world = self.world

        def deliver() -> Entry | None:
            entry = world.locks.swap(key, expected=expected, value=value)
            if entry is not None:
                world.checker.saw_swap(key, value)
            return entry

        world.scheduler.switch(f"swap {key} if {expected or 'none'}")
        self._raise_if_down()
        fate = world.faults.swap_fate()
        if fate == "error":
            raise LockStoreError("the lock store failed")
        if fate == "late":
            world.deliver_later(f"swap {key}", deliver)
            raise LockStoreError("the lock store did not answer in time")
        entry = deliver()
        if fate == "twice":
            entry = deliver()
        world.scheduler.log(f"swapped {key}: {entry.version if entry else 'no'}")
        world.answer_takes("swap", entry if fate != "lost" else "lost")
        if fate == "lost":
            raise LockStoreError("the lock store's reply was lost")
        return entry

    def wait(self, key: str, *, version: str, timeout_s: float, waiter: str) -> None:
        """Wait in virtual time."""
        self._raise_if_down()
        world = self.world
        with world.checker.waiting(key, waiter):
            world.scheduler.wait_until(
                lambda: world.locks.version(key) != version, round(timeout_s * SECOND), f"wait {key}"
            )

    def close(self) -> None:
        """There is nothing to let go of."""

    def _ask(self, what: str, ask: Callable[[], Answer]) -> Answer:
        faults = self.world.faults
        self.world.scheduler.switch(what)
        self._raise_if_down()
        if faults.strikes(faults.plan.lock_error, "lock_error"):
            raise LockStoreError("the lock store failed")
        answer = ask()
        self.world.answer_takes("read", answer)
        return answer

    def _raise_if_down(self) -> None:
        if self.world.scheduler.now_us < self.world.faults.locks_down_until_us:
            raise LockStoreError("the lock store cannot be reached")


@dataclass(slots=True)
class SimulatedParts:
    """The part store, which may fail when parts are retired."""

    world: World
    process: Process

    def writer(self, spec: TableSpec, *, batch: str, worker: str, columns: Sequence[str]) -> PartWriter:
        """Begin a part."""
        return self.world.parts.writer(spec, batch=batch, worker=worker, columns=columns)

    def batches(self, table: str) -> Sequence[str]:
        """List the batches."""
        self.world.scheduler.switch(f"batches of {table}")
        return self.world.parts.batches(table)

    def parts(self, table: str, batch: str) -> Sequence[PartManifest]:
        """List a batch's parts."""
        self.world.scheduler.switch(f"parts of {batch}")
        parts = self.world.parts.parts(table, batch)
        self.world.answer_takes("parts", [(part.part_id, part.state) for part in parts])
        return parts

    def retire(self, parts: Iterable[PartManifest]) -> int:
        """Retire parts, after the checker has had a look at them."""
        return self._remove("retire", list(parts), self.world.parts.retire)

    def purge(self, parts: Iterable[PartManifest]) -> int:
        """Purge parts, after the checker has had a look at them."""
        return self._remove("purge", list(parts), self.world.parts.purge)

    def _remove(self, what: str, parts: list[PartManifest], remove: Callable[[list[PartManifest]], int]) -> int:
        faults = self.world.faults
        self.world.scheduler.switch(f"{what} {len(parts)} parts")
        if faults.strikes(faults.plan.retire_error, "retire_error"):
            raise StagingError("the part store failed")
        self.world.checker.saw_removal(what, parts)
        removed = remove(parts)
        self.world.answer_takes(what, removed)
        return removed

    def retired(self, table: str, *, older_than_s: float) -> Sequence[PartManifest]:
        """List the retired parts."""
        self.world.scheduler.switch(f"retired of {table}")
        return self.world.parts.retired(table, older_than_s=older_than_s)

    def discard(self, parts: Iterable[PartManifest], *, reason: str, by: str) -> int:
        """Give parts up."""
        self.world.scheduler.switch("discard")
        return self.world.parts.discard(parts, reason=reason, by=by)

    def quarantined(self, table: str) -> Sequence[Quarantined]:
        """List what was put aside."""
        return self.world.parts.quarantined(table)

    def quarantined_rows(self, table: str, quarantine_id: str) -> Iterator[BadRow]:
        """Return the rows of an entry."""
        return self.world.parts.quarantined_rows(table, quarantine_id)

    def remains(self, *, older_than_s: float) -> Sequence[str]:
        """Return nothing."""
        return self.world.parts.remains(older_than_s=older_than_s)

    def probe(self) -> Sequence[str]:
        """Return the store's facts."""
        return self.world.parts.probe()


@dataclass(slots=True)
class _WatchedCancellation:
    """Tells the checker when a holder was sure that it still holds its leases."""

    inner: Cancellation
    world: World
    plan: MergePlan

    def raise_if_cancelled(self) -> None:
        self.inner.raise_if_cancelled()
        self.world.checker.saw_belief(self.plan)

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        self.inner.on_cancel(interrupt)


@dataclass(slots=True)
class SimulatedWarehouse:
    """The warehouse at the end of a line that fails."""

    world: World
    process: Process

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self.world.warehouse.capabilities

    def install(self, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> Sequence[str]:
        """Create what is missing."""
        return self.world.warehouse.install(specs, lock_store=lock_store, adopt_locks=adopt_locks)

    def merged(self, table: str, batch: str) -> Merged:
        """Read the ledger."""
        self.world.scheduler.switch(f"merged of {batch}")
        self._raise_if_down()
        merged = self.world.warehouse.merged(table, batch)
        self.world.answer_takes("merged", sorted(merged, key=repr))
        return merged

    def batches(self, table: str) -> Mapping[str, int]:
        """Read the ledger."""
        self.world.scheduler.switch(f"ledger batches of {table}")
        self._raise_if_down()
        return self.world.warehouse.batches(table)

    def estimate(self, spec: TableSpec, partitions: Sequence[str | None]) -> Estimate | None:
        """Say what reading would cost."""
        return self.world.warehouse.estimate(spec, partitions)

    @contextmanager
    def prepare(self, plan: MergePlan) -> Iterator[Prepared]:
        """Prepare, watched by the checker."""
        world = self.world
        world.scheduler.log(f"{plan.transaction} of {plan.batch}, tokens {[task.token for task in plan.tasks]}")
        world.scheduler.switch("prepare")
        with world.checker.working(plan, self.process.name), world.warehouse.prepare(plan) as prepared:
            world.answer_takes("prepare", None)
            yield prepared

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Apply; or not reach the warehouse; or reach it twice."""
        world, plan = self.world, prepared.plan
        world.scheduler.switch("apply")
        if self._is_down():
            return Refused("failed", WarehouseError("the warehouse cannot be reached"))
        if world.faults.strikes(world.faults.plan.apply_twice, "apply_twice"):
            world.checker.doubled.add(plan.consolidation)
            world.deliver_now(f"apply {plan.transaction}", lambda: world.warehouse.apply(prepared, Unlocked()))
        outcome = world.warehouse.apply(prepared, _WatchedCancellation(cancellation, world, plan))
        world.saw_outcome(plan, outcome)
        return outcome

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """Read an unknown end back."""
        self.world.scheduler.switch(f"resolve {plan.transaction}")
        if self._is_down():
            return Unknown(WarehouseError("the warehouse cannot be reached"))
        outcome = self.world.warehouse.resolve(plan)
        self.world.saw_outcome(plan, outcome)
        return outcome

    def guarded(
        self, work: Intervention, cancellation: Cancellation
    ) -> AbstractContextManager[GuardedTransaction]:
        """Run people's own statements."""
        self.world.scheduler.switch(f"guarded {work.run}")
        self._raise_if_down()
        return self.world.warehouse.guarded(work, cancellation)

    def settled(self, work: Intervention) -> bool:
        """Read an unknown end back."""
        self.world.scheduler.switch(f"settled {work.run}")
        self._raise_if_down()
        return self.world.warehouse.settled(work)

    def plan_repair(self, request: RepairRequest) -> RepairPlan:
        """Look for duplicates."""
        self.world.scheduler.switch("plan repair")
        self._raise_if_down()
        return self.world.warehouse.plan_repair(request)

    def repair(self, work: Intervention, planned: PartitionRepair, cancellation: Cancellation) -> Repaired:
        """Move duplicates aside."""
        self.world.scheduler.switch(f"repair {work.run}")
        self._raise_if_down()
        return self.world.warehouse.repair(work, planned, cancellation)

    def plan_restore(
        self, spec: TableSpec, partition: str | None, *, run: str, key: Mapping[str, str | None]
    ) -> RestorePlan:
        """Look what would be exchanged."""
        self.world.scheduler.switch("plan restore")
        self._raise_if_down()
        return self.world.warehouse.plan_restore(spec, partition, run=run, key=key)

    def restore(
        self, work: Intervention, *, run: str, key: Mapping[str, str | None], cancellation: Cancellation
    ) -> Repaired:
        """Bring a removed row back."""
        self.world.scheduler.switch(f"restore {work.run}")
        self._raise_if_down()
        return self.world.warehouse.restore(work, run=run, key=key, cancellation=cancellation)

    def upkeep(self, specs: Sequence[TableSpec], *, apply: bool) -> Sequence[str]:
        """Keep storage in check."""
        return self.world.warehouse.upkeep(specs, apply=apply)

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence."""
        self.world.scheduler.switch(f"raise fence of {scope} to {token}")
        self._raise_if_down()
        return self.world.warehouse.raise_fence(spec, scope, token=token, by=by, reason=reason)

    def record(self, entry: HistoryEntry) -> None:
        """Write an audit entry."""
        self.world.scheduler.switch("record")
        self.world.warehouse.record(entry)

    def history(self, *, table: str | None, batch: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Return what was committed."""
        return self.world.warehouse.history(table=table, batch=batch, limit=limit)

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates."""
        return self.world.warehouse.inspect(request)

    def probe(self, specs: Sequence[TableSpec]) -> Sequence[tuple[str, bool, str]]:
        """Check what is there."""
        return self.world.warehouse.probe(specs)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _is_down(self) -> bool:
        return self.world.scheduler.now_us < self.world.faults.warehouse_down_until_us

    def _raise_if_down(self) -> None:
        if self._is_down():
            raise WarehouseError("the warehouse cannot be reached")
