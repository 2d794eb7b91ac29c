"""The prediction systems: pure, without the future, and as sure as they are right."""

from __future__ import annotations

import datetime as dt
import statistics
from decimal import Decimal

import pytest

from predictions.games import Archive, BoxScore, Candidate
from predictions.season import Season, open_season
from predictions.systems import SYSTEM_IDS, SYSTEMS, ensemble, predict
from predictions.systems.base import USUAL_POINTS, Estimate, judge
from support import nba  # noqa: F401 -- puts the app on the path

DAY = dt.date(2025, 3, 1)


@pytest.fixture(scope="module")
def season():
    return open_season(environ={"NBA_PROPS_DATA": "generated:5"})


def past_of(points, *, minutes=None, opponents=None, everyone=()):
    """Return the past of a player with these points, a game every other day, and of everybody else."""
    count = len(points)
    games = [
        BoxScore(
            DAY - dt.timedelta(days=2 * (count - number)), f"g{number}", "him", "AAA", (opponents or ["BBB"] * count)[number],
            number % 2 == 0, (minutes or [30.0] * count)[number], scored,
        )
        for number, scored in enumerate(points)
    ]  # fmt: skip
    return Archive([*games, *everyone]).before(DAY)


def candidate(*lines, opponent="BBB", is_home=True):
    return Candidate(DAY, "today", "him", opponent, is_home, lines or (None,))


def by_id(past, asked):
    return {one.system_id: one for one in predict(asked, past)}


def test_each_line_has_a_prediction_of_every_system():
    past = past_of([20] * 10)
    found = list(predict(candidate(Decimal("19.5"), Decimal(24)), past))
    assert [(one.system_id, one.line) for one in found] == [
        (name, line) for name in SYSTEM_IDS for line in (Decimal("19.5"), Decimal(24))
    ]
    assert SYSTEM_IDS == ("moving_average_v1", "opponent_adjusted_v1", "nearest_neighbour_v1", "ensemble_v1")
    assert all(one.line is None and one.recommendation == "NO_LINE" for one in predict(candidate(), past))


def test_of_a_player_of_whom_nothing_is_known_the_usual_is_expected():
    nobody = Archive([]).before(DAY)
    assert {one.points for one in predict(candidate(), nobody)} == {USUAL_POINTS}
    others = [BoxScore(DAY - dt.timedelta(days=3), "x", f"p{n}", "AAA", "BBB", True, 20.0, 12) for n in range(5)]
    assert {one.points for one in predict(candidate(opponent=None), Archive(others).before(DAY))} == {12.0}


def test_the_moving_average_follows_the_latest_games():
    rising = by_id(past_of([10] * 10 + [30] * 5), candidate())["moving_average_v1"].points
    falling = by_id(past_of([30] * 5 + [10] * 10), candidate())["moving_average_v1"].points
    assert 18 < rising < 30
    assert 10 < falling < rising


def test_the_opponent_and_the_minutes_of_late_move_the_adjusted_system_alone():
    others = []
    for number in range(12):  # BBB allows twice what CCC does
        day = DAY - dt.timedelta(days=3 * number + 2)
        for team, points in (("BBB", 20), ("CCC", 10)):
            others.append(BoxScore(day, f"{team}{number}", f"o{team}", "DDD", team, True, 30.0, points))
            others.append(BoxScore(day, f"{team}{number}", f"p{team}", team, "DDD", False, 30.0, 15))
    past = past_of([20] * 10, opponents=["EEE"] * 10, everyone=others)
    weak, strong = (by_id(past, candidate(opponent=name)) for name in ("BBB", "CCC"))
    assert weak["opponent_adjusted_v1"].points > 1.5 * strong["opponent_adjusted_v1"].points
    assert weak["moving_average_v1"].points == strong["moving_average_v1"].points
    more = past_of([20] * 12, minutes=[20.0] * 6 + [30.0] * 6)
    same = past_of([20] * 12)
    assert by_id(more, candidate())["opponent_adjusted_v1"].points > by_id(same, candidate())["opponent_adjusted_v1"].points + 2


def test_the_nearest_neighbours_are_games_like_todays():
    points = [30 if number % 2 == 0 else 6 for number in range(40)]  # at home he scores, away he does not
    at_home = by_id(past_of(points), candidate(is_home=True))["nearest_neighbour_v1"].points
    away = by_id(past_of(points), candidate(is_home=False))["nearest_neighbour_v1"].points
    assert at_home > away + 2


def test_the_ensemble_stands_between_and_listens_to_the_surer():
    found = ensemble.combine([Estimate(10.0, 2.0), Estimate(20.0, 6.0)])
    assert 10 < found.points < 12
    assert found.spread > ensemble.combine([Estimate(11.0, 2.0), Estimate(11.0, 6.0)]).spread
    assert ensemble.combine([Estimate(11.0, 3.0)] * 3) == Estimate(pytest.approx(11.0), pytest.approx(3.0))


@pytest.mark.parametrize(
    ("points", "spread", "line", "recommendation"),
    [
        (27.0, 5.0, "24.5", "OVER"),
        (22.0, 5.0, "24.5", "UNDER"),
        (24.6, 5.0, "24.5", "PASS"),
        (25.0, 5.0, "25", "PASS"),
        (27.0, 50.0, "24.5", "PASS"),
        (27.0, 5.0, None, "NO_LINE"),
    ],
)
def test_a_recommendation_needs_an_edge(points, spread, line, recommendation):
    opinion = judge(Estimate(points, spread), None if line is None else Decimal(line))
    assert opinion.recommendation == recommendation
    assert 0 <= opinion.confidence <= 1
    assert (opinion.confidence >= 0.55) == (recommendation in {"OVER", "UNDER"}) or line is None


def test_on_a_whole_number_a_push_is_nobodys():
    whole, half = (judge(Estimate(25.0, 5.0), Decimal(line)).confidence for line in ("25", "25.5"))
    assert whole < 0.5 < half


def test_without_a_line_confidence_is_how_close_he_comes():
    sure, unsure = (judge(Estimate(20.0, spread), None).confidence for spread in (2.0, 8.0))
    assert sure == pytest.approx(0.8664, abs=1e-3), "1.5 standard deviations"
    assert unsure < 0.35


def test_predictions_are_the_same_without_the_future_and_every_time(season):
    day = season.dates[60]
    known = [one for one in season.archive.scores if one.game_date < day]
    past, only_past = season.history(day), Season("past", known).history(day)
    asked = season.candidates(day)
    assert len(asked) > 20
    for one in asked:
        assert list(predict(one, past)) == list(predict(one, only_past)) == list(predict(one, season.history(day)))


def test_systems_are_as_right_as_they_say(season):
    """Against lines of all distances, the share of bets that win is the mean of their confidences."""
    won, said, errors = [], [], {system.system_id: [] for system in SYSTEMS}
    for day in season.dates[40:160:6]:
        past = season.history(day)
        actual = {one.player_lookup: one.points for one in season.results(day)}
        for number, one in enumerate(season.candidates(day)):
            points = actual[one.player_lookup]
            if points is None:
                continue
            for system in SYSTEMS:
                estimate = system.estimate(one, past)
                errors[system.system_id].append(abs(estimate.points - points))
                line = Decimal(max(round(estimate.points) + number % 11 - 5, 0)) + Decimal("0.5")
                opinion = judge(estimate, line)
                if opinion.recommendation != "PASS":
                    won.append((points > line) == (opinion.recommendation == "OVER"))
                    said.append(opinion.confidence)
    assert len(won) > 1_000
    assert statistics.mean(won) == pytest.approx(statistics.mean(said), abs=0.05)
    sure = [win for win, share in zip(won, said, strict=True) if share > 0.8]
    unsure = [win for win, share in zip(won, said, strict=True) if share < 0.65]
    assert statistics.mean(sure) > statistics.mean(unsure) + 0.1
    assert all(statistics.mean(found) < 5 for found in errors.values()), errors.keys()
