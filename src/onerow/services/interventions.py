"""Work under guard and token that merges no parts: leases, the turn, conflicts, unknown ends.

A repair of one partition and a block of people's own statements go the same way: hold the lease of the scope, take
the turn where commits of different scopes collide, run the transaction; again from the top when it lost against
another one, within a budget; and when nobody can tell how it ended, ask the warehouse under the guard.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from onerow.core.partitions import Scope
from onerow.core.repairs import Intervention
from onerow.errors import ConflictError, OnerowError, OutcomeUnknownError, RetriesExhaustedError, StaleLeaseError
from onerow.services.budget import Budget
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onerow.core.repairs import Action
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock, Ids
    from onerow.ports.warehouse import GuardedTransaction, Warehouse
    from onerow.services.leases import HeldLeases, Leases

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be done, by whom and why.

    Attributes:
        run: identity of the run that it belongs to.
        max_wait_s: the longest wait for the lease; None: the settings'.
    """

    spec: TableSpec
    partition: str | None
    action: Action
    run: str
    holder: str
    reason: str = ""
    max_wait_s: float | None = None

    @property
    def scope(self) -> Scope:
        """The scope that it works in."""
        return Scope(self.spec.name, self.partition)


class Interventions:
    """Runs interventions on a warehouse."""

    def __init__(
        self, *, warehouse: Warehouse, leases: Leases, clock: Clock, ids: Ids, budget: Budget | None = None
    ) -> None:
        self._warehouse = warehouse
        self._leases = leases
        self._clock = clock
        self._ids = ids
        self._budget = budget or Budget()

    def run(
        self,
        wanted: Wanted,
        work: Callable[[Intervention, HeldLeases], Result],
        *,
        recover: Callable[[Intervention], Result],
    ) -> Result:
        """Run ``work``, again when it lost; ``recover`` tells what it has done when only its end was unknown.

        Raises:
            LockAcquisitionError: the lease was not had in time; nothing was done.
            RetriesExhaustedError: every attempt lost.
            OutcomeUnknownError: nobody can tell whether it has committed.
            OnerowError: what ``work`` raises.
        """
        with self._hold(wanted) as held:
            attempt = 0
            while True:
                attempt += 1
                one = self._intervention(wanted, held, attempt)
                try:
                    with self._turn(wanted):
                        held.raise_if_cancelled()
                        return work(one, held)
                except OutcomeUnknownError as error:
                    if self._has_settled(one, error):
                        return recover(one)
                    self._after_conflict(wanted, attempt, error)
                except (ConflictError, StaleLeaseError) as error:
                    self._after_loss(wanted, held, attempt, error)

    @contextmanager
    def block(self, wanted: Wanted) -> Iterator[GuardedTransaction]:
        """Give a transaction to a ``with`` block, which cannot be run again.

        Raises:
            ConflictError: the block lost against another transaction, nothing was committed; run it again.
            As ``run``.
        """
        with self._hold(wanted) as held:
            attempt, entered = 0, False
            while True:
                attempt += 1
                one = self._intervention(wanted, held, attempt)
                try:
                    with self._turn(wanted), self._warehouse.guarded(one, held) as transaction:
                        entered = True
                        yield transaction
                except OutcomeUnknownError as error:
                    if not entered or not self._has_settled(one, error):
                        raise ConflictError(
                            f"The transaction on {wanted.scope} has not committed and never will.",
                            hint="Run the block again.",
                        ) from error
                except (ConflictError, StaleLeaseError) as error:
                    if entered:
                        raise
                    self._after_loss(wanted, held, attempt, error)
                    continue
                tell_guarded(one)
                return

    def run_guarded(self, wanted: Wanted, work: Callable[[GuardedTransaction], Result]) -> Result:
        """Run people's own work, again from the top when it lost against another transaction."""
        done: list[Result] = []

        def attempt(one: Intervention, held: HeldLeases) -> Result:
            done.clear()
            with self._warehouse.guarded(one, held) as transaction:
                done.append(work(transaction))
            tell_guarded(one)
            return done[0]

        def recover(one: Intervention) -> Result:
            tell_guarded(one)
            return done[0]

        return self.run(wanted, attempt, recover=recover)

    @contextmanager
    def _hold(self, wanted: Wanted) -> Iterator[HeldLeases]:
        with self._leases.hold(
            [wanted.scope], holder=wanted.holder, batch=wanted.action, max_wait_s=wanted.max_wait_s
        ) as held:
            yield held

    @contextmanager
    def _turn(self, wanted: Wanted) -> Iterator[None]:
        domain = self._warehouse.capabilities.commit_domain
        with self._leases.commit_turn(domain, wanted.spec.name, holder=wanted.holder, batch=wanted.action):
            yield

    def _intervention(self, wanted: Wanted, held: HeldLeases, attempt: int) -> Intervention:
        return Intervention(
            spec=wanted.spec,
            partition=wanted.partition,
            run=wanted.run,
            attempt=attempt,
            holder=wanted.holder,
            action=wanted.action,
            reason=wanted.reason,
            token=held.tokens[wanted.scope],
            lock_store=self._leases.store_identity,
        )

    def _after_loss(
        self, wanted: Wanted, held: HeldLeases, attempt: int, error: ConflictError | StaleLeaseError
    ) -> None:
        """Prepare another attempt, or raise if that is of no use."""
        if isinstance(error, StaleLeaseError):
            held.raise_if_cancelled()
            if not held.regrant(wanted.scope, above=error.fence):
                raise error
            return
        self._after_conflict(wanted, attempt, error)

    def _after_conflict(self, wanted: Wanted, attempt: int, error: OnerowError) -> None:
        if attempt >= self._budget.max_attempts:
            raise RetriesExhaustedError(
                f"Every one of {attempt} attempts on {wanted.scope} ran into a conflict; the last: {error.message}",
                hint="Nothing was committed. Try again when it is quieter.",
            ) from error
        emit("onerow.intervention_retried", attempt=attempt, reason="conflict", error=error.message, **_facts(wanted))
        self._budget.back_off(attempt, clock=self._clock, ids=self._ids)

    def _has_settled(self, one: Intervention, error: OutcomeUnknownError) -> bool:
        """Find out how a transaction has ended.

        Raises:
            OutcomeUnknownError: that cannot be found out now.
        """
        last = error
        for tried in range(self._budget.max_resolve_attempts):
            emit(
                "onerow.intervention_unknown",
                table=one.spec.name,
                partition=one.partition,
                action=one.action,
                consolidation=one.run,
                error=last.message,
            )
            self._budget.back_off(tried, clock=self._clock, ids=self._ids)
            try:
                return self._warehouse.settled(one)
            except OutcomeUnknownError as again:
                last = again
        raise OutcomeUnknownError(
            f"It is unknown whether {one.action} {one.run}.{one.attempt} on {one.scope} has committed: {last.message}",
            hint=f"`onerow history --table {one.spec.name}` names it if it has.",
        ) from last


def _facts(wanted: Wanted) -> dict[str, str | None]:
    return {
        "table": wanted.spec.name,
        "partition": wanted.partition,
        "action": wanted.action,
        "consolidation": wanted.run,
        "holder": wanted.holder,
    }


def tell_guarded(one: Intervention) -> None:
    """Log a block that has committed."""
    emit(
        "onerow.guarded_committed",
        table=one.spec.name,
        partition=one.partition,
        consolidation=one.run,
        token=one.token,
        holder=one.holder,
    )
