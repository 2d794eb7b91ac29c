"""Geometry of the page's charts. Numbers in, numbers out: the template draws them as SVG, whose text it escapes.

All charts share one drawing area in the units of their view box, which is about as wide as a phone, so that their
words keep the size of the text around them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.services.overview.verdict import span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onerow.services.overview.figures import Period, Spread

WIDTH: Final = 340
HEIGHT: Final = 150
LEFT: Final = 44
RIGHT: Final = 8
TOP: Final = 10
BOTTOM: Final = 22
GAP: Final = 0.28
"""Share of a column that stays empty."""
WIDEST: Final = 36.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid at ``y`` with its words."""

    y: float
    words: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle; ``kind`` is the index of its series, ``words`` say what it stands for."""

    x: float
    y: float
    width: float
    height: float
    kind: int
    words: str


@dataclass(frozen=True, slots=True)
class Range:
    """A spread: a line from the median to the 99th percentile, with a mark at the 90th."""

    x: float
    p50: float
    p90: float
    p99: float
    half: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        labels: x and words under the columns, as many as have room.
        limit: y of the line above which it is a warning, None if it is outside.
    """

    ticks: tuple[Tick, ...]
    labels: tuple[tuple[float, str], ...]
    bars: tuple[Bar, ...] = ()
    ranges: tuple[Range, ...] = ()
    limit: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def stacked(columns: Sequence[tuple[str, Sequence[int]]], names: Sequence[str]) -> Chart:
    """Return bars of counts, one upon the other, for each column of (label, counts by series)."""
    top, ticks = _scale(max((sum(counts) for _, counts in columns), default=0), _count_words, whole=True)
    step, bars = _step(len(columns)), []
    for number, (label, counts) in enumerate(columns):
        done = 0
        for kind, count in enumerate(counts):
            if not count:
                continue
            upper, lower = _y(done + count, top), _y(done, top)
            words = f"{label}: {count:,} {names[kind]}"
            width = min(step * (1 - GAP), WIDEST)
            x = LEFT + (number + 0.5) * step - width / 2
            bars.append(Bar(_r(x), upper, _r(width), _r(max(lower - upper, 1.0)), kind, words))
            done += count
    return Chart(ticks, _labels([label for label, _ in columns]), bars=tuple(bars))


def spreads(periods: Sequence[Period], of: Callable[[Period], Spread | None], *, limit_s: float) -> Chart:
    """Return the spread of seconds of each day; ``limit_s`` is where a warning begins."""
    found = [(number, period, of(period)) for number, period in enumerate(periods)]
    top, ticks = _scale(max((spread.p99_s for _, _, spread in found if spread), default=0.0), span, whole=False)
    step = _step(len(periods))
    ranges = tuple(
        Range(
            x=_r(LEFT + (number + 0.5) * step),
            p50=_y(spread.p50_s, top),
            p90=_y(spread.p90_s, top),
            p99=_y(spread.p99_s, top),
            half=_r(min(step * 0.22, 12.0)),
            words=f"{period.day}: half within {span(spread.p50_s)}, 90 % within {span(spread.p90_s)}, "
            f"99 % within {span(spread.p99_s)}, longest {span(spread.longest_s)}",
        )
        for number, period, spread in found
        if spread is not None
    )
    limit = _y(limit_s, top) if limit_s <= top else None
    return Chart(ticks, _labels([period.day for period in periods]), ranges=ranges, limit=limit)


def _step(columns: int) -> float:
    return (WIDTH - LEFT - RIGHT) / max(columns, 1)


def _y(value: float, top: float) -> float:
    return _r(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top)


def _r(value: float) -> float:
    return round(value, 2)


def _labels(texts: Sequence[str]) -> tuple[tuple[float, str], ...]:
    """Return the labels that have room, the last column always among them; a day loses its year."""
    step = _step(len(texts))
    every = max(math.ceil(46 / step), 1)
    last = len(texts) - 1
    return tuple(
        (_r(LEFT + (number + 0.5) * step), text[5:] if len(text) == len("2026-01-17") else text[:10])
        for number, text in enumerate(texts)
        if (last - number) % every == 0
    )


def _scale(highest: float, words: Callable[[float], str], *, whole: bool) -> tuple[float, tuple[Tick, ...]]:
    """Return the top of an axis from zero that holds ``highest``, and its two or three ticks, round numbers."""
    if highest <= 0:
        highest = 1.0
    raw = highest / 2
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    if whole:
        step = max(math.ceil(step), 1)
    top = step * math.ceil(highest / step)
    count = round(top / step)
    return top, tuple(Tick(_y(number * step, top), words(number * step)) for number in range(count + 1))


def _count_words(value: float) -> str:
    if value >= 1_000_000:  # noqa: PLR2004  # a million
        return f"{value / 1_000_000:g} M"
    return f"{value / 1000:g} k" if value >= 10_000 else f"{value:,.0f}"  # noqa: PLR2004  # five digits
