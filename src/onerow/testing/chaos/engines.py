"""The engines that the torture test knows, each opened by its own driver."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

from sqlglot import exp

from onerow.errors import ConfigurationError, WarehouseBusyError
from onerow.testing.chaos.bare import Bare, Row, Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onerow.config import Settings

BUSY_S: Final = 60.0
_LAKE_CONFLICT: Final = re.compile(r"Transaction conflict|database is locked|could not serialize|deadlock detected")


def bare_of(settings: Settings, table: str) -> Bare:
    """Return the engine that the settings name.

    Raises:
        ConfigurationError: the torture test does not know it.
    """
    engines: dict[str, type[Bare]] = {"duckdb": DuckDBFile, "ducklake": DuckLake, "postgresql": PostgreSQL}
    engine = engines.get(settings.warehouse.scheme)
    if engine is None:
        raise ConfigurationError(
            f"The torture test cannot look into {settings.warehouse} by itself.",
            hint=f"It knows: {', '.join(engines)}.",
        )
    return engine(settings, table)


class _DuckDBSession(Session):
    dialect = "duckdb"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, text: str) -> list[Row]:
        return list(self._connection.execute(text).fetchall())


class DuckDBFile(Bare):
    """A DuckDB file: open for a moment at a time, by one process at a time."""

    dialect = "duckdb"

    @contextlib.contextmanager
    def session(self, *, writes: bool) -> Iterator[Session]:
        """Open the file when it is free."""
        import duckdb

        deadline_s = time.monotonic() + BUSY_S
        while True:
            try:
                connection = duckdb.connect(str(self.settings.warehouse.path), read_only=not writes)
                break
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() > deadline_s:
                    raise WarehouseBusyError(f"The file was not free for {BUSY_S:.0f} s: {error}") from error
            time.sleep(0.005)
        with contextlib.closing(connection):
            connection.execute("set TimeZone = 'UTC'")
            connection.execute("begin")
            yield _DuckDBSession(connection)
            connection.execute("commit")

    def is_conflict(self, error: Exception) -> bool:
        """Two sessions of this engine never overlap; a file that stays held is told."""
        return isinstance(error, WarehouseBusyError)


class DuckLake(Bare):
    """A DuckLake, attached for as long as nothing fails: to attach it takes long."""

    dialect = "duckdb"
    _connection: Any = None

    @contextlib.contextmanager
    def session(self, *, writes: bool) -> Iterator[Session]:  # noqa: ARG002 -- one way to attach
        """Begin a transaction on the lake."""
        if self._connection is None:
            self._connection = self._attached()
        try:
            self._connection.execute("begin")
            yield _DuckDBSession(self._connection)
            self._connection.execute("commit")
        except BaseException:
            self.close()
            raise

    def _attached(self) -> Any:
        import duckdb

        from onerow.adapters.warehouse.ducklake import extensions
        from onerow.adapters.warehouse.ducklake.lake import catalog_of

        url = self.settings.warehouse
        if url.catalog is None:
            raise ConfigurationError(f"{url} names no catalog.")
        catalog = catalog_of(url.catalog.path or url.catalog.secret, busy_timeout_s=BUSY_S)
        connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        extensions.load(connection, catalog.extensions)
        for statement in catalog.settings:
            connection.execute(statement)
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set ducklake_max_retry_count = 30")
        source = _literal(f"ducklake:{catalog.source}")
        options = [f"DATA_PATH {_literal(url.data_path)}", "DATA_INLINING_ROW_LIMIT 0", *catalog.options]
        connection.execute(f"ATTACH {source} AS bare ({', '.join(options)})")
        connection.execute("use bare")
        return connection

    def close(self) -> None:
        """Give the instance up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def is_conflict(self, error: Exception) -> bool:
        """Say whether the catalog has refused a commit because of another one."""
        return _LAKE_CONFLICT.search(str(error)) is not None


class PostgreSQL(Bare):
    """A PostgreSQL database, connected for as long as nothing fails."""

    dialect = "postgres"
    timestamp = "timestamptz"
    _connection: Any = None

    @contextlib.contextmanager
    def session(self, *, writes: bool) -> Iterator[Session]:  # noqa: ARG002 -- one way to connect
        """Begin a transaction at READ COMMITTED, as everybody has it who sets nothing."""
        import psycopg

        if self._connection is None:
            self._connection = psycopg.connect(self.settings.warehouse.secret)
        try:
            yield _PostgresSession(self._connection)
            self._connection.commit()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def is_conflict(self, error: Exception) -> bool:
        """Say whether the transaction lost against another one."""
        import psycopg

        return isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected)


class _PostgresSession(Session):
    dialect = "postgres"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, text: str) -> list[Row]:
        cursor = self._connection.execute(text)
        return list(cursor.fetchall()) if cursor.description is not None else []


def _literal(text: str) -> str:
    """Return a text as SQL writes it; ATTACH takes no parameters."""
    return exp.Literal.string(text).sql("duckdb")
