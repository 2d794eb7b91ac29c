"""Files on their way into a table of staging: made here, loaded by one job, or found to be there already."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING, Final, cast

from google.cloud import bigquery

from onerow.adapters.bigquery.errors import classify
from onerow.adapters.bigquery.patience import Patience
from onerow.errors import StagingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onerow.adapters.warehouse.bigquery.staged import StagedTables

MEMORY_BYTES: Final = 64 * 1024 * 1024
COMPRESSION: Final = "zstd"
MAX_ATTEMPTS: Final = 12
ATTEMPTS_S: Final = 300.0

_TRIED_AGAIN: Final = frozenset({"busy", "lost", "cancelled", "taken"})


def upload_file() -> IO[bytes]:
    """Return a file without a name, in memory up to a bound, that the client library takes for an upload."""
    return cast("IO[bytes]", tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES, mode="rb+"))


def attempts() -> Iterator[int]:
    """Return the numbers of the attempts to load something, with ever longer waits between them."""
    patience = Patience(ATTEMPTS_S)
    for attempt in range(MAX_ATTEMPTS):
        yield attempt
        if not patience.wait():
            return


def load_config(
    schema: Sequence[bigquery.SchemaField], *, description: str, labels: Mapping[str, str]
) -> bigquery.LoadJobConfig:
    """Return what a load job does: make a table that is not there, with everything that is known of it, or fail."""
    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        create_disposition=bigquery.CreateDisposition.CREATE_IF_NEEDED,
        write_disposition=bigquery.WriteDisposition.WRITE_EMPTY,
        schema=list(schema),
        labels={"tool": "onerow"},
    )
    config.destination_table_description = description
    # The library has properties for the description and the friendly name only; the labels stand beside them.
    resource = config.to_api_repr()
    resource["load"]["destinationTableProperties"]["labels"] = dict(labels)
    return cast("bigquery.LoadJobConfig", bigquery.LoadJobConfig.from_api_repr(resource))


def load_once(
    tables: StagedTables, table_id: str, file: IO[bytes], config: bigquery.LoadJobConfig, *, attempt: int
) -> bool | None:
    """Load a file into a table that is not there yet.

    A job that fails has used its id up, so what is worth trying again is tried under the next attempt's.

    Returns:
        True: it was loaded now. False: a job that somebody else has begun has loaded it. None: the table is not there;
        another attempt may go better.

    Raises:
        StagingError: it cannot be loaded, and trying again is of no use.
        OutcomeUnknownError: nobody can tell; the same attempt finds out.
        NotInstalledError: there is no dataset for it.
    """
    try:
        loaded = tables.client.load(
            file, tables.name(table_id), config=config, job=f"{table_id} attempt {attempt}", kind=StagingError
        )
    except StagingError as error:
        if tables.read(table_id) is not None:
            return False
        if error.__cause__ is None or classify(error.__cause__) not in _TRIED_AGAIN:
            raise
        return None
    if loaded is None or tables.read(table_id) is None:  # an old job of that id failed, or its table is gone since
        return None
    return not loaded.adopted
