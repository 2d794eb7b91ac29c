"""What tests of the HTTP services share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

from fastapi.routing import iter_route_contexts

from onerow.faces.http import server

START_S = 60.0

TOKENS = {
    "read": "read-token-0123456789",
    "write": "write-token-0123456789",
    "admin": "admin-token-0123456789",
}
BASE = "http://127.0.0.1:8470"


def environment(**more):
    """Return an environment with a token for each role."""
    return {f"ONEROW_TOKENS_{role.upper()}": token for role, token in TOKENS.items()} | more


def headers(role):
    """Return the header that a caller of ``role`` sends."""
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def routes_of(app):
    """Return (method, path, route) of every route of ``app``, also of the routers that it includes."""
    return [
        (method, context.path_format, context)
        for context in iter_route_contexts(app.routes)
        for method in sorted(context.methods or {"GET"})
    ]


@contextlib.contextmanager
def listening(app, port=0):
    """Serve ``app`` on a thread, over real connections, as ``onerow serve`` does; yield its URL."""
    listener = server.listen("127.0.0.1", port)
    url, ready = server.url_of(listener), threading.Event()
    running = server.Server(server.config_for(app), on_stop=app.state.drain.begin, on_ready=ready.set)
    thread = threading.Thread(target=lambda: server.serve(app, running, listener))
    thread.start()
    try:
        assert ready.wait(START_S)
        yield url
    finally:
        running.should_exit = True
        thread.join(START_S)
        assert not thread.is_alive()


class Service:
    """``onerow serve`` as a process of its own."""

    def __init__(self, folder, *words, **environ):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ONEROW_")}
        self.errors = (folder / f"stderr-{time.monotonic_ns()}").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "onerow.faces.cli.main", "serve", *words, "--port", "0"],
            cwd=folder,
            env={**kept, "PYTHONUNBUFFERED": "", **environ},
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.line = self.process.stdout.readline()
        assert "http://" in self.line, self.told()
        self.url = next(word for word in self.line.split() if word.startswith("http://"))

    def told(self):
        """Return what it has said on standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def stop(self, number):
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(START_S)

    def close(self):
        """End it if it has not ended, whatever it does."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def connect(url):
    """Open a plain connection to a service."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def read_all(connection):
    """Return everything that comes until the other side ends; a connection that is reset has ended too."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found
