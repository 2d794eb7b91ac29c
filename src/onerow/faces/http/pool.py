"""Stores for the threads of a service: a bounded number, each lent to one thread at a time."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from onerow.bootstrap import open_store
from onerow.errors import LockStoreError, OnerowError, StagingError, WarehouseError
from onerow.faces.http.refusals import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onerow.config import Settings
    from onerow.services.store import Store

BROKEN: Final = (WarehouseError, LockStoreError, StagingError)
"""After these nobody knows whether the connections are still good."""


class StorePool:
    """Stores over one configuration. For many threads.

    A store is opened when it is first needed. One that has failed on a connection, or in a way that
    nobody has foreseen, is closed, and another is opened in its place.

    Args:
        settings: the configuration.
        size: how many stores there are at most.
        opens: opens a store over the settings.
    """

    def __init__(self, settings: Settings, size: int, *, opens: Callable[[Settings], Store] = open_store) -> None:
        self.settings = settings
        self.size = size
        self._opens = opens
        self._idle: list[Store] = []
        self._lent = 0
        self._closed = False
        self._change = threading.Condition()

    @contextmanager
    def store(self, timeout_s: float = 10.0) -> Iterator[Store]:
        """Lend a store until the block ends.

        Raises:
            BusyError: none became free in time.
            OnerowError: it could not be opened.
        """
        store = self._take(timeout_s) or self._open()
        usable = True
        try:
            yield store
        except OnerowError as error:
            usable = not isinstance(error, BROKEN)
            raise
        except BaseException:
            usable = False
            raise
        finally:
            self._give_back(store, usable=usable)

    @property
    def lent(self) -> int:
        """How many stores are in use now."""
        return self._lent

    def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back. No store is lent any more."""
        with self._change:
            self._closed = True
            idle, self._idle = self._idle, []
            self._change.notify_all()
        for store in idle:
            store.close()

    def _take(self, timeout_s: float) -> Store | None:
        """Reserve a place; return an idle store, None if one is to be opened."""
        with self._change:
            if not self._change.wait_for(lambda: self._closed or self._lent < self.size, timeout_s):
                raise BusyError(
                    f"All {self.size} connections to the warehouse have been in use for {timeout_s:g} s.",
                    hint="Come again in a moment. If this lasts, raise stores in [serve].",
                    retry_after_s=2.0,
                )
            if self._closed:
                raise BusyError("The service is stopping.", hint="Come again in a moment.", retry_after_s=5.0)
            self._lent += 1
            return self._idle.pop() if self._idle else None

    def _open(self) -> Store:
        try:
            return self._opens(self.settings)
        except BaseException:
            self._free(None)
            raise

    def _give_back(self, store: Store, *, usable: bool) -> None:
        if not self._free(store if usable else None):
            store.close()

    def _free(self, store: Store | None) -> bool:
        """Let the next one have its turn; return whether ``store`` was kept for it."""
        with self._change:
            self._lent -= 1
            kept = store is not None and not self._closed
            if store is not None and kept:
                self._idle.append(store)
            self._change.notify()
            return kept
