"""What the processes of a run do: workers stage and consolidate, a reader looks, the one on call takes locks away."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from onerow.bootstrap import open_store
from onerow.errors import BatchNotFoundError, OnerowError, UsageError
from onerow.services.events import logger
from onerow.testing.chaos import journal as journals
from onerow.testing.chaos.bare import key_of, order_of
from onerow.testing.chaos.engines import bare_of
from onerow.testing.chaos.faults import Accidents, open_shaken
from onerow.testing.chaos.journal import Journal
from onerow.testing.chaos.plain import PlainMerge
from onerow.testing.chaos.plan import DAYS, draw_rows, row_of, step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onerow.config import Settings
    from onerow.services.store import Store
    from onerow.testing.chaos.bare import Row
    from onerow.testing.chaos.plan import Fault, Options, Step

READY = ".ready"
BEGUN = "begun"
WAIT_S = 0.01
AGAIN_S = 0.05
LOOK_EVERY_S = 0.08
TOLD_LOOKS_S = 0.5
MAX_TOLD = 20
GRAB_S = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a process is given.

    Attributes:
        settings: with the scratch table, and for workers with the lines that may be cut.
        folder: where journals are, and the file that says when the run has begun.
        number: of the worker.
    """

    settings: Settings
    options: Options
    table: str
    folder: Path
    number: int = 0

    def ready(self, role: str) -> float:
        """Say that everything is open, wait until everybody says so, and return when the run has begun.

        The time is the machine's monotonic one, which all processes share.
        """
        (self.folder / f"{role}-{self.number}{READY}").touch()
        while True:
            try:
                return float((self.folder / BEGUN).read_text(encoding="ascii"))
            except FileNotFoundError:
                time.sleep(WAIT_S)

    def journal(self, role: str) -> Journal:
        """Open the process's journal."""
        return Journal(self.folder / f"{role}-{self.number}{journals.SUFFIX}")


# --- workers -------------------------------------------------------------------------------


def work(task: Task) -> None:
    """Stage and consolidate, step by step, until the run is over; goes on where a killed predecessor ended."""
    journal = task.journal("worker")
    begun = [event["n"] for event in journals.read(journal.path) if event["e"] == "step"]
    journal.write("born", repeats=bool(begun))
    hand = PlainHand(task, journal) if task.options.plain else OnerowHand(task, journal)
    number, repeated = (begun[-1], True) if begun else (0, False)
    until_s = inf
    while time.monotonic() < until_s:
        try:
            with hand.opened():
                until_s = task.ready("worker") + task.options.seconds
                while time.monotonic() < until_s:
                    journal.write("step", n=number)
                    planned = step(task.options, task.number, number)
                    if repeated:  # what killed the predecessor must not kill each successor
                        planned = replace(planned, accident=None)
                    hand.do(planned)
                    number, repeated = number + 1, False
        except OnerowError as error:
            journal.error("open", error)
            time.sleep(AGAIN_S)


class OnerowHand:
    """Does a worker's steps with onerow."""

    def __init__(self, task: Task, journal: Journal) -> None:
        self._task = task
        self._journal = journal
        self._accidents = Accidents(journal)
        self._acknowledged: dict[str, set[str]] = defaultdict(set)
        self._store: Store | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Have the store open."""
        task = self._task
        with open_shaken(task.settings, task.options, worker=task.number, accidents=self._accidents) as store:
            self._store = store
            store.ports.warehouse.batches(task.table)  # so that it is really open
            yield

    def do(self, planned: Step) -> None:
        """Do one step; what fails is written down and left to others."""
        assert self._store is not None
        if planned.part:
            self._stage(self._store, planned)
        else:
            for _ in range(planned.times):
                self._consolidate(self._store, planned)

    def _stage(self, store: Store, planned: Step) -> None:
        draws = draw_rows(self._task.options, planned.part, planned.batch)
        self._journal.write("staging", batch=planned.batch, part=planned.part, rows=draws)
        for _ in range(2 if planned.again else 1):
            try:
                part = store.stage(
                    self._task.table,
                    [row_of(draw) for draw in draws],
                    batch=planned.batch,
                    worker=planned.part,
                )
            except OnerowError as error:
                self._journal.error("stage", error)
                continue
            self._journal.write("staged", part=planned.part, id=part.part_id, status=part.status)
            self._acknowledged[planned.batch].add(part.part_id)

    def _consolidate(self, store: Store, planned: Step) -> None:
        promised = frozenset(self._acknowledged[planned.batch])
        self._accidents.arm(planned.accident)
        with listening() as heard:
            try:
                result = store.consolidate(
                    self._task.table,
                    planned.batch,
                    partitions=None if planned.partition is None else [DAYS[planned.partition].isoformat()],
                    use_lock=planned.use_lock,
                )
            except BatchNotFoundError:
                self._journal.write("absent", batch=planned.batch)
                return
            except OnerowError as error:
                self._journal.error("consolidate", error)
                return
            finally:
                self._accidents.arm(None)
        self._journal.write("result", lock=planned.use_lock, heard=heard, result=result.to_json())
        if result.success and planned.partition is None and promised:
            self._look_after(store, planned.batch, promised)

    def _look_after(self, store: Store, batch: str, promised: frozenset[str]) -> None:
        """A success means that whatever this worker was acknowledged before it is in the ledger."""
        try:
            parts = store.ports.warehouse.merged(self._task.table, batch)
        except OnerowError as error:
            self._journal.error("look", error)
            return
        missing = promised - {part_id for part_id, _ in parts}
        self._journal.write("looked", batch=batch, missing=sorted(missing))


class PlainHand:
    """Does the same steps with the engine's own MERGE."""

    def __init__(self, task: Task, journal: Journal) -> None:
        self._task = task
        self._journal = journal
        self._bare = bare_of(task.settings, task.table)
        self._merger = PlainMerge(self._bare, task.folder / "plain")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Have the engine open, where it stays so."""
        self._bare.rows()
        yield

    def do(self, planned: Step) -> None:
        """Do one step."""
        if planned.part:
            draws = draw_rows(self._task.options, planned.part, planned.batch)
            self._journal.write("staging", batch=planned.batch, part=planned.part, rows=draws)
            self._merger.stage(planned.batch, planned.part, draws)
            self._journal.write("staged", part=planned.part, id=planned.part, status="staged")
            return
        for _ in range(planned.times):
            try:
                parts = self._merger.consolidate(planned.batch)
            except Exception as error:  # noqa: BLE001 -- whatever a driver raises is what a team would see
                self._journal.write("error", doing="merge", kind=type(error).__name__, message=str(error)[:500])
            else:
                self._journal.write("merged", batch=planned.batch, parts=parts)


@contextmanager
def listening() -> Iterator[Counter[str]]:
    """Count the events that onerow logs until the block ends."""
    heard: Counter[str] = Counter()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard[record.getMessage().removeprefix("onerow.")] += 1

    listener = Listener()
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield heard
    finally:
        logger.removeHandler(listener)


# --- the reader ----------------------------------------------------------------------------


def look(task: Task) -> None:
    """Look at the table all the time: no key twice, none vanishes, no row is replaced by an older one.

    What was seen once is at most so often told, and all of it counted.
    """
    journal = task.journal("reader")
    bare = bare_of(task.settings, task.table)
    bare.rows()
    until_s = task.ready("reader") + task.options.seconds
    newest: dict[Row, Row] = {}
    looks, told_s = 0, time.monotonic()
    found: Counter[str] = Counter()

    def tell(what: str, key: Row) -> None:
        found[what] += 1
        if found[what] <= MAX_TOLD:
            journal.write("saw", what=what, key=[str(value) for value in key])

    while time.monotonic() < until_s:
        try:
            rows = bare.rows()
        except Exception as error:  # noqa: BLE001 -- any driver's; a reader that cannot read is told, not ended
            journal.write("error", doing="read", kind=type(error).__name__, message=str(error)[:500])
            time.sleep(LOOK_EVERY_S)
            continue
        looks += 1
        seen: dict[Row, Row] = {}
        for row in rows:
            key = key_of(row)
            if key in seen:
                tell("duplicate", key)
            seen[key] = max(seen.get(key, order_of(row)), order_of(row))
        for key, order in newest.items():
            if key not in seen:
                tell("vanished", key)
            elif seen[key] < order:
                tell("older", key)
        newest |= seen
        if time.monotonic() - told_s > TOLD_LOOKS_S:
            told_s = time.monotonic()
            journal.write("looks", count=looks, rows=len(rows), **found)
        time.sleep(LOOK_EVERY_S)
    journal.write("looks", count=looks, rows=len(newest), **found)


# --- on call -------------------------------------------------------------------------------


def release(job: tuple[Task, list[Fault]]) -> None:
    """Take the lock of a scope away at each of the given times, from whoever holds it then."""
    task, forced = job
    journal = task.journal("on-call")
    chance = random.Random(f"{task.options.seed}/on-call")
    with open_store(task.settings) as store:
        store.ports.warehouse.batches(task.table)
        began_s = task.ready("on-call")
        for fault in forced:
            time.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
            deadline_s = min(began_s + task.options.seconds, time.monotonic() + GRAB_S)
            scope = f"{task.table}/{DAYS[fault.target].isoformat()}"
            while time.monotonic() < deadline_s:
                try:
                    done = store.locks.force_release(scope, reason="chaos", by="chaos on call", force=True)
                except UsageError:  # nobody holds it just now
                    time.sleep(chance.uniform(0.001, 0.01))
                    continue
                except OnerowError as error:
                    journal.error("force-release", error)
                else:
                    journal.write("forced", scope=scope, token=done.token, fence=done.fence, why=done.fence_error)
                break
