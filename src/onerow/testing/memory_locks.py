"""A lock store in memory: the reference of the port, with a clock that can be made to lie."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onerow.ports.lockstore import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Records = dict[str, tuple[str, str | None]]
"""What the register holds by key: version, and the value as JSON (None: deleted)."""

START_US = 1_768_093_594_538_000  # 2026-01-11 01:06:34.538 UTC: when the incident began


@dataclass(slots=True)
class StoreClock:
    """The clock of a lock store: a base that runs evenly, a rate that drifts, an offset that steps.

    Attributes:
        base_us: the time that everything is derived from, microseconds.
        drift_ppm: how much faster than the base it runs, parts per million.
        offset_us: where it stands beside the base.
    """

    base_us: Callable[[], int]
    drift_ppm: int = 0
    offset_us: int = START_US

    def now_us(self) -> int:
        """Return what the clock shows."""
        base_us = self.base_us()
        return base_us + base_us * self.drift_ppm // 1_000_000 + self.offset_us

    def step(self, step_us: int) -> None:
        """Set the clock forward, or back if negative."""
        self.offset_us += step_us

    def set_drift(self, drift_ppm: int) -> None:
        """Let it run faster from now on, without a jump."""
        base_us = self.base_us()
        self.offset_us += base_us * self.drift_ppm // 1_000_000 - base_us * drift_ppm // 1_000_000
        self.drift_ppm = drift_ppm


def monotonic_us() -> int:
    """Return microseconds of this machine's monotonic clock: a base for a StoreClock outside a simulation."""
    return time.monotonic_ns() // 1_000


class MemoryLocks:
    """A register in memory. Safe to use from several threads.

    Values pass through JSON, as with every store that keeps them outside the process.
    """

    def __init__(self, *, identity: str = "memory:locks", clock: StoreClock | None = None) -> None:
        self._identity = identity
        self.clock = clock or StoreClock(monotonic_us)
        self._records: Records = {}
        self._writes = 0
        self._changed = threading.Condition()

    def identity(self) -> str:
        """Return the identity that this store was given when it was made."""
        return self._identity

    def read(self, key: str) -> Entry:
        """Return what ``key`` holds now."""
        with self._changed:
            return self._entry(key)

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Write ``value`` if the key's version is ``expected``."""
        text = None if value is None else json.dumps(value, ensure_ascii=False)
        with self._changed:
            if self._entry(key).version != expected:
                return None
            self._writes += 1
            self._records[key] = (str(self._writes), text)
            self._changed.notify_all()
            return self._entry(key)

    def entries(self, prefix: str) -> Sequence[Entry]:
        """Return all keys with ``prefix`` that hold a value, sorted."""
        with self._changed:
            held = (key for key, (_, text) in self._records.items() if text is not None)
            return [self._entry(key) for key in sorted(held) if key.startswith(prefix)]

    def wait(self, key: str, *, version: str, timeout_s: float, waiter: str) -> None:  # noqa: ARG002
        """Return when ``key`` has another version; all waiters are woken at once."""
        with self._changed:
            self._changed.wait_for(lambda: self._entry(key).version != version, timeout_s)

    def close(self) -> None:
        """There is nothing to let go of."""

    # --- what a simulation does to it ------------------------------------------------------

    def version(self, key: str) -> str:
        """Return the key's version, without a look at the value."""
        version, text = self._records.get(key, ("", None))
        return "" if text is None else version

    def copy(self) -> Records:
        """Return a copy of all records, as a backup would hold it."""
        with self._changed:
            return dict(self._records)

    def restore(self, records: Records) -> None:
        """Put an old copy back: old versions and old tokens come back with it."""
        with self._changed:
            self._records = dict(records)
            self._changed.notify_all()

    def _entry(self, key: str) -> Entry:
        version, text = self._records.get(key, ("", None))
        if text is None:
            return Entry(key, None, "", self.clock.now_us())
        return Entry(key, json.loads(text), version, self.clock.now_us())
