"""Listeners: threads that hear of a document's changes as they happen.

A listener may die without a word, which is a known fault of the service and its clients
(https://github.com/googleapis/python-firestore/issues/18), so that nobody relies on one: it makes waiters quick, and
their poll makes sure. That is also why the library's ``on_snapshot`` is not used: it keeps three threads for a document
and reconnects by itself, out of sight; here one thread reads one stream, and a stream that has ended is opened anew by
who waits next.

Source: https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1#listenrequest.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1.types import Target

from onerow.adapters.locks.firestore_documents import time_us

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.cloud.firestore_v1.types import ListenResponse

    from onerow.adapters.locks.firestore_client import Connection

IDLE_S: Final = 6.0
"""How long a stream is kept for the next who waits; waiting is asked for in steps of a few seconds."""

_TARGET_ID: Final = 1
_JOIN_S: Final = 1.0


class Listener:
    """Hears of one document, from when it is made until it dies or is closed.

    Attributes:
        users: how many threads wait by it.
        idle_s: since when nobody does, by the monotonic clock.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.users = 0
        self.idle_s = 0.0
        self._news = threading.Condition()
        self._version: str | None = None  # None: nothing was heard yet
        self._heard_us = 0
        self._lives = True
        self._closed = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(
            target=self._listen, args=(connection, name), name="onerow-firestore-listener", daemon=True
        )
        self._thread.start()

    @property
    def lives(self) -> bool:
        """Whether the stream has told something and has not ended."""
        with self._news:
            return self._lives and self._version is not None

    @property
    def ended(self) -> bool:
        """Whether nothing will be heard any more."""
        with self._news:
            return not self._lives

    def hears_other(self, version: str, timeout_s: float) -> bool:
        """Wait until the document is known to have another version, one that is not older; say whether it has.

        It returns early when the stream ends meanwhile.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            lived = self._lives
            while not self._differs(version):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._lives != lived:
                    return False
                self._news.wait(left_s)
            return True

    def close(self) -> None:
        """End the stream and its thread."""
        self._closed.set()
        with self._news:
            call = self._call
        if call is not None:
            call.cancel()
        self._thread.join(_JOIN_S)

    def _differs(self, version: str) -> bool:
        if self._version is None or self._version == version:
            return False
        return not version or self._heard_us > int(version)

    def _listen(self, connection: Connection, name: str) -> None:
        try:
            target = Target(documents=Target.DocumentsTarget(documents=[name]), target_id=_TARGET_ID)
            call = connection.listen(target, self._closed)
            with self._news:
                self._call = call
            if self._closed.is_set():
                call.cancel()
            for message in call:
                self._heed(message)
        except (grpc.RpcError, GoogleAuthError):
            pass  # ended, by us or by the other side: who waits polls from here on and opens another the next time
        finally:
            with self._news:
                self._lives = False
                self._news.notify_all()
            self._closed.set()

    def _heed(self, message: ListenResponse) -> None:
        if "document_change" in message:
            heard_us = time_us(message.document_change.document.update_time)
            version = str(heard_us)
        elif "document_delete" in message:
            heard_us, version = time_us(message.document_delete.read_time), ""
        elif "document_remove" in message:
            heard_us, version = time_us(message.document_remove.read_time), ""
        else:
            return
        with self._news:
            if heard_us >= self._heard_us:  # a message that comes twice, or late, brings nothing back
                self._version, self._heard_us = version, heard_us
                self._news.notify_all()


class Listeners:
    """A process's listeners: one for each document that somebody waits for, and for a moment longer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: dict[str, Listener] = {}
        self._guard = threading.Lock()
        self._process = os.getpid()

    @contextmanager
    def lend(self, name: str) -> Iterator[Listener]:
        """Lend the listener of a document, together with others who wait for it."""
        self._sweep()
        with self._guard:
            listener = self._open.get(name)
            if listener is None or listener.ended:
                listener = self._open[name] = Listener(self._connection, name)
            listener.users += 1
        try:
            yield listener
        finally:
            with self._guard:
                listener.users -= 1
                listener.idle_s = time.monotonic()

    def drop(self, name: str) -> None:
        """Close the listener of a document, unless somebody waits by it."""
        with self._guard:
            listener = self._open.get(name)
            if listener is None or listener.users:
                return
            del self._open[name]
        listener.close()

    def close(self) -> None:
        """Close all."""
        with self._guard:
            listeners, self._open = list(self._open.values()), {}
        for listener in listeners:
            listener.close()

    def _sweep(self) -> None:
        """Close those that nobody has waited by for a while."""
        now_s = time.monotonic()
        with self._guard:
            if self._process != os.getpid():  # a fork: these are the parent's, and their threads are not here
                self._open, self._process = {}, os.getpid()
            names = [name for name, one in self._open.items() if not one.users and now_s - one.idle_s > IDLE_S]
        for name in names:
            self.drop(name)
