"""Steps that every transaction under the guard shares: merges, repairs, people's own statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onerow.adapters.warehouse.duckdb.database import row, rows
from onerow.core.partitions import encode_partition
from onerow.errors import DuplicatesError, LockStoreMismatchError, NotInstalledError, StaleLeaseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

    from onerow.core.spec import TableSpec

MAX_NAMED_KEYS = 10
STAND_TWICE = "business keys of {table!r} stand more than once"

HistoryCounts = tuple[str | None, int | None, int, int, int, int, int, int]
"""Partition, token, parts, rows staged, inserted, updated, unchanged and superseded."""


def change_guard(
    connection: duckdb.DuckDBPyConnection, control: Mapping[str, str], name: str, lock_store: str | None
) -> None:
    """Change the guard row; of two transactions that do so at once one fails.

    Args:
        connection: inside a transaction.
        control: the statements of ``control.sql``.
        name: the table.
        lock_store: identity of the lock store that the tokens come from; None without a lock.

    Raises:
        NotInstalledError: there is no guard row, or there are several.
        LockStoreMismatchError: the table is used with another lock store.
    """
    (changed,) = row(connection, control["change_guard"], name)
    if changed != 1:
        raise NotInstalledError(
            f"The table {name!r} has {changed} guard rows instead of one.",
            hint="Run `onerow init`." if changed == 0 else "Someone else wrote to the control tables.",
        )
    there, _ = row(connection, control["read_guard"], name)
    if lock_store is not None and there != lock_store:
        raise LockStoreMismatchError(
            f"The table {name!r} is used with the lock store {there}, not with {lock_store}: "
            "two stores would be two locks.",
            hint="If the old one is really out of use, run `onerow init --adopt-locks`.",
        )


def raise_fences(
    connection: duckdb.DuckDBPyConnection,
    control: Mapping[str, str],
    name: str,
    tokens: Mapping[str | None, int | None],
) -> None:
    """Compare tokens with the fences of their partitions and raise these; None is no token.

    Raises:
        StaleLeaseError: a higher token has committed for one of them.
    """
    held = {partition or "": token for partition, token in tokens.items() if token is not None}
    if not held:
        return
    fences = rows(connection, control["read_fences"], name, list(held))
    for partition, fence in fences:
        if fence > held[partition]:
            raise StaleLeaseError(
                f"A transaction on {name}/{partition} with token {fence} has committed; this one has "
                f"token {held[partition]}.",
                fence=fence,
                hint="Its lease had passed to somebody else; staging is kept. Run it again.",
            )
    if fences:
        rows(connection, control["delete_fences"], name, list(held))
    rows(connection, control["insert_fences"], name, list(held), list(held.values()))


def write_history(
    connection: duckdb.DuckDBPyConnection,
    control: Mapping[str, str],
    entries: Sequence[HistoryCounts],
    *,
    action: str,
    table: str,
    holder: str,
    batch: str = "",
    run: str = "",
    attempt: int = 0,
    unlocked: bool = False,
    merge_s: float = 0.0,
    verify_s: float = 0.0,
    reason: str = "",
) -> None:
    """Write entries of one transaction into the history, one a partition."""
    rows(
        connection,
        control["insert_history"],
        *(action, table, batch, run, attempt, unlocked, holder, merge_s, verify_s, reason),
        *(list(values) for values in zip(*entries, strict=True)),
    )


def partition_name(spec: TableSpec, value: Any) -> str | None:
    """Return the name of the partition that a value of the partition column stands for."""
    return None if spec.partition is None else encode_partition(value)


def describe_key(spec: TableSpec, values: Sequence[Any]) -> str:
    """Return a key as text for people: column=value, value 'x' for text and NULL for none."""
    return ", ".join(
        f"{name}={'NULL' if value is None else repr(value) if isinstance(value, str) else value}"
        for name, value in zip(spec.row_identity, values, strict=False)
    )


def duplicates_error(
    spec: TableSpec, found: Sequence[tuple[Any, ...]], partitions: Sequence[str | None], what: str = STAND_TWICE
) -> DuplicatesError:
    """Return the error for keys that stand more than once, with the command that repairs them.

    Args:
        spec: the table.
        found: for each key its columns and, last, its number of rows.
        partitions: where they stand.
        what: what is wrong with them; ``{table}`` stands for the table's name.
    """
    keys = [describe_key(spec, values[:-1]) for values in found[:MAX_NAMED_KEYS]]
    more = "" if len(found) <= MAX_NAMED_KEYS else f" and {len(found) - MAX_NAMED_KEYS} or more others"
    scope = f" --partition {partitions[0]}" if partitions and partitions[0] is not None else ""
    return DuplicatesError(
        f"{len(found)} {what.format(table=spec.name)}: {'; '.join(keys)}{more}.",
        keys=keys,
        partitions=partitions,
        hint="The transaction was rolled back, staging is kept. See what a repair would do with "
        f"`onerow dedupe --table {spec.name}{scope}`, add --apply to do it, and run this again.",
    )
