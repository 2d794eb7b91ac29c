"""Opening the file late and closing it early, and saying plainly who is in the way.

What is heavy runs in a private in-memory instance; the file is attached only for the transaction. While
one process has it attached for writing no other can open it, so everybody who waits polls with a bound.

Two traps of POSIX file locks shape this module. A process that opens and closes the file by any other
means drops the lock that DuckDB holds on it, so nothing here ever looks into the file itself. And
two instances of one process share the lock, so a lock of our own orders the threads of a process.

Source: https://duckdb.org/docs/stable/connect/concurrency and fcntl(2).
"""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import duckdb

from onerow.adapters.warehouse.duckdb import sql
from onerow.errors import OnerowError, WarehouseBusyError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onerow.core.spec import TableSpec

logger = logging.getLogger("onerow")

POLL_FIRST_S: Final = 0.001
POLL_LAST_S: Final = 0.02

_HELD = re.compile(r"Conflicting lock is held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")
_threads: dict[str, threading.RLock] = {}
_threads_guard = threading.Lock()


def _thread_lock(path: Path) -> threading.RLock:
    """Return the lock of a file for this process's threads, by what the file is, not by what it is called."""
    try:
        found = path.stat()
        key = f"{found.st_dev}:{found.st_ino}"
    except FileNotFoundError:
        key = str(path.resolve())
    with _threads_guard:
        return _threads.setdefault(key, threading.RLock())


@dataclass
class Instance:
    """A private instance and the thread that it belongs to.

    Attributes:
        attached: whether something stays attached to it between calls.
        suspect: whether what is attached has failed and is to be attached again.
        opened_s: when the block that uses it began, in seconds since the epoch.
        used_s: when it was last used, by the monotonic clock.
    """

    connection: duckdb.DuckDBPyConnection
    thread: threading.Thread
    attached: bool = False
    suspect: bool = False
    opened_s: float = 0.0
    used_s: float = 0.0


class Database:
    """A DuckDB file, and a private instance that it is attached to for a moment at a time."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self.path = path
        self.busy_timeout_s = busy_timeout_s
        self._local = threading.local()
        self._instances: list[Instance] = []
        self._instances_guard = threading.Lock()

    def instance(self) -> duckdb.DuckDBPyConnection:
        """Return this thread's private instance. Temporary tables live here, never in the file."""
        return self._mine().connection

    def _mine(self) -> Instance:
        mine: Instance | None = getattr(self._local, "instance", None)
        if mine is None:
            mine = self._inherited()
            if mine is None:
                mine = Instance(self._connect(), threading.current_thread())
                with self._instances_guard:
                    self._instances.append(mine)
            self._local.instance = mine
        return mine

    def _inherited(self) -> Instance | None:
        """Return the instance of a thread that has ended, if there is one: making one takes long."""
        with self._instances_guard:
            for instance in self._instances:
                if not instance.thread.is_alive():
                    instance.thread = threading.current_thread()
                    return instance
        return None

    def _connect(self) -> duckdb.DuckDBPyConnection:
        # Nothing is fetched or loaded from elsewhere: a statement that needs more than is built in fails.
        connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        connection.execute("set python_enable_replacements = false")  # a variable of ours is no table
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set enable_progress_bar = false")
        connection.execute("set temp_directory = ?", [f"{self.path}.tmp"])  # what does not fit into memory
        return connection

    @contextmanager
    def open(self, *, read_only: bool = False, create: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Have the file attached until the block ends; with ``create`` one that is not there is made.

        Raises:
            WarehouseBusyError: somebody else kept it for longer than the time-out; names the process.
            WarehouseError: it cannot be opened.
        """
        thread_lock = _thread_lock(self.path)
        if not thread_lock.acquire(timeout=self.busy_timeout_s):
            raise WarehouseBusyError(
                f"Another thread of this process has had {self.path} open for {self.busy_timeout_s:.0f} s."
            )
        try:
            connection = self.instance()
            self._attach(connection, read_only=read_only, create=create)
            try:
                yield connection
            finally:
                self._detach(connection)
        finally:
            thread_lock.release()

    def _attach(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool, create: bool) -> None:
        if not create and not self.path.exists():
            raise WarehouseError(
                f"There is no database {self.path}.", hint="`onerow init` creates it."
            )
        # ATTACH takes no parameters: the path is a literal of the tree.
        options = "READ_ONLY" if read_only else "READ_WRITE"
        real = self.path.resolve()
        if real.exists() and real.stat().st_nlink > 1:
            raise WarehouseError(
                f"{self.path} has several names (hard links), under which two processes could write it unseen.",
                hint="Keep one name; use a symbolic link for the others.",
            )
        path = sql.exp.Literal.string(str(real)).sql(sql.DIALECT)
        statement = f"ATTACH {path} AS {sql.DATABASE} (TYPE DUCKDB, {options})"
        deadline_s = time.monotonic() + self.busy_timeout_s
        pause_s = POLL_FIRST_S
        while True:
            try:
                connection.execute(statement)
            except duckdb.Error as error:
                if not _is_busy(error):
                    raise map_error(error, f"{self.path} cannot be opened") from error
                if time.monotonic() + pause_s > deadline_s:
                    raise self._busy(error) from error
            else:
                return
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, POLL_LAST_S)

    def _detach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let go of the file. What was committed is safe in the log even if it cannot be folded in now."""
        try:
            connection.execute(f"DETACH {sql.DATABASE}")
        except duckdb.Error as error:
            logger.warning("onerow.checkpoint_failed", extra={"facts": {"error": str(error)}})
            self._forget()

    def _forget(self) -> None:
        """Close an instance that could not let go of the file; the next use makes a new one."""
        mine = self._mine()
        self._local.instance = None
        with self._instances_guard:
            self._instances.remove(mine)
        mine.connection.close()

    def _busy(self, error: duckdb.Error) -> WarehouseBusyError:
        match = _HELD.search(str(error))
        if match is None:
            return WarehouseBusyError(
                f"This process has {self.path} open by another connection.",
                hint="Close that connection while onerow works on the file.",
            )
        return WarehouseBusyError(
            f"{self.path} has been held by process {match['pid']} ({match['program']}) for more than "
            f"{self.busy_timeout_s:.0f} s.",
            hint=f"If it hangs, end it (kill {match['pid']}); nothing of it is committed then. "
            "Nothing was done here, staging is kept.",
        )

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Have this thread's instance as people know it, for statements of theirs."""
        yield

    def commit(self, connection: duckdb.DuckDBPyConnection, *specs: TableSpec) -> None:  # noqa: ARG002 -- others need them
        """Commit a transaction that has changed the control tables and the targets of ``specs``."""
        connection.execute("commit")

    def is_conflict(self, error: duckdb.Error) -> bool:
        """Say whether a transaction lost against another one and may be tried again."""
        return is_conflict(error)

    def map_error(self, error: duckdb.Error, doing: str) -> OnerowError:
        """Return the error of ours that an engine's error stands for."""
        return map_error(error, doing)

    def close(self) -> None:
        """Close the private instances of all threads."""
        for instance in self._instances:
            instance.connection.close()
        self._instances.clear()
        self._local = threading.local()


def _is_busy(error: duckdb.Error) -> bool:
    text = str(error)
    return "Could not set lock on file" in text or "Unique file handle conflict" in text


def is_conflict(error: duckdb.Error) -> bool:
    """Say whether a transaction lost against another one and may be tried again."""
    return isinstance(error, duckdb.TransactionException) and "Failed to commit: Could not" not in str(error)


def map_error(error: duckdb.Error, doing: str) -> OnerowError:
    """Return the error of ours that an engine's error stands for; the engine has no codes, only texts."""
    text = str(error).splitlines()[0]
    if "No space left" in text or "disk full" in text.lower() or "Could not write" in text:
        return WarehouseError(
            f"{doing}: the disk is full or cannot be written: {text}",
            hint="Make room; nothing was committed, staging is kept.",
        )
    if "not a valid DuckDB database" in text or "Corrupt database" in text or "read enough bytes" in text:
        return WarehouseError(
            f"{doing}: it is damaged or no DuckDB database: {text}",
            hint="Restore it from a backup; merged parts stay in staging for keep_merged and heal it.",
        )
    if "newer version" in text or "storage version" in text.lower() or "version number" in text:
        return WarehouseError(f"{doing}: it was written by another version of DuckDB: {text}")
    if isinstance(error, duckdb.OutOfMemoryException):
        return WarehouseError(
            f"{doing}: out of memory: {text}", hint="Stage smaller parts, or give DuckDB a temp_directory."
        )
    return WarehouseError(f"{doing}: {text}")


def rows(connection: duckdb.DuckDBPyConnection, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    return connection.execute(statement, list(values)).fetchall()


def row(connection: duckdb.DuckDBPyConnection, statement: str, *values: Any) -> tuple[Any, ...]:
    """Run a statement that returns one row and return it."""
    found = connection.execute(statement, list(values)).fetchone()
    if found is None:
        raise WarehouseError("The warehouse returned no row where there must be one.")
    return found


def types_of(connection: duckdb.DuckDBPyConnection, table: sql.exp.Table) -> dict[str, str]:
    """Return the columns of a table with their engine types; none if there is no such table."""
    # duckdb_columns() would describe every column of every database; asking for no rows tells the types at once.
    nothing = sql.exp.select(sql.exp.Star()).from_(table).limit(sql.exp.Literal.number(0))
    try:
        described = connection.execute(nothing.sql(sql.DIALECT)).description
    except duckdb.CatalogException:  # which aborts no transaction
        return {}
    except duckdb.Error as error:
        raise map_error(error, f"the table {table.name} cannot be described") from error
    return {name: str(data_type) for name, data_type, *_ in described or []}
