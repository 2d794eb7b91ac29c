"""Whole arrays at a time: the row contract at Arrow's speed.

``convert_fast`` either returns the converted array, or None where anything about it is not
plain; then the values are looked at one by one (``core.values``), slice by slice, so that one
bad row in a large batch does not make all of it slow.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from onerow.core.buffers import constant, text_array, text_bytes
from onerow.core.kinds import (
    MAX_DAY,
    MAX_US,
    MIN_DAY,
    MIN_US,
    ValueRefusedError,
    shorten,
)
from onerow.core.types import MAX_DECIMAL_DIGITS
from onerow.core.unpack import DECIMAL_BOX, JSON_BOX, box_name, plain, python_values
from onerow.core.values import (
    DATE_TEXT,
    DECIMAL_TEXT,
    FALSE_TEXTS,
    FLOAT_TEXT,
    INTEGER_TEXT,
    MAX_EXACT_FLOAT_INT,
    TIME_TEXT,
    TRUE_TEXTS,
    ZONE_TEXT,
    convert_value,
)

if TYPE_CHECKING:
    from onerow.core.types import ColumnType

SLICE_ROWS: Final = 4096
_UTC_US: Final = pa.timestamp("us", "UTC")
_ZERO: Final = constant(pa.float64(), struct.pack("=d", 0.0))
_NAN: Final = constant(pa.float64(), struct.pack("=d", math.nan))
_LARGEST_EXACT: Final = constant(pa.float64(), struct.pack("=d", MAX_EXACT_FLOAT_INT))
_TRUE: Final = text_array(*sorted(TRUE_TEXTS))
_FALSE: Final = text_array(*sorted(FALSE_TEXTS))
_UTC, _NOTHING = text_array("Z", "")
_NUL: Final = re.compile(rb"\x00")


def arrow_type(column_type: ColumnType) -> pa.DataType:
    """Return the Arrow type that holds a column of ``column_type``."""
    match column_type.kind:
        case "string" | "json":
            return pa.string()
        case "int64":
            return pa.int64()
        case "float64":
            return pa.float64()
        case "decimal":
            return pa.decimal128(column_type.precision, column_type.scale)
        case "bool":
            return pa.bool_()
        case "date":
            return pa.date32()
        case "timestamp":
            return _UTC_US


@dataclass(frozen=True, slots=True)
class BadValue:
    """A value that was refused: its index in the array, why, and the value, shortened."""

    index: int
    reason: str
    shown: str


def convert_array(array: pa.Array, column_type: ColumnType, *, text_mode: bool) -> tuple[pa.Array, list[BadValue]]:
    """Return ``array`` in the type of the column, NULL where a value was refused, and those values."""
    array = plain(array)
    fast = _try_fast(array, column_type, text_mode=text_mode)
    if fast is not None:
        return fast, []
    pieces: list[pa.Array] = []
    bad: list[BadValue] = []
    for start in range(0, len(array), SLICE_ROWS):
        piece = array.slice(start, SLICE_ROWS)
        fast = _try_fast(piece, column_type, text_mode=text_mode)
        if fast is None:
            fast = _convert_slowly(piece, column_type, start, bad, text_mode=text_mode)
        pieces.append(fast)
    return pa.concat_arrays(pieces), bad


def _try_fast(array: pa.Array, column_type: ColumnType, *, text_mode: bool) -> pa.Array | None:
    target = arrow_type(column_type)
    if array.null_count == len(array):
        return pa.nulls(len(array), target)
    try:
        return _convert_fast(array, column_type, text_mode=text_mode)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None  # Arrow refuses as a whole; which value it was, and why, is found one by one


def _convert_fast(array: pa.Array, column_type: ColumnType, *, text_mode: bool) -> pa.Array | None:
    kind = array.type
    box = box_name(kind)
    if box:
        return _unboxed(array.field(0), column_type, box)
    is_text = pat.is_string(kind) or pat.is_binary(kind)
    if is_text:
        array = _as_text(array)
    match column_type.kind:
        case "string":
            return array if is_text and not _NUL.search(text_bytes(array)) else None
        case "int64":
            return _text_to_int64(array, text_mode=text_mode) if is_text else _to_int64(array)
        case "float64":
            found = _text_to_float64(array, text_mode=text_mode) if is_text else _to_float64(array)
            return None if found is None else _one_zero_one_nan(found)
        case "decimal":
            return _to_decimal(array, arrow_type(column_type), is_text=is_text)
        case "bool":
            if is_text:
                return _text_to_bool(array, text_mode=text_mode)
            return array if pat.is_boolean(kind) else None
        case "date":
            return _to_date(array, is_text=is_text)
        case "timestamp":
            return _text_to_timestamp(array) if is_text else _to_timestamp(array)
        case "json":
            return _text_to_json(array) if is_text else None


def _unboxed(texts: pa.Array, column_type: ColumnType, box: str) -> pa.Array | None:
    match box, column_type.kind:
        case _ if box == JSON_BOX:
            return _text_to_json(texts) if column_type.kind == "json" else None
        case _ if box != DECIMAL_BOX:
            return None
        case _, "int64":
            whole = _text_to_decimal(texts, pa.decimal128(38, 0))
            return None if whole is None else whole.cast(pa.int64())
        case _, "float64":
            found = texts.cast(pa.float64())
            return pc.add(found, _ZERO) if pc.all(pc.is_finite(found)).as_py() else None
        case _, "decimal":
            return _text_to_decimal(texts, arrow_type(column_type))
    return None


def _as_text(array: pa.Array) -> pa.Array:
    """Return ``array`` as valid UTF-8 text; Arrow raises ArrowInvalid if it is none."""
    if pat.is_binary(array.type):
        return array.cast(pa.string())
    array.validate(full=True)  # the type promises UTF-8, files do not always keep it
    return array


def _matches(array: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(array, pattern.replace("$", r"\z"))).as_py())


def _without_plus(array: pa.Array) -> pa.Array:
    """Return ``array`` without leading plus signs, which Arrow does not read."""
    return pc.utf8_ltrim(array, "+") if b"+" in bytes(text_bytes(array)) else array


def _text_to_int64(array: pa.Array, *, text_mode: bool) -> pa.Array | None:
    if not text_mode or not _matches(array, INTEGER_TEXT):
        return None
    return _without_plus(array).cast(pa.int64())


def _to_int64(array: pa.Array) -> pa.Array | None:
    kind = array.type
    if pat.is_integer(kind):
        return array.cast(pa.int64())
    if pat.is_floating(kind):
        array = array.cast(pa.float64())
        beyond = pc.greater(pc.abs(array), _LARGEST_EXACT)
        return None if pc.any(beyond).as_py() else array.cast(pa.int64())
    if pat.is_decimal(kind):
        return array.cast(pa.decimal128(38, 0)).cast(pa.int64())
    return None


def _text_to_float64(array: pa.Array, *, text_mode: bool) -> pa.Array | None:
    if not text_mode or not _matches(array, FLOAT_TEXT):
        return None
    found = _without_plus(array).cast(pa.float64())
    # Infinity may be written, or may be a number that is too large: rare enough for the slow way.
    return None if pc.any(pc.is_inf(found)).as_py() else found


def _to_float64(array: pa.Array) -> pa.Array | None:
    kind = array.type
    if pat.is_integer(kind) or pat.is_floating(kind):
        return array.cast(pa.float64())
    if pat.is_decimal(kind):
        # By way of text: Arrow's own cast multiplies and may miss the nearest float by one.
        found = array.cast(pa.string()).cast(pa.float64())
        return None if pc.any(pc.is_inf(found)).as_py() else found
    return None


def _one_zero_one_nan(array: pa.Array) -> pa.Array:
    """Return floats with one representation of zero and one of NaN."""
    array = pc.add(array, _ZERO)
    nan = pc.is_nan(array)
    return pc.if_else(nan, _NAN, array) if pc.any(nan).as_py() else array


def _to_decimal(array: pa.Array, target: pa.DataType, *, is_text: bool) -> pa.Array | None:
    kind = array.type
    if is_text:
        return _text_to_decimal(array, target) if _matches(array, DECIMAL_TEXT) else None
    if pat.is_float16(kind):
        array = array.cast(pa.float32())
    if pat.is_integer(kind) or pat.is_floating(kind):
        # By way of the shortest text that names the number: 24.1 is 24.1 and nothing near it.
        return array.cast(pa.string()).cast(target)
    return array.cast(target) if pat.is_decimal(kind) else None


def _text_to_decimal(texts: pa.Array, target: pa.DataType) -> pa.Array | None:
    # Very many digits overflow in Arrow without an error (seen in pyarrow 26).
    longest = pc.max(pc.binary_length(texts)).as_py() or 0  # there is none where all values are NULL
    return texts.cast(target) if longest <= MAX_DECIMAL_DIGITS else None


def _text_to_bool(array: pa.Array, *, text_mode: bool) -> pa.Array | None:
    if not text_mode:
        return None
    folded = pc.ascii_lower(array)
    true = pc.is_in(folded, _TRUE)
    false = pc.is_in(folded, _FALSE)
    known = pc.or_(pc.or_(true, false), array.is_null())
    return pc.if_else(array.is_valid(), true, pa.nulls(1, pa.bool_())[0]) if pc.all(known).as_py() else None


def _to_date(array: pa.Array, *, is_text: bool) -> pa.Array | None:
    kind = array.type
    if is_text:
        if not _matches(array, DATE_TEXT):
            return None
        array = array.cast(pa.date32())
    elif pat.is_timestamp(kind):
        plain = _without_zone(array)
        array = plain.cast(pa.date32(), safe=False)
        if not pc.all(pc.equal(array.cast(plain.type), plain)).as_py():
            return None
    elif pat.is_date(kind):
        array = array.cast(pa.date32())
    else:
        return None
    bounds = pc.min_max(array.cast(pa.int32())).as_py()
    return array if bounds["min"] >= MIN_DAY and bounds["max"] <= MAX_DAY else None


def _without_zone(array: pa.Array) -> pa.Array:
    """Return timestamps as UTC without a zone; they count from 1970-01-01T00:00Z either way."""
    return array.view(pa.int64()).view(pa.timestamp(array.type.unit))


def _text_to_timestamp(array: pa.Array) -> pa.Array | None:
    day = DATE_TEXT.removesuffix("$")
    if _matches(array, DATE_TEXT):
        micros = array.cast(pa.timestamp("us"))
    elif _matches(array, f"{day}{TIME_TEXT}{ZONE_TEXT}?$"):
        zoned = pc.match_substring_regex(array, f"{TIME_TEXT}{ZONE_TEXT}$".replace("$", r"\z"))
        if not pc.any(zoned).as_py():
            micros = array.cast(pa.timestamp("us"))
        else:
            with_zone = pc.if_else(zoned, array, pc.binary_join_element_wise(array, _UTC, _NOTHING))
            micros = with_zone.cast(_UTC_US)
    else:
        return None
    return _checked_timestamp(micros)


def _to_timestamp(array: pa.Array) -> pa.Array | None:
    if pat.is_date(array.type):
        days = _to_date(array, is_text=False)  # within bounds, so that the product does not overflow
        return None if days is None else _checked_timestamp(days.cast(pa.timestamp("us")))
    if pat.is_timestamp(array.type):
        return _checked_timestamp(_without_zone(array).cast(pa.timestamp("us")))
    return None


def _checked_timestamp(array: pa.Array) -> pa.Array | None:
    micros = array.view(pa.int64())
    bounds = pc.min_max(micros).as_py()
    return micros.view(_UTC_US) if bounds["min"] >= MIN_US and bounds["max"] <= MAX_US else None


def _text_to_json(array: pa.Array) -> pa.Array | None:
    if _NUL.search(text_bytes(array)) or b"\\u" in bytes(text_bytes(array)):
        return None
    try:
        for text in array.to_pylist():
            if text is not None:
                json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return array


def _refuse(name: str) -> None:
    raise ValueError(name)


def _convert_slowly(
    array: pa.Array, column_type: ColumnType, start: int, bad: list[BadValue], *, text_mode: bool
) -> pa.Array:
    """Convert value by value, adding what is refused to ``bad``, counted from ``start``."""
    converted: list[object] = []
    for index, value in enumerate(python_values(array, shortest_floats=column_type.kind == "decimal")):
        try:
            converted.append(convert_value(value, column_type, text_mode=text_mode))
        except ValueRefusedError as refused:
            bad.append(BadValue(start + index, str(refused), shorten(value)))
            converted.append(None)
    match column_type.kind:
        case "date":
            return pa.array(converted, pa.int32()).view(pa.date32())
        case "timestamp":
            return pa.array(converted, pa.int64()).view(_UTC_US)
        case _:
            return pa.array(converted, arrow_type(column_type))
