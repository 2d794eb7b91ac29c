"""The moving average: what a player has scored lately, the latest games the most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from predictions.systems.base import Estimate, points_of, usual_points, weighted

if TYPE_CHECKING:
    from predictions.games import Candidate, History

GAMES: Final = 15
FADES: Final = 0.92
"""A game counts for so much of the one after it."""


class MovingAverage:
    """Weighted mean of the latest games."""

    system_id = "moving_average_v1"

    def estimate(self, candidate: Candidate, past: History) -> Estimate:
        """Return the mean of the latest games, and their spread."""
        games = past.of_player(candidate.player_lookup)[-GAMES:]
        weights = [FADES**age for age in reversed(range(len(games)))]
        return weighted(points_of(games), weights, usual_points(past))
