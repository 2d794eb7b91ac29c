"""The warehouse: where the target tables, the guard, the fence and the ledger live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from onerow.core.partitions import decode_partition

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.core.partitions import Scope
    from onerow.core.plans import Committed, Merged, MergePlan, Outcome, Refused, Unknown
    from onerow.core.repairs import Intervention, PartitionRepair, Repaired, RepairPlan, RestorePlan
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; each is held up by a conformance test.

    Attributes:
        commit_domain: what two commits collide over: ``row``, ``table`` or ``file``.
        max_partitions: the most partitions that one transaction should take.
        max_rows: the most staged rows that one transaction should take, if it has several partitions.
        modes: the write modes it offers.
        enforces: whether it can hold a key by a unique index.
        interactive: whether a transaction can be held open between statements. Where it cannot, it is sent as a
            whole: a cancellation is asked before it is sent, and the statements of a guarded block return no rows.
    """

    commit_domain: Literal["row", "table", "file"]
    max_partitions: int
    max_rows: int
    modes: frozenset[str]
    enforces: bool = False
    interactive: bool = True


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the engine says, before anything runs, that reading the target would cost.

    Attributes:
        bytes_touched: of the partitions that would be merged into, all columns: a merge reads each of them at most
            once for every one of its statements.
        bytes_table: of the whole table; as many as ``bytes_touched`` if nothing is pruned.
    """

    bytes_touched: int
    bytes_table: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One part merged into one partition."""

    table: str
    partition: str | None
    part_id: str
    batch: str
    consolidation: str
    rows_staged: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One committed transaction's work in one partition, or a person's intervention.

    Attributes:
        action: ``consolidate``, ``force_release``, ``discard``, ``dedupe``, ``restore`` or ``guarded``.
        rows_inserted: of ``guarded`` and ``restore``, the net change of the partition's rows, which may be
            negative; of ``dedupe``, 0 or less: minus those of the rows moved aside that the history had explained,
            so that the sum over a partition explains its rows after every action.
        rows_superseded: of ``dedupe`` and ``restore``, the rows that were moved aside.
        committed_at: UTC, by the warehouse's clock.
        bytes_processed, slot_ms: what the transaction has cost with its preparation, over all its partitions, where the
            engine counts that (the preparation alone until the engine has told the rest); None where it does not.
    """

    action: str
    table: str
    partition: str | None
    batch: str
    consolidation: str
    attempt: int
    token: int | None
    unlocked: bool
    holder: str
    parts: int
    rows_staged: int
    rows_inserted: int
    rows_updated: int
    rows_unchanged: int
    rows_superseded: int
    merge_s: float
    verify_s: float
    committed_at: dt.datetime
    reason: str
    bytes_processed: int | None = None
    slot_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DuplicateKey:
    """A business key with several rows in one partition.

    Attributes:
        key: column names and values, as text; None is NULL.
        ids: values of the table's id column, if it declares one.
    """

    partition: str | None
    key: Mapping[str, str | None]
    rows: int
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found in a table."""

    check: str
    partition: str | None
    message: str
    rows: int


@dataclass(frozen=True, slots=True)
class TableCheck:
    """What ``inspect`` saw.

    Attributes:
        duplicate_keys: how many (partition, key) have several rows; ``duplicates`` are the first of them.
        extra_rows: rows beyond one per key.
    """

    table: str
    rows: int
    partitions: int
    duplicate_keys: int
    extra_rows: int
    duplicates: tuple[DuplicateKey, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """Which rows to look at, and for what.

    Attributes:
        partition: only this one.
        since: only partitions from this one on (canonical text).
        against_ledger: compare row counts with what the ledger says was inserted.
    """

    spec: TableSpec
    partition: str | None = None
    since: str | None = None
    against_ledger: bool = True
    limit: int = 20

    def covers(self, partition: str | None) -> bool:
        """Say whether a partition is to be looked at, also one that has no rows any more."""
        spec = self.spec
        if spec.partition is None or partition is None:
            return spec.partition is None
        if self.partition is not None:
            return partition == self.partition
        if self.since is None:
            return True
        kind = spec.by_name[spec.partition].type
        first, value = decode_partition(self.since, kind), decode_partition(partition, kind)
        return bool(value >= first)  # type: ignore[operator]  # both are of the column's type


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """Where to look for duplicates that are to be repaired.

    Attributes:
        partition: only this one.
        limit: how many keys to name.
    """

    spec: TableSpec
    partition: str | None = None
    limit: int = 20


class GuardedTransaction(Protocol):
    """The transaction in which people's own statements run."""

    @property
    def target(self) -> str:
        """The target table as a statement names it, quoted for the engine."""
        ...

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> Sequence[tuple[object, ...]]:
        """Run one statement in the engine's own dialect and return its rows, if it has any.

        Where transactions are not ``interactive`` it is looked at now and run when the block ends, with the others; one
        that returns rows is refused.

        Names without a schema are found where the target stands. After a statement has failed nothing of the block
        is committed, even if the block goes on.

        Raises:
            UsageError: it begins or ends a transaction, reaches beyond the warehouse, or is not one statement; it was
                not run, the block may go on.
            ConflictError: it lost against another transaction; run the whole block again.
            WarehouseError: the engine refuses it.
        """
        ...


class Prepared(Protocol):
    """A plan whose heavy part is done: the rows are read, checked and deduplicated."""

    @property
    def plan(self) -> MergePlan:
        """The plan."""
        ...


class Warehouse(Protocol):
    """One warehouse. Errors outside ``apply`` and ``resolve`` are raised as OnerowError."""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        ...

    def install(self, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> Sequence[str]:
        """Create what is missing: control tables, guard rows, target tables and missing columns.

        Returns:
            What was created, as lines for people; empty when all was there.

        Raises:
            ConfigurationError: a table that is there does not fit its spec; nothing was created.
            LockStoreMismatchError: a table is used with another lock store and ``adopt_locks`` is not set.
        """
        ...

    def merged(self, table: str, batch: str) -> Merged:
        """Return what the ledger names as merged of a batch."""
        ...

    def batches(self, table: str) -> Mapping[str, int]:
        """Return the batches that the ledger knows of, with the number of their parts."""
        ...

    def estimate(self, spec: TableSpec, partitions: Sequence[str | None]) -> Estimate | None:
        """Say what reading these partitions of the target would cost; None where the engine does not tell.

        Nothing runs.

        Raises:
            NotInstalledError: the target is not there.
        """
        ...

    def prepare(self, plan: MergePlan) -> AbstractContextManager[Prepared]:
        """Do what is heavy and needs no transaction: read the parts, check them, deduplicate.

        Raises:
            PartGoneError, PartCorruptError: a part is not there or not what its manifest promises.
        """
        ...

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Run the plan's steps in one transaction and say how it ended. Raises nothing on purpose.

        ``cancellation`` is asked right before the commit. All partitions of the plan commit or none.
        """
        ...

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """Find out how a transaction of unknown end has ended: take the guard, then read the ledger."""
        ...

    def guarded(
        self, work: Intervention, cancellation: Cancellation
    ) -> AbstractContextManager[GuardedTransaction]:
        """Run a block of people's own statements: guard, token, the block, verify, history, commit.

        An exception of the block rolls everything back. ``cancellation`` is asked right before the commit.

        Raises:
            ConflictError: lost against another transaction, nothing was committed.
            StaleLeaseError: a higher token has committed for the scope.
            DuplicatesError: the partition would hold a key twice; rolled back.
            OutcomeUnknownError: nobody can tell whether it has committed; ask ``settled``.
        """
        ...

    def settled(self, work: Intervention) -> bool:
        """Take the guard, then tell whether the transaction of ``work`` has committed; if not, it never will.

        Raises:
            OutcomeUnknownError: that cannot be found out now.
        """
        ...

    def plan_repair(self, request: RepairRequest) -> RepairPlan:
        """Find keys that stand more than once, with what made them so. Changes nothing."""
        ...

    def repair(self, work: Intervention, planned: PartitionRepair, cancellation: Cancellation) -> Repaired:
        """Keep the newest row of each key of one partition and move the others aside, in one transaction.

        They go to ``<target>_removed_duplicates`` with run, reason, batch (where it can be told) and time.

        Raises:
            PlanOutdatedError: the duplicates are not those of the plan any more; nothing was changed.
            As ``guarded``.
        """
        ...

    def plan_restore(
        self, spec: TableSpec, partition: str | None, *, run: str, key: Mapping[str, str | None]
    ) -> RestorePlan:
        """Tell what ``restore`` would exchange. Changes nothing.

        Raises:
            UsageError: ``run`` removed no row of that key in the partition.
        """
        ...

    def restore(
        self, work: Intervention, *, run: str, key: Mapping[str, str | None], cancellation: Cancellation
    ) -> Repaired:
        """Exchange the row of a key with the one that ``run`` removed: it comes back, the other goes aside.

        ``key`` is the business key, values as text; None is NULL. If ``run`` removed several rows of the key, the
        newest of them comes back.

        Raises:
            UsageError: ``run`` removed no row of that key in the partition.
            As ``guarded``.
        """
        ...

    def upkeep(self, specs: Sequence[TableSpec], *, apply: bool) -> Sequence[str]:
        """Keep the engine's own storage in check: small files, old snapshots.

        Returns:
            What would be done, or with ``apply`` what was done, as lines; empty where there is nothing to do.
        """
        ...

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of ``scope`` to ``token``, in a transaction of its own, with an audit entry.

        Returns:
            The fence after it.
        """
        ...

    def record(self, entry: HistoryEntry) -> None:
        """Write an audit entry of an intervention; ``committed_at`` is the warehouse's to tell."""
        ...

    def history(self, *, table: str | None, batch: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Return what was committed, newest first."""
        ...

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates, rows that break declared checks, and rows the ledger does not explain."""
        ...

    def probe(self, specs: Sequence[TableSpec]) -> Sequence[tuple[str, bool, str]]:
        """Check what is reachable, present and fitting.

        Returns:
            For ``doctor``: subject, whether it is well, and what is wrong or what was found.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


