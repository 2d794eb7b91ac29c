"""What is too long, too old or wrong: observations become sightings, with words and a command to look closer.

No observation is made here. No text holds a data value: partitions, batches, names and counts only.
"""

from __future__ import annotations

import datetime as dt
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.core.incidents import SECOND, Sighting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import Finding, TableCheck
    from onerow.services.batches import BatchView
    from onerow.services.locks import LockState
    from onerow.services.runs import RunEntry

DUPLICATES: Final = "duplicates"
VERSIONS: Final = "version_twice"
LEDGER: Final = "ledger"
ROW_CHECK: Final = "row_check"
WANDERING: Final = "key_in_several_partitions"
OTHER: Final = "other_finding"
DATA_KINDS: Final = (DUPLICATES, VERSIONS, LEDGER, ROW_CHECK, WANDERING, OTHER)

LOCK_HELD: Final = "lock_held"
STAGING_OLD: Final = "staging_old"
RUN_FAILED: Final = "consolidation_failed"
RUN_SLOW: Final = "consolidation_slow"
WAIT_LONG: Final = "lock_wait_long"
WAIT: Final = "lock_wait"
RUN_KINDS: Final = (RUN_FAILED, RUN_SLOW, WAIT_LONG, WAIT)

DATA_UNCHECKED: Final = "check_failed"
LOCKS_UNCHECKED: Final = "lock_check_failed"
STAGING_UNCHECKED: Final = "staging_check_failed"
RUNS_UNCHECKED: Final = "run_check_failed"
REGISTER_DOWN: Final = "register_failed"
STORE_DOWN: Final = "store_failed"
UNCHECKED: Final = frozenset(
    {DATA_UNCHECKED, LOCKS_UNCHECKED, STAGING_UNCHECKED, RUNS_UNCHECKED, REGISTER_DOWN, STORE_DOWN}
)
"""Kinds that say that something could not be looked at."""

KINDS: Final = frozenset({*DATA_KINDS, *RUN_KINDS, LOCK_HELD, STAGING_OLD, *UNCHECKED})

MAX_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too long. Seconds.

    Attributes:
        lock_wait_s: longer waits are a warning, shorter ones for information.
        told_wait_s: shorter waits are none.
        consolidation_s: longer consolidations, without their wait for locks, are a warning.
        lock_held_s: a lock that is held longer is a warning.
        staged_s: a part that waits longer is a warning.
        recent_s: how long a wait or a slow consolidation is news.
    """

    lock_wait_s: float = 120.0
    told_wait_s: float = 1.0
    consolidation_s: float = 60.0
    lock_held_s: float = 600.0
    staged_s: float = 3_600.0
    recent_s: float = 3_600.0


def of_data(spec: TableSpec, found: TableCheck) -> list[Sighting]:
    """Return what the check of a table has found. Duplicates are critical, all else is a warning."""
    seen = []
    if found.duplicate_keys:
        partitions = sorted({key.partition or "" for key in found.duplicates})
        seen.append(
            Sighting(
                DUPLICATES,
                spec.name,
                "CRITICAL",
                f"{_count(found.duplicate_keys, 'key')} with more than one row; "
                f"{_count(found.extra_rows, 'row')} too many.",
                _check_command(spec, partitions),
                dict.fromkeys(partitions, 0),
                complete=len(found.duplicates) >= found.duplicate_keys,
            )
        )
    kinds: dict[str, list[Finding]] = {}
    for finding in found.findings:
        known = ROW_CHECK if finding.check.startswith("check:") else finding.check
        kinds.setdefault(known if known in DATA_KINDS else OTHER, []).append(finding)
    return seen + [_findings(spec, kind, some) for kind, some in kinds.items()]


def _findings(spec: TableSpec, kind: str, found: Sequence[Finding]) -> Sighting:
    by_check = kind in {ROW_CHECK, OTHER}
    members = sorted({f.check.removeprefix("check:") if by_check else f.partition or "" for f in found})
    said = list(dict.fromkeys(finding.message for finding in found))
    rest = f" And {len(said) - MAX_LINES} more." if len(said) > MAX_LINES else ""
    return Sighting(
        kind,
        spec.name,
        "CRITICAL" if kind == VERSIONS else "WARNING",
        " ".join(said[:MAX_LINES]) + rest,
        _check_command(spec, [] if by_check else members),
        dict.fromkeys(members, 0),
        of="check" if by_check else "partition",
    )


def of_locks(table: str, states: Sequence[LockState], now_us: int, limits: Limits) -> list[Sighting]:
    """Return the locks of a table that are held for too long."""
    long = [state for state in states if state.held_for_s > limits.lock_held_s]
    if not long:
        return []
    holders = sorted({f"{state.holder} (batch {state.batch})" for state in long})
    scopes = {state.scope.partition("/")[2]: now_us - round(state.held_for_s * SECOND) for state in long}
    oldest = max(long, key=lambda state: state.held_for_s)
    return [
        Sighting(
            LOCK_HELD,
            table,
            "WARNING",
            f"Held for longer than {span(limits.lock_held_s)} by {', '.join(holders[:MAX_LINES])}.",
            f"onerow locks show {shell(oldest.scope)}",
            scopes,
        )
    ]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Parts that wait, by batch: how many, their rows, and since when the oldest does."""

    parts: int
    rows: int
    oldest: dt.datetime


def waiting(views: Sequence[BatchView]) -> dict[str, Waiting]:
    """Return what waits of each batch that has parts waiting."""
    found = {}
    for view in views:
        parts = [part for part in view.parts if part.waiting_partitions and part.manifest.state != "discarded"]
        if parts:
            found[view.batch] = Waiting(
                len(parts),
                sum(part.manifest.rows_of(name) for part in parts for name in part.waiting_partitions),
                min(_moment(part.manifest.staged_at) for part in parts),
            )
    return found


def of_staging(table: str, found: Mapping[str, Waiting], now: dt.datetime, limits: Limits) -> list[Sighting]:
    """Return the batches of a table that wait for too long."""
    old = {batch: one for batch, one in found.items() if (now - one.oldest).total_seconds() > limits.staged_s}
    if not old:
        return []
    first = min(old, key=lambda batch: old[batch].oldest)
    return [
        Sighting(
            STAGING_OLD,
            table,
            "WARNING",
            f"{_count(len(old), 'batch', 'batches')} with parts that wait for longer than {span(limits.staged_s)}; "
            f"the oldest is {first}.",
            _batch_command(table, first),
            {batch: _us(one.oldest) for batch, one in old.items()},
            of="batch",
        )
    ]


def of_runs(
    table: str,
    runs: Sequence[RunEntry],
    *,
    still_waiting: frozenset[str] | None,
    known: frozenset[str],
    now: dt.datetime,
    limits: Limits,
) -> list[Sighting]:
    """Return what the journal tells of a table's consolidations.

    Args:
        table: its name.
        runs: the latest first.
        still_waiting: batches of which parts wait; None: that could not be seen.
        known: batches that are known to have failed; the journal may have forgotten them.
        now: by the lock store's clock.
        limits: what is too long.
    """
    recent = [run for run in runs if (now - run.finished_at).total_seconds() <= limits.recent_s]
    seen = _failed(table, runs, still_waiting, known) + _slow(table, recent, limits)
    waits: dict[str, dict[str, int]] = {WAIT_LONG: {}, WAIT: {}}
    longest = {WAIT_LONG: 0.0, WAIT: 0.0}
    for run in recent:
        for part in run.result.partitions:
            if part.lock_wait_s > limits.told_wait_s:
                kind = WAIT_LONG if part.lock_wait_s > limits.lock_wait_s else WAIT
                waits[kind][part.partition or ""] = _us(run.started_at)
                longest[kind] = max(longest[kind], part.lock_wait_s)
    return seen + [
        Sighting(
            kind,
            table,
            "WARNING" if kind == WAIT_LONG else "INFO",
            f"Consolidations waited for a lock, up to {span(longest[kind])}.",
            "onerow locks list",
            members,
        )
        for kind, members in waits.items()
        if members
    ]


def _failed(
    table: str, runs: Sequence[RunEntry], still_waiting: frozenset[str] | None, known: frozenset[str]
) -> list[Sighting]:
    """Return the batches whose last consolidation has failed and of which parts still wait."""
    last: dict[str, RunEntry] = {}
    for run in runs:
        last.setdefault(run.result.batch, run)
    failed = {batch: _us(run.started_at) for batch, run in last.items() if not run.result.success}
    failed |= dict.fromkeys(known - last.keys(), 0)
    if still_waiting is not None:
        failed = {batch: since for batch, since in failed.items() if batch in still_waiting}
    if not failed:
        return []
    newest = max(failed, key=lambda batch: failed[batch])
    how = ""
    if newest in last:
        result = last[newest].result
        how = f"; the last one as {result.status}" + (f" ({result.error_kind})" if result.error_kind else "")
    return [
        Sighting(
            RUN_FAILED,
            table,
            "WARNING",
            f"The last consolidation of {_count(len(failed), 'batch', 'batches')} has not ended well{how}. "
            "Nothing is lost: staging is kept.",
            _batch_command(table, newest),
            failed,
            of="batch",
        )
    ]


def _slow(table: str, runs: Sequence[RunEntry], limits: Limits) -> list[Sighting]:
    work = {run.result.batch: _work_s(run) for run in reversed(runs) if _work_s(run) > limits.consolidation_s}
    if not work:
        return []
    since = {run.result.batch: _us(run.started_at) for run in runs if run.result.batch in work}
    slowest = max(work, key=lambda batch: work[batch])
    return [
        Sighting(
            RUN_SLOW,
            table,
            "WARNING",
            f"Consolidations took up to {span(work[slowest])}, waiting for locks not counted.",
            f"onerow history --table {shell(table)} --batch {shell(slowest)}",
            {batch: since[batch] for batch in work},
            of="batch",
        )
    ]


def _work_s(run: RunEntry) -> float:
    worked_s = sum(part.merge_s + part.verify_s for part in run.result.partitions)
    return max(run.elapsed_s - run.lock_wait_s, worked_s)


def unchecked(kind: str, table: str, what: str, command: str = "onerow doctor") -> Sighting:
    """Return the sighting of a look that could not be made: a warning, never silence."""
    return Sighting(kind, table, "WARNING", what, command, of="check")


def shell(name: str) -> str:
    """Return a name as a word of a shell's command."""
    return shlex.quote(name)


def span(seconds: float) -> str:
    """Return a time as people say it."""
    for unit_s, unit in ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _check_command(spec: TableSpec, partitions: Sequence[str]) -> str:
    command = f"onerow check --table {shell(spec.name)}"
    if spec.partition is not None and partitions and partitions[-1]:
        return f"{command} --partition {shell(partitions[-1])}"
    return command


def _batch_command(table: str, batch: str) -> str:
    return f"onerow batches show {shell(batch)} --table {shell(table)}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _moment(text: str) -> dt.datetime:
    found = dt.datetime.fromisoformat(text)
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found


def _us(moment: dt.datetime) -> int:
    return round(moment.timestamp() * SECOND)
