"""Reading the files of a season, the shared ones and the user's own: every mistake names file, row and column."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from onerow import UsageError
from predictions.games import BoxScore, Game, Line, player_lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

Value = TypeVar("Value")

_YES: Final = {"1": True, "true": True, "t": True, "yes": True, "0": False, "false": False, "f": False, "no": False}


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


def read_schedule(file: Path) -> Iterator[Game]:
    """Read games that were or are to come: game_date, game_id, home_team, away_team.

    Raises:
        UsageError: naming file, row and column.
    """
    for row in _rows(file, ("game_date", "game_id", "home_team", "away_team"), players=False):
        yield Game(
            row.get("game_date", dt.date.fromisoformat, "a date such as 2026-01-11"),
            row.text("game_id"),
            row.text("home_team"),
            row.text("away_team"),
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


def _rows(file: Path, needed: Sequence[str], *, players: bool = True) -> Iterator[_Row]:
    with _open(file) as text:
        reader = csv.reader(text)
        try:
            columns = next(reader, [])
            lacking = [name for name in needed if name not in columns]
            if players and not {"player_lookup", "player_name"}.intersection(columns):
                lacking.append("player_name")
            if lacking:
                raise UsageError(
                    f"{file}: row 1: there is no column {lacking[0]!r}.",
                    hint=f"It needs {', '.join(needed)}{', and player_lookup or player_name' if players else ''}.",
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
