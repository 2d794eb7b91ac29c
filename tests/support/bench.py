"""A configured folder, what was staged in it, and an audit of what became of that.

The audit reads the database and the staging folder by itself: it shares no code with the product but the
words of the table spec.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import duckdb

import onerow
from support.reference import newest_rows

PREDICTIONS = """
[tables.predictions]
key = ["game_id", "player_lookup", "system_id", "current_points_line"]
partition = "game_date"
order_by = ["created_at", "prediction_id"]
id = "prediction_id"

[tables.predictions.columns]
prediction_id = "string"
game_date = "date"
game_id = "string"
player_lookup = "string"
system_id = "string"
current_points_line = "decimal(6,2)"
predicted_points = "float64"
created_at = "timestamp"
"""

DAY = dt.date(2026, 1, 10)
MIDNIGHT = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)
LINES = (None, Decimal("24.50"), Decimal("25.00"))


def prediction(**values):
    """Return a row of the incident's table; what is not given has a plain value."""
    row = {
        "prediction_id": "p-1",
        "game_date": DAY,
        "game_id": "0022500001",
        "player_lookup": "lebronjames",
        "system_id": "xgboost",
        "current_points_line": Decimal("24.50"),
        "predicted_points": 26.5,
        "created_at": MIDNIGHT,
    }
    assert values.keys() <= row.keys()
    return {**row, **values}


def predictions(count, *, seed, day=DAY, players=60):
    """Return ``count`` seeded rows of one date over few keys, so that parts and batches overlap."""
    chance = random.Random(seed)
    return [
        prediction(
            prediction_id=f"p-{seed}-{number}",
            game_date=day,
            game_id=f"00225000{chance.randrange(4):02d}",
            player_lookup=f"player{chance.randrange(players):03d}",
            system_id=chance.choice(["xgboost", "ensemble"]),
            current_points_line=chance.choice(LINES),
            predicted_points=chance.randrange(400) / 10,
            created_at=MIDNIGHT + dt.timedelta(seconds=chance.randrange(3600)),
        )
        for number in range(count)
    ]


def quoted(name):
    """Return a name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


class Bench:
    """A folder with ``onerow.toml``; remembers every row that was staged through it."""

    def __init__(self, folder, *, tables=PREDICTIONS, table="predictions", lease="30s", head=""):
        self.folder = Path(folder)
        self.table = table
        self.config = self.folder / "onerow.toml"
        self.database = self.folder / "warehouse.duckdb"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f'warehouse = "duckdb:///warehouse.duckdb"\n{head}\n'
            f'[lease]\nduration = "{lease}"\nmax_wait = "60s"\n{tables}',
            encoding="utf-8",
        )
        self.spec = onerow.load_settings(self.config).tables[table]
        self.rows = []
        self.parts = {}
        self._connection = None
        with self.open() as store:
            store.init()

    def open(self):
        """Open a store on the folder."""
        return onerow.open(self.config)

    def stage(self, store, rows, *, batch, worker="w-1"):
        """Stage rows and remember them."""
        part = store.stage(self.table, rows, batch=batch, worker=worker)
        if part.part_id not in self.parts:
            self.rows += rows
            self.parts[part.part_id] = part
        return part

    def stage_batch(self, store, batch, *, parts=5, rows=12, seed=0, day=DAY):
        """Stage a batch of seeded parts."""
        for number in range(parts):
            self.stage(
                store,
                predictions(rows, seed=f"{seed}-{batch}-{number}", day=day),
                batch=batch,
                worker=f"w-{number}",
            )

    # --- looking, without the product --------------------------------------------------------

    @contextmanager
    def reading(self):
        """Have the database open, read-only, for every ``query`` in the block; waits while a process has it."""
        if self._connection is not None:
            yield self._connection
            return
        deadline_s = time.monotonic() + 30
        while self._connection is None:
            try:
                self._connection = duckdb.connect(str(self.database), read_only=True)
            except duckdb.IOException as error:
                if "lock" not in str(error) or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.002)
        try:
            yield self._connection
        finally:
            self._connection.close()
            self._connection = None

    def query(self, statement, *values):
        """Return the rows of a statement on the database."""
        with self.reading() as connection:
            return connection.execute(statement, list(values)).fetchall()

    def write(self, statement, *values):
        """Change the database behind the product's back."""
        with duckdb.connect(str(self.database)) as connection:
            connection.execute(statement, list(values))

    def table_rows(self, suffix=""):
        """Return the rows of the target, or of a view beside it, as the reference has them: columns in declared
        order, times in UTC.
        """
        names = ", ".join(map(quoted, self.spec.column_names))
        target = ".".join(map(quoted, (*self.spec.target[:-1], self.spec.target[-1] + suffix)))
        return [
            tuple(value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value for value in row)
            for row in self.query(f"select {names} from {target}")
        ]

    def assert_table_is_reference(self, rows=None):
        """The table holds exactly the newest row of every key that was staged."""
        expected = newest_rows(self.rows if rows is None else rows, self.spec)
        found = self.table_rows()
        keys = [self.spec.column_names.index(name) for name in self.spec.identity]
        twice = [key for key, count in Counter(tuple(row[at] for at in keys) for row in found).items() if count > 1]
        assert not twice, f"I1: keys with several rows: {twice[:5]}"
        assert Counter(found) == Counter(expected.values())

    def part_states(self):
        """Return part id -> (partitions, "staged" | "retired" | "discarded"), by listing the folder."""
        states = {}
        for path in (self.folder / "staging").rglob("p*.json"):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            data = path.parent / Path(manifest["data"]).name
            state = next((kind for kind in ("retired", "discarded") if data.with_suffix(f".{kind}").exists()), "staged")
            assert state != "staged" or data.exists(), f"I2: the data of a waiting part is gone: {data}"
            states[manifest["part_id"]] = (tuple(manifest["partitions"]), state)
        return states

    def ledger(self):
        """Return the ledger's (part, partition) pairs with their rows."""
        return self.query(
            "select part_id, partition, rows_staged from onerow.ledger where table_name = ?", self.table
        )

    def tokens_in_commit_order(self):
        """Return partition -> [(consolidation, token)] of consolidations under a lock, in order of commit."""
        found = self.query(
            "select partition, consolidation, token from onerow.history "
            "where table_name = ? and action = 'consolidate' and token is not null order by rowid",
            self.table,
        )
        tokens = defaultdict(list)
        for partition, run, token in found:
            tokens[partition].append((run, token))
        return tokens

    def token_order_violations(self):
        """Return the commits whose token is not higher than that of the run that had committed before (I4)."""
        return [
            (partition, earlier, later)
            for partition, commits in self.tokens_in_commit_order().items()
            for earlier, later in itertools.pairwise(commits)
            if later[1] < earlier[1] or (later[1] == earlier[1] and later[0] != earlier[0])
        ]

    def audit(self, *, all_merged=True):
        """Check I1 to I7 on what is on disk now; with ``all_merged`` nothing may wait any more."""
        with self.reading():
            ledger = self.ledger()
            pairs = Counter((part, partition) for part, partition, _ in ledger)
            assert max(pairs.values(), default=1) == 1, "I6: the ledger names a part twice"
            states = self.part_states()
            assert states.keys() == self.parts.keys(), "I2: a part has come or gone"
            for part, (partitions, state) in states.items():
                merged = all((part, partition) in pairs for partition in partitions)
                assert merged or state != "retired", f"I7: part {part} was cleaned up but is not merged"
                assert merged or not all_merged, f"I2: part {part} was never merged"
                assert state == "retired" or not all_merged, f"clean-up left part {part} behind"
            history = self.query(
                "select partition, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded "
                "from onerow.history where table_name = ? and action = 'consolidate'",
                self.table,
            )
            for _, staged, *counts in history:
                assert staged == sum(counts), "I6: the counts do not add up"
                assert min(counts) >= 0
            assert sum(row[1] for row in history) == sum(rows for *_, rows in ledger)
            assert sum(row[2] for row in history) == len(self.table_rows())
            if all_merged:
                assert sum(rows for *_, rows in ledger) == sum(part.rows for part in self.parts.values())
                self.assert_table_is_reference()
            assert not self.token_order_violations(), "I4: a lower token has committed after a higher one"


def consolidate_all(store, table, batches):
    """Consolidate each batch; everything must succeed."""
    results = [store.consolidate(table, batch) for batch in batches]
    assert all(result.success for result in results), [result.error for result in results]
    return results
