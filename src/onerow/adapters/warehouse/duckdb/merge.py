"""Running a plan: prepare in memory, then guard, token, todo, merge, verify and record in one transaction.

The plan of the physical merge was found by measuring (docs/design/0003-physical-plan.md): read the parts once
into a temporary table sorted by partition; settle rows of one key among themselves only for the keys that have
several; meet the target with one join that carries row numbers; delete what is replaced and insert in bulk; verify
with one scan. Hashes of the key make the counting cheap; they only ever serve to find candidates.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from onerow.adapters.warehouse.duckdb import steps
from onerow.adapters.warehouse.duckdb.database import row, rows
from onerow.adapters.warehouse.duckdb.repair import Repair, repair_for_merge
from onerow.adapters.warehouse.duckdb.statements import Statements, stage_statement
from onerow.adapters.warehouse.duckdb.steps import partition_name
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
    from collections.abc import Callable, Iterator, Mapping

    import duckdb

    from onerow.core.partitions import PartitionValue
    from onerow.core.parts import PartManifest
    from onerow.core.plans import MergePlan
    from onerow.core.spec import TableSpec

HASH_SEEDS = 8


class HashCollisionError(WarehouseError):
    """Two different keys share a hash; the transaction is run again with another seed."""

    kind = "hash_collision"


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
    before: int = 0

    def counts(self) -> MergeCounts:
        """Return the counts by the definition of DESIGN section 7."""
        return MergeCounts(
            staged=self.staged,
            inserted=self.winners - self.updated - self.tied - self.older,
            updated=self.updated,
            unchanged=self.tied + self.beaten_unchanged,
            superseded=self.older + self.beaten - self.beaten_unchanged,
        )


@dataclass
class PreparedMerge:
    """A plan whose rows are read, checked and deduplicated into temporary tables of an instance."""

    plan: MergePlan
    values: tuple[PartitionValue, ...]
    tallies: dict[str | None, Tally]
    beaten: bool
    seed: int
    prepare_s: float


def prepare(
    connection: duckdb.DuckDBPyConnection, plan: MergePlan, locate: Callable[[PartManifest], str], *, seed: int = 0
) -> PreparedMerge:
    """Read the plan's parts into ``staged``, one row a key, and put what is beaten into ``beaten``.

    Raises:
        PartGoneError, PartCorruptError: from ``locate``, or the rows are not as many as the manifests say.
        HashCollisionError: try again with another seed.
    """
    began_s = time.perf_counter()
    spec = plan.spec
    values = tuple(_value(spec, name) for name in plan.partitions if spec.partition is not None)
    statements = Statements(spec, values, seed=seed)
    sources = _sources(plan, locate)
    with _in_any_order(connection):
        connection.execute(stage_statement(spec, seed, len(values) > 1, tuple(sources)), list(sources.values()))
    tallies = {task.partition: Tally(task.rows_staged) for task in plan.tasks}
    keys = 0
    for value, found, keys in rows(connection, statements["count_staged"]):  # noqa: B007 -- the same in every row
        tally = tallies.get(partition_name(spec, value))
        if tally is None or tally.staged != found:
            _refuse_part(plan, partition_name(spec, value), found, tally.staged if tally else 0)
        tally.winners = found
    for name, tally in tallies.items():
        if tally.staged != tally.winners:
            _refuse_part(plan, name, 0, tally.staged)
    repeated = keys != sum(tally.winners for tally in tallies.values())
    if repeated:
        connection.execute(statements["collect_losers"])
        (dropped,) = row(connection, statements["drop_losers"])
        for value, losers in rows(connection, statements["count_losers"]):
            tallies[partition_name(spec, value)].winners -= losers
            dropped -= losers
        if dropped:
            raise WarehouseError("The engine removed other rows of the batch than those it was told to.")
        if keys != sum(tally.winners for tally in tallies.values()):
            raise HashCollisionError("Two keys of the batch share a hash.")
    return PreparedMerge(plan, values, tallies, repeated, seed, time.perf_counter() - began_s)


@contextmanager
def _in_any_order(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a statement keep no order: what is read is read faster so, what is inserted is inserted slower.

    The setting is the instance's. It is set beside the connection, whose transaction may be aborted at the end and
    would take no statement any more.
    """
    with closing(connection.cursor()) as beside:
        beside.execute("set preserve_insertion_order = false")
        try:
            yield
        finally:
            beside.execute("set preserve_insertion_order = true")


def _refuse_part(plan: MergePlan, partition: str | None, found: int, promised: int) -> NoReturn:
    raise PartCorruptError(
        f"The parts of batch {plan.batch!r} hold {found} rows of partition {partition!r}; "
        f"their manifests say {promised}.",
        hint="Nothing was merged. Have the workers stage their rows again.",
    )


def _sources(
    plan: MergePlan, locate: Callable[[PartManifest], str]
) -> dict[tuple[frozenset[str], tuple[PartitionValue, ...]], list[str]]:
    """Return the parts' files, by the columns they have and the partitions that are read of them; () is all."""
    spec = plan.spec
    wanted: dict[str, list[str | None]] = {part.part_id: [] for part in plan.parts}
    for task in plan.tasks:
        for part_id in task.part_ids:
            wanted[part_id].append(task.partition)
    sources: dict[tuple[frozenset[str], tuple[PartitionValue, ...]], list[str]] = {}
    for part in plan.parts:
        names = wanted[part.part_id]
        whole = spec.partition is None or len(names) == len(part.partitions)
        values = () if whole else tuple(_value(spec, name) for name in names)
        present = frozenset(name for name, _ in part.columns)
        sources.setdefault((present, values), []).append(_no_pattern(locate(part)))
    return sources


def _no_pattern(path: str) -> str:
    """Return ``path`` so that characters of file name patterns stand for themselves."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)


class Transaction:
    """The steps of one plan on an attached file, each a method. The caller begins, commits or rolls back.

    Args:
        repairs: before the merge, rows of keys that stand more than once are moved aside.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        prepared: PreparedMerge,
        *,
        target_types: Mapping[str, str],
        control: Mapping[str, str],
        repairs: bool = False,
    ) -> None:
        self.connection = connection
        self.prepared = prepared
        self.plan = prepared.plan
        self.control = control
        self.target_types = target_types
        self.repairs = repairs
        self.duplicates_removed: dict[str | None, int] = {}
        self.statements = Statements(
            prepared.plan.spec, prepared.values, tuple(target_types.items()), prepared.seed
        )
        self.merge_s = 0.0
        self.verify_s = 0.0

    def run(self) -> dict[str | None, MergeCounts]:
        """Run all steps but the commit.

        Raises:
            RefusedError: a step refused.
            duckdb.Error: the engine did.
        """
        self.guard()
        self.token()
        self.todo()
        began_s = time.perf_counter()
        if self.repairs:
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
        """Change the guard row; of two transactions that do so at once one fails."""
        try:
            steps.change_guard(self.connection, self.control, self.plan.spec.name, self.plan.lock_store)
        except OnerowError as error:
            _refuse(error)

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
        found = set(rows(self.connection, self.control["read_merged"], plan.spec.name, plan.batch))
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
        plan = self.plan
        repair = Repair(self.connection, plan.spec, self.prepared.values, self.target_types, self.control)
        try:
            self.duplicates_removed = repair_for_merge(repair, plan)
        except OnerowError as error:
            _refuse(error)

    def merge(self) -> None:
        """Meet the target and change it; the tallies hold the counts afterwards."""
        run, statements, tallies = self.connection, self.statements, self.prepared.tallies
        run.execute(statements["view_touched"])
        for value, found in rows(run, statements["count_touched"]):
            self._tally(value).before = found
        run.execute(statements["classify"])
        if self._count_outcomes():
            run.execute(statements["break_ties"])
            run.execute(statements["apply_ties"])
            self._count_outcomes()
        if self.prepared.beaten:
            self._count_beaten()
        updated = sum(tally.updated for tally in tallies.values())
        kept = sum(tally.tied + tally.older for tally in tallies.values())
        written = sum(tally.winners for tally in tallies.values()) - kept
        if updated:
            (deleted,) = row(run, statements["delete_replaced"])
            expect("rows replaced", deleted, updated)
        if written:
            (inserted,) = row(run, statements["insert_newest" if kept else "insert_all"])
            expect("rows inserted", inserted, written)

    def verify(self, counts: Mapping[str | None, MergeCounts]) -> None:
        """Read the touched partitions back: one row per key, every staged key there, nothing older, counts add up."""
        seen: dict[str | None, int] = {}
        keys = present = differing = 0
        with _in_any_order(self.connection):
            looked = rows(self.connection, self.statements["look_back"])
        for value, found, different, met, other in looked:
            seen[partition_name(self.plan.spec, value)] = found
            keys, present, differing = keys + different, present + met, differing + other
        if keys != sum(seen.values()):
            self._refuse_duplicates()
        self._verify_counts(seen, counts)
        expect("staged keys in the table", present, sum(tally.winners for tally in self.prepared.tallies.values()))
        if differing:
            (older,) = row(self.connection, self.statements["count_older"])
            expect("rows older than a staged row of their key", older, 0)

    def _verify_counts(self, seen: Mapping[str | None, int], counts: Mapping[str | None, MergeCounts]) -> None:
        """Check that each partition has the rows that it had and those inserted, and that its counts add up."""
        for name, tally in self.prepared.tallies.items():
            where = f"partition {name!r}" if name is not None else "the table"
            expect(f"rows in {where}", seen.get(name, 0), tally.before + counts[name].inserted)
            if not counts[name].add_up:
                _refuse(VerificationError(f"The counts of {where} do not add up: {counts[name]}."))

    def record(self, counts: Mapping[str | None, MergeCounts]) -> None:
        """Write the ledger and the history, in this transaction."""
        plan = self.plan
        by_id = {part.part_id: part for part in plan.parts}
        entries = [
            (task.partition, part_id, by_id[part_id].rows_of(task.partition))
            for task in plan.tasks
            for part_id in task.part_ids
        ]
        rows(
            self.connection,
            self.control["insert_ledger"],
            plan.spec.name,
            plan.batch,
            plan.consolidation,
            *(list(values) for values in zip(*entries, strict=True)),
        )
        history = [
            (
                task.partition,
                task.token,
                len(task.part_ids),
                *_numbers(counts[task.partition]),
            )
            for task in plan.tasks
        ]
        steps.write_history(
            self.connection,
            self.control,
            history,
            action="consolidate",
            table=plan.spec.name,
            batch=plan.batch,
            run=plan.consolidation,
            attempt=plan.attempt,
            unlocked=plan.unlocked,
            holder=plan.holder,
            merge_s=self.merge_s,
            verify_s=self.verify_s,
        )

    def _count_outcomes(self) -> int:
        """Put the outcomes into the tallies; return how many are undecided by the first order column."""
        met = staged_met = ties = 0
        for value, found, newer, tied, staged_met in rows(self.connection, self.statements["count_outcomes"]):  # noqa: B007
            tally = self._tally(value)
            tally.updated, tally.tied, tally.older = newer, tied, found - newer - tied
            met, ties = met + found, ties + tied
        if met != staged_met:  # a staged key met two rows
            self._refuse_duplicates()
        return ties

    def _count_beaten(self) -> None:
        for value, beaten, unchanged in rows(self.connection, self.statements["count_beaten"]):
            tally = self._tally(value)
            tally.beaten, tally.beaten_unchanged = beaten, unchanged
            # A repeated key was counted once by its hash; the beaten rows are on top of the winners.
            expect("rows beaten within the batch", beaten, tally.staged - tally.winners)

    def _tally(self, value: Any) -> Tally:
        return self.prepared.tallies[partition_name(self.plan.spec, value)]

    def _refuse_duplicates(
        self, statement: str = "find_duplicates", what: str = steps.STAND_TWICE
    ) -> None:
        """Name the keys that stand twice; if none does exactly, it was a collision of hashes."""
        spec = self.plan.spec
        found = rows(self.connection, self.statements[statement], 1000)
        if not found:
            raise HashCollisionError("Two keys of the table share a hash.")
        partitions = tuple(
            dict.fromkeys(partition_name(spec, values[0]) if spec.partition else None for values in found)
        )
        error = steps.duplicates_error(spec, found, partitions, what)
        raise RefusedError(Refused("failed", error, partitions=partitions))


def _numbers(counts: MergeCounts) -> tuple[int, int, int, int, int]:
    return (counts.staged, counts.inserted, counts.updated, counts.unchanged, counts.superseded)


def _refuse(error: OnerowError) -> None:
    raise RefusedError(Refused("failed", error))


def expect(what: str, found: int, wanted: int) -> None:
    """Refuse the transaction if it has ``found`` other than it should."""
    if found != wanted:
        _refuse(
            VerificationError(
                f"Verification failed: {found} {what}, expected {wanted}.",
                hint="The transaction was rolled back, staging is kept.",
            )
        )


def _value(spec: TableSpec, name: str | None) -> PartitionValue:
    if spec.partition is None or name is None:
        raise WarehouseError(f"The table {spec.name!r} has no partitions.")
    return decode_partition(name, spec.by_name[spec.partition].type)
