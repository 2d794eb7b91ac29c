"""Documents in all their versions, and the clock that orders them.

Rules: "Firestore ... transactions are serializable ... and commit times are ordered" with read times beside them, so
that a read at a time sees every commit up to it and none after it; ``update_time`` rises strictly with every change
(https://firebase.google.com/docs/firestore/transaction-data-contention,
https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1#document).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow.testing.firestore.messages import Document, to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KEPT_US: Final = 300 * 1_000_000
"""How long old versions are kept: a transaction may read at its beginning, which is 270 s ago at most."""


@dataclass(frozen=True, slots=True)
class Version:
    """A document from a commit on; None: there is none from then on."""

    at_us: int
    document: Any | None


class Storage:
    """All documents of a server, by full name. ``guard`` is held for whatever must be seen as one moment."""

    def __init__(self) -> None:
        self.guard = threading.Condition(threading.RLock())
        self._versions: dict[str, list[Version]] = {}
        self._subscribers: list[Callable[[int], None]] = []
        self._told_us = 0

    # --- time --------------------------------------------------------------------------

    def read_us(self) -> int:
        """Return the time of a read that happens now: it sees all commits until now, and none will be earlier."""
        with self.guard:
            self._told_us = max(self._told_us, time.time_ns() // 1000)
            return self._told_us

    def commit_us(self) -> int:
        """Return the time of a commit that happens now: later than all that was told before."""
        with self.guard:
            self._told_us = max(self._told_us + 1, time.time_ns() // 1000)
            return self._told_us

    # --- documents ---------------------------------------------------------------------

    def get(self, name: str, at_us: int | None = None) -> Any | None:
        """Return a document as it is, or was at a time; None where there is none."""
        with self.guard:
            versions = self._versions.get(name, [])
            place = len(versions) if at_us is None else bisect_right(versions, at_us, key=lambda one: one.at_us)
            return versions[place - 1].document if place else None

    def documents(self, at_us: int | None = None) -> Iterator[Any]:
        """Return all documents in the order of their names."""
        with self.guard:
            found = [self.get(name, at_us) for name in sorted(self._versions, key=segments)]
        return (document for document in found if document is not None)

    def changed_since(self, at_us: int) -> list[str]:
        """Return the names of what has changed after a time."""
        with self.guard:
            return [name for name, versions in self._versions.items() if versions[-1].at_us > at_us]

    def put(self, changes: Mapping[str, Any | None], at_us: int) -> None:
        """Make documents what they are from a commit on, all at once, and tell who listens."""
        with self.guard:
            for name, document in changes.items():
                versions = self._versions.setdefault(name, [])
                versions.append(Version(at_us, document))
                while len(versions) > 1 and versions[1].at_us < at_us - KEPT_US:
                    del versions[0]
            self.guard.notify_all()
            for subscriber in list(self._subscribers):
                subscriber(at_us)

    # --- who listens -------------------------------------------------------------------

    def subscribe(self, subscriber: Callable[[int], None]) -> None:
        """Have ``subscriber`` called at every commit, in order, with its time."""
        with self.guard:
            self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: Callable[[int], None]) -> None:
        """Call it no longer."""
        with self.guard:
            self._subscribers.remove(subscriber)


def segments(name: str) -> list[bytes]:
    """Return what names are ordered by: segment for segment, by their bytes."""
    return [segment.encode() for segment in name.split("/")]


def parent_of(name: str) -> tuple[str, str]:
    """Return the parent of a document's collection, and the collection's id."""
    parent, collection, _ = name.rsplit("/", 2)
    return parent, collection


def updated_us(document: Any | None) -> int:
    """Return when a document was changed last; 0 where there is none."""
    return 0 if document is None else to_us(document.update_time)


def copy_of(document: Any | None, name: str) -> Any:
    """Return a copy to be changed; an empty document where there was none."""
    made = Document(name=name)
    if document is not None:
        made.CopyFrom(document)
    return made
