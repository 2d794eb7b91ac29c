"""What every lock store has to do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from onerow.testing.conformance.asking import Beside, Checks, eventually, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow.ports.lockstore import Entry, LockStore

    Opener = Callable[[], LockStore]

CHECKS: Checks[LockStoreHarness] = Checks()

ODD_KEYS = (
    "lease/predictions/2026-01-11",
    "lease/predictions/2026-01-11 ",
    "lease/predictions/a/b//c",
    'it\'s "quoted"; drop table register --',
    "é",
    "e\u0301",
    "日本語/🏀",
    "A",
    "a",
    "*?[x]{y}\\",
    "100%_sure",
    "x" * 400,
)


class LockStoreHarness(ABC):
    """Joins the suite to a lock store. Every harness begins with an empty one."""

    @abstractmethod
    def store(self) -> LockStore:
        """Return a new object on the same store, as another process would have it; the harness closes it."""

    @abstractmethod
    def opener(self) -> Opener | None:
        """Return what opens the store in another process (it is pickled); None if no other process can."""

    @abstractmethod
    def close(self) -> None:
        """Close what was opened."""


def _put(store: LockStore, key: str, value: dict[str, object]) -> Entry:
    """Write whatever is there now."""
    for _ in range(1000):
        swapped = store.swap(key, expected=store.read(key).version, value=value)
        if swapped is not None:
            return swapped
    raise AssertionError(f"{key!r} could not be written")


# --- compare and swap ----------------------------------------------------------------------------


@CHECKS.add
def a_key_that_was_never_written_holds_nothing(harness: LockStoreHarness) -> None:
    """No value, no version, and the store's clock."""
    entry = harness.store().read("k")
    assert (entry.key, entry.value, entry.version) == ("k", None, "")
    assert entry.now_us > 0
    assert list(harness.store().entries("")) == []


@CHECKS.add
def a_swap_writes_only_over_the_version_it_expects(harness: LockStoreHarness) -> None:
    """Neither over a value that it did not expect, nor over none, nor over a version that never was."""
    store, other = harness.store(), harness.store()
    first = store.swap("k", expected="", value={"n": 1})
    assert first is not None
    assert (first.value, first.version == "") == ({"n": 1}, False)
    assert other.swap("k", expected="", value={"n": 2}) is None
    second = other.swap("k", expected=first.version, value={"n": 2})
    assert second is not None
    assert second.version != first.version
    for expected in (first.version, "", f"{second.version}0", "0", "-1", "no version", "9" * 30, " "):
        assert store.swap("k", expected=expected, value={"n": 3}) is None, expected
        assert store.swap("k", expected=expected, value=None) is None, expected
    assert store.swap("other", expected=second.version, value={}) is None
    for seen in (store.read("k"), other.read("k")):
        assert (seen.value, seen.version) == ({"n": 2}, second.version)
    assert store.read("other").value is None


@CHECKS.add
def the_same_value_again_is_another_version(harness: LockStoreHarness) -> None:
    """A renewal that changes nothing else must be seen by those who wait."""
    store = harness.store()
    first = _put(store, "k", {"n": 1})
    assert _put(store, "k", {"n": 1}).version != first.version


@CHECKS.add
def versions_never_come_back(harness: LockStoreHarness) -> None:
    """Not over deletion and making it anew: who has an old version must not win by it."""
    store = harness.store()
    seen: list[str] = []
    for _ in range(3):
        seen.extend(_put(store, "k", {"n": number}).version for number in range(3))
        deleted = store.swap("k", expected=seen[-1], value=None)
        assert deleted is not None
        assert (deleted.value, deleted.version) == (None, "")
        assert (store.read("k").value, store.read("k").version) == (None, "")
        for version in seen:
            assert store.swap("k", expected=version, value={"n": 9}) is None
    assert len(set(seen)) == len(seen)


@CHECKS.add
def a_key_can_be_deleted_and_is_gone(harness: LockStoreHarness) -> None:
    """Only by who knows its version; deleting what is not there makes no entry."""
    store = harness.store()
    version = _put(store, "k", {"n": 1}).version
    assert store.swap("k", expected="", value=None) is None
    assert store.swap("k", expected=version, value=None) is not None
    assert store.swap("k", expected=version, value=None) is None
    store.swap("never", expected="", value=None)
    assert list(store.entries("")) == []
    assert store.swap("never", expected="", value={"n": 1}) is not None


# --- keys and values -----------------------------------------------------------------------------


@CHECKS.add
def keys_are_told_apart_exactly(harness: LockStoreHarness) -> None:
    """By every character: case, accents, blanks, quotes and patterns."""
    store = harness.store()
    for number, key in enumerate(ODD_KEYS):
        assert store.swap(key, expected="", value={"n": number}) is not None, key
    other = harness.store()
    assert [other.read(key).value for key in ODD_KEYS] == [{"n": number} for number in range(len(ODD_KEYS))]
    found = other.entries("")
    assert [entry.key for entry in found] == sorted(ODD_KEYS)
    assert {entry.key: entry.value for entry in found} == {key: {"n": at} for at, key in enumerate(ODD_KEYS)}


@CHECKS.add
def prefixes_are_exact(harness: LockStoreHarness) -> None:
    """Characters that stand for others elsewhere stand for themselves; a longer name is another name."""
    store = harness.store()
    keys = ["b1", "b1/x", "b1_x", "b1-x", "b10", "B1", "b%", "b%z", "b_", "b_z", "bb", "é", "éa", "e\u0301a", "b*", "*"]
    for key in keys:
        _put(store, key, {"key": key})
    for prefix in ["", "b", "b1", "b1/", "b1_", "b%", "b_", "B", "é", "e", "*", "b*", "nothing", "b1_x"]:
        expected = sorted(key for key in keys if key.startswith(prefix))
        found = store.entries(prefix)
        assert [entry.key for entry in found] == expected, prefix
        for entry in found:
            assert (entry.value, entry.version) == ({"key": entry.key}, store.read(entry.key).version)


@CHECKS.add
def values_come_back_as_they_were(harness: LockStoreHarness) -> None:
    """Whatever JSON can hold, numbers digit by digit; an empty value is a value."""
    store = harness.store()
    values: list[dict[str, object]] = [
        {},
        {"nothing": None, "yes": True, "no": False, "text": "", "zero": 0},
        {"big": 2**63, "bigger": 10**40, "negative": -(2**63) - 1, "token": 1_768_093_594_538_001},
        {"float": 0.1, "small": 5e-324, "large": 1.7976931348623157e308},
        {"é": "e\u0301", "日本": "🏀\u2028\"'\\\n\t\x01", "": " "},
        {"nested": {"list": [1, "two", None, [[]], {"three": {"four": []}}]}},
        {"long": "x" * 100_000},
    ]
    for value in values:
        written = _put(store, "k", value)
        read = harness.store().read("k")
        assert written.value == read.value == value
        assert repr(read.value) == repr(value), "types and order are kept too"
        assert [entry.value for entry in store.entries("k")] == [value]


# --- identity, clock -----------------------------------------------------------------------------


@CHECKS.add
def the_identity_is_the_stores_for_ever(harness: LockStoreHarness) -> None:
    """Every object on the store tells the same one, also of those who ask first at the same moment."""
    identities = together([harness.store().identity for _ in range(4)])
    store = harness.store()
    _put(store, "k", {"n": 1})
    assert {*identities, store.identity(), harness.store().identity()} == {store.identity()}
    assert store.identity().strip()


@CHECKS.add
def the_clock_does_not_go_back(harness: LockStoreHarness) -> None:
    """Whoever asks, by whichever call, sees a time that is no earlier than what was told before."""
    stores = [harness.store(), harness.store()]
    told = [stores[0].read("k").now_us]
    for number in range(30):
        store = stores[number % 2]
        told.append(store.read("k").now_us)
        told.append(_put(store, "k", {"n": number}).now_us)
        told.extend(entry.now_us for entry in store.entries("k"))
    assert told == sorted(told)
    time.sleep(0.02)
    assert told[-1] + 10_000 <= stores[0].read("k").now_us <= told[-1] + 20_000_000, "it runs, in microseconds"


# --- waiting -------------------------------------------------------------------------------------


@CHECKS.add
def waiting_ends_when_the_key_changes(harness: LockStoreHarness) -> None:
    """By a write, a deletion or the first write, of another object; long before the time-out."""
    store = harness.store()
    versions = [("", {"n": 1})]
    for expected, value in [*versions, ("current", {"n": 2}), ("current", None)]:
        version = store.read("k").version
        assert (version == "") == (expected == "")
        waiting = Beside(partial(_wait_out, harness.store(), "k", version))
        time.sleep(0.05)
        assert store.swap("k", expected=version, value=value) is not None
        assert waiting.result() < 5.0


def _wait_out(store: LockStore, key: str, version: str) -> float:
    """Wait, again where it returned early, until the version is another one; return the seconds."""
    begun_s = time.monotonic()
    while store.read(key).version == version and time.monotonic() < begun_s + 30:
        store.wait(key, version=version, timeout_s=30.0, waiter="w")
    return time.monotonic() - begun_s


@CHECKS.add
def waiting_does_not_begin_when_the_key_has_changed_already(harness: LockStoreHarness) -> None:
    """Nobody sleeps through a change that came between reading and waiting."""
    store = harness.store()
    first = _put(store, "k", {"n": 1}).version
    _put(store, "k", {"n": 2})
    begun_s = time.monotonic()
    store.wait("k", version=first, timeout_s=30.0, waiter="w")
    store.wait("k", version="", timeout_s=30.0, waiter="w")
    assert time.monotonic() - begun_s < 5.0


@CHECKS.add
def waiting_times_out(harness: LockStoreHarness) -> None:
    """Also while other keys change; a time-out of nothing or less returns at once."""
    store = harness.store()
    version = _put(store, "k", {"n": 1}).version
    begun_s = time.monotonic()
    waiting = Beside(partial(harness.store().wait, "k", version=version, timeout_s=0.2, waiter="w"))
    for number in range(5):
        _put(store, "k2", {"n": number})
    waiting.result()
    for timeout_s in (0.0, -1.0):
        store.wait("k", version=version, timeout_s=timeout_s, waiter="w")
    assert time.monotonic() - begun_s < 5.0
    assert store.read("k").version == version


@CHECKS.add
def all_waiters_get_their_turn(harness: LockStoreHarness) -> None:
    """Of several who wait for one key each one comes through in the end."""
    _put(harness.store(), "k", {"owner": "somebody", "turns": 0})

    def take_turn(name: str) -> None:
        store = harness.store()
        while True:
            entry = store.read("k")
            value = entry.value
            assert value is not None
            if not value["owner"]:
                taken = store.swap("k", expected=entry.version, value={**value, "owner": name})
                if taken is not None:
                    free = {"owner": "", "turns": value["turns"] + 1}
                    assert store.swap("k", expected=taken.version, value=free) is not None
                    return
                continue
            store.wait("k", version=entry.version, timeout_s=10.0, waiter=name)

    waiting = [Beside(partial(take_turn, f"w{number}")) for number in range(4)]
    time.sleep(0.05)
    _put(harness.store(), "k", {"owner": "", "turns": 0})
    for beside in waiting:
        beside.result()
    assert harness.store().read("k").value == {"owner": "", "turns": 4}


@CHECKS.add
def a_waiter_that_never_comes_back_blocks_nobody(harness: LockStoreHarness) -> None:
    """It came first, gave up and is not seen again."""
    store = harness.store()
    version = _put(store, "k", {"n": 1}).version
    store.wait("k", version=version, timeout_s=0.02, waiter="first and lost")
    waiting = Beside(partial(_wait_out, harness.store(), "k", version))
    time.sleep(0.05)
    _put(store, "k", {"n": 2})
    assert waiting.result() < 5.0


# --- many at once --------------------------------------------------------------------------------


@CHECKS.add
def no_update_is_lost_between_threads(harness: LockStoreHarness) -> None:
    """Threads that share one object and threads with objects of their own."""
    shared = harness.store()
    stores = [shared, shared, harness.store(), harness.store()]
    together([partial(_increment, store, 25) for store in stores])
    assert shared.read("k").value == {"n": 100}


@CHECKS.add
def no_update_is_lost_between_processes(harness: LockStoreHarness) -> None:
    """Several processes increment one number."""
    opener = harness.opener()
    assert opener is not None, "no other process can open this store"
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_increment_opened, args=(opener, 40)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert harness.store().read("k").value == {"n": 120}
    assert harness.store().swap("k", expected="1", value={}) is None


@CHECKS.add
def a_waiter_whose_process_was_killed_blocks_nobody(harness: LockStoreHarness) -> None:
    """It waits, is the first, and is killed without a word."""
    opener = harness.opener()
    assert opener is not None, "no other process can open this store"
    store = harness.store()
    version = _put(store, "k", {"n": 1}).version
    child = multiprocessing.get_context("spawn").Process(target=_wait_opened, args=(opener, version))
    child.start()
    eventually(lambda: store.read("waiting").value is not None, "the child waits")
    time.sleep(0.05)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(20)
    waiting = Beside(partial(_wait_out, harness.store(), "k", version))
    time.sleep(0.05)
    _put(store, "k", {"n": 2})
    assert waiting.result() < 5.0


def _increment(store: LockStore, times: int) -> None:
    for _ in range(times):
        while True:
            entry = store.read("k")
            number = 0 if entry.value is None else int(entry.value["n"])
            if store.swap("k", expected=entry.version, value={"n": number + 1}) is not None:
                break


def _increment_opened(opener: Opener, times: int) -> None:
    store = opener()
    _increment(store, times)
    store.close()


def _wait_opened(opener: Opener, version: str) -> None:
    store = opener()
    _put(store, "waiting", {"pid": os.getpid()})
    store.wait("k", version=version, timeout_s=60.0, waiter="first and killed")
