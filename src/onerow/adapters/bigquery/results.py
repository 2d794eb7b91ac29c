"""How a job went: what it cost and how many rows its statements have changed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class JobFacts:
    """One job, or one statement of a script.

    Attributes:
        kind: the statement's type, such as ``MERGE`` or ``SCRIPT``; "" for none.
        affected: rows that a DML statement has changed; None where the service does not tell.
        inserted, updated, deleted: the same by what was done; None where the service does not tell.
        bytes_processed: what the price of a query on demand depends on.
        slot_ms: computing time, what the price of a reservation depends on.
        began_at: by the service's clock, aware and in UTC; the earliest moment there is where it does not tell.
    """

    job_id: str
    kind: str
    affected: int | None
    inserted: int | None
    updated: int | None
    deleted: int | None
    bytes_processed: int
    slot_ms: int
    began_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Ran:
    """A statement or script that has run.

    Attributes:
        job: the whole.
        rows: of a script, those of its last statement.
        children: the statements of a script in the order in which they began, where the service lists them.
        adopted: it had run, or begun to, before it was asked for now.
    """

    job: JobFacts
    rows: tuple[tuple[Any, ...], ...]
    children: tuple[JobFacts, ...] = ()
    adopted: bool = False


def facts_of(job: Any) -> JobFacts:
    """Return what a job of the client library tells of itself."""
    dml = getattr(job, "dml_stats", None)
    return JobFacts(
        job_id=str(job.job_id),
        kind=str(getattr(job, "statement_type", None) or ""),
        affected=_number(getattr(job, "num_dml_affected_rows", None)),
        inserted=None if dml is None else int(dml.inserted_row_count),
        updated=None if dml is None else int(dml.updated_row_count),
        deleted=None if dml is None else int(dml.deleted_row_count),
        bytes_processed=int(getattr(job, "total_bytes_processed", None) or 0),
        slot_ms=int(getattr(job, "slot_millis", None) or 0),
        began_at=job.started or job.created or dt.datetime.min.replace(tzinfo=dt.UTC),
    )


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
