"""Repair of duplicates: what is planned, moved aside and brought back."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.warehouse.duckdb import removed, sql, steps
from onerow.adapters.warehouse.duckdb.database import row, rows
from onerow.adapters.warehouse.duckdb.install import target_table
from onerow.adapters.warehouse.duckdb.statements import target_column
from onerow.core.partitions import Scope, decode_partition, encode_partition
from onerow.core.repairs import (
    RACE_S,
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
from onerow.errors import DuplicatesError, PlanOutdatedError, UsageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

    from onerow.adapters.warehouse.duckdb.guarded import OpenIntervention
    from onerow.core.partitions import PartitionValue
    from onerow.core.plans import MergePlan
    from onerow.core.repairs import Intervention
    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import RepairRequest

TEMPORARY: Final = ("suspects", "repeated", "repeated_keys")
_ANSWERS: Final = tuple((identical, near) for identical in (False, True) for near in (False, True))
"""Identical? Written within a second? In the order in which ``move_aside`` counts them."""


@dataclass(frozen=True, slots=True)
class Found:
    """What stands more than once in one partition.

    Attributes:
        rows: all rows of the partition.
        explained: how many of them the history says were inserted.
        by_answer: keys, by whether their rows are identical and were written within a second.
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


class Repair:
    """Duplicates in some partitions of a table, on a connection that has the file attached.

    Args:
        values: the partitions; None: all of them.
        types: the target's columns with their engine types.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        spec: TableSpec,
        values: Sequence[PartitionValue] | None,
        types: Mapping[str, str],
        control: Mapping[str, str],
    ) -> None:
        self.connection = connection
        self.spec = spec
        self.control = control
        self._pieces = _pieces(spec, types)
        if values is None and spec.partition is not None:
            # NULL is no partition: what stands there can be named by nobody, and `check` tells of it.
            named: sql.Node = sql.exp.Not(this=sql.exp.Is(this=sql.column(spec.partition), expression=sql.exp.Null()))
        else:
            named = sql.in_partitions(spec, values or ())
        self._pieces["touched_partitions"] = named

    def statement(self, name: str, **more: sql.Piece) -> str:
        """Return a statement of ``repair.sql`` for the table."""
        tables = {"target": target_table(self.spec), "removed": removed.removed_table(self.spec)}
        return sql.render(sql.templates("repair.sql")[name], tables=tables, pieces={**self._pieces, **more})

    def view(self) -> None:
        """Make the view of the partitions' rows."""
        self.connection.execute(self.statement("view_touched"))

    def clear(self) -> None:
        """Drop what looking has left behind."""
        self.connection.execute("drop view if exists touched")
        for name in TEMPORARY:
            self.connection.execute(f"drop table if exists {name}")

    def find(self) -> dict[str | None, Found]:
        """Collect the rows of keys that stand more than once; return what they are, by partition."""
        run, spec = self.connection, self.spec
        self.view()
        of_mode = "_of_versions" if spec.mode == "versions" else ""
        run.execute(self.statement(f"collect_suspects{of_mode}"))
        (suspects,) = row(run, self.statement("count_suspects"))
        if not suspects:
            return {}
        run.execute(self.statement(f"collect_repeated{of_mode}"))
        run.execute(self.statement("collect_keys"))
        fingerprints = dict(rows(run, self.statement("fingerprints")))
        counted = dict(rows(run, self.statement("count_rows")))
        explained = dict(rows(run, self.control["read_inserted"], spec.name))
        keys: dict[Any, dict[tuple[bool, bool], tuple[int, int, int]]] = {}
        for value, identical, near, *numbers in rows(run, self.statement("count_keys")):
            count, extra, renumbered = numbers
            keys.setdefault(value, {})[identical, near] = (count, extra, renumbered)
        found = {
            steps.partition_name(spec, value): Found(
                rows=counted[value],
                explained=explained.get(steps.partition_name(spec, value), 0),
                keys=sum(count for count, _, _ in answers.values()),
                extra_rows=sum(extra for _, extra, _ in answers.values()),
                renumbered=sum(renumbered for _, _, renumbered in answers.values()),
                fingerprint=fingerprints[value],
                by_answer={answer: count for answer, (count, _, _) in answers.items()},
            )
            for value, answers in keys.items()
        }
        return dict(sorted(found.items(), key=lambda item: item[0] or ""))

    def groups(self, found: Mapping[str | None, Found], limit: int) -> list[DuplicateGroup]:
        """Return the first keys of what was found."""
        spec = self.spec
        groups = []
        for values in rows(self.connection, self.statement("list_keys"), limit) if found else ():
            *key, count, identical, near, kept, moved = values
            partition = None if spec.partition is None else encode_partition(key[0])
            names = ["NULL" if one is None else one for one in moved or ()]
            groups.append(
                DuplicateGroup(
                    partition=partition,
                    key=key_texts(spec, key),
                    rows=count,
                    cause=found[partition].cause((identical, near)),
                    kept=None if spec.id_column is None else "NULL" if kept[0] is None else kept[0],
                    removed=() if spec.id_column is None else tuple(names),
                )
            )
        return groups

    def rounding(self) -> int:
        """Count the groups of keys that a cast of one decimal key column to an integer would have folded."""
        spec = self.spec
        count = 0
        for name in spec.identity:
            if name == spec.partition or spec.by_name[name].type.kind != "decimal":
                continue
            others = [other for other in spec.identity if other != name]
            statement = self.statement("count_rounding", decimal=sql.column(name), others=sql.columns(others))
            count += row(self.connection, statement)[0]
        return count

    def move_aside(self, partition: str | None, found: Found, *, run: str, words: str) -> None:
        """Move all rows of a partition but the newest of each key aside; in versions mode, copies of a content.

        Raises:
            NotInstalledError: there is no table to move them to.
            VerificationError: the engine moved other rows than it was told to.
        """
        spec = self.spec
        removed.check_removed(self.connection, spec)
        reasons = [removal_reason(found.cause(answer), words) for answer in _ANSWERS]
        values = partition_values(spec, partition)
        copy = self.statement("move_aside", repeated_partitions=sql.in_partitions(spec, values, on="r"))
        (copied,) = row(self.connection, copy, run, reasons, self.only_batch(partition))
        delete = self.statement("delete_moved", target_partitions=sql.in_partitions(spec, values, on="target"))
        (deleted,) = row(self.connection, delete)
        if not copied == deleted == found.extra_rows:
            raise VerificationError(
                f"Of {found.extra_rows} extra rows {copied} were copied aside and {deleted} removed.",
                hint="The transaction was rolled back.",
            )
        if found.renumbered:
            update = self.statement("renumber", target_partitions=sql.in_partitions(spec, values, on="target"))
            (renumbered,) = row(self.connection, update)
            if renumbered != found.renumbered:
                raise VerificationError(f"{renumbered} rows were renumbered, expected {found.renumbered}.")

    def only_batch(self, partition: str | None) -> str | None:
        """Return the one batch that the ledger names for a partition; None if it names several or none."""
        found = rows(self.connection, self.control["read_only_batches"], self.spec.name, partition)
        return found[0][0] if len(found) == 1 else None


def plan_repair(
    connection: duckdb.DuckDBPyConnection,
    request: RepairRequest,
    types: Mapping[str, str],
    control: Mapping[str, str],
) -> RepairPlan:
    """Find keys that stand more than once; see ``Warehouse.plan_repair``."""
    spec = request.spec
    values = None if request.partition is None else partition_values(spec, request.partition)
    repair = Repair(connection, spec, values, types, control)
    try:
        found = repair.find()
        return RepairPlan(
            table=spec.name,
            partitions=tuple(one.planned(partition) for partition, one in found.items()),
            groups=tuple(repair.groups(found, request.limit)),
            rounding=repair.rounding(),
        )
    finally:
        repair.clear()


def repair_one(opened: OpenIntervention, planned: PartitionRepair, control: Mapping[str, str]) -> Repaired:
    """Do one partition's share of a plan, inside its transaction; see ``Warehouse.repair``."""
    work = opened.work
    repair = Repair(opened.connection, work.spec, opened.values, opened.types, control)
    found = repair.find().get(work.partition)
    if found is None or (found.keys, found.extra_rows, found.fingerprint) != (
        planned.keys, planned.extra_rows, planned.fingerprint,
    ):  # fmt: skip
        raise PlanOutdatedError(
            f"The duplicates of {work.scope} are not those of the plan any more.",
            hint=f"Nothing was changed. Look again with `onerow dedupe --table {work.spec.name}`.",
        )
    repair.move_aside(work.partition, found, run=work.run, words=work.reason)
    opened.rows_superseded = found.extra_rows
    return Repaired(work.partition, found.keys, found.extra_rows, renumbered=found.renumbered)


def repair_for_merge(repair: Repair, plan: MergePlan) -> dict[str | None, int]:
    """Repair all partitions of a plan inside the transaction that merges it, with history entries of their own.

    Returns:
        The rows that were moved aside, for the partitions that had any.
    """
    tokens = {task.partition: task.token for task in plan.tasks}
    words = repair_reason(plan.batch)
    found = repair.find()
    for partition, one in found.items():
        repair.move_aside(partition, one, run=plan.consolidation, words=words)
    repair.clear()
    entries: list[steps.HistoryCounts] = []
    for partition, one in found.items():
        change = explained_change(rows=one.rows, explained=one.explained, moved=one.extra_rows)
        entries.append((partition, tokens[partition], 0, 0, change, 0, 0, one.extra_rows))
    if entries:
        steps.write_history(
            repair.connection,
            repair.control,
            entries,
            action="dedupe",
            table=plan.spec.name,
            batch=plan.batch,
            run=plan.consolidation,
            attempt=plan.attempt,
            unlocked=plan.unlocked,
            holder=plan.holder,
            reason=words,
        )
    return {partition: one.extra_rows for partition, one in found.items()}


class Exchange:
    """A row that was removed and the row that is there, on a connection that has the file attached."""

    def __init__(self, repair: Repair, partition: str | None, run: str, key: Mapping[str, str | None]) -> None:
        spec = repair.spec
        refuse_versions(spec)
        removed.check_removed(repair.connection, spec)
        repair.view()
        self.repair = repair
        self.partition = partition
        self.values = list(typed_key(spec, partition, key).values())
        self._pieces: dict[str, sql.Piece] = {
            "is_key": sql.exp.and_(
                *(
                    sql.exp.NullSafeEQ(
                        this=sql.column(name),
                        expression=sql.cast(sql.exp.Placeholder(), sql.duckdb_type(spec.by_name[name].type)),
                    )
                    for name in spec.identity
                )
            ),
            "target_partitions": sql.in_partitions(spec, partition_values(spec, partition), on="target"),
        }
        found = self.rows("find_removed", run, *self.values)
        if not found:
            others = [name for (name,) in self.rows("find_runs", *self.values)]
            raise UsageError(
                f"Run {run!r} has removed no row of this key in {Scope(spec.name, partition)}, or it was restored "
                "already.",
                hint=f"Rows of it were removed by: {', '.join(others)}."
                if others
                else "No run has removed a row of it.",
            )
        self.row, self.back, self.removed_at, self.reason = found[0]
        self.current = [name for (name,) in self.rows("find_current", *self.values)]

    def rows(self, name: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement of the exchange."""
        return rows(self.repair.connection, self.repair.statement(name, **self._pieces), *values)

    def swap(self, work: Intervention) -> None:
        """Let the two change places.

        Raises:
            DuplicatesError: the key stands more than once.
            VerificationError: the engine moved other rows than it was told to.
        """
        spec = self.repair.spec
        if len(self.current) > 1:
            told = steps.describe_key(spec, self.values)
            raise DuplicatesError(
                f"{told} stands more than once in {work.scope}.",
                keys=[told],
                partitions=(work.partition,),
                hint=f"Nothing was changed. Repair it first with `onerow dedupe --table {spec.name}`.",
            )
        batch = self.repair.only_batch(self.partition)
        moved = [
            self.rows("put_aside", work.run, work.reason, batch, *self.values),
            self.rows("delete_current", *self.values),
            self.rows("take_back", self.row),
            self.rows("forget_removed", self.row),
        ]
        count = len(self.current)
        if moved != [[(count,)], [(count,)], [(1,)], [(1,)]]:
            raise VerificationError(
                "The rows could not be exchanged one for one.", hint="The transaction was rolled back."
            )


def plan_restore(repair: Repair, partition: str | None, run: str, key: Mapping[str, str | None]) -> RestorePlan:
    """Tell what would change places; see ``Warehouse.plan_restore``."""
    try:
        exchange = Exchange(repair, partition, run, key)
    finally:
        repair.clear()
    return RestorePlan(
        table=repair.spec.name,
        partition=partition,
        key=key_texts(repair.spec, exchange.values),
        run=run,
        back=exchange.back,
        current=tuple(exchange.current),
        removed_at=exchange.removed_at.replace(tzinfo=dt.UTC),
        reason=exchange.reason,
    )


def restore_one(
    opened: OpenIntervention, run: str, key: Mapping[str, str | None], control: Mapping[str, str]
) -> Repaired:
    """Exchange the row of a key with the newest one that ``run`` removed; see ``Warehouse.restore``."""
    work = opened.work
    repair = Repair(opened.connection, work.spec, opened.values, opened.types, control)
    exchange = Exchange(repair, work.partition, run, key)
    exchange.swap(work)
    opened.rows_superseded = len(exchange.current)
    return Repaired(work.partition, 1, len(exchange.current), rows_restored=1)


def partition_values(spec: TableSpec, partition: str | None) -> tuple[PartitionValue, ...]:
    """Return the value of a partition, nothing for a table without."""
    if spec.partition is None or partition is None:
        return ()
    return (decode_partition(partition, spec.by_name[spec.partition].type),)


def _pieces(spec: TableSpec, types: Mapping[str, str]) -> dict[str, sql.Piece]:
    moments = [name for name in spec.order_by if spec.by_name[name].type.kind == "timestamp"]
    partition: sql.Node = sql.cast(sql.exp.Literal.string(""), "VARCHAR")
    pieces: dict[str, sql.Piece] = {
        "target_columns": [target_column(column, types) for column in spec.stored_columns],
        "partition": partition if spec.partition is None else sql.column(spec.partition),
        "identity": sql.columns(spec.identity),
        "key_hash": sql.hash_of(spec.identity),
        "row_hash": sql.hash_of([column.name for column in spec.stored_columns]),
        "content_hash": sql.hash_of(spec.column_names),
        "oldest_first": list(sql.oldest_first(spec.comparison).expressions),
        "kept_first": sql.column("__onerow_place"),
        "newest_first": list(sql.newest_first(spec.comparison).expressions),
        "near": _near(moments[0]) if moments else sql.exp.false(),
        "id": sql.cast(sql.exp.null() if spec.id_column is None else sql.column(spec.id_column), "VARCHAR"),
        "column_list": sql.columns(spec.column_names),
        "columns": sql.columns(spec.column_names),
        "stored_list": sql.columns([column.name for column in spec.stored_columns]),
        "repeated_columns": sql.columns([column.name for column in spec.stored_columns], "r"),
        "same_key": sql.same_key(spec.identity, "r", "k"),
    }
    if spec.version_column is not None and spec.mode == "versions":
        pieces["version"] = pieces["kept_first"] = sql.column(spec.version_column)
        pieces["version_column"] = sql.column(spec.version_column)
    return pieces


def _near(name: str) -> sql.Node:
    """Return whether all moments of a group are known and within ``RACE_S`` of each other."""
    moment = sql.column(name)
    newest, oldest = (
        sql.exp.func("epoch_us", node, dialect=sql.DIALECT)
        for node in (sql.exp.Max(this=moment), sql.exp.Min(this=moment.copy()))
    )
    known = sql.exp.EQ(this=sql.exp.Count(this=moment.copy()), expression=sql.exp.Count(this=sql.exp.Star()))
    limit = sql.exp.Literal.number(round(RACE_S * 1_000_000))
    near = sql.exp.LTE(this=sql.exp.Sub(this=newest, expression=oldest), expression=limit)
    return sql.exp.func("coalesce", sql.exp.and_(known, near), sql.exp.false(), dialect=sql.DIALECT)
