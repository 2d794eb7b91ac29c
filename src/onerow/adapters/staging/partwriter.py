"""One part on its way into the folder, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from onerow.adapters.staging.durable import (
    make_folder,
    publish_exclusively,
    remove,
    staging_errors,
    sync_folder,
    write_json,
)
from onerow.adapters.staging.layout import manifest_path, relative_name
from onerow.adapters.staging.partfile import PartFile
from onerow.adapters.staging.quarantine import QuarantineWriter
from onerow.core.digest import ContentDigest
from onerow.core.parts import PartManifest, StagedPart, derive_part_id
from onerow.core.rows import arrow_schema, partition_counts
from onerow.errors import PartCorruptError, StagingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from onerow.adapters.staging.files import FileParts
    from onerow.core.parts import BadRow
    from onerow.core.spec import TableSpec

MAX_RACES: Final = 16


class FilePartWriter:
    """Writes rows to a temporary file and makes them a part. For one thread."""

    def __init__(self, store: FileParts, spec: TableSpec, *, batch: str, worker: str, columns: tuple[str, ...]) -> None:
        self._store = store
        self._spec = spec
        self._batch = batch
        self._worker = worker
        self._columns = [spec.by_name[name] for name in columns]
        self._schema = arrow_schema(self._columns)
        self._digest = ContentDigest(self._columns)
        self._partitions: dict[str, int] = {}
        self._file: PartFile | None = None
        self._placed: Path | None = None
        self._aside: QuarantineWriter | None = None
        self._ended = False

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows in the spec's types, with the columns of this part in their order.

        Raises:
            StagingError: they cannot be written; nothing of the part is left.
            UsageError: they are no such rows.
        """
        if self._ended:
            raise UsageError("The part has been published or abandoned; begin another one.")
        if not rows.schema.equals(self._schema):
            raise UsageError(f"These rows have the columns {rows.schema.names}, not those of the part.")
        if rows.num_rows == 0:
            return
        try:
            with staging_errors("write a part", self._store.root):
                if self._file is None:
                    self._file = PartFile(self._store.temporary(self._store.suffix), self._schema)
                self._file.write(rows)
        except BaseException:
            self.abandon()
            raise
        self._digest.update(rows)
        for partition, count in partition_counts(rows, self._spec.partition).items():
            self._partitions[partition] = self._partitions.get(partition, 0) + count

    def put_aside(self, rows: Sequence[BadRow], *, source: str) -> None:
        """Take rows that break the contract, in the order of their positions.

        Raises:
            StagingError: they cannot be written; nothing of the part is left.
        """
        if self._ended:
            raise UsageError("The part has been published or abandoned; begin another one.")
        try:
            with staging_errors("put rows aside", self._store.root):
                if self._aside is None:
                    self._aside = QuarantineWriter(
                        self._store, table=self._spec.name, batch=self._batch, worker=self._worker, source=source
                    )
                self._aside.write(rows)
        except BaseException:
            self.abandon()
            raise

    def publish(self) -> StagedPart:
        """Make the part exist, whole and durable, once; rows that were put aside are in quarantine before.

        Returns:
            ``staged``; ``already_staged`` or ``already_merged`` where the same part is known; ``empty``
            where there were no rows.

        Raises:
            StagingError: it could not be made to exist; nothing of it is visible.
            PartCorruptError: a part of this identity exists and has other content.
        """
        if self._ended:
            raise UsageError("The part has been published or abandoned; begin another one.")
        part_id = derive_part_id(
            table=self._spec.name,
            batch=self._batch,
            worker=self._worker,
            content_digest=self._digest.hexdigest(),
        )
        try:
            with staging_errors("put rows aside", self._store.root):
                aside = self._aside.publish() if self._aside is not None else None
            if self._file is None:
                staged = self._told("empty", part_id, size_bytes=0)
            else:
                with staging_errors("stage a part", self._store.root):
                    self._file.finish()
                    staged = self._publish(part_id, self._file)
        finally:
            self.abandon()
        if aside is None:
            return staged
        return replace(staged, rows_quarantined=aside.rows, quarantine_id=aside.quarantine_id)

    def abandon(self) -> None:
        """Forget everything that was written. Idempotent; no effect on a part that was published."""
        self._ended = True
        file, self._file = self._file, None
        placed, self._placed = self._placed, None
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.abandon()
        if file is not None:
            file.abandon()
        if placed is not None:
            remove(placed)

    def _publish(self, part_id: str, file: PartFile) -> StagedPart:
        folder = self._store.folder(self._spec.name, self._batch)
        make_folder(folder)
        for _ in range(MAX_RACES):  # another turn only if somebody else has staged the same just now
            number, known = self._store.current(folder, part_id)
            status = self._known_status(known)
            if known is not None and status is not None:
                # Whoever published it may have crashed before its name was durable.
                sync_folder(folder)
                return self._told(status, part_id, size_bytes=known.size_bytes)
            data = self._place(folder, part_id, file)
            if self._publish_manifest(folder, part_id, number + 1, data, file):
                return self._told("staged", part_id, size_bytes=file.size_bytes)
        raise StagingError(
            f"Part {part_id} in {folder} was staged and removed by others {MAX_RACES} times meanwhile.",
            hint="Nothing of this attempt was kept. Stage it again when it is quieter.",
        )

    def _known_status(self, known: PartManifest | None) -> str | None:
        """Return what to tell of a part that is known already, None if it is to be staged (again)."""
        if known is None or known.state == "discarded":
            return None
        if (known.rows, known.content_digest) != (self._digest.rows, self._digest.hexdigest()):
            raise PartCorruptError(
                f"Part {known.part_id} of worker {known.worker!r} is there with {known.rows} rows and other "
                "content than its identity promises; its manifest was changed.",
                hint="Nothing was staged. Look at the staging folder before you go on.",
            )
        if known.state == "purged":
            partitions = known.partition_names(partitioned=self._spec.partition is not None)
            merged = self._store.is_merged(known.table, known.batch, known.part_id, partitions)
            return "already_merged" if merged else None
        data = self._store.data_path(known)
        try:
            whole = data.stat().st_size == known.size_bytes
        except FileNotFoundError:
            return None  # lost: these rows take its place
        return "already_staged" if whole else None

    def _place(self, folder: Path, part_id: str, file: PartFile) -> Path:
        """Give the data its name in the batch's folder, where nobody reads it without a manifest."""
        if self._placed is None:
            data = folder / f"{part_id}.{self._store.nonce()}{self._store.suffix}"
            file.path.rename(data)
            self._placed = data
            sync_folder(folder)  # the data has its name before the manifest has
        return self._placed

    def _publish_manifest(self, folder: Path, part_id: str, number: int, data: Path, file: PartFile) -> bool:
        """Publish the manifest; return False if somebody else has published one of this number."""
        manifest = PartManifest(
            part_id=part_id,
            table=self._spec.name,
            batch=self._batch,
            worker=self._worker,
            rows=self._digest.rows,
            partitions=self._partitions,
            columns=tuple((column.name, str(column.type)) for column in self._columns),
            content_digest=self._digest.hexdigest(),
            data=relative_name(folder, data.name),
            data_digest=file.sha256,
            size_bytes=file.size_bytes,
            staged_at=self._store.now_text(),
        )
        temporary = self._store.temporary(".json")
        write_json(temporary, manifest.to_json())
        target = manifest_path(folder, part_id, number)
        self._placed = None  # from here on a manifest may name the data, whatever fails: it stays
        try:
            published = publish_exclusively(temporary, target)
        except OSError:
            remove(temporary)
            raise
        if not published and self._store.read(target).data != manifest.data:
            self._placed = data  # another one's: ours is named by nobody
            return False
        sync_folder(folder)
        if not data.exists():
            raise StagingError(
                f"The data of part {part_id} was removed while it was being published: {data}.",
                hint="It was taken for the remains of a crash; stage the part again.",
            )
        return True

    def _told(self, status: str, part_id: str, *, size_bytes: int) -> StagedPart:
        return StagedPart(
            status=status,  # type: ignore[arg-type]  # one of its four
            part_id=part_id,
            table=self._spec.name,
            batch=self._batch,
            worker=self._worker,
            rows=self._digest.rows,
            partitions=dict(self._partitions),
            size_bytes=size_bytes,
        )
