"""Repair of duplicates: what is planned, and moved aside. Runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.postgresql.connection import row, rows, run
from onerow.adapters.warehouse.postgresql import steps
from onerow.adapters.warehouse.postgresql.removed import check_removed
from onerow.adapters.warehouse.postgresql.repairing import RepairStatements, partition_values
from onerow.adapters.warehouse.postgresql.statements import in_partitions
from onerow.adapters.warehouse.postgresql.target import describe
from onerow.core.partitions import encode_partition
from onerow.core.repairs import (
    Cause,
    DuplicateGroup,
    PartitionRepair,
    Repaired,
    RepairPlan,
    explained_change,
    infer_cause,
    key_texts,
    removal_reason,
    repair_reason,
)
from onerow.errors import PlanOutdatedError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql.guarded import OpenIntervention
    from onerow.adapters.warehouse.postgresql.steps import Control
    from onerow.adapters.warehouse.postgresql.target import Target
    from onerow.core.partitions import PartitionValue
    from onerow.core.plans import MergePlan
    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import RepairRequest

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
    """Duplicates in some partitions of a table.

    Args:
        connection: inside a transaction; what is collected ends with it.
        values: the partitions; None: all of them.
    """

    def __init__(
        self,
        connection: Connection,
        spec: TableSpec,
        target: Target,
        values: Sequence[PartitionValue] | None,
        control: Control,
    ) -> None:
        self.connection = connection
        self.spec = spec
        self.target = target
        self.control = control
        self.statements = RepairStatements(spec, target.by_name, values)

    def find(self) -> dict[str | None, Found]:
        """Collect the rows of keys that stand more than once; return what they are, by partition."""
        connection, statements, spec = self.connection, self.statements, self.spec
        of_mode = "_of_versions" if spec.mode == "versions" else ""
        rows(connection, statements["settle"])
        if not run(connection, statements[f"collect_suspects{of_mode}"]):
            return {}
        run(connection, statements[f"collect_repeated{of_mode}"])
        run(connection, statements["collect_keys"])
        fingerprints = dict(rows(connection, statements["fingerprints"]))
        counted = dict(rows(connection, statements["count_rows"]))
        explained = dict(rows(connection, self.control["read_inserted"], spec.name))
        keys: dict[Any, dict[tuple[bool, bool], tuple[int, int, int]]] = {}
        for value, identical, near, *numbers in rows(connection, statements["count_keys"]):
            count, extra, renumbered = numbers
            keys.setdefault(value, {})[identical, near] = (count, extra, renumbered)
        found = {
            steps.name_of(spec, value): Found(
                rows=counted[value],
                explained=explained.get(steps.name_of(spec, value), 0),
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
        for values in rows(self.connection, self.statements["list_keys"], limit) if found else ():
            *key, count, identical, near, kept, moved = values
            partition = None if spec.partition is None else encode_partition(key[0])
            named = spec.id_column is not None
            groups.append(
                DuplicateGroup(
                    partition=partition,
                    key=key_texts(spec, key),
                    rows=count,
                    cause=found[partition].cause((identical, near)),
                    kept=("NULL" if kept[0] is None else kept[0]) if named else None,
                    removed=tuple("NULL" if one is None else one for one in moved or ()) if named else (),
                )
            )
        return groups

    def rounding(self) -> int:
        """Count the groups of keys that a cast of one decimal key column to an integer would have folded."""
        spec = self.spec
        decimals = [name for name in spec.identity if spec.by_name[name].type.kind == "decimal"]
        return sum(
            row(self.connection, self.statements.rounding(name))[0] for name in decimals if name != spec.partition
        )

    def move_aside(self, partition: str | None, found: Found, *, run_id: str, words: str) -> None:
        """Move all rows of a partition but the newest of each key aside; in versions mode, copies of a content.

        Raises:
            NotInstalledError, ConfigurationError: there is no table that can take them as they are.
            VerificationError: other rows were met than those that were found.
        """
        check_removed(self.connection, self.spec, self.target.columns)
        reasons = [removal_reason(found.cause(answer), words) for answer in _ANSWERS]
        among = in_partitions(self.spec, partition_values(self.spec, partition), "t")

        def change(name: str, *values: object) -> int:
            return run(self.connection, self.statements.render(name, among=among), *values)

        copied = change("move_aside", run_id, reasons, self.only_batch(partition))
        deleted = change("delete_moved")
        renumbered = change("renumber") if found.renumbered else 0
        if not copied == deleted == found.extra_rows or renumbered != found.renumbered:
            raise VerificationError(
                f"Of {found.extra_rows} extra rows {copied} were copied aside and {deleted} removed, and of "
                f"{found.renumbered} clashing versions {renumbered} were renumbered.",
                hint="The transaction was rolled back. Somebody who does not use onerow may be writing to the table at "
                "the same time.",
            )

    def only_batch(self, partition: str | None) -> str | None:
        """Return the one batch that the ledger names for a partition; None if it names several or none."""
        found = rows(self.connection, self.control["read_only_batches"], self.spec.name, partition)
        return str(found[0][0]) if len(found) == 1 else None


def plan_repair(connection: Connection, request: RepairRequest, control: Control) -> RepairPlan:
    """Find keys that stand more than once; see ``Warehouse.plan_repair``. The caller rolls back."""
    spec = request.spec
    values = None if request.partition is None else partition_values(spec, request.partition)
    repair = Repair(connection, spec, describe(connection, spec), values, control)
    found = repair.find()
    return RepairPlan(
        table=spec.name,
        partitions=tuple(one.planned(partition) for partition, one in found.items()),
        groups=tuple(repair.groups(found, request.limit)),
        rounding=repair.rounding(),
    )


def repair_one(opened: OpenIntervention, planned: PartitionRepair, control: Control) -> Repaired:
    """Do one partition's share of a plan, inside its transaction; see ``Warehouse.repair``."""
    work = opened.work
    repair = Repair(opened.connection, work.spec, opened.target, opened.values, control)
    found = repair.find().get(work.partition)
    if found is None or (found.keys, found.extra_rows, found.fingerprint) != (
        planned.keys, planned.extra_rows, planned.fingerprint,
    ):  # fmt: skip
        raise PlanOutdatedError(
            f"The duplicates of {work.scope} are not those of the plan any more.",
            hint=f"Nothing was changed. Look again with `onerow dedupe --table {work.spec.name}`.",
        )
    repair.move_aside(work.partition, found, run_id=work.run, words=work.reason)
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
    entries: list[steps.HistoryCounts] = []
    for partition, one in found.items():
        repair.move_aside(partition, one, run_id=plan.consolidation, words=words)
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
            run_id=plan.consolidation,
            attempt=plan.attempt,
            unlocked=plan.unlocked,
            holder=plan.holder,
            reason=words,
        )
    return {partition: one.extra_rows for partition, one in found.items()}
