"""``onerow stage``."""

from __future__ import annotations

import click

from onerow.faces.cli.shared import Command, Invocation, table_option


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@table_option(required=True)
@click.option("--batch", required=True, metavar="BATCH", help="The batch that the rows belong to.")
@click.option("--worker", metavar="NAME", help="Who hands the rows in; else the file's own name.")
@click.option(
    "--format",
    "stdin_format",
    type=click.Choice(["csv", "ndjson", "parquet", "arrow"]),
    help="What comes on standard input, for the file '-'.",
)
@click.pass_obj
def stage(
    asked: Invocation,
    /,
    *,
    files: tuple[str, ...],
    table: str,
    batch: str,
    worker: str | None,
    stdin_format: str | None,
) -> int:
    """Stage files as parts of a batch; nothing is merged yet.

    Every FILE becomes one part: CSV, TSV, NDJSON, Parquet or Arrow, also compressed (.gz, .zst). A part
    is staged whole or not at all: a row that breaks the table's contract refuses its file, with the first
    ten bad rows named. The same rows of the same worker again are the same part, so a retry is harmless.

    Of several files, one that fails does not stop the others.

    Where the table says on_bad_row = "quarantine", bad rows are put aside and the good ones are staged: a
    warning names the entry, JSON counts rows_quarantined, and the exit code is 0; it is 3 if a file had
    nothing but bad rows.

    \b
    onerow stage worker-1.csv worker-2.parquet --table props --batch 2026-01-17
    producer | onerow stage - --format ndjson --table props --batch 2026-01-17 --worker producer
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.bootstrap import open_store
    from onerow.core.names import check_name
    from onerow.faces.cli import inputs
    from onerow.faces.cli.output import Printer
    from onerow.faces.cli.progress import metering

    asked.kept = "Files that were staged before stay staged, the one in work was not staged. Run the same again."
    printer = Printer(asked)
    check_name(batch, "batch")
    with (
        metering(asked) as meter,
        inputs.named(files, stdin_format) as paths,
        open_store(asked.config, on_rows=meter.rows) as store,
    ):
        staging = inputs.Staging(store, printer, table=table, batch=batch, worker=worker)
        staging.stage(paths, meter)
    staging.tell()
    return staging.exit_code
