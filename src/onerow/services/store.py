"""The store: one configured warehouse with its tables, and everything a program does with it."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from onerow.core.names import check_name
from onerow.core.partitions import Scope, canonical_partition
from onerow.errors import ConfigurationError, UsageError
from onerow.services.batches import BatchDesk
from onerow.services.checker import check_tables
from onerow.services.consolidator import Consolidator
from onerow.services.group import Request
from onerow.services.locks import LockDesk

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
    from onerow.ports.warehouse import HistoryEntry, Warehouse
    from onerow.services.checker import CheckReport
    from onerow.services.leases import HeldLeases, Leases
    from onerow.services.stager import Stager


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
        self, *, ports: Ports, tables: Mapping[str, TableSpec], holder: str, keep_merged_s: float = 86_400.0
    ) -> None:
        self.ports = ports
        self.tables = tables
        self.holder = holder
        self.keep_merged_s = keep_merged_s

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
    def batches(self) -> BatchDesk:
        """Batches: what waits, what was merged."""
        ports = self.ports
        return BatchDesk(
            warehouse=ports.warehouse, parts=ports.parts, leases=ports.leases, clock=ports.clock
        )
