"""What a table or view is, as the service describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onerow.adapters.bigquery.names import TableName, field_type

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from google.cloud import bigquery


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column that is there.

    Attributes:
        type: as standard SQL writes it, such as ``NUMERIC(6, 2)``.
        required: it takes no NULL.
    """

    name: str
    type: str
    required: bool
    description: str

    @property
    def plain_type(self) -> str:
        """The type without length, precision or scale."""
        return self.type.partition("(")[0]


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view that is there.

    Attributes:
        kind: ``TABLE``, ``VIEW``, ``EXTERNAL`` and so on.
        etag: another one after every change; a change can name it, and then fails if there was another.
        partitioned_by: the column that it is partitioned by; ``_PARTITIONTIME`` for the time of loading; "" for none.
        partition_unit: ``DAY``, ``HOUR``, ``MONTH`` or ``YEAR``; ``RANGE`` for numbers; "" for none.
        partition_expires_s: how long partitions are kept; None: for ever.
        filter_required: a statement without a condition on the partition column is refused.
        streaming_rows: rows in the streaming buffer; None: there is none.
        key: the columns of its primary key, which the engine does not enforce.
    """

    name: TableName
    kind: str
    columns: tuple[TableColumn, ...]
    rows: int
    size_bytes: int
    labels: Mapping[str, str]
    description: str
    etag: str
    created_at: dt.datetime
    modified_at: dt.datetime
    expires_at: dt.datetime | None
    location: str
    partitioned_by: str
    partition_unit: str
    partition_expires_s: float | None
    filter_required: bool
    clustered_by: tuple[str, ...]
    streaming_rows: int | None
    key: tuple[str, ...]
    query: str

    @property
    def by_name(self) -> Mapping[str, TableColumn]:
        """The columns by name."""
        return {column.name: column for column in self.columns}


def read_table(found: bigquery.Table) -> Table:
    """Return what the client library has found."""
    by_time, by_range = found.time_partitioning, found.range_partitioning
    partitioned_by, unit, expires_s = "", "", None
    if by_time is not None:
        partitioned_by, unit = by_time.field or "_PARTITIONTIME", by_time.type_ or "DAY"
        expires_s = None if by_time.expiration_ms is None else by_time.expiration_ms / 1000
    elif by_range is not None:
        partitioned_by, unit = by_range.field, "RANGE"
    constraints = found.table_constraints
    key = constraints.primary_key if constraints is not None else None
    buffer = found.streaming_buffer
    return Table(
        name=TableName(found.project, found.dataset_id, found.table_id),
        kind=found.table_type or "TABLE",
        columns=tuple(
            TableColumn(field.name, field_type(field), field.mode == "REQUIRED", field.description or "")
            for field in found.schema
        ),
        rows=int(found.num_rows or 0),
        size_bytes=int(found.num_bytes or 0),
        labels=dict(found.labels or {}),
        description=found.description or "",
        etag=found.etag or "",
        created_at=found.created,
        modified_at=found.modified,
        expires_at=found.expires,
        location=found.location or "",
        partitioned_by=partitioned_by,
        partition_unit=unit,
        partition_expires_s=expires_s,
        filter_required=bool(found.require_partition_filter),
        clustered_by=tuple(found.clustering_fields or ()),
        streaming_rows=None if buffer is None else int(buffer.estimated_rows or 0),
        key=tuple(key.columns) if key is not None else (),
        query=found.view_query or "" if found.table_type == "VIEW" else "",
    )
