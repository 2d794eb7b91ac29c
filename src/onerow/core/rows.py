"""The row contract: what rows must be to be staged. No I/O.

A ``RowConverter`` takes record batches of any types and gives the good rows in the types of the
table spec, in declared order, and the problems of the others.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from onerow.core.buffers import constant
from onerow.core.convert import BadValue, arrow_type, convert_array
from onerow.core.partitions import encode_partition
from onerow.errors import PartRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onerow.core.spec import Column, TableSpec

MAX_PROBLEM_ROWS: Final = 10


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """Return the Arrow schema of ``columns``, in their order."""
    return pa.schema([pa.field(column.name, arrow_type(column.type)) for column in columns])


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row was refused.

    Attributes:
        row: its position in the source, from 1.
        reason: without the value, so that it may be logged.
        value: the value, shortened, for the eyes of the person who staged it; "" for none.
        word: what a position counts: "row" or "line".
    """

    row: int
    column: str
    reason: str
    value: str = ""
    word: str = "row"

    @property
    def said(self) -> str:
        """What is wrong, without the position."""
        what = f"{self.value} {self.reason}" if self.value else self.reason
        return f"column {self.column!r}: {what}"

    def __str__(self) -> str:
        return f"{self.word} {self.row}, {self.said}"


@dataclass(frozen=True, slots=True)
class Converted:
    """A batch after the row contract.

    Attributes:
        rows: the good rows in the spec's types and order.
        problems: the problems of the first bad rows, by row, then in declared order of columns.
        bad_count: how many rows of the batch are bad.
        bad: for each row of the batch whether it is bad; None if none is.
        kept: index in the batch of each good row; None if all are good.
        first_row: position of the batch's first row in the source, from 1.
    """

    rows: pa.RecordBatch
    problems: tuple[RowProblem, ...]
    bad_count: int
    bad: pa.Array | None
    kept: pa.Array | None
    first_row: int

    def position(self, index: int) -> int:
        """Return the position in the source of row ``index`` of the good ones, which counts from 0."""
        return self.first_row + (index if self.kept is None else int(self.kept[index].as_py()))


class RowConverter:
    """Converts batches to the types of a spec; nothing is rounded or guessed.

    Args:
        text_mode: the source has nothing but text (CSV): text is read as numbers and booleans.
        row_word: what a position in the source counts.
        max_problem_rows: of how many bad rows a batch's problems tell; None: of all.
    """

    def __init__(
        self,
        spec: TableSpec,
        *,
        text_mode: bool,
        row_word: str = "row",
        max_problem_rows: int | None = MAX_PROBLEM_ROWS,
    ) -> None:
        self._spec = spec
        self._text_mode = text_mode
        self._row_word = row_word
        self._max_problem_rows = max_problem_rows
        never_null = {column.name for column in spec.columns if column.required}
        self._never_null = never_null | ({spec.partition} if spec.partition is not None else set())
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def columns_for(self, input_names: Sequence[str]) -> tuple[str, ...]:
        """Return the spec's columns that the input has, in declared order; none for none at all.

        No rows, handed in as an empty list, have no columns; that is no error.

        Raises:
            PartRefusedError: it has unknown columns or one twice, or lacks a required one.
        """
        names = tuple(input_names)
        if names and names not in self._known:
            check_columns(self._spec, names)
            self._known[names] = tuple(name for name in self._spec.column_names if name in set(names))
        return self._known[names] if names else ()

    def convert(self, batch: pa.RecordBatch, *, first_row: int) -> Converted:
        """Return the good rows of ``batch`` and the problems of the others.

        Args:
            batch: rows in any types, with columns in any order.
            first_row: position of the batch's first row in the source, from 1.

        Raises:
            PartRefusedError: the columns are not those of the table.
        """
        if batch.num_rows and not batch.schema.names:
            check_columns(self._spec, ())
        names = self.columns_for(batch.schema.names)
        columns = [self._spec.by_name[name] for name in names]
        arrays: list[pa.Array] = []
        found: list[tuple[str, list[BadValue]]] = []
        for column in columns:
            array, bad = convert_array(batch.column(column.name), column.type, text_mode=self._text_mode)
            bad += self._forbidden(column, array, {value.index for value in bad})
            arrays.append(array)
            if bad:
                found.append((column.name, bad))
        rows = pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(columns))
        if not found:
            return Converted(rows, (), 0, None, None, first_row)
        by_row: dict[int, list[tuple[str, BadValue]]] = {}
        for name, bad in found:
            for value in bad:
                by_row.setdefault(value.index, []).append((name, value))
        mask = pa.array([index in by_row for index in range(batch.num_rows)], pa.bool_())
        kept = pc.indices_nonzero(pc.invert(mask))
        return Converted(
            rows=rows.take(kept),
            problems=tuple(self._problems(by_row, first_row)),
            bad_count=len(by_row),
            bad=mask,
            kept=kept,
            first_row=first_row,
        )

    def _forbidden(self, column: Column, array: pa.Array, refused: set[int]) -> Iterator[BadValue]:
        """Yield NULLs and NaNs where the column must have none; ``refused`` values became NULL."""
        if column.name in self._never_null and array.null_count > len(refused):
            what = "partition column" if column.name == self._spec.partition else "required column"
            for index in pc.indices_nonzero(array.is_null()).to_pylist():
                if index not in refused:
                    yield BadValue(index, f"is NULL, which a {what} cannot be", "")
        if column.type.kind == "float64" and column.name in self._spec.order_by:
            nan = pc.fill_null(pc.is_nan(array), constant(pa.bool_(), b"\0"))
            for index in pc.indices_nonzero(nan).to_pylist():
                yield BadValue(index, "is NaN, which has no place in an order (it is in order_by)", "")

    def _problems(self, by_row: dict[int, list[tuple[str, BadValue]]], first_row: int) -> Iterator[RowProblem]:
        for index in sorted(by_row)[: self._max_problem_rows]:
            for name, value in by_row[index]:
                yield RowProblem(first_row + index, name, value.reason, value.shown, self._row_word)


def check_columns(spec: TableSpec, names: Sequence[str]) -> None:
    """Check that a part with the columns ``names`` can be one of ``spec``'s table.

    Raises:
        PartRefusedError: naming the columns that are unknown, missing or there twice.
    """
    once = tuple(dict.fromkeys(names))
    problems = [f"column {name!r} stands there {names.count(name)} times" for name in once if names.count(name) > 1]
    problems += [
        f"column {name!r} is not declared{_suggestion(name, spec)}" for name in once if name not in spec.by_name
    ]
    problems += [
        f"column {name!r} is missing; every part must have it"
        for name in spec.column_names
        if name in spec.required and name not in names
    ]
    if problems:
        raise PartRefusedError(
            f"The columns are not those of table {spec.name!r}; nothing was staged.",
            problems=problems,
            hint=f"Declared are: {', '.join(spec.column_names)}.",
        )


def _suggestion(name: str, spec: TableSpec) -> str:
    if not name:
        return " (a column without a name; pandas writes its index so, unless told index=False)"
    folded = {column.casefold(): column for column in spec.column_names}
    near = difflib.get_close_matches(name.strip().casefold(), folded, n=3, cutoff=0.6)
    return f"; near it: {', '.join(repr(folded[match]) for match in near)}" if near else ""


def partition_counts(rows: pa.RecordBatch, partition: str | None) -> dict[str, int]:
    """Return how many of ``rows`` are in each partition, by canonical text; "" where there are none."""
    if rows.num_rows == 0:
        return {}
    if partition is None:
        return {"": rows.num_rows}
    counts = pc.value_counts(rows.column(partition))
    return {
        encode_partition(value): rows_in_it
        for value, rows_in_it in zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
    }
