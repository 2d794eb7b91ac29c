"""The control tables of a schema, and the statements on them."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.postgresql import sql

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROL_TABLES: Final = (
    "meta",
    "tables",
    "guards",
    "fences",
    "ledger",
    "history",
    "part_numbers",
    "parts",
    "quarantine",
    "quarantine_rows",
)
SCHEMA_VERSION: Final = "1"


@lru_cache
def control_statements(schema: str) -> Mapping[str, sql.Composed]:
    """Return the statements of ``control.sql`` and ``parts.sql`` on the control tables of ``schema``."""
    names = {name: sql.Identifier(schema, name) for name in CONTROL_TABLES}
    pieces: dict[str, sql.Piece] = {
        **names,
        "schema": sql.Identifier(schema),
        **{f"{name}_text": sql.Literal(names[name].as_string(None)) for name in ("part_numbers", "parts")},
    }
    statements = {
        label: template.format(**pieces)
        for file in ("control.sql", "parts.sql")
        for label, template in sql.templates(file).items()
    }
    return MappingProxyType(statements)
