"""``onerow batches``: list, show, discard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onerow.faces.cli.shared import Group, Invocation, table_option

if TYPE_CHECKING:
    from onerow.core.spec import TableSpec
    from onerow.services.store import Store


@click.group(cls=Group)
def batches() -> None:
    """Look at batches, or give one up.

    \b
    onerow batches list
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are


@batches.command("list")
@table_option(required=False)
@click.pass_obj
def list_batches(asked: Invocation, /, *, table: str | None) -> int:
    """List all batches, the latest staged first.

    These are the batches that staging or the ledger knows of.

    \b
    onerow batches list --table props
    """  # noqa: D301
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Column, Printer, count

    printer = Printer(asked)
    with open_store(asked.config) as store:
        specs = [store.table(table)] if table is not None else list(store.tables.values())
        views = [view for spec in specs for view in store.batches.batches(spec)]
        several = len(store.tables) > 1
    if printer.json:
        printer.document([view.to_json() for view in views])
        return 0
    waiting = sum(view.state in {"staged", "partly_merged"} for view in views)
    printer.line(f"{count(len(views), 'batch', 'batches')}, {waiting:,} not wholly merged", "bold")
    if views:
        printer.table(
            [
                *([Column("table")] if several else []),
                Column("batch"),
                Column("state"),
                Column("merged"),
                Column("rows", number=True),
                Column("staged at (UTC)"),
            ],
            [
                (
                    *([view.table] if several else []),
                    view.batch,
                    view.state.replace("_", " "),
                    f"{view.parts_merged} of {view.part_count} parts",
                    view.rows,
                    _moment(view.last_staged_at),
                )
                for view in views
            ],
        )
    return 0


@batches.command()
@click.argument("batch", metavar="BATCH")
@table_option(required=False)
@click.pass_obj
def show(asked: Invocation, /, *, batch: str, table: str | None) -> int:
    """Show a batch with its parts: what waits, what is merged.

    \b
    onerow batches show 2026-01-17
    """  # noqa: D301
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Column, Printer, count

    printer = Printer(asked)
    with open_store(asked.config) as store:
        view = store.batches.batch(_table_of(store, table, batch), batch)
    if printer.json:
        printer.document(view.to_json(with_parts=True))
        return 0
    printer.line(
        f"{view.state.replace('_', ' ')}: batch {view.batch!r} of table {view.table!r}, "
        f"{view.parts_merged} of {count(view.part_count, 'part')} merged, {count(view.rows, 'row')}",
        "bold",
    )
    if not view.parts:
        printer.line("Its parts are gone from staging; the ledger has them.")
        return 0
    printer.table(
        [Column("part"), Column("worker"), Column("state"), Column("rows", number=True), Column("waits for")],
        [
            (
                part.manifest.part_id[:12],
                part.manifest.worker,
                part.manifest.state,
                part.manifest.rows,
                _few(part.waiting_partitions) if part.manifest.state != "discarded" else "-",
            )
            for part in view.parts
        ],
    )
    return 0


@batches.command()
@click.argument("batch", metavar="BATCH")
@table_option(required=False)
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is kept in the audit.")
@click.option("--apply", "applied", is_flag=True, help="Do it. Without this the plan is shown.")
@click.option("--plan", metavar="DIGEST", help="Refuse unless the plan is still the one that was shown.")
@click.pass_obj
def discard(
    asked: Invocation,
    /,
    *,
    batch: str,
    table: str | None,
    reason: str,
    applied: bool,
    plan: str | None,
) -> int:
    """Give up what waits of a batch: its rows are never merged.

    Shows its plan and does nothing, until it is given --apply. What is merged already stays in the table.

    \b
    onerow batches discard 2026-01-17 --reason "wrong model"
    onerow batches discard 2026-01-17 --reason "wrong model" --apply --plan 1f0c33b0a1d2
    """  # noqa: D301
    from onerow.bootstrap import open_store
    from onerow.errors import UsageError
    from onerow.faces.cli.output import Column, Printer, count

    printer = Printer(asked)
    if plan is not None and not applied:
        raise UsageError("--plan goes with --apply.")
    with open_store(asked.config) as store:
        spec = _table_of(store, table, batch)
        if applied:
            found = store.batches.discard(spec, batch, reason=reason, by=store.holder, expected=plan)
        else:
            found = store.batches.plan_discard(spec, batch)
    if printer.json:
        printer.document(
            {
                "table": found.table,
                "batch": found.batch,
                "applied": applied,
                "plan": found.digest,
                "parts": [part.part_id for part in found.parts],
                "rows": found.rows,
                "partly_merged": found.partly_merged,
                "reason": reason,
            }
        )
        return 0
    what = f"{count(len(found.parts), 'part')} with {count(found.rows, 'row')} of batch {batch!r}"
    if not found.parts:
        printer.line(f"nothing to discard: nothing waits of batch {batch!r}", "bold")
        return 0
    printer.line(f"discarded: {what}" if applied else f"plan {found.digest}: would discard {what}", "bold")
    printer.table(
        [Column("part"), Column("worker"), Column("rows", number=True), Column("partitions")],
        [(part.part_id[:12], part.worker, part.rows, _few(tuple(part.partitions))) for part in found.parts],
    )
    if found.partly_merged:
        printer.line(f"{count(found.partly_merged, 'part')} of these are merged in part; that stays in the table.")
    if not applied:
        printer.line(f"Nothing was changed. To do it, add: --apply --plan {found.digest}")
    return 0


def _table_of(store: Store, table: str | None, batch: str) -> TableSpec:
    """Return the table that a batch belongs to.

    Raises:
        UsageError: several tables have a batch of this name.
        BatchNotFoundError: none has.
    """
    import difflib

    from onerow.errors import BatchNotFoundError, UsageError

    if table is not None:
        return store.table(table)
    if len(store.tables) == 1:
        return next(iter(store.tables.values()))
    ports = store.ports
    known = {
        spec.name: {*ports.parts.batches(spec.name), *ports.warehouse.batches(spec.name)}
        for spec in store.tables.values()
    }
    holders = [name for name, names in known.items() if batch in names]
    if len(holders) == 1:
        return store.table(holders[0])
    if holders:
        raise UsageError(
            f"The tables {' and '.join(map(repr, holders))} each have a batch {batch!r}.", hint="Name one with --table."
        )
    near = difflib.get_close_matches(batch, sorted(set().union(*known.values())), n=5, cutoff=0.5)
    raise BatchNotFoundError(
        f"There is no batch {batch!r} in any table.",
        near=near,
        hint=f"Names that come near: {', '.join(near)}." if near else "See `onerow batches list`.",
    )


def _moment(stamp: str | None) -> str | None:
    """Return an ISO 8601 time to the second."""
    return None if stamp is None else stamp[:19].replace("T", " ")


def _few(names: tuple[str | None, ...]) -> str:
    """Return the first partitions of several."""
    shown = [name for name in names if name]
    if not shown:
        return "the table" if names else "-"
    return ", ".join(shown[:3]) + (f", ... ({len(shown)})" if len(shown) > 3 else "")  # noqa: PLR2004
