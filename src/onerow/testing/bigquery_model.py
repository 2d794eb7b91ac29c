"""BigQuery in memory: transactions as scripts that run at the service, under its documented rules for conflicts.

Each rule cites its source; ``transactions`` is https://cloud.google.com/bigquery/docs/transactions, ``dml``
https://cloud.google.com/bigquery/docs/data-manipulation-language and ``jobs``
https://cloud.google.com/bigquery/docs/running-jobs.

==== ====================================================================================== ==================
rule what it says                                                                           source
==== ====================================================================================== ==================
Q1   rows that are only inserted, by INSERT or by a MERGE that finds nothing to update,     transactions, dml
     conflict with nothing
Q2   of two transactions that mutate rows of one table at once, one is cancelled            transactions
Q3   a single statement that mutates a table waits for transactions that mutate it: 2 run,  transactions, dml
     20 wait, the next fails
Q4   within a transaction all reads come from one snapshot                                  transactions
Q5   a script is a job: it goes on when its sender is gone, its id is used once, and an     jobs, transactions
     error rolls its open transaction back
==== ====================================================================================== ==================

What the documentation leaves open is a ``Reading``: when the snapshot is taken, and whether a transaction is cancelled
that mutates a table after a rival has committed, on a snapshot from before that. The protocol must hold under each.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Protocol

from onerow.core.plans import Committed, Refused, Unknown
from onerow.errors import DuplicatesError, FencedError, LeaseLostError, WarehouseBusyError, WarehouseError
from onerow.testing.memory_looks import audit, not_installed
from onerow.testing.memory_tables import ConflictError, LinkLostError, Transaction
from onerow.testing.memory_warehouse import MemoryPrepared, MemoryWarehouse, RollbackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onerow.core.partitions import Scope
    from onerow.core.plans import AlreadyMerged, MergePlan, Outcome
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import Prepared

MAX_RUNNING: Final = 2
MAX_QUEUED: Final = 20
TRIES: Final = 3
WAIT_US: Final = 600_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer to what the documentation leaves open.

    Attributes:
        at_begin: the snapshot is taken by BEGIN TRANSACTION; else by the first statement after it.
        cancels_late: a mutation on a snapshot from before a rival's commit is cancelled; else it goes through.
    """

    at_begin: bool
    cancels_late: bool


READINGS: Final = tuple(Reading(*answers) for answers in product((True, False), repeat=2))


class Service(Protocol):
    """Where scripts run."""

    reading: Reading

    def run(self, what: str, work: Callable[[], None]) -> None:
        """Run ``work`` at the service and wait for its end; it goes on if the waiter is gone."""
        ...

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Let others run until ``ready`` says so."""
        ...


@dataclass(slots=True)
class Job:
    """A script at the service.

    Attributes:
        outcome: what came of it, None while it runs; Q5: of a job whose id was used up, a refusal.
        cancelled: somebody told it to stop.
    """

    name: str
    begun: bool = False
    ended: bool = False
    cancelled: bool = False
    outcome: Outcome | None = None


@dataclass(slots=True)
class TableLocks:
    """Who works on a table just now.

    Attributes:
        claim: the job whose name stands in the guard row.
        mutating: open transactions that have mutated rows of the guard table.
        waiting: single statements that wait for these.
    """

    claim: Job | None = None
    mutating: list[Job] = field(default_factory=list)
    waiting: int = 0
    running: int = 0


class BigQueryModel(MemoryWarehouse):
    """The warehouse of ``adapters.warehouse.bigquery`` on such a service."""

    def __init__(self, *, service: Service, **arguments: Any) -> None:
        super().__init__(**{**arguments, "commit_domain": "table"})
        self._capabilities = replace(self._capabilities, interactive=False)
        self._service = service
        self._jobs: dict[str, Job] = {}
        self._locks: dict[str, TableLocks] = {}
        self._rules = service.reading

    # --- the adapter's side ----------------------------------------------------------------

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Send the plan as one script; asked before it is sent, stopped by an interrupt."""
        if not isinstance(prepared, MemoryPrepared):
            raise TypeError(f"prepared elsewhere: {type(prepared).__name__}")
        plan = prepared.plan
        if plan.spec.name not in self.database.tables:
            return Refused("failed", not_installed(plan.spec.name))
        outcome = self._send(job_name(plan), cancellation, lambda job: self._merge_script(job, prepared, repair=False))
        if (
            plan.spec.on_existing_duplicates == "repair"
            and isinstance(outcome, Refused)
            and isinstance(outcome.error, DuplicatesError)
        ):
            name = f"{job_name(plan)} repair"
            return self._send(name, cancellation, lambda job: self._merge_script(job, prepared, repair=True))
        return outcome

    def _send(self, name: str, cancellation: Cancellation, script: Callable[[Job], None]) -> Outcome:
        interrupted: list[bool] = []

        def interrupt() -> None:
            interrupted.append(True)
            self._jobs.setdefault(name, used_up(name)).cancelled = True

        cancellation.on_cancel(interrupt)
        try:
            self._switch("cancelled?")
            cancellation.raise_if_cancelled()
            self._deliver(lambda: self._arrive(name, script))
        except FencedError as error:
            return Refused("cancelled", error)
        except ConflictError as error:
            return Refused("conflict", WarehouseBusyError(f"The service is busy: {error}."))
        except LinkLostError as error:
            return Unknown(WarehouseError(f"The connection broke: {error}."))
        finally:
            cancellation.on_cancel(None)
        outcome = self._jobs[name].outcome
        if outcome is None:
            return Unknown(WarehouseError("The job still runs."))
        if interrupted and isinstance(outcome, Refused):
            return Refused("cancelled", LeaseLostError("The job was interrupted."))
        return outcome

    def _arrive(self, name: str, script: Callable[[Job], None]) -> None:
        """Take a request: a job with this id runs once (Q5); a second request waits for the first one's end."""
        job = self._jobs.setdefault(name, Job(name))
        if job.begun:
            self._service.wait_until(lambda: job.ended, f"wait for {name}")
            return
        job.begun = True
        self._service.run(name, lambda: self._run(job, script))

    def _run(self, job: Job, script: Callable[[Job], None]) -> None:
        try:
            script(job)
        except RollbackError as rollback:
            job.outcome = rollback.outcome
        except (ConflictError, LinkLostError) as error:
            job.outcome = Refused("conflict", WarehouseBusyError(f"The service has cancelled it: {error}."))
        finally:
            for locks in self._locks.values():
                locks.mutating = [other for other in locks.mutating if other is not job]
            job.ended = True

    # --- the script ------------------------------------------------------------------------

    def _merge_script(self, job: Job, prepared: MemoryPrepared, *, repair: bool) -> None:
        plan = prepared.plan
        with self._transaction(job, plan.spec, f"{plan.transaction}") as transaction:
            for name, step in self._steps(repair=repair):
                self._at(job, name)
                step(transaction, prepared)
                if name == "guard":
                    self._mutate_guard(job, transaction)
        job.outcome = self._committed(plan, read_back=False)

    @contextmanager
    def _transaction(self, job: Job, spec: TableSpec, label: str) -> Iterator[Transaction]:
        """Claim the guard row, then BEGIN, the block and COMMIT; whatever ends the block rolls back (Q5)."""
        self._claim(job, spec.name)
        self._at(job, "begin")
        transaction = Transaction(self.database.tables[spec.name], label)
        seen = self._locks[spec.name].claim
        if not self._rules.at_begin:
            self._at(job, "first statement")
            transaction.before, seen = self.database.tables[spec.name], self._locks[spec.name].claim
        if self._is_claimed_by_another(job, seen):
            raise ConflictError("the guard row has another job's name")
        yield transaction
        self._at(job, "commit")
        self._commit(transaction)
        locks = self._locks[spec.name]
        locks.claim = None if locks.claim is job else locks.claim

    def _is_claimed_by_another(self, job: Job, seen: Job | None) -> bool:
        return seen is not job

    def _claim(self, job: Job, table: str) -> None:
        """Write the job's name into the guard row, by a single statement (Q3), unless a job that runs has its there."""
        locks = self._locks.setdefault(table, TableLocks())
        for _ in range(TRIES):
            self._at(job, "claim")
            if locks.waiting >= MAX_QUEUED:
                raise ConflictError("too many statements wait for the table")
            locks.waiting += 1
            self._service.wait_until(lambda: not locks.mutating and locks.running < MAX_RUNNING, "queued")
            locks.waiting -= 1
            locks.running += 1
            other = locks.claim
            locks.running -= 1
            if other is None or other is job or other.ended:
                locks.claim = job
                return
            self._wait_for_end(other)
        raise ConflictError("other jobs hold the table")

    def _wait_for_end(self, job: Job) -> None:
        self._service.wait_until(lambda: job.ended, f"wait for the end of {job.name}")

    def _mutate_guard(self, job: Job, transaction: Transaction) -> None:
        """Mutate the guard table: the second of two transactions that do is cancelled (Q2)."""
        if not transaction.guards:
            return
        name = transaction.before.spec.name
        locks = self._locks[name]
        if any(other is not job for other in locks.mutating):
            raise ConflictError("transaction is aborted due to concurrent update")
        late = self.database.tables[name].guards.get(None, (0, 0))[1] > transaction.before.commit
        if late and self._rules.cancels_late:
            raise ConflictError("transaction is aborted due to concurrent update, on an older snapshot")
        locks.mutating.append(job)

    def _commit(self, transaction: Transaction) -> None:
        """Commit; where late mutations go through, nothing is compared with what has committed meanwhile."""
        if not self._rules.cancels_late:
            now = self.database.tables[transaction.before.spec.name]
            there = {number: row for number, row in transaction.updated.items() if number in now.rows}
            transaction.updated = there
            transaction.before = replace(transaction.before, commit=now.commit)
        self.database.commit(transaction)

    def _at(self, job: Job, point: str) -> None:
        self._switch(point)
        if job.cancelled:
            raise ConflictError("the job was told to stop")

    # --- reading back, fencing -------------------------------------------------------------

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """See to it that no job of the plan runs or will, take the guard, then read the ledger."""
        if plan.spec.name not in self.database.tables:
            return Refused("failed", not_installed(plan.spec.name))
        for name in (job_name(plan), f"{job_name(plan)} repair"):
            self._switch("settle")
            self._wait_for_end(self._jobs.setdefault(name, used_up(name)))
        seen: list[Transaction] = []

        def script(job: Job) -> None:
            with self._transaction(job, plan.spec, f"resolve {plan.transaction}") as transaction:
                self._at(job, "guard")
                transaction.guards.add(None)
                self._mutate_guard(job, transaction)
                seen.append(transaction)

        refused = self._by_itself(f"resolve {plan.transaction}", script)
        if refused is not None:
            return Unknown(refused)
        return self._committed(plan, read_back=True) or Refused(
            "conflict", WarehouseError(f"Transaction {plan.transaction} was rolled back.")
        )

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of ``scope`` under the guard."""
        if spec.name not in self.database.tables:
            raise not_installed(spec.name)

        def script(job: Job) -> None:
            with self._transaction(job, spec, f"fence {scope}") as transaction:
                self._at(job, "guard")
                transaction.guards.add(None)
                self._mutate_guard(job, transaction)
                transaction.fences.append((scope.partition, token))
                entry = audit("force_release", spec.name, scope.partition, by=by, reason=reason, at=self._utc_now())
                transaction.history.append(replace(entry, token=token))

        refused = self._by_itself(f"fence {scope}", script)
        if refused is not None:
            raise refused
        return self.database.tables[spec.name].fence(scope.partition)

    def _by_itself(self, what: str, script: Callable[[Job], None]) -> WarehouseError | None:
        """Run a script that no other one shares a name with; return why it was refused, None if it was not."""
        name = f"{what} {len(self._jobs)}"
        try:
            self._deliver(lambda: self._arrive(name, script))
        except (ConflictError, LinkLostError) as error:
            return WarehouseError(f"The script was not run, or its reply was lost: {error}.")
        outcome: Outcome | AlreadyMerged | None = self._jobs[name].outcome
        return WarehouseError(str(outcome.error)) if isinstance(outcome, Refused) else None


def used_up(name: str) -> Job:
    """Return what stands in the place of a job that never began and now cannot (Q5)."""
    refused = Refused("conflict", WarehouseBusyError(f"The job {name} was given up before it began."))
    return Job(name, begun=True, ended=True, outcome=refused)


def job_name(plan: MergePlan) -> str:
    """Return the name of a plan's job, the same for the same transaction."""
    return f"{plan.transaction} {plan.partitions}"


def reading_of(seed: int) -> Reading:
    """Return the reading that is drawn for a seed."""
    return random.Random(f"bigquery:{seed}").choice(READINGS)
