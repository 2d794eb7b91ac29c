"""Repairs of predictions and grades: planned, done once, beside consolidations, with what the metrics say of them."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

import onerow
from incident.sides import in_the_middle
from predictions.grading import repair
from predictions.grading.grade import grade_date
from predictions.grading.repair import Asked, repair_confidence, repair_duplicates
from predictions.testing import inject_duplicate_predictions, query
from support.grading import Season, prediction, stored
from support.nba import DATE, Platform, settings

NEXT = "2026-01-18"
PREDICTIONS, GRADES = f"nba_predictions.{settings.TABLE}", f"nba_predictions.{settings.GRADES}"
ROWS = [prediction(name, confidence=share) for name, share in (("a", 0.725), ("b", 0.583), ("c", 0.01), ("d", 1.0))]
POINTS = dict.fromkeys("abcd", 25)
SEASON = Season(POINTS, (DATE, NEXT))


def run(platform, statement):
    """Run a statement behind onerow's back."""
    if platform.client is None:
        query(platform.project_id, statement)
    else:
        platform.client.query_and_wait(statement)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Projects with predictions and grades of some dates, made once for each mode."""
    made = {}

    def template(mode, days):
        if (mode, days) not in made:
            folder = tmp_path_factory.mktemp("template") / "project"
            fill(Platform(f"{folder}/"), days)
            made[mode, days] = folder
        return made[mode, days]

    return template


def fill(platform, days):
    rows = [{**row, "game_date": day, "prediction_id": row["prediction_id"] + day[-2:]} for day in days for row in ROWS]
    platform.stage(rows, batch="b")
    assert platform.consolidate("b").success
    for day in days:
        assert grade_date(platform.project_id, day, season=SEASON, client=platform.client).success


@pytest.fixture
def filled(templates):
    """Has predictions and grades of which some confidences are percent, as an old program has left them."""

    def make(platform, *, percent=("a", "b"), graded=("a",), days=(DATE,)):
        if platform.client is None:
            template = templates(os.environ.get(settings.MODE, "upsert"), days)
            shutil.copytree(template, settings.folder_of(platform.project_id))
        else:
            fill(platform, days)
        for table, names in ((PREDICTIONS, percent), (GRADES, graded)):
            if names:
                listed = ", ".join(f"'{name}'" for name in names)
                run(platform, f"update {table} set confidence = confidence * 100 where player_lookup in ({listed})")
        return Asked(platform.project_id, season=SEASON, client=platform.client)

    return make


def confidences(platform, table):
    return {row["prediction_id"]: row["confidence"] for row in stored(platform, table, raw=True)}


RIGHT = {f"{name}17": share for name, share in (("a", 0.725), ("b", 0.583), ("c", 0.01), ("d", 1.0))}


@pytest.fixture(params=["upsert", "versions"])
def platform(request, monkeypatch):
    monkeypatch.setenv(settings.MODE, request.param)
    return Platform(settings.LOCAL)


def percents_become_shares_once(platform, filled):
    asked = filled(platform)
    plan = repair_confidence(asked)
    assert (plan.found, plan.left, plan.applied, plan.exit_code) == (3, 0, False, 3)
    assert [one["percent"] for one in plan.before] == [2, 1]
    assert confidences(platform, settings.TABLE)["a17"] == 72.5, "a plan changes nothing"
    assert plan.metrics_before[0].brier > 1000

    done = repair_confidence(Asked(**{**vars(asked), "apply": True, "plan": plan.plan}))
    assert (done.exit_code, done.problems, done.regraded) == (0, [], {DATE: 0})
    assert [one["percent"] for one in done.after] == [0, 0]
    for table in (settings.TABLE, settings.GRADES):
        assert confidences(platform, table) == pytest.approx(RIGHT, abs=1e-12)
    assert done.metrics_after[0].brier == pytest.approx(((1 - 0.725) ** 2 + (1 - 0.583) ** 2 + 0.99**2) / 4)

    again = repair_confidence(Asked(**{**vars(asked), "apply": True}))
    assert (again.found, again.exit_code, again.regraded) == (0, 0, {})
    with settings.open_store(platform.project_id) as store:
        assert all(report.clean for report in store.check())
        actions = [entry.action for entry in store.history()]
    assert actions.count("guarded") == 2, "one transaction for each date and table, none the second time"


def test_percents_become_shares_once(platform, filled):
    percents_become_shares_once(platform, filled)


def test_percents_become_shares_once_on_bigquery(cloud, filled):
    percents_become_shares_once(cloud, filled)


def test_grades_that_could_not_be_written_before_are_written_with_the_repair(local):
    local.stage(ROWS, batch="b")
    assert local.consolidate("b").success
    run(local, f"update {PREDICTIONS} set confidence = 72.5 where player_lookup = 'a'")
    with pytest.raises(onerow.DataError):
        grade_date(local.project_id, DATE, season=SEASON)
    done = repair_confidence(Asked(local.project_id, apply=True, season=SEASON))
    assert (done.exit_code, done.regraded) == (0, {DATE: 4})
    assert confidences(local, settings.GRADES)["a"] == 0.725


def test_values_that_nobody_can_know_are_told_and_left_alone(local, capsys, monkeypatch, filled):
    filled(local)
    run(local, f"update {PREDICTIONS} set confidence = -3 where player_lookup = 'c'")
    run(local, f"update {PREDICTIONS} set confidence = 'nan' where player_lookup = 'd'")
    monkeypatch.setattr(repair, "season_of_the_platform", lambda: SEASON)
    assert repair.main(["confidence", "--apply"]) == 3
    printed = capsys.readouterr()
    assert f"{settings.TABLE}: 2 values below 0 or above 100, which are left alone, first c17, d17." in printed.out
    assert "2 predictions of 2026-01-17 have a confidence that is no share" in printed.err
    found = confidences(local, settings.TABLE)
    assert (found["a17"], found["c17"]) == (0.725, -3)
    assert found["d17"] != found["d17"]


def test_a_plan_that_no_longer_fits_is_refused(local, capsys, monkeypatch, filled):
    filled(local)
    monkeypatch.setattr(repair, "season_of_the_platform", lambda: SEASON)
    assert repair.main(["confidence", "--json"]) == 3
    plan = json.loads(capsys.readouterr().out)["plan"]
    run(local, f"update {PREDICTIONS} set confidence = 64 where player_lookup = 'b'")
    assert repair.main(["confidence", "--apply", "--plan", plan]) == 2
    assert "Nothing was changed" in capsys.readouterr().err
    assert confidences(local, settings.TABLE)["a17"] == 72.5
    assert repair.main(["confidence", "--plan", plan]) == 2, "a plan goes with --apply"
    assert repair.main(["confidence", "--game-date", NEXT, "--apply"]) == 0, "nothing is wrong on that date"
    assert repair.main(["confidence", "--game-date", DATE, "--apply", "--reason", "ticket 7"]) == 0
    assert "After it: player_prop_predictions: percent 0, impossible 0." in capsys.readouterr().out
    with settings.open_store(local.project_id) as store:
        assert {entry.reason for entry in store.history() if entry.action == "guarded"} == {"ticket 7"}


def test_a_consolidation_that_is_under_way_loses_nothing_and_is_not_undone(local, filled):
    asked = filled(local)
    newer = [prediction("newer", player="a", confidence=0.9, minute=5), prediction("new", player="e", confidence=0.6)]
    local.stage(newer, batch="late")

    def repaired():
        assert repair_confidence(Asked(**{**vars(asked), "apply": True})).exit_code == 0

    with in_the_middle("late", repaired):
        assert local.consolidate("late", use_lock=False).success, "the lock would keep them apart; the guard does, too"
    found = confidences(local, settings.TABLE)
    assert found.keys() == {"newer", "new", "b17", "c17", "d17"}
    assert (found["newer"], found["b17"]) == (0.9, pytest.approx(0.583))


def test_repairs_and_consolidations_at_once(local, filled):
    filled(local, days=(DATE, NEXT))
    batches = [f"at_once_{number}" for number in range(2)]
    for number, batch in enumerate(batches):
        rows = [prediction(f"{batch}-{day}", player=batch, day=day, confidence=0.6) for day in (DATE, NEXT)]
        local.stage([*rows, prediction(f"a-{batch}", player="a", confidence=0.5 + number / 100, minute=number + 1)], batch=batch)
    asked = Asked(local.project_id, season=SEASON, apply=True)
    with ThreadPoolExecutor(4) as threads:
        repairs = [threads.submit(repair_confidence, asked) for _ in range(2)]
        merged = [threads.submit(local.consolidate, batch) for batch in batches]
        assert all(one.result().success for one in merged)
        assert [one.result().problems for one in repairs] == [[], []]
    assert repair_confidence(asked).exit_code == 0
    found = confidences(local, settings.TABLE)
    assert len(found) == 8 + 4, "every row of both dates, and every key once"
    assert (found["a-at_once_1"], found["b17"], found["b18"]) == (0.51, pytest.approx(0.583), pytest.approx(0.583))
    with settings.open_store(local.project_id) as store:
        assert store.check(settings.TABLE)[0].result.duplicate_keys == 0


def test_a_date_with_duplicates_is_named_and_does_not_stop_the_others(local, filled):
    filled(local, days=(DATE, NEXT))
    inject_duplicate_predictions(None, local.project_id, DATE, count=1)
    done = repair_confidence(Asked(local.project_id, apply=True, season=SEASON))
    problem, not_graded = done.problems
    assert not_graded.startswith(f"grading {DATE} again")
    assert problem.startswith(f"{settings.TABLE}, {DATE}")
    assert "onerow dedupe" in problem
    assert done.exit_code == 3, "duplicates are findings"
    found = confidences(local, settings.TABLE)
    assert (found["b17"], found["b18"]) == (pytest.approx(58.3), pytest.approx(0.583))


# --- duplicates --------------------------------------------------------------------------------


def test_duplicates_are_moved_aside_and_the_metrics_computed_again(local, filled):
    filled(local, percent=(), graded=())
    asked = Asked(local.project_id, season=SEASON)
    copies = "* replace (concat('injected-', prediction_id) as prediction_id)"
    query(local.project_id, f"insert into {GRADES} select {copies} from {GRADES} where player_lookup in ('a', 'b')")
    inject_duplicate_predictions(None, local.project_id, DATE, count=3)
    plan = repair_duplicates(asked)
    assert (plan.found, plan.exit_code) == (5, 3)
    assert [(one["keys"], one["extra_rows"]) for one in plan.before] == [(3, 3), (2, 2)]
    assert (plan.metrics_before[0].grades, plan.metrics_before[0].correct) == (6, 6)

    done = repair_duplicates(Asked(**{**vars(asked), "apply": True, "plan": plan.plan}))
    assert (done.exit_code, done.problems) == (0, [])
    assert [(one["keys"], one["extra_rows"]) for one in done.after] == [(0, 0), (0, 0)]
    (after,) = done.metrics_after
    assert (after.grades, after.correct, after.predictions, after.coverage) == (4, 4, 4, 1.0)
    current = confidences(local, settings.TABLE).keys()
    assert {row["prediction_id"] for row in stored(local)} == current, "what is graded is what has stayed"
    again = repair_duplicates(Asked(**{**vars(asked), "apply": True}))
    assert (again.found, again.exit_code, again.regraded) == (0, 0, {})
    with settings.open_store(local.project_id) as store:
        assert all(report.clean for report in store.check())


def test_copies_of_versions_are_removed(monkeypatch, capsys, filled):
    monkeypatch.setenv(settings.MODE, "versions")
    platform = Platform(settings.LOCAL)
    filled(platform, percent=(), graded=())
    query(platform.project_id, f"insert into {PREDICTIONS} select * from {PREDICTIONS} where player_lookup = 'a'")
    monkeypatch.setattr(repair, "season_of_the_platform", lambda: SEASON)
    assert repair.main(["duplicates"]) == 3
    printed = capsys.readouterr().out
    assert f"{settings.TABLE}: 1 keys stand more than once, 1 rows too many on 1 dates." in printed
    assert "This is plan" in printed
    assert repair.main(["duplicates", "--apply"]) == 0
    assert "keys 0, extra_rows 0" in capsys.readouterr().out
    assert len(confidences(platform, settings.TABLE)) == 4


def test_a_plan_of_other_duplicates_is_refused(local, capsys, filled):
    filled(local, percent=(), graded=())
    inject_duplicate_predictions(None, local.project_id, DATE, count=1)
    plan = repair_duplicates(Asked(local.project_id)).plan
    query(local.project_id, f"update {PREDICTIONS} set predicted_points = 1 where prediction_id like 'injected-%'")
    assert repair.main(["duplicates", "--apply", "--plan", plan]) == 2
    assert "Nothing was changed" in capsys.readouterr().err
