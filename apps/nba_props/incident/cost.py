"""What the protections cost: the same 587 rows in 15 parts with and without them, in the original design and in onerow.

Each side really runs, in turns, on a DuckDB file; onerow without its protections has no lease, guard, token, ledger and
verification. On the incident's warehouse and lock store the services take their time, so every call is counted as it is
made and charged what the report on the incident says of it, where it tells of the impact on performance:

- a consolidation took 5 to 30 s, "MERGE only";
- a query that validates a date took 1 to 2 s; so long we take any job of its own that reads little;
- getting the lock took 50 to 100 ms, a transaction of two operations; so long we take two operations on a lock.

Of one thing the report has no number: what a small statement costs within a script that runs already. onerow sends
guard, token, ledger and verification to BigQuery as such statements; they are counted in the script that its adapter
makes of the same plan. The result is told for several times that one might take, and for which of them the protections
would be a tenth. Nothing of this was measured on the real service.
"""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import sqlglot
from rich.table import Table
from sqlglot import exp

import onerow
from incident.night import DATE, Parts
from incident.original import MachineClock, OriginalDesign, OriginalLock
from onerow.adapters.bigquery.names import DIALECT, Names, bigquery_type
from onerow.adapters.clock import Threads
from onerow.adapters.locks.sqlite import SqliteLocks
from onerow.adapters.warehouse.bigquery.preparation import Cost as JobCost
from onerow.adapters.warehouse.bigquery.preparation import PreparedMerge as BigQueryMerge
from onerow.adapters.warehouse.bigquery.script import MergeSteps, Turn
from onerow.adapters.warehouse.bigquery.statements import Statements, values_of
from onerow.adapters.warehouse.duckdb.merge import Transaction
from onerow.adapters.warehouse.duckdb.warehouse import DuckDBWarehouse
from onerow.services.leases import Leases
from onerow.services.store import Store
from predictions import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from onerow.adapters.warehouse.duckdb.merge import PreparedMerge
    from onerow.core.plans import MergeCounts, Merged, MergePlan
    from onerow.ports.lockstore import Entry

BATCH: Final = "one_batch"
REPEATS: Final = 5
TENTH: Final = 0.1


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long a service takes, in seconds.

    Attributes:
        merge_s: what reads the staged rows and merges them, whatever is around it.
        query_s: any other job.
        lock_s: an operation on the lock store.
        statement_s: a small statement within a script that runs already.
    """

    merge_s: float
    query_s: float = 1.5
    lock_s: float = 0.0375
    statement_s: float = 0.0


MERGES_S: Final = (5.0, 17.5, 30.0)
"""The shortest, the middle and the longest of the report."""
STATEMENTS_S: Final = (0.0, 0.1, 0.5)


@dataclass
class Run:
    """What a side has done, counted as it was done.

    Attributes:
        real_s: how long it took here.
        merges: jobs that merge; ``queries``: other jobs; ``locks``: operations on the lock store; ``statements``: small
            ones within a script.
        plans: what was merged by scripts with protections.
    """

    real_s: float = 0.0
    merges: int = 0
    queries: int = 0
    locks: int = 0
    statements: int = 0
    plans: list[MergePlan] = field(default_factory=list)

    def total_s(self, service: Latencies) -> float:
        """Return how long it takes where the services take so long."""
        return (
            self.real_s
            + self.merges * service.merge_s
            + self.queries * service.query_s
            + self.locks * service.lock_s
            + self.statements * service.statement_s
        )


def small_statements(plan: MergePlan) -> int:
    """Return how many statements BigQuery runs for a plan's script beside the MERGE: with BEGIN and COMMIT."""
    spec, names = plan.spec, Names("a-project", "a_dataset", "onerow")
    types = tuple((column.name, bigquery_type(column.type)) for column in spec.stored_columns)
    statements = Statements(spec, names, types, values_of(spec, plan.partitions), names.own("staged", spec.name))
    script = MergeSteps(BigQueryMerge(plan, statements, 0.0, JobCost()), Turn("a job")).script()
    trees = [tree for tree in sqlglot.parse(script, dialect=DIALECT) if tree is not None]
    target = names.target(spec).table
    return sum(not isinstance(tree, exp.Declare) and not _merges_into(tree, target) for tree in trees)


def _merges_into(tree: exp.Expr, target: str) -> bool:
    return isinstance(tree, exp.Merge) and tree.this.name == target


def without(folder: Path, parts: Parts) -> Run:
    """Run the original design: one MERGE, no protection."""
    return _original(folder, parts, fixed=False)


def with_the_fix(folder: Path, parts: Parts) -> Run:
    """Run the original design with the team's fix: a lock around the MERGE, and a query that validates after it."""
    return _original(folder, parts, fixed=True)


def _original(folder: Path, parts: Parts, *, fixed: bool) -> Run:
    folder.mkdir(parents=True)
    design, lock, run = OriginalDesign(folder / "original.duckdb"), OriginalLock({}, MachineClock()), Run(merges=1)
    try:
        for number, rows in enumerate(parts):
            design.stage(BATCH, f"worker_{number}", rows)
        with _timed(run):
            if fixed:
                lock.try_acquire(DATE)
                run.locks, run.queries = 3, 1  # read and write, the deletion; the validation
            if not design.consolidate(BATCH, DATE, validate=fixed):
                raise RuntimeError("The consolidation has failed.")
            if fixed:
                lock.release(DATE)
    finally:
        design.close()
    return run


def onerow_without(folder: Path, parts: Parts) -> Run:
    """Run what is left of onerow without its protections."""
    return _onerow(folder, parts, protected=False)


def with_onerow(folder: Path, parts: Parts) -> Run:
    """Run onerow."""
    return _onerow(folder, parts, protected=True)


def _onerow(folder: Path, parts: Parts, *, protected: bool) -> Run:
    found, run = settings.settings_of(f"{folder}/"), Run()
    with onerow.open(found) as opened:
        opened.init()
        for number, rows in enumerate(parts):
            opened.stage(settings.TABLE, rows, batch=BATCH, worker=f"worker_{number}")
        with _counted(opened, found, run, protected=protected) as store, _timed(run):
            result = store.consolidate(settings.TABLE, BATCH, use_lock=protected)
    if result.status != "committed":
        raise RuntimeError(f"The consolidation has ended as {result.status}: {result.error}")
    run.statements = sum(map(small_statements, run.plans))
    return run


@contextmanager
def _timed(run: Run) -> Iterator[None]:
    begun_s = time.perf_counter()
    yield
    run.real_s = time.perf_counter() - begun_s


@contextmanager
def _counted(opened: Store, found: onerow.Settings, run: Run, *, protected: bool) -> Iterator[Store]:
    """Have the same store with ports that count what is asked of them."""
    ports, lock_file, file = opened.ports, found.locks.path, found.warehouse.path
    if lock_file is None or file is None:
        raise RuntimeError("The embedded default is in files.")
    locks = _Locks(lock_file, run)
    leases = Leases(
        store=locks, clock=ports.clock, background=Threads(), ids=ports.ids, settings=ports.leases.settings
    )
    made = _Warehouse if protected else _Unprotected
    warehouse = made(file, run, locate=lambda part: str(ports.parts.verify(part)))  # type: ignore[attr-defined]
    counted = replace(ports, warehouse=warehouse, locks=locks, leases=leases)
    with Store(ports=counted, tables=opened.tables, holder=opened.holder) as store:
        yield store


class _Locks(SqliteLocks):
    """Counts operations: each is one request to Firestore."""

    def __init__(self, path: Path, run: Run) -> None:
        super().__init__(path)
        self._run = run

    def read(self, key: str) -> Entry:
        self._run.locks += 1
        return super().read(key)

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        self._run.locks += 1
        return super().swap(key, expected=expected, value=value)


class _Steps(Transaction):
    """Counts merges, and keeps their plans."""

    run_counted: ClassVar[Run]

    def merge(self) -> None:
        self.run_counted.merges += 1
        self.run_counted.plans.append(self.plan)
        super().merge()


class _UnprotectedSteps(_Steps):
    """Merges and nothing else; it is recorded all the same, by which this engine knows that it has committed."""

    def guard(self) -> None:
        """Change no guard row."""

    def token(self) -> None:
        """Compare nothing."""

    def todo(self) -> None:
        """Ask no ledger."""

    def verify(self, counts: Mapping[str | None, MergeCounts]) -> None:
        """Look at nothing."""

    def merge(self) -> None:
        self.run_counted.merges += 1
        Transaction.merge(self)


class _Warehouse(DuckDBWarehouse):
    """Counts jobs: the ledger is read by one, the staged rows are prepared by one, the script is one."""

    steps: ClassVar[type[_Steps]] = _Steps

    def __init__(self, path: Path, run: Run, *, locate: Callable[[Any], str]) -> None:
        super().__init__(path, locate=locate, transaction=type("Counted", (self.steps,), {"run_counted": run}))
        self._run = run

    def merged(self, table: str, batch: str) -> Merged:
        self._run.queries += 1
        return super().merged(table, batch)

    @contextmanager
    def prepare(self, plan: MergePlan) -> Iterator[PreparedMerge]:
        self._run.queries += 1  # its work is in the incident's MERGE too, the job is one more
        with super().prepare(plan) as prepared:
            yield prepared


class _Unprotected(_Warehouse):
    """Asks no ledger either."""

    steps = _UnprotectedSteps

    def merged(self, table: str, batch: str) -> Merged:  # noqa: ARG002 -- the port's
        return frozenset()


ORIGINAL: Final = "original"
FIXED: Final = "original with the fix"
BARE: Final = "onerow, protections off"
ONEROW: Final = "onerow"
SIDES: Final[dict[str, Callable[[Path, Parts], Run]]] = {
    ORIGINAL: without,
    FIXED: with_the_fix,
    BARE: onerow_without,
    ONEROW: with_onerow,
}


@dataclass(frozen=True)
class Cost:
    """What paired runs have cost.

    Attributes:
        runs: of each side, those of one pair at the same place.
    """

    runs: Mapping[str, list[Run]]

    def share(self, side: str, base: str, service: Latencies) -> float:
        """Return the median share of a side's consolidation that another one would not have had."""
        pairs = zip(self.runs[side], self.runs[base], strict=True)
        return statistics.median(1 - bare.total_s(service) / run.total_s(service) for run, bare in pairs)

    def real_ms(self, side: str) -> float:
        """Return the median of how long a side took here."""
        return statistics.median(run.real_s for run in self.runs[side]) * 1_000

    def statement_budget_s(self, service: Latencies) -> float:
        """Return how long a small statement may take for the protections to stay a tenth; below 0: they are more."""
        free = replace(service, statement_s=0.0)
        pairs = zip(self.runs[ONEROW], self.runs[BARE], strict=True)
        return statistics.median(
            (bare.total_s(free) / (1 - TENTH) - run.total_s(free)) / run.statements for run, bare in pairs
        )


def measure(folder: Path, night: Mapping[str, Parts], *, repeats: int = REPEATS) -> Cost:
    """Run all sides in turns, each time in another order."""
    parts = [rows for found in night.values() for rows in found]
    runs: dict[str, list[Run]] = {name: [] for name in SIDES}
    names = list(SIDES)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            runs[name].append(SIDES[name](folder / f"{names.index(name)}_{repeat}", parts))
    return Cost(runs)


def table_of(cost: Cost) -> Table:
    """Return shares as people read them."""
    table = Table("a MERGE takes", FIXED, *(_statement(each_s) for each_s in STATEMENTS_S), "a tenth up to")
    for merge_s in MERGES_S:
        services = [Latencies(merge_s, statement_s=each_s) for each_s in STATEMENTS_S]
        shares = [cost.share(ONEROW, BARE, service) for service in services]
        budget_s = cost.statement_budget_s(services[0])
        table.add_row(
            f"{merge_s:.1f} s",
            _share(cost.share(FIXED, ORIGINAL, services[0])),
            *map(_share, shares),
            "-" if budget_s < 0 else f"{budget_s * 1_000:.0f} ms a statement",
        )
    return table


def _statement(each_s: float) -> str:
    return "onerow, statements in a script free" if not each_s else f"{each_s * 1_000:.0f} ms each"


def _share(value: float) -> str:
    return f"[{'green' if value < TENTH else 'red'}]{value:.1%}[/]"


def told(cost: Cost) -> list[str]:
    """Return what else people are told."""
    middle = Latencies(MERGES_S[1])
    calls = cost.runs[ONEROW][0]
    real = ", ".join(f"{name} {cost.real_ms(name):.0f} ms" for name in SIDES)
    whole = cost.share(ONEROW, ORIGINAL, middle)
    charged = (
        f"{calls.queries} jobs of {middle.query_s:.1f} s, {calls.locks} operations on locks of "
        f"{middle.lock_s * 1_000:.1f} ms, {calls.statements} small statements in the script"
    )
    return [
        f"Here, on a DuckDB file: {real} (medians of {len(cost.runs[ONEROW])} paired runs).",
        f"Charged to onerow besides the MERGE: {charged}.",
        f"All of onerow against the original, in the middle: {whole:.1%}; a second job prepares what one MERGE did.",
        "Nobody has measured what a small statement in a script takes on the real service.",
    ]
