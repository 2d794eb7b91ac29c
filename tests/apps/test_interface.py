"""The interface of the incident's system: the README's block as it stands, results, errors and log lines."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
import time

import pytest

import onerow
from predictions.testing import inject_duplicate_predictions, query
from predictions.worker import batch_staging_writer, distributed_lock
from support.nba import APP, BATCH, DATE, rows_of, settings

NEXT = "2026-01-18"
TARGET = f"nba_predictions.{settings.TABLE}"
LINES = (
    "Acquiring consolidation lock",
    "Acquired consolidation lock",
    "Executing MERGE for batch",
    "Running post-consolidation validation",
    "Post-consolidation validation PASSED",
    r"MERGE complete: 40 rows affected in \d+ ms",
    "Released consolidation lock",
    "Consolidation MERGE complete",
)


@pytest.fixture(params=["local", "cloud"])
def platform(request):
    """The app on the embedded default, and on emulators of BigQuery and Firestore."""
    return request.getfixturevalue(request.param)


def block_of_the_readme():
    (block,) = re.findall(r"```python\n(.*?)```", (APP / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return block


def test_the_block_of_the_readme_runs_as_it_stands(platform, monkeypatch, request):
    monkeypatch.syspath_prepend(str(APP / "predictions/worker"))
    for name in ("distributed_lock", "batch_staging_writer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    space = {"PROJECT_ID": platform.project_id, "client": platform.client, "predictions": rows_of(), "pytest": pytest}
    exec(compile(block_of_the_readme(), "README.md", "exec"), space)  # noqa: S102 -- the document's own code
    result = space["result"]
    assert (result.success, result.rows_affected, result.error_message) == (True, 40, None)
    assert (result.staging_tables_merged, result.staging_tables_cleaned) == (1, 1)
    assert space["consolidator"]._check_for_duplicates(DATE) == 0
    assert space["ConsolidationLock"].__module__ == "distributed_lock", "it was imported bare"
    if platform.client is not None:
        documents = request.getfixturevalue("moving").firestore.collection("consolidation_locks").stream()
        assert list(documents) == [], "the collection is empty after a run"


def test_the_modules_can_be_imported_bare_from_their_own_folder():
    code = "from batch_staging_writer import BatchConsolidator; from distributed_lock import LOCK_TIMEOUT_SECONDS as s; print(s)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=APP / "predictions/worker", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "300\n"), done.stderr


def test_the_lock_is_the_incidents_document(cloud, moving):
    with cloud.lock.acquire(game_date=DATE, batch_id="batch1"):
        (document,) = moving.firestore.collection("consolidation_locks").stream()
        found = document.to_dict()
        assert document.id == f"consolidation_{DATE}"
        assert {"batch_id", "holder_id", "acquired_at", "expires_at", "lock_key"} <= found.keys()
        assert (found["batch_id"], found["lock_key"]) == ("batch1", f"consolidation_{DATE}")
        lasts_s = (found["expires_at"] - found["acquired_at"]).total_seconds()
        assert lasts_s >= distributed_lock.LOCK_TIMEOUT_SECONDS, "300 s ahead of old programs' clocks while it is held"
        assert not moving.lock.try_acquire(DATE, "an old program's"), "old programs keep to it"
    assert list(moving.firestore.collection("consolidation_locks").stream()) == []


def test_the_constants_are_what_is_configured(local):
    found = settings.settings_of(local.project_id)
    assert found.lease_duration_s == distributed_lock.LOCK_TIMEOUT_SECONDS == 300
    assert found.max_wait_s == distributed_lock.MAX_WAIT_SECONDS == 60 * 5


def test_each_date_has_its_own_lock_and_one_date_has_one(local, caplog):
    with local.lock.acquire(DATE, "a"), local.lock.acquire(NEXT, "b", max_wait_seconds=0):
        began_s = time.monotonic()
        with pytest.raises(distributed_lock.LockAcquisitionError, match="holds it for batch 'a'"):
            local.lock.acquire(DATE, "c", max_wait_seconds=0.1).__enter__()
        assert time.monotonic() - began_s < 5, "it waits no longer than it was told"
    assert any(line.startswith(f"Cannot acquire consolidation lock consolidation_{DATE}") for line in caplog.messages)
    with local.lock.acquire(DATE, "c", max_wait_seconds=0):
        pass


def test_the_lines_that_a_team_greps_for_come_in_the_order_of_what_happens(platform, caplog):
    platform.stage(rows_of(25), worker="worker_1")
    platform.stage(rows_of(40)[25:], worker="worker_2")
    caplog.clear()
    result = platform.consolidate()
    assert (result.success, result.staging_tables_merged, result.staging_tables_cleaned) == (True, 2, 2)
    told = [record for record in caplog.records if record.name.startswith("predictions.worker.")]
    places = [next((at for at, one in enumerate(told) if re.match(line, one.getMessage())), line) for line in LINES]
    assert places == sorted(places, key=lambda place: (isinstance(place, str), place)), told
    assert not any(isinstance(place, str) for place in places), (places, [one.getMessage() for one in told])
    assert all(record.levelname == "INFO" for record in told)
    assert len([one for one in caplog.messages if one.startswith("MERGE complete")]) == 1, "each line comes once"


def test_a_validation_that_fails_keeps_staging_names_the_keys_and_returns_the_error(platform, caplog):
    platform.stage(rows_of())
    assert platform.consolidate().success
    inject_duplicate_predictions(platform.client, platform.project_id, DATE, count=3)
    assert platform.consolidator._check_for_duplicates(DATE) == 3
    platform.stage(rows_of(50, number=1)[40:], batch="later")
    caplog.clear()
    result = platform.consolidate("later")
    assert (result.success, result.rows_affected, result.staging_tables_merged, result.staging_tables_cleaned) == (
        False, 0, 0, 0,
    )  # fmt: skip
    assert "onerow dedupe" in result.error_message
    (line,) = [line for line in caplog.messages if line.startswith("POST-CONSOLIDATION VALIDATION FAILED")]
    for text in (line, result.error_message):
        assert re.search(r"player_lookup='player\d+'", text)
    assert not any("PASSED" in line or line.startswith("MERGE complete") for line in caplog.messages)
    assert platform.states("later") == ["staged"]
    with settings.open_store(platform.project_id) as store:
        assert store.repair(settings.TABLE, DATE, reason="test").rows_removed == 3
    assert platform.consolidate("later").success, "staging was kept"
    assert platform.consolidator._check_for_duplicates(DATE) == 0


def test_duplicates_that_cannot_be_counted_are_an_error_and_never_zero(local):
    local.stage(rows_of(3))
    assert local.consolidate().success
    query(local.project_id, f"alter table {TARGET} rename to moved_away")
    with pytest.raises(onerow.OnerowError):
        local.consolidator._check_for_duplicates(DATE)
    with pytest.raises(onerow.UsageError, match="no value of the partition column"):
        local.consolidator._check_for_duplicates("yesterday")


def test_a_lock_that_is_not_had_is_an_error_and_keeps_staging(local, caplog, monkeypatch):
    monkeypatch.setattr(batch_staging_writer, "MAX_WAIT_SECONDS", 0.1)
    local.stage(rows_of())
    with local.lock.acquire(DATE, "somebody else's"):
        result = local.consolidate()
    assert (result.success, result.rows_affected) == (False, 0)
    assert "somebody else's" in result.error_message
    assert any(line.startswith("Cannot acquire consolidation lock") for line in caplog.messages)
    assert any(line.startswith("Lock acquisition failed") for line in caplog.messages)
    assert local.states() == ["staged"]
    assert local.consolidate().rows_affected == 40


def test_a_batch_that_nobody_has_seen_is_an_error_with_the_names_that_come_near(local):
    local.stage(rows_of(3))
    result = local.consolidate(f"{BATCH}0")
    assert not result.success
    assert BATCH in result.error_message


def test_the_lock_is_off_only_where_it_was_asked_for(local, caplog, monkeypatch):
    monkeypatch.setattr(batch_staging_writer, "MAX_WAIT_SECONDS", 0.1)
    local.stage(rows_of(20), batch="asked")
    local.stage(rows_of(40)[20:], batch="switched")
    with local.lock.acquire(DATE, "somebody else's"):
        assert not local.consolidate("asked").success, "the control: with the lock it waits"
        assert local.consolidate("asked", use_lock=False).rows_affected == 20
        assert not [record for record in caplog.records if record.levelname == "CRITICAL"]
        monkeypatch.setenv(settings.LOCK_SWITCH, "false")
        assert local.consolidate("switched").rows_affected == 20
    (loud,) = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert loud.startswith("CONSOLIDATION LOCK IS DISABLED by CONSOLIDATION_LOCK_ENABLED: batch switched")
    assert local.consolidator._check_for_duplicates(DATE) == 0


def test_a_switch_that_says_neither_is_refused(local, monkeypatch):
    local.stage(rows_of(3))
    monkeypatch.setenv(settings.LOCK_SWITCH, "maybe")
    result = local.consolidate()
    assert not result.success
    assert "neither true nor false" in result.error_message
    assert local.states() == ["staged"]


def test_rows_of_other_dates_are_merged_under_their_own_locks(local, caplog):
    local.stage(rows_of(10) + rows_of(10, day=NEXT), worker="worker_1")
    local.stage(rows_of(20, day=NEXT)[10:], worker="worker_2")
    result = local.consolidate()
    assert (result.success, result.rows_affected) == (True, 30)
    assert (result.staging_tables_merged, result.staging_tables_cleaned) == (2, 2)
    for day in (DATE, NEXT):
        assert any(line.startswith(f"Acquired consolidation lock consolidation_{day}") for line in caplog.messages)
    assert f"Batch {BATCH} is for {DATE}, which is in it; other dates in it: {NEXT}" in caplog.messages


def test_staging_is_whole_idempotent_and_strict(local):
    first = local.stage(rows_of())
    again = local.stage(rows_of())
    assert (first.status, again.status, again.part_id) == ("staged", "already_staged", first.part_id)
    wrong = [{**row, "confidence": 71.0} for row in rows_of(3)]
    with pytest.raises(onerow.PartRefusedError, match="confidence_is_a_share"):
        local.stage(wrong)
    assert local.consolidate(cleanup=False).staging_tables_cleaned == 0
    assert local.states() == ["staged"]
    replay = local.consolidate()
    assert (replay.success, replay.rows_affected, replay.staging_tables_merged) == (True, 0, 0)
    assert (replay.details.status, replay.staging_tables_cleaned) == ("already_merged", 1)


def test_a_client_of_another_project_is_refused(local):
    class Client:
        project = "another-project"

    for made in (batch_staging_writer.BatchStagingWriter, batch_staging_writer.BatchConsolidator):
        with pytest.raises(onerow.ConfigurationError, match="another-project"):
            made(Client(), local.project_id)


def test_a_project_is_a_folder_or_a_project_of_google_cloud(tmp_path, monkeypatch):
    for wrong in ("", "Predictions", "x", "-abcdef", "a b c d e f"):
        with pytest.raises(onerow.ConfigurationError, match="no project"):
            settings.folder_of(wrong)
    monkeypatch.setenv(settings.DATABASE, "locks")
    monkeypatch.setenv(settings.DATASET, "props")
    found = settings.settings_of("my-project")
    assert (str(found.warehouse), str(found.locks)) == ("bigquery://my-project/props", "firestore://my-project/locks")
    assert found.lock_documents == {
        settings.TABLE: "consolidation_locks/consolidation_{partition}",
        settings.GRADES: "grading_locks/grading_{partition}",
    }
    assert found.table(settings.TABLE).target == ("props", settings.TABLE)
    mine = settings.settings_of(f"{tmp_path}/mine")
    assert mine.warehouse.path == tmp_path / "mine/predictions.duckdb"
    assert mine.lock_documents == {}


def test_a_configuration_that_was_changed_is_kept(local):
    file = settings.configuration_file(local.project_id)
    file.write_text(file.read_text().replace('duration    = "300s"', 'duration    = "60s"'))
    local.stage(rows_of(3))
    assert settings.settings_of(local.project_id).lease_duration_s == 60


def test_newest_wins_whatever_is_consolidated_first(local):
    older, newer = rows_of(5), rows_of(5)
    newer = [
        {**row, "prediction_id": f"new-{row['prediction_id']}", "created_at": row["created_at"] + dt.timedelta(hours=1)}
        for row in newer
    ]
    local.stage(older, batch="older")
    local.stage(newer, batch="newer")
    assert local.consolidate("newer").rows_affected == 5
    assert local.consolidate("older").rows_affected == 0
    found = query(local.project_id, f"select prediction_id from {TARGET}")
    assert sorted(found) == sorted((row["prediction_id"],) for row in newer)
