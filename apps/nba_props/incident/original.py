"""The original design and the team's lock, on an engine without constraints, in real concurrent transactions (DuckDB).

It knows nothing of onerow, and none of its flaws was mended: the line is cast to an integer and a missing one is -1,
the last merge wins, staging tables are found by a prefix in which ``-`` and ``_`` are one, duplicates are counted after
the commit, clean-up lists the staging tables once more.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from demo.predictions import Row

TABLE: Final = "player_prop_predictions"
KEY: Final = ("game_id", "player_lookup", "system_id", "current_points_line")
IDENTITY: Final = ("prediction_id", *KEY)
COLUMNS: Final = (
    "prediction_id", "game_date", "game_id", "player_lookup", "system_id", "current_points_line", "predicted_points",
    "confidence", "created_at",
)  # fmt: skip
STEP_S: Final = 20.0
"""The longest time that one of two runs is waited for."""


def _line(alias: str) -> str:
    return f"coalesce(cast({alias}.current_points_line as integer), -1)"


class OriginalDesign:
    """The table, the staging tables beside it, and what the coordinator did with them."""

    def __init__(self, file: Path) -> None:
        self._database = duckdb.connect(str(file))
        self._database.execute("set TimeZone = 'UTC'")
        self._database.execute(
            f"create table {TABLE} (prediction_id varchar, game_date date, game_id varchar, player_lookup varchar, "
            "system_id varchar, current_points_line decimal(6,2), predicted_points double, confidence double, "
            "created_at timestamptz)"
        )

    def session(self) -> duckdb.DuckDBPyConnection:
        """Return a connection with transactions of its own, as each Cloud Run instance has."""
        return self._database.cursor()

    def stage(self, batch: str, worker: str, rows: Sequence[Row]) -> None:
        """Write a worker's rows to its own staging table."""
        session = self.session()
        names = ", ".join(name for name in COLUMNS if name in rows[0])
        session.register("handed_in", pa.Table.from_pylist([dict(row) for row in rows]))
        session.execute(f"create table {_staging(batch)}{worker} as select {names} from handed_in")
        session.close()

    def staged(self, batch: str) -> list[str]:
        """Return the names of the staging tables that the prefix finds."""
        found = self.session().execute(
            "select table_name from information_schema.tables where starts_with(table_name, ?) order by 1",
            [_staging(batch)],
        )
        return [name for (name,) in found.fetchall()]

    def consolidate(
        self,
        batch: str,
        game_date: str,
        *,
        begun: Callable[[], object] = lambda: None,
        committed: Callable[[], object] = lambda: None,
        validate: bool = False,
    ) -> bool:
        """Merge all staging tables of a batch and clean up.

        Args:
            batch: the batch.
            game_date: the date that is merged into and counted.
            begun: called when the MERGE has read the table and has not committed. A warehouse takes seconds for it.
            committed: called behind the commit.
            validate: count duplicates after the commit, as the team's fix did later; any keep the staging tables.

        Returns:
            Whether it calls itself successful.
        """
        session = self.session()
        session.execute("begin")
        self._merge(session, batch, game_date)
        begun()
        session.execute("commit")
        committed()
        if validate and self.validate(game_date) > 0:
            return False
        for name in self.staged(batch):
            session.execute(f"drop table {name}")
        session.close()
        return True

    def _merge(self, session: duckdb.DuckDBPyConnection, batch: str, game_date: str) -> None:
        staged = " union all ".join(f"select * from {name}" for name in self.staged(batch))
        same = " and ".join(f"t.{name} = s.{name}" for name in ("game_date", *KEY[:3]))
        session.execute(
            f"merge into {TABLE} t using (select * from ({staged}) s qualify row_number() over (partition by "
            f"{', '.join(f's.{name}' for name in KEY[:3])}, {_line('s')} order by s.created_at desc) = 1) s "
            f"on t.game_date = cast(? as date) and {same} and {_line('t')} = {_line('s')} "
            "when matched then update set * when not matched then insert *",
            [game_date],
        )

    def validate(self, game_date: str) -> int:
        """Count duplicates as the team's fix did: where it cannot count, it says -1."""
        try:
            return self.duplicates(game_date)
        except duckdb.Error:
            return -1

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement of a person's own."""
        return self.session().execute(statement).fetchall()

    def duplicates(self, game_date: str) -> int:
        """Count keys of a date that have more than one row."""
        found = self.session().execute(
            f"select count(*) from (select 1 from {TABLE} where game_date = cast(? as date) "
            f"group by {', '.join(KEY)} having count(*) > 1)",
            [game_date],
        ).fetchall()
        return int(found[0][0])

    def rows(self) -> list[Row]:
        """Return what stands in the table: identities and business keys."""
        found = self.session().execute(f"select {', '.join(IDENTITY)} from {TABLE}").fetchall()
        return [dict(zip(IDENTITY, values, strict=True)) for values in found]

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _staging(batch: str) -> str:
    return f"_staging_{batch.replace('-', '_')}_"


LEASE_S: Final = 300.0
POLL_S: Final = 5.0


@dataclass
class MachineClock:
    """The wall clock of one machine, in seconds. It may be wrong, and time passes when it is told to."""

    now_s: float = 0.0


class OriginalLock:
    """The lock of the team's fix: a document a date, expiry by the local clock, no renewal, release by deletion."""

    def __init__(self, documents: dict[str, float], clock: MachineClock) -> None:
        self._documents = documents
        self._clock = clock

    def try_acquire(self, game_date: str) -> bool:
        """Take the lock if there is none or it has expired; say whether it was had."""
        if self._documents.get(game_date, 0.0) > self._clock.now_s:
            return False
        self._documents[game_date] = self._clock.now_s + LEASE_S
        return True

    def release(self, game_date: str) -> None:
        """Delete the document, whoever holds it."""
        self._documents.pop(game_date, None)


class Overlap:
    """Has two runs read the table before either has committed, as the latency of a warehouse has them."""

    def __init__(self) -> None:
        self._first, self._second = threading.Event(), threading.Event()

    def first_has_begun(self) -> None:
        """The first run has read the table; it goes on when the second has, too."""
        self._first.set()
        self._second.wait(STEP_S)

    def second_has_begun(self) -> None:
        """The second run has read the table."""
        self._second.set()

    @property
    def both_had_begun(self) -> bool:
        """Whether both have read the table."""
        return self._first.is_set() and self._second.is_set()

    def wait_for_the_first(self) -> None:
        """Wait until the first run has read the table."""
        self._first.wait(STEP_S)
