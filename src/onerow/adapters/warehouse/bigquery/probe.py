"""What ``doctor`` tells of BigQuery: where all is, which roles are missing, what would refuse a consolidation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from onerow.adapters.bigquery.client import REQUEST_TIMEOUT_S
from onerow.adapters.bigquery.errors import ROLES
from onerow.adapters.bigquery.patience import ONCE
from onerow.adapters.warehouse.bigquery import companions
from onerow.adapters.warehouse.bigquery.control_tables import control_tables_of
from onerow.adapters.warehouse.bigquery.fitting import misfits
from onerow.adapters.warehouse.bigquery.install import REMOVED_COLUMNS, REMOVED_SUFFIX, read_guard
from onerow.errors import OnerowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.names import TableName
    from onerow.adapters.bigquery.tables import Table
    from onerow.core.spec import TableSpec

Fact = tuple[str, bool, str]

WRITES: Final = (
    "bigquery.tables.get",
    "bigquery.tables.getData",
    "bigquery.tables.update",
    "bigquery.tables.updateData",
)
"""What a consolidation needs on each table that it changes."""


def probe(client: BigQuery, specs: Sequence[TableSpec]) -> list[Fact]:
    """Return subject, whether it is well, and what is wrong or was found."""
    began_s = time.perf_counter()
    names = client.names
    try:
        location = client.location
        latency_s = time.perf_counter() - began_s
        client.dry_run("SELECT 1")  # the right to start jobs
        facts: list[Fact] = [
            ("warehouse", True, f"reached in {latency_s * 1000:.0f} ms, {names.project}.{names.dataset} in {location}")
        ]
        missing, more = _control_dataset(client, specs, location)
        facts += more
        if missing:
            return facts
    except OnerowError as error:
        return [("warehouse", False, str(error))]
    for spec in specs:
        subject = f"table {spec.name}"
        try:
            problems, remarks = _table(client, spec, location)
        except OnerowError as error:
            facts.append((subject, False, str(error)))
        else:
            facts.append((subject, not problems, "; ".join(problems) or ", ".join(remarks)))
    return facts


def _control_dataset(client: BigQuery, specs: Sequence[TableSpec], location: str) -> tuple[bool, list[Fact]]:
    """Return whether control tables are missing, and the facts about their dataset."""
    names = client.names
    subject = "control tables"
    dataset = client.dataset(names.control)
    if dataset is None:
        return True, [(subject, False, f"there is no dataset {names.control}; run `onerow init`")]
    problems = []
    if str(dataset.location).casefold() != location.casefold():
        where = f"dataset {names.control} is in {dataset.location}"
        problems.append(f"{where}, and jobs run in {location}; no statement reaches both")
    if dataset.default_table_expiration_ms is not None:
        problems.append(
            f"tables of dataset {names.control} expire by default, so parts that wait would vanish; switch that off"
        )
    there = {str(item.table_id) for item in client.tables(names.control)}
    wanted = {name.table for spec in specs for name in control_tables_of(names, spec.name)}
    missing = sorted(wanted - there)
    if missing:
        problems.append(f"missing in dataset {names.control}: {', '.join(missing)}; run `onerow init`")
    return bool(missing), [(subject, not problems, "; ".join(problems) or f"dataset {names.control}")]


def _table(client: BigQuery, spec: TableSpec, location: str) -> tuple[list[str], list[str]]:
    """Return what is wrong with a target, and what there is to say of it."""
    name = client.names.target(spec)
    target = client.table(name)
    if target is None:
        return ["missing; run `onerow init`"], []
    problems = misfits(spec, target)
    if problems:
        return problems, []
    lacking = [declared.name for declared in spec.stored_columns if declared.name not in target.by_name]
    if lacking:
        return [f"lacks {', '.join(lacking)}; run `onerow init`"], []
    guard = read_guard(client, spec)
    if guard is None:
        return ["it has no guard row; run `onerow init`"], []
    if target.location and target.location.casefold() != location.casefold():
        problems.append(f"it is in {target.location}, and jobs run in {location}; no statement reaches both")
    problems += _state(spec, target)
    problems += companions.problems(client, spec, {column.name: column.plain_type for column in target.columns})
    problems += _removed(client, spec)
    problems += _rights(client, [name, client.names.related(spec, REMOVED_SUFFIX)])
    problems += _rights(client, control_tables_of(client.names, spec.name))
    return problems, [f"fits ({guard[1]})", *_remarks(spec, target)]


def _state(spec: TableSpec, target: Table) -> list[str]:
    """Return what would refuse a consolidation, or make every one dear."""
    problems = []
    if target.streaming_rows is not None:
        problems.append(
            f"some {target.streaming_rows} rows are in its streaming buffer, and no transaction may change the table "
            "until they have left it; write with load jobs"
        )
    if target.expires_at is not None:
        problems.append(f"the table expires at {target.expires_at.isoformat()} with all its rows")
    if target.partitioned_by and spec.partition is not None and target.partitioned_by != spec.partition:
        problems.append(
            f"it is partitioned by {target.partitioned_by} and not by its declared partition {spec.partition}, so "
            "every consolidation reads all of it; copy it into a table partitioned by that column"
        )
    return problems


def _remarks(spec: TableSpec, target: Table) -> list[str]:
    remarks = []
    if target.partition_expires_s is not None:
        days = target.partition_expires_s / 86_400
        remarks.append(f"its partitions expire after {days:g} days, and `onerow check` will miss their rows")
    if not target.partitioned_by and not target.clustered_by and spec.partition is not None:
        remarks.append("it is neither partitioned nor clustered, so every consolidation reads all of it")
    return remarks


def _removed(client: BigQuery, spec: TableSpec) -> list[str]:
    name = client.names.related(spec, REMOVED_SUFFIX)
    removed = client.table(name)
    if removed is None:
        return [f"the table {name} is missing; run `onerow init`"]
    wanted = [column.name for column in (*spec.stored_columns, *REMOVED_COLUMNS)]
    missing = [column for column in wanted if column not in removed.by_name]
    return [f"the table {name} lacks {', '.join(missing)}; run `onerow init`"] if missing else []


def _rights(client: BigQuery, tables: Sequence[TableName]) -> list[str]:
    """Return which rights are missing on tables that are there, each with the role that carries it."""
    problems = []
    for name in tables:
        answer = client.call(
            f"the rights on table {name} cannot be asked for",
            lambda api, name=name: api.test_iam_permissions(  # type: ignore[misc]  # the loop's name is bound at once
                name.reference, list(WRITES), retry=ONCE, timeout=REQUEST_TIMEOUT_S
            ),
        )
        missing = [right for right in WRITES if right not in answer.get("permissions", ())]
        problems += [f"{right} is missing on {name}: grant {ROLES[right]}" for right in missing]
    return problems
