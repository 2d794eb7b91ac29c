"""A registered batch as people and programs want to see it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from onerow.core.batchrecords import MICROSECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.batchrecords import BatchRecord
    from onerow.core.parts import PartManifest

MAX_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A part of a batch. ``state``: staged, retired (merged, its data is kept a while), purged or discarded."""

    part_id: str
    worker: str
    rows: int
    partitions: tuple[str, ...]
    state: str
    staged_at: str

    @classmethod
    def of(cls, part: PartManifest) -> Self:
        """Return what a manifest says."""
        names = tuple(sorted(name for name in part.partitions if name))
        return cls(part.part_id, part.worker, part.rows, names, part.state, part.staged_at)


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A registered batch. Times are UTC by the lock store's clock, spans are seconds.

    Attributes:
        state: ``open`` (waits for parts), ``due`` (is consolidated next), ``claimed`` (is being consolidated),
            ``failed`` (is tried again after ``retry_in_s``), ``incomplete`` (its deadline has come, and it was left),
            ``done`` or ``cancelled``.
        registered: somebody has opened it; False: it is known by the report of a part, and nothing is expected.
        complete: everything that was expected is there.
        parts, workers, rows: what was there at the last look, without what was given up; ``parts_waiting`` of them
            were not merged.
        incomplete_at: when it was found incomplete, at its deadline or when it was sealed.
        why: why it is, or was, consolidated: complete, sealed, deadline, asked, late.
        rounds: consolidations that have ended; ``tries`` of them, the latest, have failed.
        consolidation, result, error, error_kind, elapsed_s: of the last one.
        details: its parts, if they were asked for; at most 1,000.
        created: this very request has made it known.
    """

    table: str
    batch: str
    state: str
    registered: bool
    sealed: bool
    complete: bool
    expected_parts: int | None
    expected_workers: int | None
    missing_parts: int
    missing_workers: int
    parts: int
    workers: int
    parts_waiting: int
    rows: int
    opened_at: str
    opened_by: str
    changed_at: str
    deadline_at: str
    deadline_in_s: float
    on_deadline: str
    incomplete_at: str | None
    why: str
    rounds: int
    tries: int
    retry_in_s: float | None
    claimed_by: str | None
    claimed_for_s: float | None
    consolidation: str | None
    result: str | None
    error: str | None
    error_kind: str | None
    elapsed_s: float | None
    finished_at: str | None
    cancelled_by: str | None
    cancelled_reason: str | None
    details: tuple[PartStatus, ...] | None = None
    created: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the object that is sent; ``details`` only if they were asked for."""
        data = {name: getattr(self, name) for name in self.__slots__ if name not in {"details", "created"}}
        if self.details is not None:
            data["details"] = [{name: getattr(part, name) for name in part.__slots__} for part in self.details]
        return data


def status_of(
    record: BatchRecord, now_us: int, *, parts: Sequence[PartManifest] | None = None, created: bool = False
) -> BatchStatus:
    """Return what a record says at ``now_us`` of the store's clock."""
    last, claim, given_up = record.last, record.claim, record.cancelled
    return BatchStatus(
        table=record.table,
        batch=record.batch,
        state=record.state,
        registered=record.registered,
        sealed=record.sealed,
        complete=record.complete,
        expected_parts=record.expected.parts,
        expected_workers=record.expected.workers,
        missing_parts=record.missing_parts,
        missing_workers=record.missing_workers,
        parts=record.seen.parts,
        workers=record.seen.workers,
        parts_waiting=record.seen.waiting,
        rows=record.seen.rows,
        opened_at=_moment(record.opened_us),
        opened_by=record.opened_by,
        changed_at=_moment(record.changed_us),
        deadline_at=_moment(record.deadline_us),
        deadline_in_s=_span(record.deadline_us - now_us),
        on_deadline=record.on_deadline,
        incomplete_at=None if record.incomplete_us is None else _moment(record.incomplete_us),
        why=record.why,
        rounds=record.rounds,
        tries=record.tries,
        retry_in_s=max(_span(record.retry_us - now_us), 0.0) if record.state == "failed" else None,
        claimed_by=claim.holder if claim else None,
        claimed_for_s=_span(now_us - claim.claimed_us) if claim else None,
        consolidation=last.consolidation if last else None,
        result=last.status if last else None,
        error=last.error if last else None,
        error_kind=last.error_kind if last else None,
        elapsed_s=last.elapsed_s if last else None,
        finished_at=_moment(record.finished_us) if record.finished_us else None,
        cancelled_by=given_up.by if given_up else None,
        cancelled_reason=given_up.reason if given_up else None,
        details=None if parts is None else tuple(PartStatus.of(part) for part in parts[:MAX_PARTS]),
        created=created,
    )


def _moment(us: int) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
    return moment.isoformat(timespec="milliseconds")


def _span(us: int) -> float:
    return round(us / MICROSECONDS, 3)
