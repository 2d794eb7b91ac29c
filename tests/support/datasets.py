"""Real data from the folder beside the repository, or generated data of the same shape where it is absent.

Each loader returns a ``Dataset``; ``origin`` says which of the two it is.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import random
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"


@dataclass
class Dataset:
    """Batches of rows, and what the table must hold in the end.

    Attributes:
        origin: "real" or "generated".
        tables: the table's part of an ``onerow.toml``.
        batches: batch -> CSV text of its rows, in order of time.
        expected: rows of the final table as text, where somebody else has computed them.
    """

    origin: str
    table: str
    tables: str
    batches: dict[str, bytes]
    expected: list[dict[str, str]] = field(default_factory=list)


FOOTBALL = """
[tables.football]
key = ["date", "home_team", "away_team"]
partition = "month"
order_by = ["created_at", "ingest_seq"]
[tables.football.columns]
date = "string"
home_team = "string"
away_team = "string"
home_score = "int64"
away_score = "int64"
tournament = "string"
city = "string"
country = "string"
neutral = "string"
month = "string"
created_at = "timestamp"
ingest_seq = "int64"
"""
FOOTBALL_COLUMNS = [
    "date", "home_team", "away_team", "home_score", "away_score", "tournament", "city", "country", "neutral",
    "month", "created_at", "ingest_seq",
]  # fmt: skip


def football(folder=DATA):
    """Return 40 snapshots of a table of matches, with the newest row per key."""
    home = Path(folder) / "football_results"
    if not home.is_dir():
        return _generated_football()
    case = json.loads((home / "case.json").read_text(encoding="utf-8"))
    batches = {
        f"snapshot-{number:03d}": gzip.decompress((home / batch["file"]).read_bytes())
        for number, batch in enumerate(case["batches"])
    }
    expected = read_csv(gzip.decompress((home / case["expected"]).read_bytes()))
    return Dataset("real", "football", FOOTBALL, batches, expected)


def _generated_football(*, snapshots=40, matches=300):
    """Return snapshots of a growing, now and then corrected table, and the newest rows by plain replay."""
    chance = random.Random(11)
    teams = ["Curaçao", "São Tomé and Príncipe", "Türkiye", "Japan", "Korea Republic", "Korea DPR", None]
    table, newest, batches, sequence = [], {}, {}, 0
    for number in range(snapshots):
        day = dt.date(2024, 1, 1) + dt.timedelta(days=20 * number)
        for _ in range(matches // snapshots + 1):
            home, away = chance.sample(teams, 2)
            table.append({"date": day.isoformat(), "home_team": home, "away_team": away, "tournament": "Friendly",
                          "city": "Oslo", "country": "Norway", "neutral": "FALSE", "month": day.isoformat()[:7]})  # fmt: skip
        for match in chance.sample(table, min(len(table), 12)):
            match |= {"home_score": str(chance.randrange(5)), "away_score": str(chance.randrange(5))}
        at = f"2026-07-{1 + number // 2:02d}T{number % 24:02d}:00:00Z"
        rows = []
        for match in table:
            sequence += 1
            row = {name: match.get(name) for name in FOOTBALL_COLUMNS}
            row |= {"created_at": at, "ingest_seq": str(sequence)}
            rows.append(row)
            newest[row["month"], row["date"], row["home_team"], row["away_team"]] = row
        batches[f"snapshot-{number:03d}"] = write_csv(rows, FOOTBALL_COLUMNS)
    expected = [{name: value or "" for name, value in row.items()} for row in newest.values()]
    return Dataset("generated", "football", FOOTBALL, batches, expected)


BOX_SCORES = """
[tables.box_scores]
key = ["game_id", "player_lookup"]
partition = "game_date"
order_by = ["ingested_at"]
[tables.box_scores.columns]
game_date = "date"
game_id = "string not null"
player_lookup = "string not null"
player_name = "string"
team = "string"
minutes = "int64"
points = "int64"
plus_minus = "int64"
ingested_at = "timestamp"
"""
BOX_COLUMNS = ["game_date", "game_id", "player_lookup", "player_name", "team", "minutes", "points", "plus_minus"]


def box_scores(folder=DATA, *, seasons=("2024-25",)):
    """Return rows (dictionaries of text) of NBA box scores, and their origin."""
    path = Path(folder) / "nba" / "player_box_scores.csv.gz"
    if path.is_file():
        rows = read_csv(gzip.decompress(path.read_bytes()))
        return "real", [{name: row[name] for name in BOX_COLUMNS} for row in rows if row["season"] in seasons]
    chance = random.Random(5)
    players = [f"player{number:03d}" for number in range(120)]
    rows = []
    for day in range(60):
        date = (dt.date(2024, 10, 22) + dt.timedelta(days=day)).isoformat()
        for game in range(4):
            for player in chance.sample(players, 20):
                rows.append({
                    "game_date": date, "game_id": f"00224{day:03d}{game:02d}", "player_lookup": player,
                    "player_name": f"Jokić {player}", "team": chance.choice(["DEN", "LAL"]),
                    "minutes": str(chance.randrange(48)), "points": str(chance.randrange(40)),
                    "plus_minus": str(chance.randrange(-20, 20)),
                })  # fmt: skip
    return "generated", rows


LINES = """
[tables.points_lines]
key = ["odds_event_id", "player_lookup", "bookmaker", "line"]
partition = "game_date"
order_by = ["captured_at"]
[tables.points_lines.columns]
game_date = "date"
odds_event_id = "string"
player_lookup = "string"
bookmaker = "string"
line = "decimal(6,1)"
over_price = "int64"
under_price = "int64"
is_pregame = "int64"
captured_at = "timestamp"
"""
LINE_COLUMNS = [
    "game_date", "odds_event_id", "player_lookup", "bookmaker", "line", "over_price", "under_price", "is_pregame",
    "captured_at",
]  # fmt: skip


def points_lines(folder=DATA):
    """Return rows (dictionaries of text) of points lines over time, and their origin."""
    path = Path(folder) / "nba" / "points_lines.csv.gz"
    if path.is_file():
        rows = read_csv(gzip.decompress(path.read_bytes()))
        return "real", [{name: row[name] for name in LINE_COLUMNS} for row in rows]
    chance = random.Random(6)
    rows = []
    for day in range(40):
        date = (dt.date(2024, 10, 22) + dt.timedelta(days=day)).isoformat()
        for _ in range(80):
            rows.append({
                "game_date": date, "odds_event_id": f"{day:08x}", "player_lookup": f"player{chance.randrange(20):03d}",
                "bookmaker": chance.choice(["PrizePicks", "Underdog"]), "line": str(chance.randrange(20, 60) / 2),
                "over_price": "-137", "under_price": chance.choice(["-137", ""]), "is_pregame": "1",
                "captured_at": f"{date}T{chance.choice([0, 21]):02d}:00:00Z",
            })  # fmt: skip
    return "generated", rows


def read_csv(raw):
    """Return the rows of a CSV file as dictionaries of text."""
    return list(csv.DictReader(io.StringIO(raw.decode("utf-8"))))


def write_csv(rows, columns):
    """Return rows as a CSV file; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def typed(row, spec):
    """Return a row of text in the types of a table spec: an empty field is NULL."""
    readers = {
        "string": str,
        "int64": int,
        "decimal": Decimal,
        "date": dt.date.fromisoformat,
        "timestamp": dt.datetime.fromisoformat,
    }
    return {
        column.name: readers[column.type.kind](row[column.name]) if row.get(column.name) else None
        for column in spec.columns
    }
