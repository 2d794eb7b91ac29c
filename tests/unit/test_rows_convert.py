"""Arrays at a time and values one by one follow the same rules: held together by properties."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onerow.core.convert import arrow_type, convert_array
from onerow.core.kinds import ValueRefusedError
from onerow.core.pyrows import array_of
from onerow.core.types import parse_type
from onerow.core.unpack import python_values
from onerow.core.values import convert_value

TYPES = [
    parse_type(text)
    for text in (
        "string",
        "int64",
        "float64",
        "decimal(6,2)",
        "decimal(38,10)",
        "decimal(5,0)",
        "bool",
        "date",
        "timestamp",
        "json",
    )
]

NUMBER_TEXT = st.from_regex(r"[+-]?[0-9]{0,25}(\.[0-9]{0,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
LONG_NUMBER_TEXT = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    st.text(alphabet="019", max_size=60),
    st.sampled_from(["", ".", ".0", ".10", ".123"]),
    st.sampled_from(["", "e5", "e-20", "e37", "e-38", "e-60", "E+39"]),
)
TIME_TEXT = st.builds(
    "{:04d}-{:02d}-{:02d}{}{:02d}:{:02d}{}{}{}".format,
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.sampled_from(["T", " ", "t", "  ", "_"]),
    st.integers(0, 25),
    st.integers(0, 61),
    st.sampled_from(["", ":00", ":59", ":60", ":5"]),
    st.sampled_from(["", ".1", ".123456", ".1234560", ".1234567", "."]),
    st.sampled_from(["", "Z", "z", "+01:00", "-2359", "+24:00", "+05", "-00:61", " UTC"]),
)
DATE_TEXT = st.builds(
    "{:04d}-{:02d}-{:02d}{}".format,
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.sampled_from(["", "\n", " ", "Z"]),
)
WORDS = st.sampled_from(
    ["", "true", "T", "FALSE", "f", "1", "0", "yes", "nan", "NaN", "-inf", "Infinity", "infinit", "+", "-", "0x10", "1_0",
     " 1", "1 ", "1\n", "++1", "+-1", "٣", "TRUE\n", "K", "{}", '{"a": NaN}', '"\\u0000"', '"\\\\u0000"', '"\\ud800"', "[1,",
     "null", "a\0", "1e400", "-1e400", "1e-400", "9223372036854775808", "-9223372036854775808", "0" * 50 + "1",
     "0.1" + "0" * 50, "9999-12-31T23:59:59.999999-01:00", "0001-01-01T00:00:00+00:01"]
)  # fmt: skip
TEXTS = st.one_of(NUMBER_TEXT, LONG_NUMBER_TEXT, TIME_TEXT, DATE_TEXT, WORDS, st.text(max_size=8))
FLOATS = st.one_of(
    st.floats(),
    st.integers(-(2**54), 2**54).map(float),
    st.decimals(-9999, 9999, places=2).map(float),
    st.sampled_from([2.0**53, -(2.0**53), 2.0**53 + 2, 2.0**63, -0.0, 1e22, 5e-324]),
)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=6)


def instants(unit):
    bound = {"s": 10**12, "ms": 10**15, "us": 10**18, "ns": 2**63 - 1}[unit]
    day = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit] * 86_400
    return st.one_of(
        st.integers(-bound, bound),
        st.integers(-(bound // day), bound // day).map(lambda d: d * day),
        st.integers(-(bound // 1000), bound // 1000).map(lambda t: t * 1000),
    )


ARRAYS = st.one_of(
    *(
        st.lists(st.none() | strategy, max_size=6).map(lambda values, kind=kind: pa.array(values, kind))
        for kind, strategy in [
            (pa.string(), TEXTS),
            (pa.large_string(), TEXTS),
            (pa.binary(), st.one_of(TEXTS.map(str.encode), st.binary(max_size=5))),
            (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-1000, 1000)),
            (pa.uint64(), st.integers(0, 2**64 - 1)),
            (pa.int8(), st.integers(-128, 127)),
            (pa.float64(), FLOATS),
            (pa.float32(), st.floats(width=32) | st.integers(-999, 999).map(lambda n: n / 4)),
            (pa.bool_(), st.booleans()),
            (pa.decimal128(28, 6), DECIMALS),
            (pa.decimal256(60, 6), DECIMALS),
            (pa.date32(), st.dates()),
            (pa.timestamp("s"), instants("s")),
            (pa.timestamp("ms", "Europe/Berlin"), instants("ms")),
            (pa.timestamp("us", "UTC"), instants("us")),
            (pa.timestamp("ns"), instants("ns")),
            (pa.time64("us"), st.integers(0, 1000)),
            (pa.list_(pa.int64()), st.lists(st.integers(0, 9), max_size=2)),
            (pa.map_(pa.string(), pa.float64()), st.lists(st.tuples(st.text(max_size=2), st.just(1.5)), max_size=1)),
        ]
    ),
    st.lists(st.integers(-800_000, 3_000_000), max_size=4).map(
        lambda days: pa.array(days, pa.int32()).view(pa.date32())
    ),
    st.lists(st.integers(-(10**14), 10**15), max_size=4).map(lambda ms: pa.array(ms, pa.int64()).view(pa.date64())),
)

PYTHON_VALUES = st.one_of(
    st.none(),
    TEXTS,
    st.text(alphabet=["a", chr(0xD800), chr(0)], max_size=3),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-99, 99),
    FLOATS,
    st.decimals(allow_nan=True, allow_infinity=True),
    st.integers(-(10**60), 10**60).map(lambda n: Decimal(n).scaleb(-20)),
    DECIMALS,
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(dt.timezone(dt.timedelta(hours=-5)))),
    st.dictionaries(st.text(max_size=2), st.integers(0, 3) | DECIMALS, max_size=2),
    st.lists(st.none() | st.booleans(), max_size=2),
    st.binary(max_size=3),
    st.just(object()),
)
PYTHON_ARRAYS = st.one_of(
    st.lists(PYTHON_VALUES, max_size=6),
    st.lists(st.none() | st.integers(-99, 99) | FLOATS, max_size=6),
    st.lists(st.none() | st.integers(-99, 99) | DECIMALS, max_size=6),
    st.lists(st.none() | st.dictionaries(st.text(max_size=2), st.integers(0, 3)), max_size=6),
).map(array_of)


def same(left, right):
    return left == right or (
        isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right)
    )


@pytest.mark.parametrize("column_type", TYPES, ids=str)
def test_a_stretch_of_a_mixed_column_may_have_no_value_at_all(column_type):
    mixed = array_of([Decimal("1.5"), 7, None, None]).slice(2)
    converted, bad = convert_array(mixed, column_type, text_mode=False)
    assert (converted.to_pylist(), bad, converted.type) == ([None, None], [], arrow_type(column_type))


@settings(max_examples=400, deadline=None)
@given(ARRAYS | PYTHON_ARRAYS, st.sampled_from(TYPES), st.booleans(), st.integers(0, 2))
def test_whole_arrays_and_single_values_agree(array, column_type, text_mode, offset):
    array = array.slice(offset)
    converted, bad = convert_array(array, column_type, text_mode=text_mode)
    converted.validate(full=True)
    assert converted.type == arrow_type(column_type)
    assert len(converted) == len(array)
    if column_type.kind == "date":
        found = converted.view(pa.int32()).to_pylist()
    elif column_type.kind == "timestamp":
        found = converted.view(pa.int64()).to_pylist()
    else:
        found = converted.to_pylist()
    refused = {value.index for value in bad}
    for index, value in enumerate(python_values(array, shortest_floats=column_type.kind == "decimal")):
        try:
            expected = convert_value(value, column_type, text_mode=text_mode)
        except ValueRefusedError:
            assert index in refused, (value, column_type)
            assert found[index] is None
        else:
            assert index not in refused, (value, column_type)
            assert same(found[index], expected), (value, column_type)
            if isinstance(expected, float):
                assert math.copysign(1, found[index]) == math.copysign(1, expected)
