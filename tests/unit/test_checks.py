"""Declared checks: conditions over a row's own columns, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pyarrow as pa
import pytest

from onerow.adapters.staging.checks import RowChecks, parse_check
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type
from onerow.errors import ConfigurationError, PartRefusedError

KINDS = {
    "name": "string",
    "row_index": "int64",
    "line": "decimal(6,2)",
    "share": "float64",
    "ok": "bool",
    "day": "date",
    "at": "timestamp",
}
COLUMNS = tuple(Column(name, parse_type(kind)) for name, kind in KINDS.items())


def spec_of(**checks):
    return TableSpec(
        name="t",
        target=("t",),
        key=("name",),
        order_by=("at",),
        columns=COLUMNS,
        checks=tuple(checks.items()),
    )


def rows(**columns):
    return pa.record_batch(columns)


def test_rows_that_make_a_check_false_are_named_and_null_passes():
    checks = RowChecks(spec_of(share="share between 0 and 1", line="LINE > 20 and row_index < 10"))
    batch = rows(
        share=[0.5, 1.5, None, -1.0],
        row_index=[1, 2, 3, 99],
        line=pa.array([Decimal("20.50"), Decimal("20.00"), None, None], pa.decimal128(6, 2)),
    )
    assert checks.violations(batch) == [(1, "line"), (1, "share"), (3, "line"), (3, "share")]
    assert checks.violations(batch.slice(2, 1)) == []
    assert checks.violations(batch.slice(0, 0)) == []


def test_columns_that_a_part_lacks_are_null():
    checks = RowChecks(spec_of(given="share is not null", small="share < 1"))
    assert checks.violations(rows(name=["a"])) == [(0, "given")]


def test_timestamps_are_compared_in_utc():
    checks = RowChecks(spec_of(late="at >= '2026-01-11 01:00:00'"))
    moments = pa.array([1768093199999999, 1768093200000000], pa.timestamp("us", "UTC"))
    assert checks.violations(rows(at=moments)) == [(0, "late")]


def test_a_table_without_checks_has_no_violations():
    assert RowChecks(spec_of()).violations(rows(name=["a"])) == []


@pytest.mark.parametrize(
    "text",
    [
        "share > (select 1)",
        "share in (select 1)",
        "exists (select 1)",
        "select true",
        "share > 1; drop table t",
        "read_text('/etc/passwd') is null",
        "getenv('HOME') = ''",
        "current_setting('threads') = '1'",
        "current_date > day",
        "now() > at",
        "random() > 0.5",
        "sum(share) > 1",
        "count(*) > 1",
        "row_number() over () = 1",
        "share > ?",
        "share > $1",
        "t.share > 1",
        "part.share > 1",
        "* is null",
        "columns(*) > 1",
        "nmae is null",
        "name ~ 'a'",
        "share",
        "share + 1",
        "share > 'x' and",
        "",
        "unknown_function(share)",
        "date_diff(share) > 1",
        "name > cast(day as no_such_type)",
    ],
)
def test_what_is_no_condition_over_the_columns_is_refused_with_the_checks_name(text):
    with pytest.raises(ConfigurationError) as caught:
        RowChecks(spec_of(my_check=text))
    assert "my_check" in str(caught.value)


def test_near_names_are_told():
    with pytest.raises(ConfigurationError, match="Near it: share"):
        parse_check("shar > 0", COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "share between 0 and 1",
        "name in ('a', 'b') or name is null",
        "not (ok and share is distinct from 1)",
        "case when ok then line > 0 else true end",
        "regexp_matches(name, '^[a-z]+$')",
        "length(trim(name)) > 0 and name not like '%;%'",
        "day >= date '2020-01-01' and extract(year from day) < 2100",
        "try_cast(name as integer) > 0",
        "coalesce(share, 0) >= 0 and row_index % 2 = 0",
    ],
)
def test_conditions_that_are_taken(text):
    assert RowChecks(spec_of(one=text)).violations(rows(name=pa.array([None], pa.string()))) in ([], [(0, "one")])


def test_columns_are_quoted_as_declared():
    assert parse_check("NAME = 'x' -- a comment", COLUMNS).sql(dialect="duckdb") == "\"name\" = 'x'"


def test_a_check_that_cannot_be_evaluated_on_a_row_refuses_the_part():
    checks = RowChecks(spec_of(number="cast(name as integer) > 0"))
    assert checks.violations(rows(name=["1"])) == []
    with pytest.raises(PartRefusedError, match="cannot be evaluated"):
        checks.violations(rows(name=["x"]))


def test_threads_that_check_at_once_each_see_their_own_rows():
    def look(number):
        checks = RowChecks(spec_of(small=f"share < {number}"))
        shares = rows(share=[float(value) for value in range(20)])
        return [checks.violations(shares) for _ in range(10)]

    with ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(look, range(16))):
            assert found == [[(index, "small") for index in range(number, 20)]] * 10
