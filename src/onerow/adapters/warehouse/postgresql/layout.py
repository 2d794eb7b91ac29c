"""Where the parts of a table are staged: one table a target, and the data of a part by its number."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from onerow.adapters.postgresql.connection import rows
from onerow.adapters.warehouse.postgresql import sql
from onerow.errors import PartCorruptError, PartGoneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.core.parts import PartManifest
    from onerow.core.types import ColumnType

READABLE_CHARS: Final = 30
_DATA: Final = re.compile(r"(staged_[a-z0-9_]+)/([0-9]{1,19})")


def staging_name(table: str) -> str:
    """Return the staging table's name: readable in front, told apart by a digest of the exact name behind."""
    readable = re.sub(r"[^a-z0-9]+", "_", table.lower()).strip("_")[:READABLE_CHARS]
    digest = hashlib.sha256(table.encode()).hexdigest()[:16]
    return f"staged_{readable}_{digest}" if readable else f"staged_{digest}"


def staging_table(schema: str, table: str) -> sql.Identifier:
    """Return the full name of the staging table of ``table``."""
    return sql.Identifier(schema, staging_name(table))


def staging_type(column_type: ColumnType) -> sql.Piece:
    """Return type and collation of a staged column. JSON waits as the text that it came as."""
    if column_type.kind == "json":
        return sql.SQL('text collate "C"')
    return sql.definition(column_type)


def data_name(table: str, number: int) -> str:
    """Return what a manifest says of where the rows of part ``number`` are."""
    return f"{staging_name(table)}/{number}"


def data_number(part: PartManifest) -> int:
    """Return the number of a part's rows.

    Raises:
        PartCorruptError: the manifest names a place that is not the part's.
    """
    match = _DATA.fullmatch(part.data)
    if match is None or match[1] != staging_name(part.table):
        raise PartCorruptError(f"The manifest of part {part.part_id} names {part.data!r} as its data.")
    return int(match[2])


def check_rows(connection: Connection, schema: str, parts: Sequence[PartManifest]) -> None:
    """Check that parts of one table have as many rows in staging as their manifests say.

    Raises:
        PartGoneError: one has none.
        PartCorruptError: one has others.
    """
    numbers = {data_number(part): part for part in parts}
    found: dict[int, int] = {}
    if parts:
        statement = sql.SQL(
            "select {part}, count(*) from {table} where {part} = any ($1::bigint[]) group by 1"
        ).format(part=sql.column(sql.PART), table=staging_table(schema, parts[0].table))
        found = dict(rows(connection, statement, list(numbers)))
    for number, part in numbers.items():
        if number not in found:
            raise PartGoneError(
                f"The rows of part {part.part_id} of worker {part.worker!r} are gone from staging.",
                hint="If the ledger does not name the part, have the worker stage its rows again.",
            )
        if found[number] != part.rows:
            raise PartCorruptError(
                f"Part {part.part_id} of worker {part.worker!r} has {found[number]} rows in staging; its manifest "
                f"says {part.rows}.",
                hint="It was not merged. Remove its rows and have the worker stage them again.",
            )
