"""Staging and consolidation under the names of the incident, thin over onerow.

A worker writes its predictions to staging; a consolidation merges what waits of a batch into
``player_prop_predictions``, newest row first, under the lock of each game date, verified before the commit.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onerow import ConfigurationError, ConsolidationResult, OnerowError, StagedPart
from onerow.ports.warehouse import InspectRequest

try:
    from predictions import settings
except ModuleNotFoundError:  # imported bare, from its own folder
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from predictions import settings
from predictions import journal
from predictions.log_lines import BATCH_LOG, LOCK_LOG, install
from predictions.worker.distributed_lock import MAX_WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from onerow import Store

__all__ = ["BatchConsolidationResult", "BatchConsolidator", "BatchStagingWriter"]


@dataclass(frozen=True)
class BatchConsolidationResult:
    """What became of a consolidation.

    Attributes:
        success: everything that was staged of the batch is in the table.
        rows_affected: rows inserted and updated.
        staging_tables_merged: parts of the batch that this consolidation has merged.
        staging_tables_cleaned: parts that are merged for all their dates and were removed from staging.
        error_message: what went wrong, what was kept and what to do; None if nothing did.
        details: date by date, as onerow tells it; None if nothing was begun.
    """

    batch_id: str
    game_date: str
    success: bool
    rows_affected: int = 0
    staging_tables_merged: int = 0
    staging_tables_cleaned: int = 0
    error_message: str | None = None
    details: ConsolidationResult | None = None


class BatchStagingWriter:
    """Writes a worker's predictions of a batch to staging.

    Args:
        client: the caller's client of BigQuery; None on the embedded default. onerow has connections of its own, so
            it is only looked at: it must be one of ``project_id``.
        project_id: ``local``, a folder, or a project of Google Cloud (see ``predictions.settings``).
        lend: lends a store of the project for one part; None: one is opened for each, and what is missing is made.
    """

    def __init__(
        self, client: object, project_id: str, *, lend: Callable[[], AbstractContextManager[Store]] | None = None
    ) -> None:
        _check_client(client, project_id)
        install()
        self.project_id = project_id
        self._lend = lend or (lambda: settings.open_store(project_id))

    def write_to_staging(self, predictions: object, batch_id: str, worker_id: str) -> StagedPart:
        """Stage predictions as one part, whole or not at all; the same ones again are the same part.

        Args:
            predictions: a list of dictionaries, an Arrow, pandas or polars table, or the path of a file.
            batch_id: what is consolidated together.
            worker_id: who made them.

        Raises:
            PartRefusedError: predictions break the table's contract; names the first ten. Nothing was staged.
        """
        with self._lend() as store:
            part = store.stage(settings.TABLE, predictions, batch=batch_id, worker=worker_id)
        BATCH_LOG.info("Staged %d predictions of %s for batch %s (%s)", part.rows, worker_id, batch_id, part.status)
        return part


class BatchConsolidator:
    """Merges a batch into the table.

    Args:
        client: as for BatchStagingWriter.
        project_id: as for BatchStagingWriter.
    """

    def __init__(self, client: object, project_id: str) -> None:
        _check_client(client, project_id)
        install()
        self.project_id = project_id

    def consolidate_batch(
        self,
        batch_id: str,
        game_date: str,
        cleanup: bool = True,  # noqa: FBT001, FBT002 -- the interface that callers know
        use_lock: bool = True,  # noqa: FBT001, FBT002
    ) -> BatchConsolidationResult:
        """Merge what waits of a batch, exactly once.

        A batch may hold predictions of other dates than ``game_date``. They are merged too, each date under its own
        lock and verified, and told in a warning.

        Args:
            batch_id: the batch.
            game_date: the date that it is for.
            cleanup: remove merged parts from staging; their data stays for a day all the same.
            use_lock: False: without the lock, which wastes work when two do it at once and duplicates nothing.

        Returns:
            Failures are told there, not raised; staging is kept then, so consolidating again loses nothing.
        """
        try:
            if use_lock and lock_is_on(batch_id):
                return self._consolidate_with_lock(batch_id, game_date, cleanup=cleanup)
            return self._consolidate(batch_id, game_date, cleanup=cleanup, use_lock=False)
        except OnerowError as error:
            BATCH_LOG.error("Consolidation of batch %s failed: %s", batch_id, error)
            return BatchConsolidationResult(batch_id, game_date, success=False, error_message=str(error))

    def _consolidate_with_lock(
        self, batch_id: str, game_date: str, *, cleanup: bool = True
    ) -> BatchConsolidationResult:
        """Merge under the lock of each date of the batch.

        Raises:
            OnerowError: the batch was never seen, or staging or the ledger could not be read; nothing was done.
        """
        LOCK_LOG.info("Acquiring consolidation lock consolidation_%s for batch %s", game_date, batch_id)
        return self._consolidate(batch_id, game_date, cleanup=cleanup, use_lock=True)

    def _consolidate(
        self, batch_id: str, game_date: str, *, cleanup: bool, use_lock: bool
    ) -> BatchConsolidationResult:
        with settings.open_store(self.project_id) as store:
            asked = store.locks.scope(f"{settings.TABLE}/{game_date}").partition
            result = journal.consolidate(
                store,
                settings.TABLE,
                batch_id,
                use_lock=use_lock,
                keep_staging=not cleanup,
                max_wait_s=MAX_WAIT_SECONDS,
            )
            parts_merged = _parts_merged(store, result)
        dates = {partition.partition for partition in result.partitions}
        if dates != {asked}:
            others = ", ".join(sorted(filter(None, dates - {asked}))) or "none"
            BATCH_LOG.warning(
                "Batch %s is for %s, which is %s; other dates in it: %s",
                batch_id, asked, "in it" if asked in dates else "not in it", others,
            )  # fmt: skip
        tell_outcome(result)
        return BatchConsolidationResult(
            batch_id,
            game_date,
            success=result.success,
            rows_affected=result.rows_affected,
            staging_tables_merged=parts_merged,
            staging_tables_cleaned=result.parts_removed,
            error_message=result.error,
            details=result,
        )

    def _check_for_duplicates(self, game_date: str) -> int:
        """Return how many business keys of a date have more than one row.

        Raises:
            OnerowError: they could not be counted. That is never 0.
        """
        with settings.open_store(self.project_id) as store:
            partition = store.locks.scope(f"{settings.TABLE}/{game_date}").partition
            request = InspectRequest(store.table(settings.TABLE), partition=partition, against_ledger=False)
            found = store.ports.warehouse.inspect(request)
        for duplicate in found.duplicates:
            BATCH_LOG.error(
                "Duplicate business key in %s: %s has %d rows (%s)",
                game_date, dict(duplicate.key), duplicate.rows, ", ".join(duplicate.ids),
            )  # fmt: skip
        return found.duplicate_keys


def lock_is_on(batch_id: str) -> bool:
    """Say whether a consolidation takes the lock; if somebody has switched it off, loudly.

    Raises:
        ConfigurationError: the switch says neither.
    """
    if settings.lock_enabled():
        return True
    LOCK_LOG.critical(
        "CONSOLIDATION LOCK IS DISABLED by %s: batch %s is consolidated without it. Nothing is "
        "duplicated, but consolidations at once do the same work. Unset it as soon as you can.",
        settings.LOCK_SWITCH, batch_id,
    )  # fmt: skip
    return False


def tell_outcome(result: ConsolidationResult) -> None:
    """Write the line that a team greps for at the end of a consolidation."""
    if result.status == "lock_timeout":
        BATCH_LOG.error("Lock acquisition failed for batch %s: %s", result.batch, result.error)
    elif not result.success:
        BATCH_LOG.error("Consolidation of batch %s failed (%s): %s", result.batch, result.status, result.error)
    else:
        BATCH_LOG.info(
            "Consolidation MERGE complete for batch %s (%s): %d rows affected",
            result.batch, result.status, result.rows_affected,
        )  # fmt: skip


def _parts_merged(store: Store, result: ConsolidationResult) -> int:
    """Count the parts that a consolidation has merged; a part with rows of several dates is one."""
    committed = [partition for partition in result.partitions if partition.status == "committed"]
    if len(committed) <= 1:
        return sum(partition.parts for partition in committed)
    dates = {partition.partition for partition in committed}
    parts = store.batches.batch(store.table(result.table), result.batch).parts
    return sum(1 for part in parts if dates.intersection(part.merged_partitions))


def _check_client(client: object, project_id: str) -> None:
    """Refuse a client of another project: what it is used for would go elsewhere than it says.

    Raises:
        ConfigurationError: it is one.
    """
    project = getattr(client, "project", None)
    if isinstance(project, str) and project != project_id:
        raise ConfigurationError(f"The client is one of the project {project!r}, not of {project_id!r}.")
