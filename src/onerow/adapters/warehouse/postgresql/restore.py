"""Restore: a row that a repair has moved aside and the row that is there change places."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from onerow.adapters.postgresql.connection import rows, run
from onerow.adapters.warehouse.postgresql import sql, steps
from onerow.adapters.warehouse.postgresql.removed import check_removed
from onerow.adapters.warehouse.postgresql.repair import Repair
from onerow.adapters.warehouse.postgresql.repairing import partition_values
from onerow.adapters.warehouse.postgresql.target import describe
from onerow.core.partitions import Scope
from onerow.core.repairs import Repaired, RestorePlan, key_texts, refuse_versions, typed_key
from onerow.errors import DuplicatesError, UsageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql.guarded import OpenIntervention
    from onerow.adapters.warehouse.postgresql.steps import Control
    from onerow.core.repairs import Intervention
    from onerow.core.spec import TableSpec


class Exchange:
    """A row that was removed and the row that is there, in the caller's transaction.

    Args:
        lock: take the row that is there for this transaction alone.

    Raises:
        UsageError: ``run_id`` has removed no row of that key in the partition.
    """

    def __init__(
        self, repair: Repair, partition: str | None, run_id: str, key: Mapping[str, str | None], *, lock: bool
    ) -> None:
        spec = repair.spec
        refuse_versions(spec)
        check_removed(repair.connection, spec, repair.target.columns)
        self.repair = repair
        self.partition = partition
        typed = typed_key(spec, partition, key)
        self.values = list(typed.values())
        self._is_key = sql.all_of([self._equals(name, value) for name, value in typed.items()])
        rows(repair.connection, repair.statements["settle"])
        found = self.rows("find_removed", run_id)
        if not found:
            others = [name for (name,) in self.rows("find_runs")]
            raise UsageError(
                f"Run {run_id!r} has removed no row of this key in {Scope(spec.name, partition)}, or it was restored "
                "already.",
                hint=f"Rows of it were removed by: {', '.join(others)}."
                if others
                else "No run has removed a row of it.",
            )
        self.row, self.back, self.removed_at, self.reason = found[0]
        self.current = [name for (name,) in self.rows("find_current" if lock else "see_current")]

    def _equals(self, name: str, value: Any) -> sql.Piece:
        """Return whether a key column has this value; constants, as those of the partitions are."""
        column = self.repair.statements.exact(name)
        if value is None:
            return sql.SQL("{} is null").format(column)
        constant = sql.literal(value, self.repair.spec.by_name[name].type)
        if self.repair.target.by_name[name].type_name == "timestamp":
            constant = sql.SQL("({} at time zone 'UTC')").format(constant)
        return sql.SQL("{} = {}").format(column, constant)

    def _statement(self, name: str) -> sql.Composed:
        return self.repair.statements.render(name, is_key=self._is_key)

    def rows(self, name: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement of the exchange and return its rows."""
        return rows(self.repair.connection, self._statement(name), *values)

    def swap(self, work: Intervention) -> None:
        """Let the two change places.

        Raises:
            DuplicatesError: the key stands more than once.
            VerificationError: other rows were met than those that were found.
        """
        spec, connection = self.repair.spec, self.repair.connection
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
            run(connection, self._statement("put_aside"), work.run, work.reason, batch),
            run(connection, self._statement("delete_current")),
            run(connection, self._statement("take_back"), self.row),
            run(connection, self._statement("forget_removed"), self.row),
        ]
        if moved != [len(self.current), len(self.current), 1, 1]:
            raise VerificationError(
                "The rows could not be exchanged one for one.", hint="The transaction was rolled back."
            )


def plan_restore(
    connection: Connection,
    spec: TableSpec,
    partition: str | None,
    *,
    run_id: str,
    key: Mapping[str, str | None],
    control: Control,
) -> RestorePlan:
    """Tell what would change places; see ``Warehouse.plan_restore``. The caller rolls back."""
    values = partition_values(spec, partition)
    repair = Repair(connection, spec, describe(connection, spec), values, control)
    exchange = Exchange(repair, partition, run_id, key, lock=False)
    return RestorePlan(
        table=spec.name,
        partition=partition,
        key=key_texts(spec, exchange.values),
        run=run_id,
        back=exchange.back,
        current=tuple(exchange.current),
        removed_at=exchange.removed_at.astimezone(dt.UTC),
        reason=exchange.reason,
    )


def restore_one(
    opened: OpenIntervention, run_id: str, key: Mapping[str, str | None], control: Control
) -> Repaired:
    """Exchange the row of a key with the newest one that ``run_id`` removed; see ``Warehouse.restore``."""
    work = opened.work
    repair = Repair(opened.connection, work.spec, opened.target, opened.values, control)
    exchange = Exchange(repair, work.partition, run_id, key, lock=True)
    exchange.swap(work)
    opened.rows_superseded = len(exchange.current)
    return Repaired(work.partition, 1, len(exchange.current), rows_restored=1)
