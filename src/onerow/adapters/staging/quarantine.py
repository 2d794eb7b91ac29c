"""Bad rows in the folder of their table.

::

    <root>/<slug of table>/quarantine/
        <entry>.<nonce>.ndjson    the rows, one JSON object a line, by position
        <entry>.json              what they are; the entry exists when this does

Written like parts: the rows under a temporary name, synced, renamed, and then the entry is published.
No batch's folder is called ``quarantine``: a slug has a ``~``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.staging.durable import (
    make_folder,
    publish_exclusively,
    remove,
    staging_errors,
    sync_folder,
    write_json,
)
from onerow.adapters.staging.layout import names_in
from onerow.core.parts import Quarantined
from onerow.core.quarantine import QuarantineDigest, bad_row_from_json, bad_row_to_json
from onerow.errors import StagingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from onerow.adapters.staging.files import FileParts
    from onerow.core.parts import BadRow

FORMAT: Final = 1
HASH_BYTES: Final = 1024 * 1024
_ENTRY: Final = re.compile(r"(q[0-9a-f]{32})\.json")
_ROWS: Final = re.compile(r"(q[0-9a-f]{32})\.[A-Za-z0-9]+\.ndjson")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry and where its rows are: a file's name, its size in bytes and its SHA-256."""

    told: Quarantined
    data: str
    size_bytes: int
    digest: str


class QuarantineWriter:
    """Bad rows of one source on their way into the folder. For one thread."""

    def __init__(self, store: FileParts, *, table: str, batch: str, worker: str, source: str) -> None:
        self._store = store
        self._names = {"table": table, "batch": batch, "worker": worker, "source": source}
        self._content = QuarantineDigest(table=table, batch=batch, worker=worker)
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._path = store.temporary(".ndjson")
        self._file = self._path.open("xb")

    def write(self, rows: Sequence[BadRow]) -> None:
        """Take the next rows; OSError if they cannot be written."""
        self._content.update(rows)
        for row in rows:
            line = json.dumps(bad_row_to_json(row), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
            self._hash.update(line)
            self._size_bytes += self._file.write(line)

    def publish(self) -> Quarantined:
        """Make the entry exist, whole and durable; the same rows again find the one that is there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        folder = quarantine_folder(self._store, self._names["table"])
        make_folder(folder)
        quarantine_id = self._content.quarantine_id()
        target = folder / f"{quarantine_id}.json"
        known = _read(target) if target.exists() else None
        if known is not None and _is_whole(folder, known):
            sync_folder(folder)  # who published it may have crashed before its name was durable
            return known.told
        data = folder / f"{quarantine_id}.{self._store.nonce()}.ndjson"
        self._path.rename(data)
        sync_folder(folder)  # the rows have their name before the entry has
        told = Quarantined(
            quarantine_id=quarantine_id, rows=self._content.rows, put_aside_at=self._store.now_text(), **self._names
        )
        temporary = self._store.temporary(".json")
        write_json(
            temporary,
            {
                "format": FORMAT,
                **asdict(told),
                "data": data.name,
                "size_bytes": self._size_bytes,
                "data_digest": self._hash.hexdigest(),
            },
        )
        if known is not None:
            temporary.replace(target)  # the rows of the former one are lost: these are the same
        elif not publish_exclusively(temporary, target):
            remove(data)  # somebody else has put the same rows aside just now
            told = _read(target).told
        sync_folder(folder)
        return told

    def abandon(self) -> None:
        """Close and remove what is not published. Idempotent."""
        with contextlib.suppress(OSError):  # its buffer may not fit on the disk; the file goes anyway
            self._file.close()
        remove(self._path)


def quarantine_folder(store: FileParts, table: str) -> Path:
    """Return where the bad rows of a table are."""
    return store.table_folder(table) / "quarantine"


def entries(store: FileParts, table: str) -> list[Quarantined]:
    """Return the entries of a table, by batch, worker and identity."""
    folder = quarantine_folder(store, table)
    with staging_errors("list the quarantine", folder):
        found = [_read(folder / name).told for name in names_in(folder) if _ENTRY.fullmatch(name)]
    return sorted(found, key=lambda entry: (entry.batch, entry.worker, entry.quarantine_id))


def rows_of(store: FileParts, table: str, quarantine_id: str) -> Iterator[BadRow]:
    """Yield the rows of an entry, after its file was compared with its digest.

    Raises:
        UsageError: there is no such entry.
        StagingError: it cannot be read, or is not what was written.
    """
    folder = quarantine_folder(store, table)
    path = folder / f"{quarantine_id}.json"
    with staging_errors("read the quarantine", folder):
        if not _ENTRY.fullmatch(path.name) or not path.exists():
            raise UsageError(
                f"There is no quarantine entry {quarantine_id!r} of table {table!r}.",
                hint="`onerow quarantine list` names them.",
            )
        entry = _read(path)
        data = folder / entry.data
        if not _is_whole(folder, entry) or _digest(data) != entry.digest:
            raise _damaged(data, "its rows are lost or are not what was put aside")
        with data.open("rb") as file:
            for line in file:
                yield bad_row_from_json(json.loads(line))


def unnamed(folder: Path) -> list[Path]:
    """Return the files of rows in ``folder`` that no entry names: what crashed writers have left behind."""
    names = names_in(folder)
    named = {_read(folder / name).data for name in names if _ENTRY.fullmatch(name)}
    return [folder / name for name in names if _ROWS.fullmatch(name) and name not in named]


def _read(path: Path) -> _Entry:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data.pop("format") != FORMAT:
            raise _damaged(path, "it has a format that this version does not read")
        entry = _Entry(
            data=str(data.pop("data")),
            size_bytes=int(data.pop("size_bytes")),
            digest=str(data.pop("data_digest")),
            told=Quarantined(**data),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    match = _ROWS.fullmatch(entry.data)
    if match is None or f"{match[1]}.json" != path.name or entry.told.quarantine_id != match[1]:
        raise _damaged(path, "it is the entry of other rows")
    return entry


def _is_whole(folder: Path, entry: _Entry) -> bool:
    try:
        return (folder / entry.data).stat().st_size == entry.size_bytes
    except FileNotFoundError:
        return False


def _digest(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_BYTES):
            state.update(chunk)
    return state.hexdigest()


def _damaged(path: Path, why: str) -> StagingError:
    return StagingError(
        f"The quarantine entry {path} is damaged: {why}.",
        hint="Remove the entry and stage its source again; the good rows that were staged with it are not touched.",
    )
