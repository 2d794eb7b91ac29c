"""Names are quoted identifiers, values are parameters: no name and no value is ever a piece of SQL."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from decimal import Decimal

import duckdb
import pytest

import onerow
from onerow.adapters.warehouse.duckdb import install, sql
from onerow.core.types import parse_type
from support.bench import Bench, quoted
from support.reference import newest_rows

NASTY = [
    'x"; drop table onerow.ledger; --',
    "a'b",
    "select",
    ";",
    "-- c",
    "/* c",
    "$1",
    "?",
    "a.b",
    "é",
    ":name",
    "{key}",
    "%s",
    "staged",
    "touched",
    "s",
    "target",
]
BATCHES = NASTY[:4]


class Recorder:
    """A connection that notes every statement that is run on it."""

    def __init__(self, connection):
        self._connection = connection
        self.statements = []

    def execute(self, statement, *values):
        self.statements.append(statement)
        return self._connection.execute(statement, *values)

    def __getattr__(self, name):
        return getattr(self._connection, name)


def test_partition_values_are_constants_of_their_type():
    def text(value, kind):
        return sql.literal(value, parse_type(kind)).sql("duckdb")

    assert text("'; drop --", "string") in {"CAST('''; drop --' AS TEXT)", "CAST('''; drop --' AS VARCHAR)"}
    assert text(dt.date(2026, 1, 10), "date") == "CAST('2026-01-10' AS DATE)"
    assert text(Decimal("24.50"), "decimal(6,2)") == "CAST('24.50' AS DECIMAL(6, 2))"
    assert text(-(2**63), "int64") == "CAST('-9223372036854775808' AS BIGINT)"
    assert text(True, "bool") == "CAST('true' AS BOOLEAN)"


def test_control_statements_take_names_as_parameters_and_the_schema_as_an_identifier():
    for name, text in install.control_statements(NASTY[0]).items():
        assert len(duckdb.extract_statements(text)) == 1, name
        assert bare(text).count("drop") == 0, name


def bare(statement):
    """Return a statement without what is quoted in it, in lower case."""
    return re.sub(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'', " ", statement).lower()


def test_a_list_of_pieces_needs_a_list_to_stand_in():
    tree = sql.sqlglot.parse_one("select 1 where $condition", dialect="duckdb")
    with pytest.raises(TypeError):
        sql.render(tree, tables={}, pieces={"condition": sql.columns(["a", "b"])})


@pytest.mark.parametrize("partitioned", [True, False], ids=["partitioned", "whole"])
def test_a_badly_named_table_works_from_end_to_end(tmp_path, partitioned):
    escaped = [name.replace("\\", "\\\\").replace('"', '\\"') for name in NASTY]
    columns = "\n".join(f'"{name}" = "string"' for name in escaped)
    target = ("we;ird", NASTY[0])
    tables = f"""
[tables."{escaped[0]}"]
target = '{".".join(map(quoted, target)).replace("'", "")}'
key = ["{escaped[1]}", "{escaped[2]}"]
{f'partition = "{escaped[0]}"' if partitioned else ""}
order_by = ["{escaped[3]}"]
id = "{escaped[4]}"
[tables."{escaped[0]}".columns]
{columns}
"""
    bench = Bench(tmp_path, tables=tables, table=NASTY[0], head=f'control_schema = "{escaped[0]}"')
    name = ".".join(map(quoted, target))
    with bench.open() as store:
        database = store.ports.warehouse._database
        recorder = Recorder(database.instance())
        database.instance = lambda: recorder
        for number, value in enumerate(BATCHES):
            older = {name: value if name != NASTY[3] else f"{number}" for name in NASTY}
            newer = {**older, NASTY[3]: f"{number}!", NASTY[4]: "; drop"}
            bench.stage(store, [older, older], batch=value, worker=value)
            bench.stage(store, [newer], batch=f"{value} again", worker=value)
        for value in [*BATCHES, *(f"{value} again" for value in BATCHES)]:
            result = store.consolidate(NASTY[0], value)
            assert result.status == "committed", result.error
        assert Counter(bench.table_rows()) == Counter(newest_rows(bench.rows, bench.spec).values())
        assert store.check()[0].clean
        assert len(store.history()) == 2 * len(BATCHES)
        assert len(store.batches.batches(bench.spec)) == 2 * len(BATCHES)
        with pytest.raises(onerow.BatchNotFoundError):
            store.consolidate(NASTY[0], "'; drop table x")
        bench.write(f"insert into {name} select * from {name}")
        (report,) = store.check(NASTY[0])
        assert report.result.duplicate_keys == len(BATCHES)
    schemas = {row[0] for row in bench.query("select table_schema from information_schema.tables")}
    assert schemas == {NASTY[0], "we;ird"}
    assert len(set(recorder.statements)) > 30
    for statement in set(recorder.statements):
        if not re.match(r"(drop|begin|commit|rollback|set|attach|detach)\b", statement.lower()):
            assert len(duckdb.extract_statements(statement)) == 1, statement
            assert not re.search(r"drop|--|/\*|\$[^123]|:name|\{|%s|\ba'b|é", bare(statement)), statement
