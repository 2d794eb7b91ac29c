"""One simulated run: the real protocol on in-memory ports, under one seed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onerow.core.plans import AlreadyMerged, Committed, Refused
from onerow.errors import OnerowError
from onerow.services.consolidator import Consolidator
from onerow.services.group import Request
from onerow.services.leases import Leases, LeaseSettings
from onerow.services.locks import LockDesk
from onerow.testing.checker import Checker, Violation
from onerow.testing.faults import MAX_LATENCY_US, SECOND, FaultPlan, Faults, draw_plan
from onerow.testing.memory_locks import MemoryLocks, StoreClock
from onerow.testing.memory_parts import MemoryParts
from onerow.testing.memory_tables import ConflictError, LinkLostError, MemoryDatabase, Transaction
from onerow.testing.memory_warehouse import MemoryWarehouse
from onerow.testing.processes import SimulatedLocks, SimulatedParts, SimulatedWarehouse
from onerow.testing.scenario import SPEC, Job, Scenario, Staging, draw_scenario, spec_of
from onerow.testing.scheduler import (
    Actor,
    Chooser,
    Process,
    Scheduler,
    SeededChooser,
    SimulatedBackground,
    SimulatedClock,
)
from onerow.testing.virtual import SeededIds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onerow.core.plans import MergePlan, Outcome
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Background
    from onerow.ports.lockstore import LockStore
    from onerow.testing.bigquery_model import Reading
    from onerow.testing.scenario import Row

LONG_US = 10**15
LINK_POINTS = frozenset({"guard", "token", "todo", "merge", "verify", "record", "commit", "read back"})
HEALING_TRIES = 4


@dataclass(frozen=True, slots=True)
class Kit:
    """What a run is made of; negative controls put something broken in one place.

    Attributes:
        shape: changes scenario and faults of a seed so that the control can show.
        reading: set for a warehouse that takes whole scripts: gives what the service's documentation leaves open.
    """

    warehouse: Callable[..., MemoryWarehouse] = MemoryWarehouse
    leases: Callable[..., Leases] = Leases
    consolidator: Callable[..., Consolidator] = Consolidator
    locks: Callable[[World, Process], LockStore] = SimulatedLocks
    background: Callable[[Scheduler, Process], Background] = SimulatedBackground
    shape: Callable[[int, Scenario, FaultPlan], tuple[Scenario, FaultPlan]] = (
        lambda seed, scenario, plan: (scenario, plan)  # noqa: ARG005
    )
    spec: TableSpec = SPEC
    settings: LeaseSettings = field(default_factory=LeaseSettings)
    heal: bool = True
    reading: Callable[[int], Reading] | None = None


@dataclass(slots=True)
class SimulatedService:
    """Runs scripts in a process of its own, which nobody kills when a client dies."""

    scheduler: Scheduler
    reading: Reading

    def run(self, what: str, work: Callable[[], None]) -> None:
        """Run a script and wait for its end."""
        actor = self.scheduler.spawn(self.scheduler.process("service"), f"script {what}", work)
        self.scheduler.wait_until(lambda: actor.done, LONG_US, f"wait for script {what}")

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait; what waits at the service is a statement in a queue."""
        self.scheduler.wait_until(ready, LONG_US, what)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    seed: int
    violations: tuple[Violation, ...]
    counts: Counter[str]
    steps: int
    virtual_s: float
    trace: tuple[str, ...]


@dataclass(slots=True)
class World:
    """Everything of one run. Make it, then ``run`` it once."""

    seed: int
    kit: Kit = field(default_factory=Kit)
    scenario: Scenario | None = None
    plan: FaultPlan | None = None
    chooser: Chooser | None = None
    tracing: bool = False
    scheduler: Scheduler = field(init=False)
    faults: Faults = field(init=False)
    locks: MemoryLocks = field(init=False)
    parts: MemoryParts = field(init=False)
    warehouse: MemoryWarehouse = field(init=False)
    checker: Checker = field(init=False)
    counts: Counter[str] = field(init=False, default_factory=Counter)
    mortal: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        scenario = self.scenario or draw_scenario(self.seed)
        plan = self.plan if self.plan is not None else draw_plan(self.seed)
        self.scenario, self.plan = self.kit.shape(self.seed, scenario, plan)
        self.faults = Faults(self.plan, self.seed, self.counts)
        self.scheduler = Scheduler(self.chooser or SeededChooser(self.seed), tracing=self.tracing)
        self.scheduler.on_switch = self._strike
        clock = StoreClock(lambda: self.scheduler.now_us)
        clock.set_drift(self.faults.drift_ppm(self.plan.store_drift_ppm))
        self.locks = MemoryLocks(clock=clock)
        self.parts = MemoryParts(
            monotonic_s=lambda: self.scheduler.now_us / SECOND,
            is_merged=lambda table, batch, part_id, names: (
                {(part_id, name) for name in names} <= self.warehouse.merged(table, batch)
            ),
        )
        database = MemoryDatabase()
        self.warehouse = self.kit.warehouse(
            parts=self.parts,
            database=database,
            switch=self.step,
            deliver=self.deliver_commit,
            commit_domain=self.scenario.commit_domain,
            max_partitions=self.scenario.max_partitions,
            **(
                {}
                if self.kit.reading is None
                else {"service": SimulatedService(self.scheduler, self.kit.reading(self.seed))}
            ),
        )
        spec = self.kit.spec
        self.warehouse.install([spec], lock_store=self.locks.identity(), adopt_locks=False)
        self.checker = Checker(
            spec=spec,
            scheduler=self.scheduler,
            locks=self.locks,
            healthy=self.plan.healthy and not self.scenario.force_releases,
            honest_leases=self.plan.honest_leases and not self.scenario.force_releases,
            idle_bound_us=100_000 + (2 * MAX_LATENCY_US if self.plan.latency else 0),  # a read and a swap
        )
        if self.scenario.initial:
            initial = self._first_versions(self.scenario.initial)
            database.commit(Transaction(database.tables[spec.name], "initial", inserted=list(initial)))
            self.checker.start_with(initial)
        database.commit_hooks.append(self.checker.saw_commit)

    # --- the run ---------------------------------------------------------------------------

    def run(self) -> Report:
        """Run to the end, heal, and check."""
        assert self.scenario is not None
        scheduler, host = self.scheduler, self.scheduler.process("host")
        actors = [
            scheduler.spawn(host, f"worker-{staging.worker}", lambda staging=staging: self._stage(staging))  # type: ignore[misc]
            for staging in self.scenario.stagings
        ]
        actors += [
            scheduler.spawn(host, f"host-{number}", lambda number=number, job=job: self._do(f"j{number}", job))  # type: ignore[misc]
            for number, job in enumerate(self.scenario.jobs)
        ]
        actors.append(scheduler.spawn(host, "nemesis", self._disturb))
        for number, (at_us, scope) in enumerate(self.scenario.force_releases):
            actors.append(self._spawn_at(at_us, f"person-{number}", self._force_release, scope))
        for number, at_us in enumerate(self.scenario.collections):
            actors.append(self._spawn_at(at_us, f"gc-{number}", self._collect))
        for number, (at_us, rows) in enumerate(self.scenario.foreign):
            foreign = self._first_versions(rows)
            actors.append(
                self._spawn_at(at_us, f"foreign-{number}", self.warehouse.insert_foreign, self.kit.spec, foreign)
            )
        if self.kit.heal:
            scheduler.spawn(host, "healer", lambda: self._heal(actors))
        scheduler.run()
        if self.kit.heal and not self.checker.violations:
            self.checker.check_end(self.warehouse.database.tables[self.kit.spec.name])
        return Report(
            seed=self.seed,
            violations=tuple(self.checker.violations),
            counts=self.counts,
            steps=scheduler.steps,
            virtual_s=scheduler.now_us / SECOND,
            trace=tuple(scheduler.trace),
        )

    def _first_versions(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return rows that somebody wrote into the table: in versions mode each is its key's first version."""
        return [(*row, 1) for row in rows] if self.kit.spec.mode == "versions" else rows

    def _spawn_at(self, at_us: int, name: str, work: Callable[..., Any], *arguments: Any) -> Actor:
        return self.scheduler.spawn(self.scheduler.process("host"), name, lambda: work(*arguments), after_us=at_us)

    def _stage(self, staging: Staging) -> None:
        """Stage a part, and again: a worker that was not told repeats itself."""
        spec = self.kit.spec
        missing = [None] * (len(spec.columns) - len(staging.columns))
        for at_us in staging.at_us:
            if at_us > self.scheduler.now_us:
                self.scheduler.sleep_us(at_us - self.scheduler.now_us)
            self.scheduler.switch(f"stage {staging.worker} of {staging.batch}")
            part = self.parts.put(
                spec, batch=staging.batch, worker=staging.worker, columns=staging.columns, rows=staging.rows
            )
            manifest = next(
                found for found in self.parts.parts(spec.name, staging.batch) if found.part_id == part.part_id
            )
            self.checker.saw_staged(manifest, [(*row, *missing) for row in staging.rows])
            self.scheduler.switch(f"staged {part.part_id}: {part.status}")
            self.checker.saw_acknowledged(manifest)
            self.counts[f"part {part.status}"] += 1

    def _do(self, name: str, job: Job) -> None:
        """Consolidate until it succeeds, each time in a new process: it may be killed."""
        if job.at_us:
            self.scheduler.sleep_us(job.at_us)
        for number in range(job.tries):
            if self._attempt(f"{name}.{number}", job):
                return
            self.scheduler.sleep_us(self.faults.between_us(0.1, 20))

    def _attempt(self, name: str, job: Job) -> bool:
        """Consolidate in a new process; say whether it lived to report success."""
        results: list[bool] = []
        process = self.scheduler.process(name)
        process.drift_ppm = self.faults.drift_ppm(self.faults.plan.process_drift_ppm)
        self.mortal.add(name)
        actor = self.scheduler.spawn(process, name, lambda: results.append(self.consolidate(process, job)))
        self.scheduler.wait_until(lambda: actor.done, LONG_US, f"wait for {name}")
        return results == [True]

    def consolidate(self, process: Process, job: Job) -> bool:
        """Consolidate in a process, with a real consolidator; say whether it reports success."""
        request = Request(
            spec=self.kit.spec,
            batch=job.batch,
            holder=process.name,
            partitions=job.partitions,
            use_lock=job.use_lock,
            keep_merged_s=job.keep_merged_s,
        )
        must = self.checker.must_merge(request)
        try:
            result = self.consolidator(process).consolidate(request)
        except OnerowError as error:
            self.scheduler.log(f"{error.kind}: {error.message}")
            self.counts[f"raised {error.kind}"] += 1
            return False
        self.scheduler.log(f"{result.consolidation} of {job.batch}: {result.status}")
        self.counts[f"result {result.status}"] += 1
        self.checker.saw_result(request, must, result)
        return result.success

    def consolidator(self, process: Process) -> Consolidator:
        """Return a real consolidator on the ports as ``process`` sees them."""
        clock = SimulatedClock(self.scheduler, process)
        ids = SeededIds(self.seed, process=process.name)
        leases = self.kit.leases(
            store=self.kit.locks(self, process),
            clock=clock,
            background=self.kit.background(self.scheduler, process),
            ids=ids,
            settings=self.kit.settings,
        )
        return self.kit.consolidator(
            warehouse=SimulatedWarehouse(self, process),
            parts=SimulatedParts(self, process),
            leases=leases,
            clock=clock,
            ids=ids,
        )

    def _heal(self, actors: list[Actor]) -> None:
        """When everybody is done, let nothing fail any more and consolidate every batch once more."""
        assert self.scenario is not None
        self.scheduler.wait_until(lambda: all(actor.done for actor in actors), LONG_US, "wait for all")
        self.faults.heal()
        self.scheduler.log("HEALING")
        for batch in self.scenario.batches:
            for number in range(HEALING_TRIES):
                process = self.scheduler.process(f"heal-{batch}.{number}")
                if self.consolidate(process, Job(batch, 0)):
                    break
            else:
                self.checker.fail("liveness", f"batch {batch} cannot be consolidated though nothing fails")

    # --- disturbing ------------------------------------------------------------------------

    def _disturb(self) -> None:
        """Do what strikes from outside: clocks, outages, a lock store that forgets."""
        plan, faults, chance = self.faults.plan, self.faults, random.Random(f"nemesis:{self.seed}")
        strokes = (
            ["store_step"] * plan.store_steps
            + ["forget"] * plan.forgets
            + ["restore"] * plan.restores
            + ["lock_outage"] * plan.lock_outages
            + ["warehouse_outage"] * plan.warehouse_outages
        )
        chance.shuffle(strokes)
        copy = self.locks.copy()
        for stroke in strokes:
            self.scheduler.sleep_us(round(chance.choice((0.01, 1, 20)) * chance.random() * SECOND))
            self.counts[stroke] += 1
            self.scheduler.log(f"STROKE {stroke}")
            match stroke:
                case "store_step":
                    self.locks.clock.step(chance.choice((-1, 1)) * chance.choice((1, 20, 40, 3600)) * SECOND)
                case "forget":
                    self.locks.restore({})
                case "restore":
                    copy, old = self.locks.copy(), copy
                    self.locks.restore(old)
                case "lock_outage":
                    faults.locks_down_until_us = self.scheduler.now_us + faults.between_us(0.1, 60)
                case _:
                    faults.warehouse_down_until_us = self.scheduler.now_us + faults.between_us(0.1, 60)

    def _force_release(self, scope: str) -> None:
        process = self.scheduler.process("person")
        desk = LockDesk(
            store=SimulatedLocks(self, process),
            warehouse=SimulatedWarehouse(self, process),
            tables={self.kit.spec.name: self.kit.spec},
        )
        try:
            desk.force_release(scope, reason="simulated", by="person", force=True)
        except OnerowError as error:
            self.scheduler.log(f"{error.kind}: {error.message}")
            return
        self.counts["force_release"] += 1

    def _collect(self) -> None:
        """Purge what is retired, as ``onerow gc`` does."""
        parts = SimulatedParts(self, self.scheduler.process("gc"))
        try:
            parts.purge(parts.retired(self.kit.spec.name, older_than_s=0.0))
        except OnerowError as error:
            self.scheduler.log(f"{error.kind}: {error.message}")

    def _strike(self, actor: Actor, point: str) -> None:
        """Kill or pause the process of who has reached a switch point, perhaps."""
        if actor.process.name not in self.mortal:
            return
        if self.faults.crash():
            self.scheduler.log(f"crash at {point}")
            self.scheduler.kill(actor.process)
        elif pause_us := self.faults.pause_us():
            self.scheduler.pause(actor.process, pause_us)

    # --- what the ports call ---------------------------------------------------------------

    def step(self, point: str) -> None:
        """Be the warehouse's switch: others may run, time may pass, the connection may break."""
        self.scheduler.switch(point)
        if point == "begin":  # the snapshot is taken now
            self.scheduler.note(self.warehouse.database.tables[self.kit.spec.name].commit)
        latency_us = self.faults.latency_us(point)
        if latency_us:
            self.scheduler.sleep_us(latency_us, f"{point} takes")
        if point in LINK_POINTS and self.faults.strikes(self.faults.plan.link_lost, "link_lost"):
            raise LinkLostError(f"at {point}")

    def answer_takes(self, what: str, answer: object) -> None:
        """Let others run while an answer is on its way."""
        self.scheduler.note(answer)
        self.scheduler.switch("answered")
        latency_us = self.faults.latency_us(what)
        if latency_us:
            self.scheduler.sleep_us(latency_us, f"{what} takes")

    def deliver_commit(self, commit: Callable[[], None]) -> None:
        """Bring a commit to the database, or lose it, or its reply, or be late."""
        match self.faults.commit_fate():
            case "plain":
                commit()
            case "conflict":
                raise ConflictError("for a reason of the engine's own")
            case "lost":
                commit()
                raise LinkLostError("after the commit")
            case "never":
                raise LinkLostError("before the commit")
            case "late":
                self.deliver_later("commit", commit)
                raise LinkLostError("in the commit")

    def deliver_later(self, what: str, deliver: Callable[[], object]) -> None:
        """Let something arrive when nobody waits for it any more."""
        self._send(what, deliver, after_us=self.faults.between_us(0, 60) if self.faults.strikes(0.5, "slow") else 1)

    def deliver_now(self, what: str, deliver: Callable[[], object]) -> None:
        """Let something happen beside the one who has asked for it."""
        self._send(what, deliver, after_us=0)

    def _send(self, what: str, deliver: Callable[[], object], *, after_us: int) -> None:
        def arrive() -> None:
            self.scheduler.log(f"ARRIVES {what}")
            try:
                deliver()
            except (ConflictError, LinkLostError) as error:
                self.scheduler.log(f"refused: {error}")

        self.scheduler.spawn(self.scheduler.process("network"), f"late {what}", arrive, after_us=after_us)

    def saw_outcome(self, plan: MergePlan, outcome: Outcome) -> None:
        """Count what became of a transaction."""
        self.scheduler.log(f"OUTCOME {plan.transaction}: {outcome}")
        self.scheduler.note(type(outcome).__name__)
        match outcome:
            case Committed(read_back=True):
                self.counts["committed, read back"] += 1
            case Committed():
                self.counts["committed"] += 1
            case AlreadyMerged():
                self.counts["already merged"] += 1
            case Refused(reason=reason):
                self.counts[f"refused {reason}"] += 1
            case _:
                self.counts["unknown"] += 1


def run_seed(seed: int, *, kit: Kit | None = None, tracing: bool = False) -> Report:
    """Run one seed, with the table that is drawn for it if there is no kit, and return what came of it."""
    return World(seed, kit or Kit(spec=spec_of(seed)), tracing=tracing).run()
