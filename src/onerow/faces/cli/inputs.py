"""The files that a command is given: standard input too, and a batch's name made from their content."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from onerow.errors import InputFileError, OnerowError, UsageError
from onerow.faces.cli import failures
from onerow.faces.cli.output import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onerow.core.parts import StagedPart
    from onerow.faces.cli.output import Printer
    from onerow.faces.cli.progress import Meter
    from onerow.services.store import Store

STDIN: Final = "-"
FORMATS: Final = ("csv", "ndjson", "parquet", "arrow")
COPY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Input:
    """A file that was handed in.

    Attributes:
        label: what the one who handed it in calls it.
        worker: the worker's name unless another is given; else the file's own name.
    """

    label: str
    path: Path
    worker: str = ""


@contextmanager
def named(files: Sequence[str], stdin_format: str | None) -> Iterator[list[Input]]:
    """Have every file under a path until the block ends; standard input is copied to one.

    Raises:
        UsageError: standard input is named twice, or without its format.
    """
    if STDIN not in files:
        if stdin_format is not None:
            raise UsageError("--format is for standard input; a file's format is told by its suffix.")
        yield [Input(file, Path(file)) for file in files]
        return
    if list(files).count(STDIN) > 1:
        raise UsageError("Standard input can be read once only.")
    if stdin_format is None:
        raise UsageError(f"Say with --format what comes on standard input: {', '.join(FORMATS)}.")
    if sys.stdin is None:
        raise UsageError("Standard input is closed.")
    with tempfile.TemporaryDirectory(prefix="onerow-") as folder:
        copy = Path(folder) / f"stdin.{stdin_format}"
        with copy.open("wb") as out:
            shutil.copyfileobj(sys.stdin.buffer, out, COPY_BYTES)
        yield [
            Input("standard input", copy, worker="stdin") if file == STDIN else Input(file, Path(file))
            for file in files
        ]


def derived_batch(files: Sequence[Input]) -> str:
    """Return a batch's name that says what is in the files: the same bytes, in any order, are the same batch.

    It is ``load-`` and 16 digits of a SHA-256: a file's own, or of several files' sorted ones.

    Raises:
        UsageError: there is no such file.
        InputFileError: it cannot be read.
    """
    digests = sorted(_digest(file.path) for file in files)
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    return f"load-{whole.hex()[:16]}"


def _digest(file: Path) -> bytes:
    state = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(COPY_BYTES):
                state.update(chunk)
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {file}.") from error
    except IsADirectoryError as error:
        raise UsageError(f"{file} is a folder; name the files in it.") from error
    except OSError as error:
        raise InputFileError(f"{file}: the file cannot be read: {error.strerror}. Nothing was staged.") from error
    return state.digest()


class Staging:
    """Stages files one by one, tells of each, and goes on when one fails."""

    def __init__(self, store: Store, printer: Printer, *, table: str, batch: str, worker: str | None) -> None:
        self._store = store
        self._printer = printer
        self._table = table
        self._batch = batch
        self._worker = worker
        self.parts: list[StagedPart] = []
        self.errors: list[OnerowError] = []
        self.files: list[dict[str, Any]] = []

    def stage(self, files: Sequence[Input], meter: Meter) -> None:
        """Stage each file as a part of its own."""
        self._store.table(self._table)  # a table that is not there is told once, not for each file
        for file in files:
            meter.begin(f"staging {file.label}")
            worker = self._worker or file.worker or file.path.name
            try:
                part = self._store.stage(self._table, file.path, batch=self._batch, worker=worker)
            except OnerowError as error:
                error.args = (error.message.replace(str(file.path), file.label),)
                self.errors.append(error)
                self.files.append({"file": file.label, "status": "failed", **failures.to_json(error)})
                continue
            self.parts.append(replace(part, source=file.label))
            self.files.append(
                {
                    "file": file.label,
                    "status": part.status,
                    "part": part.part_id,
                    "worker": part.worker,
                    "rows": part.rows,
                    "partitions": dict(part.partitions),
                    "size_bytes": part.size_bytes,
                    "rows_quarantined": part.rows_quarantined,
                    "quarantine": part.quarantine_id or None,
                }
            )

    def to_json(self) -> dict[str, Any]:
        """Return what was staged; with the gravest file's error if one failed."""
        data: dict[str, Any] = {
            "table": self._table,
            "batch": self._batch,
            "rows_quarantined": self.rows_quarantined,
            "files": self.files,
        }
        if self.errors:
            data |= failures.to_json(self.gravest)
        return data

    @property
    def rows_quarantined(self) -> int:
        """How many rows were put aside in all."""
        return sum(part.rows_quarantined for part in self.parts)

    @property
    def exit_code(self) -> int:
        """The gravest of all files': a file with nothing but bad rows is a finding, as one that was refused."""
        from onerow.errors import EXIT_FINDINGS, gravest

        only_bad = any(part.status == "empty" and part.rows_quarantined for part in self.parts)
        codes = [error.exit_code for error in self.errors]
        return gravest([*codes, EXIT_FINDINGS] if only_bad else codes)

    def warn(self) -> None:
        """Say on standard error what was put aside, and how to see it."""
        for part in self.parts:
            if part.rows_quarantined:
                others = "the others were staged" if part.rows else "it has no others, so nothing of it was staged"
                self._printer.warn(
                    f"{part.source}: {count(part.rows_quarantined, 'row')} put aside for breaking the table's row "
                    f"contract; {others}. Look: onerow quarantine show {part.quarantine_id}"
                )

    @property
    def gravest(self) -> OnerowError:
        """The gravest of the errors."""
        from onerow.errors import GRAVITY

        return min(self.errors, key=lambda error: GRAVITY.index(error.exit_code))

    def tell(self) -> None:
        """Print what was staged; errors go to standard error in either format."""
        if self._printer.json:
            self._printer.document(self.to_json())
        for part in self.parts if not self._printer.json else []:
            self._printer.line(_said(part), "" if part.status == "staged" else "dim")
        self.warn()
        for error in self.errors:
            failures.tell(self._printer, error)


def _said(part: StagedPart) -> str:
    if part.status == "empty" and part.rows_quarantined:
        return f"quarantined: {part.source}, {count(part.rows_quarantined, 'row')}; nothing was staged of it"
    if part.status == "empty":
        return f"empty: {part.source} has no rows; nothing was staged of it"
    partitions = f", {count(len(part.partitions), 'partition')}" if part.partitions.keys() - {""} else ""
    said = f"{part.status.replace('_', ' ')}: {part.source}, {count(part.rows, 'row')}{partitions}"
    aside = f", {count(part.rows_quarantined, 'bad row')} put aside" if part.rows_quarantined else ""
    return f"{said}, worker {part.worker!r}{aside}"
