"""The schema files: what onerow would make, what BigQuery takes, and the monitor views on either engine."""

from __future__ import annotations

import os
import re
import shutil

import duckdb
import pytest
from sqlglot import exp

from onerow.adapters.bigquery.names import TableName
from onerow.adapters.warehouse.bigquery.install import new_target
from predictions import schemas
from predictions.testing import inject_duplicate_predictions, query
from support.grading import prediction
from support.nba import DATE, Platform, settings

ROWS = [prediction(name) for name in "abc"]
MONITOR = "nba_predictions.duplicate_predictions_monitor"


def declared(statement):
    """Return what a CREATE TABLE declares: columns, partition, clustering, primary key."""
    columns = [
        (one.name, re.sub(r"\s", "", one.args["kind"].sql("bigquery")), any(isinstance(rule.kind, exp.NotNullColumnConstraint) for rule in one.constraints))
        for one in statement.find_all(exp.ColumnDef)
    ]  # fmt: skip
    partitioned, clustered = statement.find(exp.PartitionedByProperty), statement.find(exp.ClusterProperty)
    (key,) = statement.find_all(exp.PrimaryKey)
    assert "NOT ENFORCED" in key.sql("bigquery")
    return columns, partitioned.this.name, [one.name for one in clustered.expressions], [one.name for one in key.expressions]


@pytest.mark.parametrize("mode", ["upsert", "versions"])
@pytest.mark.parametrize("table", [settings.TABLE, settings.GRADES])
def test_a_schema_file_is_what_the_configuration_says(table, mode, monkeypatch):
    monkeypatch.setenv(settings.MODE, mode)
    spec = settings.settings_of("my-project").table(table)
    columns, partition, clustered, key = declared(schemas.read(schemas.file_of(spec)))
    made = new_target(spec, TableName("p", "d", table)).to_api_repr()
    legacy = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}

    def engine_type(field):
        digits = f"({field['precision']},{field['scale']})" if "precision" in field else ""
        return legacy.get(field["type"], field["type"]) + digits

    assert columns == [(one["name"], engine_type(one), one["mode"] == "REQUIRED") for one in made["schema"]["fields"]]
    assert made["timePartitioning"]["field"] == partition
    assert made["clustering"]["fields"] == clustered
    required = {name for name, _, is_required in columns if is_required}
    assert set(key) <= required, "the engine demands that no column of the key is NULL"
    assert "current_points_line" not in required, "which is why the business key is none"
    assert key == ["game_date", "prediction_id", *([spec.version_column] if spec.version_column else [])]


def test_every_file_in_the_folder_is_used():
    files = {file.relative_to(schemas.FOLDER).as_posix() for file in schemas.FOLDER.rglob("*.sql")}
    tables = {f"{folder}{name}.sql" for folder in ("", "versions/") for name in schemas.TABLES}
    assert files == tables | {f"{view}.sql" for view in schemas.VIEWS}


def test_the_dataset_and_the_statements_are_shown_before_anything_is_done(monkeypatch, capsys):
    monkeypatch.setenv(settings.DATASET, "props")
    assert schemas.main(["--project", "my-project"]) == 0
    shown = capsys.readouterr().out
    for name in (settings.TABLE, settings.GRADES):
        assert f"CREATE TABLE IF NOT EXISTS `props`.`{name}`" in shown
        assert f"FROM `props`.`{name}_duplicates`" in shown
    assert "init" in shown
    assert "nba_predictions" not in shown


@pytest.mark.parametrize("mode", ["upsert", "versions"])
def test_the_views_of_the_embedded_default_count_duplicates_by_date(mode, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(settings.MODE, mode)
    local = Platform(settings.LOCAL)
    local.stage(ROWS, batch="b")
    assert local.consolidate("b").success
    assert query(local.project_id, f"select * from {MONITOR}") == []
    inject_duplicate_predictions(None, local.project_id, DATE, count=2)
    assert query(local.project_id, f"select game_date::varchar, duplicate_keys, extra_rows from {MONITOR}") == [(DATE, 2, 2)]
    assert query(local.project_id, "select * from nba_predictions.duplicate_grades_monitor") == []
    shutil.copy(settings.settings_of(local.project_id).warehouse.path, tmp_path / "other_name.duckdb")
    with duckdb.connect(str(tmp_path / "other_name.duckdb")) as connection:
        assert connection.execute(f"select duplicate_keys from {MONITOR}").fetchall() == [(2,)]
    assert schemas.main(["--apply"]) == 0
    assert "in place: duplicate_predictions_monitor" in capsys.readouterr().out


def test_a_warehouse_without_monitor_views_is_told(local, capsys, monkeypatch):
    file = settings.configuration_file(local.project_id)
    file.write_text(file.read_text().replace('"duckdb:///predictions.duckdb"', '"postgresql://localhost/props"'))
    assert schemas.main([]) == 2
    assert "TABLE_duplicates" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["upsert", "versions"])
def test_bigquery_takes_the_schema_files_and_onerow_takes_the_tables(cloud, mode, monkeypatch, capsys):
    monkeypatch.setenv(settings.MODE, mode)
    assert schemas.main(["--project", cloud.project_id, "--apply"]) == 0
    made = capsys.readouterr().out
    assert f"in place: {settings.TABLE}\n" in made
    found = cloud.client.get_table(f"{cloud.project_id}.nba_predictions.{settings.TABLE}")
    assert (found.time_partitioning.field, found.clustering_fields[0]) == ("game_date", "game_id")
    cloud.stage(ROWS, batch="b")
    assert cloud.consolidate("b").rows_affected == 3
    assert list(cloud.client.query_and_wait(f"select * from {MONITOR}")) == []
    inject_duplicate_predictions(cloud.client, cloud.project_id, DATE, count=2)
    counted = cloud.client.query_and_wait(f"select cast(game_date as string), duplicate_keys, extra_rows from {MONITOR}")
    assert [tuple(row) for row in counted] == [(DATE, 2, 2)]
    assert os.environ["BIGQUERY_EMULATOR_HOST"], "that was the emulator"
