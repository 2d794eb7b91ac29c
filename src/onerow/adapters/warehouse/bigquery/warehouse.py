"""BigQuery as a Warehouse: what is heavy is prepared by jobs of its own, then one script commits."""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from google.cloud import bigquery

from onerow.adapters.bigquery.client import REQUEST_TIMEOUT_S
from onerow.adapters.bigquery.patience import ONCE
from onerow.adapters.warehouse.bigquery import inspection, sql
from onerow.adapters.warehouse.bigquery import install as installation
from onerow.adapters.warehouse.bigquery import probe as probing
from onerow.adapters.warehouse.bigquery.commits import Commits, SignalError
from onerow.adapters.warehouse.bigquery.guarded import Interventions
from onerow.adapters.warehouse.bigquery.layout import staged_table
from onerow.adapters.warehouse.bigquery.preparation import Preparation, PreparedMerge, target_types
from onerow.adapters.warehouse.bigquery.repair import Repairs
from onerow.adapters.warehouse.bigquery.script import MergeSteps, Turn
from onerow.adapters.warehouse.bigquery.signals import outcome_of
from onerow.adapters.warehouse.bigquery.statements import CONTROL, Statements, control_pieces, values_of
from onerow.adapters.warehouse.bigquery.versions import VersionsSteps
from onerow.core.plans import Committed, MergeCounts, Refused, Unknown
from onerow.errors import (
    ConflictError,
    DuplicatesError,
    FencedError,
    OnerowError,
    OutcomeUnknownError,
    WarehouseBusyError,
    WarehouseError,
)
from onerow.ports.warehouse import Capabilities, Estimate, HistoryEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.adapters.bigquery.client import BigQuery, Parameter
    from onerow.adapters.bigquery.names import TableName
    from onerow.adapters.bigquery.results import JobFacts, Ran
    from onerow.core.partitions import Scope
    from onerow.core.parts import PartManifest
    from onerow.core.plans import Merged, MergePlan, Outcome
    from onerow.core.repairs import Intervention, PartitionRepair, Repaired, RepairPlan, RestorePlan
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import GuardedTransaction, InspectRequest, Prepared, RepairRequest, TableCheck

logger = logging.getLogger("onerow")

CAPABILITIES: Final = Capabilities(
    commit_domain="table",
    max_partitions=200,
    max_rows=20_000_000,
    modes=frozenset({"upsert", "versions"}),
    interactive=False,
)


class BigQueryWarehouse:
    """A dataset with targets and the dataset of their control tables.

    Args:
        merging, versions, interventions: the steps; the test kit gives some with a step switched off.
        preparation: makes the scratch tables of a plan.
    """

    def __init__(
        self,
        client: BigQuery,
        *,
        merging: type[MergeSteps] = MergeSteps,
        versions: type[MergeSteps] = VersionsSteps,
        interventions: type[Interventions] = Interventions,
        preparation: Callable[..., Preparation] = Preparation,
    ) -> None:
        self._client = client
        self._commits = Commits(client)
        self._steps = {"upsert": merging, "versions": versions}
        self._interventions = interventions(client, self._commits)
        self._repairs = Repairs(client, self._interventions)
        self._preparation = preparation

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return CAPABILITIES

    def install(self, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> Sequence[str]:
        """Create what is missing."""
        return installation.install(self._client, specs, lock_store=lock_store, adopt_locks=adopt_locks)

    # --- merging ---------------------------------------------------------------------------

    def estimate(self, spec: TableSpec, partitions: Sequence[str | None]) -> Estimate | None:
        """Have the service plan the read of these partitions and of the whole table; free, nothing runs."""
        target = self._client.table(self._client.names.target(spec))
        statements = Statements(spec, self._client.names, target_types(target, spec), values_of(spec, partitions))
        touched, table = (
            self._client.dry_run(statements("merge.sql", name)) for name in ("read_touched", "read_table")
        )
        return Estimate(touched, table)

    @contextmanager
    def prepare(self, plan: MergePlan) -> Iterator[PreparedMerge]:
        """Read, check and deduplicate the parts into a scratch table; nothing of the target is touched."""
        preparation = self._preparation(self._client, plan, self._table_of)
        try:
            yield preparation.run()
        finally:
            for made in preparation.made:
                self._drop(made, plan.spec)

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Run the plan as one script."""
        if not isinstance(prepared, PreparedMerge):
            raise TypeError("this plan was prepared by another warehouse")
        outcome = self._apply(prepared, cancellation)
        repairs = prepared.plan.spec.on_existing_duplicates == "repair"
        if repairs and isinstance(outcome, Refused) and isinstance(outcome.error, DuplicatesError):
            return self._apply(prepared, cancellation, repair=True)
        return outcome

    def _apply(self, prepared: PreparedMerge, cancellation: Cancellation, *, repair: bool = False) -> Outcome:
        plan = prepared.plan
        steps = self._steps[plan.spec.mode]

        turns: list[Turn] = []

        def script(turn: Turn) -> str:
            turns.append(turn)
            found = steps(prepared, turn)
            return found.script(repair=self._repairs.for_merge(found) if repair else ())

        job = job_of(plan) + (" repair" if repair else "")
        began_s = time.perf_counter()
        try:
            ran = self._commits.run(job, script, cancellation)
        except SignalError as refusal:
            tokens = {task.token for task in plan.tasks}
            scope = str(plan.scope(plan.tasks[0])) if len(plan.tasks) == 1 else plan.spec.name
            return outcome_of(refusal.signal, plan.spec, scope, tokens.pop() if len(tokens) == 1 else None)
        except FencedError as error:
            return Refused("cancelled", error)
        except OutcomeUnknownError as error:
            return Unknown(error)
        except (ConflictError, WarehouseBusyError) as error:
            return Refused("conflict", error)
        except OnerowError as error:
            return Refused("failed", error)
        committed = committed_of(plan, ran.rows)
        if committed is None:
            return Unknown(WarehouseError("The script has ended, and the history does not name it."))
        if not ran.adopted:
            self._tell_cost(plan, turns[-1].mine, ran.job)
        prepared.cost.add(ran)
        cost = {"bytes_processed": prepared.cost.bytes_processed, "slot_ms": prepared.cost.slot_ms}
        merge_s = prepared.prepare_s + time.perf_counter() - began_s
        return replace(committed, read_back=False, merge_s=merge_s, details=cost)

    def _tell_cost(self, plan: MergePlan, name: str, job: JobFacts) -> None:
        """Have the history told what a script has cost. Nobody waits for it, and no commit fails by it."""
        statement = sql.render(
            sql.templates(CONTROL)["insert_cost"], control_pieces(self._client.names, plan.spec.name)
        )
        numbers = {"attempt": plan.attempt, "bytes_processed": job.bytes_processed, "slot_ms": job.slot_ms}
        texts = {"name": plan.spec.name, "batch": plan.batch, "run": plan.consolidation, "holder": plan.holder}
        config = bigquery.QueryJobConfig(
            query_parameters=[
                *(text(name, value) for name, value in (texts | {"job": name}).items()),
                *(bigquery.ScalarQueryParameter(name, "INT64", value) for name, value in numbers.items()),
            ],
            labels={"tool": "onerow", "onerow_step": "cost"},
        )
        try:
            self._client.call(
                "the cost of a script could not be recorded",
                lambda client: client.query(
                    statement, job_config=config, location=self._client.location, retry=ONCE, job_retry=None,
                    timeout=REQUEST_TIMEOUT_S,
                ),
            )  # fmt: skip
        except OnerowError as error:
            logger.warning("onerow.cost_not_recorded", extra={"facts": {"error": error.message}})

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """See to it that no job of the plan runs or will, take the guard, then read what it has left."""
        try:
            for job in (job_of(plan), f"{job_of(plan)} repair"):
                self._commits.settle(job)
            statements = Statements(plan.spec, self._client.names, ())
            about: Mapping[str, sql.Piece] = {
                "run": sql.string(plan.consolidation), "attempt": sql.integer(plan.attempt),
            }  # fmt: skip
            ran = self._under_guard(plan.spec, statements(CONTROL, "read_committed", **about))
        except OnerowError as error:
            return Unknown(error)
        committed = committed_of(plan, ran.rows)
        if committed is None:
            return Refused(
                "conflict", WarehouseError(f"Transaction {plan.transaction} has not committed and never will.")
            )
        return committed

    def _under_guard(self, spec: TableSpec, *then: str) -> Ran:
        """Change the guard in a transaction of its own, then run statements."""
        return self._interventions.under_guard(spec, (), then)

    # --- interventions ---------------------------------------------------------------------

    def guarded(
        self, work: Intervention, cancellation: Cancellation
    ) -> AbstractContextManager[GuardedTransaction]:
        """Collect the statements of a block and run them as one script under guard and token."""
        return self._interventions.guarded(work, cancellation)

    def settled(self, work: Intervention) -> bool:
        """Take the guard, then tell whether the transaction of ``work`` has committed."""
        return self._interventions.settled(work)

    def plan_repair(self, request: RepairRequest) -> RepairPlan:
        """Find keys that stand more than once, with what made them so."""
        return self._repairs.plan(request)

    def repair(self, work: Intervention, planned: PartitionRepair, cancellation: Cancellation) -> Repaired:
        """Keep the newest row of each key of one partition and move the others aside."""
        return self._repairs.repair(work, planned, cancellation)

    def plan_restore(
        self, spec: TableSpec, partition: str | None, *, run: str, key: Mapping[str, str | None]
    ) -> RestorePlan:
        """Tell what ``restore`` would exchange."""
        return self._repairs.plan_restore(spec, partition, run, key)

    def restore(
        self, work: Intervention, *, run: str, key: Mapping[str, str | None], cancellation: Cancellation
    ) -> Repaired:
        """Exchange the row of a key with the one that ``run`` removed."""
        return self._repairs.restore(work, run, key, cancellation)

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of a scope, with an audit entry, in a transaction of its own."""
        return self._interventions.raise_fence(spec, scope, token=token, by=by, reason=reason)

    def record(self, entry: HistoryEntry) -> None:
        """Write an audit entry: an append, which conflicts with nothing."""
        self._client.run(self._interventions.entry_statement(entry))

    # --- looking ---------------------------------------------------------------------------

    def merged(self, table: str, batch: str) -> Merged:
        """Return what the ledger names as merged of a batch."""
        found = self._read("read_merged", table, text("name", table), text("batch", batch))
        return frozenset((part_id, partition) for part_id, partition in found)

    def batches(self, table: str) -> Mapping[str, int]:
        """Return the batches that the ledger knows of, with the number of their parts."""
        return dict(self._read("read_batches", table, text("name", table)))

    def history(self, *, table: str | None, batch: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Return what was committed, newest first."""
        pieces = {**control_pieces(self._client.names, table or ""), "limit": sql.integer(limit)}
        statement = sql.render(sql.templates(CONTROL)["read_history"], pieces)
        found = self._client.run(statement, [text("name", table), text("batch", batch)]).rows
        return [
            replace(HistoryEntry(*told), bytes_processed=bytes_processed, slot_ms=slot_ms)
            for *told, bytes_processed, slot_ms in found
        ]

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates and other findings."""
        return inspection.inspect(self._client, request)

    def probe(self, specs: Sequence[TableSpec]) -> Sequence[tuple[str, bool, str]]:
        """Check what is reachable, present and fitting."""
        return probing.probe(self._client, specs)

    def upkeep(self, specs: Sequence[TableSpec], *, apply: bool) -> Sequence[str]:
        """Return nothing: the engine keeps its storage in check, and scratch tables of the killed expire in a day."""
        del specs, apply
        return []

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    # --- within ----------------------------------------------------------------------------

    def _table_of(self, part: PartManifest) -> TableName:
        return staged_table(self._client.names, part)

    def _drop(self, table: TableName, spec: TableSpec) -> None:
        """Drop a scratch table. One that cannot be dropped now expires by itself; what was committed stays so."""
        try:
            self._client.call(
                f"the scratch table {table} could not be removed",
                lambda client: client.delete_table(
                    table.reference, not_found_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S
                ),
            )
        except OnerowError as error:
            facts = {"table": spec.name, "scratch": str(table), "error": error.message}
            logger.warning("onerow.cleanup_failed", extra={"facts": facts})

    def _read(self, name: str, table: str, *parameters: Parameter) -> tuple[tuple[Any, ...], ...]:
        statement = sql.render(sql.templates(CONTROL)[name], control_pieces(self._client.names, table))
        return self._client.run(statement, parameters).rows


def text(name: str, value: str | None) -> Parameter:
    """Return a text as a query parameter."""
    return bigquery.ScalarQueryParameter(name, "STRING", value)


def job_of(plan: MergePlan) -> str:
    """Return what the names of a plan's jobs are derived from: target, transaction and partitions."""
    names = "\n".join("" if name is None else f"={name}" for name in plan.partitions)
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    return f"{plan.spec.name} {plan.transaction} {digest}"


def committed_of(plan: MergePlan, rows: Sequence[tuple[Any, ...]]) -> Committed | None:
    """Return the commit that entries of the history tell of; None if they do not tell of all partitions."""
    names = {name or "": name for name in plan.partitions}
    counts: dict[str | None, MergeCounts] = {}
    removed: dict[str | None, int] = {}
    merge_s = verify_s = 0.0
    for partition, action, *numbers in rows:
        if partition not in names:
            continue
        if action == "consolidate":
            counts[names[partition]] = MergeCounts(*numbers[:5])
            merge_s, verify_s = numbers[5], numbers[6]
        elif action == "dedupe":
            removed[names[partition]] = numbers[4]
    if len(counts) != len(plan.tasks):
        return None
    return Committed(counts, merge_s=merge_s, verify_s=verify_s, read_back=True, duplicates_removed=removed)
