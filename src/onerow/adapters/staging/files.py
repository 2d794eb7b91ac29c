"""The part store over a folder of Parquet files.

::

    <root>/.tmp/                                   what is being written; nobody reads it
    <root>/<slug of table>/<slug of batch>/
        <part>.<nonce>.parquet                     the rows (.part below the data of a lake, see ``suffix``)
        <part>.json, <part>.2.json, ...            the manifest; the part exists when this does
        <part>.<nonce>.retired                     empty: the ledger names it for all its partitions
        <part>.<nonce>.discarded                   given up by a person: reason, by, at
    <root>/<slug of table>/quarantine/             bad rows, see ``quarantine``

The rows are written and synced under a temporary name, renamed into place, and then the manifest is
published by exclusive creation. A crash before that leaves files that nobody reads (``remains``),
after that the whole part. Files are never changed once they have their name.

A part whose data is gone (purged, discarded, lost) and that is staged again gets the next manifest,
``<part>.2.json``; the one with the highest number counts. Markers name the data they speak of, so
they say nothing about data that comes later: staging again is one exclusive creation, with no
marker to remove and nothing to replace, and of two who do it at once one finds the other's.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from onerow.adapters.staging import quarantine
from onerow.adapters.staging.durable import (
    make_folder,
    publish_exclusively,
    remove,
    staging_errors,
    sync_folder,
    write_json,
)
from onerow.adapters.staging.layout import (
    DATA,
    MANIFEST,
    TEMPORARY,
    folders_in,
    manifest_path,
    marker,
    names_in,
    relative_name,
)
from onerow.adapters.staging.partwriter import FilePartWriter
from onerow.core.names import check_name, slug
from onerow.core.parts import PartManifest, PartState, manifest_from_json
from onerow.errors import PartCorruptError, PartGoneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from onerow.core.parts import BadRow, Quarantined
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock, Ids

    IsMerged = Callable[[str, str, str, tuple[str | None, ...]], bool]

HASH_BYTES: Final = 1024 * 1024


def _never_merged(table: str, batch: str, part_id: str, partitions: tuple[str | None, ...]) -> bool:  # noqa: ARG001
    """Stand where no ledger can be asked: staging again is always safe, the ledger decides later."""
    return False


class FileParts:
    """Parts as Parquet files in a folder; many processes may use it at once.

    Args:
        root: the folder; it is made when the first part is written.
        is_merged: asks the ledger whether a part, by table, batch, identity and partitions, is merged
            for all of them. It is asked when a part is staged again whose data is gone already; what
            it raises ends the staging.
        suffix: of the files with rows that are written; files with either suffix are read.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        clock: Clock,
        ids: Ids,
        is_merged: IsMerged | None = None,
        suffix: Literal[".parquet", ".part"] = ".parquet",
    ) -> None:
        self.root = Path(root)
        self.suffix = suffix
        self.is_merged: IsMerged = is_merged or _never_merged
        self._clock = clock
        self._ids = ids

    # --- writing -------------------------------------------------------------------------

    def writer(self, spec: TableSpec, *, batch: str, worker: str, columns: Sequence[str]) -> FilePartWriter:
        """Begin a part.

        Raises:
            UsageError: the batch or the worker has no proper name, or a column is not declared.
        """
        unknown = [name for name in columns if name not in spec.by_name]
        if unknown:
            raise UsageError(f"Table {spec.name!r} has no column {unknown[0]!r}.")
        return FilePartWriter(
            self,
            spec,
            batch=check_name(batch, "batch"),
            worker=check_name(worker, "worker"),
            columns=tuple(columns),
        )

    def temporary(self, suffix: str) -> Path:
        """Return a new name in the folder for what is being written; the folder is made."""
        make_folder(self.root / TEMPORARY)
        return self.root / TEMPORARY / f"{self.nonce()}{suffix}"

    def nonce(self) -> str:
        """Return letters and digits that nobody else has."""
        return re.sub(r"[^A-Za-z0-9]", "", self._ids.new_id("d"))

    def now_text(self) -> str:
        """Return the time for people to read."""
        return self._clock.utc_now().isoformat()

    def folder(self, table: str, batch: str) -> Path:
        """Return the folder of a batch; two names never share one."""
        return self.table_folder(table) / slug(batch)

    def table_folder(self, table: str) -> Path:
        """Return the folder of a table; two names never share one."""
        return self.root / slug(table)

    # --- reading -------------------------------------------------------------------------

    def batches(self, table: str) -> list[str]:
        """Return the batches of ``table`` that have manifests, sorted."""
        with staging_errors("list the batches", self.root):
            found = [self._batch_name(folder, table) for folder in folders_in(self.root / slug(table))]
        return sorted(name for name in found if name is not None)

    def parts(self, table: str, batch: str) -> list[PartManifest]:
        """Return the batch's parts in every state, sorted by identity."""
        with staging_errors("list the parts", self.root):
            return self._parts_in(self.folder(table, batch), table, batch)

    def current(self, folder: Path, part_id: str) -> tuple[int, PartManifest | None]:
        """Return the number of the manifest of a part that counts, and the manifest; (0, None) for none."""
        number = 0
        while manifest_path(folder, part_id, number + 1).exists():
            number += 1
        if number == 0:
            return 0, None
        return number, self.read(manifest_path(folder, part_id, number))

    def verify(self, part: PartManifest) -> Path:
        """Return the path of the part's data, which is what its manifest promises.

        Raises:
            PartGoneError: there is no such file.
            PartCorruptError: size or SHA-256 differ.
        """
        path = self.data_path(part)
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            with path.open("rb") as file:
                while chunk := file.read(HASH_BYTES):
                    digest.update(chunk)
                    size_bytes += len(chunk)
        except FileNotFoundError as error:
            raise PartGoneError(
                f"The data of part {part.part_id} of worker {part.worker!r} is gone: {path}.",
                hint="If the ledger does not name the part, have the worker stage its rows again.",
            ) from error
        except OSError as error:
            with staging_errors("read a part", path):
                raise error from None
        if size_bytes != part.size_bytes or digest.hexdigest() != part.data_digest:
            raise PartCorruptError(
                f"The data of part {part.part_id} of worker {part.worker!r} is not what was staged: {path} has "
                f"{size_bytes} bytes where {part.size_bytes} were written, or others.",
                hint="It was not merged. Remove the file and have the worker stage its rows again.",
            )
        return path

    def data_path(self, part: PartManifest) -> Path:
        """Return where the part's data is.

        Raises:
            PartCorruptError: the manifest names a place that is not the part's.
        """
        folder = self.folder(part.table, part.batch)
        name = part.data.rpartition("/")[2]
        match = DATA.fullmatch(name)
        if match is None or match[1] != part.part_id or part.data != relative_name(folder, name):
            raise PartCorruptError(f"The manifest of part {part.part_id} names {part.data!r} as its data.")
        return folder / name

    # --- after the merge -----------------------------------------------------------------

    def retire(self, parts: Iterable[PartManifest]) -> int:
        """Mark parts as merged, by identity. Returns how many were not. Idempotent."""
        return self._change("retire parts", parts, self._retire)

    def retired(self, table: str, *, older_than_s: float) -> list[PartManifest]:
        """Return the parts that were retired at least so long ago and still have data.

        The time is the file system's own: a mark's age is its difference to a file written now.
        """
        with staging_errors("list retired parts", self.root):
            found = [
                part
                for folder in folders_in(self.root / slug(table))
                for part in self._parts_in(folder, table, None)
                if part.state == "retired"
            ]
            if not found:
                return []
            now_s = self._now_s()
            return [
                part
                for part in found
                if now_s - marker(self.data_path(part), "retired").stat().st_mtime >= older_than_s
            ]

    def purge(self, parts: Iterable[PartManifest]) -> int:
        """Remove the data of retired parts, by identity. Returns how many had data. Idempotent."""
        return self._change("purge parts", parts, self._purge)

    def discard(self, parts: Iterable[PartManifest], *, reason: str, by: str) -> int:
        """Give up parts that were never merged: their data goes, their names and the reason stay.

        Returns:
            How many were not discarded before. Idempotent. A part that is retired is left alone.
        """
        mark = {"reason": reason, "by": by, "at": self.now_text()}

        def discard(data: Path) -> bool:
            if marker(data, "retired").exists():
                return False
            changed = not marker(data, "discarded").exists() and self._mark_discarded(data, mark)
            sync_folder(data.parent)  # the mark is durable before the data goes
            remove(data)
            return changed

        return self._change("discard parts", parts, discard)

    # --- bad rows ------------------------------------------------------------------------

    def quarantined(self, table: str) -> list[Quarantined]:
        """Return what was put aside for ``table``, by batch, worker and identity."""
        return quarantine.entries(self, table)

    def quarantined_rows(self, table: str, quarantine_id: str) -> Iterator[BadRow]:
        """Return the rows of one entry, by position, after its file was checked."""
        return quarantine.rows_of(self, table, quarantine_id)

    # --- what is left over ---------------------------------------------------------------

    def remains(self, *, older_than_s: float) -> list[str]:
        """Return what crashed writers have left behind and nobody can see."""
        with staging_errors("look for remains", self.root):
            return [str(path) for path in self._remains(older_than_s)]

    def remove_remains(self, *, older_than_s: float) -> list[str]:
        """Remove what ``remains`` returns, and return it.

        Choose a time that no writer takes. One that was paused for longer finds its data gone when it
        publishes, and fails; it is not told that its part was staged.
        """
        with staging_errors("remove remains", self.root):
            return [str(path) for path in self._remains(older_than_s) if remove(path)]

    def probe(self) -> list[str]:
        """Check that parts can be written. Returns facts for ``doctor``.

        Raises:
            StagingError: they cannot.
        """
        with staging_errors("write", self.root):
            first, second = self.temporary(".probe"), self.temporary(".probe")
            write_json(first, {})
            try:
                second.hardlink_to(first)
                links = "yes"
            except OSError as error:
                links = f"no ({error.strerror}); names are given by renaming"
            finally:
                remove(first)
                remove(second)
            sync_folder(self.root / TEMPORARY)
        return [f"staging folder {self.root} can be written", f"hard links: {links}"]

    # --- steps ---------------------------------------------------------------------------

    def _change(self, what: str, parts: Iterable[PartManifest], change: Callable[[Path], bool]) -> int:
        changed = 0
        folders: set[Path] = set()
        with staging_errors(what, self.root):
            for part in parts:
                data = self.data_path(part)
                if data.parent.is_dir():
                    changed += change(data)
                    folders.add(data.parent)
            for folder in folders:
                sync_folder(folder)
        return changed

    def _retire(self, data: Path) -> bool:
        """Make the mark, which is there or not: nobody reads it, its age is the file's, the ledger is the truth.

        One sync of the folder, at the end, is enough. Should a mark be lost before, the part is told as
        staged, which is safe: the ledger names it, and the next consolidation of the batch marks it again.
        """
        try:
            marker(data, "retired").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _purge(self, data: Path) -> bool:
        if not marker(data, "retired").exists():
            return False
        sync_folder(data.parent)  # another process's mark too is durable before the data goes
        return remove(data)

    def _mark_discarded(self, data: Path, content: dict[str, str]) -> bool:
        temporary = self.temporary(".mark")
        write_json(temporary, content)
        return publish_exclusively(temporary, marker(data, "discarded"))

    def _batch_name(self, folder: Path, table: str) -> str | None:
        """Return the name of the batch whose parts are in ``folder``; its first good manifest tells."""
        damaged: PartCorruptError | None = None
        for path in sorted(folder.iterdir()):
            if MANIFEST.fullmatch(path.name):
                try:
                    manifest = self.read(path)
                except PartCorruptError as error:
                    damaged = error
                    continue
                if self.folder(table, manifest.batch) == folder:
                    return manifest.batch
        if damaged is not None:
            raise damaged
        return None

    def _parts_in(self, folder: Path, table: str, batch: str | None) -> list[PartManifest]:
        newest: dict[str, int] = {}
        for name in names_in(folder):
            match = MANIFEST.fullmatch(name)
            if match:
                newest[match[1]] = max(newest.get(match[1], 0), int(match[2] or 1))
        parts = [self.read(manifest_path(folder, part_id, newest[part_id])) for part_id in sorted(newest)]
        for part in parts:
            expected = self.folder(table, part.batch if batch is None else batch)
            if part.table != table or (batch is not None and part.batch != batch) or expected != folder:
                raise PartCorruptError(
                    f"The manifest of part {part.part_id} in {folder} is one of table {part.table!r}, batch "
                    f"{part.batch!r}: files were moved by hand."
                )
        return parts

    def read(self, path: Path) -> PartManifest:
        """Return the manifest in the file ``path``, with the state of its part.

        Raises:
            PartCorruptError: it is damaged, or not the one its name says.
        """
        try:
            data = json.loads(path.read_bytes())
            manifest = manifest_from_json(data, state="staged", where=str(path))
        except (ValueError, RecursionError) as error:
            raise PartCorruptError(
                f"The manifest {path} is damaged: {error}.",
                hint="Nothing was merged or removed. Remove the file and have the worker stage its rows again.",
            ) from error
        match = MANIFEST.fullmatch(path.name)
        if match is None or match[1] != manifest.part_id:
            raise PartCorruptError(f"The manifest {path} is one of {manifest.part_id}: it was renamed by hand.")
        return replace(manifest, state=self._state(self.data_path(manifest)))

    def _state(self, data: Path) -> PartState:
        """Return the state of a part. Data goes after the mark is made, so it is looked for first."""
        has_data = data.exists()
        if marker(data, "retired").exists():
            return "retired" if has_data else "purged"
        return "discarded" if marker(data, "discarded").exists() else "staged"

    def _now_s(self) -> float:
        """Return the time of the file system that holds the parts."""
        path = self.temporary(".now")
        write_json(path, {})
        try:
            return path.stat().st_mtime
        finally:
            remove(path)

    def _remains(self, older_than_s: float) -> Iterator[Path]:
        if not self.root.is_dir():
            return
        now_s = self._now_s()
        candidates = [self.root / TEMPORARY / name for name in names_in(self.root / TEMPORARY)]
        for table in folders_in(self.root):
            for folder in folders_in(table):
                candidates += self._unnamed(folder)
            candidates += quarantine.unnamed(table / "quarantine")
        for path in candidates:
            try:
                age_s = now_s - path.stat().st_mtime
            except FileNotFoundError:
                continue  # its writer has finished meanwhile
            if age_s >= older_than_s:
                yield path

    def _unnamed(self, folder: Path) -> list[Path]:
        """Return data in ``folder`` that the manifests that count do not name, or that is discarded."""
        names = names_in(folder)
        named: set[str] = set()
        for name in names:
            match = MANIFEST.fullmatch(name)
            if match:
                _, part = self.current(folder, match[1])
                if part is not None and part.state != "discarded":
                    named.add(self.data_path(part).name)
        return [folder / name for name in names if DATA.fullmatch(name) and name not in named]
