"""Who keeps a session waiting: asked beside it while it waits, for after a time-out nobody can tell any more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

import psycopg

from onerow.adapters.postgresql.connection import blockers
from onerow.errors import OnerowError

if TYPE_CHECKING:
    from types import TracebackType

    from onerow.adapters.postgresql.connection import Connection, Server

LOOKS_A_WAIT: Final = 3
"""Every wait that reaches the time-out is looked at so many times."""


class Lookout:
    """Looks, as long as the block runs, who blocks a connection, on another one.

    Args:
        busy_timeout_s: after which a wait for a lock ends with an error; a block that is over sooner costs one thread.
    """

    def __init__(self, server: Server, connection: Connection, *, busy_timeout_s: float) -> None:
        self._server = server
        self._pid = connection.info.backend_pid
        self._pause_s = busy_timeout_s / LOOKS_A_WAIT
        self._over = threading.Event()
        self._seen: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._look, name="onerow-lookout", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    @property
    def seen(self) -> str:
        """Who was seen last, for people."""
        return "; ".join(self._seen) or "nobody could be seen"

    def _look(self) -> None:
        while not self._over.wait(self._pause_s):
            try:
                found = blockers(self._server, self._pid)
            except (psycopg.Error, OnerowError) as error:
                found = [f"nobody could be asked ({type(error).__name__})"]
            self._seen = tuple(found) or self._seen
