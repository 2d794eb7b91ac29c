"""``onerow dedupe``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onerow.errors import EXIT_FINDINGS, UsageError
from onerow.faces.cli.shared import DURATION, Command, Invocation, table_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.core.repairs import DuplicateGroup, RepairPlan, RestorePlan
    from onerow.core.spec import TableSpec
    from onerow.faces.cli.output import Printer
    from onerow.services.repairs import RepairResult

CAUSES = {
    "race": "written within a second of each other, as two merges do that run at once",
    "foreign": "the ledger does not explain so many rows: somebody else wrote to the table",
    "identical": "copies of each other in every column",
    "unknown": "nobody can tell",
}


@click.command(cls=Command)
@table_option(required=True)
@click.option("--partition", metavar="P", help="Only this partition; else all.")
@click.option("--apply", "applied", is_flag=True, help="Do it; without it, only the plan is shown.")
@click.option("--plan", "plan_id", metavar="ID", help="With --apply: only if this plan, as it was shown, still fits.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept beside the rows that go and in the history.")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="How many keys to name (20).")
@click.option("--restore", "run", metavar="RUN", help="Bring back the row of one key that this run has removed.")
@click.option(
    "--key",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="With --restore: the row's key, one column each time. COLUMN= is the empty text, COLUMN alone is NULL.",
)
@click.option("--max-wait", type=DURATION, metavar="TIME", help="The longest wait for the lock of a partition.")
@click.pass_obj
def dedupe(
    asked: Invocation,
    /,
    *,
    table: str,
    partition: str | None,
    applied: bool,
    plan_id: str | None,
    reason: str,
    limit: int,
    run: str | None,
    key: tuple[str, ...],
    max_wait: float | None,
) -> int:
    """Repair keys that stand more than once, or bring a removed row back.

    Of each key the newest row stays; the others are moved, whole, to the table <target>_removed_duplicates. In versions
    mode only copies of a content go, and versions that stand twice get a number above the highest. Partition
    by partition, each in one transaction under its lock. Without --apply the plan is shown and nothing is changed;
    exits with 3 if there are duplicates. A plan that no longer fits the data is refused (exit 2, plan_outdated).

    \b
    onerow dedupe --table props
    onerow dedupe --table props --partition 2026-01-11 --apply --plan 3f1c0a2b9d4e --reason "ticket 123"
    onerow dedupe --table props --partition 2026-01-11 --restore r-7d2f --key player=jokic --key line=24.5 --apply
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.faces.cli.output import Printer

    asked.kept = "What was moved aside is in <target>_removed_duplicates; partitions that were not done are as before."
    printer = Printer(asked)
    if run is not None:
        if plan_id is not None:
            raise UsageError("--plan goes without --restore.")
        return _restore(
            asked,
            printer,
            table,
            run=run,
            texts=key,
            partition=partition,
            applied=applied,
            reason=reason,
            max_wait_s=max_wait,
        )
    if key:
        raise UsageError("--key goes with --restore.")
    if plan_id is not None and not applied:
        raise UsageError("--plan goes with --apply: it names the plan that is to be done.")
    return _repair(
        asked,
        printer,
        table,
        partition=partition,
        plan_id=plan_id,
        applied=applied,
        reason=reason,
        limit=limit,
        max_wait_s=max_wait,
    )


def _repair(
    asked: Invocation,
    printer: Printer,
    table: str,
    *,
    partition: str | None,
    plan_id: str | None,
    applied: bool,
    reason: str,
    limit: int,
    max_wait_s: float | None,
) -> int:
    from onerow.bootstrap import open_store

    result: RepairResult | None = None
    with open_store(asked.config) as store:
        spec = store.table(table)
        plan = store.plan_repair(table, partition, limit=limit)
        if plan_id is not None:
            store.repairs.check_plan(plan, plan_id)
        if applied:
            result = store.repair(table, plan=plan, reason=reason, max_wait_s=max_wait_s)
    if printer.json:
        printer.document(_plan_json(plan, result))
    elif result is not None:
        _show_result(printer, plan, result, ".".join(spec.target))
    else:
        _show_plan(printer, plan, spec, partition)
    if result is not None:
        return result.exit_code
    return EXIT_FINDINGS if plan.partitions else 0


def _plan_json(plan: RepairPlan, result: RepairResult | None) -> dict[str, Any]:
    return {
        "applied": result is not None,
        "plan": plan.identity,
        "table": plan.table,
        "keys": plan.keys,
        "extra_rows": plan.extra_rows,
        "renumbered": plan.renumbered,
        "rounding": plan.rounding,
        "partitions": [
            {
                "partition": one.partition,
                "keys": one.keys,
                "extra_rows": one.extra_rows,
                "renumbered": one.renumbered,
                "causes": dict(sorted(one.causes.items())),
            }
            for one in plan.partitions
        ],
        "groups": [
            {
                "partition": group.partition,
                "key": dict(group.key),
                "rows": group.rows,
                "cause": group.cause,
                "kept": group.kept,
                "removed": list(group.removed),
            }
            for group in plan.groups
        ],
        "result": None if result is None else result.to_json(),
    }


def _show_plan(printer: Printer, plan: RepairPlan, spec: TableSpec, partition: str | None) -> None:
    from onerow.faces.cli.output import Column, count

    if not plan.partitions:
        printer.line(f"nothing to repair: every key of {plan.table} has one row", "bold green")
        _show_rounding(printer, plan)
        return
    printer.line(
        f"plan {plan.identity}: {count(plan.extra_rows, 'row')} of {count(plan.keys, 'key')} would be moved aside, "
        f"{count(len(plan.partitions), 'partition')}",
        "bold",
    )
    if plan.renumbered:
        printer.line(f"{count(plan.renumbered, 'version')} that another content has too would get a new number.")
    printer.table(
        [Column("partition"), Column("keys", number=True), Column("extra rows", number=True), Column("likely causes")],
        [
            (
                one.partition,
                one.keys,
                one.extra_rows,
                ", ".join(f"{cause} {number:,}" for cause, number in sorted(one.causes.items())),
            )
            for one in plan.partitions
        ],
    )
    for cause in sorted({cause for one in plan.partitions for cause in one.causes}):
        printer.line(f"  {cause}: {CAUSES[cause]}")
    printer.line()
    rest = plan.keys - len(plan.groups)
    printer.line(f"the first {len(plan.groups)} keys:" if rest else "keys:", "bold")
    for group in plan.groups:
        printer.line(f"  {_describe(group)}")
    _show_rounding(printer, plan)
    scope = "" if partition is None else f" --partition {partition}"
    printer.line(
        f"Nothing was changed. The newest row of each key stays, the others go to {'.'.join(spec.target)}"
        "_removed_duplicates, from where each can be brought back. To do it:"
    )
    printer.line(f"  onerow dedupe --table {plan.table}{scope} --apply --plan {plan.identity} --reason TEXT")


def _describe(group: DuplicateGroup) -> str:
    ids = ""
    if group.kept is not None:
        ids = f": stays {group.kept}, goes {', '.join(group.removed)}"
    return f"{group.rows} rows, {group.cause}  {_key_text(group.key)}{ids}"


def _show_rounding(printer: Printer, plan: RepairPlan) -> None:
    from onerow.faces.cli.output import count

    if plan.rounding:
        printer.line(
            f"{count(plan.rounding, 'group')} of keys that differ by less than one in a decimal and round to one "
            "integer: no duplicates, left alone."
        )


def _show_result(printer: Printer, plan: RepairPlan, result: RepairResult, target: str) -> None:
    from onerow.faces.cli.output import Column, count

    if not plan.partitions:
        printer.line(f"nothing to repair: every key of {plan.table} has one row", "bold green")
        return
    done = [one for one in result.partitions if one.status == "repaired"]
    rows, keys = count(result.rows_removed, "row"), count(sum(one.keys for one in done), "key")
    failed = len(result.partitions) - len(done)
    renumbered = sum(one.renumbered for one in done)
    also = f", {count(renumbered, 'version')} renumbered" if renumbered else ""
    printer.line(
        f"{'repaired' if result.success else f'{failed} of {len(result.partitions)} partitions were not repaired'}: "
        f"{rows} of {keys} moved to {target}_removed_duplicates{also}, run {result.run}",
        "bold green" if result.success else "bold red",
    )
    if len(result.partitions) > 1:
        printer.table(
            [Column("partition"), Column("status"), Column("keys", number=True), Column("rows moved", number=True)],
            [(one.partition, one.status.replace("_", " "), one.keys, one.rows_removed) for one in result.partitions],
        )
    for one in result.partitions:
        if one.error is not None:
            where = result.table if one.partition is None else f"{result.table}/{one.partition}"
            printer.error(f"{where}: {one.error}")
    if done:
        printer.note(f"A row comes back with: onerow dedupe --table {plan.table} --restore {result.run} --key ...", "")


def _restore(
    asked: Invocation,
    printer: Printer,
    table: str,
    *,
    run: str,
    texts: tuple[str, ...],
    partition: str | None,
    applied: bool,
    reason: str,
    max_wait_s: float | None,
) -> int:
    from onerow.bootstrap import open_store

    restored_by: str | None = None
    with open_store(asked.config) as store:
        spec = store.table(table)
        key = parse_key(spec, texts)
        plan = store.repairs.plan_restore(spec, run, key, partition)
        if applied:
            restored_by = store.restore(table, run, key, partition, reason=reason, max_wait_s=max_wait_s)
    if printer.json:
        printer.document(
            {
                "applied": applied,
                "table": plan.table,
                "partition": plan.partition,
                "key": dict(plan.key),
                "run": plan.run,
                "back": plan.back,
                "current": list(plan.current),
                "removed_at": plan.removed_at.isoformat(),
                "reason": plan.reason,
                "restored_by": restored_by,
            }
        )
    else:
        _show_restore(printer, plan, restored_by)
    return 0


def _show_restore(printer: Printer, plan: RestorePlan, restored_by: str | None) -> None:
    back = "the removed row" if plan.back is None else f"row {plan.back}"
    names = [name for name in plan.current if name is not None]
    gone = f"row {', '.join(names)}" if names else "the row that is there"
    verb = "would come back" if restored_by is None else "has come back"
    moves = f"; {gone} {'would go' if restored_by is None else 'went'} aside" if plan.current else ""
    printer.line(f"{back} {verb}{moves}", "bold")
    printer.line(f"  key      {_key_text(plan.key)}")
    printer.line(f"  removed  {plan.removed_at.isoformat(sep=' ', timespec='seconds')[:19]} UTC by run {plan.run}")
    printer.line(f"  because  {plan.reason}")
    if restored_by is None:
        printer.line("Nothing was changed. To do it, add: --apply")
    else:
        printer.line(f"run {restored_by}: --restore {restored_by} with the same key changes them back")


def parse_key(spec: TableSpec, texts: tuple[str, ...]) -> dict[str, str | None]:
    """Return the key that ``COLUMN=VALUE`` texts name; a column alone is NULL.

    Raises:
        UsageError: a column is named twice.
    """
    key: dict[str, str | None] = {}
    for text in texts:
        # A column's name may have an equals sign in it: the longest declared name that fits is meant.
        names = [name for name in spec.identity if text == name or text.startswith(f"{name}=")]
        name = max(names, key=len) if names else text.partition("=")[0]
        if name in key:
            raise UsageError(f"--key names the column {name!r} twice.")
        key[name] = None if text == name else text[len(name) + 1 :]
    return key


def _key_text(key: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}={'NULL' if value is None else repr(value)}" for name, value in key.items())
