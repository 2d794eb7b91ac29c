"""SIGSTOP: a consolidation that was paused for longer than its lease does not commit."""

from __future__ import annotations

import time

import pytest

from support.bench import predictions

LEASE_S = 0.6


@pytest.fixture
def staged(bench):
    """Two batches of one date over the same keys."""
    with bench.open() as store:
        bench.stage_batch(store, "a", parts=3, seed=1)
        bench.stage_batch(store, "b", parts=3, seed=2)
    return bench


def wait_until_expired(bench, *, scope="predictions/2026-01-10"):
    """Wait until the store's clock says that the lease of a stopped holder has ended."""
    with bench.open() as store:
        while store.locks.lock(scope).state != "expired":
            time.sleep(0.01)


def pause(processes, bench, step, batch="a", **more):
    """Start a process with a short lease and return it when it stands still at ``step``."""
    for tried in range(6):
        lease_s = LEASE_S * 2**tried
        child = processes.consolidator(bench, batch, halt=(step, "SIGSTOP"), lease_s=lease_s, **more)
        try:
            return child.wait_stopped()
        except AssertionError:  # the machine was too slow for so short a lease: a longer one
            assert child.answers()[0]["status"] == "fenced", child.output()
    raise AssertionError(f"no process ever reached {step}")


@pytest.mark.parametrize("successor", ["a", "b"], ids=["same batch", "overlapping batch"])
def test_paused_past_its_lease_while_another_one_commits(processes, staged, successor):
    paused = pause(processes, staged, "prepared")
    (winner,) = processes.consolidator(staged, successor).answers()
    assert winner["status"] == "committed"

    (answer,) = paused.resume().answers()

    assert (answer["status"], answer["error_kind"], answer["exit_code"]) == ("fenced", "lease_lost", 5)
    staged.audit(all_merged=False)
    processes.consolidator(staged, "a", "b").answers()
    staged.audit()


@pytest.mark.parametrize("step", ["prepared", "turn_taken", "guard", "merge", "record"])
def test_paused_past_its_lease_with_no_successor(processes, staged, step):
    paused = pause(processes, staged, step)
    wait_until_expired(staged)

    (answer,) = paused.resume().answers()

    assert (answer["status"], answer["error_kind"], answer["exit_code"]) == ("fenced", "lease_lost", 5)
    assert staged.query("select count(*) from onerow.history") == [(0,)]
    processes.consolidator(staged, "a", "b").answers()
    staged.audit()


def test_without_its_own_lease_check_the_token_still_stops_it(processes, staged):
    """The holder never notices that its lease is gone; the fence in the warehouse does."""
    paused = pause(processes, staged, "prepared", without=["lease_check"])
    (winner,) = processes.consolidator(staged, "b").answers()
    assert winner["status"] == "committed"

    (answer,) = paused.resume().answers()

    assert (answer["status"], answer["error_kind"], answer["exit_code"]) == ("fenced", "stale_lease", 5)
    assert str(winner["partitions"][0]["token"]) in answer["error"]
    staged.audit(all_merged=False)
    processes.consolidator(staged, "a").answers()
    staged.audit()


def test_control_without_token_and_lease_check_the_old_holder_commits(processes, staged):
    """Control: with both protections off a lower token commits after a higher one, and the audit sees it (I4)."""
    paused = pause(processes, staged, "prepared", without=["lease_check", "token"])
    (winner,) = processes.consolidator(staged, "b").answers()

    (answer,) = paused.resume().answers()

    assert answer["status"] == "committed"
    assert answer["partitions"][0]["token"] < winner["partitions"][0]["token"]
    assert staged.token_order_violations()
    with pytest.raises(AssertionError, match="I4"):
        staged.audit()


def test_a_stopped_process_that_has_the_file_is_named_and_goes_on_unharmed(processes, staged):
    paused = processes.consolidator(staged, "a", halt=("guard", "SIGSTOP")).wait_stopped()

    (answer,) = processes.consolidator(staged, "b", busy_timeout_s=0.2).answers()

    assert answer["exit_code"] == 6
    assert f"process {paused.pid} " in answer["error"]
    assert f"kill {paused.pid}" in answer["error"]
    (resumed,) = paused.resume().answers()
    assert resumed["status"] == "committed"
    processes.consolidator(staged, "b").answers()
    staged.audit()


def test_a_stopped_process_that_is_killed_frees_the_file(processes, staged):
    paused = pause(processes, staged, "merge")
    paused.kill()
    answers = processes.consolidator(staged, "b", "a").answers()
    assert [answer["status"] for answer in answers] == ["committed", "committed"]
    staged.audit()


def test_paused_between_commit_and_read_back_it_has_committed(processes, staged):
    """Past the COMMIT there is nothing left to fence: it is in the ledger, and its result says so."""
    paused = pause(processes, staged, "committed")
    wait_until_expired(staged)
    (answer,) = paused.resume().answers()
    assert answer["status"] == "committed"
    processes.consolidator(staged, "b", "a").answers()
    staged.audit()


def test_rows_staged_while_it_was_paused_wait_for_the_next_consolidation(processes, staged):
    paused = processes.consolidator(staged, "a", halt=("prepared", "SIGSTOP")).wait_stopped()
    with staged.open() as store:
        staged.stage(store, predictions(6, seed=8), batch="a", worker="late")
    (answer,) = paused.resume().answers()
    assert (answer["status"], answer["parts_removed"]) == ("committed", 3)
    (later,) = processes.consolidator(staged, "a").answers()
    assert (later["status"], later["parts_removed"]) == ("committed", 1)
    processes.consolidator(staged, "b").answers()
    staged.audit()
