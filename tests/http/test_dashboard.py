"""The page of the person on call: who may see and do what, what it says, and that no name breaks out of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from onerow.config import parse_url
from onerow.core.partitions import Scope
from onerow.faces.http.app import create_coordinator
from support.bench import predictions
from support.night import HOSTILE, Night
from support.services import BASE, TOKENS, headers

LOCK = Scope("predictions", "2026-01-10")


@pytest.fixture
def night(tmp_path):
    """An empty store that is configured and created."""
    return Night(tmp_path)


@pytest.fixture
def page(night, access, serving):
    """A client of a coordinator over ``night``, with the token of an admin."""
    client = serving(create_coordinator(night.settings, access=access), follow_redirects=False)
    client.headers.update(headers("admin"))
    return client


class Read(HTMLParser):
    """A page as a browser would understand it: tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.links, self.ids = [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "a":
            self.links.append(found.get("href"))
        if "id" in found:
            self.ids.append(found["id"])

    def handle_data(self, data):
        self.words.append(data)


def read(client, path="/", status=200):
    answer = client.get(path)
    assert answer.status_code == status, answer.text[:400]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Read(answer.text)


def headline(seen):
    return re.search(r"Act now|Cannot tell|Have a look|All is well", seen.text).group()


@contextmanager
def held_by_another_process(path):
    """Have another process keep the warehouse's file open."""
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        yield
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


# --- what it says --------------------------------------------------------------------------------


def test_an_empty_store_says_what_is_not_known_and_breaks_nothing(page):
    seen = read(page)
    assert headline(seen) == "Cannot tell"
    assert "predictions was not checked yet" in seen.text
    assert "No batch was handed in yet." in seen.text
    assert "Nobody holds a lock." in seen.text
    assert page.get("/v1/overview").json()["verdict"]["level"] == "unknown"


def test_when_all_is_well_it_says_so_in_words(night, page):
    night.well()
    seen = read(page)
    assert headline(seen) == "All is well"
    assert "3 of 3" in seen.text  # parts merged
    told = page.get("/v1/overview").json()
    assert told["verdict"] == {"level": "well", "headline": "All is well", "reasons": []}
    assert told["figures"]["value"]["total"]["verified"] == 2
    assert [check["state"] for check in told["checks"]["value"]] == ["clean", "clean"]


def test_duplicates_are_told_first_and_lead_to_their_keys(night, page):
    night.well()
    night.duplicate(3)
    seen = read(page)
    assert headline(seen) == "Act now"
    assert "3 keys of predictions stand more than once (3 rows too many)." in seen.text
    assert "/tables/predictions/duplicates" in seen.links
    before = read(page, "/tables/predictions/duplicates")
    assert "Nothing was looked at yet." in before.text
    looked = read(page, "/tables/predictions/duplicates?look=1&partition=2026-01-10")
    assert "lebronjames-0" in looked.text
    assert "onerow dedupe --table predictions --partition 2026-01-10" in looked.text
    told = page.get("/v1/duplicates", params={"table": "predictions"}).json()
    assert (told["duplicate_keys"], told["duplicates"][0]["rows"]) == (3, 2)


def test_looking_at_the_whole_table_renews_what_the_page_knows(night, page):
    assert headline(read(page)) == "Cannot tell"
    for table in ("predictions", "odds"):
        read(page, f"/tables/{table}/duplicates?look=1")
    assert headline(read(page)) == "All is well"


def test_a_lock_that_nobody_renews_is_a_reason_and_one_that_is_alive_is_not(night, page):
    night.well()
    with night.store() as store:
        night.holds(store, LOCK)
        assert headline(read(page)) == "All is well"
        night.holds(store, Scope("predictions", "2026-01-11"), renewed_ago_s=700, lasts_s=30)
    page.app.state.desk.lookout.forget("locks")
    seen = read(page)
    assert headline(seen) == "Have a look"
    assert "has not renewed it for 11 min" in seen.text
    told = page.get("/v1/locks").json()["value"]
    assert [(lock["scope"], lock["state"], lock["renewals"]) for lock in told] == [
        ("predictions/2026-01-10", "held", 6),
        ("predictions/2026-01-11", "expired", 6),
    ]


def test_incidents_quarantine_backlog_and_batches_are_shown(night, page):
    night.well()
    with night.store() as store:
        night.incident(store)
        night.waits(store, "2026-01-19")
        night.quarantines(store)
    seen = read(page)
    assert headline(seen) == "Act now"
    assert "Partition: 2026-01-10" in seen.text
    assert "onerow check --table predictions" in seen.text
    assert "2 rows put aside." in seen.text
    assert page.get("/v1/incidents").json()["value"][0]["fingerprint"] == "duplicates/predictions"
    told = page.get("/v1/overview").json()
    assert [(item["table"], item["parts"], item["rows"]) for item in told["backlog"]["value"]] == [
        ("predictions", 1, 25),
        ("odds", 1, 4),
    ]
    batches = {batch["batch"]: batch["state"] for batch in told["batches"]["value"]}
    assert batches == {"2026-01-19": "staged", "odds-1": "staged", "2026-01-17": "merged"}


def test_one_consolidation_is_shown_partition_by_partition(night, page):
    with night.store() as store:
        result = night.merge(store, "2026-01-17")
    link = f"/consolidations/{result.consolidation}"
    assert link in read(page).links
    seen = read(page, link)
    assert "2026-01-10" in seen.text
    assert "2026-01-11" in seen.text
    assert "everything that waited is in the table" in seen.text
    told = page.get(f"/v1{link}").json()
    assert [part["status"] for part in told["result"]["partitions"]] == ["committed", "committed"]
    assert read(page, "/consolidations/none", 404).text.count("none") >= 1
    assert page.get("/v1/consolidations/none").json()["kind"] == "not_found"


def test_figures_of_days_before_stand_as_pictures_and_as_tables(night, page):
    with night.store() as store:
        night.journal(store, days=6)
    seen = read(page)
    pictures = [found for tag, found in seen.tags if tag == "svg" and found.get("role") == "img"]
    assert len(pictures) == 5  # nothing was checked, so there is none of duplicates
    assert all(set(found["aria-labelledby"].split()) <= set(seen.ids) for found in pictures)
    assert len(seen.ids) == len(set(seen.ids)), "an identity stands twice"
    total = page.get("/v1/overview").json()["figures"]["value"]["total"]
    assert total["consolidations"] == sum(total["outcomes"].values()) > 40
    assert 0 < total["pass_rate"] < 1
    assert f"{total['verified']:,} passed, {total['refused']:,} failed" in seen.text


# --- names -----------------------------------------------------------------------------------------


def test_no_name_breaks_out_of_html_attributes_addresses_or_pictures(night, page):
    with night.store() as store:
        store.stage("predictions", predictions(5, seed="h"), batch=HOSTILE, worker=HOSTILE)
        result = store.consolidate("predictions", HOSTILE)
        store.runs.record(result, elapsed_s=1.0, holder=HOSTILE)
        night.holds(store, LOCK, holder=HOSTILE, batch=HOSTILE, renewed_ago_s=700, lasts_s=30)
        night.incident(store, what=HOSTILE, command=HOSTILE, members={HOSTILE: 0}, level="WARNING")
        night.quarantines(store, batch=HOSTILE, worker=HOSTILE)
        store.locks.force_release("predictions/2026-01-10", reason=HOSTILE, by=HOSTILE)
    night.duplicate(2, player=HOSTILE)
    batch = f"/tables/predictions/batches/{quote(HOSTILE, safe='')}"
    paths = ["/", batch, f"/consolidations/{result.consolidation}", "/tables/predictions/duplicates?look=1"]
    paths.append(f"/tables/predictions/duplicates?look=1&partition={quote(HOSTILE, safe='')}")
    for path in paths:
        answer = page.get(path)
        seen = Read(answer.text)
        assert "<img" in seen.text, path  # as words
        assert not [found for tag, found in seen.tags if tag in {"img", "iframe", "object"}], path
        assert not [name for _, found in seen.tags for name in found if name.startswith("on") or name == "style"], path
        assert not [found for tag, found in seen.tags if tag == "script" and not found["src"].startswith("/static/")]
        assert "49" not in re.findall(r"%2f(\w+)", seen.text), "a template ran what a name says"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert batch in read(page).links
    assert page.get("/v1/overview").headers["content-type"] == "application/json"


# --- who may do what --------------------------------------------------------------------------------


def test_who_is_not_logged_in_is_sent_to_the_login_and_back(page):
    page.headers.pop("authorization")
    for path in ("/", "/tables/predictions/duplicates?partition=2026-01-10"):
        answer = page.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login")
    where = answer.headers["location"]
    assert "Log in" in read(page, where).text
    wrong = page.post(where, data={"token": "none-that-is-known"})
    assert (wrong.status_code, "none that this service knows" in wrong.text) == (401, True)
    right = page.post(where, data={"token": TOKENS["read"]})
    assert (right.status_code, right.headers["location"]) == (303, path)
    assert "local" not in read(page).text
    assert page.post("/logout").status_code == 303
    assert page.get("/").status_code == 303


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_nobody_is_sent_to_another_site_after_the_login(page, elsewhere):
    page.headers.pop("authorization")
    answer = page.post(f"/login?next={quote(elsewhere, safe='')}", data={"token": TOKENS["read"]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize("role", ["read", "write"])
def test_only_admins_are_offered_actions_and_only_they_may(night, page, role):
    with night.store() as store:
        night.holds(store, LOCK, renewed_ago_s=700, lasts_s=30)
        night.waits(store, "b")
    assert [found for tag, found in read(page).tags if tag == "button" and "data-opens" in found]
    page.headers.update(headers(role))
    seen = read(page)
    assert not [found for tag, found in seen.tags if tag == "button" and "data-opens" in found]
    assert not [found for tag, found in seen.tags if tag == "dialog"]
    body = {"scope": str(LOCK), "reason": "host is gone"}
    assert page.post("/v1/locks/force-release", json=body).status_code == 403
    again = {"table": "predictions", "batch": "b", "reason": "again"}
    assert page.post("/v1/batches/consolidate-again", json=again).status_code == 403
    with night.store() as store:
        assert store.locks.lock(str(LOCK)).state == "expired"


def test_an_action_of_a_session_needs_the_token_against_forgery(night, page):
    with night.store() as store:
        night.holds(store, LOCK, renewed_ago_s=700, lasts_s=30)
    page.headers.pop("authorization")
    page.post("/login", data={"token": TOKENS["admin"]})
    body = {"scope": str(LOCK), "reason": "host is gone"}
    assert page.post("/v1/locks/force-release", json=body).status_code == 403
    csrf = next(found["data-csrf"] for tag, found in read(page).tags if tag == "body")
    elsewhere = {"X-CSRF-Token": csrf, "Origin": "http://evil.example"}
    assert page.post("/v1/locks/force-release", json=body, headers=elsewhere).status_code == 403
    own = {"X-CSRF-Token": csrf, "Origin": BASE}
    assert page.post("/v1/locks/force-release", json=body, headers=own).status_code == 200


# --- taking a lock away -----------------------------------------------------------------------------


def test_a_dead_holder_loses_its_lock_and_the_audit_names_who_did_it(night, page):
    with night.store() as store:
        night.holds(store, LOCK, renewed_ago_s=700, lasts_s=30)
        assert page.post("/v1/locks/force-release", json={"scope": str(LOCK), "reason": " "}).status_code == 400
        told = page.post("/v1/locks/force-release", json={"scope": str(LOCK), "reason": "host is gone"}).json()
        assert told["fence"] == told["token"]
        assert told["message"].startswith("merger@host-7:4711 has lost the lock of predictions/2026-01-10. The fence")
        lock = store.locks.lock(str(LOCK))
        assert (lock.state, lock.forced_reason) == ("free", "host is gone")
        assert re.fullmatch(r"admin-\w{8} via .+", lock.forced_by)
        assert store.history("predictions")[0].action == "force_release"
    assert "taken away by admin-" in read(page).text


def test_a_holder_that_is_alive_is_left_alone_unless_it_is_said_twice(night, page):
    with night.store() as store:
        night.holds(store, LOCK)
    body = {"scope": str(LOCK), "reason": "it hangs"}
    refused = page.post("/v1/locks/force-release", json=body)
    assert (refused.status_code, refused.json()["kind"]) == (409, "holder_alive")
    assert page.post("/v1/locks/force-release", json={**body, "force": True}).status_code == 200


def test_a_second_step_that_could_not_be_done_is_told_and_can_be_done_later(night, page):
    with night.store() as store:
        night.holds(store, LOCK, renewed_ago_s=700, lasts_s=30)
    body = {"scope": str(LOCK), "reason": "host is gone"}
    with held_by_another_process(night.folder / "w.duckdb"):
        half = page.post("/v1/locks/force-release", json=body).json()
    assert half["fence"] is None
    assert half["message"].startswith("Half done.")
    assert half["fence_error"] in half["message"]
    assert "Raise the fence again" in read(page).text
    whole = page.post("/v1/locks/force-release", json=body).json()
    assert (whole["token"], whole["fence_error"]) == (half["token"], None)


# --- when something is down -----------------------------------------------------------------------


def test_a_warehouse_that_is_busy_hides_neither_the_locks_nor_that_it_was_not_seen(night, access, serving):
    night.well()
    page = serving(create_coordinator(night.settings, access=access), headers=headers("admin"))
    assert headline(read(page)) == "All is well"
    page.app.state.desk.lookout.forget("batches")
    with night.store() as store:
        night.holds(store, LOCK)
    page.app.state.desk.lookout.forget("locks")
    with held_by_another_process(night.folder / "w.duckdb"):
        seen = read(page)
    assert headline(seen) == "Cannot tell"
    assert "Could not look at batches and staging" in seen.text
    assert "What follows was seen" in seen.text
    assert "merger@host-7:4711" in seen.text
    assert "2026-01-17" in seen.text  # the batch as it was seen before


def test_a_store_that_is_down_is_told_by_the_page_and_as_a_problem(night, access, serving):
    away = parse_url("postgresql://nobody:secret-word@127.0.0.1:1/none?connect_timeout=1", night.folder)
    settings = replace(night.settings, warehouse=away, locks=away)
    page = serving(create_coordinator(settings, access=access), headers=headers("read"))
    seen = read(page, status=503)
    assert headline(seen) == "Cannot tell"
    assert "Could not look at locks" in seen.text
    assert "secret-word" not in seen.text
    problem = page.get("/v1/overview")
    assert problem.status_code == 503
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["kind"] in {"warehouse", "lock_store"}
    assert "secret-word" not in json.dumps(problem.json())


# --- pages that are not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/tables/none/duplicates", 404),
        ("/tables/predictions/batches/none", 404),
        ("/tables/predictions/duplicates?look=1&partition=no-date", 400),
        ("/tables/predictions/duplicates?look=maybe", 400),
        ("/static/none.css", 404),
        ("/static/..%2froutes.py", 404),
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(page, path, status):
    seen = read(page, path, status)
    assert "Overview" in seen.text


def test_static_files_are_kept_by_browsers_and_named_by_their_content(page):
    names = [found.get("href") or found["src"] for tag, found in read(page).tags if tag in {"link", "script"}]
    assert len(names) == 3
    page.headers.pop("authorization")
    for name in names:
        answer = page.get(name)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_registered_batch_tells_what_it_waits_for_and_that_it_is_late(night, page):
    night.well()
    where = "/v1/tables/predictions/batches/2026-01-20"
    asked = {"expected_parts": 3, "deadline_s": 2.0, "on_deadline": "leave"}
    assert page.put(where, json=asked).status_code == 201
    seen = read(page)
    assert headline(seen) == "All is well"
    assert "3 parts missing" in seen.text
    with night.store() as store:
        night.waits(store, "2026-01-20")
    deadline_s = time.monotonic() + 30
    while page.get(where).json()["state"] != "incomplete" and time.monotonic() < deadline_s:
        time.sleep(0.1)
    page.app.state.desk.lookout.forget("batches")
    seen = read(page)
    assert headline(seen) == "Have a look"
    assert "Batch 2026-01-20 of predictions is incomplete past its deadline." in seen.text
    assert "2 parts missing" in seen.text
    assert "incomplete, left" in seen.text


def test_what_the_monitor_finds_by_itself_is_on_the_page(tmp_path, access, serving):
    night = Night(tmp_path, monitor='every = "500ms"\ncheck_every = "500ms"\nsince = "30000d"')
    night.well()
    night.duplicate(2, check=False)
    page = serving(create_coordinator(night.settings, access=access), headers=headers("read"))
    deadline_s = time.monotonic() + 60
    while not (found := page.get("/v1/incidents").json()["value"]) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert ("CRITICAL", "predictions", True) in {(one["level"], one["table"], one["open"]) for one in found}
    seen = read(page)
    assert headline(seen) == "Act now"
    assert "Partition: 2026-01-10" in seen.text
    assert "onerow check --table predictions" in seen.text
