"""Files that are not what they should be: the message, the exit code, and nothing staged."""

from __future__ import annotations

import gzip

import pytest

from .conftest import COLUMNS, ROWS, csv_text

GOOD = ROWS[0]
LONG = gzip.compress(csv_text(*ROWS * 2000).encode())

BAD = {
    "wrong_type": (csv_text(ROWS[1], GOOD.replace("27.1", "many")), ["row 2, column 'predicted_points': 'many'"]),
    "ragged": (csv_text(GOOD, "1,2,3"), ["line 3: 3 fields"]),
    "open_quote": (csv_text(GOOD.replace("p1", '"p1')), ["is never closed"]),
    "encoding": (csv_text(GOOD.replace("luka", "lu\u00e9ka")).encode("latin-1"), ["is not valid UTF-8"]),
    "utf16": (csv_text(GOOD).encode("utf-16"), ["UTF-16"]),
    "missing_column": ("prediction_id,game_date\np1,2026-01-11\n", ["column 'game_id' is missing"]),
    "unknown_column": (csv_text(GOOD).replace("confidence", "confidense"), ["'confidense' is not declared; near it: 'confidence'"]),
    "null_partition": (csv_text(GOOD.replace("2026-01-11,", ",", 1)), ["row 1, column 'game_date': is NULL"]),
    "decimal_misfit": (csv_text(GOOD.replace("24.5", "24.555")), ["column 'current_points_line': '24.555'", "not rounded"]),
    "nul_character": (csv_text(GOOD.replace("xgb", "x\x00b")), ["U+0000"]),
    "empty": ("", ["the file is empty"]),
    "escape_sequence": (csv_text(GOOD.replace("27.1", "\x1b[31mred")), ["'\\x1b[31mred'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_the_reason(props, case):
    content, expected = BAD[case]
    props.write("bad.csv", content)
    ended = props("stage", "bad.csv", "--table", "props", "--batch", "b1", "--output", "json")
    assert ended.code == 3, ended
    told = ended.json["error"] + "\n".join(ended.json["problems"])
    for text in expected:
        assert text in told
        assert text in ended.err.replace("\\\\", "\\")
    assert "\x1b" not in ended.err
    assert ended.json["exit_code"] == 3
    assert "bad.csv" in told
    assert props.staged() == []


def test_a_truncated_gz_is_refused(props):
    props.write("bad.csv.gz", LONG[: len(LONG) // 2])
    ended = props("stage", "bad.csv.gz", "--table", "props", "--batch", "b1")
    assert ended.code == 3
    assert "bad.csv.gz: " in ended.err
    assert props.staged() == []
    props.write("good.csv.gz", LONG)
    assert props.ok("stage", "good.csv.gz", "--table", "props", "--batch", "b1").out.startswith("staged: good.csv.gz")


def test_nan_has_no_place_in_an_order(onerow):
    onerow.write("scores.csv", "id,score\na,1.5\n")
    onerow.ok("init", "scores.csv", "--table", "scores", "--key", "id", "--order-by", "score")
    onerow.write("nan.csv", "id,score\na,1.5\nb,nan\n")
    ended = onerow("stage", "nan.csv", "--table", "scores", "--batch", "b")
    assert ended.code == 3
    assert "row 2, column 'score': is NaN" in ended.err
    assert onerow.staged() == []


def test_a_json_line_that_is_none_is_named(props):
    props.write("bad.ndjson", '{"prediction_id": "p1"}\n{oops}\n')
    ended = props("stage", "bad.ndjson", "--table", "props", "--batch", "b")
    assert ended.code == 3
    assert "line 2: is no JSON" in ended.err


def test_a_parquet_file_that_is_none(props):
    props.write("bad.parquet", b"PAR1 but no more")
    ended = props("stage", "bad.parquet", "--table", "props", "--batch", "b")
    assert ended.code == 3
    assert "cannot be read as Parquet" in ended.err


@pytest.mark.parametrize(
    ("file", "expected"),
    [("nothing.csv", "There is no file nothing.csv"), ("props.txt", "the suffix '.txt' tells no format"), (".", "suffix")],
)
def test_what_was_mistyped_is_wrong_usage(props, file, expected):
    props.write("props.txt", COLUMNS)
    for command in ("stage", "load"):
        ended = props(command, file, "--table", "props", "--batch", "b")
        assert ended.code == 2, ended
        assert expected in ended.err
    assert props.staged() == []


def test_of_several_files_one_that_fails_does_not_stop_the_others(props):
    props.write("bad.csv", csv_text("x"))
    ended = props("stage", "bad.csv", "nothing.csv", "props.csv", "--table", "props", "--batch", "b1")
    assert ended.code == 3  # findings are graver than a name that was mistyped
    assert ended.out.startswith("staged: props.csv")
    assert "bad.csv" in ended.err
    assert "nothing.csv" in ended.err
    assert [batch["rows"] for batch in props.staged()] == [5]


def test_a_table_that_is_not_there_is_told_once(props):
    ended = props("stage", "props.csv", "props.csv", "--table", "prop", "--batch", "b")
    assert ended.code == 2
    assert ended.err.count("No table 'prop'") == 1
    assert "Did you mean 'props'?" in ended.err
