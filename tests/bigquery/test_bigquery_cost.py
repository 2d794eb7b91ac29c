"""The page on costs says what the function computes, and the function counts what the scripts name."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bigquery_cost as cost

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "bigquery-cost.md"


@pytest.mark.parametrize("lines", [cost.table, cost.shares])
def test_the_page_has_the_numbers(lines):
    assert "\n".join(lines()) in PAGE.read_text()


def test_a_table_that_is_named_twice_in_a_statement_counts_once():
    script = "SELECT * FROM `p`.`d`.`a`, `p`.`d`.`b`;\nINSERT INTO `p`.`d`.`c` (x) SELECT x FROM `p`.`d`.`a`;\n"
    assert cost.bytes_of(script) == 3 * cost.LEAST_BYTES
    assert cost.bytes_of("SELECT a.x FROM `p`.`d`.`a` AS a JOIN `p`.`d`.`a` AS b ON TRUE;") == cost.LEAST_BYTES


def test_more_parts_cost_more_and_a_longer_hold_writes_more():
    assert cost.ours(parts=16).bytes_billed - cost.ours(parts=15).bytes_billed == cost.LEAST_BYTES
    assert cost.ours(seconds_held=40).firestore_writes > cost.ours().firestore_writes


def test_the_limit_on_load_jobs_is_where_the_page_says():
    assert 10_000 * cost.ours().load_jobs > cost.LOAD_JOBS_A_DAY >= 10_000 * cost.ours(parts=10).load_jobs
