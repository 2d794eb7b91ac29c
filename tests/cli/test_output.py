"""What goes where: one JSON document, log lines, colours, bars, pipes, and defects."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys

import pytest

from onerow.faces.cli import output
from onerow.faces.cli.commands import history as history_module
from onerow.faces.cli.main import COMMANDS, cli
from onerow.faces.cli.reference import walk

from .conftest import CONFIG_ROWS, INIT, environment

HEAVY = ("pyarrow", "duckdb", "sqlglot", "pydantic", "rich", "sqlite3", "numpy")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["consolidate", "--help"], ["locks", "--help"]])
def test_help_imports_nothing_that_is_slow(arguments, tmp_path):
    script = (
        "import sys\n"
        "from onerow.faces.cli.main import cli\n"
        f"try: cli({arguments!r})\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment(), check=True
    )
    code, _, names = ended.stderr.strip().partition(" ")
    assert code == "0"
    assert not set(HEAVY) & set(ast.literal_eval(names))
    if arguments == ["--help"]:
        assert all(name in ended.stdout for name in COMMANDS)


def test_the_short_help_in_the_list_is_that_of_the_command():
    for path, command in walk(cli, ("onerow",)):
        if len(path) == 2:
            assert command.help.split("\n\n")[0] == COMMANDS[path[1]]


READS = (
    ["check"],
    ["history"],
    ["batches", "list"],
    ["batches", "show", "b1"],
    ["locks", "list"],
    ["gc"],
    ["doctor"],
    ["init"],
    ["load", "props.csv", "--table", "props", "--batch", "b1"],
    ["stage", "props.csv", "--table", "props", "--batch", "b1"],
    ["consolidate", "--table", "props", "--batch", "b1"],
    ["consolidate", "--table", "props", "--batch", "b1", "--dry-run"],
    ["consolidate", "--table", "props", "--batch", "b2"],
    ["check", "--nonsense"],
    ["batches"],
    ["nonsense"],
    ["locks", "show", "props"],
)


def test_json_is_one_document_on_standard_output_alone(props):
    props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    for arguments in READS:
        ended = props(*arguments, "--output", "json", "-vv")
        json.loads(ended.out)
        assert ended.out.count("\n}") + ended.out.count("\n]") + ended.out.count("[]\n") >= 1
        front = props("--output=json", *arguments)
        assert (front.code, type(front.json)) == (ended.code, type(ended.json)), arguments
        if ended.code in {1, 2}:
            assert {"error", "kind", "hint", "problems", "exit_code"} <= ended.json.keys()
            assert ended.json["exit_code"] == ended.code
            assert ended.err


def test_log_lines_are_json_when_asked_for(props):
    props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    ended = props.ok("consolidate", "--table", "props", "--batch", "b1", "-v", "--log-format", "json")
    events = [json.loads(line) for line in ended.err.splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "onerow.lock_acquired"
    assert "onerow.merge_committed" in names
    assert "onerow.lock_renewed" not in names
    committed = events[names.index("onerow.merge_committed")]
    assert (committed["level"], committed["batch"], committed["rows_inserted"]) == ("info", "b1", 4)
    quiet = props.ok("consolidate", "--table", "props", "--batch", "b1")
    assert quiet.err == ""
    human = props.ok("load", "props.csv", "--table", "props", "--batch", "b2", "-v")
    assert " info onerow.part_staged table=props batch=b2" in human.err


def test_what_is_piped_has_no_escape_codes(props):
    for arguments in (READS[0], READS[6], READS[8], READS[12]):  # a process each: few, and different
        ended = props.shell(*arguments, env=environment(FORCE_COLOR="", TERM="xterm-256color"))
        assert "\x1b" not in ended.out + ended.err, arguments


def on_a_terminal(props, *arguments: str, columns: int = 80, **more: str) -> tuple[int, str]:
    leader, follower = pty.openpty()
    environ = environment(TERM="xterm-256color", COLUMNS=str(columns), LINES="24", **more)
    environ.pop("NO_COLOR", None) if "NO_COLOR" not in more else None
    process = subprocess.Popen(
        [sys.executable, "-m", "onerow.faces.cli.main", *arguments],
        cwd=props.folder, env=environ, stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # Linux says so when the other side has closed
            break
        if not data:
            break
        seen += data
    os.close(leader)
    return process.wait(60), seen.decode()


def test_a_terminal_has_colours_and_a_bar(props):
    props.write("many.csv", CONFIG_ROWS)
    code, seen = on_a_terminal(props, "load", "many.csv", "--table", "props")
    assert code == 0
    assert "staging many.csv" in seen
    assert "\x1b[1;32mcommitted: " in seen
    assert seen.rstrip().splitlines()[-1].startswith("2026-01-1")  # the bar has left no trace behind the result
    code, seen = on_a_terminal(props, "check")
    assert code == 0
    assert "─" in seen
    assert all(len(line) <= 80 for line in seen.splitlines() if "\x1b" not in line)


def test_no_color_is_respected_on_a_terminal(props):
    code, seen = on_a_terminal(props, "check", "--quiet", NO_COLOR="1")
    assert code == 0
    assert seen.startswith("clean: ")
    assert "\x1b" not in seen


def test_a_reader_that_goes_away_does_not_end_the_work(props):
    props.ok("stage", "props.csv", "--table", "props", "--batch", "b1")
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "onerow.faces.cli.main", "consolidate", "--table", "props", "--batch", "b1"],
        cwd=props.folder, env=environment(), stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert props.sql("select count(*) from props") == [(4,)]


def test_an_encoding_that_cannot_hold_the_text(props):
    props.ok("load", "props.csv", "--table", "props", "--batch", "jokić")
    environ = environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    ended = props.shell("history", "--output", "json", env=environ)
    assert json.loads(ended.out)[0]["batch"] == "jokić"
    assert "joki\\u0107" in props.shell("history", env=environ).out


def test_a_defect_is_told_and_shows_its_traceback_when_asked(props, monkeypatch):
    def broken(entry):
        raise KeyError("gone")

    monkeypatch.setattr(history_module, "_to_json", broken)
    props.ok("load", "props.csv", "--table", "props")
    ended = props("history", "--output", "json")
    assert (ended.code, ended.json["kind"]) == (1, "unexpected")
    assert "error: Unexpected KeyError: 'gone'" in ended.err
    assert "Run it again with --verbose" in ended.err
    assert "Traceback" not in ended.err
    assert "Traceback" in props("history", "--output", "json", "-v").err


def test_quiet_says_nothing_beside_the_result(props):
    ended = props.ok("load", "props.csv", "--table", "props", "--quiet")
    assert ended.err == ""
    assert ended.out.startswith("committed")


def test_a_command_that_is_mistyped_is_told_its_neighbour(props):
    ended = props("consolidat")
    assert (ended.code, "Did you mean consolidate?" in ended.err) == (2, True)
    assert props("init", "--tabel", "x").code == 2
    assert props().code == 2


@pytest.mark.parametrize(("seconds", "text"), [(0.079, "0.08 s"), (42.4, "42 s"), (300, "5 min"), (86400, "24 h"), (7 * 86400, "7 days")])
def test_times_are_said_as_people_say_them(seconds, text):
    assert output.span(seconds) == text


def test_text_that_would_drive_a_terminal_is_made_visible():
    assert output.safe("a\x1b[2Jb\r\u202ec\ud800\nd é [b]") == "a\\x1b[2Jb\\r\\u202ec\\ud800\nd é [b]"


def test_init_is_the_first_command_and_all_are_listed():
    assert next(iter(COMMANDS)) == INIT[0]
