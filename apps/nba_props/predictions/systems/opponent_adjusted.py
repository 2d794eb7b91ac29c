"""The opponent-adjusted system: points a minute, the minutes of late, and what the opponent allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from predictions.systems.base import points_of, usual_points, weighted

if TYPE_CHECKING:
    from predictions.games import Candidate, History
    from predictions.systems.base import Estimate

GAMES: Final = 25
LATE_GAMES: Final = 6
HOME: Final = 1.01
AWAY: Final = 0.99


class OpponentAdjusted:
    """What a player scores in the minutes that he gets of late, against a team that allows more or less than others."""

    system_id = "opponent_adjusted_v1"

    def estimate(self, candidate: Candidate, past: History) -> Estimate:
        """Return the estimate; each past game is first freed of what its own opponent allowed."""
        games = past.of_player(candidate.player_lookup)[-GAMES:]
        fair = [
            points / past.allowed(game.opponent) / (HOME if game.is_home else AWAY)
            for points, game in zip(points_of(games), games, strict=True)
        ]
        minutes = [game.minutes for game in games]
        usual, lately = _mean(minutes), _mean(minutes[-LATE_GAMES:])
        share = lately / usual if usual else 1.0
        today = past.allowed(candidate.opponent) * (HOME if candidate.is_home else AWAY)
        return weighted([points * share * today for points in fair], [1.0] * len(fair), usual_points(past))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
