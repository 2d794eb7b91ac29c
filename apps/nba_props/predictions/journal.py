"""Consolidating with an entry in onerow's journal, as its own services and commands do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onerow import ConsolidationResult, Store

VIA: Final = "app"


def consolidate(store: Store, table: str, batch: str, **options: Any) -> ConsolidationResult:
    """Merge what waits of a batch, and write down what came of it: lock waits, failures and durations are judged by it.

    Args:
        store: a project's store.
        table: its name in the configuration.
        batch: the batch.
        options: those of ``Store.consolidate``.

    Raises:
        OnerowError: as ``Store.consolidate``. A journal that cannot be written is told as an event, and no error.
    """
    began_s = time.monotonic()
    result = store.consolidate(table, batch, **options)
    store.runs.record(result, elapsed_s=time.monotonic() - began_s, holder=store.holder, via=VIA)
    return result
