"""Checks the invariants of the design at every commit, at every removal, at every answer and at the end.

It keeps its own account, from what was staged and what the database committed, and uses nothing of what
the code under test believes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onerow.core.partitions import Scope
from onerow.services.leases import LEASE_PREFIX, TURN_PREFIX
from onerow.testing.accounts import account_of
from onerow.testing.memory_tables import Key, Row, duplicates_in, key_text, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onerow.core.parts import PartManifest
    from onerow.core.plans import MergePlan
    from onerow.core.results import ConsolidationResult
    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import HistoryEntry
    from onerow.services.group import Request
    from onerow.testing.accounts import Account
    from onerow.testing.memory_locks import MemoryLocks
    from onerow.testing.memory_tables import TableState, Transaction
    from onerow.testing.scheduler import Scheduler


Pair = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold.

    Attributes:
        invariant: ``I1`` to ``I8``; ``lease``: two holders were sure of one lease; ``efficiency``: work
            was wasted although nothing failed; ``liveness``: a healed system did not come to its end.
        at_us: virtual time.
    """

    invariant: str
    message: str
    at_us: int

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at_us / 1e6:.6f} s: {self.message}"


@dataclass(slots=True)
class Checker:
    """See the module.

    Attributes:
        healthy: nothing fails in this run, so work must not be wasted either.
        honest_leases: the lock store keeps what it was told and nobody takes leases away by force.
        idle_bound_us: how long a free lease may stay unused while somebody waits for it.
        doubled: consolidations of which a transaction was delivered twice: their "failed" may be a twin's
            success.
    """

    spec: TableSpec
    scheduler: Scheduler
    locks: MemoryLocks
    healthy: bool
    honest_leases: bool
    idle_bound_us: int = 100_000
    violations: list[Violation] = field(default_factory=list)
    doubled: set[str] = field(default_factory=set)
    acknowledged: dict[str, dict[str, PartManifest]] = field(default_factory=dict)
    _rows: dict[str, tuple[PartManifest, tuple[Row, ...]]] = field(default_factory=dict)
    _merged: dict[Pair, str] = field(default_factory=dict)
    _account: Account = field(init=False)
    _tokens: dict[str | None, int] = field(default_factory=dict)
    _foreign: set[Key] = field(default_factory=set)
    _working: dict[str | None, str] = field(default_factory=dict)
    _waiters: dict[str, dict[str, int]] = field(default_factory=dict)
    _freed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._account = account_of(self.spec)

    def fail(self, invariant: str, message: str) -> None:
        """Note a violation, and end the run: what follows from it is of no interest."""
        self.violations.append(Violation(invariant, message, self.scheduler.now_us))
        self.scheduler.log(f"VIOLATION {invariant}: {message}")
        self.scheduler.halted = True

    # --- what was put in -------------------------------------------------------------------

    def start_with(self, rows: Sequence[Row]) -> None:
        """Take rows that are in the table from the start into account."""
        for row in rows:
            self._account.expect(row[: len(self.spec.columns)])

    def saw_staged(self, manifest: PartManifest, rows: Sequence[Row]) -> None:
        """A part exists, whether or not its worker was told. ``rows`` have all columns of the spec."""
        self._rows.setdefault(manifest.part_id, (manifest, tuple(rows)))

    def saw_acknowledged(self, manifest: PartManifest) -> None:
        """A worker was told that its part is staged."""
        self.acknowledged.setdefault(manifest.batch, {})[manifest.part_id] = manifest

    # --- at every commit -------------------------------------------------------------------

    def saw_commit(self, transaction: Transaction, before: TableState, after: TableState) -> None:
        """Check a commit at its very moment."""
        self.scheduler.log(
            f"COMMIT {transaction.label}: +{len(transaction.inserted)} ~{len(transaction.updated)} rows, "
            f"{len(transaction.ledger)} in the ledger"
        )
        layout = layout_of(self.spec)
        doubled = duplicates_in(list(after.rows.values()), layout)
        if transaction.unchecked:
            self._foreign |= set(doubled)
            return
        new = [key for key in doubled if key not in self._foreign]
        if new:
            self.fail("I1", f"{transaction.label} leaves {doubled[new[0]]} rows of {key_text(self.spec, new[0])}")
        for entry in transaction.history:
            self._check_token(entry)
        self._check_ledger(transaction, before)
        touched = {entry.partition for entry in transaction.history if entry.action == "consolidate"}
        self._foreign &= set(doubled)
        seen = duplicates_in([row for name in touched for _, row in transaction.view(name)], layout)
        if seen:
            key = next(iter(seen))
            self.fail("I5", f"{transaction.label} committed where {key_text(self.spec, key)} has several rows")
        if self.spec.mode == "versions" and (transaction.updated or transaction.deleted):
            self.fail("I2", f"{transaction.label} changes or removes versions")
        if not doubled:
            self._check_rows(transaction.label, touched, after)

    def _check_token(self, entry: HistoryEntry) -> None:
        if entry.token is None:
            return
        highest = self._tokens.get(entry.partition, 0)
        if entry.action == "consolidate" and entry.token < highest:
            self.fail("I4", f"{entry.consolidation} committed with token {entry.token} after {highest}")
        self._tokens[entry.partition] = max(highest, entry.token)

    def _check_ledger(self, transaction: Transaction, before: TableState) -> None:
        staged: dict[str | None, int] = {}
        parts: dict[str | None, int] = {}
        for line in transaction.ledger:
            pair = (line.part_id, line.partition)
            if pair in self._merged:
                self.fail("I6", f"{pair} is merged by {line.consolidation} and by {self._merged[pair]}")
            self._merged[pair] = line.consolidation
            manifest, rows = self._rows[line.part_id]
            if line.rows_staged != manifest.rows_of(line.partition):
                self.fail("I6", f"the ledger counts {line.rows_staged} rows of {pair}")
            staged[line.partition] = staged.get(line.partition, 0) + manifest.rows_of(line.partition)
            parts[line.partition] = parts.get(line.partition, 0) + 1
            layout = layout_of(self.spec)
            for row in rows:
                if layout.partition_of(row) == line.partition:
                    self._account.expect(row)
        for entry in transaction.history:
            if entry.action != "consolidate":
                continue
            counts = (entry.rows_inserted, entry.rows_updated, entry.rows_unchanged, entry.rows_superseded)
            if sum(counts) != entry.rows_staged or min(counts) < 0:
                self.fail("I6", f"the counts of {entry.consolidation} do not add up: {entry}")
            if (entry.parts, entry.rows_staged) != (parts.get(entry.partition, 0), staged.get(entry.partition, 0)):
                self.fail("I6", f"{entry.consolidation} merged what its ledger does not name: {entry}")
        written = len(transaction.inserted)
        if written != sum(entry.rows_inserted for entry in transaction.history if entry.action == "consolidate"):
            self.fail("I6", f"{transaction.label} inserted {written} rows and counted others")
        if before.commit + 1 < transaction.before.commit:
            self.fail("I6", f"{transaction.label} has a snapshot of the future")

    def _check_rows(self, label: str, touched: set[str | None], after: TableState) -> None:
        layout = layout_of(self.spec)
        for partition in touched:
            rows = [row for row in after.rows.values() if layout.partition_of(row) == partition]
            for invariant, message in self._account.compare(partition, rows):
                self.fail(invariant, f"after {label} {message}")

    # --- at every removal and every answer --------------------------------------------------

    def saw_removal(self, what: str, parts: Sequence[PartManifest]) -> None:
        """Somebody is about to retire or purge parts."""
        for part in parts:
            for partition in part.partition_names(partitioned=True):
                if (part.part_id, partition) not in self._merged:
                    self.fail("I7", f"{what} of part {part.part_id}, not merged into {partition}")

    def must_merge(self, request: Request) -> list[Pair]:
        """Return what a consolidation that begins now has to merge before it may report success."""
        return [
            (part_id, partition)
            for part_id, manifest in self.acknowledged.get(request.batch, {}).items()
            for partition in manifest.partition_names(partitioned=True)
            if request.partitions is None or partition in request.partitions
        ]

    def saw_result(self, request: Request, must: Sequence[Pair], result: ConsolidationResult) -> None:
        """A consolidation has answered."""
        run = result.consolidation
        if result.success:
            left = [pair for pair in must if pair not in self._merged]
            if left:
                self.fail("I8", f"{run} of {request.batch} reports {result.status}, {left[0]} is not merged")
        for part in result.partitions:
            by_us = [pair for pair, by in self._merged.items() if pair[1] == part.partition and by == run]
            if part.status == "committed" and len(by_us) != part.parts:
                self.fail("I8", f"{run} reports {part.parts} parts of {part.partition}; {len(by_us)} are")
            if part.status in {"failed", "fenced", "lock_timeout"} and by_us and run not in self.doubled:
                self.fail("I8", f"{run} reports {part.status} for {part.partition}, and has committed it")
            if self.healthy and part.status in {"fenced", "unknown", "lock_timeout"}:
                self.fail("efficiency", f"{run} ends {part.status} though nothing failed: {part.error}")

    # --- leases ----------------------------------------------------------------------------

    def saw_belief(self, plan: MergePlan) -> None:
        """A holder was sure, at this very moment, that it still holds its leases."""
        if not self.honest_leases:
            return
        for task in plan.tasks:
            value = self.locks.read(f"{LEASE_PREFIX}{Scope(plan.spec.name, task.partition)}").value or {}
            if task.token is not None and value.get("owner") and value["token"] > task.token:
                self.fail("lease", f"{plan.holder} is sure of {task.partition}, {value['holder']} holds it")

    def saw_swap(self, key: str, value: Mapping[str, Any] | None) -> None:
        """A record of the lock store was written."""
        if not key.startswith((LEASE_PREFIX, TURN_PREFIX)):
            return
        owner = value["owner"] if value else ""
        if not owner:
            self._freed[key] = self.scheduler.now_us
        elif key in self._freed:
            freed_us = self._freed.pop(key)
            waited_since = self._waiters.get(key, {}).get(owner)
            if self.healthy and waited_since is not None:
                idle_us = self.scheduler.now_us - max(freed_us, waited_since)
                if idle_us > self.idle_bound_us:
                    self.fail("efficiency", f"{key} was free for {idle_us} us while {owner} waited")

    @contextmanager
    def waiting(self, key: str, waiter: str) -> Iterator[None]:
        """Somebody waits for a lease; it counts as waiting until it has it."""
        held_by = (self.locks.read(key).value or {}).get("owner")
        if held_by == waiter:
            self.fail("efficiency", f"{waiter} waits for {key}, which it holds itself")
        self._waiters.setdefault(key, {}).setdefault(waiter, self.scheduler.now_us)
        yield

    @contextmanager
    def working(self, plan: MergePlan, process: str) -> Iterator[None]:
        """A process works on partitions, from before it reads the parts until its outcome is known."""
        locked = [] if plan.unlocked else [task.partition for task in plan.tasks]
        for partition in locked:
            other = self._working.get(partition)
            if self.healthy and other is not None:
                self.fail("efficiency", f"{process} and {other} both work on {partition}")
            self._working[partition] = process
        try:
            yield
        finally:
            for partition in locked:
                if self._working.get(partition) == process:
                    del self._working[partition]

    # --- at the end ------------------------------------------------------------------------

    def check_end(self, state: TableState) -> None:
        """Check the final state: everything staged is merged, and the table is the plain reference."""
        for part_id, (manifest, _) in self._rows.items():
            for partition in manifest.partition_names(partitioned=True):
                if (part_id, partition) not in self._merged:
                    self.fail("I2", f"part {part_id} of {manifest.batch} was never merged into {partition}")
        for _, rows in self._rows.values():
            for row in rows:
                self._account.expect(row)
        for invariant, message in self._account.close(list(state.rows.values())):
            self.fail(invariant, message)
        named = {(entry.part_id, entry.partition) for entry in state.ledger}
        if len(named) != len(state.ledger) or named != set(self._merged):
            self.fail("I6", "the ledger is not what was committed")
