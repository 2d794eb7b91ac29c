"""A generated season, for machines without real data: the same shapes, names with accents, moving and missing lines."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import Final

from predictions.games import BoxScore
from predictions.season import Line, Season, player_lookup

TEAMS: Final = (
    "ATL", "BOS", "CHI", "DAL", "DEN", "LAL", "MIA", "MIL", "NYK", "OKC", "PHI", "PHX", "SAC", "SAS", "TOR", "UTA",
)  # fmt: skip
PLAYERS: Final = 10
DATES: Final = 165
BEFORE: Final = 20
FIRST: Final = dt.date(2025, 10, 21)
_FORENAMES: Final = (
    "Nikola", "Luka", "Jusuf", "Dāvis", "Théo", "José", "Moussa", "Élie", "Dario", "Bogdan", "Goran", "Žiga", "Marcus",
    "Tyrese", "Jalen", "Cade",
)  # fmt: skip
_SURNAMES: Final = (
    "Jokić", "Dončić", "Nurkić", "Bertāns", "Maledon", "Alvarado", "Diabaté", "Okobo", "Šarić", "Dragić", "Samar",
    "Smart", "Hall", "Brown",
)  # fmt: skip
_SUFFIXES: Final = ("", "", "", "", " Jr.", " III")


class _Player:
    def __init__(self, chance: random.Random, name: str, team: str) -> None:
        self.name = name
        self.team = team
        self.level = chance.triangular(3, 29, 9)
        self.spread = 2.0 + self.level * 0.25


def generate(seed: int) -> Season:
    """Return the season of a seed: the same one every time."""
    chance = random.Random(seed)
    defence = {team: chance.uniform(0.88, 1.12) for team in TEAMS}
    players = {team: _team(chance, team, number) for number, team in enumerate(TEAMS)}
    scores: list[BoxScore] = []
    lines: list[Line] = []
    day = FIRST - dt.timedelta(days=120)  # the end of the season before: who plays where is known on the first day
    for number in range(BEFORE + DATES):
        if number == BEFORE:
            day = FIRST
        teams = chance.sample(TEAMS, 2 * chance.randint(2, 6))
        for home, away in zip(teams[::2], teams[1::2], strict=True):
            game_id = f"00{day:%y%m%d}{TEAMS.index(home):02d}"
            for team, opponent in ((home, away), (away, home)):
                for player in players[team]:
                    expected = player.level * defence[opponent] * (1.03 if team == home else 0.97)
                    if number >= BEFORE:
                        lines += _offered(chance, day, player, expected, frozenset((home, away)))
                    if chance.random() < 0.08:
                        continue  # he does not play; nobody knew
                    points = max(round(chance.gauss(expected, player.spread)), 0)
                    minutes = float(min(max(round(12 + player.level), 1), 40))
                    name = player_lookup(player.name)
                    scores.append(BoxScore(day, game_id, name, team, opponent, team == home, minutes, points))
        day += dt.timedelta(days=1)
    return Season(f"generated: seed {seed}", scores, lines)


def _team(chance: random.Random, team: str, number: int) -> list[_Player]:
    """Return ten players with names that nobody else has."""
    found = []
    for place in range(PLAYERS):
        index = number * PLAYERS + place
        forename, surname = _FORENAMES[index % len(_FORENAMES)], _SURNAMES[(index // len(_FORENAMES)) % len(_SURNAMES)]
        found.append(_Player(chance, f"{forename} {surname}{chance.choice(_SUFFIXES)}", team))
    return found


def _offered(
    chance: random.Random, day: dt.date, player: _Player, expected: float, teams: frozenset[str]
) -> list[Line]:
    """Return the lines of a player: none for those who score little, mostly half points, some that move."""
    if player.level < 8 or chance.random() < 0.1:
        return []
    middle = Decimal(max(round(2 * (expected + chance.gauss(0, 0.8))), 1)) / 2
    moves = [Decimal(0)] + ([Decimal(chance.choice((-1, 1))) / 2] if chance.random() < 0.2 else [])
    if chance.random() < 0.8 and middle == middle.to_integral_value():
        middle += Decimal("0.5")
    return [
        Line(day, player_lookup(player.name), (middle + move).quantize(Decimal("0.01")), teams)
        for move in moves
    ]
