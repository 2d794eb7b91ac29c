"""What tells whether a deployment went well: each criterion is brought about, and none passes that was not seen."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from google.api_core import exceptions as google

from deploy import verify_deployment as verify
from onerow.adapters.locks import firestore_errors
from onerow.core.results import ConsolidationResult, PartitionResult
from predictions.testing import inject_duplicate_predictions
from support.nba import DATE, rows_of, settings


def hours_ago(hours):
    return dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)


def seen(platform, hours=1.0, **more):
    """Return the verdict of each criterion, and the exit code."""
    judged = verify.judge(platform.project_id, verify.gather(platform.project_id, hours_ago(hours), **more))
    return {one.name: one.verdict for one in judged.criteria}, judged.exit_code


def consolidated(platform, batches=1):
    """Have batches consolidated, each with other rows."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    rows = rows_of(batches * 3, day=day)
    for number in range(batches):
        platform.stage(rows[number * 3 : number * 3 + 3], batch=f"b{number}")
        assert platform.consolidate(f"b{number}", day).success
    return day


def journal(platform, *, elapsed_s=1.0, status="committed", batch="b", **partition):
    """Write what somebody's consolidation has come to."""
    part = PartitionResult(DATE, status, **partition)
    result = ConsolidationResult(f"c-{batch}", settings.TABLE, batch, status, (part,), 0, part.error, part.error_kind)
    with settings.open_store(platform.project_id) as store:
        assert store.runs.record(result, elapsed_s=elapsed_s)


@pytest.mark.parametrize("name", ["local", "cloud"])
def test_healthy_then_duplicates_and_after_a_day_rollback(name, request, capsys):
    platform = request.getfixturevalue(name)
    day = consolidated(platform, 2)
    words = ["--project-id", platform.project_id, "--deployed-at"]
    assert verify.main([*words, hours_ago(2).isoformat()]) == verify.HEALTHY, capsys.readouterr().out
    assert capsys.readouterr().out.rstrip().endswith("healthy")

    inject_duplicate_predictions(platform.client, platform.project_id, day, count=2)
    assert verify.main([*words, hours_ago(2).isoformat(), "--format", "json"]) == verify.WATCH
    told = json.loads(capsys.readouterr().out)
    (duplicates,) = [one for one in told["criteria"] if one["name"] == "duplicates"]
    assert duplicates["verdict"] == "watch"
    assert duplicates["found"].startswith(f"2 keys in {settings.TABLE}")
    assert duplicates["todo"].startswith("onerow dedupe")
    assert told["exit_code"] == verify.WATCH

    assert verify.main([*words, hours_ago(25).isoformat()]) == verify.ROLL_BACK
    assert capsys.readouterr().out.rstrip().endswith("ROLL BACK")


def test_what_was_not_seen_is_no_pass(local, capsys):
    verdicts, code = seen(local)
    assert (verdicts["activity"], code) == ("unknown", verify.NOT_JUDGED), "nothing was consolidated"
    consolidated(local)
    assert seen(local, hours=-1)[1] == verify.NOT_JUDGED, "nothing since then"
    assert seen(local)[1] == verify.HEALTHY

    config = settings.configuration_file(local.project_id)
    for name, blinded in ("predictions.duckdb", "duplicates"), ("predictions.locks.sqlite", "activity"):
        file = config.with_name(name)
        whole = file.read_bytes()
        file.write_bytes(b"no database " * 1000)
        for log in config.parent.glob(f"{name}?*"):
            log.unlink()
        verdicts, code = seen(local)
        assert (verdicts[blinded], code) == ("unknown", verify.NOT_JUDGED), name
        file.write_bytes(whole)
    assert seen(local)[1] == verify.HEALTHY
    assert verify.main(["--project-id", "No Project", "--deployed-at", "2026-01-01"]) == verify.NOT_JUDGED
    assert "no pass" in capsys.readouterr().err


def test_commits_that_the_journal_does_not_know_are_not_judged(local):
    day = consolidated(local)
    local.stage(rows_of(3, day=day, number=1), batch="by another program")
    with settings.open_store(local.project_id) as store:
        assert store.consolidate(settings.TABLE, "by another program").success
    verdicts, code = seen(local)
    assert (verdicts["activity"], code) == ("unknown", verify.NOT_JUDGED)


def test_more_than_a_tenth_of_failed_lock_acquisitions_is_rollback(local):
    day = consolidated(local, 9)

    def fail(batch):
        local.stage(rows_of(2, day=day, number=1), batch=batch)
        with settings.open_store(local.project_id) as store, local.lock.acquire(day, "somebody"):
            result = store.consolidate(settings.TABLE, batch, max_wait_s=0)
            assert result.status == "lock_timeout"
            store.runs.record(result, elapsed_s=0.01)

    fail("f1")
    assert seen(local)[0]["failed lock acquisitions"] == "good", "1 of 10 is not more than a tenth"
    fail("f2")
    verdicts, code = seen(local)
    assert (verdicts["failed lock acquisitions"], code) == ("roll_back", verify.ROLL_BACK)
    assert verdicts["failed consolidations"] == "watch"


def test_a_single_failure_among_few_is_no_tenth_yet(local):
    consolidated(local, 2)
    journal(local, status="lock_timeout", error="held", error_kind="lock_timeout", batch="late")
    assert seen(local)[0]["failed lock acquisitions"] == "watch"


def test_durations(local):
    consolidated(local)
    journal(local, elapsed_s=900, token=1, batch="waited", lock_wait_s=880.0)
    assert seen(local)[1] == verify.HEALTHY, "waiting for a lock is no work"
    for number in range(3):
        journal(local, elapsed_s=61, token=1, batch=f"slow{number}")
    verdicts, code = seen(local)
    assert (verdicts["median consolidation"], verdicts["slow consolidations"], code) == ("watch", "good", verify.WATCH)
    journal(local, elapsed_s=301, token=1, batch="very slow")
    verdicts, code = seen(local)
    assert (verdicts["slow consolidations"], code) == ("roll_back", verify.ROLL_BACK)


REFUSALS = {
    "permission": google.PermissionDenied("Missing or insufficient permissions."),
    "quota": google.ResourceExhausted("Quota exceeded."),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_errors_of_quota_and_permission_are_rollback(local, refusal):
    consolidated(local)
    error = firestore_errors.failure(REFUSALS[refusal], "write a document", project="p", database="(default)")
    journal(local, status="failed", error=error.message, error_kind=error.kind)
    verdicts, code = seen(local)
    assert (verdicts["quota and permission errors"], code) == ("roll_back", verify.ROLL_BACK)


def test_lines_of_the_logs_are_looked_at_too(local, tmp_path, capsys):
    consolidated(local)
    lines = tmp_path / "lines"
    words = ["--project-id", "local", "--deployed-at", hours_ago(1).isoformat(), "--log-lines", str(lines)]
    lines.write_text("Consolidation of batch b failed: the file is busy\n")
    assert verify.main(words) == verify.HEALTHY
    lines.write_text("403 Access Denied: Table nba:nba.player_prop_predictions\n429 quotaExceeded\n")
    assert verify.main(words) == verify.ROLL_BACK
    assert "1 of permission, 1 of quota" in capsys.readouterr().out
    lines.unlink()
    assert verify.main(words) == verify.NOT_JUDGED


def test_a_lock_that_is_switched_off_is_told(local, monkeypatch):
    monkeypatch.setenv(settings.LOCK_SWITCH, "false")
    consolidated(local)
    verdicts, code = seen(local)
    assert (verdicts["lock switched on"], code) == ("watch", verify.WATCH)


def test_bad_words_are_refused():
    with pytest.raises(SystemExit) as ended:
        verify.main(["--deployed-at", "yesterday"])
    assert ended.value.code == 2
