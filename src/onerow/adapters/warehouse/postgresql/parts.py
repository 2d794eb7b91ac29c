"""The part store in PostgreSQL.

::

    <control schema>.parts              the manifests; a part exists when its row does
    <control schema>.staged_<table>     the rows, one staging table a target, told apart by the part's number
    <control schema>.quarantine, quarantine_rows

Rows and manifest are written in one transaction, so what a crash leaves is nothing: there are no rows without a
manifest. A part whose data is gone and that is staged again gets the next revision with another number, and the last
revision counts; marks name numbers, so they say nothing about data that comes later. Whoever stages needs INSERT and
SELECT only; what changes the state of parts or deletes rows is the consolidator's work.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.postgresql.connection import Server, begin, rollback, row, rows, run
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.control import control_statements
from onerow.adapters.warehouse.postgresql.layout import data_number, staging_table
from onerow.adapters.warehouse.postgresql.loading import SMALL_ROWS, Loaders, staging_errors
from onerow.adapters.warehouse.postgresql.partwriter import PostgresPartWriter
from onerow.core.names import check_name
from onerow.core.parts import BadRow, PartManifest, Quarantined, manifest_from_json
from onerow.errors import PartCorruptError, StagingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from onerow.adapters.postgresql.connection import Connection
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock, Ids

    IsMerged = Callable[[str, str, str, tuple[str | None, ...]], bool]

ROWS_A_LOOK: Final = 500


class PostgresParts:
    """Parts in staging tables; many processes may use it at once.

    Args:
        is_merged: asks the ledger whether a part, by table, batch, identity and partitions, is merged for all of
            them; asked when a part is staged again whose data is gone already.
        small_rows: parts of at most so many rows go over the warehouse's own driver.
        server: connections to share, which close these too; None: connections of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        control_schema: str,
        clock: Clock,
        ids: Ids,
        is_merged: IsMerged,
        small_rows: int = SMALL_ROWS,
        server: Server | None = None,
    ) -> None:
        self.schema = control_schema
        self.control = control_statements(control_schema)
        self.is_merged = is_merged
        self.server = server or Server(url)
        self.loaders = Loaders(self.server, url, small_rows=small_rows)
        self.server.on_close(self.loaders.close)
        self._clock = clock
        self._ids = ids

    def writer(self, spec: TableSpec, *, batch: str, worker: str, columns: Sequence[str]) -> PostgresPartWriter:
        """Begin a part.

        Raises:
            UsageError: the batch or the worker has no proper name, or a column is not declared.
        """
        unknown = [name for name in columns if name not in spec.by_name]
        if unknown:
            raise UsageError(f"Table {spec.name!r} has no column {unknown[0]!r}.")
        return PostgresPartWriter(
            self,
            spec,
            batch=check_name(batch, "batch"),
            worker=check_name(worker, "worker"),
            columns=tuple(columns),
        )

    def connection(self) -> AbstractContextManager[Connection]:
        """Lend a connection; one that cannot be had is a StagingError."""
        return self.server.connection(errors=StagingError)

    def now_text(self) -> str:
        """Return the time for people to read."""
        return self._clock.utc_now().isoformat()

    # --- reading -------------------------------------------------------------------------

    def batches(self, table: str) -> Sequence[str]:
        """Return the batches of ``table`` that have manifests in any state, sorted."""
        with staging_errors("list the batches"), self.connection() as connection:
            return sorted(batch for (batch,) in rows(connection, self.control["list_batches"], table))

    def parts(self, table: str, batch: str) -> Sequence[PartManifest]:
        """Return the batch's parts in every state, sorted by identity."""
        with staging_errors("list the parts"), self.connection() as connection:
            found = rows(connection, self.control["list_parts"], table, batch)
        manifests = [_manifest(values) for values in found]
        for part in manifests:
            if (part.table, part.batch) != (table, batch):
                raise PartCorruptError(
                    f"The manifest of part {part.part_id} is one of table {part.table!r}, batch {part.batch!r}: "
                    "rows were changed by hand."
                )
        return manifests

    def rows_of(self, connection: Connection, part: PartManifest) -> int:
        """Return how many rows of a part are staged."""
        statement = sql.SQL("select count(*) from {} where {} = $1::bigint").format(
            staging_table(self.schema, part.table), sql.column(sql.PART)
        )
        (count,) = row(connection, statement, data_number(part))
        return int(count)

    # --- after the merge -----------------------------------------------------------------

    def retire(self, parts: Iterable[PartManifest]) -> int:
        """Mark parts as merged, by identity. Returns how many were not. Idempotent."""
        numbers = [data_number(part) for part in parts]
        if not numbers:
            return 0
        with staging_errors("retire parts"), self.connection() as connection:
            return run(connection, self.control["retire_parts"], numbers)

    def retired(self, table: str, *, older_than_s: float) -> Sequence[PartManifest]:
        """Return the parts that were retired at least so long ago, by the server's clock, and still have data."""
        with staging_errors("list retired parts"), self.connection() as connection:
            return [_manifest(values) for values in rows(connection, self.control["list_retired"], table, older_than_s)]

    def purge(self, parts: Iterable[PartManifest]) -> int:
        """Remove the data of retired parts, by identity. Returns how many had data. Idempotent."""
        return self._remove("purge parts", parts, self.control["purge_parts"])

    def discard(self, parts: Iterable[PartManifest], *, reason: str, by: str) -> int:
        """Give up parts that were never merged: their data goes, their names and the reason stay."""
        return self._remove("discard parts", parts, self.control["discard_parts"], reason, by)

    # --- bad rows ------------------------------------------------------------------------

    def quarantined(self, table: str) -> Sequence[Quarantined]:
        """Return what was put aside for ``table``, by batch, worker and identity."""
        with staging_errors("list the quarantine"), self.connection() as connection:
            found = rows(connection, self.control["list_quarantined"], table)
        return [
            Quarantined(identity, name, batch, worker, source, count, _utc_text(at))
            for identity, name, batch, worker, source, count, at in found
        ]

    def quarantined_rows(self, table: str, quarantine_id: str) -> Iterator[BadRow]:
        """Return the rows of one entry, by position.

        Raises:
            UsageError: there is no such entry.
            StagingError: it has not the rows that were put aside.
        """
        with staging_errors("read the quarantine"), self.connection() as connection:
            found = rows(connection, self.control["find_quarantined"], table, quarantine_id)
        if not found:
            raise UsageError(f"There is no quarantine entry {quarantine_id!r} of table {table!r}.")
        return self._read_quarantined(quarantine_id, found[0][0])

    def _read_quarantined(self, quarantine_id: str, row_count: int) -> Iterator[BadRow]:
        after, read = -1, 0
        while True:
            with staging_errors("read the quarantine"), self.connection() as connection:
                found = rows(connection, self.control["read_quarantined"], quarantine_id, after, ROWS_A_LOOK)
            for position, problems, content in found:
                after, read = position, read + 1
                yield BadRow(position, tuple(json.loads(problems)), dict(json.loads(content)))
            if len(found) < ROWS_A_LOOK:
                break
        if read != row_count:
            raise StagingError(
                f"The quarantine entry {quarantine_id} has {read} rows where {row_count} were put aside.",
                hint="Somebody has removed rows; remove the entry and stage its source again.",
            )

    # --- what is left over ---------------------------------------------------------------

    def remains(self, *, older_than_s: float) -> Sequence[str]:
        """Return data that a later revision of its part has replaced. A crash leaves none: see the module."""
        with staging_errors("look for remains"), self.connection() as connection:
            found = rows(connection, self.control["list_remains"], older_than_s)
        return [_place(values) for values in found]

    def remove_remains(self, *, older_than_s: float) -> Sequence[str]:
        """Remove what ``remains`` returns, and return it."""
        with staging_errors("remove remains"), self.connection() as connection:
            found = rows(connection, self.control["list_remains"], older_than_s)
        removed = []
        for values in found:
            self._remove("remove remains", [_manifest(values[:4])], self.control["forget_parts"])
            removed.append(_place(values))
        return removed

    def probe(self) -> Sequence[str]:
        """Check that parts can be written: the grants that staging needs.

        Raises:
            StagingError: they cannot.
        """
        with staging_errors("be looked at"), self.connection() as connection:
            (count, may) = row(connection, self.control["probe_parts"])
        if not may:
            raise StagingError(
                f"The connected role may not write to {self.schema}.parts.",
                hint="Grant what is missing; `onerow doctor` lists it.",
            )
        return [f"staging tables in schema {self.schema}, {count} parts known"]

    def close(self) -> None:
        """Let go of connections."""
        self.server.close()

    def _remove(self, doing: str, parts: Iterable[PartManifest], mark: sql.Composed, *values: object) -> int:
        """Mark parts and delete their rows, in one transaction."""
        by_number = {data_number(part): part for part in parts}
        if not by_number:
            return 0
        with staging_errors(doing), self.connection() as connection:
            try:
                begin(connection, settings={})
                marked = [number for (number,) in rows(connection, mark, list(by_number), *values)]
                numbers_of: dict[str, list[int]] = {}
                for number in marked:
                    numbers_of.setdefault(by_number[number].table, []).append(number)
                for table, numbers in numbers_of.items():
                    statement = sql.SQL("delete from {} where {} = any ($1::bigint[])").format(
                        staging_table(self.schema, table), sql.column(sql.PART)
                    )
                    run(connection, statement, numbers)
                connection.execute("commit")
            except BaseException:
                rollback(connection)
                raise
        return len(marked)


def _manifest(values: tuple[Any, ...]) -> PartManifest:
    part_id, number, text, state = values
    manifest = manifest_from_json(json.loads(text), state=state, where=f"of part {part_id}")
    if manifest.part_id != part_id or data_number(manifest) != number:
        raise PartCorruptError(f"The manifest of part {part_id} is one of {manifest.part_id}: it was changed by hand.")
    return manifest


def _place(values: tuple[Any, ...]) -> str:
    part_id, number, *_ = values
    return f"rows {number} of part {part_id}, which was staged again"


def _utc_text(at: Any) -> str:
    return str(at.isoformat())
