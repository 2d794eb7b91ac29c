"""Probes: that the process lives, and what it stands on; what hangs gives an answer too."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time

import pytest

from onerow.bootstrap import open_store
from onerow.faces.http.app import create_coordinator, create_worker
from onerow.faces.http.health import DeepHealth
from support.services import headers


def test_health_asks_nobody_and_nothing(worker, coordinator):
    for client, name in ((worker, "worker"), (coordinator, "coordinator")):
        answer = client.get("/health")
        assert answer.status_code == 200
        assert answer.json()["service"] == name
        assert answer.json()["status"] == "ok"
        client.app.state.drain.begin()
        assert client.get("/health").json()["status"] == "draining"


@pytest.mark.parametrize("create", [create_coordinator, create_worker])
def test_deep_health_tells_of_each_part_with_its_latency(create, settings, access, serving):
    answer = serving(create(settings, access=access)).get("/health/deep", headers=headers("read"))
    assert answer.status_code == 200
    told = answer.json()
    assert (told["status"], told["reasons"]) == ("ok", [])
    assert [(part["name"], part["ok"]) for part in told["parts"]] == [("warehouse", True), ("locks", True), ("staging", True)]
    assert all(part["latency_ms"] > 0 for part in told["parts"])
    subjects = {fact["subject"] for part in told["parts"] for fact in part["facts"]}
    assert {"lock writes", "staging"} <= subjects


def test_deep_health_tells_what_is_missing(settings, access, serving):
    settings.warehouse.path.unlink()
    client = serving(create_worker(settings, access=access))
    answer = client.get("/health/deep", headers=headers("read"))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    told = answer.json()
    assert [part["ok"] for part in told["parts"]] == [False, True, True]
    assert any("onerow init" in reason for reason in told["reasons"]), told["reasons"]


def test_deep_health_tells_that_staging_cannot_be_written(settings, access, serving):
    shutil.rmtree(settings.staging, ignore_errors=True)
    settings.staging.write_text("a file where the folder should be")
    told = serving(create_worker(settings, access=access)).get("/health/deep", headers=headers("read"))
    assert told.status_code == 503
    assert [part["ok"] for part in told.json()["parts"]] == [True, True, False]


def test_deep_health_tells_that_the_lock_store_is_damaged(settings, access, serving):
    settings.locks.path.write_bytes(b"no SQLite" * 1000)
    told = serving(create_worker(settings, access=access)).get("/health/deep", headers=headers("read"))
    assert told.status_code == 503
    assert [part["ok"] for part in told.json()["parts"]] == [True, False, True]


def test_what_hangs_is_told_in_time_and_asked_once(settings):
    gate, opened = threading.Event(), []

    def opens(given):
        opened.append(threading.current_thread().name)
        if "warehouse" in threading.current_thread().name:
            assert gate.wait(30)
        return open_store(given)

    async def probe():
        health = DeepHealth(settings, timeout_s=2.0, fresh_s=0.0, opens=opens)
        for _ in range(3):
            began_s = time.monotonic()
            warehouse, locks, staging = await health.parts()
            assert time.monotonic() - began_s < 15.0
            assert (warehouse.ok, locks.ok, staging.ok) == (False, True, True)
            assert "no answer for" in warehouse.facts[0].text
        assert opened.count("onerow-health-warehouse") == 1, "what hangs is not asked again"
        gate.set()
        deadline_s = time.monotonic() + 10
        while not (await health.parts())[0].ok:
            assert time.monotonic() < deadline_s
        health.close()

    asyncio.run(probe())


def test_many_who_ask_cost_no_more_than_one(settings):
    asked = []

    def opens(given):
        asked.append(1)
        return open_store(given)

    async def storm():
        health = DeepHealth(settings, fresh_s=60.0, opens=opens)
        answers = await asyncio.gather(*(health.parts() for _ in range(50)))
        answers.append(await health.parts())
        assert all(part.ok for parts in answers for part in parts)
        assert len(asked) == 3
        health.close()

    asyncio.run(storm())


def test_metrics_count_what_the_process_does(worker, settings):
    body = '{"prediction_id": 1}\n'
    more = headers("write") | {"Content-Type": "application/x-ndjson"}
    assert worker.post("/v1/tables/predictions/batches/b/rows?worker=w", content=body, headers=more).status_code == 422
    answer = worker.get("/metrics", headers=headers("read"))
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert 'onerow_parts_total{outcome="refused",table="predictions"} 1.0' in answer.text
