"""One part on its way into BigQuery, step by step.

Nothing is sent before ``publish``: the rows wait in a Parquet file without a name until their digest, and so the part's
identity, is known. Then it is looked for, and if it is not there it goes in one load job, whose id is derived from the
part: a worker that tries again, or another one with the same rows, finds that job.
"""

from __future__ import annotations

import hashlib
import json
from typing import IO, TYPE_CHECKING, Final

import pyarrow.parquet as pq

from onerow.adapters.bigquery.names import schema_field
from onerow.adapters.warehouse.bigquery import layout
from onerow.adapters.warehouse.bigquery.loading import COMPRESSION, attempts, load_config, load_once, upload_file
from onerow.adapters.warehouse.bigquery.quarantine import BadRowFile
from onerow.core.digest import ContentDigest
from onerow.core.parts import PartManifest, StagedPart, derive_part_id
from onerow.core.rows import arrow_schema, partition_counts
from onerow.errors import PartCorruptError, StagingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from onerow.adapters.bigquery.tables import Table
    from onerow.adapters.warehouse.bigquery.parts import BigQueryParts
    from onerow.core.parts import BadRow
    from onerow.core.spec import TableSpec

MAX_REVISIONS: Final = 1_000


class BigQueryPartWriter:
    """Takes rows and makes them a part. For one thread."""

    def __init__(
        self, store: BigQueryParts, spec: TableSpec, *, batch: str, worker: str, columns: tuple[str, ...]
    ) -> None:
        self._store = store
        self._spec = spec
        self._batch = batch
        self._worker = worker
        self._columns = [spec.by_name[name] for name in columns]
        self._schema = arrow_schema(self._columns)
        self._digest = ContentDigest(self._columns)
        self._partitions: dict[str, int] = {}
        self._file: IO[bytes] | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._bad: BadRowFile | None = None
        self._bad_digest = hashlib.sha256()
        self._bad_source = ""
        self._quarantine_id = ""
        self._ended = False

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows in the spec's types, with the columns of this part in their order.

        Raises:
            UsageError: they are no such rows.
            StagingError: the temporary file cannot be written.
        """
        self._check_open()
        if not rows.schema.equals(self._schema):
            raise UsageError(f"These rows have the columns {rows.schema.names}, not those of the part.")
        if rows.num_rows == 0:
            return
        try:
            if self._parquet is None:
                self._file = upload_file()
                self._parquet = pq.ParquetWriter(self._file, self._schema, compression=COMPRESSION)
            self._parquet.write_batch(rows)
        except OSError as error:
            raise StagingError(f"The rows could not be kept in a temporary file: {error}.") from error
        self._digest.update(rows)
        for partition, count in partition_counts(rows, self._spec.partition).items():
            self._partitions[partition] = self._partitions.get(partition, 0) + count

    def put_aside(self, rows: Sequence[BadRow], *, source: str) -> None:
        """Take rows that break the contract; ``publish`` puts them into quarantine before the part."""
        self._check_open()
        if self._bad is None:
            self._bad, self._bad_source = BadRowFile(), source
        for line in self._bad.add(rows):
            self._bad_digest.update(line)

    def publish(self) -> StagedPart:
        """Make the part exist, whole and durable, once.

        Returns:
            ``staged``; ``already_staged`` or ``already_merged`` where the same part is known; ``empty``
            where there were no rows.

        Raises:
            StagingError: it could not be written; nothing of the part is left.
            OutcomeUnknownError: nobody can tell whether it is there; staging the same rows again finds it.
            NotInstalledError: there is no dataset for it.
        """
        self._check_open()
        try:
            if self._bad is not None and self._bad.rows:
                self._quarantine_id = self._quarantine(self._bad)
            if self._digest.rows == 0:
                return self._told("empty", "", 0)
            part_id = derive_part_id(
                table=self._spec.name,
                batch=self._batch,
                worker=self._worker,
                content_digest=self._digest.hexdigest(),
            )
            return self._publish(part_id)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Forget everything that was written. Idempotent; no effect after ``publish``."""
        self._ended = True
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None
        for file in (self._file, self._bad):
            if file is not None:
                file.close()

    def _check_open(self) -> None:
        if self._ended:
            raise UsageError("The part has been published or abandoned; begin another one.")

    def _publish(self, part_id: str) -> StagedPart:
        file, size_bytes = self._finished_file()
        for attempt in attempts():
            revision, status, known_bytes = self._known(part_id)
            if status is not None:
                return self._told(status, part_id, known_bytes)
            data = layout.data_table(part_id, revision)
            manifest = self._manifest(part_id, data, size_bytes)
            config = load_config(
                [schema_field(column, description=str(column.type)) for column in self._columns],
                description=layout.description_of(manifest, self._spec.partition),
                labels=layout.part_labels(self._spec.name, self._batch, since_s=self._store.now_s()),
            )
            loaded = load_once(self._store.tables, data, file, config, attempt=attempt)
            if loaded is not None:
                return self._told("staged" if loaded else "already_staged", part_id, size_bytes)
        raise StagingError(
            f"Part {part_id} could not be staged; every attempt met with others or with a busy service.",
            hint="Nothing of this attempt was kept. Stage it again when it is quieter.",
        )

    def _known(self, part_id: str) -> tuple[int, str | None, int]:
        """Return the revision to stage, what to tell if it need not be staged, and the size of what is known."""
        tables, purged = self._store.tables, False
        for revision in range(1, MAX_REVISIONS):
            data = layout.data_table(part_id, revision)
            table = tables.read(data)
            if table is not None and table.labels.get(layout.STATE) != "discarded":
                self._check_known(table, part_id, data)
                if table.rows == self._digest.rows:
                    return revision, "already_staged", _size_of(table.description)
            left = tables.read(data + layout.GONE_SUFFIX)
            if left is not None:
                purged = left.labels.get(layout.STATE) == "purged"
            elif table is None:
                return revision, self._merged(part_id) if purged else None, 0
        raise StagingError(
            f"Part {part_id} was staged and given up {MAX_REVISIONS - 1} times.",
            hint="Remove what is left of it from the control dataset.",
        )

    def _merged(self, part_id: str) -> str | None:
        partitions = tuple(sorted(self._partitions)) if self._spec.partition is not None else (None,)
        merged = self._store.is_merged(self._spec.name, self._batch, part_id, partitions)
        return "already_merged" if merged else None

    def _check_known(self, table: Table, part_id: str, data: str) -> None:
        known = layout.read_manifest(self._store.client, table, state="staged", data=data)
        if (known.part_id, known.rows, known.content_digest) != (part_id, self._digest.rows, self._digest.hexdigest()):
            raise PartCorruptError(
                f"Part {part_id} of worker {known.worker!r} is there with {known.rows} rows and other content "
                "than its identity promises; its manifest was changed.",
                hint="Nothing was staged. Look at its table before you go on.",
            )

    def _manifest(self, part_id: str, data: str, size_bytes: int) -> PartManifest:
        return PartManifest(
            part_id=part_id,
            table=self._spec.name,
            batch=self._batch,
            worker=self._worker,
            rows=self._digest.rows,
            partitions=self._partitions,
            columns=tuple((column.name, str(column.type)) for column in self._columns),
            content_digest=self._digest.hexdigest(),
            data=data,
            data_digest="",
            size_bytes=size_bytes,
            staged_at=self._store.clock.utc_now().isoformat(),
        )

    def _finished_file(self) -> tuple[IO[bytes], int]:
        if self._parquet is None or self._file is None:
            raise UsageError("There are no rows to publish.")
        self._parquet.close()
        self._parquet = None
        return self._file, self._file.seek(0, 2)

    def _quarantine(self, bad: BadRowFile) -> str:
        """Put the bad rows aside, once; return the identity of the entry."""
        identity = derive_part_id(
            table=self._spec.name, batch=self._batch, worker=self._worker, content_digest=self._bad_digest.hexdigest()
        )
        identity = f"q{identity[1:]}"
        facts = {"table": self._spec.name, "batch": self._batch, "worker": self._worker, "source": self._bad_source}
        self._store.quarantine.put(identity, bad, facts)
        return identity

    def _told(self, status: str, part_id: str, size_bytes: int) -> StagedPart:
        return StagedPart(
            status=status,  # type: ignore[arg-type]  # one of its four
            part_id=part_id,
            table=self._spec.name,
            batch=self._batch,
            worker=self._worker,
            rows=self._digest.rows,
            partitions=dict(self._partitions),
            size_bytes=size_bytes,
            rows_quarantined=self._bad.rows if self._bad is not None else 0,
            quarantine_id=self._quarantine_id,
        )


def _size_of(description: str) -> int:
    return int(json.loads(description).get("size_bytes", 0))
