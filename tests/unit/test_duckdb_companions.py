"""The views beside a target in a DuckDB file: anybody can read them, and nobody else's is touched."""

from __future__ import annotations

import shutil

import duckdb
import pytest

import onerow
from onerow.errors import ConfigurationError
from support.bench import Bench

TABLE = """
[tables.props]
key = ["k"]
partition = "day"
order_by = ["seq"]
target = "{target}"
id = "id"
{more}
[tables.props.columns]
id = "string"
day = "date"
k = "string"
seq = "int64"
"""
VERSIONS = 'mode = "versions"\nversion_column = "v"'


def bench(folder, *, target="nba.props", more="", **config):
    return Bench(folder, tables=TABLE.format(target=target, more=more), table="props", **config)


def rows(path, statement):
    with duckdb.connect(str(path)) as connection:
        return connection.execute(statement).fetchall()


@pytest.mark.parametrize("target", ["props", "nba.props", '"odd ""schema".\'"Prop s; --"\''.replace("'", "")])
def test_the_views_read_under_every_name_of_the_file(tmp_path, target):
    """DuckDB names a file's catalog after the file; one called like the schema makes 'nba.props' ambiguous."""
    made = bench(tmp_path, target=target.replace('"', '\\"'), more=VERSIONS)
    with made.open() as store:
        store.stage("props", [{"id": "a", "day": "2026-01-10", "k": "x", "seq": n} for n in (1, 2)], batch="b")
        assert store.consolidate("props", "b").success
        spec = store.tables["props"]
    names = [".".join('"' + part.replace('"', '""') + '"' for part in spec.target)[:-1] + suffix for suffix in
             ('_current"', '_duplicates"', '"')]  # fmt: skip
    for name in ("nba.duckdb", "onerow_db.duckdb", "elsewhere.duckdb"):
        path = tmp_path / "copies" / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(made.database, path)
        with duckdb.connect() as connection:
            connection.execute(f"attach '{path}' as somewhere (read_only)")
            assert connection.execute(f"select id, seq, v from somewhere.{names[0]}").fetchall() == [("a", 2, 2)]
            assert connection.execute(f"select * from somewhere.{names[1]}").fetchall() == []
        with duckdb.connect(str(path)) as connection:
            catalog = path.stem
            prefix = f"{catalog}." + ("main." if len(spec.target) == 1 else "")
            assert connection.execute(f"select id, seq, v from {prefix}{names[0]}").fetchall() == [("a", 2, 2)]
            connection.execute(f"insert into {prefix}{names[2]} select * from {prefix}{names[2]} where v = 1")
            found = connection.execute(f"select k, v, row_count, ids, newest from {prefix}{names[1]}").fetchall()
            assert found == [("x", 1, 2, "a, a", 1)]


def test_the_readers_settings_do_not_change_what_is_newest(tmp_path):
    made = bench(tmp_path, more=VERSIONS)
    with made.open() as store:
        store.stage("props", [{"id": i, "day": "2026-01-10", "k": "x", "seq": 1} for i in ("a", None)], batch="b")
        assert store.consolidate("props", "b").success
    for order in ("nulls_first", "nulls_last"):
        with duckdb.connect(str(made.database)) as connection:
            connection.execute(f"set default_null_order = '{order}'")
            connection.execute("set default_order = 'desc'")
            assert connection.execute("select id from nba.props_current").fetchall() == [("a",)], order


@pytest.mark.parametrize(
    "theirs",
    [
        "create table nba.props_duplicates (a int)",
        "create view nba.props_duplicates as select 1 as a",
        "create view nba.PROPS_CURRENT as select 1 as a",
    ],
)
def test_what_is_somebody_elses_is_left_alone(tmp_path, theirs):
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("create schema nba")
        connection.execute(theirs)
    with pytest.raises(ConfigurationError, match="was not made by onerow"):
        bench(tmp_path, more=VERSIONS)
    left = rows(tmp_path / "warehouse.duckdb", "select table_name from information_schema.tables")
    assert len(left) == 1, "nothing else was created"


def test_the_doctor_misses_a_view_and_init_makes_it_again(tmp_path):
    made = bench(tmp_path, more=VERSIONS)
    with made.open() as store:
        assert all(well for _, well, _ in store.ports.warehouse.probe(list(store.tables.values())))
    rows(made.database, "drop view nba.props_current")
    with made.open() as store:
        (told,) = [text for _, well, text in store.ports.warehouse.probe(list(store.tables.values())) if not well]
        assert told == "the view props_current is missing; run `onerow init`"
        assert store.init() == ["view nba.props_current"]
        assert store.init() == []
    rows(made.database, "create or replace view nba.props_current as select 1 as a")
    with made.open() as store:
        (told,) = [text for _, well, text in store.ports.warehouse.probe(list(store.tables.values())) if not well]
        assert told.startswith("props_current was not made by onerow")
        with pytest.raises(ConfigurationError):
            store.init()


def test_a_view_that_is_outdated_is_told_and_replaced(tmp_path):
    made = bench(tmp_path)
    path = tmp_path / "onerow.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('id = "id"\n', ""), encoding="utf-8")
    with onerow.open(tmp_path) as store:
        (told,) = [text for _, well, text in store.ports.warehouse.probe(list(store.tables.values())) if not well]
        assert told == "the view props_duplicates is outdated; run `onerow init`"
        assert store.init() == ["view nba.props_duplicates, replaced: its columns have changed"]
        assert store.init() == []
    with duckdb.connect(str(made.database)) as connection:
        connection.execute("insert into nba.props select 'a', '2026-01-10', 'x', n from range(2) as r(n)")
        assert connection.execute("select ids, newest from nba.props_duplicates").fetchall() == [(None, 1)]
