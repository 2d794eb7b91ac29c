"""Short torture tests with a fixed seed on every engine, and the controls: a protection that is off is missed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import duckdb
import pytest

from onerow.config import Settings, companion_locks, parse_url
from onerow.faces.cli.main import cli
from onerow.testing import chaos
from onerow.testing.chaos.plan import PREFIX

SHORT = {"lease_s": 0.6, "renew_every_s": 0.15, "fault_every_s": 0.6}
STALE = {**SHORT, "stumbles": "prepared", "unlocked": 0.0, "fault_every_s": 1e9, "pause_leases": (2.0, 2.5), "skewed": False}


def settings_of(url, folder):
    warehouse = parse_url(url, folder)
    return Settings(warehouse=warehouse, locks=companion_locks(warehouse), staging=folder / "staging", tables={})


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    """Journals of a run that is kept stay with the test."""
    (tmp_path / "journals").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "journals"))


@pytest.fixture
def duckdb_file(tmp_path):
    return settings_of("duckdb:///w.duckdb", tmp_path)


def assert_clean(report):
    """Everything held, and the run was worth its time."""
    assert report.clean, [str(violation) for violation in report.violations[:5]]
    assert report.numbers["committed"] > 0
    assert report.numbers["looks"] > 0
    assert report.faults["kill"] > 0
    assert report.faults["pause"] > 0


def violated(report):
    return {name for name, count in report.violated.items() if count}


def violated_by_one_of(settings, **options):
    """Return what the first of some seeds breaks that breaks anything: a slow machine may need a second one."""
    reports = (chaos.run(settings, chaos.Options(seed=seed, **options)) for seed in (3, 4, 5))
    return next((violated(report) for report in reports if not report.clean), set())


def test_a_run_on_a_duckdb_file_is_clean_and_leaves_nothing_behind(duckdb_file, tmp_path):
    report = chaos.run(duckdb_file, chaos.Options(seconds=6, processes=4, seed=4, **SHORT))
    assert_clean(report)
    assert set(report.not_applicable) == {"warehouse", "locks"}
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        assert connection.execute(f"select * from duckdb_tables() where starts_with(table_name, '{PREFIX}')").fetchall() == []
        for name in ("guards", "fences", "ledger", "history"):
            assert connection.execute(f"select count(*) from onerow.{name}").fetchall() == [(0,)]
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".tmp"]
    assert list((tmp_path / "journals").iterdir()) == []


def test_without_the_lock_nothing_breaks(duckdb_file):
    report = chaos.run(duckdb_file, chaos.Options(seconds=5, processes=4, seed=5, **SHORT, unlocked=1.0))
    assert_clean(report)
    assert report.numbers["lock_waits"] == 0


def test_control_without_the_token_a_stale_holder_commits(duckdb_file):
    """Worker 0 stands still in each of its consolidations until its lease is another's."""
    off = frozenset({"token", "lease_check"})
    assert violated_by_one_of(duckdb_file, seconds=7, processes=3, **STALE, without=off) == {"I4"}


def test_with_the_token_the_same_stale_holder_is_fenced_out(duckdb_file):
    off = frozenset({"lease_check"})
    report = chaos.run(duckdb_file, chaos.Options(seconds=6, processes=3, seed=3, **STALE, without=off))
    assert report.clean, report.violations[:5]
    assert report.numbers["fenced"] > 0


def test_control_a_plain_merge_lets_the_wrong_rows_win(duckdb_file):
    report = chaos.run(duckdb_file, chaos.Options(seconds=4, processes=4, seed=4, plain=True, **SHORT))
    assert report.numbers["wrong_winners"] > 0
    assert "I3" in violated(report)


def test_the_command_tells_what_held(tmp_path, monkeypatch):
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    Path("onerow.toml").write_text('warehouse = "duckdb:///w.duckdb"\n', encoding="utf-8")
    ended = CliRunner().invoke(cli, ["chaos", "--minutes", "0.06", "--processes", "2", "--seed", "6", "--output", "json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told["clean"] is True
    assert told["seed"] == 6
    assert set(told["invariants"]) >= {f"I{number}" for number in range(1, 9)}
    assert {"consolidations", "kills", "pauses", "fenced", "retries", "duplicates", "lost_rows", "wrong_winners"} <= set(told["numbers"])
    assert told["kept"] == {}
