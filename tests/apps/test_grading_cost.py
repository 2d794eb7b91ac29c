"""What the protections cost, with the latencies of the incident: counted as they run, charged, and told honestly."""

from __future__ import annotations

import pytest

from benchmarks import bigquery_cost
from incident import cost
from incident.cost import BARE, FIXED, ONEROW, ORIGINAL, Cost, Latencies, Run
from incident.night import batches
from predictions.testing import query

MIDDLE = Latencies(17.5)
STATEMENTS = 10


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cost")
    return folder, cost.measure(folder, batches(), repeats=1)


def test_every_side_merges_the_same_rows(measured):
    folder, found = measured
    assert list(found.runs) == [ORIGINAL, FIXED, BARE, ONEROW]
    for place in (2, 3):
        project_id = f"{folder}/{place}_0/"
        ((rows,),) = query(project_id, "select count(*) from nba_predictions.player_prop_predictions")
        assert rows == 582


def test_calls_are_counted_as_they_are_made(measured):
    counted = {name: (run.merges, run.queries, run.locks, run.statements) for name, (run,) in measured[1].runs.items()}
    assert counted == {ORIGINAL: (1, 0, 0, 0), FIXED: (1, 1, 3, 0), BARE: (1, 1, 0, 0), ONEROW: (1, 1, 6, STATEMENTS)}
    assert all(run.real_s > 0 for (run,) in measured[1].runs.values())


def test_the_small_statements_are_those_of_the_script_that_is_sent():
    lines = [line for line in bigquery_cost.script().split(";\n") if line]
    others = [line for line in lines if line.startswith(("DECLARE", "MERGE `project`.`nba`"))]
    assert len(others) == 2
    assert len(lines) - len(others) == STATEMENTS


def test_the_share_is_below_a_tenth_in_the_middle_unless_statements_in_a_script_take_long(measured):
    found = measured[1]
    real_s = found.runs[ONEROW][0].real_s - found.runs[BARE][0].real_s
    assert found.share(ONEROW, BARE, MIDDLE) == pytest.approx((0.225 + real_s) / found.runs[ONEROW][0].total_s(MIDDLE))
    assert found.share(ONEROW, BARE, Latencies(17.5, statement_s=0.5)) > cost.TENTH
    assert found.share(ONEROW, BARE, Latencies(5.0, statement_s=0.1)) > cost.TENTH, "a short MERGE pays as much"
    pure = Cost({name: [Run(0.0, run.merges, run.queries, run.locks, run.statements)] for name, (run,) in found.runs.items()})
    assert pure.share(ONEROW, BARE, MIDDLE) == pytest.approx(0.225 / 19.225)
    assert pure.share(ONEROW, BARE, Latencies(17.5, statement_s=0.1)) == pytest.approx(1.225 / 20.225)
    assert pure.share(ONEROW, BARE, Latencies(17.5, statement_s=0.1)) < cost.TENTH
    assert pure.share(FIXED, ORIGINAL, MIDDLE) == pytest.approx(1.6125 / 19.1125)
    budget_s = pure.statement_budget_s(MIDDLE)
    assert pure.share(ONEROW, BARE, Latencies(17.5, statement_s=budget_s)) == pytest.approx(cost.TENTH)


def test_medians_of_pairs_are_taken_and_what_is_too_much_is_marked():
    slow = {name: [Run(real, 1, statements=15) for real in (0.1, 9.0, 0.1)] for name in cost.SIDES}
    assert Cost(slow).share(ONEROW, BARE, MIDDLE) == 0
    many = {**slow, ONEROW: [Run(real, 1, 9, statements=15) for real in (0.1, 9.0, 0.1)]}
    columns = [list(column.cells) for column in cost.table_of(Cost(many)).columns]
    assert all("[red]" in cell for column in columns[2:5] for cell in column)
    assert columns[-1] == ["-", "-", "-"]
    assert any("Nobody has measured" in line for line in cost.told(Cost(many)))
