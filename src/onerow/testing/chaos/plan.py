"""What a run does, drawn from its seed: the scratch table, its rows, each worker's steps, the faults and their times.

Nothing here looks at a clock or a warehouse: one seed gives one plan. What the machine makes of it (who is
faster, which attempt is killed where) is different each time; that is what a torture test is for.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type

if TYPE_CHECKING:
    from collections.abc import Collection

PREFIX: Final = "onerow_chaos_"
"""Every scratch table's name begins so, and nothing else is ever dropped."""

DAYS: Final = tuple(dt.date(2026, 1, 10) + dt.timedelta(days=number) for number in range(3))
MIDNIGHT: Final = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)
KEYS: Final = 40
NEW_KEYS_A_BATCH: Final = 6
STEPS_A_BATCH: Final = 5
PARTITION: Final = "game_date"

COLUMNS: Final = {
    "prediction_id": "string",
    PARTITION: "date",
    "game_id": "string",
    "player_lookup": "string",
    "system_id": "string",
    "current_points_line": "decimal(6,2)",
    "predicted_points": "float64",
    "created_at": "timestamp",
}

Point = Literal["leased", "prepared", "commit", "applied"]
"""Where in a consolidation a worker stops or kills itself: the lease is held; the rows are prepared; right before
COMMIT, after the last look at the lease; right behind it, before anybody was told."""

Fate = Literal["stop", "kill"]
POINTS: Final[tuple[Point, ...]] = ("leased", "prepared", "commit", "applied")
FATES: Final[tuple[Fate, ...]] = ("stop", "kill")

Kind = Literal["kill", "pause", "force_release", "cut_warehouse", "cut_locks", "hang_warehouse", "hang_locks"]
Draw = tuple[str, int, int, int]
"""A row in short: its id, the number of its day, the number of its key, its second of the day."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is to be like.

    Attributes:
        processes: how many workers stage and consolidate.
        pause_leases: how long a pause lasts, in leases.
        fault_every_s: mean time between two faults of the schedule.
        unlocked: share of the consolidations that take no lock.
        accident: share of the consolidations in which the worker stops or kills itself at a point.
        stumbles: worker 0 stages batches of its own and stops at this point in each of its consolidations, until the
            others have committed ``resume_after`` times, however long that takes; nobody else has accidents. For
            controls.
        without: protections that are switched off, for controls: ``guard``, ``token``, ``lease_check``.
        plain: no onerow at all: the engine's own MERGE, for comparison.
        linger_s: how long every transaction waits before its COMMIT, so that two really overlap; for controls.
    """

    seconds: float
    processes: int
    seed: int
    lease_s: float = 2.0
    renew_every_s: float = 0.5
    max_wait_s: float = 20.0
    pause_leases: tuple[float, float] = (1.2, 2.0)
    fault_every_s: float = 1.5
    unlocked: float = 0.2
    accident: float = 0.06
    stumbles: Point | None = None
    resume_after: int = 4
    skewed: bool = True
    without: frozenset[str] = frozenset()
    plain: bool = False
    linger_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that the conductor does to the run.

    Attributes:
        at_s: seconds after the beginning.
        target: number of the worker, or of the partition of a forced release.
        lasts_s: how long it lasts, 0 for what is over at once.
    """

    at_s: float
    kind: Kind
    target: int = 0
    lasts_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """What a worker does next.

    Attributes:
        part: the name of a part that it stages; "" if it consolidates.
        again: stage it a second time, as a worker does that was not told.
        partition: number of the one partition that it consolidates; None for all.
        times: how often it consolidates.
        accident: what happens to it there.
    """

    batch: str
    part: str = ""
    again: bool = False
    partition: int | None = None
    times: int = 1
    use_lock: bool = True
    accident: tuple[Point, Fate] | None = None


def any_seed() -> int:
    """Return a seed that nobody has chosen."""
    return random.SystemRandom().randrange(1_000_000)


def scratch_spec(name: str) -> TableSpec:
    """Return the incident's table under the name of a scratch table."""
    return TableSpec(
        name=name,
        target=(name,),
        key=("game_id", "player_lookup", "system_id", "current_points_line"),
        partition=PARTITION,
        order_by=("created_at", "prediction_id"),
        columns=tuple(Column(column, parse_type(kind)) for column, kind in COLUMNS.items()),
        id_column="prediction_id",
        enforce=False,
    )


def step(options: Options, worker: int, number: int) -> Step:
    """Return the ``number``-th step of a worker."""
    chance = random.Random(f"{options.seed}/{worker}/{number}")
    now = number // STEPS_A_BATCH
    if options.stumbles is not None and worker == 0:
        own = f"{batch_name(now)}.{number // 2}"
        use_lock = chance.random() >= options.unlocked
        if number % 2 == 0:
            return Step(own, part=f"w{worker}-{number:05d}")
        return Step(own, use_lock=use_lock, accident=(options.stumbles, "stop"))
    kind = chance.random()
    if kind < 0.55:
        back = 8 if chance.random() < 0.1 else chance.randrange(3)  # a late part, or one of a batch of today
        return Step(batch_name(now - back), part=f"w{worker}-{number:05d}", again=chance.random() < 0.15)
    return Step(
        batch_name(now - chance.randrange(4)),
        partition=chance.randrange(len(DAYS)) if chance.random() < 0.15 else None,
        times=2 if chance.random() < 0.15 else 1,
        use_lock=chance.random() >= options.unlocked,
        accident=_accident(options, chance),
    )


def _accident(options: Options, chance: random.Random) -> tuple[Point, Fate] | None:
    if options.stumbles is not None or chance.random() >= options.accident:
        return None
    return chance.choice(POINTS), chance.choice(FATES)


def batch_name(number: int) -> str:
    """Return the name of a batch; the first one has no predecessors."""
    return f"b{max(number, 0):05d}"


def draw_rows(options: Options, part: str, batch: str) -> list[Draw]:
    """Return the rows of a part, in short. Neighbouring batches share most of their keys, and each brings new ones."""
    chance = random.Random(f"{options.seed}/{part}")
    first = int(batch[1:6]) * NEW_KEYS_A_BATCH
    return [
        (f"{part}-{number}", chance.randrange(len(DAYS)), first + chance.randrange(KEYS), chance.randrange(7200))
        for number in range(chance.randint(3, 14))
    ]


def row_of(draw: Draw) -> dict[str, Any]:
    """Return the row that a draw stands for. Lines of .00 and .50 and none at all are different keys."""
    name, day, key, second = draw
    line = None if key % 5 == 0 else Decimal(2400 + 50 * (key % 3)).scaleb(-2)
    return {
        "prediction_id": name,
        PARTITION: DAYS[day],
        "game_id": f"00226{day}{key % 7:04d}",  # a game is of one date
        "player_lookup": f"player{key // 3:05d}",
        "system_id": ("xgboost", "ensemble")[key % 2],
        "current_points_line": line,
        "predicted_points": float(second % 400) / 10,
        "created_at": MIDNIGHT + dt.timedelta(seconds=second),
    }


def schedule(options: Options, kinds: Collection[Kind]) -> list[Fault]:
    """Return the faults in order of time: every kind once before any kind comes again, at a seeded pace."""
    chance = random.Random(f"{options.seed}/faults")
    faults: list[Fault] = []
    at_s = chance.uniform(0.3, 0.7) * options.fault_every_s
    waiting: list[Kind] = []
    while kinds and at_s < options.seconds * 0.95:
        if not waiting:
            waiting = sorted(kinds)
            chance.shuffle(waiting)
        kind = waiting.pop()
        target = chance.randrange(len(DAYS) if kind == "force_release" else options.processes)
        lasts_s = 0.0
        if kind in {"pause", "hang_warehouse", "hang_locks"}:
            lasts_s = chance.uniform(*options.pause_leases) * options.lease_s
        elif kind in {"cut_warehouse", "cut_locks"}:
            lasts_s = chance.choice([0.0, 0.2, 0.7]) * options.lease_s
        faults.append(Fault(at_s, kind, target, lasts_s))
        at_s += chance.uniform(0.5, 1.5) * options.fault_every_s
    return faults
