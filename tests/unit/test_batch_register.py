"""Records of batches in the register: compare-and-swap, lost replies, the index of active ones, what is told."""

from __future__ import annotations

import logging

import pytest

from onerow.core import batchnotes as notes
from onerow.core import batchrecords as core
from onerow.core.batchrecords import Defaults, Expected, Seen
from onerow.errors import LockStoreError
from onerow.services.registry import ACTIVE_PREFIX, BATCH_PREFIX, LONELY_US, BatchRegister, Name
from onerow.testing.memory_locks import MemoryLocks, StoreClock
from onerow.testing.virtual import SeededIds, VirtualTime

NAME = Name("t", "b/1")
KEY = f"{BATCH_PREFIX}t/b/1"
MARK = f"{ACTIVE_PREFIX}t/b/1"
DEFAULTS = Defaults(3_600_000_000, "consolidate")


class Line(MemoryLocks):
    """A store whose line fails where a test says."""

    def __init__(self, time):
        super().__init__(clock=StoreClock(lambda: time.now_us))
        self.loses_reply_of = self.fails_before = ""
        self.first = []

    def swap(self, key, **more):
        for meanwhile in self.first[:1] if key == KEY else ():
            self.first.clear()
            meanwhile()
        if self.fails_before and key.startswith(self.fails_before):
            raise LockStoreError("it does not answer")
        swapped = super().swap(key, **more)
        if self.loses_reply_of and key.startswith(self.loses_reply_of):
            raise LockStoreError("the reply was lost")
        return swapped


@pytest.fixture
def time():
    return VirtualTime()


@pytest.fixture
def line(time):
    return Line(time)


@pytest.fixture
def records(line, time):
    return BatchRegister(line, clock=time, ids=SeededIds(1))


def opened(record, now_us):
    return core.opened(
        record, table="t", batch="b/1", expected=Expected(parts=2), defaults=DEFAULTS, by="x", now_us=now_us
    )


def finish(records):
    """Bring the batch to its end."""
    records.change(NAME, lambda record, now: core.observed(record, Seen(2, 2, 2, 9), now))
    records.change(
        NAME, lambda record, now: core.claimed(record, owner="o", holder="h", duration_us=10, now_us=now)
    )
    fine = core.Round("c", "committed", success=True, holder="h", finished_us=0)
    records.change(NAME, lambda record, now: core.finished(record, "o", fine, Seen(2, 2, 0, 9), now))


def test_a_change_is_made_on_what_somebody_else_has_written_meanwhile(records, line):
    records.change(NAME, opened)
    line.first.append(
        lambda: records.change(NAME, lambda record, now: notes.remembering(record, "theirs", "p"))
    )
    _, after, _ = records.change(NAME, lambda record, now: notes.remembering(record, "ours", "p"))
    assert [key for key, _ in after.keys] == ["theirs", "ours"]
    assert records.read(NAME)[0] == after


def test_a_lost_reply_is_read_back_and_told_once(records, line, caplog):
    line.loses_reply_of = BATCH_PREFIX
    with caplog.at_level(logging.INFO, logger="onerow"):
        before, after, _ = records.change(NAME, opened)
    assert before is None
    assert records.read(NAME)[0] == after
    assert [record.message for record in caplog.records] == ["onerow.batch_opened"]


def test_what_was_not_written_is_an_error_and_nothing_is_told(records, line, caplog):
    line.fails_before = BATCH_PREFIX
    with caplog.at_level(logging.INFO, logger="onerow"), pytest.raises(LockStoreError):
        records.change(NAME, opened)
    assert records.read(NAME)[0] is None
    assert not caplog.records


def test_a_record_that_never_stands_still_is_given_up(records, line):
    records.change(NAME, opened)
    number = iter(range(1000))

    def always(record, now):
        line.first.append(
            lambda: records.change(NAME, lambda theirs, _: notes.remembering(theirs, f"k{next(number)}", "p"))
        )
        return notes.remembering(record, "ours", "p")

    with pytest.raises(LockStoreError, match="changed 30 times"):
        records.change(NAME, always)


def test_the_index_names_a_batch_from_before_its_record_is_written_until_it_rests(records, line):
    line.fails_before = BATCH_PREFIX
    with pytest.raises(LockStoreError):
        records.change(NAME, opened)
    assert [name for name, _ in records.active()] == [NAME]
    line.fails_before = ""
    records.change(NAME, opened)
    finish(records)
    ((name, mark),) = records.active()
    records.drop_mark(name, mark)
    assert not list(records.active())


def test_a_mark_without_a_record_goes_after_a_while_only(records, line, time):
    line.fails_before = BATCH_PREFIX
    with pytest.raises(LockStoreError):
        records.change(NAME, opened)
    ((name, mark),) = records.active()
    records.drop_mark(name, mark)
    assert list(records.active())
    time.advance(LONELY_US / 1_000_000)
    records.drop_mark(name, mark)
    assert not list(records.active())


def wake(records):
    records.change(NAME, lambda record, now: core.reported(record, Seen(3, 3, 1, 12), now))


def test_a_batch_that_wakes_up_keeps_its_mark_whenever_somebody_takes_it_away(records, line):
    """Somebody has seen it at rest and is about to remove the mark; it wakes up before, or right after."""
    for late in (False, True):
        records.change(NAME, opened)
        finish(records)
        ((name, mark),) = records.active()
        if late:
            read = records.read

            def reading(asked, read=read):
                found = read(asked)
                records.read = read
                wake(records)
                return found

            records.read = reading
        else:
            wake(records)
        records.drop_mark(name, mark)
        assert records.read(NAME)[0].state == "due"
        assert [name for name, _ in records.active()] == [NAME]
        records.change(NAME, lambda record, now: core.given_back(record, "nobody", now))
        line.restore({})


def test_a_damaged_record_is_told_once_a_minute_and_the_others_are_read(records, line, time, caplog):
    records.change(NAME, opened)
    line.swap(f"{BATCH_PREFIX}t/a", expected="", value={"format": 1})
    with caplog.at_level(logging.ERROR, logger="onerow"):
        for _ in range(3):
            assert [record.batch for _, record in records.readable(records.entries())] == ["b/1"]
        assert failures(caplog) == 1
        time.advance(61)
        list(records.readable(records.entries("t")))
    assert failures(caplog) == 2


def failures(caplog):
    """Return how often it was told; other tests may have left lower levels on."""
    return [record.message for record in caplog.records].count("onerow.coordinator_failed")
