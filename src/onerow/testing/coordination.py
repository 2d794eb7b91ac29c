"""Coordinators in the simulation: the real services on in-memory ports, killed and paused at any point.

Clients open, report and seal batches, each request twice and until it is acknowledged; workers stage and sometimes die
before they report; several coordinators look and consolidate, and are started again when they were killed. In the end
every staged part is merged exactly once, the table is the plain reference (``checker``), every record says "done", and
nothing that was acknowledged is forgotten.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from onerow.adapters.staging.checks import RowChecks
from onerow.adapters.staging.readers import open_source
from onerow.core.batchrecords import record_from_json
from onerow.core.plans import unmerged
from onerow.errors import OnerowError
from onerow.services.coordinator import Coordinator, CoordinatorSettings
from onerow.services.dispatcher import Dispatcher
from onerow.services.leases import Leases
from onerow.services.registry import BATCH_PREFIX, BatchRegister, Name
from onerow.services.stager import Stager
from onerow.services.store import Ports, Store
from onerow.testing.faults import SECOND, FaultPlan, draw_plan
from onerow.testing.processes import SimulatedLocks, SimulatedParts, SimulatedWarehouse
from onerow.testing.scenario import SPEC, Scenario, Staging, draw_scenario
from onerow.testing.scheduler import SimulatedBackground, SimulatedClock
from onerow.testing.virtual import SeededIds
from onerow.testing.world import LONG_US, Kit, Report, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onerow.core.batchrecords import BatchRecord
    from onerow.services.batchstatus import BatchStatus
    from onerow.services.dispatcher import Work
    from onerow.testing.scheduler import Actor, Process

How = Literal["parts", "workers", "more", "seal", "report"]
HOWS: Sequence[How] = ("parts", "workers", "more", "seal", "report")

POLL_US = 3 * SECOND
PATIENCE_US = 1_200 * SECOND
SETTINGS = CoordinatorSettings(deadline_s=200.0, claim_s=30.0, look_at_all_s=60.0)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What clients do with a batch.

    Attributes:
        how: ``parts`` or ``workers`` are expected, all that come; ``more``: one more part is expected than comes;
            ``seal``: it is sealed when all are there; ``report``: nobody opens it.
        open_us: when it is opened.
        unreported: the workers that die between staging and reporting.
    """

    how: How
    open_us: int
    unreported: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CoordinationKit:
    """What a run is made of; negative controls put something broken in one place."""

    register: Callable[..., BatchRegister] = BatchRegister
    dispatcher: Callable[..., Dispatcher] = Dispatcher
    coordinators: int = 2


@dataclass(slots=True)
class CoordinationWorld(World):
    """One run with coordinators. Make it, then ``run`` it once.

    Attributes:
        parts_kit: the coordinators' own parts.
        batch_plans: by batch; drawn by seed if they are not given.
        strike_at: (switch point of a coordinator, "crash" or "pause"): the one fault of a run without a fault plan.
    """

    parts_kit: CoordinationKit = field(default_factory=CoordinationKit)
    batch_plans: dict[str, BatchPlan] = field(default_factory=dict)
    strike_at: tuple[int, Literal["crash", "pause"]] | None = None
    points: int = field(init=False, default=0)
    stopping: bool = field(init=False, default=False)
    _records: dict[str, dict[str, Any]] = field(init=False, default_factory=dict)
    _at_work: dict[Name, str] = field(init=False, default_factory=dict)

    # --- the run ---------------------------------------------------------------------------

    def run(self) -> Report:
        """Run to the end, let faults end, and check."""
        assert self.scenario is not None
        scheduler, host = self.scheduler, self.scheduler.process("host")
        self.checker.healthy = self.checker.healthy and self.strike_at is None
        plans = self.batch_plans or draw_batch_plans(self.seed, self.scenario)
        clients = [
            scheduler.spawn(host, f"client-{batch}", lambda batch=batch, plan=plan: self._client(batch, plan))  # type: ignore[misc]
            for batch, plan in plans.items()
        ]
        for staging in self.scenario.stagings:
            plan = plans[staging.batch]
            clients.append(
                scheduler.spawn(host, f"worker-{staging.worker}", lambda s=staging, p=plan: self._worker(s, p))  # type: ignore[misc]
            )
        coordinators = [
            scheduler.spawn(host, f"keeper-{number}", lambda number=number: self._keep_alive(number))  # type: ignore[misc]
            for number in range(self.parts_kit.coordinators)
        ]
        scheduler.spawn(host, "nemesis", self._disturb)
        scheduler.spawn(host, "judge", lambda: self._judge(plans, clients, coordinators))
        scheduler.run()
        if not self.checker.violations:
            self.checker.check_end(self.warehouse.database.tables[self.kit.spec.name])
        return Report(
            self.seed,
            tuple(self.checker.violations),
            self.counts,
            scheduler.steps,
            scheduler.now_us / SECOND,
            tuple(scheduler.trace),
        )

    # --- clients ---------------------------------------------------------------------------

    def _client(self, batch: str, plan: BatchPlan) -> None:
        """Open a batch, and seal it when all workers are done."""
        assert self.scenario is not None
        stagings = [staging for staging in self.scenario.stagings if staging.batch == batch]
        expected: dict[str, Any] = {
            "parts": {"expected_parts": len(stagings)},
            "workers": {"expected_workers": len({staging.worker for staging in stagings})},
            "more": {"expected_parts": len(stagings) + 1},
        }.get(plan.how, {})
        if plan.how == "report":
            return
        self.scheduler.sleep_us(plan.open_us)
        self._ask(f"open-{batch}", lambda one: one.open(SPEC.name, batch, **expected, idempotency_key="open"))
        self._remember(batch, registered=True, expected_parts=expected.get("expected_parts"))
        if plan.how == "seal":
            self.scheduler.wait_until(
                lambda: len(self.checker.acknowledged.get(batch, {})) == len(stagings), LONG_US, "wait for parts"
            )
            self._ask(f"seal-{batch}", lambda one: one.seal(SPEC.name, batch, idempotency_key="seal"))
            self._remember(batch, sealed=True)

    def _worker(self, staging: Staging, plan: BatchPlan) -> None:
        """Stage a part; report it, unless the worker dies before."""
        self._stage(staging)
        if staging.worker in plan.unreported:
            self.counts["unreported"] += 1
            return
        (part,) = (
            part.part_id
            for part in self.checker.acknowledged[staging.batch].values()
            if part.worker == staging.worker
        )
        self._ask(
            f"report-{staging.worker}",
            lambda one: one.report(SPEC.name, staging.batch, part, idempotency_key=f"report-{part}"),
        )

    def _ask(self, name: str, request: Callable[[Coordinator], BatchStatus]) -> None:
        """Ask until it is acknowledged, each time in a new process that may be killed; then ask the same again."""
        acknowledged = number = 0
        while acknowledged < 2:
            number += 1
            answers: list[BatchStatus] = []
            process = self._mortal(f"{name}.{number}")

            def ask(process: Process = process, answers: list[BatchStatus] = answers) -> None:
                try:
                    answers.append(request(self.coordinator(process)))
                except OnerowError as error:
                    self.scheduler.log(f"{error.kind}: {error.message}")

            actor = self.scheduler.spawn(process, process.name, ask)
            self.scheduler.wait_until(lambda actor=actor: actor.done, LONG_US, f"wait for {process.name}")  # type: ignore[misc]
            acknowledged += len(answers)
            if not answers:
                self.scheduler.sleep_us(SECOND)

    def _remember(self, batch: str, **facts: object) -> None:
        """Take note of what a client was told; it must be so until the end."""
        self._records.setdefault(batch, {}).update(facts)

    # --- coordinators ----------------------------------------------------------------------

    def _keep_alive(self, number: int) -> None:
        """Run a coordinator, and start it again when it was killed."""
        life = 0
        while not self.stopping:
            life += 1
            process = self._mortal(f"c{number}.{life}")
            process.drift_ppm = self.faults.drift_ppm(self.faults.plan.process_drift_ppm)
            actor = self.scheduler.spawn(process, process.name, lambda process=process: self._coordinate(process))  # type: ignore[misc]
            self.scheduler.wait_until(lambda actor=actor: actor.done, LONG_US, f"wait for {process.name}")  # type: ignore[misc]
            self.scheduler.sleep_us(SECOND)

    def _coordinate(self, process: Process) -> None:
        dispatcher = self.dispatcher(process)
        while not self.stopping:
            for work in dispatcher.tick(1):
                with self._watched(work, process):
                    dispatcher.work(work)
            self.scheduler.sleep_us(POLL_US)

    @contextmanager
    def _watched(self, work: Work, process: Process) -> Iterator[None]:
        """See that nobody else has the same work, as long as nobody stands still or loses touch with the register."""
        other = self._at_work.get(work.name)
        alive = other is not None and self.scheduler.process(other).alive
        if alive and self.faults.plan == FaultPlan(latency=self.faults.plan.latency) and self.strike_at is None:
            self.checker.fail("efficiency", f"{process.name} and {other} both consolidate {work.name}")
        self._at_work[work.name] = process.name
        self.counts["work"] += 1
        yield
        if self._at_work.get(work.name) == process.name:
            del self._at_work[work.name]

    def store(self, process: Process) -> Store:
        """Return a store on the ports as ``process`` sees them."""
        clock, ids = SimulatedClock(self.scheduler, process), SeededIds(self.seed, process=process.name)
        locks, parts = SimulatedLocks(self, process), SimulatedParts(self, process)
        leases = Leases(
            store=locks,
            clock=clock,
            background=SimulatedBackground(self.scheduler, process),
            ids=ids,
            settings=self.kit.settings,
        )
        stager = Stager(parts=parts, checks_for=RowChecks)  # type: ignore[arg-type]  # nothing is staged through it
        ports = Ports(
            SimulatedWarehouse(self, process), parts, locks, leases, clock, ids, stager, open_source  # type: ignore[arg-type]
        )
        return Store(ports=ports, tables={self.kit.spec.name: self.kit.spec}, holder=process.name)

    def coordinator(self, process: Process) -> Coordinator:
        """Return a real coordinator in a process."""
        store = self.store(process)
        return Coordinator(records=self._register(store), lend=_lending(store), settings=SETTINGS)

    def dispatcher(self, process: Process) -> Dispatcher:
        """Return a real dispatcher in a process."""
        store = self.store(process)
        return self.parts_kit.dispatcher(
            records=self._register(store),
            lend=_lending(store),
            lend_for_work=_lending(store),
            clock=store.ports.clock,
            ids=store.ports.ids,
            background=SimulatedBackground(self.scheduler, process),
            holder=process.name,
            settings=SETTINGS,
        )

    def _register(self, store: Store) -> BatchRegister:
        return self.parts_kit.register(store.ports.locks, clock=store.ports.clock, ids=store.ports.ids)

    def _mortal(self, name: str) -> Process:
        self.mortal.add(name)
        return self.scheduler.process(name)

    def _strike(self, actor: Actor, point: str) -> None:
        """Strike at the given point of a coordinator; else as the fault plan says."""
        if self.strike_at is None or actor.process.name not in self.mortal:
            World._strike(self, actor, point)  # noqa: SLF001 -- a slotted dataclass has no zero-argument super()
            return
        self.points += 1
        if self.points == self.strike_at[0]:
            self.counts[self.strike_at[1]] += 1
            if self.strike_at[1] == "crash":
                self.scheduler.kill(actor.process)
            else:
                self.scheduler.pause(actor.process, 70 * SECOND)

    # --- the end ---------------------------------------------------------------------------

    def _judge(self, plans: dict[str, BatchPlan], clients: list[Actor], coordinators: list[Actor]) -> None:
        """When clients are done and faults have ended, everything is merged in time, and the records say so."""
        self.scheduler.wait_until(lambda: all(actor.done for actor in clients), LONG_US, "wait for clients")
        self.faults.heal()
        self.scheduler.log("HEALING")
        until_us = self.scheduler.now_us + PATIENCE_US
        while self.scheduler.now_us < until_us and any(self._unsettled(batch) for batch in plans):
            self.scheduler.sleep_us(POLL_US)
        for batch in plans:
            if why := self._unsettled(batch):
                self.checker.fail("liveness", f"batch {batch}: {why}")
        self.stopping = True
        self.scheduler.wait_until(lambda: all(actor.done for actor in coordinators), LONG_US, "wait for the end")
        for batch, facts in self._records.items():
            record = self._record(batch)
            found = None if record is None else {
                "registered": record.registered, "sealed": record.sealed, "expected_parts": record.expected.parts
            }  # fmt: skip
            lost = {name: value for name, value in facts.items() if found is None or found[name] != value}
            if lost:
                self.checker.fail("I8", f"batch {batch}: acknowledged and forgotten: {lost}")

    def _record(self, batch: str) -> BatchRecord | None:
        value = self.locks.read(f"{BATCH_PREFIX}{SPEC.name}/{batch}").value
        return None if value is None else record_from_json(value)

    def _unsettled(self, batch: str) -> str:
        """Say what is missing until a batch is done; "" for nothing."""
        record = self._record(batch)
        parts = self.parts.parts(SPEC.name, batch)
        left = unmerged(parts, self.warehouse.merged(SPEC.name, batch), partitioned=True)
        if record is None:
            return "no record"
        if left:
            return f"{record.state}, not merged: {sorted({part.part_id for found in left.values() for part in found})}"
        if record.state != "done" or record.seen.parts != len(parts) or record.seen.waiting:
            return f"merged, and the record says {record.state}, {record.seen} of {len(parts)} parts"
        ended_well = record.last is not None and record.last.success
        return "" if ended_well else f"done without a round that went well: {record}"


def _lending(store: Store) -> Callable[[], Any]:
    """Return what lends a store to whoever asks: in a simulated process one actor uses it at a time, nearly."""

    @contextmanager
    def lend() -> Iterator[Store]:
        yield store

    return lend


def draw_batch_plans(seed: int, scenario: Scenario) -> dict[str, BatchPlan]:
    """Return what clients of a seed do."""
    chance = random.Random(f"batches:{seed}")
    plans = {}
    for batch in scenario.batches:
        workers = sorted(staging.worker for staging in scenario.stagings if staging.batch == batch)
        how = chance.choice(HOWS)
        silent = {worker for worker in workers if chance.random() < 0.3}
        if how == "report":
            silent.discard(workers[0])  # of a batch that nobody opens and nobody reports nobody knows
        open_us = round(chance.choice((0.0, 5.0, 60.0)) * chance.random() * SECOND)
        plans[batch] = BatchPlan(how, open_us, frozenset(silent))
    return plans


def coordination_world(
    seed: int, kit: CoordinationKit | None = None, *, plan: FaultPlan | None = None, tracing: bool = False
) -> CoordinationWorld:
    """Return the run of a seed: its scenario without jobs, and its faults without those that lose the register."""
    drawn = draw_plan(seed) if plan is None else plan
    honest = replace(drawn, forgets=0, restores=0, store_steps=0)
    scenario = replace(draw_scenario(seed), jobs=(), force_releases=(), collections=(), foreign=())
    return CoordinationWorld(
        seed, Kit(spec=SPEC), scenario, honest, tracing=tracing, parts_kit=kit or CoordinationKit()
    )


# --- negative controls -------------------------------------------------------------------------


class BlindRegister(BatchRegister):
    """Writes whatever it has decided, over what somebody else has written meanwhile."""

    def write(self, name: Name, entry: Any, before: BatchRecord | None, after: BatchRecord) -> Any:
        """Write over the newest version, not over the one that was read."""
        return super().write(name, replace(entry, version=self.entry(name).version), before, after)


class Patient(Dispatcher):
    """Waits for a claim for ever."""

    def _claim(self, entry: Any, record: BatchRecord) -> Work | None:
        return None if record.claim is not None else super()._claim(entry, record)


class Hasty(Dispatcher):
    """Takes a claim as expired whatever the store's clock says."""

    def _claimable(self, entry: Any, record: BatchRecord, known: Any) -> Any:
        found = super()._claimable(entry, record, known)
        return (entry, record) if found is None and record.state == "claimed" else found


class Trusting(Dispatcher):
    """Believes what was reported: looks at no batch by itself."""

    def _claimable(self, entry: Any, record: BatchRecord, known: Any) -> Any:
        return None if record.state in {"open", "incomplete", "done"} else super()._claimable(entry, record, known)


@dataclass(frozen=True, slots=True)
class CoordinationControl:
    """Something broken, what it must break, and in which circumstances (None: those of the seed)."""

    kit: CoordinationKit
    expects: frozenset[str]
    plan: FaultPlan | None = None


COORDINATION_CONTROLS = {
    "blind-writes": CoordinationControl(
        CoordinationKit(register=BlindRegister), frozenset({"I8", "efficiency", "liveness"})
    ),
    "claims-never-end": CoordinationControl(CoordinationKit(dispatcher=Patient), frozenset({"liveness"})),
    "claims-end-at-once": CoordinationControl(
        CoordinationKit(dispatcher=Hasty), frozenset({"efficiency"}), FaultPlan(latency=0.4)
    ),
    "reports-are-the-truth": CoordinationControl(CoordinationKit(dispatcher=Trusting), frozenset({"liveness"})),
}
