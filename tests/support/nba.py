"""The app of ``apps/nba_props`` as its callers use it: importable, with predictions made by the demo's generator."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "apps/nba_props"
sys.path[:0] = [str(APP), str(ROOT)]

from demo.predictions import make_batch  # noqa: E402 -- the paths come first
from predictions import settings  # noqa: E402
from predictions.log_lines import IncidentLines  # noqa: E402
from predictions.worker.batch_staging_writer import BatchConsolidator, BatchStagingWriter  # noqa: E402
from predictions.worker.distributed_lock import ConsolidationLock  # noqa: E402

__all__ = ["APP", "BATCH", "DATE", "ROOT", "IncidentLines", "Platform", "rows_of", "settings"]

DATE = "2026-01-17"
BATCH = "20260117_120000"


def rows_of(count=40, *, day=DATE, number=0):
    """Return predictions of one date, each of a business key of its own, made by the demo's generator."""
    rows = sorted((row for part in make_batch(number) for row in part), key=lambda row: row["prediction_id"])
    return [{**row, "game_date": day} for row in rows[:count]]


@dataclass
class Platform:
    """A project of the app, with the client that its callers have."""

    project_id: str
    client: object = None

    @property
    def writer(self):
        return BatchStagingWriter(self.client, self.project_id)

    @property
    def consolidator(self):
        return BatchConsolidator(self.client, self.project_id)

    @property
    def lock(self):
        return ConsolidationLock(self.project_id)

    def stage(self, rows, *, batch=BATCH, worker="worker_1"):
        return self.writer.write_to_staging(rows, batch_id=batch, worker_id=worker)

    def consolidate(self, batch=BATCH, day=DATE, **options):
        return self.consolidator.consolidate_batch(batch, day, **options)

    def states(self, batch=BATCH):
        """Return the state of each part of a batch."""
        with settings.open_store(self.project_id) as store:
            view = store.batches.batch(store.table(settings.TABLE), batch)
            return [part.manifest.state for part in view.parts]
