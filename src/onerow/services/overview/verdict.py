"""Whether all is well. Pure: what was seen goes in, a verdict with its reasons comes out.

Only what was looked at, and not too long ago, counts as well: a check that never ran, could not run or is old is
told as "cannot tell", never as fine.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from onerow.services.overview.model import LEVELS, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onerow.services.overview.model import (
        Backlog,
        BatchSeen,
        Checked,
        IncidentSeen,
        Level,
        LockSeen,
        QuarantineSeen,
        Section,
    )
    from onerow.services.runs import RunEntry

HEADLINES: Final[dict[Level, str]] = {
    "critical": "Act now",
    "unknown": "Cannot tell",
    "warning": "Have a look",
    "well": "All is well",
}

NONE: Final = "\N{EN DASH}"
"""Stands where there is nothing to tell."""

RECENT: Final = dt.timedelta(days=1)
"""A failure is a reason for so long; what it left in staging is one of its own."""

INCIDENT_LEVELS: Final[dict[str, Level]] = {"CRITICAL": "critical", "WARNING": "warning"}
"""Levels of incidents that are reasons; those for information are none."""


def verdict(
    *,
    checks: Section[tuple[Checked, ...]],
    incidents: Section[tuple[IncidentSeen, ...]],
    locks: Section[tuple[LockSeen, ...]],
    batches: Section[tuple[BatchSeen, ...]],
    backlog: Section[tuple[Backlog, ...]],
    quarantine: Section[tuple[QuarantineSeen, ...]],
    runs: Section[tuple[RunEntry, ...]],
    now: dt.datetime,
) -> Verdict:
    """Return the verdict over what was seen; ``now`` says which failures are recent."""
    sections: dict[str, tuple[Section[Any], str]] = {
        "checks": (checks, "the last checks"),
        "incidents": (incidents, "incidents"),
        "locks": (locks, "locks"),
        "batches": (batches, "batches and staging"),
        "runs": (runs, "consolidations"),
        "quarantine": (quarantine, "the quarantine"),
    }
    reasons = [
        Reason("unknown", f"Could not look at {name}: {section.error}", anchor)
        for anchor, (section, name) in sections.items()
        if section.error is not None
    ]
    told = {seen.table for seen in incidents.value or () if seen.open and seen.level == "CRITICAL"}
    reasons += _incidents(incidents.value or ())
    reasons += [
        reason
        for check in checks.value or ()
        if not (check.state == "duplicates" and check.table in told)  # an incident tells of it already
        for reason in _check(check)
    ]
    reasons += _locks(locks.value or ())
    reasons += _batches(batches.value or ())
    reasons += _backlog(backlog.value or ())
    reasons += _runs(runs.value or (), now - RECENT)
    reasons.sort(key=lambda reason: LEVELS.index(reason.level))
    level: Level = reasons[0].level if reasons else "well"
    return Verdict(level, HEADLINES[level], tuple(reasons))


def _check(check: Checked) -> Iterator[Reason]:
    name = check.table
    match check.state:
        case "duplicates":
            text = f"{counted(check.duplicate_keys, 'key')} of {name} stand more than once"
            if check.duplicate_keys == 1:
                text = f"1 key of {name} stands more than once"
            yield Reason("critical", f"{text} ({counted(check.extra_rows, 'row')} too many).", "checks")
        case "findings":
            yield Reason("warning", f"{name}: {check.findings[0] if check.findings else 'findings'}", "checks")
        case "failed":
            yield Reason("unknown", f"The last check of {name} could not run: {check.error}", "checks")
        case "never":
            yield Reason("unknown", f"{name} was not checked yet; onerow monitor does that.", "checks")
        case "old":
            ago = span(check.age_s)
            yield Reason("unknown", f"{name} was last checked {ago} ago; is onerow monitor running?", "checks")
        case "clean":
            pass


def _incidents(incidents: Sequence[IncidentSeen]) -> Iterator[Reason]:
    for incident in incidents:
        level = INCIDENT_LEVELS.get(incident.level)
        if incident.open and level is not None:
            yield Reason(level, incident.what, "incidents")
    untold = sorted({told.partition(":")[0] for incident in incidents for told in incident.undelivered})
    if untold:
        yield Reason("warning", f"Alerts could not be delivered yet to: {', '.join(untold)}.", "incidents")


def _locks(locks: Sequence[LockSeen]) -> Iterator[Reason]:
    for seen in locks:
        lock = seen.lock
        if lock.kind != "lease":
            continue
        if lock.state == "expired":
            silent = span(lock.renewed_ago_s)
            text = f"{lock.holder} holds the lock of {lock.scope} and has not renewed it for {silent}."
            yield Reason("warning", text, "locks")
        elif seen.too_long:
            text = f"{lock.holder} holds the lock of {lock.scope} for {span(lock.held_for_s)}."
            yield Reason("warning", text, "locks")


def _batches(batches: Sequence[BatchSeen]) -> Iterator[Reason]:
    for batch in batches:
        if batch.late:
            yield Reason("warning", f"Batch {batch.batch} of {batch.table} is incomplete past its deadline.", "batches")


def _backlog(backlog: Sequence[Backlog]) -> Iterator[Reason]:
    for waiting in backlog:
        if waiting.too_old and waiting.oldest_age_s is not None:
            text = f"Staging of {waiting.table}: the oldest part waits for {span(waiting.oldest_age_s)}."
            yield Reason("warning", text, "staging")


def _runs(runs: Sequence[RunEntry], recent: dt.datetime) -> Iterator[Reason]:
    """Yield the batches whose latest consolidation, within a day, did not end well; a newer success mends a failure."""
    seen: set[tuple[str, str]] = set()
    for run in runs:
        result = run.result
        name = (result.table, result.batch)
        if name in seen:
            continue
        seen.add(name)
        if not result.success and run.finished_at > recent:
            words = result.status.replace("_", " ")
            text = f"The latest consolidation of batch {result.batch} into {result.table} ended as: {words}."
            yield Reason("unknown" if result.status == "unknown" else "warning", text, "runs")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in singular or plural."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def span(seconds: float) -> str:
    """Return a length of time for people, in its two largest units: ``4 min 10 s``."""
    left = max(round(seconds), 0)
    if left == 0 and seconds > 0:
        return f"{seconds * 1000:.0f} ms"
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    said: list[str] = []
    for unit, size in units:
        count, left = divmod(left, size)
        if count:
            said.append(f"{count} {unit}")
        elif said:
            break
        if len(said) == 2:  # noqa: PLR2004  # two units
            break
    return " ".join(said) or "0 s"
