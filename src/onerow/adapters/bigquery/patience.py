"""Waiting with a deadline."""

from __future__ import annotations

import random
import time
from typing import Final

from google.api_core.retry import Retry

FIRST_WAIT_S: Final = 0.25
LONGEST_WAIT_S: Final = 8.0
ONCE: Final = Retry(predicate=lambda _: False)
"""What the client library is to do by itself about an error: nothing."""


class Patience:
    """A deadline, and ever longer waits until then."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._wait_s = FIRST_WAIT_S

    @property
    def left_s(self) -> float:
        """How much time is left; negative after the deadline."""
        return self._deadline_s - time.monotonic()

    def wait(self) -> bool:
        """Wait a while; return False, at once, if the deadline has passed."""
        left_s = self.left_s
        if left_s <= 0:
            return False
        time.sleep(min(left_s, self._wait_s * random.uniform(0.5, 1.0)))  # noqa: S311 -- spreads calls, no secret
        self._wait_s = min(LONGEST_WAIT_S, self._wait_s * 2)
        return True
