"""What pages and JSON both ask for, of one process: the overview, one consolidation, duplicates looked for now."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Depends, Request

from onerow.core.names import check_name
from onerow.core.partitions import canonical_partition
from onerow.errors import UsageError
from onerow.faces.http.refusals import BusyError, NotFoundError
from onerow.services.events import emit
from onerow.services.lastchecks import LastChecks
from onerow.services.overview.lookout import Lookout
from onerow.services.overview.model import Limits
from onerow.services.overview.sights import iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from onerow.config import Settings
    from onerow.core.spec import TableSpec
    from onerow.faces.http.security import Caller
    from onerow.ports.clock import Clock
    from onerow.ports.warehouse import HistoryEntry
    from onerow.services.batches import BatchView
    from onerow.services.batchstatus import BatchStatus
    from onerow.services.checker import CheckReport
    from onerow.services.coordinator import Coordinator
    from onerow.services.locks import ForceRelease
    from onerow.services.overview.model import Overview
    from onerow.services.runs import RunEntry
    from onerow.services.store import Store

LOOK_AGAIN_S: Final = 15.0
MAX_KEYS: Final = 200
MAX_LOOKS: Final = 50
MAX_HISTORY: Final = 200


@dataclass(frozen=True, slots=True)
class TableLook:
    """What a look at a table itself has found.

    Attributes:
        looked_at: when, UTC.
    """

    report: CheckReport
    looked_at: str


class Desk:
    """One for a process. Safe between threads.

    Args:
        settings: the configuration.
        clock: for ages, and what pages tell as now.
        looks: lends a store for the overview, to one thread at a time; it does not wait long for a busy warehouse.
        lend: lends a store to the thread that calls, as a pool does, for everything else.
        coordinator: the one that does what a person asks for.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        looks: Callable[[], AbstractContextManager[Store]],
        lend: Callable[[], AbstractContextManager[Store]],
        coordinator: Callable[[], Coordinator],
    ) -> None:
        self.settings = settings
        self.clock = clock
        said = settings.monitor
        self.limits = Limits(
            check_every_s=said.check_every,
            since_s=said.since,
            lock_wait_s=said.lock_wait,
            consolidation_s=said.consolidation,
            lock_held_s=said.lock_held,
            staged_s=said.staged,
        )
        self.lookout = Lookout(tuple(settings.tables), self.limits, clock, looks)
        self._lend = lend
        self._coordinator = coordinator
        self._looks: dict[tuple[str, str | None], tuple[float, TableLook]] = {}
        self._looking = threading.Lock()

    def overview(self) -> Overview:
        """Return the overview, as fresh as its sections allow."""
        return self.lookout.look()

    def table(self, name: str) -> TableSpec:
        """Return the spec of a table that a request names.

        Raises:
            UsageError: it is no name.
            NotFoundError: there is no such table.
        """
        spec = self.settings.tables.get(check_name(name, "table"))
        if spec is None:
            raise NotFoundError(f"No table {name!r} is configured.")
        return spec

    def run(self, consolidation: str) -> RunEntry:
        """Return what the journal has of a consolidation.

        Raises:
            NotFoundError: it has nothing, or nothing any more.
        """
        known = self.lookout.run(consolidation)
        if known is None:
            with self._lend() as store:
                known = store.runs.find(consolidation)
        if known is None:
            raise NotFoundError(
                f"The journal has no consolidation {consolidation!r}.",
                hint="It keeps them for some days; `onerow history` has what was committed.",
            )
        return known

    def batch(self, table: str, batch: str) -> tuple[BatchView, Sequence[HistoryEntry]]:
        """Return a batch with its parts, and what was committed of it.

        Raises:
            BatchNotFoundError: nobody has seen it.
        """
        with self._lend() as store:
            view = store.batches.batch(self.table(table), check_name(batch, "batch"))
            return view, store.history(table, batch=batch, limit=MAX_HISTORY)

    def duplicates(self, table: str, partition: str | None) -> TableLook:
        """Look at a table itself, or at one of its partitions; one look at a time, and none twice in a short while.

        Raises:
            BusyError: another look is going on.
            NotFoundError, UsageError: there is no such table, or it has no such partition.
        """
        spec = self.table(table)
        name = None if partition is None else canonical_partition(partition, spec)
        with self._turn():
            at_s, before = self._looks.get((table, name), (0.0, None))
            now_s = self.clock.monotonic_s()
            if before is not None and now_s - at_s < LOOK_AGAIN_S:
                return before
            with self._lend() as store:
                report = store.check(table, partition=name, limit=MAX_KEYS)[0]
                if name is None:
                    LastChecks(store.ports.locks).record(report)
                    self.lookout.forget("checks")
            look = TableLook(report, iso(self.clock.utc_now()))
            if len(self._looks) >= MAX_LOOKS:
                self._looks.clear()
            self._looks[table, name] = (self.clock.monotonic_s(), look)
            return look

    def force_release(self, scope: str, *, reason: str, force: bool, caller: Caller) -> ForceRelease:
        """Take a lock away; the audit names the caller's token and this service."""
        with self._lend() as store:
            done = store.locks.force_release(
                scope, reason=reason, by=f"{caller.name} via {store.holder}", force=force
            )
        self.lookout.forget("locks", "incidents")
        return done

    def consolidate_again(self, table: str, batch: str, *, reason: str, caller: Caller) -> BatchStatus:
        """Have what waits of a batch consolidated by a coordinator, whatever is still missing of it.

        Raises:
            UsageError: there is no reason.
        """
        if not reason.strip():
            raise UsageError("To consolidate again needs a reason; it is kept in the log.")
        spec = self.table(table)
        status = self._coordinator().consolidate(spec.name, check_name(batch, "batch"), by=caller.name)
        emit("onerow.consolidation_asked", table=spec.name, batch=batch, by=caller.name, reason=reason)
        self.lookout.forget("batches", "runs")
        return status

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._looking.acquire(timeout=1.0):
            raise BusyError("Another look at a table is going on.", hint="Try again in a moment.", retry_after_s=5.0)
        try:
            yield
        finally:
            self._looking.release()


def desk_of(request: Request) -> Desk:
    """Return the desk of the service that a request has reached."""
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(desk_of)]
