"""Steps that every transaction under the guard shares: merges, repairs, people's own statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.postgresql.connection import in_turn, run
from onerow.core.partitions import encode_partition
from onerow.errors import DuplicatesError, LockStoreMismatchError, NotInstalledError, StaleLeaseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql import sql
    from onerow.core.spec import TableSpec

    Control = Mapping[str, sql.Composed]

MAX_NAMED_KEYS: Final = 10
STAND_TWICE: Final = "business keys of {table!r} stand more than once"

HistoryCounts = tuple[str | None, int | None, int, int, int, int, int, int]
"""Partition, token, parts, rows staged, inserted, updated, unchanged and superseded."""


def ensure_guards(connection: Connection, control: Control, name: str, partitions: Sequence[str | None]) -> None:
    """Make guard rows that are missing: who comes second finds the first one's."""
    run(connection, control["ensure_guards"], name, [partition or "" for partition in partitions])


def change_guards(connection: Connection, control: Control, name: str, partitions: Sequence[str | None]) -> int:
    """Change guard rows, made first if they are missing; return how many there are.

    A second transaction waits here for the first one's end, then sees what it did.
    """
    ensure_guards(connection, control, name, partitions)
    return run(connection, control["change_guards"], name, [partition or "" for partition in partitions])


def take_guards(
    connection: Connection,
    control: Control,
    name: str,
    partitions: Sequence[str | None],
    *,
    control_schema: str,
    lock_store: str | None,
) -> None:
    """Change the guard rows; a second transaction waits here for the first one's end, then sees what it did.

    Args:
        connection: inside a transaction.
        control: the statements of ``control.sql``.
        name: the table.
        partitions: those that are worked on, each once.
        control_schema: where the control tables stand.
        lock_store: identity of the lock store that the tokens come from; None without a lock.

    Raises:
        NotInstalledError: a guard row or the table's control row is missing.
        LockStoreMismatchError: the table is used with another lock store.
    """
    names = [partition or "" for partition in partitions]
    guards, _, table = in_turn(
        connection,
        (control["change_guards"], (name, names)),
        (control["share_table"], (control_schema, name)),
        (control["read_table"], (name,)),
    )
    changed, found = guards.rowcount, table.fetchall()
    if changed != len(names) or not found:
        raise NotInstalledError(
            f"The table {name!r} has {changed} guard rows for {len(names)} partitions.", hint="Run `onerow init`."
        )
    there = found[0][0]
    if lock_store is not None and there != lock_store:
        raise LockStoreMismatchError(
            f"The table {name!r} is used with the lock store {there}, not with {lock_store}: "
            "two stores would be two locks.",
            hint="If the old one is really out of use, run `onerow init --adopt-locks`.",
        )


def raise_fences(
    connection: Connection, control: Control, name: str, tokens: Mapping[str | None, int | None]
) -> None:
    """Compare tokens with the fences of their partitions and raise these; None is no token.

    A fence above the token is written over before it is compared; the refusal rolls it back.

    Raises:
        StaleLeaseError: a higher token has committed for one of them.
    """
    held = {partition or "": token for partition, token in tokens.items() if token is not None}
    if not held:
        return
    fences, *_ = in_turn(
        connection,
        (control["read_fences"], (name, list(held))),
        (control["delete_fences"], (name, list(held))),
        (control["insert_fences"], (name, list(held), list(held.values()))),
    )
    for partition, fence in fences.fetchall():
        if fence > held[partition]:
            raise StaleLeaseError(
                f"A transaction on {name}/{partition} with token {fence} has committed; this one has "
                f"token {held[partition]}.",
                fence=fence,
                hint="Its lease had passed to somebody else; staging is kept. Run it again.",
            )


def write_history(
    connection: Connection,
    control: Control,
    entries: Sequence[HistoryCounts],
    *,
    action: str,
    table: str,
    holder: str,
    batch: str = "",
    run_id: str = "",
    attempt: int = 0,
    unlocked: bool = False,
    merge_s: float = 0.0,
    verify_s: float = 0.0,
    reason: str = "",
    beside: tuple[sql.Composed, Sequence[object]] | None = None,
) -> None:
    """Write entries of one transaction into the history, one a partition; ``beside`` runs before."""
    about = (action, table, batch, run_id, attempt, unlocked, holder, merge_s, verify_s, reason)
    history = (control["insert_history"], (*about, *(list(values) for values in zip(*entries, strict=True))))
    in_turn(connection, *(() if beside is None else (beside,)), history)


def name_of(spec: TableSpec, value: Any) -> str | None:
    """Return the canonical name of a partition's value; None for a table without."""
    return None if spec.partition is None else encode_partition(value)


def describe_key(spec: TableSpec, values: Sequence[Any]) -> str:
    """Return a key as text for people: column=value, value 'x' for text and NULL for none."""
    texts = {column.name for column in spec.columns if column.type.kind == "string"}
    return ", ".join(
        f"{name}={'NULL' if value is None else repr(value) if name in texts else value}"
        for name, value in zip(spec.row_identity, values, strict=False)
    )


def duplicates_error(
    spec: TableSpec, found: Sequence[tuple[Any, ...]], what: str = STAND_TWICE
) -> DuplicatesError:
    """Return the error for keys that stand more than once, with the command that repairs them.

    Args:
        spec: the table.
        found: for each key its columns as text and, last, its number of rows.
        what: what is wrong with them; ``{table}`` stands for the table's name.
    """
    partitions = tuple(dict.fromkeys(values[0] if spec.partition is not None else None for values in found))
    keys = [describe_key(spec, values[:-1]) for values in found[:MAX_NAMED_KEYS]]
    more = "" if len(found) <= MAX_NAMED_KEYS else f" and {len(found) - MAX_NAMED_KEYS} or more others"
    scope = f" --partition {partitions[0]}" if partitions[0] is not None else ""
    return DuplicatesError(
        f"{len(found)} {what.format(table=spec.name)}: {'; '.join(keys)}{more}.",
        keys=keys,
        partitions=partitions,
        hint="The transaction was rolled back, staging is kept. See what a repair would do with "
        f"`onerow dedupe --table {spec.name}{scope}`, add --apply to do it, and run this again.",
    )
