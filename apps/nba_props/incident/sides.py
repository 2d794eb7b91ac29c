"""The two sides of a comparison: the original design with the team's fix, and the platform of this folder."""

from __future__ import annotations

import datetime as dt
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from incident.original import MachineClock, OriginalDesign, OriginalLock
from predictions import settings, testing
from predictions.worker.batch_staging_writer import BatchConsolidationResult, BatchConsolidator, BatchStagingWriter
from predictions.worker.distributed_lock import ConsolidationLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from demo.predictions import Row

DAY: Final = "2026-01-17"
NEXT: Final = "2026-01-18"
TARGET: Final = f"nba_predictions.{settings.TABLE}"
NOON: Final = dt.datetime(2026, 1, 17, 12, tzinfo=dt.UTC)


def prediction(prediction_id: str, *, day: str = DAY, line: str | None = "24.5", minute: int = 0) -> Row:
    """Return one prediction; all of them are of one player, who has one game a date."""
    return {
        "prediction_id": prediction_id,
        "game_date": dt.date.fromisoformat(day),
        "game_id": f"00226{day.replace('-', '')[4:]}",
        "player_lookup": "nikolajokic",
        "system_id": "ensemble",
        "current_points_line": None if line is None else Decimal(line),
        "predicted_points": 26.5,
        "confidence": 0.7,
        "created_at": NOON + dt.timedelta(minutes=minute),
    }


@dataclass
class Original:
    """The original design with the team's fix: a lock whose documents all machines share."""

    design: OriginalDesign
    documents: dict[str, float] = field(default_factory=dict)
    clock: MachineClock = field(default_factory=MachineClock)

    def lock(self, *, clock: MachineClock | None = None) -> OriginalLock:
        """Return the lock as a machine has it; machines whose clock is right share one."""
        return OriginalLock(self.documents, clock or self.clock)

    def ids(self) -> list[str]:
        """Return the identities of the predictions in the table."""
        return sorted(str(row["prediction_id"]) for row in self.design.rows())


class Platform:
    """The platform of this folder, on the embedded default."""

    def __init__(self, folder: Path) -> None:
        self.project_id = f"{folder}/"
        self._writer = BatchStagingWriter(None, self.project_id)
        self.consolidator = BatchConsolidator(None, self.project_id)

    def stage(self, batch: str, worker: str, rows: list[Row]) -> None:
        """Stage a worker's predictions."""
        self._writer.write_to_staging(rows, batch_id=batch, worker_id=worker)

    def consolidate(
        self, batch: str, day: str = DAY, *, cleanup: bool = True, use_lock: bool = True
    ) -> BatchConsolidationResult:
        """Consolidate a batch."""
        return self.consolidator.consolidate_batch(batch, day, cleanup=cleanup, use_lock=use_lock)

    @property
    def lock(self) -> ConsolidationLock:
        """The lock, as one process has it."""
        return ConsolidationLock(self.project_id)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement behind onerow's back."""
        return testing.query(self.project_id, statement)

    def ids(self) -> list[str]:
        """Return the identities of the predictions in the table."""
        return [name for (name,) in self.query(f"select prediction_id from {TARGET} order by 1")]

    def waiting(self, batch: str) -> int:
        """Return how many parts of a batch wait in staging."""
        with settings.open_store(self.project_id) as store:
            parts = store.batches.batch(store.table(settings.TABLE), batch).parts
        return sum(bool(part.waiting_partitions) for part in parts)


class _InTheMiddle(logging.Handler):
    def __init__(self, batch: str, action: Callable[[], object]) -> None:
        super().__init__()
        self._batch = batch
        self._action = action
        self.done = False

    def createLock(self) -> None:  # noqa: N802 -- the library's name
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.done or record.getMessage() != "onerow.merge_started":
            return
        if getattr(record, "facts", {}).get("batch") == self._batch:
            self.done = True
            self._action()


@contextmanager
def in_the_middle(batch: str, action: Callable[[], object]) -> Iterator[None]:
    """Do something when a batch's rows are prepared and its transaction has not begun: the worst moment.

    Raises:
        RuntimeError: that moment never came.
    """
    log = logging.getLogger("onerow")
    handler, level = _InTheMiddle(batch, action), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
    if not handler.done:
        raise RuntimeError(f"Batch {batch} was never in the middle of a merge.")
