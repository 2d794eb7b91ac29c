"""Removing the data of parts that were merged long ago, and what crashed writers have left behind.

A part is retired when the ledger names it for all its partitions. A warehouse that was restored to an
earlier moment may have forgotten some of them: their data is what heals it, so the ledger is asked
again before anything goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.core.plans import fully_merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onerow.core.parts import PartManifest
    from onerow.core.spec import TableSpec
    from onerow.ports.partstore import PartStore
    from onerow.ports.warehouse import Warehouse
    from onerow.services.leases import Leases

MIN_REMAINS_AGE_S: Final = 3_600.0
"""Younger files may belong to a writer that is still at work."""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What has served its time.

    Attributes:
        parts: retired parts that the ledger names for all their partitions; their data may go.
        unmerged: retired parts that the ledger does not name any more; they wait to be merged again.
        remains: files that crashed writers have left behind.
        upkeep: what the warehouse would do to its own storage, as lines.
    """

    parts: tuple[PartManifest, ...]
    unmerged: tuple[PartManifest, ...]
    remains: tuple[str, ...]
    upkeep: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of the parts' data."""
        return sum(part.size_bytes for part in self.parts)


class Retention:
    """Plans and removes what has served its time."""

    def __init__(self, *, warehouse: Warehouse, parts: PartStore) -> None:
        self._warehouse = warehouse
        self._parts = parts

    def plan(self, specs: Iterable[TableSpec], *, older_than_s: float) -> RetentionPlan:
        """Return what may be removed: merged at least so long ago, and remains of at least an hour."""
        specs = list(specs)
        parts: list[PartManifest] = []
        unmerged: list[PartManifest] = []
        for spec in specs:
            by_batch: dict[str, list[PartManifest]] = {}
            for part in self._parts.retired(spec.name, older_than_s=older_than_s):
                by_batch.setdefault(part.batch, []).append(part)
            for batch, retired in sorted(by_batch.items()):
                merged = self._warehouse.merged(spec.name, batch)
                done = fully_merged(retired, merged, partitioned=spec.partition is not None)
                ids = {part.part_id for part in done}
                parts += done
                unmerged += [part for part in retired if part.part_id not in ids]
        remains = self._parts.remains(older_than_s=max(older_than_s, MIN_REMAINS_AGE_S))
        upkeep = self._warehouse.upkeep(specs, apply=False)
        return RetentionPlan(tuple(parts), tuple(unmerged), tuple(remains), tuple(upkeep))

    def apply(self, plan: RetentionPlan, *, older_than_s: float) -> tuple[int, Sequence[str]]:
        """Remove the data of the plan's parts, by identity, and remains.

        Returns:
            How many parts had data, and which remains were removed. Idempotent.
        """
        purged = self._parts.purge(plan.parts)
        removed = self._parts.remove_remains(older_than_s=max(older_than_s, MIN_REMAINS_AGE_S))
        return purged, removed

    def keep_up(self, specs: Iterable[TableSpec], *, leases: Leases, holder: str) -> Sequence[str]:
        """Have the warehouse keep its own storage in check; return what it did, as lines.

        Each table's turn comes when no consolidation commits to it: of the two at once, one would lose and run again.

        Raises:
            LockAcquisitionError: a table's turn was not had in time.
        """
        domain = self._warehouse.capabilities.commit_domain
        lines: list[str] = []
        for spec in specs:
            with leases.commit_turn(domain, spec.name, holder=holder, batch="gc"):
                lines += self._warehouse.upkeep([spec], apply=True)
        return lines
