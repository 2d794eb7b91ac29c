"""The lock file: what the conformance suite does not ask of every store."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from onerow.adapters.locks import sqlite as module
from onerow.adapters.locks.sqlite import SqliteLocks
from onerow.errors import LockStoreError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / "a.sqlite"


@pytest.fixture
def locks(path):
    locks = SqliteLocks(path)
    yield locks
    locks.close()


def test_the_file_and_its_folder_are_made_at_the_first_use(path, locks):
    assert not path.parent.exists()
    assert locks.read("k").value is None
    assert path.exists()


def test_the_identity_belongs_to_the_file(path, locks, tmp_path):
    other_name, other_file = SqliteLocks(path), SqliteLocks(tmp_path / "b.sqlite")
    try:
        assert locks.identity() == other_name.identity() != other_file.identity()
        assert locks.identity().startswith("sqlite:")
    finally:
        other_name.close()
        other_file.close()


def test_many_threads_open_a_new_file_at_once_and_agree_on_its_identity(path):
    stores = [SqliteLocks(path) for _ in range(16)]
    start = threading.Barrier(len(stores))

    def identity(store):
        start.wait(30)
        return store.identity()

    with ThreadPoolExecutor(len(stores)) as pool:
        found = set(pool.map(identity, stores))
    for store in stores:
        store.close()
    assert len(found) == 1


def test_a_version_never_comes_back_even_over_a_deletion(locks):
    seen, expected = [], ""
    for value in ({"a": 1}, {"a": 2}, None, {"a": 3}, None, {"a": 4}):
        entry = locks.swap("k", expected=expected, value=value)
        assert entry is not None
        expected = entry.version
        if value is not None:
            seen.append(expected)
        assert locks.swap("k", expected=expected + "0", value={"a": 9}) is None
    assert len(set(seen)) == len(seen)
    for old in seen[:-1]:
        assert locks.swap("k", expected=old, value={"a": 9}) is None
    assert locks.read("k").value == {"a": 4}


def test_of_many_swaps_at_once_one_succeeds(path):
    stores = [SqliteLocks(path) for _ in range(8)]
    rounds = 25

    def race(number):
        store, won = stores[number], 0
        for at in range(rounds):
            while True:
                entry = store.read("k")
                turn = 0 if entry.value is None else entry.value["turn"]
                if turn > at:
                    break
                if store.swap("k", expected=entry.version, value={"turn": at + 1, "by": number}) is not None:
                    won += 1
                    break
        return won

    with ThreadPoolExecutor(len(stores)) as pool:
        wins = list(pool.map(race, range(len(stores))))
    assert sum(wins) == rounds
    assert stores[0].read("k").value["turn"] == rounds
    for store in stores:
        store.close()


def test_a_prefix_is_a_prefix_and_no_pattern(locks):
    names = ["lease:a%", "lease:a_b", "lease:axb", "lease:a", "Lease:a", "lease", "turn:a", "lease:é", "lease:'; --"]
    for name in names:
        assert locks.swap(name, expected="", value={"name": name}) is not None
    gone = locks.swap("lease:gone", expected="", value={})
    locks.swap("lease:gone", expected=gone.version, value=None)

    def found(prefix):
        return [entry.value["name"] for entry in locks.entries(prefix)]

    assert found("lease:a%") == ["lease:a%"]
    assert found("lease:a_") == ["lease:a_b"]
    assert found("lease:") == sorted((name for name in names if name.startswith("lease:")), key=str.encode)
    assert len(found("")) == len(names)


def test_the_clock_is_the_files_host_and_does_not_fall(locks):
    before_us = time.time_ns() // 1000
    seen = [locks.read("k").now_us for _ in range(50)]
    after_us = time.time_ns() // 1000
    assert seen == sorted(seen)
    assert before_us - 2_000 <= seen[0] <= seen[-1] <= after_us + 2_000


def test_a_waiter_wakes_when_the_key_changes(path, locks):
    version = locks.swap("k", expected="", value={"n": 1}).version
    woken, other = [], SqliteLocks(path)
    thread = threading.Thread(
        target=lambda: (other.wait("k", version=version, timeout_s=30, waiter="w"), woken.append(time.monotonic()))
    )
    thread.start()
    while not locks._connection().execute("select count(*) from waiters").fetchone()[0]:
        time.sleep(0.002)
    assert not woken
    locks.swap("k", expected=version, value={"n": 2})
    thread.join(10)
    other.close()
    assert woken


def test_a_wait_ends_at_its_time_out_and_leaves_nothing_behind(locks):
    version = locks.swap("k", expected="", value={"n": 1}).version
    began_s = time.monotonic()
    locks.wait("k", version=version, timeout_s=0.05, waiter="w")
    assert time.monotonic() - began_s >= 0.05
    assert locks._connection().execute("select count(*) from waiters").fetchone() == (0,)


def test_a_wait_for_what_has_changed_already_returns_soon(locks):
    version = locks.swap("k", expected="", value={"n": 1}).version
    locks.swap("k", expected=version, value={"n": 2})
    began_s = time.monotonic()
    locks.wait("k", version=version, timeout_s=30, waiter="w")
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("content", [b"not a database at all " * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file(path, locks, content):
    path.parent.mkdir()
    path.write_bytes(content)
    for use in (locks.identity, lambda: locks.read("k"), lambda: locks.entries(""), lambda: locks.swap("k", expected="", value={})):
        with pytest.raises(LockStoreError, match=r"a\.sqlite") as caught:
            use()
        assert caught.value.hint


def test_a_damaged_entry(path, locks):
    locks.swap("k", expected="", value={})
    with sqlite3.connect(path) as connection:
        connection.execute("update register set value = '{broken'")
    connection.close()
    with pytest.raises(LockStoreError, match=r"'k'.*damaged"):
        locks.read("k")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    locks = SqliteLocks(tmp_path / "file" / "locks.sqlite")
    with pytest.raises(LockStoreError, match="cannot be made"):
        locks.read("k")
    locks.close()


def test_a_folder_in_the_place_of_the_file(tmp_path):
    locks = SqliteLocks(tmp_path)
    with pytest.raises(LockStoreError, match="permissions"):
        locks.read("k")
    locks.close()


def test_a_file_that_another_process_keeps_locked(path, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_TIMEOUT_S", 0.05)
    locks = SqliteLocks(path)
    assert locks.swap("k", expected="", value={"n": 1}) is not None
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("begin exclusive")
    try:
        with pytest.raises(LockStoreError, match="kept it for long"):
            locks.swap("k", expected="1", value={"n": 2})
    finally:
        blocker.execute("rollback")
        blocker.close()
    assert locks.swap("k", expected="1", value={"n": 2}) is not None  # and it goes on
    locks.close()


def test_a_fork_has_connections_of_its_own(locks, monkeypatch):
    version = locks.swap("k", expected="", value={"n": 1}).version
    mine = locks._connection()
    pid = locks._pid
    monkeypatch.setattr(module.os, "getpid", lambda: pid + 1)  # what a forked child sees
    theirs = locks._connection()
    assert theirs is not mine
    assert locks.swap("k", expected=version, value={"n": 2}) is not None
    mine.close()


def test_it_works_again_after_close(locks):
    version = locks.swap("k", expected="", value={"n": 1}).version
    locks.close()
    locks.close()
    assert locks.read("k").version == version


def test_threads_that_come_and_go_leave_no_connections_behind(path, locks, monkeypatch):
    opened = []
    really = locks._open
    monkeypatch.setattr(locks, "_open", lambda: opened.append(1) or really())

    def use(number):
        assert locks.swap(f"k{number}", expected="", value={"n": number}) is not None
        if number == 0:
            locks._connection().execute("begin immediate")  # it ends in the middle of a transaction

    for number in range(30):
        thread = threading.Thread(target=use, args=(number,))
        thread.start()
        thread.join()
    assert [entry.value["n"] for entry in sorted(locks.entries("k"), key=lambda entry: entry.value["n"])] == list(range(30))
    assert len(opened) == 1
