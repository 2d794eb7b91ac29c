"""Errors as answers: the status of every kind, and nothing of the inside with a 500."""

from __future__ import annotations

import pytest

from onerow import errors
from onerow.faces.http import problems, refusals

EXPECTED = {
    "notifier": 500,
    "usage": 400, "configuration": 500, "not_installed": 503, "lock_store_mismatch": 503, "plan_outdated": 409,
    "data": 422, "input_file": 422, "part_refused": 422, "row_refused": 422, "part_misfit": 409, "duplicates": 409,
    "lock_timeout": 409, "warehouse_busy": 503, "conflict": 409, "retries_exhausted": 503, "fenced": 409,
    "lease_lost": 409, "stale_lease": 409, "outcome_unknown": 503, "verification": 500, "warehouse": 500,
    "lock_store": 503, "staging": 500, "part_gone": 500, "part_corrupt": 500, "batch_not_found": 404, "error": 500,
    "batch_conflict": 409, "part_not_staged": 409, "abandoned": 409,
    "holder_alive": 409,
    "request": 400, "not_found": 404, "unauthorized": 401, "forbidden": 403, "too_large": 413,
    "unsupported_media_type": 415, "slow_body": 408, "incomplete_body": 400, "too_many_requests": 429, "busy": 503,
}  # fmt: skip


def of_module(module):
    return [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, errors.OnerowError)]


@pytest.mark.parametrize(
    "kind", sorted({*of_module(errors), *of_module(refusals)}, key=lambda kind: kind.kind), ids=lambda kind: kind.kind
)
def test_every_kind_of_error_has_its_status(kind):
    error = kind("what happened", hint="what to do")
    answer = problems.answer(error, "r1")
    body = answer.body.decode()
    assert answer.status_code == EXPECTED[kind.kind]
    assert answer.media_type == "application/problem+json"
    assert f'"kind":"{kind.kind}"' in body
    assert ("what happened" in body) == (answer.status_code != 500)
    if answer.status_code == 500:
        assert "r1" in body


def test_what_is_over_by_itself_says_when_to_come_again():
    assert problems.answer(refusals.BusyError("x", retry_after_s=2.2)).headers["retry-after"] == "3"
    assert problems.answer(errors.LockStoreError("x")).headers["retry-after"] == "5"
    assert "retry-after" not in problems.answer(errors.UsageError("x")).headers


def test_bad_rows_and_keys_and_near_names_are_told():
    body = problems.answer(errors.PartRefusedError("x", problems=[f"row {n}" for n in range(30)], problem_count=30)).body
    assert b'"problem_count":30' in body
    assert b"row 9" in body
    assert b"row 10" not in body
    assert b'"near":["b-1"]' in problems.answer(errors.BatchNotFoundError("x", near=["b-1"])).body


def test_what_is_not_there_and_what_is_not_taken_are_problems(worker):
    for method, path, status in (("GET", "/nothing", 404), ("POST", "/health", 405), ("GET", "/health/", 404), ("GET", "/docs", 404)):
        answer = worker.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json()["status"] == status


def test_an_invalid_request_is_told_by_place_not_by_value(coordinator):
    answer = coordinator.post("/v1/session", json={"token": 7, "other": "a-value-of-the-caller"})
    assert answer.status_code == 422
    assert "body.token" in answer.json()["detail"]
    assert "a-value-of-the-caller" not in answer.text
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b"null"):
        answer = coordinator.post("/v1/session", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in {400, 422}, content[:10]
        assert answer.headers["content-type"] == "application/problem+json"
