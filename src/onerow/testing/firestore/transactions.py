"""Transactions, optimistic and pessimistic, and the commit that both end with.

Rules (https://firebase.google.com/docs/firestore/transaction-data-contention and
https://firebase.google.com/docs/firestore/understand-transactions-at-scale): pessimistic transactions (Standard
edition) keep others from writing what they have read until they end; who waits longer than the lock deadline, or in a
circle, is ABORTED. Optimistic ones (Enterprise edition) read at one moment and are ABORTED at their commit if anything
that they have read has changed since. Both end 270 s after their beginning, and when idle for 60 s.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from onerow.testing.firestore import writes
from onerow.testing.firestore.messages import Refusal
from onerow.testing.firestore.storage import parent_of, updated_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onerow.testing.firestore.storage import Storage

LONGEST_S: Final = 270.0
IDLE_S: Final = 60.0
LOCK_DEADLINE_S: Final = 20.0
CONTENTION: Final = "Too much contention on these documents. Please try again."


@dataclass(slots=True)
class Transaction:
    """What is known of one while it runs.

    Attributes:
        read_us: when it reads, if it is optimistic; None: it reads what is there and keeps it.
        seen: the update times of the documents that it has read, 0 for one that was not there.
        ranges: the collections that it has queried, each with the time.
    """

    read_only: bool
    read_us: int | None
    began_s: float
    used_s: float
    seen: dict[str, int] = field(default_factory=dict)
    ranges: dict[tuple[str, str], int] = field(default_factory=dict)
    waits: bool = False

    @property
    def expired(self) -> bool:
        """Whether it has ended by its time limits."""
        now_s = time.monotonic()
        return now_s - self.began_s > LONGEST_S or now_s - self.used_s > IDLE_S


class Transactions:
    """Those of a server that run."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._running: dict[bytes, Transaction] = {}

    def begin(self, options: Any, *, optimistic: bool) -> bytes:
        """Begin one and return its id."""
        identity, now_s = uuid.uuid4().bytes, time.monotonic()
        read_only = options.WhichOneof("mode") == "read_only"
        with self._storage.guard:
            read_us = self._storage.read_us() if optimistic or read_only else None
            self._running[identity] = Transaction(read_only, read_us, now_s, now_s)
        return identity

    def end(self, identity: bytes) -> None:
        """Give up what it kept."""
        with self._storage.guard:
            self._take(identity)
            del self._running[identity]
            self._storage.guard.notify_all()

    def read(self, identity: bytes, name: str) -> tuple[Any | None, int]:
        """Return a document as a transaction reads it, and the time of that."""
        with self._storage.guard:
            transaction = self._take(identity)
            at_us = self._read_us(transaction)
            document = self._storage.get(name, at_us)
            transaction.seen[name] = updated_us(document)
            return document, at_us

    def read_all(self, identity: bytes, parent: str, collection: str) -> tuple[list[Any], int]:
        """Return all documents, for a query that a transaction makes on a collection, and the time of that."""
        with self._storage.guard:
            transaction = self._take(identity)
            at_us = self._read_us(transaction)
            transaction.ranges[parent, collection] = at_us
            return list(self._storage.documents(at_us)), at_us

    def commit(self, wanted: Sequence[Any], identity: bytes, *, preconditions: bool) -> tuple[int, list[Any]]:
        """Carry writes out all together or, with a refusal, none: "atomic batches".

        Returns:
            The time of the commit, and what is told of each write.
        """
        names = {writes.name_of(write) for write in wanted}
        with self._storage.guard:
            transaction = self._take(identity) if identity else None
            if transaction is not None and transaction.read_only and wanted:
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "Cannot modify entities in a read-only transaction.")
            try:
                self._wait_for(names, transaction)
                if transaction is not None:
                    self._check_reads(transaction)
            finally:
                self._running.pop(identity, None)  # "a transaction that could not be committed is rolled back"
                self._storage.guard.notify_all()
            staged: dict[str, Any | None] = {}
            results = []
            commit_us = self._storage.commit_us()
            for write in wanted:
                name = writes.name_of(write)
                current = staged[name] if name in staged else self._storage.get(name)
                if preconditions:
                    writes.check(write, current, commit_us)
                staged[name], result = writes.apply(write, current, commit_us)
                results.append(result)
            changes = {
                name: document
                for name, document in staged.items()
                if updated_us(document) != updated_us(self._storage.get(name))
            }
            self._storage.put(changes, commit_us)
            return commit_us, results

    def _take(self, identity: bytes) -> Transaction:
        transaction = self._running.get(identity)
        if transaction is None or transaction.expired:
            self._running.pop(identity, None)
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "The transaction has expired or is no longer valid.")
        transaction.used_s = time.monotonic()
        return transaction

    def _read_us(self, transaction: Transaction) -> int:
        return self._storage.read_us() if transaction.read_us is None else transaction.read_us

    def _wait_for(self, names: Iterable[str], own: Transaction | None) -> None:
        """Wait until no other pessimistic transaction keeps what is to be written."""
        deadline_s = time.monotonic() + LOCK_DEADLINE_S

        def others() -> list[Transaction]:
            return [
                one
                for one in self._running.values()
                if one is not own and one.read_us is None and not one.expired and _keeps(one, names)
            ]

        while blockers := others():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or (own is not None and any(one.waits for one in blockers)):
                raise Refusal(grpc.StatusCode.ABORTED, CONTENTION)
            if own is not None:
                own.waits = True
            self._storage.guard.wait(min(left_s, 0.1))

    def _check_reads(self, transaction: Transaction) -> None:
        for name, seen_us in transaction.seen.items():
            if updated_us(self._storage.get(name)) != seen_us:
                raise Refusal(grpc.StatusCode.ABORTED, CONTENTION)
        for (parent, collection), at_us in transaction.ranges.items():
            if any(parent_of(name) == (parent, collection) for name in self._storage.changed_since(at_us)):
                raise Refusal(grpc.StatusCode.ABORTED, CONTENTION)


def _keeps(transaction: Transaction, names: Iterable[str]) -> bool:
    return any(name in transaction.seen or parent_of(name) in transaction.ranges for name in names)
