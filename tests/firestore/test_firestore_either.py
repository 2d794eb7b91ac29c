"""What runs on the double and, where ``ONEROW_TEST_FIRESTORE`` names one, on a real database: no faults, few writes."""

from __future__ import annotations

import json
import multiprocessing
import time
from functools import partial

import pytest

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.adapters.locks.firestore import FirestoreLocks
from onerow.core.partitions import Scope
from onerow.services.leases import LEASE_PREFIX, Leases, LeaseSettings
from onerow.testing.conformance.asking import eventually
from support import firestore

SCOPE = Scope("t", "2026-01-11")
PROCESSES, TURNS = 3, 4


@pytest.fixture(params=["own documents", "shared documents"])
def open_store(request):
    """What opens the store in any process, on an empty collection."""
    scratch = firestore.Scratch()
    template = f"{scratch.shared_collection}/consolidation_{{partition}}"
    shared = {} if request.param == "own documents" else {f"{LEASE_PREFIX}{SCOPE.table}": template}
    yield partial(FirestoreLocks, scratch.place, collection=scratch.collection, shared=shared)
    scratch.clear()


@pytest.fixture
def store(open_store):
    store = open_store()
    yield store
    store.close()


def leases(store, **settings):
    return Leases(
        store=store, clock=SystemClock(), background=Threads(), ids=SystemIds(), settings=LeaseSettings(**settings)
    )


def take_turns(open_store, log, number):
    """Hold the lease several times; no two hold it at once, and every time the token is higher than all before."""
    store = open_store()
    for _ in range(TURNS):
        with leases(store).hold([SCOPE], holder=str(number), batch="b", max_wait_s=120) as held:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(["takes", number, held.tokens[SCOPE]]) + "\n")
            time.sleep(0.02)
            held.raise_if_cancelled()
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(["gives", number, held.tokens[SCOPE]]) + "\n")
    store.close()


def test_processes_hold_a_lease_one_after_the_other(open_store, tmp_path):
    log = tmp_path / "log.ndjson"
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=take_turns, args=(open_store, log, number)) for number in range(PROCESSES)]
    for child in children:
        child.start()
    for child in children:
        child.join(180)
    assert [child.exitcode for child in children] == [0] * PROCESSES
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    taken, given = events[::2], events[1::2]
    assert [event[1:] for event in taken] == [event[1:] for event in given], "nobody takes what another holds"
    assert {event[0] for event in taken} == {"takes"}
    tokens = [token for _, _, token in taken]
    assert len(tokens) == PROCESSES * TURNS
    assert tokens == sorted(set(tokens))


def test_a_lease_whose_process_was_killed_is_had_when_it_ends(open_store, store, tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=hold_for_ever, args=(open_store,))
    child.start()
    eventually(lambda: (store.read(f"{LEASE_PREFIX}{SCOPE}").value or {}).get("owner"), "the child holds it")
    first = store.read(f"{LEASE_PREFIX}{SCOPE}").value["token"]
    child.kill()
    child.join(20)
    begun_s = time.monotonic()
    with leases(store).hold([SCOPE], holder="next", batch="b", max_wait_s=60) as held:
        assert held.tokens[SCOPE] > first
        assert time.monotonic() - begun_s < 30


def hold_for_ever(open_store):
    with leases(open_store(), duration_s=2.0, renew_every_s=0.5).hold([SCOPE], holder="gone", batch="b"):
        time.sleep(300)


def test_tokens_grow_over_deletion_by_hand(store):
    tokens = []
    for _ in range(3):
        with leases(store).hold([SCOPE], holder="me", batch="b") as held:
            tokens.append(held.tokens[SCOPE])
            entry = store.read(f"{LEASE_PREFIX}{SCOPE}")
            assert store.swap(entry.key, expected=entry.version, value=None) is not None
            assert not held.renew()
    assert tokens == sorted(set(tokens))
