"""The incident's consolidator on BigQuery: a staging table for each worker, found by prefix, and one MERGE of them all.

It knows nothing of onerow, and nothing of it was mended: the line is cast to an integer, the last merge wins, duplicates
are counted after the commit, clean-up drops whatever the prefix finds. Its lock is ``support.incident_lock``.
"""

from __future__ import annotations

from pathlib import Path

from google.cloud import bigquery

from support import bigquery as projects
from support import firestore
from support.incident_lock import IncidentLock, client_of

DATASET = "nba_predictions"
TABLE = f"{DATASET}.player_prop_predictions"
GUIDE = Path(__file__).resolve().parents[2] / "docs/how-to/moving-in.md"
COLUMNS = (
    "prediction_id", "game_date", "game_id", "player_lookup", "system_id", "current_points_line", "predicted_points",
    "created_at",
)  # fmt: skip


def file_of_the_guide(name):
    """Return a file as the guide shows it: the tests run what the guide says and nothing like it."""
    _, _, rest = GUIDE.read_text(encoding="utf-8").partition(f"<!-- file: {name} -->\n```")
    _, _, body = rest.partition("\n")
    assert body, f"the guide has no file {name}"
    return body.partition("```")[0]


def run_statements(client, text):
    """Run statements one after another."""
    for statement in text.split(";"):
        if statement.strip():
            client.query_and_wait(statement)


def line_of(alias):
    """The line as the incident's MERGE compares it: 24.5 and 25.0 are one, and NULL is -1."""
    return f"coalesce(cast({alias}.current_points_line as int64), -1)"


class IncidentProject:
    """A project with the incident's dataset in BigQuery and its lock documents in Firestore, both empty.

    Attributes:
        project: its name.
        bigquery, firestore: the comfortable clients, as the old programs use them.
        lock: the lock of an old program.
    """

    def __init__(self, monkeypatch):
        place = firestore.new_place()
        monkeypatch.setenv(projects.EMULATOR, projects.emulator())
        self.project = place.project
        self.firestore = client_of(place, monkeypatch)
        self.lock = IncidentLock(self.firestore, holder_id="old consolidator")
        self.bigquery = projects.connect(self.project)
        self.bigquery.create_dataset(DATASET)

    def rows(self):
        """Return what stands in the table, as (id, line, points), in order of id."""
        found = self.bigquery.query_and_wait(
            f"select prediction_id, current_points_line, predicted_points from {TABLE} order by prediction_id"
        )
        return [(one, None if line is None else float(line), points) for one, line, points in found]

    def close(self):
        for item in self.bigquery.list_datasets():
            self.bigquery.delete_dataset(item.reference, delete_contents=True)
        self.bigquery.close()
        self.firestore.close()


class IncidentConsolidator:
    """One of the old programs. ``lock`` is its lock."""

    def __init__(self, client, lock):
        self._client = client
        self._lock = lock

    def stage(self, batch, worker, *rows):
        """Write a worker's rows, (id, date, player, line, points, created_at), to its own table."""
        name = f"{DATASET}._staging_{batch}_{worker}"
        self._client.query_and_wait(f"create table {name} like {TABLE}")
        values = ", ".join(
            f"('{one}', date '{day}', '0022500551', '{player}', 'ensemble', {line}, {points}, timestamp '{created_at}')"
            for one, day, player, line, points, created_at in rows
        )
        self._client.query_and_wait(f"insert into {name} values {values}")

    def staged(self, batch):
        """Return the names of the tables that its prefix finds."""
        tables = self._client.list_tables(bigquery.DatasetReference(self._client.project, DATASET))
        return sorted(one.table_id for one in tables if one.table_id.startswith(f"_staging_{batch}_"))

    def consolidate(self, batch, game_date):
        """Merge a batch under the lock; return whether the lock was had, and the keys of that date that stand twice."""
        if not self._lock.try_acquire(game_date, batch):
            return False, 0
        try:
            self.merge(batch, game_date)
            duplicates = self.duplicates(game_date)
            if not duplicates:
                for name in self.staged(batch):
                    self._client.delete_table(f"{self._client.project}.{DATASET}.{name}")
            return True, duplicates
        finally:
            self._lock.release(game_date)

    def merge(self, batch, game_date):
        """Merge without the lock, as a program does that has been paused for longer than its 300 s."""
        staged = " union all ".join(f"select * from {DATASET}.{name}" for name in self.staged(batch))
        key = f"s.game_id, s.player_lookup, s.system_id, {line_of('s')}"
        same = " and ".join(f"t.{name} = s.{name}" for name in ("game_date", "game_id", "player_lookup", "system_id"))
        self._client.query_and_wait(
            f"merge {TABLE} t using (select * from (select s.*, row_number() over (partition by {key} "
            f"order by s.created_at desc) as place from ({staged}) s) where place = 1) s "
            f"on t.game_date = date '{game_date}' and {same} and {line_of('t')} = {line_of('s')} "
            f"when matched then update set {', '.join(f'{name} = s.{name}' for name in COLUMNS)} "
            f"when not matched then insert ({', '.join(COLUMNS)}) values ({', '.join(f's.{name}' for name in COLUMNS)})"
        )

    def duplicates(self, game_date):
        """Count keys that stand more than once, after the commit."""
        ((found,),) = self._client.query_and_wait(
            f"select count(*) from (select 1 from {TABLE} s where s.game_date = date '{game_date}' "
            f"group by s.game_id, s.player_lookup, s.system_id, s.current_points_line having count(*) > 1) d"
        )
        return found
