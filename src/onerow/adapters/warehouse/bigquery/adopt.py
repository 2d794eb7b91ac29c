"""Any existing table of BigQuery, for a check without configuration.

The check needs quoted column names and nothing else, so the spec that is built here declares only the columns it looks
at. Types that no key of ours may have, such as FLOAT64, are looked at all the same.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from onerow.adapters.bigquery.client import BigQuery
from onerow.adapters.warehouse.bigquery.inspection import inspect
from onerow.core.spec import Column, TableSpec
from onerow.core.types import ColumnType, parse_type
from onerow.errors import NotInstalledError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onerow.adapters.bigquery.tables import Table
    from onerow.ports.warehouse import InspectRequest, TableCheck

# Partition columns whose values can be named in text; any other is compared as text.
_PARTITION_TYPES: Final = {"DATE": "date", "BOOL": "bool", "INT64": "int64"}


class ExistingTable:
    """A table that is looked at and never merged into; it needs no control tables."""

    def __init__(self, client: BigQuery, spec: TableSpec) -> None:
        self._client = client
        self.spec = spec

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates and keys in several partitions.

        Raises:
            WarehouseError: the table cannot be read.
        """
        return inspect(self._client, request)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()


def open_existing(
    url: str,
    *,
    target: tuple[str, ...],
    key: Sequence[str],
    partition_column: str | None,
    id_column: str | None,
) -> ExistingTable:
    """Return a table with a spec of the columns that it is to be checked by.

    Args:
        url: project and dataset.
        target: table, dataset and table, or project, dataset and table.
        key: columns that name a row.
        partition_column: a column that is part of a row's identity.
        id_column: a column to show for each duplicate.

    Raises:
        UsageError: there is no such table or column; near names are told.
        WarehouseError: it cannot be read.
    """
    client = BigQuery(url)
    try:
        return ExistingTable(client, _spec(_look(client, target), target, key, partition_column, id_column))
    except BaseException:
        client.close()
        raise


def _look(client: BigQuery, target: tuple[str, ...]) -> Table:
    if len(target) > 3:  # noqa: PLR2004 -- project, dataset, table
        shown = ".".join(target)
        raise UsageError(f"The name of a table is table, dataset.table or project.dataset.table, not {shown!r}.")
    name = client.names.target(TableSpec("any", target, ("k",), ("k",), (Column("k", ColumnType("string")),)))
    found = client.table(name)
    if found is not None:
        return found
    try:
        known = [str(item.table_id) for item in client.tables(name.dataset)]
    except NotInstalledError as error:
        raise UsageError(f"There is no dataset {name.project}.{name.dataset}.") from error
    raise UsageError(f"There is no table {name}.", hint=_near(name.table, known))


def _spec(
    table: Table,
    target: tuple[str, ...],
    key: Sequence[str],
    partition_column: str | None,
    id_column: str | None,
) -> TableSpec:
    name = ".".join(target)
    found_key = tuple(dict.fromkeys(_column(column, table) for column in key))
    partition = None if partition_column is None else _column(partition_column, table)
    identifier = None if id_column is None else _column(id_column, table)
    kinds = {column: ColumnType("string") for column in (*found_key, partition, identifier) if column}
    if partition is not None:
        kinds[partition] = parse_type(_PARTITION_TYPES.get(table.by_name[partition].type, "string"))
    return TableSpec(
        name=name.replace("/", "_"),
        target=target,
        key=found_key,
        order_by=found_key,
        columns=tuple(Column(column, kind) for column, kind in kinds.items()),
        partition=partition,
        id_column=identifier,
    )


def _column(name: str, table: Table) -> str:
    for column in table.by_name:
        if column.casefold() == name.casefold():
            return column
    raise UsageError(f"The table {table.name} has no column {name!r}.", hint=_near(name, table.by_name))


def _near(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return f"Names that come near: {', '.join(near)}." if near else f"There are: {', '.join(names[:20]) or 'none'}."
