"""The whole product path on a DuckDB file against the bare engine, paired, in one process.

``python -m benchmarks.duckdb_merge`` opens the store, consolidates (lease, turn, ledger, SHA-256 of the parts, merge,
verification, clean-up) and closes it; the other sides do the same merge with plain statements, without any of that
(``benchmarks.bare``). Each repeat stages a new batch of equal make-up, half of whose keys are in the table, and every
side merges its files into a file of equal bytes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
from rich.console import Console
from rich.table import Table

import onerow
from benchmarks import bare, data, timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIN_LIMIT_S: Final = 3.0
GIVE_UP: Final = 2.5
TRIES: Final = 2
GROWTH_LIMIT: Final = 1.3
KIB_PER_MIB: Final = 1024


@dataclass(frozen=True)
class Workload:
    """A batch, how often it is repeated, and what is promised of it."""

    name: str
    rows: int
    dates: int
    repeats: int
    quick_repeats: int
    max_more_ms: float | None = None
    max_ratio: float | None = None
    growth: bool = False
    repeated: int = 0

    def batch(self, base: data.Base) -> data.Batch:
        """Return the batch's make-up for a table."""
        count = len(base.dates) - 1  # the last one is a filler
        if base.name == "small":
            usual, large = (date for date, _ in base.dates)
        else:
            usual, large = data.usual_date(count), data.large_date(count)
        if self.dates > 1:
            return data.Batch(self.rows, data.many_dates(count, self.dates))
        one = large if self.rows // 2 > data.DATE_ROWS // 2 else usual
        return data.Batch(self.rows, (one,), self.repeated)

    def verdict(self, more_ms: float, ratio: float) -> str:
        """Return PASS or MISS."""
        kept = more_ms <= self.max_more_ms if self.max_more_ms is not None else ratio <= (self.max_ratio or ratio)
        return "PASS" if kept else "MISS"

    @property
    def goal(self) -> str:
        """What is promised, for people."""
        return f"+{self.max_more_ms:.0f} ms" if self.max_more_ms is not None else f"{self.max_ratio}x"


WORKLOADS: Final = (
    Workload("587 rows", 587, 1, 15, 5, max_more_ms=60.0, growth=True, repeated=5),
    Workload("100,000 rows", 100_000, 1, 7, 3, max_ratio=1.3, growth=True),
    Workload("1,000,000 rows, 37 dates", 1_000_000, 37, 5, 0, max_ratio=1.1),
)


def consolidate(base: data.Base, batch: str) -> None:
    """Open the store, consolidate, close."""
    with onerow.open(base.config) as store:
        result = store.consolidate(data.TABLE, batch)
    if result.status != "committed":
        raise RuntimeError(f"batch {batch}: {result.status}: {result.error}")


def choose(base: data.Base, batch: data.Batch, files: Sequence[str], ways: dict[str, bare.Bare]) -> str:
    """Return the fastest of some bare ways; one that takes much longer than the best so far is given up."""
    best_ms: dict[str, float] = {}
    left = dict(ways)
    for _ in range(TRIES):  # in turns, so that a busy moment of the machine does not decide
        for name, way in list(left.items()):
            limit_s = max(MIN_LIMIT_S, GIVE_UP * min(best_ms.values()) / timing.MILLISECONDS) if best_ms else 600.0
            finished = False

            def run(way: bare.Bare = way, limit_s: float = limit_s) -> None:
                nonlocal finished
                finished = way.run(base.file, files, batch.dates, limit_s=limit_s)

            base.restore()
            took_ms = timing.timed_ms(run)
            if finished:
                best_ms[name] = min(took_ms, best_ms.get(name, took_ms))
            elif name not in best_ms:
                del left[name]
    return min(best_ms, key=lambda name: best_ms[name])


def measure(
    workload: Workload, bases: Sequence[data.Base], repeats: int, show: Callable[[str], None]
) -> dict[str, Any]:
    """Run one workload into every table; return what was measured."""
    flat: dict[str, list[float]] = {}
    chosen: dict[str, tuple[str, str]] = {}
    for number in range(-1, repeats):  # the first one chooses the bare statements and warms the statement cache up
        turns: dict[str, Callable[[], float]] = {}
        folders = []
        for base in bases:
            batch, name = workload.batch(base), f"{workload.rows}-{number + 1}"
            files = data.stage(base, batch, name, number=number + 1)
            folders.append(Path(files[0]).parent)
            if base.name not in chosen:
                merge, delete_insert = (choose(base, batch, files, ways) for ways in (bare.MERGES, bare.DELETE_INSERTS))
                chosen[base.name] = (merge, delete_insert)
                same_result(base, batch, name, files, chosen[base.name])
            else:
                turns |= {
                    f"{base.name} {side}": run
                    for side, run in sides(base, batch, name, files, chosen[base.name]).items()
                }
        if turns:
            # Big and small of one side run next to each other.
            timing.in_turns(dict(sorted(turns.items(), key=lambda item: item[0].split()[1])), number, flat)
        for folder in folders:
            shutil.rmtree(folder)
        show(f"{workload.name}: {number + 1} of {repeats}")
    times = {
        base.name: {side: flat[f"{base.name} {side}"] for side in ("onerow", "merge", "delete_insert")}
        for base in bases
    }
    return {
        "workload": workload.name,
        "repeats": repeats,
        "chosen": chosen,
        "ms": times,
        "sides": {base.name: compare(times[base.name]) for base in bases},
    }


def sides(
    base: data.Base, batch: data.Batch, name: str, files: Sequence[str], chosen: tuple[str, str]
) -> dict[str, Callable[[], float]]:
    """Return the sides of one repeat; each begins with equal files."""

    def timed(work: Callable[[], object]) -> float:
        base.restore()
        return timing.timed_ms(work)

    ways = {**bare.MERGES, **bare.DELETE_INSERTS}
    return {
        "onerow": lambda: timed(lambda: consolidate(base, name)),
        "merge": lambda: timed(lambda: ways[chosen[0]].run(base.file, files, batch.dates)),
        "delete_insert": lambda: timed(lambda: ways[chosen[1]].run(base.file, files, batch.dates)),
    }


def same_result(
    base: data.Base, batch: data.Batch, name: str, files: Sequence[str], chosen: tuple[str, str]
) -> None:
    """Check that all sides end in the same table; a fast wrong answer is no baseline."""
    ends = {}
    for side, run in sides(base, batch, name, files, chosen).items():
        run()
        ends[side] = data.contents(base)
    if len(set(ends.values())) != 1:
        raise RuntimeError(f"the sides differ: {ends}")


def compare(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return spreads of each side, and of onerow against each bare way and against the faster of the two."""
    fastest = min(("merge", "delete_insert"), key=lambda side: timing.spread(times[side])["median"])
    return {
        "ms": {side: timing.spread(values) for side, values in times.items()},
        "fastest": fastest,
        "more_ms": {side: timing.differences(times["onerow"], times[side]) for side in ("merge", "delete_insert")},
        "ratio": {side: timing.ratios(times["onerow"], times[side]) for side in ("merge", "delete_insert")},
    }


def peak_memory(base: data.Base, workload: Workload) -> dict[str, int]:
    """Return the peak resident memory of one run of each side in a process of its own, in MiB."""
    name = f"memory-{workload.rows}"
    files = data.stage(base, workload.batch(base), name, number=1_000)
    found = {}
    for side in ("start", "onerow", "merge", "delete_insert"):
        base.restore()
        asked = json.dumps([side, base.name, base.dates, name, files, workload.batch(base).dates])
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.duckdb_merge", "--peak-memory-of", asked],
            check=True,
            capture_output=True,
            text=True,
        )
        found[side] = int(done.stdout)
    return found


def print_peak_memory(asked: str) -> None:
    """Run one side and print the peak resident memory of this process."""
    side, base_name, dates, name, files, batch_dates = json.loads(asked)
    base = data.Base(base_name, tuple((date, rows) for date, rows in dates))
    if side == "onerow":
        consolidate(base, name)
    elif side == "start":
        with onerow.open(base.config) as store:
            store.history(limit=1)
    else:
        way = bare.MERGES["MERGE"] if side == "merge" else bare.DELETE_INSERTS["DELETE+INSERT"]
        way.run(base.file, files, batch_dates)
    print(_peak_kib() // KIB_PER_MIB)


def _peak_kib() -> int:
    """Return the peak resident memory of this process; ``ru_maxrss`` may still hold that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(console: Console, results: list[dict[str, Any]], workloads: Sequence[Workload], table_rows: int) -> None:
    """Print what was measured, with goals and verdicts."""
    table = Table(title=f"Into {table_rows:,} rows: median (quartiles) in ms; more and ratio are of pairs")
    for title in ("batch", "goal", "onerow", "bare side", "ms", "more ms", "ratio", "verdict"):
        table.add_column(title, justify="left" if title in {"batch", "bare side", "verdict"} else "right")
    for result, workload in zip(results, workloads, strict=True):
        found = result["sides"]["big"]
        for place, side in enumerate(("merge", "delete_insert")):
            more, ratio = found["more_ms"][side], found["ratio"][side]
            verdict = workload.verdict(more["median"], ratio["median"])
            result.setdefault("verdict", {})[side] = verdict
            mark = " (faster)" if side == found["fastest"] else ""
            table.add_row(
                workload.name if not place else "",
                workload.goal if not place else "",
                _text(found["ms"]["onerow"]) if not place else "",
                result["chosen"]["big"][place] + mark,
                _text(found["ms"][side]),
                _text(more),
                _text(ratio),
                verdict,
            )
    console.print(table)
    grown = [(result, workload) for result, workload in zip(results, workloads, strict=True) if workload.growth]
    table = Table(title=f"Growth of the table: {table_rows:,} rows against two of its dates, median ms")
    for title in ("batch", "goal", "side", "small", "big", "ratio", "verdict"):
        table.add_column(title, justify="left" if title in {"batch", "side", "verdict"} else "right")
    for result, workload in grown:
        for side in ("onerow", "merge", "delete_insert"):
            big, small = result["ms"]["big"][side], result["ms"]["small"][side]
            ratio = timing.ratios(big, small)
            result.setdefault("growth", {})[side] = ratio
            mine = side == "onerow"
            verdict = ("PASS" if ratio["median"] <= GROWTH_LIMIT else "MISS") if mine else ""
            table.add_row(
                workload.name if mine else "",
                f"{GROWTH_LIMIT}x" if mine else "",
                side,
                _text(timing.spread(small)),
                _text(timing.spread(big)),
                _text(ratio),
                verdict,
            )
    console.print(table)
    table = Table(title="Peak resident memory of one run in a process of its own, MiB")
    for title in ("batch", "table", "open and look", "onerow", "MERGE", "DELETE+INSERT"):
        table.add_column(title, justify="left" if title in {"batch", "table"} else "right")
    for result in results:
        for name, peak in result.get("peak_mib", {}).items():
            table.add_row(
                result["workload"], name, *(str(peak[side]) for side in ("start", "onerow", "merge", "delete_insert"))
            )
    console.print(table)


def _text(found: dict[str, float]) -> str:
    return f"{found['median']:,} ({found['q1']:,}, {found['q3']:,})"


def main() -> None:
    """Measure, print, write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="1,000,000 rows, the two smaller batches, few repeats: 2 minutes if idle"
    )
    parser.add_argument("--rows", type=int, nargs="*", help="only the batches of so many rows")
    parser.add_argument("--table-rows", type=int, help="default: 10,000,000")
    parser.add_argument("--repeats", type=int, help="how often each batch is measured")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--peak-memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_memory_of:
        print_peak_memory(arguments.peak_memory_of)
        return
    console = Console()
    big = data.big(arguments.table_rows or (1_000_000 if arguments.quick else 10_000_000))
    small = data.small(big)
    workloads = [
        one
        for one in WORKLOADS
        if (one.rows in arguments.rows if arguments.rows else one.quick_repeats or not arguments.quick)
    ]
    with console.status("base files") as status:
        for base in (big, small):
            base.make()
        results = []
        for workload in workloads:
            bases = [big, small] if workload.growth else [big]
            repeats = arguments.repeats or (arguments.quick and workload.quick_repeats) or workload.repeats
            result = measure(workload, bases, repeats, status.update)
            if not arguments.no_memory:
                status.update(f"{workload.name}: memory")
                result["peak_mib"] = {base.name: peak_memory(base, workload) for base in bases}
            results.append(result)
    report(console, results, workloads, big.rows)
    load = os.getloadavg()[0]
    versions = f"DuckDB {duckdb.__version__}, Python {platform.python_version()}"
    console.print(f"{os.cpu_count()} CPUs, load {load:.1f}, {versions}")
    moment = dt.datetime.now(dt.UTC)
    target = data.RESULTS / f"duckdb_merge-{moment:%Y%m%d-%H%M%S}.json"
    about = {
        "at": moment.isoformat(timespec="seconds"),
        "table_rows": big.rows,
        "cpus": os.cpu_count(),
        "load": load,
        "duckdb": duckdb.__version__,
        "python": platform.python_version(),
        "onerow": onerow.__version__,
    }
    target.write_text(json.dumps({**about, "results": results}, indent=1), encoding="utf-8")
    console.print(f"written to {target}")
    for base in (big, small):
        shutil.rmtree(base.folder / "staging", ignore_errors=True)


if __name__ == "__main__":
    main()
