"""The checks of a warehouse: versions mode. Every content of a key is kept, numbered in order of arrival."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from onerow.core.plans import AlreadyMerged, Committed
from onerow.errors import ConfigurationError, DuplicatesError
from onerow.ports.warehouse import InspectRequest
from onerow.testing.conformance.asking import OVERLAP_S, Beside, Checks, raises
from onerow.testing.conformance.harness import (
    DAY,
    LOCKS,
    NEXT_DAY,
    SPEC,
    VERSIONS,
    Row,
    WarehouseHarness,
    a_row,
    assert_table,
    at,
    counted,
    refused,
    sorted_rows,
)
from onerow.testing.conformance.warehouse_merging import ODD_TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.plans import Outcome

CHECKS: Checks[WarehouseHarness] = Checks()

PARTITION = DAY.isoformat()


def version(number: int, **values: object) -> Row:
    """Return a row as it stands in the table under a number."""
    return {**a_row(**values), "version": number}


def contents(rows: Sequence[Row]) -> list[Row]:
    """Return rows without their numbers, sorted: what every order of merging ends in."""
    return sorted_rows([{name: value for name, value in row.items() if name != "version"} for row in rows])


# --- numbering -------------------------------------------------------------------------------


@CHECKS.add
def versions_are_numbered_in_order_of_arrival(harness: WarehouseHarness) -> None:
    """Each new content is one more version, also an older one that comes late; no number ever changes."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    assert counted(harness.merge("b1")) == (2, 2, 0, 0, 0)
    harness.stage("b2", "w1", [a_row(created_at=at(-9))])
    assert counted(harness.merge("b2", run="run2")) == (1, 1, 0, 0, 0)
    harness.stage("b3", "w1", [a_row(points=None), a_row(player="lebron", seen=2)])
    assert counted(harness.merge("b3", run="run3")) == (2, 2, 0, 0, 0)
    expected = [
        version(1),
        version(2, created_at=at(-9)),
        version(3, points=None),
        version(1, player="lebron"),
        version(2, player="lebron", seen=2),
    ]
    assert_table(harness, expected)


@CHECKS.add
def several_new_versions_are_numbered_from_the_oldest(harness: WarehouseHarness) -> None:
    """New contents of one key in one consolidation are numbered as they compare, NULL lowest, texts bytewise."""
    harness.installed(replace(VERSIONS, order_by=("seen", "created_at")))
    oldest_first: list[Row] = [
        {"seen": None, "created_at": at(9)},
        {"seen": 1, "created_at": at(1), "id": None},
        {"seen": 1, "created_at": at(1), "id": "Z"},
        {"seen": 1, "created_at": at(1), "id": "a", "points": None},
        {"seen": 1, "created_at": at(1), "id": "a", "points": -1.0},
        {"seen": 1, "created_at": at(2)},
        {"seen": 2, "created_at": at(0)},
    ]
    rows = [a_row(**values) for values in oldest_first]
    harness.stage("b1", "w1", [rows[4], rows[0], rows[6]])
    harness.stage("b1", "w2", [rows[3], rows[1], rows[5], rows[2]])
    assert counted(harness.merge("b1")) == (7, 7, 0, 0, 0)
    assert_table(harness, [version(number, **values) for number, values in enumerate(oldest_first, 1)])
    harness.stage("b2", "w1", [a_row(seen=0), a_row(seen=3), rows[2]])
    assert counted(harness.merge("b2", run="run2")) == (3, 2, 0, 1, 0)
    later = {row["seen"]: row["version"] for row in harness.table_rows(harness.spec) if row["version"] > 7}
    assert later == {0: 8, 3: 9}


@CHECKS.add
def identical_rows_are_one_version(harness: WarehouseHarness) -> None:
    """An identical row adds nothing, within a part, between parts and between batches."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(), a_row(seen=2)])
    harness.stage("b1", "w2", [a_row(), a_row(player="lebron")])
    assert counted(harness.merge("b1")) == (5, 3, 0, 2, 0)
    expected = [version(1), version(2, seen=2), version(1, player="lebron")]
    assert_table(harness, expected)
    harness.stage("b2", "w1", [a_row(seen=2), a_row(), a_row(), a_row(player="lebron", seen=None)])
    assert counted(harness.merge("b2", run="run2")) == (4, 1, 0, 3, 0)
    assert_table(harness, [*expected, version(2, player="lebron", seen=None)])


@CHECKS.add
def a_replay_of_versions_adds_nothing(harness: WarehouseHarness) -> None:
    """A replay changes nothing, and neither does one after the ledger was pruned: a version is its content."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(created_at=at(1)), a_row(player=None)])
    assert counted(harness.merge("b1")) == (3, 3, 0, 0, 0)
    expected = harness.table_rows(harness.spec)
    assert isinstance(harness.merge("b1", run="run2", token=2), AlreadyMerged)
    harness.forget_ledger(harness.spec)
    assert harness.warehouse().merged(harness.spec.name, "b1") == frozenset()
    assert counted(harness.merge("b1", run="run3", token=3)) == (3, 0, 0, 3, 0)
    assert_table(harness, expected)
    assert harness.warehouse().inspect(InspectRequest(harness.spec)).findings == ()


@CHECKS.add
def nulls_are_contents_like_any_other(harness: WarehouseHarness) -> None:
    """NULL equals NULL and nothing else, in keys as in values."""
    harness.installed(VERSIONS)
    rows = [
        a_row(player=None, line=None),
        a_row(player=None, line=None, points=None, seen=None, id=None),
        a_row(player=None, line=None, points=None, seen=0, id=""),
        a_row(player=None),
        a_row(line=None),
        a_row(player=""),
    ]
    harness.stage("b1", "w1", [*rows, *rows])
    assert counted(harness.merge("b1")) == (12, 6, 0, 6, 0)
    harness.stage("b2", "w1", rows)
    assert counted(harness.merge("b2", run="run2")) == (6, 0, 0, 6, 0)
    found = harness.table_rows(harness.spec)
    assert contents(found) == contents(rows)
    assert sorted(row["version"] for row in found if row["player"] is None and row["line"] is None) == [1, 2, 3]
    assert sorted(row["version"] for row in found) == [1, 1, 1, 1, 2, 3]


@CHECKS.add
def contents_are_compared_exactly(harness: WarehouseHarness) -> None:
    """Texts that look alike and numbers that lie close are different contents; one NaN is like another."""
    harness.installed(VERSIONS)
    rows = [a_row(id=text) for text in ODD_TEXTS]
    rows += [a_row(points=value) for value in (0.1 + 0.2, 0.3, math.inf, -math.inf, 0.0, 5e-324)]
    rows += [a_row(created_at=at(0.000001)), a_row(seen=2**53), a_row(seen=2**53 + 1)]
    harness.stage("b1", "w1", rows)
    assert counted(harness.merge("b1")) == (len(rows), len(rows), 0, 0, 0)
    harness.stage("b2", "w1", [*rows, a_row(points=-0.0)])
    assert counted(harness.merge("b2", run="run2")) == (len(rows) + 1, 0, 0, len(rows) + 1, 0)
    assert contents(harness.table_rows(harness.spec)) == contents(rows)
    harness.stage("b3", "w1", [a_row(points=math.nan), a_row(points=math.nan, player="other")])
    harness.stage("b3", "w2", [a_row(points=math.nan), a_row(line=Decimal("24.5"), id=None)])
    assert counted(harness.merge("b3", run="run3")) == (4, 2, 0, 2, 0)
    harness.stage("b4", "w1", [a_row(points=math.nan)])
    assert counted(harness.merge("b4", run="run4")) == (1, 0, 0, 1, 0)


@CHECKS.add
def each_partition_numbers_for_itself(harness: WarehouseHarness) -> None:
    """A key has versions of its own in every partition, also if one transaction writes several partitions."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(seen=2), a_row(game_date=NEXT_DAY)])
    outcome = harness.merge("b1")
    assert counted(outcome) == (2, 2, 0, 0, 0)
    assert counted(outcome, NEXT_DAY.isoformat()) == (1, 1, 0, 0, 0)
    harness.stage("b2", "w1", [a_row(seen=2), a_row(game_date=NEXT_DAY, seen=2), a_row(game_date=NEXT_DAY)])
    outcome = harness.merge("b2", run="run2")
    assert counted(outcome) == (1, 0, 0, 1, 0)
    assert counted(outcome, NEXT_DAY.isoformat()) == (2, 1, 0, 1, 0)
    expected = [version(1), version(2, seen=2), version(1, game_date=NEXT_DAY), version(2, game_date=NEXT_DAY, seen=2)]
    assert_table(harness, expected)


@CHECKS.add
def versions_need_no_partitions(harness: WarehouseHarness) -> None:
    """A table without a partition column numbers by the key alone."""
    harness.installed(replace(VERSIONS, partition=None))
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY)])
    assert counted(harness.merge("b1"), None) == (2, 2, 0, 0, 0)
    harness.stage("b2", "w1", [a_row(), a_row(seen=2)])
    assert counted(harness.merge("b2", run="run2"), None) == (2, 1, 0, 1, 0)
    assert_table(harness, [version(1), version(2, game_date=NEXT_DAY), version(3, seen=2)])


@CHECKS.add
def numbers_go_on_after_the_greatest(harness: WarehouseHarness) -> None:
    """What somebody else has numbered stays as it is; ours follow the greatest."""
    harness.installed(VERSIONS)
    harness.foreign_insert(harness.spec, [version(7), version(3, seen=2), version(0, player="lebron")])
    harness.stage("b1", "w1", [a_row(seen=3), a_row(seen=2), a_row(seen=4), a_row(player="lebron", seen=2)])
    assert counted(harness.merge("b1")) == (4, 3, 0, 1, 0)
    expected = [version(7), version(3, seen=2), version(8, seen=3), version(9, seen=4)]
    assert_table(harness, [*expected, version(0, player="lebron"), version(1, player="lebron", seen=2)])


@CHECKS.add
def any_order_keeps_the_same_versions(harness: WarehouseHarness) -> None:
    """Every split and order of the same rows ends in the same content and the same current rows."""
    chance = random.Random("versions in any order")
    rows = [
        a_row(
            id=f"id-{chance.randrange(2)}",
            player=chance.choice(("jokic", None)),
            created_at=at(chance.randrange(3)),
            points=chance.choice((None, 1.0)),
        )
        for _ in range(30)
    ]
    harness.installed(VERSIONS)
    ends = []
    for variant in range(2):
        harness.foreign_delete_all(harness.spec)
        shuffled = list(rows)
        chance.shuffle(shuffled)
        for start in range(0, 30, 10):
            batch = f"b{variant}.{start}"
            harness.stage(batch, "w1", shuffled[start : start + 10])
            assert isinstance(harness.merge(batch), Committed)
        found = harness.table_rows(harness.spec)
        ends.append((contents(found), contents(harness.related_rows(harness.spec, "_current"))))
        numbers: dict[object, list[int]] = {}
        for row in found:
            numbers.setdefault(row["player"], []).append(row["version"])
        assert all(sorted(given) == list(range(1, len(given) + 1)) for given in numbers.values())
    assert ends[0] == ends[1]
    assert ends[0][0] == contents(list({repr(row): row for row in rows}.values()))


@CHECKS.add
def two_at_once_number_apart(harness: WarehouseHarness) -> None:
    """Two transactions that number the same key, both open at once: serialised or refused, never one number twice."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row()])
    harness.stage("b2", "w1", [a_row(seen=2)])
    second = harness.plan("b2", run="run2", token=None)
    beside: list[Beside[Outcome]] = []

    def begin_second() -> None:
        beside.append(Beside(lambda: harness.apply(second)))
        beside[0].join(OVERLAP_S)

    first = harness.apply(harness.plan("b1", token=None), before_commit=begin_second)
    ends = {"b1": first, "b2": beside[0].result()}
    assert any(isinstance(end, Committed) for end in ends.values()), ends
    for batch, end in ends.items():
        if not isinstance(end, Committed):
            assert isinstance(harness.merge(batch, run=f"again {batch}", token=None), Committed)
    found = harness.table_rows(harness.spec)
    assert contents(found) == contents([a_row(), a_row(seen=2)])
    assert sorted(row["version"] for row in found) == [1, 2]


# --- what others did -------------------------------------------------------------------------


@CHECKS.add
def a_foreign_version_that_stands_twice_is_refused(harness: WarehouseHarness) -> None:
    """A number that a key has twice in the partition fails the merge, whoever wrote it, and names the key."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY)])
    if not harness.plant_duplicates([version(4, player="doubled"), version(4, player="doubled", seen=2)]):
        return
    refusal = refused(harness.merge("b1", partitions=[PARTITION]), "failed")
    assert isinstance(refusal.error, DuplicatesError)
    assert refusal.error.partitions == (PARTITION,)
    assert len(refusal.error.keys) == 1
    assert "doubled" in refusal.error.keys[0]
    assert isinstance(harness.merge("b1", run="run2", partitions=[NEXT_DAY.isoformat()]), Committed)
    foreign = [version(4, player="doubled"), version(4, player="doubled", seen=2)]
    assert_table(harness, [*foreign, version(1, game_date=NEXT_DAY)])


@CHECKS.add
def a_foreign_content_that_stands_twice_is_refused(harness: WarehouseHarness) -> None:
    """A staged key whose content stands under two numbers fails the merge; other keys are none of its business."""
    harness.installed(VERSIONS)
    harness.foreign_insert(harness.spec, [version(1), version(2)])
    for number, row in enumerate((a_row(), a_row(seen=2))):  # the very content, and another one of its key
        harness.stage(f"b{number}", "w1", [row])
        refusal = refused(harness.merge(f"b{number}", run=f"run{number}"), "failed")
        assert isinstance(refusal.error, DuplicatesError)
        assert "jokic" in refusal.error.keys[0]
    harness.stage("b2", "w1", [a_row(player="lebron")])
    assert counted(harness.merge("b2", run="run2")) == (1, 1, 0, 0, 0)
    assert_table(harness, [version(1), version(2), version(1, player="lebron")])


@CHECKS.add
def a_look_at_versions(harness: WarehouseHarness) -> None:
    """A number that stands twice is a duplicate, a content that does a finding; versions of a key are neither."""
    harness.installed(VERSIONS)
    harness.stage("b1", "w1", [a_row(), a_row(seen=2), a_row(seen=3), a_row(player=None)])
    harness.merge("b1")
    check = harness.warehouse().inspect(InspectRequest(harness.spec))
    assert (check.rows, check.duplicate_keys, check.extra_rows, check.findings) == (4, 0, 0, ())
    foreign = [version(2, seen=9), version(8, seen=3), version(9, seen=3), version(1, game_date=NEXT_DAY)]
    if not harness.plant_duplicates(foreign):
        return
    check = harness.warehouse().inspect(InspectRequest(harness.spec, partition=PARTITION))
    (found,) = check.duplicates
    assert (check.rows, check.duplicate_keys, check.extra_rows, found.rows) == (7, 1, 1, 2)
    assert dict(found.key) == {"game_date": PARTITION, "player": "jokic", "line": "24.50", "version": "2"}
    findings = {(finding.check, finding.partition, finding.rows) for finding in check.findings}
    assert findings == {("version_twice", PARTITION, 2), ("ledger", PARTITION, 3)}
    clean = harness.warehouse().inspect(
        InspectRequest(harness.spec, partition=NEXT_DAY.isoformat(), against_ledger=False)
    )
    assert (clean.rows, clean.duplicate_keys, clean.findings) == (1, 0, ())


# --- into the mode, and out of it ------------------------------------------------------------


@CHECKS.add
def a_table_is_taken_into_versions_mode(harness: WarehouseHarness) -> None:
    """The rows that are there are numbered by key from the oldest on, even several of one key; then it goes on."""
    harness.installed(replace(SPEC, order_by=("seen",)))
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    harness.merge("b1")
    if not harness.plant_duplicates([a_row(seen=None), a_row(seen=0, id="b"), a_row(seen=0, id="a")]):
        return
    spec = replace(VERSIONS, order_by=("seen",))
    assert list(harness.warehouse().install([spec], lock_store=LOCKS, adopt_locks=False))
    assert list(harness.warehouse().install([spec], lock_store=LOCKS, adopt_locks=False)) == []
    harness.spec = spec
    numbered = [version(1, seen=None), version(2, seen=0, id="a"), version(3, seen=0, id="b"), version(4)]
    assert_table(harness, [*numbered, version(1, player="lebron")])
    harness.stage("b2", "w1", [a_row(seen=-1), a_row(seen=0, id="a"), a_row(player="lebron")])
    assert counted(harness.merge("b2", run="run2")) == (3, 1, 0, 2, 0)
    assert_table(harness, [*numbered, version(5, seen=-1), version(1, player="lebron")])


@CHECKS.add
def identical_rows_are_no_versions(harness: WarehouseHarness) -> None:
    """A table with identical rows is not taken into versions mode; the error names what repairs it."""
    harness.installed()
    if not harness.plant_duplicates([a_row(player=None), a_row(player=None), a_row()]):
        return
    more = replace(SPEC, name="more", target=("more",))
    with raises(DuplicatesError) as raised:
        harness.warehouse().install([more, VERSIONS], lock_store=LOCKS, adopt_locks=False)
    assert "onerow dedupe" in raised.error.hint
    assert_table(harness, [a_row(player=None), a_row(player=None), a_row()])
    assert list(harness.warehouse().install([SPEC], lock_store=LOCKS, adopt_locks=False)) == []
    assert list(harness.warehouse().install([more], lock_store=LOCKS, adopt_locks=False)), "it was not created"


@CHECKS.add
def versions_are_not_folded_into_rows(harness: WarehouseHarness) -> None:
    """There is no way back to upsert mode, nor to another column of numbers: it would lose versions."""
    harness.installed(VERSIONS)
    for other in (SPEC, replace(VERSIONS, version_column="number")):
        with raises(ConfigurationError) as raised:
            harness.warehouse().install([other], lock_store=LOCKS, adopt_locks=False)
        assert "'version'" in str(raised.error)
