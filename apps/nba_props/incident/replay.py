"""2026-01-11 once more: the scheduled run is in the middle of its merge when the retry comes, 0.4 s later.

Everything is real: DuckDB files, transactions that overlap, the platform's own writer and consolidator. Only the moment
is arranged: the first run is held in the middle of its merge until the second has come.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from demo.predictions import Key, Row, key_of, newest
from incident.night import APART_S, DATE, RETRY, SCHEDULED, Parts
from incident.original import IDENTITY, OriginalDesign, Overlap
from predictions import settings, testing
from predictions.worker.batch_staging_writer import BatchConsolidationResult, BatchConsolidator, BatchStagingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What a design has made of the night.

    Attributes:
        succeeded: which of the two runs have reported success.
        duplicates: keys with more than one row.
        lost: keys that were staged and have no row.
        outdated: keys whose newest row is not in the table, or not alone.
        overlapped: the second run came while the first was in the middle of its merge.
    """

    succeeded: tuple[bool, bool]
    rows: int
    duplicates: int
    lost: int
    outdated: int
    overlapped: bool


def original(folder: Path, night: Mapping[str, Parts]) -> Outcome:
    """Run the night on the original design."""
    folder.mkdir(parents=True, exist_ok=True)
    design = OriginalDesign(folder / "original.duckdb")
    try:
        for batch, parts in night.items():
            for number, rows in enumerate(parts):
                design.stage(batch, f"worker_{number}", rows)
        overlap = Overlap()

        def retry() -> bool:
            overlap.wait_for_the_first()
            return design.consolidate(RETRY, DATE, begun=overlap.second_has_begun)

        first, second = _both(lambda: design.consolidate(SCHEDULED, DATE, begun=overlap.first_has_begun), retry)
        return _outcome((first, second), design.rows(), night, overlapped=overlap.both_had_begun)
    finally:
        design.close()


def onerow_design(folder: Path, night: Mapping[str, Parts], *, use_lock: bool = True) -> Outcome:
    """Run the night on the platform of this folder, with the lock or without it."""
    project_id = f"{folder}/"
    writer, consolidator = BatchStagingWriter(None, project_id), BatchConsolidator(None, project_id)
    for batch, parts in night.items():
        for number, rows in enumerate(parts):
            writer.write_to_staging(rows, batch_id=batch, worker_id=f"worker_{number}")
    overlap = _HeldInTheMiddle()

    def consolidate(batch: str) -> BatchConsolidationResult:
        return consolidator.consolidate_batch(batch, DATE, use_lock=use_lock)

    def retry() -> BatchConsolidationResult:
        overlap.wait_for_the_first()
        return consolidate(RETRY)

    log = logging.getLogger("onerow")
    level = log.level
    log.addHandler(overlap)
    log.setLevel(logging.INFO)
    try:
        first, second = _both(lambda: consolidate(SCHEDULED), retry)
    finally:
        log.setLevel(level)
        log.removeHandler(overlap)
    found = testing.query(project_id, f"select {', '.join(IDENTITY)} from nba_predictions.{settings.TABLE}")
    rows = [dict(zip(IDENTITY, values, strict=True)) for values in found]
    return _outcome((first.success, second.success), rows, night, overlapped=overlap.overlapped)


def replay(folder: Path, night: Mapping[str, Parts]) -> dict[str, Outcome]:
    """Run the night on each design; return what became of it, by the design's name."""
    return {
        "original": original(folder / "original", night),
        "onerow": onerow_design(folder / "onerow", night),
        "onerow, lock off": onerow_design(folder / "unlocked", night, use_lock=False),
    }


class _HeldInTheMiddle(logging.Handler):
    """Holds the scheduled run where it is about to write, until the retry waits for its lock or has come as far."""

    def __init__(self) -> None:
        super().__init__()
        self._overlap = Overlap()
        self.overlapped = False

    def createLock(self) -> None:  # noqa: N802 -- the library's name
        """Have no lock: one run is held in here while the other one passes."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hold the one, and let it go on when the other one comes."""
        batch, event = getattr(record, "facts", {}).get("batch"), record.getMessage()
        if batch == SCHEDULED and event == "onerow.merge_started":
            self._overlap.first_has_begun()
        elif (batch == RETRY and event == "onerow.merge_started") or event == "onerow.lock_waiting":
            self.overlapped = True
            self._overlap.second_has_begun()

    def wait_for_the_first(self) -> None:
        """Wait until the scheduled run is in the middle of its merge."""
        self._overlap.wait_for_the_first()


def _both(first: Callable[[], Result], second: Callable[[], Result]) -> tuple[Result, Result]:
    """Run both at once, the second one 0.4 s after the first."""
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(first)
        time.sleep(APART_S)
        two = threads.submit(second)
        return one.result(), two.result()


def _outcome(
    succeeded: tuple[bool, bool], rows: list[Row], night: Mapping[str, Parts], *, overlapped: bool
) -> Outcome:
    expected = newest([row for parts in night.values() for part in parts for row in part])
    found: dict[Key, list[str]] = {}
    for row in rows:
        found.setdefault(key_of(row), []).append(str(row["prediction_id"]))
    return Outcome(
        succeeded=succeeded,
        rows=len(rows),
        duplicates=sum(len(ids) > 1 for ids in found.values()),
        lost=len(expected.keys() - found.keys()),
        outdated=sum(found.get(key) != [row["prediction_id"]] for key, row in expected.items()),
        overlapped=overlapped,
    )
