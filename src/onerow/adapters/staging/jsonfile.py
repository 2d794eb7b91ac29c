"""NDJSON files: one JSON object a line, numbers digit by digit."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.staging.sources import BATCH_BYTES, READ_ERRORS, Source, file_error, split
from onerow.core.pyrows import rows_to_batch
from onerow.errors import InputFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

CHUNK_BYTES: Final = 1024 * 1024
BATCH_LINES: Final = 16_384
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
MAX_PROBLEMS: Final = 10


class _LineError(ValueError):
    """Why a line is no object of ours."""


class NdjsonSource(Source):
    """A file of one JSON object a line; blank lines are passed over.

    The file is read twice: the columns are the union of all objects' members, and a part has
    the same columns from its first row on.
    """

    def __init__(self, name: str, open_stream: Callable[[], Any]) -> None:
        super().__init__(name)
        self._open_stream = open_stream
        self.column_names = self._scan()

    def _scan(self) -> tuple[str, ...]:
        names: dict[str, None] = {}
        problems: list[str] = []
        lines = 0
        for number, line in self._lines():
            lines += 1
            try:
                row = _parse(line, _PLAIN_DECODER)  # doubles and digits are the second reading's
            except _LineError as error:
                problems.append(f"line {number}: {error}")
                if len(problems) == MAX_PROBLEMS:
                    break
                continue
            if row.keys() - names.keys():
                names.update(dict.fromkeys(row))
        if problems:
            raise InputFileError(
                f"{self.name}: not every line is a JSON object: {'; '.join(problems)}.",
                hint="Correct these lines. Nothing was staged.",
            )
        if lines == 0:
            raise InputFileError(
                f"{self.name}: the file is empty; an NDJSON file has one JSON object a line.",
                hint="Nothing was staged.",
            )
        if not names:
            raise InputFileError(f"{self.name}: no object has any members. Nothing was staged.")
        return tuple(names)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows.

        Raises:
            InputFileError: naming the line; the file has changed since it was opened, or is damaged.
        """
        rows: list[dict[str, Any]] = []
        size_bytes = 0
        for number, line in self._lines():
            try:
                rows.append(_parse(line, _EXACT_DECODER))
            except _LineError as error:
                raise InputFileError(f"{self.name}: line {number}: {error}. Nothing was staged.") from error
            size_bytes += len(line)
            if len(rows) >= BATCH_LINES or size_bytes >= BATCH_BYTES:
                yield from split(rows_to_batch(rows, self.column_names))
                rows, size_bytes = [], 0
        if rows:
            yield from split(rows_to_batch(rows, self.column_names))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of each line that is not blank."""
        number = 0
        rest = b""
        try:
            with self._open_stream() as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    lines = (rest + chunk).split(b"\n")
                    rest = lines.pop()
                    if len(rest) > MAX_LINE_BYTES:
                        raise InputFileError(
                            f"{self.name}: line {number + len(lines) + 1} is longer than "
                            f"{MAX_LINE_BYTES // 1024 // 1024} MiB. Nothing was staged.",
                            hint="NDJSON has one object a line; a list of objects in one line is no NDJSON.",
                        )
                    for line in lines:
                        number += 1
                        if line.strip():
                            yield number, line if number > 1 else line.removeprefix(b"\xef\xbb\xbf")
        except READ_ERRORS as error:
            raise file_error(self.name, "the file cannot be read", error) from error
        if rest.strip():
            yield number + 1, rest if number else rest.removeprefix(b"\xef\xbb\xbf")


def _parse(line: bytes, decoder: json.JSONDecoder) -> dict[str, Any]:
    try:
        row = decoder.decode(line.decode())
    except UnicodeDecodeError as error:
        raise _LineError(f"is not valid UTF-8 (byte {error.start + 1})") from error
    except json.JSONDecodeError as error:
        raise _LineError(f"is no JSON ({error.msg} at character {error.pos + 1})") from error
    except RecursionError as error:
        raise _LineError("is nested too deeply") from error
    except _LineError:
        raise
    except (ValueError, InvalidOperation) as error:
        raise _LineError("has a number that is too long to read") from error
    if not isinstance(row, dict):
        raise _LineError("is no JSON object ({...})")
    return row


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise _LineError(f"has the member {double!r} twice")
    return members


def _refuse_constant(name: str) -> None:
    raise _LineError(f"has {name}, which is not JSON")


_PLAIN_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_EXACT_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=Decimal, parse_constant=_refuse_constant
)
