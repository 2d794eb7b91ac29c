"""The protocol. Read this first.

A consolidation merges every part of a batch that the ledger does not name yet:

1. Look what waits: the parts of the batch minus those in the ledger. Where nothing of it was ever
   cleaned up, all of it is taken to wait: the transaction reads the ledger anyway, and if it refuses,
   or if somebody else holds a lease, the ledger is read then.
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
from dataclasses import replace
from typing import TYPE_CHECKING

from onerow.core.partitions import Scope, canonical_partition
from onerow.core.parts import check_fits, check_present
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
    DataError,
    DuplicatesError,
    FencedError,
    LockAcquisitionError,
    OnerowError,
    OutcomeUnknownError,
    PartGoneError,
    RetriesExhaustedError,
    StagingError,
    VerificationError,
    WarehouseBusyError,
)
from onerow.services.budget import Budget
from onerow.services.events import emit
from onerow.services.group import Group, Run, facts_of, tell_commit, tell_end, tell_failure
from onerow.services.leases import Unlocked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from onerow.core.parts import PartManifest
    from onerow.core.plans import Merged, MergePlan, Outcome
    from onerow.ports.clock import Clock, Ids
    from onerow.ports.partstore import PartStore
    from onerow.ports.warehouse import Warehouse
    from onerow.services.group import Request, Waiting
    from onerow.services.leases import HeldLeases, Leases


class _LessToDoError(Exception):
    """Ends the wait for a lock that is not needed, or not for all of it: the ledger names partitions by now."""


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
        run = Run(self._ids.new_id("c"))
        begun_s = self._clock.monotonic_s()
        try:
            result = self._consolidate(request, run)
        except BatchNotFoundError:
            raise  # a name that nobody knows is no consolidation
        except OnerowError as error:
            tell_end(request, run, status_of(error), error.kind, self._clock.monotonic_s() - begun_s)
            raise
        tell_end(request, run, result.status, result.error_kind, self._clock.monotonic_s() - begun_s)
        return result

    def _consolidate(self, request: Request, run: Run) -> ConsolidationResult:
        spec, batch = request.spec, request.batch
        partitioned = spec.partition is not None
        found = self._parts.parts(spec.name, batch)
        parts = [part for part in found if part.state != "discarded"]
        looked = not self._is_fresh(request, parts)
        merged = self._warehouse.merged(spec.name, batch) if looked else frozenset()
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
            group_results, group_merged = self._consolidate_group(request, run, work, looked=looked)
            results += group_results
            merged |= group_merged
        self._on_group(len(groups), len(groups))

        removed = 0
        if not request.keep_staging:
            removed = self._clean_up(request, fully_merged(parts, merged, partitioned=partitioned))
        results.sort(key=lambda result: result.partition or "")
        status, error, kind = summarise(tuple(results))
        return ConsolidationResult(
            run.identity, spec.name, batch, status, tuple(results), parts_removed=removed, error=error, error_kind=kind
        )

    @staticmethod
    def _is_fresh(request: Request, parts: Sequence[PartManifest]) -> bool:
        """Say whether all of it probably waits: nothing of it was cleaned up, and nobody keeps it to merge it again."""
        return (
            bool(parts)
            and all(part.state == "staged" for part in parts)
            and request.partitions is None
            and not request.keep_staging
        )

    def _consolidate_group(
        self, request: Request, run: Run, waiting: Waiting, *, looked: bool = True
    ) -> tuple[list[PartitionResult], Merged]:
        """Hold the leases of a group and merge it; an error becomes the result of its partitions.

        Args:
            request: what to consolidate.
            run: the consolidation that this is part of.
            waiting: the group.
            looked: whether ``waiting`` is what the ledger has left of it, or only taken to be.
        """
        group = Group(request, run, dict(waiting), looked=looked)
        on_busy = None if looked else lambda: self._look_before_waiting(group)
        begun_s = self._clock.monotonic_s()
        try:
            with self._hold(request, [Scope(request.spec.name, name) for name in waiting], on_busy) as leases:
                self._merge_group(group, leases)
        except _LessToDoError:
            if group.waiting:
                results, merged = self._consolidate_group(request, run, group.waiting)
                return [*group.results, *results], frozenset(group.merged) | merged
        except LockAcquisitionError as error:
            if len(waiting) > 1 and not group.transactions:
                return self._consolidate_what_is_free(request, run, waiting)
            if not group.transactions:
                group.lock_wait_s = self._clock.monotonic_s() - begun_s
            group.fail_all(error)
        except OnerowError as error:
            if run.transactions <= 1 and not group.looked:
                self._raise_if_nobody_was_asked(group, error)
            group.fail_all(error)
        return group.results, frozenset(group.merged)

    def _consolidate_what_is_free(
        self, request: Request, run: Run, waiting: Waiting
    ) -> tuple[list[PartitionResult], Merged]:
        """Merge, one by one and without waiting again, the partitions whose lock nobody else holds."""
        at_once = replace(request, max_wait_s=0.0)
        done = [self._consolidate_group(at_once, run, {name: parts}) for name, parts in waiting.items()]
        return [result for results, _ in done for result in results], frozenset().union(
            *(merged for _, merged in done)
        )

    def _merge_group(self, group: Group, leases: HeldLeases | Unlocked) -> None:
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
                    tell_commit(plan, committed)
                case AlreadyMerged():
                    group.already_merged(plan.partitions)
                    emit("onerow.merge_already_done", **facts_of(plan))
                case Refused() as refused:
                    self._after_refusal(group, plan, leases, refused)
                case Unknown(error):
                    raise OutcomeUnknownError(
                        f"It is unknown whether transaction {plan.transaction} has committed: {error.message}",
                        hint="Staging is kept. Consolidate again: what was committed is found in the ledger.",
                    ) from error

    def _attempt(self, plan: MergePlan, leases: HeldLeases | Unlocked, group: Group) -> Outcome:
        """Prepare, take the turn, apply; read an unknown end back."""
        try:
            for part in plan.parts:
                check_present(part)
                check_fits(part, plan.spec)
            with self._warehouse.prepare(plan) as prepared, self._turn(plan):
                leases.raise_if_cancelled()
                emit("onerow.merge_started", attempt=plan.attempt, **facts_of(plan))
                outcome: Outcome = self._warehouse.apply(prepared, leases)
        except PartGoneError as error:
            self._look_again(group)
            gone = {part.part_id for part in plan.parts} & {part.part_id for part in group.parts()}
            return Refused("failed" if gone else "outdated", error)
        except (DataError, StagingError) as error:
            return Refused("failed", error)
        tried = 0
        while isinstance(outcome, Unknown) and tried < self._budget.max_resolve_attempts:
            emit("onerow.merge_unknown", error=outcome.error.message, **facts_of(plan))
            self._back_off(tried)
            outcome = self._warehouse.resolve(plan)
            tried += 1
        return outcome

    def _after_refusal(
        self, group: Group, plan: MergePlan, leases: HeldLeases | Unlocked, refused: Refused
    ) -> None:
        """Decide whether to try again; raise or record the failure if that is of no use."""
        group.last_refusal = refused.error.message
        match refused.reason:
            case "conflict":
                emit("onerow.merge_conflict_retried", attempt=plan.attempt, reason="conflict", **facts_of(plan))
                self._back_off(group.attempts)
                self._look_again(group)
            case "outdated":
                emit("onerow.merge_retried", attempt=plan.attempt, reason="outdated", **facts_of(plan))
                self._look_again(group)
            case "stale":
                leases.raise_if_cancelled()
                behind = [task for task in plan.tasks if task.token is not None and task.token < refused.fence]
                if not behind or not all(
                    leases.regrant(plan.scope(task), above=refused.fence) for task in behind
                ):
                    raise refused.error
                emit("onerow.merge_retried", attempt=plan.attempt, reason="stale", **facts_of(plan))
            case _ if isinstance(refused.error, DataError | StagingError | VerificationError):
                self._after_bad_data(group, plan, refused)
            case _:
                raise refused.error

    def _after_bad_data(self, group: Group, plan: MergePlan, refused: Refused) -> None:
        """Fail the partitions at fault and go on with the others; if nobody knows which, try one by one."""
        at_fault = refused.partitions or (plan.partitions if len(plan.tasks) == 1 else ())
        if isinstance(refused.error, DuplicatesError | VerificationError):
            emit("onerow.verify_failed", error=refused.error.message, **facts_of(plan))
        if not at_fault:
            emit("onerow.merge_retried", attempt=plan.attempt, reason="one_by_one", **facts_of(plan))
            group.one_by_one = True
            return
        group.fail(at_fault, refused.error)
        group.attempts = 0
        tell_failure(group, refused.error)

    def _look_again(self, group: Group) -> None:
        """Drop from what waits whatever the ledger names by now."""
        request = group.request
        group.merged |= self._warehouse.merged(request.spec.name, request.batch)
        group.looked = True
        left = unmerged(group.parts(), frozenset(group.merged), partitioned=request.spec.partition is not None)
        group.already_merged(tuple(name for name in group.waiting if name not in left))
        group.waiting = {name: left[name] for name in group.waiting if name in left}

    def _look_before_waiting(self, group: Group) -> None:
        """Wait for nobody because of what was merged before."""
        waiting = len(group.waiting)
        self._look_again(group)
        if len(group.waiting) < waiting:
            raise _LessToDoError

    def _raise_if_nobody_was_asked(self, group: Group, error: OnerowError) -> None:
        """Raise what a look at the ledger raises: a warehouse that cannot be asked is no partition's failure."""
        if isinstance(error, WarehouseBusyError):
            raise error  # whoever has waited for it once need not wait again to know
        if not isinstance(error, FencedError | OutcomeUnknownError):
            self._look_again(group)

    def _plan(self, group: Group, leases: HeldLeases | Unlocked) -> MergePlan:
        request = group.request
        first = next(iter(group.waiting))
        waiting = {first: group.waiting[first]} if group.one_by_one else group.waiting
        return plan_merge(
            spec=request.spec,
            batch=request.batch,
            consolidation=group.run.identity,
            attempt=group.next_transaction(),
            holder=request.holder,
            waiting=waiting,
            tokens=leases.tokens,
            lock_store=self._leases.store_identity if request.use_lock else None,
        )

    def _hold(
        self, request: Request, scopes: Sequence[Scope], on_busy: Callable[[], None] | None
    ) -> AbstractContextManager[HeldLeases | Unlocked]:
        if not request.use_lock:
            emit("onerow.lock_skipped", table=request.spec.name, batch=request.batch)
            return nullcontext(Unlocked())
        return self._leases.hold(
            scopes, holder=request.holder, batch=request.batch, max_wait_s=request.max_wait_s, on_busy=on_busy
        )

    def _turn(self, plan: MergePlan) -> AbstractContextManager[None]:
        """Take the turn to commit, where commits of different scopes collide."""
        if plan.unlocked:
            return nullcontext()
        domain = self._warehouse.capabilities.commit_domain
        return self._leases.commit_turn(domain, plan.spec.name, holder=plan.holder, batch=plan.batch)

    def _back_off(self, tried: int) -> None:
        self._budget.back_off(tried, clock=self._clock, ids=self._ids)

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
