"""2026-01-11 replayed: the original design duplicates, the platform does not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from demo.predictions import key_of
from incident import __main__ as command
from incident import cost
from incident.failures import FAILURES, compare, title_of
from incident.night import APART_S, DATE, batches
from incident.replay import replay


@pytest.fixture(scope="module")
def night():
    return batches()


def test_the_night_has_the_numbers_of_the_incident(night):
    parts = [part for found in night.values() for part in found]
    rows = [row for part in parts for row in part]
    assert (len(parts), len(rows), len({key_of(row) for row in rows})) == (15, 587, 582)
    assert {str(row["game_date"]) for row in rows} == {DATE}
    assert pytest.approx(0.4, abs=0.01) == APART_S
    for found in night.values():
        keys = Counter(key_of(row) for part in found for row in part)
        assert max(keys.values()) == 1, "no run predicts a key twice by itself"


@pytest.fixture(scope="module")
def outcomes(night, tmp_path_factory):
    return replay(tmp_path_factory.mktemp("night"), night)


def test_the_original_design_duplicates_and_onerow_does_not(outcomes):
    assert all(one.overlapped for one in outcomes.values()), "the retry came in the middle of the other merge"
    assert all(one.succeeded == (True, True) for one in outcomes.values()), "nobody saw it that night"
    assert list(outcomes) == ["original", "onerow", "onerow, lock off"]
    original, *ours = outcomes.values()
    assert (original.rows, original.duplicates, original.lost, original.outdated) == (587, 5, 0, 5)
    for one in ours:
        assert (one.rows, one.duplicates, one.lost, one.outdated) == (582, 0, 0, 0)


@pytest.mark.parametrize("number", range(1, 16))
def test_each_failure_is_the_originals_and_not_onerows(number, tmp_path):
    old, new = compare(FAILURES[number - 1], tmp_path / "failure")
    assert (old.failed, new.failed) == (True, False), (title_of(FAILURES[number - 1]), old, new)


def test_what_is_charged_is_counted_as_it_is_done(night, tmp_path):
    """The statements are those of BigQuery's script for the plan that really ran, without DECLARE and the MERGE."""
    runs = cost.measure(tmp_path, night, repeats=1).runs
    (bare,), (ours,), (fixed,) = (runs[name] for name in (cost.BARE, cost.ONEROW, cost.FIXED))
    assert (bare.merges, bare.statements, bare.locks) == (1, 0, 0)
    assert (ours.merges, ours.statements, len(ours.plans)) == (1, 10, 1)
    assert ours.queries >= bare.queries
    assert ours.locks > fixed.locks
    (plan,) = ours.plans
    unlocked = replace(plan, tasks=tuple(replace(task, token=None) for task in plan.tasks))
    assert cost.small_statements(unlocked) == ours.statements - 1, "no fence is raised"


def test_the_command_prints_both_sides_and_fails_if_one_is_not_as_it_should_be(outcomes, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(command, "FAILURES", FAILURES[7:8])
    monkeypatch.setattr(command, "replay", lambda _folder, _night: outcomes)
    runs = {name: [cost.Run(real_s=0.1, merges=1, statements=15)] for name in cost.SIDES}
    monkeypatch.setattr(command.cost, "measure", lambda _folder, _night: cost.Cost(runs))
    assert command.main() == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "15 staging parts, 587 rows" in printed
    assert "rows in the table │ 587 │ 582 │ 582" in printed
    assert title_of(FAILURES[7]) in printed
    assert "Charged to onerow besides the MERGE: 0 jobs of 1.5 s" in printed
    monkeypatch.setattr(command, "replay", lambda _folder, _night: {**outcomes, "onerow": outcomes["original"]})
    assert command.main() == 1
