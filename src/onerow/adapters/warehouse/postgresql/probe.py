"""What ``doctor`` tells of a database: version, control tables, targets, and which grants are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.postgresql.connection import row, rows
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.control import CONTROL_TABLES
from onerow.adapters.warehouse.postgresql.grants import missing_grants, told
from onerow.adapters.warehouse.postgresql.install import misfits
from onerow.adapters.warehouse.postgresql.removed import problems as removed_problems
from onerow.adapters.warehouse.postgresql.target import find_columns, holds_key, schema_of
from onerow.adapters.warehouse.postgresql.views import problems as view_problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.core.spec import TableSpec


def probe(
    connection: Connection,
    specs: Sequence[TableSpec],
    control: Mapping[str, sql.Composed],
    *,
    control_schema: str,
    latency_s: float,
) -> list[tuple[str, bool, str]]:
    """Return subject, whether it is well, and what is wrong or was found."""
    version, user, standby = row(
        connection, sql.SQL("select current_setting('server_version'), current_user::text, pg_is_in_recovery()")
    )
    said = f"reached in {latency_s * 1000:.0f} ms, PostgreSQL {version}, as {user}"
    facts = [("warehouse", not standby, said + ("; it is a standby, connect to the primary" if standby else ""))]
    present = {name for (name,) in rows(connection, control["read_control_tables"], control_schema)}
    missing = [name for name in CONTROL_TABLES if name not in present]
    if missing:
        facts.append(
            ("control tables", False, f"missing in schema {control_schema}: {', '.join(missing)}; run `onerow init`")
        )
        return facts
    facts.append(("control tables", True, f"schema {control_schema}"))
    missing_grants_of = missing_grants(connection, specs, control_schema)
    facts += told(missing_grants_of)
    readable = not any(missing_grants_of["check"])
    facts += [_table(connection, spec, control, readable=readable) for spec in specs]
    return facts


def _table(
    connection: Connection, spec: TableSpec, control: Mapping[str, sql.Composed], *, readable: bool
) -> tuple[str, bool, str]:
    subject = f"table {spec.name}"
    found, kind = find_columns(connection, schema_of(spec), spec.target[-1])
    if not found:
        return (subject, False, "missing; run `onerow init`")
    if problems := misfits(spec, found, kind):
        return (subject, False, " ".join(problems))
    if not readable:
        return (subject, True, "fits; this role may not read its control row")
    known = rows(connection, control["read_table"], spec.name)
    if not known:
        return (subject, False, "has no control row; run `onerow init`")
    there = {column.name for column in found}
    lacking = [name for name in (column.name for column in spec.stored_columns) if name not in there]
    if lacking:
        return (subject, False, f"lacks {', '.join(lacking)}; run `onerow init`")
    if wrong := [*removed_problems(connection, spec), *view_problems(connection, spec, found)]:
        return (subject, False, "; ".join(wrong))
    held = "its key is held by a unique index" if holds_key(connection, spec) else "its key is held by onerow alone"
    return (subject, True, f"fits ({known[0][1]}), {held}")
