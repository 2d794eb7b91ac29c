"""``onerow history``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onerow.faces.cli.shared import Command, Invocation, table_option

if TYPE_CHECKING:
    from onerow.ports.warehouse import HistoryEntry


@click.command(cls=Command)
@table_option(required=False)
@click.option("--batch", metavar="BATCH", help="Only this batch.")
@click.option("--limit", type=click.IntRange(min=1), default=50, help="How many entries at most (50).")
@click.pass_obj
def history(asked: Invocation, /, *, table: str | None, batch: str | None, limit: int) -> int:
    """Show what was committed, newest first.

    These are consolidations, forced releases of locks, and discards of batches.

    \b
    onerow history --table props --limit 10
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Column, Printer, count

    printer = Printer(asked)
    with open_store(asked.config) as store:
        entries = store.history(table, batch=batch, limit=limit)
        several = len(store.tables) > 1
    if printer.json:
        printer.document([_to_json(entry) for entry in entries])
        return 0
    shown = f"{count(len(entries), 'entry', 'entries')}, newest first"
    printer.line(shown if len(entries) < limit else f"the latest {shown}", "bold")
    if entries:
        printer.table(
            [
                Column("committed at (UTC)"),
                *([Column("table")] if several else []),
                Column("partition"),
                Column("batch"),
                Column("staged", number=True),
                Column("inserted", number=True),
                Column("updated", number=True),
                *([Column("remark")] if any(_remark(entry) for entry in entries) else []),
            ],
            [
                (
                    entry.committed_at.isoformat(sep=" ", timespec="seconds")[:19],
                    *([entry.table] if several else []),
                    entry.partition,
                    entry.batch or "-",
                    entry.rows_staged,
                    entry.rows_inserted,
                    entry.rows_updated,
                    *([_remark(entry)] if any(_remark(other) for other in entries) else []),
                )
                for entry in entries
            ],
        )
    return 0


def _remark(entry: HistoryEntry) -> str:
    if entry.action == "consolidate":
        return "unlocked" if entry.unlocked else ""
    run = f" {entry.consolidation}" if entry.consolidation else ""
    told = [entry.reason] if entry.reason else []
    if entry.action in {"dedupe", "restore"}:
        told.append(f"{entry.rows_superseded:,} {'row' if entry.rows_superseded == 1 else 'rows'} moved aside")
    return f"{entry.action.replace('_', ' ')}{run} by {entry.holder}{': ' if told else ''}{', '.join(told)}"


def _to_json(entry: HistoryEntry) -> dict[str, Any]:
    data = {name: getattr(entry, name) for name in entry.__slots__}
    data["committed_at"] = entry.committed_at.isoformat() + ("" if entry.committed_at.tzinfo else "Z")
    return data
