"""The coordinator service: a day's batch is opened, fanned out and consolidated, whatever fails or comes twice."""

from __future__ import annotations

import datetime as dt
import time

import httpx
import pytest

from predictions import reading
from predictions.coordinator import dispatch
from predictions.coordinator.batch_state_manager import open_batch_states
from predictions.coordinator.coordinator import todays_games
from predictions.coordinator.fan_out import PredictionCoordinator, game_date_of, shares
from predictions.testing import inject_duplicate_predictions
from predictions.worker.predictor import Predictor
from support.nba import settings
from support.predicting import (
    coordinator_of,
    expected_keys,
    free_port,
    season,
    small_day,
    worker_of,
)
from support.pubsub import Topic


@pytest.fixture(autouse=True)
def _small_shares(monkeypatch):
    monkeypatch.setattr("predictions.coordinator.fan_out.PLAYERS_PER_WORKER", 15)
    for name in (dispatch.WORKERS, dispatch.TOPIC, dispatch.EMULATOR):
        monkeypatch.delenv(name, raising=False)


def keys_of(day, project_id="local", client=None):
    """Return the business keys in the table, each as often as it stands there."""
    with reading.open_reader(project_id, client) as reader:
        rows = reader.rows("select * from {predictions_stored} where game_date = $day", day=day)
    return sorted(
        ((one["game_id"], one["player_lookup"], one["system_id"], one["current_points_line"]) for one in rows), key=str
    )


def whole(day):
    return sorted(expected_keys(day), key=str)


def start(url, day=None, **more):
    return httpx.post(f"{url}/start", json={"game_date": f"{day or small_day()}", **more}, timeout=90)


def status(url, **asked):
    return httpx.get(f"{url}/status", params=asked, timeout=30).raise_for_status().json()["batches"]


def wait_until(state, url, batch, seconds=60):
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        (found,) = status(url, batch_id=batch)
        if found["state"] == state:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_a_day_is_predicted_and_consolidated_and_the_same_run_again_is_the_same_batch(caplog):
    day = small_day()
    with coordinator_of() as url:
        first = start(url, run="scheduled", wait_s=60)
        assert (first.status_code, first.json()["state"], first.json()["failed"]) == (200, "done", {})
        assert first.json()["batch_id"] == f"{day:%Y%m%d}_scheduled"
        for line in ("Acquiring consolidation lock", "Acquired consolidation lock", "Executing MERGE for batch",
                     "Running post-consolidation validation", "Post-consolidation validation PASSED", "MERGE complete:",
                     "Released consolidation lock", "Consolidation MERGE complete"):  # fmt: skip
            assert any(one.startswith(line) for one in caplog.messages), line
        assert keys_of(day) == whole(day)
        again = start(url, run="scheduled", wait_s=60).json()
        assert (again["opened_at"], again["rounds"]) == (first.json()["opened_at"], first.json()["rounds"])
        other = start(url, wait_s=60).json()
        assert other["batch_id"] != first.json()["batch_id"], "without a name it is a run of its own"
        assert keys_of(day) == whole(day)
        assert {one["batch_id"] for one in status(url, game_date=f"{day}")} == {first.json()["batch_id"], other["batch_id"]}
        assert all(one["missing"] == [] for one in status(url))
        assert httpx.get(f"{url}/health").json()["service"] == "coordinator"
        assert httpx.get(f"{url}/health/deep", timeout=30).json()["status"] == "ok"
        page = httpx.get(f"{url}/", timeout=30, follow_redirects=True)
        assert page.status_code == 200
        assert "<html" in page.text


@pytest.mark.parametrize("wait_s", [0, 60])
def test_a_day_without_games_is_no_error_and_opens_nothing(wait_s, caplog):
    """A scheduler repeats what is answered as an error, and nobody plays all the same."""
    with coordinator_of() as url:
        answer = start(url, day="1999-01-01", run="scheduled", wait_s=wait_s)
        assert (answer.status_code, answer.json()["state"], answer.json()["game_date"]) == (200, "no_games", "1999-01-01")
        assert "Nobody is known to play on 1999-01-01" in answer.json()["detail"]
        assert f"from {season().dates[0]} to {season().dates[-1]}" in answer.json()["hint"], "or its data ends before"
        assert status(url) == []
        assert start(url, day="1999-01-01", run="no name!").status_code == 400
    assert any(line.startswith("Nothing was started: Nobody is known to play") for line in caplog.messages)


def test_what_cannot_be_started_is_refused():
    with coordinator_of() as url:
        assert (start(url, run="no name!").status_code, start(url, run="no name!").json()["kind"]) == (400, "usage")
        assert httpx.post(f"{url}/start", json={"game_date": "someday"}).status_code == 422
        assert httpx.post(f"{url}/start", json={"day": "today"}).status_code == 422
        assert httpx.get(f"{url}/status", params={"batch_id": "never"}).status_code == 404
        assert status(url) == []


def test_todays_games_are_those_of_new_yorks_date(monkeypatch):
    monkeypatch.setattr("predictions.coordinator.coordinator.todays_games", small_day)
    with coordinator_of() as url:
        answer = httpx.post(f"{url}/start", json={"wait_s": 60}, timeout=90)
        assert answer.status_code == 200
        assert answer.json()["batch_id"].startswith(f"{small_day():%Y%m%d}_")
    monkeypatch.undo()
    assert abs(todays_games() - dt.datetime.now(dt.UTC).date()) <= dt.timedelta(days=1)


def test_workers_are_asked_in_turn_and_a_dead_one_costs_nothing_but_time(monkeypatch):
    with worker_of() as worker:
        monkeypatch.setenv(dispatch.WORKERS, f"http://127.0.0.1:{free_port()}, {worker}")
        with coordinator_of() as url:
            answer = start(url, run="a", wait_s=60)
    assert (answer.status_code, answer.json()["failed"]) == (200, {})
    assert keys_of(small_day()) == whole(small_day())


def test_workers_that_were_away_are_asked_again(monkeypatch, caplog):
    port = free_port()
    monkeypatch.setenv(dispatch.WORKERS, f"http://127.0.0.1:{port}")
    monkeypatch.setattr("predictions.coordinator.fan_out.PAUSE_S", 0.01)
    with coordinator_of(ask_again_every_s=0.5) as url:
        answer = start(url, run="a")
        assert (answer.status_code, answer.json()["state"]) == (202, "open")
        assert list(answer.json()["failed"]) == ["worker_001", "worker_002", "worker_003"][: answer.json()["workers"]]
        (found,) = status(url, batch_id=answer.json()["batch_id"])
        assert found["missing"] == list(answer.json()["failed"])
        with worker_of(port=port):
            wait_until("done", url, answer.json()["batch_id"])
        assert status(url, batch_id=answer.json()["batch_id"])[0]["missing"] == []
    assert keys_of(small_day()) == whole(small_day())
    assert any(record.levelname == "ERROR" and "they are asked again" in record.message for record in caplog.records)


def test_a_failed_validation_is_told_as_an_error_and_keeps_staging(caplog):
    day = small_day()
    with coordinator_of() as url:
        start(url, run="a", wait_s=60).raise_for_status()
        inject_duplicate_predictions(None, "local", f"{day}", count=2)
        answer = start(url, run="b", wait_s=60)
        assert (answer.status_code, answer.json()["kind"]) == (409, "duplicates")
        assert "onerow dedupe" in answer.json()["detail"]
        assert any(line.startswith("POST-CONSOLIDATION VALIDATION FAILED") for line in caplog.messages)
        assert any(f"Batch {day:%Y%m%d}_b failed" in line for line in caplog.messages)
        with settings.open_store("local") as store:
            assert store.repair(settings.TABLE, f"{day}", reason="test").rows_removed == 2
        assert start(url, run="b", wait_s=60).status_code == 200, "staging was kept"
    assert keys_of(day) == whole(day)


def test_messages_of_pubsub_that_come_twice_are_one_prediction(monkeypatch):
    topic = Topic()
    with worker_of() as worker, topic.listening() as host:
        topic.url = f"{worker}/predict"
        monkeypatch.setenv(dispatch.EMULATOR, host)
        monkeypatch.setenv(dispatch.TOPIC, "projects/p/topics/t")
        with coordinator_of() as url:
            answer = start(url, run="a", wait_s=60)
            assert answer.status_code == 200, answer.text
        topic.wait()
    assert topic.answers == {200: 2 * len(topic.published)}
    assert {one["batch_id"] for one in topic.published} == {answer.json()["batch_id"]}
    assert keys_of(small_day()) == whole(small_day())


def test_a_topic_that_is_none_and_two_ways_at_once_are_refused():
    predictor = Predictor("local", season)
    with pytest.raises(settings.onerow.ConfigurationError, match="both set"):
        dispatch.dispatch_of(predictor, {dispatch.TOPIC: "projects/p/topics/t", dispatch.WORKERS: "http://w"})
    with pytest.raises(settings.onerow.ConfigurationError, match="projects/PROJECT/topics/TOPIC"):
        dispatch.dispatch_of(predictor, {dispatch.TOPIC: "t"})
    assert isinstance(dispatch.dispatch_of(predictor, {}), dispatch.InProcess)


def test_pubsub_that_refuses_is_told(monkeypatch):
    topic = Topic()
    with topic.listening() as host:
        there = dispatch.ThroughPubSub("projects/p/topics/other", {dispatch.EMULATOR: host})
        with open_batch_states("local") as batches:
            monkeypatch.setattr("predictions.coordinator.fan_out.PAUSE_S", 0.0)
            run = PredictionCoordinator(batches, season, there).start(small_day(), "a")
        there.close()
    assert all("answers 404" in why for why in run.failed.values())
    assert len(run.failed) == len(run.workers)


def test_the_switch_for_emergencies_holds_for_the_coordinator_too(monkeypatch, caplog):
    monkeypatch.setenv(settings.LOCK_SWITCH, "false")
    with open_batch_states("local") as batches:
        coordinator = PredictionCoordinator(batches, season, dispatch.InProcess(Predictor("local", season)))
        run = coordinator.start(small_day(), "a")
        assert batches.wait(run.batch_id, 60).state == "done"
    assert any(line.startswith("CONSOLIDATION LOCK IS DISABLED") for line in caplog.messages)
    assert keys_of(small_day()) == whole(small_day())


def test_on_the_emulators_of_the_cloud(cloud, moving):
    day = small_day()
    with open_batch_states(cloud.project_id) as batches:
        predictor = Predictor(cloud.project_id, season)
        coordinator = PredictionCoordinator(batches, season, dispatch.InProcess(predictor), players_per_worker=100)
        for name in ("scheduled", "retry"):
            run = coordinator.start(day, name)
            assert batches.wait(run.batch_id, 120).state == "done"
    assert keys_of(day, cloud.project_id, moving.bigquery) == whole(day)
    assert list(moving.firestore.collection("consolidation_locks").stream()) == []


def test_shares_are_even_whole_and_always_the_same():
    candidates = season().candidates(small_day())
    for count in (1, 2, 7, len(candidates)):
        found = shares(candidates, count)
        assert [one for share in found for one in share] == list(candidates)
        assert max(map(len, found)) - min(map(len, found)) <= 1
    assert game_date_of("20260111_010634_retry").isoformat() == "2026-01-11"
    with pytest.raises(settings.onerow.UsageError, match="does not begin with a date"):
        game_date_of("retry")
