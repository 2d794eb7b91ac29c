"""The table spec: what is declared of a target table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from onerow.core import types
from onerow.core.names import check_name
from onerow.core.types import ColumnType
from onerow.errors import ConfigurationError, UsageError

Mode = Literal["upsert", "versions"]
BadRowPolicy = Literal["refuse", "quarantine"]
ExistingDuplicatesPolicy = Literal["fail", "repair"]


@dataclass(frozen=True, slots=True)
class Column:
    """A declared column. ``required`` columns take no NULL."""

    name: str
    type: ColumnType
    required: bool = False


@dataclass(frozen=True)
class TableSpec:
    """What is declared of a target table. Immutable; checked when it is made.

    Attributes:
        name: the table's name in the configuration, on the command line and in the ledger.
        target: identifiers of the table in the warehouse, outermost first.
        key: the business key, compared null-safely and exactly.
        partition: the column whose values are locked, merged and verified one by one;
            None: the table is one partition.
        order_by: the columns that decide which row of a key is the newest.
        columns: all columns, in declared order.
        checks: named SQL conditions that every row must not make false.
        version_column: in versions mode, the column of the target that numbers a key's rows; given by onerow.
        enforce: have the engine hold the key by a unique index, where it can; None: for tables that onerow creates.
    """

    name: str
    target: tuple[str, ...]
    key: tuple[str, ...]
    order_by: tuple[str, ...]
    columns: tuple[Column, ...]
    partition: str | None = None
    mode: Mode = "upsert"
    id_column: str | None = None
    version_column: str | None = None
    checks: tuple[tuple[str, str], ...] = ()
    on_bad_row: BadRowPolicy = "refuse"
    on_existing_duplicates: ExistingDuplicatesPolicy = "fail"
    enforce: bool | None = None

    def __post_init__(self) -> None:
        check_spec(self)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns, in declared order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns of the target: the declared ones and, in versions mode, the one that numbers the versions."""
        if self.mode != "versions" or self.version_column is None:
            return self.columns
        return (*self.columns, Column(self.version_column, ColumnType("int64"), required=True))

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """The columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """The columns that identify a row: the partition column, then the business key."""
        rest = tuple(name for name in self.key if name != self.partition)
        return rest if self.partition is None else (self.partition, *rest)

    @cached_property
    def row_identity(self) -> tuple[str, ...]:
        """The columns of which no two rows share all values: in versions mode the identity and the version."""
        if self.mode != "versions" or self.version_column is None:
            return self.identity
        return (*self.identity, self.version_column)

    @cached_property
    def comparison(self) -> tuple[str, ...]:
        """Columns in the order in which two rows of one key are compared.

        The order columns come first, then all others in declared order: a total order
        over distinct rows, so that every order of merging ends in the same table.
        """
        first = tuple(dict.fromkeys(self.order_by))
        rest = (name for name in self.column_names if name not in first and name not in self.identity)
        return (*first, *rest)

    @cached_property
    def required(self) -> frozenset[str]:
        """Columns that a part must have: key, partition, order columns and the required ones."""
        declared = (column.name for column in self.columns if column.required)
        return frozenset({*self.identity, *self.order_by, *declared})


def check_spec(spec: TableSpec) -> None:
    """Check that ``spec`` contradicts neither itself nor the semantics of its columns.

    Raises:
        ConfigurationError: naming the table, the column and what to write instead.
    """
    where = f"Table {spec.name!r}"
    _check_names(spec, where)
    for what, names, kinds in (
        ("key", spec.key, types.KEY_KINDS),
        ("order_by", spec.order_by, types.ORDER_KINDS),
        ("partition", (spec.partition,) if spec.partition is not None else (), types.PARTITION_KINDS),
        ("id", (spec.id_column,) if spec.id_column is not None else (), frozenset(types.SIMPLE_KINDS | {"decimal"})),
    ):
        for name in names:
            column = spec.by_name.get(name)
            if column is None:
                raise ConfigurationError(
                    f"{where}: {what} names the column {name!r}, which is not declared.",
                    hint=f"Add it under [tables.{spec.name}.columns] or correct the name.",
                )
            if column.type.kind not in kinds:
                raise ConfigurationError(
                    f"{where}: the column {name!r} is of type {column.type} and cannot be part of {what}.",
                    hint=_advice(what, column.type),
                )
        if len(set(names)) != len(names):
            raise ConfigurationError(f"{where}: {what} names a column twice.")
    if not spec.key:
        raise ConfigurationError(f"{where}: key is empty; name the columns that identify a row.")
    if not spec.order_by:
        raise ConfigurationError(
            f"{where}: order_by is empty; name the column that tells which row is the newest."
        )
    _check_version_column(spec, where)


def _check_version_column(spec: TableSpec, where: str) -> None:
    if spec.mode == "versions" and spec.version_column is None:
        raise ConfigurationError(f'{where}: mode "versions" needs version_column.')
    if spec.version_column is None:
        return
    if spec.mode != "versions":
        raise ConfigurationError(f'{where}: version_column goes with mode = "versions".')
    if spec.version_column.casefold() in {name.casefold() for name in spec.by_name}:
        raise ConfigurationError(
            f"{where}: version_column {spec.version_column!r} is given by onerow and must not be declared."
        )


def _check_names(spec: TableSpec, where: str) -> None:
    try:
        check_name(spec.name, "table name")
        if spec.version_column is not None:
            check_name(spec.version_column, "version column name")
        for part in spec.target:
            check_name(part, "target name")
        for column in spec.columns:
            check_name(column.name, "column name")
    except UsageError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if "/" in spec.name:
        raise ConfigurationError(f"{where}: a table name has no '/', which separates table and partition.")
    if not spec.columns:
        raise ConfigurationError(f"{where}: no columns are declared.", hint=f"Add [tables.{spec.name}.columns].")
    seen: dict[str, str] = {}
    for column in spec.columns:
        folded = column.name.casefold()
        if folded in seen:
            raise ConfigurationError(
                f"{where}: the columns {seen[folded]!r} and {column.name!r} differ by case at most; "
                "most engines cannot tell them apart."
            )
        seen[folded] = column.name


def _advice(what: str, column_type: ColumnType) -> str:
    if what == "key" and column_type.kind == "float64":
        return 'Binary floats have no exact equality: declare it "decimal(p,s)", for example "decimal(9,2)".'
    if what == "partition":
        return "Partitions are of type string, int64, decimal, bool or date; derive a date column from a timestamp."
    return "Choose a column of another type."
