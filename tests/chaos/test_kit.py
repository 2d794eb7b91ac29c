"""The parts of the torture test: its plan is the seed's, its journals survive a kill, its lines lead where they should."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from onerow.config import Settings, companion_locks, firestore_place, parse_url
from onerow.errors import UsageError
from onerow.testing.chaos import Options, journal
from onerow.testing.chaos.bare import key_of, order_of
from onerow.testing.chaos.engines import bare_of
from onerow.testing.chaos.faults import SkewedClock
from onerow.testing.chaos.lines import Lines, rewritten, server_of
from onerow.testing.chaos.nursery import Nursery
from onerow.testing.chaos.plan import COLUMNS, PREFIX, draw_rows, row_of, schedule, scratch_spec, step

OPTIONS = Options(seconds=60, processes=5, seed=11)


def test_one_seed_gives_one_plan():
    again = Options(seconds=60, processes=5, seed=11)
    other = Options(seconds=60, processes=5, seed=12)
    for worker in range(5):
        steps = [step(OPTIONS, worker, number) for number in range(200)]
        assert steps == [step(again, worker, number) for number in range(200)]
        assert steps != [step(other, worker, number) for number in range(200)]
    assert draw_rows(OPTIONS, "w0-00001", "b00000") == draw_rows(again, "w0-00001", "b00000")
    kinds = ["kill", "pause", "force_release"]
    assert schedule(OPTIONS, kinds) == schedule(again, kinds)
    assert schedule(OPTIONS, kinds) != schedule(other, kinds)


def test_the_plan_has_everything_in_it():
    steps = [step(OPTIONS, worker, number) for worker in range(5) for number in range(300)]
    consolidations = [one for one in steps if not one.part]
    assert 0.4 < len(consolidations) / len(steps) < 0.5
    assert {one.use_lock for one in consolidations} == {True, False}
    assert {one.times for one in consolidations} == {1, 2}
    assert {one.accident for one in consolidations if one.accident} == {
        (point, fate) for point in ("leased", "prepared", "commit", "applied") for fate in ("stop", "kill")
    }
    assert any(one.again for one in steps)
    assert len({one.part for one in steps if one.part}) == len(steps) - len(consolidations)
    faults = Counter(fault.kind for fault in schedule(OPTIONS, ["kill", "pause", "force_release"]))
    assert min(faults.values()) >= max(faults.values()) - 1 > 5


def test_batches_share_keys_and_bring_new_ones():
    keys = {
        batch: {key_of(tuple(row_of(draw).values())) for worker in range(20) for draw in draw_rows(OPTIONS, f"w{worker}-{batch}", batch)}
        for batch in ("b00000", "b00001", "b00009")
    }
    assert keys["b00000"] & keys["b00001"]
    assert keys["b00001"] - keys["b00000"]
    assert not keys["b00000"] & keys["b00009"]


def test_rows_of_the_scratch_table_fit_its_spec():
    spec = scratch_spec(PREFIX + "x")
    row = row_of(("w0-1-0", 0, 7, 100))
    assert tuple(row) == tuple(COLUMNS) == spec.column_names
    values = tuple(row.values())
    assert key_of(values) == tuple(row[name] for name in spec.identity)
    assert order_of(values)[:2] == (row["created_at"], "w0-1-0")


def test_only_scratch_tables_are_ever_dropped(tmp_path):
    url = parse_url("duckdb:///w.duckdb", tmp_path)
    settings = Settings(warehouse=url, locks=companion_locks(url), staging=tmp_path, tables={})
    with pytest.raises(UsageError, match="no scratch table"):
        bare_of(settings, "predictions")


def test_a_journal_goes_on_behind_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "worker-0.jsonl"
    journal.Journal(path).write("step", n=1)
    with path.open("ab") as file:
        file.write(b'{"e":"step","n":')
    journal.Journal(path).write("step", n=2)
    assert [event["n"] for event in journal.read(path)] == [1, 2]
    assert list(journal.read(tmp_path / "nobody.jsonl")) == []


def test_a_clock_that_is_wrong():
    clock = SkewedClock(ahead_s=3600, rate=0.5)
    began_s = clock.monotonic_s()
    clock.sleep_s(0.05)
    assert 0.02 < clock.monotonic_s() - began_s < 0.045
    ahead = clock.utc_now() - dt.datetime.now(dt.UTC)
    assert dt.timedelta(minutes=59) < ahead < dt.timedelta(minutes=61)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("postgresql://me:pw@db.example:6432/nba", ("db.example", 6432)),
        ("postgresql://db.example/nba", ("db.example", 5432)),
        ("postgresql:///nba?host=/run/pg&port=6432", "/run/pg/.s.PGSQL.6432"),
        ("postgresql://%2Frun%2Fpg/nba", "/run/pg/.s.PGSQL.5432"),
        ("postgresql:///nba", None),
        ("postgresql:///nba?host=a,b", None),
    ],
)
def test_the_server_of_a_url(url, server):
    assert server_of(url) == server


def test_a_url_leads_through_the_proxy():
    assert rewritten("postgresql://me:p%40w@db:6432/nba?sslmode=disable", 7) == (
        "postgresql://me:p%40w@127.0.0.1:7/nba?sslmode=disable"
    )
    assert rewritten("postgresql:///nba?host=/run/pg&user=me", 7) == "postgresql://127.0.0.1:7/nba?user=me"


def test_files_have_no_lines_and_that_is_said(tmp_path):
    url = parse_url("duckdb:///w.duckdb", tmp_path)
    with Lines(Settings(warehouse=url, locks=companion_locks(url), staging=tmp_path, tables={})) as lines:
        assert lines.kinds == []
        assert set(lines.not_applicable) == {"warehouse", "locks"}
        assert lines.settings.warehouse == url


def test_servers_have_lines_of_their_own(tmp_path):
    url = parse_url("postgresql://me:pw@127.0.0.1:1/nba", tmp_path)
    with Lines(Settings(warehouse=url, locks=url, staging=tmp_path, tables={})) as lines:
        assert lines.not_applicable == {}
        assert len(lines.kinds) == 4
        assert len({url.secret, lines.settings.warehouse.secret, lines.settings.locks.secret}) == 3


def test_firestore_has_a_line_where_it_is_an_emulator(tmp_path, monkeypatch):
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    warehouse = parse_url("duckdb:///w.duckdb", tmp_path)

    def lines(url):
        return Lines(Settings(warehouse=warehouse, locks=parse_url(url, tmp_path), staging=tmp_path, tables={}))

    with lines("firestore://p/d?collection=c") as found:
        assert "real service" in found.not_applicable["locks"]
    with lines("firestore://p/d?collection=c&emulator=127.0.0.1:1") as found:
        assert found.kinds == ["cut_locks", "hang_locks"]
        place = firestore_place(found.settings.locks)
        assert (place.project, place.database, place.collection) == ("p", "d", "c")
        assert place.emulator not in {"", "127.0.0.1:1"}
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "localhost:1")
    with lines("firestore://p") as found:
        assert firestore_place(found.settings.locks).emulator.startswith("127.0.0.1:")


def write_and_wait(path):
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    signal.pause()


def fail(path):
    raise RuntimeError(path)


def test_the_nursery_starts_stops_and_kills(tmp_path):
    log = tmp_path / "log"
    with Nursery(log) as nursery:
        child = nursery.start(write_and_wait, str(tmp_path / "pid"))
        nursery.signal(child, signal.SIGSTOP)
        until(nursery, lambda: child.stopped)
        nursery.signal(child, signal.SIGCONT)
        until(nursery, lambda: not child.stopped)
        nursery.signal(child, signal.SIGKILL)
        until(nursery, lambda: child.exit_code is not None)
        assert child.exit_code == -signal.SIGKILL
        defect = nursery.start(fail, "told")
        until(nursery, lambda: defect.exit_code is not None)
        assert defect.exit_code == 1
        left = nursery.start(write_and_wait, str(tmp_path / "left"))
        until(nursery, (tmp_path / "left").exists)
    assert "RuntimeError: told" in log.read_text(encoding="utf-8")
    deadline_s = time.monotonic() + 10
    while running(left.pid):  # it was killed; on a busy machine the kernel takes its time
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def until(nursery, wanted):
    for _ in range(500):
        if wanted():
            return
        nursery.watch(0.02)
    raise AssertionError("it did not happen")


def running(pid):
    """Say whether there is such a process that is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
