"""A DuckLake on a SQLite catalog, for ``benchmarks.engines``. Every run begins with the same catalog and files.

Loading the extensions is timed on neither side: onerow keeps instances that have them, and so does the bare side here.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from typing import TYPE_CHECKING, Final

import duckdb

import onerow
from benchmarks import data, timing
from onerow.adapters.warehouse.ducklake import extensions
from onerow.adapters.warehouse.ducklake.warehouse import STAGING_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.engines import Work

_IDENTITY: Final = ("game_date", *data.KEY)
_COLUMNS: Final = ", ".join(data.COLUMNS)
_SAME_KEY: Final = " and ".join(f"s.{name} = t.{name}" for name in _IDENTITY)
_SET: Final = ", ".join(f"{name} = s.{name}" for name in data.COLUMNS if name not in _IDENTITY)
_VALUES: Final = ", ".join(f"s.{name}" for name in data.COLUMNS)

CONFIG: Final = data.CONFIG.replace(
    'warehouse = "duckdb:///predictions.duckdb"\nlocks     = "sqlite:///predictions.locks.sqlite"',
    'warehouse = "ducklake:sqlite:///catalog.sqlite?data_path=lake"',
)


class DuckLakeEngine:
    """One lake for both sides; between runs its catalog is put back and newer files are removed."""

    name = "DuckLake"
    ways = ("MERGE", "MERGE, literal")

    def __init__(self, dates: Sequence[tuple[int, int]]) -> None:
        self.dates = dates
        rows = sum(size for _, size in dates)
        self.folder = data.CACHE / f"ducklake-{rows}-v{data.LAYOUT}-duckdb{duckdb.__version__}"
        self._catalog = self.folder / "catalog.sqlite"
        self._lake = self.folder / "lake"
        self._instance: duckdb.DuckDBPyConnection | None = None

    def make(self, show: Callable[[str], None]) -> None:
        """Make the lake unless it is there."""
        if not (self.folder / "files.txt").exists():
            show("DuckLake: the table")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / "onerow.toml").write_text(CONFIG, encoding="utf-8")
            with onerow.open(self.folder / "onerow.toml") as store:
                store.init()
            connection = self._attach()
            connection.execute("set preserve_insertion_order = false")
            connection.execute(f"insert into x.{data.TABLE} ({_COLUMNS}) {data.base_rows(self.dates)}")
            connection.execute("detach x")
            shutil.copyfile(self._catalog, self.folder / "original.sqlite")
            (self.folder / "files.txt").write_text("\n".join(self._files()), encoding="utf-8")
        self.settle()

    def settle(self) -> None:
        """Put the catalog back and remove files that it does not know."""
        known = set((self.folder / "files.txt").read_text(encoding="utf-8").splitlines())
        for name in self._files():
            if name not in known:
                (self._lake / name).unlink()
        shutil.rmtree(self._lake / STAGING_NAME, ignore_errors=True)
        for suffix in ("-wal", "-shm"):
            self._catalog.with_name(self._catalog.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(self.folder / "original.sqlite", self._catalog)
        os.sync()

    def product(self, work: Work) -> tuple[float, float]:
        """Stage untimed (both sides read the same files in place), then open, consolidate, close."""
        with onerow.open(self.folder / "onerow.toml") as store:
            for place, file in enumerate(work.files):
                store.stage(data.TABLE, file, batch=work.name, worker=f"worker-{place}")

        def consolidate() -> None:
            with onerow.open(self.folder / "onerow.toml") as store:
                result = store.consolidate(data.TABLE, work.name)
            if result.status != "committed":
                raise RuntimeError(f"batch {work.name}: {result.status}: {result.error}")

        return 0.0, timing.timed_ms(consolidate)

    def bare(self, way: str, work: Work) -> tuple[float, float]:
        """Attach, deduplicate into a temporary table, merge, commit, detach."""
        days = ", ".join(f"date '{dt.date(2025, 1, 1) + dt.timedelta(days=date)}'" for date in work.dates)
        literal = f"and t.game_date in ({days})" if way.endswith("literal") else ""
        files = ", ".join(f"'{file}'" for file in work.files)
        created = _COLUMNS.replace("created_at", "make_timestamp(epoch_us(created_at)) as created_at")

        def merge() -> None:
            connection = self._attach()
            connection.execute(
                f"create temp table newest as select {_COLUMNS} from (select *, row_number() over (partition by "
                f"{', '.join(_IDENTITY)} order by created_at desc, prediction_id desc) as place "
                f"from (select {created} from read_parquet([{files}]))) where place = 1"
            )
            connection.execute("begin")
            connection.execute(
                f"merge into x.{data.TABLE} as t using newest as s on {_SAME_KEY} {literal} "
                f"when matched and s.created_at > t.created_at then update set {_SET} "
                f"when not matched then insert ({_COLUMNS}) values ({_VALUES})"
            )
            connection.execute("commit")
            connection.execute("drop table newest")
            connection.execute("detach x")

        return 0.0, timing.timed_ms(merge)

    def contents(self, side: str, dates: Sequence[int]) -> object:  # noqa: ARG002
        """Return the rows and the sum of their hashes, of the lake that both sides share."""
        days = ", ".join(f"date '{dt.date(2025, 1, 1) + dt.timedelta(days=date)}'" for date in dates)
        connection = self._attach()
        found = connection.execute(
            f"select count(*), sum(hash({_COLUMNS})::hugeint)::varchar from x.{data.TABLE} where game_date in ({days})"
        ).fetchone()
        connection.execute("detach x")
        return found

    def about(self) -> str:
        """Return the engine's version."""
        return f"DuckLake on DuckDB {duckdb.__version__}, SQLite catalog"

    def close(self) -> None:
        """Close the bare side's instance."""
        if self._instance is not None:
            self._instance.close()

    def _files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self._lake)) for path in self._lake.rglob("*.parquet") if "staging" not in str(path)
        )

    def _attach(self) -> duckdb.DuckDBPyConnection:
        if self._instance is None:
            self._instance = duckdb.connect()
            extensions.load(self._instance, ("ducklake", "sqlite_scanner"))
            self._instance.execute("set TimeZone = 'UTC'")
        self._instance.execute(f"attach 'ducklake:sqlite:{self._catalog}' as x (data_path '{self._lake}')")
        return self._instance
