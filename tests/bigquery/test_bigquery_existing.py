"""A check of any existing table of BigQuery, without configuration."""

from __future__ import annotations

import pytest

from onerow.adapters.bigquery.names import TableName
from onerow.bootstrap import open_existing
from onerow.errors import UsageError
from onerow.ports.warehouse import InspectRequest


@pytest.fixture
def table(bq):
    name = TableName(bq.project.project, bq.dataset, "old")
    bq.client.run(f"CREATE TABLE {name.sql} (day DATE, player STRING, line FLOAT64, id INT64)")
    rows = ["('2026-01-17', 'x', 24.5, 1)", "('2026-01-17', 'x', 24.5, 2)", "('2026-01-17', 'x', 25.0, 3)", "('2026-01-18', NULL, 1, 4)"]
    bq.client.run(f"INSERT INTO {name.sql} (day, player, line, id) VALUES {', '.join(rows)}".replace("('2026", "(DATE '2026"))
    return name


def look(bq, **options):
    opened = open_existing(bq.project.url(bq.dataset), **{"target": "old", "key": ["player", "line"], "partition_column": "day", **options})
    try:
        return opened.inspect(InspectRequest(opened.spec, against_ledger=False))
    finally:
        opened.close()


def test_duplicates_are_found_with_their_ids(bq, table):
    found = look(bq, id_column="ID")
    assert (found.rows, found.duplicate_keys, found.extra_rows) == (4, 1, 1)
    (duplicate,) = found.duplicates
    assert (duplicate.partition, duplicate.rows, sorted(duplicate.ids)) == ("2026-01-17", 2, ["1", "2"])
    assert duplicate.key["player"] == "x"


@pytest.mark.parametrize("target", ["{dataset}.old", "{project}.{dataset}.old"])
def test_a_table_by_its_longer_names(bq, table, target):
    assert look(bq, target=target.format(project=bq.project.project, dataset=bq.dataset)).duplicate_keys == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "olb"}, "Names that come near: old"),
        ({"target": "nowhere_at_all.old"}, "There is no dataset"),
        ({"target": "a.b.c.d"}, "project.dataset.table"),
        ({"key": ["plaier"]}, "Names that come near: player"),
        ({"partition_column": "date"}, "has no column 'date'"),
    ],
)
def test_what_is_not_there_is_told_with_near_names(bq, table, options, told):
    with pytest.raises(UsageError) as caught:
        look(bq, **options)
    assert told in str(caught.value)
