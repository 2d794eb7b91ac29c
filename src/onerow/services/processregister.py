"""A register of this process alone: where incidents are kept while the lock store cannot be reached."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from onerow.ports.lockstore import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.ports.clock import Clock

MICROSECONDS: Final = 1_000_000


class ProcessRegister:
    """Compare-and-swap in memory. It keeps nothing beyond the process, and nobody else sees it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[str, Mapping[str, Any]] = {}
        self._versions: dict[str, int] = {}
        self._guard = threading.Lock()

    def read(self, key: str) -> Entry:
        """Return what ``key`` holds now."""
        with self._guard:
            return self._entry(key)

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Write ``value`` if the key's version is ``expected``."""
        with self._guard:
            if self._entry(key).version != expected:
                return None
            self._versions[key] = self._versions.get(key, 0) + 1
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
            return self._entry(key)

    def entries(self, prefix: str) -> Sequence[Entry]:
        """Return all keys with ``prefix``, sorted."""
        with self._guard:
            return [self._entry(key) for key in sorted(self._values) if key.startswith(prefix)]

    def _entry(self, key: str) -> Entry:
        now_us = round(self._clock.utc_now().timestamp() * MICROSECONDS)
        if key not in self._values:
            return Entry(key, None, "", now_us)
        return Entry(key, self._values[key], str(self._versions[key]), now_us)
