"""The checks of a warehouse: what a merge does to rows and how it counts them."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import replace
from decimal import Decimal

from onerow.core.partitions import INT64_MAX, INT64_MIN
from onerow.core.plans import Committed
from onerow.testing.conformance.asking import Checks
from onerow.testing.conformance.harness import (
    SPEC,
    Row,
    WarehouseHarness,
    a_row,
    assert_table,
    at,
    counted,
    sorted_rows,
)

CHECKS: Checks[WarehouseHarness] = Checks()

ODD_TEXTS = (
    None,
    "",
    " ",
    "é",
    "e\u0301",
    "😀",
    "'; drop table props; --",
    '"quoted"',
    "back\\slash",
    "per%cent_",
    "a/b",
    "\u200b",
    "NULL",
    "ﬁ",
    "fi",
    "İ",
    "i",
    "I",
    "new\nline",
)


@CHECKS.add
def new_rows_are_inserted(harness: WarehouseHarness) -> None:
    """Rows of new keys are inserted, and stand in the table as they were staged."""
    harness.installed()
    rows = [a_row(), a_row(player="lebron", points=None), a_row(line=Decimal("25.00"), seen=None)]
    harness.stage("b1", "w1", rows)
    assert counted(harness.merge("b1")) == (3, 3, 0, 0, 0)
    assert_table(harness, rows)


@CHECKS.add
def a_newer_row_replaces(harness: WarehouseHarness) -> None:
    """A newer row replaces the older one whole, also where it has NULL."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    harness.merge("b1")
    newer = a_row(id="id-2", created_at=at(1), points=None)
    harness.stage("b2", "w1", [newer])
    assert counted(harness.merge("b2", run="run2")) == (1, 0, 1, 0, 0)
    assert_table(harness, [newer, a_row(player="lebron")])


@CHECKS.add
def an_older_row_is_superseded(harness: WarehouseHarness) -> None:
    """A row older than the table's changes nothing, and is counted."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1")
    harness.stage("b2", "w1", [a_row(id="id-0", created_at=at(-1))])
    assert counted(harness.merge("b2", run="run2")) == (1, 0, 0, 0, 1)
    assert_table(harness, [a_row()])


@CHECKS.add
def an_identical_row_is_unchanged(harness: WarehouseHarness) -> None:
    """An identical row is unchanged, in another batch as in the same one."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row()])
    harness.stage("b1", "w2", [a_row()])
    assert counted(harness.merge("b1")) == (3, 1, 0, 2, 0)
    harness.stage("b2", "w1", [a_row(), a_row()])
    assert counted(harness.merge("b2", run="run2")) == (2, 0, 0, 2, 0)
    assert_table(harness, [a_row()])


@CHECKS.add
def every_count_at_once(harness: WarehouseHarness) -> None:
    """One consolidation with rows of every fate, over two parts."""
    harness.installed()
    harness.stage("b0", "w1", [a_row(player="updated"), a_row(player="same"), a_row(player="kept", created_at=at(9))])
    harness.merge("b0", run="run0")
    first = [
        a_row(player="new", created_at=at(2)),  # inserted
        a_row(player="new", created_at=at(1)),  # superseded by the row above
        a_row(player="updated", created_at=at(3)),  # updated
        a_row(player="updated"),  # as the table was; superseded by the row above
        a_row(player="kept", created_at=at(8)),  # superseded by the table
    ]
    second = [
        a_row(player="new", created_at=at(2)),  # unchanged: identical to the inserted row
        a_row(player="updated", created_at=at(3)),  # unchanged: identical to the updated row
        a_row(player="same"),  # unchanged: identical to the table's row
        a_row(player="same", created_at=at(-1)),  # superseded by the table
        a_row(player="kept", created_at=at(9)),  # unchanged
    ]
    harness.stage("b1", "w1", first)
    harness.stage("b1", "w2", second)
    assert counted(harness.merge("b1")) == (10, 1, 1, 4, 4)
    assert_table(harness, [first[0], first[2], a_row(player="same"), a_row(player="kept", created_at=at(9))])


@CHECKS.add
def texts_are_exact_keys(harness: WarehouseHarness) -> None:
    """NULL equals NULL and nothing else; texts that look alike are different keys."""
    harness.installed()
    rows = [a_row(player=text, id=f"id-{number}") for number, text in enumerate(ODD_TEXTS)]
    harness.stage("b1", "w1", rows)
    assert counted(harness.merge("b1"))[:2] == (len(rows), len(rows))
    harness.stage("b2", "w1", rows)
    assert counted(harness.merge("b2", run="run2")) == (len(rows), 0, 0, len(rows), 0)
    assert_table(harness, rows)


@CHECKS.add
def null_is_a_key_of_its_own(harness: WarehouseHarness) -> None:
    """Two rows whose key is NULL are one row, in every column of the key."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(player=None, line=None), a_row(player=None), a_row(line=None)])
    assert counted(harness.merge("b1")) == (3, 3, 0, 0, 0)
    newer = a_row(player=None, line=None, created_at=at(1))
    harness.stage("b2", "w1", [newer])
    assert counted(harness.merge("b2", run="run2")) == (1, 0, 1, 0, 0)
    assert_table(harness, [newer, a_row(player=None), a_row(line=None)])


@CHECKS.add
def decimals_are_exact_keys(harness: WarehouseHarness) -> None:
    """24.5 and 25.0 are two keys; 24.5 and 24.50 are one; so are 0 and -0."""
    harness.installed()
    lines = ("24.50", "25.00", "24.51", "-24.50", "0.00", "9999.99", "-9999.99")
    harness.stage("b1", "w1", [a_row(line=Decimal(line)) for line in lines])
    assert counted(harness.merge("b1")) == (7, 7, 0, 0, 0)
    harness.stage("b2", "w1", [a_row(line=Decimal("24.5")), a_row(line=Decimal("-0.00"))])
    assert counted(harness.merge("b2", run="run2")) == (2, 0, 0, 2, 0)


@CHECKS.add
def integers_to_their_ends(harness: WarehouseHarness) -> None:
    """The greatest and the smallest int64 are keys and orders like any other, next to each other."""
    values = (INT64_MIN, INT64_MIN + 1, -1, 0, 1, 2**53, 2**53 + 1, INT64_MAX - 1, INT64_MAX)
    harness.installed(replace(SPEC, key=("seen",), order_by=("seen",)))
    harness.stage("b1", "w1", [a_row(seen=value) for value in values])
    assert counted(harness.merge("b1")) == (9, 9, 0, 0, 0)
    assert_table(harness, [a_row(seen=value) for value in values])
    harness.stage("b2", "w1", [a_row(seen=value) for value in values])
    assert counted(harness.merge("b2", run="run2")) == (9, 0, 0, 9, 0)


@CHECKS.add
def large_integers_order_exactly(harness: WarehouseHarness) -> None:
    """Two orders that differ in the last bit of an int64 are not a tie."""
    harness.installed(replace(SPEC, order_by=("seen",)))
    for number, value in enumerate((2**53, 2**53 + 1, INT64_MAX - 1, INT64_MAX)):
        harness.stage(f"b{number}", "w1", [a_row(seen=value)])
        counts = counted(harness.merge(f"b{number}", run=f"run{number}"))
        assert counts == ((1, 1, 0, 0, 0) if number == 0 else (1, 0, 1, 0, 0))
    assert_table(harness, [a_row(seen=INT64_MAX)])


@CHECKS.add
def moments_to_the_microsecond(harness: WarehouseHarness) -> None:
    """Moments before 1970 and one microsecond apart keep their order and their value."""
    harness.installed(replace(SPEC, key=("created_at",)))
    old = dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    moments = (
        dt.datetime(1, 1, 2, tzinfo=dt.UTC),
        dt.datetime(1582, 10, 10, tzinfo=dt.UTC),
        old,
        old + dt.timedelta(microseconds=1),
        old - dt.timedelta(microseconds=1),
        dt.datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    )
    harness.stage("b1", "w1", [a_row(created_at=moment) for moment in moments])
    assert counted(harness.merge("b1")) == (7, 7, 0, 0, 0)
    assert_table(harness, [a_row(created_at=moment) for moment in moments])


@CHECKS.add
def a_microsecond_decides(harness: WarehouseHarness) -> None:
    """One microsecond later is newer, also before 1970."""
    harness.installed()
    for number, base in enumerate((dt.datetime(1969, 12, 31, 23, 59, 59, 999_998, tzinfo=dt.UTC), at(0))):
        later = base + dt.timedelta(microseconds=1)
        player = f"p{number}"
        harness.stage(f"b{number}", "w1", [a_row(player=player, created_at=base)])
        harness.stage(f"b{number}", "w2", [a_row(player=player, created_at=later)])
        assert counted(harness.merge(f"b{number}", run=f"run{number}")) == (2, 1, 0, 0, 1)
        (found,) = (row for row in harness.table_rows(harness.spec) if row["player"] == player)
        assert found["created_at"] == later


@CHECKS.add
def the_sign_of_zero_does_not_matter(harness: WarehouseHarness) -> None:
    """A float of 0.0 and one of -0.0 are the same value; neither replaces the other."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(points=-0.0)])
    harness.merge("b1")
    harness.stage("b2", "w1", [a_row(points=0.0)])
    assert counted(harness.merge("b2", run="run2")) == (1, 0, 0, 1, 0)


@CHECKS.add
def nulls_are_oldest(harness: WarehouseHarness) -> None:
    """NULL in an order column is older than every value."""
    harness.installed(replace(SPEC, order_by=("seen",)))
    harness.stage("b1", "w1", [a_row(seen=None)])
    harness.merge("b1")
    harness.stage("b2", "w1", [a_row(seen=INT64_MIN)])
    assert counted(harness.merge("b2", run="run2")) == (1, 0, 1, 0, 0)
    harness.stage("b3", "w1", [a_row(seen=None, id="z")])
    assert counted(harness.merge("b3", run="run3")) == (1, 0, 0, 0, 1)
    assert_table(harness, [a_row(seen=INT64_MIN)])


@CHECKS.add
def the_first_order_column_decides(harness: WarehouseHarness) -> None:
    """The second order column is asked only when the first ties."""
    harness.installed(replace(SPEC, order_by=("seen", "created_at")))
    harness.stage("b1", "w1", [a_row(seen=2, created_at=at(0)), a_row(seen=1, created_at=at(9))])
    assert counted(harness.merge("b1")) == (2, 1, 0, 0, 1)
    assert_table(harness, [a_row(seen=2, created_at=at(0))])
    harness.stage("b2", "w1", [a_row(seen=2, created_at=at(1))])
    assert counted(harness.merge("b2", run="run2")) == (1, 0, 1, 0, 0)


@CHECKS.add
def ties_are_broken_by_the_other_columns(harness: WarehouseHarness) -> None:
    """Where all order columns tie, the rest decides in declared order, NULL lowest, texts bytewise."""
    harness.installed()
    rows = [
        a_row(player="text", id="Z"),
        a_row(player="text", id="a"),  # bytewise 'a' comes after 'Z'
        a_row(player="text", id=None),
        a_row(player="number", points=None),
        a_row(player="number", points=-1.0),
        a_row(player="number", points=10.0),
        a_row(player="number", points=9.0),
        a_row(player="order", id="b", points=1.0),
        a_row(player="order", id="a", points=2.0),  # the id is declared first
        a_row(player="wide", id="\uffee"),
        a_row(player="wide", id="😀"),  # bytewise after U+FFEE, in UTF-16 units before
    ]
    winners = [rows[1], rows[5], rows[7], rows[10]]
    harness.stage("b1", "w1", rows)
    assert counted(harness.merge("b1")) == (11, 4, 0, 0, 7)
    assert_table(harness, winners)
    waiting = list(rows)
    while waiting:  # one row of each key at a time, so that it meets the table's and no other
        some = list({row["player"]: row for row in waiting}.values())
        waiting = [row for row in waiting if row not in some]
        batch = f"with {len(waiting)} to go"
        harness.stage(batch, "w1", some)
        unchanged = sum(row in winners for row in some)
        assert counted(harness.merge(batch)) == (len(some), 0, 0, unchanged, len(some) - unchanged)
    assert_table(harness, winners)


@CHECKS.add
def any_order_gives_the_same_table(harness: WarehouseHarness) -> None:
    """Consolidations commute: every split and order of the same rows ends in the same table."""
    chance = random.Random("any order")
    rows = [
        a_row(
            id=f"id-{chance.randrange(3)}",
            player=chance.choice(("jokic", None, "")),
            line=chance.choice((Decimal("24.50"), Decimal("25.00"), None)),
            created_at=at(chance.randrange(2)),
            points=chance.choice((None, 1.0, 2.0)),
            seen=chance.choice((None, 1, 2)),
        )
        for _ in range(40)
    ]
    tables: list[list[Row]] = []
    harness.installed()
    for variant in range(2):
        harness.foreign_delete_all(harness.spec)
        shuffled = list(rows)
        chance.shuffle(shuffled)
        cuts = sorted(chance.sample(range(1, 40), 4))
        for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, 40], strict=True)):
            batch = f"b{variant}.{number}"
            harness.stage(batch, "w1", shuffled[start:end])
            assert isinstance(harness.merge(batch), Committed)
        tables.append(sorted_rows(harness.table_rows(harness.spec)))
    assert tables[0] == tables[1]
    assert len({(row["player"], row["line"]) for row in tables[0]}) == len(tables[0])


@CHECKS.add
def a_part_may_lack_columns(harness: WarehouseHarness) -> None:
    """A column that a part lacks is NULL; parts of one batch may differ in this."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1")
    narrow = ("created_at", "line", "player", "game_date")
    harness.stage("b2", "w1", [a_row(created_at=at(1))], columns=tuple(n for n in SPEC.column_names if n in narrow))
    harness.stage("b2", "w2", [a_row(player="lebron")])
    assert counted(harness.merge("b2", run="run2")) == (2, 1, 1, 0, 0)
    replaced = a_row(created_at=at(1), id=None, points=None, seen=None)
    assert_table(harness, [replaced, a_row(player="lebron")])
