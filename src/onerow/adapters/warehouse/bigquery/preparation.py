"""The deduplicated source: made before the transaction, in a scratch table that expires by itself.

Parts are tables of their own. One query reads at most so many of them; a batch with more is gathered in chunks first,
and the chunks are read like parts. The rows are counted by part and partition and compared with the manifests.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from onerow.adapters.bigquery.names import DIALECT, TableName
from onerow.adapters.warehouse.bigquery import sql
from onerow.adapters.warehouse.bigquery.statements import Statements, values_of
from onerow.errors import NotInstalledError, PartCorruptError, PartGoneError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.results import Ran
    from onerow.adapters.bigquery.tables import Table
    from onerow.core.parts import PartManifest
    from onerow.core.plans import MergePlan
    from onerow.core.spec import TableSpec

PART: Final = "__onerow_part"
SCRATCH: Final = "scratch_"
SCRATCH_HOURS: Final = 24
MAX_TABLES: Final = 250
"""So many tables one query reads; the service's limit is 1,000.

Source: https://cloud.google.com/bigquery/quotas#query_jobs
"""
MAX_STATEMENT_CHARS: Final = 700_000
"""The service takes statements of 1,024,000 characters."""


@dataclass
class Cost:
    """What jobs have cost so far."""

    bytes_processed: int = 0
    slot_ms: int = 0

    def add(self, ran: Ran) -> None:
        """Add a job."""
        self.bytes_processed += ran.job.bytes_processed
        self.slot_ms += ran.job.slot_ms


@dataclass
class PreparedMerge:
    """A plan whose rows are deduplicated in a scratch table."""

    plan: MergePlan
    statements: Statements
    prepare_s: float
    cost: Cost = field(default_factory=Cost)


def target_types(target: Table | None, spec: TableSpec) -> tuple[tuple[str, str], ...]:
    """Return the target's columns with their types.

    Raises:
        NotInstalledError: there is no target, or it lacks a column.
        WarehouseError: rows are in its streaming buffer.
    """
    if target is None:
        raise NotInstalledError(f"The table {'.'.join(spec.target)} is not there.", hint="Run `onerow init`.")
    missing = [column.name for column in spec.stored_columns if column.name not in target.by_name]
    if missing:
        raise NotInstalledError(
            f"The table {target.name} has no column {missing[0]!r}.", hint="Run `onerow init` to add it."
        )
    if target.streaming_rows is not None:
        raise WarehouseError(
            f"About {target.streaming_rows} rows of {target.name} are in the streaming buffer, where no transaction "
            "can change them.",
            hint="Staging is kept. Write with load jobs or through onerow; the buffer empties within 90 minutes.",
        )
    return tuple((column.name, column.type) for column in target.columns)


class Preparation:
    """Makes the scratch tables of one plan.

    Args:
        table_of: gives the table of a part's rows.
        max_tables: how many tables one query reads.
    """

    def __init__(
        self,
        client: BigQuery,
        plan: MergePlan,
        table_of: Callable[[PartManifest], TableName],
        *,
        max_tables: int = MAX_TABLES,
    ) -> None:
        self._client = client
        self._plan = plan
        self._table_of = table_of
        self._max_tables = max_tables
        self._name = f"{SCRATCH}{uuid.uuid4().hex}"
        self.made: list[TableName] = []
        self.cost = Cost()

    def run(self) -> PreparedMerge:
        """Make the table of staged rows.

        Raises:
            PartGoneError, PartCorruptError: a part is not there, or not what its manifest promises.
            NotInstalledError, WarehouseError: the target cannot be merged into.
        """
        began_s = time.perf_counter()
        plan, client = self._plan, self._client
        types = target_types(client.table(client.names.target(plan.spec)), plan.spec)
        values = values_of(plan.spec, plan.partitions)
        staged = self._scratch("staged")
        statements = Statements(plan.spec, client.names, types, values, staged)
        tables = {part.part_id: self._table_of(part) for part in plan.parts}
        try:
            sources = self._gathered([self._select(part, tables[part.part_id]) for part in plan.parts])
            template = "stage" if plan.spec.mode == "upsert" else "stage_versions"
            stage = statements(_file(plan.spec), template, expires=_expires(), source=_union(sources))
            count = statements("merge.sql", "count_staged")
            counted = client.run(f"{stage};\n{count};")
        except NotInstalledError as error:
            gone = [part for part in plan.parts if client.table(tables[part.part_id]) is None]
            if not gone:
                raise
            raise PartGoneError(
                f"The rows of part {gone[0].part_id} of batch {plan.batch!r} are gone: the table "
                f"{tables[gone[0].part_id]} is not there.",
                hint="Have the worker stage its rows again.",
            ) from error
        self.cost.add(counted)
        _check_counts(plan, [(part, name, int(rows)) for part, name, rows in counted.rows])
        return PreparedMerge(plan, statements, time.perf_counter() - began_s, self.cost)

    def _select(self, part: PartManifest, table: TableName) -> sql.Node:
        """Return the rows of one part that the plan is about, with the part's name."""
        spec = self._plan.spec
        wanted = [task.partition for task in self._plan.tasks if part.part_id in task.part_ids]
        present = {name for name, _ in part.columns}
        select = exp.select(
            *(sql.staged_column(declared, present=declared.name in present) for declared in spec.columns),
            exp.alias_(sql.string(part.part_id), PART),
        ).from_(table.node())
        whole = spec.partition is None or len(wanted) == len(part.partitions)
        return select if whole else select.where(sql.in_partitions(spec, values_of(spec, wanted)))

    def _gathered(self, sources: list[sql.Node]) -> list[sql.Node]:
        """Return at most as many queries as one statement may have, gathering chunks until that is so."""
        level = 0
        while len(chunks := self._chunks(sources)) > 1:
            gathered: list[sql.Node] = []
            for number, chunk in enumerate(chunks):
                place = self._scratch(f"{level}_{number}")
                statement = sql.render(
                    sql.templates("merge.sql")["stage_chunk"],
                    {"staged": place.node(), "expires": _expires(), "source": _union(chunk)},
                )
                self.cost.add(self._client.run(statement))
                gathered.append(exp.select("*").from_(place.node()))
            sources, level = gathered, level + 1
        return sources

    def _chunks(self, sources: Sequence[sql.Node]) -> list[list[sql.Node]]:
        chunks: list[list[sql.Node]] = []
        length = 0
        for source in sources:
            more = len(sql.text_of(source))
            if not chunks or len(chunks[-1]) >= self._max_tables or length + more > MAX_STATEMENT_CHARS:
                chunks.append([])
                length = 0
            chunks[-1].append(source)
            length += more
        return chunks

    def _scratch(self, what: str) -> TableName:
        names = self._client.names
        place = TableName(names.project, names.control, f"{self._name}_{what}")
        self.made.append(place)
        return place


def _file(spec: TableSpec) -> str:
    return "merge.sql" if spec.mode == "upsert" else "versions.sql"


def _expires() -> sql.Node:
    """Return when a scratch table expires, by the service's clock."""
    return exp.func(
        "TIMESTAMP_ADD",
        exp.CurrentTimestamp(),
        exp.Interval(this=exp.Literal.number(SCRATCH_HOURS), unit=exp.var("HOUR")),
        dialect=DIALECT,
    )


def _union(queries: Sequence[sql.Node]) -> sql.Rendered:
    """Return UNION ALL of queries; written out, since a tree of thousands of branches is too deep."""
    return sql.Rendered(" UNION ALL ".join(sql.text_of(query) for query in queries))


def _check_counts(plan: MergePlan, counted: Sequence[tuple[str, str, int]]) -> None:
    """Compare the rows of every part and partition with what the manifests promise.

    Raises:
        PartGoneError: naming a part without rows.
        PartCorruptError: naming a part that is not what its manifest promises.
    """
    found: dict[tuple[str, str], int] = defaultdict(int)
    for part_id, name, rows in counted:
        found[part_id, name] = rows
    present = {part_id for part_id, _ in found}
    for part in plan.parts:
        if part.part_id not in present:
            raise PartGoneError(
                f"The rows of part {part.part_id} of batch {plan.batch!r} are gone from its table.",
                hint="If the ledger does not name the part, have the worker stage its rows again.",
            )
    for task in plan.tasks:
        for part in (part for part in plan.parts if part.part_id in task.part_ids):
            rows = found.pop((part.part_id, task.partition or ""), 0)
            if rows != part.rows_of(task.partition):
                _refuse(plan, part.part_id, task.partition, rows, part.rows_of(task.partition))
    for (part_id, name), rows in found.items():
        _refuse(plan, part_id, name, rows, 0)


def _refuse(plan: MergePlan, part_id: str, partition: str | None, found: int, promised: int) -> None:
    raise PartCorruptError(
        f"Part {part_id} of batch {plan.batch!r} holds {found} rows of partition {partition!r}; its manifest says "
        f"{promised}.",
        hint="Nothing was merged. Have the workers stage their rows again.",
    )
