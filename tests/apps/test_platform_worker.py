"""The worker service: predicts and stages, however often it is asked; what cannot be done is never dropped."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import httpx
import pytest

from onerow.adapters.bigquery.patience import Patience
from onerow.testing.proxy import Proxy
from predictions import reading
from predictions.serving import BehindIam, access_of
from support.nba import BATCH, settings
from support.predicting import expected_keys, request_for, season, small_day, worker_of
from support.pubsub import Topic


@pytest.fixture
def url():
    with worker_of() as url:
        yield url


def post(url, body, **more):
    return httpx.post(f"{url}/predict", json=body, timeout=60, **more)


def rows():
    with reading.open_reader("local") as reader:
        return reader.rows("select * from {predictions} where game_date = $day order by prediction_id", day=small_day())


def test_it_predicts_and_stages_and_again_it_is_the_same_part(url, local):
    asked = request_for(small_day())
    first, again = post(url, asked), post(url, asked)
    lines = sum(len(one["lines"]) for one in asked["players"])
    assert (first.status_code, first.json()["status"], first.json()["predictions"]) == (200, "staged", 4 * lines)
    assert (again.json()["status"], again.json()["part_id"]) == ("already_staged", first.json()["part_id"])
    other = post(url, {**asked, "players": asked["players"][:3]}).json()
    assert other["worker_id"] != first.json()["worker_id"], "other players are another share"
    answer = httpx.post(f"{url}/consolidate", json={"batch_id": BATCH, "game_date": f"{small_day()}"}, timeout=60)
    assert (answer.status_code, answer.json()["rows_affected"]) == (200, 4 * lines)
    found = rows()
    assert {(one["game_id"], one["player_lookup"], one["system_id"], one["current_points_line"]) for one in found} < expected_keys(small_day())
    assert {one["created_at"].isoformat() for one in found} == {"2026-01-17T12:00:00+00:00"}, "the batch's own moment"
    assert all(0 <= one["confidence"] <= 1 for one in found)
    assert {one["recommendation"] == "NO_LINE" for one in found if one["current_points_line"] is None} == {True}
    assert post(url, asked).json()["status"] in {"already_staged", "already_merged"}
    assert local.consolidate(day=f"{small_day()}").rows_affected == 0


def test_the_lines_that_a_team_greps_for_are_in_this_service(url, caplog):
    post(url, request_for(small_day(), players=2))
    caplog.clear()
    httpx.post(f"{url}/consolidate", json={"batch_id": BATCH, "game_date": f"{small_day()}"}, timeout=60)
    for line in ("Acquiring consolidation lock", "Acquired consolidation lock", "Executing MERGE for batch",
                 "Running post-consolidation validation", "Post-consolidation validation PASSED", "MERGE complete:",
                 "Released consolidation lock", "Consolidation MERGE complete"):  # fmt: skip
        assert any(one.startswith(line) for one in caplog.messages), line


def test_a_consolidation_that_fails_is_an_error(url):
    answer = httpx.post(f"{url}/consolidate", json={"batch_id": "never_seen", "game_date": f"{small_day()}"}, timeout=60)
    assert (answer.status_code, answer.json()["kind"]) == (409, "not_consolidated")
    assert "never_seen" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch_id": "no-moment"}, "say created_at"),
        ({"batch_id": "20260117_120000\n"}, "batch"),
        ({"players": []}, "players"),
        ({"game_date": "yesterday"}, "game_date"),
        ({"surprise": 1}, "surprise"),
        ({"created_at": "2026-01-17T12:00:00"}, "created_at"),
    ],
)
def test_a_request_that_is_none_is_refused_with_the_place(url, change, told):
    answer = post(url, {**request_for(small_day()), **change})
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_request")
    assert told in answer.json()["detail"]
    assert httpx.post(f"{url}/predict", content=b"{").status_code == 422


def test_a_player_stands_once(url):
    asked = request_for(small_day(), players=1)
    assert "twice" in post(url, {**asked, "players": asked["players"] * 2}).json()["detail"]


def envelope(body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return base64.b64encode(data).decode()


def test_a_message_that_is_delivered_again_is_the_same_part(url, local):
    topic = Topic()
    topic.url = f"{url}/predict"
    asked = request_for(small_day())
    first = topic.push(envelope(asked))
    again = topic.push(envelope(asked), message_id="another-id")
    assert (first.json()["status"], again.json()["status"]) == ("staged", "already_staged")
    assert first.json()["part_id"] == again.json()["part_id"]
    assert len(local.states()) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(envelope(b"\xff\x00 no json"), id="no-json"),
        pytest.param(envelope({"players": "all"}), id="other-fields"),
        pytest.param("@@ no base64 @@", id="no-base64"),
        pytest.param("", id="empty"),
    ],
)
def test_a_message_that_can_never_be_done_is_kept_told_and_taken_once(url, data, caplog):
    topic = Topic()
    topic.url = f"{url}/predict"
    assert topic.push(data, message_id="m-7").json()["status"] == "dead_letter"
    topic.push(data, message_id="m-7")
    assert topic.answers == {200: 2}, "it does not come for ever"
    (kept,) = (settings.folder_of("local") / "dead_letters").iterdir()
    letter = json.loads(kept.read_text())
    assert (letter["message_id"], json.loads(letter["body"])["message"]["data"]) == ("m-7", data)
    assert any(record.levelname == "ERROR" and "Dead letter" in record.message for record in caplog.records)


def test_with_a_dead_letter_topic_it_goes_there(url):
    topic = Topic(max_attempts=5)
    topic.url = f"{url}/predict"
    topic.push(envelope({"players": "all"}))
    assert (topic.answers, topic.dead) == ({422: 5}, [envelope({"players": "all"})])
    assert not (settings.folder_of("local") / "dead_letters").exists()


def test_a_letter_that_cannot_be_kept_is_not_taken(url, monkeypatch):
    folder = settings.folder_of("local") / "dead_letters"
    folder.write_text("a file is in the way")
    body = {"message": {"data": "@@", "messageId": "1"}}
    assert post(url, body).status_code == 500
    folder.unlink()
    assert post(url, body).status_code == 200


class Opened:
    """Opens stores for a service, and knows which are open."""

    def __init__(self):
        self.count = 0
        self.open = set()

    def __call__(self, configured):
        store, number = settings.onerow.open(configured), self.count
        self.count += 1
        self.open.add(number)
        close = store.close

        def closed():
            self.open.remove(number)
            close()

        store.close = closed
        return store


def test_what_could_not_be_done_now_is_asked_for_again_of_another_store():
    """Nobody knows whether the connections of a store are still good that has met a staging that is away."""
    opened, staging = Opened(), settings.settings_of("local").staging
    body = {"message": {"data": envelope(request_for(small_day())), "messageId": "1"}}
    with worker_of(opens=opened) as url:
        shutil.rmtree(staging, ignore_errors=True)
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text("no folder")
        assert post(url, body).status_code >= 500
        assert (opened.count, opened.open) == (1, set())
        staging.unlink()
        assert post(url, body).json()["status"] == "staged"
        assert (opened.count, opened.open) == (2, {1})


def test_stores_stay_open_between_requests_until_the_service_stops(monkeypatch, local):
    opened, asked = Opened(), request_for(small_day(), players=6)
    with worker_of(opens=opened) as url, monkeypatch.context() as patched:
        patched.setattr(settings, "open_store", None)  # which opens one for each request
        for number in range(6):
            post(url, {**asked, "players": asked["players"][number:]}).raise_for_status()
        assert (opened.count, opened.open) == (1, {0})
        shares = [{**asked, "players": [one], "batch_id": f"{BATCH}_at_once"} for one in asked["players"]]
        with ThreadPoolExecutor(len(shares)) as threads:
            answers = [answer.json() for answer in threads.map(partial(post, url), shares)]
        assert [one["status"] for one in answers] == ["staged"] * len(shares)
        assert len({one["part_id"] for one in answers}) == len(shares)
        assert opened.count <= settings.settings_of("local").serve.stores
        assert len(opened.open) == opened.count
    assert not opened.open
    assert (len(local.states()), len(local.states(f"{BATCH}_at_once"))) == (6, len(shares))


def pushed(url, asked):
    return post(url, {"message": {"data": envelope(asked), "messageId": "1"}})


def test_after_a_warehouse_that_was_away_the_next_request_is_done(cloud, monkeypatch):
    """BigQuery over a line that is cut; staging is there too."""
    opened, day = Opened(), small_day()
    place = urlsplit(os.environ[settings.EMULATOR])
    with Proxy((place.hostname, place.port)) as line:
        monkeypatch.setenv(settings.EMULATOR, f"http://127.0.0.1:{line.port}")
        with worker_of(cloud.project_id, opens=opened) as url:
            assert pushed(url, request_for(day, players=1)).json()["status"] == "staged"
            with monkeypatch.context() as patched:
                patched.setattr(Patience, "wait", lambda _: False)  # it gives up at once, not after two minutes
                line.refuse()
                line.cut()
                assert pushed(url, request_for(day, players=2)).status_code in {500, 503}, "it is delivered again"
            line.refuse(False)
            assert pushed(url, request_for(day, players=2)).json()["status"] == "staged"
            assert len(opened.open) == 1
    assert not opened.open


def test_staging_into_a_folder_needs_no_warehouse():
    opened, day = Opened(), small_day()
    warehouse = settings.settings_of("local").warehouse.path
    with worker_of(opens=opened) as url:
        warehouse.rename(warehouse.with_suffix(".away"))
        warehouse.write_text("no database")
        assert [pushed(url, request_for(day, players=1)).json()["status"] for _ in range(2)] == ["staged", "already_staged"]
        assert opened.open == {0}


def test_health_and_deep_health_really_look(url):
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
    deep = httpx.get(f"{url}/health/deep", timeout=30).json()
    assert (deep["status"], [one["name"] for one in deep["parts"]]) == ("ok", ["warehouse", "locks", "staging"])
    path = settings.settings_of("local").warehouse.path
    path.rename(path.with_suffix(".away"))
    with worker_of_a_broken_project() as other:
        answer = httpx.get(f"{other}/health/deep", timeout=30)
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert any("warehouse" in reason for reason in answer.json()["reasons"])


def worker_of_a_broken_project():
    from onerow.faces.http.security import Access
    from predictions.worker import worker
    from support.services import listening

    return listening(worker.create("local", settings.settings_of("local"), Access(anybody=True), season=season))


def test_behind_iam_whoever_was_let_in_may_write_and_no_more(caplog):
    environ = {"NBA_PROPS_BEHIND_IAM": "true", "ONEROW_TOKENS_ADMIN": "admin-token-0123456789"}
    access = access_of(environ, host="0.0.0.0")  # noqa: S104 -- what a container binds to
    assert isinstance(access, BehindIam)
    with worker_of(access=access) as url:
        assert post(url, request_for(small_day(), players=1)).status_code == 401, "Cloud Run hands the header on"
        let_in = {"Authorization": "Bearer header.claims.SIGNATURE_REMOVED_BY_GOOGLE"}
        assert post(url, request_for(small_day(), players=1), headers=let_in).status_code == 200
    assert access.by_token("admin-token-0123456789").role.name == "ADMIN"
    assert access.by_token("anything").role.name == "WRITE"
    with pytest.raises(settings.onerow.ConfigurationError, match="binds to loopback only"):
        access_of({}, host="0.0.0.0")  # noqa: S104 -- what a container binds to
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
