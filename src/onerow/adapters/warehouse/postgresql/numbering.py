"""Taking an existing table into versions mode: its rows are numbered by key, from the oldest on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.postgresql.connection import rows, run
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.target import compared, schema_of, target_table
from onerow.errors import ConfigurationError, DuplicatesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql.target import TargetColumn
    from onerow.core.spec import TableSpec

_KEY_INDEXES = sql.SQL(
    """
    select i.indexrelid::regclass::text, array_agg(a.attname::text), exists (
        select from pg_catalog.pg_constraint as o where o.conindid = i.indexrelid
    ), x.relname
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as c on c.oid = i.indrelid
    join pg_catalog.pg_class as x on x.oid = i.indexrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    cross join lateral unnest(i.indkey::smallint[]) with ordinality as k(attnum, place)
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where n.nspname = $1 and c.relname = $2 and i.indisunique and k.place <= i.indnkeyatts
    group by i.indexrelid, x.relname
    """
)


def take_into_versions(
    connection: Connection, spec: TableSpec, columns: Sequence[TargetColumn], *, own_index: str
) -> list[str]:
    """Add the version column, number the rows, and drop our index on the key alone, which forbids versions.

    Raises:
        DuplicatesError: rows are identical; nothing tells them apart.
        ConfigurationError: a unique index of somebody else forbids a second version.
    """
    table = target_table(spec)
    by_name = {column.name: column for column in columns}

    def exact(names: Sequence[str], order: str = "") -> sql.Piece:
        ends = {"": sql.SQL(""), "oldest": sql.SQL(" asc nulls first")}
        return sql.SQL(", ").join(compared(by_name.get(name), name, "t") + ends[order] for name in names)

    for _, names, constrained, label in rows(connection, _KEY_INDEXES, schema_of(spec), spec.target[-1]):
        if set(names) <= set(spec.identity):
            if label != own_index or constrained:
                raise ConfigurationError(
                    f"Table {spec.name!r}: the unique index {label} forbids a second version of a key.",
                    hint="Drop it, then run `onerow init` again. Nothing was changed.",
                )
            run(connection, sql.SQL("drop index {}").format(sql.Identifier(schema_of(spec), label)))
    contents = (*spec.identity, *(name for name in spec.comparison if name not in spec.identity))
    repeated = rows(
        connection,
        sql.SQL("select {}, count(*) from {} as t group by {} having count(*) > 1 limit 1000").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(compared(by_name.get(name), name, "t")) for name in spec.identity
            ),
            table,
            exact(contents),
        ),
    )
    if repeated:
        keys = [
            ", ".join(f"{name}={value}" for name, value in zip(spec.identity, found, strict=False))
            for found in repeated
        ]
        raise DuplicatesError(
            f"{len(repeated)} keys of {spec.name!r} have identical rows, which cannot be versions.",
            keys=keys[:10],
            hint=f"Remove the copies with `onerow dedupe --table {spec.name}` in upsert mode. Nothing was changed.",
        )
    version = sql.column(str(spec.version_column))
    run(connection, sql.SQL("alter table {} add column {} bigint").format(table, version))
    run(
        connection,
        sql.SQL(
            "update {table} as t set {version} = n.number from (select t.ctid as place, t.tableoid as part, "
            "row_number() over (partition by {identity} order by {order}) as number from {table} as t) as n "
            "where t.ctid = n.place and t.tableoid = n.part"
        ).format(table=table, version=version, identity=exact(spec.identity), order=exact(spec.comparison, "oldest")),
    )
    run(connection, sql.SQL("alter table {} alter column {} set not null").format(table, version))
    return [f"versions of {'.'.join(spec.target)}, numbered in {spec.version_column}"]
