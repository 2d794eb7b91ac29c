"""What may stand in a guarded block, and what a script's refusal is read as. No service is needed."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from onerow.adapters.bigquery.names import DIALECT, TableName
from onerow.adapters.warehouse.bigquery.guarded import bind, check_statement, qualify
from onerow.adapters.warehouse.bigquery.signals import Signal, error_of, outcome_of, read_signal
from onerow.core.plans import AlreadyMerged
from onerow.errors import (
    ConflictError,
    DuplicatesError,
    LockStoreMismatchError,
    NotInstalledError,
    PlanOutdatedError,
    StaleLeaseError,
    UsageError,
    VerificationError,
    WarehouseError,
)
from onerow.testing.conformance.harness import SPEC

TARGET = TableName("the-project", "nba", "props")


def rendered(statement, parameters=()):
    tree = check_statement(statement)
    bind(tree, parameters)
    qualify(tree, TARGET)
    return tree.sql(DIALECT)


@pytest.mark.parametrize(
    "statement",
    [
        "select 1",
        "with a as (select 1) select * from a",
        "begin transaction",
        "commit transaction",
        "rollback",
        "create table nba.x (a int64)",
        "create temp table x as select 1",
        "drop table nba.props",
        "alter table nba.props add column x int64",
        "declare x int64",
        "set x = 1",
        "call nba.procedure()",
        "execute immediate 'drop table nba.props'",
        "export data options(uri='gs://x') as select 1",
        "insert into nba.props (id) values ('a'); commit transaction",
        "grant `roles/x` on table nba.props to 'user:a'",
        "",
        ";",
        "no statement at all",
    ],
)
def test_a_statement_that_does_not_belong_is_refused(statement):
    with pytest.raises(UsageError):
        check_statement(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into nba.props (id) values ('a');",
        "update nba.props set id = 'b' where id = 'a'",
        "delete from nba.props where id = 'a' -- a remark",
        "merge nba.props t using nba.other s on t.id = s.id when not matched then insert (id) values (s.id)",
        "truncate table nba.props",
    ],
)
def test_a_statement_that_changes_rows_is_taken(statement):
    assert rendered(statement)


def test_values_become_literals():
    values = ["o'neal \\ \n", 7, -7, 1.5, True, None, Decimal("24.50"), dt.date(2026, 1, 17)]
    text = rendered(f"insert into nba.props values ({', '.join('?' * len(values))}, ?)", [*values, dt.datetime(2026, 1, 17, 12)])
    assert r"'o\'neal \\ \n', 7, -7, CAST('1.5' AS FLOAT64), TRUE, NULL, CAST('24.50' AS NUMERIC)" in text
    assert "CAST('2026-01-17' AS DATE), CAST('2026-01-17 12:00:00+00:00' AS TIMESTAMP)" in text
    assert rendered("delete from nba.props where id = @id and seen = @seen", {"id": "'", "seen": 1}).endswith(
        r"WHERE id = '\'' AND seen = 1"
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [("0.123456789", "NUMERIC"), ("0.1234567891", "BIGNUMERIC"), ("9" * 29, "NUMERIC"), ("9" * 30, "BIGNUMERIC")],
)
def test_a_decimal_is_never_rounded_on_its_way(value, kind):
    assert f"CAST('{value}' AS {kind})" in rendered("delete from nba.props where line = ?", [Decimal(value)])


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("delete from nba.props where line = ?", [Decimal("NaN")]),
        ("delete from nba.props where line = ?", [Decimal("1e-39")]),
        ("delete from nba.props where id = ?", []),
        ("delete from nba.props where id = ?", ["a", "b"]),
        ("delete from nba.props where id = @id", {"other": 1}),
        ("delete from nba.props where id = ?", [object()]),
    ],
)
def test_values_that_do_not_fit_are_refused(statement, parameters):
    with pytest.raises(UsageError):
        rendered(statement, parameters)


def test_a_name_without_a_dataset_is_beside_the_target():
    text = rendered("insert into other (id) with own as (select id from third) select id from own join a.b using (id)")
    assert "`the-project`.`nba`.other" in text
    assert "`the-project`.`nba`.third" in text
    assert "FROM own" in text
    assert "a.b" in text


@pytest.mark.parametrize(
    ("signal", "kind"),
    [
        (Signal("stale", "9"), StaleLeaseError),
        (Signal("lock_store", '"other \\u003b store"'), LockStoreMismatchError),
        (Signal("guards", "0"), NotInstalledError),
        (Signal("conflict", "the guard"), ConflictError),
        (Signal("duplicates", '1:["2026-01-17","o\'neal \\u003b","24.50","2"]'), DuplicatesError),
        (Signal("duplicates", '1:["2026-01-17","cut'), DuplicatesError),
        (Signal("plan_outdated", ""), PlanOutdatedError),
        (Signal("verify", "a sum"), VerificationError),
        (Signal("of another version", ""), WarehouseError),
    ],
)
def test_a_refusal_is_read_as_what_it_is(signal, kind):
    error = Exception(f"Query error: onerow:{signal.kind.replace(' ', '_')}:{signal.facts}; at [7:3]")
    outer = WarehouseError("a statement failed")
    outer.__cause__ = error
    found = read_signal(outer)
    assert found == Signal(signal.kind.replace(" ", "_"), signal.facts)
    assert type(error_of(found, SPEC, "props/2026-01-17")) is kind


def test_the_keys_of_duplicates_come_through():
    signal = Signal("duplicates", '12:["2026-01-17","o\'neal \\u003b",null,"2"]')
    outcome = outcome_of(signal, SPEC, "props")
    assert outcome.partitions == ("2026-01-17",)
    assert "player=\"o'neal ;\", line=NULL" in outcome.error.message
    assert "11 others" in outcome.error.message
    assert outcome_of(Signal("merged", ""), SPEC, "props") == AlreadyMerged()
    assert outcome_of(Signal("outdated", "3"), SPEC, "props").reason == "outdated"
    assert read_signal(Exception("an error of the engine's own")) is None
