"""A season in several processes: runs overlap, a process is killed, and everything is there once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

import onerow
from predictions import backfill
from predictions.coordinator.batch_state_manager import open_batch_states
from predictions.reconciliation import reconcile
from predictions.testing import inject_duplicate_predictions, query
from support.nba import settings
from support.predicting import environment_of, expected_keys, season, small_day

RUNS = ["night1", "night2"]


@pytest.fixture
def days():
    """Two days, the first of them small."""
    first = small_day()
    return [first, season().dates[season().dates.index(first) + 1]]


def test_two_processes_overlap_on_a_day_and_one_of_them_is_killed(local, tmp_path, days):
    backfill.prepare("local", fresh=False, lease_s=2.0)
    words = ["--join", "--runs", "2", "--name", "night", "--since", f"{days[0]}", "--dates", "2"]
    command = [sys.executable, "-m", "predictions.backfill", *words]
    names = {f"{days[0]:%Y%m%d}_{run}" for run in RUNS}
    with open_batch_states("local") as batches:
        with local.lock.acquire(f"{days[0]}", "the test"):  # so neither is done before the other has begun
            running = [subprocess.Popen(command, env=environment_of(tmp_path / "home")) for _ in range(2)]
            until_s = time.monotonic() + 60
            while {one.batch for one in batches.batches() if one.state in {"due", "claimed"}} != names:
                assert time.monotonic() < until_s, list(batches.batches())
                time.sleep(0.1)
            running[0].send_signal(signal.SIGKILL)
            running[0].wait(10)
        assert running[1].wait(120) == 0
    found = reconcile("local", season(), days, RUNS)
    assert found.clean, found.told()
    assert (found.batches, found.overlapping >= 1) == (4, True)
    assert found.rows == found.expected == sum(len(expected_keys(day)) for day in days)
    assert found.staged["staged"] == 2 * found.rows
    assert local.consolidator._check_for_duplicates(f"{days[0]}") == 0


def test_a_crew_starts_again_who_dies_and_the_comparison_is_its_exit_code(days, tmp_path, monkeypatch, capsys):
    for name, value in environment_of(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    words = ["--since", f"{days[0]}", "--dates", "1", "--processes", "1", "--lease", "2"]
    assert backfill.main([*words, "--kills", "1", "--kill-every", "1.5"]) == 0
    told = capsys.readouterr().out
    assert "1 processes, 1 of them killed meanwhile: all have ended well" in told
    assert "RECONCILED: nothing lost, nothing doubled" in told
    inject_duplicate_predictions(None, "local", f"{days[0]}", count=1)
    assert backfill.main([*words, "--check"]) == 3
    assert "doubled 1" in capsys.readouterr().out


def run_in_process(days, runs):
    assert backfill.backfill("local", season(), days, runs) == []


HARMS = {
    "delete from {t} where {one}": "lost",
    "insert into {t} select * from {t} where {one}": "doubled",
    "update {t} set player_lookup = 'somebodyelse' where {one}": "unexpected",
    "update {t} set created_at = created_at - interval 1 second where {one}": "outdated",
    "update {t} set current_points_line = 0.25 where {one}": "lost",
}


def test_the_comparison_finds_whatever_is_wrong(days):
    run_in_process(days[:1], ["a"])
    assert reconcile("local", season(), days[:1], ["a"]).clean
    table = f"nba_predictions.{settings.TABLE}"
    path = settings.settings_of("local").warehouse.path
    whole = path.read_bytes()
    for harm, count in HARMS.items():
        query("local", harm.format(t=table, one=f"prediction_id = (select min(prediction_id) from {table})"))
        found = reconcile("local", season(), days[:1], ["a"])
        assert (found.clean, getattr(found, count)) == (False, 1), harm
        assert "NOT RECONCILED" in found.told()
        path.write_bytes(whole)
    assert reconcile("local", season(), days[:1], ["a"]).clean


def test_a_run_that_is_missing_or_not_done_is_not_reconciled(days):
    run_in_process(days[:1], ["a"])
    found = reconcile("local", season(), days[:1], ["a", "b"])
    assert (found.clean, found.not_done) == (False, [f"{days[0]:%Y%m%d}_b (never opened)"])
    assert not reconcile("local", season(), [], ["a"]).clean, "nothing expected is nothing shown"


@pytest.mark.parametrize("mode", ["upsert", "versions"])
def test_what_is_done_is_left_and_the_newest_run_wins(days, mode, monkeypatch):
    monkeypatch.setenv(settings.MODE, mode)
    run_in_process(days[:1], ["a"])
    with settings.open_store("local") as store:
        before = len(store.history(settings.TABLE))
    run_in_process(days[:1], ["a", "b"])
    with settings.open_store("local") as store:
        assert len(store.history(settings.TABLE)) == before + 1, "the first run was left"
    found = reconcile("local", season(), days[:1], ["a", "b"])
    assert found.clean
    inserted, updated = (found.rows, found.rows) if mode == "upsert" else (2 * found.rows, 0)
    assert (found.staged["inserted"], found.staged["updated"]) == (inserted, updated)


def test_only_a_project_of_this_app_is_emptied(tmp_path):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "photo").touch()
    with pytest.raises(onerow.ConfigurationError, match="nothing was removed"):
        backfill.prepare(f"{folder}/", fresh=True, lease_s=None)
    assert (folder / "photo").exists()
