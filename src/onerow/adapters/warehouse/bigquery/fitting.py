"""Whether a table that is there can be used as it is declared, and how its columns are compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from onerow.adapters.bigquery.names import (
    DIALECT,
    NUMERIC_INTEGER_DIGITS,
    NUMERIC_SCALE,
    bigquery_type,
    column,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.bigquery.tables import Table, TableColumn
    from onerow.core.spec import Column, TableSpec
    from onerow.core.types import ColumnType

FLOAT_DIGITS: Final = 15
"""So many decimal digits a FLOAT64 gives back as they were."""

BIGNUMERIC_SCALE: Final = 38
BIGNUMERIC_INTEGER_DIGITS: Final = 38

_DECIMAL: Final = re.compile(r"(NUMERIC|BIGNUMERIC)(?:\((\d+)(?:, (\d+))?\))?")


def misfits(spec: TableSpec, table: Table) -> list[str]:
    """Return why an existing table cannot be used as declared, as sentences."""
    if table.kind != "TABLE":
        return [f"It is a {table.kind.lower().replace('_', ' ')}; a table is needed."]
    problems = []
    for declared in spec.stored_columns:
        there = table.by_name.get(declared.name)
        if there is None:
            if declared.name in {*spec.identity, *spec.order_by}:
                problems.append(f"It has no column {declared.name!r}, which key, partition or order_by name.")
        elif problem := misfit(declared, there, is_partition=declared.name == spec.partition):
            problems.append(problem)
    known = {declared.name for declared in spec.stored_columns}
    problems += [
        f"Column {name!r} is there but not declared; a row is replaced whole, so its values would be lost."
        for name in table.by_name
        if name not in known
    ]
    if table.filter_required and table.partitioned_by != spec.partition:
        problems.append(
            f"It requires a filter on {table.partitioned_by}, which is not its declared partition, so no statement of "
            "onerow could read it. Declare that column as `partition`, or switch the requirement off."
        )
    return problems


def misfit(declared: Column, there: TableColumn, *, is_partition: bool) -> str:
    """Return why a column cannot hold the declared values exactly, as a sentence; "" if it can."""
    kind, actual, advice = declared.type, there.type, ""
    match kind.kind:
        case "decimal":
            fits = _holds(actual, kind)
            if actual == "FLOAT64" and not is_partition:
                fits = kind.precision <= FLOAT_DIGITS and kind.scale <= NUMERIC_SCALE
                advice = f" A FLOAT64 gives back {FLOAT_DIGITS} digits, {NUMERIC_SCALE} of them behind the point."
            elif actual == "FLOAT64":
                advice = " A binary float is no partition: change the column to NUMERIC."
        case "timestamp":
            fits = actual in {"TIMESTAMP", "DATETIME"}
        case "json":
            fits = actual == "STRING"
            if actual == "JSON":
                advice = " The engine's own JSON rounds long numbers and cannot be compared: change it to STRING."
        case _:
            fits = actual == bigquery_type(kind)
    if fits:
        return ""
    return f"Column {declared.name!r} is {actual}, declared as {kind} ({bigquery_type(kind)}).{advice}"


def _holds(actual: str, declared: ColumnType) -> bool:
    """Say whether a decimal type of the engine holds every value of a declared decimal exactly."""
    match = _DECIMAL.fullmatch(actual)
    if match is None:
        return False
    if match[2] is not None:
        precision, scale = int(match[2]), int(match[3] or 0)
        digits = precision - scale
    elif match[1] == "NUMERIC":
        digits, scale = NUMERIC_INTEGER_DIGITS, NUMERIC_SCALE
    else:
        digits, scale = BIGNUMERIC_INTEGER_DIGITS, BIGNUMERIC_SCALE
    return scale >= declared.scale and digits >= declared.precision - declared.scale


def compared(declared: Column, types: Mapping[str, str], table: str | None = None) -> exp.Expr:
    """Return a column of the target as it is compared and grouped.

    A FLOAT64 of an adopted table is cast to NUMERIC, which is exact for what it can hold and rounds nothing away that a
    key may have; a cast to INT64 would make one key of 24.5 and 25.0.
    """
    node = column(declared.name, table)
    if declared.type.kind == "decimal" and types.get(declared.name) == "FLOAT64":
        return exp.cast(node, exp.DataType.build("NUMERIC", dialect=DIALECT))
    return node
