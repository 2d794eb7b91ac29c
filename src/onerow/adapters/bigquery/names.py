"""Names and types in BigQuery: where a target, its companions, the control tables and the parts are.

::

    <project>.<dataset>.<target>                     the target, and beside it <target>_duplicates, ...
    <project>.<control dataset>.meta                 what installation has made
    <project>.<control dataset>.guards_<table>       one row: every consolidating transaction changes it first
    <project>.<control dataset>.fences_<table>       the highest token that has committed for a scope
    <project>.<control dataset>.ledger, history      shared: transactions that only insert do not conflict
    <project>.<control dataset>.part_<part>_<n>      the rows of a part, with its manifest

Guards and fences stand alone for each target, since two transactions that change rows of one table conflict, whichever
rows they change.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.cloud import bigquery
from sqlglot import exp

from onerow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.spec import Column, TableSpec
    from onerow.core.types import ColumnType

DIALECT: Final = "bigquery"

SHARED_TABLES: Final = ("meta", "ledger", "history")
OWN_TABLES: Final = ("guards", "fences")
CONTROL_TABLES: Final = (*SHARED_TABLES, *OWN_TABLES)

NUMERIC_SCALE: Final = 9
NUMERIC_INTEGER_DIGITS: Final = 29
"""NUMERIC holds 29 digits before the point and 9 behind it; whatever does not fit is BIGNUMERIC."""
BIGNUMERIC_SCALE: Final = 38

MAX_TABLE_BYTES: Final = 1_024
MAX_COLUMN_CHARS: Final = 300
READABLE_CHARS: Final = 40

_DATASET: Final = re.compile(r"[A-Za-z0-9_]{1,1024}")
_TABLE: Final = re.compile(r"[^\x00-\x1f`./\\:;*?\"'<>|,()\[\]{}@!#$%^&+=~]+")
_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_PREFIXES: Final = (
    "_table_",
    "_file_",
    "_partition",
    "_row_timestamp",
    "__root__",
    "_colidentifier",
    "_change_",
    "__onerow",
)

_TYPES: Final = {
    "string": "STRING",
    "int64": "INT64",
    "float64": "FLOAT64",
    "bool": "BOOL",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "json": "STRING",
}
_LEGACY: Final = {
    "INTEGER": "INT64",
    "FLOAT": "FLOAT64",
    "BOOLEAN": "BOOL",
    "DECIMAL": "NUMERIC",
    "BIGDECIMAL": "BIGNUMERIC",
}


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """The full name of a table."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def reference(self) -> bigquery.TableReference:
        """The name as the client library takes it."""
        return bigquery.TableReference(bigquery.DatasetReference(self.project, self.dataset), self.table)

    def node(self) -> exp.Table:
        """Return the name as a quoted node."""
        parts = [exp.to_identifier(name, quoted=True) for name in (self.project, self.dataset, self.table)]
        return exp.Table(catalog=parts[0], db=parts[1], this=parts[2])

    @property
    def sql(self) -> str:
        """The quoted name, for a statement."""
        return self.node().sql(DIALECT)


@dataclass(frozen=True, slots=True)
class Names:
    """Where everything of a warehouse is.

    Attributes:
        project: where jobs run, and where a name without a project is looked for.
        dataset: where a target without a dataset is.
        control: the dataset of control tables and staging.
    """

    project: str
    dataset: str
    control: str

    def target(self, spec: TableSpec) -> TableName:
        """Return the target's full name."""
        return TableName(*(self.project, self.dataset)[: 3 - len(spec.target)], *spec.target)

    def related(self, spec: TableSpec, suffix: str) -> TableName:
        """Return the name of what stands beside the target."""
        target = self.target(spec)
        return TableName(target.project, target.dataset, target.table + suffix)

    def shared(self, name: str) -> TableName:
        """Return the name of a control table that all targets share."""
        return TableName(self.project, self.control, name)

    def own(self, name: str, table: str) -> TableName:
        """Return the name of a control table that the target ``table`` (its name in the configuration) has alone."""
        return TableName(self.project, self.control, f"{name}_{told_apart(table)}")

    def control_table(self, name: str, table: str) -> TableName:
        """Return the name of any control table, as ``table`` uses it."""
        return self.own(name, table) if name in OWN_TABLES else self.shared(name)


def told_apart(name: str) -> str:
    """Return a name that any table may have: readable in front, a digest of the exact name behind."""
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:READABLE_CHARS]
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{readable}_{digest}" if readable else digest


def bigquery_type(column_type: ColumnType) -> str:
    """Return the engine's type for a declared one.

    JSON is kept as the text that it came as: the engine's own JSON type rounds or refuses long numbers, and cannot be
    compared.
    """
    if column_type.kind != "decimal":
        return _TYPES[column_type.kind]
    return f"{numeric_kind(column_type)}({column_type.precision}, {column_type.scale})"


def numeric_kind(column_type: ColumnType) -> str:
    """Return NUMERIC or BIGNUMERIC: the smallest type that holds every value of a declared decimal exactly."""
    integer_digits = column_type.precision - column_type.scale
    fits = column_type.scale <= NUMERIC_SCALE and integer_digits <= NUMERIC_INTEGER_DIGITS
    return "NUMERIC" if fits else "BIGNUMERIC"


def schema_field(column: Column, *, required: bool = False, description: str | None = None) -> bigquery.SchemaField:
    """Return a column as the client library takes it."""
    kind = column.type
    resource: dict[str, object] = {
        "name": column.name,
        "type": _TYPES.get(kind.kind) or numeric_kind(kind),
        "mode": "REQUIRED" if required else "NULLABLE",
    }
    if kind.kind == "decimal":
        resource |= {"precision": str(kind.precision), "scale": str(kind.scale)}
    if description is not None:
        resource["description"] = description
    return bigquery.SchemaField.from_api_repr(resource)


def field_type(field: bigquery.SchemaField) -> str:
    """Return the type of a column that is there as standard SQL writes it, such as ``NUMERIC(6, 2)``."""
    kind = _LEGACY.get(field.field_type.upper(), field.field_type.upper())
    if field.mode == "REPEATED":
        return f"ARRAY<{kind}>"
    if field.precision is None:
        return kind
    return f"{kind}({field.precision})" if not field.scale else f"{kind}({field.precision}, {field.scale})"


def check_dataset(name: str) -> None:
    """Check that a dataset can have this name.

    Raises:
        ConfigurationError: it cannot.
    """
    if not _DATASET.fullmatch(name):
        raise ConfigurationError(
            f"A dataset of BigQuery cannot be called {name!r}.", hint="Its name has letters, digits and underscores."
        )


def check_names(spec: TableSpec) -> None:
    """Check that BigQuery can hold the names of a table and of its columns.

    Raises:
        ConfigurationError: naming what to rename.
    """
    where = f"Table {spec.name!r}"
    if len(spec.target) > 3:  # noqa: PLR2004 -- project, dataset, table
        raise ConfigurationError(
            f"{where}: a target in BigQuery is table, dataset.table or project.dataset.table, "
            f"not {'.'.join(spec.target)!r}."
        )
    if len(spec.target) > 1:
        check_dataset(spec.target[-2])
    table = spec.target[-1]
    if not _TABLE.fullmatch(table) or len(table.encode()) > MAX_TABLE_BYTES - READABLE_CHARS:
        raise ConfigurationError(
            f"{where}: a table of BigQuery cannot be called {table!r}.",
            hint="Its name has letters, digits, underscores, dashes and blanks.",
        )
    for column in spec.stored_columns:
        name = column.name
        if (
            not _COLUMN.fullmatch(name)
            or len(name) > MAX_COLUMN_CHARS
            or name.casefold().startswith(_RESERVED_PREFIXES)
        ):
            raise ConfigurationError(
                f"{where}: a column of BigQuery cannot be called {name!r}; rename it.",
                hint="Its name has letters, digits and underscores, begins with no digit and with none of "
                f"{', '.join(_RESERVED_PREFIXES)}.",
            )


def column(name: str, table: str | None = None) -> exp.Column:
    """Return a quoted column."""
    return exp.column(exp.to_identifier(name, quoted=True), table=table)


def columns(names: Sequence[str], table: str | None = None) -> list[exp.Expr]:
    """Return quoted columns."""
    return [column(name, table) for name in names]
