"""What a consolidation tells at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from onerow import errors

Status = Literal[
    "committed", "already_merged", "nothing_staged", "fenced", "lock_timeout", "failed", "unknown"
]

STATUS_GRAVITY: tuple[Status, ...] = (
    "unknown",
    "failed",
    "fenced",
    "lock_timeout",
    "committed",
    "already_merged",
    "nothing_staged",
)


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """What became of one partition. Rows are counts, times are seconds.

    rows_staged = rows_inserted + rows_updated + rows_unchanged + rows_superseded. ``duplicates_removed`` counts rows
    that the table held before and that a repair has moved aside in the same transaction. ``bytes_processed`` and
    ``slot_ms`` are what its transaction has cost, over all of its partitions, where the engine counts that.
    """

    partition: str | None
    status: Status
    token: int | None = None
    attempts: int = 0
    parts: int = 0
    rows_staged: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_unchanged: int = 0
    rows_superseded: int = 0
    lock_wait_s: float = 0.0
    merge_s: float = 0.0
    verify_s: float = 0.0
    error: str | None = None
    error_kind: str | None = None
    exit_code: int = errors.EXIT_DONE
    duplicates_removed: int = 0
    bytes_processed: int | None = None
    slot_ms: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints for a partition."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "exit_code"}


@dataclass(frozen=True, slots=True)
class ConsolidationResult:
    """What became of a consolidation, partition by partition.

    Attributes:
        consolidation: identity of the run, as in the ledger and the logs.
        parts_removed: parts whose staging was cleaned up: retired, or gone at once without retention.
        rows_affected: rows inserted and updated, over all partitions.
    """

    consolidation: str
    table: str
    batch: str
    status: Status
    partitions: tuple[PartitionResult, ...] = ()
    parts_removed: int = 0
    error: str | None = None
    error_kind: str | None = None

    @property
    def success(self) -> bool:
        """Whether everything asked for is in the table."""
        return self.status in {"committed", "already_merged", "nothing_staged"}

    @property
    def rows_affected(self) -> int:
        """Rows inserted and updated."""
        return sum(part.rows_inserted + part.rows_updated for part in self.partitions)

    @property
    def error_message(self) -> str | None:
        """The first error, None if all went well."""
        return self.error

    @property
    def exit_code(self) -> int:
        """The gravest exit code of the partitions."""
        return errors.gravest([partition.exit_code for partition in self.partitions])

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints."""
        return {
            "consolidation": self.consolidation,
            "table": self.table,
            "batch": self.batch,
            "status": self.status,
            "partitions": [partition.to_json() for partition in self.partitions],
            "parts_removed": self.parts_removed,
            "error": self.error,
            "error_kind": self.error_kind,
        }


def summarise(partitions: tuple[PartitionResult, ...]) -> tuple[Status, str | None, str | None]:
    """Return the gravest status of ``partitions`` with its error text and kind."""
    if not partitions:
        return "nothing_staged", None, None
    worst = min(partitions, key=lambda result: STATUS_GRAVITY.index(result.status))
    return worst.status, worst.error, worst.error_kind


def status_of(error: errors.OnerowError) -> Status:
    """Return the status that an error that ended a partition stands for."""
    if isinstance(error, errors.OutcomeUnknownError):
        return "unknown"
    if isinstance(error, errors.FencedError):
        return "fenced"
    if isinstance(error, errors.LockAcquisitionError):
        return "lock_timeout"
    return "failed"
