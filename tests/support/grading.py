"""Predictions and results for the tests of grading: small, written down, of both tables' shapes."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from support.nba import DATE, settings

NOON = dt.datetime(2026, 1, 17, 12, tzinfo=dt.UTC)
GAME = "0022600588"
LATER_GAME = "0022600599"


def prediction(name, *, player=None, day=DATE, line="24.5", points=27.0, side="OVER", minute=0, **other):
    """Return one prediction; ``name`` is its identity, and its player unless another one is named."""
    return {
        "prediction_id": name,
        "game_date": day,
        "game_id": GAME,
        "player_lookup": player or name,
        "system_id": "ensemble_v1",
        "current_points_line": None if line is None else Decimal(line),
        "predicted_points": points,
        "confidence": 0.7,
        "recommendation": side,
        "created_at": NOON + dt.timedelta(minutes=minute),
        **other,
    }


@dataclass(frozen=True)
class Result:
    game_date: dt.date
    game_id: str
    player_lookup: str
    points: int | None


@dataclass
class Season:
    """Results of one game a day: points by player; None: did not play."""

    points: dict[str, int | None]
    days: tuple[str, ...] = (DATE,)
    asked: Counter = field(default_factory=Counter)

    def results(self, day):
        self.asked[day] += 1
        if day.isoformat() not in self.days:
            return ()
        return tuple(Result(day, GAME, player, points) for player, points in self.points.items())


def stored(platform, table=settings.GRADES, *, raw=False):
    """Return what stands in a table, by prediction."""
    from predictions.reading import open_reader

    name = {settings.GRADES: "grades", settings.TABLE: "predictions"}[table] + ("_stored" if raw else "")
    with open_reader(platform.project_id, platform.client) as reader:
        return reader.rows(f"select * from {{{name}}} order by prediction_id")
