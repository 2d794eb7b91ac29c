"""The views beside a target: what they are called and which columns they have, on every engine.

- ``<target>_duplicates``: one row for each identity (in versions mode with its version) that several rows have: the
  identity's columns, then how many rows, the ids of the rows as text, joined by ", " (NULL if the table declares no
  id), and the greatest value of the first order column.
- ``<target>_current``, in versions mode: the newest version of each key, with all stored columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onerow.core.spec import TableSpec

DUPLICATES: Final = "_duplicates"
CURRENT: Final = "_current"


def monitor_columns(spec: TableSpec) -> tuple[str, str, str]:
    """Return the names of the columns that follow the identity in ``<target>_duplicates``.

    They are ``row_count``, ``ids`` and ``newest``, with ``onerow_`` before the name where a column of the key has it.
    """
    taken = {name.casefold() for name in spec.row_identity}

    def free(name: str) -> str:
        return name if name not in taken else free(f"onerow_{name}")

    return free("row_count"), free("ids"), free("newest")
