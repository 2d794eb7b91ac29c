"""Transactions of ours on a server: the settings that bound them, who keeps them waiting, what their errors mean."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import psycopg

from onerow.adapters.postgresql.connection import application_name, begin, milliseconds, rollback
from onerow.adapters.postgresql.sqlstate import classify, map_error
from onerow.adapters.warehouse.postgresql.lookout import Lookout
from onerow.errors import WarehouseBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onerow.adapters.postgresql.connection import Connection, Server

STATEMENT_LEASES: Final = 20
"""A statement, and on PostgreSQL 17 or newer a transaction, may take so many leases: healthy holders renew theirs."""
HAS_TRANSACTION_TIMEOUT: Final = 170_000


class Sessions:
    """Begins transactions on a server.

    Args:
        lease_s: how long a lease lasts: a process that is frozen in its transaction is out after it.
        busy_timeout_s: how long to wait for a lock of somebody else.
    """

    def __init__(self, server: Server, *, lease_s: float, busy_timeout_s: float) -> None:
        self.server = server
        self._lease_s = lease_s
        self._busy_timeout_s = busy_timeout_s

    def settings(self, connection: Connection, *words: str) -> dict[str, str]:
        """Return what holds for one of our transactions: bounds, so that a frozen holder is out, and plans."""
        bound = milliseconds(STATEMENT_LEASES * self._lease_s)
        settings = {
            "application_name": application_name(*words),
            "lock_timeout": milliseconds(self._busy_timeout_s),
            "statement_timeout": bound,
            "idle_in_transaction_session_timeout": milliseconds(self._lease_s),
            "client_connection_check_interval": milliseconds(max(1.0, self._lease_s / 3)),
            "jit": "off",
            # Keys are of several columns that go together, which the planner takes for independent: it would
            # believe in caches that never hit, and sort where hashing is faster.
            "enable_memoize": "off",
            "enable_mergejoin": "off",
            # Our temporary tables are analyzed: a sample of 3,000 rows tells how many rows a join will meet.
            "default_statistics_target": "10",
        }
        if connection.info.server_version >= HAS_TRANSACTION_TIMEOUT:
            settings["transaction_timeout"] = bound
        return settings

    @contextmanager
    def changing(self, doing: str, *words: str, commit: bool = True) -> Iterator[Connection]:
        """Run a block in a transaction of its own."""
        with self.errors(doing), self.server.connection() as connection:
            lookout = self.lookout(connection)
            try:
                begin(connection, settings=self.settings(connection, *words))
                with lookout:
                    yield connection
                connection.execute("commit" if commit else "rollback")
            except psycopg.Error as error:
                rollback(connection)
                if classify(error) == "busy":
                    raise self.busy(lookout) from error
                raise
            except BaseException:
                rollback(connection)
                raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Lend a connection on which every statement is a transaction of its own."""
        with self.errors("the warehouse cannot be read"), self.server.connection() as connection:
            yield connection

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Raise the errors of ours that the server's stand for."""
        try:
            yield
        except psycopg.Error as error:
            raise map_error(error, doing) from error

    def lookout(self, connection: Connection) -> Lookout:
        """Return what sees who keeps a connection waiting."""
        return Lookout(self.server, connection, busy_timeout_s=self._busy_timeout_s)

    def busy(self, lookout: Lookout) -> WarehouseBusyError:
        """Return the error for a wait that was too long."""
        return WarehouseBusyError(
            f"A lock was held by somebody else for more than {self._busy_timeout_s:g} s: {lookout.seen}.",
            hint="Nothing of this was committed, staging is kept. A process that hangs is ended by the server after "
            "its lease; or end it with pg_terminate_backend.",
        )


class Interrupt:
    """Cancels what a connection runs; called from any thread. After ``withdraw`` it does nothing more."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._active = True
        self.called = False

    def __call__(self) -> None:
        """Ask the server to cancel; that it cannot be reached is no error, the commit asks again."""
        with self._lock:
            if self._active:
                self.called = True
                with suppress(psycopg.Error):
                    self._connection.cancel_safe(timeout=5.0)

    def withdraw(self) -> bool:
        """Wait for a cancel that is under way, and say whether there was one."""
        with self._lock:
            self._active = False
            return self.called
