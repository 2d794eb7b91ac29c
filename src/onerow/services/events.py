"""Log events: the event's name is the message, the facts are fields.

No data values and no secrets: facts are names, identities, counts and seconds.
"""

from __future__ import annotations

import logging
from typing import Final

logger: Final = logging.getLogger("onerow")

FACTS_ATTRIBUTE: Final = "facts"

EVENTS: Final[dict[str, int]] = {
    "onerow.lock_waiting": logging.INFO,
    "onerow.lock_acquired": logging.INFO,
    "onerow.lock_timed_out": logging.WARNING,
    "onerow.lock_renewed": logging.DEBUG,
    "onerow.lock_renewal_failed": logging.WARNING,
    "onerow.lock_lost": logging.ERROR,
    "onerow.lock_released": logging.INFO,
    "onerow.lock_release_failed": logging.WARNING,
    "onerow.lock_regranted": logging.WARNING,
    "onerow.lock_force_released": logging.WARNING,
    "onerow.lock_skipped": logging.WARNING,
    "onerow.part_staged": logging.INFO,
    "onerow.part_refused": logging.ERROR,
    "onerow.rows_quarantined": logging.WARNING,
    "onerow.merge_started": logging.INFO,
    "onerow.merge_committed": logging.INFO,
    "onerow.merge_already_done": logging.INFO,
    "onerow.merge_fenced": logging.ERROR,
    "onerow.merge_conflict_retried": logging.WARNING,
    "onerow.merge_retried": logging.INFO,
    "onerow.merge_unknown": logging.ERROR,
    "onerow.merge_failed": logging.ERROR,
    "onerow.verify_passed": logging.INFO,
    "onerow.verify_failed": logging.ERROR,
    "onerow.duplicates_repaired": logging.WARNING,
    "onerow.repair_failed": logging.ERROR,
    "onerow.row_restored": logging.INFO,
    "onerow.guarded_committed": logging.INFO,
    "onerow.intervention_retried": logging.WARNING,
    "onerow.intervention_unknown": logging.ERROR,
    "onerow.check_not_recorded": logging.WARNING,
    "onerow.consolidation_asked": logging.WARNING,
    "onerow.cleanup_done": logging.INFO,
    "onerow.cleanup_failed": logging.WARNING,
    "onerow.service_started": logging.INFO,
    "onerow.service_stopped": logging.INFO,
    "onerow.drain_failed": logging.ERROR,
    "onerow.request_failed": logging.ERROR,
    "onerow.consolidation_finished": logging.INFO,
    "onerow.incident_opened": logging.WARNING,
    "onerow.incident_resolved": logging.INFO,
    "onerow.incident_unreadable": logging.ERROR,
    "onerow.alert_sent": logging.INFO,
    "onerow.alert_failed": logging.WARNING,
    "onerow.monitor_failed": logging.ERROR,
    "onerow.batch_opened": logging.INFO,
    "onerow.batch_sealed": logging.INFO,
    "onerow.batch_complete": logging.INFO,
    "onerow.batch_incomplete": logging.WARNING,
    "onerow.batch_cancelled": logging.WARNING,
    "onerow.batch_consolidated": logging.INFO,
    "onerow.batch_failed": logging.ERROR,
    "onerow.batch_abandoned": logging.WARNING,
    "onerow.coordinator_failed": logging.ERROR,
    "onerow.run_not_recorded": logging.WARNING,
    "onerow.report_failed": logging.WARNING,
    "onerow.spool_cleaned": logging.INFO,
}

Fact = str | int | float | bool | None


def emit(event: str, **facts: Fact) -> None:
    """Log ``event`` at its level with ``facts`` in the record's ``facts`` attribute."""
    level = EVENTS[event]
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={FACTS_ATTRIBUTE: facts})
