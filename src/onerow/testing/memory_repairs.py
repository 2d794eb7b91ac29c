"""Repair of duplicates in a warehouse in memory: what is planned, moved aside and brought back."""

from __future__ import annotations

import hashlib
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

from onerow.core.partitions import Scope
from onerow.core.repairs import (
    Cause,
    DuplicateGroup,
    PartitionRepair,
    Repaired,
    RepairPlan,
    RestorePlan,
    infer_cause,
    key_texts,
    refuse_versions,
    removal_reason,
    typed_key,
)
from onerow.errors import DuplicatesError, PlanOutdatedError, UsageError
from onerow.testing.memory_interventions import MemoryInterventions
from onerow.testing.memory_tables import Key, RemovedRow, Row, TableState, Transaction, key_text, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onerow.core.repairs import Intervention
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Cancellation
    from onerow.ports.warehouse import RepairRequest

Numbered = tuple[int, Row]
Repeated = dict[Key, list[Numbered]]
"""Keys that stand more than once, with their rows, the newest first."""


class MemoryRepairs(MemoryInterventions):
    """Plans and does repairs."""

    def plan_repair(self, request: RepairRequest) -> RepairPlan:
        """Find keys that stand more than once, with what made them so."""
        spec = request.spec
        state, layout = self._table(spec.name), layout_of(spec)
        by_partition: dict[str | None, list[Numbered]] = {}
        for number, row in state.rows.items():
            if layout.partition is not None and row[layout.partition] is None:
                continue  # NULL is no partition: what stands there can be named by nobody
            name = layout.partition_of(row)
            if request.partition is None or name == request.partition:
                by_partition.setdefault(name, []).append((number, row))
        partitions: list[PartitionRepair] = []
        groups: list[DuplicateGroup] = []
        for name in sorted(by_partition, key=lambda name: name or ""):
            repeated = repeated_in(by_partition[name], spec)
            if repeated:
                causes = causes_of(repeated, state, spec, name, len(by_partition[name]))
                partitions.append(_partition_repair(spec, name, repeated, causes))
                groups += [_group(spec, name, key, rows, causes[key]) for key, rows in repeated.items()]
        return RepairPlan(
            table=spec.name,
            partitions=tuple(partitions),
            groups=tuple(groups[: request.limit]),
            rounding=_rounding([row for rows in by_partition.values() for _, row in rows], spec),
        )

    def repair(self, work: Intervention, planned: PartitionRepair, cancellation: Cancellation) -> Repaired:
        """Keep the newest row of each key of one partition and move the others aside."""
        with self.transaction(work, cancellation) as transaction:
            found = self._move_aside(transaction, work.spec, work.partition, run=work.run, words=work.reason)
            if found is None or (found.fingerprint, found.keys, found.extra_rows) != (
                planned.fingerprint, planned.keys, planned.extra_rows,
            ):  # fmt: skip
                raise PlanOutdatedError(
                    f"The duplicates of {work.scope} are not those of the plan any more.",
                    hint="Nothing was changed. Look again with `onerow dedupe`.",
                )
        return Repaired(work.partition, found.keys, found.extra_rows, renumbered=found.renumbered)

    def _move_aside(
        self, transaction: Transaction, spec: TableSpec, partition: str | None, *, run: str, words: str
    ) -> PartitionRepair | None:
        """Move all rows but the newest of each key aside; return what was done, None if there was nothing to do."""
        numbered = list(transaction.view(partition))
        repeated = repeated_in(numbered, spec)
        if not repeated:
            return None
        before = transaction.before
        causes = causes_of(repeated, before, spec, partition, len(numbered))
        batch = before.only_batch(partition)
        for key, found in repeated.items():
            for number, row in extra_of(found, spec):
                transaction.deleted.add(number)
                transaction.set_aside.append(
                    RemovedRow(row, run, self._utc_now(), removal_reason(causes[key], words), batch)
                )
        for number, row in renumbered_in(repeated, spec):
            transaction.updated[number] = row
        return _partition_repair(spec, partition, repeated, causes)

    def plan_restore(
        self, spec: TableSpec, partition: str | None, *, run: str, key: Mapping[str, str | None]
    ) -> RestorePlan:
        """Tell what ``restore`` would exchange."""
        refuse_versions(spec)
        state, layout = self._table(spec.name), layout_of(spec)
        wanted = tuple(typed_key(spec, partition, key).values())
        back = _newest_removed(spec, state.removed, wanted, Scope(spec.name, partition), run)
        rows = [row for row in state.rows.values() if layout.key(row) == wanted]
        return RestorePlan(
            table=spec.name,
            partition=partition,
            key=key_texts(spec, wanted),
            run=run,
            back=_id_of(spec, back.row),
            current=tuple(_id_of(spec, row) for row in rows),
            removed_at=back.removed_at,
            reason=back.reason,
        )

    def restore(
        self, work: Intervention, *, run: str, key: Mapping[str, str | None], cancellation: Cancellation
    ) -> Repaired:
        """Exchange the row of a key with the newest one that ``run`` removed."""
        refuse_versions(work.spec)
        layout = layout_of(work.spec)
        wanted = tuple(typed_key(work.spec, work.partition, key).values())
        with self.transaction(work, cancellation) as transaction:
            back = _newest_removed(work.spec, transaction.before.removed, wanted, work.scope, run)
            current = [(number, row) for number, row in transaction.view(work.partition) if layout.key(row) == wanted]
            if len(current) > 1:
                raise several_rows(work, key_text(work.spec, wanted))
            batch = transaction.before.only_batch(work.partition)
            for number, row in current:
                transaction.deleted.add(number)
                transaction.set_aside.append(RemovedRow(row, work.run, self._utc_now(), work.reason, batch))
            transaction.inserted.append(back.row)
            transaction.taken_back.append(back)
        return Repaired(work.partition, 1, len(current), rows_restored=1)

    def upkeep(self, specs: Sequence[TableSpec], *, apply: bool) -> Sequence[str]:  # noqa: ARG002
        """Memory needs none."""
        return []


def _newest_removed(
    spec: TableSpec, removed: Iterable[RemovedRow], key: Key, scope: Scope, run: str
) -> RemovedRow:
    """Return the newest row of a key that a run has removed."""
    layout = layout_of(spec)
    aside = [one for one in removed if layout.key(one.row) == key]
    candidates = [one for one in aside if one.run == run]
    if not candidates:
        others = list(dict.fromkeys(one.run for one in aside))
        raise UsageError(
            f"Run {run!r} has removed no row of this key in {scope}, or it was restored already.",
            hint=f"Rows of it were removed by: {', '.join(others)}." if others else "No run has removed a row of it.",
        )
    return max(candidates, key=lambda one: layout.order(one.row))


def _id_of(spec: TableSpec, row: Row) -> str | None:
    value = None if spec.id_column is None else row[spec.column_names.index(spec.id_column)]
    return None if value is None else str(value)


def several_rows(work: Intervention, key: str) -> DuplicatesError:
    """Return the error for a key that cannot be restored because it stands more than once."""
    return DuplicatesError(
        f"{key} stands more than once in {work.scope}.",
        keys=[key],
        partitions=(work.partition,),
        hint="Nothing was changed. Repair it first with `onerow dedupe`.",
    )


def repeated_in(rows: Iterable[Numbered], spec: TableSpec) -> Repeated:
    """Return the keys that stand more than once."""
    layout = layout_of(spec)
    by_key: Repeated = {}
    for number, row in rows:
        by_key.setdefault(layout.key(row), []).append((number, row))
    repeated = {
        key: sorted(found, key=lambda pair: (layout.order(pair[1]), -pair[0]), reverse=True)
        for key, found in by_key.items()
        if len(found) > 1
    }
    if not layout.versions:
        return repeated
    by_version = {
        key: sorted(found, key=lambda pair: (layout.version_of(pair[1]), layout.order(pair[1]), pair[0]))
        for key, found in repeated.items()
    }
    return {
        key: found
        for key, found in by_version.items()
        if extra_of(found, spec) or renumbered_in({key: found}, spec)
    }


def extra_of(found: Sequence[Numbered], spec: TableSpec) -> list[Numbered]:
    """Return the rows of one key that are to go: all but the newest; in versions mode, copies of a lower version."""
    layout = layout_of(spec)
    if not layout.versions:
        return list(found[1:])
    seen: set[Key] = set()
    extra = []
    for number, row in found:
        if layout.content(row) in seen:
            extra.append((number, row))
        seen.add(layout.content(row))
    return extra


def renumbered_in(repeated: Repeated, spec: TableSpec) -> list[Numbered]:
    """Return, with their new numbers, the rows whose version another content of their key has, which is older."""
    layout = layout_of(spec)
    changed: list[Numbered] = []
    for found in repeated.values() if layout.versions else ():
        gone = {number for number, _ in extra_of(found, spec)}
        taken: set[int] = set()
        clashing = []
        for number, row in found:
            if number in gone:
                continue
            if layout.version_of(row) in taken:
                clashing.append((number, row))
            taken.add(layout.version_of(row))
        highest = max(layout.version_of(row) for _, row in found)
        for place, (number, row) in enumerate(sorted(clashing, key=lambda pair: layout.order(pair[1])), start=1):
            changed.append((number, (*row[: layout.width], highest + place)))
    return changed


def causes_of(
    repeated: Repeated, state: TableState, spec: TableSpec, partition: str | None, rows: int
) -> dict[Key, Cause]:
    """Return the likeliest cause for each key of one partition that has so many rows."""
    layout = layout_of(spec)
    unexplained = rows > state.explained(partition)
    moments = [name for name in spec.order_by if spec.by_name[name].type.kind == "timestamp"]
    place = spec.column_names.index(moments[0]) if moments else None
    causes: dict[Key, Cause] = {}
    for key, found in repeated.items():
        times = [] if place is None else [row[place] for _, row in found]
        spread_s = (max(times) - min(times)).total_seconds() if times and None not in times else None
        identical = len({layout.order(row) for _, row in found}) == 1
        if layout.versions:
            identical = not renumbered_in({key: found}, spec)
        causes[key] = infer_cause(identical=identical, spread_s=spread_s, unexplained=unexplained)
    return causes


def _partition_repair(
    spec: TableSpec, partition: str | None, repeated: Repeated, causes: Mapping[Key, Cause]
) -> PartitionRepair:
    rows = sorted(repr(row) for found in repeated.values() for _, row in found)
    return PartitionRepair(
        partition=partition,
        keys=len(repeated),
        extra_rows=sum(len(extra_of(found, spec)) for found in repeated.values()),
        fingerprint=hashlib.sha256("\n".join(rows).encode()).hexdigest(),
        causes=Counter(causes.values()),
        renumbered=len(renumbered_in(repeated, spec)),
    )


def _group(
    spec: TableSpec, partition: str | None, key: Key, rows: Sequence[Numbered], cause: Cause
) -> DuplicateGroup:
    kept, removed = None, []
    if spec.id_column is not None:
        place = spec.column_names.index(spec.id_column)
        kept, *_ = (_named(row[place]) for _, row in rows)
        removed = [_named(row[place]) for _, row in extra_of(rows, spec)]
    return DuplicateGroup(partition, key_texts(spec, key), len(rows), cause, kept=kept, removed=tuple(removed))


def _named(value: object) -> str:
    return "NULL" if value is None else str(value)


def _rounding(rows: Iterable[Row], spec: TableSpec) -> int:
    """Count the groups of keys that a cast of one decimal key column to an integer would have folded."""
    layout = layout_of(spec)
    keys = {layout.key(row) for row in rows}
    count = 0
    for place, name in enumerate(spec.identity):
        if name == spec.partition or spec.by_name[name].type.kind != "decimal":
            continue
        rounded = Counter(
            (*key[:place], key[place].quantize(Decimal(1), rounding=ROUND_HALF_UP), *key[place + 1 :])
            for key in keys
            if key[place] is not None
        )
        count += sum(found > 1 for found in rounded.values())
    return count
