"""What on-call people run: the forced release and the daily check, and what they would do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import onerow
from predictions.testing import inject_duplicate_predictions
from support.nba import APP, DATE, rows_of, settings

sys.path.insert(0, str(APP / "scripts"))

import force_release_lock

CHECK = APP / "bin/validation/daily_data_quality_check.sh"


def release(*words):
    return force_release_lock.main(["--game-date", DATE, *words])


@pytest.fixture(params=["local", "cloud"])
def platform(request, monkeypatch):
    found = request.getfixturevalue(request.param)
    monkeypatch.setenv(settings.PROJECT, found.project_id)
    return found


def test_a_lock_is_taken_by_force_step_by_step(platform, capsys):
    with platform.lock.acquire(DATE, "hanging") as held:
        assert release("--dry-run") == 0
        shown = capsys.readouterr().out
        assert f"consolidation_{DATE} is held" in shown
        assert "batch 'hanging'" in shown
        assert "Nothing was done" in shown
        assert release() == 2, "its holder is alive"
        assert "--force" in capsys.readouterr().err
        held.raise_if_cancelled()
        assert release("--force", "--reason", "it hangs") == 0
        assert "fenced out" in capsys.readouterr().out
        assert not held.renew()
        with pytest.raises(onerow.LeaseLostError):
            held.raise_if_cancelled()
    with settings.open_store(platform.project_id) as store:
        (entry,) = [entry for entry in store.history(settings.TABLE) if entry.action == "force_release"]
    assert entry.partition == DATE
    with platform.lock.acquire(DATE, "next", max_wait_seconds=0):
        pass


def test_a_lock_that_nobody_holds_is_no_failure(local, capsys):
    assert release() == 0
    assert "Nobody holds" in capsys.readouterr().out
    assert local.lock.force_release(DATE) is None
    with local.lock.acquire(DATE, "b"):
        pass
    assert release("--force") == 0
    assert local.lock.force_release(DATE) is None
    assert force_release_lock.main(["--game-date", "yesterday"]) == 2
    assert "no value of the partition column" in capsys.readouterr().err


def test_the_script_finds_its_app_wherever_it_is_started(tmp_path):
    script = [sys.executable, APP / "scripts/force_release_lock.py"]
    words = ["--game-date", DATE, "--project-id", f"{tmp_path}/mine"]
    done = subprocess.run([*script, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"Nobody holds the consolidation lock of {DATE}.\n"), done.stderr


def check(*words, **more):
    """Run the daily check as cron does."""
    environ = {**os.environ, "PYTHON": sys.executable, "ONEROW": str(Path(sys.executable).with_name("onerow")), **more}
    return subprocess.run([CHECK, *words], env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_the_daily_check_finds_what_is_there(local):
    local.stage([{**row, "game_date": "2020-01-01"} for row in rows_of(5)])
    assert local.consolidate(day="2020-01-01").success
    inject_duplicate_predictions(None, local.project_id, "2020-01-01", count=2)
    found = check("--since", "2020-01-01", "--format", "json")
    assert found.returncode == 3, found.stderr
    assert '"duplicate_keys": 2' in found.stdout


def test_the_daily_check_says_what_it_would_do_and_does_nothing(local):
    folder = settings.folder_of(local.project_id)
    for words, since in ([], "7d"), (["--since", "3d"], "3d"):
        done = check("--dry-run", *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith(f"--config {folder}/onerow.toml check --since {since} --format text")
    assert not folder.exists()


def test_the_daily_check_refuses_what_it_does_not_know():
    for words in (["--sinse", "3d"], ["--since"]):
        done = check(*words)
        assert done.returncode == 2
        assert "--help" in done.stderr
    assert check("--project-id", "No Project").returncode == 2
    assert check("--help").stdout.startswith("Looks for duplicate predictions")


def test_the_tables_of_a_project_are_made_once(local, capsys):
    assert settings.main(["local", "--init", "--dry-run"]) == 0
    assert "would run: onerow" in capsys.readouterr().err
    assert settings.main(["local", "--init"]) == 0
    assert settings.TABLE in capsys.readouterr().err
    assert settings.main(["local", "--init"]) == 0
    assert capsys.readouterr().err == ""
    assert settings.main(["No Project"]) == 2


def test_the_tables_of_a_project_in_bigquery_are_made_by_hand(moving, capsys):
    assert settings.main([moving.project, "--init"]) == 0
    assert f"{moving.project}.nba_predictions.{settings.TABLE}" in capsys.readouterr().err
