"""A store of onerow that tells the incident's lines and keeps to its switch, whoever consolidates with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onerow
from onerow import Store
from predictions.log_lines import LOCK_LOG, install
from predictions.settings import TABLE
from predictions.worker.batch_staging_writer import lock_is_on, tell_outcome

if TYPE_CHECKING:
    from onerow import ConsolidationResult, Settings


class PlatformStore(Store):
    """Consolidates predictions as ``BatchConsolidator`` does; everything else is the store's."""

    def consolidate(self, table: str, batch: str, **asked: Any) -> ConsolidationResult:
        """Merge what waits of a batch into its table, exactly once."""
        if table != TABLE:
            return super().consolidate(table, batch, **asked)
        LOCK_LOG.info("Acquiring consolidation lock of each game date of batch %s", batch)
        use_lock = bool(asked.pop("use_lock", True)) and lock_is_on(batch)
        result = super().consolidate(table, batch, use_lock=use_lock, **asked)
        tell_outcome(result)
        return result


def open_platform_store(settings: Settings) -> PlatformStore:
    """Open the store of a project."""
    install()
    store = onerow.open(settings)
    return PlatformStore(
        ports=store.ports,
        tables=store.tables,
        holder=store.holder,
        keep_merged_s=store.keep_merged_s,
        keep_runs_s=store.keep_runs_s,
    )
