"""What a client may take: requests a second, requests at once, size and speed of bodies."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from onerow.faces.http.app import create_worker
from onerow.faces.http.limits import FAILED_LOGIN_COSTS, MAX_CLIENTS, Limits, Rate, client_of
from support.services import headers


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def rate(per_s=10.0, burst=20.0):
    clock = Clock()
    return Rate(per_s, burst=burst, clock=clock), clock


def test_a_client_has_its_share_and_gets_it_back_with_time():
    limit, clock = rate()
    assert [limit.take("a") for _ in range(20)] == [0.0] * 20
    assert limit.take("a") == pytest.approx(0.1)
    assert limit.take("b") == 0.0, "another client has a share of its own"
    clock.now_s += 0.1
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0.0
    clock.now_s += 1000.0
    assert sum(limit.take("a") == 0.0 for _ in range(50)) == 20, "a bucket holds no more than a burst"


def test_a_failed_login_costs_more_than_a_request():
    limit, _ = rate(per_s=1.0, burst=20.0)
    limit.fine("a", FAILED_LOGIN_COSTS)
    limit.fine("a", FAILED_LOGIN_COSTS)
    assert limit.take("a") == pytest.approx(21.0)
    for _ in range(100):
        limit.fine("a", FAILED_LOGIN_COSTS)
    assert limit.take("a") <= 21.0, "nobody is shut out for longer than a burst takes"


def test_the_memory_of_clients_is_bounded():
    limit, _ = rate()
    for number in range(MAX_CLIENTS + 500):
        limit.take(str(number))
    assert len(limit._buckets) == MAX_CLIENTS


def test_a_network_of_ipv6_is_one_client():
    assert client_of({"client": ("2001:db8::1", 1)}) == client_of({"client": ("2001:db8::ffff", 2)})
    assert client_of({"client": ("2001:db8:0:1::1", 1)}) != client_of({"client": ("2001:db8::1", 1)})
    assert client_of({"client": ("10.0.0.1", 1)}) == "10.0.0.1"
    assert client_of({}) == ""


def ask(app, *messages, path="/", headers=(), **settings):
    """Send a request through limits; return (status, headers, body, what the app has read)."""
    sent, waiting = [], list(messages)

    async def receive():
        if not waiting:
            await asyncio.sleep(3600)
        message = waiting.pop(0)
        return await message if asyncio.iscoroutine(message) else message

    async def send(message):
        sent.append(message)

    limits = Limits(app, **({"rate": Rate(1000.0), "max_bytes": lambda _: 100} | settings))
    scope = {"type": "http", "path": path, "raw_path": path.encode(), "headers": list(headers), "client": ("10.0.0.1", 1), "method": "POST"}
    asyncio.run(limits(scope, receive, send))
    start = sent[0]
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


class Reader:
    """An app that reads the whole body and says how long it was."""

    def __init__(self):
        self.read = b""

    async def __call__(self, scope, receive, send):
        while True:
            message = await receive()
            self.read += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(self.read)).encode()})


def piece(size, *, more):
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_a_body_is_taken_up_to_its_limit():
    assert ask(Reader(), piece(60, more=True), piece(40, more=False))[::2] == (200, b"100")
    reader = Reader()
    status, told, body = ask(reader, piece(60, more=True), piece(41, more=True), piece(1000, more=False))
    assert (status, b'"kind":"too_large"' in body) == (413, True)
    assert told["content-type"] == "application/problem+json"
    assert len(reader.read) == 60, "nothing behind the limit is read"


@pytest.mark.parametrize("length", ["101", "-1", "1e3", "9" * 30, "x", ""])
def test_a_length_that_is_too_large_or_none_is_refused_before_reading(length):
    reader = Reader()
    status, _, _ = ask(reader, piece(1, more=False), headers=[(b"content-length", length.encode())])
    assert (status, reader.read) == (413, b"")


def test_a_body_that_stops_coming_is_given_up():
    reader = Reader()
    status, told, body = ask(reader, piece(10, more=True), asyncio.sleep(5), idle_s=0.05)
    assert (status, told["retry-after"]) == (408, "1")
    assert b'"kind":"slow_body"' in body


async def later(seconds, message):
    await asyncio.sleep(seconds)
    return message


def test_a_body_that_trickles_is_given_up():
    drops = [later(0.03, piece(1, more=True)) for _ in range(20)]
    status, _, _ = ask(Reader(), *drops, idle_s=0.1)
    for drop in drops:
        drop.close()
    assert status == 408


def test_more_requests_at_once_than_are_served_come_back():
    async def all_at_once():
        gate, answers = asyncio.Event(), []

        async def app(scope, receive, send):
            await gate.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        limits = Limits(app, rate=Rate(1000.0), max_bytes=lambda _: 100, max_requests=2)

        async def one(path="/v1/x"):
            async def send(message):
                if message["type"] == "http.response.start":
                    answers.append((message["status"], dict(message["headers"]).get(b"retry-after")))

            await limits({"type": "http", "path": path, "raw_path": path.encode(), "headers": [], "client": ("10.0.0.1", 1)}, None, send)

        running = [asyncio.create_task(one()) for _ in range(2)]
        await asyncio.sleep(0)
        await one()
        assert answers == [(503, b"1")]
        running.append(asyncio.create_task(one("/health")))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*running)
        assert [status for status, _ in answers] == [503, 200, 200, 200], "a probe is answered whatever goes on"

    asyncio.run(all_at_once())


def test_a_client_that_asks_too_often_is_told_when_to_come_again():
    status, told, body = ask(Reader(), piece(1, more=False), rate=Rate(0.1, burst=0.5))
    assert status == 200, "a bucket holds at least one"
    limit = Rate(0.1, burst=1.0)
    limit.take("10.0.0.1")
    status, told, body = ask(Reader(), piece(1, more=False), rate=limit)
    assert (status, b'"kind":"too_many_requests"' in body) == (429, True)
    assert 9 <= int(told["retry-after"]) <= 10


def test_a_service_asks_a_client_that_is_too_fast_to_slow_down(settings, access, serving):
    slow = replace(settings, serve=settings.serve.model_copy(update={"requests_per_second": 1.0}))
    client = serving(create_worker(slow, access=access))
    answers = [client.get("/metrics", headers=headers("read")) for _ in range(4)]
    assert [answer.status_code for answer in answers][:2] == [200, 200]
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "1"
    assert client.get("/health").status_code == 200, "a probe is always answered"
    other = serving(create_worker(replace(settings, serve=settings.serve.model_copy(update={"requests_per_second": 10.0})), access=access))
    guesses = [other.get("/metrics", headers={"Authorization": f"Bearer {'x' * 20}{number}"}).status_code for number in range(6)]
    assert guesses[0] == 401
    assert guesses[-1] == 429, "who guesses tokens gets few tries"


def test_a_defect_is_told_without_its_words(caplog):
    async def app(scope, receive, send):
        raise ValueError("a value of a customer")

    caplog.set_level("INFO")
    status, told, body = ask(app, piece(1, more=False))
    assert status == 500
    assert b"customer" not in body
    assert b"ValueError" not in body
    assert told["x-request-id"].encode() in body
    (record,) = [one for one in caplog.records if one.getMessage() == "onerow.request_failed"]
    assert record.facts["request"] == told["x-request-id"]
    assert record.facts["error"].startswith("ValueError in ")
    assert "customer" not in caplog.text
