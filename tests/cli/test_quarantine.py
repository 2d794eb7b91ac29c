"""Bad rows that are put aside: what the command line tells of them, and how scripts notice."""

from __future__ import annotations

import pytest

from .conftest import ROWS, csv_text

GOOD = ROWS[0]
BAD = (ROWS[1].replace("27.1", "many"), ROWS[2].replace("22.5", "22.555"))


@pytest.fixture
def tolerant(props):
    """The table ``props``, which puts bad rows aside."""
    props.edit_config("[tables.props]\n", '[tables.props]\non_bad_row = "quarantine"\n')
    props.write("mixed.csv", csv_text(BAD[0], GOOD, BAD[1]))
    props.write("bad.csv", csv_text(*BAD))
    return props


def test_good_rows_are_loaded_and_bad_ones_put_aside(tolerant):
    ended = tolerant("load", "mixed.csv", "--table", "props", "--batch", "b1")
    assert ended.code == 0, ended
    assert "1 row staged = 1 inserted" in ended.out
    assert "warning: mixed.csv: 2 rows put aside" in ended.err
    (entry,) = tolerant.ok("quarantine", "list", "--output", "json").json
    assert (entry["table"], entry["batch"], entry["worker"], entry["rows"]) == ("props", "b1", "mixed.csv", 2)
    assert f"onerow quarantine show {entry['quarantine_id']}" in ended.err
    assert tolerant.sql("select prediction_id from props") == [("p1",)]
    shown = tolerant.ok("quarantine", "show", entry["quarantine_id"], "--output", "json").json
    assert shown["rows"] == 2
    assert [row["position"] for row in shown["shown"]] == [1, 3]
    assert shown["shown"][0]["problems"][0].startswith("column 'predicted_points': 'many'")
    assert shown["shown"][1]["values"]["current_points_line"] == "22.555"
    text = tolerant.ok("quarantine", "show", entry["quarantine_id"], "--limit", "1").out
    assert "1: column 'predicted_points'" in text
    assert "... and 1 more" in text


def test_scripts_notice_by_a_field(tolerant):
    staged = tolerant.ok("stage", "mixed.csv", "props.csv", "--table", "props", "--batch", "b1", "--output", "json").json
    assert staged["rows_quarantined"] == 2
    assert [file["rows_quarantined"] for file in staged["files"]] == [2, 0]
    assert staged["files"][0]["quarantine"].startswith("q")
    assert staged["files"][1]["quarantine"] is None
    loaded = tolerant.ok("load", "mixed.csv", "--table", "props", "--batch", "b1", "--output", "json")
    assert (loaded.json["status"], loaded.json["rows_quarantined"]) == ("committed", 2)
    assert "warning: " in loaded.err, "people who look at the log notice too"
    assert len(tolerant.ok("quarantine", "list", "--output", "json").json) == 1, "the same source, the same entry"


def test_a_file_with_nothing_but_bad_rows_is_a_finding(tolerant):
    for command in ("stage", "load"):
        ended = tolerant(command, "bad.csv", "--table", "props", "--batch", "b2")
        assert ended.code == 3, ended
        assert "nothing of it was staged" in ended.err
    assert tolerant.staged() == []
    ended = tolerant("load", "bad.csv", "props.csv", "--table", "props", "--batch", "b3", "--output", "json")
    assert (ended.code, ended.json["status"], ended.json["rows_quarantined"]) == (3, "committed", 2)


def test_the_quarantine_of_one_table_and_batch(tolerant):
    assert tolerant.ok("quarantine", "list").out == "0 rows in quarantine, 0 entries\n"
    for batch in ("b1", "b2"):
        tolerant.ok("stage", "mixed.csv", "--table", "props", "--batch", batch)
    assert tolerant.ok("quarantine", "list", "--table", "props").out.startswith("4 rows in quarantine, 2 entries\n")
    assert tolerant.ok("quarantine", "list", "--batch", "b2").out.startswith("2 rows in quarantine, 1 entry\n")
    assert tolerant("quarantine", "list", "--table", "other").code == 2


def test_an_entry_that_is_not_there_is_wrong_usage(tolerant):
    ended = tolerant("quarantine", "show", "q123")
    assert ended.code == 2
    assert "onerow quarantine list" in ended.err


def test_columns_are_no_matter_of_rows(tolerant):
    tolerant.write("columns.csv", csv_text(GOOD).replace("confidence", "confidense"))
    assert tolerant("stage", "columns.csv", "--table", "props", "--batch", "b1").code == 3
    assert tolerant.ok("quarantine", "list", "--output", "json").json == []
