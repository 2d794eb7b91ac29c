"""What stands beside a target under a name derived from it: the views of ``core.views``, for any SQL client.

A comment marks a view as ours and carries a digest of what it was made of, which tells an outdated one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.adapters.postgresql.connection import rows, run
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.target import compared, related_name, schema_of, target_table
from onerow.core.views import CURRENT, DUPLICATES, monitor_columns
from onerow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql.target import TargetColumn
    from onerow.core.spec import TableSpec

MARK: Final = "Made by onerow init; definition "

_FIND: Final = sql.SQL(
    "select c.relkind::text, obj_description(c.oid, 'pg_class') from pg_catalog.pg_class as c "
    "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2"
)


@dataclass(frozen=True, slots=True)
class View:
    """A view as it should be: its names, the statement that it stands for, and a digest of what it is made of."""

    schema: str
    name: str
    query: sql.Composed
    digest: str

    @property
    def place(self) -> sql.Identifier:
        """The full name."""
        return sql.Identifier(self.schema, self.name)

    @property
    def comment(self) -> str:
        """What the view is marked with."""
        return f"{MARK}{self.digest}"


def views_of(spec: TableSpec, columns: Sequence[TargetColumn]) -> list[View]:
    """Return the views of a table."""
    by_name = {column.name: column for column in columns}
    read = [*spec.row_identity, spec.order_by[0], *([] if spec.id_column is None else [spec.id_column])]
    views = [(DUPLICATES, _duplicates(spec, by_name), read)]
    if spec.mode == "versions":
        views.append((CURRENT, _current(spec, by_name), [column.name for column in spec.stored_columns]))
    return [
        View(schema_of(spec), related_name(spec, suffix), query, _digest(query, by_name, names))
        for suffix, query, names in views
    ]


def install_views(connection: Connection, spec: TableSpec, columns: Sequence[TargetColumn]) -> list[str]:
    """Create the views that are missing and replace those that are outdated.

    Raises:
        ConfigurationError: something that onerow has not made has the name of a view.
    """
    made = []
    for view in views_of(spec, columns):
        state = _state(connection, view)
        if state == "foreign":
            raise ConfigurationError(
                f"Table {spec.name!r}: {view.schema}.{view.name} is there and was not made by onerow, which keeps a "
                "view of that name.",
                hint="Rename it, or give the table another target. Nothing was created.",
            )
        if state == "well":
            continue
        if state == "outdated":
            run(connection, sql.SQL("drop view {}").format(view.place))
        run(connection, sql.SQL("create view {} as ").format(view.place) + view.query)
        run(connection, sql.SQL("comment on view {} is {}").format(view.place, sql.Literal(view.comment)))
        label = f"view {view.schema}.{view.name}"
        made.append(label if state == "missing" else f"{label}, replaced: its columns have changed")
    return made


def problems(connection: Connection, spec: TableSpec, columns: Sequence[TargetColumn]) -> list[str]:
    """Return what is wrong with the views of a table, for ``doctor``."""
    told = {
        "missing": "the view {name} is missing; run `onerow init`",
        "outdated": "the view {name} is outdated; run `onerow init`",
        "foreign": "{name} was not made by onerow, which keeps a view of that name; rename it",
    }
    states = [(view.name, _state(connection, view)) for view in views_of(spec, columns)]
    return [told[state].format(name=name) for name, state in states if state != "well"]


def _state(connection: Connection, view: View) -> str:
    found = rows(connection, _FIND, view.schema, view.name)
    if not found:
        return "missing"
    kind, comment = found[0]
    if kind != "v" or not (comment or "").startswith(MARK):
        return "foreign"
    return "well" if comment == view.comment else "outdated"


def _digest(query: sql.Composed, columns: Mapping[str, TargetColumn], names: Sequence[str]) -> str:
    types = {name: columns[name].type_text for name in names if name in columns}
    described = [query.as_string(None), *(f"{name} {kind}" for name, kind in sorted(types.items()))]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def _duplicates(spec: TableSpec, columns: Mapping[str, TargetColumn]) -> sql.Composed:
    """Return the statement of the monitor view."""
    exact = [compared(columns.get(name), name, "t") for name in spec.row_identity]
    ids: sql.Piece = sql.SQL("null::text")
    if spec.id_column is not None:
        ids = sql.SQL("string_agg({0}::text, ', ' order by {0}::text collate \"C\")").format(
            sql.column(spec.id_column, "t")
        )
    first = spec.order_by[0]
    newest = sql.SQL("max({})").format(compared(columns.get(first), first, "t"))
    if columns[first].type_name == "bool":
        newest = sql.SQL("bool_or({})").format(sql.column(first, "t"))
    names = monitor_columns(spec)
    facts = [
        sql.SQL("{} as {}").format(node, sql.column(name))
        for name, node in zip(names, (sql.SQL("count(*)"), ids, newest), strict=True)
    ]
    shown = [
        sql.SQL("{} as {}").format(node, sql.column(name)) for name, node in zip(spec.row_identity, exact, strict=True)
    ]
    return sql.SQL("select {} from {} as t group by {} having count(*) > 1").format(
        sql.SQL(", ").join([*shown, *facts]), target_table(spec), sql.SQL(", ").join(exact)
    )


def _current(spec: TableSpec, columns: Mapping[str, TargetColumn]) -> sql.Composed:
    """Return the statement of the view of the newest versions."""
    names = [column.name for column in spec.stored_columns]
    exact = sql.SQL(", ").join(compared(columns.get(name), name, "t") for name in spec.identity)
    order = sql.SQL(", ").join(
        sql.SQL("{} desc nulls last").format(compared(columns.get(name), name, "t"))
        for name in (*spec.comparison, *names[len(spec.columns) :])
    )
    return sql.SQL("select distinct on ({exact}) {shown} from {table} as t order by {exact}, {order}").format(
        exact=exact, shown=sql.columns(names, "t"), table=target_table(spec), order=order
    )
