"""What the checks of part stores and warehouses need of a backend, and rows to check with."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from onerow.adapters.staging.checks import RowChecks
from onerow.adapters.staging.readers import open_source
from onerow.core.partitions import Scope
from onerow.core.plans import Committed, MergePlan, Refused, plan_merge, unmerged
from onerow.core.spec import Column, TableSpec
from onerow.core.types import ColumnType
from onerow.errors import LeaseLostError
from onerow.services.stager import Stager
from onerow.testing.conformance.asking import raises

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onerow.core.parts import PartManifest
    from onerow.core.plans import Outcome
    from onerow.ports.clock import Cancellation
    from onerow.ports.partstore import PartStore
    from onerow.ports.warehouse import Warehouse

    IsMerged = Callable[[str, str, str, tuple[str | None, ...]], bool]

Row = dict[str, Any]

LOCKS = "locks-under-test"
DAY, NEXT_DAY = dt.date(2026, 1, 17), dt.date(2026, 1, 18)
NOON = dt.datetime(2026, 1, 17, 12, tzinfo=dt.UTC)

COLUMNS = (
    Column("id", ColumnType("string")),
    Column("game_date", ColumnType("date")),
    Column("player", ColumnType("string")),
    Column("line", ColumnType("decimal", 6, 2)),
    Column("created_at", ColumnType("timestamp")),
    Column("points", ColumnType("float64")),
    Column("seen", ColumnType("int64")),
)

SPEC = TableSpec(
    name="props",
    target=("props",),
    key=("player", "line"),
    partition="game_date",
    order_by=("created_at",),
    columns=COLUMNS,
    id_column="id",
)

VERSIONS = replace(SPEC, mode="versions", version_column="version")
"""``SPEC`` with every content of a key kept."""


def a_row(**values: Any) -> Row:
    """Return a row of ``SPEC`` with some values changed."""
    row: Row = {
        "id": "id-1",
        "game_date": DAY,
        "player": "jokic",
        "line": Decimal("24.50"),
        "created_at": NOON,
        "points": 20.5,
        "seen": 1,
    }
    unknown = values.keys() - row.keys()
    assert not unknown, unknown
    return {**row, **values}


def at(seconds: float) -> dt.datetime:
    """Return a moment so many seconds after noon."""
    return NOON + dt.timedelta(seconds=seconds)


class PartStoreHarness(ABC):
    """Joins the suites to a part store. Every harness begins with an empty one."""

    @abstractmethod
    def store(self, is_merged: IsMerged | None = None) -> PartStore:
        """Return a new object on the same store, as another process would have it; it asks ``is_merged``."""

    @abstractmethod
    def rows(self, part: PartManifest) -> list[Row]:
        """Return the part's rows as a warehouse reads them.

        Raises:
            PartGoneError, PartCorruptError: as a warehouse meets them.
        """

    @abstractmethod
    def lose_data(self, part: PartManifest) -> None:
        """Let the part's data vanish, as somebody's clean-up by hand would."""

    @abstractmethod
    def damage_data(self, part: PartManifest) -> None:
        """Let the part's data be something else than its manifest promises."""

    @abstractmethod
    def damage_manifest(self, part: PartManifest) -> None:
        """Let the part's manifest be unreadable."""

    @abstractmethod
    def damage_quarantine(self, table: str, quarantine_id: str) -> None:
        """Let the rows of an entry be something else than what was put aside."""

    @abstractmethod
    def age(self, parts: Sequence[PartManifest], seconds: float) -> None:
        """Let retired parts, and what crashed writers have left, be older by ``seconds``."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""


class WarehouseHarness(ABC):
    """Joins the suites to a warehouse and the part store that it reads from. Begins with nothing installed.

    Attributes:
        parameter: how a statement of the engine names the first of its parameters.
        has_own_clock: whether the engine's time is not that of this machine.
        second_row_raises: what the engine raises at a second row of a key, where it holds the key itself; None: it
            takes it.
        rounds: how often a race is run; fewer where each takes long.
    """

    spec: TableSpec = SPEC
    parameter: str = "?"
    has_own_clock: bool = False
    second_row_raises: type[Exception] | None = None
    rounds: int = 10

    @property
    @abstractmethod
    def parts(self) -> PartStore:
        """The part store."""

    @abstractmethod
    def warehouse(self) -> Warehouse:
        """Return another warehouse object on the same store, as another process would have it."""

    @abstractmethod
    def table_rows(self, spec: TableSpec) -> list[Row]:
        """Return all rows of the target with the stored columns of ``spec``, in any order.

        These are the declared columns and, in versions mode, the version.
        """

    @abstractmethod
    def related_rows(self, spec: TableSpec, suffix: str) -> list[Row]:
        """Return all rows and columns of the table or view ``<target><suffix>``, such as ``_duplicates``.

        Timestamps are aware and in UTC, decimals Decimal.
        """

    @abstractmethod
    def foreign_insert(self, spec: TableSpec, rows: Sequence[Row]) -> None:
        """Insert rows, all or none, as somebody does who does not use onerow; in versions mode they have a version."""

    @abstractmethod
    def foreign_delete_all(self, spec: TableSpec) -> None:
        """Delete all rows of the target the way somebody does who does not use onerow."""

    @abstractmethod
    def foreign_fence(self, spec: TableSpec, partition: str | None, token: int) -> None:
        """Put one more fence row beside those that are there, as an interrupted repair by hand would."""

    @abstractmethod
    def forget_ledger(self, spec: TableSpec) -> None:
        """Remove all entries of a table from the ledger, as somebody does who prunes it; the history stays."""

    @abstractmethod
    def lose_data(self, part: PartManifest) -> None:
        """Let a part's data vanish."""

    @abstractmethod
    def damage_data(self, part: PartManifest) -> None:
        """Let a part's data be something else than its manifest promises."""

    def let_go_of_key(self, spec: TableSpec) -> None:
        """Have the engine hold the key no longer, as somebody does who drops its index.

        Raises:
            NotImplementedError: the engine holds no key.
        """
        raise NotImplementedError(f"{type(self).__name__} holds no key of {spec.name!r}")

    def snapshot(self) -> object:
        """Return a backup of the whole warehouse, its control tables included; the part store is not part of it.

        Raises:
            NotImplementedError: the harness makes no backups; the check that needs one fails.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no backups")

    def go_back(self, moment: object) -> None:
        """Restore a backup that ``snapshot`` has made."""
        raise NotImplementedError(f"{type(self).__name__} makes no backups, so there is no {moment!r}")

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    # --- what the checks are written with --------------------------------------------------

    def stage(
        self,
        batch: str,
        worker: str,
        rows: Sequence[Row],
        *,
        spec: TableSpec | None = None,
        columns: Sequence[str] | None = None,
    ) -> PartManifest:
        """Stage rows as every program does, with ``columns`` only if they are given; return the manifest."""
        spec = spec or self.spec
        source = open_source([{name: row[name] for name in columns or row} for row in rows])
        stager = Stager(parts=self.parts, checks_for=RowChecks)
        told = stager.stage(spec, source, batch=batch, worker=worker)
        (manifest,) = (part for part in self.parts.parts(spec.name, batch) if part.part_id == told.part_id)
        return manifest

    def installed(self, spec: TableSpec | None = None, **changes: Any) -> TableSpec:
        """Install a table and return its spec: ``SPEC`` with some fields changed."""
        spec = spec or (replace(SPEC, **changes) if changes else SPEC)
        self.warehouse().install([spec], lock_store=LOCKS, adopt_locks=False)
        self.spec = spec
        return spec

    def plan(
        self,
        batch: str,
        *,
        spec: TableSpec | None = None,
        token: int | Mapping[Any, int] | None = 1,
        run: str = "",
        attempt: int = 1,
        partitions: Sequence[str | None] | None = None,
        lock_store: str | None = LOCKS,
        ask_ledger: bool = False,
    ) -> MergePlan:
        """Return the plan for what waits of a batch; ``token`` None is a run without a lock."""
        spec = spec or self.spec
        merged = self.warehouse().merged(spec.name, batch) if ask_ledger else frozenset()
        waiting = unmerged(self.parts.parts(spec.name, batch), merged, partitioned=spec.partition is not None)
        waiting = {name: parts for name, parts in waiting.items() if partitions is None or name in partitions}
        assert waiting, "the check has staged nothing that waits"
        tokens = {}
        if token is not None:
            tokens = {Scope(spec.name, name): token if isinstance(token, int) else token[name] for name in waiting}
        return plan_merge(
            spec=spec,
            batch=batch,
            consolidation=run or f"run of {batch}",
            attempt=attempt,
            holder="checker",
            waiting=waiting,
            tokens=tokens,
            lock_store=lock_store if token is not None else None,
        )

    def apply(
        self,
        plan: MergePlan,
        *,
        before_commit: Callable[[], None] | None = None,
        cancellation: Cancellation | None = None,
        on: Warehouse | None = None,
    ) -> Outcome:
        """Prepare and apply a plan, on a warehouse object of its own if none is given."""
        warehouse = on or self.warehouse()
        with warehouse.prepare(plan) as prepared:
            return warehouse.apply(prepared, cancellation or Watch(before_commit))

    def merge(self, batch: str, **plan: Any) -> Outcome:
        """Plan and apply what waits of a batch."""
        return self.apply(self.plan(batch, **plan))

    def plant_duplicates(self, rows: Sequence[Row], *, spec: TableSpec | None = None) -> bool:
        """Insert rows of which some share a key, as somebody would who does not use onerow.

        Returns:
            Whether they are there. An engine that holds the key has refused them, all of them, and a check that is
            about duplicates has seen what there is to see.
        """
        spec = spec or self.spec
        if self.second_row_raises is None:
            self.foreign_insert(spec, rows)
            return True
        before = sorted_rows(self.table_rows(spec))
        with raises(self.second_row_raises):
            self.foreign_insert(spec, rows)
        assert sorted_rows(self.table_rows(spec)) == before
        return False

    def keys_with_several_rows(self, spec: TableSpec | None = None) -> list[tuple[Any, ...]]:
        """Return what breaks I1 in the table, without the warehouse."""
        spec = spec or self.spec
        found = Counter(tuple(row[name] for name in spec.identity) for row in self.table_rows(spec))
        return [key for key, count in found.items() if count > 1]


def counted(outcome: Outcome, partition: str | None = DAY.isoformat()) -> tuple[int, int, int, int, int]:
    """Return staged, inserted, updated, unchanged and superseded rows of a commit."""
    assert isinstance(outcome, Committed), outcome
    counts = outcome.counts[partition]
    assert counts.add_up
    return (counts.staged, counts.inserted, counts.updated, counts.unchanged, counts.superseded)


def sorted_rows(rows: Sequence[Row]) -> list[Row]:
    """Return rows in an order of their own, for comparison."""
    return sorted(rows, key=lambda row: [(name, value is None, str(value)) for name, value in sorted(row.items())])


def assert_table(harness: WarehouseHarness, expected: Sequence[Row]) -> None:
    """Check that the table holds these rows and no others."""
    assert sorted_rows(harness.table_rows(harness.spec)) == sorted_rows(expected)


def refused(outcome: Outcome, reason: str) -> Refused:
    """Return the refusal, which has this reason."""
    assert isinstance(outcome, Refused), outcome
    assert outcome.reason == reason, outcome
    return outcome


def lose_lease() -> None:
    """Raise what a holder raises that has lost its lease."""
    raise LeaseLostError("The lease is lost.")


class Watch:
    """A cancellation that runs something right before the commit, and notes what it was asked."""

    def __init__(self, before_commit: Callable[[], None] | None = None) -> None:
        self._before_commit = before_commit
        self.asked = 0
        self.interrupts: list[Callable[[], None] | None] = []

    def raise_if_cancelled(self) -> None:
        """Run it, once."""
        self.asked += 1
        work, self._before_commit = self._before_commit, None
        if work is not None:
            work()

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        """Note the interrupt; nobody calls it."""
        self.interrupts.append(interrupt)
