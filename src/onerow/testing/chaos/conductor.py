"""Runs a torture test: makes the scratch table, starts the processes, does the faults, drains, judges, clears up."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.staging.files import FileParts
from onerow.bootstrap import open_store
from onerow.errors import OnerowError
from onerow.services.leases import LEASE_PREFIX, TURN_PREFIX
from onerow.testing.chaos import roles
from onerow.testing.chaos.engines import bare_of
from onerow.testing.chaos.evidence import Evidence, read_engine, read_journals, read_store
from onerow.testing.chaos.journal import SUFFIX, Follower, Journal, read
from onerow.testing.chaos.lines import Lines
from onerow.testing.chaos.nursery import Nursery
from onerow.testing.chaos.plain import PlainMerge
from onerow.testing.chaos.plan import PREFIX, schedule, scratch_spec
from onerow.testing.chaos.report import Report, count_errors, count_up
from onerow.testing.chaos.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onerow.config import Settings
    from onerow.services.store import Store
    from onerow.testing.chaos.bare import Bare
    from onerow.testing.chaos.nursery import Child
    from onerow.testing.chaos.plan import Fault, Kind, Options

    Progress = Callable[[float, Mapping[str, int]], None]

TICK_S: Final = 0.02
GRACE_S: Final = 60.0
REBIRTH_S: Final = 0.1
DRAIN_TRIES: Final = 12
HOPELESS: Final = frozenset({"duplicates", "verification", "part_gone", "part_corrupt"})
"""Kinds of errors that trying again does not cure."""
BUSY_TIMEOUT_S: Final = 20.0
PLAIN: Final = "plain"


def run(settings: Settings, options: Options, *, on_progress: Progress | None = None) -> Report:
    """Run the torture test on a scratch table of the configured backends.

    Args:
        settings: where warehouse, locks and staging are; its own tables are left alone.
        options: what the run is to be like.
        on_progress: called about every second with the seconds gone, what was committed and the faults done so far.

    Raises:
        ConfigurationError: the torture test does not know this engine.
        OnerowError: the run itself could not be done; the scratch table is removed.
    """
    table = f"{PREFIX}{options.seed}_{uuid.uuid4().hex[:8]}"
    scratch = replace(
        settings,
        tables={table: scratch_spec(table)},
        lease_duration_s=options.lease_s,
        renew_every_s=options.renew_every_s,
        max_wait_s=options.max_wait_s,
        busy_timeout_s=min(settings.busy_timeout_s, BUSY_TIMEOUT_S),
    )
    bare = bare_of(scratch, table)
    folder = Path(tempfile.mkdtemp(prefix=f"{table}_"))
    clear = True
    try:
        _install(scratch, options, bare, folder)
        with (
            Lines(scratch) as lines,
            Nursery(folder / "processes.log", control_schema=scratch.control_schema) as nursery,
        ):
            running = _Running(options, lines, nursery, folder, table, on_progress or _say_nothing)
            running.run()
            evidence = Evidence(plain=options.plain, defects=running.defects)
        _drain(scratch, options, bare, folder, evidence)
        read_journals(folder, evidence)
        read_engine(bare, evidence)
        verdict = judge(evidence)
        clear = not verdict.violations or options.plain or bool(options.without)
        kept = {"table": table, "staging": str(scratch.staging), "journals": str(folder)}
        return Report(
            engine=engine_name(settings),
            warehouse=str(settings.warehouse),
            locks=str(settings.locks),
            table=table,
            options=options,
            numbers=count_up(evidence, verdict, running.done),
            faults=dict(sorted(running.done.items())),
            not_applicable=lines.not_applicable,
            errors=count_errors(evidence),
            violated=verdict.count(),
            violations=tuple(verdict.violations),
            kept={} if clear else kept,
        )
    finally:
        if clear:
            _clear(scratch, options, bare, table)
        bare.close()
        if clear:
            shutil.rmtree(folder)


def engine_name(settings: Settings) -> str:
    """Return what kind of warehouse it is, for people."""
    catalog = settings.warehouse.catalog
    return settings.warehouse.scheme if catalog is None else f"{settings.warehouse.scheme} on {catalog.scheme}"


def _install(settings: Settings, options: Options, bare: Bare, folder: Path) -> None:
    if options.plain:
        (folder / PLAIN).mkdir()
        bare.create()
        return
    with open_store(settings) as store:
        store.init()


@dataclass(slots=True)
class _Running:
    """The time in which the processes are alive.

    Attributes:
        done: faults by kind, those included that workers do to themselves.
    """

    options: Options
    lines: Lines
    nursery: Nursery
    folder: Path
    table: str
    on_progress: Progress
    done: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    _began_s: float = 0.0
    _workers: dict[int, Child] = field(default_factory=dict)
    _others: list[Child] = field(default_factory=list)
    _resume_at_s: dict[int, float] = field(default_factory=dict)
    _mend_at_s: dict[Kind, float] = field(default_factory=dict)
    _overtaken_at: dict[int, int] = field(default_factory=dict)
    _follower: Follower = field(init=False)
    _chance: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._follower = Follower(self.folder)

    def run(self) -> None:
        """Start everything, do the faults at their times, and wait until all have ended."""
        kinds: list[Kind] = ["kill", "pause"]
        if not self.options.plain:
            kinds += ["force_release", *self.lines.kinds]
        faults = schedule(self.options, kinds)
        self._chance.seed(f"{self.options.seed}/pauses")
        self._start_all([fault for fault in faults if fault.kind == "force_release"])
        self._wait_until_ready()
        waiting = [fault for fault in faults if fault.kind != "force_release"]
        told_s = 0
        while self._gone_s() < self.options.seconds:
            while waiting and waiting[0].at_s <= self._gone_s():
                self._do(waiting.pop(0))
            self._tend(end=False)
            if self._gone_s() > told_s:
                told_s = int(self._gone_s()) + 1
                self._follower.follow()
                self.on_progress(self._gone_s(), {"committed": self._follower.committed.total(), **self.done})
        self._end()

    def _gone_s(self) -> float:
        return time.monotonic() - self._began_s

    def _start_all(self, forced: list[Fault]) -> None:
        for number in range(self.options.processes):
            self._workers[number] = self.nursery.start(roles.work, self._task(number, self.lines.settings))
        direct = self._task(0, self.lines.direct)
        self._others.append(self.nursery.start(roles.look, direct))
        if not self.options.plain:
            self._others.append(self.nursery.start(roles.release, (direct, forced)))

    def _task(self, number: int, settings: Settings) -> roles.Task:
        return roles.Task(settings, self.options, self.table, self.folder, number)

    def _wait_until_ready(self) -> None:
        """Have everybody begin together: to open some engines takes seconds, and that is no part of the run."""
        deadline_s = time.monotonic() + GRACE_S
        everybody = [*self._workers.values(), *self._others]
        while len(list(self.folder.glob(f"*{roles.READY}"))) < len(everybody):
            self.nursery.watch(TICK_S)
            ended = [child.pid for child in everybody if child.exit_code is not None]
            if ended or time.monotonic() > deadline_s:
                raise OnerowError(
                    f"The processes could not be made ready within {GRACE_S:.0f} s.",
                    hint="Look with `onerow doctor`. " + self._first_error(),
                )
        begun = self.folder / "begun.new"
        self._began_s = time.monotonic()
        begun.write_text(repr(self._began_s), encoding="ascii")
        begun.replace(self.folder / roles.BEGUN)

    def _first_error(self) -> str:
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            for event in read(path):
                if event["e"] == "error":
                    return f"One says: {event['message']}"
        return (self.folder / "processes.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _do(self, fault: Fault) -> None:
        """Do a fault now."""
        if fault.kind in {"kill", "pause"}:
            count = len(self._workers)
            order = [self._workers[(fault.target + number) % count] for number in range(count)]
            worker = next((one for one in order if one.exit_code is None and not one.stopped), None)
            if worker is None:
                return  # all of them are dead or stand still already
            if fault.kind == "kill":
                self.nursery.signal(worker, signal.SIGKILL)
            else:
                self._resume_at_s[worker.pid] = time.monotonic() + fault.lasts_s
                self.nursery.signal(worker, signal.SIGSTOP)
                self.done["pause"] += 1
            return
        self.lines.disturb(fault.kind, lasts=fault.lasts_s > 0)
        self._mend_at_s[fault.kind] = time.monotonic() + fault.lasts_s
        self.done[fault.kind] += 1

    def _tend(self, *, end: bool) -> None:
        """Take note of what happened, resume who has stood still for long enough, replace who was killed."""
        self.nursery.watch(TICK_S)
        now_s = time.monotonic()
        for kind, at_s in list(self._mend_at_s.items()):
            if at_s <= now_s or end:
                self.lines.mend(kind)
                del self._mend_at_s[kind]
        for number, worker in self._workers.items():
            if worker.stopped:
                self._resume(worker, now_s, end=end)
            elif worker.exit_code is not None and not end:
                self._replace(number, worker)

    def _resume(self, worker: Child, now_s: float, *, end: bool) -> None:
        if worker.pid not in self._resume_at_s:  # it has stopped itself, at a point of a consolidation
            leases = self._chance.uniform(*self.options.pause_leases)
            self._resume_at_s[worker.pid] = now_s + leases * self.options.lease_s
            self.done["pause"] += 1
        if end or (self._resume_at_s[worker.pid] <= now_s and self._others_went_on(worker)):
            del self._resume_at_s[worker.pid]
            self._overtaken_at.pop(worker.pid, None)
            worker.stopped = False
            self.nursery.signal(worker, signal.SIGCONT)

    def _others_went_on(self, worker: Child) -> bool:
        """Say whether a worker that stumbles on purpose has been overtaken, as it was meant to be."""
        if self.options.stumbles is None:
            return True
        self._follower.follow()
        total = self._follower.committed.total()
        return total >= self._overtaken_at.setdefault(worker.pid, total + self.options.resume_after)

    def _replace(self, number: int, worker: Child) -> None:
        if self._gone_s() + REBIRTH_S >= self.options.seconds:
            return
        self._note_end(f"worker {number}", worker)
        self._workers[number] = self.nursery.start(roles.work, self._task(number, self.lines.settings))

    def _note_end(self, name: str, child: Child) -> None:
        if child.exit_code == -signal.SIGKILL:
            self.done["kill"] += 1
        elif child.exit_code != 0:
            self.defects.append(f"{name} ended with {child.exit_code}; its traceback is in processes.log")

    def _end(self) -> None:
        """Let everybody finish; who does not within the time of grace hangs."""
        self.lines.mend_all()
        deadline_s = time.monotonic() + GRACE_S
        everybody = {**{f"worker {number}": child for number, child in self._workers.items()}}
        everybody |= {f"process {child.pid}": child for child in self._others}
        while any(child.exit_code is None for child in everybody.values()) and time.monotonic() < deadline_s:
            self._tend(end=True)
        for name, child in everybody.items():
            if child.exit_code is None:
                self.defects.append(f"{name} did not end within {GRACE_S:.0f} s after the run")
                self.nursery.signal(child, signal.SIGKILL)
            else:
                self._note_end(name, child)


def _drain(settings: Settings, options: Options, bare: Bare, folder: Path, evidence: Evidence) -> None:
    """Merge everything that still waits: what nobody could finish has to be finished by the next one who comes."""
    journal = Journal(folder / f"drain-0{SUFFIX}")
    (table,) = settings.tables
    if options.plain:
        merger = PlainMerge(bare, folder / PLAIN)
        for batch in merger.batches():
            merger.consolidate(batch)
        return
    with open_store(settings) as store:
        for batch in store.ports.parts.batches(table):
            reason = _drain_batch(store, table, batch, journal)
            if reason is not None:
                evidence.waiting[batch] = reason
        read_store(store, table, evidence)


def _drain_batch(store: Store, table: str, batch: str, journal: Journal) -> str | None:
    """Consolidate a batch until it is merged; return why it cannot be, None if it is."""
    reason: str | None = "it was never tried"
    for tried in range(DRAIN_TRIES):
        try:
            result = store.consolidate(table, batch)
        except OnerowError as error:
            journal.error("drain", error)
            reason = str(error)
        else:
            journal.write("result", lock=True, heard={}, result=result.to_json())
            if result.success:
                return None
            reason = result.error
            if result.error_kind in HOPELESS:
                break
        time.sleep(0.1 * tried)
    return reason


def _clear(settings: Settings, options: Options, bare: Bare, table: str) -> None:
    """Remove the scratch table and everything that belongs to it, in warehouse, staging and lock store."""
    if not options.plain:
        _clear_staging_and_locks(settings, table)
    bare.clear()


def _clear_staging_and_locks(settings: Settings, table: str) -> None:
    with open_store(settings) as store:
        parts: Any = store.ports.parts
        if isinstance(parts, FileParts):
            shutil.rmtree(parts.folder(table, "any").parent, ignore_errors=True)
        for prefix in (LEASE_PREFIX, TURN_PREFIX):
            for entry in store.ports.locks.entries(f"{prefix}{table}"):
                store.ports.locks.swap(entry.key, expected=entry.version, value=None)


def _say_nothing(gone_s: float, done: Mapping[str, int]) -> None:
    """Stand where nobody asked for progress."""
