"""The state of batches, under the name of the incident: thin over onerow's register of batches.

What is known of a batch is in the lock store and in staging; nothing is kept here. So any number of coordinators work
on the same batches, each may die at any point, and another one goes on.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.bootstrap import holder_name, open_locks
from onerow.services.coordinator import Coordinator, CoordinatorSettings
from onerow.services.dispatcher import Dispatcher
from onerow.services.registry import BatchRegister
from predictions import settings
from predictions.platform_store import open_platform_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onerow import Store
    from onerow.services.batchstatus import BatchStatus

OVER: Final = frozenset({"done", "cancelled", "incomplete"})
PAUSE_S: Final = 0.05
MAX_TRIES: Final = 3
"""So many failed consolidations are waited for; the batch is tried again all the same, by whoever looks next."""
LASTING: Final = frozenset({"duplicates", "part_misfit", "row_refused"})
"""Failures that somebody has to put right first; they are not waited for."""


class BatchStateManager:
    """Opens batches, knows who has reported, and says what became of them.

    Args:
        coordinator: onerow's, over the project's register.
        dispatcher: does what is due while ``wait`` waits; None: a service's threads do.
    """

    def __init__(self, coordinator: Coordinator, dispatcher: Dispatcher | None = None) -> None:
        self._coordinator = coordinator
        self._dispatcher = dispatcher

    def open_batch(self, batch_id: str, *, expected_workers: int) -> BatchStatus:
        """Open a batch; again with as many workers it is the same batch, opened at the same moment.

        Raises:
            BatchConflictError: it is open with another number of workers.
        """
        return self._coordinator.open(settings.TABLE, batch_id, expected_workers=expected_workers, by=holder_name())

    def mark_part_complete(self, batch_id: str, part_id: str) -> BatchStatus:
        """Say that a worker has staged a part; the last one makes the batch complete.

        Raises:
            PartNotStagedError: there is no such part.
        """
        return self._coordinator.report(settings.TABLE, batch_id, part_id, by=holder_name())

    def workers_complete(self, batch_id: str) -> frozenset[str]:
        """Return the workers whose predictions are staged, or merged already.

        Raises:
            BatchNotFoundError: nobody has opened the batch.
        """
        parts = self._coordinator.status(settings.TABLE, batch_id, with_parts=True).details or ()
        return frozenset(part.worker for part in parts if part.state != "discarded")

    def status(self, batch_id: str) -> BatchStatus:
        """Return what is known of a batch.

        Raises:
            BatchNotFoundError: nobody has opened it.
        """
        return self._coordinator.status(settings.TABLE, batch_id)

    def batches(self, *, state: str | None = None, limit: int = 1_000) -> Sequence[BatchStatus]:
        """Return the batches that the register knows, the latest changed first."""
        return self._coordinator.list(settings.TABLE, state=state, limit=limit)

    def consolidate_again(self, batch_id: str) -> BatchStatus:
        """Have what is there consolidated now, complete or not."""
        return self._coordinator.consolidate(settings.TABLE, batch_id, by=holder_name())

    def wait(self, batch_id: str, timeout_s: float) -> BatchStatus:
        """Wait until a batch is over, has failed a few times, or the time is up; return how it is then."""
        until_s = time.monotonic() + timeout_s
        while True:
            found = self.status(batch_id)
            failed = found.state == "failed" and (found.tries >= MAX_TRIES or found.error_kind in LASTING)
            if found.state in OVER or failed or time.monotonic() >= until_s:
                return found
            if not self._work():
                time.sleep(PAUSE_S)

    def _work(self) -> bool:
        """Do one thing that is due, of whichever batch; return whether there was one."""
        if self._dispatcher is None:
            return False
        claimed = self._dispatcher.tick()
        for work in claimed:
            self._dispatcher.work(work)
        return bool(claimed)


@contextmanager
def open_batch_states(project_id: str) -> Iterator[BatchStateManager]:
    """Have a project's batches at hand without a service: whoever waits for one consolidates.

    For one thread.
    """
    found = settings.settings_of(project_id)
    with settings.open_store(project_id):  # what is missing is made
        pass
    clock, ids = SystemClock(), SystemIds()
    register = open_locks(found.locks, control_schema=found.control_schema)
    store = open_platform_store(found)

    @contextmanager
    def lend() -> Iterator[Store]:
        yield store

    try:
        records = BatchRegister(register, clock=clock, ids=ids)
        rules = CoordinatorSettings(
            deadline_s=found.coordinator.deadline,
            on_deadline=found.coordinator.on_deadline,
            claim_s=found.coordinator.claim,
            keep_batches_s=found.coordinator.keep_batches,
        )
        dispatcher = Dispatcher(
            records=records,
            lend=lend,
            lend_for_work=lend,
            clock=clock,
            ids=ids,
            background=Threads(),
            holder=holder_name(),
            settings=rules,
        )
        yield BatchStateManager(Coordinator(records=records, lend=lend, settings=rules), dispatcher)
    finally:
        store.close()
        register.close()
