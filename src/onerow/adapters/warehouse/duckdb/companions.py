"""What stands beside a target under a name derived from it: the views of ``core.views``, for any SQL client.

A view names its table without schema or database, which DuckDB looks up where the view stands: the file reads the
same under every name it is opened by. A comment marks a view as ours and carries a digest of what it was made of,
which tells an outdated one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.database import rows
from onerow.core.views import CURRENT, DUPLICATES, monitor_columns
from onerow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

    from onerow.core.spec import TableSpec

MARK: Final = "Made by onerow init; definition "

_FIND: Final = """
select 'view', comment from duckdb_views()
where database_name = $1 and lower(schema_name) = lower($2) and lower(view_name) = lower($3)
union all
select 'table', null from duckdb_tables()
where database_name = $1 and lower(schema_name) = lower($2) and lower(table_name) = lower($3)
"""


@dataclass(frozen=True, slots=True)
class View:
    """A view as it should be.

    Attributes:
        schema: the schema of the target, which it shares.
        query: the statement that it stands for.
        digest: of the query and of the types of the columns that it reads; a view does not outlive their change.
    """

    schema: str
    name: str
    query: str
    digest: str

    @property
    def comment(self) -> str:
        """What the view is marked with."""
        return f"{MARK}{self.digest}"


def views_of(spec: TableSpec, schema: str, types: Mapping[str, str]) -> list[View]:
    """Return the views of a table; ``types`` are the engine's types of the target's columns."""
    read = [*spec.row_identity, spec.order_by[0], *([] if spec.id_column is None else [spec.id_column])]
    views = [(DUPLICATES, _duplicates(spec), read)]
    if spec.mode == "versions":
        views.append((CURRENT, _current(spec), [column.name for column in spec.stored_columns]))
    return [
        View(schema, spec.target[-1] + suffix, query, _digest(query, {name: types.get(name, "") for name in names}))
        for suffix, query, names in views
    ]


def install_views(
    connection: duckdb.DuckDBPyConnection, spec: TableSpec, schema: str, types: Mapping[str, str]
) -> list[str]:
    """Create the views that are missing and replace those that are outdated.

    Returns:
        What was made, as lines for people.

    Raises:
        ConfigurationError: something that onerow has not made has the name of a view.
    """
    made = []
    for view in views_of(spec, schema, types):
        state = _state(connection, view)
        if state == "foreign":
            raise ConfigurationError(
                f"Table {spec.name!r}: {view.schema}.{view.name} is there and was not made by onerow, which keeps a "
                "view of that name.",
                hint="Rename it, or give the table another target. Nothing was created.",
            )
        if state == "well":
            continue
        place = sql.table(sql.DATABASE, view.schema, view.name).sql(sql.DIALECT)
        comment = sql.exp.Literal.string(view.comment).sql(sql.DIALECT)
        connection.execute(f"CREATE OR REPLACE VIEW {place} AS {view.query}")
        connection.execute(f"COMMENT ON VIEW {place} IS {comment}")
        label = view.name if view.schema == "main" else f"{view.schema}.{view.name}"
        made.append(f"view {label}" if state == "missing" else f"view {label}, replaced: its columns have changed")
    return made


def problems(
    connection: duckdb.DuckDBPyConnection, spec: TableSpec, schema: str, types: Mapping[str, str]
) -> list[str]:
    """Return what is wrong with the views of a table, for ``doctor``."""
    told = {
        "missing": "the view {name} is missing; run `onerow init`",
        "outdated": "the view {name} is outdated; run `onerow init`",
        "foreign": "{name} was not made by onerow, which keeps a view of that name; rename it",
    }
    states = [(view.name, _state(connection, view)) for view in views_of(spec, schema, types)]
    return [told[state].format(name=name) for name, state in states if state != "well"]


def _state(connection: duckdb.DuckDBPyConnection, view: View) -> str:
    found = rows(connection, _FIND, sql.DATABASE, view.schema, view.name)
    if not found:
        return "missing"
    kind, comment = found[0]
    if kind != "view" or not (comment or "").startswith(MARK):
        return "foreign"
    return "well" if comment == view.comment else "outdated"


def _digest(query: str, types: Mapping[str, str]) -> str:
    described = [query, *(f"{name} {kind}" for name, kind in sorted(types.items()))]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def _duplicates(spec: TableSpec) -> str:
    """Return the statement of the monitor view."""
    identity = sql.columns(spec.row_identity)
    ids: sql.Node = sql.cast(sql.exp.null(), "VARCHAR")
    if spec.id_column is not None:
        text = sql.cast(sql.column(spec.id_column), "VARCHAR")
        by_text = sql.exp.Ordered(this=text.copy(), desc=False)
        separator = sql.exp.Order(this=sql.exp.Literal.string(", "), expressions=[by_text])
        ids = sql.exp.GroupConcat(this=text, separator=separator)
    counted = sql.exp.Count(this=sql.exp.Star())
    newest = sql.exp.Max(this=sql.column(spec.order_by[0]))
    names = monitor_columns(spec)
    facts = [sql.exp.alias_(node, name, quoted=True) for name, node in zip(names, (counted, ids, newest), strict=True)]
    more = sql.exp.GT(this=counted.copy(), expression=sql.exp.Literal.number(1))
    query = sql.exp.select(*identity, *facts).from_(sql.table(spec.target[-1]))
    return query.group_by(*sql.columns(spec.row_identity)).having(more).sql(sql.DIALECT)


def _current(spec: TableSpec) -> str:
    """Return the statement of the view of the newest versions."""
    names = [column.name for column in spec.stored_columns]
    order: list[sql.Node] = []
    for name in (*spec.comparison, *names[len(spec.columns) :]):
        # NULL lowest, whatever the reader's session takes for its default.
        order.append(sql.exp.Ordered(this=sql.exp.Is(this=sql.column(name), expression=sql.exp.Null()), desc=False))
        order.append(sql.exp.Ordered(this=sql.column(name), desc=True, nulls_first=False))
    window = sql.exp.Window(
        this=sql.exp.RowNumber(), partition_by=sql.columns(spec.identity), order=sql.exp.Order(expressions=order)
    )
    newest = sql.exp.EQ(this=window, expression=sql.exp.Literal.number(1))
    query = sql.exp.select(*sql.columns(names)).from_(sql.table(spec.target[-1]))
    query.set("qualify", sql.exp.Qualify(this=newest))
    return query.sql(sql.DIALECT)
