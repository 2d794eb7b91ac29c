"""What a prediction is worth, once the points are known. No store, no clock.

A bet is one unit at -110: it wins 100 / 110, or loses 1, or is returned (push). There is one where a line was there,
the prediction was OVER or UNDER, and the player played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from decimal import Decimal

WIN: Final = 100 / 110
LOSS: Final = -1.0
PUSH: Final = 0.0
SIDES: Final = ("OVER", "UNDER")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a prediction.

    Attributes:
        signed_error: predicted minus actual points; None: he did not play.
        is_correct: None where nothing was decided: no line, a pass, a push, or he did not play.
        return_units: None where there was no bet.
    """

    signed_error: float | None
    absolute_error: float | None
    is_correct: bool | None
    return_units: float | None


def judge(
    *, predicted: float | None, line: Decimal | None, recommendation: str | None, actual: int | None
) -> Verdict:
    """Return what became of a prediction.

    Args:
        predicted: points; None: the caller has written none.
        line: points line; compared exactly.
        recommendation: OVER, UNDER or anything else, which is no bet.
        actual: points; None: he did not play.
    """
    if actual is None:
        return Verdict(None, None, None, None)
    signed = None if predicted is None else predicted - actual
    absolute = None if signed is None else abs(signed)
    if line is None or recommendation not in SIDES:
        return Verdict(signed, absolute, None, None)
    if line == actual:
        return Verdict(signed, absolute, None, PUSH)
    correct = (actual > line) == (recommendation == "OVER")
    return Verdict(signed, absolute, correct, WIN if correct else LOSS)
