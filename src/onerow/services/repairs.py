"""Repair of duplicates: look, move aside partition by partition, bring back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onerow.core.partitions import canonical_partition
from onerow.core.repairs import Repaired, RepairPlan
from onerow.core.results import status_of
from onerow.errors import EXIT_DONE, OnerowError, PlanOutdatedError, gravest
from onerow.ports.warehouse import RepairRequest
from onerow.services.events import emit
from onerow.services.interventions import Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.core.repairs import Intervention, PartitionRepair, RestorePlan
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Ids
    from onerow.ports.warehouse import Warehouse
    from onerow.services.interventions import Interventions
    from onerow.services.leases import HeldLeases

RepairStatus = Literal["repaired", "fenced", "lock_timeout", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class PartitionRepaired:
    """What became of one partition of a repair.

    Attributes:
        keys: keys that stood more than once; ``rows_removed``: rows moved aside; ``renumbered``: in versions mode,
            rows that got another number. All 0 if it failed.
    """

    partition: str | None
    status: RepairStatus
    keys: int = 0
    rows_removed: int = 0
    error: str | None = None
    error_kind: str | None = None
    exit_code: int = EXIT_DONE
    renumbered: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints for a partition."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "exit_code"}


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What became of a repair.

    Attributes:
        run: its identity: in the history, beside the removed rows, and what ``restore`` takes.
    """

    run: str
    table: str
    partitions: tuple[PartitionRepaired, ...] = ()

    @property
    def success(self) -> bool:
        """Whether every partition was repaired."""
        return all(one.status == "repaired" for one in self.partitions)

    @property
    def rows_removed(self) -> int:
        """Rows moved aside, over all partitions."""
        return sum(one.rows_removed for one in self.partitions)

    @property
    def exit_code(self) -> int:
        """The gravest exit code of the partitions."""
        return gravest([one.exit_code for one in self.partitions])

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints."""
        return {
            "run": self.run,
            "table": self.table,
            "rows_removed": self.rows_removed,
            "partitions": [one.to_json() for one in self.partitions],
        }


class Repairer:
    """Plans and does repairs of one warehouse."""

    def __init__(self, *, warehouse: Warehouse, interventions: Interventions, ids: Ids, holder: str) -> None:
        self._warehouse = warehouse
        self._interventions = interventions
        self._ids = ids
        self._holder = holder

    def plan(self, spec: TableSpec, partition: str | None = None, *, limit: int = 20) -> RepairPlan:
        """Find keys that stand more than once, in one partition or in all. Takes no lock, changes nothing."""
        name = None if partition is None else canonical_partition(partition, spec)
        return self._warehouse.plan_repair(RepairRequest(spec, partition=name, limit=limit))

    def check_plan(self, plan: RepairPlan, identity: str) -> None:
        """Check that a plan is the one that a person has seen.

        Raises:
            PlanOutdatedError: it is another one.
        """
        if plan.identity != identity:
            raise PlanOutdatedError(
                f"The duplicates of {plan.table!r} are not those of plan {identity} any more; now it is plan "
                f"{plan.identity}.",
                hint=f"Nothing was changed. Look again with `onerow dedupe --table {plan.table}`.",
            )

    def apply(
        self, spec: TableSpec, plan: RepairPlan, *, reason: str = "", max_wait_s: float | None = None
    ) -> RepairResult:
        """Repair partition by partition, each under its lease; one that fails does not stop the others."""
        run = self._ids.new_id("r")
        done = [
            self._repair_one(Wanted(spec, one.partition, "dedupe", run, self._holder, reason, max_wait_s), one)
            for one in plan.partitions
        ]
        return RepairResult(run, spec.name, tuple(done))

    def _repair_one(self, wanted: Wanted, planned: PartitionRepair) -> PartitionRepaired:
        def repair(one: Intervention, held: HeldLeases) -> Repaired:
            return self._warehouse.repair(one, planned, held)

        def recover(one: Intervention) -> Repaired:
            return Repaired(one.partition, planned.keys, planned.extra_rows, renumbered=planned.renumbered)

        facts = {
            "table": wanted.spec.name,
            "partition": wanted.partition,
            "consolidation": wanted.run,
            "holder": wanted.holder,
        }
        try:
            done = self._interventions.run(wanted, repair, recover=recover)
        except OnerowError as error:
            emit("onerow.repair_failed", kind=error.kind, error=error.message, **facts)
            status = status_of(error)
            return PartitionRepaired(
                wanted.partition,
                status if status in {"fenced", "lock_timeout", "unknown"} else "failed",
                error=str(error),
                error_kind=error.kind,
                exit_code=error.exit_code,
            )
        emit("onerow.duplicates_repaired", keys=done.keys, rows_removed=done.rows_removed, **facts)
        return PartitionRepaired(
            wanted.partition, "repaired", done.keys, done.rows_removed, renumbered=done.renumbered
        )

    def plan_restore(
        self, spec: TableSpec, run: str, key: Mapping[str, str | None], partition: str | None = None
    ) -> RestorePlan:
        """Tell which row would come back and which would go. Takes no lock, changes nothing."""
        return self._warehouse.plan_restore(spec, _partition_of(spec, key, partition), run=run, key=key)

    def restore(
        self,
        spec: TableSpec,
        run: str,
        key: Mapping[str, str | None],
        partition: str | None = None,
        *,
        reason: str = "",
        max_wait_s: float | None = None,
    ) -> tuple[str, Repaired]:
        """Exchange the row of a key with the one that ``run`` removed.

        Returns:
            The identity of this run, by which the exchange can be undone, and what was done.
        """
        name = _partition_of(spec, key, partition)
        wanted = Wanted(spec, name, "restore", self._ids.new_id("r"), self._holder, reason, max_wait_s)

        def exchange(one: Intervention, held: HeldLeases) -> Repaired:
            return self._warehouse.restore(one, run=run, key=key, cancellation=held)

        def recover(one: Intervention) -> Repaired:
            entries = self._warehouse.history(table=spec.name, batch=None, limit=1_000)
            moved = [entry.rows_superseded for entry in entries if entry.consolidation == one.run]
            return Repaired(one.partition, 1, sum(moved), rows_restored=1)

        done = self._interventions.run(wanted, exchange, recover=recover)
        emit(
            "onerow.row_restored",
            table=spec.name,
            partition=name,
            consolidation=wanted.run,
            holder=self._holder,
            rows_removed=done.rows_removed,
        )
        return wanted.run, done


def _partition_of(spec: TableSpec, key: Mapping[str, str | None], partition: str | None) -> str | None:
    """Return the partition of a key, which may name it among its columns."""
    if partition is None and spec.partition is not None:
        partition = key.get(spec.partition)
    return canonical_partition(partition, spec)
