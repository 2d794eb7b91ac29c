"""Time, chance and background work that a test moves by hand. No threads, no waiting."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow.testing.memory_locks import MemoryLocks

EPOCH = dt.datetime(2026, 1, 11, 1, 6, 34, 538_000, tzinfo=dt.UTC)
MICROSECONDS = 1_000_000


class SeededIds:
    """Identities and chance from a seed. Identities carry a prefix of the process, so they differ."""

    def __init__(self, seed: int | str, *, process: str = "") -> None:
        self._random = random.Random(f"ids:{seed}:{process}")
        self._process = process
        self._made = 0

    def new_id(self, prefix: str) -> str:
        """Return ``prefix``, the process and a number."""
        self._made += 1
        return f"{prefix}-{self._process}-{self._made}"

    def jitter(self) -> float:
        """Return a number from 0 to 1."""
        return self._random.random()


@dataclass(slots=True)
class VirtualTask:
    """Background work that runs when the time comes."""

    seconds: float
    work: Callable[[], bool]
    name: str
    next_us: int
    running: bool = True

    def stop(self) -> None:
        """Stop it."""
        self.running = False


@dataclass(slots=True)
class VirtualTime:
    """A clock that stands until somebody sleeps or ``advance``s it; due background work runs on the way.

    It is a Clock and a Background at once, for one process in one thread. The simulation has its own
    (``scheduler``), where several processes share the time.
    """

    now_us: int = 0
    tasks: list[VirtualTask] = field(default_factory=list)

    def monotonic_s(self) -> float:
        """Return seconds since it was made."""
        return self.now_us / MICROSECONDS

    def sleep_s(self, seconds: float) -> None:
        """Let time go on."""
        self.advance(seconds)

    def utc_now(self) -> dt.datetime:
        """Return a wall clock that begins when the incident did."""
        return EPOCH + dt.timedelta(microseconds=self.now_us)

    def every(self, seconds: float, work: Callable[[], bool], *, name: str) -> VirtualTask:
        """Call ``work`` every so many seconds while time goes on."""
        task = VirtualTask(seconds, work, name, self.now_us + round(seconds * MICROSECONDS))
        self.tasks.append(task)
        return task

    def advance(self, seconds: float, *, background: bool = True) -> None:
        """Let ``seconds`` pass; without ``background`` as in a process that is frozen."""
        until_us = self.now_us + max(round(seconds * MICROSECONDS), 0)
        while background:
            due = [task for task in self.tasks if task.running and task.next_us <= until_us]
            if not due:
                break
            task = min(due, key=lambda task: task.next_us)
            self.now_us = max(self.now_us, task.next_us)
            task.next_us += max(round(task.seconds * MICROSECONDS), 1)
            task.running = task.work() and task.running
        self.now_us = max(self.now_us, until_us)


def wait_in_virtual_time(store: MemoryLocks, time: VirtualTime) -> None:
    """Let ``store.wait`` move ``time`` on instead of blocking the thread."""

    def wait(key: str, *, version: str, timeout_s: float, waiter: str) -> None:  # noqa: ARG001
        if store.version(key) == version:
            time.advance(timeout_s)

    store.wait = wait  # type: ignore[method-assign]
