"""The lock store on PostgreSQL where the line is cut, the server restarts, and notifications are lost."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest
from psycopg import sql

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.adapters.locks.postgresql import PostgresLocks
from onerow.core.partitions import Scope
from onerow.errors import LockStoreError
from onerow.services.leases import LEASE_PREFIX, Leases, LeaseSettings
from onerow.testing.conformance.asking import Beside, eventually
from onerow.testing.proxy import Proxy
from support import postgres as servers

SCOPE = Scope("t", "2026-01-11")
KEY = f"{LEASE_PREFIX}{SCOPE}"
ANSWER_S = 2.0
"""How long the server may take in the tests that cut the line: more than a busy machine needs for one statement."""


@contextmanager
def opened(url, **settings):
    store = PostgresLocks(url, **settings)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def locks(database):
    with opened(database) as store:
        yield store


@pytest.fixture
def proxied(database):
    with opened(database) as direct:
        direct.identity()  # the tables are there: making them may take a slow disk longer than ``ANSWER_S``
    through = partial(servers.through, database)
    with Proxy(servers.address(database)) as proxy, opened(through(proxy.port), answer_s=ANSWER_S) as store:
        yield proxy, store


def leases(store, **settings):
    return Leases(
        store=store, clock=SystemClock(), background=Threads(), ids=SystemIds(), settings=LeaseSettings(**settings)
    )


def hold(store, **more):
    return leases(store).hold([SCOPE], holder=more.pop("holder", "me"), batch="b", **more)


def waiting(url):
    """How many stand in the queue."""
    with psycopg.connect(url) as connection:
        return connection.execute("select count(*) from onerow.lock_waiters").fetchone()[0]


# --- the line --------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_swap_that_breaks_in_the_middle_is_read_back(proxied, when):
    proxy, store = proxied
    store.identity()
    cut = proxy.cut_when(lambda asked: b"insert into" in asked and SCOPE.table.encode() in asked, when=when)
    with hold(store) as held:
        assert cut.is_set()
        assert store.read(KEY).value["token"] == held.tokens[SCOPE]
    assert store.read(KEY).value["owner"] == ""


@pytest.mark.parametrize(("when", "written"), [("before", None), ("after", {"n": 1})])
def test_a_swap_that_breaks_is_an_error_and_not_repeated(proxied, when, written):
    proxy, store = proxied
    store.identity()
    proxy.cut_when(lambda asked: b"insert into" in asked, when=when)
    with pytest.raises(LockStoreError, match="PostgreSQL failed") as caught:
        store.swap("k", expected="", value={"n": 1})
    assert caught.value.hint
    assert store.read("k").value == written


def test_a_lease_is_taken_and_given_back_in_three_round_trips(proxied):
    proxy, store = proxied
    store.identity()
    asked = []
    with hold(store):
        pass
    proxy.cut_when(lambda asks: bool(asked.append(asks)), when="before")
    with hold(store):
        pass
    assert len(asked) == 3, asked


def test_a_server_that_nobody_hears_of_is_an_error_in_seconds(proxied):
    proxy, store = proxied
    version = store.swap("k", expected="", value={"n": 1}).version
    proxy.pause()
    for ask in (lambda: store.read("k"), lambda: store.swap("k", expected=version, value={"n": 2})):
        store._server.close()
        proxy.resume()
        store.read("k")  # there is a connection
        proxy.pause()
        begun_s = time.monotonic()
        with pytest.raises(LockStoreError, match=f"not answered within {ANSWER_S:g} s"):
            ask()
        assert 0.9 * ANSWER_S < time.monotonic() - begun_s < 10 * ANSWER_S
    proxy.resume()
    eventually(lambda: store.read("k").value == {"n": 2}, "what was underway arrived")


def test_waiting_on_a_line_that_is_silent_ends_in_time(proxied):
    proxy, store = proxied
    version = store.swap("k", expected="", value={"n": 1}).version
    store.wait("k", version=version, timeout_s=0.05, waiter="w")
    proxy.pause()
    begun_s = time.monotonic()
    store.wait("k", version=version, timeout_s=1.0, waiter="w")
    assert 0.9 < time.monotonic() - begun_s < 10  # where it has to connect, that takes two seconds at least


def test_a_server_that_is_away_is_an_error_that_says_so():
    with opened(f"postgresql://postgres:secret@127.0.0.1:{servers.free_port()}/none") as store:
        for ask in (store.identity, lambda: store.read("k"), lambda: store.entries("")):
            with pytest.raises(LockStoreError, match="cannot be reached") as caught:
                ask()
            assert "secret" not in str(caught.value)


# --- waiting ---------------------------------------------------------------------------------


def test_waiters_outlive_a_restart_of_the_server(own_postgres, own_database):
    url = own_postgres.url(own_database)
    got = []

    def take(number):
        with opened(url) as store, hold(store, holder=str(number)) as held:
            got.append(held.tokens[SCOPE])

    with opened(url) as store:
        identity = store.identity()
        with hold(store) as held:
            besides = [Beside(lambda number=number: take(number)) for number in range(5)]
            eventually(lambda: waiting(url) == 5, "all of them wait")
            own_postgres.restart()
            time.sleep(0.2)
            held.raise_if_cancelled()
            first = held.tokens[SCOPE]
        for beside in besides:
            beside.result()
        assert len({first, *got}) == 6
        assert min(got) > first
        assert store.identity() == identity
    with opened(url) as store:
        assert store.identity() == identity


def test_a_waiter_whose_notifications_are_lost_polls(database, locks):
    """Its listening connection is ended; the change comes through all the same."""
    version = locks.swap("k", expected="", value={"n": 1}).version
    with opened(database) as other:
        beside = Beside(lambda: other.wait("k", version=version, timeout_s=30, waiter="w"))
        eventually(lambda: waiting(database) == 1, "it waits")
        with psycopg.connect(database, autocommit=True) as administrator:
            ended = administrator.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like 'listen%'"
            ).fetchone()
        assert ended == (1,)
        locks.swap("k", expected=version, value={"n": 2})
        assert beside.result(5) is None


def test_a_role_without_a_connection_to_listen_on_polls(database, locks):
    version = locks.swap("k", expected="", value={"n": 1}).version
    role = f"narrow_{time.monotonic_ns()}"
    with psycopg.connect(database, autocommit=True) as administrator:
        administrator.execute(f"create role {role} login connection limit 1")
        administrator.execute(f"grant usage on schema onerow to {role}")
        administrator.execute(f"grant select, insert, update, delete on all tables in schema onerow to {role}")
        try:
            with opened(as_role(database, role)) as narrow:
                assert narrow.read("k").value == {"n": 1}
                beside = Beside(lambda: narrow.wait("k", version=version, timeout_s=30, waiter="w"))
                eventually(lambda: waiting(database) == 1, "it waits")
                time.sleep(0.1)
                locks.swap("k", expected=version, value={"n": 2})
                beside.result(5)
        finally:
            administrator.execute(f"drop owned by {role}; drop role {role}")


def test_only_the_first_waiters_are_told_and_the_first_comes_first(database, locks):
    version = locks.swap("k", expected="", value={"n": 1}).version
    woken, stores, besides = [], [], []

    def wait(store, number):
        store.wait("k", version=version, timeout_s=30, waiter=f"w{number}")
        woken.append(number)

    try:
        for number in range(6):
            stores.append(PostgresLocks(database))
            besides.append(Beside(lambda number=number: wait(stores[number], number)))
            eventually(lambda number=number: waiting(database) == number + 1, f"{number} waits")
        time.sleep(0.2)
        changed_s = time.monotonic()
        locks.swap("k", expected=version, value={"n": 2})
        eventually(lambda: bool(woken), "the first is woken")
        assert time.monotonic() - changed_s < 0.5
        for beside in besides:
            beside.result(5)
        assert woken[:4] == [0, 1, 2, 3]
    finally:
        for store in stores:
            store.close()


def test_who_has_taken_what_it_waited_for_is_in_the_queue_no_longer(database, locks):
    with opened(database) as other:
        version = locks.swap("k", expected="", value={"n": 1}).version
        other.wait("k", version=version, timeout_s=0.05, waiter="w")
        assert waiting(database) == 1
        assert other.swap("k", expected="another version", value={"n": 2}) is None
        assert waiting(database) == 1
        assert other.swap("k", expected=version, value={"n": 2}) is not None
        assert waiting(database) == 0


# --- schema and roles ------------------------------------------------------------------------


def as_role(url, role):
    return servers.urlsplit(url)._replace(netloc=servers.urlsplit(url).netloc.replace("postgres@", f"{role}@")).geturl()


def test_a_role_that_may_not_create_is_told_what_is_missing(database):
    role = f"reader_{time.monotonic_ns()}"
    with psycopg.connect(database, autocommit=True) as administrator:
        administrator.execute(f"create role {role} login")
        try:
            with opened(as_role(database, role)) as store:
                with pytest.raises(LockStoreError, match=r"'onerow' are missing.*may not create") as caught:
                    store.read("k")
                assert "onerow init" in caught.value.hint
                with opened(database) as owner:
                    owner.identity()
                with pytest.raises(LockStoreError, match="permission denied") as caught:
                    store.read("k")
                assert "Grant" in caught.value.hint
                administrator.execute(
                    f"grant usage on schema onerow to {role};"
                    f"grant select, insert, update, delete on all tables in schema onerow to {role}"
                )
                assert store.swap("k", expected="", value={"n": 1}) is not None
        finally:
            administrator.execute(f"drop owned by {role}; drop role {role}")


def test_two_control_schemas_are_two_stores(database):
    odd = 'Öne "row"; drop schema public --'
    with opened(database) as plain, opened(database, control_schema=odd) as other:
        assert plain.identity() != other.identity()
        assert plain.swap("k", expected="", value={"n": 1}) is not None
        assert other.read("k").value is None
        assert other.swap("k", expected="", value={"n": 2}) is not None
    with psycopg.connect(database) as connection:
        register = sql.SQL("select value->>'n' from {}").format(sql.Identifier(odd, "lock_register"))
        assert connection.execute(register).fetchone() == ("2",)


def test_a_key_of_any_length_is_a_key(locks):
    keys = ["x" * 20_000, "x" * 20_001]
    for number, key in enumerate(keys):
        assert locks.swap(key, expected="", value={"n": number}) is not None
    assert [locks.read(key).value for key in keys] == [{"n": 0}, {"n": 1}]
    with pytest.raises(LockStoreError):
        locks.swap("no\0text", expected="", value={})
    assert locks.read(keys[0]).value == {"n": 0}


def test_a_restored_copy_does_not_bring_versions_back(database, locks):
    """A dump that is put back makes versions anew from where it was; a number would come back, these do not."""
    first = locks.swap("k", expected="", value={"n": 1}).version
    with psycopg.connect(database, autocommit=True) as administrator:
        administrator.execute("create table copy as table onerow.lock_register")
        later = [first]
        for number in range(5):
            later.append(locks.swap("k", expected=later[-1], value={"n": number}).version)
        administrator.execute("delete from onerow.lock_register; insert into onerow.lock_register table copy")
    assert locks.read("k").version == first
    again = [first]
    for number in range(5):
        again.append(locks.swap("k", expected=again[-1], value={"n": number}).version)
    assert not set(later[1:]) & set(again[1:])


def test_threads_have_no_more_connections_than_they_need(database, locks, postgres):
    locks.identity()
    threads = [threading.Thread(target=lambda: [locks.read("k") for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with postgres.connect() as administrator:
        count = "select count(*) from pg_stat_activity where datname = %s"
        name = servers.urlsplit(database).path[1:]
        eventually(lambda: administrator.execute(count, [name]).fetchone()[0] <= 4, "the others are closed")
