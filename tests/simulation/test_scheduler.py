"""The scheduler is random, reproducible, and its processes die and freeze as real ones do."""

from __future__ import annotations

import pytest

from onerow.testing.scheduler import (
    ListChooser,
    Scheduler,
    SeededChooser,
    SimulatedBackground,
    SimulatedClock,
    StuckError,
)
from onerow.testing.world import run_seed

SECOND = 1_000_000


def two_talkers(scheduler, said):
    def talk(name):
        for number in range(5):
            scheduler.switch("talk")
            said.append(f"{name}{number}")

    for name in "ab":
        scheduler.spawn(scheduler.process(name), name, lambda name=name: talk(name))


def order_under(chooser):
    scheduler, said = Scheduler(chooser), []
    two_talkers(scheduler, said)
    scheduler.run()
    return said


@pytest.mark.parametrize("seed", [0, 7, 123])
def test_one_seed_has_one_trace_byte_for_byte(seed):
    first, second = (run_seed(seed, tracing=True) for _ in range(2))
    assert "\n".join(first.trace).encode() == "\n".join(second.trace).encode()
    assert len(first.trace) > 50
    assert (first.steps, first.counts, first.violations) == (second.steps, second.counts, second.violations)


def test_tracing_changes_nothing():
    assert run_seed(3, tracing=True).steps == run_seed(3).steps


def test_different_seeds_have_different_schedules():
    assert len({tuple(order_under(SeededChooser(seed))) for seed in range(30)}) > 20
    assert len({run_seed(seed, tracing=True).trace for seed in range(10)}) == 10


def test_given_choices_are_followed_and_counted():
    chooser = ListChooser([1, 1, 0])
    said = order_under(chooser)
    assert said[0] == "b0"
    assert chooser.counts[:3] == [2, 2, 2]
    assert order_under(ListChooser([1, 1, 0])) == said


def test_time_jumps_only_when_everybody_waits():
    scheduler, seen = Scheduler(SeededChooser(0)), []
    clock = SimulatedClock(scheduler, scheduler.process("a"))

    def sleeper():
        clock.sleep_s(10)
        seen.append(("woken", scheduler.now_us))

    def worker():
        for _ in range(5):
            scheduler.switch("work")
        seen.append(("worked", scheduler.now_us))

    scheduler.spawn(scheduler.process("a"), "a", sleeper)
    scheduler.spawn(scheduler.process("b"), "b", worker)
    scheduler.run()
    assert seen == [("worked", 0), ("woken", 10 * SECOND)]


def test_a_killed_process_reaches_nobody_any_more():
    scheduler, seen = Scheduler(ListChooser()), []
    process = scheduler.process("victim")

    def victim():
        try:
            while True:
                scheduler.sleep_us(SECOND)
                seen.append("tick")
        finally:
            seen.append("finally runs")
            scheduler.switch("talk to the world")
            seen.append("and reaches the world")

    def killer():
        scheduler.sleep_us(3 * SECOND + 1)
        scheduler.kill(process)

    scheduler.spawn(process, "victim", victim)
    scheduler.spawn(scheduler.process("killer"), "killer", killer)
    scheduler.run()
    assert seen == ["tick", "tick", "tick", "finally runs"]


def test_a_paused_process_stands_still_with_all_its_actors():
    scheduler, seen = Scheduler(ListChooser()), []
    process = scheduler.process("a")
    background = SimulatedBackground(scheduler, process)

    def main():
        task = background.every(1, lambda: seen.append(scheduler.now_us // SECOND) or True, name="keeper")
        scheduler.sleep_us(12 * SECOND)
        task.stop()
        seen.append("end")

    def pauser():
        scheduler.sleep_us(2 * SECOND + 1)
        scheduler.pause(process, 7 * SECOND)

    scheduler.spawn(process, "a", main)
    scheduler.spawn(scheduler.process("b"), "b", pauser)
    scheduler.run()
    assert seen[:2] == [1, 2]
    assert seen[2] == 9, "what was due meanwhile happens when the process goes on"
    assert seen[-1] == "end"


def test_background_work_ends_when_it_is_stopped():
    scheduler, seen = Scheduler(ListChooser()), []
    background = SimulatedBackground(scheduler, scheduler.process("a"))

    def main():
        task = background.every(1, lambda: seen.append("tick") or True, name="keeper")
        scheduler.sleep_us(2 * SECOND + 1)
        task.stop()
        task.stop()
        scheduler.sleep_us(10 * SECOND)

    scheduler.spawn(scheduler.process("a"), "a", main)
    scheduler.run()
    assert seen == ["tick", "tick"]


def test_a_clock_drifts_as_its_process_does():
    scheduler = Scheduler(ListChooser())
    process = scheduler.process("fast")
    process.drift_ppm = 100_000
    clock = SimulatedClock(scheduler, process)

    def main():
        clock.sleep_s(11)

    scheduler.spawn(process, "fast", main)
    scheduler.run()
    assert scheduler.now_us == 10 * SECOND
    process.alive = True
    assert clock.monotonic_s() == pytest.approx(11)


def test_a_run_that_cannot_end_is_stuck():
    scheduler = Scheduler(ListChooser())

    def forever():
        while True:
            scheduler.switch("again")

    scheduler.spawn(scheduler.process("a"), "a", forever)
    with pytest.raises(StuckError):
        scheduler.run()


def test_an_error_of_an_actor_comes_out():
    scheduler = Scheduler(ListChooser())

    def fail():
        scheduler.switch("before")
        raise ValueError("a mistake in the code under test")

    scheduler.spawn(scheduler.process("a"), "a", fail)
    with pytest.raises(ValueError, match="a mistake"):
        scheduler.run()
