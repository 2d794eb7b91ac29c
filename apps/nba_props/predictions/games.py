"""Games, box scores and what was known before a day: plain values, without files and without a clock."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from onerow import UsageError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

TEAM_GAMES: Final = 15
"""So many latest games of a team tell how many points it allows."""
ROSTER_GAMES: Final = 10
"""So many tell who is in it."""
LEAGUE_SCORES: Final = 3_000
"""So many latest box scores tell what is usual."""

_UNMARKED: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "\N{LATIN SMALL LETTER DOTLESS I}": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)


@dataclass(frozen=True, slots=True)
class BoxScore:
    """What a player did in a game. ``points`` is None if he was listed and did not play."""

    game_date: dt.date
    game_id: str
    player_lookup: str
    team: str
    opponent: str
    is_home: bool
    minutes: float
    points: int | None


@dataclass(frozen=True, slots=True)
class Game:
    """A game as the schedule tells it beforehand."""

    game_date: dt.date
    game_id: str
    home: str
    away: str

    def opponent_of(self, team: str) -> str | None:
        """Return whom a team plays; None if it does not play here."""
        return {self.home: self.away, self.away: self.home}.get(team)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A player who may play, as it was known before the game.

    Attributes:
        opponent: None: a player of whom nobody knows for which of the two teams he plays.
        lines: the different lines that were offered, ascending; (None,) if there were none.
    """

    game_date: dt.date
    game_id: str
    player_lookup: str
    opponent: str | None
    is_home: bool
    lines: tuple[Decimal | None, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a candidate. ``points`` is None if he did not play."""

    game_date: dt.date
    game_id: str
    player_lookup: str
    points: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """A points line that a bookmaker has offered before a game. ``teams`` is empty if he does not say who plays."""

    game_date: dt.date
    player_lookup: str
    line: Decimal
    teams: frozenset[str]


class Archive:
    """All box scores, found by player, by team and by day."""

    def __init__(self, scores: Iterable[BoxScore]) -> None:
        self.scores = sorted(scores, key=lambda one: (one.game_date, one.game_id, one.player_lookup))
        self.days = [one.game_date for one in self.scores]
        self._of_player: dict[str, list[BoxScore]] = defaultdict(list)
        self._games_of: dict[str, list[list[BoxScore]]] = defaultdict(list)
        games: dict[tuple[str, str], list[BoxScore]] = defaultdict(list)
        for score in self.scores:
            if score.points is not None:
                self._of_player[score.player_lookup].append(score)
            games[score.game_id, score.team].append(score)
        for (_, team), found in games.items():
            self._games_of[team].append(found)
        self._totals = {name: sum(one.points or 0 for one in found) for name, found in games.items()}

    @property
    def players(self) -> Iterable[str]:
        """Everybody who has ever played."""
        return self._of_player

    def on(self, day: dt.date) -> Sequence[BoxScore]:
        """Return the box scores of a day."""
        first = bisect_left(self.days, day)
        last = bisect_left(self.days, day + (day.resolution))
        return self.scores[first:last]

    def before(self, day: dt.date) -> History:
        """Return what was known before the games of a day."""
        return History(self, day)


class History:
    """The past of a day. Nothing of the day itself or of later ones can be asked for."""

    def __init__(self, archive: Archive, day: dt.date) -> None:
        self.day = day
        self._archive = archive
        self._allowed: dict[str, float] = {}

    def of_player(self, player_lookup: str) -> Sequence[BoxScore]:
        """Return the games that a player has played, the latest last."""
        scores = self._archive._of_player.get(player_lookup, [])  # noqa: SLF001 -- its own view
        return scores[: bisect_left(scores, self.day, key=lambda one: one.game_date)]

    def games_of(self, team: str, last: int = TEAM_GAMES) -> Sequence[Sequence[BoxScore]]:
        """Return the box scores of a team's latest games, the latest last."""
        games = self._archive._games_of.get(team, [])  # noqa: SLF001
        end = bisect_left(games, self.day, key=lambda one: one[0].game_date)
        return games[max(end - last, 0) : end]

    def roster(self, team: str) -> Sequence[str]:
        """Return who has played for a team lately, and for no other team since."""
        lately = {one.player_lookup for game in self.games_of(team, ROSTER_GAMES) for one in game}
        return sorted(name for name in lately if (past := self.of_player(name)) and past[-1].team == team)

    @cached_property
    def league_points(self) -> float | None:
        """Mean points of a player in a game; None before the first game."""
        end = bisect_left(self._archive.days, self.day)
        lately = self._archive.scores[max(end - LEAGUE_SCORES, 0) : end]
        points = [one.points for one in lately if one.points is not None]
        return sum(points) / len(points) if points else None

    def allowed(self, team: str | None) -> float:
        """Return the points that a team allows, as a share of what its opponents score in other games; 1.0 is usual."""
        if team is None:
            return 1.0
        if team not in self._allowed:
            self._allowed[team] = self._share(team)
        return self._allowed[team]

    def rest_days(self, past: Sequence[BoxScore]) -> int:
        """Return the days since a player's latest game; more than a week is a week."""
        return min((self.day - past[-1].game_date).days, 7) if past else 7

    def _share(self, team: str) -> float:
        """Compare what opponents have scored against a team with what they score on average."""
        against, usual = 0.0, 0.0
        totals = self._archive._totals  # noqa: SLF001
        for game in self.games_of(team):
            opponent = game[0].opponent
            others = [totals[one[0].game_id, opponent] for one in self.games_of(opponent)]
            if others:
                against += totals.get((game[0].game_id, opponent), 0)
                usual += sum(others) / len(others)
        return against / usual if usual else 1.0


def rests(past: Sequence[BoxScore]) -> list[int]:
    """Return the days before each game of a player since the one before it; more than a week is a week."""
    return [7, *(min((after.game_date - before.game_date).days, 7) for before, after in pairwise(past))][: len(past)]


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
