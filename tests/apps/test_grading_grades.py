"""Grading: what a prediction is worth, and that it is graded exactly once, whatever is repeated or overlaps."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

import onerow
from onerow.services.store import Store
from predictions.grading import grade as module
from predictions.grading.grade import grade_date
from predictions.grading.rules import LOSS, PUSH, WIN, judge
from predictions.testing import inject_duplicate_predictions, query
from support.grading import GAME, LATER_GAME, Season, prediction, stored
from support.nba import DATE, Platform, settings

TARGET = f"nba_predictions.{settings.TABLE}"
ROWS = [
    prediction("over"),
    prediction("under", side="UNDER"),
    prediction("push", line="25.0"),
    prediction("pass", side="PASS"),
    prediction("no_line", line=None, side="NO_LINE"),
    prediction("absent"),
    prediction("unlisted"),
]
POINTS = {"over": 25, "under": 25, "push": 25, "pass": 25, "no_line": 25, "absent": None}


@pytest.mark.parametrize(
    ("side", "line", "actual", "correct", "units"),
    [
        ("OVER", "24.5", 25, True, WIN),
        ("OVER", "24.5", 24, False, LOSS),
        ("UNDER", "24.5", 24, True, WIN),
        ("UNDER", "24.5", 25, False, LOSS),
        ("OVER", "25.0", 25, None, PUSH),
        ("UNDER", "25.0", 25, None, PUSH),
        ("PASS", "24.5", 25, None, None),
        ("NO_LINE", None, 25, None, None),
        ("OVER", None, 25, None, None),
        (None, "24.5", 25, None, None),
    ],
)
def test_a_bet_is_won_lost_or_returned_and_nothing_else_is_a_bet(side, line, actual, correct, units):
    verdict = judge(predicted=27.5, line=line and Decimal(line), recommendation=side, actual=actual)
    assert (verdict.is_correct, verdict.return_units) == (correct, units)
    assert (verdict.signed_error, verdict.absolute_error) == (27.5 - actual, abs(27.5 - actual))


def test_of_a_player_who_did_not_play_nothing_is_known():
    verdict = judge(predicted=27.5, line=Decimal("24.5"), recommendation="OVER", actual=None)
    assert (verdict.signed_error, verdict.absolute_error, verdict.is_correct, verdict.return_units) == (None,) * 4
    without = judge(predicted=None, line=Decimal("24.5"), recommendation="OVER", actual=25)
    assert (without.signed_error, without.is_correct) == (None, True)


@pytest.fixture(params=["upsert", "versions"])
def platform(request, monkeypatch):
    """The embedded default in both modes of the tables."""
    monkeypatch.setenv(settings.MODE, request.param)
    return Platform(settings.LOCAL)


def test_a_mode_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv(settings.MODE, "events")
    with pytest.raises(onerow.ConfigurationError, match="upsert, or versions"):
        settings.settings_of(settings.LOCAL)


def predicted(platform, rows=ROWS, batch="b"):
    platform.stage(rows, batch=batch)
    assert platform.consolidate(batch).success
    return platform


def grades(platform):
    return {row["prediction_id"]: row for row in stored(platform)}


def test_predictions_are_graded_once_and_again_only_where_something_is_new(platform):
    predicted(platform)
    season = Season(POINTS)
    first = grade_date(platform.project_id, DATE, season=season)
    assert (first.predictions, first.graded, first.changed, first.did_not_play) == (7, 7, 7, 2)
    assert (first.success, first.consolidation.status) == (True, "committed")
    found = grades(platform)
    assert {name: (row["is_correct"], row["actual_points"]) for name, row in found.items()} == {
        "over": (True, 25), "under": (False, 25), "push": (None, 25), "pass": (None, 25), "no_line": (None, 25),
        "absent": (None, None), "unlisted": (None, None),
    }  # fmt: skip
    assert sum(row["return_units"] or 0 for row in found.values()) == pytest.approx(WIN + LOSS + PUSH)

    again = grade_date(platform.project_id, DATE, season=season)
    assert (again.changed, again.consolidation) == (0, None)
    assert grades(platform) == found

    predicted(platform, [prediction("newer", player="over", points=30.0, minute=5)], "later")
    third = grade_date(platform.project_id, DATE, season=season)
    assert (third.graded, third.changed, third.consolidation.rows_affected) == (7, 1, 1)
    assert grades(platform).keys() == found.keys() - {"over"} | {"newer"}

    corrected = grade_date(platform.project_id, DATE, season=Season({**POINTS, "under": 24}))
    assert corrected.changed == 1
    assert grades(platform)["under"]["is_correct"] is True
    kept = {table: len(stored(platform, table, raw=True)) for table in (settings.TABLE, settings.GRADES)}
    versions = settings.settings_of(platform.project_id).table(settings.GRADES).mode == "versions"
    assert kept == ({settings.TABLE: 8, settings.GRADES: 9} if versions else {settings.TABLE: 7, settings.GRADES: 7})
    assert len(stored(platform, settings.TABLE)) == 7, "what is read is the newest"
    with settings.open_store(platform.project_id) as store:
        assert all(report.clean for report in store.check())


def test_a_game_without_a_result_is_told_and_graded_when_it_has_one(local, caplog):
    predicted(local, [prediction("early"), prediction("late", game_id=LATER_GAME)])
    done = grade_date(local.project_id, DATE, season=Season({"early": 30}))
    assert (done.graded, done.without_result) == (1, {LATER_GAME: 1})
    assert f"Not graded, their games have no result yet: {LATER_GAME} (1)." in caplog.messages

    class NobodyHasPlayed(Season):
        def results(self, day):
            return [*super().results(day), *(type(one)(day, LATER_GAME, "late", None) for one in super().results(day))]

    assert grade_date(local.project_id, DATE, season=NobodyHasPlayed({"early": 30})).without_result == {LATER_GAME: 1}
    assert len(grades(local)) == 1
    nothing = grade_date(local.project_id, "2026-01-18", season=Season({}))
    assert (nothing.predictions, nothing.success, nothing.exit_code) == (0, True, 0)


def test_graders_at_once_make_one_grade_a_key(platform):
    predicted(platform)
    with ThreadPoolExecutor(3) as threads:
        done = [threads.submit(grade_date, platform.project_id, DATE, season=Season(POINTS)) for _ in range(3)]
        assert all(one.result().success for one in done)
    assert sorted(grades(platform)) == sorted(row["prediction_id"] for row in ROWS)
    assert grade_date(platform.project_id, DATE, season=Season(POINTS)).changed == 0
    with settings.open_store(platform.project_id) as store:
        assert store.check(settings.GRADES)[0].result.duplicate_keys == 0


def test_what_a_crash_has_left_in_staging_is_merged_by_the_next_run(local, monkeypatch):
    predicted(local)
    consolidate = Store.consolidate

    def killed(store, table, batch, **options):
        if table == settings.GRADES:
            raise KeyboardInterrupt
        return consolidate(store, table, batch, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "consolidate", killed)
        with pytest.raises(KeyboardInterrupt):
            grade_date(local.project_id, DATE, season=Season(POINTS))
    assert grades(local) == {}
    done = grade_date(local.project_id, DATE, season=Season(POINTS))
    assert (done.changed, done.consolidation.rows_affected) == (0, 7), "the part of the killed run was merged"
    assert len(grades(local)) == 7


def test_a_grade_is_newer_than_the_one_it_has_seen_whatever_the_clocks_say(local):
    predicted(local)
    grade_date(local.project_id, DATE, season=Season(POINTS))
    query(local.project_id, "update nba_predictions.prediction_grades set graded_at = graded_at + interval 1 hour")
    assert grade_date(local.project_id, DATE, season=Season({**POINTS, "over": 20})).consolidation.rows_affected == 1
    assert grades(local)["over"]["is_correct"] is False


def test_of_duplicates_in_the_predictions_the_newest_is_graded(local):
    predicted(local)
    inject_duplicate_predictions(None, local.project_id, DATE, count=7)
    query(local.project_id, f"update {TARGET} set created_at = created_at + interval 1 minute where prediction_id like 'injected-%'")
    done = grade_date(local.project_id, DATE, season=Season(POINTS))
    assert (done.predictions, done.changed) == (7, 7)
    assert all(name.startswith("injected-") for name in grades(local))


def test_confidences_that_are_no_shares_stop_the_grading_and_name_the_repair(local):
    predicted(local)
    query(local.project_id, f"update {TARGET} set confidence = 72.5 where prediction_id = 'over'")
    with pytest.raises(onerow.DataError, match="1 predictions of 2026-01-17 have a confidence") as caught:
        grade_date(local.project_id, DATE, season=Season(POINTS))
    assert f"python -m predictions.grading.repair confidence --game-date {DATE}" in str(caught.value)
    assert grades(local) == {}


def test_a_consolidation_that_fails_is_told_and_loses_nothing(local, monkeypatch, caplog):
    predicted(local)
    file = settings.configuration_file(local.project_id)
    file.write_text(file.read_text().replace('max_wait    = "300s"', 'max_wait    = "100ms"'))
    with settings.open_store(local.project_id) as store, store.lock(settings.GRADES, DATE, batch="somebody"):
        done = grade_date(local.project_id, DATE, season=Season(POINTS))
    assert (done.success, done.consolidation.status, done.exit_code) == (False, "lock_timeout", 4)
    assert [record for record in caplog.records if record.levelname == "ERROR" and "lock_timeout" in record.getMessage()]
    assert grade_date(local.project_id, DATE, season=Season(POINTS)).consolidation.rows_affected == 7


def test_the_command_grades_and_a_dry_run_writes_nothing(local, capsys, monkeypatch):
    predicted(local)
    monkeypatch.setattr(module, "season_of_the_platform", lambda: Season(POINTS))
    assert module.main(["--game-date", DATE, "--dry-run"]) == 0
    assert "7 grades new or changed, would be staged" in capsys.readouterr().out
    assert grades(local) == {}
    assert module.main(["--game-date", DATE, "--project", local.project_id]) == 0
    assert "committed: 7 grades written." in capsys.readouterr().out
    assert len(grades(local)) == 7
    assert module.main(["--game-date", "yesterday"]) == 2
    assert "no date" in capsys.readouterr().err


def test_predictions_of_the_platforms_season_are_graded(local, monkeypatch, capsys):
    monkeypatch.setenv("NBA_PROPS_DATA", "generated:3")
    season = module.season_of_the_platform()
    day = season.dates[20]
    results = [one for one in season.results(day) if one.points is not None][:3]
    rows = [
        prediction(one.player_lookup, day=str(day), game_id=one.game_id, line=f"{one.points}.5", side="UNDER")
        for one in results
    ]
    local.stage(rows)
    assert local.consolidate(day=str(day)).success
    assert module.main(["--game-date", str(day)]) == 0
    assert "3 predictions, 3 graded (0 of players who did not play)" in capsys.readouterr().out
    assert [row["is_correct"] for row in grades(local).values()] == [True, True, True]


def test_grading_on_bigquery_where_every_version_is_kept(cloud, monkeypatch):
    monkeypatch.setenv(settings.MODE, "versions")
    predicted(cloud, ROWS[:3])
    done = grade_date(cloud.project_id, DATE, season=Season(POINTS), client=cloud.client)
    assert (done.changed, done.consolidation.status, done.consolidation.rows_affected) == (3, "committed", 3)
    again = grade_date(cloud.project_id, DATE, season=Season(POINTS), client=cloud.client)
    assert (again.changed, again.consolidation) == (0, None)
    assert settings.settings_of(cloud.project_id).table(settings.GRADES).version_column == "grade_version"
    assert grades(cloud)["over"] | {"graded_at": None, "grade_version": 1} == {
        **{name: value for name, value in ROWS[0].items() if name != "created_at"},
        "game_date": dt.date.fromisoformat(DATE), "actual_points": 25, "absolute_error": 2.0, "signed_error": 2.0,
        "is_correct": True, "return_units": WIN, "graded_at": None, "game_id": GAME, "grade_version": 1,
    }  # fmt: skip
