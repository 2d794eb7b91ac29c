"""Consolidating from the command line: what is shown, and every exit code."""

from __future__ import annotations

import logging
import signal

import pytest

from onerow.bootstrap import open_store
from onerow.core.results import ConsolidationResult, PartitionResult
from onerow.errors import LockStoreError
from onerow.faces.cli import consolidations
from onerow.faces.cli.output import Printer
from onerow.faces.cli.shared import Invocation
from onerow.services.runs import RunJournal

from .conftest import HOLD_FILE, HOLD_LOCK, csv_text, in_background


@pytest.fixture
def staged(props):
    props.ok("stage", "props.csv", "--table", "props", "--batch", "2026-01-11")
    return props


CONSOLIDATE = ("consolidate", "--table", "props", "--batch", "2026-01-11")


def test_a_dry_run_shows_and_changes_nothing(staged):
    shown = staged.ok(*CONSOLIDATE, "--dry-run")
    assert shown.out.startswith("dry run: 5 rows in 1 part would be merged into 2 partitions; nothing was changed")
    assert staged.sql("select count(*) from props") == [(0,)]
    assert staged.ok("locks", "list", "--all", "--output", "json").json == []
    staged.ok(*CONSOLIDATE, "--partition", "2026-01-12")
    rows = staged.ok(*CONSOLIDATE, "--dry-run", "--output", "json").json["partitions"]
    assert rows == [
        {"partition": "2026-01-11", "parts": 1, "rows_staged": 4, "parts_merged": 0},
        {"partition": "2026-01-12", "parts": 0, "rows_staged": 0, "parts_merged": 1},
    ]
    assert staged("consolidate", "--table", "props", "--batch", "2026-01", "--dry-run").code == 1


def test_without_a_lock_it_warns_and_is_right(staged):
    ended = staged.ok(*CONSOLIDATE, "--no-lock")
    assert "warning: --no-lock" in ended.err
    assert "4 inserted" in ended.out
    assert staged.ok("history", "--output", "json").json[0]["unlocked"] is True
    assert "unlocked" in staged.ok("history").out


def test_only_some_partitions(staged):
    result = staged.ok(*CONSOLIDATE, "--partition", "2026-01-12", "--partition", "2026-01-30", "--output", "json").json
    assert [(p["partition"], p["status"]) for p in result["partitions"]] == [
        ("2026-01-12", "committed"),
        ("2026-01-30", "nothing_staged"),
    ]
    assert staged(*CONSOLIDATE, "--partition", "yesterday").code == 2
    assert staged.ok("batches", "show", "2026-01-11").out.startswith("partly merged")


def test_an_unknown_batch_fails_with_the_names_that_come_near(staged):
    ended = staged("consolidate", "--table", "props", "--batch", "2026-01-12", "--output", "json")
    assert (ended.code, ended.json["kind"], ended.json["problems"]) == (1, "batch_not_found", ["2026-01-11"])
    assert "Names that come near: 2026-01-11" in ended.err


def test_a_table_that_was_not_created(staged):
    staged.sql("drop table props")
    ended = staged(*CONSOLIDATE)
    assert ended.code == 2
    assert "onerow init" in ended.err
    assert ended.out.startswith("failed: 2 failed of 2 partitions; nothing was committed")


def test_existing_duplicates_fail_and_staging_is_kept(staged):
    staged.sql(
        "insert into props (prediction_id, game_date, game_id, player_lookup, system_id, current_points_line, created_at) "
        "select 'dup' || i, date '2026-01-11', 'g', 'p', 's', 1, timestamp '2026-01-01' from range(2) t(i)"
    )
    ended = staged(*CONSOLIDATE)
    assert ended.code == 3, ended
    assert ended.out.startswith("failed: 1 failed of 2 partitions; committed: 1 row staged")
    assert "Staging is kept" in ended.err
    checked = staged("check")
    assert checked.code == 3
    assert "2 rows  game_date=2026-01-11, game_id=g, player_lookup=p" in checked.out


def test_a_lock_that_another_process_holds(staged):
    with in_background(staged.folder, HOLD_LOCK, "2026-01-11") as holder:
        ended = staged(*CONSOLIDATE, "--max-wait", "200ms")
        assert ended.code == 4, ended
        assert f":{holder.pid} holds it for batch 'the-other'" in ended.err
        assert "lock timeout: " in ended.out
        result = staged(*CONSOLIDATE, "--max-wait", "100ms", "--output", "json")
        assert (result.code, result.json["status"]) == (4, "lock_timeout")
    staged.ok(*CONSOLIDATE)


def test_a_file_that_another_process_holds(staged):
    staged.edit_config("staging   =", 'busy_timeout = "200ms"\nstaging   =')
    with in_background(staged.folder, HOLD_FILE) as holder:
        for command in (CONSOLIDATE, ("history",), ("batches", "list")):
            ended = staged(*command, "--output", "json")
            assert ended.code == 6, ended
            assert ended.json["kind"] == "warehouse_busy"
            assert f"process {holder.pid}" in ended.json["error"]
    staged.ok(*CONSOLIDATE)


def test_fenced_out_by_a_forced_release(staged):
    class ReleaseBeforeTheMerge(logging.Handler):
        def emit(self, record):
            if record.getMessage() == "onerow.merge_started" and not released:
                released.append(True)
                with open_store() as store:
                    store.locks.force_release("props/2026-01-11", reason="test", by="test", force=True)

    released: list[bool] = []
    handler = ReleaseBeforeTheMerge()
    logger = logging.getLogger("onerow")
    logger.addHandler(handler)
    try:
        ended = staged(*CONSOLIDATE, "--partition", "2026-01-11")
    finally:
        logger.removeHandler(handler)
    assert ended.code == 5, ended
    assert ended.out.startswith("fenced: 1 fenced of 1 partition; nothing was committed")
    assert staged.sql("select count(*) from props") == [(0,)]
    staged.ok(*CONSOLIDATE)


def test_an_unknown_outcome_is_told_as_such(capsys):
    result = ConsolidationResult(
        "c1", "props", "b", "unknown", error="It is unknown.",
        partitions=(
            PartitionResult("a", "committed", rows_staged=2, rows_inserted=2),
            PartitionResult("b", "unknown", error="It is unknown.", exit_code=7),
        ),
    )  # fmt: skip
    consolidations.show(Printer(Invocation()), result, 1.0)
    out, err = capsys.readouterr()
    assert out.startswith("unknown: 1 unknown of 2 partitions; committed: 2 rows staged")
    assert "props/b: It is unknown." in err
    assert result.exit_code == 7


def test_many_partitions_are_shown_in_part(capsys):
    partitions = tuple(PartitionResult(f"{n:03}", "committed", rows_staged=1, rows_inserted=1) for n in range(50))
    consolidations.show(Printer(Invocation()), ConsolidationResult("c", "t", "b", "committed", partitions), 0.5)
    out = capsys.readouterr().out
    assert out.startswith("committed: 50 rows staged = 50 inserted")
    assert "... and 30 more" in out
    assert len(out.splitlines()) == 23


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_waits(staged, number):
    with in_background(staged.folder, HOLD_LOCK, "2026-01-11"):
        with staged.running(*CONSOLIDATE, "--output", "json", "-v") as process:
            for line in process.stderr:
                if "onerow.lock_waiting" in line:
                    break
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted: What was committed stays" in err
        assert '"kind": "interrupted"' in out
    staged.ok(*CONSOLIDATE)


def test_keep_staging_leaves_the_parts(staged):
    staged.ok(*CONSOLIDATE, "--keep-staging")
    assert staged.ok("batches", "show", "2026-01-11", "--output", "json").json["parts"][0]["state"] == "staged"
    staged.ok(*CONSOLIDATE)
    assert staged.ok("batches", "show", "2026-01-11", "--output", "json").json["parts"][0]["state"] == "retired"


def test_a_database_that_is_damaged(staged):
    (staged.folder / "props.duckdb").write_bytes(b"this is no database" * 1000)
    ended = staged(*CONSOLIDATE)
    assert ended.code == 1
    assert "damaged or no DuckDB database" in ended.err
    staged.write("one.csv", csv_text())


def test_every_consolidation_is_in_the_journal_and_a_journal_that_cannot_be_written_harms_none(staged, monkeypatch):
    staged.ok(*CONSOLIDATE)
    with in_background(staged.folder, HOLD_LOCK, "2026-01-12"):
        staged.ok("stage", "props.csv", "--table", "props", "--batch", "again")
        assert staged("consolidate", "--table", "props", "--batch", "again", "--max-wait", "50ms").code == 4
    staged.ok("load", "props.csv", "--table", "props", "--batch", "third")
    with open_store(staged.folder) as store:
        found = store.runs.list("props")
    assert [(run.result.batch, run.result.status, run.via) for run in found] == [
        ("third", "committed", "cli"),
        ("again", "lock_timeout", "cli"),
        ("2026-01-11", "committed", "cli"),
    ]

    def broken(self, result, **more):
        raise LockStoreError("the disk is full")

    monkeypatch.setattr(RunJournal, "_write", broken)
    ended = staged.ok("load", "props.csv", "--table", "props", "--batch", "fourth")
    assert "run_not_recorded" in ended.err
