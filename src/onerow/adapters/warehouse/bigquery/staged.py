"""The tables of staging as the service keeps them: listed, read, marked, left behind and removed, each step by itself.

Nothing here is a query, so nothing is billed and no query limit is touched; thousands of tables are looked at by
several threads at once.
"""

from __future__ import annotations

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.cloud import bigquery

from onerow.adapters.bigquery.client import REQUEST_TIMEOUT_S
from onerow.adapters.bigquery.errors import classify
from onerow.adapters.bigquery.names import TableName
from onerow.adapters.bigquery.patience import ONCE
from onerow.adapters.warehouse.bigquery import layout
from onerow.errors import NotInstalledError, StagingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.tables import Table

AT_ONCE: Final = 8
"""Requests at a time. The service takes 100 a second of a user and method, and 300 at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what ``work`` returns for each item, in their order; several are done at once."""
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items)), thread_name_prefix="onerow-staging") as threads:
        return list(threads.map(work, items))


class StagedTables:
    """The tables of the control dataset that hold parts and bad rows. For many threads."""

    def __init__(self, client: BigQuery) -> None:
        self.client = client

    def name(self, table_id: str) -> TableName:
        """Return the full name of a table of staging."""
        names = self.client.names
        return TableName(names.project, names.control, table_id)

    def listed(
        self, *, prefix: str, table: str | None = None, batch: str | None = None
    ) -> list[bigquery.table.TableListItem]:
        """Return tables by name, with their labels: those of a target, and of a batch of it, or all."""
        wanted = {
            label: layout.label_of(name) for label, name in ((layout.TABLE, table), (layout.BATCH, batch)) if name
        }
        return [
            item
            for item in self.client.tables(self.client.names.control, prefix=prefix)
            if layout.KIND in item.labels and all(item.labels.get(label) == value for label, value in wanted.items())
        ]

    def read(self, table_id: str) -> Table | None:
        """Return a table with its description; None if there is none, or none that is finished."""
        found = self.client.table(self.name(table_id))
        return found if found is not None and layout.KIND in found.labels else None

    def mark(
        self,
        table: Table,
        labels: Mapping[str, str],
        *,
        description: str | None = None,
        expires_at: dt.datetime | None = None,
    ) -> bool:
        """Change labels, and what else is given, unless somebody else has changed the table since it was read.

        Returns:
            Whether it was changed; False also where the table is gone.
        """
        resource: dict[str, Any] = {
            "tableReference": table.name.reference.to_api_repr(),
            "etag": table.etag,
            "labels": {**table.labels, **labels},
        }
        fields = ["labels"]
        if description is not None:
            resource["description"] = description
            fields.append("description")
        if expires_at is not None:
            resource["expirationTime"] = str(int(expires_at.timestamp() * 1000))
            fields.append("expires")
        changed = bigquery.Table.from_api_repr(resource)
        try:
            self.client.call(
                f"the table {table.name} could not be marked",
                lambda client: client.update_table(changed, fields, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
                kind=StagingError,
            )
        except NotInstalledError:
            return False
        except StagingError as error:
            if error.__cause__ is not None and classify(error.__cause__) == "changed":
                return False
            raise
        return True

    def leave(self, table: Table, table_id: str, labels: Mapping[str, str], *, expires_at: dt.datetime | None) -> None:
        """Make an empty table with the description and the columns of another one. Idempotent."""
        columns = [
            bigquery.SchemaField(column.name, column.plain_type, description=column.description)
            for column in table.columns
        ]
        left = bigquery.Table(self.name(table_id).reference, schema=columns)
        left.description = table.description
        left.labels = dict(labels)
        left.expires = expires_at
        self.client.call(
            f"the table {table_id} could not be made",
            lambda client: client.create_table(left, exists_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
            kind=StagingError,
        )

    def remove(self, table_id: str) -> bool:
        """Remove a table. Returns whether it was there. Idempotent."""
        name = self.name(table_id)
        try:
            self.client.call(
                f"the table {name} could not be removed",
                lambda client: client.delete_table(name.reference, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
                kind=StagingError,
            )
        except NotInstalledError:
            return False
        return True

    def probe(self) -> None:
        """Make a table and remove it again; should that not be possible any more, it expires within the hour.

        Raises:
            StagingError: that is not allowed; the message names the role that is missing.
            NotInstalledError: there is no control dataset.
        """
        name = self.name(f"probe_{uuid.uuid4().hex}")
        table = bigquery.Table(name.reference, schema=[bigquery.SchemaField("nothing", "STRING")])
        table.expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        self.client.call(
            f"no table can be made in dataset {name.dataset}",
            lambda client: client.create_table(table, exists_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
            kind=StagingError,
        )
        self.remove(name.table)
