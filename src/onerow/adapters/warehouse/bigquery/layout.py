"""Where a part is in BigQuery, and how its manifest is written.

A part is one table of its own in the control dataset, made by one load job that brings the rows, the labels and the
description at once: the manifest cannot be there without the data, nor the data without it. The labels say whose the
table is and which state it is in, so that listing a dataset tells it for all parts without a query:

=================== ===========================================================================
``onerow_kind``     ``part``; ``gone``: what is left of a part whose data was removed; ``quarantine``
``onerow_state``    ``staged``, ``retired``, ``purged`` or ``discarded``
``onerow_table``    digest of the target's name
``onerow_batch``    digest of the batch's name
``onerow_since``    when the state began, in seconds since 1970
=================== ===========================================================================

The description is the manifest as JSON. It has room for 16,384 characters; what may be longer is not in it: the types
of the columns are the descriptions of the columns, and the row counts of very many partitions are counted in the data
when they are asked for.

Source: https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#DestinationTableProperties
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlglot import exp

from onerow.adapters.bigquery.names import DIALECT, TableName, column
from onerow.core.partitions import decode_partition, encode_partition
from onerow.core.parts import MANIFEST_FORMAT, PartManifest, manifest_from_json
from onerow.core.types import parse_type
from onerow.errors import OnerowError, PartCorruptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.names import Names
    from onerow.adapters.bigquery.tables import Table
    from onerow.core.parts import PartState

KIND: Final = "onerow_kind"
STATE: Final = "onerow_state"
TABLE: Final = "onerow_table"
BATCH: Final = "onerow_batch"
SINCE: Final = "onerow_since"

PART: Final = "part"
GONE: Final = "gone"
QUARANTINE: Final = "quarantine"
GONE_SUFFIX: Final = "_gone"

MAX_DESCRIPTION_CHARS: Final = 16_384
LABEL_CHARS: Final = 40
"""Of a digest; a label holds 63 characters."""

_DATA: Final = re.compile(r"part_(p[0-9a-f]{32})_([1-9][0-9]{0,8})")


def label_of(name: str) -> str:
    """Return what stands for a name in a label: labels have small letters, digits, dashes and underscores only."""
    return hashlib.sha256(name.encode()).hexdigest()[:LABEL_CHARS]


def part_labels(table: str, batch: str, *, since_s: int) -> dict[str, str]:
    """Return the labels of a part that waits."""
    return {
        KIND: PART,
        STATE: "staged",
        TABLE: label_of(table),
        BATCH: label_of(batch),
        SINCE: str(since_s),
    }


def data_table(part_id: str, revision: int) -> str:
    """Return the name of the table that holds the rows of a part.

    A part that is staged again after its data was removed has the next revision: whoever still wants to remove the
    data of before removes that.
    """
    return f"part_{part_id}_{revision}"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """What the name of a part's table says."""

    part_id: str
    revision: int


def place_of(table_id: str) -> Place | None:
    """Return what the name of a table, or of what is left of it, says; None if it is none of a part."""
    match = _DATA.fullmatch(table_id.removesuffix(GONE_SUFFIX))
    return None if match is None else Place(match[1], int(match[2]))


def staged_table(names: Names, part: PartManifest) -> TableName:
    """Return the table that holds the rows of a part: one column for each of ``part.columns``, and no other.

    Raises:
        PartCorruptError: the manifest names a place that is not the part's.
    """
    place = place_of(part.data)
    if place is None or place.part_id != part.part_id or part.data.endswith(GONE_SUFFIX):
        raise PartCorruptError(f"The manifest of part {part.part_id} names {part.data!r} as its data.")
    return TableName(names.project, names.control, part.data)


def description_of(part: PartManifest, partition: str | None) -> str:
    """Return the manifest as the description of the part's table.

    Args:
        part: what is staged.
        partition: the column that its partitions are values of.
    """
    data = part.to_json()
    del data["columns"], data["data"], data["data_digest"]
    data["partition_column"] = partition
    text = json.dumps(data, ensure_ascii=False)
    if len(text) > MAX_DESCRIPTION_CHARS:
        data["partitions"] = None
        text = json.dumps(data, ensure_ascii=False)
    return text


def read_manifest(client: BigQuery, table: Table, *, state: PartState, data: str) -> PartManifest:
    """Return the manifest that a table carries.

    Args:
        client: counts the rows of each partition where the description had no room for that.
        table: the part's table, or what is left of it.
        state: what its labels say.
        data: the name of the table that has, or had, the rows.

    Raises:
        PartCorruptError: it carries none that this version can read.
    """
    where = f"in the description of table {table.name}"
    try:
        found = json.loads(table.description)
    except ValueError as error:
        raise PartCorruptError(
            f"There is no manifest {where}.",
            hint="It was changed by hand. Have the worker stage its rows again, then remove this table.",
        ) from error
    if not isinstance(found, dict):
        raise PartCorruptError(f"There is no manifest {where}.", hint="It was changed by hand.")
    if found.get("partitions") is None and found.get("format") == MANIFEST_FORMAT:
        found["partitions"] = _count_partitions(client, table, found, gone=data != table.name.table)
    found |= {
        "columns": [(column.name, column.description) for column in table.columns],
        "data": data,
        "data_digest": "",
    }
    return manifest_from_json(found, state=state, where=where)


def _count_partitions(client: BigQuery, table: Table, found: Mapping[str, Any], *, gone: bool) -> dict[str, int]:
    """Return how many rows of a part are in each partition, as the data tells it.

    What is left of a part has no rows to count; its partitions are of no use any more, so they are told as one.
    """
    name = str(found.get("partition_column"))
    if gone or name not in table.by_name:
        return {"": int(found.get("rows", 0))}
    counted = exp.select(column(name), exp.Count(this=exp.Star())).from_(table.name.node()).group_by(column(name))
    kind = parse_type(table.by_name[name].description)
    try:
        return {
            encode_partition(decode_partition(_text(value), kind)): int(rows)
            for value, rows in client.run(counted.sql(DIALECT)).rows
        }
    except OnerowError as error:
        raise PartCorruptError(f"The partitions of table {table.name} cannot be counted: {error.message}") from error


def _text(value: Any) -> str:
    """Return a value of a partition column as text that ``decode_partition`` takes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
