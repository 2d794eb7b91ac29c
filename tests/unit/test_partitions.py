"""Partition values as canonical text: one value, one name; one name, one value."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onerow.core.partitions import (
    Scope,
    canonical_partition,
    decode_partition,
    encode_partition,
    parse_scope,
)
from onerow.core.spec import Column, TableSpec
from onerow.core.types import ColumnType, parse_type
from onerow.errors import UsageError
from support.arena import QUICK
from support.bench import Bench

VALUES = {
    "date": st.dates(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
    "decimal(38,10)": st.decimals(-(10**20), 10**20, places=10),
    "decimal(6,2)": st.decimals(-9999, 9999, places=2),
}


@QUICK
@given(st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), VALUES[kind])))
def test_a_value_comes_back_from_its_text(sample):
    kind, value = sample
    column_type = parse_type(kind)
    if isinstance(value, Decimal) and value.is_zero():
        value = value.copy_abs()  # what the row contract makes of it
    text = encode_partition(value)
    back = decode_partition(text, column_type)
    assert back == value
    assert type(back) is type(value)
    assert encode_partition(back) == text


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("+7", "int64", "7"),
        ("-0", "int64", "0"),
        ("007", "int64", "7"),
        ("TRUE", "bool", "true"),
        ("24.5", "decimal(6,2)", "24.50"),
        ("-0.00", "decimal(6,2)", "0.00"),
        ("1e1", "decimal(6,2)", "10.00"),
        ("12345678901234567890123456789.123456789", "decimal(38,9)", "12345678901234567890123456789.123456789"),
        ("2026-01-10", "date", "2026-01-10"),
        ("TRUE", "string", "TRUE"),
        (" a ", "string", " a "),
    ],
)
def test_every_spelling_of_a_value_is_one_partition(text, kind, canonical):
    assert canonical_partition(text, spec(kind)) == canonical


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("2026-1-10", "date"),
        ("2026-02-30", "date"),
        ("20260110", "date"),
        ("2026-01-10T00:00:00", "date"),
        ("２026-01-10", "date"),
        ("9223372036854775808", "int64"),
        ("1.0", "int64"),
        ("1_000", "int64"),
        ("", "int64"),
        ("yes", "bool"),
        ("1", "bool"),
        ("24.505", "decimal(6,2)"),
        ("10000", "decimal(6,2)"),
        ("nan", "decimal(6,2)"),
        ("inf", "decimal(6,2)"),
        ("1e400", "decimal(6,2)"),
        ("", "decimal(6,2)"),
        ("x", "decimal(6,2)"),
    ],
)
def test_what_is_no_value_of_the_column(text, kind):
    with pytest.raises(UsageError, match="no value of the partition column"):
        decode_partition(text, parse_type(kind))


def test_a_table_with_partitions_wants_one_and_a_table_without_wants_none():
    with pytest.raises(UsageError, match="name a partition"):
        canonical_partition(None, spec("date"))
    with pytest.raises(UsageError, match="no partition column"):
        canonical_partition("2026-01-10", spec(None))
    assert canonical_partition(None, spec(None)) is None


@pytest.mark.parametrize("scope", [Scope("t"), Scope("t", "2026-01-10"), Scope("t", "a/b"), Scope("t", ""), Scope("t", "/")])
def test_scopes_as_text(scope):
    assert parse_scope(str(scope)) == scope


@pytest.mark.parametrize("text", ["", "/x", " t/x", "t\n/x"])
def test_what_is_no_scope(text):
    with pytest.raises(UsageError):
        parse_scope(text)


def spec(kind):
    """Return a table whose partition column is of ``kind``; None: without."""
    columns = [Column("k", ColumnType("string")), Column("o", ColumnType("int64"))]
    if kind is not None:
        columns.append(Column("p", parse_type(kind)))
    partition = None if kind is None else "p"
    return TableSpec("t", ("t",), key=("k",), order_by=("o",), columns=tuple(columns), partition=partition)


def test_the_empty_text_is_a_partition_like_any_other(tmp_path):
    tables = '[tables.t]\nkey = ["k"]\npartition = "p"\norder_by = ["o"]\n[tables.t.columns]\np = "string"\nk = "string"\no = "int64"\n'
    bench = Bench(tmp_path, tables=tables, table="t")
    with bench.open() as store:
        store.stage("t", [{"p": "", "k": "a", "o": 1}], batch="b")
        assert store.consolidate("t", "b").status == "committed"
        again = store.consolidate("t", "b")
        assert [part.partition for part in again.partitions] == [""]
        assert store.batches.batch(bench.spec, "b").state == "merged"
