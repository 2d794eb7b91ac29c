"""A partition that cannot be merged fails by itself; groups of one run do not take each other's transactions."""

import dataclasses
import datetime as dt

from onerow.adapters.warehouse.duckdb import warehouse as duckdb_warehouse
from support.bench import DAY, prediction

DAYS = [DAY + dt.timedelta(days=number) for number in range(5)]


def one_row_a_day(worker="w-1"):
    return [prediction(game_date=day, prediction_id=f"{worker}-{day}") for day in DAYS]


def statuses(result):
    return {partition.partition: partition.status for partition in result.partitions}


def test_a_partition_that_somebody_else_holds(bench):
    with bench.open() as store, bench.open() as other:
        bench.stage(store, one_row_a_day(), batch="b")
        with other.lock("predictions", str(DAYS[2])):
            result = store.consolidate("predictions", "b", max_wait_s=0.2)
        assert result.status == "lock_timeout"
        assert result.exit_code == 4
        assert statuses(result) == {
            str(day): "lock_timeout" if day == DAYS[2] else "committed" for day in DAYS
        }
        assert store.consolidate("predictions", "b").success
    bench.audit()


def test_several_groups_of_one_run_are_told_apart(bench, monkeypatch):
    # Found by hand: transactions were numbered by group, so the second group's read-back saw the first's.
    few = dataclasses.replace(duckdb_warehouse.CAPABILITIES, max_partitions=2)
    monkeypatch.setattr(duckdb_warehouse, "CAPABILITIES", few)
    with bench.open() as store:
        bench.stage(store, one_row_a_day(), batch="b")
        result = store.consolidate("predictions", "b")
    assert set(statuses(result).values()) == {"committed"}
    assert [partition.attempts for partition in result.partitions] == [1] * len(DAYS)
    numbers = bench.query("select attempt, count(*) from onerow.history group by 1 order by 1")
    assert numbers == [(1, 2), (2, 2), (3, 1)]
    bench.audit()


def test_a_corrupt_part_fails_only_the_partitions_that_it_touches(bench):
    with bench.open() as store:
        bench.stage(store, one_row_a_day(), batch="b")
        bad = bench.stage(store, [prediction(game_date=DAYS[1], predicted_points=1.0)], batch="b", worker="w-2")
        (data,) = (bench.folder / "staging").rglob(f"{bad.part_id}.*.parquet")
        data.write_bytes(data.read_bytes()[:-7])
        result = store.consolidate("predictions", "b")
    assert result.status == "failed"
    assert statuses(result) == {str(day): "failed" if day == DAYS[1] else "committed" for day in DAYS}
    (failed,) = [partition for partition in result.partitions if partition.status == "failed"]
    assert failed.error_kind == "part_corrupt"
    assert bad.part_id in failed.error
    bench.audit(all_merged=False)
