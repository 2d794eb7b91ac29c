"""The runbook rehearsed: each block is run as it stands, in the situation that it is for.

The project of the runbook is on the embedded default here, by its own onerow.toml; gcloud and curl are doubles.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import subprocess
import sys
import threading
import time

import pytest

import onerow
from onerow.core.results import ConsolidationResult, PartitionResult
from predictions.testing import inject_duplicate_predictions, query
from support.gcloud import Cloud
from support.nba import APP, BATCH, DATE, Platform, rows_of, settings

RUNBOOK = (APP / "docs/runbook.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- rehearsed: (\w+) -->\n( *)```sh\n(.*?)\n *```", re.DOTALL)
BLOCKS = {name: re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for name, indent, text in BLOCK.findall(RUNBOOK)}
PROJECT = "my-project"
ROWS = f"select count(*), count(distinct prediction_id) from nba_predictions.{settings.TABLE}"


class Stage:
    """Where a block is rehearsed."""

    def __init__(self, folder, warm):
        self.warm = warm
        self.cloud = Cloud(folder)
        self.root = folder / "checkout"
        self.app = self.root / "apps/nba_props"
        self.app.mkdir(parents=True)
        for part in "predictions", "deploy", "scripts", "bin":
            (self.app / part).symlink_to(APP / part)
        home = settings.folder_of(PROJECT)
        home.mkdir(parents=True)
        (home / "onerow.toml").write_text(settings.configuration(settings.LOCAL))
        self.platform = Platform(str(home))
        self.project = self.platform.project_id
        self.home = home

    def block(self, name):
        """Run a block after the one that every block starts from; return what it prints."""
        lines = []
        for line in re.sub(r"\\\n", " ", f"{BLOCKS['begin']}\n{BLOCKS[name] if name != 'begin' else ''}").splitlines():
            wanted = re.search(r"# exit (\d+)$", line)
            lines.append(f"code=0; {{ {line}\n}} || code=$?; [ $code -eq {wanted[1]} ] || exit 99" if wanted else line)
        told = self.warm.environment()
        environ = self.cloud.environment(told["PATH"], **{settings.HOME: os.environ[settings.HOME]})
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            env=environ, cwd=self.root, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def staged(self):
        """Have a batch wait in staging."""
        self.platform.stage(rows_of(10))

    def rows(self):
        return query(self.project, ROWS)[0]

    def services_are_well(self):
        """Have gcloud and curl say so, and the newest revision be an hour old."""
        made = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)).isoformat()
        for question, answer in {
            "status.latestCreatedRevisionName": "r-4", "status.latestReadyRevisionName": "r-4", "status.url": "https://it.example",
            "print-identity-token": "token", "creationTimestamp)": made, "status.traffic[0].revisionName": "r-4",
            "revisions list": "r-4\\nr-3", "--flatten spec.template": "true", "curl": "{}",
        }.items():  # fmt: skip
            self.cloud.answer(question, f"{answer}\\n")

    def roles_are_good(self):
        invoker, kinds = f"serviceAccount:prediction-invoker@{PROJECT}.iam.gserviceaccount.com", ("worker", "coordinator")
        for kind in kinds:
            self.cloud.answer(f"serviceAccount:prediction-{kind}@", "roles/bigquery.jobUser\\nroles/datastore.user\\n")
        writers = ", ".join(f'{{"role": "WRITER", "userByEmail": "prediction-{kind}@{PROJECT}.iam.gserviceaccount.com"}}' for kind in kinds)
        self.cloud.answer("bq --project_id", f'{{"access": [{writers}]}}')
        self.cloud.answer("services get-iam-policy", f"{invoker}\\n")


@pytest.fixture
def stage(tmp_path, warm):
    return Stage(tmp_path, warm)


def test_every_block_is_rehearsed_and_the_runbook_has_no_other():
    assert len(re.findall(r"^ *```\w*$", RUNBOOK, re.MULTILINE)) == 2 * len(BLOCKS), "each block has its mark"
    source = sys.modules[__name__]
    missing = [name for name in BLOCKS if not hasattr(source, f"test_{name}")]
    assert not missing


def test_begin(stage):
    assert stage.block("begin") == ""


def test_look(stage):
    stage.staged()
    told = stage.block("look")
    assert BATCH in told
    assert "clean: " in told


def test_lock_held(stage):
    stage.staged()
    with stage.platform.lock.acquire(DATE, "hanging"):
        told = stage.block("lock_held")
    assert f"consolidation_{DATE} is held" in told
    assert "batch 'hanging'" in told
    assert "Nothing was done" in told


def test_lock_free_again(stage):
    stage.staged()
    taken = threading.Event()

    def merge_something_else():
        with stage.platform.lock.acquire(DATE, "another"):
            taken.set()
            time.sleep(1.5)

    other = threading.Thread(target=merge_something_else)
    other.start()
    assert taken.wait(30)
    told = stage.block("lock_free_again")
    other.join()
    assert "committed" in told
    assert stage.rows() == (10, 10)


def test_lock_hangs(stage):
    stage.staged()
    with stage.platform.lock.acquire(DATE, "hanging") as held:
        told = stage.block("lock_hangs")
        assert not held.renew()
        with pytest.raises(onerow.LeaseLostError):
            held.raise_if_cancelled()
    assert "cannot commit any more" in told
    assert "hangs since 02:10, ticket 123" in told, "the history has the reason"
    assert stage.rows() == (10, 10)


def duplicated(stage):
    """Have predictions of a date written twice behind onerow's back, and a batch that cannot be merged because of it."""
    stage.platform.stage(rows_of(10), batch="before")
    assert stage.platform.consolidate("before").success
    inject_duplicate_predictions(None, stage.project, DATE, count=2)
    stage.platform.stage(rows_of(14)[10:])
    failed = stage.platform.consolidate()
    assert not failed.success
    assert failed.details.error_kind == "duplicates"


def test_duplicates_look(stage):
    duplicated(stage)
    assert stage.block("duplicates_look").count("injected-") >= 2
    assert stage.rows() == (12, 12), "nothing was changed"


def test_duplicates_repair(stage):
    duplicated(stage)
    told = stage.block("duplicates_repair")
    assert "clean: " in told
    assert stage.rows() == (14, 14)
    assert query(stage.project, f"select count(*) from nba_predictions.{settings.TABLE}_removed_duplicates") == [(2,)]


def test_slow(stage):
    stage.staged()
    part = PartitionResult(DATE, "committed", token=1)
    with settings.open_store(stage.project) as store:
        store.runs.record(ConsolidationResult("c-slow", settings.TABLE, "slow one", "committed", (part,)), elapsed_s=301)
    told = stage.block("slow")
    assert "batch slow one took 301 s" in told
    assert "ROLL BACK" in told
    assert stage.rows() == (0, 0), "nothing was merged"


def test_roll_back(stage):
    stage.services_are_well()
    told = stage.block("roll_back")
    changes = [call for call in stage.cloud.calls if "update-traffic" in call]
    assert [(call[4], call[-1]) for call in changes] == [("prediction-coordinator", "r-3=100"), ("prediction-worker", "r-3=100")]
    assert "would run: gcloud run services update-traffic prediction-coordinator" in told
    assert (stage.app / "locks-before-rollback.jsonl").exists()


def test_roll_back_verify(stage):
    stage.services_are_well()
    assert stage.block("roll_back_verify").count("is good.") == 4


def test_lock_off(stage, monkeypatch, caplog):
    stage.services_are_well()
    stage.block("lock_off")
    update = next(call for call in stage.cloud.calls if call[3] == "update")
    assert update[4] == "prediction-coordinator"
    switch = update[-1].partition("=")
    assert (update[-2], switch[0]) == ("--update-env-vars", settings.LOCK_SWITCH)
    monkeypatch.setenv(switch[0], switch[2])  # what the service then does
    stage.staged()
    with stage.platform.lock.acquire(DATE, "hanging"):
        assert stage.platform.consolidate().success
    assert [record.levelname for record in caplog.records if "LOCK IS DISABLED" in record.getMessage()] == ["CRITICAL"]
    assert stage.rows() == (10, 10)


def test_lock_off_once(stage):
    stage.staged()
    with stage.platform.lock.acquire(DATE, "hanging"):
        stage.block("lock_off_once")
    assert stage.rows() == (10, 10)


def test_lock_on(stage):
    stage.services_are_well()
    assert "The consolidation lock is on." in stage.block("lock_on")
    assert [call[-1] for call in stage.cloud.calls if call[3] == "update"] == [f"{settings.LOCK_SWITCH}=true"]


def entries(stage):
    with settings.open_store(stage.project) as store:
        return {entry.key: entry.value for entry in store.ports.locks.entries("")}


def test_locks_lost(stage):
    stage.staged()
    assert stage.platform.consolidate().success
    kept = {key: value for key, value in entries(stage).items() if key.startswith("run:")}
    assert kept, "the journal"
    exported = stage.warm.run(f"{APP}/scripts/export_lock_collection.py --to locks.jsonl --project-id {stage.project}", cwd=stage.app)
    assert exported.returncode == 0, exported.stderr
    for file in stage.home.glob("*.locks.sqlite*"):
        file.unlink()
    stage.block("locks_lost")
    assert entries(stage).items() >= kept.items()
    with stage.platform.lock.acquire(DATE, "next", max_wait_seconds=0) as held:
        assert held.renew()


def merged_today(stage):
    """Have today's predictions consolidated, after the newest revision was made."""
    today = dt.datetime.now(dt.UTC).date().isoformat()
    stage.platform.stage(rows_of(5, day=today), batch="today")
    assert stage.platform.consolidate("today", today).success
    return today


def test_day_1(stage):
    stage.services_are_well()
    merged_today(stage)
    told = stage.block("day_1")
    assert "\nhealthy\n" in told
    assert (stage.app / "locks.jsonl").exists()


@pytest.mark.parametrize("wrong", [False, True], ids=["well", "duplicates"])
def test_days_2_to_7(stage, wrong):
    stage.services_are_well()
    today = merged_today(stage)
    if wrong:
        inject_duplicate_predictions(None, stage.project, today)
    with contextlib.ExitStack() as expected:
        if wrong:
            expected.enter_context(pytest.raises(AssertionError, match=r"^3\n"))  # the daily check stops the block
        assert "\nhealthy\n" in stage.block("days_2_to_7")


def test_week_2(stage):
    stage.services_are_well()
    stage.roles_are_good()
    merged_today(stage)
    told = stage.block("week_2")
    assert "are as they should be." in told
    assert "Nobody holds the consolidation lock" in told
    assert not [call for call in stage.cloud.calls if "update-traffic" in call], "the rollback was a dry run"
