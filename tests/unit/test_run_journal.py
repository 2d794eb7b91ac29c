"""The journal of consolidations: written and read back, small, pruned, and never in anybody's way."""

from __future__ import annotations

import datetime as dt
import json
import logging

import pytest

from onerow.core.results import ConsolidationResult, PartitionResult
from onerow.errors import LockStoreError
from onerow.services.runs import MAX_PARTITIONS, RUN_PREFIX, RunJournal, entry_from_json
from onerow.testing.memory_locks import START_US, MemoryLocks, StoreClock

DAY_S = 86_400


def result(number=1, *, table="t", status="committed", partitions=1, error=None):
    return ConsolidationResult(
        f"c{number}",
        table,
        "b",
        status,
        tuple(
            PartitionResult(f"p{index}", status, token=7, rows_staged=3, rows_inserted=3, lock_wait_s=index, verify_s=0.5, error=error)
            for index in range(partitions)
        ),
        error=error,
        error_kind="duplicates" if error else None,
    )


class Later:
    """Time that a test moves."""

    def __init__(self):
        self.us = 0

    def __call__(self):
        return self.us

    def days(self, number):
        self.us += round(number * DAY_S * 1_000_000)


@pytest.fixture
def time():
    return Later()


@pytest.fixture
def store(time):
    return MemoryLocks(clock=StoreClock(time))


def moment(us):
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)


def test_what_is_written_is_read_back_with_all_facts(store):
    journal = RunJournal(store)
    assert journal.record(result(partitions=3), elapsed_s=2.5, holder="ann@host:1", via="coordinator")
    (run,) = journal.list()
    assert run.result == result(partitions=3)
    assert (run.elapsed_s, run.holder, run.via, run.lock_wait_s, run.verify_s) == (2.5, "ann@host:1", "coordinator", 2, 1.5)
    assert run.finished_at == moment(START_US)
    assert run.finished_at - run.started_at == dt.timedelta(seconds=2.5)
    assert journal.find("c1") == run
    assert journal.find("1") is None


def test_failed_ones_are_kept_too_the_latest_first(store, time):
    journal = RunJournal(store)
    for number, status in enumerate(("failed", "lock_timeout", "unknown", "committed")):
        journal.record(result(number, status=status, error=None if status == "committed" else "why"))
        time.us += 1_000
    assert [run.result.status for run in journal.list("t")] == ["committed", "unknown", "lock_timeout", "failed"]
    assert [run.result.consolidation for run in journal.list("t", limit=2)] == ["c3", "c2"]


def test_only_the_days_that_are_asked_for_are_read(store, time):
    journal = RunJournal(store)
    for number in range(10):
        journal.record(result(number))
        journal.record(result(100 + number, table="t2"))
        time.days(1)
    asked = []
    entries = store.entries
    store.entries = lambda prefix: asked.append(prefix) or entries(prefix)
    since = moment(store.clock.now_us()) - dt.timedelta(days=2, hours=1)
    assert [run.result.consolidation for run in journal.list("t", since=since)] == ["c9", "c8"]
    assert all(len(prefix) > len("run:t/") for prefix in asked)
    assert sum(len(entries(prefix)) for prefix in asked) <= 3
    assert len(journal.list("t", since=since - dt.timedelta(days=60))) == 10
    assert len(journal.list()) == 20


def test_of_very_many_partitions_the_failed_ones_are_kept_and_the_entry_stays_small(store):
    many = result(partitions=5_000)
    bad = PartitionResult("zzz", "failed", error="x" * 9_000, error_kind="duplicates")
    RunJournal(store).record(ConsolidationResult("c1", "t", "b", "failed", (*many.partitions, bad), error="x" * 9_000))
    (run,) = RunJournal(store).list()
    assert run.result.partitions[0].partition == "zzz"
    assert (len(run.result.partitions), run.partitions_omitted) == (MAX_PARTITIONS, 5_001 - MAX_PARTITIONS)
    (entry,) = store.entries(RUN_PREFIX)
    assert len(json.dumps(entry.value)) < 250_000


def test_old_entries_go_once_a_day(store, time):
    journal = RunJournal(store, keep_s=3 * DAY_S)
    for number in range(6):
        journal.record(result(number))
        journal.record(result(100 + number))
        time.days(1)
    assert {run.result.consolidation for run in journal.list()} == {f"c{n}" for base in (0, 100) for n in range(base + 2, base + 6)}
    assert journal.prune(older_than_s=0.0, limit=3) == 3
    assert journal.prune(older_than_s=0.0) == 5
    assert journal.prune(older_than_s=0.0) == 0


class Broken(MemoryLocks):
    """A store that fails where it is told to."""

    fails = ""

    def swap(self, key, **more):
        if self.fails == "swap":
            raise LockStoreError("the disk is full")
        swapped = super().swap(key, **more)
        if self.fails == "reply" and key.startswith(RUN_PREFIX):
            raise LockStoreError("the reply was lost")
        return swapped


def test_a_failure_to_write_is_told_and_raises_nothing(caplog):
    store = Broken()
    store.fails = "swap"
    with caplog.at_level(logging.WARNING, logger="onerow"):
        assert RunJournal(store).record(result()) is False
    (told,) = caplog.records
    assert (told.message, told.facts["consolidation"], told.facts["error"]) == ("onerow.run_not_recorded", "c1", "the disk is full")


def test_a_lost_reply_is_read_back():
    store = Broken()
    store.fails = "reply"
    assert RunJournal(store).record(result()) is True
    assert len(RunJournal(store).list()) == 1


def test_a_damaged_entry_is_told(store):
    RunJournal(store).record(result())
    (entry,) = store.entries(RUN_PREFIX)
    for broken in ({**entry.value, "format": 2}, {**entry.value, "result": {}}, {**entry.value, "started_at": "x"}, {}):
        with pytest.raises(LockStoreError):
            entry_from_json(broken)
