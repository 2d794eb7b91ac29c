"""Transactions under guard and token that merge no parts, in a warehouse in memory."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from onerow.core.repairs import explained_change
from onerow.errors import (
    ConflictError,
    DuplicatesError,
    LockStoreMismatchError,
    OutcomeUnknownError,
    StaleLeaseError,
)
from onerow.ports.warehouse import Capabilities, HistoryEntry
from onerow.testing.memory_looks import MemoryLooks, not_installed
from onerow.testing.memory_sql import MemorySql
from onerow.testing.memory_tables import (
    ConflictError as LostError,
)
from onerow.testing.memory_tables import (
    Key,
    LinkLostError,
    MemoryDatabase,
    Row,
    Transaction,
    comparable,
    duplicates_in,
    key_text,
    layout_of,
    stay,
)

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from onerow.core.repairs import Intervention
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import GuardedTransaction


class MemoryInterventions(MemoryLooks):
    """Runs interventions; the steps that they share with merges are methods of their own.

    Args:
        switch: called before every step.
        deliver: brings the commit to the database; in the simulation it may lose the reply, or be late.
    """

    def __init__(
        self,
        database: MemoryDatabase,
        utc_now: Callable[[], dt.datetime],
        *,
        capabilities: Capabilities,
        switch: Callable[[str], None] = stay,
        deliver: Callable[[Callable[[], None]], None] = lambda commit: commit(),
    ) -> None:
        super().__init__(database, utc_now)
        self._capabilities = capabilities
        self._switch = switch
        self._deliver = deliver

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._capabilities

    # --- steps shared with merges ----------------------------------------------------------

    def _take_guards(
        self, transaction: Transaction, partitions: Iterable[str | None], lock_store: str | None
    ) -> None:
        """Change the guard rows; of two transactions that do, the second to commit fails."""
        before = transaction.before
        if lock_store is not None and before.lock_store != lock_store:
            raise LockStoreMismatchError(
                f"Table {before.spec.name!r} is used with lock store {before.lock_store!r}, not with {lock_store!r}."
            )
        transaction.guards |= {self._guard_of(partition) for partition in partitions}

    def _guard_of(self, partition: str | None) -> str | None:
        return partition if self._capabilities.commit_domain == "row" else None

    def _raise_fences(self, transaction: Transaction, tokens: Mapping[str | None, int | None]) -> None:
        """Compare each token with the highest that has committed for its scope, and append it."""
        behind = 0
        for partition, token in tokens.items():
            if token is None:
                continue
            fence = transaction.before.fence(partition)
            if token < fence:
                behind = max(behind, fence)
            transaction.fences.append((partition, token))
        if behind:
            raise StaleLeaseError(f"A higher token, {behind}, has committed.", fence=behind)

    # --- interventions ---------------------------------------------------------------------

    @contextmanager
    def transaction(self, work: Intervention, cancellation: Cancellation) -> Iterator[Transaction]:
        """Run a block on a transaction: guard, token, the block, verify, record, commit."""
        if work.spec.name not in self.database.tables:
            raise not_installed(work.spec.name)
        transaction = self.database.begin(work.spec.name, f"{work.action} {work.run}.{work.attempt}")

        def interrupt() -> None:
            transaction.interrupted = True

        cancellation.on_cancel(interrupt)
        try:
            self._switch("begin")
            transaction.before = self.database.tables[work.spec.name]
            self._switch("guard")
            self._take_guards(transaction, [work.partition], work.lock_store)
            self._switch("token")
            self._raise_fences(transaction, {work.partition: work.token})
            self._switch("work")
            yield transaction
            if transaction.interrupted:
                cancellation.raise_if_cancelled()
            self._switch("verify")
            self._verify_intervention(transaction, work)
            self._switch("record")
            self._record_intervention(transaction, work)
            self._switch("cancelled?")
            cancellation.raise_if_cancelled()
            self._switch("commit")
        except LinkLostError as error:
            raise ConflictError(f"The connection broke before the commit: {error}.") from error
        finally:
            cancellation.on_cancel(None)
        self._commit_intervention(transaction, work)

    def _verify_intervention(self, transaction: Transaction, work: Intervention) -> None:
        """Check that every key of the partition has one row."""
        layout = layout_of(work.spec)
        doubled = duplicates_in([row for _, row in transaction.view(work.partition)], layout)
        if doubled:
            raise duplicates_error(work.spec, dict.fromkeys(doubled, work.partition))

    def _record_intervention(self, transaction: Transaction, work: Intervention) -> None:
        """Write into the history, in this very transaction, what it does."""
        layout, before = layout_of(work.spec), transaction.before
        rows = sum(layout.partition_of(row) == work.partition for row in before.rows.values())
        change = sum(1 for _ in transaction.view(work.partition)) - rows
        if work.action == "dedupe":
            change = explained_change(rows=rows, explained=before.explained(work.partition), moved=-change)
        transaction.history.append(
            HistoryEntry(
                action=work.action,
                table=work.spec.name,
                partition=work.partition,
                batch="",
                consolidation=work.run,
                attempt=work.attempt,
                token=work.token,
                unlocked=work.lock_store is None,
                holder=work.holder,
                parts=0,
                rows_staged=0,
                rows_inserted=change,
                rows_updated=0,
                rows_unchanged=0,
                rows_superseded=len(transaction.set_aside),
                merge_s=0.0,
                verify_s=0.0,
                committed_at=self._utc_now(),
                reason=work.reason,
            )
        )

    def _commit_intervention(self, transaction: Transaction, work: Intervention) -> None:
        """Commit, and believe only what the history says after it."""
        try:
            self._deliver(partial(self.database.commit, transaction))
            self._switch("read back")
        except LostError as error:
            raise ConflictError(f"Lost against another transaction: {error}.") from error
        except LinkLostError as error:
            raise OutcomeUnknownError(f"The connection broke in the commit: {error}.") from error
        if not self._has_settled(work):
            raise ConflictError("The commit returned, and the history does not name it.")

    def settled(self, work: Intervention) -> bool:
        """Take the guard, then tell what the history says: whoever still has a commit on its way loses it."""
        if work.spec.name not in self.database.tables:
            raise not_installed(work.spec.name)
        try:
            self._switch("begin")
            transaction = self.database.begin(work.spec.name, f"settle {work.run}.{work.attempt}")
            self._switch("guard")
            self._take_guards(transaction, [work.partition], None)
            self._switch("commit")
            self._deliver(partial(self.database.commit, transaction))
        except (LostError, LinkLostError) as error:
            raise OutcomeUnknownError(f"The history could not be read under the guard: {error}.") from error
        return self._has_settled(work)

    def _has_settled(self, work: Intervention) -> bool:
        return any(
            (entry.action, entry.consolidation, entry.attempt, entry.partition)
            == (work.action, work.run, work.attempt, work.partition)
            for entry in self.database.tables[work.spec.name].history
        )

    # --- people's own statements -----------------------------------------------------------

    @contextmanager
    def guarded(self, work: Intervention, cancellation: Cancellation) -> Iterator[GuardedTransaction]:
        """Run people's own statements on the rows that the transaction sees."""
        with self.transaction(work, cancellation) as transaction:

            def stop() -> None:
                if transaction.interrupted:
                    cancellation.raise_if_cancelled()

            numbered = list(transaction.before.rows.items())
            with MemorySql(work.spec, [row for _, row in numbered], before_statement=stop) as statements:
                yield statements
                after = statements.rows()
            if after is not None:
                _apply_difference(transaction, numbered, after)


def _apply_difference(transaction: Transaction, before: list[tuple[int, Row]], after: list[Row]) -> None:
    """Delete the rows that are gone and insert those that are new; a row that was changed is both."""
    left = Counter(_content(row) for row in after)
    for number, row in before:
        content = _content(row)
        if left[content]:
            left[content] -= 1
        else:
            transaction.deleted.add(number)
    for row in after:
        content = _content(row)
        if left[content]:
            left[content] -= 1
            transaction.inserted.append(row)


def _content(row: Row) -> tuple[object, ...]:
    """Return a row so that NaN equals NaN."""
    return tuple(comparable(value) for value in row)


def duplicates_error(spec: TableSpec, doubled: Mapping[Key, str | None]) -> DuplicatesError:
    """Return the error for keys that stand more than once, with their partitions."""
    keys = [key_text(spec, key) for key in list(doubled)[:10]]
    return DuplicatesError(
        f"{len(doubled)} keys of {spec.name!r} have several rows, the first: {keys[0]}.",
        keys=keys,
        partitions=tuple(sorted(set(doubled.values()), key=str)),
        hint="Nothing was committed, staging is kept. Repair with `onerow dedupe`.",
    )


