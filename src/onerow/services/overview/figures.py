"""Figures of consolidations over time: waits, durations, verifications, rows by kind. Pure; times are UTC days."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onerow.services.runs import RunEntry

VERIFICATION_KINDS = frozenset({"duplicates", "verification"})
"""Kinds of errors by which the check inside a transaction ends it."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How seconds are spread: nearest-rank percentiles of ``count`` values."""

    count: int
    p50_s: float
    p90_s: float
    p99_s: float
    longest_s: float

    def to_json(self) -> dict[str, Any]:
        """Return the spread as JSON-able data."""
        return {name: getattr(self, name) for name in self.__slots__}


def spread(values: Iterable[float]) -> Spread | None:
    """Return the spread of ``values`` in seconds, None if there are none."""
    ordered = sorted(values)
    if not ordered:
        return None

    def rank(share: float) -> float:
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    return Spread(len(ordered), rank(0.5), rank(0.9), rank(0.99), ordered[-1])


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of committed partitions by what became of them."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    superseded: int = 0

    @property
    def staged(self) -> int:
        """All of them."""
        return self.inserted + self.updated + self.unchanged + self.superseded

    def to_json(self) -> dict[str, int]:
        """Return the counts as JSON-able data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Period:
    """Figures of one UTC day, or of all days together.

    Attributes:
        day: the day, "" for all together.
        outcomes: consolidations by status.
        lock_wait: waits for a lock, one for each partition that asked for one.
        duration: of whole consolidations that had something to do.
        verified: partitions whose check inside the transaction passed.
        refused: partitions that this check rolled back, or where it could not run.
    """

    day: str
    outcomes: Mapping[str, int] = field(default_factory=dict)
    lock_wait: Spread | None = None
    duration: Spread | None = None
    verified: int = 0
    refused: int = 0
    rows: Rows = field(default_factory=Rows)

    @property
    def consolidations(self) -> int:
        """How many consolidations ended."""
        return sum(self.outcomes.values())

    @property
    def pass_rate(self) -> float | None:
        """Share of checks that passed, 0 to 1; None if none ran."""
        checks = self.verified + self.refused
        return self.verified / checks if checks else None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        return {
            "day": self.day,
            "consolidations": self.consolidations,
            "outcomes": dict(self.outcomes),
            "lock_wait": self.lock_wait.to_json() if self.lock_wait else None,
            "duration": self.duration.to_json() if self.duration else None,
            "verified": self.verified,
            "refused": self.refused,
            "pass_rate": self.pass_rate,
            "rows": self.rows.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures by day, oldest first, and of all days together."""

    days: tuple[Period, ...]
    total: Period

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        return {"days": [period.to_json() for period in self.days], "total": self.total.to_json()}


def days_until(now: dt.datetime, count: int) -> tuple[str, ...]:
    """Return ``count`` UTC days that end with the day of ``now``, oldest first."""
    return tuple((now.date() - dt.timedelta(days=ago)).isoformat() for ago in reversed(range(count)))


def figures(runs: Sequence[RunEntry], days: Sequence[str]) -> Figures:
    """Return the figures of ``runs`` by day; runs of other days are left out."""
    by_day: dict[str, list[RunEntry]] = {day: [] for day in days}
    for run in runs:
        if (day := day_of(run)) in by_day:
            by_day[day].append(run)
    periods = tuple(_period(day, found) for day, found in by_day.items())
    return Figures(periods, _period("", [run for found in by_day.values() for run in found]))


def day_of(run: RunEntry) -> str:
    """Return the UTC day that a run was started on."""
    return run.started_at.astimezone(dt.UTC).date().isoformat()


def _period(day: str, runs: Sequence[RunEntry]) -> Period:
    partitions = [partition for run in runs for partition in run.result.partitions]
    committed = [partition for partition in partitions if partition.status == "committed"]
    idle = {"already_merged", "nothing_staged"}
    return Period(
        day=day,
        outcomes=dict(sorted(Counter(run.result.status for run in runs).items())),
        lock_wait=spread(
            partition.lock_wait_s
            for partition in partitions
            if partition.token is not None or partition.status == "lock_timeout"
        ),
        duration=spread(run.elapsed_s for run in runs if run.result.status not in idle),
        verified=len(committed),
        refused=sum(1 for partition in partitions if partition.error_kind in VERIFICATION_KINDS),
        rows=Rows(
            inserted=sum(partition.rows_inserted for partition in committed),
            updated=sum(partition.rows_updated for partition in committed),
            unchanged=sum(partition.rows_unchanged for partition in committed),
            superseded=sum(partition.rows_superseded for partition in committed),
        ),
    )
