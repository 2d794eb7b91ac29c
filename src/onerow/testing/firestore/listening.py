"""Listeners: what a stream tells of its targets.

Rules: the comments of ``google.firestore.v1.ListenRequest``, ``Target``, ``TargetChange``, ``DocumentChange`` and
``ExistenceFilter``. A target is ADDed, its documents follow, then it is CURRENT with a resume token; a NO_CHANGE
without targets says that everything until its read time has been told. A target that is added with a resume token is
told only what has changed since, and the number of its documents.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Final

import grpc

from onerow.testing.firestore import queries
from onerow.testing.firestore.messages import ListenResponse, Refusal, TargetChange, timestamp
from onerow.testing.firestore.storage import KEPT_US, updated_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from onerow.testing.firestore.storage import Storage

HEARTBEAT_S: Final = 30.0
"""How often a stream says that nothing has changed."""

_END: Final = object()


class Target:
    """What somebody listens to, and what has been told of it.

    Attributes:
        told: the documents that were told, with their update times; 0 for one that is not there.
        told_us: the time until which everything was told.
    """

    def __init__(self, wanted: Any) -> None:
        self.identity = int(wanted.target_id)
        self._wanted = wanted
        self.kind = wanted.WhichOneof("target_type")
        if self.kind not in {"documents", "query"}:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "A target names documents or a query.")
        self.told: dict[str, int] = {}
        self.told_us = 0

    def found(self, storage: Storage, at_us: int) -> dict[str, Any | None]:
        """Return the target's documents at a time; None for one that is named and not there."""
        if self.kind == "documents":
            return {name: storage.get(name, at_us) for name in self._wanted.documents.documents}
        wanted = self._wanted.query
        found = queries.run(storage.documents(at_us), wanted.parent, wanted.structured_query)
        return {document.name: document for document in found}


class Stream:
    """One call of Listen: requests in, messages out, for as long as the caller stays."""

    def __init__(self, storage: Storage, *, count_reads: Callable[[int], None]) -> None:
        self._storage = storage
        self._count_reads = count_reads
        self._targets: dict[int, Target] = {}
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def serve(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Return the messages, as they come."""
        self._storage.subscribe(self._events.put)
        threading.Thread(target=self._receive, args=(requests,), name="listen-requests", daemon=True).start()
        try:
            while True:
                try:
                    event = self._events.get(timeout=HEARTBEAT_S)
                except queue.Empty:
                    yield self._settled(self._storage.read_us())
                    continue
                if event is _END:
                    return
                if isinstance(event, Refusal):
                    raise event
                yield from self._changes(event) if isinstance(event, int) else self._answer(event)
        finally:
            self._storage.unsubscribe(self._events.put)

    def end(self, refusal: Refusal | None = None) -> None:
        """Have the stream end, with a refusal if one is given."""
        self._events.put(refusal or _END)

    def _receive(self, requests: Iterable[Any]) -> None:
        try:
            for request in requests:
                self._events.put(request)
        except grpc.RpcError:
            self.end()  # the caller is gone

    def _answer(self, request: Any) -> Iterator[Any]:
        if request.WhichOneof("target_change") == "remove_target":
            self._targets.pop(request.remove_target, None)
            yield _target_change(TargetChange.REMOVE, [request.remove_target])
            return
        target = Target(request.add_target)
        self._targets[target.identity] = target
        yield _target_change(TargetChange.ADD, [target.identity])
        with self._storage.guard:
            at_us = self._storage.read_us()
            since_us = _since(request.add_target)
            if since_us and since_us < at_us - KEPT_US:
                yield _target_change(TargetChange.RESET, [target.identity])
                since_us = 0
            found = target.found(self._storage, at_us)
            if since_us:
                told = target.found(self._storage, since_us)
                target.told = {name: updated_us(document) for name, document in told.items()}
            messages = list(self._told(target, found, at_us))
        yield from messages
        if since_us:
            count = sum(document is not None for document in found.values())
            yield ListenResponse(filter={"target_id": target.identity, "count": count})
        yield _target_change(TargetChange.CURRENT, [target.identity], at_us)
        yield self._settled(at_us)

    def _changes(self, at_us: int) -> Iterator[Any]:
        """Tell what a commit has changed; nothing if it was another's."""
        messages: list[Any] = []
        for target in self._targets.values():
            if at_us <= target.told_us:
                continue  # it was added after this commit
            messages += self._told(target, target.found(self._storage, at_us), at_us)
        yield from messages
        if messages:
            yield self._settled(at_us)

    def _told(self, target: Target, found: dict[str, Any | None], at_us: int) -> Iterator[Any]:
        """Tell how a target differs from what was told of it, and take note."""
        sent, target.told_us = 0, at_us
        for name, document in found.items():
            if name in target.told and target.told[name] == updated_us(document):
                continue
            target.told[name] = updated_us(document)
            sent += 1
            if document is None:
                yield _gone("document_delete", name, target, at_us)
            else:
                yield ListenResponse(document_change={"document": document, "target_ids": [target.identity]})
        for name in [name for name in target.told if name not in found]:
            del target.told[name]
            there = self._storage.get(name, at_us) is not None
            yield _gone("document_remove" if there else "document_delete", name, target, at_us)
        self._count_reads(sent)

    def _settled(self, at_us: int) -> Any:
        return _target_change(TargetChange.NO_CHANGE, [], at_us)


def _since(target: Any) -> int:
    """Return the time that a target goes on from, microseconds; 0: from the beginning."""
    kind = target.WhichOneof("resume_type")
    if kind == "resume_token" and target.resume_token:
        return int.from_bytes(target.resume_token, "big")
    if kind == "read_time":
        raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "This double resumes by token only.")
    return 0


def _target_change(kind: int, targets: list[int], at_us: int = 0) -> Any:
    change = TargetChange(target_change_type=kind, target_ids=targets)
    if at_us:
        change.read_time.CopyFrom(timestamp(at_us))
        change.resume_token = at_us.to_bytes(8, "big")
    return ListenResponse(target_change=change)


def _gone(kind: str, name: str, target: Target, at_us: int) -> Any:
    gone = {"document": name, "removed_target_ids": [target.identity], "read_time": timestamp(at_us)}
    return ListenResponse(**{kind: gone})
