"""The names of the system that onerow grew out of, thin over the store.

``BatchStagingWriter`` and ``BatchConsolidator`` each serve one table, ``ConsolidationLock`` its partitions.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from onerow.core.partitions import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onerow.core.parts import StagedPart
    from onerow.core.results import ConsolidationResult
    from onerow.services.leases import HeldLeases
    from onerow.services.locks import ForceRelease
    from onerow.services.store import Store


class BatchStagingWriter:
    """Writes a worker's rows of a batch to staging."""

    def __init__(self, store: Store, table: str) -> None:
        self._store = store
        self._table = table

    def write_to_staging(self, rows: object, batch_id: str, worker_id: str) -> StagedPart:
        """Stage ``rows`` as one part; the same rows of the same worker again are the same part."""
        return self._store.stage(self._table, rows, batch=batch_id, worker=worker_id)


class BatchConsolidator:
    """Merges a batch into its table under the lock, verified before the commit."""

    def __init__(self, store: Store, table: str) -> None:
        self._store = store
        self._table = table

    def consolidate_batch(
        self, batch_id: str, partition: str | None = None, *, cleanup: bool = True, use_lock: bool = True
    ) -> ConsolidationResult:
        """Merge what waits of the batch; of one partition, or of all."""
        return self._store.consolidate(
            self._table,
            batch_id,
            partitions=None if partition is None else [partition],
            use_lock=use_lock,
            keep_staging=not cleanup,
        )


class ConsolidationLock:
    """The lock of a table's partitions."""

    def __init__(self, store: Store, table: str) -> None:
        self._store = store
        self._table = table

    @contextmanager
    def acquire(
        self, partition: str | None = None, batch_id: str = "", max_wait_seconds: float = 300.0
    ) -> Iterator[HeldLeases]:
        """Hold the lock until the block ends.

        Raises:
            LockAcquisitionError: it was not had in time.
        """
        with self._store.lock(self._table, partition, batch=batch_id, max_wait_s=max_wait_seconds) as held:
            yield held

    def force_release(self, partition: str | None = None, *, reason: str, force: bool = True) -> ForceRelease:
        """Take the lock away from whoever holds it; it cannot commit any more."""
        scope = str(Scope(self._table, partition))
        return self._store.locks.force_release(scope, reason=reason, by=self._store.holder, force=force)
