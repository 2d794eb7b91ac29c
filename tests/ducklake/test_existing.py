"""``onerow check --warehouse ducklake:...``: any table of a lake, no configuration."""

from __future__ import annotations

import json
from contextlib import closing

import duckdb
import pytest
from click.testing import CliRunner

from onerow.adapters.warehouse.ducklake import extensions
from onerow.bootstrap import open_existing
from onerow.errors import NotInstalledError, UsageError
from onerow.faces.cli.main import cli
from onerow.ports.warehouse import InspectRequest
from support import postgres as servers


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path, monkeypatch):
    """A lake of somebody else, whose data path is relative and whose few rows are in the catalog."""
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        name, source, catalog = None, "sqlite:cat.sqlite", "sqlite:///cat.sqlite"
    else:
        name = servers.databases().create()
        catalog = servers.databases().url(name)
        source = f"postgres:{catalog}"
    with closing(duckdb.connect()) as connection:
        extensions.load(connection, ("ducklake", "sqlite_scanner", "postgres_scanner"))
        connection.execute(f"attach 'ducklake:{source}' as lake (data_path 'lake')")
        connection.execute(
            'create schema lake.nba; create table lake.nba."Props" (id integer, day date, "Player" text, line double); '
            "insert into lake.nba.\"Props\" values (1, '2026-01-11', 'jokic', 24.5), (2, '2026-01-11', 'jokic', 24.5), "
            "(3, '2026-01-11', null, 24.5), (4, '2026-01-11', null, 24.5), (5, '2026-01-12', 'jokic', 25)"
        )
        connection.execute('insert into lake.nba."Props" select i, \'2026-01-13\', i::text, 1 from range(5, 500) t(i)')
    separator = "&" if "?" in catalog else "?"
    yield f"ducklake:{catalog}{separator}data_path=lake"
    if name is not None:
        servers.databases().drop(name)


def look(url, target="nba.Props", key=("player", "line"), **more):
    with closing(open_existing(url, target=target, key=list(key), id_column="id", **more)) as opened:
        return opened.inspect(InspectRequest(opened.spec, against_ledger=False))


def test_any_table_is_looked_at(url):
    check = look(url, partition_column="DAY")
    assert (check.rows, check.partitions, check.duplicate_keys, check.extra_rows) == (500, 3, 2, 2)
    assert [(found.partition, dict(found.key)["Player"], sorted(found.ids)) for found in check.duplicates] == [
        ("2026-01-11", "jokic", ["1", "2"]),
        ("2026-01-11", None, ["3", "4"]),
    ]


def test_looking_changes_nothing(url, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    look(url)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("target", "key", "said"),
    [
        ("nba.prop", ["line"], "Names that come near: nba.Props."),
        ("nba.props", ["lines"], "Names that come near: line."),
        ("a.b.c", ["x"], "is table or schema.table"),
    ],
)
def test_names_that_are_wrong_are_told_with_those_that_come_near(url, target, key, said):
    with pytest.raises(UsageError) as caught:
        look(url, target, key)
    assert said in str(caught.value)


def test_no_lake_is_made_by_looking(tmp_path):
    url = f"ducklake:sqlite:///{tmp_path}/none.sqlite?data_path={tmp_path}/lake"
    with pytest.raises(NotInstalledError, match="There is no lake"):
        look(url)
    assert list(tmp_path.iterdir()) == []


def test_the_command_finds_duplicates(url):
    common = ["check", "--warehouse", url, "--target", "nba.props", "--key", "player,line", "--output", "json"]
    result = CliRunner().invoke(cli, common)
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["tables"][0]["duplicate_keys"] == 2
