"""What a prediction system is, and how an estimate becomes a recommendation. No files, no clock, no chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from predictions.games import BoxScore, Candidate, History

Recommendation = Literal["OVER", "UNDER", "PASS", "NO_LINE"]

LEAST_SHARE: Final = 0.55
"""Below this nothing is recommended. At the usual price of -110 a bet pays from 0.524 on."""
CLOSE_POINTS: Final = 3.0
"""Without a line confidence is the share of games in which a player comes so close to his prediction."""
USUAL_POINTS: Final = 8.0
"""A player's points before the first game that is known."""
USUAL_SPREAD: Final = 5.0
"""Standard deviation of a player of whom little is known."""
PRIOR_WEIGHT: Final = 0.2
"""What is usual counts for so much of a game of the player."""
PRIOR_GAMES: Final = 3.0
"""The usual spread counts as much as so many games."""
_NORMAL: Final = math.sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """How many points a system expects, and by how much it expects to be wrong (standard deviation, above 0)."""

    points: float
    spread: float


@dataclass(frozen=True, slots=True)
class Opinion:
    """What follows from an estimate for a line. ``confidence`` is a share from 0 to 1."""

    recommendation: Recommendation
    confidence: float


class System(Protocol):
    """One way to predict."""

    @property
    def system_id(self) -> str:
        """Its name in the table."""
        ...

    def estimate(self, candidate: Candidate, past: History) -> Estimate:
        """Return what a candidate is expected to score, from the past alone."""
        ...


def judge(estimate: Estimate, line: Decimal | None) -> Opinion:
    """Return the better side of a line, and how likely it wins: the share of a normal distribution on that side.

    On a whole number neither side wins if the player meets it; its share belongs to none of them.
    """
    if line is None:
        return Opinion("NO_LINE", round(math.erf(CLOSE_POINTS / estimate.spread / _NORMAL), 4))
    over = 1.0 - _share_below(estimate, math.floor(line) + 0.5)
    under = _share_below(estimate, math.ceil(line) - 0.5)
    share = max(over, under)
    if share < LEAST_SHARE:
        return Opinion("PASS", round(share, 4))
    return Opinion("OVER" if over > under else "UNDER", round(share, 4))


def usual_points(past: History) -> float:
    """Return what a player scores of whom nothing is known."""
    found = past.league_points
    return USUAL_POINTS if found is None else found


def weighted(values: Sequence[float], weights: Sequence[float], prior: float) -> Estimate:
    """Return the weighted mean of values and the spread of a single one around it, both drawn to what is usual.

    Args:
        values: of single games.
        weights: how much each counts, above 0.
        prior: the mean where there are no values.
    """
    total = sum(weights)
    mean = (sum(map(mul, values, weights)) + PRIOR_WEIGHT * prior) / (total + PRIOR_WEIGHT)
    squares = sum(weight * (value - mean) ** 2 for value, weight in zip(values, weights, strict=True))
    variance = (squares + PRIOR_GAMES * USUAL_SPREAD**2) / (total + PRIOR_GAMES)
    return Estimate(mean, math.sqrt(variance))


def points_of(games: Sequence[BoxScore]) -> list[float]:
    """Return the points of games that were played."""
    return [float(game.points or 0) for game in games]


def _share_below(estimate: Estimate, points: float) -> float:
    return 0.5 * (1.0 + math.erf((points - estimate.points) / estimate.spread / _NORMAL))
