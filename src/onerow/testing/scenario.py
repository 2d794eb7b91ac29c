"""What happens in a simulated run beside faults: who stages what, who consolidates it, and when."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from onerow.core.spec import Column, TableSpec
from onerow.core.types import ColumnType
from onerow.testing.faults import SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = tuple[Any, ...]

DATES = (dt.date(2026, 1, 17), dt.date(2026, 1, 18), dt.date(2026, 1, 19))
BATCHES = ("b1", "b1_x", "b1-x")
PLAYERS = ("lebron", "jokic", None, "")
LINES = (Decimal("24.50"), Decimal("25.00"))
COLUMNS = ("prediction_id", "game_date", "player", "line", "created_at", "points")

SPEC = TableSpec(
    name="props",
    target=("nba", "props"),
    key=("player", "line"),
    partition="game_date",
    order_by=("created_at",),
    columns=(
        Column("prediction_id", ColumnType("string")),
        Column("game_date", ColumnType("date")),
        Column("player", ColumnType("string")),
        Column("line", ColumnType("decimal", 6, 2)),
        Column("created_at", ColumnType("int64")),
        Column("points", ColumnType("int64")),
    ),
)

VERSIONS = replace(SPEC, mode="versions", version_column="version")


def spec_of(seed: int) -> TableSpec:
    """Return the table of a seed: one in four keeps every version."""
    return VERSIONS if seed % 4 == 3 else SPEC


@dataclass(frozen=True, slots=True)
class Staging:
    """A worker stages a part at a moment, and again at the later moments (a retry)."""

    batch: str
    worker: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    at_us: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """Somebody consolidates a batch from a moment on, until it succeeds or the tries are used up."""

    batch: str
    at_us: int
    use_lock: bool = True
    keep_merged_s: float = 86_400.0
    partitions: tuple[str, ...] | None = None
    tries: int = 4


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in a run.

    Attributes:
        initial: rows that are in the table from the start, one per key.
        force_releases: moments and scopes at which a person takes a lock away.
        collections: moments at which somebody purges retired parts.
        foreign: rows that somebody inserts who does not use onerow; only in negative controls.
    """

    stagings: tuple[Staging, ...]
    jobs: tuple[Job, ...]
    initial: tuple[Row, ...] = ()
    force_releases: tuple[tuple[int, str], ...] = ()
    collections: tuple[int, ...] = ()
    foreign: tuple[tuple[int, tuple[Row, ...]], ...] = ()
    commit_domain: Literal["row", "table"] = "row"
    max_partitions: int = 1

    @property
    def batches(self) -> Sequence[str]:
        """The batches that are staged."""
        return sorted({staging.batch for staging in self.stagings})


def draw_scenario(seed: int) -> Scenario:
    """Return the scenario of a seed: few keys, few dates, so that everybody is in everybody's way."""
    chance = random.Random(f"scenario:{seed}")
    dates = DATES[: chance.choice((1, 1, 2, 3))]
    batches = BATCHES[: chance.choice((1, 2, 2, 3))]
    spread_s = chance.choice((0.0, 0.5, 5.0, 60.0))

    def moment() -> int:
        return round(chance.random() * spread_s * SECOND)

    stagings = []
    for number in range(chance.randint(len(batches) + 1, 6)):
        moments = [moment() if chance.random() < 0.5 else 0]
        if chance.random() < 0.3:
            moments.append(moments[0] + round(chance.uniform(0, 60) * SECOND))
        stagings.append(
            Staging(
                batch=batches[number % len(batches)],
                worker=f"w{number}",
                columns=COLUMNS if chance.random() < 0.8 else COLUMNS[:-1],
                rows=(),
                at_us=tuple(moments),
            )
        )
    stagings = [
        Staging(staging.batch, staging.worker, staging.columns, _rows(chance, dates, staging), staging.at_us)
        for staging in stagings
    ]
    jobs = []
    for number in range(chance.randint(len(batches), 7)):
        one = chance.random() < 0.1
        jobs.append(
            Job(
                batch=batches[number % len(batches)],
                at_us=moment(),
                use_lock=chance.random() >= 0.15,
                keep_merged_s=chance.choice((0.0, 86_400.0)),
                partitions=(dates[0].isoformat(),) if one else None,
            )
        )
    forces = [(moment(), f"props/{chance.choice(dates)}") for _ in range(chance.choice((0, 0, 0, 1, 2)))]
    return Scenario(
        stagings=tuple(stagings),
        jobs=tuple(jobs),
        initial=_initial(chance, dates),
        force_releases=tuple(forces),
        collections=tuple(moment() for _ in range(chance.choice((0, 0, 1, 2)))),
        commit_domain=chance.choice(("row", "table")),
        max_partitions=chance.choice((1, 1, 2)),
    )


def _rows(chance: random.Random, dates: Sequence[dt.date], staging: Staging) -> tuple[Row, ...]:
    rows = [_row(chance, chance.choice(dates)) for _ in range(chance.randint(1, 5))]
    return tuple(row[: len(staging.columns)] for row in rows)


def _row(chance: random.Random, date: dt.date) -> Row:
    return (
        f"id{chance.randrange(3)}",
        date,
        chance.choice(PLAYERS),
        chance.choice(LINES),
        chance.randrange(4),
        chance.choice((None, 20, 21)),
    )


def _initial(chance: random.Random, dates: Sequence[dt.date]) -> tuple[Row, ...]:
    rows = {(row[1], row[2], row[3]): row for row in (_row(chance, chance.choice(dates)) for _ in range(3))}
    return tuple(rows.values()) if chance.random() < 0.5 else ()
