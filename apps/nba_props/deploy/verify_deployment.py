"""Judges a deployment by the criteria of success and of rollback, from what onerow has written down.

Duplicates come from ``onerow check``, commits from the warehouse's history, lock waits, failures and durations from the
journal in the lock store. Counters of ``/metrics`` are not asked: they are those of one process and end with it.

Exit codes: 0 healthy; 3 roll back; 4 a criterion of success is not met, none of rollback: look again later; 1 it could
not be judged; 2 wrong usage. What could not be seen is never a pass.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import onerow
from predictions import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from onerow import Store
    from onerow.ports.warehouse import HistoryEntry
    from onerow.services.checker import CheckReport
    from onerow.services.runs import RunEntry

Found = TypeVar("Found")
Verdict = Literal["good", "watch", "roll_back", "unknown"]

HEALTHY: Final = 0
NOT_JUDGED: Final = 1
ROLL_BACK: Final = 3
WATCH: Final = 4

DATES_BEFORE_DAYS: Final = 7
"""Game dates before the deployment that are checked too: they are graded, corrected and predicted again."""

HISTORY_LIMIT: Final = 10_000
FEW_ACQUISITIONS: Final = 10
"""Below so many a single failure is more than a tenth and says little."""

UNJOURNALED: Final = 0.1
"""The share of commits that may miss in the journal: of processes that were killed right after their commit."""

_OF_SERVICES: Final = frozenset({"warehouse", "lock_store", "staging", "retries_exhausted", "outcome_unknown"})
"""Kinds of errors that a service's answer may be behind."""

_QUOTA: Final = re.compile(r"quota|rate ?limit|resource_exhausted|too many requests", re.IGNORECASE)
_DENIED: Final = re.compile(
    r"permission|access ?denied|unauthenticated|credentials|does not let this account", re.IGNORECASE
)


@dataclass(frozen=True)
class Limits:
    """The criteria's numbers.

    Attributes:
        grace_h: duplicates that are still there so long after the deployment mean rollback.
        failed_share: more failed lock acquisitions than this share mean rollback.
        slow_s: a consolidation that takes longer means rollback.
        median_s: the median of consolidations has to be below, for success.
    """

    grace_h: float = 24.0
    failed_share: float = 0.10
    slow_s: float = 300.0
    median_s: float = 60.0


@dataclass(frozen=True)
class Evidence:
    """What was seen of the time since a deployment.

    Attributes:
        checks: one for each table, of recent dates.
        history: commits; a text: why they could not be read.
        runs: consolidations with what came of them; a text: why they could not be read.
        log_lines: lines of the services' logs.
    """

    deployed_at: dt.datetime
    now: dt.datetime
    checks: Sequence[CheckReport]
    history: Sequence[HistoryEntry] | str
    runs: Sequence[RunEntry] | str
    log_lines: Sequence[str] = ()


@dataclass(frozen=True)
class Criterion:
    """One criterion, with what was found."""

    name: str
    verdict: Verdict
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Judgement:
    """What comes of all criteria."""

    project_id: str
    deployed_at: str
    judged_at: str
    criteria: list[Criterion]

    @property
    def exit_code(self) -> int:
        """Rollback goes before what could not be seen, and that before what has to wait."""
        verdicts = {criterion.verdict for criterion in self.criteria}
        if "roll_back" in verdicts:
            return ROLL_BACK
        if "unknown" in verdicts or not verdicts:
            return NOT_JUDGED
        return WATCH if "watch" in verdicts else HEALTHY

    @property
    def summary(self) -> str:
        """The judgement in words."""
        return {HEALTHY: "healthy", ROLL_BACK: "ROLL BACK", WATCH: "not there yet, look again later"}.get(
            self.exit_code, "NOT JUDGED: something could not be seen, which is no pass"
        )


def gather(
    project_id: str, deployed_at: dt.datetime, *, now: dt.datetime | None = None, log_lines: Sequence[str] = ()
) -> Evidence:
    """Return what can be seen of a project since ``deployed_at``.

    Raises:
        OnerowError: the project's configuration is none.
    """
    since = (deployed_at - dt.timedelta(days=DATES_BEFORE_DAYS)).date().isoformat()
    with settings.open_store(project_id) as store:
        checks = store.check(since=since)
        history = _seen(lambda: _history(store, deployed_at))
        runs = _seen(lambda: store.runs.list(since=deployed_at))
    return Evidence(deployed_at, now or dt.datetime.now(dt.UTC), checks, history, runs, log_lines)


def judge(project_id: str, seen: Evidence, limits: Limits = Limits()) -> Judgement:
    """Hold what was seen against the criteria."""
    runs = None if isinstance(seen.runs, str) else seen.runs
    journal = f"The journal could not be read: {seen.runs}"
    criteria = [_activity(seen), _duplicates(seen, limits), _other_findings(seen)]
    if runs is None:
        names = ("failed lock acquisitions", "slow consolidations", "median consolidation", "failed consolidations")
        criteria += [Criterion(name, "unknown", journal, "onerow doctor") for name in names]
    else:
        criteria += [
            _acquisitions(runs, limits),
            _slow(runs, limits),
            _median(runs, limits),
            _failed(runs),
        ]
    criteria += [_refusals(runs or (), seen.log_lines, known=runs is not None), _lock_in_use(seen)]
    deployed_at, judged_at = (moment.isoformat(timespec="seconds") for moment in (seen.deployed_at, seen.now))
    return Judgement(project_id, deployed_at, judged_at, criteria)


def _seen(look: Callable[[], Sequence[Found]]) -> Sequence[Found] | str:
    try:
        return look()
    except onerow.OnerowError as error:
        return error.message


def _history(store: Store, since: dt.datetime) -> list[HistoryEntry]:
    return [entry for entry in store.history(limit=HISTORY_LIMIT) if _utc(entry.committed_at) >= since]


# --- the criteria ------------------------------------------------------------------------------


def _activity(seen: Evidence) -> Criterion:
    """Something must have been consolidated, and the journal must know of it."""
    name = "activity"
    if isinstance(seen.history, str):
        return Criterion(name, "unknown", f"The history could not be read: {seen.history}", "onerow doctor")
    if isinstance(seen.runs, str):
        return Criterion(name, "unknown", f"The journal could not be read: {seen.runs}", "onerow doctor")
    committed = {entry.consolidation for entry in seen.history if entry.action == "consolidate"}
    if not committed and not seen.runs:
        return Criterion(name, "unknown", "nothing was consolidated since the deployment", "wait for the next run")
    lacking = len(committed - {run.result.consolidation for run in seen.runs})
    found = f"{len(seen.runs)} consolidations, {len(committed)} with commits"
    if lacking > UNJOURNALED * len(committed):
        todo = "failed lock acquisitions of programs that keep no journal are not seen"
        return Criterion(name, "unknown", f"{found}; {lacking} of them are not in the journal", todo)
    return Criterion(name, "good", found)


def _duplicates(seen: Evidence, limits: Limits) -> Criterion:
    name = "duplicates"
    for report in seen.checks:
        if report.result is None:
            return Criterion(name, "unknown", f"{report.table} could not be checked: {report.error}", "onerow doctor")
    keys = {report.table: report.result.duplicate_keys for report in seen.checks if report.result}
    if not any(keys.values()):
        return Criterion(name, "good", f"none in {', '.join(keys)}")
    hours = (seen.now - seen.deployed_at).total_seconds() / 3600
    found = ", ".join(f"{count} keys in {table}" for table, count in keys.items() if count)
    table = next(table for table, count in keys.items() if count)
    late = hours >= limits.grace_h
    return Criterion(
        name, "roll_back" if late else "watch", f"{found}, {hours:.0f} h after the deployment",
        f"onerow dedupe --table {table}, and find who else writes",
    )  # fmt: skip


def _other_findings(seen: Evidence) -> Criterion:
    findings = [finding for report in seen.checks if report.result for finding in report.result.findings]
    if not findings:
        return Criterion("other findings", "good", "none")
    kinds = sorted({finding.check for finding in findings})
    return Criterion("other findings", "watch", f"{len(findings)}: {', '.join(kinds)}", "onerow check")


def _acquisitions(runs: Iterable[RunEntry], limits: Limits) -> Criterion:
    """A partition that was merged, or failed for any other reason, had its lock; one without a token took none."""
    name, had, failed = "failed lock acquisitions", 0, 0
    for part in (part for run in runs for part in run.result.partitions):
        if part.status == "lock_timeout" or (part.error_kind == "lock_store" and part.token is None):
            failed += 1
        elif part.token is not None:
            had += 1
    tried = had + failed
    found = f"{failed} of {tried}" + (f" ({failed / tried:.0%})" if tried else "")
    verdict: Verdict = "good"
    if tried and failed / tried > limits.failed_share:
        verdict = "watch" if tried < FEW_ACQUISITIONS else "roll_back"
    return Criterion(name, verdict, found, "" if verdict == "good" else "onerow locks list")


def _slow(runs: Iterable[RunEntry], limits: Limits) -> Criterion:
    slow = [run for run in runs if work_s(run) > limits.slow_s]
    if not slow:
        return Criterion("slow consolidations", "good", f"none above {limits.slow_s:.0f} s")
    worst = max(slow, key=work_s)
    found = f"{len(slow)} above {limits.slow_s:.0f} s; batch {worst.result.batch} took {work_s(worst):.0f} s"
    return Criterion("slow consolidations", "roll_back", found, f"onerow history --batch {worst.result.batch}")


def _median(runs: Iterable[RunEntry], limits: Limits) -> Criterion:
    times = [work_s(run) for run in runs if run.result.status == "committed"]
    if not times:
        return Criterion("median consolidation", "unknown", "no consolidation has committed", "wait for the next run")
    median = statistics.median(times)
    verdict: Verdict = "good" if median < limits.median_s else "watch"
    return Criterion("median consolidation", verdict, f"{median:.2f} s of {len(times)}")


def _failed(runs: Iterable[RunEntry]) -> Criterion:
    """Batches whose last consolidation failed."""
    last: dict[tuple[str, str], RunEntry] = {}
    for run in sorted(runs, key=lambda run: run.started_at):
        last[run.result.table, run.result.batch] = run
    failed = [run.result for run in last.values() if not run.result.success]
    if not failed:
        return Criterion("failed consolidations", "good", "none that was not made good")
    kinds = ", ".join(sorted({result.error_kind or result.status for result in failed}))
    todo = f"onerow consolidate --table {failed[0].table} --batch {failed[0].batch}"
    return Criterion("failed consolidations", "watch", f"{len(failed)} batches: {kinds}", todo)


def _refusals(runs: Iterable[RunEntry], log_lines: Sequence[str], *, known: bool) -> Criterion:
    """Errors of quota and permission: of consolidations, and in the lines of the services' logs."""
    name = "quota and permission errors"
    errors = [part.error or "" for run in runs for part in run.result.partitions if part.error_kind in _OF_SERVICES]
    errors += [run.result.error or "" for run in runs if run.result.error_kind in _OF_SERVICES]
    errors += log_lines
    denied = sum(1 for text in errors if _DENIED.search(text))
    quota = sum(1 for text in errors if _QUOTA.search(text) and not _DENIED.search(text))
    if denied or quota:
        return Criterion(name, "roll_back", f"{denied} of permission, {quota} of quota", "onerow doctor")
    return Criterion(name, "good" if known else "unknown", "none" if known else "the journal could not be read")


def _lock_in_use(seen: Evidence) -> Criterion:
    if isinstance(seen.history, str):
        return Criterion("lock switched on", "unknown", "the history could not be read", "onerow doctor")
    without = sum(1 for entry in seen.history if entry.action == "consolidate" and entry.unlocked)
    if without:
        todo = f"turn it on again: unset {settings.LOCK_SWITCH}"
        return Criterion("lock switched on", "watch", f"{without} commits without the lock", todo)
    return Criterion("lock switched on", "good", "every commit was made under the lock")


def work_s(run: RunEntry) -> float:
    """Return how long a consolidation has worked: waiting for locks is not counted, as in the monitor."""
    worked_s = sum(part.merge_s + part.verify_s for part in run.result.partitions)
    return max(run.elapsed_s - run.lock_wait_s, worked_s)


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


# --- the command -------------------------------------------------------------------------------


def table_of(judgement: Judgement) -> str:
    """Return the judgement as a table for people."""
    rows = [(one.verdict.replace("_", " "), one.name, one.found, one.todo) for one in judgement.criteria]
    widths = [max(len(row[place]) for row in rows) for place in range(2)]
    lines = [f"{judgement.project_id}, deployed {judgement.deployed_at}, judged {judgement.judged_at}"]
    for verdict, name, found, todo in rows:
        then = f"  -> {todo}" if todo else ""
        lines.append(f"  {verdict:<{widths[0]}}  {name:<{widths[1]}}  {found}{then}")
    return "\n".join([*lines, judgement.summary])


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a deployment and print why."""
    parser = argparse.ArgumentParser(
        prog="verify_deployment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project-id", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--deployed-at", required=True, type=_moment, metavar="TIME", help="ISO 8601; else UTC")
    parser.add_argument("--log-lines", metavar="FILE", help="lines of the services' logs; - is standard input")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    for name, number in asdict(Limits()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=number, help=f"default: {number:g}")
    asked = parser.parse_args(arguments)
    project_id = settings.project_of(asked.project_id)
    limits = Limits(**{name: getattr(asked, name) for name in asdict(Limits())})
    try:
        if asked.log_lines:
            text = sys.stdin.read() if asked.log_lines == "-" else Path(asked.log_lines).read_text(encoding="utf-8")
        else:
            text = ""
        seen = gather(project_id, asked.deployed_at, log_lines=text.splitlines())
    except (onerow.OnerowError, OSError) as error:
        print(f"Not judged, which is no pass: {error}", file=sys.stderr)
        return NOT_JUDGED
    judgement = judge(project_id, seen, limits)
    if asked.format == "json":
        document = asdict(judgement) | {"verdict": judgement.summary, "exit_code": judgement.exit_code}
        print(json.dumps(document, indent=2))
    else:
        print(table_of(judgement))
    return judgement.exit_code


def _moment(text: str) -> dt.datetime:
    return _utc(dt.datetime.fromisoformat(text))


if __name__ == "__main__":
    sys.exit(main())
