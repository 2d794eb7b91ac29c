"""The embedded parts alone: a lease on SQLite, its hand-over among many waiters, and staging in rows a second.

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
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

import onerow
from benchmarks import data, timing
from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.adapters.locks.sqlite import SqliteLocks
from onerow.core.partitions import Scope
from onerow.services.leases import Leases, LeaseSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.synchronize import Barrier

    from onerow.ports.lockstore import Entry

WAITERS: Final = 20
HOLD_S: Final = 0.02
SCOPE: Final = Scope("predictions", "2026-01-11")


class CountingLocks(SqliteLocks):
    """Counts the round trips of reads and swaps."""

    trips = 0

    def read(self, key: str) -> Entry:
        self.trips += 1
        return super().read(key)

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        self.trips += 1
        return super().swap(key, expected=expected, value=value)


def leases(locks: SqliteLocks) -> Leases:
    """Return leases on a lock store, with the default settings."""
    return Leases(store=locks, clock=SystemClock(), background=Threads(), ids=SystemIds(), settings=LeaseSettings())


def acquire_and_release(folder: Path, times: int) -> dict[str, Any]:
    """Return what taking and giving back a free lease costs."""
    locks = CountingLocks(folder / "free.sqlite")
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


def _wait_and_hold(path: Path, ready: Barrier, told: Any) -> None:
    desk = leases(SqliteLocks(path))
    ready.wait()
    with desk.hold([SCOPE], holder="benchmark", batch="b", max_wait_s=120.0):
        had_s = time.monotonic()
        time.sleep(HOLD_S)
        left_s = time.monotonic()
    told.put((had_s, left_s))


def hand_over(folder: Path, waiters: int) -> dict[str, Any]:
    """Return how long a lease is free between two of many processes that all want it."""
    context = multiprocessing.get_context("fork")
    ready, told = context.Barrier(waiters), context.Queue()
    path = folder / "wanted.sqlite"
    SqliteLocks(path).identity()
    processes = [context.Process(target=_wait_and_hold, args=(path, ready, told)) for _ in range(waiters)]
    for process in processes:
        process.start()
    held = sorted(told.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    gaps_ms = [
        (later[0] - earlier[1]) * timing.MILLISECONDS for earlier, later in pairwise(held)
    ]
    return {"waiters": waiters, "ms": timing.spread(gaps_ms, 2), "max_ms": round(max(gaps_ms), 2)}


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
    with tempfile.TemporaryDirectory(dir=data.RESULTS) as name:
        folder = Path(name)
        lease = acquire_and_release(folder, 50 if quick else 300)
        handed = hand_over(folder, WAITERS)
        staged = staging(folder, 20_000 if quick else 100_000, 2 if quick else 5)
    table = Table(title="median (quartiles)")
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_row(f"lease, acquire and release, ms; {lease['round_trips']:g} round trips", _text(lease["ms"]))
    table.add_row(f"hand-over among {WAITERS} processes, ms; longest {handed['max_ms']}", _text(handed["ms"]))
    for source, speed in staged.items():
        table.add_row(f"staging a {source}, rows/s", _text(speed))
    console.print(table)
    moment = dt.datetime.now(dt.UTC)
    target = data.RESULTS / f"embedded-{moment:%Y%m%d-%H%M%S}.json"
    about = {"at": moment.isoformat(timespec="seconds"), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    target.write_text(
        json.dumps({**about, "lease": lease, "hand_over": handed, "staging": staged}, indent=1), encoding="utf-8"
    )
    console.print(f"written to {target}")


def _text(found: Mapping[str, float]) -> str:
    return f"{found['median']:,} ({found['q1']:,}, {found['q3']:,})"


if __name__ == "__main__":
    main()
