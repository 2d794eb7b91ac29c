"""Keeping a lake's storage in check: small files, heavily deleted files, old snapshots and their files.

A compaction changes no rows, and DuckLake lets it change none beside: the guard is not part of it. Beside a running
consolidation that replaces rows of the files concerned, one of the two loses at the commit and runs again. Expiring
and removing concern only what no snapshot younger than the retention names: no transaction of ours can be reading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.database import rows
from onerow.adapters.warehouse.ducklake.lake import METADATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

SNAPSHOT_RETENTION_DAYS: Final = 7
SMALL_FILE_BYTES: Final = 16 * 1024 * 1024
DELETE_THRESHOLD: Final = 0.3

_RETENTION = f"now() - interval {SNAPSHOT_RETENTION_DAYS} day"


@dataclass(frozen=True)
class TableFiles:
    """What compaction finds in a table.

    Attributes:
        small: files that stand with others in one partition and would become one with them.
        deleted: files of whose rows more than ``DELETE_THRESHOLD`` are deleted.
    """

    schema: str
    table: str
    small: int
    small_bytes: int
    deleted: int
    deleted_bytes: int

    @property
    def line(self) -> str:
        """What is to be done, for people; "" for nothing."""
        work = []
        if self.small:
            work.append(f"{self.small} small files ({self.small_bytes:,} bytes) to merge")
        if self.deleted:
            work.append(f"{self.deleted} files with many deleted rows ({self.deleted_bytes:,} bytes) to rewrite")
        return f"{self.schema}.{self.table}: {', '.join(work)}" if work else ""


def table_files(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> TableFiles:
    """Return what compaction would find in a table."""
    found = rows(
        connection,
        f"""
        with live as (
            select f.partition_id, f.file_size_bytes as size, f.data_file_id,
                coalesce((
                    select max(d.delete_count) from {METADATA}.ducklake_delete_file d
                    where d.data_file_id = f.data_file_id and d.end_snapshot is null
                ), 0) / f.record_count as share,
                coalesce((
                    select string_agg(v.partition_value, '/' order by v.partition_key_index)
                    from {METADATA}.ducklake_file_partition_value v where v.data_file_id = f.data_file_id
                ), '') as value
            from {METADATA}.ducklake_data_file f
            join {METADATA}.ducklake_table t on t.table_id = f.table_id and t.end_snapshot is null
            join {METADATA}.ducklake_schema s on s.schema_id = t.schema_id and s.end_snapshot is null
            where f.end_snapshot is null and lower(s.schema_name) = lower(?) and lower(t.table_name) = lower(?)
        ), small as (
            select *, count(*) over (partition by partition_id, value) as together
            from live where share = 0 and size < {SMALL_FILE_BYTES}
        )
        select (select count(*) from small where together > 1),
            (select coalesce(sum(size), 0)::bigint from small where together > 1),
            (select count(*) from live where share > {DELETE_THRESHOLD}),
            (select coalesce(sum(size), 0)::bigint from live where share > {DELETE_THRESHOLD})
        """,  # noqa: S608 -- the names and numbers are ours
        schema,
        table,
    )
    return TableFiles(schema, table, *found[0])


def rewrite(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> None:
    """Write the heavily deleted files of a table again without the deleted rows."""
    connection.execute(
        "call ducklake_rewrite_data_files(?, ?, schema => ?, delete_threshold => ?)",
        [sql.DATABASE, table, schema, DELETE_THRESHOLD],
    )


def merge(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> None:
    """Merge the small files of each partition of a table; sees only what has committed."""
    connection.execute(
        "call ducklake_merge_adjacent_files(?, ?, schema => ?, max_file_size => ?)",
        [sql.DATABASE, table, schema, SMALL_FILE_BYTES],
    )


def old_snapshots(connection: duckdb.DuckDBPyConnection) -> int:
    """Return how many snapshots are older than the retention; the newest never counts."""
    ((found,),) = rows(
        connection,
        f"select count(*) from {METADATA}.ducklake_snapshot where snapshot_time::timestamptz < {_RETENTION} "  # noqa: S608
        f"and snapshot_id < (select max(snapshot_id) from {METADATA}.ducklake_snapshot)",
    )
    return int(found)


def old_files(connection: duckdb.DuckDBPyConnection) -> int:
    """Return how many files no snapshot names for longer than the retention."""
    found = rows(
        connection, f"call ducklake_cleanup_old_files(?, dry_run => true, older_than => {_RETENTION})", sql.DATABASE
    )
    return len(found)


def expire(connection: duckdb.DuckDBPyConnection) -> None:
    """Forget the snapshots that are older than the retention."""
    connection.execute(f"call ducklake_expire_snapshots(?, older_than => {_RETENTION})", [sql.DATABASE])


def remove_files(connection: duckdb.DuckDBPyConnection) -> int:
    """Remove the files that no snapshot names for longer than the retention; return how many."""
    found = rows(connection, f"call ducklake_cleanup_old_files(?, older_than => {_RETENTION})", sql.DATABASE)
    return len(found)


def snapshot_lines(snapshots: int, files: int) -> Sequence[str]:
    """Return what is to be said of old snapshots and files."""
    lines = []
    if snapshots:
        lines.append(f"{snapshots} snapshots older than {SNAPSHOT_RETENTION_DAYS} days to expire")
    if files:
        lines.append(f"{files} files that no snapshot has named for {SNAPSHOT_RETENTION_DAYS} days to remove")
    return lines


def kept_lines(folders: int) -> Sequence[str]:
    """Return what is to be said of second names that interrupted commits have left."""
    return [f"second names of the files of {folders} interrupted commits to remove"] if folders else []
