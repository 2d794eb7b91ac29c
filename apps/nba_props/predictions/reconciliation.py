"""What must be in the table, computed without it, against what is: nothing lost, nothing doubled, the newest row wins.

The keys are counted in plain Python from games, rosters and lines; which run's row is the newest comes from the moments
at which the batches were opened. Neither knows the warehouse, the staging or a merge.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from predictions import settings
from predictions.coordinator.batch_state_manager import open_batch_states
from predictions.coordinator.fan_out import batch_name
from predictions.reading import open_reader
from predictions.systems import SYSTEM_IDS
from predictions.worker.predict_request import prediction_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from google.cloud import bigquery

    from predictions.season import Season

    Key = tuple[str, str, str, Decimal | None]

FINDINGS: Final = 3
_ROWS: Final = """
select game_id, player_lookup, system_id, current_points_line, prediction_id, created_at
from {predictions} where game_date = $day
"""


@dataclass
class Reconciliation:
    """What was expected and what was found.

    Attributes:
        batches: of the days; all must be done.
        expected: business keys.
        rows: in the table, of those days.
        null_lines: expected keys without a line.
        lost: expected keys without a row.
        doubled: keys with several rows.
        unexpected: rows of keys that nobody predicted.
        outdated: keys whose row is not that of the run that was opened last.
        not_done: batches that are not done.
        overlapping: days with a batch that was opened before another one was consolidated.
        staged: rows that were staged, and what became of them, from the ledger; the last four add up to it.
    """

    days: int = 0
    batches: int = 0
    expected: int = 0
    rows: int = 0
    null_lines: int = 0
    lost: int = 0
    doubled: int = 0
    unexpected: int = 0
    outdated: int = 0
    not_done: list[str] = field(default_factory=list)
    overlapping: int = 0
    staged: Counter[str] = field(default_factory=Counter)

    @property
    def adds_up(self) -> bool:
        """Whether every row that was staged became something."""
        return self.staged["staged"] == sum(self.staged[name] for name in _COUNTS[1:])

    @property
    def clean(self) -> bool:
        """Whether the table is what it must be."""
        wrong = self.lost + self.doubled + self.unexpected + self.outdated + len(self.not_done)
        return self.expected > 0 and not wrong and self.adds_up

    def told(self) -> list[str]:
        """Return the report as lines for people."""
        counts = ", ".join(f"{self.staged[name]:,} {name}" for name in _COUNTS[1:])
        return [
            f"days {self.days}, batches {self.batches}, not done {len(self.not_done)}"
            + (f": {', '.join(self.not_done[:5])}" if self.not_done else ""),
            f"expected keys {self.expected:,} ({self.null_lines:,} without a line), rows {self.rows:,}",
            f"lost {self.lost}, doubled {self.doubled}, unexpected {self.unexpected}, not the newest {self.outdated}",
            f"rows staged {self.staged['staged']:,} = {counts}{'' if self.adds_up else '  DOES NOT ADD UP'}",
            f"days on which runs overlapped: {self.overlapping}",
            "RECONCILED: nothing lost, nothing doubled, the newest row of every key"
            if self.clean
            else "NOT RECONCILED",
        ]


_COUNTS: Final = ("staged", "inserted", "updated", "unchanged", "superseded")


def reconcile(
    project_id: str,
    season: Season,
    days: Sequence[dt.date],
    runs: Sequence[str],
    *,
    client: bigquery.Client | None = None,
) -> Reconciliation:
    """Compare the table with what the runs of some days must have left in it.

    Args:
        project_id: ``local``, a folder, or a project of Google Cloud.
        season: that the runs predicted from.
        days: that they predicted.
        runs: their names; each has a batch for each day.
        client: of BigQuery; None: one is made where it is needed.

    Raises:
        OnerowError: something could not be read. That is never reconciled.
    """
    found = Reconciliation(days=len(days))
    opened: dict[dt.date, list[tuple[dt.datetime, str]]] = defaultdict(list)
    spans: dict[dt.date, list[tuple[dt.datetime, dt.datetime]]] = defaultdict(list)
    with open_batch_states(project_id) as batches:
        known = {status.batch: status for status in batches.batches()}
    for day in days:
        for run in runs:
            batch = batch_name(day, run)
            found.batches += 1
            status = known.get(batch)
            if status is None or status.state != "done":
                found.not_done.append(f"{batch} ({'never opened' if status is None else status.state})")
            if status is not None:
                opened[day].append((dt.datetime.fromisoformat(status.opened_at), batch))
                ended = dt.datetime.fromisoformat(status.finished_at or status.opened_at)
                spans[day].append((dt.datetime.fromisoformat(status.opened_at), ended))
    with open_reader(project_id, client) as reader:
        for day in days:
            _compare(found, _expected(season, day), opened[day], reader.rows(_ROWS, day=day))
    found.overlapping = sum(_overlap(those) for those in spans.values())
    _read_ledger(found, project_id, {batch for those in opened.values() for _, batch in those})
    return found


def _expected(season: Season, day: dt.date) -> set[Key]:
    """Return the business keys of a day: every candidate, every line, every system."""
    return {
        (candidate.game_id, candidate.player_lookup, system_id, line)
        for candidate in season.candidates(day)
        for line in candidate.lines
        for system_id in SYSTEM_IDS
    }


def _compare(
    found: Reconciliation,
    expected: set[Key],
    opened: Sequence[tuple[dt.datetime, str]],
    rows: Sequence[dict[str, Any]],
) -> None:
    by_key: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_key[row["game_id"], row["player_lookup"], row["system_id"], row["current_points_line"]].append(row)
    found.expected += len(expected)
    found.null_lines += sum(key[3] is None for key in expected)
    found.rows += len(rows)
    found.lost += len(expected - by_key.keys())
    found.doubled += sum(len(those) > 1 for those in by_key.values())
    found.unexpected += sum(len(those) for key, those in by_key.items() if key not in expected)
    for key in expected & by_key.keys():
        newest = max(((moment, prediction_id(batch, *key)) for moment, batch in opened), default=None)
        if [(row["created_at"], row["prediction_id"]) for row in by_key[key]] != [newest]:
            found.outdated += 1


def _read_ledger(found: Reconciliation, project_id: str, batches: set[str]) -> None:
    """Add what the ledger counted."""
    with settings.open_store(project_id) as store:
        for entry in store.history(settings.TABLE, limit=1_000_000):
            if entry.batch in batches:
                found.staged.update({name: getattr(entry, f"rows_{name}") for name in _COUNTS})


def _overlap(spans: list[tuple[dt.datetime, dt.datetime]]) -> bool:
    """Say whether one of them begins before another one has ended."""
    return any(after[0] < before[1] for before, after in pairwise(sorted(spans)))
