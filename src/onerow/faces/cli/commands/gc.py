"""``onerow gc``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onerow.faces.cli.shared import DURATION, Command, Invocation

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(cls=Command)
@click.option(
    "--older-than",
    type=DURATION,
    metavar="TIME",
    help="Only what was merged at least so long ago, such as 24h; else keep_merged of the configuration.",
)
@click.option("--apply", "applied", is_flag=True, help="Do it. Without this the plan is shown.")
@click.pass_obj
def gc(asked: Invocation, /, *, older_than: float | None, applied: bool) -> int:
    """Remove the data of parts that were merged long ago.

    What crashed writers have left behind goes too, and a lake's small files are merged and its old snapshots
    forgotten. Only parts that the ledger still names as merged for all
    their partitions go, by identity. Shows its plan and does nothing, until it is given --apply.

    \b
    onerow gc
    onerow gc --older-than 7d --apply
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Column, Printer, count
    from onerow.services.retention import Retention

    printer = Printer(asked)
    with open_store(asked.config) as store:
        older_than_s = store.keep_merged_s if older_than is None else older_than
        retention = Retention(warehouse=store.ports.warehouse, parts=store.ports.parts)
        plan = retention.plan(store.tables.values(), older_than_s=older_than_s)
        purged, removed = retention.apply(plan, older_than_s=older_than_s) if applied else (0, plan.remains)
        upkeep: Sequence[str] = plan.upkeep
        if applied:
            upkeep = retention.keep_up(store.tables.values(), leases=store.ports.leases, holder=store.holder)
    if printer.json:
        printer.document(
            {
                "applied": applied,
                "older_than_s": older_than_s,
                "parts": [
                    {
                        "table": part.table,
                        "batch": part.batch,
                        "part": part.part_id,
                        "rows": part.rows,
                        "size_bytes": part.size_bytes,
                    }
                    for part in plan.parts
                ],
                "size_bytes": plan.size_bytes,
                "parts_removed": purged,
                "remains": list(removed),
                "unmerged": [part.part_id for part in plan.unmerged],
                "upkeep": list(upkeep),
            }
        )
        return 0
    size = f"{plan.size_bytes / 1e6:,.1f} MB"
    if not (plan.parts or plan.remains or upkeep):
        printer.line("nothing to remove", "bold")
    elif applied:
        printer.line(f"removed: the data of {count(purged, 'merged part')} ({size}) and "
                     f"{count(len(removed), 'remain')} of crashed writers", "bold")  # fmt: skip
    else:
        printer.line(f"would remove: the data of {count(len(plan.parts), 'merged part')} ({size}) and "
                     f"{count(len(plan.remains), 'remain')} of crashed writers", "bold")  # fmt: skip
    batches: dict[tuple[str, str], list[int]] = {}
    for part in plan.parts:
        batches.setdefault((part.table, part.batch), []).append(part.size_bytes)
    if batches:
        printer.table(
            [Column("table"), Column("batch"), Column("parts", number=True), Column("bytes", number=True)],
            [(table, batch, len(sizes), sum(sizes)) for (table, batch), sizes in batches.items()],
        )
    for place in removed:
        printer.line(f"  remains: {place}")
    for line in upkeep:
        printer.line(f"  upkeep: {line}")
    if plan.unmerged:
        printer.warn(
            f"{count(len(plan.unmerged), 'part')} were merged once, but the ledger does not name them any more: the "
            "warehouse was restored to an earlier moment. They are kept; `onerow batches list` shows their "
            "batches, consolidate these again."
        )
    if not applied and (plan.parts or plan.remains or plan.upkeep):
        printer.line("Nothing was changed. To do it, add: --apply")
    return 0
