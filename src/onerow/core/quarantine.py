"""Rows that break the row contract, as they came: put aside beside the good ones of their source. No I/O."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pat

from onerow.core.jsontext import dump_json
from onerow.core.kinds import Unreadable, ValueRefusedError
from onerow.core.parts import BadRow
from onerow.core.unpack import plain, python_values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from onerow.core.rows import Converted, RowProblem


class QuarantineDigest:
    """The identity of bad rows, fed as they come: their positions and values decide, not the reasons."""

    def __init__(self, *, table: str, batch: str, worker: str) -> None:
        self.rows = 0
        self._state = hashlib.sha256(_canonical([table, batch, worker]))

    def update(self, rows: Iterable[BadRow]) -> None:
        """Take the next rows."""
        for row in rows:
            self._state.update(_canonical([row.position, sorted(row.values.items())]))
            self.rows += 1

    def quarantine_id(self) -> str:
        """Return the identity of the entry that the rows make."""
        return "q" + self._state.hexdigest()[:32]


def bad_rows(batch: pa.RecordBatch, converted: Converted, broken: Sequence[RowProblem]) -> list[BadRow]:
    """Return the rows of ``batch`` that have a problem, by position.

    Args:
        batch: the rows as they came.
        converted: what the row contract made of them, with the problems of all bad rows.
        broken: the checks of the table that rows do not pass which are good otherwise.
    """
    reasons: dict[int, list[str]] = {}
    for problem in (*converted.problems, *broken):
        reasons.setdefault(problem.row, []).append(problem.said)
    positions = sorted(reasons)
    if not positions:
        return []
    indices = pa.array([position - converted.first_row for position in positions], pa.int64())
    columns = [(name, _texts(batch.column(name), indices)) for name in batch.schema.names]
    return [
        BadRow(position, tuple(reasons[position]), {name: texts[at] for name, texts in columns})
        for at, position in enumerate(positions)
    ]


def without(rows: pa.RecordBatch, indices: Collection[int]) -> pa.RecordBatch:
    """Return ``rows`` but for those at ``indices``."""
    if not indices:
        return rows
    left_out = set(indices)
    return rows.filter(pa.array([index not in left_out for index in range(rows.num_rows)], pa.bool_()))


def _texts(array: pa.Array, indices: pa.Array) -> list[str | None]:
    array = plain(array)
    if pat.is_union(array.type):  # Arrow takes single rows out of some sorts of unions only
        values = python_values(array, shortest_floats=True)
        values = [values[index] for index in indices.to_pylist()]
    else:
        values = python_values(array.take(indices), shortest_floats=True)
    return [_text(value) for value in values]


def _text(value: Any) -> str | None:
    """Return a value as text that names it; bytes that are no UTF-8 are shown escaped."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case dict() | list():
            try:
                return dump_json(value)
            except (ValueRefusedError, RecursionError):
                return repr(value)
        case Unreadable():
            return f"<{value.what}>"
        case _:
            return str(value)


def bad_row_to_json(row: BadRow) -> dict[str, Any]:
    """Return a row as JSON-able data."""
    return {"position": row.position, "problems": list(row.problems), "values": dict(row.values)}


def bad_row_from_json(data: Mapping[str, Any]) -> BadRow:
    """Return the row that ``data`` holds.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it holds none.
    """
    return BadRow(
        position=int(data["position"]),
        problems=tuple(str(problem) for problem in data["problems"]),
        values={str(name): None if text is None else str(text) for name, text in data["values"].items()},
    )


def _canonical(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"
