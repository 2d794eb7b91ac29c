"""kill -9 at every step of a consolidation, and at random: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest

from support.bench import DAY, predictions
from support.hooks import STEPS

KILLED = -signal.SIGKILL
SHORT_LEASE_S = 0.6
"""Of those who are killed: their successor waits for no longer than this."""

BEFORE_COMMIT = STEPS[: STEPS.index("committed")]
AFTER_RELEASE = STEPS[STEPS.index("released") :]
"""Who dies here holds no lease any more; one that was fenced out before comes here too, having merged nothing."""


def kill_at(processes, bench, step, *, batch="b", times=1):
    """Have a process die at ``step``; one that is too slow for its short lease is run again with a longer one."""
    first_lease_s = 30.0 if step in AFTER_RELEASE else SHORT_LEASE_S
    for tried in range(6):
        lease_s = first_lease_s * 2**tried
        victim = processes.consolidator(bench, batch, halt=(step, "SIGKILL", times), lease_s=lease_s)
        if victim.wait() == KILLED:
            return
        assert victim.answers()[0]["status"] == "fenced", victim.output()
    raise AssertionError(f"no process ever reached {step}")


def finish(processes, bench, *batches):
    """Consolidate in a fresh process; everything must succeed."""
    answers = processes.consolidator(bench, *batches).answers()
    assert all(answer["exit_code"] == 0 for answer in answers), json.dumps(answers)
    return answers


@pytest.fixture
def staged(bench):
    """A table with rows of an earlier batch, and batch ``b`` over the same keys and two dates waiting."""
    with bench.open() as store:
        bench.stage_batch(store, "before", parts=2, seed=1)
        assert store.consolidate(bench.table, "before").status == "committed"
        bench.stage_batch(store, "b", parts=4, seed=2)
        mixed = predictions(8, seed=3) + predictions(8, seed=4, day=DAY.replace(day=11))
        bench.stage(store, mixed, batch="b", worker="w-two-dates")
    return bench


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_a_fresh_process_brings_it_to_its_end(processes, staged, step):
    kill_at(processes, staged, step)
    staged.audit(all_merged=False)
    committed = {row[0] for row in staged.query("select distinct batch from onerow.history")}
    assert ("b" in committed) == (step not in BEFORE_COMMIT)

    (answer,) = finish(processes, staged, "b")

    assert answer["status"] == ("committed" if step in BEFORE_COMMIT else "already_merged")
    staged.audit()


@pytest.mark.parametrize("times", [2, 4])
def test_killed_in_the_middle_of_the_clean_up(processes, staged, times):
    kill_at(processes, staged, "retiring", times=times)
    states = [state for _, state in staged.part_states().values()]
    assert states.count("retired") == 2 + times  # those of the first batch, and the ones it came to
    staged.audit(all_merged=False)

    (answer,) = finish(processes, staged, "b")

    assert (answer["status"], answer["parts_removed"]) == ("already_merged", 5 - times)
    staged.audit()


def test_a_second_process_dies_where_the_first_did(processes, staged):
    for step in ("merge", "before_commit", "committed", "retiring"):
        kill_at(processes, staged, step)
    finish(processes, staged, "b")
    staged.audit()


def test_a_part_that_is_staged_after_the_kill_is_merged_and_nothing_else_again(processes, staged):
    kill_at(processes, staged, "committed")
    with staged.open() as store:
        staged.stage(store, predictions(5, seed=9), batch="b", worker="late")
    (answer,) = finish(processes, staged, "b")
    assert answer["status"] == "committed"
    assert sum(partition["parts"] for partition in answer["partitions"]) == 1
    staged.audit()


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_times(processes, bench, seed):
    """Five kills a seed, at random moments of processes that wait for each other's leases, over three batches."""
    chance = random.Random(seed)
    batches = ("b", "b-2", "b_2")
    with bench.open() as store:
        for number, batch in enumerate(batches):
            bench.stage_batch(store, batch, parts=4, seed=seed * 10 + number)
    for _ in range(5):
        order = chance.sample(batches, 3)
        victim = processes.consolidator(bench, *order, halt=("opened", "SIGSTOP"), lease_s=SHORT_LEASE_S)
        victim.wait_stopped().resume()
        time.sleep(chance.uniform(0.0, 0.9))  # the moment of death is the test's own choice
        victim.kill()
        bench.audit(all_merged=False)
    finish(processes, bench, *batches)
    bench.audit()


def test_the_audit_notices_a_lost_and_a_doubled_row(staged):
    """Control: the audit that the tests above rely on fails when a row is lost, doubled or cleaned up early."""
    with staged.open() as store:
        assert store.consolidate(staged.table, "b").success
    staged.audit()
    staged.write("insert into predictions select * from predictions limit 1")
    with pytest.raises(AssertionError):
        staged.audit()
    staged.write("delete from predictions where rowid = (select max(rowid) from predictions)")
    staged.audit()
    staged.write("delete from predictions where rowid = (select min(rowid) from predictions)")
    with pytest.raises(AssertionError):
        staged.audit()
    with staged.open() as store:
        staged.stage(store, predictions(1, seed=7), batch="c")
        store.ports.parts.retire(store.ports.parts.parts(staged.table, "c"))
    with pytest.raises(AssertionError, match="I7"):
        staged.audit(all_merged=False)
