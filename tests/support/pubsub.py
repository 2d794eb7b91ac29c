"""A topic of Pub/Sub with a push subscription: publishes as the REST interface does, delivers at least once."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


class Topic:
    """Takes messages, and pushes each to ``url`` until it is taken, and then once more.

    Attributes:
        answers: how often each status was answered.
        dead: messages that were moved to the dead-letter topic, where there is one.
    """

    def __init__(self, *, max_attempts=None):
        self.url = ""
        self.answers = Counter()
        self.dead = []
        self.published = []
        self._max_attempts = max_attempts
        self._busy = []

    def push(self, data, *, message_id="1"):
        """Deliver a message, again and again as the subscription does; return the last answer."""
        for attempt in range(1, 8):
            envelope = {"message": {"data": data, "messageId": message_id}, "subscription": "projects/p/subscriptions/s"}
            if self._max_attempts is not None:
                envelope["deliveryAttempt"] = attempt
            answer = httpx.post(self.url, json=envelope, timeout=60)
            self.answers[answer.status_code] += 1
            if answer.status_code in {102, 200, 201, 202, 204}:
                return answer
            if attempt == self._max_attempts:
                self.dead.append(data)
                return answer
        raise AssertionError(f"it comes for ever: {answer.text}")

    def publish(self, data, attributes):
        """Take a message; it is pushed in the background, twice."""
        self.published.append(attributes)
        thread = threading.Thread(target=lambda: [self.push(data), self.push(data)])
        self._busy.append(thread)
        thread.start()

    def wait(self):
        """Wait until everything that was published is delivered."""
        for thread in self._busy:
            thread.join(60)

    @contextlib.contextmanager
    def listening(self):
        """Take messages at an address that PUBSUB_EMULATOR_HOST can name."""
        topic = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                right = self.path == "/v1/projects/p/topics/t:publish"
                for message in asked["messages"] if right else ():
                    topic.publish(message["data"], message["attributes"])
                body = json.dumps({"messageIds": ["1"]}).encode()
                self.send_response(200 if right else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            self.wait()
