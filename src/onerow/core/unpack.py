"""Values out of Arrow arrays: what encodings and boxes hide, and Python values as the rules take them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from onerow.core.kinds import Instant, JsonText, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

JSON_BOX: Final = "onerow:json"
"""A struct with this one field holds JSON text that was an object or a list in the source."""
DECIMAL_BOX: Final = "onerow:decimal"
"""A struct with this one field holds the text of a decimal, of any scale."""
UNREADABLE_BOX: Final = "onerow:unreadable"
"""A struct with this one field holds the name of a type that no column can hold."""

_BOXES: Final[dict[str, Callable[[str], object]]] = {
    JSON_BOX: JsonText,
    DECIMAL_BOX: Decimal,
    UNREADABLE_BOX: Unreadable,
}


def plain(array: pa.Array) -> pa.Array:
    """Return ``array`` without the encodings that say nothing about its values."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pat.is_dictionary(array.type):
        array = plain(array.dictionary).take(array.indices)
    if pat.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if pat.is_large_string(array.type) or pat.is_string_view(array.type):
        array = _recast(array, pa.string())
    elif pat.is_large_binary(array.type) or pat.is_binary_view(array.type):
        array = _recast(array, pa.binary())
    return array


def _recast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return array.cast(kind)
    except pa.ArrowNotImplementedError:  # pyarrow 17 has views but cannot cast them
        return pa.array(array.to_pylist(), kind)


def box_name(kind: pa.DataType) -> str:
    """Return the name of the box that values of this type are in, "" for none."""
    boxed = pat.is_struct(kind) and kind.num_fields == 1 and kind.field(0).name in _BOXES
    return str(kind.field(0).name) if boxed else ""


def python_values(array: pa.Array, *, shortest_floats: bool) -> list[Any]:
    """Return the values of ``array`` as ``core.values`` takes them.

    Args:
        array: of any type.
        shortest_floats: give a narrow float as the float64 with the same shortest text (24.1),
            not as the one with the same value (24.100000381469727).
    """
    array = plain(array)
    kind = array.type
    if pat.is_union(kind):
        return _union_values(array, shortest_floats=shortest_floats)
    if pat.is_timestamp(kind):
        return _instants(array.view(pa.int64()), kind.unit)
    if pat.is_date32(kind):
        return _instants(array.view(pa.int32()), "D")
    if pat.is_date64(kind):
        return _instants(array.view(pa.int64()), "ms")
    if pat.is_floating(kind) and not pat.is_float64(kind):
        array = array.cast(pa.float32())
        if shortest_floats:
            return [None if text is None else float(text) for text in array.cast(pa.string()).to_pylist()]
        return list(array.to_pylist())
    if pat.is_string(kind):
        return list(array.cast(pa.binary()).to_pylist())  # decoded, and refused, one by one
    if box := box_name(kind):
        return [None if text is None else _BOXES[box](text) for text in array.field(0).to_pylist()]
    if pat.is_nested(kind):
        return [_nested_value(value) for value in array]
    simple = pat.is_null(kind) or pat.is_primitive(kind) or pat.is_binary(kind) or pat.is_decimal(kind)
    if simple and not (pat.is_time(kind) or pat.is_duration(kind) or pat.is_interval(kind)):
        return list(array.to_pylist())
    unreadable = Unreadable(f"a value of type {kind}")
    return [unreadable if valid else None for valid in array.is_valid().to_pylist()]


def _instants(ticks: pa.Array, unit: str) -> list[Instant | None]:
    return [None if tick is None else Instant(tick, unit) for tick in ticks.to_pylist()]


def _union_values(array: pa.Array, *, shortest_floats: bool) -> list[Any]:
    """Return the values of a union, each as its own type has it."""
    children = [
        python_values(array.field(number), shortest_floats=shortest_floats) for number in range(array.type.num_fields)
    ]
    by_code = dict(zip(array.type.type_codes, children, strict=True))
    codes = array.type_codes.to_pylist()
    places = array.offsets.to_pylist() if array.type.mode == "dense" else range(len(codes))
    return [by_code[code][place] for code, place in zip(codes, places, strict=True)]


def _nested_value(scalar: pa.Scalar) -> Any:
    """Return a struct, list or map as dictionaries and lists; maps with their keys as they are."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pat.is_map(kind):
        pairs = scalar.values
        keys = [_nested_value(key) for key in pairs.field(0)]
        return dict(zip(keys, [_nested_value(item) for item in pairs.field(1)], strict=True))
    if pat.is_struct(kind):
        return {kind.field(index).name: _nested_value(scalar[index]) for index in range(kind.num_fields)}
    if pat.is_nested(kind) and not pat.is_union(kind):
        return [_nested_value(item) for item in scalar.values]
    if pat.is_timestamp(kind):
        return Instant(scalar.value, kind.unit)
    if pat.is_union(kind):
        return _nested_value(scalar.value)
    return scalar.as_py()
