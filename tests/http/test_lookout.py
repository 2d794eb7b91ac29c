"""Looks for the page: shared by all viewers, as often as they may cost, and honest about what is old."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from onerow.adapters.clock import SystemClock
from onerow.errors import LockStoreError, WarehouseBusyError, WarehouseError
from onerow.services.checker import CheckReport
from onerow.services.lastchecks import CHECK_PREFIX, LastChecks
from onerow.services.overview.lookout import AGES_S, BUSY_GRACE_S, Lookout
from onerow.services.overview.model import Limits
from support.night import Night


class Hurried(SystemClock):
    """A clock that can be put forward."""

    ahead_s = 0.0

    def monotonic_s(self):
        return super().monotonic_s() + self.ahead_s


class Lender:
    """Lends one store; counts, and fails where a test wants."""

    def __init__(self, store):
        self.store = store
        self.lent = 0
        self.fails = None
        self.waits = None

    @contextmanager
    def __call__(self):
        self.lent += 1
        if self.waits is not None:
            self.waits.wait(10)
        if self.fails is not None:
            raise self.fails
        yield self.store


@pytest.fixture
def night(tmp_path):
    found = Night(tmp_path)
    found.well()
    return found


@pytest.fixture
def lender(night):
    with night.store() as store:
        yield Lender(store)


@pytest.fixture
def lookout(lender):
    return Lookout(("predictions", "odds"), Limits(), Hurried(), lender)


def test_viewers_share_a_look_until_it_is_too_old(lookout, lender):
    assert lookout.look().verdict.level == "well"
    first = lender.lent
    lookout.look()
    assert lender.lent == first, "a second viewer costs another look"
    lookout.clock.ahead_s = AGES_S["locks"] + 0.5
    lookout.look()
    assert lender.lent == first + 1, "only the section that is too old is looked at again"
    lookout.forget("quarantine")
    lookout.look()
    assert lender.lent == first + 2


def test_while_one_looks_the_others_see_what_was_seen_before(lookout, lender):
    before = lookout.look()
    lookout.clock.ahead_s = 3600
    lender.waits = threading.Event()
    slow = threading.Thread(target=lookout.look)
    slow.start()
    try:
        assert lookout.look() is before
    finally:
        lender.waits.set()
        slow.join(10)
    assert lookout.look() is not before


def test_a_busy_warehouse_is_forgiven_for_a_while_and_then_told(lookout, lender):
    lookout.look()
    lender.fails = WarehouseBusyError("w.duckdb is held.")
    lookout.clock.ahead_s = BUSY_GRACE_S - 5
    assert lookout.look().verdict.level == "well"
    lookout.clock.ahead_s = BUSY_GRACE_S + 5
    seen = lookout.look()
    assert seen.verdict.level == "unknown"
    assert seen.batches.error == "w.duckdb is held."
    assert [batch.batch for batch in seen.batches.value] == ["2026-01-17"], "what was seen before is kept, with its time"
    assert seen.blind
    lender.fails = None
    assert lookout.look().verdict.level == "well"


def test_any_other_failure_is_told_at_once(lookout, lender):
    lookout.look()
    lookout.clock.ahead_s = 5
    lender.fails = LockStoreError("The lock store is away.")
    seen = lookout.look()
    assert (seen.verdict.level, seen.locks.error_kind) == ("unknown", "lock_store")
    assert seen.quarantine.error is None, "what is young enough was not looked at"
    assert not seen.blind


def test_a_store_that_cannot_be_opened_is_asked_for_once_a_look(night):
    lender = Lender(None)
    lender.fails = WarehouseError("The warehouse is away.")
    seen = Lookout(("predictions",), Limits(), Hurried(), lender).look()
    assert seen.blind
    assert lender.lent == 1, "every section waits for the connection to fail"


def test_a_check_is_kept_with_its_time_and_its_failure(night):
    with night.store() as store:
        checks = LastChecks(store.ports.locks)
        assert checks.record(CheckReport("predictions", None, "The warehouse is away.", "warehouse"), since="2026-01-10")
        last = checks.list(["predictions"])["predictions"]
        assert (last.error, last.since, last.duplicate_keys) == ("The warehouse is away.", "2026-01-10", 0)
        assert 0 <= last.age_s < 60
        assert checks.list(["none"]) == {}


def test_a_check_that_this_version_cannot_read_is_told_and_replaced(night):
    with night.store() as store:
        register = store.ports.locks
        checks, key = LastChecks(register), f"{CHECK_PREFIX}predictions"
        register.swap(key, expected=register.read(key).version, value={"format": 1, "table": "predictions"})
        with pytest.raises(LockStoreError, match="damaged"):
            checks.list(["predictions"])
        night.check(store)
        assert checks.list(["predictions"])["predictions"].error is None
