"""The lock store on Firestore where replies are lost, listeners die, clocks are wrong and permissions are missing."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise

import pytest

from onerow.adapters.locks.firestore import FirestoreLocks
from onerow.adapters.locks.firestore_client import Place
from onerow.adapters.locks.firestore_documents import document_id
from onerow.core.partitions import Scope
from onerow.errors import LeaseLostError, LockAcquisitionError, LockStoreError
from onerow.services.leases import LEASE_PREFIX
from onerow.testing.conformance.asking import Beside, eventually
from onerow.testing.proxy import Proxy
from support.postgres import free_port

SCOPE = Scope("t", "2026-01-11")
KEY = f"{LEASE_PREFIX}{SCOPE}"
ODD_KEYS = (".", "..", "__x__", "__", "", "a/b", "/", "%", "%2F", "%identity", "%~", "é", "\0", "x" * 1400, "x" * 1401, "é" * 300, "é" * 301)


def put(store, key, value):
    return store.swap(key, expected=store.read(key).version, value=value)


def listening(control):
    """How many listeners have come."""
    return control.calls().get("Listen", 0)


# --- what is paid for ------------------------------------------------------------------------


def test_a_lease_is_taken_and_given_back_with_one_write_each(store, control, leases):
    held = leases(store)
    with held.hold([SCOPE], holder="me", batch="b"):
        pass
    control.count()
    with held.hold([SCOPE], holder="me", batch="b"):
        assert control.billed() == {"reads": 1, "writes": 1, "deletes": 0}
        assert control.calls() == {"BatchGetDocuments": 1, "Commit": 1}
        control.count()
    assert control.billed() == {"reads": 0, "writes": 1, "deletes": 0}
    assert control.calls() == {"Commit": 1}


def test_a_renewal_is_one_read_and_one_write(store, control, leases):
    with leases(store).hold([SCOPE], holder="me", batch="b") as held:
        control.count()
        assert held.renew()
    assert control.billed() == {"reads": 1, "writes": 2, "deletes": 0}


def test_a_swap_that_loses_writes_nothing_and_looks_once(store, control):
    version = put(store, "k", {"n": 1}).version
    put(store, "k", {"n": 2})
    control.count()
    assert store.swap("k", expected=version, value={"n": 3}) is None
    assert store.swap("k", expected="", value={"n": 3}) is None
    assert control.billed() == {"reads": 2, "writes": 0, "deletes": 0}


# --- replies that are lost, late or repeated -------------------------------------------------


@pytest.mark.parametrize("action", ["lose", "silence", "duplicate", "late", "swallow", "refuse", "delay"])
@pytest.mark.parametrize("held", [False, True])
def test_a_swap_is_carried_out_once_whatever_becomes_of_its_reply(opened, control, action, held):
    store = opened(answer_s=2.0)
    version = put(store, "k", {"n": 1}).version if held else ""
    control.count()
    control.rule("Commit", action, seconds=0.05)
    written = store.swap("k", expected=version, value={"n": 2})
    assert written is not None
    entry = store.read("k")
    assert (entry.value, entry.version) == ({"n": 2}, written.version)
    assert control.billed()["writes"] == 1
    assert store.swap("k", expected=written.version, value={"n": 3}) is not None


@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "CANCELLED"])
def test_a_commit_of_which_nobody_knows_is_found_by_what_it_wrote(store, control, status):
    control.rule("Commit", "lose", status=status)
    written = store.swap("k", expected="", value={"n": 1})
    assert written is not None
    assert written.version == store.read("k").version
    assert control.billed()["writes"] == 1


def test_a_write_that_is_lost_and_overwritten_is_not_called_one_way_or_the_other(opened, control):
    """Ours was carried out, its reply lost, and before we ask again somebody else has changed the document."""
    store, other = opened(), opened()
    version = put(store, "k", {"n": 1}).version
    control.rule("Commit", "lose", contains="mine")
    control.rule("Commit", "delay", seconds=0.5, contains="mine")
    swapping = Beside(lambda: store.swap("k", expected=version, value={"by": "mine"}))
    eventually(lambda: other.read("k").value == {"by": "mine"}, "it is written")
    put(other, "k", {"by": "theirs"})
    with pytest.raises(LockStoreError, match="not known"):
        swapping.result()
    assert other.read("k").value == {"by": "theirs"}


def test_a_deletion_of_which_nobody_knows_is_an_error(store, control):
    version = put(store, "k", {"n": 1}).version
    control.rule("Commit", "lose")
    with pytest.raises(LockStoreError, match="not known"):
        store.swap("k", expected=version, value=None)
    assert store.read("k").value is None


@pytest.mark.parametrize("action", ["lose", "silence", "swallow"])
def test_a_lease_is_held_once_whatever_becomes_of_replies(opened, control, leases, action):
    store = opened(answer_s=2.0)
    control.rule("Commit", action, times=2)
    control.rule("BatchGetDocuments", action, times=1)
    with leases(store).hold([SCOPE], holder="me", batch="b") as held:
        assert store.read(KEY).value["token"] == held.tokens[SCOPE]
        held.raise_if_cancelled()
    assert store.read(KEY).value["owner"] == ""


def test_a_service_that_does_not_answer_is_an_error_in_time(opened, control):
    store = opened(answer_s=1.0)
    version = put(opened(), "k", {"n": 1}).version
    for method, ask in [
        ("BatchGetDocuments", lambda: store.read("k")),
        ("RunQuery", lambda: store.entries("")),
        ("Commit", lambda: store.swap("k", expected=version, value={"n": 2})),
    ]:
        control.rule(method, "swallow", times=-1)
        begun_s = time.monotonic()
        with pytest.raises(LockStoreError, match="not answered in time") as caught:
            ask()
        assert time.monotonic() - begun_s < 10
        assert caught.value.hint
        control.clear()
    assert store.read("k").value == {"n": 1}


def test_contention_is_tried_again(store, control):
    control.rule("Commit", "refuse", times=3, status="ABORTED")
    control.rule("BatchGetDocuments", "refuse", times=2, status="RESOURCE_EXHAUSTED")
    assert store.swap("k", expected="", value={"n": 1}) is not None
    assert store.read("k").value == {"n": 1}


def test_a_line_that_is_cut_is_connected_again(place, leases):
    host, _, port = place.emulator.partition(":")
    with Proxy((host, int(port))) as proxy:
        store = FirestoreLocks(Place(place.project, emulator=f"127.0.0.1:{proxy.port}"))
        try:
            with leases(store).hold([SCOPE], holder="me", batch="b") as held:
                assert proxy.cut()
                assert held.renew()
                proxy.cut()
            assert store.read(KEY).value["owner"] == ""
            proxy.refuse()
            time.sleep(0.3)
            proxy.refuse(False)
            begun_s = time.monotonic()
            assert store.read(KEY).value["owner"] == ""
            assert time.monotonic() - begun_s < 10
        finally:
            store.close()


def test_a_service_that_is_away_is_an_error_that_says_so():
    store = FirestoreLocks(Place("p", emulator=f"127.0.0.1:{free_port()}"), answer_s=0.5)
    try:
        for ask in (store.identity, lambda: store.read("k"), lambda: store.swap("k", expected="", value={})):
            with pytest.raises(LockStoreError, match=r"\(default\) of project p could not") as caught:
                ask()
            assert "UNAVAILABLE" in caught.value.message
            assert caught.value.hint
    finally:
        store.close()


# --- waiting ---------------------------------------------------------------------------------


def wait_beside(store, version, key="k", timeout_s=30.0):
    return Beside(lambda: store.wait(key, version=version, timeout_s=timeout_s, waiter="w"))


def test_a_waiter_is_woken_by_its_listener(opened, control):
    store, other = opened(), opened()
    version = put(store, "k", {"n": 1}).version
    waiting = wait_beside(other, version)
    eventually(lambda: listening(control) == 1, "it listens")
    time.sleep(0.3)  # from here on it polls every few seconds only
    begun_s = time.monotonic()
    store.swap("k", expected=version, value={"n": 2})
    waiting.result()
    assert time.monotonic() - begun_s < 1.0


@pytest.mark.parametrize("silence", ["deaf", "refuse", "broken"])
def test_where_a_listener_is_dead_the_poll_takes_over(opened, control, silence):
    store, other = opened(), opened()
    version = put(store, "k", {"n": 1}).version
    if silence == "refuse":
        control.rule("Listen", "refuse", times=-1)
    waiting = wait_beside(other, version)
    eventually(lambda: listening(control) >= 1, "it listens")
    time.sleep(0.2)
    if silence == "deaf":
        control.rule("Listen", "deaf", times=-1)
    elif silence == "broken":
        assert control.end_listeners("INTERNAL") == 1
    begun_s = time.monotonic()
    store.swap("k", expected=version, value={"n": 2})
    waiting.result()
    assert time.monotonic() - begun_s < (1.5 if silence == "broken" else 4.5), "an end is noticed, silence is not"


def test_what_a_listener_hears_twice_is_heard_once(opened, control):
    store, other = opened(), opened()
    control.rule("Listen", "duplicate", times=-1)
    version = put(store, "k", {"n": 1}).version
    for number in range(2, 6):
        waiting = wait_beside(other, version)
        time.sleep(0.05)
        version = store.swap("k", expected=version, value={"n": number}).version
        waiting.result(3)
    begun_s = time.monotonic()
    other.wait("k", version=version, timeout_s=0.3, waiter="w")
    assert time.monotonic() - begun_s >= 0.29, "nothing has changed"


def test_waiting_while_the_service_is_away_ends_in_time(opened, control):
    store = opened(answer_s=0.2)
    version = put(opened(), "k", {"n": 1}).version
    control.rule("BatchGetDocuments", "swallow", times=-1)
    control.rule("Listen", "refuse", times=-1)
    begun_s = time.monotonic()
    store.wait("k", version=version, timeout_s=0.6, waiter="w")
    assert 0.5 < time.monotonic() - begun_s < 10


def test_listeners_are_closed_when_nobody_waits_any_more(opened, control):
    store = opened()
    version = put(store, "k", {"n": 1}).version
    store.wait("k", version=version, timeout_s=0.2, waiter="w")

    def threads():
        return [one for one in threading.enumerate() if one.name == "onerow-firestore-listener"]

    assert len(threads()) == 1
    store.swap("k", expected=version, value={"n": 2})
    assert not threads()
    store.wait("other", version="", timeout_s=0.2, waiter="w")
    assert len(threads()) == 1
    store.close()
    assert not threads()


def test_twenty_waiters_hand_the_lock_over_without_losing_time(opened, leases, control):
    """Each takes it, holds it for a moment and gives it back; a free lock is not left lying."""
    log, guard = [], threading.Lock()
    with leases(opened()).hold([SCOPE], holder="first", batch="b"):
        stores = [opened() for _ in range(20)]

        def take(store, number):
            with leases(store).hold([SCOPE], holder=str(number), batch="b", max_wait_s=60) as held:
                begun_s = time.monotonic()
                time.sleep(0.01)
                with guard:
                    log.append((held.tokens[SCOPE], begun_s, time.monotonic()))

        waiting = [Beside(lambda store=store, number=number: take(store, number)) for number, store in enumerate(stores)]
        eventually(lambda: listening(control) == 20, "all of them listen")
        time.sleep(0.3)
    for beside in waiting:
        beside.result(60)
    assert [token for token, _, _ in log] == sorted({token for token, _, _ in log}), "tokens grow in the order of holding"
    handed_over_s = [begun_s - ended_s for (_, _, ended_s), (_, begun_s, _) in pairwise(log)]
    assert min(handed_over_s) > 0, "nobody holds it beside another"
    assert sorted(handed_over_s)[len(handed_over_s) // 2] < 0.5


# --- time ------------------------------------------------------------------------------------


def test_the_local_clock_is_never_asked(store, leases, monkeypatch):
    """A machine whose clock is days off takes, renews and respects leases like any other."""
    moment_us = store.read("k").now_us

    class WrongClock:
        def __getattr__(self, name):
            return getattr(time, name)

        def time(self):
            return 4_000_000_000.0

        def time_ns(self):
            return 4_000_000_000 * 10**9

    monkeypatch.setattr("onerow.adapters.locks.firestore.time", WrongClock())
    monkeypatch.setattr("onerow.adapters.locks.firestore_client.time", WrongClock())
    with leases(store).hold([SCOPE], holder="me", batch="b") as held:
        record = store.read(KEY).value
        assert moment_us < record["acquired_us"] < moment_us + 10_000_000
        assert record["token"] == held.tokens[SCOPE] < moment_us + 10_000_000
        with pytest.raises(LockAcquisitionError):
            leases(store).hold([SCOPE], holder="other", batch="b", max_wait_s=0.1).__enter__()


def test_a_lease_that_is_not_renewed_is_had_when_the_servers_clock_says_so(opened, leases):
    class Frozen:
        """The background of a process that stands still: nothing happens there."""

        def every(self, seconds, work, *, name):
            return self

        def stop(self):
            """There is nothing to stop."""

    gone = leases(opened(), duration_s=0.5, background=Frozen()).hold([SCOPE], holder="gone", batch="b")
    first = gone.__enter__().tokens[SCOPE]
    begun_s = time.monotonic()
    with leases(opened()).hold([SCOPE], holder="next", batch="b", max_wait_s=10) as held:
        assert held.tokens[SCOPE] > first
        assert 0.2 < time.monotonic() - begun_s < 3
        gone.__exit__(None, None, None)
        held.raise_if_cancelled()
        assert held.renew(), "the late release of the first one has taken nothing away"


def test_tokens_grow_over_deletion_by_hand_and_by_a_ttl_policy(store, leases, client):
    tokens = []
    for number in range(6):
        with leases(store).hold([SCOPE], holder="me", batch="b") as held:
            tokens.append(held.tokens[SCOPE])
            if number % 2:
                client.collection("onerow_locks").document(document_id(KEY)).delete()
        if number % 3 == 0:
            client.collection("onerow_locks").document(document_id(KEY)).delete()
    assert tokens == sorted(set(tokens))


def test_a_holder_whose_document_is_deleted_loses_the_lease_and_says_so(store, leases, client):
    with leases(store).hold([SCOPE], holder="me", batch="b") as held:
        client.collection("onerow_locks").document(document_id(KEY)).delete()
        with leases(store).hold([SCOPE], holder="other", batch="b") as other:
            assert other.tokens[SCOPE] > held.tokens[SCOPE]
            assert not held.renew()
            with pytest.raises(LeaseLostError):
                held.raise_if_cancelled()
        assert store.read(KEY).value["owner"] == ""


# --- documents -------------------------------------------------------------------------------


def test_keys_become_document_ids_that_firestore_takes():
    ids = [document_id(key) for key in ODD_KEYS]
    assert len(set(ids)) == len(ids)
    for found in ids:
        assert 0 < len(found.encode()) <= 1500
        assert "/" not in found
        assert found not in {".", "..", "%identity"}
        assert not (found.startswith("__") and found.endswith("__"))
    assert document_id("lease:predictions/2026-01-11") == "lease:predictions%2F2026-01-11"


def test_a_version_that_has_not_come_yet_is_another_version(store):
    version = put(store, "k", {"n": 1}).version
    for future in (str(int(version) + 10**12), f"{version}0"):
        assert store.swap("k", expected=future, value={"n": 2}) is None
        assert store.swap("missing", expected=future, value={"n": 2}) is None
    assert store.read("k").value == {"n": 1}


def test_a_value_that_is_too_large_for_a_document_is_an_error_that_says_so(store):
    version = put(store, "k", {"n": 1}).version
    for expected, key in (("", "new"), (version, "k")):
        with pytest.raises(LockStoreError, match="exceeds the maximum size"):
            store.swap(key, expected=expected, value={"x": "x" * 1_100_000})
    assert store.read("k").value == {"n": 1}


def test_odd_keys_are_kept_apart(store):
    keys = [key for key in ODD_KEYS if key]
    for number, key in enumerate(keys):
        assert store.swap(key, expected="", value={"n": number}) is not None
    assert [store.read(key).value for key in keys] == [{"n": number} for number in range(len(keys))]
    assert {entry.key for entry in store.entries("")} == set(keys)
    with pytest.raises(LockStoreError, match="cannot keep"):
        store.read("\ud800")


@pytest.mark.parametrize("prefix", ["a", "a\U0010ffff", "\U0010ffff", "\ud7ff", "é"])
def test_prefixes_end_where_they_end(store, prefix):
    for key in (prefix, f"{prefix}\U0010ffff", f"{prefix}0", "b", "\ue000"):
        put(store, key, {})
    assert [entry.key for entry in store.entries(prefix)] == sorted({prefix, f"{prefix}\U0010ffff", f"{prefix}0"})


def test_a_document_that_is_damaged_is_an_error_that_names_it(store, client):
    put(store, "k", {"n": 1})
    client.document("onerow_locks/k").update({"value": "{broken"})
    with pytest.raises(LockStoreError, match=r"onerow_locks/k .* is damaged") as caught:
        store.read("k")
    assert caught.value.hint


def test_two_collections_are_two_stores(opened):
    one, other = opened(collection="one"), opened(collection="other")
    assert one.identity() != other.identity()
    put(one, "k", {"n": 1})
    assert other.read("k").value is None
    assert other.entries("") == []


def test_identities_made_at_once_with_lost_replies_are_one(opened, control):
    control.rule("Commit", "refuse", times=2)
    control.rule("Commit", "lose", times=3)
    besides = [Beside(opened().identity) for _ in range(6)]
    assert len({beside.result() for beside in besides}) == 1


# --- what is not allowed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permission", "ask"),
    [
        ("datastore.entities.get", lambda store, version: store.read("k")),
        ("datastore.entities.list", lambda store, version: store.entries("")),
        ("datastore.entities.create", lambda store, version: store.swap("new", expected="", value={})),
        ("datastore.entities.update", lambda store, version: store.swap("k", expected=version, value={})),
        ("datastore.entities.delete", lambda store, version: store.swap("k", expected=version, value=None)),
    ],
)
def test_a_permission_that_is_missing_is_named_with_the_role(store, place, control, permission, ask):
    version = put(store, "k", {"n": 1}).version
    control.set(denied=[permission])
    begun_s = time.monotonic()
    with pytest.raises(LockStoreError, match=permission.replace(".", r"\.")) as caught:
        ask(store, version)
    assert time.monotonic() - begun_s < 1, "it is not tried again"
    assert "PERMISSION_DENIED" in caught.value.message
    assert "roles/datastore.user" in caught.value.hint
    assert place.project in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "said"), [("missing", "gcloud firestore databases create"), ("datastore", "Native mode")]
)
def test_a_database_that_is_not_there_or_of_another_kind(store, control, kind, said):
    control.set(kind=kind)
    for ask in (
        store.identity,
        lambda: store.read("k"),
        lambda: store.entries(""),
        lambda: store.swap("k", expected="", value={}),
        lambda: store.swap("k", expected="1768093594538000", value={}),
        lambda: store.swap("k", expected="1768093594538000", value=None),
    ):
        with pytest.raises(LockStoreError) as caught:
            ask()
        assert said in caught.value.hint


def test_without_credentials_it_says_what_to_do(monkeypatch, tmp_path):
    for name in ("FIRESTORE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    store = FirestoreLocks(Place("p"))
    for ask in (lambda: store.read("k"), lambda: store.swap("k", expected="", value={})):
        with pytest.raises(LockStoreError, match="no usable credentials") as caught:
            ask()
        assert "gcloud auth application-default login" in caught.value.hint
    store.close()


def test_the_emulator_may_be_named_by_the_environment(place, monkeypatch, store):
    put(store, "k", {"n": 1})
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", place.emulator)
    other = FirestoreLocks(Place(place.project))
    assert other.read("k").value == {"n": 1}
    other.close()


def test_a_fork_has_a_channel_of_its_own(store, monkeypatch):
    version = put(store, "k", {"n": 1}).version
    mine = store._connection.client()
    number = os.getpid()
    monkeypatch.setattr("onerow.adapters.locks.firestore_client.os.getpid", lambda: number + 1)  # what a child sees
    assert store.swap("k", expected=version, value={"n": 2}) is not None
    assert store._connection.client() is not mine
    mine.transport.close()


# --- negative control ------------------------------------------------------------------------


@pytest.mark.parametrize("heeded", [True, False])
def test_with_preconditions_off_two_holders_are_let_in(opened, control, heeded):
    """Preconditions are what keeps the second out: where the server does not heed them, it gets in."""
    control.set(preconditions=heeded)
    one, other = opened(), opened()
    version = put(one, KEY, {"owner": ""}).version
    assert one.swap(KEY, expected=version, value={"owner": "one"}) is not None
    second = other.swap(KEY, expected=version, value={"owner": "other"})
    assert (second is None) == heeded
    assert other.read(KEY).value == {"owner": "one" if heeded else "other"}
