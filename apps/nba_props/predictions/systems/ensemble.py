"""The ensemble: the other systems together, the surer ones more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from predictions.systems.base import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_ID = "ensemble_v1"


def combine(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates, each weighted by how sure it is; where they disagree the spread is wider.

    Args:
        estimates: at least one.
    """
    weights = [1.0 / one.spread**2 for one in estimates]
    total = sum(weights)
    points = sum(one.points * weight for one, weight in zip(estimates, weights, strict=True)) / total
    within = len(estimates) / total
    between = sum((one.points - points) ** 2 for one in estimates) / len(estimates)
    return Estimate(points, math.sqrt(within + between))
