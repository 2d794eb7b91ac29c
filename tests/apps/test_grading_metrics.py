"""What the grades say of a system, and the alerts that come of it."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from onerow.errors import EXIT_FAILED, EXIT_FINDINGS
from predictions.grading import alerts, metrics
from predictions.grading.grade import grade_date
from predictions.grading.metrics import SystemMetrics, metrics_of
from predictions.grading.rules import WIN
from predictions.testing import query
from support.grading import LATER_GAME, Season, prediction
from support.nba import DATE, settings
from support.receiver import Receiver

TODAY = dt.date(2026, 1, 18)
GRADES = f"nba_predictions.{settings.GRADES}"
ROWS = [
    prediction("won", points=28.0, confidence=0.8),
    prediction("lost", side="UNDER", points=20.0, confidence=0.6),
    prediction("returned", line="25.0", points=26.0),
    prediction("absent"),
    prediction("other", system_id="moving_average_v1", line=None, side="NO_LINE", points=25.0),
    prediction("late", game_id=LATER_GAME),
]
POINTS = {"won": 25, "lost": 25, "returned": 25, "absent": None, "other": 25}


def graded(platform, rows=ROWS, points=POINTS, days=(DATE,)):
    platform.stage(rows, batch="b")
    assert platform.consolidate("b").success
    for day in days:
        assert grade_date(platform.project_id, day, season=Season(points, days), client=platform.client).success
    return platform


def check_metrics(platform):
    ensemble, average = metrics_of(platform.project_id, client=platform.client)
    assert (ensemble.system_id, average.system_id) == ("ensemble_v1", "moving_average_v1")
    assert (ensemble.predictions, ensemble.graded, ensemble.grades, ensemble.played) == (5, 4, 4, 3)
    assert (ensemble.decided, ensemble.correct, ensemble.bets) == (2, 1, 3)
    assert ensemble.accuracy == 0.5
    assert ensemble.coverage == pytest.approx(4 / 5)
    assert ensemble.mean_absolute_error == pytest.approx((3 + 5 + 1) / 3)
    assert ensemble.bias == pytest.approx((3 - 5 + 1) / 3)
    assert ensemble.units == pytest.approx(WIN - 1)
    assert ensemble.return_share == pytest.approx((WIN - 1) / 3)
    assert ensemble.brier == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert (average.decided, average.accuracy, average.return_share, average.brier) == (0, None, None, None)
    assert (average.mean_absolute_error, average.coverage) == (0.0, 1.0)
    assert metrics_of(platform.project_id, since=TODAY, client=platform.client) == ()
    assert metrics_of(platform.project_id, until=dt.date(2026, 1, 16), client=platform.client) == ()


def test_a_system_is_measured_by_its_grades(local, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    check_metrics(graded(local))
    assert metrics.main(["--game-date", DATE]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ensemble_v1 │ 4 │ 80.0% │ 2 │ 50.0% │ 3.00 │ -0.33 │ -3.0% │ -0.1 │ 0.200" in printed
    assert metrics.main(["--json", "--since", DATE]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["accuracy"], first["coverage"], first["correct"]) == (0.5, 0.8, 1)


def test_a_system_is_measured_on_bigquery_as_well(cloud):
    check_metrics(graded(cloud))


def test_a_grade_that_stands_twice_counts_twice_until_it_is_repaired(local):
    graded(local)
    query(local.project_id, f"insert into {GRADES} select * from {GRADES} where prediction_id = 'won'")
    ensemble, _ = metrics_of(local.project_id)
    assert (ensemble.grades, ensemble.graded, ensemble.correct) == (5, 4, 2)


# --- alerts ----------------------------------------------------------------------------------


def kinds(report):
    return {seen.kind: seen.level for seen in report.sightings}


def test_what_is_wrong_is_told_once_and_again_when_it_is_over(local, capsys):
    receiver = Receiver()
    environ = {"ONEROW_ALERT_WEBHOOK": receiver.url, "ONEROW_SLACK_WEBHOOK": receiver.url}

    def look():
        receiver.taken.clear()
        report = alerts.look(local.project_id, as_of=TODAY, environ=environ)
        told = [one for one in receiver.taken if "kind" in one]
        assert len(receiver.taken) == 2 * len(told), "Slack is told the same"
        return report, sorted((one["event"], one["kind"], one["level"]) for one in told)

    try:
        local.stage(ROWS, batch="b")
        assert local.consolidate("b").success
        report, told = look()
        assert told == [("opened", "grading_missing", "CRITICAL")]
        assert (alerts.exit_code_of(report), report.incidents[0].members.keys()) == (EXIT_FINDINGS, {DATE})
        assert look()[1] == [], "it is told once"

        grade_date(local.project_id, DATE, season=Season(POINTS))
        query(local.project_id, f"insert into {GRADES} select * from {GRADES} where prediction_id = 'won'")
        assert look()[1] == [
            ("opened", "duplicates", "CRITICAL"),
            ("opened", "grading_ungraded", "WARNING"),
            ("opened", "ledger", "WARNING"),
            ("resolved", "grading_missing", "CRITICAL"),
        ]
        with settings.open_store(local.project_id) as store:
            assert store.repair(settings.GRADES, DATE, reason="test").rows_removed == 1
        season = Season(POINTS)
        season.results = lambda day, given=season.results: [*given(day), type(given(day)[0])(day, LATER_GAME, "late", 30)]
        grade_date(local.project_id, DATE, season=season)
        report, told = look()
        assert told == [
            ("resolved", "duplicates", "CRITICAL"),
            ("resolved", "grading_ungraded", "WARNING"),
            ("resolved", "ledger", "WARNING"),
        ]
        assert alerts.exit_code_of(report) == 0
        assert alerts.main(["--as-of", TODAY.isoformat()]) == 0
        assert capsys.readouterr().out == "The grades are well.\n"
    finally:
        receiver.die()


def test_a_date_stays_watched_until_it_is_graded_and_one_that_is_too_young_is_not(local):
    local.stage(ROWS, batch="b")
    assert local.consolidate("b").success
    assert kinds(alerts.look(local.project_id, as_of=dt.date(2026, 1, 17), environ={})) == {}
    assert kinds(alerts.look(local.project_id, as_of=TODAY, environ={})) == {"grading_missing": "CRITICAL"}
    later = dt.date(2026, 2, 20)
    assert kinds(alerts.look(local.project_id, as_of=later, environ={})) == {"grading_missing": "CRITICAL"}
    assert grade_date(local.project_id, DATE, season=Season(POINTS)).success
    assert kinds(alerts.look(local.project_id, as_of=later, environ={})) == {"grading_ungraded": "WARNING"}


def test_what_could_not_be_looked_at_is_an_alert_and_ends_no_other(local, capsys):
    local.stage(ROWS, batch="b")
    assert local.consolidate("b").success
    alerts.look(local.project_id, as_of=TODAY, environ={})
    query(local.project_id, f"alter table {GRADES} rename to moved_away")
    report = alerts.look(local.project_id, as_of=TODAY, environ={})
    assert kinds(report) == {"grading_check_failed": "WARNING"}
    assert {one.kind for one in report.incidents if one.open} == {"grading_check_failed", "grading_missing"}
    assert alerts.main(["--as-of", TODAY.isoformat()]) == EXIT_FAILED
    assert "What could not be looked at: duplicates" in capsys.readouterr().out
    query(local.project_id, f"alter table nba_predictions.moved_away rename to {settings.GRADES}")
    assert alerts.main(["--as-of", TODAY.isoformat(), "--json"]) == EXIT_FINDINGS
    found = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in found["findings"]] == ["grading_missing"]
    assert found["exit_code"] == EXIT_FINDINGS


def system(decided, correct, name="ensemble_v1"):
    return SystemMetrics(name, decided, decided, decided, decided, decided, correct, decided, 0.0, 5.0, 0.0, 0.25)


@pytest.mark.parametrize(
    ("lately", "level"),
    [
        ((400, 216), None),  # 54 % as before
        ((400, 200), None),  # 4 points
        ((2_000, 960), "WARNING"),  # 6 points
        ((100, 48), None),  # 6 points, but of so few that chance makes it
        ((400, 168), "CRITICAL"),  # 12 points
        ((49, 0), None),  # too few to be judged
    ],
)
def test_a_drop_of_the_accuracy_is_told_if_chance_hardly_makes_it(lately, level):
    found = alerts.of_accuracy([system(*lately)], [system(4_000, 2_160)], alerts.Limits())
    assert [seen.level for seen in found] == ([level] if level else [])
    assert alerts.of_accuracy([system(400, 100)], [], alerts.Limits()) == [], "a new system has no season"


def test_a_drop_is_over_when_it_is_seen_to_be_and_not_when_nobody_plays(local, monkeypatch):
    local.stage(ROWS[:1], batch="b")
    assert local.consolidate("b").success
    grade_date(local.project_id, DATE, season=Season(POINTS))
    now = [system(400, 168)]
    monkeypatch.setattr(
        alerts, "read_metrics", lambda _reader, *, since, until: now if until == dt.date(2026, 1, 17) else [system(4_000, 2_160)]
    )  # fmt: skip

    def open_kinds():
        report = alerts.look(local.project_id, as_of=TODAY, environ={})
        return [one.kind for one in report.incidents if one.open]

    assert open_kinds() == ["grading_accuracy_drop"]
    now[:] = [system(10, 5)]
    assert open_kinds() == ["grading_accuracy_drop"], "of so few games nothing is known"
    now[:] = [system(400, 216)]
    assert open_kinds() == []
