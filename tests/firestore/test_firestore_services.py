"""Coordinators and monitors whose register is in Firestore, over a DuckDB file and over BigQuery's emulator."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal

import duckdb
import pytest

import onerow
from onerow.adapters.clock import SystemClock
from onerow.adapters.notify.webhook import Webhook
from onerow.core.incidents import Policy
from onerow.services.monitor import Monitor, MonitorSettings
from onerow.services.sightings import Limits
from support.coordinators import Coordinating
from support.receiver import Receiver

PATIENCE_S = 120.0
DAY = dt.date(2026, 1, 17)
NOON = dt.datetime(2026, 1, 17, 12, tzinfo=dt.UTC)
TABLE = """
[tables.predictions]
key      = ["player", "line"]
partition = "game_date"
order_by = ["created_at"]

[tables.predictions.columns]
game_date  = "date"
player     = "string"
line       = "decimal(6,2)"
created_at = "timestamp"
"""


def configured(folder, warehouse, place):
    config = folder / "onerow.toml"
    locks = f"firestore://{place.project}?emulator={place.emulator}"
    config.write_text(f'warehouse = "{warehouse}"\nlocks = "{locks}"\n{TABLE}', encoding="utf-8")
    with onerow.open(config) as store:
        store.init()
    return config


def rows(*players, minute=0):
    return [
        {
            "game_date": DAY,
            "player": player,
            "line": Decimal("24.50"),
            "created_at": NOON + dt.timedelta(minutes=minute),
        }
        for player in players
    ]


def until_done(requests, *batches):
    deadline_s = time.monotonic() + PATIENCE_S
    while unfinished := [
        found.to_json() for batch in batches if (found := requests.status("predictions", batch)).state != "done"
    ]:
        assert time.monotonic() < deadline_s, unfinished
        time.sleep(0.05)


def share_batches(config):
    """Have two coordinators consolidate three batches of two parts each, with keys in common."""
    first, second = (Coordinating(config, holder=name).start() for name in ("first", "second"))
    batches = ["b0", "b1", "b2"]
    try:
        for batch in batches:
            first.requests.open("predictions", batch, expected_workers=2)
            again = second.requests.open("predictions", batch, expected_workers=2)
            assert (again.state, again.expected_workers) == ("open", 2)
        with onerow.open(config) as store:
            for minute, batch in enumerate(batches):
                for worker in ("w1", "w2"):
                    part = store.stage("predictions", rows("jokic", worker, minute=minute), batch=batch, worker=worker)
                    second.requests.report("predictions", batch, part.part_id)
        until_done(first.requests, *batches)
    finally:
        assert [one.drain() for one in (first, second)] == [True, True]
    with onerow.open(config) as store:
        (found,) = store.check("predictions")
        assert found.clean
        assert found.result.rows == 3
        assert all(lock.state == "free" for lock in store.locks.locks())


def test_coordinators_share_batches_by_documents(tmp_path, place):
    share_batches(configured(tmp_path, "duckdb:///w.duckdb", place))


def test_coordinators_share_batches_over_bigquery(tmp_path, place, bigquery_url, monkeypatch):
    monkeypatch.delenv("ONEROW_LOCKS")
    share_batches(configured(tmp_path, bigquery_url, place))


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.die()


def test_monitors_share_incidents_by_documents(tmp_path, place, receiver):
    config = configured(tmp_path, "duckdb:///w.duckdb", place)

    def monitor(name):
        return Monitor(
            settings=MonitorSettings(0.0, 10_000 * 86_400.0, Limits()),
            notifiers=[Webhook(receiver.url, timeout_s=5.0)],
            policy=Policy(retry_us=0, max_retry_us=0),
            clock=SystemClock(),
            who=name,
        )

    monitors = [monitor("one"), monitor("other")]
    with onerow.open(config) as store:
        store.stage("predictions", rows("jokic"), batch="b", worker="w")
        assert store.consolidate("predictions", "b").success
        with duckdb.connect(tmp_path / "w.duckdb") as foreign:
            foreign.execute("insert into predictions select * from predictions")
        assert [one.look(store).exit_code for one in monitors * 2] == [3] * 4
        store.repair("predictions")
        assert [one.look(store).exit_code for one in monitors] == [0, 0]
    for one in monitors:
        one.close()
    told = [(body["event"], body["kind"]) for body in receiver.taken if body["kind"] == "duplicates"]
    assert told == [("opened", "duplicates"), ("resolved", "duplicates")]
