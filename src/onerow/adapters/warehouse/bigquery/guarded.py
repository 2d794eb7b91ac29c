"""Transactions under guard and token that merge no parts: repairs, raised fences, people's own statements.

A block of people's statements is collected, looked at one by one, and run as one script at its end. So no statement can
return rows to the block: where one decides what another does, it is written as one statement.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Mapping as Named
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from onerow.adapters.bigquery.names import BIGNUMERIC_SCALE, DIALECT, NUMERIC_INTEGER_DIGITS, NUMERIC_SCALE
from onerow.adapters.warehouse.bigquery import sql
from onerow.adapters.warehouse.bigquery.commits import SignalError
from onerow.adapters.warehouse.bigquery.preparation import target_types
from onerow.adapters.warehouse.bigquery.script import (
    COMMIT,
    COUNTS,
    DECLARE_BEFORE,
    Step,
    Steps,
    Turn,
    script_of,
    seconds,
)
from onerow.adapters.warehouse.bigquery.signals import error_of
from onerow.adapters.warehouse.bigquery.statements import CONTROL, Statements, rows_literal, values_of
from onerow.errors import LockStoreMismatchError, OnerowError, OutcomeUnknownError, StaleLeaseError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.names import TableName
    from onerow.adapters.bigquery.results import Ran
    from onerow.adapters.warehouse.bigquery.commits import Commits
    from onerow.core.partitions import Scope
    from onerow.core.repairs import Intervention
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import HistoryEntry

REPAIR: Final = "repair.sql"
_CHANGES: Final = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.TruncateTable)


class InterventionSteps(Steps):
    """The steps of an intervention; the work itself stands between ``token`` and ``verify``."""

    def __init__(self, statements: Statements, turn: Turn, work: Intervention) -> None:
        super().__init__(statements, turn, lock_store=work.lock_store)
        self.work = work
        self.run: Mapping[str, sql.Piece] = {
            "run": sql.string(work.run),
            "attempt": sql.integer(work.attempt),
            "batch": sql.string(""),
        }

    def script(self, statements: Sequence[str], *, rows_superseded: int = 0, rows_inserted: int | None = None) -> str:
        """Return the whole: what it selects last are the entries of the history.

        Args:
            statements: the work.
            rows_superseded: rows that it moves aside.
            rows_inserted: what the history is told; None: by how much the partition has grown.
        """
        return script_of(
            [
                DECLARE_BEFORE,
                *self.claim(),
                *self.begin(self.guard(), self.token()),
                *statements,
                *self.verify(),
                *self.record(rows_superseded, rows_inserted),
                COMMIT,
                self.statements(CONTROL, "read_committed", **self.run),
            ]
        )

    def token(self) -> Step:
        """Compare the token with the fence and raise it."""
        return self.fences({self.work.partition: self.work.token})

    def verify(self) -> list[str]:
        """Check that every key of the partition has one row."""
        return self.check(self.statements(REPAIR, "refuse_rows"))

    def record(self, rows_superseded: int, rows_inserted: int | None) -> list[str]:
        """Write the history."""
        inserted: Mapping[str, sql.Piece] = {"rows_inserted": sql.optional(rows_inserted)}
        counts = self.statements(
            REPAIR,
            "grown",
            scope=sql.string(self.work.partition or ""),
            token=sql.cast(sql.optional(self.work.token), "INT64"),
            superseded=sql.integer(rows_superseded),
            **inserted,
        )
        return [
            self.history(
                sql.Rendered(counts),
                **self.run,
                **about(
                    self.work.action,
                    holder=self.work.holder,
                    reason=self.work.reason,
                    unlocked=self.work.lock_store is None,
                ),
            )
        ]


def about(action: str, *, holder: str, reason: str, unlocked: bool = False) -> dict[str, sql.Piece]:
    """Return what is the same in all entries of a transaction that merges nothing."""
    return {
        "action": sql.string(action),
        "unlocked": exp.Boolean(this=unlocked),
        "holder": sql.string(holder),
        "merge_s": seconds(0.0),
        "verify_s": seconds(0.0),
        "reason": sql.string(reason),
        "bytes_processed": exp.null(),
        "slot_ms": exp.null(),
    }


class Interventions:
    """Runs interventions; the steps are a class of their own."""

    steps = InterventionSteps

    def __init__(self, client: BigQuery, commits: Commits) -> None:
        self._client = client
        self._commits = commits

    def statements(self, spec: TableSpec, *partitions: str | None) -> Statements:
        """Return the statements of a table as it is now, for some partitions.

        Raises:
            NotInstalledError: the table is not there.
            WarehouseError: rows are in its streaming buffer.
        """
        types = target_types(self._client.table(self._client.names.target(spec)), spec)
        return Statements(spec, self._client.names, types, values_of(spec, partitions))

    def run(
        self,
        work: Intervention,
        script: Callable[[InterventionSteps], str],
        cancellation: Cancellation,
        statements: Statements,
    ) -> Ran:
        """Run an intervention as one script.

        Raises:
            As ``Warehouse.guarded``.
        """
        try:
            return self._commits.run(
                job_of(work), lambda turn: script(self.steps(statements, turn, work)), cancellation
            )
        except SignalError as refusal:
            raise error_of(refusal.signal, work.spec, str(work.scope), work.token) from refusal.__cause__

    @contextmanager
    def guarded(self, work: Intervention, cancellation: Cancellation) -> Iterator[Block]:
        """Collect people's own statements, and run them as one script when the block ends."""
        interrupted = threading.Event()
        cancellation.on_cancel(interrupted.set)
        try:
            self._refuse_early(work)
            statements = self.statements(work.spec, work.partition)
            block = Block(self._client.names.target(work.spec), cancellation, interrupted)
            yield block
        finally:
            cancellation.on_cancel(None)
        if interrupted.is_set():
            cancellation.raise_if_cancelled()
        block.raise_if_failed()
        self.run(work, lambda steps: steps.script(block.statements), cancellation, statements)

    def _refuse_early(self, work: Intervention) -> None:
        """Do not begin a block that cannot commit; the script looks again, inside the transaction."""
        statements = Statements(work.spec, self._client.names, ())
        ((store, fence),) = self._client.run(
            statements(CONTROL, "preview", scope=sql.string(work.partition or ""))
        ).rows
        if work.lock_store is not None and store != work.lock_store:
            raise LockStoreMismatchError(
                f"The table {work.spec.name!r} is used with the lock store {store}, not with {work.lock_store}: two "
                "stores would be two locks.",
                hint="If the old one is really out of use, run `onerow init --adopt-locks`.",
            )
        if work.token is not None and fence is not None and fence > work.token:
            raise StaleLeaseError(
                f"A transaction on {work.scope} with token {fence} has committed; this one has token {work.token}.",
                fence=int(fence),
                hint="Its lease had passed to somebody else. Run it again.",
            )

    def settled(self, work: Intervention) -> bool:
        """See to it that no job of ``work`` runs or will, take the guard, then tell whether it has committed."""
        try:
            self._commits.settle(job_of(work))
            statements = Statements(work.spec, self._client.names, ())
            read = statements(
                CONTROL, "read_committed", run=sql.string(work.run), attempt=sql.integer(work.attempt)
            )
            found = self.under_guard(work.spec, (), (read,)).rows
        except OnerowError as error:
            raise OutcomeUnknownError(f"The history cannot be read: {error.message}") from error
        return any(values[:2] == (work.partition or "", work.action) for values in found)

    def under_guard(self, spec: TableSpec, inside: Sequence[str], then: Sequence[str]) -> Ran:
        """Run statements inside a transaction that changes the guard, and others after its commit.

        Raises:
            ConflictError, NotInstalledError, WarehouseError: it was refused; nothing was committed.
            OutcomeUnknownError: nobody can tell.
        """
        statements = Statements(spec, self._client.names, ())

        def script(turn: Turn) -> str:
            steps = Steps(statements, turn, lock_store=None)
            return script_of(
                [*steps.claim(), *steps.begin(steps.guard(), counted=False), *inside, COMMIT, *then]
            )

        name = f"{spec.name} guard {uuid.uuid4().hex}"
        try:
            return self._commits.run(name, script)
        except SignalError as refusal:
            raise error_of(refusal.signal, spec, spec.name) from refusal.__cause__

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of a scope, with an audit entry; return the fence after it."""
        statements = Statements(spec, self._client.names, ())
        steps = Steps(statements, Turn(""), lock_store=None)
        place: Mapping[str, sql.Piece] = {"scope": sql.string(scope.partition or "")}
        rows = rows_literal(("partition", "token"), [(sql.string(scope.partition or ""), sql.integer(token))])
        entry = steps.history(
            sql.Rendered(statements(CONTROL, "fence_counts", **place)),
            run=sql.string(""), attempt=sql.integer(0), batch=sql.string(""),
            **about("force_release", holder=by, reason=reason),
        )  # fmt: skip
        inside = [statements(CONTROL, "raise_fences", tokens=rows), entry]
        ran = self.under_guard(spec, inside, [statements(CONTROL, "read_fence", **place)])
        return int(ran.rows[0][0])

    def entry_statement(self, entry: HistoryEntry) -> str:
        """Return the statement that writes one entry."""
        numbers = (
            entry.parts, entry.rows_staged, entry.rows_inserted, entry.rows_updated, entry.rows_unchanged,
            entry.rows_superseded,
        )  # fmt: skip
        values = (
            sql.string(entry.partition or ""),
            sql.cast(sql.optional(entry.token), "INT64"),
            *(sql.integer(number) for number in numbers),
        )
        pieces: dict[str, sql.Piece] = {
            "history": self._client.names.shared("history").node(),
            "name": sql.string(entry.table),
            "mine": sql.string(""),
            "partition_or_null": sql.cast(sql.optional(entry.partition), "STRING"),
            "counts": rows_literal(COUNTS, [values]),
            "run": sql.string(entry.consolidation),
            "attempt": sql.integer(entry.attempt),
            "batch": sql.string(entry.batch),
            **about(entry.action, holder=entry.holder, reason=entry.reason, unlocked=entry.unlocked),
            "merge_s": seconds(entry.merge_s),
            "verify_s": seconds(entry.verify_s),
        }
        return sql.render(sql.templates(CONTROL)["insert_history"], pieces)


class Block:
    """A GuardedTransaction whose statements run when the block ends."""

    def __init__(self, target: TableName, cancellation: Cancellation, interrupted: threading.Event) -> None:
        self._target = target
        self._cancellation = cancellation
        self._interrupted = interrupted
        self._failure: OnerowError | None = None
        self.statements: list[str] = []

    @property
    def target(self) -> str:
        """The target table as a statement names it."""
        return self._target.sql

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> Sequence[tuple[object, ...]]:
        """Take one statement; it runs with the others at the end of the block and returns nothing.

        Raises:
            UsageError: it is none, or several, or one that returns rows, defines something permanent, or begins or
                ends a transaction. The block may go on.
        """
        self.raise_if_failed()
        if self._interrupted.is_set():
            self._cancellation.raise_if_cancelled()
        tree = check_statement(statement)
        bind(tree, parameters)
        qualify(tree, self._target)
        self.statements.append(tree.sql(DIALECT, comments=False))
        return ()

    def raise_if_failed(self) -> None:
        """Raise what the block has failed with."""
        if self._failure is not None:
            raise self._failure


def check_statement(statement: str) -> sql.Node:
    """Return the tree of a text that is one statement which may run inside a guarded transaction.

    Raises:
        UsageError: it is none, or several, or another one.
    """
    try:
        found = [tree for tree in sqlglot.parse(statement, dialect=DIALECT) if tree is not None]
    except SqlglotError as error:
        raise UsageError(f"The statement cannot be read: {str(error).splitlines()[0]}") from error
    found = [tree for tree in found if not isinstance(tree, exp.Semicolon)]
    if len(found) != 1:
        raise UsageError(
            f"One call runs one statement; this text has {len(found)}.", hint="Call execute once for each."
        )
    tree = found[0]
    if isinstance(tree, exp.Query):
        raise UsageError(
            "A statement that returns rows does not run inside a guarded transaction on BigQuery: the block runs as "
            "one script when it ends, so it cannot wait for rows.",
            hint="Read before the block, or put the condition into the statement: INSERT ... SELECT ... WHERE.",
        )
    if not isinstance(tree, _CHANGES):
        raise UsageError(
            f"A statement of the kind {tree.key.upper()} does not run inside a guarded transaction, which begins and "
            "ends by itself and changes rows only.",
            hint="Leave begin, commit, rollback, declare, set, call and definitions of tables out.",
        )
    return tree


def bind(tree: sql.Node, parameters: Sequence[object] | Mapping[str, object]) -> None:
    """Put values in the place of ``?`` or ``@name``, as literals: a script has one set of parameters for all.

    Raises:
        UsageError: there are more or fewer values than places, or a value of a type that cannot be written down.
    """
    if isinstance(parameters, Named):
        given = dict(parameters)
        for named in list(tree.find_all(exp.Parameter)):
            name = named.name
            if name not in given:
                raise UsageError(f"There is no value for the parameter @{name}.")
            named.replace(literal_of(given[name]))
        return
    places = [place for place in tree.find_all(exp.Placeholder, bfs=False) if place.this is None]
    if len(places) != len(parameters):
        raise UsageError(f"The statement has {len(places)} places for values, and {len(parameters)} were given.")
    for place, value in zip(places, parameters, strict=True):
        place.replace(literal_of(value))


def literal_of(value: object) -> sql.Node:
    """Return a value of a parameter as a literal.

    Raises:
        UsageError: values of its type cannot be written down.
    """
    match value:
        case None:
            return exp.null()
        case bool():
            return exp.Boolean(this=value)
        case int():
            return sql.integer(value)
        case float():
            return sql.cast(sql.string(repr(value)), "FLOAT64")
        case str():
            return sql.string(value)
        case Decimal() if value.is_finite():
            return sql.cast(sql.string(format(value, "f")), _numeric_type(value))
        case dt.datetime():
            moment = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
            return sql.cast(sql.string(moment.isoformat(sep=" ")), "TIMESTAMP")
        case dt.date():
            return sql.cast(sql.string(value.isoformat()), "DATE")
        case _:
            raise UsageError(f"A value of type {type(value).__name__} cannot be a parameter of a script.")


def _numeric_type(value: Decimal) -> str:
    """Return the type that holds a decimal exactly; a cast to a smaller one would round it without a word.

    Raises:
        UsageError: none does.
    """
    scale = max(0, -int(value.as_tuple().exponent))
    if scale > BIGNUMERIC_SCALE:
        raise UsageError(f"A decimal with {scale} digits after the point cannot be a parameter: it would be rounded.")
    fits = value.adjusted() < NUMERIC_INTEGER_DIGITS and scale <= NUMERIC_SCALE
    return "NUMERIC" if fits else "BIGNUMERIC"


def qualify(tree: sql.Node, target: TableName) -> None:
    """Let names without a dataset mean tables beside the target."""
    own = {str(found.alias) for found in tree.find_all(exp.CTE)}
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and not table.db and table.name not in own:
            table.set("db", exp.to_identifier(target.dataset, quoted=True))
            table.set("catalog", exp.to_identifier(target.project, quoted=True))


def job_of(work: Intervention) -> str:
    """Return what the names of an intervention's jobs are derived from."""
    return f"{work.scope} {work.action} {work.run}.{work.attempt}"
