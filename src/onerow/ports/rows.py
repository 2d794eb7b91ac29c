"""Where rows come from, and the checks that a table declares for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

RowFormat = Literal["csv", "ndjson", "parquet", "arrow"]


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows whose format is known from elsewhere than its name.

    Attributes:
        path: where it is; it is not compressed.
        name: what to call it in errors and in quarantine.
    """

    path: Path
    format: RowFormat
    name: str


class RowSource(Protocol):
    """Rows of a file or of a program, batch by batch, in bounded memory."""

    @property
    def name(self) -> str:
        """What to call it in an error: a file's path, or what kind of object it is."""
        ...

    @property
    def text_mode(self) -> bool:
        """Whether every value is text, as in CSV."""
        ...

    @property
    def column_names(self) -> Sequence[str]:
        """The columns, in order."""
        ...

    @property
    def row_word(self) -> str:
        """What its rows are called in an error, "row" or "line"."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return the rows in order.

        Raises:
            InputFileError: the source is not what it is said to be.
        """
        ...

    def close(self) -> None:
        """Let go of the source."""
        ...


class RowChecks(Protocol):
    """The conditions that a table declares for its rows."""

    def violations(self, rows: pa.RecordBatch) -> Sequence[tuple[int, str]]:
        """Return (index of the row in ``rows``, name of the check) for each row that makes a check false."""
        ...
