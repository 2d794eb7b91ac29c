"""Transactions under guard and token that merge no parts: repairs, and people's own statements.

They run on a connection of their own to the instance that has the file attached: what it uses, sets and keeps in
temporary tables ends with it.
"""

from __future__ import annotations

import logging
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import duckdb

from onerow.adapters.warehouse.duckdb import install as installation
from onerow.adapters.warehouse.duckdb import sql, steps
from onerow.adapters.warehouse.duckdb.database import row, rows
from onerow.adapters.warehouse.duckdb.repair import partition_values
from onerow.core.repairs import explained_change
from onerow.errors import (
    ConflictError,
    LeaseLostError,
    OnerowError,
    OutcomeUnknownError,
    RowRefusedError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.adapters.warehouse.duckdb.database import Database
    from onerow.core.partitions import PartitionValue
    from onerow.core.repairs import Intervention
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation

MAX_FOUND: Final = 1000

# What may stand in a block. Everything else begins or ends a transaction, attaches or sets something that would
# outlast the block, or runs a statement that cannot be seen beforehand.
_OFFERED: Final = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE_INTO", "CREATE", "CREATE_FUNC", "ALTER", "DROP", "COPY", "EXPLAIN"}
)

logger = logging.getLogger("onerow")


def check_statement(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    """Check that a text is one statement that may run inside a guarded transaction.

    Raises:
        UsageError: it is none, or several, or one that begins or ends a transaction or reaches beyond it.
        duckdb.Error: it cannot be parsed.
    """
    found = connection.extract_statements(statement)
    if len(found) != 1:
        raise UsageError(
            f"One call runs one statement; this text has {len(found)}.", hint="Call execute once for each."
        )
    kind = found[0].type.name
    if kind not in _OFFERED:
        raise UsageError(
            f"A statement of the kind {kind} does not run inside a guarded transaction, which begins and ends by "
            "itself and reads and writes this warehouse alone.",
            hint="Leave begin, commit, rollback, attach, detach, use and set out.",
        )


@dataclass
class OpenIntervention:
    """An intervention whose guard and token are taken.

    Attributes:
        types: the target's columns with their engine types.
        values: the partition's value; empty for a table without partitions.
        rows_before: rows of the partition.
        rows_superseded: rows that the work has moved aside.
    """

    connection: duckdb.DuckDBPyConnection
    work: Intervention
    types: Mapping[str, str]
    values: tuple[PartitionValue, ...]
    rows_before: int
    rows_superseded: int = 0


class Interventions:
    """Runs interventions on a database; the steps are methods of their own.

    Attributes:
        in_doubt: after a commit that failed for another reason than a conflict, or that cannot be read back, nobody
            can tell its end before the guard is had; else what this connection reads then is the truth.
    """

    in_doubt: ClassVar[bool] = False

    def __init__(self, database: Database, control: installation.Control) -> None:
        self._database = database
        self._control = control

    @contextmanager
    def transaction(self, work: Intervention, cancellation: Cancellation) -> Iterator[OpenIntervention]:
        """Run a block: guard, token, the block, verify, record, commit, and look whether it was kept.

        Raises:
            As ``Warehouse.guarded``.
        """
        with self._database.open() as instance, closing(instance.cursor()) as connection:
            cancellation.on_cancel(connection.interrupt)
            try:
                with self.errors(cancellation):
                    connection.execute("set TimeZone = 'UTC'")
                    connection.execute(f"use {_schema(work.spec)}")
                    connection.execute("begin")
                    self.guard(connection, work)
                    self.token(connection, work)
                    opened = _opened(connection, work)
                yield opened
                with self.errors(cancellation):
                    rows_after = self.verify(opened)
                    self.record(opened, rows_after)
                cancellation.on_cancel(None)
                cancellation.raise_if_cancelled()
            except BaseException:
                rollback(connection)
                raise
            finally:
                cancellation.on_cancel(None)
            self._commit(connection, work)

    def guard(self, connection: duckdb.DuckDBPyConnection, work: Intervention) -> None:
        """Change the guard row; of two transactions that do so at once one fails."""
        steps.change_guard(connection, self._control.of(work.spec.name), work.spec.name, work.lock_store)

    def token(self, connection: duckdb.DuckDBPyConnection, work: Intervention) -> None:
        """Compare with the fence and raise it."""
        tokens = {work.partition: work.token}
        steps.raise_fences(connection, self._control.of(work.spec.name), work.spec.name, tokens)

    def verify(self, opened: OpenIntervention) -> int:
        """Check that every key of the partition has one row; return the number of rows."""
        connection, spec = opened.connection, opened.work.spec
        found, keys = row(connection, _statement("count_partition", spec, opened.values))
        if found != keys:
            twice = rows(connection, _statement("find_duplicates", spec, opened.values), MAX_FOUND)
            if twice:  # else two keys share a hash
                raise steps.duplicates_error(spec, twice, (opened.work.partition,))
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
            run=work.run,
            attempt=work.attempt,
            unlocked=work.lock_store is None,
            holder=work.holder,
            reason=work.reason,
        )

    def _commit(self, connection: duckdb.DuckDBPyConnection, work: Intervention) -> None:
        """Commit, and believe only what the history says: the engine accepts the COMMIT of an aborted transaction."""
        failure: OnerowError | None = None
        try:
            self._database.commit(connection, work.spec)
        except duckdb.Error as error:
            failure = self._mapped(error, "the commit failed")
            rollback(connection)
        if isinstance(failure, ConflictError):
            raise failure
        if failure is not None and self.in_doubt:
            raise OutcomeUnknownError(f"Nobody can tell whether the commit was kept: {failure.message}") from failure
        try:
            kept = self._is_kept(connection, work)
        except duckdb.Error as error:
            told = failure or self._mapped(error, "the history cannot be read")
            raise OutcomeUnknownError(f"Nobody can tell whether the commit was kept: {told.message}") from None
        if kept:
            return
        if failure is not None:
            raise failure
        if self.in_doubt:
            raise OutcomeUnknownError("The commit was accepted, but the history does not show it.")
        raise ConflictError("The commit was not kept.", hint="Nothing was changed; run it again.")

    def _mapped(self, error: duckdb.Error, doing: str) -> OnerowError:
        """Return the error of ours; the engine's own text goes through the database, which knows what to hide."""
        mapped = self._database.map_error(error, doing)
        if self._database.is_conflict(error) and not isinstance(mapped, ConflictError):
            return ConflictError(mapped.message, hint="Nothing was committed; run it again.")
        return mapped

    def _is_kept(self, connection: duckdb.DuckDBPyConnection, work: Intervention) -> bool:
        found = rows(
            connection, self._control["read_interventions"], work.spec.name, work.run, work.attempt, work.action
        )
        return any(partition == work.partition for partition, _ in found)

    def settled(self, work: Intervention) -> bool:
        """Take the guard, then tell whether the transaction of ``work`` has committed."""
        try:
            with self._database.open() as connection:
                connection.execute("begin")
                try:
                    steps.change_guard(connection, self._control.of(work.spec.name), work.spec.name, None)
                    kept = self._is_kept(connection, work)
                    self._database.commit(connection)
                except BaseException:
                    rollback(connection)
                    raise
        except OnerowError as error:
            raise OutcomeUnknownError(f"The history cannot be read: {error.message}") from error
        except duckdb.Error as error:
            raise OutcomeUnknownError(self._mapped(error, "the history cannot be read").message) from None
        return kept

    @contextmanager
    def errors(self, cancellation: Cancellation) -> Iterator[None]:
        """Raise the errors of ours that the engine's errors inside a transaction stand for."""
        try:
            yield
        except duckdb.InterruptException as error:
            cancellation.raise_if_cancelled()
            raise LeaseLostError("The transaction was interrupted; nothing was committed.") from error
        except duckdb.ConstraintException as error:
            raise RowRefusedError(f"The warehouse refuses a row: {str(error).splitlines()[0]}") from error
        except duckdb.Error as error:
            raise self._mapped(error, "the statement failed") from None  # its own text may show a password

    @contextmanager
    def guarded(self, work: Intervention, cancellation: Cancellation) -> Iterator[Block]:
        """Run people's own statements."""
        with self.transaction(work, cancellation) as opened:
            block = Block(opened, lambda: self.errors(cancellation))
            with self._database.plain():
                yield block
            block.raise_if_failed()


class Block:
    """A GuardedTransaction."""

    def __init__(self, opened: OpenIntervention, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._opened = opened
        self._errors = errors
        self._failure: OnerowError | None = None

    @property
    def target(self) -> str:
        """The target table as a statement names it."""
        return installation.target_table(self._opened.work.spec).sql(sql.DIALECT)

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> Sequence[tuple[object, ...]]:
        """Run one statement and return its rows; the engine tells the number of changed rows as a row."""
        self.raise_if_failed()
        try:
            with self._errors():
                check_statement(self._opened.connection, statement)
                return self._opened.connection.execute(statement, parameters or None).fetchall()
        except UsageError:
            raise
        except OnerowError as error:
            self._failure = error
            raise

    def raise_if_failed(self) -> None:
        """Raise what a statement has failed with: after it nothing of the block is committed."""
        if self._failure is not None:
            raise self._failure


def rollback(connection: duckdb.DuckDBPyConnection) -> None:
    """Roll back if there is something to: an aborted COMMIT may have ended the transaction already.

    Where the transaction lives in a server that is out of reach, it ends there by itself; what is told is what had
    failed before, not this.
    """
    try:
        connection.execute("rollback")
    except duckdb.TransactionException as error:
        if "no transaction is active" not in str(error):
            raise
    except duckdb.Error as error:
        logger.warning("onerow.rollback_failed", extra={"facts": {"error": type(error).__name__}})


def _opened(connection: duckdb.DuckDBPyConnection, work: Intervention) -> OpenIntervention:
    types = installation.target_types(connection, work.spec)
    values = partition_values(work.spec, work.partition)
    found, _ = row(connection, _statement("count_partition", work.spec, values))
    return OpenIntervention(connection, work, types, values, rows_before=int(found))


def _schema(spec: TableSpec) -> str:
    return sql.table(sql.DATABASE, installation.schema_of(spec)).sql(sql.DIALECT)


def _statement(name: str, spec: TableSpec, values: Sequence[PartitionValue]) -> str:
    """Return a statement that looks at the target itself, without temporary objects that could be in the way."""
    pieces: dict[str, sql.Piece] = {
        "identity": sql.columns(spec.row_identity),
        "key_hash": sql.hash_of(spec.row_identity),
        "target_partitions": sql.in_partitions(spec, values, on="target"),
    }
    tables = {"target": installation.target_table(spec)}
    return sql.render(sql.templates("repair.sql")[name], tables=tables, pieces=pieces)


