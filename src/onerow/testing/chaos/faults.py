"""What goes wrong inside a worker: a clock that lies, accidents at named points, protections switched off.

All of it stands around the product: a clock is a port, a point is reached through a wrapper of the warehouse port,
and a protection is switched off by giving the warehouse a transaction without that step.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from onerow.adapters.clock import SystemClock
from onerow.bootstrap import open_store
from onerow.services.leases import HeldLeases
from onerow.services.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from onerow.config import Settings
    from onerow.core.plans import MergePlan, Outcome
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import Prepared, Warehouse
    from onerow.testing.chaos.journal import Journal
    from onerow.testing.chaos.plan import Options, Point

SKEW_S = 3_600.0
RATES = (0.4, 0.8, 1.0, 1.25, 2.5)
"""How fast a worker's monotonic clock runs: one that is slow believes in a lease that has long ended."""


class SkewedClock:
    """A process's clock that is wrong by up to an hour and runs too slow or too fast."""

    def __init__(self, *, ahead_s: float, rate: float) -> None:
        self._clock = SystemClock()
        self._ahead = dt.timedelta(seconds=ahead_s)
        self._rate = rate
        self._began_s = self._clock.monotonic_s()

    def monotonic_s(self) -> float:
        """Return seconds that pass at the clock's own rate."""
        return self._began_s + (self._clock.monotonic_s() - self._began_s) * self._rate

    def sleep_s(self, seconds: float) -> None:
        """Wait, in true seconds."""
        self._clock.sleep_s(seconds)

    def utc_now(self) -> dt.datetime:
        """Return the wrong time."""
        return self._clock.utc_now() + self._ahead


class Accidents:
    """Stops or kills this process when it reaches the point that was armed, once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._armed: tuple[Point, str] | None = None

    def arm(self, accident: tuple[Point, str] | None) -> None:
        """Have it happen at the next time that the point is reached; None: nothing happens."""
        self._armed = accident

    def reach(self, point: Point) -> None:
        """Say that the process is there."""
        if self._armed is None or self._armed[0] != point:
            return
        fate, self._armed = self._armed[1], None
        self._journal.write("accident", at=point, fate=fate)
        os.kill(os.getpid(), signal.SIGSTOP if fate == "stop" else signal.SIGKILL)


class WatchedWarehouse:
    """A warehouse whose transactions say where they are."""

    def __init__(self, inner: Warehouse, accidents: Accidents, *, linger_s: float) -> None:
        self._inner = inner
        self._accidents = accidents
        self._linger_s = linger_s

    def __getattr__(self, name: str) -> Any:
        """What is not here is the warehouse's own."""
        return getattr(self._inner, name)

    def prepare(self, plan: MergePlan) -> AbstractContextManager[Prepared]:
        """Prepare the plan, with a stop before it."""
        self._accidents.reach("leased")
        return self._inner.prepare(plan)

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Run the plan, with a stop at each point."""
        self._accidents.reach("prepared")
        outcome = self._inner.apply(prepared, WatchedCancellation(cancellation, self._before_commit))
        self._accidents.reach("applied")
        return outcome

    def _before_commit(self) -> None:
        time.sleep(self._linger_s)
        self._accidents.reach("commit")


class WatchedCancellation:
    """The last question before a commit; the accident comes right behind the answer."""

    def __init__(self, inner: Cancellation, behind: Callable[[], None]) -> None:
        self._inner = inner
        self._behind = behind

    def raise_if_cancelled(self) -> None:
        """Ask."""
        self._inner.raise_if_cancelled()
        self._behind()

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        """Pass it on."""
        self._inner.on_cancel(interrupt)


def open_shaken(settings: Settings, options: Options, *, worker: int, accidents: Accidents) -> Store:
    """Open the store of one worker: its clock is wrong, and it is told at which points it is.

    Every other worker removes the data of merged parts at once, so that a part that was removed too early is
    really gone.
    """
    chance = random.Random(f"{options.seed}/clock/{worker}")
    clock = SkewedClock(
        ahead_s=chance.uniform(-SKEW_S, SKEW_S) if options.skewed else 0.0,
        rate=RATES[worker % len(RATES)] if options.skewed else 1.0,
    )
    store = open_store(settings, clock=clock)
    warehouse = switch_off(store.ports.warehouse, options.without & {"guard", "token"})
    watched = WatchedWarehouse(warehouse, accidents, linger_s=options.linger_s)
    if "lease_check" in options.without:  # in this process alone: the holder never notices that its lease is gone
        setattr(HeldLeases, HeldLeases.raise_if_cancelled.__name__, _nothing)
    leases = store.ports.leases
    leases.settings = replace(leases.settings, turn_duration_s=options.lease_s)
    return Store(
        ports=replace(store.ports, warehouse=cast("Warehouse", watched)),
        tables=store.tables,
        holder=f"chaos worker {worker} (process {os.getpid()})",
        keep_merged_s=0.0 if worker % 2 else store.keep_merged_s,
    )


def _nothing(_held: HeldLeases) -> None:
    """Stand where a holder would ask whether it still holds its leases."""


def switch_off(warehouse: Warehouse, steps: Collection[str]) -> Warehouse:
    """Leave steps out of the warehouse's transactions: for controls, from the test kit only."""
    if steps:
        own = warehouse._transaction  # type: ignore[attr-defined]  # noqa: SLF001 -- every adapter has it for this
        nothing = dict.fromkeys(steps, lambda transaction: None)  # noqa: ARG005 -- a method that does nothing
        warehouse._transaction = type("Weakened", (own,), nothing)  # type: ignore[attr-defined]  # noqa: SLF001
    return warehouse
