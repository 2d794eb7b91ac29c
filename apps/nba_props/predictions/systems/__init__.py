"""The prediction systems: from a candidate and the past of a day to points, a confidence and a recommendation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from predictions.systems import ensemble
from predictions.systems.base import judge
from predictions.systems.moving_average import MovingAverage
from predictions.systems.nearest_neighbour import NearestNeighbour
from predictions.systems.opponent_adjusted import OpponentAdjusted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from predictions.games import Candidate, History
    from predictions.systems.base import Recommendation, System

__all__ = ["SYSTEMS", "SYSTEM_IDS", "Prediction", "predict"]

SYSTEMS: Final[tuple[System, ...]] = (MovingAverage(), OpponentAdjusted(), NearestNeighbour())
SYSTEM_IDS: Final = (*(system.system_id for system in SYSTEMS), ensemble.SYSTEM_ID)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a system says of a candidate and a line."""

    candidate: Candidate
    system_id: str
    line: Decimal | None
    points: float
    confidence: float
    recommendation: Recommendation


def predict(candidate: Candidate, past: History) -> Iterator[Prediction]:
    """Return what every system says of a candidate, for each of his lines."""
    estimates = [system.estimate(candidate, past) for system in SYSTEMS]
    for system_id, estimate in zip(SYSTEM_IDS, (*estimates, ensemble.combine(estimates)), strict=True):
        for line in candidate.lines:
            opinion = judge(estimate, line)
            yield Prediction(
                candidate, system_id, line, round(estimate.points, 2), opinion.confidence, opinion.recommendation
            )
