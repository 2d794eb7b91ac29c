"""Every interleaving of two consolidations, with at most one fault at every possible point.

Two processes consolidate two batches with one and the same new key in one partition. All choices of who
runs next are tried, and with each the fault: none, or one crash, one pause past the lease, one commit or
one swap whose reply is lost, one commit that arrives when its client has given up, or a lock store that
forgets everything (without a lie of the lock store nothing but guard, deadline and ledger is needed, and
switching the token off would break nothing). When both are done,
faults end, every batch is consolidated once more and the final table is compared with the plain reference.

It is exhaustive for this scenario in the following sense. A run is determined by its choices, so runs are
repeated from the start with other choices, depth first. A global state that was met before is not followed
again; two states are the same if the world is (register, tables, part states, time, who is paused, dead or
waiting) and each process has been told the same things at the same times in the same order, since what it
was told determines what it does. Nobody else gets to run at a point where the process only does what
nobody else can see (between the snapshot and the commit; between a reply and the next call): that would
only reorder steps that commute. A crash at such a point is a crash at the next one; a pause is tried there
too where the process looks at its clock next. Bounds: one length of pause (4 s;
leases last 3 s, so that waiting takes few steps), jitter from one seed, a lease a partition and no turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onerow.services.leases import LeaseSettings
from onerow.testing.faults import SECOND, CommitFate, FaultPlan, Faults, SwapFate
from onerow.testing.scenario import COLUMNS, DATES, LINES, Job, Scenario, Staging
from onerow.testing.world import Kit, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.testing.checker import Violation
    from onerow.testing.scheduler import Actor

SHORT_LEASES = LeaseSettings(duration_s=3.0, renew_every_s=1.0)
PAUSE_US = 4 * SECOND
UNSEEN = frozenset({"prepare", "guard", "token", "todo", "merge", "verify", "record", "read back"})
"""Nobody else sees what a process does from here to its next point, and it does not look at its clock."""

CLOCK_ONLY = frozenset({"answered", "apply", "cancelled?"})
"""The same, but it looks at its clock next: a pause here matters, a crash is one at its next point."""

QUIET = UNSEEN | CLOCK_ONLY


def _staging(batch: str, worker: str, created_at: int) -> Staging:
    row = (f"id-{worker}", DATES[0], "jokic", LINES[0], created_at, 20)
    return Staging(batch, worker, COLUMNS, (row,), (0,))


TWO_BATCHES = Scenario(
    stagings=(_staging("b1", "w1", 1), _staging("b1_x", "w2", 2)),
    jobs=(Job("b1", 0, tries=1), Job("b1_x", 0, tries=1)),
)
ONE_BATCH_TWICE = replace(TWO_BATCHES, jobs=(Job("b1", 0, tries=1), Job("b1", 0, tries=1)))


@dataclass(slots=True)
class Choices:
    """The choices of one run: those given, then always the first.

    Attributes:
        counts: how many there were to choose from, each time.
    """

    given: tuple[int, ...]
    counts: list[int] = field(default_factory=list)

    def choose(self, count: int) -> int:
        """Return the next choice."""
        place = len(self.counts)
        self.counts.append(count)
        return self.given[place] if place < len(self.given) else 0

    @property
    def is_new(self) -> bool:
        """Whether the next choice goes beyond what was given."""
        return len(self.counts) >= len(self.given)


@dataclass(slots=True)
class ChosenFaults(Faults):
    """At most one fault, by choice."""

    world: ExploredWorld | None = None
    left: int = 1

    def _choose(self, point: str, names: Sequence[str]) -> str:
        if not self.left or not self.active or self.world is None:
            return names[0]
        chosen = names[self.world.choose_fault(point, len(names))]
        if chosen != names[0]:
            self.left -= 1
            self.counts[chosen] += 1
        return chosen

    def stroke(self, point: str) -> str:
        """Return what strikes a process at a switch point."""
        if point in UNSEEN:
            return "nothing"
        if point in CLOCK_ONLY:
            return self._choose(point, ("nothing", "pause"))
        if point.startswith(("read ", "swap ")):  # forgetting matters to nobody before somebody asks
            return self._choose(point, ("nothing", "pause", "crash", "forget"))
        return self._choose(point, ("nothing", "pause", "crash"))

    def commit_fate(self) -> CommitFate:
        """Return what becomes of a commit."""
        return self._choose("commit", ("plain", "lost", "late"))  # type: ignore[return-value]

    def swap_fate(self) -> SwapFate:
        """Return what becomes of a swap."""
        return self._choose("swap", ("plain", "lost"))  # type: ignore[return-value]


@dataclass(slots=True)
class ExploredWorld(World):
    """A world whose every choice is given, and which knows when it has been here before."""

    choices: Choices = field(default_factory=lambda: Choices(()))
    visited: set[int] = field(default_factory=set)
    pruned: bool = False
    known: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        World.__post_init__(self)
        self.faults = ChosenFaults(FaultPlan(), self.seed, self.counts, world=self)
        self.checker.healthy = False
        self.scheduler.chooser = self.choices
        self.scheduler.quiet = QUIET
        self.scheduler.on_choice = self._before_choice
        self.scheduler.on_note = self._note

    def explore(self) -> None:
        """Run once."""
        assert self.scenario is not None
        spec, scheduler = self.kit.spec, self.scheduler
        for staging in self.scenario.stagings:
            self.parts.put(spec, batch=staging.batch, worker=staging.worker, columns=staging.columns, rows=staging.rows)
            (manifest,) = self.parts.parts(spec.name, staging.batch)
            self.checker.saw_staged(manifest, staging.rows)
            self.checker.saw_acknowledged(manifest)
        actors = []
        for number, job in enumerate(self.scenario.jobs):
            process = scheduler.process(f"p{number}")
            self.mortal.add(process.name)
            actors.append(
                scheduler.spawn(process, process.name, lambda p=process, j=job: _ignore(self.consolidate(p, j)))  # type: ignore[misc]
            )
        scheduler.spawn(scheduler.process("host"), "healer", lambda: self._heal(actors))
        scheduler.run()
        if not self.pruned and not self.checker.violations:
            self.checker.check_end(self.warehouse.database.tables[spec.name])

    def choose_fault(self, point: str, count: int) -> int:
        """Choose a fault, unless this state was seen before."""
        self._look(("fault", self.scheduler.current.name if self.scheduler.current else "", point))
        return 0 if self.pruned else self.choices.choose(count)

    def _strike(self, actor: Actor, point: str) -> None:
        if actor.process.name not in self.mortal or not isinstance(self.faults, ChosenFaults):
            return
        match self.faults.stroke(point):
            case "crash":
                self.scheduler.kill(actor.process)
            case "pause":
                self.scheduler.pause(actor.process, PAUSE_US)
            case "forget":
                self.checker.honest_leases = False
                self.locks.restore({})
                self.locks.clock.step(1)  # virtual time stands meanwhile, and no two grants share a moment

    def _before_choice(self, runnable: Sequence[Actor]) -> None:
        if len(runnable) > 1:
            self._look(("run", *(actor.name for actor in runnable)))

    def _note(self, actor: Actor, reply: object) -> None:
        name = actor.process.name
        self.known[name] = hash((self.known.get(name), actor.name, self.scheduler.now_us, repr(reply)))

    def _look(self, where: tuple[str, ...]) -> None:
        """Prune the run if it has come, by new choices, where another one has been."""
        if self.pruned or not self.choices.is_new:
            return
        state = hash((where, self._state()))
        if state in self.visited:
            self.pruned = self.scheduler.halted = True
        self.visited.add(state)

    def _state(self) -> tuple[object, ...]:
        scheduler = self.scheduler
        table = self.warehouse.database.tables[self.kit.spec.name]
        return (
            scheduler.now_us,
            tuple(sorted(self.known.items())),
            tuple(
                (actor.name, actor.point, actor.waiting, actor.wake_us) for actor in scheduler.actors if not actor.done
            ),
            tuple((process.alive, process.paused_until_us) for process in scheduler.processes.values()),
            repr(self.locks.copy()),
            repr((sorted(table.rows.values()), table.commit, table.guards, table.fences, table.ledger)),
            repr([(part.part_id, part.state) for batch in ("b1", "b1_x") for part in self.parts.parts("props", batch)]),
            self.faults.left if isinstance(self.faults, ChosenFaults) else 0,
        )


@dataclass(frozen=True, slots=True)
class Exploration:
    """What an exploration has found.

    Attributes:
        executions: runs, each from the start.
        states: different global states at which there was something to choose.
        complete: whether every choice was tried; False once it stopped at a violation or at the limit.
        violation: the first one, and the choices that lead to it.
    """

    executions: int
    states: int
    complete: bool
    seconds: float
    violation: Violation | None = None
    choices: tuple[int, ...] = ()
    trace: tuple[str, ...] = ()


def explore(
    *, kit: Kit | None = None, scenario: Scenario = TWO_BATCHES, max_executions: int = 1_000_000
) -> Exploration:
    """Try every choice, depth first, until a violation is found or nothing is left to try."""
    begun_s = time.monotonic()
    kit, visited = replace(kit or Kit(), settings=SHORT_LEASES), set[int]()
    stack: list[tuple[int, ...]] = [()]
    executions = 0
    while stack and executions < max_executions:
        given = stack.pop()
        world = ExploredWorld(0, kit, scenario, FaultPlan(), choices=Choices(given), visited=visited)
        world.explore()
        executions += 1
        if world.checker.violations:
            made = tuple((*given, *[0] * len(world.choices.counts))[: len(world.choices.counts)])
            return Exploration(
                executions=executions,
                states=len(visited),
                complete=False,
                seconds=time.monotonic() - begun_s,
                violation=world.checker.violations[0],
                choices=made,
                trace=replay(made, kit=kit, scenario=scenario),
            )
        made = (*given, *[0] * (len(world.choices.counts) - len(given)))
        for place in range(len(given), len(world.choices.counts)):
            stack += [(*made[:place], choice) for choice in range(1, world.choices.counts[place])]
    return Exploration(executions, len(visited), not stack, time.monotonic() - begun_s)


def replay(choices: Sequence[int], *, kit: Kit | None = None, scenario: Scenario = TWO_BATCHES) -> tuple[str, ...]:
    """Return the trace of the run with these choices."""
    world = ExploredWorld(
        0,
        replace(kit or Kit(), settings=SHORT_LEASES),
        scenario,
        FaultPlan(),
        tracing=True,
        choices=Choices(tuple(choices)),
    )
    world.explore()
    return tuple(world.scheduler.trace)


def _ignore(answer: object) -> None:
    """Drop an answer; the checker has seen it."""
