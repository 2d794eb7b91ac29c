"""The row contract, rule by rule; each value is taken exactly or refused with a reason."""

from __future__ import annotations

import datetime as dt
import enum
import math
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onerow.core.digest import ContentDigest
from onerow.core.pyrows import column_names, rows_to_batch
from onerow.core.rows import RowConverter, arrow_schema, partition_counts
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type
from onerow.errors import PartRefusedError

UTC = dt.UTC


def spec_of(columns=None, **changes):
    names = columns or {
        "name": "string",
        "day": "date",
        "line": "decimal(6,2)",
        "n": "int64",
        "x": "float64",
        "ok": "bool",
        "at": "timestamp",
        "extra": "json",
    }
    settings = {
        "name": "t",
        "target": ("t",),
        "key": ("name", "line"),
        "order_by": ("at",),
        "partition": "day",
        "columns": tuple(Column(name, parse_type(kind)) for name, kind in names.items()),
    }
    return TableSpec(**(settings | changes))


def with_columns(columns):
    return replace(spec_of(), columns=tuple(columns))


def one_column(kind, **changes):
    """A spec whose column ``v`` may be anything, beside the ones that a table needs."""
    columns = {"v": kind, "k": "int64"}
    return spec_of(columns, key=("k",), order_by=("k",), partition=None, **changes)


def take(kind, value, *, text_mode=False):
    """Return what a column of ``kind`` holds for ``value``, or the reason why it does not."""
    spec = one_column(kind)
    if isinstance(value, pa.Array):
        batch = pa.record_batch({"v": value, "k": pa.array([b"1"] if text_mode else [1])})
    elif text_mode:
        batch = pa.record_batch({"v": pa.array([value.encode()], pa.binary()), "k": pa.array([b"1"])})
    else:
        batch = rows_to_batch([{"v": value, "k": 1}], ("v", "k"))
    converted = RowConverter(spec, text_mode=text_mode).convert(batch, first_row=1)
    if converted.bad_count:
        assert converted.rows.num_rows == 0
        return converted.problems[0].reason
    return converted.rows.column("v")[0].as_py()


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", "007", "007"),
        ("string", "", ""),
        ("string", b"caf\xc3\xa9", "café"),
        ("string", pa.array(["a"]).dictionary_encode(), "a"),
        ("string", pa.array(["a"], pa.large_string()), "a"),
        ("string", pa.array(["a"], pa.string_view()), "a"),
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", pa.array([255], pa.uint8()), 255),
        ("int64", 5.0, 5),
        ("int64", Decimal("5.00"), 5),
        ("int64", -0.0, 0),
        ("float64", 2**53, 2.0**53),
        ("float64", 2**60, 2.0**60),
        ("float64", Decimal("0.1"), 0.1),
        ("float64", math.inf, math.inf),
        ("decimal(6,2)", 24, Decimal("24.00")),
        ("decimal(6,2)", 24.1, Decimal("24.10")),
        ("decimal(6,2)", np.float32(24.1), Decimal("24.10")),
        ("decimal(6,2)", "24.1", Decimal("24.10")),
        ("decimal(6,2)", "2.41e1", Decimal("24.10")),
        ("decimal(6,2)", Decimal("24.10000"), Decimal("24.10")),
        ("decimal(6,2)", Decimal("-0.00"), Decimal("0.00")),
        ("decimal(6,2)", Decimal("9999.99"), Decimal("9999.99")),
        ("decimal(38,0)", 10**37, Decimal(10**37)),
        ("bool", True, True),
        ("date", dt.date(2026, 1, 11), dt.date(2026, 1, 11)),
        ("date", "2026-01-11", dt.date(2026, 1, 11)),
        ("date", dt.datetime(2026, 1, 11), dt.date(2026, 1, 11)),
        ("date", pd.Timestamp("2026-01-11"), dt.date(2026, 1, 11)),
        ("timestamp", dt.datetime(2026, 1, 11, 1, 6, 34, 538000), dt.datetime(2026, 1, 11, 1, 6, 34, 538000, UTC)),
        ("timestamp", "2026-01-11T01:06:34.538+01:00", dt.datetime(2026, 1, 11, 0, 6, 34, 538000, UTC)),
        ("timestamp", "2026-01-11 01:06:34", dt.datetime(2026, 1, 11, 1, 6, 34, tzinfo=UTC)),
        ("timestamp", "2026-01-11T01:06:34.123456000Z", dt.datetime(2026, 1, 11, 1, 6, 34, 123456, UTC)),
        ("timestamp", "2026-01-11", dt.datetime(2026, 1, 11, tzinfo=UTC)),
        ("timestamp", dt.date(2026, 1, 11), dt.datetime(2026, 1, 11, tzinfo=UTC)),
        ("timestamp", pa.array([1000], pa.timestamp("ns", "Europe/Berlin")), dt.datetime(1970, 1, 1, microsecond=1, tzinfo=UTC)),
        ("timestamp", np.datetime64("2026-01-11T01:00"), dt.datetime(2026, 1, 11, 1, tzinfo=UTC)),
        ("timestamp", pd.Timestamp("2026-01-11T01:00", tz="Europe/Berlin"), dt.datetime(2026, 1, 11, tzinfo=UTC)),
        ("json", '{"a" : 1}', '{"a" : 1}'),
        ("json", {"b": Decimal("24.10"), "a": ["ü", None, True]}, '{"b":24.10,"a":["ü",null,true]}'),
        ("json", pa.array([{"a": 1, "b": "x"}]), '{"a":1,"b":"x"}'),
        ("json", pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), '{"k":1}'),
    ],
)  # fmt: skip
def test_values_that_are_taken(kind, value, expected):
    assert take(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("string", 7, "leading zeros"),
        ("string", Decimal("1.10"), "trailing digits"),
        ("string", True, "boolean"),
        ("string", {"a": 1}, "object or a list"),
        ("string", dt.date(2026, 1, 1), "date"),
        ("string", "a\0b", "U+0000"),
        ("string", b"\xff", "UTF-8"),
        ("string", chr(0xD800), "UTF-8"),
        ("string", pa.array([b"0123456789abcdef"], pa.binary(16)), "fixed_size_binary"),
        ("int64", True, "boolean"),
        ("int64", "5", "text"),
        ("int64", 5.5, "whole"),
        ("int64", math.nan, "whole"),
        ("int64", 2.0**53 + 2, "2^53"),
        ("int64", 2**63, "range"),
        ("int64", pa.array([2**63], pa.uint64()), "range"),
        ("float64", 2**53 + 1, "exactly"),
        ("float64", "0.5", "text"),
        ("float64", 10**400, "range"),
        ("float64", True, "boolean"),
        ("decimal(6,2)", 0.30000000000000004, "2 digits behind the point"),
        ("decimal(6,2)", Decimal("24.505"), "not rounded"),
        ("decimal(6,2)", 10000, "does not fit"),
        ("decimal(6,2)", math.nan, "finite"),
        ("decimal(6,2)", Decimal("Infinity"), "finite"),
        ("decimal(6,2)", True, "boolean"),
        ("decimal(6,2)", "24,5", "no decimal"),
        ("decimal(6,2)", "1_0", "no decimal"),
        ("bool", 1, "integer"),
        ("bool", "true", "text"),
        ("date", dt.datetime(2026, 1, 11, 1), "midnight"),
        ("date", "2026-02-30", "calendar"),
        ("date", "2026-1-1", "YYYY-MM-DD"),
        ("date", "0000-01-01", "calendar"),
        ("date", 20260111, "integer"),
        ("date", pa.array([4_000_000], pa.int32()).view(pa.date32()), "years"),
        ("timestamp", "2026-01-11T01:06:34.1234567", "finer"),
        ("timestamp", pa.array([1], pa.timestamp("ns")), "finer"),
        ("timestamp", pd.Timestamp("2026-01-11T00:00:00.000000001"), "finer"),
        ("timestamp", "2026-01-11T25:00:00", "time of the day"),
        ("timestamp", "9999-12-31T23:59:59-01:00", "years"),
        ("timestamp", "11.01.2026", "YYYY-MM-DD"),
        ("timestamp", 1768000000, "integer"),
        ("timestamp", pa.array([10**18], pa.timestamp("s")), "years"),
        ("json", "{'a': 1}", "not valid JSON"),
        ("json", '{"a": NaN}', "NaN"),
        ("json", '"\\u0000"', "U+0000"),
        ("json", '"\\ud800"', "surrogate"),
        ("json", 5, "integer"),
        ("json", {"a": math.nan}, "nan"),
        ("json", {1: 2}, "key"),
        ("json", {"a": object()}, "object"),
        ("json", "[" * 100_000, "deep"),
        ("int64", object(), "type object"),
        ("timestamp", dt.time(1), "type time"),
    ],
)  # fmt: skip
def test_values_that_are_refused(kind, value, reason):
    assert reason in str(take(kind, value))


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("int64", "+007", 7),
        ("int64", "-9223372036854775808", -(2**63)),
        ("float64", "inf", math.inf),
        ("float64", "-1.5e3", -1500.0),
        ("float64", "-0", 0.0),
        ("bool", "T", True),
        ("bool", "False", False),
        ("bool", "0", False),
        ("decimal(6,2)", "-24.5", Decimal("-24.50")),
        ("string", "007", "007"),
        ("timestamp", "2026-01-11 01:00:00Z", dt.datetime(2026, 1, 11, 1, tzinfo=UTC)),
    ],
)
def test_text_of_csv_files_that_is_taken(kind, text, expected):
    assert take(kind, text, text_mode=True) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int64", "0x10"),
        ("int64", "1.0"),
        ("int64", " 1"),
        ("int64", "9223372036854775808"),
        ("int64", "٣"),
        ("int64", ""),
        ("float64", "1,5"),
        ("float64", "1e999"),
        ("float64", "0x1p3"),
        ("bool", "yes"),
        ("bool", "2"),
        ("decimal(6,2)", "nan"),
        ("date", "2026-01-11T00:00:00"),
    ],
)
def test_text_of_csv_files_that_is_refused(kind, text):
    assert isinstance(take(kind, text, text_mode=True), str)


def test_one_zero_and_one_nan():
    for zero in (take("float64", -0.0), take("float64", Decimal("-0")), take("float64", "-0", text_mode=True)):
        assert math.copysign(1, zero) == 1
    negative_nan = np.array([0xFFF8000000000001], dtype=np.uint64).view(np.float64)
    spec = one_column("float64")
    digests = set()
    for values in (negative_nan, np.array([math.nan])):
        batch = pa.record_batch({"v": pa.array(values), "k": pa.array([1])})
        rows = RowConverter(spec, text_mode=False).convert(batch, first_row=1).rows
        digest = ContentDigest(spec.columns)
        digest.update(rows)
        digests.add(digest.hexdigest())
    assert len(digests) == 1


def good(**changes):
    return {"name": "a", "day": dt.date(2026, 1, 11), "line": 24.5, "at": dt.datetime(2026, 1, 11)} | changes


def convert(rows, spec=None, first_row=1, **settings):
    batch = rows_to_batch(rows, column_names(rows))
    return RowConverter(spec or spec_of(), text_mode=False, **settings).convert(batch, first_row=first_row)


def test_good_rows_go_on_and_bad_ones_are_named_with_their_position():
    rows = [good(), good(line=0.123), good(day=None), good(line="x", n="1")]
    converted = convert(rows, first_row=101)
    assert converted.bad_count == 3
    assert converted.bad.to_pylist() == [False, True, True, True]
    assert converted.rows.num_rows == 1
    assert converted.rows.schema == arrow_schema(
        [column for column in spec_of().columns if column.name in {"name", "day", "line", "at", "n"}]
    )
    assert [str(problem) for problem in converted.problems] == [
        "row 102, column 'line': 0.123 has more than 2 digits behind the point; it is not rounded",
        "row 103, column 'day': is NULL, which a partition column cannot be",
        "row 104, column 'line': 'x' is no decimal number",
        "row 104, column 'n': '1' is text, which is not read as int64; give a number",
    ]
    assert converted.position(0) == 101


def test_position_of_good_rows_behind_bad_ones():
    converted = convert([good(line="x"), good(), good(line="y"), good(name="b")], first_row=1)
    assert [converted.position(index) for index in range(converted.rows.num_rows)] == [2, 4]


def test_first_ten_bad_rows_are_told_and_all_are_counted():
    rows = [good(line=None if index % 2 else "x", n=1) for index in range(10_000)]
    converted = convert(rows)
    assert converted.bad_count == 5_000
    assert [problem.row for problem in converted.problems] == list(range(1, 20, 2))
    assert len({p.row for p in convert(rows, max_problem_rows=None).problems}) == 5_000


def test_reasons_have_no_values_in_them():
    converted = convert([good(name="a\0SECRET"), good(line="SECRET"), good(x="SECRET"), good(at="SECRET")])
    assert converted.bad_count == 4
    assert not any("SECRET" in problem.reason for problem in converted.problems)
    assert all("SECRET" in str(problem) for problem in converted.problems)


def test_long_values_are_shortened():
    assert len(str(convert([good(line="9" * 1000)]).problems[0])) < 200


def test_null_keys_are_taken_and_null_in_required_columns_is_not():
    columns = tuple(Column(column.name, column.type, required=column.name == "n") for column in spec_of().columns)
    spec = with_columns(columns)
    converted = convert([good(n=1), good(n=None), good(name=None, n=2)], spec)
    assert [str(problem) for problem in converted.problems] == [
        "row 2, column 'n': is NULL, which a required column cannot be"
    ]
    assert converted.rows.column("name").to_pylist() == ["a", None]


def test_a_refused_value_in_a_required_column_is_named_once():
    spec = with_columns([Column(c.name, c.type, required=c.name == "day") for c in spec_of().columns])
    assert [str(problem) for problem in convert([good(day="x")], spec).problems] == [
        "row 1, column 'day': 'x' is no date written YYYY-MM-DD"
    ]


def test_nan_has_no_place_in_order_columns():
    spec = spec_of(order_by=("at", "x"))
    converted = convert([good(x=math.nan), good(x=1.0)], spec)
    assert [problem.row for problem in converted.problems] == [1]
    assert "order_by" in converted.problems[0].reason
    assert convert([good(x=math.nan)]).bad_count == 0


def test_columns_come_in_declared_order_and_may_be_absent():
    converter = RowConverter(spec_of(), text_mode=False)
    assert converter.columns_for(["at", "line", "day", "name"]) == ("name", "day", "line", "at")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["name", "day", "line", "at", "nmae"], ["'nmae' is not declared", "'name'"]),
        (["name", "day", "line", "at", "Name"], ["'Name' is not declared", "'name'"]),
        (["name", "day", "line", "at", ""], ["''", "index=False"]),
        (["name", "day", "line", "at", "at"], ["'at' stands there 2 times"]),
        (["name", "line"], ["'day' is missing", "'at' is missing"]),
    ],
)
def test_columns_that_are_not_the_tables(names, words):
    with pytest.raises(PartRefusedError) as caught:
        RowConverter(spec_of(), text_mode=False).columns_for(names)
    for word in words:
        assert word in str(caught.value)


def test_no_rows_have_no_columns_but_rows_without_columns_are_refused():
    converter = RowConverter(spec_of(), text_mode=False)
    assert converter.columns_for(column_names([])) == ()
    with pytest.raises(PartRefusedError):
        column_names([{}, {}])
    three_rows = pa.record_batch({"a": [1, 2, 3]}).select([])
    assert three_rows.num_rows == 3
    with pytest.raises(PartRefusedError):
        converter.convert(three_rows, first_row=1)


def test_rows_that_are_no_mappings_are_named():
    with pytest.raises(PartRefusedError, match="Row 2"):
        column_names([{"a": 1}, ["a"]])
    with pytest.raises(PartRefusedError, match="Row 1"):
        column_names([{1: 1}])


def test_missing_keys_and_the_many_names_of_null():
    rows = [
        good(n=1),
        good(),
        good(n=None),
        good(n=pd.NA),
        good(n=pd.NaT),
        good(n=np.datetime64("NaT")),
        good(n=np.int64(2)),
    ]
    assert convert(rows).rows.column("n").to_pylist() == [1, None, None, None, None, None, 2]


def test_types_of_one_column_may_mix():
    class Colour(enum.StrEnum):
        RED = "red"

    rows = [
        good(line=24, at="2026-01-11", name=Colour.RED),
        good(line=24.5, at=dt.datetime(2026, 1, 11)),
        good(line="24.75", at=dt.date(2026, 1, 11)),
        good(line=Decimal(25), at=pd.Timestamp("2026-01-11")),
        good(line=np.float64(0.1) + np.float64(0.4), at=np.datetime64("2026-01-11")),
    ]
    rows = convert(rows).rows
    assert rows.column("line").to_pylist() == [Decimal(text) for text in ("24.00", "24.50", "24.75", "25.00", "0.50")]
    assert set(rows.column("at").to_pylist()) == {dt.datetime(2026, 1, 11, tzinfo=UTC)}
    assert rows.column("name")[0].as_py() == "red"


def test_integers_beside_floats_are_not_rounded():
    big = 2**53 + 1
    assert convert([good(n=big), good(n=1.0)]).rows.column("n").to_pylist() == [big, 1]
    assert convert([good(x=big), good(x=1.0)]).bad_count == 1


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [
        ("date", [dt.date(2026, 1, 11), dt.date(1, 1, 1)], ["2026-01-11", "0001-01-01"]),
        ("int64", [-7, 7], ["-7", "7"]),
        ("decimal(6,2)", [24.5, -0.0], ["24.50", "0.00"]),
        ("bool", [True, False], ["true", "false"]),
        ("string", ["", "a/b"], ["", "a/b"]),
    ],
)
def test_rows_are_counted_by_partition(kind, values, names):
    spec = one_column(kind)
    rows = convert([{"v": value, "k": 1} for value in [*values, values[0]]], spec).rows
    assert partition_counts(rows, "v") == {names[0]: 2, names[1]: 1}
    assert partition_counts(rows, None) == {"": 3}
    assert partition_counts(rows.slice(0, 0), "v") == {}


# --- the content digest ----------------------------------------------------------------------

DIGEST_SPEC = spec_of()
CELLS = {
    "name": st.none() | st.text(alphabet="ab\u00fc", max_size=3),
    "day": st.dates(),
    "line": st.none() | st.decimals(-9999, 9999, places=2),
    "n": st.none() | st.integers(-3, 3),
    "x": st.none() | st.floats(),
    "ok": st.none() | st.booleans(),
    "at": st.none() | st.datetimes(),
    "extra": st.none() | st.just("{}") | st.just("[]"),
}
TABLES = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=12)


def batch_of(rows):
    batch = rows_to_batch(rows, tuple(CELLS))
    converted = RowConverter(DIGEST_SPEC, text_mode=False).convert(batch, first_row=1)
    assert converted.bad_count == 0
    return converted.rows


def digest_of(batches):
    digest = ContentDigest(DIGEST_SPEC.columns)
    for batch in batches:
        digest.update(batch)
    return digest.hexdigest()


def with_garbage_under_nulls(batch):
    """Return equal rows with other bytes under their NULLs, and behind a slice."""
    arrays = []
    for array in batch.columns:
        valid = array.is_valid()
        filler = array.drop_null()
        if len(filler) == 0 or array.null_count == 0:
            arrays.append(array)
            continue
        filled = array.fill_null(filler[0])
        mask = pa.array([not flag for flag in valid.to_pylist()])
        bitmap = pa.array(valid.to_pylist()).buffers()[1]
        assert mask.null_count == 0
        arrays.append(pa.Array.from_buffers(array.type, len(array), [bitmap, *filled.buffers()[1:]]))
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


@settings(deadline=None, max_examples=80)
@given(TABLES, st.lists(st.integers(0, 12), max_size=4), st.integers(0, 3))
def test_the_digest_does_not_depend_on_chunks_slices_and_what_stands_under_nulls(rows, cuts, lead):
    batch = batch_of(rows)
    expected = digest_of([batch])
    bounds = sorted({0, *(min(cut, len(rows)) for cut in cuts), len(rows)})
    pieces = [batch.slice(start, end - start) for start, end in pairwise(bounds)]
    assert digest_of(pieces) == expected
    shifted = batch_of(rows[:1] * lead + rows).slice(lead)
    assert digest_of([shifted]) == expected
    garbage = with_garbage_under_nulls(batch)
    assert garbage.equals(batch) or any(isinstance(row["x"], float) for row in rows)
    assert digest_of([garbage]) == expected


@settings(deadline=None, max_examples=80)
@given(TABLES, TABLES)
def test_different_contents_have_different_digests(left, right):
    first, second = batch_of(left), batch_of(right)
    # NaN equals nothing, so rows are compared as text.
    same = str(first.to_pylist()) == str(second.to_pylist())
    assert (digest_of([first]) == digest_of([second])) == same


def test_the_digest_tells_null_from_empty_and_where_strings_end():
    contents = [
        [good(name=None), good(name="")],
        [good(name=""), good(name=None)],
        [good(name="ab"), good(name="c")],
        [good(name="a"), good(name="bc")],
        [good(name="a"), good(name="bc"), good(name="")],
        [good(name="a", n=0), good(name="bc", n=None)],
        [good(name="a", n=None), good(name="bc", n=0)],
    ]
    rows = [[dict.fromkeys(CELLS) | row for row in content] for content in contents]
    assert len({digest_of([batch_of(content)]) for content in rows}) == len(contents)


def test_the_digest_tells_columns_and_types_apart():
    def digest(name, kind):
        return ContentDigest([Column(name, parse_type(kind))]).hexdigest()

    pairs = [("a", "string"), ("a", "json"), ("b", "string"), ("a", "decimal(6,2)"), ("a", "decimal(6,3)")]
    assert len({digest(*pair) for pair in pairs}) == len(pairs)


def test_the_digest_of_a_content_never_changes():
    """Part identities are derived from it: a worker of the next version must find its parts."""
    row = good(n=7, x=1.5, ok=True, extra="{}", day=dt.date(2026, 1, 11), line=Decimal("24.50"))
    assert digest_of([batch_of([dict.fromkeys(CELLS) | row, dict.fromkeys(CELLS) | good(name=None)])]) == (
        "86f55ade503ee584dc1633ecea3b9f5fc37d6ffad1f1afb9a6349da6cdd2b976"
    )
