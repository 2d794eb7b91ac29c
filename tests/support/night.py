"""A store as somebody on call might find it: states good and bad, made through the product or as others leave them."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import replace

import duckdb

from onerow.bootstrap import open_store
from onerow.config import load_settings
from onerow.core import leases
from onerow.core.incidents import Policy, Sighting, sighted
from onerow.core.results import ConsolidationResult, PartitionResult
from onerow.services.lastchecks import LastChecks
from onerow.services.leases import LEASE_PREFIX
from onerow.services.runs import RunEntry
from support.bench import PREDICTIONS, prediction, predictions

HOSTILE = '<img src=x onerror=alert(1)>"\'&/../%2f{{7*7}}'
"""A name that is allowed and would break out of HTML, attributes, paths and templates if it were let."""

BAD_ROWS = """
[tables.odds]
key = ["game"]
order_by = ["at"]
on_bad_row = "quarantine"

[tables.odds.columns]
game = "string"
odd = "float64"
at = "timestamp"
"""


class Night:
    """A configured folder with the tables ``predictions`` and ``odds``; nobody watches it unless that is asked for."""

    def __init__(self, folder, *, monitor="enabled = false"):
        self.folder = folder
        self.config = folder / "onerow.toml"
        self.config.write_text(
            f'warehouse = "duckdb:///w.duckdb"\nbusy_timeout = "2s"\n[monitor]\n{monitor}\n'
            f"{PREDICTIONS}{BAD_ROWS}",
            encoding="utf-8",
        )
        found = load_settings(self.config, {})
        self.settings = replace(
            found, serve=found.serve.model_copy(update={"requests_per_second": 10_000.0, "coordinator_port": 0})
        )
        with self.store() as store:
            store.init()

    def store(self):
        """Open a store on the folder."""
        return open_store(self.settings)

    def everything(self):
        """Have all of it: a week of consolidations, duplicates, locks alive and dead, what waits, what was put aside."""
        self.well()
        self.duplicate()
        with self.store() as store:
            self.journal(store)
            self.holds(store, "predictions/2026-01-10")
            self.holds(store, "predictions/2026-01-11", holder="merger@host-9:99", renewed_ago_s=700, lasts_s=30)
            self.waits(store, "2026-01-19")
            self.waits(store, HOSTILE)
            self.quarantines(store)
            self.incident(store)
            self.incident(
                store,
                kind="lock_wait",
                level="WARNING",
                what="The lock of predictions was waited for longer than 2 min.",
                command="onerow locks list",
                members={"2026-01-10": 0, "2026-01-11": 0},
            )

    # --- as it should be ----------------------------------------------------------------------

    def well(self):
        """Merge a batch, look at both tables: nothing is wrong."""
        with self.store() as store:
            self.merge(store, "2026-01-17")
            self.check(store)

    def merge(self, store, batch, *, rows=40, parts=3):
        """Stage a batch and consolidate it, journal included."""
        for number in range(parts):
            day = 10 + number % 2
            staged = predictions(rows, seed=f"{batch}-{number}", day=dt.date(2026, 1, day))
            staged = [{**row, "player_lookup": f"{row['player_lookup']}-{day}"} for row in staged]
            store.stage("predictions", staged, batch=batch, worker=f"worker-{number}")
        result = store.consolidate("predictions", batch)
        store.runs.record(result, elapsed_s=0.4, holder=store.holder, via="cli")
        return result

    def check(self, store):
        """Look at every table and keep what was found, as the monitor does."""
        for report in store.check(limit=200):
            assert LastChecks(store.ports.locks).record(report)

    # --- what goes wrong ------------------------------------------------------------------------

    def duplicate(self, count=3, *, player="lebronjames", check=True):
        """Have somebody else write rows that stand already; ``check``: and look."""
        with self.store() as store:
            store.stage("predictions", [prediction(player_lookup=f"{player}-{n}") for n in range(count)], batch="d")
            store.runs.record(store.consolidate("predictions", "d"), elapsed_s=0.1, holder=store.holder)
        with duckdb.connect(str(self.folder / "w.duckdb")) as connection:
            connection.execute(
                "insert into predictions select * replace (prediction_id || '-again' as prediction_id) from predictions "
                "where player_lookup like ?",
                [f"{player}-%"],
            )
        if check:
            with self.store() as store:
                self.check(store)

    def holds(self, store, scope, *, holder="merger@host-7:4711", renewed_ago_s=5, lasts_s=600, batch="2026-01-18"):
        """Have somebody hold a lock; renewed longer ago than it lasts: nobody is alive there."""
        key = f"{LEASE_PREFIX}{scope}"
        entry = store.ports.locks.read(key)
        now_us = entry.now_us - renewed_ago_s * 1_000_000
        claim = leases.Claim(str(scope), f"o-{holder}", holder, batch, lasts_s * 1_000_000)
        old = None if entry.value is None else leases.record_from_json(entry.value)
        granted = leases.grant(old, claim, now_us - 60_000_000)
        record = replace(leases.renewed(granted, now_us), renewals=6)
        assert store.ports.locks.swap(key, expected=entry.version, value=record.to_json()) is not None

    def waits(self, store, batch, *, rows=25, table="predictions"):
        """Stage a part that nobody consolidates."""
        store.stage(table, predictions(rows, seed=batch), batch=batch, worker="worker-9")

    def quarantines(self, store, *, batch="odds-1", worker="scraper"):
        """Hand in rows of which two break the contract."""
        rows = [{"game": f"g{n}", "odd": "much" if n < 2 else 1.5, "at": "2026-01-17T10:00:00Z"} for n in range(6)]
        return store.stage("odds", rows, batch=batch, worker=worker)

    def incident(self, store, **values):
        """Have the monitor see something."""
        seen = Sighting(
            **{
                "kind": "duplicates",
                "table": "predictions",
                "level": "CRITICAL",
                "what": "3 keys of predictions stand more than once.",
                "command": "onerow check --table predictions",
                "members": {"2026-01-10": 0},
            }
            | values
        )
        key = f"incident:{seen.fingerprint}"
        entry = store.ports.locks.read(key)
        record = sighted(None, seen, entry.now_us, receivers=frozenset({"slack"}), policy=Policy())
        assert store.ports.locks.swap(key, expected=entry.version, value=record.to_json()) is not None

    def journal(self, store, *, days=7, seed=5, bad=True):
        """Have consolidations of the days before in the journal."""
        chance = random.Random(seed)
        today = dt.datetime.now(dt.UTC).replace(hour=3, minute=0, second=0, microsecond=0)
        for ago in range(days, 0, -1):
            for number in range(chance.randrange(8, 16)):
                started = today - dt.timedelta(days=ago) + dt.timedelta(minutes=number * 31)
                write_run(store, started, chance, fails=bad and chance.random() < 0.06)


def write_run(store, started, chance, *, fails=False, batch=None):
    """Write a consolidation into the journal as if it had run then."""
    inserted, updated, same, older = (chance.randrange(top) for top in (9_000, 4_000, 2_500, 900))
    merge_s = chance.lognormvariate(0.5, 0.9)
    wait_s = chance.choice([0.0, 0.02, 0.05, chance.lognormvariate(1.5, 1.2)])
    done = PartitionResult(
        partition=started.date().isoformat(),
        status="committed",
        token=1,
        attempts=1,
        parts=15,
        rows_staged=inserted + updated + same + older,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_unchanged=same,
        rows_superseded=older,
        lock_wait_s=wait_s,
        merge_s=merge_s,
        verify_s=merge_s / 9,
    )
    error = None
    if fails:
        error = "2 keys would stand more than once after the merge; it was rolled back."
        done = replace(
            done, status="failed", error=error, error_kind="duplicates", rows_inserted=0, rows_updated=0,
            rows_unchanged=0, rows_superseded=0,
        )  # fmt: skip
    name = batch or f"{started:%Y-%m-%d-%H%M}"
    result = ConsolidationResult(
        f"c{chance.getrandbits(64):016x}", "predictions", name, done.status, (done,), 15, error, done.error_kind
    )
    elapsed_s = wait_s + merge_s * 1.2
    entry = RunEntry(result, started, started + dt.timedelta(seconds=elapsed_s), elapsed_s, "merger@host-7:4711", "cli")
    stamp = f"{started:%Y%m%dT%H%M%S.%fZ}"
    key = f"run:predictions/{stamp}-{result.consolidation}"
    assert store.ports.locks.swap(key, expected="", value=entry.to_json()) is not None
    return result.consolidation
