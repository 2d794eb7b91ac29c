"""The log lines of the incident's system, made from the events of onerow as they happen.

A team greps for these texts and has alerts on them. They come from the loggers that they always came from, at the
moment when they are true. Validation runs inside the transaction, so it is told before the MERGE is called complete.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from predictions.settings import TABLE

LOCK_LOG: Final = logging.getLogger("predictions.worker.distributed_lock")
BATCH_LOG: Final = logging.getLogger("predictions.worker.batch_staging_writer")


@dataclass(frozen=True)
class Line:
    """A line of the log: where it comes from, how grave it is, and its text with the event's facts."""

    log: logging.Logger
    level: int
    text: str


LINES: Final[dict[str, tuple[Line, ...]]] = {
    "onerow.lock_waiting": (
        Line(
            LOCK_LOG,
            logging.INFO,
            "Waiting for consolidation lock consolidation_{partition}: {holder} holds it for batch {batch}",
        ),
    ),
    "onerow.lock_acquired": (
        Line(
            LOCK_LOG,
            logging.INFO,
            "Acquired consolidation lock consolidation_{partition} for {batch}: token {token}, waited {wait_s:.1f} s",
        ),
    ),
    "onerow.lock_timed_out": (
        Line(
            LOCK_LOG,
            logging.ERROR,
            "Cannot acquire consolidation lock consolidation_{partition} within {wait_s:.1f} s: {holder} holds it for "
            "batch {batch}",
        ),
    ),
    "onerow.lock_lost": (Line(LOCK_LOG, logging.ERROR, "Lost consolidation lock consolidation_{partition}: {reason}"),),
    "onerow.lock_released": (
        Line(
            LOCK_LOG,
            logging.INFO,
            "Released consolidation lock consolidation_{partition} of batch {batch}, held for {held_s:.1f} s",
        ),
    ),
    "onerow.lock_release_failed": (
        Line(
            LOCK_LOG,
            logging.WARNING,
            "Consolidation lock consolidation_{partition} was not released, it ends by itself: {error}",
        ),
    ),
    "onerow.merge_started": (
        Line(
            BATCH_LOG,
            logging.INFO,
            "Executing MERGE for batch {batch} into {partition}: {rows_staged} rows of {part_count} staging tables",
        ),
        Line(
            BATCH_LOG,
            logging.INFO,
            "Running post-consolidation validation of {partition} in the same transaction, before its commit",
        ),
    ),
    "onerow.verify_passed": (
        Line(
            BATCH_LOG,
            logging.INFO,
            "Post-consolidation validation PASSED: every business key of {partition} has one row",
        ),
    ),
    "onerow.verify_failed": (
        Line(
            BATCH_LOG,
            logging.ERROR,
            "POST-CONSOLIDATION VALIDATION FAILED for batch {batch}, game date {partition}; nothing was committed, "
            "staging is kept: {error}",
        ),
    ),
    "onerow.merge_committed": (
        Line(BATCH_LOG, logging.INFO, "MERGE complete: {rows_affected} rows affected in {merge_ms:.0f} ms"),
    ),
    "onerow.merge_conflict_retried": (
        Line(BATCH_LOG, logging.WARNING, "MERGE for batch {batch} lost against another transaction and is repeated"),
    ),
}


class IncidentLines(logging.Handler):
    """Writes the lines of an event of the platform's table."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write what the team knows an event as; events that it had no line for have none."""
        lines = LINES.get(record.getMessage(), ())
        facts: dict[str, Any] = getattr(record, "facts", {})
        if not lines or facts.get("table") != TABLE:
            return
        try:
            if "rows_inserted" in facts:
                affected = facts["rows_inserted"] + facts["rows_updated"]
                facts = {**facts, "rows_affected": affected, "merge_ms": facts["merge_s"] * 1000}
            for line in lines:
                line.log.log(line.level, "%s", line.text.format_map(facts), extra={"facts": facts})
        except (KeyError, ValueError, TypeError):
            self.handleError(record)


def install() -> None:
    """Have the lines written from now on; once for each process. They need the level INFO for ``onerow``."""
    log = logging.getLogger("onerow")
    if not any(isinstance(handler, IncidentLines) for handler in log.handlers):
        log.addHandler(IncidentLines())
