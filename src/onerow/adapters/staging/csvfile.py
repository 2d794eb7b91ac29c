"""CSV files: every field is text, an empty one is NULL, a quoted empty one is ''."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.csv

from onerow.adapters.staging.sources import READ_ERRORS, Source, file_error, split
from onerow.errors import InputFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Small blocks take less memory at the same speed; large ones are for rows that need them.
BLOCKS_BYTES: Final = (1024 * 1024, 64 * 1024 * 1024)
HEADER_BYTES: Final = 512 * 1024
MAX_RAGGED: Final = 10
_OTHER_ENCODINGS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class _CheckedStream(io.RawIOBase):
    """A stream on its way into Arrow: counts quotes, ends the last line, knows the first bytes.

    Arrow takes a quoted field that is never closed for one that ends with the file; an odd
    number of quotes betrays it. Arrow does not read a header without a line end either.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._next: bytes | None = None
        self.quotes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        # One block ahead, so that the line end that is missing comes with the last line.
        step = max(size - 1, 1) if size >= 0 else None
        if self._next is None:
            self._next = bytes(self._stream.read(step))
            _check_encoding(self._next)
        data, self._next = self._next, bytes(self._stream.read(step))
        self.quotes += data.count(b'"')
        if data and not self._next and data[-1:] not in {b"\n", b"\r"}:
            data += b"\n"
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()


class _OtherEncodingError(ValueError):
    """The file's first bytes tell that it is not UTF-8."""


class _RowTooLongError(ValueError):
    """A row is longer than a block."""


def _check_encoding(head: bytes) -> None:
    encoding = _OTHER_ENCODINGS.get(head[:2])
    if encoding is not None:
        raise _OtherEncodingError(encoding)


class CsvSource(Source):
    """A CSV file with a header; ``open_stream`` opens its bytes anew each time."""

    text_mode = True

    def __init__(self, name: str, open_stream: Callable[[], Any], *, delimiter: str) -> None:
        super().__init__(name)
        self._open_stream = open_stream
        self._delimiter = delimiter
        self._ragged: list[Any] = []
        self._stream: _CheckedStream | None = None
        self.column_names = self._read_header()

    def _read_header(self) -> tuple[str, ...]:
        with _CheckedStream(self._open_stream()) as stream:
            try:
                head = stream.read(HEADER_BYTES)
                if not head.strip(b"\xef\xbb\xbf\r\n "):
                    raise InputFileError(
                        f"{self.name}: the file is empty; a CSV file begins with the names of its columns.",
                        hint="Nothing was staged. A file with only a header stages nothing and is fine.",
                    )
                return tuple(self._reader(io.BytesIO(head + b"\n"), {}).schema.names)
            except UnicodeDecodeError as error:
                raise InputFileError(
                    f"{self.name}: the header is not valid UTF-8 (byte {error.start + 1}).",
                    hint="Save the file as UTF-8. Nothing was staged.",
                ) from error
            except _OtherEncodingError as error:
                raise self._wrong_encoding(error) from error
            except READ_ERRORS as error:
                raise self._parse_error(error) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows; all fields are bytes.

        Raises:
            InputFileError: rows of other lengths than the header (the first ten), a quoted field that
                is never closed, a file that ends too early.
        """
        done = 0
        for block_bytes in BLOCKS_BYTES:
            try:
                for batch in self._read(block_bytes, skip=done):
                    done += batch.num_rows
                    yield batch
            except _RowTooLongError:
                continue  # the file once more, in larger blocks, from the row on that was too long
            else:
                return
        raise InputFileError(
            f"{self.name}: a row is longer than {BLOCKS_BYTES[-1] // 1024 // 1024} MiB.",
            hint="Write such values as Parquet or NDJSON. Nothing was staged.",
        )

    def _read(self, block_bytes: int, *, skip: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows behind the first ``skip``, which were yielded already."""
        self.close()
        self._ragged.clear()
        types = dict.fromkeys(self.column_names, pa.binary())
        try:
            self._stream = _CheckedStream(self._open_stream())
            reader = self._reader(self._stream, types, block_bytes=block_bytes)
            if tuple(reader.schema.names) != self.column_names:
                raise InputFileError(f"{self.name}: the header has changed while it was read, or is too long.")
            for batch in reader:
                if self._ragged:
                    break
                yield from split(batch.slice(min(skip, batch.num_rows)))
                skip -= min(skip, batch.num_rows)
            quotes = self._stream.quotes
        except READ_ERRORS as error:
            if self._ragged:
                raise self._ragged_error() from error
            raise self._parse_error(error) from error
        finally:
            self.close()
        if quotes % 2:
            raise self._open_quote_error()
        if self._ragged:
            raise self._ragged_error()

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _reader(self, stream: Any, types: dict[str, pa.DataType], *, block_bytes: int = BLOCKS_BYTES[0]) -> Any:
        def on_ragged(row: Any) -> str:
            self._ragged.append(row)
            return "skip" if not types or len(self._ragged) < MAX_RAGGED else "error"

        return pa.csv.open_csv(
            stream,
            # One thread: only then Arrow knows the numbers of rows that it cannot parse.
            read_options=pa.csv.ReadOptions(block_size=block_bytes, use_threads=False),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._delimiter,
                newlines_in_values=True,
                # In a file of one column an empty line is a row.
                ignore_empty_lines=len(types) != 1,
                invalid_row_handler=on_ragged,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )

    def _ragged_error(self) -> InputFileError:
        lines = self._lines_of({row.number for row in self._ragged})
        rows = [f"{lines.get(row.number, f'row {row.number}')}: {row.actual_columns} fields" for row in self._ragged]
        listed = "; ".join(rows) + (" ..." if len(rows) >= MAX_RAGGED else "")
        return InputFileError(
            f"{self.name}: the header has {len(self.column_names)} fields, these rows have not: {listed}.",
            hint="A field with a comma or a line break must stand in quotes. Nothing was staged.",
        )

    def _parse_error(self, error: BaseException) -> InputFileError:
        """Return what is wrong; raise _RowTooLongError if it is but a row longer than a block."""
        found = self._find_open_quote()
        if found is not None:
            return self._open_quote_error(found)
        if "straddling" in str(error):
            raise _RowTooLongError from error
        return file_error(self.name, "the file cannot be read as CSV", error)

    def _wrong_encoding(self, error: _OtherEncodingError) -> InputFileError:
        return InputFileError(
            f"{self.name}: the file is encoded as {error}, not as UTF-8.",
            hint="Save it as UTF-8. Nothing was staged.",
        )

    def _open_quote_error(self, line: int | None = None) -> InputFileError:
        line = self._find_open_quote() if line is None else line
        where = f"the quoted field in the row that begins in line {line}" if line else "a quoted field"
        return InputFileError(
            f"{self.name}: {where} is never closed (or longer than {BLOCKS_BYTES[-1] // 2**20} MiB), "
            "or a quote stands in a field that is not quoted.",
            hint='A quote within a quoted field is written twice (""). Nothing was staged.',
        )

    def _find_open_quote(self) -> int | None:
        """Return the line in which the row begins that never ends, None if there is none."""
        start = 1
        try:
            for end in self._record_ends(strict=True):
                start = end + 1
        except csv.Error:
            return start
        except READ_ERRORS:
            return None  # the file is damaged, and that is what is to be told
        return None

    def _lines_of(self, numbers: set[int]) -> dict[int, str]:
        """Return the lines in which records begin; they are counted as Arrow does, from the header on."""
        found: dict[int, str] = {}
        start = number = 1
        try:
            for end in self._record_ends(strict=False):
                if number in numbers:
                    found[number] = f"line {start}"
                    if len(found) == len(numbers):
                        break
                start = end + 1
                number += 1
        except (csv.Error, *READ_ERRORS):
            return found  # the rows without a line are told by their number
        return found

    def _record_ends(self, *, strict: bool) -> Iterator[int]:
        """Yield the last line of each record, blank ones left out, as Python's reader sees them.

        Only for errors: it is slow, but it knows lines, where Arrow knows rows.
        """
        limit = csv.field_size_limit(2 * BLOCKS_BYTES[-1])
        try:
            with io.TextIOWrapper(
                io.BufferedReader(_Readable(self._open_stream())), "utf-8", errors="replace", newline=""
            ) as lines:
                reader = csv.reader(lines, delimiter=self._delimiter, strict=strict)
                for record in reader:
                    if record:
                        yield reader.line_num
        finally:
            csv.field_size_limit(limit)


class _Readable(io.RawIOBase):
    """Any stream with ``read`` as one that Python's text layer takes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
