"""Metrics for Prometheus: log events become counters and histograms, the monitor's looks become gauges.

Labels are the table and words of fixed lists (``outcome``, ``reason``, ``kind``, ``level``, ``receiver``, ``check``);
never a key, a partition, a batch or a date, so that the number of series stays small.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from onerow import __version__
from onerow.core.results import STATUS_GRAVITY
from onerow.faces.logs import facts_of
from onerow.services.events import FACTS_ATTRIBUTE, logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from onerow.services.looks import Look

    _Counting = Callable[[str, Mapping[str, Any]], None]
    """Counts an event, by its table and facts."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter has a second series that nobody looks at

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

WORK_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds of durations of work; 60 s is where the monitor begins to warn."""

WAIT_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bounds of waits; 120 s is where the monitor begins to warn."""

REASONS: Final = ("conflict", "outdated", "stale", "one_by_one", "unknown")
KINDS: Final = (
    "staged", "refused", "quarantined", "inserted", "updated", "unchanged", "superseded", "removed"
)  # fmt: skip

BATCH_EVENTS: Final = tuple(
    f"onerow.batch_{outcome}"
    for outcome in (
        "opened", "sealed", "complete", "incomplete", "cancelled", "consolidated", "failed", "abandoned"
    )
)  # fmt: skip

UNMEASURED: Final[Mapping[str, str]] = {
    "onerow.lock_waiting": "how long it took is told when it ends, by lock_acquired or lock_timed_out",
    "onerow.merge_started": "told by its end",
    "onerow.merge_already_done": "told by consolidation_finished",
    "onerow.merge_failed": "told by consolidation_finished",
    "onerow.lock_regranted": "told by merge_retried with reason stale",
    "onerow.lock_skipped": "a person's choice, in the history",
    "onerow.row_restored": "a person's choice, in the history",
    "onerow.guarded_committed": "a person's choice, in the history",
    "onerow.repair_failed": "a person's command, which exits with its error",
    "onerow.incident_opened": "shown by the gauge of open incidents",
    "onerow.incident_resolved": "shown by the gauge of open incidents",
    "onerow.incident_unreadable": "an error of the log, for people",
    "onerow.monitor_failed": "shown by the age of the last look",
    "onerow.run_not_recorded": "the journal is for people; the ledger has what counts",
    "onerow.check_not_recorded": "shown by the age of the last check",
    "onerow.consolidation_asked": "told by consolidation_finished; who asked is in the log",
    "onerow.service_started": "a scrape that succeeds tells it",
    "onerow.service_stopped": "a scrape that fails tells it",
    "onerow.drain_failed": "the process ends with it: the log and the exit code tell it",
    "onerow.cost_not_recorded": "for people; the history has all but the cost",
    "onerow.spool_cleaned": "what a dead process has left; nothing was lost",
    "onerow.checkpoint_failed": "the engine's upkeep: the commit stands, the next one folds it in",
    "onerow.cancel_failed": "a lost lease is counted already, and its token is looked at before a commit",
    "onerow.rollback_failed": "the connection is given up with its transaction",
    "onerow.files_restored": "the engine's upkeep, mended",
    "onerow.files_not_restored": "an error of the log, for people; the next opening tries again",
}
"""Events that no metric is made of, each with its reason."""


class Metrics(logging.Handler):
    """The metrics of one process, in a registry of their own.

    Args:
        tables: those that are configured: their series stand at 0 from the start, because an increase from nothing is
            none to Prometheus, and the first failure would go unseen.
        process: memory, processor time and open files of the process too.

    Attributes:
        registry: what ``/metrics`` renders.
    """

    def __init__(self, tables: Iterable[str] = (), *, process: bool = True) -> None:
        super().__init__(logging.DEBUG)
        self.registry = registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=registry)
        build = Gauge("onerow_build_info", "1, with the version that runs.", ["version"], registry=registry)
        build.labels(__version__).set(1)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"onerow_{name}", text, ["table", *labels], registry=registry)

        def histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"onerow_{name}", text, ["table", *labels], registry=registry, buckets=bounds)

        self._consolidations = counter("consolidations", "Consolidations that have ended.", "outcome")
        self._duration = histogram(
            "consolidation_duration_seconds", "From the call of a consolidation to its end.", WORK_S, "outcome"
        )
        self._merge = histogram("merge_duration_seconds", "Merge steps of transactions that committed.", WORK_S)
        self._verify = histogram("verify_duration_seconds", "Verifications inside transactions that committed.", WORK_S)
        self._validations = counter(
            "validations", "Verifications inside merging transactions, by their verdict.", "outcome"
        )
        self._lock_wait = histogram("lock_wait_seconds", "Waits for a lock, by how they ended.", WAIT_S, "outcome")
        self._lock_held = histogram("lock_held_seconds", "How long locks were held that were given back.", WAIT_S)
        self._renewals = counter("lease_renewals", "Renewals of leases.", "outcome")
        self._lost = counter("leases_lost", "Leases that were lost: not renewed in time, taken or force-released.")
        self._fenced = counter("fenced_commits", "Merges that were refused because of their token or lease.")
        self._forced = counter("force_releases", "Locks that a person took away.", "outcome")
        self._retries = counter("retries", "Attempts that were made again.", "reason")
        self._rows = counter("rows", "Rows by what became of them.", "kind")
        self._parts = counter("parts", "Parts that were handed in.", "outcome")
        self._staged_bytes = counter("staged_bytes", "Bytes of parts that were staged, as they are stored.")
        self._bytes = counter("bytes_processed", "Bytes that the warehouse says merges have read.")
        self._batches = counter("batches", "Registered batches, by what became of them.", "outcome")
        self._coordinator = Counter("onerow_coordinator_failures", "Looks at batches that failed.", registry=registry)
        self._failed_requests = Counter(
            "onerow_failed_requests", "Requests that were answered with 5xx.", ["kind"], registry=registry
        )
        self._failed_reports = counter("failed_reports", "Parts that the coordinator could not be told of in time.")
        self._cleanups = counter("cleanups", "Clean-ups after consolidations.", "outcome")
        self.looks = LookMetrics(registry)
        self._on: Mapping[str, _Counting] = {
            "onerow.consolidation_finished": self._finished,
            "onerow.merge_committed": self._committed,
            "onerow.merge_fenced": lambda table, _: self._fenced.labels(table).inc(),
            "onerow.merge_conflict_retried": self._retried,
            "onerow.merge_retried": self._retried,
            "onerow.merge_unknown": lambda table, _: self._retries.labels(table, "unknown").inc(),
            "onerow.intervention_retried": self._retried,
            "onerow.intervention_unknown": lambda table, _: self._retries.labels(table, "unknown").inc(),
            "onerow.verify_passed": self._verified,
            "onerow.verify_failed": lambda table, _: self._validations.labels(table, "failed").inc(),
            "onerow.duplicates_repaired": lambda table, facts: self._count(table, "removed", facts["rows_removed"]),
            "onerow.lock_acquired": self._waited("acquired"),
            "onerow.lock_timed_out": self._waited("timed_out"),
            "onerow.lock_released": lambda table, facts: self._lock_held.labels(table).observe(facts["held_s"]),
            "onerow.lock_renewed": lambda table, _: self._renewals.labels(table, "renewed").inc(),
            "onerow.lock_renewal_failed": lambda table, _: self._renewals.labels(table, "failed").inc(),
            "onerow.lock_release_failed": lambda table, _: self._renewals.labels(table, "release_failed").inc(),
            "onerow.lock_lost": lambda table, _: self._lost.labels(table).inc(),
            "onerow.lock_force_released": lambda table, facts: self._forced.labels(
                table, "fenced" if facts["fenced"] else "fence_not_raised"
            ).inc(),
            "onerow.part_staged": self._staged,
            "onerow.part_refused": self._refused,
            "onerow.rows_quarantined": self._put_aside,
            "onerow.alert_sent": lambda _, facts: self.looks.sent(facts["receiver"], "delivered"),
            "onerow.alert_failed": lambda _, facts: self.looks.sent(
                facts["receiver"], "refused" if facts["refused"] else "failed"
            ),
            **{event: self._batch(event.removeprefix("onerow.batch_")) for event in BATCH_EVENTS},
            "onerow.coordinator_failed": lambda _, __: self._coordinator.inc(),
            "onerow.request_failed": lambda _, facts: self._failed_requests.labels(facts["kind"]).inc(),
            "onerow.report_failed": lambda table, _: self._failed_reports.labels(table).inc(),
            "onerow.cleanup_done": lambda table, _: self._cleanups.labels(table, "done").inc(),
            "onerow.cleanup_failed": lambda table, _: self._cleanups.labels(table, "failed").inc(),
        }

        for table in tables:
            self._begin(table)

    def _begin(self, table: str) -> None:
        """Let the series of a table begin at 0."""
        for status in STATUS_GRAVITY:
            self._consolidations.labels(table, status)
        for counter, outcomes in (
            (self._duration, ("committed",)),
            (self._validations, ("passed", "failed")),
            (self._lock_wait, ("acquired", "timed_out")),
            (self._renewals, ("renewed", "failed", "release_failed")),
            (self._forced, ("fenced", "fence_not_raised")),
            (self._retries, REASONS),
            (self._rows, KINDS),
            (self._parts, ("staged", "already_staged", "already_merged", "empty", "refused")),
            (self.looks.checks, ("clean", "findings", "failed")),
        ):
            for outcome in outcomes:
                counter.labels(table, outcome)
        for plain in (self._merge, self._verify, self._lock_held, self._lost, self._fenced):
            plain.labels(table)

    @property
    def measured(self) -> frozenset[str]:
        """The events that metrics are made of."""
        return frozenset(self._on)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format, of the type ``CONTENT_TYPE``."""
        return generate_latest(self.registry)

    def emit(self, record: logging.LogRecord) -> None:
        """Count an event. A mistake here is reported as logging reports its own, and stops nothing."""
        count = self._on.get(record.getMessage())
        if count is None or not hasattr(record, FACTS_ATTRIBUTE):  # a traceback beside its event carries no facts
            return
        facts = facts_of(record)
        if facts.get("lease") == "turn":  # a turn to commit keeps order; it is no lock of a table
            return
        try:
            count(str(facts.get("table") or ""), facts)
        except Exception:  # noqa: BLE001 -- logging's own way: told on standard error, the work goes on
            self.handleError(record)

    @contextmanager
    def attached(self) -> Iterator[Metrics]:
        """Count the events of this process until the block ends."""
        before = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)  # renewals are counted too; other handlers have levels of their own
        try:
            yield self
        finally:
            logger.removeHandler(self)
            logger.setLevel(before)

    def _finished(self, table: str, facts: Mapping[str, Any]) -> None:
        self._consolidations.labels(table, facts["status"]).inc()
        self._duration.labels(table, facts["status"]).observe(facts["duration_s"])

    def _committed(self, table: str, facts: Mapping[str, Any]) -> None:
        self._merge.labels(table).observe(facts["merge_s"])
        for kind in ("inserted", "updated", "unchanged", "superseded"):
            self._count(table, kind, facts[f"rows_{kind}"])
        if facts["bytes_processed"] is not None:
            self._bytes.labels(table).inc(facts["bytes_processed"])

    def _verified(self, table: str, facts: Mapping[str, Any]) -> None:
        self._validations.labels(table, "passed").inc()
        self._verify.labels(table).observe(facts["verify_s"])

    def _retried(self, table: str, facts: Mapping[str, Any]) -> None:
        self._retries.labels(table, facts["reason"]).inc()

    def _batch(self, outcome: str) -> _Counting:
        return lambda table, _: self._batches.labels(table, outcome).inc()

    def _waited(self, outcome: str) -> _Counting:
        return lambda table, facts: self._lock_wait.labels(table, outcome).observe(facts["wait_s"])

    def _put_aside(self, table: str, facts: Mapping[str, Any]) -> None:
        self._count(table, "quarantined", facts["rows_quarantined"])

    def _staged(self, table: str, facts: Mapping[str, Any]) -> None:
        self._parts.labels(table, facts["status"]).inc()
        if facts["status"] == "staged":
            self._count(table, "staged", facts["rows_staged"])
            self._staged_bytes.labels(table).inc(facts["size_bytes"])

    def _refused(self, table: str, facts: Mapping[str, Any]) -> None:
        self._parts.labels(table, "refused").inc()
        self._count(table, "refused", facts["bad_rows"])

    def _count(self, table: str, kind: str, rows: int) -> None:
        self._rows.labels(table, kind).inc(rows)


class LookMetrics:
    """What the monitor has seen at its last look. Until it has looked there is nothing to see."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"onerow_{name}", text, labels, registry=registry)

        self._staged_rows = gauge("staged_rows", "Rows that wait to be merged.", "table")
        self._staged_parts = gauge("staged_parts", "Parts that wait to be merged.", "table")
        self._oldest = gauge("oldest_staged_age_seconds", "Age of the part that waits longest, 0 for none.", "table")
        self._duplicates = gauge("duplicate_keys", "Keys with more than one row at the last check that ran.", "table")
        self._findings = gauge("findings", "Other findings of the last check that ran.", "table")
        self._checked = gauge("last_check_timestamp_seconds", "When a check of the table last ran to its end.", "table")
        self.checks = Counter("onerow_checks", "Checks by their end.", ["table", "outcome"], registry=registry)
        self._locks = gauge("locks_held", "Locks that are held.", "table")
        self._lock_age = gauge("oldest_lock_age_seconds", "How long the oldest lock is held, 0 for none.", "table")
        self._looked = gauge("last_look_timestamp_seconds", "When the monitor last looked at everything.")
        self._incidents = gauge("incidents_open", "Incidents that are open.", "level")
        self._undelivered = gauge("notifications_waiting", "Messages that wait to be delivered.", "receiver")
        labels = ["receiver", "outcome"]
        self._sent = Counter("onerow_notifications", "Tries to deliver a message.", labels, registry=registry)

    def sent(self, receiver: str, outcome: str) -> None:
        """Count a try to deliver a message: ``delivered``, ``failed`` or ``refused``."""
        self._sent.labels(receiver, outcome).inc()

    def take(self, look: Look) -> None:
        """Show a look. What could not be looked at keeps what it had; the time of its check tells that."""
        for staged in look.staging:
            self._staged_rows.labels(staged.table).set(staged.rows)
            self._staged_parts.labels(staged.table).set(staged.parts)
            self._oldest.labels(staged.table).set(staged.oldest_s)
        for table in look.tables:
            if table.own:
                self.checks.labels(table.table, table.outcome).inc()
            if table.outcome != "failed":
                self._duplicates.labels(table.table).set(table.duplicate_keys)
                self._findings.labels(table.table).set(table.findings)
                self._checked.labels(table.table).set(table.at_s)
        for held in look.locks:
            self._locks.labels(held.table).set(held.held)
            self._lock_age.labels(held.table).set(held.oldest_s)
        for level, number in look.incidents.items():
            self._incidents.labels(level).set(number)
        for receiver, number in look.undelivered.items():
            self._undelivered.labels(receiver).set(number)
        self._looked.set(look.at_s)
