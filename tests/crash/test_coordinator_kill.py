"""Coordinators as real processes on one folder: killed and told to stop at any step, everything is merged once."""

from __future__ import annotations

import logging
import signal
import threading
import time

import pytest

from support.bench import DAY, predictions
from support.coordinators import Coordinating

KILLED = -signal.SIGKILL
PATIENCE_S = 60.0
LEASE_S = 1.5
"""Of those who are killed: who comes after them waits for no longer than this."""



@pytest.fixture
def requests(bench):
    """Requests to a coordinator of the bench that consolidates nothing itself."""
    one = Coordinating(bench.config)
    yield one.requests
    one.drain()


def until(check, what):
    deadline_s = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < deadline_s, what()
        time.sleep(0.02)


def until_done(requests, bench, *batches):
    def unfinished():
        found = [requests.status(bench.table, batch) for batch in batches]
        return [one.to_json() for one in found if one.state != "done" or one.parts_waiting]

    until(lambda: not unfinished(), unfinished)


def stage(bench, batch, *, parts=3, days=(DAY,)):
    with bench.open() as store:
        for number in range(parts):
            rows = [row for day in days for row in predictions(6, seed=f"{batch}-{number}-{day}", day=day)]
            bench.stage(store, rows, batch=batch, worker=f"w-{number}")


@pytest.mark.parametrize("step", ["leased", "merge", "committed", "retiring"])
def test_killed_at_a_step_another_coordinator_brings_the_batch_to_its_end(bench, processes, requests, step):
    requests.open(bench.table, "b", expected_parts=3)
    stage(bench, "b", days=(DAY, DAY.replace(day=11)))
    assert processes.coordinator(bench, halt=(step, "SIGKILL"), holder="dies", lease_s=LEASE_S).wait() == KILLED
    assert requests.status(bench.table, "b").claimed_by == "dies"
    processes.coordinator(bench, holder="lives")
    until_done(requests, bench, "b")
    bench.audit()
    with bench.open() as store:
        assert [run.holder for run in store.runs.list(bench.table)] in (["lives"], ["lives", "dies"])


def test_of_two_coordinators_one_is_killed_while_batches_come_in(bench, processes, requests):
    batches = [f"b{number}" for number in range(6)]
    for batch in batches:
        requests.open(bench.table, batch, expected_workers=2)
    victim = processes.coordinator(bench, halt=("merge", "SIGKILL", 3), holder="dies", lease_s=LEASE_S)
    processes.coordinator(bench, holder="lives", threads=1)
    for batch in batches:
        stage(bench, batch, parts=2)
        requests.report(bench.table, batch, [*bench.parts][-1])
    until_done(requests, bench, *batches)
    victim.kill()
    processes.coordinator(bench, holder="again")
    with bench.open() as store:
        late = bench.stage(store, predictions(4, seed="late"), batch="b0", worker="late")
    requests.report(bench.table, "b0", late.part_id)
    until_done(requests, bench, *batches)
    assert requests.status(bench.table, "b0").rounds >= 2
    bench.audit()


def test_told_to_stop_it_gives_up_waiting_for_a_lock_and_leaves_nothing_behind(bench, processes, requests):
    requests.open(bench.table, "b", expected_parts=3)
    stage(bench, "b")
    with bench.open() as store:
        with store.lock(bench.table, DAY.isoformat()):
            one = processes.coordinator(bench, holder="first", drain_s=0.2, claim_s=60.0)
            until(lambda: requests.status(bench.table, "b").state == "claimed", lambda: "nobody has claimed it")
            assert one.terminate() == {"drained": True}
            found = requests.status(bench.table, "b")
            assert (found.state, found.claimed_by, found.tries, found.rounds) == ("due", None, 0, 0)
        assert all(lock.state == "free" for lock in store.locks.locks())
    processes.coordinator(bench, holder="second")
    until_done(requests, bench, "b")
    bench.audit()


def test_told_to_stop_in_the_middle_of_a_merge_it_commits_nothing_more(bench, requests, caplog):
    requests.open(bench.table, "b", expected_parts=3)
    stage(bench, "b")
    inside, told = threading.Event(), threading.Event()

    def reach(step):
        if step == "merge" and not inside.is_set():
            inside.set()
            assert told.wait(PATIENCE_S)

    one = Coordinating(bench.config, reach=reach, claim_s=60.0)
    abandon = one.dispatcher.abandon

    def abandoned():
        abandon()
        told.set()

    one.dispatcher.abandon = abandoned
    one.start()
    assert inside.wait(PATIENCE_S)
    with caplog.at_level(logging.WARNING, logger="onerow"):
        assert one.drain(0.1)
    assert "onerow.batch_abandoned" in [record.message for record in caplog.records]
    assert bench.ledger() == []
    assert requests.status(bench.table, "b").state == "due"
    with bench.open() as store:
        assert all(lock.state == "free" for lock in store.locks.locks())
    second = Coordinating(bench.config).start()
    until_done(requests, bench, "b")
    assert second.drain()
    bench.audit()


def test_told_to_stop_it_finishes_what_can_be_finished(bench, requests):
    requests.open(bench.table, "b", expected_parts=3)
    stage(bench, "b")
    inside = threading.Event()

    def reach(step):
        if step == "merge":
            inside.set()
            time.sleep(0.3)

    one = Coordinating(bench.config, reach=reach).start()
    assert inside.wait(PATIENCE_S)
    assert one.drain(20.0)
    assert (requests.status(bench.table, "b").state, requests.status(bench.table, "b").rounds) == ("done", 1)
    bench.audit()


def test_a_defect_in_a_look_does_not_end_all_looking(bench, requests, caplog):
    one = Coordinating(bench.config)
    tick, failed = one.dispatcher.tick, threading.Event()

    def broken(free):
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("with data in it")
        return tick(free)

    one.dispatcher.tick = broken
    requests.open(bench.table, "b", expected_parts=3)
    stage(bench, "b")
    with caplog.at_level(logging.ERROR, logger="onerow"):
        one.start()
        until_done(requests, bench, "b")
        assert one.drain()
    (told,) = [record for record in caplog.records if record.message == "onerow.coordinator_failed"]
    assert (told.facts["kind"], told.facts["error"]) == ("unexpected", "ZeroDivisionError")


def test_what_was_claimed_and_not_begun_is_given_back(bench, requests):
    """It is told to stop while it looks: what the look has claimed is due again, for somebody else, at once."""
    one = Coordinating(bench.config, claim_s=60.0)
    tick, looking, told = one.dispatcher.tick, threading.Event(), threading.Event()

    def slow(free):
        work = tick(free)
        if work:
            looking.set()
            assert told.wait(PATIENCE_S)
        return work

    one.dispatcher.tick = slow
    stop = one.dispatcher.stop

    def stopped():
        stop()
        told.set()

    one.dispatcher.stop = stopped
    requests.open(bench.table, "b", expected_parts=3)
    stage(bench, "b")
    one.start()
    assert looking.wait(PATIENCE_S)
    assert one.drain(5.0)
    found = requests.status(bench.table, "b")
    assert (found.state, found.claimed_by, found.rounds) == ("due", None, 0)
