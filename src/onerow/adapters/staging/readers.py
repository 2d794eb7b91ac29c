"""Opens whatever a worker hands in: files by their suffix, tables and rows by what they are.

Everything comes out as record batches of bounded size, so that a file may be larger than memory.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pat

from onerow.adapters.staging.csvfile import CsvSource
from onerow.adapters.staging.jsonfile import NdjsonSource
from onerow.adapters.staging.sources import BATCH_ROWS, READ_ERRORS, Source, file_error, split
from onerow.core.pyrows import array_of, column_names, rows_to_batch
from onerow.errors import InputFileError, UsageError
from onerow.ports.rows import RowFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onerow.ports.rows import RowSource

FORMATS: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
CODECS: Final = {".gz": "gzip", ".zst": "zstd"}
COPY_BYTES: Final = 1024 * 1024
MAX_SCALE: Final = 76
_ARROW_MAGIC: Final = b"ARROW1"


def open_source(source: Any) -> RowSource:
    """Return the rows of ``source``.

    Args:
        source: a path (str or os.PathLike) of a CSV, TSV, NDJSON, Parquet or Arrow file, also
            with .gz or .zst behind; a pyarrow Table, RecordBatch or RecordBatchReader; a DataFrame
            of pandas (whose index is left out) or polars; anything with ``__arrow_c_stream__``; a
            sequence of mappings; a RowFile.

    Raises:
        UsageError: there is no such file, or it is of no kind we read.
        InputFileError: it cannot be read as what it is said to be.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(os.fsdecode(source)))
    if isinstance(source, RowFile):
        _check_readable(source.path, source.name)
        return _open_file(source.path, source.name, source.format)
    if isinstance(source, pa.Table):
        return _TableSource("table", source.schema, lambda: iter(source.to_batches(max_chunksize=BATCH_ROWS)))
    if isinstance(source, pa.RecordBatch):
        return _TableSource("record batch", source.schema, lambda: iter([source]))
    if isinstance(source, pa.RecordBatchReader):
        return _TableSource("record batch reader", source.schema, lambda: iter(source))
    pandas = sys.modules.get("pandas")  # only who has imported it can have its frames
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return _pandas_source(source)
    if hasattr(source, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(source)
        return _TableSource(type(source).__name__, reader.schema, lambda: iter(reader))
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        return _RowsSource(source)
    if hasattr(source, "collect") and not isinstance(source, Mapping):
        raise UsageError(f"A {type(source).__name__} has no rows yet; collect it first.")
    raise UsageError(
        f"Rows cannot be read from a value of type {type(source).__name__}.",
        hint="Give a path, an Arrow table, a pandas or polars DataFrame, or a list of dictionaries.",
    )


class _TableSource(Source):
    def __init__(self, name: str, schema: pa.Schema, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        super().__init__(name, tuple(schema.names))
        self._batches = batches

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches():
                yield from split(batch)
        except READ_ERRORS as error:
            raise file_error(self.name, "the rows cannot be read", error) from error


class _RowsSource(Source):
    def __init__(self, rows: Sequence[Any]) -> None:
        super().__init__("rows", column_names(rows))
        self._rows = rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self._rows), BATCH_ROWS):
            yield from split(rows_to_batch(self._rows[start : start + BATCH_ROWS], self.column_names))


def _pandas_source(frame: Any) -> RowSource:
    """Return the rows of a pandas DataFrame; NaN is NULL, as pandas means it."""
    unnamed = [name for name in frame.columns if not isinstance(name, str)]
    if unnamed:
        raise UsageError(f"The DataFrame's column name {unnamed[0]!r} is no text; rename it.")

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(frame), BATCH_ROWS):
            piece = frame.iloc[start : start + BATCH_ROWS]
            arrays = [_pandas_array(piece.iloc[:, number]) for number in range(piece.shape[1])]
            yield pa.RecordBatch.from_arrays(arrays, names=list(frame.columns))

    schema = pa.schema([pa.field(name, pa.null()) for name in frame.columns])
    return _TableSource("DataFrame", schema, batches)


def _pandas_array(series: Any) -> pa.Array:
    if series.dtype == object:
        missing = series.isna().tolist()
        return array_of([None if gone else v for gone, v in zip(missing, series.tolist(), strict=True)])
    found = pa.array(series, from_pandas=True)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _open_path(path: Path) -> RowSource:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    codec = CODECS.get(suffixes[-1]) if suffixes else None
    plain = suffixes[:-1] if codec else suffixes
    kind = FORMATS.get(plain[-1]) if plain else None
    if kind is None:
        raise UsageError(
            f"{path}: the suffix {''.join(suffixes[-2:] if codec else suffixes[-1:])!r} tells no format.",
            hint=f"Files end in {', '.join(FORMATS)}, and may be compressed ({', '.join(CODECS)}).",
        )
    _check_readable(path, str(path))
    return _open_file(path, str(path), kind, codec=codec, delimiter="\t" if plain[-1] == ".tsv" else ",")


def _open_file(path: Path, name: str, kind: str, *, codec: str | None = None, delimiter: str = ",") -> RowSource:
    def open_stream() -> Any:
        plain_file = pa.OSFile(str(path), "rb")
        return pa.CompressedInputStream(plain_file, codec) if codec else plain_file

    match kind:
        case "csv":
            return CsvSource(name, open_stream, delimiter=delimiter)
        case "ndjson":
            return NdjsonSource(name, open_stream)
        case "parquet":
            return _ParquetSource(name, _seekable(name, open_stream, compressed=codec is not None))
        case _:
            return _arrow_source(name, open_stream, compressed=codec is not None)


def _check_readable(path: Path, name: str) -> None:
    try:
        if path.is_dir():
            raise UsageError(f"{name} is a folder; name the files in it.")
        with path.open("rb") as file:
            if not file.read(1):
                raise InputFileError(f"{name}: the file is empty. Nothing was staged.")
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {name}.") from error
    except OSError as error:
        raise InputFileError(f"{name}: the file cannot be opened: {error.strerror}. Nothing was staged.") from error


def _seekable(name: str, open_stream: Callable[[], Any], *, compressed: bool) -> Any:
    """Return a stream that can seek: what is compressed is written out to a temporary file."""
    if not compressed:
        return open_stream()
    copy = tempfile.TemporaryFile(prefix="onerow-")  # noqa: SIM115 -- the source closes it
    try:
        with open_stream() as stream:
            shutil.copyfileobj(stream, copy, COPY_BYTES)
    except READ_ERRORS as error:
        copy.close()
        raise file_error(name, "the file cannot be decompressed", error) from error
    copy.seek(0)
    return copy


class _ParquetSource(Source):
    def __init__(self, name: str, stream: Any) -> None:
        super().__init__(name)
        self._stream = stream
        try:
            self._file = pq.ParquetFile(stream)
            self.column_names = tuple(self._file.schema_arrow.names)
        except READ_ERRORS as error:
            stream.close()
            raise file_error(name, "the file cannot be read as Parquet", error) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS):
                yield from split(batch)
        except READ_ERRORS as error:
            raise file_error(self.name, "the file cannot be read as Parquet", error) from error

    def close(self) -> None:
        self._file.close()
        self._stream.close()


def _arrow_source(name: str, open_stream: Callable[[], Any], *, compressed: bool) -> RowSource:
    try:
        with open_stream() as stream:
            head = bytes(stream.read(len(_ARROW_MAGIC)))
        is_file = head == _ARROW_MAGIC
        stream = _seekable(name, open_stream, compressed=compressed) if is_file else open_stream()
        return _ArrowSource(name, stream, is_file=is_file)
    except READ_ERRORS as error:
        raise file_error(name, "the file cannot be read as Arrow", error) from error


def _check_type(kind: pa.DataType) -> None:
    """Refuse a type that Arrow takes from a damaged file and then fails on in a way that ends the process."""
    if pat.is_decimal(kind) and abs(kind.scale) > MAX_SCALE:
        raise pa.ArrowInvalid(f"a decimal has the scale {kind.scale}")
    if pat.is_dictionary(kind):
        _check_type(kind.value_type)
    for number in range(kind.num_fields):
        _check_type(kind.field(number).type)


class _ArrowSource(Source):
    def __init__(self, name: str, stream: Any, *, is_file: bool) -> None:
        super().__init__(name)
        self._stream = stream
        self._is_file = is_file
        try:
            self._reader: Any = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
            for field in self._reader.schema:
                _check_type(field.type)
            self.column_names = tuple(self._reader.schema.names)
        except READ_ERRORS:
            stream.close()
            raise

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches():
                # Arrow believes what stands in the file: offsets that lead elsewhere would end the process.
                batch.validate(full=True)
                yield from split(batch)
        except READ_ERRORS as error:
            raise file_error(self.name, "the file cannot be read as Arrow", error) from error

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if self._is_file:
            return (self._reader.get_batch(number) for number in range(self._reader.num_record_batches))
        return iter(self._reader)

    def close(self) -> None:
        self._stream.close()
