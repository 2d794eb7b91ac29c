"""A consolidation for people: a verdict, what became of each partition, and what to do next."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from onerow.faces.cli.output import Column, count, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.core.results import ConsolidationResult, PartitionResult
    from onerow.faces.cli.output import Printer

MAX_PARTITIONS: Final = 20
_DONE: Final = frozenset({"committed", "already_merged", "nothing_staged"})


def verdict(result: ConsolidationResult, elapsed_s: float) -> str:
    """Return the one line that says how it ended."""
    number = Counter(partition.status for partition in result.partitions)
    partitions = count(len(result.partitions), "partition")
    if result.status == "nothing_staged":
        return f"nothing staged: nothing waits of batch {result.batch!r}"
    if result.status == "already_merged":
        return f"already merged: every part of batch {result.batch!r} is in the table, {partitions}"
    committed = [partition for partition in result.partitions if partition.status == "committed"]
    staged = sum(partition.rows_staged for partition in committed)
    figures = (
        f"{count(staged, 'row')} staged = {sum(p.rows_inserted for p in committed):,} inserted"
        f" + {sum(p.rows_updated for p in committed):,} updated"
        f" + {sum(p.rows_unchanged for p in committed):,} unchanged"
        f" + {sum(p.rows_superseded for p in committed):,} superseded"
    )
    others = ", ".join(
        f"{found:,} {status.replace('_', ' ')}" for status, found in number.items() if status != "committed"
    )
    if result.success:
        also = f" ({others})" if others else ""
        return f"committed: {figures}, {partitions}{also}, {span(elapsed_s)}"
    status = result.status.replace("_", " ")
    done = f"; committed: {figures}" if committed else "; nothing was committed"
    return f"{status}: {others} of {partitions}{done}, {span(elapsed_s)}"


def show(
    printer: Printer, result: ConsolidationResult, elapsed_s: float, *, more: Mapping[str, object] | None = None
) -> None:
    """Print a consolidation's result, with ``more`` fields in JSON."""
    if printer.json:
        printer.document({**result.to_json(), **(more or {})})
        return
    printer.line(verdict(result, elapsed_s), "bold green" if result.success else "bold red")
    failed = [partition for partition in result.partitions if partition.status not in _DONE]
    moved = sum(partition.duplicates_removed for partition in result.partitions)
    if moved:
        printer.line(
            f"repaired: {count(moved, 'row')} of keys that stood more than once moved aside, run {result.consolidation}"
        )
    if len(result.partitions) > 1:
        rest = [partition for partition in result.partitions if partition.status in _DONE]
        _table(printer, [*failed, *rest])
    for partition in failed[:MAX_PARTITIONS]:
        where = result.table if partition.partition is None else f"{result.table}/{partition.partition}"
        printer.error(f"{where}: {partition.error}")
    if failed:
        printer.note("Staging is kept. Run the same command again when the cause is removed.", style="")


def _table(printer: Printer, partitions: list[PartitionResult]) -> None:
    columns = [
        Column("partition"),
        Column("status"),
        Column("staged", number=True),
        Column("inserted", number=True),
        Column("updated", number=True),
        Column("unchanged", number=True),
        Column("superseded", number=True),
    ]
    printer.table(
        columns,
        [
            (
                partition.partition,
                partition.status.replace("_", " "),
                partition.rows_staged,
                partition.rows_inserted,
                partition.rows_updated,
                partition.rows_unchanged,
                partition.rows_superseded,
            )
            for partition in partitions[:MAX_PARTITIONS]
        ],
    )
    if len(partitions) > MAX_PARTITIONS:
        printer.line(f"... and {len(partitions) - MAX_PARTITIONS:,} more; --output json has them all")
