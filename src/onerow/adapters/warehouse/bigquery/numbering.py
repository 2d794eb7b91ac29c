"""Taking an existing table into versions mode: its rows become the versions of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from onerow.adapters.bigquery.names import DIALECT, column, columns
from onerow.errors import DuplicatesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.names import TableName
    from onerow.core.spec import TableSpec


def refuse_identical(client: BigQuery, spec: TableSpec) -> None:
    """Check that the rows of a table can be told apart.

    Raises:
        DuplicatesError: rows are identical in all declared columns.
    """
    target = client.names.target(spec)
    counted = exp.alias_(exp.Count(this=exp.Star()), "n")
    contents = exp.select(counted).from_(target.node()).group_by(_content(spec.column_names, None))
    contents = contents.having(exp.GT(this=exp.Count(this=exp.Star()), expression=exp.Literal.number(1)))
    query = exp.select(exp.Count(this=exp.Star()), exp.Sum(this=column("n"))).from_(contents.subquery("identical"))
    ((identical, rows),) = client.run(query.sql(DIALECT)).rows
    if identical:
        raise DuplicatesError(
            f"The table {target} has {rows - identical} rows that are identical to another one in every column, so "
            "they cannot be versions of their key.",
            hint='Nothing was changed. Repair them first: set mode = "upsert" and run `onerow dedupe '
            f"--table {spec.name}`.",
        )


def number_rows(client: BigQuery, spec: TableSpec, version_column: str) -> None:
    """Number the rows that have no version, of each key from the oldest on, in one statement.

    They differ in content, which ``refuse_identical`` has seen; so a row is found again by its content.
    """
    target = client.names.target(spec)
    order = [exp.Ordered(this=column(name), desc=False, nulls_first=True) for name in spec.comparison]
    number = exp.Window(
        this=exp.RowNumber(), partition_by=columns(spec.identity), order=exp.Order(expressions=order)
    )
    numbered = exp.select(
        exp.alias_(_content(spec.column_names, None), "content"), exp.alias_(number, "number")
    ).from_(target.node())
    update = exp.update(
        _aliased(target, "T"),
        {},
        where=exp.and_(
            exp.EQ(this=_content(spec.column_names, "T"), expression=column("content", "numbered")),
            exp.Is(this=column(version_column, "T"), expression=exp.null()),
        ),
        from_=exp.From(this=numbered.subquery("numbered")),
    )
    update.set("expressions", [exp.EQ(this=column(version_column), expression=column("number", "numbered"))])
    client.run(update.sql(DIALECT))


def _aliased(name: TableName, alias: str) -> exp.Table:
    table = name.node()
    table.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))
    return table


def _content(names: Sequence[str], table: str | None) -> exp.Expr:
    """Return the values of columns as one text, the same for equal rows and for no others."""
    struct = exp.Struct(
        expressions=[exp.alias_(column(name, table), f"c{place}") for place, name in enumerate(names)]
    )
    return exp.func("TO_JSON_STRING", struct, dialect=DIALECT)
