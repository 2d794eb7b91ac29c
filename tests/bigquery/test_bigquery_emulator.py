"""The emulator of the tests: it keeps the documented rules that the adapter stands on, or fails the run."""

from __future__ import annotations

import datetime as dt
import io
import sys
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core import exceptions as api
from google.cloud import bigquery

from onerow.adapters.bigquery.names import TableName
from support import bigquery as projects

PROPERTIES = {"description": "the manifest", "labels": {"whose": "ours"}}


@pytest.fixture
def table(bq):
    return TableName(bq.project.project, bq.control, "loaded")


def load(bq, table, *, job, properties=PROPERTIES, rows=2, kind="PARQUET"):
    """Run a load job and return it, however it ended."""
    file = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(rows))}), file)
    config = bigquery.LoadJobConfig.from_api_repr(
        {
            "load": {
                "sourceFormat": kind,
                "writeDisposition": "WRITE_EMPTY",
                "schema": {"fields": [{"name": "n", "type": "INT64"}]},
                "destinationTableProperties": properties,
            }
        }
    )
    job_id = f"{bq.control}_{job}"
    sent = bq.api.load_table_from_file(file, table.reference, job_config=config, job_id=job_id, rewind=True)
    assert sent.exception() is None or sent.error_result
    return sent


def test_a_load_job_sets_what_it_says_of_its_table(bq, table):
    assert load(bq, table, job="one").error_result is None
    made = bq.api.get_table(table.reference)
    assert (made.description, made.labels, made.num_rows) == ("the manifest", {"whose": "ours"}, 2)
    (listed,) = bq.api.list_tables(bq.control)
    assert listed.labels == {"whose": "ours"}


def test_a_job_id_is_used_once_by_loads_and_by_queries(bq, table):
    load(bq, table, job="one")
    with pytest.raises(api.Conflict):
        load(bq, TableName(table.project, table.dataset, "other"), job="one")
    bq.api.query("SELECT 1", job_id=f"{bq.control}_two", job_retry=None).result()
    with pytest.raises(api.Conflict):
        bq.api.query("SELECT 1", job_id=f"{bq.control}_two", job_retry=None)
    assert len(list(bq.api.list_tables(bq.control))) == 1


@pytest.mark.parametrize(
    ("properties", "reason"),
    [(PROPERTIES, "duplicate"), ({**PROPERTIES, "description": "another"}, "duplicate")],
)
def test_a_load_job_into_a_table_with_rows_fails_and_changes_nothing(bq, table, properties, reason):
    load(bq, table, job="one")
    assert load(bq, table, job="two", properties=properties, rows=5).error_result["reason"] == reason
    made = bq.api.get_table(table.reference)
    assert (made.num_rows, made.description) == (2, "the manifest")


def test_a_load_job_that_fails_leaves_no_table(bq, table):
    assert load(bq, table, job="one", kind="NEWLINE_DELIMITED_JSON").error_result
    assert list(bq.api.list_tables(bq.control)) == []


def test_a_change_that_names_an_older_state_is_refused(bq, table):
    load(bq, table, job="one")
    first, second = bq.api.get_table(table.reference), bq.api.get_table(table.reference)
    first.labels = {"whose": "mine"}
    bq.api.update_table(first, ["labels"])
    second.labels = {"whose": "yours"}
    with pytest.raises(api.PreconditionFailed):
        bq.api.update_table(second, ["labels"])


def test_a_table_whose_time_has_come_is_gone(bq, table):
    load(bq, table, job="one")
    made = bq.api.get_table(table.reference)
    made.expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    assert bq.api.update_table(made, ["expires"]).expires is not None
    made = bq.api.get_table(table.reference)
    made.expires = dt.datetime.now(dt.UTC)
    bq.api.update_table(made, ["expires"])
    with pytest.raises(api.NotFound):
        bq.api.get_table(table.reference)


def test_rows_are_counted_after_dml_and_columns_after_ddl(bq, table):
    load(bq, table, job="one")
    bq.client.run(f"DELETE FROM {table.sql} WHERE n = 0")
    bq.client.run(f"ALTER TABLE {table.sql} ADD COLUMN IF NOT EXISTS more STRING")
    made = bq.api.get_table(table.reference)
    assert (made.num_rows, [field.name for field in made.schema]) == (1, ["n", "more"])


# --- having it ---------------------------------------------------------------------------------


def test_an_emulator_that_does_not_start_fails_the_run(tmp_path, monkeypatch):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no extension')")
    monkeypatch.setattr(projects, "LAUNCHER", broken)
    with pytest.raises(projects.EmulatorError, match="no extension"):
        projects.Emulator()


def test_a_numeric_keeps_nine_digits_wherever_it_is_written(bq, table):
    """https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#decimal_types"""
    bq.client.run(f"CREATE TABLE {table.sql} (n NUMERIC)")
    bq.client.run(f"INSERT INTO {table.sql} (n) VALUES (NUMERIC '24.123456789')")
    rows = bq.client.run(f"SELECT n, CAST('0.000000001' AS NUMERIC) FROM {table.sql}").rows
    assert rows == ((Decimal("24.123456789"), Decimal("0.000000001")),)


def test_a_step_of_the_installation_that_fails_or_hangs_fails_the_run():
    with pytest.raises(projects.EmulatorError, match="has failed"):
        projects._run([sys.executable, "-c", "raise SystemExit(3)"], 60)
    with pytest.raises(projects.EmulatorError, match="has not ended"):
        projects._run([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
