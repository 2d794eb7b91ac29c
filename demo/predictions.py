"""Ten overlapping batches of player-prop predictions for one date, made by a seeded generator.

Each batch has 587 rows in 15 parts, as in the incident; all batches predict the same props, so they share keys.
The newest row of a key is the one of the batch that was made last, whenever it is consolidated.
"""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import Any, Final

GAME_DATE: Final = dt.date(2026, 1, 11)
BATCHES: Final = 10
PARTS: Final = 15
ROWS: Final = 587
UNIQUE: Final = 582

Row = dict[str, Any]
Key = tuple[str, str, str, Decimal | None]

CONFIG: Final = """\
warehouse = "duckdb:///predictions.duckdb"
staging   = "staging"

[lease]
duration    = "{lease}"
renew_every = "0.5s"
max_wait    = "60s"

[tables.player_prop_predictions]
key       = ["game_id", "player_lookup", "system_id", "current_points_line"]
partition = "game_date"
order_by  = ["created_at", "prediction_id"]
target    = "nba.player_prop_predictions"
id        = "prediction_id"

[tables.player_prop_predictions.columns]
prediction_id       = "string"
game_date           = "date"
game_id             = "string"
player_lookup       = "string"
system_id           = "string"
current_points_line = "decimal(6,2)"
predicted_points    = "float64"
confidence          = "float64"
created_at          = "timestamp"

[tables.player_prop_predictions.checks]
confidence_is_a_share = "confidence between 0 and 1"
"""


def make_batch(number: int, *, seed: int = 11) -> list[list[Row]]:
    """Return the batch's rows, part by part: 587 rows, 582 keys, five keys predicted by two workers."""
    keys = make_keys(seed)
    chance = random.Random(seed * 1000 + number)
    created = dt.datetime(2026, 1, 11, 1, 6, 34, tzinfo=dt.UTC) + dt.timedelta(minutes=number)
    picked = keys + chance.sample(keys, ROWS - UNIQUE)
    rows = []
    for count, (game_id, player, system, line) in enumerate(picked):
        rows.append(
            {
                "prediction_id": f"{number:02d}-{count:04d}",
                "game_date": GAME_DATE,
                "game_id": game_id,
                "player_lookup": player,
                "system_id": system,
                "current_points_line": line,
                "predicted_points": round(chance.gauss(20, 6), 2),
                "confidence": round(chance.uniform(0.5, 0.95), 3),
                "created_at": created + dt.timedelta(microseconds=count),
            }
        )
    chance.shuffle(rows)
    return [rows[part::PARTS] for part in range(PARTS)]


def make_keys(seed: int) -> list[Key]:
    """Return the 582 business keys: half points, whole points and missing lines are keys of their own."""
    chance = random.Random(seed)
    systems = ("moving_average", "opponent_adjusted", "nearest_neighbour")
    keys: list[Key] = []
    while len(keys) < UNIQUE:
        player = f"player{len(keys) // 6:03d}"
        game = f"00226{len(keys) // 60:05d}"
        line = Decimal(chance.randrange(10, 60)) / 2
        for system in systems:
            keys += [(game, player, system, line), (game, player, system, None)]
    return keys[:UNIQUE]


def key_of(row: Row) -> Key:
    """Return a row's business key."""
    return (row["game_id"], row["player_lookup"], row["system_id"], row["current_points_line"])


def newest(rows: list[Row]) -> dict[Key, Row]:
    """Return the newest row of each key, computed plainly."""
    winners: dict[Key, Row] = {}
    for row in rows:
        key = key_of(row)
        best = winners.get(key)
        if best is None or (row["created_at"], row["prediction_id"]) > (best["created_at"], best["prediction_id"]):
            winners[key] = row
    return winners
