"""The narrowest column types that hold a file's rows, judged by the row contract itself.

A type is proposed only if ``core.convert`` takes every value that was looked at, so a file that was
inferred from can be staged. Text is kept text wherever a number would lose something: leading zeros,
a plus sign, whole numbers beyond 64 bits.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from onerow.adapters.staging.readers import open_source
from onerow.core.convert import convert_array
from onerow.core.types import MAX_DECIMAL_DIGITS, ColumnType
from onerow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

SAMPLE_ROWS: Final = 200_000
MIN_PRECISION: Final = 9
MIN_SCALE: Final = 2
SPARE_DIGITS: Final = 2
_WIDEST: Final = ColumnType("decimal", MAX_DECIMAL_DIGITS, 12)

_BOOL_WORDS: Final = r"^(?i:true|false)$"
_KEPT_AS_TEXT: Final = r"^(?:\+|-?0[0-9])"
_WHOLE: Final = r"^-?[0-9]+$"


@dataclass(frozen=True, slots=True)
class InferredColumns:
    """What a file's columns are.

    Attributes:
        types: by name, in the order of the file.
        rows: how many rows were looked at.
        complete: whether these were all.
        unclear: columns whose values are of several types; staging will name the rows.
    """

    types: dict[str, ColumnType]
    rows: int
    complete: bool
    unclear: tuple[str, ...]


def infer_columns(path: str | Path, *, exact: Collection[str]) -> InferredColumns:
    """Return the columns of a file with the narrowest types that hold the first 200,000 rows.

    Args:
        path: the file, of any kind that can be staged.
        exact: columns that become decimals where they have fractions; others become float64.

    Raises:
        UsageError: there is no such file, or a column's name cannot be used.
        InputFileError: it cannot be read.
    """
    rows = 0
    complete = True
    with closing(open_source(path)) as source:
        columns = {name: _Candidates(exact=name in exact, text_mode=source.text_mode) for name in source.column_names}
        if len(columns) != len(source.column_names):
            double = next(name for name in columns if source.column_names.count(name) > 1)
            raise UsageError(f"{path}: the column {double!r} is there twice.")
        for batch in source.batches():
            if rows >= SAMPLE_ROWS:
                complete = False
                break
            for name, candidates in columns.items():
                candidates.look(batch.column(name))
            rows += batch.num_rows
    return InferredColumns(
        types={name: candidates.answer() for name, candidates in columns.items()},
        rows=rows,
        complete=complete,
        unclear=tuple(name for name, candidates in columns.items() if candidates.unclear),
    )


class _Candidates:
    """The types that still hold every value of a column."""

    def __init__(self, *, exact: bool, text_mode: bool) -> None:
        self._exact = exact
        self._text_mode = text_mode
        self._left = ["bool", "int64", "decimal", "float64", "date", "timestamp", "string", "json"]
        self._whole_digits = 0
        self._scale = 0
        self._seen = False

    def look(self, array: pa.Array) -> None:
        """Drop the types that do not hold every value of ``array``."""
        if pat.is_null(array.type) or array.null_count == len(array):
            return
        self._seen = True
        excluded = _text_excludes(array) if self._text_mode else _type_excludes(array)
        self._left = [kind for kind in self._left if kind not in excluded and self._holds(kind, array)]
        if "decimal" in self._left and self._exact:
            self._measure(array)

    def _holds(self, kind: str, array: pa.Array) -> bool:
        wanted = _WIDEST if kind == "decimal" else ColumnType(kind)  # type: ignore[arg-type]  # one of ours
        if kind == "decimal" and pat.is_decimal(array.type):
            wanted = ColumnType("decimal", array.type.precision, max(array.type.scale, 0))
        return not convert_array(array, wanted, text_mode=self._text_mode)[1]

    def _measure(self, array: pa.Array) -> None:
        """Note how many digits the numbers have in front of and behind the point."""
        values = array
        if not pat.is_decimal(array.type):
            values, _ = convert_array(array, _WIDEST, text_mode=self._text_mode)
        if not pat.is_union(values.type):
            values = pc.unique(values)
        for value in values.to_pylist():
            if isinstance(value, Decimal) and value:
                _, digits, exponent = value.normalize().as_tuple()
                self._whole_digits = max(self._whole_digits, len(digits) + int(exponent))
                self._scale = max(self._scale, -int(exponent))

    @property
    def unclear(self) -> bool:
        """Whether no type holds every value."""
        return not self._left

    def answer(self) -> ColumnType:
        """Return the narrowest type that is left; text where there is none, or where all is NULL."""
        left = self._left if self._seen else []
        for kind in left:
            if kind == "decimal" and self._exact:
                scale = max(self._scale, MIN_SCALE)
                precision = max(MIN_PRECISION, self._whole_digits + scale + SPARE_DIGITS)
                return ColumnType("decimal", min(precision, MAX_DECIMAL_DIGITS), scale)
            if kind != "decimal" or "float64" not in left:
                return _WIDEST if kind == "decimal" else ColumnType(kind)  # type: ignore[arg-type]
        return ColumnType("string")


def _text_excludes(array: pa.Array) -> Sequence[str]:
    """Return the types that text of a CSV file is not to be read as, though it could."""
    text = pc.drop_null(array).cast(pa.binary()).cast(pa.string(), safe=False) if _is_utf8(array) else None
    if text is None:
        return ("bool", "int64", "decimal", "float64", "date", "timestamp", "json")
    excluded = ["json"]
    if not _all(text, _BOOL_WORDS):
        excluded.append("bool")
    if pc.any(pc.match_substring_regex(text, _KEPT_AS_TEXT)).as_py():
        excluded += ["int64", "decimal", "float64"]
    elif not _all(text, _WHOLE):
        excluded.append("int64")
    elif convert_array(array, ColumnType("int64"), text_mode=True)[1]:
        excluded += ["decimal", "float64"]  # whole, but beyond 64 bits: an identity, not a quantity
    return excluded


def _type_excludes(array: pa.Array) -> Sequence[str]:
    """Return the types that values of an Arrow type are not to be read as, though they could."""
    kind = array.type
    if pat.is_floating(kind) or pat.is_decimal(kind):
        return ("int64",)
    if pat.is_timestamp(kind):
        return ("date",)
    if pat.is_string(kind) or pat.is_large_string(kind) or pat.is_dictionary(kind):
        return ("bool", "int64", "decimal", "float64", "json")
    if pat.is_date(kind):
        return ("timestamp",)
    return ()


def _is_utf8(array: pa.Array) -> bool:
    try:
        pc.drop_null(array).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _all(text: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(text, pattern)).as_py())
