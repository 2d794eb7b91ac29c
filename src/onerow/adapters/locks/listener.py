"""Connections on which the waiters of a lock store on PostgreSQL are notified."""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import sql

from onerow.adapters.locks.deadline import in_time
from onerow.errors import LockStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onerow.adapters.postgresql.connection import Connection, Server

PROBE: Final = "probe"


class Listener:
    """One connection with a channel of its own, or none where it cannot be had; then its user has to poll.

    Attributes:
        channel: what to notify; None where nobody hears.
        proven: whether a notification has arrived. Behind a pooler listening seems to work and nothing is heard.
    """

    def __init__(self, connection: Connection | None, answer_s: float) -> None:
        self.channel: str | None = None
        self.proven = False
        self._connection = connection
        self._answer_s = answer_s
        if connection is not None:
            channel = f"onerow_{uuid.uuid4().hex}"
            try:
                with in_time(connection, answer_s):
                    connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            except (psycopg.Error, LockStoreError):
                self.drop()
            else:
                self.channel = channel

    def forget(self) -> None:
        """Forget what was heard until now; it finds out whether the connection still lives."""
        self._hear(0)

    def hears(self, what: str, timeout_s: float) -> int | None:
        """Wait for a notification of ``what``.

        Returns:
            The place in the queue that it tells; None if none came in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._connection is not None and (left_s := deadline_s - time.monotonic()) > 0:
            for payload in self._hear(left_s):
                key, _, place = payload.partition(" ")
                if key == what:
                    return int(place)
        time.sleep(max(0.0, deadline_s - time.monotonic()))
        return None

    def drop(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self.channel, self.proven = None, None, False

    def _hear(self, timeout_s: float) -> list[str]:
        if self._connection is None:
            return []
        try:
            heard = [one.payload for one in self._connection.notifies(timeout=timeout_s, stop_after=1)]
        except psycopg.Error:  # its user polls from here on, and has another one the next time
            self.drop()
            return []
        self.proven = self.proven or bool(heard)
        return heard


class Listeners:
    """The listening connections of a process: each is lent to one waiting thread at a time.

    Nobody notifies a channel whose waiter is not in the queue, so that nothing piles up for one that is idle.
    """

    def __init__(self, server: Server, *, answer_s: float) -> None:
        self._server = server
        self._answer_s = answer_s
        self._idle: list[Listener] = []
        self._guard = threading.Lock()
        self._process = os.getpid()

    @contextmanager
    def lend(self) -> Iterator[Listener]:
        """Lend a listener that has forgotten what others have heard on it."""
        listener = self._take()
        if listener is not None:
            listener.forget()
        if listener is None or listener.channel is None:
            listener = self._open()
        try:
            yield listener
        except BaseException:
            listener.drop()
            raise
        if listener.channel is not None:
            with self._guard:
                self._idle.append(listener)

    def close(self) -> None:
        """Close all that are idle."""
        while (listener := self._take()) is not None:
            listener.drop()

    def _open(self) -> Listener:
        try:
            return Listener(self._server.connect(), self._answer_s)
        except LockStoreError:  # the server is away or has no connection left: polling needs none more
            return Listener(None, self._answer_s)

    def _take(self) -> Listener | None:
        with self._guard:
            if self._process != os.getpid():  # a fork: these are the parent's
                self._idle, self._process = [], os.getpid()
            return self._idle.pop() if self._idle else None
