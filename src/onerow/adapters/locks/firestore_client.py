"""Calls to Firestore: each with a bound on its time, repeated where that is safe, by our rules and not the library's.

The library's generated client (``FirestoreClient``) is used, and not the comfortable one above it: here it matters
which call is repeated (the library repeats commits by itself), when a channel connects again (after two minutes, if
nobody says otherwise), and at which time of the server a document was read.

No server transaction is ever opened, so that it does not matter whether a database has pessimistic ones (Standard
edition) or optimistic ones (Enterprise edition).

Source: https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1 and
https://grpc.github.io/grpc/core/group__grpc__arg__keys.html.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport
from google.cloud.firestore_v1.types import (
    BatchGetDocumentsRequest,
    CommitRequest,
    CommitResponse,
    Document,
    ListenRequest,
    RunQueryRequest,
    StructuredQuery,
    Write,
)

from onerow.adapters.locks.firestore_documents import time_us
from onerow.adapters.locks.firestore_errors import failure, meaning
from onerow.errors import LockStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.cloud.firestore_v1.types import Target

EMULATOR_VARIABLE: Final = "FIRESTORE_EMULATOR_HOST"
ANSWER_S: Final = 5.0
"""How long a call may take with all its repetitions; a service that nobody hears of is an error then, not a hang."""

TRY_SHARE: Final = 0.3
"""How much of that one try may take."""

PAUSE_S: Final = 0.05
LISTEN_S: Final = 600.0

_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_READ: Final = "read a document (datastore.entities.get)"
_LIST: Final = "list documents (datastore.entities.list)"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Place:
    """Which database is asked.

    Attributes:
        emulator: host and port of an emulator; "": the real service, or what FIRESTORE_EMULATOR_HOST names.
    """

    project: str
    database: str = "(default)"
    emulator: str = ""

    @property
    def path(self) -> str:
        """The database's full name."""
        return f"projects/{self.project}/databases/{self.database}"

    def document(self, collection: str, document_id: str) -> str:
        """Return a document's full name."""
        return f"{self.path}/documents/{collection}/{document_id}"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found under a name, and when.

    Attributes:
        now_us: the server's time of the read, microseconds.
    """

    document: Document | None
    now_us: int


class Connection:
    """Asks one database. For many threads; a fork gets a channel of its own.

    Attributes:
        place: which database that is.
        answer_s: how long a call may take with all its repetitions; ``try_s``: how long once.
    """

    def __init__(self, place: Place, *, answer_s: float = ANSWER_S) -> None:
        self.place = place
        self.answer_s = answer_s
        self.try_s = answer_s * TRY_SHARE
        self._emulator = place.emulator or os.environ.get(EMULATOR_VARIABLE, "")
        self._client: FirestoreClient | None = None
        self._guard = threading.Lock()
        self._process = os.getpid()
        metadata = [("google-cloud-resource-prefix", place.path)]
        if self._emulator:
            metadata.append(("authorization", "Bearer owner"))  # what emulators take for an administrator
        self._metadata = tuple(metadata)

    def read(self, name: str, *, answer_s: float | None = None) -> Found:
        """Return the document ``name`` and the time of the read: it is no older than what was committed before."""
        return self._repeated(lambda seconds: self._read(name, seconds), _READ, answer_s or self.answer_s)

    def query(self, collection: str, query: StructuredQuery) -> list[Found]:
        """Return the documents of a collection that ``query`` finds."""
        query.from_ = [StructuredQuery.CollectionSelector(collection_id=collection)]
        request = RunQueryRequest(parent=f"{self.place.path}/documents", structured_query=query)

        def ask(seconds: float) -> list[Found]:
            replies = self.client().run_query(request, retry=None, timeout=seconds, metadata=self._metadata)
            return [Found(one.document, time_us(one.read_time)) for one in replies if "document" in one]

        return self._repeated(ask, _LIST, self.answer_s)

    def commit(self, write: Write, seconds: float) -> CommitResponse:
        """Carry one write out, once: whether to repeat it is the caller's to decide.

        Raises:
            GoogleAPICallError, GoogleAuthError: as the client library has them.
        """
        request = CommitRequest(database=self.place.path, writes=[write])
        return self.client().commit(request, retry=None, timeout=seconds, metadata=self._metadata)

    def listen(self, target: Target, closed: threading.Event) -> Any:
        """Listen to a target.

        Returns:
            The call, a gRPC stream of ListenResponse: to be iterated, and to be cancelled from another thread.
        """

        def requests() -> Iterator[ListenRequest]:
            yield ListenRequest(database=self.place.path, add_target=target)
            closed.wait(LISTEN_S)  # the service would take the end of the requests for the end of listening

        listen: Any = self.client().transport.listen  # the library declares it as a call of one request
        return listen(requests(), timeout=LISTEN_S, metadata=self._metadata)

    def _repeated(self, ask: Callable[[float], Result], doing: str, answer_s: float) -> Result:
        """Return what ``ask``, a call that changes nothing, returns; it is repeated while that may help.

        Raises:
            LockStoreError: the service has refused, or has not answered in time.
        """
        deadline_s, pause_s = time.monotonic() + answer_s, PAUSE_S
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                return ask(max(min(self.try_s, left_s), PAUSE_S))
            except (GoogleAPICallError, GoogleAuthError) as error:
                again = isinstance(error, GoogleAPICallError) and meaning(error) == "again"
                if not again or deadline_s - time.monotonic() <= pause_s:
                    raise self.failure(error, doing) from error
            time.sleep(pause_s)
            pause_s *= 2

    def failure(self, error: GoogleAPICallError | GoogleAuthError, doing: str) -> LockStoreError:
        """Return what is raised for ``error``."""
        return failure(error, doing, project=self.place.project, database=self.place.database)

    def close(self) -> None:
        """Let go of the channel."""
        with self._guard:
            client, self._client = self._client, None
        if client is not None and self._process == os.getpid():
            transport: Any = client.transport
            transport.close()

    def client(self) -> FirestoreClient:
        """Return this process's client.

        Raises:
            GoogleAuthError: there are no credentials.
        """
        with self._guard:
            if self._process != os.getpid():  # a fork: the channel is the parent's
                self._client, self._process = None, os.getpid()
            if self._client is None:
                self._client = self._connected()
            return self._client

    def _connected(self) -> FirestoreClient:
        if self._emulator:
            channel = grpc.insecure_channel(self._emulator, options=[*_OPTIONS, ("grpc.enable_http_proxy", 0)])
            return FirestoreClient(transport=FirestoreGrpcTransport(host=self._emulator, channel=channel))

        def channel_to(host: str, **settings: Any) -> grpc.Channel:
            settings["options"] = [*settings.get("options", ()), *_OPTIONS]
            return FirestoreGrpcTransport.create_channel(host, **settings)

        return FirestoreClient(transport=FirestoreGrpcTransport(channel=channel_to))

    def _read(self, name: str, seconds: float) -> Found:
        request = BatchGetDocumentsRequest(database=self.place.path, documents=[name])
        replies = self.client().batch_get_documents(request, retry=None, timeout=seconds, metadata=self._metadata)
        for reply in replies:
            if "found" in reply or "missing" in reply:
                return Found(reply.found if "found" in reply else None, time_us(reply.read_time))
        raise LockStoreError(f"Firestore has answered nothing about the document {name}.")
