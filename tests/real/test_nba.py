"""A season of box scores and the points lines: every date in parts of several workers, many processes, twice."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict

import pytest

from support.bench import Bench
from support.datasets import (
    BOX_COLUMNS,
    BOX_SCORES,
    LINE_COLUMNS,
    LINES,
    box_scores,
    points_lines,
    typed,
    write_csv,
)
from support.reference import newest_rows

WORKERS = 3


def stage_by_workers(bench, batches, columns, *, chance):
    """Stage each batch as parts of several workers, who split it at random; some rows come from two of them."""
    staged = []
    with bench.open() as store:
        for batch, rows in batches.items():
            shares = defaultdict(list)
            for row in rows:
                for worker in chance.sample(range(WORKERS), 2 if chance.random() < 0.1 else 1):
                    shares[worker].append(row)
            for worker, share in shares.items():
                path = bench.folder / "input.csv"
                path.write_bytes(write_csv(share, columns))
                store.stage(bench.table, path, batch=batch, worker=f"worker-{worker}")
                staged += share
    return staged


def consolidate_twice(processes, bench, batches, *, chance, parallel=4):
    """Have every batch consolidated by two of several processes at once, each in an order of its own."""
    orders = [[] for _ in range(parallel)]
    for number, batch in enumerate(chance.sample(batches, len(batches)) * 2):
        orders[number % parallel].append(batch)
    answers = processes.together(
        [
            processes.consolidator(bench, *chance.sample(order, len(order)), halt=("opened", "SIGSTOP"))
            for order in orders
        ]
    )
    assert {answer["exit_code"] for answer in answers} == {0}, [answer["error"] for answer in answers]


def assert_is_reference(bench, staged):
    """The table is the plain reference, the ledger names each part once, all parts are cleaned up."""
    expected = newest_rows([typed(row, bench.spec) for row in staged], bench.spec)
    assert Counter(bench.table_rows()) == Counter(expected.values())
    pairs = Counter((part, partition) for part, partition, _ in bench.ledger())
    assert max(pairs.values()) == 1
    assert {state for _, state in bench.part_states().values()} == {"retired"}
    assert not bench.token_order_violations()
    with bench.open() as store:
        assert store.check()[0].clean


def fortnights(rows, *, versions=1):
    """Return rows by batches of two weeks each, as the scheduled runs of a season would bring them."""
    batches = defaultdict(list)
    for row in rows:
        year, month, day = row["game_date"].split("-")
        for version in range(versions):
            batches[f"{year}-{month}-{int(day) > 15:d}-v{version}"].append((version, row))
    return batches


def run_box_scores(processes, tmp_path, record_property, *, seasons):
    origin, rows = box_scores(seasons=seasons)
    record_property("data", origin)
    print(f"box scores: {origin} data, {len(rows)} rows")
    chance = random.Random(2)
    bench = Bench(tmp_path, tables=BOX_SCORES, table="box_scores")
    batches = {}
    for batch, versioned in fortnights(rows, versions=2).items():
        batches[batch] = []
        for version, row in versioned:
            if version and chance.random() < 0.8:
                continue  # the later run brings corrections of some rows, with the same time for a few: ties
            points = str(int(row["points"]) + 2 * version)
            at = f"{row['game_date']}T0{version if chance.random() < 0.9 else 0}:00:00Z"
            batches[batch].append({**row, "points": points, "ingested_at": at})
    batches = {batch: rows for batch, rows in batches.items() if rows}
    staged = stage_by_workers(bench, batches, [*BOX_COLUMNS, "ingested_at"], chance=chance)
    consolidate_twice(processes, bench, list(batches), chance=chance)
    assert_is_reference(bench, staged)
    keys = {(row["game_date"], row["game_id"], row["player_lookup"]) for row in rows}
    assert len(bench.table_rows()) == len(keys)


def test_a_season_of_box_scores(processes, tmp_path, record_property):
    run_box_scores(processes, tmp_path, record_property, seasons=("2024-25",))


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ONEROW_TEST_SLOW"), reason="set ONEROW_TEST_SLOW=1 for three seasons")
def test_three_seasons_of_box_scores(processes, tmp_path, record_property):
    run_box_scores(processes, tmp_path, record_property, seasons=("2023-24", "2024-25", "2025-26"))


def test_points_lines_half_points_are_keys(processes, tmp_path, record_property):
    origin, rows = points_lines()
    record_property("data", origin)
    print(f"points lines: {origin} data, {len(rows)} rows")
    chance = random.Random(3)
    bench = Bench(tmp_path, tables=LINES, table="points_lines")
    batches = {batch: [row for _, row in versioned] for batch, versioned in fortnights(rows).items()}
    staged = stage_by_workers(bench, batches, LINE_COLUMNS, chance=chance)
    consolidate_twice(processes, bench, list(batches), chance=chance)
    assert_is_reference(bench, staged)
    lines = {row[LINE_COLUMNS.index("line")] for row in bench.table_rows()}
    assert any(line % 1 for line in lines), "half points were rounded away"
    assert any(not line % 1 for line in lines)


def test_without_the_folder_generated_data_takes_its_place(tmp_path):
    origin, scores = box_scores(tmp_path)
    assert (origin, len(scores)) == ("generated", 4800)
    origin, lines = points_lines(tmp_path)
    assert (origin, len(lines)) == ("generated", 3200)
    assert {name for row in lines for name in row} == set(LINE_COLUMNS)
    assert {name for row in scores for name in row} == set(BOX_COLUMNS)
