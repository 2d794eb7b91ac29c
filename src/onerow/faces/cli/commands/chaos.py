"""``onerow chaos``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from onerow.faces.cli.shared import Command, Invocation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.faces.cli.output import Printer
    from onerow.faces.cli.progress import Meter
    from onerow.testing.chaos import Report

TOLD_EVERY_S: Final = 15.0
MAX_SHOWN: Final = 10
KEPT: Final = "The run was broken off; its scratch table is removed."


@click.command(cls=Command)
@click.option("--minutes", type=click.FloatRange(min=0.05, max=10_000), default=2.0, help="How long it runs (2).")
@click.option("--processes", type=click.IntRange(min=2, max=200), default=8, help="How many workers there are (8).")
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=999_999),
    help="What everybody does is drawn from it; left out: by chance.",
)
@click.pass_obj
def chaos(asked: Invocation, /, *, minutes: float, processes: int, seed: int | None) -> int:
    """Torture the configured backends on a scratch table, and check what came of it.

    Processes stage and consolidate overlapping batches while they are killed, paused past their lease, cut off from
    their servers, given wrong clocks, and robbed of their locks. Then a checker reads the history and the table.
    Your own tables are not touched. Exits with 3 if an invariant did not hold; the scratch table is kept then.

    \b
    onerow chaos --minutes 5 --processes 10
    onerow chaos --minutes 0.5 --processes 4 --seed 7 --output json
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.config import find_config, load_settings
    from onerow.faces.cli.output import Printer
    from onerow.faces.cli.progress import metering
    from onerow.testing import chaos as kit

    asked.kept = KEPT
    printer = Printer(asked)
    settings = load_settings(find_config(asked.config))
    options = kit.Options(
        seconds=minutes * 60, processes=processes, seed=kit.any_seed() if seed is None else seed
    )
    with metering(asked) as meter:
        meter.begin(f"torturing {settings.warehouse}, seed {options.seed}")
        report = kit.run(settings, options, on_progress=_Telling(printer, meter, options.seconds))
    if printer.json:
        printer.document(report.to_json())
    else:
        _show(printer, report)
    return report.exit_code


class _Telling:
    """Says how far it is: on a terminal by the bar, elsewhere by a line now and then."""

    def __init__(self, printer: Printer, meter: Meter, seconds: float) -> None:
        self._printer = printer
        self._meter = meter
        self._seconds = seconds
        self._told_s = 0.0

    def __call__(self, gone_s: float, done: Mapping[str, int]) -> None:
        from onerow.faces.cli.output import is_terminal

        self._meter.step(int(gone_s), int(self._seconds))
        if not is_terminal(sys.stderr) and gone_s - self._told_s >= TOLD_EVERY_S:
            self._told_s = gone_s
            said = ", ".join(f"{number} {_words(kind)}" for kind, number in done.items())
            self._printer.note(f"{gone_s:.0f} of {self._seconds:.0f} s: {said}")


def _show(printer: Printer, report: Report) -> None:
    from onerow.faces.cli.output import Column, count
    from onerow.testing.chaos.verdict import INVARIANTS

    data = report.to_json()
    numbers = data["numbers"]
    where = f"{report.engine}, seed {report.options.seed}, {count(report.options.processes, 'process', 'processes')}"
    if report.clean:
        printer.line(f"clean: every invariant held ({where})", "bold green")
    else:
        printer.line(f"{count(len(report.violations), 'violation')} ({where})", "bold red")
    printer.line()
    printer.table(
        [Column("invariant"), Column("says"), Column("violations", number=True)],
        [(name, said, report.violated[name]) for name, said in INVARIANTS.items()],
    )
    printer.line()
    printer.table(
        [Column("number"), Column("", number=True)],
        [(_words(name), number) for name, number in numbers.items()],
    )
    printer.line()
    printer.line("faults: " + (", ".join(f"{number} {_words(kind)}" for kind, number in data["faults"].items())))
    if report.errors:
        printer.line("errors: " + ", ".join(f"{number} {kind}" for kind, number in data["errors"].items()))
    for line, reason in report.not_applicable.items():
        printer.line(f"not applicable: cutting off the {line}: {reason}")
    for violation in report.violations[:MAX_SHOWN]:
        printer.error(f"{violation.invariant}: {violation.message}")
    if len(report.violations) > MAX_SHOWN:
        printer.error(f"... and {len(report.violations) - MAX_SHOWN} more")
    for what, name in report.kept.items():
        printer.note(f"kept: {what}: {name}", style="")


def _words(name: str) -> str:
    return name.replace("_", " ")
