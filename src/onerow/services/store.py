"""The store: one configured warehouse with its tables, and everything a program does with it."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from onerow.core.names import check_name
from onerow.core.partitions import Scope, canonical_partition
from onerow.core.repairs import RepairPlan
from onerow.errors import ConfigurationError, UsageError
from onerow.services.batches import BatchDesk
from onerow.services.checker import check_tables
from onerow.services.consolidator import Consolidator
from onerow.services.group import Request
from onerow.services.interventions import Interventions, Wanted
from onerow.services.locks import LockDesk
from onerow.services.repairs import Repairer
from onerow.services.runs import KEEP_S, RunJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from onerow.core.parts import BadRow, Quarantined, StagedPart
    from onerow.core.results import ConsolidationResult
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock, Ids
    from onerow.ports.lockstore import LockStore
    from onerow.ports.partstore import PartStore
    from onerow.ports.rows import RowSource
    from onerow.ports.warehouse import Estimate, GuardedTransaction, HistoryEntry, Warehouse
    from onerow.services.checker import CheckReport
    from onerow.services.leases import HeldLeases, Leases
    from onerow.services.repairs import RepairResult
    from onerow.services.stager import Stager


Result = TypeVar("Result")


@dataclass(frozen=True)
class Ports:
    """What a store is made of."""

    warehouse: Warehouse
    parts: PartStore
    locks: LockStore
    leases: Leases
    clock: Clock
    ids: Ids
    stager: Stager
    open_source: Callable[[object], RowSource]


class Store:
    """A configured warehouse. Made by ``onerow.open``; a context manager that closes what it opened.

    Not to be shared between threads: open one in each.
    """

    def __init__(
        self,
        *,
        ports: Ports,
        tables: Mapping[str, TableSpec],
        holder: str,
        keep_merged_s: float = 86_400.0,
        keep_runs_s: float = KEEP_S,
    ) -> None:
        self.ports = ports
        self.tables = tables
        self.holder = holder
        self.keep_merged_s = keep_merged_s
        self.keep_runs_s = keep_runs_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and connections."""
        self.ports.warehouse.close()
        self.ports.locks.close()

    def table(self, name: str) -> TableSpec:
        """Return the spec of a configured table.

        Raises:
            ConfigurationError: there is none; near names are told.
        """
        spec = self.tables.get(name)
        if spec is None:
            near = difflib.get_close_matches(name, list(self.tables), n=3)
            raise ConfigurationError(
                f"No table {name!r} is configured.",
                hint=f"Did you mean {' or '.join(map(repr, near))}?"
                if near
                else f"Configured are: {', '.join(map(repr, self.tables)) or 'none'}.",
            )
        return spec

    def init(self, *, adopt_locks: bool = False) -> Sequence[str]:
        """Create what is missing in the warehouse.

        Returns:
            What was created, as lines; empty when everything was there. Idempotent.
        """
        return self.ports.warehouse.install(
            list(self.tables.values()), lock_store=self.ports.locks.identity(), adopt_locks=adopt_locks
        )

    def stage(self, table: str, rows: object, *, batch: str, worker: str = "worker") -> StagedPart:
        """Stage rows as one part of a batch.

        Args:
            table: its name in the configuration.
            rows: a path (CSV, NDJSON, Parquet, Arrow; .gz, .zst), a list of dictionaries, or an Arrow, pandas
                or polars table.
            batch: what is consolidated together.
            worker: who hands them in; the same rows of the same worker again are the same part.

        Guarantee: atomic, durable and idempotent.

        Raises:
            PartRefusedError: rows break the table's contract; nothing was staged. Where the table says
                ``on_bad_row = "quarantine"``, such rows are put aside and counted in the result instead.
        """
        spec = self.table(table)
        return self.ports.stager.stage(spec, self.ports.open_source(rows), batch=batch, worker=worker)

    def estimate(self, table: str, partitions: Sequence[str | None]) -> Estimate | None:
        """Say what a merge into these partitions would read, by canonical name; None where the engine does not tell.

        Nothing runs, and nothing is charged.
        """
        return self.ports.warehouse.estimate(self.table(table), partitions)

    def quarantined(self, table: str | None = None) -> list[Quarantined]:
        """Return the rows that were put aside, of one table or of all: one entry for each source."""
        names = list(self.tables) if table is None else [self.table(table).name]
        return [entry for name in names for entry in self.ports.parts.quarantined(name)]

    def quarantined_rows(self, quarantine_id: str) -> tuple[Quarantined, Iterator[BadRow]]:
        """Return an entry and its rows, by position.

        Raises:
            UsageError: there is no such entry.
            StagingError: the rows cannot be read.
        """
        for entry in self.quarantined():
            if entry.quarantine_id == quarantine_id:
                return entry, self.ports.parts.quarantined_rows(entry.table, quarantine_id)
        raise UsageError(
            f"There is no quarantine entry {quarantine_id!r}.", hint="`onerow quarantine list` names them."
        )

    def consolidate(
        self,
        table: str,
        batch: str,
        *,
        partitions: Sequence[str] | None = None,
        max_wait_s: float | None = None,
        use_lock: bool = True,
        keep_staging: bool = False,
        on_group: Callable[[int, int], None] | None = None,
    ) -> ConsolidationResult:
        """Merge what waits of a batch into its table, exactly once.

        Returns:
            What became of each partition; failures are told there, not raised.

        Raises:
            BatchNotFoundError: the batch was never seen.
        """
        spec = self.table(table)
        check_name(batch, "batch")
        ports = self.ports
        consolidator = Consolidator(
            warehouse=ports.warehouse,
            parts=ports.parts,
            leases=ports.leases,
            clock=ports.clock,
            ids=ports.ids,
            on_group=on_group,
        )
        return consolidator.consolidate(
            Request(
                spec=spec,
                batch=batch,
                holder=self.holder,
                partitions=None if partitions is None else tuple(partitions),
                max_wait_s=max_wait_s,
                use_lock=use_lock,
                keep_staging=keep_staging,
                keep_merged_s=self.keep_merged_s,
            )
        )

    @contextmanager
    def lock(
        self, table: str, partition: str | None = None, *, batch: str = "", max_wait_s: float | None = None
    ) -> Iterator[HeldLeases]:
        """Hold the lock of a table's partition, renewed in the background, until the block ends.

        Raises:
            LockAcquisitionError: it was not had in time.
        """
        spec = self.table(table)
        scope = Scope(spec.name, canonical_partition(partition, spec))
        with self.ports.leases.hold([scope], holder=self.holder, batch=batch, max_wait_s=max_wait_s) as held:
            yield held

    def check(
        self,
        table: str | None = None,
        *,
        partition: str | None = None,
        since: str | None = None,
        limit: int = 20,
    ) -> list[CheckReport]:
        """Check one table or all for duplicates, broken row checks and rows the ledger does not explain."""
        specs = list(self.tables.values()) if table is None else [self.table(table)]
        return check_tables(self.ports.warehouse, specs, partition=partition, since=since, limit=limit)

    def plan_repair(self, table: str, partition: str | None = None, *, limit: int = 20) -> RepairPlan:
        """Find keys that stand more than once, with what made them so. Takes no lock, changes nothing.

        Args:
            table: its name in the configuration.
            partition: only this one.
            limit: how many keys to name.
        """
        return self.repairs.plan(self.table(table), partition, limit=limit)

    def repair(
        self,
        table: str,
        partition: str | None = None,
        *,
        plan: RepairPlan | str | None = None,
        reason: str = "",
        max_wait_s: float | None = None,
    ) -> RepairResult:
        """Keep the newest row of each key and move the others to ``<target>_removed_duplicates``.

        Args:
            table: its name in the configuration.
            partition: only this one.
            plan: what ``plan_repair`` has returned, or its identity; None: whatever stands more than once now.
            reason: a person's words, kept beside the removed rows and in the history.
            max_wait_s: the longest wait for each partition's lock.

        Returns:
            What became of each partition; failures are told there, not raised.

        Raises:
            PlanOutdatedError: the identity is that of another plan; nothing was changed.
        """
        spec = self.table(table)
        found = plan if isinstance(plan, RepairPlan) else self.repairs.plan(spec, partition)
        if isinstance(plan, str):
            self.repairs.check_plan(found, plan)
        if found.table != spec.name:
            raise UsageError(f"The plan is for the table {found.table!r}, not for {spec.name!r}.")
        return self.repairs.apply(spec, found, reason=reason, max_wait_s=max_wait_s)

    def restore(
        self,
        table: str,
        run: str,
        key: Mapping[str, str | None],
        partition: str | None = None,
        *,
        reason: str = "",
        max_wait_s: float | None = None,
    ) -> str:
        """Exchange the row of a key with the one that ``run`` moved aside.

        Args:
            table: its name in the configuration.
            run: identity of the repair, as in its result and in the history.
            key: the business key, values as text; None is NULL. It may name the partition.
            partition: the partition, if the key does not name it.
            reason: a person's words, kept beside the row that goes and in the history.
            max_wait_s: the longest wait for the lock.

        Returns:
            The identity of this exchange; restoring by it changes the rows back.

        Raises:
            UsageError: ``run`` has moved no row of that key aside.
        """
        restored_by, _ = self.repairs.restore(
            self.table(table), run, key, partition, reason=reason, max_wait_s=max_wait_s
        )
        return restored_by

    @contextmanager
    def guarded(
        self, table: str, partition: str | None = None, *, reason: str = "", max_wait_s: float | None = None
    ) -> Iterator[GuardedTransaction]:
        """Run your own statements in one transaction under the lock, the guard and the fencing token.

            with store.guarded("predictions", "2026-01-17", reason="backfill") as tx:
                tx.execute(f"delete from {tx.target} where ...")
                tx.execute(f"insert into {tx.target} ...")

        It commits at the end of the block if every key of the partition has one row and the lease is still held; an
        exception rolls everything back. Only the partition that is named is locked and verified: do not write others.

        Raises:
            ConflictError: it lost against another transaction, nothing was committed; run the block again, or use
                ``run_guarded``.
            DuplicatesError: a key would stand more than once; rolled back.
            LockAcquisitionError, LeaseLostError: not locked in time, or not any more; nothing was committed.
            OutcomeUnknownError: nobody can tell whether it has committed.
        """
        with self._interventions.block(self._guarded(table, partition, reason, max_wait_s)) as transaction:
            yield transaction

    def run_guarded(
        self,
        table: str,
        partition: str | None,
        work: Callable[[GuardedTransaction], Result],
        *,
        reason: str = "",
        max_wait_s: float | None = None,
    ) -> Result:
        """Call ``work`` with a guarded transaction, again from the top when it lost against another one.

        Returns:
            What the call that was committed has returned.

        Raises:
            RetriesExhaustedError: every attempt lost.
            As ``guarded``.
        """
        return self._interventions.run_guarded(self._guarded(table, partition, reason, max_wait_s), work)

    def _guarded(self, table: str, partition: str | None, reason: str, max_wait_s: float | None) -> Wanted:
        spec = self.table(table)
        name = canonical_partition(partition, spec)
        return Wanted(spec, name, "guarded", self.ports.ids.new_id("g"), self.holder, reason, max_wait_s)

    @property
    def _interventions(self) -> Interventions:
        ports = self.ports
        return Interventions(warehouse=ports.warehouse, leases=ports.leases, clock=ports.clock, ids=ports.ids)

    @property
    def repairs(self) -> Repairer:
        """Repair of duplicates: plans, and what they do."""
        ports = self.ports
        return Repairer(
            warehouse=ports.warehouse, interventions=self._interventions, ids=ports.ids, holder=self.holder
        )

    def history(
        self, table: str | None = None, *, batch: str | None = None, limit: int = 50
    ) -> Sequence[HistoryEntry]:
        """Return what was committed, newest first."""
        name = None if table is None else self.table(table).name
        return self.ports.warehouse.history(table=name, batch=batch, limit=limit)

    @property
    def locks(self) -> LockDesk:
        """The on-call person's view of the locks."""
        return LockDesk(store=self.ports.locks, warehouse=self.ports.warehouse, tables=self.tables)

    @property
    def runs(self) -> RunJournal:
        """The journal of consolidations, also of those that have failed."""
        return RunJournal(self.ports.locks, keep_s=self.keep_runs_s)

    @property
    def batches(self) -> BatchDesk:
        """Batches: what waits, what was merged."""
        ports = self.ports
        return BatchDesk(
            warehouse=ports.warehouse, parts=ports.parts, leases=ports.leases, clock=ports.clock
        )
