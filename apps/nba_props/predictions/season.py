"""Where games, box scores and points lines come from: real data, the user's own export, or a generated season.

Three places are looked at, in this order:

- ``NBA_PROPS_DATA``: a folder of the user's own, or ``generated`` (``generated:SEED``). The folder has
  ``player_box_scores.csv`` and may have ``points_lines.csv``, each also as ``.csv.gz``.
- ``shared/data/nba`` beside the checkout: real box scores of three seasons, and lines of a part of one.
- Neither: a generated season.

Candidates of a day are made of what was known before its games: the schedule, who has played for a team lately, and the
lines that were offered. Who will play and what he will score is in ``results`` alone.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import os
import re
import unicodedata
from collections import Counter, defaultdict
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from onerow import UsageError
from predictions.games import Archive, BoxScore, Candidate, Game, History, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["BoxScore", "Candidate", "Game", "Line", "Result", "Season", "data_folder", "open_season", "player_lookup"]

DATA: Final = "NBA_PROPS_DATA"
GENERATED: Final = "generated"
BOX_SCORES: Final = "player_box_scores.csv"
LINES: Final = "points_lines.csv"
_ABOVE: Final = Path(__file__).resolve().parents
SHARED: Final = _ABOVE[min(4, len(_ABOVE) - 1)] / "shared/data/nba"
"""Beside the checkout; in an image, which has none, at the root."""

Value = TypeVar("Value")

_UNMARKED: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "\N{LATIN SMALL LETTER DOTLESS I}": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
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

_YES: Final = {"1": True, "true": True, "t": True, "yes": True, "0": False, "false": False, "f": False, "no": False}
_SEASON_STARTS_IN: Final = 8


def player_lookup(name: str) -> str:
    """Return a player's identity: his name without accents, blanks, signs and case (``Nikola Jokić``: nikolajokic).

    Raises:
        UsageError: nothing is left of it.
    """
    plain = unicodedata.normalize("NFKD", name.casefold().translate(_UNMARKED))
    found = re.sub(r"[^a-z0-9]", "", plain)
    if not found:
        raise UsageError(f"{name!r} is no name that a player can be looked up by.")
    return found


class Line:
    """A points line that a bookmaker has offered before a game."""

    __slots__ = ("game_date", "line", "player_lookup", "teams")

    def __init__(self, game_date: dt.date, player_lookup: str, line: Decimal, teams: frozenset[str]) -> None:
        self.game_date = game_date
        self.player_lookup = player_lookup
        self.line = line
        self.teams = teams


class Season:
    """A season's days, and the past that is needed to predict them.

    Attributes:
        name: where it is from: ``real: ...``, ``export: ...`` or ``generated: seed N``.
        dates: its days with games, ascending.
        unmatched: lines of players who are in no game of their day, by player.
    """

    def __init__(self, name: str, scores: Iterable[BoxScore], lines: Iterable[Line] = ()) -> None:
        self.name = name
        self.archive = Archive(scores)
        self._games: dict[dt.date, dict[str, Game]] = defaultdict(dict)
        for one in self.archive.scores:
            home, away = (one.team, one.opponent) if one.is_home else (one.opponent, one.team)
            self._games[one.game_date].setdefault(one.game_id, Game(one.game_date, one.game_id, home, away))
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
    return () if folder is None else tuple(file for name in (BOX_SCORES, LINES) if (file := _find(folder, name)))


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
    found = _find(folder, LINES)
    lines = list(read_lines(found)) if found else []
    if not scores:
        raise UsageError(f"{folder / BOX_SCORES} has no rows.")
    days = sorted({one.game_date for one in scores})
    kind = "real" if folder.resolve() == SHARED.resolve() else "export"
    return Season(f"{kind}: {len(scores)} box scores, {len(lines)} lines, {days[0]} to {days[-1]}", scores, lines)


# --- files ---------------------------------------------------------------------------------


def read_box_scores(file: Path) -> Iterator[BoxScore]:
    """Read box scores: game_date, game_id, player_lookup or player_name, team, opponent, is_home, minutes, points.

    Raises:
        UsageError: naming file, row and column; also where a player stands twice in a game.
    """
    known: dict[tuple[str, str], int] = {}
    for row in _rows(file, ("game_date", "game_id", "team", "opponent", "is_home", "minutes", "points")):
        score = BoxScore(
            game_date=row.get("game_date", dt.date.fromisoformat, "a date such as 2026-01-11"),
            game_id=row.text("game_id"),
            player_lookup=row.player(),
            team=row.text("team"),
            opponent=row.text("opponent"),
            is_home=row.get("is_home", _yes_or_no, "1 or 0"),
            minutes=row.get("minutes", float, "a number", empty="0"),
            points=row.get("points", _points, "a whole number from 0 to 200, or empty", empty=""),
        )
        name = (score.game_id, score.player_lookup)
        if name in known:
            raise UsageError(
                f"{file}: row {row.number}, column 'player_lookup': {score.player_lookup!r} stands in game "
                f"{score.game_id!r} already, in row {known[name]}."
            )
        known[name] = row.number
        yield score


def read_lines(file: Path) -> Iterator[Line]:
    """Read points lines: game_date, player_lookup or player_name, line; teams and is_pregame if they are there.

    Lines that were offered after the game had begun, and rows without a line, are left out.

    Raises:
        UsageError: naming file, row and column.
    """
    for row in _rows(file, ("game_date", "line")):
        if not row.text("line", empty="") or not row.get("is_pregame", _yes_or_no, "1 or 0", empty="1"):
            continue
        teams = frozenset(filter(None, (row.text("home_team", empty=""), row.text("away_team", empty=""))))
        yield Line(
            row.get("game_date", dt.date.fromisoformat, "a date such as 2026-01-11"),
            row.player(),
            row.get("line", _line, "a line with at most two digits behind the point"),
            teams,
        )


class _Row:
    """A row of a file whose mistakes name their place."""

    def __init__(self, file: Path, number: int, values: Mapping[str, str]) -> None:
        self._file = file
        self.number = number
        self._values = values

    def text(self, column: str, *, empty: str | None = None) -> str:
        """Return a value as it stands."""
        value = (self._values.get(column) or "").strip()
        if not value:
            if empty is None:
                raise UsageError(f"{self._file}: row {self.number}, column {column!r} is empty.")
            return empty
        return value

    def get(self, column: str, read: Callable[[str], Value], what: str, *, empty: str | None = None) -> Value:
        """Return a value as ``read`` reads it."""
        text = self.text(column, empty=empty)
        try:
            return read(text)
        except (ValueError, InvalidOperation, KeyError):
            raise UsageError(f"{self._file}: row {self.number}, column {column!r}: {text!r} is not {what}.") from None

    def player(self) -> str:
        """Return the player, by his identity or by his name."""
        column = "player_lookup" if self.text("player_lookup", empty="") else "player_name"
        try:
            return player_lookup(self.text(column))
        except UsageError as error:
            raise UsageError(f"{self._file}: row {self.number}, column {column!r}: {error.message}") from error


def _rows(file: Path, needed: Sequence[str]) -> Iterator[_Row]:
    with _open(file) as text:
        reader = csv.reader(text)
        try:
            columns = next(reader, [])
            lacking = [name for name in needed if name not in columns]
            if not {"player_lookup", "player_name"}.intersection(columns):
                lacking.append("player_name")
            if lacking:
                raise UsageError(
                    f"{file}: row 1: there is no column {lacking[0]!r}.",
                    hint=f"It needs {', '.join(needed)}, and player_lookup or player_name.",
                )
            for values in reader:
                if len(values) != len(columns):
                    raise UsageError(
                        f"{file}: row {reader.line_num} has {len(values)} columns; the first row names {len(columns)}."
                    )
                yield _Row(file, reader.line_num, dict(zip(columns, values, strict=True)))
        except (csv.Error, UnicodeDecodeError, OSError, EOFError) as error:
            raise UsageError(f"{file}: behind row {reader.line_num}: it cannot be read: {error}.") from error


def _open(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


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


def _yes_or_no(text: str) -> bool:
    return _YES[text.casefold()]


def _points(text: str) -> int | None:
    """Read points; none at all: he was listed and did not play."""
    if not text:
        return None
    points = int(text)
    if not 0 <= points <= 200:
        raise ValueError(text)
    return points


def _line(text: str) -> Decimal:
    line = Decimal(text)
    if line != line.quantize(Decimal("0.01")) or line < 0:
        raise ValueError(text)
    return line.quantize(Decimal("0.01"))
