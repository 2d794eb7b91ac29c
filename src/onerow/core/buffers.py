"""The bytes of Arrow arrays, without what slicing and NULLs leave around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def text_bytes(array: pa.Array) -> memoryview:
    """Return the bytes of all values of a ``string`` or ``binary`` array, one behind the other.

    Shapes: what stands under NULLs is part of it; fill them first where that matters.
    """
    _, offsets, data = array.buffers()
    if data is None or len(array) == 0:
        return memoryview(b"")
    bounds = memoryview(offsets).cast("i")
    return memoryview(data)[bounds[array.offset] : bounds[array.offset + len(array)]]


def fixed_bytes(array: pa.Array, width: int) -> memoryview:
    """Return the bytes of the values of an array whose values take ``width`` bytes each."""
    data: Any = array.buffers()[1]
    if data is None or len(array) == 0:
        return memoryview(b"")
    return memoryview(data)[array.offset * width : (array.offset + len(array)) * width]
