"""Grading alerts: what is wrong with the grades becomes an incident of onerow, told once and again when it is over.

    python -m predictions.grading.alerts

Incidents, receivers (Slack, a webhook), repetition and levels are those of ``onerow monitor``, in the same register:
whichever of both sees duplicates first tells them, and the page shows all.

| kind | level | what |
| --- | --- | --- |
| ``duplicates`` | CRITICAL | a grade stands more than once (the monitor's own kind) |
| ``grading_missing`` | CRITICAL | a date has predictions and not one grade |
| ``grading_ungraded`` | WARNING | more than 5 % of a date's predictions have no grade; CRITICAL from 50 % |
| ``grading_accuracy_drop`` | WARNING | a system's last week is 5 points below its season; CRITICAL from 10 |
| ``grading_check_failed`` | WARNING | something could not be looked at; nothing is over by that |

A drop is told only if chance alone would hardly make it: two standard errors, and at least 50 decided bets.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import onerow
from onerow.adapters.clock import SystemClock, SystemIds
from onerow.bootstrap import alert_policy, holder_name, open_notifiers
from onerow.core.incidents import LEVELS, Level, Sighting
from onerow.errors import EXIT_FAILED, OnerowError
from onerow.ports.warehouse import InspectRequest
from onerow.services import sightings as words
from onerow.services.alerting import Alerting
from onerow.services.lookreport import LookReport
from predictions import settings
from predictions.grading.metrics import PREDICTED, read_metrics
from predictions.reading import open_reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.cloud import bigquery

    from onerow import Store
    from onerow.services.alerting import Known
    from predictions.grading.metrics import SystemMetrics
    from predictions.reading import Reader

MISSING: Final = "grading_missing"
UNGRADED: Final = "grading_ungraded"
DROP: Final = "grading_accuracy_drop"
UNCHECKED: Final = "grading_check_failed"
SEASON_STARTS_IN: Final = 8
DUPLICATES_LISTED: Final = 1_000

_BY_DATE: Final = f"""
select game_date, count(*) as predictions, count(case when is_graded = 1 then 1 end) as graded from ({PREDICTED}) as k
group by game_date order by game_date
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too little or too much.

    Attributes:
        days: how many dates back grades are looked for, and what "lately" is.
        grace_days: dates younger than so many days need no grades yet; 1: yesterday's are due.
        ungraded, many_ungraded: share of a date's predictions without a grade: a warning, critical.
        drop, deep_drop: of the accuracy below the season's, as a share: a warning, critical.
        decided: a system with fewer decided grades lately is not judged.
        standard_errors: a drop within so many is chance.
    """

    days: int = 7
    grace_days: int = 1
    ungraded: float = 0.05
    many_ungraded: float = 0.5
    drop: float = 0.05
    deep_drop: float = 0.10
    decided: int = 50
    standard_errors: float = 2.0


def look(
    project_id: str,
    *,
    as_of: dt.date | None = None,
    limits: Limits | None = None,
    client: bigquery.Client | None = None,
    environ: Mapping[str, str] = os.environ,
) -> LookReport:
    """Look at the grades once, keep what was found as incidents and tell whoever is to be told.

    Args:
        project_id: see ``predictions.settings``.
        as_of: today; None: today in UTC.
        limits: what is too much.
        client: of BigQuery; None: one is made where it is needed.
        environ: has the receivers' addresses.

    Raises:
        OnerowError: the project cannot be opened, or its register does not answer.
    """
    clock = SystemClock()
    report = LookReport(clock.utc_now())
    found, limits = settings.settings_of(project_id), limits or Limits()
    until = (as_of or report.at.date()) - dt.timedelta(days=limits.grace_days)
    with settings.open_store(project_id) as store:
        notifiers = open_notifiers(found.alerts, environ)
        alerting = Alerting(
            register=store.ports.locks,
            notifiers=notifiers,
            policy=alert_policy(found.alerts),
            who=f"{holder_name()}/{SystemIds().new_id('g')}",
        )
        try:
            known = alerting.known()
            with open_reader(project_id, client) as reader:
                _Look(store, reader, until, limits, known).into(report)
            alerting.record(known, report.sightings, looked=report.looked)
            report.told = alerting.tell()
            report.incidents = alerting.known().incidents
        finally:
            alerting.close()
    return report


@dataclass(frozen=True)
class _Look:
    """What a look needs.

    Attributes:
        until: the last date whose grades are due.
        known: incidents that were open before it.
    """

    store: Store
    reader: Reader
    until: dt.date
    limits: Limits
    known: Known

    def into(self, report: LookReport) -> None:
        """Look at everything; what could not be looked at is a finding of its own."""
        name, problems = settings.GRADES, []
        for what, looking in (("duplicates", self._duplicates), ("dates", self._dates), ("accuracy", self._accuracy)):
            try:
                looking(report)
            except OnerowError as error:
                problems.append(f"{what} ({error.kind})")
        if problems:
            told = f"What could not be looked at: {', '.join(problems)}. That is not the same as well."
            report.saw([words.unchecked(UNCHECKED, name, told)], looked=(), table=name)
        else:
            report.saw((), looked=(UNCHECKED,), table=name)

    @property
    def since(self) -> dt.date:
        """The first date of "lately"."""
        return self.until - dt.timedelta(days=self.limits.days - 1)

    def _duplicates(self, report: LookReport) -> None:
        spec = self.store.table(settings.GRADES)
        request = InspectRequest(spec, limit=DUPLICATES_LISTED)
        found = self.store.ports.warehouse.inspect(request)
        report.saw(words.of_data(spec, found), looked=words.DATA_KINDS, table=spec.name)

    def _dates(self, report: LookReport) -> None:
        first = self.since
        for kind in (MISSING, UNGRADED):  # no date that an incident is about leaves the window unseen
            incident = self.known.open(kind, settings.GRADES)
            first = min([first, *(dt.date.fromisoformat(day) for day in (incident.members if incident else ()))])
        rows = self.reader.rows(_BY_DATE, since=first, until=self.until)
        found = {row["game_date"]: (row["predictions"], row["graded"]) for row in rows}
        report.saw(of_dates(found, self.limits), looked=(MISSING, UNGRADED), table=settings.GRADES)

    def _accuracy(self, report: LookReport) -> None:
        begins = dt.date(self.until.year - (self.until.month < SEASON_STARTS_IN), SEASON_STARTS_IN, 1)
        lately = read_metrics(self.reader, since=self.since, until=self.until)
        before = read_metrics(self.reader, since=begins, until=self.since - dt.timedelta(days=1))
        judged = {one.system_id for one in lately if one.decided >= self.limits.decided}
        incident = self.known.open(DROP, settings.GRADES)
        unseen = incident is not None and not incident.members.keys() <= judged
        looked = () if unseen else (DROP,)  # of a system with too few games nobody knows that it is over
        report.saw(of_accuracy(lately, before, self.limits), looked=looked, table=settings.GRADES)


def of_dates(found: Mapping[dt.date, tuple[int, int]], limits: Limits) -> list[Sighting]:
    """Return what is wrong with dates of which (predictions, graded) keys are known."""
    missing = [day for day, (predictions, graded) in found.items() if predictions and not graded]
    shares = {day: 1 - graded / predictions for day, (predictions, graded) in found.items() if graded}
    few = {day: share for day, share in shares.items() if share > limits.ungraded}
    seen = []
    if missing:
        what = f"{_dates(missing)} predictions and not one grade."
        seen.append(_of_days(MISSING, "CRITICAL", what, missing))
    if few:
        worst = max(few, key=lambda day: few[day])
        level: Level = "CRITICAL" if few[worst] >= limits.many_ungraded else "WARNING"
        what = f"{_dates(few)} ungraded predictions above {limits.ungraded:.0%}, up to {few[worst]:.0%} on {worst}."
        seen.append(_of_days(UNGRADED, level, what, few))
    return seen


def of_accuracy(lately: Sequence[SystemMetrics], before: Sequence[SystemMetrics], limits: Limits) -> list[Sighting]:
    """Return the systems that do worse lately than in the season before, by more than chance makes."""
    season = {one.system_id: one for one in before}
    drops: dict[str, float] = {}
    for now in lately:
        then = season.get(now.system_id)
        if then is None or now.accuracy is None or then.accuracy is None or now.decided < limits.decided:
            continue
        drop = then.accuracy - now.accuracy
        pooled = (now.correct + then.correct) / (now.decided + then.decided)
        error = math.sqrt(pooled * (1 - pooled) * (1 / now.decided + 1 / then.decided))
        if drop >= limits.drop and drop > limits.standard_errors * error:
            drops[now.system_id] = drop
    if not drops:
        return []
    worst = max(drops, key=lambda name: drops[name])
    what = f"Accuracy of the last {limits.days} days below the season's, {worst} by {drops[worst] * 100:.0f} points."
    return [
        Sighting(
            DROP,
            settings.GRADES,
            "CRITICAL" if drops[worst] >= limits.deep_drop else "WARNING",
            what,
            "python -m predictions.grading.metrics",
            dict.fromkeys(sorted(drops), 0),
            of="check",
        )
    ]


def _of_days(kind: str, level: Level, what: str, days: Sequence[dt.date] | Mapping[dt.date, float]) -> Sighting:
    members = [day.isoformat() for day in sorted(days)]
    command = f"python -m predictions.grading.grade --game-date {members[-1]}"
    return Sighting(kind, settings.GRADES, level, what, command, dict.fromkeys(members, 0))


def _dates(days: Sequence[dt.date] | Mapping[dt.date, float]) -> str:
    return f"{len(days)} {'date has' if len(days) == 1 else 'dates have'}"


def exit_code_of(report: LookReport) -> int:
    """Return 0 if all was looked at and is well, 3 if something was found, 1 if something could not be looked at."""
    if any(seen.kind == UNCHECKED for seen in report.sightings):
        return EXIT_FAILED
    return report.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the grades once; 0 well, 3 something was found, 1 something could not be looked at."""
    parser = argparse.ArgumentParser(prog="python -m predictions.grading.alerts", description=main.__doc__)
    parser.add_argument("--project", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--as-of", type=dt.date.fromisoformat, metavar="YYYY-MM-DD", help="today, if it is another day")
    parser.add_argument("--days", type=int, default=Limits().days, help="how far back (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")
    asked = parser.parse_args(arguments)
    try:
        report = look(settings.project_of(asked.project), as_of=asked.as_of, limits=Limits(days=asked.days))
    except onerow.OnerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    code = exit_code_of(report)
    if asked.json:
        sys.stdout.write(json.dumps({**report.to_json(), "clean": code == 0, "exit_code": code}) + "\n")
        return code
    for seen in sorted(report.sightings, key=lambda one: -LEVELS.index(one.level)):
        named = f" ({', '.join(seen.members)})" if seen.members else ""
        sys.stdout.write(f"{seen.level}: {seen.kind}{named}: {seen.what} Look closer: {seen.command}\n")
    if not report.sightings:
        sys.stdout.write("The grades are well.\n")
    for receiver, why in report.told.failed.items():
        sys.stderr.write(f"{receiver} was not told: {why}. It is tried again by the next look.\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
