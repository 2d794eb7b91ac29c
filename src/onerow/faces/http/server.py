"""Running a service: bound, told in one line, and drained when it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from onerow.errors import EXIT_FAILED, ConfigurationError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fastapi import FastAPI

BACKLOG: Final = 512
MAX_CONNECTIONS: Final = 1000
KEEP_ALIVE_S: Final = 20
HEADER_S: Final = 15.0
GRACE_S: Final = 5.0
MAX_HEADER_BYTES: Final = 32 * 1024
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Protocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for a request's first lines."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEADER_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; what comes between two requests has a bounded time again."""
        if self._patience is None and (self.cycle is None or self.cycle.response_complete):
            self._patience = self.loop.call_later(HEADER_S, self._give_up)
        super().data_received(data)
        if self._patience is not None and self.cycle is not None and not self.cycle.response_complete:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


class Server(uvicorn.Server):
    """Uvicorn that tells the service of a signal at once, and ends with what the caller decides."""

    def __init__(self, config: uvicorn.Config, *, on_stop: Callable[[], None], on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so when requests are taken."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at the first signal, end at the second. A server on another thread than the main one has none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests; at the second signal wait for nothing."""
        self.force_exit = self.should_exit
        self._on_stop()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigurationError: the address is none of this machine's, or is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"The service cannot listen on {host}:{port}: {error}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"The service cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Another program may use the port; choose another with --port, 0 for any that is free.",
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL under which ``listener`` is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, listener: socket.socket, *, tell: Callable[[str], None]) -> None:
    """Serve ``app`` until a signal, then drain it: what runs is finished or, when the time is up, given up.

    A second signal waits for nothing. If something hangs for longer than the drain and a few seconds, the process
    ends at once with exit code 1: leases expire by themselves, and nothing that was not committed is kept.

    Args:
        app: the service.
        listener: where it listens; it is closed.
        tell: called with the URL when requests are taken.

    Raises:
        ConfigurationError: what the service needs on this machine cannot be used.
    """
    drain = app.state.drain
    url = url_of(listener)

    def on_ready() -> None:
        emit("onerow.service_started", service=app.state.service, url=url)
        tell(url)

    def on_stop() -> None:
        if not drain.begun:
            last = threading.Timer(drain.seconds + GRACE_S, _end_at_once, [app.state.service])
            last.daemon = True
            last.start()
        drain.begin()

    serve(app, Server(config_for(app), on_stop=on_stop, on_ready=on_ready), listener)
    emit("onerow.service_stopped", service=app.state.service, left_s=round(drain.left_s(), 3))


def config_for(app: FastAPI) -> uvicorn.Config:
    """Return how ``app`` is served."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",  # ``serve`` enters it, so that what fails in it reaches the caller
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(app.state.drain.seconds)),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )


def serve(app: FastAPI, server: Server, listener: socket.socket) -> None:
    """Run ``server`` for ``app`` until it is told to stop."""

    async def until_stopped() -> None:
        async with app.router.lifespan_context(app):
            await server.serve([listener])

    with listener:
        asyncio.run(until_stopped())


def _end_at_once(service: str) -> None:
    emit("onerow.drain_failed", service=service)
    os._exit(EXIT_FAILED)
