"""Which refusal an error of the engine stands for, as long as nothing was committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.postgresql.sqlstate import classify, map_error, told
from onerow.adapters.warehouse.postgresql.install import index_name
from onerow.core.plans import Refused
from onerow.errors import DuplicatesError, FencedError, RowRefusedError

if TYPE_CHECKING:
    import psycopg

    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation


def refusal_of(error: psycopg.Error, spec: TableSpec, cancellation: Cancellation) -> Refused:
    """Return the refusal that an error before the commit stands for."""
    match classify(error):
        case "cancelled":
            try:
                cancellation.raise_if_cancelled()
            except FencedError as lost:
                return Refused("cancelled", lost)
            return Refused("conflict", map_error(error, "a statement was cancelled"))
        case "conflict" | "lost" | "busy":
            return Refused("conflict", map_error(error, "the transaction was ended by the server"))
        case "duplicate":
            return _duplicate(error, spec)
        case "row":
            where = f", column {error.diag.column_name!r}" if error.diag.column_name else ""
            return Refused(
                "failed",
                RowRefusedError(
                    f"The target refuses a row{where}: {told(error)}.",
                    hint='Declare the column as required ("TYPE not null") so that such rows are refused when staged.',
                ),
            )
        case _:
            return Refused("failed", map_error(error, "the merge failed"))


def _duplicate(error: psycopg.Error, spec: TableSpec) -> Refused:
    """Tell a race with a foreign writer, which another attempt meets, from a constraint of the table's own."""
    name = error.diag.constraint_name or "?"
    key = error.diag.message_detail or told(error)
    found = DuplicatesError(
        f"The unique index {name} refuses a row of {spec.name!r}: {key}",
        keys=[key],
        hint="The transaction was rolled back, staging is kept.",
    )
    return Refused("conflict" if name == index_name(spec) else "failed", found)
