"""Short torture tests with a fixed seed on every engine, and the controls: a protection that is off is missed."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from click.testing import CliRunner

from onerow.adapters.locks.firestore import FirestoreLocks
from onerow.config import Settings, companion_locks, parse_url
from onerow.errors import ConfigurationError
from onerow.faces.cli.main import cli
from onerow.testing import chaos
from onerow.testing.chaos.plan import PREFIX
from support import firestore

SHORT = {"seconds": 4, "processes": 4, "lease_s": 0.6, "renew_every_s": 0.15, "fault_every_s": 0.5}
STALE = {**SHORT, "processes": 3, "stumbles": "leased", "unlocked": 0.0, "fault_every_s": 1e9, "skewed": False}
OVERLAPPING = {**SHORT, "unlocked": 1.0, "linger_s": 0.1, "fault_every_s": 1e9, "accident": 0.0}


def settings_of(url, folder):
    warehouse = parse_url(url, folder)
    return Settings(warehouse=warehouse, locks=companion_locks(warehouse), staging=folder / "staging", tables={})


@pytest.fixture(autouse=True)
def journals(tmp_path, monkeypatch, postgres):
    """Journals of a run that is kept stay with the test; the server that all tests share stays where it is."""
    folder = tmp_path / "journals"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def duckdb_file(tmp_path):
    return settings_of("duckdb:///w.duckdb", tmp_path)


@pytest.fixture
def postgresql(database, tmp_path):
    return settings_of(database, tmp_path)


@pytest.fixture
def ducklake_postgresql(database, tmp_path):
    return settings_of(f"ducklake:{database}{'&' if '?' in database else '?'}data_path=lake", tmp_path)


def assert_clean(report):
    """Everything held, and the run was worth its time."""
    assert report.clean, [f"{violation.invariant}: {violation.message}" for violation in report.violations[:5]]
    assert report.numbers["committed"] > 0
    assert report.numbers["looks"] > 0
    assert (report.numbers["duplicates"], report.numbers["lost_rows"], report.numbers["wrong_winners"]) == (0, 0, 0)
    assert report.faults["kill"] > 0
    assert report.faults["pause"] > 0
    assert report.kept == {}


def violated(report):
    return {name for name, count in report.violated.items() if count}


def first_broken(settings, **options):
    """Return the first report of some seeds that broke anything: a slow machine may need a second one."""
    reports = [chaos.run(settings, chaos.Options(seed=3, **options))]
    for seed in (4, 5):
        if reports[-1].clean:
            reports.append(chaos.run(settings, chaos.Options(seed=seed, **options)))
    return reports[-1]


def test_a_duckdb_file_stays_clean_and_nothing_is_left_behind(duckdb_file, tmp_path, journals):
    report = chaos.run(duckdb_file, chaos.Options(seed=4, **SHORT))
    assert_clean(report)
    assert set(report.not_applicable) == {"warehouse", "locks"}
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        left = f"select table_name from information_schema.tables where starts_with(table_name, '{PREFIX}')"
        assert connection.execute(left).fetchall() == []
        for name in ("guards", "fences", "ledger", "history"):
            assert connection.execute(f"select count(*) from onerow.{name}").fetchall() == [(0,)]
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".tmp"]
    assert list(journals.iterdir()) == []


def test_a_ducklake_on_a_sqlite_catalog_stays_clean(tmp_path):
    settings = settings_of("ducklake:sqlite:///catalog.sqlite?data_path=lake", tmp_path)
    assert_clean(chaos.run(settings, chaos.Options(seed=4, **SHORT)))


def test_postgresql_stays_clean_though_its_lines_are_cut(postgresql, database, journals):
    report = chaos.run(postgresql, chaos.Options(seed=4, **SHORT))
    assert_clean(report)
    assert report.not_applicable == {}
    assert {"cut_warehouse", "cut_locks", "hang_warehouse", "hang_locks"} <= set(report.faults)
    with psycopg.connect(database) as connection:
        left = "select table_name from information_schema.tables where table_name like %s"
        assert connection.execute(left, [f"%{PREFIX}%"]).fetchall() == []
        for name in ("guards", "fences", "ledger", "history", "parts"):
            assert connection.execute(f"select count(*) from onerow.{name}").fetchall() == [(0,)]
    assert list(journals.iterdir()) == []


def test_a_ducklake_on_a_postgresql_catalog_stays_clean_though_its_lines_are_cut(ducklake_postgresql):
    report = chaos.run(ducklake_postgresql, chaos.Options(seed=4, **SHORT))
    assert_clean(report)
    assert {"cut_warehouse", "cut_locks", "hang_warehouse", "hang_locks"} <= set(report.faults)


@pytest.mark.parametrize("engine", ["postgresql", "ducklake_postgresql"])
def test_locks_in_firestore_stay_clean_though_their_line_is_cut(engine, request, tmp_path):
    place = firestore.new_place()
    locks = parse_url(f"firestore://{place.project}?emulator={place.emulator}", tmp_path)
    report = chaos.run(replace(request.getfixturevalue(engine), locks=locks), chaos.Options(seed=4, **SHORT))
    assert_clean(report)
    assert report.not_applicable == {}
    assert {"cut_locks", "hang_locks"} <= set(report.faults)
    store = FirestoreLocks(place)
    assert store.entries("") == [], "nothing is left behind"
    store.close()


def test_without_the_lock_nothing_breaks(postgresql):
    report = chaos.run(postgresql, chaos.Options(seed=5, **SHORT, unlocked=1.0))
    assert_clean(report)
    assert report.numbers["lock_waits"] == 0


@pytest.mark.parametrize("engine", ["postgresql", "ducklake_postgresql"])
def test_control_without_the_guard_two_that_overlap_duplicate(engine, request):
    """No lock either: it would keep most of them apart."""
    report = first_broken(request.getfixturevalue(engine), **OVERLAPPING, without=frozenset({"guard"}))
    assert violated(report) >= {"I1"}
    assert report.numbers["duplicates"] > 0


def test_with_the_guard_the_same_overlap_harms_nobody(postgresql):
    report = chaos.run(postgresql, chaos.Options(seed=3, **OVERLAPPING))
    assert report.clean, report.violations[:5]


def test_control_without_the_token_a_stale_holder_commits(postgresql):
    """Worker 0 stands still in each of its consolidations until its lease is another's, and does not notice."""
    report = first_broken(postgresql, **STALE, without=frozenset({"token", "lease_check"}))
    assert violated(report) == {"I4"}


def test_with_the_token_the_same_stale_holder_is_fenced_out(postgresql):
    report = chaos.run(postgresql, chaos.Options(seed=3, **STALE, without=frozenset({"lease_check"})))
    assert report.clean, report.violations[:5]
    assert report.errors["stale_lease"] > 0


def test_control_a_plain_merge_duplicates_and_lets_the_wrong_rows_win(postgresql):
    found, numbers = set(), Counter()
    for seed in (3, 4, 5, 6):  # a slow machine may need more than one
        report = chaos.run(postgresql, chaos.Options(seed=seed, **SHORT, plain=True))
        found |= violated(report)
        numbers += Counter({name: report.numbers[name] for name in ("duplicates", "wrong_winners")})
        if found >= {"I1", "I3"}:
            break
    assert found >= {"I1", "I3"}
    assert numbers["duplicates"] > 0
    assert numbers["wrong_winners"] > 0


def test_an_engine_that_it_does_not_know_is_refused(tmp_path):
    url = parse_url("bigquery://project/dataset", tmp_path)
    settings = Settings(warehouse=url, locks=url, staging=tmp_path, tables={})
    with pytest.raises(ConfigurationError, match="cannot look into"):
        chaos.run(settings, chaos.Options(seed=1, **SHORT))


def test_the_command_tells_what_held(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("onerow.toml").write_text('warehouse = "duckdb:///w.duckdb"\n', encoding="utf-8")
    ended = CliRunner().invoke(cli, ["chaos", "--minutes", "0.05", "--processes", "2", "--seed", "6", "--output", "json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told["clean"] is True
    assert told["seed"] == 6
    assert set(told["invariants"]) >= {f"I{number}" for number in range(1, 9)}
    assert {
        "consolidations", "kills", "pauses", "fenced", "retries", "duplicates", "lost_rows", "wrong_winners"
    } <= set(told["numbers"])  # fmt: skip
    assert told["kept"] == {}
