"""``onerow check --warehouse postgresql://...``: any table, no configuration."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from onerow.bootstrap import open_existing
from onerow.errors import UsageError
from onerow.ports.warehouse import InspectRequest


@pytest.fixture
def table(database):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            'create schema nba; create table nba."Props" (id uuid default gen_random_uuid(), day date, "Player" text, '
            "line float8, at timestamptz); "
            "insert into nba.\"Props\" (day, \"Player\", line) values ('2026-01-11', 'jokic', 24.5), "
            "('2026-01-11', 'jokic', 24.5), ('2026-01-11', null, 24.5), ('2026-01-11', null, 24.5), "
            "('2026-01-12', 'jokic', 25)"
        )
    return database


def look(url, target="nba.Props", key=("player", "line"), **more):
    with closing(open_existing(url, target=target, key=list(key), id_column="id", **more)) as opened:
        return opened.inspect(InspectRequest(opened.spec, against_ledger=False))


def test_any_table_is_looked_at(table):
    check = look(table, partition_column="DAY")
    assert (check.rows, check.partitions, check.duplicate_keys, check.extra_rows) == (5, 2, 2, 2)
    assert [(found.partition, dict(found.key)["Player"], found.rows) for found in check.duplicates] == [
        ("2026-01-11", "jokic", 2),
        ("2026-01-11", None, 2),
    ]
    assert all(len(found.ids) == 2 for found in check.duplicates)


@pytest.mark.parametrize(
    ("target", "key", "said"),
    [
        ("nba.prop", ["line"], "Names that come near: nba.Props."),
        ("nba.props", ["lines"], "Names that come near: line."),
        ("a.b.c", ["x"], "table or schema.table"),
    ],
)
def test_names_that_are_wrong_are_told_with_those_that_come_near(table, target, key, said):
    with pytest.raises(UsageError) as caught:
        look(table, target, key)
    assert said in str(caught.value)
