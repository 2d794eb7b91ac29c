"""A team moves in, end to end: the guide's table and configuration, the old consolidator and onerow taking turns.

The old program is ``support.incident_system``. BigQuery is the emulator, which runs one statement after another, so its
race is played by what it leaves behind; Firestore is the test kit's double.
"""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import onerow
from onerow.core.partitions import Scope
from onerow.faces.cli.main import cli
from support.incident_system import DATASET, TABLE, IncidentConsolidator, file_of_the_guide, run_statements

NAME = "player_prop_predictions"
DATE, NEXT = "2026-01-11", "2026-01-12"
KEY = "game_id,player_lookup,system_id,current_points_line"


@pytest.fixture
def run(moving, tmp_path, monkeypatch):
    """Run a command beside the guide's configuration; return what it prints as JSON."""
    monkeypatch.chdir(tmp_path)
    run_statements(moving.bigquery, file_of_the_guide("old.sql"))
    (tmp_path / "onerow.toml").write_text(file_of_the_guide("onerow.toml").replace("my-project", moving.project))
    (tmp_path / "evening.csv").write_text(file_of_the_guide("evening.csv"))

    def run_one(*words, code=0):
        ended = CliRunner().invoke(cli, [*words, "--output", "json"])
        assert ended.exit_code == code, (words, ended.output, ended.exception)
        return json.loads(ended.stdout)

    return run_one


@pytest.fixture
def old(moving):
    return IncidentConsolidator(moving.bigquery, moving.lock)


@pytest.fixture
def moved(run, moving):
    """The table is adopted and repaired."""
    run("init")
    run("dedupe", "--table", NAME, "--apply", "--reason", "moving in")
    assert moving.rows() == [("a2", 25.0, 26.4), ("b1", 24.5, 26.1), ("b3", None, 19.8)]


def check(run, *words, code=0):
    return run("check", *words, code=code)["tables"]


def consolidate(run, *words, code=0):
    (partition,) = run("consolidate", "--table", NAME, "--batch", "evening", *words, code=code)["partitions"]
    return partition


def documents(moving):
    return [one.id for one in moving.firestore.collection("consolidation_locks").stream()]


def test_a_team_moves_in_and_out_and_in_again(run, moving, old):
    # Look: nothing is declared, nothing is changed.
    before = moving.rows()
    url = f"bigquery://{moving.project}/{DATASET}"
    (found,) = check(run, "--warehouse", url, "--target", NAME, "--key", KEY, "--partition-column", "game_date", code=3)
    assert (found["duplicate_keys"], found["extra_rows"]) == (2, 2)
    # Adopt: not a row, not a column, not a constraint is changed.
    schema = moving.bigquery.get_table(f"{moving.project}.{TABLE}").schema
    run("init")
    assert moving.rows() == before
    # The repair waits for the old program's lock as everything does that writes.
    assert moving.lock.try_acquire(DATE, "b-old")
    run("dedupe", "--table", NAME, "--apply", "--max-wait", "100ms", code=4)
    assert moving.rows() == before
    moving.lock.release(DATE)
    run("dedupe", "--table", NAME, "--apply", "--reason", "moving in")
    assert moving.rows() == [("a2", 25.0, 26.4), ("b1", 24.5, 26.1), ("b3", None, 19.8)]
    kept = moving.bigquery.query_and_wait(f"select prediction_id from {TABLE}_removed_duplicates order by 1")
    assert [one for (one,) in kept] == ["a1", "a3"]
    # Side by side: the old program has the lock and a batch, onerow has another.
    old.stage("late", "w1", ("d1", DATE, "murray", 19.5, 20.0, "2026-01-11 17:00:00+00"))
    run("stage", "evening.csv", "--table", NAME, "--batch", "evening")
    assert moving.lock.try_acquire(DATE, "late")
    assert consolidate(run, "--max-wait", "100ms", code=4)["status"] == "lock_timeout"
    moving.lock.release(DATE)
    assert old.staged("late") == ["_staging_late_w1"], "onerow leaves the old program's staging alone"
    assert old.staged("evening") == [], "the old program does not find onerow's"
    assert old.consolidate("late", DATE) == (True, 0)
    first = consolidate(run)
    assert (first["status"], first["rows_updated"], first["rows_inserted"]) == ("committed", 1, 1)
    everything = [("a2", 25.0, 26.4), ("b3", None, 19.8), ("c1", 24.5, 27.3), ("c2", 25.5, 27.9), ("d1", 19.5, 20.0)]
    assert moving.rows() == everything
    assert check(run)[0]["clean"]
    # Roll back: no document is left, the table has its own columns, the old program works as before.
    assert documents(moving) == []
    assert moving.bigquery.get_table(f"{moving.project}.{TABLE}").schema == schema
    old.stage("back", "w1", ("e1", NEXT, "curry", 28.5, 29.0, "2026-01-12 17:00:00+00"))
    assert old.consolidate("back", NEXT) == (True, 0)
    assert old.staged("back") == []
    # In again: what was merged is not merged again, and tokens have gone on.
    assert consolidate(run)["status"] == "already_merged"
    (again,) = run("load", "evening.csv", "--table", NAME, "--batch", "evening again")["partitions"]
    assert (again["rows_unchanged"], again["token"] > first["token"]) == (2, True)
    assert moving.rows() == [*everything, ("e1", 28.5, 29.0)]
    assert check(run)[0]["clean"]


def test_the_old_program_is_kept_out_while_onerow_consolidates(run, moving, moved, old):
    run("stage", "evening.csv", "--table", NAME, "--batch", "evening")
    old.stage("late", "w1", ("d1", DATE, "murray", 19.5, 20.0, "2026-01-11 17:00:00+00"))
    with onerow.open("onerow.toml") as store:
        with store.ports.leases.hold([Scope(NAME, DATE)], holder="me", batch="evening"):
            assert documents(moving) == [f"consolidation_{DATE}"]
            assert old.consolidate("late", DATE) == (False, 0)
            assert old.consolidate("late", NEXT)[0], "another date is free"
        assert old.consolidate("late", DATE) == (True, 0)


def test_without_the_declared_document_there_are_two_locks(run, moving, moved, old, tmp_path):
    """The control: what kept the old program out was ``lock_document``, and nothing else."""
    path = tmp_path / "onerow.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "lock_document" not in line))
    old.stage("late", "w1", ("d1", DATE, "murray", 19.5, 20.0, "2026-01-11 17:00:00+00"))
    with onerow.open(path) as store, store.ports.leases.hold([Scope(NAME, DATE)], holder="me", batch="evening"):
        assert documents(moving) == []
        assert old.consolidate("late", DATE) == (True, 0)


def test_what_an_old_program_does_without_its_lock_is_found_and_not_prevented(run, moving, moved, old):
    """It was paused for longer than its 300 s: nothing fences it. Both had found the key missing, both insert it."""
    run("stage", "evening.csv", "--table", NAME, "--batch", "evening")
    twins = [("x1", DATE, "murray", 19.5, 20.0, "2026-01-11 17:00:00+00"), ("x2", DATE, "murray", 19.5, 20.0, "2026-01-11 17:00:00.4+00")]
    for twin in twins:
        old.stage(twin[0], "w1", twin)
        moving.bigquery.query_and_wait(f"insert into {TABLE} select * from {DATASET}._staging_{twin[0]}_w1")
    (found,) = check(run, code=3)
    assert found["duplicate_keys"] == 1
    failed = consolidate(run, code=3)
    assert failed["status"] == "failed"
    assert "stand more than once" in failed["error"]
    assert "murray" in failed["error"]
    assert ("c1", 24.5, 27.3) not in moving.rows(), "all of it was rolled back"
    run("dedupe", "--table", NAME, "--apply", "--reason", "an old program was paused")
    assert consolidate(run)["status"] == "committed", "staging was kept"
    assert [row for row in moving.rows() if row[1] == 19.5] == [("x2", 19.5, 20.0)]


def test_old_staging_that_remains_is_handed_in(run, moving, moved, old, tmp_path):
    """Rows that the old program has merged already count as unchanged, older ones as superseded."""
    old.stage(
        "left",
        "w1",
        ("b1", DATE, "nikolajokic", 24.5, 26.1, "2026-01-11 01:06:34.93+00"),
        ("a0", DATE, "nikolajokic", 25.0, 20.0, "2026-01-11 01:00:00+00"),
        ("n1", DATE, "nikolajokic", 26.5, 30.0, "2026-01-11 18:00:00+00"),
    )
    left = moving.bigquery.list_rows(f"{moving.project}.{DATASET}._staging_left_w1").to_arrow(create_bqstorage_client=False)
    pq.write_table(left, tmp_path / "left.parquet")
    (done,) = run("load", "left.parquet", "--table", NAME, "--batch", "left")["partitions"]
    assert [done[f"rows_{name}"] for name in ("staged", "inserted", "updated", "unchanged", "superseded")] == [3, 1, 0, 1, 1]
    assert moving.rows() == [("a2", 25.0, 26.4), ("b1", 24.5, 26.1), ("b3", None, 19.8), ("n1", 26.5, 30.0)]
    assert old.staged("left") == ["_staging_left_w1"]


def test_an_old_merge_that_rounds_the_line_makes_one_row_of_two(run, moving, moved, old):
    """Why the guide says to mend it first: 24.5 and 25.0 are two keys, and its cast to an integer matches both."""
    old.stage("rounding", "w1", ("r1", DATE, "nikolajokic", 25.0, 28.0, "2026-01-11 19:00:00+00"))
    assert old.consolidate("rounding", DATE) == (True, 1), "it counts the duplicate after it has committed it"
    assert moving.rows() == [("b3", None, 19.8), ("r1", 25.0, 28.0), ("r1", 25.0, 28.0)]
    assert check(run, code=3)[0]["duplicate_keys"] == 1
    assert old.staged("rounding") == ["_staging_rounding_w1"]
