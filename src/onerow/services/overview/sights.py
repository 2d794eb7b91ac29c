"""What the page shows of a store, each section read by itself."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from onerow.core.batchrecords import record_from_json
from onerow.core.incidents import LEVELS, incident_from_json
from onerow.services.batchstatus import status_of
from onerow.services.lastchecks import LastChecks
from onerow.services.overview.model import (
    Backlog,
    BatchSeen,
    Checked,
    IncidentSeen,
    LockSeen,
    PartitionDuplicates,
    QuarantineSeen,
)
from onerow.services.overview.verdict import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.core.incidents import Incident
    from onerow.services.batches import BatchView
    from onerow.services.batchstatus import BatchStatus
    from onerow.services.lastchecks import LastCheck
    from onerow.services.overview.model import CheckState, Limits
    from onerow.services.runs import RunEntry
    from onerow.services.store import Store

MAX_BATCHES: Final = 60
FORCED_SHOWN_S: Final = 86_400.0
BATCH_PREFIX: Final = "batch:"
INCIDENT_PREFIX: Final = "incident:"
MAX_MEMBERS: Final = 8
OLD_CHECKS: Final = 3
LEAST_OLD_S: Final = 900.0
"""A check that was clean says nothing of now after three times the interval of checks, and at least this long."""
OVERLAP: Final = dt.timedelta(hours=1)
"""A run is written when it ends and stands where it began."""
FINISHED: Final = frozenset({"merged", "discarded"})


def iso(moment: dt.datetime) -> str:
    """Return a moment in UTC, to the second, as text."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> dt.datetime:
    """Return the moment that ISO text names; without a zone it is UTC."""
    found = dt.datetime.fromisoformat(text)
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)


def locks(store: Store, limits: Limits, now: dt.datetime) -> tuple[LockSeen, ...]:
    """Return the locks that are held, then those that a person has taken away within a day."""
    return tuple(
        LockSeen(
            lock=lock,
            since=iso(now - dt.timedelta(seconds=lock.held_for_s)) if lock.state != "free" else "",
            too_long=lock.state == "held" and lock.held_for_s > limits.lock_held_s,
        )
        for lock in store.locks.locks(include_free=True)
        if lock.state != "free" or (lock.forced_ago_s is not None and lock.forced_ago_s < FORCED_SHOWN_S)
    )


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches, unfinished ones first, and what of them waits in staging."""

    batches: tuple[BatchSeen, ...] = ()
    backlog: tuple[Backlog, ...] = ()


def batches(store: Store, limits: Limits, now: dt.datetime) -> Batches:
    """Return what staging, the ledger and the register know of batches."""
    entries = store.ports.locks.entries(BATCH_PREFIX)
    records = [status_of(record_from_json(entry.value), entry.now_us) for entry in entries if entry.value is not None]
    registered = {(record.table, record.batch): record for record in records}
    seen: list[BatchSeen] = []
    backlog: list[Backlog] = []
    for spec in store.tables.values():
        views = [
            _batch(view, registered.pop((view.table, view.batch), None)) for view in store.batches.batches(spec)
        ]
        backlog.append(_backlog(spec.name, views, limits, now))
        seen += views
    seen += [_registered(record) for record in registered.values() if record.table in store.tables]
    seen.sort(key=lambda batch: batch.last_staged_at or "", reverse=True)
    seen.sort(key=lambda batch: batch.state in FINISHED)
    return Batches(tuple(seen[:MAX_BATCHES]), tuple(backlog))


def _batch(view: BatchView, record: BatchStatus | None) -> BatchSeen:
    waiting = [part for part in view.parts if part.waiting_partitions and part.manifest.state != "discarded"]
    seen = BatchSeen(
        table=view.table,
        batch=view.batch,
        state=view.state,
        parts=view.part_count,
        parts_merged=view.parts_merged,
        parts_waiting=len(waiting),
        rows=view.rows,
        rows_waiting=sum(part.manifest.rows_of(name) for part in waiting for name in part.waiting_partitions),
        first_staged_at=view.first_staged_at,
        last_staged_at=view.last_staged_at,
        oldest_waiting_at=min((part.manifest.staged_at for part in waiting), default=None),
    )
    return seen if record is None else _with_record(seen, record)


def _registered(record: BatchStatus) -> BatchSeen:
    """Return a batch that is registered, of which nothing was staged yet."""
    return _with_record(BatchSeen(table=record.table, batch=record.batch, state="open"), record)


def _with_record(seen: BatchSeen, record: BatchStatus) -> BatchSeen:
    lacking = [
        counted(count, noun)
        for count, noun in ((record.missing_parts, "part"), (record.missing_workers, "worker"))
        if count
    ]
    waited_for = record.state in {"open", "incomplete"} and lacking
    return replace(
        seen,
        registered=record.state,
        expected=f"{' and '.join(lacking)} missing" if waited_for else "",
        deadline=iso(moment(record.deadline_at)) if record.registered else "",
        late=record.incomplete_at is not None and record.state not in {"done", "cancelled"},
        last_error=record.error,
        claimed_by=record.claimed_by or "",
    )


def _backlog(table: str, views: Sequence[BatchSeen], limits: Limits, now: dt.datetime) -> Backlog:
    waiting = [view for view in views if view.parts_waiting]
    oldest = min((view.oldest_waiting_at for view in waiting if view.oldest_waiting_at), default=None)
    age_s = None if oldest is None else (now - moment(oldest)).total_seconds()
    return Backlog(
        table=table,
        batches=len(waiting),
        parts=sum(view.parts_waiting for view in waiting),
        rows=sum(view.rows_waiting for view in waiting),
        oldest_at=oldest,
        oldest_age_s=age_s,
        too_old=age_s is not None and age_s > limits.staged_s,
    )


def quarantine(store: Store) -> tuple[QuarantineSeen, ...]:
    """Return what was put aside, the latest first."""
    found = [
        QuarantineSeen(
            quarantine_id=entry.quarantine_id,
            table=entry.table,
            batch=entry.batch,
            worker=entry.worker,
            source=entry.source,
            rows=entry.rows,
            put_aside_at=entry.put_aside_at,
        )
        for entry in store.quarantined()
    ]
    return tuple(sorted(found, key=lambda entry: entry.put_aside_at, reverse=True))


def runs(store: Store, first_day: str, known: Mapping[str, RunEntry]) -> dict[str, RunEntry]:
    """Return the consolidations from a day on, by identity.

    Args:
        store: where the journal is.
        first_day: UTC, ISO 8601.
        known: what was seen before: only days that may have changed since then are read.
    """
    since = moment(first_day)
    latest = max((run.started_at for run in known.values()), default=since)
    again = max(since, latest - OVERLAP)
    found = {name: run for name, run in known.items() if run.started_at >= since}
    for table in store.tables:
        found |= {run.result.consolidation: run for run in store.runs.list(table, since=again)}
    return found


def checks(store: Store, limits: Limits) -> tuple[Checked, ...]:
    """Return what the last check of each table has found; a table that was never checked says so."""
    last = LastChecks(store.ports.locks).list(store.tables)
    too_old_s = max(OLD_CHECKS * limits.check_every_s, LEAST_OLD_S)
    return tuple(
        _checked(last[name], too_old_s) if name in last else Checked(name, "never") for name in store.tables
    )


def _checked(last: LastCheck, too_old_s: float) -> Checked:
    state: CheckState = "clean"
    if last.error is not None:
        state = "failed"
    elif last.duplicate_keys:
        state = "duplicates"
    elif last.age_s > too_old_s:
        state = "old"
    elif last.findings:
        state = "findings"
    by_partition = sorted((last.by_partition or {}).items(), reverse=True)
    return Checked(
        table=last.table,
        state=state,
        checked_at=iso(last.checked_at),
        age_s=last.age_s,
        since=last.since,
        rows=last.rows,
        partitions=last.partitions,
        duplicate_keys=last.duplicate_keys,
        extra_rows=last.extra_rows,
        by_partition=tuple(PartitionDuplicates(name or None, keys) for name, keys in by_partition),
        findings=last.findings,
        error=last.error,
    )


def incidents(store: Store) -> tuple[IncidentSeen, ...]:
    """Return the incidents, open ones first, the gravest and latest of them before."""
    found = [
        _incident(incident_from_json(entry.value))
        for entry in store.ports.locks.entries(INCIDENT_PREFIX)
        if entry.value is not None
    ]
    found.sort(key=lambda incident: incident.since, reverse=True)
    found.sort(key=lambda incident: (not incident.open, -LEVELS.index(incident.level)))
    return tuple(found)


def _incident(incident: Incident) -> IncidentSeen:
    names = tuple(incident.members)
    return IncidentSeen(
        fingerprint=incident.fingerprint,
        kind=incident.kind,
        level=incident.level,
        open=incident.open,
        table=incident.table,
        what=incident.what,
        of=incident.of,
        members=names[:MAX_MEMBERS],
        more_members=len(names[MAX_MEMBERS:]) + incident.more,
        command=incident.command,
        since=iso(since_1970(incident.since_us)),
        resolved_at=None if incident.open else iso(since_1970(incident.resolved_us)),
        undelivered=tuple(
            f"{name}: {delivery.error}" for name, delivery in sorted(incident.deliveries.items()) if delivery.error
        ),
    )


def since_1970(us: int) -> dt.datetime:
    """Return a moment of a store's clock."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
