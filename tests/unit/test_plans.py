"""Plans: what waits, how it is grouped, what may be removed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onerow.core.partitions import Scope
from onerow.core.parts import PartManifest
from onerow.core.plans import MergeCounts, fully_merged, plan_groups, plan_merge, unmerged
from onerow.testing.scenario import SPEC


def part(name, **partitions):
    rows = {key.replace("_", "-"): count for key, count in partitions.items()}
    return PartManifest(
        part_id=name,
        table="props",
        batch="b1",
        worker=f"worker of {name}",
        rows=sum(rows.values()),
        partitions=rows,
        columns=(("player", "string"),),
        content_digest=name,
        data=name,
        data_digest="",
        size_bytes=1,
        staged_at="2026-01-11T00:00:00+00:00",
    )


PARTS = st.lists(
    st.tuples(
        st.sampled_from("pqrs"), st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 9), min_size=1)
    ),
    unique_by=lambda item: item[0],
).map(lambda items: [part(name, **partitions) for name, partitions in items])


def pairs_of(parts):
    return {(found.part_id, name) for found in parts for name in found.partitions}


@given(PARTS, st.data())
def test_what_waits_is_the_parts_minus_the_ledger(parts, data):
    merged = frozenset(data.draw(st.sets(st.sampled_from(sorted(pairs_of(parts)) or [("x", "y")]))))
    waiting = unmerged(parts, merged, partitioned=True)
    assert {(p.part_id, name) for name, found in waiting.items() for p in found} == pairs_of(parts) - merged
    assert list(waiting) == sorted(waiting)
    for found in waiting.values():
        assert [p.part_id for p in found] == sorted(p.part_id for p in found)


@given(PARTS, st.data())
def test_only_what_is_merged_everywhere_may_be_removed(parts, data):
    merged = frozenset(data.draw(st.sets(st.sampled_from(sorted(pairs_of(parts)) or [("x", "y")]))))
    removable = {found.part_id for found in fully_merged(parts, merged, partitioned=True)}
    still_waiting = {p.part_id for found in unmerged(parts, merged, partitioned=True).values() for p in found}
    assert removable == {found.part_id for found in parts} - still_waiting


def test_a_table_without_partitions_has_the_one_without_a_name():
    found = part("p")
    found = PartManifest(**{**{name: getattr(found, name) for name in found.__slots__}, "partitions": {"": 3}})
    assert list(unmerged([found], frozenset(), partitioned=False)) == [None]
    assert unmerged([found], frozenset({("p", None)}), partitioned=False) == {}
    assert fully_merged([found], frozenset({("p", None)}), partitioned=False) == [found]


@given(PARTS, st.integers(1, 4), st.integers(1, 20))
def test_groups_keep_order_and_bounds(parts, max_partitions, max_rows):
    waiting = unmerged(parts, frozenset(), partitioned=True)
    groups = plan_groups(waiting, max_partitions=max_partitions, max_rows=max_rows)
    assert [name for group in groups for name in group] == list(waiting)
    for group in groups:
        rows = sum(p.rows_of(name) for name in group for p in waiting[name])
        assert 1 <= len(group) <= max_partitions
        assert rows <= max_rows or len(group) == 1


def plan_of(parts, tokens, *, lock_store="locks"):
    return plan_merge(
        spec=SPEC,
        batch="b1",
        consolidation="c1",
        attempt=3,
        holder="me",
        waiting=unmerged(parts, frozenset(), partitioned=True),
        tokens=tokens,
        lock_store=lock_store,
    )


def test_a_plan_names_parts_rows_and_tokens():
    parts = [part("q", a=1, b=2), part("p", b=3)]
    plan = plan_of(parts, {Scope("props", "a"): 7, Scope("props", "b"): 8})
    assert [(task.partition, task.part_ids, task.rows_staged, task.token) for task in plan.tasks] == [
        ("a", ("q",), 1, 7),
        ("b", ("p", "q"), 5, 8),
    ]
    assert [found.part_id for found in plan.parts] == ["p", "q"]
    assert plan.partitions == ("a", "b")
    assert plan.transaction == "c1.3"
    assert not plan.unlocked
    assert plan.scope(plan.tasks[0]) == Scope("props", "a")


def test_a_plan_without_a_lock_has_no_tokens():
    plan = plan_of([part("p", a=1)], {}, lock_store=None)
    assert plan.unlocked
    assert plan.tasks[0].token is None


@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), st.integers(-1, 1))
def test_counts_add_up_or_do_not(parts, off):
    assert MergeCounts(sum(parts) + off, *parts).add_up is (off == 0)


def test_negative_counts_do_not_add_up():
    assert not MergeCounts(0, 1, -1, 0, 0).add_up
