"""Running a plan in one transaction: stage, then guard, token, todo, merge, verify and record.

The staged rows are read, checked and deduplicated into a temporary table before the guard is taken, so that the time
from guard to commit, in which others wait, is the merge's and the verification's own. The temporary table ends with
the transaction: nothing outlives it, so a pooler may sit between.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from onerow.adapters.postgresql.connection import in_turn, row, rows, run
from onerow.adapters.warehouse.postgresql import steps
from onerow.adapters.warehouse.postgresql.layout import check_rows, data_number, staging_table
from onerow.adapters.warehouse.postgresql.repair import Repair, repair_for_merge
from onerow.adapters.warehouse.postgresql.statements import Statements, of_parts
from onerow.adapters.warehouse.postgresql.steps import name_of
from onerow.adapters.warehouse.postgresql.target import describe, holds, unique_indexes
from onerow.core.partitions import decode_partition
from onerow.core.plans import AlreadyMerged, MergeCounts, Refused
from onerow.errors import (
    OnerowError,
    PartCorruptError,
    StaleLeaseError,
    VerificationError,
    WarehouseError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql import sql
    from onerow.core.partitions import PartitionValue
    from onerow.core.plans import MergePlan
    from onerow.core.spec import TableSpec

FEW_ROWS = 1000
"""So many are met with the target by its index, which is what the planner does without statistics of them."""
ROOM_PER_ROW = 200
MAX_ROOM = 256 * 1024 * 1024
"""Bytes of ``work_mem`` that a transaction asks for: with the usual 4 MB a large merge writes temporary files."""
TELLS_MERGED = 170_000
"""The first version whose MERGE tells what became of each row."""


class RefusedError(Exception):
    """Leaves the transaction with a refusal; never seen outside this folder."""

    def __init__(self, refusal: Refused | AlreadyMerged) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@dataclass
class Tally:
    """Counts of one partition while they are being made."""

    staged: int
    winners: int = 0
    updated: int = 0
    tied: int = 0
    older: int = 0
    beaten_unchanged: int = 0
    beaten: int = 0

    @property
    def inserted(self) -> int:
        """Winners that met no row of the target."""
        return self.winners - self.updated - self.tied - self.older

    def counts(self) -> MergeCounts:
        """Return the counts by the definition of DESIGN section 7."""
        return MergeCounts(
            staged=self.staged,
            inserted=self.inserted,
            updated=self.updated,
            unchanged=self.tied + self.beaten_unchanged,
            superseded=self.older + self.beaten - self.beaten_unchanged,
        )


@dataclass
class PreparedMerge:
    """A plan whose rows stand, checked and deduplicated, in a temporary table of an open transaction."""

    plan: MergePlan
    connection: Connection
    statements: Statements
    tallies: dict[str | None, Tally]
    beaten: bool
    prepare_s: float
    used: bool = False
    interrupted: bool = False


def prepare(connection: Connection, plan: MergePlan, *, control_schema: str) -> PreparedMerge:
    """Read the plan's parts into a temporary table, one row a key. The caller has begun the transaction.

    Raises:
        PartGoneError, PartCorruptError: the rows of a part are not there, or not as many as its manifest says.
        psycopg.Error: the engine refused.
    """
    began_s = time.perf_counter()
    spec = plan.spec
    values = tuple(_value(spec, name) for name in plan.partitions if spec.partition is not None)
    target = describe(connection, spec)
    statements = Statements(spec, target, values)
    source = staging_table(control_schema, spec.name)
    parts = of_parts(spec, _groups(plan))
    count = statements["count_staged"], ()
    stage = statements.render("stage", source=source, parts=parts), ()
    staged_rows = sum(task.rows_staged for task in plan.tasks)
    if staged_rows <= FEW_ROWS:
        steps: list[tuple[sql.Composed, tuple[int, ...]]] = [stage]
    else:
        room = min(staged_rows * ROOM_PER_ROW, MAX_ROOM)
        steps = [(statements["make_room"], (room,)), stage, (statements["analyze"], ())]
    *_, counted = in_turn(connection, *steps, count)
    tallies = {task.partition: Tally(task.rows_staged) for task in plan.tasks}
    found: dict[str | None, int] = {}
    patterns = []
    repeated = 0
    for value, pattern, staged, repeated_keys in counted.fetchall():
        found[name_of(spec, value)] = found.get(name_of(spec, value), 0) + staged
        patterns.append(pattern)
        repeated += repeated_keys
    if found != {name: tally.staged for name, tally in tallies.items()}:
        check_rows(connection, control_schema, plan.parts)
        raise PartCorruptError(
            f"The parts of batch {plan.batch!r} of table {spec.name!r} have their rows in other partitions than their "
            "manifests say.",
            hint="Nothing was merged. Have the workers stage their rows again.",
        )
    statements.patterns = list(dict.fromkeys(patterns))
    for name, tally in tallies.items():
        tally.winners = found[name]
    if repeated:
        names = ("collect_losers", "drop_losers", "count_losers")
        _, deleted, lost = in_turn(connection, *((statements[name], ()) for name in names))
        dropped = deleted.rowcount
        for value, losers in lost.fetchall():
            tallies[name_of(spec, value)].winners -= losers
            dropped -= losers
        if dropped:
            raise WarehouseError("The engine removed other rows of the batch than those it was told to.")
    return PreparedMerge(plan, connection, statements, tallies, bool(repeated), time.perf_counter() - began_s)


def _groups(plan: MergePlan) -> dict[tuple[PartitionValue, ...], list[int]]:
    """Return the numbers of the plan's parts by the partitions that are read of them; () is all."""
    spec = plan.spec
    wanted: dict[str, list[str | None]] = {part.part_id: [] for part in plan.parts}
    for task in plan.tasks:
        for part_id in task.part_ids:
            wanted[part_id].append(task.partition)
    groups: dict[tuple[PartitionValue, ...], list[int]] = {}
    for part in plan.parts:
        names = wanted[part.part_id]
        whole = spec.partition is None or len(names) == len(part.partitions)
        values = () if whole else tuple(_value(spec, name) for name in names)
        groups.setdefault(values, []).append(data_number(part))
    return groups


class Transaction:
    """The steps of one plan, each a method. The caller has begun the transaction, and commits or rolls back."""

    def __init__(self, prepared: PreparedMerge, *, control: Mapping[str, sql.Composed], control_schema: str) -> None:
        self.connection = prepared.connection
        self.prepared = prepared
        self.plan = prepared.plan
        self.control = control
        self.control_schema = control_schema
        self.statements = prepared.statements
        self.duplicates_removed: dict[str | None, int] = {}
        self.merge_s = 0.0
        self.verify_s = 0.0

    def run(self) -> dict[str | None, MergeCounts]:
        """Run all steps but the commit.

        Raises:
            RefusedError: a step refused.
            psycopg.Error: the engine did.
        """
        self.guard()
        self.token()
        self.todo()
        began_s = time.perf_counter()
        if self.plan.spec.on_existing_duplicates == "repair":
            self.repair()
        self.merge()
        merged_s = time.perf_counter()
        counts = {name: tally.counts() for name, tally in self.prepared.tallies.items()}
        self.verify(counts)
        self.merge_s = merged_s - began_s + self.prepared.prepare_s
        self.verify_s = time.perf_counter() - merged_s
        self.record(counts)
        return counts

    def guard(self) -> None:
        """Change the guard rows; a second transaction waits here for the first one's end, then sees what it did."""
        plan = self.plan
        try:
            steps.take_guards(
                self.connection,
                self.control,
                plan.spec.name,
                plan.partitions,
                control_schema=self.control_schema,
                lock_store=plan.lock_store,
            )
        except OnerowError as error:
            refuse(error)

    def token(self) -> None:
        """Compare with the fence and raise it."""
        tokens = {task.partition: task.token for task in self.plan.tasks}
        try:
            steps.raise_fences(self.connection, self.control, self.plan.spec.name, tokens)
        except StaleLeaseError as error:
            raise RefusedError(Refused("stale", error, fence=error.fence)) from error

    def todo(self) -> None:
        """Refuse a plan of which the ledger names a part already."""
        plan = self.plan
        part_ids = [part.part_id for part in plan.parts]
        found = set(
            rows(self.connection, self.control["read_merged_parts"], plan.spec.name, plan.batch, part_ids)
        )
        planned = {(part_id, task.partition) for task in plan.tasks for part_id in task.part_ids}
        done = planned & found
        if done == planned:
            raise RefusedError(AlreadyMerged())
        if done:
            raise RefusedError(
                Refused(
                    "outdated",
                    WarehouseError(f"{len(done)} of the plan's parts were merged by somebody else meanwhile."),
                )
            )

    def repair(self) -> None:
        """Move rows of keys that stand more than once aside, all but the newest; the merge meets one row a key."""
        spec, target, values = self.plan.spec, self.statements.target, self.statements.values
        try:
            repair = Repair(self.connection, spec, target, values, self.control)
            self.duplicates_removed = repair_for_merge(repair, self.plan)
        except OnerowError as error:
            refuse(error)

    def merge(self) -> None:
        """Meet the target and change it; the tallies hold the counts afterwards."""
        if self.prepared.beaten:
            for value, beaten, unchanged in rows(self.connection, self.statements["count_beaten"]):
                tally = self._tally(value)
                tally.beaten, tally.beaten_unchanged = beaten, unchanged
        if self.connection.info.server_version >= TELLS_MERGED:
            self._merge_and_tell()
        else:
            self._count_and_merge()

    def _merge_and_tell(self) -> None:
        """Count what the merge tells; only where it left rows alone, the target is met again, to see why."""
        statements, tallies = self.statements, self.prepared.tallies
        merges = [(statements.merge_and_tell(pattern), ()) for pattern in statements.patterns]
        inserted = dict.fromkeys(tallies, 0)
        for told in in_turn(self.connection, *merges):
            for value, new, updated in told.fetchall():
                inserted[name_of(self.plan.spec, value)] += new
                self._tally(value).updated += updated
        if all(tally.inserted == inserted[name] for name, tally in tallies.items()):
            return
        for value, found, newer, same in rows(self.connection, statements["count_outcomes"]):
            tally, new = self._tally(value), inserted[name_of(self.plan.spec, value)]
            tally.older = found - newer - same
            tally.tied = same - new - tally.updated
        for name, tally in tallies.items():
            self._expect("rows inserted", inserted[name], tally.inserted)

    def _count_and_merge(self) -> None:
        statements, tallies = self.statements, self.prepared.tallies
        for value, found, newer, tied in rows(self.connection, statements["count_outcomes"]):
            tally = self._tally(value)
            tally.updated, tally.tied, tally.older = newer, tied, found - newer - tied
        written = sum(
            run(self.connection, statements.of_pattern("merge", pattern)) for pattern in statements.patterns
        )
        self._expect("rows written", written, sum(tally.updated + tally.inserted for tally in tallies.values()))

    def verify(self, counts: Mapping[str | None, MergeCounts]) -> None:
        """Read the touched partitions back: one row per key, every staged key there, nothing older, counts add up.

        Where a unique index of the engine holds the key, one row per key is what it proves; it is looked up again
        now, when it can no longer be dropped before our commit. Else all keys of the partitions are counted.
        """
        staged = self.statements["verify_staged"], ()
        unique, found = in_turn(self.connection, unique_indexes(self.plan.spec), staged)
        if not (self.statements.target.enforced and holds(self.plan.spec, unique.fetchall())):
            (doubled,) = row(self.connection, self.statements["verify_keys"])
            if doubled:
                self.refuse_duplicates()
        self._verify_counts(counts)
        ((present, older),) = found.fetchall()
        self._expect(
            "staged keys in the table", present, sum(tally.winners for tally in self.prepared.tallies.values())
        )
        self._expect("rows older than a staged row of their key", older, 0)

    def _verify_counts(self, counts: Mapping[str | None, MergeCounts]) -> None:
        for name, found in counts.items():
            where = f"partition {name!r}" if name is not None else "the table"
            if not found.add_up:
                refuse(VerificationError(f"The counts of {where} do not add up: {found}."))

    def record(self, counts: Mapping[str | None, MergeCounts]) -> None:
        """Write the ledger and the history, in this transaction."""
        plan = self.plan
        by_id = {part.part_id: part for part in plan.parts}
        entries = [
            (task.partition, part_id, by_id[part_id].rows_of(task.partition))
            for task in plan.tasks
            for part_id in task.part_ids
        ]
        history = [
            (
                task.partition,
                task.token,
                len(task.part_ids),
                *_numbers(counts[task.partition]),
            )
            for task in plan.tasks
        ]
        parts = (list(values) for values in zip(*entries, strict=True))
        ledger = (plan.spec.name, plan.batch, plan.consolidation, *parts)
        steps.write_history(
            self.connection,
            self.control,
            history,
            action="consolidate",
            table=plan.spec.name,
            batch=plan.batch,
            run_id=plan.consolidation,
            attempt=plan.attempt,
            unlocked=plan.unlocked,
            holder=plan.holder,
            merge_s=self.merge_s,
            verify_s=self.verify_s,
            beside=(self.control["insert_ledger"], ledger),
        )

    def refuse_duplicates(self) -> None:
        """Name the keys that stand twice, if there are any."""
        run(self.connection, self.statements["settle"])
        found = rows(self.connection, self.statements["find_duplicates"], 1000)
        if found:
            raise RefusedError(duplicates_refusal(self.plan.spec, found))

    def _expect(self, what: str, found: int, wanted: int) -> None:
        if found == wanted:
            return
        if not self.statements.target.enforced:
            self.refuse_duplicates()
        refuse(
            VerificationError(
                f"Verification failed: {found} {what}, expected {wanted}.",
                hint="The transaction was rolled back, staging is kept. Somebody who does not use onerow may be "
                "writing to the table at the same time.",
            )
        )

    def _tally(self, value: Any) -> Tally:
        return self.prepared.tallies[name_of(self.plan.spec, value)]


def duplicates_refusal(spec: TableSpec, found: Sequence[tuple[Any, ...]], what: str = steps.STAND_TWICE) -> Refused:
    """Return the refusal that names keys that stand more than once; each is the identity's values as text."""
    error = steps.duplicates_error(spec, found, what)
    return Refused("failed", error, partitions=error.partitions)


def refuse(error: OnerowError) -> NoReturn:
    """End the transaction as one that trying again does not cure."""
    raise RefusedError(Refused("failed", error))


def _columns(found: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(values) for values in zip(*found, strict=True)]


def _value(spec: TableSpec, name: str | None) -> PartitionValue:
    if spec.partition is None or name is None:
        raise WarehouseError(f"The table {spec.name!r} has no partitions.")
    return decode_partition(name, spec.by_name[spec.partition].type)


def _numbers(counts: MergeCounts) -> tuple[int, int, int, int, int]:
    return (counts.staged, counts.inserted, counts.updated, counts.unchanged, counts.superseded)
