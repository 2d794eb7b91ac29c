"""Rows on their way in, in bounded memory: beyond a bound they wait in a temporary file that has no name."""

from __future__ import annotations

import json
import tempfile
from typing import IO, TYPE_CHECKING, Final

import pyarrow as pa

from onerow.core.parts import BadRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MEMORY_BYTES: Final = 64 * 1024 * 1024


class RowSpool:
    """Record batches, first in memory and then in a file. A crash leaves nothing."""

    def __init__(self, schema: pa.Schema, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._schema = schema
        self._memory_bytes = memory_bytes
        self._batches: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None
        self.size_bytes = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Take a batch."""
        self._batches.append(rows)
        self._held_bytes += rows.nbytes
        self.size_bytes += rows.nbytes
        if self._held_bytes > self._memory_bytes:
            self._spill()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return all batches in order; may be called again."""
        if self._file is not None:
            self._spill()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._file.seek(0)
            with pa.ipc.open_stream(self._file) as reader:
                yield from reader
        yield from self._batches

    def close(self) -> None:
        """Forget everything. Idempotent."""
        self._batches = []
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="onerow-")  # noqa: SIM115 -- lives as long as the spool
            self._writer = pa.ipc.new_stream(self._file, self._schema)
        if self._writer is not None:
            for batch in self._batches:
                self._writer.write_batch(batch)
        self._batches, self._held_bytes = [], 0


class BadRowSpool:
    """Bad rows as lines of JSON, first in memory and then in a file."""

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=memory_bytes, mode="w+b")  # noqa: SIM115 -- as above
        self.rows = 0

    def add(self, rows: Sequence[BadRow]) -> list[bytes]:
        """Take rows; return them as the lines that were written."""
        lines = [
            json.dumps([row.position, list(row.problems), dict(row.values)], ensure_ascii=True).encode() for row in rows
        ]
        for line in lines:
            self._file.write(line + b"\n")
        self.rows += len(lines)
        return lines

    def read(self) -> Iterator[BadRow]:
        """Return all rows in order."""
        self._file.seek(0)
        for line in self._file:
            position, problems, values = json.loads(line)
            yield BadRow(position, tuple(problems), values)

    def close(self) -> None:
        """Forget everything. Idempotent."""
        self._file.close()
