"""The merge plan and what may come of it.

The plan is data; an adapter runs its steps in one transaction or renders them as one script.

The steps of one transaction, in order:

====== =================================================================== ====================
guard  change the guard row; two transactions serialise or one fails        protects I1, I5
token  compare with the fence, raise it; lower than one committed: refused  protects I4
todo   the plan's parts minus the ledger's; none left: already merged       protects I6
merge  newest wins, exact keys, counts                                      gives I2, I3
verify one row per key; every staged key is there; the counts add up        protects I1, I5, I8
record the ledger                                                           protects I6, I7
====== =================================================================== ====================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from onerow.core.partitions import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onerow.core.parts import PartManifest
    from onerow.core.spec import TableSpec
    from onerow.errors import OnerowError

Merged = frozenset[tuple[str, str | None]]
"""What a ledger names as merged: pairs of part id and partition."""


@dataclass(frozen=True, slots=True)
class PartitionTask:
    """One partition's share of a plan."""

    partition: str | None
    part_ids: tuple[str, ...]
    rows_staged: int
    token: int | None = None


@dataclass(frozen=True, slots=True)
class MergePlan:
    """One transaction: all unmerged parts of a batch for a group of partitions.

    Attributes:
        consolidation: identity of the run; with ``attempt`` it identifies the transaction.
        tasks: the partitions, sorted; each names its parts and carries its fencing token,
            None where the run takes no lock.
        lock_store: identity of the lock store the tokens come from; None without a lock.
    """

    spec: TableSpec
    batch: str
    consolidation: str
    attempt: int
    holder: str
    parts: tuple[PartManifest, ...]
    tasks: tuple[PartitionTask, ...]
    lock_store: str | None = None

    @property
    def partitions(self) -> tuple[str | None, ...]:
        """The partitions of the group."""
        return tuple(task.partition for task in self.tasks)

    @property
    def unlocked(self) -> bool:
        """Whether the run takes no lock."""
        return self.lock_store is None

    @property
    def transaction(self) -> str:
        """Identity of the transaction: an unknown outcome is looked up by it."""
        return f"{self.consolidation}.{self.attempt}"

    def scope(self, task: PartitionTask) -> Scope:
        """Return the scope of one of the plan's tasks."""
        return Scope(self.spec.name, task.partition)


@dataclass(frozen=True, slots=True)
class MergeCounts:
    """Rows of one partition: staged = inserted + updated + unchanged + superseded."""

    staged: int
    inserted: int
    updated: int
    unchanged: int
    superseded: int

    @property
    def add_up(self) -> bool:
        """Whether the sum holds and nothing is negative."""
        parts = (self.inserted, self.updated, self.unchanged, self.superseded)
        return self.staged == sum(parts) and min(parts) >= 0


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction has committed and the ledger says so.

    Attributes:
        read_back: found by reading the ledger after an unknown end.
        details: numbers that only some engines tell: ``bytes_processed``, ``slot_ms``.
        duplicates_removed: rows moved aside before the merge, of the partitions where that was done.
    """

    counts: Mapping[str | None, MergeCounts]
    merge_s: float = 0.0
    verify_s: float = 0.0
    read_back: bool = False
    details: Mapping[str, int] = field(default_factory=dict)
    duplicates_removed: Mapping[str | None, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlreadyMerged:
    """The ledger names every part of the plan; nothing was changed."""


RefusalReason = Literal["conflict", "outdated", "stale", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Refused:
    """The transaction did not commit and never will.

    Attributes:
        reason: ``conflict``: lost against another one, try again from the top; ``outdated``: the
            ledger names some of the plan's parts already, plan again; ``stale``: a higher token has
            committed; ``cancelled``: the caller asked to stop; ``failed``: trying again is of no use.
        error: what to raise or report.
        partitions: the partitions at fault, empty if the whole group is.
        fence: with ``stale``, the highest committed token.
    """

    reason: RefusalReason
    error: OnerowError
    partitions: tuple[str | None, ...] = ()
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell whether the transaction has committed; it must be read back under the guard."""

    error: OnerowError


Outcome = Committed | AlreadyMerged | Refused | Unknown


def unmerged(
    parts: Iterable[PartManifest], merged: Merged, *, partitioned: bool
) -> dict[str | None, list[PartManifest]]:
    """Return the parts that wait, by partition, partitions and parts sorted."""
    waiting: dict[str | None, list[PartManifest]] = {}
    for part in sorted(parts, key=lambda part: part.part_id):
        for partition in part.partition_names(partitioned=partitioned):
            if (part.part_id, partition) not in merged:
                waiting.setdefault(partition, []).append(part)
    return dict(sorted(waiting.items(), key=lambda item: item[0] or ""))


def fully_merged(parts: Iterable[PartManifest], merged: Merged, *, partitioned: bool) -> list[PartManifest]:
    """Return the parts that ``merged`` names for all their partitions: only these may be removed."""
    return [
        part
        for part in parts
        if all((part.part_id, name) in merged for name in part.partition_names(partitioned=partitioned))
    ]


def plan_groups(
    waiting: Mapping[str | None, Sequence[PartManifest]], *, max_partitions: int, max_rows: int
) -> list[tuple[str | None, ...]]:
    """Split the partitions into groups, in order, each within the bounds or of one partition."""
    groups: list[tuple[str | None, ...]] = []
    current: list[str | None] = []
    rows = 0
    for partition, parts in waiting.items():
        size = sum(part.rows_of(partition) for part in parts)
        if current and (len(current) >= max_partitions or rows + size > max_rows):
            groups.append(tuple(current))
            current, rows = [], 0
        current.append(partition)
        rows += size
    if current:
        groups.append(tuple(current))
    return groups


def plan_merge(
    *,
    spec: TableSpec,
    batch: str,
    consolidation: str,
    attempt: int,
    holder: str,
    waiting: Mapping[str | None, Sequence[PartManifest]],
    tokens: Mapping[Scope, int],
    lock_store: str | None,
) -> MergePlan:
    """Return the plan that merges what waits; ``tokens`` is empty for a run without a lock."""
    tasks = tuple(
        PartitionTask(
            partition=partition,
            part_ids=tuple(part.part_id for part in parts),
            rows_staged=sum(part.rows_of(partition) for part in parts),
            token=tokens.get(Scope(spec.name, partition)),
        )
        for partition, parts in waiting.items()
    )
    parts = {part.part_id: part for group in waiting.values() for part in group}
    return MergePlan(
        spec=spec,
        batch=batch,
        consolidation=consolidation,
        attempt=attempt,
        holder=holder,
        parts=tuple(parts[part_id] for part_id in sorted(parts)),
        tasks=tasks,
        lock_store=lock_store,
    )
