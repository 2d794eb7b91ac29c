"""Leases in the incident's own documents: their layout, old programs beside new ones, hand-made changes."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from onerow.adapters.locks.firestore_documents import GRACE_S
from onerow.core.partitions import Scope
from onerow.errors import LeaseLostError, LockAcquisitionError, UsageError
from onerow.services.leases import LEASE_PREFIX
from onerow.services.locks import LockDesk
from onerow.testing.conformance.asking import Beside, eventually
from onerow.testing.conformance.harness import SPEC
from onerow.testing.memory_parts import MemoryParts
from onerow.testing.memory_tables import MemoryDatabase
from onerow.testing.memory_warehouse import MemoryWarehouse
from support.incident_lock import COLLECTION, LEASE_S, IncidentLock

DATE = "2026-01-11"
SCOPE = Scope(SPEC.name, DATE)
KEY = f"{LEASE_PREFIX}{SCOPE}"
TEMPLATE = "consolidation_locks/consolidation_{partition}"
SHARED = {f"{LEASE_PREFIX}{SPEC.name}": TEMPLATE}
OLD_FIELDS = {"batch_id", "holder_id", "acquired_at", "expires_at", "lock_key"}


@pytest.fixture
def store(opened):
    return opened(shared=SHARED)


@pytest.fixture
def document(client):
    return client.collection(COLLECTION).document(f"consolidation_{DATE}")


@pytest.fixture
def old(client):
    return IncidentLock(client, holder_id="old worker")


def hold(leases, store, **more):
    settings = {name: more.pop(name) for name in ("duration_s", "background") if name in more}
    return leases(store, **settings).hold([SCOPE], holder="new worker", batch="b-new", **more)


# --- the document ----------------------------------------------------------------------------


def test_the_document_is_the_incidents_with_version_and_token_beside(store, leases, document):
    before = document.get().read_time
    with hold(leases, store) as held:
        found = document.get()
        fields = found.to_dict()
        assert set(fields) == OLD_FIELDS | {"version", "token", "value"}
        assert fields["batch_id"] == "b-new"
        assert fields["holder_id"].startswith("new worker/")
        assert fields["lock_key"] == f"consolidation_{DATE}"
        assert fields["token"] == held.tokens[SCOPE]
        assert before < fields["acquired_at"] <= found.update_time
        assert json.loads(fields["value"])["token"] == fields["token"]
    assert not document.get().exists


def test_its_end_stays_far_enough_ahead_for_programs_with_their_own_clock(store, leases, document):
    """At least 300 s, at every moment of a lease's life."""
    assert GRACE_S == 300
    with hold(leases, store, duration_s=9.0) as held:
        for _ in range(3):
            found = document.get()
            last_moment = found.update_time + dt.timedelta(seconds=9)
            assert found.get("expires_at") - last_moment >= dt.timedelta(seconds=299.9)
            assert held.renew()


def test_taking_and_giving_back_is_one_write_each(store, leases, control):
    with hold(leases, store):
        pass
    control.count()
    with hold(leases, store):
        assert control.billed() == {"reads": 1, "writes": 1, "deletes": 0}
    assert control.billed() == {"reads": 1, "writes": 1, "deletes": 1}


def test_only_the_leases_of_the_table_are_there(store, leases, client, document):
    other = Scope("other_table", DATE)
    with (
        hold(leases, store),
        leases(store).hold([other], holder="me", batch="b") as held,
        leases(store).turn(SPEC.name, holder="me", batch="b"),
    ):
        assert document.get().get("batch_id") == "b-new"
        assert [one.id for one in client.collection(COLLECTION).list_documents()] == [document.id]
        assert held.tokens[other]
        assert [entry.key for entry in store.entries("")] == sorted(
            [KEY, f"{LEASE_PREFIX}{other}", f"turn:{SPEC.name}"]
        )
        assert [entry.key for entry in store.entries(f"{LEASE_PREFIX}{SPEC.name}/")] == [KEY]


def test_a_table_without_partitions_has_one_document(opened, client, leases):
    store = opened(shared={"lease:whole": "consolidation_locks/consolidation_whole"})
    scope = Scope("whole")
    with leases(store).hold([scope], holder="me", batch="b"):
        assert client.document("consolidation_locks/consolidation_whole").get().get("lock_key") == "consolidation_whole"
        assert [entry.key for entry in store.entries("lease:")] == ["lease:whole"]


@pytest.mark.parametrize("partition", ["a/b", "..", "é", "50%"])
def test_partitions_that_no_document_id_can_hold(store, leases, partition):
    scope = Scope(SPEC.name, partition)
    with leases(store).hold([scope], holder="me", batch="b"):
        (entry,) = store.entries(LEASE_PREFIX)
        assert entry.key == f"{LEASE_PREFIX}{scope}"


def test_documents_that_hold_no_lease_of_the_table_are_left_alone(store, leases, client):
    for name in ("consolidation_", "consolidation_50%", "consolidation", "other_2026-01-11", "consolidationx"):
        client.collection(COLLECTION).document(name).set({"holder_id": "somebody"})
    with hold(leases, store):
        keys = [entry.key for entry in store.entries(LEASE_PREFIX)]
    assert keys == [KEY]


def test_two_tables_that_name_one_document_share_a_lock(opened, leases):
    store = opened(shared={f"{LEASE_PREFIX}{name}": TEMPLATE for name in ("one", "other")})
    with leases(store).hold([Scope("one", DATE)], holder="me", batch="b"):
        assert [entry.key for entry in store.entries("")] == [f"{LEASE_PREFIX}one/{DATE}"]
        waiting = leases(store).hold([Scope("other", DATE)], holder="me", batch="b", max_wait_s=0.1)
        with pytest.raises(LockAcquisitionError):
            waiting.__enter__()
    with leases(store).hold([Scope("other", DATE)], holder="me", batch="b"):
        pass


# --- tokens ----------------------------------------------------------------------------------


def test_tokens_grow_over_releases_which_delete_the_document(store, leases, document):
    tokens = []
    for _ in range(5):
        with hold(leases, store) as held:
            tokens.append(held.tokens[SCOPE])
        assert not document.get().exists
    assert tokens == sorted(set(tokens))


def test_a_token_ahead_of_the_servers_clock_is_not_forgotten_by_a_release(store, leases, document):
    """It was granted above a fence that another store's clock had set; the document stays, as an expired lease."""
    ahead = store.read(KEY).now_us + 10**12
    with hold(leases, store) as held:
        assert held.regrant(SCOPE, above=ahead)
        first = held.tokens[SCOPE]
        assert first > ahead
    found = document.get()
    assert found.get("expires_at") < found.read_time
    with hold(leases, store) as held:
        assert held.tokens[SCOPE] > first


def test_two_who_meet_one_fence_have_two_tokens_though_the_document_was_deleted(store, leases, document):
    """The first one's token was ahead of the server's clock, and nothing but the clock is left to tell of it."""
    ahead = store.read(KEY).now_us + 10**12
    with hold(leases, store) as first:
        assert first.regrant(SCOPE, above=ahead)
        document.delete()
        with hold(leases, store) as second:
            assert second.regrant(SCOPE, above=ahead)
            assert second.tokens[SCOPE] > first.tokens[SCOPE] > ahead


# --- old programs beside new ones ------------------------------------------------------------


def test_an_old_program_is_kept_out_while_we_hold_it_and_comes_in_afterwards(store, leases, old, document):
    with hold(leases, store):
        assert not old.try_acquire(DATE, "b-old")
    assert old.try_acquire(DATE, "b-old")
    assert set(document.get().to_dict()) == OLD_FIELDS


@pytest.mark.parametrize("skew_s", [-250, 250])
def test_an_old_program_with_a_wrong_clock_is_kept_out_too(store, leases, client, skew_s):
    old = IncidentLock(client, holder_id="skewed", now=lambda: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=skew_s))
    with hold(leases, store):
        assert not old.try_acquire(DATE, "b-old")


def test_what_an_old_program_holds_is_respected_until_its_end(store, leases, old, document):
    assert old.try_acquire(DATE, "b-old")
    record = store.read(KEY).value
    found = document.get()
    assert (record["holder"], record["batch"], record["token"]) == ("old worker", "b-old", 0)
    assert record["expires_us"] == round(found.get("expires_at").timestamp() * 1_000_000)
    with pytest.raises(LockAcquisitionError, match="old worker holds it for batch 'b-old'"):
        hold(leases, store, max_wait_s=0.2).__enter__()
    assert document.get().update_time == found.update_time, "nothing was written"
    old.release(DATE)
    with hold(leases, store) as held:
        assert held.tokens[SCOPE] > 0


def test_what_an_old_program_has_left_behind_is_taken_over_by_the_servers_clock(store, leases, client, document):
    """It crashed. Its lease ends when the server's clock says so, whatever ours says."""
    long_ago = IncidentLock(client, holder_id="gone", now=lambda: dt.datetime.now(dt.UTC) - dt.timedelta(seconds=LEASE_S - 0.5))
    assert long_ago.try_acquire(DATE, "b-old")
    with hold(leases, store, max_wait_s=10) as held:
        assert document.get().get("token") == held.tokens[SCOPE]


def test_the_waiter_for_an_old_program_is_woken_by_its_release(store, leases, old, control):
    assert old.try_acquire(DATE, "b-old")

    def take():
        with hold(leases, store, max_wait_s=30) as held:
            return held.wait_s

    waiting = Beside(take)
    eventually(lambda: control.calls().get("Listen"), "it listens")
    old.release(DATE)
    assert waiting.result() < 5


def test_an_old_program_that_takes_what_we_hold_is_met_by_a_lost_lease(store, leases, client, old):
    """Its release deletes whoever's document it is, and its clock may be an hour ahead: we stop before the commit."""
    for rob in (
        lambda: old.release(DATE),
        lambda: IncidentLock(client, holder_id="ahead", now=lambda: dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).try_acquire(
            DATE, "b-old"
        ),
    ):
        with hold(leases, store) as held:
            rob()
            assert not held.renew()
            with pytest.raises(LeaseLostError):
                held.raise_if_cancelled()
        old.release(DATE)


def test_our_late_release_takes_nothing_from_an_old_program(store, leases, old, document):
    with hold(leases, store):
        old.release(DATE)
        assert old.try_acquire(DATE, "b-old")
    assert document.get().get("batch_id") == "b-old"


@pytest.mark.parametrize(
    "change",
    [
        {"holder_id": "somebody"},
        {"batch_id": "another"},
        {"value": "{broken", "holder_id": "x"},
        {"expires_at": "soon"},
        {"lock_key": None},
    ],
)
def test_a_document_that_somebody_has_changed_by_hand_is_theirs(store, leases, document, change):
    """Fields of the old kind that are not as we have written them: somebody else holds it, until its end."""
    with hold(leases, store) as held:
        if "value" in change:
            document.set({"batch_id": "b", "holder_id": "x", "expires_at": dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)})
        else:
            document.update(change)
        assert not held.renew()
    assert document.get().exists
    with pytest.raises(LockAcquisitionError):
        hold(leases, store, max_wait_s=0.1).__enter__()


def test_a_document_without_an_end_is_respected_for_as_long_as_an_old_lease(store, document):
    document.set({"holder_id": "somebody"})
    record, found = store.read(KEY).value, document.get()
    assert record["expires_us"] == round(found.update_time.timestamp() * 1_000_000) + GRACE_S * 1_000_000


# --- force-release ---------------------------------------------------------------------------


@pytest.fixture
def desk(store):
    warehouse = MemoryWarehouse(parts=MemoryParts(), database=MemoryDatabase(), commit_domain="table")
    warehouse.install([SPEC], lock_store=store.identity(), adopt_locks=False)
    return LockDesk(store=store, warehouse=warehouse, tables={SPEC.name: SPEC})


def test_force_release_lets_old_and_new_programs_in_and_keeps_the_reason(store, leases, desk, old, document):
    with hold(leases, store) as held:
        with pytest.raises(UsageError, match="alive"):
            desk.force_release(str(SCOPE), reason="stuck", by="me")
        done = desk.force_release(str(SCOPE), reason="stuck", by="me", force=True)
        assert done.token == done.fence > held.tokens[SCOPE]
        assert not held.renew()
        state = desk.lock(str(SCOPE))
        assert (state.state, state.forced_reason, state.token) == ("free", "stuck", done.token)
        again = desk.force_release(str(SCOPE), reason="stuck", by="me")
        assert again.token == done.token, "its second step is done again"
    found = document.get()
    assert found.get("expires_at") < found.read_time
    assert old.try_acquire(DATE, "b-old")
    old.release(DATE)
    with hold(leases, store) as held:
        assert held.tokens[SCOPE] > done.token
    assert not document.get().exists


def test_force_release_of_an_old_programs_lease(leases, store, desk, old, document):
    assert old.try_acquire(DATE, "b-old")
    (state,) = desk.locks()
    assert (state.scope, state.state, state.holder, state.batch) == (str(SCOPE), "held", "old worker", "b-old")
    done = desk.force_release(str(SCOPE), reason="its pod is gone", by="me", force=True)
    assert done.before.holder == "old worker"
    with hold(leases, store) as held:
        assert held.tokens[SCOPE] > done.token
