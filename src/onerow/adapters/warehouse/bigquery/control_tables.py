"""The control tables: their columns, and how they are made so that a guard row is there once and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.cloud import bigquery
from sqlglot import exp

from onerow.adapters.bigquery.client import REQUEST_TIMEOUT_S
from onerow.adapters.bigquery.names import CONTROL_TABLES, DIALECT
from onerow.adapters.bigquery.patience import ONCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.names import Names, TableName

SCHEMA_VERSION: Final = "1"
GUARDS: Final = "guards"

_COLUMNS: Final[Mapping[str, str]] = {
    "meta": "name STRING NOT NULL, value STRING NOT NULL",
    # One row. `origin` is "created" or "adopted"; `claimed_by` names the job whose turn it is, `changed_by` the last.
    GUARDS: "table_name STRING NOT NULL, attempt INT64 NOT NULL, lock_store STRING NOT NULL, origin STRING NOT NULL, "
    "claimed_by STRING, changed_by STRING",
    # The partition of a table without partitions is ''; of several rows of a scope the highest token counts.
    "fences": "table_name STRING NOT NULL, partition STRING NOT NULL, token INT64 NOT NULL",
    # The partition of a table without partitions is NULL; the empty text is a partition like any other.
    "ledger": "table_name STRING NOT NULL, partition STRING, part_id STRING NOT NULL, batch STRING NOT NULL, "
    "consolidation STRING NOT NULL, rows_staged INT64 NOT NULL",
    "history": "action STRING NOT NULL, table_name STRING NOT NULL, partition STRING, batch STRING NOT NULL, "
    "consolidation STRING NOT NULL, attempt INT64 NOT NULL, token INT64, unlocked BOOL NOT NULL, "
    "holder STRING NOT NULL, parts INT64 NOT NULL, rows_staged INT64 NOT NULL, rows_inserted INT64 NOT NULL, "
    "rows_updated INT64 NOT NULL, rows_unchanged INT64 NOT NULL, rows_superseded INT64 NOT NULL, "
    "merge_s FLOAT64 NOT NULL, verify_s FLOAT64 NOT NULL, committed_at TIMESTAMP NOT NULL, reason STRING NOT NULL, "
    "job STRING, bytes_processed INT64, slot_ms INT64",
}
_CLUSTERING: Final[Mapping[str, tuple[str, ...]]] = {
    "ledger": ("table_name", "batch"),
    "history": ("table_name", "consolidation"),
}


def columns_of(name: str) -> list[bigquery.SchemaField]:
    """Return the columns of a control table."""
    fields = []
    for definition in _COLUMNS[name].split(", "):
        column, kind, *rest = definition.split(" ")
        fields.append(bigquery.SchemaField(column, kind, mode="REQUIRED" if rest else "NULLABLE"))
    return fields


def create_control_table(client: BigQuery, name: str, place: TableName) -> None:
    """Make a control table that is empty at first; of several who do so at once one makes it."""
    table = bigquery.Table(place.reference, schema=columns_of(name))
    table.clustering_fields = list(_CLUSTERING[name]) if name in _CLUSTERING else None
    table.description = f"{name} of onerow; do not change by hand"
    client.call(
        f"the control table {place} could not be made",
        lambda api: api.create_table(table, exists_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
    )


def create_guard(client: BigQuery, place: TableName, *, table: str, lock_store: str, origin: str) -> None:
    """Make the guard table with its row, in one statement.

    Two rows would be two guards, and rows that two processes insert conflict with nothing; but of two who make a table
    of one name only one succeeds, so the row comes with the table.
    """
    values: Mapping[str, exp.Expr] = {
        "table_name": exp.Literal.string(table),
        "attempt": exp.Literal.number(0),
        "lock_store": exp.Literal.string(lock_store),
        "origin": exp.Literal.string(origin),
        "claimed_by": exp.cast(exp.null(), "TEXT"),
        "changed_by": exp.cast(exp.null(), "TEXT"),
    }
    row = exp.select(*(exp.alias_(node, name, quoted=True) for name, node in values.items()))
    definitions = [
        exp.ColumnDef(
            this=exp.to_identifier(field.name, quoted=True),
            kind=exp.DataType.build(field.field_type, dialect=DIALECT),
            constraints=[exp.ColumnConstraint(kind=exp.NotNullColumnConstraint())] if field.mode == "REQUIRED" else [],
        )
        for field in columns_of(GUARDS)
    ]
    schema = exp.Schema(this=place.node(), expressions=definitions)
    create = exp.Create(this=schema, kind="TABLE", exists=True, expression=row)
    client.run(create.sql(DIALECT))


def control_tables_of(names: Names, table: str) -> list[TableName]:
    """Return all control tables that the target ``table`` needs."""
    return [names.control_table(name, table) for name in CONTROL_TABLES]
