"""The DuckDB file as a Warehouse."""

from __future__ import annotations

import datetime as dt
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import duckdb

from onerow.adapters.warehouse.duckdb import inspection, repair, steps
from onerow.adapters.warehouse.duckdb import install as installation
from onerow.adapters.warehouse.duckdb.database import Database, rows
from onerow.adapters.warehouse.duckdb.guarded import Interventions, rollback
from onerow.adapters.warehouse.duckdb.merge import (
    HASH_SEEDS,
    HashCollisionError,
    PreparedMerge,
    RefusedError,
    Transaction,
    prepare,
)
from onerow.adapters.warehouse.duckdb.versions import VersionsTransaction
from onerow.core.plans import Committed, MergeCounts, Refused, Unknown
from onerow.errors import (
    DuplicatesError,
    FencedError,
    LeaseLostError,
    NotInstalledError,
    OnerowError,
    RowRefusedError,
    WarehouseError,
)
from onerow.ports.warehouse import Capabilities, HistoryEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from onerow.core.partitions import Scope
    from onerow.core.parts import PartManifest
    from onerow.core.plans import Merged, MergePlan, Outcome
    from onerow.core.repairs import Intervention, PartitionRepair, Repaired, RepairPlan, RestorePlan
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import (
        Estimate,
        GuardedTransaction,
        InspectRequest,
        Prepared,
        RepairRequest,
        TableCheck,
    )

BUSY_TIMEOUT_S: Final = 30.0
TEMPORARY: Final = ("staged", "losers", "met", "broken_ties", "held", "latest", "stored")

CAPABILITIES: Final = Capabilities(
    commit_domain="file",
    max_partitions=400,
    max_rows=5_000_000,
    modes=frozenset({"upsert", "versions"}),
)


class EmbeddedWarehouse:
    """What is attached to a private instance of DuckDB: a file of its own, or a lake.

    Args:
        locate: gives the local path of a part's Parquet file, checked against its manifest.
        transaction: the steps; the test kit gives one with a step switched off.
        versions: the same for tables in versions mode.
        interventions: the same for work that merges no parts.
    """

    layout = installation.Layout()

    def __init__(
        self,
        database: Database,
        *,
        locate: Callable[[PartManifest], str],
        control_schema: str,
        transaction: type[Transaction],
        versions: type[VersionsTransaction],
        interventions: type[Interventions] = Interventions,
    ) -> None:
        self._database = database
        self._locate = locate
        self._schema = control_schema
        self._transaction = transaction
        self._versions = versions
        self._control = installation.control_statements(control_schema, own_guards=self.layout.own_guards)
        self._interventions = interventions(self._database, self._control)

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return CAPABILITIES

    def install(self, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> Sequence[str]:
        """Create what is missing, in one transaction."""
        with self._errors("init failed"), self._database.open(create=True) as connection:
            connection.execute("begin")
            try:
                made = installation.install(
                    connection,
                    specs,
                    self._control,
                    control_schema=self._schema,
                    lock_store=lock_store,
                    adopt_locks=adopt_locks,
                    layout=self.layout,
                )
                self._database.commit(connection, *specs)
            except BaseException:
                rollback(connection)
                raise
        return made

    def merged(self, table: str, batch: str) -> Merged:
        """Return what the ledger names as merged of a batch."""
        with self._read() as connection:
            found = rows(connection, self._control["read_merged"], table, batch)
        return frozenset((part_id, partition) for part_id, partition in found)

    def batches(self, table: str) -> Mapping[str, int]:
        """Return the batches that the ledger knows of, with the number of their parts."""
        with self._read() as connection:
            return dict(rows(connection, self._control["read_batches"], table))

    def estimate(self, spec: TableSpec, partitions: Sequence[str | None]) -> Estimate | None:  # noqa: ARG002
        """Return None: what a query reads is not charged here."""
        return None

    @contextmanager
    def prepare(self, plan: MergePlan) -> Iterator[PreparedMerge]:
        """Read, check and deduplicate the parts in memory; the file stays free for others."""
        connection = self._database.instance()
        try:
            yield self._prepare(connection, plan, 0)
        finally:
            with suppress(duckdb.ConnectionException):  # an instance that was given up has taken them along
                for name in TEMPORARY:
                    connection.execute(f"drop table if exists {name}")

    def _prepare(self, connection: duckdb.DuckDBPyConnection, plan: MergePlan, seed: int) -> PreparedMerge:
        while True:
            try:
                with self._errors(f"the parts of batch {plan.batch!r} cannot be read"):
                    return prepare(connection, plan, self._locate, seed=seed)
            except HashCollisionError:
                seed += 1
                if seed >= HASH_SEEDS:
                    raise

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Run the plan in one transaction."""
        if not isinstance(prepared, PreparedMerge):
            raise TypeError("this plan was prepared by another warehouse")
        while True:
            try:
                with self._database.open() as connection:
                    outcome = self._apply(connection, prepared, cancellation)
                    repairs = prepared.plan.spec.on_existing_duplicates == "repair"
                    if repairs and isinstance(outcome, Refused) and isinstance(outcome.error, DuplicatesError):
                        outcome = self._apply(connection, prepared, cancellation, repair=True)
                    return outcome
            except HashCollisionError as error:
                if prepared.seed + 1 >= HASH_SEEDS:
                    return Refused("failed", error)
                try:
                    prepared = self._prepare(self._database.instance(), prepared.plan, prepared.seed + 1)
                except OnerowError as again:
                    return Refused("failed", again)
            except OnerowError as error:
                return Refused("failed", error)

    def _apply(
        self,
        connection: duckdb.DuckDBPyConnection,
        prepared: PreparedMerge,
        cancellation: Cancellation,
        *,
        repair: bool = False,
    ) -> Outcome:
        plan = prepared.plan
        target_types = installation.target_types(connection, plan.spec)
        steps = self._transaction if plan.spec.mode == "upsert" else self._versions
        transaction = steps(
            connection,
            prepared,
            target_types=target_types,
            control=self._control.of(plan.spec.name),
            repairs=repair,
        )
        cancellation.on_cancel(connection.interrupt)
        try:
            connection.execute("begin")
            counts = transaction.run()
            cancellation.on_cancel(None)
            cancellation.raise_if_cancelled()
        except RefusedError as refusal:
            rollback(connection)
            return refusal.refusal
        except FencedError as error:
            rollback(connection)
            return Refused("cancelled", error)
        except duckdb.Error as error:
            rollback(connection)
            return self._refused(error, cancellation)
        except BaseException:
            rollback(connection)
            raise
        finally:
            cancellation.on_cancel(None)
        return self._commit(connection, plan, counts, transaction)

    def _commit(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: MergePlan,
        counts: Mapping[str | None, MergeCounts],
        transaction: Transaction,
    ) -> Outcome:
        """Commit, and look whether it was kept.

        DuckDB accepts the COMMIT of an aborted transaction without a word and keeps nothing; and one that
        failed on a full disk was rolled back. What the ledger says on the same connection is what is true.
        """
        failure: duckdb.Error | None = None
        try:
            self._database.commit(connection, plan.spec)
        except duckdb.Error as error:
            rollback(connection)
            failure = error
        try:
            committed = self._read_committed(connection, plan)
        except duckdb.Error as error:
            return Unknown(self._database.map_error(failure or error, "nobody can tell whether the commit was kept"))
        if committed is not None:
            return Committed(
                counts,
                merge_s=transaction.merge_s,
                verify_s=transaction.verify_s,
                duplicates_removed=transaction.duplicates_removed,
            )
        if failure is not None and not self._database.is_conflict(failure):
            return Refused("failed", self._database.map_error(failure, "the commit failed"))
        return Refused("conflict", WarehouseError("The commit was not kept."))

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """Take the guard, then read what the transaction has left."""
        try:
            with self._errors("the outcome cannot be read"), self._database.open() as connection:
                connection.execute("begin")
                try:
                    rows(connection, self._control.of(plan.spec.name)["change_guard"], plan.spec.name)
                    committed = self._read_committed(connection, plan)
                    self._database.commit(connection)
                except BaseException:
                    rollback(connection)
                    raise
        except OnerowError as error:
            return Unknown(error)
        if committed is None:
            return Refused(
                "conflict", WarehouseError(f"Transaction {plan.transaction} has not committed and never will.")
            )
        return committed

    def _read_committed(self, connection: duckdb.DuckDBPyConnection, plan: MergePlan) -> Committed | None:
        # Told by its partitions too: a number that another group of the run has used must not hide this commit.
        partitions = set(plan.partitions)
        found = [
            entry
            for entry in rows(
                connection, self._control["read_committed"], plan.spec.name, plan.consolidation, plan.attempt
            )
            if entry[0] in partitions
        ]
        if len(found) != len(plan.tasks):
            return None
        counts = {partition: MergeCounts(*numbers) for partition, *numbers, _, _ in found}
        removed = {}
        if plan.spec.on_existing_duplicates == "repair":
            run = (plan.spec.name, plan.consolidation, plan.attempt, "dedupe")
            removed = dict(rows(connection, self._control["read_interventions"], *run))
        return Committed(
            counts,
            merge_s=found[0][-2],
            verify_s=found[0][-1],
            read_back=True,
            duplicates_removed={name: count for name, count in removed.items() if name in partitions},
        )

    def guarded(
        self, work: Intervention, cancellation: Cancellation
    ) -> AbstractContextManager[GuardedTransaction]:
        """Run a block of people's own statements under guard and token."""
        return self._interventions.guarded(work, cancellation)

    def settled(self, work: Intervention) -> bool:
        """Take the guard, then tell whether the transaction of ``work`` has committed."""
        return self._interventions.settled(work)

    def plan_repair(self, request: RepairRequest) -> RepairPlan:
        """Find keys that stand more than once, with what made them so."""
        with self._read() as connection:
            types = installation.target_types(connection, request.spec)
            return repair.plan_repair(connection, request, types, self._control)

    def repair(self, work: Intervention, planned: PartitionRepair, cancellation: Cancellation) -> Repaired:
        """Keep the newest row of each key of one partition and move the others aside."""
        with self._interventions.transaction(work, cancellation) as opened, self._interventions.errors(cancellation):
            return repair.repair_one(opened, planned, self._control)

    def plan_restore(
        self, spec: TableSpec, partition: str | None, *, run: str, key: Mapping[str, str | None]
    ) -> RestorePlan:
        """Tell what ``restore`` would exchange."""
        with self._read() as connection:
            types, values = installation.target_types(connection, spec), repair.partition_values(spec, partition)
            found = repair.Repair(connection, spec, values, types, self._control)
            return repair.plan_restore(found, partition, run, key)

    def restore(
        self, work: Intervention, *, run: str, key: Mapping[str, str | None], cancellation: Cancellation
    ) -> Repaired:
        """Exchange the row of a key with the one that ``run`` removed."""
        with self._interventions.transaction(work, cancellation) as opened, self._interventions.errors(cancellation):
            return repair.restore_one(opened, run, key, self._control)

    def upkeep(self, specs: Sequence[TableSpec], *, apply: bool) -> Sequence[str]:  # noqa: ARG002
        """Return nothing: the engine keeps its file in check by itself."""
        return []

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of a scope, with an audit entry, in a transaction of its own."""
        name, partition = spec.name, scope.partition or ""
        control = self._control.of(name)
        with self._errors("the fence could not be raised"), self._database.open() as connection:
            connection.execute("begin")
            try:
                steps.change_guard(connection, control, name, None)
                found = rows(connection, control["read_fences"], name, [partition])
                fence = max(token, *(value for _, value in found)) if found else token
                rows(connection, control["delete_fences"], name, [partition])
                rows(connection, control["insert_fences"], name, [partition], [fence])
                steps.write_history(
                    connection,
                    control,
                    [(scope.partition, fence, 0, 0, 0, 0, 0, 0)],
                    action="force_release",
                    table=name,
                    holder=by,
                    reason=reason,
                )
                self._database.commit(connection)
            except BaseException:
                rollback(connection)
                raise
        return fence

    def record(self, entry: HistoryEntry) -> None:
        """Write an audit entry."""
        with self._errors("the audit entry could not be written"), self._database.open() as connection:
            counts = (
                entry.partition, entry.token, entry.parts, entry.rows_staged, entry.rows_inserted,
                entry.rows_updated, entry.rows_unchanged, entry.rows_superseded,
            )  # fmt: skip
            connection.execute("begin")
            try:
                steps.write_history(
                    connection,
                    self._control,
                    [counts],
                    action=entry.action,
                    table=entry.table,
                    batch=entry.batch,
                    run=entry.consolidation,
                    attempt=entry.attempt,
                    unlocked=entry.unlocked,
                    holder=entry.holder,
                    merge_s=entry.merge_s,
                    verify_s=entry.verify_s,
                    reason=entry.reason,
                )
                self._database.commit(connection)
            except BaseException:
                rollback(connection)
                raise

    def history(self, *, table: str | None, batch: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Return what was committed, newest first."""
        with self._read() as connection:
            found = rows(connection, self._control["read_history"], table, batch, limit)
        return [
            HistoryEntry(*(action, name, partition, *rest, at.replace(tzinfo=dt.UTC), reason))
            for action, name, partition, *rest, at, reason in found
        ]

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates and other findings."""
        with self._read() as connection:
            types = installation.target_types(connection, request.spec)
            return inspection.inspect(connection, request, types, self._control.of(request.spec.name))

    def probe(self, specs: Sequence[TableSpec]) -> Sequence[tuple[str, bool, str]]:
        """Check what is reachable, present and fitting."""
        try:
            with self._read() as connection:
                return installation.probe(connection, specs, self._control, control_schema=self._schema)
        except OnerowError as error:
            return [("warehouse", False, str(error))]

    def close(self) -> None:
        """Let go of connections."""
        self._database.close()

    @contextmanager
    def _read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._errors("the warehouse cannot be read"), self._database.open(read_only=True) as connection:
            yield connection

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except duckdb.CatalogException as error:
            raise NotInstalledError(
                f"{doing}: {str(error).splitlines()[0]}", hint="Run `onerow init` to create what is missing."
            ) from error
        except duckdb.Error as error:
            raise self._database.map_error(error, doing) from error

    def _refused(self, error: duckdb.Error, cancellation: Cancellation) -> Refused:
        """Return the refusal that an error before the commit stands for."""
        if isinstance(error, duckdb.InterruptException):
            try:
                cancellation.raise_if_cancelled()
            except FencedError as lost:
                return Refused("cancelled", lost)
            return Refused("cancelled", LeaseLostError("The merge was interrupted."))
        if self._database.is_conflict(error):
            return Refused("conflict", self._database.map_error(error, "the transaction lost against another one"))
        if isinstance(error, duckdb.CatalogException):
            return Refused(
                "failed",
                NotInstalledError(
                    f"Something is missing in the warehouse: {str(error).splitlines()[0]}", hint="Run `onerow init`."
                ),
            )
        if isinstance(error, duckdb.ConstraintException):
            return Refused(
                "failed",
                RowRefusedError(
                    f"The target refuses a row: {str(error).splitlines()[0]}",
                    hint='Declare the column as required ("TYPE not null") so that such rows are refused when staged.',
                ),
            )
        return Refused("failed", self._database.map_error(error, "the merge failed"))


class DuckDBWarehouse(EmbeddedWarehouse):
    """One DuckDB file; see ``EmbeddedWarehouse``."""

    def __init__(
        self,
        path: Path,
        *,
        locate: Callable[[PartManifest], str],
        control_schema: str = "onerow",
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        transaction: type[Transaction] = Transaction,
        versions: type[VersionsTransaction] = VersionsTransaction,
        interventions: type[Interventions] = Interventions,
    ) -> None:
        super().__init__(
            Database(path, busy_timeout_s=busy_timeout_s),
            locate=locate,
            control_schema=control_schema,
            transaction=transaction,
            versions=versions,
            interventions=interventions,
        )
