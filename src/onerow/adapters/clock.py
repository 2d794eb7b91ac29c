"""Time, chance and background work of a real process."""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# CLOCK_BOOTTIME runs on while the machine is suspended, CLOCK_MONOTONIC does not: a lease
# must not look fresh to a laptop that has slept.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The clock of this process."""

    def monotonic_s(self) -> float:
        """Return seconds since the machine was started."""
        return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)

    def sleep_s(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(seconds, 0.0))

    def utc_now(self) -> dt.datetime:
        """Return the wall clock's time in UTC."""
        return dt.datetime.now(dt.UTC)


class SystemIds:
    """Identities and chance from the operating system."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def new_id(self, prefix: str) -> str:
        """Return ``prefix`` and 128 bits of chance."""
        return prefix + uuid.uuid4().hex

    def jitter(self) -> float:
        """Return a number from 0 to 1."""
        return self._random.random()


@dataclass
class _ThreadTask:
    seconds: float
    work: Callable[[], bool]
    name: str
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self.seconds):
            if not self.work():
                return

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


class Threads:
    """Background work on daemon threads."""

    def every(self, seconds: float, work: Callable[[], bool], *, name: str) -> _ThreadTask:
        """Call ``work`` every so many seconds until it returns False or the task is stopped."""
        task = _ThreadTask(seconds, work, name)
        task.start()
        return task
