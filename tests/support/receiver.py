"""A receiver of alerts on loopback: an HTTP server that can be slow, broken, dead, and come back."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "T0SECRET"
PATH = f"/services/{SECRET}"


class Receiver:
    """Remembers what it has taken.

    Attributes:
        answers: what the next requests get, then 200: a status, (status, headers), or "drop", "trickle", "hang".
        asked: every request, as (path, headers, body).
        taken: the bodies of those that were answered with 200.
    """

    def __init__(self):
        self.answers, self.asked, self.taken = deque(), [], []
        self._released = threading.Event()
        self._server = None
        self.port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}{PATH}"

    def start(self):
        """Come (back) to life, at the same port."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                receiver.answer(self)

            def log_message(self, *arguments):
                """Say nothing."""

        ThreadingHTTPServer.daemon_threads = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def die(self):
        """Nobody listens any more."""
        self._released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append((handler.path, dict(handler.headers), body))
        answer = self.answers.popleft() if self.answers else 200
        if answer == "drop":
            handler.close_connection = True
        elif answer == "hang":
            self._released.wait(20)
        elif answer == "trickle":  # a byte now and then: no single read ever times out
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000:
                    handler.wfile.write(bytes([byte]))
                    if self._released.wait(0.05):
                        break
            except OSError:
                handler.close_connection = True
        else:
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            if status == 200:
                self.taken.append(body)
            handler.end_headers()

    def until(self, ready, seconds=10):
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, self.asked
            time.sleep(0.01)
