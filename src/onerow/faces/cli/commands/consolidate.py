"""``onerow consolidate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onerow.faces.cli.shared import DURATION, Command, Invocation, table_option

if TYPE_CHECKING:
    from onerow.faces.cli.output import Printer
    from onerow.services.store import Store


@click.command(cls=Command)
@table_option(required=True)
@click.option("--batch", required=True, metavar="BATCH", help="The batch to merge.")
@click.option("--partition", "partitions", multiple=True, metavar="P", help="Only this partition; repeatable.")
@click.option("--max-wait", type=DURATION, metavar="TIME", help="How long to wait for a lock, such as 300s.")
@click.option("--no-lock", is_flag=True, help="Take no lock. The result is right all the same, work may be wasted.")
@click.option("--keep-staging", is_flag=True, help="Leave merged parts where they are.")
@click.option("--dry-run", is_flag=True, help="Show what would be merged; take no lock, change nothing.")
@click.pass_obj
def consolidate(
    asked: Invocation,
    /,
    *,
    table: str,
    batch: str,
    partitions: tuple[str, ...],
    max_wait: float | None,
    no_lock: bool,
    keep_staging: bool,
    dry_run: bool,
) -> int:
    """Merge what waits of a batch into its table, exactly once.

    Partition by partition, under a lock, in a transaction that is verified before it commits. What is
    merged already is found in the ledger and left alone, so running it again is always safe.

    \b
    onerow consolidate --table props --batch 2026-01-17
    onerow consolidate --table props --batch 2026-01-17 --partition 2026-01-16 --max-wait 60s
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    import time

    from onerow.bootstrap import open_store
    from onerow.faces.cli import consolidations
    from onerow.faces.cli.output import Printer
    from onerow.faces.cli.progress import metering

    printer = Printer(asked)
    with open_store(asked.config) as store:
        if dry_run:
            return _dry_run(printer, store, table, batch, partitions)
        if no_lock:
            printer.warn(
                "--no-lock: no lock is taken and no token is checked. The table stays right, but a "
                "consolidation that runs beside this one may do the same work for nothing."
            )
        started_s = time.monotonic()
        with metering(asked) as meter:
            meter.begin(f"consolidating {batch}")
            result = store.consolidate(
                table,
                batch,
                partitions=partitions or None,
                max_wait_s=max_wait,
                use_lock=not no_lock,
                keep_staging=keep_staging,
                on_group=meter.step,
            )
        elapsed_s = time.monotonic() - started_s
        store.runs.record(result, elapsed_s=elapsed_s, holder=store.holder)
    consolidations.show(printer, result, elapsed_s)
    return result.exit_code


def _dry_run(printer: Printer, store: Store, table: str, batch: str, partitions: tuple[str, ...]) -> int:
    """Show what waits, partition by partition."""
    from onerow.core.partitions import canonical_partition
    from onerow.faces.cli.output import Column, count

    spec = store.table(table)
    wanted = {canonical_partition(text, spec) for text in partitions}
    parts = [part for part in store.batches.batch(spec, batch).parts if part.manifest.state != "discarded"]
    names = {name for part in parts for name in (*part.waiting_partitions, *part.merged_partitions)}
    rows = []
    for name in sorted(names if not wanted else names & wanted, key=str):
        waiting = [part.manifest for part in parts if name in part.waiting_partitions]
        rows.append(
            {
                "partition": name,
                "parts": len(waiting),
                "rows_staged": sum(part.rows_of(name) for part in waiting),
                "parts_merged": sum(name in part.merged_partitions for part in parts),
            }
        )
    open_rows = [row for row in rows if row["parts"]]
    merged_into = [None if row["partition"] is None else str(row["partition"]) for row in open_rows]
    estimate = store.estimate(table, merged_into) if merged_into else None
    if printer.json:
        cost = None if estimate is None else {"touched": estimate.bytes_touched, "table": estimate.bytes_table}
        printer.document({"dry_run": True, "table": table, "batch": batch, "partitions": rows, "bytes": cost})
        return 0
    parts_count = len({part.manifest.part_id for part in parts for name in part.waiting_partitions
                       if not wanted or name in wanted})  # fmt: skip
    printer.line(
        f"dry run: {count(sum(int(str(row['rows_staged'])) for row in rows), 'row')} in "
        f"{count(parts_count, 'part')} would be merged into {count(len(open_rows), 'partition')}; nothing was changed",
        "bold",
    )
    if estimate is not None:
        pruned = "other partitions are pruned" if estimate.bytes_touched < estimate.bytes_table else "nothing is pruned"
        printer.line(
            f"these partitions hold {estimate.bytes_touched:,} bytes of the table's {estimate.bytes_table:,}; {pruned}"
        )
    if rows:
        printer.table(
            [
                Column("partition"),
                Column("parts", number=True),
                Column("rows staged", number=True),
                Column("parts merged already", number=True),
            ],
            [tuple(row.values()) for row in rows],
        )
    return 0
