"""When a consolidation reads the ledger before it plans: where something of the batch may be merged already."""

from __future__ import annotations

import datetime as dt

import duckdb
import pytest

from onerow.core.partitions import Scope
from onerow.errors import WarehouseBusyError
from support.bench import DAY, consolidate_all, prediction

NEXT_DAY = DAY + dt.timedelta(days=1)
BOTH = [prediction(), prediction(prediction_id="p-2", game_date=NEXT_DAY)]


@pytest.fixture
def store(bench):
    with bench.open() as store:
        yield store


@pytest.fixture
def steps(store, monkeypatch):
    """What the warehouse is asked, in order."""
    asked = []
    for name in ("merged", "prepare", "apply"):
        plain = getattr(store.ports.warehouse, name)

        def ask(*values, _name=name, _plain=plain):
            asked.append(_name)
            return _plain(*values)

        monkeypatch.setattr(store.ports.warehouse, name, ask)
    return asked


def merge_without_cleaning_up(store, batch, **more):
    """Leave what a process leaves that is killed right after its commit."""
    result = store.consolidate("predictions", batch, keep_staging=True, **more)
    assert (result.status, result.parts_removed) == ("committed", 0)


def outcomes(result):
    return {part.partition: part.status for part in result.partitions}


def test_what_was_just_staged_is_merged_without_a_look_at_the_ledger(bench, store, steps):
    bench.stage(store, BOTH, batch="b")
    assert store.consolidate("predictions", "b").status == "committed"
    assert steps == ["prepare", "apply"]
    bench.assert_table_is_reference()


@pytest.mark.parametrize("more", [{"partitions": [DAY.isoformat()]}, {"keep_staging": True}])
def test_who_names_partitions_or_keeps_staging_has_the_ledger_read(bench, store, steps, more):
    bench.stage(store, BOTH, batch="b")
    assert store.consolidate("predictions", "b", **more).status == "committed"
    assert steps[0] == "merged"


def test_a_batch_that_was_cleaned_up_is_read_and_not_merged_again(bench, store, steps):
    bench.stage(store, BOTH, batch="b")
    consolidate_all(store, "predictions", ["b"])
    del steps[:]
    assert store.consolidate("predictions", "b").status == "already_merged"
    assert steps == ["merged"]


def test_what_was_merged_and_not_cleaned_up_is_refused_by_the_transaction(bench, store, steps):
    bench.stage(store, BOTH, batch="b")
    merge_without_cleaning_up(store, "b")
    del steps[:]
    result = store.consolidate("predictions", "b")
    assert (result.status, result.parts_removed) == ("already_merged", 1)
    assert steps == ["prepare", "apply"]
    bench.assert_table_is_reference()


def test_what_was_merged_in_part_is_planned_again(bench, store, steps):
    bench.stage(store, BOTH, batch="b")
    merge_without_cleaning_up(store, "b", partitions=[DAY.isoformat()])
    del steps[:]
    result = store.consolidate("predictions", "b")
    assert outcomes(result) == {DAY.isoformat(): "already_merged", NEXT_DAY.isoformat(): "committed"}
    assert (result.status, result.parts_removed) == ("committed", 1)
    assert steps == ["prepare", "apply", "merged", "prepare", "apply"]
    bench.assert_table_is_reference()


def test_nobody_waits_for_a_lock_because_of_what_is_merged(bench, store, steps):
    """A process was killed after its commit and before it gave its lease back: who comes next need not wait for it."""
    bench.stage(store, BOTH, batch="b")
    merge_without_cleaning_up(store, "b")
    del steps[:]
    with store.ports.leases.hold([Scope("predictions", DAY.isoformat())], holder="dead", batch="b"):
        result = store.consolidate("predictions", "b", max_wait_s=0)
    assert (result.status, result.parts_removed) == ("already_merged", 1)
    assert steps == ["merged"]


def test_only_the_lock_of_what_is_left_is_waited_for(bench, store, steps):
    bench.stage(store, BOTH, batch="b")
    merge_without_cleaning_up(store, "b", partitions=[DAY.isoformat()])
    del steps[:]
    with store.ports.leases.hold([Scope("predictions", DAY.isoformat())], holder="somebody", batch="other"):
        result = store.consolidate("predictions", "b", max_wait_s=0)
    assert outcomes(result) == {DAY.isoformat(): "already_merged", NEXT_DAY.isoformat(): "committed"}
    assert steps == ["merged", "prepare", "apply"]
    bench.assert_table_is_reference()


def test_a_lock_that_is_needed_is_waited_for_and_named(bench, store, steps):
    bench.stage(store, BOTH, batch="b")
    with store.ports.leases.hold([Scope("predictions", DAY.isoformat())], holder="somebody", batch="other"):
        result = store.consolidate("predictions", "b", max_wait_s=0)
    assert outcomes(result) == {DAY.isoformat(): "lock_timeout", NEXT_DAY.isoformat(): "committed"}
    assert steps == ["merged", "prepare", "apply"]


def test_a_warehouse_that_cannot_be_asked_is_an_error_and_no_failed_partition(bench, store):
    bench.stage(store, BOTH, batch="b")
    bench.write("drop table onerow.ledger")
    with pytest.raises(Exception, match="onerow init") as caught:
        store.consolidate("predictions", "b")
    assert caught.value.kind == "not_installed"
    assert {state for _, state in bench.part_states().values()} == {"staged"}


def test_a_warehouse_that_is_busy_is_waited_for_once(bench, store, steps):
    bench.stage(store, BOTH, batch="b")
    store.ports.warehouse._database.busy_timeout_s = 0.2
    with duckdb.connect(str(bench.database)), pytest.raises(WarehouseBusyError):
        store.consolidate("predictions", "b")
    assert steps == ["prepare", "apply"]
    assert store.consolidate("predictions", "b").status == "committed"
    bench.assert_table_is_reference()
