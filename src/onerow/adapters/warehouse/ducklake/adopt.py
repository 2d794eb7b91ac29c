"""Any existing table of a DuckLake, for a check without configuration; nothing of the lake is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.warehouse.duckdb.adopt import ExistingTable, adopt
from onerow.adapters.warehouse.ducklake.lake import Lake, catalog_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def open_existing(
    catalog: Path | str,
    data_path: str,
    *,
    target: tuple[str, ...],
    key: Sequence[str],
    partition_column: str | None,
    id_column: str | None,
    busy_timeout_s: float,
) -> ExistingTable:
    """Return a table with a spec of the columns that it is to be checked by.

    Args:
        catalog: path of a SQLite file, or a PostgreSQL URL.
        data_path: absolute folder or object store URL of the lake's files.
        target: schema and table, or table.
        key: columns that name a row.
        partition_column: a column that is part of a row's identity.
        id_column: a column to show for each duplicate.
        busy_timeout_s: how long to wait for others, in seconds.

    Raises:
        UsageError: there is no such table or column; near names are told.
        NotInstalledError: there is no lake.
        WarehouseError: it cannot be read.
    """
    place = catalog_of(catalog, busy_timeout_s=busy_timeout_s)
    lake = Lake(place, data_path, busy_timeout_s=busy_timeout_s, only_looks=True)
    return adopt(lake, place.shown, target=target, key=key, partition_column=partition_column, id_column=id_column)
