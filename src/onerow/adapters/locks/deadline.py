"""A bound on how long a statement on PostgreSQL may take, kept by the client: the server may be the one that hangs."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from onerow.errors import LockStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onerow.adapters.postgresql.connection import Connection


@contextmanager
def in_time(connection: Connection, seconds: float) -> Iterator[None]:
    """End the connection if the block takes longer than ``seconds``.

    Raises:
        LockStoreError: it took too long; whether the statement was carried out is not known.
    """
    deadline = _Deadline(connection)
    timer = threading.Timer(seconds, deadline.pass_)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if deadline.passed:
            raise LockStoreError(
                f"The lock store on PostgreSQL has not answered within {seconds:g} s.",
                hint="Look whether the server works and can be reached.",
            ) from error
        raise
    finally:
        timer.cancel()
        deadline.meet()


class _Deadline:
    """Shuts a connection's socket down when its time has passed, unless the statement has ended."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._guard = threading.Lock()
        self.passed = False

    def pass_(self) -> None:
        with self._guard:  # while it is held the connection is not closed, so that the number is still its own
            if self._connection is None or self._connection.closed:
                return
            self.passed = True
            with suppress(OSError), socket.socket(fileno=socket.dup(self._connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    def meet(self) -> None:
        with self._guard:
            self._connection = None
