"""What a warehouse in memory offers beside merging: installing, looking, recording."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa

from onerow.adapters.staging.checks import RowChecks
from onerow.core.partitions import decode_partition, encode_partition
from onerow.core.rows import arrow_schema
from onerow.errors import ConfigurationError, LockStoreMismatchError, NotInstalledError
from onerow.ports.warehouse import DuplicateKey, Finding, HistoryEntry, InspectRequest, TableCheck
from onerow.testing.memory_tables import (
    MemoryDatabase,
    RemovedRow,
    Row,
    TableState,
    duplicates_in,
    layout_of,
)
from onerow.testing.memory_versions import numbered, repeated_contents

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping, Sequence

    from onerow.core.plans import Merged
    from onerow.core.spec import Column, TableSpec
    from onerow.ports.warehouse import LedgerEntry


class MemoryLooks:
    """Installs tables and looks at them; ``MemoryWarehouse`` adds the transactions."""

    def __init__(self, database: MemoryDatabase, utc_now: Callable[[], dt.datetime]) -> None:
        self.database = database
        self._utc_now = utc_now

    def install(self, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> Sequence[str]:
        """Create what is missing; check everything before anything is created."""
        tables = self.database.tables
        for spec in specs:
            there = tables.get(spec.name)
            if there is None:
                continue
            _check_fit(spec, there.spec)
            _with_columns_of(spec, there)
            if there.lock_store != lock_store and not adopt_locks:
                raise LockStoreMismatchError(
                    f"Table {spec.name!r} is used with lock store {there.lock_store!r}, not with {lock_store!r}."
                )
        lines: list[str] = []
        for spec in specs:
            there = tables.get(spec.name)
            if there is None:
                tables[spec.name] = TableState(spec, lock_store)
                lines.append(f"table {spec.name}")
                continue
            if there.spec != spec:
                added = [name for name in spec.column_names if name not in there.spec.by_name]
                lines += [f"column {spec.name}.{name}" for name in added]
                if spec.mode != there.spec.mode:
                    lines.append(f"column {spec.name}.{spec.version_column}, in which the rows are numbered")
                tables[spec.name] = replace(
                    there,
                    spec=spec,
                    rows=_with_columns_of(spec, there),
                    removed=_removed_with_columns_of(spec, there),
                )
            if there.lock_store != lock_store:
                tables[spec.name] = replace(tables[spec.name], lock_store=lock_store)
                lines.append(f"lock store of {spec.name}: {lock_store}")
        return lines

    def merged(self, table: str, batch: str) -> Merged:
        """Return what the ledger names as merged of a batch."""
        return frozenset((entry.part_id, entry.partition) for entry in self._ledger(table) if entry.batch == batch)

    def batches(self, table: str) -> Mapping[str, int]:
        """Return the batches that the ledger knows of, with the number of their parts."""
        parts = {(entry.batch, entry.part_id) for entry in self._ledger(table)}
        return dict(Counter(batch for batch, _ in parts))

    def record(self, entry: HistoryEntry) -> None:
        """Write an audit entry of an intervention."""
        transaction = self.database.begin(self._table(entry.table).spec.name, entry.action)
        transaction.history.append(replace(entry, committed_at=self._utc_now()))
        self.database.commit(transaction)

    def history(self, *, table: str | None, batch: str | None, limit: int) -> Sequence[HistoryEntry]:
        """Return what was committed, newest first."""
        found = [
            entry
            for name, state in self.database.tables.items()
            if table is None or name == table
            for entry in state.history
            if batch is None or entry.batch == batch
        ]
        return found[::-1][:limit]

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates, rows that break declared checks, and rows the ledger does not explain."""
        spec = request.spec
        state, layout = self._table(spec.name), layout_of(spec)
        rows = [
            row
            for row in state.rows.values()
            if (request.partition is None or layout.partition_of(row) == request.partition) and _is_since(row, request)
        ]
        doubled = duplicates_in(rows, layout)
        ids = None if spec.id_column is None else spec.column_names.index(spec.id_column)
        shown = [
            DuplicateKey(
                partition=layout.partition_of(next(row for row in rows if layout.row_key(row) == key)),
                key={
                    name: None if value is None else _text(value)
                    for name, value in zip(spec.row_identity, key, strict=True)
                },
                rows=count,
                ids=() if ids is None else tuple(str(row[ids]) for row in rows if layout.row_key(row) == key),
            )
            for key, count in list(doubled.items())[: request.limit]
        ]
        return TableCheck(
            table=spec.name,
            rows=len(rows),
            partitions=len({layout.partition_of(row) for row in rows}),
            duplicate_keys=len(doubled),
            extra_rows=sum(count - 1 for count in doubled.values()),
            duplicates=tuple(shown),
            findings=(
                *_repeated_contents(rows, request),
                *_broken_checks(rows, request),
                *_wandering_keys(rows, request),
                *_against_ledger(rows, state, request),
            ),
        )

    def probe(self, specs: Sequence[TableSpec]) -> Sequence[tuple[str, bool, str]]:
        """Check what is present."""
        return [
            (spec.name, spec.name in self.database.tables, "" if spec.name in self.database.tables else "missing")
            for spec in specs
        ]

    def close(self) -> None:
        """There is nothing to let go of."""

    # --- what tests do to it ---------------------------------------------------------------

    def insert_foreign(self, spec: TableSpec, rows: Sequence[Row]) -> None:
        """Insert rows as somebody does who does not use onerow: no guard, no ledger."""
        transaction = self.database.begin(spec.name, "foreign")
        transaction.inserted, transaction.unchecked = list(rows), True
        self.database.commit(transaction)

    def rows(self, spec: TableSpec) -> list[Row]:
        """Return the committed rows of a table."""
        return list(self._table(spec.name).rows.values())

    def _ledger(self, table: str) -> tuple[LedgerEntry, ...]:
        """Return the ledger of ``table``; a table that was never merged into has an empty one."""
        if not self.database.tables:
            raise not_installed(table)
        state = self.database.tables.get(table)
        return () if state is None else state.ledger

    def _table(self, table: str) -> TableState:
        if table not in self.database.tables:
            raise not_installed(table)
        return self.database.tables[table]


def _text(value: object) -> str:
    """Return a value of a key as text; a partition's value as it is named everywhere."""
    return encode_partition(value) if isinstance(value, bool | Decimal) else str(value)


def _is_since(row: Row, request: InspectRequest) -> bool:
    """Say whether a row is in the partitions from ``request.since`` on."""
    spec = request.spec
    if request.since is None or spec.partition is None:
        return True
    first = decode_partition(request.since, spec.by_name[spec.partition].type)
    return bool(row[spec.column_names.index(spec.partition)] >= first)


def _repeated_contents(rows: Sequence[Row], request: InspectRequest) -> list[Finding]:
    """Find rows of a versions table that another row of their key repeats."""
    layout = layout_of(request.spec)
    count = sum(repeated_contents(rows, layout).values()) if layout.versions else 0
    told = f"{count} rows have the content of another version of their key."
    return [Finding("version_twice", request.partition, told, count)] if count else []


def _broken_checks(rows: Sequence[Row], request: InspectRequest) -> list[Finding]:
    """Ask the checks of the staging, which are the only ones that speak SQL here."""
    spec = request.spec
    if not spec.checks or not rows:
        return []
    dicts = [dict(zip(spec.column_names, row, strict=False)) for row in rows]
    batch = pa.RecordBatch.from_pylist(dicts, schema=arrow_schema(spec.columns))
    broken = Counter(name for _, name in RowChecks(spec).violations(batch))
    return [
        Finding(f"check:{name}", request.partition, f"{broken[name]} rows break the check {name}.", broken[name])
        for name, _ in spec.checks
        if broken[name]
    ]


def _wandering_keys(rows: Sequence[Row], request: InspectRequest) -> list[Finding]:
    """Find keys that stand in several partitions."""
    spec, layout = request.spec, layout_of(request.spec)
    if spec.partition is None or request.partition is not None:
        return []
    places = [spec.column_names.index(name) for name in spec.key if name != spec.partition]
    homes: dict[Row, set[str | None]] = {}
    for row in rows:
        homes.setdefault(tuple(row[place] for place in places), set()).add(layout.partition_of(row))
    count = sum(len(names) > 1 for names in homes.values()) if places else 0
    told = f"{count} keys stand in several partitions of {spec.partition!r}."
    return [Finding("key_in_several_partitions", None, told, count)] if count else []


def _against_ledger(rows: Sequence[Row], state: TableState, request: InspectRequest) -> list[Finding]:
    """Compare rows with what was inserted."""
    if not request.against_ledger:
        return []
    layout = layout_of(request.spec)
    found = Counter(layout.partition_of(row) for row in rows)
    said: Counter[str | None] = Counter()
    for entry in state.history:
        said[entry.partition] += entry.rows_inserted
    return [
        Finding(
            "ledger",
            name,
            f"{name}: {found[name]} rows; the ledger explains {said[name]}.",
            abs(found[name] - said[name]),
        )
        for name in sorted({*found, *said}, key=str)
        if found[name] != said[name]
        and (request.partition is None or name == request.partition)
        and (name in found or request.covers(name))
    ]


def _check_fit(spec: TableSpec, there: TableSpec) -> None:
    if there.version_column is not None and there.version_column != spec.version_column:
        raise ConfigurationError(
            f"Table {spec.name!r} has a column {there.version_column!r}, the number of a version, that is not declared."
        )
    for name, column in there.by_name.items():
        wanted = spec.by_name.get(name)
        if wanted is None:
            raise ConfigurationError(f"Table {spec.name!r} has a column {name!r} that is not declared.")
        if wanted.type != column.type:
            raise ConfigurationError(
                f"Table {spec.name!r}: the column {name!r} is of type {column.type}, declared is {wanted.type}."
            )
    missing = [name for name in spec.column_names if name not in there.by_name and name in spec.required]
    if missing:
        raise ConfigurationError(f"Table {spec.name!r} lacks the column {missing[0]!r}, which takes no NULL.")


def _with_columns_of(spec: TableSpec, state: TableState) -> dict[int, Row]:
    """Return the rows with the columns of ``spec``, numbered if it is the first to ask for versions."""
    lay = _relaying(state.spec, spec.columns if state.spec.mode == "upsert" else spec.stored_columns)
    rows = {number: lay(row) for number, row in state.rows.items()}
    return rows if spec.mode == state.spec.mode else numbered(rows, spec)


def _removed_with_columns_of(spec: TableSpec, state: TableState) -> tuple[RemovedRow, ...]:
    lay = _relaying(state.spec, spec.stored_columns)
    return tuple(replace(one, row=lay(one.row)) for one in state.removed)


def _relaying(old: TableSpec, columns: Sequence[Column]) -> Callable[[Row], Row]:
    """Return what lays a row of ``old`` out with other columns, with NULL in those that it lacks."""
    there = [column.name for column in old.stored_columns]
    places = [there.index(column.name) if column.name in there else None for column in columns]
    return lambda row: tuple([None if place is None else row[place] for place in places])


def not_installed(table: str) -> NotInstalledError:
    """Return the error for a table that was never installed."""
    return NotInstalledError(f"Table {table!r} is not installed.", hint="Run `onerow init`.")


def audit(action: str, table: str, partition: str | None, *, by: str, reason: str, at: dt.datetime) -> HistoryEntry:
    """Return the audit entry of an intervention."""
    return HistoryEntry(
        action=action,
        table=table,
        partition=partition,
        batch="",
        consolidation="",
        attempt=0,
        token=None,
        unlocked=False,
        holder=by,
        parts=0,
        rows_staged=0,
        rows_inserted=0,
        rows_updated=0,
        rows_unchanged=0,
        rows_superseded=0,
        merge_s=0.0,
        verify_s=0.0,
        committed_at=at,
        reason=reason,
    )
