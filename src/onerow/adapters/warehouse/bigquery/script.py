"""The plan as one script: guard, token, todo, merge, verify and record between BEGIN and COMMIT TRANSACTION.

A step is a method that gives statements; the test kit leaves one out to see that it was needed. The script is one job
without a session: on an error the service rolls the transaction back by itself, and no lock outlives the job.

Each statement of a script is a job of its own to the service, however little it does. So what several steps refuse is
asked by one statement: a refusal is a query of one text, NULL where nothing is wrong, and the first one that is not
NULL ends the script.

The claim comes before the transaction, as a statement of its own. Inside transactions the service promises snapshots
and cancels one of two that change a table at once, but says neither when the snapshot is taken nor whether a change is
cancelled that runs after the rival's commit on an older snapshot. A single statement outside transactions follows
other, documented rules: it waits for transactions that change its table, and never works on an old state. So a job
first writes its name into the guard row, and none does that over the name of a job that may still run: whatever the
two answers are, a transaction begins after all others of its table have ended.

Source: https://cloud.google.com/bigquery/docs/transactions#transaction_concurrency,
https://cloud.google.com/bigquery/docs/data-manipulation-language#dml_statement_conflicts and
https://cloud.google.com/bigquery/docs/multi-statement-queries
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from onerow.adapters.warehouse.bigquery import sql
from onerow.adapters.warehouse.bigquery.statements import CONTROL, Statements, rows_literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.warehouse.bigquery.preparation import PreparedMerge
    from onerow.core.plans import MergePlan

BEGIN: Final = "BEGIN TRANSACTION"
COMMIT: Final = "COMMIT TRANSACTION"
DECLARE_BEFORE: Final = "DECLARE onerow_rows_before INT64"
COUNTS: Final = (
    "partition", "token", "parts", "rows_staged", "rows_inserted", "rows_updated", "rows_unchanged", "rows_superseded",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is to change a table.

    Attributes:
        mine: the name of the job, which stands in the guard row while it works.
        ended: names of jobs that are known to have ended, whose claims may be taken over.
    """

    mine: str
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What a step brings to the beginning of a transaction.

    Attributes:
        first: statements before the check.
        refusals: queries for the check, which all steps share.
        then: statements after it.
    """

    first: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    then: tuple[str, ...] = ()


def script_of(statements: Sequence[str]) -> str:
    """Return statements as one script."""
    return "".join(f"{statement};\n" for statement in statements)


class Steps:
    """Steps that every transaction under the guard shares: merges, repairs, people's own statements."""

    def __init__(self, statements: Statements, turn: Turn, *, lock_store: str | None) -> None:
        self.statements = statements
        self.turn = turn
        self.lock_store = lock_store
        self.mine: Mapping[str, sql.Piece] = {"mine": sql.string(turn.mine)}

    def claim(self) -> list[str]:
        """Write this job's name into the guard row, outside the transaction; refused over the name of another one."""
        ended: list[sql.Node] = [sql.string(name) for name in (self.turn.mine, *self.turn.ended)]
        locked = exp.Boolean(this=self.lock_store is not None)
        store: Mapping[str, sql.Piece] = {"locked": locked, "lock_store": sql.optional(self.lock_store)}
        return [self.statements(CONTROL, "claim", **self.mine, **store, ended=ended)]

    def guard(self) -> Step:
        """Change the guard row; of two transactions that do so at once one is cancelled."""
        return Step(
            first=(self.statements(CONTROL, "change_guard", **self.mine),),
            refusals=(self.statements(CONTROL, "refuse_guard", **self.mine),),
        )

    def fences(self, tokens: Mapping[str | None, int | None]) -> Step:
        """Compare tokens with the highest that have committed for their partitions, and raise these."""
        held = [
            (sql.string(name or ""), sql.integer(token)) for name, token in tokens.items() if token is not None
        ]
        if not held:
            return Step()
        rows = rows_literal(("partition", "token"), held)
        return Step(
            refusals=(self.statements(CONTROL, "refuse_tokens", tokens=rows),),
            then=(self.statements(CONTROL, "raise_fences", tokens=rows),),
        )

    def begin(self, *steps: Step, counted: bool = True) -> list[str]:
        """Begin the transaction with steps.

        Args:
            steps: in the order in which their refusals are told.
            counted: the rows of the touched partitions are counted before anything changes.
        """
        refusals = _asked([query for step in steps for query in step.refusals])
        check = ("merge.sql", "check_and_count") if counted else (CONTROL, "check")
        return [
            BEGIN,
            *(statement for step in steps for statement in step.first),
            self.statements(*check, refusals=refusals),
            *(statement for step in steps for statement in step.then),
        ]

    def check(self, *refusals: str) -> list[str]:
        """End the script with the first of some refusals."""
        return [self.statements(CONTROL, "check", refusals=_asked(refusals))]

    def history(self, counts: sql.Piece, **about: sql.Piece) -> str:
        """Return the statement that writes entries; see ``COUNTS`` for what ``counts`` has."""
        return self.statements(CONTROL, "insert_history", **self.mine, **self.partition_or_null, counts=counts, **about)

    @property
    def partition_or_null(self) -> Mapping[str, sql.Piece]:
        """How a partition is written down; the partition of a table without partitions is NULL."""
        if self.statements.spec.partition is None:
            return {"partition_or_null": sql.cast(exp.null(), "STRING")}
        return {"partition_or_null": exp.column("partition", table="e", quoted=True)}


class MergeSteps(Steps):
    """The steps of a plan."""

    file = "merge.sql"

    def __init__(self, prepared: PreparedMerge, turn: Turn) -> None:
        super().__init__(prepared.statements, turn, lock_store=prepared.plan.lock_store)
        self.prepared = prepared
        self.plan: MergePlan = prepared.plan
        self.run: Mapping[str, sql.Piece] = {
            "run": sql.string(self.plan.consolidation),
            "attempt": sql.integer(self.plan.attempt),
            "batch": sql.string(self.plan.batch),
        }

    def script(self, *, repair: Sequence[str] = ()) -> str:
        """Return the whole: what it selects last are the entries of the history.

        Args:
            repair: statements that move rows of keys that stand more than once aside, before the merge.
        """
        return script_of(
            [
                DECLARE_BEFORE,
                *self.claim(),
                *self.begin(self.guard(), self.token(), self.todo()),
                *repair,
                *self.merge(),
                *self.verify(),
                *self.record(),
                COMMIT,
                self.statements(CONTROL, "read_committed", **self.run),
            ]
        )

    def token(self) -> Step:
        """Compare the tokens with the fences and raise these; a run without a lock has none."""
        return self.fences({task.partition: task.token for task in self.plan.tasks})

    def todo(self) -> Step:
        """Refuse a plan of which the ledger names a part already."""
        return Step(
            refusals=(self.statements(CONTROL, "refuse_parts", **self.run, entries=self._query("entries")),)
        )

    def merge(self) -> list[str]:
        """Count what will become of every row, by partition, and let the newest row of each key win."""
        changes = self.statements.pieces["assignments"]
        when = self._query("when_newer") if changes else sql.Rendered("")
        return [
            self.history(self._query("counts", tasks=self._tasks()), **self._about()),
            self.statements(self.file, "merge", when_newer=when),
        ]

    def verify(self) -> list[str]:
        """Read the touched partitions back: one row a key, every staged key there, nothing older, counts add up."""
        return self.check(
            self.statements(self.file, "refuse_keys"), self.statements(self.file, "refuse_staged"), self.refuse_counts()
        )

    def refuse_counts(self) -> str:
        """Return the refusal of counts that do not add up; the check stands right after what changes the table."""
        return self.statements("merge.sql", "refuse_counts", **self.run, **self._all_partitions())

    def record(self) -> list[str]:
        """Write the ledger; the history was written when the rows were counted."""
        return [
            self.statements(
                CONTROL, "insert_ledger", **self.run, **self.partition_or_null, entries=self._query("entries")
            )
        ]

    def _all_partitions(self) -> dict[str, sql.Piece]:
        """Return how many partitions the plan has, and their names: another group may have the number of its own."""
        names: list[sql.Node] = [sql.string(name or "") for name in self.plan.partitions]
        return {"partitions": sql.integer(len(names)), "partition_names": names}

    def _query(self, name: str, **more: sql.Piece) -> sql.Rendered:
        file = self.file if name in sql.templates(self.file) else "merge.sql"
        return sql.Rendered(self.statements(file, name, **more))

    def _tasks(self) -> sql.Node:
        """Return the plan's partitions with their tokens and the number of their parts, as literal rows."""
        null = sql.cast(exp.null(), "INT64")
        return rows_literal(
            ("partition", "token", "parts"),
            [
                (
                    sql.string(task.partition or ""),
                    null.copy() if task.token is None else sql.integer(task.token),
                    sql.integer(len(task.part_ids)),
                )
                for task in self.plan.tasks
            ],
        )

    def _about(self) -> dict[str, sql.Piece]:
        plan, prepared = self.plan, self.prepared
        return {
            **self.run,
            "action": sql.string("consolidate"),
            "unlocked": exp.Boolean(this=plan.unlocked),
            "holder": sql.string(plan.holder),
            "merge_s": seconds(prepared.prepare_s),
            "verify_s": seconds(0.0),
            "reason": sql.string(""),
            "bytes_processed": sql.integer(prepared.cost.bytes_processed),
            "slot_ms": sql.integer(prepared.cost.slot_ms),
        }


def _asked(refusals: Sequence[str]) -> sql.Rendered:
    """Return queries as the values that a check looks at."""
    return sql.Rendered(", ".join(f"(\n{query}\n)" for query in refusals) or "CAST(NULL AS STRING)")


def seconds(value: float) -> sql.Node:
    """Return seconds as a literal, to the microsecond."""
    return sql.cast(exp.Literal.number(f"{value:.6f}"), "FLOAT64")
