"""How often to try again, and how long to wait in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onerow.ports.clock import Clock, Ids


@dataclass(frozen=True, slots=True)
class Budget:
    """How often to try again. Waits grow twofold from ``backoff_s`` to ``max_backoff_s``, with jitter."""

    max_attempts: int = 12
    max_resolve_attempts: int = 6
    backoff_s: float = 0.02
    max_backoff_s: float = 2.0

    def back_off(self, tried: int, *, clock: Clock, ids: Ids) -> None:
        """Wait before the next attempt; ``tried`` have failed."""
        wait_s = min(self.backoff_s * 2**tried, self.max_backoff_s)
        clock.sleep_s(wait_s * (0.5 + ids.jitter()))
