"""The schema files in ``schemas/bigquery``: tables and monitor views, put in place in this order.

    python -m predictions.schemas --project my-gcp-project             # what would be done
    python -m predictions.schemas --project my-gcp-project --apply

1. The tables, in BigQuery, with partitioning, clustering and primary key. On the embedded default onerow makes them.
2. What onerow needs (``onerow init``).
3. The views ``duplicate_predictions_monitor`` and ``duplicate_grades_monitor``, on either.

Nothing that is there is changed, but views, which are replaced.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
import sqlglot
from sqlglot import exp

import onerow
from onerow import ConfigurationError, OnerowError
from onerow.adapters.warehouse.duckdb import sql as duckdb_names
from onerow.adapters.warehouse.duckdb.database import Database, map_error
from onerow.errors import WarehouseError
from predictions import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.cloud import bigquery

    from onerow import Settings, TableSpec

FOLDER: Final = Path(__file__).resolve().parents[1] / "schemas/bigquery"
TABLES: Final = (settings.TABLE, settings.GRADES)
VIEWS: Final = {"duplicate_predictions_monitor": settings.TABLE, "duplicate_grades_monitor": settings.GRADES}


def file_of(spec: TableSpec) -> Path:
    """Return the schema file of a table, which depends on its mode."""
    return FOLDER / ("versions" if spec.mode == "versions" else "") / f"{spec.name}.sql"


def read(file: Path) -> exp.Expr:
    """Return the one statement of a schema file.

    Raises:
        ConfigurationError: it has none, or several.
    """
    found = sqlglot.parse(file.read_text(encoding="utf-8"), read="bigquery")
    if len(found) != 1 or found[0] is None:
        raise ConfigurationError(f"{file} has not one statement.")
    return found[0]


def table_statements(found: Settings) -> list[str]:
    """Return the statements that make the tables in BigQuery."""
    made = []
    for name in TABLES:
        spec = found.table(name)
        statement = read(file_of(spec))
        for table in statement.find_all(exp.Table):
            _name(table, *spec.target[:-1], spec.target[-1])
        made.append(statement.sql("bigquery", pretty=True, comments=False))
    return made


def view_statements(found: Settings) -> list[str]:
    """Return the statements that make the views, in the dialect of the project's warehouse.

    Raises:
        ConfigurationError: it has none of the two.
    """
    scheme = found.warehouse.scheme
    if scheme not in {"bigquery", "duckdb"}:
        raise ConfigurationError(
            f"There are no monitor views for {found.warehouse}.",
            hint="There are for BigQuery and DuckDB files; the views TABLE_duplicates of onerow are on every engine.",
        )
    made = []
    for view, name in VIEWS.items():
        above, base = found.table(name).target[:-1], found.table(name).target[-1]
        statement = read(FOLDER / f"{view}.sql")
        for table in statement.find_all(exp.Table):
            own = f"{base}_duplicates" if table.name != view else view
            if scheme == "bigquery":
                _name(table, *above, own)
            elif table.name == view:
                _name(table, duckdb_names.DATABASE, *(above or ("main",)), own)
            else:  # looked up where the view stands, by whatever name the file is opened
                _name(table, own)
        if scheme == "duckdb":
            statement.set("properties", None)
        made.append(statement.sql(scheme, pretty=True, comments=False))
    return made


def _name(table: exp.Table, *parts: str) -> None:
    """Name a table, in place, outermost first."""
    for slot, part in zip(("this", "db", "catalog"), (*reversed(parts), None, None), strict=False):
        table.set(slot, None if part is None else exp.to_identifier(part, quoted=True))


def create_views(project_id: str, client: bigquery.Client | None = None) -> list[str]:
    """Make the monitor views, or replace them; onerow's own views must be there.

    Returns:
        Their names.

    Raises:
        OnerowError: they could not be made.
    """
    found = settings.settings_of(project_id)
    _run(found, project_id, view_statements(found), client)
    return list(VIEWS)


def create_tables(project_id: str, client: bigquery.Client | None = None) -> list[str]:
    """Make the tables in BigQuery as the schema files have them; what is there stays as it is.

    Returns:
        Their names; none where onerow makes them.

    Raises:
        OnerowError: they could not be made.
    """
    found = settings.settings_of(project_id)
    if found.warehouse.scheme != "bigquery":
        return []
    _run(found, project_id, table_statements(found), client)
    return list(TABLES)


def _run(found: Settings, project_id: str, statements: Sequence[str], client: bigquery.Client | None) -> None:
    if found.warehouse.scheme == "bigquery":
        _run_in_bigquery(project_id, statements, client)
        return
    path = found.warehouse.path
    assert path is not None  # noqa: S101 -- a DuckDB URL has one
    database = Database(path, busy_timeout_s=found.busy_timeout_s)
    try:
        with database.open() as connection:
            for statement in statements:
                connection.execute(statement)
    except duckdb.Error as error:
        raise map_error(error, f"the views could not be made in {path}") from error
    finally:
        database.close()


def _run_in_bigquery(project_id: str, statements: Sequence[str], client: bigquery.Client | None) -> None:
    from google.api_core.exceptions import GoogleAPIError  # noqa: PLC0415 -- an extra; the embedded default needs none

    from onerow.adapters.bigquery.address import connect  # noqa: PLC0415 -- an extra

    own = client if client is not None else connect(project_id)
    try:
        for statement in statements:
            own.query_and_wait(statement)
    except GoogleAPIError as error:
        raise WarehouseError(f"BigQuery has refused a schema statement: {error}") from error
    finally:
        if client is None:
            own.close()  # type: ignore[no-untyped-call]


def main(arguments: Sequence[str] | None = None) -> int:
    """Put tables and monitor views in place; without --apply the statements are shown, and nothing is done."""
    parser = argparse.ArgumentParser(prog="python -m predictions.schemas", description=main.__doc__)
    parser.add_argument("--project", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--apply", action="store_true", help="do it")
    asked = parser.parse_args(arguments)
    project_id = settings.project_of(asked.project)
    try:
        found = settings.settings_of(project_id)
        if not asked.apply:
            tables = table_statements(found) if found.warehouse.scheme == "bigquery" else []
            init = f"-- then: onerow --config {settings.folder_of(project_id) / 'onerow.toml'} init"
            sys.stdout.write(";\n\n".join([*tables, init, *view_statements(found)]) + ";\n")
            return 0
        made = create_tables(project_id)
        with onerow.open(found) as store:
            made += store.init()
        made += create_views(project_id)
        sys.stdout.write("".join(f"in place: {line}\n" for line in made))
    except OnerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
