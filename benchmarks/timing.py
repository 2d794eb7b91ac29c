"""Paired runs: medians and quartiles of differences and ratios.

The machine may do other work meanwhile. Sides therefore take turns within each repeat, in another order each time, and
what is compared are the pairs of one repeat, not two blocks of runs.
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MILLISECONDS: Final = 1_000.0


def timed_ms(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    gc.collect()
    begun_s = time.perf_counter()
    work()
    return (time.perf_counter() - begun_s) * MILLISECONDS


def in_turns(sides: Mapping[str, Callable[[], float]], number: int, into: dict[str, list[float]]) -> None:
    """Run every side once, in an order that depends on the number of the repeat."""
    names = list(sides)
    start = number % len(names)
    for name in (*names[start:], *names[:start]):
        into.setdefault(name, []).append(sides[name]())


def spread(values: list[float], digits: int = 1) -> dict[str, float]:
    """Return median and quartiles."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"q1": round(q1, digits or None), "median": round(median, digits or None), "q3": round(q3, digits or None)}


def differences(left: list[float], right: list[float]) -> dict[str, float]:
    """Return the spread of left - right, pair by pair."""
    return spread([a - b for a, b in zip(left, right, strict=True)])


def ratios(left: list[float], right: list[float]) -> dict[str, float]:
    """Return the spread of left / right, pair by pair."""
    return spread([a / b for a, b in zip(left, right, strict=True)], 3)
