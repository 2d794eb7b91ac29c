"""Transactions under guard and token that merge no parts: repairs, and people's own statements.

They run on a connection of their own, which is closed afterwards: what a block sets or keeps for its session ends
with it.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
import sqlglot
from psycopg.pq import TransactionStatus
from sqlglot import TokenType
from sqlglot.errors import TokenError

from onerow.adapters.postgresql.connection import begin, rollback, row, rows
from onerow.adapters.postgresql.sqlstate import classify, map_error, told
from onerow.adapters.warehouse.postgresql import sql, steps
from onerow.adapters.warehouse.postgresql.repairing import RepairStatements, partition_values
from onerow.adapters.warehouse.postgresql.sessions import Interrupt
from onerow.adapters.warehouse.postgresql.target import Target, describe, schema_of, target_table
from onerow.core.repairs import explained_change
from onerow.errors import (
    ConflictError,
    DuplicatesError,
    LeaseLostError,
    OnerowError,
    OutcomeUnknownError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection, Statement
    from onerow.adapters.warehouse.postgresql.lookout import Lookout
    from onerow.adapters.warehouse.postgresql.sessions import Sessions
    from onerow.core.partitions import PartitionValue
    from onerow.core.repairs import Intervention
    from onerow.ports.clock import Cancellation

MAX_FOUND: Final = 1000

# What may begin a statement of a block. Everything else begins or ends a transaction, sets something, talks to the
# client or to other servers, or runs what cannot be seen beforehand.
_OFFERED: Final = frozenset(
    {
        "SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "CREATE", "ALTER",
        "DROP", "COMMENT", "GRANT", "REVOKE", "LOCK", "ANALYZE", "EXPLAIN", "SHOW",
    }
)  # fmt: skip

_SURROUND: Final = sql.SQL(
    "select set_config('TimeZone', 'UTC', true), set_config('standard_conforming_strings', 'on', true), "
    "set_config('search_path', quote_ident($1) || case when current_setting('search_path') in ('', '\"\"') then '' "
    "else ', ' || current_setting('search_path') end, true), pg_current_xact_id()::text"
)
_TRANSACTION: Final = sql.SQL("select coalesce(pg_current_xact_id_if_assigned()::text, 'none')")


def check_statement(statement: str) -> None:
    """Check that a text is one statement that may run inside a guarded transaction.

    It is cut into tokens, so that remarks and quotes do not deceive; the server is sent it in a way in which it
    takes one statement only, should it read the text in another way.

    Raises:
        UsageError: it is none, or several, or one that is not offered.
    """
    try:
        tokens = sqlglot.tokenize(statement, read="postgres")
    except TokenError as error:
        raise UsageError("This text cannot be read as a statement: a quote or a remark in it has no end.") from error
    inner = [place for place, token in enumerate(tokens) if token.token_type is not TokenType.SEMICOLON]
    ends = [place for place, token in enumerate(tokens) if token.token_type is TokenType.SEMICOLON]
    if not inner or (ends and ends[0] < inner[-1]):
        raise UsageError(
            "One call runs one statement; this text has " + ("several." if inner else "none."),
            hint="Call execute once for each.",
        )
    first = next((token for token in tokens if token.token_type is not TokenType.L_PAREN), tokens[0])
    if first.text.upper() not in _OFFERED:
        raise UsageError(
            f"A statement that begins with {first.text.upper()} does not run inside a guarded transaction, which "
            "begins and ends by itself and reads and writes this warehouse alone.",
            hint="Leave begin, commit, rollback, savepoint, set, copy, call and do out.",
        )


@dataclass
class OpenIntervention:
    """An intervention whose guard and token are taken.

    Attributes:
        target: the target as it was when the guard was had; a block may have changed it since.
        values: the partition's value; empty for a table without partitions.
        transaction: the server's number of the transaction.
        rows_before: rows of the partition.
        rows_superseded: rows that the work has moved aside.
    """

    connection: Connection
    work: Intervention
    target: Target
    values: tuple[PartitionValue, ...]
    transaction: str
    rows_before: int
    rows_superseded: int = 0
    lookout: Lookout | None = field(default=None, repr=False)


class Interventions:
    """Runs interventions on a database; the steps are methods of their own."""

    def __init__(self, sessions: Sessions, control: Mapping[str, sql.Composed], *, control_schema: str) -> None:
        self._sessions = sessions
        self._control = control
        self._schema = control_schema

    @contextmanager
    def transaction(self, work: Intervention, cancellation: Cancellation) -> Iterator[OpenIntervention]:
        """Run a block: guard, token, the block, verify, record, commit.

        Raises:
            As ``Warehouse.guarded``.
        """
        with closing(self._sessions.server.connect()) as connection:
            interrupt = Interrupt(connection)
            lookout = self._sessions.lookout(connection)
            cancellation.on_cancel(interrupt)
            try:
                with lookout:
                    with self.errors(work, cancellation, lookout):
                        opened = self._open(connection, work, lookout)
                    yield opened
                    with self.errors(work, cancellation, lookout):
                        self._check_transaction(opened)
                        rows_after = self.verify(opened)
                        self.record(opened, rows_after)
                cancellation.on_cancel(None)
                interrupt.withdraw()
                cancellation.raise_if_cancelled()
            except BaseException:
                rollback(connection)
                raise
            finally:
                cancellation.on_cancel(None)
                interrupt.withdraw()
            self._commit(connection, work, cancellation)

    def _open(self, connection: Connection, work: Intervention, lookout: Lookout) -> OpenIntervention:
        spec = work.spec
        steps.ensure_guards(connection, self._control, spec.name, [work.partition])
        begin(connection, settings=self._sessions.settings(connection, spec.name, work.action, work.holder), heavy=True)
        *_, transaction = row(connection, _SURROUND, schema_of(spec))
        self.guard(connection, work)
        self.token(connection, work)
        target, values = describe(connection, spec), partition_values(spec, work.partition)
        found, _ = row(connection, RepairStatements(spec, target.by_name, values)["count_partition"])
        return OpenIntervention(
            connection, work, target, values, str(transaction), rows_before=int(found), lookout=lookout
        )

    def guard(self, connection: Connection, work: Intervention) -> None:
        """Change the guard row; a second transaction waits here for the first one's end."""
        steps.take_guards(
            connection,
            self._control,
            work.spec.name,
            [work.partition],
            control_schema=self._schema,
            lock_store=work.lock_store,
        )

    def token(self, connection: Connection, work: Intervention) -> None:
        """Compare with the fence and raise it."""
        steps.raise_fences(connection, self._control, work.spec.name, {work.partition: work.token})

    def verify(self, opened: OpenIntervention) -> int:
        """Check that every key of the partition has one row; return the number of rows."""
        connection, spec = opened.connection, opened.work.spec
        columns = describe(connection, spec).by_name  # a block may have changed the table
        statements = RepairStatements(spec, columns, opened.values)
        found, doubled = row(connection, statements["count_partition"])
        if doubled:
            rows(connection, statements["settle"])
            twice = rows(connection, statements["find_duplicates"], MAX_FOUND)
            raise steps.duplicates_error(spec, twice)
        return int(found)

    def record(self, opened: OpenIntervention, rows_after: int) -> None:
        """Write the history, in this transaction."""
        work = opened.work
        change = rows_after - opened.rows_before
        if work.action == "dedupe":
            inserted = dict(rows(opened.connection, self._control["read_inserted"], work.spec.name))
            explained = inserted.get(work.partition, 0)
            change = explained_change(rows=opened.rows_before, explained=explained, moved=-change)
        steps.write_history(
            opened.connection,
            self._control,
            [(work.partition, work.token, 0, 0, change, 0, 0, opened.rows_superseded)],
            action=work.action,
            table=work.spec.name,
            run_id=work.run,
            attempt=work.attempt,
            unlocked=work.lock_store is None,
            holder=work.holder,
            reason=work.reason,
        )

    def _check_transaction(self, opened: OpenIntervention) -> None:
        """Check that the transaction is still the one that took the guard: the last net under ``check_statement``."""
        (number,) = row(opened.connection, _TRANSACTION)
        if opened.connection.info.transaction_status != TransactionStatus.INTRANS or number != opened.transaction:
            raise VerificationError(
                "A statement of the block has ended the transaction by itself; what ran before it was kept, unchecked.",
                hint=f"Look at the table with `onerow check --table {opened.work.spec.name}`.",
            )

    def _commit(self, connection: Connection, work: Intervention, cancellation: Cancellation) -> None:
        """Commit. An error that the server reports is a rollback; a connection that breaks here tells nothing."""
        try:
            answer = connection.execute("commit").statusmessage
        except psycopg.Error as error:
            if connection.closed or error.sqlstate is None:
                raise OutcomeUnknownError(
                    f"The connection was lost while the commit was under way: {told(error)}."
                ) from error
            rollback(connection)
            with self.errors(work, cancellation, None):
                raise
            raise
        if answer != "COMMIT":  # the server rolls an aborted transaction back without an error
            raise ConflictError("The commit was not kept.", hint="Nothing was changed; run it again.")

    def settled(self, work: Intervention) -> bool:
        """Take the guard, then tell whether the transaction of ``work`` has committed."""
        name = work.spec.name
        try:
            with self._sessions.changing("the history cannot be read", name, work.holder) as connection:
                steps.change_guards(connection, self._control, name, [work.partition])
                values = (name, work.run, work.attempt, work.action)
                found = rows(connection, self._control["read_interventions"], *values)
        except OnerowError as error:
            raise OutcomeUnknownError(f"The history cannot be read: {error.message}") from error
        return any(partition == work.partition for partition, _ in found)

    @contextmanager
    def errors(
        self, work: Intervention, cancellation: Cancellation, lookout: Lookout | None
    ) -> Iterator[None]:
        """Raise the errors of ours that the server's errors before a commit stand for."""
        try:
            yield
        except psycopg.Error as error:
            failure = classify(error)
            if failure == "cancelled":
                cancellation.raise_if_cancelled()
                raise LeaseLostError("The transaction was interrupted; nothing was committed.") from error
            if failure == "busy" and lookout is not None:
                raise ConflictError(self._sessions.busy(lookout).message, hint="Nothing was committed.") from error
            if failure == "duplicate":
                raise _duplicate(error, work) from error
            mapped = map_error(error, "the statement failed")
            if failure in {"conflict", "lost", "busy"}:
                raise ConflictError(mapped.message, hint="Nothing was committed; run it again.") from error
            raise mapped from error

    @contextmanager
    def working(self, work: Intervention, cancellation: Cancellation) -> Iterator[OpenIntervention]:
        """Run work of our own as ``transaction`` does, and raise the errors of ours for the server's."""
        with (
            self.transaction(work, cancellation) as opened,
            self.errors(work, cancellation, opened.lookout),
        ):
            yield opened

    @contextmanager
    def guarded(self, work: Intervention, cancellation: Cancellation) -> Iterator[Block]:
        """Run people's own statements."""
        with self.transaction(work, cancellation) as opened:
            block = Block(self, opened, cancellation)
            yield block
            block.raise_if_failed()


class Block:
    """A GuardedTransaction. Statements name parameters as psycopg does: ``%s``, or ``%(name)s`` for a mapping."""

    def __init__(self, interventions: Interventions, opened: OpenIntervention, cancellation: Cancellation) -> None:
        self._interventions = interventions
        self._opened = opened
        self._cancellation = cancellation
        self._failure: OnerowError | None = None

    @property
    def target(self) -> str:
        """The target table as a statement names it."""
        return target_table(self._opened.work.spec).as_string(None)

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> Sequence[tuple[Any, ...]]:
        """Run one statement and return its rows; none for a statement that returns none."""
        self.raise_if_failed()
        check_statement(statement)
        opened = self._opened
        try:
            with self._interventions.errors(opened.work, self._cancellation, opened.lookout):
                # Asked for in binary form it is sent as one statement: the server refuses a text with several.
                cursor = opened.connection.execute(cast("Statement", statement), parameters or None, binary=True)
                return cursor.fetchall() if cursor.description is not None else []
        except OnerowError as error:
            self._failure = error
            raise

    def raise_if_failed(self) -> None:
        """Raise what a statement has failed with: after it nothing of the block is committed."""
        if self._failure is not None:
            raise self._failure


def _duplicate(error: psycopg.Error, work: Intervention) -> OnerowError:
    """Return the error for a row that a unique index refuses; of another table than the target it is theirs."""
    spec = work.spec
    if (error.diag.schema_name, error.diag.table_name) != (schema_of(spec), spec.target[-1]):
        return map_error(error, "the statement failed")
    key = error.diag.message_detail or told(error)
    return DuplicatesError(
        f"The unique index {error.diag.constraint_name or '?'} refuses a row of {spec.name!r}: {key}",
        keys=[key],
        partitions=(work.partition,),
        hint="The transaction was rolled back.",
    )
