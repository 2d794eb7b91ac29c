"""Copying rows into a staging table, in one transaction with the manifest.

Small parts go over the warehouse's own driver, large ones over ADBC, whose encoder works on whole columns: 100,000
rows of nine columns took 0.33 to 0.37 s over ADBC, 0.8 to 1.2 s as CSV and 1.8 to 2.8 s row by row; but the first ADBC
connection of a process costs some 80 ms, as long as 4,000 rows.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import adbc_driver_manager
import psycopg
import pyarrow as pa

from onerow.adapters.postgresql.connection import begin, milliseconds, rollback
from onerow.adapters.postgresql.sqlstate import HINTS, classify_code, told
from onerow.adapters.warehouse.postgresql import sql
from onerow.core.rows import arrow_schema
from onerow.errors import NotInstalledError, StagingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onerow.adapters.postgresql.connection import Connection, Server
    from onerow.core.spec import Column

SMALL_ROWS: Final = 4_000
IDLE_TIMEOUT_S: Final = 600.0
"""A writer that is frozen in its transaction for so long is rolled back by the server."""

Place: TypeAlias = tuple[str, str]
"""Schema and name of a staging table."""

_DRIVER_TYPES: Final = {
    "string": "text",
    "json": "text",
    "int64": "int8",
    "float64": "float8",
    "decimal": "numeric",
    "bool": "bool",
    "date": "date",
    "timestamp": "timestamptz",
}


class Load(Protocol):
    """One transaction in which a part is staged."""

    def ask(self, statement: sql.Composed, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        ...

    def copy(self, place: Place, number: int, columns: Sequence[Column], rows: Iterable[pa.RecordBatch]) -> None:
        """Copy rows as part ``number``."""
        ...


class PsycopgLoad:
    """A transaction on a connection of psycopg."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, statement: sql.Composed, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        cursor = psycopg.RawCursor(self._connection).execute(statement, values, binary=True)
        return cursor.fetchall() if cursor.description else []

    def copy(self, place: Place, number: int, columns: Sequence[Column], rows: Iterable[pa.RecordBatch]) -> None:
        """Copy rows one by one, in binary."""
        statement = _copy_statement(place, columns)
        types = ["int8", *(_DRIVER_TYPES[column.type.kind] for column in columns)]
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(types)
            for batch in rows:
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    copy.write_row((number, *values))


class AdbcLoad:
    """A transaction on a connection of ADBC."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def ask(self, statement: sql.Composed, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement.as_string(None), values)
            return [tuple(found) for found in cursor.fetchall()] if cursor.description else []

    def copy(self, place: Place, number: int, columns: Sequence[Column], rows: Iterable[pa.RecordBatch]) -> None:
        """Copy rows, whole columns at a time."""
        plain = arrow_schema(columns)
        whole = pa.schema([pa.field(sql.PART, pa.int64()), *plain])
        numbered = (
            pa.RecordBatch.from_arrays([_repeated(number, batch.num_rows), *batch.columns], schema=whole)
            for batch in rows
        )
        reader = pa.RecordBatchReader.from_batches(whole, numbered)
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(place[1], reader, mode="append", db_schema_name=place[0])


class Loaders:
    """Opens the transactions in which parts are staged. For many threads."""

    def __init__(self, server: Server, url: str, *, small_rows: int = SMALL_ROWS) -> None:
        self._server = server
        self._url = url
        self._small_rows = small_rows
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._process = os.getpid()

    @contextmanager
    def transaction(self, rows: int) -> Iterator[Load]:
        """Run a block that stages ``rows`` rows in one transaction; it commits unless the block raises."""
        if rows <= self._small_rows:
            with self._server.connection(errors=StagingError) as connection:
                try:
                    begin(connection, settings={"idle_in_transaction_session_timeout": milliseconds(IDLE_TIMEOUT_S)})
                    yield PsycopgLoad(connection)
                    connection.execute("commit")
                except BaseException:
                    rollback(connection)
                    raise
            return
        opened = self._take()
        try:
            yield AdbcLoad(opened)
            opened.adbc_connection.commit()
            opened.adbc_connection.set_autocommit(True)
        except BaseException:
            with suppress(adbc_driver_manager.Error):
                opened.adbc_connection.rollback()
            with suppress(adbc_driver_manager.Error):
                opened.close()
            raise
        with self._lock:
            self._idle.append(opened)

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for opened in idle:
            opened.close()

    def _take(self) -> Any:
        """Return a connection in a new transaction; one that was idle may have died, then it is replaced."""
        while True:
            with self._lock:
                if self._process != os.getpid():  # a fork: these are the parent's
                    self._idle, self._process = [], os.getpid()
                kept = self._idle.pop() if self._idle else None
            opened = kept or _connect(self._url)
            try:
                opened.adbc_connection.set_autocommit(False)
                with opened.cursor() as cursor:
                    cursor.executescript("set transaction isolation level read committed")
                    cursor.executescript(
                        "select set_config('synchronous_commit', case current_setting('synchronous_commit') "
                        "when 'off' then 'on' else current_setting('synchronous_commit') end, true)"
                    )
                    cursor.executescript(
                        f"set local idle_in_transaction_session_timeout = '{milliseconds(IDLE_TIMEOUT_S)}'"
                    )
            except adbc_driver_manager.Error:
                with suppress(adbc_driver_manager.Error):
                    opened.close()
                if kept is None:
                    raise
            else:
                return opened


@contextmanager
def staging_errors(doing: str) -> Iterator[None]:
    """Raise the drivers' errors as ours: staging cannot be read or written."""
    try:
        yield
    except psycopg.Error as error:
        raise _error(doing, told(error), error.sqlstate) from error
    except adbc_driver_manager.Error as error:
        raise _error(doing, str(error).splitlines()[0], error.sqlstate) from error


def _connect(url: str) -> Any:
    from adbc_driver_postgresql import dbapi  # noqa: PLC0415 -- it brings pandas along, some 0.3 s; small parts need none

    return dbapi.connect(url, autocommit=True)


def _error(doing: str, text: str, code: str | None) -> NotInstalledError | StagingError:
    failure = classify_code(code)
    kind = NotInstalledError if failure == "missing" else StagingError
    shown = f" (SQLSTATE {code})" if code else ""
    return kind(f"Staging in PostgreSQL could not {doing}: {text}{shown}.", hint=HINTS.get(failure, ""))


def _copy_statement(place: Place, columns: Sequence[Column]) -> sql.Composed:
    return sql.SQL("copy {} ({}) from stdin (format binary)").format(
        sql.Identifier(*place), sql.columns([sql.PART, *(column.name for column in columns)])
    )


def _repeated(number: int, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(number, pa.int64()), count)
