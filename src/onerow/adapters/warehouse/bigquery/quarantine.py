"""Rows that break the row contract, in BigQuery: one table an entry, made by one load job with its facts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigquery
from sqlglot import exp

from onerow.adapters.bigquery.names import DIALECT, column, columns
from onerow.adapters.warehouse.bigquery import layout
from onerow.adapters.warehouse.bigquery.loading import COMPRESSION, attempts, load_config, load_once, upload_file
from onerow.adapters.warehouse.bigquery.staged import each
from onerow.core.parts import BadRow, Quarantined
from onerow.errors import StagingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onerow.adapters.bigquery.tables import Table
    from onerow.adapters.warehouse.bigquery.staged import StagedTables
    from onerow.ports.clock import Clock

SCHEMA: Final = pa.schema([("position", pa.int64()), ("problems", pa.string()), ("content", pa.string())])
FIELDS: Final = (
    bigquery.SchemaField("position", "INT64", mode="REQUIRED"),
    bigquery.SchemaField("problems", "STRING", mode="REQUIRED", description="JSON: a list of lines for people"),
    bigquery.SchemaField("content", "STRING", mode="REQUIRED", description="JSON: pairs of column and text"),
)


class BadRowFile:
    """Bad rows on their way, as a Parquet file without a name."""

    def __init__(self) -> None:
        self.file = upload_file()
        self.rows = 0
        self._parquet: pq.ParquetWriter | None = pq.ParquetWriter(self.file, SCHEMA, compression=COMPRESSION)

    def add(self, rows: Sequence[BadRow]) -> Iterator[bytes]:
        """Take rows; return them as bytes that tell them apart, for a digest."""
        # ASCII only: values may hold what no engine can, such as U+0000, and come back as they were.
        values = [
            (row.position, json.dumps(list(row.problems)), json.dumps(list(row.values.items()))) for row in rows
        ]
        if self._parquet is not None:
            taken = pa.Table.from_pydict(dict(zip(SCHEMA.names, zip(*values, strict=True), strict=True)), schema=SCHEMA)
            self._parquet.write_table(taken)
        self.rows += len(values)
        return (json.dumps(one).encode() + b"\n" for one in values)

    def finish(self) -> None:
        """Make the file whole. Idempotent."""
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None

    def close(self) -> None:
        """Forget everything. Idempotent."""
        self.finish()
        self.file.close()


class BigQueryQuarantine:
    """The entries of quarantine."""

    def __init__(self, tables: StagedTables, clock: Clock) -> None:
        self._tables = tables
        self._clock = clock

    def put(self, identity: str, bad: BadRowFile, facts: Mapping[str, str]) -> None:
        """Put rows aside, once.

        Args:
            identity: of the entry; the same rows of the same source have the same one.
            bad: the rows.
            facts: table, batch, worker and source.

        Raises:
            StagingError: they could not be written.
        """
        bad.finish()
        table_id = _table_of(identity)
        data = {**facts, "quarantine_id": identity, "rows": bad.rows, "put_aside_at": self._clock.utc_now().isoformat()}
        config = load_config(
            FIELDS,
            description=json.dumps(data, ensure_ascii=False)[: layout.MAX_DESCRIPTION_CHARS],
            labels={layout.KIND: layout.QUARANTINE, layout.TABLE: layout.label_of(facts["table"])},
        )
        for attempt in attempts():
            if self._tables.read(table_id) is not None:
                return
            if load_once(self._tables, table_id, bad.file, config, attempt=attempt) is not None:
                return
        raise StagingError(
            f"The rows of {facts['source']} that break the row contract could not be put aside.",
            hint="Nothing was staged. Stage it again when BigQuery is quieter.",
        )

    def entries(self, table: str) -> list[Quarantined]:
        """Return the entries of a target, by batch, worker and identity."""
        listed = self._tables.listed(prefix=layout.QUARANTINE, table=table)
        found = each(lambda item: self._tables.read(item.table_id), listed)
        entries = [_entry(one) for one in found if one is not None]
        mine = [entry for entry in entries if entry.table == table]
        return sorted(mine, key=lambda entry: (entry.batch, entry.worker, entry.quarantine_id))

    def rows(self, table: str, quarantine_id: str) -> Iterator[BadRow]:
        """Return the rows of one entry, by position.

        Raises:
            UsageError: there is no such entry.
            StagingError: it has not the rows that were put aside.
        """
        found = self._tables.read(_table_of(quarantine_id)) if quarantine_id.isalnum() else None
        if found is None or _entry(found).table != table:
            raise UsageError(f"There is no quarantine entry {quarantine_id!r} of table {table!r}.")
        return self._read(_entry(found), found)

    def _read(self, entry: Quarantined, table: Table) -> Iterator[BadRow]:
        query = exp.select(*columns(SCHEMA.names)).from_(table.name.node()).order_by(column("position"))
        found = self._tables.client.run(query.sql(DIALECT)).rows
        for position, problems, content in found:
            yield BadRow(int(position), tuple(json.loads(problems)), dict(json.loads(content)))
        if len(found) != entry.rows:
            raise StagingError(
                f"The quarantine entry {entry.quarantine_id} has {len(found)} rows where {entry.rows} were put aside.",
                hint="Somebody has removed rows; remove its table and stage its source again.",
            )


def _table_of(quarantine_id: str) -> str:
    return f"{layout.QUARANTINE}_{quarantine_id}"


def _entry(table: Table) -> Quarantined:
    try:
        data: dict[str, Any] = json.loads(table.description)
        return Quarantined(
            quarantine_id=str(data["quarantine_id"]),
            table=str(data["table"]),
            batch=str(data["batch"]),
            worker=str(data["worker"]),
            source=str(data["source"]),
            rows=int(data["rows"]),
            put_aside_at=str(data["put_aside_at"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StagingError(
            f"The table {table.name} of quarantine has no facts of ours in its description.",
            hint="It was changed by hand; remove it and stage its source again.",
        ) from error
