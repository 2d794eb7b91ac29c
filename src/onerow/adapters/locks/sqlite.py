"""A lock store in a SQLite file: for the processes of one machine.

Versions are numbers that grow with each write to a key, also over its deletion. The clock is the
file's host's, as SQLite tells it. Waiters poll the file's change counter every few milliseconds,
those who came later a little less often, so that a free lock is taken at once and roughly in order.

Source: https://www.sqlite.org/pragma.html#pragma_data_version and https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import uuid
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from onerow.errors import LockStoreError
from onerow.ports.lockstore import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_BUSY_TIMEOUT_S = 10.0
_POLL_S = 0.004
_POLL_STEP_S = 0.004
_POLL_MAX_S = 0.024
_WAITER_SEEN_S = 0.3


class SqliteLocks:
    """A register in the SQLite file at ``path``, made if it is missing. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[tuple[sqlite3.Connection, threading.Thread]] = []
        self._guard = threading.Lock()
        self._pid = os.getpid()
        self._identity: str | None = None

    def identity(self) -> str:
        """Return the identity that was written into the file when it was made."""
        if self._identity is None:
            with self._errors(), self._write() as connection:
                connection.execute(
                    "insert into meta (name, value) values ('identity', ?) on conflict do nothing",
                    (f"sqlite:{uuid.uuid4().hex}",),
                )
                row = connection.execute("select value from meta where name = 'identity'").fetchone()
            self._identity = str(row[0])
        return self._identity

    def read(self, key: str) -> Entry:
        """Return what ``key`` holds now."""
        with self._errors():
            row = (
                self._connection()
                .execute(
                    "select now_us, value, version from clock left join register on key = ?",
                    (key,),
                )
                .fetchone()
            )
        return _entry(key, *row)

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Write ``value`` if the key's version is ``expected``, in one statement."""
        text = None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        with self._errors(), self._write() as connection:
            if expected:
                row = connection.execute(
                    "update register set value = ?, version = version + 1 "
                    "where key = ? and cast(version as text) = ? and value is not null "
                    "returning (select now_us from clock), value, version",
                    (text, key, expected),
                ).fetchone()
            else:
                row = connection.execute(
                    "insert into register (key, value, version) values (?, ?, 1) on conflict (key) do update "
                    "set value = excluded.value, version = version + 1 where register.value is null "
                    "returning (select now_us from clock), value, version",
                    (key, text),
                ).fetchone()
        return None if row is None else _entry(key, *row)

    def entries(self, prefix: str) -> list[Entry]:
        """Return all keys with ``prefix``, sorted."""
        with self._errors():
            rows = self._connection().execute(
                "select key, now_us, value, version from clock, register "
                "where substr(key, 1, length(?1)) = ?1 and value is not null order by key",
                (prefix,),
            )
            return [_entry(*row) for row in rows]

    def wait(self, key: str, *, version: str, timeout_s: float, waiter: str) -> None:
        """Poll until the key's version changes; who came later polls less often and yields a moment."""
        deadline_s = time.monotonic() + timeout_s
        rank, ranked_s = self._rank(key, waiter), time.monotonic()
        try:
            while True:
                now_s = time.monotonic()
                if now_s >= deadline_s:
                    return
                if now_s - ranked_s > _WAITER_SEEN_S / 3:
                    rank, ranked_s = self._rank(key, waiter), now_s
                time.sleep(min(_POLL_S + _POLL_STEP_S * min(rank, 4), deadline_s - now_s))
                if self.read(key).version != version:
                    time.sleep(min(_POLL_STEP_S * rank, _POLL_MAX_S))
                    return
        finally:
            if time.monotonic() >= deadline_s or rank == 0:
                self._forget(key, waiter)

    def _rank(self, key: str, waiter: str) -> int:
        """Say that ``waiter`` waits, and return how many came before and still wait."""
        with self._errors(), self._write() as connection:
            connection.execute(
                "insert into waiters (key, waiter, arrived_us, seen_us) select ?, ?, now_us, now_us from clock "
                "where true on conflict do update set seen_us = excluded.seen_us",
                (key, waiter),
            )
            (rank,) = connection.execute(
                "select count(*) from clock, waiters as other join waiters as me on me.key = other.key "
                "where me.key = ? and me.waiter = ? and other.seen_us > now_us - ? "
                "and (other.arrived_us, other.waiter) < (me.arrived_us, me.waiter)",
                (key, waiter, round(_WAITER_SEEN_S * 1_000_000)),
            ).fetchone()
        return int(rank)

    def _forget(self, key: str, waiter: str) -> None:
        with self._errors(), self._write() as connection:
            connection.execute("delete from waiters where key = ? and waiter = ?", (key, waiter))

    def close(self) -> None:
        """Close this process's connections."""
        with self._guard:
            for connection, _ in self._connections:
                connection.close()
            self._connections.clear()
            self._local = threading.local()

    # --- connections -------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection; a forked child gets its own."""
        if os.getpid() != self._pid:  # SQLite connections must not cross a fork
            self._pid, self._local, self._connections = os.getpid(), threading.local(), []
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._inherited() or self._open()
            self._local.connection = connection
            with self._guard:
                self._connections.append((connection, threading.current_thread()))
        return connection

    def _inherited(self) -> sqlite3.Connection | None:
        """Return the connection of a thread that has ended: a service has many threads, one after another."""
        with self._guard:
            for number, (connection, thread) in enumerate(self._connections):
                if not thread.is_alive():
                    del self._connections[number]
                    if connection.in_transaction:
                        connection.execute("rollback")
                    return connection
        return None

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LockStoreError(
                f"The folder of the lock file {self._path} cannot be made: {error.strerror}."
            ) from error
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            _write_ahead(connection)
            connection.execute("pragma synchronous = normal")
            if not connection.execute("select 1 from sqlite_master where name = 'waiters'").fetchone():
                sql = files("onerow.adapters.locks").joinpath("sqlite.sql").read_text(encoding="utf-8")
                connection.executescript(f"begin immediate; {sql} commit;")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: it takes the write lock first, so that it never fails half-way."""
        connection = self._connection()
        connection.execute("begin immediate")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        connection.execute("commit")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LockStoreError(
                f"The lock file {self._path} failed: {error}.", hint=_advice(error)
            ) from error


def _entry(key: str, now_us: int, value: str | None, version: int | None) -> Entry:
    if value is None:
        return Entry(key, None, "", now_us)
    try:
        return Entry(key, json.loads(value), str(version), now_us)
    except ValueError as error:
        raise LockStoreError(f"The entry {key!r} of the lock file is damaged: {error}.") from error


def _advice(error: sqlite3.Error) -> str:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return (
            "The file is damaged or is something else. Move it away and run `onerow init --adopt-locks`; "
            "correctness does not depend on it."
        )
    if "readonly" in text or "unable to open" in text:
        return "Check the path and its permissions: the folder must be writable too."
    if "locked" in text:
        return "Another process has kept it for long; `onerow doctor` shows who uses it."
    return "Check the disk and the path."


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Set write-ahead mode. SQLite waits for nobody here, though several may make the file at once: so we do."""
    deadline_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline_s:
                raise
        else:
            return
        time.sleep(_POLL_S)
