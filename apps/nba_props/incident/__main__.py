"""`make incident`: the night of 2026-01-11, on the original design and on onerow."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from incident import cost
from incident.failures import FAILURES, compare, title_of
from incident.night import APART_S, DATE, batches
from incident.replay import Outcome, replay


def main() -> int:
    """Replay the night and the failures, print both sides; 0 if onerow has kept its promise, the original not."""
    logging.getLogger().addHandler(logging.NullHandler())  # the table says what has happened
    console = Console(highlight=False)
    night = batches()
    parts = [part for found in night.values() for part in found]
    with tempfile.TemporaryDirectory(prefix="nba-props-incident-") as folder:
        outcomes = replay(Path(folder), night)
        pairs = {
            title_of(failure): compare(failure, Path(folder) / f"failure_{number}")
            for number, failure in enumerate(FAILURES, 1)
        }
        costs = cost.measure(Path(folder) / "cost", night)
    console.print(
        f"{DATE}: {len(parts)} staging parts, {sum(map(len, parts))} rows; a retry comes {APART_S:.1f} s after the "
        "scheduled run, in the middle of its merge."
    )
    table = Table("", *outcomes)
    found = list(outcomes.values())
    table.add_row("both report success", *("yes" if all(one.succeeded) else "no" for one in found))
    table.add_row("rows in the table", *(str(one.rows) for one in found))
    table.add_row("keys with several rows", *(str(one.duplicates) for one in found))
    table.add_row("keys lost", *(str(one.lost) for one in found))
    table.add_row("keys without their newest row alone", *(str(one.outdated) for one in found))
    console.print(table)
    console.print("\nA lock, and validation after the commit would have stopped that night. They still let pass:")
    table = Table("", "", "original design with the fix", "onerow", show_lines=True)
    for number, (title, pair) in enumerate(pairs.items(), 1):
        table.add_row(str(number), title, *(f"[{'red' if seen.failed else 'green'}]{seen.what}[/]" for seen in pair))
    console.print(table)
    console.print("\nWhat the protections are of a consolidation, with the latencies of the incident's report:")
    console.print(cost.table_of(costs))
    for line in cost.told(costs):
        console.print(line)
    return 0 if kept(outcomes) and all(old.failed and not new.failed for old, new in pairs.values()) else 1


def kept(outcomes: dict[str, Outcome]) -> bool:
    """Say whether the original design has duplicated and onerow has not."""
    original, *ours = outcomes.values()
    well = all(one.duplicates == one.lost == one.outdated == 0 and all(one.succeeded) for one in ours)
    return original.duplicates > 0 and well and all(one.overlapped for one in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
