"""Where games and lines come from, and that candidates know nothing of the future."""

from __future__ import annotations

import gzip
import re
from decimal import Decimal

import pytest

import onerow
from predictions import season as seasons
from predictions.season import Season, open_season, player_lookup
from support import nba  # noqa: F401 -- puts the app on the path

SCORES = """game_date,game_id,player_name,team,opponent,is_home,minutes,points
2025-01-01,0001,Nikola Jokić,DEN,LAL,1,36,29
2025-01-01,0001,LeBron James,LAL,DEN,0,35,24
2025-01-03,0002,Nikola Jokić,DEN,UTA,0,30,
2025-01-03,0002,Jordan Clarkson,UTA,DEN,1,28,17
2025-01-05,0003,Nikola Jokić,DEN,LAL,1,31,0
2025-01-05,0003,LeBron James,LAL,DEN,0,35,31
"""
LINES = """game_date,player_name,line,is_pregame,home_team,away_team
2025-01-03,Nikola Jokić,26.5,1,UTA,DEN
2025-01-03,Nikola Jokic,27,1,UTA,DEN
2025-01-03,NIKOLA JOKIĆ,27.0,1,UTA,DEN
2025-01-03,Nikola Jokić,12.5,0,UTA,DEN
2025-01-03,Jordan Clarkson,,1,UTA,DEN
2025-01-05,Lebron James,23.5,1,,
2025-01-05,Somebody Else,9.5,1,DEN,LAL
2025-01-05,Nobody Here,9.5,1,BOS,NYK
"""


@pytest.fixture(scope="module")
def generated():
    return open_season(environ={"NBA_PROPS_DATA": "generated:3"})


def export(folder, scores=SCORES, lines=LINES):
    (folder / "player_box_scores.csv").write_text(scores, encoding="utf-8")
    if lines:
        with gzip.open(folder / "points_lines.csv.gz", "wt", encoding="utf-8") as file:
            file.write(lines)
    return folder


def by_player(candidates):
    return {one.player_lookup: one for one in candidates}


def test_names_lose_their_accents_and_nothing_else_that_tells_them_apart():
    names = {"Nikola Jokić": "nikolajokic", "Jimmy Butler III": "jimmybutleriii", "Dāvis Bertāns": "davisbertans",
             "D'Angelo Russell": "dangelorussell", "Jøran Łukasz-Đorđević": "joranlukaszdordevic"}  # fmt: skip
    assert {name: player_lookup(name) for name in names} == names
    with pytest.raises(onerow.UsageError, match="no name"):
        player_lookup(" - ")


def test_an_export_of_the_users_own(tmp_path):
    season = open_season(environ={"NBA_PROPS_DATA": str(export(tmp_path))})
    first, second, third = season.dates
    assert season.name.startswith("export: 6 box scores, 6 lines")
    assert season.candidates(first) == (), "nobody knew who would play"
    found = by_player(season.candidates(second))
    assert found["nikolajokic"].lines == (Decimal("26.50"), Decimal("27.00")), "moved; 27 and 27.0 are one line"
    assert (found["nikolajokic"].opponent, found["nikolajokic"].is_home) == ("UTA", False)
    assert "jordanclarkson" not in found, "nobody knew of him, and he has no line"
    found = by_player(season.candidates(third))
    assert found["lebronjames"].lines == (Decimal("23.50"),), "without teams the line is that of the roster's game"
    assert found["nikolajokic"].lines == (None,), "no line is NULL"
    assert (found["somebodyelse"].opponent, found["somebodyelse"].lines) == (None, (Decimal("9.50"),))
    assert season.unmatched == {"nobodyhere": 1}, "told, not dropped silently"
    results = {one.player_lookup: one.points for one in season.results(second)}
    assert results == {"nikolajokic": None, "jordanclarkson": 17}
    assert {one.player_lookup: one.points for one in season.results(third)} == {
        "nikolajokic": 0, "lebronjames": 31, "somebodyelse": None,
    }  # fmt: skip


def test_games_that_are_to_come_are_predicted_and_have_no_results(tmp_path):
    folder = export(tmp_path)
    plan = folder / "schedule.csv"
    plan.write_text(
        "game_date,game_id,home_team,away_team\n2025-01-05,0003,DEN,LAL\n2025-01-07,0004,LAL,UTA\n2025-01-07,0005,DEN,BOS\n"
    )
    season = open_season(source=folder)
    tomorrow = season.dates[-1]
    assert (tomorrow.isoformat(), len(season.dates)) == ("2025-01-07", 4)
    assert len(season.schedule(season.dates[2])) == 1, "a game that was played stands once"
    found = by_player(season.candidates(tomorrow))
    assert {name: (one.game_id, one.opponent, one.is_home) for name, one in found.items()} == {
        "lebronjames": ("0004", "UTA", True), "jordanclarkson": ("0004", "LAL", False), "nikolajokic": ("0005", "BOS", True),
    }  # fmt: skip
    assert {one.points for one in season.results(tomorrow)} == {None}
    plan.write_text("game_date,game_id,home_team\n")
    with pytest.raises(onerow.UsageError, match=r"schedule\.csv: row 1: there is no column 'away_team'"):
        open_season(source=folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("scores", "36,29", "36,many", r"row 2, column 'points': 'many' is not a whole number"),
        ("scores", "36,29", "36,-3", r"row 2, column 'points': '-3'"),
        ("scores", "2025-01-03,0002,Nikola", "3.1.2025,0002,Nikola", r"row 4, column 'game_date': '3.1.2025' is not a date"),
        ("scores", "DEN,LAL,1,36", ",LAL,1,36", r"row 2, column 'team' is empty"),
        ("scores", "UTA,DEN,1,28", "UTA,DEN,maybe,28", r"row 5, column 'is_home': 'maybe' is not 1 or 0"),
        ("scores", "LeBron James,LAL,DEN,0,35,24", "Nikola Jokic,LAL,DEN,0,35,24", r"row 3.*stands in game '0001' already, in row 2"),
        ("scores", "36,29", "36,29,1", r"row 2 has 9 columns; the first row names 8"),
        ("scores", ",points\n", ",score\n", r"row 1: there is no column 'points'"),
        ("scores", "Nikola Jokić", "...", r"row 2, column 'player_name'"),
        ("lines", "26.5", "26.125", r"row 2, column 'line': '26.125' is not a line"),
        ("lines", "26.5", "nan", r"row 2, column 'line'"),
        ("lines", "26.5", "-1", r"row 2, column 'line'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_export_is_named_with_file_row_and_column(tmp_path, file, old, new, told):
    texts = {"scores": SCORES, "lines": LINES}
    assert old in texts[file]
    texts[file] = texts[file].replace(old, new, 1)
    with pytest.raises(onerow.UsageError, match=told) as caught:
        open_season(source=export(tmp_path, **texts))
    assert str(tmp_path) in caught.value.message


def test_a_folder_without_box_scores_and_a_cut_file_are_refused(tmp_path):
    with pytest.raises(onerow.UsageError, match=r"has no player_box_scores\.csv"):
        open_season(environ={"NBA_PROPS_DATA": str(tmp_path)})
    with pytest.raises(onerow.UsageError, match="is no seed"):
        open_season(environ={"NBA_PROPS_DATA": "generated:x"})
    folder = export(tmp_path)
    packed = folder / "points_lines.csv.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(onerow.UsageError, match=r"points_lines\.csv\.gz: behind row \d+: it cannot be read"):
        open_season(source=folder)
    packed.unlink()
    assert all(one.lines == (None,) for one in open_season(source=folder).candidates(open_season(source=folder).dates[-1]))


def test_a_generated_season_is_a_whole_one_with_what_real_ones_have(generated):
    assert generated.name == "generated: seed 3"
    assert len(generated.dates) >= 160
    found = [one for day in generated.dates[::8] for one in generated.candidates(day)]
    counts = [len(one.lines) for one in found if one.lines != (None,)]
    assert any(one.lines == (None,) for one in found)
    assert max(counts) > 1, "some lines move"
    assert any(line % 1 for one in found for line in one.lines if line is not None), "half points"
    assert any(line % 1 == 0 for one in found for line in one.lines if line is not None), "whole ones: pushes happen"
    results = [one.points for day in generated.dates[::8] for one in generated.results(day)]
    assert None in results
    again = open_season(environ={"NBA_PROPS_DATA": "generated:3"})
    day = generated.dates[40]
    assert (again.candidates(day), again.results(day)) == (generated.candidates(day), generated.results(day))
    assert open_season(environ={"NBA_PROPS_DATA": "generated"}, seed=4).candidates(day) != generated.candidates(day)


def test_candidates_and_the_past_are_the_same_without_the_future(generated):
    day = generated.dates[50]
    known = [one for one in generated.archive.scores if one.game_date < day]
    lines = [one for those in generated._lines[day].values() for one in those]
    planned = generated.archive.on(day)
    nobody = [type(one)(one.game_date, one.game_id, f"x{number}", one.team, one.opponent, one.is_home, 0.0, None)
              for number, one in enumerate(planned)]  # fmt: skip
    before = Season("only the past, and the schedule", known + nobody, lines)
    assert before.candidates(day) == generated.candidates(day)
    past, same = generated.history(day), before.history(day)
    for one in generated.candidates(day):
        assert same.of_player(one.player_lookup) == past.of_player(one.player_lookup)
        assert all(score.game_date < day for score in past.of_player(one.player_lookup))
        assert same.allowed(one.opponent) == past.allowed(one.opponent)
    assert same.league_points == past.league_points


def test_real_data_is_found_beside_the_checkout_or_a_season_is_generated():
    season = open_season(environ={})
    if not seasons.SHARED.exists():
        assert season.name.startswith("generated")
        return
    assert season.name.startswith("real: 67698 box scores")
    assert len(season.dates) >= 160
    day = season.dates[12]
    found = by_player(season.candidates(day))
    assert any(re.search("(jr|ii|iii)$", name) for name in found), "suffixes are kept"
    assert sum(season.unmatched.values()) < 20, "other names of players are known"
    assert any(len(one.lines) > 1 for one in found.values())
    names = {one.player_lookup for one in season.archive.scores}
    assert {"nikolajokic", "jimmybutleriii", "lukadoncic"} <= names
