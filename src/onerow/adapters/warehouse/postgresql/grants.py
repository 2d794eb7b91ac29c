"""Which grants each kind of work needs, and which of them the connected role lacks.

The same grants, as statements for three roles, stand in docs/reference/postgresql-grants.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onerow.adapters.postgresql.connection import rows
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.layout import staging_name
from onerow.adapters.warehouse.postgresql.removed import removed_name
from onerow.adapters.warehouse.postgresql.target import schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.core.spec import TableSpec

_READ: Final = ("select",)
_STAGE: Final[Mapping[str, Sequence[str]]] = {
    "parts": ("select", "insert"),
    "quarantine": ("select", "insert"),
    "quarantine_rows": ("select", "insert"),
    "ledger": _READ,
}
_CONSOLIDATE: Final[Mapping[str, Sequence[str]]] = {
    "tables": _READ,
    "guards": ("select", "insert", "update"),
    "fences": ("select", "insert", "delete"),
    "ledger": ("select", "insert"),
    "history": ("select", "insert"),
    "parts": ("select", "update"),
}
_REPAIR: Final[Mapping[str, Sequence[str]]] = {
    **{name: privileges for name, privileges in _CONSOLIDATE.items() if name not in {"parts", "ledger"}},
    "ledger": _READ,
}
_LOOK: Final[Mapping[str, Sequence[str]]] = dict.fromkeys(("tables", "ledger", "history", "parts", "fences"), _READ)

_MISSING: Final = sql.SQL(
    """
    select n.nspname, c.relname, p.privilege
    from unnest($1::text[], $2::text[], $3::text[]) as p(schema, name, privilege)
    join pg_catalog.pg_namespace as n on n.nspname = p.schema
    join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = p.name
    where not case
        when not has_schema_privilege(n.oid, 'usage') then false
        when c.relkind = 'S' then has_sequence_privilege(c.oid, p.privilege)
        else has_table_privilege(c.oid, p.privilege) end
    order by 1, 2, 3
    """
)


def missing_grants(
    connection: Connection, specs: Sequence[TableSpec], control_schema: str
) -> dict[str, list[str]]:
    """Return the grants that the connected role lacks, by what it could not do without them: one text each."""
    jobs: dict[str, list[tuple[str, str, str]]] = {
        "stage": [*_needs(control_schema, _STAGE), (control_schema, "part_numbers", "usage")],
        "consolidate": list(_needs(control_schema, _CONSOLIDATE)),
        "repair": list(_needs(control_schema, _REPAIR)),
        "check": list(_needs(control_schema, _LOOK)),
    }
    for spec in specs:
        staging = staging_name(spec.name)
        target = (schema_of(spec), spec.target[-1])
        jobs["stage"] += [(control_schema, staging, privilege) for privilege in ("select", "insert")]
        jobs["consolidate"] += [(control_schema, staging, privilege) for privilege in ("select", "delete")]
        jobs["consolidate"] += [(*target, privilege) for privilege in ("select", "insert", "update")]
        repair = [(*target, privilege) for privilege in ("select", "insert", "update", "delete")]
        repair += [(schema_of(spec), removed_name(spec), privilege) for privilege in ("select", "insert", "delete")]
        jobs["repair"] += repair
        if spec.on_existing_duplicates == "repair":
            jobs["consolidate"] += [need for need in repair if need not in jobs["consolidate"]]
        jobs["check"].append((*target, "select"))
    found: dict[str, list[str]] = {}
    for job, needs in jobs.items():
        lacking = rows(connection, _MISSING, *(list(column) for column in zip(*needs, strict=True)))
        found[job] = [f"{privilege} on {schema}.{name}" for schema, name, privilege in lacking]
    (temporary,) = rows(connection, sql.SQL("select has_database_privilege(current_database(), 'temporary')"))[0]
    if not temporary:
        for job in ("consolidate", "repair"):
            found[job].append("temporary on the database")
    return found


def told(missing: Mapping[str, Sequence[str]]) -> list[tuple[str, bool, str]]:
    """Return what ``doctor`` tells of grants: well if there is something that the role may do."""
    able = [job for job, lacking in missing.items() if not lacking]
    facts = [("grants", bool(able), f"may {', '.join(able)}" if able else "this role may do nothing here")]
    facts += [
        (f"grants to {job}", bool(able), f"lacks {grant}")
        for job, lacking in missing.items()
        for grant in lacking
    ]
    return facts


def _needs(schema: str, wanted: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    return [(schema, name, privilege) for name, privileges in wanted.items() for privilege in privileges]
