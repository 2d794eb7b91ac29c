"""A folder with a small file of player props, and the command line over it, in this process and in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onerow.faces.cli.main import cli

SOURCE = Path(__file__).parents[2] / "src"

COLUMNS = (
    "prediction_id,game_date,game_id,player_lookup,system_id,"
    "current_points_line,predicted_points,confidence,created_at"
)
ROWS = (
    "p1,2026-01-11,0022500553,lukadoncic,xgb,24.5,27.1,0.71,2026-01-11T01:06:34Z",
    "p2,2026-01-11,0022500553,lukadoncic,xgb,25.0,27.1,0.68,2026-01-11T01:06:34Z",
    "p3,2026-01-11,0022500553,lebronjames,xgb,22.5,21.0,0.60,2026-01-11T01:06:34Z",
    "p4,2026-01-12,0022500560,jokić,xgb,29.5,31.2,,2026-01-11T01:06:35Z",
    "p5,2026-01-11,0022500553,lebronjames,xgb,22.5,21.4,0.62,2026-01-11T02:06:34Z",
)
KEY = "game_id,player_lookup,system_id,current_points_line"
INIT = (
    "init", "props.csv", "--table", "props", "--key", KEY,
    "--order-by", "created_at,prediction_id", "--partition", "game_date", "--id", "prediction_id",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def csv_text(*rows: str) -> str:
    return "\n".join([COLUMNS, *rows]) + "\n"


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ONEROW_", "COV_"))}
    return {**kept, "PYTHONPATH": str(SOURCE), "PYTHONUTF8": "1", **more}


class CommandLine:
    """The command line in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Ended:
        """Run a command in this process."""
        result = CliRunner().invoke(cli, list(arguments), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    def ok(self, *arguments: str) -> Ended:
        """Run a command in this process that must end well."""
        ended = self(*arguments)
        assert ended.code == 0, ended
        return ended

    @contextmanager
    def running(self, *arguments: str, **options: Any):
        """Have a command running in another process; it is ended with the block."""
        options.setdefault("env", environment())
        process = subprocess.Popen(
            [sys.executable, "-m", "onerow.faces.cli.main", *arguments],
            cwd=self.folder, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        try:
            with process:
                yield process
                process.kill()
        except BaseException:
            process.kill()
            raise

    def shell(self, *arguments: str, stdin: str | None = None, **options: Any) -> Ended:
        """Run a command in another process."""
        with self.running(*arguments, **options) as process:
            out, err = process.communicate(stdin, timeout=120)
        return Ended(process.returncode, out, err)

    def write(self, name: str, text: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    def staged(self) -> list[Any]:
        return self.ok("batches", "list", "--output", "json").json

    def edit_config(self, old: str, new: str) -> None:
        path = self.folder / "onerow.toml"
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        import duckdb

        with duckdb.connect(self.folder / "props.duckdb") as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def onerow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line in an empty folder with ``props.csv``."""
    monkeypatch.chdir(tmp_path)
    for name in ("ONEROW_CONFIG", "ONEROW_WAREHOUSE", "ONEROW_LOCKS", "ONEROW_STAGING"):
        monkeypatch.delenv(name, raising=False)
    found = CommandLine(tmp_path)
    found.write("props.csv", csv_text(*ROWS))
    return found


@pytest.fixture
def props(onerow: CommandLine) -> CommandLine:
    """The command line in a folder with the table ``props``, created and empty."""
    onerow.ok(*INIT)
    return onerow


@contextmanager
def in_background(folder: Path, script: str, *arguments: str):
    """Run a script that says "ready" and then goes on until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=folder, text=True, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


HOLD_LOCK = """
import sys, onerow
with onerow.open() as store, store.lock("props", sys.argv[1], batch="the-other"):
    print("ready", flush=True)
    sys.stdin.read()
"""

HOLD_FILE = """
import sys, duckdb
connection = duckdb.connect("props.duckdb")
print("ready", flush=True)
sys.stdin.read()
"""


CONFIG_ROWS = csv_text(*(ROWS[number % 5].replace("xgb", f"s{number}") for number in range(5000)))
