"""The end of a service that was told to stop: nothing new, and a bounded time for what runs."""

from __future__ import annotations

import time


class Drain:
    """When a service was told to stop, and how much time is left.

    Args:
        seconds: how long what runs may go on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline_s: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the service was told to stop."""
        return self._deadline_s is not None

    def begin(self) -> None:
        """Stop taking new work. Idempotent; safe to call from a signal handler."""
        if self._deadline_s is None:
            self._deadline_s = time.monotonic() + self.seconds

    def left_s(self) -> float:
        """Return the seconds that are left; all of them while nobody has told it to stop."""
        return self.seconds if self._deadline_s is None else max(0.0, self._deadline_s - time.monotonic())
