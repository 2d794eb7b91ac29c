"""Any split of rows into parts and batches, any order, overlap and repetition of consolidations: one table."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from decimal import Decimal

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.arena import QUICK, Arena
from support.reference import counts_of, newest_rows

UTC = dt.UTC

COLUMNS = """
k_text = "string"
k_num = "int64"
k_line = "decimal(9,2)"
k_at = "timestamp"
o_num = "int64"
o_at = "timestamp"
v_text = "string"
v_num = "float64"
v_json = "json"
v_flag = "bool"
"""
TABLES = f"""
[tables.by_text]
key = ["k_text", "k_num", "k_line", "k_at"]
partition = "part"
order_by = ["o_num", "o_at"]
[tables.by_text.columns]
part = "string"
{COLUMNS}
[tables.by_line]
key = ["k_line", "k_text"]
partition = "k_line"
order_by = ["o_at"]
[tables.by_line.columns]
{COLUMNS.replace('"decimal(9,2)"', '"decimal(9,2) not null"')}
[tables.whole]
key = ["k_text", "k_line"]
order_by = ["o_num"]
[tables.whole.columns]
{COLUMNS}
[tables.kept]
key = ["k_text", "k_num", "k_line", "k_at"]
partition = "part"
order_by = ["o_num", "o_at"]
mode = "versions"
version_column = "number"
[tables.kept.columns]
part = "string"
{COLUMNS}
"""

# Pairs that a fold, a trim, a normalisation or UTF-16 would take for each other.
TEXTS = [
    None, "", " ", "a", "A", "a ", "\u00e9", "e\u0301", "ß", "SS", "İ", "i\u0307", "ﬀ", "ff", "שלום", "\u200fשלום",
    "😀", "\uffff", "\U00010000", "\ufeff", "\u200b", "'; drop table by_text --", '"', "NULL", "\n", "\t", "\\", "%", "0", "00",
]  # fmt: skip
PARTS = ["2026-01", "", "a/b", "a", "A", "é", " ", "'"]
NUMBERS = [None, 0, 1, -1, 2**63 - 1, -(2**63)]
LINES = [Decimal(text) for text in ("24.5", "25", "24.50", "0", "-0.00", "-1", "9999999.99", "-0.01", "1E+1")]
TIMES = [
    None,
    dt.datetime(1, 1, 1, tzinfo=UTC),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    dt.datetime(1970, 1, 1, tzinfo=UTC),
    dt.datetime(2026, 1, 10, 12, 0, 0, 1, tzinfo=UTC),
    dt.datetime(2026, 1, 10, 13, 0, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2026, 1, 10, 12, 0, 0, 2, tzinfo=UTC),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
FLOATS = [None, 0.0, -0.0, 0.1 + 0.2, 0.3, math.inf, -math.inf, math.nan, 5e-324]
JSONS = [None, "null", "{}", '{"a":1}', '{"a": 1}', '"é"']


def rows(table):
    """Return a strategy for rows that often share a key and often tie."""
    few = {"k_text": st.sampled_from(TEXTS), "k_num": st.sampled_from(NUMBERS), "k_at": st.sampled_from(TIMES)}
    if table not in {"by_text", "kept"}:
        few["k_num"] = few["k_at"] = st.none()
    line = st.sampled_from(LINES[:4] if table == "by_line" else [None, *LINES])
    return st.fixed_dictionaries(
        {
            **({"part": st.sampled_from(PARTS)} if table in {"by_text", "kept"} else {}),
            **few,
            "k_line": line,
            "o_num": st.sampled_from([None, 0, 1]),
            "o_at": st.sampled_from(TIMES),
            "v_text": st.sampled_from(TEXTS),
            "v_num": st.sampled_from(FLOATS),
            "v_json": st.sampled_from(JSONS),
            "v_flag": st.sampled_from([None, False, True]),
        }
    )


BATCHES = ["b", "b_x", "b-x"]


@st.composite
def programs(draw, tables=("by_text", "by_text", "by_line", "whole")):
    """Return a table and steps: ("stage", batch, worker, rows) and ("consolidate", batch, options)."""
    table = draw(st.sampled_from(tables))
    pool = draw(st.lists(rows(table), min_size=1, max_size=8))
    # Rows of one key, over and over: what a wide draw would hardly ever give.
    for twin in draw(st.lists(st.tuples(st.sampled_from(pool), rows(table)), max_size=8)):
        key = {name: twin[0][name] for name in twin[0] if name.startswith(("part", "k_"))}
        pool.append({**twin[1], **key})
    stages = st.tuples(
        st.just("stage"),
        st.sampled_from(BATCHES),
        st.sampled_from(["w-1", "w-2"]),
        st.lists(st.sampled_from(pool), min_size=1, max_size=8),
    )
    options = st.fixed_dictionaries({"use_lock": st.booleans(), "keep_staging": st.booleans()})
    merges = st.tuples(st.just("consolidate"), st.sampled_from(BATCHES), options)
    first = draw(stages)
    return table, [first, *draw(st.lists(st.one_of(stages, merges), max_size=7))]


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    arena = Arena(tmp_path_factory.mktemp("convergence"), tables=TABLES, table="whole")
    yield arena
    arena.close()


def same(value):
    """Return ``value`` so that what is the same compares equal: one NaN, one zero."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value + 0 if isinstance(value, float | Decimal) else value


def assert_converged(arena):
    """The table is the plain reference."""
    expected = Counter(tuple(map(same, row)) for row in newest_rows(arena.rows, arena.spec).values())
    assert Counter(tuple(map(same, row)) for row in arena.table_rows()) == expected


def consolidate(arena, batch, waiting, merged, **options):
    """Consolidate and hold the counts of each partition against the reference."""
    spec = arena.spec
    result = arena.store.consolidate(arena.table, batch, **options)
    assert result.success, result.error
    staged = waiting.pop(batch, [])
    assert result.status == ("committed" if staged else "already_merged")
    for partition in result.partitions:
        counts = (
            partition.rows_inserted,
            partition.rows_updated,
            partition.rows_unchanged,
            partition.rows_superseded,
        )
        assert partition.rows_staged == sum(counts)
    told = [sum(getattr(part, f"rows_{name}") for part in result.partitions)
            for name in ("inserted", "updated", "unchanged", "superseded")]  # fmt: skip
    canonical = [{name: same(value) for name, value in row.items()} for row in staged]
    before = newest_rows([{name: same(value) for name, value in row.items()} for row in merged], spec)
    assert tuple(told) == counts_of(canonical, before, spec)
    merged += staged


@settings(QUICK, max_examples=12)
@given(program=programs())
def test_every_program_ends_in_the_same_table(arena, program):
    table, steps = program
    arena.use(table)
    waiting, merged, seen = {}, [], set()
    for step in steps:
        if step[0] == "stage":
            _, batch, worker, staged = step
            part = arena.stage(arena.store, staged, batch=batch, worker=worker)
            if part.status == "staged":
                waiting.setdefault(batch, []).extend(staged)
            seen.add(batch)
        elif step[1] in seen:
            consolidate(arena, step[1], waiting, merged, **step[2])
    for batch in sorted(seen):
        consolidate(arena, batch, waiting, merged)
    assert_converged(arena)
    (report,) = arena.store.check(table)
    assert not report.result.duplicate_keys
    assert [finding.check for finding in report.result.findings if finding.check == "ledger"] == []
    for batch in sorted(seen):  # and once more: nothing changes
        assert arena.store.consolidate(table, batch).status == "already_merged"
    assert_converged(arena)


def different(rows, spec):
    """Return the different contents of rows, each as a tuple of its values."""
    return {tuple(same(row.get(name)) for name in spec.column_names) for row in rows}


@settings(QUICK, max_examples=11)
@given(program=programs(tables=["kept"]), again=st.booleans())
def test_every_program_keeps_the_same_versions(arena, program, again):
    """Versions mode: the same contents and the same current rows, whatever the order; numbers without holes."""
    table, steps = program
    arena.use(table)
    spec, batches, merged = arena.spec, {}, []
    ends = [("consolidate", step[1], {}) for step in steps if step[0] == "stage"]
    for step in [*steps, *ends]:
        if step[0] == "stage":
            arena.stage(arena.store, step[3], batch=step[1], worker=step[2])
            batches.setdefault(step[1], []).extend(step[3])
        elif step[1] in batches:
            result = arena.store.consolidate(table, step[1], **step[2])
            assert result.success, result.error
            before, staged = different(merged, spec), batches[step[1]]
            inserted = sum(part.rows_inserted for part in result.partitions)
            assert inserted == len(different(staged, spec) - before)
            for part in result.partitions:
                assert (part.rows_updated, part.rows_superseded) == (0, 0)
                assert part.rows_staged == part.rows_inserted + part.rows_unchanged
            merged += staged
    assert Counter(tuple(map(same, row)) for row in arena.table_rows()) == Counter(different(merged, spec))
    with duckdb.connect(str(arena.database)) as connection:
        holes = "select 1 from kept group by part, k_text, k_num, k_line, k_at having max(number) <> count(*)"
        assert connection.execute(holes).fetchall() == []
    current = Counter(tuple(map(same, row)) for row in arena.table_rows("_current"))
    assert current == Counter(tuple(map(same, row)) for row in newest_rows(merged, spec).values())
    if again:  # a replay after the ledger was pruned
        with duckdb.connect(str(arena.database)) as connection:
            connection.execute("delete from onerow.ledger")
        for batch in batches:
            result = arena.store.consolidate(table, batch, keep_staging=True)
            assert result.success
            assert sum(part.rows_inserted for part in result.partitions) == 0
        assert Counter(tuple(map(same, row)) for row in arena.table_rows()) == Counter(different(merged, spec))
    (report,) = arena.store.check(table)
    assert not report.result.duplicate_keys
    assert {finding.check for finding in report.result.findings} <= {"key_in_several_partitions"}


WIDE_ROWS = st.fixed_dictionaries(
    {
        "part": st.sampled_from(PARTS),
        "k_text": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
        "k_num": st.none() | st.integers(-(2**63), 2**63 - 1),
        "k_line": st.none() | st.decimals(-9_999_999, 9_999_999, places=2, allow_nan=False),
        "k_at": st.none() | st.datetimes(timezones=st.just(UTC)),
        "o_num": st.none() | st.integers(-(2**63), 2**63 - 1),
        "o_at": st.none() | st.datetimes(timezones=st.just(UTC)),
        "v_text": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
        "v_num": st.none() | st.floats(),
        "v_json": st.sampled_from(JSONS),
        "v_flag": st.none() | st.booleans(),
    }
)


@settings(QUICK, max_examples=11)
@given(first=st.lists(WIDE_ROWS, min_size=1, max_size=25), second=st.lists(WIDE_ROWS, min_size=1, max_size=25))
def test_any_values_come_through_unchanged(arena, first, second):
    arena.use("by_text")
    waiting, merged = {"b": first, "b_x": second + first[:5]}, []
    arena.stage(arena.store, first, batch="b")
    arena.stage(arena.store, second + first[:5], batch="b_x")
    consolidate(arena, "b_x", waiting, merged)
    consolidate(arena, "b", waiting, merged)
    assert_converged(arena)
