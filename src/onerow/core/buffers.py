"""The bytes of Arrow arrays, without what slicing and NULLs leave around them."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pyarrow as pa


def constant(kind: pa.DataType, raw: bytes) -> pa.Scalar:
    """Return the value of a type of fixed width that has the bytes ``raw``.

    Not by ``pa.scalar``: pyarrow imports pandas, if it is installed, when it first converts a Python value,
    which takes half a second and 60 MB.
    """
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(raw)])[0]


def text_array(*values: str) -> pa.Array:
    """Return a string array of ``values``, without pandas (see ``constant``)."""
    raw = [value.encode() for value in values]
    ends = [0, *itertools.accumulate(map(len, raw))]
    offsets = struct.pack(f"={len(ends)}i", *ends)
    return pa.Array.from_buffers(pa.string(), len(raw), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(raw))])


def text_bytes(array: pa.Array) -> memoryview:
    """Return the bytes of all values of a ``string`` or ``binary`` array, one behind the other.

    Shapes: what stands under NULLs is part of it; fill them first where that matters.
    """
    _, offsets, data = array.buffers()
    if data is None or len(array) == 0:
        return memoryview(b"")
    bounds = memoryview(offsets)[: 4 * (array.offset + len(array) + 1)].cast("i")  # there may be anything behind
    return memoryview(data)[bounds[array.offset] : bounds[array.offset + len(array)]]


def fixed_bytes(array: pa.Array, width: int) -> memoryview:
    """Return the bytes of the values of an array whose values take ``width`` bytes each."""
    data: Any = array.buffers()[1]
    if data is None or len(array) == 0:
        return memoryview(b"")
    return memoryview(data)[array.offset * width : (array.offset + len(array)) * width]
