"""For tests and drills: what a program does to the table that knows nothing of onerow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import duckdb

import onerow
from predictions import settings

if TYPE_CHECKING:
    from google.cloud import bigquery

PAUSE_S: Final = 0.02
_COPIES = """
insert into {target} ({columns})
select {selected} from {target} where game_date = {date} order by prediction_id limit {count}
"""


def inject_duplicate_predictions(
    client: bigquery.Client | None, project_id: str, game_date: str, count: int = 1
) -> None:
    """Insert copies of ``count`` predictions of a date behind onerow's back, under other ids.

    Args:
        client: of BigQuery; None on the embedded default.
        project_id: never the one that people work with.
        game_date: a date that has that many predictions.
        count: how many business keys to duplicate.
    """
    spec = settings.settings_of(project_id).table(settings.TABLE)
    names = ", ".join(column.name for column in spec.stored_columns)
    selected = names.replace("prediction_id", "concat('injected-', prediction_id)", 1)
    target = ".".join(spec.target)
    statement = _COPIES.format(target=target, columns=names, selected=selected, date="{date}", count=int(count))
    if settings.is_embedded(project_id):
        _in_duckdb(project_id, statement.format(date="cast(? as date)"), game_date)
        return
    if client is None:
        raise onerow.UsageError(f"{project_id} is in BigQuery; give a client.")
    from google.cloud import bigquery as google  # noqa: PLC0415 -- an extra; the embedded default needs none

    config = google.QueryJobConfig(query_parameters=[google.ScalarQueryParameter("day", "DATE", game_date)])
    client.query_and_wait(statement.format(date="@day"), job_config=config)


def query(project_id: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a statement on the embedded default's warehouse."""
    return _in_duckdb(project_id, statement, *values)


def _in_duckdb(project_id: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with _connected(settings.settings_of(project_id)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        return connection.execute(statement, list(values)).fetchall()


def _connected(found: onerow.Settings) -> duckdb.DuckDBPyConnection:
    """Open the file; who has it open, in this process or in another one, closes it soon."""
    until_s = time.monotonic() + found.busy_timeout_s
    while True:
        try:
            return duckdb.connect(str(found.warehouse.path))
        except (duckdb.IOException, duckdb.BinderException):
            if time.monotonic() >= until_s:
                raise
        time.sleep(PAUSE_S)
