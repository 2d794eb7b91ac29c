"""The views of ``core.views`` beside a target, for any SQL client.

The description of a view marks it as ours and carries a digest of what it was made of, which tells an outdated one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.cloud import bigquery
from sqlglot import exp

from onerow.adapters.bigquery.client import REQUEST_TIMEOUT_S
from onerow.adapters.bigquery.names import DIALECT, TableName, column, columns
from onerow.adapters.bigquery.patience import ONCE
from onerow.adapters.warehouse.bigquery.fitting import compared
from onerow.core.views import CURRENT, DUPLICATES, monitor_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.core.spec import TableSpec

MARK: Final = "Made by onerow init; definition "


@dataclass(frozen=True, slots=True)
class View:
    """A view as it should be.

    Attributes:
        digest: of the query and of the types of the columns that it reads.
    """

    name: TableName
    query: str
    digest: str

    @property
    def description(self) -> str:
        """What the view is marked with."""
        return f"{MARK}{self.digest}"


def views_of(client: BigQuery, spec: TableSpec, types: Mapping[str, str]) -> list[View]:
    """Return the views of a table; ``types`` are the engine's types of the target's columns."""
    names = client.names
    target = names.target(spec)
    queries = {DUPLICATES: _duplicates(spec, target, types)}
    if spec.mode == "versions":
        queries[CURRENT] = _current(spec, target, types)
    return [
        View(names.related(spec, suffix), query, _digest(query, types)) for suffix, query in queries.items()
    ]


def state_of(client: BigQuery, view: View) -> str:
    """Return ``well``, ``missing``, ``outdated``, or ``foreign`` for something that onerow has not made."""
    found = client.table(view.name)
    if found is None:
        return "missing"
    if found.kind != "VIEW" or not found.description.startswith(MARK):
        return "foreign"
    return "well" if found.description == view.description else "outdated"


def create_view(client: BigQuery, view: View, *, replace: bool) -> None:
    """Make a view, or replace it."""
    made = bigquery.Table(view.name.reference)
    made.view_query = view.query
    made.description = view.description

    def request(api: bigquery.Client) -> bigquery.Table:
        if replace:
            return api.update_table(made, ["view_query", "description"], retry=ONCE, timeout=REQUEST_TIMEOUT_S)
        return api.create_table(made, exists_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S)

    client.call(f"the view {view.name} could not be made", request)


def problems(client: BigQuery, spec: TableSpec, types: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the views of a table, for ``doctor``."""
    told = {
        "missing": "the view {name} is missing; run `onerow init`",
        "outdated": "the view {name} is outdated; run `onerow init`",
        "foreign": "{name} was not made by onerow, which keeps a view of that name; rename it",
    }
    states = [(view.name.table, state_of(client, view)) for view in views_of(client, spec, types)]
    return [told[state].format(name=name) for name, state in states if state != "well"]


def _digest(query: str, types: Mapping[str, str]) -> str:
    described = [query, *(f"{name} {kind}" for name, kind in sorted(types.items()))]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def _duplicates(spec: TableSpec, target: TableName, types: Mapping[str, str]) -> str:
    """Return the statement of the monitor view."""
    stored = {declared.name: declared for declared in spec.stored_columns}
    identity = [compared(stored[name], types) for name in spec.row_identity]
    ids: exp.Expr = exp.cast(exp.null(), "TEXT")
    if spec.id_column is not None:
        text = exp.cast(column(spec.id_column), "TEXT")
        by_text = exp.Ordered(this=text.copy(), desc=False, nulls_first=True)
        ordered = exp.Order(this=exp.Literal.string(", "), expressions=[by_text])
        ids = exp.GroupConcat(this=text, separator=ordered)
    facts = (exp.Count(this=exp.Star()), ids, exp.Max(this=column(spec.order_by[0])))
    query = (
        exp.select(
            *(
                exp.alias_(node, name, quoted=True)
                for name, node in (
                    *zip(spec.row_identity, identity, strict=True),
                    *zip(monitor_columns(spec), facts, strict=True),
                )
            )
        )
        .from_(target.node())
        .group_by(*(node.copy() for node in identity))
        .having(exp.GT(this=exp.Count(this=exp.Star()), expression=exp.Literal.number(1)))
    )
    return query.sql(DIALECT)


def _current(spec: TableSpec, target: TableName, types: Mapping[str, str]) -> str:
    """Return the statement of the view of the newest versions."""
    stored = {declared.name: declared for declared in spec.stored_columns}
    names = list(stored)
    order = [
        exp.Ordered(this=column(name), desc=True, nulls_first=False)
        for name in (*spec.comparison, *names[len(spec.columns) :])
    ]
    window = exp.Window(
        this=exp.RowNumber(),
        partition_by=[compared(stored[name], types) for name in spec.identity],
        order=exp.Order(expressions=order),
    )
    query = exp.select(*columns(names)).from_(target.node()).where(exp.true())
    query.set("qualify", exp.Qualify(this=exp.EQ(this=window, expression=exp.Literal.number(1))))
    return query.sql(DIALECT)
