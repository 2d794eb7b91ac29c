"""What is known of a group of partitions while it is being merged, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onerow.core.results import PartitionResult, status_of
from onerow.errors import FencedError, OnerowError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.parts import PartManifest
    from onerow.core.plans import Committed, MergePlan
    from onerow.core.results import Status
    from onerow.core.spec import TableSpec

Waiting = dict[str | None, "list[PartManifest]"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to consolidate.

    Attributes:
        partitions: only these, as text; None: all partitions of the batch.
        use_lock: False: no lease, no token; everything but I4 still holds.
        keep_staging: leave the merged parts where they are.
        keep_merged_s: how long the data of merged parts stays; 0: removed at once.
    """

    spec: TableSpec
    batch: str
    holder: str
    partitions: tuple[str, ...] | None = None
    max_wait_s: float | None = None
    use_lock: bool = True
    keep_staging: bool = False
    keep_merged_s: float = 86_400.0


class Run:
    """One consolidation. Its identity and a number identify each of its transactions, over all groups."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.transactions = 0

    def next_transaction(self) -> int:
        """Return a number that no other transaction of this run has."""
        self.transactions += 1
        return self.transactions


class Group:
    """What is known of a group of partitions while it is being merged.

    Args:
        request: what to consolidate.
        run: the consolidation that this is part of.
        waiting: parts that are to be merged, by partition.
        looked: whether ``waiting`` is what the ledger has left of it, or only taken to be.
    """

    def __init__(self, request: Request, run: Run, waiting: Waiting, *, looked: bool) -> None:
        self.request = request
        self.run = run
        self.waiting = waiting
        self.looked = looked
        self.results: list[PartitionResult] = []
        self.merged: set[tuple[str, str | None]] = set()
        self.attempts = 0
        self.transactions = 0
        self.one_by_one = False
        self.lock_wait_s = 0.0
        self.last_refusal = ""

    def next_transaction(self) -> int:
        """Return the number of the run's next transaction."""
        self.transactions += 1
        return self.run.next_transaction()

    def parts(self) -> list[PartManifest]:
        """Return the parts that still wait, each once."""
        return list({part.part_id: part for parts in self.waiting.values() for part in parts}.values())

    def commit(self, plan: MergePlan, committed: Committed) -> None:
        """Record the counts of a committed plan."""
        for task in plan.tasks:
            counts = committed.counts[task.partition]
            self.merged |= {(part_id, task.partition) for part_id in task.part_ids}
            del self.waiting[task.partition]
            self.results.append(
                PartitionResult(
                    partition=task.partition,
                    status="committed",
                    token=task.token,
                    attempts=self.attempts,
                    parts=len(task.part_ids),
                    rows_staged=counts.staged,
                    rows_inserted=counts.inserted,
                    rows_updated=counts.updated,
                    rows_unchanged=counts.unchanged,
                    rows_superseded=counts.superseded,
                    lock_wait_s=self.lock_wait_s,
                    merge_s=committed.merge_s,
                    verify_s=committed.verify_s,
                    duplicates_removed=committed.duplicates_removed.get(task.partition, 0),
                    bytes_processed=committed.details.get("bytes_processed"),
                    slot_ms=committed.details.get("slot_ms"),
                )
            )
        self.attempts = 0

    def already_merged(self, partitions: Sequence[str | None]) -> None:
        """Record partitions of which the ledger names every part."""
        for partition in partitions:
            self.merged |= {(part.part_id, partition) for part in self.waiting.pop(partition)}
            self.results.append(
                PartitionResult(
                    partition, "already_merged", attempts=self.attempts, lock_wait_s=self.lock_wait_s
                )
            )

    def fail_all(self, error: OnerowError) -> None:
        """Record that nothing that still waits can be merged, and tell it."""
        tell_failure(self, error)
        self.fail(tuple(self.waiting), error)

    def fail(self, partitions: Sequence[str | None], error: OnerowError) -> None:
        """Record partitions that cannot be merged."""
        for partition in partitions:
            parts = self.waiting.pop(partition)
            self.results.append(
                PartitionResult(
                    partition,
                    status_of(error),
                    attempts=self.attempts,
                    parts=len(parts),
                    rows_staged=sum(part.rows_of(partition) for part in parts),
                    lock_wait_s=self.lock_wait_s,
                    error=str(error),
                    error_kind=error.kind,
                    exit_code=error.exit_code,
                )
            )


def tell_failure(group: Group, error: OnerowError) -> None:
    """Log that partitions of a group were not merged."""
    emit(
        "onerow.merge_fenced" if isinstance(error, FencedError) else "onerow.merge_failed",
        table=group.request.spec.name,
        batch=group.request.batch,
        consolidation=group.run.identity,
        kind=error.kind,
        error=error.message,
    )


def facts_of(plan: MergePlan) -> dict[str, str | int | None]:
    """Return the fields that every event of a plan carries."""
    one = plan.tasks[0] if len(plan.tasks) == 1 else None
    return {
        "table": plan.spec.name,
        "partition": one.partition if one else f"{len(plan.tasks)} partitions",
        "batch": plan.batch,
        "consolidation": plan.consolidation,
        "token": one.token if one else None,
        "holder": plan.holder,
        "part_count": len(plan.parts),
        "rows_staged": sum(task.rows_staged for task in plan.tasks),
    }


def tell_commit(plan: MergePlan, committed: Committed) -> None:
    """Log a committed plan."""
    facts = facts_of(plan)
    for partition, rows_removed in committed.duplicates_removed.items():
        emit("onerow.duplicates_repaired", rows_removed=rows_removed, **{**facts, "partition": partition})
    emit("onerow.verify_passed", verify_s=round(committed.verify_s, 6), **facts)
    emit(
        "onerow.merge_committed",
        rows_inserted=sum(counts.inserted for counts in committed.counts.values()),
        rows_updated=sum(counts.updated for counts in committed.counts.values()),
        rows_unchanged=sum(counts.unchanged for counts in committed.counts.values()),
        rows_superseded=sum(counts.superseded for counts in committed.counts.values()),
        merge_s=round(committed.merge_s, 6),
        bytes_processed=committed.details.get("bytes_processed"),
        **facts,
    )


def tell_end(request: Request, run: Run, status: Status, kind: str | None, duration_s: float) -> None:
    """Log that a consolidation is over, however it ended."""
    emit(
        "onerow.consolidation_finished",
        table=request.spec.name,
        batch=request.batch,
        consolidation=run.identity,
        status=status,
        kind=kind,
        duration_s=round(duration_s, 6),
    )
