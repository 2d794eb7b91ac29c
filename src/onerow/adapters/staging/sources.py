"""Row sources: rows from anywhere, as record batches of bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa

from onerow.errors import InputFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

BATCH_ROWS: Final = 65_536
BATCH_BYTES: Final = 32 * 1024 * 1024


class Source:
    """What all row sources share."""

    text_mode = False
    row_word = "row"

    def __init__(self, name: str, column_names: tuple[str, ...] = ()) -> None:
        self.name = name
        self.column_names = column_names

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def split(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield ``batch`` in pieces of bounded size; a piece has at least one row."""
    if batch.num_rows == 0:
        return
    try:
        size_bytes = batch.nbytes
    except pa.ArrowException:  # pyarrow 17 does not know the size of views
        size_bytes = 0
    row_bytes = max(1, size_bytes // batch.num_rows)
    step = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


def file_error(name: str, what: str, cause: BaseException, hint: str = "") -> InputFileError:
    """Return the error for a file that cannot be read; ``cause`` says the rest, in one line."""
    detail = " ".join(str(cause).split()) or type(cause).__name__
    return InputFileError(
        f"{name}: {what}: {detail[:200].rstrip('.')}. Nothing was staged.",
        hint=hint or "Have the file written again, or correct it.",
    )


READ_ERRORS: Final = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, MemoryError)
"""What reading a damaged file may raise; Arrow's own I/O errors are OSErrors."""
