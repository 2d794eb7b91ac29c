"""Where games, box scores and points lines come from: real data, the user's own export, or a generated season.

Three places are looked at, in this order:

- ``NBA_PROPS_DATA``: a folder of the user's own, or ``generated`` (``generated:SEED``). The folder has
  ``player_box_scores.csv`` and may have ``points_lines.csv``, and ``schedule.csv`` with games that are to come, each
  also as ``.csv.gz``.
- ``shared/data/nba`` beside the checkout: real box scores of three seasons, and lines of a part of one.
- Neither: a generated season.

Candidates of a day are made of what was known before its games: the schedule, who has played for a team lately, and the
lines that were offered. Who will play and what he will score is in ``results`` alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onerow import UsageError
from predictions.exports import read_box_scores, read_lines, read_schedule
from predictions.games import Archive, BoxScore, Candidate, Game, History, Line, Result, player_lookup

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["BoxScore", "Candidate", "Game", "Line", "Result", "Season", "data_folder", "open_season", "player_lookup"]

DATA: Final = "NBA_PROPS_DATA"
GENERATED: Final = "generated"
BOX_SCORES: Final = "player_box_scores.csv"
LINES: Final = "points_lines.csv"
SCHEDULE: Final = "schedule.csv"
_ABOVE: Final = Path(__file__).resolve().parents
SHARED: Final = _ABOVE[min(4, len(_ABOVE) - 1)] / "shared/data/nba"
"""Beside the checkout; in an image, which has none, at the root."""

_SUFFIX: Final = re.compile(r"(jr|sr|ii|iii|iv)$")
_OTHER_NAMES: Final = {
    "bjbostonjr": "brandonbostonjr",
    "carltoncarrington": "bubcarrington",
    "herbjones": "herbertjones",
    "jameshuff": "jayhuff",
    "moewagner": "moritzwagner",
    "nicolasclaxton": "nicclaxton",
    "ronholland": "ronaldhollandii",
}
"""What bookmakers call players whom the box scores call otherwise; a suffix more or less is found without."""

_SEASON_STARTS_IN: Final = 8


class Season:
    """A season's days, and the past that is needed to predict them.

    Attributes:
        name: where it is from: ``real: ...``, ``export: ...`` or ``generated: seed N``.
        dates: its days with games, ascending.
        unmatched: lines of players who are in no game of their day, by player.
    """

    def __init__(
        self, name: str, scores: Iterable[BoxScore], lines: Iterable[Line] = (), schedule: Iterable[Game] = ()
    ) -> None:
        self.name = name
        self.archive = Archive(scores)
        self._games: dict[dt.date, dict[str, Game]] = defaultdict(dict)
        for one in self.archive.scores:
            home, away = (one.team, one.opponent) if one.is_home else (one.opponent, one.team)
            self._games[one.game_date].setdefault(one.game_id, Game(one.game_date, one.game_id, home, away))
        for game in schedule:  # those that are played stand in the box scores already
            self._games[game.game_date].setdefault(game.game_id, game)
        self._lines: dict[dt.date, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
        called = _Names(self.archive.players)
        for line in lines:
            self._lines[line.game_date][called.known_as(line.player_lookup)].append(line)
        self.dates = _dates_of_the_season(self._games, self._lines)
        self.unmatched: Counter[str] = Counter()
        self._candidates: dict[dt.date, tuple[Candidate, ...]] = {}

    def schedule(self, day: dt.date) -> tuple[Game, ...]:
        """Return the games of a day, as they were planned."""
        return tuple(self._games.get(day, {}).values())

    def history(self, day: dt.date) -> History:
        """Return what was known before the games of a day."""
        return self.archive.before(day)

    def candidates(self, day: dt.date) -> tuple[Candidate, ...]:
        """Return who may play on a day, by game and player, made of what was known before."""
        if day not in self._candidates:
            self._candidates[day] = tuple(self._look_up(day))
        return self._candidates[day]

    def results(self, day: dt.date) -> tuple[Result, ...]:
        """Return what came of a day's games: everybody who played, and candidates who did not."""
        found = {
            (one.game_id, one.player_lookup): Result(day, one.game_id, one.player_lookup, one.points)
            for one in self.archive.on(day)
        }
        for one in self.candidates(day):
            found.setdefault((one.game_id, one.player_lookup), Result(day, one.game_id, one.player_lookup, None))
        return tuple(found[name] for name in sorted(found))

    def _look_up(self, day: dt.date) -> Iterator[Candidate]:
        past = self.history(day)
        lines = self._lines.get(day, {})
        placed: set[str] = set()
        found: list[Candidate] = []
        for game in self.schedule(day):
            teams = {game.home, game.away}
            rosters = {name: team for team in (game.home, game.away) for name in past.roster(team)}
            offered = {
                name: [one for one in those if one.teams == teams or (not one.teams and name in rosters)]
                for name, those in lines.items()
            }
            for name in sorted({*rosters, *(name for name, those in offered.items() if those)}):
                team = rosters.get(name)
                different = sorted({one.line for one in offered.get(name, ())})
                found.append(
                    Candidate(
                        game_date=day,
                        game_id=game.game_id,
                        player_lookup=name,
                        opponent=None if team is None else game.opponent_of(team),
                        is_home=team == game.home,
                        lines=tuple(different) or (None,),
                    )
                )
                if different:
                    placed.add(name)
        self.unmatched.update({name: len(those) for name, those in lines.items() if name not in placed})
        yield from sorted(found, key=lambda one: (one.game_id, one.player_lookup))


class _Names:
    """The players as the box scores call them, whatever a bookmaker calls them."""

    def __init__(self, players: Iterable[str]) -> None:
        self._players = set(players)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self._players:
            self._by_stem[_SUFFIX.sub("", name)].append(name)

    def known_as(self, name: str) -> str:
        """Return the box scores' name of a player; his own if they have none, or several, that may be his."""
        if name in self._players:
            return name
        other = _OTHER_NAMES.get(name, name)
        if other in self._players:
            return other
        near = self._by_stem.get(_SUFFIX.sub("", name), [])
        return near[0] if len(near) == 1 else name


def season_of(day: dt.date) -> int:
    """Return the year in which the season of a day began."""
    return day.year if day.month >= _SEASON_STARTS_IN else day.year - 1


def _dates_of_the_season(games: Iterable[dt.date], lines: Iterable[dt.date]) -> tuple[dt.date, ...]:
    """Return the days of the latest season that has lines; of the latest one, if none has."""
    days = sorted(games)
    latest = max((season_of(day) for day in lines), default=season_of(days[-1]) if days else 0)
    return tuple(day for day in days if season_of(day) == latest)


def data_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder with data: the user's own, or the one beside the checkout; None: there is none.

    Raises:
        UsageError: NBA_PROPS_DATA names no folder with box scores.
    """
    named = environ.get(DATA, "")
    if named:
        if named.partition(":")[0] == GENERATED:
            return None
        folder = Path(named)
        _file_in(folder, BOX_SCORES)
        return folder
    return SHARED if (SHARED / f"{BOX_SCORES}.gz").exists() else None


def data_files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the files that the season is read from; none, if it is generated.

    Raises:
        UsageError: as ``data_folder``.
    """
    folder = data_folder(environ)
    names = () if folder is None else (BOX_SCORES, LINES, SCHEDULE)
    return tuple(file for name in names if folder is not None and (file := _find(folder, name)))


def open_season(*, source: Path | None = None, seed: int = 7, environ: Mapping[str, str] = os.environ) -> Season:
    """Return the season that there is: of a folder, of NBA_PROPS_DATA, real, or generated.

    Args:
        source: a folder; None: the first of the places that this module names.
        seed: of a generated season, if NBA_PROPS_DATA names none.
        environ: the environment.

    Raises:
        UsageError: the data is not what it should be; names file, row and column.
    """
    folder = source or data_folder(environ)
    if folder is None:
        from predictions.generated import generate  # noqa: PLC0415 -- needs this module

        text = environ.get(DATA, "").partition(":")[2]
        if text and not text.isdecimal():
            raise UsageError(f"{DATA}: {text!r} is no seed.", hint=f"Write {DATA}={GENERATED}:7.")
        return generate(int(text or seed))
    scores = list(read_box_scores(_file_in(folder, BOX_SCORES)))
    offered, planned = _find(folder, LINES), _find(folder, SCHEDULE)
    lines = list(read_lines(offered)) if offered else []
    schedule = list(read_schedule(planned)) if planned else []
    if not scores:
        raise UsageError(f"{folder / BOX_SCORES} has no rows.")
    days = sorted({one.game_date for one in scores})
    kind = "real" if folder.resolve() == SHARED.resolve() else "export"
    name = f"{kind}: {len(scores)} box scores, {len(lines)} lines, {days[0]} to {days[-1]}"
    return Season(name, scores, lines, schedule)


def _find(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.exists()), None)


def _file_in(folder: Path, name: str) -> Path:
    found = _find(folder, name)
    if found is None:
        raise UsageError(
            f"{folder} has no {name}, and no {name}.gz.",
            hint=f"{DATA} names a folder with {BOX_SCORES} and, if you have them, {LINES}; or say {DATA}={GENERATED}.",
        )
    return found
