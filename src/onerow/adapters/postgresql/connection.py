"""Connections to a PostgreSQL database: kept while they live, replaced when they do not.

Safe behind a pooler that gives a server connection for one transaction at a time, such as PgBouncer: nothing is
set for the session, nothing is prepared on the server, no temporary table and no advisory lock outlives its
transaction. Settings that matter are set inside each transaction (``begin``).

Connections are in autocommit mode; a transaction is begun and ended by statements of ours, so that it is known
exactly whether a COMMIT was sent when a connection breaks.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from onerow.adapters.postgresql.sqlstate import map_error
from onerow.errors import WarehouseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from onerow.errors import OnerowError

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
RawCursor: TypeAlias = psycopg.RawCursor[tuple[Any, ...]]
Statement: TypeAlias = LiteralString | sql.SQL | sql.Composed

CONNECT_TIMEOUT_S: Final = 10
MAX_IDLE: Final = 4
MIN_VERSION: Final = 150_000
MAX_NAME_BYTES: Final = 63
"""What the server keeps of an application name, and of any identifier."""


class Server:
    """A database, and the idle connections to it. For many threads; each connection is one's at a time.

    Args:
        url: a libpq URL or connection string; it may hold a password and is never shown.
        errors: what a failed connect is raised as.
        connect_timeout_s: how long connecting may take; libpq has whole seconds, and two at least.
    """

    def __init__(
        self,
        url: str,
        *,
        errors: type[OnerowError] = WarehouseError,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._url = url
        self._connect_timeout_s = max(2, round(connect_timeout_s))
        self._errors = errors
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closing: list[Callable[[], None]] = []

    def on_close(self, close: Callable[[], None]) -> None:
        """Have something closed together with the connections."""
        self._closing.append(close)

    def connect(self, *, errors: type[OnerowError] | None = None) -> Connection:
        """Open a connection of one's own, for example to listen on; the caller closes it.

        Raises:
            OnerowError: the database cannot be reached, refuses us, or is older than PostgreSQL 15.
        """
        try:
            connection: Connection = psycopg.connect(
                self._url,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=self._connect_timeout_s,
                client_encoding="utf-8",
                fallback_application_name="onerow",
                keepalives_idle=30,
                keepalives_interval=5,
                keepalives_count=3,
            )
        except psycopg.Error as error:
            raise map_error(error, "PostgreSQL cannot be reached", kind=errors or self._errors) from error
        if connection.info.server_version < MIN_VERSION:
            version = connection.info.server_version // 10_000
            connection.close()
            raise (errors or self._errors)(f"This server is PostgreSQL {version}; onerow needs 15 or newer.")
        return connection

    @contextmanager
    def connection(self, *, errors: type[OnerowError] | None = None) -> Iterator[Connection]:
        """Lend a connection that is outside any transaction; one that is not so afterwards is closed.

        ``errors`` is what a failed connect is raised as, if not as the server says.

        Raises:
            OnerowError: as ``connect``.
        """
        connection = self._take() or self.connect(errors=errors)
        try:
            yield connection
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        for close in self._closing:
            close()

    def _take(self) -> Connection | None:
        """Return an idle connection that the server has not closed, as far as can be told without asking it."""
        while True:
            with self._lock:
                if self._process != os.getpid():  # a fork: these are the parent's, and must not be closed here
                    self._idle, self._process = [], os.getpid()
                connection = self._idle.pop() if self._idle else None
            if connection is None or not _has_news(connection):
                return connection
            connection.close()

    def _give_back(self, connection: Connection) -> None:
        usable = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
        with self._lock:
            if usable and self._process == os.getpid() and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
                return
        with suppress(psycopg.Error):
            connection.close()


def _has_news(connection: Connection) -> bool:
    """Say whether the server has written to an idle connection, which it does to say goodbye."""
    if connection.closed:
        return True
    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    return bool(readable)


def begin(connection: Connection, *, settings: Mapping[str, str], heavy: bool = False) -> None:
    """Begin a transaction in which every statement sees what is committed when it begins.

    A commit is durable on this server whatever the database's default is. ``settings`` hold for this transaction;
    ``heavy`` is one with large joins, which gets at least 64 MB for each.
    """
    wanted = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
        for name, value in settings.items()
    )
    durable = sql.SQL(
        "set_config('synchronous_commit', case current_setting('synchronous_commit') when 'off' then 'on' "
        "else current_setting('synchronous_commit') end, true)"
    )
    memory = sql.SQL(
        "set_config('work_mem', case when pg_size_bytes(current_setting('work_mem')) < 67108864 then '64MB' "
        "else current_setting('work_mem') end, true)"
    )
    pieces = [durable, *([wanted] if settings else []), *([memory] if heavy else [])]
    connection.execute(
        sql.SQL("begin isolation level read committed read write; select {}").format(sql.SQL(", ").join(pieces))
    )


def rollback(connection: Connection) -> None:
    """End a transaction, if there is one and the connection still lives; a lost one is rolled back by the server."""
    if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
        with suppress(psycopg.OperationalError):
            connection.execute("rollback")


def rows(connection: Connection, statement: Statement, *values: object) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows. Values are sent beside the text, in which they are called $1, $2, ..."""
    return psycopg.RawCursor(connection).execute(statement, values, binary=True).fetchall()


def row(connection: Connection, statement: Statement, *values: object) -> tuple[Any, ...]:
    """Run a statement that returns one row and return it."""
    found = psycopg.RawCursor(connection).execute(statement, values, binary=True).fetchone()
    if found is None:
        raise WarehouseError("PostgreSQL returned no row where there must be one.")
    return found


def run(connection: Connection, statement: Statement, *values: object) -> int:
    """Run a statement and return how many rows it has changed."""
    return psycopg.RawCursor(connection).execute(statement, values or None).rowcount


def in_turn(connection: Connection, *questions: tuple[Statement, Sequence[object]]) -> list[RawCursor]:
    """Run statements one after the other and return their cursors.

    Not as a pipeline: a process that is frozen between two statements of one is not idle for the server, which would
    end it much later than after its lease, or never.

    Raises:
        psycopg.Error: the first that failed; those behind it were not run.
    """
    return [
        psycopg.RawCursor(connection).execute(statement, tuple(values), binary=True)
        for statement, values in questions
    ]


def application_name(*words: str) -> str:
    """Return what a session is called while it works for ``words``; the server keeps 63 bytes and no control signs."""
    text = " ".join(("onerow", *words))
    plain = "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
    return plain[:MAX_NAME_BYTES]


def milliseconds(seconds: float) -> str:
    """Return a time-out as the server takes it: at least one millisecond, since 0 is none at all."""
    return f"{max(1, round(seconds * 1000))}ms"


def blockers(server: Server, pid: int) -> Sequence[str]:
    """Say who keeps the session ``pid`` waiting, one line each; asked on another connection."""
    statement = sql.SQL(
        "select pid, usename, application_name, state, extract(epoch from clock_timestamp() - xact_start)::float8 "
        "from pg_catalog.pg_stat_activity where pid = any (pg_catalog.pg_blocking_pids($1))"
    )
    with server.connection() as connection:
        found = rows(connection, statement, pid)
    return [
        f"process {other} of user {user or '?'} ({name or 'no application name'}, {state or 'state not visible'}"
        + (f", in its transaction for {since_s:.0f} s)" if since_s is not None else ")")
        for other, user, name, state, since_s in found
    ]
