"""Real processes on one lake: installing at once, and consolidating the same new keys at once without a lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import onerow
from conformance.backends import DuckLakePostgresHarness, DuckLakeSqliteHarness

CONFIG = """
warehouse = "ducklake:{catalog}?data_path={data}"
locks = "sqlite:///locks.sqlite"

[tables.props]
key = ["player"]
order_by = ["seen"]
columns = {{ player = "string", seen = "int64" }}
"""

INIT = "import onerow\nwith onerow.open() as store: store.init()"
LOAD = """
import sys, onerow
name = sys.argv[1]
with onerow.open() as store:
    store.stage("props", [{"player": f"p{i}", "seen": int(name)} for i in range(50)], batch=name)
    print("ready", flush=True)
    sys.stdin.readline()
    result = store.consolidate("props", name, use_lock=False)
    assert result.status == "committed", result
"""


def start(folder, code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(onerow.__file__).parents[1]), "PATH": "", "HOME": str(Path.home())},
    )  # fmt: skip


def ended(process, said=""):
    _, errors = process.communicate(said, timeout=120)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("kind", [DuckLakeSqliteHarness, DuckLakePostgresHarness], ids=["sqlite", "postgresql"])
def test_init_at_once_leaves_one_guard_and_loads_at_once_leave_one_row_a_key(tmp_path, kind):
    harness = kind(tmp_path)
    catalog = f"sqlite:///{harness.catalog}" if isinstance(harness.catalog, Path) else harness.catalog.split("?")[0]
    (tmp_path / "onerow.toml").write_text(CONFIG.format(catalog=catalog, data=harness.data_path))
    for process in [start(tmp_path, INIT) for _ in range(2)]:
        ended(process)
    loads = [start(tmp_path, LOAD, str(number)) for number in range(3)]
    for process in loads:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in loads:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in loads:
        ended(process)
    with harness.connection() as connection:
        guards = connection.execute("select count(*), max(attempt) from onerow_db.onerow.guards_props").fetchall()
        rows = connection.execute(
            "select count(*), count(distinct player), min(seen) from onerow_db.main.props"
        ).fetchall()
    assert guards == [(1, 3)]
    assert rows == [(50, 50, 2)]
    harness.close()
