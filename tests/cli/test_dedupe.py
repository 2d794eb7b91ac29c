"""``onerow dedupe``: the plan, what is done, what is refused, and bringing a row back."""

from __future__ import annotations

import pytest

DAY = "2026-01-11"
DOUBLE = """
insert into props select * replace ('{id}' as prediction_id, created_at + to_milliseconds({ms}) as created_at)
from props where player_lookup = '{player}'
"""


@pytest.fixture
def doubled(props):
    """The table with one key that a race has doubled, and one that somebody wrote an hour later."""
    props.ok("load", "props.csv", "--table", "props", "--batch", "b1")
    props.sql("delete from props where prediction_id = 'p2'")
    props.sql(DOUBLE.format(id="race", ms=400, player="lukadoncic"))
    props.sql(DOUBLE.format(id="late", ms=3_600_000, player="jokić"))
    return props


def ids(props):
    return sorted(name for (name,) in props.sql("select prediction_id from props"))


def test_the_plan_is_shown_and_nothing_is_changed(doubled):
    before = ids(doubled)
    shown = doubled("dedupe", "--table", "props")
    assert (shown.code, shown.err) == (3, "")
    assert "2 rows of 2 keys would be moved aside, 2 partitions" in shown.out
    assert "race: written within a second" in shown.out
    assert "player_lookup='lukadoncic'" in shown.out
    assert "stays race, goes p1" in shown.out
    assert "Nothing was changed." in shown.out
    plan = doubled("dedupe", "--table", "props", "--output", "json").json
    assert f"onerow dedupe --table props --apply --plan {plan['plan']}" in shown.out
    assert (plan["applied"], plan["keys"], plan["extra_rows"], plan["result"]) == (False, 2, 2, None)
    assert [(one["partition"], one["causes"]) for one in plan["partitions"]] == [
        (DAY, {"race": 1}), ("2026-01-12", {"foreign": 1}),
    ]  # fmt: skip
    assert plan["groups"][0]["removed"] == ["p1"]
    assert ids(doubled) == before


def test_it_is_done_and_the_table_is_clean(doubled):
    plan = doubled("dedupe", "--table", "props", "--output", "json").json["plan"]
    done = doubled.ok("dedupe", "--table", "props", "--apply", "--plan", plan, "--reason", "ticket 7")
    assert "repaired: 2 rows of 2 keys moved to props_removed_duplicates, run r" in done.out
    assert ids(doubled) == ["late", "p5", "race"]
    removed = doubled.sql("select prediction_id, __onerow_reason, __onerow_batch from props_removed_duplicates order by 1")
    assert removed == [("p1", "race: ticket 7", "b1"), ("p4", "foreign: ticket 7", "b1")]
    assert "dedupe r" in doubled.ok("history", "--table", "props").out
    again = doubled.ok("dedupe", "--table", "props", "--apply")
    assert "nothing to repair" in again.out
    assert doubled.ok("dedupe", "--table", "props", "--output", "json").json["partitions"] == []


def test_one_partition_alone(doubled):
    done = doubled.ok("dedupe", "--table", "props", "--partition", DAY, "--apply", "--output", "json").json
    assert (done["applied"], done["result"]["rows_removed"]) == (True, 1)
    assert [one["status"] for one in done["result"]["partitions"]] == ["repaired"]
    assert ids(doubled) == ["late", "p4", "p5", "race"]
    scoped = doubled("dedupe", "--table", "props", "--partition", "2026-01-12")
    assert scoped.code == 3
    assert "onerow dedupe --table props --partition 2026-01-12 --apply --plan" in scoped.out


def test_a_plan_that_no_longer_fits_is_refused(doubled):
    plan = doubled("dedupe", "--table", "props", "--output", "json").json["plan"]
    doubled.sql(DOUBLE.format(id="third", ms=1000, player="lebronjames"))
    before = ids(doubled)
    refused = doubled("dedupe", "--table", "props", "--apply", "--plan", plan, "--output", "json")
    assert (refused.code, refused.json["kind"]) == (2, "plan_outdated")
    assert ids(doubled) == before


def test_a_consolidation_names_the_command_that_repairs(doubled):
    doubled.ok("stage", "props.csv", "--table", "props", "--batch", "b2")
    failed = doubled("consolidate", "--table", "props", "--batch", "b2")
    assert failed.code == 3
    assert f"onerow dedupe --table props --partition {DAY}" in failed.err
    doubled.ok("dedupe", "--table", "props", "--apply")
    doubled.ok("consolidate", "--table", "props", "--batch", "b2")
    doubled.ok("check")


def test_a_consolidation_repairs_if_the_table_says_so(doubled):
    doubled.edit_config("[tables.props]\n", '[tables.props]\non_existing_duplicates = "repair"\n')
    doubled.ok("stage", "props.csv", "--table", "props", "--batch", "b2")
    done = doubled.ok("consolidate", "--table", "props", "--batch", "b2", "--output", "json").json
    assert {one["partition"]: one["duplicates_removed"] for one in done["partitions"]} == {DAY: 1, "2026-01-12": 1}
    names = list(done["partitions"][0])
    assert names.index("duplicates_removed") > names.index("verify_s")  # what came later stands after what scripts know
    for one in done["partitions"]:
        counts = [one[f"rows_{name}"] for name in ("inserted", "updated", "unchanged", "superseded")]
        assert one["rows_staged"] == sum(counts)
    doubled.ok("check")


# --- bringing back ---------------------------------------------------------------------------


KEY = ("--key", "game_id=0022500553", "--key", "player_lookup=lukadoncic", "--key", "system_id=xgb")


@pytest.fixture
def repaired(doubled):
    done = doubled.ok("dedupe", "--table", "props", "--apply", "--output", "json").json
    return doubled, done["result"]["run"]


def test_a_removed_row_is_shown_and_comes_back(repaired):
    props, run = repaired
    restore = ("dedupe", "--table", "props", "--partition", DAY, "--restore", run, *KEY, "--key", "current_points_line=24.5")
    shown = props.ok(*restore)
    assert "row p1 would come back; row race would go aside" in shown.out
    assert "add: --apply" in shown.out
    assert ids(props) == ["late", "p5", "race"]
    done = props.ok(*restore, "--apply", "--reason", "it was right", "--output", "json").json
    assert (done["applied"], done["back"], done["current"]) == (True, "p1", ["race"])
    assert ids(props) == ["late", "p1", "p5"]
    props.ok("check")
    gone = props(*restore, "--output", "json")
    assert (gone.code, gone.json["kind"]) == (2, "usage")
    assert done["restored_by"] in gone.json["hint"]
    back = [done["restored_by"] if word == run else word for word in restore]
    assert "row race has come back; row p1 went aside" in props.ok(*back, "--apply").out
    assert ids(props) == ["late", "p5", "race"]


def test_null_and_the_empty_text_are_told_apart(onerow):
    import duckdb

    onerow.write("t.csv", "k,v,moment\nsome,1,2026-01-11T00:00:00Z\n")
    onerow.ok("init", "t.csv", "--table", "t", "--key", "k", "--order-by", "moment")
    database = onerow.folder / "t.duckdb"
    with duckdb.connect(database) as connection:
        for key in (None, ""):
            for number in (1, 2):
                connection.execute("insert into t values (?, ?, ?)", [key, number, f"2026-01-11 00:00:0{number}"])
    run = onerow.ok("dedupe", "--table", "t", "--apply", "--output", "json").json["result"]["run"]
    for argument, key in (("k", None), ("k=", "")):
        done = onerow.ok("dedupe", "--table", "t", "--restore", run, "--key", argument, "--apply", "--output", "json").json
        assert done["key"] == {"k": key}
    with duckdb.connect(database) as connection:
        assert connection.execute("select k, v from t order by k nulls first").fetchall() == [(None, 1), ("", 1)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--plan", "abc"), "--plan goes with --apply"),
        (("--key", "game_id=1"), "--key goes with --restore"),
        (("--restore", "r-1", "--plan", "abc"), "--plan goes without --restore"),
        (("--restore", "r-1", "--partition", DAY), "is missing"),
        (("--restore", "r-1", *KEY), "name a partition"),
        (("--restore", "r-1", "--partition", DAY, *KEY, "--key", "system_id=x"), "twice"),
        (("--restore", "r-1", "--partition", DAY, *KEY, "--key", "nothing=x"), "'nothing' is no column"),
        (("--restore", "r-1", "--partition", DAY, *KEY, "--key", "current_points_line=x"), "is no decimal number"),
        (("--restore", "r-1", "--partition", DAY, *KEY, "--key", "current_points_line=1"), "has removed no row"),
        (("--partition", "yesterday"), "is no value of the partition column"),
    ],
)
def test_what_makes_no_sense_is_refused(props, arguments, told):
    ended = props("dedupe", "--table", "props", *arguments)
    assert ended.code == 2
    assert told in ended.err


def test_the_doctor_misses_the_table_of_removed_rows(props):
    props.sql("drop table props_removed_duplicates")
    told = props("doctor")
    assert told.code != 0
    assert "props_removed_duplicates" in told.out
    props.ok("init")
    props.ok("doctor")
