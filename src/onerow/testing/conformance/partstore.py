"""What every part store has to do."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from onerow.core.rows import arrow_schema
from onerow.errors import OnerowError, PartCorruptError, PartGoneError, WarehouseError
from onerow.testing.conformance import partstore_quarantine
from onerow.testing.conformance.asking import Checks, raises, together
from onerow.testing.conformance.rows import COLUMNS, DAY, SPEC, begin, only, part_rows, part_spec, put

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow.testing.conformance.harness import PartStoreHarness

    Row = dict[str, Any]

CHECKS: Checks[PartStoreHarness] = Checks(partstore_quarantine.CHECKS)

ODD_BATCHES = (
    "b1", "b1_x", "b1-x", "b1.x", "b1 x", "b1/x", "b1//x", "B1", "a-b", "a_b", "A_b", "it's", '"quoted"', "; drop",
    "é", "e\u0301", "日本🏀", "..", ".", ".tmp", "~", "*", "%", "\\", "x" * 200, "x" * 199, "b1.json", "con",
)  # fmt: skip


# --- whole or absent -----------------------------------------------------------------------------


@CHECKS.add
def an_empty_store_has_nothing(harness: PartStoreHarness) -> None:
    """Before anything was staged every question has an answer."""
    store = harness.store()
    assert list(store.batches("predictions")) == []
    assert list(store.parts("predictions", "b")) == []
    assert list(store.retired("predictions", older_than_s=0)) == []
    assert list(store.remains(older_than_s=0)) == []
    assert list(store.remove_remains(older_than_s=0)) == []


@CHECKS.add
def a_part_is_what_was_written(harness: PartStoreHarness) -> None:
    """Its manifest tells what it is, and its rows come back, for every object on the store."""
    store = harness.store()
    rows = part_rows(3) + part_rows(2, first=3, day=DAY - dt.timedelta(days=1))
    told = put(store, rows)
    for part in (only(store), only(harness.store())):
        assert (part.table, part.batch, part.worker, part.state) == ("predictions", "b", "w", "staged")
        assert (part.rows, dict(part.partitions)) == (5, {"2026-01-10": 2, "2026-01-11": 3})
        assert part.columns == tuple(COLUMNS.items())
        assert sorted(harness.rows(part), key=lambda row: row["seq"]) == rows
        assert (told.status, told.part_id, told.rows) == ("staged", part.part_id, 5)
        assert dict(told.partitions) == dict(part.partitions)
    assert list(store.batches("predictions")) == ["b"]


@CHECKS.add
def rows_may_come_in_several_batches(harness: PartStoreHarness) -> None:
    """How the rows were cut up does not matter: the part is the same one."""
    store = harness.store()
    writer = begin(store, part_rows(2))
    writer.write(pa.RecordBatch.from_pylist([], schema=arrow_schema(SPEC.columns)))
    writer.write(pa.RecordBatch.from_pylist(part_rows(3, first=2), schema=arrow_schema(SPEC.columns)))
    told = writer.publish()
    assert sorted(row["seq"] for row in harness.rows(only(store))) == [0, 1, 2, 3, 4]
    assert (put(store, part_rows(5)).status, put(store, part_rows(5)).part_id) == ("already_staged", told.part_id)


@CHECKS.add
def a_part_may_lack_columns(harness: PartStoreHarness) -> None:
    """Its manifest tells which it has."""
    store = harness.store()
    names = ("day", "k", "seq")
    writer = store.writer(SPEC, batch="b", worker="w", columns=names)
    schema = arrow_schema([SPEC.by_name[name] for name in names])
    rows = [{name: row[name] for name in names} for row in part_rows()]
    writer.write(pa.RecordBatch.from_pylist(rows, schema=schema))
    writer.publish()
    assert only(store).columns == (("day", "date"), ("k", "string"), ("seq", "int64"))
    assert [row["k"] for row in harness.rows(only(store))] == ["k0", "k1", "k2"]


@CHECKS.add
def a_part_of_a_table_without_partitions(harness: PartStoreHarness) -> None:
    """All of its rows are in the one partition that has no name."""
    spec = part_spec("flat", partition=None)
    put(harness.store(), spec=spec)
    (part,) = harness.store().parts("flat", "b")
    assert (dict(part.partitions), part.rows_of(None)) == ({"": 3}, 3)


@CHECKS.add
def no_rows_are_no_part(harness: PartStoreHarness) -> None:
    """A worker that had nothing to tell has staged nothing."""
    store = harness.store()
    assert put(store, []).status == "empty"
    assert list(store.parts("predictions", "b")) == []
    assert list(store.batches("predictions")) == []


@CHECKS.add
def what_is_not_published_is_not_there(harness: PartStoreHarness) -> None:
    """Abandoned or forgotten: no reader sees anything of it, and what is left of it can be removed."""
    store = harness.store()
    put(store, batch="other")
    abandoned = begin(store, part_rows())
    abandoned.abandon()
    abandoned.abandon()
    crashed = begin(store, part_rows(1000))
    assert list(harness.store().parts("predictions", "b")) == []
    assert list(store.batches("predictions")) == ["other"]
    assert list(store.remains(older_than_s=3600)) == [], "a writer may still be at work"
    harness.age([], 7200)
    remains = list(store.remains(older_than_s=3600))
    assert list(store.remove_remains(older_than_s=3600)) == remains
    assert list(store.remains(older_than_s=0)) == []
    crashed.abandon()
    assert len(harness.rows(only(store, "other"))) == 3
    assert put(store, part_rows(1000)).status == "staged"


@CHECKS.add
def abandoning_a_published_part_changes_nothing(harness: PartStoreHarness) -> None:
    """So that a caller may always end by abandoning."""
    store = harness.store()
    writer = begin(store, part_rows())
    writer.publish()
    writer.abandon()
    assert len(harness.rows(only(store))) == 3


# --- identity ------------------------------------------------------------------------------------


@CHECKS.add
def the_same_rows_again_are_the_same_part(harness: PartStoreHarness) -> None:
    """In every state that has data, from whichever object."""
    store = harness.store()
    first = put(store)
    for _ in range(2):
        again = put(harness.store())
        assert (again.status, again.part_id, again.rows) == ("already_staged", first.part_id, 3)
        assert len(harness.rows(only(store))) == 3
        store.retire([only(store)])
    assert only(store).state == "retired"


@CHECKS.add
def other_rows_workers_batches_and_tables_are_other_parts(harness: PartStoreHarness) -> None:
    """Parts of a batch are told sorted by identity."""
    store = harness.store()
    told = [
        put(store),
        put(store, part_rows(2)),
        put(store, part_rows()[::-1]),
        put(store, worker="w2"),
        put(store, batch="c"),
        put(store, spec=part_spec("other")),
    ]
    ids = [part.part_id for part in told]
    assert len(set(ids)) == len(ids)
    assert all(part.status == "staged" for part in told)
    assert [part.part_id for part in store.parts("predictions", "b")] == sorted(ids[:4])
    assert [part.part_id for part in store.parts("predictions", "c")] == [ids[4]]
    assert [part.part_id for part in store.parts("other", "b")] == [ids[5]]


@CHECKS.add
def batches_are_told_apart_exactly(harness: PartStoreHarness) -> None:
    """Names that begin alike, differ by case or by an accent, or look like a path have nothing in common."""
    store = harness.store()
    ids = {batch: put(store, part_rows(1), batch=batch).part_id for batch in ODD_BATCHES}
    assert list(store.batches("predictions")) == sorted(ODD_BATCHES)
    for batch, part_id in ids.items():
        assert [(part.batch, part.part_id) for part in store.parts("predictions", batch)] == [(batch, part_id)]
    assert store.retire(store.parts("predictions", "b1")) == 1
    assert store.purge(store.parts("predictions", "b1")) == 1
    states = {batch: only(store, batch).state for batch in ODD_BATCHES}
    assert states == {batch: "purged" if batch == "b1" else "staged" for batch in ODD_BATCHES}
    for batch in ("b", "b1_", "b2", "X" * 200):
        assert list(store.parts("predictions", batch)) == []


@CHECKS.add
def tables_are_told_apart_exactly(harness: PartStoreHarness) -> None:
    """Also those whose names begin alike or differ by case."""
    store = harness.store()
    names = ["t", "T", "t_x", "t-x", "t.x", "é", "e\u0301"]
    for name in names:
        put(store, batch=f"of {name}", spec=part_spec(name))
    store.retire(store.parts("t", "of t"))
    for name in names:
        assert list(store.batches(name)) == [f"of {name}"]
        assert len(store.retired(name, older_than_s=0)) == (name == "t")
        assert list(store.parts(name, "of nothing")) == []


# --- after the merge -----------------------------------------------------------------------------


@CHECKS.add
def from_staged_to_retired_to_purged(harness: PartStoreHarness) -> None:
    """Each step once, by identity; what is not retired keeps its data; names stay known."""
    store = harness.store()
    put(store)
    put(store, worker="w2")
    part, other = store.parts("predictions", "b")
    assert store.purge([part, other]) == 0
    assert len(harness.rows(part)) == 3
    assert [store.retire([part]), store.retire([part]), harness.store().retire([part])] == [1, 0, 0]
    assert [found.state for found in store.parts("predictions", "b")] == ["retired", "staged"]
    assert len(harness.rows(part)) == 3
    assert [store.purge([part, other]), store.purge([part]), harness.store().purge([part])] == [1, 0, 0]
    assert [found.state for found in store.parts("predictions", "b")] == ["purged", "staged"]
    with raises(PartGoneError):
        harness.rows(part)
    assert len(harness.rows(other)) == 3
    assert store.retire([part]) == 0
    assert list(store.batches("predictions")) == ["b"]


@CHECKS.add
def the_age_of_retired_parts(harness: PartStoreHarness) -> None:
    """Told since the part was retired, not since it was staged; without what has no data any more."""
    store = harness.store()
    put(store)
    put(store, worker="w2", batch="c")
    old, young = only(store), only(store, "c")
    assert list(store.retired("predictions", older_than_s=0)) == []
    store.retire([old])
    assert list(store.retired("predictions", older_than_s=3600)) == []
    harness.age([old], 7200)
    store.retire([young])
    assert [part.part_id for part in store.retired("predictions", older_than_s=3600)] == [old.part_id]
    assert {part.part_id for part in store.retired("predictions", older_than_s=0)} == {old.part_id, young.part_id}
    store.retire([old])
    assert len(store.retired("predictions", older_than_s=3600)) == 1, "retiring again makes nothing younger"
    store.purge(store.retired("predictions", older_than_s=3600))
    assert [part.part_id for part in store.retired("predictions", older_than_s=0)] == [young.part_id]


@CHECKS.add
def discarded_parts_are_given_up_for_good(harness: PartStoreHarness) -> None:
    """Each once, by identity; a merged part cannot be discarded; staged again it waits again."""
    store = harness.store()
    put(store)
    put(store, worker="w2")
    part, merged = store.parts("predictions", "b")
    store.retire([merged])
    told = [store.discard([part, merged], reason="wrong season", by="me") for _ in range(2)]
    assert told == [1, 0]
    assert [found.state for found in store.parts("predictions", "b")] == ["discarded", "retired"]
    assert (store.retire([]), store.purge([part]), len(harness.rows(merged))) == (0, 0, 3)
    with raises(PartGoneError):
        harness.rows(part)
    assert put(store, worker=part.worker).status == "staged"
    again = next(found for found in store.parts("predictions", "b") if found.part_id == part.part_id)
    assert (again.state, len(harness.rows(again))) == ("staged", 3)


@CHECKS.add
def staging_a_purged_part_again_asks_the_ledger(harness: PartStoreHarness) -> None:
    """Merged: nothing to do. Not merged, as after a restore: it waits again. No answer: an error, nothing staged."""
    asked: list[tuple[object, ...]] = []
    answers: list[bool | OnerowError] = [True, WarehouseError("not reachable"), False]

    def is_merged(*facts: object) -> bool:
        asked.append(facts)
        answer = answers.pop(0)
        if isinstance(answer, OnerowError):
            raise answer
        return answer

    store = harness.store(is_merged)
    first = put(store)
    store.retire([only(store)])
    store.purge([only(store)])
    assert asked == [], "as long as there is data nobody needs to ask"
    assert (put(store).status, only(store).state) == ("already_merged", "purged")
    with raises(WarehouseError):
        put(store)
    assert only(store).state == "purged"
    assert (put(store).status, only(store).state) == ("staged", "staged")
    assert len(harness.rows(only(store))) == 3
    assert asked == [("predictions", "b", first.part_id, ("2026-01-11",))] * 3


@CHECKS.add
def late_clean_up_does_not_touch_what_was_staged_again(harness: PartStoreHarness) -> None:
    """Who retires or purges by a manifest of before means the data of before."""
    store = harness.store(lambda *_: False)
    put(store)
    before = only(store)
    store.retire([before])
    store.purge([before])
    put(store)
    assert [store.retire([before]), store.purge([before]), store.discard([before], reason="late", by="me")] == [0, 0, 0]
    assert (only(store).state, len(harness.rows(only(store)))) == ("staged", 3)


# --- damage --------------------------------------------------------------------------------------


@CHECKS.add
def lost_and_damaged_data_is_an_error(harness: PartStoreHarness) -> None:
    """Loud when it is read; data that is lost is healed by staging it again."""
    store = harness.store()
    put(store, batch="lost")
    put(store, batch="damaged")
    harness.lose_data(only(store, "lost"))
    harness.damage_data(only(store, "damaged"))
    with raises(PartGoneError):
        harness.rows(only(store, "lost"))
    with raises(PartCorruptError):
        harness.rows(only(store, "damaged"))
    assert only(store, "lost").state == "staged", "it was never merged and must not look as if it was"
    assert put(store, batch="lost").status == "staged"
    assert len(harness.rows(only(store, "lost"))) == 3


@CHECKS.add
def a_damaged_manifest_is_an_error(harness: PartStoreHarness) -> None:
    """Its batch cannot be listed as if the part was not there; other batches can."""
    store = harness.store()
    put(store)
    put(store, worker="w2")
    put(store, batch="other")
    harness.damage_manifest(store.parts("predictions", "b")[0])
    with raises(PartCorruptError):
        store.parts("predictions", "b")
    assert len(store.parts("predictions", "other")) == 1


# --- at once -------------------------------------------------------------------------------------


@CHECKS.add
def two_writers_of_one_part_at_once(harness: PartStoreHarness) -> None:
    """One stages it, the others find it; it is there once and whole, also when it was discarded before."""
    stores = [harness.store() for _ in range(3)]
    for number in range(5):
        batch = f"b{number}"
        for round_number in range(2):
            writers = [begin(store, part_rows(50), batch=batch) for store in stores]
            told = together([writer.publish for writer in writers])
            assert sorted(part.status for part in told) == ["already_staged", "already_staged", "staged"]
            part = only(stores[0], batch)
            assert ({one.part_id for one in told}, len(harness.rows(part))) == ({part.part_id}, 50)
            if round_number == 0:
                stores[0].discard([part], reason="again", by="me")
    assert list(stores[0].remains(older_than_s=0)) == []


@CHECKS.add
def many_writers_and_a_reader_at_once(harness: PartStoreHarness) -> None:
    """Who lists while others stage sees whole parts, more and more of them."""
    store = harness.store()

    def watch() -> list[int]:
        seen: list[int] = []
        for _ in range(60):
            parts = store.parts("predictions", "b")
            assert all(len(harness.rows(part)) == part.rows == 20 for part in parts)
            seen.append(len(parts))
            if len(parts) == 8:
                break
        return seen

    def stage(worker: str) -> list[int]:
        for first in range(0, 80, 20):
            put(harness.store(), part_rows(20, first=first), worker=worker)
        return []

    works: list[Callable[[], list[int]]] = [watch, partial(stage, "w1"), partial(stage, "w2")]
    seen, *_ = together(works)
    assert seen == sorted(seen)
    assert len(store.parts("predictions", "b")) == 8
