"""Partition values as canonical text, and scopes: a table and one of its partitions.

Everything outside the adapters carries a partition as its canonical text, so that locks,
manifests, the ledger and people name it the same way: ``2026-01-17``, ``-7``, ``24.50``,
``true``, or the string itself. A table without a partition column has the partition None.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from typing import TYPE_CHECKING

from onerow.core.names import check_name
from onerow.errors import UsageError

if TYPE_CHECKING:
    from onerow.core.spec import TableSpec
    from onerow.core.types import ColumnType

PartitionValue = str | int | bool | Decimal | dt.date

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """What a lock is for: ``TABLE/PARTITION``, or ``TABLE`` where the table has no partitions."""

    table: str
    partition: str | None = None

    def __str__(self) -> str:
        return self.table if self.partition is None else f"{self.table}/{self.partition}"


def parse_scope(text: str) -> Scope:
    """Return the scope that ``text`` names; everything behind the first slash is the partition."""
    table, slash, partition = text.partition("/")
    return Scope(check_name(table, "table name"), partition if slash else None)


def encode_partition(value: PartitionValue) -> str:
    """Return the canonical text of a value of a partition column."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value)


def decode_partition(text: str, column_type: ColumnType) -> PartitionValue:
    """Return the value that ``text`` names in a partition column of ``column_type``.

    Raises:
        UsageError: it names none.
    """
    try:
        match column_type.kind:
            case "date" if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
                return dt.date.fromisoformat(text)
            case "int64" if re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII):
                if INT64_MIN <= int(text) <= INT64_MAX:
                    return int(text)
            case "bool" if text.lower() in {"true", "false"}:
                return text.lower() == "true"
            case "decimal":
                with localcontext() as context:
                    context.prec = 80
                    value = Decimal(text)
                    exact = value.quantize(Decimal(1).scaleb(-column_type.scale))
                if exact == value and len(exact.as_tuple().digits) <= column_type.precision:
                    return exact.copy_abs() if exact.is_zero() else exact  # no negative zero, no rounding
            case "string":
                return text
    except (ValueError, InvalidOperation):
        pass
    raise UsageError(f"{text!r} is no value of the partition column, which is of type {column_type}.")


def canonical_partition(text: str | None, spec: TableSpec) -> str | None:
    """Return ``text`` as the canonical name of a partition of ``spec``.

    Raises:
        UsageError: the table has no such partition column or the text is no value of it.
    """
    if spec.partition is None:
        if text is not None:
            raise UsageError(f"The table {spec.name!r} has no partition column; leave the partition out.")
        return None
    if text is None:
        raise UsageError(
            f"The table {spec.name!r} is partitioned by {spec.partition!r}; name a partition ({spec.name}/VALUE)."
        )
    return encode_partition(decode_partition(text, spec.by_name[spec.partition].type))
