"""What ``init`` makes in BigQuery, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlglot
from google.cloud import bigquery

from onerow.adapters.bigquery.names import DIALECT, Names, TableName, bigquery_type, check_names, schema_field
from onerow.adapters.bigquery.tables import TableColumn
from onerow.adapters.warehouse.bigquery import companions
from onerow.adapters.warehouse.bigquery.fitting import misfit
from onerow.adapters.warehouse.bigquery.install import install, new_target, read_guard
from onerow.core.spec import Column
from onerow.core.types import ColumnType, parse_type
from onerow.errors import ConfigurationError, DuplicatesError, NotInstalledError
from onerow.testing.conformance.asking import together
from onerow.testing.conformance.harness import COLUMNS, SPEC, VERSIONS

NAMES = Names("p", "d", "onerow")
TARGET = TableName("p", "d", "props")
REQUIRED = tuple(replace(column, required=column.name in {"player", "line"}) for column in COLUMNS)


# --- the table that is made --------------------------------------------------------------------


def resource(spec):
    return new_target(spec, TARGET).to_api_repr()


def test_a_target_is_partitioned_by_its_date_and_clustered_by_its_key():
    made = resource(SPEC)
    assert made["timePartitioning"] == {"type": "DAY", "field": "game_date"}
    assert made["clustering"] == {"fields": ["player", "line"]}
    modes = {field["name"]: field["mode"] for field in made["schema"]["fields"]}
    assert {name for name, mode in modes.items() if mode == "REQUIRED"} == {"game_date"}


@pytest.mark.parametrize("kind", ["string", "int64", "bool", "decimal(6,2)"])
def test_a_partition_that_is_no_date_is_clustered(kind):
    columns = (Column("place", parse_type(kind)), *COLUMNS)
    made = resource(replace(SPEC, columns=columns, partition="place"))
    assert "timePartitioning" not in made
    assert made["clustering"]["fields"][0] == "place"


def test_a_table_without_partitions():
    made = resource(replace(SPEC, partition=None))
    assert "timePartitioning" not in made
    assert made["clustering"] == {"fields": ["player", "line"]}


def test_no_more_than_four_columns_cluster_a_table():
    names = [f"k{number}" for number in range(6)]
    columns = (*COLUMNS, *(Column(name, ColumnType("int64")) for name in names))
    assert resource(replace(SPEC, columns=columns, key=tuple(names)))["clustering"] == {"fields": names[:4]}


def test_the_primary_key_is_declared_where_no_column_of_it_may_be_null():
    """The engine believes it, and demands both; a key column of ours may be NULL unless it is declared otherwise."""
    assert "tableConstraints" not in resource(SPEC)
    declared = replace(SPEC, columns=REQUIRED)
    assert resource(declared)["tableConstraints"]["primaryKey"] == {"columns": ["game_date", "player", "line"]}
    assert "tableConstraints" not in resource(replace(declared, enforce=False))
    versions = replace(VERSIONS, columns=REQUIRED)
    assert resource(versions)["tableConstraints"]["primaryKey"]["columns"][-1] == "version"
    many = [Column(f"k{number}", ColumnType("int64"), required=True) for number in range(17)]
    wide = replace(SPEC, columns=(*COLUMNS, *many), key=tuple(column.name for column in many))
    assert "tableConstraints" not in resource(wide)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("string", "STRING"), ("int64", "INT64"), ("float64", "FLOAT64"), ("bool", "BOOL"), ("date", "DATE"),
        ("timestamp", "TIMESTAMP"), ("json", "STRING"), ("decimal(6,2)", "NUMERIC(6, 2)"),
        ("decimal(38,9)", "NUMERIC(38, 9)"), ("decimal(38,10)", "BIGNUMERIC(38, 10)"),
        ("decimal(30,0)", "BIGNUMERIC(30, 0)"), ("decimal(29,0)", "NUMERIC(29, 0)"),
        ("decimal(38,38)", "BIGNUMERIC(38, 38)"),
    ],
)  # fmt: skip
def test_types(kind, text):
    column = Column("x", parse_type(kind))
    assert bigquery_type(column.type) == text
    field = schema_field(column, description=kind)
    assert (field.field_type, field.description) == (text.partition("(")[0], kind)


# --- what fits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "actual", "told"),
    [
        ("decimal(6,2)", "NUMERIC", ""),
        ("decimal(6,2)", "NUMERIC(6, 2)", ""),
        ("decimal(6,2)", "NUMERIC(6)", "declared as decimal"),
        ("decimal(6,2)", "NUMERIC(5, 2)", "declared as decimal"),
        ("decimal(6,2)", "BIGNUMERIC(38, 38)", "declared as decimal"),
        ("decimal(38,38)", "BIGNUMERIC", ""),
        ("decimal(6,2)", "FLOAT64", ""),
        ("decimal(16,2)", "FLOAT64", "gives back 15 digits"),
        ("decimal(12,10)", "FLOAT64", "gives back 15 digits"),
        ("decimal(6,2)", "INT64", "declared as decimal"),
        ("timestamp", "TIMESTAMP", ""),
        ("timestamp", "DATETIME", ""),
        ("json", "STRING", ""),
        ("json", "JSON", "rounds long numbers"),
        ("string", "BYTES", "declared as string"),
        ("int64", "FLOAT64", "declared as int64"),
    ],
)
def test_what_fits_a_declaration(declared, actual, told):
    problem = misfit(
        Column("x", parse_type(declared)), TableColumn("x", actual, required=False, description=""), is_partition=False
    )
    assert (told in problem) if told else problem == ""


def test_a_float_is_no_partition():
    column = TableColumn("x", "FLOAT64", required=False, description="")
    assert "no partition" in misfit(Column("x", parse_type("decimal(6,2)")), column, is_partition=True)


@pytest.mark.parametrize(
    "change",
    [
        {"target": ("a", "b", "c", "d")},
        {"target": ("da-ta", "t")},
        {"target": ("t`; drop",)},
        {"target": ("x" * 200 + "é" * 0 + "*",)},
    ],
)
def test_names_that_cannot_be(change):
    with pytest.raises(ConfigurationError):
        check_names(replace(SPEC, **change))


@pytest.mark.parametrize("name", ["a b", "1st", "_PARTITIONDATE", "_table_suffix", "__onerow_run", "é", 'say "x"', "a;b"])
def test_column_names_that_cannot_be(name):
    with pytest.raises(ConfigurationError, match="rename it"):
        check_names(replace(SPEC, columns=(*COLUMNS, Column(name, ColumnType("string")))))


def test_names():
    assert str(NAMES.target(SPEC)) == "p.d.props"
    assert str(NAMES.target(replace(SPEC, target=("nba", "props")))) == "p.nba.props"
    assert str(NAMES.target(replace(SPEC, target=("q", "nba", "props")))) == "q.nba.props"
    assert NAMES.own("guards", "t").table != NAMES.own("guards", "T").table
    assert TableName("p", "d", "t").sql == "`p`.`d`.`t`"


# --- against the service -----------------------------------------------------------------------


def test_the_guard_row_is_made_once_by_many_at_once(bq):
    """Two rows would be two guards, and inserting them conflicts with nothing."""
    clients = [bq.open() for _ in range(3)]
    together(
        [lambda client=client: install(client, [SPEC], lock_store="locks", adopt_locks=False) for client in clients]
    )
    guards = bq.client.names.own("guards", SPEC.name)
    assert bq.client.run(f"SELECT table_name, attempt, lock_store, origin FROM {guards.sql}").rows == (
        ("props", 0, "locks", "created"),
    )


def test_an_init_that_was_killed_is_finished_by_the_next_one(bq, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onerow.adapters.warehouse.bigquery.install.create_guard", killed)
        with pytest.raises(KeyboardInterrupt):
            bq.install()
    assert read_guard_or_none(bq) is None
    _, made = bq.install()
    assert made == ["guard row of props"]
    assert read_guard(bq.client, SPEC) is not None


def read_guard_or_none(bq):
    try:
        return read_guard(bq.client, SPEC)
    except NotInstalledError:
        return None


def test_a_second_guard_row_is_an_error(bq):
    bq.install()
    guards = bq.client.names.own("guards", SPEC.name)
    bq.client.run(f"INSERT INTO {guards.sql} SELECT * FROM {guards.sql}")
    with pytest.raises(ConfigurationError, match="2 guard rows"):
        bq.install()


def test_an_emptied_guard_table_is_an_error(bq):
    bq.install()
    bq.client.run(f"DELETE FROM {bq.client.names.own('guards', SPEC.name).sql} WHERE TRUE")
    with pytest.raises(ConfigurationError, match="without its guard row"):
        bq.install()


def test_a_control_dataset_whose_tables_expire_is_refused(bq):
    dataset = bq.api.get_dataset(bq.control)
    dataset.default_table_expiration_ms = 3_600_000
    bq.api.update_dataset(dataset, ["default_table_expiration_ms"])
    with pytest.raises(ConfigurationError, match="expire by default"):
        bq.install()


def test_a_control_dataset_elsewhere_is_refused(bq):
    if bq.project.is_real:
        pytest.fail("needs a project of its own, in which datasets may stand anywhere")
    bq.project.drop(bq.control)
    dataset = bigquery.Dataset(f"{bq.project.project}.{bq.control}")
    dataset.location = "EU"
    bq.api.create_dataset(dataset)
    with pytest.raises(ConfigurationError, match="is in EU, and jobs run in US"):
        bq.install()


def test_the_control_dataset_is_made_where_the_data_is(bq):
    bq.project.drop(bq.control)
    _, made = bq.install()
    assert made[0] == f"dataset {bq.control}"
    assert bq.client.dataset(bq.control).location == bq.client.location


def test_a_target_in_a_dataset_that_is_not_there(bq):
    with pytest.raises(NotInstalledError, match="There is no dataset"):
        bq.install(target=("nowhere_at_all", "props"))


def test_a_float_key_of_an_adopted_table_is_compared_as_numeric(bq):
    """24.5 and 25.0 are two keys, whatever an INT64 would make of them."""
    name = bq.client.names.target(SPEC)
    bq.client.run(
        f"CREATE TABLE {name.sql} (id STRING, game_date DATE, player STRING, line FLOAT64, created_at TIMESTAMP, "
        "points FLOAT64, seen INT64)"
    )
    bq.install()
    for line, count in ((24.5, 2), (25.0, 1), (24.1, 2)):
        for number in range(count):
            bq.client.run(
                f"INSERT INTO {name.sql} (id, game_date, player, line, created_at) VALUES "
                f"('{line}-{number}', DATE '2026-01-17', 'x', {line}, TIMESTAMP '2026-01-17 12:00:00 UTC')"
            )
    view = bq.client.names.related(SPEC, "_duplicates")
    found = bq.client.run(f"SELECT line, row_count, ids FROM {view.sql} ORDER BY line").rows
    assert [(float(line), count, ids) for line, count, ids in found] == [(24.1, 2, "24.1-0, 24.1-1"), (24.5, 2, "24.5-0, 24.5-1")]
    sql = companions.views_of(bq.client, VERSIONS, {"line": "FLOAT64"})[1].query
    assert "PARTITION BY `game_date`, `player`, CAST(`line` AS NUMERIC)" in sql, "FLOAT64 cannot partition a window"
    assert "INT64" not in sql


def test_a_view_of_somebody_else_is_not_replaced(bq):
    view = bq.client.names.related(SPEC, "_duplicates")
    bq.client.run(f"CREATE VIEW {view.sql} AS SELECT 1 AS n")
    with pytest.raises(ConfigurationError, match="not made by onerow"):
        bq.install()
    assert bq.client.table(bq.client.names.target(SPEC)) is None, "nothing was created"


def test_a_required_filter_on_another_column_is_refused(bq, monkeypatch):
    bq.install()
    table = bq.client.table
    other = {"filter_required": True, "partitioned_by": "created_at"}
    monkeypatch.setattr(
        bq.client, "table", lambda name: found and replace(found, **other) if (found := table(name)) else None
    )
    with pytest.raises(ConfigurationError, match="requires a filter on created_at"):
        bq.install()


def test_identical_rows_are_not_taken_into_versions_mode(bq):
    bq.install()
    target = bq.client.names.target(SPEC)
    for _ in range(2):
        bq.client.run(f"INSERT INTO {target.sql} (id, game_date) VALUES ('x', DATE '2026-01-17')")
    with pytest.raises(DuplicatesError, match="1 rows that are identical"):
        bq.install(VERSIONS)
    assert "version" not in bq.client.table(target).by_name


def test_a_numbering_that_was_killed_is_finished(bq, monkeypatch):
    bq.install()
    target = bq.client.names.target(SPEC)
    bq.client.run(f"INSERT INTO {target.sql} (id, game_date) VALUES ('x', DATE '2026-01-17'), ('y', DATE '2026-01-17')")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onerow.adapters.warehouse.bigquery.install.number_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            bq.install(VERSIONS)
    _, made = bq.install(VERSIONS)
    assert any("versions of rows" in line for line in made)
    assert bq.client.run(f"SELECT id, version FROM {target.sql} ORDER BY id").rows == (("x", 1), ("y", 2))
    assert bq.install(VERSIONS)[1] == []


def test_the_statements_of_views_parse_in_the_dialect(bq):
    for view in companions.views_of(bq.client, VERSIONS, {"line": "NUMERIC"}):
        (tree,) = sqlglot.parse(view.query, dialect=DIALECT)
        assert tree.sql(DIALECT) == view.query
