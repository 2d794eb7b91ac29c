"""The protocol. Read this first.

A consolidation merges every part of a batch that the ledger does not name yet:

1. Look what waits: the parts of the batch minus those in the ledger.
2. For each group of partitions, in sorted order: hold the leases, prepare the merge, take a turn
   to commit, and have the warehouse run guard, token, todo, merge, verify and record in one
   transaction (``core.plans``). Committed: go on. Refused: again from the top, within a budget.
   Unknown: read the ledger back under the guard; until that succeeds the outcome is unknown.
3. Clean up, by identity, the parts that the ledger names for all their partitions.

The leases and the turn are for efficiency: they keep two consolidations from doing the same work.
What makes the result right is inside the transaction. There is no SQL here, no clock, no client.
"""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onerow.core.partitions import Scope, canonical_partition
from onerow.core.plans import (
    AlreadyMerged,
    Committed,
    Refused,
    Unknown,
    fully_merged,
    plan_groups,
    plan_merge,
    unmerged,
)
from onerow.core.results import ConsolidationResult, PartitionResult, status_of, summarise
from onerow.errors import (
    BatchNotFoundError,
    OnerowError,
    OutcomeUnknownError,
    PartGoneError,
    RetriesExhaustedError,
    StagingError,
)
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.core.parts import PartManifest
    from onerow.core.plans import Merged, MergePlan, Outcome
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock, Ids
    from onerow.ports.partstore import PartStore
    from onerow.ports.warehouse import Warehouse
    from onerow.services.leases import HeldLeases, Leases

Waiting = dict[str | None, "list[PartManifest]"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How often to try again. Waits grow twofold from ``backoff_s`` to ``max_backoff_s``, with jitter."""

    max_attempts: int = 12
    max_resolve_attempts: int = 6
    backoff_s: float = 0.02
    max_backoff_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What to consolidate.

    Attributes:
        partitions: only these, as text; None: all partitions of the batch.
        use_lock: False: no lease, no token; everything but I4 still holds.
        keep_staging: leave the merged parts where they are.
        keep_merged_s: how long the data of merged parts stays; 0: removed at once.
    """

    spec: TableSpec
    batch: str
    holder: str
    partitions: tuple[str, ...] | None = None
    max_wait_s: float | None = None
    use_lock: bool = True
    keep_staging: bool = False
    keep_merged_s: float = 86_400.0


class Unlocked:
    """Stands where leases would: no tokens, never cancelled."""

    wait_s = 0.0
    waited = False
    tokens: Mapping[Scope, int] = {}

    def raise_if_cancelled(self) -> None:
        """Nothing is held, nothing can be lost."""

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        """Nothing is held, nothing can be lost."""

    def regrant(self, scope: Scope, *, above: int) -> bool:  # noqa: ARG002
        """There is no token to grant anew."""
        return False


class Consolidator:
    """Merges staged parts into their target, exactly once."""

    def __init__(
        self,
        *,
        warehouse: Warehouse,
        parts: PartStore,
        leases: Leases,
        clock: Clock,
        ids: Ids,
        budget: Budget | None = None,
        on_group: Callable[[int, int], None] | None = None,
    ) -> None:
        self._warehouse = warehouse
        self._parts = parts
        self._leases = leases
        self._clock = clock
        self._ids = ids
        self._budget = budget or Budget()
        self._on_group = on_group or (lambda done, total: None)  # noqa: ARG005 -- nobody asked

    def consolidate(self, request: Request) -> ConsolidationResult:
        """Merge what waits of a batch; one failed partition does not stop the others.

        Returns:
            What became of each partition. Failures of a partition are reported here, not raised.

        Raises:
            BatchNotFoundError: the batch was never seen.
            OnerowError: staging or the ledger could not be read; nothing was done.
        """
        spec, batch = request.spec, request.batch
        partitioned = spec.partition is not None
        run = self._ids.new_id("c")
        found = self._parts.parts(spec.name, batch)
        parts = [part for part in found if part.state != "discarded"]
        merged = self._warehouse.merged(spec.name, batch)
        if not found and not merged:
            self._raise_not_found(request)

        results = [
            PartitionResult(partition, "already_merged")
            for partition in sorted({partition for _, partition in merged}, key=str)
        ]
        waiting = unmerged(parts, merged, partitioned=partitioned)
        if request.partitions is not None:
            wanted = tuple(dict.fromkeys(canonical_partition(text, spec) for text in request.partitions))
            known = {*waiting, *(result.partition for result in results)}
            results = [result for result in results if result.partition in wanted]
            results += [PartitionResult(name, "nothing_staged") for name in wanted if name not in known]
            waiting = {name: found for name, found in waiting.items() if name in wanted}
        results = [result for result in results if result.partition not in waiting]

        capabilities = self._warehouse.capabilities
        groups = plan_groups(
            waiting, max_partitions=capabilities.max_partitions, max_rows=capabilities.max_rows
        )
        for number, group in enumerate(groups):
            self._on_group(number, len(groups))
            work = {name: waiting[name] for name in group}
            group_results, group_merged = self._consolidate_group(request, run, work)
            results += group_results
            merged |= group_merged
        self._on_group(len(groups), len(groups))

        removed = 0
        if not request.keep_staging:
            removed = self._clean_up(request, fully_merged(parts, merged, partitioned=partitioned))
        results.sort(key=lambda result: result.partition or "")
        status, error, kind = summarise(tuple(results))
        return ConsolidationResult(
            run, spec.name, batch, status, tuple(results), parts_removed=removed, error=error, error_kind=kind
        )

    def _consolidate_group(
        self, request: Request, run: str, waiting: Waiting
    ) -> tuple[list[PartitionResult], Merged]:
        """Hold the leases of a group and merge it; an error becomes the result of its partitions."""
        group = _Group(request, run, dict(waiting))
        try:
            with self._hold(request, [Scope(request.spec.name, name) for name in waiting]) as leases:
                self._merge_group(group, leases)
        except OnerowError as error:
            emit(
                "onerow.merge_failed",
                table=request.spec.name,
                batch=request.batch,
                consolidation=run,
                kind=error.kind,
                error=error.message,
            )
            group.fail(tuple(group.waiting), error)
        return group.results, frozenset(group.merged)

    def _merge_group(self, group: _Group, leases: HeldLeases | Unlocked) -> None:
        """Try until everything that waits in the group is merged or has failed."""
        group.lock_wait_s = leases.wait_s
        if leases.waited:  # somebody else has worked meanwhile, perhaps on the same batch
            self._look_again(group)
        while group.waiting:
            if group.attempts >= self._budget.max_attempts:
                raise RetriesExhaustedError(
                    f"Every one of {group.attempts} attempts ran into a conflict; the last: {group.last_refusal}",
                    hint="Nothing of it was committed, staging is kept. Consolidate again when it is quieter.",
                )
            group.attempts += 1
            plan = self._plan(group, leases)
            match self._attempt(plan, leases, group):
                case Committed() as committed:
                    group.commit(plan, committed)
                    _report(plan, committed)
                case AlreadyMerged():
                    group.already_merged(tuple(group.waiting))
                    emit("onerow.merge_already_done", **_facts(plan))
                case Refused() as refused:
                    self._after_refusal(group, plan, leases, refused)
                case Unknown(error):
                    raise OutcomeUnknownError(
                        f"It is unknown whether transaction {plan.transaction} has committed: {error.message}",
                        hint="Staging is kept. Consolidate again: what was committed is found in the ledger.",
                    ) from error

    def _attempt(self, plan: MergePlan, leases: HeldLeases | Unlocked, group: _Group) -> Outcome:
        """Prepare, take the turn, apply; read an unknown end back."""
        try:
            with self._warehouse.prepare(plan) as prepared, self._turn(plan):
                leases.raise_if_cancelled()
                emit("onerow.merge_started", attempt=plan.attempt, **_facts(plan))
                outcome: Outcome = self._warehouse.apply(prepared, leases)
        except PartGoneError as error:
            self._look_again(group)
            if any(part.part_id in {p.part_id for p in plan.parts} for part in group.parts()):
                raise  # gone, and the ledger does not name it
            return Refused("outdated", error)
        tried = 0
        while isinstance(outcome, Unknown) and tried < self._budget.max_resolve_attempts:
            emit("onerow.merge_unknown", error=outcome.error.message, **_facts(plan))
            self._back_off(tried)
            outcome = self._warehouse.resolve(plan)
            tried += 1
        return outcome

    def _after_refusal(
        self, group: _Group, plan: MergePlan, leases: HeldLeases | Unlocked, refused: Refused
    ) -> None:
        """Decide whether to try again; raise or record the failure if that is of no use."""
        group.last_refusal = refused.error.message
        match refused.reason:
            case "conflict":
                emit("onerow.merge_conflict_retried", attempt=plan.attempt, **_facts(plan))
                self._back_off(group.attempts)
                self._look_again(group)
            case "outdated":
                self._look_again(group)
            case "stale":
                leases.raise_if_cancelled()
                behind = [task for task in plan.tasks if task.token is not None and task.token < refused.fence]
                if not behind or not all(
                    leases.regrant(plan.scope(task), above=refused.fence) for task in behind
                ):
                    emit("onerow.merge_fenced", fence=refused.fence, **_facts(plan))
                    raise refused.error
            case _ if refused.partitions and set(refused.partitions) < set(group.waiting):
                emit("onerow.verify_failed", error=refused.error.message, **_facts(plan))
                group.fail(refused.partitions, refused.error)  # and go on with the others
            case _:
                raise refused.error

    def _look_again(self, group: _Group) -> None:
        """Drop from what waits whatever the ledger names by now."""
        request = group.request
        group.merged |= self._warehouse.merged(request.spec.name, request.batch)
        left = unmerged(group.parts(), frozenset(group.merged), partitioned=request.spec.partition is not None)
        group.already_merged(tuple(name for name in group.waiting if name not in left))
        group.waiting = {name: left[name] for name in group.waiting if name in left}

    def _plan(self, group: _Group, leases: HeldLeases | Unlocked) -> MergePlan:
        request = group.request
        gone = [part for part in group.parts() if part.state == "purged"]
        if gone:
            raise PartGoneError(
                f"The data of part {gone[0].part_id} of worker {gone[0].worker!r} was removed after its merge, "
                "but the ledger does not name it: the warehouse was restored to an earlier moment than "
                "keep_merged reaches.",
                hint=f"{len(gone)} of the batch's parts are concerned. Have their workers stage them again.",
            )
        return plan_merge(
            spec=request.spec,
            batch=request.batch,
            consolidation=group.run,
            attempt=group.attempts,
            holder=request.holder,
            waiting=group.waiting,
            tokens=leases.tokens,
            lock_store=self._leases.store_identity if request.use_lock else None,
        )

    def _hold(
        self, request: Request, scopes: Sequence[Scope]
    ) -> AbstractContextManager[HeldLeases | Unlocked]:
        if not request.use_lock:
            emit("onerow.lock_skipped", table=request.spec.name, batch=request.batch)
            return nullcontext(Unlocked())
        return self._leases.hold(
            scopes, holder=request.holder, batch=request.batch, max_wait_s=request.max_wait_s
        )

    def _turn(self, plan: MergePlan) -> AbstractContextManager[None]:
        """Take the turn to commit, where commits of different scopes collide."""
        domain = self._warehouse.capabilities.commit_domain
        if plan.unlocked or domain == "row":
            return nullcontext()
        name = plan.spec.name if domain == "table" else "warehouse"
        return self._leases.turn(name, holder=plan.holder, batch=plan.batch)

    def _back_off(self, tried: int) -> None:
        wait_s = min(self._budget.backoff_s * 2**tried, self._budget.max_backoff_s)
        self._clock.sleep_s(wait_s * (0.5 + self._ids.jitter()))

    def _clean_up(self, request: Request, done: Sequence[PartManifest]) -> int:
        """Retire parts that the ledger names for all their partitions. Failing here loses nothing."""
        try:
            removed = self._parts.retire(done)
            if request.keep_merged_s <= 0:
                self._parts.purge(done)
        except StagingError as error:
            emit(
                "onerow.cleanup_failed", table=request.spec.name, batch=request.batch, error=error.message
            )
            return 0
        emit("onerow.cleanup_done", table=request.spec.name, batch=request.batch, part_count=removed)
        return removed

    def _raise_not_found(self, request: Request) -> None:
        spec = request.spec
        names = sorted({*self._parts.batches(spec.name), *self._warehouse.batches(spec.name)})
        near = difflib.get_close_matches(request.batch, names, n=5, cutoff=0.5)
        raise BatchNotFoundError(
            f"No part of a batch {request.batch!r} was ever staged or merged for table {spec.name!r}.",
            near=near,
            hint=f"Names that come near: {', '.join(near)}." if near else "See `onerow batches list`.",
        )


class _Group:
    """What is known of a group of partitions while it is being merged."""

    def __init__(self, request: Request, run: str, waiting: Waiting) -> None:
        self.request = request
        self.run = run
        self.waiting = waiting
        self.results: list[PartitionResult] = []
        self.merged: set[tuple[str, str | None]] = set()
        self.attempts = 0
        self.lock_wait_s = 0.0
        self.last_refusal = ""

    def parts(self) -> list[PartManifest]:
        """Return the parts that still wait, each once."""
        return list({part.part_id: part for parts in self.waiting.values() for part in parts}.values())

    def commit(self, plan: MergePlan, committed: Committed) -> None:
        """Record the counts of a committed plan."""
        for task in plan.tasks:
            counts = committed.counts[task.partition]
            self.merged |= {(part_id, task.partition) for part_id in task.part_ids}
            del self.waiting[task.partition]
            self.results.append(
                PartitionResult(
                    partition=task.partition,
                    status="committed",
                    token=task.token,
                    attempts=self.attempts,
                    parts=len(task.part_ids),
                    rows_staged=counts.staged,
                    rows_inserted=counts.inserted,
                    rows_updated=counts.updated,
                    rows_unchanged=counts.unchanged,
                    rows_superseded=counts.superseded,
                    lock_wait_s=self.lock_wait_s,
                    merge_s=committed.merge_s,
                    verify_s=committed.verify_s,
                )
            )

    def already_merged(self, partitions: Sequence[str | None]) -> None:
        """Record partitions of which the ledger names every part."""
        for partition in partitions:
            self.merged |= {(part.part_id, partition) for part in self.waiting.pop(partition)}
            self.results.append(
                PartitionResult(
                    partition, "already_merged", attempts=self.attempts, lock_wait_s=self.lock_wait_s
                )
            )

    def fail(self, partitions: Sequence[str | None], error: OnerowError) -> None:
        """Record partitions that cannot be merged."""
        for partition in partitions:
            parts = self.waiting.pop(partition)
            self.results.append(
                PartitionResult(
                    partition,
                    status_of(error),
                    attempts=self.attempts,
                    parts=len(parts),
                    rows_staged=sum(part.rows_of(partition) for part in parts),
                    lock_wait_s=self.lock_wait_s,
                    error=str(error),
                    error_kind=error.kind,
                    exit_code=error.exit_code,
                )
            )


def _facts(plan: MergePlan) -> dict[str, str | int | None]:
    one = plan.tasks[0] if len(plan.tasks) == 1 else None
    return {
        "table": plan.spec.name,
        "partition": one.partition if one else f"{len(plan.tasks)} partitions",
        "batch": plan.batch,
        "consolidation": plan.consolidation,
        "token": one.token if one else None,
        "holder": plan.holder,
        "part_count": len(plan.parts),
        "rows_staged": sum(task.rows_staged for task in plan.tasks),
    }


def _report(plan: MergePlan, committed: Committed) -> None:
    facts = _facts(plan)
    emit("onerow.verify_passed", verify_s=round(committed.verify_s, 6), **facts)
    emit(
        "onerow.merge_committed",
        rows_inserted=sum(counts.inserted for counts in committed.counts.values()),
        rows_updated=sum(counts.updated for counts in committed.counts.values()),
        rows_unchanged=sum(counts.unchanged for counts in committed.counts.values()),
        rows_superseded=sum(counts.superseded for counts in committed.counts.values()),
        merge_s=round(committed.merge_s, 6),
        **facts,
    )
