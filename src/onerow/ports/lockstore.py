"""The lock store: a small register with compare-and-swap. It knows nothing of leases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Entry:
    """What a key holds.

    Attributes:
        version: changes with every write to the key and never comes back; "" when there is no value.
        now_us: the store's clock when it answered, microseconds.
    """

    key: str
    value: Mapping[str, Any] | None
    version: str
    now_us: int


class LockStore(Protocol):
    """A register.

    Every method raises LockStoreError when the store cannot be reached or fails; a swap that
    raises may or may not have happened, and the caller reads back.
    """

    def identity(self) -> str:
        """Return the identity that this store was given when it was made."""
        ...

    def read(self, key: str) -> Entry:
        """Return what ``key`` holds now."""
        ...

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Write ``value`` if the key's version is ``expected`` ("": if it holds nothing).

        Returns:
            The new entry; None if the version is another one, and nothing was written.

        Guarantee: atomic; of several swaps that expect one version at most one succeeds.
        """
        ...

    def entries(self, prefix: str) -> Sequence[Entry]:
        """Return all keys with ``prefix``, sorted."""
        ...

    def wait(self, key: str, *, version: str, timeout_s: float, waiter: str) -> None:
        """Return when ``key`` has another version than ``version``, or after ``timeout_s``.

        May return early. Of several waiters, by ``waiter``, those who came first are woken first, roughly.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
