"""The coordinator over HTTP: batches are opened, reported, sealed, consolidated and cancelled, each request twice."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from urllib.parse import quote

import duckdb
import pytest

from onerow.bootstrap import open_store
from support.bench import prediction, predictions
from support.services import headers

PATIENCE_S = 30.0


def path_of(batch, *more):
    return "/".join(["/v1/tables/predictions/batches", quote(batch, safe=""), *more])


@pytest.fixture
def settings(settings):
    """Settings of a coordinator that looks often."""
    return replace(settings, coordinator=settings.coordinator.model_copy(update={"poll_every": 0.1}))


@pytest.fixture
def ask(coordinator):
    """Send a request as a caller of a role, twice: the second answer must say the same."""

    def send(method, path, *, role="write", once=False, **more):
        more["headers"] = {**headers(role), **more.get("headers", {})}
        first = coordinator.request(method, path, **more)
        if not once:
            second = coordinator.request(method, path, **more)
            assert second.status_code in {first.status_code, 200}, second.text
            if first.is_success:
                said, again = ({name: one.json()[name] for name in FIXED} for one in (first, second))
                assert said == again
        return first

    return send


FIXED = ("table", "batch", "registered", "expected_parts", "expected_workers", "opened_at", "deadline_at", "cancelled_reason")


@pytest.fixture
def stage(settings):
    """Stage a part without telling anybody."""

    def put(batch, worker, rows=5):
        with open_store(settings) as store:
            return store.stage("predictions", predictions(rows, seed=len(worker)), batch=batch, worker=worker).part_id

    return put


@pytest.fixture
def until(ask):
    """Wait until a batch is in a state."""

    def wait(batch, state):
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            found = ask("GET", path_of(batch), role="read", once=True).json()
            if found["state"] == state:
                return found
            assert time.monotonic() < deadline_s, found
            time.sleep(0.02)

    return wait


def merged(settings, batch):
    with open_store(settings) as store:
        return store.batches.batch(store.table("predictions"), batch)


def test_a_batch_is_consolidated_when_its_parts_are_reported(ask, stage, until, settings):
    opened = ask("PUT", path_of("b"), json={"expected_parts": 2})
    assert (opened.status_code, opened.json()["state"], opened.json()["missing_parts"]) == (201, "open", 2)
    assert opened.json()["opened_by"].startswith("write")
    first = ask("POST", path_of("b", "parts"), json={"part_id": stage("b", "w1")})
    assert (first.status_code, first.json()["missing_parts"]) == (200, 1)
    ask("POST", path_of("b", "parts"), json={"part_id": stage("b", "w22")})
    found = until("b", "done")
    assert (found["why"], found["complete"], found["parts"], found["parts_waiting"], found["rounds"]) == ("complete", True, 2, 0, 1)
    assert {part["worker"]: part["state"] for part in found["details"]} == {"w1": "retired", "w22": "retired"}
    assert merged(settings, "b").state == "merged"
    with open_store(settings) as store:
        (run,) = store.runs.list("predictions")
    assert (run.result.consolidation, run.result.status, run.via) == (found["consolidation"], "committed", "coordinator")


def test_a_late_part_starts_another_consolidation(ask, stage, until, settings):
    ask("PUT", path_of("b"), json={"expected_workers": 1})
    ask("POST", path_of("b", "parts"), json={"part_id": stage("b", "w1")})
    until("b", "done")
    ask("POST", path_of("b", "parts"), json={"part_id": stage("b", "w22")}, once=True)
    found = until("b", "done")
    assert (found["why"], found["rounds"], found["parts"]) == ("late", 2, 2)
    assert merged(settings, "b").parts_merged == 2


def test_a_part_that_is_never_reported_is_found(ask, stage, until):
    ask("PUT", path_of("b"), json={"expected_parts": 1})
    stage("b", "dies-before-it-reports")
    assert until("b", "done")["why"] == "complete"


def test_a_batch_that_nobody_opened_is_known_by_a_report_and_sealed(ask, stage, until):
    reported = ask("POST", path_of("day/one", "parts"), json={"part_id": stage("day/one", "w1")})
    assert (reported.json()["registered"], reported.json()["state"]) == (False, "open")
    assert ask("POST", path_of("day/one", "seal")).status_code == 202
    assert until("day/one", "done")["why"] == "sealed"


def test_its_deadline_comes_and_what_is_there_is_consolidated_or_left(ask, stage, until):
    for batch, on_deadline, state in (("merged", "consolidate", "done"), ("left", "leave", "incomplete")):
        stage(batch, "w1")
        ask("PUT", path_of(batch), json={"expected_parts": 2, "deadline_s": 0.2, "on_deadline": on_deadline})
        found = until(batch, state)
        assert (found["complete"], found["missing_parts"], found["incomplete_at"] is not None) == (False, 1, True)
    assert ask("POST", path_of("left", "consolidate"), once=True).status_code == 202
    assert until("left", "incomplete")["rounds"] in {0, 1}


def test_consolidating_now_merges_what_is_there_and_waits_for_the_rest(ask, stage, until):
    ask("PUT", path_of("b"), json={"expected_parts": 2})
    stage("b", "w1")
    assert ask("POST", path_of("b", "consolidate"), headers={"Idempotency-Key": "now"}).status_code == 202
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := until("b", "open"))["rounds"] == 0:
        assert time.monotonic() < deadline_s
    assert (found["parts_waiting"], found["missing_parts"], found["rounds"]) == (0, 1, 1)


def test_cancelling_keeps_the_staging_and_merges_nothing(ask, stage, settings):
    ask("PUT", path_of("b"), json={"expected_parts": 2})
    part = stage("b", "w1")
    assert ask("POST", path_of("b", "cancel"), json={"reason": "wrong day"}).json()["state"] == "cancelled"
    refused = ask("POST", path_of("b", "parts"), json={"part_id": part})
    assert (refused.status_code, refused.json()["kind"]) == (409, "batch_conflict")
    assert "wrong day" in refused.json()["detail"]
    assert ask("POST", path_of("b", "consolidate")).status_code == 409
    assert ask("POST", path_of("b", "seal")).status_code == 409
    assert merged(settings, "b").state == "staged"


def test_opening_with_other_expectations_is_refused_and_names_both(ask):
    ask("PUT", path_of("b"), json={"expected_parts": 2})
    other = ask("PUT", path_of("b"), json={"expected_workers": 3})
    assert (other.status_code, other.json()["kind"]) == (409, "batch_conflict")
    assert "parts 2" in other.json()["detail"]
    assert "workers 3" in other.json()["detail"]


def test_a_report_of_a_part_that_is_not_staged_is_refused(ask):
    answer = ask("POST", path_of("b", "parts"), json={"part_id": "p123"})
    assert (answer.status_code, answer.json()["kind"]) == (409, "part_not_staged")
    assert ask("GET", path_of("b"), role="read").status_code == 404


def test_an_idempotency_key_stands_for_one_request(ask, stage, until):
    stage("b", "w1")
    key = {"Idempotency-Key": "k1"}
    ask("POST", path_of("b", "consolidate"), headers=key)
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := until("b", "open"))["rounds"] == 0:
        assert time.monotonic() < deadline_s
    ask("POST", path_of("b", "consolidate"), headers=key)
    assert until("b", "open")["rounds"] == found["rounds"] == 1
    other = ask("POST", path_of("b", "seal"), headers=key)
    assert (other.status_code, other.json()["kind"]) == (400, "usage")


def test_what_nobody_knows_is_not_found(ask):
    for method, *more in (("GET",), ("POST", "seal"), ("POST", "consolidate")):
        answer = ask(method, path_of("nobody", *more))
        assert (answer.status_code, answer.json()["kind"]) == (404, "batch_not_found"), answer.text
    assert ask("POST", path_of("nobody", "cancel"), json={"reason": "r"}).status_code == 404
    assert ask("GET", "/v1/tables/none/batches/b", role="read").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ((), {"expected_parts": 0}),
        ((), {"expected_parts": "2"}),
        ((), {"deadline_s": -1}),
        ((), {"on_deadline": "explode"}),
        ((), {"unknown": 1}),
        (("parts",), {"part_id": "a\u0000b"}),
        (("parts",), {"part_id": "\ud800"}),
        (("cancel",), {"reason": ""}),
        (("cancel",), {"reason": "two\nlines"}),
    ],
)
def test_a_body_that_is_wrong_is_refused(path, body, coordinator):
    method = "POST" if path else "PUT"
    content = json.dumps(body)
    answer = coordinator.request(
        method, path_of("b", *path), content=content, headers={**headers("write"), "Content-Type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert answer.json()["kind"] == "invalid_request"


def test_roles(ask):
    for method, more, body in (
        ("PUT", (), {}),
        ("POST", ("parts",), {"part_id": "p"}),
        ("POST", ("seal",), None),
        ("POST", ("consolidate",), None),
        ("POST", ("cancel",), {"reason": "r"}),
    ):
        assert ask(method, path_of("b", *more), role="read", json=body).status_code == 403
    assert ask("GET", "/v1/batches", role="read", once=True).json() == {"batches": []}


def test_batches_are_listed_the_latest_changed_first(ask, stage, until):
    for batch in ("b1", "b2"):
        ask("PUT", path_of(batch), json={"expected_parts": 1})
    stage("b1", "w1")
    until("b1", "done")
    listed = ask("GET", "/v1/batches?table=predictions", role="read", once=True).json()["batches"]
    assert [(batch["batch"], batch["state"]) for batch in listed] == [("b1", "done"), ("b2", "open")]
    assert [one["batch"] for one in ask("GET", "/v1/batches?state=open&limit=1", role="read", once=True).json()["batches"]] == ["b2"]
    assert ask("GET", "/v1/batches?table=other", role="read", once=True).json() == {"batches": []}
    assert ask("GET", "/v1/batches?state=odd", role="read", once=True).status_code == 422


def test_a_failed_consolidation_keeps_its_reason_and_is_tried_again(ask, stage, until, settings):
    """The table holds duplicates that somebody else has made; when they are repaired the batch is merged by itself."""
    with open_store(settings) as store:
        store.stage("predictions", [prediction()], batch="before", worker="w")
        store.consolidate("predictions", "before")
    with duckdb.connect(str(settings.warehouse.path)) as connection:
        connection.execute("insert into predictions select * from predictions")
    ask("PUT", path_of("b"), json={"expected_parts": 1})
    stage("b", "w1")
    found = until("b", "failed")
    assert (found["error_kind"], found["tries"] >= 1, found["parts_waiting"]) == ("duplicates", True, 1)
    with open_store(settings) as store:
        assert store.repair("predictions", str(prediction()["game_date"])).success
    ask("POST", path_of("b", "consolidate"), once=True)
    found = until("b", "done")
    assert (found["error"], found["tries"], found["parts_waiting"]) == (None, 0, 0)
