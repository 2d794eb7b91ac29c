"""One Parquet file on its way to disk: written as a stream, hashed as it goes, synced at the end."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from onerow.adapters.staging.durable import remove
from onerow.errors import StagingError

if TYPE_CHECKING:
    from pathlib import Path

# What DuckDB reads in parallel, one row group a thread; its own writer's size too.
ROW_GROUP_ROWS: Final = 122_880
ROW_GROUP_BYTES: Final = 64 * 1024 * 1024
WRITE_BUFFER_BYTES: Final = 1024 * 1024


class _HashingFile(io.RawIOBase):
    """A file for Arrow to append to, which knows the SHA-256 of what was written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=WRITE_BUFFER_BYTES)
        self._hash = hashlib.sha256()
        self._given_up = False
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = memoryview(data)
        if not self._given_up:
            self._hash.update(raw)
            self._file.write(raw)
            self.size_bytes += raw.nbytes
        return raw.nbytes

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        if not self._given_up and not self._file.closed:
            self._file.flush()

    def sync(self) -> str:
        """Make the content durable, close the file and return its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def give_up(self) -> None:
        """Close the file; what is still written goes nowhere."""
        self._given_up = True
        with contextlib.suppress(OSError):  # its buffer may not fit on the disk; the file goes anyway
            self._file.close()


class PartFile:
    """A Parquet file that is being written.

    Attributes:
        path: where it is.
        size_bytes, sha256: of the whole file, once ``finish`` has returned.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.size_bytes = 0
        self.sha256 = ""
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._file = _HashingFile(path)
        self._writer: Any = pq.ParquetWriter(self._file, schema, compression="zstd", compression_level=1)

    def write(self, rows: pa.RecordBatch) -> None:
        """Take the next rows; a row group is written when there are enough of them."""
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += rows.nbytes
        if self._waiting_rows >= ROW_GROUP_ROWS or self._waiting_bytes >= ROW_GROUP_BYTES:
            self._write_groups(last=False)

    def _write_groups(self, *, last: bool) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        whole = (
            table.num_rows
            if last or self._waiting_bytes >= ROW_GROUP_BYTES
            else (table.num_rows // ROW_GROUP_ROWS * ROW_GROUP_ROWS)
        )
        try:
            self._writer.write_table(table.slice(0, whole), row_group_size=ROW_GROUP_ROWS)
        except pa.ArrowException as error:
            raise StagingError(f"Cannot write a part as Parquet in {self.path}: {error}.") from error
        rest = table.slice(whole)
        self._waiting = rest.to_batches()
        self._waiting_rows = rest.num_rows
        self._waiting_bytes = rest.nbytes

    def finish(self) -> None:
        """Write what is left, and make the file durable."""
        if self._waiting_rows:
            self._write_groups(last=True)
        self._writer.close()
        self.sha256 = self._file.sync()
        self.size_bytes = self._file.size_bytes

    def abandon(self) -> None:
        """Close and remove the file. Idempotent."""
        self._file.give_up()
        self._writer.close()
        self._waiting = []
        remove(self.path)
