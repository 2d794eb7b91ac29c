"""A lock store in a Firestore database, in Native mode, Standard or Enterprise edition, or in its emulator.

A key is a document. A swap is one commit of one write with a precondition (``exists``, or the ``update_time`` that was
read), so that of several one succeeds; nothing is ever held open on the server. Versions are update times, which never
come back. The clock is the server's: the time of a read, the time of a commit. The local clock is only used to give up
waiting.

What is paid for: acquiring is one read and one write, each renewal one read and one write, releasing one write (one
delete, for a document of the incident's kind), a swap that is lost one read. Who waits pays a read when it is woken,
one for each change that its listener hears, and one for each poll.

A commit whose reply is lost is repeated with the same precondition, and found again by the version that it wrote. A TTL
policy on the collection does no harm: it may delete a record that was released, or one whose lease has ended; a token
is never below the server's clock, so that it grows over every deletion.

Source: https://firebase.google.com/docs/firestore/manage-data/transactions and
https://firebase.google.com/docs/firestore/ttl.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1.types import Document, Precondition, Write
from grpc import StatusCode

from onerow.adapters.locks.firestore_client import ANSWER_S, PAUSE_S, Connection, Place
from onerow.adapters.locks.firestore_documents import (
    COLLECTION,
    IDENTITY_ID,
    Layout,
    OwnLayout,
    SharedLayout,
    document_id,
    from_us,
    shared_layout,
    text_value,
    time_us,
    written_version,
)
from onerow.adapters.locks.firestore_errors import may_be_done, meaning
from onerow.adapters.locks.firestore_listener import Listeners
from onerow.adapters.locks.firestore_queries import keys_with, names_with
from onerow.errors import LockStoreError
from onerow.ports.lockstore import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.cloud.firestore_v1.types import Value

    from onerow.adapters.locks.firestore_client import Found

_POLL_S: Final = 3.0
_POLL_FIRST_S: Final = 0.05
_POLL_MAX_S: Final = 1.0
_SPREAD_S: Final = 0.01
_SPREAD_DOUBLINGS: Final = 4
_VERSION: Final = re.compile(r"[1-9]\d{0,15}")  # microseconds since the epoch, until the year 2286


class FirestoreLocks:
    """A register in a collection of a database; nothing has to be created. Safe to use from several threads.

    Args:
        place: the database.
        collection: where its documents are.
        shared: leases that live in documents which other programs know: the key of a table's leases without the
            partition, and the documents' name, as ``consolidation_locks/consolidation_{partition}``.
        answer_s: how long the service may take to answer.
    """

    def __init__(
        self,
        place: Place,
        *,
        collection: str = COLLECTION,
        shared: Mapping[str, str] | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._connection = Connection(place, answer_s=answer_s)
        self._collection = collection
        self._own = OwnLayout()
        self._shared = [shared_layout(stem, template) for stem, template in (shared or {}).items()]
        self._listeners = Listeners(self._connection)
        self._identity: str | None = None
        self._lost: dict[str, int] = {}
        self._guard = threading.Lock()

    def identity(self) -> str:
        """Return the identity that was written into the collection when it was asked for first."""
        if self._identity is None:
            name = self._connection.place.document(self._collection, IDENTITY_ID)
            document = self._connection.read(name).document or self._made(name)
            if "identity" not in document.fields:
                raise LockStoreError(f"The document {name} of the lock store is damaged: it tells no identity.")
            self._identity = document.fields["identity"].string_value
        return self._identity

    def read(self, key: str) -> Entry:
        """Return what ``key`` holds now."""
        name, layout = self._document(key)
        return _entry(key, layout, self._connection.read(name))

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Write ``value`` if the key's version is ``expected``, in one commit of one write."""
        if expected and not _VERSION.fullmatch(expected):
            return None  # no version of ours
        name, layout = self._document(key)
        if value is None and not expected:
            entry = self.read(key)
            return entry if entry.value is None else None
        expected_us, version = int(expected or 0), uuid.uuid4().hex
        fields = None
        if value is not None:
            fields = layout.fields(key, value, expected_us=expected_us, version=version)
        if fields is None and not expected_us:
            raise LockStoreError(f"The lease of {key!r} is released, but nothing holds it.")
        write = _delete(name, expected_us) if fields is None else _update(name, fields, expected_us)
        written = self._commit(write, name, expected_us, version="" if fields is None else version)
        if written is None:
            self._lose(key)
            return None
        self._leave(key, name)
        update_us, now_us = written
        return Entry(key, None, "", now_us) if fields is None else Entry(key, value, str(update_us), now_us)

    def entries(self, prefix: str) -> list[Entry]:
        """Return all keys with ``prefix``, sorted."""
        held: dict[str, Entry] = {}
        for found in self._connection.query(self._collection, keys_with(prefix)):
            if found.document is not None:
                key = found.document.fields["key"].string_value
                held[key] = _entry(key, self._own, found)
        for layout in self._shared:
            held.update((entry.key, entry) for entry in self._shared_entries(layout) if entry.key.startswith(prefix))
        return [held[key] for key in sorted(held)]

    def wait(self, key: str, *, version: str, timeout_s: float, waiter: str) -> None:
        """Return when the key's version has changed, told by a listener or found by a poll; "first to win".

        All who wait hear of a change at once. Those whose swaps have lost against others lately come after a moment,
        each another one, so that many waiters do not all ask for what one of them gets. A service that does not
        answer meanwhile is asked again until the time is over: whether it can be reached is for the caller's next
        question to find out.
        """
        deadline_s = time.monotonic() + timeout_s
        if timeout_s <= 0:
            return
        name, _ = self._document(key)
        with self._guard:
            self._lost.setdefault(key, 0)
        pause_s = _POLL_FIRST_S
        with self._listeners.lend(name) as listener:
            while (left_s := deadline_s - time.monotonic()) > 0:
                if listener.hears_other(version, min(_POLL_S if listener.lives else pause_s, left_s)):
                    break
                pause_s = min(pause_s * 2, _POLL_MAX_S)
                if time.monotonic() < deadline_s and self._has_changed(key, version):
                    break
        time.sleep(max(0.0, min(self._turn_s(key, waiter, version), deadline_s - time.monotonic())))

    def close(self) -> None:
        """Close this process's listeners and its channel."""
        self._listeners.close()
        self._connection.close()

    # --- documents ---------------------------------------------------------------------

    def _document(self, key: str) -> tuple[str, Layout]:
        """Return the full name of the document that holds ``key``, and what stands in it."""
        for layout in self._shared:
            shared_id = layout.document_id(key)
            if shared_id is not None:
                return self._connection.place.document(layout.collection, shared_id), layout
        return self._connection.place.document(self._collection, document_id(key)), self._own

    def _made(self, name: str) -> Document:
        """Return the document of the identity, which was not there: ours, or that of who was quicker."""
        version = uuid.uuid4().hex
        fields = {"identity": text_value(f"firestore:{version}"), "version": text_value(version)}
        unclear: LockStoreError | None = None
        try:
            self._commit(_update(name, fields, 0), name, 0, version=version)
        except LockStoreError as error:
            unclear = error
        document = self._connection.read(name).document
        if document is None:
            raise unclear or LockStoreError(f"The document {name} was made, and somebody has deleted it.")
        return document

    def _shared_entries(self, layout: SharedLayout) -> Iterator[Entry]:
        """Return the leases of one table that are in documents of the shared kind.

        Where several tables name one document, a lease is told under the table that holds it.
        """
        names = self._connection.place.document(layout.collection, layout.before)
        for found in self._connection.query(layout.collection, names_with(names if layout.before else "")):
            if found.document is None:
                continue
            key = layout.key(found.document.name.rpartition("/")[2])
            if key is not None:
                entry = _entry(key, layout, found)
                if entry.value is not None and key.endswith(f":{entry.value['scope']}"):
                    yield entry

    # --- writing -----------------------------------------------------------------------

    def _commit(self, write: Write, name: str, expected_us: int, *, version: str) -> tuple[int, int] | None:
        """Carry a write out once, however often it has to be asked for.

        Returns:
            The document's update time (0 after a delete) and the server's time; None if the precondition did not hold.

        Raises:
            LockStoreError: the service has refused, or nobody can tell whether it was carried out.
        """
        try_s = self._connection.try_s
        deadline_s, pause_s = time.monotonic() + self._connection.answer_s, PAUSE_S
        in_doubt = False
        while True:
            try:
                reply = self._connection.commit(write, max(min(try_s, deadline_s - time.monotonic()), PAUSE_S))
            except (GoogleAPICallError, GoogleAuthError) as error:
                last = error
            else:
                now_us = time_us(reply.commit_time)
                return (0 if "delete" in write else time_us(reply.write_results[0].update_time)), now_us
            if isinstance(last, GoogleAuthError) or meaning(last) == "final":
                raise self._connection.failure(last, _doing(write)) from last
            if meaning(last) != "again":
                break
            in_doubt = in_doubt or may_be_done(last)
            if deadline_s - time.monotonic() <= pause_s + try_s:
                break  # what is left is for reading
            time.sleep(pause_s)
            pause_s *= 2
        return self._settle(last, write, name, expected_us, version=version, in_doubt=in_doubt)

    def _settle(
        self, error: GoogleAPICallError, write: Write, name: str, expected_us: int, *, version: str, in_doubt: bool
    ) -> tuple[int, int] | None:
        """Find out what became of a write that was not confirmed: the document tells whose it is.

        Also where a precondition has failed at the first try: a request may have been carried out twice on its way,
        and what is answered is the second time.
        """
        found = self._connection.read(name, answer_s=self._connection.try_s)
        found_us = 0 if found.document is None else time_us(found.document.update_time)
        if found.document is not None and version and written_version(found.document) == version:
            return found_us, found.now_us
        if found_us == expected_us and error.grpc_status_code is not StatusCode.ALREADY_EXISTS:
            raise self._connection.failure(error, _doing(write)) from error
        if in_doubt:
            raise LockStoreError(
                f"Whether a change of the document {name} was carried out is not known: the reply was lost, and the "
                "document has changed since.",
                hint="Nothing is wrong with the data; a lease that was not given back ends by itself.",
            ) from error
        return None

    # --- waiting -----------------------------------------------------------------------

    def _has_changed(self, key: str, version: str) -> bool:
        try:
            return self.read(key).version != version
        except LockStoreError:
            return False  # not known; asked again after a pause, and by the caller

    def _turn_s(self, key: str, waiter: str, version: str) -> float:
        """Return when a waiter comes, after it was woken: at once, until it has lost; another moment at each change."""
        with self._guard:
            lost = self._lost.get(key, 0)
        if not lost:
            return 0.0
        drawn = hashlib.sha256(f"{waiter} {version}".encode()).digest()
        return _SPREAD_S * float(1 << lost) * (int.from_bytes(drawn[:4], "big") / 2**32)

    def _lose(self, key: str) -> None:
        """Take note that others want what we wait for."""
        with self._guard:
            if key in self._lost:
                self._lost[key] = min(self._lost[key] + 1, _SPREAD_DOUBLINGS)

    def _leave(self, key: str, name: str) -> None:
        """Who has written a key waits for it no longer."""
        with self._guard:
            waited = self._lost.pop(key, None) is not None
        if waited:
            self._listeners.drop(name)


def _entry(key: str, layout: Layout, found: Found) -> Entry:
    if found.document is None:
        return Entry(key, None, "", found.now_us)
    return Entry(key, layout.value(found.document), str(time_us(found.document.update_time)), found.now_us)


def _precondition(expected_us: int) -> Precondition:
    return Precondition(update_time=from_us(expected_us)) if expected_us else Precondition(exists=False)


def _update(name: str, fields: Mapping[str, Value], expected_us: int) -> Write:
    """Return the write that makes ``fields`` all that a document holds."""
    return Write(update=Document(name=name, fields=fields), current_document=_precondition(expected_us))


def _delete(name: str, expected_us: int) -> Write:
    return Write(delete=name, current_document=_precondition(expected_us))


def _doing(write: Write) -> str:
    """Say what a write does, and which permission it needs."""
    if "delete" in write:
        return "delete a document (datastore.entities.delete)"
    if "exists" in write.current_document:
        return "create a document (datastore.entities.create)"
    return "change a document (datastore.entities.update)"
