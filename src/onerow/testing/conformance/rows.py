"""Rows, specs and parts that the checks of part stores are written with."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from onerow.core.rows import arrow_schema
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type

if TYPE_CHECKING:
    from onerow.core.parts import PartManifest, StagedPart
    from onerow.ports.partstore import PartStore, PartWriter

    Row = dict[str, Any]

DAY = dt.date(2026, 1, 11)
COLUMNS = {"day": "date", "k": "string", "line": "decimal(6,2)", "seq": "int64", "at": "timestamp", "note": "string"}


def part_spec(name: str = "predictions", *, partition: str | None = "day") -> TableSpec:
    """Return a table spec with most types."""
    return TableSpec(
        name=name,
        target=(name.replace("/", "_"),),
        key=("k",),
        order_by=("seq",),
        columns=tuple(Column(column, parse_type(kind)) for column, kind in COLUMNS.items()),
        partition=partition,
    )


SPEC = part_spec()


def part_rows(count: int = 3, *, first: int = 0, day: dt.date = DAY) -> list[Row]:
    """Return rows in the spec's types."""
    at = dt.datetime(2026, 1, 11, 1, 6, 34, 538_000, tzinfo=dt.UTC)
    return [
        {"day": day, "k": f"k{number}", "line": None, "seq": number, "at": at, "note": "é🏀"}
        for number in range(first, first + count)
    ]


def begin(
    store: PartStore, rows: list[Row], *, batch: str = "b", worker: str = "w", spec: TableSpec = SPEC
) -> PartWriter:
    """Begin a part, write ``rows`` and do not publish."""
    writer = store.writer(spec, batch=batch, worker=worker, columns=spec.column_names)
    writer.write(pa.RecordBatch.from_pylist(rows, schema=arrow_schema(spec.columns)))
    return writer


def put(
    store: PartStore, rows: list[Row] | None = None, *, batch: str = "b", worker: str = "w", spec: TableSpec = SPEC
) -> StagedPart:
    """Stage ``rows`` as one part."""
    return begin(store, part_rows() if rows is None else rows, batch=batch, worker=worker, spec=spec).publish()


def only(store: PartStore, batch: str = "b") -> PartManifest:
    """Return the one part of a batch."""
    (part,) = store.parts(SPEC.name, batch)
    return part
