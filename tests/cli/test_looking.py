"""Looking at tables, batches, locks and the installation, and taking things away."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from onerow.bootstrap import open_store

from .conftest import HOLD_LOCK, INIT, ROWS, csv_text, in_background

DUPLICATE = (
    "insert into props (prediction_id, game_date, game_id, player_lookup, system_id, current_points_line, created_at) "
    "select 'dup' || i, date '2026-01-11', '[red]g', '\x1b[31mp', null, 1, timestamp '2026-01-01' from range(3) t(i)"
)


@pytest.fixture
def loaded(props):
    props.ok("load", "props.csv", "--table", "props", "--batch", "b1")
    return props


# --- check -----------------------------------------------------------------------------------


def test_check_lists_duplicates_with_their_keys(loaded):
    loaded.sql(DUPLICATE)
    ended = loaded("check")
    assert ended.code == 3
    assert ended.out.startswith("findings in 1 of 1 table\n")
    assert "3 rows  game_date=2026-01-11, game_id='[red]g', player_lookup='\\x1b[31mp', system_id=NULL" in ended.out
    assert "dup0, dup1, dup2" in ended.out
    assert "ledger: Partition 2026-01-11 has 6 rows; the ledger explains 3" in ended.out
    data = loaded("check", "--output", "json").json
    assert (data["clean"], data["exit_code"]) == (False, 3)
    assert data["tables"][0]["duplicates"][0]["ids"] == ["dup0", "dup1", "dup2"]
    assert loaded("check", "--table", "props", "--partition", "2026-01-12").code == 0
    assert loaded("check", "--since", "2026-01-12").code == 0


def test_check_since_a_time_back_from_today(onerow):
    today = datetime.now(UTC).date()
    rows = [
        ROWS[0].replace("2026-01-11,00225", f"{today - timedelta(days=back)},{back}", 1) for back in (0, 2, 30)
    ]
    onerow.write("props.csv", csv_text(*rows))
    onerow.ok(*INIT)
    onerow.ok("load", "props.csv", "--table", "props")
    assert onerow.ok("check", "--since", "7d", "--output", "json").json["tables"][0]["partitions"] == 2
    assert onerow("check", "--since", "lately").code == 2
    assert onerow("check", "--since", "99999999d").code == 2


def test_a_check_that_cannot_run_is_a_failure(loaded):
    loaded.sql("drop table props")
    ended = loaded("check")
    assert (ended.code, ended.out.splitlines()[0]) == (1, "1 table could not be checked")
    assert loaded("check", "--output", "json").json["tables"][0]["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--partition", "2026-01-11"],
        ["--key", "a"],
        ["--warehouse", "duckdb:///props.duckdb"],
        ["--warehouse", "duckdb:///props.duckdb", "--target", "props", "--key", "nothing"],
        ["--warehouse", "duckdb:///props.duckdb", "--target", "prop", "--key", "game_id"],
        ["--warehouse", "duckdb:///nothing.duckdb", "--target", "props", "--key", "game_id"],
        ["--warehouse", "props.duckdb", "--target", "props", "--key", "game_id"],
        ["--table", "prop"],
        ["--table", "props", "--partition", "yesterday"],
        ["--limit", "0"],
    ],
)
def test_a_check_that_was_mistyped(loaded, arguments):
    ended = loaded("check", *arguments, "--output", "json")
    assert ended.code == 2, ended
    assert ended.json["error"]
    assert not (loaded.folder / "nothing.duckdb").exists()


def test_check_any_existing_table_without_configuration(onerow):
    with duckdb.connect(onerow.folder / "other.duckdb") as connection:
        connection.execute("create schema nba")
        connection.execute('create table nba."Props" (game varchar, line double, "at" timestamp, "odd ""name" integer)')
        connection.execute(
            """insert into nba."Props" values ('g', 24.5, '2026-01-01', 1), ('g', 24.5, '2026-01-01', 2),
            ('g', 25.0, '2026-01-01', 3), (null, 1, '2026-01-02', 4), (null, 1, '2026-01-02', 5)"""
        )
    common = ("check", "--warehouse", "duckdb:///other.duckdb", "--target", "nba.props")
    ended = onerow(*common, "--key", "Game,line", "--id", 'odd "name')
    assert ended.code == 3
    assert "2 rows  game=g, line=24.5: 1, 2" in ended.out
    assert "2 rows  game=NULL, line=1.0: 4, 5" in ended.out
    assert onerow(*common, "--key", '"odd ""name"').code == 0
    partitioned = onerow(*common, "--key", "game,line", "--partition-column", "at", "--output", "json")
    assert (partitioned.code, partitioned.json["tables"][0]["partitions"]) == (3, 2)
    assert sorted(path.name for path in onerow.folder.iterdir()) == ["other.duckdb", "props.csv"]


# --- batches ---------------------------------------------------------------------------------


def test_batches_are_listed_and_shown(props):
    assert props.ok("batches", "list").out == "0 batches, 0 not wholly merged\n"
    props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    listed = props.ok("batches", "list")
    assert listed.out.startswith("1 batch, 1 not wholly merged")
    assert "0 of 1 parts" in listed.out
    shown = props.ok("batches", "show", "b1")
    assert "2026-01-11, 2026-01-12" in shown.out
    assert props.ok("batches", "show", "b1", "--output", "json").json["parts"][0]["worker"] == "props.csv"
    missing = props("batches", "show", "b2")
    assert (missing.code, "Names that come near: b1" in missing.err) == (1, True)


def test_a_batch_is_discarded_by_a_plan_that_still_fits(props):
    props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    plan = props.ok("batches", "discard", "b1", "--reason", "wrong model")
    assert "Nothing was changed" in plan.out
    digest = props.ok("batches", "discard", "b1", "--reason", "x", "--output", "json").json["plan"]
    assert f"--apply --plan {digest}" in plan.out
    props.write("more.csv", csv_text(ROWS[0]))
    props.ok("stage", "more.csv", "--table", "props", "--batch", "b1")
    outdated = props("batches", "discard", "b1", "--reason", "x", "--apply", "--plan", digest, "--output", "json")
    assert (outdated.code, outdated.json["kind"]) == (2, "plan_outdated")
    assert props("batches", "discard", "b1", "--reason", "x", "--plan", digest).code == 2
    assert props("batches", "discard", "b1", "--reason", " ", "--apply").code == 2
    assert props("batches", "discard", "b1", "--apply").code == 2
    done = props.ok("batches", "discard", "b1", "--reason", "wrong model", "--apply")
    assert done.out.startswith("discarded: 2 parts with 6 rows of batch 'b1'")
    assert "wrong model" in props.ok("history").out
    assert props.ok("batches", "show", "b1").out.startswith("discarded")
    assert props.ok("batches", "discard", "b1", "--reason", "x").out.startswith("nothing to discard")


def test_a_batch_of_two_tables_needs_the_table(props):
    props.ok("init", "props.csv", "--table", "other", "--key", "prediction_id", "--order-by", "created_at")
    props.ok("stage", "props.csv", "--table", "props", "--batch", "only")
    for table in ("props", "other"):
        props.ok("stage", "props.csv", "--table", table, "--batch", "both")
    assert props.ok("batches", "show", "only", "--output", "json").json["table"] == "props"
    assert "Name one with --table" in props("batches", "show", "both").err
    assert props("batches", "show", "both").code == 2
    assert props.ok("batches", "show", "both", "--table", "other", "--output", "json").json["table"] == "other"
    assert props("batches", "show", "onl").code == 1
    assert props("batches", "list").out.splitlines()[1].startswith("table")


# --- locks -----------------------------------------------------------------------------------


def test_locks_are_shown_and_taken_away(loaded):
    with in_background(loaded.folder, HOLD_LOCK, "2026-01-11") as holder:
        listed = loaded.ok("locks", "list")
        assert listed.out.startswith("1 lock held")
        assert f":{holder.pid}" in listed.out
        assert "the-other" in listed.out
        before = loaded.ok("locks", "show", "props/2026-01-11", "--output", "json").json
        assert (before["state"], before["batch"]) == ("held", "the-other")
        assert f"token     {before['token']}" in loaded.ok("locks", "show", "props/2026-01-11").out
        alive = loaded("locks", "force-release", "props/2026-01-11", "--reason", "test")
        assert alive.code == 2
        assert "it is alive" in alive.err
        assert "--force" in alive.err
        done = loaded.ok("locks", "force-release", "props/2026-01-11", "--reason", "it hangs", "--force")
        assert "1. lock record: taken from" in done.out
        assert "the old holder cannot commit any more" in done.out
        assert "it hangs" in loaded.ok("locks", "show", "props/2026-01-11").out
    assert loaded.ok("history", "--limit", "1", "--output", "json").json[0]["action"] == "force_release"
    again = loaded.ok("locks", "force-release", "props/2026-01-11", "--reason", "the second step once more")
    assert "free since the last forced release" in again.out
    with open_store() as store, store.lock("props", "2026-01-11"):
        pass
    assert loaded("locks", "force-release", "props/2026-01-11", "--reason", "nobody has it").code == 2


def test_a_fence_that_cannot_be_raised_is_told_plainly(loaded):
    with open_store() as store, store.lock("props", "2026-01-11"):
        (loaded.folder / "props.duckdb").write_bytes(b"no database" * 1000)
        done = loaded("locks", "force-release", "props/2026-01-11", "--reason", "x", "--force")
        assert done.code == 1
        assert done.out.startswith("released in part")
        assert "could NOT be raised" in done.err
        assert "may still commit" in done.err


@pytest.mark.parametrize("scope", ["nothing", "props", "props/yesterday", "props/2030-01-01", "nothing/2026-01-11"])
def test_scopes_that_are_none(loaded, scope):
    assert loaded("locks", "show", scope).code == 2
    assert loaded("locks", "force-release", scope, "--reason", "x").code == 2


# --- history, gc, doctor ----------------------------------------------------------------------


def test_history(loaded):
    assert loaded.ok("history", "--batch", "nothing").out == "0 entries, newest first\n"
    entries = loaded.ok("history", "--table", "props", "--output", "json").json
    assert [(entry["partition"], entry["rows_inserted"]) for entry in entries] == [("2026-01-11", 3), ("2026-01-12", 1)]
    datetime.fromisoformat(entries[0]["committed_at"])
    assert loaded.ok("history", "--limit", "1").out.startswith("the latest 1 entry")
    assert loaded("history", "--limit", "0").code == 2
    assert loaded("history", "--table", "prop").code == 2


def test_gc_removes_what_has_served_its_time(loaded):
    assert loaded.ok("gc").out == "nothing to remove\n"
    remains = loaded.folder / "staging" / ".tmp" / "left.parquet"
    remains.write_bytes(b"x")
    an_hour_ago_s = time.time() - 2 * 3600
    os.utime(remains, (an_hour_ago_s, an_hour_ago_s))
    plan = loaded.ok("gc", "--older-than", "0s")
    assert plan.out.startswith("would remove: the data of 1 merged part")
    assert str(remains) in plan.out
    assert remains.exists()
    done = loaded.ok("gc", "--older-than", "0s", "--apply", "--output", "json").json
    assert (done["applied"], done["parts_removed"], done["remains"]) == (True, 1, [str(remains)])
    assert not remains.exists()
    assert loaded.ok("batches", "show", "b1", "--output", "json").json["parts"][0]["state"] == "purged"
    assert loaded.ok("gc", "--older-than", "0s").out == "nothing to remove\n"


def test_gc_keeps_parts_that_a_restored_warehouse_has_forgotten(loaded):
    loaded.sql("delete from onerow.ledger")
    loaded.sql("delete from props")
    ended = loaded.ok("gc", "--older-than", "0s", "--apply")
    assert ended.out == "nothing to remove\n"
    assert "the ledger does not name them any more" in ended.err
    assert loaded("doctor").code in {0, 1}
    assert "4 inserted" in loaded.ok("consolidate", "--table", "props", "--batch", "b1").out
    assert loaded.ok("gc", "--older-than", "0s").out.startswith("would remove: the data of 1 merged part")


def test_doctor_is_content(loaded):
    ended = loaded.ok("doctor")
    assert ended.out.startswith("all is well\n")
    for text in ("python", "duckdb ", "onerow.toml", "ms a round trip", "table props", "fits", "hard links", "kept for 24 h"):
        assert text in ended.out
    data = loaded.ok("doctor", "--output", "json").json
    assert data["ok"] is True
    assert all(check["ok"] for check in data["checks"])


def test_doctor_finds_what_is_wrong(props):
    (props.folder / "props.duckdb").unlink()
    (props.folder / "props.locks.sqlite").unlink()
    (props.folder / "staging").write_text("a file where a folder should be")
    ended = props("doctor")
    assert ended.code == 1
    assert ended.out.startswith("not well: warehouse, locks, staging")
    assert not (props.folder / "props.locks.sqlite").exists()
    (props.folder / "onerow.toml").write_text("warehouse = 7")
    assert props("doctor").code == 2
