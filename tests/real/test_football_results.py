"""Forty snapshots of one real table, consolidated in any order, overlapping and repeated."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from support.bench import Bench
from support.datasets import football, read_csv, typed
from support.reference import newest_rows


def assert_is_expected(bench, expected):
    """The table is what somebody else has computed."""
    rows = [tuple(typed(row, bench.spec).values()) for row in expected]
    assert Counter(bench.table_rows()) == Counter(rows)


def run(processes, bench, dataset, *, seed, parallel):
    """Stage every snapshot, and have each consolidated by two processes in shuffled orders, at once."""
    chance = random.Random(seed)
    batches = list(dataset.batches)
    with bench.open() as store:
        for batch in chance.sample(batches, len(batches)):
            path = bench.folder / f"{batch}.csv"
            path.write_bytes(dataset.batches[batch])
            store.stage(bench.table, path, batch=batch)
    orders = [[] for _ in range(parallel)]
    for number, batch in enumerate(chance.sample(batches * 2, len(batches) * 2)):
        orders[number % parallel].append(batch)
    answers = processes.together(
        [processes.consolidator(bench, *order, halt=("opened", "SIGSTOP")) for order in orders]
    )
    assert {answer["exit_code"] for answer in answers} == {0}, [answer["error"] for answer in answers]
    assert Counter(answer["status"] for answer in answers)["committed"] <= 2 * len(batches)


def test_forty_snapshots_end_in_the_expected_table(processes, tmp_path, record_property):
    dataset = football()
    record_property("data", dataset.origin)
    print(f"football results: {dataset.origin} data")
    bench = Bench(tmp_path, tables=dataset.tables, table=dataset.table)

    run(processes, bench, dataset, seed=1, parallel=4)

    assert_is_expected(bench, dataset.expected)
    pairs = Counter((part, partition) for part, partition, _ in bench.ledger())
    assert max(pairs.values()) == 1
    assert {state for _, state in bench.part_states().values()} == {"retired"}
    assert not bench.token_order_violations()
    with bench.open() as store:
        (report,) = store.check()
        assert report.clean
        assert report.result.rows == len(dataset.expected)
        for batch in ("snapshot-000", "snapshot-039"):  # and again: nothing changes
            assert store.consolidate(bench.table, batch).status == "already_merged"
    assert_is_expected(bench, dataset.expected)


def test_without_the_folder_generated_data_takes_its_place(tmp_path):
    dataset = football(tmp_path / "absent")
    assert (dataset.origin, len(dataset.batches)) == ("generated", 40)
    assert "Curaçao".encode() in dataset.batches["snapshot-039"]
    spec = Bench(tmp_path, tables=dataset.tables, table=dataset.table).spec
    rows = [typed(row, spec) for raw in dataset.batches.values() for row in read_csv(raw)]
    replayed = newest_rows(rows, spec).values()
    assert Counter(replayed) == Counter(tuple(typed(row, spec).values()) for row in dataset.expected)


def test_a_small_generated_history_ends_in_the_expected_table(processes, tmp_path):
    dataset = football(tmp_path / "absent")
    dataset.batches = dict(list(dataset.batches.items())[-3:])  # the last snapshot names every key
    bench = Bench(tmp_path / "bench", tables=dataset.tables, table=dataset.table)
    run(processes, bench, dataset, seed=2, parallel=2)
    assert_is_expected(bench, dataset.expected)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ONEROW_TEST_SLOW"), reason="set ONEROW_TEST_SLOW=1: 105,232 rows in plain Python")
def test_the_plain_reference_agrees_with_the_expected_file(tmp_path):
    """Control: our own reference, in plain Python, and the independently computed file say the same."""
    dataset = football()
    spec = Bench(tmp_path, tables=dataset.tables, table=dataset.table).spec
    rows = [typed(row, spec) for raw in dataset.batches.values() for row in read_csv(raw)]
    expected = Counter(tuple(typed(row, spec).values()) for row in dataset.expected)
    assert Counter(newest_rows(rows, spec).values()) == expected
