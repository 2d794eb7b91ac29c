"""What a consolidation costs on BigQuery and Firestore, on paper, from the scripts as they are sent.

``python -m benchmarks.bigquery_cost`` prints the tables of docs/reference/bigquery-cost.md. Nothing is measured here:
the statements are rendered, the tables that each names are counted, and the vendor's rules are applied to them.

Sources: https://cloud.google.com/bigquery/pricing#on_demand_pricing (price, and at least 10 MB for each table that a
statement names), https://cloud.google.com/bigquery/quotas (load jobs a day), https://cloud.google.com/firestore/pricing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlglot
from sqlglot import exp

from onerow.adapters.bigquery.names import DIALECT, Names, TableName, bigquery_type
from onerow.adapters.warehouse.bigquery.preparation import Cost, PreparedMerge
from onerow.adapters.warehouse.bigquery.script import MergeSteps, Turn
from onerow.adapters.warehouse.bigquery.statements import Statements, values_of
from onerow.core.plans import MergePlan, PartitionTask
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type

if TYPE_CHECKING:
    from collections.abc import Sequence

MB: Final = 1_000_000
LEAST_BYTES: Final = 10 * MB
"""Of each table that a statement names, however small it is."""
USD_PER_BYTE: Final = 6.25 / 2**40
USD_PER_WRITE: Final = 0.09 / 100_000
LOAD_JOBS_A_DAY: Final = 100_000
"""Of a project."""
RENEWED_EVERY_S: Final = 10.0
A_DAY: Final = (1, 100, 10_000)

COLUMNS: Final = {
    "prediction_id": "string", "game_date": "date", "game_id": "string", "player_lookup": "string",
    "system_id": "string", "current_points_line": "decimal(6,2)", "predicted_points": "float64",
    "confidence": "float64", "created_at": "timestamp",
}  # fmt: skip
SPEC: Final = TableSpec(
    name="player_prop_predictions",
    target=("player_prop_predictions",),
    key=("game_id", "player_lookup", "system_id", "current_points_line"),
    partition="game_date",
    order_by=("created_at", "prediction_id"),
    columns=tuple(Column(name, parse_type(kind)) for name, kind in COLUMNS.items()),
    id_column="prediction_id",
)


@dataclass(frozen=True, slots=True)
class PerConsolidation:
    """One consolidation.

    Attributes:
        query_jobs: those that are billed by bytes; a script is one.
        statements: of the script that commits; the merge alone for a design without one.
        bytes_billed: on demand, of tables so small that the least amount counts.
        seconds_held: how long a lock is held.
    """

    load_jobs: int
    query_jobs: int
    statements: int
    bytes_billed: int
    firestore_writes: int

    @property
    def usd(self) -> float:
        """What it costs."""
        return self.bytes_billed * USD_PER_BYTE + self.firestore_writes * USD_PER_WRITE


def script(partition: str = "2026-01-11") -> str:
    """Return the script of a consolidation of the incident's table."""
    names = Names("project", "nba", "onerow")
    tasks = (PartitionTask(partition, ("part",), 587, 7),)
    plan = MergePlan(SPEC, "batch", "run", 1, "me", (), tasks, "locks")
    types = tuple((column.name, bigquery_type(column.type)) for column in SPEC.columns)
    staged = TableName("project", "onerow", "scratch_staged")
    statements = Statements(SPEC, names, types, values_of(SPEC, [partition]), staged)
    return MergeSteps(PreparedMerge(plan, statements, 0.0, Cost()), Turn("job")).script()


def bytes_of(text: str) -> int:
    """Return the least that the statements of a script are billed for."""
    trees = [tree for tree in sqlglot.parse(text, dialect=DIALECT) if tree is not None]
    return sum(LEAST_BYTES * len(tables_of(tree)) for tree in trees)


def tables_of(tree: exp.Expr) -> set[str]:
    """Return the tables that a statement reads. Rows that are only appended to a table do not read it."""
    appended = tree.find(exp.Table) if isinstance(tree, exp.Insert) else None
    return {table.name for table in tree.find_all(exp.Table) if table is not appended and table.db}


def ours(*, parts: int = 15, seconds_held: float = 20.0) -> PerConsolidation:
    """Return what onerow costs.

    A part is a load job, which is free. Queries: the source (each part's table, then the scratch table), the script,
    and a row that tells its cost, which reads nothing. What the ledger names is asked by the script: the batch is fresh
    and its lock free. Writes: the scope's lease and the turn to commit, each taken and released, and renewals of both.
    """
    text = script()
    renewals = int(seconds_held // RENEWED_EVERY_S)
    return PerConsolidation(
        load_jobs=parts,
        query_jobs=3,
        statements=text.count(";\n"),
        bytes_billed=LEAST_BYTES * (parts + 1) + bytes_of(text),
        firestore_writes=4 + 2 * renewals,
    )


def incident(*, parts: int = 15) -> PerConsolidation:
    """Return what the incident's design costs: a MERGE of all staging tables, a count of duplicates, a lock."""
    return PerConsolidation(
        load_jobs=parts,
        query_jobs=2,
        statements=1,
        bytes_billed=LEAST_BYTES * (parts + 1) + LEAST_BYTES,
        firestore_writes=2,
    )


def table() -> list[str]:
    """Return the lines of the table in the document."""
    lines = [
        "| consolidations a day | design | load jobs | query jobs | GB billed | Firestore writes | USD a day |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number in A_DAY:
        for name, one in (("onerow", ours()), ("the incident's", incident())):
            billed = number * one.bytes_billed / 1000 / MB
            lines.append(
                f"| {number:,} | {name} | {number * one.load_jobs:,} | {number * one.query_jobs:,} | {billed:,.2f} "
                f"| {number * one.firestore_writes:,} | {number * one.usd:,.4f} |"
            )
    return lines


def shares() -> list[str]:
    """Return the lines that say where the bytes come from."""
    least = bytes_of(script())
    return [
        "| step | tables named | MB billed at least |",
        "| --- | ---: | ---: |",
        f"| the source, of 15 parts | 16 | {16 * LEAST_BYTES // MB} |",
        f"| the script that commits, {ours().statements} statements | {least // LEAST_BYTES} | {least // MB} |",
    ]


def main(lines: Sequence[str] | None = None) -> None:
    """Print both tables."""
    sys.stdout.write("\n".join(lines or [*table(), "", *shares()]) + "\n")


if __name__ == "__main__":
    main()
