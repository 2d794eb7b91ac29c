"""Repairs of predictions and grades: what was found, then what was done, with the metrics before and after.

    python -m predictions.grading.repair confidence               # percent values that should be shares: the plan
    python -m predictions.grading.repair confidence --apply
    python -m predictions.grading.repair duplicates               # rows too many of a key: the plan
    python -m predictions.grading.repair duplicates --apply --plan ID

Without ``--apply`` nothing is changed. Duplicates are repaired by onerow: the newest row of each key stays, the others
are moved aside and can be brought back (``onerow dedupe --restore``). Whatever the repaired predictions were graded as
is graded again, exactly once.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

import onerow
from onerow.bootstrap import holder_name
from onerow.errors import EXIT_DONE, EXIT_FINDINGS, EXIT_USAGE, OnerowError, PlanOutdatedError, gravest
from predictions import settings
from predictions.grading import confidence
from predictions.grading.grade import grade_date, season_of_the_platform
from predictions.grading.metrics import metrics_of, read_metrics, table_of
from predictions.reading import open_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.cloud import bigquery

    from onerow import RepairPlan, Store
    from predictions.grading.grade import Results
    from predictions.grading.metrics import SystemMetrics

TABLES: Final = (settings.TABLE, settings.GRADES)


@dataclass
class Report:
    """What a repair has found and done.

    Attributes:
        plan: the identity of what was found.
        before: by table, what was found; ``after``: the same when it was done, None if nothing was to be done.
        found: how many rows would be changed; ``left``: how many are wrong after it, or would be.
        regraded: by date, how many grades became others.
        problems: what could not be done.
        metrics_before, metrics_after: of all dates.
    """

    what: str
    plan: str
    found: int
    before: list[dict[str, Any]]
    lines: list[str]
    left: int = 0
    applied: bool = False
    after: list[dict[str, Any]] | None = None
    regraded: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    metrics_before: tuple[SystemMetrics, ...] = ()
    metrics_after: tuple[SystemMetrics, ...] | None = None

    @property
    def exit_code(self) -> int:
        """0: nothing is wrong any more; 3: something is; else the gravest of what could not be done."""
        wrong = self.left if self.applied else self.left + self.found
        return gravest([EXIT_FINDINGS if wrong else EXIT_DONE, *self.codes])

    def failed(self, what: str, error: OnerowError) -> None:
        """Note what could not be done."""
        self.problems.append(f"{what}: {error}")
        self.codes.append(error.exit_code)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        names = ("what", "plan", "found", "left", "applied", "before", "after", "regraded", "problems", "exit_code")
        after = None if self.metrics_after is None else [one.to_json() for one in self.metrics_after]
        return {
            **{name: getattr(self, name) for name in names},
            "metrics_before": [one.to_json() for one in self.metrics_before],
            "metrics_after": after,
        }


@dataclass(frozen=True)
class Asked:
    """What is to be repaired.

    Attributes:
        game_date: only this one; None: all.
        apply: do it; ``plan``: only if it is this one.
        reason: kept in the history.
        season: has the results for grading again; None: the season that ``predictions.season`` finds.
    """

    project_id: str
    game_date: dt.date | None = None
    apply: bool = False
    plan: str | None = None
    reason: str = ""
    season: Results | None = None
    client: bigquery.Client | None = None

    @property
    def words(self) -> str:
        """The reason, and who."""
        return self.reason or f"predictions.grading.repair by {holder_name()}"


def repair_confidence(asked: Asked) -> Report:
    """Make shares of confidences that are percent, in predictions and grades.

    Raises:
        PlanOutdatedError: the plan is another one; nothing was changed.
        OnerowError: something could not be read.
    """
    with settings.open_store(asked.project_id) as store, open_reader(asked.project_id, asked.client) as reader:
        found = confidence.plan(reader, asked.game_date)
        report = Report(
            "confidence", found.identity, found.rows, [one.to_json() for one in found.tables],
            [line for one in found.tables for line in one.told()], left=found.left_alone,
            metrics_before=read_metrics(reader),
        )  # fmt: skip
        if asked.plan is not None:
            confidence.check_plan(found, asked.plan)
        if not asked.apply:
            return report
        report.applied = True
        for failed in confidence.apply(store, found, reason=asked.words):
            report.failed(f"{failed.table}, {failed.day}", failed.error)
    _grade_again(asked, found.days, report)
    with open_reader(asked.project_id, asked.client) as reader:
        after = confidence.plan(reader, asked.game_date)
        report.metrics_after = read_metrics(reader)
    report.after, report.left = [one.to_json() for one in after.tables], after.rows + after.left_alone
    return report


def repair_duplicates(asked: Asked) -> Report:
    """Keep the newest row of each key of predictions and grades, and move the others aside.

    Raises:
        PlanOutdatedError: the plan is another one; nothing was changed.
        OnerowError: something could not be read.
    """
    with settings.open_store(asked.project_id) as store:
        plans = _plans(store, asked)
        report = Report(
            "duplicates", _identity(plans), sum(_changes(one) for one in plans), [_json(one) for one in plans],
            [line for one in plans for line in _told(one)],
            metrics_before=metrics_of(asked.project_id, client=asked.client),
        )  # fmt: skip
        if asked.plan is not None and asked.plan != report.plan:
            raise PlanOutdatedError(
                f"The duplicates are not those of plan {asked.plan} any more; now it is plan {report.plan}.",
                hint="Nothing was changed. Look again without --apply.",
            )
        if not asked.apply:
            return report
        report.applied = True
        for one in plans:
            for done in store.repair(one.table, plan=one, reason=asked.words).partitions:
                if done.status != "repaired":
                    report.problems.append(f"{one.table}, {done.partition}: {done.error}")
                    report.codes.append(done.exit_code)
    days = {part.partition for one in plans if one.table == settings.TABLE for part in one.partitions}
    _grade_again(asked, (dt.date.fromisoformat(day) for day in days if day is not None), report)
    with settings.open_store(asked.project_id) as store:
        after = _plans(store, asked)
    report.after, report.left = [_json(one) for one in after], sum(_changes(one) for one in after)
    report.metrics_after = metrics_of(asked.project_id, client=asked.client)
    return report


def _plans(store: Store, asked: Asked) -> list[RepairPlan]:
    partition = None if asked.game_date is None else asked.game_date.isoformat()
    return [store.plan_repair(table, partition) for table in TABLES]


def _identity(plans: Iterable[RepairPlan]) -> str:
    return "-".join(one.identity for one in plans)


def _changes(one: RepairPlan) -> int:
    return one.extra_rows + one.renumbered


def _json(one: RepairPlan) -> dict[str, Any]:
    return {
        "table": one.table,
        "keys": one.keys,
        "extra_rows": one.extra_rows,
        "renumbered": one.renumbered,
        "by_date": {part.partition: part.extra_rows for part in one.partitions},
    }


def _told(one: RepairPlan) -> list[str]:
    renumbered = f", {one.renumbered} versions get another number" if one.renumbered else ""
    rows = f"{one.extra_rows} rows too many on {len(one.partitions)} dates"
    return [f"{one.table}: {one.keys} keys stand more than once, {rows}{renumbered}."]


def _grade_again(asked: Asked, days: Iterable[dt.date], report: Report) -> None:
    """Grade dates again of which predictions have changed; what has no result stays as it is."""
    season = asked.season
    for day in sorted(days):
        try:
            season = season or season_of_the_platform()
            done = grade_date(asked.project_id, day, client=asked.client, season=season)
        except OnerowError as error:
            report.failed(f"grading {day} again", error)
            continue
        report.regraded[day.isoformat()] = done.changed
        if not done.success:
            report.problems.append(f"grading {day} again: {done.consolidation and done.consolidation.error}")
            report.codes.append(done.exit_code)


def _print(report: Report) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for line in report.lines:
        console.print(line, markup=False)
    if not report.applied:
        console.print(table_of(report.metrics_before, "Now"))
        if report.found:
            console.print(f"Nothing was changed. This is plan {report.plan}; --apply does it.")
        return
    for one in report.after or ():
        counts = ", ".join(f"{name} {value}" for name, value in one.items() if isinstance(value, int))
        console.print(f"After it: {one['table']}: {counts}.", markup=False)
    changed = sum(report.regraded.values())
    console.print(f"{len(report.regraded)} dates graded again, {changed} grades changed.")
    console.print(table_of(report.metrics_before, "Before"))
    console.print(table_of(report.metrics_after or (), "After"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Repair predictions and grades; 0 if nothing is wrong (any more), 3 if something is.

    Shows the plan, and with --apply does it.
    """
    parser = argparse.ArgumentParser(prog="python -m predictions.grading.repair", description=main.__doc__)
    parser.add_argument("what", choices=("confidence", "duplicates"))
    parser.add_argument("--project", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--game-date", type=dt.date.fromisoformat, metavar="YYYY-MM-DD", help="only this one")
    parser.add_argument("--apply", action="store_true", help="do it; without it the plan is shown")
    parser.add_argument("--plan", metavar="ID", help="with --apply: only if this plan, as it was shown, still fits")
    parser.add_argument("--reason", default="", help="why; kept in the history")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    if given.plan is not None and not given.apply:
        sys.stderr.write("--plan goes with --apply: it names the plan that is to be done.\n")
        return EXIT_USAGE
    asked = Asked(settings.project_of(given.project), given.game_date, given.apply, given.plan, given.reason)
    try:
        report = (repair_confidence if given.what == "confidence" else repair_duplicates)(asked)
    except onerow.OnerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if given.json:
        sys.stdout.write(json.dumps(report.to_json()) + "\n")
    else:
        _print(report)
    for problem in report.problems:
        sys.stderr.write(f"{problem}\n")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
