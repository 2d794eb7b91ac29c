"""The flow of the README, and names that are odd."""

from __future__ import annotations

import hashlib
import json

import pytest

from .conftest import INIT, KEY, ROWS, csv_text


def test_the_readme_flow_in_processes_of_its_own(onerow):
    made = onerow.shell(*INIT)
    assert made.code == 0, made
    assert "wrote onerow.toml" in made.out
    assert "created: table props" in made.out
    assert 'current_points_line = "decimal(9,2)"' in (onerow.folder / "onerow.toml").read_text()

    loaded = onerow.shell("load", "props.csv", "--table", "props", "--output", "json")
    assert loaded.code == 0, loaded
    result = json.loads(loaded.out)
    content = hashlib.sha256((onerow.folder / "props.csv").read_bytes()).hexdigest()
    assert (result["status"], result["batch"]) == ("committed", f"load-{content[:16]}")
    assert [(p["partition"], p["rows_inserted"], p["rows_superseded"]) for p in result["partitions"]] == [
        ("2026-01-11", 3, 1),
        ("2026-01-12", 1, 0),
    ]

    checked = onerow.shell("check")
    assert (checked.code, checked.out.splitlines()[0]) == (0, "clean: 1 table, no duplicates, no findings")
    listed = onerow.shell("history")
    assert listed.code == 0
    assert listed.out.count(f"load-{content[:16]}") == 2

    again = onerow.shell("load", "props.csv", "--table", "props")
    assert again.code == 0
    assert again.out.startswith("already merged: ")
    # 24.5 and 25.0 are two keys, and the newer of the two rows of lebronjames is there
    rows = onerow.sql("select prediction_id, current_points_line::varchar from props order by 1")
    assert rows == [("p1", "24.50"), ("p2", "25.00"), ("p4", "29.50"), ("p5", "22.50")]


def test_stage_and_consolidate_say_what_the_counts_are(props):
    props.write("late.csv", csv_text(ROWS[2].replace("T01:", "T00:"), ROWS[0].replace("p1", "p9")))
    staged = props.ok("stage", "props.csv", "late.csv", "--table", "props", "--batch", "b1")
    assert staged.out.splitlines() == [
        "staged: props.csv, 5 rows, 2 partitions, worker 'props.csv'",
        "staged: late.csv, 2 rows, 1 partition, worker 'late.csv'",
    ]
    ended = props.ok("consolidate", "--table", "props", "--batch", "b1")
    assert ended.out.startswith(
        "committed: 7 rows staged = 4 inserted + 0 updated + 0 unchanged + 3 superseded, 2 partitions, "
    )
    assert "2026-01-11  committed       6         3        0          0           3" in ended.out


def test_the_same_rows_of_the_same_worker_again_are_the_same_part(props):
    props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    again = props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    assert again.out.startswith("already staged: props.csv")
    assert props.staged()[0]["part_count"] == 1


def test_the_contract_of_the_json_result(props):
    props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    result = props.ok("consolidate", "--table", "props", "--batch", "b1", "--output", "json").json
    assert {"consolidation", "table", "batch", "status", "partitions", "error"} <= result.keys()
    partition = result["partitions"][0]
    assert {
        "partition", "status", "token", "attempts", "parts", "rows_staged", "rows_inserted", "rows_updated",
        "rows_unchanged", "rows_superseded", "lock_wait_s", "merge_s", "verify_s", "error",
    } <= partition.keys()  # fmt: skip
    assert partition["token"] > 0


def test_standard_input_is_a_file_like_any_other(props):
    ended = props("load", "-", "--format", "csv", "--table", "props", stdin=csv_text(*ROWS))
    assert (ended.code, ended.out.split(":")[0]) == (0, "committed")
    bad = props("stage", "-", "--format", "csv", "--table", "props", "--batch", "b", stdin="a,b\n1,2\n")
    assert bad.code == 3
    assert "standard input: The columns are not those" in bad.err
    assert props("stage", "-", "--table", "props", "--batch", "b", stdin="").code == 2
    assert props("stage", "props.csv", "--format", "csv", "--table", "props", "--batch", "b").code == 2
    assert props("stage", "-", "-", "--format", "csv", "--table", "props", "--batch", "b", stdin="").code == 2


def test_the_derived_batch_does_not_depend_on_the_order_of_files(props):
    props.write("one.csv", csv_text(ROWS[0]))
    props.write("two.csv", csv_text(ROWS[1]))
    first = props.ok("load", "one.csv", "two.csv", "--table", "props", "--output", "json").json
    second = props.ok("load", "two.csv", "one.csv", "--table", "props", "--output", "json").json
    assert (first["status"], second["status"]) == ("committed", "already_merged")
    assert first["batch"] == second["batch"]


def test_a_load_whose_file_is_refused_consolidates_nothing(props):
    props.write("bad.csv", csv_text(ROWS[0].replace("27.1", "many")))
    ended = props("load", "props.csv", "bad.csv", "--table", "props", "--batch", "b1", "--output", "json")
    assert ended.code == 3
    assert ended.json["kind"] == "part_refused"
    assert [file["status"] for file in ended.json["files"]] == ["staged", "failed"]
    assert "1 part of other files stay" in ended.err
    assert props.sql("select count(*) from props") == [(0,)]


def test_a_file_of_a_header_only_is_nothing_to_load(props):
    props.write("none.csv", csv_text())
    ended = props.ok("load", "none.csv", "--table", "props")
    assert ended.out.startswith("nothing staged")
    assert props.ok("load", "none.csv", "--table", "props", "--output", "json").json["status"] == "nothing_staged"


ODD = ["it's \"a\"/b; drop--", "Ünï—ço∂e, [bold]x[/bold]", "back\\slash %s {} ../up"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_work_from_end_to_end(onerow, name):
    header = ",".join('"' + column.replace('"', '""') + '"' for column in (name, f"key {name}", "at"))
    value = '"' + name.replace('"', '""') + '"'
    onerow.write("odd.csv", f"{header}\n{value},1,2026-01-01T00:00:00Z\n")
    table = name.replace("/", "_")  # a slash separates table and partition
    quote = '"' + f"key {name}".replace('"', '""') + '"'
    made = onerow("init", "odd.csv", "--table", table, "--key", quote, "--order-by", "at", "--partition", name)
    assert made.code == 0, made
    onerow.ok("stage", "odd.csv", "--table", table, "--batch", name, "--worker", name)
    result = onerow.ok("consolidate", "--table", table, "--batch", name, "--output", "json").json
    assert (result["status"], result["partitions"][0]["partition"]) == ("committed", name)
    for command in (
        ("consolidate", "--table", table, "--batch", name, "--partition", name),
        ("batches", "show", name),
        ("history", "--batch", name),
        ("locks", "show", f"{table}/{name}"),
        ("check", "--table", table, "--partition", name),
    ):
        shown = onerow.ok(*command)
        assert name in shown.out or repr(name) in shown.out or command[0] == "check", command
        onerow.ok(*command, "--output", "json")


@pytest.mark.parametrize("name", ["", " ", " b", "b\n", "b\x1b[31m", "x" * 201])
def test_names_that_are_none_are_refused(props, name):
    for command in (
        ("stage", "props.csv", "--table", "props", "--batch", name),
        ("stage", "props.csv", "--table", "props", "--batch", "b", "--worker", name or " "),
        ("load", "props.csv", "--table", "props", "--batch", name),
        ("consolidate", "--table", "props", "--batch", name),
    ):
        ended = props(*command)
        assert ended.code == 2, (command, ended)
        assert "\x1b" not in ended.err
    assert props.staged() == []


def test_a_slash_in_a_tables_name_is_refused_clearly(onerow):
    ended = onerow("init", "props.csv", "--table", "a/b", "--key", KEY, "--order-by", "created_at")
    assert ended.code == 2
    assert "a table name has no '/'" in ended.err
    assert not (onerow.folder / "onerow.toml").exists()
