"""The coordinator: batches that are opened, reported, sealed and consolidated when they are complete.

What may become of a batch is decided in ``core.batchrecords``; here are the requests of people and programs. What is
due is found and done by ``services.dispatcher``. A coordinator keeps nothing in memory that matters: any number of them
work on one register, and any of them may die at any point.

**The parts store is the truth about which parts exist.** A report only says "look now"; a worker that dies between
staging and reporting loses nothing, because open batches are looked at anyhow.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onerow.core import batchrecords as core
from onerow.core.batchnotes import is_repeated, remembering
from onerow.core.batchrecords import MICROSECONDS, BatchRecord, Defaults, Expected, Seen
from onerow.core.names import check_name
from onerow.core.plans import unmerged
from onerow.errors import PartNotStagedError, UsageError
from onerow.services.batchstatus import BatchStatus, status_of
from onerow.services.registry import Name, not_found
from onerow.services.sharing import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from onerow.core.batchrecords import OnDeadline
    from onerow.core.parts import PartManifest
    from onerow.services.registry import BatchRegister
    from onerow.services.store import Store

    Lend = Callable[[], AbstractContextManager[Store]]
    Decide = Callable[[BatchRecord | None, int], BatchRecord]


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """How a coordinator works.

    Attributes:
        deadline_s, on_deadline: of batches that are opened without.
        claim_s: a coordinator that is not heard of for so long loses its claim.
        keep_batches_s: how long finished batches stay in the register.
        look_at_all_s: how often every record is looked at, not only those that the index names.
        max_wait_s: the longest wait of a consolidation for a lock; None: the lease settings'.
    """

    deadline_s: float = 3_600.0
    on_deadline: OnDeadline = "consolidate"
    claim_s: float = 30.0
    keep_batches_s: float = 604_800.0
    look_at_all_s: float = 600.0
    max_wait_s: float | None = None


class Coordinator:
    """Answers requests. Safe to use from several threads.

    Args:
        records: the register's records of batches.
        lend: gives a store to one thread for a moment, to look at staging.
        settings: what holds where a request says nothing.
    """

    def __init__(self, *, records: BatchRegister, lend: Lend, settings: CoordinatorSettings | None = None) -> None:
        self.settings = settings or CoordinatorSettings()
        self._records = records
        self._lend = lend
        self._shared_look = Shared(self._look_now)

    def open(
        self,
        table: str,
        batch: str,
        *,
        expected_parts: int | None = None,
        expected_workers: int | None = None,
        deadline_s: float | None = None,
        on_deadline: OnDeadline | None = None,
        by: str = "",
        idempotency_key: str | None = None,
    ) -> BatchStatus:
        """Open a batch; again with the same expectations it is the same batch.

        Raises:
            BatchConflictError: it is open with other expectations; both are named.
            ConfigurationError: there is no such table.
        """
        name = self._name(table, batch)
        expected = Expected(expected_parts, expected_workers, deadline_s, on_deadline)
        seen, _ = self._look(name)  # parts may have come before

        def decide(record: BatchRecord | None, now_us: int) -> BatchRecord:
            after = core.opened(
                record, table=table, batch=batch, expected=expected, defaults=self._defaults, by=by, now_us=now_us
            )
            return core.observed(after, seen, now_us)

        return self._request(name, decide, "open", idempotency_key, expected=str(expected))

    def report(
        self, table: str, batch: str, part_id: str, *, by: str = "", idempotency_key: str | None = None
    ) -> BatchStatus:
        """Say that a part is staged: the batch is looked at now. It is opened, expecting nothing, if nobody has.

        Raises:
            PartNotStagedError: there is no such part in staging.
            BatchConflictError: the batch is cancelled.
        """
        name = self._name(table, batch)
        seen, parts = self._look(name)
        if not any(part.part_id == part_id and part.state != "discarded" for part in parts):
            raise PartNotStagedError(
                f"There is no part {part_id!r} of batch {batch!r} in the staging of table {table!r}.",
                hint="Nothing was changed. Stage the rows first; a report only says that they are there.",
            )

        def decide(record: BatchRecord | None, now_us: int) -> BatchRecord:
            return core.reported(record or self._found(name, by, now_us), seen, now_us)

        return self._request(name, decide, "report", idempotency_key, part=part_id)

    def seal(self, table: str, batch: str, *, by: str = "", idempotency_key: str | None = None) -> BatchStatus:
        """Say that nothing more comes: what is there is consolidated.

        Raises:
            BatchNotFoundError: nobody has opened it and nothing of it is staged.
            BatchConflictError: the batch is cancelled.
        """
        name = self._name(table, batch)
        seen, _ = self._look(name)

        def decide(record: BatchRecord | None, now_us: int) -> BatchRecord:
            return core.sealed(self._known(record, name, seen, by, now_us), seen, now_us)

        return self._request(name, decide, "seal", idempotency_key)

    def consolidate(self, table: str, batch: str, *, by: str = "", idempotency_key: str | None = None) -> BatchStatus:
        """Have what is there consolidated now, complete or not; a failed batch is tried again at once.

        Raises:
            BatchNotFoundError: nobody has opened it and nothing of it is staged.
            BatchConflictError: the batch is cancelled.
        """
        name = self._name(table, batch)
        known, _ = self._records.read(name)
        seen, _ = self._look(name, ask_ledger=known is None or known.state == "done")

        def decide(record: BatchRecord | None, now_us: int) -> BatchRecord:
            return core.asked(self._known(record, name, seen, by, now_us), seen, now_us)

        return self._request(name, decide, "consolidate", idempotency_key)

    def cancel(
        self, table: str, batch: str, *, reason: str, by: str = "", idempotency_key: str | None = None
    ) -> BatchStatus:
        """Have a batch left alone. Its staging is kept; ``onerow batches discard`` gives the parts up.

        Raises:
            BatchNotFoundError: nobody has opened it.
            BatchConflictError: it is done, or being consolidated right now.
        """
        name = self._name(table, batch)

        def decide(record: BatchRecord | None, now_us: int) -> BatchRecord:
            if record is None:
                raise not_found(name)
            return core.cancelled(record, by=by, reason=reason, now_us=now_us)

        return self._request(name, decide, "cancel", idempotency_key, reason=reason)

    def status(self, table: str, batch: str, *, with_parts: bool = False) -> BatchStatus:
        """Return what is known of a batch.

        Raises:
            BatchNotFoundError: nobody has opened it, and no part of it was reported.
        """
        name = self._name(table, batch)
        record, now_us = self._records.read(name)
        if record is None:
            raise not_found(name)
        return status_of(record, now_us, parts=self._look(name)[1] if with_parts else None)

    def list(self, table: str | None = None, *, state: str | None = None, limit: int = 100) -> Sequence[BatchStatus]:
        """Return the batches that the register knows, the latest changed first.

        Raises:
            UsageError: there is no such state.
        """
        if state is not None and state not in core.STATES:
            raise UsageError(f"{state!r} is no state of a batch.", hint=f"These are: {', '.join(core.STATES)}.")
        found = [
            (record, entry.now_us)
            for entry, record in self._records.readable(self._records.entries(table))
            if state in (None, record.state)
        ]
        found.sort(key=lambda pair: pair[0].changed_us, reverse=True)
        return [status_of(record, now_us) for record, now_us in found[:limit]]

    # --- inside ----------------------------------------------------------------------------

    @property
    def _defaults(self) -> Defaults:
        return Defaults(round(self.settings.deadline_s * MICROSECONDS), self.settings.on_deadline)

    def _name(self, table: str, batch: str) -> Name:
        return Name(check_name(table, "table"), check_name(batch, "batch"))

    def _found(self, name: Name, by: str, now_us: int) -> BatchRecord:
        return core.found(table=name.table, batch=name.batch, defaults=self._defaults, by=by, now_us=now_us)

    def _known(self, record: BatchRecord | None, name: Name, seen: Seen, by: str, now_us: int) -> BatchRecord:
        """Return the record; that of a batch which only staging knows, if there is none."""
        if record is None and not seen.parts:
            raise not_found(name)
        return record or self._found(name, by, now_us)

    def _request(
        self, name: Name, decide: Decide, what: str, idempotency_key: str | None, **said: str
    ) -> BatchStatus:
        """Change a record as ``decide`` says, once for each idempotency key."""
        if idempotency_key is None:
            decide_once = decide
        else:
            key = check_name(idempotency_key, "idempotency key")
            text = json.dumps([what, *sorted(said.items())])
            fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

            def decide_once(record: BatchRecord | None, now_us: int) -> BatchRecord:
                if record is not None and is_repeated(record, key, fingerprint):
                    return record
                return remembering(decide(record, now_us), key, fingerprint)

        before, after, now_us = self._records.change(name, decide_once)
        return status_of(after, now_us, created=before is None)

    def _look(self, name: Name, *, ask_ledger: bool = False) -> tuple[Seen, Sequence[PartManifest]]:
        """Look at a batch's parts; of many who ask at once, as workers that report do, one looks for all."""
        if not ask_ledger:
            return self._shared_look(name)
        with self._lend() as store:
            return look(store, name, ask_ledger=True)

    def _look_now(self, name: Name) -> tuple[Seen, Sequence[PartManifest]]:
        with self._lend() as store:
            return look(store, name)


def look(store: Store, name: Name, *, ask_ledger: bool = False) -> tuple[Seen, Sequence[PartManifest]]:
    """Look at the parts of a batch.

    Args:
        store: where to look.
        name: the batch.
        ask_ledger: whether to ask the ledger which parts are merged; else those that staging has not retired wait,
            which is true but for a moment, and needs no look at the warehouse.
    """
    spec = store.table(name.table)
    parts = store.ports.parts.parts(spec.name, name.batch)
    alive = [part for part in parts if part.state != "discarded"]
    waiting = {part.part_id for part in alive if part.state == "staged"}
    if ask_ledger and alive:
        merged = store.ports.warehouse.merged(spec.name, name.batch)
        left = unmerged(alive, merged, partitioned=spec.partition is not None)
        waiting = {part.part_id for found in left.values() for part in found}
    workers = {part.worker for part in alive}
    return Seen(len(alive), len(workers), len(waiting), sum(part.rows for part in alive)), parts
