"""A warehouse in memory: the reference of the port, with the isolation of the worst engine.

The steps of the plan are methods of their own, so that a negative control can switch off one of them.
Before each step stands a switch point: in the simulation another actor may run there.
"""

from __future__ import annotations

import datetime as dt
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from onerow.core.plans import AlreadyMerged, Committed, MergeCounts, Refused, Unknown
from onerow.core.repairs import explained_change, repair_reason
from onerow.errors import (
    DuplicatesError,
    FencedError,
    LockStoreMismatchError,
    StaleLeaseError,
    VerificationError,
    WarehouseBusyError,
    WarehouseError,
)
from onerow.ports.warehouse import Capabilities, HistoryEntry, LedgerEntry
from onerow.testing.memory_interventions import duplicates_error
from onerow.testing.memory_looks import audit, not_installed
from onerow.testing.memory_repairs import MemoryRepairs
from onerow.testing.memory_tables import (
    Candidate,
    ConflictError,
    Key,
    Layout,
    LinkLostError,
    MemoryDatabase,
    Row,
    TableState,
    Transaction,
    duplicates_in,
    key_text,
    layout_of,
    put_candidate,
    stay,
)
from onerow.testing.memory_versions import merge_versions, repeated_contents, what_is_wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from onerow.core.partitions import Scope
    from onerow.core.plans import MergePlan, Outcome, PartitionTask
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import Estimate, Prepared
    from onerow.testing.memory_parts import MemoryParts

FENCE_TRIES = 20


def _missing_or_older(rows: Sequence[Row], candidates: Mapping[Key, Candidate], spec: TableSpec) -> str | None:
    """Return which staged row is not in the table and newer than what is; None if all is well."""
    layout = layout_of(spec)
    found = {layout.key(row): layout.order(row) for row in rows}
    for key, candidate in candidates.items():
        if key not in found or found[key] < layout.order(candidate.row):
            return f"the row of {key_text(spec, key)} is missing or older"
    return None


class RollbackError(Exception):
    """Ends a transaction without a commit."""

    def __init__(self, outcome: Refused | AlreadyMerged) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


@dataclass(slots=True)
class MemoryPrepared:
    """A plan whose rows are read and deduplicated, by partition and key."""

    plan: MergePlan
    candidates: dict[str | None, dict[Key, Candidate]] = field(default_factory=dict)
    staged: dict[str | None, int] = field(default_factory=dict)


class MemoryWarehouse(MemoryRepairs):
    """Tables in memory, on a database that several warehouses may share.

    Args:
        switch: called before every step.
        deliver: brings the commit to the database; in the simulation it may lose the reply, or be late.
        commit_domain: with ``row`` there is a guard row a partition, otherwise one a table.
    """

    def __init__(
        self,
        *,
        parts: MemoryParts,
        database: MemoryDatabase | None = None,
        switch: Callable[[str], None] = stay,
        deliver: Callable[[Callable[[], None]], None] = lambda commit: commit(),
        commit_domain: Literal["row", "table"] = "table",
        max_partitions: int = 4,
        max_rows: int = 1_000_000,
        utc_now: Callable[[], dt.datetime] = lambda: dt.datetime(2026, 1, 11, tzinfo=dt.UTC),
    ) -> None:
        super().__init__(
            database or MemoryDatabase(),
            utc_now,
            capabilities=Capabilities(commit_domain, max_partitions, max_rows, frozenset({"upsert", "versions"})),
            switch=switch,
            deliver=deliver,
        )
        self._parts = parts

    # --- merging ---------------------------------------------------------------------------

    def estimate(self, spec: TableSpec, partitions: Sequence[str | None]) -> Estimate | None:  # noqa: ARG002
        """Return None: what a query reads is not charged here."""
        return None

    @contextmanager
    def prepare(self, plan: MergePlan) -> Iterator[MemoryPrepared]:
        """Read the parts and find the newest row of each key."""
        prepared = MemoryPrepared(plan)
        layout = layout_of(plan.spec)
        wanted = {(part_id, task.partition) for task in plan.tasks for part_id in task.part_ids}
        for task in plan.tasks:
            prepared.candidates[task.partition], prepared.staged[task.partition] = {}, 0
        for part in plan.parts:
            places = {name: place for place, (name, _) in enumerate(part.columns)}
            order = [places.get(name) for name in plan.spec.column_names]
            for values in self._parts.rows(part):
                row = tuple([None if place is None else values[place] for place in order])
                partition = layout.partition_of(row)
                if (part.part_id, partition) in wanted:
                    prepared.staged[partition] += 1
                    put_candidate(prepared.candidates[partition], row, layout)
        yield prepared

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Run the plan's steps in one transaction."""
        if not isinstance(prepared, MemoryPrepared):
            raise TypeError(f"prepared elsewhere: {type(prepared).__name__}")
        outcome = self._apply(prepared, cancellation, repair=False)
        repairs = prepared.plan.spec.on_existing_duplicates == "repair"
        if repairs and isinstance(outcome, Refused) and isinstance(outcome.error, DuplicatesError):
            return self._apply(prepared, cancellation, repair=True)
        return outcome

    def _apply(self, prepared: MemoryPrepared, cancellation: Cancellation, *, repair: bool) -> Outcome:
        """Run one transaction, with a repair of the plan's partitions before the merge if asked for."""
        plan = prepared.plan
        if plan.spec.name not in self.database.tables:
            return Refused("failed", not_installed(plan.spec.name))
        transaction = Transaction(self.database.tables[plan.spec.name], plan.transaction)

        def interrupt() -> None:
            transaction.interrupted = True

        cancellation.on_cancel(interrupt)
        try:
            self._switch("begin")
            transaction.before = self.database.tables[plan.spec.name]
            for name, step in self._steps(repair=repair):
                self._switch(name)
                if transaction.interrupted:
                    cancellation.raise_if_cancelled()
                step(transaction, prepared)
            self._switch("cancelled?")
            cancellation.raise_if_cancelled()
            self._switch("commit")
        except RollbackError as rollback:
            return rollback.outcome
        except FencedError as error:
            return Refused("cancelled", error)
        except LinkLostError as error:
            return Refused("conflict", WarehouseError(f"The connection broke before the commit: {error}."))
        finally:
            cancellation.on_cancel(None)
        return self._finish(transaction, plan)

    def _steps(self, *, repair: bool) -> Sequence[tuple[str, Callable[[Transaction, MemoryPrepared], None]]]:
        return (
            ("guard", self._guard),
            ("token", self._token),
            ("todo", self._todo),
            *((("repair", self._repair),) if repair else ()),
            ("merge", self._merge),
            ("verify", self._verify),
            ("record", self._record),
        )

    def _finish(self, transaction: Transaction, plan: MergePlan) -> Outcome:
        """Commit, and believe only what the ledger says after it."""
        try:
            self._deliver(partial(self.database.commit, transaction))
            self._switch("read back")
        except ConflictError as error:
            return Refused("conflict", WarehouseBusyError(f"Lost against another transaction: {error}."))
        except LinkLostError as error:
            return Unknown(WarehouseError(f"The connection broke in the commit: {error}."))
        return self._committed(plan, read_back=False) or Refused(
            "conflict", WarehouseError("The commit returned, and the ledger does not name it.")
        )

    def _guard(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Change the guard rows; of two transactions that do, the second to commit fails."""
        try:
            self._take_guards(transaction, prepared.plan.partitions, prepared.plan.lock_store)
        except LockStoreMismatchError as error:
            raise RollbackError(Refused("failed", error)) from error

    def _token(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Compare each token with the highest that has committed for its scope, and append it."""
        try:
            self._raise_fences(transaction, {task.partition: task.token for task in prepared.plan.tasks})
        except StaleLeaseError as error:
            raise RollbackError(Refused("stale", error, fence=error.fence)) from error

    def _todo(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Refuse to merge again what the ledger names."""
        merged = transaction.before.merged()
        tasks = prepared.plan.tasks
        planned = [(part_id, task.partition) for task in tasks for part_id in task.part_ids]
        done = [pair for pair in planned if pair in merged]
        if len(done) == len(planned):
            raise RollbackError(AlreadyMerged())
        if done:
            error = WarehouseBusyError(f"The ledger names {len(done)} of {len(planned)} parts by now.")
            raise RollbackError(Refused("outdated", error))

    def _repair(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Move rows of keys that stand more than once aside, all but the newest; the merge meets one row a key."""
        plan = prepared.plan
        for task in plan.tasks:
            rows = sum(1 for _ in transaction.view(task.partition))
            done = self._move_aside(
                transaction, plan.spec, task.partition, run=plan.consolidation, words=repair_reason(plan.batch)
            )
            if done is None:
                continue
            explained = transaction.before.explained(task.partition)
            transaction.history.append(
                replace(
                    audit(
                        "dedupe",
                        plan.spec.name,
                        task.partition,
                        by=plan.holder,
                        reason=repair_reason(plan.batch),
                        at=self._utc_now(),
                    ),
                    batch=plan.batch,
                    consolidation=plan.consolidation,
                    attempt=plan.attempt,
                    token=task.token,
                    unlocked=plan.unlocked,
                    rows_inserted=explained_change(rows=rows, explained=explained, moved=done.extra_rows),
                    rows_superseded=done.extra_rows,
                )
            )

    def _merge(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Let the newest row of each key win, and count what becomes of every staged row."""
        layout = layout_of(prepared.plan.spec)
        for task in prepared.plan.tasks:
            if layout.versions:
                contents = prepared.candidates[task.partition]
                merge_versions(transaction, task, contents, staged=prepared.staged[task.partition])
                continue
            existing: dict[Key, tuple[int, Row]] = {}
            for number, row in transaction.view(task.partition):
                key = layout.key(row)
                if key not in existing or layout.order(existing[key][1]) < layout.order(row):
                    existing[key] = (number, row)
            inserted = updated = unchanged = superseded = 0
            for key, candidate in prepared.candidates[task.partition].items():
                superseded += candidate.older
                if key not in existing:
                    transaction.inserted.append(candidate.row)
                    inserted += 1
                    unchanged += candidate.same - 1
                    continue
                number, row = existing[key]
                if self._is_newer(candidate.row, row, layout):
                    transaction.updated[number] = candidate.row
                    updated += 1
                    unchanged += candidate.same - 1
                elif layout.order(candidate.row) == layout.order(row):
                    unchanged += candidate.same
                else:
                    superseded += candidate.same
            transaction.counts[task.partition] = MergeCounts(
                prepared.staged[task.partition], inserted, updated, unchanged, superseded
            )

    def _is_newer(self, staged: Row, existing: Row, layout: Layout) -> bool:
        return layout.order(staged) > layout.order(existing)

    def _verify(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Check, before anybody sees it, that the merge has done what it should."""
        spec, layout = prepared.plan.spec, layout_of(prepared.plan.spec)
        doubled: dict[Key, str | None] = {}
        for task in prepared.plan.tasks:
            rows = [row for _, row in transaction.view(task.partition)]
            doubled |= dict.fromkeys(duplicates_in(rows, layout), task.partition)
            candidates = prepared.candidates[task.partition]
            if layout.versions:
                touched = {layout.key(candidate.row) for candidate in candidates.values()}
                of_touched = [row for row in rows if layout.key(row) in touched]
                doubled |= dict.fromkeys(repeated_contents(of_touched, layout), task.partition)
                wrong = what_is_wrong(transaction, task, candidates)
            else:
                wrong = _missing_or_older(rows, candidates, spec)
            if wrong is not None:
                self._fail_verification(task, wrong)
            counts = transaction.counts[task.partition]
            if not counts.add_up or counts.staged != task.rows_staged:
                self._fail_verification(task, f"the counts do not add up: {counts}, planned {task.rows_staged}")
        if doubled:
            error = duplicates_error(spec, doubled)
            raise RollbackError(Refused("failed", error, partitions=error.partitions))

    def _fail_verification(self, task: PartitionTask, why: str) -> None:
        error = VerificationError(f"The check of partition {task.partition!r} failed: {why}.")
        raise RollbackError(Refused("failed", error, partitions=(task.partition,)))

    def _record(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Write into the ledger, in this very transaction, what it merges."""
        plan = prepared.plan
        parts = {part.part_id: part for part in plan.parts}
        for task in plan.tasks:
            counts = transaction.counts[task.partition]
            transaction.ledger += [
                LedgerEntry(
                    table=plan.spec.name,
                    partition=task.partition,
                    part_id=part_id,
                    batch=plan.batch,
                    consolidation=plan.consolidation,
                    rows_staged=parts[part_id].rows_of(task.partition),
                )
                for part_id in task.part_ids
            ]
            transaction.history.append(
                HistoryEntry(
                    action="consolidate",
                    table=plan.spec.name,
                    partition=task.partition,
                    batch=plan.batch,
                    consolidation=plan.consolidation,
                    attempt=plan.attempt,
                    token=task.token,
                    unlocked=plan.unlocked,
                    holder=plan.holder,
                    parts=len(task.part_ids),
                    rows_staged=counts.staged,
                    rows_inserted=counts.inserted,
                    rows_updated=counts.updated,
                    rows_unchanged=counts.unchanged,
                    rows_superseded=counts.superseded,
                    merge_s=0.0,
                    verify_s=0.0,
                    committed_at=self._utc_now(),
                    reason="",
                )
            )

    # --- reading back, fencing -------------------------------------------------------------

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """Take the guard, then read the ledger: whoever still has a commit on its way loses it."""
        if plan.spec.name not in self.database.tables:
            return Refused("failed", not_installed(plan.spec.name))
        try:
            self._switch("begin")
            transaction = self.database.begin(plan.spec.name, f"resolve {plan.transaction}")
            self._switch("guard")
            transaction.guards |= {self._guard_of(partition) for partition in plan.partitions}
            self._switch("commit")
            self._deliver(partial(self.database.commit, transaction))
        except (ConflictError, LinkLostError) as error:
            return Unknown(WarehouseError(f"The ledger could not be read under the guard: {error}."))
        return self._committed(plan, read_back=True, seen=transaction.before) or Refused(
            "conflict", WarehouseError(f"Transaction {plan.transaction} was rolled back.")
        )

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of ``scope`` under the guard, so that no open transaction slips by."""
        if spec.name not in self.database.tables:
            raise not_installed(spec.name)
        for _ in range(FENCE_TRIES):
            try:
                self._switch("begin")
                transaction = self.database.begin(spec.name, f"fence {scope}")
                transaction.guards.add(self._guard_of(scope.partition))
                transaction.fences.append((scope.partition, token))
                entry = audit("force_release", spec.name, scope.partition, by=by, reason=reason, at=self._utc_now())
                transaction.history.append(replace(entry, token=token))
                self._switch("commit")
                self._deliver(partial(self.database.commit, transaction))
            except ConflictError:
                continue
            except LinkLostError as error:
                raise WarehouseError(f"The connection broke while the fence was raised: {error}.") from error
            return self.database.tables[spec.name].fence(scope.partition)
        raise WarehouseBusyError(f"The fence of {scope} could not be raised: {FENCE_TRIES} conflicts.")

    def _committed(self, plan: MergePlan, *, read_back: bool, seen: TableState | None = None) -> Committed | None:
        """Return what ledger and history say of a plan's transaction; None if they do not name it."""
        state = seen or self.database.tables[plan.spec.name]
        named = {
            (entry.part_id, entry.partition) for entry in state.ledger if entry.consolidation == plan.consolidation
        }
        if any((part_id, task.partition) not in named for task in plan.tasks for part_id in task.part_ids):
            return None
        counts = {
            entry.partition: MergeCounts(
                entry.rows_staged,
                entry.rows_inserted,
                entry.rows_updated,
                entry.rows_unchanged,
                entry.rows_superseded,
            )
            for entry in state.history
            if (entry.action, entry.consolidation, entry.attempt) == ("consolidate", plan.consolidation, plan.attempt)
            and entry.partition in plan.partitions
        }
        removed = {
            entry.partition: entry.rows_superseded
            for entry in state.history
            if (entry.action, entry.consolidation, entry.attempt) == ("dedupe", plan.consolidation, plan.attempt)
            and entry.partition in plan.partitions
        }
        if len(counts) != len(plan.tasks):
            return None
        return Committed(counts, read_back=read_back, duplicates_removed=removed)
