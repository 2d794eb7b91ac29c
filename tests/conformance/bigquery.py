"""BigQuery under the conformance suites: two datasets a check."""

from __future__ import annotations


from google.cloud import bigquery

from onerow.adapters.bigquery.client import BigQuery
from onerow.adapters.clock import SystemClock
from onerow.adapters.warehouse.bigquery import layout
from onerow.adapters.warehouse.bigquery.parts import BigQueryParts
from onerow.errors import PartCorruptError, PartGoneError
from onerow.testing.conformance.harness import PartStoreHarness
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


class BigQueryPartsHarness(PartStoreHarness):
    def __init__(self, folder):
        self._project = projects.project()
        self._dataset = self._project.create()
        self._control = self._project.create()
        self._opened = []
        self._client = self.client()

    def client(self):
        self._opened.append(BigQuery(self._project.url(self._dataset), control=self._control))
        return self._opened[-1]

    def store(self, is_merged=None):
        return BigQueryParts(self.client(), clock=SystemClock(), is_merged=is_merged or (lambda *_: False))

    def rows(self, part):
        return rows_of(self._client, part)

    def lose_data(self, part):
        self._client.run(f"DELETE FROM {layout.staged_table(self._client.names, part).sql} WHERE TRUE")

    def damage_data(self, part):
        table = layout.staged_table(self._client.names, part)
        self._client.run(f"DELETE FROM {table.sql} WHERE `seq` = 0")

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

    def close(self):
        for client in self._opened:
            client.close()
        for dataset in (self._dataset, self._control):
            self._project.drop(dataset)
