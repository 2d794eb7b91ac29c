"""The nearest-neighbour system: what a player scored in those of his games that were most like today's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from predictions.games import rests
from predictions.systems.base import Estimate, usual_points, weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predictions.games import Candidate, History

GAMES: Final = 90
NEIGHBOURS: Final = 15
FORM: Final = 8
# What makes two games unlike: a difference of so much counts as one.
OPPONENT_UNIT: Final = 0.06
FORM_UNIT: Final = 4.0
REST_UNIT: Final = 3.0
HOME_UNIT: Final = 0.5
AGE_UNIT: Final = 40.0


class NearestNeighbour:
    """The mean of a player's games that were most like today's: opponent, form, days of rest, home, how long ago."""

    system_id = "nearest_neighbour_v1"

    def estimate(self, candidate: Candidate, past: History) -> Estimate:
        """Return the mean of the nearest games, nearer ones count more."""
        games = past.of_player(candidate.player_lookup)
        first = max(len(games) - GAMES, 0)
        points = [float(game.points or 0) for game in games]
        rest, forms = rests(games), _forms(points)
        today = (past.allowed(candidate.opponent), past.rest_days(games), candidate.is_home)
        near: list[tuple[float, int]] = []
        for number in range(first, len(games)):
            game = games[number]
            near.append(
                (
                    ((past.allowed(game.opponent) - today[0]) / OPPONENT_UNIT) ** 2
                    + ((forms[number] - forms[-1]) / FORM_UNIT) ** 2
                    + ((rest[number] - today[1]) / REST_UNIT) ** 2
                    + (HOME_UNIT if game.is_home != today[2] else 0.0)
                    + ((len(games) - number) / AGE_UNIT) ** 2,
                    number,
                )
            )
        near.sort()
        nearest = near[:NEIGHBOURS]
        weights = [1.0 / (1.0 + distance) for distance, _ in nearest]
        return weighted([points[number] for _, number in nearest], weights, usual_points(past))


def _forms(points: Sequence[float]) -> list[float]:
    """Return the mean of the games before each one, and after the last one of those before today's."""
    found = [points[0] if points else 0.0]
    for number in range(1, len(points) + 1):
        late = points[max(number - FORM, 0) : number]
        found.append(sum(late) / len(late))
    return found
