"""Services over real connections and as real processes: bodies that are cut, signals, addresses."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from onerow.bootstrap import open_store
from onerow.faces.cli.main import cli
from onerow.faces.http import server
from onerow.faces.http.app import create_worker
from onerow.faces.http.security import Access
from support.bench import predictions
from support.services import Service, connect, environment, headers, listening, read_all

ROWS = "".join(json.dumps(row, default=str) + "\n" for row in predictions(200, seed=1)).encode()
PATH = "/v1/tables/predictions/batches/b-1/rows?worker=w"
PATIENCE_S = 60.0


def request(*more, path=PATH):
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/x-ndjson", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def until(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def app(settings):
    return create_worker(settings, access=Access(anybody=True))


@pytest.fixture
def url(app):
    with listening(app) as found:
        yield found


def staged(settings):
    with open_store(settings) as store:
        return store.ports.parts.parts("predictions", "b-1")


def check_nothing_is_left(app, settings):
    state = app.state
    until(lambda: state.deliveries.running == 0)
    assert (list(state.spool.folder.iterdir()), state.spool.used_bytes) == ([], 0)
    assert staged(settings) == []


GZIPPED = gzip.compress(ROWS)
CUT = {
    "a length that is not met": (request(f"Content-Length: {len(ROWS)}") + ROWS[:-1], b""),
    "only a head": (request(f"Content-Length: {len(ROWS)}"), b""),
    "chunks without an end": (request("Transfer-Encoding: chunked") + chunked(ROWS[:100], ROWS[100:]), b""),
    "a chunk that is cut": (request("Transfer-Encoding: chunked") + chunked(ROWS)[:-20], b""),
    "a chunk that is none": (request("Transfer-Encoding: chunked") + chunked(ROWS[:100]) + b"zz\r\n", b"HTTP/1.1 400"),
    "gzip that is cut, whole to HTTP": (
        request(f"Content-Length: {len(GZIPPED) - 5}", "Content-Encoding: gzip") + GZIPPED[:-5], b"HTTP/1.1 400"),
    "gzip in chunks that are cut": (
        request("Transfer-Encoding: chunked", "Content-Encoding: gzip") + chunked(GZIPPED[:-5]) + b"0\r\n\r\n", b"HTTP/1.1 400"),
}  # fmt: skip


def test_a_body_that_is_cut_stages_nothing_and_leaves_nothing(url, app, settings):
    for what, (sent, answer) in CUT.items():
        with connect(url) as connection:
            connection.sendall(sent)
            if answer:
                assert connection.recv(65536).startswith(answer), what
            else:
                connection.shutdown(socket.SHUT_WR)
                assert read_all(connection) == b"", what
        check_nothing_is_left(app, settings)
    assert httpx.post(f"{url}{PATH}", content=ROWS, headers={"Content-Type": "application/x-ndjson"}).status_code == 201
    assert len(staged(settings)) == 1, "the same delivery, whole, is staged: the test can tell"


def test_a_client_that_goes_in_the_middle_leaves_nothing(url, app, settings):
    with connect(url) as connection:
        connection.sendall(request("Content-Length: 50000000") + ROWS * 50)
        until(lambda: app.state.spool.used_bytes > 0)
        assert len(list(app.state.spool.folder.iterdir())) == 1
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, as when a machine is gone
    check_nothing_is_left(app, settings)


def test_a_client_that_goes_when_its_rows_are_whole_has_handed_them_in(url, app, settings):
    with connect(url) as connection:
        connection.sendall(request(f"Content-Length: {len(ROWS)}") + ROWS)
        until(lambda: app.state.deliveries.running == 1 or staged(settings))
    until(lambda: app.state.deliveries.running == 0)
    (part,) = staged(settings)
    again = httpx.post(f"{url}{PATH}", content=ROWS, headers={"Content-Type": "application/x-ndjson"})
    assert (again.status_code, again.json()["part_id"]) == (200, part.part_id)


def test_a_body_that_is_refused_unread_gets_its_answer(url, app, settings):
    head = request("Content-Length: 999999999999")
    with connect(url) as connection:
        connection.sendall(head + b"x" * 3_000_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    with connect(url) as connection:
        connection.sendall(request("Content-Length: 3000000", "Connection: close", path="/v1/nothing") + b"x" * 3_000_000)
        assert read_all(connection).startswith(b"HTTP/1.1 413")
    check_nothing_is_left(app, settings)


def test_a_request_whose_head_does_not_come_is_ended(app, monkeypatch):
    monkeypatch.setattr(server, "HEADER_S", 0.3)
    with listening(app) as url:
        for sent in (b"", b"GET /health HTTP/1.1\r\nHost: 127.", b"G"):
            with connect(url) as connection:
                connection.sendall(sent)
                assert read_all(connection) == b""
        with connect(url) as connection:  # one after another on one connection, with a pause that is longer
            for _ in range(3):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                found = b""
                while not found.endswith(b"}"):
                    found += connection.recv(65536)
                assert found.startswith(b"HTTP/1.1 200")
                time.sleep(0.4)
            connection.sendall(b"GET /hea")
            assert read_all(connection) == b""


def test_a_body_that_stops_coming_is_ended(app, settings, monkeypatch):
    monkeypatch.setattr("onerow.faces.http.limits.Limits.__init__.__kwdefaults__", {"max_requests": 10, "idle_s": 0.2})
    with listening(app) as url, connect(url) as connection:
        connection.sendall(request("Content-Length: 100000") + ROWS[:1000])
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"retry-after: 1" in answer
        check_nothing_is_left(app, settings)


def test_heads_that_are_too_long_or_no_http_are_refused(url, app, settings):
    for sent in (b"GET /" + b"a" * 3_000_000 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01 TLS\r\n\r\n", request("X: " + "a" * 3_000_000)):
        with connect(url) as connection:
            connection.sendall(sent)
            assert read_all(connection).startswith(b"HTTP/1.1 400")
    check_nothing_is_left(app, settings)


@pytest.fixture
def service(settings):
    """Start services as processes in the configured folder."""
    started = []

    def start(*words, **environ):
        started.append(Service(settings.file.parent, *words, **environ))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_worker_that_is_told_to_stop_finishes_what_runs(service, settings):
    worker = service("worker")
    half = threading.Event()

    def slowly():
        yield ROWS * 40
        assert half.wait(PATIENCE_S)
        yield ROWS

    answers = []
    sending = threading.Thread(
        target=lambda: answers.append(
            httpx.post(f"{worker.url}{PATH}", content=slowly(), headers={"Content-Type": "application/x-ndjson"}, timeout=PATIENCE_S)
        )
    )
    sending.start()
    spool = Path(settings.serve.spool)
    until(lambda: [path for path in spool.glob("*/*") if path.stat().st_size])
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: refused(worker.url))
    half.set()
    sending.join(PATIENCE_S)
    assert answers[0].status_code == 201
    assert worker.process.wait(PATIENCE_S) == 0
    assert [part.rows for part in staged(settings)] == [41 * 200]
    assert list(spool.iterdir()) == []
    assert "onerow.service_stopped" in worker.told()


def test_what_hangs_keeps_no_worker_from_stopping(settings):
    gate, hanging = threading.Event(), threading.Event()

    def opens(given):
        hanging.set()
        assert gate.wait(PATIENCE_S)
        return open_store(given)

    quick = replace(settings, serve=settings.serve.model_copy(update={"drain": 1.0}))
    ended = []

    def deliver():
        try:
            ended.append(httpx.post(f"{url}{PATH}", content=ROWS, headers={"Content-Type": "application/x-ndjson"}, timeout=PATIENCE_S).status_code)
        except httpx.HTTPError as error:
            ended.append(error)

    with listening(create_worker(quick, access=Access(anybody=True), opens=opens)) as url:
        sending = threading.Thread(target=deliver)
        sending.start()
        assert hanging.wait(PATIENCE_S)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 20.0
    sending.join(PATIENCE_S)
    assert len(ended) == 1
    assert ended[0] not in {200, 201}, "what was not staged is not acknowledged"
    gate.set()
    assert list(Path(settings.serve.spool).glob("*")) == []


def refused(url):
    """Whether nobody takes connections any more."""
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_a_killed_worker_left_is_removed_by_the_next_and_no_secret_is_told(service, settings):
    secrets = environment()
    worker = service("worker", **secrets)
    assert "token" in worker.line
    with connect(worker.url) as connection:
        connection.sendall(request("Content-Length: 50000000", f"Authorization: {headers('write')['Authorization']}") + ROWS * 50)
        spool = Path(settings.serve.spool)
        until(lambda: [path for path in spool.glob("*/*") if path.stat().st_size])
        assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
    assert list(spool.glob("*/*"))
    second = service("worker", "-vv", **secrets)
    until(lambda: "onerow.spool_cleaned" in second.told())
    assert list(spool.glob("*/*")) == []
    assert httpx.get(f"{second.url}/health/deep").status_code == 401
    assert httpx.get(f"{second.url}/health/deep", headers=headers("read"), timeout=PATIENCE_S).status_code == 200
    assert second.stop(signal.SIGINT) == 0
    told = worker.told() + second.told() + worker.line + second.line
    assert not any(token in told for token in secrets.values())
    assert staged(settings) == []


def run(folder, *words, **environ):
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner(env={name: None for name in os.environ if name.startswith("ONEROW_")} | environ).invoke(cli, ["serve", *words], standalone_mode=True)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", ["coordinator", "worker"])
def test_what_cannot_be_served_is_told_before_it_begins(name, settings):
    folder = settings.file.parent
    for words, environ, said in (
        (("--host", "0.0.0.0"), {}, "binds to loopback only"),  # noqa: S104
        (("--host", "no.such.host.invalid"), environment(), "cannot listen"),
        ((), {"ONEROW_TOKENS_READ": "short"}, "at least 16"),
        ((), {"ONEROW_WAREHOUSE": "oracle://x"}, "oracle"),
    ):
        ended = run(folder, name, "--port", "0", *words, **environ)
        assert (ended.exit_code, said in ended.output) == (2, True), ended.output
    with server.listen("127.0.0.1", 0) as taken:
        ended = run(folder, name, "--port", str(taken.getsockname()[1]))
        assert (ended.exit_code, "Another program may use the port" in ended.output) == (2, True), ended.output


def test_a_spool_that_cannot_be_used_is_told_before_it_begins(settings):
    Path(settings.serve.spool).write_text("a file")
    ended = run(settings.file.parent, "worker", "--port", "0")
    assert (ended.exit_code, "cannot be used" in ended.output) == (2, True), ended.output
