"""Work that many ask for at once: done once for all of them, and never before anybody's question."""

from __future__ import annotations

import threading

import pytest

from onerow.services.sharing import Shared


class Slow:
    """Work that waits until a test lets it go on."""

    def __init__(self):
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.times = 0
        self.at_once = self.most = 0

    def __call__(self, key):
        self.times += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        number = self.times
        self.begun.release()
        assert self.go.acquire(timeout=30)
        self.at_once -= 1
        if key == "bad":
            raise ValueError(number)
        return number


def ask(shared, key, answers, count):
    threads = [threading.Thread(target=lambda: answers.append(shared(key))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_who_asks_while_it_runs_waits_for_the_next_time_together_with_all_others():
    slow = Slow()
    shared, first, later = Shared(slow), [], []
    threads = ask(shared, "k", first, 1)
    assert slow.begun.acquire(timeout=30)
    threads += ask(shared, "k", later, 20)
    while len(threading.enumerate()) < 21:
        pass
    slow.go.release(22)
    for thread in threads:
        thread.join(30)
    assert first == [1]
    assert set(later) <= set(range(2, 22))
    assert slow.times < 10, "hardly anybody has shared it"
    assert slow.most == 1
    assert not shared._waiting
    assert not shared._turns


def test_different_keys_do_not_wait_for_each_other():
    slow = Slow()
    shared, answers = Shared(slow), []
    threads = [*ask(shared, "a", answers, 1), *ask(shared, "b", answers, 1)]
    assert slow.begun.acquire(timeout=30)
    assert slow.begun.acquire(timeout=30), "the second key waits for the first"
    slow.go.release(2)
    for thread in threads:
        thread.join(30)
    assert slow.most == 2


def test_a_failure_is_everybodys_and_the_next_time_is_a_new_one():
    slow = Slow()
    shared = Shared(slow)
    slow.go.release(2)
    for number in (1, 2):
        with pytest.raises(ValueError, match=str(number)):
            shared("bad")
    assert not shared._waiting
