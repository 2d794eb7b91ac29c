"""The whole product path on PostgreSQL and DuckLake against the bare engines, paired.

``python -m benchmarks.engines postgresql`` or ``ducklake``. Both sides begin with the same Parquet files, 15 parts of a
batch of which half of the keys are in the table. onerow stages them where the engine stages in tables, opens the store,
consolidates (leases, ledger, merge, verification, clean-up) and closes it; the bare side loads them and runs one
``MERGE`` that is right as long as nobody else writes, with the same unique index where there is one, and no lock, no
ledger, no verification.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

import onerow
from benchmarks import data, timing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Work:
    """One batch of one repeat: its Parquet files, one a part, and the dates that it falls on."""

    name: str
    files: tuple[Path, ...]
    dates: tuple[int, ...]


class Engine(Protocol):
    """An engine with a table that both sides merge into."""

    name: str
    dates: Sequence[tuple[int, int]]

    def make(self, show: Callable[[str], None]) -> None:
        """Make the table, for both sides."""
        ...

    def settle(self) -> None:
        """Bring the engine into a state that every timed run begins with."""
        ...

    def product(self, work: Work) -> tuple[float, float]:
        """Run onerow; return milliseconds of staging (0 where files are read in place) and of consolidating."""
        ...

    def bare(self, way: str, work: Work) -> tuple[float, float]:
        """Run plain statements; return milliseconds of loading and of merging."""
        ...

    @property
    def ways(self) -> Sequence[str]:
        """Names of the bare ways to do it; the fastest is chosen."""
        ...

    def contents(self, side: str, dates: Sequence[int]) -> object:
        """Return what tells two equal tables, of some dates, right after a run of ``side`` ("onerow" or "bare")."""
        ...

    def about(self) -> str:
        """Return the engine's version."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True)
class Goal:
    """A batch, how often it is repeated, and the ratio that is promised."""

    name: str
    rows: int
    repeats: int
    max_ratio: float | None
    repeated: int = 0

    def make_up(self, dates: Sequence[tuple[int, int]]) -> data.Batch:
        """Return the batch's make-up: one date where one has enough rows, else many."""
        count = len(dates) - 1
        if self.rows // 2 <= data.DATE_ROWS // 2:
            return data.Batch(self.rows, (data.usual_date(count),), self.repeated)
        if self.rows // 2 <= data.LARGE_DATE_ROWS:
            return data.Batch(self.rows, (data.large_date(count),), self.repeated)
        return data.Batch(self.rows, data.many_dates(count, 37), self.repeated)


GOALS: Final = (
    Goal("587 rows", 587, 11, None, repeated=5),
    Goal("100,000 rows", 100_000, 7, 1.3),
    Goal("1,000,000 rows, 37 dates", 1_000_000, 5, 1.15),
)


def measure(engine: Engine, goal: Goal, repeats: int, show: Callable[[str], None]) -> dict[str, Any]:
    """Run one batch, repeated with newer rows; return what was measured."""
    make_up = goal.make_up(engine.dates)
    found: dict[str, list[float]] = {}
    chosen = ""
    with tempfile.TemporaryDirectory(dir=data.RESULTS) as folder:
        for number in range(repeats + 1):  # the first one chooses the bare way and warms up
            work = write(Path(folder), engine, make_up, f"{goal.rows}-{number}", number=number)
            if not chosen:
                chosen = choose(engine, work)
                wanted = engine.contents("bare", work.dates)
                run(engine, "onerow", "", work, {})
                if engine.contents("onerow", work.dates) != wanted:
                    raise RuntimeError("the sides differ: a fast wrong answer is no baseline")
            else:
                sides = ["onerow", "bare"] if number % 2 else ["bare", "onerow"]
                for side in sides:
                    run(engine, side, chosen, work, found)
            for file in work.files:
                file.unlink()
            show(f"{engine.name}, {goal.name}: {number} of {repeats}")
    whole = {
        side: [a + b for a, b in zip(found[f"{side} load"], found[f"{side} merge"], strict=True)] for side in SIDES
    }
    ratio = timing.ratios(whole["onerow"], whole["bare"])
    kept = goal.max_ratio is None or ratio["median"] <= goal.max_ratio
    return {
        "batch": goal.name,
        "rows": goal.rows,
        "repeats": repeats,
        "goal": goal.max_ratio,
        "bare": chosen,
        "ms": {name: timing.spread(values) for name, values in {**found, **whole}.items()},
        "more_ms": timing.differences(whole["onerow"], whole["bare"]),
        "ratio": ratio,
        "merge_ratio": timing.ratios(found["onerow merge"], found["bare merge"]),
        "verdict": "" if goal.max_ratio is None else "PASS" if kept else "MISS",
    }


SIDES: Final = ("onerow", "bare")


def run(engine: Engine, side: str, way: str, work: Work, into: dict[str, list[float]]) -> None:
    """Run one side and note its times."""
    engine.settle()
    load_ms, merge_ms = engine.product(work) if side == "onerow" else engine.bare(way, work)
    into.setdefault(f"{side} load", []).append(load_ms)
    into.setdefault(f"{side} merge", []).append(merge_ms)


def choose(engine: Engine, work: Work) -> str:
    """Return the fastest bare way, each run once on the same rows; a later one finds the same work again."""
    took_ms: dict[str, float] = {}
    for way in engine.ways:
        engine.settle()
        took_ms[way] = sum(engine.bare(way, work))
    return min(took_ms, key=lambda way: took_ms[way])


def write(folder: Path, engine: Engine, make_up: data.Batch, name: str, *, number: int) -> Work:
    """Write the parts of a batch as Parquet files."""
    files = []
    for place, part in enumerate(data.batch_parts(engine.dates, make_up, number=number)):
        files.append(folder / f"{name}-{place}.parquet")
        pq.write_table(part, files[-1])
    return Work(name, tuple(files), make_up.dates)


def report(console: Console, engine: Engine, results: Sequence[Mapping[str, Any]]) -> None:
    """Print what was measured."""
    rows = sum(size for _, size in engine.dates)
    table = Table(title=f"{engine.about()}, into {rows:,} rows: median (quartiles) in ms; ratios are of pairs")
    for title in ("batch", "goal", "onerow", "its staging", "bare", "its loading", "by", "ratio", "merge alone", ""):
        table.add_column(title, justify="left" if title in {"batch", "by", ""} else "right")
    for found in results:
        ms = found["ms"]
        table.add_row(
            found["batch"],
            f"{found['goal']}x" if found["goal"] else "",
            text(ms["onerow"]),
            text(ms["onerow load"]),
            text(ms["bare"]),
            text(ms["bare load"]),
            found["bare"],
            text(found["ratio"]),
            text(found["merge_ratio"]),
            found["verdict"],
        )
    console.print(table)


def text(found: Mapping[str, float]) -> str:
    """Return median and quartiles."""
    return f"{found['median']:,} ({found['q1']:,}, {found['q3']:,})"


def save(console: Console, name: str, content: Mapping[str, Any]) -> None:
    """Write a file of results."""
    moment = dt.datetime.now(dt.UTC)
    target = data.RESULTS / f"{name}-{moment:%Y%m%d-%H%M%S}.json"
    about = {
        "at": moment.isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "onerow": onerow.__version__,
    }
    target.write_text(json.dumps({**about, **content}, indent=1), encoding="utf-8")
    console.print(f"{about['cpus']} CPUs, load {about['load']:.1f}; written to {target}")


def open_engine(name: str, rows: int) -> Engine:
    """Return an engine with a table of so many rows."""
    dates = data.big(rows).dates
    if name == "postgresql":
        from benchmarks.postgresql import PostgresEngine  # noqa: PLC0415 -- only what is asked for is loaded

        return PostgresEngine(dates)
    from benchmarks.ducklake import DuckLakeEngine  # noqa: PLC0415 -- only what is asked for is loaded

    return DuckLakeEngine(dates)


def main() -> None:
    """Measure, print, write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["postgresql", "ducklake"])
    parser.add_argument("--quick", action="store_true", help="1,000,000 rows, the two smaller batches, 3 repeats")
    parser.add_argument("--table-rows", type=int, help="default: 10,000,000")
    parser.add_argument("--rows", type=int, nargs="*", help="only the batches of so many rows")
    parser.add_argument("--repeats", type=int)
    arguments = parser.parse_args()
    console = Console()
    goals = [goal for goal in GOALS if (goal.rows in arguments.rows if arguments.rows else True)]
    if arguments.quick:
        goals = [goal for goal in goals if goal.rows < 1_000_000]
    engine = open_engine(arguments.engine, arguments.table_rows or (1_000_000 if arguments.quick else 10_000_000))
    try:
        with console.status("the table") as status:
            engine.make(status.update)
            results = [
                measure(engine, goal, arguments.repeats or (3 if arguments.quick else goal.repeats), status.update)
                for goal in goals
            ]
        report(console, engine, results)
        rows = sum(size for _, size in engine.dates)
        save(console, arguments.engine, {"engine": engine.about(), "table_rows": rows, "results": results})
    finally:
        engine.close()


if __name__ == "__main__":
    main()
