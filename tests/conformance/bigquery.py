"""BigQuery under the conformance suites: two datasets a check."""

from __future__ import annotations

import io
import uuid
from decimal import Decimal
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigquery

from onerow.adapters.bigquery.client import BigQuery
from onerow.adapters.bigquery.names import TableName, schema_field
from onerow.adapters.clock import SystemClock
from onerow.adapters.warehouse.bigquery import layout
from onerow.adapters.warehouse.bigquery.parts import BigQueryParts
from onerow.core.rows import arrow_schema
from onerow.errors import PartCorruptError, PartGoneError
from onerow.testing.conformance.harness import PartStoreHarness, WarehouseHarness
from support import bigquery as projects


def rows_of(client, part):
    """Return the rows of a part as a warehouse reads them."""
    table = layout.staged_table(client.names, part)
    if client.table(table) is None:
        raise PartGoneError(f"no table {table}")
    names = ", ".join(f"`{name}`" for name, _ in part.columns)
    found = client.run(f"SELECT {names} FROM {table.sql}").rows
    if not found:
        raise PartGoneError(f"no rows in {table}")
    if len(found) != part.rows:
        raise PartCorruptError(f"{len(found)} rows in {table}")
    return [dict(zip([name for name, _ in part.columns], row, strict=True)) for row in found]


class Datasets:
    """A dataset for targets and one for control tables, and clients on them."""

    def __init__(self):
        self._project = projects.project()
        self._dataset = self._project.create()
        self._control = self._project.create()
        self._opened = []
        self._client = self.client()

    def client(self):
        self._opened.append(BigQuery(self._project.url(self._dataset), control=self._control))
        return self._opened[-1]

    def lose_data(self, part):
        self._client.run(f"DELETE FROM {layout.staged_table(self._client.names, part).sql} WHERE TRUE")

    def damage_data(self, part):
        table = layout.staged_table(self._client.names, part)
        self._client.run(f"INSERT INTO {table.sql} SELECT * FROM {table.sql} LIMIT 1")

    def close(self):
        for client in self._opened:
            client.close()
        for dataset in (self._dataset, self._control):
            self._project.drop(dataset)


class BigQueryPartsHarness(Datasets, PartStoreHarness):
    def __init__(self, folder):
        super().__init__()

    def store(self, is_merged=None):
        return BigQueryParts(self.client(), clock=SystemClock(), is_merged=is_merged or (lambda *_: False))

    def rows(self, part):
        return rows_of(self._client, part)

    def damage_manifest(self, part):
        self._change(part.data, {"description": "{}"}, ["description"])

    def damage_quarantine(self, table, quarantine_id):
        name = self._client.names.shared(f"{layout.QUARANTINE}_{quarantine_id}")
        self._client.run(f"DELETE FROM {name.sql} WHERE position = 2")

    def age(self, parts, seconds):
        for part in parts:
            labels = self._client.table(layout.staged_table(self._client.names, part)).labels
            since = int(labels[layout.SINCE]) - int(seconds)
            self._change(part.data, {"labels": {**labels, layout.SINCE: str(since)}}, ["labels"])

    def _change(self, table_id, changes, fields):
        reference = self._client.names.shared(table_id).reference.to_api_repr()
        table = bigquery.Table.from_api_repr({"tableReference": reference, **changes})
        self._project.client.update_table(table, fields)


class BigQueryHarness(Datasets, WarehouseHarness):
    parameter = "?"
    has_own_clock = True
    rounds = 2  # every transaction is a script of a dozen statements, and the emulator runs one at a time
    options = MappingProxyType({})

    def __init__(self, folder):
        from onerow.adapters.warehouse.bigquery.warehouse import BigQueryWarehouse

        super().__init__()
        self._parts = BigQueryParts(self._client, clock=SystemClock(), is_merged=lambda *_: False)
        self._warehouses = [BigQueryWarehouse(self.client(), **self.options) for _ in range(2)]
        self._calls = 0

    @property
    def parts(self):
        return self._parts

    def warehouse(self):
        """Take turns: consecutive calls give different objects."""
        self._calls += 1
        return self._warehouses[self._calls % len(self._warehouses)]

    def table_rows(self, spec):
        names = ", ".join(f"`{column.name}`" for column in spec.stored_columns)
        found = self._client.run(f"SELECT {names} FROM {self._client.names.target(spec).sql}").rows
        return [
            {column.name: scaled(column, value) for column, value in zip(spec.stored_columns, row, strict=True)}
            for row in found
        ]

    def related_rows(self, spec, suffix):
        name = self._client.names.related(spec, suffix)
        return [dict(row.items()) for row in self._project.client.query_and_wait(f"SELECT * FROM {name.sql}")]

    def foreign_insert(self, spec, rows):
        """Load a file beside the target, then insert from it by one statement."""
        columns = spec.stored_columns
        table = pa.Table.from_pylist(list(rows), schema=arrow_schema(columns))
        beside = TableName(self._project.project, self._dataset, f"foreign_{uuid.uuid4().hex}")
        file = io.BytesIO()
        pq.write_table(table, file)
        config = bigquery.LoadJobConfig(source_format="PARQUET", schema=[schema_field(column) for column in columns])
        self._client.load(file, beside, config=config, job=beside.table)
        names = ", ".join(f"`{column.name}`" for column in columns)
        target = self._client.names.target(spec)
        self._client.run(f"INSERT INTO {target.sql} ({names}) SELECT {names} FROM {beside.sql}")

    def forget_ledger(self, spec):
        ledger = self._client.names.shared("ledger")
        self._client.run(f"DELETE FROM {ledger.sql} WHERE table_name = '{spec.name}'")

    def foreign_delete_all(self, spec):
        self._client.run(f"DELETE FROM {self._client.names.target(spec).sql} WHERE TRUE")

    def foreign_fence(self, spec, partition, token):
        fences = self._client.names.own("fences", spec.name)
        self._client.run(f"INSERT INTO {fences.sql} (table_name, partition, token) VALUES ('{spec.name}', '{partition or ''}', {token})")

    def snapshot(self):
        """Copy every table but those of staging. The service would clone them."""
        moment = {}
        for dataset in (self._dataset, self._control):
            for item in self._client.tables(dataset):
                name = TableName(self._project.project, dataset, item.table_id)
                if item.table_type == "TABLE" and not item.table_id.startswith(("part_", "quarantine_", "foreign_")):
                    copy = TableName(self._project.project, dataset, f"foreign_{uuid.uuid4().hex}")
                    self._client.run(f"CREATE TABLE {copy.sql} AS SELECT * FROM {name.sql}")
                    moment[name] = copy
        return moment

    def go_back(self, moment):
        for name, copy in moment.items():
            self._client.run(f"DELETE FROM {name.sql} WHERE TRUE")
            self._client.run(f"INSERT INTO {name.sql} SELECT * FROM {copy.sql}")


def scaled(column, value):
    """Return a decimal with the digits of its declaration; the emulator forgets precision and scale."""
    return value.quantize(Decimal(1).scaleb(-column.type.scale)) if isinstance(value, Decimal) else value
