"""Confidences that were stored as percent: found, told, and made the shares that they were meant to be.

A value above 1 and up to 100 is a percent and is divided by 100. One below 0 or above 100 is nothing that can be known:
it is told and left alone. One from 0 to 1 is a share; a percent below 1 cannot be told from it.

What was stored is changed in place, in one guarded transaction for each date of each table: under the lock, the guard
row and the token of the date, so that a consolidation comes wholly before it or after it, and nothing that one writes
is lost. Doing it twice changes nothing, because nothing is left that is a percent. In versions mode every version is
changed: it is the unit that was wrong, not the prediction.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow import PlanOutdatedError
from onerow.errors import EXIT_DONE, OnerowError, gravest
from predictions import settings
from predictions.grading.metrics import FIRST, LAST
from predictions.reading import RAW

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping, Sequence

    from onerow import Store
    from onerow.ports.warehouse import GuardedTransaction
    from predictions.reading import Reader

TABLES: Final = {settings.TABLE: "predictions", settings.GRADES: "grades"}
NAMED: Final = 5

_FOUND: Final = """
select game_date, prediction_id, confidence from {{{table}}}
where game_date between $since and $until and (confidence > 1 or confidence < 0)
"""
_NORMALISE: Final = """
update {target} set confidence = confidence / 100.0
where game_date = date '{day}' and confidence > 1 and confidence <= 100
"""


@dataclass(frozen=True)
class TablePlan:
    """What is wrong in one table.

    Attributes:
        percent: by date, rows whose confidence is a percent.
        impossible: by date, rows whose confidence is neither; ``examples``: the first of them, by their ids.
        fingerprint: of all of these rows.
    """

    table: str
    percent: Mapping[dt.date, int]
    impossible: Mapping[dt.date, int]
    examples: tuple[str, ...]
    fingerprint: str

    @property
    def rows(self) -> int:
        """Rows that would be changed."""
        return sum(self.percent.values())

    @property
    def left_alone(self) -> int:
        """Rows that nobody can know the right value of."""
        return sum(self.impossible.values())

    def told(self) -> list[str]:
        """Return what people are told."""
        lines = [f"{self.table}: {self.rows} percent values on {len(self.percent)} dates."]
        if self.left_alone:
            ids = ", ".join(self.examples)
            lines.append(
                f"{self.table}: {self.left_alone} values below 0 or above 100, which are left alone, first {ids}."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        by_date = {day.isoformat(): count for day, count in sorted(self.percent.items())}
        return {"table": self.table, "percent": self.rows, "impossible": self.left_alone, "by_date": by_date}


@dataclass(frozen=True)
class ConfidencePlan:
    """What is wrong in both tables."""

    tables: tuple[TablePlan, ...]

    @property
    def identity(self) -> str:
        """A short name of exactly this plan."""
        return hashlib.sha256("\n".join(one.fingerprint for one in self.tables).encode()).hexdigest()[:12]

    @property
    def rows(self) -> int:
        """Rows that would be changed."""
        return sum(one.rows for one in self.tables)

    @property
    def left_alone(self) -> int:
        """Rows that nobody can know the right value of."""
        return sum(one.left_alone for one in self.tables)

    @property
    def days(self) -> list[dt.date]:
        """The dates that would be changed."""
        return sorted({day for one in self.tables for day in one.percent})


def plan(reader: Reader, day: dt.date | None = None) -> ConfidencePlan:
    """Find confidences that are no shares, on one date or on all. Changes nothing."""
    return ConfidencePlan(tuple(_plan(reader, table, short, day) for table, short in TABLES.items()))


def _plan(reader: Reader, table: str, short: str, day: dt.date | None) -> TablePlan:
    statement = _FOUND.format(table=short + RAW)
    rows = reader.rows(statement, since=day or FIRST, until=day or LAST)
    rows.sort(key=lambda row: (row["game_date"], str(row["prediction_id"]), str(row["confidence"])))
    percent: Counter[dt.date] = Counter()
    impossible: Counter[dt.date] = Counter()
    examples = []
    fingerprint = hashlib.sha256(table.encode())
    for row in rows:
        fingerprint.update(repr((row["game_date"], row["prediction_id"], row["confidence"])).encode())
        if 1 < row["confidence"] <= 100:
            percent[row["game_date"]] += 1
        else:
            impossible[row["game_date"]] += 1
            examples.append(str(row["prediction_id"]))
    return TablePlan(table, percent, impossible, tuple(examples[:NAMED]), fingerprint.hexdigest())


def check_plan(found: ConfidencePlan, identity: str) -> None:
    """Check that a plan is the one that a person has seen.

    Raises:
        PlanOutdatedError: it is another one.
    """
    if found.identity != identity:
        raise PlanOutdatedError(
            f"The confidences are not those of plan {identity} any more; now it is plan {found.identity}.",
            hint="Nothing was changed. Look again without --apply.",
        )


@dataclass(frozen=True)
class Failed:
    """A date that could not be repaired; it is as before."""

    table: str
    day: dt.date
    error: OnerowError

    def __str__(self) -> str:
        return f"{self.table}, {self.day}: {self.error}"


def apply(store: Store, found: ConfidencePlan, *, reason: str) -> list[Failed]:
    """Make shares of percents, date by date; one that fails does not stop the others.

    Args:
        store: the project's.
        found: which dates to look at. What is a percent then is decided in the transaction.
        reason: a person's words, kept in the history.

    Returns:
        The dates that could not be repaired.
    """
    failed = []
    for one in found.tables:
        for day in sorted(one.percent):
            try:
                store.run_guarded(one.table, day.isoformat(), _normalise(day), reason=reason)
            except OnerowError as error:
                failed.append(Failed(one.table, day, error))
    return failed


def exit_code_of(failed: Sequence[Failed]) -> int:
    """Return the gravest exit code."""
    return gravest([EXIT_DONE, *(one.error.exit_code for one in failed)])


def _normalise(day: dt.date) -> Callable[[GuardedTransaction], None]:
    """Return the work of one transaction, which may be done again from the top."""

    def work(transaction: GuardedTransaction) -> None:
        transaction.execute(_NORMALISE.format(target=transaction.target, day=day.isoformat()))

    return work
