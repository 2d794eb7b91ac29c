"""Reading a project's tables: statements of our own, on whichever warehouse the project has.

A statement is written once, in DuckDB's dialect, with ``{predictions}`` and ``{grades}`` for the tables and ``$name``
for values; for BigQuery it is translated. In versions mode a table is read through its view of the newest versions.
Nothing is written here, and no lock is taken: a reader sees one committed state for each statement.
"""

from __future__ import annotations

import datetime as dt
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import duckdb
import sqlglot
from sqlglot import exp

from onerow import ConfigurationError
from onerow.adapters.warehouse.duckdb import sql as duckdb_names
from onerow.adapters.warehouse.duckdb.database import Database, map_error
from onerow.errors import WarehouseError
from predictions import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.cloud import bigquery

    from onerow import Settings, TableSpec

    Value = str | dt.date

__all__ = ["Reader", "open_reader", "relation_of"]

RAW: Final = "_stored"
"""Behind a table's name: all that is stored, in versions mode every version."""

_TABLES: Final = {"predictions": settings.TABLE, "grades": settings.GRADES}


class Reader(Protocol):
    """Reads rows of a project's tables."""

    def rows(self, statement: str, **values: Value) -> list[dict[str, Any]]:
        """Return the rows of a statement, by column.

        Raises:
            WarehouseError: it cannot be read.
        """
        ...


@contextmanager
def open_reader(project_id: str, client: bigquery.Client | None = None) -> Iterator[Reader]:
    """Have a project's tables readable until the block ends.

    Args:
        project_id: as everywhere in this package.
        client: of BigQuery; None: one is made where it is needed.

    Raises:
        ConfigurationError: the project was given a warehouse that this module cannot read.
    """
    found = settings.settings_of(project_id)
    scheme = found.warehouse.scheme
    if scheme == "duckdb":
        with closing(_DuckDB(found)) as reader:
            yield reader
    elif scheme == "bigquery":
        from onerow.adapters.bigquery.address import connect  # noqa: PLC0415 -- an extra; the default needs none

        if client is not None:
            yield _BigQuery(found, client)
            return
        with closing(connect(project_id)) as own:
            yield _BigQuery(found, own)
    else:
        raise ConfigurationError(
            f"{found.warehouse} is no warehouse that grades and metrics can be read from.",
            hint="They read DuckDB files and BigQuery. Everything of onerow itself works on the others too.",
        )


def relation_of(spec: TableSpec, *, raw: bool = False) -> str:
    """Return the last name of what a table is read from: itself, or in versions mode its view of the newest."""
    return spec.target[-1] + ("_current" if spec.mode == "versions" and not raw else "")


class _DuckDB:
    def __init__(self, found: Settings) -> None:
        path = found.warehouse.path
        assert path is not None  # noqa: S101 -- a DuckDB URL has one
        self._database = Database(path, busy_timeout_s=found.busy_timeout_s)
        self._tables = _relations(found, (duckdb_names.DATABASE, "main"), "duckdb")

    def close(self) -> None:
        self._database.close()

    def rows(self, statement: str, **values: Value) -> list[dict[str, Any]]:
        try:
            with self._database.open(read_only=True) as connection:
                table = connection.execute(statement.format_map(self._tables), values).to_arrow_table()
        except duckdb.Error as error:
            raise map_error(error, f"{self._database.path} cannot be read") from error
        return [{name: _moment(value) for name, value in row.items()} for row in table.to_pylist()]


class _BigQuery:
    def __init__(self, found: Settings, client: bigquery.Client) -> None:
        from onerow.adapters.bigquery.address import parse_address  # noqa: PLC0415 -- an extra

        self._client = client
        address = parse_address(found.warehouse.secret)
        self._tables = _relations(found, (address.project, address.dataset), "bigquery")

    def rows(self, statement: str, **values: Value) -> list[dict[str, Any]]:
        from google.api_core.exceptions import GoogleAPIError  # noqa: PLC0415 -- an extra
        from google.cloud import bigquery as google  # noqa: PLC0415 -- an extra

        parameters = [
            google.ScalarQueryParameter(name, "STRING" if isinstance(value, str) else "DATE", value)
            for name, value in values.items()
        ]
        config = google.QueryJobConfig(query_parameters=parameters)
        try:
            found = self._client.query_and_wait(_for_bigquery(statement).format_map(self._tables), job_config=config)
            return [dict(row.items()) for row in found]
        except GoogleAPIError as error:
            raise WarehouseError(f"BigQuery cannot be read: {error}") from error


def _moment(value: Any) -> Any:
    """Return a value; a time is one of UTC, which the engine keeps without saying so."""
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    return value


def _relations(found: Settings, home: tuple[str, str], dialect: str) -> dict[str, str]:
    """Return what stands for each table in a statement, quoted for the engine.

    Args:
        found: names the tables.
        home: database and schema, or project and dataset, of a table whose name says none.
        dialect: the engine's.
    """
    named = {}
    for short, name in _TABLES.items():
        spec = found.table(name)
        above = spec.target[:-1]
        catalog, schema = (*home[: 2 - len(above)], *above)
        for key, raw in ((short, False), (short + RAW, True)):
            parts = [exp.to_identifier(part, quoted=True) for part in (catalog, schema, relation_of(spec, raw=raw))]
            named[key] = exp.Table(catalog=parts[0], db=parts[1], this=parts[2]).sql(dialect)
    return named


@lru_cache
def _for_bigquery(statement: str) -> str:
    """Return a statement in BigQuery's dialect, with the braces where they were."""
    marked = {f"{{{name}{suffix}}}": f"onerow_{name}{suffix}" for name in _TABLES for suffix in ("", RAW)}
    for brace, mark in marked.items():
        statement = statement.replace(brace, mark)
    (text,) = sqlglot.transpile(statement, read="duckdb", write="bigquery")
    for brace, mark in sorted(marked.items(), key=lambda pair: -len(pair[1])):
        text = text.replace(mark, brace)
    return text
