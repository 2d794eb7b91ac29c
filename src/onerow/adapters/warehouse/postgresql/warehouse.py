"""PostgreSQL as a Warehouse."""

from __future__ import annotations

import datetime as dt
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from onerow.adapters.postgresql.connection import Server, begin, rollback, rows, run
from onerow.adapters.postgresql.sqlstate import classify, told
from onerow.adapters.warehouse.postgresql import inspection, repair, restore, steps
from onerow.adapters.warehouse.postgresql import install as installation
from onerow.adapters.warehouse.postgresql.control import control_statements
from onerow.adapters.warehouse.postgresql.guarded import Interventions
from onerow.adapters.warehouse.postgresql.merge import PreparedMerge, RefusedError, Transaction, prepare
from onerow.adapters.warehouse.postgresql.probe import probe
from onerow.adapters.warehouse.postgresql.refusals import refusal_of
from onerow.adapters.warehouse.postgresql.sessions import Interrupt, Sessions
from onerow.adapters.warehouse.postgresql.versions import VersionsTransaction
from onerow.core.plans import Committed, MergeCounts, Refused, Unknown
from onerow.errors import FencedError, OnerowError, WarehouseError
from onerow.ports.warehouse import Capabilities, HistoryEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.adapters.postgresql.connection import Connection
    from onerow.core.partitions import Scope
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

LEASE_S: Final = 30.0
BUSY_TIMEOUT_S: Final = 30.0

CAPABILITIES: Final = Capabilities(
    commit_domain="row",
    max_partitions=64,
    max_rows=2_000_000,
    modes=frozenset({"upsert", "versions"}),
    enforces=True,
)


class PostgresWarehouse:
    """A database of a PostgreSQL server, 15 or newer.

    Args:
        url: a libpq URL; it may hold a password and is never shown.
        lease_s: how long a lease lasts: a process that is frozen in its transaction is out after it.
        busy_timeout_s: how long to wait for a lock of somebody else.
        transaction: the steps; the test kit gives one with a step switched off.
        versions: the same for tables in versions mode.
        interventions: the steps of repairs and guarded blocks.
        server: connections to share; None: connections of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        control_schema: str = "onerow",
        lease_s: float = LEASE_S,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        transaction: type[Transaction] = Transaction,
        versions: type[VersionsTransaction] = VersionsTransaction,
        interventions: type[Interventions] = Interventions,
        server: Server | None = None,
    ) -> None:
        self.server = server or Server(url)
        self._schema = control_schema
        self._sessions = Sessions(self.server, lease_s=lease_s, busy_timeout_s=busy_timeout_s)
        self._transaction = transaction
        self._versions = versions
        self._control = control_statements(control_schema)
        self._interventions = interventions(self._sessions, self._control, control_schema=control_schema)

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return CAPABILITIES

    def install(self, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> Sequence[str]:
        """Create what is missing, in one transaction."""
        with self._sessions.changing("init failed", "init") as connection:
            return installation.install(
                connection,
                specs,
                self._control,
                control_schema=self._schema,
                lock_store=lock_store,
                adopt_locks=adopt_locks,
            )

    def merged(self, table: str, batch: str) -> Merged:
        """Return what the ledger names as merged of a batch."""
        with self._sessions.read() as connection:
            found = rows(connection, self._control["read_merged"], table, batch)
        return frozenset((part_id, partition) for part_id, partition in found)

    def batches(self, table: str) -> Mapping[str, int]:
        """Return the batches that the ledger knows of, with the number of their parts."""
        with self._sessions.read() as connection:
            return dict(rows(connection, self._control["read_batches"], table))

    def estimate(self, spec: TableSpec, partitions: Sequence[str | None]) -> Estimate | None:  # noqa: ARG002
        """Return None: what a query reads is not charged here."""
        return None

    @contextmanager
    def prepare(self, plan: MergePlan) -> Iterator[PreparedMerge]:
        """Begin the transaction, and read, check and deduplicate the parts; the guard is not taken yet."""
        with self.server.connection() as connection:
            try:
                with self._sessions.errors(f"the parts of batch {plan.batch!r} cannot be read"):
                    steps.ensure_guards(connection, self._control, plan.spec.name, plan.partitions)
                    settings = self._sessions.settings(connection, plan.spec.name, plan.holder)
                    begin(connection, settings=settings, heavy=True)
                    prepared = prepare(connection, plan, control_schema=self._schema)
                yield prepared
                if prepared.interrupted:  # a cancel that comes late must not meet somebody else's statement
                    connection.close()
            finally:
                rollback(connection)

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Run the plan's steps in the transaction that was begun with ``prepare``, and commit."""
        if not isinstance(prepared, PreparedMerge):
            raise TypeError("this plan was prepared by another warehouse")
        if prepared.used:
            return Refused("conflict", WarehouseError("This prepared transaction has ended already; prepare it anew."))
        prepared.used = True
        connection = prepared.connection
        kind = self._transaction if prepared.plan.spec.mode == "upsert" else self._versions
        transaction = kind(prepared, control=self._control, control_schema=self._schema)
        interrupt = Interrupt(connection)
        lookout = self._sessions.lookout(connection)
        try:
            cancellation.on_cancel(interrupt)
            with lookout:
                counts = transaction.run()
            cancellation.on_cancel(None)
            cancellation.raise_if_cancelled()
        except RefusedError as refusal:
            rollback(connection)
            return refusal.refusal
        except FencedError as error:
            rollback(connection)
            return Refused("cancelled", error)
        except psycopg.Error as error:
            rollback(connection)
            if classify(error) == "busy":
                return Refused("conflict", self._sessions.busy(lookout))
            return refusal_of(error, prepared.plan.spec, cancellation)
        except OnerowError as error:
            rollback(connection)
            return Refused("failed", error)
        finally:
            cancellation.on_cancel(None)
            prepared.interrupted = interrupt.withdraw()
        return self._commit(connection, prepared.plan, counts, transaction, cancellation)

    def _commit(
        self,
        connection: Connection,
        plan: MergePlan,
        counts: Mapping[str | None, MergeCounts],
        transaction: Transaction,
        cancellation: Cancellation,
    ) -> Outcome:
        """Commit. An error that the server reports is a rollback; a connection that breaks here tells nothing."""
        try:
            answer = connection.execute("commit").statusmessage
        except psycopg.Error as error:
            if connection.closed or error.sqlstate is None:
                return Unknown(
                    WarehouseError(f"The connection was lost while the commit was under way: {told(error)}.")
                )
            rollback(connection)
            return refusal_of(error, plan.spec, cancellation)
        if answer != "COMMIT":  # the server rolls an aborted transaction back without an error
            return Refused("conflict", WarehouseError("The commit was not kept."))
        return Committed(
            counts,
            merge_s=transaction.merge_s,
            verify_s=transaction.verify_s,
            duplicates_removed=transaction.duplicates_removed,
        )

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """Take the guard, then read what the transaction has left."""
        try:
            with self._sessions.changing("the outcome cannot be read", plan.spec.name, plan.holder) as connection:
                steps.change_guards(connection, self._control, plan.spec.name, plan.partitions)
                committed = self._read_committed(connection, plan)
        except OnerowError as error:
            return Unknown(error)
        if committed is None:
            return Refused(
                "conflict", WarehouseError(f"Transaction {plan.transaction} has not committed and never will.")
            )
        return committed

    def _read_committed(self, connection: Connection, plan: MergePlan) -> Committed | None:
        # Told by its partitions too: a number that another group of the run has used must not hide this commit.
        partitions = set(plan.partitions)
        values = (plan.spec.name, plan.consolidation, plan.attempt)
        entries = rows(connection, self._control["read_committed"], *values)
        found = [entry for entry in entries if entry[0] in partitions]
        if len(found) != len(plan.tasks):
            return None
        counts = {partition: MergeCounts(*numbers) for partition, *numbers, _, _ in found}
        removed = dict(rows(connection, self._control["read_interventions"], *values, "dedupe"))
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
        name = request.spec.name
        with self._sessions.changing("the table cannot be looked at", name, "dedupe", commit=False) as connection:
            return repair.plan_repair(connection, request, self._control)

    def repair(self, work: Intervention, planned: PartitionRepair, cancellation: Cancellation) -> Repaired:
        """Keep the newest row of each key of one partition and move the others aside."""
        with self._interventions.working(work, cancellation) as opened:
            return repair.repair_one(opened, planned, self._control)

    def plan_restore(
        self, spec: TableSpec, partition: str | None, *, run: str, key: Mapping[str, str | None]
    ) -> RestorePlan:
        """Tell what ``restore`` would exchange."""
        with self._sessions.changing("the table cannot be looked at", spec.name, commit=False) as connection:
            return restore.plan_restore(connection, spec, partition, run_id=run, key=key, control=self._control)

    def restore(
        self, work: Intervention, *, run: str, key: Mapping[str, str | None], cancellation: Cancellation
    ) -> Repaired:
        """Exchange the row of a key with the one that ``run`` removed."""
        with self._interventions.working(work, cancellation) as opened:
            return restore.restore_one(opened, run, key, self._control)

    def upkeep(self, specs: Sequence[TableSpec], *, apply: bool) -> Sequence[str]:  # noqa: ARG002
        """Return nothing: autovacuum keeps the tables in check."""
        return []

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of a scope, with an audit entry, in a transaction of its own."""
        name, partition = spec.name, scope.partition or ""
        with self._sessions.changing("the fence could not be raised", name, by) as connection:
            steps.change_guards(connection, self._control, name, [scope.partition])
            found = rows(connection, self._control["read_fences"], name, [partition])
            fence = max(token, *(value for _, value in found)) if found else token
            run(connection, self._control["delete_fences"], name, [partition])
            run(connection, self._control["insert_fences"], name, [partition], [fence])
            steps.write_history(
                connection,
                self._control,
                [(scope.partition, fence, 0, 0, 0, 0, 0, 0)],
                action="force_release",
                table=name,
                holder=by,
                reason=reason,
            )
        return fence

    def record(self, entry: HistoryEntry) -> None:
        """Write an audit entry."""
        counts = (
            entry.partition, entry.token, entry.parts, entry.rows_staged, entry.rows_inserted,
            entry.rows_updated, entry.rows_unchanged, entry.rows_superseded,
        )  # fmt: skip
        with self._sessions.changing("the audit entry could not be written", entry.table, entry.holder) as connection:
            steps.write_history(
                connection,
                self._control,
                [counts],
                action=entry.action,
                table=entry.table,
                batch=entry.batch,
                run_id=entry.consolidation,
                attempt=entry.attempt,
                unlocked=entry.unlocked,
                holder=entry.holder,
                merge_s=entry.merge_s,
                verify_s=entry.verify_s,
                reason=entry.reason,
            )

    def history(self, *, table: str | None, batch: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Return what was committed, newest first."""
        with self._sessions.read() as connection:
            found = rows(connection, self._control["read_history"], table, batch, limit)
        return [
            HistoryEntry(*(action, name, partition, *rest, at.astimezone(dt.UTC), reason))
            for action, name, partition, *rest, at, reason in found
        ]

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates and other findings."""
        name = request.spec.name
        with self._sessions.changing("the warehouse cannot be read", name, "check", commit=False) as connection:
            return inspection.inspect(connection, request, self._control)

    def probe(self, specs: Sequence[TableSpec]) -> Sequence[tuple[str, bool, str]]:
        """Check what is reachable, present, fitting and allowed."""
        began_s = time.perf_counter()
        try:
            with self._sessions.read() as connection:
                latency_s = time.perf_counter() - began_s
                return probe(connection, specs, self._control, control_schema=self._schema, latency_s=latency_s)
        except OnerowError as error:
            return [("warehouse", False, str(error))]

    def close(self) -> None:
        """Let go of connections."""
        self.server.close()
