"""One part on its way into PostgreSQL, step by step.

Nothing is sent before ``publish``: the rows wait in a spool until their digest, and so the part's identity, is known.
A part that is known already is not sent again; one that is not goes, with its manifest, in one short transaction.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from onerow.adapters.postgresql.connection import begin, rollback, rows, run
from onerow.adapters.warehouse.postgresql.layout import data_name, staging_name
from onerow.adapters.warehouse.postgresql.loading import staging_errors
from onerow.adapters.warehouse.postgresql.spool import BadRowSpool, RowSpool
from onerow.core.digest import ContentDigest
from onerow.core.parts import PartManifest, StagedPart, derive_part_id, manifest_from_json
from onerow.core.rows import arrow_schema, partition_counts
from onerow.errors import PartCorruptError, StagingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql.loading import Load
    from onerow.adapters.warehouse.postgresql.parts import PostgresParts
    from onerow.core.parts import BadRow
    from onerow.core.spec import TableSpec

MAX_RACES: Final = 16
ROWS_A_STATEMENT: Final = 1_000


class PostgresPartWriter:
    """Takes rows and makes them a part. For one thread."""

    def __init__(
        self, store: PostgresParts, spec: TableSpec, *, batch: str, worker: str, columns: tuple[str, ...]
    ) -> None:
        self._store = store
        self._spec = spec
        self._batch = batch
        self._worker = worker
        self._columns = [spec.by_name[name] for name in columns]
        self._schema = arrow_schema(self._columns)
        self._digest = ContentDigest(self._columns)
        self._partitions: dict[str, int] = {}
        self._spool = RowSpool(self._schema)
        self._bad: BadRowSpool | None = None
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
            self._spool.add(rows)
        except OSError as error:
            raise StagingError(f"The rows could not be kept in a temporary file: {error}.") from error
        self._digest.update(rows)
        for partition, count in partition_counts(rows, self._spec.partition).items():
            self._partitions[partition] = self._partitions.get(partition, 0) + count

    def put_aside(self, rows: Sequence[BadRow], *, source: str) -> None:
        """Take rows that break the contract; ``publish`` puts them into quarantine before the part."""
        self._check_open()
        if self._bad is None:
            self._bad, self._bad_source = BadRowSpool(), source
        for line in self._bad.add(rows):
            self._bad_digest.update(line + b"\n")

    def publish(self) -> StagedPart:
        """Make the part exist, whole and durable, once.

        Returns:
            ``staged``; ``already_staged`` or ``already_merged`` where the same part is known; ``empty``
            where there were no rows.

        Raises:
            StagingError: it could not be written; nothing of the part is left.
            NotInstalledError: there is no staging table for it.
        """
        self._check_open()
        try:
            with staging_errors("write a part"):
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
        self._spool.close()
        if self._bad is not None:
            self._bad.close()

    def _check_open(self) -> None:
        if self._ended:
            raise UsageError("The part has been published or abandoned; begin another one.")

    def _publish(self, part_id: str) -> StagedPart:
        for _ in range(MAX_RACES):  # another turn only if somebody else has staged the same just now
            revision, status, size_bytes = self._known(part_id)
            if status is not None:
                return self._told(status, part_id, size_bytes)
            try:
                with self._store.loaders.transaction(self._digest.rows) as load:
                    self._insert(load, part_id, revision + 1)
            except _TakenError:
                continue
            return self._told("staged", part_id, self._spool.size_bytes)
        raise StagingError(
            f"Part {part_id} was staged and removed by others {MAX_RACES} times meanwhile.",
            hint="Nothing of this attempt was kept. Stage it again when it is quieter.",
        )

    def _known(self, part_id: str) -> tuple[int, str | None, int]:
        """Return the part's last revision, what to tell of it (None: it is to be staged) and its size."""
        control = self._store.control
        with self._store.connection() as connection:
            found = rows(connection, control["current_part"], self._spec.name, self._batch, part_id)
            if not found:
                return 0, None, 0
            _, revision, text, state = found[0]
            if state == "discarded":
                return revision, None, 0
            known = manifest_from_json(json.loads(text), state=state, where=f"of part {part_id}")
            if (known.rows, known.content_digest) != (self._digest.rows, self._digest.hexdigest()):
                raise PartCorruptError(
                    f"Part {part_id} of worker {known.worker!r} is there with {known.rows} rows and other content "
                    "than its identity promises; its manifest was changed.",
                    hint="Nothing was staged. Look at the table of parts before you go on.",
                )
            if state != "purged":
                whole = self._store.rows_of(connection, known) == known.rows
                return revision, "already_staged" if whole else None, known.size_bytes
        partitions = known.partition_names(partitioned=self._spec.partition is not None)
        merged = self._store.is_merged(known.table, known.batch, known.part_id, partitions)
        return revision, "already_merged" if merged else None, known.size_bytes

    def _insert(self, load: Load, part_id: str, revision: int) -> None:
        """Write the manifest and the rows; who comes second with the same revision waits, and then turns back."""
        control = self._store.control
        ((number,),) = load.ask(control["next_number"])
        manifest = PartManifest(
            part_id=part_id,
            table=self._spec.name,
            batch=self._batch,
            worker=self._worker,
            rows=self._digest.rows,
            partitions=self._partitions,
            columns=tuple((column.name, str(column.type)) for column in self._columns),
            content_digest=self._digest.hexdigest(),
            data=data_name(self._spec.name, number),
            data_digest="",
            size_bytes=self._spool.size_bytes,
            staged_at=self._store.now_text(),
        )
        text = json.dumps(manifest.to_json(), ensure_ascii=False)
        values = (number, self._spec.name, self._batch, part_id, revision, text)
        if not load.ask(control["insert_part"], *values):
            raise _TakenError
        place = (self._store.schema, staging_name(self._spec.name))
        load.copy(place, number, self._columns, self._spool.batches())

    def _quarantine(self, bad: BadRowSpool) -> str:
        """Put the bad rows aside, once, in a transaction of their own; return the identity of the entry."""
        control = self._store.control
        identity = derive_part_id(
            table=self._spec.name, batch=self._batch, worker=self._worker, content_digest=self._bad_digest.hexdigest()
        )
        identity = f"q{identity[1:]}"
        values = (identity, self._spec.name, self._batch, self._worker, self._bad_source, bad.rows)
        with self._store.connection() as connection:
            try:
                begin(connection, settings={})
                if rows(connection, control["insert_quarantine"], *values):
                    pending: list[BadRow] = []
                    for row in bad.read():
                        pending.append(row)
                        if len(pending) >= ROWS_A_STATEMENT:
                            self._insert_bad(connection, identity, pending)
                            pending = []
                    self._insert_bad(connection, identity, pending)
                connection.execute("commit")
            except BaseException:
                rollback(connection)
                raise
        return identity

    def _insert_bad(self, connection: Connection, identity: str, bad: Sequence[BadRow]) -> None:
        run(
            connection,
            self._store.control["insert_quarantine_rows"],
            identity,
            [row.position for row in bad],
            [json.dumps(list(row.problems)) for row in bad],
            [json.dumps(list(row.values.items())) for row in bad],
        )

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


class _TakenError(Exception):
    """Somebody else has published this revision of the part; the transaction is rolled back."""
