"""``onerow check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onerow.errors import UsageError
from onerow.faces.cli.shared import Command, Invocation, split_names, table_option

if TYPE_CHECKING:
    from onerow.core.spec import TableSpec
    from onerow.faces.cli.output import Printer
    from onerow.services.checker import CheckReport


@click.command(cls=Command)
@table_option(required=False)
@click.option("--partition", metavar="P", help="Only this partition; needs --table.")
@click.option("--since", metavar="DATE", help="Only partitions from this one on; 7d: from seven days ago (UTC) on.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "markdown"]),
    help="How to report: text (default), one JSON document as with --output json, or Markdown for a mail or a ticket.",
)
@click.option("--limit", type=click.IntRange(min=1), default=20, help="How many duplicate keys to list a table (20).")
@click.option("--warehouse", metavar="URL", help="Check any existing table of this warehouse, without configuration.")
@click.option("--target", metavar="NAME", help="With --warehouse: the table, such as nba.props.")
@click.option("--key", multiple=True, metavar="A,B", help="With --warehouse: the columns that name a row.")
@click.option("--partition-column", metavar="P", help="With --warehouse: a column that is part of a row's identity.")
@click.option("--id", "id_column", metavar="COLUMN", help="With --warehouse: a column to show for each duplicate.")
@click.pass_obj
def check(
    asked: Invocation,
    /,
    *,
    table: str | None,
    partition: str | None,
    since: str | None,
    form: str | None,
    limit: int,
    warehouse: str | None,
    target: str | None,
    key: tuple[str, ...],
    partition_column: str | None,
    id_column: str | None,
) -> int:
    """Look for duplicates and other findings in tables.

    Changes nothing. Finds keys with more than one row, keys that stand in several partitions, rows that break declared
    checks, and rows that the ledger does not explain. Exits with 3 if there is anything, with 1 if a
    check could not run.

    \b
    onerow check --since 7d
    onerow check --since 7d --format markdown
    onerow check --warehouse duckdb:///nba.duckdb --target nba.props --key game_id,player,line
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from datetime import UTC, datetime

    from onerow.faces.cli.checkreport import markdown
    from onerow.faces.cli.output import Printer
    from onerow.services.checker import exit_code_of

    if form is not None and asked.json and form != "json":
        raise UsageError(f"--format {form} and --output json are two formats; give one.")
    if form == "json":
        asked.output = "json"
    if warehouse is not None:
        if table is not None or target is None or not key:
            raise UsageError("--warehouse goes with --target and --key, and without --table.")
        reports, tables = _check_existing(
            warehouse, target, key, partition_column, id_column, partition=partition, since=since, limit=limit
        )
    else:
        if target is not None or key or partition_column is not None or id_column is not None:
            raise UsageError("--target, --key, --partition-column and --id go with --warehouse.")
        if partition is not None and table is None:
            raise UsageError("--partition goes with --table.")
        reports, tables = _check_configured(asked, table, partition=partition, since=since, limit=limit)
    printer = Printer(asked)
    if printer.json:
        code = exit_code_of(reports)
        printer.document({"clean": code == 0, "exit_code": code, "tables": [report.to_json() for report in reports]})
        return code
    if form == "markdown":
        at, first = datetime.now(UTC), {name: _since(since, spec, alone=False) for name, spec in tables.items()}
        printer.text(markdown(reports, tables, at=at, since=first, configured=warehouse is None))
    else:
        _show(printer, reports, tables)
    return exit_code_of(reports)


def _check_configured(
    asked: Invocation, table: str | None, *, partition: str | None, since: str | None, limit: int
) -> tuple[list[CheckReport], dict[str, TableSpec]]:
    from onerow.bootstrap import open_store
    from onerow.faces.cli.progress import metering

    reports: list[CheckReport] = []
    with open_store(asked.config) as store, metering(asked) as meter:
        specs = [store.table(table)] if table is not None else list(store.tables.values())
        for spec in specs:
            meter.begin(f"checking {spec.name}")
            first = _since(since, spec, alone=table is not None)
            reports += store.check(spec.name, partition=partition, since=first, limit=limit)
        return reports, {spec.name: spec for spec in specs}


def _check_existing(
    warehouse: str,
    target: str,
    key: tuple[str, ...],
    partition_column: str | None,
    id_column: str | None,
    *,
    partition: str | None,
    since: str | None,
    limit: int,
) -> tuple[list[CheckReport], dict[str, TableSpec]]:
    from contextlib import closing

    from onerow.bootstrap import open_existing
    from onerow.services.checker import check_tables

    opened = open_existing(
        warehouse, target=target, key=split_names(key), partition_column=partition_column, id_column=id_column
    )
    spec = opened.spec
    with closing(opened):
        reports = check_tables(
            opened,
            [spec],
            partition=partition,
            since=_since(since, spec, alone=True),
            against_ledger=False,
            limit=limit,
        )
    return reports, {spec.name: spec}


def _since(text: str | None, spec: TableSpec, *, alone: bool) -> str | None:
    """Return the first partition to look at: one that is named, or a time back from today where they are dates.

    A table whose partitions are no dates, or that has none, is checked whole beside others; ``alone``, somebody has
    asked for what cannot be.
    """
    from datetime import UTC, datetime, timedelta

    from onerow.config import parse_duration

    if text is None or (spec.partition is None and not alone):
        return None
    try:
        back_s = parse_duration(text)
    except ValueError:
        return text
    if spec.partition is None or spec.by_name[spec.partition].type.kind != "date":
        if alone:
            raise UsageError(
                f"--since {text} is a time, and the partitions of {spec.name!r} are no dates.",
                hint="Name the first partition, or leave --since out.",
            )
        return None
    try:
        return (datetime.now(UTC) - timedelta(seconds=back_s)).date().isoformat()
    except OverflowError as error:
        raise UsageError(f"{text!r} reaches back before the calendar begins.") from error


def _show(printer: Printer, reports: list[CheckReport], tables: dict[str, TableSpec]) -> None:
    from onerow.faces.cli.checkreport import verdict
    from onerow.faces.cli.output import Column

    printer.line(verdict(reports), "bold green" if all(report.clean for report in reports) else "bold red")
    if not reports:
        return
    printer.table(
        [
            Column("table"),
            Column("verdict"),
            Column("rows", number=True),
            Column("partitions", number=True),
            Column("duplicate keys", number=True),
            Column("extra rows", number=True),
            Column("findings", number=True),
        ],
        [_row(report, tables[report.table]) for report in reports],
    )
    for report in reports:
        _details(printer, report)


def _row(report: CheckReport, spec: TableSpec) -> tuple[object, ...]:
    result = report.result
    if result is None:
        return (report.table, "not checked", None, None, None, None, None)
    return (
        report.table,
        "clean" if report.clean else "findings",
        result.rows,
        result.partitions if spec.partition is not None else None,
        result.duplicate_keys,
        result.extra_rows,
        len(result.findings),
    )


def _details(printer: Printer, report: CheckReport) -> None:
    from onerow.faces.cli.output import count

    result = report.result
    if result is None:
        printer.error(f"{report.table}: {report.error}")
        return
    if result.duplicates:
        printer.line()
        rest = result.duplicate_keys - len(result.duplicates)
        shown = f", the first {len(result.duplicates)} of them" if rest else ""
        printer.line(f"{report.table}: {count(result.duplicate_keys, 'key')} with more than one row{shown}:", "bold")
        for found in result.duplicates:
            key = ", ".join(f"{name}={_value(value)}" for name, value in found.key.items())
            ids = f": {', '.join(found.ids)}" if found.ids else ""
            printer.line(f"  {count(found.rows, 'row')}  {key}{ids}")
    if result.findings:
        printer.line()
        printer.line(f"{report.table}: {count(len(result.findings), 'finding')}:", "bold")
        for finding in result.findings:
            printer.line(f"  {finding.check}: {finding.message}")


def _value(value: str | None) -> str:
    if value is None:
        return "NULL"
    return value if value.isalnum() or value.replace("-", "").replace(".", "").isalnum() else repr(value)
