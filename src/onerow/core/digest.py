"""The content digest: what a part's rows are, whatever files and batches they came in.

For every column two streams are hashed: the length of each value (-1 for NULL; for types of
fixed width 1, or 0 for NULL) and the bytes of all values that are not NULL filled up with zeros.
NULL and '' differ in the first stream; so do ('ab', 'c') and ('a', 'bc'). The digests of the
columns are then combined with their names and types and the number of rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from onerow.core.buffers import constant, fixed_bytes, text_array, text_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.spec import Column

DIGEST_FORMAT: Final = b"onerow content 1"

_WIDTHS: Final = {"int64": 8, "float64": 8, "decimal": 16, "bool": 1, "date": 4, "timestamp": 8}

_MINUS_ONE: Final = constant(pa.int32(), b"\xff" * 4)
_EMPTY: Final = text_array("")[0]


class ContentDigest:
    """Takes rows batch by batch; the digest depends on the rows and their order alone.

    Rows are in the types of ``core.rows.arrow_type``, with one zero and one NaN, as the row
    converter makes them. Independent of chunking, of slices and of what stands under NULLs.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._streams = [(hashlib.sha256(), hashlib.sha256()) for _ in self._columns]
        self.rows = 0

    def update(self, rows: pa.RecordBatch) -> None:
        """Take the next rows; their columns are those of the digest, in its order."""
        for number, column in enumerate(self._columns):
            lengths, values = self._streams[number]
            array = rows.column(number)
            if column.type.kind in {"string", "json"}:
                lengths.update(fixed_bytes(_filled(pc.binary_length(array), _MINUS_ONE), 4))
                values.update(text_bytes(_filled(array, _EMPTY)))
                continue
            lengths.update(fixed_bytes(array.is_valid().cast(pa.uint8()), 1))
            if column.type.kind == "bool":
                array = array.cast(pa.uint8())
            width = _WIDTHS[column.type.kind]
            values.update(fixed_bytes(_filled(array, constant(array.type, bytes(width))), width))
        self.rows += rows.num_rows

    def hexdigest(self) -> str:
        """Return the digest of all rows so far: 64 hexadecimal digits."""
        whole = hashlib.sha256(DIGEST_FORMAT)
        whole.update(self.rows.to_bytes(8, "big"))
        for column, (lengths, values) in zip(self._columns, self._streams, strict=True):
            for field in (column.name.encode(), str(column.type).encode(), lengths.digest(), values.digest()):
                whole.update(len(field).to_bytes(8, "big"))
                whole.update(field)
        return whole.hexdigest()


def _filled(array: pa.Array, value: pa.Scalar) -> pa.Array:
    """Return ``array`` with ``value`` for NULL: what stood under NULLs is gone."""
    return pc.fill_null(array, value) if array.null_count else array
