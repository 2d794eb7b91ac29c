"""A TCP proxy on loopback that cuts, freezes and loses replies on demand: the line to a server, and its faults."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Predicate = Callable[[bytes], bool]

_CHUNK = 65_536
_REMEMBERED = 1_048_576


class Proxy:
    """Forwards connections to 127.0.0.1 at ``port`` to a server, until it is told otherwise.

    Works at once and from any thread. Use it as a context manager, or ``close`` it.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: tuple[str, int] | str) -> None:
        """Listen.

        Args:
            target: host and port of the server, or the path of its Unix socket.
        """
        self._target = target
        self._lines: list[_Line] = []
        self._guard = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._trap: _Trap | None = None
        self._refuses = False
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections are open through it."""
        with self._guard:
            return len(self._lines)

    def cut(self) -> int:
        """Drop all connections, in the middle of whatever they do; new ones are forwarded. Return how many."""
        with self._guard:
            lines = list(self._lines)
        for line in lines:
            line.cut()
        return len(lines)

    def refuse(self, refuses: bool = True) -> None:  # noqa: FBT001, FBT002 -- reads as what it does
        """Drop all connections and every new one at once, until ``refuse(False)``: a server that is down."""
        self._refuses = refuses
        if refuses:
            self.cut()

    def pause(self) -> None:
        """Forward nothing any more, over old and new connections: a server that nobody hears of."""
        self._flows.clear()

    def resume(self) -> None:
        """Forward again, first what came in the meantime."""
        self._flows.set()

    def cut_when(self, predicate: Predicate, *, when: Literal["before", "after"]) -> threading.Event:
        """Cut the first connection whose client asks something, once.

        Args:
            predicate: gets what a client has sent since the server answered last (at most the last megabyte).
            when: "before" the server gets to see it; or "after" the server has answered, which the client
                never sees.

        Returns:
            An event that is set when the connection is cut.
        """
        trap = _Trap(predicate, when)
        self._trap = trap
        return trap.sprung

    def close(self) -> None:
        """Stop listening and drop all connections. Idempotent."""
        self._closed = True
        self._flows.set()
        with contextlib.suppress(OSError):  # wakes accept() on Linux; elsewhere closing does
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                _drop(client)
                continue
            threading.Thread(target=self._connect, args=(client,), name="proxy-connect", daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        if not self._pass():
            _drop(client)
            return
        try:
            server = _dial(self._target)
        except OSError:
            _drop(client)
            return
        line = _Line(self, client, server)
        with self._guard:
            self._lines.append(line)
        if self._closed or self._refuses:
            line.cut()
        line.run()

    def _pass(self) -> bool:
        """Wait while the proxy is paused; False when it was closed."""
        self._flows.wait()
        return not self._closed

    def _forget(self, line: _Line) -> None:
        with self._guard:
            if line in self._lines:
                self._lines.remove(line)

    def _caught(self, asked: bytes) -> _Trap | None:
        """Return the trap that ``asked`` springs; only one connection springs it."""
        trap = self._trap
        if trap is None or not trap.predicate(asked):
            return None
        with self._guard:
            if self._trap is not trap:
                return None
            self._trap = None
        return trap


class _Trap:
    def __init__(self, predicate: Predicate, when: Literal["before", "after"]) -> None:
        self.predicate = predicate
        self.when = when
        self.sprung = threading.Event()


class _Line:
    """One connection and its other half."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._asked = b""
        self._doomed_by: _Trap | None = None

    def run(self) -> None:
        answers = threading.Thread(target=self._pump, args=(self._server, self._client, self._answer), daemon=True)
        answers.start()
        self._pump(self._client, self._server, self._ask)
        answers.join()
        self._client.close()
        self._server.close()

    def cut(self) -> None:
        """End both halves at once; whoever reads from them sees the end."""
        self._proxy._forget(self)  # noqa: SLF001 -- the two are one thing
        for half in (self._client, self._server):
            with contextlib.suppress(OSError):  # already gone
                half.shutdown(socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, sink: socket.socket, look: Predicate) -> None:
        """Forward until one side ends; ``look`` says whether to forward what came."""
        try:
            while chunk := source.recv(_CHUNK):
                if not self._proxy._pass() or not look(chunk):  # noqa: SLF001 -- one module
                    break
                sink.sendall(chunk)
        except OSError:
            pass  # cut: the other half learns it below
        finally:
            self.cut()

    def _ask(self, chunk: bytes) -> bool:
        self._asked = (self._asked + chunk)[-_REMEMBERED:]
        trap = self._proxy._caught(self._asked)  # noqa: SLF001 -- one module
        if trap is None:
            return True
        if trap.when == "before":
            trap.sprung.set()
            self.cut()
            return False
        self._doomed_by = trap
        return True

    def _answer(self, _chunk: bytes) -> bool:
        self._asked = b""
        if self._doomed_by is None:
            return True
        self._doomed_by.sprung.set()
        self.cut()
        return False


def _dial(target: tuple[str, int] | str) -> socket.socket:
    if not isinstance(target, str):
        return socket.create_connection(target, timeout=None)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(target)
    except BaseException:
        server.close()
        raise
    return server


def _drop(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    client.close()
