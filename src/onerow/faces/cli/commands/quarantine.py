"""``onerow quarantine``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onerow.faces.cli.shared import Group, Invocation, table_option

if TYPE_CHECKING:
    from onerow.core.parts import Quarantined


@click.group(cls=Group)
def quarantine() -> None:
    """Look at rows that were put aside because they break their table's contract.

    A table with `on_bad_row = "quarantine"` has its good rows staged and the bad ones kept here, as they
    came. What was put aside is never merged: correct the rows and stage them again.

    \b
    onerow quarantine list --batch 2026-01-17
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are


@quarantine.command("list")
@table_option(required=False)
@click.option("--batch", metavar="BATCH", help="Only of this batch.")
@click.pass_obj
def list_(asked: Invocation, /, *, table: str | None, batch: str | None) -> int:
    """List what was put aside, by table, batch and worker.

    \b
    onerow quarantine list --table props
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Column, Printer, count

    printer = Printer(asked)
    with open_store(asked.config) as store:
        entries = [entry for entry in store.quarantined(table) if batch in {None, entry.batch}]
    if printer.json:
        printer.document([_to_json(entry) for entry in entries])
        return 0
    rows = sum(entry.rows for entry in entries)
    printer.line(f"{count(rows, 'row')} in quarantine, {count(len(entries), 'entry', 'entries')}", "bold")
    if entries:
        printer.table(
            [
                Column("entry"),
                Column("table"),
                Column("batch"),
                Column("worker"),
                Column("source"),
                Column("rows", number=True),
                Column("put aside at (UTC)"),
            ],
            [
                (
                    entry.quarantine_id,
                    entry.table,
                    entry.batch,
                    entry.worker,
                    entry.source,
                    entry.rows,
                    entry.put_aside_at[:19].replace("T", " "),
                )
                for entry in entries
            ],
        )
    return 0


@quarantine.command()
@click.argument("entry", metavar="ENTRY")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="How many rows at most (20).")
@click.pass_obj
def show(asked: Invocation, /, *, entry: str, limit: int) -> int:
    """Show the rows of an entry: where they stood in their source, what is wrong, and their values.

    Values are text, as they came; a value that was NULL is null in JSON.

    \b
    onerow quarantine show q0123456789abcdef0123456789abcdef --limit 1000000 --output json
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    import itertools

    from onerow.bootstrap import open_store
    from onerow.core.quarantine import bad_row_to_json
    from onerow.faces.cli.output import Printer, count

    printer = Printer(asked)
    with open_store(asked.config) as store:
        found, rows = store.quarantined_rows(entry)
        shown = list(itertools.islice(rows, limit))
    if printer.json:
        printer.document({**_to_json(found), "shown": [bad_row_to_json(row) for row in shown]})
        return 0
    printer.line(
        f"{count(found.rows, 'row')} of {found.source}, table {found.table!r}, batch {found.batch!r}, "
        f"worker {found.worker!r}",
        "bold",
    )
    for row in shown:
        printer.line(f"{row.position}: {'; '.join(row.problems)}")
        printer.line("  " + ", ".join(f"{name}={_said(text)}" for name, text in row.values.items()), "dim")
    if len(shown) < found.rows:
        printer.line(f"... and {found.rows - len(shown):,} more; --limit shows more of them")
    return 0


def _said(text: str | None) -> str:
    return "NULL" if text is None else repr(text)


def _to_json(entry: Quarantined) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__slots__}
