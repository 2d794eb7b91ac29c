"""Faults by seed, each bounded to what must be survivable.

Every seed switches on another handful of them at other rates ("swarm testing"): a run in which everything
fails at once finds less than many runs in which a few things fail often.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

SECOND = 1_000_000
MAX_LATENCY_US = 3 * SECOND

CommitFate = Literal["plain", "conflict", "lost", "never", "late"]
SwapFate = Literal["plain", "error", "lost", "twice", "late"]


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """How often each fault strikes. Rates are per switch point or per call, from 0 to 1.

    Attributes:
        crash: a process is killed; an open transaction vanishes, one in its commit ends either way.
        pause: all actors of a process stand still, up to four leases long, while time runs on.
        latency: a call takes a while, so that time passes in the middle of things.
        lock_error: the lock store fails before it has done anything.
        swap_lost: a swap was written, the reply is lost. swap_late: it arrives long after it was given up.
        swap_twice: it is delivered twice and the second reply is the one that comes back.
        commit_lost: a commit was done, the reply is lost. commit_never: it was not done and nobody is
            told. commit_late: it is still on its way when the client has given up.
        conflict: the engine refuses a commit for a reason of its own.
        link_lost: the connection breaks in the middle of a transaction.
        apply_twice: a plan is delivered twice; the second run goes on its own.
        retire_error: the part store fails when parts are to be retired or purged.
        store_steps: how often the store's clock is set forward or back, up to an hour.
        store_drift_ppm, process_drift_ppm: how wrong clocks run; less than the margin between the renew
            deadline and the lease.
        forgets: how often the lock store loses all records; restores: how often an old copy comes back.
        lock_outages, warehouse_outages: how often they are down for up to a minute.
        long_merges: share of merges that take up to a minute.
    """

    crash: float = 0.0
    pause: float = 0.0
    latency: float = 0.0
    lock_error: float = 0.0
    swap_lost: float = 0.0
    swap_late: float = 0.0
    swap_twice: float = 0.0
    commit_lost: float = 0.0
    commit_never: float = 0.0
    commit_late: float = 0.0
    conflict: float = 0.0
    link_lost: float = 0.0
    apply_twice: float = 0.0
    retire_error: float = 0.0
    long_merges: float = 0.0
    store_steps: int = 0
    store_drift_ppm: int = 0
    process_drift_ppm: int = 0
    forgets: int = 0
    restores: int = 0
    lock_outages: int = 0
    warehouse_outages: int = 0

    @property
    def healthy(self) -> bool:
        """Whether nothing fails: what is left are delays."""
        return self == FaultPlan(latency=self.latency, long_merges=self.long_merges)

    @property
    def honest_leases(self) -> bool:
        """Whether the lock store keeps what it was told and its clock runs evenly."""
        return not (self.store_steps or self.forgets or self.restores)


HIGHEST: Mapping[str, float] = {
    "crash": 0.02,
    "pause": 0.02,
    "latency": 0.4,
    "lock_error": 0.1,
    "swap_lost": 0.15,
    "swap_late": 0.15,
    "swap_twice": 0.15,
    "commit_lost": 0.4,
    "commit_never": 0.3,
    "commit_late": 0.4,
    "conflict": 0.3,
    "link_lost": 0.03,
    "apply_twice": 0.4,
    "retire_error": 0.3,
    "long_merges": 0.5,
    "store_steps": 6,
    "store_drift_ppm": 50_000,
    "process_drift_ppm": 50_000,
    "forgets": 4,
    "restores": 4,
    "lock_outages": 3,
    "warehouse_outages": 3,
}
"""The highest rate of each fault; a seed draws from 0 to this for the faults that it switches on."""

HEALTHY_SHARE = 0.1
FAULT_SHARE = 0.35


def draw_plan(seed: int) -> FaultPlan:
    """Return the faults of a seed."""
    chance = random.Random(f"faults:{seed}")
    healthy = chance.random() < HEALTHY_SHARE
    values: dict[str, float] = {}
    for field_ in fields(FaultPlan):
        name, highest = field_.name, HIGHEST[field_.name]
        strikes, share = chance.random() < FAULT_SHARE, chance.random()
        if strikes and not (healthy and name not in {"latency", "long_merges"}):
            values[name] = round(share * highest) if isinstance(highest, int) else share * highest
    return replace(FaultPlan(), **values)  # type: ignore[arg-type]  # integers stay integers, see above


@dataclass(slots=True)
class Faults:
    """Decides, call by call, what goes wrong; counts what it did.

    Attributes:
        crashes_left, pauses_left: the bound on them, so that every run ends.
        active: False in the healing phase.
    """

    plan: FaultPlan
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    crashes_left: int = 6
    pauses_left: int = 6
    active: bool = True
    locks_down_until_us: int = 0
    warehouse_down_until_us: int = 0
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(f"strikes:{self.seed}")

    def strikes(self, rate: float, name: str) -> bool:
        """Say whether the fault of this name strikes now."""
        if rate and self.active and self._chance.random() < rate:
            self.counts[name] += 1
            return True
        return False

    def crash(self) -> bool:
        """Say whether the process dies here."""
        if self.crashes_left and self.strikes(self.plan.crash, "crash"):
            self.crashes_left -= 1
            return True
        return False

    def pause_us(self) -> int:
        """Return for how long the process stands still here, mostly 0."""
        if self.pauses_left and self.strikes(self.plan.pause, "pause"):
            self.pauses_left -= 1
            return self.between_us(1, 120)
        return 0

    def latency_us(self, point: str) -> int:
        """Return how long the work at a switch point takes, mostly 0."""
        if point == "merge" and self.strikes(self.plan.long_merges, "long_merge"):
            return self.between_us(5, 60)
        if self.plan.latency and self.active and self._chance.random() < self.plan.latency:
            return round(self._chance.random() ** 4 * MAX_LATENCY_US)
        return 0

    def commit_fate(self) -> CommitFate:
        """Return what becomes of a commit."""
        if self.strikes(self.plan.conflict, "conflict"):
            return "conflict"
        if self.strikes(self.plan.commit_lost, "commit_lost"):
            return "lost"
        if self.strikes(self.plan.commit_never, "commit_never"):
            return "never"
        if self.strikes(self.plan.commit_late, "commit_late"):
            return "late"
        return "plain"

    def swap_fate(self) -> SwapFate:
        """Return what becomes of a swap."""
        if self.strikes(self.plan.lock_error, "lock_error"):
            return "error"
        if self.strikes(self.plan.swap_lost, "swap_lost"):
            return "lost"
        if self.strikes(self.plan.swap_twice, "swap_twice"):
            return "twice"
        if self.strikes(self.plan.swap_late, "swap_late"):
            return "late"
        return "plain"

    def drift_ppm(self, highest_ppm: int) -> int:
        """Return how wrong a clock runs."""
        return self._chance.randint(-highest_ppm, highest_ppm) if highest_ppm else 0

    def between_us(self, lowest_s: float, highest_s: float) -> int:
        """Return a time by chance."""
        return round(self._chance.uniform(lowest_s, highest_s) * SECOND)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self.active = False
        self.locks_down_until_us = self.warehouse_down_until_us = 0
