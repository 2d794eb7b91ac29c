"""Watching: looks at tables, locks, staging and the journal, and what they say becomes incidents.

A look never fails as a whole. What could not be looked at is a warning of its own, and whatever would have been seen
there stays as it was: silence resolves nothing.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from onerow.core.incidents import LEVELS, fingerprint
from onerow.errors import LockStoreError, OnerowError
from onerow.services import sightings as words
from onerow.services.alerting import Alerting, Known, Told
from onerow.services.checker import check_tables
from onerow.services.events import FACTS_ATTRIBUTE, emit, logger
from onerow.services.lastchecks import LastChecks
from onerow.services.lookreport import NOT_CLEAN, LookReport, moment
from onerow.services.looks import LocksLook, StagingLook, TableLook
from onerow.services.processregister import ProcessRegister

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.core.incidents import Policy
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Background, Clock, Task
    from onerow.ports.notifier import Notifier
    from onerow.services.alerting import Register
    from onerow.services.lastchecks import LastCheck
    from onerow.services.looks import CheckOutcome
    from onerow.services.store import Store

CLOCK_KEY: Final = "monitor:clock"
DUPLICATES_LISTED: Final = 1_000
TICK_S: Final = 0.5
RUNS_BACK: Final = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """How to look.

    Attributes:
        check_every_s: tables that any monitor has checked within so long are not checked again.
        since_s: how far back partitions are checked, where they are dates.
    """

    check_every_s: float = 300.0
    since_s: float = 604_800.0
    limits: words.Limits = field(default_factory=words.Limits)


class Monitor:
    """Looks at stores, and keeps and tells incidents. Its looks may be made on any thread, one at a time.

    Args:
        settings: how to look.
        notifiers: who is told.
        policy: when.
        clock: of this process.
        who: identity of this monitor, unlike every other's.
    """

    def __init__(
        self,
        *,
        settings: MonitorSettings,
        notifiers: Sequence[Notifier],
        policy: Policy,
        clock: Clock,
        who: str,
    ) -> None:
        self._settings = settings
        self._notifiers = notifiers
        self._policy = policy
        self._clock = clock
        self._who = who
        self._alone = self._alerting(ProcessRegister(clock))

    def look(self, store: Store, *, check_all: bool = False) -> LookReport:
        """Look at everything once, write down what was found and tell who is to be told.

        Args:
            store: what to look at.
            check_all: check every table, whoever has checked it lately.
        """
        report = LookReport(self._clock.utc_now())
        alerting = self._alerting(store.ports.locks)
        known, now_us, problem = Known({}), 0, None
        try:
            now_us = store.ports.locks.read(CLOCK_KEY).now_us
            known = alerting.known()
        except LockStoreError as error:
            problem = error
        self._look_at_data(store, known, report, check_all=check_all)
        for spec in store.tables.values():
            waiting = self._look_at_staging(store, spec, report)
            if problem is None:
                self._look_at_runs(store, spec, report, known=known, waiting=waiting, now_us=now_us)
        if problem is None:
            self._look_at_locks(store, now_us, report)
        self._keep(alerting, known, report, problem)
        return report

    def blind(self, error: OnerowError) -> LookReport:
        """Tell that the store could not even be opened."""
        report = LookReport(self._clock.utc_now())
        report.failed(words.STORE_DOWN, "", error)
        self._keep_alone(report, words.STORE_DOWN)
        return report

    def close(self) -> None:
        """Let go of the receivers' connections."""
        for notifier in self._notifiers:
            notifier.close()

    # --- looks -----------------------------------------------------------------------------

    def _look_at_data(self, store: Store, known: Known, report: LookReport, *, check_all: bool) -> None:
        lately = {} if check_all else self._checked_lately(store)
        for spec in store.tables.values():
            if spec.name in lately:
                report.tables.append(_table_look(lately[spec.name]))
                continue
            since = self._since(spec, known)
            (check,) = check_tables(store.ports.warehouse, [spec], since=since, limit=DUPLICATES_LISTED)
            LastChecks(store.ports.locks).record(check, since=since)
            report.reports.append(check)
            report.looked.add(fingerprint(words.DATA_UNCHECKED, spec.name))
            at_s = self._clock.utc_now().timestamp()
            if check.result is None:
                what = f"The table could not be checked ({check.error_kind}). {NOT_CLEAN}"
                command = f"onerow check --table {words.shell(spec.name)}"
                report.sightings.append(words.unchecked(words.DATA_UNCHECKED, spec.name, what, command))
                report.tables.append(TableLook(spec.name, "failed", at_s))
                continue
            report.saw(words.of_data(spec, check.result), looked=words.DATA_KINDS, table=spec.name)
            outcome: CheckOutcome = "clean" if check.clean else "findings"
            report.tables.append(
                TableLook(spec.name, outcome, at_s, check.result.duplicate_keys, len(check.result.findings))
            )

    def _checked_lately(self, store: Store) -> Mapping[str, LastCheck]:
        """Return the checks that are young enough; nothing is decided by them, so one that is unreadable is made."""
        try:
            last = LastChecks(store.ports.locks).list(store.tables)
        except LockStoreError:
            return {}
        return {
            name: check
            for name, check in last.items()
            if check.error is None and 0 <= check.age_s < self._settings.check_every_s
        }

    def _since(self, spec: TableSpec, known: Known) -> str | None:
        """Return the first partition to check: none that an open incident is about may leave the window unseen."""
        if spec.partition is None or spec.by_name[spec.partition].type.kind != "date":
            return None
        back = dt.timedelta(seconds=self._settings.since_s)
        first = (self._clock.utc_now() - back).date()
        for kind in words.DATA_KINDS:
            incident = known.open(kind, spec.name)
            if incident is not None:
                first = min(first, (moment(incident.opened_us) - back).date())
                names = [name for name in incident.members if incident.of == "partition" and name]
                first = min([first, *(dt.date.fromisoformat(name) for name in names)])
        return first.isoformat()

    def _look_at_staging(self, store: Store, spec: TableSpec, report: LookReport) -> frozenset[str] | None:
        """Look what waits; return the batches of which parts do, None if that could not be seen."""
        report.looked.add(fingerprint(words.STAGING_UNCHECKED, spec.name))
        try:
            waiting = words.waiting(store.batches.batches(spec))
        except OnerowError as error:
            report.failed(words.STAGING_UNCHECKED, spec.name, error)
            return None
        now = self._clock.utc_now()
        oldest = min((one.oldest for one in waiting.values()), default=now)
        report.saw(
            words.of_staging(spec.name, waiting, now, self._settings.limits),
            looked=[words.STAGING_OLD],
            table=spec.name,
        )
        report.staging.append(
            StagingLook(
                spec.name,
                sum(one.parts for one in waiting.values()),
                sum(one.rows for one in waiting.values()),
                max((now - oldest).total_seconds(), 0.0),
            )
        )
        return frozenset(waiting)

    def _look_at_runs(
        self,
        store: Store,
        spec: TableSpec,
        report: LookReport,
        *,
        known: Known,
        waiting: frozenset[str] | None,
        now_us: int,
    ) -> None:
        report.looked.add(fingerprint(words.RUNS_UNCHECKED, spec.name))
        now = moment(now_us)
        try:
            runs = store.runs.list(spec.name, since=now - RUNS_BACK)
        except OnerowError as error:
            report.failed(words.RUNS_UNCHECKED, spec.name, error)
            return
        incident = known.open(words.RUN_FAILED, spec.name)
        found = words.of_runs(
            spec.name,
            runs,
            still_waiting=waiting,
            known=frozenset(incident.members if incident is not None else ()),
            now=now,
            limits=self._settings.limits,
        )
        report.saw(found, looked=words.RUN_KINDS, table=spec.name)

    def _look_at_locks(self, store: Store, now_us: int, report: LookReport) -> None:
        report.looked.add(fingerprint(words.LOCKS_UNCHECKED, ""))
        try:
            states = [state for state in store.locks.locks() if state.kind == "lease" and state.state == "held"]
        except OnerowError as error:
            report.failed(words.LOCKS_UNCHECKED, "", error)
            return
        for name in store.tables:
            held = [state for state in states if state.scope.partition("/")[0] == name]
            report.saw(
                words.of_locks(name, held, now_us, self._settings.limits), looked=[words.LOCK_HELD], table=name
            )
            report.locks.append(LocksLook(name, len(held), max((state.held_for_s for state in held), default=0.0)))

    # --- what is made of them --------------------------------------------------------------

    def _keep(self, alerting: Alerting, known: Known, report: LookReport, problem: LockStoreError | None) -> None:
        """Write the look down and tell it; without the register, tell from here that it is down."""
        try:
            if problem is not None:
                raise problem
            alerting.record(known, report.sightings, looked=report.looked)
            report.told = alerting.tell()
            report.incidents = alerting.known().incidents
        except LockStoreError as error:
            gravest_first = sorted(report.sightings, key=lambda seen: -LEVELS.index(seen.level))
            found = "".join(f" {seen.kind} in {seen.table}: {seen.what}" for seen in gravest_first[: words.MAX_LINES])
            also = f" Seen meanwhile:{found}" if found else ""
            what = f"The lock store does not answer, so that incidents cannot be kept. {NOT_CLEAN}{also}"
            report.sightings.append(words.unchecked(words.REGISTER_DOWN, "", what))
            emit("onerow.monitor_failed", kind=error.kind, error=error.message)
        self._keep_alone(report, words.REGISTER_DOWN, words.STORE_DOWN)

    def _keep_alone(self, report: LookReport, *kinds: str) -> None:
        """Keep and tell, in this process alone, what the register cannot hold."""
        alone = self._alone
        found = [seen for seen in report.sightings if seen.kind in kinds]
        alone.record(alone.known(), found, looked={fingerprint(kind, "") for kind in kinds})
        told = alone.tell()
        report.incidents += [incident for incident in alone.known().incidents if incident.open]
        report.told = _both(report.told, told)

    def _alerting(self, register: Register) -> Alerting:
        return Alerting(register=register, notifiers=self._notifiers, policy=self._policy, who=self._who)


class MonitorLoop:
    """Looks every so often until it is stopped, whatever goes wrong meanwhile.

    Args:
        monitor: what looks.
        lend: lends a store for one look; it may raise OnerowError, which is told.
        every_s: the time from the beginning of a look to that of the next one.
        clock: of this process.
        on_look: called with each report, on the thread that looks.
    """

    def __init__(
        self,
        monitor: Monitor,
        lend: Callable[[], AbstractContextManager[Store]],
        *,
        every_s: float,
        clock: Clock,
        on_look: Callable[[LookReport], None],
    ) -> None:
        self._monitor = monitor
        self._lend = lend
        self._every_s = every_s
        self._clock = clock
        self._on_look = on_look
        self._due_s = clock.monotonic_s()
        self._task: Task | None = None

    def start(self, background: Background) -> None:
        """Look beside the main flow, the first time at once."""
        self._task = background.every(min(TICK_S, self._every_s), self.tick, name="onerow-monitor")

    def stop(self) -> None:
        """Stop, after the look that is being made, and let go of the receivers' connections. Idempotent."""
        if self._task is not None:
            self._task.stop()
            self._task = None
        self._monitor.close()

    def tick(self) -> bool:
        """Look if it is time; True, because there is always a next time."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._due_s:
            self._due_s = now_s + self._every_s
            self.look()
        return True

    def look(self) -> LookReport | None:
        """Look once; None if that ended in a way that nobody has foreseen, which is logged."""
        try:
            try:
                with self._lend() as store:
                    report = self._monitor.look(store)
            except OnerowError as error:
                report = self._monitor.blind(error)
            self._on_look(report)
        except Exception as error:  # noqa: BLE001 -- logged with its traceback; the next look comes in time
            logger.exception("onerow.monitor_failed", extra={FACTS_ATTRIBUTE: {"kind": type(error).__name__}})
            return None
        return report


def _table_look(last: LastCheck) -> TableLook:
    outcome: CheckOutcome = "findings" if last.duplicate_keys or last.findings else "clean"
    at_s = last.checked_at.timestamp()
    return TableLook(last.table, outcome, at_s, last.duplicate_keys, len(last.findings), own=False)


def _both(one: Told, other: Told) -> Told:
    waiting = {
        name: one.waiting.get(name, 0) + other.waiting.get(name, 0) for name in {*one.waiting, *other.waiting}
    }
    return Told(one.delivered + other.delivered, {**other.failed, **one.failed}, waiting)
