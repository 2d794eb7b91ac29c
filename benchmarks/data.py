"""The benchmark's table, its base files and its batches; all of it is computed, nothing is random.

A base file is made once and kept under ``results/cache``; before every timed run the working file is brought back
to it block by block and synced, so that every side of every repeat meets equal bytes and no dirty pages.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb

import onerow

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

RESULTS: Final = Path(__file__).parent / "results"
CACHE: Final = RESULTS / "cache"
LAYOUT: Final = 2

TABLE: Final = "player_prop_predictions"
KEY: Final = ("game_id", "player_lookup", "system_id", "current_points_line")
COLUMNS: Final = (
    "prediction_id",
    "game_date",
    *KEY,
    "predicted_points",
    "confidence",
    "created_at",
)
PARTS: Final = 15
DATE_ROWS: Final = 27_198
LARGE_DATE_ROWS: Final = 95_682
ROW_GROUP_ROWS: Final = 122_880
BLOCK_BYTES: Final = 1 << 18

CONFIG: Final = """\
warehouse = "duckdb:///predictions.duckdb"
locks     = "sqlite:///predictions.locks.sqlite"
staging   = "staging"

[tables.player_prop_predictions]
key       = ["game_id", "player_lookup", "system_id", "current_points_line"]
partition = "game_date"
order_by  = ["created_at", "prediction_id"]

[tables.player_prop_predictions.columns]
prediction_id       = "string"
game_date           = "date"
game_id             = "string"
player_lookup       = "string"
system_id           = "string"
current_points_line = "decimal(6,2)"
predicted_points    = "float64"
confidence          = "float64"
created_at          = "timestamp"
"""


@dataclass(frozen=True)
class Batch:
    """The make-up of a batch: half of its keys are in the table.

    Attributes:
        rows: how many, ``repeated`` of them older rows of a key that another part holds too.
        dates: the dates they fall on, evenly.
    """

    rows: int
    dates: tuple[int, ...]
    repeated: int = 0


@dataclass(frozen=True)
class Base:
    """A configured folder with a table in it. ``dates`` maps the number of a date to its rows."""

    name: str
    dates: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return sum(rows for _, rows in self.dates)

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return CACHE / f"{self.name}-{self.rows}-v{LAYOUT}-duckdb{duckdb.__version__}"

    @property
    def config(self) -> Path:
        """The configuration that describes it."""
        return self.folder / "onerow.toml"

    @property
    def file(self) -> Path:
        """The working file."""
        return self.folder / "predictions.duckdb"

    @property
    def original(self) -> Path:
        """What the working file is brought back to."""
        return self.folder / "original.duckdb"

    def make(self) -> bool:
        """Make the folder unless it is there; return whether it was made. What was staged in it before goes."""
        shutil.rmtree(self.folder / "staging", ignore_errors=True)
        ready = self.folder / "ready.json"
        if ready.exists():
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.config.write_text(CONFIG, encoding="utf-8")
        with onerow.open(self.config) as store:
            store.init()
        with duckdb.connect(str(self.file)) as connection:
            # In one thread all row groups are full. A checkpoint merges small ones at the end of the table,
            # which costs what they hold and not what the table holds: every table here begins without any.
            connection.execute("set threads = 1")
            connection.execute(f"insert into {TABLE} ({', '.join(COLUMNS)}) {base_rows(self.dates)}")
            connection.execute("checkpoint")
        self.file.rename(self.original)
        ready.write_text(json.dumps({"rows": self.rows}), encoding="utf-8")
        return True

    def restore(self) -> None:
        """Bring the working file back to the original, block by block, and sync it."""
        self.file.with_name(self.file.name + ".wal").unlink(missing_ok=True)
        if not self.file.exists():
            shutil.copyfile(self.original, self.file)
        at = 0
        with self.original.open("rb") as original, self.file.open("r+b") as working:
            while block := original.read(BLOCK_BYTES):
                if working.read(BLOCK_BYTES) != block:
                    working.seek(at)
                    working.write(block)
                at += len(block)
                working.seek(at)
            working.truncate(at)
            working.flush()
            os.fsync(working.fileno())
        # The lock file's log is folded in here, not in somebody's timed run.
        os.sync()


def big(rows: int) -> Base:
    """Return a table of about ``rows`` rows: dates of 27,198, one of 95,682, and one that fills the last row group."""
    count = max(38, round((rows - LARGE_DATE_ROWS) / DATE_ROWS) + 1)
    large = large_date(count)
    dates = [(date, LARGE_DATE_ROWS if date == large else DATE_ROWS) for date in range(count)]
    return Base("big", (*dates, (count, -sum(size for _, size in dates) % ROW_GROUP_ROWS)))


def small(of: Base) -> Base:
    """Return the two dates of ``of`` that the smaller batches fall on and nothing else: one full row group."""
    count = len(of.dates) - 1
    return Base("small", ((usual_date(count), DATE_ROWS), (large_date(count), LARGE_DATE_ROWS)))


def usual_date(count: int) -> int:
    """Return the number of the date of usual size that small batches fall on."""
    return count // 2


def large_date(count: int) -> int:
    """Return the number of the date that has 100,000 rows."""
    return count * 4 // 5


def many_dates(count: int, wanted: int) -> tuple[int, ...]:
    """Return dates of usual size, spread over the table."""
    usual = [date for date in range(count) if date != large_date(count)]
    return tuple(usual[i * len(usual) // wanted] for i in range(wanted))


def batch_parts(dates: Sequence[tuple[int, int]], batch: Batch, *, number: int) -> list[pa.Table]:
    """Return the parts of a batch of this make-up for a table of these dates, newer with each ``number``."""
    sizes = dict(dates)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        selects = []
        for place, date in enumerate(batch.dates):
            rows = batch.rows * (place + 1) // len(batch.dates) - batch.rows * place // len(batch.dates)
            keys = rows - batch.repeated
            known = keys // 2
            step = sizes[date] // known
            numbers = (
                f"select j * {step} as i from range({known}) r(j) union all "
                f"select {sizes[date]} + j as i from range({keys - known}) r(j)"
            )
            selects.append(_rows_query(date, f"({numbers})", version=number + 1))
            if batch.repeated:
                numbers = f"select j * {step} as i from range({batch.repeated}) r(j)"
                selects.append(_rows_query(date, f"({numbers})", version=number + 1, earlier_s=600))
        query = " union all ".join(selects)
        connection.execute(f"create temp table batch as select *, hash(prediction_id) % {PARTS} as part from ({query})")
        return [
            connection.execute(
                f"select {', '.join(COLUMNS)} from batch where part = {part} order by prediction_id"
            ).to_arrow_table()
            for part in range(PARTS)
        ]


def stage(base: Base, batch: Batch, name: str, *, number: int) -> list[str]:
    """Stage a batch of this make-up, newer with each ``number``; return the paths of its Parquet files."""
    with onerow.open(base.config) as store:
        for place, table in enumerate(batch_parts(base.dates, batch, number=number)):
            staged = store.stage(TABLE, table, batch=name, worker=f"worker-{place}")
            if staged.status != "staged":
                raise RuntimeError(f"batch {name} was there already: {staged}")
        manifests = store.ports.parts.parts(TABLE, name)
    return [str(base.folder / "staging" / manifest.data) for manifest in manifests]


def base_rows(dates: Sequence[tuple[int, int]]) -> str:
    """Return a DuckDB query of all rows of a table of these dates."""
    return " union all ".join(_rows_query(date, f"range({rows}) r(i)", version=0) for date, rows in dates)


def sample(rows: int) -> pa.Table:
    """Return rows of one date."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        query = f"select {', '.join(COLUMNS)} from ({_rows_query(0, f'range({rows}) r(i)', version=0)})"
        return connection.execute(query).to_arrow_table()


def _rows_query(date: int, numbers: str, *, version: int, earlier_s: int = 0) -> str:
    """Return a query of the rows with the given numbers of a date; another version is newer and has other values."""
    day = f"(date '2025-01-01' + {date})"
    salt = f"'v{version}e{earlier_s}'"
    return f"""
        select md5(i || '-{date}-' || {salt})::uuid::varchar as prediction_id,
            {day} as game_date,
            strftime({day}, '%Y%m%d') || '_' || chr((65 + i % 15)::int) || 'AL_' || chr((80 - i % 15)::int) || 'OS'
                as game_id,
            'player' || lpad((i // 15 % 30 * 97 + i % 15 * 31)::varchar, 5, '0') || 'jr' as player_lookup,
            ['xgboost_v1', 'catboost_v8', 'ensemble_v1', 'zone_matchup', 'similarity'][1 + (i // 450 % 5)::int]
                as system_id,
            (i // 2250 / 2 + 0.5)::decimal(6, 2) as current_points_line,
            (hash(i, {date}, {salt}) % 400000) / 10000.0::double as predicted_points,
            (hash({date}, i, {salt}) % 100000) / 100000.0::double as confidence,
            timestamp '2025-01-01 12:00:00' + interval ({date}) day
                + interval ((hash(i, {date}) % 20000000)::bigint) microsecond
                + interval ({version * 3600 - earlier_s}) second as created_at
        from {numbers}"""


def contents(base: Base) -> tuple[Any, ...]:
    """Return what tells two equal tables: rows, and sums of hashes of all columns."""
    with duckdb.connect(str(base.file), read_only=True) as connection:
        found = connection.execute(
            f"select count(*), sum(hash({', '.join(COLUMNS)})::hugeint)::varchar from {TABLE}"
        ).fetchone()
    return found or ()
