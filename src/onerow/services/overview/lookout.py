"""Looks at a store for the page: section by section, each as often as it may cost.

A section that cannot be looked at keeps what was seen before, with its time and the reason; the others are not
affected. Nothing here reads a target table: what the last checks have found is read, with its time.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from onerow.errors import OnerowError, WarehouseBusyError
from onerow.services.overview import sights
from onerow.services.overview.figures import days_until, figures
from onerow.services.overview.model import Overview, Section
from onerow.services.overview.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.ports.clock import Clock
    from onerow.services.overview.figures import Figures
    from onerow.services.overview.model import Limits
    from onerow.services.runs import RunEntry
    from onerow.services.store import Store

DAY_S: Final = 86_400.0
MAX_DAYS: Final = 14
MAX_RUNS: Final = 50
PATIENCE_S: Final = 20.0
"""How long a viewer waits for a look that another one has begun, if there is nothing older to show."""

BUSY_GRACE_S: Final = 60.0
"""What was seen so lately still counts while somebody has the warehouse for himself."""

AGES_S: Final[Mapping[str, float]] = {
    "locks": 1.0,
    "incidents": 4.0,
    "checks": 4.0,
    "batches": 8.0,
    "runs": 8.0,
    "quarantine": 30.0,
}
"""How old each section may be before it is looked at again; each look costs reads, which some stores bill."""


@dataclass
class Lookout:
    """One for a process: any number of viewers share what it has seen. Safe between threads.

    Attributes:
        tables: those that are configured.
        limits: what is long.
        lend: lends a store to the thread that calls, as a pool does.
    """

    tables: Sequence[str]
    limits: Limits
    clock: Clock
    lend: Callable[[], AbstractContextManager[Store]]
    _seen: dict[str, tuple[float, Section[Any]]] = field(default_factory=dict)
    _known: dict[str, RunEntry] = field(default_factory=dict)
    _latest: Overview | None = None
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> Overview:
        """Return the overview; while another viewer's look goes on, the one before.

        Raises:
            WarehouseBusyError: somebody else looks for too long and nothing was seen before.
        """
        with self._turn() as mine:
            if mine:
                self._latest = self._look()
            if self._latest is None:
                raise WarehouseBusyError(
                    f"The first look at the warehouse takes longer than {PATIENCE_S:g} s; nothing was seen yet.",
                    hint="Try again in a moment.",
                )
            return self._latest

    def days(self) -> tuple[str, ...]:
        """Return the UTC days that figures are shown of, oldest first."""
        count = min(max(round(self.limits.since_s / DAY_S), 1), MAX_DAYS)
        return days_until(self.clock.utc_now(), count)

    def run(self, consolidation: str) -> RunEntry | None:
        """Return what was seen of a consolidation; None: nothing was."""
        return self._known.get(consolidation)

    def forget(self, *names: str) -> None:
        """Look at these sections again the next time, however young they are: something was done to them."""
        with self._looking:
            for name in names:
                if name in self._seen:
                    self._seen[name] = (self._seen[name][0] - DAY_S, self._seen[name][1])

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        mine = self._looking.acquire(timeout=PATIENCE_S if self._latest is None else 0.0)
        try:
            yield mine
        finally:
            if mine:
                self._looking.release()

    def _look(self) -> Overview:
        down: list[OnerowError] = []
        days = self.days()

        def see(name: str, look: Callable[[Store], object]) -> Section[Any]:
            return self._section(name, look, down)

        runs: Section[tuple[RunEntry, ...]] = see("runs", lambda store: self._runs(store, days[0]))
        batches: Section[sights.Batches] = see(
            "batches", lambda store: sights.batches(store, self.limits, self.clock.utc_now())
        )
        seen = batches.value or sights.Batches()
        parts = {
            "checks": see("checks", lambda store: sights.checks(store, self.limits)),
            "incidents": see("incidents", sights.incidents),
            "locks": see("locks", lambda store: sights.locks(store, self.limits, self.clock.utc_now())),
            "batches": Section(seen.batches, batches.as_of, batches.error, batches.error_kind),
            "backlog": Section(seen.backlog, batches.as_of, batches.error, batches.error_kind),
            "quarantine": see("quarantine", sights.quarantine),
            "runs": runs,
        }
        latest = None if runs.value is None else runs.value[:MAX_RUNS]
        by_day: Figures | None = None if runs.value is None else figures(runs.value, days)
        return Overview(
            taken_at=sights.iso(self.clock.utc_now()),
            verdict=verdict(**parts, now=self.clock.utc_now()),
            tables=tuple(self.tables),
            figures=Section(by_day, runs.as_of, runs.error, runs.error_kind),
            **{**parts, "runs": Section(latest, runs.as_of, runs.error, runs.error_kind)},
        )

    def _runs(self, store: Store, first_day: str) -> tuple[RunEntry, ...]:
        self._known = sights.runs(store, first_day, self._known)
        return tuple(sorted(self._known.values(), key=lambda run: run.started_at, reverse=True))

    def _section(self, name: str, look: Callable[[Store], object], down: list[OnerowError]) -> Section[Any]:
        """Look at one section, if it is old enough; ``down`` holds why no store could be had, for all of a look."""
        at_s, before = self._seen.get(name, (0.0, None))
        if before is not None and before.error is None and self.clock.monotonic_s() - at_s < AGES_S[name]:
            return before
        section: Section[Any]
        try:
            if down:
                raise down[0]
            with self._lent(down) as store:
                value = look(store)
            section = Section(value, as_of=sights.iso(self.clock.utc_now()))
        except OnerowError as error:
            young = before is not None and before.error is None and self.clock.monotonic_s() - at_s < BUSY_GRACE_S
            if before is not None and young and isinstance(error, WarehouseBusyError):
                return before  # a merge that takes its time is no reason to worry
            value, as_of = (None, "") if before is None else (before.value, before.as_of)
            section = Section(value, as_of, str(error), error.kind)
        self._seen[name] = (self.clock.monotonic_s(), section)
        return section

    @contextmanager
    def _lent(self, down: list[OnerowError]) -> Iterator[Store]:
        had = False
        try:
            with self.lend() as store:
                had = True
                yield store
        except OnerowError as error:
            if not had:
                down.append(error)
            raise
