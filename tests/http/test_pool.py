"""Stores for threads: bounded, one thread's at a time, opened anew when a connection has failed."""

from __future__ import annotations

import threading

import pytest

from onerow.bootstrap import open_store
from onerow.errors import LockStoreError, UsageError, WarehouseError
from onerow.faces.http.pool import StorePool
from onerow.faces.http.refusals import BusyError


@pytest.fixture
def pool(settings):
    found = StorePool(settings, 2)
    yield found
    found.close()


def test_a_store_is_lent_again_and_to_one_at_a_time(pool):
    with pool.store() as first:
        with pool.store() as second:
            assert first is not second
            with pytest.raises(BusyError, match="in use") as caught, pool.store(0.01):
                pass
            assert caught.value.retry_after_s > 0
        with pool.store() as third:
            assert third is second
    assert pool.lent == 0


def test_who_waits_gets_the_next_one(pool):
    got = []
    with pool.store(), pool.store() as second:
        thread = threading.Thread(target=lambda: got.append(wait(pool)))
        thread.start()
        released = second
    thread.join(10)
    assert got[0] in {released, *pool._idle}


def wait(pool):
    with pool.store(10.0) as store:
        return store


@pytest.mark.parametrize("error", [WarehouseError("gone"), LockStoreError("gone"), ValueError("a defect")])
def test_a_store_that_failed_is_closed_and_another_opened(pool, error):
    with pytest.raises(type(error)), pool.store() as first:
        raise error
    with pool.store() as second:
        assert second is not first
        assert second.table("predictions").name == "predictions"
    assert pool.lent == 0


def test_a_store_stays_good_when_the_caller_was_wrong(pool):
    with pytest.raises(UsageError), pool.store() as first:
        raise UsageError("no such thing")
    with pool.store() as second:
        assert second is first


def test_a_store_that_cannot_be_opened_leaves_the_place_free(settings):
    opened = []

    def opens(given):
        opened.append(given)
        if len(opened) == 1:
            raise LockStoreError("not there")
        return open_store(given)

    pool = StorePool(settings, 1, opens=opens)
    with pytest.raises(LockStoreError), pool.store():
        pass
    with pool.store(0.1) as store:
        assert store.tables
    pool.close()


def test_a_closed_pool_lends_nothing_and_closes_what_comes_back(pool):
    with pool.store() as lent:
        pool.close()
        with pytest.raises(BusyError, match="stopping"), pool.store():
            pass
        assert lent.tables
    assert pool._idle == []
