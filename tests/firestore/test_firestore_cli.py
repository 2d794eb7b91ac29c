"""The command line with locks in Firestore: consolidating beside an old program, looking, force-release, doctor."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from onerow.faces.cli.main import cli
from support.incident_lock import IncidentLock

TABLE = """
[tables.predictions]
key           = ["player", "line"]
partition     = "game_date"
order_by      = ["created_at"]
lock_document = "consolidation_locks/consolidation_{partition}"

[tables.predictions.columns]
game_date  = "date"
player     = "string"
line       = "decimal(6,2)"
created_at = "timestamp"
"""
ROWS = """game_date,player,line,created_at
2026-01-17,jokic,24.5,2026-01-17T12:00:00Z
2026-01-18,murray,19.5,2026-01-17T12:00:00Z
"""
DATE = "2026-01-17"


@pytest.fixture
def onerow(place, tmp_path, monkeypatch):
    """Run a command in a folder with a DuckDB file, whose locks are in the test's database."""
    monkeypatch.chdir(tmp_path)
    locks = f"firestore://{place.project}?emulator={place.emulator}"
    (tmp_path / "onerow.toml").write_text(f'warehouse = "duckdb:///w.duckdb"\nlocks = "{locks}"\n{TABLE}')
    (tmp_path / "rows.csv").write_text(ROWS)

    def run(*words, code=0):
        ended = CliRunner().invoke(cli, list(words))
        assert ended.exit_code == code, (words, ended.output, ended.exception)
        return ended

    run("init")
    return run


@pytest.fixture
def old(client):
    return IncidentLock(client, holder_id="old worker")


def told(ended):
    return json.loads(ended.stdout)


def test_a_consolidation_waits_for_an_old_program_and_is_the_one_that_goes_on(onerow, old):
    assert old.try_acquire(DATE, "b-old")
    onerow("stage", "rows.csv", "--table", "predictions", "--batch", "b")
    ended = onerow("consolidate", "--table", "predictions", "--batch", "b", "--max-wait", "300ms", "--output", "json", code=4)
    statuses = {one["partition"]: one["status"] for one in told(ended)["partitions"]}
    assert statuses == {DATE: "lock_timeout", "2026-01-18": "committed"}
    old.release(DATE)
    done = told(onerow("consolidate", "--table", "predictions", "--batch", "b", "--output", "json"))
    assert done["status"] == "committed"
    assert {one["partition"]: one["status"] for one in done["partitions"]}[DATE] == "committed"
    assert not old.document(DATE).get().exists


def test_an_old_programs_lock_is_shown_and_can_be_taken_away(onerow, old):
    assert old.try_acquire(DATE, "b-old")
    (lock,) = told(onerow("locks", "list", "--output", "json"))
    assert (lock["scope"], lock["holder"], lock["batch"]) == (f"predictions/{DATE}", "old worker", "b-old")
    refused = onerow("locks", "force-release", f"predictions/{DATE}", "--reason", "its pod is gone", code=2)
    assert "old worker" in refused.output
    onerow("locks", "force-release", f"predictions/{DATE}", "--reason", "its pod is gone", "--force")
    assert told(onerow("locks", "list", "--output", "json")) == []
    onerow("load", "rows.csv", "--table", "predictions")


def test_doctor_tells_what_is_there(onerow):
    checks = {check["subject"]: check for check in told(onerow("doctor", "--output", "json"))["checks"]}
    assert all(check["ok"] for check in checks.values())
    assert "firestore:" in checks["locks"]["text"]
    assert checks["lock writes"]["text"] == "an entry was made, changed and deleted"
    assert checks["lock documents of predictions"]["text"] == "consolidation_locks/consolidation_{partition}"


@pytest.mark.parametrize("permission", ["get", "list", "create", "update", "delete"])
def test_doctor_names_the_permission_and_the_role_that_are_missing(onerow, control, permission):
    control.set(denied=[f"datastore.entities.{permission}"])
    bad = [check for check in told(onerow("doctor", "--output", "json", code=1))["checks"] if not check["ok"]]
    assert len(bad) == 1
    assert bad[0]["subject"] == ("locks" if permission in {"get", "list"} else "lock writes")
    assert f"datastore.entities.{permission}" in bad[0]["text"]
    assert "roles/datastore.user" in bad[0]["text"]


def test_doctor_names_a_database_that_cannot_be_a_lock_store(onerow, control):
    control.set(kind="datastore")
    (bad,) = [check for check in told(onerow("doctor", "--output", "json", code=1))["checks"] if not check["ok"]]
    assert "Native mode" in bad["text"]


def test_without_the_package_the_extra_is_named(tmp_path):
    """The driver is imported by who needs it only, and one that is missing is named with what to install."""
    program = (
        "import sys; sys.modules['google.cloud.firestore_v1'] = None\n"
        "import onerow.bootstrap as bootstrap\n"
        "from onerow.config import parse_url\n"
        "from pathlib import Path\n"
        "bootstrap.open_locks(parse_url('sqlite:///l.sqlite', Path('.'))).close()\n"
        "try: bootstrap.open_locks(parse_url('firestore://p', Path('.')))\n"
        "except bootstrap.ConfigurationError as error: print(error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Install it with: pip install 'onerow[firestore]'"
