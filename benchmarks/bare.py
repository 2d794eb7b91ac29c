"""The bare engine: the fastest plain statements that are right as long as nobody else writes.

They read the same Parquet files, keep the newest row of a key by a window, compare keys with ``=`` (the data has no
NULL in a key), and open, sync and close the file like anybody else. There is no lock, no ledger, no verification.
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb

from benchmarks.data import COLUMNS, KEY, TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_IDENTITY: Final = ("game_date", *KEY)
_COLUMNS: Final = ", ".join(COLUMNS)
_SAME_KEY: Final = " and ".join(f"s.{name} = t.{name}" for name in _IDENTITY)
_SET: Final = ", ".join(f"{name} = s.{name}" for name in COLUMNS if name not in _IDENTITY)


def _newest(files: Sequence[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in files)
    read = _COLUMNS.replace("created_at", "make_timestamp(epoch_us(created_at)) as created_at")
    return (
        f"select {_COLUMNS} from (select *, row_number() over (partition by {', '.join(_IDENTITY)} "
        f"order by created_at desc, prediction_id desc) as place "
        f"from (select {read} from read_parquet([{listed}]))) where place = 1"
    )


def _in_dates(dates: Sequence[int]) -> str:
    days = [f"date '{dt.date(2025, 1, 1) + dt.timedelta(days=date)}'" for date in dates]
    return f"t.game_date = {days[0]}" if len(days) == 1 else f"t.game_date in ({', '.join(days)})"


def _sorted(files: Sequence[str]) -> str:
    return f"{_newest(files)} order by {', '.join(_IDENTITY)}"


def _merge(files: Sequence[str], in_dates: str, *, temporary: bool) -> list[str]:
    source = "from newest" if temporary else _newest(files)
    return [
        (
            f"merge into x.{TABLE} as t using ({source}) as s on {_SAME_KEY} {in_dates} "
            f"when matched and s.created_at > t.created_at then update set {_SET} "
            f"when not matched then insert ({_COLUMNS}) values ({', '.join(f's.{name}' for name in COLUMNS)})"
        )
    ]


def _delete_insert(in_dates: str) -> list[str]:
    return [
        f"delete from x.{TABLE} as t using newest as s where {_SAME_KEY} and s.created_at > t.created_at {in_dates}",
        (
            f"insert into x.{TABLE} ({_COLUMNS}) select {_COLUMNS} from newest as s "
            f"where not exists (select 1 from x.{TABLE} as t where {_SAME_KEY} {in_dates})"
        ),
    ]


@dataclass(frozen=True)
class Bare:
    """One way to do it.

    Attributes:
        newest: what makes the temporary table ``newest``, before the file is opened; None: there is none.
        literal: whether the statements name the partitions literally.
    """

    newest: Callable[[Sequence[str]], str] | None
    statements: Callable[[Sequence[str], str], list[str]]
    literal: bool = False

    def run(self, file: Path, files: Sequence[str], dates: Sequence[int], *, limit_s: float = 600.0) -> bool:
        """Open, do it, commit, close; return False if it was given up after ``limit_s``."""
        connection = duckdb.connect()
        timer = threading.Timer(limit_s, connection.interrupt)
        timer.start()
        try:
            if self.newest is not None:
                connection.execute(f"create temp table newest as {self.newest(files)}")
            connection.execute(f"attach '{file}' as x")
            connection.execute("begin")
            for statement in self.statements(files, f"and {_in_dates(dates)}" if self.literal else ""):
                connection.execute(statement)
            connection.execute("commit")
            connection.execute("detach x")
        except duckdb.InterruptException:
            return False
        finally:
            timer.cancel()
            connection.close()
        return True


MERGES: Final[dict[str, Bare]] = {
    "MERGE": Bare(None, lambda files, in_dates: _merge(files, in_dates, temporary=False)),
    "MERGE, literal": Bare(None, lambda files, in_dates: _merge(files, in_dates, temporary=False), literal=True),
    "MERGE, sorted source": Bare(_sorted, lambda files, in_dates: _merge(files, in_dates, temporary=True)),
}
DELETE_INSERTS: Final[dict[str, Bare]] = {
    "DELETE+INSERT": Bare(_newest, lambda files, in_dates: _delete_insert(in_dates)),  # noqa: ARG005
    "DELETE+INSERT, literal": Bare(_newest, lambda files, in_dates: _delete_insert(in_dates), literal=True),  # noqa: ARG005
}
