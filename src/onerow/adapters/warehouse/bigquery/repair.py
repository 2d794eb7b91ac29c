"""Repair of duplicates: what is planned, moved aside and brought back.

What stands twice is looked at before the script, by queries that touch nothing; the script compares a fingerprint of
the rows concerned inside the transaction and ends if they are others by then.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.cloud import bigquery
from sqlglot import exp

from onerow.adapters.bigquery.names import column, columns
from onerow.adapters.warehouse.bigquery import sql
from onerow.adapters.warehouse.bigquery.guarded import REPAIR, Interventions, about
from onerow.adapters.warehouse.bigquery.script import COUNTS
from onerow.adapters.warehouse.bigquery.signals import duplicates_of
from onerow.adapters.warehouse.bigquery.statements import CONTROL, REMOVED_SUFFIX, Statements, rows_literal
from onerow.core.partitions import Scope, encode_partition
from onerow.core.repairs import (
    Cause,
    DuplicateGroup,
    PartitionRepair,
    Repaired,
    RepairPlan,
    RestorePlan,
    explained_change,
    infer_cause,
    key_texts,
    refuse_versions,
    removal_reason,
    repair_reason,
    typed_key,
)
from onerow.errors import NotInstalledError, PlanOutdatedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.warehouse.bigquery.guarded import InterventionSteps
    from onerow.adapters.warehouse.bigquery.script import MergeSteps
    from onerow.core.repairs import Intervention
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import RepairRequest

ANSWERS: Final = tuple((identical, near) for identical in (False, True) for near in (False, True))
"""Identical? Written within a second?"""


@dataclass(frozen=True, slots=True)
class Found:
    """What stands more than once in one partition.

    Attributes:
        rows: all rows of the partition.
        explained: how many of them the history says were inserted.
        by_answer: keys, by whether their rows are identical and were written within a second.
        only_batch: the one batch that the ledger names for the partition; None if it names several or none.
    """

    rows: int
    explained: int
    keys: int
    extra_rows: int
    renumbered: int
    fingerprint: str
    by_answer: Mapping[tuple[bool, bool], int]

    def cause(self, answer: tuple[bool, bool]) -> Cause:
        """Return the likeliest cause of a key."""
        identical, near = answer
        return infer_cause(
            identical=identical, spread_s=0.0 if near else None, unexplained=self.rows > self.explained
        )

    def planned(self, partition: str | None) -> PartitionRepair:
        """Return it as a plan."""
        causes: dict[Cause, int] = {}
        for answer, keys in self.by_answer.items():
            causes[self.cause(answer)] = causes.get(self.cause(answer), 0) + keys
        return PartitionRepair(
            partition, self.keys, self.extra_rows, self.fingerprint, causes, renumbered=self.renumbered
        )

    @property
    def change(self) -> int:
        """What the history is told, so that it explains the rows that are left."""
        return explained_change(rows=self.rows, explained=self.explained, moved=self.extra_rows)


class Duplicates:
    """Looks for duplicates in some partitions of a table.

    Args:
        named: whose rows are looked at.
    """

    def __init__(self, client: BigQuery, statements: Statements, named: sql.Node) -> None:
        self._client = client
        self.statements = statements
        self.spec = statements.spec
        self.pieces: dict[str, sql.Piece] = {"named": named}
        of_mode = "_of_versions" if self.spec.mode == "versions" else ""
        self.repeated = self._text(f"repeated{of_mode}")
        self.pieces["repeated"] = sql.Rendered(self.repeated)
        self.pieces["keys"] = sql.Rendered(self._text("keys"))

    def _text(self, name: str, **more: sql.Piece) -> str:
        return self.statements(REPAIR, name, **{**self.pieces, **more})

    def rows(
        self, name: str, *parameters: Any, file: str = REPAIR, **more: sql.Piece
    ) -> tuple[tuple[Any, ...], ...]:
        """Run a statement and return its rows."""
        return self._client.run(self.statements(file, name, **{**self.pieces, **more}), parameters).rows

    def find(self) -> dict[str | None, Found]:
        """Return what stands more than once, by partition."""
        answers: dict[str | None, dict[tuple[bool, bool], tuple[int, int, int]]] = {}
        for value, identical, near, *numbers in self.rows("count_keys"):
            keys, extra, renumbered = (int(number or 0) for number in numbers)
            answers.setdefault(self._name(value), {})[bool(identical), bool(near)] = (keys, extra, renumbered)
        if not answers:
            return {}
        fingerprints = {self._name(value): text for value, text in self.rows("fingerprints")}
        counted = {self._name(value): int(count) for value, count in self.rows("count_rows")}
        name = bigquery.ScalarQueryParameter("name", "STRING", self.spec.name)
        explained = {value: int(count) for value, count in self.rows("read_inserted", name, file=CONTROL)}
        return {
            partition: Found(
                rows=counted[partition],
                explained=explained.get(partition, 0),
                keys=sum(keys for keys, _, _ in found.values()),
                extra_rows=sum(extra for _, extra, _ in found.values()),
                renumbered=sum(renumbered for _, _, renumbered in found.values()),
                fingerprint=fingerprints[partition],
                by_answer={answer: keys for answer, (keys, _, _) in found.items()},
            )
            for partition, found in sorted(answers.items(), key=lambda item: item[0] or "")
        }

    def groups(self, found: Mapping[str | None, Found], limit: int) -> list[DuplicateGroup]:
        """Return the first keys of what was found."""
        spec = self.spec
        if not found or limit < 1:
            return []
        bound = sql.integer(limit)
        names = [key for (key,) in self.rows("list_key_names", limit=bound)]
        ids: dict[str, list[tuple[int, str]]] = {}
        wanted = bigquery.ArrayQueryParameter("keys", "STRING", names)
        for key, place, value in self.rows("list_ids", wanted):
            ids.setdefault(key, []).append((int(place), "NULL" if value is None else value))
        groups = []
        for name, values in zip(names, self.rows("list_keys", limit=bound), strict=True):
            *key, count, identical, near = values
            partition = None if spec.partition is None else self._name(encode_partition(key[0]))
            kept = [value for place, value in ids[name] if place == 1]
            moved = [value for place, value in ids[name] if place > 1]
            groups.append(
                DuplicateGroup(
                    partition=partition,
                    key=key_texts(spec, self._exact(key)),
                    rows=int(count),
                    cause=found[partition].cause((bool(identical), bool(near))),
                    kept=kept[0] if spec.id_column is not None else None,
                    removed=tuple(moved) if spec.id_column is not None else (),
                )
            )
        return groups

    def _exact(self, key: Sequence[Any]) -> list[Any]:
        """Return values with the declared scale: the service drops the zeros behind the point."""
        exact = []
        for name, value in zip(self.spec.identity, key, strict=True):
            kind = self.spec.by_name[name].type
            decimal = kind.kind == "decimal" and value is not None
            exact.append(value.quantize(type(value)(1).scaleb(-kind.scale)) if decimal else value)
        return exact

    def rounding(self) -> int:
        """Count the groups of keys that a cast of one decimal key column to an integer would have folded."""
        spec = self.spec
        count = 0
        for name in spec.identity:
            if name == spec.partition or spec.by_name[name].type.kind != "decimal":
                continue
            rounded = exp.func("ROUND", column(name), sql.integer(0))
            groups = [*columns([other for other in spec.identity if other != name]), rounded]
            count += int(self.rows("count_rounding", decimal=column(name), groups=groups)[0][0])
        return count

    def move_aside(self, found: Mapping[str | None, Found], *, run: str, words: str) -> list[str]:
        """Return the statements that move all rows but the newest of each key aside; in versions mode, copies."""
        spec, temporary = self.spec, exp.to_table(f"onerow_repeated_{uuid.uuid4().hex}")
        place: dict[str, sql.Piece] = {"repeated": temporary}
        on_temporary = {**self.pieces, **place}
        keys = sql.Rendered(self.statements(REPAIR, "keys", **{**self.pieces, "repeated": _all_of(temporary)}))
        prints = sql.Rendered(
            self.statements(REPAIR, "fingerprints", **{**self.pieces, "repeated": _all_of(temporary)})
        )
        wanted = rows_literal(
            ("partition", "fingerprint"),
            [(sql.string(name or ""), sql.string(one.fingerprint)) for name, one in found.items()],
        )
        reasons = rows_literal(
            ("partition", "identical", "near", "reason", "batch"),
            [
                (
                    sql.string(name or ""),
                    exp.Boolean(this=identical),
                    exp.Boolean(this=near),
                    sql.string(removal_reason(one.cause((identical, near)), words)),
                    sql.cast(sql.optional(only_batch(self._client, self.statements, name)), "STRING"),
                )
                for name, one in found.items()
                for identical, near in ANSWERS
            ],
        )
        stored = [declared.name for declared in spec.stored_columns]
        of_mode = "_of_versions" if spec.mode == "versions" else ""
        kept = sql.Rendered(self.statements(REPAIR, f"kept{of_mode}", **on_temporary))

        def statement(name: str, **more: sql.Piece) -> str:
            return self.statements(REPAIR, name, **{**on_temporary, **more})

        return [
            statement("make_repeated", query=sql.Rendered(self.repeated)),
            statement(
                "check_fingerprints", fingerprints=prints, wanted=wanted, partitions=sql.integer(len(found))
            ),
            statement(
                "move_aside",
                keys=keys,
                reasons=reasons,
                run=sql.string(run),
                repeated_columns=columns(stored, "r"),
                repeated_partition_text=sql.partition_text(spec, "r"),
            ),
            statement("delete_repeated"),
            statement("put_back", kept=kept),
            statement("check_moved", extra_rows=sql.integer(sum(one.extra_rows for one in found.values()))),
            statement("drop_repeated"),
        ]

    def _name(self, value: str | None) -> str | None:
        return None if self.spec.partition is None else value


def only_batch(client: BigQuery, statements: Statements, partition: str | None) -> str | None:
    """Return the one batch that the ledger names for a partition; None if it names several or none."""
    parameters = (
        bigquery.ScalarQueryParameter("name", "STRING", statements.spec.name),
        bigquery.ScalarQueryParameter("partition", "STRING", partition),
    )
    found = client.run(statements(CONTROL, "read_only_batches"), parameters).rows
    return found[0][0] if len(found) == 1 else None


def _all_of(table: exp.Table) -> sql.Node:
    return exp.select("*").from_(table)


class Repairs:
    """Repairs and restores of a warehouse."""

    def __init__(self, client: BigQuery, interventions: Interventions) -> None:
        self._client = client
        self._interventions = interventions

    def plan(self, request: RepairRequest) -> RepairPlan:
        """Find keys that stand more than once; see ``Warehouse.plan_repair``."""
        spec = request.spec
        one = () if request.partition is None and spec.partition is not None else (request.partition,)
        statements = self._interventions.statements(spec, *one)
        named = statements.touched
        if spec.partition is not None and request.partition is None:
            # NULL is no partition: what stands there can be named by nobody, and `check` tells of it.
            named = exp.Not(this=exp.Is(this=column(spec.partition, sql.TARGET), expression=exp.Null()))
        duplicates = Duplicates(self._client, statements, named)
        found = duplicates.find()
        return RepairPlan(
            table=spec.name,
            partitions=tuple(one.planned(partition) for partition, one in found.items()),
            groups=tuple(duplicates.groups(found, request.limit)),
            rounding=duplicates.rounding(),
        )

    def repair(self, work: Intervention, planned: PartitionRepair, cancellation: Cancellation) -> Repaired:
        """Do one partition's share of a plan; see ``Warehouse.repair``."""
        statements = self._interventions.statements(work.spec, work.partition)
        self.check_removed(work.spec)
        duplicates = Duplicates(self._client, statements, statements.touched)
        found = duplicates.find().get(work.partition)
        if found is None or (found.keys, found.extra_rows, found.fingerprint) != (
            planned.keys, planned.extra_rows, planned.fingerprint,
        ):  # fmt: skip
            raise PlanOutdatedError(
                f"The duplicates of {work.scope} are not those of the plan any more.",
                hint=f"Nothing was changed. Look again with `onerow dedupe --table {work.spec.name}`.",
            )
        moves = duplicates.move_aside({work.partition: found}, run=work.run, words=work.reason)

        def script(steps: InterventionSteps) -> str:
            return steps.script(moves, rows_superseded=found.extra_rows, rows_inserted=found.change)

        self._interventions.run(work, script, cancellation, statements)
        return Repaired(work.partition, found.keys, found.extra_rows, renumbered=found.renumbered)

    def for_merge(self, steps: MergeSteps) -> list[str]:
        """Return the statements that repair a plan's partitions before its merge, with entries of their own."""
        plan, statements = steps.plan, steps.statements
        self.check_removed(plan.spec)
        duplicates = Duplicates(self._client, statements, statements.touched)
        found = duplicates.find()
        if not found:
            return []
        words = repair_reason(plan.batch)
        tokens = {task.partition: task.token for task in plan.tasks}
        zero = sql.integer(0)
        entries = rows_literal(
            COUNTS,
            [
                (
                    sql.string(name or ""), sql.cast(sql.optional(tokens[name]), "INT64"), zero.copy(), zero.copy(),
                    sql.integer(one.change), zero.copy(), zero.copy(), sql.integer(one.extra_rows),
                )
                for name, one in found.items()
            ],
        )  # fmt: skip
        entry = about("dedupe", holder=plan.holder, reason=words, unlocked=plan.unlocked)
        return [
            *duplicates.move_aside(found, run=plan.consolidation, words=words),
            steps.history(entries, **{**steps.run, **entry}),
            statements("merge.sql", "count_again"),
        ]

    def plan_restore(
        self, spec: TableSpec, partition: str | None, run: str, key: Mapping[str, str | None]
    ) -> RestorePlan:
        """Tell what would change places; see ``Warehouse.plan_restore``."""
        self.check_removed(spec)
        exchange = Exchange(self._client, self._interventions.statements(spec, partition), partition, run, key)
        return RestorePlan(
            table=spec.name,
            partition=partition,
            key=key_texts(spec, exchange.values.values()),
            run=run,
            back=exchange.back,
            current=tuple(exchange.current),
            removed_at=exchange.removed_at,
            reason=exchange.reason,
        )

    def restore(
        self, work: Intervention, run: str, key: Mapping[str, str | None], cancellation: Cancellation
    ) -> Repaired:
        """Exchange the row of a key with the newest one that ``run`` removed; see ``Warehouse.restore``."""
        statements = self._interventions.statements(work.spec, work.partition)
        self.check_removed(work.spec)
        exchange = Exchange(self._client, statements, work.partition, run, key)
        swap = exchange.swap(work)
        count = len(exchange.current)
        self._interventions.run(
            work, lambda steps: steps.script(swap, rows_superseded=count), cancellation, statements
        )
        return Repaired(work.partition, 1, count, rows_restored=1)

    def check_removed(self, spec: TableSpec) -> None:
        """Check that rows can be moved aside.

        Raises:
            NotInstalledError: the table for them is not there or lacks a declared column.
        """
        name = self._client.names.related(spec, REMOVED_SUFFIX)
        there = self._client.table(name)
        missing = [found.name for found in spec.stored_columns if there is None or found.name not in there.by_name]
        if missing:
            raise NotInstalledError(
                f"The table {name} is missing or lacks the column {missing[0]!r}.", hint="Run `onerow init`."
            )


class Exchange:
    """A row that was removed and the row that is there.

    Raises:
        UsageError: the table is in versions mode, or the run has removed no row of the key.
    """

    def __init__(
        self,
        client: BigQuery,
        statements: Statements,
        partition: str | None,
        run: str,
        key: Mapping[str, str | None],
    ) -> None:
        spec = self.spec = statements.spec
        refuse_versions(spec)
        self._statements = statements
        self.partition = partition
        self.values = typed_key(spec, partition, key)
        both = statements.columns
        self._pieces: dict[str, sql.Piece] = {
            "run": sql.string(run),
            "is_key": exp.and_(*(self._equals(column(name), name) for name in self.values)),
            "target_is_key": exp.and_(*(self._equals(both.stored(name), name) for name in self.values)),
        }

        def rows(name: str) -> tuple[tuple[Any, ...], ...]:
            return client.run(self._text(name)).rows

        found = rows("find_removed")
        if not found:
            others = [name for (name,) in rows("find_runs")]
            raise UsageError(
                f"Run {run!r} has removed no row of this key in {Scope(spec.name, partition)}, or it was restored "
                "already.",
                hint=f"Rows of it were removed by: {', '.join(others)}."
                if others
                else "No run has removed a row of it.",
            )
        self.back, self.removed_at, self.reason = found[0]
        self.current: list[str | None] = [name for (name,) in rows("find_current")]
        self._only_batch = only_batch(client, statements, partition)

    def _equals(self, node: sql.Node, name: str) -> sql.Node:
        value = sql.literal(self.values[name], self.spec.by_name[name].type)
        return exp.NullSafeEQ(this=node, expression=value)

    def _text(self, name: str, **more: sql.Piece) -> str:
        return self._statements(REPAIR, name, **{**self._pieces, **more})

    def swap(self, work: Intervention) -> list[str]:
        """Return the statements that let the two change places.

        Raises:
            DuplicatesError: the key stands more than once.
        """
        if len(self.current) > 1:
            told = [*key_texts(self.spec, self.values.values()).values(), str(len(self.current))]
            raise duplicates_of(self.spec, 1, [told])
        temporary = exp.to_table(f"onerow_taken_{uuid.uuid4().hex}")
        place: dict[str, sql.Piece] = {"repeated": temporary}
        kept = exp.select("*").from_(temporary).where("__onerow_place = 1")
        back: dict[str, sql.Piece] = {"kept": kept, "stored_columns": self._statements.pieces["columns"]}
        back["stored_values"] = self._statements.pieces["values"]
        return [
            self._text("take_removed", **place),
            self._text("check_exchange", **place, current=sql.integer(len(self.current))),
            self._text("forget_removed"),
            self._text("keep_removed", **place),
            self._text(
                "put_aside",
                mine_run=sql.string(work.run),
                reason=sql.string(work.reason),
                batch=sql.cast(sql.optional(self._only_batch), "STRING"),
            ),
            self._text("delete_current"),
            self._text("put_back", **back),
            self._text("drop_repeated", **place),
        ]
