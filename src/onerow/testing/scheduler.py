"""A deterministic scheduler: simulated processes in virtual time, one actor running at a time.

An actor is a greenlet. It runs until it reaches a switch point; then the scheduler chooses who is next, by
a chooser: seeded chance, or a given list of choices. Virtual time jumps only when everybody who could run
waits. Nothing else happens between two switch points, so a seed determines a run, byte for byte.

A process has a main actor and the actors of its background work. It can be killed (its actors end at
once, without their ``finally`` reaching the outside world) and paused (all of them stand still while time
and the others go on).
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import greenlet

from onerow.testing.virtual import EPOCH, MICROSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

MAX_STEPS = 200_000
JOIN_US = 3_600 * MICROSECONDS


class ProcessKilled(BaseException):
    """The process of this actor was killed; no ``except Exception`` may catch it."""


class StuckError(Exception):
    """The run does not end: everybody waits for ever, or somebody never stops."""


class Chooser(Protocol):
    """Decides who is next."""

    def choose(self, count: int) -> int:
        """Return a number from 0 to below ``count``."""
        ...


class SeededChooser:
    """Chance by seed."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(f"schedule:{seed}")

    def choose(self, count: int) -> int:
        """Return a number by chance."""
        return int(self._random.random() * count)


class ListChooser:
    """Given choices, then always the first; remembers how many there were to choose from."""

    def __init__(self, choices: Sequence[int] = ()) -> None:
        self._choices = choices
        self.counts: list[int] = []

    def choose(self, count: int) -> int:
        """Return the next given choice."""
        place = len(self.counts)
        self.counts.append(count)
        return self._choices[place] if place < len(self._choices) else 0


@dataclass(slots=True)
class Process:
    """A simulated process.

    Attributes:
        drift_ppm: how much faster than virtual time its monotonic clock runs.
        paused_until_us: its actors stand still until then.
        alive: False once it was killed.
    """

    name: str
    drift_ppm: int = 0
    paused_until_us: int = 0
    alive: bool = True


@dataclass(slots=True, eq=False)
class Actor:
    """One flow of a process. Waits until ``wake_us`` or until ``ready`` says so; neither: it can run."""

    number: int
    name: str
    process: Process
    flow: greenlet.greenlet
    wake_us: int | None = None
    ready: Callable[[], bool] | None = None
    done: bool = False
    daemon: bool = False
    waiting: bool = False
    unwanted: bool = False
    point: str = "start"


@dataclass(slots=True)
class Scheduler:
    """Runs actors. See the module.

    Attributes:
        now_us: virtual time.
        trace: what happened, one line an event, if tracing is on.
        on_switch: called in the actor at every switch point, before anybody else may run.
        on_choice: called before each choice, with who can run.
        on_note: called with every reply that an actor is given.
        halted: set it to end the run at the next step.
        quiet: switch points at which nobody else gets to run, unless a fault strikes there.
    """

    chooser: Chooser
    tracing: bool = False
    now_us: int = 0
    steps: int = 0
    actors: list[Actor] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    on_switch: Callable[[Actor, str], None] | None = None
    on_choice: Callable[[Sequence[Actor]], None] | None = None
    on_note: Callable[[Actor, object], None] | None = None
    current: Actor | None = None
    halted: bool = False
    quiet: Container[str] = ()
    _hub: greenlet.greenlet | None = None
    _spawned: int = 0

    # --- for actors ------------------------------------------------------------------------

    def switch(self, point: str) -> None:
        """Let others run, perhaps."""
        actor = self._me()
        if not actor.process.alive:
            raise ProcessKilled
        actor.point = point
        if self.tracing:
            self.log(point)
        if self.on_switch is not None:
            self.on_switch(actor, point)
        if point not in self.quiet or not actor.process.alive or actor.process.paused_until_us > self.now_us:
            self._yield(actor)

    def sleep_us(self, microseconds: int, point: str = "sleep") -> None:
        """Wait."""
        self.wait_until(None, microseconds, point)

    def wait_until(self, ready: Callable[[], bool] | None, timeout_us: int, point: str) -> None:
        """Wait until ``ready`` says so, or for so long."""
        actor = self._me()
        if not actor.process.alive:
            raise ProcessKilled
        actor.point = point
        actor.wake_us = self.now_us + max(timeout_us, 0)
        actor.ready = ready
        actor.waiting = True
        if self.tracing:
            self.log(f"{point} {timeout_us} us")
        try:
            if self.on_switch is not None:
                self.on_switch(actor, point)
            self._yield(actor)
        finally:
            actor.waiting, actor.wake_us, actor.ready = False, None, None

    def note(self, reply: object) -> None:
        """Remember that whoever runs has been told something; what it knows decides what it does next."""
        if self.on_note is not None:
            self.on_note(self._me(), reply)

    def log(self, text: str) -> None:
        """Write a line into the trace."""
        if self.tracing:
            who = self.current.name if self.current is not None else "-"
            self.trace.append(f"{self.now_us:>12} {who:<14} {text}")

    # --- for who sets the stage ------------------------------------------------------------

    def process(self, name: str) -> Process:
        """Return the process of this name, started if it is new."""
        if name not in self.processes:
            self.processes[name] = Process(name)
        return self.processes[name]

    def spawn(
        self, process: Process, name: str, work: Callable[[], None], *, after_us: int = 0, daemon: bool = False
    ) -> Actor:
        """Start an actor; a daemon does not keep the run from ending."""
        parent = self._hub or greenlet.getcurrent()  # else an actor's child would return into the actor
        self._spawned += 1
        flow = greenlet.greenlet(lambda: self._run(actor, work), parent)
        actor: Actor = Actor(self._spawned, name, process, flow)
        actor.daemon = daemon
        if after_us:
            actor.wake_us, actor.waiting = self.now_us + after_us, True
        self.actors.append(actor)
        return actor

    def kill(self, process: Process) -> None:
        """Kill a process: its actors end the next time they would run; nothing they do reaches the world."""
        process.alive = False
        process.paused_until_us = 0
        self.log(f"KILL {process.name}")

    def pause(self, process: Process, microseconds: int) -> None:
        """Let all actors of a process stand still."""
        process.paused_until_us = max(process.paused_until_us, self.now_us + microseconds)
        self.log(f"PAUSE {process.name} {microseconds} us")

    def run(self) -> None:
        """Run until every actor that is no daemon has ended.

        Raises:
            StuckError: that does not happen.
            Exception: whatever an actor let out.
        """
        self._hub = greenlet.getcurrent()
        try:
            while not self.halted:
                runnable = self._runnable()
                if runnable is None:
                    return
                if not runnable:
                    self._jump()
                    continue
                self.steps += 1
                if self.steps > MAX_STEPS:
                    raise StuckError(f"still running after {MAX_STEPS} steps")
                if self._is_known(runnable):
                    return
                chosen = self.chooser.choose(len(runnable)) if len(runnable) > 1 else 0
                self._resume(runnable[chosen])
        finally:
            self._end_all()

    # --- inside ----------------------------------------------------------------------------

    def _me(self) -> Actor:
        if self.current is None:
            raise StuckError("a switch point was reached outside of any actor")
        return self.current

    def _is_known(self, runnable: Sequence[Actor]) -> bool:
        """Show who can run to whoever wants to know; say whether that has ended the run."""
        if self.on_choice is not None:
            self.on_choice(runnable)
        return self.halted

    def _yield(self, actor: Actor) -> None:
        if self._hub is not None:
            self._hub.switch()
        if actor.unwanted or not actor.process.alive:
            raise ProcessKilled

    def _runnable(self) -> list[Actor] | None:
        """Return who can run, those of dead processes first of all; None when all is done."""
        runnable: list[Actor] = []
        left = False
        for actor in self.actors:
            if actor.done:
                continue
            if actor.unwanted or not actor.process.alive:
                self._resume(actor)  # it ends here, with no effect on anybody
                return self._runnable()
            left = left or not actor.daemon
            if actor.process.paused_until_us > self.now_us:
                continue
            if (
                not actor.waiting
                or (actor.wake_us is not None and actor.wake_us <= self.now_us)
                or (actor.ready is not None and actor.ready())
            ):
                runnable.append(actor)
        if not left:
            return None
        if len(self.actors) > 64:
            self.actors = [actor for actor in self.actors if not actor.done]
        return runnable

    def _jump(self) -> None:
        """Let virtual time jump to the next moment at which somebody can run."""
        moments = [
            max(actor.wake_us if actor.waiting and actor.wake_us is not None else 0, actor.process.paused_until_us)
            for actor in self.actors
            if not actor.done
        ]
        later = [moment for moment in moments if moment > self.now_us]
        if not later:
            raise StuckError("everybody waits for ever")
        self.now_us = min(later)

    def _resume(self, actor: Actor) -> None:
        before, self.current = self.current, actor
        try:
            actor.flow.switch()
        finally:
            self.current = before

    def _run(self, actor: Actor, work: Callable[[], None]) -> None:
        actor.waiting, actor.wake_us = False, None
        try:
            if actor.process.alive:
                work()
        except ProcessKilled:
            self.log(f"ended {actor.name}")
        finally:
            actor.done = True

    def _end_all(self) -> None:
        """Unwind whoever is left, so that no greenlet outlives its run."""
        for actor in self.actors:
            if not actor.done:
                actor.process.alive = False
                self._resume(actor)


@dataclass(slots=True)
class SimulatedClock:
    """The clock of a simulated process; it drifts as the process's does."""

    scheduler: Scheduler
    process: Process

    def monotonic_s(self) -> float:
        """Return seconds of the process's monotonic clock."""
        if not self.process.alive:
            raise ProcessKilled
        now_us = self.scheduler.now_us
        return (now_us + now_us * self.process.drift_ppm / 1_000_000) / MICROSECONDS

    def sleep_s(self, seconds: float) -> None:
        """Wait in virtual time, measured by the process's own clock."""
        self.scheduler.sleep_us(round(seconds * MICROSECONDS * 1_000_000 / (1_000_000 + self.process.drift_ppm)))

    def utc_now(self) -> dt.datetime:
        """Return the wall clock's time."""
        return EPOCH + dt.timedelta(microseconds=self.scheduler.now_us)


@dataclass(slots=True)
class _KeeperTask:
    scheduler: Scheduler
    process: Process
    running: bool = True
    busy: bool = False
    actor: Actor | None = None

    def stop(self) -> None:
        """Stop it, and wait until what it is doing has ended, as joining a thread does."""
        if not self.process.alive:
            raise ProcessKilled
        self.running = False
        if self.busy:
            self.scheduler.wait_until(lambda: not self.busy, JOIN_US, "join keeper")
        elif self.actor is not None:
            self.actor.unwanted = True


@dataclass(slots=True)
class SimulatedBackground:
    """Background work as actors of the same process."""

    scheduler: Scheduler
    process: Process
    made: int = 0

    def every(self, seconds: float, work: Callable[[], bool], *, name: str) -> _KeeperTask:
        """Start an actor that calls ``work`` every so many seconds."""
        task = _KeeperTask(self.scheduler, self.process)
        self.made += 1

        def keep() -> None:
            while True:
                self.scheduler.wait_until(None, round(seconds * MICROSECONDS), f"{name} waits")
                task.busy = True
                try:
                    if not work() or not task.running:
                        return
                finally:
                    task.busy = False

        task.actor = self.scheduler.spawn(self.process, f"{self.process.name}/k{self.made}", keep, daemon=True)
        return task
