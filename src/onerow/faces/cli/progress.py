"""A progress bar on a terminal's standard error; nothing where there is none."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onerow.faces.cli.output import console_of, is_terminal, safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.progress import Progress, TaskID

    from onerow.faces.cli.shared import Invocation


class Meter:
    """What long work tells of itself. Without a bar it says nothing."""

    def __init__(self, bar: Progress | None = None, task: TaskID | None = None) -> None:
        self._bar = bar
        self._task = task
        self._rows = 0

    def begin(self, description: str) -> None:
        """Begin a new piece of work whose length nobody knows."""
        self._rows = 0
        self._update(description=safe(description), total=None, completed=0, figure="")
        if self._bar is not None:
            self._bar.refresh()  # also where the work is done before the bar's next tick

    def rows(self, count: int) -> None:
        """Say that ``count`` more rows are done."""
        self._rows += count
        self._update(completed=self._rows, figure=f"{self._rows:,} rows")

    def step(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps are done."""
        self._update(completed=done, total=total, figure=f"{done} of {total}")

    def heard(self, event: str, facts: Mapping[str, Any]) -> None:
        """Say what a log event means for the one who waits."""
        where = "/".join(str(facts[name]) for name in ("table", "partition") if facts.get(name))
        match event:
            case "onerow.lock_waiting":
                self._update(description=safe(f"waiting for the lock of {where}, held by {facts.get('holder')}"))
            case "onerow.lock_acquired":
                self._update(description=safe(f"preparing {where}"))
            case "onerow.merge_started":
                self._update(description=safe(f"merging {where}"))
            case "onerow.merge_conflict_retried":
                self._update(description=safe(f"trying again: {where}"))

    def _update(self, **changes: Any) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, **changes)


@contextmanager
def metering(asked: Invocation) -> Iterator[Meter]:
    """Show a bar until the block ends, if there is a terminal to show it on; it leaves no trace."""
    if asked.quiet or asked.log_format == "json" or not is_terminal(sys.stderr):
        yield Meter()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from onerow.faces import logs

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[figure]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console_of(sys.stderr), transient=True) as bar:
        meter = Meter(bar, bar.add_task("", total=None, figure=""))
        with logs.listening(meter.heard):
            yield meter
