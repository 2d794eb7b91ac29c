"""The lock of the incident: one lease per game date, the document ``consolidation_locks/consolidation_<game_date>``.

The lease lasts 300 s and is renewed every 10 s while it is held, by the lock store's clock. A waiter is woken when the
lock becomes free; 60 times 5 s is the longest that it waits. On the embedded default the leases are in a SQLite file.

The lock keeps two consolidations from doing the same work. What keeps the table right is in the warehouse.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onerow import ForceRelease, HeldLeases, LockAcquisitionError, UsageError
from onerow.errors import HolderAliveError

try:
    from predictions import settings
except ModuleNotFoundError:  # imported bare, from its own folder
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from predictions import settings
from predictions.log_lines import LOCK_LOG, install

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "LOCK_TIMEOUT_SECONDS",
    "MAX_RETRIES",
    "MAX_WAIT_SECONDS",
    "RETRY_DELAY_SECONDS",
    "ConsolidationLock",
    "LockAcquisitionError",
]

LOCK_TIMEOUT_SECONDS: Final = 300
MAX_RETRIES: Final = 60
RETRY_DELAY_SECONDS: Final = 5
MAX_WAIT_SECONDS: Final = MAX_RETRIES * RETRY_DELAY_SECONDS
"""The longest wait. There are no retries: a waiter is woken."""


class ConsolidationLock:
    """The lock of a project's game dates. Each date has its own; each acquisition has an owner of its own.

    Args:
        project_id: ``local``, a folder, or a project of Google Cloud (see ``predictions.settings``).
    """

    def __init__(self, project_id: str) -> None:
        install()
        self.project_id = project_id

    @contextmanager
    def acquire(
        self, game_date: str, batch_id: str, max_wait_seconds: float = MAX_WAIT_SECONDS
    ) -> Iterator[HeldLeases]:
        """Hold the lock of a date until the block ends.

        Raises:
            LockAcquisitionError: it was not had in time; says who holds it.
            UsageError: that is no date.
        """
        LOCK_LOG.info("Acquiring consolidation lock consolidation_%s for batch %s", game_date, batch_id)
        with (
            settings.open_store(self.project_id) as store,
            store.lock(settings.TABLE, game_date, batch=batch_id, max_wait_s=max_wait_seconds) as held,
        ):
            yield held

    def force_release(
        self, game_date: str, *, reason: str = "force_release", force: bool = True
    ) -> ForceRelease | None:
        """Take the lock of a date from whoever holds it: whatever it believes, it cannot commit any more.

        Args:
            game_date: the date.
            reason: kept in the audit.
            force: also from a holder whose renewals are fresh, which is alive.

        Returns:
            Who held it, and whether the fence in the warehouse was raised; None: nobody holds it, nothing was done.

        Raises:
            HolderAliveError: the holder is alive and ``force`` is not set.
            LockStoreError: the lock could not be changed; nothing was done.
        """
        with settings.open_store(self.project_id) as store:
            scope = str(store.locks.scope(f"{settings.TABLE}/{game_date}"))
            try:
                released = store.locks.force_release(scope, reason=reason, by=store.holder, force=force)
            except HolderAliveError:
                raise
            except UsageError as error:
                LOCK_LOG.info("Nothing to release: %s", error.message)
                return None
        LOCK_LOG.warning(
            "Force-released consolidation lock consolidation_%s of %s, batch %s: %s",
            game_date, released.before.holder, released.before.batch, reason,
        )  # fmt: skip
        if released.fence_error is not None:
            LOCK_LOG.error("The old holder is not fenced out yet, release again: %s", released.fence_error)
        return released
