"""Telling the coordinator: soon, again when it does not answer, not for ever, and never at the cost of the rows."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest

from onerow.errors import ConfigurationError
from onerow.faces.http.app import create_worker
from onerow.faces.http.reporting import TRIES, Reporter, check_coordinator, coordinator_token
from support.bench import predictions
from support.services import TOKENS, headers


class Coordinator(httpx.AsyncBaseTransport):
    """Answers with what it is given, the last for ever; remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def handle_async_request(self, request):
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return await answer()
        return httpx.Response(answer)


def reporter(coordinator, **more):
    return Reporter("http://coordinator:8470/", first_pause_s=0.01, transport=coordinator, **more)


async def until(condition):
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


def failed(caplog):
    return [record.facts["error"] for record in caplog.records if record.getMessage() == "onerow.report_failed"]


def test_a_report_names_the_part_and_who_sends_it():
    async def run():
        coordinator = Coordinator(202)
        told = reporter(coordinator, token=TOKENS["write"])
        async with told.running():
            assert await told.report("a/b", "2026 01", "p1") is True
        (request,) = coordinator.asked
        assert str(request.url) == "http://coordinator:8470/v1/tables/a%2Fb/batches/2026%2001/parts"
        assert json.loads(request.content) == {"part_id": "p1"}
        assert request.headers["authorization"] == headers("write")["Authorization"]
        assert TOKENS["write"] not in repr(told)

    asyncio.run(run())


@pytest.mark.parametrize("first", [503, 429, httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_a_coordinator_that_is_away_is_told_later(first, caplog):
    async def run():
        coordinator = Coordinator(first, first, 200)
        told = reporter(coordinator)
        async with told.running():
            assert await told.report("t", "b", "p1") is False, "nobody waits for the second try"
            await until(lambda: len(coordinator.asked) == 3)

    asyncio.run(run())
    assert failed(caplog) == []


@pytest.mark.parametrize(("answer", "tries", "reason"), [(503, TRIES, "HTTP 503"), (404, 1, "HTTP 404"), (httpx.ConnectError("secret"), TRIES, "ConnectError")])
def test_a_report_is_given_up_at_last_and_said_so(answer, tries, reason, caplog):
    async def run():
        coordinator = Coordinator(answer)
        told = reporter(coordinator)
        async with told.running():
            assert await told.report("t", "b", "p1") is False
            await until(lambda: failed(caplog))
        assert len(coordinator.asked) == tries

    caplog.set_level("INFO")
    asyncio.run(run())
    assert failed(caplog) == [reason]


def test_a_coordinator_that_hangs_keeps_nobody_waiting_and_no_worker_from_stopping(caplog, monkeypatch):
    monkeypatch.setattr("onerow.faces.http.reporting.TOLD_WITHIN_S", 0.05)

    async def run():
        told = reporter(Coordinator(lambda: asyncio.sleep(3600)))
        async with asyncio.timeout(10), told.running():
            answers = await asyncio.gather(*(told.report("t", "b", f"p{number}") for number in range(5)))
            assert answers == [False] * 5

    caplog.set_level("INFO")
    asyncio.run(run())
    assert failed(caplog) == ["the worker stops"] * 5


def test_rows_are_taken_whatever_the_coordinator_does(settings, access, serving):
    body = "".join(json.dumps(row, default=str) + "\n" for row in predictions(3, seed=1))
    more = headers("write") | {"Content-Type": "application/x-ndjson"}
    for number, (answer, reported) in enumerate([(200, True), (500, False), (404, False), (httpx.ConnectError("x"), False)]):
        coordinator = Coordinator(answer)
        client = serving(create_worker(settings, access=access, reporter=reporter(coordinator)))
        for status in (201, 200):
            found = client.post(f"/v1/tables/predictions/batches/b-{number}/rows?worker=w", content=body, headers=more)
            assert (found.status_code, found.json()["reported"]) == (status, reported)
            assert json.loads(coordinator.asked[-1].content) == {"part_id": found.json()["part_id"]}
        asked = len(coordinator.asked)
        empty = client.post(f"/v1/tables/predictions/batches/e-{number}/rows?worker=w", content=b"x", headers=more)
        assert empty.status_code == 422
        assert len(coordinator.asked) <= asked + TRIES * 2


@pytest.mark.parametrize("url", ["coordinator:8470", "ftp://x", "http://", "http://user:secret@x:1", "http://x:99999", "http://[::1"])
def test_what_is_no_address_of_a_coordinator_is_refused_at_the_start(url):
    with pytest.raises(ConfigurationError) as caught:
        check_coordinator(url)
    assert "secret" not in str(caught.value)


def test_the_token_comes_from_the_environment_or_a_file(tmp_path):
    assert coordinator_token({}) == ""
    assert coordinator_token({"ONEROW_COORDINATOR_TOKEN": " t "}) == "t"
    (tmp_path / "token").write_text("from-file\n")
    assert coordinator_token({"ONEROW_COORDINATOR_TOKEN_FILE": str(tmp_path / "token")}) == "from-file"
    with pytest.raises(ConfigurationError, match="FileNotFoundError"):
        coordinator_token({"ONEROW_COORDINATOR_TOKEN_FILE": str(tmp_path / "none")})
