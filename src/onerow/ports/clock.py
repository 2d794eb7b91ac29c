"""Time, chance and background work, from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable


class Clock(Protocol):
    """Time of this process."""

    def monotonic_s(self) -> float:
        """Return seconds of a clock that never steps back and runs on while the machine sleeps."""
        ...

    def sleep_s(self, seconds: float) -> None:
        """Wait."""
        ...

    def utc_now(self) -> dt.datetime:
        """Return the wall clock's time in UTC. For people to read; never compared."""
        ...


class Ids(Protocol):
    """Chance."""

    def new_id(self, prefix: str) -> str:
        """Return an identity that nobody else has."""
        ...

    def jitter(self) -> float:
        """Return a number from 0 to 1, by chance."""
        ...


class Task(Protocol):
    """Background work that was started."""

    def stop(self) -> None:
        """Stop it and wait until it has ended. Idempotent."""
        ...


class Background(Protocol):
    """Work beside the main flow."""

    def every(self, seconds: float, work: Callable[[], bool], *, name: str) -> Task:
        """Call ``work`` every so many seconds until it returns False or the task is stopped."""
        ...


class Cancellation(Protocol):
    """A signal that work should not be brought to its end."""

    def raise_if_cancelled(self) -> None:
        """Raise a FencedError if the work must not commit any more; the cheap question before a commit."""
        ...

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        """Have ``interrupt`` called, from any thread, when the signal comes; None: no longer."""
        ...
