"""``onerow load``."""

from __future__ import annotations

import click

from onerow.faces.cli.shared import DURATION, Command, Invocation, table_option


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@table_option(required=True)
@click.option("--batch", metavar="BATCH", help="The batch; else a name made from the files' content.")
@click.option("--worker", metavar="NAME", help="Who hands the rows in; else the file's own name.")
@click.option(
    "--format",
    "stdin_format",
    type=click.Choice(["csv", "ndjson", "parquet", "arrow"]),
    help="What comes on standard input, for the file '-'.",
)
@click.option("--max-wait", type=DURATION, metavar="TIME", help="How long to wait for a lock, such as 300s.")
@click.pass_obj
def load(
    asked: Invocation,
    /,
    *,
    files: tuple[str, ...],
    table: str,
    batch: str | None,
    worker: str | None,
    stdin_format: str | None,
    max_wait: float | None,
) -> int:
    """Stage files and consolidate them, in one go.

    Without --batch the batch is named after the content, so that the same files again, after a crash or
    by mistake, are found to be merged already. If one file cannot be staged, nothing is consolidated.

    Where the table says on_bad_row = "quarantine", bad rows are put aside and the good ones are merged: a
    warning names the entry, JSON counts rows_quarantined, and the exit code is 0; it is 3 if a file had
    nothing but bad rows.

    \b
    onerow load props.csv --table props
    onerow load day/*.parquet --table props --batch 2026-01-17 --output json
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    import time

    from onerow.bootstrap import open_store
    from onerow.core.names import check_name
    from onerow.core.results import ConsolidationResult
    from onerow.errors import gravest
    from onerow.faces.cli import consolidations, failures, inputs
    from onerow.faces.cli.output import Printer, count
    from onerow.faces.cli.progress import metering

    printer = Printer(asked)
    started_s = time.monotonic()
    with (
        metering(asked) as meter,
        inputs.named(files, stdin_format) as paths,
        open_store(asked.config, on_rows=meter.rows) as store,
    ):
        name = check_name(batch, "batch") if batch is not None else inputs.derived_batch(paths)
        staging = inputs.Staging(store, printer, table=table, batch=name, worker=worker)
        staging.stage(paths, meter)
        result: ConsolidationResult | None = None
        if not staging.errors:
            if all(part.status == "empty" for part in staging.parts):
                result = ConsolidationResult("", table, name, "nothing_staged")
            else:
                meter.begin("consolidating")
                begun_s = time.monotonic()
                result = store.consolidate(table, name, max_wait_s=max_wait, on_group=meter.step)
                store.runs.record(result, elapsed_s=time.monotonic() - begun_s, holder=store.holder)
    if result is None:
        if printer.json:
            printer.document(staging.to_json())
        staging.warn()
        for error in staging.errors:
            failures.tell(printer, error)
        waiting = [part for part in staging.parts if part.status in {"staged", "already_staged"}]
        if waiting:
            printer.note(
                f"Nothing was consolidated. {count(len(waiting), 'part')} of other files stay staged in batch "
                f"{name!r}: `onerow consolidate` merges them, `onerow batches discard` gives them up.",
                style="",
            )
        return staging.exit_code
    if not printer.json:
        batch_said = f"batch {name}" + ("" if batch is not None else " (named after the content)")
        printer.note(f"{count(len(paths), 'file')}, {batch_said}")
    staging.warn()
    consolidations.show(
        printer, result, time.monotonic() - started_s, more={"rows_quarantined": staging.rows_quarantined}
    )
    return gravest([result.exit_code, staging.exit_code])
