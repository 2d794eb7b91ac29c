"""Batches: what waits, what was merged, and giving one up."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onerow.core.partitions import Scope
from onerow.core.plans import fully_merged, unmerged
from onerow.errors import BatchNotFoundError, PlanOutdatedError, UsageError
from onerow.ports.warehouse import HistoryEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.parts import PartManifest
    from onerow.core.plans import Merged
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock
    from onerow.ports.partstore import PartStore
    from onerow.ports.warehouse import Warehouse
    from onerow.services.leases import Leases

BatchState = Literal["staged", "partly_merged", "merged", "discarded"]


@dataclass(frozen=True, slots=True)
class PartState:
    """A part and how far it is."""

    manifest: PartManifest
    merged_partitions: tuple[str | None, ...]
    waiting_partitions: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch and how far it is. ``parts`` is empty where only the ledger still knows of it."""

    table: str
    batch: str
    state: BatchState
    part_count: int
    parts_merged: int
    rows: int
    first_staged_at: str | None
    last_staged_at: str | None
    parts: tuple[PartState, ...] = ()

    def to_json(self, *, with_parts: bool = False) -> dict[str, Any]:
        """Return the object that ``--output json`` prints."""
        data = {name: getattr(self, name) for name in self.__slots__ if name != "parts"}
        if with_parts:
            data["parts"] = [
                {
                    **part.manifest.to_json(),
                    "state": part.manifest.state,
                    "merged_partitions": list(part.merged_partitions),
                    "waiting_partitions": list(part.waiting_partitions),
                }
                for part in self.parts
            ]
        return data



@dataclass(frozen=True, slots=True)
class DiscardPlan:
    """What a discard would give up.

    Attributes:
        digest: identity of the plan; ``--apply --plan DIGEST`` refuses another one.
    """

    table: str
    batch: str
    parts: tuple[PartManifest, ...]
    partly_merged: int
    digest: str

    @property
    def rows(self) -> int:
        """Rows that would never be merged."""
        return sum(part.rows for part in self.parts)


class BatchDesk:
    """Looks at batches of a table, and discards one by name."""

    def __init__(self, *, warehouse: Warehouse, parts: PartStore, leases: Leases, clock: Clock) -> None:
        self._warehouse = warehouse
        self._parts = parts
        self._leases = leases
        self._clock = clock

    def batches(self, spec: TableSpec) -> Sequence[BatchView]:
        """Return all batches that staging or the ledger knows of, the latest staged first."""
        known = self._warehouse.batches(spec.name)
        names = sorted({*self._parts.batches(spec.name), *known})
        views = [self._view(spec, name, ledger_parts=known.get(name, 0), exact=False) for name in names]
        return sorted(views, key=lambda view: view.last_staged_at or "", reverse=True)

    def batch(self, spec: TableSpec, name: str) -> BatchView:
        """Return one batch with its parts.

        Raises:
            BatchNotFoundError: nobody has seen it.
        """
        known = self._warehouse.batches(spec.name)
        staged = self._parts.batches(spec.name)
        if name not in known and name not in staged:
            near = difflib.get_close_matches(name, {*known, *staged}, n=5, cutoff=0.5)
            raise BatchNotFoundError(
                f"There is no batch {name!r} of table {spec.name!r}.",
                near=near,
                hint=f"Names that come near: {', '.join(near)}." if near else "",
            )
        return self._view(spec, name, ledger_parts=known.get(name, 0))

    def plan_discard(self, spec: TableSpec, name: str) -> DiscardPlan:
        """Return what a discard of the batch would give up: all parts that are not wholly merged."""
        view = self.batch(spec, name)
        parts = tuple(
            part.manifest
            for part in view.parts
            if part.waiting_partitions and part.manifest.state != "discarded"
        )
        partly = sum(1 for part in view.parts if part.manifest in parts and part.merged_partitions)
        digest = hashlib.sha256("\n".join(sorted(part.part_id for part in parts)).encode()).hexdigest()[:12]
        return DiscardPlan(spec.name, name, parts, partly, digest)

    def discard(
        self, spec: TableSpec, name: str, *, reason: str, by: str, expected: str | None = None
    ) -> DiscardPlan:
        """Give the batch's unmerged parts up, under the leases of their partitions.

        Raises:
            UsageError: no reason is given, or nothing waits.
            PlanOutdatedError: what waits is not what ``expected`` names.
        """
        if not reason.strip():
            raise UsageError("A discard needs a reason; it is kept in the audit.")
        plan = self.plan_discard(spec, name)
        partitioned = spec.partition is not None
        scopes = {
            Scope(spec.name, partition)
            for part in plan.parts
            for partition in part.partition_names(partitioned=partitioned)
        }
        with self._leases.hold(sorted(scopes, key=str), holder=by, batch=name) as held:
            plan = self.plan_discard(spec, name)  # what waits now that nobody else can merge it
            if expected is not None and plan.digest != expected:
                raise PlanOutdatedError(
                    f"The plan {expected} no longer fits: what waits of batch {name!r} is now plan {plan.digest}.",
                    hint="Look at the new plan and apply that.",
                )
            if not plan.parts:
                raise UsageError(f"Nothing waits of batch {name!r}; there is nothing to discard.")
            held.raise_if_cancelled()
            self._parts.discard(plan.parts, reason=reason, by=by)
        self._warehouse.record(
            HistoryEntry(
                action="discard",
                table=spec.name,
                partition=None,
                batch=name,
                consolidation="",
                attempt=0,
                token=None,
                unlocked=False,
                holder=by,
                parts=len(plan.parts),
                rows_staged=plan.rows,
                rows_inserted=0,
                rows_updated=0,
                rows_unchanged=0,
                rows_superseded=0,
                merge_s=0.0,
                verify_s=0.0,
                committed_at=self._clock.utc_now(),
                reason=reason,
            )
        )
        return plan

    def _view(self, spec: TableSpec, name: str, *, ledger_parts: int, exact: bool = True) -> BatchView:
        """Return the batch as staging and the ledger see it.

        A part is retired after the ledger has named it, so a list need not ask the ledger for a batch
        of retired parts; a look at one batch does (``exact``): the warehouse may have been restored.
        """
        parts = self._parts.parts(spec.name, name)
        partitioned = spec.partition is not None
        alive = [part for part in parts if part.state != "discarded"]
        merged: Merged = frozenset()
        if not exact and all(part.state in {"retired", "purged"} for part in alive):
            merged = frozenset(
                (part.part_id, partition)
                for part in alive
                for partition in part.partition_names(partitioned=partitioned)
            )
        elif ledger_parts:
            merged = self._warehouse.merged(spec.name, name)
        waiting = unmerged(alive, merged, partitioned=partitioned)
        done = fully_merged(parts, merged, partitioned=partitioned)
        gone_count = max(ledger_parts - len(done), 0) if not alive else 0
        state: BatchState = "merged"
        if waiting:
            state = "partly_merged" if merged else "staged"
        elif not merged and not ledger_parts:
            state = "discarded"
        stamps = sorted(part.staged_at for part in parts)
        return BatchView(
            table=spec.name,
            batch=name,
            state=state,
            part_count=len(parts) + gone_count,
            parts_merged=len(done) + gone_count,
            rows=sum(part.rows for part in parts),
            first_staged_at=stamps[0] if stamps else None,
            last_staged_at=stamps[-1] if stamps else None,
            parts=tuple(_part_state(part, merged, partitioned=partitioned) for part in parts),
        )


def _part_state(part: PartManifest, merged: Merged, *, partitioned: bool) -> PartState:
    names = part.partition_names(partitioned=partitioned)
    return PartState(
        part,
        tuple(name for name in names if (part.part_id, name) in merged),
        tuple(name for name in names if (part.part_id, name) not in merged),
    )
